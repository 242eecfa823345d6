package web

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"example.com/predserver/gateway/internal/testkit"
)

func TestPathsAndMethods(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	g := startGateway(t, address)
	tests := []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/healthz", 200, ""},
		{"GET", "/readyz", 200, ""},
		{"GET", "/predict", 405, "POST"},
		{"PUT", "/predict", 405, "POST"},
		{"POST", "/healthz", 405, "GET, HEAD"},
		{"DELETE", "/readyz", 405, "GET, HEAD"},
		{"GET", "/", 200, ""},
		{"DELETE", "/", 405, "GET, HEAD, POST"},
		{"POST", "/models", 405, "GET, HEAD"},
		{"POST", "/models/sum", 405, "GET, HEAD"},
		{"PUT", "/openapi.json", 405, "GET, HEAD"},
		{"GET", "/models/", 404, ""},
		{"GET", "/models/a/b/c", 404, ""},
		{"GET", "/favicon.ico", 404, ""},
		{"POST", "/predict/", 404, ""},
		{"POST", "//predict", 404, ""},
		{"GET", "//", 404, ""},
		{"POST", "/Predict", 404, ""},
		{"POST", "/<script>", 404, ""},
	}
	for _, test := range tests {
		t.Run(test.method+" "+test.path, func(t *testing.T) {
			r := g.Do(t, test.method, test.path, nil)
			switch test.status {
			case 404:
				testkit.WantError(t, r, 404, "NOT_FOUND", "/predict")
			case 405:
				testkit.WantError(t, r, 405, "UNIMPLEMENTED", test.allow)
			default:
				if r.Status != test.status {
					t.Errorf("got %d %s", r.Status, r.Body)
				}
			}
			if got := r.Header.Get("Allow"); got != test.allow {
				t.Errorf("Allow %q, want %q", got, test.allow)
			}
		})
	}
	conn := g.Dial(t)
	conn.Write([]byte("GET * HTTP/1.1\r\nHost: localhost\r\n\r\n"))
	reply := make([]byte, 12)
	if _, err := io.ReadFull(conn, reply); err != nil || string(reply) != "HTTP/1.1 404" {
		t.Errorf("*: %q %v", reply, err)
	}
	if r := g.Do(t, "HEAD", "/healthz", nil); r.Status != 200 || r.Body != "" {
		t.Errorf("HEAD: got %d %q", r.Status, r.Body)
	}
}

func TestRequestIDs(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	g := startGateway(t, address)
	for _, good := range []string{"a", "7f3b-1 {\"}", strings.Repeat("x", 128)} {
		if got := g.Post(t, "x", "X-Request-Id: "+good).Header.Get("X-Request-Id"); got != good {
			t.Errorf("%q became %q", good, got)
		}
	}
	seen := map[string]bool{}
	for _, bad := range []string{"", strings.Repeat("x", 129), "é", "a\tb"} {
		got := g.Post(t, "x", "X-Request-Id: "+bad).Header.Get("X-Request-Id")
		if got == bad || got == "" || seen[got] {
			t.Errorf("%q became %q", bad, got)
		}
		seen[got] = true
	}
}

func TestPanicIsAnError(t *testing.T) {
	s, log := newHandler(t, testkit.DeadAddress(t))

	w := httptest.NewRecorder()
	s.handle(func(*http.Request, *http.ResponseController) (answer, error) { panic("a secret") }).
		ServeHTTP(w, httptest.NewRequest("POST", "/predict", nil))
	r := testkit.Response{Status: w.Code, Header: w.Header(), Body: w.Body.String()}
	testkit.WantError(t, r, 500, "INTERNAL", "The gateway failed")
	if strings.Contains(r.Body, "secret") || !strings.Contains(log.String(), "panic: a secret") || !strings.Contains(log.String(), "handler_test.go") {
		t.Errorf("body %s\nlog %s", r.Body, log)
	}

	w = httptest.NewRecorder()
	func() {
		defer func() {
			if p := recover(); p != http.ErrAbortHandler {
				t.Errorf("the reply is not aborted: %v", p)
			}
		}()
		s.handle(func(*http.Request, *http.ResponseController) (answer, error) {
			return answer{stream: func(io.Writer) (http.Header, error) { panic("too late for another status") }}, nil
		}).ServeHTTP(w, httptest.NewRequest("POST", "/predict", nil))
	}()
	if w.Code != 200 || w.Body.Len() != 0 || !strings.Contains(log.String(), "too late") || !strings.Contains(log.String(), `"aborted":true`) {
		t.Errorf("got %d %q\nlog %s", w.Code, w.Body, log)
	}
}

func TestOneLineInTheLogForEachRequest(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Constant("p\n1\n"))
	g := startGateway(t, address)
	g.Post(t, "x\n1\n", "X-Request-Id: first")
	g.Do(t, "GET", "/nowhere", nil, "X-Request-Id: second")
	testkit.Eventually(t, "two lines", func() bool { return strings.Count(g.Log.String(), "\n") == 2 })

	lines := strings.Split(g.Log.String(), "\n")
	wants := []map[string]any{
		{"level": "INFO", "msg": "request", "request_id": "first", "method": "POST", "path": "/predict", "status": 200.0, "bytes": 4.0},
		{"level": "INFO", "request_id": "second", "status": 404.0, "code": "NOT_FOUND"},
	}
	for i, want := range wants {
		var line map[string]any
		if err := json.Unmarshal([]byte(lines[i]), &line); err != nil {
			t.Fatal(err)
		}
		for key, value := range want {
			if line[key] != value {
				t.Errorf("line %d: %s is %v, want %v", i+1, key, line[key], value)
			}
		}
		if _, ok := line["duration_ms"].(float64); !ok {
			t.Errorf("line %d has no duration: %v", i+1, line)
		}
	}
}

func TestTimeoutsAreSet(t *testing.T) {
	s, _ := newHandler(t, testkit.DeadAddress(t), "-timeout=2m", "-read-timeout=1m", "-write-timeout=3s")
	c := s.options
	web := c.Server(s, s.log)
	for name, d := range map[string]time.Duration{
		"header": web.ReadHeaderTimeout, "read": web.ReadTimeout, "write": web.WriteTimeout, "idle": web.IdleTimeout,
	} {
		if d <= 0 {
			t.Errorf("%s: no timeout", name)
		}
	}
	if web.WriteTimeout < c.ReadTimeout+c.Timeout {
		t.Errorf("a reply after %v is cut at %v", c.ReadTimeout+c.Timeout, web.WriteTimeout)
	}
	if web.MaxHeaderBytes <= 0 {
		t.Error("no limit of the header")
	}
}

func TestHeaderThatIsTooLarge(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	g := startGateway(t, address, "-max-header-bytes=1024")
	if r := g.Post(t, "x", "A: "+strings.Repeat("x", 10_000)); r.Status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %d", r.Status)
	}
}

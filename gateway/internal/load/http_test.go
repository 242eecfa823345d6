package load

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func posting(t *testing.T, server *httptest.Server) connection {
	t.Helper()
	return connection{
		Name: "a", Address: strings.TrimPrefix(server.URL, "http://"), Path: "/predict", ContentType: "text/csv",
		Messages: [][]byte{[]byte("x,y\n1,2\n")}, Connections: 2, TimeoutS: hang.Seconds(),
	}
}

func listen(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

func TestPostsArriveAsTheyAre(t *testing.T) {
	var connections, calls atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path != "/predict" || r.Header.Get("Content-Type") != "text/csv" || string(body) != "x,y\n1,2\n" {
			t.Errorf("%s, %s, %q", r.URL, r.Header, body)
		}
		w.Header().Set("Server-Timing", "decode;dur=1")
		io.WriteString(w, "0\n")
		w.(http.Flusher).Flush() // in chunks
		io.WriteString(w, "3\n")
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	r := segment{Calls: 20, Callers: 5}.drive(made(t, posting(t, server)))
	for i := range 20 {
		if r.Code[i] != ok || r.ReplyBytes[i] != 4 || r.Timing[i] != "decode;dur=1" {
			t.Fatalf("%s, %d bytes, %q", r.Code[i], r.ReplyBytes[i], r.Timing[i])
		}
	}
	if calls.Load() != 20 || connections.Load() != 2 || r.Redials != 0 {
		t.Errorf("%d calls over %d connections, %d redials", calls.Load(), connections.Load(), r.Redials)
	}
}

func TestStatusesOfHTTPAreCodes(t *testing.T) {
	var calls atomic.Int64
	server := listen(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		io.Copy(io.Discard, r.Body) // or the handler does not hear that the caller is gone
		switch r.URL.Path {
		case "/slow":
			<-r.Context().Done()
		case "/cut":
			connection, _, _ := w.(http.Hijacker).Hijack()
			connection.Close()
		default:
			http.Error(w, "a bad table", http.StatusUnprocessableEntity)
		}
	})
	for path, want := range map[string]string{"/bad": "HTTP 422", "/slow": deadlineExceeded, "/cut": unavailable} {
		c := posting(t, server)
		c.Path, c.Connections = path, 1
		if path == "/slow" {
			c.TimeoutS = 0.02
		}
		calls.Store(0)
		r := segment{Calls: 2, Callers: 1}.drive(made(t, c))
		if !slices.Equal(r.Code, []string{want, want}) {
			t.Errorf("%s: %v", path, r.Code)
		}
		if calls.Load() != 2 {
			t.Errorf("%s: 2 calls were sent %d times", path, calls.Load())
		}
	}
	gone := posting(t, listen(t, nil))
	gone.Address = "127.0.0.1:1"
	if r := (segment{Calls: 1, Callers: 1}).drive(made(t, gone)); r.Code[0] != unavailable {
		t.Errorf("nobody there: %v", r.Code)
	}
}

func TestAConnectionThatTheServerClosedIsMadeAnewAndCounted(t *testing.T) {
	server := listen(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "3\n") })
	c := posting(t, server)
	c.Connections = 1
	called := made(t, c)
	closes := func() {
		server.CloseClientConnections()
		idle := called.(*httpTarget).idle[0]
		for start := time.Now(); !idle.lost() && time.Since(start) < hang; {
			time.Sleep(time.Millisecond) // until the end of the connection has come here
		}
	}
	closes()
	if r := (segment{Calls: 1, Callers: 1}).drive(called); r.Code[0] != ok || r.Redials != 0 {
		t.Errorf("before a segment: %v, %d redials", r.Code, r.Redials)
	}
	if r := (segment{Calls: 3, Callers: 1}).drive(before{called, closes}); r.Code[2] != ok || r.Redials != 3 {
		t.Errorf("within a segment: %v, %d redials", r.Code, r.Redials)
	}
}

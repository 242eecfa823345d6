package web

import (
	"html"
	"net/http"
	"strings"
	"testing"

	"example.com/predserver/gateway/internal/testkit"
)

// startClosed serves with a token that it knows.
func startClosed(t *testing.T, healthToken bool) *testkit.Gateway {
	t.Helper()
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	h, log := newHandler(t, address)
	options := h.options
	options.HealthToken, options.Page = healthToken, true
	options.Authorize = func(token string) (string, bool) { return "web-team", token == "the-right-token" }
	return serveHandler(t, New(h.client, options, h.log), log)
}

func TestTokensOfRequests(t *testing.T) {
	gateway := startClosed(t, false)
	const missing, wrong = "asks for a token", "none of the gateway's"
	for _, c := range []struct{ header, sentence string }{
		{"", missing},
		{"Authorization: Basic dTpw", missing},
		{"Authorization: the-right-token", missing},
		{"Authorization: Bearer", wrong},
		{"Authorization: Bearer the-wrong-token", wrong},
		{"Authorization: Bearer the-right-toke", wrong},
		{"Authorization: Bearer the-right-token2", wrong},
	} {
		r := gateway.Post(t, "x\n1\n", c.header)
		testkit.WantError(t, r, http.StatusUnauthorized, "UNAUTHENTICATED", c.sentence)
		challenge := r.Header.Get("WWW-Authenticate")
		if !strings.HasPrefix(challenge, "Bearer") || strings.Contains(challenge, "invalid_token") != (c.sentence == wrong) {
			t.Errorf("%s: the challenge is %q", c.header, challenge)
		}
	}
	for _, header := range []string{"Authorization: Bearer the-right-token", "Authorization: bearer  the-right-token"} {
		if r := gateway.Post(t, "x\n1\n", header); r.Status != http.StatusOK || r.Body != "x\n1\n" {
			t.Errorf("%s: %d %s", header, r.Status, r.Body)
		}
	}
	if log := gateway.Log.String(); strings.Count(log, `"caller":"web-team"`) != 2 || strings.Contains(log, "the-right-token") {
		t.Error(log)
	}
}

func TestWhatIsClosed(t *testing.T) {
	gateway, closed := startClosed(t, false), startClosed(t, true)
	for path, open := range map[string]bool{
		"/healthz": true, "/readyz": true, "/predict": false, "/nothing": false,
		"/": false, "//": false, "/models": false, "/models/a": false, "/models/a/1": false, "/openapi.json": false,
	} {
		for _, method := range []string{"GET", "DELETE"} {
			if r := gateway.Do(t, method, path, nil); (r.Status != http.StatusUnauthorized) != open {
				t.Errorf("%s %s: %d", method, path, r.Status)
			}
			if r := closed.Do(t, method, path, nil); r.Status != http.StatusUnauthorized {
				t.Errorf("%s %s, closed: %d", method, path, r.Status)
			}
		}
		if r := closed.Do(t, "GET", path, nil, "Authorization: Bearer the-right-token"); r.Status == http.StatusUnauthorized {
			t.Errorf("%s with the token: %d", path, r.Status)
		}
	}
}

func TestThePageSaysWhereATokenGoes(t *testing.T) {
	gateway := startClosed(t, false)
	const token = "Authorization: Bearer the-right-token"
	wantPage(t, gateway.Do(t, "GET", "/", nil, token), 200, html.EscapeString("/predict -H 'Authorization: Bearer TOKEN' -H "))
	if r := gateway.Do(t, "GET", "/openapi.json", nil, token); r.Status != 200 || !strings.Contains(r.Body, `"scheme": "bearer"`) {
		t.Errorf("%d %s", r.Status, r.Body)
	}
}

func TestALargeBodyWithoutATokenGetsItsAnswer(t *testing.T) {
	gateway := startClosed(t, false)
	r := gateway.Post(t, "x\n"+strings.Repeat("1234567\n", 1<<20))
	testkit.WantError(t, r, http.StatusUnauthorized, "UNAUTHENTICATED", "asks for a token")
}

func TestTwoTokensAreNone(t *testing.T) {
	conn := startClosed(t, false).Dial(t)
	line := "Authorization: Bearer the-right-token\r\n"
	conn.Write([]byte("POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n" + line + line + "\r\n"))
	reply := make([]byte, 12)
	if _, err := conn.Read(reply); err != nil || string(reply) != "HTTP/1.1 401" {
		t.Errorf("%q %v", reply, err)
	}
}

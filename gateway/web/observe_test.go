package web

import (
	"sync"
	"testing"

	"example.com/predserver/gateway/internal/testkit"
)

func TestRoutesAreThoseOfTheGatewayAlone(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	h, log := newHandler(t, address)
	var lock sync.Mutex
	var routes []string
	options := h.options
	options.Page = true
	options.Observe = func(ended Ended) {
		lock.Lock()
		defer lock.Unlock()
		routes = append(routes, ended.Route)
	}
	gateway := serveHandler(t, New(h.client, options, h.log), log)
	for _, c := range []struct{ method, path, route string }{
		{"GET", "/", "/"},
		{"DELETE", "/", "/"},
		{"POST", "/predict", "/predict"},
		{"GET", "/predict", "/predict"},
		{"GET", "/healthz", "/healthz"},
		{"GET", "/models", "/models"},
		{"GET", "/models/made-up", "/models/{name}"},
		{"GET", "/models/made-up/7", "/models/{name}/{version}"},
		{"GET", "/openapi.json", "/openapi.json"},
		{"GET", "/made-up", "other"},
		{"DELETE", "/predict/more", "other"},
	} {
		gateway.Do(t, c.method, c.path, nil)
		lock.Lock()
		if got := routes[len(routes)-1]; got != c.route {
			t.Errorf("%s %s is counted as %q, not %q", c.method, c.path, got, c.route)
		}
		lock.Unlock()
	}
}

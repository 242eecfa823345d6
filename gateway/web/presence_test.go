package web

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/predserver/gateway/internal/testkit"
)

// A client that closes the side that it sends on still listens. While its answer takes long it may be sent what means
// nothing; whoever speaks HTTP does not see it.
func TestHalfClosedClientsGetTheirAnswers(t *testing.T) {
	const slow = 2500 * time.Millisecond // longer than the gateway takes such a client to listen without a question
	pause := func(table string) {
		if strings.Contains(table, "7") {
			time.Sleep(slow)
		}
	}
	address := startBoth(t, func(_ context.Context, table string) (string, error) {
		pause(table)
		return table, nil
	}, chunkwise(func(chunk int, table string) (string, error) {
		if chunk == 3 {
			pause(table)
		}
		return table, nil
	}))
	g := startGateway(t, address, "-chunk-bytes=100")
	for _, test := range []struct{ name, body string }{
		{"at once", "x\n1\n"}, {"slowly", "x\n7\n"}, {"a stream", numbers(100)},
	} {
		for _, proto := range []string{"1.1", "1.0"} {
			t.Run(test.name+" "+proto, func(t *testing.T) {
				t.Parallel()
				for range 5 {
					conn := g.Dial(t).(*net.TCPConn)
					fmt.Fprintf(conn, "POST /predict HTTP/%s\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", proto, len(test.body), test.body)
					conn.CloseWrite()
					reader := bufio.NewReader(conn)
					reply, err := http.ReadResponse(reader, nil)
					for err == nil && reply.StatusCode == 100 {
						reply, err = http.ReadResponse(reader, nil)
					}
					if err != nil {
						t.Fatal(err)
					}
					if text, err := io.ReadAll(reply.Body); err != nil || reply.StatusCode != 200 || string(text) != test.body {
						t.Fatalf("got %d %.100q, %v", reply.StatusCode, text, err)
					}
				}
			})
		}
	}
}

func TestHostsAndOrigins(t *testing.T) {
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Echo)
	g := startGateway(t, address, "-allow-host=Predictions.example.com,other")
	port := g.URL[strings.LastIndexByte(g.URL, ':'):]
	tests := []struct {
		headers   []string
		status    int
		inMessage string
	}{
		{[]string{"Host: localhost"}, 200, ""},
		{[]string{"Host: LOCALHOST" + port}, 200, ""},
		{[]string{"Host: localhost."}, 200, ""},
		{[]string{"Host: app.localhost:1"}, 200, ""},
		{[]string{"Host: 127.0.0.1:80"}, 200, ""},
		{[]string{"Host: 127.9.9.9"}, 200, ""},
		{[]string{"Host: [::1]:8080"}, 200, ""},
		{[]string{"Host: [::ffff:127.0.0.1]"}, 200, ""},
		{[]string{"Host: predictions.example.com:8443"}, 200, ""},
		{[]string{"Host: OTHER"}, 200, ""},
		{[]string{"Host: evil.example"}, 421, "-allow-host evil.example"},
		{[]string{"Host: evil.example" + port}, 421, "evil.example"},
		{[]string{"Host: localhost.evil.example"}, 421, ""},
		{[]string{"Host: 127.0.0.1.evil.example"}, 421, ""},
		{[]string{"Host: notlocalhost"}, 421, ""},
		{[]string{"Host: 192.0.2.1"}, 421, ""}, // the gateway listens on loopback alone
		{[]string{"Host: evil.example", "Origin: http://evil.example", "Sec-Fetch-Site: same-origin"}, 421, ""},
		{[]string{"Sec-Fetch-Site: cross-site"}, 403, "another site"},
		{[]string{"Sec-Fetch-Site: same-site", "Origin: http://localhost:3000"}, 403, "localhost:3000"},
		{[]string{"Sec-Fetch-Site: same-origin", "Origin: http://localhost"}, 200, ""},
		{[]string{"Sec-Fetch-Site: none"}, 200, ""},
		{[]string{"Origin: http://evil.example"}, 403, "evil.example"},
		{[]string{"Origin: null"}, 403, "another site"},
		{[]string{"Host: localhost" + port, "Origin: http://localhost" + port}, 200, ""},
	}
	for _, kind := range []string{"text/plain", "text/csv", mediaForm} {
		for _, test := range tests {
			t.Run(kind+" "+strings.Join(test.headers, " "), func(t *testing.T) {
				r := g.Post(t, "x\n1\n", append([]string{"Content-Type: " + kind}, test.headers...)...)
				if test.status == 200 {
					if r.Status != 200 {
						t.Errorf("got %d %s", r.Status, r.Body)
					}
					return
				}
				testkit.WantError(t, r, test.status, "PERMISSION_DENIED", test.inMessage)
			})
		}
	}
	if r := g.Do(t, "GET", "/healthz", nil, "Host: balancer.example"); r.Status != 200 {
		t.Errorf("healthz: got %d", r.Status)
	}
	if r := startGateway(t, address, "-allow-host=*").Post(t, "x\n1\n", "Host: any.example"); r.Status != 200 {
		t.Errorf("any host: got %d", r.Status)
	}
}

// On a network the gateway may be reached by addresses that it does not know, and no name resolves to a Host like these.
func TestAddressesAreHostsOnANetwork(t *testing.T) {
	g := newGuard(nil)
	network := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 80}
	for host, want := range map[string]bool{
		"192.0.2.7:80": true, "203.0.113.9": true, "[2001:db8::1]:80": true, "localhost": true, "": true,
		"evil.example": false, "192.0.2.7.evil.example": false, "0x7f.1": false,
	} {
		if got := g.takes(hostName(host), network); got != want {
			t.Errorf("%s: got %v", host, got)
		}
	}
}

func FuzzHostName(f *testing.F) {
	for _, host := range []string{"localhost:1", "[::1]:80", "evil.example.", "[", "a:b:c", ""} {
		f.Add(host)
	}
	g := newGuard(nil)
	f.Fuzz(func(t *testing.T, host string) {
		name := hostName(host)
		taken := g.takes(name, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if ip := net.ParseIP(name); taken && name != "" && name != "localhost" && !strings.HasSuffix(name, ".localhost") && !ip.IsLoopback() {
			// netip also knows zones, which no name has.
			if base, _, ok := strings.Cut(name, "%"); !ok || !net.ParseIP(base).IsLoopback() {
				t.Fatalf("%q is taken", host)
			}
		}
	})
}

package web

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"google.golang.org/grpc/codes"

	"example.com/predserver/gateway/internal/problem"
)

// guard refuses what a page of another site makes a browser send. A browser on this machine reaches addresses that nobody
// outside does; a page that it shows may post to them, by a form or a script (Sec-Fetch-Site and Origin say so), or have
// its own name resolve to one of them (then Host is that name).
type guard struct {
	names   map[string]bool // in lower case
	anyHost bool
	origins *http.CrossOriginProtection
}

// newGuard returns a guard that takes these names as Host, beside those of this machine. "*" stands for all.
func newGuard(names []string) guard {
	g := guard{names: map[string]bool{"localhost": true}, origins: http.NewCrossOriginProtection()}
	for _, name := range names {
		g.names[strings.ToLower(name)] = true
		g.anyHost = g.anyHost || name == "*"
	}
	return g
}

// check returns an error for a request that no client of ours sends.
func (g guard) check(r *http.Request) error {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if host := hostName(r.Host); !g.takes(host, local) {
		return problem.Refusal(http.StatusMisdirectedRequest, codes.PermissionDenied,
			"The gateway does not answer to the host %s; call it 127.0.0.1 or localhost, or start it with -allow-host %s.",
			problem.Clip(host), strings.Trim(problem.Clip(host), `"`))
	}
	if g.origins.Check(r) != nil {
		return problem.Refusal(http.StatusForbidden, codes.PermissionDenied,
			"A page of another site may not post to the gateway (Origin is %s, Sec-Fetch-Site %s); send the table from a program, "+
				"or from a page at the gateway's own address.", problem.Clip(r.Header.Get("Origin")), problem.Clip(r.Header.Get("Sec-Fetch-Site")))
	}
	return nil
}

// takes reports whether a host, without its port, is one of the gateway's. No DNS name can be made to resolve to a host
// that is an address; so on a network all of these are taken: the gateway may be reached by those of routers and containers.
func (g guard) takes(host string, local net.Addr) bool {
	if host == "" || g.anyHost || g.names[host] || strings.HasSuffix(host, ".localhost") {
		return true // browsers always name a host, and look for names under localhost on their own machine alone
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	tcp, ok := local.(*net.TCPAddr)
	return address.Unmap().IsLoopback() || ok && !tcp.IP.IsLoopback()
}

// hostName returns the name or the address of a Host header, in lower case.
func hostName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

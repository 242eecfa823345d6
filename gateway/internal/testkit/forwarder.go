package testkit

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
)

// Forwarder leads connections to a server, and later ones to another, as load balancers do.
type Forwarder struct {
	Address string
	target  atomic.Value
}

// StartForwarder forwards to target until the test ends.
func StartForwarder(t *testing.T, target string) *Forwarder {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	f := &Forwarder{Address: listener.Addr().String()}
	f.Lead(target)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go f.forward(conn)
		}
	}()
	return f
}

// Lead has connections from now on go to target; those that there are stay where they are.
func (f *Forwarder) Lead(target string) { f.target.Store(target) }

func (f *Forwarder) forward(conn net.Conn) {
	defer conn.Close()
	server, err := net.Dial("tcp", f.target.Load().(string))
	if err != nil {
		return
	}
	defer server.Close()
	ended := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{conn, server}, {server, conn}} {
		go func() {
			io.Copy(pair[0], pair[1])
			ended <- struct{}{}
		}()
	}
	<-ended
}

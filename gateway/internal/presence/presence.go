// Package presence tells a client that has no more to say from one that is gone.
//
// Both close their side of the connection, and net/http takes both for gone. But a client may close the side that it
// sends on, and still listen: `nc -N` and many hand-written clients do. The two differ in one thing only: a machine whose
// program is gone answers whatever it is sent with a reset. So a client that has closed its side, and whose answer takes
// long, is sent something that means nothing: "100 Continue" before the reply, and within a stream a zero in front of the
// next chunk's size. If that fails, it is gone.
package presence

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// patience is how long a client that has closed its side is taken to listen without a question. Most answers come sooner.
const patience = time.Second

// settle is how long the answer to a question may take: a reset from the other machine.
const settle = 50 * time.Millisecond

// most is how often a client is asked before the next chunk: the size of a chunk may have 16 digits, zeros included.
const most = 6

// ErrGone is why a context of Watch ended: the client is gone.
var ErrGone = errors.New("the client went away")

type key struct{}

// Connection remembers a server's connection for Watch. It is for http.Server's ConnContext.
func Connection(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, key{}, conn)
}

// What means nothing to a client, by how far its reply has come.
const (
	beforeReply = "HTTP/1.1 100 Continue\r\n\r\n"
	inChunks    = "0" // in front of the size of the next chunk
)

// Client is the client of one request.
type Client struct {
	conn   net.Conn // nil if it cannot be asked
	cancel context.CancelCauseFunc
	ended  chan struct{}
	unhook func() bool

	mu    sync.Mutex
	noise string // what may be sent at present; "" is nothing
	asked int    // how often it was sent
}

// Watch returns a context like the request's, but for one thing: it goes on while a client that has closed its side still
// listens. Quiet must be called before anything is written, and Stop at the end.
func Watch(r *http.Request) (context.Context, *Client) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(r.Context()))
	c := &Client{cancel: cancel, ended: make(chan struct{})}
	c.conn, _ = r.Context().Value(key{}).(net.Conn)
	if r.ProtoMajor == 1 && r.ProtoMinor == 1 {
		c.noise = beforeReply
	}
	c.unhook = context.AfterFunc(r.Context(), c.watch)
	return ctx, c
}

// Quiet returns once nothing is being sent to the client, nor will be.
func (c *Client) Quiet() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noise = ""
}

// BetweenChunks says that all of a chunked reply so far is written and flushed.
func (c *Client) BetweenChunks() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noise, c.asked = inChunks, 0
}

// Stop ends the watch, and the context. It may be called once.
func (c *Client) Stop() {
	c.unhook()
	c.Quiet()
	close(c.ended)
	c.cancel(context.Canceled)
}

// watch begins when the client has closed its side, or its connection is broken.
func (c *Client) watch() {
	if c.conn == nil {
		c.cancel(ErrGone)
		return
	}
	for wait := patience; ; {
		select {
		case <-c.ended:
			return
		case <-time.After(wait):
		}
		if !c.listens() {
			c.cancel(ErrGone)
			return
		}
		// A question that follows another one fails if the first was answered by a reset.
		if wait == patience {
			wait = settle
		} else {
			wait = patience
		}
	}
}

// listens reports whether the client may still be there.
func (c *Client) listens() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.noise == "" || c.noise == inChunks && c.asked == most {
		return true
	}
	c.asked++
	_, err := c.conn.Write([]byte(c.noise))
	return err == nil
}

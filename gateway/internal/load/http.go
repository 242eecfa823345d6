package load

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// httpTarget posts to an HTTP/1.1 server over at most so many connections; a call waits until one is free.
//
// It writes requests by itself: net/http's client sends some of them again by itself, and takes two more goroutines for
// each connection.
type httpTarget struct {
	connection
	head     []byte
	tokens   chan struct{} // one for each connection in idle
	mutex    sync.Mutex
	idle     []*httpConn // the last one in is the first one out: the others may grow old
	redialed atomic.Int64
}

// httpConn is a connection, or the place of one: then Conn is nil.
type httpConn struct {
	net.Conn
	reader *bufio.Reader
}

var post = &http.Request{Method: http.MethodPost}

func newHTTP(c connection) *httpTarget {
	var head bytes.Buffer
	fmt.Fprintf(&head, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nAccept: */*\r\n",
		c.Path, c.Address, c.ContentType, len(c.Messages[0]))
	for _, pair := range c.Metadata {
		fmt.Fprintf(&head, "%s: %s\r\n", pair[0], pair[1])
	}
	head.WriteString("\r\n")
	t := &httpTarget{connection: c, head: head.Bytes(), tokens: make(chan struct{}, c.Connections)}
	for range c.Connections {
		t.put(&httpConn{})
	}
	t.renew()
	return t
}

func (t *httpTarget) renew() {
	for _, connection := range t.idle { // all of them are, between segments
		if connection.lost() {
			connection.dial(t.Address, dialTimeout) // an error is the next call's to meet
		}
	}
}

func (t *httpTarget) take() *httpConn {
	<-t.tokens
	t.mutex.Lock()
	defer t.mutex.Unlock()
	last := len(t.idle) - 1
	taken := t.idle[last]
	t.idle = t.idle[:last]
	return taken
}

func (t *httpTarget) put(connection *httpConn) {
	t.mutex.Lock()
	t.idle = append(t.idle, connection)
	t.mutex.Unlock()
	t.tokens <- struct{}{}
}

func (t *httpTarget) call(int, func() int64) outcome {
	deadline := time.Now().Add(t.timeout())
	connection := t.take()
	defer t.put(connection)
	// A server may close a connection that it has not heard from, as uvicorn does after five seconds. Nothing was sent yet.
	if connection.lost() {
		t.redialed.Add(1)
		if err := connection.dial(t.Address, time.Until(deadline)); err != nil {
			return outcome{code: failed(err)}
		}
	}
	connection.SetDeadline(deadline)
	o, keep, err := connection.exchange(net.Buffers{t.head, t.Messages[0]})
	if err != nil {
		o.code = failed(err)
	}
	if !keep {
		connection.hangUp() // a late reply must not be taken for that of another call
	}
	return o
}

func (t *httpTarget) redials() int64 { return t.redialed.Load() }

func (t *httpTarget) close() {
	for _, connection := range t.idle {
		connection.hangUp()
	}
}

// exchange sends a request and reads the whole reply. keep says whether the connection can be used again.
func (c *httpConn) exchange(request net.Buffers) (o outcome, keep bool, err error) {
	if _, err := request.WriteTo(c.Conn); err != nil { // in one piece, without copying it
		return o, false, err
	}
	reply, err := http.ReadResponse(c.reader, post)
	if err != nil {
		return o, false, err
	}
	n, err := io.Copy(io.Discard, reply.Body)
	reply.Body.Close()
	o = outcome{code: ok, replyBytes: int(n), timing: reply.Header.Get("Server-Timing")}
	if reply.StatusCode < 200 || reply.StatusCode > 299 {
		o.code = fmt.Sprintf("HTTP %d", reply.StatusCode)
	}
	return o, err == nil && !reply.Close, err
}

func (c *httpConn) dial(address string, timeout time.Duration) error {
	c.hangUp()
	made, err := net.DialTimeout("tcp", address, timeout) // Go sets TCP_NODELAY
	if err != nil {
		return err
	}
	c.Conn, c.reader = made, bufio.NewReaderSize(made, 64<<10)
	return nil
}

// lost reports whether there is no connection, or the server has closed it.
func (c *httpConn) lost() bool { return c.Conn == nil || closedByPeer(c.Conn) }

func (c *httpConn) hangUp() {
	if c.Conn != nil {
		c.Close()
		c.Conn = nil
	}
}

func failed(err error) string {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return deadlineExceeded
	}
	if timeout, is := errors.AsType[net.Error](err); is && timeout.Timeout() {
		return deadlineExceeded
	}
	return unavailable
}

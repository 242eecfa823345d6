// Package budget bounds what all requests take together: the bytes that they hold, and how many are at work.
package budget

import (
	"net/http"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"

	"example.com/predserver/gateway/internal/problem"
	"example.com/predserver/gateway/pred"
)

// SmallBytes is what a request may hold to count as small. An eighth of the budget is for small requests alone, so that
// large ones cannot keep them out.
const SmallBytes = 64 << 10

// retryAfter is when a refused client may come back, in seconds.
const retryAfter = 1

// Budget is how many bytes all requests may hold together. It counts what was received, not what was announced:
// a client that announces much and sends nothing takes nothing from the others.
type Budget struct {
	most int64
	held atomic.Int64
}

// New returns a budget of so many bytes.
func New(most int64) *Budget { return &Budget{most: most} }

// Held returns how many bytes are held at present.
func (b *Budget) Held() int64 { return b.held.Load() }

// room returns how much all requests together may hold after one took more bytes, and then has so many of its own.
func (b *Budget) room(own int64) int64 {
	if own <= SmallBytes {
		return b.most
	}
	return b.most - b.most/8
}

// Share is what one request holds. Several goroutines may use it.
type Share struct {
	budget *Budget

	mu     sync.Mutex
	held   int64
	closed bool // what comes later is not counted
}

// Share returns the share of a request that holds nothing yet.
func (b *Budget) Share() *Share { return &Share{budget: b} }

// Held returns how many bytes the share has.
func (s *Share) Held() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// Try takes so many bytes more, and reports whether there is room for them.
func (s *Share) Try(bytes int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return true
	}
	if s.budget.held.Add(bytes) > s.budget.room(s.held+bytes) {
		s.budget.held.Add(-bytes)
		return false
	}
	s.held += bytes
	return true
}

// Grow takes so many bytes more. The error says whether there will ever be room for them.
func (s *Share) Grow(bytes int64) error {
	if s.Try(bytes) {
		return nil
	}
	if own := s.Held() + bytes; own > s.budget.room(own) {
		e := problem.Refusal(http.StatusRequestEntityTooLarge, codes.ResourceExhausted,
			"This table takes more than the %d bytes that the gateway holds in all (-max-bytes-held); send fewer rows at a time.", s.budget.most)
		e.Name = pred.ReasonTooLarge
		return e
	}
	return Overloaded("The gateway holds as many bytes of other requests as it may (-max-bytes-held is %d); come back later.", s.budget.most)
}

// Must takes so many bytes more, whether there is room or not.
func (s *Share) Must(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.budget.held.Add(bytes)
		s.held += bytes
	}
}

// Free gives so many bytes back.
func (s *Share) Free(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bytes = min(bytes, s.held)
	s.held -= bytes
	s.budget.held.Add(-bytes)
}

// Close gives all bytes back. It may be called again.
func (s *Share) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.budget.held.Add(-s.held)
	s.held, s.closed = 0, true
}

// Slots is how many requests may be at work at the same time.
type Slots struct {
	most  int64
	taken atomic.Int64
}

// NewSlots returns so many slots.
func NewSlots(most int) *Slots { return &Slots{most: int64(most)} }

// Taken returns how many slots are taken at present.
func (s *Slots) Taken() int { return int(s.taken.Load()) }

// Take takes a slot, which release gives back; it may be called again.
func (s *Slots) Take() (release func(), err error) {
	if s.taken.Add(1) > s.most {
		s.taken.Add(-1)
		return nil, Overloaded("As many requests are at work as may be (-max-requests-in-flight is %d); come back later.", s.most)
	}
	var released atomic.Bool
	return func() {
		if !released.Swap(true) {
			s.taken.Add(-1)
		}
	}, nil
}

// Overloaded returns the error for a request that comes when too much is going on.
func Overloaded(format string, args ...any) *problem.Error {
	e := problem.Refusal(http.StatusTooManyRequests, codes.ResourceExhausted, format, args...)
	e.Name, e.RetryAfter = pred.ReasonOverloaded, retryAfter
	return e
}

package stream

import (
	"sync/atomic"
	"time"
)

// Support keeps whether the prediction server has PredictStream.
//
// That is found out by asking, with the first table that is worth a stream. Until then nothing of a table is read beyond
// its first chunk, so that it can still be sent as one message, which every server takes, also the article's. A yes is
// remembered until the server says otherwise: it allows the next tables to be read on at once. A no is remembered for
// some time only, since another server may come up at the address.
type Support struct {
	now     func() time.Time // time.Now, but in tests
	known   atomic.Bool
	without atomic.Int64 // until when, as Unix nanoseconds
}

// withoutFor is how long a server without PredictStream is not asked for it again.
const withoutFor = time.Minute

// NewSupport returns what is known before anything was asked.
func NewSupport() *Support {
	return &Support{now: time.Now}
}

// MayTry reports whether PredictStream is worth a try.
func (s *Support) MayTry() bool {
	return s.now().UnixNano() >= s.without.Load()
}

// Known reports whether the server is known to have PredictStream.
func (s *Support) Known() bool {
	return s.known.Load()
}

// Remember keeps whether the server has PredictStream.
func (s *Support) Remember(streams bool) {
	s.known.Store(streams)
	if !streams {
		s.without.Store(s.now().Add(withoutFor).UnixNano())
	}
}

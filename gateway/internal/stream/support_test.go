package stream

import (
	"testing"
	"time"
)

// Whether there are streams is asked once, but not for ever.
func TestServerWithoutStreamsIsAskedAgain(t *testing.T) {
	now := time.Unix(1_000, 0)
	s := NewSupport()
	s.now = func() time.Time { return now }
	if !s.MayTry() || s.Known() {
		t.Error("something is known before anything was asked")
	}
	s.Remember(true)
	if !s.MayTry() || !s.Known() {
		t.Error("a yes is not remembered")
	}
	s.Remember(false)
	now = now.Add(withoutFor - 1)
	if s.MayTry() || s.Known() {
		t.Error("a no is not remembered")
	}
	if now = now.Add(1); !s.MayTry() {
		t.Error("the server is never asked again")
	}
}

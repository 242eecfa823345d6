package budget

import (
	"errors"
	"sync"
	"testing"

	"example.com/predserver/gateway/internal/problem"
)

func status(err error) int {
	if e, ok := errors.AsType[*problem.Error](err); ok {
		return e.Status
	}
	return 0
}

func TestShares(t *testing.T) {
	const most = 8 << 20
	b := New(most)
	large, other, small := b.Share(), b.Share(), b.Share()
	if err := large.Grow(most - most/8); err != nil {
		t.Fatal(err)
	}
	if err := other.Grow(SmallBytes + 1); status(err) != 429 || other.Held() != 0 {
		t.Errorf("beside a large one: %v, holds %d", err, other.Held())
	}
	if err := small.Grow(SmallBytes); err != nil {
		t.Errorf("a small one has no room: %v", err)
	}
	if small.Try(1) {
		t.Error("what is small no more has the room of small ones")
	}
	large.Free(most / 2)
	if err := other.Grow(most); status(err) != 413 {
		t.Errorf("more than there will ever be: %v", err)
	}
	other.Must(most)
	for _, s := range []*Share{large, other, small} {
		s.Close()
		s.Close()
		if err := s.Grow(1); err != nil || s.Held() != 0 {
			t.Errorf("a closed share: %v, holds %d", err, s.Held())
		}
	}
	if b.Held() != 0 {
		t.Errorf("%d bytes are held by nobody", b.Held())
	}
}

func TestManySharesAtOnce(t *testing.T) {
	b, slots := New(1<<20), NewSlots(3)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 200 {
				s := b.Share()
				if s.Grow(100_000) == nil {
					if got := b.Held(); got > 1<<20 {
						t.Errorf("%d bytes are held", got)
					}
					s.Free(50_000)
				}
				if release, err := slots.Take(); err == nil {
					if got := slots.taken.Load(); got > 50 {
						t.Errorf("%d slots are taken", got)
					}
					release()
					release()
				} else if status(err) != 429 {
					t.Error(err)
				}
				s.Close()
			}
		})
	}
	all.Wait()
	if b.Held() != 0 || slots.taken.Load() != 0 {
		t.Errorf("%d bytes and %d slots are left", b.Held(), slots.taken.Load())
	}
}

package load

import (
	"math/rand/v2"
	"runtime"
	"time"
)

const (
	poisson  = "poisson"
	constant = "constant"
)

const (
	// spinFor is how long before its time a call is no longer slept for: an alarm comes some microseconds late.
	spinFor = 20 * time.Microsecond
	// idleTurn is the longest turn of spinning in which nothing else was done. In a longer one other goroutines ran.
	idleTurn = 2 * time.Microsecond
)

// schedule returns when to send each call, in nanoseconds from the start. The first comes after one gap, so it can be on
// time. Equal seeds make equal schedules.
func schedule(s segment) []int64 {
	random := rand.New(rand.NewPCG(s.Seed, 0))
	mean := 1e9 / s.RatePerS
	due, at := make([]int64, s.Calls), 0.0
	for i := range due {
		gap := mean
		if s.Arrivals == poisson {
			gap *= random.ExpFloat64()
		}
		at += gap
		due[i] = int64(at)
	}
	return due
}

// until sleeps, then spins, until it is time. It returns how long it spun while nothing else had to be done: that is no
// work, and must not look like saturation.
func (l *loop) until(dueNs int64, waiting alarm) (spun time.Duration) {
	now := l.now()
	for left := time.Duration(dueNs - now); left > spinFor; left = time.Duration(dueNs - now) {
		waiting.sleep(left - spinFor)
		now = l.now()
	}
	for now < dueNs {
		runtime.Gosched() // not a bare loop: who has an answer must not wait
		turn := l.now()
		if took := time.Duration(turn - now); took <= idleTurn {
			spun += took
		}
		now = turn
	}
	return spun
}

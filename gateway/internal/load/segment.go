package load

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// drive makes the calls of a segment.
func (s segment) drive(t target) report {
	t.renew()
	r := newReport(s.Calls)
	var due []int64
	if s.RatePerS > 0 {
		due = schedule(s)
	}
	redials := t.redials()
	runtime.GC() // what earlier segments left is not collected in this one
	cpu, start := cpuTime(), time.Now()
	l := loop{target: t, report: r, now: func() int64 { return int64(time.Since(start)) }}
	if due != nil {
		l.open(due)
	} else {
		l.closed(s.Calls, s.Callers)
	}
	elapsed := time.Since(start)
	cpu = cpuTime() - cpu
	r.CPUS, r.SpunS, r.ElapsedS = cpu.Seconds(), l.spun.Seconds(), elapsed.Seconds()
	r.Cores = runtime.NumCPU() // those that this process is pinned to
	r.BusyShare = busyShare(cpu-l.spun, elapsed, r.Cores)
	r.Redials = t.redials() - redials
	return *r
}

// busyShare returns which share of its cores' time a process has computed.
func busyShare(computed, elapsed time.Duration, cores int) float64 {
	return computed.Seconds() / (elapsed.Seconds() * float64(cores))
}

func newReport(calls int) *report {
	return &report{
		ScheduledNs: make([]int64, calls), SentNs: make([]int64, calls), FirstNs: make([]int64, calls),
		DoneNs: make([]int64, calls), Code: make([]string, calls), ReplyBytes: make([]int, calls),
		Timing: make([]string, calls),
	}
}

// loop is a segment under way.
type loop struct {
	target target
	report *report
	now    func() int64
	spun   time.Duration
}

// closed has each caller ask, wait for the answer, and ask again, until all calls are made.
func (l *loop) closed(calls, callers int) {
	var next atomic.Int64 // a caller takes the next number
	var running sync.WaitGroup
	for range callers {
		running.Go(func() {
			for number := int(next.Add(1)) - 1; number < calls; number = int(next.Add(1)) - 1 {
				l.call(number, unscheduled)
			}
		})
	}
	running.Wait()
}

// open makes each call when it is due, whether or not those before it were answered.
//
// Whoever has made sure that it is time lets another goroutine wait for the next call, and makes the call itself: no
// other goroutine must be woken between the moment and the call.
func (l *loop) open(due []int64) {
	waiting := newAlarm()
	defer waiting.close()
	var running sync.WaitGroup
	var take func(number int)
	take = func(number int) {
		l.spun += l.until(due[number], waiting)
		if number+1 < len(due) {
			running.Go(func() { take(number + 1) })
		}
		l.call(number, due[number])
	}
	running.Go(func() { take(0) })
	running.Wait()
}

// unscheduled is a call's time in a closed loop: it waits for its caller alone.
const unscheduled = -1

// call makes one call, and notes what became of it.
func (l *loop) call(number int, scheduledNs int64) {
	r := l.report
	sentNs := l.now()
	o := l.target.call(number, l.now)
	r.DoneNs[number] = l.now()
	if scheduledNs == unscheduled {
		scheduledNs = sentNs
	}
	r.ScheduledNs[number], r.SentNs[number], r.FirstNs[number] = scheduledNs, sentNs, o.firstNs
	r.Code[number], r.ReplyBytes[number], r.Timing[number] = o.code, o.replyBytes, o.timing
}

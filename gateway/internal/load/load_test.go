package load

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
)

// answers carries out orders, which are JSON, and returns the answers.
func answers(t *testing.T, orders ...string) []map[string]any {
	t.Helper()
	given := make(chan order, len(orders))
	for _, text := range orders {
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.DisallowUnknownFields()
		var next order
		if err := decoder.Decode(&next); err != nil {
			t.Fatal(err)
		}
		given <- next
	}
	close(given)
	var out bytes.Buffer
	if err := obey(given, &out, nil); err != nil {
		t.Fatal(err)
	}
	var all []map[string]any
	for line := range strings.Lines(out.String()) {
		var answer map[string]any
		if err := json.Unmarshal([]byte(line), &answer); err != nil {
			t.Fatal(err)
		}
		all = append(all, answer)
	}
	if len(all) != len(orders) {
		t.Fatalf("%d answers to %d orders", len(all), len(orders))
	}
	return all
}

// instant is a target that answers at once.
type instant struct{}

func (instant) renew()                         {}
func (instant) call(int, func() int64) outcome { return outcome{code: ok} }
func (instant) redials() int64                 { return 0 }
func (instant) ready() [][]byte                { return nil }
func (instant) close()                         {}

func TestSchedules(t *testing.T) {
	even := schedule(segment{Calls: 5, RatePerS: 1_000, Arrivals: constant})
	for i, due := range even {
		if want := int64(i+1) * 1_000_000; due != want {
			t.Errorf("call %d is due at %d ns, want %d", i, due, want)
		}
	}

	s := segment{Calls: 20_000, RatePerS: 1_000, Arrivals: poisson, Seed: 7}
	random := schedule(s)
	var sum, squares float64
	before := int64(0)
	for _, due := range random {
		gap := float64(due-before) / 1e6
		sum, squares, before = sum+gap, squares+gap*gap, due
	}
	mean := sum / float64(s.Calls)
	deviation := math.Sqrt(squares/float64(s.Calls) - mean*mean)
	if math.Abs(mean-1) > 0.05 || math.Abs(deviation-1) > 0.05 {
		t.Errorf("gaps of %g ms with a deviation of %g, want 1 and 1", mean, deviation)
	}
	again := schedule(s)
	s.Seed++
	other := schedule(s)
	if random[100] != again[100] || random[100] == other[100] {
		t.Error("the seed decides the schedule, and nothing else does")
	}
}

func TestNoCallIsSentBeforeItsTime(t *testing.T) {
	for _, s := range []segment{
		{Calls: 200, RatePerS: 2_000, Arrivals: poisson, Seed: 1},
		{Calls: 200, RatePerS: 100_000, Arrivals: constant}, // shorter gaps than an alarm can wait for
	} {
		r := s.drive(instant{})
		due := schedule(s)
		for i := range due {
			if r.ScheduledNs[i] != due[i] || r.SentNs[i] < due[i] || r.DoneNs[i] < r.SentNs[i] || r.Code[i] != ok {
				t.Fatalf("call %d, due at %d: scheduled %d, sent %d, done %d, %s",
					i, due[i], r.ScheduledNs[i], r.SentNs[i], r.DoneNs[i], r.Code[i])
			}
		}
	}
}

func TestAClosedLoopCallsFromTheMomentTheLastAnswerCame(t *testing.T) {
	r := segment{Calls: 100, Callers: 1}.drive(instant{})
	for i := range 100 {
		if r.ScheduledNs[i] != r.SentNs[i] || i > 0 && r.SentNs[i] < r.DoneNs[i-1] {
			t.Fatalf("call %d: scheduled %d, sent %d", i, r.ScheduledNs[i], r.SentNs[i])
		}
	}
}

func TestTheBusyShareIsThatOfTheCoresThatMayBeUsed(t *testing.T) {
	if share := busyShare(800*time.Millisecond, time.Second, 1); share != 0.8 {
		t.Errorf("of one core: %g", share)
	}
	if share := busyShare(800*time.Millisecond, time.Second, 2); share != 0.4 {
		t.Errorf("of two cores: %g", share)
	}
	computes := before{instant{}, func() {
		for start := cpuTime(); cpuTime() < start+20*time.Millisecond; {
		}
	}}
	if r := (segment{Calls: 5, Callers: 1}).drive(computes); r.CPUS < 0.1 || r.BusyShare > 1.05 {
		t.Errorf("five calls of 20 ms of computing: %g s of CPU, a share of %g", r.CPUS, r.BusyShare)
	}
}

func TestWaitingForTheScheduleIsNoWork(t *testing.T) {
	// Gaps of 20 µs are spun through. Of what the clock says most was idle, or another program had the core.
	r := segment{Calls: 5_000, RatePerS: 50_000, Arrivals: constant}.drive(instant{})
	if r.SpunS <= 0 || r.SpunS > r.ElapsedS {
		t.Errorf("spun for %g of %g s", r.SpunS, r.ElapsedS)
	}
	if work := r.CPUS - r.SpunS; math.Abs(r.BusyShare-work/r.ElapsedS/float64(r.Cores)) > 1e-9 {
		t.Errorf("a share of %g is not %g s of %g s on %d cores", r.BusyShare, work, r.ElapsedS, r.Cores)
	}
}

func TestOrdersThatCannotBeCarriedOut(t *testing.T) {
	grpc := `"address": "127.0.0.1:1", "method": "/a.B/C", "messages": ["AA=="]`
	for text, want := range map[string]string{
		`{}`: "to connect or to run",
		`{"run": {"target": "nobody", "calls": 1, "callers": 1}}`:                                                       "no target",
		`{"connect": {"name": "a", "address": "b:1", "messages": ["AA=="], "connections": 1, "timeout_s": 1}}`:          "a method of gRPC, or a path",
		`{"connect": {"name": "a", ` + grpc + `, "connections": 0, "timeout_s": 1}}`:                                    "at least one connection",
		`{"connect": {"name": "a", ` + grpc + `, "connections": 1, "timeout_s": 0}}`:                                    "timeout_s",
		`{"connect": {"name": "a", "address": "b:1", "path": "/", "messages": [], "connections": 1, "timeout_s": 1}}`:   "one message",
		`{"connect": {"name": "a", "address": "b", "path": "/", "method": "/a.B/C", "connections": 1, "timeout_s": 1}}`: "a method of gRPC, or a path",
		`{"connect": {"name": "a", "address": "b:1", "path": "/", "like": "nobody", "connections": 1, "timeout_s": 1}}`: `no target "nobody"`,
	} {
		if got, _ := answers(t, text)[0]["error"].(string); !strings.Contains(got, want) {
			t.Errorf("%s: %q", text, got)
		}
	}
	connected := `{"connect": {"name": "a", ` + grpc + `, "connections": 1, "timeout_s": 1}}`
	for text, want := range map[string]string{
		`{"run": {"target": "a", "calls": 0, "callers": 1}}`:                                       "at least one call",
		`{"run": {"target": "a", "calls": 1, "callers": 0}}`:                                       "at least one caller",
		`{"run": {"target": "a", "calls": 1, "rate_per_s": 1, "arrivals": "never", "callers": 0}}`: "poisson or constant",
	} {
		if got, _ := answers(t, connected, text)[1]["error"].(string); !strings.Contains(got, want) {
			t.Errorf("%s: %q", text, got)
		}
	}
}

func TestATargetMaySendWhatAnotherSends(t *testing.T) {
	first := `{"connect": {"name": "a", "address": "127.0.0.1:1", "path": "/", "messages": ["AQI="], "connections": 1, "timeout_s": 1}}`
	second := `{"connect": {"name": "b", "address": "127.0.0.1:1", "method": "/a.B/C", "like": "a", "connections": 1, "timeout_s": 1}}`
	targets := map[string]target{}
	for _, text := range []string{first, second} {
		var next order
		if err := json.Unmarshal([]byte(text), &next); err != nil {
			t.Fatal(err)
		}
		if failed, is := carryOut(next, targets, nil).(failure); is {
			t.Fatal(failed.Error)
		}
	}
	a, b := targets["a"].ready()[0], targets["b"].ready()[0]
	if !bytes.Equal(b, []byte{1, 2}) || &a[0] != &b[0] {
		t.Errorf("%v and %v are not the same bytes", a, b)
	}
}

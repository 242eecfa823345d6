package page

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Waterfall is one call's time by phase.
type Waterfall struct {
	Total  string // in milliseconds
	Phases []Phase
	Batch  string // how many rows the model computed at once, if the server says so
}

// Phase is one bar: where it begins and how long it is, in percent of the whole.
type Phase struct {
	Name, Meaning string
	Milliseconds  string
	Start, Length float64
	Model         bool // the model's own work
}

// phases are those of Server-Timing, in the order in which they happen, with what is between them: the wire.
var phases = []struct{ key, name, meaning string }{
	{"gateway", "gateway", "the form arrives, becomes a message, and the reply a page"},
	{"transport", "transport", "the wire, and protobuf on both ends"},
	{"decode", "decode", "the server reads the table and checks it"},
	{"queue", "queue", "it waits for a thread"},
	{"predict", "predict", "the model computes"},
	{"encode", "encode", "the predictions become a message"},
}

var (
	metric = regexp.MustCompile(`([\w-]+);dur=(\d+(?:\.\d+)?)`)
	batch  = regexp.MustCompile(`batch;desc="(\d+) rows?"`)
)

// FromServerTiming draws a Server-Timing header of the gateway's: of the server's phases, backend, which holds them, and
// gateway. It returns nil for one without them.
func FromServerTiming(header string) *Waterfall {
	ms := map[string]float64{}
	for _, found := range metric.FindAllStringSubmatch(header, -1) {
		ms[found[1]], _ = strconv.ParseFloat(found[2], 64) // digits, with a point at the most
	}
	backend, ok := ms["backend"]
	if !ok {
		return nil
	}
	server := ms["decode"] + ms["queue"] + ms["predict"] + ms["encode"]
	ms["transport"] = max(0, backend-server) // two clocks: the server's may run ahead by a little
	total := ms["gateway"] + ms["transport"] + server
	w := &Waterfall{Total: milliseconds(total)}
	at := 0.0
	for _, p := range phases {
		value, timed := ms[p.key]
		if !timed {
			continue
		}
		share := 100 * value / max(total, 1e-9)
		length := max(share, 0.5) // so that it can be seen
		w.Phases = append(w.Phases, Phase{
			Name: p.name, Meaning: p.meaning, Milliseconds: milliseconds(value),
			Start: min(at, 100-length), Length: length, Model: p.key == "predict",
		})
		at += share
	}
	if found := batch.FindStringSubmatch(header); found != nil {
		w.Batch = grouped(found[1])
	}
	return w
}

// milliseconds writes a time with three significant digits, or whole numbers where it is long.
func milliseconds(ms float64) string {
	switch {
	case ms >= 100:
		return grouped(fmt.Sprintf("%.0f", ms))
	case ms >= 10:
		return fmt.Sprintf("%.1f", ms)
	case ms >= 1:
		return fmt.Sprintf("%.2f", ms)
	}
	return fmt.Sprintf("%.3f", ms)
}

// grouped writes digits with a comma before each three.
func grouped(digits string) string {
	var out strings.Builder
	for i, digit := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			out.WriteByte(',')
		}
		out.WriteRune(digit)
	}
	return out.String()
}

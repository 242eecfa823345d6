package pred

import (
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"
)

// Info is what a server says beside its predictions.
type Info struct {
	// IgnoredColumns are the table's columns that the model does not know. A column without a name is an empty text.
	IgnoredColumns []string
	// Model is the model that answered. It is zero where the server does not say; that of a stream comes with its end:
	// Stream.Model.
	Model Identity
	// Timings say where the server's time went. Those of a stream come with its end: Stream.Timings.
	Timings Timings
}

// Timings are the phases of a call in the server. What is zero took no time, or the server did not say.
type Timings struct {
	Decode    time.Duration // the server reads the table and checks it
	Queue     time.Duration // the table waits for its turn
	Predict   time.Duration // the model computes
	Encode    time.Duration // the predictions become a message
	BatchRows int           // rows that the model computed together, at the most
}

func infoOf(beside metadata.MD) Info {
	info := Info{Model: identityOf(beside), Timings: timingsOf(beside)}
	for _, value := range beside.Get("ignored-columns") {
		for name := range strings.SplitSeq(value, ",") {
			if plain, err := url.PathUnescape(name); err == nil {
				name = plain
			}
			info.IgnoredColumns = append(info.IgnoredColumns, name)
		}
	}
	return info
}

var (
	phase = regexp.MustCompile(`(\w+);dur=(\d+(?:\.\d+)?)`)
	batch = regexp.MustCompile(`batch;desc="(\d+) rows"`)
)

// timingsOf reads server-timing, in the syntax of https://www.w3.org/TR/server-timing/, in milliseconds.
func timingsOf(beside metadata.MD) Timings {
	var t Timings
	header := strings.Join(beside.Get("server-timing"), ", ")
	for _, found := range phase.FindAllStringSubmatch(header, -1) {
		ms, err := strconv.ParseFloat(found[2], 64)
		if err != nil {
			continue
		}
		d := time.Duration(ms * float64(time.Millisecond))
		switch found[1] {
		case "decode":
			t.Decode = d
		case "queue":
			t.Queue = d
		case "predict":
			t.Predict = d
		case "encode":
			t.Encode = d
		}
	}
	if found := batch.FindStringSubmatch(header); found != nil {
		t.BatchRows, _ = strconv.Atoi(found[1]) // digits; too many of them are as good as none
	}
	return t
}

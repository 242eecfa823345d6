// Command hopbench measures what the way to a prediction costs: straight to the server over a shared connection, through
// the gateway, or over a connection dialled for each call.
//
// All arms take part in one run. A block visits them in random order and then once more in reverse, so that a machine
// that grows slower during the block slows all arms alike. The arm direct-again is direct once more: how far the two
// differ is what the run cannot tell apart. One caller waits for each answer before it asks again.
//
// It prints one line of CSV for each call: block,position,arm,call,latency_us,ok. A call is ok if its reply is the one
// that the first arm got before the measurement.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"time"

	"example.com/predserver/gateway/pred"
	"example.com/predserver/generated/predpb"
)

// arm is one way to a prediction.
type arm struct {
	name    string
	predict func(ctx context.Context, table string) (string, error)
}

// plan is what the command line asks for.
type plan struct {
	backend, gateway, body string
	blocks, calls, warmup  int
	seed                   uint64
	timeout                time.Duration
}

func main() {
	var p plan
	flag.StringVar(&p.backend, "backend", "127.0.0.1:50051", "address of the prediction server")
	flag.StringVar(&p.gateway, "gateway", "http://127.0.0.1:8080", "URL of the gateway")
	flag.StringVar(&p.body, "body", "", "CSV `file` to send")
	flag.IntVar(&p.blocks, "blocks", 30, "blocks")
	flag.IntVar(&p.calls, "calls", 50, "calls of each arm in a block, half of them on the way back; even")
	flag.IntVar(&p.warmup, "warmup", 50, "calls of each arm before the measurement, not printed")
	flag.Uint64Var(&p.seed, "seed", 1, "seed of the order of arms")
	flag.DurationVar(&p.timeout, "timeout", 30*time.Second, "longest time for one call")
	flag.Parse()

	if err := run(p, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "hopbench:", err)
		os.Exit(1)
	}
}

// run measures and writes the table.
func run(p plan, out io.Writer) error {
	if p.body == "" || p.blocks < 1 || p.calls < 2 || p.calls%2 != 0 || p.warmup < 0 {
		return errors.New("-body must name a file, -blocks be 1 or more, -calls even and 2 or more, -warmup 0 or more")
	}
	body, err := os.ReadFile(p.body)
	if err != nil {
		return err
	}
	client, err := pred.New(p.backend, options...)
	if err != nil {
		return err
	}
	defer client.Close()
	arms := []arm{
		{"direct", overConnection(client)},
		{"gateway", overGateway(p.gateway + "/predict")},
		{"dial", dialEachTime(p.backend)},
		{"direct-again", overConnection(client)},
	}

	b := &bench{table: string(body), timeout: p.timeout}
	ctx, cancel := context.WithTimeout(context.Background(), p.timeout)
	defer cancel()
	if b.want, err = arms[0].predict(ctx, b.table); err != nil {
		return fmt.Errorf("the first call failed: %w", err)
	}
	for _, a := range arms {
		for range p.warmup {
			b.call(a)
		}
	}

	fmt.Fprintln(out, "block,position,arm,call,latency_us,ok")
	random := rand.New(rand.NewPCG(p.seed, 0))
	calls := 0
	failures := map[string]int{}
	for block := range p.blocks {
		var rows bytes.Buffer // written between blocks, so that output does not disturb what is measured
		random.Shuffle(len(arms), func(i, j int) { arms[i], arms[j] = arms[j], arms[i] })
		back := slices.Clone(arms)
		slices.Reverse(back)
		for position, a := range slices.Concat(arms, back) {
			first := 0
			if position >= len(arms) {
				first = p.calls / 2
			}
			for call := first; call < first+p.calls/2; call++ {
				latency, err := b.call(a)
				ok := 1
				if err != nil {
					ok = 0
					failures[a.name+": "+err.Error()]++
				}
				calls++
				fmt.Fprintf(&rows, "%d,%d,%s,%d,%.3f,%d\n", block, position, a.name, call, float64(latency.Nanoseconds())/1000, ok)
			}
		}
		if _, err := rows.WriteTo(out); err != nil {
			return err
		}
	}
	for failure, n := range failures {
		fmt.Fprintf(os.Stderr, "hopbench: %d of %d calls failed: %s\n", n, calls, failure)
	}
	return nil
}

// bench holds what all calls have in common.
type bench struct {
	table   string
	want    string
	timeout time.Duration
}

// call asks once and returns how long it took. A reply other than the expected one is an error.
func (b *bench) call(a arm) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
	defer cancel()
	start := time.Now()
	got, err := a.predict(ctx, b.table)
	latency := time.Since(start)
	if err == nil && got != b.want {
		err = errors.New("the reply differs from the first one")
	}
	return latency, err
}

// options are those of the gateway's own client, so that what differs is the way alone.
var options = []pred.Option{pred.WithRetries(0), pred.WithMaxMessageBytes(1 << 30)}

// overConnection asks over a connection that is there already.
func overConnection(client *pred.Client) func(context.Context, string) (string, error) {
	return func(ctx context.Context, table string) (string, error) {
		response, _, err := client.Call(ctx, &predpb.Request{InputData: table})
		return response.GetResult(), err
	}
}

// dialEachTime connects, asks and hangs up.
func dialEachTime(address string) func(context.Context, string) (string, error) {
	return func(ctx context.Context, table string) (string, error) {
		client, err := pred.New(address, options...)
		if err != nil {
			return "", err
		}
		defer client.Close()
		return overConnection(client)(ctx, table)
	}
}

// overGateway posts to the gateway over a connection that is kept alive.
func overGateway(url string) func(context.Context, string) (string, error) {
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}} // and no proxy
	return func(ctx context.Context, table string) (string, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader([]byte(table)))
		if err != nil {
			return "", err
		}
		request.Header.Set("Content-Type", "text/csv")
		response, err := client.Do(request)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("the gateway answered %s", response.Status)
		}
		return string(body), err
	}
}

package main

import (
	"context"
	"encoding/csv"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"example.com/predserver/generated/predpb"
)

type server struct {
	predpb.UnimplementedPredictionServer
}

func (server) Predict(context.Context, *predpb.Request) (*predpb.Response, error) {
	return &predpb.Response{Result: "0\n3\n"}, nil
}

func TestEveryCallIsALine(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	backend := grpc.NewServer()
	predpb.RegisterPredictionServer(backend, server{})
	go backend.Serve(listener)
	defer backend.Stop()
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("another answer"))
	}))
	defer gateway.Close()
	body := filepath.Join(t.TempDir(), "body.csv")
	if err := os.WriteFile(body, []byte("x,y\n1,2\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	var out strings.Builder
	err = run(plan{
		backend: listener.Addr().String(), gateway: gateway.URL, body: body,
		blocks: 3, calls: 4, warmup: 1, seed: 7, timeout: 20 * time.Second,
	}, &out)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(out.String())).ReadAll()
	if err != nil || strings.Join(rows[0], ",") != "block,position,arm,call,latency_us,ok" {
		t.Fatalf("%v, %v", rows[0], err)
	}
	calls := map[string]int{}
	at := map[string]string{} // the arm at a block's position
	for _, row := range rows[1:] {
		calls[row[2]]++
		at[row[0]+"/"+row[1]] = row[2]
		if ok := row[5] == "1"; ok == (row[2] == "gateway") {
			t.Errorf("the reply was judged wrongly: %v", row)
		}
	}
	for _, arm := range []string{"direct", "gateway", "dial", "direct-again"} {
		if calls[arm] != 3*4 {
			t.Errorf("%s: %d calls, want 12", arm, calls[arm])
		}
	}
	for _, pair := range [][2]string{{"0/0", "0/7"}, {"0/3", "0/4"}, {"2/1", "2/6"}} {
		if at[pair[0]] != at[pair[1]] {
			t.Errorf("the way back is not the way there: %v", at)
		}
	}
}

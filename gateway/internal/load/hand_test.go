package load

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"example.com/predserver/generated/predpb"
)

func message(t *testing.T, columns ...*predpb.Column) []byte {
	t.Helper()
	written, err := proto.Marshal(&predpb.Request{Columns: &predpb.Columns{Columns: columns}})
	if err != nil {
		t.Fatal(err)
	}
	return written
}

var (
	x = &predpb.Column{Name: "x", Float64: []float64{1, 2.5}}
	y = &predpb.Column{Name: "y", Float64: []float64{10, 0}, Missing: []uint32{1}}
	n = &predpb.Column{Name: "n", Int64: []int64{7, -7}}
	w = &predpb.Column{Name: "s", Str: []string{"ü\"", ""}, Missing: []uint32{1}}
)

func byHand(t *testing.T, way, address string, columns ...*predpb.Column) connection {
	return connection{
		Name: "hand", Address: address, Hand: way, Messages: [][]byte{message(t, columns...)}, Connections: 2,
		TimeoutS: hang.Seconds(),
	}
}

func drive(t *testing.T, c connection) report {
	t.Helper()
	return segment{Calls: 3, Callers: 2}.drive(made(t, c))
}

func check(t *testing.T, r report, code string, replyBytes int) {
	t.Helper()
	for i := range r.Code {
		if r.Code[i] != code || r.ReplyBytes[i] != replyBytes {
			t.Errorf("call %d: %s, %d bytes", i, r.Code[i], r.ReplyBytes[i])
		}
	}
}

// answering has two predictions for any table.
type answering struct {
	predpb.UnimplementedPredictionServer
	asked chan *predpb.Request
}

func (a answering) Predict(_ context.Context, request *predpb.Request) (*predpb.Response, error) {
	a.asked <- request
	if request.Tensor != nil {
		data := binary.LittleEndian.AppendUint64(nil, math.Float64bits(1))
		tensor := &predpb.Tensor{Dtype: "float64", Shape: []int64{2, 1}, Names: []string{"y"}, Data: append(data, data...)}
		return &predpb.Response{Tensor: tensor}, nil
	}
	column := &predpb.Column{Name: "y", Float64: []float64{1, 2}}
	return &predpb.Response{Columns: &predpb.Columns{Columns: []*predpb.Column{column}}}, nil
}

func TestHandOverGRPC(t *testing.T) {
	a := answering{asked: make(chan *predpb.Request, 6)}
	served := grpc.NewServer()
	predpb.RegisterPredictionServer(served, a)
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	go served.Serve(listener)
	t.Cleanup(served.Stop)
	check(t, drive(t, byHand(t, "grpc", "unix:"+listener.Addr().String(), x, x)), ok, 16)
	if request := <-a.asked; len(request.GetTensor().GetNames()) != 2 {
		t.Errorf("asked with %v", request)
	}
	check(t, drive(t, byHand(t, "grpc", "unix:"+listener.Addr().String(), n, w)), ok, 16)
	<-a.asked
	<-a.asked
	if request := <-a.asked; !proto.Equal(request.GetColumns(), &predpb.Columns{Columns: []*predpb.Column{n, w}}) {
		t.Errorf("asked with %v", request)
	}
	check(t, drive(t, byHand(t, "grpc", "127.0.0.1:1", x)), unavailable, 0)
}

func TestHandOverREST(t *testing.T) {
	bodies := make(chan any, 3)
	answer := "[1.5,\n2e-3]"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		bodies <- body
		io.WriteString(w, answer)
	}))
	defer server.Close()
	address := server.Listener.Addr().String()
	for want, columns := range map[string][]*predpb.Column{
		"[[1,10],[2.5,null]]": {x, y},
		`{"n":[7,-7],"s":["ü\"",null],"x":[1,2.5],"y":[10,null]}`: {n, w, x, y},
	} {
		check(t, drive(t, byHand(t, "rest", address, columns...)), ok, 16)
		for range 3 {
			if got, _ := json.Marshal(<-bodies); string(got) != want {
				t.Errorf("posted %s, not %s", got, want)
			}
		}
	}
	answer = "[1]"
	check(t, drive(t, byHand(t, "rest", address, x)), "1 predictions for 2 rows", 0)
}

// child makes the pipes of a child, which gives each request to answer.
func child(t *testing.T, answer func(request []byte) (head uint64, reply []byte)) (folder string) {
	folder = t.TempDir()
	var files []*os.File
	for _, name := range []string{"requests", "replies"} {
		path := filepath.Join(folder, name)
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		files = append(files, file)
	}
	go func() {
		var head [8]byte
		for {
			if _, err := io.ReadFull(files[0], head[:]); err != nil {
				return
			}
			request := make([]byte, binary.LittleEndian.Uint64(head[:]))
			io.ReadFull(files[0], request)
			length, reply := answer(request)
			files[1].Write(append(binary.LittleEndian.AppendUint64(nil, length), reply...))
		}
	}()
	return folder
}

func TestHandOverAPipe(t *testing.T) {
	folder := child(t, func(request []byte) (uint64, []byte) {
		return 16, request[:16] // x, which stands first
	})
	check(t, drive(t, byHand(t, "pipe", folder, x, y)), ok, 16)
	asText := child(t, func(request []byte) (uint64, []byte) {
		got := &predpb.Request{}
		if err := proto.Unmarshal(request, got); err != nil || !proto.Equal(got.Columns, &predpb.Columns{Columns: []*predpb.Column{n, w}}) {
			t.Errorf("asked with %v, %v", got, err)
		}
		return 16, make([]byte, 16)
	})
	check(t, drive(t, byHand(t, "pipe", asText, n, w)), ok, 16)
	complaining := child(t, func([]byte) (uint64, []byte) { return complaint | 3, []byte("bad") })
	check(t, drive(t, byHand(t, "pipe", complaining, x)), "the child complains: bad", 0)
}

func TestAPipeThatWasLateAnswersNoOtherCall(t *testing.T) {
	release := make(chan struct{})
	folder := child(t, func(request []byte) (uint64, []byte) { <-release; return 16, make([]byte, 16) })
	late := byHand(t, "pipe", folder, x)
	late.TimeoutS = 0.01
	called := made(t, late)
	for call := range 2 {
		if r := (segment{Calls: 1, Callers: 1}).drive(called); r.Code[0] != deadlineExceeded {
			t.Errorf("got %s", r.Code[0])
		}
		if call == 0 {
			close(release) // the answer to the first call comes now
		}
	}
}

type counting struct{ closed *int }

func (counting) Predict(context.Context, []Column) ([]float64, error) {
	return nil, errors.New("ours")
}

func (c counting) Close() error { *c.closed++; return nil }

func TestWaysOfAProgramsOwn(t *testing.T) {
	closed := 0
	own := Ways{"own": func(string, int) (Caller, error) { return counting{&closed}, nil }}
	called, err := connect(byHand(t, "own", "", x), own)
	if err != nil {
		t.Fatal(err)
	}
	if r := (segment{Calls: 1, Callers: 1}).drive(called); r.Code[0] != "ours" {
		t.Errorf("got %s", r.Code[0])
	}
	called.close()
	if closed != 1 {
		t.Errorf("closed %d times", closed)
	}
	if _, err := connect(byHand(t, "own", "", x), nil); err == nil || !strings.Contains(err.Error(), `no way "own"`) {
		t.Errorf("got %v", err)
	}
}

func TestTablesThatNoCallerHas(t *testing.T) {
	for name, columns := range map[string][]*predpb.Column{
		"nothing": nil,
		"bool":    {{Name: "b", Bool: []bool{true}}},
		"gaps":    {{Name: "n", Int64: []int64{1}, Missing: []uint32{0}}},
	} {
		if _, err := connect(byHand(t, "grpc", "127.0.0.1:1", columns...), nil); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

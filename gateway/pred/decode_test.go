package pred

import (
	"testing"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"example.com/predserver/generated/predpb"
)

// Whatever a server sends becomes predictions for each row, or an error.
func FuzzDecode(f *testing.F) {
	for _, response := range []*predpb.Response{
		{Tensor: &predpb.Tensor{Dtype: "float32", Shape: []int64{2, 1}, Names: []string{"p"}, Data: make([]byte, 8)}},
		{Tensor: &predpb.Tensor{Dtype: "int8", Shape: []int64{1, 2}, Names: []string{"p", "q"}, Data: []byte{0, 1}, Categories: []string{"a", "b"}, Order: 1}},
		{Columns: &predpb.Columns{Columns: []*predpb.Column{{Name: "p", Str: []string{"a", ""}, Missing: []uint32{1}}}}},
	} {
		message, err := proto.Marshal(response)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(message, 2, `predict;dur=1.5, batch;desc="3 rows"`)
	}
	f.Fuzz(func(t *testing.T, message []byte, rows int, beside string) {
		var response predpb.Response
		if proto.Unmarshal(message, &response) != nil {
			t.Skip("no message")
		}
		request := &predpb.Request{Tensor: &predpb.Tensor{}}
		if response.Columns != nil {
			request = &predpb.Request{Columns: &predpb.Columns{}}
		}
		predictions, err := decode(request, &response, rows, metadata.Pairs("server-timing", beside, "ignored-columns", beside))
		if err != nil {
			return
		}
		for _, c := range predictions.Columns {
			values := 0
			for _, read := range []func() (int, error){
				func() (int, error) { v, err := c.Float64s(); return len(v), err },
				func() (int, error) { v, err := c.Int64s(); return len(v), err },
				func() (int, error) { v, err := c.Bools(); return len(v), err },
				func() (int, error) { v, err := c.Strings(); return len(v), err },
			} {
				if n, err := read(); err == nil {
					values = n
				}
			}
			if _, unsigned := c.values.([]uint64); c.Len() != rows || values != rows && !unsigned {
				t.Fatalf("%d rows, and %d values of %d", rows, values, c.Len())
			}
		}
	})
}

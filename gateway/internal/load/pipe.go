package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"example.com/predserver/generated/predpb"
)

// pipeCaller asks a Python process over two pipes, one call after the other. A frame is its length, and as many bytes.
// The request holds float64 column by column, or where there are other columns our contract's Request; the reply holds
// float64. A length whose highest bit is set is that of a complaint.
type pipeCaller struct {
	mutex             sync.Mutex
	requests, replies *os.File
	lost              error
}

const complaint = 1 << 63

func handPipe(folder string, _ int) (Caller, error) {
	// The child has both ends of both open, so to open one waits for nobody.
	requests, err := os.OpenFile(filepath.Join(folder, "requests"), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	replies, err := os.OpenFile(filepath.Join(folder, "replies"), os.O_RDWR, 0)
	return &pipeCaller{requests: requests, replies: replies}, err
}

func (p *pipeCaller) Predict(ctx context.Context, table []Column) ([]float64, error) {
	frame, err := frameOf(table)
	if err != nil {
		return nil, err
	}
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.lost != nil { // what comes now may be the answer to another call
		return nil, p.lost
	}
	deadline, _ := ctx.Deadline()
	p.requests.SetDeadline(deadline)
	p.replies.SetDeadline(deadline)
	reply, err := p.ask(frame)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.lost = context.DeadlineExceeded
		return nil, p.lost
	}
	return reply, err
}

func (p *pipeCaller) ask(frame []byte) ([]float64, error) {
	if _, err := p.requests.Write(frame); err != nil {
		return nil, err
	}
	var head [8]byte
	if _, err := io.ReadFull(p.replies, head[:]); err != nil {
		return nil, err
	}
	length := binary.LittleEndian.Uint64(head[:])
	reply := make([]byte, length&^complaint)
	if _, err := io.ReadFull(p.replies, reply); err != nil {
		return nil, err
	}
	if length&complaint != 0 {
		return nil, fmt.Errorf("the child complains: %s", reply)
	}
	predictions := make([]float64, len(reply)/8)
	for i := range predictions {
		predictions[i] = math.Float64frombits(binary.LittleEndian.Uint64(reply[8*i:]))
	}
	return predictions, nil
}

func (p *pipeCaller) Close() error { return errors.Join(p.requests.Close(), p.replies.Close()) }

// frameOf writes a request, with its length before it.
func frameOf(table []Column) ([]byte, error) {
	rows := table[0].rows()
	if !slices.ContainsFunc(table, func(c Column) bool { return c.Numbers == nil }) {
		frame := make([]byte, 8, 8+8*rows*len(table))
		for _, c := range table {
			for _, number := range c.Numbers {
				frame = binary.LittleEndian.AppendUint64(frame, math.Float64bits(number))
			}
		}
		binary.LittleEndian.PutUint64(frame, uint64(len(frame)-8))
		return frame, nil
	}
	columns := &predpb.Columns{}
	for _, c := range table {
		column := &predpb.Column{Name: c.Name, Float64: c.Numbers, Int64: c.Integers, Str: c.Texts}
		for _, row := range c.Missing {
			column.Missing = append(column.Missing, uint32(row))
		}
		columns.Columns = append(columns.Columns, column)
	}
	frame, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 8), &predpb.Request{Columns: columns})
	binary.LittleEndian.PutUint64(frame, uint64(len(frame)-8))
	return frame, err
}

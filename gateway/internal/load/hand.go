package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"

	"google.golang.org/protobuf/proto"

	"example.com/predserver/gateway/pred"
	"example.com/predserver/generated/predpb"
)

// Column is a column of the table that a caller has in hand: numbers, integers or text.
type Column struct {
	Name     string
	Numbers  []float64 // NaN where there is none
	Integers []int64
	Texts    []string
	Missing  []int // the rows without a text
}

// Caller is a way from a table to predictions, with all that lies between: the message is written, and the answer is read,
// in each call. Goroutines share it.
type Caller interface {
	Predict(ctx context.Context, table []Column) ([]float64, error)
	Close() error
}

// Ways make callers. An address is the server's; or a folder, where no server is asked.
type Ways map[string]func(address string, connections int) (Caller, error)

var ways = Ways{"grpc": handGRPC, "rest": handREST, "pipe": handPipe}

// handTarget calls as a program does, not with ready bytes: a table in, predictions out.
type handTarget struct {
	connection
	caller Caller
	table  []Column
	rows   int
}

// newHand connects a caller. The message holds the table, as a Request with columns.
func newHand(c connection, own Ways) (target, error) {
	open := own[c.Hand]
	if open == nil {
		open = ways[c.Hand]
	}
	if open == nil {
		return nil, fmt.Errorf("this generator has no way %q from a table to predictions", c.Hand)
	}
	table, err := tableOf(c.Messages[0])
	if err != nil {
		return nil, err
	}
	caller, err := open(c.Address, c.Connections)
	if err != nil {
		return nil, err
	}
	return &handTarget{c, caller, table, table[0].rows()}, nil
}

func (t *handTarget) call(int, func() int64) outcome {
	ctx, cancel := context.WithTimeout(context.Background(), t.timeout())
	defer cancel()
	predictions, err := t.caller.Predict(ctx, t.table)
	if status, is := errors.AsType[*pred.Error](err); is {
		return outcome{code: status.CodeName()}
	}
	if _, is := errors.AsType[net.Error](err); is {
		return outcome{code: failed(err)}
	}
	switch {
	case err != nil:
		return outcome{code: err.Error()}
	case len(predictions) != t.rows:
		return outcome{code: fmt.Sprintf("%d predictions for %d rows", len(predictions), t.rows)}
	}
	return outcome{code: ok, replyBytes: 8 * len(predictions)}
}

func (t *handTarget) renew()         {}
func (t *handTarget) redials() int64 { return 0 }
func (t *handTarget) close()         { t.caller.Close() }

// tableOf reads the table that a caller has.
func tableOf(message []byte) ([]Column, error) {
	request := &predpb.Request{}
	if err := proto.Unmarshal(message, request); err != nil {
		return nil, err
	}
	var table []Column
	for _, from := range request.GetColumns().GetColumns() {
		c := Column{Name: from.Name, Numbers: from.Float64, Integers: from.Int64, Texts: from.Str}
		for _, row := range from.Missing {
			if c.Numbers != nil {
				c.Numbers[row] = math.NaN()
			} else {
				c.Missing = append(c.Missing, int(row))
			}
		}
		if c.rows() == 0 || c.Integers != nil && c.Missing != nil {
			return nil, fmt.Errorf("the column %s holds neither float64 nor text, nor int64 without gaps", c.Name)
		}
		table = append(table, c)
	}
	if len(table) == 0 {
		return nil, errors.New("a call at the caller's hand needs a table, as a Request with columns")
	}
	return table, nil
}

func (c Column) rows() int { return max(len(c.Numbers), len(c.Integers), len(c.Texts)) }

// grpcCaller asks as programs in Go do, with package pred.
type grpcCaller struct{ client *pred.Client }

func handGRPC(address string, connections int) (Caller, error) {
	client, err := pred.New(address,
		pred.WithRetries(0), pred.WithConnections(connections), pred.WithMaxMessageBytes(math.MaxInt32))
	return grpcCaller{client}, err
}

func (g grpcCaller) Predict(ctx context.Context, table []Column) ([]float64, error) {
	sent := make(pred.Table, len(table))
	for i, c := range table {
		switch {
		case c.Texts != nil:
			sent[i] = pred.NewColumn(c.Name, c.Texts).WithMissing(c.Missing...)
		case c.Integers != nil:
			sent[i] = pred.NewColumn(c.Name, c.Integers)
		default:
			sent[i] = pred.NewColumn(c.Name, c.Numbers)
		}
	}
	predictions, err := g.client.Predict(ctx, sent)
	if err != nil {
		return nil, err
	}
	return predictions.Float64s()
}

func (g grpcCaller) Close() error { return g.client.Close() }

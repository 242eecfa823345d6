package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// restCaller posts JSON as the lab's FastAPI server takes it: rows of numbers, or a list for each column.
type restCaller struct {
	url    string
	client *http.Client
}

func handREST(address string, connections int) (Caller, error) {
	transport := &http.Transport{
		MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections, DisableCompression: true,
		DialContext: (&net.Dialer{Timeout: dialTimeout}).DialContext, IdleConnTimeout: 4 * time.Second, // uvicorn's is 5
	}
	return &restCaller{"http://" + address + "/predict", &http.Client{Transport: transport}}, nil
}

func (r *restCaller) Predict(ctx context.Context, table []Column) ([]float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url, bytes.NewReader(body(table)))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	reply, err := r.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		return nil, err
	}
	if reply.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("HTTP %d", reply.StatusCode)
	}
	return readNumbers(text)
}

func (r *restCaller) Close() error {
	r.client.CloseIdleConnections()
	return nil
}

// body writes a table. encoding/json would take several times as long.
func body(table []Column) []byte {
	if slices.ContainsFunc(table, func(c Column) bool { return c.Numbers == nil }) {
		return columnsBody(table)
	}
	text := make([]byte, 0, 20*len(table)*table[0].rows())
	for row := range table[0].rows() {
		separator := byte(',')
		if row == 0 {
			separator = '['
		}
		text = append(text, separator, '[')
		for i, c := range table {
			if i > 0 {
				text = append(text, ',')
			}
			text = appendNumber(text, c.Numbers[row])
		}
		text = append(text, ']')
	}
	return append(text, ']')
}

func columnsBody(table []Column) []byte {
	text := []byte{'{'}
	for i, c := range table {
		if i > 0 {
			text = append(text, ',')
		}
		text = append(strconv.AppendQuote(text, c.Name), ':', '[')
		missing := c.Missing
		for row := range c.rows() {
			if row > 0 {
				text = append(text, ',')
			}
			switch {
			case len(missing) > 0 && missing[0] == row:
				text, missing = append(text, "null"...), missing[1:]
			case c.Texts != nil:
				quoted, _ := json.Marshal(c.Texts[row]) // no text fails
				text = append(text, quoted...)
			case c.Integers != nil:
				text = strconv.AppendInt(text, c.Integers[row], 10)
			default:
				text = appendNumber(text, c.Numbers[row])
			}
		}
		text = append(text, ']')
	}
	return append(text, '}')
}

func appendNumber(text []byte, number float64) []byte {
	if math.IsNaN(number) {
		return append(text, "null"...)
	}
	return strconv.AppendFloat(text, number, 'g', -1, 64)
}

// readNumbers reads an array of numbers. encoding/json would take several times as long.
func readNumbers(text []byte) ([]float64, error) {
	text = bytes.TrimSpace(text)
	if len(text) < 2 || text[0] != '[' || text[len(text)-1] != ']' {
		return nil, errors.New("the reply is no array")
	}
	numbers := make([]float64, 0, 1+bytes.Count(text, []byte{','}))
	for part := range bytes.SplitSeq(text[1:len(text)-1], []byte{','}) {
		number, err := strconv.ParseFloat(string(bytes.TrimSpace(part)), 64)
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, number)
	}
	return numbers, nil
}

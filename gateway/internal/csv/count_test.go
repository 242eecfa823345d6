package csv

import (
	"strings"
	"testing"
)

func TestCountRows(t *testing.T) {
	const unsure = -1
	for text, want := range map[string]int{
		"":                              0,
		"x":                             0,
		"x\n":                           0,
		"x\n1":                          1,
		"x\n1\n":                        1,
		"x\r\n1\r\n2":                   2,
		"x\r\n1\r\n2\r":                 2,
		"\n\nx\n\n1\n\r\n2\n\n":         2,
		ByteOrderMark + "x\n1\n":        1,
		ByteOrderMark + "\"x\n\"\n1\n":  1,
		"x,y\n,\n,\n":                   2,
		"x\n\"\"\n\"a\n\n\"\"b\"\n":     2,
		"x,y\n\"1\r\n\",\"\r\"\n3,\"\"": 2,
		"x\na\"\nb\"\n":                 2,
		"x\n1\n 2\n":                    2,
		"x\n \n":                        unsure,
		"\t\nx\n":                       unsure,
		"x\n1\n  ":                      unsure,
		"x\r1\r":                        unsure,
		"x\n\"1\n":                      unsure,
		"x\n\"1\"2\n":                   unsure,
		"x\n\"1\"\r2\n":                 unsure,
	} {
		got, ok := CountRows(text)
		if !ok {
			got = unsure
		}
		if got != want {
			t.Errorf("%q: got %d, want %d", text, got, want)
		}
	}
}

// Where the count is sure, CutRow finds as many rows.
func FuzzCountRows(f *testing.F) {
	f.Add("x\n1\n\"2\r\n\"\n")
	f.Add("x,y\n,\"\"\n\n 1,2\n")
	f.Add(ByteOrderMark + "x\r\n \r")
	f.Fuzz(func(t *testing.T, text string) {
		rows, ok := CountRows(text)
		if !ok {
			t.Skip("no table whose rows can be counted")
		}
		text = strings.TrimPrefix(text, ByteOrderMark)
		all, err := cutAll(text)
		if err != nil || max(len(all)-1, 0) != rows {
			t.Fatalf("%q: %d rows, and %q, %v", text, rows, all, err)
		}
	})
}

func BenchmarkCountRows(b *testing.B) {
	for name, row := range map[string]string{"plain": "1,2,5,15,UA,EWR,IAH,1400,2.5\n", "quoted": "1,2,5,15,\"UA\",\"EWR\",\"IAH\",1400,2.5\n"} {
		text := "month,day,hour,minute,carrier,origin,dest,distance,dep_delay\n" + strings.Repeat(row, 30_000)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if rows, ok := CountRows(text); rows != 30_000 || !ok {
					b.Fatal(rows, ok)
				}
			}
		})
	}
}

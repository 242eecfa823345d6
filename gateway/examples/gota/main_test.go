package main

import (
	"strings"
	"testing"

	"github.com/go-gota/gota/dataframe"
)

func TestPrepare(t *testing.T) {
	const flights = "tailnum,month,day,hour,minute,carrier,origin,dest,distance,dep_delay\n" +
		"N14228,1,2,5,15,UA,EWR,IAH,1400,2\n" +
		"N24211,1,2,5,29,UA,LGA,IAH,1416,\n" +
		"N619AA,1,2,5,40,AA,JFK,MIA,1089,NA\n"
	const want = "month,day,hour,minute,carrier,origin,dest,distance,dep_delay\n1,2,5,15,UA,EWR,IAH,1400,2\n"
	if got, err := prepare(strings.NewReader(flights)); err != nil || got != want {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := prepare(strings.NewReader("month,day\n1,2\n")); err == nil {
		t.Errorf("a table without dep_delay became %q", got)
	}
}

// If this fails, gota has learned to keep digits, and what the example says of it is history.
func TestFloatsLoseDigits(t *testing.T) {
	for in, want := range map[string]string{"0.1234567891": "0.123457", "1e-9": "0.000000"} {
		if got := dataframe.ReadCSV(strings.NewReader("x\n" + in + "\n")).Records()[1][0]; got != want {
			t.Errorf("%s came out as %s, not as %s", in, got, want)
		}
	}
}

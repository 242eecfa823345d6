// Command gota prepares flights with a Go data frame before it asks a Prediction server, and shows what that does to
// numbers.
//
//	gota -csv flights.csv
//	gota -show-digits
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/go-gota/gota/dataframe"
	"github.com/go-gota/gota/series"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"example.com/predserver/generated/predpb"
)

func main() {
	address := flag.String("address", "127.0.0.1:50051", "address of the Prediction server")
	timeout := flag.Duration("timeout", 10*time.Second, "how long to wait for the answer")
	name := flag.String("csv", "flights.csv", "table of flights")
	digits := flag.Bool("show-digits", false, "show what a data frame does to digits, and end")
	flag.Parse()

	if *digits {
		showDigits()
		return
	}
	if err := predict(*name, *address, *timeout); err != nil {
		fmt.Fprintln(os.Stderr, "gota:", err)
		os.Exit(1)
	}
}

// predict prints the predictions for the flights in the named file whose departure delay is known.
func predict(name, address string, timeout time.Duration) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	table, err := prepare(file)
	if err != nil {
		return err
	}

	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	res, err := predpb.NewPredictionClient(conn).Predict(ctx, &predpb.Request{InputData: table})
	if err != nil {
		return err
	}
	fmt.Print(res.Result)
	return nil
}

// prepare drops the flights whose departure delay is unknown, and the columns that the model does not need.
func prepare(flights io.Reader) (string, error) {
	known := func(delay series.Element) bool { return !delay.IsNA() }
	df := dataframe.ReadCSV(flights).
		Filter(dataframe.F{Colname: "dep_delay", Comparator: series.CompFunc, Comparando: known}).
		Select([]string{"month", "day", "hour", "minute", "carrier", "origin", "dest", "distance", "dep_delay"})
	var table strings.Builder
	err := df.WriteCSV(&table) // also returns what went wrong in the steps before
	return table.String(), err
}

// showDigits sends numbers through a data frame as floats, which gota prints with six decimals, and as strings.
func showDigits() {
	const csv = "x\n0.1234567891\n1e-9\n12345678.123456789\n"
	floats := dataframe.ReadCSV(strings.NewReader(csv)).Records()
	texts := dataframe.ReadCSV(strings.NewReader(csv), dataframe.DetectTypes(false)).Records()
	for i, in := range strings.Fields(csv) {
		if i > 0 { // 0 is the header
			fmt.Printf("%-18s as float %-18s as string %s\n", in, floats[i][0], texts[i][0])
		}
	}
}

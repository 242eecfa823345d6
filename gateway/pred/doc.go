// Package pred asks a prediction server for predictions: a table in, one prediction for each of its rows out.
//
// A Client holds its connections for as long as the program runs. Make one at the start and share it; all its methods
// may be called by several goroutines at once.
//
//	client, err := pred.New("127.0.0.1:50051")
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//
//	predictions, err := client.Predict(ctx, pred.Table{
//		pred.NewColumn("x", []float64{1, 3}),
//		pred.NewColumn("y", []float64{2, 4}),
//	})
//	if err != nil {
//		return err // a *pred.Error
//	}
//	sums, err := predictions.Float64s()
//
// Every error of a call is an *Error. The client waits for a server that is away (WithRetries), gives up a connection
// that has gone dead, and balances calls over several servers (New).
package pred

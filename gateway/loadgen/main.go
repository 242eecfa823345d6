// Command loadgen makes the calls of a measurement; gateway/internal/load says how. The lab orders them.
package main

import "example.com/predserver/gateway/internal/load"

func main() { load.Main(nil) }

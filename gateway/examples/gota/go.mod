// A module of its own, so that gota and gonum are downloaded and built only for those who want them.
module example.com/predserver/gateway/examples/gota

go 1.26.0

replace example.com/predserver => ../../..

require (
	example.com/predserver v0.0.0
	github.com/go-gota/gota v0.12.0
	google.golang.org/grpc v1.85.0
)

require (
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	gonum.org/v1/gonum v0.17.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20261104224025-d1e00e9f33ab // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

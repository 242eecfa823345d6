// A module of its own, as it needs cgo, a C compiler, and ONNX Runtime's shared library.
module example.com/predserver/gateway/loadgen/inprocess

go 1.26.0

replace (
	example.com/predserver => ../../..
	example.com/predserver/gateway/examples/inprocess => ../../examples/inprocess
)

require (
	example.com/predserver v0.0.0
	example.com/predserver/gateway/examples/inprocess v0.0.0
)

require (
	github.com/yalue/onnxruntime_go v1.27.0 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sys v0.48.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20261104224025-d1e00e9f33ab // indirect
	google.golang.org/grpc v1.85.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

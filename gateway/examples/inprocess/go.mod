// A module of its own, as it needs cgo, a C compiler, and ONNX Runtime's shared library.
module example.com/predserver/gateway/examples/inprocess

go 1.26.0

require github.com/yalue/onnxruntime_go v1.27.0

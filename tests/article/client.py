"""A client as the article's reader has it: stubs of the article's own proto, on sys.path, and a bare channel.

Usage: client.py FOLDER_OF_STUBS ADDRESS. Reads CSV from stdin, prints the result.
"""

import sys

sys.path.insert(0, sys.argv[1])

import grpc
import pred_pb2
import pred_pb2_grpc

with grpc.insecure_channel(sys.argv[2]) as channel:
    stub = pred_pb2_grpc.PredictionStub(channel)
    sys.stdout.write(stub.Predict(pred_pb2.Request(input_data=sys.stdin.read())).result)

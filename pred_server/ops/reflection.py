"""Reflection: tools ask the server for its contract, by `grpc.reflection.v1` and by the older `v1alpha`.

grpcio-reflection has the messages. Its servicer offers v1alpha alone, and does not find a method by its name.
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import grpc
from google.protobuf import text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

from pred_server.ops.side_streams import SideStreams

PACKAGES = ("grpc.reflection.v1", "grpc.reflection.v1alpha")


class Reflection:
    """Answers questions about the services of some files, and about reflection itself.

    Parameters
    ----------
    files : the contracts that the server keeps; what they import comes along
    streams : bounds how many streams of questions a connection has
    """

    def __init__(self, files: Iterable[FileDescriptor], streams: SideStreams):
        self._streams = streams
        self._files: dict[str, FileDescriptorProto] = {}
        # A pool of its own: the process knows other contracts, too, and they are nobody's business.
        self._pool = DescriptorPool()
        for file in (*files, reflection_pb2.DESCRIPTOR):
            self._add(file)
        self._add_proto(_as_v1(reflection_pb2.DESCRIPTOR))
        self.services = sorted(
            f"{proto.package}.{service.name}" for proto in self._files.values() for service in proto.service
        )

    def handlers(self) -> Iterator[grpc.GenericRpcHandler]:
        """Return the rpcs, as a gRPC server takes them. The messages of both versions are alike on the wire."""
        rpc = grpc.stream_stream_rpc_method_handler(
            self.answer_all, ServerReflectionRequest.FromString, ServerReflectionResponse.SerializeToString
        )
        for package in PACKAGES:
            yield grpc.method_handlers_generic_handler(f"{package}.ServerReflection", {"ServerReflectionInfo": rpc})

    async def answer_all(
        self, questions: AsyncIterator[ServerReflectionRequest], context: Any
    ) -> AsyncIterator[ServerReflectionResponse]:
        async with self._streams.open(context):
            async for question in questions:
                yield self.answer(question)

    def answer(self, question: ServerReflectionRequest) -> ServerReflectionResponse:
        """Answer one question; an error is an answer, too."""
        response = ServerReflectionResponse(valid_host=question.host, original_request=question)
        asked = question.WhichOneof("message_request")
        try:
            match asked:
                case "list_services":
                    for name in self.services:
                        response.list_services_response.service.add(name=name)
                case "file_by_filename":
                    self._write_file(question.file_by_filename, response)
                case "file_containing_symbol":
                    self._write_file(self._file_of(question.file_containing_symbol), response)
                case "file_containing_extension":
                    extended = self._pool.FindMessageTypeByName(question.file_containing_extension.containing_type)
                    number = question.file_containing_extension.extension_number
                    extension = self._pool.FindExtensionByNumber(extended, number)
                    self._write_file(self._file_of(extension.full_name), response)
                case "all_extension_numbers_of_type":
                    extended = self._pool.FindMessageTypeByName(question.all_extension_numbers_of_type)
                    response.all_extension_numbers_response.base_type_name = extended.full_name
                    numbers = sorted(extension.number for extension in self._pool.FindAllExtensions(extended))
                    response.all_extension_numbers_response.extension_number.extend(numbers)
                case _:
                    _write_error(response, grpc.StatusCode.INVALID_ARGUMENT, "the request asks nothing")
        except KeyError:
            _write_error(response, grpc.StatusCode.NOT_FOUND, "the server's contract has nothing of that name")
        return response

    def _file_of(self, symbol: str) -> str:
        """Return the name of the file that has a symbol. Raises KeyError."""
        try:
            file = self._pool.FindFileContainingSymbol(symbol)
        except KeyError:  # the pool finds everything so, but no methods
            file = self._pool.FindMethodByName(symbol).containing_service.file
        return str(file.name)

    def _write_file(self, name: str, response: ServerReflectionResponse) -> None:
        """Write a file, and after it all files that it imports, directly or not. Raises KeyError."""
        names = [name]
        for current in names:  # grows
            proto = self._files[current]
            names.extend(imported for imported in proto.dependency if imported not in names)
            response.file_descriptor_response.file_descriptor_proto.append(proto.SerializeToString())

    def _add(self, file: FileDescriptor) -> None:
        for imported in file.dependencies:
            self._add(imported)
        proto = FileDescriptorProto()
        file.CopyToProto(proto)
        self._add_proto(proto)

    def _add_proto(self, proto: FileDescriptorProto) -> None:
        self._pool.Add(proto)
        self._files[proto.name] = proto


def _as_v1(file: FileDescriptor) -> FileDescriptorProto:
    """Return the contract of v1: that of v1alpha under another name."""
    proto = FileDescriptorProto()
    file.CopyToProto(proto)
    return text_format.Parse(text_format.MessageToString(proto).replace("v1alpha", "v1"), FileDescriptorProto())


def _write_error(response: ServerReflectionResponse, code: grpc.StatusCode, message: str) -> None:
    response.error_response.error_code, response.error_response.error_message = code.value[0], message

"""Reflection by raw calls, as tools make them, in both versions."""

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.reflection_pb2 import (
    ExtensionRequest,
    ServerReflectionRequest,
    ServerReflectionResponse,
)

from pred_server.tutorial.background import Server

SERVICES = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "prediction.Prediction",
]


@pytest.fixture(params=["v1", "v1alpha"])
def ask(request: pytest.FixtureRequest, sum_server: Server) -> Iterator[object]:
    """Asks one question in a call of its own."""
    with grpc.insecure_channel(sum_server.address) as channel:
        call = channel.stream_stream(
            f"/grpc.reflection.{request.param}.ServerReflection/ServerReflectionInfo",
            ServerReflectionRequest.SerializeToString,
            ServerReflectionResponse.FromString,
        )

        def ask(**question: object) -> ServerReflectionResponse:
            sent = ServerReflectionRequest(**question)
            (answer,) = call(iter([sent]), timeout=30)
            assert answer.original_request == sent
            return answer

        yield ask


def files_of(answer: ServerReflectionResponse) -> list[FileDescriptorProto]:
    return [FileDescriptorProto.FromString(data) for data in answer.file_descriptor_response.file_descriptor_proto]


@pytest.mark.parametrize(
    "symbol",
    [
        "prediction.Prediction",
        "prediction.Prediction.Predict",
        "prediction.Prediction.PredictStream",
        "prediction.Request",
        "prediction.Request.input_data",
    ],
)
def test_the_file_that_has_a_symbol(ask: object, symbol: str) -> None:
    files = files_of(ask(file_containing_symbol=symbol))
    assert files[0].package == "prediction"
    assert [method.name for method in files[0].service[0].method] == ["Predict", "PredictStream", "Describe"]
    (again,) = files_of(ask(file_by_filename=files[0].name))
    assert again == files[0]


def test_every_service_of_the_list_can_be_looked_up_and_its_messages_made(ask: object) -> None:
    listed = [service.name for service in ask(list_services="").list_services_response.service]
    assert listed == SERVICES
    for name in listed:
        pool = DescriptorPool()
        for file in reversed(files_of(ask(file_containing_symbol=name))):  # imported files come behind
            pool.Add(file)
        service = pool.FindServiceByName(name)
        for method in service.methods:
            assert files_of(ask(file_containing_symbol=method.full_name))
            GetMessageClass(method.input_type)()


@pytest.mark.parametrize(
    "question",
    [
        {"file_containing_symbol": "prediction.Nothing"},
        {"file_containing_symbol": "prediction.Prediction.Nothing"},
        {"file_containing_symbol": "prediction"},
        {"file_containing_symbol": ""},
        {"file_containing_symbol": ".\n\u202e" * 1_000},
        {"file_by_filename": "/etc/passwd"},
        {"file_by_filename": ""},
        {"file_containing_symbol": "google.rpc.Status"},  # the process knows it, but serves nothing of it
        {"file_containing_extension": ExtensionRequest(containing_type="prediction.Request", extension_number=1)},
        {"file_containing_extension": ExtensionRequest(containing_type="prediction.Nothing", extension_number=-1)},
        {"all_extension_numbers_of_type": "prediction.Nothing"},
    ],
)
def test_what_is_not_there_is_an_answer_and_the_call_goes_on(ask: object, question: dict[str, object]) -> None:
    error = ask(**question).error_response
    assert error.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert len(error.error_message) < 100


def test_a_message_without_extensions_has_none(ask: object) -> None:
    answer = ask(all_extension_numbers_of_type="prediction.Request").all_extension_numbers_response
    assert (answer.base_type_name, list(answer.extension_number)) == ("prediction.Request", [])


def test_a_question_without_a_question_is_the_callers_fault(ask: object) -> None:
    assert ask(host="localhost").error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_one_call_answers_many_questions_in_their_order(sum_server: Server) -> None:
    symbols = ["prediction.Request", "prediction.Nothing", "prediction.Prediction.Predict"] * 20
    with grpc.insecure_channel(sum_server.address) as channel:
        call = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            ServerReflectionRequest.SerializeToString,
            ServerReflectionResponse.FromString,
        )
        asked = (ServerReflectionRequest(file_containing_symbol=symbol) for symbol in symbols)
        answers = list(call(asked, timeout=60))
    assert [answer.original_request.file_containing_symbol for answer in answers] == symbols
    assert [answer.HasField("error_response") for answer in answers] == [False, True, False] * 20

"""What a client is made of: addresses and settings as people write them; copies, pickles, forks, event loops."""

import asyncio
import copy
import math
import multiprocessing
import pickle
import re
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pred_server import Client, serve
from pred_server.errors import InvalidInput, ServerStartError
from pred_server.limits import MIB, Limits
from pred_server.tutorial.background import Server
from pred_server.wire.address import Address, parse_address, parse_target

TABLE = pd.DataFrame({"x": [1.0], "y": [2.0]})
SOMEWHERE = "127.0.0.1:50051"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:50051", Address("127.0.0.1", 50051)),
        (" LOCALHOST:0 ", Address("localhost", 0)),
        ("[::1]:65535", Address("::1", 65535)),
        ("models_1.example-host.com:80", Address("models_1.example-host.com", 80)),
        ("unix:80", Address("unix", 80)),  # a name like any other
        (" unix:/tmp/Pred.sock ", Address("", 0, "/tmp/Pred.sock")),
        ("unix:///tmp/pred.sock", Address("", 0, "/tmp/pred.sock")),
        ("unix:/" + "a" * 106, Address("", 0, "/" + "a" * 106)),
        ("unix:/home/müller/a+b=c:d@e~f", Address("", 0, "/home/müller/a+b=c:d@e~f")),
    ],
)
def test_addresses_that_are_taken(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


BAD_ADDRESSES = {
    "localhost": "the port is missing",
    "": "the port is missing",
    "[::1]": "the port is missing",
    ":50051": "the host is missing",
    "::1:50051": "an IPv6 address stands in brackets",
    "::1": "an IPv6 address stands in brackets",
    "a:b:1": "an IPv6 address stands in brackets",
    "http://127.0.0.1:50051": "leave out 'http://'",
    "grpc://localhost:50051": "leave out 'grpc://'",
    "localhost:fifty": "the port is a number",
    "localhost:65536": "the port is a number",
    "localhost:-1": "the port is a number",
    "localhost:٣": "the port is a number",
    "localhost:": "the port is a number",
    "256.0.0.1:50051": "neither a name nor an IP address",
    "127.1:50051": "neither a name nor an IP address",
    "[localhost]:50051": "neither a name nor an IP address",
    "[1::2::3]:50051": "neither a name nor an IP address",
    "[127.0.0.1]:50051": "neither a name nor an IP address",
    "my host:50051": "neither a name nor an IP address",
    "user@host:50051": "neither a name nor an IP address",
    "*:50051": "neither a name nor an IP address",
    "host/path:50051": "neither a name nor an IP address",
}


@pytest.mark.parametrize("text", BAD_ADDRESSES)
def test_an_address_that_is_none_is_refused_at_once_by_a_sentence_that_says_what_to_write(text: str) -> None:
    sentence = f"{re.escape(BAD_ADDRESSES[text])}.*; write HOST:PORT, for example"
    with pytest.raises(InvalidInput, match=sentence):
        parse_address(text)
    with pytest.raises(InvalidInput, match=sentence):
        Client(text)
    with pytest.raises(InvalidInput, match=sentence):
        Client(f"{SOMEWHERE},{text}")


BAD_SOCKETS = {
    "unix:": "the path begins with one /",
    "unix:pred.sock": "the path begins with one /",
    "unix://host/pred.sock": "the path begins with one /",
    "unix:////pred.sock": "the path begins with one /",
    "unix:/a b": "no white space",
    "unix:/a%20b": "no white space, and none of %",
    "unix:/a?b": "no white space, and none of %",
    "unix:/a\0b": "no white space",
    "unix:/a\ud800": "no white space",
    "unix:@pred": "an abstract name has no file",
    "unix:\0pred": "an abstract name has no file",
    "unix-abstract:pred": "an abstract name has no file",
    "unix:/" + "a" * 107: "the path has 108 bytes, and a socket's may have 107",
    "unix:/" + "ü" * 54: "the path has 109 bytes, and a socket's may have 107",
}


@pytest.mark.parametrize("text", BAD_SOCKETS)
def test_a_socket_that_cannot_be_is_refused_by_a_sentence_that_says_what_to_write(text: str) -> None:
    sentence = f"{re.escape(BAD_SOCKETS[text])}.*; write unix:/PATH, for example"
    with pytest.raises(InvalidInput, match=sentence):
        parse_address(text)
    with pytest.raises(InvalidInput, match=sentence):
        Client(text)


@pytest.mark.parametrize("text", ["unix:/a,unix:/b", "127.0.0.1:1,unix:/b", "dns:///unix:/a"])
def test_a_socket_stands_in_no_list(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"a list holds IP addresses"):
        Client(text)


def test_a_server_takes_no_path_that_its_clients_would_read_as_a_list() -> None:
    with pytest.raises(InvalidInput, match="none of %"):
        parse_address("unix:/a,b")


@pytest.mark.parametrize("value", [50051, None, b"localhost:50051", ("localhost", 50051), Path("a")])
def test_an_address_is_text(value: Any) -> None:
    with pytest.raises(InvalidInput, match=r"an address is text, not .*write HOST:PORT"):
        Client(value)


@pytest.mark.parametrize(
    ("text", "target", "several"),
    [
        ("LocalHost:1", "dns:///localhost:1", False),
        ("[::1]:1", "dns:///[::1]:1", False),
        ("dns:///models:1", "dns:///models:1", True),
        ("unix:/tmp/Pred.sock", "unix:/tmp/Pred.sock", False),
        ("unix:///tmp/pred.sock", "unix:/tmp/pred.sock", False),
        ("127.0.0.1:1, localhost:2", "ipv4:127.0.0.1:1,127.0.0.1:2", True),
        ("[::1]:1,[::2]:2", "ipv6:[::1]:1,[::2]:2", True),
        ("[::ffff:127.0.0.1]:1,127.0.0.1:2", "ipv4:127.0.0.1:1,127.0.0.1:2", True),
    ],
)
def test_whom_a_client_may_ask(text: str, target: str, several: bool) -> None:
    assert parse_target(text) == (target, several)


@pytest.mark.parametrize("text", ["a:1,b:2", "127.0.0.1:1,[::1]:2", "dns:///127.0.0.1:1,127.0.0.1:2"])
def test_a_list_holds_ip_addresses_of_one_kind(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"a list holds IP addresses, .* write dns:///HOST:PORT"):
        Client(text)


def test_port_0_is_for_servers() -> None:
    with pytest.raises(InvalidInput, match="port 0 is for servers"):
        Client("127.0.0.1:0")


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("::1:0", r"stands in brackets; write HOST:PORT, for example .* or \[::1\]:50051"),
        ("http://127.0.0.1:0", "leave out 'http://'"),
        ("0.0.0.0:0", "can be reached from the network"),
    ],
)
def test_a_server_reads_addresses_as_a_client_does(address: str, sentence: str) -> None:
    with pytest.raises(ServerStartError, match=sentence):
        serve("sum", "--address", address)


@pytest.mark.parametrize("address", ["LOCALHOST:0", "[::ffff:127.0.0.1]:0"])
def test_a_server_takes_loopback_as_people_write_it(address: str) -> None:
    with serve("sum", "--address", address) as server:
        assert server.client().predict(TABLE).tolist() == [3.0]


def test_a_list_of_servers_is_asked_in_turn() -> None:
    with serve("sum", "--log-level", "info") as first, serve("sum", "--log-level", "info") as second:
        with Client(f"{first.address},{second.address}") as client:
            for _ in range(20):
                assert client.predict(TABLE).tolist() == [3.0]
            first.close()
            for _ in range(20):
                assert client.predict(TABLE).tolist() == [3.0]
        assert "Predict " in first.logs()
        assert "Predict " in second.logs()


@pytest.mark.parametrize("timeout_s", ["5", 0, -1, math.nan, True, None, b"5", 1j, [5]])
def test_a_timeout_is_a_number_of_seconds_above_0(timeout_s: Any) -> None:
    sentence = f"timeout_s is {re.escape(repr(timeout_s))}; a number of seconds above 0"
    with pytest.raises(InvalidInput, match=sentence):
        Client(SOMEWHERE, timeout_s=timeout_s)
    with Client(SOMEWHERE) as client:
        with pytest.raises(InvalidInput, match=sentence):
            list(client.predict_stream([TABLE], timeout_s=timeout_s))
        if timeout_s is not None:  # which means the client's own
            with pytest.raises(InvalidInput, match=sentence):
                client.predict(TABLE, timeout_s=timeout_s)
            with pytest.raises(InvalidInput, match=sentence):
                client.describe(timeout_s=timeout_s)


@pytest.mark.parametrize("timeout_s", [5, 0.5, math.inf, np.float32(5), np.int64(5)])
def test_numbers_of_any_library_are_taken(timeout_s: Any, sum_server: Server) -> None:
    with Client(sum_server.address, timeout_s=timeout_s) as client:
        assert client.predict(TABLE, timeout_s=timeout_s).tolist() == [3.0]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"encoding": "xml"}, "encoding 'xml': use auto, csv"),
        ({"encoding": None}, "encoding 'None': use auto, csv"),
        ({"encoding": ["csv"]}, "use auto, csv"),
        ({"connections": 0}, "connections is 0"),
        ({"connections": 1.5}, "connections is 1.5"),
        ({"connections": True}, "connections is True"),
        ({"connections": "2"}, "connections is '2'"),
        ({"retry": "no"}, "retry is 'no'; True or False"),
        ({"limits": {"max_rows": 1}}, r"limits is \{.*pred_server\.limits\.Limits"),
        ({"model": 7}, "model-name is 7; text is needed"),
        ({"version": 1}, "model-version is 1; text is needed"),
        ({"model": "modèle"}, "plain ASCII is needed"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        Client(SOMEWHERE, **settings)


@pytest.mark.parametrize("chunks", ["x,y\n1,2\n", b"x", TABLE])
def test_one_table_is_no_list_of_tables(chunks: Any) -> None:
    with Client(SOMEWHERE) as client, pytest.raises(InvalidInput, match="a list or an iterator of tables is needed"):
        client.predict_stream(chunks)


def of_settings(client: Client) -> str:
    return repr(client) + client.encoding + repr(client._limits) + repr(client._connection._metadata)


@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, lambda client: pickle.loads(pickle.dumps(client))],
    ids=["copy", "deep", "pickle"],
)
def test_a_copy_and_a_pickle_have_the_settings_and_a_connection_of_their_own(again: Any, sum_server: Server) -> None:
    limits = Limits(max_message_bytes=MIB)
    with Client(sum_server.address, timeout_s=20, model="sum", encoding="csv", retry=False, limits=limits) as client:
        client.predict(TABLE)
        with again(client) as other:
            assert of_settings(other) == of_settings(client)
            client.close()
            assert other.predict(TABLE).tolist() == [3.0]


def test_processes_that_are_started_anew_take_a_client_along(sum_server: Server) -> None:
    with Client(sum_server.address) as client:
        client.predict(TABLE)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            assert pool.submit(client.predict, TABLE).result().tolist() == [3.0]


def test_in_an_event_loop_a_client_warns_once_and_names_the_page(sum_server: Server) -> None:
    async def ask() -> list[str]:
        with warnings.catch_warnings(record=True) as caught, Client(sum_server.address) as client:
            warnings.simplefilter("always")
            for _ in range(2):
                assert client.predict(TABLE).tolist() == [3.0]
            client.describe()
            assert all(warning.filename == __file__ for warning in caught)
            return [str(warning.message) for warning in caught]

    (sentence,) = asyncio.run(ask())
    assert sentence == "a Client blocks the event loop that runs here; docs/clients.md shows a client for asyncio"


def test_without_an_event_loop_it_does_not(sum_server: Server) -> None:
    with warnings.catch_warnings(), Client(sum_server.address) as client:
        warnings.simplefilter("error")
        client.predict(TABLE)

"""The kinds of attack. A function is one round, which an attacker repeats until its time is over."""

import functools
import gzip
import struct
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa

from pred_server.generated.pred_pb2 import Column, Columns, Request, Tensor
from pred_server.limits import MIB
from tests.attacks import http2
from tests.attacks.attack import Attack
from tests.attacks.http2 import DESCRIBE, PREDICT, PREDICT_STREAM, framed

KINDS: dict[str, Callable[[Attack], object]] = {}
ROWS = 1_000_000  # the limit that a server has by default
HEALTH = "/grpc.health.v1.Health"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
FLIGHTS = (("model-name", "flights"),)


def kind(attack: Callable[[Attack], object]) -> Callable[[Attack], object]:
    KINDS[attack.__name__] = attack
    return attack


def ask(attack: Attack, message: bytes, n_calls: int = 4, metadata: http2.Metadata = ()) -> None:
    """Ask so many times at once, and wait for the answers."""
    connection = attack.connection()
    streams = [connection.call(PREDICT, message, metadata=metadata) for _ in range(n_calls)]
    connection.wait(*streams, seconds=attack.left_s)


# Messages


def field(number: int, content: bytes) -> bytes:
    """Return a field of bytes as protobuf writes it."""
    length, head = len(content), bytearray([number << 3 | 2])
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    return bytes([*head, length]) + content


@functools.cache
def csv(n_rows: int, row: str = "1,2", end: str = "", header: str = "x,y") -> bytes:
    return Request(input_data=f"{header}\n{f'{row}{chr(10)}' * n_rows}{end}").SerializeToString()


@functools.cache
def tensor(n_rows: int, n_columns: int = 2) -> bytes:
    content = bytes(8 * n_rows * n_columns)
    return Request(tensor=Tensor(dtype="float64", shape=[n_rows, n_columns], data=content)).SerializeToString()


@functools.cache
def columns(n_rows: int) -> bytes:
    lists = [Column(name=name, float64=np.zeros(n_rows)) for name in "xy"]
    return Request(columns=Columns(columns=lists)).SerializeToString()


def arrow(table: pa.Table, **options: object) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return Request(arrow=sink.getvalue().to_pybytes()).SerializeToString()


# Callers who do not read, or do not send


@kind
def unread_replies(attack: Attack) -> None:
    """Ask a thousand small questions, and read no answer."""
    connection = attack.connect(window=0)
    for _ in range(1_000):
        connection.call(PREDICT, csv(1))
    attack.linger()


@kind
def unread_large_replies(attack: Attack) -> None:
    """Ask for the predictions of large tables, and read no answer."""
    connection = attack.connect(window=0)
    for _ in range(20):
        connection.call(PREDICT, tensor(100_000))
    attack.linger(2)


@kind
def unread_chunks(attack: Attack) -> None:
    """Send chunk after chunk of a stream, and read no answer."""
    connection = attack.connect(window=0)
    for _ in range(20):
        connection.call(PREDICT_STREAM, *[tensor(10_000)] * 20, end=False)
    attack.linger()


@kind
def idle_streams(attack: Attack) -> None:
    """Open a thousand streams that send nothing."""
    connection = attack.connect()
    for _ in range(1_000):
        connection.call(PREDICT_STREAM, end=False)
    attack.linger()


@kind
def half_messages(attack: Attack) -> None:
    """Begin messages of 48 MiB, and leave out their ends."""
    connection = attack.connect()
    half = framed(bytes(24 * MIB), size=48 * MIB)
    for _ in range(8):
        connection.send(connection.call(PREDICT, end=False), half)
    attack.linger(2)


@kind
def slow_drips(attack: Attack) -> None:
    """Send a hundred messages at once, byte by byte."""
    connection = attack.connection()
    streams = [connection.call(PREDICT, end=False) for _ in range(100)]
    for place in range(len(framed(csv(3)))):
        for stream in streams:
            connection.send(stream, framed(csv(3))[place : place + 1])
        attack.linger(0.05)
    for stream in streams:
        connection.end(stream)


@kind
def silent_connections(attack: Attack) -> None:
    """Keep two hundred connections without a call."""
    for _ in range(199):
        attack.connect()
    attack.linger(2)
    attack.disconnect()


# Fields that unfold


@kind
def empty_columns(attack: Attack) -> None:
    """Send 8 million columns without name and values: 16 MiB that unfold to two hundred times as much."""
    ask(attack, field(3, field(1, b"") * (8 << 20)))


@kind
def empty_texts(attack: Attack) -> None:
    """Send columns of a million empty texts, two bytes each."""
    texts = b"".join(field(1, field(1, name) + field(7, b"") * ROWS) for name in (b"origin", b"dest", b"carrier"))
    ask(attack, field(3, texts), metadata=FLIGHTS)


@kind
def too_many_texts(attack: Attack) -> None:
    """Send a column of sixteen million empty texts."""
    ask(attack, field(3, field(1, field(1, b"x") + field(7, b"") * (16 << 20))))


@kind
def repeated_parts(attack: Attack) -> None:
    """Send a message that holds its only part a million times: protobuf merges them."""
    part = Columns(columns=[Column(name="x", float64=[1.0])]).SerializeToString()
    ask(attack, field(3, part) * ROWS)
    ask(attack, field(2, b"") * (8 * ROWS))


@kind
def many_names(attack: Attack) -> None:
    """Send a tensor with a million names, and one with a million categories."""
    ask(attack, field(2, field(3, b"x") * ROWS))
    ask(attack, field(2, field(6, b"") * ROWS))


@kind
def long_shape(attack: Attack) -> None:
    """Send a tensor of a million dimensions, which are one, and of two that are huge."""
    ask(attack, field(2, field(2, b"\x01" * ROWS)))
    huge = Tensor(dtype="float64", shape=[1 << 62, 1 << 62], data=bytes(16))
    ask(attack, Request(tensor=huge).SerializeToString())


@kind
def arrow_nulls(attack: Attack) -> None:
    """Send a billion rows of nulls, which take no bytes."""
    ask(attack, arrow(pa.table({name: pa.nulls(1_000_000_000) for name in "xy"})), 20)


@kind
def arrow_many_batches(attack: Attack) -> None:
    """Send a table in ten thousand record batches."""
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"x": [1.0], "y": [2.0]})
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        for _ in range(10_000):
            writer.write_batch(batch)
    ask(attack, Request(arrow=sink.getvalue().to_pybytes()).SerializeToString())


@kind
def arrow_dictionaries(attack: Attack) -> None:
    """Send a long text once, and a million rows that refer to it."""
    texts = pa.DictionaryArray.from_arrays(np.zeros(ROWS, np.int8), ["a" * 10_000])
    ask(attack, arrow(pa.table({"x": texts, "y": texts})))


@kind
def arrow_compressed(attack: Attack) -> None:
    """Send 512 MiB of zeros in Arrow's own compression."""
    ask(attack, _compressed(64 * MIB // 2), 8)


@functools.cache
def _compressed(n_rows: int) -> bytes:
    return arrow(pa.table({name: np.zeros(n_rows // 4) for name in "xy"}), compression="zstd")


@kind
def gzip_bombs(attack: Attack) -> None:
    """Send a gigabyte of zeros as gRPC's compression packs it: one megabyte."""
    connection = attack.connection()
    streams = []
    for _ in range(4):
        streams.append(connection.call(PREDICT, metadata=(("grpc-encoding", "gzip"),), end=False))
        connection.send(streams[-1], framed(_bomb(1 << 30), is_compressed=True))
        connection.end(streams[-1])
    connection.wait(*streams, seconds=attack.left_s)


@kind
def small_gzip_bombs(attack: Attack) -> None:
    """Send 60 MiB of rows as gRPC's compression packs them: each message may be as large, but not all together."""
    rows = framed(_packed_rows(), is_compressed=True)
    connection = attack.connection()
    streams = []
    for _ in range(20):
        streams.append(connection.call(PREDICT, metadata=(("grpc-encoding", "gzip"),), end=False))
        connection.send(streams[-1], rows)
        connection.end(streams[-1])
    connection.wait(*streams, seconds=attack.left_s)


@functools.cache
def _bomb(size: int) -> bytes:
    members, left = [], size
    zeros = gzip.compress(bytes(min(size, 16 * MIB)))
    while left > 0:  # gzip takes several files, one behind the other, for one
        members.append(zeros)
        left -= 16 * MIB
    return b"".join(members)


@functools.cache
def _packed_rows() -> bytes:
    return gzip.compress(csv(15 << 20), compresslevel=1)


# Tables that are refused


@kind
def too_many_rows_csv(attack: Attack) -> None:
    """Send three million rows of text, where one million are allowed."""
    ask(attack, csv(3 * ROWS))


@kind
def too_many_rows_tensor(attack: Attack) -> None:
    """Send three million rows of a tensor."""
    ask(attack, tensor(3 * ROWS))


@kind
def too_many_rows_columns(attack: Attack) -> None:
    """Send three million rows in columns."""
    ask(attack, columns(3 * ROWS))


@kind
def too_many_rows_arrow(attack: Attack) -> None:
    """Send three million rows of Arrow."""
    ask(attack, _arrow_rows(3 * ROWS))


@functools.cache
def _arrow_rows(n_rows: int) -> bytes:
    return arrow(pa.table({name: np.zeros(n_rows) for name in "xy"}))


@kind
def bad_last_row(attack: Attack) -> None:
    """Send a million rows of text whose last has a letter."""
    ask(attack, csv(ROWS - 1, "1234567.25,2345678.5", "1,z\n"))


@kind
def wide_rows(attack: Attack) -> None:
    """Send a row of two million fields, and a header of as many names."""
    ask(attack, csv(1, ",".join(["1"] * 2 * ROWS)))
    ask(attack, csv(1, "1,2", header="x,y" + ",z" * 2 * ROWS))


@kind
def many_columns_of_rows(attack: Attack) -> None:
    """Send two thousand rows of ten thousand columns that no model knows."""
    row = ",".join(["1"] * 10_000)
    ask(attack, csv(2_000, row, header="x,y," + ",".join(f"z{place}" for place in range(9_998))))


@kind
def huge_numbers(attack: Attack) -> None:
    """Send numbers of a million digits: to read one may take time that grows with the square of its length."""
    ask(attack, csv(10, "9" * ROWS + ",1"))
    ask(attack, csv(10, "1" * ROWS + "e-" + "9" * 100_000 + ",1"))


@kind
def hexadecimals(attack: Attack) -> None:
    """Send numbers as no table should have them: hexadecimal, with lines between digits, infinite, not a number."""
    for row in ("0x1p-3,0xff", "1_000,2", "inf,-inf", "nan,NaN", "1e999,-1e999", "٣,４"):
        ask(attack, csv(100_000, row), 2)


@kind
def long_fields(attack: Attack) -> None:
    """Send a text of 30 MiB as one field of a table of flights."""
    header = "month,day,hour,minute,carrier,origin,dest,distance,dep_delay"
    ask(attack, csv(1, f"1,1,1,1,{'A' * 30 * MIB},JFK,LAX,1,1", header=header), metadata=FLIGHTS)


@kind
def quotes(attack: Attack) -> None:
    """Send fields that never end, and fields of nothing but quotes."""
    ask(attack, csv(1, '"' + "1,2\n" * 4 * ROWS))
    ask(attack, csv(1, '"' * 16 * MIB))
    ask(attack, csv(200_000, '"1\n\n\n","2""3"'))


@kind
def blank_lines(attack: Attack) -> None:
    """Send thirty million blank lines, which are no rows."""
    ask(attack, csv(30 * ROWS, ""))


@kind
def mutations(attack: Attack) -> None:
    """Send good messages with some bytes changed, and bytes without any sense."""
    connection, streams = attack.connection(), []
    for message in (csv(10), tensor(10), columns(10), _arrow_rows(10)):
        for _ in range(25):
            data = bytearray(message)
            for _ in range(attack.rng.randint(1, 4)):
                data[attack.rng.randrange(len(data))] = attack.rng.randrange(256)
            streams.append(connection.call(attack.rng.choice((PREDICT, PREDICT_STREAM, DESCRIBE)), bytes(data)))
    connection.wait(*streams, seconds=attack.left_s)


# Storms


@kind
def cancel_storm(attack: Attack) -> None:
    """Send large tables, and cancel the calls once they are sent."""
    connection = attack.connection()
    streams = [connection.call(PREDICT, csv(ROWS // 2)) for _ in range(4)]
    for stream in streams:
        connection.reset(stream)


@kind
def deadline_storm(attack: Attack) -> None:
    """Send tables that take longer to read than their deadline allows."""
    ask(attack, csv(ROWS // 10), 20, metadata=(("grpc-timeout", "5m"),))


@kind
def connect_storm(attack: Attack) -> None:
    """Connect, ask, and leave before the answer is there."""
    attack.connect().call(PREDICT, csv(1))
    attack.disconnect()


@kind
def reset_flood(attack: Attack) -> None:
    """Begin calls and cancel them in the same breath."""
    connection = attack.connection()
    for _ in range(500):
        connection.reset(connection.call(PREDICT, csv(1)))
    connection.receive(0)


@kind
def ping_flood(attack: Attack) -> None:
    """Send pings by the thousand, and do not read what they are answered."""
    attack.connection().write(http2.frame(http2.PING, 0, 0, bytes(8)) * 5_000)


@kind
def settings_flood(attack: Attack) -> None:
    """Change the settings by the thousand, and do not read what they are answered."""
    attack.connection().write(http2.frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 100_000)) * 5_000)


@kind
def window_flood(attack: Attack) -> None:
    """Open the window of a call byte by byte, and send data without any."""
    connection = attack.connection()
    stream = connection.call(PREDICT_STREAM, end=False)
    connection.write(http2.frame(http2.WINDOW_UPDATE, 0, stream, struct.pack(">I", 1)) * 2_000)
    connection.write(http2.frame(http2.DATA, 0, stream) * 2_000)
    connection.reset(stream)
    connection.receive(0)


@kind
def header_flood(attack: Attack) -> None:
    """Begin headers that never end."""
    connection = attack.connect()
    block = b"\0\x01a\x7f\x00" + bytes([97]) * 127
    connection.write(http2.frame(http2.HEADERS, 0, 1, http2.header_block(PREDICT)))
    for _ in range(1_000):
        connection.write(http2.frame(http2.CONTINUATION, 0, 1, block * 100))
    connection.receive(0)


@kind
def long_metadata(attack: Attack) -> None:
    """Send metadata of 7, 15 and 60 KiB."""
    connection, streams = attack.connection(), []
    for kib in (7, 15):
        for place in range(20):
            name = ("x-request-id", "model-name", "output")[place % 3]
            streams.append(connection.call(PREDICT, csv(1), metadata=((name, "a" * 1024 * kib),)))
    streams.append(connection.call(PREDICT, csv(1), metadata=[(f"a{place}", "a" * 1000) for place in range(15)]))
    connection.wait(*streams, seconds=attack.left_s)


@kind
def unknown_methods(attack: Attack) -> None:
    """Call methods and services that nobody has."""
    connection = attack.connection()
    paths = [f"/prediction.Prediction/{attack.rng.random()}" for _ in range(100)] + ["/", "", "//", "/a/b/c"]
    connection.wait(*[connection.call(path, csv(1)) for path in paths], seconds=attack.left_s)


@kind
def unknown_models(attack: Attack) -> None:
    """Ask for models that are not there."""
    names = [(("model-name", f"{attack.rng.random()}" * 50),) for _ in range(100)]
    connection = attack.connection()
    streams = [connection.call(PREDICT, csv(1), metadata=metadata) for metadata in names]
    connection.wait(*streams, seconds=attack.left_s)


@kind
def descriptions(attack: Attack) -> None:
    """Ask what the models take, again and again."""
    connection = attack.connection()
    connection.wait(*[connection.call(DESCRIBE, b"") for _ in range(200)], seconds=attack.left_s)


@kind
def reflection_flood(attack: Attack) -> None:
    """Ask for the contract on streams that stay open."""
    connection = attack.connect()
    for _ in range(200):
        connection.call(REFLECTION, field(4, b"prediction.Prediction"), end=False)
    attack.linger(0.5)


@kind
def health_watches(attack: Attack) -> None:
    """Watch the health of the server on streams that stay open."""
    connection = attack.connect()
    for _ in range(500):
        connection.call(f"{HEALTH}/Watch", field(1, b"prediction.Prediction"))
    attack.linger(0.5)


@kind
def other_protocols(attack: Attack) -> None:
    """Speak HTTP/1.1, TLS and nonsense."""
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
    for data in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", hello, attack.rng.randbytes(10_000), http2.PREFACE[:10]):
        http2.raw(attack.address, data, 0.2)
    attack.n_connections += 4


@kind
def broken_frames(attack: Attack) -> None:
    """Send frames that HTTP/2 forbids: of odd lengths, for calls that are not there, of unknown kinds."""
    for kind_of, size in ((http2.PING, 7), (http2.WINDOW_UPDATE, 3), (http2.DATA, 100), (200, 1_000), (2, 5), (5, 9)):
        connection = attack.connect()
        connection.write(http2.frame(kind_of, attack.rng.randrange(256), attack.rng.choice((0, 1, 7)), bytes(size)))
    attack.linger(0.05)
    attack.disconnect()


@kind
def good_then_bad(attack: Attack) -> None:
    """Open streams whose first chunk is good and whose second is bad."""
    connection, streams = attack.connection(), []
    for _ in range(50):
        streams.append(connection.call(PREDICT_STREAM, csv(1_000), csv(1_000, end="1,z\n"), end=False))
    connection.wait(*streams, seconds=attack.left_s)


# Calls that are good, but too many


@kind
def many_small(attack: Attack) -> None:
    """Ask for a row a thousand times at once."""
    ask(attack, csv(1), 1_000)


@kind
def many_of_a_thousand_rows(attack: Attack) -> None:
    """Ask for as many rows as count as a small table, four hundred times at once."""
    ask(attack, csv(1_000), 400)


@kind
def many_large(attack: Attack) -> None:
    """Ask for a million rows, eight times at once, in turn as text and as a tensor."""
    ask(attack, csv(ROWS, "1234.5,2345.25") if attack.n_rounds % 2 else tensor(ROWS), 8)


@kind
def slow_flights(attack: Attack) -> None:
    """Ask a model that takes its time for all flights of a year, which it can predict."""
    ask(attack, _flights(300_000), 4, FLIGHTS)


@functools.cache
def _flights(n_rows: int) -> bytes:
    one = {"carrier": "AA", "origin": "JFK", "dest": "LAX"}
    numbers = dict.fromkeys(("month", "day", "hour", "minute", "distance", "dep_delay"), 1)
    table = pd.DataFrame(one | numbers, index=range(n_rows)).astype({"distance": float, "dep_delay": float})
    return arrow(pa.Table.from_pandas(table, preserve_index=False))


@kind
def mixed(attack: Attack) -> None:
    """Take any of the others, in turn."""
    KINDS[attack.rng.choice([name for name in KINDS if name != "mixed"])](attack)


# What takes the most memory, of what was tried.
HEAVY = (
    "half_messages",
    "unread_large_replies",
    "small_gzip_bombs",
    "bad_last_row",
    "quotes",
    "many_columns_of_rows",
    "many_large",
    "slow_flights",
)

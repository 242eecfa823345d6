# %% [markdown]
# # 02 · Write the contract
#
# **What exactly do client and server agree on, and how may that change?**
#
# A client in Go and a server in Python share no memory, no language and no release day. What they share is one small
# text file, the *contract*. In this notebook we read it, generate code from it, take the bytes of one message apart,
# and then try to break it.
#
# You will
#
# - read a `.proto` file line by line and generate Python code from it with `protoc`;
# - decode a message by hand, byte by byte, with a decoder of some twenty lines;
# - see which changes of a contract are harmless, which lose data without a word, and how `buf` refuses the latter.
#
# **Needs:** nothing that runs; no network. **Takes:** some ten seconds. **Built before:**
# [01_train_a_model](01_train_a_model.ipynb) trained and saved the `flights` model; here we only borrow its table, to
# have something of real size to send.

# %% [markdown]
# ## Versions
#
# *Protocol Buffers*, or protobuf, is Google's way to describe messages and to turn them into bytes. *gRPC* is a way to
# call a function on another machine; it sends protobuf messages over HTTP/2. `grpcio-tools` brings the compiler
# `protoc`; `buf` checks contracts.

# %%
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

PROGRAMS = {"python": sys.executable, "buf": str(Path(sys.executable).with_name("buf"))}

versions = {"Python": sys.version.split()[0]}
versions |= {package: version(package) for package in ("protobuf", "grpcio", "grpcio-tools")}
versions["buf"] = subprocess.run([PROGRAMS["buf"], "--version"], capture_output=True, text=True).stdout.strip()
print("\n".join(f"{name:12} {found}" for name, found in versions.items()))

# %% tags=["parameters"]
ROWS = 1000  # flights in the largest message

# %% [markdown]
# ## A scratch folder
#
# We shall spoil the contract on purpose, so we work on a copy, in a temporary folder that is laid out as the checkout
# is. `run` runs a program there and returns what one would see in a terminal. (`ROOT`, the folder of the checkout, is
# from `pred_server/checkout.py`.)

# %%
import shlex
import shutil
import tempfile

from pred_server.checkout import ROOT

scratch_folder = tempfile.TemporaryDirectory()
scratch = Path(scratch_folder.name)
for folder in ("proto", "tests/article"):
    shutil.copytree(ROOT / folder, scratch / folder)
shutil.copy(ROOT / "buf.yaml", scratch)


def run(line: str, last: int = 0) -> str:
    """Run a command line in the scratch folder: what was typed, the answer (its `last` lines; 0: all), how it ended."""
    program, *arguments = shlex.split(line)
    done = subprocess.run([PROGRAMS[program], *arguments], cwd=scratch, capture_output=True, text=True)
    answer = (done.stdout + done.stderr).splitlines()[-last:]
    return "\n".join([f"$ {line}", *answer, f"(exit code {done.returncode})"])


# %% [markdown]
# ## The contract
#
# It began with these lines, which the article that this project grew from published. They are kept in
# `tests/article/pred.proto`.

# %% tags=["deterministic"]
from IPython.display import Markdown

article = (scratch / "tests/article/pred.proto").read_text()
Markdown(f"```proto\n{article[article.index('syntax') :]}```")

# %% [markdown]
# Line by line. The last words of each answer a question that the rest of this lesson proves: is this among the bytes
# that a client sends?
#
# - `syntax = "proto3";` is the dialect. In proto3 a plain field that nobody set reads as empty: `""` or `0`.
#   *Not sent.*
# - `package prediction;` is a prefix for all names below, so that two projects may both have a `Request`.
#   **Sent**, as a part of the path.
# - `option go_package = …` says where the Go code belongs. Python ignores it. *Not sent.*
# - `service Prediction { … }` is a *service*: a named group of functions that a server offers. **Sent**, as a part of
#   the path.
# - `rpc Predict(Request) returns (Response);` is an *rpc* (remote procedure call), one such function: its name, the
#   message it takes, the message it gives. Without the word `stream`, it is one message each way. The name is
#   **sent**, as a part of the path.
# - `message Request { … }` is a *message*: a record with typed fields. *Not sent*, not even its name.
# - `string input_data = 1;` is a *field*: its type, its name and its **number**. The `1` is not a default value. The
#   name is *not sent*; the number is **sent**, with a hint of the type that takes three bits.
#
# What does *not* stand here: which columns the CSV must have, their types, the character between them. For protobuf a
# `string` is a string. That part of the agreement is the model's schema, and no compiler checks it.
#
# ## What became of it
#
# This is `proto/pred.proto` today, all of it. The lines above are still there, with the same numbers. The rest was added
# beside them: other ways to send a table, a table in chunks, and a question about the model.

# %% tags=["deterministic"]
contract = (scratch / "proto/pred.proto").read_text()
Markdown(f"```proto\n{contract}```")

# %% [markdown]
# The words that are new:
#
# - `// …` is a comment. protoc copies some of them into the code that it generates. *Not sent.*
# - `stream Request` means any number of messages in that direction, for as long as the call lasts.
# - `Tensor tensor = 2;` is a field whose type is another message: a message within a message. **Sent**, if it is set.
# - `repeated` means any number of values, a list. `map` is a dictionary.
# - `optional` lets the reader tell "empty" from "never set"; a plain field cannot, as we shall see.
# - `bytes` is any bytes; a `string` must be valid UTF-8.
# - `enum` is a choice of names. Its *number* is sent, and 0 is what a reader finds where nobody chose.
#
# What the ways are good for is a question for [03b](03b_under_the_hood.ipynb). In this lesson one plain string is enough.

# %% [markdown]
# ## From the contract to code
#
# `protoc`, the *protocol buffer compiler*, reads a `.proto` and writes code. Three options name three kinds of
# output: the messages, their types for editors and type checkers, and the gRPC classes. The dot is the folder to
# write to; below it, the path is that of the `.proto` as protoc sees it, `generated/pred.proto`.

# %% tags=["deterministic"]
shown = run(
    "python -m grpc_tools.protoc -Igenerated=proto --python_out=. --pyi_out=. --grpc_python_out=. generated/pred.proto"
)
written = sorted((scratch / "generated").iterdir())
print(shown, *(f"{path.stat().st_size:6} bytes  {path.relative_to(scratch)}" for path in written), sep="\n")

# %% [markdown]
# In the checkout, `make stubs` (or `pred-server stubs`, the same thing) does this and writes to `generated/`. Those
# files are committed, so that nobody needs protoc to run the server, and they are never edited: who changes the
# contract generates them anew. Ours should be what lies there.

# %% tags=["deterministic"]
for path in written:
    same = path.read_bytes() == (ROOT / "generated" / path.name).read_bytes()
    print(f"{path.name:16} {'same as' if same else 'DIFFERS from'} generated/{path.name}")

# %% [markdown]
# **The messages.** `pred_pb2.pyi` says how they look to Python: a class for each message, an attribute for each
# field. (`_pb2` is a name from long ago, and says nothing about proto2 or proto3.) Here is the first of them:

# %% tags=["deterministic"]
types = (scratch / "generated/pred_pb2.pyi").read_text()
print("class Request" + types.partition("class Request")[2].partition("\nclass ")[0])

# %% [markdown]
# The classes themselves do not stand in `pred_pb2.py`. That file holds the contract in binary form, a *descriptor*,
# and the library builds the classes from it on import. So a program can read its own contract:

# %% tags=["deterministic"]
from pred_server.generated import pred_pb2, pred_pb2_grpc

messages = pred_pb2.DESCRIPTOR.message_types_by_name
print(len(messages), "messages:", *messages)
for name in ("Request", "Response"):
    for field in messages[name].fields:
        print(f"{messages[name].full_name:20} field {field.number}: {field.name}")
for service in pred_pb2.DESCRIPTOR.services_by_name.values():
    for method in service.methods:
        print(f"{service.full_name}/{method.name}: {method.input_type.name} -> {method.output_type.name}")

# %% [markdown]
# **The client's half** is the *stub*: an object with one callable for each rpc. It knows three things: a path, how to
# turn a request into bytes, and how to turn bytes into a response. (A *channel*, in gRPC, stands for the connection to
# a server; it reconnects by itself.)

# %% tags=["deterministic"]
import inspect

print(inspect.getsource(pred_pb2_grpc.PredictionStub))

# %% [markdown]
# **The server's half** is the *servicer*: a class to inherit from, with one method for each rpc. What you do not
# override answers `UNIMPLEMENTED`, one of gRPC's status codes.

# %% tags=["deterministic"]
print(inspect.getsource(pred_pb2_grpc.PredictionServicer))

# %% [markdown]
# And a function that tells a server which path leads to which method of your servicer. It is the mirror image of the
# stub: the stub serializes requests, this one deserializes them.

# %% tags=["deterministic"]
print(inspect.getsource(pred_pb2_grpc.add_PredictionServicer_to_server))

# %% [markdown]
# ## Why `-Igenerated=proto`
#
# `pred_pb2_grpc.py` imports `pred_pb2.py`. How it does so follows from the path under which protoc *saw* the
# `.proto`. The plain way, `-Iproto`, makes it a top-level module:

# %% tags=["deterministic"]
(scratch / "plain").mkdir()
shown = run("python -m grpc_tools.protoc -Iproto --python_out=plain --grpc_python_out=plain pred.proto")


def import_line(path: str) -> str:
    return next(line for line in (scratch / path).read_text().splitlines() if "import pred_pb2" in line)


print(f"""{shown}

-Iproto             {import_line("plain/pred_pb2_grpc.py")}
-Igenerated=proto   {import_line("generated/pred_pb2_grpc.py")}""")

# %% [markdown]
# The first line works only if the folder itself is on `sys.path`. So many projects edit the generated file with `sed`,
# or change `sys.path`. There is no need: `-Igenerated=proto` shows protoc the folder `proto/` under the name
# `generated/`, and the import comes out right.

# %% [markdown]
# ## The bytes of one message
#
# To *serialize* is to turn an object into bytes. Our message is a table of one row, as CSV. Here it is, whole:

# %% tags=["deterministic"]
TEXT = "x,y\n1,2\n"
message = pred_pb2.Request(input_data=TEXT)
data = message.SerializeToString()
print(f"{TEXT!r} -> {len(data)} bytes: {data.hex(' ')}")

# %% [markdown]
# The first byte is the *tag*. It packs the field's number and the field's *wire type*, which says how far the value
# reaches: `number << 3 | wire type`. The wire types in use are 0 (a varint, see below), 1 (eight bytes), 2 (a length,
# then that many bytes) and 5 (four bytes). A string is a 2.

# %% tags=["deterministic"]
tag = data[0]
print(f"tag {tag:#04x} = {tag:08b} in bits = field number {tag >> 3}, wire type {tag & 0b111}")
print("put together again:", 1 << 3 | 2)

# %% [markdown]
# Next comes the length, as a *varint*: an integer in as few bytes as it needs. Each byte carries seven bits, the
# lowest ones first; the eighth bit says that another byte follows.


# %% tags=["deterministic"]
def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The integer that begins at `at`, and the position behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0b0111_1111) << shift
        if byte < 0b1000_0000:
            return value, at
        shift += 7


for number in (8, 127, 128, 300):
    encoded = bytes([number]) if number < 128 else bytes([number & 0x7F | 0x80, number >> 7])
    print(f"{number:4}  {encoded.hex(' '):6} {' '.join(f'{byte:08b}' for byte in encoded):18} reads as", end=" ")
    print(read_varint(encoded, 0)[0])

# %% [markdown]
# That is all it takes to read any message. A message is tag, value, tag, value, to its end: no names, no count of
# fields, no checksum. (A message within a message is a value of wire type 2. Types 3 and 4 are left over from an
# older dialect; proto3 has no use for them.)


# %% tags=["deterministic"]
def decode(data: bytes) -> list[tuple[int, int, int | bytes]]:
    """Field number, wire type and raw value of each field in a message."""
    fields, at = [], 0
    while at < len(data):
        tag, at = read_varint(data, at)
        number, wire_type = tag >> 3, tag & 0b111
        if wire_type == 0:
            value, at = read_varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(wire_type)
            if wire_type == 2:
                size, at = read_varint(data, at)
            value, at = data[at : at + size], at + size
        fields.append((number, wire_type, value))
    return fields


decode(data)

# %% [markdown]
# Is our decoder right? The library is the judge. We try an empty text, one with letters outside ASCII (a string
# travels as UTF-8, so the length counts bytes, not characters), and a table of flights. `FLIGHTS`, from
# `pred_server/checkout.py`, is the path of the table of lesson 01.

# %%
import pandas as pd

from pred_server.checkout import FLIGHTS

table = pd.read_parquet(FLIGHTS).drop(columns="arr_delay").head(ROWS).to_csv(index=False)
for name, text in {"one row": TEXT, "not ASCII": "ville\nOrléans\n", "flights": table, "empty": ""}.items():
    found = decode(pred_pb2.Request(input_data=text).SerializeToString())
    expected = [(1, 2, text.encode())] if text else []
    print(f"{name:10} {len(text):7} characters {len(text.encode()):7} bytes  agrees: {found == expected}")

# %% [markdown]
# ## What a field costs
#
# The empty text had no field at all. In proto3 a plain `string` that is empty is not sent: it costs nothing, and the
# reader cannot tell "empty" from "never set".

# %% tags=["deterministic"]
print("never set:", pred_pb2.Request().SerializeToString())
print("empty:    ", pred_pb2.Request(input_data="").SerializeToString())

# %% [markdown]
# Any other string costs one byte of tag, its length as a varint, and its bytes. The varint grows by a byte at 128 and
# at 16,384, for each time seven more bits are needed.

# %% tags=["deterministic"]
print("bytes of text   of message   more")
for size in (0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152):
    total = len(pred_pb2.Request(input_data="x" * size).SerializeToString())
    print(f"{size:13,} {total:12,} {total - size:6}")

# %%
text_bytes = len(table.encode())
more = len(pred_pb2.Request(input_data=table).SerializeToString()) - text_bytes
Markdown(
    f"**A table of {ROWS:,} flights** is {text_bytes:,} bytes of CSV, and the message adds {more} bytes to it. Protobuf "
    "is not what costs here. What costs is what we chose to put into its one string: numbers written as text, to be "
    "parsed again at the other end. Later lessons measure that."
)

# %% [markdown]
# ## Five bytes in front
#
# A message does not say where it ends. On the wire gRPC puts five bytes in front of each: one that says whether it is
# compressed, and four with its length, the highest byte first.

# %% tags=["deterministic"]
import struct

framed = struct.pack(">BI", 0, len(data)) + data
print(framed.hex(" "))

# %% [markdown]
# All of it in one picture. A byte has no meaning of its own: `0a` is gRPC's length, then protobuf's tag, then a line
# break, twice. Only its place says which.

# %%
from matplotlib.figure import Figure

from pred_server.lab.plots import COLOURS, show

parts = [  # how many bytes, their colour, what they say
    (1, COLOURS[4], "com-\npressed?\nno"),
    (4, COLOURS[4], f"length of\nthe message:\n{len(data)}"),
    (1, COLOURS[5], "tag:\nfield 1,\ntype 2"),
    (1, COLOURS[5], f"length of\nthe text:\n{len(TEXT)}"),
    (len(TEXT), COLOURS[2], "input_data, as UTF-8"),
]
figure = Figure(figsize=(9, 2.7), layout="constrained")
axes = figure.subplots()
begin = 0
for size, colour, says in parts:
    end = begin + size
    axes.bar(range(begin, end), 1, width=0.92, color=colour, alpha=0.55, edgecolor="0.3")
    axes.plot([begin - 0.42, end - 0.58], [-0.1, -0.1], color="0.3", linewidth=1)
    axes.text((begin + end - 1) / 2, -0.2, says, ha="center", va="top", fontsize=8.5)
    begin = end
for place, byte in enumerate(framed):
    axes.text(place, 0.64, f"{byte:02x}", ha="center", va="center", family="monospace", fontsize=13)
for place, character in enumerate(TEXT, start=len(framed) - len(TEXT)):
    axes.text(place, 0.26, repr(character), ha="center", va="center", family="monospace", fontsize=10)
for place, owner in ((2, "gRPC's frame"), (5.5, "protobuf"), (len(framed) - len(TEXT) / 2 - 0.5, "our text")):
    axes.text(place, 1.1, owner, ha="center", fontsize=10)
axes.set(xlim=(-0.6, len(framed) - 0.4), ylim=(-1, 1.35))
axes.set_title(f"{len(TEXT)} bytes of CSV travel as {len(framed)}, and the name of the field is not among them")
axes.axis("off")
show(
    figure,
    f"{len(framed)} boxes in a row, one for each byte: first five of gRPC's frame (not compressed, length {len(data)}), "
    f"then two of protobuf (tag, length {len(TEXT)}), then the {len(TEXT)} characters of the CSV text.",
)

# %% [markdown]
# ## What a client really sends
#
# We need not believe the picture. A socket that greets like an HTTP/2 server (with an empty SETTINGS frame, the nine
# bytes below) is enough to make a real client send its request; then we look at what arrived.

# %%
import socket

import grpc

SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
sent = b""
with socket.create_server(("127.0.0.1", 0)) as listener:
    listener.settimeout(10)
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = pred_pb2_grpc.PredictionStub(channel).Predict.future(message, timeout=10)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(10)
            connection.sendall(SETTINGS)
            while framed not in sent and (part := connection.recv(65536)):
                sent += part
        call.cancel()

for name in ("/prediction.Prediction/Predict", "Request", "Response", "input_data"):
    print(f"{name:30} {'sent' if name.encode() in sent else 'not sent'}")
print(f"{'the bytes drawn above':30} {'sent' if framed in sent else 'not sent'}")

# %%
Markdown(
    f"These were {len(sent)} bytes in all. Most of them open the connection and name the call; HTTP/2 lets the next call "
    "on this channel refer back to much of it. **Package, service and rpc travel as the path. Names of messages and "
    "fields do not travel; numbers do.**"
)

# %% [markdown]
# ## Names stay at home, numbers travel
#
# So what happens when one side has a newer contract? Servers and clients are never updated at the same instant, so for
# a while there is always an old reader and a new writer, or the reverse. We make both, from contracts that differ in
# a line.
#
# A Python process registers a message's name once, in its default *descriptor pool* (more on this at the end). Two
# versions of `prediction.Request` can stand side by side only in pools of their own, so we make one for each. protoc
# runs in this process here, and writes a descriptor instead of code.

# %% tags=["deterministic"]
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.unknown_fields import UnknownFieldSet
from grpc_tools import protoc


def compile_message(fields: str, name: str = "Request") -> type:
    """The class of a message, from the lines between its braces."""
    folder = scratch / "variant"
    folder.mkdir(exist_ok=True)
    (folder / "variant.proto").write_text(f'syntax = "proto3"; package prediction; message {name} {{ {fields} }}')
    done = protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={folder}/variant.bin", "variant.proto"])
    assert done == 0, "protoc refused the variant"
    files = descriptor_pb2.FileDescriptorSet.FromString((folder / "variant.bin").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(files.file[0].SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"prediction.{name}"))


def show_what_is_read(reader: type, data: bytes) -> None:
    """The known fields that a reader finds in the bytes, and the unknown ones that it keeps."""
    read = reader.FromString(data)
    for field in reader.DESCRIPTOR.fields:
        print(f"{field.name} = {getattr(read, field.name)!r}")
    for field in UnknownFieldSet(read):
        print(f"unknown: number {field.field_number}, wire type {field.wire_type}, {field.data!r}")


Old = compile_message("string input_data = 1;")
show_what_is_read(Old, data)

# %% [markdown]
# **A field is added.** A new writer sends it to an old reader. The old reader knows no number 2. The wire type tells it
# how far to skip, so it finds all the rest, and it keeps the bytes as an *unknown field*.

# %% tags=["deterministic"]
New = compile_message("string input_data = 1; uint32 priority = 2;")
from_new = New(input_data=TEXT, priority=7).SerializeToString()
show_what_is_read(Old, from_new)

# %% [markdown]
# Kept, not dropped: if the old program passes the message on, the field is there again for a reader that knows it.
# And in the other direction, a new reader finds the new field's default in an old message. Both ways work.

# %% tags=["deterministic"]
passed_on = Old.FromString(from_new).SerializeToString()
print("passed on by the old program:  priority =", New.FromString(passed_on).priority)
print("written by the old program:    priority =", New.FromString(data).priority)

# %% [markdown]
# **A field is renamed.** The number stays, so the bytes stay, and neither side notices. (The source code that says
# `input_data` does notice, and so does protobuf's JSON form, which uses names.)

# %% tags=["deterministic"]
Renamed = compile_message("string csv = 1;")
print("same bytes:", Renamed(csv=TEXT).SerializeToString() == data)

# %% [markdown]
# **A number is changed.** For the old reader this is two changes: its field is missing, and an unknown one came. No
# error is raised. It reads an empty table.

# %% tags=["deterministic"]
Renumbered = compile_message("string input_data = 2;")
show_what_is_read(Old, Renumbered(input_data=TEXT).SerializeToString())

# %% [markdown]
# **A number is used again** for something else. Somebody found it nicer to have the model's name first. The old reader
# takes that name for its table: to pandas, a CSV file with one column called `flights` and no rows. Again no error
# from protobuf.

# %% tags=["deterministic"]
Reused = compile_message("string model_name = 1; string input_data = 2;")
show_what_is_read(Old, Reused(model_name="flights", input_data=TEXT).SerializeToString())

# %% [markdown]
# This is why the number of a removed field is never used again. `reserved 1;` in the message makes protoc refuse it.
#
# **A type is changed to one of another wire type**, here `string` (2) to `int64` (0). The reader cannot read the value
# as what it expects, and treats it as unknown. Lost, without an error.

# %% tags=["deterministic"]
Retyped = compile_message("int64 input_data = 1;")
show_what_is_read(Old, Retyped(input_data=3).SerializeToString())

# %% [markdown]
# **A type is changed to one of the same wire type.** This one is tempting: let `Response` carry real numbers,
# `repeated double result = 1`, rather than text. (`repeated` means any number of values; for numbers they are packed
# behind one length, so it is wire type 2, as a string is.) The old reader takes the eight bytes of a double for text.

# %% tags=["deterministic"]
from google.protobuf.message import DecodeError

OldResponse = compile_message("string result = 1;", "Response")
Doubles = compile_message("repeated double result = 1;", "Response")

show_what_is_read(OldResponse, Doubles(result=[3.0]).SerializeToString())
try:
    OldResponse.FromString(Doubles(result=[3.1]).SerializeToString())
except DecodeError as error:
    print(f"{type(error).__name__}: {error}")

# %% [markdown]
# For 3.0 it is garbage without an error. For 3.1 the bytes are not valid UTF-8, and the reader refuses. Which of the two
# a client meets depends on the data of that call.

# %% [markdown]
# ## buf: a change is checked before it is made
#
# At run time hardly any of these mistakes is noticed. But all of them show when two versions of the file are compared.
# `buf` does that. First its style check:

# %% tags=["deterministic"]
print(run("buf lint"))

# %% [markdown]
# It passes because `buf.yaml` makes exceptions. This is the file, and what buf would say without them:

# %% tags=["deterministic"]
(scratch / "no_exceptions.yaml").write_text(
    "version: v2\nmodules: [{path: proto}]\nlint: {use: [STANDARD]}\nbreaking: {use: [FILE]}\n"
)
print((scratch / "buf.yaml").read_text(), run("buf lint --config no_exceptions.yaml"), sep="\n")

# %% [markdown]
# Each is good advice for a new contract. Ours is not new: the article published these names, and clients were built with
# them.
#
# | exception | the rule wants | and that would break |
# |---|---|---|
# | `PACKAGE_DIRECTORY_MATCH` | the file in `proto/prediction/` | Python imports: they follow the file's path |
# | `PACKAGE_VERSION_SUFFIX` | `package prediction.v1;` | every client: the path changes |
# | `SERVICE_SUFFIX` | `service PredictionService` | every client: the path changes |
# | `RPC_REQUEST_STANDARD_NAME` | `message PredictRequest` | source code that says `Request`; not the bytes |
# | `RPC_RESPONSE_STANDARD_NAME` | `message PredictResponse` | source code that says `Response`; not the bytes |
# | `RPC_REQUEST_RESPONSE_UNIQUE` | messages of its own for `PredictStream` | nothing; but there would be two messages that say the same |

# %% [markdown]
# **`buf breaking`** compares two versions. The old one is `tests/article/pred.proto`: the contract as the article's
# clients have it. That file never changes; it is the promise made to them. `make lint` runs this very command, and
# `buf lint` before it, so a contract that breaks the promise does not get in.

# %% tags=["deterministic"]
print(run("buf breaking proto --against tests/article"))

# %% [markdown]
# It passes, with the one exception under `breaking:` in `buf.yaml`. Without it buf would object to `go_package`, which
# says where *our* Go code lies. A client that keeps its own generated code does not see it; a Go client that moves to
# ours changes one import path.

# %% tags=["deterministic"]
print(run("buf breaking proto --against tests/article --config no_exceptions.yaml"))

# %% [markdown]
# Now changes. `change` edits the copy, asks buf, and puts the copy back. Added fields and added rpcs are accepted:


# %% tags=["deterministic"]
def change(old: str, new: str, options: str = "") -> str:
    """What `buf breaking` says when the contract says `new` instead of `old`."""
    assert contract.count(old) == 1, f"the contract does not say {old!r} once"
    (scratch / "proto/pred.proto").write_text(contract.replace(old, new))
    answer = run(f"buf breaking proto --against tests/article {options}".rstrip())
    (scratch / "proto/pred.proto").write_text(contract)
    return f"- {old}\n+ {new or '(nothing)'}\n{answer}"


PREDICT = "rpc Predict(Request) returns (Response);"
print(
    change("string input_data = 1;", "string input_data = 1; uint32 priority = 9;"),
    change(PREDICT, PREDICT + " rpc Explain(Request) returns (Response);"),
    sep="\n\n",
)

# %% [markdown]
# **A changed number** is refused. buf calls it a deleted field, which is what it is to an old reader.

# %% tags=["deterministic"]
print(change("string input_data = 1;", "string input_data = 8;"))

# %% [markdown]
# **A changed type** is refused: the tempting one from above.

# %% tags=["deterministic"]
print(change("string result = 1;", "repeated double result = 1;"))

# %% [markdown]
# **A removed rpc** is refused. On the wire every message would still be readable; but a client that calls the rpc
# would be told `UNIMPLEMENTED`.

# %% tags=["deterministic"]
print(change(PREDICT, ""))

# %% [markdown]
# **A changed name** is refused too, although the bytes stay the same. There are two promises: that bytes can be read
# (buf's category `WIRE`), and that source code still compiles against the code generated anew (`FILE`, which ours is).

# %% tags=["deterministic"]
(scratch / "wire.yaml").write_text("version: v2\nmodules: [{path: proto}]\nbreaking: {use: [WIRE]}\n")
print(
    change("string input_data = 1;", "string csv = 1;"),
    change("string input_data = 1;", "string csv = 1;", "--config wire.yaml"),
    sep="\n\n",
)

# %% [markdown]
# ## What may change in ours
#
# Things are added beside the old, as they were: a typed table is a new field with a new number, a table in chunks a new
# rpc. `input_data` and `result` stay what they are: plain `string` fields, numbered 1.
#
# "Plain" is worth a look. There are four ways to send a table, and exactly one must be used. It would be neat to say so in
# the contract: with a `oneof` (a group of fields of which at most one is set), or at least with `optional`, which the new
# field `arrow` has. For a text that is not empty, the bytes are the same:

# %% tags=["deterministic"]
for fields in (
    "string input_data = 1;",
    "optional string input_data = 1;",
    "oneof payload { string input_data = 1; bytes other = 2; }",
):
    Variant = compile_message(fields)
    print(f"same bytes: {Variant(input_data=TEXT).SerializeToString() == data}   {fields}")

# %% [markdown]
# And the Python source, `Request(input_data=…)`, was the same in all three. Go is stricter, since the field's Go type
# follows the contract. This is what `protoc-gen-go` makes of each, and what Go's compiler says to the article's line
# `&predpb.Request{InputData: "x,y\n1,2\n"}`:
#
# | contract | Go struct | that line |
# |---|---|---|
# | `string` | `InputData string` | compiles |
# | `optional string` | `InputData *string` | `cannot use … (untyped string constant) as *string value in struct literal` |
# | in `oneof payload` | `Payload isRequest_Payload` | `unknown field InputData in struct literal of type predpb.Request` |
#
# buf's category `FILE` refuses both:

# %% tags=["deterministic"]
print(
    change("string input_data = 1;", "optional string input_data = 1;"),
    change("string input_data = 1;", "oneof payload { string input_data = 1; bytes other = 9; }"),
    sep="\n\n",
)

# %% [markdown]
# So the rule "send the table in exactly one way" is for the server's code to check (`codec_of` in
# `pred_server/wire/codec.py`), not for the contract to say. That is the price of the promise.

# %% [markdown]
# ## A trap: `duplicate symbol`
#
# Suppose you also generate code elsewhere, under another name, from the same contract; a second team does, say, and
# you import both.

# %% tags=["deterministic"]
(scratch / "both.py").write_text("from generated import pred_pb2\nfrom other import pred_pb2 as again\n")
print(
    run("python -m grpc_tools.protoc -Iother=proto --python_out=. --grpc_python_out=. other/pred.proto"),
    run("python both.py", last=1),  # the last line of the traceback
    sep="\n\n",
)

# %% [markdown]
# Python's module names differ, but protobuf does not look at those. In the default pool of a process, the name
# `prediction.Request` can be registered once, and it came with the file `generated/pred.proto`. The same name in a file
# `other/pred.proto` is a conflict, even where the two say the same. (Only the same file name with the same contents
# may come twice. Go is as strict: a program that links both panics when it starts.)
#
# The first cure: **a process of its own** for each.

# %% tags=["deterministic"]
for package in ("generated", "other"):
    script = f"from {package} import pred_pb2\nprint('imported', pred_pb2.DESCRIPTOR.name)\n"
    (scratch / f"only_{package}.py").write_text(script)
print(run("python only_generated.py"), run("python only_other.py"), sep="\n\n")

# %% [markdown]
# The second: **another package name** in the contract. Both can be imported, but look at the paths. It is another
# contract now, and a server of the one answers a client of the other with `UNIMPLEMENTED`. Good for a version 2;
# useless as a repair.

# %% tags=["deterministic"]
(scratch / "renamed").mkdir()
(scratch / "renamed/pred.proto").write_text(contract.replace("package prediction;", "package prediction_copy;"))
(scratch / "both.py").write_text(
    """
from pred_server.generated import pred_pb2
from copied import pred_pb2 as again
for module in (pred_pb2, again):
    print(f"/{module.DESCRIPTOR.services_by_name['Prediction'].full_name}/Predict")
"""
)
print(
    run("python -m grpc_tools.protoc -Icopied=renamed --python_out=. --grpc_python_out=. copied/pred.proto"),
    run("python both.py"),
    sep="\n\n",
)

# %% [markdown]
# (What we did above, a private pool for each variant, works too. It suits a lesson or a test; code that protoc
# generates always uses the default pool.)

# %% [markdown]
# ## What we found
#
# - Client and server agree on a path (`/prediction.Prediction/Predict`) and, for each message, on field numbers and
#   types. Names of messages and fields are for people and source code; they are never sent.
# - A message is tag, value, tag, value. The envelope costs a few bytes, however large the text in it.
# - What stands *inside* the string, columns and their types, is agreed outside protobuf. No tool here checks it; the
#   server must.
# - What a change does:
#
# | change | a program with the old contract | buf (`FILE`) |
# |---|---|---|
# | add a field or an rpc | works; keeps the fields that it does not know | accepts |
# | rename a field | works; source code needs a change once stubs are generated anew | refuses |
# | change or reuse a number | reads nothing, or something else, and no error | refuses |
# | change a type | loss, garbage or an error, depending on types and data | refuses |
# | make a field `optional`, or move it into a `oneof` | works; Go source needs a change likewise | refuses |
# | remove an rpc | is answered `UNIMPLEMENTED` | refuses |
#
# - `tests/article/pred.proto` is the promise to the clients that exist; `make lint` compares with it.
# - One process, one registration of a message's name.

# %% [markdown]
# ## Exercises
#
# **1.** The article's server answers `x,y\n1,2\n` with `0\n3\n`. Write down the bytes of
# `pred_pb2.Response(result="0\n3\n")` before you let Python do it. Then: how many bytes is a response whose text has
# 200 characters, all ASCII?
#
# <details><summary>Answer</summary>
#
# `0a 04 30 0a 33 0a`: the tag (field 1, wire type 2), the length 4, then `0`, line break, `3`, line break. The tag is
# the request's, since number and wire type are the same. The larger one is 203 bytes: one of tag, two of length
# (200 needs more than seven bits), 200 of text.
#
# </details>
#
# **2.** Before there was `PredictStream`, a colleague wanted to send a table in chunks, and proposed
# `repeated string input_data = 1;`: "one chunk as before, or several". What does an old server read when a new client sends two chunks? What does buf say? What would
# you propose? Try it with `compile_message` and `change`. (They need the scratch folder: run all above, but not the
# cell below that removes it.)
#
# <details><summary>Answer</summary>
#
# ```python
# Chunks = compile_message("repeated string input_data = 1;")
# show_what_is_read(Old, Chunks(input_data=["x,y\n1,2\n", "x,y\n3,4\n"]).SerializeToString())
# print(change("string input_data = 1;", "repeated string input_data = 1;"))
# ```
#
# A repeated string is the same tag once for each value, and a reader that expects one keeps the last: the old server
# reads `x,y\n3,4\n` and predicts for half of the rows, without an error. One chunk does work as before, so a test
# with one chunk finds nothing. buf refuses: `changed cardinality from "optional with implicit presence" to "repeated"`.
# A new rpc that takes a stream of `Request`, as ours does now, leaves the old one as it is.
#
# </details>

# %% [markdown]
# ## Close
#
# No server and no channel is open. The scratch folder goes.

# %% tags=["deterministic"]
scratch_folder.cleanup()
print("scratch folder exists:", scratch.exists())

# %% [markdown]
# **Next:** [03_serve_and_call](03_serve_and_call.ipynb) writes the article's server, a servicer with one method, and
# calls it.

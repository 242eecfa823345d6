# %% [markdown]
# # 02 · Write the contract
#
# **What exactly do client and server agree on, and how may that change?**
#
# A client in Go and a server in Python share no memory and no language, and they are not released on the same day. They
# share one small text file, the *contract*. In this notebook we read it, generate code from it, and take the bytes of one
# message apart. Then we try to break it. At the end you write a contract of your own.
#
# You will
#
# - read a `.proto` file line by line and generate Python code from it with `protoc`;
# - decode a message by hand, byte by byte, with a decoder of some twenty lines;
# - see which changes of a contract are harmless, which ones lose data silently, and how `buf` refuses those;
# - write a contract for a text classifier, then compile it, serve it and call it.
#
# **Needs:** `make setup`; no server and no network. **Takes:** 15 s to run, about 60 minutes to read (the core: 40).
# **Built before:** [01_train_a_model](01_train_a_model.ipynb) trained and saved the `flights` model. Here we only use its
# table, to have something of real size to send.
#
# **Core:** the contract, the code, the bytes, the old and the new reader, `buf`, and exercise 0. **Optional:** the sections
# that say so, and exercises 1 and 2.

# %% [markdown]
# ## Versions
#
# *Protocol Buffers*, or protobuf, is Google's way to describe messages and to turn them into bytes. *gRPC* is a way to
# call a function on another machine. It sends protobuf messages over HTTP/2, the protocol of the web in its second
# version, which carries many calls on one connection. `grpcio-tools` brings the compiler `protoc`; `buf` checks contracts.

# %%
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

PROGRAMS = {"python": sys.executable, "buf": str(Path(sys.executable).with_name("buf"))}

versions = {"Python": sys.version.split()[0]}
versions |= {package: version(package) for package in ("protobuf", "grpcio", "grpcio-tools")}
versions["buf"] = subprocess.run([PROGRAMS["buf"], "--version"], capture_output=True, text=True).stdout.strip()
print("\n".join(f"{name:12} {number}" for name, number in versions.items()))

# %% tags=["parameters"]
ROWS = 1000  # flights in the largest message

# %% [markdown]
# ## A scratch folder
#
# We shall break the contract on purpose. So we work on a copy, in a temporary folder with the same layout as the checkout.
# (`ROOT` is the folder of the checkout; it is in `pred_server/checkout.py`.)

# %%
import shutil
import tempfile

from pred_server.checkout import ROOT

scratch_folder = tempfile.TemporaryDirectory()
scratch = Path(scratch_folder.name)
shutil.copy(ROOT / "buf.yaml", scratch)
for folder in ("proto", "tests/article"):
    shutil.copytree(ROOT / folder, scratch / folder)

# %% [markdown]
# Two helpers: `run` runs a program in that folder and returns the text that a terminal would show. `folded` hides long
# output behind a line; a click on the line opens it.

# %%
import shlex

from IPython.display import Markdown


def run(line: str, last: int = 0) -> str:
    """Run a command line in the scratch folder; return it, its output (the `last` lines; 0: all) and its exit code."""
    program, *arguments = shlex.split(line)
    done = subprocess.run([PROGRAMS[program], *arguments], cwd=scratch, capture_output=True, text=True)
    output = (done.stdout + done.stderr).splitlines()[-last:]
    return "\n".join([f"$ {line}", *output, f"(exit code {done.returncode})"])


def folded(summary: str, *texts: str) -> Markdown:
    """Show texts below a line that opens with a click."""
    return Markdown(f"<details><summary>{summary}</summary>\n\n```\n" + "\n\n".join(texts) + "\n```\n\n</details>")


# %% [markdown]
# ## The contract
#
# This project grew from an article: abap34,
# [gRPCを使ったプロセス間通信でGoからいい感じに学習済みモデルを呼び出して推論](https://abap34.com/posts/grpc_ml.html). The contract
# began with these lines, which the article published. We keep them in `tests/article/pred.proto`.

# %% tags=["deterministic"]
article = (scratch / "tests/article/pred.proto").read_text()
Markdown(f"```proto\n{article[article.index('syntax') :]}```")

# %% [markdown]
# Line by line. At the end of each point we say whether this part is among the bytes that a client sends. The rest of the
# lesson proves it.
#
# - `syntax = "proto3";` is the dialect. In proto3, a plain field that nobody set reads as empty: `""` or `0`.
#   *Not sent.*
# - `package prediction;` is a prefix for all names below. So two projects may both have a `Request`.
#   **Sent**, as a part of the path.
# - `option go_package = …` says where the Go code belongs. Python ignores it. *Not sent.*
# - `service Prediction { … }` is a *service*: a named group of functions that a server offers. **Sent**, as a part of
#   the path.
# - `rpc Predict(Request) returns (Response);` is an *rpc* (remote procedure call), one such function. It has a name, a
#   message that it takes, and a message that it gives back. Without the word `stream`, it is one message each way. The
#   name is **sent**, as a part of the path.
# - `message Request { … }` is a *message*: a record with typed fields. *Not sent*, not even its name.
# - `string input_data = 1;` is a *field*. It has a type, a name and a **number**. The `1` is not a default value. The
#   name is *not sent*. The number is **sent**, with three bits that hint at the type.
#
# Some things do *not* stand here: which columns the CSV must have, their types, the character between them. For protobuf
# a `string` is a string. That part of the agreement is the model's schema, and no compiler checks it.
#
# ## What the contract is today
#
# This is `proto/pred.proto`, all of it. The lines above are still there, with the same numbers. The rest was added beside
# them: other ways to send a table, a table in chunks, and a question about the model.

# %% tags=["deterministic"]
contract = (scratch / "proto/pred.proto").read_text()
Markdown(f"```proto\n{contract}```")

# %% [markdown]
# The words that are new:
#
# - `// …` is a comment. protoc copies some comments into the code that it generates. *Not sent.*
# - `option java_package = …` and its neighbours name the package of the generated code in other languages. *Not sent.*
# - `stream Request` means any number of messages in that direction, for as long as the call lasts.
# - `Tensor tensor = 2;` is a field whose type is another message: a message within a message. **Sent**, if it is set.
# - `repeated` means any number of values, a list. `map` is a dictionary.
# - `optional` lets the reader tell "empty" from "never set". A plain field cannot, as we shall see.
# - `bytes` is any bytes; a `string` must be valid UTF-8.
# - `enum` is a choice of names. Its *number* is sent. If nobody chose, the reader finds 0.
#
# Lesson [03b](03b_under_the_hood.ipynb) compares the four ways to send a table. In this lesson one plain string is enough.

# %% [markdown]
# ## From the contract to code
#
# `protoc`, the *protocol buffer compiler*, reads a `.proto` and writes code. To *generate stubs* is to run it. Three options
# name three kinds of output: the messages, their types for editors and type checkers, and the gRPC classes. The dot says
# where to write: into the scratch folder. Below it, protoc writes to the path that the `.proto` has for protoc. We make this
# path `pred_server/generated/pred.proto`; a section below says why.

# %% tags=["deterministic"]
PROTOC = "python -m grpc_tools.protoc"
PATH = "-Ipred_server/generated=proto"  # protoc sees the folder proto/ under the name pred_server/generated/
OUT = "--python_out=. --pyi_out=. --grpc_python_out=."
output = run(f"{PROTOC} {PATH} {OUT} pred_server/generated/pred.proto")
written = sorted((scratch / "pred_server/generated").iterdir())
print(output, *(f"{path.stat().st_size:6} bytes  {path.relative_to(scratch)}" for path in written), sep="\n")

# %% [markdown]
# In the checkout, `make stubs` does this (it calls `pred-server stubs`). It writes to the folder `generated/`, and
# `pred_server/generated` is a link to that folder. These files are committed, so nobody needs protoc to run the server.
# Nobody edits them: after a change of the contract we generate them again. Our files should be the same as the committed
# ones.

# %% tags=["deterministic"]
for path in written:
    same = path.read_bytes() == (ROOT / "generated" / path.name).read_bytes()
    print(f"{path.name:16} {'same as' if same else 'DIFFERS from'} generated/{path.name}")

# %% [markdown]
# **The messages.** `pred_pb2.pyi` shows how the messages look in Python: a class for each message, an attribute for each
# field. (`_pb2` is an old name. It does not mean proto2 or proto3.) Here is the first class:

# %% tags=["deterministic"]
types = (scratch / "pred_server/generated/pred_pb2.pyi").read_text()
print("class Request" + types.partition("class Request")[2].partition("\nclass ")[0])

# %% [markdown]
# The classes themselves are not in `pred_pb2.py`. That file holds the contract in binary form, a *descriptor*. On import,
# the library builds the classes from it. So a program can read its own contract:

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
# **The client's half** is the *stub*: an object with one callable for each rpc. It knows three things: a path, how to turn
# a request into bytes, and how to turn bytes into a response. (A *channel*, in gRPC, stands for the connection to a
# server. It reconnects by itself.)

# %% tags=["deterministic"]
import inspect

print(inspect.getsource(pred_pb2_grpc.PredictionStub))

# %% [markdown]
# **The server's half** is the *servicer*: a class to inherit from, with one method for each rpc. If you do not override a
# method, it answers `UNIMPLEMENTED`, one of gRPC's status codes.

# %% tags=["deterministic"]
print(inspect.getsource(pred_pb2_grpc.PredictionServicer))

# %% [markdown]
# There is also a function that tells a server which path leads to which method of your servicer. It is the mirror image of
# the stub: the stub turns requests into bytes, and this function turns those bytes into requests.

# %% tags=["deterministic"]
print(inspect.getsource(pred_pb2_grpc.add_PredictionServicer_to_server))

# %% [markdown]
# ## Why `-Ipred_server/generated=proto` (optional)
#
# `pred_pb2_grpc.py` imports `pred_pb2.py`. The import line follows from the path under which protoc *saw* the `.proto`.
# With the plain option `-Iproto` it becomes a module at the top level:

# %% tags=["deterministic"]
(scratch / "plain").mkdir()
output = run(f"{PROTOC} -Iproto --python_out=plain --grpc_python_out=plain pred.proto")


def import_line(path: str) -> str:
    return next(line for line in (scratch / path).read_text().splitlines() if "import pred_pb2" in line)


print(f"""{output}

-Iproto                         {import_line("plain/pred_pb2_grpc.py")}
-Ipred_server/generated=proto   {import_line("pred_server/generated/pred_pb2_grpc.py")}""")

# %% [markdown]
# The first line works only if the folder itself is on `sys.path`. So many projects change `sys.path`, or edit the generated
# file with `sed`. There is no need: `-Ipred_server/generated=proto` shows protoc the folder `proto/` under another name,
# and the import is right.
#
# Why this name, and not just `generated`? All installed packages share one folder, `site-packages`. If two projects
# install a package of the general name `generated`, or a module `pred_pb2`, one overwrites the other. So the stubs are a
# part of our own package, `pred_server.generated`.

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
# reaches: `number << 3 | wire type`. The wire types in use are 0 (a varint, see below), 1 (eight bytes), 2 (a length, then
# that many bytes) and 5 (four bytes). A string is a 2.

# %% tags=["deterministic"]
tag = data[0]
print(f"tag {tag:#04x} = {tag:08b} in bits = field number {tag >> 3}, wire type {tag & 0b111}")
print("put together again:", 1 << 3 | 2)

# %% [markdown]
# Next comes the length, as a *varint*: an integer in as few bytes as it needs. Each byte carries seven bits, the lowest
# bits first. The eighth bit says that another byte follows.


# %% tags=["deterministic"]
def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the integer that begins at `at`, and the position behind it."""
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
# This is all that we need to read any message. A message is tag, value, tag, value, to its end. It has no names, no count
# of fields, no checksum. (A message within a message is a value of wire type 2. Types 3 and 4 come from an older dialect;
# proto3 does not use them.)


# %% tags=["deterministic"]
def decode(data: bytes) -> list[tuple[int, int, int | bytes]]:
    """Return field number, wire type and raw value of each field in a message."""
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
# Is our decoder right? We compare it with the library. We try an empty text, a text with letters outside ASCII, and a table
# of flights. (A string travels as UTF-8, so the length counts bytes, not characters. `FLIGHTS`, from
# `pred_server/checkout.py`, is the path of the table of lesson 01.)

# %%
import pandas as pd

from pred_server.checkout import FLIGHTS

table = pd.read_parquet(FLIGHTS).drop(columns="arr_delay").head(ROWS).to_csv(index=False)
for name, text in {"one row": TEXT, "not ASCII": "ville\nOrléans\n", "flights": table, "empty": ""}.items():
    fields = decode(pred_pb2.Request(input_data=text).SerializeToString())
    expected = [(1, 2, text.encode())] if text else []
    print(f"{name:10} {len(text):7} characters {len(text.encode()):7} bytes  agrees: {fields == expected}")

# %% [markdown]
# ## What a field costs
#
# **Guess first.** The line `flights` above says how many bytes of CSV the flights have. We put this text into one message.
# How many bytes does protobuf add? Write your guess down. The end of this section shows it beside the measured number.

# %%
GUESS_BYTES = None  # your guess, a number of bytes

# %% [markdown]
# The empty text had no field at all. In proto3 a plain `string` that is empty is not sent. It costs nothing, and the reader
# cannot tell "empty" from "never set".

# %% tags=["deterministic"]
print("never set:", pred_pb2.Request().SerializeToString())
print("empty:    ", pred_pb2.Request(input_data="").SerializeToString())

# %% [markdown]
# Any other string costs one byte of tag, its length as a varint, and its bytes. The varint grows by one byte at 128 and at
# 16,384: each time the length needs seven more bits.

# %% tags=["deterministic"]
print("bytes of text   of message   more")
for size in (0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152):
    total = len(pred_pb2.Request(input_data="x" * size).SerializeToString())
    print(f"{size:13,} {total:12,} {total - size:6}")

# %%
text_bytes = len(table.encode())
more = len(pred_pb2.Request(input_data=table).SerializeToString()) - text_bytes
Markdown(
    f"**A table of {ROWS:,} flights** is {text_bytes:,} bytes of CSV, and the message adds **{more} bytes**. Your guess: "
    f"{'none yet' if GUESS_BYTES is None else GUESS_BYTES}. Protobuf is not the expensive part. The expensive part is what "
    "we put into its one string: numbers written as text, to be parsed again at the other end. Later lessons measure that."
)

# %% [markdown]
# ## Five bytes in front
#
# A message does not say where it ends. So gRPC puts five bytes in front of each message: one byte says whether it is
# compressed, and four bytes hold its length, the highest byte first.

# %% tags=["deterministic"]
import struct

framed = struct.pack(">BI", 0, len(data)) + data
print(framed.hex(" "))

# %% [markdown]
# All of it in one picture. A byte has no meaning of its own. `0a` appears four times: as gRPC's length, as protobuf's tag, and
# twice as a line break. Only its place says which. (`byte_boxes` is in `pred_server/lab/lesson_figures.py`.)

# %%
from pred_server.lab.figures import show
from pred_server.lab.lesson_figures import byte_boxes

parts = [  # whose bytes, how many, what they say
    ("gRPC's frame", 1, "com-\npressed?\nno"),
    ("gRPC's frame", 4, f"length of\nthe message:\n{len(data)}"),
    ("protobuf", 1, "tag:\nfield 1,\ntype 2"),
    ("protobuf", 1, f"length of\nthe text:\n{len(TEXT)}"),
    ("our text", len(TEXT), "input_data, as UTF-8"),
]
finding = f"{len(TEXT)} bytes of CSV travel as {len(framed)}, and the name of the field is not among them"
show(
    byte_boxes(framed, parts, n_text=len(TEXT), title=finding),
    f"{len(framed)} boxes in a row, one for each byte: first five of gRPC's frame (not compressed, length {len(data)}), "
    f"then two of protobuf (tag, length {len(TEXT)}), then the {len(TEXT)} characters of the CSV text.",
)

# %% [markdown]
# ## What a client really sends (optional)
#
# You need not believe the picture. We open a socket that greets like an HTTP/2 server: it sends an empty SETTINGS frame,
# the nine bytes below. That is enough to make a real client send its request. Then we look at the bytes that arrived.

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
    f"These were {len(sent)} bytes in all. Most of them open the connection and name the call. The next call on this channel "
    "can refer back to much of that, thanks to HTTP/2. **Package, service and rpc travel as the path. Names of messages "
    "and fields do not travel; numbers do.**"
)

# %% [markdown]
# ## Names stay at home, numbers travel
#
# What happens when one side has a newer contract? Servers and clients are never updated at the same instant. So for a while
# there is an old reader and a new writer, or the reverse. We make both, from contracts that differ in one line.
#
# A Python process registers the name of a message once, in its default *descriptor pool*. Two versions of
# `prediction.Request` need two pools, so we make a private pool for each version. protoc runs inside this process here, and
# writes a descriptor instead of code.

# %%
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc


def compile_message(fields: str, name: str = "Request") -> type:
    """Return the class of a message, from the lines between its braces."""
    folder = scratch / "variant"
    folder.mkdir(exist_ok=True)
    (folder / "variant.proto").write_text(f'syntax = "proto3"; package prediction; message {name} {{ {fields} }}')
    done = protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={folder}/variant.bin", "variant.proto"])
    assert done == 0, "protoc refused the variant"
    files = descriptor_pb2.FileDescriptorSet.FromString((folder / "variant.bin").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(files.file[0].SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"prediction.{name}"))


# %% [markdown]
# A reader takes the bytes and says what it found. First the old reader with an old message: all is well.

# %% tags=["deterministic"]
from google.protobuf.unknown_fields import UnknownFieldSet


def show_what_is_read(reader: type, data: bytes) -> None:
    """Print the known fields that a reader finds in the bytes, and the unknown fields that it keeps."""
    read = reader.FromString(data)
    for field in reader.DESCRIPTOR.fields:
        print(f"{field.name} = {getattr(read, field.name)!r}")
    for field in UnknownFieldSet(read):
        print(f"unknown: number {field.field_number}, wire type {field.wire_type}, {field.data!r}")


Old = compile_message("string input_data = 1;")
show_what_is_read(Old, data)

# %% [markdown]
# **A field is added.** A new writer sends it to an old reader. The old reader does not know number 2. But the wire type
# says how many bytes to skip, so it reads the rest. It keeps the bytes as an *unknown field*.

# %% tags=["deterministic"]
New = compile_message("string input_data = 1; uint32 priority = 2;")
from_new = New(input_data=TEXT, priority=7).SerializeToString()
show_what_is_read(Old, from_new)

# %% [markdown]
# Kept, not dropped: if the old program passes the message on, the next reader that knows the field finds it again. In the
# other direction, a new reader finds the new field's default in an old message. Both ways work.

# %% tags=["deterministic"]
passed_on = Old.FromString(from_new).SerializeToString()
print("passed on by the old program:  priority =", New.FromString(passed_on).priority)
print("written by the old program:    priority =", New.FromString(data).priority)

# %% [markdown]
# **A field is renamed.** The number stays, so the bytes stay, and neither side notices. (Source code that says
# `input_data` does notice. So does protobuf's JSON form, which uses names.)

# %% tags=["deterministic"]
Renamed = compile_message("string csv = 1;")
print("same bytes:", Renamed(csv=TEXT).SerializeToString() == data)

# %% [markdown]
# **A number is changed.** For the old reader these are two changes: its field is missing, and there is an unknown one. No
# error is raised. It reads an empty table.

# %% tags=["deterministic"]
Renumbered = compile_message("string input_data = 2;")
show_what_is_read(Old, Renumbered(input_data=TEXT).SerializeToString())

# %% [markdown]
# **A number is used again** for something else. Somebody wants the model's name to come first. The old reader takes that
# name for its table. For pandas it is a CSV file with one column called `flights` and no rows. Again protobuf raises no
# error.

# %% tags=["deterministic"]
Reused = compile_message("string model_name = 1; string input_data = 2;")
show_what_is_read(Old, Reused(model_name="flights", input_data=TEXT).SerializeToString())

# %% [markdown]
# This is why nobody may use the number of a removed field again. With `reserved 1;` in the message, protoc refuses it.
#
# **A type is changed to one of another wire type**, here `string` (2) to `int64` (0). The reader cannot read the value as
# the type that it expects, so it treats the field as unknown. The value is lost, without an error.

# %% tags=["deterministic"]
Retyped = compile_message("int64 input_data = 1;")
show_what_is_read(Old, Retyped(input_data=3).SerializeToString())

# %% [markdown]
# **A type is changed to one of the same wire type.** This one is tempting: let `Response` carry real numbers,
# `repeated double result = 1`, rather than text. (Repeated numbers are packed behind one length. So the wire type is 2, as
# for a string.) The old reader takes the eight bytes of a double for text.

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
# For 3.0 the old reader gets garbage, without an error. For 3.1 the bytes are not valid UTF-8, and the reader refuses. So
# the data of a call decides whether the client sees an error.

# %% [markdown]
# ## buf: check a change before you make it
#
# At run time hardly any of these mistakes is noticed. But all of them show when we compare two versions of the file. The
# program `buf` does that. First its style check:

# %% tags=["deterministic"]
print(run("buf lint"))

# %% [markdown]
# It passes because the file `buf.yaml` makes exceptions. Each rule is good advice for a *new* contract. Ours is not new:
# the article published these names, and people built clients with them.

# %% tags=["deterministic"]
(scratch / "no_exceptions.yaml").write_text(
    "version: v2\nmodules: [{path: proto}]\nlint: {use: [STANDARD]}\nbreaking: {use: [FILE]}\n"
)
folded(
    "buf.yaml, and what buf would say without the exceptions",
    (scratch / "buf.yaml").read_text(),
    run("buf lint --config no_exceptions.yaml"),
)

# %% [markdown]
# <details><summary>What each exception is for</summary>
#
# | exception | the rule wants | and that would break |
# |---|---|---|
# | `PACKAGE_DIRECTORY_MATCH` | the file in `proto/prediction/` | Python imports: they follow the file's path |
# | `PACKAGE_VERSION_SUFFIX` | `package prediction.v1;` | every client: the path changes |
# | `SERVICE_SUFFIX` | `service PredictionService` | every client: the path changes |
# | `RPC_REQUEST_STANDARD_NAME` | `message PredictRequest` | source code that says `Request`; not the bytes |
# | `RPC_RESPONSE_STANDARD_NAME` | `message PredictResponse` | source code that says `Response`; not the bytes |
# | `RPC_REQUEST_RESPONSE_UNIQUE` | other messages for `PredictStream` | nothing; but two messages would say the same |
#
# </details>
#
# **`buf breaking`** compares two versions. The old one is `tests/article/pred.proto`, the contract of the article's clients.
# That file never changes. It is the promise to these clients. `make lint` runs `buf lint` and this very command, so we
# notice a change that breaks the promise.

# %% tags=["deterministic"]
print(run("buf breaking proto --against tests/article"))

# %% [markdown]
# It passes. (`buf.yaml` has exceptions here too, under `breaking:`. They allow us to name the packages of the code that is
# generated for Go, Java and C#. A client that keeps its own generated code does not see these names.)
#
# Now we try changes. `change` edits the copy, asks buf, and restores the copy. buf accepts added fields and added rpcs:


# %% tags=["deterministic"]
def change(old: str, new: str, options: str = "", against: str = "tests/article") -> str:
    """Return what `buf breaking` says when the contract says `new` instead of `old`."""
    assert contract.count(old) == 1, f"the contract does not say {old!r} once"
    (scratch / "proto/pred.proto").write_text(contract.replace(old, new))
    output = run(f"buf breaking proto --against {against} {options}".rstrip())
    (scratch / "proto/pred.proto").write_text(contract)
    return f"- {old}\n+ {new or '(nothing)'}\n{output}"


PREDICT = "rpc Predict(Request) returns (Response);"
print(
    change("string input_data = 1;", "string input_data = 1; uint32 priority = 9;"),
    change(PREDICT, PREDICT + " rpc Explain(Request) returns (Response);"),
    sep="\n\n",
)

# %% [markdown]
# buf refuses **a changed number**. It calls it a deleted field. For an old reader it is one.

# %% tags=["deterministic"]
print(change("string input_data = 1;", "string input_data = 8;"))

# %% [markdown]
# buf refuses **a changed type**, the tempting one from above.

# %% tags=["deterministic"]
print(change("string result = 1;", "repeated double result = 1;"))

# %% [markdown]
# buf refuses **a removed rpc**. Every message could still be read. But a client that calls the rpc would get the status
# `UNIMPLEMENTED`.

# %% tags=["deterministic"]
print(change(PREDICT, ""))

# %% [markdown]
# buf refuses **a changed name** too, although the bytes stay the same. There are two promises. One is that the bytes can be
# read: that is buf's category `WIRE`. The other is that source code still compiles with newly generated code: that is the
# category `FILE`, and it is ours.

# %% tags=["deterministic"]
(scratch / "wire.yaml").write_text("version: v2\nmodules: [{path: proto}]\nbreaking: {use: [WIRE]}\n")
print(
    change("string input_data = 1;", "string csv = 1;"),
    change("string input_data = 1;", "string csv = 1;", "--config wire.yaml"),
    sep="\n\n",
)

# %% [markdown]
# The article's contract knows only `Predict`. What came later is guarded by a second copy, `tests/released/pred.proto`, the
# contract as it was last released. `make lint` compares with both. So buf also refuses to delete a new rpc, to give a new
# field another number, and to give it another type:

# %% tags=["deterministic"]
shutil.copytree(ROOT / "tests/released", scratch / "tests/released", dirs_exist_ok=True)
released = {"against": "tests/released", "options": "--config tests/released/breaking.yaml"}
print(
    change("rpc PredictStream(stream Request) returns (stream Response);", "", **released),
    change("bytes data = 4;", "bytes data = 14;", **released),
    change("repeated int64 shape = 2;", "repeated int32 shape = 2;", **released),
    sep="\n\n",
)

# %% [markdown]
# ## What may change in ours (optional)
#
# We add new things beside the old ones: a typed table is a new field with a new number, a table in chunks is a new rpc.
# `input_data` and `result` stay what they are: plain `string` fields with the number 1.
#
# Why "plain"? There are four ways to send a table, and a request must use exactly one. The contract could say so with a
# `oneof`, a group of fields of which at most one is set. Or it could say `optional`, as the new field `arrow` does. For a
# text that is not empty, the bytes are the same:

# %% tags=["deterministic"]
for fields in (
    "string input_data = 1;",
    "optional string input_data = 1;",
    "oneof payload { string input_data = 1; bytes other = 2; }",
):
    Variant = compile_message(fields)
    print(f"same bytes: {Variant(input_data=TEXT).SerializeToString() == data}   {fields}")

# %% [markdown]
# The Python source, `Request(input_data=…)`, is the same in all three. Go is stricter, because the type in Go follows the
# contract. Below is what `protoc-gen-go` makes of each, and what Go's compiler says to the article's line
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
# So the contract does not say "send the table in exactly one way". The server's code checks it (`codec_of` in
# `pred_server/wire/codec.py`). That is the price of the promise.

# %% [markdown]
# ## A trap: `duplicate symbol` (optional)
#
# One process can register the name of a message once. Suppose that a second team also generates code from this contract,
# under another path, and you import both. Then the second import fails. Here are the error and two cures.

# %% tags=["deterministic"]
(scratch / "both.py").write_text("from pred_server.generated import pred_pb2\nfrom other import pred_pb2 as again\n")
(scratch / "only_other.py").write_text("from other import pred_pb2\nprint('imported', pred_pb2.DESCRIPTOR.name)\n")
(scratch / "renamed").mkdir()
(scratch / "renamed/pred.proto").write_text(contract.replace("package prediction;", "package prediction_copy;"))
(scratch / "ours_and_a_copy.py").write_text(
    "from pred_server.generated import pred_pb2\n"
    "from copied import pred_pb2 as again\n"
    "for module in (pred_pb2, again):\n"
    "    print(f\"/{module.DESCRIPTOR.services_by_name['Prediction'].full_name}/Predict\")\n"
)
folded(
    "The error and two cures",
    run(f"{PROTOC} -Iother=proto --python_out=. --grpc_python_out=. other/pred.proto"),
    run("python both.py", last=1),  # the last line of the traceback
    "# Cure 1: a process of its own",
    run("python only_other.py"),
    "# Cure 2: another package name",
    run(f"{PROTOC} -Icopied=renamed --python_out=. --grpc_python_out=. copied/pred.proto"),
    run("python ours_and_a_copy.py"),
)

# %% [markdown]
# <details><summary>What happened</summary>
#
# The two Python modules have different names, but protobuf does not look at those. The name `prediction.Request` came with
# the file `pred_server/generated/pred.proto`. The same name from a file `other/pred.proto` is a conflict, even if the two
# files say the same. (Only the same file name with the same contents may come twice. Go is as strict: a program that links
# both panics when it starts.)
#
# 1. A process of its own for each always works.
# 2. With another package name both can be imported. But look at the paths: it is another contract now. A server of the one
#    answers a client of the other with `UNIMPLEMENTED`. That is good for a version 2, and useless as a repair.
#
# The private pools that we used above work too. They suit a lesson or a test. Code that protoc generates always uses the
# default pool.
#
# </details>

# %% [markdown]
# ## What we found
#
# - Client and server agree on a path (`/prediction.Prediction/Predict`) and, for each message, on field numbers and
#   types. Names of messages and fields are for people and source code; they are never sent.
# - A message is tag, value, tag, value. The envelope costs a few bytes, even around a large text.
# - The columns *inside* the string and their types are agreed outside protobuf. No tool here checks them; the server must.
# - What a change does:
#
# | change | a program with the old contract | buf (`FILE`) |
# |---|---|---|
# | add a field or an rpc | works; keeps the fields that it does not know | accepts |
# | rename a field | works; source code must change when stubs are generated again | refuses |
# | change or reuse a number | reads nothing, or something else, and no error | refuses |
# | change a type | loss, garbage or an error: types and data decide | refuses |
# | make a field `optional`, or move it into a `oneof` | works; Go source must change | refuses |
# | remove an rpc | gets `UNIMPLEMENTED` | refuses |
#
# - `tests/article/pred.proto` is the promise to the clients that exist; `make lint` compares with it.
# - A process can register the name of a message once.

# %% [markdown]
# ## Exercises
#
# ### 0. Write a contract
#
# You have a model that reads a text and gives it a label, for example film reviews: `like` or `dislike`. Another team wants
# to call it. Write the contract into `MINE`, five lines: the syntax, the package `texts.v1`, the service
# `ClassifierService` with an rpc `Classify`, and two messages. `ClassifyRequest` has a field `texts`, `ClassifyResponse` a
# field `labels`. You choose types and numbers. Think first: the other team may have a thousand reviews at once.

# %%
MINE = """

"""

# %% [markdown]
# This program serves your contract and calls it. It imports the code that protoc will generate from `MINE`. It runs in a
# process of its own, so you can try as often as you like. (Why? See the trap above.)

# %%
PROGRAM = """
from concurrent.futures import ThreadPoolExecutor
import grpc
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from texts.v1 import texts_pb2, texts_pb2_grpc

model = make_pipeline(TfidfVectorizer(), LogisticRegression())
model.fit(["good film", "good play", "bad film", "bad play"], ["like", "like", "dislike", "dislike"])

class Servicer(texts_pb2_grpc.ClassifierServiceServicer):
    def Classify(self, request, context):
        return texts_pb2.ClassifyResponse(labels=model.predict(list(request.texts)))

server = grpc.server(ThreadPoolExecutor())
texts_pb2_grpc.add_ClassifierServiceServicer_to_server(Servicer(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
    stub = texts_pb2_grpc.ClassifierServiceStub(channel)
    reply = stub.Classify(texts_pb2.ClassifyRequest(texts=["a good cast", "bad music", "good!"]), timeout=10)
    print(list(reply.labels))
server.stop(None).wait()
"""

# %% [markdown]
# Run the next cell to check your contract: protoc compiles it, `buf lint` without exceptions reads it, and then the program
# serves it.


# %% tags=["deterministic"]
def check_contract(contract: str) -> str:
    """Compile, lint, serve and call a contract; return the output of the call. Raises AssertionError with the reason."""
    (scratch / "mine/texts/v1").mkdir(parents=True, exist_ok=True)
    (scratch / "mine/texts/v1/texts.proto").write_text(contract.strip() + "\n")
    (scratch / "mine.yaml").write_text("version: v2\nmodules: [{path: mine}]\nlint: {use: [STANDARD]}\n")
    (scratch / "classify.py").write_text(PROGRAM)

    compiled = run(f"{PROTOC} -Imine {OUT} --descriptor_set_out=mine.bin texts/v1/texts.proto")
    assert "(exit code 0)" in compiled, f"protoc refuses it:\n{compiled}"
    linted = run("buf lint mine --config mine.yaml")
    assert "(exit code 0)" in linted, f"buf has advice:\n{linted}"
    file = descriptor_pb2.FileDescriptorSet.FromString((scratch / "mine.bin").read_bytes()).file[0]
    lists = {
        field.name for message in file.message_type for field in message.field if field.label == field.LABEL_REPEATED
    }
    for name in ("texts", "labels"):
        assert name in lists, f"no message has a list `{name}` that can hold a thousand values"
    served = run("python classify.py", last=6)
    assert "['like', 'dislike', 'like']" in served, f"the call gives no three labels:\n{served}"
    return served


print("exercise 0: right\n" + check_contract(MINE) if MINE.strip() else "exercise 0: not yet answered")

# %% [markdown]
# <details><summary>Answer</summary>
#
# ```proto
# syntax = "proto3";
# package texts.v1;
# service ClassifierService { rpc Classify(ClassifyRequest) returns (ClassifyResponse); }
# message ClassifyRequest { repeated string texts = 1; }
# message ClassifyResponse { repeated string labels = 1; }
# ```
#
# - **`repeated`, and batches.** With a plain `string`, a thousand reviews need a thousand calls, and each call has a fixed
#   price (lesson 00). You cannot add `repeated` later: buf refuses it, and exercise 2 shows why. So begin with a list. A
#   caller with one text sends a list of one. Say in a comment what no compiler checks: one label for each text, in the same
#   order. And remember the limit: by default gRPC refuses to receive a message of more than 4 MiB. A caller with more texts
#   sends several messages.
# - **Package and version.** The path of the call is `/texts.v1.ClassifierService/Classify`. The prefix keeps your names
#   apart from everybody else's. With `v1` in it, one server can offer a `v2` beside it while old clients still call `v1`.
# - **A message of its own for each direction.** `ClassifyResponse` may soon need a field `scores = 2`. If request and
#   response shared a message, the request would get that field too.
# - **`reserved`.** One day you remove a field, say `string language = 2`. Then write `reserved 2; reserved "language";` in
#   its place. protoc refuses anybody who uses the number or the name again. So no old client reads the new value as
#   a language.
#
# </details>
#
# ### 1. Bytes by hand (optional)
#
# The article's server answers `x,y\n1,2\n` with `0\n3\n`. Write down the bytes of `pred_pb2.Response(result="0\n3\n")`
# before you let Python do it. Then: how many bytes has a response with a text of 200 characters, all ASCII?
#
# <details><summary>Answer</summary>
#
# `0a 04 30 0a 33 0a`: the tag (field 1, wire type 2), the length 4, then `0`, line break, `3`, line break. The tag is the
# same as in the request, because number and wire type are the same. The larger one has 203 bytes: one of tag, two of length
# (200 needs more than seven bits), 200 of text.
#
# </details>
#
# ### 2. A list in place of a text (optional)
#
# Before there was `PredictStream`, a colleague wanted to send a table in chunks. The proposal was
# `repeated string input_data = 1;`, "one chunk as before, or several". What does an old server read when a new client sends
# two chunks? What does buf say? What would you propose? Try it with `compile_message` and `change`. (They need the
# scratch folder: run all cells above, but not the cell below that removes it.)
#
# <details><summary>Answer</summary>
#
# ```python
# Chunks = compile_message("repeated string input_data = 1;")
# show_what_is_read(Old, Chunks(input_data=["x,y\n1,2\n", "x,y\n3,4\n"]).SerializeToString())
# print(change("string input_data = 1;", "repeated string input_data = 1;"))
# ```
#
# A repeated string is the same tag once for each value. A reader that expects one value keeps the last. So the old server
# reads `x,y\n3,4\n`, and predicts half of the rows, without an error. One chunk works as before, so a test with one chunk
# finds nothing. buf refuses: `changed cardinality from "optional with implicit presence" to "repeated"`. A new rpc that
# takes a stream of `Request`, as ours does now, leaves the old one as it is.
#
# </details>

# %% [markdown]
# ## Close
#
# No server and no channel is open. We remove the scratch folder.

# %% tags=["deterministic"]
scratch_folder.cleanup()
print("scratch folder exists:", scratch.exists())

# %% [markdown]
# **Next:** [03_serve_and_call](03_serve_and_call.ipynb) writes the article's server, a servicer with one method, and
# calls it.

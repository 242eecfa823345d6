"""Encrypted and closed: who is refused, with which words, and what happens when certificates and tokens change."""

import codecs
import hmac
import json
import pickle
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from pred_server import Client, serve
from pred_server.cli import main
from pred_server.client.security import TLS
from pred_server.errors import InvalidInput, PredServerError, ServerStartError, Unauthenticated, Unavailable
from pred_server.generated.pred_pb2 import DescribeRequest, Request
from pred_server.generated.pred_pb2_grpc import PredictionStub
from pred_server.ops import security
from pred_server.ops.security import Kept, Security, read_certificates, read_tokens
from pred_server.tutorial.background import Server, gateway
from tests.ops.certificates import Authority, ed448, write
from tests.waits import wait_until

TABLE = "x,y\n1,2\n3,4\n"
SUMS = [3.0, 7.0]
TOKEN, NEXT = "a-token-of-the-web-team", "its-next-token-of-24-char"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def ca(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def foreign(folder: Path) -> Authority:
    return Authority(folder, "foreign")


@pytest.fixture(scope="module")
def tokens(folder: Path) -> Path:
    return write(folder / "tokens", f"# of the web team\nweb {TOKEN}\nops another-token-of-others\n")


@pytest.fixture(scope="module")
def encrypted(ca: Authority) -> Iterator[Server]:
    with encrypted_server(*ca.issue("127.0.0.1")) as server:
        yield server


@pytest.fixture(scope="module")
def asks_for_certificates(ca: Authority) -> Iterator[Server]:
    with encrypted_server(*ca.issue("127.0.0.1"), "--tls-client-ca", str(ca.file), "--log-level", "info") as server:
        yield server


@pytest.fixture(scope="module")
def closed(tokens: Path) -> Iterator[Server]:
    with serve("sum", "--token-file", str(tokens), "--log-level", "info", "--log-format", "json") as server:
        yield server


def encrypted_server(cert: Path, key: Path, *flags: str) -> Server:
    return serve("sum", "--tls-cert", str(cert), "--tls-key", str(key), *flags)


def error_of(server: Server, **settings: Any) -> PredServerError:
    """The error of one call, which is not repeated."""
    with Client(server.address, retry=False, **settings) as client, pytest.raises(PredServerError) as caught:
        client.predict(TABLE)
    return caught.value


def test_an_encrypted_server_answers_who_believes_its_authority(encrypted: Server, ca: Authority) -> None:
    for tls in (str(ca.file), ca.file, TLS(ca=ca.file)):
        assert encrypted.client(tls=tls).predict(TABLE).tolist() == SUMS


@pytest.mark.parametrize(
    ("tls", "sentence"),
    [
        (None, "if it is encrypted, give tls"),
        (True, "not to be trusted"),
        ("foreign", "not to be trusted"),
        ("name", "for another name"),
    ],
)
def test_a_client_says_why_it_does_not_believe_the_server(
    encrypted: Server, ca: Authority, foreign: Authority, tls: Any, sentence: str
) -> None:
    tls = {"foreign": foreign.file, "name": TLS(ca.file, server_name="predictions.example")}.get(tls, tls)
    error = error_of(encrypted, tls=tls)
    assert isinstance(error, Unavailable) and sentence in str(error)


def test_a_certificate_for_another_host_is_believed_only_by_that_name(ca: Authority) -> None:
    with encrypted_server(*ca.issue("predictions.example")) as server:
        assert "for another name" in str(error_of(server, tls=ca.file))
        assert server.client(tls=TLS(ca.file, server_name="predictions.example")).predict(TABLE).tolist() == SUMS


def test_an_encrypted_client_says_that_the_server_is_not(sum_server: Server, ca: Authority) -> None:
    assert "is not encrypted" in str(error_of(sum_server, tls=ca.file))


def test_an_expired_certificate_is_not_served(ca: Authority) -> None:
    with pytest.raises(ServerStartError, match="the certificate is not valid: certificate has expired"):
        encrypted_server(*ca.issue("127.0.0.1", expired=True))


def test_a_certificate_that_has_expired_meanwhile_is_not_believed(ca: Authority) -> None:
    cert, key = ca.issue("127.0.0.1", expired=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["h2"])
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with pytest.raises(OSError), context.wrap_socket(listener.accept()[0], server_side=True) as connection:
                connection.recv(1)
                raise OSError("the client is gone")

        thread = threading.Thread(target=answer)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with Client(address, tls=ca.file, retry=False) as client, pytest.raises(Unavailable, match="not to be trusted"):
            client.predict(TABLE, timeout_s=20)
        thread.join()


def test_old_protocols_are_refused(encrypted: Server) -> None:
    host, port = encrypted.address.split(":")
    for version in ("TLSv1_1", "TLSv1_2"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion[version]
        with socket.create_connection((host, int(port))) as connection:
            if version == "TLSv1_1":
                with pytest.raises(OSError):
                    context.wrap_socket(connection)
            else:
                with context.wrap_socket(connection) as secured:
                    assert secured.version() == "TLSv1.2"


def test_a_client_certificate_is_asked_for_and_its_name_is_in_the_log(
    asks_for_certificates: Server, ca: Authority, foreign: Authority
) -> None:
    server = asks_for_certificates
    for tls in (TLS(ca.file), TLS(ca.file, *foreign.issue("web", common_name="web"))):
        error = error_of(server, tls=tls)
        assert isinstance(error, Unavailable), error
        assert "certificate" in str(error)
    cert, key = ca.issue("web.example", common_name="the-web-team")
    assert server.client(tls=TLS(ca.file, cert, key)).predict(TABLE).tolist() == SUMS
    wait_until(lambda: "caller=the-web-team" in server.logs(), "the name is in the log")


def test_a_list_of_encrypted_servers_has_one_name(ca: Authority, encrypted: Server) -> None:
    target = f"{encrypted.address},{encrypted.address}"
    with pytest.raises(InvalidInput, match="server_name"):
        Client(target, tls=ca.file)
    with Client(target, tls=TLS(ca.file, server_name="127.0.0.1")) as client:
        assert client.predict(TABLE).tolist() == SUMS


@pytest.mark.parametrize(
    ("tls", "words"),
    [
        (TLS(cert="cert.pem"), "only together"),
        (3, "is a int"),
        ("nowhere.pem", "cannot read nowhere.pem"),
        (__file__, r"test_security\.py cannot be used \(.*\): certificates and keys are needed in PEM"),
    ],
)
def test_what_tls_may_not_be(tls: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Client("127.0.0.1:1", tls=tls)


def test_a_client_names_the_files_that_it_cannot_use(ca: Authority, tmp_path: Path) -> None:
    marked = write(tmp_path / "marked.pem", codecs.BOM_UTF8 + ca.pem)
    with pytest.raises(InvalidInput, match=r"marked\.pem begins with a byte order mark; store it without"):
        Client("127.0.0.1:1", tls=marked)
    (cert, _), (_, other) = ca.issue("me"), ca.issue("another")
    with pytest.raises(InvalidInput, match=f"{other.name} or .*{cert.name} cannot be used .KEY_VALUES_MISMATCH."):
        Client("127.0.0.1:1", tls=TLS(ca.file, cert, other))


# Tokens


def test_the_right_token_is_let_in_and_its_name_is_in_the_log(closed: Server) -> None:
    assert closed.client(token=TOKEN).predict(TABLE).tolist() == SUMS
    assert closed.client(token="another-token-of-others").describe().name == "sum"
    table = np.ones((300_000, 2))
    assert closed.client(token=TOKEN).predict(table).tolist() == [2.0] * 300_000, "a stream"

    def callers() -> list[tuple[str, str]]:
        lines = [json.loads(line) for line in closed.logs().splitlines() if line.startswith("{")]
        return [(line["rpc"], line["caller"]) for line in lines if "caller" in line]

    wait_until(
        lambda: {("Predict", "web"), ("Describe", "ops"), ("PredictStream", "web")} <= set(callers()),
        "the log has names",
    )
    assert TOKEN not in closed.logs()


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        (None, security.NO_TOKEN),
        ("a-token-of-nobody-here", security.WRONG_TOKEN),
        (TOKEN[:-1], security.WRONG_TOKEN),
        (TOKEN + "m", security.WRONG_TOKEN),
        (TOKEN.upper(), security.WRONG_TOKEN),
        ("web", security.WRONG_TOKEN),
    ],
)
def test_no_other_token_is_let_in(closed: Server, token: str | None, sentence: str) -> None:
    error = error_of(closed, token=token)
    assert isinstance(error, Unauthenticated)
    assert str(error) == sentence


def test_every_rpc_is_closed_but_health_and_nothing_is_read(closed: Server) -> None:
    with grpc.insecure_channel(closed.address) as channel:
        stub, never = PredictionStub(channel), threading.Event()

        def nothing() -> Iterator[Request]:
            never.wait()
            yield from ()

        reflect = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        unknown = channel.unary_unary("/prediction.Prediction/Nothing")
        calls: list[Callable[[], Any]] = [
            lambda: stub.Predict(Request(), timeout=30),
            lambda: next(stub.PredictStream(nothing(), timeout=30)),
            lambda: stub.Describe(DescribeRequest(), timeout=30),
            lambda: next(reflect(nothing(), timeout=30)),
            lambda: unknown(b"", timeout=30),
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert caught.value.details() == security.NO_TOKEN
        never.set()
        answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=30)
        assert answer.status == HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", f"Basic {TOKEN}")],
        [("authorization", TOKEN)],
        [("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")],
        [("authorization", "Bearer")],
        [("authorization-bin", TOKEN.encode())],
    ],
)
def test_other_ways_to_say_it_are_refused(closed: Server, headers: list[tuple[str, Any]]) -> None:
    with grpc.insecure_channel(closed.address) as channel, pytest.raises(grpc.RpcError) as caught:
        PredictionStub(channel).Predict(Request(input_data=TABLE), metadata=headers, timeout=30)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_health_and_reflection_can_be_closed(tokens: Path) -> None:
    flags = ("--token-file", str(tokens), "--health-token", "--no-reflection")
    with serve("sum", *flags) as server, grpc.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            HealthStub(channel).Check(HealthCheckRequest(), timeout=30)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        metadata = [("authorization", f"Bearer {TOKEN}")]
        answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=30, metadata=metadata)
        assert answer.status == HealthCheckResponse.SERVING
        reflect = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as caught:
            next(reflect(iter(()), timeout=30, metadata=metadata))
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_all_lines_are_compared_whichever_it_is(tokens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(known: bytes, digest: bytes) -> bool:
        compared.append(known)
        return hmac.compare_digest(known, digest)

    monkeypatch.setattr(security, "hmac", type("hmac", (), {"compare_digest": staticmethod(compare)}))
    keeper = security.Doorkeeper(Kept("tokens", [str(tokens)], read_tokens), False, None, print)  # type: ignore[arg-type]
    assert [keeper.name_of(token) for token in (TOKEN, "another-token-of-others", "nobody's")] == ["web", "ops", ""]
    assert len(compared) == 6 and len(set(compared)) == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "it has 0 tokens"),
        ("# nothing\n", "it has 0 tokens"),
        (TOKEN, "line 1: NAME TOKEN is needed"),
        (f"\nweb {TOKEN} more", "line 2: NAME TOKEN is needed"),
        (f"we:b {TOKEN}", "line 1: NAME TOKEN is needed"),
        (f"web {TOKEN[:15]}", "line 1: a token has 16 to 1,024 characters"),
        (f"web {TOKEN}é", "line 1: a token has"),
        (f"a {TOKEN}\nb {TOKEN}", "line 2: this token stands in the file twice"),
        ("web " + "a" * 1_025, "line 1: a token has"),
        ("\n".join(f"a token-number-{n:08}" for n in range(1_001)), "it has 1,001 tokens"),
        ("x" * (4 * 1024**2 + 1), "larger than"),
        (f"\ufeffweb {TOKEN}", "tokens begins with a byte order mark; store it without"),
    ],
)
def test_a_file_of_tokens_that_is_refused_is_not_shown(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ServerStartError) as caught:
        Kept("the file of tokens", [str(write(tmp_path / "tokens", text))], read_tokens)
    assert sentence in str(caught.value)
    assert TOKEN[:15] not in str(caught.value)


def test_a_token_is_shown_nowhere_and_a_pickle_has_it(closed: Server, tmp_path: Path) -> None:
    client = closed.client(token=TOKEN)
    assert TOKEN not in repr(client)
    again = pickle.loads(pickle.dumps(client))
    assert again.predict(TABLE).tolist() == SUMS
    again.close()
    for bad in ("two words", "", "new\nline", "ümlaut", 3):
        with pytest.raises(InvalidInput, match=r"^the token is not one word of plain ASCII$"):
            Client(closed.address, token=bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="No such file"):
        Client(closed.address, token=tmp_path / "nothing")


def test_a_token_does_not_leave_the_machine_unencrypted() -> None:
    for target in ("192.0.2.1:1", "dns:///predictions.example:1", "127.0.0.1:1,192.0.2.1:1", "[2001:db8::1]:1"):
        with pytest.raises(InvalidInput, match="unencrypted") as caught:
            Client(target, token=TOKEN)
        assert TOKEN not in str(caught.value)
    for target in ("192.0.2.1:1", "dns:///predictions.example:1"):
        Client(target, token=TOKEN, tls=True).close()
    for target in ("127.0.0.1:1", "localhost:1", "[::1]:1", "127.0.0.1:1,127.0.0.1:2", "dns:///localhost:1", "unix:/a"):
        Client(target, token=TOKEN).close()


def test_a_token_from_a_file_is_read_again(tokens: Path, tmp_path: Path) -> None:
    with serve("sum", "--token-file", str(tokens)) as server:
        file = write(tmp_path / "token", "an-old-token-of-the-web\n")
        client = server.client(token=file)
        with pytest.raises(Unauthenticated):
            client.predict(TABLE)
        write(file, TOKEN + "\n")
        assert client.predict(TABLE).tolist() == SUMS
        write(file, "")
        assert client.predict(TABLE).tolist() == SUMS, "what it held before"
        file.unlink()
        assert client.predict(TABLE).tolist() == SUMS


# Files that change


def test_certificates_and_tokens_are_replaced_under_load_and_no_call_is_lost(
    ca: Authority, foreign: Authority, tmp_path: Path
) -> None:
    cert, key = ca.issue("127.0.0.1")
    both = write(tmp_path / "both.pem", ca.pem + foreign.pem)
    tokens, token = tmp_path / "tokens", tmp_path / "token"
    write(tokens, f"web {TOKEN}\n")
    write(token, TOKEN)
    stop, errors, counts = threading.Event(), [], []
    with encrypted_server(cert, key, "--token-file", str(tokens)) as server:

        def ask(anew: bool) -> None:
            count = 0
            client = Client(server.address, tls=both, token=token, retry=False)
            try:
                while not stop.is_set():
                    if anew:
                        client.close()
                        client = Client(server.address, tls=both, token=token, retry=False)
                    assert client.predict(TABLE).tolist() == SUMS
                    count += 1
            except Exception as error:
                errors.append(error)
            finally:
                client.close()
                counts.append(count)

        def shown(authority: Authority) -> bool:
            """Whether a new connection sees a certificate of this authority."""
            with Client(server.address, tls=authority.file, token=token, retry=False) as client:
                try:
                    return client.predict(TABLE).tolist() == SUMS
                except Unavailable as error:
                    assert "not to be trusted" in str(error)
                    return False

        def refused(token: str) -> bool:
            with Client(server.address, tls=both, token=token, retry=False) as client:
                try:
                    return client.predict(TABLE) is None
                except Unauthenticated:
                    return True

        threads = [threading.Thread(target=ask, args=(anew,)) for anew in (False, True)]
        for thread in threads:
            thread.start()
        try:
            assert shown(ca)
            write(tokens, f"web {TOKEN}\nweb {NEXT}\n")
            wait_until(lambda: "the file of tokens" in server.logs(), "both tokens are in use")
            write(token, NEXT)
            for turn in range(3):
                authority = (foreign, ca)[turn % 2]
                for old, new in zip((cert, key), authority.issue("127.0.0.1"), strict=True):  # at two moments
                    new.replace(old)
                wait_until(partial(shown, authority), "the new certificate is shown")
            write(tokens, f"web {NEXT}\n")
            wait_until(partial(refused, TOKEN), "the first token is refused")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not errors
        assert min(counts) > 10
        assert server.running


def test_broken_files_change_nothing_and_the_log_says_so_once(ca: Authority, tmp_path: Path) -> None:
    cert, key = ca.issue("127.0.0.1")
    tokens = write(tmp_path / "tokens", f"web {TOKEN}\n")
    with encrypted_server(cert, key, "--token-file", str(tokens)) as server:
        write(cert, "no certificate")
        write(tokens, f"web {NEXT[:10]}\n")
        wait_until(lambda: server.logs().count("what they held before stays in use") == 2, "the log names both")
        assert server.client(tls=ca.file, token=TOKEN).predict(TABLE).tolist() == SUMS
        assert isinstance(error_of(server, tls=ca.file, token=NEXT), Unauthenticated)
        tokens.unlink()
        wait_until(lambda: "No such file" in server.logs(), "the file is missed")
        assert server.client(tls=ca.file, token=TOKEN).predict(TABLE).tolist() == SUMS
        assert server.logs().count("what they held before stays in use") == 3
        assert NEXT[:10] not in server.logs()


def test_a_file_is_read_once_it_was_the_same_in_two_looks(tmp_path: Path) -> None:
    path = write(tmp_path / "file", "one")
    kept = Kept("the file", [str(path)], lambda path: path.read_text())
    write(path, "longer")
    kept.look()
    assert kept.value == "one"
    kept.look()
    assert kept.value == "longer"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"tls_cert": "x"}, "--tls-cert and --tls-key"),
        ({"tls_client_ca": "x"}, "--tls-client-ca needs"),
        ({"health_token": True}, "--health-token needs"),
    ],
)
def test_flags_that_are_of_no_use_alone(flags: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ServerStartError, match=sentence):
        Security(**flags)


def test_certificates_that_are_refused(ca: Authority, tmp_path: Path) -> None:
    cert, key = ca.issue("127.0.0.1")
    assert read_certificates(cert, key, ca.file).not_after_s > 0
    _, other = ca.issue("127.0.0.1")
    locked = tmp_path / "locked.pem"
    from cryptography.hazmat.primitives import serialization

    private: Any = serialization.load_pem_private_key(key.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"a passphrase")
    form = serialization.PrivateFormat.PKCS8
    locked.write_bytes(private.private_bytes(serialization.Encoding.PEM, form, encryption))
    marked = write(tmp_path / "marked.pem", codecs.BOM_UTF8 + cert.read_bytes())
    for files, sentence in [
        ((marked, key), "marked.pem begins with a byte order mark"),
        (ed448(tmp_path), "gRPC cannot use them; certificates and keys are needed in PEM: RSA of"),
        ((cert, other), "the key is not that of the certificate"),
        ((key, cert), "are needed in PEM"),
        ((cert, locked), "the key has a passphrase"),
        ((cert, key, key), "are needed in PEM"),
    ]:
        with pytest.raises(InvalidInput, match=sentence):
            read_certificates(*files)


@pytest.mark.parametrize("protected", ["", "tls", "tokens", "both", "certificates"])
def test_a_network_needs_both_encryption_and_a_lock(
    ca: Authority, tokens: Path, protected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The address is nobody's: where the server would listen there, it says that it cannot."""
    cert, key = map(str, ca.issue("127.0.0.1"))
    flags = ["--tls-cert", cert, "--tls-key", key] if protected in ("tls", "both", "certificates") else []
    flags += ["--token-file", str(tokens)] if protected in ("tokens", "both") else []
    flags += ["--tls-client-ca", str(ca.file)] if protected == "certificates" else []
    with pytest.raises(ServerStartError) as caught:
        serve("sum", "--address", "192.0.2.1:0", *flags)
    enough = protected in ("both", "certificates")
    assert ("cannot listen" in str(caught.value)) == enough
    assert ("--expose-to-network" in str(caught.value)) != enough


def test_the_command_line_asks_such_a_server(ca: Authority, tokens: Path, tmp_path: Path, capsys: Any) -> None:
    table, token = write(tmp_path / "table.csv", TABLE), write(tmp_path / "token", TOKEN)
    with encrypted_server(*ca.issue("predictions.example"), "--token-file", str(tokens)) as server:
        flags = ["--address", server.address, "--tls-ca", str(ca.file), "--tls-name", "predictions.example"]
        assert main(["predict", str(table), *flags, "--token-file", str(token)]) == 0
        assert capsys.readouterr().out == "0\n3\n7\n"
        assert main(["describe", *flags, "--token-file", str(token)]) == 0
        assert "sum" in capsys.readouterr().out
        assert main(["predict", str(table), *flags]) == 1
        assert capsys.readouterr().err == f"pred-server: {security.NO_TOKEN}\n"
        assert main(["predict", str(table), "--address", server.address]) == 1
        assert "if it is encrypted" in capsys.readouterr().err


def test_the_gateway_asks_such_a_server(
    go: object, ca: Authority, foreign: Authority, tokens: Path, tmp_path: Path
) -> None:
    """HTTPS and a token in front, TLS with certificates on both sides and a token behind."""
    import httpx

    token = write(tmp_path / "token", NEXT)
    mine = write(tmp_path / "tokens", f"gateway {NEXT}\n")
    cert, key = map(str, ca.issue("web"))
    front_cert, front_key = map(str, ca.issue("127.0.0.1"))
    front = ["-tls-cert", front_cert, "-tls-key", front_key, "-token-file", str(tokens)]
    server_flags = ("--token-file", str(mine), "--tls-client-ca", str(ca.file), "--log-level", "info")
    right = {"-backend-ca": str(ca.file), "-backend-cert": cert, "-backend-key": key, "-backend-token-file": str(token)}

    def post(flags: dict[str, str], token: str = TOKEN) -> httpx.Response:
        words = [word for pair in flags.items() for word in pair]
        with gateway(server.address, *front, "-retries", "0", *words) as web:
            context = ssl.create_default_context(cafile=ca.file)
            with httpx.Client(verify=context, trust_env=False) as client:
                headers = {"Authorization": f"Bearer {token}", "Content-Type": "text/csv"}
                return client.post(f"{web.address}/predict", content=TABLE, headers=headers)

    with encrypted_server(*ca.issue("127.0.0.1"), *server_flags) as server:
        answer = post(right)
        assert (answer.status_code, answer.text) == (200, "0\n3\n7\n")
        wait_until(lambda: "caller=gateway" in server.logs(), "the gateway's name is in the log")
        answer = post(right, token=TOKEN[:-1])
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="predictions", error="invalid_token"'
        answer = post({**right, "-backend-token-file": str(write(tmp_path / "wrong", "some-other-token-here"))})
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "UNAUTHENTICATED")
        for wrong in ({**right, "-backend-ca": str(foreign.file)}, {"-backend-ca": str(ca.file)}, {}):
            answer = post(wrong)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "UNAVAILABLE")

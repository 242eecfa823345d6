"""Encrypted and closed: certificates and tokens for the server, read again when their files change.

gRPC asks for the certificate at the beginning of each connection, and an interceptor asks each call for its token. So
who is connected stays connected when the certificate changes, and a token that was taken out of its file is refused
from the next call on.
"""

import asyncio
import codecs
import hashlib
import hmac
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc

from pred_server.errors import InvalidInput, ServerStartError
from pred_server.guard.callers import CALLER
from pred_server.guard.refusals import Refusals

logger = logging.getLogger(__name__)

# How often to look whether a file has changed, in seconds. It is read once it was the same in two looks: certificate
# and key are seldom written at one moment.
LOOK_S = 1.0
# All tokens are compared with each call's, which takes a millisecond for so many.
MAX_TOKENS = 1_000
MIN_TOKEN, MAX_TOKEN = 16, 1_024  # characters
MAX_FILE_BYTES = 4 * 1024**2
# RFC 6750 allows no other characters, so any HTTP client can send it.
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
HEALTH = "/grpc.health.v1.Health/"

FORM = "certificates and keys are needed in PEM: RSA of 2,048 bits or more, or ECDSA with P-256 or P-384"
NO_TOKEN = "this server asks for a token: send the metadata `authorization: Bearer TOKEN`"
WRONG_TOKEN = "the token is none of this server's"

T = TypeVar("T")


@dataclass(frozen=True)
class Security:
    """What protects the server. Each is a command-line flag; the files are PEM, and tokens as `read_tokens` takes them.

    Raises
    ------
    ServerStartError
        A flag is of no use without another one.
    """

    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    token_file: str | None = None
    health_token: bool = False

    def __post_init__(self) -> None:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ServerStartError("--tls-cert and --tls-key are of use only together")
        if self.tls_client_ca and not self.tls_cert:
            raise ServerStartError("--tls-client-ca needs --tls-cert and --tls-key")
        if self.health_token and not self.token_file:
            raise ServerStartError("--health-token needs --token-file")

    @property
    def is_enough(self) -> bool:
        """Whether the server may face a network: strangers can neither read along nor ask."""
        return bool(self.tls_cert and (self.token_file or self.tls_client_ca))


class Kept(Generic[T]):
    """What some files hold, as it was when they were last in order.

    Parameters
    ----------
    read : takes the paths, and raises InvalidInput or OSError where the files cannot be used

    Raises
    ------
    ServerStartError
        The files cannot be used now.
    """

    def __init__(self, what: str, paths: Sequence[str], read: Callable[..., T]):
        self._what = what
        self._paths = [Path(path) for path in paths]
        self._read = read
        self._seen = self._tried = self._stamp()
        self.is_broken = False
        try:
            self.value = read(*self._paths)
        except (InvalidInput, OSError) as error:
            raise ServerStartError(f"{self} cannot be used: {_sentence(error)}") from None

    def __str__(self) -> str:
        return f"{self._what} ({', '.join(map(str, self._paths))})"

    def _stamp(self) -> list[tuple[int, ...]]:
        """Return what changes with the files. A link may lead to another file from one moment to the next."""
        stamps: list[tuple[int, ...]] = []
        for path in self._paths:
            try:
                stat = path.stat()
                stamps.append((stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_dev))
            except OSError:
                stamps.append(())
        return stamps

    def look(self) -> None:
        """Read the files if they have changed since they were last read, and not since the last look."""
        before, self._seen = self._seen, self._stamp()
        if self._seen != before or self._seen == self._tried:
            return
        self._tried = self._seen
        try:
            self.value = self._read(*self._paths)
        except (InvalidInput, OSError) as error:
            self.is_broken = True
            logger.error(
                "%s changed and cannot be used: %s; what they held before stays in use", self, _sentence(error)
            )
        else:
            self.is_broken = False
            logger.warning("%s changed and is in use now", self)


@dataclass(frozen=True)
class Certificates:
    """What a server shows, and whom it believes, as gRPC takes it; until when the certificate holds, in Unix time."""

    configuration: grpc.ServerCertificateConfiguration
    not_after_s: float


def read_certificates(cert: Path, key: Path, client_ca: Path | None = None) -> Certificates:
    """Read certificate, key, and the authority of clients' certificates. Raises InvalidInput, OSError."""
    paths = [cert, key, *([client_ca] if client_ca else [])]
    held = [_bytes_of(path) for path in paths]
    not_after_s = _check(cert, key, client_ca)
    if held != [_bytes_of(path) for path in paths]:
        raise InvalidInput("they change at this moment")
    pair, roots = [(held[1], held[0])], held[2] if client_ca else None
    _try(grpc.ssl_server_credentials(pair, roots, require_client_auth=bool(roots)))
    return Certificates(grpc.ssl_server_certificate_configuration(pair, roots), not_after_s)


def _try(credentials: grpc.ServerCredentials) -> None:
    """Have gRPC load them: it has a library of its own, which takes less than Python's. It says nothing of why."""
    server = grpc.server(ThreadPoolExecutor(1))
    try:
        server.add_secure_port("localhost:0", credentials)
    except RuntimeError:
        raise InvalidInput(f"gRPC cannot use them; {FORM}") from None
    finally:
        server.stop(None)


def _check(cert: Path, key: Path, client_ca: Path | None) -> float:
    """Try a handshake in memory, which says what is wrong. Returns when `cert` expires."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is what the client trusts
    try:
        server.load_cert_chain(cert, key, password=_no_passphrase)
        client.load_verify_locations(cert)
        if client_ca:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(client_ca)
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        asking = client.wrap_bio(to_client, to_server)
        answering = server.wrap_bio(to_server, to_client, server_side=True)
        for side in (asking, answering, asking, answering):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        certificate = asking.getpeercert()
    except ssl.SSLCertVerificationError as error:
        raise InvalidInput(f"the certificate is not valid: {error.verify_message}") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            why = "the key is not that of the certificate; where the file has several, the server's own comes first"
            raise InvalidInput(why) from None
        raise InvalidInput(f"{error.reason or 'no PEM'}; {FORM}") from None
    assert certificate
    return ssl.cert_time_to_seconds(str(certificate["notAfter"]))


def _no_passphrase() -> str:
    raise InvalidInput("the key has a passphrase, which nobody could type when the server starts; store it without")


def read_tokens(path: Path) -> tuple[tuple[bytes, str], ...]:
    """Read a file of tokens, a line each: NAME TOKEN. Lines that begin with # are left out.

    A name may have several tokens, so that one can replace another.

    Returns
    -------
    The digest of each token, and its name

    Raises
    ------
    InvalidInput
        A line is malformed; the message has its number, and nothing of it.
    """
    try:
        lines = _bytes_of(path).decode().splitlines()
    except UnicodeDecodeError:
        raise InvalidInput("it is not text in UTF-8") from None
    tokens: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not NAME.fullmatch(words[0]):
            raise InvalidInput(f"line {number}: NAME TOKEN is needed, the name in letters, digits and . _ @ -")
        if not (MIN_TOKEN <= len(words[1]) <= MAX_TOKEN and TOKEN.fullmatch(words[1])):
            raise InvalidInput(
                f"line {number}: a token has {MIN_TOKEN} to {MAX_TOKEN:,} characters: letters, digits, - . _ ~ + /, "
                "and = at its end"
            )
        if (digest := _digest(words[1])) in tokens:
            raise InvalidInput(f"line {number}: this token stands in the file twice")
        tokens[digest] = words[0]
    if not 1 <= len(tokens) <= MAX_TOKENS:
        raise InvalidInput(f"it has {len(tokens):,} tokens; 1 to {MAX_TOKENS:,} are possible")
    return tuple(tokens.items())


def _bytes_of(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise InvalidInput(f"{path.name} is larger than {MAX_FILE_BYTES:,} bytes")
    if data.startswith(codecs.BOM_UTF8):  # as editors on Windows write it; gRPC finds no PEM then
        raise InvalidInput(f"{path.name} begins with a byte order mark; store it without")
    return data


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _sentence(error: Exception) -> str:
    return f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)


class Access:
    """Lets in who may come: by the certificates and tokens that `security` names.

    Parameters
    ----------
    refusals : slows down who is refused again and again
    refused : is called with each method that was refused
    """

    certificates: Kept[Certificates] | None = None
    tokens: Kept[tuple[tuple[bytes, str], ...]] | None = None

    def __init__(self, security: Security, refusals: Refusals, refused: Callable[[str], None] = lambda method: None):
        self._security = security
        self._given: Certificates | None = None
        files = [file for file in (security.tls_cert, security.tls_key, security.tls_client_ca) if file]
        if files:
            self.certificates = Kept("certificate and key", files, read_certificates)
        self.interceptors: tuple[grpc.aio.ServerInterceptor, ...] = ()
        if security.token_file:
            self.tokens = Kept("the file of tokens", [security.token_file], read_tokens)
            self.interceptors = (Doorkeeper(self.tokens, security.health_token, refusals, refused),)

    def add_port(self, server: grpc.aio.Server, address: str) -> int:
        """Have the server listen on an address. Returns the port; raises RuntimeError where that is not possible."""
        if self.certificates is None:
            return server.add_insecure_port(address)
        self._given = self.certificates.value
        credentials = grpc.dynamic_ssl_server_credentials(
            self._given.configuration, self._changed, require_client_authentication=bool(self._security.tls_client_ca)
        )
        return server.add_secure_port(address, credentials)

    def _changed(self) -> Any:
        """Return what gRPC is to show from this connection on, None for the same as before; in a thread of gRPC's."""
        assert self.certificates
        if (now := self.certificates.value) is self._given:
            return None
        self._given = now
        return now.configuration

    @property
    def kept(self) -> tuple[Kept[Any], ...]:
        return tuple(kept for kept in (self.certificates, self.tokens) if kept)

    async def watch(self) -> None:
        """Look after the files, forever. A thread does it: a file system may be slow."""
        while self.kept:
            await asyncio.sleep(LOOK_S)
            for kept in self.kept:
                with suppress(RuntimeError):  # there is no room for a thread now
                    await asyncio.to_thread(kept.look)


class Doorkeeper(grpc.aio.ServerInterceptor):
    """Asks each call for its token before anything of it is read: whatever the server offers is closed, unless said."""

    def __init__(
        self,
        tokens: Kept[tuple[tuple[bytes, str], ...]],
        health_token: bool,
        refusals: Refusals,
        refused: Callable[[str], None],
    ):
        self._tokens = tokens
        self._health_token = health_token
        self._refusals = refusals
        self._refused = refused

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        method: Any = handler_call_details.method
        if method.startswith(HEALTH) and not self._health_token:
            return await continuation(handler_call_details)
        name = why = ""
        metadata: Any = handler_call_details.invocation_metadata or ()
        sent = [text for key, text in metadata if key == "authorization" and isinstance(text, str)]
        scheme, _, token = sent[0].partition(" ") if len(sent) == 1 else ("", "", "")
        if scheme.lower() != "bearer":
            why = NO_TOKEN
        elif not (name := self.name_of(token.strip())):
            why = WRONG_TOKEN
        if not why:
            CALLER.set(name)
            return await continuation(handler_call_details)

        def note(peer: str) -> None:
            logger.info("refused code=UNAUTHENTICATED %s from %s: %s", method, peer, why)
            self._refused(method)

        return self._refusals.handler(grpc.StatusCode.UNAUTHENTICATED, why, note)

    def name_of(self, token: str) -> str:
        """Return the name of a token; nothing for one that is unknown. It takes as long whichever it is."""
        digest, name = _digest(token), ""
        for known, its_name in self._tokens.value:
            if hmac.compare_digest(known, digest):
                name = its_name
        return name

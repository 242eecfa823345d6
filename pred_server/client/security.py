"""How a client speaks to a server that is encrypted and closed: the certificates it believes, and its token."""

import codecs
import os
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from pred_server.errors import InvalidInput
from pred_server.wire.address import parse_address

Authorization = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TLS:
    """How a client encrypts. Files hold PEM.

    Parameters
    ----------
    ca : the authorities that sign servers' certificates; without it, the public ones that gRPC brings along
    cert, key : the client's own certificate and its key, for a server that asks for one
    server_name : the name that stands in the server's certificate, where it is not the host of the target. A list of
        servers needs it.
    """

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None
    server_name: str | None = None

    @classmethod
    def of(cls, tls: "TLS | bool | str | Path | None") -> "TLS | None":
        """Return what `Client(tls=...)` stands for. Raises InvalidInput."""
        match tls:
            case None | False:
                return None
            case True:
                return cls()
            case str() | Path():
                return cls(ca=tls)
            case TLS() if bool(tls.cert) == bool(tls.key):
                return tls
            case TLS():
                raise InvalidInput("tls: a certificate and its key are of use only together")
        raise InvalidInput(f"tls is a {type(tls).__name__}; True, the path of a CA's certificate, or a TLS is needed")

    def credentials(self) -> grpc.ChannelCredentials:
        """Return the files as gRPC takes them. Raises InvalidInput where they cannot be used: gRPC would not say so."""
        files = (self.ca, self.key, self.cert)
        held = [_read(file) if file else None for file in files]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.ca:
                context.load_verify_locations(self.ca)
            if self.cert:
                context.load_cert_chain(self.cert, self.key, password="")
        except (ssl.SSLError, ValueError) as error:
            raise InvalidInput(
                f"tls: {' or '.join(str(file) for file in files if file)} cannot be used "
                f"({getattr(error, 'reason', None) or 'no PEM'}): certificates and keys are needed in PEM, and a key "
                "without a passphrase, beside its own certificate"
            ) from None
        return grpc.ssl_channel_credentials(*held)

    def options(self, several: bool) -> list[tuple[str, Any]]:
        """Return a channel's options: the name to look for. gRPC would take a list of addresses for one name."""
        if several and not self.server_name:
            raise InvalidInput(
                "a list of servers, and TLS: give TLS(server_name=...), or --tls-name, with what all certificates name"
            )
        return [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []


def authorization(token: str | Path | None, target: str, tls: TLS | None) -> Callable[[], Authorization]:
    """Return what gives each call the metadata that carries the token.

    Parameters
    ----------
    token : the token; or the path of a file that holds it and nothing else, read again when it changes

    Raises
    ------
    InvalidInput
        It is no token, or would travel so that others can read it. The message does not show it.
    """
    if token is None:
        return tuple
    if tls is None and not all(parse_address(part).is_loopback for part in target.removeprefix("dns:///").split(",")):
        raise InvalidInput(f"the token would travel to {target} unencrypted: give tls=True, or the CA's certificate")
    if isinstance(token, Path):
        entry = _TokenFile(token)
        entry()
        return entry
    entries = _entries(token)
    return lambda: entries


class _TokenFile:
    def __init__(self, path: Path):
        self._path = path
        self._kept: tuple[object, Authorization] = (None, ())

    def __call__(self) -> Authorization:
        try:
            stat = os.stat(self._path)  # noqa: PTH116 - at each call; half as long as Path.stat
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if self._kept[0] != stamp:
                self._kept = (stamp, _entries(_read(self._path).decode(errors="replace").strip()))
        except (OSError, InvalidInput) as error:
            if not self._kept[1]:
                raise InvalidInput(
                    f"the token's file {self._path}: {getattr(error, 'strerror', None) or error}"
                ) from None
        return self._kept[1]  # where the file cannot be used any more, what it held before


def _entries(token: object) -> Authorization:
    if not (isinstance(token, str) and re.fullmatch(r"[!-~]+", token)):
        raise InvalidInput("the token is not one word of plain ASCII")
    return (("authorization", f"Bearer {token}"),)


def _read(path: str | Path) -> bytes:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None
    if data.startswith(codecs.BOM_UTF8):
        raise InvalidInput(f"{path} begins with a byte order mark; store it without")
    return data

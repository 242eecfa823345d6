"""Addresses as people write them: HOST:PORT or unix:/PATH for a server; also lists and names for a client."""

import ipaddress
import os
import re
from dataclasses import dataclass

from pred_server.errors import InvalidInput, clip

HOW = "write HOST:PORT, for example 127.0.0.1:50051 or [::1]:50051"
# What the operating system takes, without the byte that ends it.
MOST_PATH_BYTES = 107
# gRPC reads these targets as URIs, and a comma stands between the addresses of a list.
_PATH = re.compile(r"/(?!/)[^\s\x00-\x1f\x7f\ud800-\udfff%?#,\\]+")


@dataclass(frozen=True)
class Address:
    """One address. `host` is a name or an IP address, in small letters and without brackets.

    Of a Unix socket it has the `path` alone, and else none.
    """

    host: str
    port: int
    path: str = ""

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as an IP address; None for a name."""
        try:
            ip = ipaddress.ip_address(self.host)
        except ValueError:
            return None
        return getattr(ip, "ipv4_mapped", None) or ip

    @property
    def is_loopback(self) -> bool:
        """Whether only programs of this machine can reach it."""
        return self.ip.is_loopback if self.ip else bool(self.path) or self.host == "localhost"

    def with_port(self, port: int) -> "Address":
        return self if self.path else Address(self.host, port)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: object) -> Address:
    """Read HOST:PORT, an IPv6 address in brackets, or unix:/PATH. Raises InvalidInput, which says what to write."""
    if not isinstance(text, str):
        raise InvalidInput(f"an address is text, not {clip(repr(text))}; {HOW}")
    if scheme := re.match(r"unix(-abstract)?:(?!\d+$)", text.strip()):  # a host may be called unix, too
        return _parse_socket(text.strip(), text.strip()[scheme.end() :])
    host, colon, port = text.strip().lower().rpartition(":")
    why = ""
    if "://" in text:
        why = f"leave out {text[: text.index('://') + 3]!r}"
    elif not host.startswith("[") and ":" in host:
        why = "an IPv6 address stands in brackets"
    elif not colon or (host.startswith("[") and not host.endswith("]")):
        why = "the port is missing"
    elif not host:
        why = "the host is missing"
    elif not (port.isascii() and port.isdecimal() and int(port) <= 65535):
        why = "the port is a number from 0 to 65535"
    elif not (_is_ipv6(host[1:-1]) if host.startswith("[") else _is_host(host)):
        why = "the host is neither a name nor an IP address"
    if why:
        raise InvalidInput(f"address {clip(text)!r}: {why}; {HOW}")
    return Address(host.strip("[]"), int(port))


def _parse_socket(text: str, path: str) -> Address:
    path, why = re.sub("^///", "/", path), ""
    if path[:1] in ("@", "\0") or text.startswith("unix-abstract:"):
        why = "an abstract name has no file whose mode says who may connect"
    elif not _PATH.fullmatch(path):
        why = "the path begins with one / and has no white space, and none of %?#,\\"
    elif (n_bytes := len(os.fsencode(path))) > MOST_PATH_BYTES:
        why = f"the path has {n_bytes} bytes, and a socket's may have {MOST_PATH_BYTES}"
    if why:
        raise InvalidInput(f"address {clip(text)!r}: {why}; write unix:/PATH, for example unix:/tmp/pred.sock")
    return Address("", 0, path)


def parse_target(text: object) -> tuple[str, bool]:
    """Read whom a client asks; return it as gRPC takes it, and whether there may be several servers behind it.

    HOST:PORT or unix:/PATH is one server; HOST:PORT,HOST:PORT a list, of IP addresses; dns:///HOST:PORT all that a
    name has.

    Raises
    ------
    InvalidInput
        It is none of these; the message says what to write.
    """
    several = isinstance(text, str) and text.startswith("dns:///")
    one = text.removeprefix("dns:///") if isinstance(text, str) else text
    addresses = [parse_address(part) for part in (one.split(",") if isinstance(one, str) else [one])]
    for address in addresses:
        if address.port == 0 and not address.path:
            raise InvalidInput(f"address {clip(str(text))!r}: port 0 is for servers; give the port of one; {HOW}")
    if len(addresses) == 1 and not (several and addresses[0].path):
        return str(addresses[0]) if addresses[0].path else f"dns:///{addresses[0]}", several
    numeric = [
        Address("127.0.0.1" if each.host == "localhost" else str(each.ip or each.host), each.port) for each in addresses
    ]
    versions = {address.ip.version if address.ip else None for address in numeric}
    if several or len(versions) > 1 or None in versions:
        raise InvalidInput(
            f"addresses {clip(str(text))!r}: a list holds IP addresses, all of IPv4 or all of IPv6, such as "
            "127.0.0.1:50051,127.0.0.1:50052; for all servers of one name write dns:///HOST:PORT"
        )
    return f"ipv{versions.pop()}:{','.join(map(str, numeric))}", True


def _is_host(host: str) -> bool:
    if not re.search("[a-z_-]", host):  # numbers and dots alone
        return Address(host, 0).ip is not None
    return re.fullmatch(r"[a-z0-9_]([a-z0-9._-]{0,252})", host) is not None


def _is_ipv6(host: str) -> bool:
    return ":" in host and Address(host, 0).ip is not None

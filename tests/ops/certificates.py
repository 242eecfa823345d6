"""Certificates for tests: authorities, what they sign, and files that change at one moment."""

import datetime
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


class Authority:
    """A certificate authority whose own certificate is in `file`."""

    def __init__(self, folder: Path, name: str = "ca"):
        self._ca = trustme.CA(organization_name=name)
        self._folder = folder
        self._count = 0
        self.name = name
        self.file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.file)

    @property
    def pem(self) -> bytes:
        return bytes(self._ca.cert_pem.bytes())

    def issue(self, *names: str, common_name: str | None = None, expired: bool = False) -> tuple[Path, Path]:
        """Write a certificate for names and addresses, and its key. Return the two files."""
        now = datetime.datetime.now(datetime.UTC)
        days = datetime.timedelta(days=1)
        not_after = now - days if expired else now + 30 * days
        made = self._ca.issue_cert(*names, common_name=common_name, not_before=now - 9 * days, not_after=not_after)
        self._count += 1
        cert = self._folder / f"{self.name}-{self._count}-cert.pem"
        key = self._folder / f"{self.name}-{self._count}-key.pem"
        cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        made.private_key_pem.write_to_path(key)
        return cert, key


def ed448(folder: Path) -> tuple[Path, Path]:
    """Write a certificate of a kind that OpenSSL takes, and gRPC's library does not; and its key."""
    key = Ed448PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(days=1)
    ).sign(key, None)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return write(folder / "ed448.pem", made.public_bytes(Encoding.PEM)), write(folder / "ed448-key.pem", private)


def write(path: Path, text: str | bytes) -> Path:
    """Write a file so that a reader sees what was there before, or all of it."""
    new = path.with_suffix(".new")
    new.write_bytes(text.encode() if isinstance(text, str) else text)
    return new.replace(path)

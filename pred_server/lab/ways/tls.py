"""Our server, encrypted, and then closed by a token as well: what each of the two costs a call from ready bytes."""

import shutil
import subprocess
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from pred_server.errors import ServerStartError
from pred_server.lab.ways.serve import Serve
from pred_server.lab.ways.way import Arm, Target
from pred_server.tutorial.background import serve

TOKEN = "the-lab-s-own-token-which-guards-nothing"
# A certificate that signs itself, so it is its own authority.
MAKE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=pred-server "
    "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
)


@cache
def files() -> "TemporaryDirectory[str]":
    """Return a folder with cert.pem, key.pem and tokens, which lasts as long as this process."""
    folder = TemporaryDirectory(prefix="pred-server-")
    made = subprocess.run(MAKE.split(), cwd=folder.name, capture_output=True, text=True)
    if made.returncode:
        raise ServerStartError(f"openssl made no certificate: {made.stderr.strip()[-500:]}")
    Path(folder.name, "tokens").write_text(f"lab {TOKEN}\n")
    return folder


class Tls(Serve):
    name = "tls"
    protection: ClassVar[dict[str, str]] = {"--tls-cert": "cert.pem", "--tls-key": "key.pem"}

    def missing(self) -> str:
        return "" if shutil.which("openssl") else f"{self.name} needs a certificate, and openssl to make it: install it"

    def start(self, arm: Arm, model: str, stack: ExitStack) -> str:
        if missing := self.missing():
            raise ServerStartError(missing)
        flags = (word for flag, file in self.protection.items() for word in (flag, str(Path(files().name, file))))
        return stack.enter_context(serve(model, *arm.flags, *flags)).address

    def authority(self) -> str:
        return str(Path(files().name, "cert.pem"))


class TlsToken(Tls):
    name = "tls_token"
    protection: ClassVar[dict[str, str]] = Tls.protection | {"--token-file": "tokens"}

    def metadata(self, target: Target) -> tuple[tuple[str, str], ...]:
        return (*target.metadata, ("authorization", f"Bearer {TOKEN}"))

"""The file of a Unix socket: who may connect, and what to do with one that is there already.

gRPC removes the file when the server stops. It also removes whatever socket is at that path when a server starts, be
it that of a server which is alive: that one would serve on, and nobody could reach it.
"""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from pred_server.errors import ServerStartError

# Who may connect: to connect is to write.
OWNER_ONLY = 0o600
PROBE_S = 1.0


@contextmanager
def socket_file(path: str, mode: int = OWNER_ONLY) -> Iterator[None]:
    """Check that a path is free; within, a server binds to it, and the file has this mode from its first moment.

    A file that a dead server left behind is free. An empty path, of a server on a port, needs nothing.

    Raises
    ------
    ServerStartError
        A server listens there, the path is of something else, or the file cannot be made.
    """
    if not path:
        yield
        return
    _check(path)
    umask = os.umask(0o777 & ~mode)
    try:
        yield
    except RuntimeError as error:
        why = "its folder is missing, or no file can be made there"
        raise ServerStartError(f"cannot listen on unix:{path}: {why}") from error
    finally:
        os.umask(umask)


def _check(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ServerStartError(f"{path} is there, and is no socket; remove it, or choose another path")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(PROBE_S)
            probe.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return
    except OSError as error:
        raise ServerStartError(f"cannot look who listens on unix:{path}: {error.strerror}") from error
    raise ServerStartError(f"a server listens on unix:{path}; stop it, or choose another path")

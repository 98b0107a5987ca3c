"""Where a service listens: loopback, an address with TLS, or a Unix socket."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime.service.config import Config, ConfigError

BACKLOG: Final = 128
SOCKET_MODE: Final = 0o660
"""Owner and group."""


@dataclass(frozen=True)
class Place:
    """A socket that is bound, and how clients call it.

    Attributes:
        socket: Bound, ready to listen.
        url: For people and clients.
        tls: Whether connections are encrypted.
        path: Of a Unix socket; None for others.
    """

    socket: socket.socket
    url: str
    tls: bool
    path: Path | None = None

    def close(self) -> None:
        """Close the socket, and remove a Unix socket's file if it is still there; a second time does nothing."""
        self.socket.close()
        if self.path is not None:
            with suppress(FileNotFoundError):
                self.path.unlink()


def bind(config: Config) -> Place:
    """Bind as the settings say.

    Raises:
        ConfigError: They would let strangers listen in or come in, or the place is taken.
    """
    if config.unix_socket is not None:
        if config.tls:
            raise ConfigError("tls: found true with a Unix socket, expected none; its file's rights protect it")
        path = Path(config.unix_socket)
        return Place(_unix(path), f"unix:{path}", tls=False, path=path)
    loopback = is_loopback(config.host)
    tls = not loopback if config.tls is None else config.tls
    if not tls and not loopback:
        raise ConfigError(f"tls: found false at {config.host}, expected true: only loopback may do without")
    if not config.auth and not loopback:
        raise ConfigError(f"auth: found false at {config.host}, expected true: only loopback and Unix sockets may")
    host = "127.0.0.1" if config.host == "localhost" else config.host
    six = ":" in host
    try:
        listener = socket.create_server(
            (host, config.port),
            family=socket.AF_INET6 if six else socket.AF_INET,
            backlog=BACKLOG,
            dualstack_ipv6=host == "::",
        )
    except OSError as error:
        raise ConfigError(
            f"listen: cannot use {host} port {config.port}: {error.strerror or error}; give another with --port"
        ) from error
    # Accepted sockets inherit it. Asyncio sets it itself only where the socket names its protocol, which this one does
    # not; without it, head and body of an answer are 40 ms apart.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    shown = f"[{host}]" if six else host
    return Place(listener, f"{'https' if tls else 'http'}://{shown}:{listener.getsockname()[1]}", tls)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _unix(path: Path) -> socket.socket:
    """A socket that only its owner and group can connect to, from its first moment on.

    It is bound in a directory of its own, gets its rights there, and then its name. The umask would do too, but it is
    the whole process's, and other threads make files.
    """
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    workplace = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    draft = workplace / "s"
    try:
        workplace.mkdir(mode=0o700)
        try:
            listener.bind(str(draft))
            draft.chmod(SOCKET_MODE)
            draft.rename(path)
        finally:
            with suppress(FileNotFoundError):
                draft.unlink()
            workplace.rmdir()
    except OSError as error:
        listener.close()
        raise ConfigError(f"{path}: cannot listen there: {error.strerror or error}; give another place") from error
    listener.listen(BACKLOG)
    return listener


def _clear(path: Path) -> None:
    """Make way for a socket: one that nobody listens at may go, anything else may not."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigError(f"{path}: found something else than a socket; remove it, or give another place")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            # Left behind by a service that was killed. The rename replaces it.
            return
        except OSError as error:
            raise ConfigError(
                f"{path}: found a socket that cannot be asked: {os.strerror(error.errno or 0)}"
            ) from error
    raise ConfigError(f"{path}: found a service that listens there; stop it, or give another place")

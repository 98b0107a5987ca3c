"""How a device serves: the settings, their limits, and the file they may come from.

The file is TOML, which Python reads itself: YAML keeps its one door, the device profiles. The command line goes before
the file. Nothing here is secret.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from device_profiles.errors import GeoshiftError
from runtime.discovery.announce import Announcement

PORT: Final = 8470
MAX_BYTES: Final = 1 << 16

Positive = Annotated[int, Meta(ge=1, le=1 << 31)]
Period = Annotated[float, Meta(gt=0, le=3600)]


class ConfigError(GeoshiftError):
    """The settings are refused. Correct what the text names."""


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all sections share: frozen, nothing unknown."""


class Limits(_Section, frozen=True, kw_only=True):
    """What one client, or all of them, may take."""

    connections: Positive = 128
    """Open at once, a quarter of them from one address; the next one is closed unread. 8 callers and a few browsers
    need a tenth."""
    handshakes: Positive = 64
    """Of TLS, under way at once; the oldest makes way for the next. One takes a board some 10 ms."""
    streams: Positive = 32
    """Of events, at once, a quarter of them of one token."""
    control_bytes: Positive = 64 << 10
    """Body of a request that is not inference."""
    infer_bytes: Positive = 16 << 20
    """Body of an inference: 26 pictures of 224 × 224."""
    memory_bytes: Positive = 256 << 20
    """That the bodies of all inferences under way may come to take, read and unpacked."""
    header_s: Period = 10.0
    """Until a connection's first, and each later, request line and headers must be there."""
    body_s: Period = 30.0
    """Until all of a body must be there."""
    send_s: Period = 30.0
    """For which a client may leave a piece of an answer lying."""
    keep_alive_s: Annotated[int, Meta(ge=1, le=3600)] = 30
    """Between two requests of a connection."""
    requests_per_second: Period = 50.0
    """Of one token, inference and health not counted."""
    requests_burst: Positive = 200
    failures_per_minute: Period = 10.0
    """Wrong tokens and codes from one address."""
    inferences: Positive = 256
    """Under way at once, if the profile's queue allows as many; each takes a thread."""


class Config(_Section, frozen=True, kw_only=True):
    """How a device serves."""

    host: str = "127.0.0.1"
    """Address to listen at. Any but loopback means TLS."""
    port: Annotated[int, Meta(ge=0, le=65535)] = PORT
    """0 lets the system choose."""
    unix_socket: str | None = None
    """Path of a socket to listen at instead, for members of the service's group."""
    tls: bool | None = None
    """Null: as the address demands."""
    auth: bool = True
    """Whether clients need a token. Only loopback and a Unix socket may do without."""
    names: tuple[str, ...] = ()
    """Names under which the device is known, beside its host name and its addresses."""
    model_name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?![\s\S])")] | None = None
    """For the Open Inference Protocol; null for the plan's own."""
    pinned_keys: tuple[str, ...] = ()
    """Files of public keys; with any, a bundle is refused that none of them signed, or that is an older release."""
    log: Annotated[str, Meta(pattern="^(debug|info|warning|error)$")] = "info"
    announce: Announcement = Announcement()
    """Whether and how the local network is told of the device; one on loopback is not announced."""
    limits: Limits = Limits()


def load(path: Path) -> Config:
    """Settings from a TOML file.

    Raises:
        ConfigError: It cannot be read, is not TOML, or has something that is not a setting.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ConfigError(f"{path}: found more than {MAX_BYTES} bytes, expected a few settings")
        return msgspec.convert(tomllib.loads(raw.decode()), Config)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, msgspec.ValidationError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}; see docs/operations.md for the settings") from error


def override(config: Config, **changes: Any) -> Config:
    """The settings with those changes that are not None, checked like a file.

    Raises:
        ConfigError: The result is not valid.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return msgspec.convert({**msgspec.to_builtins(config), **given}, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"settings: {error}") from error

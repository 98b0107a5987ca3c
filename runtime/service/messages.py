"""What travels over the wire beside the records of ``runtime.device.views``: every body, as a frozen type.

Bodies that come in refuse what they do not know: a misspelt field is an error, not a silent default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from runtime.device.views import PushView
from runtime.service.tokens import ScopeName

ModeName = Annotated[str, Meta(min_length=1, max_length=64, description="name of a mode")]
Words = Annotated[str, Meta(max_length=200)]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Hex32 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}(?![\s\S])", description="32 bytes in hexadecimal")]
Seconds = Annotated[float, Meta(gt=0, le=365 * 86400, description="seconds")]


class _In(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all bodies that come in share."""


class _Out(msgspec.Struct, frozen=True, kw_only=True):
    """What all bodies that go out share. A reader skips fields it does not know."""


class SwitchRequest(_In, frozen=True, kw_only=True):
    """Ask for a mode, or with ``auto`` give control back."""

    mode: ModeName
    lease_s: Seconds | None = None
    """For how long the wish stands; null for no end."""
    wait_s: Annotated[float, Meta(ge=0, le=60)] = 0.0
    """How long to wait for the end before the answer comes."""


class RetargetRequest(_In, frozen=True, kw_only=True):
    """Turn a walk to another mode."""

    mode: ModeName


class HoldRequest(_In, frozen=True, kw_only=True):
    """Ask for a mode, beside others who do; the lowest power among them decides."""

    mode: ModeName
    reason: Words
    ttl_s: Seconds | None = None
    """After which the hold ends by itself; null for no end."""


class CommitRequest(_In, frozen=True, kw_only=True):
    """Let a plan that came in take the place of the one at work."""

    allow_gap: bool = False
    """Whether the device may stop answering for the while that the push names, if it has to."""
    wait_s: Annotated[float, Meta(ge=0, le=60)] = 0.0
    """How long to wait for the end before the answer comes."""


class TokenRequest(_In, frozen=True, kw_only=True):
    """Make a token for somebody."""

    name: Name
    scope: ScopeName


class PairRequest(_In, frozen=True, kw_only=True):
    """A client's proof that it knows the code; see ``runtime.pairing_proof``."""

    nonce: Hex32
    proof: Hex32
    name: Name
    """Whom the token will be for."""


class PairingView(_Out, frozen=True, kw_only=True):
    """What a client must know before it pairs."""

    open: bool
    """Whether a code waits."""
    certificate_sha256: Hex32
    """For a client on loopback, which sees no certificate; over TLS a client takes the one it saw."""


class PairAnswer(_Out, frozen=True, kw_only=True):
    """A token, and the device's own proof, without which it is worth nothing."""

    token: str
    proof: Hex32
    device: str


class TokenView(_Out, frozen=True, kw_only=True):
    """A token as it may be shown."""

    id: str
    name: str
    scope: ScopeName


class NewToken(_Out, frozen=True, kw_only=True):
    """A token, this once."""

    token: str


class SessionView(_Out, frozen=True, kw_only=True):
    """A browser's session: the cookie is set beside it."""

    csrf: str
    """To be sent as ``X-CSRF-Token`` with every request that changes something."""
    scope: ScopeName


class Identity(_Out, frozen=True, kw_only=True):
    """Who the caller is, and what it talks to."""

    device: str
    profile: str
    model: str
    version: str
    """Of geoshift."""
    principal: str
    scope: ScopeName


class WaypointView(_Out, frozen=True, kw_only=True):
    """Evidence at one state of a path."""

    position: int
    accuracy: float
    written_bytes: int


class TransitionView(_Out, frozen=True, kw_only=True, rename={"from_": "from"}):
    """A path of the plan, walkable both ways."""

    from_: str
    to: str
    strategy: str
    chunks: int
    bytes_written: int
    min_accuracy: float
    waypoints: tuple[WaypointView, ...]


class BundleView(_Out, frozen=True, kw_only=True):
    """The bundle at work."""

    id: str
    release: int
    model: str
    modes: tuple[str, ...]
    signed_by: str | None
    """Id of the pinned key that signed it; null if no key is pinned."""
    why: str
    """Why it was not the one on the command line that the device began with; empty if it was, or before a push."""
    push: PushView | None
    """The push under way, else the last one since the device was opened."""


class LogLine(_Out, frozen=True, kw_only=True):
    """A line of the service's log."""

    at_s: float
    """Since the service started."""
    level: str
    event: str
    fields: dict[str, Any]


class Problem(_Out, frozen=True, kw_only=True, omit_defaults=True):
    """An error as RFC 9457 wants it."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    """Id of the request, which the log has too."""
    error: str | None = None
    """The detail again, where a client of the Open Inference Protocol looks for it."""


class Health(_Out, frozen=True, kw_only=True):
    """Whether the device is well."""

    status: Literal["ok", "unavailable"]


class ServerMetadata(_Out, frozen=True, kw_only=True):
    """The server, as the Open Inference Protocol describes one."""

    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(_Out, frozen=True, kw_only=True):
    """An input or output; -1 is the free size of the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(_Out, frozen=True, kw_only=True):
    """The model, as the Open Inference Protocol describes one."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class ModelReady(_Out, frozen=True, kw_only=True):
    """Whether the model answers."""

    name: str
    ready: bool

"""Talks to a device from Python, typed, with the certificate pinned.

Example::

    from runtime.client import Client

    with Client.of("lab") as device:          # after `geoshift login`
        print(device.status().mode)
        operation = device.switch("C3")
        device.operation(operation.id, wait_s=60)
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec
import numpy as np

from device_profiles.errors import describe
from runtime.desktop import pinning
from runtime.desktop.channel import SILENCE_S, Channel
from runtime.desktop.known_devices import KnownDevice, KnownDevices
from runtime.desktop.push_client import Pusher, Told
from runtime.device.views import Event, HoldView, ModeView, OperationView, PushView, Status
from runtime.pairing_proof import proof, stretch
from runtime.plan.trust import Trust
from runtime.service.messages import (
    BundleView,
    Identity,
    LogLine,
    ModelMetadata,
    NewToken,
    PairAnswer,
    PairingView,
    TokenView,
    TransitionView,
)
from runtime.walking.rows import Floats

PORT: Final = 8470
LONGEST_WAIT_S: Final = 60.0
"""That a device lets one request wait; longer waits are several requests."""


class Client:
    """One device. Methods may be called from any thread; close it, or use it as a context.

    Args:
        url: ``https://host:port``, ``http://`` on loopback, or ``unix:/path``.
        token: What lets the caller in; None where nothing is needed.
        certificate_sha256: Pinned digest; needed with https.

    Raises:
        WrongCertificate: Somebody else answers there. The token was not sent.
        Unreachable: Nobody answers there.
    """

    def __init__(self, url: str, token: str | None = None, certificate_sha256: str = "") -> None:
        self.url = url
        self._channel = Channel(url, token, certificate_sha256)
        self._model_name = ""

    @classmethod
    def of(cls, name: str, known: KnownDevices | None = None) -> Client:
        """A device that this desktop has paired with, by its name here.

        Raises:
            UnknownDevice: There is none of this name.
        """
        device = (known or KnownDevices()).find(name)
        return cls(device.url, device.token, device.certificate_sha256)

    def status(self) -> Status:
        """What the device is doing, why, and what it has done."""
        return self._channel.get("/v1/status", Status)

    def identity(self) -> Identity:
        """Who the caller is to the device, and what the device is."""
        return self._channel.get("/v1/identity", Identity)

    def modes(self) -> tuple[ModeView, ...]:
        """The modes, the dense one first."""
        return self._channel.get("/v1/modes", tuple[ModeView, ...])

    def transitions(self) -> tuple[TransitionView, ...]:
        """The plan's paths and the evidence along them."""
        return self._channel.get("/v1/transitions", tuple[TransitionView, ...])

    def profile(self) -> dict[str, Any]:
        """The device profile in force."""
        return self._channel.get("/v1/profile", dict[str, Any])

    def switch(self, mode: str, *, lease_s: float | None = None, key: str | None = None) -> OperationView | None:
        """Ask for a mode, or with ``auto`` give control back; returns at once.

        Args:
            mode: Name of a mode, or ``auto``.
            lease_s: For how long the wish stands; None for no end.
            key: Makes a repetition harmless: the same key acts once. Without it each call acts.

        Returns:
            The operation; None where nothing had to be done.

        Raises:
            UnknownMode: The plan has no such mode.
            Conflict: Somebody of the same rank or higher is changing the mode.
        """
        body = {"mode": mode, "lease_s": lease_s}
        return self._channel.post_maybe("/v1/switch", body, OperationView, key or secrets.token_urlsafe(16))

    def operations(self) -> tuple[OperationView, ...]:
        """The last hundred switches."""
        return self._channel.get("/v1/operations", tuple[OperationView, ...])

    def operation(self, id: str, wait_s: float = 0.0) -> OperationView:
        """A switch; with ``wait_s`` up to 60 it comes when it is over, or as it is then."""
        wait_s = min(wait_s, LONGEST_WAIT_S)
        return self._channel.get(f"/v1/operations/{_part(id)}?wait_s={wait_s}", OperationView, wait_s)

    def cancel(self, id: str) -> OperationView:
        """Walk back to where a switch began."""
        return self._channel.post(f"/v1/operations/{_part(id)}/cancel", None, OperationView)

    def pause(self, id: str) -> OperationView:
        """Stand still on the present state; inference goes on."""
        return self._channel.post(f"/v1/operations/{_part(id)}/pause", None, OperationView)

    def resume(self, id: str) -> OperationView:
        """Walk on after a pause."""
        return self._channel.post(f"/v1/operations/{_part(id)}/resume", None, OperationView)

    def retarget(self, id: str, mode: str) -> OperationView:
        """Turn a walk to another mode; returns the operation that takes over."""
        return self._channel.post(f"/v1/operations/{_part(id)}/retarget", {"mode": mode}, OperationView)

    def holds(self) -> tuple[HoldView, ...]:
        """The holds in force."""
        return self._channel.get("/v1/holds", tuple[HoldView, ...])

    def hold(self, mode: str, reason: str, ttl_s: float | None = None) -> HoldView:
        """Ask for a mode until the hold ends; of several holds the one of lowest power decides. It is no ceiling."""
        body = {"mode": mode, "reason": reason, "ttl_s": ttl_s}
        return self._channel.post("/v1/holds", body, HoldView, secrets.token_urlsafe(16))

    def release(self, hold_id: str) -> None:
        """End a hold."""
        self._channel.delete(f"/v1/holds/{_part(hold_id)}")

    def events(self, after: int | None = None, silence_s: float = SILENCE_S) -> Generator[Event, None, None]:
        """What happens, as it happens; ends when the device stops.

        Args:
            after: Id of the last event that is known already; None for only what is new.
            silence_s: For how long the device may be silent, its signs of life included, before it counts as gone.
        """
        headers = {"Accept": "text/event-stream"} | ({} if after is None else {"Last-Event-ID": str(after)})
        kind = ""
        for line in self._channel.lines("/v1/events", headers, silence_s):
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: ") and kind != "gap":
                yield msgspec.json.decode(line.removeprefix("data: "), type=Event)

    def infer(self, x: Floats) -> Floats:
        """Outputs for a batch of inputs.

        Args:
            x: float32 [N, ...] as the model wants it.

        Returns:
            Fresh array [N, outputs].

        Raises:
            QueueFull: Too many callers at once.
        """
        x = np.ascontiguousarray(x, "<f4")
        tensor: dict[str, Any] = {"name": "input", "datatype": "FP32", "shape": list(x.shape)}
        tensor["parameters"] = {"binary_data_size": x.nbytes}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        content, headers = self._channel.raw(
            f"/v2/models/{_part(self._model())}/infer",
            head + x.tobytes(),
            {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))},
        )
        end = int(headers["Inference-Header-Content-Length"])
        shape = json.loads(content[:end])["outputs"][0]["shape"]
        return np.frombuffer(content[end:], "<f4").reshape(shape).astype(np.float32)

    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch axis."""
        found = self._channel.get(f"/v2/models/{_part(self._model())}", ModelMetadata)
        return found.inputs[0].shape[1:]

    def bundle(self) -> BundleView:
        """The plan at work, and the push under way or the last one; needs scope admin."""
        return Pusher(self._channel).at_work()

    def push(
        self,
        path: str | os.PathLike[str],
        *,
        allow_gap: bool | Callable[[float], bool] = False,
        trust: Trust | None = None,
        told: Told = lambda view: None,
    ) -> PushView:
        """Replace the device's plan while it answers, and wait for the end; needs scope admin.

        Args:
            path: The bundle's directory.
            allow_gap: Whether the device may stop answering for a while if its memory has no room for two plans, or who
                decides that, told for about how many seconds.
            trust: Keys of which one must have signed; None to leave that to the device.
            told: Told of every step.

        Returns:
            How it ended: ``committed``, or ``rolled-back`` with the reason, the old plan being at work as before.

        Raises:
            BundleError: The bundle is refused here, before anything is sent.
            PushRefused: The device refuses it.
            GapNeeded: The device would have to stop answering, and may not.
            Conflict: A walk or another push is under way.
            NoRoom: The device's disk has no room.
        """
        return Pusher(self._channel).push(path, allow_gap=allow_gap, trust=trust, told=told)

    def tokens(self) -> tuple[TokenView, ...]:
        """The device's tokens, without their secrets."""
        return self._channel.get("/v1/tokens", tuple[TokenView, ...])

    def add_token(self, name: str, scope: str) -> str:
        """Make a token; only the caller has it from now on."""
        return self._channel.post("/v1/tokens", {"name": name, "scope": scope}, NewToken).token

    def rotate_token(self, id: str) -> str:
        """Give a token a new secret."""
        return self._channel.post(f"/v1/tokens/{_part(id)}/rotate", None, NewToken).token

    def revoke_token(self, id: str) -> None:
        """Make a token worthless."""
        self._channel.delete(f"/v1/tokens/{_part(id)}")

    def logs(self) -> tuple[LogLine, ...]:
        """The last lines of the service's log."""
        return self._channel.get("/v1/logs", tuple[LogLine, ...])

    def ready(self) -> bool:
        """Whether the device answers inference."""
        return self._channel.succeeds("/readyz")

    @property
    def channel(self) -> Channel:
        """The way to the device."""
        return self._channel

    def close(self) -> None:
        """Close the connections."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _model(self) -> str:
        if not self._model_name:
            self._model_name = self.identity().model
        return self._model_name


def pair(url: str, code: str, name: str, device_name: str) -> KnownDevice:
    """Exchange a one-time code for a token, and pin the device's certificate.

    Args:
        url: Where the device is.
        code: What ``geoshift pair`` shows there. It is not sent.
        name: Whom the device should list the token for.
        device_name: What the device should be called here.

    Raises:
        WrongCertificate: The device does not know the code, so somebody else answers in its place.
        RequestRefused: The code was wrong, or none is open.
    """
    url, pinned = whole(url), ""
    if url.startswith("https:"):
        parts = urlsplit(url)
        pinned = pinning.digest(pinning.seen(parts.hostname or "", parts.port or PORT))
    channel = Channel(url, None, pinned)
    try:
        certificate = pinned or channel.get("/v1/pairing", PairingView).certificate_sha256
        key, nonce = stretch(code, certificate), secrets.token_bytes(32)
        body = {"nonce": nonce.hex(), "proof": proof(key, "client", nonce).hex(), "name": name}
        answer = channel.post("/v1/pairing", body, PairAnswer)
    finally:
        channel.close()
    if not secrets.compare_digest(answer.proof, proof(key, "device", nonce).hex()):
        raise pinning.WrongCertificate(
            f"{url}: whoever answers there does not know the code; somebody sits between this machine and the device"
        )
    return KnownDevice(name=device_name, url=url, device=answer.device, certificate_sha256=pinned, token=answer.token)


def whole(url: str) -> str:
    """An address as a person writes it, with scheme and port.

    Raises:
        Unreachable: It is none.
    """
    if url.startswith("unix:"):
        return url
    try:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        host, port = parts.hostname or "", parts.port or PORT
    except ValueError as error:
        raise pinning.Unreachable(f"device: found {describe(url)}, expected https://host:port ({error})") from error
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _part(text: str) -> str:
    """One part of a path: whatever stands in it, it leads nowhere else."""
    return quote(text, safe="")

"""The way to a device: HTTP over TLS with a pinned certificate. The one file that imports httpx."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NoReturn, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from device_profiles.errors import GeoshiftError, describe
from runtime import errors
from runtime.desktop import pinning
from runtime.walking.session import InputError

TIMEOUT_S: Final = 10.0
SILENCE_S: Final = 45.0
"""For which a stream may be silent: three of the device's signs of life."""

_BYTES: Final = {"Content-Type": "application/octet-stream"}

T = TypeVar("T")

_KNOWN: Final[Mapping[str, type[GeoshiftError]]] = {
    "unknown-mode": errors.UnknownMode,
    "unknown-operation": errors.UnknownOperation,
    "unknown-hold": errors.UnknownHold,
    "busy": errors.Busy,
    "conflict": errors.Conflict,
    "illegal-event": errors.IllegalEvent,
    "unknown-push": errors.UnknownPush,
    "gap-needed": errors.GapNeeded,
    "push-refused": errors.PushRefused,
    "no-room": errors.NoRoom,
    "staging-error": errors.StagingError,
    "replacing": errors.Replacing,
    "queue-full": errors.QueueFull,
    "closed": errors.Closed,
    "no-thread": errors.NoThread,
    "input-error": InputError,
}
"""What a device's problem documents name, as the error it is in Python."""


class RequestRefused(GeoshiftError):
    """A device refused a request; the text is the device's own.

    Attributes:
        status: HTTP status.
        retry_after_s: When to try again, if the device said so.
    """

    def __init__(self, text: str, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after_s = retry_after_s


class Channel:
    """Requests to one device and its answers, typed. May be used from any thread.

    Args:
        url: ``https://host:port``, ``http://`` on loopback, or ``unix:/path``.
        token: What lets the caller in; None where nothing is needed.
        certificate_sha256: Pinned digest; needed with https.

    Raises:
        WrongCertificate: Somebody else answers there. The token was not sent.
        Unreachable: Nobody answers there.
    """

    def __init__(self, url: str, token: str | None, certificate_sha256: str) -> None:
        self.url = url
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(
            base_url="http://localhost" if url.startswith("unix:") else url,
            headers=headers,
            transport=_transport(url, certificate_sha256),
            timeout=TIMEOUT_S,
            trust_env=False,  # a proxy of the environment's would see a device's address, and could not be pinned
            follow_redirects=False,
        )

    def get(self, target: str, kind: type[T], wait_s: float = 0.0) -> T:
        """Read something; ``wait_s`` is how long the device may take on top of the usual."""
        return _typed(self.ask("GET", target, timeout=TIMEOUT_S + wait_s), kind)

    def post(self, target: str, body: object, kind: type[T], key: str | None = None) -> T:
        """Have something done; ``key`` makes a repetition harmless."""
        answer = self._post(target, body, key)
        return _typed(answer, kind)

    def post_maybe(self, target: str, body: object, kind: type[T], key: str | None = None) -> T | None:
        """The same, where the device may have nothing to say."""
        answer = self._post(target, body, key)
        return _typed(answer, kind) if answer.content else None

    def delete(self, target: str) -> None:
        """Have something removed."""
        self.ask("DELETE", target)

    def raw(self, target: str, content: bytes, headers: Mapping[str, str]) -> tuple[bytes, Mapping[str, str]]:
        """Send bytes; bytes and headers that come back."""
        answer = self.ask("POST", target, content=content, headers=headers)
        return answer.content, answer.headers

    def put(self, target: str, content: bytes, kind: type[T], wait_s: float = 0.0) -> T:
        """Send bytes to a place of their own; ``wait_s`` is how long the device may take on top of the usual."""
        answer = self.ask("PUT", target, content=content, headers=_BYTES, timeout=TIMEOUT_S + wait_s)
        return _typed(answer, kind)

    def post_bytes(self, target: str, content: bytes, headers: Mapping[str, str], kind: type[T]) -> T:
        """Have something done with bytes."""
        return _typed(self.ask("POST", target, content=content, headers={**_BYTES, **headers}), kind)

    def succeeds(self, target: str) -> bool:
        """Whether a request succeeds."""
        with self._reached():
            return self._http.get(_own(target)).is_success

    def lines(self, target: str, headers: Mapping[str, str], silence_s: float = SILENCE_S) -> Iterator[str]:
        """Lines of an answer that goes on."""
        timeout = httpx.Timeout(TIMEOUT_S, read=silence_s)
        with (
            self._reached(),
            self._http.stream("GET", _own(target), headers=headers, timeout=timeout) as answer,
        ):
            if not answer.is_success:
                answer.read()
                _raise(answer)
            yield from answer.iter_lines()

    @contextmanager
    def passed_on(
        self, method: str, target: str, headers: Mapping[str, str], content: bytes
    ) -> Iterator[tuple[int, Mapping[str, str], Iterator[bytes]]]:
        """Another program's request, with this one's token; status, headers and body as they come back."""
        timeout = httpx.Timeout(TIMEOUT_S, read=SILENCE_S)
        with (
            self._reached(),
            self._http.stream(method, _own(target), headers=headers, content=content, timeout=timeout) as answer,
        ):
            yield answer.status_code, answer.headers, answer.iter_bytes()

    def ask(self, method: str, target: str, **options: Any) -> httpx.Response:
        """Send a request; an answer that is an error is raised as one."""
        with self._reached():
            answer = self._http.request(method, _own(target), **options)
        if not answer.is_success:
            _raise(answer)
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _post(self, target: str, body: object, key: str | None) -> httpx.Response:
        headers = {"Content-Type": "application/json"} | ({} if key is None else {"Idempotency-Key": key})
        return self.ask("POST", target, content=b"" if body is None else msgspec.json.encode(body), headers=headers)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Say in words what keeps a device from being reached."""
        try:
            yield
        except (httpx.TimeoutException, httpx.NetworkError, httpx.ProtocolError) as error:
            raise pinning.Unreachable(f"{self.url}: {error or type(error).__name__}; is the device on?") from error


def _transport(url: str, certificate_sha256: str) -> httpx.HTTPTransport:
    if url.startswith("unix:"):
        return _over_socket(url.removeprefix("unix:"))
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        if not certificate_sha256:
            raise pinning.WrongCertificate(f"{url}: no certificate is pinned for it; run `geoshift login {url}`")
        return httpx.HTTPTransport(verify=pinning.context(host, parts.port or 443, certificate_sha256))
    if parts.scheme != "http" or host not in {"localhost", "127.0.0.1", "::1"}:
        raise pinning.Unreachable(
            f"device: found {describe(url)}, expected https://host:port, http:// on loopback, or unix:/path"
        )
    return httpx.HTTPTransport()


def _over_socket(path: str) -> httpx.HTTPTransport:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            raise pinning.Unreachable(
                f"unix:{path}: {error.strerror or error}; is `geoshift serve` running?"
            ) from error
    return httpx.HTTPTransport(uds=path)


def _own(target: str) -> str:
    """A path of the device's own: given a whole address, httpx would send it the token, wherever that is."""
    if not target.startswith("/") or target.startswith("//"):
        raise RequestRefused(f"target: found {describe(target)}, expected a path of the device that begins with /", 400)
    return target


def _typed(answer: httpx.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestRefused(
            f"{answer.request.url.path}: {error}; client and device are of different versions", answer.status_code
        ) from error


def _raise(answer: httpx.Response) -> NoReturn:
    """Raise the error that a problem document stands for."""
    try:
        found = answer.json()
        detail, kind = str(found["detail"]), str(found.get("type", "")).rpartition(":")[2]
    except (ValueError, TypeError, KeyError, AttributeError):
        detail, kind = f"{answer.request.url.path}: HTTP {answer.status_code}", ""
    if kind in _KNOWN:
        raise _KNOWN[kind](detail)
    after = answer.headers.get("Retry-After", "")
    raise RequestRefused(detail, answer.status_code, float(after) if after.isdecimal() else None)

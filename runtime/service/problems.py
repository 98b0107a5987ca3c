"""Errors as they leave the device: RFC 9457 problem documents with a clear text, and nothing of the inside.

Which error of geoshift means which status is data. What is not listed is a defect or a broken device: its text stays in
the log, and the client gets the id to find it there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import msgspec

from device_profiles.errors import GeoshiftError
from runtime import errors
from runtime.service.messages import Problem
from runtime.service.pairing import PairingRefused
from runtime.service.tensors import TensorError
from runtime.service.tokens import TooManyTokens, UnknownToken
from runtime.walking.session import InputError

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1
"""A full queue of 64 small inferences is worked off in well under a second."""

STATUS: Final[dict[type[GeoshiftError], HTTPStatus]] = {
    errors.UnknownMode: HTTPStatus.NOT_FOUND,
    UnknownToken: HTTPStatus.NOT_FOUND,
    errors.UnknownHold: HTTPStatus.NOT_FOUND,
    errors.UnknownOperation: HTTPStatus.NOT_FOUND,
    errors.Busy: HTTPStatus.CONFLICT,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.IllegalEvent: HTTPStatus.CONFLICT,
    TooManyTokens: HTTPStatus.CONFLICT,
    errors.UnknownPush: HTTPStatus.NOT_FOUND,
    errors.OtherRelease: HTTPStatus.NOT_FOUND,
    errors.GapNeeded: HTTPStatus.CONFLICT,
    errors.PushRefused: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NoRoom: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.StagingError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Replacing: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.QueueFull: HTTPStatus.TOO_MANY_REQUESTS,
    errors.Closed: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.NoThread: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.JournalError: HTTPStatus.SERVICE_UNAVAILABLE,
    InputError: HTTPStatus.BAD_REQUEST,
    errors.BadDuration: HTTPStatus.BAD_REQUEST,
    TensorError: HTTPStatus.BAD_REQUEST,
    PairingRefused: HTTPStatus.FORBIDDEN,
}


class Refused(GeoshiftError):
    """A request is refused before the device sees it.

    Args:
        status: HTTP status.
        text: What was found, what was expected, what to do.
        headers: To go with the answer.
        kind: Word for programs; without it, the status says all.
    """

    def __init__(
        self, status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None, kind: str | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.headers = dict(headers or {})
        self.kind = kind


@dataclass(frozen=True)
class Answer:
    """A problem ready to be sent."""

    problem: Problem
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """The document."""
        return msgspec.json.encode(self.problem)


def describe(
    error: BaseException, request_id: str, *, inference: bool, hidden: Callable[[str], str] = str
) -> Answer | None:
    """The problem document of an error; None for one that a client may not read.

    Args:
        error: What was raised.
        request_id: Id of the request.
        inference: Whether the client speaks the Open Inference Protocol, which looks for ``error``.
        hidden: Takes out of a text what no client may read.
    """
    if isinstance(error, Refused):
        return _answer(error.status, str(error), error.kind, request_id, inference, error.headers)
    for kind in type(error).__mro__:
        status = STATUS.get(kind)
        if status is not None:
            busy = {"Retry-After": str(RETRY_AFTER_S)} if status in _RETRY else {}
            return _answer(status, hidden(str(error)), _word(kind), request_id, inference, busy)
    return None


def generic(status: HTTPStatus, detail: str, request_id: str, *, inference: bool) -> Answer:
    """The problem document of a bare status."""
    return _answer(status, detail, None, request_id, inference, {})


_RETRY: Final = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}


def _answer(
    status: HTTPStatus, detail: str, kind: str | None, request_id: str, inference: bool, headers: dict[str, str]
) -> Answer:
    problem = Problem(
        type=f"urn:geoshift:problem:{kind}" if kind else "about:blank",
        title=status.phrase,
        status=status.value,
        detail=detail,
        instance=f"urn:geoshift:request:{request_id}",
        error=detail if inference else None,
    )
    return Answer(problem, headers)


def _word(kind: type[GeoshiftError]) -> str:
    """UnknownMode → unknown-mode."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()

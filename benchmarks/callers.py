"""Callers of a service: keep-alive connections that ask at random times, or one question after the other.

One thread and one event loop, so that callers do not wait for each other, and requests that were encoded beforehand:
what is measured is the service. A question waits for a free connection, and its latency counts from when it was asked,
not from when it was sent.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import numpy as np

from benchmarks.served import Served
from runtime.walking.rows import Floats

SHORTEST_S = 0.001


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        asked: When the question was there, in seconds of ``time.perf_counter``.
        answered: When the answer was.
        which: Number of the question.
        status: Of HTTP; 0 where the connection broke.
        outputs: The raw tensor.
    """

    asked: float
    answered: float
    which: int
    status: int
    outputs: bytes

    @property
    def seconds(self) -> float:
        """Latency."""
        return self.answered - self.asked


class Connection:
    """A connection that is kept, and opened again if it breaks.

    Args:
        served: Whom to ask.

    Attributes:
        dropped: How often the service ended it.
    """

    def __init__(self, served: Served) -> None:
        self._served = served
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.dropped = 0

    async def ask(self, request: bytes) -> tuple[int, int, bytes]:
        """Status, bytes of JSON at the body's beginning, and body; status 0 where the connection broke."""
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._served.host, self._served.port)
        try:
            self._writer.write(request)
            head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            body = await self._reader.readexactly(_header(head, b"content-length"))
        except (ConnectionError, asyncio.IncompleteReadError):
            self.dropped += 1
            await self.close()
            return 0, 0, b""
        if b"\r\nconnection: close" in head:
            self.dropped += 1
            await self.close()
        return int(head.split(b" ", 2)[1]), _header(head, b"inference-header-content-length"), body

    async def close(self) -> None:
        """End it."""
        if self._writer is not None:
            self._writer.close()
            self._reader = self._writer = None


class Callers:
    """Some connections and the questions that they ask. Use ``calling`` to make them.

    Args:
        served: Whom to ask.
        model: Name of the model.
        questions: Inputs, one sample each, float32 [1, ...].
        connections: How many.
    """

    def __init__(self, served: Served, model: str, questions: Sequence[Floats], connections: int) -> None:
        self._requests = [question(served, model, x) for x in questions]
        self._connections = [Connection(served) for _ in range(connections)]

    @property
    def dropped(self) -> int:
        """Connections that the service ended."""
        return sum(one.dropped for one in self._connections)

    async def at_random(self, rate: float, seconds: float, rng: np.random.Generator) -> list[Answer]:
        """Ask ``rate`` questions a second, as callers do that know nothing of each other (a Poisson process)."""
        line: asyncio.Queue[tuple[float, int] | None] = asyncio.Queue()
        answers: list[Answer] = []

        async def work(connection: Connection) -> None:
            while (one := await line.get()) is not None:
                answers.append(await self._ask(connection, *one))

        tasks = [asyncio.create_task(work(one)) for one in self._connections]
        begun = time.perf_counter()
        due = begun
        with _undisturbed():
            while (due := due + rng.exponential(1 / rate)) < begun + seconds:
                # A timer is a millisecond exact; questions that are nearer than that come together.
                if (left := due - time.perf_counter()) > SHORTEST_S:
                    await asyncio.sleep(left)
                line.put_nowait((time.perf_counter(), int(rng.integers(len(self._requests)))))
            for _ in tasks:
                line.put_nowait(None)
            await asyncio.gather(*tasks)
        return answers

    async def one_after_the_other(self, seconds: float) -> list[Answer]:
        """Ask on every connection as soon as its last answer is there."""
        answers: list[Answer] = []
        until = time.perf_counter() + seconds

        async def work(number: int, connection: Connection) -> None:
            while (now := time.perf_counter()) < until:
                answers.append(await self._ask(connection, now, number % len(self._requests)))
                number += 1

        with _undisturbed():
            await asyncio.gather(*(work(*one) for one in enumerate(self._connections)))
        return answers

    async def _ask(self, connection: Connection, asked: float, which: int) -> Answer:
        status, json_bytes, body = await connection.ask(self._requests[which])
        return Answer(asked, time.perf_counter(), which, status, body[json_bytes:])

    async def close(self) -> None:
        """End the connections."""
        for one in self._connections:
            await one.close()


@asynccontextmanager
async def calling(served: Served, model: str, questions: Sequence[Floats], connections: int) -> AsyncIterator[Callers]:
    """Callers until the context closes."""
    callers = Callers(served, model, questions, connections)
    try:
        yield callers
    finally:
        await callers.close()


def question(served: Served, model: str, x: Floats) -> bytes:
    """An inference as raw tensors both ways, as bytes of HTTP."""
    tensor = {"name": "input", "shape": list(x.shape), "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return post(
        served, f"/v2/models/{model}/infer", text + x.tobytes(), f"Inference-Header-Content-Length: {len(text)}\r\n"
    )


def post(served: Served, path: str, body: bytes, headers: str = "Content-Type: application/json\r\n") -> bytes:
    """A request as bytes of HTTP."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {served.host}:{served.port}\r\nAuthorization: Bearer {served.token}\r\n"
        f"{headers}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@contextmanager
def _undisturbed() -> Iterator[None]:
    """The collector waits: its pauses would be taken for the service's."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _header(head: bytes, name: bytes) -> int:
    """A number from a head in lower case; 0 where it is not there."""
    _, found, rest = head.partition(b"\r\n" + name + b":")
    return int(rest.partition(b"\r\n")[0]) if found else 0

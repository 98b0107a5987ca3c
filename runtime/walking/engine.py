"""Answers inference while weights are written between the jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Protocol

from runtime.errors import Closed, QueueFull
from runtime.walking.bank import Bank
from runtime.walking.rows import Floats
from runtime.walking.session import Session, Weights
from runtime.walking.turnstile import Turnstile


class Runner(Protocol):
    """Something that answers: the live network or a compact one."""

    def run(self, x: Floats) -> Floats:
        """Outputs for a batch of inputs."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Memory that its weights take."""
        ...


class LiveRunner:
    """The dense graph on weights that a walk may write.

    Args:
        session: Dense network with the moved tensors as inputs.
        bank: The moved tensors.
    """

    def __init__(self, session: Session, bank: Bank[Weights]) -> None:
        self._session = session
        self.bank = bank

    def run(self, x: Floats) -> Floats:
        """Outputs for a batch of inputs, all from one state."""
        with self.bank.read() as weights:
            return self._session.run(x, weights)

    @property
    def weight_bytes(self) -> int:
        """Moved tensors, copies included, and constants."""
        return self.bank.weight_bytes + self._session.constant_bytes


class CompactRunner:
    """A mode's smaller graph; nothing of it is ever written.

    Args:
        session: Compact network, all weights constant.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._weights = session.bind({})

    def run(self, x: Floats) -> Floats:
        """Outputs for a batch of inputs."""
        return self._session.run(x, self._weights)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the constants."""
        return self._session.constant_bytes


class Engine:
    """One network that answers from any thread.

    Args:
        runner: What answers at first.
        exclusive: Whether answers and increments take turns (bank policy ``in-place``); otherwise any number of
            callers run at once and increments do not wait for them.
        queue_limit: Callers that may wait (exclusive) or run (otherwise) at once before the next is turned away.
    """

    def __init__(self, runner: Runner, *, exclusive: bool, queue_limit: int) -> None:
        self._runner = runner
        self._exclusive = exclusive
        self._turnstile = Turnstile(queue_limit)
        self._limit = queue_limit
        self._running: set[object] = set()
        self._count = threading.Lock()
        self._closed = False
        self.longest_stall_s = 0.0
        """Longest time an increment kept callers out."""

    def infer(self, x: Floats) -> Floats:
        """Outputs for a batch of inputs.

        Args:
            x: Inputs, float32 [N, ...] in the shape the plan was made for.

        Returns:
            Fresh array [N, outputs], every number of it from one and the same state.

        Raises:
            QueueFull: Too many callers.
            InputError: Wrong shape or type.
            Closed: The network was closed.
        """
        with self._turnstile.turn() if self._exclusive else self._counted():
            if self._closed:
                raise Closed("infer: the network is closed; open it again")
            return self._runner.run(x)

    def between_jobs(self, work: Callable[[], object], rescue: Callable[[], Runner] | None = None) -> float:
        """Do a piece of writing when no answer can see half of it; returns the seconds that callers were kept out.

        Args:
            work: The writing.
            rescue: Makes a runner to answer from when ``work`` raises. It is called before anybody else gets a turn,
                so nobody is answered from what a failed write left behind; without it, or when it raises too, the
                engine closes.
        """
        with self._turnstile.turn(bounded=False) if self._exclusive else nullcontext():
            begun = time.perf_counter()
            try:
                work()
            except BaseException:
                # Exclusive callers wait; others are answered from the last whole state until this is decided.
                rescued: Runner | None = None
                try:
                    if rescue is not None:
                        rescued = rescue()
                finally:
                    if rescued is None:
                        self._closed = True
                    else:
                        self._runner = rescued
                raise
            finally:
                stall = time.perf_counter() - begun if self._exclusive else 0.0
                self.longest_stall_s = max(self.longest_stall_s, stall)
        return stall

    def swap(self, runner: Runner) -> None:
        """Answer from another runner; answers under way are finished by the one they began with."""
        self.replace(lambda: runner)

    def replace(self, make: Callable[[], Runner]) -> None:
        """Answer from a runner that is made before anybody else gets a turn.

        Args:
            make: Makes it, and may write to the weights that answer now: nobody is answered from a half of that. When
                it raises, the engine closes, since nobody knows what those weights are.
        """

        def exchange() -> None:
            self._runner = make()

        self.between_jobs(exchange)

    @property
    def runner(self) -> Runner:
        """What answers now."""
        return self._runner

    @property
    def closed(self) -> bool:
        """Whether callers are turned away for good."""
        return self._closed

    @property
    def weight_bytes(self) -> int:
        """Memory that the weights of the present runner take."""
        return self._runner.weight_bytes

    def close(self) -> None:
        """Turn later callers away once those in line have their answers."""

        def shut() -> None:
            self._closed = True

        self.between_jobs(shut)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        caller = object()
        try:
            # Inside, since Ctrl-C may come in between: a caller that never leaves would take a place for good.
            with self._count:
                if len(self._running) >= self._limit:
                    raise QueueFull(
                        f"infer: {len(self._running)} callers run already, expected fewer than {self._limit}; "
                        "call again later, or raise queue_limit in the device profile"
                    )
                self._running.add(caller)
            yield
        finally:
            with self._count:
                self._running.discard(caller)

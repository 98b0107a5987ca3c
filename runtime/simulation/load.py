"""A steady caller, to see what a walk costs those who want answers."""

from __future__ import annotations

import threading
import time

from runtime.walking.engine import Engine
from runtime.walking.rows import Floats


class Load:
    """Asks for single answers, one after the other, while its context is open.

    Args:
        engine: What to ask.
        inputs: Samples to ask about, in turn.
    """

    def __init__(self, engine: Engine, inputs: Floats) -> None:
        self._engine = engine
        self._inputs = inputs
        self._stop = threading.Event()
        self._warm = threading.Event()
        self.latencies_s: list[float] = []
        """Latency of each request since the context opened; at least one when it closes."""
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="geoshift-load", daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        self._warm.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for request in range(10):
                self._engine.infer(self._inputs[request % len(self._inputs)][None])
            self._warm.set()
            request = 0
            while not self._stop.is_set() or not self.latencies_s:
                x = self._inputs[request % len(self._inputs)][None]
                begun = time.perf_counter()
                self._engine.infer(x)
                self.latencies_s.append(time.perf_counter() - begun)
                request += 1
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits
            self._error = error
        finally:
            self._warm.set()

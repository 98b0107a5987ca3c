"""Serves a plan over HTTP and walks it through all its modes while a client keeps asking.

    python examples/live_service.py PLAN

The service is a process of its own, as on a board; the clients need nothing but ``runtime.client``. On loopback, with
no tokens and in a state directory that is thrown away: see README.md for a service that others reach.
"""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from runtime.client import Client
from runtime.plan.bundle import read


@contextmanager
def serving(plan: str, state: str) -> Iterator[str]:
    """Run ``geoshift serve``; gives its address once it says that it serves."""
    words = ["serve", plan, "--state", state, "--host", "127.0.0.1", "--port", "0", "--no-auth", "--no-announce"]
    process = subprocess.Popen([sys.executable, "-m", "geoshift", *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        lines = (json.loads(line) for line in process.stderr)
        url = next((line["url"] for line in lines if line["event"] == "serving"), None)
        if url is None:
            sys.exit(f"geoshift serve ended with status {process.wait()}")
        threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would hold the service up
        yield url
    finally:
        process.terminate()
        process.wait()


def main(plan: str) -> None:
    """Switch through all modes and back to the dense one; say what the client got."""
    samples, stop = read(plan).evaluation, threading.Event()
    with tempfile.TemporaryDirectory() as state, serving(plan, state) as url, ThreadPoolExecutor() as pool:

        def ask() -> tuple[int, int]:
            """Ask for one sample after the other until told to stop; count answers and right ones."""
            answers = right = 0
            with Client(url) as client:
                while not answers or not stop.is_set():
                    at = answers % len(samples)
                    outputs = client.infer(samples.inputs[at : at + 1])  # POST /v2/models/.../infer
                    right += int(outputs.argmax() == samples.labels[at])
                    answers += 1
            return answers, right

        asking = pool.submit(ask)
        try:
            with Client(url) as client:
                dense, *others = [mode.name for mode in client.modes()]
                for mode in (*others, dense):
                    operation = client.switch(mode)  # POST /v1/switch; returns at once
                    while operation is not None and operation.outcome is None:
                        operation = client.operation(operation.id, wait_s=60)
                    print(f"{mode}: {operation.outcome if operation else 'already there'}, now {client.status().mode}")
        finally:
            stop.set()  # also when a switch was refused: the thread must not be left asking
        answers, right = asking.result()
        print(f"{answers:,} answers meanwhile, {right / answers:.1%} right")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Opens a plan bundle and visits all its modes while four threads keep asking.

    python examples/live_switch.py PLAN [PROFILE]

It needs the device side only: no torch.
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import geoshift

CALLERS = 4


def main(plan: str, profile: str | None = None) -> None:
    """Switch through all modes and back to the dense one; say what the callers got."""
    stop = threading.Event()
    with geoshift.open(plan, profile) as net, ThreadPoolExecutor(CALLERS) as callers:
        samples = net.bundle.evaluation

        def ask(first: int) -> tuple[int, int]:
            """Ask for one sample after the other until told to stop; count answers and right ones."""
            answers = right = 0
            while not answers or not stop.is_set():
                at = (first + answers) % len(samples)
                outputs = net.infer(samples.inputs[at : at + 1])  # any thread, at any time
                right += int(outputs.argmax() == samples.labels[at])
                answers += 1
            return answers, right

        asking = [callers.submit(ask, caller) for caller in range(CALLERS)]
        try:
            for mode in (*net.modes[1:], net.modes[0]):
                result = net.switch(mode).wait()
                print(f"{mode}: {result.outcome.value}, {result.bytes_written:,} bytes in {result.seconds:.2f} s")
        finally:
            stop.set()  # also when a switch was refused: the threads must not be left asking
        answers, right = (sum(counts) for counts in zip(*(one.result() for one in asking), strict=True))
        print(f"{answers:,} answers meanwhile, {right / answers:.1%} right")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Walks every transition of a bundle there and back through the real engine, and what profiles make of that."""

import msgspec

from device_profiles import Profile, loader
from runtime.walking.net import Net
from runtime.walking.operation import Outcome

VERIFY = {"mean_writes": {"value": 2.5, "provenance": "assumed", "source": "a test"}, "most_writes": 4}
FAST = {"increments_per_second": 1e9, "stall_budget_ms": 1e9}
PROFILES = {
    "plain": {},
    "words of 64": {"granularity_bytes": 64},
    "pages": {"granularity_bytes": 4096},
    "verified": {"verify": VERIFY},
    "words of 64, verified": {"granularity_bytes": 64, "verify": VERIFY},
    "pages, verified": {"granularity_bytes": 4096, "verify": VERIFY},
    "in pauses": {
        "granularity_bytes": 64,
        "quiesce_required": True,
        "bytes_per_second": {"value": 1e9, "provenance": "datasheet", "source": "a test"},
    },
}
"""What writes are like, by a name."""


def wearing(device: Profile, writes: dict[str, object], increment: int = 2048) -> Profile:
    """A device that writes so, at a pace that nobody waits for, in many increments."""
    data = loader.as_builtins(device)
    data["bank"] |= {"snap": False, "policy": "in-place"}
    data["writes"] |= {**FAST, "bytes_per_increment": max(increment, 3 * writes.get("granularity_bytes", 1)), **writes}
    return loader.from_builtins(data, "a device that wears")


def walked(bundle, device, check):
    """Walk all transitions both ways; ``check`` gets the transition, whether it is the way back, result and counts."""
    with Net(bundle, device) as net:
        for move in bundle.transitions:
            for back in (False, True):
                begin, end = move.ends[::-1] if back else move.ends
                if net.mode != begin:
                    assert net.switch(begin).wait(60).outcome is Outcome.COMMITTED
                before = net.standing.counters
                result = net.switch(end).wait(60)
                assert (result.outcome, result.reason) == (Outcome.COMMITTED, "")
                after = net.standing.counters
                check(move, back, result, msgspec.structs.replace(
                    after,
                    increments=after.increments - before.increments,
                    bytes_written=after.bytes_written - before.bytes_written,
                ))  # fmt: skip

"""Networks at work on the small bundle, at a pace that nobody waits for."""

import time

from runtime.walking.net import Net
from runtime.walking.pacer import Pacer
from tests.runtime.bundles import profile

PACE = {"writes__increments_per_second": 1e9, "writes__stall_budget_ms": 1e9}


def opened(bundle, policy="in-place", snap=False, **changes):
    return Net(bundle, profile(**PACE, bank__snap=snap, **changes), policy)


def stands_at(net, mode):
    """Whether the live weights are those of the mode, bit for bit."""
    bank = net._controller._live.bank
    held = bank._tensors[bank._front] if isinstance(bank._tensors, list) else bank._tensors
    expected = net.bundle.table.tensors(net.bundle.states[mode])
    return all(held[name].tobytes() == expected[name].tobytes() for name in expected)


def hurry(net):
    """Let every walk that begins or turns from now on take no time; one that stands goes on standing until it turns."""
    pace(net, profile(**PACE).writes)


def pace(net, writes):
    """Give every walk that begins or turns from now on other limits."""
    helm = net._controller
    helm._writes = writes
    if helm._walk is not None:
        helm._walk.pacer = Pacer(writes, time.monotonic())

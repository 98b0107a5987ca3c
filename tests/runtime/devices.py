"""Devices at work on the small bundle, with a clock of their own and a tree of sysfs that tests write to."""

import threading

from runtime.device.device import Device
from runtime.sensing.os_power import Tools
from runtime.walking.net import Net
from tests.runtime import nets
from tests.runtime.bundles import profile
from tests.runtime.nets import PACE

LOW = {"name": "low", "mode": "C3", "source": "battery", "enter_below": 30, "leave_above": 40}
AWAY = {"name": "away", "mode": "C2", "source": "charger", "equals": "unplugged"}
HOT = {
    "name": "hot",
    "mode": "C3",
    "source": "temperature",
    "zone": "cpu-thermal",
    "enter_above": 80,
    "leave_below": 70,
}

STANDS = {"writes__increments_per_second": 1 / 3600}
"""A pace at which a walk stands after its first increment."""


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s

    def forward(self, seconds):
        self.now_s += seconds


def made(bundle, root=None, clock=None, *, outside=True, policy="in-place", tools=None, **changes):
    """A device that reads what it watches only when it is told to, and walks at a pace that nobody waits for."""
    net = Net(bundle, profile(**{**PACE, "bank__snap": False, **changes}), policy)
    return Device(
        net,
        id="test",
        outside=outside,
        clock=clock or Clock(),
        tools=tools or (Tools() if root is None else Tools(root=root)),
        watches=False,
    )


def settled(device):
    """The status once no switch is under way."""
    switches = device._switches
    with switches.changed:
        assert switches.changed.wait_for(lambda: switches.current is None, 60)
    return device.status()


def polled(device):
    device.poll()
    return settled(device)


def walking(device, operation):
    """Wait until a walk has written something."""
    while device.operation(operation.id).progress == 0.0:
        threading.Event().wait(0.001)
    return device.operation(operation.id)


def told(device, kind):
    """Data of all events of a kind."""
    return [event.data for event in device.events().since(0) if event.kind == kind]


def modes(**commands):
    """Modes of the small bundle, some with commands."""
    data = {
        "C1": {"description": "dense"},
        "C2": {"from": "C1", "remove": [{"layer": {"name": "conv1"}, "count": 1}]},
        "C3": {"from": "C2", "remove": [{"layer": {"name": "conv2"}, "count": 1}]},
    }
    return {name: {**mode, **commands.get(name, {})} for name, mode in data.items()}


def hurry(device):
    """Let every walk that begins or turns from now on take no time; one that stands goes on standing until it turns."""
    nets.hurry(device._net)


def slow(device):
    """Let every walk that begins or turns from now on stand after its first increment."""
    nets.pace(device._net, profile(**STANDS).writes)

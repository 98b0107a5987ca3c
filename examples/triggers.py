"""The mode follows a number in a file, down and up again, and does not flicker where the number does.

    python examples/triggers.py PLAN

It needs the device side only: no torch. A service does the same by itself, once a second:
``geoshift serve PLAN --profile examples/triggers.yaml``.
"""

import sys
import tempfile
import time
from pathlib import Path

from runtime.device.device import Device
from runtime.device.opening import open_device
from runtime.device.views import Status

PROFILE = Path(__file__).with_name("triggers.yaml")
LEVELS = (90, 55, 49, 51, 58, 19, 21, 29, 31, 59, 61, 90)
"""In percent. 49, 19, 31 and 61 cross a threshold; all others stay on their side of both."""


def settled(device: Device) -> Status:
    """The device's status once it stands in the mode that is wanted."""
    while (status := device.status()).target is not None or status.mode != status.decision.mode:
        time.sleep(0.01)
    return status


def main(plan: str) -> None:
    """Write one level after the other, and say what the device makes of it."""
    with tempfile.TemporaryDirectory() as folder:
        level, profile = Path(folder, "battery-level"), Path(folder, "profile.yaml")
        profile.write_text(PROFILE.read_text(encoding="utf-8").replace("/run/battery-level", str(level)), "utf-8")
        level.write_text(str(LEVELS[0]))
        # Without a thread that watches, so that each level is seen once, whatever the machine's pace.
        with open_device(plan, profile, watches=False) as device:
            for percent in LEVELS:
                level.write_text(str(percent))
                device.poll()
                status = settled(device)
                active = ", ".join(one.name for one in status.triggers if one.active) or "none"
                print(f"{percent:3} %  {status.mode}  active: {active}")
            print("Log:")
            for event in device.events().since(0):
                if event.kind == "trigger":
                    print(
                        f"  {event.data['name']} {'on' if event.data['active'] else 'off'} at {event.data['reading']:g}"
                    )
                elif event.kind == "operation" and event.data["outcome"]:
                    print(f"  {event.data['from']} → {event.data['to']}: {event.data['outcome']}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Copies of the trees of sysfs, to write to."""

import shutil
import sys
from pathlib import Path

TREES = Path(__file__).parent / "sysfs"


def tree(name, tmp_path):
    """A fresh copy of a tree; give it as root."""
    return Path(shutil.copytree(TREES / name, tmp_path / name))


def put(root, path, value):
    """Write a value to a file under ``sys``, made if it is missing."""
    place = root / "sys" / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"{value}\n", encoding="ascii")


def got(root, path):
    return (root / "sys" / path).read_text(encoding="ascii").strip()


def program(tmp_path, name, text):
    """A program of a few lines of Python that tests may run by its absolute path."""
    place = tmp_path / name
    place.write_text(f"#!{sys.executable} -IS\n{text}", encoding="utf-8")
    place.chmod(0o755)
    return str(place)


def board(tmp_path):
    """A copy of the small board's tree, with the charger plugged in."""
    root = tree("board", tmp_path)
    put(root, "class/power_supply/battery/status", "Charging")
    return root

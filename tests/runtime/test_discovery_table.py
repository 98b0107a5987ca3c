"""Devices on the screen: they come, change and go, and nothing that they say commands the terminal."""

import io

from rich.console import Console

from runtime.discovery.discover import Found, Lost
from runtime.discovery.discovery_table import devices_table, show


def device(name, **said):
    return Found(name=name, host=f"{name}.local", port=8470, **{"addresses": ("192.0.2.7",), **said})


def printed(table):
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return [line.split() for line in console.file.getvalue().splitlines()]


def screen(news):
    """The frames that a terminal is shown, each as its lines."""
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    seen = []

    def each():
        for one in news:
            yield one
            seen.append(console.file.getvalue())

    show(each(), console)
    return [after.removeprefix(before) for before, after in zip(["", *seen], seen, strict=False)], console


def test_devices_stand_by_name_with_where_they_are_called():
    found = [device("b", tls="ab", mode="C2"), device("a", addresses=("fd00::1",))]
    _, a, b = printed(devices_table(found))
    assert a == ["a", "http://[fd00::1]:8470"]
    assert b == ["b", "https://192.0.2.7:8470", "C2"]


def test_the_table_follows_the_news():
    frames, _ = screen([device("one", mode="C1"), device("two"), device("one", mode="C3"), Lost(name="two")])
    first, second, third, fourth = frames
    assert "C1" in first
    assert "two" in second
    assert "C3" in third
    assert "C1" not in third
    assert "one" in fourth
    assert "two" not in fourth


def test_one_that_goes_without_having_come_changes_nothing():
    (frame,), _ = screen([Lost(name="nobody")])
    assert "nobody" not in frame


def test_what_strangers_say_is_shown_and_not_obeyed():
    (frame,), _ = screen([device("[bold]x\x07")])
    assert "[bold]x\\x07" in frame

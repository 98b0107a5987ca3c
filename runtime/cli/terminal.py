"""What all commands share: how errors end, how work shows where it is, how results are printed."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from device_profiles.errors import GeoshiftError

P = ParamSpec("P")

out = Console(emoji=False)
"""Results."""
err = Console(stderr=True, emoji=False)
"""Progress and errors: they never mix with results that another program reads."""


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """End a command with a sentence and an exit status instead of a traceback.

    1 is for work that failed, 130 for an interruption; 2, wrong usage, is typer's own. ``GEOSHIFT_DEBUG=1`` lets the
    traceback of an error that geoshift did not foresee through.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except GeoshiftError as error:
            err.print(f"[bold red]geoshift:[/] {plain(error)}", highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            err.print("geoshift: interrupted; nothing half-done was left behind, run the same command again")
            raise typer.Exit(130) from error
        except (OSError, MemoryError) as error:
            err.print(f"[bold red]geoshift:[/] {plain(error)}", highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            if os.environ.get("GEOSHIFT_DEBUG"):
                raise
            err.print(
                f"[bold red]geoshift:[/] a defect in geoshift: {type(error).__name__}: {plain(error)}\n"
                "Please report it with the output of the same command under GEOSHIFT_DEBUG=1.",
                highlight=False,
                soft_wrap=True,
            )
            raise typer.Exit(1) from error

    return run


def plain(error: object) -> str:
    """Its text, safe from being taken for markup or for commands to the terminal: it may quote a stranger."""
    text = "".join(one if one.isprintable() or one == "\n" else f"\\x{ord(one):02x}" for one in str(error))
    # Not rich's escape: two texts side by side may each hold half of a tag, so every bracket must be escaped.
    return re.sub(r"(\\+)(?=\[|\Z)", r"\1\1", text).replace("[", r"\[")


def mark(ok: bool) -> str:
    """A sign for what went well or did not, as markup."""
    return "[green]✓[/]" if ok else "[red]✗[/]"


def print_json(data: Any) -> None:
    """Print a result for another program."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


class StageBar:
    """Shows stages and steps as one progress bar a stage; implements ``planner.progress.Progress``."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=1, detail="", visible=False)
        self._steps = 0

    def stage(self, name: str, steps: int) -> None:
        """Finish the stage before and begin one of ``steps`` steps."""
        self.finish()
        self._task = self._progress.add_task(plain(name), total=steps, detail="")
        self._steps = 0

    def step(self, detail: str) -> None:
        """Begin the next step."""
        self._progress.update(self._task, completed=self._steps, detail=plain(detail))
        self._steps += 1

    def finish(self) -> None:
        """Fill the bar of the present stage."""
        self._progress.update(self._task, completed=self._steps, detail="")


@contextmanager
def stages() -> Iterator[StageBar]:
    """Progress bars on standard error; a plain line a stage where that is no terminal."""
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}", style="dim"),
    )
    with Progress(*columns, console=err) as progress:
        bar = StageBar(progress)
        yield bar
        bar.finish()

"""Writes the parts of the documentation that are made from code: ``python -m scripts.make_docs``, or ``make docs``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import device_profiles
from device_profiles import GeoshiftError
from runtime.walking import table
from scripts import claims_table, device_table, results_table, tour_picture, write_times

DOCS = Path(__file__).parent.parent / "docs"
BEGIN = "<!-- state diagram: made from runtime/walking/table.py by `make docs` -->\n"
END = "<!-- end of state diagram -->"
RESULTS_BEGIN = "<!-- modes: made from benchmarks/results by `make docs` -->\n"
RESULTS_END = "<!-- end of modes -->"
TIMES_BEGIN = "<!-- write times: made from device_profiles by `make docs` -->\n"
TIMES_END = "<!-- end of write times -->"
DEVICES_BEGIN = "<!-- devices: made from benchmarks/results by `make docs` -->\n"
DEVICES_END = "<!-- end of devices -->"
SCALES_BEGIN = "<!-- scales: made from benchmarks/results by `make docs` -->\n"
SCALES_END = "<!-- end of scales -->"
CLAIMS_BEGIN = "<!-- claims: made from benchmarks/results by `make docs` -->\n"
CLAIMS_END = "<!-- end of claims -->"


class DocumentError(GeoshiftError):
    """A document lacks the place for what is made from code."""


def documents(docs: Path = DOCS) -> Mapping[Path, str]:
    """What the generated documents must say, by path.

    Args:
        docs: Where they are; text around generated parts is taken from there.

    Raises:
        DocumentError: A marker is missing or there twice.
    """
    architecture, readme, profiles = docs / "architecture.md", docs.parent / "README.md", docs / "profiles.md"
    diagram = f"```mermaid\n{table.diagram()}\n```\n"
    times, page = write_times.table() + "\n", profiles.read_text(encoding="utf-8")
    page = between_markers(page, times, str(profiles), (TIMES_BEGIN, TIMES_END))
    page = between_markers(page, device_table.scales_table() + "\n", str(profiles), (SCALES_BEGIN, SCALES_END))
    modes, claims = results_table.table() + "\n", claims_table.short() + "\n"
    text = between_markers(readme.read_text(encoding="utf-8"), modes, str(readme), (RESULTS_BEGIN, RESULTS_END))
    return {
        docs / "profile.schema.json": json.dumps(device_profiles.json_schema(), indent=2) + "\n",
        architecture: between_markers(architecture.read_text(encoding="utf-8"), diagram, str(architecture)),
        readme: between_markers(text, claims, str(readme), (CLAIMS_BEGIN, CLAIMS_END)),
        profiles: between_markers(page, device_table.table() + "\n", str(profiles), (DEVICES_BEGIN, DEVICES_END)),
        docs / "results.md": claims_table.page(),
        docs / "tour.svg": tour_picture.picture(),
    }


def between_markers(text: str, part: str, origin: str, markers: tuple[str, str] = (BEGIN, END)) -> str:
    """The text with what stands between the two markers replaced.

    Args:
        text: A document.
        part: What is to stand there.
        origin: What to call the document in errors.
        markers: Lines before and after the place.

    Raises:
        DocumentError: A marker is missing or there twice, or they are the wrong way round.
    """
    first, last = markers
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end or first in rest or last in before + after:
        raise DocumentError(
            f"{origin}: found {text.count(first)} lines {first.strip()!r} and {text.count(last)} lines {last!r}, "
            "expected one of each, in this order; put them where the generated part belongs"
        )
    return before + begin + part + end + after


def main() -> int:
    """Write the documents that are out of date and name them; exit status 1 when that is not possible."""
    try:
        for path, text in documents().items():
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                path.write_text(text, encoding="utf-8")
                print(f"written: {path.relative_to(DOCS.parent)}")
    except GeoshiftError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Writes the parts of the documentation that are made from code: ``python -m scripts.make_docs``, or ``make docs``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import device_profiles
from device_profiles import GeoshiftError
from runtime import table

DOCS = Path(__file__).parent.parent / "docs"
BEGIN = "<!-- state diagram: made from runtime/table.py by `make docs` -->\n"
END = "<!-- end of state diagram -->"


class DocumentError(GeoshiftError):
    """A document lacks the place for what is made from code."""


def documents(docs: Path = DOCS) -> Mapping[Path, str]:
    """What the generated documents must say, by path.

    Args:
        docs: Where they are; text around generated parts is taken from there.

    Raises:
        DocumentError: A marker is missing or there twice.
    """
    architecture = docs / "architecture.md"
    diagram = f"```mermaid\n{table.diagram()}\n```\n"
    return {
        docs / "profile.schema.json": json.dumps(device_profiles.json_schema(), indent=2) + "\n",
        architecture: between_markers(architecture.read_text(encoding="utf-8"), diagram, str(architecture)),
    }


def between_markers(text: str, part: str, origin: str) -> str:
    """The text with what stands between the two markers replaced.

    Args:
        text: A document.
        part: What is to stand there.
        origin: What to call the document in errors.

    Raises:
        DocumentError: A marker is missing or there twice, or they are the wrong way round.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise DocumentError(
            f"{origin}: found {text.count(BEGIN)} lines {BEGIN.strip()!r} and {text.count(END)} lines {END!r}, "
            "expected one of each, in this order; put them where the diagram belongs"
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

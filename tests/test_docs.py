"""The documentation says what is so: generated parts, links, commands, snippets, names, numbers."""

import json
import re
import shlex
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import typer

from planner.commands import add_commands as add_planner
from runtime.cli.commands import add_commands as add_runtime
from runtime.plan import landscape, manifest
from runtime.plan.compact import pack
from runtime.walking import strategies
from runtime.walking.chunks import ChunkList
from runtime.walking.rows import MovedLayer, RowTable
from scripts.make_docs import BEGIN, DOCS, END, DocumentError, between_markers, documents
from tests.runtime.bundles import write_bundle

ROOT = DOCS.parent
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
PACKAGES = ("planner", "runtime", "device_profiles", "scripts", "examples", "benchmarks", "tests", "")


def read(page):
    return page.read_text(encoding="utf-8")


def blocks(page, language):
    """Fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", read(page), re.MULTILINE | re.DOTALL)


def outside_fences(page):
    return re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """Anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", outside_fences(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_what_is_made_from_code_is_up_to_date(path):
    assert read(path) == documents()[path], "run `make docs`"


@pytest.mark.parametrize("text", ["", BEGIN, END + BEGIN, BEGIN + BEGIN + END, BEGIN + END + END])
def test_a_document_without_its_place_is_refused(text):
    with pytest.raises(DocumentError, match=r"page\.md: found .* expected one of each"):
        between_markers(text, "part", "page.md")


def test_what_stands_around_a_generated_part_stays():
    assert between_markers(f"a{BEGIN}old{END}b", "new", "page.md") == f"a{BEGIN}new{END}b"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_resolves(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_fences(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name) if name else page
        assert found.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(found), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_source_file_that_a_page_names_exists(page):
    for name in set(re.findall(r"`([\w./-]+\.(?:py|yaml))`", outside_fences(page))):
        to_be_written = "NAME" in name
        assert to_be_written or any((ROOT / package / name).exists() for package in PACKAGES), f"{page.name}: {name}"


def commands():
    """Lines of the shell blocks of all pages."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    yield pytest.param(words, id=f"{page.stem}: {' '.join(words)}")


@pytest.mark.parametrize("words", [*commands()])
def test_every_command_of_the_pages_exists(words):
    program, *rest = words
    if program == "make":
        targets = re.findall(r"^(\w+):", read(ROOT / "Makefile"), re.MULTILINE)
        assert set(rest) <= set(targets)
    elif program.endswith("python") and rest[0] == "-m":
        module = rest[1].replace(".", "/")
        assert rest[1] == "pytest" or (ROOT / f"{module}.py").exists() or (ROOT / module / "__main__.py").exists()
    elif program.endswith("python") and rest[0] != "-c":
        assert (ROOT / rest[0]).exists()
    elif program.endswith("geoshift"):
        app = typer.Typer()
        add_planner(app)
        add_runtime(app)
        command = typer.main.get_command(app)
        while hasattr(command, "commands"):
            command = command.commands[rest.pop(0)]
        command.make_context(program, rest)  # parses, and raises on an option that is not there; runs nothing
    elif "/" in program:
        assert (ROOT / program).exists()


def test_the_snippet_for_devices_runs(tmp_path, monkeypatch, capsys):
    write_bundle(tmp_path / "plan")
    monkeypatch.chdir(tmp_path)
    (snippet,) = blocks(ROOT / "README.md", "python")
    exec(compile(snippet, "README.md", "exec"), {})
    assert "committed C2" in capsys.readouterr().out


def test_the_specification_names_every_field_of_the_manifest():
    text = read(DOCS / "bundle.md")
    named = [*vars(manifest).values(), *vars(landscape).values()]
    records = [one for one in named if isinstance(one, type) and issubclass(one, msgspec.Struct)]
    for record in records:
        for field in msgspec.structs.fields(record):
            name = field.encode_name
            assert f"`{name}`" in text or f'"{name}"' in text, f"{record.__name__}.{name}"


def test_the_example_of_the_specification_adds_up():
    (text,) = blocks(DOCS / "bundle.md", "json")
    given = json.loads(text)
    base = {name: np.array(values, np.float32) for name, values in given["base"].items()}
    layers = (
        MovedLayer("hidden", "hidden.weight", "hidden.bias", (3, 2), None, 1),
        MovedLayer("out", "out.weight", "out.bias", (2, 3), "hidden", 1),
    )
    table = RowTable(layers, base, {name: np.array(rows, np.float32) for name, rows in given["rows"].items()})
    states = {}
    for key, versions in given["modes"].items():
        mode, layer = key.split("/")
        states.setdefault(mode, {})[layer] = np.array(versions, np.int32)
    path = ChunkList.from_arrays(
        tuple(given["layers"]), {name: np.array(values, np.int32) for name, values in given["path"].items()}, "example"
    )
    path.check(table, states["C1"], states["C2"], "example")
    assert path.total_bytes(table) == given["bytes_written"]
    assert {name: values.tolist() for name, values in path.reversed().arrays().items()} == given["reverse"]
    assert {name: values.tolist() for name, values in path.arrays().items()} == {
        name: values.tolist()
        for name, values in strategies.ordered(table, states["C1"], states["C2"]).chunks.arrays().items()
    }
    one = path.state_at(states["C1"], 1)
    after = given["after one chunk"]
    assert {name: versions.tolist() for name, versions in one.items()} == after["state"]
    assert {name: table.tensors(one)[name].tolist() for name in ("out.weight", "out.bias")} == {
        name: after[name] for name in ("out.weight", "out.bias")
    }
    kept = {"hidden": (0, 2)}
    bundle = SimpleNamespace(mode=lambda name: SimpleNamespace(kept=kept), tensors=base, table=table, states=states)
    assert {name: values.tolist() for name, values in pack(bundle, "C2").items()} == given["compact C2"]


def test_decisions_are_numbered_without_gaps_and_say_what_follows():
    pages = sorted((DOCS / "decisions").glob("*.md"))
    assert [page.name[:4] for page in pages] == [f"{number:04}" for number in range(1, len(pages) + 1)]
    for page in pages:
        assert read(page).startswith(f"# {page.name[:4]}: ")
        assert [line for line in read(page).splitlines() if line.startswith("## ")] == [
            "## Context", "## Decision", "## Consequences",
        ]  # fmt: skip

"""Bundles whose files or manifest are damaged or hostile: refused in words that name file, found and expected."""

import json
import os
import shutil
from pathlib import Path

import pytest

from device_profiles import ProfileError
from runtime.errors import BundleError
from runtime.plan import bundle as bundles
from runtime.plan.bundle import EVALUATION, GRAPH, ROWS
from runtime.plan.bundle_files import MANIFEST, MAX_BUNDLE_BYTES, MAX_FILES
from runtime.plan.bundle_parts import BASE
from runtime.plan.manifest import MAX_MANIFEST_BYTES
from tests.runtime.bundles import write_bundle
from tests.runtime.damage import LISTED, change, flip, manifest, refused

AGAIN = "the file is damaged: copy the bundle again"
LONG_NUMBER = "9" * 5000


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("sound") / "plan")


@pytest.fixture
def plan(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "plan"))


def test_these_are_all_files_of_the_bundle(plan):
    assert sorted(manifest(plan)["files"]) == sorted(LISTED)
    assert bundles.read(plan).size_bytes == sum(path.stat().st_size for path in plan.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", LISTED)
def test_a_truncated_file_is_refused(plan, name):
    size = (plan / name).stat().st_size
    os.truncate(plan / name, size - 1)
    refused(plan, f"plan/{name}: found {size - 1} bytes with sha256 ", f"expected {size} with ", AGAIN)


@pytest.mark.parametrize("name", LISTED)
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_a_flipped_bit_is_refused(plan, name, place):
    size = (plan / name).stat().st_size
    flip(plan / name, place)
    refused(plan, f"plan/{name}: found {size} bytes with sha256 ", f"expected {size} with ", AGAIN)


@pytest.mark.parametrize("name", LISTED)
def test_a_file_that_is_longer_than_listed_is_not_read_to_its_end(plan, name):
    size = (plan / name).stat().st_size
    os.truncate(plan / name, 1 << 40)  # a hole: it takes no space, and reading it would take all memory
    refused(plan, f"plan/{name}: found {1 << 40} bytes, expected at most {size}; copy the bundle again")


@pytest.mark.parametrize("name", [*LISTED, MANIFEST])
def test_a_missing_file_is_refused(plan, name):
    (plan / name).unlink()
    refused(plan, f"plan/{name}: found no regular file, expected one; the bundle is incomplete: copy it again")


def test_a_renamed_file_is_refused(plan):
    (plan / GRAPH).rename(plan / "network.onnx")
    refused(plan, "found 'network.onnx', which plan.json does not list; remove it or copy the bundle again")


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "paths/.hidden", "graphs/C4.onnx", "new/one"])
def test_an_extra_file_is_refused(plan, name):
    (plan / name).parent.mkdir(exist_ok=True)
    (plan / name).write_bytes(b"")
    refused(plan, f"found {name!r}, which plan.json does not list; remove it or copy the bundle again")


def test_an_extra_pipe_is_refused(plan):
    os.mkfifo(plan / "pipe")
    refused(plan, "found 'pipe', which plan.json does not list")


def test_an_empty_directory_does_no_harm(plan):
    (plan / "empty").mkdir()
    bundles.read(plan)


def link(target):
    target.rename(target.parent.parent / "elsewhere")
    target.symlink_to(target.parent.parent / "elsewhere")


def directory(target):
    target.unlink()
    target.mkdir()


def pipe(target):
    target.unlink()
    os.mkfifo(target)


@pytest.mark.parametrize("name", [MANIFEST, GRAPH, EVALUATION])
@pytest.mark.parametrize("instead", [link, directory, pipe])
def test_only_regular_files_are_read(plan, name, instead):
    instead(plan / name)
    refused(plan, f"plan/{name}: found no regular file, expected one; the bundle is incomplete: copy it again")


def test_a_linked_directory_is_refused(plan):
    link(plan / "graphs")
    refused(plan, "found 'graphs', which plan.json does not list")


def test_a_directory_linked_meanwhile_is_refused(plan, monkeypatch):
    link(plan / "graphs")
    monkeypatch.setattr(Path, "rglob", lambda path, pattern: [])
    refused(plan, "plan/graphs/C1.onnx: found a link on the way to it, expected real directories")


@pytest.mark.parametrize(
    ("instead", "words"),
    [(link, "cannot be read: Too many levels of symbolic links"), (pipe, "found no regular file, expected one")],
)
def test_a_file_exchanged_between_check_and_reading_is_refused(plan, monkeypatch, instead, words):
    checked = Path.is_file

    def exchange(path):
        found = checked(path)
        if path.name == EVALUATION and not path.is_symlink():
            instead(path)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_file", exchange)
        with pytest.raises(BundleError, match=rf"plan/{EVALUATION}: {words}"):
            bundles.read(plan)


def test_a_bundle_may_be_called_by_a_link(plan):
    (plan.parent / "current").symlink_to("plan")
    assert bundles.read(plan.parent / "current").mode("C2").name == "C2"


@pytest.mark.parametrize("there", [None, "file"])
def test_no_directory_no_bundle(tmp_path, there):
    plan = tmp_path / "plan"
    if there:
        plan.write_text("{}")
    refused(plan, "plan: found no directory, expected a plan bundle; make one with `geoshift plan`")


def test_what_cannot_be_read_is_refused(plan, monkeypatch):
    def denied(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", denied)
    refused(plan, "plan/plan.json: cannot be read: Permission denied")


@pytest.mark.parametrize(
    "name",
    ["../plan.json", "..", ".", "", "/etc/passwd", "paths/../../x", "a//b", "a/", "./a", "a\\b", "C:/x", "a\0b",
     "a\nb", "\x1b[2J", "ä", ".hidden", "paths/.hidden", "a/b/c/d/e", "x" * 201, "plan.json"],
)  # fmt: skip
def test_a_path_that_may_lead_elsewhere_is_refused(plan, name):
    change(plan, "files", to=lambda files: {**files, name: files[GRAPH]})
    refused(plan, f"plan/plan.json: files: found path {name!r}, expected one inside the bundle")


def test_a_manifest_that_lists_too_much_is_refused(plan):
    change(plan, "files", ROWS, "bytes", to=MAX_BUNDLE_BYTES)
    refused(
        plan, f"plan.json: files: found {len(LISTED)} files of ", f"expected at most {MAX_FILES} of {MAX_BUNDLE_BYTES}"
    )
    entry = {"sha256": "0" * 64, "bytes": 0}
    change(plan, "files", to={f"f{number}": entry for number in range(MAX_FILES + 1)})
    refused(plan, f"plan.json: files: found {MAX_FILES + 1} files of 0 bytes, expected at most {MAX_FILES}")


@pytest.mark.parametrize(("listed", "words"), [(1, "expected at most 1;"), (10**6, "expected 1000000 with ")])
def test_a_manifest_that_lies_about_a_size_is_refused(plan, listed, words):
    size = (plan / BASE).stat().st_size
    change(plan, "files", BASE, "bytes", to=listed)
    refused(plan, f"plan/{BASE}: found {size} bytes", words, "copy the bundle again")


def test_a_file_that_is_listed_and_not_used_is_refused(plan):
    (plan / "more").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    change(plan, "files", to=lambda files: {**files, "more": {"sha256": empty, "bytes": 0}})
    refused(plan, "plan.json: files: found 'more' listed and not used, expected both; copy the bundle again")


def test_a_file_that_is_used_and_not_listed_is_refused(plan):
    change(plan, "modes", 1, "graph", to="graphs/other.onnx")
    refused(plan, "plan.json: files: found 'graphs/C2.onnx' listed and not used, expected both")
    change(plan, "modes", 1, "graph", to="graphs/A.onnx")
    refused(plan, "plan.json: files: found 'graphs/A.onnx' used and not listed, expected both")


def test_a_manifest_above_its_limit_is_not_parsed(plan):
    with (plan / MANIFEST).open("ab") as handle:
        handle.truncate(MAX_MANIFEST_BYTES + 1)
    refused(plan, f"plan.json: found {MAX_MANIFEST_BYTES + 1} bytes, expected at most {MAX_MANIFEST_BYTES}")


NESTED = b"[" * 100_000 + b"]" * 100_000
OTHER = (
    "expected 'geoshift.plan/1'; the bundle was made by another version of geoshift: plan again, or use that version"
)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "Input data was truncated"),
        (b"not JSON", "JSON is malformed"),
        (b"[]", "Expected `object`, got `array`"),
        (b"null", "Expected `object`, got `null`"),
        (NESTED, "Expected `object`, got `array`"),
        (b'{"profile": ' + NESTED + b"}", "maximum recursion depth exceeded"),
        (b'{"schema": ' + NESTED + b"}", "maximum recursion depth exceeded"),
        (b'{"schema": ' + LONG_NUMBER.encode() + b"}", "Integer value out of range"),
        ("{}".encode("utf-16"), "JSON is malformed"),
        (b'{"schema": "\xff"}', "nvalid"),  # with a capital from msgspec 0.23 on
        (b'{"schema": "\\ud800"}', "plan.json: "),
        (b"{}", f"schema: found nothing, {OTHER}"),
        (b'{"schema": null}', f"schema: found nothing, {OTHER}"),
        (b'{"schema": "geoshift.plan/2"}', f"schema: found 'geoshift.plan/2', {OTHER}"),
        (b'{"schema": "geoshift.plan/1\\n"}', rf"schema: found 'geoshift.plan/1\n', {OTHER}"),
        (b'{"schema": ["geoshift.plan/1"]}', f"schema: found a list of 1 items, {OTHER}"),
        (b'{"schema": "\\u001b[2J' + b"x" * 1000 + b'"}', r"schema: found '\x1b[2Jxxx"),
        (b'{"schema": "geoshift.plan/1"}', "Object missing required field `release`"),
    ],
)
def test_what_is_no_manifest_is_refused(plan, raw, words):
    (plan / MANIFEST).write_bytes(raw)
    refused(plan, "plan/plan.json: ", words)


@pytest.mark.parametrize(
    ("steps", "value", "words"),
    [
        (("release",), 0, "Expected `int` >= 1 - at `$.release`"),
        (("release",), "1", "Expected `int`, got `str` - at `$.release`"),
        (("release",), 1.5, "Expected `int`, got `float` - at `$.release`"),
        (("evil",), 1, "Object contains unknown field `evil`"),
        (("modes", 0, "evil"), 1, "Object contains unknown field `evil` - at `$.modes[0]`"),
        (("modes",), [], "Expected `array` of length >= 1 - at `$.modes`"),
        (("modes",), {}, "Expected `array`, got `object` - at `$.modes`"),
        (("modes", 1, "accuracy"), 1.01, "Expected `float` <= 1.0 - at `$.modes[1].accuracy`"),
        (("modes", 1, "macs"), -1, "Expected `int` >= 0 - at `$.modes[1].macs`"),
        (("modes", 1, "kept"), {"conv1": [-1]}, "Expected `int` >= 0 - at `$.modes[1].kept[...][0]`"),
        (("layers", 0, "shape"), [4], "Expected `array` of length >= 2 - at `$.layers[0].shape`"),
        (("layers", 0, "shape"), [0, 9], "Expected `int` >= 1 - at `$.layers[0].shape[0]`"),
        (("files", BASE, "sha256"), "0" * 64 + "\n", "Expected `str` matching regex"),
        (("files", BASE, "bytes"), -1, "Expected `int` >= 0 - at `$.files[...].bytes`"),
        (("transitions", 0, "from"), "C1/../..", "Expected `str` matching regex"),
        *(
            (("modes", 0, "name"), name, "Expected `str` matching regex '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
            for name in ("", "a\n", "a/b", "../a", "a\\b", "-a", ".a", "x" * 65, "ä", "\x1b[2J", "a\0")
        ),
    ],
)  # fmt: skip
def test_a_field_that_breaks_its_type_is_refused(plan, steps, value, words):
    data = manifest(plan)
    inner = data
    for step in steps[:-1]:
        inner = inner[step]
    inner[steps[-1]] = value
    (plan / MANIFEST).write_text(json.dumps(data))
    refused(plan, "plan/plan.json: ", words, "copy the bundle again, or plan again")


@pytest.mark.parametrize("field", ["model", "profile", "layers", "modes", "transitions", "planning", "files", "labels"])
def test_a_missing_field_is_refused(plan, field):
    change(plan, field, drop=True)
    refused(plan, f"plan/plan.json: Object missing required field `{field}`")


def test_a_profile_that_is_not_valid_is_refused(plan):
    change(plan, "profile", "threads", to=0)
    refused(plan, "plan/plan.json: profile: threads: found 0, expected an integer of at least 1", error=ProfileError)

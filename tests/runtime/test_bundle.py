"""Writing a bundle whole or not at all, whatever stands there and whatever interrupts it."""

import errno
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import save

from runtime.errors import BundleError, UnknownMode
from runtime.plan import bundle as bundles
from runtime.plan import bundle_files
from runtime.plan.bundle_files import MANIFEST, check_target
from tests.runtime.bundles import content
from tests.runtime.damage import change, relative, snapshot
from tests.runtime.failing_disk import Disk


@pytest.fixture(scope="module")
def made():
    return content()


@pytest.fixture(scope="module")
def newer(made):
    manifest, files = made
    return type(manifest)(
        **{**{name: getattr(manifest, name) for name in manifest.__struct_fields__}, "release": 2}
    ), files


@pytest.fixture
def plan(made, tmp_path):
    return bundles.write(tmp_path / "plan", *made, replace=False)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_written_is_read(plan, made):
    manifest, files = made
    bundle = bundles.read(plan)
    assert dict(bundle.files) == contents(plan)
    assert {name: raw for name, raw in bundle.files.items() if name != MANIFEST} == files
    assert bundle.manifest.modes == manifest.modes
    assert list(bundle.states) == ["C1", "C2", "C3"]
    assert bundle.mode("C2").kept == {"conv1": (0, 2, 3)}
    with pytest.raises(UnknownMode, match="mode: found 'C9', expected one of C1, C2, C3"):
        bundle.mode("C9")


def test_the_same_content_gives_the_same_bytes(plan, made, tmp_path):
    manifest, files = made
    shuffled = dict(reversed(files.items()))
    assert contents(bundles.write(tmp_path / "other", manifest, shuffled, replace=False)) == contents(plan)


def test_others_may_read_it(made, tmp_path):
    before = os.umask(0o022)
    try:
        plan = bundles.write(tmp_path / "deep" / "er" / "plan", *made, replace=False)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in [plan, *plan.rglob("*")]} == {0o755, 0o644}


def test_a_bundle_is_replaced_only_on_demand(plan, newer):
    before = snapshot(plan.parent)
    with pytest.raises(BundleError) as caught:
        bundles.write(plan, *newer, replace=False)
    assert str(caught.value) == f"{plan}: found a bundle, expected nothing; choose another directory or use --force"
    assert snapshot(plan.parent) == before
    old = bundles.read(plan)
    bundles.write(plan, *newer, replace=True)
    assert bundles.read(plan).manifest.release == 2
    assert old.evaluation.inputs.any(), "what was read before stays as it was"
    assert relative(plan.parent) == sorted(["plan", *(f"plan/{name}" for name in relative(plan))])


def empty(place):
    place.mkdir()


def plain_file(place):
    place.write_text("important")


def dangling(place):
    place.symlink_to("nowhere")


def linked(place):
    shutil.copytree(place.parent / "plan", place.parent / "real")
    place.symlink_to("real")


def project(place):
    """Somebody's work that happens to have a file of that name."""
    place.mkdir()
    (place / MANIFEST).write_text('{"schema": "my.plan/1", "files": {}}')
    (place / "thesis.tex").write_text("important")


def no_json(place):
    place.mkdir()
    (place / MANIFEST).write_bytes(b"\xff")


def with_notes(place):
    shutil.copytree(place.parent / "plan", place)
    (place / "paths" / "notes.txt").write_text("important")


def with_link(place):
    shutil.copytree(place.parent / "plan", place)
    (place / "data").symlink_to("..")


@pytest.mark.parametrize(
    ("there", "what"),
    [
        (empty, "no plan.json"),
        (plain_file, "no directory"),
        (dangling, "no directory"),
        (linked, "no directory"),
        (project, "a plan.json that is none of geoshift's"),
        (no_json, "a plan.json that is none of geoshift's"),
        (with_notes, "'paths/notes.txt' in it"),
        (with_link, "'data' in it"),
    ],
)
@pytest.mark.parametrize("replace", [False, True])
def test_nothing_but_a_bundle_is_ever_replaced(plan, newer, there, what, replace):
    place = plan.parent / "place"
    there(place)
    before = snapshot(plan.parent)
    with pytest.raises(BundleError) as caught:
        bundles.write(place, *newer, replace=replace)
    assert str(caught.value) == (
        f"{place}: found something that is no bundle ({what}), expected nothing; choose another directory"
    )
    assert snapshot(plan.parent) == before


def test_a_damaged_bundle_or_one_of_another_version_may_be_replaced(plan, newer):
    (plan / "graph.onnx").unlink()
    change(plan, "schema", to="geoshift.plan/9")
    check_target(plan, replace=True)
    bundles.write(plan, *newer, replace=True)
    assert bundles.read(plan).manifest.release == 2


def test_what_cannot_be_looked_at_is_not_replaced(plan, newer, monkeypatch):
    def denied(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(BundleError, match=r"plan: cannot be looked at \(Permission denied\); choose another directory"):
        check_target(plan, replace=True)


@pytest.mark.parametrize("replace", [False, True])
def test_what_comes_to_stand_there_meanwhile_is_kept(made, tmp_path, monkeypatch, replace):
    place, sync = tmp_path / "plan", os.fsync

    def meanwhile(handle):
        if not place.exists():
            project(place)
        sync(handle)

    monkeypatch.setattr(os, "fsync", meanwhile)
    with pytest.raises(BundleError, match="found something that is no bundle"):
        bundles.write(place, *made, replace=replace)
    assert relative(tmp_path) == ["plan", f"plan/{MANIFEST}", "plan/thesis.tex"]


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), FULL])
@pytest.mark.parametrize("standing", [False, True])
def test_an_interruption_at_any_file_operation_leaves_the_old_or_the_new(tmp_path, monkeypatch, standing, error, done):
    listing = b'{"schema": "geoshift.plan/1", "files": {"a": 0, "paths/b": 0, "paths/c": 0}, "release": %d}'
    old, new = ({"a": raw, "paths/b": raw, "paths/c": b"", MANIFEST: listing % raw[0]} for raw in (b"1" * 9, b"2" * 9))
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    seen, number, disk = set(), 0, None
    while disk is None or disk.at:
        number += 1
        place = tmp_path / str(number) / "plan"
        place.parent.mkdir()
        if standing:
            bundle_files.write_all(place, old, replace=False)
        disk, failed = Disk(number, error, done), False
        with disk.failing(monkeypatch):
            try:
                bundle_files.write_all(place, new, replace=standing)
            except type(error):
                failed = True
        left = [path.name for path in place.parent.iterdir()]
        assert left == ["plan"] or (failed and not standing and not left), (disk.at, left)
        if left:
            found = contents(place)
            assert found == new or (standing and failed and found == old), disk.at
        seen.add(disk.at)
    assert seen >= {"", "mkdir", "rename", "fsync", "write"}
    assert number > 3 * len(new)


def test_an_old_bundle_that_cannot_be_put_back_is_not_deleted(plan, newer, monkeypatch):
    old, renamed = contents(plan), os.rename

    def fail_after_the_first(*paths):
        monkeypatch.setattr(os, "rename", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        renamed(*paths)

    monkeypatch.setattr(os, "rename", fail_after_the_first)
    with pytest.raises(OSError, match="Input/output error"):
        bundles.write(plan, *newer, replace=True)
    (kept,) = plan.parent.glob(".plan.*.partial/old")
    assert contents(kept) == old


def test_an_alternative_is_checked_when_it_is_used(made, tmp_path):
    manifest, files = made
    first = manifest.transitions[0]
    listed = {name: getattr(first, name) for name in first.__struct_fields__} | {
        "alternatives": {"geodesic": "paths/g"}
    }
    fields = {name: getattr(manifest, name) for name in manifest.__struct_fields__}
    manifest = type(manifest)(**fields | {"transitions": (type(first)(**listed), *manifest.transitions[1:])})
    sound = bundles.read(
        bundles.write(tmp_path / "sound", manifest, {**files, "paths/g": files[first.path]}, replace=False)
    )
    table, chunks = sound.alternative(sound.transitions[0], "geodesic")
    assert (table.versions("fc1"), len(chunks)) == (sound.table.versions("fc1"), first.chunks)
    with pytest.raises(BundleError, match="sound: C2 → C3 has no geodesic path; plan again with --every-candidate"):
        sound.alternative(sound.transitions[1], "geodesic")
    for name, array, words in (
        ("rows/fc1", np.zeros((1, 3), np.float32), "rows of 'fc1': found shape"),
        ("rows/fc9", np.zeros((1, 25), np.float32), "rows of 'fc9': found shape"),
        ("rows/fc1", np.zeros((1, 25)), "tensor fc1: found float64, expected float32"),
        ("rows/fc1", np.full((1, 25), np.nan, np.float32), "tensor fc1: found a value that is not finite"),
        ("more", np.zeros(1, np.int32), "found arrays"),
    ):
        raw = save({**sound.transitions[0].chunks.arrays(), name: array})
        hostile = bundles.read(bundles.write(tmp_path / "hostile", manifest, {**files, "paths/g": raw}, replace=True))
        with pytest.raises(BundleError, match=f"hostile/paths/g: {words}"):
            hostile.alternative(hostile.transitions[0], "geodesic")

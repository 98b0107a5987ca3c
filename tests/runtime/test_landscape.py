"""Landscapes: read as they were written, refused where they are not what they should be, and checked by `verify`."""

import json
import shutil
from pathlib import Path

import pytest

from runtime.errors import BundleError
from runtime.plan import bundle as bundles
from runtime.plan.landscape import MAX_LANDSCAPE_BYTES, MOST_PATHS, decode, encode
from runtime.plan.verification import verify
from tests.runtime.bundles import content, profile, write_bundle
from tests.runtime.damage import LANDSCAPE, change, manifest, refused, rehash, replace


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("sound") / "plan")


@pytest.fixture
def plan(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "plan"))


def rewrite(plan, *steps, to):
    """Set a field of the landscape that steps lead to, and list the file anew."""
    data = json.loads((plan / LANDSCAPE).read_bytes())
    inner = data
    for step in steps[:-1]:
        inner = inner[step]
    inner[steps[-1]] = to
    replace(plan, LANDSCAPE, json.dumps(data).encode())


def test_what_is_read_is_what_was_written(sound):
    bundle = bundles.read(sound)
    (move, *others) = bundle.transitions
    assert encode(move.landscape) == bundle.files[LANDSCAPE]
    assert decode(bundle.files[LANDSCAPE], move.entry, 400, "here") == move.landscape
    assert all(other.landscape is None for other in others)


@pytest.mark.parametrize(
    ("steps", "to", "words"),
    [
        (("samples",), 401, "samples: found 401, expected at most the 400 of eval.npz"),
        (("samples",), 0, "Expected `int` >= 1"),
        (("spanned_by",), "elsewhere", "found path 'elsewhere', expected candidates of C1 → C2"),
        (("x",), [0.0, 0.0, 1.0], "x: found numbers that do not rise"),
        (("x",), [0.0], "Expected `array` of length >= 2"),
        (("y",), [0.0, 1.0, 2.0], "loss: found another shape, expected [3, 3] as the axes"),
        (("y",), list(range(65)), "Expected `array` of length <= 64"),
        (("loss", 0), [0.1, 0.2], "loss: found another shape, expected [2, 3] as the axes"),
        (("loss", 0, 0), -0.1, "Expected `float` >= 0.0"),
        (("loss", 0, 0), "much", "Expected `float`, got `str`"),
        (("correct", 0, 0), 51, "correct: found 51 right answers, expected at most one for each sample"),
        (("paths",), [], "Expected `array` of length >= 1"),
        (("paths", 0, "name"), "C9", "found path 'C9', expected candidates of C1 → C2"),
        (("paths", 0, "points", 1, "position"), 0, "path 'ordered': found positions [0, 0, "),
        (("paths", 0, "points", 0, "position"), 1, "expected them to rise from 0"),
        (("paths", 0, "points", 2, "position"), 99, "found its end at chunk 99, expected "),
        (
            ("paths", 0, "points", 0, "correct"),
            51,
            "correct: found 51 right answers, expected at most one for each sample",
        ),
        (("paths", 0, "points", 0, "away"), -1.0, "Expected `float` >= 0.0"),
        (("paths", 0, "colour"), "red", "Object contains unknown field `colour`"),
    ],
)
def test_a_landscape_that_does_not_fit_is_refused(plan, steps, to, words):
    rewrite(plan, *steps, to=to)
    refused(plan, f"plan/{LANDSCAPE}", words)


def test_a_path_drawn_twice_is_refused(plan):
    (path,) = json.loads((plan / LANDSCAPE).read_bytes())["paths"]
    rewrite(plan, "paths", to=[path, path])
    refused(plan, f"plan/{LANDSCAPE}: found a path twice, expected each once")
    rewrite(plan, "paths", to=[path] * (MOST_PATHS + 1))
    refused(plan, f"Expected `array` of length <= {MOST_PATHS}")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b"[" * 200_000, b'{"samples": NaN}'])
def test_what_is_no_landscape_is_refused(plan, raw):
    replace(plan, LANDSCAPE, raw)
    refused(plan, f"plan/{LANDSCAPE}")


def test_numbers_beyond_floats_are_refused(plan):
    raw = (plan / LANDSCAPE).read_text().replace('"away":0.25', '"away":1e999')
    replace(plan, LANDSCAPE, raw.encode())
    refused(plan, f"plan/{LANDSCAPE}")


def test_a_large_landscape_is_refused_before_it_is_parsed(plan):
    replace(plan, LANDSCAPE, b" " * (MAX_LANDSCAPE_BYTES + 1))
    refused(plan, f"found {MAX_LANDSCAPE_BYTES + 1} bytes, expected at most {MAX_LANDSCAPE_BYTES}")


def test_a_landscape_that_no_transition_names_is_refused(plan):
    change(plan, "transitions", 0, "landscape", drop=True)
    refused(plan, f"files: found '{LANDSCAPE}' listed and not used")


def test_a_landscape_that_is_named_and_not_there_is_refused(plan):
    change(plan, "transitions", 1, "landscape", to="landscapes/C2-C3.json")
    refused(plan, "files: found 'landscapes/C2-C3.json' used and not listed")


def test_a_bundle_without_one_is_read(plan):
    change(plan, "transitions", 0, "landscape", drop=True)
    change(plan, "files", LANDSCAPE, drop=True)
    (plan / LANDSCAPE).unlink()
    rehash(plan)
    assert "landscape" not in manifest(plan)["transitions"][0]
    assert bundles.read(plan).transitions[0].landscape is None


def test_verify_asks_in_the_states_that_are_drawn(plan):
    device = profile()
    drawn = [check for check in verify(bundles.read(plan), device) if "drawn" in check.name]
    assert len(drawn) == 3
    assert all(check.ok for check in drawn)
    rewrite(plan, "paths", 0, "points", 1, "correct", to=3)
    (wrong,) = [check for check in verify(bundles.read(plan), device) if not check.ok]
    assert wrong.name.startswith("C1 → C2: drawn at chunk ")
    assert "evidence says 3" in wrong.detail


def test_a_writer_refuses_what_a_reader_would(tmp_path):
    data, files = content()
    with pytest.raises(BundleError, match="missing required field"):
        bundles.write(tmp_path / "plan", data, files | {LANDSCAPE: b"{}"}, replace=False)
    assert not (tmp_path / "plan").exists()

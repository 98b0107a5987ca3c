"""How a certificate is kept, printed and put into words."""

from __future__ import annotations

import msgspec
import pytest

from runtime.cli.commands import _proved
from runtime.errors import BundleError
from runtime.plan.bundle import read
from runtime.plan.manifest import CertificateEntry, decode, encode
from runtime.reporting.findings import at_least, proved
from runtime.reporting.inspection import summary
from runtime.reporting.report import _render
from tests.runtime.bundles import write_bundle
from tests.runtime.simulations import MOVES, bundle, everything

GOOD = CertificateEntry(
    samples=10_000, stages=(0, 100), ends_right=9818, proved_whole=9764, proved_torn=9731, bound_whole=0.9737,
    bound_torn=0.9702, survived_whole=9776, survived_torn=9744,
)  # fmt: skip


def words(certificate: CertificateEntry | None) -> str:
    return proved(msgspec.structs.replace(MOVES[0], certificate=certificate)).replace("\N{NO-BREAK SPACE}", " ")


def test_words_say_what_is_proved_and_what_is_not():
    said = words(GOOD)
    assert "97.31 % are proved right in every state" in said
    assert "its 2 stages" in said
    assert "whole rows only: 97.64 %" in said
    assert "at least 97.02 % of all inputs" in said
    assert "Not certified: a search by gradients found no wrong state for 97.44 %" in said


def test_words_admit_what_is_missing():
    nothing = msgspec.structs.replace(GOOD, proved_whole=0, proved_torn=0, bound_whole=0.0, bound_torn=0.0)
    assert "The bound is empty" in words(nothing)
    assert "at least" not in words(nothing)
    unsearched = msgspec.structs.replace(GOOD, survived_whole=None, survived_torn=None)
    assert "Not certified" not in words(unsearched)
    assert words(None) == "Nothing was proved beyond the states that were measured."
    refused = msgspec.structs.replace(nothing, why_not="softmax")
    assert "measured: softmax." in words(refused)
    assert "Not certified: of 10,000 held-out samples, 98.18 % are right between the 2 stages" in words(refused)
    assert "for 97.44 % a search by gradients found no wrong state" in words(refused)
    unsearched = msgspec.structs.replace(refused, survived_whole=None, survived_torn=None)
    assert words(unsearched).endswith("measured: softmax.")


def test_the_page_shows_it():
    plan = bundle()
    plan.manifest = msgspec.structs.replace(  # type: ignore[misc]
        plan.manifest, transitions=(msgspec.structs.replace(MOVES[0], certificate=GOOD), MOVES[1])
    )
    looks = {f"{width}_{tone}": b"" for width in ("wide", "narrow") for tone in ("light", "dark")}
    page = _render(plan, everything(), dict.fromkeys(("modes", "tour", "states", "strategies"), looks))
    assert "97.31\N{NO-BREAK SPACE}% are proved right" in page
    assert "Nothing was proved beyond the states that were measured." in page


def test_inspection_has_it_and_a_manifest_keeps_it(tmp_path):
    write_bundle(tmp_path / "plan")
    plan = read(tmp_path / "plan")
    assert {move["certificate"] for move in summary(plan)["transitions"]} == {None}
    first, *others = plan.manifest.transitions
    with_it = msgspec.structs.replace(
        plan.manifest, transitions=(msgspec.structs.replace(first, certificate=GOOD), *others)
    )
    again = decode(encode(with_it), "plan.json")
    assert again == with_it
    shown = msgspec.to_builtins(GOOD)
    assert _proved(shown) == "97.31\N{NO-BREAK SPACE}% (≥ 97.02\N{NO-BREAK SPACE}%)"
    nothing = shown | {"proved_torn": 0, "why_not": "softmax"}
    assert _proved(nothing) == "nothing; not certified: 97.44\N{NO-BREAK SPACE}%"
    assert _proved(None) == _proved(nothing | {"survived_torn": None}) == "-"


@pytest.mark.parametrize(("field", "value"), [("bound_torn", 1.5), ("proved_torn", -1), ("survived_torn", 0.5)])
def test_a_certificate_that_cannot_be_is_refused(tmp_path, field, value):
    write_bundle(tmp_path / "plan")
    raw = msgspec.json.decode((tmp_path / "plan" / "plan.json").read_bytes())
    raw["transitions"][0]["certificate"] = msgspec.to_builtins(GOOD) | {field: value}
    with pytest.raises(BundleError, match=rf"certificate\.{field}"):
        decode(msgspec.json.encode(raw), "plan.json")


@pytest.mark.parametrize(
    ("fraction", "places", "said"),
    [(0.97249, 2, "97.24"), (0.973, 1, "97.3"), (0.916665, 2, "91.66"), (1.0, 2, "100.00"), (0.0, 0, "0")],
)
def test_what_is_promised_is_never_rounded_up(fraction, places, said):
    assert at_least(fraction, places) == f"{said}\N{NO-BREAK SPACE}%"

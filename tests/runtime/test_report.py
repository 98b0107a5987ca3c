"""The report: what it shows, that it needs nothing beside itself, and that it is written whole or not at all."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from device_profiles.errors import GeoshiftError
from runtime.reporting.report import STRATEGIES as SENTENCES
from runtime.reporting.report import ReportUnavailable, check_available, write_report
from runtime.simulation.simulator import PLANNED, STRATEGIES
from tests.runtime.simulations import COST, HOSTILE, MOVES, SAMPLES, bundle, everything, simulation

pytestmark = pytest.mark.xdist_group("report")  # what they share takes long: made once, in one process

VOID = {"meta", "img", "source", "br"}
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("out") / "deep" / "report", bundle(landscapes=True), everything())


class Page(HTMLParser):
    """Collects what the tests ask about, and checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_page_needs_nothing_beside_itself(written):
    page = Page(written.read_text())
    sources = [found.get(key) for _, found in page.tags for key in ("src", "srcset", "href") if key in found]
    assert len(sources) == 4 * 6
    for source in sources:
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data, validate=True).startswith(PNG)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}
    assert not re.search(r"url\(|@import|https?:", written.read_text())


def test_page_is_accessible(written):
    page = Page(written.read_text())
    assert all(len(found["alt"]) > 20 for tag, found in page.tags if tag == "img")
    assert ("html", {"lang": "en"}) in page.tags
    assert any(found.get("name") == "viewport" for _, found in page.tags)


def test_page_says_what_a_walk_costs_and_which_trade_off_was_named(written):
    words = " ".join(" ".join(Page(written.read_text()).words).split())
    assert "What a walk costs Predicted for raspberry-pi-5 from its profile" in words
    assert words.count("41,216 21 250 ms 4.2 mJ* 1 2e-05 (100,000 walks) 20,608 bytes, 125 ms*") == 4
    assert "the one of the fewest bytes, which is what the profile asks for ( trade_off: bytes )" in words
    assert "What these figures rest on (* marks what rests on an assumed one): " in words
    assert "energy.joules_per_byte_written assumed: a test" in words


def test_candidates_are_drawn_by_the_cost_that_the_profile_names():
    from runtime.reporting import path_plots
    from runtime.reporting.canvas import Look

    drawn = set()
    costly = [
        msgspec.structs.replace(one, cost=msgspec.structs.replace(COST, seconds=0.5 * number, wear=1e-6 * (number + 1)))
        for number, one in enumerate(MOVES[0].candidates)
    ]
    move = msgspec.structs.replace(MOVES[0], candidates=tuple(costly))
    for trade_off in ("bytes", "seconds", "energy", "wear", "accuracy"):
        picture = path_plots.candidates(Look(narrow=False, dark=False), [move], trade_off)
        assert picture.startswith(PNG)
        drawn.add(picture)
    assert len(drawn) == 4  # accuracy is drawn over bytes


def test_page_names_modes_strategies_and_words(written):
    words = " ".join(" ".join(Page(written.read_text()).words).split())
    plan = ("C1 → C2", "8 of 16 in conv1", HOSTILE, "DigitsCNN <b>", "1 of 2 paths that were walked are feasible")
    for expected in (
        *STRATEGIES,
        *(sentence for name, sentence in SENTENCES.items() if name != PLANNED),
        *plan,
        "Torn state",
        "Functional length",
        "400 selection samples",
    ):
        assert expected in words


def test_a_plan_without_landscapes_has_a_report_without_that_section():
    from runtime.reporting import report

    looks = dict.fromkeys(("wide_light", "wide_dark", "narrow_light", "narrow_dark"), PNG)
    page = report._render(bundle(), everything(), dict.fromkeys(("modes", "tour", "states", "strategies"), looks))
    assert "Paths over the loss" not in page
    assert "What was chosen, and why" in page


def test_candidates_are_marked_on_the_front_and_where_they_lie_off_the_plane(written):
    text = " ".join(written.read_text().split())
    assert text.count("<td>◆◇</td>") == 2  # the one feasible path of each transition, on both fronts
    assert "Paths over the loss" in text
    assert '480 of 500</td> <td class="number">0.25</td> <td class="number">2.00</td>' in text


def test_what_the_plan_says_is_escaped(written):
    assert "<script" not in written.read_text()
    assert "<b>" not in written.read_text()


def test_pictures_lie_beside_the_page_and_nothing_else(written):
    files = {path.name: path for path in written.parent.iterdir()}
    pictures = {"tour.png", "states.png", "strategies.png", "modes.png", "candidates.png", "landscapes.png"}
    assert set(files) == {"report.html", *pictures}
    assert all(path.read_bytes().startswith(PNG) for name, path in files.items() if name.endswith(".png"))
    if os.name == "posix":
        assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o644}


def test_every_strategy_has_a_sentence():
    assert set(SENTENCES) == {PLANNED, *STRATEGIES}


def test_a_failed_write_leaves_the_earlier_report(tmp_path, monkeypatch):
    from runtime.reporting import report

    target = tmp_path / "report.html"
    report.write_whole(target, b"earlier")

    def fail(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        report.write_whole(target, b"later")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert target.read_bytes() == b"earlier"


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_without_the_extra_nothing_is_written(missing, tmp_path, monkeypatch):
    drawing = {"runtime.reporting.plots", "runtime.reporting.path_plots", "runtime.reporting.canvas"}
    for name in [name for name in sys.modules if name in drawing or name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    output = tmp_path / "out"
    with pytest.raises(ReportUnavailable, match=rf"{missing}.*pip install 'geoshift\[report\]'"):
        write_report(output, bundle(), everything())
    assert not output.exists()
    assert issubclass(ReportUnavailable, GeoshiftError)


def test_importing_the_report_loads_neither_matplotlib_nor_jinja2():
    code = "import sys, runtime.reporting.report; print({'matplotlib', 'jinja2'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert found.stdout.strip() == "set()"


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "out").write_text("precious")
    with pytest.raises(ReportUnavailable, match="found a file, expected a directory"):
        check_available(tmp_path / "out")


def test_a_simulation_without_strategies_is_refused(tmp_path):
    empty = msgspec.structs.replace(simulation(), left_out={"geodesic": "no waypoints"})
    with pytest.raises(ReportUnavailable, match="geodesic: no waypoints"):
        write_report(tmp_path / "out", bundle(), empty)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dark", [False, True])
def test_narrow_pictures_are_drawn_for_a_phone(dark):
    from runtime.reporting import canvas, plots

    raw = plots.modes(canvas.Look(narrow=True, dark=dark), bundle().manifest.modes, SAMPLES)
    width = int.from_bytes(raw[16:20], "big")
    assert width == round(canvas.NARROW_IN * 216)

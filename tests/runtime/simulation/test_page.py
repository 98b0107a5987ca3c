"""The page stands alone, says which strategy and why, marks what is assumed, and escapes what strangers wrote."""

import csv
import html
import io
import json
import re

import pytest

from runtime.reporting.report import ReportUnavailable
from runtime.simulation import simulate_trace
from runtime.simulation.page import CSV, JSON, as_csv, write_page
from tests.runtime.bundles import profile
from tests.runtime.simulation.cases import LATENCY, heated

pytestmark = pytest.mark.xdist_group("trace page")  # what they share takes long: made once, in one process

HOSTILE = '<script>alert(1)</script> & "quotes"'


@pytest.fixture(scope="module")
def page(plan, stage, tmp_path_factory):
    one = heated((0.0, 60.0), (10.0, 85.0), (30.0, 65.0), description=HOSTILE)
    result = simulate_trace(
        plan, profile(), one, ("planned", "naive", "flip", "reload", "geodesic"), latency_s=LATENCY, stage=stage,
        bytes_per_increment=100, increments_per_second=2.0,
    )  # fmt: skip
    return write_page(tmp_path_factory.mktemp("page") / "out", plan, one, result), result


def test_the_page_needs_nothing_beside_itself(page):
    path, _ = page
    text = path.read_text()
    assert not re.findall(r'(?:src|href|srcset)="(?!data:)', text)
    assert text.count("data:image/png;base64,") == 12
    assert {file.suffix for file in path.parent.iterdir()} == {".html", ".json", ".csv", ".png"}


def test_it_names_the_strategy_and_why_and_what_is_assumed(page):
    path, result = page
    text = html.unescape(path.read_text())
    assert f"<strong>{result.choice.strategy}</strong> is the strategy to use here" in text
    assert result.choice.why in text
    assert "<strong>assumed</strong>" in text
    assert "writes.bytes_per_increment" in text
    assert result.left_out["geodesic"] in text


def test_what_a_trace_says_is_escaped(page):
    assert HOSTILE not in page[0].read_text()
    assert html.escape(HOSTILE, quote=False).split("&")[0] in page[0].read_text()


def test_data_are_the_result_s(page):
    path, result = page
    data = json.loads((path.parent / JSON).read_text())
    assert data["strategies"]["naive"]["requests"] == result.strategies["naive"].requests
    rows = list(csv.DictReader(io.StringIO((path.parent / CSV).read_text())))
    assert as_csv(result) == (path.parent / CSV).read_text()
    own = [row for row in rows if row["strategy"] == "flip"]
    assert sum(int(row["answered"]) for row in own) == result.strategies["flip"].answered


def test_nothing_is_written_if_nothing_was_played(plan, stage, tmp_path):
    one = heated((0.0, 60.0))
    result = simulate_trace(plan, profile(), one, ("geodesic",), latency_s=LATENCY, stage=stage)
    with pytest.raises(ReportUnavailable, match="no strategy"):
        write_page(tmp_path / "out", plan, one, result)
    assert not (tmp_path / "out").exists()

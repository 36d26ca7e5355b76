"""Networks that were trained elsewhere, beside those of a run."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gate2static.errors import Gate2StaticError
from gate2static.report.content import Content
from gate2static.report.foreign_rows import ForeignRow, with_foreign_rows
from gate2static.report.page import all_pictures, render_page

METRICS = {"left": 0.76, "right": 0.94, "mask": 0.9}


def file_of(folder: Path, **values: Any) -> Path:
    path = folder / "mtan.json"
    path.write_text(json.dumps({"name": "mtan", "metrics": METRICS, **values}))
    return path


def test_its_gain_is_that_over_separate_networks(content: Content, tmp_path: Path) -> None:
    last = content.columns[-1]
    columns = (*content.columns[:-1], replace(last, higher_is_better=False))
    metrics = {**METRICS, "mask": 0.81}
    path = file_of(tmp_path, metrics=metrics, macs=50_000_000, latency_ms=2.0)
    row = with_foreign_rows(replace(content, columns=columns), [path]).rows[-1]
    assert (row.name, row.macs, row.latency_ms, row.parameters) == ("mtan", 50_000_000, 2.0, None)
    assert row.delta_mtl_percent == pytest.approx((-20 + 0 + 10) / 3)
    assert row.latency_ratios == {}, "it was not timed in the rounds of the others"


def test_the_page_shows_it_and_says_where_it_is_from(content: Content, tmp_path: Path) -> None:
    both = with_foreign_rows(content, [file_of(tmp_path, macs=50_000_000)])
    page = render_page(both, all_pictures(both))
    assert "<dt>trained elsewhere</dt><dd>mtan" in page
    assert "-6.67" in page
    assert both.takeaway == content.takeaway


def test_a_report_without_one_is_as_it_was(content: Content) -> None:
    assert with_foreign_rows(content, []) == content


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"metrics": {"left": 0.9}}, "metrics are of left; the run has left, mask, right. Give one number for each"),
        ({"name": "shared"}, "the report has a row shared already"),
        ({"name": "../x"}, "name: '../x' is no name of a folder"),
        ({"macs": -1}, "macs: Input should be greater than or equal to 0"),
        ({"latency_ms": 0}, "latency_ms: Input should be greater than 0"),
        ({"speed": 1}, "speed: Extra inputs are not permitted; docs/sweeps.md says what it holds"),
    ],
)
def test_a_file_that_does_not_fit_is_named(
    values: dict[str, Any], says: str, content: Content, tmp_path: Path
) -> None:
    with pytest.raises(Gate2StaticError, match=re.escape(says)) as raised:
        with_foreign_rows(content, [file_of(tmp_path, **values)])
    assert "mtan.json" in str(raised.value)


def test_the_documented_file_is_one() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", Path("docs/sweeps.md").read_text(encoding="utf-8"), re.DOTALL)
    assert ForeignRow.model_validate_json(block).name == "mtan"

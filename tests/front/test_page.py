"""The front's page: it opens offline, holds no foreign markup, and everything on it can be reached."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gate2static.front.page import render_front
from gate2static.front.pareto import Front, read_front


@pytest.fixture
def front(searched: Path) -> Front:
    return read_front([searched])


class _Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def named(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.found if t == tag and all(a.get(k) == v for k, v in attributes.items())]


def _script(page: str, name: str) -> list[Any]:
    return json.loads(re.findall(rf"const {name} = (.*);\n", page)[0])


def test_the_page_loads_nothing(front: Front) -> None:
    page = render_front(front)
    assert not {"src", "href", "srcset"} & {key for _, attributes in _Elements(page).found for key in attributes}
    assert not re.search(r"http|@import|url\(|fetch\(", page)


def test_every_point_is_in_the_chart_with_its_bars_and_can_be_read_aloud(front: Front) -> None:
    elements = _Elements(render_front(front))
    marks = [a for tag, a in elements.found if tag == "g"]
    assert len(elements.named("svg")) == 1
    assert len(marks) == len(front.points)
    assert all(a["role"] == "button" and a["aria-label"] for a in marks)
    assert sum("front" in (a["class"] or "").split() for a in marks) == 2
    width, height = 400, 300
    assert all(0 < float(a["cx"] or 0) < width and 0 < float(a["cy"] or 0) < height for a in elements.named("circle"))
    # Two bars per point with two seeds; both of `beaten` and one of `small` have no length.
    lines = [a for a in elements.named("line") if "class" not in a]
    assert len(lines) == 2 * len(front.points)


def test_a_point_says_its_recipe_its_metrics_and_the_commands_of_every_seed(front: Front, searched: Path) -> None:
    page = render_front(front)
    points = _script(page, "POINTS")
    assert points[0]["words"] == "sparsity_weight=0, gating.group_size=layer"
    assert ["seg: mIoU ↑", "0.5150 ± 0.0071"] in points[0]["rows"]
    folder = searched / "seed-0/gated-good"
    assert points[0]["networks"][0]["command"] == (
        f"gate2static prune {folder}/ckpt.pt -o {folder}/static && gate2static export {folder}/static"
    )
    assert [network["seed"] for network in points[0]["networks"]] == [0, 1]


def test_a_point_shows_the_gates_of_every_unit_as_the_mean_of_its_seeds(front: Front) -> None:
    first, *others = front.points
    assert _script(render_front(front), "POINTS")[0]["gates"] is None  # as older versions wrote it
    units = [("conv1", 0.25), ("conv2", 1.0)]
    networks = []
    for network in first.networks:
        gates = {unit: {"seg": share * network.record.seed, "depth": share} for unit, share in units}
        networks.append(replace(network, record=network.record.model_copy(update={"gates": gates})))
    point = replace(first, networks=tuple(networks))
    page = render_front(replace(front, points=(point, *others, point)))
    points = _script(page, "POINTS")
    assert points[0]["gates"] == {"units": 0, "shares": {"seg": [12, 50], "depth": [25, 100]}}
    assert points[-1]["gates"]["units"] == 0
    assert _script(page, "UNIT_LISTS") == [["conv1", "conv2"]]


def test_trials_that_were_stopped_are_listed_and_no_points(front: Front) -> None:
    page = render_front(replace(front, stopped={"sparsity_weight=<7>": 2}))
    assert "1 stopped early" in page
    assert '<td>sparsity_weight=&lt;7&gt;</td><td class="number">2</td>' in page
    assert len(_script(page, "POINTS")) == len(front.points)
    assert "topped early" not in render_front(front)


def test_values_from_files_cannot_put_markup_on_the_page(front: Front) -> None:
    evil = "</script><script>alert(1)</script>"
    point = replace(front.points[0], values={evil: evil})
    page = render_front(replace(front, title=evil, points=(point, *front.points[1:])))
    assert page.count("<script") == 1
    assert page.count("</script>") == 1


def test_a_folder_with_odd_characters_is_quoted_in_commands(front: Front) -> None:
    first = front.points[0]
    networks = tuple(replace(network, folder=Path("/runs/my run; rm x")) for network in first.networks)
    page = render_front(replace(front, points=(replace(first, networks=networks), *front.points[1:])))
    assert "gate2static prune '/runs/my run; rm x/ckpt.pt' -o '/runs/my run; rm x/static'" in page


def test_one_point_alone_makes_a_page(front: Front) -> None:
    alone = replace(front, points=front.points[:1], baseline={})
    assert "NaN" not in render_front(alone)


@pytest.mark.parametrize(
    ("objectives", "charts"), [(("delta_mtl",), 1), (("macs",), 1), (("delta_mtl", "worst_task", "macs"), 2)]
)
def test_every_gain_is_drawn_against_every_cost(objectives, charts: int, front: Front) -> None:
    assert render_front(replace(front, objectives=objectives)).count("<svg") == charts

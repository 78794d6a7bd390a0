"""Chart specifications: valid for Plotly, readable in light and dark, and deaf to markup."""

import json
import re
from dataclasses import replace
from importlib.resources import files

import plotly.graph_objects as go
import pytest

from tunewise.report import charts
from tunewise.report.charts import LadderPoint


def point(name: str, seconds: float, score: float, **more: object) -> LadderPoint:
    made = LadderPoint(
        name=name,
        seconds=seconds,
        score=score,
        low=score - 1,
        high=score + 1,
        chosen=False,
        provisional=False,
        hover=name,
    )
    return replace(made, **more)  # type: ignore[arg-type]


POINTS = [
    point("majority", 0.01, 12),
    point("probe", 12, 91.2, chosen=True),
    point("lora", 400, 91.6),
    point("full", 410, 91),
]


def ladder(points: list[LadderPoint], floor: float | None = None) -> charts.Spec:
    return charts.ladder(points, unit=" %", band=(90.6, 91.6), best=91.6, floor=floor)


def figure(spec: charts.Spec) -> go.Figure:
    """What Plotly's own validators make of it; they raise on an unknown key or value."""
    return go.Figure(data=spec["data"], layout=spec["layout"])


def test_every_chart_is_valid_for_plotly() -> None:
    row = {"train_steps": [1, 2], "train_losses": [1.0, None], "dev_steps": [2], "dev_losses": [0.5]}
    specs = [ladder(POINTS), charts.curves(row, [row]), charts.heat_map(["a", "b"], [[3, 1], [0, 0]], cell_text=True)]
    assert all(len(figure(spec).data) == len(spec["data"]) > 0 for spec in specs)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    """As WCAG 2.1 defines it."""
    bright, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def papers(name: str = "--paper") -> list[str]:
    return re.findall(rf"{name}: (#\w{{6}})", files("tunewise.report").joinpath("page.css").read_text())


@pytest.mark.parametrize("colour", [charts.ACCENT, charts.NEUTRAL, charts.WARM])
def test_marks_stand_out_from_both_papers(colour: str) -> None:
    assert len(papers()) == 2
    assert min(contrast(colour, paper) for paper in papers()) >= 3.0


@pytest.mark.parametrize("ink", ["--ink", "--quiet", "--accent-ink", "--warn"])
def test_text_stands_out_from_both_papers(ink: str) -> None:
    assert min(contrast(a, b) for a, b in zip(papers(ink), papers(), strict=True)) >= 4.5


def test_cell_text_is_darker_than_the_darkest_cell_in_light_and_lighter_in_dark() -> None:
    for ink, paper in zip(papers("--ink"), papers(), strict=True):
        mixed = [
            round(0.72 * a + 0.28 * int(paper[i : i + 2], 16)) for a, i in zip((46, 123, 207), (1, 3, 5), strict=True)
        ]
        assert contrast(ink, "#" + "".join(f"{c:02x}" for c in mixed)) >= 4.5


def test_labels_of_close_points_do_not_cover_each_other() -> None:
    sides = [trace["textposition"] for trace in ladder(POINTS)["data"]]
    close = [point("one", 10, 91.0), point("two", 10.2, 91.02), point("three", 10.4, 91.04)]
    assert len({trace["textposition"] for trace in ladder(close)["data"]}) == 3
    assert sides[1] == "middle right"


def test_rungs_far_off_stand_at_the_edge_with_their_score() -> None:
    data, layout = ladder(POINTS)["data"], ladder(POINTS)["layout"]
    assert data[0]["text"] == ["majority 12.0 %"]
    assert data[0]["marker"]["symbol"] == "triangle-down"
    assert layout["yaxis"]["range"][0] < data[0]["y"][0] < 90
    assert data[1]["y"] == [91.2]


def test_one_rung_alone_can_be_drawn() -> None:
    assert len(figure(ladder([point("majority", 0.01, 91.6)], floor=91.6)).data) > 0


def test_a_label_is_never_markup_for_plotly() -> None:
    evil = '<a href="https://x.example">click</a>'
    spec = json.dumps([ladder([point(evil, 1, 91)]), charts.heat_map([evil, "b"], [[1, 0], [0, 1]], cell_text=True)])
    assert "<a" not in spec
    assert "&lt;a" in spec


def test_labels_that_look_like_dates_or_numbers_stay_labels() -> None:
    axis = charts.heat_map(["2020-01-01", "7"], [[1, 0], [0, 1]], cell_text=True)["layout"]["yaxis"]
    assert (axis["tickvals"], axis["ticktext"]) == ([0, 1], ["2020-01-01", "7"])


def test_a_target_without_rows_has_no_share() -> None:
    assert charts.heat_map(["a", "b"], [[3, 1], [0, 0]], cell_text=True)["data"][0]["z"] == [[0.75, 0.25], [None, None]]

"""The web page: whole by itself, and, where there is a browser, opened in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.benchmark.simulated_runs import SPEEDS, frechet, write_run
from bench.report import Report, write
from bench.reporting.pages.html import data_url
from tests.helpers.browser import opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of three methods on two backbones, and one failed run."""
    root = tmp_path_factory.mktemp("results") / "simulated"
    for backbone in ("sit-ti/2", "dit-ti/2"):
        for method, speed in SPEEDS.items():
            for seed in range(2):
                write_run(root, method, backbone, seed, speed=speed)
    write_run(root, "</script><b>bold</b>", state="failed")  # a name that is not HTML
    return write(Report(str(root)))


@pytest.fixture
def page(report: Path) -> Iterator[Any]:
    """The page in a browser; any message, error or request but for the file itself fails."""
    with opened(report.as_uri(), 1366, 768, own=(report.as_uri(), "data:")) as page:
        yield page


def column(page: Any, table: str, index: int) -> list[str]:
    cells = page.locator(f"#{table} tbody tr:visible td:nth-child({index})").all()
    return [cell.get_attribute("data-sort") for cell in cells]


def wait_for(page: Any, condition: Callable[[], bool]) -> None:
    """Return once the page is so; the test's time limit ends the wait."""
    while not condition():
        page.wait_for_timeout(20)


def test_page_is_one_file_without_links_to_the_network(report: Path) -> None:
    text = report.read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text) and "@import" not in text
    assert report.stat().st_size < 1_500_000


def test_data_is_the_means_of_the_runs(report: Path) -> None:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', report.read_text())
    assert found is not None
    data = json.loads(found[1])
    for curve in data["curves"]:
        if curve["method"] in SPEEDS:
            steps, means, _, _ = curve["points"]["fid[digits-cnn]"]["step"]
            assert means == pytest.approx(
                [frechet(step, SPEEDS[curve["method"]]) for step in steps], rel=0.06
            )
    speedups, by_target = (chart for chart in data["charts"] if chart["title"].startswith("Speedup"))
    for series in speedups["series"]:
        assert series["points"][0]["y"] == pytest.approx(SPEEDS[series["method"]], rel=0.1)
    for series in by_target["series"]:
        assert all(
            point["y"] == pytest.approx(SPEEDS[series["method"]], rel=0.2) for point in series["points"]
        )


def test_names_are_escaped(report: Path) -> None:
    text = report.read_text()
    assert "<b>bold" not in text and "&lt;b&gt;bold" in text


def test_photographs_are_made_smaller_and_small_images_are_kept() -> None:
    rng = np.random.default_rng(0)
    photographs = rng.integers(0, 255, (258, 2582, 3), dtype=np.uint8)
    assert data_url(photographs).startswith("data:image/jpeg") and len(data_url(photographs)) < 300_000
    assert data_url(photographs[:52, :502]).startswith("data:image/png")


def test_tables_sort_by_value_and_back(page: Any) -> None:
    def values() -> list[float]:
        return [float(value) for value in column(page, "main", 5) if value]

    def methods() -> list[str]:
        return column(page, "main", 2)

    ascending = sorted(values())
    assert len(ascending) == 6 and len(set(methods())) == 4
    page.click("#main th:has-text('FID')")
    wait_for(page, lambda: values() == ascending)
    page.click("#main th:has-text('FID')")
    wait_for(page, lambda: values() == ascending[::-1])
    page.focus("#main th:has-text('Method')")
    page.keyboard.press("Enter")
    wait_for(page, lambda: methods() == sorted(methods(), key=str.lower))


def test_filter_hides_a_method_everywhere_and_brings_it_back(page: Any) -> None:
    def visible_lines() -> set[str]:
        return set(
            page.evaluate(
                "charts.flatMap(chart => chart.data.datasets.filter((d, i) => chart.isDatasetVisible(i))"
                ".map(d => d.series.method))"
            )
        )

    assert "repa" in visible_lines() and page.locator("[data-method=repa]:visible").count() > 10
    page.click(".chips button:has-text('repa')")
    assert "repa" not in visible_lines() and page.locator("[data-method=repa]:visible").count() == 0
    assert {"baseline", "vrpo"} <= visible_lines()
    page.click(".chips button:has-text('dit-ti/2')")
    assert (
        set(column(page, "main", 1)) == {"sit-ti/2"} and page.locator("#curves .chart:visible").count() == 1
    )
    for name in ("repa", "dit-ti/2"):
        page.click(f".chips button:has-text('{name}')")
    assert "repa" in visible_lines() and set(column(page, "main", 1)) == {"sit-ti/2", "dit-ti/2"}


def test_every_plot_shows_its_series(page: Any) -> None:
    drawn = page.evaluate(
        """charts.map((chart) => {
            const { width, height } = chart.canvas;
            const image = chart.ctx.getImageData(0, 0, width, height);
            const pixels = new Uint32Array(image.data.buffer);
            const colour = chart.data.datasets[0].borderColor;
            const [r, g, b] = colour.match(/\\w\\w/g).map((hex) => parseInt(hex, 16));
            return pixels.filter((pixel) => pixel === ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0).length;
        })"""
    )
    assert len(drawn) > 5 and min(drawn) > 20


def test_hovering_shows_the_value_of_the_point_under_the_mouse(page: Any) -> None:
    canvas = page.locator("#curves canvas").first
    canvas.scroll_into_view_if_needed()
    chart = "Chart.getChart(document.querySelector('#curves canvas'))"
    place = page.evaluate(f"(({{x, y}}) => ({{x, y}}))({chart}.getDatasetMeta(0).data[4])")
    canvas.hover(position=place)
    page.wait_for_function(f"{chart}.tooltip?.body?.length")
    shown = page.evaluate(f"{chart}.tooltip.body.map(b => b.lines[0])")
    value = float(shown[0].partition(": ")[2].partition(" ")[0])
    assert shown[0].startswith("baseline") and value == pytest.approx(frechet(500, 1.0), rel=0.06)


def test_menus_choose_metric_and_cost(page: Any) -> None:
    scale = "curves[0].drawn.options.scales.y.type"
    assert page.evaluate(scale) == "logarithmic"
    page.select_option("#metric", "recall[digits-cnn]")
    page.select_option("#cost", "seconds")
    options = page.evaluate(
        "(({x, y}) => [x.title.text, y.title.text, y.type])(curves[0].drawn.options.scales)"
    )
    assert options == ["training time (s)", "Rec. digits-cnn ↑", "linear"]


@pytest.mark.parametrize("width", [1366, 390])
def test_page_never_scrolls_sideways(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width

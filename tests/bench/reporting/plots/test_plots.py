"""Figures: what they show is what the runs say, and equal results give equal files."""

from __future__ import annotations

import json
from itertools import pairwise, product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision.utils import make_grid

from bench.benchmark.simulated_runs import SPEEDS, STEP_SECONDS, frechet, sample_grid, write_run
from bench.reporting.comparison import Comparison, compare
from bench.reporting.plots import bars, curves, log_traces, relations
from bench.reporting.plots.contents import MOST_CURVES, Contents
from bench.reporting.plots.figures import drawings
from bench.reporting.plots.style import looks, on_lines, save
from bench.reporting.results import load, probe_maps, training_logs
from bench.reporting.tables.table import slug


@pytest.fixture
def comparison(suite: Path) -> Comparison:
    return compare(load(suite), "baseline", None, 0.95, allow_mixed=False)


def test_every_drawing_gives_a_vector_and_a_pixel_file(comparison: Comparison, tmp_path: Path) -> None:
    names = []
    for drawing in drawings(comparison):
        figure = drawing.draw()
        assert drawing.title and drawing.text
        save(figure, *(tmp_path / f"{drawing.name}.{kind}" for kind in ("pdf", "png")))
        names.append(drawing.name)
        assert (tmp_path / f"{drawing.name}.pdf").read_bytes().startswith(b"%PDF")
        width = Image.open(tmp_path / f"{drawing.name}.png").width
        assert width in (round(3.3 * 150), round(6.9 * 150))  # one column or two
    assert len(set(names)) == len(names)
    assert {
        "convergence",
        "speedup",
        "pareto",
        "profiles",
        "samples-sit-tip2",
        "traces-sit-tip2",
        "metrics-dit-tip2",
    } <= set(names)


def test_equal_results_give_equal_files(comparison: Comparison, tmp_path: Path) -> None:
    for name in ("one", "two"):
        figure = curves.convergence(comparison, comparison.headline, ["sit-ti/2"], ["step"])
        save(figure, tmp_path / f"{name}.pdf", tmp_path / f"{name}.png")
    for suffix in (".pdf", ".png"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_convergence_shows_the_simulated_law(comparison: Comparison) -> None:
    figure = curves.convergence(comparison, comparison.headline, ["sit-ti/2"], ["step"])
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    for method, speed in SPEEDS.items():
        steps, values = lines[method].get_xdata(), lines[method].get_ydata()
        assert np.asarray(values) == pytest.approx([frechet(step, speed) for step in steps], rel=0.05)
    assert any("3.0× sooner" in text.get_text() for text in figure.axes[0].texts)


def test_speedup_by_target_of_a_power_law_is_the_same_at_every_target(comparison: Comparison) -> None:
    figure = curves.speedup_by_target(comparison, comparison.headline, ["sit-ti/2"], ["step", "seconds"])
    for panel, costs in zip(figure.axes, ({}, STEP_SECONDS), strict=True):
        lines = {line.get_label(): line for line in panel.lines}
        for method in ("repa", "vrpo"):
            expected = SPEEDS[method] * costs.get("baseline", 1) / costs.get(method, 1)
            assert len(lines[method].get_xdata()) >= 5
            assert np.asarray(lines[method].get_ydata()) == pytest.approx(expected, rel=0.15)


def test_pareto_shows_time_and_flops(comparison: Comparison) -> None:
    figure = relations.pareto(comparison, comparison.headline, comparison.methods)
    time, flops = ({line.get_label(): line.get_xdata() for line in panel.lines} for panel in figure.axes)
    assert time["vrpo"] == pytest.approx([1000 * STEP_SECONDS["vrpo"]])
    assert flops["vrpo"] == pytest.approx([1000 * 1e9])  # simulated steps cost 1e9 each


def test_speedup_bars_are_as_long_as_the_simulated_speedups(comparison: Comparison) -> None:
    methods = [entry for entry in comparison.entries if entry.method != "baseline"]
    figure = bars.speedup_bars(comparison, comparison.headline, methods, ["step"])
    lengths = [bar.get_width() for bar in figure.axes[0].patches if bar.get_width() > 0]
    assert lengths == pytest.approx([SPEEDS["repa"], SPEEDS["vrpo"]] * 2, rel=0.1)


def test_of_many_methods_the_reference_and_the_best_are_shown(
    comparison: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Curves and samples leave out repa, the points of Pareto are grey, and bars say who never catches up."""
    monkeypatch.setattr("bench.reporting.plots.contents.MOST_CURVES", 2)
    monkeypatch.setattr("bench.reporting.plots.contents.MOST_ROWS", 2)
    contents = Contents(comparison)
    assert contents.plain.methods == contents.sampled.methods == ["baseline", "vrpo"]
    assert {entry.method for entry in contents.compared} == {"repa", "vrpo"} and not contents.behind
    text = {drawing.name: drawing.text for drawing in drawings(comparison)}
    assert "Of 3 methods and variants: baseline and the 1 best" in text["convergence"]
    monkeypatch.setattr(relations, "pareto_front", lambda *_, **__: [])  # nobody has to be named
    figure = relations.pareto(comparison, comparison.headline, contents.plain.methods)
    labels = [line.get_label() for line in figure.axes[1].lines]
    assert {"baseline", "vrpo", "others"} <= set(labels) and "repa" not in labels
    monkeypatch.setattr(Contents, "_reaches", lambda self, entry: entry.method == "vrpo")
    contents = Contents(comparison)
    assert {entry.method for entry in contents.compared} == {"vrpo"} and contents.behind == ["repa"]


def test_dots_lie_at_the_paired_differences_from_the_reference(comparison: Comparison) -> None:
    figure = bars.difference_dots(comparison, comparison.headline, "sit-ti/2")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["vrpo", "repa"]  # the best first
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    key = comparison.headline.key
    finals = {entry.method: entry for entry in comparison.entries if entry.backbone == "sit-ti/2"}
    for name, dot in zip(names, dots, strict=True):
        pairs = finals[name].final[key] - finals["baseline"].final[key]
        assert float(dot.get_xdata()[0]) == pytest.approx(pairs.mean())


def test_a_method_looks_the_same_in_all_figures_and_no_two_look_alike() -> None:
    methods = ["baseline", *(f"method{index}" for index in range(18))]
    look = looks(methods, "baseline")
    assert len({(item["color"], item["marker"], item["linestyle"]) for item in look.values()}) == len(methods)


def test_pareto_front_is_what_nothing_dominates() -> None:
    rng = np.random.default_rng(0)
    cost, value = rng.random(40).tolist(), rng.random(40).tolist()
    front = relations.pareto_front(cost, value, lower_is_better=True)
    dominated = {i for i, j in product(range(40), repeat=2) if cost[j] < cost[i] and value[j] < value[i]}
    assert sorted(front) == sorted(set(range(40)) - dominated)
    assert front == sorted(front, key=cost.__getitem__)


def test_simulated_grid_is_laid_out_as_runs_save_theirs() -> None:
    grid = sample_grid(np.random.default_rng(0), size=16)
    saved = make_grid(torch.zeros(40, 3, 16, 16), nrow=10, padding=2)
    assert grid.shape == tuple(saved.permute(1, 2, 0).shape)


def test_ablation_bars_have_a_bar_a_variant_and_a_dot_a_seed(tmp_path: Path) -> None:
    for method in ("baseline", "repa", "repa[weight=1.0]", "repa[weight=2.0]"):
        for seed in range(2):
            write_run(tmp_path, method, seed=seed)
    found = compare(load(tmp_path), "baseline", None, 0.95, allow_mixed=False)
    variants = [entry for entry in found.entries if entry.method != "baseline"]
    figure = bars.ablation_bars(found, [found.headline], variants)
    means = [entry.at_end(found.headline.key).mean for entry in variants]
    assert [bar.get_width() for bar in figure.axes[0].patches] == pytest.approx(means)
    lines = {line.get_label(): line.get_xdata()[0] for line in figure.axes[0].lines}
    assert lines["baseline"] == found.entries[0].at_end(found.headline.key).mean
    others = bars.ablation_bars(found, [found.headline], variants[1:])
    assert {"baseline", "repa"} <= {line.get_label() for line in others.axes[0].lines}


def test_of_many_methods_curves_show_those_without_options_in_the_same_colours(tmp_path: Path) -> None:
    weights = [f"repa[weight={weight}]" for weight in range(1, MOST_CURVES)]
    for method in ("baseline", "repa", *weights):
        write_run(tmp_path, method)
    found = compare(load(tmp_path), "baseline", None, 0.95, allow_mixed=False)
    figure = next(iter(drawings(found))).draw()
    lines = {line.get_label(): line for line in figure.axes[0].lines if line.get_label()[0] != "_"}
    assert set(lines) == {"baseline", "repa"}
    assert lines["repa"].get_color() == looks(found.methods, "baseline")["repa"]["color"]


def test_shares_of_a_histogram_are_stacked_in_order_up_to_one() -> None:
    shares = {"advantage/-inf..-1": 0.25, "advantage/-1..1": 0.5, "advantage/1..inf": 0.25}
    rows = [("vrpo", step, name, "", share) for step in (1, 2) for name, share in shares.items()]
    table = pd.DataFrame(rows, columns=["method", "step", "name", "t", "value"])
    (panel,) = log_traces.traces(table, ["baseline", "vrpo"], "baseline").axes
    tops = [area.get_paths()[0].vertices[:, 1].max() for area in panel.collections]
    assert tops == pytest.approx([0.25, 0.75, 1.0])


def test_long_names_are_broken_behind_commas_and_long_options_behind_their_name() -> None:
    name = "vrpo[estimator=pathwise+counterfactual,perceptual=0,semantic=0]"
    lines = on_lines(name, 24).split("\n")
    assert lines == ["vrpo[estimator=", "pathwise+counterfactual,", "perceptual=0,semantic=0]"]
    assert on_lines("repa[weight=1.0]", 24) == "repa[weight=1.0]"


def test_alignment_maps_share_one_scale() -> None:
    low = pd.DataFrame([[0.1, 0.2]], index=[1], columns=[0.2, 0.8])
    figure = relations.alignment_maps({"baseline": low, "repa": 2 * low}, "CKNNA")
    assert {panel.images[0].get_clim() for panel in figure.axes[:2]} == {(0.1, 0.4)}


def test_alignment_by_depth_and_time_is_drawn_where_it_was_probed(suite: Path) -> None:
    others = {name: 0 for name in ("step", "cka", "linear_probe", "token_cosine", "local_vs_distant")}
    for seed in range(2):
        rows = [
            {**others, "effective_rank": 1.0, "depth": depth, "t": t, "cknna": depth * t + seed}
            for depth in (1, 2, 3)
            for t in (0.25, 0.75)
        ]
        path = suite / f"repa-sit-tip2-seed{seed}" / "probe.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare(load(suite), "baseline", None, 0.95, allow_mixed=False)
    maps = probe_maps(found.results, "sit-ti/2", "cknna")
    assert list(maps) == ["repa"] and maps["repa"].loc[3, 0.75] == pytest.approx(3 * 0.75 + 0.5)
    assert "cknna-sit-tip2" in [drawing.name for drawing in drawings(found)]


def test_logs_are_those_of_methods_that_log_split_into_quantity_and_noise_bin(comparison: Comparison) -> None:
    path = comparison.results.folder / "vrpo-sit-tip2-seed0" / "train.jsonl"
    logs = [
        {"gate": step, "reward/a": 2 * step, "reward/a (t 0.25-0.5)": -step, "never": 0.0} for step in (1, 2)
    ]
    path.write_text("".join(json.dumps({"step": row["gate"], "logs": row}) + "\n" for row in logs))
    found = training_logs(comparison.results, "sit-ti/2", seed=0)
    assert set(found["method"]) == {"vrpo"}
    values = {key: own["value"].tolist() for key, own in found.groupby(["name", "t"])}
    assert values == {("gate", ""): [1, 2], ("reward/a", ""): [2, 4], ("reward/a", "0.25-0.5"): [-1, -2]}
    figure = log_traces.traces(found, comparison.methods, "baseline")
    assert [panel.get_title() for panel in figure.axes] == ["gate", "reward/a"]
    assert len(figure.axes[1].lines) == 2


def test_slug_is_a_file_name() -> None:
    assert slug("sit-ti/2[qk_norm=true]") == "sit-tip2-qk_norm-true"


def test_a_guidance_sweep_joins_scales_of_one_interval_and_sample_count(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    own = json.loads((run / "eval.jsonl").read_text().splitlines()[-1])
    sweeps = [((0.0, 0.7), own["samples"], (1.5, 2.0, 3.0)), ((0.0, 1.0), 10, (1.5, 2.0))]
    with (run / "eval.jsonl").open("a") as file:
        for interval, count, scales in sweeps:
            for scale in scales:
                change = {"guidance_scale": scale, "guidance_interval": interval, "samples": count}
                file.write(json.dumps(own | change | {"protocol": f"{scale}{interval}"}) + "\n")
    found = curves.last_by_guidance(
        compare(load(tmp_path), "baseline", None, 0.95, allow_mixed=False), "sit-ti/2"
    )
    assert found["guidance_scale"].tolist() == [1.5, 2.0, 3.0]
    assert set(found["guidance_interval"]) == {"0:0.7"}


def test_long_names_stay_inside_every_figure(tmp_path: Path) -> None:
    """Of many methods and of few, whatever they are compared with."""
    rewards = "vrpo[agreement=true,anneal_from=0.8,estimator=pathwise+counterfactual,t_max=0.9,t_min=0.3]"
    reference = "repa[align_until=0.5,encoder=efficientnet-lite0,weight=2.0]"
    few = [reference, rewards, f"irepa[align_until=0.5,weight=2.0]+{rewards}"]
    many = [*few, *(f"{rewards[:-1]},warm_up=0.{place}]" for place in range(MOST_CURVES))]
    outside = []
    for methods in (few, many):
        folder = tmp_path / str(len(methods))
        for method, seed in product(methods, range(2)):
            write_run(folder, method, "sit-ti/2", seed)
        found = compare(load(folder), reference, None, 0.95, allow_mixed=False)
        for drawing in drawings(found):
            figure = drawing.draw()
            figure.draw_without_rendering()
            needed, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
            if min(needed.x0, needed.y0, width - needed.x1, height - needed.y1) < -0.02:
                outside.append(f"{drawing.name} of {len(methods)}: {needed} in {width} x {height}")
            for panel in figure.axes:
                rows = [
                    label.get_window_extent().extents
                    for label in panel.get_yticklabels()
                    if "=" in label.get_text()
                ]
                rows.sort(key=lambda extents: extents[1])
                if any(below[3] > above[1] + 1 for below, above in pairwise(rows)):
                    outside.append(f"{drawing.name} of {len(methods)}: names overlap")
            plt.close(figure)
    assert not outside

"""Who is compared with whom, on simulated runs whose order and speedups are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.benchmark.simulated_runs import PROTOCOL, SPEEDS, frechet, write_run
from bench.core.errors import UserError
from bench.reporting.comparison import Comparison, compare
from bench.reporting.results import load
from bench.reporting.tables import studies, summary

HEADLINE = "fid[digits-cnn]"


def comparison(folder: Path, **options) -> Comparison:
    defaults = {"reference": "baseline", "metric": None, "confidence": 0.95, "allow_mixed": False}
    return compare(load(folder), **defaults | options)


def test_entries_are_ordered_and_find_their_own_reference(suite: Path) -> None:
    found = comparison(suite)
    assert [(entry.backbone, entry.method) for entry in found.entries] == [
        (backbone, method) for backbone in ("sit-ti/2", "dit-ti/2") for method in ("baseline", "repa", "vrpo")
    ]
    for entry in found.entries:
        other = found.reference_of(entry)
        assert other is None if entry.method == "baseline" else other.group == entry.group
    assert found.headline.key == HEADLINE


def test_final_values_and_speedups_are_those_simulated(suite: Path) -> None:
    found = comparison(suite)
    for entry in found.entries:
        assert entry.at_end(HEADLINE).mean == pytest.approx(frechet(1000, SPEEDS[entry.method]), rel=0.05)
        speedup = found.speedup(entry, "step", HEADLINE)
        if entry.method != "baseline":
            assert speedup is not None and speedup.ratio == pytest.approx(SPEEDS[entry.method], rel=0.1)


def test_second_is_marked_only_where_it_is_told_apart(tmp_path: Path) -> None:
    for noise, folder in ((0.001, tmp_path / "clear"), (0.5, tmp_path / "noisy")):
        for method, speed in SPEEDS.items():
            for seed in range(3):
                write_run(folder, method, seed=seed, speed=speed, noise=noise)
    clear = comparison(tmp_path / "clear")
    marks = clear.marks(clear.entries, clear.headline)
    assert {entry.method: mark for entry, mark in marks.items()} == {"vrpo": "best", "repa": "second"}
    noisy = comparison(tmp_path / "noisy")
    assert sorted(noisy.marks(noisy.entries, noisy.headline).values()) == ["", "best"]


def test_a_metric_without_known_direction_has_no_best(suite: Path) -> None:
    path = next(suite.glob("vrpo*")) / "eval.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text(
        "".join(json.dumps(row | {"metrics": row["metrics"] | {"novelty": 1.0}}) + "\n" for row in rows)
    )
    found = comparison(suite)
    novelty = found.measures[-1]
    assert (novelty.key, novelty.arrow) == ("novelty", "")
    assert found.marks(found.entries, novelty) == {}


def test_mixed_protocols_are_refused_by_name_and_footnoted_on_demand(tmp_path: Path) -> None:
    write_run(tmp_path, "baseline")
    other = PROTOCOL.model_copy(update={"samples": 500, "guidance_scale": 1.5})
    write_run(tmp_path, "repa", protocol=other)
    with pytest.raises(UserError, match=rf"{other.hash}.*--allow-mixed"):
        comparison(tmp_path)
    found = comparison(tmp_path, allow_mixed=True)
    assert all(found.reference_of(entry) is None for entry in found.entries)
    table = summary.main_table(found)
    assert [row[2].text for row in table.rows] == ["a", "b"] and all(row[4].mark == "" for row in table.rows)
    assert any("500 samples" in note and "guidance 1.5" in note for note in table.notes)


def test_a_judge_that_taught_is_named_below_every_table_of_its_numbers(suite: Path) -> None:
    for path in suite.glob("vrpo-*/eval.jsonl"):
        path.write_text(path.read_text().replace('"leaky": []', '"leaky": ["digits-cnn"]'))
    found = comparison(suite)
    for table in (summary.main_table(found), summary.metrics_table(found)):
        (note,) = [note for note in table.notes if note.startswith("Leaky")]
        assert note == "Leaky: vrpo was taught or rewarded by digits-cnn: its numbers there say little."


def test_runs_that_differ_in_training_are_named_apart_and_not_averaged(tmp_path: Path) -> None:
    for name, steps in (("short", 500), ("long", 1000)):
        folder = write_run(tmp_path / name, "repa", steps=steps)
        folder.rename(tmp_path / f"{name}-run")
    found = comparison(tmp_path)
    assert sorted(found.backbones) == [
        "sit-ti/2[evaluate_every=100,log_every=500,steps=1000]",
        "sit-ti/2[evaluate_every=50,log_every=250,steps=500]",
    ]


def test_ablation_sorts_a_method_by_option_and_number(tmp_path: Path) -> None:
    for method in ("baseline", "repa[weight=10]", "repa", "repa[weight=2.0]", "repa[depth=4]"):
        write_run(tmp_path, method)
    found = comparison(tmp_path)
    ablations = studies.ablations(found)
    assert list(ablations) == ["repa"]
    table = studies.ablation_table(found, "repa", ablations["repa"])
    assert [row[0].text for row in table.rows] == ["default", "depth=4", "weight=2.0", "weight=10"]
    assert list(table.breaks) == [1, 2]


def test_gains_over_settings_are_those_simulated(suite: Path) -> None:
    found = comparison(suite)
    table = studies.aggregate_table(found)
    gains = {row[0].value: row[3].value for row in table.rows}
    assert gains["vrpo"] == pytest.approx(1 - 3**-0.7, abs=0.03)  # of the power law
    assert gains["repa"] == pytest.approx(1 - 2**-0.7, abs=0.03)


def test_scaling_has_a_column_a_size(tmp_path: Path) -> None:
    for backbone, parameters in (("sit-s/2", 33_000_000), ("sit-ti/2", 500_000), ("dit-ti/2", 500_000)):
        write_run(tmp_path, "baseline", backbone, parameters=parameters)
    found = comparison(tmp_path)
    assert studies.families(found) == {"sit": ["sit-ti/2", "sit-s/2"]}
    table = studies.scaling_table(found, "sit", ["sit-ti/2", "sit-s/2"])
    assert [column.group for column in table.columns] == ["", "500K", "33.0M"]

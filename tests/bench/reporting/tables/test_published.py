"""Published numbers are only shown next to ours if the protocol agrees, and never if they are doubtful."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.benchmark.simulated_runs import PROTOCOL, write_run
from bench.config.spec import Protocol
from bench.report import Report, write
from bench.reporting.comparison import Comparison, compare
from bench.reporting.results import load as load_runs
from bench.reporting.tables.published import agreeing, load, published_table

ADM = PROTOCOL.model_copy(update={"data": "imagenet256", "samples": 50_000, "labels": "random"})


def comparison(
    folder: Path, protocol: Protocol, backbone: str = "sit-xl/2", steps: int = 400_000
) -> Comparison:
    run = write_run(folder, "baseline", backbone, steps=steps, protocol=protocol, evaluations=4)
    rows = run / "eval.jsonl"
    rows.write_text(rows.read_text().replace("[digits-cnn]", ""))  # the ADM Inception has no name
    return compare(load_runs(folder), "baseline", None, 0.95, allow_mixed=False)


def test_every_row_has_a_source_and_a_known_status() -> None:
    rows = load()
    assert len(rows) == 254
    assert (rows["source"] != "").all() and set(rows["status"]) == {"P", "R", "S", "U"}
    assert rows["fid"].between(1, 100).all()


def test_agreeing_rows_are_those_of_the_same_setting(tmp_path: Path) -> None:
    rows = agreeing(comparison(tmp_path, ADM))
    assert set(rows["backbone"]) == {"SiT-XL/2"}
    assert set(rows["steps"]) == {100_000, 200_000, 300_000, 400_000}  # where ours was evaluated
    assert set(rows["guidance"]) == {"none"} and set(rows["sampler"]) == {"SDE-EM-250"}
    vanilla = rows[(rows["method"] == "SiT") & (rows["steps"] == 400_000)]
    assert vanilla["fid"].tolist() == [17.19]  # SiT paper, table 8
    assert 7.9 in rows[rows["method"] == "REPA"]["fid"].tolist()  # REPA paper, table 7


def test_doubtful_rows_are_never_printed(tmp_path: Path) -> None:
    doubtful = load().query("status == 'U' and backbone == 'SiT-XL/2'")
    assert doubtful["steps"].isin([400_000]).any()  # one that would agree in all else
    assert "U" not in set(agreeing(comparison(tmp_path, ADM))["status"])


@pytest.mark.parametrize(
    "change",
    [
        {"data": "digits"},
        {"samples": 10_000},
        {"labels": "balanced"},
        {"weights": "model"},
        {"sampler_flow": "sde-50"},
        {"guidance_scale": 3.0},
        {"guidance_scale": 1.5, "guidance_interval": (0.0, 0.3)},
    ],
)
def test_nothing_agrees_with_another_protocol(tmp_path: Path, change: dict) -> None:
    assert agreeing(comparison(tmp_path, ADM.model_copy(update=change))).empty


def test_guidance_agrees_by_scale_interval_and_channels(tmp_path: Path) -> None:
    interval = ADM.model_copy(update={"guidance_scale": 1.8, "guidance_interval": (0.0, 0.7)})
    rows = agreeing(comparison(tmp_path / "interval", interval, steps=4_000_000))
    assert set(rows["guidance"]) <= {"cfg 1.8 t in [0,0.7]", "cfg 1.8 t in [0,0.70]"} and len(rows)
    three = ADM.model_copy(update={"guidance_scale": 1.5, "guidance_channels": 3})
    rows = agreeing(comparison(tmp_path / "three", three, steps=7_000_000))
    assert set(rows["guidance"]) == {"cfg 1.5 (3 ch.)"}


def test_dit_is_compared_by_its_own_sampler(tmp_path: Path) -> None:
    rows = agreeing(comparison(tmp_path, ADM, "dit-xl"))
    assert set(rows["sampler"]) == {"DDPM-250"} and set(rows["backbone"]) == {"DiT-XL/2"}


def test_published_numbers_are_a_table_of_their_own(tmp_path: Path) -> None:
    found = comparison(tmp_path / "runs", ADM)
    table = published_table(found)
    assert len(table.rows) == len(agreeing(found))
    report = write(Report(str(tmp_path / "runs"), with_published=True)).parent
    page = (report / "report.md").read_text()
    assert "## Published numbers" in page and "SiT paper Tab.8" in page
    ours = pd.read_csv(report / "main.csv")
    assert len(ours) == 1  # nothing published among ours

"""The command `python -m bench.report`, end to end."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import tyro

from bench.benchmark.simulated_runs import write_run
from bench.config import suites
from bench.core.errors import UserError
from bench.report import Report, write
from bench.reporting import report_folder
from bench.reporting.plots.figures import Drawing


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_report_writes_tables_and_plots_and_leaves_runs_alone(suite: Path) -> None:
    before = contents(suite)
    report = write(Report("simulated", results=suite.parent)).parent
    page = (report / "report.md").read_text()
    for name in ("main", "metrics", "differences", "speedup", "equal-cost"):
        assert {path.suffix for path in (report / "more").glob(f"{name}.*")} >= {".csv", ".md", ".tex"}
    for name in ("convergence", "speedup", "samples-sit-tip2", "metrics-dit-tip2"):
        assert (report / "more" / f"{name}.pdf").stat().st_size > 1000
        assert f"{name}.png" in page
    pictures = {path.name for path in report.glob("*.png")}
    assert pictures == set(re.findall(r"!\[.*\]\((.*)\)", page)) and len(pictures) == 5
    assert {path.name for path in report.iterdir()} == {
        "report.md",
        "report.html",
        "main.csv",
        "more",
        *pictures,
    }
    assert "18 of 18 runs are finished" in page
    assert {
        path: content for path, content in contents(suite).items() if report not in path.parents
    } == before


def test_a_report_with_other_figures_leaves_no_picture_of_the_one_before(
    suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = {"now shown": 0, "now hidden": 1}
    figures = [Drawing(name, "", "", plt.figure, rank) for name, rank in ranks.items()]
    monkeypatch.setattr(report_folder, "drawings", lambda _comparison: figures)
    monkeypatch.setattr(report_folder, "SHOWN", 1)
    more = suite / "report" / report_folder.MORE
    more.mkdir(parents=True)
    before = more / "now shown.png", suite / "report" / "now hidden.png"
    for picture in before:
        picture.write_text("of an earlier report")
    write(Report(str(suite)))
    assert not any(picture.exists() for picture in before)
    assert (suite / "report" / "now shown.png").is_file() and (more / "now hidden.png").is_file()


def test_command_names_the_folder_it_cannot_find(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.report", "nothing", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "nothing" in done.stderr and done.stderr.count("\n") == 1


def test_unknown_metric_lists_the_known_ones(suite: Path) -> None:
    with pytest.raises(UserError, match=r"fid\[digits-cnn\]"):
        write(Report(str(suite), metric="fid[nothing]"))


def test_a_folder_that_cannot_be_written_is_one_line(suite: Path) -> None:
    (suite / "report").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write to .*report"):
        write(Report(str(suite)))


@pytest.mark.parametrize("state", ["running", "failed"])
def test_a_folder_of_unfinished_runs_has_a_report_with_empty_tables(tmp_path: Path, state: str) -> None:
    write_run(tmp_path, "baseline", state=state)
    (write_run(tmp_path, "repa", state=state) / "eval.jsonl").unlink()
    report = write(Report(str(tmp_path))).parent
    page = (report / "report.md").read_text()
    assert "0 of 2 runs are finished" in page and f"{state} at step 500 of 1000" in page
    assert set((report / "main.csv").read_text().splitlines()[1].split(",")[4:]) <= {"", "0.0"}


@pytest.mark.usefixtures("without_figures")
def test_another_reference_is_what_differences_refer_to(suite: Path) -> None:
    report = write(Report(str(suite), reference="repa")).parent
    assert "Paired differences from repa" in (report / "report.md").read_text()
    with pytest.raises(UserError, match="Did you mean 'repa'"):
        write(Report(str(suite), reference="rep"))


@pytest.mark.usefixtures("without_figures")
def test_the_reference_of_a_suite_is_what_its_report_refers_to(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites, "_FOLDER", tmp_path)
    options = Report("simulated", results=suite.parent)
    for reference, title in (("repa", "Paired differences from repa"), ("sara", "All metrics")):
        text = f'reference = "{reference}"\n[[grid]]\nmethod = ["repa", "sara"]\n'
        (tmp_path / "simulated.toml").write_text(text)
        tables = re.findall("^## (.*)", (write(options).parent / "report.md").read_text(), re.MULTILINE)
        assert title in tables
    assert not any("Paired differences" in table for table in tables)  # sara has no runs, which is no error
    mine = tmp_path / "elsewhere" / "simulated.toml"  # of the user
    mine.parent.mkdir()
    mine.write_text('reference = "vrpo"\n[[grid]]\nmethod = ["vrpo"]\n')
    page = write(replace(options, runs=str(mine))).parent / "report.md"
    assert page.parent == suite / "report" and "Paired differences from vrpo" in page.read_text()
    explicit = replace(options, reference="baseline")
    assert "Paired differences from baseline" in (write(explicit).parent / "report.md").read_text()


@pytest.mark.usefixtures("without_figures")
def test_a_report_elsewhere_says_the_whole_command_and_links_to_the_runs(suite: Path, tmp_path: Path) -> None:
    report = tmp_path / "deep" / "against-repa"
    page = write(Report("simulated", results=suite.parent, reference="repa", output=report))
    assert page.parent == report and not (suite / "report").exists()
    html = page.read_text()
    link = next(part for part in html.split('"') if part.endswith("/spec.json"))
    assert (report / link).samefile(suite / Path(link).parent.name / "spec.json")
    (said,) = [line for line in (report / "report.md").read_text().splitlines() if "Regenerated" in line]
    command = shlex.split(said.split("`")[1])
    assert tyro.cli(Report, args=command[3:]) == Report(
        "simulated", results=suite.parent, reference="repa", output=report
    )

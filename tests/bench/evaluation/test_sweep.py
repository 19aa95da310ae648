import sys
from pathlib import Path

import pytest
import torch

from bench import evaluate
from bench.core.errors import UserError, exit_code
from bench.core.files import read_rows
from bench.data.image_files import open_images
from bench.evaluation import sweep
from bench.evaluation.sweep import Sweep, score_run
from bench.runs import loading
from tests.helpers import untrained_run

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return untrained_run.make(tmp_path)


def test_a_sweep_adds_a_row_a_scale_each_under_its_own_protocol(folder: Path):
    rows = score_run(folder, Sweep((1.0, 3.0), interval=(0.0, 0.7)), CPU)
    own = loading.load(folder, CPU).spec.protocol
    assert [row["guidance_scale"] for row in rows] == [1.0, 3.0]
    assert len({own.hash, *(row["protocol"] for row in rows)}) == 3
    assert all(
        (row["step"], row["seconds"], row["flops"], row["samples"]) == (5, 1.5, 100, 150) for row in rows
    )
    assert rows[0]["metrics"]["fid[digits-cnn]"] != rows[1]["metrics"]["fid[digits-cnn]"]
    assert [row["protocol"] for row in read_rows(folder / "eval.jsonl")] == [row["protocol"] for row in rows]


def test_rows_that_are_there_are_not_made_again(folder: Path, monkeypatch: pytest.MonkeyPatch):
    first = score_run(folder, Sweep((1.0,)), CPU)
    monkeypatch.setattr(sweep, "_row", lambda *_: pytest.fail("sampled again"))
    assert score_run(folder, Sweep((1.0,)), CPU)[0]["metrics"] == first[0]["metrics"]
    assert len(read_rows(folder / "eval.jsonl")) == 1


def test_the_command_samples_a_run_to_an_archive(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    line = [
        "evaluate",
        str(folder),
        "--guidance",
        "1.5",
        "--samples",
        "140",
        "--copy",
        str(tmp_path / "s.npz"),
    ]
    monkeypatch.setattr(sys, "argv", line)
    assert exit_code(evaluate.main) == 0
    images = torch.cat(list(open_images(tmp_path / "s.npz").batches(64)))
    assert images.shape == (140, 1, 8, 8)
    assert "guidance 1.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Sweep(interval=(0.7, 0.2)), "0.7:0.2"),
        (Sweep((-1.0,)), "guidance_scale=-1.0"),
        (Sweep((1.0, 2.0), copy=Path("x.npz")), "one guidance scale"),
    ],
)
def test_what_cannot_be_swept_is_said(wish: Sweep, message: str, folder: Path):
    with pytest.raises(UserError, match=message):
        score_run(folder, wish, CPU)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--interval", "0.7"], "write LOW:HIGH"), (["--nets", "pixels"], "by its own protocol")],
)
def test_options_that_are_not_for_runs_are_refused(
    arguments: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["evaluate", str(folder), *arguments])
    assert exit_code(evaluate.main) == 2
    assert message in capsys.readouterr().err

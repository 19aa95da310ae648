"""Evaluating a run from its folder: rows, copies, several processes, what is refused."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import evaluate
from bench.core.errors import UserError, exit_code
from bench.data import digits
from bench.data.image_files import open_images
from bench.evaluation.evaluator import Evaluator, evaluate_run, with_guidance
from bench.runs import sample_grid
from bench.runs.record import RunRecord
from tests.helpers import forked, untrained_run

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return untrained_run.make(tmp_path)


def swept(folder: Path, scales=(), interval=None, samples=None, copy=None):
    return evaluate_run(folder, lambda own: with_guidance(own, scales, interval, samples), CPU, copy)


def test_a_sweep_adds_a_row_per_scale_each_under_its_own_protocol(folder: Path):
    rows = swept(folder, (1.0, 3.0), interval=(0.0, 0.7))
    own = RunRecord(folder).spec().protocol
    assert [row.guidance_scale for row in rows] == [1.0, 3.0]
    assert len({own.hash, *(row.protocol for row in rows)}) == 3
    assert all((row.step, row.seconds, row.flops, row.samples) == (5, 1.5, 100, 150) for row in rows)
    assert rows[0].metrics["fid[digits-cnn]"] != rows[1].metrics["fid[digits-cnn]"]
    assert sorted(RunRecord(folder).evaluations(), key=rows.index) == rows


def test_the_row_of_the_run_itself_comes_with_the_sample_grid(folder: Path):
    (row,) = swept(folder)
    assert row.protocol == RunRecord(folder).spec().protocol.hash
    assert [path.name for path in (folder / "samples").glob("step-*")] == ["step-00000005.png"]


def test_the_row_of_real_images_has_the_classes_of_the_samples(folder: Path):
    swept(folder)
    row = np.asarray(Image.open(folder / "samples" / sample_grid.REAL).convert("L"))
    data = digits.load()
    cell, pixel = 48 + sample_grid.MARGIN, 48 // 8  # images of 8 pixels are enlarged to 48
    for place in range(sample_grid.COLUMNS):
        left = sample_grid.MARGIN + place * cell
        image = torch.from_numpy(row[sample_grid.MARGIN : cell : pixel, left : left + 48 : pixel].copy())
        (same,) = torch.where((data.images[:, 0] == image).all(2).all(1))
        assert data.labels[same[0]] == place


def test_rows_that_exist_are_not_computed_again(folder: Path, monkeypatch: pytest.MonkeyPatch):
    first = swept(folder, (1.0,))
    monkeypatch.setattr(Evaluator, "evaluate", lambda *_, **__: pytest.fail("sampled again"))
    assert swept(folder, (1.0,)) == first


def test_a_scale_named_twice_is_evaluated_once(folder: Path):
    assert len(swept(folder, (1.5, 1.5, 1.50))) == len(RunRecord(folder).evaluations()) == 1


def test_guidance_that_the_network_cannot_follow_is_refused(folder: Path, tmp_path: Path):
    always_labelled = untrained_run.make(tmp_path / "labelled", label_dropout=0.0)
    with pytest.raises(UserError, match="without labels"):
        swept(always_labelled, (1.0, 1.5))
    with pytest.raises(UserError, match="more than the 1 of digits"):
        evaluate_run(
            folder,
            lambda own: [own.model_copy(update={"guidance_scale": 2.0, "guidance_channels": 3})],
            CPU,
            None,
        )
    assert not RunRecord(folder).evaluations() and not RunRecord(always_labelled).evaluations()


def test_three_processes_write_the_row_and_the_copy_of_one(folder: Path, tmp_path: Path):
    (alone,) = swept(folder, (1.5,), copy=tmp_path / "alone.npz")
    (folder / "eval.jsonl").unlink()
    words = (folder, "--guidance", "1.5", "--copy", tmp_path / "three.npz", "--device", "cpu")
    assert forked.torchrun(3, "bench.evaluate", words) == [0, 0, 0]
    (together,) = RunRecord(folder).evaluations()
    assert together.protocol == alone.protocol
    assert together.metrics == pytest.approx(alone.metrics, rel=1e-4)
    one, three = (
        torch.cat(list(open_images(tmp_path / f"{name}.npz").batches(64))) for name in ("alone", "three")
    )
    assert one.shape == (150, 1, 8, 8)
    assert (one.int() - three.int()).abs().max() <= 1  # the same order, up to rounding


def test_the_command_samples_a_run_to_an_archive(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    line = ["evaluate", folder, "--guidance", "1.5", "--samples", "140", "--copy", tmp_path / "s.npz"]
    monkeypatch.setattr(sys, "argv", [*map(str, line)])
    assert exit_code(evaluate.main) == 0
    images = torch.cat(list(open_images(tmp_path / "s.npz").batches(64)))
    assert images.shape == (140, 1, 8, 8)
    assert "guidance 1.5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scales": (2.0,), "interval": (0.7, 0.2)}, "0.7:0.2"),
        ({"scales": (1.0,), "interval": (0.2, 0.7)}, "does nothing"),
        ({"scales": (-1.0,)}, "guidance_scale=-1.0"),
        ({"scales": (1.0, 2.0), "copy": Path("x.npz")}, "one guidance scale"),
    ],
)
def test_what_cannot_be_swept_is_refused(settings: dict, message: str, folder: Path):
    with pytest.raises(UserError, match=message):
        swept(folder, **settings)


def test_a_damaged_checkpoint_is_not_evaluated(folder: Path):
    (path,) = folder.glob("checkpoints/*/ema.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged \(ema: its checksum differs\)"):
        swept(folder)


def test_options_that_are_not_for_runs_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", str(folder), "--nets", "pixels"])
    assert exit_code(evaluate.main) == 2
    assert "by its own protocol" in capsys.readouterr().err


def test_an_interval_of_one_number_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", str(folder), "--guidance-interval", "0.7"])
    with pytest.raises(SystemExit) as stopped:
        evaluate.main()
    assert stopped.value.code == 2
    assert "LOW HIGH" in capsys.readouterr().err

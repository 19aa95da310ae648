"""Run folders survive what kills a process: torn lines, half-written and damaged checkpoints, full disks."""

import json

import pytest
import torch

from bench.config import resolve
from bench.core.errors import UserError
from bench.runs import folder
from bench.runs.formats import Counters, EvaluationRow, TrainingRow

PARTS = {"backbone": {"w": torch.arange(1000.0)}, "optimizer": {"w.step": torch.tensor(3.0)}}


@pytest.fixture
def run(tmp_path):
    return folder.RunFolder(tmp_path, resolve.run_spec("baseline", "sit-ti", "digits", 0))


def test_checkpoints_are_read_back_exactly(run):
    run.save_checkpoint(PARTS, Counters(step=5, seconds=1.25))
    parts, counters = run.load_checkpoint()
    assert counters.step == 5 and counters.seconds == 1.25
    for part, tensors in PARTS.items():
        for key, tensor in tensors.items():
            assert torch.equal(parts[part][key], tensor)


def test_the_latest_two_checkpoints_are_kept(run):
    for step in (1, 2, 3, 10):
        run.save_checkpoint(PARTS, Counters(step=step))
    assert [path.name for path in sorted(run.checkpoints.iterdir())] == ["step-00000003", "step-00000010"]


def test_a_row_torn_by_a_kill_is_skipped_and_the_next_is_whole(run):
    run.append(TrainingRow(step=1))
    with open(run.folder / "train.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    assert run.record.training() == [TrainingRow(step=1)]
    run.append(TrainingRow(step=3))
    assert run.record.training() == [TrainingRow(step=1), TrainingRow(step=3)]


def test_a_half_written_checkpoint_is_ignored_and_removed(run, tmp_path):
    run.save_checkpoint(PARTS, Counters(step=5))
    unfinished = run.checkpoints / ".step-00000006.1"
    unfinished.mkdir()
    (unfinished / "backbone.safetensors").write_bytes(b"half")
    again = folder.RunFolder(tmp_path, run.spec)
    assert again.load_checkpoint()[1].step == 5
    again.lock().release()
    assert not unfinished.exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing"])
def test_a_damaged_checkpoint_is_named_with_what_to_do(run, damage):
    for step in (5, 9):
        run.save_checkpoint(PARTS, Counters(step=step))
    path = run.checkpoints / "step-00000009" / "backbone.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[:-10])
    else:
        content[-1] ^= 1
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"step-00000009 is damaged .*continue from step 5"):
        run.load_checkpoint()


def test_a_full_disk_loses_nothing(run, monkeypatch):
    run.save_checkpoint(PARTS, Counters(step=5))

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(UserError, match="No space left"):
        run.save_checkpoint(PARTS, Counters(step=9))
    assert run.load_checkpoint()[1].step == 5
    assert len(list(run.checkpoints.iterdir())) == 1


def test_a_folder_of_another_spec_is_refused(run, tmp_path):
    path = run.folder / "spec.json"
    content = json.loads(path.read_text())
    content["training"]["learning_rate"] = 0.5
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"another spec \(it differs in training\)"):
        folder.RunFolder(tmp_path, run.spec)


def test_an_output_that_cannot_be_a_folder_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        folder.RunFolder(tmp_path / "file", run.spec)


def test_a_row_under_other_guidance_is_not_the_evaluation_of_the_run(run):
    row = EvaluationRow(step=5, seconds=1.0, protocol="guided", metrics={})
    run.append(row)
    assert not run.evaluated(5)
    run.append(row.model_copy(update={"protocol": run.spec.protocol.hash}), part="step-00000005")
    assert run.evaluated(5)

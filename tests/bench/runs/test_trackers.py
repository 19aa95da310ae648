"""Trackers hold every row once, whatever was killed, as their own files say; and never stop a run."""

import json
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from bench.config import resolve
from bench.core.errors import UserError, exit_code
from bench.core.files import read_rows
from bench.run import main
from bench.runs import trackers
from bench.runs.folder import RunFolder
from bench.runs.formats import EvaluationRow, TrainingRow
from bench.runs.trackers import Trackers


@pytest.fixture
def run(tmp_path):
    training = {"steps": 100, "batch_size": 8}
    return RunFolder(tmp_path, resolve.run_spec("baseline", "sit-pico", "digits", 0, training=training))


def train(run, names, first, last):
    """A session from step `first` to `last`, with an evaluation at 5. Returns its trackers, still open."""
    opened = Trackers(names, run.record, run.spec)
    for step in range(first, last + 1):
        row = TrainingRow(step=step, loss=1 / step, raw={"denoise": 1 / step}, grad_norm=2.0)
        run.append(row)
        opened.training(row)
        if step == 5:
            Image.fromarray(np.full((4, 6, 3), 200, "uint8")).save(run.samples / "step-00000005.png")
            metrics = {"fid[digits-cnn]": 42.0}
            run.append(EvaluationRow(step=5, seconds=1.0, protocol=run.spec.protocol.hash, metrics=metrics))
            opened.evaluations()
    return opened


def events(folder):
    """What TensorBoard's own reader finds."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


def test_tensorboard_has_every_row_once_after_a_kill(run):
    train(run, ["tensorboard"], 1, 7)  # killed: nothing is closed, and the checkpoint is of step 4
    train(run, ["tensorboard"], 5, 9).close()
    found = events(run.folder)
    losses = [(scalar.step, scalar.value) for scalar in found.Scalars("train/loss")]
    assert losses == [(step, pytest.approx(1 / step)) for step in range(1, 10)]
    assert [scalar.step for scalar in found.Scalars("raw/denoise")] == list(range(1, 10))
    assert [(one.step, one.value) for one in found.Scalars("metrics/fid[digits-cnn]")] == [(5, 42.0)]
    (grid,) = found.Images("samples")
    assert (grid.step, grid.width, grid.height) == (5, 6, 4)
    (spec,) = found.Tensors("spec/text_summary")
    assert run.spec.resolved_method in spec.tensor_proto.string_val[0].decode()


def test_a_tracker_that_comes_later_gets_the_rows_before(run):
    train(run, [], 1, 6)
    train(run, ["tensorboard"], 5, 8).close()
    found = events(run.folder)
    assert [scalar.step for scalar in found.Scalars("train/loss")] == list(range(1, 9))
    assert [one.step for one in found.Scalars("metrics/fid[digits-cnn]")] == [5]


def test_a_session_without_the_tracker_leaves_no_gap(run):
    train(run, ["tensorboard"], 1, 3).close()
    train(run, [], 4, 6)
    train(run, ["tensorboard"], 6, 8).close()
    assert [scalar.step for scalar in events(run.folder).Scalars("train/loss")] == list(range(1, 9))


def test_evaluations_after_training_are_sent_once(run):
    train(run, ["tensorboard"], 1, 7).close()
    own = run.spec.protocol.hash
    for step, protocol in ((7, own), (7, "0" * 8)):
        run.append(EvaluationRow(step=step, seconds=1.0, protocol=protocol, metrics={"fid": 3.0}), "late")
    trackers.send_late(run.record, run.spec)
    assert "metrics/fid" not in events(run.folder).Tags()["scalars"]  # training sends them while it goes on
    run.set_status("finished", 100)
    for _ in range(2):
        trackers.send_late(run.record, run.spec)
    found = events(run.folder)
    for name in ("metrics/fid", "metrics-00000000/fid"):
        assert [(one.step, one.value) for one in found.Scalars(name)] == [(7, 3.0)]
    assert [scalar.step for scalar in found.Scalars("train/loss")] == list(range(1, 8))
    assert not (run.folder / "owner.json").exists()


def test_an_evaluation_waits_for_the_trackers_of_another_process(run, monkeypatch):
    train(run, ["tensorboard"], 1, 5).close()
    run.set_status("finished", 100)
    run.append(EvaluationRow(step=100, seconds=1.0, protocol=run.spec.protocol.hash, metrics={"fid": 3.0}))
    lock, slept = run.lock(), []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            lock.release()

    monkeypatch.setattr(trackers.time, "sleep", sleep)
    trackers.send_late(run.record, run.spec)
    assert len(slept) == 3
    assert [one.step for one in events(run.folder).Scalars("metrics/fid")] == [100]
    again = run.lock()
    monkeypatch.setattr(trackers, "LATE", -1.0)
    with pytest.warns(UserWarning, match="tensorboard got no rows: .* is locked by"):
        trackers.send_late(run.record, run.spec)
    again.release()


def records(path):
    """The records of an offline run of W&B: protocol buffers in the log format of LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 2**15 - place % 2**15 < 7:  # no header fits in the rest of a block
            place += 2**15 - place % 2**15
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield Record.FromString(whole)
            whole = b""


def test_wandb_continues_its_run_offline_without_doubled_rows(run, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for key, value in {"WANDB_SILENT": "true", "WANDB_DISABLE_GIT": "true"}.items():
        monkeypatch.setenv(key, value)
    train(run, ["wandb"], 1, 7).open["wandb"].tracker.run.finish()  # a kill, for which W&B's service ends it
    train(run, ["wandb"], 5, 9).close()
    files = sorted(run.folder.glob("wandb/offline-run-*/*.wandb"))
    sessions = [list(records(path)) for path in files]
    own = json.loads((run.folder / "trackers.json").read_text())["wandb"]["id"]
    assert [{one.run.run_id for one in session if one.HasField("run")} for session in sessions] == [{own}] * 2
    rows = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in one.history.item}
        for session in sessions
        for one in session
        if one.HasField("history")
    ]
    losses = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert losses == [(step, pytest.approx(1 / step)) for step in range(1, 10)]
    (evaluated,) = [row for row in rows if "metrics/fid[digits-cnn]" in row]
    assert (evaluated["step"], evaluated["metrics/fid[digits-cnn]"]) == (5, 42.0)


def test_a_tracker_that_fails_is_dropped_with_one_warning(run, monkeypatch):
    class Broken:
        def __init__(self, *_):
            self.left = 2

        def log(self, step, values, images):
            self.left -= 1
            if self.left < 0:
                raise ConnectionError("the server is gone")

        def close(self, failed):
            raise AssertionError

    monkeypatch.setitem(trackers._KINDS, "wandb", Broken)
    with pytest.warns(UserWarning, match="wandb gets no more rows of .*: the server is gone") as caught:
        train(run, ["wandb", "tensorboard"], 1, 9).close()
    assert sum("gets no more rows" in str(warning.message) for warning in caught) == 1
    assert len(events(run.folder).Scalars("train/loss")) == 9


def test_wandb_without_login_or_server_stays_offline_and_asks_nobody(run, monkeypatch):
    started = []

    def init(mode, **_):
        started.append(mode)
        if mode == "online":
            raise TimeoutError("no answer")
        return SimpleNamespace(define_metric=lambda *_, **__: None)

    monkeypatch.delenv("WANDB_MODE", raising=False)
    for logged_in, modes in ((False, ["offline"]), (True, ["online", "offline"])):
        fake = SimpleNamespace(init=init, login=lambda prompt, own=logged_in: own, Settings=dict, Image=None)
        monkeypatch.setitem(sys.modules, "wandb", fake)
        started.clear()
        with pytest.warns(UserWarning, match="W&B is offline"):
            trackers._WeightsAndBiases(run.folder, run.spec, "id")
        assert started == modes


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'alignment-bench\[wandb\]'"):
        trackers.usable(["wandb"])
    assert trackers.usable(["none"]) == ()
    with pytest.raises(UserError, match="--track none"):
        trackers.usable(["none", "wandb"])


def test_the_command_tracks_what_it_writes_and_is_the_same_run(tmp_path, monkeypatch):
    short = "--method baseline --backbone sit-pico --steps 3 --batch-size 8 --log-every 1 --samples 10"
    short += " --sampler-flow euler[steps=2] --feature-nets pixels --results"

    def run(place, *more):
        monkeypatch.setattr(sys, "argv", ["bench.run", *short.split(), str(tmp_path / place), *more])
        assert exit_code(main) == 0
        (folder,) = (tmp_path / place / "runs").iterdir()
        return folder

    plain, tracked = run("plain"), run("tracked", "--track", "tensorboard")
    assert plain.name == tracked.name and not (plain / "tensorboard").exists()
    written = {row["step"]: row["loss"] for row in read_rows(tracked / "train.jsonl")}
    found = {one.step: one.value for one in events(tracked).Scalars("train/loss")}
    assert found == pytest.approx(written) and len(found) == 3
    weights = [(folder / "ema.safetensors").read_bytes() for folder in (plain, tracked)]
    assert weights[0] == weights[1]
    assert [one.step for one in events(tracked).Images("samples")] == [3]

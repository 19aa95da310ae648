"""The methods shown in CONTRIBUTING.md work as shown: pasted into a file, named by its path or dropped in."""

import re
import sys
from pathlib import Path

import pytest
import torch

import methods
from bench.config import resolve
from bench.core.errors import exit_code
from bench.core.files import read_rows
from bench.run import main
from bench.runs.record import find_runs
from bench.training.trainer import Trainer

ROOT = Path(__file__).parents[1]


def example(number=0):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)[number]


def test_the_example_trains_by_its_path(tmp_path, monkeypatch):
    path = tmp_path / "layersync.py"
    path.write_text(example())
    arguments = ["--method", f"{path}[weight=0.5]", "--backbone", "sit-ti", "--steps", "3", "--samples", "20"]
    arguments += ["--sampler-flow", "euler[steps=2]", "--log-every", "1", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["bench.run", *arguments])
    assert exit_code(main) == 0
    (run,) = find_runs(tmp_path / "runs")
    rows = read_rows(run / "train.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert -1 <= row["raw"]["layersync"] <= 1
        assert abs(row["weighted"]["layersync"] - 0.5 * row["raw"]["layersync"]) < 1e-5
    assert read_rows(run / "eval.jsonl")[-1]["step"] == 3


def test_a_file_dropped_into_the_folder_is_found_by_its_name(monkeypatch, tmp_path):
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "layersync.py").write_text(example())
    monkeypatch.setattr(methods, "_FOLDER", folder)
    monkeypatch.setattr(methods, "__path__", [str(folder)])
    assert methods.names() == ("layersync",)
    assert resolve.method_class("layersync").__name__ == "LayerSync"
    sys.modules.pop("methods.layersync")


@pytest.mark.parametrize(
    ("number", "file", "term"), [(1, "halves", "halves"), (2, "mean_token", "denoise mean")]
)
def test_the_hook_and_the_state_train(tmp_path, number, file, term):
    path = tmp_path / f"{file}.py"
    path.write_text(example(number))
    training = {"steps": 3, "batch_size": 8, "log_every": 1}
    spec = resolve.run_spec(str(path), "sit-ti", "digits", 0, training=training)
    trainer = Trainer(spec, torch.device("cpu"))
    rows = [trainer.step(step)["raw"] for step in range(3)]
    assert all(-1e-5 < float(row[term]) < 5 for row in rows)  # zero-initialised blocks start at 0

"""The backbone of docs/extending/backbone.md works as shown: it passes the checks, and trains with REPA."""

import re
import sys
from pathlib import Path

import pytest
import torch

import backbones
from backbones import checkpoints
from backbones.base import Architecture
from bench.benchmark.checks.backbone import check_backbone
from bench.config import resolve
from bench.core.errors import UserError, exit_code
from bench.core.files import read_rows
from bench.run import main
from bench.runs import loading
from bench.runs.record import find_runs

PAGE = Path(__file__).parents[2] / "docs/extending/backbone.md"


def example():
    return re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "uvit.py"
    path.write_text(example())
    return path


def test_the_example_passes_every_check(path):
    results = list(check_backbone(f"{path}[depth=3,width=32]"))
    assert not [result for result in results if result.state != "ok"], results


def test_the_example_trains_with_repa_and_is_opened_again(path, tmp_path, monkeypatch):
    arguments = ["--method", "repa", "--backbone", f"{path}[depth=3,width=32]", "--steps", "2"]
    arguments += ["--samples", "20", "--sampler-flow", "euler[steps=2]", "--log-every", "1"]
    monkeypatch.setattr(sys, "argv", ["bench.run", *arguments, "--results", str(tmp_path)])
    assert exit_code(main) == 0
    (run,) = find_runs(tmp_path / "runs")
    rows = read_rows(run / "train.jsonl")
    assert [row["step"] for row in rows] == [1, 2] and all("repa" in row["raw"] for row in rows)
    model = loading.load(run, torch.device("cpu")).model
    assert (model.architecture.depth, model.architecture.width, model.grid) == (3, 32, (4, 4))
    with pytest.raises(ValueError, match="move that file into backbones/"):
        checkpoints.weights(run / "ema.safetensors")  # weights do not decide which code runs


def test_every_file_of_the_folder_is_a_backbone_or_a_part():
    for name in backbones.dropped_in():
        assert issubclass(backbones.load(name), Architecture), name


def test_a_file_dropped_into_the_folder_is_found_by_its_name(monkeypatch, tmp_path):
    folder = tmp_path / "backbones"
    folder.mkdir()
    (folder / "uvit.py").write_text(example())
    monkeypatch.setattr(backbones, "_FOLDER", folder)
    monkeypatch.setattr(backbones, "__path__", [*backbones.__path__, str(folder)])
    assert backbones.names()[-1] == "uvit"
    architecture = resolve.architecture("uvit[width=32]")
    assert architecture.name == "uvit[width=32]" and resolve.architecture(architecture.name) == architecture
    network = backbones.build(architecture, input_size=8, channels=1, num_classes=3)
    checkpoints.save(tmp_path / "ours.safetensors", network)
    assert checkpoints.load(tmp_path / "ours.safetensors").architecture == architecture
    sys.modules.pop("backbones.uvit")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("absent.py", "there is no backbone file"),
        ("uvit.py[wdth=3]", "Did you mean 'width'"),
        ("uvit.py[width=wide]", "width=wide"),
        ("two.py", "must define one subclass"),
        ("wrong.py", "fails on import"),
        ("uvit", "unknown backbone 'uvit'"),
    ],
)
def test_what_is_no_backbone_is_one_clear_line(path, monkeypatch, text, message):
    monkeypatch.chdir(path.parent)
    Path("two.py").write_text("from backbones.base import Architecture\n")
    Path("wrong.py").write_text("import does_not_exist\n")
    with pytest.raises(UserError, match=message) as error:
        resolve.architecture(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "stage", "message"),
    [
        ("x[:, 2:]  # tokens", "x  # tokens", "output", r"\(4, 18, 64\)"),
        ("if depth in hidden_depths:", "if depth == 1:", "output", "hidden states after blocks"),
        ("self.time(t[:, None].to(image.dtype))", "self.time(0 * t[:, None])", "inputs", "on the time"),
        ("x = block(x)", "x = block(x - x.mean(0))", "inputs", "others of its batch"),
        ("self.skips = ", "self.unused = nn.Linear(2, 2)\n        self.skips = ", "gradients", "unused"),
    ],
)
def test_broken_backbones_are_found_out(tmp_path, old, new, stage, message):
    text = example()
    assert old in text
    path = tmp_path / "broken.py"
    path.write_text(text.replace(old, new))
    failed = next(result for result in check_backbone(str(path)) if result.state == "failed")
    assert failed.stage == stage and re.search(message, failed.text)

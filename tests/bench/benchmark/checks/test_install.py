"""`bench.check install` tells what is asked of whoever reports a fault, and nothing private."""

import sys
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
import torch

from bench.benchmark.checks.install import description
from bench.check import main
from bench.core import machine
from bench.core.errors import exit_code


@pytest.fixture(autouse=True)
def empty_caches(tmp_path, monkeypatch):
    """Fast, whatever this machine has: nothing is looked for in its real caches."""
    monkeypatch.setenv("ALIGNMENT_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(
        "bench.nets.weights.find", lambda name: tmp_path / name if name == "mae-b" else _absent()
    )


def _absent():
    raise machine.UserError("absent")


def facts(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def test_what_is_printed_agrees_with_the_machine(monkeypatch, capsys, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "x.safetensors").write_bytes(bytes(2000))
    monkeypatch.setattr(sys, "argv", ["bench.check", "install"])
    assert exit_code(main) == 0
    found = facts(capsys.readouterr().out)
    assert found["alignment-bench"].startswith(version("alignment-bench"))
    assert found["python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert found["torch"].startswith(torch.__version__)
    assert f"{torch.get_num_threads()} threads" in found["processor"]
    assert f"{psutil.virtual_memory().total / 1e9:.3g} GB" in found["memory"]
    assert f"pydantic {version('pydantic')}" in found["packages"]
    assert f"hf (datasets {version('datasets')})" in found["extras"]
    assert found["cache"].endswith("(1 files, 2 kB)")
    assert found["weights found"] == "mae-b"


def test_nothing_private_is_printed(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("ALIGNMENT_BENCH_CACHE", str(Path.home() / "no-such-cache"))
    text = description()
    assert "hf_secret" not in text
    assert facts(text)["cache"] == "~/no-such-cache (not there)"


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(
        machine, "versions", lambda names: {name: "1" for name in names if name != "datasets"}
    )
    assert "hf (without datasets)" in facts(description())["extras"]


def test_the_revision_of_another_project_is_not_taken_for_ours(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "machine.py"))
    assert machine.revision() == ""  # not a checkout
    monkeypatch.setattr(machine, "__file__", str(Path(__file__).with_name("untracked.py")))
    assert machine.revision() == ""  # in a checkout that does not know the file

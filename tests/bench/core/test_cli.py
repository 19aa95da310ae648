"""The command line that all commands share: one look, paths of the home folder, spellings of before."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from bench.core.cli import Device, Interval, OptionalInt, OptionalPath, Results, options_of, parse

ROOT = Path(__file__).parents[3]
COMMANDS = [
    "run",
    "evaluate",
    "report",
    "prepare",
    "probe",
    "status",
    "check",
    "methods",
    "leaderboard",
    "publish",
]
COMMANDS += [f"benchmark.{part}" for part in ("data", "metrics", "network", "report", "steps")]


class Model(BaseModel):
    size: int = Field(4, gt=0, description="rows of an image")
    scale: float = Field(1.0, description="how much larger")
    internal: str = ""


class Generated(options_of(Model)):
    """What the model says."""


@dataclass(frozen=True)
class Group:
    file: OptionalPath = None
    """a file"""
    interval: Interval = None
    """two numbers"""


@dataclass(frozen=True)
class Options:
    names: tuple[str, ...] = ("a",)
    """some names"""
    count: OptionalInt = None
    """how many"""
    level: float = 0.5
    """of noise"""
    on: bool = False
    """whether"""
    device: Device = "auto"
    results: Results = Path("results")
    group: Group = field(default_factory=Group)
    generated: Generated = field(default_factory=Generated)


@pytest.fixture
def parsed(monkeypatch):
    def call(*words, renamed=None):
        monkeypatch.setattr(sys, "argv", ["command", *words])
        return parse(Options, "A command.", renamed or {})

    return call


def test_options_are_read_as_the_types_that_they_declare(parsed):
    words = "--names b c --count 3 --level 0.25 --on --interval 0 0.7 --size 8"
    found = parsed(*words.split())
    assert (found.names, found.count, found.level, found.on) == (("b", "c"), 3, 0.25, True)
    assert found.group.interval == (0.0, 0.7)
    assert (found.generated.size, found.generated.scale) == (8, None)
    assert not hasattr(found.generated, "internal")
    assert parsed() == Options()


def test_an_interval_may_be_written_as_it_is_printed(parsed):
    assert parsed("--interval", "0:0.7") == parsed("--interval", "0", "0.7")


@pytest.mark.parametrize("word", ["--folder", "--folder=x", "--the_folder=x", "--the-folder"])
def test_earlier_spellings_are_understood(parsed, word):
    words = [word] if "=" in word else [word, "x"]
    assert parsed(*words, renamed={"--folder": "--results", "--the-folder": "--results"}).results == Path("x")


def test_the_home_folder_is_found_in_every_path(parsed, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = parsed("--results=~/a", "--file", "~/b")
    assert (found.results, found.group.file) == (tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("words", [("--level", "nan"), ("--scale", "inf"), ("--interval", "0:nan")])
def test_numbers_that_are_not_finite_are_refused(parsed, words, capfd):
    with pytest.raises(SystemExit) as ended:
        parsed(*words)
    said = capfd.readouterr()
    assert ended.value.code == 2 and "not a finite number" in said.out + said.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_looks_the_same_and_needs_no_torch(command):
    probe = f"import sys; sys.argv = ['x', '--help']; import bench.{command} as command\n"
    probe += "try: command.main()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.strip() == "False", done.stderr
    assert done.stdout.startswith(f"usage: python -m bench.{command} ")
    for unwanted in ("--no-", "{None}", "default: None", "STR", "INT", "FLOAT"):
        assert unwanted not in done.stdout.replace("--no-sampling", "")

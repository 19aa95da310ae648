"""Files that are cut off, or have a flipped bit: one after the other of every kind that commands read.

Where a file has a checksum, or a format that notices, the command gives the right numbers or says in one line
what is damaged. Rows (`.jsonl`) carry no checksum, but one that is missing must be named. Of the other files
it is only asked that no command ends in a traceback: a file of weights that a person names is identified by
its content, whatever that is.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.benchmark.checks.faults.commands import (
    CACHED,
    draw_images,
    main,
    only_run,
    run_of,
    scores,
    shards,
    tables,
    training,
)
from bench.benchmark.checks.faults.counts import Line
from bench.benchmark.checks.faults.process import Fork, Task, fresh, run_undisturbed

SUITE = """seed = [0]
data = "digits"
training = { steps = 2, batch_size = 8 }
protocol = { samples = 16, feature_nets = ["random-conv"] }
[[grid]]
method = ["baseline", "repa[weight=0.5]"]
backbone = ["sit-pico"]
"""
IMAGES_HARMED = 3  # of a folder of equal kind


@dataclass(frozen=True)
class Reading:
    """A command and the files that it starts from."""

    task: Task
    exact: Callable[[Path, str], bool] = lambda file, fault: (
        True
    )  # whether harm to a file may change no number

    def files(self) -> list[Path]:
        """What is damaged, relative to the start."""
        start = self.task.start
        found = sorted(path.relative_to(start) for path in start.rglob("*") if path.is_file())
        found = [path for path in found if (start / path).stat().st_size]
        images = [path for path in found if path.suffix == ".png"]
        return [path for path in found if path not in images[IMAGES_HARMED:]]


def readings(folder: Path) -> dict[str, Callable[[], Reading]]:
    """By name; what a reading starts from is made when it is called."""
    return {
        "interrupted run": lambda: _interrupted(folder, Task("train", training("baseline"), run_of, folder)),
        "interrupted run with cache": lambda: _interrupted(
            folder, Task("cache", training(CACHED), run_of, folder)
        ),
        "images and references": lambda: _scored(folder),
        "store": lambda: _store(folder),
        "weights": lambda: _weights(folder),
        "suite file": lambda: _suite(folder),
        "finished runs": lambda: _report(folder),
    }


def damage(folder: Path, name: str, reading: Reading, fault: str, draw: random.Random) -> Line:
    """Each file of a reading, harmed at a random place; `fault` is one of HARMS."""
    line = Line(fault, f"reads: {name}")
    truth = _undisturbed(folder, reading.task)
    for file in reading.files():
        case = fresh(folder, reading.task)
        HARMS[fault](case / file, draw)
        code, text = Fork(reading.task, case).wait()
        line.tries += 1
        line.ended(code, text)
        changed = code == 0 and reading.exact(file, fault) and reading.task.outcome(case) != truth
        if changed and not line.warned(text, file.name):
            line.fail(f"other numbers after damage to {file}")
    return line


def _cut(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])


def _flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


CUT, FLIPPED = "file cut off", "bit flipped"
HARMS = {CUT: _cut, FLIPPED: _flip}


def _undisturbed(folder: Path, task: Task) -> Any:
    case = fresh(folder, task)
    run_undisturbed(task, case)
    return task.outcome(case)


def _start(folder: Path, name: str) -> Path:
    """An empty folder for a reading to start from."""
    start = folder / "start" / name
    shutil.rmtree(start, ignore_errors=True)
    start.mkdir(parents=True)
    return start


def _interrupted(folder: Path, task: Task) -> Reading:
    """A run that was killed after two checkpoints."""
    task = replace(task, start=_start(folder, f"{task.name} interrupted"))
    case = fresh(folder, task)
    fork = Fork(task, case)
    while fork.running() and len(list(case.rglob("state.json"))) < 2:
        time.sleep(0.002)
    fork.kill()
    fork.wait()
    shutil.copytree(case, task.start, dirs_exist_ok=True)
    return Reading(task, lambda file, fault: fault == CUT or file.suffix != ".jsonl")


def _scored(folder: Path) -> Reading:
    """Images as files, in a zip and in an .npz, against each other and against saved statistics."""
    start = _start(folder, "scored")
    draw_images(start / "images")
    shutil.make_archive(str(start / "images"), "zip", start / "images")
    nets = ("--feature-nets", "random-conv", "--yes")

    def saved(at: Path) -> None:
        main("evaluate", at / "images", *nets, "--save-reference", at / "saved.npz", "--copy", at / "i.npz")

    run_undisturbed(Task("save", saved, lambda at: None, start), start)

    def score(at: Path) -> None:
        for images, reference in (("images", "i.npz"), ("i.npz", "saved.npz"), ("images.zip", "saved.npz")):
            output = ("--output", at / "scores" / f"{images}.json")
            main("evaluate", at / images, "--reference", at / reference, *nets, *output)

    (start / "scores").mkdir()

    def outcome(at: Path) -> Any:
        return [scores(path) for path in sorted((at / "scores").iterdir())]

    return Reading(Task("score", score, outcome, start))


def _store(folder: Path) -> Reading:
    """A store, verified: a damaged shard is found."""
    start = _start(folder, "store")
    images = folder / "start" / "images of the store"
    draw_images(images)
    options = ("--size", "8", "--workers", "1", "--yes")
    make = Task("make", lambda at: main("prepare", images, "--output", at / "store", *options), shards, start)
    run_undisturbed(make, start)
    verify = Task("verify", lambda at: main("prepare", "--verify", at / "store"), shards, start)
    return Reading(verify, lambda file, fault: file.suffix == ".safetensors")


def _weights(folder: Path) -> Reading:
    """Weights of this suite and of an official checkpoint, sampled and scored."""
    import torch

    import backbones

    start = _start(folder, "weights")
    shutil.copy(only_run(folder / "start" / "runs") / "ema.safetensors", start / "ours.safetensors")
    network = backbones.build(backbones.architecture("sit-pico"), input_size=8, channels=1, num_classes=10)
    torch.save({"ema": network.state_dict()}, start / "official.pt")
    options = ("--samples", 16, "--sampler-flow", "euler[steps=2]", "--feature-nets", "random-conv")

    def score(at: Path) -> None:
        for file in ("ours.safetensors", "official.pt"):
            family = () if file.startswith("ours") else ("--family", "sit")
            main("run", "--evaluate-only", at / file, *family, *options, "--device", "cpu", "--results", at)

    return Reading(Task("weights", score, lambda at: None, start), lambda file, fault: False)


def _suite(folder: Path) -> Reading:
    """A suite file and the options of jobs, planned."""
    start = _start(folder, "suite")
    (start / "mine.toml").write_text(SUITE)

    def plan(at: Path) -> None:
        main("run", "--suite", at / "mine.toml", "--results", at, "--device", "cpu", "--dry-run")

    return Reading(Task("plan", plan, lambda at: None, start), lambda file, fault: False)


def _report(folder: Path) -> Reading:
    """Finished runs, reported."""
    start = _start(folder, "reported")
    shutil.copytree(folder / "start" / "runs", start, dirs_exist_ok=True)
    report = Task("report", lambda at: main("report", at), tables, start)
    return Reading(report, lambda file, fault: False)

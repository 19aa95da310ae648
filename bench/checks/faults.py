"""A campaign of faults against the commands: kills, full disks, damaged files, several owners, wrong clocks.

Every case starts from a fresh copy of a small folder, is disturbed, and then runs undisturbed. Nothing may be
lost: the numbers must be those of a run that was never disturbed, and whatever ends a command in between must
be one line, without a traceback. Commands run in forks of this process, which has imported all they need, so
that a random moment falls into their work and not into the import of torch.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.core.errors import UserError, exit_code, unknown
from bench.core.files import read_json, sha256, write_text
from bench.core.progress import progress_bar
from bench.evaluation.protocol_checks import CheckResult

COUNT_OF_IMAGES = 24
TRAINING = {"steps": 6, "batch_size": 8, "checkpoint_every": 2, "evaluate_every": 3, "log_every": 1}
PROTOCOL = {"samples": 16, "sampler_flow": "euler[steps=2]", "feature_nets": ("random-conv",)}
KILLS_PER_CASE = 5  # before the case is run to its end


@dataclass(frozen=True)
class Task:
    """A command, the folder that it starts from, and what must come out of it."""

    name: str
    command: Callable[[Path], None]
    outcome: Callable[[Path], Any]
    start: Path


@dataclass
class Line:
    """A line of the table: one kind of fault against one command."""

    fault: str
    task: str
    tries: int = 0
    stopped: int = 0  # commands that ended early, by the fault or with one line
    lost: int = 0
    said: str = ""  # an example of what a person read
    failures: list[str] = field(default_factory=list)

    def fail(self, what: str) -> None:
        self.lost += 1
        self.failures.append(what)
        print(f"{self.fault}, {self.task}: {what}", file=sys.stderr, flush=True)


def check_faults(
    kills: int, commands: Sequence[str] = (), markdown: Path | None = None
) -> Iterator[CheckResult]:
    """A result per kind of fault and command; `markdown` is a file that the table of counts is written to.

    Raises UserError if the file cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        lines = campaign(Path(folder).resolve(), kills, commands)
    for line in lines:
        text = f"{line.task}: {line.tries} tries, {line.stopped} ended early, {line.lost} lost"
        yield CheckResult(line.fault, "failed" if line.lost else "ok", "\n".join([text, *line.failures]))
    if markdown:
        try:
            write_text(markdown, table(lines) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {markdown}: {error.strerror or error}.") from None


def campaign(folder: Path, kills: int, commands: Sequence[str] = (), seed: int = 0) -> list[Line]:
    """Run it in an empty folder, with at least `kills` kills; a line per kind of fault and command.

    Raises UserError for a command that is none of the campaign's.
    """
    draw = random.Random(seed)
    known = {task.name: task for task in _tasks(folder)}
    for name in commands:
        if name not in known:
            raise unknown("command of the campaign", name, known)
    tasks = [known[name] for name in commands or known]
    truth = {}
    for task in tasks:
        _must(task, _case(folder, task))
        case = _case(folder, task)
        start = time.monotonic()
        _must(task, case)
        truth[task.name] = (task.outcome(case), time.monotonic() - start)
    lines = []
    with progress_bar(len(tasks), 0, "faults", "command") as bar:
        for task in tasks:
            outcome, seconds = truth[task.name]
            lines.append(_kills(folder, task, outcome, seconds, -(-kills // len(tasks)), draw))
            lines.append(_full_disk(folder, task, outcome))
            lines.append(_size_limit(folder, task, outcome, draw))
            lines += _damage(folder, task, outcome, draw)
            bar.update()
    if "train" in truth:
        lines.append(_owners(folder, known["train"], truth["train"][0]))
        lines.append(_clocks(folder, known["train"], *truth["train"]))
    return lines


def table(lines: list[Line]) -> str:
    """In Markdown, with the totals."""
    rows = [
        "| fault | command | tries | ended early | lost | what a person read |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        said = line.said.replace("|", r"\|")
        rows.append(f"| {line.fault} | {line.task} | {line.tries} | {line.stopped} | {line.lost} | {said} |")
    total = [sum(getattr(line, name) for line in lines) for name in ("tries", "stopped", "lost")]
    rows.append(f"| all | | {total[0]} | {total[1]} | {total[2]} | |")
    return "\n".join(rows)


# The commands.


def _tasks(folder: Path) -> list[Task]:
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    empty, images = folder / "start" / "empty", folder / "start" / "images"
    empty.mkdir(parents=True)
    for label in ("cat", "dog"):
        (images / "images" / label).mkdir(parents=True)
        for number in range(COUNT_OF_IMAGES // 2):
            pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / "images" / label / f"{number:03d}.png")
    train = Task("train", _training("baseline"), _run, empty)
    runs = folder / "start" / "runs"
    shutil.copytree(empty, runs)
    _must(train, runs)
    cached = _training("repa[encoder=digits-teacher[cache=true]]")
    pictures = images / "images"
    sweep = ("--guidance-scale", "1.5", "2.0", "--samples", "32", "--device", "cpu")
    scoring = ("--reference", pictures, "--feature-nets", "random-conv", "--yes")
    return [
        train,
        Task("cache", cached, _run, empty),
        Task("evaluate", lambda at: _main("evaluate", _only_run(at), *sweep), _run, runs),
        Task(
            "score",
            lambda at: _main(
                "evaluate", pictures, *scoring, "--output", at / "scores.json", "--copy", at / "copy.npz"
            ),
            lambda at: (read_json(at / "scores.json")["metrics"], sha256(at / "copy.npz")),
            empty,
        ),
        Task(
            "prepare",
            lambda at: _main(
                "prepare", pictures, "--output", at / "store", "--size", "8", "--workers", "1", "--yes"
            ),
            _store,
            empty,
        ),
        Task("report", lambda at: _main("report", at), _tables, runs),
    ]


def _training(method: str) -> Callable[[Path], None]:
    import torch

    from bench.config import resolve
    from bench.launch.runner import Runner
    from bench.runs.folder import RunFolder

    spec = resolve.run_spec(method, "sit-pico", "digits", 0, training=TRAINING, protocol=PROTOCOL)

    def train(at: Path) -> None:
        if not RunFolder(at, spec).finished:
            Runner(spec, at, torch.device("cpu")).run()

    return train


def _main(module: str, *arguments: object) -> None:
    """`python -m bench.MODULE ARGUMENTS`."""
    sys.argv = [f"bench.{module}", *map(str, arguments)]
    importlib.import_module(f"bench.{module}").main()


def _only_run(at: Path) -> Path:
    return next(at.rglob("spec.json")).parent


def _run(at: Path) -> Any:
    """Weights, losses and metrics of the only run."""
    from bench.runs.record import RunRecord

    record = RunRecord(_only_run(at))
    losses = {row.step: row.loss for row in record.training()}
    metrics = {(row.step, row.protocol): row.metrics for row in record.evaluations()}
    return losses, metrics, sha256(record.folder / "ema.safetensors"), record.status().state


def _tables(at: Path) -> Any:
    """The tables of a report, by name."""
    return {str(path.relative_to(at)): sha256(path) for path in at.rglob("*.csv")}


def _store(at: Path) -> Any:
    """Checksums of everything in the store but its manifest, which says when it was made."""
    (manifest,) = at.rglob("manifest.json")
    return {path.name: sha256(path) for path in manifest.parent.iterdir() if path != manifest}


def _must(task: Task, at: Path) -> None:
    """Run undisturbed, and import what the command has imported."""
    modules = at.with_name("modules")
    code, text = _Fork(task, at, modules=modules).wait()
    if code:
        raise RuntimeError(f"{task.name} fails undisturbed: {text}")
    for name in modules.read_text().splitlines():
        with suppress(Exception):  # made up by their packages
            importlib.import_module(name)


def _case(folder: Path, task: Task) -> Path:
    """A fresh copy of the task's start, at the same place for all cases: paths may stand in files."""
    case = folder / "case"
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(task.start, case)
    return case


class _Fork:
    """A command in a fork of this process, as the leader of a process group of its own."""

    def __init__(
        self, task: Task, at: Path, disturb: Callable[[], None] = lambda: None, modules: Path | None = None
    ) -> None:
        """`disturb` is called in the fork before the command starts; `modules` gets what it has imported."""
        self.log = at.with_name(f"{at.name}.log.{time.monotonic_ns()}")
        self.log.touch()
        sys.stdout.flush()
        sys.stderr.flush()
        self.process = os.fork()
        if self.process == 0:
            code = 1
            try:
                os.setsid()
                log = os.open(self.log, os.O_WRONLY | os.O_CREAT)
                for stream in (1, 2):
                    os.dup2(log, stream)
                os.environ["ALIGNMENT_BENCH_CACHE"] = str(at / "cache")
                disturb()
                code = exit_code(lambda: task.command(at))
                if modules is not None:
                    modules.write_text("\n".join(sys.modules))
                sys.stdout.flush()
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(code)

    def kill(self) -> None:
        """Whatever the command has started included."""
        try:
            os.killpg(self.process, signal.SIGKILL)
        except ProcessLookupError:  # not a leader yet
            os.kill(self.process, signal.SIGKILL)

    def running(self) -> bool:
        return os.waitid(os.P_PID, self.process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self) -> tuple[int, str]:
        """Exit status, negative for a signal, and what the command said."""
        _, status = os.waitpid(self.process, 0)
        text = self.log.read_text(errors="replace")
        self.log.unlink()
        return os.waitstatus_to_exitcode(status), text


# The faults.


def _kills(folder: Path, task: Task, truth: Any, seconds: float, kills: int, draw: random.Random) -> Line:
    line = Line("killed at a random moment", task.name)
    while line.tries < kills:
        case = _case(folder, task)
        for _ in range(KILLS_PER_CASE):
            fork, deadline = _Fork(task, case), time.monotonic() + draw.uniform(0, seconds)
            while fork.running() and time.monotonic() < deadline:
                time.sleep(0.002)
            ended = not fork.running()
            if not ended:
                fork.kill()
            code, text = fork.wait()
            line.tries += not ended
            line.stopped += not ended
            if ended and code:
                line.fail(text)
            if ended:
                break
        _compare(line, task, case, truth)
    return line


def _full_disk(folder: Path, task: Task, truth: Any) -> Line:
    """No space left from the n-th file on that is opened for writing, for every n."""
    line = Line("disk full at every write", task.name)
    for number in range(1, 1000):
        case = _case(folder, task)
        code, text = _Fork(task, case, lambda case=case, number=number: _fill_disk(case, number)).wait()
        if code == 0 and "no space is left" not in text:
            return line  # no n-th write
        line.tries += 1
        _one_line(line, code, text)
        _compare(line, task, case, truth)
    return line


def _fill_disk(at: Path, number: int) -> None:
    import safetensors.torch

    opened = 0

    def count(path: object) -> None:
        nonlocal opened
        if str(path).startswith(str(at)):
            opened += 1
            if opened >= number:
                if opened == number:
                    os.write(1, b"(no space is left from here on)\n")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            count(arguments[0])

    writers: Any = safetensors.torch  # in Rust, which no audit hook sees
    save = writers.serialize_file

    def save_file(tensors: Any, path: Any, *rest: Any, **options: Any) -> None:
        count(path)
        save(tensors, path, *rest, **options)

    writers.serialize_file = save_file
    sys.addaudithook(hook)


def _size_limit(folder: Path, task: Task, truth: Any, draw: random.Random) -> Line:
    """Writes that fail in the middle of a file: the kernel's limit on the size of files."""
    line = Line("write fails within a file", task.name)
    sizes = sorted({path.stat().st_size for path in folder.joinpath("case").rglob("*") if path.is_file()})
    for size in draw.sample(sizes, min(len(sizes), 8)):
        case, limit = _case(folder, task), max(0, size - 1)

        def disturb(limit: int = limit) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (max(limit, 4096), resource.RLIM_INFINITY))

        code, text = _Fork(task, case, disturb).wait()
        line.tries += 1
        _one_line(line, code, text)
        _compare(line, task, case, truth)
    return line


def _damage(folder: Path, task: Task, truth: Any, draw: random.Random) -> Iterator[Line]:
    """Each file that an interrupted command leaves is cut, or one of its bits is flipped.

    The command then gives the right numbers, or ends with one line. Rows (`.jsonl`) carry no checksum: of a
    flipped bit in one, only that it ends in no traceback is asked.
    """
    if task.name not in ("train", "cache"):
        return
    half = _case(folder, task)
    fork = _Fork(task, half)
    while fork.running() and len(list(half.rglob("state.json"))) < 2:
        time.sleep(0.002)
    fork.kill()
    fork.wait()
    kept = folder / "start" / f"half {task.name}"
    shutil.copytree(half, kept)
    files = sorted(
        path.relative_to(half) for path in half.rglob("*") if path.is_file() and path.stat().st_size
    )
    interrupted = replace(task, start=kept)
    for fault, harm in (("file cut off", _cut), ("bit flipped", _flip)):
        line = Line(fault, task.name)
        for name in files:
            case = _case(folder, interrupted)
            harm(case / name, draw)
            code, text = _Fork(task, case).wait()
            line.tries += 1
            _one_line(line, code, text)
            if code == 0 and not (name.suffix == ".jsonl" and harm is _flip) and task.outcome(case) != truth:
                line.fail(f"other numbers after damage to {name}")
        yield line


def _cut(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])


def _flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def _owners(folder: Path, task: Task, truth: Any) -> Line:
    """Two and three processes start the same run at once."""
    line = Line("several owners at once", task.name)
    for number in (2, 3, 3):
        case = _case(folder, task)
        forks = [_Fork(task, case) for _ in range(number)]
        for code, text in [fork.wait() for fork in forks]:
            line.tries += 1
            _one_line(line, code, text)
        _compare(line, task, case, truth)
    return line


def _clocks(folder: Path, task: Task, truth: Any, seconds: float) -> Line:
    """A killed run whose files are of tomorrow, or of last year, is taken over and completed."""
    line = Line("clock jumps", task.name)
    for days in (1, -1, 365, -365):
        case, fork = _case(folder, task), _Fork(task, folder / "case")
        time.sleep(seconds / 2)
        fork.kill()
        fork.wait()
        moment = time.time() + days * 86_400
        for path in case.rglob("*"):
            os.utime(path, (moment, moment))
        line.tries += 1
        _compare(line, task, case, truth)
    return line


def _one_line(line: Line, code: int, text: str) -> None:
    """A command that ends early says so in one line."""
    said = [line for line in re.split(r"[\r\n]|\x1b\[\w", text) if line.startswith("error: ")]
    if code == 0:
        return
    line.stopped += 1
    if code != 2 or len(said) != 1 or "Traceback" in text:
        line.fail(f"exit status {code}: {text[-1500:]}")
    elif not line.said:
        line.said = said[0].removeprefix("error: ")


def _compare(line: Line, task: Task, case: Path, truth: Any) -> None:
    """Run to the end, undisturbed."""
    code, text = _Fork(task, case).wait()
    if code:
        line.fail(f"cannot be completed: {text[-1500:]}")
        return
    found = task.outcome(case)
    if found != truth:
        line.fail(f"other numbers: {json.dumps([str(found), str(truth)])[:1500]}")
    left = [path for path in case.rglob(".*") if path.name != ".gitignore"]
    if left:
        line.fail(f"left behind: {left}")

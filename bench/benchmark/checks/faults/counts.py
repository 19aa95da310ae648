"""What is counted: tries, commands that ended early, what was lost, and what a person read."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.benchmark.checks.faults.process import Fork, Task


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
        """Count a loss."""
        self.lost += 1
        self.failures.append(what)
        print(f"{self.fault}, {self.task}: {what}", file=sys.stderr, flush=True)

    def ended(self, code: int, text: str) -> None:
        """Count a command that was disturbed: one that ends early says so in one line."""
        said = _lines(text, "error: ")
        if code == 0:
            return
        self.stopped += 1
        if code != 2 or len(said) != 1 or "Traceback" in text:
            self.fail(f"exit status {code}: {text[-1500:]}")
        elif not self.said:
            self.said = said[0]

    def warned(self, text: str, name: str) -> bool:
        """Whether a command named this file in a warning, which is noted."""
        said = [line for line in _lines(text, "warning: ") if name in line]
        self.said = self.said or "".join(said[:1])
        return bool(said)

    def complete(self, task: Task, case: Path, truth: Any) -> None:
        """Run a case to its end, undisturbed, and compare what comes out."""
        code, text = Fork(task, case).wait()
        if code:
            self.fail(f"cannot be completed: {text[-1500:]}")
            return
        found = task.outcome(case)
        if found != truth:
            self.fail(f"other numbers: {json.dumps([str(found), str(truth)])[:1500]}")
        # Submission files of jobs are named so by submitit.
        left = [path for path in case.rglob(".*") if path.name != ".gitignore" and path.parent.name != "jobs"]
        if left:
            self.fail(f"left behind: {left}")


def _lines(text: str, start: str) -> list[str]:
    """The lines that begin so, without their beginning; a progress bar may precede a line."""
    lines = re.split(r"[\r\n]|\x1b\[\w", text)
    return [line.removeprefix(start) for line in lines if line.startswith(start)]


def table(lines: Sequence[Line]) -> str:
    """In Markdown, with the totals."""
    rows = [
        "| fault | command | tries | ended early | lost | what a person read |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        said = re.sub(r"[^\s']*/case/", "", line.said).replace("|", r"\|")  # without the temporary folder
        rows.append(f"| {line.fault} | {line.task} | {line.tries} | {line.stopped} | {line.lost} | {said} |")
    total = [sum(getattr(line, name) for line in lines) for name in ("tries", "stopped", "lost")]
    rows.append(f"| all | | {total[0]} | {total[1]} | {total[2]} | |")
    return "\n".join(rows)

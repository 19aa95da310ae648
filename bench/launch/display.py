"""Runs on the screen while they go on elsewhere: a table in a terminal, lines in a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from bench.core.progress import SECONDS_BETWEEN_LINES
from bench.launch import watch

REFRESH = 2.0  # seconds


class Display:
    """Runs on the screen while inside: a live table in a terminal; in a log a line whenever the state of a
    run changes, and every half minute."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders, self._said, self._when = folders, "", 0.0
        console = Console()
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def draw(self) -> list[watch.RunState]:
        """Update the display."""
        seen = watch.poll(self.folders)
        states, now = watch.summary(seen), time.monotonic()
        if self._live:
            self._live.update(watch.table(seen), refresh=True)
        elif states != self._said or now - self._when >= SECONDS_BETWEEN_LINES:
            print(states + watch.time_left(seen), flush=True)
            self._said, self._when = states, now
        return seen

    def until_over(self) -> list[watch.RunState]:
        """Show the runs until nothing more will happen by itself. Ctrl-C stops the watching, not the jobs."""
        while True:
            seen = self.draw()
            if all(run.over for run in seen):
                return seen
            time.sleep(REFRESH)

"""Progress in a log: whole lines, half a minute apart, with the time left; in a terminal one live bar."""

import io
import sys

import pytest
import tqdm.std

from bench.core import progress
from bench.core.progress import library_progress, progress_bar


class Clock:
    """A clock that only moves when it is told to."""

    now = 1000.0

    def __call__(self):
        return self.now


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "_clock", clock)
    monkeypatch.setattr(progress, "_last_line", clock())
    monkeypatch.setattr(tqdm.std, "time", clock)
    return clock


def test_a_log_gets_a_line_every_half_minute_and_nothing_else(capsys, clock):
    with progress_bar(100, 0, "run", "step") as bar:
        for _ in range(100):
            clock.now += 1
            bar.update()
    assert capsys.readouterr().err.splitlines(keepends=True) == [
        "run: 30% (30/100 step), 1 step/s, 70 s left\n",
        "run: 60% (60/100 step), 1 step/s, 40 s left\n",
        "run: 90% (90/100 step), 1 step/s, 10 s left\n",
    ]


def test_the_time_left_counts_from_where_an_earlier_session_stopped(capsys, clock):
    with progress_bar(1000, 900, "run", "step") as bar:
        clock.now += 40
        bar.update(20)
    assert capsys.readouterr().err == "run: 92% (920/1000 step), 0.5 step/s, 2.7 min left\n"


def test_bars_inside_bars_share_the_half_minute(capsys, clock):
    with progress_bar(50, 0, "training", "step") as outer:
        for _ in range(10):
            with progress_bar(4, 0, "sampling", "img") as inner:
                for _ in range(4):
                    clock.now += 10
                    inner.update()
            for _ in range(5):
                clock.now += 10
                outer.update()
    written = capsys.readouterr().err
    lines = written.splitlines()
    assert len(lines) == 900 // 30 and "\r" not in written
    assert {line.partition(":")[0] for line in lines} == {"training", "sampling"}


def test_short_work_leaves_no_trace_in_a_log(capsys, clock):
    with progress_bar(10, 0, "run", "step") as bar:
        for _ in range(10):
            clock.now += 2
            bar.update()
    assert capsys.readouterr().err == ""


def test_the_bars_of_libraries_are_lines_in_a_log_while_they_work(capsys, clock):
    with library_progress(), tqdm.std.tqdm(total=2 * 10**9, unit="B", unit_scale=True, desc="file") as bar:
        for _ in range(4):
            clock.now += 20
            bar.update(4 * 10**8)
    assert capsys.readouterr().err.splitlines(keepends=True) == [
        "file: 40% (800M/2.00G B), 20.0M B/s, 60 s left\n",
        "file: 80% (1.60G/2.00G B), 20.0M B/s, 20 s left\n",
    ]
    with tqdm.std.tqdm(total=1) as bar:  # afterwards the library's bars are its own again
        bar.update()
    assert "\r" in capsys.readouterr().err


def test_other_processes_of_a_run_are_silent(capsys, clock, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with progress_bar(1, 0, "run", "step") as bar:
        clock.now += 100
        bar.update()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_one_live_bar_that_vanishes(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    with progress_bar(100, 0, "run", "step") as bar:
        for _ in range(50):
            clock.now += 1
            bar.update()
    assert "\n" not in screen.getvalue() and screen.getvalue().count("\r") > 40
    assert "50/100" in screen.getvalue() and "00:50" in screen.getvalue()
    assert screen.getvalue().rpartition("\r")[0].rpartition("\r")[2].strip() == ""

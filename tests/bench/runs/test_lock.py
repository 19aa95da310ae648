"""One process owns a run: the second hears who it is, and the dead leave it to the living."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from bench.core.errors import UserError
from bench.runs import lock
from bench.runs.lock import Owner, RunLock, working_on


def claim_elsewhere(folder, **changes):
    """Leave the claim of a process on another machine."""
    other = replace(Owner.this_process(), host="elsewhere", **changes)
    (folder / "owner.json").write_text(json.dumps(asdict(other)))
    return other


def make_old(folder):
    past = os.stat(folder / "owner.json").st_mtime - lock.PATIENCE - 1
    os.utime(folder / "owner.json", (past, past))


def test_the_second_process_hears_who_owns_the_run(tmp_path):
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.acquire()
    with pytest.raises(UserError, match=f"is locked by process {os.getpid()} on {socket.gethostname()}"):
        second.acquire()
    first.check()
    first.release()
    second.acquire()
    assert working_on(tmp_path).token != ""
    second.release()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_killed_leaves_the_run_free(tmp_path):
    script = "import os, sys; from pathlib import Path; from bench.runs.lock import RunLock\n"
    script += "RunLock(Path(sys.argv[1])).acquire(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert lock.owner_of(tmp_path) is not None and working_on(tmp_path) is None
    own = RunLock(tmp_path)
    own.acquire()
    own.release()


def test_an_owner_elsewhere_counts_as_gone_when_it_is_silent_for_long(tmp_path):
    claim_elsewhere(tmp_path)
    with pytest.raises(UserError, match="on elsewhere"):
        RunLock(tmp_path).acquire()
    make_old(tmp_path)
    own = RunLock(tmp_path)
    own.acquire()
    own.check()
    own.release()


def test_a_job_that_was_started_again_takes_its_own_run_at_once(tmp_path, monkeypatch):
    claim_elsewhere(tmp_path, job="17")
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    with pytest.raises(UserError, match="job 17"):
        RunLock(tmp_path).acquire()
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    own = RunLock(tmp_path)
    own.acquire()
    own.release()


def test_a_process_that_slept_notices_that_its_run_was_taken_over(tmp_path):
    asleep = RunLock(tmp_path)
    asleep.acquire()
    claim_elsewhere(tmp_path)
    with pytest.raises(UserError, match=r"was taken over by .* on elsewhere"):
        asleep.check()
    asleep.release()
    assert lock.owner_of(tmp_path).host == "elsewhere"  # another's claim is left alone


def test_of_two_that_find_a_stale_claim_only_one_takes_it(tmp_path):
    """The slower one has read the stale claim, but finds the faster one's when it moves the file away."""
    stale = claim_elsewhere(tmp_path)
    make_old(tmp_path)
    faster = RunLock(tmp_path)
    faster.acquire()
    lock._remove_stale(tmp_path / "owner.json", stale)
    faster.check()
    faster.release()

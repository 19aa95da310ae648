"""A stand-in for Slurm: its commands as small scripts, and its jobs in forks of this process.

The scripts take jobs and list them, and nothing more; real Slurm is what tests/bench/launch runs. A job that
is killed with everything else is started again by the next command, as Slurm does with a node that failed.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

import psutil

STAND_IN = "cluster"  # its folder, whose disk is never full
# A job is a folder of the queue: made by `sbatch`, with a file `by` in it, the number of the process that
# submitted it, and `done` when it has ended.
SCRIPTS = {
    "sbatch": """n=1; while ! mkdir "{queue}/$n" 2>/dev/null; do n=$((n+1)); done
echo "$PPID" > "{queue}/$n/by"; echo "Submitted batch job $n" """,
    "squeue": """cd "{queue}"; for n in *
do [ ! -d "$n" ] || [ -e "$n/done" ] || echo "$n|RUNNING|None|here"; done""",
    "srun": "exit 0",
    "scontrol": "exit 0",
    "sinfo": "exit 0",
    "sacct": "exit 1",
    "scancel": "exit 0",
}
NAMES = {
    "SUBMITIT_EXECUTOR": "slurm",
    "SLURM_NTASKS": "1",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
NAMED_WITHIN = 10.0  # seconds from the folder of a job to the file `by` in it


def start_cluster(queue: Path, jobs: Path) -> int:
    """Put the commands on this process's path, and run what they are given: the process that does.

    It runs until SIGTERM, or until this process ends. `jobs` is the folder of submitit's files.
    """
    programs = queue.parent / "bin"
    for folder in (queue, programs):
        folder.mkdir(parents=True, exist_ok=True)
    for name, script in SCRIPTS.items():
        (programs / name).write_text(f"#!/bin/sh\n{script.format(queue=queue)}\n")
        (programs / name).chmod(0o755)
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    parent = os.getpid()
    if cluster := os.fork():
        return cluster
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    lock = os.open(queue.parent / "lock", os.O_RDWR | os.O_CREAT)
    while os.getppid() == parent:
        with suppress(BlockingIOError):  # of several on one queue, one runs its jobs
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for job in sorted(queue.iterdir()):
                if not (job / "done").exists():
                    _run(queue, job.name, jobs)
                    (job / "done").touch()
        time.sleep(0.05)
    os._exit(0)


def _run(queue: Path, number: str, jobs: Path) -> None:
    """One job, in a fork, to its end or SIGTERM; what it says goes into submitit's logs."""
    if not _submitted(queue / number, jobs / f"{number}_submitted.pkl"):
        return
    job = os.fork()
    if job == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            for stream, kind in ((1, "out"), (2, "err")):
                log = os.open(jobs / f"{number}_0_log.{kind}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(log, stream)
            os.environ |= NAMES | {"SLURM_JOB_ID": number}
            from submitit.core.submission import process_job

            process_job(jobs)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    def end(*_: object) -> None:
        os.kill(job, signal.SIGKILL)
        os._exit(0)

    before = signal.signal(signal.SIGTERM, end)
    os.waitpid(job, 0)
    signal.signal(signal.SIGTERM, before)


def _submitted(job: Path, content: Path) -> bool:
    """Whether what is to be run is there, which it is soon, or never if the submitting command was killed."""
    deadline = time.monotonic() + NAMED_WITHIN
    while not (job / "by").exists() or not (job / "by").read_text().strip():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    submitter = int((job / "by").read_text())
    while not content.exists():
        if not psutil.pid_exists(submitter):
            return content.exists()
        time.sleep(0.05)
    return True

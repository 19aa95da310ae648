"""A test run that is killed leaves no process behind, those of its Slurm included."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.helpers import leftovers, one_node

ROOT = Path(__file__).parents[1]
RUNNER = """
import os, subprocess, sys, time
import psutil
from tests.helpers import leftovers
leftovers.end_marked()
{start}
started = set()
while len(started) < {least}:
    found = [*leftovers.marked(os.environ[leftovers.MARK]), *psutil.Process().children(recursive=True)]
    started = {{process.pid for process in found}} - {{os.getpid()}}
    time.sleep(0.1)
print(*sorted(started), flush=True)
time.sleep(600)
"""
DETACHED = """
subprocess.Popen(["sh", "-c", "setsid sleep 600 & exec sleep 600"], start_new_session=True)
"""
FORKED = """
from tests.helpers import forked
command = forked.Command(["-n1", "-r1", "import time; time.sleep(600)"], module="timeit")
"""
SCHEDULER = """
from pathlib import Path
from tests.helpers.one_node import Cluster
cluster = Cluster(Path("{folder}"), cpus=2)
cluster.start()
job = "touch {folder}/began; trap '' TERM; sleep 600"
cluster.ask("sbatch", "--chdir=/", "--output=/dev/null", "--wrap=" + job)
while not Path("{folder}/began").exists():
    time.sleep(0.1)
"""


@pytest.fixture
def folder():
    """Open to all users, as munge insists on."""
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)
        yield name


@pytest.mark.parametrize(
    ("start", "least"),
    [(DETACHED, 3), (FORKED, 4), (SCHEDULER, 10)],
    ids=["detached", "forked", "slurm"],
)
def test_a_killed_test_run_leaves_nothing_behind(start, least, folder):
    if start is SCHEDULER and (reason := one_node.missing()):
        pytest.skip(reason)
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER.format(start=start.format(folder=folder), least=least)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert runner.stdout
    started = [psutil.Process(int(number)) for number in runner.stdout.readline().split()]
    assert len(started) >= least, started
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    _, alive = psutil.wait_procs(started, timeout=leftovers.SECONDS)
    assert not alive

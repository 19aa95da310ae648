"""Preparation that is killed, against one that is not."""

import os
import random
import signal
import subprocess
import sys
import time

from bench.core.files import sha256
from tests.helpers.sources_on_disk import image_folder

# The command with small shards, so that there are many moments to be killed at.
COMMAND = """
import sys
from pathlib import Path
from bench import prepare
from bench.data import shards
shards.SHARD_RECORDS = 4
prepare.prepare(sys.argv[1], Path(sys.argv[2]), prepare.Recipe(size=32), workers=2)
"""


def start(source, out):
    return subprocess.Popen([sys.executable, "-c", COMMAND, source, out], start_new_session=True)


def files(folder):
    return {path.name: sha256(path) for path in folder.iterdir()}


def test_killed_at_five_random_moments_it_ends_in_the_same_store(tmp_path):
    """SIGKILL, three times to all its processes and twice to the first alone, after some more shards."""
    source = image_folder(tmp_path / "source", count=60, parts=("train",))  # 180 images, 45 shards
    assert start(source, tmp_path / "whole").wait() == 0
    killed, draw = tmp_path / "killed", random.Random(0)
    for kill in (os.killpg, os.kill, os.killpg, os.kill, os.killpg):
        process = start(source, killed)
        wanted = len(list(killed.glob("train-*"))) + draw.randint(1, 6)
        while process.poll() is None and len(list(killed.glob("train-*"))) < wanted:
            time.sleep(0.001)
        kill(process.pid, signal.SIGKILL)
        process.wait()
    assert start(source, killed).wait() == 0
    assert files(killed) == files(tmp_path / "whole")

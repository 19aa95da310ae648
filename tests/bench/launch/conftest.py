"""A real Slurm for the tests that ask for one."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.helpers import one_node


@pytest.fixture(scope="session")
def cluster():
    """A cluster of this machine alone; tests are skipped where Slurm is not installed."""
    if reason := one_node.missing():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    cluster = one_node.Cluster(folder, cpus=4)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)

"""Set-up of all tests: one thread per worker, the number of workers, and an end to leftover processes."""

import os

# Workers run side by side, and the numbers of a test must not depend on the cores of the machine. This stands
# before any import of torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.helpers import leftovers

MEMORY_PER_WORKER = 2 * 1024**3
MOST_WORKERS = 8


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the workers inherit the mark
        leftovers.end_marked()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What `--numprocesses=auto` means: for the whole suite one worker per core, as memory allows; for chosen
    files none, which starts faster."""
    import joblib
    import psutil

    whole = {config.rootpath, config.rootpath / "tests"}
    if any((config.invocation_params.dir / name).resolve() not in whole for name in config.args):
        return 0
    by_memory = psutil.virtual_memory().total // MEMORY_PER_WORKER
    return max(1, min(joblib.cpu_count(), by_memory, MOST_WORKERS))

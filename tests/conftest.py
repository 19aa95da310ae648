"""Set-up of all tests: one thread per worker, the number of workers, and an end to leftover processes."""

import os

# Workers run side by side, and the numbers of a test must not depend on the cores of the machine. This stands
# before any import of torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.helpers import leftovers

MEMORY_PER_WORKER = 2 * 1024**3
MOST_WORKERS = 9
# Files that take minutes or wait for most of their time, which start first so that none ends alone.
LONG = (
    "tests/bench/launch/test_slurm.py",
    "tests/bench/launch/test_local.py",
    "tests/bench/benchmark/checks/test_faults.py",
    "tests/contract/test_methods.py",
    "tests/bench/nets/test_inception.py",
    "tests/bench/test_run.py",
    "tests/bench/evaluation/test_evaluator.py",
    "tests/bench/training/test_distributed.py",
    "tests/bench/data/test_imagenet_road.py",
    "tests/bench/benchmark/checks/test_method_checks.py",
    "tests/docs/test_extending.py",
    "tests/test_packaging.py",
    "tests/test_tour.py",
)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the workers inherit the mark
        leftovers.end_marked()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """What `--numprocesses=auto` means: for the whole suite one worker per core, and one more since some wait
    for Slurm or a browser, as memory allows; for chosen files none, which starts faster."""
    import joblib
    import psutil

    whole = {config.rootpath, config.rootpath / "tests"}
    if any((config.invocation_params.dir / name).resolve() not in whole for name in config.args):
        return 0
    by_memory = psutil.virtual_memory().total // MEMORY_PER_WORKER
    return max(1, min(joblib.cpu_count() + 1, by_memory, MOST_WORKERS))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, in the order of `LONG`; all others keep their place."""
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(LONG)))

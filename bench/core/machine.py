"""Properties of this machine: device, precision, memory, versions."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import platformdirs
import psutil
import torch

from bench.core.errors import UserError
from bench.core.files import refuse_unwritable

RECORDED_PACKAGES = ("alignment-bench", "torch", "torchvision", "timm", "numpy", "scikit-learn")


def cache_folder() -> Path:
    """Folder of cached weights and features: $ALIGNMENT_BENCH_CACHE, or the user's cache folder."""
    chosen = os.environ.get("ALIGNMENT_BENCH_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("alignment-bench"))


def refuse_unwritable_cache() -> None:
    """Raises UserError if the cache folder is not writable."""
    refuse_unwritable(cache_folder(), "name another folder for the cache in $ALIGNMENT_BENCH_CACHE")


def select_device(wish: str) -> torch.device:
    """The device of "auto" (CUDA if available), "cpu" or "cuda". Raises UserError if CUDA is unavailable."""
    if wish == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this machine has no usable CUDA device; use --device cpu or auto.")
    return torch.device("cuda" if wish != "cpu" and torch.cuda.is_available() else "cpu")


def native_precision(device: torch.device) -> str:
    """`bf16` if the hardware multiplies it natively, else `fp32`.

    CPUs without it emulate bf16 at a tenth of the speed of fp32.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    flags = _cpu_flags()
    return "bf16" if {"avx512_bf16", "amx_bf16"} & flags else "fp32"


def _cpu_flags() -> set[str]:
    """Instruction sets, by their names in /proc/cpuinfo; empty if there is no such file."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return set()
    lines = (line for line in path.read_text().splitlines() if line.startswith("flags"))
    return set(next(lines, "").split())


def available_memory(device: torch.device) -> int:
    """Free memory of a device in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def synchronise(device: torch.device) -> float:
    """Wait for the device and return the time of a monotonic clock in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def no_tf32() -> Iterator[None]:
    """Context without TF32 in convolutions and matrix products, which would affect Frechet distances."""
    convolutions = torch.backends.cudnn.allow_tf32
    products = torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)


@contextmanager
def one_thread() -> Iterator[None]:
    """While inside, torch computes with one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def matrix_product_speed(
    device: torch.device, precision: str, clock: Callable[[torch.device], float] = synchronise
) -> float:
    """Measured FLOP/s of a 2048 x 2048 matrix product, the fastest of three."""
    size, dtype = 2048, torch.bfloat16 if precision == "bf16" else torch.float32
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(3):
        start = clock(device)
        torch.mm(matrix, matrix)
        seconds.append(clock(device) - start)
    return 2 * size**3 / min(seconds)


def hardware(device: torch.device) -> str:
    """The name of the device, for tables."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    number = torch.get_num_threads()
    return f"{_cpu_name()} ({number} thread{'s' * (number > 1)})"


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe(device: torch.device) -> dict[str, Any]:
    """The record of the environment of a run: hardware, versions, git revision."""
    return {
        "device": device.type,
        "hardware": hardware(device),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions(RECORDED_PACKAGES),
        "git": _git(),
        "command": _command(sys.argv),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _command(words: Sequence[str]) -> str:
    """As it was typed, with paths relative to the working or home folder: records of runs are published.

    Of the launcher of a job or a notebook, another package, the name alone.
    """
    path, root = Path(words[0]), Path(__file__).parents[2]
    inside = path.relative_to(root).with_suffix("").parts if path.is_relative_to(root) else ()
    ours = path.suffix == ".py" and inside[:1] == (Path(__file__).parents[1].name,)
    if not ours and "site-packages" in path.parts:
        return path.name
    program = "python -m " + ".".join(inside) if ours else path.name
    folders = {str(Path.cwd()): "", str(Path.home()): "~/"}
    text = shlex.join(words[1:])
    for folder, shorter in folders.items():
        if folder != "/":
            text = re.sub(rf"(?<![\w.~-]){re.escape(folder)}/", shorter, text)
    return f"{program} {text}".strip()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those packages that are installed."""
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def revision() -> str:
    """Git revision of this checkout, with `+` if it has uncommitted changes; empty outside a checkout."""
    found = _git()
    return found["revision"] + "+" * found["dirty"] if found else ""


def _git() -> dict[str, Any]:
    """Revision of this checkout and whether it has uncommitted changes; empty outside a checkout.

    An installed package may lie in the checkout of another project, whose revision would be misleading.
    """

    def git(*arguments: str) -> str:
        # Without locks: a run that is killed here would leave one behind, and block the user's next commit.
        command = ["git", "--no-optional-locks", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {}

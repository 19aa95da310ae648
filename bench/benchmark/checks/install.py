"""What this machine has: versions, devices, caches and weights, as text to paste into an issue."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import psutil
import torch

from bench.core import machine
from bench.core.errors import UserError
from bench.core.files import in_units
from bench.nets import table, weights

PACKAGE = "alignment-bench"
# They change threads, devices, caches or arithmetic. The values are printed: none of them is a secret.
VARIABLES = re.compile(
    r"(OMP|MKL|OPENBLAS|CUDA|NVIDIA_TF32|CUBLAS|TORCH|PYTORCH|NCCL|GOMP|ALIGNMENT_BENCH|HF_HOME)"
)
HOME = re.compile(rf"^{re.escape(str(Path.home()))}(?=/|$)")


def description() -> str:
    """One line per fact, `name: value`. Of the variables only those of numerical libraries and caches."""
    facts = dict(_facts())
    width = max(map(len, facts)) + 1
    return "\n".join(f"{name + ':':<{width}} {value}" for name, value in facts.items())


def _facts() -> Iterator[tuple[str, str]]:
    own = machine.versions([PACKAGE]).get(PACKAGE, "not installed, on the path")
    commit = machine.revision()
    yield PACKAGE, own + f", commit {commit[:12]}{'+' * commit.endswith('+')}" * bool(commit)
    yield "python", f"{platform.python_version()}, {platform.platform()}"
    yield "torch", _torch()
    device = machine.select_device("auto")
    yield "device", f"{machine.hardware(device)}, {machine.native_precision(device)} is native"
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield f"cuda:{index}", f"{properties.name}, {in_units(properties.total_memory)}"
    memory = psutil.virtual_memory()
    yield "processor", f"{psutil.cpu_count(logical=False)} cores, {torch.get_num_threads()} threads of torch"
    yield "memory", f"{in_units(memory.total)}, {in_units(memory.available)} available"
    yield "packages", _listed(machine.versions([*_packages()[""], "numpy"]))
    yield "extras", "; ".join(_extras()) or "unknown: the package is not installed"
    yield from ((name, _folder(path)) for name, path in _caches().items())
    yield "weights found", ", ".join(_networks()) or "none"
    variables = {name: value for name, value in os.environ.items() if VARIABLES.match(name)}
    yield (
        "environment",
        " ".join(f"{name}={_short(value)}" for name, value in sorted(variables.items())) or "-",
    )


def _torch() -> str:
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    if not torch.version.cuda and not torch.version.hip:
        build = "CPU only"
    usable = "" if torch.cuda.is_available() or build == "CPU only" else ", no usable device"
    try:
        import torchvision  # noqa: F401  its operators are compiled for one build of torch
    except (ImportError, RuntimeError) as error:
        usable += f", torchvision cannot be imported: {error}"
    return f"{torch.__version__}, built for {build}{usable}, {torch.backends.cpu.get_cpu_capability()}"


def _packages() -> dict[str, list[str]]:
    """Names of the required packages by the extra that asks for them; "": always."""
    packages: dict[str, list[str]] = {"": []}
    with suppress(metadata.PackageNotFoundError):
        for requirement in metadata.requires(PACKAGE) or ():
            extra = re.search(r"extra == ['\"]([\w-]+)", requirement)
            packages.setdefault(extra[1] if extra else "", []).append(re.split(r"[^\w.-]", requirement)[0])
    return packages


def _extras() -> Iterator[str]:
    """Of each extra for users, the versions of its packages, or what is missing."""
    for name, packages in _packages().items():
        if name not in ("", "all", "test", "docs"):
            found = machine.versions(packages)
            missing = [package for package in packages if package not in found]
            yield f"{name} ({'without ' + ', '.join(missing) if missing else _listed(found)})"


def _caches() -> dict[str, Path]:
    from huggingface_hub.constants import HF_HUB_CACHE

    return {
        "cache": machine.cache_folder(),
        "cache of hub": Path(HF_HUB_CACHE),
        "cache of torch": Path(torch.hub.get_dir()),
    }


def _networks() -> Iterator[str]:
    """Networks whose published weights are on this machine."""
    for name, network in table.NETWORKS.items():
        if network.library not in ("local", "fixed"):
            try:
                weights.find(name)
            except UserError:
                continue
            yield name


def _folder(path: Path) -> str:
    if not path.is_dir():
        return f"{_short(str(path))} (not there)"
    files = [file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
    return f"{_short(str(path))} ({len(files)} files, {in_units(sum(files))})"


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _short(path: str) -> str:
    """A path with `~` for the home folder, so that a pasted text does not name its user."""
    return HOME.sub("~", path)

"""Checkpoints: folders of safetensors with checksums, written atomically.

step-00000500/
    state.json              counters and a checksum of each file below (formats.Counters)
    PART.safetensors        backbone, ema, method, rewards, optimizer; no pickle, reading executes nothing
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench.core.errors import UserError
from bench.core.files import replacing, write_json
from bench.runs.formats import Counters

if TYPE_CHECKING:
    from torch import Tensor


def name(step: int) -> str:
    """Name of the folder of a step's checkpoint."""
    return f"step-{step:08d}"


def complete(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step-*"))


def save(folder: Path, parts: Mapping[str, Mapping[str, Tensor]], counters: Counters) -> None:
    """Write `parts` (file name -> tensors) and `counters` to `folder/step-...` as one unit.

    Raises:
        UserError: if it cannot be written, for example on a full disk; older ones stay untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        folder.mkdir(exist_ok=True)
        with replacing(folder / name(counters.step)) as unfinished:
            unfinished.mkdir()
            checksums = {}
            for part, tensors in parts.items():
                path = unfinished / f"{part}.safetensors"
                save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, path)
                checksums[part] = _checksum(path)
            write_json(
                unfinished / "state.json", counters.model_copy(update={"checksums": checksums}).fields()
            )
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"the checkpoint at step {counters.step} could not be written to {folder} ({error}): make "
            "room and run the same command again; it continues from the last checkpoint."
        ) from None


def load(path: Path, parts: Iterable[str] | None = None) -> tuple[dict[str, dict[str, Tensor]], Counters]:
    """The tensors of a checkpoint, of all parts or of those named, and its counters.

    Raises:
        UserError: if a file is missing or its checksum differs, naming what is left without it.
    """
    from safetensors.torch import load_file

    part = "state"
    try:
        counters = Counters.model_validate(json.loads((path / "state.json").read_bytes()))
        tensors = {}
        for part in counters.checksums if parts is None else parts:
            file = path / f"{part}.safetensors"
            if _checksum(file) != counters.checksums[part]:
                raise ValueError("its checksum differs")
            tensors[part] = load_file(file)
    except Exception as error:  # damaged files raise many kinds of errors
        older = [other for other in complete(path.parent) if other.name < path.name]
        before = f"step {int(older[-1].name.removeprefix('step-'))}" if older else "the start"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the checkpoint {path} is damaged ({part}: {reason}): "
            f"delete that folder to continue from {before}."
        ) from None
    return tensors, counters


def _checksum(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            checksum = zlib.crc32(block, checksum)
    return checksum

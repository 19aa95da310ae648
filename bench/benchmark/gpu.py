"""The GPU campaign, one command: python -m bench.benchmark.gpu --cifar10 cifar10.zip --against REPA

Checks the card against the CPU, times training and sampling of SiT-S to SiT-XL and DiT-XL, beside the
official code where it is given, and trains a study on CIFAR-10. It is made of pieces of at most eight
minutes. Finished pieces are kept in --output and not made again, so the same command continues wherever it
was stopped; --minutes ends it in time. The page, results.md, and its JSON are written after every piece.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.cli import Device, OptionalPath, parse
from bench.core.errors import UserError, exit_code

if TYPE_CHECKING:
    import torch

    from bench.benchmark.gpu_pieces import Piece

TORCH = (2, 11)  # the oldest version
FAILED = "failed"  # key of what went wrong in a piece, which is tried again


@dataclass(frozen=True)
class Options:
    """Where results go, what is compared, how long it may take."""

    output: Path = Path("results/gpu")
    """folder of finished pieces, of the study and of the page"""
    cifar10: str = "cifar10"
    """images of the study, as for bench.prepare; cifar10 is downloaded"""
    against: OptionalPath = None
    """checkout of the official code of REPA, SiT or DiT to be timed beside ours"""
    minutes: int = 0
    """start no further piece after so many minutes; 0: go on to the end"""
    device: Device = "cuda"
    toy: bool = False
    """tiny networks and a few steps, on a CPU too: shows that it runs, its figures mean nothing"""


def main() -> None:
    """Make the pieces that are missing, one after the other, and write the page."""
    options = parse(Options, __doc__)

    from bench.benchmark import gpu_page, gpu_pieces, gpu_sizes
    from bench.core import machine
    from bench.core.files import refuse_unwritable

    refuse_unwritable(options.output, "choose another --output")
    device = machine.select_device(options.device)
    refuse_unfit(device, options.toy)
    sizes = gpu_sizes.TOY if options.toy else gpu_sizes.FULL
    pieces = gpu_pieces.plan(sizes, options.output, options.cifar10, options.against)
    start = time.monotonic()
    for number, (name, piece) in enumerate(pieces.items(), start=1):
        while not finished(found := result_of(options.output, name)):
            if options.minutes and time.monotonic() - start > 60 * options.minutes:
                print(f"stopped after {options.minutes} minutes: run the same command again to continue.")
                return
            print(f"[{number}/{len(pieces)}] {name}", flush=True)
            found = make(name, piece, options.output, device)
            gpu_page.write(results(options.output, pieces), options.output, device, options.toy)
            if found is not None and FAILED in found:
                break  # tried again by the next command
    everything = results(options.output, pieces)
    gpu_page.write(everything, options.output, device, options.toy)
    print(f"results: {options.output / gpu_page.PAGE}\n" + "\n".join(gpu_page.goals(everything)))
    if broken := [name for name, found in everything.items() if FAILED in found]:
        raise UserError(f"{len(broken)} of {len(pieces)} pieces failed: {', '.join(broken)}.")
    if other := [name for name, found in everything.items() if not found.get("same", True)]:
        raise UserError(f"this card computes other numbers than the CPU: {', '.join(other)}.")


def refuse_unfit(device: torch.device, toy: bool) -> None:
    """Raises UserError for an old torch, and without --toy for a device that is no bf16 card."""
    import torch

    from bench.core import machine

    if tuple(map(int, torch.__version__.split(".")[:2])) < TORCH:
        raise UserError(f"torch {torch.__version__} is older than {'.'.join(map(str, TORCH))}: update it.")
    if toy:
        return
    if device.type != "cuda":
        raise UserError("the campaign needs a CUDA card; --toy --device cpu tries all of it on a CPU.")
    if machine.native_precision(device) != "bf16":
        name = machine.hardware(device)
        raise UserError(f"{name} does not multiply bf16 natively, which the campaign is made for.")


def make(name: str, piece: Piece, output: Path, device: torch.device) -> dict[str, Any] | None:
    """The result of a piece, which is kept; of one that fails, the reason; None if it is to be continued."""
    import torch

    from bench.core.files import write_json

    start = time.monotonic()
    try:
        found = piece(device)
    except (UserError, torch.OutOfMemoryError, RuntimeError) as error:
        found = {FAILED: f"{error}".strip().splitlines()[0]}
        print(f"error: {name}: {found[FAILED]}", file=sys.stderr)
    if found is not None:
        path_of(output, name).parent.mkdir(parents=True, exist_ok=True)
        write_json(path_of(output, name), found | {"piece_seconds": time.monotonic() - start})
    return found


def finished(found: Mapping[str, Any] | None) -> bool:
    """Whether a piece has a result."""
    return found is not None and FAILED not in found


def results(output: Path, pieces: Mapping[str, Piece]) -> dict[str, dict[str, Any]]:
    """What is there so far, by piece, in the order of the campaign."""
    found = {name: result_of(output, name) for name in pieces}
    return {name: result for name, result in found.items() if result is not None}


def result_of(output: Path, name: str) -> dict[str, Any] | None:
    """The result of a piece; None if it was not made yet, or its file is damaged."""
    from bench.core.files import read_json

    return read_json(path_of(output, name)) or None


def path_of(output: Path, name: str) -> Path:
    """The file of a piece."""
    readable = "".join(letter if letter.isalnum() or letter in ".=" else "-" for letter in name)
    return output / "pieces" / f"{readable}.json"


if __name__ == "__main__":
    sys.exit(exit_code(main))

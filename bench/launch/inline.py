"""Runs on this machine, for as long as the command lasts.

They run in this process, one after the other, or in all processes of torchrun; small ones side by side, in
processes of one thread each.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from bench.config.spec import RunSpec
from bench.core import distributed, machine
from bench.core.errors import UserError
from bench.core.parallel import Parallelism
from bench.launch import assets, cost, side_by_side
from bench.launch.side_by_side import PROCESS, SideBySide
from bench.runs import trackers
from bench.runs.folder import RunFolder, adopt, older_runs
from bench.runs.record import RunRecord


def run_all(
    specs: Sequence[RunSpec],
    root: Path,
    device: torch.device,
    parallelism: Parallelism,
    evaluate: Literal["here", "separate"],
    parallel_runs: int | Literal["auto"],
    dry_run: bool,
    track: Sequence[str] = (),
) -> None:
    """Print the plan, then execute the runs; a failed run does not stop the others.

    Raises:
        UserError: if the machine lacks what they need, a tracker included, and if any run fails.
    """
    track = trackers.usable(track)
    if not dry_run:
        specs = distributed.broadcast_from_rank0(lambda: assets.with_trained_networks(specs))
        distributed.broadcast_from_rank0(lambda: _adopt(specs, root))
    if older := distributed.broadcast_from_rank0(lambda: older_runs(root, specs)):
        print(older)
    division = side_by_side.divide(specs, device, parallel_runs)
    if division.beside and not dry_run:
        side_by_side.start_server(division.beside)
    costs = cost.estimate_all(specs, device, parallelism, division.beside)
    cost.show(specs, costs, root, device, division.beside, division.at_once)
    ahead = [spec for spec in specs if not RunRecord(root / spec.run_id).status().finished]
    missing = assets.missing_assets(ahead)
    for line in missing:
        print(f"missing: {line}")
    if dry_run:
        return
    if missing:
        raise UserError(f"this machine lacks what the runs need: {missing[0]}")
    distributed.broadcast_from_rank0(lambda: cost.refuse_what_does_not_fit(costs, root, device))
    failures: dict[str, str] = {}
    if division.beside:
        assets.make_shared([spec for spec in ahead if spec in division.beside], device)
        largest = max(found.memory for found in costs)
        at_once = min(division.at_once, max(1, machine.available_memory(device) // (largest + PROCESS)))
        print(f"{len(division.beside)} runs, {at_once} at once with one thread each", flush=True)
        failures |= SideBySide(division.beside, root, parallelism, evaluate, track).run(at_once)
    failures |= _run_in_order(division.after, root, device, parallelism, evaluate, track)
    if failures and len(specs) == 1:
        raise UserError(failures[specs[0].run_id])
    if failures:
        raise UserError(f"{len(failures)} of {len(specs)} runs failed: {', '.join(failures)}.")
    print(f"done: {len(specs)} runs in {root}. Table and plots: python -m bench.report {root}")


def _adopt(specs: Sequence[RunSpec], root: Path) -> None:
    """Copy runs that were finished for other suites."""
    shared = [source for spec in specs if (source := adopt(root, spec))]
    if shared:
        places = ", ".join(sorted({str(source.parent) for source in shared}))
        print(f"{len(shared)} of {len(specs)} runs were finished in {places} and are copied.")


def _run_in_order(
    specs: Sequence[RunSpec],
    root: Path,
    device: torch.device,
    parallelism: Parallelism,
    evaluate: Literal["here", "separate"],
    track: Sequence[str],
) -> dict[str, str]:
    """Returns the runs that failed, id -> what was wrong."""
    from bench.launch.runner import carry_out  # takes seconds to import, a dry run does not

    failures: dict[str, str] = {}
    for number, spec in enumerate(specs, start=1):
        done = distributed.broadcast_from_rank0(lambda spec=spec: RunFolder(root, spec).finished)
        print(f"[{number}/{len(specs)}] {spec.run_id}{' (finished before)' if done else ''}", flush=True)
        if done:
            continue
        try:
            carry_out(spec, root, device, parallelism, evaluate, track)
        except UserError as error:
            failures[spec.run_id] = str(error)
            if len(specs) > 1:
                print(f"error: {error}", file=sys.stderr)
    return failures

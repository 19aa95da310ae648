"""One of several processes that train a run together."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import distributed

from bench.config import resolve
from bench.core.parallel import UNDIVIDED, Parallelism
from bench.training.trainer import Trainer

CPU = torch.device("cpu")
STEPS = 2
# Adam's first steps have the learning rate's length whatever the gradient's: a small one leaves no room for
# rounding to grow.
TRAINING = {"steps": 60, "batch_size": 9, "log_every": 1, "learning_rate": 1e-5}


def trained(method: str, division: Parallelism = UNDIVIDED, steps: int = STEPS, after: dict | None = None):
    """The state after some steps, whole, and the rows of these; `after` is a state to continue from."""
    trainer = Trainer(resolve.run_spec(method, "sit-ti", "digits", 0, training=TRAINING), CPU, division)
    first = 0
    if after is not None:
        trainer.load_state(after)
        first = STEPS
    rows = [trainer.step(step) for step in range(first, first + steps)]
    return trainer.state(), [{key: row[key] for key in ("loss", "raw", "grad_norm")} for row in rows]


def work(rank: int, world: int, folder: str, cases: list[tuple[str, Parallelism, str]]) -> None:
    """Train every case with the others, from the state in a file where one is named; the first process saves
    what came out."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/meeting-{world}", rank=rank, world_size=world)
    for number, (method, division, start) in enumerate(cases):
        after = torch.load(Path(folder) / start) if start else None
        found = trained(method, division, after=after)
        if rank == 0:
            torch.save(found, Path(folder) / f"found-{world}-{number}")
    distributed.destroy_process_group()

"""One of several processes that meet in collectives."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, distributed

from bench.core.distributed import all_gather, broadcast_from_rank0
from bench.core.errors import UserError
from bench.core.parallel import average_gradients


def _raise(error: BaseException) -> None:
    raise error


ACTIONS = {
    "value": lambda: {"found": 3},
    "user error": lambda: _raise(UserError("no such file.")),
    "other error": lambda: _raise(ZeroDivisionError("by zero")),
    "interrupt": lambda: _raise(KeyboardInterrupt()),
    "not picklable": lambda: lambda: None,
}


def spread(rows: Tensor) -> Tensor:
    """A loss of a whole batch that is no mean over its samples: the log of a mean over pairs."""
    squares = (rows[:, None] - rows[None]).square().sum(-1)
    return torch.exp(-squares).mean().log()


def work(rank: int, world: int, folder: str) -> None:
    """Note what each action of rank 0 brings to this rank, and the gradient of a gathered loss."""
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    found: dict[str, object] = {}
    for name, action in ACTIONS.items():
        try:
            found[name] = broadcast_from_rank0(action)
        except BaseException as error:
            found[name] = f"{type(error).__name__}: {error}"
    inputs = torch.linspace(-1, 1, 5 * 3, dtype=torch.float64).view(5, 3)
    own = inputs[:2] if rank == 0 else inputs[2:]
    weight = torch.eye(3, dtype=torch.float64).add(0.1).requires_grad_()
    # As the trainer does: the mean over own samples, times their fraction of the batch and the processes.
    (spread(all_gather(own @ weight, gradient=True)) * len(own) / len(inputs) * world).backward()
    average_gradients([weight])  # type: ignore[list-item]
    torch.save({"found": found, "gradient": weight.grad}, Path(folder) / f"rank-{rank}")
    distributed.destroy_process_group()

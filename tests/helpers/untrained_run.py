"""The folder of a tiny run, with a checkpoint, that took no training."""

from pathlib import Path

import torch

from bench.config import resolve
from bench.runs.folder import RunFolder
from bench.runs.formats import Counters
from bench.training.trainer import Trainer


def make(root: Path, backbone: str = "sit-ti", step: int = 5, **training: float) -> Path:
    """The run's folder. Its output layers are random: a fresh backbone predicts zero everywhere."""
    run_spec = resolve.run_spec(
        "baseline",
        backbone,
        "digits",
        0,
        training={"steps": step, "batch_size": 8, **training},
        protocol={"samples": 150, "sampler_flow": "euler[steps=2]", "sampler_ddpm": "ddim[steps=2]"},
    )
    trainer = Trainer(run_spec, torch.device("cpu"))
    draw = torch.Generator().manual_seed(0)
    for parameter in trainer.ema.parameters():
        if parameter.abs().sum() == 0:
            parameter.data.normal_(0, 0.1, generator=draw)
    state = trainer.state() | {"optimizer": {}}
    run = RunFolder(root, run_spec)
    run.save_checkpoint(state, Counters(step=step, seconds=1.5, flops=100))
    return run.folder

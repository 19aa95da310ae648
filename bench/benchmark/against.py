"""Our training step and sampler beside those of the official code: the same weights, batch and numbers.

Before anything is timed both networks predict, both losses are taken, and a few steps are sampled, in float32
on the same draws; how far they are apart is printed, and code that computes something else is refused.

A step is the loss, its gradient, clipping, AdamW and the weight average. Encoders are left out on both sides:
teacher tokens are random. The official training code is a script, so the loop around its network and loss is
written here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from bench.benchmark import alternating, with_spread
from bench.benchmark.official_code import OfficialCode
from bench.benchmark.random_inputs import CLASSES, RandomEncoder, RandomRecords
from bench.config import resolve
from bench.core.errors import UserError
from bench.data import datasets
from bench.diffusion import samplers
from bench.evaluation.sampling import multiplying_in
from bench.training.batch import TrainingBatch, draw_batch
from bench.training.trainer import Trainer
from methods.base import Features

# Largest relative differences that rounding explains: of one pass, and of a few steps of a sampler.
SAME, SAME_SAMPLES = 1e-4, 1e-3
CHECKED_STEPS = 4  # of the sampler


@dataclass(frozen=True)
class Timings:
    """Seconds of each timed call; the i-th of both were made one after the other."""

    ours: list[float]
    official: list[float]

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.ours, self.official, strict=True)]

    def figures(self) -> list[str]:
        """Milliseconds of both, and what ours takes of the official time."""
        return [
            f"{with_spread([1e3 * seconds for seconds in self.ours])} ms",
            f"{with_spread([1e3 * seconds for seconds in self.official])} ms",
            f"{with_spread(self.ratios)} x",
        ]

    def summary(self) -> dict[str, float]:
        return {
            "ours_seconds": median(self.ours),
            "official_seconds": median(self.official),
            "ratio": median(self.ratios),
        }


class Pair:
    """A run of ours on random inputs, and the official network with the same weights."""

    def __init__(
        self,
        code: OfficialCode,
        backbone: str,
        data: str,
        device: torch.device,
        training: dict[str, Any],
        native_precision: str,
    ) -> None:
        """`data` gives the shape of the inputs; classes are always 1000. Raises UserError if the code and
        the backbone do not fit."""
        self.code, self.device = code, device
        architecture = resolve.architecture(backbone)
        family = "dit" if code.kind == "dit" else "sit"
        if architecture.family != family:
            raise UserError(f"the code of {code.kind} trains a {family}-: {backbone} is none.")
        clip = {"gradient_clip": code.gradient_clip}
        self.run = resolve.run_spec(
            code.trains, backbone, data, 0, native_precision=native_precision, training=clip | training
        )
        size = self.run.training.batch_size
        shape = datasets.get(data).shape._replace(classes=CLASSES)
        self.trainer = Trainer(
            self.run,
            device,
            data=RandomRecords(shape, size),
            encoder=RandomEncoder(architecture.grid(shape.size), size, device),
        )
        randomise(self.trainer.backbone)
        self.trainer.ema.load_state_dict(self.trainer.backbone.state_dict())
        code.precision = self.run.training.precision
        self.network = code.network(self.trainer.backbone, self.trainer.method)
        self.ema = deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.run.training.learning_rate, weight_decay=0.0
        )

    def differences(self) -> dict[str, float]:
        """Relative differences of the prediction, the loss terms, and samples, in float32, from equal draws.

        Raises UserError where they are larger than rounding.
        """
        batch, tokens = self._batch(), self._tokens
        with torch.random.fork_rng(), torch.no_grad():
            found = self._of_prediction(batch) | self._of_losses(batch, tokens)
            limits = dict.fromkeys(found, SAME)
            if self.samples:
                found["samples"] = _difference(*self._samples(batch))
                limits["samples"] = SAME_SAMPLES
        if any(not found[name] <= limits[name] for name in found):
            raise UserError(
                f"{self.code.path} computes other numbers than this suite ({in_words(found)}): "
                "nothing is timed."
            )
        return found

    def _batch(self) -> TrainingBatch:
        size, trainer = self.run.training.batch_size, self.trainer
        records = trainer.data.batch(torch.arange(size), torch.Generator())
        rows = slice(0, size)
        return draw_batch(self.run, trainer.data, trainer.process, 0, rows, records).on(self.device)

    @property
    def _tokens(self) -> Tensor:
        encoder = self.trainer.frozen.encoder
        assert isinstance(encoder, RandomEncoder)
        return encoder.tokens

    def _of_prediction(self, batch: TrainingBatch) -> dict[str, float]:
        inputs = batch.noise, batch.t, batch.label
        output = self.trainer.backbone.eval()(*inputs)
        theirs = self.code.predict(self.network.eval(), *inputs)
        self.trainer.backbone.train()
        self.network.train()
        ours = (output.prediction,) if output.variance is None else (output.prediction, output.variance)
        return {"prediction": max(map(_difference, ours, theirs))}

    def _of_losses(self, batch: TrainingBatch, tokens: Tensor) -> dict[str, float]:
        precision, self.code.precision = self.code.precision, "fp32"
        torch.manual_seed(0)
        theirs = self.code.losses(self.network, batch.x0, batch.label, tokens)
        torch.manual_seed(0)
        t, noise = self.code.draws(batch.x0)
        self.code.precision = precision
        trainer, needs = self.trainer, self.trainer.method.needs(0, self.run.training.steps)
        features = dict.fromkeys(needs.encoders, Features(tokens, tokens[:, 0]))
        training = self.run.training.model_copy(update={"precision": "fp32"})
        ours = replace(trainer.loss, spec=self.run.model_copy(update={"training": training}))
        batch = replace(batch, t=t, step_t=t, noise=noise, features=features)
        _, row = ours(0, batch, needs)
        return {name: _difference(row["raw"][name], theirs[name]) for name in theirs}

    @property
    def samples(self) -> bool:
        """Whether both sample inputs of this shape."""
        return self.code.has_sampler and self.trainer.backbone.channels >= self.code.fewest_channels

    def _samples(self, batch: TrainingBatch, steps: int = CHECKED_STEPS) -> tuple[Tensor, Tensor]:
        found = []
        for draw in (self.our_samples, self.their_samples):
            torch.manual_seed(0)
            found.append(draw(batch, steps))
        return found[0], found[1]

    def our_samples(self, batch: TrainingBatch, steps: int) -> Tensor:
        """From the batch's noise; that of the steps is drawn from torch's global stream as theirs is."""
        sampler = samplers.get(f"{self.code.sampler}[steps={steps}]")
        return sampler.sample(
            self.trainer.ema,
            batch.noise,
            batch.true_label,
            process=self.trainer.process,
            guidance=self.code.guidance,
            step_noise=lambda: self.code.step_noise(batch.noise),
        )

    def their_samples(self, batch: TrainingBatch, steps: int) -> Tensor:
        """The same by the official sampler."""
        return self.code.sample(self.ema.eval(), batch.noise, batch.true_label, steps)

    def their_step(self, batch: TrainingBatch) -> None:
        """One training step of the official network on the batch's images and labels."""
        training, method = self.run.training, self.trainer.method
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.code.losses(self.network, batch.x0, batch.label, self._tokens)
        weights = {"repa": float(getattr(method, "weight", 1.0))}
        torch.stack([weights.get(name, 1.0) * value for name, value in terms.items()]).sum().backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), training.gradient_clip or math.inf)
        self.optimizer.step()
        with torch.no_grad():
            for averaged, parameter in zip(self.ema.parameters(), self.network.parameters(), strict=True):
                averaged.mul_(training.ema_decay).add_(parameter, alpha=1 - training.ema_decay)

    def time_training(self, warm_up: int, repeats: int) -> Timings:
        """Steps of both in turn."""
        batch, steps = self._batch(), iter(range(10**9))
        self.trainer.prepare(0)  # counts FLOPs, which is not part of a step
        return self._time(
            lambda: self.trainer.step(next(steps)), lambda: self.their_step(batch), warm_up, repeats
        )

    def time_sampling(self, steps: int, repeats: int, precision: str = "fp32") -> Timings | None:
        """A guided batch by the sampler of the official code, of so many steps; None if it has none for it.

        `precision` is of our matrix products; the official code has float32.
        """
        if not self.samples:
            return None
        batch = self._batch()

        def ours() -> None:
            with multiplying_in(precision, self.trainer.ema, self.device):
                self.our_samples(batch, steps)

        return self._time(ours, lambda: self.their_samples(batch, steps), 1, repeats)

    def _time(
        self, ours: Callable[[], object], official: Callable[[], object], warm_up: int, repeats: int
    ) -> Timings:
        with torch.random.fork_rng():
            found = alternating({"ours": ours, "official": official}, self.device, warm_up, repeats)
        return Timings(**found)


def randomise(network: nn.Module) -> None:
    """Draw what is initialised with zeros, so that every layer counts: else the network predicts zero."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad and not parameter.any():
                std = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
                parameter.copy_(std * torch.randn(parameter.shape, generator=draw))


def in_words(differences: dict[str, float]) -> str:
    """`prediction 3e-07, denoise 1e-07`"""
    return ", ".join(f"{name} {value:.0e}" for name, value in differences.items())


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest value."""
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return float((ours - theirs).abs().max() / theirs.abs().max())

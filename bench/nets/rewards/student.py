"""A reward for latents: a small student of the teacher, distilled during training.

The teacher needs images, but x^ is a latent, and decoding it would cost more than the step. The student q
maps x0 to the teacher's tokens y and is trained on every batch, by AdamW on 1 - mean cos(q(x0), y). The
reward is

    latent     cos(q(x^), q(x0)), per token, in [-1, 1]

It is computed with the student for x0 as well, so that the error of the student cancels. Cost: two
convolutions on the grid of tokens, forward and backward, and its training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.nets.rewards.base import RewardBatch, RewardFn

WIDTH = 128  # channels between the student's layers
LEARNING_RATE = 1e-3


class Student:
    """A map reward [G, B, h, w]; its weights and optimiser are part of the state of a run."""

    def __init__(
        self, channels: int, size: int, grid: tuple[int, int], width: int, device: torch.device
    ) -> None:
        """A network from x0 [B, channels, size, size] to tokens of `width` on `grid`."""
        patch = size // grid[0]
        self.net = nn.Sequential(
            nn.Conv2d(channels, WIDTH, patch, stride=patch),
            nn.SiLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(WIDTH, width, 1),
        ).to(device)
        self.net.requires_grad_(
            False
        )  # except in `learn`: rewards are only differentiated with respect to the estimate
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=LEARNING_RATE)

    def learn(
        self, x0: Tensor, tokens: Tensor, average: Callable[[Tensor], Tensor] = lambda mean: mean
    ) -> Tensor:
        """A training step towards the teacher's tokens [B, N, D] of x0; returns the loss before it.

        `average`: the average over processes, for loss and gradients.
        """
        self.net.requires_grad_(True)
        with torch.enable_grad(), torch.autocast(x0.device.type, enabled=False):
            mine = self.net(x0.float()).flatten(2).transpose(1, 2)
            loss = 1 - F.cosine_similarity(mine, tokens.float(), dim=-1).mean()
        gradients = torch.autograd.grad(loss, list(self.net.parameters()))
        for parameter, gradient in zip(self.net.parameters(), gradients, strict=True):
            parameter.grad = average(gradient)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.net.requires_grad_(False)
        return average(loss.detach())

    def bind(self, batch: RewardBatch) -> RewardFn:
        clean = F.normalize(self.net(batch.x0), dim=1)

        def rewards(estimate: Tensor) -> dict[str, Tensor]:
            tokens = F.normalize(self.net(estimate.flatten(0, 1)), dim=1).unflatten(0, estimate.shape[:2])
            return {"latent": (tokens * clean).sum(dim=2)}

        return rewards

    def state(self) -> dict[str, Tensor]:
        """Weights and moments by name; no moments before the first step."""
        moments = {
            f"{name}.{key}": value
            for name, parameter in self.net.named_parameters()
            for key, value in self.optimizer.state[parameter].items()
        }
        return {**self.net.state_dict(), **moments}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.net.load_state_dict({name: state[name] for name in self.net.state_dict()})
        for name, parameter in self.net.named_parameters():
            self.optimizer.state[parameter] = {
                key: state[f"{name}.{key}"].to("cpu" if key == "step" else parameter.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{name}.{key}" in state
            }

"""Base class of alignments that end once they no longer improve, as in RARE."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from methods.base import BackboneInfo, Context, GetEncoder
from methods.parts.alignment import EncoderAlignment

WINDOWS = (1 / 400, 1 / 20)  # of the averages, as fractions of training: 1,000 and 20,000 of 400K steps
RAMP, LATEST, TOLERANCE = 1 / 8, 0.625, 0.02


class Release(EncoderAlignment):
    """Releases the network from its alignment when two moving averages of the error agree.

    With a fast and a slow average, bias-corrected, the release is the first step at which
    (slow - fast) / slow < TOLERANCE, not before the fraction RAMP of training and at the latest at LATEST.
    Then `strength` decays to 0 along a half cosine over a fraction RAMP.

    Options, in addition to those of EncoderAlignment:
        release: end the alignment as described; false: at `align_until`.
    """

    release: bool = True

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        super().build(backbone, encoder)
        # Fast and slow average of the error; number of averaged steps; step of the release, -1 before it.
        self.averages = nn.Buffer(torch.zeros(2, dtype=torch.float64))
        self.seen, self.released = (nn.Buffer(torch.tensor(value)) for value in (0, -1))
        self._errors: list[Tensor] = []  # (sum over samples, number of samples) of each micro-batch

    def aligns(self, step: int, steps: int) -> bool:
        return super().aligns(step, steps) and self.strength(step, steps) > 0

    def strength(self, step: int, steps: int) -> float:
        """Factor of the alignment at `step` of `steps`, in [0, 1]."""
        released = int(self.released)
        if released < 0 or step < released:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - released) / (RAMP * steps))))

    def observe(self, error: Tensor, context: Context) -> None:
        """Take note of the error [B] of a micro-batch."""
        self._errors += [torch.stack([error.sum().double(), error.new_tensor(len(error)).double()])]
        self._now = context.step, context.steps

    def after_backward(self, total: Callable[[Tensor], Tensor]) -> None:
        """Update the averages with the mean error of the step; release the alignment if they agree."""
        if not self._errors or not self.release:
            self._errors.clear()
            return
        summed, samples = total(torch.stack(self._errors).sum(dim=0))
        self._errors.clear()
        step, steps = self._now
        momenta = self.averages.new_tensor([1 - 1 / max(1, window * steps) for window in WINDOWS])
        self.averages.mul_(momenta).add_((1 - momenta) * summed / samples)
        self.seen += 1
        fast, slow = self.averages / (1 - momenta**self.seen)
        agree = step >= RAMP * steps and bool((slow - fast) / slow < TOLERANCE)
        if self.released < 0 and (agree or step >= LATEST * steps):
            self.released.fill_(step + 1)

"""Fixed inputs on which the released losses of several methods were evaluated, and a step made of them.

`r(shape, p)` holds, in row-major order for k = 0, 1, 2, ..., the value ((k p) mod 97) / 97 - 0.5 in float64.
The expected values in `tests/methods` were made by running each project's released loss function on them, or
by evaluating its equation independently if there is no public code; each test says which.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.base import BackboneInfo, Context, EncoderInfo, Features, GetEncoder, Loss, Method


def r(shape: tuple[int, ...], p: int) -> Tensor:
    count = torch.Size(shape).numel()
    return ((torch.arange(count) * p) % 97).double().div(97).sub(0.5).view(shape)


X0, NOISE, PREDICTION = (r((2, 3, 4, 4), p) for p in (5, 7, 11))
T = torch.tensor([0.25, 0.75], dtype=torch.float64)
Y, Z = r((2, 4, 6), 13), r((2, 4, 6), 17)  # a teacher's tokens; the student's after its projector


def step(**fields: Any) -> Context:
    """A step on the linear path of the tensors above; `fields` replace or add to it."""
    x0, noise = fields.get("x0", X0), fields.get("noise", NOISE)
    t = fields.pop("t", T)
    wide = t.view(-1, 1, 1, 1)
    prediction = fields.pop("prediction", PREDICTION)
    x_t = (1 - wide) * x0 + wide * noise
    target = fields.pop("target", noise - x0)
    return Context(
        **{
            "x0": x0,
            "noise": noise,
            "t": t,
            "x_t": x_t,
            "target": target,
            "prediction": prediction,
            "x0_hat": x_t - wide * prediction,
            "x0_hat_scale": t,
            "label": torch.zeros(len(t), dtype=torch.long),
            "step": 0,
            "steps": 400,
            "generator": torch.Generator().manual_seed(0),
        }
        | fields
    )


def features(tokens: Tensor, cls_token: Tensor | None = None, **more: Any) -> Features:
    return Features(tokens, tokens.mean(dim=1) if cls_token is None else cls_token, **more)


def built(method: Method, backbone: BackboneInfo, encoder: GetEncoder | None = None) -> Method:
    """The method in float64, with an encoder of width 6 on the backbone's grid unless another is given."""
    torch.manual_seed(0)
    method.build(backbone, encoder or (lambda name: EncoderInfo(name, 6, backbone.grid)))
    return method.double()


def weighted(loss: Loss) -> Tensor:
    """A term's contribution to the total."""
    return (loss.weight * loss.value).mean()


class Returns(nn.Module):
    """In the place of a projector: `value`, whatever it is given."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, _: Tensor) -> Tensor:
        return self.value


def agree(found: Tensor, expected: Tensor | float | list[float], tolerance: float = 1e-8) -> None:
    """Asserts that numbers agree, elementwise."""
    wanted = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found.detach().double(), wanted, rtol=0, atol=tolerance)

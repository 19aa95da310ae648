"""What a method may ask for and give: the contract between a strategy and the training loop.

A method is one class in one file of this folder (or in a file of yours, named by its path). Its annotated
fields are its options, `repa[weight=1.0]` on the command line. Every default below does nothing, so the
empty method *is* the baseline. It sees tensors only: never a loader, a file or a launcher.

Time runs from data t = 0 to noise t = 1. Depth is 1-based: "after block d".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, dataclass_transform

import torch
from torch import Tensor, nn

TEACHER = "teacher"  # the encoder that the data set recommends
REWARD_NET = "default"  # the reward net that the data set recommends


@dataclass(frozen=True)
class Needs:
    """What a method needs at a step. Nothing is loaded, captured or computed unless asked for here."""

    hidden_depths: tuple[int, ...] = ()  # hidden states after these blocks, 1-based
    encoders: tuple[str, ...] = ()  # frozen image encoders, by name
    rewards: tuple[str, ...] = ()  # rewards of a clean-image estimate, by name; step 0 names all of a run
    reward_net: str = REWARD_NET  # the net of the rewards "features" and "tokens"
    whole_batch: bool = False  # losses compare samples through `Context.gather`: no micro-batches


def joined(names: str) -> tuple[str, ...]:
    """The names in `"dinov2-b+clip-l"`; a "+" inside brackets belongs to its name."""
    return tuple(re.split(r"\+(?![^\[]*\])", names))


class BackboneInfo(NamedTuple):
    """What a method may know of the backbone when it builds its own parts."""

    family: str  # "sit" or "dit"
    depth: int  # number of blocks
    width: int  # channels D of a hidden state
    grid: tuple[int, int]  # rows and columns of tokens; N = rows * columns


class EncoderInfo(NamedTuple):
    """What a method may know of an encoder."""

    name: str
    width: int  # channels of a patch token
    grid: tuple[int, int]


class Features(NamedTuple):
    """What a frozen encoder says about a batch of clean images."""

    patch_tokens: Tensor  # [B, N, D]
    cls_token: Tensor  # [B, D]


class Loss(NamedTuple):
    """One named loss term of a method, before it is averaged over the batch."""

    value: Tensor  # [B], raw
    weight: float | Tensor = 1.0  # scalar, or [B]


@dataclass
class Context:
    """One training step as a method sees it. Images are in model space: [B, C, H, W].

    Where several processes or micro-batches share a step, B counts the samples of this share. Random draws
    are for the whole batch, `torch.randn(context.batch_size, ..., generator=context.generator)`, of which
    `context.rows` are this context's; then no number depends on how the batch is shared out.
    """

    x0: Tensor  # clean
    noise: Tensor
    t: Tensor  # [B] in [0, 1]
    x_t: Tensor
    target: Tensor  # what the backbone should predict: velocity (SiT) or noise (DiT)
    prediction: Tensor  # what it predicted, with gradient
    x0_hat: Tensor  # the clean image that the prediction implies, with gradient
    x0_hat_scale: Tensor  # [B], |d x0_hat / d prediction|: t for linear velocity
    label: Tensor  # [B], after label dropout (null class = number of classes)
    step: int  # steps done before this one
    steps: int  # steps of the whole run
    generator: torch.Generator  # the method's own random stream, on the CPU, fresh each step
    hidden: Mapping[int, Tensor] = field(default_factory=dict)  # depth -> [B, N, D], with gradient
    features: Mapping[str, Features] = field(default_factory=dict)  # encoder name -> features
    # (estimates [..., n, C, H, W] of x0[index], index [n]) -> reward name -> [..., n], or [..., n, h, w] for
    # a reward of patches; higher is better, differentiable; nothing is computed for other samples
    rewards: Callable[[Tensor, Tensor], Mapping[str, Tensor]] | None = None
    # [B] noise / (signal + noise), comparable over processes; None: t is that, as on the linear path
    noise_level: Tensor | None = None
    logging: bool = False  # whether this step's logs are kept; must change nothing but the logs
    step_noise_level: Tensor | None = None  # `noise_level` of the whole step's samples; None: the same
    batch_size: int = 0  # samples of the whole step; 0: len(x0)
    rows: slice = field(default_factory=lambda: slice(None))  # of these, the ones of this context
    # [B, ...] of this context's samples -> the whole step's, without gradient; needs `Needs.whole_batch`
    gather: Callable[[Tensor], Tensor] = lambda values: values
    processes: int = 1  # that share the step; gradients are averaged over them
    # A method's own diagnostics for the step's row: name -> scalar.
    logs: dict[str, float | Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.batch_size = self.batch_size or len(self.x0)


@dataclass_transform(eq_default=False)
class Method(nn.Module):
    """Base class of all methods and, with nothing overridden, the baseline: no alignment.

    Subclasses declare options as annotated fields with defaults. Parameters and buffers they create in
    `build` are trained, checkpointed and resumed with the run, apart from the backbone.
    """

    def __init_subclass__(cls) -> None:
        dataclass(eq=False, repr=False)(cls)

    def __new__(cls, *_args: object, **_options: object) -> Method:
        # The generated __init__ assigns options; an nn.Module must be initialised before that.
        self = super().__new__(cls)
        nn.Module.__init__(self)
        return self

    def build(self, backbone: BackboneInfo, encoder: Callable[[str], EncoderInfo]) -> None:
        """Create trainable parts; `encoder(name)` loads a frozen encoder and describes it. Called once.

        Raises ValueError where an option does not fit this backbone or encoder.
        """

    def needs(self, step: int, steps: int) -> Needs:
        """What this method needs at `step` of `steps`; may change with the step, so costs can end."""
        return Needs()

    def losses(self, context: Context) -> dict[str, Loss]:
        """Named loss terms, to be added to the denoising loss: sum over terms of mean(weight * value)."""
        return {}

    def after_backward(self, total: Callable[[Tensor], Tensor]) -> None:
        """Called once a step when all its gradients are there; `total` sums a tensor over processes."""

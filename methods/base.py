"""What a method may ask for and give: the contract between a strategy and the training loop.

A method is one class in one file of this folder (or in a file of yours, named by its path). Its annotated
fields are its options, `repa[weight=1.0]` on the command line. Every default below does nothing, so the
empty method *is* the baseline. It sees tensors only: never a loader, a file or a launcher.

Time runs from data t = 0 to noise t = 1. Depth is 1-based: "after block d". In a step the trainer asks, in
this order: `needs`, `steer` (before the network), `losses` (after it), `after_backward`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple, dataclass_transform

import torch
from torch import Tensor, nn

from backbones.extras import Extra

if TYPE_CHECKING:
    from backbones.base import Output

TEACHER = "teacher"  # the encoder that the data set recommends
REWARD_NET = "default"  # the reward net that the data set recommends


@dataclass(frozen=True)
class EncoderLayers:
    """What to look at inside a frozen encoder, by layer: 1 is the first, -1 the last."""

    hidden: tuple[int, ...] = ()  # patch tokens after these layers
    attention: tuple[int, ...] = ()  # attention logits of these layers
    keys_values: tuple[int, ...] = ()  # keys and values of these layers


@dataclass(frozen=True)
class Needs:
    """What a method needs at a step. Nothing is loaded, captured or computed unless asked for here.

    Raises ValueError if `encoder_layers` names an encoder that `encoders` does not.
    """

    hidden_depths: tuple[int, ...] = ()  # hidden states after these blocks, 1-based
    attention_depths: tuple[int, ...] = ()  # attention logits of these blocks
    keys_values_depths: tuple[int, ...] = ()  # keys and values of these blocks
    encoders: tuple[str, ...] = ()  # frozen image encoders, by name
    encoder_layers: Mapping[str, EncoderLayers] = field(default_factory=dict)  # encoder name -> its layers
    ema: bool = False  # losses call `Context.ema`
    rewards: tuple[str, ...] = ()  # rewards of a clean-image estimate, by name; step 0 names all of a run
    reward_net: str = REWARD_NET  # the net of the rewards "features" and "tokens"
    whole_batch: bool = False  # losses compare samples through `Share.gather`: no micro-batches

    def __post_init__(self) -> None:
        if absent := set(self.encoder_layers) - set(self.encoders):
            raise ValueError(f"encoder_layers of {', '.join(sorted(absent))}, which encoders does not name")


def joined(names: str) -> tuple[str, ...]:
    """The names in `"dinov2-b+clip-l"`; a "+" inside brackets belongs to its name."""
    return tuple(re.split(r"\+(?![^\[]*\])", names))


class BackboneInfo(NamedTuple):
    """What a method may know of the backbone when it builds its own parts."""

    family: str  # "sit" or "dit"
    depth: int  # number of blocks
    width: int  # channels D of a hidden state
    grid: tuple[int, int]  # rows and columns of tokens; N = rows * columns
    heads: int = 1  # of a block's attention
    patch: int = 1  # rows and columns of the latent in one token
    channels: int = 1  # C of the latent
    classes: int = 1  # the null class, of dropped labels, has this number


def _no_records(count: int, layers: EncoderLayers = EncoderLayers()) -> Iterator[Features]:
    return iter(())


class EncoderInfo(NamedTuple):
    """What a method may know of an encoder."""

    name: str
    width: int  # channels of a patch token
    grid: tuple[int, int]
    layers: int = 0  # number of transformer layers; 0: none can be looked into
    heads: int = 0  # of a layer's attention; 0: it gives no attention, keys or values
    class_token: bool = True  # False: its `cls_token` is a mean over patch tokens
    # sample(n) or sample(n, layers): features of the first n training records, batch by batch in their order;
    # for statistics that `build` stores in buffers
    sample: Callable[..., Iterator[Features]] = _no_records


@dataclass
class Features:
    """What a frozen encoder says about a batch of clean images. Class and register tokens are left out."""

    patch_tokens: Tensor  # [B, N, D]
    cls_token: Tensor  # [B, D]
    # Each by layer, under the number by which it was asked for.
    hidden: Mapping[int, Tensor] = field(default_factory=dict)  # [B, N, D]
    attention: Mapping[int, Tensor] = field(default_factory=dict)  # [B, heads, N, N], scaled, before softmax
    keys_values: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)  # each [B, N, D]

    def map(self, function: Callable[[Tensor], Tensor]) -> Features:
        """The features with `function` applied to every tensor."""
        return Features(
            function(self.patch_tokens),
            function(self.cls_token),
            {layer: function(x) for layer, x in self.hidden.items()},
            {layer: function(x) for layer, x in self.attention.items()},
            {layer: (function(k), function(v)) for layer, (k, v) in self.keys_values.items()},
        )

    def rows(self, rows: slice) -> Features:
        """The features of some samples."""
        return self.map(lambda x: x[rows])

    @staticmethod
    def cat(parts: Sequence[Features]) -> Features:
        """Features of consecutive parts of a batch as those of the whole."""
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        return Features(
            torch.cat([part.patch_tokens for part in parts]),
            torch.cat([part.cls_token for part in parts]),
            {layer: torch.cat([part.hidden[layer] for part in parts]) for layer in first.hidden},
            {layer: torch.cat([part.attention[layer] for part in parts]) for layer in first.attention},
            {
                layer: (
                    torch.cat([part.keys_values[layer][0] for part in parts]),
                    torch.cat([part.keys_values[layer][1] for part in parts]),
                )
                for layer in first.keys_values
            },
        )


class TokenTimes(NamedTuple):
    """A noise level for every token: one of a few times per sample."""

    times: Tensor  # [B, G] in [0, 1]
    group: Tensor  # [B, N] int64: token n of sample i has the time times[i, group[i, n]]

    @property
    def per_token(self) -> Tensor:
        """[B, N]"""
        return self.times.gather(1, self.group)


@dataclass
class Share:
    """How a step's batch is shared among processes and micro-batches. A simple method never looks at it.

    Random draws are for the whole batch, of which each share keeps its rows: `share.randn(D)` is [B, D] for
    the B samples here. Then no number depends on how the batch is shared.
    """

    batch_size: int  # samples of the whole step
    rows: slice  # of these, the ones here
    generator: torch.Generator  # the stream that `rand` and `randn` draw from, on the CPU
    device: torch.device
    noise_level: Tensor  # [batch_size], `Context.noise_level` of the whole step's samples
    processes: int = 1  # that share the step; gradients are averaged over them
    logging: bool = False  # whether this step's logs are kept; must change nothing but the logs
    # gather(values, gradient=False): [B, ...] of the samples here -> [batch_size, ...]; needs
    # `Needs.whole_batch`. With gradient, a loss that every process computes from all values has the gradient
    # that one process would give it.
    gather: Callable[..., Tensor] = lambda values, gradient=False: values

    def randn(self, *shape: int) -> Tensor:
        """Standard normal draws [B, *shape]."""
        drawn = torch.randn((self.batch_size, *shape), generator=self.generator)
        return drawn[self.rows].to(self.device)

    def rand(self, *shape: int) -> Tensor:
        """Uniform draws in [0, 1), [B, *shape]."""
        drawn = torch.rand((self.batch_size, *shape), generator=self.generator)
        return drawn[self.rows].to(self.device)

    @property
    def mean_over(self) -> float:
        """What is differentiated here is the sum of the samples' losses over this number."""
        return self.batch_size / self.processes


class Loss(NamedTuple):
    """One named loss term of a method, before it is averaged over the batch."""

    value: Tensor  # [B], raw
    weight: float | Tensor = 1.0  # scalar, or [B]


@dataclass(frozen=True)
class Draw:
    """A micro-batch before the network sees it. B, N as in `Context`; images are in model space."""

    x0: Tensor  # [B, C, H, W], clean
    noise: Tensor  # [B, C, H, W]
    t: Tensor  # [B] in [0, 1]
    label: Tensor  # [B], after label dropout (null class = number of classes)
    features: Mapping[str, Features]  # encoder name -> features
    step: int  # steps done before this one
    steps: int  # steps of the whole run
    share: Share  # with a random stream of its own, another than that of `losses`
    # uniform draws in [0, 1) -> times distributed as t is
    draw_t: Callable[[Tensor], Tensor] = lambda uniform: uniform


@dataclass(frozen=True)
class Steering:
    """How the network is called in a step; every default leaves the call as it is. Gradient may flow."""

    t: Tensor | TokenTimes | None = None  # [B] or per token: of the image's noise and of the conditioning
    # block -> keys and values [B, heads, N, D / heads] each, in the place of the block's own
    replace: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    mask: Tensor | None = None  # [B, N, N] bool: whether token i (row) attends to token j (column)
    extras: Mapping[str, Tensor] = field(default_factory=dict)  # clean values of the declared extras, by name
    memo: object = None  # handed to `losses` as `Context.memo`


@dataclass
class Context:
    """One training step as a method sees it, after the network. Images are in model space: [B, C, H, W].

    If several processes or micro-batches share a step, B counts the samples of one share: see `Share`.
    """

    x0: Tensor  # clean
    noise: Tensor
    t: Tensor  # [B] in [0, 1], as drawn; what `steer` puts in its place changes x_t and x0_hat only
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
    extra_hidden: Mapping[int, Tensor] = field(default_factory=dict)  # depth -> extra tokens [B, E, D]
    # depth -> [B, heads, N, N], scaled, before softmax, of image tokens alone
    attention: Mapping[int, Tensor] = field(default_factory=dict)
    # depth -> the block's own keys and values, each [B, heads, N, D / heads], of image tokens alone
    keys_values: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    features: Mapping[str, Features] = field(default_factory=dict)  # encoder name -> features
    # The loss terms of the diffusion process, by name, each [B]: "denoise", "bound" (DiT), "denoise NAME" of
    # an extra. A term that `losses` returns under one of these names takes its place.
    denoising: Mapping[str, Tensor] = field(default_factory=dict)
    # ema(t, hidden_depths, mask=None): the weight average on the same noise, labels and extras at another t
    # ([B] or TokenTimes), without gradient; needs `Needs.ema`
    ema: Callable[..., Output] | None = None
    # (estimates [..., n, C, H, W] of x0[index], index [n]) -> reward name -> [..., n], or [..., n, h, w] for
    # a reward of patches; higher is better, differentiable; nothing is computed for other samples
    rewards: Callable[[Tensor, Tensor], Mapping[str, Tensor]] | None = None
    # [B] noise / (signal + noise), comparable over processes; left out: t, as on the linear path
    noise_level: Tensor = field(default=None)  # type: ignore[assignment]
    share: Share = field(default=None)  # type: ignore[assignment]  # left out: the whole batch is here
    memo: object = None  # what `steer` put aside
    # A method's own diagnostics for the step's row: name -> scalar.
    logs: dict[str, float | Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.noise_level is None:
            self.noise_level = self.t
        if self.share is None:
            samples = len(self.x0)
            rows = slice(0, samples)
            self.share = Share(samples, rows, self.generator, self.x0.device, self.noise_level)


@dataclass_transform(eq_default=False)
class Method(nn.Module):
    """Base class of all methods and, with nothing overridden, the baseline: no alignment.

    Subclasses declare options as annotated fields with defaults. Parameters and buffers they create in
    `build` are trained, checkpointed and resumed with the run, apart from the backbone.
    """

    version: ClassVar[int] = 1  # raised when the method's mathematics changes, so that runs differ
    # What can be done by one method of a run alone: terms of the process replaced by `losses`, and fields of
    # `Steering` other than extras that `steer` sets.
    replaces: ClassVar[tuple[str, ...]] = ()
    steers: ClassVar[tuple[str, ...]] = ()

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

    def extras(self) -> tuple[Extra, ...]:
        """Extra parts of the state, attached to the backbone. Asked once, after `build`."""
        return ()

    def steer(self, draw: Draw) -> Steering:
        """How the network is to be called on this micro-batch, before x_t is made."""
        return Steering()

    def losses(self, context: Context) -> dict[str, Loss]:
        """Named loss terms, to be added to the denoising loss: sum over terms of mean(weight * value).

        A term under a name of `context.denoising` replaces the process's own.
        """
        return {}

    def after_backward(self, total: Callable[[Tensor], Tensor]) -> None:
        """Called once a step when all its gradients are there; `total` sums a tensor over processes."""

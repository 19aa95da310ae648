"""Interface between an alignment method and the training loop.

A method is one class in one file, in this folder or anywhere and named by its path. Its annotated fields are
its options, `repa[weight=1.0]` on the command line. The base class does nothing, which is the baseline. A
method only sees tensors: never a data loader, a file or a launcher.

Time runs from data t = 0 to noise t = 1. Depth is 1-based: "after block d". In each step the trainer calls
`needs`, `steer` (before the network), `losses` (after it) and `after_backward`, in this order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, dataclass_transform

import torch
from torch import Tensor, nn

from backbones.extras import Extra

if TYPE_CHECKING:
    from backbones.base import Output

TEACHER = "teacher"  # the encoder recommended for the data set
REWARD_NET = "default"  # the reward network recommended for the data set
_FROM_OTHERS: Any = None  # default of a field that is computed from others


def _empty() -> Any:
    """Default of a field that maps names, blocks or layers: an empty dictionary."""
    return field(default_factory=dict[Any, Any])


@dataclass(frozen=True)
class EncoderLayers:
    """Activations of a frozen encoder to capture, by layer: 1 is the first, -1 the last."""

    hidden: tuple[int, ...] = ()  # patch tokens after these layers
    attention: tuple[int, ...] = ()  # attention logits of these layers
    keys_values: tuple[int, ...] = ()  # keys and values of these layers


@dataclass(frozen=True)
class Needs:
    """Inputs that a method needs at a step. Nothing else is loaded, captured or computed.

    Raises:
        ValueError: `encoder_layers` names an encoder that `encoders` does not.
    """

    hidden_depths: tuple[int, ...] = ()  # hidden states after these blocks, 1-based
    attention_depths: tuple[int, ...] = ()  # attention logits of these blocks
    keys_values_depths: tuple[int, ...] = ()  # keys and values of these blocks
    encoders: tuple[str, ...] = ()  # frozen image encoders, by name
    encoder_layers: Mapping[str, EncoderLayers] = _empty()  # encoder name -> its layers
    ema: bool = False  # losses call `Context.ema`
    rewards: tuple[str, ...] = ()  # rewards, by name; step 0 names all rewards of a run
    reward_net: str = REWARD_NET  # network of the rewards "features" and "tokens"
    whole_batch: bool = False  # losses use `Share.gather` to compare samples: no micro-batches

    def __post_init__(self) -> None:
        if absent := set(self.encoder_layers) - set(self.encoders):
            raise ValueError(f"encoder_layers names {', '.join(sorted(absent))}, encoders does not")


def joined(names: str) -> tuple[str, ...]:
    """The names in `"dinov2-b+clip-l"`; a "+" inside brackets belongs to its name."""
    return tuple(re.split(r"\+(?![^\[]*\])", names))


class BackboneInfo(NamedTuple):
    """Properties of the backbone, for `Method.build`."""

    family: str  # "sit" or "dit"
    depth: int  # number of blocks
    width: int  # channels D of a hidden state
    grid: tuple[int, int]  # rows and columns of tokens; N = rows * columns
    heads: int = 1  # of a block's attention
    patch: int = 1  # rows and columns of the latent in one token
    channels: int = 1  # C of the latent
    classes: int = 1  # number of classes; also the index of the null class


def _no_records(count: int, layers: EncoderLayers = EncoderLayers()) -> Iterator[Features]:
    return iter(())


class EncoderInfo(NamedTuple):
    """Properties of a frozen encoder, for `Method.build`."""

    name: str
    width: int  # channels of a patch token
    grid: tuple[int, int]
    layers: int = 0  # number of transformer layers; 0: none can be captured
    heads: int = 0  # attention heads per layer; 0: no attention, keys or values
    class_token: bool = True  # False: `cls_token` is the mean of the patch tokens
    # sample(n) or sample(n, layers): features of the first n training records, in batches, for statistics
    # that `build` stores in buffers
    sample: Callable[..., Iterator[Features]] = _no_records


GetEncoder = Callable[[str], EncoderInfo]  # loads a frozen encoder by name and describes it


@dataclass
class Features:
    """Features of a batch of clean images. Patch tokens do not include class and register tokens."""

    patch_tokens: Tensor  # [B, N, D]
    cls_token: Tensor  # [B, D]
    # Keyed by the layer as requested, for example -1.
    hidden: Mapping[int, Tensor] = _empty()  # [B, N, D]
    attention: Mapping[int, Tensor] = _empty()  # [B, heads, N, N], scaled, before softmax
    keys_values: Mapping[int, tuple[Tensor, Tensor]] = _empty()  # each [B, N, D]

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
        """The features of a slice of the samples."""
        return self.map(lambda x: x[rows])

    @staticmethod
    def cat(parts: Sequence[Features]) -> Features:
        """Concatenation along the batch, [B1, ...], [B2, ...] -> [B1 + B2, ...]."""
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


class Gather(Protocol):
    """Gathers values of the whole batch; requires `Needs.whole_batch`."""

    def __call__(self, values: Tensor, /, gradient: bool = False) -> Tensor:
        """[B, ...] of the samples here -> [batch_size, ...] of the whole batch.

        With `gradient`, a loss that every process computes from all values has the same gradient as on a
        single process.
        """
        ...


def _all_here(values: Tensor, gradient: bool = False) -> Tensor:
    return values


def _unchanged(uniform: Tensor) -> Tensor:
    return uniform


@dataclass
class Share:
    """The part of a step's batch that this process and micro-batch holds. Simple methods do not need it.

    Random numbers are drawn for the whole batch, of which each share keeps its rows: `share.randn(D)` is
    [B, D] for the B samples here. So no number depends on the number of processes or micro-batches.
    """

    batch_size: int  # samples of the whole batch
    rows: slice  # indices of the samples here
    generator: torch.Generator  # source of `rand` and `randn`, on the CPU
    device: torch.device
    noise_level: Tensor  # [batch_size], `Context.noise_level` of the whole batch
    processes: int = 1  # number of processes; gradients are averaged over them
    logging: bool = False  # whether the logs of this step are kept; must not affect anything else
    gather: Gather = _all_here

    def randn(self, *shape: int) -> Tensor:
        """Standard normal numbers [B, *shape]."""
        drawn = torch.randn((self.batch_size, *shape), generator=self.generator)
        return drawn[self.rows].to(self.device)

    def rand(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), [B, *shape]."""
        drawn = torch.rand((self.batch_size, *shape), generator=self.generator)
        return drawn[self.rows].to(self.device)

    @property
    def mean_over(self) -> float:
        """Divisor of the sum of per-sample losses in the loss that is differentiated on this process."""
        return self.batch_size / self.processes


class Loss(NamedTuple):
    """A loss term of a method, before averaging over the batch."""

    value: Tensor  # [B], raw
    weight: float | Tensor = 1.0  # scalar, or [B]


@dataclass(frozen=True)
class Draw:
    """A micro-batch before the forward pass. B, N as in `Context`; images are in model space."""

    x0: Tensor  # [B, C, H, W], clean
    noise: Tensor  # [B, C, H, W]
    t: Tensor  # [B] in [0, 1]
    label: Tensor  # [B], after label dropout (null class = number of classes)
    features: Mapping[str, Features]  # encoder name -> features
    step: int  # steps done before this one
    steps: int  # steps of the whole run
    share: Share  # with its own random stream, independent of that of `losses`
    # maps uniform numbers in [0, 1) to times with the distribution of t
    draw_t: Callable[[Tensor], Tensor] = _unchanged


@dataclass(frozen=True)
class Steering:
    """Changes to the forward pass of a step; by default none. May carry gradients."""

    t: Tensor | TokenTimes | None = None  # [B] or per token; time of the noise and of the conditioning
    # block -> (keys, values), [B, heads, N, D / heads] each, used instead of the block's own
    replace: Mapping[int, tuple[Tensor, Tensor]] = _empty()
    mask: Tensor | None = None  # [B, N, N] bool: whether token i (row) attends to token j (column)
    extras: Mapping[str, Tensor] = _empty()  # name -> clean value of a declared extra
    memo: object = None  # passed to `losses` as `Context.memo`


@dataclass
class Context:
    """A training step after the forward pass. Images are in model space, [B, C, H, W].

    With several processes or micro-batches, B is the number of samples of one of them: see `Share`.
    """

    x0: Tensor  # clean
    noise: Tensor
    t: Tensor  # [B] in [0, 1], as drawn; `Steering.t` only affects x_t and x0_hat
    x_t: Tensor
    target: Tensor  # of the prediction: velocity (SiT) or noise (DiT)
    prediction: Tensor  # of the backbone, with gradient
    x0_hat: Tensor  # estimate of the clean image implied by the prediction, with gradient
    x0_hat_scale: Tensor  # [B], |d x0_hat / d prediction|: t for linear velocity
    label: Tensor  # [B], after label dropout (null class = number of classes)
    step: int  # steps done before this one
    steps: int  # steps of the whole run
    generator: torch.Generator  # random stream of the method, on the CPU, new in each step
    hidden: Mapping[int, Tensor] = _empty()  # depth -> [B, N, D], with gradient
    extra_hidden: Mapping[int, Tensor] = _empty()  # depth -> extra tokens [B, E, D]
    # depth -> [B, heads, N, N], scaled, before softmax, of image tokens alone
    attention: Mapping[int, Tensor] = _empty()
    # depth -> the block's own keys and values, each [B, heads, N, D / heads], of image tokens alone
    keys_values: Mapping[int, tuple[Tensor, Tensor]] = _empty()
    features: Mapping[str, Features] = _empty()  # encoder name -> features
    # Loss terms of the diffusion process, each [B]: "denoise", "bound" (DiT), "denoise NAME" of an extra. A
    # term that `losses` returns under one of these names replaces it.
    denoising: Mapping[str, Tensor] = _empty()
    # ema(t, hidden_depths, mask=None): output of the weight average for the same noise, labels and extras at
    # time t ([B] or TokenTimes), without gradient; requires `Needs.ema`
    ema: Callable[..., Output] | None = None
    # rewards(estimates [..., n, C, H, W] of x0[index], index [n]): reward name -> [..., n], or [..., n, h, w]
    # for rewards per patch; higher is better, differentiable
    rewards: Callable[[Tensor, Tensor], Mapping[str, Tensor]] | None = None
    # [B] noise / (signal + noise), comparable between diffusion processes; default: t, as on the linear path
    noise_level: Tensor = _FROM_OTHERS
    share: Share = _FROM_OTHERS  # default: the whole batch
    memo: object = None  # `Steering.memo`
    # Diagnostics of the method for the row of the step: name -> scalar.
    logs: dict[str, float | Tensor] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if self.noise_level is _FROM_OTHERS:
            self.noise_level = self.t
        if self.share is _FROM_OTHERS:
            samples = len(self.x0)
            rows = slice(0, samples)
            self.share = Share(samples, rows, self.generator, self.x0.device, self.noise_level)


@dataclass_transform(eq_default=False)
class Method(nn.Module):
    """Base class of all methods; without overrides it is the baseline, no alignment.

    Subclasses declare options as annotated fields with defaults. Parameters and buffers created in `build`
    are trained, saved and resumed with the run, separately from the backbone.
    """

    version: ClassVar[int] = 1  # increased when the mathematics change; part of the identity of runs
    # Options that a released version did not have. At their defaults, which must not change the method, they
    # are no part of the identity of runs.
    added: ClassVar[tuple[str, ...]] = ()
    # Loss terms of the process that `losses` replaces, and fields of `Steering` (except extras) that `steer`
    # sets. Only one of several combined methods may have each.
    replaces: ClassVar[tuple[str, ...]] = ()
    steers: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        dataclass(eq=False, repr=False)(cls)

    def __new__(cls, *_args: Any, **_options: Any) -> Self:
        # The generated __init__ assigns options; an nn.Module must be initialised before that.
        self = super().__new__(cls)
        nn.Module.__init__(self)
        return self

    def build(self, backbone: BackboneInfo, encoder: GetEncoder) -> None:
        """Create trainable modules. Called once.

        Args:
            backbone: properties of the backbone.
            encoder: `encoder(name)` loads a frozen encoder and returns its properties.

        Raises:
            ValueError: an option does not fit the backbone or the encoder.
        """

    def needs(self, step: int, steps: int) -> Needs:
        """Inputs needed at `step` (from 0) of `steps`. They may change during training, to save cost."""
        return Needs()

    def extras(self) -> tuple[Extra, ...]:
        """Extra parts of the state, attached to the backbone. Called once, after `build`."""
        return ()

    def steer(self, draw: Draw) -> Steering:
        """Changes to the forward pass of a micro-batch. Called before x_t is computed."""
        return Steering()

    def losses(self, context: Context) -> dict[str, Loss]:
        """Loss terms by name, added to the denoising loss: the sum of mean(weight * value) over all terms.

        A term with a name of `context.denoising` replaces that term of the diffusion process.
        """
        return {}

    def after_backward(self, total: Callable[[Tensor], Tensor]) -> None:
        """Called once per step after the backward pass; `total` sums a tensor over processes."""

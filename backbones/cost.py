"""Parameters and FLOPs of backbones: in closed form for DiT and SiT, counted for others.

An addition or a multiplication is one FLOP: a product of [a, b] and [b, c] costs 2abc. Normalisation,
activations and residual sums are neglected, as usual; the two products of the attention are included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

    from backbones.base import Architecture
    from backbones.extras import Extra
    from backbones.transformer import TransformerArchitecture

TIME_FEATURES = 256


def _linear(inputs: int, outputs: int) -> tuple[int, int]:
    """(parameters, FLOPs per row) of a linear layer with bias."""
    return (inputs + 1) * outputs, 2 * inputs * outputs


def _mlp(architecture: TransformerArchitecture) -> tuple[int, int]:
    width = architecture.width
    if not architecture.swiglu:
        layers = [_linear(width, 4 * width), _linear(4 * width, width)]
    else:
        hidden = 8 * width // 3
        layers = [_linear(width, hidden), _linear(width, hidden), _linear(hidden, width)]
    return sum(p for p, _ in layers), sum(f for _, f in layers)


def _parts(
    architecture: TransformerArchitecture, input_size: int, channels: int
) -> dict[str, tuple[int, int, int]]:
    """Module -> (parameters, rows per image, FLOPs per row), summed over all blocks."""
    width, depth, patch = architecture.width, architecture.depth, architecture.patch
    tokens = (input_size // patch) ** 2
    outputs = patch**2 * channels * (2 if architecture.learned_variance else 1)
    parts = {
        "patches": (*_linear(patch**2 * channels, width), tokens, 1),
        "time in": (*_linear(TIME_FEATURES, width), 1, 1),
        "time out": (*_linear(width, width), 1, 1),
        "steering": (*_linear(width, 6 * width), 1, depth),
        "qkv": (*_linear(width, 3 * width), tokens, depth),
        "projection": (*_linear(width, width), tokens, depth),
        "mlp": (*_mlp(architecture), tokens, depth),
        "final steering": (*_linear(width, 2 * width), 1, 1),
        "final": (*_linear(width, outputs), tokens, 1),
    }
    return {name: (p * times, rows, f * times) for name, (p, f, rows, times) in parts.items()}


def parameters(
    architecture: TransformerArchitecture, input_size: int, channels: int, num_classes: int
) -> int:
    """Number of parameters including the fixed position table, as in the tables of the papers."""
    width, head = architecture.width, architecture.width // architecture.heads
    tables = (num_classes + 1 + (input_size // architecture.patch) ** 2) * width
    per_norm = head if architecture.rms_norm else 2 * head
    norms = 2 * architecture.depth * per_norm if architecture.qk_norm else 0
    return sum(count for count, _, _ in _parts(architecture, input_size, channels).values()) + tables + norms


def flops(architecture: TransformerArchitecture, input_size: int, channels: int) -> int:
    """FLOPs of a forward pass for one image; a backward pass costs about twice as many."""
    tokens = (input_size // architecture.patch) ** 2
    attention = 4 * tokens**2 * architecture.width * architecture.depth  # queries x keys, weights x values
    parts = _parts(architecture, input_size, channels).values()
    return attention + sum(rows * cost for _, rows, cost in parts)


def counted_parameters(architecture: Architecture, input_size: int, channels: int, num_classes: int) -> int:
    """Number of parameters of the network, built without memory."""
    import torch

    with torch.device("meta"):
        network = architecture.build(input_size=input_size, channels=channels, num_classes=num_classes)
    return sum(parameter.numel() for parameter in network.parameters())


def counted_flops(architecture: Architecture, input_size: int, channels: int) -> int:
    """FLOPs of a forward pass for one image, counted on tensors without memory."""
    import torch

    with torch.device("meta"), torch.no_grad(), counter() as counted:
        network = architecture.build(input_size=input_size, channels=channels, num_classes=1)
        image = torch.empty(1, channels, input_size, input_size)
        network(image, torch.empty(1), torch.empty(1, dtype=torch.long))
    return counted.get_total_flops()


def counted_step(
    architecture: Architecture,
    input_size: int,
    channels: int,
    extras: tuple[Extra, ...] = (),
    *,
    ema: bool = False,
    **recorded: tuple[int, ...],
) -> int:
    """FLOPs of a training step for one image, forward and backward, counted on tensors without values.

    Includes extra state, one more forward pass if `ema`, and what is recorded, such as `attention_depths`, if
    the backbone takes that argument.

    Raises:
        ValueError: the backbone does not support extras.
    """
    import torch

    with torch.device("meta"), counter() as counted:
        network = architecture.build(input_size=input_size, channels=channels, num_classes=1)
        if extras:
            network.attach_extras(extras)
        image = torch.empty(1, channels, input_size, input_size)
        values = {extra.name: torch.empty(1, *extra.shape(input_size)) for extra in extras}
        call = image, torch.empty(1), torch.empty(1, dtype=torch.long)
        joint = {"extras": values} if extras else {}
        recorded = {name: at for name, at in recorded.items() if at and network.takes(name)}
        output = network(*call, **joint, **recorded)
        shown = [output.prediction, output.variance, *output.extras.values(), *output.attention.values()]
        torch.autograd.backward(torch.stack([tensor.sum() for tensor in shown if tensor is not None]).sum())
        if ema:
            with torch.no_grad():
                network(*call, **joint)
    return counted.get_total_flops()


def counter() -> FlopCounterMode:
    """torch's FLOP counter, a context manager, with the same conventions.

    It includes the fused attention of CPUs, which newer versions of torch do not count.
    """
    import torch
    from torch.utils import flop_counter

    formulas: Any = flop_counter  # not annotated

    def forward(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
        return formulas.sdpa_flop_count(query, key, value)

    def backward(
        gradient: Sequence[int],
        query: Sequence[int],
        key: Sequence[int],
        value: Sequence[int],
        *_: Any,
        **__: Any,
    ) -> int:
        return formulas.sdpa_backward_flop_count(gradient, query, key, value)

    name = "_scaled_dot_product_flash_attention_for_cpu"
    counted = {getattr(torch.ops.aten, name): forward, getattr(torch.ops.aten, f"{name}_backward"): backward}
    return flop_counter.FlopCounterMode(display=False, custom_mapping=counted)

"""Capture of hidden states, attention logits, keys and values in frozen vision transformers.

Only requested tensors are captured, and the forward pass is unchanged: queries, keys and values are recorded
as inputs of the attention, after any normalisation and rotary embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bench.core.errors import UserError
from bench.nets import table, weights
from bench.nets.recipes import RECIPES, TransformerRecipe
from methods.base import EncoderInfo, EncoderLayers, Features

Projections = tuple[Tensor, Tensor, Tensor]  # queries, keys, values, each [B, heads, tokens, D / heads]


class _AttentionInputs(TorchFunctionMode):
    """Records the arguments of PyTorch's attention, one call per layer."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Projections] = []

    def __torch_function__(
        self, func: Callable, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            self.seen.append((args[0], args[1], args[2]))
        return func(*args, **(kwargs or {}))


class Capture:
    """Captured tensors by layer, counted from 1, including class and register tokens."""

    def __init__(self) -> None:
        self.hidden: dict[int, Tensor] = {}  # [B, tokens, D]
        self.projections: dict[int, Projections] = {}

    def features(
        self, patch_tokens: Tensor, cls_token: Tensor, layers: EncoderLayers, depth: int
    ) -> Features:
        """Features of a batch, without class and register tokens, which come first."""
        count = patch_tokens.shape[1]

        def logits(layer: int) -> Tensor:
            queries, keys, _ = (x[:, :, -count:].float() for x in self.projections[number(layer, depth)])
            return queries @ keys.transpose(-2, -1) * queries.shape[-1] ** -0.5

        def side_by_side(layer: int) -> tuple[Tensor, Tensor]:
            _, keys, values = self.projections[number(layer, depth)]
            keys, values = (x[:, :, -count:].float().transpose(1, 2).flatten(2) for x in (keys, values))
            return keys, values

        return Features(
            patch_tokens,
            cls_token,
            {layer: self.hidden[number(layer, depth)][:, -count:].float() for layer in layers.hidden},
            {layer: logits(layer) for layer in layers.attention},
            {layer: side_by_side(layer) for layer in layers.keys_values},
        )


@contextmanager
def capture(blocks: Sequence[nn.Module], layers: EncoderLayers) -> Iterator[Capture]:
    """Context that captures the requested tensors of a forward pass through `blocks`.

    Raises:
        UserError: if their attention cannot be looked into.
    """
    found, depth = Capture(), len(blocks)
    with ExitStack() as stack:
        for layer in {number(layer, depth) for layer in layers.hidden}:

            def keep(_module: nn.Module, _inputs: object, output: Tensor, layer: int = layer) -> None:
                found.hidden[layer] = output

            stack.callback(blocks[layer - 1].register_forward_hook(keep).remove)
        if not (layers.attention or layers.keys_values):
            yield found
            return
        attention = [getattr(block, "attn", None) for block in blocks]
        if all(isinstance(module, nn.MultiheadAttention) for module in attention):
            for layer, module in enumerate(attention, start=1):

                def project(
                    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], layer: int = layer
                ) -> None:
                    found.projections[layer] = _projections(module, args[0] if args else kwargs["query"])

                assert module is not None
                stack.callback(module.register_forward_pre_hook(project, with_kwargs=True).remove)
            yield found
            return
        inputs = stack.enter_context(_AttentionInputs())
        yield found
        if len(inputs.seen) != depth:
            raise UserError(
                "the attention of this encoder cannot be looked into: its layers do not call PyTorch's own. "
                "Take another encoder, or unset TIMM_FUSED_ATTN."
            )
        found.projections = dict(enumerate(inputs.seen, start=1))


def _projections(module: Any, x: Tensor) -> Projections:
    """Queries, keys and values of nn.MultiheadAttention for self-attention on x."""
    queries, keys, values = F.linear(x, module.in_proj_weight, module.in_proj_bias).chunk(3, dim=-1)
    heads = module.num_heads
    return tuple(y.unflatten(2, (heads, -1)).transpose(1, 2) for y in (queries, keys, values))  # type: ignore


def number(layer: int, depth: int) -> int:
    """The layer counted from 1; -1 is the last, -2 the one before."""
    return layer if layer > 0 else depth + 1 + layer


def refuse(info: EncoderInfo, layers: EncoderLayers) -> None:
    """Raises UserError if an encoder does not provide the requested layers."""
    asked = {*layers.hidden, *layers.attention, *layers.keys_values}
    if (asked and not info.layers) or ((layers.attention or layers.keys_values) and not info.heads):
        raise UserError(
            f"the encoder {info.name} has no attention heads to look into. Vision transformers have: "
            f"{', '.join(with_heads())}."
        )
    outside = [layer for layer in asked if layer == 0 or not -info.layers <= layer <= info.layers]
    if outside:
        raise UserError(
            f"the encoder {info.name} has layers 1 to {info.layers} (-1 is the last), not {outside[0]}."
        )


def with_heads() -> tuple[str, ...]:
    """The encoders of the table that have attention heads."""
    local = (name for name, recipe in RECIPES.items() if isinstance(recipe, TransformerRecipe))
    return (*local, *(name for name in table.names("timm", "open_clip") if name != weights.PACKAGED))

"""Attention with access to its logits, keys and values.

Blocks without a request call the layer itself. Here the same products are computed in the same order, so a
request leaves the output on a CPU unchanged bit for bit (on a GPU a mask may select another kernel).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.layers import Attention


@dataclass(frozen=True)
class AttentionRequest:
    """Request to the attention of a block; N is the number of image tokens, which follow the extra tokens."""

    logits: bool = False
    keys_values: bool = False
    replace: tuple[Tensor, Tensor] | None = None  # keys and values of image tokens [B, heads, N, D / heads]
    mask: Tensor | None = None  # [B, N, N] bool: whether image token i attends to image token j


class Seen(NamedTuple):
    """The requested tensors of the block, for image tokens; keys after normalisation and rotary embedding."""

    logits: Tensor | None  # [B, heads, N, N], scaled, before softmax
    keys_values: tuple[Tensor, Tensor] | None  # [B, heads, N, D / heads] each


def attend(
    attention: Attention, x: Tensor, rope: Tensor | None, request: AttentionRequest
) -> tuple[Tensor, Seen]:
    """`attention(x, rope)` for tokens [B, E + N, D], E of them extra, and the requested tensors."""
    extra = attention.num_prefix_tokens
    queries, keys, values = attention.queries_keys_values(x, rope)
    own_keys, own_values = keys[:, :, extra:], values[:, :, extra:]
    logits = None
    if request.logits:
        logits = (queries[:, :, extra:] * attention.scale) @ own_keys.transpose(-2, -1)
    seen = Seen(logits, (own_keys.contiguous(), own_values.contiguous()) if request.keys_values else None)
    if request.replace is not None:
        keys, values = (
            torch.cat([part[:, :, :extra], other.to(part)], dim=2) if extra else other.to(part)
            for part, other in zip((keys, values), request.replace, strict=True)
        )
    mask = request.mask
    if mask is not None:  # extra tokens attend to all tokens, and all attend to them
        mask = F.pad(mask, (extra, 0, extra, 0), value=True)[:, None] if extra else mask[:, None]
    return attention.output(queries, keys, values, mask), seen

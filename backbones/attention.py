"""Attention with access to its logits, keys and values, for the weights of timm's layer.

Blocks without a request call timm's layer itself. Here the same products are computed in the same order, so a
request leaves the output on a CPU unchanged bit for bit (on a GPU a mask may select another kernel).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers.attention import AttentionRope
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from torch import Tensor


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
    attention: AttentionRope, x: Tensor, rope: Tensor | None, request: AttentionRequest
) -> tuple[Tensor, Seen]:
    """`attention(x, rope)` for tokens [B, E + N, D], E of them extra, and the requested tensors."""
    batch, tokens, _ = x.shape
    extra = attention.num_prefix_tokens
    assert attention.qkv is not None
    qkv = attention.qkv(x).reshape(batch, tokens, 3, attention.num_heads, attention.head_dim)
    queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # [B, heads, E + N, D / heads]
    queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    if rope is not None:
        queries, keys = (_rotated(part, rope, extra).type_as(values) for part in (queries, keys))
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
    if attention.fused_attn:
        mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    else:
        scores = (queries * attention.scale) @ keys.transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        mixed = scores.softmax(dim=-1) @ values
    mixed = attention.norm(mixed.transpose(1, 2).reshape(batch, tokens, attention.attn_dim))
    return attention.proj_drop(attention.proj(mixed)), seen


def _rotated(part: Tensor, rope: Tensor, extra: int) -> Tensor:
    """Rotary embedding of image tokens; extra tokens have no position."""
    return torch.cat([part[:, :, :extra], apply_rot_embed_cat(part[:, :, extra:], rope)], dim=2)

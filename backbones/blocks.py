"""Modules of DiT and SiT, with the parameter names of the official releases.

Tokens x [B, N, D] pass through blocks that are modulated by a condition c [B, D] = time + label (adaLN-zero):

    shift, scale, gate (twice) = Linear(SiLU(c))
    x <- x + gate_1 * attention(norm(x) * (1 + scale_1) + shift_1)
    x <- x + gate_2 * mlp(norm(x) * (1 + scale_2) + shift_2)

with gates initialised to zero, so that every block starts as the identity (arXiv 2212.09748, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from backbones.attention import AttentionRequest, Seen, attend
from backbones.base import Backbone, Output
from backbones.extras import Extra, ExtraState
from backbones.layers import Attention, Mlp, PatchEmbed, SwiGLU

if TYPE_CHECKING:
    from timm.layers.pos_embed_sincos import RotaryEmbeddingCat

    from backbones.transformer import TransformerArchitecture

FREQUENCIES = 256  # of the time embedding: half cosines, half sines
MAX_PERIOD = 10_000
NORM_EPS = 1e-6


def norm(architecture: TransformerArchitecture) -> nn.Module:
    """Normalisation over the width, without parameters."""
    kind = nn.RMSNorm if architecture.rms_norm else nn.LayerNorm
    return kind(architecture.width, eps=NORM_EPS, elementwise_affine=False)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Scale and shift x [B, N, D] by [B, 1, D] each."""
    return x * (1 + scale) + shift


def per_token(steering: Tensor, group: Tensor | None) -> Tensor:
    """Modulation per token: [B, D] -> [B, 1, D]; or [B, G, D] -> [B, N, D] by the token's group [B, N]."""
    if group is None:
        return steering.unsqueeze(1)
    return steering.gather(1, group[..., None].expand(-1, -1, steering.shape[-1]))


class Block(nn.Module):
    """One transformer block with adaLN-zero."""

    def __init__(self, architecture: TransformerArchitecture) -> None:
        super().__init__()
        width, hidden = architecture.width, 4 * architecture.width
        self.norm1 = norm(architecture)
        norm_layer = nn.RMSNorm if architecture.rms_norm else nn.LayerNorm
        self.attn = Attention(width, architecture.heads, architecture.qk_norm, norm_layer)
        self.norm2 = norm(architecture)
        self.mlp = (
            SwiGLU(width, 2 * hidden // 3)  # three matrices of 2/3 the size: as many parameters as two
            if architecture.swiglu
            else Mlp(width, hidden)
        )
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(
        self,
        x: Tensor,
        c: Tensor,
        rope: Tensor | None,
        group: Tensor | None = None,
        request: AttentionRequest | None = None,
    ) -> tuple[Tensor, Seen | None]:
        """Tokens [B, N, D] -> tokens [B, N, D], and the requested tensors of the attention.

        The condition c is [B, D], or [B, G, D] with token n conditioned on number `group`[:, n].
        """
        steering = per_token(self.adaLN_modulation(c), group).chunk(6, dim=-1)
        shift_attention, scale_attention, gate_attention, shift_mlp, scale_mlp, gate_mlp = steering
        tokens, seen = modulate(self.norm1(x), shift_attention, scale_attention), None
        if request is None:
            attended = self.attn(tokens, rope)
        else:
            attended, seen = attend(self.attn, tokens, rope, request)
        x = x + gate_attention * attended
        return x + gate_mlp * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp)), seen


class TimestepEmbedder(nn.Module):
    """Embedding of the time in the unit of the network, [B] -> [B, D]: cosines and sines, then an MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.intervals = FREQUENCIES // 2

    def forward(self, time: Tensor) -> Tensor:
        return self.mlp(sinusoids(time, self.intervals).to(next(self.mlp.parameters()).dtype))


def sinusoids(time: Tensor, intervals: int = FREQUENCIES // 2) -> Tensor:
    """Time features [B] -> [B, 256]: cos(w_i t) for 128 frequencies w_i = 10000^(-i/128), then sin(w_i t)."""
    time = time.to(torch.promote_types(time.dtype, torch.float32))
    half = FREQUENCIES // 2
    exponents = torch.arange(half, dtype=time.dtype, device=time.device) / intervals
    angles = time[:, None] * torch.exp(-math.log(MAX_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class LabelEmbedder(nn.Module):
    """Embedding of the class, [B] -> [B, D]; the last row is the null class, for guidance."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, label: Tensor) -> Tensor:
        return self.embedding_table(label)


class FinalLayer(nn.Module):
    """Modulated normalisation and a linear map from tokens to patches, [B, N, D] -> [B, N, p*p*C]."""

    def __init__(self, architecture: TransformerArchitecture, out_channels: int) -> None:
        super().__init__()
        width = architecture.width
        self.norm_final = norm(architecture)
        self.linear = nn.Linear(width, architecture.patch**2 * out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.linear(self.steered(x, c))

    def steered(self, x: Tensor, c: Tensor, group: Tensor | None = None) -> Tensor:
        """The modulated tokens that `linear` maps to patches, [B, N, D]; `group` as for a block."""
        shift, scale = per_token(self.adaLN_modulation(c), group).chunk(2, dim=-1)
        return modulate(self.norm_final(x), shift, scale)


class Transformer(Backbone):
    """The common network of DiT and SiT, which differ in the unit of time and in what they predict."""

    architecture: TransformerArchitecture

    def __init__(
        self, architecture: TransformerArchitecture, *, input_size: int, channels: int, num_classes: int
    ) -> None:
        """Initialised as the official networks. Raises ValueError if the patch does not divide the image."""
        super().__init__(architecture, input_size=input_size, channels=channels, num_classes=num_classes)
        if input_size % architecture.patch:
            raise ValueError(f"patch /{architecture.patch} does not divide an input of size {input_size}")
        self.side = input_size // architecture.patch  # tokens per row
        width = architecture.width
        self.x_embedder = PatchEmbed(input_size, architecture.patch, channels, width)
        self.t_embedder = TimestepEmbedder(width)
        self.y_embedder = LabelEmbedder(num_classes, width)
        self.pos_embed = nn.Parameter(position_table(width, self.side), requires_grad=False)
        self.blocks = nn.ModuleList(Block(architecture) for _ in range(architecture.depth))
        self.final_layer = FinalLayer(architecture, channels * (2 if architecture.learned_variance else 1))
        grid, head = [self.side, self.side], width // architecture.heads
        self.rope: RotaryEmbeddingCat | None = None
        if architecture.rope:
            from timm.layers.pos_embed_sincos import RotaryEmbeddingCat  # takes seconds to import

            self.rope = RotaryEmbeddingCat(head, in_pixels=False, feat_shape=grid)
        self.extra_state: ExtraState | None = None
        self.initialise()

    def initialise(self) -> None:
        """Xavier-uniform linear maps, N(0, 0.02) for time and label, zero for modulation and output."""
        for name, parameter in self.named_parameters():
            if name == "pos_embed" or "_norm.weight" in name:
                continue  # initialised on construction
            if name.endswith("bias") or "adaLN_modulation" in name or name == "final_layer.linear.weight":
                nn.init.zeros_(parameter)
            elif name.startswith(("t_embedder", "y_embedder")):
                nn.init.normal_(parameter, std=0.02)
            else:  # the patch embedding counts as a linear map of flattened patches
                nn.init.xavier_uniform_(parameter.view(len(parameter), -1))

    def network_time(self, t: Tensor) -> Tensor:
        """t in [0, 1] (0 data, 1 noise) converted to the unit that this network embeds."""
        return t

    def attach_extras(self, extras: tuple[Extra, ...]) -> None:
        """Add extra tokens or maps (`backbones/extras.py`). Raises ValueError for invalid names."""
        if not extras:
            return
        self.extras = extras
        self.extra_state = ExtraState(extras, self.architecture.width, self.architecture.patch)
        for module in self.blocks.modules():
            if isinstance(module, Attention):
                module.num_prefix_tokens = len(self.extra_state.tokens)  # no rotary embedding for these

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        label: Tensor,
        hidden_depths: tuple[int, ...] = (),
        *,
        group: Tensor | None = None,
        attention_depths: tuple[int, ...] = (),
        keys_values_depths: tuple[int, ...] = (),
        replace: Mapping[int, tuple[Tensor, Tensor]] | None = None,
        mask: Tensor | None = None,
        extras: Mapping[str, Tensor] | None = None,
    ) -> Output:
        """Predict velocity or noise, and a variance if the architecture has one.

        Args:
            x_t: [B, C, H, W], noisy images.
            t: [B] in [0, 1], 0 is data and 1 is noise; [B, G] with `group`.
            label: [B] int64; num_classes is the null class.
            hidden_depths: return the tokens after these blocks, counted from 1.
            group: [B, N] int64, index in t of the time of each token. Extra tokens are conditioned on the
                mean over image tokens.
            attention_depths: return the attention logits of these blocks.
            keys_values_depths: return the keys and values of these blocks.
            replace: block -> (keys, values), [B, heads, N, D / heads] each, used instead of its own.
            mask: [B, N, N] bool, whether image token i (row) attends to image token j (column).
            extras: name -> noised value, for all attached extras.

        Raises:
            ValueError: the value of an attached extra is missing.
        """
        x = self.x_embedder(x_t) + self.pos_embed  # [B, N, D]
        first = 0  # index of the first image token; extra tokens precede them
        if self.extra_state is not None:
            if extras is None or set(extras) != {extra.name for extra in self.extras}:
                names = ", ".join(extra.name for extra in self.extras)
                raise ValueError(f"the state has the extras {names}: a value of each is required")
            x, first = self.extra_state.embedded(extras, x), len(self.extra_state.tokens)
        c, group = self._condition(t, label, group, first)
        rope = self.rope.get_embed() if self.rope is not None else None
        replace = replace or {}
        hidden, attention, keys_values, extra_hidden = {}, {}, {}, {}
        for depth, block in enumerate(self.blocks, start=1):
            request = None
            if (
                depth in attention_depths
                or depth in keys_values_depths
                or depth in replace
                or mask is not None
            ):
                request = AttentionRequest(
                    depth in attention_depths, depth in keys_values_depths, replace.get(depth), mask
                )
            x, seen = block(x, c, rope, group, request)
            if depth in hidden_depths:
                # Copies, since networks wrapped by FSDP2 must not return views.
                hidden[depth] = x[:, first:].contiguous() if first else x
                if first:
                    extra_hidden[depth] = x[:, :first].contiguous()
            if seen is not None and seen.logits is not None:
                attention[depth] = seen.logits
            if seen is not None and seen.keys_values is not None:
                keys_values[depth] = seen.keys_values
        tokens = self.final_layer.steered(x, c, group)
        image = self.unpatchify(self.final_layer.linear(tokens[:, first:] if first else tokens))
        variance = None
        if self.architecture.learned_variance:
            image, variance = image.chunk(2, dim=1)
        predicted = {} if self.extra_state is None else self.extra_state.predicted(tokens, self.side)
        return Output(image, variance, hidden, attention, keys_values, predicted, extra_hidden)

    def _condition(
        self, t: Tensor, label: Tensor, group: Tensor | None, extra_tokens: int
    ) -> tuple[Tensor, Tensor | None]:
        """The condition: ([B, D], None), or ([B, G, D], group [B, N]) for a time per token."""
        if group is None:
            return self.t_embedder(self.network_time(t)) + self.y_embedder(label), None
        times = self.t_embedder(self.network_time(t.flatten())).unflatten(0, t.shape)
        c = times + self.y_embedder(label)[:, None]
        if not extra_tokens:
            return c, group
        mean = per_token(c, group).mean(dim=1, keepdim=True)
        places = group.new_full((len(group), extra_tokens), t.shape[1])
        return torch.cat([c, mean], dim=1), torch.cat([places, group], dim=1)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Patches to image, [B, N, p*p*C] -> [B, C, H, W]."""
        side, patch = self.side, self.architecture.patch
        patches = patches.view(-1, side, side, patch, patch, patches.shape[-1] // patch**2)
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(-1, patches.shape[-1], side * patch, side * patch)


def position_table(width: int, side: int) -> Tensor:
    """Fixed 2-D sine-cosine positions [1, side*side, width], in the official order.

    The first half of the channels encodes the column, the second the row, each as sines then cosines.
    """
    omega = 1 / MAX_PERIOD ** (torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * omega
    one_axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # [side, width/2]
    columns = one_axis.repeat(side, 1)
    rows = one_axis.repeat_interleave(side, dim=0)
    return torch.cat([columns, rows], dim=1).float().unsqueeze(0)

"""The layers that a transformer block and its input are made of, as timm writes them.

Names of parameters, order of random initialisation and every product are those of timm's `AttentionRope`,
`Mlp`, `SwiGLU` and `PatchEmbed`, which the official releases use. They stand here because importing timm, and
torchvision with it, takes longer than importing torch, in each process that trains or samples.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Images [B, C, H, W] to tokens [B, N, D]: a linear map of each patch."""

    def __init__(self, input_size: int, patch: int, channels: int, width: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """Raises ValueError for images of another size."""
        if images.shape[-2:] != (self.input_size, self.input_size):
            raise ValueError(f"images of {self.input_size} x {self.input_size} expected, not {images.shape}")
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention of several heads, with a rotary embedding of the positions where one is given."""

    def __init__(
        self, width: int, heads: int, qk_norm: bool = False, norm_layer: type[nn.Module] = nn.LayerNorm
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.scale = self.head_dim**-0.5
        self.num_prefix_tokens = 0  # tokens at the start that have no position
        self.fused_attn = True  # by torch's kernel, else as products and a softmax, with the same result
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = norm_layer(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = norm_layer(self.head_dim) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        """Tokens [B, N, D] to tokens [B, N, D]; `rope` is [N, 2 D / heads], sines then cosines."""
        return self.output(*self.queries_keys_values(x, rope))

    def queries_keys_values(self, x: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Of tokens [B, N, D], each [B, heads, N, D / heads], after normalisation and rotary embedding."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        queries, keys = self.q_norm(queries), self.k_norm(keys)
        if rope is not None:
            queries, keys = (self._rotated(part, rope).type_as(values) for part in (queries, keys))
        return queries, keys, values

    def output(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens [B, N, D] from [B, heads, N, D / heads] each; `mask` [B, 1, N, N] is true where i sees j."""
        if self.fused_attn:
            mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        else:
            logits = (queries * self.scale) @ keys.transpose(-2, -1)
            if mask is not None:
                logits = logits.masked_fill(~mask, float("-inf"))
            mixed = logits.softmax(dim=-1) @ values
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def _rotated(self, part: Tensor, rope: Tensor) -> Tensor:
        first = self.num_prefix_tokens
        sines, cosines = rope.chunk(2, dim=-1)
        image = part[:, :, first:]
        quarter_turn = torch.stack([-image[..., 1::2], image[..., ::2]], dim=-1).reshape(image.shape)
        turned = (image * cosines + quarter_turn * sines).to(part.dtype)
        return torch.cat([part[:, :, :first], turned], dim=2)


class Mlp(nn.Module):
    """Linear, GELU in its tanh approximation, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class SwiGLU(nn.Module):
    """W_2 (SiLU(W_g x) * W_x x), arXiv 2002.05202."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1_g = nn.Linear(width, hidden)
        self.fc1_x = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1_g(x)) * self.fc1_x(x))

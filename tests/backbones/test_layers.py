"""The layers against timm's: equal names, initial weights, outputs and gradients, to the last bit."""

import pytest
import torch
from timm.layers.activations import GELUTanh
from timm.layers.attention import AttentionRope
from timm.layers.mlp import Mlp as TimmMlp
from timm.layers.mlp import SwiGLU as TimmSwiGLU
from timm.layers.patch_embed import PatchEmbed as TimmPatchEmbed
from timm.layers.pos_embed_sincos import RotaryEmbeddingCat
from torch import nn

from backbones.layers import Attention, Mlp, PatchEmbed, SwiGLU

TOKENS, IMAGES = (3, 16, 24), (3, 4, 8, 8)
ROPE = RotaryEmbeddingCat(12, in_pixels=False, feat_shape=[4, 4]).get_embed()


def with_prefix(attention):
    attention.num_prefix_tokens = 2
    return attention


def unfused(attention):
    attention.fused_attn = False
    return attention


def timm_attention(**options):
    return AttentionRope(24, num_heads=2, qkv_bias=True, num_prefix_tokens=0, **options)


PAIRS = {
    "patches": (lambda: PatchEmbed(8, 2, 4, 24), lambda: TimmPatchEmbed(8, 2, 4, 24), IMAGES, ()),
    "mlp": (lambda: Mlp(24, 96), lambda: TimmMlp(24, 96, act_layer=GELUTanh), TOKENS, ()),
    "swiglu": (lambda: SwiGLU(24, 64), lambda: TimmSwiGLU(24, 64), TOKENS, ()),
    "attention": (lambda: Attention(24, 2), timm_attention, TOKENS, ()),
    "attention with normalised keys": (
        lambda: Attention(24, 2, qk_norm=True, norm_layer=nn.RMSNorm),
        lambda: timm_attention(qk_norm=True, norm_layer=nn.RMSNorm),
        TOKENS,
        (),
    ),
    "attention that is not fused": (
        lambda: unfused(Attention(24, 2)),
        lambda: unfused(timm_attention()),
        TOKENS,
        (),
    ),
    "rotary attention": (lambda: Attention(24, 2), timm_attention, TOKENS, (ROPE,)),
    "rotary attention with extra tokens": (
        lambda: with_prefix(Attention(24, 2)),
        lambda: with_prefix(timm_attention()),
        (3, 18, 24),
        (ROPE,),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("pair", PAIRS)
def test_a_layer_is_timms(pair, dtype):
    *builders, shape, more = PAIRS[pair]
    x, found = torch.randn(shape, generator=torch.Generator().manual_seed(0)), []
    for build in builders:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            layer = build().to(dtype)
            drawn = torch.rand(())  # as many random numbers were drawn
        output = layer(x.to(dtype), *more)
        output.square().sum().backward()
        gradients = {name: parameter.grad for name, parameter in layer.named_parameters()}
        found.append((layer.state_dict(), drawn, output, gradients))
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert list(found[0][3]) == list(found[1][3])


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="8 x 8 expected"):
        PatchEmbed(8, 2, 4, 24)(torch.zeros(1, 4, 6, 6))

"""Names against the records of timm and open_clip themselves."""

import open_clip
import pytest
import timm

from bench.core.errors import UserError
from bench.nets import table


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("clip-l", "clip-vit-l-14"),
        ("clip-l", "timm:vit_large_patch14_clip_224.openai"),
        ("clip-vit-b-32", "clip:ViT-B-32/openai"),
        ("dinov2-b", "timm:vit_base_patch14_dinov2.lvd142m"),
        ("dinov2-b", "timm:vit_base_patch14_dinov2"),  # its only tag
        ("siglip2-l", "clip:ViT-L-16-SigLIP2-256/webli"),
        ("siglip-b", "timm:vit_base_patch16_siglip_gap_256.webli"),
        ("clip:ViT-H-14/laion2b_s32b_b79k", "timm:vit_huge_patch14_clip_224.laion2b"),
        ("inception", "clean"),
        ("legacy-pytorch", "legacy-tensorflow"),
        ("lpips-vgg", "timm:vgg16.tv_in1k"),
    ],
)
def test_two_names_of_the_same_weights_have_one_identity(one, other):
    assert table.identity(one) == table.identity(other)


def test_other_weights_have_another_identity():
    same = [["clip-l", "clip-vit-l-14"], ["inception", "clean", "legacy-pytorch", "legacy-tensorflow"]]
    apart = [name for name in table.NETWORKS if not any(name in names for names in same)]
    apart += [names[0] for names in same]
    apart += ["timm:vit_base_patch16_clip_224.openai_ft_in1k", "clip:ViT-B-32/laion400m_e32"]
    identities = [table.identity(name) for name in apart]
    assert len(set(identities)) == len(identities)


def test_weights_that_are_published_twice_are_named_as_the_libraries_do():
    ours = {table.timm_repository(model) for model in timm.list_pretrained()}
    theirs = [table.open_clip_record("/".join(pair))[0] for pair in open_clip.list_pretrained()]
    for repository, same in table._SAME.items():
        assert repository in theirs or repository in ours
        assert same in ours
    siglip = [repository for repository in theirs if "SigLIP" in repository]
    assert len(siglip) > 20
    for repository in siglip:
        assert table._canonical(repository) in ours


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'dinov2-b'"):
        table.network("dinov2_b")

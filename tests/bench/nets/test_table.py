"""Names against the records of timm and open_clip themselves."""

import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import timm
import torch

from bench.core.errors import UserError
from bench.nets import table

ROOT = Path(__file__).parents[3]


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


@pytest.mark.parametrize("name", [name for name in table.names("timm") if table.transformer(name)])
def test_transformers_are_those_of_timm(name):
    with torch.device("meta"):
        net = timm.create_model(table.network(name).model, num_classes=0)
    heads, class_token = net.blocks[0].attn.num_heads, net.cls_token is not None
    assert table.transformer(name) == (net.embed_dim, len(net.blocks), heads, class_token)


@pytest.mark.parametrize("name", table.names("timm"))
def test_repositories_are_those_of_timm(name):
    model = table.network(name).model
    assert table.timm_repository(model) == (timm.get_pretrained_cfg(model).hf_hub_id or "")


def test_a_plan_with_a_known_teacher_does_not_import_timm():
    code = (
        "import sys; from bench.nets import table, teachers; table.identity('dinov2-b'); "
        "teachers.describe('dinov2-b', 256, (16, 16)); sys.exit('timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0

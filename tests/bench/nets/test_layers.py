"""Hidden states, attention, keys and values against networks taken apart, weight by weight."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from bench.core.errors import UserError
from bench.data import datasets
from bench.nets import teachers
from bench.nets.table import NETWORKS
from methods.base import EncoderLayers

CPU = torch.device("cpu")


def images(count=2, size=64, channels=3):
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=draw)


def random_encoder(name, folder):
    torch.manual_seed(0)
    net = timm.create_model(NETWORKS[name].model, img_size=64 if "patch16" in NETWORKS[name].model else 56)
    for parameter in net.parameters():  # no layer is close to the identity
        parameter.data += 0.02 * torch.randn(parameter.shape)
    save_file(net.state_dict(), folder / "model.safetensors")
    return teachers.load(f"{name}[weights={folder}]", 64, CPU, grid=(4, 4))


def attention_taken_apart(net, x, layer):
    """Queries, keys, values of a timm block without rotary positions, and its output, from its weights."""
    block = net.blocks[layer - 1]
    heads = block.attn.num_heads
    projected = block.attn.qkv(block.norm1(x)).unflatten(2, (3, heads, -1))
    queries, keys, values = projected.permute(2, 0, 3, 1, 4)
    return queries, keys, values, block(x)


@pytest.mark.parametrize("name", ["dinov2-s", "dinov2-s-reg", "digits-vit"])
def test_what_is_seen_of_a_layer_follows_from_its_weights(name, tmp_path):
    if name == "digits-vit":
        encoder, image = teachers.load(name, 8, CPU), images(size=8, channels=1)
        net, x = encoder.net.transformer, image / 127.5 - 1
    else:
        encoder, image = random_encoder(name, tmp_path), images()
        net, x = encoder.net, encoder.preprocess(image)
    prefix, layers = net.num_prefix_tokens, EncoderLayers((1, -1), (2, -1), (2,))
    with torch.no_grad():
        seen, plain = encoder(image, layers), encoder(image)
        x = net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(x))))
        expected = {}
        for layer in range(1, encoder.info.layers + 1):
            *projections, x = attention_taken_apart(net, x, layer)
            expected[layer] = (*projections, x)
    assert torch.equal(seen.patch_tokens, plain.patch_tokens)
    assert torch.equal(seen.cls_token, plain.cls_token)
    assert not plain.hidden and not plain.attention and not plain.keys_values
    last = encoder.info.layers
    for asked, layer in ((1, 1), (-1, last)):
        torch.testing.assert_close(seen.hidden[asked], expected[layer][3][:, prefix:], atol=1e-4, rtol=1e-4)
    for asked, layer in ((2, 2), (-1, last)):
        queries, keys, values, _ = (y[..., prefix:, :] for y in expected[layer])
        logits = queries @ keys.transpose(-2, -1) / keys.shape[-1] ** 0.5
        torch.testing.assert_close(seen.attention[asked], logits, atol=1e-4, rtol=1e-4)
    _, keys, values, _ = (y[..., prefix:, :] for y in expected[2])
    for found, own in zip(seen.keys_values[2], (keys, values), strict=True):
        torch.testing.assert_close(found, own.transpose(1, 2).flatten(2), atol=1e-4, rtol=1e-4)


def test_rotary_positions_are_in_the_logits(tmp_path):
    """DINOv3: softmax of all its logits, times its values, is what its attention gives."""
    encoder = random_encoder("dinov3-s", tmp_path)
    attention, outputs = encoder.net.blocks[1].attn, []
    attention.proj.register_forward_pre_hook(lambda _, args: outputs.append(args[0]))
    from bench.nets.layers import capture

    layers = EncoderLayers(attention=(2,))
    with torch.no_grad(), capture(encoder.net.blocks, layers) as seen:
        encoder.net.forward_features(encoder.preprocess(images()))
    queries, keys, values = seen.projections[2]
    weights = (queries @ keys.transpose(-2, -1) / keys.shape[-1] ** 0.5).softmax(dim=-1)
    mixed = (weights @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(outputs[0], mixed, atol=1e-4, rtol=1e-4)
    logits = encoder(images(), layers).attention[2]
    torch.testing.assert_close(logits, queries[:, :, 5:] @ keys[:, :, 5:].transpose(-2, -1) / 8)


def test_a_tower_of_open_clip_shows_its_attention(tmp_path):
    """Softmax over all tokens, times values, projected out, is what the library's own attention gives."""
    import open_clip

    torch.manual_seed(0)
    torch.save(
        open_clip.create_model("ViT-S-32-alt", force_image_size=128).state_dict(), tmp_path / "tower.pt"
    )
    encoder = teachers.load(f"clip:ViT-S-32-alt[weights={tmp_path / 'tower.pt'}]", 64, CPU, grid=(4, 4))
    blocks, outputs = encoder.net.transformer.resblocks, {}
    blocks[2].attn.register_forward_hook(lambda _, __, output: outputs.update(attention=output[0]))
    blocks[2].register_forward_hook(lambda _, __, output: outputs.update(block=output))
    from bench.nets.layers import capture

    layers = EncoderLayers((3,), (3,), (3,))
    with capture(blocks, layers) as raw:
        seen = encoder(images(), layers)
    queries, keys, values = raw.projections[3]
    mixed = (queries @ keys.transpose(-2, -1) / keys.shape[-1] ** 0.5).softmax(dim=-1) @ values
    expected = blocks[2].attn.out_proj(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(outputs["attention"], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen.hidden[3], outputs["block"][:, 1:])
    scale = keys.shape[-1] ** -0.5
    torch.testing.assert_close(
        seen.attention[3], queries[:, :, 1:] @ keys[:, :, 1:].transpose(-2, -1) * scale
    )
    torch.testing.assert_close(seen.keys_values[3][1], values[:, :, 1:].transpose(1, 2).flatten(2))
    assert encoder.info == teachers.describe(encoder.info.name + f"[weights={tmp_path}]", 64, (4, 4))
    assert encoder.info.heads == len(queries[0])


@pytest.mark.parametrize("name", ["digits-teacher", "digits-vit"])
def test_a_description_is_what_loading_gives(name):
    assert teachers.describe(name, 8, (4, 4)) == teachers.load(name, 8, CPU, grid=(4, 4)).info


def test_a_description_of_a_published_encoder_is_what_loading_gives(tmp_path):
    encoder = random_encoder("dinov2-s-reg", tmp_path)
    assert encoder.info == teachers.describe("dinov2-s-reg", 64, (4, 4))
    assert (encoder.info.layers, encoder.info.heads, encoder.info.class_token) == (12, 6, True)


def test_an_encoder_without_heads_is_refused_in_one_line_that_names_some_with():
    encoder, image = teachers.load("digits-teacher", 8, CPU), images(size=8, channels=1)
    with pytest.raises(UserError, match=r"digits-teacher has no attention heads .*digits-vit, dinov2-s") as e:
        encoder(image, EncoderLayers(attention=(-1,)))
    assert "\n" not in str(e.value) and "lite0" not in str(e.value)
    vit = teachers.load("digits-vit", 8, CPU)
    with pytest.raises(UserError, match=r"has layers 1 to 4 .* not 5"):
        vit(image, EncoderLayers(hidden=(5,)))


def test_a_feature_cache_refuses_what_it_does_not_hold(tmp_path, monkeypatch):
    from bench.nets.feature_cache import FeatureCache

    monkeypatch.setenv("ALIGNMENT_BENCH_CACHE", str(tmp_path))
    cache = FeatureCache(teachers.load("digits-vit", 8, CPU), datasets.get("digits").open(), "digits")
    cache.fill()
    assert cache(torch.arange(2)).patch_tokens.shape == (2, 16, 64)
    with pytest.raises(UserError, match="drop cache=true"):
        cache(torch.arange(2), EncoderLayers(keys_values=(1,)))


def test_a_method_is_given_layers_and_a_sample_of_the_training_records(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from methods.base import EncoderLayers, Loss, Method, Needs\n"
        "class Mine(Method):\n"
        "    def build(self, backbone, encoder):\n"
        "        parts = list(encoder('digits-vit').sample(100, EncoderLayers(hidden=(2,))))\n"
        "        mean = torch.cat([part.hidden[2] for part in parts]).mean(dim=(0, 1))\n"
        "        self.register_buffer('mean', mean)\n"
        "    def needs(self, step, steps):\n"
        "        layers = {'digits-vit': EncoderLayers(attention=(4,))}\n"
        "        return Needs(encoders=('digits-vit',), encoder_layers=layers)\n"
        "    def losses(self, context):\n"
        "        logits = context.features['digits-vit'].attention[4]\n"
        "        return {'logits': Loss(logits.square().mean(dim=(1, 2, 3)), 0.0)}\n"
    )
    from bench.config.resolve import run_spec
    from bench.training.trainer import Trainer

    trainer = Trainer(run_spec(str(tmp_path / "mine.py"), "sit-ti/2", "digits", 0), CPU)
    encoder = teachers.load("digits-vit", 8, CPU)
    image = datasets.get("digits").open().batch(torch.arange(100), torch.Generator()).image
    expected = encoder(image, EncoderLayers(hidden=(2,))).hidden[2].mean(dim=(0, 1))
    torch.testing.assert_close(trainer.method.mean, expected)
    assert trainer.step(0)["raw"]["logits"] > 0

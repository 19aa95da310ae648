"""examples/train_autoencoder.py: its files are a VAE of `bench.prepare`, which learns, and continues."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.core.errors import UserError
from bench.data.datasets import get
from bench.data.vae import VAE
from tests.helpers.sources_on_disk import CLASSES, load, prepare

SCRIPT = Path(__file__).parents[1] / "examples" / "train_autoencoder.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_autoencoder", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_autoencoder"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["train_autoencoder"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Plain images of 8x8 pixels, each of one colour above and another below."""
    folder, draw = tmp_path_factory.mktemp("autoencoder") / "images", np.random.default_rng(0)
    for part in ("train", "test"):
        for name in CLASSES:
            (folder / part / name).mkdir(parents=True)
            for number in range(12):
                halves = draw.integers(0, 256, (2, 1, 3), dtype=np.uint8)
                pixels = halves.repeat(4, axis=0).repeat(8, axis=1)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return folder


def run(script, monkeypatch, store, out, *more, steps=150):
    options = ("--data", f"folder[path={store}]", "--output", out, "--steps", steps, "--learning-rate", 2e-3)
    small = ("--widths", 16, 16, "--batch-size", 8, *more)
    monkeypatch.setattr(sys, "argv", ["train_autoencoder.py", *map(str, (*options, *small))])
    script.main()


def test_its_latents_make_a_store_and_decode_to_images(script, source, tmp_path, monkeypatch, capsys):
    pixels = prepare(source, tmp_path / "pixels", size=8)
    out, copy = tmp_path / "vae", tmp_path / "decoded.npz"
    run(script, monkeypatch, pixels, out, "--reconstructions", copy)
    assert sorted(file.name for file in out.iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    images, _ = load(pixels).reference()
    decoded = torch.from_numpy(np.load(copy)["arr_0"]).permute(0, 3, 1, 2)
    error = (decoded.float() - images.float()).square().mean()
    assert error < 0.9 * images.float().var(dim=(0, 2, 3)).mean()  # the error of the best constant image
    assert f"mean square error {error / 127.5**2:.5f}" in capsys.readouterr().out

    data = load(prepare(source, tmp_path / "latents", size=8, vae=str(out)))
    assert data.manifest.shape == (3, 4, 4)
    x0 = data.batch(torch.arange(36), torch.Generator().manual_seed(0)).x0
    assert x0.std() == pytest.approx(1, abs=0.05)
    assert data.latents.scale == json.loads((out / "config.json").read_text())["scaling_factor"]
    assert data.to_pixels(x0).shape == (36, 3, 8, 8)

    run(script, monkeypatch, pixels, out)  # is finished: only measures
    assert f"mean square error {error / 127.5**2:.5f}" in capsys.readouterr().out


def test_it_continues_to_the_same_weights(script, source, tmp_path, monkeypatch):
    store = prepare(source, tmp_path / "pixels", size=8)
    monkeypatch.setattr(script, "SAVE_EVERY", 2)
    run(script, monkeypatch, store, tmp_path / "whole", steps=5)
    losses, loss = [], script._loss

    def killed(*arguments):
        losses.append(loss(*arguments))
        if len(losses) == 4:
            raise KeyboardInterrupt
        return losses[-1]

    monkeypatch.setattr(script, "_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        run(script, monkeypatch, store, tmp_path / "parts", steps=5)
    with pytest.raises(UserError, match="other options"):
        run(script, monkeypatch, store, tmp_path / "parts", "--kl", 1e-2, steps=5)
    run(script, monkeypatch, store, tmp_path / "parts", steps=5)
    assert len(losses) == 4 + 3  # from step 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts", "pixels", "whole"]
    whole, parts = (VAE(str(tmp_path / name), torch.device("cpu")).net for name in ("whole", "parts"))
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name]), name


def test_it_refuses_what_it_cannot_halve(script, source, tmp_path, monkeypatch):
    store = prepare(source, tmp_path / "pixels", size=7)
    with pytest.raises(UserError, match="halved 1 times"):
        run(script, monkeypatch, store, tmp_path / "vae")
    with pytest.raises(UserError, match="three channels"):
        monkeypatch.setattr(sys, "argv", ["", "--data", "digits", "--output", str(tmp_path / "vae")])
        script.main()


def test_the_preset_expects_what_the_script_makes(script):
    options, preset = script.Options(output=Path("stores/cifar10-autoencoder")), get("cifar10-latents")
    assert preset.expected["vae"] == str(options.output)
    halvings = len(options.widths) - 1
    assert preset.shape == (10, options.latent_channels, preset.image_size >> halvings)

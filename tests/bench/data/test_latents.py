"""Stores of latents: how they are drawn, scaled and decoded, and which are refused."""

from dataclasses import replace

import pytest
import torch

from bench.core.errors import UserError
from bench.data import datasets
from bench.data.shards import Manifest, ShardedRecords
from bench.data.vae import VAE, describe
from bench.diffusion.pixels import to_uint8
from tests.helpers.sources_on_disk import image_folder, load, prepare, tiny_vae


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def tiny_latents(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    tiny_vae(folder / "vae")
    return prepare(source, folder / "store", vae=str(folder / "vae"))


def test_latents_are_drawn_from_the_posterior_and_scaled(source, tmp_path):
    """Against diffusers' own posterior; the mean of many draws is the posterior mean."""
    vae = tiny_vae(tmp_path / "vae")
    folder = prepare(source, tmp_path / "store", vae=str(tmp_path / "vae"))
    data = load(folder)
    assert (data.channels, data.size, data.image_size) == (4, 16, 32)
    index = torch.tensor([3, 30])
    batch = data.batch(index, torch.Generator().manual_seed(5))
    with torch.no_grad():
        posterior = vae.encode(batch.image.float() / 127.5 - 1).latent_dist
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    expected = 0.5 * (posterior.mean + posterior.std * noise)
    assert torch.allclose(batch.x0, expected, atol=1e-5)
    with torch.no_grad():
        decoded = vae.decode(expected / 0.5).sample
    images = to_uint8(data.to_pixels(batch.x0).detach(), "truncate")
    assert (images.float() - (127.5 * (decoded + 1)).clamp(0, 255)).abs().max() <= 1


def test_a_sampled_latent_is_drawn_once(source, tmp_path):
    """Posterior means and deviations, and the draw that the store keeps: z = mean + std n."""
    tiny_vae(tmp_path / "vae")
    vae = str(tmp_path / "vae")
    once = load(prepare(source, tmp_path / "once", vae=vae, statistic="sample"))
    both = load(prepare(source, tmp_path / "both", vae=vae))
    index = torch.arange(36)
    first, second = (once.batch(index, torch.Generator().manual_seed(seed)).x0 for seed in (0, 1))
    assert torch.equal(first, second)
    noise = (first / 0.5 - both.store.read("mean", index)) / both.store.read("std", index)
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02  # 36,864 standard normals
    assert "std" not in once.store._shard("train-00000.safetensors")


def test_channels_are_normalised_by_the_stores_own_statistics(source, tmp_path):
    """Against mean and deviation of many draws."""
    tiny_vae(tmp_path / "vae")
    data = load(prepare(source, tmp_path / "store", vae=str(tmp_path / "vae"), normalise="channels"))
    index = torch.arange(36).repeat(20)
    x0 = data.batch(index, torch.Generator().manual_seed(0)).x0
    assert torch.allclose(x0.mean(dim=(0, 2, 3)), torch.zeros(4), atol=0.01)
    assert torch.allclose(x0.std(dim=(0, 2, 3)), torch.ones(4), atol=0.01)
    z = data.store.read("mean", torch.arange(3))
    assert torch.allclose(
        data.to_pixels((z - data.bias) * data.scale),
        load(prepare(source, tmp_path / "plain", vae=str(tmp_path / "vae"))).to_pixels(z * 0.5),
        atol=1e-4,
    )


def test_a_vae_that_halves_four_times_gives_32_channels(source, tmp_path):
    tiny_vae(tmp_path / "vae", halvings=4, channels=32)
    data = load(prepare(source, tmp_path / "store", vae=str(tmp_path / "vae")))
    assert (data.channels, data.size, data.image_size) == (32, 2, 32)
    batch = data.batch(torch.arange(2), torch.Generator())
    assert batch.x0.shape == (2, 32, 2, 2) and data.to_pixels(batch.x0).shape == (2, 3, 32, 32)


def test_half_precision_and_tiles_change_latents_slightly_and_are_told(source, tmp_path):
    tiny_vae(tmp_path / "vae")
    vae, index = str(tmp_path / "vae"), torch.arange(4)
    exact = load(prepare(source, tmp_path / "fp32", vae=vae)).store.read("mean", index)
    half = ShardedRecords(prepare(source, tmp_path / "bf16", vae=vae, precision="bf16"))
    difference = (half.read("mean", index) - exact).abs().max()
    assert 0 < difference < 0.05 and half.manifest.latents.precision == "bf16"
    images = ShardedRecords(tmp_path / "fp32").read("image", index)
    tiled = VAE(vae, torch.device("cpu"), tiled=True)
    tiled.net.tile_sample_min_size, tiled.net.tile_latent_min_size = 16, 8  # of 32 pixels
    difference = (tiled.encode(images)[0] - exact).abs()
    assert difference.max() > 0 and difference.mean() < 0.2
    contents = [
        Manifest("", 32, ("a",), {"train": 1}, "", 9, describe(vae, vae, 32, tiled=t)) for t in (0, 1)
    ]
    assert len({content.identity for content in contents}) == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale", 0.18215),
        ("decoder", "ema"),
        ("statistic", "sample"),
        ("normalise", "channels"),
        ("resize", "area"),
    ],
)
def test_latents_of_another_kind_than_the_protocols_are_refused(tiny_latents, name, value):
    dataset = datasets.get(f"folder[path={tiny_latents}]")
    with pytest.raises(UserError, match=f"has {name}=.*, this data set expects {value}: prepare it so"):
        replace(dataset, preset={"store": {name: value}}).open()


def test_a_replaced_decoder_is_refused(source, tmp_path):
    tiny_vae(tmp_path / "vae")
    data = load(prepare(source, tmp_path / "store", vae=str(tmp_path / "vae")))
    tiny_vae(tmp_path / "vae", seed=1)
    with pytest.raises(UserError, match="is not the one that the store"):
        data.to_pixels(torch.zeros(1, 4, 16, 16))


def test_an_absent_vae_ends_in_the_command_that_fetches_it(source, tmp_path):
    with pytest.raises(UserError, match=r"hf download stabilityai/sd-vae-ft-mse config\.json"):
        prepare(source, tmp_path / "store", vae="stabilityai/sd-vae-ft-mse")

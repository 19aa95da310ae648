"""A store against its source: the same images, labels and keys, whatever they came in."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bench import prepare as command
from bench.core import grammar
from bench.core.errors import UserError
from bench.core.files import sha256
from bench.data import build, datasets
from bench.data import shards as stores
from bench.data.hub_sources import open_source
from bench.data.shards import Manifest, ShardedRecords, read_manifest
from bench.data.sources import area_average, centre_crop
from bench.data.vae import VAE, describe
from bench.diffusion.pixels import to_uint8
from tests.helpers.sources_on_disk import CLASSES, image_folder, tarred, tiny_vae, zipped


def prepare(source, out, size=32, **recipe):
    command.prepare(str(source), out, command.Recipe(size=size, **recipe), workers=1)
    return out


def files(folder):
    return {path.name: sha256(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("source"))


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(stores, "SHARD_RECORDS", 16)


@pytest.fixture(scope="module")
def tiny_latents(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    tiny_vae(folder / "vae")
    return prepare(source, folder / "store", vae=str(folder / "vae"))


@pytest.fixture
def store(source, tmp_path, small_shards):
    return prepare(source, tmp_path / "store")


def load(store, **options):
    return datasets.get(grammar.join("folder", {"path": store, **options})).open()


def test_records_are_the_images_of_the_source_with_their_class(source, store):
    data = load(store)
    assert len(data) == 36 and data.classes == 3 and (data.channels, data.size) == (3, 32)
    assert len(list(store.glob("train-*"))) == 3  # 36 records in shards of 16
    batch = data.batch(torch.arange(36), torch.Generator())
    keys = data.store.read("key", torch.arange(36))
    for number in range(36):
        key = bytes(keys[number].tolist()).rstrip(b"\0").decode()
        pixels = np.asarray(Image.open(source / key).crop((4, 0, 36, 32)))
        assert np.array_equal(batch.image[number].permute(1, 2, 0).numpy(), pixels)
        assert key.split("/")[:2] == ["train", CLASSES[batch.label[number]]]
    assert torch.equal(to_uint8(data.to_pixels(batch.x0), "round"), batch.image)
    images, labels = data.reference()
    assert images.shape == (36, 3, 32, 32) and labels.tolist() == [0] * 12 + [1] * 12 + [2] * 12


def test_folder_zip_and_tar_give_the_same_records(source, store, tmp_path):
    packed = zipped(source, tmp_path / "source.zip")
    assert files(prepare(packed, tmp_path / "zip")).items() - files(store).items() == {
        ("manifest.json", sha256(tmp_path / "zip" / "manifest.json"))  # it names the source
    }
    first, second = (read_manifest(folder) for folder in (store, tmp_path / "zip"))
    assert first.identity == second.identity
    tar = load(prepare(tarred(source, tmp_path / "source.tar"), tmp_path / "tar"))
    index = torch.tensor([35, 0, 17])
    expected = load(store).batch(index, torch.Generator())
    batch = tar.batch(index, torch.Generator())
    assert torch.equal(batch.image, expected.image) and torch.equal(batch.label, expected.label)


def test_crop_is_the_mean_of_2x2_pixels_of_an_image_twice_as_large():
    pixels = np.random.default_rng(0).integers(0, 64, (32, 32, 3), dtype=np.uint8) * 4
    expected = pixels.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3))
    cropped = np.asarray(centre_crop(Image.fromarray(pixels), 16)).astype(float)
    assert np.abs(cropped - expected).max() <= 0.5


def test_area_is_the_mean_of_the_pixels_under_each_new_one():
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    expected = pixels.reshape(8, 3, 8, 3, 3).mean(axis=(1, 3))
    wide = Image.fromarray(np.pad(pixels, ((0, 0), (5, 5), (0, 0))))
    assert np.abs(np.asarray(area_average(wide, 8)) - expected).max() <= 1  # rounded twice


def test_the_manifest_says_how_images_were_resized(source, tmp_path):
    contents = ShardedRecords(prepare(source, tmp_path / "area", size=8, resize="area")).manifest
    assert contents.resize == "area" and "mean of the pixels" in contents.crop
    assert contents.identity != ShardedRecords(prepare(source, tmp_path / "adm", size=8)).manifest.identity


def test_crop_takes_the_centre():
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 255
    assert (np.asarray(centre_crop(Image.fromarray(wide), 16)) == 255).all()


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


def test_the_order_of_records_and_draws_are_functions_of_the_seed(store):
    draws = [load(store).batch(torch.tensor([5, 1]), torch.Generator().manual_seed(0)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*draws, strict=True))


def test_a_finished_store_is_left_as_it_is(source, store, capsys):
    before = files(store)
    prepare(source, store)
    assert files(store) == before and "is complete" in capsys.readouterr().out


def test_shards_hold_at_most_half_a_gibibyte():
    for size in (32, 256, 512, 1024):
        contents = Manifest("", size, ("a",), {"train": 10}, "", 40, None)
        assert contents.records_per_shard * contents.record_bytes <= stores.SHARD_BYTES


@pytest.mark.parametrize("size", [0, -1, 20_000, 100_000])
def test_sizes_that_no_shard_holds_are_refused(source, tmp_path, size):
    with pytest.raises(UserError, match=f"--size {size}: images have 1 to 13377 rows"):
        prepare(source, tmp_path / "out", size=size)


def test_a_verified_store_is_intact_and_a_flipped_bit_is_found(store, capsys):
    command.verify(store)
    assert "all intact" in capsys.readouterr().out
    path = store / "train-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train-00001.safetensors is damaged"):
        command.verify(store)


def broken(source, tmp_path, change):
    """A copy of the source with one image changed."""
    copy = tmp_path / "broken"
    shutil.copytree(source, copy)
    change(copy / "train" / "dog" / "0003.png")
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "cannot be read as an image"),
        (lambda path: path.write_bytes(b""), "cannot be read as an image"),
        (lambda path: Image.new("I;16", (40, 32)).save(path), "not 8 bits a channel"),
    ],
)
def test_a_bad_image_is_named(source, tmp_path, change, message):
    with pytest.raises(UserError, match=f"dog/0003.png.*{message}"):
        prepare(broken(source, tmp_path, change), tmp_path / "store")
    with pytest.raises(UserError, match="is unfinished: run the command that prepares it again"):
        ShardedRecords(tmp_path / "store")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_other_colour_modes_become_rgb(source, tmp_path, mode):
    copy = broken(source, tmp_path, lambda path: Image.open(path).convert(mode).save(path))
    expected = np.asarray(Image.open(copy / "train/dog/0003.png").convert("RGB").crop((4, 0, 36, 32)))
    pixels = open_source(str(copy)).pixels("train/dog/0003.png", 32)
    assert np.array_equal(pixels.transpose(1, 2, 0), expected)


def test_what_cannot_be_a_source_says_so(tmp_path):
    with pytest.raises(UserError, match="there is nothing at"):
        open_source(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="there are no images"):
        open_source(str(tmp_path))
    (tmp_path / "notes.txt").write_text("no archive")
    with pytest.raises(UserError, match="neither a folder, nor a zip, nor an uncompressed tar"):
        open_source(str(tmp_path / "notes.txt"))
    image_folder(tmp_path / "data", count=1, parts=("train",))
    (tmp_path / "data/test/unseen").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "data/test/unseen/a.png")
    with pytest.raises(UserError, match=r"no class of the training part .* such as test/unseen/a.png.*--yes"):
        prepare(tmp_path / "data", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_store_of_other_contents_is_not_overwritten(source, store):
    with pytest.raises(UserError, match="it differs in size"):
        prepare(source, store, size=16)


def test_a_folder_that_is_no_store_is_not_touched(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="not empty and no store"):
        prepare(source, tmp_path / "out")


def test_labels_out_of_range_are_refused_before_they_are_trained_on(store):
    """As where the list of classes in a manifest was shortened by hand."""
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["classes"].pop()
    (store / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"has labels outside 0\.\.1"):
        load(store).batch(torch.arange(36), torch.Generator())
    with pytest.raises(UserError, match=r"has labels outside 0\.\.1"):
        command.verify(store)


def test_a_missing_or_cut_shard_is_found_on_opening(store):
    path = store / "train-00001.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"train-00001.safetensors is absent or cut off"):
        load(store)


def test_a_preset_refuses_a_store_of_another_kind(source, store, tmp_path):
    with pytest.raises(UserError, match="has image_size=32, this data set expects 256"):
        datasets.get(f"imagenet256[path={store}]").open()
    with pytest.raises(UserError, match="has classes=3, this data set expects 10"):
        datasets.get(f"cifar10[path={store}]").open()
    with pytest.raises(UserError, match="has vae=none, this data set expects tiny"):
        load(store, vae="tiny")
    with pytest.raises(UserError, match="there is no store at"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="digits"):
        datasets.get("digits[path=x]").open()


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


def test_a_full_disk_ends_in_one_line_and_is_continued(source, tmp_path, monkeypatch, small_shards):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"takes 223 kB more, .* has 1 kB free"):
        prepare(source, tmp_path / "store")
    monkeypatch.undo()
    write, written = build.write_shard, []

    def full_after_two(path, arrays):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(path)
        return write(path, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(stores, "SHARD_RECORDS", 16)
        patch.setattr(build, "write_shard", full_after_two)
        with pytest.raises(UserError, match=r"No space left on device.*make room"):
            prepare(source, tmp_path / "store")
    monkeypatch.setattr(stores, "SHARD_RECORDS", 16)
    assert files(prepare(source, tmp_path / "store")) == files(prepare(source, tmp_path / "whole"))


def test_surprising_images_stop_the_preparation_unless_a_person_says_yes(tmp_path, capsys):
    (tmp_path / "flat").mkdir()
    for number in range(3):
        Image.new("RGB", (4, 4)).save(tmp_path / "flat" / f"{number}.png")
    with pytest.raises(UserError, match=r"all training images are of one class. If this is right, add --yes"):
        prepare(tmp_path / "flat", tmp_path / "store", size=4)
    assert not (tmp_path / "store").exists()
    command.prepare(str(tmp_path / "flat"), tmp_path / "store", command.Recipe(size=4), 1, yes=True)
    assert "images: 3, classes: 1" in capsys.readouterr().out
    prepare(tmp_path / "flat", tmp_path / "store", size=4)  # it was confirmed


def test_a_store_inside_its_images_is_refused(source):
    with pytest.raises(UserError, match="lies inside the images of"):
        prepare(source, source / "store")
    assert not (source / "store").exists()


def test_an_image_much_longer_than_wide_is_named(tmp_path):
    """Scaled to its size it would take gigabytes."""
    for name, size in (("a", (5000, 2)), ("b", (4, 4))):
        (tmp_path / "long" / name).mkdir(parents=True)
        Image.new("RGB", size).save(tmp_path / "long" / name / "0.png")
    with pytest.raises(UserError, match=r"a/0.png in long has 5000 x 2 pixels"):
        prepare(tmp_path / "long", tmp_path / "store")


def test_names_need_not_be_utf_8(tmp_path):
    root = os.fsencode(image_folder(tmp_path / "odd", count=2, parts=("train",)))
    os.rename(root + b"/train/cat", root + b"/train/\xe9t\xe9")
    data = load(prepare(tmp_path / "odd", tmp_path / "store"))
    assert [os.fsencode(name) for name in data.manifest.classes] == [b"dog", b"eel", b"\xe9t\xe9"]
    assert b"\xe9t\xe9" in data.store.read("key", torch.tensor([5])).numpy().tobytes()

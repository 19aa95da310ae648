"""A store against its source: the same images, labels and keys, whatever they came in."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from bench import prepare as command
from bench.core.errors import UserError
from bench.core.files import sha256
from bench.data import build, datasets
from bench.data import shards as stores
from bench.data.shards import Manifest, ShardedRecords, read_manifest
from bench.data.sources import area_average, centre_crop
from bench.diffusion.pixels import to_uint8
from tests.helpers.sources_on_disk import CLASSES, image_folder, load, prepare, tarred, zipped


def files(folder):
    return {path.name: sha256(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("source"))


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(stores, "SHARD_RECORDS", 16)


@pytest.fixture
def store(source, tmp_path, small_shards):
    return prepare(source, tmp_path / "store")


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


def test_a_verified_store_is_intact_and_a_flipped_bit_is_found(store, capsys):
    command.verify(store)
    assert "all intact" in capsys.readouterr().out
    path = store / "train-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train-00001.safetensors is damaged"):
        command.verify(store)


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

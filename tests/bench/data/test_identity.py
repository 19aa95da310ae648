"""The identity of a store is that of its images and labels: names do not count, pictures do."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from bench import prepare as command
from bench.config import resolve
from bench.core.errors import UserError
from bench.data import datasets
from bench.data import shards as stores
from bench.data.shards import read_manifest


def images(folder, seed, names=("a", "b"), count=6):
    """CLASS/NN.png of random pixels that depend on the seed."""
    draw = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.png")
    return folder


def prepare(source, out, size=8):
    command.prepare(str(source), out, command.Recipe(size=size), workers=1)
    return out


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(stores, "SHARD_RECORDS", 4)


@pytest.fixture
def store(tmp_path):
    return prepare(images(tmp_path / "p", seed=0), tmp_path / "store")


def test_other_pictures_under_the_same_names_are_another_data_set(store, tmp_path):
    other = prepare(images(tmp_path / "q", seed=1), tmp_path / "other")
    assert read_manifest(store).keys == read_manifest(other).keys
    specs = [resolve.run_spec("baseline", "sit-pico/4", f"folder[path={p}]", 0) for p in (store, other)]
    assert specs[0].protocol.data != specs[1].protocol.data
    assert specs[0].protocol.hash != specs[1].protocol.hash


def test_one_pixel_makes_another_data_set(store, tmp_path):
    changed = images(tmp_path / "changed", seed=0)
    pixels = np.array(Image.open(changed / "b/03.png"))
    pixels[3, 4, 1] ^= 1
    Image.fromarray(pixels).save(changed / "b/03.png")
    assert read_manifest(prepare(changed, tmp_path / "s")).identity != read_manifest(store).identity


def test_a_store_that_is_copied_touched_or_linked_stays_the_same(store, tmp_path):
    copied, linked = tmp_path / "elsewhere" / "of another name", tmp_path / "linked"
    shutil.copytree(store, copied)
    linked.symlink_to(store)
    for path in copied.iterdir():
        os.utime(path, (1, 1))
    specs = [
        resolve.run_spec("baseline", "sit-pico/4", f'folder[path="{path}"]', 0)
        for path in (store, copied, linked)
    ]
    assert len({spec.protocol.hash for spec in specs}) == 1


def test_the_same_pictures_under_other_names_are_the_same_data_set(store, tmp_path):
    renamed = images(tmp_path / "renamed", seed=0, names=("x", "y"))
    for file in list(renamed.rglob("*.png")):
        file.rename(file.with_name(f"a longer name {file.name}"))
    assert read_manifest(prepare(renamed, tmp_path / "s")).identity == read_manifest(store).identity


def test_labels_count(store, tmp_path):
    moved = images(tmp_path / "moved", seed=0)
    (moved / "b/00.png").rename(moved / "a/06.png")  # the pictures are in the same order
    assert read_manifest(prepare(moved, tmp_path / "s")).identity != read_manifest(store).identity


def test_a_finished_store_of_other_pictures_is_not_called_complete(store, tmp_path):
    before = contents(store)
    with pytest.raises(UserError, match="does not hold the images of q: choose another --output"):
        prepare(images(tmp_path / "q", seed=1), store)
    assert contents(store) == before


def test_a_preparation_is_not_continued_with_other_pictures(store, tmp_path):
    manifest = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").unlink()
    (store / "unfinished.json").write_text(json.dumps(manifest | {"checksums": {}, "images": {}}))
    (store / "train-00002.safetensors").unlink()
    with pytest.raises(UserError, match="does not hold the images of q"):
        prepare(images(tmp_path / "q", seed=1), store)
    prepare(tmp_path / "p", store)
    assert json.loads((store / "manifest.json").read_text()) == manifest


@pytest.mark.parametrize("change", ["absent", "cut off", "other bytes", "manifest cut off"])
def test_preparing_again_mends_a_damaged_store(store, tmp_path, change):
    before, path = contents(store), store / "train-00001.safetensors"
    if change == "absent":
        path.unlink()
    elif change == "cut off":
        path.write_bytes(path.read_bytes()[:100])
    elif change == "other bytes":
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    else:
        (store / "manifest.json").write_text('{"format": 2')
    prepare(tmp_path / "p", store)
    assert contents(store) == before


def to_format_1(store):
    """As version 0.1 wrote it."""
    manifest = json.loads((store / "manifest.json").read_text())
    kept = {key: manifest.pop(key) for key in ("checksums", "channels")}
    for key in ("format", "identity", "images"):
        del manifest[key]
    old = {"format": 1, "fingerprint": "01234567", "contents": manifest, **kept}
    (store / "manifest.json").write_text(json.dumps(old))
    return old


def test_a_store_of_format_1_is_read_and_identified_by_the_checksums_of_its_shards(store, tmp_path):
    new, other = read_manifest(store), prepare(images(tmp_path / "q", seed=1), tmp_path / "other")
    to_format_1(store)
    to_format_1(other)
    old = datasets.get(f"folder[path={store}]")
    assert len(old.open()) == 12 and old.shape == new.shape
    identities = {new.identity, read_manifest(store).identity, read_manifest(other).identity, "01234567"}
    assert len(identities) == 4
    prepare(tmp_path / "p", store)  # compares the images, and adds their checksums
    assert read_manifest(store) == new


def test_a_manifest_without_checksums_is_named_and_mended(store, tmp_path):
    new, old = read_manifest(store), to_format_1(store)
    (store / "manifest.json").write_text(json.dumps(old | {"checksums": {}}))
    with pytest.raises(UserError, match=r"no checksum of train-00000.safetensors.*prepare it again"):
        datasets.get(f"folder[path={store}]").identity  # noqa: B018
    prepare(tmp_path / "p", store)
    assert read_manifest(store) == new


def test_a_reference_is_its_content(tmp_path):
    first, same, other = (tmp_path / name for name in ("a.npz", "b.npz", "c.npz"))
    for path, seed in ((first, 0), (same, 0), (other, 1)):
        np.savez(path, mu=np.random.default_rng(seed).normal(size=3))

    def protocol(path):
        data = f"imagenet256[reference={path}]"
        return resolve.run_spec("baseline", "sit-s/2", data, 0).protocol.hash

    assert protocol(first) == protocol(same) != protocol(other)
    folders = [images(tmp_path / name, seed) for name, seed in (("x", 0), ("y", 0), ("z", 1))]
    assert protocol(folders[0]) == protocol(folders[1]) != protocol(folders[2])
    shutil.copy(folders[0] / "a/00.png", folders[0] / ".hidden.png")
    shutil.make_archive(str(tmp_path / "w"), "zip", tmp_path / "y")
    assert protocol(folders[0]) == protocol(tmp_path / "w.zip")
    with pytest.raises(UserError, match=r"reference .*nowhere.npz cannot be read"):
        protocol(tmp_path / "nowhere.npz")

"""Images that a store is made of: what is read, and what is refused."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from bench import prepare as command
from bench.core.errors import UserError
from bench.data.hub_sources import open_source
from bench.data.shards import ShardedRecords
from tests.helpers.sources_on_disk import image_folder, load, prepare


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return image_folder(tmp_path_factory.mktemp("source"))


@pytest.mark.parametrize("size", [0, -1, 20_000, 100_000])
def test_sizes_that_no_shard_holds_are_refused(source, tmp_path, size):
    with pytest.raises(UserError, match=f"--size {size}: images have 1 to 13377 rows"):
        prepare(source, tmp_path / "out", size=size)


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

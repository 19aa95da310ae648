import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.core.errors import UserError
from bench.data.image_files import open_images, writing


def random_images(count: int, channels: int = 3) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, channels, 6, 5), generator=draw, dtype=torch.uint8)


def save(images: torch.Tensor, path: Path) -> Path:
    with writing(path, len(images)) as write:
        for batch in images.split(4):
            write(batch)
    return path


def load(path: Path, size: int = 3, start: int = 0) -> torch.Tensor:
    return torch.cat(list(open_images(path).batches(size, start)))


@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_set_gives_back_what_was_written(channels: int, tmp_path: Path):
    images = random_images(11, channels)
    archive, folder = save(images, tmp_path / "a.npz"), save(images, tmp_path / "folder")
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder))
    np.savez_compressed(tmp_path / "small.npz", images.permute(0, 2, 3, 1).numpy())
    for path in (archive, folder, packed, tmp_path / "small.npz"):
        assert torch.equal(load(path), images), path
        assert torch.equal(load(path, size=4, start=7), images[7:]), path


def test_archives_are_read_by_numpy_as_adm_does(tmp_path: Path):
    images = random_images(5)
    with np.load(save(images, tmp_path / "a.npz")) as arrays:
        assert np.array_equal(arrays["arr_0"], images.permute(0, 2, 3, 1).numpy())


def test_images_of_several_sizes_keep_their_order_in_batches_of_one_size(tmp_path: Path):
    sizes, channels = [(6, 5), (6, 5), (8, 5), (6, 5), (6, 5)], [3, 3, 3, 1, 1]
    for number, (size, count) in enumerate(zip(sizes, channels, strict=True)):
        Image.new("RGB" if count == 3 else "L", size[::-1], number).save(tmp_path / f"{number}.png")
    batches = list(open_images(tmp_path).batches(4))
    assert [batch.shape for batch in batches] == [(2, 3, 6, 5), (1, 3, 8, 5), (1, 1, 6, 5), (1, 1, 6, 5)]
    assert [image[0, 0, 0].item() for batch in batches for image in batch] == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="of one size"), writing(tmp_path / "a.npz", 5) as write:
        for batch in batches:
            write(batch)


def test_requested_classes_come_with_an_archive(tmp_path: Path):
    images = random_images(4).permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "a.npz", images, np.array([3, 1, 2, 0]))
    assert open_images(tmp_path / "a.npz").labels.tolist() == [3, 1, 2, 0]


def write_wrong(kind: str, path: Path) -> Path:
    images = random_images(4).permute(0, 2, 3, 1).numpy()
    archives = {
        "float": {"arr_0": images / 255},
        "other key": {"images": images},
        "channels first": {"arr_0": random_images(4).numpy()},
        "fortran": {"arr_0": np.asfortranarray(images)},
        "none": {"arr_0": images[:0]},
        "labels": {"arr_0": images, "arr_1": np.zeros(3, dtype=int)},
        "object": {"arr_0": np.array([None, None])},
    }
    path.mkdir()
    if kind in archives:
        np.savez(path / "a.npz", **archives[kind])
        return path / "a.npz"
    if kind == "cut off":
        file = save(random_images(500), path / "a.npz")
        file.write_bytes(file.read_bytes()[:5000])
        return file
    if kind == "text":
        (path / "notes.txt").write_text("no images here")
        return path / "notes.txt"
    if kind == "not an image":
        (path / "0.png").write_text("no image")
    if kind == "16 bits":
        Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(path / "0.png")
    if kind == "empty zip":
        zipfile.ZipFile(path / "a.zip", "w").close()
        return path / "a.zip"
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("float", "float64; images must be uint8"),
        ("other key", r"no images \(arr_0\); it has images"),
        ("channels first", r"shape \(4, 3, 6, 5\)"),
        ("fortran", "Fortran order"),
        ("none", "shape"),
        ("labels", "labels are"),
        ("object", "arr_0"),
        ("cut off", "cannot be read as an .npz"),
        ("text", "neither"),
        ("not an image", "0.png .* cannot be read"),
        ("16 bits", "8 bits"),
        ("empty zip", "no images"),
        ("empty folder", "no images"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_line(kind: str, message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message) as error:
        load(write_wrong(kind, tmp_path / "wrong"))
    assert "\n" not in str(error.value)


def test_a_missing_path_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="nothing at"):
        open_images(tmp_path / "nowhere.npz")


def test_a_file_is_not_replaced_by_a_folder_nor_a_folder_by_a_file(tmp_path: Path):
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "folder.npz").mkdir()
    for name in ("notes", "folder.npz"):
        with pytest.raises(UserError, match="choose another place"), writing(tmp_path / name, 1):
            pass
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_folder_with_images_is_not_written_to(tmp_path: Path):
    out = tmp_path / "out"
    save(random_images(5), out)
    with pytest.raises(UserError, match="out is not empty: images of two sets would be mixed"):
        save(random_images(3), out)
    assert len(list(out.iterdir())) == 5


@pytest.mark.parametrize("name", ["folder", "a.npz"])
def test_images_that_are_not_all_written_leave_nothing_behind(name: str, tmp_path: Path):
    with pytest.raises(ZeroDivisionError), writing(tmp_path / name, 5) as write:
        write(random_images(3))
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_dead_links_and_sidecars_among_images_are_passed_over(tmp_path: Path):
    images = random_images(3)
    folder = save(images, tmp_path / "folder")
    (folder / "latest.png").symlink_to("/nowhere.png")
    (folder / "._000000.png").write_bytes(b"\0\5\x16\7")
    assert torch.equal(load(folder), images)
    found = open_images(folder)
    assert found.count == 3 and len(found.files) == 3
    assert found.summary.splitlines() == [
        "images: 3, classes: 1",
        "ignored, links to nothing: 1, such as latest.png",
        "ignored, hidden and system files: 1, such as ._000000.png",
    ]


def test_arrays_are_known_by_what_they_are_and_not_by_their_suffix(tmp_path: Path):
    images = random_images(4)
    for name in ("UP.NPZ", "plain"):
        shutil.copy(save(images, tmp_path / "a.npz"), tmp_path / name)
        assert torch.equal(load(tmp_path / name), images)


def test_nothing_is_unpickled(tmp_path: Path):
    images = random_images(4).permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "labels.npz", images, np.array([None] * 4))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps([1, 2]))
    for name, message in (("labels.npz", "arr_1 .* is object"), ("pickle.npz", "cannot be read as an .npz")):
        with pytest.raises(UserError, match=message):
            load(tmp_path / name)


def test_an_array_with_flipped_bytes_is_named(tmp_path: Path):
    np.savez_compressed(tmp_path / "a.npz", random_images(50).permute(0, 2, 3, 1).numpy())
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[1000:1020] = bytes(20)
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"arr_0 of .* cannot be read"):
        load(tmp_path / "a.npz")

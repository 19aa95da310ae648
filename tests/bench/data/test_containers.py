"""Folders, zips and tars as containers of files: links, names, damage."""

import io
import os
import shutil
import tarfile
import zipfile

import numpy as np
import pytest

from bench.core.errors import UserError
from bench.data.containers import open_container
from bench.data.image_files import open_images
from bench.data.layout import understand
from tests.helpers.sources_on_disk import labels, png, tree, understood


def test_links_to_files_and_folders_are_followed_and_dead_ones_counted(tmp_path):
    tree(tmp_path / "full", "a/1.png", "a/2.png")
    root = tree(tmp_path / "root", "c/1.png")
    os.symlink(tmp_path / "full/a", root / "a")
    os.symlink(tmp_path / "full/a/1.png", root / "c/2.png")
    os.symlink("/nowhere", root / "c/3.png")
    os.symlink(root, root / "c/loop")
    found = understood(root)
    assert sorted(labels(found)) == ["a/1.png", "a/2.png", "c/1.png", "c/2.png"] and not found.surprises
    assert found.passed_over["links to nothing"] == ["c/3.png"]
    assert found.passed_over["links back to a folder that holds them"] == ["c/loop"]


def test_archives_mean_what_the_folder_means(tmp_path):
    root = tree(tmp_path / "root", "train/a/1.png", "train/b/1.png", "test/a/1.png")
    packed, windows = tmp_path / "a.zip", tmp_path / "b.zip"
    with zipfile.ZipFile(packed, "w") as archive, zipfile.ZipFile(windows, "w") as other:
        for file in sorted(root.rglob("*.png")):
            inside = str(file.relative_to(root))
            archive.write(file, inside)
            other.writestr(inside.replace("/", "\\"), file.read_bytes())
            archive.writestr(f"__MACOSX/{inside}", b"\0\5\x16\7")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(root, arcname=".")
        for name, kind, target in (
            ("./train/b/2.png", tarfile.SYMTYPE, "../a/1.png"),
            ("./train/b/3.png", tarfile.LNKTYPE, "./train/a/1.png"),
            ("./train/b/4.png", tarfile.SYMTYPE, "/etc/passwd"),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            archive.addfile(link)
    expected = understood(root)
    for path in (packed, windows):
        assert understood(path).parts == expected.parts
    tar = open_container(tmp_path / "a.tar")
    found = understand(tar)
    assert labels(found) == labels(expected) | {"train/b/2.png": "b", "train/b/3.png": "b"}
    assert tar.read("train/b/2.png") == tar.read("train/b/3.png") == png()
    assert found.passed_over["links to nothing"] == ["train/b/4.png"]


def linked(name, target):
    link = zipfile.ZipInfo(name)
    link.create_system, link.external_attr = 3, 0o120777 << 16
    return link, target


def test_links_in_archives_may_be_to_folders_and_through_links(tmp_path):
    links = {"b": "a", "c/1.png": "../b/1.png", "d": "nowhere", "e": "e"}
    with (
        zipfile.ZipFile(tmp_path / "a.zip", "w") as packed,
        tarfile.open(tmp_path / "a.tar", "w") as tar,
    ):
        for name in ("a/1.png", "a/2.png"):
            packed.writestr(name, png())
            member = tarfile.TarInfo(name)
            member.size = len(png())
            tar.addfile(member, io.BytesIO(png()))
        for name, target in links.items():
            packed.writestr(*linked(name, target))
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    for name in ("a.zip", "a.tar"):
        container = open_container(tmp_path / name)
        found = understand(container)
        assert sorted(labels(found)) == ["a/1.png", "a/2.png", "b/1.png", "b/2.png", "c/1.png"]
        assert container.read("c/1.png") == png()
        assert sorted(found.passed_over["links to nothing"]) == ["d", "e"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_an_archive_holds_twice_are_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a/1.png", "b/1.png", "a//1.png", "b/1.png"):
            archive.writestr(name, png())
    assert (
        "names that the archive holds twice would be ignored: 2"
        in understood(tmp_path / "a.zip").surprises[0]
    )


def test_members_that_leave_their_archive_are_passed_over(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a/1.png", "b/1.png", "../evil.png", "a/../../evil.png", "C:\\x\\evil.png"):
            archive.writestr(name, png())
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("/a/1.png", "b/1.png", "../evil.png"):
            member = tarfile.TarInfo(name)
            member.size = len(png())
            archive.addfile(member, io.BytesIO(png()))
    for name in ("a.zip", "a.tar"):
        found = understood(tmp_path / name)
        assert sorted(labels(found)) == ["a/1.png", "b/1.png"]
        assert "names that leave the archive" in found.surprises[0]


def encrypted(path):
    """The flag of encryption in every header."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1.png", png())
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.rindex(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)


def deflate64(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1.png", png())
    content = bytearray(path.read_bytes())
    content[8] = content[content.rindex(b"PK\1\2") + 10] = 9
    path.write_bytes(content)


def cut_tar(path):
    with tarfile.open(path, "w") as archive:
        for number in range(3):
            member = tarfile.TarInfo(f"a/{number}.png")
            member.size = 5000
            archive.addfile(member, io.BytesIO(bytes(5000)))
    path.write_bytes(path.read_bytes()[:8000])


def cut_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/1.png", png())
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("a.zip", encrypted, "is encrypted.*unpack it"),
        ("a.zip", deflate64, "a method that Python does not read.*unpack"),
        ("a.zip", cut_zip, "cut off or damaged"),
        ("a.tar", cut_tar, "cut off or damaged"),
        ("a.tar.gz", lambda path: path.write_bytes(b"\x1f\x8b" + bytes(600)), "uncompressed tar"),
        ("empty.zip", lambda path: zipfile.ZipFile(path, "w").close(), "no images.*it is empty"),
        (
            "folder",
            lambda path: tree(path, "a.tar", "b.tar"),
            "no images.*archives inside.*: 2",
        ),
        ("folder", lambda path: tree(path, "a.HEIC"), "no images.*suffix '.heic'"),
    ],
)
def test_archives_that_cannot_be_read_say_so(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(UserError, match=message) as error:
        understood(tmp_path / name)
    assert "\n" not in str(error.value)


def test_names_need_not_be_utf_8(tmp_path):
    root = os.fsencode(tree(tmp_path, "a/1.png"))
    os.mkdir(root + b"/caf\xe9")
    shutil.copy(root + b"/a/1.png", root + b"/caf\xe9/\xff.png")
    found = understood(tmp_path)
    assert [os.fsencode(name) for name in found.classes] == [b"a", b"caf\xe9"]


@pytest.mark.parametrize("kind", ["zip", "tar", "npz"])
def test_archives_with_flipped_bytes_are_read_or_refused_in_one_line(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "npz":
        np.savez(path, np.zeros((3, 4, 4, 3), np.uint8), np.arange(3))
    else:
        shutil.make_archive(str(tmp_path / "a"), kind, tree(tmp_path / "root", "a/1.png", "b/1.png"))
    original, draw = path.read_bytes(), np.random.default_rng(0)
    structure = [place for place in range(len(original)) if original[place]]  # headers, and few pixels
    for _ in range(200):
        content = bytearray(original)
        for place in draw.choice(structure, 2):
            content[place] = draw.integers(256)
        path.write_bytes(content)
        try:
            assert sum(map(len, open_images(path).batches(2))) in (1, 2, 3)
        except UserError as error:
            assert "\n" not in str(error)

"""Interpretation of folders and archives of images: splits, classes, labels, and ignored files."""

import io
import json
import os
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from bench.core.errors import UserError
from bench.data import ignored_files
from bench.data.containers import open_container
from bench.data.image_files import open_images
from bench.data.layout import survey, understand


def png() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, "png")
    return content.getvalue()


def tree(root, *files):
    """Files by name: images have some bytes of one, since nothing is decoded here."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png())
    return root


def understood(root):
    return understand(open_container(root))


def labels(found, part="train"):
    return {member.key: found.classes[member.label] for member in found.parts.get(part, ())}


@pytest.mark.parametrize(
    "files",
    [
        "cat/1.png=cat dog/1.png=dog",
        "x/y/cat/1.png=cat x/y/dog/1.png=dog",
        # Tiny-ImageNet
        "train/n1/images/a.JPEG=n1 train/n2/images/b.JPEG=n2",
        # parts in any case, at any depth, also within classes
        "Train/cat/1.png=cat Train/dog/1.png=dog VAL/cat/2.png=",
        "cat/train/1.png=cat dog/train/1.png=dog dog/test/2.png=",
        "TRAINING/cat/1.png=cat TRAINING/dog/1.png=dog valid/cat/2.png= testing/dog/2.png=",
        # a class called train
        "car/1.png=car train/1.png=train",
        "car/images/1.png=car train/images/1.png=train",
        "train/car/1.png=car train/train/1.png=train test/train/1.png=",
    ],
)
def test_classes_are_the_folders_that_tell_images_apart(tmp_path, files):
    expected = dict(text.split("=") for text in files.split())
    found = understood(tree(tmp_path, *expected))
    assert labels(found) == {key: name for key, name in expected.items() if name} and not found.surprises


def test_reference_images_have_the_classes_of_the_training_part(tmp_path):
    found = understood(tree(tmp_path, "train/a/1.png", "train/b/1.png", "Validation/b/2.png", "test/a/3.png"))
    assert labels(found, "reference") == {"Validation/b/2.png": "b", "test/a/3.png": "a"}
    assert found.summary.splitlines() == [
        "train: images: 2, classes: 2, images per class: 1",
        "reference: images: 2, classes: 2, images per class: 1",
    ]


@pytest.mark.parametrize(
    ("files", "surprise"),
    [
        ("1.png 2.png", "of one class"),
        ("images/1.png images/2.png", "of one class"),
        ("train/1.png test/2.png", "of one class"),
        # validation images without class folders: ImageNet, Tiny-ImageNet
        (
            "train/a/1.png train/b/1.png val/2.png",
            "would be ignored: 1, such as val/2.png",
        ),
        ("train/a/images/1.png train/b/images/1.png val/images/2.png", "of no class of the training part"),
        ("train/a/1.png train/b/1.png test/c/1.png", "such as test/c/1.png"),
        ("train/a/1.png train/b/1.png test/a/1.png extra/1.png", "in neither train nor a reference part"),
        (
            "grid.png a/1.png b/1.png",
            "next to the class folders would be ignored: 1, such as grid",
        ),
        ("a/1.png a/more/2.png b/1.png", "images lie at different depths"),
        ("cat/2019/1.png cat/2020/1.png dog/2019/1.png dog/2020/1.png", "'cat' would be a class, and '20"),
        ("animals/cat/1.png cars/van/1.png", "'cat' would be a class, and 'animals' not"),
        ("a/1.png b/1.png b/inner.zip", "archives inside (unpack them first) would be ignored: 1"),
        (
            "a/1.png b/1.png b/2.heic",
            "no images by their suffix '.heic' would be ignored: 1",
        ),
    ],
)
def test_what_a_person_should_confirm(tmp_path, files, surprise):
    found = understood(tree(tmp_path, *files.split()))
    assert any(surprise in text for text in found.surprises)
    with pytest.raises(UserError, match="If this is right, add --yes"):
        found.refuse_surprises("it")


def test_a_class_without_images_is_told(tmp_path):
    tree(tmp_path, "a/1.png", "c/1.png", "b/notes.txt")
    (tmp_path / "empty").mkdir()
    (surprise,) = understood(tmp_path).surprises
    assert surprise == "folders without images next to those of classes: 2, such as b"


def test_what_is_no_image_of_the_data_is_passed_over_and_counted(tmp_path):
    run = tree(
        tmp_path / "run", "samples/step-00000500.png", "samples/a/1.png", "samples/b/step-00000500.png"
    )
    (run / "spec.json").write_text("{}")
    others = ["._1.png", ".ipynb_checkpoints/1-checkpoint.png", "a/.DS_Store", "a/Thumbs.db", "a/1.txt"]
    tree(run / "samples", *others)
    container = open_container(run / "samples")
    images, layout_ = survey(container)
    assert images == ["a/1.png", "b/step-00000500.png"] and not layout_.surprises
    assert {why: len(keys) for why, keys in layout_.passed_over.items()} == {
        ignored_files.HIDDEN: 4,
        ignored_files.GRIDS: 1,
        ignored_files.LISTS: 1,
    }
    assert "ignored, sample grids of runs: 1, such as step-00000500.png" in layout_.summary


def test_a_scored_folder_of_several_parts_is_to_be_confirmed(tmp_path):
    images, found = survey(open_container(tree(tmp_path, "train/a/1.png", "test/a/1.png", "test/b/1.png")))
    assert len(images) == 3 and "name one folder" in found.surprises[0]


LABELS = [["00000/img00000000.png", 2], ["00000/img00000001.png", 0], ["00001/img00001000.png", 2]]


@pytest.mark.parametrize("folder", ["", "train/", "images/"])
def test_labels_of_a_file_count_and_not_the_folders(tmp_path, folder):
    tree(tmp_path, *(folder + name for name, _ in LABELS))
    (tmp_path / folder / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    found = understood(tmp_path)
    assert labels(found) == {folder + name: str(label) for name, label in LABELS}
    assert found.classes == ("0", "1", "2")
    assert found.surprises == ["classes without a training image: 1, such as 1"]
    assert found.summary == "images: 3, classes: 2, images per class: 1 to 2"


def test_repas_labels_lie_beside_its_latents(tmp_path):
    tree(tmp_path, *(f"images/{name}" for name, _ in LABELS))
    latents = [[name.replace("img", "img-mean-std-").replace("png", "npy"), label] for name, label in LABELS]
    tree(tmp_path / "vae-sd", *(name for name, _ in latents))
    (tmp_path / "vae-sd/dataset.json").write_text(json.dumps({"labels": latents}))
    assert labels(understood(tmp_path)) == {f"images/{name}": str(label) for name, label in LABELS}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"labels": [["a.png", 0.5]]}', "gives a.png the label 0.5: labels are whole numbers"),
        ('{"labels": [["a.png", -1]]}', "the label -1"),
        ('{"labels": [["a.png"]]}', "must be pairs"),
        ('{"labels": [["other.png", 1]]}', "labels none of the images"),
        ('{"labels": [', "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"labels": [["a.png", 0], ["./a.png", 1]]}', "gives a.png two labels, 0 and 1"),
    ],
)
def test_labels_that_do_not_serve_are_refused(tmp_path, content, message):
    (tree(tmp_path, "a.png", "b.png") / "dataset.json").write_text(content)
    with pytest.raises(UserError, match=message):
        understood(tmp_path)


def test_images_without_a_label_are_told(tmp_path):
    (tree(tmp_path, "a.png", "b.png", "c.png") / "dataset.json").write_text(
        json.dumps({"labels": [["a.png", 0], ["b.png", 1], ["gone.png", 1]]})
    )
    found = understood(tmp_path)
    assert labels(found) == {"a.png": "0", "b.png": "1"}
    assert "labels in dataset.json of files that are no images: 1, such as gone.png" in found.surprises[0]
    assert "without a label in dataset.json would be ignored: 1, such as c.png" in found.surprises[1]


def test_no_labels_mean_one_class_whatever_the_folders(tmp_path):
    (tree(tmp_path, "00000/1.png", "00001/1.png") / "dataset.json").write_text('{"labels": null}')
    found = understood(tmp_path)
    assert len(found.classes) == 1 and found.surprises == ["all training images are of one class"]


def test_another_programs_dataset_json_is_no_list_of_labels(tmp_path):
    (tree(tmp_path, "a/1.png", "b/1.png") / "dataset.json").write_text('{"title": "cats"}')
    assert understood(tmp_path).classes == ("a", "b")


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

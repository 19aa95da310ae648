"""Image files of others: everything Pillow reads is read, and nothing ends in a traceback."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from bench.core.errors import UserError
from bench.data.decoding import FORMATS, SUFFIXES, decode


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
IMAGE = Image.fromarray(PIXELS)


def test_suffixes_are_those_of_formats_that_pillow_reads_by_itself():
    assert {".png", ".jpg", ".jpeg", ".jfif", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".ppm"} <= SUFFIXES
    assert not {".pdf", ".eps", ".ps", ".h5", ".mpg", ".npz", ".txt"} & SUFFIXES
    assert "EPS" not in FORMATS  # read by running another program on the file


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM", "TGA", "WEBP", "GIF", "JPEG2000", "QOI"])
def test_lossless_formats_give_the_pixels_back(kind):
    options = {"WEBP": {"lossless": True}, "JPEG2000": {"irreversible": False}}.get(kind, {})
    image = IMAGE if kind != "GIF" else IMAGE.quantize(30)
    assert np.array_equal(decode(lambda: encoded(image, kind, **options), "a"), image.convert("RGB"))


def test_only_images_without_colours_are_grey_and_only_if_that_is_asked_for():
    grey = encoded(IMAGE.convert("L"), "PNG")
    assert decode(lambda: grey, "a").mode == "RGB" and decode(lambda: grey, "a", grey=True).mode == "L"
    assert decode(lambda: encoded(IMAGE, "PNG"), "a", grey=True).mode == "RGB"


def test_text_of_programs_that_generate_images_does_no_harm():
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 2_000_000, zip=True)
    assert np.array_equal(decode(lambda: encoded(IMAGE, "PNG", pnginfo=text), "a"), PIXELS)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def bomb() -> bytes:
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 80_000_000, zip=True)
    return encoded(IMAGE, "PNG", pnginfo=text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no format that Pillow reads"),
        (b"\0\5\x16\7", "no format that Pillow reads"),
        (encoded(IMAGE, "PNG")[:80], "truncated"),
        (encoded(IMAGE, "JPEG")[:400], "[Tt]runcated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\n", "no format"),
        (bomb(), "decompression bomb"),
        (text_bomb(), "too large"),
        (encoded(Image.fromarray(np.zeros((4, 4), np.uint16)), "PNG"), r"8 bits a channel \(mode I;16"),
        (encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), r"8 bits a channel \(mode F"),
    ],
)
def test_what_is_no_8_bit_image_is_named_in_one_line(content, message):
    with pytest.raises(UserError, match=f"a.png in b .*{message}") as error:
        decode(lambda: content, "a.png in b")
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "TGA", "JPEG2000", "DDS"])
def test_flipped_bytes_give_an_image_or_one_line(kind):
    original, draw = encoded(IMAGE.quantize(8).convert("RGB"), kind), np.random.default_rng(0)
    for _ in range(60):
        content = bytearray(original)
        for place in draw.integers(0, len(content), 3):
            content[place] = draw.integers(256)
        try:
            assert decode(lambda content=content: bytes(content), "a").mode == "RGB"
        except UserError as error:
            assert "\n" not in str(error)

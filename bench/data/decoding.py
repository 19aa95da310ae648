"""Decoding of image files by Pillow, and the suffixes that are read."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

from PIL import Image, PngImagePlugin

from bench.core.errors import UserError

# Known to Pillow by name alone, or read by running another program on the file (EPS).
_NOT_READ = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF", "PALM"}
_MODES = ("L", "RGB", "RGBA", "RGBX", "P", "PA", "1", "LA", "CMYK", "YCbCr", "HSV")

Image.init()
FORMATS = tuple(sorted(set(Image.OPEN) - _NOT_READ))
SUFFIXES = frozenset(
    suffix for suffix, name in Image.registered_extensions().items() if name not in _NOT_READ
)  # in lower case
# Programs that generate images store whole workflows in a text chunk; Pillow refuses more than 1 MB.
PngImagePlugin.MAX_TEXT_CHUNK = 1 << 26
PngImagePlugin.MAX_TEXT_MEMORY = 1 << 28
warnings.filterwarnings("ignore", module=r"PIL\.")  # odd metadata; a large image is an error, or harmless


def decode(read: Callable[[], bytes], name: str, grey: bool = False) -> Image.Image:
    """Decode the bytes that `read` returns: RGB, or L if `grey` is set and the file has no colours.

    Of several frames it is the first. Raises UserError, beginning with `name`, for what is not
    an image of 8 bits a channel, and for whatever is damaged, too large or of an unknown kind.
    """
    try:
        with Image.open(io.BytesIO(read()), formats=FORMATS) as image:
            if image.mode not in _MODES:
                raise UserError(f"{name} is not 8 bits a channel (mode {image.mode}): convert it.")
            return image.convert("L" if grey and image.mode in ("L", "1") else "RGB")
    except UserError:
        raise
    except Exception as error:  # readers of Pillow raise many kinds of errors
        reason = "no format that Pillow reads" if "cannot identify" in str(error) else str(error)
        reason = (reason.strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{name} cannot be read as an image ({reason}): repair or remove it.") from None

"""Prepare a store of images: python -m bench.prepare cifar10.zip --output stores/cifar10 --size 32

Resizes and crops the images of a source, encodes them with a VAE if one is given, and writes a store. A
source is a folder, zip or tar with a folder per class, a Hugging Face data set (hf:ID or hf:FOLDER), or
cifar10, which is downloaded. It can be killed at any time: the same command continues, and the store is the
same to the last byte. Every shard has a checksum, checked by --verify STORE.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from bench.core.cli import OptionalInt, OptionalPath, option, parse
from bench.core.errors import UserError, exit_code
from bench.data.preparation import Recipe, prepare, verify


@dataclass(frozen=True)
class Options:
    source: Annotated[tyro.conf.Positional[str | None], option(metavar="IMAGES")] = None
    """folder, zip or tar with a folder per class, or with dataset.json; splits train/ and
    test/ or val/ are recognised. Or hf:ID or hf:FOLDER, a Hugging Face data set; cifar10, downloaded"""
    output: OptionalPath = None
    """folder of the store"""
    recipe: Recipe = field(default_factory=Recipe)
    workers: OptionalInt = None
    """processes; by default one per core, with a VAE one per GPU"""
    yes: bool = False
    """continue even if the images look surprising: one class, many ignored files"""
    verify: OptionalPath = None
    """only check all records and checksums of this store"""


def main() -> None:
    """Parse, and prepare or verify."""
    options = parse(Options, __doc__, {"--out": "--output"})
    if options.verify:
        verify(options.verify)
        return
    if not options.source or not options.output:
        raise UserError("say what to prepare and where: python -m bench.prepare IMAGES --output STORE")
    prepare(options.source, options.output, options.recipe, options.workers, options.yes)


if __name__ == "__main__":
    sys.exit(exit_code(main))

"""Publish the weights of a run: python -m bench.publish results/quickstart/RUN --to FOLDER, or hf:ORG/REPO

The folder has the weights, the spec, all metrics and a model card whose metadata the Hugging Face hub reads.
python -m bench.run --evaluate-only FOLDER, or hf:ORG/REPO, gives the same row of metrics again.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from bench.core.cli import OptionalStr, option, parse
from bench.core.errors import exit_code
from bench.runs.model_folder import publish


@dataclass(frozen=True)
class Options:
    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """the folder of a run with a checkpoint and an evaluation of it"""
    to: Annotated[str, tyro.conf.arg(metavar="FOLDER|hf:ORG/REPO")]
    """where the model goes; the hub needs a login, `hf auth login`"""
    family: Annotated[Literal["diffusers"] | None, option(metavar="{diffusers}")] = None
    """write the weights as DiTTransformer2DModel of diffusers reads them; of a diffusers_dit backbone"""
    license: OptionalStr = None
    """licence of the weights, as the hub spells it: mit, cc-by-nc-4.0, ..."""
    private: bool = False
    """make the hub's repository private"""


def main() -> None:
    """Publish and say where."""
    options = parse(Options, __doc__)
    print(f"published: {publish(options.run, options.to, options.family, options.license, options.private)}")


if __name__ == "__main__":
    sys.exit(exit_code(main))

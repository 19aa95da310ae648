"""Weight files of the published Inception nets: where they lie, and which file is meant.

The classifier is the one of 2015-12-05 that TensorFlow's FID used; both files hold its parameters. Nothing
is downloaded behind the user's back: where a file is absent, the error gives the command that fetches it.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

from bench.core.errors import UserError
from bench.core.files import sha256


@dataclass(frozen=True)
class WeightFile:
    """One published file under the names that libraries give it."""

    names: tuple[str, ...]
    sha256: str
    url: str


INCEPTION = WeightFile(  # parameters by torchvision's names: torch-fidelity, pytorch-fid
    ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
)
TORCHSCRIPT_INCEPTION = WeightFile(  # graph and parameters: StyleGAN2-ADA, clean-fid
    ("inception-2015-12-05.pt",),
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
)


def locate(net: str, wanted: WeightFile, chosen: Path | None = None) -> Path:
    """The file to load for a net: the one the user chose, else the one in a library's cache.

    A chosen file of other content is taken, with a warning. Raises UserError where there is none, or where
    the cached one is damaged.
    """
    if chosen is not None:
        if not chosen.is_file():
            raise UserError(f"the weights of {net} are not at {chosen}: no such file.")
        if sha256(chosen) != wanted.sha256:
            warnings.warn(
                f"{chosen} does not hold the published weights of {net} (their sha256 begins "
                f"{wanted.sha256[:8]}): numbers with it cannot be compared with published ones.",
                stacklevel=2,
            )
        return chosen
    folders = _caches()
    for path in (folder / name for folder in folders for name in wanted.names):
        if path.is_file():
            if sha256(path) != wanted.sha256:
                raise UserError(f"{path} is damaged (its sha256 is not {wanted.sha256[:8]}...): delete it.")
            return path
    target = folders[0] / wanted.names[0]
    raise UserError(
        f"the weights of {net} are not on this machine. Fetch them: curl -L --create-dirs -o {target} "
        f"{wanted.url}  or give the file: --weights {net}=FILE"
    )


def _caches() -> list[Path]:
    import torch

    return [Path(torch.hub.get_dir()) / "checkpoints", Path(tempfile.gettempdir()), Path.cwd()]

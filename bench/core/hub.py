"""Files of the Hugging Face hub by name: `hf:ORG/REPO`, `hf:ORG/REPO/FILE`, `hf:ORG/REPO@REVISION/FILE`.

They are downloaded into the hub's own cache, and read from there without a connection.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bench.core.errors import UserError

PREFIX = "hf:"
# What a folder of weights may hold, of this suite or of diffusers; other files of a repository may be huge.
_MODEL_FILES = ("model.safetensors", "run.json", "metrics.json", "config.json", "diffusion_pytorch_model.*")
_NAME = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?(/(?P<file>.+))?")


class Name(NamedTuple):
    """What `hf:...` stands for."""

    repository: str
    revision: str | None  # None: the default branch
    file: str | None  # None: the whole model


def is_hub(text: str | Path) -> bool:
    """Whether it names something on the hub rather than on this machine."""
    return str(text).startswith(PREFIX)


def parsed(text: str | Path) -> Name:
    """Raises UserError unless it is `hf:ORG/REPO`, with a revision and a file or without."""
    found = _NAME.fullmatch(str(text))
    if found is None:
        raise UserError(f"{text} names nothing on the hub: write hf:ORG/REPO or hf:ORG/REPO/FILE.")
    return Name(found["repository"], found["revision"], found["file"])


def fetch(text: str | Path) -> Path:
    """The file, or the folder of the model, on this machine; downloaded unless it is cached.

    Beside a file lies the `config.json` of its folder, if there is one. Raises UserError for what is not
    there, needs a login, or cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    name = parsed(text)
    options = {"repo_id": name.repository, "revision": name.revision}
    try:
        if name.file is None:
            patterns = [f"{folder}{file}" for folder in ("", "transformer/") for file in _MODEL_FILES]
            return Path(huggingface_hub.snapshot_download(**options, allow_patterns=patterns))
        found = Path(huggingface_hub.hf_hub_download(**options, filename=name.file))
        beside = str(Path(name.file).with_name("config.json"))
        with suppress(EntryNotFoundError, LocalEntryNotFoundError):
            huggingface_hub.hf_hub_download(**options, filename=beside)
        return found
    except Exception as error:  # of the hub's client or of the network, in many classes
        raise UserError(f"{text} cannot be had: {_first_line(error)}") from None


def upload(folder: Path, text: str, private: bool) -> str:
    """Make the repository if need be, and upload a folder to it; its address.

    Raises UserError if the hub refuses.
    """
    import huggingface_hub

    name = parsed(text)
    if name.file or name.revision:
        raise UserError(f"{text}: a model is published as a whole repository, hf:ORG/REPO.")
    try:
        client = huggingface_hub.HfApi()
        address = client.create_repo(name.repository, private=private, exist_ok=True)
        client.upload_folder(repo_id=name.repository, folder_path=folder, commit_message="Publish a run")
    except Exception as error:
        raise UserError(
            f"{text} cannot be written: {_first_line(error)} Log in with `hf auth login`, or publish to a "
            "folder."
        ) from None
    return str(address)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

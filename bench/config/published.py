"""What `bench.publish` writes beside weights, so that they can be scored again as they were."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.config.spec import RunSpec
from bench.core.errors import UserError
from bench.core.files import write_text

FILE = "run.json"


class Published(BaseModel):
    """The run that some weights come from."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    spec: RunSpec
    """of the run"""
    trained_against: tuple[str, ...] = ()
    """frozen networks that its method was trained with; metrics in their features are marked `leaky`"""

    def write(self, folder: Path) -> None:
        """Write `run.json`. Raises OSError."""
        write_text(folder / FILE, self.model_dump_json(indent=2))


def read(folder: Path) -> Published | None:
    """The run of the weights in a folder; None without a `run.json`.

    Raises UserError if it is damaged, or of another version.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return Published.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}.") from None

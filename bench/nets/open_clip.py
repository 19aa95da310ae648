"""Image towers of open_clip as teachers: `clip:ARCHITECTURE/TAG`, as in clip:ViT-L-14-quickgelu/openai.

Patch tokens are those after the tower's final norm, without the class token, which is given apart, before
the projection into the space that images share with texts. Images are prepared as in pretrained.py. Weights
come from the hub's cache or a file, `clip:ViT-B-32/laion2b_s34b_b79k[weights=FILE]`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bench.core.errors import UserError, unknown
from bench.core.files import sha256
from bench.nets.timm import Options, prepared
from methods.base import EncoderInfo, Features

PREFIX = "clip:"
_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


class OpenClipEncoder:
    """A frozen image tower: images [B, 1 or 3, R, R] uint8 -> features."""

    def __init__(
        self,
        name: str,
        options: Options,
        grid: tuple[int, int],
        device: torch.device,
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        """Raises UserError for an unknown tower or one of another kind, and where its weights are absent."""
        import open_clip

        self.architecture = name.removeprefix(PREFIX).partition("/")[0]
        config = open_clip.get_model_config(self.architecture)
        if config is None:
            raise unknown("architecture of open_clip", self.architecture, open_clip.list_models())
        vision: dict[str, Any] = config["vision_cfg"]
        if not vision.get("patch_size") or vision.get("attentional_pool"):
            raise UserError(f"{name} has no patch tokens after a final norm: take a ViT of open_clip's own.")
        patch = vision["patch_size"]
        self.size = (grid[0] * patch, grid[1] * patch)
        self.weights = locate(name, options.weights)
        try:
            tower: Any = open_clip.create_model(
                self.architecture, pretrained=str(self.weights), force_image_size=self.size
            ).visual
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"the weights {self.weights} cannot be used for {name}: {reason}") from None
        tower.output_tokens, tower.proj = True, None
        self.norm = tower.ln_post if tower.final_ln_after_pool else torch.nn.Identity()
        self.net = tower.eval().requires_grad_(False).to(device)
        self.forward = torch.compile(self.net) if options.compile else self.net
        self.mean, self.std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1)
            for values in (tower.image_mean, tower.image_std)
        )
        self.antialias, self.cache = options.antialias, options.cache
        self.device, self.precision = device, precision
        self.info = EncoderInfo(name, tower.ln_post.normalized_shape[0], grid)

    @property
    def key(self) -> dict[str, Any]:
        """What decides the features of an image, but for the grid."""
        own = {"encoder": self.architecture, "weights": sha256(self.weights), "size": self.size}
        return own | {"antialias": self.antialias, "precision": self.precision}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Images [B, 1 or 3, R, R] uint8 -> features in float32, without gradient."""
        x = prepared(images.to(self.device), self.size, self.mean, self.std, self.antialias)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            pooled, tokens = self.forward(x)
            return Features(self.norm(tokens).float(), pooled.float())


def locate(name: str, chosen: str) -> Path:
    """The file of the weights. Raises UserError, with the command that fetches it, where it is absent."""
    architecture, _, tag = name.removeprefix(PREFIX).partition("/")
    if chosen:
        if not Path(chosen).is_file():
            raise UserError(f"there is no file of the weights of {name} at {chosen}.")
        return Path(chosen)
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    published = open_clip.get_pretrained_cfg(architecture, tag)
    if not published:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise unknown(f"weights of {architecture}", tag, tags or ["none; name a file: [weights=FILE]"])
    hub, file = published.get("hf_hub", "").rpartition("/")[::2]
    if hub:
        for known in (file,) if file else _FILES:
            cached = try_to_load_from_cache(hub, known)
            if isinstance(cached, str):
                return Path(cached)
        command = f"hf download {hub} {file or _FILES[0]}"
    else:
        path = Path.home() / ".cache" / "clip" / published["url"].rpartition("/")[2]
        if path.is_file():
            return path
        command = f"curl -L --create-dirs -o {path} {published['url']}"
    raise UserError(
        f"the weights of the encoder {name} are not on this machine. Fetch them: {command}  or name a file: "
        f"{name}[weights=FILE]"
    )

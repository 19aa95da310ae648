"""The table of encoders in docs/encoders.md: python docs/tools/encoder_table.py"""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_INCEPTION_MEAN, OPENAI_CLIP_MEAN

from bench.nets.table import NETWORKS, names
from bench.nets.timm import LITE, LITE_STRIDE, patch_size

_MEANS: dict[tuple[float, ...], str] = {
    IMAGENET_DEFAULT_MEAN: "ImageNet",
    IMAGENET_INCEPTION_MEAN: "0.5",
    OPENAI_CLIP_MEAN: "CLIP",
}
_GRID = 16  # of 256 pixels


def rows() -> list[str]:
    """The Markdown table, a row an encoder, without reading any weights."""
    table = ["| encoder | width | tokens | removed | input | mean, std | licence | weights |"]
    table.append("|---" * 8 + "|")
    for name, published in ((name, NETWORKS[name]) for name in names("timm")):
        with torch.device("meta"):
            net: Any = timm.create_model(published.model, num_classes=0)
        config = timm.get_pretrained_cfg(published.model)
        assert config is not None
        width = net.feature_info[-2]["num_chs"] if name == LITE else net.embed_dim
        side = _GRID * (LITE_STRIDE if name == LITE else patch_size(published.model))
        cells = (
            f"`{name}`",
            f"{width:,}",
            f"{_GRID} x {_GRID}",
            str(getattr(net, "num_prefix_tokens", 0)),
            f"{side}",
            _MEANS[tuple(published.mean or config.mean)],
            published.licence or config.license or "not stated",
            f"[file]({published.url})" if published.url else f"`{config.hf_hub_id}`",
        )
        table.append(f"| {' | '.join(cells)} |")
    return table


if __name__ == "__main__":
    print("\n".join(rows()))

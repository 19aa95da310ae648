"""Table of all frozen networks by name: library, source of the weights, identity.

A network may have several names, `clip-l`, `clip-vit-l-14` and `timm:NAME`, and may be a teacher, a reward
network or a metric network. `identity` is equal for all names of the same weights; it tells whether a method
was trained against a network that scores it.

    local       a small network of this suite: recipes.py
    timm        any image model of timm; `timm:MODEL`, `timm:MODEL.TAG`
    open_clip   any model of open_clip; `clip:ARCHITECTURE/TAG`
    inception   the Inception of 2015-12-05: inception.py
    torchvision the networks under LPIPS
    fixed       no weights, or random ones that never change: metric_nets.py
    file        an encoder in a Python file of the user's
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from bench.core import plugin
from bench.core.errors import unknown
from bench.nets.recipes import RECIPES

Library = Literal["local", "timm", "open_clip", "inception", "torchvision", "fixed", "file"]
PREFIXES: dict[str, Library] = {"timm:": "timm", "clip:": "open_clip"}


class Transformer(NamedTuple):
    """A vision transformer."""

    width: int
    layers: int
    heads: int
    class_token: bool


_SIZES = {
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
    "giant": (1536, 40, 24),
}
_NO_CLASS_TOKEN = re.compile("siglip|_gap_")


@dataclass(frozen=True)
class Network:
    """A frozen network."""

    library: Library
    model: str  # the library's name for it; of timm with the tag, of open_clip ARCHITECTURE/TAG
    url: str = ""  # of the file of weights, if the library does not record it
    files: tuple[str, ...] = ()  # names of that file on disk; (): the end of `url`
    sha256: str = ""  # of that file; "": not known
    same_as: str = ""  # identity, if not the source of the weights
    mean: tuple[float, ...] | None = None  # of the images it was trained on; None: as the library records
    std: tuple[float, ...] | None = None
    licence: str = ""  # of the weights; "": as the library records


_META = "https://dl.fbaipublicfiles.com"
_TORCHVISION = "https://download.pytorch.org/models"
_INCEPTION = Network(  # parameters by torchvision's names: torch-fidelity, pytorch-fid
    "inception",
    "parameters",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    same_as="inception-2015-12-05",
)
_INCEPTION_GRAPH = Network(  # graph and parameters: StyleGAN2-ADA, clean-fid
    "inception",
    "graph",
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    same_as="inception-2015-12-05",
)

NETWORKS: dict[str, Network] = {
    **{name: Network("local", name) for name in RECIPES},
    **{
        f"dinov2-{size[0]}{suffix}": Network("timm", f"vit_{size}_patch14_{register}dinov2.lvd142m")
        for size in ("small", "base", "large", "giant")
        for suffix, register in (("", ""), ("-reg", "reg4_"))
    },
    **{
        f"dinov3-{size[0]}": Network("timm", f"vit_{size}_patch16_dinov3.lvd1689m")
        for size in ("small", "base", "large")
    },
    "dino-s": Network("timm", "vit_small_patch16_224.dino"),
    "dino-b": Network("timm", "vit_base_patch16_224.dino"),
    **{f"mae-{size[0]}": Network("timm", f"vit_{size}_patch16_224.mae") for size in ("base", "large")},
    "mae-h": Network("timm", "vit_huge_patch14_224.mae"),
    "mocov3-b": Network(
        "timm",
        "vit_base_patch16_224",
        f"{_META}/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        licence="cc-by-nc-4.0",
    ),
    "ijepa-h": Network(
        "timm",
        "vit_huge_patch14_gap_224.in1k_ijepa",
        f"{_META}/ijepa/IN1K-vit.h.14-300e.pth.tar",
        licence="cc-by-nc-4.0",
    ),
    "clip-b": Network("timm", "vit_base_patch16_clip_quickgelu_224.openai"),
    "clip-l": Network("timm", "vit_large_patch14_clip_quickgelu_224.openai"),
    "siglip-b": Network("timm", "vit_base_patch16_siglip_256.webli"),
    "siglip2-b": Network("timm", "vit_base_patch16_siglip_256.v2_webli"),
    "siglip2-l": Network("timm", "vit_large_patch16_siglip_256.v2_webli"),
    "deit-b": Network("timm", "deit_base_patch16_224.fb_in1k"),
    "vit-b": Network("timm", "vit_base_patch16_224.augreg_in21k"),
    "efficientnet-lite0": Network("timm", "tf_efficientnet_lite0.in1k"),  # a convolutional net, from PyPI
    "clip-vit-b-32": Network("open_clip", "ViT-B-32-quickgelu/openai"),
    "clip-vit-l-14": Network("open_clip", "ViT-L-14-quickgelu/openai"),
    "inception": _INCEPTION,
    "clean": _INCEPTION_GRAPH,
    "legacy-pytorch": _INCEPTION,
    "legacy-tensorflow": _INCEPTION_GRAPH,
    "lpips-alex": Network("torchvision", "alexnet", f"{_TORCHVISION}/alexnet-owt-7be5be79.pth"),
    "lpips-vgg": Network(
        "torchvision", "vgg16", f"{_TORCHVISION}/vgg16-397923af.pth", same_as="timm/vgg16.tv_in1k"
    ),
    "lpips-squeeze": Network("torchvision", "squeezenet", f"{_TORCHVISION}/squeezenet1_1-b8a52dc0.pth"),
    "pixels": Network("fixed", "pixels"),
    "random-conv": Network("fixed", "random-conv"),
}


# Models whose repository is named like them; timm does not have to be imported to tell.
_TIMM_REPOSITORIES = {
    network.model
    for network in NETWORKS.values()
    if network.library == "timm" and not network.url and "quickgelu" not in network.model
}


def transformer(name: str) -> Transformer | None:
    """Properties of a vision transformer of timm that is in the table; None: timm has to be asked.

    The plan of a run needs them, and importing timm would take most of its time.
    """
    model = NETWORKS[name].model if name in NETWORKS else ""
    found = re.match(r"(?:vit|deit)_([a-z]+)_patch", model)
    if found is None or found[1] not in _SIZES:
        return None
    return Transformer(*_SIZES[found[1]], class_token=not _NO_CLASS_TOKEN.search(model))


def names(*libraries: Library) -> tuple[str, ...]:
    """The names in the table, optionally of some libraries only."""
    return tuple(name for name, network in NETWORKS.items() if not libraries or network.library in libraries)


def network(name: str, kind: str = "network", known: tuple[str, ...] = ()) -> Network:
    """The network of a name without options.

    Raises:
        UserError: for an unknown one: what `kind` of network it should be, and the nearest of the `known`.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    if plugin.is_file(name):
        return Network("file", name)
    for prefix, library in PREFIXES.items():
        if name.startswith(prefix):
            return Network(library, name.removeprefix(prefix))
    raise unknown(kind, name, (*(known or NETWORKS), "timm:MODEL", "clip:ARCHITECTURE/TAG"))


def identity(name: str) -> str:
    """Identity of the weights of a network, equal for all of its names.

    Raises:
        UserError: for an unknown name.
    """
    found = network(name)
    if found.same_as or found.url:
        return found.same_as or found.url
    if found.library == "file":
        return plugin.source(Path(name).expanduser())
    if found.library == "timm":
        return _canonical(timm_repository(found.model) or name)
    if found.library == "open_clip":
        return _canonical(open_clip_record(found.model)[0] or open_clip_record(found.model)[1] or name)
    return found.model


def timm_repository(model: str) -> str:
    """Hub repository of a model of timm; "" if timm records none."""
    if model in _TIMM_REPOSITORIES:
        return f"timm/{model}"
    import timm

    config = timm.get_pretrained_cfg(model)
    return (config.hf_hub_id or "") if config else ""


def open_clip_record(model: str) -> tuple[str, str]:
    """(hub repository, possibly with a file; URL) of a model of open_clip; "" if not recorded."""
    import open_clip

    record = open_clip.get_pretrained_cfg(*model.partition("/")[::2])
    return record.get("hf_hub", "").rstrip("/"), record.get("url", "")


def _canonical(repository: str) -> str:
    """The canonical repository of weights that are published in several."""
    repository = _SAME.get(repository, repository)
    if match := _SIGLIP.match(repository):
        size, patch, version, languages, side = match.groups()
        size = {"B": "base", "L": "large", "SO400M": "so400m", "gopt": "giantopt"}[size]
        tag = f"{'v2_' if version else ''}webli{'_i18n' if languages else ''}"
        repository = f"timm/vit_{size}_patch{patch}_siglip_{side or 224}.{tag}"
    repository = repository.replace("_siglip_gap_", "_siglip_")  # the same tower without its pooling head
    return _SAME.get(repository, repository)


# open_clip's repositories of SigLIP, as in timm/ViT-B-16-SigLIP2-256
_SIGLIP = re.compile(r"timm/ViT-(B|L|SO400M|gopt)-(\d+)-SigLIP(2?)(-i18n)?(?:-(\d+))?$")
_LAION, _APPLE = "laion/CLIP-ViT", "apple/DFN"
_SAME = {  # the same weights, published once more
    f"{_LAION}-B-32-laion2B-s34B-b79K": "timm/vit_base_patch32_clip_224.laion2b",
    f"{_LAION}-B-16-laion2B-s34B-b88K": "timm/vit_base_patch16_clip_224.laion2b",
    f"{_LAION}-L-14-laion2B-s32B-b82K": "timm/vit_large_patch14_clip_224.laion2b",
    f"{_LAION}-H-14-laion2B-s32B-b79K": "timm/vit_huge_patch14_clip_224.laion2b",
    f"{_LAION}-g-14-laion2B-s12B-b42K": "timm/vit_giant_patch14_clip_224.laion2b",
    f"{_LAION}-bigG-14-laion2B-39B-b160k": "timm/vit_gigantic_patch14_clip_224.laion2b",
    f"{_LAION}-B-32-DataComp.XL-s13B-b90K": "timm/vit_base_patch32_clip_224.datacompxl",
    f"{_LAION}-B-32-256x256-DataComp-s34B-b86K": "timm/vit_base_patch32_clip_256.datacompxl",
    f"{_LAION}-B-16-DataComp.XL-s13B-b90K": "timm/vit_base_patch16_clip_224.datacompxl",
    f"{_LAION}-L-14-DataComp.XL-s13B-b90K": "timm/vit_large_patch14_clip_224.datacompxl",
    f"{_APPLE}2B-CLIP-ViT-B-16": "timm/vit_base_patch16_clip_224.dfn2b",
    f"{_APPLE}2B-CLIP-ViT-L-14": "timm/vit_large_patch14_clip_224.dfn2b",
    f"{_APPLE}2B-CLIP-ViT-L-14-39B": "timm/vit_large_patch14_clip_224.dfn2b_s39b",
    f"{_APPLE}5B-CLIP-ViT-H-14": "timm/vit_huge_patch14_clip_224.dfn5b",
    f"{_APPLE}5B-CLIP-ViT-H-14-378": "timm/vit_huge_patch14_clip_378.dfn5b",
    "timm/vit_so400m_patch14_siglip_384.webli": "timm/vit_so400m_patch14_siglip_378.webli",
}

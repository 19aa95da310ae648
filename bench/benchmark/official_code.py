"""The official code of REPA, SiT or DiT, in a checkout that the user has, called as its own scripts call it.

    repa   models/sit.py, loss.py (SILoss), samplers.py        t = 1 is noise
    sit    models.py (SiT), transport/                         t = 1 is data, the velocity points at the data
    dit    models.py (DiT), diffusion/                         timesteps 0..999

Nothing of it is copied: files are imported from the path that is given, under names of their own. Networks
are built by their class, at any size, and take our weights. Labels are dropped before the network, as here.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from backbones.base import Backbone
from backbones.official import turned
from bench.benchmark.random_inputs import CLASSES
from bench.core.errors import UserError
from bench.diffusion.guidance import Guidance
from bench.diffusion.paths import TIMESTEPS
from methods.base import Method

Kind = Literal["repa", "sit", "dit"]


class OfficialCode(ABC):
    """One of the three code bases. Times and predictions are by our conventions: t = 1 is noise."""

    kind: Kind
    trains: str  # the method of this suite that its training script trains
    files: tuple[str, ...]  # that tell the kind
    gradient_clip: float  # largest norm of the gradient in its training script; 0: none
    sampler: str  # our preset of the sampler of its script, with `guidance` as in its paper
    guidance: Guidance
    fewest_channels = 1  # that its guidance is written for

    def __init__(self, path: Path, precision: str = "fp32") -> None:
        """Import its modules. `precision` is of matrix products in `losses`.

        Raises UserError if a file or a module that it imports is missing, or it fails on import.
        """
        self.path, self.precision = path, precision

    def network(self, ours: Backbone, method: Method) -> nn.Module:
        """Their network with our weights, on the same device. Raises UserError if they do not fit."""
        state, sizes = self.sizes(ours, method)
        made = self.network_class()
        accepted = inspect.signature(made).parameters
        # What a version does not take it does not have, unless it collects further options.
        open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
        try:
            network = made(**{name: size for name, size in sizes.items() if open_ended or name in accepted})
            network.load_state_dict(state)
        except (TypeError, KeyError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"{self.path} is no code of {self.kind} as it was released: its network cannot be built with "
                f"the weights of {ours.architecture.name} ({reason})."
            ) from None
        label_embedder: Any = network.y_embedder
        label_embedder.dropout_prob = 0.0
        return network.to(next(ours.parameters()).device)

    def sizes(self, ours: Backbone, method: Method) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state that their network is to load, and the arguments it is built with."""
        architecture = ours.architecture
        sizes = {
            "input_size": ours.input_size,
            "patch_size": architecture.patch,
            "in_channels": ours.channels,
            "hidden_size": architecture.width,
            "depth": architecture.depth,
            "num_heads": architecture.heads,
            "num_classes": ours.num_classes,
            "learn_sigma": bool(getattr(architecture, "learned_variance", False)),
        }
        return {name: value.cpu() for name, value in ours.state_dict().items()}, sizes

    @abstractmethod
    def network_class(self) -> Callable[..., nn.Module]: ...

    @abstractmethod
    def predict(self, network: nn.Module, x_t: Tensor, t: Tensor, label: Tensor) -> tuple[Tensor, ...]:
        """The prediction, and the variance if there is one, of x_t [B, C, H, W] at t [B]."""

    @abstractmethod
    def losses(
        self, network: nn.Module, x0: Tensor, label: Tensor, tokens: Tensor | None
    ) -> dict[str, Tensor]:
        """Mean loss terms under our names, t and noise drawn from torch's global stream."""

    @abstractmethod
    def draws(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """t [B] and noise as `losses` draws them from the same state of the stream."""

    @property
    def has_sampler(self) -> bool:
        """Whether the checkout has the sampler."""
        return True

    @abstractmethod
    def sample(self, network: nn.Module, noise: Tensor, label: Tensor, steps: int) -> Tensor:
        """Guided samples from noise [B, C, H, W] by its sampler, which draws from torch's global stream."""

    @abstractmethod
    def step_noise(self, noise: Tensor) -> Tensor:
        """Noise of a step [B, C, H, W] as `sample` draws it from the same state of the stream."""

    def _autocast(self, x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16")


class REPACode(OfficialCode):
    kind, trains, files, gradient_clip = "repa", "repa", ("models/sit.py", "loss.py"), 1.0
    sampler, guidance = "repa-sde-250", Guidance(1.8, (0.0, 0.7))  # its best, in its interval

    def __init__(self, path: Path, precision: str = "fp32") -> None:
        super().__init__(path, precision)
        self.models, loss = _imported(path, "models/sit.py"), _imported(path, "loss.py")
        self.loss = loss.SILoss()
        has_samplers = (path / "samplers.py").is_file()
        self._samplers = _imported(path, "samplers.py") if has_samplers else None

    def network_class(self) -> Callable[..., nn.Module]:
        return self.models.SiT

    def sizes(self, ours: Backbone, method: Method) -> tuple[dict[str, Tensor], dict[str, Any]]:
        state, sizes = super().sizes(ours, method)
        projectors: Any = method.get_submodule("projectors")
        own = {
            "decoder_hidden_size": sizes["hidden_size"],
            "encoder_depth": getattr(method, "alignment_depth"),  # noqa: B009
            "z_dims": [projector[-1].out_features for projector in projectors],
            "projector_dim": projectors[0][0].out_features,
            "use_cfg": True,
            "qk_norm": False,
            "fused_attn": True,
        }
        state |= {f"projectors.{name}": value for name, value in projectors.state_dict().items()}
        del sizes["learn_sigma"]
        return state, sizes | own

    def predict(self, network: nn.Module, x_t: Tensor, t: Tensor, label: Tensor) -> tuple[Tensor, ...]:
        return (network(x_t, t, label)[0],)

    def losses(
        self, network: nn.Module, x0: Tensor, label: Tensor, tokens: Tensor | None
    ) -> dict[str, Tensor]:
        def call(x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor]]:
            with self._autocast(x):
                image, projected = network(x, t, y)
            return image.float(), [z.float() for z in projected]

        denoise, alignment = self.loss(call, x0, {"y": label}, zs=[tokens])
        return {"denoise": denoise.mean(), "repa": alignment.mean()}

    def draws(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        return torch.rand(len(x0), 1, 1, 1).flatten().to(x0), torch.randn_like(x0)

    @property
    def has_sampler(self) -> bool:
        return hasattr(self._samplers, "euler_maruyama_sampler")

    def sample(self, network: nn.Module, noise: Tensor, label: Tensor, steps: int) -> Tensor:
        assert self._samplers is not None
        low, high = self.guidance.interval
        options = {"cfg_scale": self.guidance.scale, "guidance_low": low, "guidance_high": high}
        return self._samplers.euler_maruyama_sampler(network, noise, label, num_steps=steps, **options)

    def step_noise(self, noise: Tensor) -> Tensor:
        return torch.randn_like(noise, dtype=torch.float64)


class GuidedByBatch(OfficialCode):
    """SiT's and DiT's guidance: their scripts sample 2B images, of which the network reads the first B.

    Both halves get noise of their own in every step.
    """

    guidance = Guidance(1.5, channels=3)

    def step_noise(self, noise: Tensor) -> Tensor:
        return torch.randn(2 * len(noise), *noise.shape[1:]).to(noise)[: len(noise)]

    def _doubled(self, noise: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """The batch of 2B and what `forward_with_cfg` takes beside it."""
        labels = torch.cat([label, torch.full_like(label, CLASSES)])
        return torch.cat([noise, noise]), {"y": labels, "cfg_scale": self.guidance.scale}


class SiTCode(GuidedByBatch):
    kind, trains, files, gradient_clip = "sit", "baseline", ("models.py", "transport/__init__.py"), 0.0
    sampler = "sit-sde-250"

    def __init__(self, path: Path, precision: str = "fp32") -> None:
        super().__init__(path, precision)
        self.models = _imported(path, "models.py")
        transport = _imported(path, "transport/__init__.py")
        self.transport = transport.create_transport()
        self.samplers = transport.Sampler(self.transport)

    def network_class(self) -> Callable[..., nn.Module]:
        return self.models.SiT

    def sizes(self, ours: Backbone, method: Method) -> tuple[dict[str, Tensor], dict[str, Any]]:
        state, sizes = super().sizes(ours, method)
        return turned(state, opposite=True), sizes

    def predict(self, network: nn.Module, x_t: Tensor, t: Tensor, label: Tensor) -> tuple[Tensor, ...]:
        return (-network(x_t, 1 - t, label),)

    def losses(
        self, network: nn.Module, x0: Tensor, label: Tensor, tokens: Tensor | None
    ) -> dict[str, Tensor]:
        def call(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            with self._autocast(x):
                return network(x, t, y).float()

        return {"denoise": self.transport.training_losses(call, x0, {"y": label})["loss"].mean()}

    def draws(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn_like(x0)
        return 1 - torch.rand(len(x0)).to(x0), noise

    def sample(self, network: nn.Module, noise: Tensor, label: Tensor, steps: int) -> Tensor:
        # Its script's default diffusion, which is not the function's.
        draw = self.samplers.sample_sde(diffusion_form="sigma", num_steps=steps)
        noise, options = self._doubled(noise, label)
        return draw(noise, network.forward_with_cfg, **options)[-1].chunk(2)[0]


class DiTCode(GuidedByBatch):
    kind, trains, files, gradient_clip = "dit", "baseline", ("models.py", "diffusion/__init__.py"), 0.0
    sampler = "dit-ddpm-250"
    fewest_channels = 3  # of fewer it would guide the variance as well

    def __init__(self, path: Path, precision: str = "fp32") -> None:
        super().__init__(path, precision)
        self.models = _imported(path, "models.py")
        self.create_diffusion = _imported(path, "diffusion/__init__.py").create_diffusion
        self.diffusion = self.create_diffusion(timestep_respacing="")

    def network_class(self) -> Callable[..., nn.Module]:
        return self.models.DiT

    def predict(self, network: nn.Module, x_t: Tensor, t: Tensor, label: Tensor) -> tuple[Tensor, ...]:
        return network(x_t, (TIMESTEPS * t).round().long() - 1, label).chunk(2, dim=1)

    def losses(
        self, network: nn.Module, x0: Tensor, label: Tensor, tokens: Tensor | None
    ) -> dict[str, Tensor]:
        def call(x: Tensor, timestep: Tensor, y: Tensor) -> Tensor:
            with self._autocast(x):
                return network(x, timestep, y).float()

        timestep = torch.randint(TIMESTEPS, (len(x0),), device=x0.device)
        terms = self.diffusion.training_losses(call, x0, timestep, {"y": label})
        return {"denoise": terms["mse"].mean(), "bound": terms["vb"].mean()}

    def draws(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        timestep = torch.randint(TIMESTEPS, (len(x0),), device=x0.device)
        return (timestep + 1).to(x0) / TIMESTEPS, torch.randn_like(x0)

    def sample(self, network: nn.Module, noise: Tensor, label: Tensor, steps: int) -> Tensor:
        noise, options = self._doubled(noise, label)
        draw = self.create_diffusion(str(steps)).p_sample_loop
        guided = draw(
            network.forward_with_cfg,
            noise.shape,
            noise,
            clip_denoised=False,
            model_kwargs=options,
            device=noise.device,
        )
        return guided.chunk(2)[0]


CODES: dict[str, type[OfficialCode]] = {"repa": REPACode, "sit": SiTCode, "dit": DiTCode}


def kind_of(path: Path, kind: str = "auto") -> type[OfficialCode]:
    """The code that lies there, told by its files. Raises UserError if they are not there."""
    if not path.is_dir():
        raise UserError(f"there is no folder {path}: give the checkout of REPA's, SiT's or DiT's code.")
    for name, code in CODES.items():
        if kind in ("auto", name) and all((path / file).is_file() for file in code.files):
            return code
    asked = CODES if kind == "auto" else {kind: CODES[kind]}
    wanted = "; ".join(f"{name}: {', '.join(code.files)}" for name, code in asked.items())
    raise UserError(f"{path} is no checkout of the official code; it lacks files ({wanted}).")


def _imported(path: Path, file: str) -> ModuleType:
    """The module of a file of the checkout, which may import its neighbours; leaves no names behind."""
    source = path.resolve() / file
    name = "official_" + file.removesuffix(".py").removesuffix("/__init__").replace("/", "_")
    package = [str(source.parent)] if source.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, source, submodule_search_locations=package)
    assert spec is not None and spec.loader is not None
    module, before = importlib.util.module_from_spec(spec), set(sys.modules)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve()))
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{source} needs the module {error.name}, which is not installed: install what the checkout's "
            "README asks for."
        ) from None
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{source} fails on import ({reason}).") from None
    finally:
        sys.path.remove(str(path.resolve()))
        for other in set(sys.modules) - before:  # a second checkout has modules of the same names
            if str(getattr(sys.modules[other], "__file__", None)).startswith(str(path.resolve())):
                del sys.modules[other]
    return module

"""Stand-ins for checkouts of REPA's, SiT's and DiT's code: the same files, names and signatures.

The networks are `official_forward`, the losses torch's own distributions and functions: nothing of the
released code, and nothing of ours.
"""

from __future__ import annotations

from pathlib import Path

NETWORK = '''
import torch
from torch import nn
from tests.helpers import official_forward as official

class Labels(nn.Module):
    def __init__(self, dropout_prob):
        super().__init__()
        self.dropout_prob = dropout_prob

class Network(nn.Module):
    """Parameters by their official names, dots and all."""

    def __init__(self, class_dropout_prob=0.1, num_heads=16, **sizes):
        super().__init__()
        self.heads, self.y_embedder = num_heads, Labels(class_dropout_prob)
        self.shapes = official.shapes(**sizes)
        self.weights = nn.ParameterList(torch.zeros(shape) for shape in self.shapes.values())
        self.weights[list(self.shapes).index("pos_embed")].requires_grad_(False)

    def load_state_dict(self, state):
        if state.keys() != self.shapes.keys():
            raise RuntimeError(f"other parameters: {sorted(state.keys() ^ self.shapes.keys())}")
        with torch.no_grad():
            for weight, name in zip(self.weights, self.shapes, strict=True):
                weight.copy_(state[name])

    def state(self):
        return dict(zip(self.shapes, self.weights, strict=True))

    def undropped(self, y):
        return y if not self.training or self.y_embedder.dropout_prob == 0 else torch.full_like(y, 0)
'''

REPA = {
    "models/sit.py": NETWORK
    + """
class SiT(Network):
    def __init__(self, path_type="edm", input_size=32, patch_size=2, in_channels=4, hidden_size=1152,
                 decoder_hidden_size=768, encoder_depth=8, depth=28, num_heads=16, mlp_ratio=4.0,
                 class_dropout_prob=0.1, num_classes=1000, use_cfg=False, z_dims=[768], projector_dim=2048,
                 **block_kwargs):
        assert decoder_hidden_size == hidden_size and set(block_kwargs) <= {"qk_norm", "fused_attn"}
        super().__init__(class_dropout_prob, num_heads, depth=depth, width=hidden_size, patch=patch_size,
                         input_size=input_size, channels=in_channels, classes=num_classes,
                         projectors=tuple(z_dims), projector_width=projector_dim)
        self.encoder_depth = encoder_depth

    def forward(self, x, t, y, return_logvar=False):
        state, y = self.state(), self.undropped(y)
        return official.repa_tokens(state, x, t, y, self.heads, self.encoder_depth)

SiT_models = {"SiT-XL/2": SiT}
""",
    "loss.py": """
import torch

class SILoss:
    def __init__(self, prediction="v", path_type="linear", weighting="uniform", encoders=[], accelerator=None,
                 latents_scale=None, latents_bias=None):
        assert (prediction, path_type, weighting) == ("v", "linear", "uniform")

    def __call__(self, model, images, model_kwargs=None, zs=None):
        t = torch.rand(len(images)).to(images)
        noise = torch.randn_like(images)
        velocity, projected = model(torch.lerp(images.T, noise.T, t).T, t, **model_kwargs)
        denoise = (velocity + images - noise).pow(2).flatten(1).mean(1)
        cosines = [torch.cosine_similarity(z, p, dim=2).mean() for z, p in zip(zs, projected, strict=True)]
        return denoise, -sum(cosines) / len(cosines)
""",
    "samplers.py": """
import torch

def euler_maruyama_sampler(model, latents, y, num_steps=20, heun=False, cfg_scale=1.0, guidance_low=0.0,
                           guidance_high=1.0, path_type="linear"):
    x, times = latents.double(), torch.linspace(1, 0.04, num_steps, dtype=torch.float64).tolist() + [0.0]
    for t, after in zip(times, times[1:]):
        def drift(label):
            v = model(x.to(latents.dtype), torch.full((len(x),), t).to(latents), y=label)[0].double()
            return v + (x + (1 - t) * v)  # w/2 = t times minus the score (x + (1 - t) v) / t
        noise = torch.randn_like(x) if after else 0
        with torch.no_grad():
            d = drift(y)
            if cfg_scale > 1 and guidance_low <= t <= guidance_high:
                free = drift(torch.full_like(y, 1000))
                d = free + cfg_scale * (d - free)
        x = x + (after - t) * d + (2 * t * (t - after)) ** 0.5 * noise
    return x
""",
}

SIZED = (
    NETWORK
    + """
class Sized(Network):
    def __init__(self, input_size=32, patch_size=2, in_channels=4, hidden_size=1152, depth=28, num_heads=16,
                 mlp_ratio=4.0, class_dropout_prob=0.1, num_classes=1000, learn_sigma=True):
        super().__init__(class_dropout_prob, num_heads, depth=depth, width=hidden_size, patch=patch_size,
                         input_size=input_size, channels=in_channels, classes=num_classes,
                         variance=learn_sigma)

    def forward_with_cfg(self, x, t, y, cfg_scale):
        labelled, free = self(x.chunk(2)[0].repeat(2, 1, 1, 1), t, y).chunk(2)
        guided = free[:, :3].lerp(labelled[:, :3], cfg_scale)
        return torch.cat([torch.cat([guided, half[:, 3:]], dim=1) for half in (labelled, free)])
"""
)

SIT = {
    "models.py": SIZED
    + """
class SiT(Sized):
    def forward(self, x, t, y):
        return official.sit(self.state(), x, t, self.undropped(y), self.heads)

SiT_models = {"SiT-XL/2": SiT}
""",
    "transport/__init__.py": "from .transport import Sampler, create_transport\n",
    "transport/transport.py": """
import torch

class Transport:
    def training_losses(self, model, x1, model_kwargs=None):
        x0 = torch.randn_like(x1)
        t = torch.rand(len(x1)).to(x1)
        output = model(torch.lerp(x0.T, x1.T, t).T, t, **model_kwargs)
        return {"pred": output, "loss": (output - (x1 - x0)).pow(2).flatten(1).mean(1)}

class Sampler:
    def __init__(self, transport):
        assert isinstance(transport, Transport)

    def sample_sde(self, *, sampling_method="Euler", diffusion_form="SBDM", diffusion_norm=1.0,
                   last_step="Mean", last_step_size=0.04, num_steps=250):
        assert (sampling_method, diffusion_form, diffusion_norm, last_step) == ("Euler", "sigma", 1, "Mean")
        times = torch.linspace(0, 1 - last_step_size, num_steps)
        def draw(init, model, **model_kwargs):
            states = [init]
            for i, t in enumerate(times):
                x, last = states[-1], i + 1 == num_steps
                # v plus 1 - t times the score, which is (t v - x) / (1 - t)
                drift = (1 + t) * model(x, t.expand(len(x)).to(x), **model_kwargs) - x
                noise = 0 if last else torch.randn(x.size()).to(x)
                step = last_step_size if last else times[1]
                states.append(x + step * drift + (2 * (1 - t) * step) ** 0.5 * noise)
            return states[1:]
        return draw

def create_transport(path_type="Linear", prediction="velocity", loss_weight=None, train_eps=None,
                     sample_eps=None):
    return Transport()
""",
}

DIT = {
    "models.py": SIZED
    + """
class DiT(Sized):
    def forward(self, x, t, y):
        return torch.cat(official.dit(self.state(), x, t, self.undropped(y), self.heads), dim=1)

DiT_models = {"DiT-XL/2": DiT}
""",
    "diffusion/__init__.py": "from .gaussian_diffusion import create_diffusion\n",
    "diffusion/gaussian_diffusion.py": """
import math
import torch
from torch.distributions import Normal, kl_divergence

class Diffusion:
    def __init__(self, kept):
        self.kept = kept

    def p_sample_loop(self, model, shape, noise=None, clip_denoised=True, denoised_fn=None, cond_fn=None,
                      model_kwargs=None, device=None, progress=False):
        assert noise.shape == shape and not clip_denoised and noise.device == device
        x = noise
        bars = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
        for i in reversed(range(len(self.kept))):
            bar, before = bars[self.kept[i]], bars[self.kept[i - 1]] if i else torch.ones(())
            beta = 1 - bar / before
            least = beta * (1 - before) / (1 - bar)
            with torch.no_grad():
                output = model(x, torch.full((len(x),), self.kept[i]), **model_kwargs)
            predicted, raw = output.double().chunk(2, dim=1)
            mean = (x - beta / (1 - bar).sqrt() * predicted) / (1 - beta).sqrt()
            spread = (beta / least) ** ((raw + 1) / 4) * least.sqrt() if i else 0
            x = (mean + spread * torch.randn_like(x)).to(noise)
        return x

    def training_losses(self, model, x_start, t, model_kwargs=None, noise=None):
        assert t.min() > 0  # the first term of the bound is another formula
        noise = torch.randn_like(x_start) if noise is None else noise
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        kept = (1 - betas).cumprod(0)
        beta, bar, before = (v.view(-1, 1, 1, 1) for v in (betas[t], kept[t], kept[t - 1]))
        x_t = bar.sqrt() * x_start + (1 - bar).sqrt() * noise
        predicted, raw = model(x_t.to(x_start), t, **model_kwargs).double().chunk(2, dim=1)
        def mean(eps):
            return (x_t - beta / (1 - bar).sqrt() * eps) / (1 - beta).sqrt()
        least = beta * (1 - before) / (1 - bar)
        spread = (beta / least) ** ((raw + 1) / 4) * least.sqrt()
        kl = kl_divergence(Normal(mean(noise), least.sqrt()), Normal(mean(predicted.detach()), spread))
        mse = (predicted - noise).pow(2).flatten(1).mean(1)
        vb = kl.flatten(1).mean(1) / math.log(2)
        return {"mse": mse, "vb": vb, "loss": mse + vb}

def create_diffusion(timestep_respacing, noise_schedule="linear", use_kl=False, sigma_small=False,
                     predict_xstart=False, learn_sigma=True, rescale_learned_sigmas=False,
                     diffusion_steps=1000):
    steps = int(timestep_respacing or 1000)
    return Diffusion([round(i * 999 / (steps - 1)) for i in range(steps)])
""",
}

CHECKOUTS = {"repa": REPA, "sit": SIT, "dit": DIT}


def write(folder: Path, kind: str) -> Path:
    """The files of one of the three, and the folder."""
    for name, text in CHECKOUTS[kind].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder

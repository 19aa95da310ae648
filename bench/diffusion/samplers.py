"""Registry of samplers: `get("heun[steps=25]")`, or a preset, the exact sampler of a paper.

A preset is a name for a sampler with options, which can be changed: `get("repa-sde-250[steps=50]")`. Samplers
are compared by the number of model evaluations (NFE), given for each preset; papers count evaluations, code
bases often count grid points.
"""

from __future__ import annotations

from bench.core import grammar, plugin
from bench.core.errors import unknown
from bench.diffusion.ancestral import DDIM, Ancestral
from bench.diffusion.sampler_base import Sampler
from bench.diffusion.solvers import Dopri5, Euler, EulerMaruyama, Heun

SAMPLERS: dict[str, type[Sampler]] = {
    "euler": Euler,
    "heun": Heun,
    "dopri5": Dopri5,
    "euler-maruyama": EulerMaruyama,
    "ddpm": Ancestral,
    "ddim": DDIM,
}

PRESETS: dict[str, str] = {
    # SiT's `sample_ddp.py SDE` with its default options, float32 state: 250 grid points from 1 to 0.04, the
    # last one for the mean step to 0. 250 NFE. Guidance, if used, has channels=3. (The paper also tries other
    # w_t, and its best XL rows may use one of them.)
    "sit-sde-250": "euler-maruyama[steps=250,diffusion=sigma,last_step=mean,last_step_size=0.04]",
    # SiT's tables, ODE: Heun at 250 NFE = 125 steps of two evaluations. The option of its code counts grid
    # points instead: `--num-sampling-steps 126 --sampling-method heun2` is this sampler.
    "sit-ode-heun-250": "heun[steps=125]",
    # SiT's `sample.py ODE` as released: adaptive, with these tolerances.
    "sit-ode-dopri5": "dopri5[atol=1e-6,rtol=1e-3]",
    # REPA's tables (`generate.py --mode sde --num-steps 250`), float64 state: w = 2t on every path, drift
    # v - w s / 2, noise √w on linspace(1, 0.04, 250), then drift alone to 0. 250 NFE. On the linear path,
    # σ = t, this is the SDE of sit-sde-250.
    "repa-sde-250": "euler-maruyama[steps=250,diffusion=linear,last_step=mean,last_step_size=0.04,"
    "float64=true]",
    # REPA's `generate.py --mode ode --heun` with its default 50 steps, the last of them Euler's. 99 NFE.
    "repa-ode-heun-99": "heun[steps=50,last_step=euler,corrector_guidance=current,float64=true]",
    # DiT's tables (`sample_ddp.py`): ancestral, respaced to 250 of 1000 timesteps, learned variance. 250 NFE.
    "dit-ddpm-250": "ddpm[steps=250]",
    # Our own, for laptops: 50 NFE each.
    "sde-50": "euler-maruyama[steps=50]",
    "ode-heun-50": "heun[steps=25]",
    "ddim-50": "ddim[steps=50]",
}


def get(text: str) -> Sampler:
    """The sampler of a name in the table, a preset, or a file, `path/to/my_sampler.py[option=value]`.

    Options in brackets replace those of a preset. Raises UserError for an unknown name or option, and for
    invalid values.
    """
    if plugin.is_file(text):
        return plugin.configured(text, Sampler, "sampler")
    name, options = grammar.split(text)
    if name in PRESETS:
        preset, preset_options = grammar.split(PRESETS[name])
        return grammar.configure(SAMPLERS[preset], preset_options | options, name)
    if name not in SAMPLERS:
        raise unknown("sampler", name, [*SAMPLERS, *PRESETS])
    return grammar.configure(SAMPLERS[name], options, name)


def resolved(text: str) -> str:
    """The name of the sampler's class with every option, without presets. Raises UserError as `get`."""
    if plugin.is_file(text):
        return plugin.identity(text, Sampler, "sampler")
    name, _ = grammar.split(text)
    return grammar.resolved(grammar.split(PRESETS.get(name, name))[0], get(text))

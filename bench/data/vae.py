"""Variational autoencoders between images and latents: diffusers' AutoencoderKL, by hub id or folder.

    encode   image x in [-1, 1] -> mean m and standard deviation s of the posterior; z = m + s n, n ~ N(0, 1)
    decode   z -> image

The repositories of Stable Diffusion's VAEs share one encoder; `ft-mse` and `ft-ema` differ in the decoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.core.errors import MissingAsset, UserError
from bench.core.files import sha256
from bench.data.shards import Latents

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
BATCH_SIZE = 16  # images per pass


class VAE:
    """A frozen autoencoder on a device."""

    def __init__(self, name: str, device: torch.device, precision: str = "fp32", tiled: bool = False) -> None:
        """`precision` fp32, or bf16 for its matrix products; `tiled`: large images in overlapping tiles,
        which bounds the memory and changes the result slightly.

        Raises UserError if its files are absent or of another model."""
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        self.device, self.precision = device, precision
        folder = weight_file(name).parent
        try:
            net: Any = AutoencoderKL.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"the VAE {name} in {folder} cannot be loaded: {reason}") from None
        self.net = net.eval().requires_grad_(False).to(device)
        if tiled:
            self.net.enable_tiling()

    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, 3, R, R] uint8 -> mean and standard deviation of z, [B, C, H, W] float32, on the CPU."""
        parts = []
        for part in images.split(BATCH_SIZE):
            with self._arithmetic():
                posterior = self.net.encode(part.to(self.device).float() / 127.5 - 1).latent_dist
            parts.append(torch.stack([posterior.mean, posterior.std]).float().cpu())
        mean, std = torch.cat(parts, dim=1)
        return mean, std

    def decode(self, z: Tensor) -> Tensor:
        """z [B, C, H, W] -> images [B, 3, R, R], meant to be in [-1, 1], on its device; differentiable."""
        with self._arithmetic():
            return torch.cat([self.net.decode(part).sample.float() for part in z.split(BATCH_SIZE)])

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def describe(name: str, decoder: str, image_size: int, **how: Any) -> Latents:
    """The description of latents in a store; `how`: fields of `Latents` that the VAE does not determine.

    Raises:
        UserError: if the decoder takes other latents.
    """
    vae = VAE(name, torch.device("cpu")).net
    other = VAE(decoder, torch.device("cpu")).net if decoder != name else vae
    halvings = len(vae.config.block_out_channels) - 1
    if other.config.latent_channels != vae.config.latent_channels:
        raise UserError(
            f"the decoder {decoder} takes latents of {other.config.latent_channels} channels, "
            f"{name} makes {vae.config.latent_channels}."
        )
    if image_size % (1 << halvings):
        raise UserError(f"images of {image_size} pixels cannot be halved {halvings} times by the VAE {name}.")
    return Latents(
        vae=name,
        vae_weights=revision(name),
        decoder=decoder,
        decoder_weights=revision(decoder),
        channels=vae.config.latent_channels,
        size=image_size >> halvings,
        scale=vae.config.scaling_factor,
        bias=vae.config.shift_factor or 0.0,
        **how,
    )


def revision(name: str) -> str:
    """First 16 hex digits of the SHA-256 of the weights."""
    return sha256(weight_file(name))[:16]


def weight_file(name: str) -> Path:
    """The weights of a VAE, in its folder or the Hugging Face cache.

    Raises MissingAsset if they are in neither, and UserError for a folder that holds no VAE.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(name, "config.json")
        except HFValidationError:
            cached = None
        if not isinstance(cached, str):
            raise MissingAsset(
                f"the VAE {name} is not on this machine. Fetch it: hf download {name} config.json "
                f"{WEIGHTS[0]}  or give a folder that holds these two files, as "
                "examples/train_autoencoder.py writes them."
            )
        folder = Path(cached).parent
    for file in WEIGHTS:
        if (folder / file).is_file() and (folder / "config.json").is_file():
            return folder / file
    raise UserError(f"the folder {folder} holds no VAE: it needs config.json and {WEIGHTS[0]}.")

"""What the GPU campaign looks at first: the card, and whether it computes what the CPU computes."""

from __future__ import annotations

from typing import Any

import torch

from bench.benchmark import against
from bench.config import resolve
from bench.core import machine
from bench.core.machine import no_tf32
from bench.evaluation import sampling
from bench.training.trainer import Trainer

# bf16 peaks of data sheets, dense, FLOP/s.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "4090": 165e12,
}
# Largest relative differences between card and CPU in float32 without TF32, after these steps; of samples in
# levels of 255.
CHECKED_STEPS, SAME_LOSS, SAME_GRADIENT, SAME_LEVELS = 3, 1e-3, 1e-2, 1


def look_at_machine(device: torch.device) -> dict[str, Any]:
    """The card, versions, the command, and the speed of a matrix product."""
    kinds = {"fp32", machine.native_precision(device)}  # emulated, bf16 takes a minute
    speeds = {kind: machine.matrix_product_speed(device, kind) for kind in sorted(kinds)}
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
    name = machine.hardware(device)
    peak = next((value for key, value in PEAKS.items() if key in name), 0.0)
    return machine.describe(device) | {"product_flops": speeds, "peak_bf16": peak, "memory": memory}


def compare_with_cpu(method: str, backbone: str, device: torch.device) -> dict[str, Any]:
    """A few steps on the digits and a few samples, here and on the CPU, in float32."""
    training = {"batch_size": 16, "precision": "fp32", "learning_rate": 1e-4, "log_every": 1}
    protocol = {"sampler_flow": "heun[steps=4]", "sampler_ddpm": "ddim[steps=8]"}
    run = resolve.run_spec(method, backbone, "digits", 0, training=training, protocol=protocol)
    rows, gradients, images = [], [], []
    for place in (torch.device("cpu"), device):
        with no_tf32():
            trainer = Trainer(run, place)
            against.randomise(trainer.backbone)
            trainer.ema.load_state_dict(trainer.backbone.state_dict())
            steps = [trainer.step(step) for step in range(CHECKED_STEPS)]
            values = [torch.stack([row["loss"], *row["raw"].values(), row["grad_norm"]]) for row in steps]
            rows.append(torch.stack(values).cpu())
            found = [p.grad for p in trainer.trained.values() if p.grad is not None]
            gradients.append(torch.cat([gradient.flatten().cpu() for gradient in found]))
            drawn = sampling.stream(trainer.ema, trainer.process, run, trainer.data, torch.arange(16))
            images.append(torch.cat([batch.images for batch in drawn]).int())
    found = {
        "losses": float(((rows[1] - rows[0]).abs() / rows[0].abs().clamp(min=0.1)).max()),
        "gradient": float((gradients[1] - gradients[0]).norm() / gradients[0].norm()),
        "sample_levels": int((images[1] - images[0]).abs().max()),
    }
    limits = {"losses": SAME_LOSS, "gradient": SAME_GRADIENT, "sample_levels": SAME_LEVELS}
    return found | {"same": all(found[name] <= limits[name] for name in limits)}

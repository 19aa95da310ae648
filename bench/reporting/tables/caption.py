"""Caption of a comparison, from its protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.config import suites
from bench.config.spec import IDENTITY
from bench.reporting.comparison import Comparison


def purpose(comparison: Comparison) -> str:
    """The description of the suite that the folder of runs is named after, with a full stop; "" if none."""
    name = comparison.results.folder.resolve().name.removesuffix("-full")
    if name not in suites.names():
        return ""
    description = suites.load(name).description
    return description.rstrip(".") + "." if description else ""


def caption(comparison: Comparison) -> str:
    """Data, steps, sampler, guidance, samples, feature nets, seeds, hardware, and the protocol's hash."""
    runs = comparison.results.runs
    hardware = ", ".join(sorted({name for name in runs["hardware"] if name})) or "hardware not recorded"
    parts = [
        f"Trained for {_values(runs['steps'])} steps of {_values(runs['batch_size'])} images",
        f"seeds {_values(runs['seed'])}",
        *(protocol_text(name, comparison.results.protocols[name]) for name in runs["protocol"].unique()),
    ]
    return "; ".join(parts) + f". {hardware}."


def outdated(comparison: Comparison) -> str:
    """A sentence on protocols whose hash is of an earlier definition than today's; "" if there are none."""
    protocols = comparison.results.protocols
    old = [name for name in protocols if protocols[name].get("identity", 1) < IDENTITY]
    if not old:
        return ""
    return (
        f"Made before 0.2.0, whose hashes have no checksums of metric networks ({', '.join(old)}): not to be "
        "compared with runs of today, which have other hashes. To compare, run the suite again."
    )


def protocol_text(name: str, protocol: Mapping[str, Any]) -> str:
    """One protocol in words."""
    guidance = "no guidance"
    if protocol["guidance_scale"] != 1:
        low, high = protocol["guidance_interval"]
        channels = protocol["guidance_channels"]
        guidance = f"guidance {protocol['guidance_scale']:g}"
        guidance += f" on t in [{low:g}, {high:g}]" if (low, high) != (0, 1) else ""
        guidance += f" of the first {channels} channels" if channels else ""
    return (
        f"protocol {name}: {protocol['data']}, {protocol['samples']:,} samples, {protocol['labels']} labels, "
        f"sampler {protocol['sampler_flow']} (SiT) and {protocol['sampler_ddpm']} (DiT), {guidance}, "
        f"{protocol['weights']} weights, against {protocol['reference']}, "
        f"feature nets {', '.join(protocol['feature_nets'])}"
    )


def _values(values) -> str:
    """`0, 1, 2`; thousands with separators."""
    return ", ".join(f"{value:,}" for value in sorted(set(values)))

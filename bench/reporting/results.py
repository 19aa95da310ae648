"""Tables of the rows of run folders; unreadable folders are listed, without raising."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.config.spec import protocol_hash, renamed
from bench.core import grammar
from bench.core.errors import UserError
from bench.runs.formats import EvaluationRow
from bench.runs.gaps import damaged_probes, missing_evaluations, missing_training
from bench.runs.record import FILES, RunRecord

_RUN = ["run", "method", "backbone", "seed"]
_METHOD_FIELDS = ("teacher", "reward_net", "method_source")  # of a spec; they tell methods apart
_RESOLVED = ("resolved_method", "method_version", "resolved_backbone", "resolved_process")  # since identity 2
_NOT_SETTINGS = ("method", "backbone", "seed", "data", "protocol", "training", *_METHOD_FIELDS, *_RESOLVED)


@dataclass(frozen=True)
class Results:
    """The rows of all runs of a folder.

    `runs` has one row per run: run (its folder), method, backbone, seed, data, state, message, step, steps,
    batch_size, records (training images), teachers (frozen encoders that training uses), parameters,
    method_parameters, devices, device, hardware, protocol; records and teachers are None in runs of earlier
    versions. If runs of one method or backbone differ in further fields of their specs, its name says so:
    `sit-ti[learning_rate=0.001]`.
    `evaluations` has one row a run, step and protocol: run, method, backbone, seed, step, seconds, flops,
    device_hours, samples, protocol, guidance_scale, guidance_interval ("0:0.7") and one column a metric,
    named as in the rows.
    """

    folder: Path
    runs: pd.DataFrame
    evaluations: pd.DataFrame
    metrics: list[str]
    protocols: Mapping[str, Mapping[str, Any]]  # hash -> the protocol, of the runs' own specs
    leaky: Mapping[str, set[str]]  # method -> metric nets that also taught or rewarded it
    unreadable: Mapping[str, str]  # run folder -> why it is left out
    gaps: Mapping[str, str]  # run folder -> rows that it should have and has not

    @property
    def own_evaluations(self) -> pd.DataFrame:
        """Evaluations under the run's own protocol."""
        protocols = self.runs.set_index("run")["protocol"]
        rows = self.evaluations
        return rows[rows["protocol"].to_numpy() == protocols.loc[rows["run"]].to_numpy()]

    @property
    def finished(self) -> pd.DataFrame:
        """The evaluation of the last step of every finished run under its own protocol, for tables.

        A run without it is among `gaps`, or waits for a separate evaluation.
        """
        steps = self.runs[self.runs["state"] == "finished"].set_index("run")["steps"]
        rows = self.own_evaluations
        return rows[rows["step"].to_numpy() == rows["run"].map(steps).to_numpy()]


def load(folder: Path) -> Results:
    """Read all run folders in `folder`. Raises UserError if none can be read."""
    read, runs, evaluations, unreadable, gaps = [], [], [], {}, {}
    protocols: dict[str, Mapping[str, Any]] = {}
    leaky: dict[str, set[str]] = {}
    metrics: dict[str, None] = {}
    for path in sorted(path for path in folder.glob("*") if _is_run(path)):
        record = RunRecord(path)
        try:
            read.append((record, *_run(record)))
        except UserError as error:
            unreadable[path.name] = str(error)
        except (KeyError, TypeError) as error:  # fields that no version of a spec lacks, or of another kind
            unreadable[path.name] = f"spec.json: {type(error).__name__}: {error}"
    name_differences([spec for _, _, spec in read])
    shown = min((run["seed"] for _, run, _ in read), default=0)  # the seed whose logs are plotted
    for record, run, spec in read:
        run |= {"method": spec["method"], "backbone": spec["backbone"]}
        found = record.evaluations()
        if missing := _gaps(record, run, spec, found, logs=run["seed"] == shown):
            gaps[run["run"]] = missing
        rows = _evaluations(found, run, metrics)
        leaky.setdefault(run["method"], set()).update(*(row.pop("leaky") for row in rows))
        protocols.setdefault(run["protocol"], spec["protocol"])
        runs.append(run)
        evaluations += rows
    if not runs:
        raise UserError(
            f"{folder} holds no run that can be read: give a suite's folder, or run a suite first."
        )
    columns = [*_RUN, "step", "seconds", "flops", "device_hours", "samples", "protocol"]
    columns += ["guidance_scale", "guidance_interval", *metrics]
    table = pd.DataFrame(evaluations, columns=columns)
    return Results(folder, pd.DataFrame(runs), table, list(metrics), protocols, leaky, unreadable, gaps)


def _is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in FILES)


def _run(record: RunRecord) -> tuple[dict[str, Any], dict[str, Any]]:
    """The run's row, and its spec, of whatever version."""
    spec, environment, status = record.spec_fields(), record.environment(), record.status()
    for name in ("method", "backbone"):
        grammar.split(spec[name])
    return {
        "run": record.folder.name,
        "method": spec["method"],
        "backbone": spec["backbone"],
        "seed": spec["seed"],
        "data": spec["data"],
        "state": status.state,
        "message": status.message,
        "step": status.step,
        "steps": spec["training"]["steps"],
        "batch_size": spec["training"]["batch_size"],
        "records": environment.records,
        "teachers": environment.teachers,
        "parameters": environment.parameters.backbone,
        "method_parameters": environment.parameters.method,
        "device": environment.device,
        "devices": environment.devices,
        "hardware": environment.hardware,
        "protocol": protocol_hash(spec["protocol"]),
    }, spec | {"protocol": renamed(spec["protocol"])}


def name_differences(specs: list[dict[str, Any]]) -> None:
    """Add to the names of methods and backbones the other settings in which their runs differ."""
    fields = [_flat(spec) for spec in specs]
    for name in ("method", "backbone"):
        groups: dict[str, list[int]] = {}
        for index, spec in enumerate(specs):
            groups.setdefault(spec[name], []).append(index)
        for members in groups.values():
            keys = [
                key
                for key in dict.fromkeys(key for index in members for key in fields[index])
                if (key in _METHOD_FIELDS or key.startswith("method.")) == (name == "method")
                and len(_values(key, [fields[index] for index in members])) > 1
            ]
            for index in members if keys else ():
                said = {key.rpartition(".")[2]: fields[index].get(key) for key in keys}
                base, options = grammar.split(specs[index][name])
                specs[index][name] = grammar.join(base, options | said)


def _values(key: str, runs: Sequence[Mapping[str, Any]]) -> set[str]:
    """The values of a field; runs that do not record a method's defaults do not differ by them."""
    return {str(run.get(key)) for run in runs if key in run or not key.startswith("method.")}


def _flat(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Fields in which runs may differ, such as `training.steps`."""
    training = {f"training.{key}": value for key, value in spec["training"].items()}
    rest = {key: value for key, value in spec.items() if key not in _NOT_SETTINGS}
    if spec.get("weights"):
        rest["weights"] = Path(spec["weights"]["path"]).name
    resolved = _resolved(spec)
    return training | rest | resolved | {key: spec[key] for key in _METHOD_FIELDS if spec.get(key)}


def _resolved(spec: Mapping[str, Any]) -> dict[str, Any]:
    """`method.OPTION` -> value, defaults included, and the method's version; empty before identity 2."""
    if not spec.get("resolved_method"):
        return {}
    options = grammar.split(spec["resolved_method"])[1] | {"version": spec["method_version"]}
    return {f"method.{key}": value for key, value in options.items()}


def _gaps(
    record: RunRecord,
    run: Mapping[str, Any],
    spec: Mapping[str, Any],
    rows: Sequence[EvaluationRow],
    logs: bool,
) -> str:
    """Missing rows in words: evaluations, probes, and with `logs` training rows."""
    done = run["step"] - (run["state"] != "finished")  # the evaluation of the last step may be under way
    found = [missing_evaluations(record, done, spec, rows, run["protocol"])]
    found += [missing_training(record, run["step"], spec)] if logs else []
    found += [damaged_probes(record)]
    return " ".join(filter(None, found))


def _evaluations(
    found: Sequence[EvaluationRow], run: Mapping[str, Any], metrics: dict[str, None]
) -> list[dict[str, Any]]:
    """Evaluations of a run as rows of the table; new names of metrics are added to `metrics`."""
    rows = []
    for row in found:
        rows.append(
            {
                **{name: run[name] for name in _RUN},
                "step": row.step,
                "seconds": row.seconds,
                "flops": row.flops,
                "device_hours": row.seconds * run["devices"] / 3600,
                "samples": row.samples,
                "protocol": row.protocol,
                "guidance_scale": row.guidance_scale,
                "guidance_interval": "{:g}:{:g}".format(*row.guidance_interval),
                "leaky": row.leaky,
                **row.metrics,
            }
        )
        metrics.update(dict.fromkeys(row.metrics))
    return rows


def training_logs(results: Results, backbone: str, seed: int) -> pd.DataFrame:
    """Logs of all methods for a backbone and seed: columns method, step, name, t, value.

    `t` is the noise bin of a quantity logged by bins (`0.25-0.5` of `reward/tokens (t 0.25-0.5)`), else
    empty; quantities that never change are left out. Read on demand, since there are many training rows;
    methods that log nothing cost one line.
    """
    rows = []
    runs = results.runs[(results.runs["backbone"] == backbone) & (results.runs["seed"] == seed)]
    for run in runs.itertuples():
        record = RunRecord(results.folder / str(run.run))
        if not record.logs_anything():
            continue
        last = {row.step: row.logs for row in record.training() if row.logs}
        rows += [(run.method, step, name, value) for step in last for name, value in last[step].items()]
    table = pd.DataFrame(rows, columns=["method", "step", "name", "value"])
    table = table[table.groupby("name")["value"].transform("nunique") > 1]
    parts = table["name"].str.extract(r"^(.*?)(?: \(t ([^)]*)\))?$").fillna("")
    return table.assign(name=parts[0], t=parts[1])


def probe_maps(results: Results, backbone: str, measure: str) -> dict[str, pd.DataFrame]:
    """Results of `bench.probe`: method -> a measure by depth (rows) and t (columns), mean over runs."""
    rows = []
    for run in results.runs[results.runs["backbone"] == backbone].itertuples():
        for row in RunRecord(results.folder / str(run.run)).probes():
            rows.append((run.method, row.depth, row.t, getattr(row, measure)))
    table = pd.DataFrame(rows, columns=["method", "depth", "t", measure])
    return {
        str(method): own.pivot_table(index="depth", columns="t", values=measure)
        for method, own in table.groupby("method", sort=False)
    }

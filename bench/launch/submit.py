"""Submission of runs as jobs: an array on a cluster, or a few processes at a time on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError

from bench.config.spec import RunSpec
from bench.core import machine
from bench.core.errors import UserError
from bench.core.files import write_json
from bench.core.parallel import Parallelism
from bench.launch import slurm, watch
from bench.launch.assets import missing_assets, with_trained_networks
from bench.launch.display import Display
from bench.launch.job import Job, describe, reset
from bench.launch.resources import Launcher, LaunchOptions, Resources
from bench.runs import trackers
from bench.runs.folder import RunFolder, adopt, older_runs

TURNS = 10**6  # of a job that reaches its time limit; one that makes no step gives up by itself


def launch(
    specs: Sequence[RunSpec],
    root: Path,
    options: LaunchOptions,
    parallelism: Parallelism,
    device: str,
    gpus: int,
    dry_run: bool,
    track: tuple[str, ...] = (),
) -> None:
    """Start a job for every run that needs one; wait for them unless told to detach. `gpus`: a node's.

    Raises UserError where the jobs cannot be started or any run ends without being finished.
    """
    launcher = options.chosen
    if launcher == "local" and options.detach:
        raise UserError(
            "--detach: the local launcher has to stay to start one job after the other; leave it."
        )
    track = trackers.usable(track)
    resources = Resources.of(options, launcher, gpus=gpus)
    separate = options.evaluate_as == "separate"
    judging = Resources.of(options, launcher, gpus=gpus, evaluation=True) if separate else None
    if not dry_run:
        specs = with_trained_networks(specs)
        for spec in specs:
            adopt(root, spec)
    if older := older_runs(root, specs):
        print(older)
    for line in missing_assets(specs):
        print(f"missing on this machine: {line}")
    jobs = jobs_of(specs, root, device, parallelism, options, track)
    explain(jobs, resources, judging)
    if dry_run:
        return
    display = Display([root / spec.run_id for spec in specs])
    with display:
        if launcher == "local":
            on_this_machine(jobs, resources, display.draw)
            if judging:
                on_this_machine(evaluation_jobs(display.draw()), judging, display.draw)
        elif jobs:
            to_slurm(jobs, resources, judging)
        if options.detach:
            print(f"the jobs go on by themselves: python -m bench.status {root}")
            return
        seen = display.until_over()
    failed = [run for run in seen if not run.done]
    for run in failed:
        print(f"{run.folder.name}: {run.state}: {run.message}")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(specs)} runs did not finish. What their jobs wrote: python -m "
            f"bench.status {root} --log RUN. To start them again: the same command."
        )
    print(f"done: {len(specs)} runs in {root}. Table and plots: python -m bench.report {root}")


def jobs_of(
    specs: Sequence[RunSpec],
    root: Path,
    device: str,
    parallelism: Parallelism,
    options: LaunchOptions,
    track: tuple[str, ...] = (),
) -> list[Job]:
    """A job for each run that is neither finished nor locked by another process."""
    queue, revision, jobs = slurm.queue(), machine.revision(), []
    for spec in specs:
        folder = root / spec.run_id
        seen = watch.poll_run(folder, queue)
        if seen.done:
            print(f"{spec.run_id}: finished before")
        elif seen.state in (watch.WAITING, watch.RUNNING):
            print(f"{spec.run_id}: {seen.state} as job {seen.job or 'of another command'}")
        else:
            jobs.append(
                Job(
                    spec=spec.model_dump_json(),
                    root=str(root.absolute()),
                    device=device,
                    micro_batch=parallelism.micro_batch,
                    shard=parallelism.fsdp,
                    recompute=parallelism.recompute,
                    evaluate=options.evaluate_as,
                    revision=revision,
                    track=track,
                )
            )
    return jobs


def explain(jobs: Sequence[Job], resources: Resources, judging: Resources | None) -> None:
    """Print the jobs and their resources."""
    at_once = f", {resources.array_parallelism} at once" if resources.array_parallelism else ""
    print(f"{len(jobs)} jobs{at_once}, each: {resources}")
    for line in resources.setup:
        print(f"  first: {line}")
    for job in jobs:
        print(f"  {job.run_spec().run_id}")
    if judging:
        count = sum(len(job.run_spec().training.evaluation_steps) for job in jobs)
        print(f"and {count} evaluation jobs, each: {judging}")


def to_slurm(jobs: Sequence[Job], resources: Resources, judging: Resources | None) -> None:
    """Submit one array, and for each of its jobs an array of evaluations; each starts when training has kept
    its weights (`Job`), or at the latest when it has ended.

    Raises UserError where Slurm refuses.
    """
    root = Path(jobs[0].root)
    submitted = _submit_array(jobs, root, resources)
    for job, number in zip(jobs, submitted, strict=True):
        _note(number, "slurm", job, resources)
        if judging:
            kept = [replace(job, kept=step) for step in job.run_spec().training.evaluation_steps]
            evaluations = _submit_array(kept, root, judging, {"dependency": f"afterany:{number}"})
            _note(number, "slurm", job, resources, judging, evaluations)
    print(f"submitted: {', '.join(submitted)}; logs in {root / 'jobs'}")


def _submit_array(
    jobs: Sequence[Job], root: Path, resources: Resources, more: dict[str, Any] | None = None
) -> list[str]:
    executor = submitit.AutoExecutor(root / "jobs", cluster="slurm", slurm_max_num_timeout=TURNS)
    executor.update_parameters(**resources.parameters(f"bench-{root.name}"))
    executor.update_parameters(**{f"slurm_{key}": value for key, value in (more or {}).items()})
    try:
        with executor.batch():
            submitted = [executor.submit(job) for job in jobs]
        return [job.job_id for job in submitted]
    except FailedJobError as error:
        said = [line for line in str(error).splitlines() if line.strip()]
        line = next((line for line in said if "error" in line), said[-1] if said else "no reason given")
        hint = f" There are: {', '.join(slurm.partitions())}." if "partition" in line else ""
        raise UserError(f"Slurm refuses the jobs ({resources}): {line.strip()}.{hint}") from None


def on_this_machine(
    jobs: Sequence[Job], resources: Resources, show: Callable[[], object], poll: float = 0.5
) -> None:
    """Run jobs as processes, some at a time; each has its GPUs to itself. Returns when all have ended."""
    at_once = resources.array_parallelism or _capacity(resources)
    waiting, running = list(jobs), dict[int, Any]()  # slot -> submitit's job
    while waiting or running:
        for slot in range(at_once):
            if slot in running and running[slot].done():
                del running[slot]
            if slot not in running and waiting:
                running[slot] = _start(waiting.pop(0), resources, slot)
        show()
        time.sleep(poll)


def _start(job: Job, resources: Resources, slot: int) -> Any:
    executor = submitit.LocalExecutor(Path(job.root) / "jobs", max_num_timeout=TURNS)
    gpus = resources.gpus_per_node
    executor.update_parameters(
        timeout_min=resources.minutes,
        tasks_per_node=resources.tasks,
        gpus_per_node=gpus,
        visible_gpus=list(range(slot * gpus, (slot + 1) * gpus)),
        setup=resources.setup,
    )
    started = executor.submit(job)
    if job.kept is None:
        _note(started.job_id, "local", job, resources)
    return started


def _capacity(resources: Resources) -> int:
    """Number of jobs that this machine can run at the same time, by its GPUs or else its cores."""
    if resources.gpus_per_node:
        import torch

        return max(1, torch.cuda.device_count() // resources.gpus_per_node)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // (resources.tasks * (resources.cpus_per_task or cores)))


def _note(
    number: str,
    launcher: Launcher,
    job: Job,
    resources: Resources,
    judging: Resources | None = None,
    evaluations: Sequence[str] = (),
) -> None:
    run = RunFolder(Path(job.root), job.run_spec())
    found = describe(number, launcher, Path(job.root) / "jobs", job) | {
        "resources": asdict(resources),
        "judging": judging and asdict(judging),
        "evaluations": list(evaluations),
    }
    write_json(run.folder / "job.json", found)


def resubmit(seen: Sequence[watch.RunState]) -> None:
    """Submit runs that ended too early again, and evaluations that were not made, as they were.

    Raises UserError where Slurm refuses, and for runs that were no jobs of Slurm.
    """
    for run in seen:
        job = watch.description(run.folder)
        if job.get("launcher") != "slurm":
            raise UserError(f"{run.folder.name} was not a job of Slurm: start it again with bench.run.")
        resources, judging = (kind and Resources.stored(kind) for kind in (job["resources"], job["judging"]))
        if run.state == watch.FINISHED:
            numbers = _submit_array(evaluation_jobs([run]), run.folder.parent, judging)
            _note(job["id"], "slurm", reset(job), resources, judging, numbers)
        else:
            to_slurm([reset(job)], resources, judging)


def evaluation_jobs(seen: Sequence[watch.RunState]) -> list[Job]:
    """The jobs of separate evaluations."""
    jobs = [reset(watch.description(run.folder)) for run in seen if run.to_evaluate]
    return [
        replace(job, kept=step)
        for job in jobs
        for step in RunFolder(Path(job.root), job.run_spec()).record.kept_steps()
    ]

"""The run directory: config.json, the script's source, versions, metrics.csv, summary.json."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shlex
import shutil
import sys
import time
from importlib import metadata
from pathlib import Path

import filelock
import jax
import numpy as np
import pandas as pd

from runner.loop.hosts import is_first, shared_folder
from runner.loop.track import make_tracker
from runner.plan.command_line import untrained
from runner.plan.errors import UsageError

PACKAGES = ("jax", "jaxlib", "flax", "optax", "distrax", "gymnax", "evosax", "orbax-checkpoint", "numpy")


@contextlib.contextmanager
def replacing(path):
    """Gives a temporary path to write to, then moves it: a crash leaves the old file or the new one, never half."""
    temporary = path.with_name(path.name + ".tmp")
    yield temporary
    os.replace(temporary, path)


def write_json(path, tree):
    with replacing(path) as temporary, open(temporary, "w") as file:
        file.write(json.dumps(without_nan(tree), indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())


def without_nan(tree):
    """NaN and infinities become null, for JSON has neither."""
    if isinstance(tree, dict):
        return {k: without_nan(v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [without_nan(v) for v in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def open_record(plan, mesh, what):
    """Makes the run directory, or goes on in the resumed one, and starts the tracker; returns both."""
    resumed = bool(plan.options.resume)
    run_dir = plan.run_dir
    if not resumed and is_first():
        run_dir = create_run_dir(plan)
    run_dir = shared_folder(run_dir)
    print(f"{what} on {mesh.size} {mesh.devices.flat[0].platform} device(s), record in {run_dir}")
    if resumed:
        check_keys(run_dir)
    if resumed and script_changed(plan, run_dir):
        print(f"note: {plan.script.path.name} has changed since this run began, so it may end differently")
    try:
        return run_dir, make_tracker(plan, run_dir) if is_first() else None
    except UsageError:
        if not resumed:
            shutil.rmtree(run_dir)
        raise


def check_keys(run_dir):
    """Raises UsageError where a run was begun with another kind of PRNG keys than JAX is set to now."""
    now, begun = jax.config.jax_default_prng_impl, json.loads((run_dir / "config.json").read_text()).get("keys")
    if begun not in (None, now):
        raise UsageError(f"--resume {run_dir}: it was begun with JAX_DEFAULT_PRNG_IMPL={begun}, and now it is {now}")


@contextlib.contextmanager
def locked(run_dir):
    """Keeps the run directory for this process, the first one of a run. Raises UsageError if another one has it."""
    with contextlib.ExitStack() as held:
        if is_first():
            try:
                held.enter_context(filelock.FileLock(run_dir / ".lock", timeout=0))
            except filelock.Timeout:
                raise UsageError(f"another process is writing to {run_dir}: wait for its end, or stop it") from None
        yield


def script_changed(plan, run_dir):
    copy = run_dir / plan.script.path.name
    return not copy.exists() or copy.read_bytes() != plan.script.path.read_bytes()


def create_run_dir(plan):
    """Makes the run directory and writes what is known before training. Raises UsageError if it can't.

    It gets its name when all is there, so that every run directory can be resumed.
    """
    config = dataclasses.asdict(plan.config)
    now = time.strftime("%Y%m%d-%H%M%S")
    unique = hashlib.sha256(f"{config}{plan.options}{os.getpid()}{time.time_ns()}".encode()).hexdigest()[:6]
    run_dir = plan.run_dir or Path("runs") / plan.script.name / plan.config.env_id / f"{now}-{unique}"
    unfinished = run_dir.with_name(f"{run_dir.name}-{unique}.tmp")
    try:
        if untrained(run_dir):  # the record of a run that ended at once
            with locked(run_dir):
                run_dir.rename(run_dir.with_name(f"{run_dir.name}-untrained-{unique}"))
        unfinished.mkdir(parents=True)
        for path in (plan.script.path, *map(Path, plan.options.imports)):
            shutil.copyfile(path, unfinished / path.name)
        record = {
            "script": plan.script.name,
            "command": shlex.join(["python", *sys.argv]),
            "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "config": config,
            "options": dataclasses.asdict(plan.options),
            "points": plan.points,
            "versions": {"python": sys.version.split()[0]} | {name: metadata.version(name) for name in installed()},
            "keys": jax.config.jax_default_prng_impl,  # the kind of random numbers: a checkpoint holds keys of it
            "devices": [f"{device.platform} {device.device_kind}" for device in jax.devices()],
        }
        write_json(unfinished / "config.json", record)
        os.rename(unfinished, run_dir)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise UsageError(
            f"can't write the run directory {run_dir} ({error.strerror}): choose another with --run-dir"
        ) from error
    return run_dir


def record_options(run_dir, options):
    """Changes the options in config.json to those that were chosen at the start."""
    if is_first():
        record = json.loads((run_dir / "config.json").read_text())
        write_json(run_dir / "config.json", record | {"options": dataclasses.asdict(options)})


def installed():
    return [name for name in PACKAGES if next(iter(metadata.distributions(name=name)), None)]


def open_metrics(path):
    """The run's metrics.csv, which the first process writes."""
    return MetricsFile(path) if is_first() else NoFile()


class NoFile:
    """What the other processes have in place of it: nothing is written."""

    position = 0

    def go_to(self, position):
        pass

    def append(self, members, first_update, metrics):
        pass

    def sync(self):
        pass

    def close(self):
        pass


class MetricsFile:
    """metrics.csv, tidy: a row per update and member, written chunk by chunk.

    position is where the next chunk goes: a checkpoint keeps it, and what lay behind is cut off when training goes on.
    """

    def __init__(self, path):
        self.file = open(path, "r+b" if path.exists() else "w+b")
        self.position = 0

    def go_to(self, position):
        if self.file.seek(0, os.SEEK_END) < position:
            raise UsageError(
                f"{self.file.name} is shorter than its checkpoint says, so it was changed: start a new run"
            )
        self.position = position

    def append(self, members, first_update, metrics):
        """metrics: {name: (updates, members)}, host arrays. Rows go by update, then member, however chunks fall."""
        num_updates = len(next(iter(metrics.values())))
        columns = {
            "member": np.tile([m.index for m in members], num_updates),
            "seed": np.tile([m.seed for m in members], num_updates),
        }
        for name in members[0].values:
            columns[name] = [m.values[name] for m in members] * num_updates
        columns["update"] = np.repeat(np.arange(first_update, first_update + num_updates), len(members))
        order = ["env_steps", *(name for name in metrics if name != "env_steps")]
        table = pd.DataFrame(columns | {name: metrics[name].reshape(-1) for name in order})
        if self.position:
            table = table[self.header(list(table))]
        text = table.to_csv(index=False, header=self.position == 0, lineterminator="\n", na_rep="nan")
        self.file.seek(self.position)
        self.file.write(text.encode())
        self.file.truncate()
        self.file.flush()
        self.position = self.file.tell()

    def header(self, columns):
        """The file's own columns, which rows must have too. Raises UsageError where an edit has changed the metrics."""
        self.file.seek(0)
        header = self.file.readline().decode().strip().split(",")
        changed = sorted(set(header) ^ set(columns))
        if changed:
            raise UsageError(
                f"the script no longer has the metrics of {self.file.name} (changed: {', '.join(changed)}): start a new"
                " run, or go on with the script that lies beside it"
            )
        return header

    def sync(self):
        """To the disk itself: a checkpoint must not outlive the rows that it counts."""
        os.fsync(self.file.fileno())

    def close(self):
        self.file.close()

"""The run: compile once, then a host loop over chunks of updates, for every script alike."""

import shutil
import time
from shlex import quote
from typing import Any, NamedTuple

import jax
import numpy as np

from runner.loop import hosts
from runner.loop.checkpoint import Checkpoints, from_words, to_words, word_shapes
from runner.loop.devices import Layout, make_mesh, use_compile_cache
from runner.loop.program import MAX_CHUNK, Program, fit_memory, memory_note, program_of, state_bytes
from runner.loop.progress import Progress
from runner.loop.record import locked, open_metrics, open_record
from runner.loop.saved import saved_weights, with_weights
from runner.plan.errors import Interrupted, UsageError, go_on_after, mendable
from runner.plan.members import Batch
from runner.plan.script import PROCESSES

CHECKPOINT_SECONDS = 10.0  # at least, from one checkpoint to the next, where --checkpoint-every does not say
CHECKPOINT_SHARE = 0.05  # and at most this share of the time goes into writing them
CHUNK_SECONDS = 1.0  # how often the host looks: the bar moves, metrics reach the disk, Ctrl-C is heard
NOTABLE_BYTES = 1e9  # of the states of all members trained at once: said before training


class Trained(NamedTuple):
    """A batch at its end. state, floats and seeds lie on the devices, one row per member, padded to fill them."""

    batch: Batch
    program: Program
    layout: Layout
    state: Any
    floats: dict
    seeds: jax.Array
    first_bad: np.ndarray  # (members,), the update after which a parameter was NaN or infinite; 0: none
    compile_seconds: float
    train_seconds: float  # with those before the last checkpoint, where the run was resumed
    env_steps: int  # done in train_seconds, over all members


def run(plan):
    """Trains all batches of a checked plan and has its kind evaluate and report them; returns the exit code."""
    if jax.config.jax_disable_jit:
        raise UsageError("JAX_DISABLE_JIT is set, and the command line runs compiled programs: unset it, or use Python")
    hosts.start(plan, apart=PROCESSES)
    if plan.options.compile_cache:
        use_compile_cache()
    spreads, kind = plan.script.spreads, plan.script.kind
    mesh = make_mesh(None if spreads else max(len(batch.members) for batch in plan.batches))
    weights = saved_weights(plan.options.init_from, plan) if plan.options.init_from else None
    run_dir, tracker = open_record(plan, mesh, f"{len(plan.members)} members")
    steps = sum(batch.config.num_updates * batch.config.steps_per_update * len(batch.members) for batch in plan.batches)
    progress = Progress(steps, tracker)
    less = "try a smaller --max-members-at-once, or where that is 1 already, smaller networks, batches or buffers"
    if plan.options.resume:
        less = "resume on as many devices as before, or more, or with fewer agents in the evaluation"
    try:
        with mendable(run_dir, less, lambda: go_on_after(run_dir)), locked(run_dir):
            if not hosts.any_of((run_dir / "checkpoints").exists()):  # else its batches are cut already
                plan = fit_memory(plan, mesh, run_dir, progress.say)
            metrics_file = open_metrics(run_dir / "metrics.csv")
            results = []
            for batch in plan.batches:
                trained = train_batch(plan, batch, mesh, run_dir, metrics_file, progress, weights)
                results.append((trained._replace(state=None), kind.evaluate(plan, trained)))
                if hosts.any_of(progress.interrupted):
                    raise Interrupted
            metrics_file.close()
            progress.end()  # the report can be stopped at once: --resume writes it again
            found = kind.report(plan, run_dir, mesh, results)
            if tracker is not None and found:
                tracker.summarize(found["points"])
            hosts.finish()
    except Interrupted:
        progress.end()  # the line after the bar's, and not on it
        print(f"stopped; go on with: python {plan.script.path.name} --resume {quote(str(run_dir))}")
        hosts.finish()
        return 130
    except jax.errors.JaxRuntimeError:
        hosts.await_verdict()
        raise
    finally:
        progress.end()
        if tracker is not None:
            tracker.close()
    return 0


def train_batch(plan, batch, mesh, run_dir, metrics_file, progress, weights=None):
    """Trains one batch to its end, or on from its last whole checkpoint; returns it as Trained.

    weights: those of an earlier run that a new one starts from.
    """
    members, num_updates, layout = batch.members, batch.config.num_updates, Layout(mesh, plan.script.spreads)
    steps_per_update = batch.config.steps_per_update
    program = program_of(plan, batch, mesh)
    compile_seconds = progress.compiled(program)
    if compile_seconds and state_bytes(program.like) > NOTABLE_BYTES:
        progress.say(memory_note(program.like, len(members)))
    seeds = layout.place(np.array(batch.seeds(), np.uint32))
    floats = layout.place({name: np.array(values, np.float32) for name, values in batch.floats().items()})

    checkpoints = Checkpoints(run_dir / "checkpoints" / batch.name, len(members))
    loaded = checkpoints.load(word_shapes(program.like))
    for name in loaded.damaged:
        progress.say(f"checkpoint {name} is damaged: skipped for the one before")
    done, first_bad = loaded.update, np.array(loaded.notes.get("first_bad", [0] * len(members)))
    saved_at = time.monotonic()
    start = saved_at - loaded.notes.get("train_seconds", 0.0)
    if loaded.arrays is None:
        if plan.options.resume and batch is plan.batches[0]:
            progress.say("no checkpoint yet: training starts from the beginning")
        state = program.init(seeds, floats)
        state = with_weights(state, weights, batch, plan.options.seed, layout) if weights else state
    else:
        state = from_words(loaded.arrays, program.like)
        metrics_file.go_to(loaded.notes["metrics_bytes"])
    plan.script.kind.started(batch.config, state, progress.say)
    progress.skip(done * steps_per_update * len(members))
    if done < num_updates and hosts.is_first():  # rows of later batches will be overwritten: they are trained again
        for later in plan.batches[plan.batches.index(batch) + 1 :]:
            shutil.rmtree(run_dir / "checkpoints" / later.name, ignore_errors=True)

    def save():
        """Writes a checkpoint; returns when that was done, and how long to wait with the next one."""
        began = time.monotonic()
        metrics_file.sync()
        notes = {"metrics_bytes": metrics_file.position, "first_bad": first_bad.tolist()}
        checkpoints.save(done, to_words(state), notes | {"train_seconds": began - start})
        now = time.monotonic()
        return now, max(CHECKPOINT_SECONDS, (now - began) / CHECKPOINT_SHARE)

    every, apart = plan.options.checkpoint_every, CHECKPOINT_SECONDS
    length, last_saved = 1, None if loaded.arrays is None else done
    while done < num_updates and not hosts.any_of(progress.interrupted):
        chunk_start = time.monotonic()
        length = min(hosts.agree(length), num_updates - done, every - done % every if every else MAX_CHUNK)
        state, buffer = program.chunk(state, floats, np.int32(length))
        metrics = {name: x[: len(members), :length].T for name, x in hosts.on_host(buffer).items()}
        finite = metrics.pop("finite")
        newly_bad = np.flatnonzero((first_bad == 0) & ~finite.all(axis=0))
        first_bad[newly_bad] = done + 1 + (~finite).argmax(axis=0)[newly_bad]
        if "env_steps" not in metrics:  # of an evolution: they pass what 32 bits can count
            steps = np.arange(done + 1, done + length + 1) * steps_per_update
            metrics["env_steps"] = np.repeat(steps[:, None], len(members), axis=1)
        metrics_file.append(members, done + 1, metrics)
        progress.report_nan([(members[i], first_bad[i]) for i in newly_bad])
        text = plan.script.kind.bar_text(metrics)
        progress.advance(length * steps_per_update * len(members), members, done + 1, metrics, text)
        done += length
        seconds = time.monotonic() - chunk_start
        length = max(1, min(MAX_CHUNK, 4 * length, round(length * CHUNK_SECONDS / seconds)))
        due = done % every == 0 if every else hosts.any_of(time.monotonic() - saved_at >= apart)
        if due or done == num_updates:
            last_saved = done
            saved_at, apart = save()
    if done < num_updates:
        if last_saved != done:
            save()
        raise Interrupted
    checkpoints.close()
    train_seconds = time.monotonic() - start
    env_steps = done * steps_per_update * len(members)
    return Trained(batch, program, layout, state, floats, seeds, first_bad, compile_seconds, train_seconds, env_steps)

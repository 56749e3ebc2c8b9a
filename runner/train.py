"""The run: compile once, then a host loop over chunks of updates, then evaluation, table and pictures."""

import contextlib
import dataclasses
import functools
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from runner import report
from runner.checkpoint import Checkpoints, from_host, host_shapes, to_host
from runner.devices import (
    compile_program,
    make_mesh,
    member_shapes,
    over_members,
    padded_count,
    place,
    use_compile_cache,
)
from runner.errors import UsageError
from runner.evaluate import make_evaluate
from runner.record import MetricsFile, create_run_dir
from runner.track import make_tracker

CHUNK_SECONDS = 1.0  # how often the host looks: the bar moves, metrics reach the disk, Ctrl-C is heard
MAX_CHUNK = 256  # updates, the rows of the buffer that a chunk fills on the device
MOST_NAMED = 8  # members with NaN named one by one per chunk
EVALUATION = 2**31 - 1  # folded into a member's key, so that evaluation repeats nothing of training


class Program(NamedTuple):
    """The compiled functions of a batch's shape; leading axis of every array: members, padded to fill the devices."""

    init: Callable  # (seeds, floats) -> state
    chunk: Callable  # (state, floats, number of updates) -> (state, {metric: (members, MAX_CHUNK)})
    evaluate: Callable  # not compiled yet; (state, seeds) -> returns (members, 2 (greedy, sampled), episodes)
    like: Any  # shapes and dtypes of a state
    compile_seconds: float


class Result(NamedTuple):
    """What one batch gives: host arrays, one row per member."""

    returns: np.ndarray  # (members, 2 (greedy, sampled), episodes)
    first_bad: np.ndarray  # (members,), the update after which a parameter was NaN or infinite; 0: none
    compile_seconds: float
    train_seconds: float
    evaluate_seconds: float
    env_steps: int  # done in train_seconds, over all members


class Interrupted(Exception):
    """Ctrl-C or SIGTERM, after a checkpoint was written."""


def run(plan):
    """Trains all batches of a checked plan and writes the record; returns the exit code."""
    if plan.options.compile_cache:
        use_compile_cache()
    mesh = make_mesh(max(len(batch.members) for batch in plan.batches))
    run_dir = plan.run_dir if plan.options.resume else create_run_dir(plan)
    print(f"{len(plan.members)} members on {mesh.size} {mesh.devices.flat[0].platform} device(s), record in {run_dir}")
    if plan.options.resume and (run_dir / plan.script.path.name).read_bytes() != plan.script.path.read_bytes():
        print(f"note: {plan.script.path.name} has changed since this run began, so it may end differently")
    progress = Progress(plan, run_dir)
    try:
        metrics_file = MetricsFile(run_dir / "metrics.csv")
        results = [train_batch(plan, batch, mesh, run_dir, metrics_file, progress) for batch in plan.batches]
        metrics_file.close()
        progress.close()
        report.write(plan, run_dir, results, functools.partial(load_final_state, plan, run_dir, mesh))
    except Interrupted:
        print(f"stopped; go on with: python {plan.script.path.name} --resume {run_dir}")
        return 130
    except OSError as error:
        where = error.filename or run_dir
        again = f"the last good checkpoint is kept, free some space and go on with --resume {run_dir}"
        raise UsageError(f"can't write to {where} ({error.strerror or error}); {again}") from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UsageError(
            f"out of memory with {len(plan.batches[0].members)} members: try a smaller --max-members-at-once"
        ) from error
    finally:
        progress.close()
    return 0


# --- Programs ---------------------------------------------------------------------------------------------------------
@functools.cache  # the batches of one group share a program, but for a shorter last one
def build(script, config, float_names, num_members, mesh, episodes):
    """Compiles init and chunk, and prepares evaluate, for num_members (padded) members of one static config."""
    start = time.monotonic()

    def train(floats, key, **options):
        return script.make_train(dataclasses.replace(config, **floats))(key, **options)

    @jax.jit  # here and below: a traced function is used again where its shapes are asked for, and not traced twice
    def init(seed, floats):
        return train(floats, jax.random.key(seed), num_updates=0)[0]

    def init_all(seeds, floats):
        """One after another on a CPU, where vmapped initialisers would take 4 s longer to compile and save 0.1 s."""
        if mesh.devices.flat[0].platform == "cpu":
            return jax.lax.map(lambda seed_and_floats: init(*seed_and_floats), (seeds, floats))
        return jax.vmap(init)(seeds, floats)

    def update_one(state, floats):
        state, metrics = train(floats, None, state=state, num_updates=1)
        finite = [jnp.isfinite(x).all() for x in jax.tree.leaves(state.params)]
        return state, {name: x[0] for name, x in metrics.items()} | {"finite": jnp.stack(finite).all()}

    update = jax.jit(jax.vmap(update_one))

    def update_and_store(i, loop):
        state, floats, buffer = loop
        state, metrics = update(state, floats)
        return state, floats, jax.tree.map(lambda rows, x: rows.at[:, i].set(x), buffer, metrics)

    def chunk(state, floats, num_updates):
        """num_updates is a traced number: a chunk of any length runs the same program, so gives the same bits."""
        shapes = jax.eval_shape(update, state, floats)[1]
        buffer = jax.tree.map(lambda x: jnp.zeros((*x.shape, MAX_CHUNK), x.dtype), shapes)
        state, _, buffer = jax.lax.fori_loop(0, num_updates, update_and_store, (state, floats, buffer))
        return state, buffer

    def evaluate(state, seeds):
        play = jax.vmap(make_evaluate(script, config, episodes), (None, None, 0))
        keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), EVALUATION))(seeds)
        return jax.vmap(play, (0, 0, None))(state, keys, jnp.array([True, False]))  # greedy, sampled

    one_seed = jax.ShapeDtypeStruct((), jnp.uint32)
    one_floats = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in float_names}
    one_state = jax.eval_shape(init, one_seed, one_floats)
    seeds, floats, like = member_shapes((one_seed, one_floats, one_state), num_members, mesh)
    number = jax.ShapeDtypeStruct((), jnp.int32)
    compiled_init = compile_program(over_members(init_all, mesh), seeds, floats)
    compiled_chunk = compile_program(over_members(chunk, mesh, num_scalars=1, donate_argnums=0), like, floats, number)
    seconds = time.monotonic() - start
    return Program(compiled_init, compiled_chunk, over_members(evaluate, mesh), like, seconds)


# --- The loop ---------------------------------------------------------------------------------------------------------
def train_batch(plan, batch, mesh, run_dir, metrics_file, progress):
    """Trains one batch to its end, or on from its last whole checkpoint, and evaluates it; returns its Result."""
    members, options = batch.members, plan.options
    floats = batch.floats()
    shape = (padded_count(len(members), mesh), mesh, options.eval_episodes)
    program = build(plan.script, batch.config, tuple(floats), *shape)
    progress.compiled(program)
    seeds = place(np.array(batch.seeds(), np.uint32), mesh)
    floats = place({name: np.array(values, np.float32) for name, values in floats.items()}, mesh)

    num_updates = batch.config.num_updates
    checkpoints = Checkpoints(run_dir / "checkpoints" / batch.name)
    loaded = checkpoints.load(host_shapes(program.like, len(members)))
    for name in loaded.damaged:
        progress.say(f"checkpoint {name} is damaged: skipped for the one before")
    steps_per_update = batch.config.total_timesteps * len(members) / num_updates
    progress.skip(loaded.update * steps_per_update)
    done, first_bad = loaded.update, np.array(loaded.notes.get("first_bad", [0] * len(members)))
    if loaded.arrays is None:
        state = program.init(seeds, floats)
    else:
        state = from_host(place(loaded.arrays, mesh), program.like)
        metrics_file.go_to(loaded.notes["metrics_bytes"])

    def save():
        metrics_file.sync()
        notes = {"metrics_bytes": metrics_file.position, "first_bad": first_bad.tolist()}
        checkpoints.save(done, to_host(state, len(members)), notes)

    every = options.checkpoint_every or max(1, num_updates // 10)
    length, train_seconds, last_saved = 1, 0.0, done
    while done < num_updates and not progress.interrupted:
        start = time.monotonic()
        length = min(length, num_updates - done, every - done % every)
        state, buffer = program.chunk(state, floats, np.int32(length))
        metrics = {name: np.asarray(x)[: len(members), :length].T for name, x in buffer.items()}
        newly_bad = (first_bad == 0) & ~metrics["finite"].all(axis=0)
        first_bad[newly_bad] = done + 1 + (~metrics.pop("finite")).argmax(axis=0)[newly_bad]
        for i in np.flatnonzero(newly_bad):
            progress.say(
                f"member {members[i].index} ({members[i].name}) has NaN parameters from update {first_bad[i]} on"
            )
        metrics_file.append(members, done + 1, metrics)
        progress.track(members, done + 1, metrics)
        done += length
        seconds = time.monotonic() - start
        train_seconds += seconds
        progress.advance(length * steps_per_update, metrics["episode_return"][-1])
        length = max(1, min(MAX_CHUNK, 4 * length, round(length * CHUNK_SECONDS / seconds)))
        if done % every == 0 or done == num_updates:
            save()
            last_saved = done
    if progress.interrupted and done < num_updates:
        if last_saved < done or done == 0:
            save()
        raise Interrupted
    checkpoints.close()
    start = time.monotonic()
    evaluate = compile_program(program.evaluate, state, seeds)  # not before: most of a run's time comes first
    returns = np.asarray(evaluate(state, seeds))[: len(members)]
    env_steps = round((done - loaded.update) * steps_per_update)
    return Result(returns, first_bad, program.compile_seconds, train_seconds, time.monotonic() - start, env_steps)


def load_final_state(plan, run_dir, mesh, member):
    """The final state of one member, from its batch's last checkpoint."""
    batch = next(batch for batch in plan.batches if member in batch.members)
    shape = (padded_count(len(batch.members), mesh), mesh, plan.options.eval_episodes)
    like = build(plan.script, batch.config, tuple(batch.floats()), *shape).like
    checkpoints = Checkpoints(run_dir / "checkpoints" / batch.name)
    arrays = checkpoints.load(host_shapes(like, len(batch.members))).arrays
    checkpoints.close()
    return jax.tree.map(lambda x: x[batch.members.index(member)], from_host(jax.tree.map(jnp.asarray, arrays), like))


class Progress:
    """What the user sees while training: a bar in env steps, NaN reports, trackers; and hears Ctrl-C."""

    def __init__(self, plan, run_dir):
        self.total = sum(batch.config.total_timesteps * len(batch.members) for batch in plan.batches)
        self.bar = None
        self.tracker = make_tracker(plan, run_dir)
        self.interrupted = False
        self.programs = set()
        for name in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not in the main thread: a caller has its own way to stop
                signal.signal(name, self.interrupt)

    def interrupt(self, number, frame):
        self.interrupted = True
        signal.signal(number, signal.SIG_DFL)  # a second one stops at once
        self.say("stopping after this chunk; once more to stop at once")

    def compiled(self, program):
        if program.compile_seconds not in self.programs:
            self.programs.add(program.compile_seconds)
            self.say(f"compiled in {program.compile_seconds:.1f} s")
        if self.bar is None:
            self.bar = tqdm(total=self.total, unit=" steps", unit_scale=True, dynamic_ncols=True, mininterval=0)
        self.bar.unpause()  # compiling is not counted as running

    def skip(self, steps):
        """Steps done before this process began."""
        self.bar.initial += steps
        self.bar.n += steps

    def advance(self, steps, returns):
        known = returns[np.isfinite(returns)]
        if len(known):
            self.bar.set_postfix_str(f"median return {np.median(known):.1f}", refresh=False)
        self.bar.update(min(steps, self.total - self.bar.n))
        if self.bar.n >= self.total:
            self.bar.close()  # before evaluation, whose time is not training's

    def track(self, members, first_update, metrics):
        if self.tracker is not None:
            self.tracker.log(members, first_update, metrics)

    def report_nan(self, members_and_updates):
        for member, update in members_and_updates[:MOST_NAMED]:
            self.say(f"member {member.index} ({member.name}) has NaN parameters from update {update} on")
        if len(members_and_updates) > MOST_NAMED:
            self.say(f"and {len(members_and_updates) - MOST_NAMED} more members with NaN parameters, see summary.json")

    def say(self, line):
        tqdm.write(line)

    def close(self):
        if self.bar is not None:
            self.bar.close()
        if self.tracker is not None:
            self.tracker.close()
            self.tracker = None

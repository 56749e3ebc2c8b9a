"""The run: compile once, then a host loop over chunks of updates, then evaluation, table and pictures."""

import dataclasses
import functools
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding

from runner import hosts, report
from runner.checkpoint import Checkpoints, from_words, to_words, word_shapes
from runner.cli import PROCESSES
from runner.devices import (
    MEMBER,
    RUNS_ONCE,
    compile_program,
    host_device,
    make_mesh,
    map_all,
    over_members,
    padded_count,
    place,
    shapes_on,
    use_compile_cache,
    without_cache_chatter,
)
from runner.errors import Interrupted, go_on_after, mendable
from runner.evaluate import make_evaluate
from runner.members import make_batches
from runner.memory import USABLE, bytes_per_device, fitting, free_bytes
from runner.progress import Progress
from runner.record import locked, open_metrics, open_record, record_options
from runner.tuned import tuned_note

CHECKPOINT_SECONDS = 10.0  # at least, from one checkpoint to the next, where --checkpoint-every does not say
CHUNK_SECONDS = 1.0  # how often the host looks: the bar moves, metrics reach the disk, Ctrl-C is heard
NOTABLE_BYTES = 1e9  # of the states of all members trained at once: said before training
MANY_MEMBERS = 8  # per device; fewer than that are simply tried
MAX_CHUNK = 256  # updates, the rows of the buffer that a chunk fills on the device
EVALUATION = 2**31 - 1  # folded into a member's key, so that evaluation repeats nothing of training


class Program(NamedTuple):
    """The compiled functions of a batch's shape; leading axis of every array: members, padded to fill the devices."""

    init: Callable  # (seeds, floats) -> state
    chunk: Callable  # (state, floats, number of updates) -> (state, {metric: (members, MAX_CHUNK)})
    evaluate: Callable  # () -> (state, floats, seeds) -> returns (members, 2 (greedy, sampled), episodes)
    like: Any  # shapes and dtypes of a state
    compile_seconds: float
    bytes_per_device: int  # what chunk takes while it runs


class Result(NamedTuple):
    """What one batch gives: host arrays, one row per member."""

    returns: np.ndarray  # (members, 2 (greedy, sampled), episodes)
    first_bad: np.ndarray  # (members,), the update after which a parameter was NaN or infinite; 0: none
    compile_seconds: float
    train_seconds: float  # with those before the last checkpoint, where the run was resumed
    evaluate_seconds: float
    env_steps: int  # done in train_seconds, over all members


def run(plan):
    """Trains all batches of a checked plan and writes the record; returns the exit code."""
    hosts.start(plan, apart=PROCESSES)
    if plan.options.compile_cache:
        use_compile_cache()
    mesh = make_mesh(max(len(batch.members) for batch in plan.batches))
    run_dir, tracker = open_record(plan, mesh, f"{len(plan.members)} members")
    if plan.options.tuned and not plan.options.resume:
        print(tuned_note(plan.script.name, plan.config))
    steps = sum(batch.config.num_updates * batch.config.steps_per_update * len(batch.members) for batch in plan.batches)
    progress = Progress(steps, tracker)
    less = "try a smaller --max-members-at-once, or where that is 1 already, smaller networks, batches or buffers"
    if plan.options.resume:
        less = "resume on as many devices as before, or more, or with a smaller --eval-episodes"
    try:
        with mendable(run_dir, less, go_on_after(run_dir)), locked(run_dir):
            if not hosts.any_of((run_dir / "checkpoints").exists()):  # else its batches are cut already
                plan = fit_memory(plan, mesh, run_dir, progress.say)
            metrics_file = open_metrics(run_dir / "metrics.csv")
            results = [train_batch(plan, batch, mesh, run_dir, metrics_file, progress) for batch in plan.batches]
            metrics_file.close()
            progress.end()  # the report can be stopped at once: --resume writes it again
            if hosts.is_first():
                report.write(plan, run_dir, results, functools.partial(load_final_state, plan, run_dir, mesh))
            hosts.finish()
    except Interrupted:
        print(f"stopped; go on with: python {plan.script.path.name} --resume {run_dir}")
        hosts.finish()
        return 130
    except jax.errors.JaxRuntimeError:
        hosts.await_verdict()
        raise
    finally:
        progress.end()
    return 0


# --- Programs ---------------------------------------------------------------------------------------------------------
@functools.cache  # the batches of one group share a program, but for a shorter last one
def build(script, config, float_names, num_members, mesh, episodes):
    """Compiles init and chunk, and prepares evaluate, for num_members (padded) members of one static config."""
    start = time.monotonic()

    train_config = script.make_train(config)  # one for init and for chunk: JAX traces its update once

    def train(floats, key, **options):
        train_point = script.make_train(dataclasses.replace(config, **floats)) if floats else train_config
        return train_point(key, **options)

    def init(seed, floats):
        return train(floats, jax.random.key(seed), num_updates=0)[0]

    def init_all(seeds, floats):
        """One by one on a CPU, where vmap would take 3 s longer to compile to save 0.1 s, with a warm-up too."""
        if mesh.devices.flat[0].platform == "cpu":
            return jax.lax.map(lambda seed_and_floats: init(*seed_and_floats), (seeds, floats))
        return jax.vmap(init)(seeds, floats)

    def update_one(state, floats):
        state, metrics = train(floats, None, state=state, num_updates=1)
        finite = jnp.isfinite(ravel_pytree(state.params)[0]).all()
        return state, {name: x[0] for name, x in metrics.items()} | {"finite": finite}

    update = jax.jit(map_all(update_one, num_members // mesh.size))  # jit: where chunk asks for shapes, it is traced

    def update_and_store(i, loop):
        state, floats, buffer = loop
        state, metrics = update(state, floats)
        buffer = {name: jax.lax.dynamic_update_index_in_dim(buffer[name], x, i, axis=1) for name, x in metrics.items()}
        return state, floats, buffer

    def chunk(state, floats, num_updates):
        """num_updates is a traced number: a chunk of any length runs the same program, so gives the same bits."""
        shapes = jax.eval_shape(update, state, floats)[1]
        buffer = jax.tree.map(lambda x: jnp.zeros((*x.shape, MAX_CHUNK), x.dtype), shapes)
        state, _, buffer = jax.lax.fori_loop(0, num_updates, update_and_store, (state, floats, buffer))
        return state, buffer

    def evaluate_one(state, floats, seed):
        play = make_evaluate(script, dataclasses.replace(config, **floats), episodes)
        key = jax.random.fold_in(jax.random.key(seed), EVALUATION)
        return jax.vmap(play, (None, None, 0))(state, key, jnp.array([True, False]))  # greedy, sampled

    members = NamedSharding(mesh, MEMBER)
    seeds = jax.ShapeDtypeStruct((num_members,), jnp.uint32, sharding=members)
    floats = {name: jax.ShapeDtypeStruct((num_members,), jnp.float32, sharding=members) for name in float_names}
    number = jax.ShapeDtypeStruct((), jnp.int32)
    traced_init = over_members(init_all, mesh).trace(seeds, floats)
    like = shapes_on(members, traced_init.out_info)
    once = RUNS_ONCE if mesh.devices.flat[0].platform == "cpu" else None
    lowered_chunk = over_members(chunk, mesh, num_scalars=1, donate_argnums=0).lower(like, floats, number)
    with without_cache_chatter(), ThreadPoolExecutor() as pool:  # chunk takes much longer, and is not done before init
        compiling_chunk = pool.submit(lowered_chunk.compile)
        compiled_init = traced_init.lower().compile(compiler_options=once)
        compiled_chunk = compiling_chunk.result()
    seconds = time.monotonic() - start

    @functools.cache
    def evaluate():
        """Compiled when it is first called for: most of a run's time comes before."""
        return compile_program(over_members(jax.vmap(evaluate_one), mesh), like, floats, seeds)

    return Program(compiled_init, compiled_chunk, evaluate, like, seconds, bytes_per_device(compiled_chunk))


def program_of(plan, batch, mesh):
    size = padded_count(len(batch.members), mesh)
    return build(plan.script, batch.config, tuple(batch.floats()), size, mesh, plan.options.eval_episodes)


def fit_memory(plan, mesh, run_dir, say):
    """The plan, in smaller batches where the memory of all members at once would not do; config.json then says so.

    What a program takes is known when it is compiled, which then need not be done again where everything fits.
    """
    free, count = hosts.least(free_bytes(hosts.on_this_machine())), max(len(batch.members) for batch in plan.batches)
    if plan.options.max_members_at_once or free == np.inf:
        return plan
    at_once = count
    for batch in plan.batches:
        if len(batch.members) < MANY_MEMBERS * mesh.size:
            continue
        needed = program_of(plan, batch, mesh).bytes_per_device
        if needed > USABLE * free:
            size = fitting(len(batch.members), needed, free, mesh.size)
            say(
                f"note: {len(batch.members)} members at once would take {needed * mesh.size / 1e9:.1f} GB of"
                f" {free * mesh.size / 1e9:.1f} GB that are free: as with --max-members-at-once {size}"
            )
            at_once = min(at_once, size)
    at_once = hosts.agree(at_once)
    if at_once == count:
        return plan
    options = dataclasses.replace(plan.options, max_members_at_once=at_once)
    record_options(run_dir, options)
    return plan._replace(options=options, batches=make_batches(plan.members, plan.config, at_once))


def state_bytes(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def memory_note(like, num_members):
    """What the states of a batch take, and which part of them most."""
    parts = {name: state_bytes(part) for name, part in like._asdict().items()}
    largest = max(parts, key=parts.get)
    return (
        f"note: the states of {num_members} members take {state_bytes(like) / 1e9:.1f} GB, of which {largest}"
        f" {parts[largest] / 1e9:.1f} GB, and a checkpoint up to as much; --max-members-at-once trains fewer at once"
    )


# --- The loop ---------------------------------------------------------------------------------------------------------
def train_batch(plan, batch, mesh, run_dir, metrics_file, progress):
    """Trains one batch to its end, or on from its last whole checkpoint, and evaluates it; returns its Result."""
    members, num_updates = batch.members, batch.config.num_updates
    steps_per_update = batch.config.steps_per_update * len(members)
    program = program_of(plan, batch, mesh)
    compile_seconds = progress.compiled(program)
    if compile_seconds and state_bytes(program.like) > NOTABLE_BYTES:
        progress.say(memory_note(program.like, len(members)))
    seeds = place(np.array(batch.seeds(), np.uint32), mesh)
    floats = place({name: np.array(values, np.float32) for name, values in batch.floats().items()}, mesh)

    checkpoints = Checkpoints(run_dir / "checkpoints" / batch.name, len(members))
    loaded = checkpoints.load(word_shapes(program.like))
    for name in loaded.damaged:
        progress.say(f"checkpoint {name} is damaged: skipped for the one before")
    done, first_bad = loaded.update, np.array(loaded.notes.get("first_bad", [0] * len(members)))
    saved_at = time.monotonic()
    start = saved_at - loaded.notes.get("train_seconds", 0.0)
    if loaded.arrays is None:
        state = program.init(seeds, floats)
    else:
        state = from_words(loaded.arrays, program.like)
        metrics_file.go_to(loaded.notes["metrics_bytes"])
    progress.skip(done * steps_per_update)
    if done < num_updates and hosts.is_first():  # rows of later batches will be overwritten: they are trained again
        for later in plan.batches[plan.batches.index(batch) + 1 :]:
            shutil.rmtree(run_dir / "checkpoints" / later.name, ignore_errors=True)

    def save():
        metrics_file.sync()
        notes = {"metrics_bytes": metrics_file.position, "first_bad": first_bad.tolist()}
        checkpoints.save(done, to_words(state), notes | {"train_seconds": time.monotonic() - start})

    every, apart = plan.options.checkpoint_every, 0.0
    if not every:
        every, apart = max(1, num_updates // 10), CHECKPOINT_SECONDS
    length, last_saved = 1, None if loaded.arrays is None else done
    while done < num_updates and not hosts.any_of(progress.interrupted):
        chunk_start = time.monotonic()
        length = min(hosts.agree(length), num_updates - done, every - done % every)
        state, buffer = program.chunk(state, floats, np.int32(length))
        metrics = {name: x[: len(members), :length].T for name, x in hosts.on_host(buffer).items()}
        finite = metrics.pop("finite")
        newly_bad = np.flatnonzero((first_bad == 0) & ~finite.all(axis=0))
        first_bad[newly_bad] = done + 1 + (~finite).argmax(axis=0)[newly_bad]
        metrics_file.append(members, done + 1, metrics)
        progress.report_nan([(members[i], first_bad[i]) for i in newly_bad])
        known = metrics["episode_return"][-1][np.isfinite(metrics["episode_return"][-1])]
        text = f"median return {np.median(known):.1f}" if len(known) else ""
        progress.advance(length * steps_per_update, members, done + 1, metrics, text)
        done += length
        seconds = time.monotonic() - chunk_start
        length = max(1, min(MAX_CHUNK, 4 * length, round(length * CHUNK_SECONDS / seconds)))
        late = done % every == 0 and hosts.any_of(time.monotonic() - saved_at >= apart)
        if late or done == num_updates:
            save()
            last_saved, saved_at = done, time.monotonic()
    if done < num_updates:
        if last_saved != done:
            save()
        raise Interrupted
    checkpoints.close()
    train_seconds = time.monotonic() - start
    start = time.monotonic()
    returns = hosts.on_host(program.evaluate()(state, floats, seeds))[: len(members)]
    if hosts.any_of(progress.interrupted):
        raise Interrupted
    evaluate_seconds = time.monotonic() - start
    return Result(returns, first_bad, compile_seconds, train_seconds, evaluate_seconds, done * steps_per_update)


def load_final_state(plan, run_dir, mesh, member):
    """The final state of one member, from its batch's last checkpoint; for this process alone."""
    batch = next(batch for batch in plan.batches if member in batch.members)
    like = program_of(plan, batch, mesh).like
    checkpoints = Checkpoints(run_dir / "checkpoints" / batch.name, len(batch.members), alone=True)
    on_cpu = jax.sharding.SingleDeviceSharding(host_device())  # the other members stay there
    arrays = checkpoints.load(word_shapes(like, on_cpu)).arrays
    checkpoints.close()
    own = jax.tree.map(lambda x: jnp.asarray(np.asarray(x[batch.members.index(member)])), arrays)
    return from_words(own, like)

"""The compiled functions of a batch, and how many members of it fit into memory."""

import dataclasses
import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from runner.loop import hosts
from runner.loop.devices import RUNS_ONCE, Layout, Spread, shapes_on, without_cache_chatter
from runner.loop.memory import USABLE, bytes_per_device, fitting, free_bytes
from runner.loop.record import record_options
from runner.plan.errors import UsageError
from runner.plan.members import make_batches

MANY_MEMBERS = 8  # per device; fewer than that are simply tried
MAX_CHUNK = 256  # updates, the rows of the buffer that a chunk fills on the device


class Program(NamedTuple):
    """The compiled functions of a batch's shape; leading axis of every array: members, padded to fill the devices."""

    init: Callable  # (seeds, floats) -> state
    chunk: Callable  # (state, floats, number of updates) -> (state, {metric: (members, MAX_CHUNK)})
    like: Any  # shapes and dtypes of a state
    compile_seconds: float
    bytes_per_device: int  # what the larger of the two takes while it runs
    mapped: int  # members that spread themselves: the largest population that is mapped at once


@functools.cache  # the batches of one group share a program, but for a shorter last one
def build(script, config, float_names, size, layout, at_once=0):
    """Compiles init and chunk for size (padded) members of one static config; at_once: of a spread population."""
    start = time.monotonic()
    spread = Spread(layout.mesh, at_once)
    make_train = functools.partial(script.make_train, **({"spread": spread} if script.spreads else {}))
    with without_cache_chatter():  # an evolution's computes its first loss networks
        train_config = make_train(config)  # one for init and for chunk: JAX traces its update once
    once_on_cpu = layout.mesh.devices.flat[0].platform == "cpu" and not script.spreads

    def train(floats, key, **options):
        train_point = make_train(dataclasses.replace(config, **floats)) if floats else train_config
        return train_point(key, **options)

    def init(seed, floats):
        return train(floats, jax.random.key(seed), num_updates=0)[0]

    def init_all(seeds, floats):
        """One by one on a CPU, where vmap would take 3 s longer to compile to save 0.1 s, with a warm-up too."""
        if once_on_cpu:
            return jax.lax.map(lambda seed_and_floats: init(*seed_and_floats), (seeds, floats))
        return layout.each(init, size)(seeds, floats)

    def update_one(state, floats):
        state, metrics = train(floats, None, state=state, num_updates=1)
        for name, x in metrics.items():
            if x.ndim != 1:
                raise UsageError(
                    f"the metric {name} has shape {x.shape[1:]} per update, and must be one number: take its mean, or"
                    " give each part a name"
                )
        finite = jnp.isfinite(ravel_pytree(getattr(state, "params", ()))[0]).all()
        return state, {name: x[0] for name, x in metrics.items()} | {"finite": finite}

    update = jax.jit(layout.each(update_one, size))  # jit: where chunk asks for shapes, it is traced

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

    seeds = jax.ShapeDtypeStruct((size,), jnp.uint32, sharding=layout.sharding)
    floats = {name: jax.ShapeDtypeStruct((size,), jnp.float32, sharding=layout.sharding) for name in float_names}
    number = jax.ShapeDtypeStruct((), jnp.int32)
    traced_init = layout.jit(init_all).trace(seeds, floats)
    like = shapes_on(layout.sharding, traced_init.out_info)
    lowered_chunk = layout.jit(chunk, num_scalars=1, donate_argnums=0).lower(like, floats, number)
    with without_cache_chatter(), ThreadPoolExecutor() as pool:  # chunk takes much longer, and is not done before init
        compiling_chunk = pool.submit(lowered_chunk.compile)
        compiled_init = traced_init.lower().compile(compiler_options=RUNS_ONCE if once_on_cpu else None)
        compiled_chunk = compiling_chunk.result()
    seconds = time.monotonic() - start
    needed = [bytes_per_device(compiled) for compiled in (compiled_chunk, compiled_init)[: 1 + script.spreads]]
    return Program(compiled_init, compiled_chunk, like, seconds, max(needed), spread.largest)


def program_of(plan, batch, mesh):
    layout = Layout(mesh, plan.script.spreads)
    at_once = plan.options.max_members_at_once if plan.script.spreads else 0
    return build(plan.script, batch.config, tuple(batch.floats()), layout.size(len(batch.members)), layout, at_once)


def fit_memory(plan, mesh, run_dir, say):
    """The plan, with fewer members at once where the memory of all would not do; config.json then says so.

    Members of an evolution follow one another: there it is the agents of its population that are trained in batches.
    What a program takes is known when it is compiled, which then need not be done again where everything fits.
    """
    free, spreads = hosts.least(free_bytes(hosts.on_this_machine())), plan.script.spreads
    if plan.options.max_members_at_once or free == np.inf:
        return plan
    at_once = all_at_once = 2**31 - 1
    for batch in plan.batches:
        if len(batch.members) < MANY_MEMBERS * mesh.size and not spreads:
            continue
        program = program_of(plan, batch, mesh)
        needed, count = program.bytes_per_device, program.mapped if spreads else len(batch.members)
        if needed > USABLE * free and count > mesh.size:
            size = fitting(count, needed, free, mesh.size)
            say(
                f"note: {count} {'agents' if spreads else 'members'} at once would take {needed * mesh.size / 1e9:.1f}"
                f" GB of {free * mesh.size / 1e9:.1f} GB that are free: as with --max-members-at-once {size}"
            )
            at_once = min(at_once, size)
    at_once = hosts.agree(at_once)
    if at_once == all_at_once:
        return plan
    options = dataclasses.replace(plan.options, max_members_at_once=at_once)
    record_options(run_dir, options)
    cut = plan.batches if spreads else make_batches(plan.script, plan.config, plan.members, at_once)
    return plan._replace(options=options, batches=cut)


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

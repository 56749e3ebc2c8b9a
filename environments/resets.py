"""Resets only where episodes end, also under vmap, where a loop or a condition would compute them for all."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

SHARE = 16  # of this many environments one is reset at a time


def new_where(reset, done, key, last, params):
    """`last` where an episode goes on, and reset(key', params) where it is done, key' from key. No gradients pass.

    Under any number of vmaps, all environments form one row. Those that are done are reset a few at a time, until none
    is left: mostly in one round, and in none where no episode ended. Each has its own key and the episode that it would
    have had alone.

    Args: reset(key, params) -> a pytree like last; done: (), bool; key: (); params: a pytree.
    Returns: a pytree like last.
    """

    @custom_vmap
    def one(done, key, last, params):
        begin = functools.partial(begin_one, reset, params)
        return jax.lax.while_loop(lambda loop: loop[0], begin, (done, key, last))[2]

    @one.def_vmap
    def row(count, batched, *args):
        args = in_all(count, batched, args)
        if count == 1:  # XLA knows what one of one is, and would compute its reset before the loop, in every step
            out = jax.tree.map(lambda x: x[None], one(*jax.tree.map(lambda x: x[0], args)))
        else:
            out = many(*args)
        return out, jax.tree.map(lambda x: True, out)

    @custom_vmap
    def many(done, key, last, params):
        """All arguments and the result have a leading axis of N environments."""
        begin = functools.partial(begin_some, reset, key, params)
        return jax.lax.while_loop(lambda loop: loop[0].any(), begin, (done, last))[1]

    @many.def_vmap
    def rows(count, batched, *args):
        args = in_all(count, batched, args)
        flat = many(*jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), args))
        out = jax.tree.map(lambda x: x.reshape(*args[0].shape, *x.shape[1:]), flat)
        return out, jax.tree.map(lambda x: True, out)

    return one(done, key, last, params)


def begin_one(reset, params, loop):
    # The key changes in the loop, or else XLA would compute the reset once and for all before it
    key, reset_key = jax.random.split(loop[1])
    return jnp.bool_(False), key, reset(reset_key, params)


def begin_some(reset, key, params, loop):
    """A round: resets the first N / SHARE of those environments that are left."""
    left, last = loop
    count = len(left)
    (chosen,) = jnp.nonzero(left, size=-(-count // SHARE), fill_value=count)  # count: none, where fewer are left
    reset_key = jax.vmap(jax.random.split)(key[chosen])[:, 1]
    new = jax.vmap(reset)(reset_key, jax.tree.map(lambda x: x[chosen], params))
    last = jax.tree.map(lambda x, y: x.at[chosen].set(y, mode="drop"), last, new)
    return left.at[chosen].set(False, mode="drop"), last


def in_all(count, batched, args):
    """The arguments with a leading axis of count also where vmap does not vary them."""
    return jax.tree.map(lambda x, has: x if has else jnp.broadcast_to(x, (count, *jnp.shape(x))), args, tuple(batched))


def with_whole_episodes(env_params):
    """env_params without `stagger`, which cuts first episodes short: for who plays first episodes only."""
    return dataclasses.replace(env_params, stagger=False) if hasattr(env_params, "stagger") else env_params

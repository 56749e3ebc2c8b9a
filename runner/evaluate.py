"""Evaluation of final policies: whole episodes, greedy and sampled, jitted."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

MAX_STEPS = 10_000  # for environments that name no time limit of their own
LONGEST = 100_000  # for those that name one that nobody could wait for: within the loop Ctrl-C is not heard


class Loop(NamedTuple):
    """What one step of all episodes hands to the next."""

    time: jax.Array
    key: jax.Array
    env_state: Any
    obs: jax.Array
    carry: Any  # the policy's memory
    done: jax.Array  # (episodes,), whether each environment's first episode has ended
    returns: jax.Array  # (episodes,), NaN until then


def make_evaluate(script, config, episodes):
    """Returns evaluate(state, key, greedy) -> returns (episodes,), of one member's policy, statistics frozen."""
    env, env_params = script.make_env(config.env_id, config.env_params)
    init_carry, act = script.make_policy(config)
    limit = min(getattr(env_params, "max_steps_in_episode", MAX_STEPS), LONGEST)

    def unfinished(loop):
        return (loop.time <= limit) & ~loop.done.all()

    def step(state, greedy, loop):
        key, action_key, env_key = jax.random.split(loop.key, 3)
        carry, action = act(state, loop.carry, loop.obs, action_key, greedy)
        obs, env_state, _, terminated, truncated, info = jax.vmap(env.step, (0, 0, 0, None))(
            jax.random.split(env_key, episodes), loop.env_state, action, env_params
        )
        ends = (terminated | truncated) & ~loop.done
        returns = jnp.where(ends, info["returned_episode_returns"], loop.returns)
        return Loop(loop.time + 1, key, env_state, obs, carry, loop.done | ends, returns)

    def evaluate(state, key, greedy):
        key, reset_key = jax.random.split(key)
        obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(reset_key, episodes), env_params)
        done, returns = jnp.zeros(episodes, bool), jnp.full(episodes, jnp.nan)
        start = Loop(jnp.int32(0), key, env_state, obs, init_carry(episodes), done, returns)
        return jax.lax.while_loop(unfinished, functools.partial(step, state, greedy), start).returns

    return evaluate

"""Evaluation of final policies: whole episodes, greedy and sampled, jitted."""

import jax
import jax.numpy as jnp

MAX_STEPS = 10_000  # for environments that name no time limit of their own


def make_evaluate(script, config, episodes):
    """Returns evaluate(state, key, greedy) -> returns (episodes,), of one member's policy, statistics frozen."""
    env, env_params = script.make_env(config.env_id)
    init_carry, act = script.make_policy(config)
    limit = getattr(env_params, "max_steps_in_episode", MAX_STEPS)

    def unfinished(loop):
        time, done = loop[0], loop[1]
        return (time < limit) & ~done.all()

    def evaluate(state, key, greedy):
        reset_key, key = jax.random.split(key)
        obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(reset_key, episodes), env_params)

        def step(loop):
            time, done, returns, carry, obs, env_state = loop
            action_key, env_key = jax.random.split(jax.random.fold_in(key, time))
            carry, action = act(state, carry, obs, action_key, greedy)
            obs, env_state, _, terminated, truncated, info = jax.vmap(env.step, (0, 0, 0, None))(
                jax.random.split(env_key, episodes), env_state, action, env_params
            )
            ends = (terminated | truncated) & ~done  # each environment's first episode only
            returns = jnp.where(ends, info["returned_episode_returns"], returns)
            return time + 1, done | ends, returns, carry, obs, env_state

        done, returns = jnp.zeros(episodes, bool), jnp.full(episodes, jnp.nan)
        start = (jnp.int32(0), done, returns, init_carry(episodes), obs, env_state)
        return jax.lax.while_loop(unfinished, step, start)[2]

    return evaluate

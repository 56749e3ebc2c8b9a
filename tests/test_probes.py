"""Probe environments with known answers: what half-learning can't pass."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import probes  # noqa: F401 - registers the environments
import pytest

import ppo

CONFIG = ppo.Config(
    total_timesteps=40_000, num_envs=8, num_steps=25, num_minibatches=2, lr=3e-3, gamma=0.9, ent_coef=0.0,
    hidden_size=16, clip_value=False, max_grad_norm=10.0,
)  # fmt: skip


def trained(env_id, seeds=3, **changes):
    config = replace(CONFIG, env_id=env_id, **changes)
    states, _ = jax.jit(jax.vmap(ppo.make_train(config)))(jax.vmap(jax.random.key)(jnp.arange(seeds)))
    return config, states


def values(config, states, obs):
    """V of each observation (n, 1), for each seed: (seeds, n)."""
    network = ppo.make_network(config)
    return jax.vmap(lambda params: network.apply(params, obs)[1])(states.params)


def test_a_time_limit_is_not_death():
    """Reward 1 for ever, gamma 0.9: 10. Treating the limit after 5 steps as an end would give at most 4.1."""
    found = values(*trained("TimeLimit-probe", total_timesteps=80_000), jnp.ones((1, 1)))
    np.testing.assert_allclose(found, 10.0, atol=0.5)


def test_termination_is_death():
    """Constant observation: V is the mean over t = 0..4 of sum_{i<5-t} 0.9^i."""
    finite = [sum(0.9**i for i in range(5 - t)) for t in range(5)]
    found = values(*trained("Terminating-probe"), jnp.ones((1, 1)))
    # Predicting TD(lambda) returns that bootstrap from its own mean, a critic that can't see time lands near the mean
    np.testing.assert_allclose(found, np.mean(finite), atol=0.35)


def test_values_of_each_step_before_termination():
    finite = [sum(0.9**i for i in range(5 - t)) for t in range(5)]
    found = values(*trained("SeesTime-probe", total_timesteps=80_000), jnp.arange(5.0)[:, None] / 5)
    np.testing.assert_allclose(found, np.tile(finite, (3, 1)), atol=0.2)


def test_value_depends_on_the_observation():
    found = values(*trained("SeesCue-probe"), jnp.array([[-1.0], [1.0]]))
    np.testing.assert_allclose(found, [[-1.0, 1.0]] * 3, atol=0.1)


@pytest.mark.parametrize("normalize", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_discrete_policy_depends_on_the_observation(normalize):
    config, states = trained("MatchCue-probe", normalize_obs=normalize, scale_reward=normalize)
    _, act = ppo.make_policy(config)
    obs = jnp.tile(jnp.array([[-1.0], [1.0]]), (100, 1))
    actions = jax.vmap(lambda state: act(state, (), obs, jax.random.key(0), False)[1])(states)
    np.testing.assert_array_equal(actions, np.tile([0, 1], (3, 100)))


def test_gaussian_policy_finds_the_target():
    config, states = trained("Target-probe", total_timesteps=80_000)
    _, act = ppo.make_policy(config)
    _, action = jax.vmap(lambda state: act(state, (), jnp.ones((1, 1)), jax.random.key(0), True))(states)
    np.testing.assert_allclose(action[:, 0, 0], 0.5, atol=0.1)
    assert (states.params["params"]["log_std"] < -0.5).all()  # and grows sure of it


def test_actions_are_clipped_at_the_environment_and_nowhere_else():
    config, states = trained("FarTarget-probe")
    _, act = ppo.make_policy(config)
    _, action = jax.vmap(lambda state: act(state, (), jnp.ones((1, 1)), jax.random.key(0), True))(states)
    assert (action > 1.0).all()  # the policy itself goes past the bound,
    assert (states.episode_return <= 1.0).all() and (
        states.episode_return > 0.95
    ).all()  # the environment never sees it

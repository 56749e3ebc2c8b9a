"""What is PPO's own in training: on-policy at first, annealing, clipping, statistics."""

import dataclasses
from dataclasses import replace

import jax
import numpy as np
import optax
import pytest

import ppo

SMALL = ppo.Config(total_timesteps=2048, num_envs=4, num_steps=32, hidden_size=8)
CONTINUOUS = replace(SMALL, env_id="Pendulum-v1", normalize_obs=True, scale_reward=True)


def test_defaults_are_cleanrls():
    config = ppo.Config()
    assert dataclasses.asdict(config) | {
        "env_id": "CartPole-v1", "total_timesteps": 500_000, "num_envs": 4, "num_steps": 128, "num_minibatches": 4,
        "update_epochs": 4, "lr": 2.5e-4, "anneal_lr": True, "gamma": 0.99, "gae_lambda": 0.95, "clip_eps": 0.2,
        "ent_coef": 0.01, "vf_coef": 0.5, "max_grad_norm": 0.5, "activation": "tanh", "hidden_size": 64,
    } == dataclasses.asdict(config)  # fmt: skip


def test_memory_of_metrics_does_not_grow_with_steps_or_envs():
    def size(config):
        _, metrics = jax.eval_shape(ppo.make_train(config), jax.random.key(0))
        return sum(x.size * x.dtype.itemsize for x in metrics.values())

    few = ppo.Config(num_envs=4, num_steps=32, total_timesteps=4 * 32 * 10)
    many = ppo.Config(num_envs=64, num_steps=256, total_timesteps=64 * 256 * 10)
    assert size(few) == size(many)


def test_first_minibatch_is_on_policy_and_metrics_are_right_at_lr_zero():
    """With lr 0 nothing moves: ratio 1 throughout, so KL, clip fraction and (normalised) policy loss are 0."""
    config = replace(SMALL, lr=0.0, num_steps=64)
    _, metrics = jax.jit(ppo.make_train(config))(jax.random.key(0))
    np.testing.assert_allclose(metrics["approx_kl"], 0, atol=1e-6)
    np.testing.assert_array_equal(metrics["clip_fraction"], 0)
    np.testing.assert_allclose(metrics["policy_loss"], 0, atol=1e-5)
    np.testing.assert_array_equal(metrics["env_steps"], np.arange(1, config.num_updates + 1) * 256)
    np.testing.assert_allclose(metrics["entropy"], np.log(2), atol=1e-3)  # the first policy is near uniform
    assert (metrics["episode_length"] == metrics["episode_return"]).all()  # CartPole pays 1 per step
    assert 10 < np.mean(metrics["episode_return"]) < 40  # a random policy lasts about 22 steps


def test_learning_rate_falls_linearly_to_zero():
    """Adam's steps are about lr long, so the distance moved by the last update shows the annealing."""
    train = ppo.make_train(replace(SMALL, total_timesteps=128 * 10, max_grad_norm=1e9))
    step = jax.jit(lambda state: train(None, state=state, num_updates=1)[0])
    state = jax.jit(lambda key: train(key, num_updates=0)[0])(jax.random.key(0))
    leaves = lambda state: jax.tree.leaves(state.params)  # noqa: E731
    moved = []
    for _ in range(10):
        new = step(state)
        moved.append(np.mean([np.abs(x - y).mean() for x, y in zip(leaves(state), leaves(new), strict=True)]))
        state = new
    assert moved[-1] < 0.25 * moved[0]  # the last update's factor is 0.1
    assert moved[5] < 0.8 * moved[0]


def test_gradients_are_clipped_by_global_norm():
    """One plain-SGD-like first Adam step is blind to scale, so look at Adam's first moment: 0.1 * clipped gradient."""
    config = replace(SMALL, num_minibatches=1, update_epochs=1, max_grad_norm=1e-3)
    state, metrics = jax.jit(lambda key: ppo.make_train(config)(key, num_updates=1))(jax.random.key(0))
    norm = optax.tree.norm(state.opt_state[1][0].mu)
    assert metrics["grad_norm"][0] > 1e-2  # reported before clipping
    assert norm == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_the_state_holds_the_statistics():
    state, _ = jax.jit(ppo.make_train(CONTINUOUS))(jax.random.key(0))
    assert state.obs_stats.count == pytest.approx(2048, rel=1e-3)
    assert state.return_stats.count == pytest.approx(2048, rel=1e-3)
    assert (state.obs_stats.mean != 0).all() and state.return_stats.var != 1

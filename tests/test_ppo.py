"""The contract of make_train, make_policy and Config, on ppo.py."""

import dataclasses
from dataclasses import replace

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

import ppo

SMALL = ppo.Config(total_timesteps=2048, num_envs=4, num_steps=32, hidden_size=8)
CONTINUOUS = replace(SMALL, env_id="Pendulum-v1", normalize_obs=True, scale_reward=True)
FLOATS = [field.name for field in dataclasses.fields(ppo.Config) if field.type is float]
OTHER_FLOATS = dict(
    lr=1e-3, gamma=0.9, gae_lambda=0.8, clip_eps=0.05, ent_coef=0.1, vf_coef=1.5, max_grad_norm=0.05
)  # fmt: skip
OTHER_STATICS = dict(
    env_id="Acrobot-v1", total_timesteps=4096, num_envs=8, num_steps=64, num_minibatches=2, update_epochs=2,
    anneal_lr=False, clip_value=False, activation="relu", hidden_size=16, normalize_obs=True, scale_reward=True,
)  # fmt: skip


def raw(tree):
    """Arrays that numpy can compare: PRNG keys as their words."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in jax.tree.leaves(tree)]


def assert_same_bits(a, b):
    for x, y in zip(raw(a), raw(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def traced():
    """Three updates with every float field traced, jitted once: (key, {field: value}) -> (state, metrics)."""
    return jax.jit(lambda key, floats: ppo.make_train(replace(SMALL, **floats))(key, num_updates=3))


def floats_of(config):
    return {name: jnp.float32(getattr(config, name)) for name in FLOATS}


# --- Config -----------------------------------------------------------------------------------------------------------
def test_the_tables_above_name_every_field():
    assert set(OTHER_FLOATS) == set(FLOATS)
    assert set(OTHER_FLOATS) | set(OTHER_STATICS) == {field.name for field in dataclasses.fields(ppo.Config)}


def test_every_float_traced_equals_static(traced):
    config = replace(SMALL, **OTHER_FLOATS)
    static = jax.jit(lambda key: ppo.make_train(config)(key, num_updates=3))(jax.random.key(1))
    for x, y in zip(raw(static), raw(traced(jax.random.key(1), floats_of(config))), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", FLOATS)
def test_each_float_alone_can_be_vmapped_and_changes_the_result(name, traced):
    values = jnp.array([getattr(SMALL, name), OTHER_FLOATS[name]], jnp.float32)
    jax.eval_shape(  # this field alone traced, the others static: what vmap over one hyperparameter does
        jax.vmap(lambda value: ppo.make_train(replace(SMALL, **{name: value}))(jax.random.key(0))), values
    )
    before = traced(jax.random.key(0), floats_of(SMALL))[0].params
    after = traced(jax.random.key(0), floats_of(replace(SMALL, **{name: OTHER_FLOATS[name]})))[0].params
    assert any((x != y).any() for x, y in zip(raw(before), raw(after), strict=True))


@pytest.mark.parametrize("name", OTHER_STATICS)
def test_each_static_field_changes_the_program(name):
    def program(config):
        return str(jax.make_jaxpr(lambda key: ppo.make_train(config)(key, num_updates=1))(jax.random.key(0)))

    assert program(SMALL) == program(SMALL)
    assert program(SMALL) != program(replace(SMALL, **{name: OTHER_STATICS[name]}))


def test_defaults_are_cleanrls():
    config = ppo.Config()
    assert dataclasses.asdict(config) | {
        "env_id": "CartPole-v1", "total_timesteps": 500_000, "num_envs": 4, "num_steps": 128, "num_minibatches": 4,
        "update_epochs": 4, "lr": 2.5e-4, "anneal_lr": True, "gamma": 0.99, "gae_lambda": 0.95, "clip_eps": 0.2,
        "ent_coef": 0.01, "vf_coef": 0.5, "max_grad_norm": 0.5, "activation": "tanh", "hidden_size": 64,
    } == dataclasses.asdict(config)  # fmt: skip


# --- make_train -------------------------------------------------------------------------------------------------------
def test_vmap_over_seeds_equals_one_by_one_and_seeds_differ():
    train = ppo.make_train(SMALL)
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    states, metrics = jax.jit(jax.vmap(lambda key: train(key, num_updates=4)))(keys)
    single = jax.jit(lambda key: train(key, num_updates=4))
    one, one_metrics = single(keys[1])
    assert_same_bits((one, one_metrics), single(keys[1]))
    for x, y in zip(raw((states, metrics)), raw((one, one_metrics)), strict=True):
        np.testing.assert_allclose(x[1], y, rtol=1e-3, atol=1e-4)
    for leaf in (*jax.tree.leaves(states.params), states.obs, metrics["entropy"], metrics["value_loss"]):
        if leaf.ndim > 2 or leaf is states.obs:  # biases start equal
            assert (leaf[0] != leaf[1]).any() and (leaf[1] != leaf[2]).any() and (leaf[0] != leaf[2]).any()


@pytest.mark.parametrize("config", [SMALL, CONTINUOUS], ids=["discrete", "continuous"])
def test_ten_and_ten_updates_equal_twenty(config):
    train = ppo.make_train(replace(config, total_timesteps=20 * 128))
    whole, whole_metrics = jax.jit(train)(jax.random.key(0))
    go_on = jax.jit(lambda state: train(None, state=state, num_updates=10))
    first, first_metrics = go_on(jax.jit(lambda key: train(key, num_updates=0))(jax.random.key(0))[0])
    second, second_metrics = go_on(first)
    assert_same_bits(whole, second)
    for name, values in whole_metrics.items():
        assert_same_bits(values, jnp.concatenate([first_metrics[name], second_metrics[name]]))


def test_nests_in_another_jitted_program():
    """What meta-evolution does: a gradient-free outer loop, in one program, over a loss with a traced parameter."""

    def fitness(scale, key):
        def loss_fn(distribution, value, batch, config):
            def value_objective(value, target, old_value, config):
                return scale * jnp.square(value - target)

            return ppo.ppo_loss(distribution, value, batch, config, value_objective=value_objective)

        return ppo.make_train(SMALL, loss_fn)(key, num_updates=3)[1]["value_loss"].mean()

    outer = jax.jit(
        lambda keys: jax.lax.map(lambda key: jax.vmap(fitness, (0, None))(jnp.array([0.1, 1.0]), key), keys)
    )
    values = outer(jax.random.split(jax.random.key(0), 2))
    assert values.shape == (2, 2) and np.isfinite(values).all()
    assert (values[:, 0] < values[:, 1]).all()


def test_an_environment_first_made_inside_a_jit_can_be_used_again():
    """MinAtar's constants must not be tracers of the program that happened to make the environment first."""
    ppo.make_env.cache_clear()
    config = replace(SMALL, env_id="CartPole-v1")

    def train(lr, env_id):
        return ppo.make_train(replace(config, lr=lr, env_id=env_id))(jax.random.key(0), num_updates=1)

    for env_id in ("Asterix-MinAtar", "FourRooms-misc", "DeepSea-bsuite"):
        jax.make_jaxpr(lambda lr, env_id=env_id: train(lr, env_id))(1e-3)
        jax.make_jaxpr(lambda lr, env_id=env_id: train(lr, env_id))(1e-3)


def test_metrics_are_named_flat_and_per_update():
    _, metrics = jax.eval_shape(ppo.make_train(SMALL), jax.random.key(0))
    assert set(metrics) == {
        "episode_return", "episode_length", "env_steps", "policy_loss", "value_loss", "entropy", "approx_kl",
        "clip_fraction", "explained_variance", "value_mean", "grad_norm",
    }  # fmt: skip
    assert {x.shape for x in metrics.values()} == {(SMALL.num_updates,)}


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


def test_episode_return_is_nan_until_an_episode_ends_and_then_the_last_known():
    config = replace(CONTINUOUS, total_timesteps=128 * 12)  # Pendulum lasts 200 steps: 6.25 updates of 32 steps
    _, metrics = jax.jit(ppo.make_train(config))(jax.random.key(0))
    returns = np.asarray(metrics["episode_return"])
    assert np.isnan(returns[:6]).all() and np.isfinite(returns[6:]).all()
    assert (returns[6:] == returns[6]).all() and returns[6] < -100
    assert (np.asarray(metrics["episode_length"])[6:] == 200).all()


@pytest.mark.parametrize("config", [SMALL, CONTINUOUS], ids=["discrete", "continuous"])
def test_every_parameter_is_trained(config):
    train = ppo.make_train(replace(config, anneal_lr=False))
    before = jax.jit(lambda key: train(key, num_updates=0))(jax.random.key(0))[0].params
    after = jax.jit(lambda key: train(key, num_updates=8))(jax.random.key(0))[0].params
    for path, x in jax.tree_util.tree_leaves_with_path(before):
        y = dict(jax.tree_util.tree_leaves_with_path(after))[path]
        assert (x != y).all(), f"{jax.tree_util.keystr(path)}: {int((x == y).sum())} weights never moved"


def test_learning_rate_falls_linearly_to_zero():
    """Adam's steps are about lr long, so the distance moved by the last update shows the annealing."""
    train = ppo.make_train(replace(SMALL, total_timesteps=128 * 10, max_grad_norm=1e9))
    step = jax.jit(lambda state: train(None, state=state, num_updates=1)[0])
    state = jax.jit(lambda key: train(key, num_updates=0)[0])(jax.random.key(0))
    moved = []
    for _ in range(10):
        new = step(state)
        moved.append(np.mean([np.abs(x - y).mean() for x, y in zip(raw(state.params), raw(new.params), strict=True)]))
        state = new
    assert moved[-1] < 0.25 * moved[0]  # the last update's factor is 0.1
    assert moved[5] < 0.8 * moved[0]


def test_gradients_are_clipped_by_global_norm():
    """One plain-SGD-like first Adam step is blind to scale, so look at Adam's first moment: 0.1 * clipped gradient."""
    config = replace(SMALL, num_minibatches=1, update_epochs=1, max_grad_norm=1e-3)
    state, metrics = jax.jit(lambda key: ppo.make_train(config)(key, num_updates=1))(jax.random.key(0))
    mu = state.opt_state[1][0].mu
    norm = np.sqrt(sum((x**2).sum() for x in raw(mu)))
    assert metrics["grad_norm"][0] > 1e-2  # reported before clipping
    assert norm == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_the_config_is_not_changed_and_state_holds_the_statistics():
    config = replace(CONTINUOUS)
    state, _ = jax.jit(ppo.make_train(config))(jax.random.key(0))
    assert config == CONTINUOUS
    assert state.obs_stats.count == pytest.approx(2048, rel=1e-3)
    assert state.return_stats.count == pytest.approx(2048, rel=1e-3)
    assert (state.obs_stats.mean != 0).all() and state.return_stats.var != 1


# --- make_policy ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("config", [SMALL, CONTINUOUS], ids=["discrete", "continuous"])
def test_policy_greedy_sampled_and_normalised(config):
    state, _ = jax.jit(ppo.make_train(config))(jax.random.key(0))
    init_carry, act = ppo.make_policy(config)
    obs = jnp.broadcast_to(state.obs[0], (500, *state.obs.shape[1:]))
    act = jax.jit(act)  # greedy is traced here: evaluation runs both in one program
    _, greedy = act(state, init_carry(500), obs, jax.random.key(1), True)
    _, sampled = act(state, init_carry(500), obs, jax.random.key(1), False)
    assert (greedy == greedy[0]).all() and len(np.unique(sampled)) > 1
    if config.normalize_obs:
        shifted = state._replace(obs_stats=state.obs_stats._replace(mean=state.obs_stats.mean + 5.0))
        assert (act(shifted, init_carry(500), obs, jax.random.key(1), True)[1] != greedy).any()


# --- Environments -----------------------------------------------------------------------------------------------------
PLAYABLE = [
    e for e in gymnax.registered_envs if e not in ("FrozenLake-misc", "MNISTBandit-bsuite") and "probe" not in e
]


@pytest.mark.parametrize("env_id", PLAYABLE)
def test_every_box_environment_can_be_trained_on(env_id):
    """Traced, not compiled: shapes, dtypes and the choice of a head; the next test runs the awkward ones."""
    config = replace(SMALL, env_id=env_id)
    state, _ = jax.eval_shape(ppo.make_train(config), jax.random.key(0))
    env, env_params = gymnax.make(env_id)
    assert state.obs.shape == (4, np.prod(env.observation_space(env_params).shape))
    continuous = isinstance(env.action_space(env_params), spaces.Box)
    assert ("log_std" in state.params["params"]) == continuous


@pytest.mark.parametrize("env_id", ["FourRooms-misc", "UmbrellaChain-bsuite", "Reacher-misc", "Breakout-MinAtar"])
def test_awkward_environments_run(env_id):
    """int32 observations, int32 rewards, two action dimensions, three-dimensional observations."""
    state, metrics = jax.jit(ppo.make_train(replace(SMALL, env_id=env_id, total_timesteps=128 * 4)))(jax.random.key(0))
    assert all(np.isfinite(x).all() for x in raw(state.params))
    assert np.isfinite(metrics["value_loss"]).all()

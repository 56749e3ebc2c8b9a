"""The contract of Config, make_train and make_policy, the same for every script."""

import dataclasses
import functools
from dataclasses import replace
from typing import Any, NamedTuple

import distrax
import flax.linen as nn
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import QUICKEST
from gymnax.environments import spaces

import apg
import dqn
import environments  # noqa: F401 - registers one more
import evolve_policy
import meta_evolve_loss as meta
import ppo
import ppo_rnn
import pqn
from environments.lanes import whole_games

COMMON = {"episode_return", "episode_length", "episode_count", "env_steps", "grad_norm"}
PPO_METRICS = COMMON | {
    "policy_loss", "value_loss", "value_mean", "entropy", "approx_kl", "clip_fraction", "explained_variance",
}  # fmt: skip
PPO_FLOATS = dict(lr=3e-4, gamma=0.9, gae_lambda=0.8, clip_eps=0.05, ent_coef=0.1, vf_coef=1.5, max_grad_norm=0.05)
PPO_FLOATS |= dict(action_std=0.5)
PPO_STATICS = dict(
    env_id="Acrobot-v1", env_params="max_steps_in_episode=50", total_timesteps=4096, num_envs=8, num_steps=64,
    num_minibatches=2, update_epochs=2, anneal_lr=False, clip_value=False, activation="relu", hidden_size=16,
    normalize_obs=True, scale_reward=True, squash_actions=True,
)  # fmt: skip
IMAGES, CONTINUOUS_ACTIONS = {"env_id": "Breakout-MinAtar"}, {"env_id": "Pendulum-v1"}
NEEDS = {  # of fields that matter in some environments only
    "network": IMAGES, "kernel_size": IMAGES | {"network": "cnn"},
    "action_std": CONTINUOUS_ACTIONS, "squash_actions": CONTINUOUS_ACTIONS,
}  # fmt: skip


class Case(NamedTuple):
    """A script with a small config, another value of every field, and the names of its metrics."""

    script: Any
    config: Any
    floats: dict
    statics: dict
    metrics: set

    def train(self, loss_fn=None, **changes):
        config = replace(self.config, **changes)
        return self.script.make_train(config, *([loss_fn] if loss_fn else []))


CASES = {
    "ppo": Case(
        ppo,
        ppo.Config(total_timesteps=2048, num_envs=4, num_steps=32, hidden_size=8),
        PPO_FLOATS,
        PPO_STATICS | dict(network="cnn"),
        PPO_METRICS,
    ),
    "ppo_rnn": Case(
        ppo_rnn,
        ppo_rnn.Config("CartPole-v1", total_timesteps=2048, num_envs=4, num_steps=32, embedding_size=8, hidden_size=8),
        PPO_FLOATS,
        PPO_STATICS | dict(cell="lstm", embedding_size=16, network="cnn", kernel_size=5),
        PPO_METRICS,
    ),
    "dqn": Case(
        dqn,
        dqn.Config(
            total_timesteps=2048, num_envs=4, buffer_size=256, learning_starts=128, train_frequency=4, batch_size=16,
            hidden_size=8, last_hidden_size=8, log_frequency=128, target_network_frequency=100, lr=1e-3,
        ),
        dict(lr=3e-4, gamma=0.9, tau=0.5, start_e=0.5, end_e=0.2, exploration_fraction=0.1),
        dict(
            env_id="Acrobot-v1", env_params="max_steps_in_episode=50", total_timesteps=4096, num_envs=8,
            buffer_size=512, learning_starts=256, train_frequency=2, batch_size=32, n_step=3, double_dqn=True,
            huber_loss=True, target_network_frequency=200, hidden_size=16, last_hidden_size=16, log_frequency=64,
            network="cnn",
        ),
        COMMON | {"q_loss", "q_mean", "epsilon"},
    ),
    "pqn": Case(
        pqn,
        pqn.Config(total_timesteps=2048, num_envs=4, num_steps=32, num_minibatches=4, update_epochs=2, hidden_size=8),
        dict(
            lr=3e-4, gamma=0.9, lambda_=0.3, start_e=0.5, end_e=0.2, exploration_fraction=0.1, max_grad_norm=0.05,
        ),
        dict(
            env_id="Acrobot-v1", env_params="max_steps_in_episode=50", total_timesteps=4096, num_envs=8, num_steps=64,
            num_minibatches=2, update_epochs=1, anneal_lr=False, layer_norm=False, hidden_size=16, network="cnn",
        ),
        COMMON | {"q_loss", "q_mean", "epsilon"},
    ),
    "apg": Case(
        apg,
        apg.Config(total_timesteps=2048, num_envs=4, num_steps=32, update_epochs=2, hidden_size=8),
        dict(lr=3e-4, gamma=0.9, max_grad_norm=0.05, noise=0.1, critic_lr=3e-3, lambda_=0.3, tau=0.1),
        dict(
            env_id="Reacher-misc", env_params="max_steps_in_episode=50", total_timesteps=4096, num_envs=8, num_steps=64,
            truncation=16, anneal_lr=False, critic=False, update_epochs=1, hidden_size=16, normalize_obs=True,
        ),
        COMMON | {"policy_loss", "value_loss", "value_mean"},
    ),
    "evolve_policy": Case(
        evolve_policy,
        evolve_policy.Config("CartPole-v1", generations=8, population=4, episodes_per_candidate=2, hidden_size=8),
        dict(std_init=0.3, std_decay=0.9, es_lr=0.1, es_lr_decay=0.9),
        dict(
            env_id="Acrobot-v1", env_params="max_steps_in_episode=50", generations=4, population=6,
            episodes_per_candidate=3, strategy="SNES", fitness_shaping="zscore", hidden_size=16, network="cnn",
            sample_actions=True, normalize_obs=False,
        ),
        COMMON - {"grad_norm"} | {
            "fitness_mean", "fitness_std", "fitness_best", "nan_candidates", "spread",
        },
    ),
}  # fmt: skip
GRADIENT = [name for name in CASES if name != "evolve_policy"]  # those that learn by gradients, from rollouts
FLOATS = [(name, field) for name, case in CASES.items() for field in case.floats]
STATICS = [(name, field) for name, case in CASES.items() for field in case.statics]
LIMIT = dict(env_params="max_steps_in_episode=150")
CONTINUOUS = dict(env_id="Pendulum-v1", normalize_obs=True, scale_reward=True) | LIMIT
DISCRETE = dict(env_id="MountainCar-v0") | LIMIT
VARIANTS = {
    "ppo": ("ppo", DISCRETE),
    "ppo, continuous": ("ppo", CONTINUOUS),
    "ppo_rnn": ("ppo_rnn", DISCRETE),
    "ppo_rnn, continuous, lstm": ("ppo_rnn", CONTINUOUS | dict(cell="lstm")),
    "dqn": ("dqn", DISCRETE),
    "dqn, n_step": ("dqn", DISCRETE | dict(n_step=3, double_dqn=True)),
    "pqn": ("pqn", DISCRETE),
    "apg": ("apg", LIMIT | dict(normalize_obs=True)),
    "apg, no critic": ("apg", LIMIT | dict(critic=False, truncation=5)),
}
VARIANTS = {
    name: CASES[script]._replace(config=replace(CASES[script].config, total_timesteps=20 * 128, **changes))
    for name, (script, changes) in VARIANTS.items()
}
EVOLVED = {
    "evolve_policy": dict(normalize_obs=False),
    "evolve_policy, continuous, gru": dict(env_id="Pendulum-v1", network="gru"),
    "evolve_policy, genetic, sampled": dict(strategy="SimpleGA", sample_actions=True),
}
EVOLVED = {
    name: CASES["evolve_policy"]._replace(config=replace(CASES["evolve_policy"].config, **LIMIT, **changes))
    for name, changes in EVOLVED.items()
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(params=GRADIENT)
def learner(request):
    return CASES[request.param]


class Run(NamedTuple):
    """A variant trained from seed 0, by one compiled program of 10 updates called twice."""

    variant: Case
    start: Any
    middle: Any
    end: Any
    metrics: dict


# Kernels as users have them: with the quickest ones (tests/conftest.py) a larger program may round otherwise
USERS_KERNELS = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
USERS_KERNELS |= {"xla_cpu_use_fusion_emitters": True} if QUICKEST else {}
jit_as_users = functools.partial(jax.jit, compiler_options=USERS_KERNELS)


@functools.cache
def run_variant(name, jit=jax.jit):
    variant = (VARIANTS | EVOLVED)[name]
    train = variant.train()
    half = variant.config.num_updates // 2
    go_on = jit(lambda state: train(None, state=state, num_updates=half))
    start = jit(lambda key: train(key, num_updates=0)[0])(jax.random.key(0))
    middle, first_metrics = go_on(start)
    end, second_metrics = go_on(middle)
    metrics = {k: np.concatenate([x, second_metrics[k]]) for k, x in first_metrics.items()}
    return Run(variant, start, middle, end, metrics)


@pytest.fixture(params=VARIANTS)
def run(request):
    return run_variant(request.param)


def raw(tree):
    """Arrays that numpy can compare: PRNG keys as their words."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return [np.asarray(jax.random.key_data(x) if is_key(x) else x) for x in jax.tree.leaves(tree)]


def assert_same_bits(a, b):
    for x, y in zip(raw(a), raw(b), strict=True):
        np.testing.assert_array_equal(x, y)


def floats_of(case, **changes):
    return {name: jnp.float32(getattr(replace(case.config, **changes), name)) for name in case.floats}


@pytest.fixture(scope="module")
def traced():
    """Eight updates of each script, all float fields traced, jitted once: (key, {field: value}) -> (state, metrics)."""
    return {
        name: jax.jit(lambda key, floats, case=case: case.train(**floats)(key, num_updates=8))
        for name, case in CASES.items()
    }


# --- Config -----------------------------------------------------------------------------------------------------------
def test_the_tables_above_name_every_field(case):
    assert set(case.floats) == {f.name for f in dataclasses.fields(case.script.Config) if f.type is float}
    assert set(case.floats) | set(case.statics) == {f.name for f in dataclasses.fields(case.script.Config)}


@pytest.mark.parametrize("name", CASES)
def test_every_float_traced_equals_static(name, traced):
    case = CASES[name]
    static = jax.jit(lambda key: case.train(**case.floats)(key, num_updates=8))(jax.random.key(1))
    for x, y in zip(raw(static), raw(traced[name](jax.random.key(1), floats_of(case, **case.floats))), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "field"), FLOATS)
def test_each_float_alone_can_be_vmapped_and_changes_the_result(name, field, traced):
    case = CASES[name]
    values = jnp.array([getattr(case.config, field), case.floats[field]], jnp.float32)
    jax.eval_shape(  # this field alone traced, the others static: what vmap over one hyperparameter does
        jax.vmap(lambda value: case.train(**{field: value})(jax.random.key(0))), values
    )
    run = traced[name]
    if field in NEEDS:
        run = jax.jit(lambda key, floats: case.train(**floats, **NEEDS[field])(key, num_updates=2))
    before = run(jax.random.key(0), floats_of(case))[0].params
    after = run(jax.random.key(0), floats_of(case, **{field: case.floats[field]}))[0].params
    assert any((x != y).any() for x, y in zip(raw(before), raw(after), strict=True))


def test_numbers_of_numpy_and_jax_train_like_pythons_own(learner):
    """Whole numbers of NumPy's, and a float that is a JAX array where another one is traced within a jit."""
    whole = {f.name for f in dataclasses.fields(learner.config) if f.type is int}
    numbers = {name: np.int64(getattr(learner.config, name)) for name in whole} | {"lr": jnp.float32(1e-3)}

    def shapes(**changes):
        train = jax.jit(lambda gamma: learner.train(**changes, gamma=gamma)(jax.random.key(0), num_updates=2))
        return [(x.shape, x.dtype) for x in jax.tree.leaves(jax.eval_shape(train, 0.9))]

    assert whole and shapes(**numbers) == shapes()


def program(name, **changes):
    return str(jax.make_jaxpr(lambda key: CASES[name].train(**changes)(key, num_updates=1))(jax.random.key(0)))


default_program = functools.cache(program)


@pytest.mark.parametrize("name", CASES)
def test_the_same_config_gives_the_same_program(name):
    assert default_program(name) == program(name)


NUMBERS = [(name, field) for name, field in STATICS if not isinstance(CASES[name].statics[field], str)]


@pytest.mark.parametrize(("name", "field"), NUMBERS)
def test_a_static_field_that_is_vmapped_is_named(name, field):
    case, values = CASES[name], jnp.array([1, 2])
    with pytest.raises(TypeError, match=f"{field} shapes the program, so vmap can't vary it: train once for each"):
        jax.vmap(lambda value: case.train(**{field: value})(jax.random.key(0))[1])(values)


@pytest.mark.parametrize(("name", "field"), STATICS)
def test_each_static_field_changes_the_program(name, field):
    if field == "generations":  # it says how often the program repeats, and nothing else
        assert CASES[name].train(generations=3)(jax.random.key(0))[1]["env_steps"].shape == (3,)
        return
    needs = NEEDS.get(field, {})
    before = program(name, **needs) if needs else default_program(name)
    assert before != program(name, **needs, **{field: CASES[name].statics[field]})


# --- make_train -------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in (*VARIANTS, *EVOLVED) if name not in CASES])
def test_one_call_equals_two_halves(name):
    """Bit by bit: what resuming relies on. Scripts' plain variants are killed and resumed as whole runs in test_cli."""
    run = run_variant(name, jit_as_users)
    train = run.variant.train()
    whole, metrics = jit_as_users(lambda key: train(key, num_updates=len(run.metrics["env_steps"])))(jax.random.key(0))
    assert_same_bits(whole, run.end)
    assert_same_bits(metrics, run.metrics)


@pytest.mark.parametrize("name", CASES)
def test_vmap_over_seeds_equals_one_by_one_and_seeds_differ(name):
    run = run_variant(name)
    train, half = run.variant.train(), len(run.metrics["env_steps"]) // 2
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    states, metrics = jax.jit(jax.vmap(lambda key: train(key, num_updates=half)))(keys)
    for x, y in zip(raw(states), raw(run.middle), strict=True):
        np.testing.assert_allclose(x[0], y, rtol=2e-3, atol=2e-4)
    weights = [x for x in jax.tree.leaves(states.params) if x.ndim > 2]  # biases start equal
    others = [metrics["fitness_mean"]] if name in EVOLVED else [states.obs, metrics["grad_norm"]]
    for leaf in (*weights, *others):
        assert (leaf[0] != leaf[1]).any() and (leaf[1] != leaf[2]).any() and (leaf[0] != leaf[2]).any()


def test_nests_in_another_jitted_program_with_a_loss_of_its_own(learner):
    """What meta-evolution does: an outer loop, in one program, over a loss with a traced parameter."""
    default = {dqn: dqn.dqn_loss, pqn: pqn.pqn_loss, apg: apg.apg_loss}.get(learner.script, ppo.ppo_loss)

    def gradient(scale, key):
        def loss_fn(*args):
            loss, metrics = default(*args)
            return scale * loss, metrics

        return learner.train(loss_fn, lr=0.0)(key, num_updates=2)[1]["grad_norm"].mean()

    outer = jax.jit(
        lambda keys: jax.lax.map(lambda key: jax.vmap(gradient, (0, None))(jnp.array([0.1, 1.0]), key), keys)
    )
    values = outer(jax.random.split(jax.random.key(0), 2))
    np.testing.assert_allclose(values[:, 1], 10 * values[:, 0], rtol=1e-3)
    assert (values > 0).all() and values[0, 0] != values[1, 0]


def test_an_environment_first_made_inside_a_jit_can_be_used_again(case):
    """MinAtar's constants must not be tracers of the program that happened to make the environment first."""
    field = "es_lr" if case.script is evolve_policy else "lr"
    case.script.make_env.cache_clear()
    for env_id in ("Reacher-misc",) if case.script is apg else ("Asterix-MinAtar",):
        for _ in range(2):
            jax.make_jaxpr(
                lambda lr, env_id=env_id: case.train(**{field: lr}, env_id=env_id)(jax.random.key(0), num_updates=1)
            )(1e-3)


def test_metrics_are_named_flat_and_per_update(case):
    _, metrics = jax.eval_shape(case.train(), jax.random.key(0))
    assert set(metrics) == case.metrics
    assert {x.shape for x in metrics.values()} == {(case.config.num_updates,)}


def test_env_steps_count_the_steps_of_all_envs(run):
    steps, config = run.metrics["env_steps"], run.variant.config
    assert (np.diff(steps) == config.steps_per_update).all()
    assert config.total_timesteps - 2 * config.steps_per_update < steps[-1] <= config.total_timesteps
    assert all(np.isfinite(x).all() for name, x in run.metrics.items() if not name.startswith("episode_"))


def test_episode_return_is_nan_until_an_episode_ends_and_then_the_last_known(run):
    """Episodes end after 150 steps of each of 4 environments, for env_params says so: at 600 and 1200 of all."""
    steps, returns = run.metrics["env_steps"], run.metrics["episode_return"]
    assert np.isnan(returns[steps < 600]).all() and np.isfinite(returns[steps >= 600]).all()
    first = returns[(steps >= 600) & (steps < 1200)]
    assert (first == first[0]).all() and -2000 < first[0] < -100
    assert (run.metrics["episode_length"][steps >= 600] == 150).all()


def test_episode_count_counts_the_ended_episodes(run):
    """All 4 environments end together, at each multiple of 600 env steps; dqn.py's warm-up comes before its metrics."""
    steps, counts = run.metrics["env_steps"], run.metrics["episode_count"]
    before = np.concatenate([[steps[0] - run.variant.config.steps_per_update], steps[:-1]])
    np.testing.assert_array_equal(counts, 4 * (steps // 600 - before // 600))
    assert counts.sum() >= 8


def test_every_parameter_is_trained(run):
    # Share of weights that may belong to units that ReLU keeps at 0
    dead = 0.5 if run.variant.script in (dqn, pqn) else 0.0
    after = dict(jax.tree_util.tree_leaves_with_path(run.end.params))
    for path, x in jax.tree_util.tree_leaves_with_path(run.start.params):
        still = (x == after[path]).mean()
        assert still <= dead, f"{jax.tree_util.keystr(path)}: {still:.0%} of the weights never moved"


# --- make_policy ------------------------------------------------------------------------------------------------------
def test_policy_greedy_and_sampled(run):
    state, config = run.end, run.variant.config
    init_carry, act = run.variant.script.make_policy(config)
    obs = jnp.broadcast_to(state.obs[0], (500, *state.obs.shape[1:]))
    act = jax.jit(act)  # greedy is traced here: evaluation runs both in one program
    _, greedy = act(state, init_carry(500), obs, jax.random.key(1), True)
    _, sampled = act(state, init_carry(500), obs, jax.random.key(1), False)
    np.testing.assert_allclose(greedy - greedy[0], 0, atol=1e-5)  # rows of one product may round differently
    assert np.ptp(sampled) > 0.1
    if getattr(config, "normalize_obs", False):
        shifted = state._replace(obs_stats=state.obs_stats._replace(mean=state.obs_stats.mean + 5.0))
        assert np.abs(act(shifted, init_carry(500), obs, jax.random.key(1), True)[1] - greedy).min() > 1e-4


# --- Environments -----------------------------------------------------------------------------------------------------
PLAYABLE = [  # other suites' are in test_suites.py
    e
    for e in gymnax.registered_envs
    if e not in ("FrozenLake-misc", "MNISTBandit-bsuite") and "probe" not in e and "/" not in e
]


# make_env and make_network read a space alike in all scripts, word for word where they can: one of each kind will do
FEW = ("CartPole-v1", "Pendulum-v1", "Breakout-MinAtar", "DeepSea-bsuite", "Reacher-misc")
PLAYED = [(name, env_id) for name in CASES for env_id in PLAYABLE if name == "ppo" or env_id in FEW]


@pytest.mark.parametrize(("name", "env_id"), PLAYED)
def test_every_box_environment_can_be_trained_on(name, env_id):
    """Traced, not compiled: shapes, dtypes and the choice of a head; the next test runs the awkward ones."""
    case = CASES[name]
    env, env_params = gymnax.make(env_id)
    continuous = isinstance(env.action_space(env_params), spaces.Box)
    smooth = env.supports_transition_gradients
    if (continuous and case.script in (dqn, pqn)) or (not smooth and case.script is apg):
        with pytest.raises(ValueError, match=r"(continuous actions|acts in Box|no gradient).*use ppo\.py"):
            case.train(env_id=env_id)
        return
    rows = whole_games(getattr(env, "num_agents", 1), 4)
    settings = {"env_id": env_id} | ({"num_envs": rows} if rows > 4 else {})
    state, _ = jax.eval_shape(lambda key: case.train(**settings)(key, num_updates=1), jax.random.key(0))
    if case.script is evolve_policy:  # it keeps no observation, and no std but of actions drawn at random
        return
    assert state.obs.shape == (rows, np.prod(env.observation_space(env_params).shape))
    assert case.script is apg or ("log_std" in state.params["params"]) == continuous


AWKWARD = [  # int32 observations, int32 rewards, two action dimensions, three-dimensional observations
    ("ppo", "FourRooms-misc"), ("ppo", "UmbrellaChain-bsuite"), ("ppo", "Reacher-misc"), ("ppo", "Breakout-MinAtar"),
    ("ppo_rnn", "UmbrellaChain-bsuite"), ("dqn", "FourRooms-misc"), ("pqn", "UmbrellaChain-bsuite"),
    ("apg", "PointRobot-misc"), ("evolve_policy", "Reacher-misc"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "env_id"), [pytest.param(*one, marks=[pytest.mark.slow] * (one[0] != "ppo")) for one in AWKWARD]
)
def test_awkward_environments_run(name, env_id):
    train = CASES[name].train(env_id=env_id)
    state, metrics = jax.jit(lambda key: train(key, num_updates=4))(jax.random.key(0))
    assert all(np.isfinite(x).all() for x in raw(state.params))
    assert np.isfinite(metrics["fitness_mean" if name == "evolve_policy" else "grad_norm"]).all()


def test_velocities_are_hidden():
    env, env_params = gymnax.make("PositionOnlyCartPole-v1")
    obs, state = env.reset(jax.random.key(0), env_params)
    for i in range(3):
        np.testing.assert_array_equal(obs, [state.x, state.theta])
        obs, state, *_ = env.step(jax.random.key(i), state, 1, env_params)
    assert env.observation_space(env_params).shape == (2,) == obs.shape
    np.testing.assert_allclose(env.observation_space(env_params).high, [4.8, 0.4189], atol=1e-3)


# --- Hooks ------------------------------------------------------------------------------------------------------------
class SharedTorso(nn.Module):
    """Actor and critic share their hidden layers; extra: further axes of the value, which must not be there."""

    num_actions: int
    extra: tuple = ()

    @nn.compact
    def __call__(self, obs):
        x = nn.tanh(nn.LayerNorm()(nn.Dense(8)(obs)))
        x = nn.tanh(nn.LayerNorm()(nn.Dense(8)(x)))
        value = nn.Dense(1)(x).reshape(*x.shape[:-1], *self.extra)
        return distrax.Categorical(logits=nn.Dense(self.num_actions)(x)), value


class Embedding(ppo_rnn.RecurrentActorCritic):
    """Another embedding before the memory: layer norm first."""

    def embed(self, obs):
        return super().embed(obs / (1.0 + jnp.abs(obs)))


class DuelingQ(nn.Module):
    num_actions: int

    @nn.compact
    def __call__(self, obs):
        x = nn.relu(nn.Dense(8)(obs.astype(jnp.float32)))
        advantage = nn.Dense(self.num_actions)(x)
        return nn.Dense(1)(x) + advantage - advantage.mean(axis=-1, keepdims=True)


NETWORKS = {
    "ppo": lambda config: SharedTorso(2),
    "ppo_rnn": lambda config: Embedding(
        spaces.Discrete(2), config.embedding_size, config.cell, config.hidden_size, config.activation
    ),
    "dqn": lambda config: DuelingQ(2),
    "pqn": lambda config: DuelingQ(2),
    "apg": lambda config: (nn.Dense(1), nn.Dense(1)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_another_network_trains_and_acts_without_an_edit(name):
    script, config = CASES[name].script, CASES[name].config
    train = script.make_train(config, network_fn=NETWORKS[name])
    first = jax.jit(lambda key: train(key, num_updates=0)[0])(jax.random.key(0))
    state, metrics = jax.jit(lambda state: train(None, state=state, num_updates=8))(first)
    after = dict(jax.tree_util.tree_leaves_with_path(state.params))
    for path, x in jax.tree_util.tree_leaves_with_path(first.params):
        assert (x != after[path]).any(), f"{jax.tree_util.keystr(path)} was not trained"
    init_carry, act = script.make_policy(config, network_fn=NETWORKS[name])
    _, action = act(state, init_carry(4), state.obs, jax.random.key(0), True)
    assert action.shape == ((4, 1) if script is apg else (4,)) and np.isfinite(metrics["grad_norm"]).all()


def test_a_value_of_a_wrong_shape_is_an_error_and_no_broadcast():
    """(B, 1) against (B,) would be (B, B) without a word."""
    config = CASES["ppo"].config
    with pytest.raises(AssertionError, match=r"32, 4, 1"):
        ppo.make_train(config, network_fn=lambda config: SharedTorso(2, (1,)))(jax.random.key(0), num_updates=1)

    def wrong(value, target, old_value, config):
        return jnp.square(value - target)[:, None]

    for name, shape in (("ppo", r"\(32, 1\)"), ("ppo_rnn", r"\(1, 1, 32\)")):
        script = CASES[name].script
        loss_fn = functools.partial(script.ppo_loss, value_objective=wrong)
        with pytest.raises(AssertionError, match=shape):
            CASES[name].train(loss_fn)(jax.random.key(0), num_updates=1)
    config = CASES["dqn"].config
    best_alone = nn.Sequential([nn.Dense(2), lambda q: q.max(axis=-1)])  # Q of the best action, and of no other
    with pytest.raises(AssertionError, match=rf"\({config.batch_size},\), \({config.batch_size},\), \(\)"):
        dqn.make_train(config, network_fn=lambda config: best_alone)(jax.random.key(0), num_updates=1)
    for script, loss_fn in ((dqn, dqn.dqn_loss), (pqn, pqn.pqn_loss)):
        batch = script.Batch(jnp.zeros((16, 4)), jnp.zeros(16, jnp.int32), jnp.zeros((16, 1)))
        with pytest.raises(AssertionError, match=r"16, 1"):
            loss_fn(jnp.zeros((16, 2)), batch, None)
    with pytest.raises(AssertionError, match=r"3, 2, 1"):
        pqn.lambda_return(jnp.zeros((3, 2)), jnp.zeros((3, 2, 1)), *[jnp.zeros((3, 2))] * 2, 0.9, 0.9)
    with pytest.raises(ValueError, match=r"squeeze"):
        apg.make_train(CASES["apg"].config, network_fn=lambda config: (nn.Dense(1), nn.Dense(2)))(jax.random.key(0))
    with pytest.raises(AssertionError, match=r"3, 2, 1"):
        ppo.gae(*[jnp.zeros((3, 2))] * 2, jnp.zeros((3, 2, 1)), *[jnp.zeros((3, 2))] * 2, 0.9, 0.9)


@pytest.mark.parametrize("name", [*VARIANTS, *EVOLVED, "evolution"])
def test_with_64_bits_on_it_trains_in_32(name):
    with jax.enable_x64(True):
        if name == "evolution":
            tiny = meta.Config(
                total_timesteps=256, num_steps=32, hidden_size=8, population=2, generations=1, loss_hidden_size=4
            )
            state, metrics = jax.eval_shape(meta.make_train(tiny), jax.random.key(0))
        else:
            variant, field = (VARIANTS | EVOLVED)[name], "es_lr" if name in EVOLVED else "lr"
            state, metrics = jax.eval_shape(
                lambda lr: jax.vmap(lambda key: variant.train(**{field: lr})(key, num_updates=2))(
                    jax.random.split(jax.random.key(0), 2)
                ),
                jnp.float64(1e-3),
            )
    wide = {str(x.dtype) for x in jax.tree.leaves((state, metrics))} & {"float64", "int64", "uint64"}
    assert not wide

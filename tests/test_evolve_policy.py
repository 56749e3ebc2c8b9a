"""What is evolve_policy.py's own: strategies that climb, fair episodes, failures, ties, memory, the box of actions."""

from dataclasses import replace
from pathlib import Path

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces
from probes import FarTarget, SeesCue, Target
from test_cli import main_in_process

import evolve_policy as evolve
from runner.loop.devices import Spread, make_mesh

TINY = evolve.Config(
    "Target-probe", generations=4, population=6, episodes_per_candidate=3, std_init=0.1, es_lr=0.05, hidden_size=4,
    normalize_obs=False,
)  # fmt: skip


class Cliff(Target):
    """One step, reward = action up to 0.2, and NaN beyond: a candidate that goes too far has failed."""

    def reward(self, state, action):
        return jnp.where(action[0] > 0.2, jnp.nan, action[0])


class OpenBox(FarTarget):
    """A box without bounds, of which -1 to 1 is taken."""

    def action_space(self, params=None):
        return spaces.Box(-jnp.inf, jnp.inf, (1,))


class Uneven(SeesCue):
    """Reward 1 a step. Episodes of the cue -1 end after 2 steps, those of the cue 1 after 7."""

    length = 7

    def step_env(self, key, state, action, params):
        obs, state, _, terminated, info = super().step_env(key, state, action, params)
        return obs, state, jnp.float32(1.0), terminated | ((state.cue < 0) & (state.time >= 2)), info


for probe in (Cliff, OpenBox, Uneven):
    if f"{probe.__name__}-probe" not in gymnax.registered_envs:
        gymnax.register(f"{probe.__name__}-probe", probe)


def run(config, seed=0, **options):
    return jax.jit(evolve.make_train(config, **options))(jax.random.key(seed))


def leaves(tree):
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def same(a, b):
    return all((x == y).all() for x, y in zip(leaves(a), leaves(b), strict=True))


# --- Strategies -------------------------------------------------------------------------------------------------------
QUICK = ("Open_ES", "PGPE", "SNES", "SimpleGA")
CLIMBING = [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in evolve.ALGORITHMS]


@pytest.mark.parametrize("strategy", CLIMBING)
def test_a_strategy_finds_the_known_best_action(strategy):
    """The best is 0.5, with return 0; from any other end of the box it is -2.25 at worst."""
    config = replace(TINY, strategy=strategy, population=16, generations=200, std_init=0.3)
    states, metrics = jax.jit(jax.vmap(evolve.make_train(config)))(jax.vmap(jax.random.key)(jnp.arange(3)))
    _, act = evolve.make_policy(config)
    actions = jax.vmap(lambda state: act(state, (), jnp.ones((1, 1)), jax.random.key(0), True)[1])(states)
    np.testing.assert_allclose(actions.reshape(-1), 0.5, atol=0.2)
    # The mean, for some strategies keep wandering around what they found
    assert (metrics["episode_return"][:, -50:].mean(axis=1) > -0.03).all()


def test_an_unknown_strategy_is_refused_with_those_that_are_known(tmp_path, monkeypatch, capsys):
    for name in ("HillClimbing", "snes", "GESMR_GA"):
        with pytest.raises(ValueError, match=rf"'{name}' can't be used: use one of .*Open_ES.*SimpleGA"):
            evolve.Config(strategy=name)
    monkeypatch.chdir(tmp_path)
    assert main_in_process("--strategy", "Rm_ES", script=evolve) == 2
    assert "strategy must be one of ARS" in capsys.readouterr().err


def test_an_odd_population_plays_where_the_strategy_takes_one():
    with pytest.raises(ValueError, match=r"population = 5 does not suit Open_ES .*use 6"):
        evolve.Config(population=5)
    with pytest.raises(ValueError, match="population must be at least 2"):
        evolve.Config(population=1)
    _, metrics = run(replace(TINY, strategy="SNES", population=5))
    assert np.isfinite(metrics["fitness_mean"]).all()


# --- Fitness ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("strategy", ["Open_ES", "SNES", "CMA_ES", "SimpleGA"])
def test_all_candidates_meet_the_same_episodes_and_where_all_are_equal_nothing_moves(strategy):
    """The reward is the cue of the first state, whatever is done: only its luck can tell candidates apart."""
    config = replace(TINY, env_id="SeesCue-probe", strategy=strategy, generations=8)
    train = evolve.make_train(config)
    first = jax.jit(lambda key: train(key, num_updates=0)[0])(jax.random.key(0))
    state, metrics = jax.jit(lambda state: train(None, state=state))(first)
    assert (metrics["fitness_std"] == 0).all() and (metrics["fitness_mean"] == metrics["episode_return"]).all()
    assert len(set(metrics["fitness_mean"].tolist())) > 1  # each generation has episodes of its own
    assert same(first.params, state.params)


def test_nothing_counts_after_an_episodes_end():
    config = replace(TINY, env_id="Uneven-probe", generations=8)
    _, metrics = run(config)
    returns, lengths = metrics["episode_return"], metrics["episode_length"]
    np.testing.assert_allclose(returns, lengths)
    possible = [(2 * (3 - long) + 7 * long) / 3 for long in range(4)]
    assert all(np.isclose(possible, x).any() for x in returns.tolist()) and len(set(returns.tolist())) > 1
    np.testing.assert_allclose(metrics["fitness_best"], returns)
    np.testing.assert_array_equal(metrics["env_steps"], np.cumsum(np.round(6 * 3 * lengths)))
    assert (metrics["episode_count"] == 3).all()


def test_candidates_that_fail_are_counted_and_come_last():
    """From the edge of the cliff, where half of them fail, the mean goes back to where few do."""
    train = evolve.make_train(replace(TINY, env_id="Cliff-probe", population=32, generations=40, std_init=0.3))
    state, _ = train(jax.random.key(0), num_updates=0)
    params = jax.tree.map(jnp.zeros_like, state.params)
    params["params"]["Dense_1"]["bias"] += jnp.arctanh(0.2)
    state, metrics = jax.jit(lambda state: train(None, state=state))(state._replace(params=params))
    failed = metrics["nan_candidates"]
    assert failed[0] > 10 and failed[-10:].mean() < 8 and np.isfinite(metrics["fitness_mean"]).all()
    assert all(np.isfinite(x).all() for x in leaves(state.params))


def test_weights_that_are_not_finite_fail_though_the_game_goes_on():
    """An argmax over NaN is an action like any other."""
    config = replace(TINY, env_id="CartPole-v1", generations=1)
    first, _ = evolve.make_train(config)(jax.random.key(0), num_updates=0)
    state = first._replace(params=jax.tree.map(lambda x: x * jnp.nan, first.params))
    _, metrics = evolve.make_train(config)(None, state=state)
    assert metrics["nan_candidates"][0] == config.population


def test_more_env_steps_than_32_bits_can_count():
    train = evolve.make_train(replace(TINY, env_id="Terminating-probe"))
    state, _ = train(jax.random.key(0), num_updates=0)
    state, metrics = train(None, state=state._replace(env_steps=jnp.float32(2**31 - 128)), num_updates=1)
    assert abs(float(metrics["env_steps"][0]) - 2**31) <= 256  # as exact as a float is there, and not negative


@pytest.mark.parametrize("strategy", ["Open_ES", "SimpleGA"])
def test_evolution_goes_on_from_weights_that_were_put_in(strategy):
    train = evolve.make_train(replace(TINY, strategy=strategy))
    state, _ = train(jax.random.key(0), num_updates=0)
    state = state._replace(params=jax.tree.map(lambda x: x + 5.0, state.params))
    after, _ = train(None, state=state, num_updates=1)
    assert all(np.abs(x - y).max() < 1.0 for x, y in zip(leaves(after.params), leaves(state.params), strict=True))


# --- Observations and actions -----------------------------------------------------------------------------------------
def test_statistics_are_those_of_all_that_was_observed():
    """SeesTime-probe shows 0, 0.2, 0.4, 0.6 and 0.8 in every episode."""
    config = replace(TINY, env_id="SeesTime-probe", normalize_obs=True)
    state, _ = run(config)
    np.testing.assert_allclose(state.obs_stats.mean, 0.4, rtol=1e-4)
    np.testing.assert_allclose(state.obs_stats.var, 0.08, rtol=1e-4)
    np.testing.assert_allclose(state.obs_stats.count, 4 * 7 * 3 * 5, rtol=1e-5)
    assert (run(replace(config, normalize_obs=False))[0].obs_stats.count < 1).all()


def test_merged_statistics_are_those_of_both_samples():
    rng = np.random.default_rng(0)
    a, b = rng.normal(3.0, 2.0, (50, 2)), rng.normal(-1.0, 0.5, (20, 2))
    stats, seen = evolve.RunningStats(a.mean(axis=0), a.var(axis=0), 50.0), b - a.mean(axis=0)
    merged, both = evolve.add_sums(stats, (seen.sum(axis=0), (seen**2).sum(axis=0)), 20), np.concatenate([a, b])
    np.testing.assert_allclose(merged.mean, both.mean(axis=0))
    np.testing.assert_allclose(merged.var, both.var(axis=0))


@pytest.mark.parametrize(("env_id", "bound"), [("Pendulum-v1", 2.0), ("OpenBox-probe", 1.0)])
def test_actions_fill_the_box_and_never_leave_it(env_id, bound):
    config = replace(TINY, env_id=env_id)
    state, _ = evolve.make_train(config)(jax.random.key(0), num_updates=0)
    init_carry, act = evolve.make_policy(config)
    obs = 100.0 * jax.random.normal(jax.random.key(1), (200, len(state.obs_stats.mean)))
    wild = state._replace(params=jax.tree.map(lambda x: 30.0 * x, state.params))
    _, action = act(wild, init_carry(200), obs, jax.random.key(2), False)
    assert action.shape == (200, 1) and np.abs(action).max() <= bound
    assert {-bound, bound} <= set(np.round(np.asarray(action).ravel(), 3).tolist())


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_actions_are_drawn_at_random_only_where_asked(env_id):
    def actions(sample_actions, greedy):
        config = replace(TINY, env_id=env_id, sample_actions=sample_actions)
        state, _ = evolve.make_train(config)(jax.random.key(0), num_updates=0)
        assert ("log_std" in state.params["params"]) == (sample_actions and env_id == "Pendulum-v1")
        init_carry, act = evolve.make_policy(config)
        obs = jnp.full((2000, len(state.obs_stats.mean)), 0.1)
        return np.asarray(act(state, init_carry(2000), obs, jax.random.key(1), greedy)[1]), (state, config, obs)

    for sample_actions, greedy in ((False, False), (False, True), (True, True)):
        assert np.ptp(actions(sample_actions, greedy)[0]) < 1e-5
    drawn, (state, config, obs) = actions(True, False)
    _, output, log_std = evolve.make_network(config).apply(state.params, (), obs[:1])
    if env_id == "CartPole-v1":
        np.testing.assert_allclose(np.mean(drawn == 1), jax.nn.softmax(output[0])[1], atol=0.05)
    else:
        np.testing.assert_allclose(np.std(np.arctanh(drawn / 2.0)), np.exp(log_std)[0], rtol=0.1)


@pytest.mark.slow
def test_a_memory_recalls_what_was_seen_at_the_start():
    """A cue at step 0 and the question at step 4: 1 for the right answer, else -1, and 0 on average without memory."""
    config = evolve.Config("Recall-probe", network="gru", population=32, generations=100, hidden_size=8)
    _, metrics = jax.jit(jax.vmap(evolve.make_train(config)))(jax.vmap(jax.random.key)(jnp.arange(4)))
    assert np.median(metrics["episode_return"][:, -5:].mean(axis=1)) > 0.9


def test_every_metric_is_in_the_glossary():
    glossary = (Path(__file__).parent.parent / "docs/metrics.md").read_text()
    _, metrics = jax.eval_shape(evolve.make_train(TINY), jax.random.key(0))
    assert [name for name in metrics if f"| `{name}` |" not in glossary] == []


# --- Devices, and the command line ------------------------------------------------------------------------------------
@pytest.mark.parametrize("at_once", [0, 2])
def test_candidates_on_two_devices_and_in_batches_give_what_vmap_gives(at_once):
    config = replace(TINY, env_id="Uneven-probe", strategy="SNES", population=5, normalize_obs=True)
    expected, found = run(config), run(config, spread=Spread(make_mesh(2), at_once))
    for x, y in zip(leaves(expected[1]), leaves(found[1]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4)


def test_a_run_leaves_a_record_and_its_policy_can_be_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "--generations 3 --population 4 --episodes-per-candidate 2 --hidden-size 4 --eval-episodes 4 --num-seeds 2"
    assert main_in_process(*words.split(), "--run-dir", "run", script=evolve) == 0
    printed = capsys.readouterr().out
    assert "will hardly reach" not in printed  # of a Gaussian policy's actions; these fill the box
    assert {"metrics.csv", "summary.json", "learning_curve.png"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert main_in_process(*words.split(), "--init-from", "run", "--run-dir", "on", script=evolve) == 0
    assert "starting from params, obs_stats of run" in capsys.readouterr().out

"""Evolved losses: their mathematics, the strategies on a known hill, the loop's contract, files, and whole runs."""

import json
import math
import re
import signal
import time
import zipfile
from dataclasses import fields, replace
from pathlib import Path
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from test_cli import ROOT, damage_newest, python, sha256, start

import meta_evolve_loss as meta
import ppo
from runner.evolution import Evolution
from runner.loop import program
from runner.loop.devices import Spread, make_mesh
from runner.loop.record import write_json
from runner.main import main
from runner.plan.command_line import from_json, make_plan
from runner.plan.errors import Interrupted
from runner.plan.script import Script
from runner.report import compare_losses as compare
from runner.report.stats import probability_of_improvement

TINY = meta.Config(total_timesteps=512, num_steps=32, hidden_size=8, population=4, generations=4, loss_hidden_size=4)
AGENT = ppo.Config()
SCRIPT = Script(Path(meta.__file__), meta.Config, ppo.make_env, meta.make_train, None, Evolution(meta))
LEARN, START = (get_args(f.type) for name in ("learn", "start") for f in fields(meta.Config) if f.name == name)


def random_params(learn, start, key=0, timed=False):
    """Parameters far from those that evolution begins with."""
    params = meta.init_params(meta.LossSpec(learn, start, 16, timed=timed), jax.random.key(key))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(key + 1), len(leaves))
    return tree.unflatten([jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])


# --- Losses -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("start", START)
@pytest.mark.parametrize(("key", "timed"), [(0, False), (1, False), (2, False), (3, True), (4, True)])
def test_the_drift_is_never_negative_and_nothing_at_ratio_1(start, key, timed):
    spec = meta.LossSpec("policy", start, 16, timed=timed)
    objective = meta.learned_policy_objective(spec, random_params("policy", start, key, timed)["policy"], 0.7)
    advantage = jnp.linspace(-3.0, 3.0, 13)
    at_1, slope = jax.vmap(jax.value_and_grad(lambda r, a: objective(r, a, AGENT)), (None, 0))(1.0, advantage)
    assert (at_1 == -advantage).all() and (slope == -advantage).all()
    ratio, advantage = jnp.meshgrid(jnp.linspace(0.0, 5.0, 101), advantage)
    drift = objective(ratio, advantage, AGENT) + ratio * advantage
    assert (drift >= -1e-5).all() and drift.max() > 0.1


@pytest.mark.parametrize("changes", [{}, {"scaled": True}, {"timed": True}], ids=str)
def test_evolution_from_the_hand_written_loss_begins_with_exactly_that_loss(changes):
    spec = meta.LossSpec("both", "handwritten", 16, **changes)
    learned = meta.learned_objectives(spec, meta.init_params(spec, jax.random.key(3)), 0.5)
    x, y, z = jax.random.normal(jax.random.key(0), (3, 1000)) * jnp.array([[1.0], [3.0], [1.0]])
    handwritten = meta.LOSSES["hand-written"](spec, {}, 0.5)
    value_objective = handwritten.keywords["value_objective"] if spec.scaled else ppo.clipped_squared_error
    for name, arguments, written in (
        ("value_objective", (x, y, z), value_objective),
        ("policy_objective", (jnp.exp(x), y), ppo.clipped_surrogate),
    ):
        for function in (lambda f, *a: f(*a, AGENT), lambda f, *a: jax.grad(lambda v: f(v, *a[1:], AGENT).sum())(a[0])):
            np.testing.assert_allclose(
                function(learned[name], *arguments), function(written, *arguments), rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize("learn", LEARN)
@pytest.mark.parametrize("start", START)
def test_what_is_learned_and_only_that_changes_the_loss(learn, start):
    objectives = meta.learned_objectives(meta.LossSpec(learn, start, 16), random_params(learn, start))
    names = {"value": ["value_objective"], "policy": ["policy_objective"]}
    assert list(objectives) == names.get(learn, ["value_objective", "policy_objective"])
    x = jnp.linspace(0.5, 2.0, 5)
    if learn != "policy":
        assert (
            objectives["value_objective"](x, 0.0 * x, x, AGENT) != ppo.clipped_squared_error(x, 0.0, x, AGENT)
        ).all()
    if learn != "value":
        assert (objectives["policy_objective"](x + 1.0, -x, AGENT) != ppo.clipped_surrogate(x + 1.0, -x, AGENT)).any()
        extreme = objectives["policy_objective"](jnp.array([1e-30, 1e30]), jnp.array([1.0, -1.0]), AGENT)
        assert jnp.isfinite(extreme).all()


def test_in_units_a_loss_does_not_depend_on_the_size_of_rewards():
    value, target, old = jnp.array([1.0, 2.0, 4.0]), jnp.array([3.0, 6.0, 9.0]), jnp.array([2.0, 6.0, 8.0])
    objective = meta.in_units(ppo.clipped_squared_error)
    unit = math.sqrt(6.0 + 2.0 / 3.0)  # variance of the targets, mean of (1, 0, 1)
    by_hand = []
    for v, t, o in zip(value.tolist(), target.tolist(), old.tolist(), strict=True):
        clipped = o / unit + min(max((v - o) / unit, -AGENT.clip_eps), AGENT.clip_eps)
        by_hand.append(0.5 * max((v - t) ** 2 / unit**2, (clipped - t / unit) ** 2))
    np.testing.assert_allclose(objective(value, target, old, AGENT), by_hand, rtol=1e-5)
    for size in (1e-3, 1e3):
        np.testing.assert_allclose(objective(size * value, size * target, size * old, AGENT), by_hand, rtol=1e-3)
    same = jnp.full(3, 5.0)  # targets that are all alike, and an old value that is right: nothing to learn, no NaN
    assert (jax.grad(lambda v: objective(v, same, same, AGENT).sum())(same) == 0.0).all()


@pytest.mark.parametrize("learn", LEARN)
def test_a_timed_loss_and_no_other_changes_over_a_training(learn):
    x, y = jnp.array([0.5, 1.5, 3.0]), jnp.array([1.0, -1.0, 2.0])
    arguments = {"value_objective": (x, y, 0.5 * x), "policy_objective": (x, y)}
    for timed in (False, True):
        spec, params = meta.LossSpec(learn, "scratch", 16, timed=timed), random_params(learn, "scratch", timed=timed)
        early, late = (meta.learned_objectives(spec, params, progress) for progress in (0.0, 1.0))
        for name in early:
            values = [objectives[name](*arguments[name], AGENT) for objectives in (early, late)]
            assert (values[0] != values[1]).any() == timed


def test_a_timed_loss_is_told_how_much_of_the_training_is_done():
    """A critic whose loss is off until half of it is done, and the bits of plain training where the loss stays."""
    agent = ppo.Config(total_timesteps=4 * 64, num_steps=16, num_minibatches=2, hidden_size=8)
    timed = meta.LossSpec("value", "scratch", 4, timed=True)

    def late(progress):
        return lambda *args: ppo.ppo_loss(
            *args, value_objective=lambda v, t, o, config: jnp.where(progress >= 0.5, (v - t) ** 2, 0.0)
        )

    _, metrics = jax.jit(meta.make_agent_train(agent, timed, late))(jax.random.key(0))
    assert ((metrics["value_loss"] > 0.0) == jnp.array([False, False, True, True])).all()
    expected = jax.jit(ppo.make_train(agent))(jax.random.key(0))
    found = jax.jit(meta.make_agent_train(agent, timed, lambda progress: ppo.ppo_loss))(jax.random.key(0))
    assert jax.tree.all(jax.tree.map(lambda x, y: (raw(x) == raw(y)).all(), found, expected))


def test_dpo_is_its_closed_form():
    """For A >= 0 relu((r - 1) A - 2 tanh((r - 1) A / 2)), otherwise relu(log r A - 0.6 tanh(log r A / 0.6))."""
    for ratio in (0.3, 0.9, 1.0, 1.2, 3.0):
        for advantage in (-2.0, -0.1, 0.0, 0.5, 4.0):
            up, down = (ratio - 1) * advantage, math.log(ratio) * advantage
            drift = up - 2 * math.tanh(up / 2) if advantage >= 0 else down - 0.6 * math.tanh(down / 0.6)
            expected = max(0.0, drift) - ratio * advantage
            assert meta.dpo_objective(jnp.float32(ratio), jnp.float32(advantage), AGENT) == pytest.approx(
                expected, abs=1e-5
            )
    assert meta.dpo_objective(jnp.float32(3.0), jnp.float32(1.0), AGENT) == pytest.approx(-2.5231884, abs=1e-6)
    assert jnp.isfinite(jax.grad(lambda r: meta.dpo_objective(r, 1.0, AGENT))(jnp.float32(0.0)))


# --- Fitness ----------------------------------------------------------------------------------------------------------
def test_ranks_are_even_with_nan_last_and_equals_share_them_or_go_by_lot():
    fitness = jnp.array([3.0, jnp.nan, 7.0, -jnp.inf, 5.0])
    for key in (None, jax.random.key(0)):
        cost = meta.shape_fitness(fitness, "rank", key)
        assert cost[2] == -0.5 and cost[4] == -0.25 and cost[0] == 0.0
        failed = sorted(cost[jnp.array([1, 3])].tolist())
        assert failed == ([0.375, 0.375] if key is None else [0.25, 0.5])
    assert (meta.shape_fitness(jnp.zeros(6), "rank") == 0.0).all()
    np.testing.assert_allclose(meta.shape_fitness(jnp.array([1.0, 2.0, 2.0]), "rank"), [0.5, -0.25, -0.25])
    costs = [meta.shape_fitness(jnp.zeros(6), "rank", jax.random.key(i)) for i in range(400)]
    assert all(len(set(cost.tolist())) == 6 for cost in costs)
    assert np.abs(np.mean(costs, axis=0)).max() < 4 * 0.35 / 20  # no candidate is favoured: 4 standard errors


def test_a_strategy_that_weighs_ranks_itself_is_known_as_one():
    assert [meta.weighs_ranks(name) for name in ("Open_ES", "PGPE", "SNES", "CMA_ES")] == [False, False, True, True]


def test_zscores_are_in_standard_deviations_with_nan_as_the_lowest():
    cost = meta.shape_fitness(jnp.array([1.0, 2.0, jnp.nan, 6.0]), "zscore", jax.random.key(0))
    values = np.array([1.0, 2.0, 1.0, 6.0])
    np.testing.assert_allclose(cost, -(values - values.mean()) / values.std(), rtol=1e-5)


def test_each_environment_has_one_vote_whatever_its_returns_size():
    returns = jnp.array([[1.0, -10.0], [2.0, -30.0], [3.0, -20.0], [9.0, -40.0]])
    # ranks from 0, the best: 3, 2, 1, 0 and 0, 2, 1, 3; so votes are 3, 4, 2, 3
    expected = np.array([0.0, 0.5, -0.5, 0.0])
    np.testing.assert_allclose(meta.shape_returns(returns, "rank"), expected, atol=1e-6)
    np.testing.assert_allclose(meta.shape_returns(returns * jnp.array([1.0, 1e4]), "rank"), expected, atol=1e-6)
    with_nan = meta.shape_returns(returns.at[2, 0].set(jnp.nan), "rank")
    assert with_nan.argmax() == 2 and jnp.isfinite(with_nan).all()  # the best in one place has failed in the other
    for how in ("rank", "zscore"):
        alone = meta.shape_returns(returns[:, :1], how)
        assert (alone == meta.shape_fitness(returns[:, 0], how)).all()
    both = meta.shape_returns(jnp.stack([returns[:, 0]] * 2, axis=1), "zscore")
    np.testing.assert_allclose(both, meta.shape_fitness(returns[:, 0], "zscore"), rtol=1e-4)


def test_relative_returns_put_the_baseline_at_1_also_where_returns_are_negative():
    baseline = jnp.array([[90.0, 110.0], [-500.0, -300.0], [-1.0, 1.0]])
    np.testing.assert_allclose(meta.relative_return(baseline.mean(axis=1), baseline), 1.0)
    np.testing.assert_allclose(meta.relative_return(jnp.array([200.0, -200.0, 0.5]), baseline), [2.0, 1.5, 1.5])
    zeros = jnp.array([[0.0, 0.0], [2.0, jnp.nan]])
    np.testing.assert_allclose(meta.relative_return(jnp.array([0.001, 3.0]), zeros), [2.0, 1.5])


TRANSFORMER = pytest.param("EvoTF_ES", marks=pytest.mark.slow)  # by far the longest to compile


@pytest.mark.parametrize("name", [*(n for n in meta.STRATEGIES if n != "EvoTF_ES"), TRANSFORMER])
def test_a_strategy_climbs_a_known_hill(name):
    """From 0 to (1, ..., 1), 3.2 away: the mean must come three times nearer, ties and failures on the way included."""
    config = replace(TINY, strategy=name, population=32)
    strategy, params = meta.make_strategy(config, jnp.zeros(10))

    def generation(state, key):
        ask_key, tie_key, tell_key = jax.random.split(key, 3)
        candidates, state = strategy.ask(ask_key, state, params)
        fitness = jnp.round(-jnp.sum((candidates - 1.0) ** 2, axis=1), 2)
        fitness = fitness.at[0].set(jnp.nan)
        cost = meta.shape_fitness(fitness, "rank", tie_key if meta.weighs_ranks(name) else None)
        return strategy.tell(tell_key, candidates, cost, state, params)[0], None

    start = strategy.init(jax.random.key(0), jnp.zeros(10), params)
    state = jax.jit(lambda s: jax.lax.scan(generation, s, jax.random.split(jax.random.key(1), 200))[0])(start)
    assert jnp.linalg.norm(strategy.get_mean(state) - 1.0) < math.sqrt(10) / 3


@pytest.mark.parametrize("name", ["SNES", "CMA_ES", "Sep_CMA_ES"])
def test_equal_fitness_everywhere_moves_nothing_on_average(name):
    """evosax alone lets the mean drift and the spread collapse when many candidates tie, as on CartPole at 500."""
    strategy, params = meta.make_strategy(replace(TINY, strategy=name, population=32), jnp.zeros(10))

    def generation(state, key):
        ask_key, tie_key, tell_key = jax.random.split(key, 3)
        candidates, state = strategy.ask(ask_key, state, params)
        cost = meta.shape_fitness(jnp.zeros(32), "rank", tie_key)
        return strategy.tell(tell_key, candidates, cost, state, params)[0], None

    start = strategy.init(jax.random.key(0), jnp.zeros(10), params)
    state = jax.jit(lambda s: jax.lax.scan(generation, s, jax.random.split(jax.random.key(1), 20))[0])(start)
    spread = jnp.std(strategy.ask(jax.random.key(2), state, params)[0])
    assert jnp.abs(strategy.get_mean(state)).max() < 0.5 and 0.03 < spread < 0.3


@pytest.mark.parametrize("strategy", ["Open_ES", "PGPE", "SNES", "CMA_ES", "ARS"])
def test_a_plateau_moves_nothing(strategy, monkeypatch):
    """Where no candidate differs there is nothing to learn: MountainCar-v0 in few steps is such a place."""
    outcome = {"episode_return": jnp.full(3, -200.0), "episode_count": jnp.ones(3)}
    level = lambda agent, loss_fn: lambda key: (Trained(jnp.zeros(2)), outcome)  # noqa: E731
    monkeypatch.setattr(ppo, "make_train", level)
    for shaping in ("rank", "zscore") if not meta.weighs_ranks(strategy) else ("rank",):
        config = replace(TINY, strategy=strategy, population=8, fitness_shaping=shaping, generations=5)
        state, metrics = jax.jit(meta.make_train(config))(jax.random.key(0))
        first, last = (jax.tree.leaves(x) for x in (state.first, meta.mean_params(config, state)))
        assert all((x == y).all() for x, y in zip(first, last, strict=True))
        assert (metrics["fitness_std"] == 0).all()


# --- The loop ---------------------------------------------------------------------------------------------------------
class Trained(NamedTuple):
    params: jax.Array
    num_updates: int = 0


def stub_train(agent, loss_fn=ppo.ppo_loss):
    """In place of PPO: an agent whose return says how near the value loss's slope at error 1 is to 5, in e-folds."""
    objective = loss_fn.keywords["value_objective"] if loss_fn is not ppo.ppo_loss else ppo.clipped_squared_error

    def train(key, state=None, num_updates=10):
        slope = jax.grad(lambda value: objective(value, jnp.zeros(()), jnp.ones(()), agent))(1.0)
        distance = jnp.abs(jnp.log(jnp.maximum(slope, 1e-3) / 5.0))
        returns = jnp.full(10, -distance).at[0].set(jnp.nan)  # no episode ended in the first update
        return Trained(slope), {"episode_return": returns, "episode_count": jnp.ones(10).at[0].set(0)}

    return train


def lottery(agent, loss_fn):
    """In place of PPO: an agent whose return is its key's luck alone."""
    outcome = lambda key: {"episode_return": jnp.full(3, jax.random.normal(key)), "episode_count": jnp.ones(3)}  # noqa: E731
    return lambda key: (Trained(jnp.zeros(2)), outcome(key))


def test_a_generation_is_pure_and_its_keys_are_new_each_time(monkeypatch):
    monkeypatch.setattr(ppo, "make_train", lottery)
    run = meta.make_train(replace(TINY, seeds_per_candidate=2))
    state, metrics = jax.jit(run)(jax.random.key(0))
    again, same = jax.jit(run)(jax.random.key(0))
    assert jax.tree.all(jax.tree.map(lambda x, y: (raw(x) == raw(y)).all(), (state, metrics), (again, same)))
    half = jax.jit(lambda key: run(key, num_updates=2)[0])(jax.random.key(0))
    rest = jax.jit(lambda state: run(None, state=state, num_updates=2))(half)[0]
    assert jax.tree.all(jax.tree.map(lambda x, y: (raw(x) == raw(y)).all(), state, rest))
    other = jax.jit(run)(jax.random.key(1))[0]
    assert not jax.tree.all(jax.tree.map(lambda x, y: (x == y).all(), state.es_state.mean, other.es_state.mean))
    assert state.generation == 4 and len(set(metrics["fitness_mean"].tolist())) == 4
    assert (metrics["fitness_std"] < 1e-6).all()  # within a generation, all candidates meet the same agents
    assert len(set(state.baseline.reshape(-1).tolist())) == meta.BASELINE_SEEDS


def raw(x):
    return jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else jnp.nan_to_num(x)


@pytest.mark.parametrize("at_once", [0, 2])
def test_members_on_two_devices_and_in_batches_give_what_vmap_gives(at_once, monkeypatch):
    monkeypatch.setattr(ppo, "make_train", stub_train)
    config = replace(TINY, population=6, seeds_per_candidate=3)
    expected = jax.jit(meta.make_train(config))(jax.random.key(0))[1]
    found = jax.jit(meta.make_train(config, Spread(make_mesh(4), at_once)))(jax.random.key(0))[1]
    np.testing.assert_allclose(found["fitness_mean"], expected["fitness_mean"], rtol=1e-4)


def test_spread_pads_and_batches():
    for count, at_once in ((1, 0), (5, 0), (5, 2), (7, 3), (8, 1)):
        triple = jax.jit(Spread(make_mesh(2), at_once)(lambda x, y: x["a"] * y))
        assert triple({"a": jnp.arange(count)}, jnp.full(count, 3.0)).tolist() == [3.0 * i for i in range(count)]


UPHILL = {
    "default": {},
    "SNES": {"strategy": "SNES", "start": "scratch", "fitness": "final"},
    "zscore": {"fitness_shaping": "zscore", "std_decay": 0.99, "es_lr_decay": 0.99},
    "two environments": {"env_ids": ("CartPole-v1", "Acrobot-v1"), "seeds_per_candidate": 2},
}


@pytest.mark.parametrize("name", UPHILL)
def test_evolution_goes_uphill(name, monkeypatch):
    monkeypatch.setattr(ppo, "make_train", stub_train)
    config = replace(TINY, population=16, generations=60, **UPHILL[name])
    state, metrics = jax.jit(meta.make_train(config))(jax.random.key(0))
    fitness = metrics["fitness_mean"]
    assert fitness[-5:].mean() > fitness[:2].mean() + 0.1
    agent = meta.make_agent(config, "CartPole-v1", "learned")
    first, last = (agent(params, {}, None)[0] for params in (state.first, meta.mean_params(config, state)))
    assert last > first + 0.8  # from the hand-written loss, whose slope is 1, it is 1.6 to the top


def test_candidates_that_fail_are_counted_and_harm_nothing(monkeypatch):
    def fail(agent, loss_fn):
        def train(key):
            trained, metrics = stub_train(agent, loss_fn)(key)
            return Trained(jnp.where(trained.params > limit, jnp.nan, trained.params)), metrics

        return train

    monkeypatch.setattr(ppo, "make_train", fail)
    for limit, failing in ((1.0, range(1, 16)), (-1e9, [16])):  # noqa: B007 - fail reads it
        config = replace(TINY, population=16, generations=1)
        run = jax.jit(meta.make_train(config))
        state, metrics = run(jax.random.key(0))
        assert int(metrics["nan_candidates"][0]) in failing
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(meta.mean_params(config, state)))
        moved = [
            (x != y).any()
            for x, y in zip(*map(jax.tree.leaves, (state.first, meta.mean_params(config, state))), strict=True)
        ]
        assert any(moved) == (len(failing) > 1)  # where all fail, nothing is known: the distribution stays


@pytest.mark.parametrize(("unknown", "expected"), [(10, [2.8, 5.0]), (19, [8.0, 8.0]), (20, [np.nan, np.nan])], ids=str)
def test_outcomes_are_the_mean_over_known_returns_and_the_last_tenth(unknown, expected, monkeypatch):
    returns = jnp.array([jnp.nan] * unknown + ([2.0] * 18 + [4.0, 8.0])[unknown:])
    counts = jnp.where(jnp.isnan(returns), 0, 1).at[-2].mul(3)  # three episodes of 4.0, one of 8.0
    trained = Trained(jnp.zeros(2)), {"episode_return": returns, "episode_count": counts}
    monkeypatch.setattr(ppo, "make_train", lambda agent, loss_fn: lambda key: trained)
    np.testing.assert_allclose(meta.make_agent(TINY, "CartPole-v1", "DPO")({}, {}, None), expected, rtol=1e-6)


OTHER = dict(
    env_ids=("CartPole-v1", "Acrobot-v1"), learn="both", start="scratch", loss_hidden_size=5, population=6,
    generations=3, seeds_per_candidate=2, fitness="final", fitness_shaping="zscore", strategy="SNES", std_init=0.2,
    std_decay=0.9, es_lr=0.1, es_lr_decay=0.9, scaled=True, timed=True,
)  # fmt: skip


def test_every_field_changes_the_program(monkeypatch):
    """The fields of ppo.Config are tested with ppo.py; these are traced, not compiled."""
    own = {f.name for f in fields(meta.Config)} - {f.name for f in fields(ppo.Config)}
    assert own == set(OTHER)
    monkeypatch.setattr(ppo, "make_train", stub_train)
    programs = [str(jax.make_jaxpr(meta.make_train(TINY))(jax.random.key(0)))]
    for name, value in OTHER.items():
        programs.append(str(jax.make_jaxpr(meta.make_train(replace(TINY, **{name: value})))(jax.random.key(0))))
    same = [name for name, program in zip(OTHER, programs[1:], strict=True) if program == programs[0]]
    assert not same, f"{same} change nothing"


@pytest.mark.parametrize("strategy", ["Open_ES", "SNES"])
def test_its_own_floats_may_be_traced(strategy, monkeypatch):
    monkeypatch.setattr(ppo, "make_train", stub_train)
    config = replace(TINY, strategy=strategy)
    floats = {f.name: getattr(config, f.name) for f in fields(meta.Config) if f.name in OTHER and f.type is float}

    def found(floats):
        return meta.make_train(replace(config, **floats))(jax.random.key(0))[0].es_state.mean

    traced = jax.jit(found)({name: jnp.float32(value) for name, value in floats.items()})
    np.testing.assert_allclose(traced, jax.jit(lambda: found(floats))(), rtol=1e-5)
    assert set(floats) == {"std_init", "std_decay", "es_lr", "es_lr_decay"}


def test_two_loss_networks_start_from_different_numbers():
    params = meta.init_params(meta.LossSpec("both", "scratch", 16), jax.random.key(0))
    last = [np.asarray(params[name]["params"]["Dense_1"]["kernel"]) for name in ("value", "policy")]
    assert last[0].shape == last[1].shape and (last[0] != last[1]).all()


# --- Config -----------------------------------------------------------------------------------------------------------
BAD = [
    ("--population 7", ["population = 7 does not suit Open_ES", "use 8"]),
    ("--population 1 --strategy SNES", ["population must be at least 2"]),
    ("--population 0", ["population must be a whole number from 1"]),
    ("--strategy OpenES", ["'OpenES'", "Open_ES"]),
    ("--strategy Adam", ["strategy must be one of"]),
    ("--strategy SV_CMA_ES", ["did you mean Sep_CMA_ES?"]),
    ("--strategy SNES --fitness-shaping zscore", ["fitness_shaping must be rank for SNES"]),
    ("--learn critic", ["learn must be value or policy or both, not 'critic'"]),
    ("--start scrach", ["start must be handwritten or scratch, not 'scrach'"]),
    ("--fitness best", ["'best'"]),
    ("--std-init 0", ["std_init must be finite and more than 0"]),
    ("--es-lr nan", ["es_lr must be finite"]),
    ("--generations 0", ["generations must be a whole number from 1"]),
    ("--env-id Acrobot-v1", ["there is no flag --env-id; did you mean --env-ids?"]),
    ("--env_id=Acrobot-v1", ["there is no flag --env_id"]),
    ("--env-ids CartPole", ["'CartPole' is not a gymnax environment", "CartPole-v1"]),
    ("--env-ids CartPole-v1 CartPole-v1", ["must be different environments"]),
    ("--env-ids CartPole-v1 Acrobot-v1 --env-params gravity=5", ["Acrobot-v1 has no parameter 'gravity'"]),
    ("--total-timesteps 100", ["at least 512"]),
    ("--lr -1", ["lr must be finite"]),
    ("--preset gpu", ["--preset must be one of cpu, purejaxrl, lpo, not 'gpu'"]),
    ("--preset", ["--preset"]),
    ("--held-out Acrobat-v1", ["--held-out", "Acrobot-v1"]),
    ("--eval-seeds 1", ["eval_seeds must be 0 or at least 2"]),
    ("--popluation 4", ["did you mean --population?"]),
    ("--resume nowhere", ["no run directory"]),
    ("--run-dir .", ["exists already"]),
    ("evaluate", ["needs --loss"]),
    ("evaluate --loss nowhere", ["no learned loss at nowhere"]),
    ("evaluate --loss .", ["no learned loss at"]),
    ("evaluate --loss whole.npz --env-ids Acrobat-v1", ["--env-ids", "Acrobot-v1"]),
    ("evaluate --loss whole.npz --env-params gravity=20", ["must name one of CartPole-v1, ", "as in CartPole-v1:max_"]),
    ("evaluate --loss whole.npz --env-params CartPole-v1:x=1", ["CartPole-v1 has no parameter 'x'"]),
    ("evaluate --loss whole.npz --env-params CartPole-v1:gravity=1 CartPole-v1:length=1", ["CartPole-v1 twice"]),
    ("evaluate --loss whole.npz --num-seeds 1", ["num_seeds must be a whole number of at least 2"]),
    ("evaluate --loss whole.npz --total-timesteps 5", ["at least 128"]),
    ("evaluate --loss cut.npz", ["cut.npz is no whole learned loss"]),
    ("evaluate --loss text.npz", ["text.npz is no whole learned loss"]),
    ("evaluate --loss pickled.npz", ["pickled.npz is no whole learned loss"]),
    ("evaluate --loss foreign.npz", ["foreign.npz is no whole learned loss"]),
    ("evaluate --loss shapes.npz", ["do not belong to a loss of"]),
    ("evaluate --loss nan.npz", ["do not belong to a loss of"]),
    ("evaluate --loss settings.npz", ["its settings do not fit meta_evolve_loss.py"]),
    ("evaluate --loss start.npz", ["is no whole learned loss"]),
    ("evaluate --loss whole.npz --run-dir .", ["exists already"]),
    ("--env-params gravity=5 --held-out Catch-bsuite", ["--held-out Catch-bsuite can't be used", "'gravity'"]),
    ("--init-from .", ["--init-from starts agents"]),
    ("--resume old", ["begun by version 0.2.0, whose checkpoints are no longer read"]),
    ("--strategy ESMC", ["strategy must be one of"]),
]  # fmt: skip


def main_in_process(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(meta.__file__, meta.Config, ppo.make_env, meta.make_train, kind=Evolution(meta), argv=list(arguments))
    return stop.value.code


def save(path, config=TINY, key=0):
    learned, first = (meta.init_params(meta.loss_spec(config), jax.random.key(key + i)) for i in range(2))
    meta.save_loss(path, config, learned, first)
    return learned, first


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Learned losses, one whole and others not."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "old").mkdir()
    old = {"script": "meta_evolve_loss", "config": {}, "options": {"preset": "cpu", "seed": 0}}
    (folder / "old/config.json").write_text(json.dumps(old))
    save(folder / "whole.npz")
    whole = (folder / "whole.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (folder / "text.npz").write_text("not a loss")
    np.savez(folder / "pickled.npz", settings=np.array({"a": 1}, dtype=object))
    np.savez(folder / "foreign.npz", x=np.ones(3))
    arrays = dict(np.load(folder / "whole.npz"))
    name = "learned/value/params/Dense_0/kernel"
    np.savez(folder / "shapes.npz", **arrays | {name: arrays[name][:2]})
    np.savez(folder / "nan.npz", **arrays | {name: arrays[name] * np.nan})
    settings = json.loads(str(arrays["settings"]))
    for wrong, part, value in (
        ("settings", "config", {"x": 1}),
        ("start", "spec", settings["spec"] | {"start": "bar"}),
    ):
        np.savez(folder / f"{wrong}.npz", **arrays | {"settings": json.dumps(settings | {part: value})})
    return folder


@pytest.mark.parametrize(("arguments", "expected"), BAD, ids=[row[0] for row in BAD])
def test_bad_input_gets_one_line_and_exit_code_2(arguments, expected, files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    before = sorted(files.iterdir())
    assert main_in_process(*arguments.split()) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "Traceback" not in printed and all(text in printed for text in expected), (
        printed
    )
    assert sorted(files.iterdir()) == before


def test_python_gets_the_same_words():
    with pytest.raises(ValueError, match="population = 7 does not suit Open_ES"):
        meta.Config(population=7)
    with pytest.raises(ValueError, match="no learned loss at nowhere"):
        meta.load_loss("nowhere")
    with pytest.raises(ValueError, match="fitness_shaping must be rank for SNES"):
        meta.Config(strategy="SNES", fitness_shaping="zscore")
    with pytest.raises(ValueError, match="use at least 512"):
        meta.Config(total_timesteps=100)


def test_a_default_refuses_nothing_that_was_asked_for(capsys):
    """Acrobot-v1, where losses are compared by default, has no gravity to set: nobody asked for it."""
    assert make_plan(SCRIPT, ["--env-params", "gravity=5"]).options.held_out == ()
    assert "note: compared only where it evolves" in capsys.readouterr().out
    assert make_plan(SCRIPT, []).options.held_out == ("Acrobot-v1",)


def test_presets_are_valid_and_what_their_sources_say():
    found = {name: meta.Config(**changes) for name, changes in meta.PRESETS.items()}
    agent = meta.agent_config(found["purejaxrl"], "CartPole-v1")
    assert (found["purejaxrl"].population, found["purejaxrl"].generations) == (512, 1024)
    assert 1.0e11 <= agent.num_updates * agent.steps_per_update * 512 * 1024 < 1.01e11
    assert found["cpu"] == meta.Config()
    assert (found["lpo"].std_init, found["lpo"].std_decay, found["lpo"].es_lr) == (0.04, 0.999, 0.01)


# --- Files ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("learn", LEARN)
def test_a_loss_is_read_as_it_was_written_and_trains(learn, tmp_path):
    numbers = {"population": np.int64(TINY.population), "lr": jnp.float32(1e-3)}  # as a notebook may have them
    config = replace(TINY, learn=learn, start="scratch", env_ids=("Pendulum-v1",), **numbers)
    learned, first = save(tmp_path / "learned_loss.npz", config)
    found = meta.read_loss(tmp_path)  # by its folder
    assert jax.tree.all(jax.tree.map(lambda x, y: (x == y).all(), (found.learned, found.first), (learned, first)))
    with zipfile.ZipFile(tmp_path / "learned_loss.npz") as archive:
        assert all(name.endswith(".npy") for name in archive.namelist())
    with np.load(tmp_path / "learned_loss.npz", allow_pickle=False) as file:  # nothing in it is pickled
        assert {x.dtype.kind for x in file.values()} == {"f", "U"}
    if learn == "both":  # a continuous environment serves a learned drift like any other
        agent = meta.agent_config(config, "Pendulum-v1")
        state, metrics = jax.jit(ppo.make_train(agent, meta.load_loss(tmp_path)))(jax.random.key(0))
        assert (
            all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
            and np.isfinite(metrics["value_loss"]).all()
        )


def test_a_timed_loss_is_trained_with_by_load_train_alone(tmp_path):
    config = replace(TINY, timed=True, scaled=True)
    save(tmp_path / "learned_loss.npz", config)
    with pytest.raises(ValueError, match=r"changes over a training: use load_train"):
        meta.load_loss(tmp_path)
    agent = meta.agent_config(config, "CartPole-v1")
    shapes = jax.eval_shape(meta.load_train(tmp_path, agent), jax.random.key(0))
    assert shapes == jax.eval_shape(ppo.make_train(agent), jax.random.key(0))


# --- Statistics -------------------------------------------------------------------------------------------------------
def test_probability_of_improvement_against_all_pairs():
    x, y = np.array([1.0, 2.0, 5.0, np.nan]), np.array([2.0, 0.0, 3.0])
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in (1.0, 2.0, 5.0, -9.0) for b in y]  # NaN is worst
    found = probability_of_improvement(x, y)
    assert found["p"] == pytest.approx(np.mean(pairs)) and found["low"] <= found["p"] <= found["high"]
    assert probability_of_improvement(y + 10, y) == {"p": 1.0, "low": 1.0, "high": 1.0}
    assert math.isnan(probability_of_improvement(x, [1.0])["p"])


def test_the_tuned_point_is_the_best_mean_among_those_that_fail_least():
    tuning = pd.DataFrame(
        {"vf_coef": [1.0, 1.0, 2.0, 2.0, 3.0, 3.0], "final_return": [5.0, 7.0, 6.5, 6.5, 99.0, np.nan]}
    )
    points = [{"vf_coef": v} for v in (1.0, 2.0, 3.0)]
    assert compare.best_point(tuning, points, "final_return") == {"vf_coef": 2.0}


def test_a_loss_is_better_only_where_intervals_lie_apart():
    def scores(low, high, nan_agents=0):
        return {"final_return": {"low": low, "high": high}, "nan_agents": nan_agents, "agents": 8}

    nothing = scores(math.nan, math.nan, nan_agents=8)
    for own, other, expected in (
        (scores(3.0, 4.0), scores(1.0, 2.0), "better"),
        (scores(1.0, 2.0), scores(3.0, 4.0), "worse"),
        (scores(1.0, 3.0), scores(2.0, 4.0), "not better"),
        (scores(3.0, 4.0, nan_agents=1), scores(1.0, 2.0), "not better"),
        (scores(3.0, 4.0, nan_agents=1), scores(1.0, 2.0, nan_agents=1), "better"),
        (scores(1.0, 2.0), scores(3.0, 4.0, nan_agents=4), "not better"),  # half of the others failed
        (scores(1.0, 2.0, nan_agents=1), scores(3.0, 4.0), "worse"),
        (nothing, scores(1.0, 2.0), "worse"),
        (scores(1.0, 2.0), nothing, "better"),
        (nothing, nothing, "not better"),
    ):
        assert compare.verdict(own, other, "final_return") == expected
    few = scores(3.0, 4.0) | {"agents": 7}
    assert compare.verdict(few, scores(1.0, 2.0), "final_return") == "none: fewer than 8 agents"


# --- Whole runs -------------------------------------------------------------------------------------------------------
GENERATIONS = 30
EVOLVE = [
    "--total-timesteps", "4096", "--hidden-size", "8", "--population", "4", "--loss-hidden-size", "4",
    "--learn", "both", "--env-ids", "Catch-bsuite", "--generations", str(GENERATIONS), "--lr", "0.01",
    "--held-out", "--tune-seeds", "1", "--checkpoint-every", "2",
]  # fmt: skip
RUN = [*EVOLVE, "--eval-seeds", "4"]


def digest(run):
    return json.loads((run / f"checkpoints/batch-000/{GENERATIONS}/notes/metadata").read_text())["digest"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, environment):
    cwd = tmp_path_factory.mktemp("whole")
    found = python(ROOT / "meta_evolve_loss.py", *RUN, "--run-dir", "run", env=environment, cwd=cwd)
    assert found.returncode == 0, found.stderr
    assert "hand-written loss: fitness -0." in found.stdout and "env steps/s" in found.stdout
    return cwd / "run"


def wait_for(folder, least, process):
    """Until there is a checkpoint of so many generations or more."""
    while not any(p.name.isdigit() and int(p.name) >= least for p in folder.glob("*")):
        assert process.poll() is None, "ended too early to be stopped"
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_stopped_and_resumed_gives_the_same_bits(environment, tmp_path):
    """kill -9, the newest checkpoint damaged, then Ctrl-C. What is compared afterwards is in `whole` above."""
    run, whole, words = tmp_path / "run", tmp_path / "whole", [*EVOLVE, "--eval-seeds", "0"]
    found = python(ROOT / "meta_evolve_loss.py", *words, "--run-dir", whole, env=environment, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    process = start(*words, "--run-dir", run, script="meta_evolve_loss.py", env=environment, cwd=tmp_path)
    wait_for(run / "checkpoints/batch-000", 3, process)  # in the second chunk: then there are two
    process.kill()
    process.wait()
    newest = damage_newest(run / "checkpoints/batch-000")
    process = start("--resume", run, script="meta_evolve_loss.py", env=environment, cwd=tmp_path)
    wait_for(run / "checkpoints/batch-000", int(newest.name) + 1, process)
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=120)[0]
    assert process.returncode == 130 and "Traceback" not in printed
    assert f"go on with: python meta_evolve_loss.py --resume {run}" in printed
    found = python(ROOT / "meta_evolve_loss.py", "--resume", run, env=environment, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert f"checkpoint {newest} is damaged" in printed
    assert sha256(run / "metrics.csv") == sha256(whole / "metrics.csv") and digest(run) == digest(whole)
    assert len(pd.read_csv(run / "metrics.csv")) == GENERATIONS
    assert json.loads((run / "summary.json").read_text())["timing"]["train_seconds"] > 0


SEVERAL = [
    "--total-timesteps", "2048", "--num-steps", "32", "--hidden-size", "8", "--population", "4", "--generations", "3",
    "--loss-hidden-size", "4", "--lr", "0.01", "--start", "scratch", "--eval-seeds", "0",
]  # fmt: skip


SWEEP = ["--num-seeds", "2", "--seed", "3", "--sweep", "es_lr=0.01,0.1"]


@pytest.mark.slow
def test_several_evolutions_are_members_of_one_run(tmp_path, capsys):
    """Two seeds of two step sizes: a loss of each, and that of the best point's first seed on top."""
    run = tmp_path / "run"
    assert main_in_process(*SEVERAL, *SWEEP, "--no-compile-cache", "--run-dir", str(run)) == 0
    printed = capsys.readouterr().out
    summary = json.loads((run / "summary.json").read_text())
    assert [(p["values"], p["seeds"]) for p in summary["points"]] == [({"es_lr": 0.01}, 2), ({"es_lr": 0.1}, 2)]
    assert [row["seed"] for row in summary["members"]] == [3, 4, 3, 4]
    table = pd.read_csv(run / "metrics.csv")
    assert len(table) == 4 * 3 and (table["env_steps"] == table["update"] * 4 * 2048).all()
    last = table[table["update"] == 3].set_index("member")
    assert len(set(last["fitness_mean"])) == 4 and last["es_lr"].tolist() == [0.01, 0.01, 0.1, 0.1]
    assert [row["final_return"] for row in summary["members"]] == pytest.approx(last["fitness_mean"].tolist())
    best = 2 * summary["best_point"]
    assert summary["evolution"]["member"] == best and f"of member {best} (seed 3" in printed
    assert summary["evolution"]["fitness_mean"] == pytest.approx(last["fitness_mean"][best])
    assert sorted(path.name for path in (run / "losses").iterdir()) == ["000.npz", "001.npz", "002.npz", "003.npz"]
    assert sha256(run / "learned_loss.npz") == sha256(run / f"losses/{best:03d}.npz")
    losses = [meta.read_loss(run / f"losses/{member:03d}.npz") for member in range(4)]
    assert [loss.config["es_lr"] for loss in losses] == [0.01, 0.01, 0.1, 0.1]
    means = [np.asarray(loss.learned["value"]["params"]["Dense_0"]["kernel"]) for loss in losses]
    assert all((x != y).any() for i, x in enumerate(means) for y in means[:i])


@pytest.mark.slow
def test_an_evolution_among_several_gives_the_bits_of_one_alone(users_environment, tmp_path):
    """Seed 4 with the larger step, among four members and as a run of its own."""
    for name, words in (("all", SWEEP), ("alone", ["--seed", "4", "--es-lr", "0.1"])):
        words = [*SEVERAL, *words, "--run-dir", name]
        found = python(ROOT / "meta_evolve_loss.py", *words, env=users_environment, cwd=tmp_path)
        assert found.returncode == 0, found.stderr
    assert not re.search(r"^[EW]\d{4} ", found.stderr, re.MULTILINE)  # jaxlib's C++ code, of programs in the cache
    table, alone = (pd.read_csv(tmp_path / name / "metrics.csv", dtype=str) for name in ("all", "alone"))
    own = table[table["member"] == "3"].drop(columns=["member", "es_lr"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(own, alone.drop(columns="member"))
    losses = meta.read_loss(tmp_path / "all/losses/003.npz"), meta.read_loss(tmp_path / "alone")
    assert losses[0].config == losses[1].config and not (tmp_path / "alone/losses").exists()
    for x, y in zip(*(jax.tree.leaves((loss.learned, loss.first)) for loss in losses), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_agents_that_do_not_fit_into_memory_are_trained_in_batches(tmp_path, monkeypatch, capsys):
    """The largest population that is mapped at once is that of the baseline, 64 agents; the members stay one batch."""
    mesh = make_mesh(2)
    words = [*SEVERAL, "--num-seeds", "2"]
    write_json(tmp_path / "config.json", {"script": "meta_evolve_loss", "options": {}})
    whole = program.program_of(plan := make_plan(SCRIPT, words), plan.batches[0], mesh)
    assert whole.mapped == meta.BASELINE_SEEDS

    def fitted(free, *more):
        monkeypatch.setattr(program, "free_bytes", lambda processes: free)
        return program.fit_memory(make_plan(SCRIPT, [*words, *more]), mesh, tmp_path, print)

    plan = fitted(0.6 * whole.bytes_per_device)
    size = plan.options.max_members_at_once
    assert size < meta.BASELINE_SEEDS and size % 2 == 0 and [len(batch.members) for batch in plan.batches] == [2]
    printed = capsys.readouterr().out
    assert "64 agents at once would take" in printed and f"as with --max-members-at-once {size}" in printed
    assert json.loads((tmp_path / "config.json").read_text())["options"]["max_members_at_once"] == size
    less = program.program_of(plan, plan.batches[0], mesh)
    assert less.bytes_per_device < whole.bytes_per_device
    assert fitted(1.0, "--max-members-at-once", "8").options.max_members_at_once == 8  # by hand goes first
    assert fitted(1e12) == make_plan(SCRIPT, words)


@pytest.mark.slow
def test_resuming_refuses_other_settings(whole, capsys):
    assert main_in_process("--resume", str(whole), "--population", "8") == 2
    assert "goes on with population = 4, not 8" in capsys.readouterr().err
    assert main_in_process("--resume", str(whole), "--preset", "lpo") == 2
    assert "goes on with preset = cpu, not lpo" in capsys.readouterr().err
    assert main_in_process("--resume", str(whole), "--eval-seeds", "8") == 2
    assert f"compared already; for another comparison type python meta_evolve_loss.py evaluate --loss {whole}" in (
        capsys.readouterr().err
    )


@pytest.mark.slow
def test_an_evolution_that_is_compared_already_is_reported_again(whole, capsys):
    """By --resume with nothing left to do."""
    before = json.loads((whole / "summary.json").read_text())
    (whole / "fitness.png").unlink()
    assert main_in_process("--resume", str(whole)) == 0
    after = json.loads((whole / "summary.json").read_text())
    assert after["environments"] == before["environments"] and after["timing"]["train_seconds"] > 0
    for name in ("fitness.png", "value_loss.png", "drift.png", "comparison.png"):
        assert (whole / name).stat().st_size > 10_000


@pytest.mark.slow
def test_the_comparison_is_of_five_losses_on_the_same_fresh_seeds(whole):
    table, tuning = (pd.read_csv(whole / name) for name in ("evaluation.csv", "tuning.csv"))
    assert list(table) == ["env_id", "loss", "seed", "mean_over_training", "final_return"] and len(table) == 20
    assert [set(rows["seed"]) for _, rows in table.groupby("loss")] == [{10000, 10001, 10002, 10003}] * 5
    assert not set(tuning["seed"]) & set(table["seed"]) and len(tuning) == 30  # 6 vf_coef, 5 clip_eps
    means = table.groupby("loss")["mean_over_training"].mean()
    assert len(set(means.round(6))) >= 3 and means["generation 0"] == pytest.approx(means["hand-written"], abs=0.02)
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["timing"]["env_steps_per_second"] > 0 and summary["evolution"]["nan_candidates"] == 0
    found = summary["environments"]["Catch-bsuite"]
    assert set(found["losses"]) == set(table["loss"]) and set(found["tuned"]) == {"vf_coef", "clip_eps"}
    assert found["losses"]["learned"]["mean_over_training"]["mean"] == pytest.approx(means["learned"])
    # An agent alone gives what it gave in the comparison
    config = from_json(meta.Config, json.loads((whole / "config.json").read_text())["config"])
    agent = meta.agent_config(config, "Catch-bsuite")
    returns = jax.jit(ppo.make_train(agent, meta.load_loss(whole)))(jax.random.key(10001))[1]["episode_return"]
    row = table[(table["loss"] == "learned") & (table["seed"] == 10001)]
    assert float(row["mean_over_training"].iloc[0]) == pytest.approx(float(jnp.nanmean(returns)), abs=0.02)


@pytest.mark.slow
def test_each_environment_of_a_comparison_has_parameters_of_its_own(tmp_path, monkeypatch):
    """An episode that lasts 7 steps shows in the return, and only where that was asked for."""
    config = replace(TINY, env_ids=("CartPole-v1",), env_params="max_steps_in_episode=5")
    save(tmp_path / "learned_loss.npz", config)
    monkeypatch.setitem(meta.TUNING, "value", {"vf_coef": (0.5,)})
    words = ["--env-ids", "CartPole-v1", "Acrobot-v1", "--env-params", "Acrobot-v1:max_steps_in_episode=7"]
    sizes = ["--num-seeds", "2", "--tune-seeds", "1", "--no-compile-cache"]
    assert main_in_process("evaluate", "--loss", str(tmp_path), *words, *sizes) == 0
    table = pd.read_csv(tmp_path / "evaluation.csv").groupby("env_id")["final_return"]
    assert table.unique().apply(list).to_dict() == {"CartPole-v1": [5.0], "Acrobot-v1": [-7.0]}
    assert json.loads((tmp_path / "summary.json").read_text())["comparison"]["env_params"] == words[-1:]


def stub_compare(module, config, learned, first, options, mesh):
    """In place of training: every loss is as good as its place in the list."""
    rows = [
        {"env_id": env_id, "loss": loss, "seed": seed, "mean_over_training": 5.0 - i + seed % 2, "final_return": 1.0}
        for env_id in options.env_ids
        for i, loss in enumerate((compare.LEARNED, compare.DEFAULT, compare.TUNED, compare.DPO, compare.FIRST))
        for seed in range(options.seed, options.seed + options.num_seeds)
    ]
    tuning = [{"env_id": e, "vf_coef": v, "mean_over_training": v} for e in options.env_ids for v in (0.1, 0.5)]
    return pd.DataFrame(rows), pd.DataFrame(tuning)


def test_evaluate_writes_beside_a_loss_and_keeps_what_was_there(tmp_path, monkeypatch, capsys):
    save(tmp_path / "learned_loss.npz", replace(TINY, env_ids=("Catch-bsuite",)))
    monkeypatch.setattr(compare, "compare", stub_compare)
    command = ("evaluate", "--loss", str(tmp_path), "--no-compile-cache", "--num-seeds")
    assert main_in_process(*command, "4") == 0
    printed = capsys.readouterr().out
    assert "Catch-bsuite (evolved on)" in printed and "Acrobot-v1 (held out)" in printed and "vf_coef 0.5" in printed
    first = (tmp_path / "evaluation.csv").read_bytes()
    assert main_in_process(*command, "8", "--env-ids", "Catch-bsuite", "Catch-bsuite") == 0
    assert (tmp_path / "evaluation-1/evaluation.csv").read_bytes() == first
    assert len(pd.read_csv(tmp_path / "evaluation.csv")) == 5 * 8  # an environment given twice counts once
    losses = json.loads((tmp_path / "summary.json").read_text())["environments"]["Catch-bsuite"]["losses"]
    assert losses["DPO"]["learned_is"] == "better" and losses["DPO"]["probability_that_learned_is_better"]["p"] == 1.0

    def stop(*args):
        raise Interrupted

    monkeypatch.setattr(compare, "compare", stop)
    assert main_in_process(*command, "4") == 130 and "nothing was written" in capsys.readouterr().out
    assert len(pd.read_csv(tmp_path / "evaluation.csv")) == 5 * 8 and not (tmp_path / "evaluation-2").exists()
    elsewhere = (*command, "4", "--run-dir", str(tmp_path / "elsewhere"))
    assert main_in_process(*elsewhere) == 130
    monkeypatch.setattr(compare, "compare", stub_compare)
    assert main_in_process(*elsewhere) == 0  # what was stopped can be typed again
    assert main_in_process(*elsewhere) == 2 and "exists already" in capsys.readouterr().err


def test_ctrl_c_stops_a_comparison():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted), compare.interruptible():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before

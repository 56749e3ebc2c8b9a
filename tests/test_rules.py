"""benchmarks/rules.py: what it trains, what it chooses, and that it goes on where it was."""

import sys
from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest
import rules

import meta_evolve_loss as meta
import ppo

SIZE = rules.Size(points=8, seeds=3, steps=512)


def searched(returns):
    """Rows of a search of points whose returns are given for two environments; the last two see values in units."""
    points = [{name: float(i) for name in rules.SPACE} for i in range(len(returns))]
    rows = [
        {"env_id": env_id, "point": i} | point | {rules.OUTCOME: x, "scaled": i >= len(returns) - 2}
        for i, (point, pair) in enumerate(zip(points, returns, strict=True))
        for env_id, x in zip(("CartPole-v1", "Acrobot-v1"), pair, strict=True)
    ]
    return pd.DataFrame(rows)


def test_the_best_point_has_the_best_mean_rank_and_none_that_failed():
    table = searched([(500.0, -500.0), (40.0, -300.0), (50.0, -310.0), (45.0, np.nan)])
    both = ["CartPole-v1", "Acrobot-v1"]
    assert rules.best_point(table, ["CartPole-v1"]) == 0 and rules.best_point(table, ["Acrobot-v1"]) == 1
    # ranks, 4 the best: (4, 2), (1, 4), (3, 3), (2, 1); a size of 500 counts for nothing
    assert rules.votes_of(table, both).tolist() == [0.75, 0.625, 0.75, 0.375]
    table = searched([(500.0, -500.0), (40.0, -300.0), (50.0, -290.0), (45.0, np.nan)])
    assert rules.best_point(table, both) == 2
    assert rules.best_point(table, both, np.array([True, True, False, True])) == 0


def test_points_are_valid_settings_and_begin_with_ppos_own():
    found = rules.points(64)
    assert found[0] == {name: getattr(ppo.Config(), name, False) for name in rules.SPACE}
    assert len({str(point) for point in found}) == 64
    for name in rules.STATIC:
        assert {point[name] for point in found} == {True, False}
    for point in found:
        meta.Config(**point)
    assert not set(rules.SUITE) & set(rules.HELD_OUT)


@pytest.fixture
def stub(monkeypatch):
    """In place of training: a return that says how near lr is to 1e-3, in e-folds."""
    calls = []

    def outcomes(config, env_id, loss, params, floats, seeds):
        calls.append((config, env_id, loss, params))
        lr = np.asarray(floats.get("lr", [config.lr] * len(seeds)))
        near = -np.abs(np.log(lr / 1e-3)) + 1e-3 * (np.asarray(seeds) % 10) + (loss == "learned")
        return dict.fromkeys(meta.OUTCOMES, near)

    def train(script, words, run_dir, settings):
        run_dir.mkdir(parents=True, exist_ok=True)
        config = meta.Config(env_ids=rules.SUITE, **settings)
        params = meta.init_params(meta.loss_spec(config), jax.random.key(0))
        meta.save_loss(run_dir / "learned_loss.npz", config, params, params)
        calls.append((script, words, settings))

    monkeypatch.setattr(rules, "outcomes", outcomes)
    monkeypatch.setattr(rules, "train", train)
    return calls


def call(monkeypatch, tmp_path, *words):
    sizes = [f"--{name}={value}" for name, value in SIZE._asdict().items()]
    where = ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["rules.py", *words, *sizes, *where])
    rules.main()


def test_all_parts_follow_one_another_and_nothing_is_done_twice(stub, monkeypatch, tmp_path):
    call(monkeypatch, tmp_path, "search")
    table = pd.read_csv(tmp_path / "rules_search.csv")
    assert set(table["env_id"]) == set(rules.SUITE) and len(table) == 5 * SIZE.points
    best = min(rules.points(SIZE.points), key=lambda point: abs(np.log(point["lr"] / 1e-3)))
    assert rules.settings_of(table, rules.best_point(table, rules.SUITE)) == pytest.approx(best)
    assert {config.total_timesteps for config, *_ in stub} == {512} and {loss for *_, loss, _ in stub} == {
        "hand-written"
    }
    programs = {tuple(getattr(config, name) for name in rules.STATIC) for config, *_ in stub}
    assert programs == {tuple(point[name] for name in rules.STATIC) for point in rules.points(SIZE.points)}

    stub.clear()
    call(monkeypatch, tmp_path, "evolve", "--rules", "both, timed")
    ((script, words, settings),) = stub
    assert script == "meta_evolve_loss" and words[1 : 1 + len(rules.SUITE)] == list(rules.SUITE)
    assert settings["scaled"] and settings["timed"] and settings["learn"] == "both"
    assert settings["lr"] == rules.start_of_evolution(table)["lr"]

    stub.clear()
    call(monkeypatch, tmp_path, "compare")
    names = ["hand-written, as it is", rules.ONE_SETTING, rules.OWN_SETTING, "DPO, one setting", "learned: both, timed"]
    assert [loss for *_, loss, _ in stub] == (["hand-written"] * 3 + ["DPO", "learned"]) * len(rules.SUITE)
    learned = stub[4][0]
    assert replace(learned, learn="value", timed=False) == meta.Config(
        env_ids=rules.SUITE, total_timesteps=512, **(rules.start_of_evolution(table) | rules.EVOLVED)
    )
    table = pd.read_csv(tmp_path / "rules.csv")
    assert table.groupby(["env_id", "loss"]).size().to_dict() == {
        (e, n): SIZE.seeds for e in rules.SUITE for n in names
    }
    stub.clear()
    call(monkeypatch, tmp_path, "search")
    call(monkeypatch, tmp_path, "compare")
    assert not stub

    call(monkeypatch, tmp_path, "search", "--held-out")
    call(monkeypatch, tmp_path, "compare", "--held-out")
    call(monkeypatch, tmp_path, "report")
    pairs = pd.read_csv(tmp_path / "rules_pairs.csv").set_index(["where", "loss", "against"])["p"]
    assert pairs["held out", "learned: both, timed", rules.ONE_SETTING] == 1.0
    assert pairs["suite", "hand-written, as it is", rules.ONE_SETTING] == 0.0
    assert pairs["Pendulum-v1", rules.OWN_SETTING, rules.ONE_SETTING] == 0.5  # the same point
    curve = pd.read_csv(tmp_path / "rules_curve.csv")["vote"]
    assert len(curve) == SIZE.points and curve.is_monotonic_increasing and curve.iloc[-1] == 1.0
    assert (tmp_path / "rules.png").stat().st_size > 10_000


@pytest.mark.slow
def test_agents_are_those_of_the_evolution():
    """Two points at once give what each gives alone, and what ppo.py itself reaches."""
    config = meta.Config(total_timesteps=1024, num_steps=64, hidden_size=8)
    found = rules.outcomes(config, "CartPole-v1", "hand-written", {}, {"lr": [1e-4, 1e-2]}, [5, 6])
    for i, (lr, seed) in enumerate(((1e-4, 5), (1e-2, 6))):
        agent = replace(meta.agent_config(config, "CartPole-v1"), lr=lr)
        returns = jax.jit(ppo.make_train(agent))(jax.random.key(seed))[1]["episode_return"]
        np.testing.assert_allclose(found["mean_over_training"][i], np.nanmean(returns), rtol=1e-4)

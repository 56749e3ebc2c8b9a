"""The comparison of action spaces: its arithmetic by hand, its rules, its points, and how it goes on."""

import contextlib
import itertools
import json

import actions
import anchors
import numpy as np
import pandas as pd
import pytest
import tables
import tasks
from actions import ARMS, ENVS, FEW, GROUPS, PAIRS, Files, Size

import ppo
from environments.control import TASKS
from runner.plan.sweeps import parse_sweep
from runner.report.stats import mean_probability_of_improvement, probability_of_improvement

SMALL = Size(points=5, seeds=3, steps=1000)


# --- Points and settings ----------------------------------------------------------------------------------------------
def test_points_are_the_same_for_every_arm():
    drawn = {arm: actions.points(arm, 64) for arm in ARMS}
    for arm, points in drawn.items():
        assert len(points) == 64 and ("action_std" in points[0]) == arm.startswith(("C", "B"))
        assert [{k: v for k, v in point.items() if k != "action_std"} for point in points] == drawn["D3"]
    assert drawn["C"] == drawn["B"] == drawn["C3"] and actions.points("C", 5) == drawn["C"][:5]
    assert sum(point["ent_coef"] == 0 for point in drawn["C"]) == 16
    stds = [point["action_std"] for point in drawn["C"]]
    assert 0.2 <= min(stds) < 0.4 and 1 < max(stds) <= 2
    for name, (_, low, high) in tasks.PPO_SPACE.items():
        known = [1 - point[name] if "below" in tasks.PPO_SPACE[name][0] else point[name] for point in drawn["C"]]
        assert max(known) <= high * 1.01 and (name == "ent_coef" or min(known) >= low * 0.99)


def test_settings_say_what_an_arm_is_and_share_the_rest():
    assert set(ENVS) == set(TASKS) and PAIRS[0] == ("D3", "C3")
    for env in ENVS:
        found = {arm: actions.settings_of(env, arm, 1000) for arm in ARMS}
        ids = {arm: settings.pop("env_id").removeprefix(f"control/{env}-") for arm, settings in found.items()}
        assert ids == {"D3": "3", "D9": "9", "C": "box", "B": "box", "C3": "round"}
        assert found["B"].pop("squash_actions") is True
        assert all(settings == found["D3"] for settings in found.values())
        assert all(ppo.Config(**settings).num_envs == 4 for settings in found.values())
        assert ENVS[env].random < ENVS[env].best


# --- Expected best ----------------------------------------------------------------------------------------------------
def test_expected_best_by_hand():
    """Of 1, 2, 4: one point has 7 / 3 in the mean; pairs have 2, 4 and 4; all three have 4."""
    np.testing.assert_allclose(actions.expected_best(np.array([4.0, 1.0, 2.0])), [7 / 3, 10 / 3, 4.0])
    scores = np.random.default_rng(0).normal(size=(2, 7))
    for row, found in zip(scores, actions.expected_best(scores), strict=True):
        drawn = [np.mean([max(some) for some in itertools.combinations(row, k)]) for k in range(1, 8)]
        np.testing.assert_allclose(found, drawn)


def test_expected_best_of_64_points_ends_at_the_best_one():
    scores = np.random.default_rng(0).normal(size=64)
    found = actions.expected_best(scores)
    assert found[0] == pytest.approx(scores.mean()) and found[-1] == pytest.approx(scores.max())
    assert (np.diff(found) > 0).all()


def table(env, **arms):
    """A table of a search: mean returns of an arm's points."""
    rows = [
        {"env": env, "arm": arm, "point": i, "mean_return": x} for arm, xs in arms.items() for i, x in enumerate(xs)
    ]
    return pd.DataFrame(rows)


def test_a_point_that_went_nan_counts_as_the_lowest_of_all_arms():
    searched = table("CartPole", D3=[500.0, np.nan, 262.05], C3=[24.1, 500.0, 500.0])
    np.testing.assert_allclose(actions.point_scores(searched, "CartPole", "D3"), [1.0, 0.0, 0.5])


def test_a_gap_by_hand():
    """All points of D3 have a score of 1; of C3's eight one has, so four of them find it every second time."""
    searched = table("CartPole", D3=[500.0] * 8, C3=[500.0] + [24.1] * 7)
    found = actions.gap(searched, ["CartPole"], ("D3", "C3"))
    assert FEW == 4 and found["gap"] == pytest.approx(0.5)
    assert 0 <= found["gap_low"] < 0.5
    assert found["gap_high"] == pytest.approx(1.0)  # a third of the resamples do not have that point
    both = pd.concat([searched, table("Forage", D3=[9.3] * 8, C3=[9.3] * 8)])
    assert actions.gap(both, ["CartPole", "Forage"], ("D3", "C3"))["gap"] == pytest.approx(0.25)
    assert actions.gap(both, ["Forage"], ("D3", "C3")) == {"gap": 0.0, "gap_low": 0.0, "gap_high": 0.0}


# --- Probability of improvement ---------------------------------------------------------------------------------------
def test_the_mean_probability_is_over_tasks():
    """In one task always above; in the other above in three of four pairs, and the fourth is a tie: 3.5 / 4."""
    sure, mixed = ([5.0, 6.0], [1.0, 2.0]), ([1.0, 3.0], [0.0, 1.0])
    found = mean_probability_of_improvement([sure, mixed])
    assert found["p"] == pytest.approx((1 + 3.5 / 4) / 2) and found["low"] <= found["p"] <= found["high"] <= 1
    assert mean_probability_of_improvement([mixed]) == probability_of_improvement(*mixed)
    rng = np.random.default_rng(0)
    tasks = [(rng.normal(size=64), rng.normal(size=64)) for _ in range(6)]
    one, all_six = probability_of_improvement(*tasks[0]), mean_probability_of_improvement(tasks)
    assert all_six["high"] - all_six["low"] < 0.6 * (one["high"] - one["low"])  # six times as many seeds


# --- The verdict ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("low", "gap_low", "expected"),
    [
        (0.51, -0.1, "harder to learn"),
        (0.51, 0.1, "harder to learn"),
        (0.5, 0.1, "harder to tune"),
        (0.3, 0.0001, "harder to tune"),
        (0.3, 0.0, "no difference shown"),
        (0.3, -0.1, "no difference shown"),
    ],
)
def test_rules_of_the_verdict(low, gap_low, expected):
    assert actions.verdict({"low": low}, {"gap_low": gap_low}) == expected


def written(folder, lead, share):
    """Results of all six environments: D3's seeds are ahead by `lead` scores, C3 learns at this share of its points."""
    rng, files = np.random.default_rng(0), Files(folder)
    files.folder.mkdir()
    rows, points = [], []
    for env, arm in itertools.product(ENVS, ("D3", "C3")):
        scale = ENVS[env].best - ENVS[env].random
        ahead = lead if arm == "D3" else 0.0
        for setting, seed in itertools.product(actions.SETTINGS, range(16)):
            final = ENVS[env].random + scale * (0.8 + ahead + 0.05 * rng.normal())
            names = {"env": env, "arm": arm, "setting": setting, "seed": seed}
            rows.append(names | {"final_return": final, "steps_to_90": 1000 if seed < 12 else ""})
        good = np.arange(16) < 16 * (1.0 if arm == "D3" else share)
        returns = ENVS[env].random + scale * np.where(good, 0.8, 0.0)
        points += [{"env": env, "arm": arm, "point": i, "mean_return": x} for i, x in enumerate(returns)]
    pd.DataFrame(rows).to_csv(files.runs, index=False)
    pd.DataFrame(points).to_csv(files.search, index=False)
    return files


@pytest.mark.parametrize(
    ("lead", "share", "expected"),
    [(0.1, 1.0, "harder to learn"), (0.0, 0.25, "harder to tune"), (0.0, 1.0, "no difference shown")],
)
def test_a_verdict_from_files(lead, share, expected, monkeypatch, tmp_path):
    monkeypatch.setattr("runner.report.stats.RESAMPLES", 100)
    files = written(tmp_path / "results", lead, share)
    monkeypatch.setattr(actions, "GROUPS", {name: GROUPS[name] for name in ("CartPole", "all")})
    found = {(row["env"], row["setting"]): row for row in actions.report(files)}
    assert set(found) == set(itertools.product(("CartPole", "all"), actions.SETTINGS))
    row = found["all", "tuned"]
    assert row["verdict"] == expected and (row["better"], row["worse"]) == ("D3", "C3")
    assert row["gap"] == pytest.approx({1.0: 0.0, 0.25: 0.8 * 99 / 364}[share], abs=1e-3)  # C(12, 4) / C(16, 4)
    arms = pd.read_csv(files.folder / "actions_arms.csv").set_index(["env", "arm", "setting"])
    assert arms.loc["all", "D3", "tuned"]["iqm"] == pytest.approx(0.8 + lead, abs=0.02)
    assert arms.loc["CartPole", "C3", "tuned"]["iqm"] == pytest.approx(24.1 + 0.8 * 475.9, abs=15)
    assert list(arms["reached"].unique()) == [12, 72] and (arms["steps_to_90"] == 1000).all()
    assert (files.folder / "actions.png").stat().st_size > 10_000
    monkeypatch.setattr(tables, "RESULTS", files.folder)
    assert expected in tables.actions().splitlines()[-1] and len(tables.actions_arms().splitlines()) == 2 + 4


def test_tables_say_where_nothing_was_run(monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert {tables.actions(), tables.actions_pairs(), tables.actions_arms()} == {"Not run yet.\n"}


def test_an_arm_by_hand():
    """Scores 1, 1, 0.4 and NaN: two fail, and the middle half of 0, 0.4, 1, 1 is 0.7. Two of four seeds get there."""
    finals = [500.0, 500.0, 24.1 + 0.4 * 475.9, np.nan]
    runs = pd.DataFrame({"env": "CartPole", "arm": "C", "setting": "tuned", "final_return": finals})
    runs["steps_to_90"] = [1000, 3000, np.nan, np.nan]
    found = actions.describe(runs, ["CartPole"], "C", "tuned")
    assert found["iqm"] == pytest.approx(24.1 + 0.7 * 475.9, abs=0.01)
    assert (found["seeds"], found["failing"], found["reached"], found["steps_to_90"]) == (4, 2, 2, "")


def test_steps_to_90_by_hand():
    """Two updates per stretch: 24.1 + 0.9 * 475.9 = 452.41 is first reached in the one of updates 31 and 32."""
    metrics = pd.DataFrame({"member": 3, "env_steps": 10 * np.arange(1, 101), "episode_return": 15.0 * np.arange(100)})
    assert actions.steps_to_90(metrics, "CartPole") == 315  # 15 * 30.5 = 457.5
    metrics["episode_return"] = 400.0
    assert actions.steps_to_90(metrics, "CartPole") is None
    metrics["episode_return"] = np.nan
    assert actions.steps_to_90(metrics, "CartPole") is None


# --- Running ----------------------------------------------------------------------------------------------------------
def trained(script, words, run_dir, settings):
    """Writes what a run leaves behind: the seed and the point say the return; of point 0 a seed goes NaN."""
    flag = dict(itertools.pairwise(words))
    points = parse_sweep([flag["--sweep"]], ppo.Config, 0) if "--sweep" in words else [{}]
    first, count = int(flag["--seed"]), int(flag["--num-seeds"])
    members = [
        {"member": i, "point": point, "seed": first + seed, "first_bad_update": int(seed == point == 0 < first)}
        | {"final_return": 100.0 * point + seed, "greedy_return": None}
        for i, (point, seed) in enumerate(itertools.product(range(len(points)), range(count)))
    ]
    run_dir.mkdir(parents=True)
    versions = dict.fromkeys(("python", "jax", "flax", "optax", "distrax", "gymnax"), "1")
    (run_dir / "config.json").write_text(json.dumps({"versions": versions, "started": "2026-01-01"}))
    (run_dir / "summary.json").write_text(json.dumps({"members": members}))
    rows = [{"member": m["member"], "env_steps": i, "episode_return": 500.0} for m in members for i in range(60)]
    pd.DataFrame(rows).to_csv(run_dir / "metrics.csv", index=False)


def finish(monkeypatch, folder, stop_at=0):
    """What is written, and the env steps left before each call, if the stop_at-th run is stopped and it goes on."""
    calls, left, jobs = [], [], [("CartPole", "D3"), ("CartPole", "C3")]
    files = Files(folder / "results")

    def train(script, words, run_dir, settings):
        calls.append(words)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        trained(script, words, run_dir, settings)

    monkeypatch.setattr(actions, "train", train)
    for _ in range(2 if stop_at else 1):
        left.append(actions.steps_left(jobs, SMALL, files))
        with contextlib.suppress(KeyboardInterrupt):
            for env, arm in jobs:
                actions.measure(env, arm, SMALL, folder, files)
    left.append(actions.steps_left(jobs, SMALL, files))
    return files, calls, left


def test_what_is_run_and_written(monkeypatch, tmp_path):
    files, calls, left = finish(monkeypatch, tmp_path)
    search, one = 5 * 4 * 1000, 3 * 1000
    assert left == [2 * (search + 2 * one), 0]
    searched = pd.read_csv(files.search)
    assert list(searched["point"]) == [*range(5)] * 2 and searched["mean_return"].isna().sum() == 2
    assert list(searched["mean_return"].dropna())[:2] == [101.5, 201.5] and searched["action_std"].isna().sum() == 5
    assert searched["returns"][1] == "100.0000 101.0000 102.0000 103.0000"
    best = actions.points("C3", 5)[4]
    runs = pd.read_csv(files.runs)
    assert list(runs["seed"]) == [0, 1, 2] * 4 and list(runs["final_return"]) == [0, 1, 2] * 4
    assert runs["settings"][6] == " ".join(f"{name}={value:g}" for name, value in best.items())
    assert runs["settings"].isna().sum() == 6 and (runs["steps_to_90"] == 0).sum() == 0
    flag = dict(itertools.pairwise(calls[4]))  # C3, tuned
    assert all(float(flag[f"--{name.replace('_', '-')}"]) == value for name, value in best.items())
    assert (flag["--num-seeds"], flag["--seed"]) == ("3", "0")
    flag = dict(itertools.pairwise(calls[0]))
    assert (flag["--num-seeds"], flag["--seed"], flag["--eval-episodes"]) == ("4", "1000", "0")


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4, 6])
def test_it_goes_on_where_it_was_stopped(stop_at, monkeypatch, tmp_path):
    whole, _, (full, _) = finish(monkeypatch, tmp_path / "whole")
    files, calls, left = finish(monkeypatch, tmp_path / "stopped", stop_at)
    assert files.runs.read_text() == whole.runs.read_text() and files.search.read_text() == whole.search.read_text()
    assert len(calls) == 7  # six, and the one that was stopped
    assert left[0] == full and left[-1] == 0 and (left[1] < full) == (stop_at > 1)


def test_the_best_point_is_that_of_the_highest_mean_and_nan_comes_last():
    rows = [{"mean_return": x} | dict.fromkeys(actions.SPACE, str(i)) for i, x in enumerate(("", "-2.5", "-1", ""))]
    assert set(actions.best_point(rows).values()) == {2.0}
    rows = [row | {"action_std": ""} for row in rows[:1]]
    assert set(actions.best_point(rows)) == set(actions.SPACE) - {"action_std"}


# --- Anchors ----------------------------------------------------------------------------------------------------------
def test_anchors_are_what_controllers_reach():
    for name, act in (("PointMass", anchors.pulled_to_the_target), ("Forage", anchors.to_the_most_food)):
        found = anchors.returns(name, act, episodes=64)
        assert found.mean() == pytest.approx(ENVS[name].best, abs=float(found.std()) / 2)
    found = anchors.returns("CartPole", anchors.random_actions, episodes=256)
    assert found.mean() == pytest.approx(ENVS["CartPole"].random, abs=float(found.std()) / 4)

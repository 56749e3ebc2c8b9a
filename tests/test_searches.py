"""benchmarks/strategies.py and gradients.py: what they run, what they write, and that they go on where they were."""

import itertools
import json
import shlex
import sys
from pathlib import Path

import gradients
import pandas as pd
import pytest
import strategies

import apg
import evolve_policy
import ppo
from runner.plan.command_line import make_plan
from runner.plan.script import Script
from runner.policies import Policies

SCORES = {"iqm": 1.0, "low": 0.5, "high": 1.5}


class Stub:
    """In place of training: two members whose returns are 10 and 20 times the share of the run that is done."""

    def __init__(self):
        self.typed = []

    def train(self, script, words, run_dir, settings):
        if (run_dir / "summary.json").exists():
            return
        self.typed.append((script, words))
        run_dir.mkdir(parents=True)
        record = {"command": shlex.join(["python", f"{script}.py", *words, "--run-dir", "x"]), "started": "2026-01-02T"}
        (run_dir / "config.json").write_text(json.dumps(record))
        swept = [word.split("=") for word in words if "=" in word and "," in word]
        names, values = [name for name, _ in swept], [map(float, numbers.split(",")) for _, numbers in swept]
        point = {"final_return": SCORES, "greedy_return": SCORES, "seeds": 2, "nan_seeds": 0}
        points = [{"values": dict(zip(names, v, strict=True))} | point for v in itertools.product(*values)]
        summary = {
            "points": points,
            "best_point": len(points) - 1,
            "members": [{"member": i, "first_bad_update": None} for i in range(2)],
            "timing": {"compile_seconds": 3.0, "train_seconds": 50.0},
        }
        (run_dir / "summary.json").write_text(json.dumps(summary))
        (run_dir / "sweep.png").write_bytes(b"picture")
        rows = [(m, 100 * u, 10 * (m + 1) * u / 100, 5) for u in range(1, 101) for m in range(2)]
        pd.DataFrame(rows, columns=["member", "env_steps", "episode_return", "episode_length"]).to_csv(
            run_dir / "metrics.csv", index=False
        )


@pytest.fixture
def stub(monkeypatch):
    stub = Stub()
    monkeypatch.setattr(gradients, "train", stub.train)
    monkeypatch.setattr(strategies, "train", stub.train)
    return stub


def call(module, monkeypatch, tmp_path, *words):
    where = ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "found.csv")]
    monkeypatch.setattr(sys, "argv", ["x", *words, *where])
    module.main()
    return pd.read_csv(tmp_path / "found.csv")


def plan_of(script, words):
    """Raises UsageError where the words are no valid command."""
    parts = (script.Config, script.make_env, script.make_train, script.make_policy)
    return make_plan(Script(Path(script.__file__), *parts, Policies()), words)


def test_a_strategy_is_searched_and_its_best_point_is_run(stub, monkeypatch, tmp_path):
    words = ["--tasks", "Pendulum-v1", "CartPole-v1", "--strategies", "CMA_ES", "Open_ES", "--seeds", "2"]
    table = call(strategies, monkeypatch, tmp_path, *words)
    assert len(stub.typed) == 2 * 2 * 2 and (tmp_path / "found.png").stat().st_size > 10_000
    for search, final in zip(stub.typed[::2], stub.typed[1::2], strict=True):
        searched, run = (plan_of(evolve_policy, typed) for _, typed in (search, final))
        assert searched.config.generations == run.config.generations // 3
        assert searched.options.seed == 1000 and run.options.seed == 0 and run.options.num_seeds == 2
        best = {"std_init": 1.0} | ({"es_lr": 0.4} if run.config.strategy == "Open_ES" else {})
        assert searched.points[-1] == best and all(getattr(run.config, name) == value for name, value in best.items())
        assert len(searched.points) == (9 if run.config.strategy == "Open_ES" else 3)
    assert len(table) == 2 * 2 * strategies.POINTS and set(table["seeds"]) == {2}
    last = table.groupby(["env_id", "strategy"]).last()
    assert last["iqm"].tolist() == pytest.approx([14.8] * 4, abs=0.2) and (last["low"] < last["iqm"]).all()
    call(strategies, monkeypatch, tmp_path, *words)
    assert len(stub.typed) == 8  # nothing is run again


def test_every_strategy_has_points_to_search_and_every_task_a_valid_command():
    for strategy in evolve_policy.ALGORITHMS:
        assert set(strategies.points(strategy)) in ({"std_init"}, {"std_init", "es_lr"})
    for env_id in (name for name in strategies.TASKS if "/" not in name):
        for strategy in strategies.STRATEGIES:
            settings = strategies.settings_of(env_id, strategy)
            assert plan_of(evolve_policy, strategies.flags(settings)).config.population == 64


def test_gradients_and_ppo_are_run_alike_and_drawn_over_steps_and_seconds(stub, monkeypatch, tmp_path):
    table = call(gradients, monkeypatch, tmp_path, "--envs", "Pendulum-v1", "PointRobot-misc", "--seeds", "2")
    assert [script for script, _ in stub.typed] == ["apg", "apg", "ppo"] * 2
    plans = [plan_of({"apg": apg, "ppo": ppo}[script], words) for script, words in stub.typed]
    assert [plan.config.critic for plan in plans if hasattr(plan.config, "critic")] == [False, True] * 2
    assert {plan.config.env_params for plan in plans[3:]} == {"dense_reward=True"}
    assert {plan.config.total_timesteps for plan in plans[:3]} == {500_000}
    assert plans[2].config.normalize_obs and plans[5].config.squash_actions  # whose box is a tenth of a Gaussian's std
    assert len(table) == 6 * 50 and table.groupby(["env_id", "method"])["seconds"].max().tolist() == [49.75] * 6
    assert (tmp_path / "found.png").stat().st_size > 10_000


def test_truncation_is_mapped_by_one_run(stub, monkeypatch, tmp_path):
    gradients.truncation_map(2, root=tmp_path, output=tmp_path / "found.csv")
    ((_, words),) = stub.typed
    plan = plan_of(apg, words)
    assert len(plan.points) == 7 * 4 and {len(batch.members) for batch in plan.batches} == {4 * 2}  # one per truncation
    table = pd.read_csv(tmp_path / "gradients_map.csv")
    assert len(table) == 28 and (tmp_path / "gradients_map.png").read_bytes() == b"picture"

"""Tuned settings, the search that finds them, and the tables made of results."""

import contextlib
import dataclasses
import importlib.util
import json
import re
import runpy
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import gpu
import jax
import numpy as np
import pandas as pd
import peer_worker
import peers
import pytest
import returns
import suite
import tables
import tasks
import throughput
from jax.flatten_util import ravel_pytree

import apg
import dqn
import evolve_policy
import ppo
import ppo_rnn
import pqn
from runner.plan.command_line import make_plan
from runner.plan.errors import UsageError
from runner.plan.script import Script
from runner.plan.tuned import TUNED, tuned_settings
from runner.policies import Policies

ROOT = Path(__file__).parent.parent
SCRIPTS = {"ppo": ppo, "ppo_rnn": ppo_rnn, "dqn": dqn, "pqn": pqn, "apg": apg, "evolve_policy": evolve_policy}
LINES = [  # those of other suites where these are installed
    pytest.param(name, env_id, marks=[pytest.mark.suites] if "/" in env_id else [])
    for name, lines in tomllib.loads(TUNED.read_text()).items()
    for env_id in lines
]


def plan(*argv, script=ppo):
    parts = (script.Config, script.make_env, script.make_train, script.make_policy)
    return make_plan(Script(Path(script.__file__), *parts, Policies()), list(argv))


# --- Tuned settings ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "env_id"), LINES)
def test_every_line_is_a_valid_config_that_says_no_default(name, env_id):
    settings = tuned_settings(name, env_id)
    config = SCRIPTS[name].Config(env_id=env_id, **settings)
    defaults = dataclasses.asdict(SCRIPTS[name].Config())
    assert all(getattr(config, field) != defaults[field] for field in settings)
    found = plan("--env-id", env_id, "--tuned", script=SCRIPTS[name])
    assert found.config == config and found.options.tuned


@pytest.fixture
def lines(monkeypatch, tmp_path):
    """A file of settings that no search will change."""
    path = tmp_path / "tuned.toml"
    path.write_text('[ppo]\n"CartPole-v1" = { lr = 0.002, num_envs = 8 }\n"Acrobot-v1" = { gamma = 0.9 }\n')
    monkeypatch.setattr("runner.plan.tuned.TUNED", path)


def test_flags_go_before_tuned_settings(lines):
    assert plan("--tuned").config == ppo.Config(lr=0.002, num_envs=8)  # for the default environment
    assert plan("--tuned", "--lr", "0.1").config == ppo.Config(lr=0.1, num_envs=8)
    for words in (["--env-id", "Acrobot-v1"], ["--env-id=Acrobot-v1"], ["--env_id", "Acrobot-v1"]):
        assert plan("--tuned", *words).config == ppo.Config("Acrobot-v1", gamma=0.9)
        assert plan(*words, "--tuned", "--no-tuned").config == ppo.Config("Acrobot-v1")
    swept = plan("--tuned", "--sweep", "lr=1,2", "--num-seeds", "1")
    assert [member.values for member in swept.members] == [{"lr": 1.0}, {"lr": 2.0}] and swept.config.num_envs == 8


def test_an_environment_that_is_not_tuned_is_named_with_those_that_are(lines):
    with pytest.raises(UsageError, match=r"--tuned: no settings of ppo.py are tuned for Catch-bsuite; .*Acrobot-v1"):
        plan("--tuned", "--env-id", "Catch-bsuite")
    with pytest.raises(
        ValueError, match=r"tuned.toml has no settings of my_ppo.py: if it is a copy, .*under \[my_ppo\]"
    ):
        tuned_settings("my_ppo", "CartPole-v1")


# --- The search -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_search_starts_from_valid_settings_and_draws_the_same_points_everywhere(name):
    script, others = SCRIPTS[name], []
    for env_id in tasks.PLAYS[name]:
        start = dataclasses.asdict(script.Config(env_id=env_id, **tasks.base(name, env_id)))
        points = tasks.draw_points(name, start)
        assert len(points) == tasks.POINTS and points[0] == {field: start[field] for field in tasks.SPACE[name]}
        others.append(points[1:])
        for point in points:
            script.Config(**start | point)
    assert all(points == others[0] for points in others)
    assert len({json.dumps(point) for point in others[0]}) == tasks.POINTS - 1


def test_draws_stay_within_their_bounds():
    rng = np.random.default_rng(0)
    for how, low, high in (
        (("log", 1e-4, 1e-2), 1e-4, 1e-2),
        (("lin", 1, 3), 1, 3),
        (("below_one", 0.01, 0.1), 0.9, 0.99),
    ):
        drawn = [tasks.draw(rng, *how) for _ in range(200)]
        assert low <= min(drawn) < max(drawn) <= high
    below_middle = np.mean([tasks.draw(rng, "log", 1e-4, 1e-2) < 1e-3 for _ in range(2000)])
    assert 0.45 < below_middle < 0.55  # as many below the geometric middle as above
    assert {tasks.draw(rng, 1, 3) for _ in range(50)} == {1, 3}


def test_tuned_settings_survive_being_written(monkeypatch, tmp_path):
    monkeypatch.setattr(tasks, "TUNED", tmp_path / "tuned.toml")
    settings = {"ppo": {"CartPole-v1": {}, "Pendulum-v1": {"lr": 3e-4, "normalize_obs": True, "activation": "relu"}}}
    settings |= {"dqn": {"CartPole-v1": {"n_step": 3}}, "ppo_rnn": {}}
    tasks.write_tuned(settings)
    assert tasks.read_tuned() == settings
    assert len([line for line in tasks.TUNED.read_text().splitlines() if " = {" in line]) == 3  # a line each


# --- Tables and peers -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", tables.DOCUMENTS, ids=lambda path: path.name)
def test_tables_are_what_the_files_say(path):
    text = path.read_text()
    assert tables.rewritten(text) == text, "results/ has changed: python benchmarks/tables.py"


def test_the_check_of_tables_can_fail():
    text = (ROOT / "README.md").read_text()
    table = tables.MARKED.search(text)
    digit = next(i for i in range(table.start(), table.end()) if text[i].isdigit())
    changed = f"{text[:digit]}{9 - int(text[digit])}{text[digit + 1 :]}"
    assert changed != text and tables.rewritten(changed) == text


def test_every_marker_has_its_end():
    for text in (path.read_text() for path in tables.DOCUMENTS):
        assert text.count("<!-- table: ") == text.count("<!-- end of table -->") == len(tables.MARKED.findall(text))


def test_all_tables_are_shown_somewhere():
    shown = "".join(path.read_text() for path in tables.DOCUMENTS)
    assert {name for name in tables.TABLES if f"<!-- table: {name} -->" in shown} == set(tables.TABLES)


def test_numbers_of_tables():
    assert [tables.number(x) for x in (-159.46, 0.0004, -0.0001, 12.0, -0.25)] == [
        "−159.5",
        "0.000",
        "0.000",
        "12.0",
        "−0.250",
    ]


def no_files(monkeypatch, folder):
    """Sends what peers.py writes to a folder of the test."""
    for name, path in {"RUNS": folder, "OUTPUT": folder / "peers.csv", "CURVES": folder / "curves.csv"}.items():
        monkeypatch.setattr(peers, name, path)


def fake_measure(peer, algo, agents, seed, curves=False):
    """What peers.measure gives, of a peer that takes 2 s to compile and 5 s to train an agent, and learns nothing."""
    timing = {"compile_seconds": 2.0, "train_seconds": 5.0, "peak_memory_mb": 3.0, "versions": "x 1"}
    told = curves or not peers.PEERS[peer].evaluated
    return timing | {"curves": [[float(seed + i)] * peers.BINS for i in range(agents)] if told else []}


def test_a_measurement_of_peers_goes_on_where_it_was_stopped(monkeypatch, tmp_path):
    """Stopped at any of its measurements and started again: the same rows and curves, each once."""
    monkeypatch.setattr(peers, "RUNS", tmp_path)

    def finish(folder, stop_at):
        monkeypatch.setattr(peers, "OUTPUT", tmp_path / folder / "peers.csv")
        monkeypatch.setattr(peers, "CURVES", tmp_path / folder / "curves.csv")
        calls = []

        def measure(peer, algo, agents, seed, curves=False):
            calls.append(peer)
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            own = [] if peer == "rejax" and not curves else [[float(i)] * peers.BINS for i in range(agents)]
            timing = {"compile_seconds": None, "train_seconds": 2.0, "peak_memory_mb": 3.0, "versions": "x 1"}
            return timing | {"curves": own}

        monkeypatch.setattr(peers, "measure", measure)
        for _ in range(2 if stop_at else 1):
            with contextlib.suppress(KeyboardInterrupt):
                peers.measure_all(["ppo"], turns=2)
                peers.measure_more_curves(["ppo"])
        return peers.OUTPUT.read_text(), peers.CURVES.read_text()

    whole = finish("whole", stop_at=0)
    assert len(whole[0].splitlines()) == 1 + 2 * (4 + 2) + 2  # four with one agent, two with 16 and, once, with 64
    assert len(whole[1].splitlines()) == 1 + peers.BINS * (16 + 16 + 3 * 16 + 8 + 8)
    for stop_at in (1, 4, 6, 7, 11, 17, 20, 27):  # the last three among the curves of copies and of further seeds
        assert finish(f"stopped-{stop_at}", stop_at) == whole
    found = {row["peer"]: row for row in peers.summarize()}
    assert found["stable-baselines3"]["seconds_64"] == 128.0 and found["stable-baselines3"]["extrapolated_64"]
    assert found["rejax"]["seconds_64"] == 2.0 and not found["rejax"]["extrapolated_64"]
    assert found["sbx"]["final"]["mean"] == 0.0 and found["rejax"]["final"]["mean"] == 7.5
    copy = found["this project, flax's initial weights"]
    assert copy["final"]["mean"] == 7.5 and np.isnan(copy["seconds_16"]) and not copy["extrapolated_16"]


def test_times_of_two_machines_do_not_mix(monkeypatch, tmp_path):
    no_files(monkeypatch, tmp_path)
    peers.check_machine(["ppo", "pqn"])  # nothing there yet
    here, elsewhere = throughput.machine()["machine"], "cpu; 2 cores of an abacus"
    rows = [{"algo": "ppo", "machine": elsewhere}, {"algo": "pqn", "machine": here}]
    throughput.write_rows(peers.OUTPUT, rows)
    peers.check_machine(["pqn", "brax"])  # of one machine each
    match = (
        r"has times of ppo of cpu; 2 cores of an abacus, .*: --algos pqn leaves them out; .* delete .* in curves\.csv"
    )
    with pytest.raises(SystemExit, match=match):
        peers.check_machine(["pqn", "ppo"])
    with pytest.raises(SystemExit, match=r": to measure them here, delete"):
        peers.check_machine(["ppo"])


@pytest.mark.parametrize("algo", peers.COMPARISONS)
def test_this_project_trains_what_its_peers_are_told_to(algo):
    """The command line that is measured has the comparison's environment, steps and settings, under their own names."""
    own, script = peers.COMPARISONS[algo], {"ppo.py": ppo, "dqn.py": dqn, "pqn.py": pqn}
    words = peers.words("ours", algo, agents=own.curve_agents, seed=3)
    assert words[0] == own.script and peers.PEERS["ours"].algos == tuple(peers.COMPARISONS)
    assert words[words.index("--env-id") + 1] == own.env_id
    assert words[words.index("--num-seeds") + 1] == str(own.curve_agents)
    fields = dataclasses.asdict(script[own.script].Config(env_id=own.env_id, total_timesteps=own.steps))
    assert set(own.settings) - set(fields) <= {"anneal_lr"}  # which dqn.py never does
    if own.env_id in tasks.ROBOTS:
        return  # its package may be missing
    found = plan(*words[1:], script=script[own.script])
    assert found.config.total_timesteps == own.steps and found.options.seed == 3
    assert all(getattr(found.config, k, False) == v for k, v in own.settings.items())


def test_brax_is_compared_over_as_many_steps_and_updates():
    own = peers.COMPARISONS["brax"]
    settings = own.settings
    assert settings["num_envs"] % settings["num_minibatches"] == 0  # its minibatches are of whole sequences
    samples = settings["num_envs"] * settings["num_steps"]
    assert samples // settings["num_minibatches"] == 256 and own.steps // samples % 4 == 0  # four equal stretches
    config = ppo.Config(env_id=own.env_id, total_timesteps=own.steps, **settings)
    assert config.num_updates == own.steps // samples and not config.anneal_lr and not config.scale_reward


def test_what_is_measured_of_the_comparisons_with_pqn_and_brax():
    pqn_plan, brax_plan = list(peers.plan(["pqn"], 3)), list(peers.plan(["brax"], 3))
    assert {peer for _, peer, _, _ in pqn_plan} == {"ours", "rejax", "purejaxql"}
    assert {agents for _, _, agents, _ in pqn_plan} == {1, 16, 64}
    assert {turn for _, _, agents, turn in pqn_plan if agents == 64} == {0}
    assert [key[1:3] for key in brax_plan[:3]] == [("ours", 1), ("brax", 1), ("ours", 8)]  # Brax trains one agent
    assert len(brax_plan) == 9


def test_a_table_of_peers_says_where_each_comparison_ran(monkeypatch, tmp_path):
    no_files(monkeypatch, tmp_path)
    monkeypatch.setattr(peers, "measure", fake_measure)
    for algo, name in (("pqn", "an abacus"), ("brax", "a slide rule")):
        about = throughput.machine() | {"machine": f"cpu; 2 cores of {name}"}
        monkeypatch.setattr(peers, "machine", lambda about=about: about)
        (tmp_path / "purejaxql-source").mkdir(exist_ok=True)
        monkeypatch.setattr(peers, "source_of", lambda peer: tmp_path / f"{peer}-source")
        peers.measure_all([algo], turns=1)
        peers.measure_more_curves([algo])
    text = tables.peers()
    assert "| PQN | PureJaxQL | 7.500 [" in text and "| 16 | 7.0 s | 7.0 s | 7.0 s | 2.0 s |" in text
    assert "| PPO | Brax | 3.500 [" in text and "| 8 | 7.0 s | ≈ 56 s | 2.0 s |" in text  # of eight seeds; 8 times one
    assert "PQN: CartPole-v1, 500,000 env steps per agent, on 2 cores of an abacus.\n" in text
    assert "PPO: brax/inverted_pendulum-spring, 1,000,000 env steps per agent, on 2 cores of a slide rule.\n" in text
    saved = {}
    monkeypatch.setattr(peers, "save", lambda figure, path: saved.setdefault(path.name, figure))
    peers.pictures(["pqn", "brax"])
    titles = {name: figure.axes[0].get_title() for name, figure in saved.items()}
    assert titles == {
        "peers_pqn.png": "PQN on CartPole-v1: equal settings",
        "peers_brax.png": "PPO on brax/inverted_pendulum-spring: equal settings",
    }
    labels = saved["peers_brax.png"].axes[1].get_legend_handles_labels()[1]
    assert labels == ["this project: 7.0 s", "Brax: 7.0 s"]


def test_a_peer_that_needs_a_clone_is_left_out_with_what_to_type(monkeypatch, capsys):
    monkeypatch.setattr(peers, "source_of", lambda peer: ROOT / "runs" / "peers" / "nowhere")
    measured = []
    monkeypatch.setattr(peers, "measure", lambda peer, *_, **__: measured.append(peer) or pytest.fail("wrote"))
    peers.check_sources(["ppo", "brax"])
    assert not capsys.readouterr().out
    peers.check_sources(["pqn"])
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "PureJaxQL is left out, for it is not on PyPI: git clone https://github.com/mttga/purejaxql runs/peers/nowhere"
    )
    monkeypatch.setattr(peers, "plan", lambda algos, turns: [("pqn", "purejaxql", 1, 0)])
    monkeypatch.setattr(peers, "read_rows", lambda path: [])
    peers.measure_all(["pqn"], 1)
    assert not measured


def test_this_project_has_both_losses_of_dqn_to_stand_beside_its_peers():
    assert {peer for _, peer, _, _ in peers.plan(["ppo"], 1)} == {"ours", "rejax", "sbx", "sb3"}
    assert {peer for _, peer, _, _ in peers.plan(["dqn"], 1)} == {"ours", "ours_squared", "rejax", "sbx", "sb3"}
    assert set(peers.PEERS) == set(peers.COLORS)
    for peer, huber in (("ours", True), ("ours_squared", False)):
        config = plan(*peers.words(peer, "dqn", agents=16, seed=3)[1:], script=dqn).config
        assert config.huber_loss == huber and config.last_hidden_size == config.hidden_size == 64
        assert (config.total_timesteps, config.gamma, config.num_envs) == (500_000, 0.95, 10)


@pytest.mark.parametrize("peer", peers.EDITS)
def test_copies_of_ppo_differ_from_it_as_their_names_say(peer, monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "RUNS", tmp_path)
    (tmp_path / "peers").mkdir()
    spec = importlib.util.spec_from_file_location(peer, peers.edited(peer))
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    weights = []
    for script in (ppo, copy):
        train = script.make_train(script.Config(total_timesteps=1024))
        state, metrics = jax.jit(train)(jax.random.key(0))
        assert metrics["grad_norm"].shape == (2,) and np.isfinite(ravel_pytree(state.params)[0]).all()
        actor = train(jax.random.key(0), num_updates=0)[0].params["params"]["actor"]
        weights.append([float(np.std(actor[name]["kernel"])) for name in ("layers_0", "layers_4")])
    assert weights[0] == pytest.approx([2**0.5 / 8, 0.01 / 8], rel=0.2)  # orthogonal, of gain 2 ** 0.5 and 0.01
    assert weights[1] == pytest.approx([1 / 2, (1 if peer == "ours_as_rejax" else 0.01) / 8], rel=0.2)


def test_a_result_is_trained_and_recorded_once(monkeypatch, tmp_path):
    trained, run_dir = [], tmp_path / "run"

    def train(script, words, run_dir, settings):
        trained.append(words)
        (run_dir / "summary.json").parent.mkdir(exist_ok=True)
        (run_dir / "summary.json").touch()

    added = []
    monkeypatch.setattr(suite, "train", train)
    monkeypatch.setattr(suite.returns, "commands", lambda: [c for c in added if c])
    monkeypatch.setattr(suite.returns, "add", lambda run_dirs: added.append(None))  # killed before it was written
    suite.report("ppo", "Breakout-MinAtar", [], run_dir, {})
    monkeypatch.setattr(
        suite.returns,
        "add",
        lambda run_dirs: added.append("python ppo.py --env-id Breakout-MinAtar --tuned --num-seeds 8"),
    )
    suite.report("ppo", "Breakout-MinAtar", [], run_dir, {})
    suite.report("ppo", "Breakout-MinAtar", [], run_dir, {})
    assert len(trained) == 2 and len(added) == 2


def test_a_learning_curve_is_over_the_seeds_that_stayed_finite(tmp_path):
    config = {"env_id": "CartPole-v1", "env_params": ""}
    record = {"script": "ppo", "config": config, "command": "python ppo.py --num-seeds 5 --run-dir x"}
    (tmp_path / "config.json").write_text(json.dumps(record))
    members = [{"member": i, "first_bad_update": 3 if i == 4 else 0} for i in range(5)]
    (tmp_path / "summary.json").write_text(json.dumps({"members": members}))
    updates, member = np.divmod(np.arange(500), 5)  # a hundred updates of five members, in stretches of two
    table = {"member": member, "env_steps": 10 * (updates + 1), "episode_return": updates + 10.0 * (member % 4)}
    pd.DataFrame(table).to_csv(tmp_path / "metrics.csv", index=False)
    rows = list(returns.curve(tmp_path))
    assert [row["env_steps"] for row in rows] == [15 + 20 * i for i in range(50)]
    assert [row["iqm"] for row in rows] == [15.5 + 2 * i for i in range(50)]  # of 0.5, 10.5, 20.5 and 30.5
    assert all(row["low"] < row["iqm"] < row["high"] and row["seeds"] == 4 for row in rows)
    assert rows[0]["command"] == "python ppo.py --num-seeds 5"


def test_results_are_recorded_seed_by_seed(tmp_path):
    record = {"script": "ppo", "config": {"env_id": "CartPole-v1", "env_params": ""}, "command": "python ppo.py"}
    (tmp_path / "config.json").write_text(json.dumps(record))
    members = [
        {"seed": 7, "final_return": 1.23456, "greedy_return": None, "first_bad_update": 0},  # no episode ended
        {"seed": 8, "final_return": 2.0, "greedy_return": 3.0, "first_bad_update": 5},
    ]
    (tmp_path / "summary.json").write_text(json.dumps({"members": members}))
    rows = [(row["seed"], row["final_return"], row["greedy_return"]) for row in returns.seed_rows(tmp_path)]
    assert rows == [(7, 1.235, ""), (8, "", "")]


def test_a_measurement_in_pieces_keeps_the_other_rows(monkeypatch, tmp_path, capsys):
    """One script and number of seeds again: its row is replaced where it stands, those of others stay."""
    output, speed = tmp_path / "throughput.csv", 1.0

    def run(words, **_):
        def value(flag):
            return words[words.index(flag) + 1]

        numbers = dict.fromkeys(throughput.COLUMNS, speed)
        row = numbers | {"script": value("--scripts"), "env_id": value("--env-id"), "seeds": int(value("--seeds"))}
        return subprocess.CompletedProcess(words, 0, json.dumps(row))

    def measure(*words):
        monkeypatch.setattr(sys, "argv", ["throughput.py", "--output", str(output), *words])
        throughput.main()
        return [(r["script"], r["seeds"], r["steps_per_second"], r["command"]) for r in throughput.read_rows(output)]

    monkeypatch.setattr(throughput.subprocess, "run", run)
    first = measure("--scripts", "ppo", "dqn", "--seeds", "1", "16")
    assert [row[:3] for row in first] == [
        ("ppo", "1", "1.0"), ("ppo", "16", "1.0"), ("dqn", "1", "1.0"), ("dqn", "16", "1.0")
    ]  # fmt: skip
    speed = 2.0
    command = "python benchmarks/throughput.py --scripts ppo --seeds 16 --env-id CartPole-v1"
    assert measure("--scripts", "ppo", "--seeds", "16") == [first[0], ("ppo", "16", "2.0", command), *first[2:]]


def test_an_environment_alone_is_measured_in_ppos_program():
    """Random actions in ppo.py's environments: as many env steps, and episodes that end and begin anew."""
    script = throughput.random_actions()
    config = script.Config(num_envs=4, num_steps=64)
    state, metrics = jax.jit(script.make_train(config), static_argnames="num_updates")(jax.random.key(0), num_updates=2)
    steps = np.asarray(state.env_state.env_state.time)
    assert metrics["episode_count"].sum() >= 8 and (steps < 100).all()  # a random CartPole falls after about 22 steps
    row = throughput.measure(throughput.RANDOM, "CartPole-v1", 1, 0.01, {"num_envs": 2, "num_steps": 8})
    assert row["script"] == "random" and row["low"] <= row["steps_per_second"] <= row["high"]


def test_environments_of_suites_are_measured_alone_and_in_training(monkeypatch, tmp_path, capsys):
    """Both of each environment, with 64 copies; rows of this machine are kept; what is missing is named at the end."""
    output, measured = tmp_path / "throughput_suites.csv", []

    def run(words, **_):
        name, env_id = (words[words.index(flag) + 1] for flag in ("--scripts", "--env-id"))
        assert words[-1] == "--suites"
        measured.append((name, env_id))
        if env_id == "pgx/connect_four":
            return subprocess.CompletedProcess(words, 1, "", "Traceback\nUnavailable: pgx/connect_four needs pgx\n")
        numbers = dict.fromkeys(throughput.COLUMNS, 400.0 if name == throughput.RANDOM else 100.0)
        row = numbers | {"script": name, "env_id": env_id, "seeds": 1, "num_envs": 64, "compile_seconds": 2.5}
        return subprocess.CompletedProcess(words, 0, json.dumps(row), "")

    def measure(*words):
        measured.clear()
        monkeypatch.setattr(sys, "argv", ["throughput.py", "--suites", "--output", str(output), *words])
        throughput.main()

    monkeypatch.setattr(throughput.subprocess, "run", run)
    with pytest.raises(SystemExit, match=r"not measured, see above: pgx/connect_four$"):
        measure()
    assert measured == [(name, env_id) for env_id in throughput.SUITES for name in ("random", "ppo")]
    assert "needs pgx" in capsys.readouterr().out
    measure("--env-id", "CartPole-v1")
    assert not measured
    measure("--env-id", "CartPole-v1", "--again")
    assert len(measured) == 2
    rows = throughput.read_rows(output)
    assert len(rows) == 2 * (len(throughput.SUITES) - 1)
    rows[-1]["machine"] = "an abacus"  # figures of two machines are not divided
    throughput.write_rows(output, rows)
    monkeypatch.setattr(tables, "SUITES_OUTPUT", output)
    lines = tables.suites_speed().splitlines()
    assert len(lines) == 2 + len(throughput.SUITES) - 2
    speeds = "400 [400, 400] | 100 [100, 100] | 25% | 2.5 s | 2.5 s"
    assert lines[2:4] == [f"| CartPole-v1 | 64 | {speeds} |", f"| brax/inverted_pendulum-spring | 64 | {speeds} |"]


def test_all_environments_of_suites_have_64_copies_in_valid_settings():
    for env_id in throughput.SUITES:
        config = ppo.Config(env_id=env_id, **throughput.suite_settings(env_id))
        assert (config.num_envs, config.num_steps, config.num_minibatches) == (64, 32, 8)
        assert config.normalize_obs == (env_id in tasks.ROBOTS)


def test_a_run_of_other_settings_is_not_taken_for_this_one(tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    record = {"command": "python ppo.py --env-id CartPole-v1 --tuned --run-dir x", "config": {"lr": 0.1}}
    (run_dir / "config.json").write_text(json.dumps(record))
    (run_dir / "summary.json").touch()
    words = ["--env-id", "CartPole-v1", "--tuned"]
    suite.train("ppo", words, run_dir, {"lr": 0.1})  # finished: nothing to do
    for other, settings in ((words, {"lr": 0.2}), (["--env-id", "Acrobot-v1", "--tuned"], {"lr": 0.1})):
        with pytest.raises(SystemExit, match="other settings than those of now: delete it"):
            suite.train("ppo", other, run_dir, settings)


def test_curves_of_peers_are_means_of_what_ended_in_each_stretch():
    curve = peer_worker.binned([1, 4, 5, 6, 99, 100], [10.0, 20.0, 30.0, 50.0, 70.0, 90.0], total=100)
    assert curve == [15.0, 40.0, *[40.0] * 17, 80.0]
    assert peer_worker.binned([50], [7.0], total=100) == [*[None] * 10, *[7.0] * 10]


def test_curves_of_updates_weigh_like_curves_of_episodes(tmp_path):
    """Two updates of 100 steps in one stretch: ten episodes of length 10 and return 1, one of 100 and return 12."""
    path = tmp_path / "metrics.csv"
    path.write_text(
        "member,env_steps,episode_return,episode_length\n0,100,1,10\n0,200,12,100\n1,100,nan,nan\n1,200,3,50\n"
    )
    curves = peer_worker.binned_updates(path, total=200 * peer_worker.BINS)
    assert curves[0][0] == pytest.approx((10 * 1 + 1 * 12) / 11) and curves[1][0] == pytest.approx(3.0)
    assert curves[0][1:] == [None] * (peer_worker.BINS - 1)


# --- The guide --------------------------------------------------------------------------------------------------------
def guide_block(word):
    """The block of Python in the guide that has the word."""
    guide = (ROOT / "docs" / "guide.md").read_text()
    (block,) = [b for b in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if word in b]
    return textwrap.dedent(block)


def run_block_of_guide(word):
    """Runs it; returns its names."""
    names = {}
    exec(guide_block(word), names)
    return names


def test_the_guides_environment_trains():
    run_block_of_guide("Walk-v0")
    run_block_of_guide("Walk-v0")  # registered already
    config = ppo.Config(env_id="Walk-v0", total_timesteps=32_768, hidden_size=16, lr=3e-3)
    _, metrics = jax.jit(ppo.make_train(config))(jax.random.key(0))
    returns = metrics["episode_return"]
    assert (returns >= -50).all() and (returns <= -10).all()  # the time limit; the shortest way
    assert returns[0] < -30 and returns[-1] > -11


def test_the_guides_loss_trains():
    names = run_block_of_guide("huber")
    np.testing.assert_allclose(names["huber"](np.array([0.5, 3.0]), 0.0, 0.0, None), [0.125, 2.5])
    _, metrics = jax.eval_shape(names["train"], jax.random.key(0))
    assert "value_loss" in metrics


def test_the_guides_network_trains_and_acts():
    names = run_block_of_guide("SharedTorso")
    state, metrics = jax.jit(names["train"], static_argnames="num_updates")(jax.random.key(0), num_updates=3)
    assert np.isfinite(metrics["grad_norm"]).all()
    init_carry, act = ppo.make_policy(ppo.Config(), names["make_network"])
    _, action = act(state, init_carry(4), state.obs, jax.random.key(0), True)
    assert action.shape == (4,)


def test_the_guides_loss_goes_to_the_command_line(monkeypatch, tmp_path):
    """As the guide says: in a copy of the script, above Training, and handed to main in its last line."""
    source, block = (ROOT / "ppo.py").read_text(), guide_block("huber")
    (last_line,) = re.findall(r"`(main\(__file__.*?\))`", (ROOT / "docs" / "guide.md").read_text())
    source = source.replace("# --- Training -", block[block.index("def huber") : block.index("train = ")] + "# --- -")
    source, count = re.subn(r"main\(__file__.*\)\n\Z", f"{last_line}\n", source)
    assert count == 1
    (tmp_path / "mine.py").write_text(source)
    parts = []
    monkeypatch.setattr("runner.main", lambda *args: parts.extend(args))
    runpy.run_path(str(tmp_path / "mine.py"), run_name="__main__")
    _, config_class, _, make_train, _ = parts
    losses = []
    for make, config in ((make_train, config_class), (ppo.make_train, ppo.Config)):
        _, metrics = jax.jit(make(config(total_timesteps=512, hidden_size=8)))(jax.random.key(0))
        losses.append(float(metrics["value_loss"][0]))
    assert 0 < 3 * losses[0] < losses[1]  # returns are far above 1, where Huber's loss is the smaller one


def test_every_metric_is_in_the_glossary():
    guide = (ROOT / "docs" / "metrics.md").read_text()
    for script in SCRIPTS.values():
        small = {} if script in (apg, evolve_policy) else {"total_timesteps": 4096, "env_id": "CartPole-v1"}
        small |= {"learning_starts": 1000} if script is dqn else {}
        _, metrics = jax.eval_shape(script.make_train(script.Config(**small)), jax.random.key(0))
        missing = [name for name in metrics if f"| `{name}` |" not in guide]
        assert not missing, missing


def test_the_gpu_benchmark_keeps_what_was_measured_when_time_or_memory_ends(monkeypatch, tmp_path):
    """Roofline stops halfway, the preset fails: its first rows and the learning check are written."""

    def step(command, deadline):
        words = command.split()
        if "ppo.py" in words:
            points = [{"final_return": {"iqm": 2.0, "low": 1.0, "high": 3.0}}]
            summary = {"points": points, "timing": {"compile_seconds": 9.0, "train_seconds": 5.0}}
            run_dir = Path(words[-1])
            run_dir.mkdir()
            (run_dir / "summary.json").write_text(json.dumps(summary))
            return True
        if "benchmarks/roofline.py" in words:
            pd.DataFrame([{"members": 1} | dict.fromkeys(gpu.ROOFLINE, 0.5)]).to_csv(words[-1], index=False)
        return False

    (tmp_path / "results").mkdir()
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "platform", lambda: "gpu")
    monkeypatch.setattr(gpu, "step", step)
    with pytest.raises(SystemExit, match="0"):
        gpu.main()
    (path,) = (tmp_path / "results").glob("gpu_*.csv")
    found = pd.read_csv(path).set_index("what")["value"]
    assert found["ppo.py: mfu"] == 0.5 and found["learning: iqm"] == 2.0 and found["learning: compile_seconds"] == 9.0
    assert not any(what.startswith("purejaxrl") for what in found.index)


def test_the_gpu_benchmark_does_not_take_a_cpu_for_one(monkeypatch):
    monkeypatch.setattr(gpu, "step", lambda command, deadline: pytest.fail("a step was run"))
    with pytest.raises(SystemExit, match="no GPU"):
        gpu.main()

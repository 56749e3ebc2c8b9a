"""The command line: every row of bad input, whole runs, killing and going on, a full disk, trackers."""

import hashlib
import importlib.util
import json
import re
import shlex
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd
import probes  # noqa: F401 - registers an environment with odd actions
import pytest
from gymnax.environments import spaces

import apg
import dqn
import ppo
import ppo_rnn
import pqn
from runner import main
from runner.loop import record, run
from runner.loop.checkpoint import Checkpoints
from runner.plan.command_line import make_plan
from runner.plan.errors import go_on_after
from runner.plan.script import Script
from runner.policies import Policies, reach_note

ROOT = Path(__file__).parent.parent
TINY = ["--total-timesteps", "8192", "--hidden-size", "8", "--eval-episodes", "128"]


def python(*args, env, cwd, **options):
    return subprocess.run(
        [sys.executable, *map(str, args)], env=env, cwd=cwd, capture_output=True, text=True, timeout=300, **options
    )


def ppo_command(*args, env, cwd, **options):
    return python(ROOT / "ppo.py", *args, env=env, cwd=cwd, **options)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main_in_process(*arguments, script=ppo, path=None):
    """Runs a script's command line here, without a child process; returns its exit code."""
    with pytest.raises(SystemExit) as stop:
        main(
            path or script.__file__,
            script.Config,
            script.make_env,
            script.make_train,
            script.make_policy,
            argv=list(arguments),
        )
    return stop.value.code


# --- Bad input --------------------------------------------------------------------------------------------------------
EVERYWHERE = [
    ("--env-id CartPole", ["'CartPole' is not a gymnax environment", "CartPole-v1"]),
    ("--env-id breakout", ["Breakout-MinAtar"]),
    ("--env-id FrozenLake-misc", ["Discrete(16", "no script here can read"]),
    ("--env-id OddActions-probe", ["'OddActions-probe' acts in Tuple"]),
    ("--num-envs 0", ["num_envs must be a whole number from 1"]),
    ("--hidden-size 0", ["hidden_size must be"]),
    ("--gamma 1.01", ["gamma must be in [0, 1], not 1.01", "0.99"]),
    ("--lr nan", ["lr must be finite and not negative"]),
    ("--lr inf", ["lr must be finite and not negative"]),
    ("--lr 1e39", ["lr must be finite and not negative"]),
    ("--lr -1", ["lr must be finite and not negative"]),
    ("--lr abc", ["--lr: 'abc' is not a number", "1e-3"]),
    ("--coordinator localhost:1234", ["need --distributed beside them"]),
    ("--distributed --coordinator localhost", ["--coordinator HOST:PORT --num-processes N --process-id I"]),
    ("--distributed --coordinator a:1 --num-processes 2 --process-id 2", ["I from 0 to N - 1"]),
    ("--distributed --coordinator a:99999 --num-processes 2 --process-id 0", ["--coordinator HOST:PORT"]),
    ("--total-timesteps 5.5", ["'5.5' is not a whole number", "5e5"]),
    ("--lrr 1e-3", ["there is no flag --lrr", "did you mean --lr?"]),
    ("--lr", ["--lr", "missing value"]),
    ("stray", ["stray", "--help"]),
    ("--num-seeds 0", ["num_seeds must be a whole number of at least 1"]),
    ("--seed -1", ["seed must be a whole number of at least 0"]),
    ("--seed 4294967296", ["seed must be at most 2**31 - 1 = 2147483647, not 4294967296"]),
    ("--num-envs 4294967296", ["num_envs must be a whole number from 1 to 2**31 - 1"]),
    ("--import a/x.py b/x.py", ["two files are called x.py"]),
    ("--run-dir gs://bucket/run", ["--run-dir gs://bucket/run", "mount the storage first"]),
    ("--eval-episodes -1", ["eval_episodes must be a whole number of at least 0"]),
    ("--init-from nowhere", ["--init-from nowhere is no run directory"]),
    ("--evaluate nowhere", ["--evaluate nowhere is no run directory"]),
    ("--max-members-at-once -1", ["max_members_at_once"]),
    ("--track excel", ["'excel'", "wandb", "tensorboard"]),
    ("--sweep", ["--sweep has no values"]),
    ("--sweep lrr=1", ["no field 'lrr'", "did you mean lr?"]),
    ("--sweep lr=", ["lr= has no values"]),
    ("--sweep lr", ["names no values"]),
    ("--sweep lr=fast", ["'fast' is not a number"]),
    ("--sweep env_id=CartPole-v1,Acrobot-v1", ["--sweep env_id: returns in different environments can't be compared"]),
    ("--env-params gravity=3 --env-id CartPole-v1 --sweep env_params=gravity=9;mass=1", ["has no parameter 'mass'"]),
    ("--sweep num_envs=2.5", ["'2.5' is not a whole number"]),
    ("--sweep lr=1,1", ["a value twice"]),
    ("--sweep lr=1 lr=2", ["names lr twice"]),
    ("--sweep lr=1 --sweep gamma=1", ["given twice", "after one"]),
    ("--sweep lr=lin:0:inf:4", ["both finite"]),
    ("--sweep lr=log:1e-5:1e-2:1e9", ["a count from 1 to 100,000"]),
    ("--learning-rate 1e-3", ["there is no flag --learning-rate; did you mean --lr?"]),
    ("--capture-video", ["there is no flag --capture-video; did you mean --gif?"]),
    ("--target-kl 0.01", ["there is no flag --target-kl; --help lists them all"]),
    ("--zzzz 1", ["no flag --zzzz", "--help"]),
    ("--zzzz 1 --sweep lr=1", ["--zzzz; --help lists them all\n"]),
    (f"--run-dir {'x' * 300}", ["--run-dir"]),
    ("--sweep gamma=0.9,2", ["gamma must be in [0, 1], not 2.0"]),
    ("--sweep lr=log:0:1:4", ["0 < low < high"]),
    ("--sweep lr=lin:1:2", ["lin:low:high:count"]),
    ("--resume nowhere", ["no run directory", "runs/"]),
    ("--resume .", ["no run directory"]),
    ("--run-dir .", ["exists already", "choose a new folder"]),
    ("--run-dir /proc/none/x", ["can't write the run directory", "--run-dir"]),
    (
        "--tuned --env-id Pong-misc",
        ["--tuned: no settings of", "are tuned for Pong-misc; there are some for: "],
    ),
    ("--env-id CartPole-v1 --env-params gravity=20,mass=1", ["CartPole-v1 has no parameter 'mass'", "masscart=1.0"]),
    ("--env-id CartPole-v1 --env-params gravity=heavy", ["needs a value of type float, as in gravity=9.8"]),
    ("--env-id CartPole-v1 --sweep env_params=gravity=9,gravity=x", ["needs a value of type float, as in gravity=9.8"]),
]
OWN = {
    "ppo": [
        ("--num-envs 0", ["default 4"]),
        ("--lr -1", ["0.00025"]),
        ("--total-timesteps 511", ["less than one update", "at least 512"]),
        ("--num-minibatches 3", ["can't be cut", "num_minibatches = 2"]),
        ("--num-envs 1 --num-steps 4", ["2 samples or more", "num_minibatches = 2"]),
        ("--num-steps -5", ["num_steps must be a whole number from 1"]),
        ("--gae-lambda -0.1", ["gae_lambda must be in [0, 1]"]),
        ("--activation elu", ["tanh or relu", "'elu'"]),
        ("--network cnn", ["needs images", "CartPole-v1 shows (4,)", "use network = mlp"]),
        ("--network gnn", ["network must be mlp or cnn"]),
        ("--ent-coeff 0.1", ["did you mean --ent-coef?"]),
        ("--anneal-lr=maybe", ["--anneal-lr=maybe: write --anneal-lr or --no-anneal-lr"]),
        ("--max-grad-norm 0", ["max_grad_norm = 0 would undo every update: use a large one, 1e9, for no clipping"]),
        ("--n-epochs 4", ["did you mean --update-epochs?"]),
        ("--sweep anneal_lr=maybe", ["'maybe' is neither true nor false"]),
        ("--total-timesteps 100 --sweep num_steps=8,16", ["less than one update", "beside --sweep must be valid too"]),
        ("--sweep num_minibatches=4,3", ["can't be cut"]),
        ("--sweep activation=lin:1:2:3", ["only numbers can be drawn"]),
    ],
    "ppo_rnn": [
        ("--num-minibatches 3", ["a sequence must stay whole", "num_minibatches = 2"]),
        ("--num-envs 2", ["num_minibatches = 2"]),
        ("--num-envs 4 --num-steps 1", ["num_steps = 2 or more"]),
        ("--cell rnn", ["cell must be gru or lstm, not 'rnn'"]),
        ("--activation elu", ["tanh or relu"]),
        ("--total-timesteps 2047", ["at least 2048"]),
        ("--embedding-size 0", ["embedding_size must be"]),
        ("--kernel-size 0", ["kernel_size must be"]),
        ("--network cnn", ["needs images of shape", "3x3 or larger"]),
        ("--network cnn --kernel-size 11 --env-id Breakout-MinAtar", ["11x11", "(10, 10, 4)", "smaller kernel_size"]),
        ("--gae-lambda 2", ["gae_lambda must be in [0, 1]"]),
        ("--sweep cell=gru,rnn", ["gru or lstm"]),
    ],
    "dqn": [
        ("--env-id Pendulum-v1", ["'Pendulum-v1' has continuous actions", "use ppo.py"]),
        ("--buffer-size 9", ["can't hold one collection of num_envs * train_frequency = 10", "at least 10"]),
        ("--total-timesteps 10_000", ["at least 11000", "a smaller learning_starts"]),
        ("--n-step 20_000", ["n_step = 20000 is more than the 10000 steps", "larger buffer_size and learning_starts"]),
        ("--network cnn --env-id DeepSea-bsuite", ["needs images", "(8, 8)"]),
        ("--n-step 0", ["n_step must be a whole number from 1"]),
        ("--end-e 1.5", ["end_e must be in [0, 1], not 1.5 (default 0.05)"]),
        ("--exploration-fraction -0.5", ["exploration_fraction must be in [0, 1]"]),
        ("--tau 2", ["tau must be in [0, 1]"]),
        ("--num-steps 128", ["no flag --num-steps"]),
        ("--double-dq", ["did you mean --double-dqn?"]),
        ("--sweep n_step=1,2.5", ["'2.5' is not a whole number"]),
    ],
    "pqn": [
        ("--env-id Pendulum-v1", ["'Pendulum-v1' acts in Box", "Q is of one choice: use ppo.py"]),
        ("--num-minibatches 3", ["can't be cut into num_minibatches = 3", "use num_minibatches = 2"]),
        ("--total-timesteps 100", ["less than one update", "use at least"]),
        ("--lambda 1.5", ["lambda_ must be in [0, 1], not 1.5"]),
        ("--q-lambda 0.5", ["there is no flag --q-lambda; did you mean --lambda?"]),
        ("--sweep lambda=0.5,2", ["lambda_ must be in [0, 1], not 2.0"]),
        ("--layer-norms", ["did you mean --layer-norm?"]),
        ("--max-grad-norm 0", ["use a large one"]),
        ("--network cnn --env-id DeepSea-bsuite", ["needs images", "(8, 8)"]),
    ],
    "apg": [
        ("--env-id CartPole-v1", ["'CartPole-v1' acts in Discrete", "which has no gradient: use ppo.py"]),
        ("--env-id GaussianBandit-misc", ["use ppo.py"]),
        ("--truncation 33", ["truncation = 33 cuts nothing in num_steps = 32 steps: use 0"]),
        ("--truncation -1", ["truncation must be finite and not negative"]),
        ("--gamma 1.01", ["gamma must be in [0, 1], not 1.01 (default 0.95)"]),
        ("--tuned --env-id PointRobot-misc", ["--tuned: no settings of apg.py are tuned for PointRobot-misc"]),
        ("--noise -0.1", ["noise must be finite and not negative"]),
        ("--total-timesteps 100", ["less than one update", "use at least"]),
        ("--critic-lr nan", ["critic_lr must be finite"]),
        ("--tau 2", ["tau must be in [0, 1]"]),
        ("--critics", ["did you mean --critic"]),
    ],
}
SCRIPTS = {"ppo": ppo, "ppo_rnn": ppo_rnn, "dqn": dqn, "pqn": pqn, "apg": apg}
BAD = [(name, *row) for name in SCRIPTS for row in (*EVERYWHERE, *OWN[name])]
ELSEWHERE = (
    "CartPole-v1 --sweep",
    "--sweep env_para",
    "--tuned",
    "--gamma 1.01",
)  # apg.py plays no CartPole-v1, is not tuned, has another gamma
BAD = [row for row in BAD if row[0] != "apg" or row[1:] in OWN["apg"] or not any(x in row[1] for x in ELSEWHERE)]


@pytest.mark.parametrize(("name", "arguments", "expected"), BAD, ids=[f"{row[0]} {row[1][:60]}" for row in BAD])
def test_bad_input_gets_one_line_and_exit_code_2(name, arguments, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main_in_process(*arguments.split(), script=SCRIPTS[name]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"{name}.py: ") and printed.err.count("\n") <= 2 and printed.out == ""
    for words in expected:
        assert words in printed.err
    assert list(tmp_path.iterdir()) == []


def test_python_gets_a_value_error_where_something_else_would_be_trained():
    for script, changes, words in (
        (ppo, {"num_minibatches": 3}, "use num_minibatches = 2"),
        (ppo, {"num_minibatches": 2**30}, "use num_minibatches = 256"),
        (ppo, {"num_envs": 1, "num_steps": 1}, "use a larger num_steps"),
        (ppo, {"total_timesteps": 511}, "use at least 512"),
        (ppo_rnn, {"num_minibatches": 3}, "must stay whole: use num_minibatches = 2"),
        (ppo_rnn, {"num_envs": 4, "num_steps": 1}, "use num_steps = 2 or more"),
        (ppo_rnn, {"total_timesteps": 2047}, "use at least 2048"),
        (dqn, {"buffer_size": 9}, "can't hold one collection"),
        (dqn, {"n_step": 20_000}, "use n_step = 10000 or less"),
        (dqn, {"total_timesteps": 10_000}, "use at least 11000"),
        (pqn, {"num_minibatches": 3}, "use num_minibatches = 2"),
        (pqn, {"num_minibatches": 2**30}, "use num_minibatches = "),
        (pqn, {"total_timesteps": 100}, "use at least"),
        (apg, {"truncation": 33}, "cuts nothing in num_steps = 32 steps"),
        (apg, {"total_timesteps": 100}, "use at least"),
    ):
        with pytest.raises(ValueError, match=words):
            script.Config(**changes)
    with pytest.raises(ValueError, match=r"has continuous actions.*use ppo.py for it"):
        dqn.make_train(dqn.Config("Pendulum-v1"))
    for script in SCRIPTS.values():
        only = "use ppo.py or ppo_rnn.py" if script in (pqn, apg) else "Discrete, MultiDiscrete or Box only"
        with pytest.raises(ValueError, match=rf"acts in Tuple.*{only}"):
            script.make_train(script.Config("OddActions-probe"))
    assert ppo.Config(num_envs=np.int64(4), lr=jnp.float32(1e-3), gamma=1).num_updates == 976


@pytest.mark.slow
def test_a_field_that_a_user_adds_is_checked_by_its_type_alone(environment, tmp_path):
    text = (ROOT / "ppo.py").read_text()
    line = "    lr: float = 2.5e-4  # learning rate of Adam\n"
    added = "    log_std_init: float = -0.5  # mine\n    frame_skip: int = 0  # mine\n"
    added += "    sizes: tuple[int, ...] = (64, 64)  # mine\n"
    assert line in text
    (tmp_path / "mine.py").write_text(text.replace(line, line + added))
    env = environment | {"PYTHONPATH": str(ROOT)}
    found = python(
        tmp_path / "mine.py", "--log-std-init", "nan", "--frame-skip", "-3", "--lr", "-1", env=env, cwd=tmp_path
    )
    assert found.returncode == 2 and "lr must be finite and not negative" in found.stderr
    found = python(tmp_path / "mine.py", "--frame-skip", "2.5", env=env, cwd=tmp_path)
    assert found.returncode == 2 and "'2.5' is not a whole number" in found.stderr
    found = python(tmp_path / "mine.py", "--help", env=env, cwd=tmp_path)
    assert found.returncode == 0 and "--log-std-init" in found.stdout and "--sizes" in found.stdout


def test_switches_as_sweep_agents_write_them():
    script = Script(Path(ppo.__file__), ppo.Config, ppo.make_env, ppo.make_train, ppo.make_policy, Policies())
    for words, expected in (("--anneal-lr=False", False), ("--anneal-lr=true", True), ("--no-anneal-lr", False)):
        assert make_plan(script, [words]).config.anneal_lr is expected


def test_a_swept_part_of_env_params_changes_what_is_given_beside_it():
    script = Script(Path(ppo.__file__), ppo.Config, ppo.make_env, ppo.make_train, ppo.make_policy, Policies())
    words = [
        "--env-params",
        "max_steps_in_episode=30,gravity=9",
        "--sweep",
        "env_params=gravity=5;masspole=0.2,masspole=1",
    ]
    plan = make_plan(script, words)
    assert [point["env_params"] for point in plan.points] == [
        "max_steps_in_episode=30,gravity=5,masspole=0.2", "max_steps_in_episode=30,gravity=9,masspole=1",
    ]  # fmt: skip
    for batch in plan.batches:
        _, env_params = ppo.make_env("CartPole-v1", batch.config.env_params)
        assert env_params.max_steps_in_episode == 30


@pytest.mark.parametrize(
    ("env_id", "changes", "words"),
    [
        (
            "CartPole-v1",
            "memory_length=10",
            r"CartPole-v1 has no parameter 'memory_length' to set; it has.*gravity=9.8",
        ),
        ("CartPole-v1", "gravity=heavy", "'gravity=heavy' needs a value of type float, as in gravity=9.8"),
        ("CartPole-v1", "gravity=nan", "needs a value of type float"),
        ("CartPole-v1", "gravity=1e39", "needs a value of type float"),
        ("CartPole-v1", "gravity", "'gravity' needs a value of type float"),
        ("CartPole-v1", "gravity=1,gravity=2", "names gravity twice"),
        ("CartPole-v1", "max_steps_in_episode=0", "must be at least 1, not 0"),
        ("CartPole-v1", f"max_steps_in_episode={10**400}", "needs a value of type int"),
        ("MemoryChain-bsuite", "memory_length=2.5", "needs a value of type int, as in memory_length=5"),
        ("MemoryChain-bsuite", "memory_length=3e9", "needs a value of type int"),
        ("DeepSea-bsuite", "deterministic=maybe", "needs a value of type bool, as in deterministic=True"),
        ("Acrobot-v1", "available_torque=1", "no parameter 'available_torque' to set"),
        ("CartPole-v1", "gravity=9;8", "needs a value of type float"),
        ("MemoryChain-bsuite", "memory_length=true", "needs a value of type int"),
        ("CartPole-v1", "gravity=[1]", "needs a value of type float"),
    ],
)
def test_env_params_that_do_not_exist_are_refused(env_id, changes, words, capsys):
    assert main_in_process("--env-id", env_id, "--env-params", changes) == 2
    assert re.search(words, capsys.readouterr().err)


def test_env_params_are_read_as_people_type_them():
    for script in (script for script in SCRIPTS.values() if script is not apg):  # which plays neither
        _, env_params = script.make_env("CartPole-v1", " gravity = 2e1 ,max_steps_in_episode=5e1")
        assert env_params.gravity == 20.0 and env_params.max_steps_in_episode == 50
        assert type(env_params.max_steps_in_episode) is int
        for text, value in (("false", False), ("True", True)):
            assert script.make_env("DeepSea-bsuite", f"deterministic={text}")[1].deterministic is value


@pytest.mark.parametrize(
    ("flags", "package"), [("--track wandb", "wandb"), ("--track tensorboard", "tensorboard"), ("--gif", "pygame")]
)
def test_missing_packages_name_their_install_command(flags, package, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = importlib.util.find_spec  # hides the package, as on a machine that has not installed it
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == package else found(name, *rest))
    assert main_in_process(*flags.split()) == 2
    assert f"pip install {package}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_edited_defaults_that_do_not_go_together_are_one_line(environment, tmp_path):
    text = (ROOT / "ppo.py").read_text()
    edited = text.replace("num_minibatches: int = 4 ", "num_minibatches: int = 3 ")
    assert edited != text
    (tmp_path / "mine.py").write_text(edited)
    found = python(tmp_path / "mine.py", env=environment | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path)
    assert found.returncode == 2 and found.stderr.count("\n") == 1
    assert "mine.py: the defaults of Config don't go together" in found.stderr and "num_minibatches = 2" in found.stderr


def test_help_shows_every_fields_comment(environment, tmp_path):
    found = python(ROOT / "ppo.py", "--help", env=environment | {"COLUMNS": "200"}, cwd=tmp_path)
    assert found.returncode == 0
    for words in (
        "--gae-lambda",
        "GAE's bias (0) against variance (1)",
        "--num-seeds",
        "agents per sweep point",
        "0.00025",
    ):
        assert words in found.stdout


# --- Whole runs -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def sweep_run(tmp_path_factory, environment):
    """A sweep over a float and a static field, 2 seeds, one value that diverges."""
    cwd = tmp_path_factory.mktemp("sweep")
    args = ["--sweep", "lr=1e-3,1e30", "activation=tanh,relu", "--num-seeds", "2"]
    found = ppo_command(*TINY, *args, "--track", "tensorboard", "--gif", "--run-dir", "run", env=environment, cwd=cwd)
    assert found.returncode == 0, found.stderr
    return cwd / "run", found


@pytest.mark.slow
def test_with_64_bits_on_a_whole_run_is_one_of_32(environment, tmp_path):
    """Pendulum-v1 by itself would mix them: when it is checked, trained in, evaluated in, drawn, and gone on with."""
    env = environment | {"JAX_ENABLE_X64": "1"}
    words = ["--env-id", "Pendulum-v1", *TINY[:-2], "--num-seeds", "2", "--eval-episodes", "4"]
    found = ppo_command(*words, "--gif", "--run-dir", "wide", env=env, cwd=tmp_path)
    assert found.returncode == 0 and (tmp_path / "wide/policy.gif").exists(), found.stderr
    assert ppo_command(*words, "--run-dir", "plain", env=environment, cwd=tmp_path).returncode == 0
    assert sha256(tmp_path / "wide/metrics.csv") == sha256(tmp_path / "plain/metrics.csv")
    members = [json.loads((tmp_path / name / "summary.json").read_text())["members"] for name in ("wide", "plain")]
    assert members[0] == members[1]
    assert ppo_command("--resume", "wide", env=env, cwd=tmp_path).returncode == 0


def test_the_record_is_complete(sweep_run):
    run, _ = sweep_run
    names = {p.name for p in run.iterdir()}
    assert {
        "config.json",
        "ppo.py",
        "metrics.csv",
        "summary.json",
        "learning_curve.png",
        "sweep.png",
        "checkpoints",
    } <= names
    assert (run / "ppo.py").read_text() == (ROOT / "ppo.py").read_text()
    config = json.loads((run / "config.json").read_text())
    assert config["script"] == "ppo" and config["versions"]["jax"] and len(config["points"]) == 4
    table = pd.read_csv(run / "metrics.csv")
    assert list(table)[:6] == ["member", "seed", "lr", "activation", "update", "env_steps"]
    assert len(table) == 8 * 16 and set(table["activation"]) == {"tanh", "relu"}
    assert not [p for p in run.rglob("*.tmp")]
    # Two batches, one per activation, of less than ten seconds: no checkpoint but the last
    found = sorted(str(p.relative_to(run)) for p in run.glob("checkpoints/*/[0-9]*"))
    assert found == ["checkpoints/batch-000/16", "checkpoints/batch-001/16"]


def test_the_diverged_members_are_named_and_harm_no_other(sweep_run):
    run, found = sweep_run
    summary = json.loads((run / "summary.json").read_text())
    assert [p["nan_seeds"] for p in summary["points"]] == [0, 0, 2, 2]
    assert "seed 0, lr=1e+30, activation=tanh" in found.stdout and "(2 NaN)" in found.stdout
    table = pd.read_csv(run / "metrics.csv")
    assert table[table["lr"] == 1e-3]["value_loss"].notna().all()
    assert summary["points"][summary["best_point"]]["values"]["lr"] == 1e-3
    assert "python ppo.py" in found.stdout and "--lr 0.001" in found.stdout


def test_compile_and_run_time_are_reported_apart(sweep_run):
    run, found = sweep_run
    timing = json.loads((run / "summary.json").read_text())["timing"]
    assert timing["compile_seconds"] > 0.5 and timing["env_steps"] == 8 * 8192
    assert "compiled in" in found.stdout and "env steps/s" in found.stdout
    assert "median return" in found.stderr and "steps/s" in found.stderr  # the bar
    assert "WARNING" not in found.stderr, found.stderr


def test_tensorboard_has_a_folder_per_member(sweep_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folders = sorted((sweep_run[0] / "tensorboard").iterdir())
    assert len(folders) == 8 and "seed 1, lr=0.001, activation=tanh" in folders[1].name
    events = EventAccumulator(str(folders[0]), size_guidance={"tensors": 0})  # 0: all of them
    events.Reload()
    assert len(events.Tensors("entropy")) == 16


def test_the_gif_of_the_best_member_is_there(sweep_run):
    run, found = sweep_run
    assert (run / "policy.gif").read_bytes().startswith(b"GIF8") and "policy.gif" in found.stdout
    assert "lr=0.001" in next(line for line in found.stdout.splitlines() if line.startswith("best member"))


def test_one_member_alone_gives_what_it_gave_in_the_sweep_and_wandb_has_it(sweep_run, environment, tmp_path):
    """The re-run command's promise: members don't see each other. Batches of other sizes may round otherwise."""
    env = environment | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    args = ["--lr", "1e-3", "--seed", "1", "--num-seeds", "1", "--track", "wandb", "--run-dir", "one"]
    found = ppo_command(*TINY, *args, env=env, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    one = pd.read_csv(tmp_path / "one/metrics.csv")
    table = pd.read_csv(sweep_run[0] / "metrics.csv")
    same = table[(table["seed"] == 1) & (table["lr"] == 1e-3) & (table["activation"] == "tanh")]
    assert one["episode_return"].iloc[0] == same["episode_return"].iloc[0]
    assert one["value_loss"].iloc[0] == pytest.approx(same["value_loss"].iloc[0], rel=1e-3)
    assert len(list((tmp_path / "one/wandb").glob("offline-run-*"))) == 1


def test_resuming_refuses_other_settings_and_other_scripts(sweep_run, tmp_path, capsys, monkeypatch):
    run, _ = sweep_run

    def refused(*arguments, path=ppo.__file__):
        assert main_in_process("--resume", str(run), *arguments, path=path) == 2
        return capsys.readouterr().err

    before = sha256(run / "metrics.csv")
    assert "lr = 0.00025, not 0.5: drop --lr" in refused("--lr", "0.5")
    assert "drop --num-seeds" in refused("--num-seeds", "3")
    assert "drop --sweep" in refused("--sweep", "lr=1")
    other = tmp_path / "other.py"
    other.write_text(Path(ppo.__file__).read_text())
    assert "is a run of ppo.py: type python ppo.py --resume" in refused(path=str(other))
    assert sha256(run / "metrics.csv") == before


def test_a_run_directory_belongs_to_one_process_at_a_time(sweep_run, capsys):
    run, _ = sweep_run
    before = sha256(run / "metrics.csv"), sha256(run / "summary.json")
    holder = "import filelock, sys\nwith filelock.FileLock(sys.argv[1]): print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holder, run / ".lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        assert main_in_process("--resume", str(run), "--no-compile-cache") == 2
        other.kill()
    assert f"another process is writing to {run}: wait for its end" in capsys.readouterr().err
    assert before == (sha256(run / "metrics.csv"), sha256(run / "summary.json"))
    with record.locked(run):  # free again, though its holder was killed
        pass
    (run / ".lock").unlink()
    (run / ".lock").mkdir()  # as a folder that can't be written to
    assert main_in_process("--resume", str(run), "--no-compile-cache") == 2
    assert f"can't write to {run}/.lock" in capsys.readouterr().err
    (run / ".lock").rmdir()


@pytest.mark.parametrize(
    "record",
    [
        "{",
        "[]",
        "null",
        "\\xff",
        '{"script": "ppo"}',
        '{"script": "ppo", "config": {"lrr": 1}, "options": {"sweep": []}}',
    ],
)
def test_resuming_a_broken_record_is_one_line(record, tmp_path, capsys):
    (tmp_path / "config.json").write_text(record)
    assert main_in_process("--resume", str(tmp_path)) == 2
    assert capsys.readouterr().err.startswith(f"ppo.py: --resume {tmp_path}")


# --- Killed, stopped, damaged -----------------------------------------------------------------------------------------
UPDATES = 200  # of each of two batches
LONG = [
    "--total-timesteps", str(256 * UPDATES), "--hidden-size", "8", "--num-envs", "2", "--num-minibatches", "2",
    "--num-seeds", "4", "--sweep", "lr=1e-4,1e-3", "--max-members-at-once", "4", "--checkpoint-every", "15",
]  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, users_environment):
    cwd = tmp_path_factory.mktemp("whole")
    found = ppo_command(*LONG, "--run-dir", "run", env=users_environment, cwd=cwd)
    assert found.returncode == 0, found.stderr
    return cwd / "run"


def wait_for_rows(run, process, rows):
    """Until metrics.csv has so many lines."""
    for _ in range(3000):
        if (run / "metrics.csv").exists() and (run / "metrics.csv").read_bytes().count(b"\n") >= rows:
            return
        assert process.poll() is None, "ended too early to be killed"
        time.sleep(0.02)
    raise AssertionError("no progress")


def start(*args, env, cwd, script="ppo.py"):
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *map(str, args)],
        env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def digest_of_state(run, batch, update):
    """Of every bit of the states in a checkpoint."""
    return json.loads((run / "checkpoints" / batch / str(update) / "notes" / "metadata").read_text())["digest"]


def assert_same_results(run, whole):
    assert sha256(run / "metrics.csv") == sha256(whole / "metrics.csv")
    for batch in ("batch-000", "batch-001"):
        assert digest_of_state(run, batch, UPDATES) == digest_of_state(whole, batch, UPDATES)
    members = [json.loads((folder / "summary.json").read_text())["members"] for folder in (run, whole)]
    assert members[0] == members[1]


def damage_newest(folder, part=""):
    """Cuts every file of the newest checkpoint, or of a folder in it, in half; returns its path."""
    newest = max((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    for path in (newest / part).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return newest


@pytest.mark.slow
def test_killed_and_stopped_and_resumed_gives_the_same_bits(uninterrupted, users_environment, tmp_path):
    """kill -9 in the first batch, Ctrl-C in the second and when all are trained; two newest checkpoints are damaged."""
    run = tmp_path / "run"
    process = start(*LONG, "--run-dir", run, env=users_environment, cwd=tmp_path)
    wait_for_rows(run, process, 300)
    process.kill()
    process.wait()
    newest = damage_newest(run / "checkpoints/batch-000")
    process = start("--resume", run, env=users_environment, cwd=tmp_path)
    wait_for_rows(run, process, 4 * UPDATES + 250)  # in the second batch
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=60)[0]
    assert f"checkpoint {newest} is damaged" in printed
    assert process.returncode == 130 and "Traceback" not in printed
    assert f"python ppo.py --resume {run}" in printed
    rows = (run / "metrics.csv").read_bytes().count(b"\n") - 1 - 4 * UPDATES
    assert str(rows // 4) in {p.name for p in (run / "checkpoints/batch-001").iterdir()}  # nothing is lost
    process = start("--resume", run, env=users_environment, cwd=tmp_path)
    wait_for_rows(run, process, 1 + 2 * 4 * UPDATES)  # everything is trained: in the evaluation or the report
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "Traceback" not in printed and "stopped" in printed
    newest = damage_newest(run / "checkpoints/batch-000")
    found = ppo_command("--resume", run, env=users_environment, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert f"checkpoint {newest} is damaged" in found.stdout
    assert not re.search(r"^[EW]\d{4} ", found.stderr, re.MULTILINE)  # jaxlib's C++ code, of programs in the cache
    assert_same_results(run, uninterrupted)
    timing = json.loads((run / "summary.json").read_text())["timing"]  # of all four processes
    assert timing["env_steps"] == 8 * 256 * UPDATES and timing["env_steps_per_second"] < 1e6


def test_checkpoints_are_due_by_the_clock_and_take_a_small_share_of_the_time(tmp_path, monkeypatch):
    """Here after every update, for the clock is set so; and then once, for writing one takes too long."""
    monkeypatch.setattr(run, "CHUNK_SECONDS", 0.0)  # chunks of one update
    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0.0)
    save, saved = Checkpoints.save, []

    def counting(self, update, *rest):
        saved.append(update)
        save(self, update, *rest)

    monkeypatch.setattr(Checkpoints, "save", counting)
    words = ["--total-timesteps", "3072", "--hidden-size", "8", "--num-seeds", "2", "--eval-episodes", "0"]
    for name, share, more, expected in (
        ("often", 1e9, [], [1, 2, 3, 4, 5, 6]),
        ("seldom", 1e-9, [], [1, 6]),
        ("counted", 1e9, ["--checkpoint-every", "4"], [4, 6]),
    ):
        saved.clear()
        monkeypatch.setattr(run, "CHECKPOINT_SHARE", share)
        more = [*more, "--no-compile-cache", "--run-dir", str(tmp_path / name)]
        assert main_in_process(*words, *more) == 0
        assert saved == expected
        kept = sorted(path.name for path in (tmp_path / name / "checkpoints/batch-000").iterdir())
        assert kept == [str(update) for update in expected[-2:]]


class Promise(NamedTuple):
    """A shortened run of another script: its flags, its updates, and the mean return that it must reach."""

    flags: list
    updates: int
    least: float


OTHERS = {
    # An eighth of the default length; the best return is 1, and 0 without memory
    "ppo_rnn": Promise(["--env-params", "memory_length=10", "--total-timesteps", "61_440"], 30, 0.95),
    # A fifth of the default length: half-learned, far above the 22 of random actions; README has the whole run
    "dqn": Promise(["--total-timesteps", "1e5"], 90, 150.0),
    # Two fifths of the default length: half-learned
    "pqn": Promise(["--total-timesteps", "2e5"], 195, 250.0),
    "apg": Promise([], 2343, -210.0),  # the default length; random actions: -1200
    # A quarter of the default episodes: random policies hold the pole for 20 steps
    "evolve_policy": Promise(
        ["--env-id", "CartPole-v1", "--generations", "18", "--episodes-per-candidate", "4"], 18, 400.0
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_the_other_scripts_learn_and_resume_with_the_same_bits(name, users_environment, tmp_path):
    """Killed after a third of the updates or more, with the memory or the replay buffer in the checkpoint."""
    promise = OTHERS[name]
    flags = [*promise.flags, "--num-seeds", "2", "--eval-episodes", "32"]
    flags += ["--checkpoint-every", str(promise.updates // 9)]
    found = python(ROOT / f"{name}.py", *flags, "--run-dir", "whole", env=users_environment, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    point = json.loads((tmp_path / "whole/summary.json").read_text())["points"][0]
    assert point["final_return"]["mean"] >= promise.least and point["greedy_return"]["mean"] >= promise.least
    process = start(*flags, "--run-dir", "run", script=f"{name}.py", env=users_environment, cwd=tmp_path)
    wait_for_rows(tmp_path / "run", process, 2 * promise.updates // 3)
    process.kill()
    process.wait()
    assert (tmp_path / "run/metrics.csv").read_bytes().count(b"\n") < 2 * promise.updates
    found = python(ROOT / f"{name}.py", "--resume", "run", env=users_environment, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert sha256(tmp_path / "run/metrics.csv") == sha256(tmp_path / "whole/metrics.csv")
    assert len({digest_of_state(tmp_path / run, "batch-000", promise.updates) for run in ("run", "whole")}) == 1


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_good_checkpoint(users_environment, uninterrupted, tmp_path):
    """A limit on file size stands in for the full disk: the same OSError from the same write."""
    kilobytes = 60
    assert (uninterrupted / "metrics.csv").stat().st_size > 2 * 1024 * kilobytes
    shell = f'ulimit -f {kilobytes}; exec "$@"'  # bash counts in units of 1,024 bytes
    found = subprocess.run(
        ["bash", "-c", shell, "bash", sys.executable, str(ROOT / "ppo.py"), *LONG, "--run-dir", "run"],
        env=users_environment, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert found.returncode == 2 and "Traceback" not in found.stderr, found.stderr
    assert "File too large" in found.stderr and "--resume run" in found.stderr
    assert [p for p in (tmp_path / "run/checkpoints/batch-000").iterdir() if p.name.isdigit()]
    assert ppo_command("--resume", "run", env=users_environment, cwd=tmp_path).returncode == 0
    assert_same_results(tmp_path / "run", uninterrupted)


# --- Extras -----------------------------------------------------------------------------------------------------------
MINATAR = [f"{game}-MinAtar" for game in ("Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders")]


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCar-v0", *MINATAR])
def test_gif(env_id, tmp_path, monkeypatch):
    """The frames of a few random steps, drawn by the same functions as --gif's."""
    import gymnax
    import jax
    import numpy as np

    from runner.report.render import make_frames

    env, env_params = gymnax.make(env_id)
    _, state = env.reset(jax.random.key(0), env_params)
    states = [state]
    for i in range(4):
        action = env.action_space(env_params).sample(jax.random.key(i))
        _, state, *_ = env.step(jax.random.key(i), state, action, env_params)
        states.append(state)
    frames = make_frames(env, env_params, states)
    assert len(frames) == 5 and frames[0].dtype == np.uint8 and frames[0].ndim == 3 and frames[0].shape[-1] == 3
    assert any((frame != frames[0]).any() for frame in frames[1:])
    assert len(np.unique(frames[0].reshape(-1, 3), axis=0)) >= 2  # Asterix starts with its player alone


WALK = """
import gymnax, jax, jax.numpy as jnp, numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment, EnvParams, EnvState

@struct.dataclass
class State(EnvState):
    x: jax.Array
    key: jax.Array  # a state may hold keys: the host must be able to draw it all the same

@struct.dataclass
class Params(EnvParams):
    max_steps_in_episode: int = 20

class Walk(Environment):
    default_params = Params()

    def reset_env(self, key, params):
        state = State(time=0, x=jnp.float32(0), key=key)
        return self.get_obs(state), state

    def step_env(self, key, state, action, params):
        state = state.replace(time=state.time + 1, x=state.x + 0.1 * action[0], key=key)
        return self.get_obs(state), state, jnp.float32(-1), state.x > 0.99, {}

    def get_obs(self, state, params=None, key=None):
        return state.x[None]

    def action_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (1,))

    def observation_space(self, params=None):
        return spaces.Box(-6.0, 6.0, (1,))

    def render(self, state):
        picture = np.zeros((8, 80, 3), np.uint8)
        picture[:, 40 + int(20 * float(state.x))] = 255
        return picture

gymnax.register("Walk-mine", Walk)
"""


@pytest.mark.slow
def test_an_environment_of_ones_own_needs_no_edit_of_a_script(environment, tmp_path):
    """Imported, recorded, drawn by itself, resumed from the record though the file is gone, and loaded."""
    (tmp_path / "walk.py").write_text(WALK)
    words = ["--import", "walk.py", "--env-id", "Walk-mine", *TINY[:-2], "--eval-episodes", "4", "--num-seeds", "2"]
    found = ppo_command(*words, "--gif", "--run-dir", "run", env=environment, cwd=tmp_path)
    assert found.returncode == 0 and (tmp_path / "run/policy.gif").read_bytes().startswith(b"GIF8"), found.stderr
    (tmp_path / "walk.py").rename(tmp_path / "gone.py")
    assert ppo_command("--resume", "run", env=environment, cwd=tmp_path).returncode == 0
    load = "from runner import load_policy; print(load_policy('run').env.name)"
    found = python("-c", load, env=environment | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path)
    assert found.stdout.strip() == "Walk", found.stderr


NO_TIME = WALK.replace("(EnvState)", "").replace("time=0, ", "").replace("time=state.time + 1, ", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "there is no such Python file"),
        ("import nothing_like_it", "fails: ModuleNotFoundError: No module named 'nothing_like_it'"),
        (NO_TIME.replace("Walk-mine", "A-v0"), "the state needs a field `time`"),
        (WALK.replace("state.x > 0.99, {}", "state.x > 0.99").replace("Walk-mine", "B-v0"), "step_env(key, state, act"),
        (WALK.replace("return state.x[None]", "return state.x").replace("Walk-mine", "C-v0"), "of shape ()"),
        (WALK.replace("x=state.x +", "x=state.x[None] +").replace("Walk-mine", "D-v0"), "must keep shape and dtype"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_environment_is_one_line(text, expected, tmp_path, capsys):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    name = re.findall(r'register\("(.*?)"', text or "")
    assert main_in_process("--import", str(path), *(["--env-id", *name] if name else [])) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and expected in printed and "Traceback" not in printed, printed


def test_that_nobody_can_draw_an_environment_is_said_before_training(capsys):
    script = Script(Path(ppo.__file__), ppo.Config, ppo.make_env, ppo.make_train, ppo.make_policy, Policies())
    make_plan(script, ["--gif", "--env-id", "Catch-bsuite"])
    assert "note: no GIF, for nobody can draw Catch-bsuite" in capsys.readouterr().out
    make_plan(script, ["--gif"])
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_an_edit_that_changes_the_metrics_does_not_mix_with_the_record(environment, tmp_path):
    """A metric that an edited copy adds would have no column in the run that it goes on with."""
    text, mine, run = (ROOT / "ppo.py").read_text(), tmp_path / "mine.py", tmp_path / "run"
    line = '            "value_mean": batch.value.mean(),\n'
    assert line in text
    mine.write_text(text)
    env = environment | {"PYTHONPATH": str(ROOT)}
    words = [*TINY[:-2], "--eval-episodes", "0", "--num-seeds", "2", "--checkpoint-every", "4", "--run-dir"]
    assert python(mine, *words, "run", env=env, cwd=tmp_path).returncode == 0
    before = (run / "metrics.csv").read_bytes()
    (run / "checkpoints/batch-000/16").rename(tmp_path / "last")  # as if the run had ended before
    mine.write_text(text.replace(line, line + '            "value_max": batch.value.max(),\n'))
    found = python(mine, "--resume", "run", env=env, cwd=tmp_path)
    assert found.returncode == 2 and "(changed: value_max)" in found.stderr and "Traceback" not in found.stderr
    mine.write_text(text.replace(line, line.replace("batch.value.mean()", "batch.value")))
    found = python(mine, *words, "other", env=env, cwd=tmp_path)
    assert found.returncode == 2 and "the metric value_mean has shape (128, 4) per update" in found.stderr
    mine.write_text(text)
    assert python(mine, "--resume", "run", env=env, cwd=tmp_path).returncode == 0
    assert (run / "metrics.csv").read_bytes() == before


@pytest.mark.slow
def test_a_run_that_trained_nothing_may_be_begun_again_under_its_name(environment, tmp_path):
    words = [*TINY[:-2], "--eval-episodes", "0", "--num-seeds", "1", "--run-dir=~/run"]
    env = environment | {"HOME": str(tmp_path)}
    found = ppo_command(*words, env=env | {"JAX_DISABLE_JIT": "1"}, cwd=tmp_path)
    assert found.returncode == 2 and "JAX_DISABLE_JIT is set" in found.stderr and not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text("{}")  # of a run that ended before its first checkpoint
    assert ppo_command(*words, env=env, cwd=tmp_path).returncode == 0 and not (tmp_path / "~").exists()
    assert json.loads((tmp_path / "run/config.json").read_text())["script"] == "ppo"
    assert [p.read_text() for p in tmp_path.glob("run-untrained-*/config.json")] == ["{}"]
    found = ppo_command(*words, env=env, cwd=tmp_path)
    assert found.returncode == 2 and "exists already" in found.stderr
    found = ppo_command("--resume", "~/run", env=env | {"JAX_DEFAULT_PRNG_IMPL": "rbg"}, cwd=tmp_path)
    assert found.returncode == 2 and "begun with JAX_DEFAULT_PRNG_IMPL=threefry2x32" in found.stderr


def test_what_reads_the_output_may_end_before_the_run(environment, tmp_path):
    command = f"{sys.executable} {ROOT / 'ppo.py'} {' '.join(TINY)} --num-seeds 1 --run-dir run | head -1"
    found = subprocess.run(["bash", "-c", command], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert "what read the output has ended; nothing is trained yet, go on with --resume run" in found.stderr
    assert "Traceback" not in found.stderr and "Exception ignored" not in found.stderr


def test_commands_that_are_printed_can_be_pasted(environment, tmp_path):
    """With a space in the run directory's name, parameters of the environment, and the largest seed that there is."""
    words = ["--sweep", "lr=1e-3,1e-2", *TINY[:-2], "--eval-episodes", "0", "--num-seeds", "2", "--seed", "2147483646"]
    words += ["--env-params", "x_threshold=2.0,max_steps_in_episode=100", "--run-dir", "a run"]
    found = ppo_command(*words, env=environment, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    [rerun] = [line.split(": ", 1)[1] for line in found.stdout.splitlines() if line.startswith("best point, on seeds")]
    script = Script(Path(ppo.__file__), ppo.Config, ppo.make_env, ppo.make_train, ppo.make_policy, Policies())
    plan = make_plan(script, shlex.split(rerun)[2:])
    assert plan.config.env_params == "x_threshold=2.0,max_steps_in_episode=100" and plan.config.lr in (1e-3, 1e-2)
    assert plan.options.seed + plan.options.num_seeds <= 2147483646  # none of the seeds of before, and none too large
    assert go_on_after(tmp_path / "a run").endswith(f"go on with --resume '{tmp_path}/a run'")


@pytest.mark.parametrize(
    ("low", "high", "said", "fitting"),
    [
        (10.0, 20.0, "will hardly reach them", 20.0),
        (0.0, 100.0, "will hardly reach them", 10.0),
        (-0.1, 0.1, "nearly all that it does is cut off", 0.05),
        (-1.0, 1.0, "", 1.0),
        (-np.inf, np.inf, "", 1.0),
    ],
)
def test_actions_out_of_reach_are_said(low, high, said, fitting):
    class Env:
        def action_space(self, params):
            return spaces.Box(low, high, (2,))

    script = types.SimpleNamespace(make_env=lambda env_id, changes: (Env(), None))
    note = reach_note(script, ppo.Config())
    assert said in note and bool(said) == bool(note)
    for config in (ppo.Config(action_std=fitting), ppo.Config(squash_actions=True)):
        assert not reach_note(script, config)
    assert not reach_note(script, apg.Config())  # it has tanh and the bounds' own scale

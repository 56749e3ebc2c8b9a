"""Using what was trained: policies loaded, weights exported, runs evaluated again, gone on from and compared."""

import json
import re
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from test_cli import ROOT, main_in_process, ppo_command, python

import apg
import dqn
import evolve_policy
import ppo
import ppo_rnn
import pqn
from runner import export_weights, load_policy
from runner.loop import saved

SHORT = ["--total-timesteps", "8192", "--hidden-size", "8", "--eval-episodes", "16"]
SWEEP = [*SHORT, "--num-seeds", "2", "--sweep", "lr=1e-5,1e-2", "activation=tanh,relu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, environment):
    """Two batches of four members, of an edited copy of the script: its policy prefers action 1."""
    cwd = tmp_path_factory.mktemp("trained")
    text = (ROOT / "ppo.py").read_text()
    line = "            return distrax.Categorical(logits=output), value\n"
    assert line in text
    edited = text.replace(line, line.replace("logits=output", "logits=output + jnp.array([0.0, 1.0])"))
    (cwd / "mine.py").write_text(edited)
    env = environment | {"PYTHONPATH": str(ROOT)}
    found = python(cwd / "mine.py", *SWEEP, "--run-dir", "run", env=env, cwd=cwd)
    assert found.returncode == 0, found.stderr
    return cwd / "run"


def members(run):
    return json.loads((run / "summary.json").read_text())["members"]


def greedy_returns(policy, episodes):
    """Returns of whole episodes played with a loaded policy, written out as a user would."""
    keys = jax.random.split(jax.random.key(5), episodes)
    obs, env_state = jax.vmap(policy.env.reset, (0, None))(keys, policy.env_params)
    carry, total, done = policy.init_carry(episodes), np.zeros(episodes), np.zeros(episodes, bool)
    act = jax.jit(lambda carry, obs: policy.act(policy.state, carry, obs, jax.random.key(0), True))
    step = jax.jit(jax.vmap(policy.env.step, (0, 0, 0, None)))
    for _ in range(500):
        carry, action = act(carry, obs)
        obs, env_state, reward, terminated, truncated, _ = step(keys, env_state, action, policy.env_params)
        total += np.asarray(reward) * ~done
        done |= np.asarray(terminated | truncated)
    return total


def test_a_loaded_policy_is_the_one_that_was_trained(run):
    """Of the edited script, though the original has changed; with the settings of its own sweep point."""
    rows = members(run)
    policy = load_policy(run)
    summary = json.loads((run / "summary.json").read_text())
    assert policy.member.point == summary["best_point"] and policy.member.seed == 0
    assert policy.config.lr == policy.member.values["lr"]
    nothing = policy.state._replace(params=jax.tree.map(jnp.zeros_like, policy.state.params))
    _, bias = policy.act(nothing, (), jnp.ones((9, 4)), jax.random.key(0), True)
    assert (bias == 1).all()  # the edit
    best = max(rows, key=lambda row: row["greedy_return"])
    played = greedy_returns(load_policy(run, member=best["member"]), 64)
    spread = 4 * played.std() / np.sqrt(16)  # of the mean of 16 episodes, which the evaluation played
    assert abs(played.mean() - best["greedy_return"]) < max(spread, 5.0)
    with pytest.raises(ValueError, match="has members 0 to 7, not 8"):
        load_policy(run, member=8)
    with pytest.raises(ValueError, match="no run directory"):
        load_policy(run / "checkpoints")


def test_weights_are_exported_without_pickle(run, tmp_path, environment):
    shapes = export_weights(run, tmp_path / "weights", member=5)
    found = np.load(tmp_path / "weights", allow_pickle=False)
    policy = load_policy(run, member=5)
    assert set(found.files) == set(shapes)
    np.testing.assert_array_equal(
        found["params/params/actor/layers_0/kernel"], policy.state.params["params"]["actor"]["layers_0"]["kernel"]
    )
    assert found["obs_stats/mean"].shape == (4,) and len(found.files) == 12 + 6
    command = ["-m", "runner.export_weights", run, "--output", tmp_path / "b.npz", "--member", "5"]
    assert python(*command, env=environment, cwd=ROOT).returncode == 0
    for name in found.files:
        np.testing.assert_array_equal(np.load(tmp_path / "b.npz")[name], found[name])
    wrong = python("-m", "runner.export_weights", tmp_path, env=environment, cwd=ROOT)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1 and "no run directory" in wrong.stderr


@pytest.mark.slow
def test_a_run_is_evaluated_again(run, environment):
    """Without changes with the same episodes, so the same returns; in a world of other parameters with other ones."""
    env = environment | {"PYTHONPATH": str(ROOT)}
    script = run.parent / "mine.py"

    def evaluated(*words):
        found = python(script, "--evaluate", run, "--eval-episodes", "16", *words, env=env, cwd=run.parent)
        assert found.returncode == 0, found.stderr
        newest = max((run / "evaluations").glob("*.json"))
        return [member["greedy_return"] for member in json.loads(newest.read_text())["members"]]

    before = (run / "metrics.csv").read_bytes()
    assert evaluated() == [member["greedy_return"] for member in members(run)]
    short = evaluated("--env-params", "max_steps_in_episode=10")
    assert max(short) <= 10.0
    assert evaluated("--seed", "9") != [member["greedy_return"] for member in members(run)]
    assert (run / "metrics.csv").read_bytes() == before and len(list((run / "evaluations").iterdir())) == 3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--lr", "1"], ["--evaluate plays the policies as they are, with lr = "]),
        (["--env-id", "Acrobot-v1"], ["take observations of shape (4,) and give 2 actions; Acrobot-v1 has (6,) and 3"]),
        (["--env-params", "mass=1"], ["has no parameter 'mass'"]),
        (["--eval-episodes", "0"], ["eval_episodes must be a whole number of at least 1"]),
    ],
)
def test_what_can_not_be_evaluated_is_one_line(run, words, expected, capsys):
    path = run.parent / "mine.py"
    assert main_in_process("--evaluate", str(run), *words, path=str(path)) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and all(text in printed for text in expected), printed


@pytest.mark.slow
def test_a_new_run_starts_from_the_weights_of_an_earlier_one(run, environment, tmp_path):
    """lr 0 leaves the weights as they are: those of the best point, seed by seed, and all else is new."""
    words = [*SHORT, "--activation", load_policy(run).config.activation, "--lr", "0", "--num-seeds", "3"]
    found = ppo_command(*words, "--init-from", run, "--run-dir", "on", env=environment, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    point = json.loads((run / "summary.json").read_text())["best_point"]
    sources = [member["member"] for member in members(run) if member["point"] == point]
    for new, source in zip(range(3), [*sources, sources[0]], strict=True):
        ours, theirs = load_policy(tmp_path / "on", member=new).state, load_policy(run, member=source).state
        for x, y in zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True):
            np.testing.assert_array_equal(x, y)
        assert ours.num_updates == 16 and not (ours.obs == theirs.obs).all()
    assert pd.read_csv(tmp_path / "on/metrics.csv")["env_steps"].max() == 8192


def test_weights_that_do_not_fit_are_named_and_nothing_is_written(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main_in_process(*SHORT, "--hidden-size", "16", "--init-from", str(run)) == 2
    printed = capsys.readouterr().err
    assert "params/params/actor/layers_0/bias has shape (8,) there and (16,) here" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", [ppo, ppo_rnn, dqn, pqn, apg, evolve_policy], ids=lambda script: script.__name__)
def test_what_is_taken_of_a_state_is_there(script):
    changes = {dqn: {"learning_starts": 1000}, evolve_policy: {"generations": 1}}.get(script, {})
    changes |= {} if script is evolve_policy else {"total_timesteps": 8192}
    changes |= {"env_id": "CartPole-v1"} if script is not apg else {}
    config = replace(script.Config(), **changes)
    state = jax.eval_shape(lambda key: script.make_train(config)(key, num_updates=0)[0], jax.random.key(0))
    taken = set(state._fields) - saved.FRESH
    others = {dqn: {"target_params"}, pqn: set(), apg: {"target_params", "obs_stats"}, evolve_policy: {"obs_stats"}}
    others = others.get(script, {"obs_stats", "return_stats"})
    assert taken == {"params"} | others
    assert taken <= set(saved.WEIGHTS)


def test_going_on_past_the_planned_end_learns_nothing_and_a_fresh_start_from_old_weights_does():
    config = ppo.Config(total_timesteps=2048, hidden_size=8)
    train = ppo.make_train(config)
    final, _ = jax.jit(train)(jax.random.key(0))

    def moved(state, first):
        return max(
            float(jnp.abs(x - y).max()) for x, y in zip(*map(jax.tree.leaves, (state.params, first)), strict=True)
        )

    on, _ = jax.jit(lambda state: train(None, state=state, num_updates=2))(final)
    assert moved(on, final.params) == 0  # the annealed learning rate has come to 0, as the docstring says
    fresh, _ = train(jax.random.key(1), num_updates=0)
    fresh = fresh._replace(params=final.params, obs_stats=final.obs_stats)
    on, _ = jax.jit(lambda state: train(None, state=state))(fresh)
    assert moved(on, final.params) > 1e-4


@pytest.mark.slow
def test_runs_are_compared_in_one_picture(run, environment, tmp_path):
    for x in ("steps", "seconds"):
        command = ["-m", "runner.compare_runs", run, run, "--output", tmp_path / f"{x}.png", "--x", x]
        found = python(*command, env=environment, cwd=ROOT)
        assert found.returncode == 0 and (tmp_path / f"{x}.png").stat().st_size > 10_000, found.stderr
    for words in ([tmp_path], [], [run, "--x", "hours"], [run, "--outptu", "x.png"]):
        found = python("-m", "runner.compare_runs", *words, env=environment, cwd=ROOT)
        assert found.returncode == 2 and found.stderr.count("\n") == 1, found.stderr


@pytest.fixture(scope="module")
def default_run(tmp_path_factory, environment):
    """A short run with the default network, as the page on trained policies has it."""
    cwd = tmp_path_factory.mktemp("default")
    words = ["--total-timesteps", "8192", "--eval-episodes", "4", "--num-seeds", "4", "--run-dir", "run"]
    found = ppo_command(*words, env=environment, cwd=cwd)
    assert found.returncode == 0, found.stderr
    return cwd / "run"


def test_final_return_of_a_run_is_that_of_its_metrics(run):
    """From metrics.csv of a real run."""
    table = pd.read_csv(run / "metrics.csv")
    for row in members(run):
        own = table[table["member"] == row["member"]]
        last = own[own["update"] > own["update"].max() - max(1, own["update"].max() // 10)]
        episodes = np.repeat(last["episode_return"], last["episode_count"])
        expected = episodes.mean() if len(episodes) else last["episode_return"].iloc[-1]
        assert row["final_return"] == pytest.approx(expected)


BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/trained.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[-1][:40])
def test_what_the_page_on_trained_policies_shows_runs(block, default_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export_weights(default_run, "weights.npz")
    exec(block.replace('"RUN"', repr(str(default_run))).replace("100_000", "2_048"), {})


@pytest.mark.slow
def test_another_network_on_the_command_line_is_resumed_and_evaluated(environment, tmp_path):
    """The guide's network in place of make_network in a copy, stopped halfway: one edit is enough for all."""
    guide = (ROOT / "docs/guide.md").read_text()
    [block] = [b for b in re.findall(r"^```python\n(.*?)^```", guide, re.MULTILINE | re.DOTALL) if "SharedTorso" in b]
    network = block[block.index("class SharedTorso") : block.index("train = ")]
    text = (ROOT / "ppo.py").read_text()
    start, end = text.index("def make_network"), text.index("# --- Training")
    (tmp_path / "mine.py").write_text(text[:start] + network + text[end:])
    env = environment | {"PYTHONPATH": str(ROOT)}
    words = ["--total-timesteps", "8192", "--eval-episodes", "8", "--num-seeds", "2", "--checkpoint-every", "4"]
    assert python(tmp_path / "mine.py", *words, "--run-dir", "run", env=env, cwd=tmp_path).returncode == 0
    before = (tmp_path / "run/metrics.csv").read_bytes()
    shutil.rmtree(tmp_path / "run/checkpoints/batch-000/16")
    assert python(tmp_path / "mine.py", "--resume", "run", env=env, cwd=tmp_path).returncode == 0
    assert (tmp_path / "run/metrics.csv").read_bytes() == before
    found = python(tmp_path / "mine.py", "--evaluate", "run", "--eval-episodes", "8", env=env, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    [path] = (tmp_path / "run/evaluations").iterdir()
    again = [row["greedy_return"] for row in json.loads(path.read_text())["members"]]
    assert again == [row["greedy_return"] for row in members(tmp_path / "run")]
    kernels = {x.shape for x in jax.tree.leaves(load_policy(tmp_path / "run").state.params)}
    assert (4, 128) in kernels and (128, 128) in kernels

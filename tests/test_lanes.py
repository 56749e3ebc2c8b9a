"""Several agents in the lanes of a game: the two agents of Pair-probe, whose rewards and observations are known."""

import functools
import hashlib
import json
import shutil
from pathlib import Path

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
from PIL import Image

import dqn
import ppo
import ppo_rnn
from environments import check
from environments.lanes import Lanes, OneGame, whole_games
from environments.tracing import findings
from runner import main
from runner.loop import checkpoint, devices, program
from runner.plan.script import Script
from runner.policies import Policies
from runner.report import evaluate

PPO = Script(Path(ppo.__file__), ppo.Config, ppo.make_env, ppo.make_train, ppo.make_policy, Policies())
CONFIG = ppo.Config(
    env_id="Pair-probe", num_envs=4, num_steps=16, total_timesteps=64 * 80, hidden_size=8, num_minibatches=2, lr=0.02
)
LANES = 6


@functools.cache
def made():
    return gymnax.make("Pair-probe")


def keys(seed, count=LANES):
    return jax.random.split(jax.random.key(seed), count)


def same(x, y):
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True):
        np.testing.assert_array_equal(checkpoint.raw(a), checkpoint.raw(b))


# --- The mechanism ----------------------------------------------------------------------------------------------------
def test_lanes_play_the_game_that_their_agents_play():
    """By hand: agent 0 of each pair always plays 1 and agent 1 plays 0; the last pair both play 1."""
    env, params = made()
    obs, state = jax.jit(jax.vmap(env.reset, (0, None)))(keys(0), params)
    step = jax.jit(jax.vmap(env.step, (0, 0, 0, None)))
    cues, action = np.asarray(obs[:, 1]), jnp.array([1, 0, 1, 0, 1, 1])
    assert set(cues) == {-1.0, 1.0} and (cues[::2] == cues[1::2]).all()
    for time in range(1, 6):
        obs, state, reward, terminated, truncated, info = step(keys(time), state, action, params)
        np.testing.assert_allclose(reward, [1, 1.25, 1, 1.25, 1.25, 2.25])
        others = np.array([0, 1, 0, 1, 1, 1]) * time
        expected = np.stack([np.tile([0, 1], 3), cues, np.full(LANES, time), others], axis=1)
        np.testing.assert_allclose(info["final_observation"], expected)
        np.testing.assert_array_equal(terminated, (cues < 0) & (time == 5))  # both lanes of a game at once
        assert not truncated.any()
        np.testing.assert_allclose(obs[~terminated], expected[~terminated])
    np.testing.assert_array_equal(state.time, np.where(cues < 0, 0, 5))
    np.testing.assert_array_equal(obs[cues < 0][:, 2:], 0)  # the next episode's first
    for time in (6, 7):
        _, state, _, terminated, truncated, _ = step(keys(time), state, action, params)
    assert (truncated == (cues > 0)).all() and not terminated.any()


def test_a_step_is_the_games_own_and_its_state_comes_back_whole():
    env, params = made()
    game = probes.Pair()
    _, state = jax.vmap(env.reset, (0, None))(keys(0), params)
    own_obs, own = jax.vmap(game.reset, (0, None))(keys(0)[::2], params)
    same(env.games(state), own)
    assert [x.shape for x in state.shares] == [(6, 1)] * 4 + [(6, 2)]  # 2 + 1 elements, and one of them again
    action = jnp.array([0, 1, 1, 0, 1, 1])
    obs, state, reward, *_ = jax.vmap(env.step, (0, 0, 0, None))(keys(1), state, action, params)
    own_obs, own, own_reward, *_ = jax.vmap(game.step, (0, 0, 0, None))(keys(1)[::2], own, action.reshape(3, 2), params)
    same(env.games(state), own)
    same((obs, reward), (own_obs.reshape(6, 4), own_reward.reshape(6)))


def test_members_around_lanes_are_members_alone():
    """vmap over members outside, in a scan and without, and with env_params that differ by member or by game."""
    env, params = made()

    def rollout(key, limit):
        _, state = jax.vmap(env.reset, (0, None))(jax.random.split(key, 4), params)
        limited = params.replace(max_steps_in_episode=limit)

        def step(state, key):
            out = jax.vmap(env.step, (0, 0, 0, None))(
                jax.random.split(key, 4), state, jax.random.bernoulli(key, 0.5, (4,)).astype(int), limited
            )
            return out[1], out[:1] + out[2:]

        return jax.lax.scan(step, state, jax.random.split(key, 9))

    limits = jnp.array([3, 4, 7])
    together = jax.jit(jax.vmap(rollout))(keys(3, 3), limits)
    for i, key in enumerate(keys(3, 3)):
        same(jax.tree.map(lambda x, i=i: x[i], together), jax.jit(rollout)(key, limits[i]))
    _, state = jax.vmap(env.reset, (0, None))(keys(0, 4), params)
    by_lane = params.replace(max_steps_in_episode=jnp.array([1, 1, 2, 2]))
    *_, truncated, _ = jax.vmap(env.step)(keys(1, 4), state, jnp.zeros(4), by_lane)
    np.testing.assert_array_equal(truncated, [True, True, False, False])


def test_what_vmap_does_not_vary_is_the_same_in_all_lanes():
    env, params = made()
    _, state = jax.vmap(env.reset, (0, None))(keys(0), params)
    found = jax.vmap(env.step, (0, 0, None, None))(keys(1), state, jnp.int32(1), params)
    same(found, jax.vmap(env.step, (0, 0, 0, None))(keys(1), state, jnp.ones(LANES, int), params))


@pytest.mark.parametrize(("count", "fitting"), [(1, "num_envs = 2"), (5, "num_envs = 4 or 6")])
def test_lanes_that_are_no_whole_games_are_refused_in_a_line(count, fitting):
    env, params = made()
    with pytest.raises(ValueError, match=f"Pair has 2 agents, .*: use {fitting}\\b"):
        jax.vmap(env.reset, (0, None))(keys(0, count), params)


def test_a_lane_alone_has_shapes_and_can_not_be_run():
    env, params = made()
    assert findings(env, params) == []
    for run in (env.reset, jax.jit(env.reset)):
        with pytest.raises(ValueError, match="Pair has 2 agents: run it under vmap, 2 lanes a game"):
            run(jax.random.key(0), params)


@pytest.mark.slow
def test_the_check_command_plays_whole_games():
    lines = check(Lanes(probes.Pair()))
    assert [line.split(":")[0] for line in lines] == ["speed"], lines

    class Wrong(probes.Pair):
        def get_obs(self, state, params=None, key=None):
            return 10 * super().get_obs(state)

    assert any("fault: observation" in line for line in check(Lanes(Wrong())))


def test_one_game_of_one_agent_is_its_environment():
    env, params = gymnax.make("CartPole-v1")
    game = OneGame(env)
    key = jax.random.key(0)
    _, state = game.reset(key, params)
    out = game.step(key, state, jnp.array([1]), params)
    own = env.step(key, env.reset(key, params)[1], 1, params)
    same(jax.tree.map(lambda x: x[0], out), own)
    same(game.states(jax.tree.map(lambda x: x[None], out[1])), jax.tree.map(lambda x: x[None], own[1]))


def test_whole_games():
    assert [whole_games(3, n) for n in (0, 1, 3, 128)] == [0, 3, 3, 129]


# --- In the scripts ---------------------------------------------------------------------------------------------------
@functools.cache
def trained():
    states, metrics = jax.jit(jax.vmap(ppo.make_train(CONFIG)))(jax.vmap(jax.random.key)(jnp.arange(3)))
    return states, metrics


def test_one_policy_learns_for_both_agents_and_members_are_those_alone():
    """1 is better for both, so the best returns are 1.25 and 2.25 a step, and their mean 1.75 times 5 or 7 steps."""
    states, metrics = trained()
    assert (metrics["episode_return"][:, -5:] > 1.7 * 5).all() and (metrics["episode_return"] <= 1.75 * 7).all()
    alone, _ = jax.jit(ppo.make_train(CONFIG))(jax.random.key(1))
    np.testing.assert_allclose(alone.obs, states.obs[1])
    np.testing.assert_allclose(alone.episode_return, states.episode_return[1], rtol=1e-4)


def test_evaluation_over_devices_has_the_returns_of_each_agent():
    states, _ = trained()
    mesh = devices.make_mesh(3)
    layout = devices.Layout(mesh)
    assert mesh.size == 2
    placed = checkpoint.from_words(layout.place(jax.tree.map(np.asarray, checkpoint.to_words(states))), states)
    play = evaluate.evaluate_all(PPO, CONFIG, (), 8, layout)
    returns = np.asarray(play(placed, {}, layout.place(np.arange(3, dtype=np.uint32))))[:3]
    greedy = returns[:, 0].reshape(3, 4, 2)
    assert set(np.unique(greedy[..., 0])) == {1.25 * 5, 1.25 * 7}
    np.testing.assert_allclose(greedy[..., 1] / greedy[..., 0], 1.8)  # the agents of one game: as long, 2.25 / 1.25


@pytest.mark.slow
def test_training_over_devices_is_that_of_one():
    """Up to rounding, which after more updates makes other actions."""
    layout = devices.Layout(devices.make_mesh(4))
    compiled = program.build(PPO, CONFIG, (), 4, layout)
    state, _ = compiled.chunk(compiled.init(layout.place(np.arange(4, dtype=np.uint32)), {}), {}, 3)
    train = functools.partial(ppo.make_train(CONFIG), num_updates=3)
    expected, _ = jax.jit(jax.vmap(train))(jax.vmap(jax.random.key)(jnp.arange(4)))
    np.testing.assert_array_equal(state.obs, expected.obs)
    np.testing.assert_allclose(state.episode_return, expected.episode_return, rtol=1e-4)


@pytest.mark.parametrize("script", [ppo_rnn, dqn])
def test_other_scripts_take_several_agents(script):
    small = dict(learning_starts=512, buffer_size=512) if script is dqn else dict(hidden_size=8, num_minibatches=2)
    config = script.Config(env_id="Pair-probe", num_envs=4, total_timesteps=4096, **small)
    _, metrics = jax.jit(script.make_train(config))(jax.random.key(0))
    returns = np.asarray(metrics["episode_return"])
    assert 1.2 * 5 < returns[-1] <= 1.75 * 7


def run(*words):
    with pytest.raises(SystemExit) as stop:
        main(ppo.__file__, ppo.Config, ppo.make_env, ppo.make_train, ppo.make_policy, argv=list(words))
    return stop.value.code


@pytest.mark.slow
def test_a_whole_run_with_gif_evaluation_and_resumption(tmp_path, capsys):
    folder, words = tmp_path / "run", ["--env-id", "Pair-probe", "--num-envs", "6", "--num-steps", "16"]
    words += ["--total-timesteps", "5760", "--num-seeds", "3", "--hidden-size", "8", "--lr", "0.02", "--gif"]
    words += ["--eval-episodes", "7", "--checkpoint-every", "20", "--no-compile-cache", "--run-dir", str(folder)]
    assert run(*words) == 0
    printed = capsys.readouterr().out
    assert "policy.gif, 5 steps, return 8.8" in printed or "policy.gif, 7 steps, return 12.2" in printed
    frames = Image.open(folder / "policy.gif")
    assert frames.n_frames in (5, 7)
    assert json.loads((folder / "config.json").read_text())["options"]["eval_episodes"] == 8  # four games
    members = json.loads((folder / "summary.json").read_text())["members"]
    assert all(1.7 * 5 < member["greedy_return"] <= 1.75 * 7 for member in members)

    newest = folder / "checkpoints/batch-000/60"
    before = [json.loads((newest / "notes/metadata").read_text())["digest"], digest(folder / "metrics.csv")]
    shutil.rmtree(newest)
    assert run("--resume", str(folder)) == 0
    after = [json.loads((newest / "notes/metadata").read_text())["digest"], digest(folder / "metrics.csv")]
    assert before == after
    assert run("--evaluate", str(folder), "--eval-episodes", "3") == 0
    assert "4 episodes each" in capsys.readouterr().out


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--num-envs", "5"],
            "Pair-probe has 2 agents, and num_envs = 5 is no multiple of them: use num_envs = 4 or 6",
        ),
        (["--sweep", "num_envs=4,7"], "num_envs = 7 is no multiple of them: use num_envs = 6 or 8"),
    ],
)
def test_num_envs_that_does_not_fit_is_refused_before_training(words, said, capsys):
    assert run("--env-id", "Pair-probe", *words) == 2
    printed = capsys.readouterr().err
    assert said in printed and printed.count("\n") == 1

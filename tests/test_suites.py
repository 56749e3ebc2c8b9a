"""Environments of other suites behind gymnax's interface. Those that need a suite: pytest -m suites."""

import functools
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnax.environments import spaces

import dqn
import environments
import ppo
from environments import adapter, resets
from environments.lanes import OneGame
from environments.rendering import renderer
from environments.tracing import findings
from runner.loop import checkpoint
from runner.plan import checks
from runner.plan.errors import UsageError
from runner.plan.script import Script
from runner.policies import Policies

ROOT = Path(__file__).parent.parent
LANES = 4
CHEAP = {
    "brax": "brax/inverted_pendulum-spring",
    "craftax": "craftax/classic-symbolic",
    "jaxmarl": "jaxmarl/MPE_simple_speaker_listener_v4",  # two agents, so that LANES are two games
    "jumanji": "jumanji/Snake-v1",
    "navix": "navix/Empty-Random-5x5",
    "pgx": "pgx/connect_four",
    "playground": "playground/CartpoleBalance",
    "xminigrid": "xminigrid/EmptyRandom-5x5",
}


# --- The common base, without any suite -------------------------------------------------------------------------------
class Toy(adapter.Adapter):
    """Counts to 5 and ends; its state has an empty array, a key and numbers whose dtypes change in a step."""

    env_id, max_steps = "toy/toy", 3

    def begin(self, key, params):
        inner = {"x": jnp.int8(0), "empty": jnp.zeros((2, 0)), "key": key, "y": jax.random.uniform(key)}
        return self.observe_inner(inner), inner

    def go_on(self, key, inner, action, params):
        assert inner["empty"].shape == (2, 0)
        inner = inner | {"x": jnp.int32(inner["x"]) + 1, "key": jax.random.split(inner["key"])[0], "y": inner["y"] + 1}
        return self.observe_inner(inner), inner, action, inner["x"] >= 5

    def observe_inner(self, inner):
        return {"b": inner["y"], "a": jnp.array([[inner["x"] > 2, False], [True, False]])}

    def action_space(self, params=None):
        return spaces.Discrete(3)


def test_a_state_is_kept_without_its_empty_arrays_and_in_its_first_dtypes():
    env = Toy()
    assert findings(env, env.default_params) == []
    obs, state = env.reset(jax.random.key(0))
    assert len(state.leaves) == 3  # of four
    assert obs.shape == env.observation_space().shape == (5,) and obs.dtype == jnp.float32
    np.testing.assert_array_equal(obs[:4], [0, 0, 1, 0])
    assert env.unpack(state)["x"].dtype == jnp.int8 and env.unpack(state)["empty"].shape == (2, 0)


@pytest.mark.parametrize(("limit", "ends_at", "terminated"), [(3, 3, False), (5, 5, True), (100, 5, True)])
def test_the_adapters_own_count_is_the_time_limit(limit, ends_at, terminated):
    env = Toy()
    params = env.default_params.replace(max_steps_in_episode=limit)
    _, state = env.reset(jax.random.key(0), params)
    for i in range(1, ends_at + 1):
        assert state.time == i - 1
        obs, state, reward, ended, truncated, info = env.step(jax.random.key(i), state, 2, params)
        assert (bool(ended), bool(truncated)) == (terminated and i == ends_at, i == limit)
        assert reward == 2 and reward.dtype == jnp.float32 and info["final_observation"][4] > i
    assert state.time == 0 and obs[4] < 1  # the next episode's first


def test_a_reset_is_computed_in_a_loop_that_depends_on_its_key():
    """Outside of a loop, or in one that does not change its key, it would be computed in every step."""
    env = Toy()
    _, state = env.reset(jax.random.key(0))
    jaxpr = str(jax.make_jaxpr(lambda key, state: env.step(key, state, 1))(jax.random.key(0), state))
    outside, loop = jaxpr.split("while[", 1)
    assert "random_bits" not in outside and "random_bits" in loop and "random_split" in loop


@pytest.mark.parametrize("share", [1, 4, 100])
def test_resets_of_many_are_those_of_each_alone(share, monkeypatch):
    """Of all members and environments that end, in rounds of any size; what goes on is untouched."""
    monkeypatch.setattr(resets, "SHARE", share)
    seen = []

    def reset(key, params):
        jax.debug.callback(lambda _: seen.append(1), jax.random.key_data(key))
        return {"key": key, "x": params * jax.random.normal(key, (3,)), "n": jnp.int32(0)}

    def new(done, key, params):
        last = {"key": key, "x": jnp.ones(3), "n": jnp.int32(7)}
        return resets.new_where(reset, done, key, last, params)

    done = jax.random.bernoulli(jax.random.key(0), 0.3, (3, 10)).at[0].set(False)
    keys = jax.random.split(jax.random.key(1), (3, 10))
    together = jax.jit(jax.vmap(jax.vmap(new, (0, 0, None)), (0, 0, None)))(done, keys, jnp.float32(2))
    jax.block_until_ready(together)
    jax.effects_barrier()
    size, ended = -(-30 // share), int(done.sum())
    assert len(seen) == size * -(-ended // size)  # rounds of so many
    new_alone = jax.jit(new)
    for index in np.ndindex(3, 10):
        alone = new_alone(done[index], keys[index], jnp.float32(2))
        assert together["n"][index] == alone["n"] == (0 if done[index] else 7)
        np.testing.assert_allclose(together["x"][index], alone["x"], rtol=1e-6)
        assert together["key"][index] == alone["key"]


def test_no_reset_is_computed_where_nothing_ends():
    seen = []

    def reset(key):
        jax.debug.callback(lambda _: seen.append(1), jax.random.key_data(key))
        return jnp.float32(0)

    keys = jax.random.split(jax.random.key(0), 5)
    new = jax.vmap(lambda done, key: resets.new_where(lambda key, _: reset(key), done, key, jnp.float32(1), None))
    np.testing.assert_array_equal(jax.jit(new)(jnp.zeros(5, bool), keys), 1)
    jax.effects_barrier()
    assert seen == []


@pytest.mark.parametrize(
    ("obs", "shape", "dtype", "bounds"),
    [
        (np.zeros((5, 4, 3), bool), (5, 4, 3), bool, (0, 1)),  # an image stays one
        (np.zeros((5, 4, 3), np.uint8), (5, 4, 3), np.uint8, (0, 255)),
        ((np.int32(3),), (1,), np.int32, (-(2**31), 2**31 - 1)),
        (
            (np.zeros((2, 3), np.int8), {"a": np.zeros(4, bool), "b": np.float32(0)}),
            (11,),
            np.float32,
            (-np.inf, np.inf),
        ),
    ],
)
def test_observations_become_one_array(obs, shape, dtype, bounds):
    found = jax.eval_shape(adapter.flat, obs)
    assert (found.shape, found.dtype) == (shape, dtype) and adapter.bounds(found.dtype) == bounds


# --- Names ------------------------------------------------------------------------------------------------------------
def test_no_suite_is_imported_before_it_is_asked_for(users_environment):
    packages = [suite.PACKAGE for suite in environments.SUITES.values()]
    code = f"import sys, environments; print([name for name in {packages} if name in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], env=users_environment, cwd=ROOT, capture_output=True, text=True
    )
    assert found.stdout.strip() == "[]", found


def test_every_suite_is_an_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {name: [suite.REQUIREMENT] for name, suite in environments.SUITES.items()} == extras
    page = (ROOT / "docs/environments.md").read_text()
    for suite in environments.SUITES.values():
        assert f'pip install "{suite.REQUIREMENT}"' in page


@pytest.mark.parametrize("suite", CHEAP)
def test_a_missing_package_is_named_with_its_install_command(suite, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs the package") as error:
        checks.check_environment(PPO, CHEAP[suite])
    assert f'pip install "{environments.SUITES[suite].REQUIREMENT}"' in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("brax/ant-spri", "brax/ant-spring"),
        ("jumanji/snake", "jumanji/Snake-v1"),
        ("hopper", "brax/hopper"),
        ("DoorKey", "xminigrid/DoorKey-5x5"),
        ("CartPole", "CartPole-v1"),
        ("xland/doorkey-8", "xminigrid/DoorKey-8x8"),
        ("nowhere/@@@", "SUITE/NAME"),
    ],
)
def test_a_wrong_name_gets_the_nearest(typed, meant):
    with pytest.raises(UsageError, match=meant) as error:
        checks.check_environment(PPO, typed)
    suite, slash, _ = typed.partition("/")
    if suite in CHEAP and slash:
        named = str(error.value).partition("did you mean: ")[2].split(", ")
        assert named and all(name.startswith(f"{suite}/") for name in named)


# --- Each suite -------------------------------------------------------------------------------------------------------
PPO = Script(Path(ppo.__file__), ppo.Config, ppo.make_env, ppo.make_train, ppo.make_policy, Policies())
# With --dist loadgroup the tests of a suite go to one worker, who compiles each environment once
EACH = {name: pytest.param(name, marks=[pytest.mark.suites, pytest.mark.xdist_group(name)]) for name in CHEAP}
suites = pytest.mark.parametrize("suite", EACH.values())
one_agent = pytest.mark.parametrize("suite", [param for name, param in EACH.items() if name != "jaxmarl"])


@functools.cache
def made(env_id):
    pytest.importorskip(environments.SUITES[env_id.split("/")[0]].PACKAGE)
    return gymnax.make(env_id)


def step_all(env):
    return jax.vmap(env.step, (0, 0, 0, None))


@functools.cache
def stepper(env_id):
    """(reset(key), step(keys, states, actions, params)) of LANES environments, compiled once for all tests."""
    env, params = made(env_id)
    reset = jax.jit(lambda key: jax.vmap(env.reset, (0, None))(jax.random.split(key, LANES), params))
    return reset, jax.jit(step_all(env))


def steps(env_id, params, actions, key):
    """Plays actions (T, LANES, ...) and gives (key, state, action, what step gave) of each step."""
    reset, step = stepper(env_id)
    _, state = reset(key)
    for i, action in enumerate(actions):
        keys = jax.random.split(jax.random.fold_in(key, i), LANES)
        out = step(keys, state, action, params)
        yield keys, state, action, out
        state = out[1]


def random_actions(env, params, count):
    keys = jax.random.split(jax.random.key(7), (count, LANES))
    return jax.vmap(jax.vmap(env.action_space(params).sample))(keys)


@suites
def test_names_are_those_of_the_suite(suite):
    pytest.importorskip(environments.SUITES[suite].PACKAGE)
    ours = set(environments.SUITES[suite].NAMES)
    if suite == "brax":
        from brax import envs

        assert {name.split("-")[0] for name in ours} == set(envs._envs) - {"fast"}
    elif suite == "jaxmarl":  # all particle worlds, and all layouts and scenarios
        import jaxmarl
        from jaxmarl.environments.overcooked.layouts import overcooked_layouts
        from jaxmarl.environments.smax.smax_env import MAP_NAME_TO_SCENARIO

        particles = {name for name in jaxmarl.registered_envs if name.startswith("MPE_")} - {"MPE_simple_v3"}
        kitchens = {"overcooked", *(f"overcooked-{name}" for name in overcooked_layouts)}
        battles = {"HeuristicEnemySMAX", *(f"HeuristicEnemySMAX-{name}" for name in MAP_NAME_TO_SCENARIO)}
        assert ours == particles | kitchens | battles
    elif suite == "jumanji":
        import jumanji

        assert ours == set(jumanji.registered_environments()) - {"Sokoban-v0"}
    elif suite == "navix":  # of which later versions have more
        import navix

        assert {f"Navix-{name}-v0" for name in ours} <= set(navix.registry())
    elif suite == "pgx":
        import pgx

        assert ours == set(pgx.available_envs())
    elif suite == "playground":
        from mujoco_playground import dm_control_suite

        assert ours == set(dm_control_suite._envs)
    elif suite == "xminigrid":
        import xminigrid

        grids = {name for name in xminigrid.registered_environments() if name.startswith("MiniGrid-")}
        assert {f"MiniGrid-{name}" for name in ours} == grids


@suites
def test_spaces_and_the_time_limit(suite):
    """At the limit an episode is truncated and not terminated, and the next one starts; an end is no time limit."""
    env, params = made(CHEAP[suite])
    assert findings(env, params) == []
    params = params.replace(max_steps_in_episode=3)
    space, ended_before, seen = env.observation_space(params), np.zeros(LANES, bool), 0
    for i, (_, _, _, out) in enumerate(
        steps(CHEAP[suite], params, random_actions(env, params, 3), jax.random.key(0)), 1
    ):
        obs, state, reward, terminated, truncated, info = out
        assert obs.shape[1:] == space.shape and obs.dtype == space.dtype and np.isfinite(reward).all()
        assert space.contains(obs) and space.contains(info["final_observation"])
        whole = ~ended_before & ~np.asarray(terminated)
        np.testing.assert_array_equal(np.asarray(truncated)[whole], i == 3)
        np.testing.assert_array_equal(np.asarray(state.time)[whole], i % 3)
        ended_before |= np.asarray(terminated)
        seen += whole.sum()
    assert seen > LANES and whole.any()


@one_agent
def test_a_step_is_the_suites_own_and_a_reset_only_where_an_episode_ended(suite):
    """Lane by lane and without vmap, from the same keys: resets are those of `reset`, and differ by key."""
    env, params = made(CHEAP[suite])
    params = params.replace(max_steps_in_episode=4)
    own, reset = jax.jit(env.step_env), jax.jit(env.reset_env)
    played, firsts = list(steps(CHEAP[suite], params, random_actions(env, params, 8), jax.random.key(1))), []
    for keys, before, action, (obs, state, reward, terminated, truncated, info) in played[2:5]:
        done = np.asarray(terminated | truncated)
        for lane in range(2):
            step_key, reset_key = jax.random.split(keys[lane])
            expected = own(step_key, jax.tree.map(lambda x, lane=lane: x[lane], before), action[lane], params)
            close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
            close(info["final_observation"][lane], expected[0])
            close(reward[lane], expected[2])
            assert terminated[lane] == expected[3]
            if done[lane]:
                expected = reset(jax.random.split(reset_key)[1], params)
            for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(expected[1]), strict=True):
                np.testing.assert_allclose(
                    *(np.asarray(checkpoint.raw(z), np.float64) for z in (x[lane], y)), atol=1e-3
                )
            close(obs[lane], expected[0])
        firsts += [obs[lane] for lane in range(LANES) if done[lane]]
    assert len(firsts) >= 2 and len({np.asarray(first).tobytes() for first in firsts}) > 1


def kill(env, state):
    inner = env.unpack(state)
    return state.replace(leaves=env.pack(inner.replace(player_health=jnp.zeros_like(inner.player_health))))


ENDS = {  # what certainly ends an episode, and after how many steps at most: (action, steps)
    "brax": (1.0, 60),  # pushed to one side
    "craftax": (0, 1),  # without health
    "jumanji": (0, 12),  # into the wall
    "navix": (None, 80),  # the goal, by chance
    "pgx": (3, 7),  # an illegal move in a full column, or a lost game
    "playground": (np.nan, 1),  # a simulation that has become NaN
    "xminigrid": (None, 80),  # the goal, by chance
}


@one_agent
def test_an_end_is_terminated_and_not_truncated(suite):
    env, params = made(CHEAP[suite])
    (action, most), key = ENDS[suite], jax.random.key(2)
    reset, step = stepper(CHEAP[suite])
    actions = random_actions(env, params, most)
    actions = actions if action is None else jnp.full_like(actions, action)
    _, state = reset(key)
    state = jax.vmap(functools.partial(kill, env))(state) if suite == "craftax" else state
    ended, rewards = np.zeros(LANES, bool), []
    for i in range(most):
        _, state, reward, terminated, truncated, _ = step(
            jax.random.split(jax.random.key(i), LANES), state, actions[i], params
        )
        assert not np.asarray(truncated).any()
        ended |= np.asarray(terminated)
        rewards += list(np.asarray(reward)[np.asarray(terminated)])
        assert (np.asarray(state.time)[np.asarray(terminated)] == 0).all()
    assert ended.all() if action is not None else ended.any()
    if suite in ("navix", "xminigrid"):
        assert min(rewards) > 0.5


@suites
def test_training_is_gone_on_with_from_a_checkpoint_bit_by_bit(suite, tmp_path):
    made(CHEAP[suite])
    config = ppo.Config(
        env_id=CHEAP[suite], num_envs=2, num_steps=4, total_timesteps=48, hidden_size=8, num_minibatches=1
    )
    train = ppo.make_train(config)
    start = jax.jit(jax.vmap(lambda key: train(key, num_updates=0)[0]))(jax.random.split(jax.random.key(0), 2))
    go_on = jax.jit(jax.vmap(lambda state: train(None, state=state, num_updates=3)))
    middle, _ = go_on(start)
    store = checkpoint.Checkpoints(tmp_path / "c", 2)
    store.save(3, checkpoint.to_words(middle), {})
    store.close()
    like = checkpoint.word_shapes(middle, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    loaded = checkpoint.from_words(checkpoint.Checkpoints(tmp_path / "c", 2).load(like).arrays, middle)
    for x, y in zip(jax.tree.leaves(go_on(middle)), jax.tree.leaves(go_on(loaded)), strict=True):
        np.testing.assert_array_equal(checkpoint.raw(x), checkpoint.raw(y))


@one_agent
def test_pictures(suite):
    """From states as the host has them, which may hold keys."""
    env, params = made(CHEAP[suite])
    states = [
        state for _, state, _, _ in steps(CHEAP[suite], params, random_actions(env, params, 8), jax.random.key(3))
    ]
    one = [jax.tree.map(lambda x: x[0] if checkpoint.is_key(x) else np.asarray(x)[0], state) for state in states]
    if suite == "playground":
        assert renderer(env) is None
    elif suite == "brax":
        page = env.render_html(one)
        assert renderer(env) == "page" and page.lstrip().startswith("<") and len(page) > 2000
    else:
        assert renderer(env) == "own"
        frames = [env.render(state) for state in one]
        assert all(f.dtype == np.uint8 and f.ndim == 3 and f.shape[-1] == 3 for f in frames)
        assert any((f != frames[0]).any() for f in frames) or suite == "craftax"


@pytest.mark.suites
@pytest.mark.parametrize(
    ("env_id", "why"),
    [
        ("jumanji/Connector-v3", "jumanji/Connector-v3 has a reward for each of its agents"),
        ("jumanji/MultiCVRP-v0", "jumanji/MultiCVRP-v0 acts in "),
        ("jumanji/JobShop-v0", "jumanji/JobShop-v0 acts in .* too many for one choice"),
        ("jaxmarl/MPE_simple_world_comm_v3", r"act in different spaces: Box\(5,\), Box\(9,\)$"),
    ],
)
def test_what_no_script_can_play_is_refused_in_a_line(env_id, why):
    pytest.importorskip(env_id.split("/")[0])
    with pytest.raises(UsageError, match=why) as error:
        checks.check_environment(PPO, env_id)
    assert "\n" not in str(error.value)


@pytest.mark.suites
def test_an_action_of_several_parts_is_one_choice():
    """Every choice is another combination: from one state each of 18 turns of the cube leads to another cube."""
    env, params = made("jumanji/RubiksCube-v0")
    assert env.action_space(params).n == 18
    _, state = env.reset(jax.random.key(0), params)
    obs = jax.vmap(lambda action: env.step(jax.random.key(1), state, action, params)[0])(jnp.arange(18))
    assert len(np.unique(np.asarray(obs), axis=0)) == 18


@pytest.mark.suites
def test_the_others_play_until_it_is_our_turn():
    env, params = made("pgx/tic_tac_toe")
    _, state = jax.vmap(env.reset, (0, None))(jax.random.split(jax.random.key(0), 64), params)
    inner = jax.vmap(env.unpack)(state)
    assert (inner.current_player == 0).all() and 0 < inner.observation.sum(axis=(1, 2, 3)).mean() < 1
    action = jnp.argmax(inner.legal_action_mask, axis=-1)
    *_, info = jax.vmap(env.step, (0, 0, 0, None))(jax.random.split(jax.random.key(1), 64), state, action, params)
    stones = info["final_observation"][:, : -env.num_masked]
    count = stones.sum(axis=1)
    assert set(np.unique(count)) == {2, 3}  # our stone and the other's, and the one that the other began with


@pytest.mark.suites
@pytest.mark.parametrize("env_id", ["pgx/connect_four", "pgx/2048", "jumanji/Snake-v1", "jumanji/Tetris-v0"])
def test_a_mask_of_legal_actions_ends_the_observation(env_id):
    """It is the suite's own, and no agent of ppo.py or dqn.py ever chooses against it."""
    env, params = made(env_id)
    obs, state = env.reset(jax.random.key(0), params)
    count = env.action_space(params).n
    assert env.num_masked == count and obs.shape == env.observation_space(params).shape and obs.ndim == 1
    inner = env.unpack(state)
    own = getattr(inner, "legal_action_mask", getattr(inner, "action_mask", None))
    np.testing.assert_array_equal(obs[-count:], np.ravel(own))
    for script in (ppo, dqn):
        config = script.Config(env_id)
        network = script.make_network(config)
        illegal = np.where(obs[-count:] == 0)[0]
        found = network.apply(network.init(jax.random.key(0), obs), obs)
        values = found[0].logits if script is ppo else found
        assert np.isneginf(values[illegal]).all() and np.isfinite(np.delete(values, illegal)).all()


@pytest.mark.suites
def test_images_reach_the_convolution_and_dqn():
    made("pgx/minatar-breakout")
    checks.check_environment(PPO, "pgx/minatar-breakout", network="cnn")
    config = dqn.Config(
        env_id="pgx/minatar-breakout",
        network="cnn",
        total_timesteps=64,
        buffer_size=64,
        learning_starts=16,
        log_frequency=1,
        batch_size=8,
    )
    _, metrics = jax.jit(dqn.make_train(config))(jax.random.key(0))
    assert np.isfinite(metrics["env_steps"]).all()


@pytest.mark.suites
def test_a_gradient_through_a_robots_steps_is_that_of_finite_differences():
    env, params = made("brax/reacher-spring")

    def total(action):
        _, state = env.reset(jax.random.key(0), params)

        def step(state, key):
            _, state, reward, *_ = env.step(key, state, action, params)
            return state, reward

        return jax.lax.scan(step, state, jax.random.split(jax.random.key(1), 5))[1].sum()

    action, total = jnp.array([0.3, -0.2]), jax.jit(total)
    found = jax.grad(total)(action)
    assert np.abs(found).min() > 1e-3
    for i, unit in enumerate(0.02 * jnp.eye(2)):
        assert found[i] == pytest.approx(float(total(action + unit) - total(action - unit)) / 0.04, rel=0.03)


# --- Several agents ---------------------------------------------------------------------------------------------------
def played(env_id, count):
    """(env, params, game, what each of count random steps of one game gave, states (count, ...)) from one key."""
    env, params = made(env_id)
    game = OneGame(env)
    actions = jax.vmap(jax.vmap(env.action_space(params).sample))(
        jax.random.split(jax.random.key(1), (count, game.num_agents))
    )

    def step(state, action_and_key):
        out = game.step(action_and_key[1], state, action_and_key[0], params)
        return out[1], out

    obs, state = jax.jit(game.reset)(jax.random.key(0), params)
    keys = jax.random.split(jax.random.key(2), count)
    _, steps = jax.jit(lambda state: jax.lax.scan(step, state, (actions, keys)))(state)
    return env, params, actions, keys, (obs, state), steps


@pytest.mark.suites
def test_agents_of_a_game_get_what_jaxmarl_gives_them():
    env, params, actions, keys, (obs, state), steps = played("jaxmarl/MPE_simple_speaker_listener_v4", 30)
    own = env.env
    inner = env.unpack(jax.tree.map(lambda x: x[0], OneGame(env).states(jax.tree.map(lambda x: x[None], state))))
    first = own.get_obs(inner)
    np.testing.assert_allclose(obs[0, :3], first["speaker_0"], rtol=1e-5)
    np.testing.assert_array_equal(obs[:, 11:13], np.eye(2))  # who one is
    np.testing.assert_array_equal(obs[:, 13:], [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])  # three words, five ways to go
    np.testing.assert_array_equal(obs[0, 3:11], 0)
    acts = {"speaker_0": actions[0, 0], "listener_0": actions[0, 1]}
    own_obs, _, own_reward, *_ = own.step_env(jax.random.split(keys[0])[0], inner, acts)
    np.testing.assert_allclose(steps[0][0, 1, :11], own_obs["listener_0"], rtol=1e-5)
    np.testing.assert_allclose(steps[2][0], [own_reward["speaker_0"], own_reward["listener_0"]], rtol=1e-5)
    _, _, _, terminated, truncated, _ = steps
    assert params.max_steps_in_episode == 25 and not terminated.any()
    np.testing.assert_array_equal(np.where(truncated.all(axis=1))[0], [24])


@pytest.mark.suites
def test_a_battle_ends_where_one_side_is_dead_and_dead_agents_do_nothing():
    env, _, _, _, _, (_, _, reward, terminated, truncated, info) = played("jaxmarl/HeuristicEnemySMAX-3m", 120)
    ends = np.where(terminated[:, 0])[0]
    assert len(ends) and (terminated == terminated[:, :1]).all() and not truncated[ends].any()
    assert (np.diff([-1, *ends]) < 100).all() and (reward == reward[:, :1]).all()
    legal = np.asarray(info["final_observation"])[..., -env.num_masked :]
    assert (legal[ends].sum(axis=-1) <= env.num_masked).all()
    dead = (np.asarray(info["final_observation"])[..., 0] <= 0) | (legal.sum(axis=-1) == 1)
    assert dead[ends[0]].any() and dead[ends[0]].sum() > dead[0].sum()


@pytest.mark.suites
@pytest.mark.parametrize("name", ["overcooked", "MPE_simple_spread_v3", "HeuristicEnemySMAX-3m"])
def test_pictures_of_games(name):
    env, _, _, _, _, steps = played(f"jaxmarl/{name}", 8)
    states = jax.tree.map(lambda x: x if checkpoint.is_key(x) else np.asarray(x), OneGame(env).states(steps[1]))
    frames = [env.render(jax.tree.map(lambda x, i=i: x[i], states)) for i in range(8)]
    assert renderer(env) == "own" and all(f.dtype == np.uint8 and f.shape == frames[0].shape for f in frames)
    assert any((f != frames[0]).any() for f in frames)


@pytest.mark.suites
def test_jaxmarl_leaves_the_output_alone(capsys):
    out, err = sys.stdout, sys.stderr
    made("jaxmarl/MPE_simple_tag_v3")
    assert (sys.stdout, sys.stderr) == (out, err) and capsys.readouterr().out == ""


@pytest.mark.suites
def test_rewards_on_the_way_are_added_where_asked():
    env, params = made("jaxmarl/overcooked")
    reward = env.rewards(jnp.zeros(2), {"shaped_reward": {"agent_0": 3.0, "agent_1": 5.0}}, params)
    np.testing.assert_array_equal(reward, 0)
    params = params.replace(shaped_reward=0.5)
    reward = env.rewards(jnp.zeros(2), {"shaped_reward": {"agent_0": 3.0, "agent_1": 5.0}}, params)
    np.testing.assert_array_equal(reward, [1.5, 2.5])

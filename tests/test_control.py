"""Control: gymnax's own trajectories, the same ones in all action spaces, rounding, a point mass by hand, training."""

import functools

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppo
from environments import check, control
from environments.control import ACTIONS, TASKS
from environments.point_mass import Params, PointMass, State
from environments.spaces import MultiDiscrete

STEPS = 60


@functools.cache
def made(env_id):
    return gymnax.make(env_id)


@functools.cache
def player(env_id):
    """play(key, params, actions (T, ...)), compiled once for all tests."""
    env = made(env_id)[0]

    def step(params, state, key_and_action):
        key, action = key_and_action
        obs, state, reward, terminated, truncated, info = env.step(key, state, action, params)
        return state, (obs, reward, terminated, truncated, info["final_observation"])

    @jax.jit
    def play(key, params, actions):
        obs, state = env.reset(key, params)
        keys = jax.random.split(key, len(actions))
        return obs, jax.lax.scan(functools.partial(step, params), state, (keys, actions))[1]

    return play


def played(env_id, actions, **changes):
    """(first observation, observations, rewards, terminated, truncated, final observations) of actions (T, ...)."""
    params = made(env_id)[1].replace(**changes)
    return jax.tree.leaves(player(env_id)(jax.random.key(0), params, jnp.asarray(actions)))


def assert_same(one, other):
    """Up to the rounding of two programs."""
    for x, y in zip(one, other, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)


# --- gymnax's own -----------------------------------------------------------------------------------------------------
OWN = {  # gymnax's action of each number
    "CartPole": ("CartPole-v1", {-1: 0, 1: 1}),
    "MountainCar": ("MountainCar-v0", {-1: 0, 0: 1, 1: 2}),
    "Acrobot": ("Acrobot-v1", {-1: 0, 0: 1, 1: 2}),
    "Pendulum": ("Pendulum-v1", {-1: -2.0, 0: 0.0, 1: 2.0, 0.25: 0.5}),
}


@pytest.mark.parametrize("name", OWN)
def test_a_trajectory_is_gymnaxs_own(name):
    env_id, known = OWN[name]
    numbers = np.random.default_rng(0).choice(list(known), STEPS)
    theirs = np.array([known[x] for x in numbers])
    ours = played(f"control/{name}-box", numbers[:, None].astype(np.float32))
    own = played(env_id, theirs.astype(np.float32 if name == "Pendulum" else np.int32))
    assert_same(ours, own)
    env, params = made(f"control/{name}-box")
    assert params.max_steps_in_episode == gymnax.make(env_id)[1].max_steps_in_episode and env.name == env_id


def test_forage_is_that_of_particles():
    actions = np.random.default_rng(0).integers(0, 3, (STEPS, 2), dtype=np.int32)
    assert_same(played("control/Forage-3", actions), played("particles/forage-one", actions))


def test_a_number_between_is_a_force_between():
    """CartPole upright at rest: x'' = F / total_mass + ..., which is linear in the force."""
    env, params = made("control/CartPole-box")
    state = made("CartPole-v1")[0].reset(jax.random.key(0), params)[1]
    found = [float(env.step(jax.random.key(1), state, jnp.array([x]), params)[0][1]) for x in (-1.0, 0.0, 0.5, 1.0)]
    assert found[1] == pytest.approx((found[0] + found[3]) / 2, abs=1e-6)
    assert found[2] == pytest.approx((found[1] + found[3]) / 2, abs=1e-6) and found[0] < found[1]


# --- Action spaces ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", TASKS)
def test_equal_numbers_lead_to_equal_episodes_in_all_action_spaces(name):
    numbers = np.random.default_rng(0).integers(-1, 2, (STEPS, TASKS[name].size)).astype(np.float32)
    sent = {"3": (numbers + 1).astype(np.int32), "9": (4 * numbers + 4).astype(np.int32), "box": numbers}
    sent["round"] = 0.55 * numbers  # 0.55 is rounded to 1
    found = {actions: played(f"control/{name}-{actions}", x, max_steps_in_episode=25) for actions, x in sent.items()}
    for actions in ACTIONS:
        assert_same(found[actions], found["box"])
    *_, terminated, truncated, _ = found["box"]
    assert truncated[24] or terminated[:24].any()  # the time limit cuts, if nothing ended before
    assert not (truncated & terminated).any()


@pytest.mark.parametrize("name", TASKS)
def test_spaces(name):
    size, spaces = TASKS[name].size, {}
    for actions, choices in ACTIONS.items():
        env, params = made(f"control/{name}-{actions}")
        spaces[actions] = env.action_space(params)
        assert spaces[actions].shape == (size,) and not env.supports_transition_gradients
        assert isinstance(spaces[actions], MultiDiscrete) == bool(choices)
    assert spaces["9"].num_categories == (9,) * size and spaces["3"].num_categories == (3,) * size
    assert all((spaces[actions].low, spaces[actions].high) == (-1.0, 1.0) for actions in ("box", "round"))


def test_numbers_of_actions():
    def numbers(actions, *action):
        return list(np.asarray(control.Controlled(TASKS["PointMass"], actions).numbers(jnp.array(action))))

    assert numbers("3", 0, 1, 2) == [-1, 0, 1]
    assert numbers("9", *range(9)) == [-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1]
    assert numbers("box", -3.0, -0.25, 0.7, 1.5) == [-1, np.float32(-0.25), np.float32(0.7), 1]
    assert numbers("round", -3.0, -0.51, -0.49, 0.2, 0.49, 0.51, 7.0) == [-1, -1, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("env_id", ["control/PointMass-round", "control/Acrobot-9"])
def test_the_check_command_finds_no_fault(env_id):
    assert not [line for line in check(*made(env_id)) if line.startswith("fault")]


# --- A point mass -----------------------------------------------------------------------------------------------------
def test_a_point_mass_by_hand():
    """Pushed by 1 from a velocity of 1: 1 + 0.1 * (1 - 0.5) = 1.05, and 0.105 m further; by -1: 1 - 0.15 = 0.85."""
    env, start = PointMass(), State(jnp.int32(0), jnp.array([0.0, 0.5]), jnp.ones(2), jnp.array([0.105, 0.985]))
    obs, state, reward, terminated, _ = env.step_env(None, start, jnp.array([7.0, -1.0]), Params())
    np.testing.assert_allclose(obs, [0.105, 0.585, 1.05, 0.85, 0.0, 0.4], atol=1e-6)
    np.testing.assert_allclose(reward, -0.4, atol=1e-6)
    assert not terminated and state.time == 1


def test_a_point_mass_stops_at_an_edge():
    start = State(jnp.int32(0), jnp.array([0.95, -0.95]), jnp.array([1.0, -1.0]), jnp.zeros(2))
    _, state, *_ = PointMass().step_env(None, start, jnp.array([1.0, 1.0]), Params())
    np.testing.assert_allclose(state.position, [1.0, -1.0])
    np.testing.assert_array_equal(state.velocity, 0.0)
    frame = PointMass().render(jax.tree.map(np.asarray, state))
    assert frame.shape == (240, 240, 3) and len(np.unique(frame.reshape(-1, 3), axis=0)) == 3


# --- Training ---------------------------------------------------------------------------------------------------------
OFTEN = ("3", "box")  # the others are compiled with the slow tests
ARMS = [pytest.param(name, marks=[pytest.mark.slow] * (name not in OFTEN)) for name in (*ACTIONS, "squashed")]


@pytest.mark.parametrize("actions", ARMS)
def test_an_update_in_each_action_space(actions):
    env_id = f"control/PointMass-{'box' if actions == 'squashed' else actions}"
    config = ppo.Config(env_id, total_timesteps=512, squash_actions=actions == "squashed")
    state, metrics = jax.jit(ppo.make_train(config))(jax.random.key(0))
    assert np.isfinite(metrics["entropy"]).all() and -100 < metrics["episode_return"][0] < 0
    outputs = state.params["params"]["actor"]["layers_4"]["kernel"].shape[0]
    assert outputs == 2 * (ACTIONS.get(actions) or 1)

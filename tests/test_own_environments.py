"""Environments of our own: their equations against others' numbers and against plain NumPy."""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import environments
from environments import check
from environments.cart_pole_swing_up import State
from environments.lanes import OneGame


# --- Cart-pole swing-up -----------------------------------------------------------------------------------------------
def lagrange_step(x, x_dot, theta, theta_dot, action):
    """In NumPy, from two coupled equations of motion as a linear system; the rod's middle is at x - l/2 sin theta."""
    g, cart, pole, length, friction, dt = 9.82, 0.5, 0.5, 0.6, 0.1, 0.01
    half, inertia = length / 2, pole * length**2 / 12
    sin, cos = np.sin(theta), np.cos(theta)
    masses = [[cart + pole, -pole * half * cos], [-pole * half * cos, inertia + pole * half**2]]
    forces = [10 * np.clip(action, -1, 1) - friction * x_dot - pole * half * sin * theta_dot**2, pole * g * half * sin]
    x_acc, theta_acc = np.linalg.solve(masses, forces)
    return x + dt * x_dot, x_dot + dt * x_acc, theta + dt * theta_dot, theta_dot + dt * theta_acc


@pytest.mark.parametrize("kind", ["easy", "hard"])
def test_swing_up_follows_lagranges_equations(kind):
    env, params = gymnax.make(f"CartPoleSwingUp-{kind}")
    draw = np.random.default_rng(0)
    for _ in range(20):
        numbers = draw.normal(size=4) * [1.5, 2, 3, 4]
        action = draw.uniform(-2, 2)  # beyond 1 it is clipped
        x, x_dot, theta, theta_dot = expected = lagrange_step(*numbers, action)
        state = State(0, *jnp.float32(numbers))
        obs, state, reward, terminated, _ = env.step_env(jax.random.key(0), state, jnp.array([action]), params)
        np.testing.assert_allclose([state.x, state.x_dot, state.theta, state.theta_dot], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(obs, [x, x_dot, np.cos(theta), np.sin(theta), theta_dot], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(reward, (np.cos(theta) + 1) / 2 * np.cos(x / 2.4 * np.pi / 2), atol=1e-5)
        assert terminated == (abs(x) > 2.4) and state.time == 1


def test_swing_up_by_hand():
    """Hanging at rest, pushed by 10 N: x'' = 40 / (4 - 1.5) = 16, theta'' = -60 / (2.4 - 0.9) = -40. Upright at rest
    without a push nothing moves, and the reward is 1; lying to the side theta'' = 1.5 * 9.82 / 0.6 = 24.55."""
    env, params = gymnax.make("CartPoleSwingUp-easy")

    def stepped(theta, action):
        state = State(0, jnp.float32(0), jnp.float32(0), jnp.float32(theta), jnp.float32(0))
        return env.step_env(jax.random.key(0), state, jnp.array([action]), params)

    _, hanging, reward, *_ = stepped(np.pi, 1.0)
    np.testing.assert_allclose([hanging.x_dot, hanging.theta_dot], [0.16, -0.4], rtol=1e-5)
    np.testing.assert_allclose(reward, 0, atol=1e-6)
    _, upright, reward, *_ = stepped(0.0, 0.0)
    assert reward == 1 and upright.theta_dot == 0 and upright.x_dot == 0
    _, lying, reward, *_ = stepped(np.pi / 2, 0.0)
    np.testing.assert_allclose([lying.x_dot, lying.theta_dot, reward], [0, 0.2455, 0.5], atol=1e-5)


def test_swing_up_starts_and_ends():
    for kind in ("easy", "hard"):
        env, params = gymnax.make(f"CartPoleSwingUp-{kind}")
        _, state = jax.vmap(env.reset, (0, None))(jax.random.split(jax.random.key(0), 4000), params)
        numbers = np.stack([state.x, state.x_dot, state.theta - np.pi, state.theta_dot])
        if kind == "easy":
            np.testing.assert_allclose(numbers.std(axis=1), 0.2, rtol=0.05)
        else:
            highest = np.array([2.4, 10, np.pi / 2, 10])
            assert (np.abs(numbers).max(axis=1) <= highest).all()
            np.testing.assert_allclose(numbers.std(axis=1), highest / np.sqrt(3), rtol=0.05)
        np.testing.assert_allclose(numbers.mean(axis=1), 0, atol=0.3)
        assert params.max_steps_in_episode == 1000 and env.name == f"CartPoleSwingUp-{kind}"


def test_gradients_pass_through_swing_up_where_asked():
    env, params = gymnax.make("CartPoleSwingUp-easy")
    _, state = env.reset(jax.random.key(0), params)

    def reward(action, env):
        _, state_1, *_ = env.step(jax.random.key(0), state, action, params)
        _, state_2, *_ = env.step(jax.random.key(0), state_1, action, params)
        return env.step(jax.random.key(0), state_2, action, params)[2]

    assert jax.grad(reward)(jnp.array([0.5]), env)[0] == 0
    found = jax.grad(reward)(jnp.array([0.5]), env.with_transition_gradients())[0]
    by_hand = (reward(jnp.array([0.6]), env) - reward(jnp.array([0.4]), env)) / 0.2
    assert found == pytest.approx(float(by_hand), rel=0.05) and found != 0


# --- All --------------------------------------------------------------------------------------------------------------
OWN = [name for name in environments.ENVIRONMENTS if "/" not in name]


@pytest.mark.parametrize("env_id", OWN)
def test_the_check_command_finds_no_fault(env_id):
    env, params = gymnax.make(env_id)
    assert not [line for line in check(env, params) if line.startswith("fault")]


@pytest.mark.parametrize("env_id", [name for name in OWN if name != "PositionOnlyCartPole-v1"])
def test_pictures_of_our_own(env_id):
    env, params = gymnax.make(env_id)
    game = OneGame(env)
    _, state = game.reset(jax.random.key(0), params)
    states = game.states(jax.tree.map(lambda x: x[None], state))
    frame = env.render(jax.tree.map(lambda x: np.asarray(x)[0], states))
    assert frame.shape in ((240, 240, 3), (480, 480, 3)) and frame.dtype == np.uint8
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) > 2

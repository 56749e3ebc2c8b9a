"""What is APG's own: gradients through the dynamics, where they are cut, the critic, and what is refused."""

import functools
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gymnax.environments import spaces
from probes import LinearQuadratic as LQ
from test_pqn import forward_view

import apg

UNCLIPPED = dict(max_grad_norm=1e9, noise=0.0)
SMALL = apg.Config(total_timesteps=960, num_envs=3, num_steps=12, hidden_size=8, update_epochs=2, **UNCLIPPED)


class Quadratic(nn.Module):
    """(..., 2) -> (..., 1): a weight for each product of two of the observation's numbers, and a constant."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(jnp.stack([x[..., 0] ** 2, 2 * x[..., 0] * x[..., 1], x[..., 1] ** 2], axis=-1))


FEEDBACK = nn.initializers.normal(0.3)


def linear_networks(config, init=FEEDBACK):
    return nn.Dense(1, use_bias=False, kernel_init=init), Quadratic()


def first_update(config, network_fn=apg.make_network, key=0):
    """(state before, state after, metrics, gradient of the policy's loss) of one update; Adam's first moment tells."""
    train = apg.make_train(config, network_fn=network_fn)
    both = jax.jit(lambda key: (train(key, num_updates=0)[0], *train(key, num_updates=1)))
    before, after, metrics = both(jax.random.key(key))
    grads = jax.tree.map(lambda x: x / (1 - 0.9), optax.tree.get(after.opt_state["actor"], "mu"))
    return before, after, {k: float(x[0]) for k, x in metrics.items()}, grads


# --- A linear-quadratic problem ---------------------------------------------------------------------------------------
def costate_gradient(x, gain, gamma, windows, value=None):
    """(loss, gradient) of u = gain^T x in float64, by the costate equation, for one environment from x.

    lambda_t = dr/dx + gain dr/du + gamma (A + B gain^T)^T lambda_{t+1}, dJ/dgain = sum_t gamma^t x_t (dr/du + gamma
    B^T lambda_{t+1}), within each window alone; windows are their lengths. value: 2x2, V(x) = -x^T value x at its end.
    """
    A, B, Q, R = np.array(LQ.A), np.array(LQ.B), np.diag(LQ.Q), LQ.R
    loss, grad = 0.0, np.zeros(2)
    for length in windows:
        xs = [np.asarray(x, np.float64)]
        for _ in range(length):
            xs.append(A @ xs[-1] + B * (gain @ xs[-1]))
        costate = np.zeros(2) if value is None else -2 * value @ xs[-1]
        loss += 0.0 if value is None else gamma**length * xs[-1] @ value @ xs[-1]
        for t in reversed(range(length)):
            u = gain @ xs[t]
            loss += gamma**t * (xs[t] @ Q @ xs[t] + R * u**2)
            pull = -2 * R * u + gamma * B @ costate
            grad += gamma**t * xs[t] * pull
            costate = -2 * Q @ xs[t] + gamma * A.T @ costate + gain * pull
        x = xs[-1]
    return loss, -grad


CUTS = [  # environment, truncation, the windows of 12 steps that follow
    ("LinearQuadratic-probe", 0, [12]), ("LinearQuadratic-probe", 12, [12]), ("LinearQuadratic-probe", 1, [1] * 12),
    ("LinearQuadratic-probe", 4, [4, 4, 4]), ("LinearQuadratic-probe", 7, [7, 5]),
    ("Restless-probe", 0, [5, 5, 2]), ("Restless-probe", 4, [4, 1, 3, 2, 2]),
]  # fmt: skip


@pytest.mark.parametrize(("env_id", "truncation", "windows"), CUTS)
def test_the_gradient_is_the_costate_equations_and_is_cut_where_it_says(env_id, truncation, windows):
    """Also at episodes' ends: Restless would let it through. Return and discount begin anew with each window."""
    config = replace(SMALL, env_id=env_id, truncation=truncation, critic=False, gamma=0.9)
    before, _, metrics, grads = first_update(config, linear_networks)
    gain = np.asarray(before.params["actor"]["params"]["kernel"], np.float64)[:, 0]
    losses, expected = zip(*(costate_gradient(x, gain, 0.9, windows) for x in before.obs), strict=True)
    assert metrics["policy_loss"] == pytest.approx(sum(losses) / 36, rel=1e-4)  # 3 environments, 12 steps
    np.testing.assert_allclose(grads["params"]["kernel"][:, 0], sum(expected) / 36, rtol=1e-3)
    assert metrics["grad_norm"] == pytest.approx(np.linalg.norm(sum(expected) / 36), rel=1e-3)


@pytest.mark.parametrize(("truncation", "windows"), [(0, [12]), (5, [5, 5, 2])])
def test_a_critic_stands_for_what_comes_after_a_window(truncation, windows):
    config = replace(SMALL, env_id="LinearQuadratic-probe", truncation=truncation, gamma=0.9)
    before, _, metrics, grads = first_update(config, linear_networks)
    gain = np.asarray(before.params["actor"]["params"]["kernel"], np.float64)[:, 0]
    a, b, c = np.asarray(before.target_params["params"]["Dense_0"]["kernel"], np.float64)[:, 0]
    value = -np.array([[a, b], [b, c]])  # the constant begins at 0
    losses, expected = zip(*(costate_gradient(x, gain, 0.9, windows, value) for x in before.obs), strict=True)
    assert metrics["policy_loss"] == pytest.approx(sum(losses) / 36, rel=1e-4)
    np.testing.assert_allclose(grads["params"]["kernel"][:, 0], sum(expected) / 36, rtol=1e-3)


begins_at_rest = functools.partial(linear_networks, init=nn.initializers.zeros)  # a random gain may blow up the state


def riccati(gamma):
    """(gain, P) of the best policy u = gain^T x for ever, with V(x) = -x^T P x: the discounted Riccati equation."""
    A, B, Q, R = np.array(LQ.A), np.array(LQ.B)[:, None], np.diag(LQ.Q), LQ.R
    P = Q
    for _ in range(2000):
        K = gamma * np.linalg.solve(R + gamma * B.T @ P @ B, B.T @ P @ A)
        P = Q + gamma * A.T @ P @ (A - B @ K)
    return -K[0], P


LEARN = apg.Config(
    "LinearQuadratic-probe", "max_steps_in_episode=20", total_timesteps=16 * 20 * 800, num_envs=16, num_steps=20,
    lr=0.04, gamma=0.9, noise=0.0, critic_lr=0.05, update_epochs=8,
)  # fmt: skip
WHOLE = dict(critic=False, env_params="max_steps_in_episode=40", num_steps=40, total_timesteps=16 * 40 * 800)


@pytest.mark.parametrize("changes", [{}, {"truncation": 4}, WHOLE], ids=["SHAC", "windows of 4", "APG"])
def test_training_finds_the_gain_of_the_riccati_equation(changes):
    """With a critic also by windows of 4 steps; without one the horizon must be as long as the problem."""
    train = apg.make_train(replace(LEARN, **changes), network_fn=begins_at_rest)
    states, metrics = jax.jit(jax.vmap(train))(jax.random.split(jax.random.key(0), 2))
    gain, P = riccati(0.9)
    np.testing.assert_allclose(states.params["actor"]["params"]["kernel"][..., 0], [gain] * 2, rtol=0.02)
    assert (metrics["episode_return"][:, -1] > metrics["episode_return"][:, 10]).all()
    if "critic" in states.params:  # time limits are not the end: else V would be smaller
        found = -states.params["critic"]["params"]["Dense_0"]["kernel"][..., 0]
        np.testing.assert_allclose(found, [[P[0, 0], P[0, 1], P[1, 1]]] * 2, rtol=0.05)


# --- gymnax's own simulators ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("env_id", "critic"), [("Pendulum-v1", True), ("Reacher-misc", False)])
def test_gradients_are_finite_differences_of_the_loss(env_id, critic):
    config = replace(SMALL, env_id=env_id, critic=critic, num_steps=16, noise=0.1)
    before, _, _, grads = first_update(config)
    train = apg.make_train(config)

    @jax.jit
    def loss(step, direction):
        moved = jax.tree.map(lambda x, d: x + step * d, before.params["actor"], direction)
        state = before._replace(params=before.params | {"actor": moved})
        return train(None, state=state, num_updates=1)[1]["policy_loss"][0]

    rng = np.random.default_rng(0)
    for _ in range(4):
        direction = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), grads)
        direction = jax.tree.map(lambda x, g: x + 3 * jnp.sign(g), direction, grads)  # not nearly across the gradient
        slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), grads, direction)))
        step = 2e-4
        assert float(loss(step, direction) - loss(-step, direction)) / (2 * step) == pytest.approx(
            float(slope), rel=0.03
        )


def test_actions_stay_within_their_bounds_and_keep_a_gradient():
    box = spaces.Box(jnp.array([-2.0, 1.0, -jnp.inf, 0.0]), jnp.array([2.0, 4.0, jnp.inf, jnp.inf]), (4,))
    x = jnp.array([[0.0, 0.0, 0.0, 0.0], [3.0, -3.0, 3.0, -3.0]])
    found = apg.within_bounds(x, box)
    np.testing.assert_allclose(found[0], [0.0, 2.5, 0.0, 0.0])
    np.testing.assert_allclose(found[1], [2 * np.tanh(3), 2.5 - 1.5 * np.tanh(3), 3.0, -3.0], rtol=1e-6)
    slope = jax.grad(lambda x: apg.within_bounds(x, box).sum())(x)
    assert np.isfinite(slope).all() and (slope > 0.01).all()
    np.testing.assert_allclose(slope[:, 2:], 1.0)
    matrix = spaces.Box(-1.0, 1.0, (2, 3))
    assert apg.within_bounds(jnp.zeros((5, 6)), matrix).shape == (5, 2, 3)


# --- Returns ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("lambda_", [0.0, 0.65, 1.0])
def test_lambda_returns_are_the_mean_of_all_n_step_returns(lambda_):
    rng = np.random.default_rng(0)
    reward, next_value = rng.normal(size=(2, 12, 40))
    terminated = rng.random((12, 40)) < 0.15
    done = terminated | (rng.random((12, 40)) < 0.15)
    found = apg.lambda_return(*map(jnp.asarray, (reward, next_value, terminated, done)), 0.9, lambda_)
    columns = [
        forward_view(*(x[:, i] for x in (reward, next_value, terminated, done)), 0.9, lambda_) for i in range(40)
    ]
    np.testing.assert_allclose(found, np.stack(columns, axis=1), rtol=1e-4, atol=1e-5)


def test_the_loss_by_hand():
    """Columns: one window; the gradient cut at step 1; an end at step 1, where the value does not count."""
    reward, next_value = jnp.array([[1.0] * 3, [2.0] * 3, [4.0] * 3]), jnp.array([[8.0] * 3, [16.0] * 3, [32.0] * 3])
    terminated = jnp.array([[0, 0, 0], [0, 0, 1], [0, 0, 0]], bool)
    cut = jnp.array([[0, 0, 0], [0, 1, 1], [1, 1, 1]], bool)
    loss, metrics = apg.apg_loss(reward, next_value, terminated, cut, replace(SMALL, gamma=0.5))
    last = 4 + 0.5 * 32
    expected = (1 + 0.5 * (2 + 0.5 * last)) + (1 + 0.5 * (2 + 0.5 * 16) + last) + (1 + 0.5 * 2 + last)
    assert float(loss) == float(metrics["policy_loss"]) == pytest.approx(-expected / 9)


@pytest.mark.parametrize("tau", [0.0, 0.25, 1.0])
def test_the_target_follows_the_critic_by_tau(tau):
    before, after, metrics, _ = first_update(replace(SMALL, tau=tau))
    trees = before.target_params, after.params["critic"], after.target_params
    for old, new, target in zip(*map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_allclose(target, (1 - tau) * old + tau * new, rtol=1e-5, atol=1e-7)
    assert metrics["value_loss"] > 0
    assert any((x != y).any() for x, y in zip(*map(jax.tree.leaves, trees[:2]), strict=True))


# --- Refused ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("CartPole-v1", r"acts in Discrete.*use ppo\.py"),
        ("OddActions-probe", r"acts in Tuple.*use ppo\.py"),
        ("Target-probe", r"no gradient through its steps: use ppo\.py"),
    ],
)
def test_what_has_no_gradient_is_refused_with_the_script_that_needs_none(env_id, message):
    with pytest.raises(ValueError, match=message):
        apg.make_train(apg.Config(env_id))


def test_a_window_longer_than_the_horizon_is_refused():
    with pytest.raises(ValueError, match=r"truncation = 33 cuts nothing in num_steps = 32 steps: use 0"):
        apg.Config(truncation=33)

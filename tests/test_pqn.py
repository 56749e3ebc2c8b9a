"""What is PQN's own: lambda-returns across episode ends, its loss, layer norm, and that the probes come out right."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import probes  # noqa: F401 - registers the environments
import pytest

import pqn

SMALL = pqn.Config(total_timesteps=2048, num_envs=4, num_steps=8, num_minibatches=2, update_epochs=2, hidden_size=8)


# --- The lambda-return ------------------------------------------------------------------------------------------------
def forward_view(reward, next_value, terminated, done, gamma, lambda_):
    """One environment, (T,): the weighted mean of all n-step returns up to the end of episode or rollout.

    (1 - lambda) * sum_{n < M} lambda^(n-1) * G^(n) + lambda^(M-1) * G^(M), with G^(n) the n-step return that
    bootstraps from max_a Q of the state that its last step led to (Daley & Amato 2019, arXiv:1810.09967).
    """
    found = []
    for t in range(len(reward)):
        end = next((k for k in range(t, len(reward)) if done[k]), len(reward) - 1)
        returns = []
        for last in range(t, end + 1):
            future = 0.0 if terminated[last] else next_value[last]
            rewards = sum(gamma ** (k - t) * reward[k] for k in range(t, last + 1))
            returns.append(rewards + gamma ** (last - t + 1) * future)
        weights = [(1 - lambda_) * lambda_**n for n in range(len(returns) - 1)] + [lambda_ ** (len(returns) - 1)]
        found.append(np.dot(weights, returns))
    return found


@pytest.mark.parametrize("lambda_", [0.0, 0.65, 1.0])
def test_lambda_returns_are_the_mean_of_all_n_step_returns(lambda_):
    rng = np.random.default_rng(0)
    for share in (0.0, 0.1, 0.5):  # of steps that terminate, and of those that the time limit cuts; some are both
        reward, next_value = rng.normal(size=(2, 12, 40))
        terminated = rng.random((12, 40)) < share
        done = terminated | (rng.random((12, 40)) < share)
        found = pqn.lambda_return(*map(jnp.asarray, (reward, next_value, terminated, done)), 0.9, lambda_)
        columns = (
            forward_view(*(x[:, i] for x in (reward, next_value, terminated, done)), 0.9, lambda_) for i in range(40)
        )
        np.testing.assert_allclose(found, np.stack(list(columns), axis=1), rtol=1e-4, atol=1e-5)


def test_lambda_returns_by_hand():
    """Columns: nothing ends; terminated at step 1; cut by the time limit at step 1; both at once at step 2."""
    reward, next_value = jnp.array([[1.0] * 4, [2.0] * 4, [4.0] * 4]), jnp.array([[8.0] * 4, [16.0] * 4, [32.0] * 4])
    terminated = jnp.array([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], bool)
    done = jnp.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]], bool)
    found = pqn.lambda_return(reward, next_value, terminated, done, 0.5, 0.25)
    last = [20.0, 20.0, 20.0, 4.0]  # 4 + 0.5 * 32, or 4 alone
    middle = [2 + 0.5 * (12 + 5), 2.0, 2 + 0.5 * 16, 2 + 0.5 * (12 + 1)]
    first = [1 + 0.5 * (6 + 0.25 * following) for following in middle]
    np.testing.assert_allclose(found, [first, middle, last])


@pytest.mark.parametrize("lambda_", [0.0, 0.5])
def test_targets_of_a_run_are_those_of_its_environment(lambda_):
    """Path-probe's observation tells length and step of the episode, and its rewards do not ask for the action."""
    config = replace(SMALL, env_id="Path-probe", gamma=0.5, lambda_=lambda_, lr=0.0, num_minibatches=1)
    found = []

    def loss_fn(q, batch, config):
        jax.debug.callback(lambda *x: found.append(x), batch.obs, batch.target)
        return pqn.pqn_loss(q, batch, config)

    network, train = pqn.make_network(config), pqn.make_train(config, loss_fn)
    state, _ = jax.block_until_ready(jax.jit(lambda key: train(key, num_updates=12))(jax.random.key(0)))
    places = [(length, time) for length in (3, 5) for time in range(length + 1)]
    best = dict(zip(places, network.apply(state.params, jnp.array(places)).max(axis=-1).tolist(), strict=True))
    expected = {}  # by length, time, and how many steps of the episode the rollout still holds from there on
    for length, time in places:
        for steps in range(1, length - time + 1):
            after = range(time + 1, time + steps + 1)
            ends = [at == length for at in after]
            terminated, ahead = [end and length == 3 for end in ends], [best[length, at] for at in after]
            expected[length, time, steps] = forward_view(list(after), ahead, terminated, ends, 0.5, lambda_)[0]
    seen = set()
    for obs, target in found:
        for (length, time), value in zip(obs.tolist(), target.tolist(), strict=True):
            steps = range(1, length - time + 1)
            matches = {(length, time, n) for n in steps if value == pytest.approx(expected[length, time, n], abs=1e-4)}
            assert matches, (length, time, value)
            seen |= matches
    assert {(3, 0, 3), (3, 2, 1), (5, 0, 5), (5, 4, 1), (5, 2, 1), (5, 2, 2)} <= seen  # whole ones and cut ones


# --- The loss and the network -----------------------------------------------------------------------------------------
def numpy_loss(flat, shapes, layer_norm, obs, action, target):
    """The network and its loss in float64, written out; flat: all parameters as one vector."""
    parts, at = {}, 0
    for name, shape in shapes.items():
        parts[name] = flat[at : at + np.prod(shape)].reshape(shape)
        at += np.prod(shape)
    x = obs
    for i in range(2):
        x = x @ parts[f"Dense_{i}/kernel"] + parts[f"Dense_{i}/bias"]
        if layer_norm:
            x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
            x = x * parts[f"LayerNorm_{i}/scale"] + parts[f"LayerNorm_{i}/bias"]
        x = np.maximum(x, 0.0)
    q = x @ parts["Dense_2/kernel"] + parts["Dense_2/bias"]
    return np.mean((q[np.arange(len(q)), action] - target) ** 2)


@pytest.mark.parametrize("layer_norm", [True, False])
def test_loss_and_gradient_of_a_minibatch_against_numpy(layer_norm):
    rng = np.random.default_rng(1)
    obs, action, target = rng.normal(size=(16, 4)), rng.integers(0, 2, 16), rng.normal(size=16)
    network = pqn.make_network(replace(SMALL, layer_norm=layer_norm))
    params = network.init(jax.random.key(0), jnp.zeros(4))["params"]
    params = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), params)  # no zero biases
    named = {f"{layer}/{name}": x for layer, leaves in params.items() for name, x in leaves.items()}
    assert len(named) == (10 if layer_norm else 6)
    batch = pqn.Batch(*map(jnp.asarray, (obs, action, target)))

    def loss(params):
        return pqn.pqn_loss(network.apply({"params": params}, batch.obs), batch, SMALL)[0]

    found, grads = jax.jit(jax.value_and_grad(loss))(params)
    flat = np.concatenate([np.asarray(x, np.float64).ravel() for x in named.values()])
    shapes = {name: x.shape for name, x in named.items()}
    expected = lambda vector: numpy_loss(vector, shapes, layer_norm, obs, action, target)  # noqa: E731
    np.testing.assert_allclose(found, expected(flat), rtol=1e-5)
    steps = 1e-6 * np.eye(len(flat))
    slopes = [(expected(flat + step) - expected(flat - step)) / 2e-6 for step in steps]
    grads = np.concatenate([np.ravel(grads[name.split("/")[0]][name.split("/")[1]]) for name in named])
    np.testing.assert_allclose(grads, slopes, rtol=1e-3, atol=1e-5)


def test_the_first_step_of_radam_is_the_clipped_gradient():
    """Until RAdam trusts its second moment it takes plain steps; the first is lr * gradient."""
    config = replace(SMALL, num_minibatches=1, update_epochs=1, lr=0.5, max_grad_norm=0.01)
    train = pqn.make_train(config)
    both = jax.jit(lambda key: (train(key, num_updates=0)[0], *train(key, num_updates=1)))
    first, state, metrics = both(jax.random.key(0))
    moved = jax.tree.map(lambda x, y: jnp.sum(jnp.square(x - y)), first.params, state.params)
    assert metrics["grad_norm"][0] > 0.1  # as it was before clipping
    assert float(sum(jax.tree.leaves(moved))) ** 0.5 == pytest.approx(0.5 * 0.01, rel=1e-2)


# --- Schedules --------------------------------------------------------------------------------------------------------
def test_epsilon_falls_with_env_steps_and_nothing_is_learned_past_the_planned_end():
    """On the way, episodes are counted: of 4 environments with episodes of 5 steps, in rollouts of 8."""
    config = replace(SMALL, env_id="TimeLimit-probe", start_e=0.8, end_e=0.2, exploration_fraction=0.25)
    train = pqn.make_train(config)
    start = jax.jit(lambda key: train(key, num_updates=0)[0])(jax.random.key(0))
    go_on = jax.jit(lambda state: train(None, state=state, num_updates=64))
    state, metrics = go_on(start)
    steps = np.arange(1, 65) * 32
    np.testing.assert_array_equal(metrics["env_steps"], steps)
    np.testing.assert_allclose(metrics["epsilon"], np.maximum(0.2, 0.8 - 0.6 * steps / 512), atol=1e-6)
    np.testing.assert_array_equal(metrics["episode_count"][:5], [4.0, 8.0, 4.0, 8.0, 8.0])
    after, _ = go_on(state)
    first, end, later = map(jax.tree.leaves, (start.params, state.params, after.params))
    assert any((x != y).any() for x, y in zip(first, end, strict=True))
    for x, y in zip(end, later, strict=True):
        np.testing.assert_array_equal(x, y)  # the learning rate is 0 from there on


@pytest.mark.parametrize("env_steps", [0, 512, 10_000])
def test_epsilon_is_the_share_of_random_actions(env_steps):
    params = pqn.make_network(SMALL).init(jax.random.key(0), jnp.zeros(4))
    state = pqn.TrainState(params, *[None] * 5, env_steps=jnp.int32(env_steps), key=None)
    init_carry, act = pqn.make_policy(SMALL)
    obs, key = jnp.full((20_000, 4), 0.1), jax.random.key(3)
    (_, action), (_, best) = (act(state, init_carry(20_000), obs, key, greedy) for greedy in (False, True))
    epsilon = float(pqn.linear_epsilon(env_steps, SMALL))  # of 2 actions, a random one may be the best
    assert np.mean(action != best) == pytest.approx(epsilon / 2, abs=0.015)


# --- Probes -----------------------------------------------------------------------------------------------------------
PROBE = pqn.Config(
    total_timesteps=20_000, num_envs=4, num_steps=8, num_minibatches=1, update_epochs=2, lr=3e-3, gamma=0.9,
    hidden_size=16,
)  # fmt: skip


def trained(env_id, **changes):
    config = replace(PROBE, env_id=env_id, **changes)
    states, _ = jax.jit(jax.vmap(pqn.make_train(config)))(jax.vmap(jax.random.key)(jnp.arange(3)))
    return config, states


def q_values(config, states, obs):
    """(seeds, observations, actions)"""
    return jax.vmap(lambda params: pqn.make_network(config).apply(params, obs))(states.params)


SLOW = {"marks": pytest.mark.slow}


@pytest.mark.parametrize("lambda_", [pytest.param(0.0, **SLOW), 0.65, pytest.param(1.0, **SLOW)])
def test_a_time_limit_is_not_death(lambda_):
    """Reward 1 for ever, gamma 0.9: 10. Treating the limit after 5 steps as an end would give at most 4.1."""
    found = q_values(*trained("TimeLimit-probe", total_timesteps=30_000, lambda_=lambda_), jnp.ones((1, 1)))
    np.testing.assert_allclose(found, 10.0, atol=0.5)


OTHERS = [pytest.param(changes, **SLOW) for changes in ({"layer_norm": False}, {"lambda_": 0.0})]


@pytest.mark.parametrize("changes", [{"num_steps": 3}, *OTHERS], ids=str)
def test_values_of_each_step_before_termination(changes):
    finite = [sum(0.9**i for i in range(5 - t)) for t in range(5)]
    config = trained("SeesTime-probe", total_timesteps=40_000, **changes)
    found = q_values(*config, jnp.arange(5.0)[:, None] / 5)
    np.testing.assert_allclose(found, np.tile(np.array(finite)[:, None], (3, 1, 2)), atol=0.2)


def test_the_policy_depends_on_the_observation():
    config, states = trained("MatchCue-probe")
    obs = jnp.array([[-1.0], [1.0]])
    np.testing.assert_allclose(q_values(config, states, obs), [[[1, -1], [-1, 1]]] * 3, atol=0.1)
    _, act = pqn.make_policy(config)
    actions = jax.vmap(lambda state: act(state, (), obs, jax.random.key(0), True)[1])(states)
    np.testing.assert_array_equal(actions, [[0, 1]] * 3)

"""What is DQN's own: the replay buffer, its targets, exploration, and when the target network moves."""

import collections
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import probes  # noqa: F401 - registers the environments
import pytest
import scipy.stats

import dqn

SMALL = dqn.Config(
    total_timesteps=2048, num_envs=4, buffer_size=256, learning_starts=128, train_frequency=4, batch_size=16,
    hidden_size=8, last_hidden_size=8, log_frequency=16, target_network_frequency=100,
)  # fmt: skip


def started(config):
    """The state after warm-up, and a jitted function that makes one update."""
    train = dqn.make_train(config)
    return jax.jit(lambda key: train(key, num_updates=0)[0])(jax.random.key(0)), jax.jit(
        lambda state: train(None, state=state, num_updates=1)
    )


# --- The buffer -------------------------------------------------------------------------------------------------------
def test_the_ring_against_a_deque():
    """Rows of 3 environments, 2 at a time, into a ring of 6: wrap-around, and the oldest overwritten."""
    buffer, reference = jnp.full((6, 3), -1), collections.deque(maxlen=6)
    for written in range(0, 26, 2):
        new = 10 * (written + jnp.arange(2))[:, None] + jnp.arange(3)
        buffer = dqn.write(buffer, new, written)
        reference.extend(np.asarray(new))
        held = min(written + 2, 6)
        order = (written + 2 - held + np.arange(held)) % 6
        np.testing.assert_array_equal(buffer[order], np.stack(reference))


def test_the_buffer_holds_what_happened_in_the_environments_own_dtype():
    """Path-probe's observation tells which episode and step it is of, so each row can be checked alone."""
    state, update = started(replace(SMALL, env_id="Path-probe", buffer_size=64))
    for _ in range(9):
        buffer = state.buffer
        assert buffer.obs.dtype == buffer.final_obs.dtype == jnp.int32 and buffer.obs.shape == (16, 4, 2)
        length, time = np.asarray(buffer.obs)[..., 0], np.asarray(buffer.obs)[..., 1]
        assert set(np.unique(length)) == {3, 5} and (time < length).all()
        np.testing.assert_array_equal(buffer.final_obs, np.stack([length, time + 1], axis=-1))  # never the next episode
        np.testing.assert_array_equal(buffer.reward, time + 1)
        np.testing.assert_array_equal(buffer.done, time + 1 == length)
        np.testing.assert_array_equal(buffer.terminated, (time + 1 == length) & (length == 3))
        newest = int(state.env_steps) // 4 % 16  # the row that will be written next is the oldest
        ages = (newest + np.arange(15)) % 16
        follows = np.where(np.asarray(buffer.done)[ages], 0, time[ages] + 1)
        np.testing.assert_array_equal(time[(ages + 1) % 16], follows)  # rows follow one another in time
        state, _ = update(state)


@pytest.mark.parametrize(("rows_written", "n_step"), [(7, 1), (7, 3), (12, 1), (29, 1), (29, 3)])
def test_sampling_is_uniform_over_all_stretches_held(rows_written, n_step):
    """A chi-square test over (first row, environment), before and after the ring of 12 rows is full."""
    draws, num_rows, num_envs = 20_000, 12, 3
    row, env = dqn.sample_windows(jax.random.key(0), rows_written, num_rows, num_envs, n_step, draws)
    row, env = np.asarray(row), np.asarray(env)
    assert row.shape == (n_step, draws)
    np.testing.assert_array_equal(row, (row[0] + np.arange(n_step)[:, None]) % num_rows)
    held = min(rows_written, num_rows)
    expected = {t % num_rows for t in range(rows_written - held, rows_written - n_step + 1)}
    assert set(row[0]) == expected  # a stretch never runs over the newest row into the oldest
    counts = collections.Counter(zip(row[0].tolist(), env.tolist(), strict=True))
    assert len(counts) == len(expected) * num_envs
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 0.001


# --- Targets ----------------------------------------------------------------------------------------------------------
def test_n_step_returns_by_hand():
    """Columns: nothing ends; terminated at step 1; cut by the time limit at step 1; terminated at step 2."""
    reward = jnp.array([[1.0] * 4, [2.0] * 4, [4.0] * 4])
    terminated = jnp.array([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], bool)
    done = jnp.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 1]], bool)
    summed, discount, last = dqn.n_step_return(reward, terminated, done, 0.5)
    np.testing.assert_allclose(summed, [1 + 1 + 1, 1 + 1, 1 + 1, 1 + 1 + 1])
    np.testing.assert_allclose(discount, [0.125, 0.0, 0.25, 0.0])
    np.testing.assert_array_equal(last, [2, 1, 1, 2])


def test_targets_by_hand():
    summed, discount = jnp.array([1.0, 2.0]), jnp.array([0.9, 0.0])
    next_q, next_target_q = jnp.array([[5.0, 1.0], [5.0, 1.0]]), jnp.array([[2.0, 3.0], [2.0, 3.0]])
    found = dqn.bootstrapped_target(summed, discount, None, next_target_q, SMALL)
    np.testing.assert_allclose(found, [1 + 0.9 * 3, 2.0])
    double = replace(SMALL, double_dqn=True)  # the online network chooses action 0
    found = dqn.bootstrapped_target(summed, discount, next_q, next_target_q, double)
    np.testing.assert_allclose(found, [1 + 0.9 * 2, 2.0])


def test_losses_by_hand():
    batch = dqn.Batch(obs=None, action=jnp.array([1, 0]), target=jnp.array([1.5, 3.0]))
    q = jnp.array([[9.0, 1.0], [0.0, 9.0]])  # errors -0.5 and -3
    loss, metrics = dqn.dqn_loss(q, batch, SMALL)
    assert loss == metrics["q_loss"] == pytest.approx((0.25 + 9) / 2) and metrics["q_mean"] == pytest.approx(0.5)
    assert dqn.dqn_loss(q, batch, replace(SMALL, huber_loss=True))[0] == pytest.approx((0.125 + 2.5) / 2)


@pytest.mark.parametrize("double_dqn", [False, True])
def test_targets_of_a_run_are_those_of_its_buffer(double_dqn):
    """n 2, target network unlike the online one, neither moving: every target of Path-probe can be worked out."""
    config = replace(SMALL, env_id="Path-probe", lr=0.0, tau=0.0, gamma=0.5, n_step=2, double_dqn=double_dqn)
    found = []

    def loss_fn(q, batch, config):
        jax.debug.callback(lambda *x: found.append(x), batch.obs, batch.target)
        return dqn.dqn_loss(q, batch, config)

    network, (state, _) = dqn.make_network(config), started(config)
    state = state._replace(target_params=network.init(jax.random.key(7), state.obs[0]))
    train = dqn.make_train(config, loss_fn)
    jax.block_until_ready(jax.jit(lambda state: train(None, state=state, num_updates=12))(state))
    jax.effects_barrier()

    def bootstrap(obs):
        online, target = (network.apply(params, jnp.array(obs)) for params in (state.params, state.target_params))
        return float(target[jnp.argmax(online if double_dqn else target)])

    future = {(length, time): bootstrap((length, time)) for length in (3, 5) for time in range(length + 1)}
    future[3, 3] = 0.0  # terminated; (5, 5) is cut by the time limit, and bootstraps
    assert len(found) == 12 and {tuple(x) for obs, _ in found for x in obs.tolist()} >= {(3, 2), (5, 3), (5, 4)}
    for obs, targets in found:
        for (length, time), target in zip(obs.tolist(), targets.tolist(), strict=True):
            end = min(time + 2, length)
            rewards = sum(0.5**i * (time + 1 + i) for i in range(end - time))
            assert target == pytest.approx(rewards + 0.5 ** (end - time) * future[length, end], abs=1e-4)


# --- Schedules --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("num_envs", "train_frequency", "gradient_steps", "frequency"),
    [(1, 1, 1, 500), (3, 1, 1, 500), (10, 1, 1, 500), (128, 1, 1, 500), (128, 1, 1, 70), (3, 10, 4, 500)],
)
def test_the_target_network_moves_once_per_frequency_of_env_steps(num_envs, train_frequency, gradient_steps, frequency):
    size = num_envs * train_frequency * gradient_steps
    config = replace(
        SMALL, num_envs=num_envs, train_frequency=train_frequency, log_frequency=size, learning_starts=300,
        buffer_size=1000, total_timesteps=4500, target_network_frequency=frequency,
    )  # fmt: skip
    train = dqn.make_train(config)

    def update(state, _):
        new, _ = train(None, state=state, num_updates=1)
        pairs = zip(*map(jax.tree.leaves, (new.target_params, state.target_params)), strict=True)
        return new, (jnp.stack([(x != y).any() for x, y in pairs]).any(), new.env_steps)

    state = jax.jit(lambda key: train(key, num_updates=0)[0])(jax.random.key(0))
    start = int(state.env_steps)
    assert start == -(-300 // (num_envs * train_frequency)) * num_envs * train_frequency
    state, (moved, steps) = jax.jit(lambda state: jax.lax.scan(update, state, None, length=config.num_updates))(state)
    assert steps[-1] == start + config.num_updates * size > 4500 - size
    assert state.opt_state[0].count == config.num_updates * gradient_steps
    for after, has_moved in zip(steps.tolist(), moved.tolist(), strict=True):
        assert has_moved == any(step % frequency == 0 for step in range(after - size + 1, after + 1))
    assert moved.sum() == (config.num_updates if size > frequency else int(steps[-1]) // frequency)


@pytest.mark.parametrize(("frequency", "times"), [(16, 1), (8, 2)])
def test_soft_updates_move_by_tau_as_often_as_they_are_due(frequency, times):
    """One gradient step after 16 env steps."""
    state, update = started(replace(SMALL, tau=0.25, target_network_frequency=frequency))
    new, _ = update(state)
    kept = 0.75**times
    for target, before, online in zip(
        *map(jax.tree.leaves, (new.target_params, state.target_params, new.params)), strict=True
    ):
        np.testing.assert_allclose(target, kept * before + (1 - kept) * online, atol=1e-6)


def test_epsilon_falls_linearly_in_env_steps_and_stays():
    config = replace(SMALL, total_timesteps=1000, start_e=1.0, end_e=0.2, exploration_fraction=0.5)
    found = [float(dqn.linear_epsilon(t, config)) for t in (0, 250, 500, 900)]
    np.testing.assert_allclose(found, [1.0, 0.6, 0.2, 0.2], atol=1e-6)
    assert float(dqn.linear_epsilon(1, replace(config, exploration_fraction=0.0))) == pytest.approx(0.2)


@pytest.mark.parametrize("env_steps", [0, 512, 10_000])
def test_epsilon_is_the_share_of_random_actions(env_steps):
    state, _ = started(SMALL)
    init_carry, act = dqn.make_policy(SMALL)
    obs = jnp.broadcast_to(state.obs[0], (20_000, 4))
    state = state._replace(env_steps=jnp.int32(env_steps))
    _, action = act(state, init_carry(20_000), obs, jax.random.key(3), False)
    _, best = act(state, init_carry(20_000), obs, jax.random.key(3), True)
    epsilon = float(dqn.linear_epsilon(env_steps, SMALL))
    assert np.mean(action != best) == pytest.approx(
        epsilon / 2, abs=0.015
    )  # of 2 actions, a random one may be the best


def test_warm_up_fills_the_buffer_and_trains_nothing():
    state, _ = started(replace(SMALL, learning_starts=100))
    assert state.env_steps == 112  # whole collections of 16
    assert (np.asarray(state.buffer.obs) != 0).any(axis=-1).all(axis=-1).sum() == 28
    initial = dqn.make_network(SMALL).init(jax.random.split(jax.random.key(0), 4)[1], state.obs[0])
    for x, y, z in zip(*map(jax.tree.leaves, (state.params, initial, state.target_params)), strict=True):
        np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(x, z)


def test_defaults_are_cleanrls():
    config = dqn.Config()
    assert config.gradient_steps == 100 and config.num_updates == 490 and config.num_rows == 10_000
    assert (config.buffer_size, config.batch_size, config.target_network_frequency) == (10_000, 128, 500)
    assert (config.lr, config.gamma, config.tau, config.start_e, config.end_e) == (2.5e-4, 0.99, 1.0, 1.0, 0.05)
    assert (config.exploration_fraction, config.learning_starts, config.train_frequency) == (0.5, 10_000, 10)
    params = dqn.make_network(config).init(jax.random.key(0), jnp.zeros(4))["params"]
    layers = ["Dense_0", "Dense_1", "Einsum_0"]  # the last one stored transposed
    assert [params[name]["kernel"].shape for name in layers] == [(4, 120), (120, 84), (2, 84)]
    wide = dqn.QNetwork(500, 120, 84).init(jax.random.key(0), jnp.zeros(4))["params"]["Einsum_0"]["kernel"]
    assert wide.std() == pytest.approx(84**-0.5, rel=0.05)  # LeCun's: of as many inputs, not outputs


def test_no_cond_that_a_vmap_would_turn_into_both_branches():
    program = str(jax.make_jaxpr(lambda key: dqn.make_train(SMALL)(key))(jax.random.key(0)))
    assert "cond[" not in program and "scan[" in program


# --- Probes -----------------------------------------------------------------------------------------------------------
PROBE = dqn.Config(
    total_timesteps=20_000, num_envs=4, train_frequency=1, buffer_size=2000, learning_starts=200, batch_size=32,
    lr=3e-3, gamma=0.9, target_network_frequency=40, hidden_size=16, last_hidden_size=16,
)  # fmt: skip


def trained(env_id, **changes):
    config = replace(PROBE, env_id=env_id, **changes)
    states, _ = jax.jit(jax.vmap(dqn.make_train(config)))(jax.vmap(jax.random.key)(jnp.arange(3)))
    return config, states


def q_values(config, states, obs):
    """(seeds, observations, actions)"""
    return jax.vmap(lambda params: dqn.make_network(config).apply(params, obs))(states.params)


VARIANTS = [{}, {"n_step": 3, "double_dqn": True, "huber_loss": True}]


@pytest.mark.parametrize("changes", VARIANTS, ids=["plain", "all switches"])
def test_a_time_limit_is_not_death(changes):
    """Reward 1 for ever, gamma 0.9: 10. Treating the limit after 5 steps as an end would give at most 4.1."""
    found = q_values(*trained("TimeLimit-probe", **changes), jnp.ones((1, 1)))
    np.testing.assert_allclose(found, 10.0, atol=0.5)


@pytest.mark.parametrize("changes", VARIANTS, ids=["plain", "all switches"])
def test_values_of_each_step_before_termination(changes):
    finite = [sum(0.9**i for i in range(5 - t)) for t in range(5)]
    found = q_values(*trained("SeesTime-probe", **changes), jnp.arange(5.0)[:, None] / 5)
    np.testing.assert_allclose(found, np.tile(np.array(finite)[:, None], (3, 1, 2)), atol=0.2)


def test_the_policy_depends_on_the_observation():
    config, states = trained("MatchCue-probe", total_timesteps=8000)
    found = q_values(config, states, jnp.array([[-1.0], [1.0]]))
    np.testing.assert_allclose(found, [[[1, -1], [-1, 1]]] * 3, atol=0.1)
    _, act = dqn.make_policy(config)
    obs = jnp.array([[-1.0], [1.0]])
    actions = jax.vmap(lambda state: act(state, (), obs, jax.random.key(0), True)[1])(states)
    np.testing.assert_array_equal(actions, [[0, 1]] * 3)

"""What is the recurrent script's own: the memory, reset where an episode ends, when acting and again when learning."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import probes  # noqa: F401 - registers the environments
import pytest

import ppo
import ppo_rnn

SMALL = ppo_rnn.Config(
    env_id="CartPole-v1", total_timesteps=1280, num_envs=4, num_steps=32, embedding_size=8, hidden_size=6, lr=0.02
)
CELLS = ["gru", "lstm"]


CONFIGS = {
    "gru, discrete": SMALL,
    "lstm, continuous": replace(
        SMALL, cell="lstm", env_id="Pendulum-v1", env_params="max_steps_in_episode=21", normalize_obs=True
    ),
}


@pytest.fixture(scope="module", params=CONFIGS)
def trained(request):
    """(config, state): five updates at a large learning rate, so that policy and values depend on the memory."""
    config = CONFIGS[request.param]
    return config, jax.jit(lambda key: ppo_rnn.make_train(config)(key, num_updates=5)[0])(jax.random.key(0))


def mismatch(config, state):
    """Largest differences (log-prob, value) between acting and learning, over all minibatches of 5 updates, lr 0."""

    def loss_fn(distribution, value, batch, config):
        loss, metrics = ppo_rnn.ppo_loss(distribution, value, batch, config)
        log_prob_error = jnp.abs(distribution.log_prob(batch.action) - batch.log_prob).max()
        return loss, metrics | {"log_prob": log_prob_error, "value": jnp.abs(value - batch.value).max()}

    train = ppo_rnn.make_train(replace(config, lr=0.0), loss_fn)
    _, metrics = jax.jit(lambda state: train(None, state=state, num_updates=5))(state)
    assert metrics["episode_length"].max() < 32 * 5  # episodes end within the rollouts and across them
    return float(metrics["log_prob"].max()), float(metrics["value"].max())


def test_learning_recomputes_what_acting_computed(trained):
    """Every sequence through the learning pass, from stored memories, with resets, before anything has changed."""
    np.testing.assert_allclose(mismatch(*trained), 0.0, atol=2e-5)


@pytest.mark.parametrize("mistake", ["never reset", "reset one step late", "reset one step early"])
def test_that_check_sees_every_off_by_one(trained, mistake, monkeypatch):
    right = ppo_rnn.unroll

    def wrong(network, params, carry, obs, done):
        done = {
            "never reset": jnp.zeros_like(done),
            "reset one step late": jnp.concatenate([jnp.zeros_like(done[:1]), done[:-1]]),
            "reset one step early": jnp.concatenate([done[1:], jnp.zeros_like(done[:1])]),
        }[mistake]
        return right(network, params, carry, obs, done)

    monkeypatch.setattr(ppo_rnn, "unroll", wrong)
    log_prob, value = mismatch(*trained)
    assert log_prob > 1e-3 and value > 1e-2


def test_the_memory_after_a_reset_is_that_of_a_fresh_episode(trained):
    config, state = trained
    train = ppo_rnn.make_train(replace(config, num_steps=2, num_minibatches=1))
    init_carry, act = ppo_rnn.make_policy(config)
    step, act = jax.jit(lambda state: train(None, state=state, num_updates=1)[0]), jax.jit(act)
    fresh, seen = init_carry(config.num_envs), 0
    for _ in range(60):
        state = step(state)
        began = np.asarray(state.env_state.episode_lengths) == 0
        for carry, zeros in zip(jax.tree.leaves(state.carry), jax.tree.leaves(fresh), strict=True):
            np.testing.assert_array_equal(carry[began], zeros[began])
            assert (carry[~began] != 0).any(axis=-1).all()
        went_on, _ = act(state, state.carry, state.obs, jax.random.key(0), True)
        afresh, _ = act(state, fresh, state.obs, jax.random.key(0), True)
        for x, y in zip(jax.tree.leaves(went_on), jax.tree.leaves(afresh), strict=True):
            np.testing.assert_array_equal(x[began], y[began])
            assert (x[~began] != y[~began]).any(axis=-1).all()
        seen += began.sum()
    assert seen >= 3


def test_the_bootstrap_sees_the_final_observation_with_the_memory_of_its_episode():
    """gae_lambda 0, lr 0: on Path-probe, which ends in both ways, every target can be worked out step by step."""
    config = replace(SMALL, env_id="Path-probe", num_minibatches=1, update_epochs=1, lr=0.0, gamma=0.5, gae_lambda=0.0)
    found = []

    def loss_fn(distribution, value, batch, config):
        jax.debug.callback(lambda *x: found.append(x), batch.carry, batch.obs, batch.target)
        return ppo_rnn.ppo_loss(distribution, value, batch, config)

    train = ppo_rnn.make_train(config, loss_fn)
    state, _ = jax.block_until_ready(jax.jit(lambda key: train(key, num_updates=2))(jax.random.key(0)))
    jax.effects_barrier()
    network, fresh = ppo_rnn.make_network(config), jnp.zeros(6)
    remember = jax.jit(lambda carry, obs: network.apply(state.params, carry, obs, method="remember"))
    value = jax.jit(lambda carry, obs: network.apply(state.params, remember(carry, obs), method="value"))
    truncations = 0
    for carries, obs, targets in found:
        for carry, sequence, target in zip(carries, obs, targets, strict=True):
            for (length, time), its_target in zip(sequence.tolist(), target.tolist(), strict=True):
                carry, final_obs = remember(carry, jnp.array([length, time])), jnp.array([length, time + 1.0])
                done, terminated = time + 1 == length, (length, time) == (3, 2)
                expected = time + 1 + 0.5 * (not terminated) * float(value(carry, final_obs))
                assert its_target == pytest.approx(expected, abs=1e-4)
                if done and not terminated:
                    truncations += 1
                    assert abs(value(carry, final_obs) - value(fresh, final_obs)) > 1e-3  # the memory matters
                carry = fresh if done else carry
    assert len(found) == 2 and truncations >= 10


@pytest.mark.parametrize("cell", CELLS)
def test_unroll_is_a_plain_loop_with_resets(cell):
    config = replace(SMALL, cell=cell)
    network, rng = ppo_rnn.make_network(config), np.random.default_rng(0)
    init_carry, _ = ppo_rnn.make_policy(config)
    obs, done = jnp.float32(rng.normal(size=(9, 4))), jnp.array([0, 0, 1, 0, 1, 1, 0, 0, 1], bool)
    start = jax.tree.map(lambda x: x[0] + 0.3, init_carry(1))
    params = network.init(jax.random.key(0), start, obs[0])
    found = ppo_rnn.unroll(network, params, start, obs, done)
    carry = start
    for t in range(9):
        carry = network.apply(params, carry, obs[t], method="remember")
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(carry), strict=True):
            np.testing.assert_allclose(x[t], y, atol=1e-6)
        if done[t]:
            carry = jax.tree.map(jnp.zeros_like, start)


def test_the_initial_memory_is_zeros_as_the_cells_own():
    for cell in CELLS:
        init_carry, _ = ppo_rnn.make_policy(replace(SMALL, cell=cell))
        own = ppo_rnn.CELLS[cell](6).initialize_carry(jax.random.key(0), (3, 8))
        assert jax.tree.structure(own) == jax.tree.structure(init_carry(3))
        for x, y in zip(jax.tree.leaves(own), jax.tree.leaves(init_carry(3)), strict=True):
            np.testing.assert_array_equal(x, y)


def test_minibatches_are_whole_sequences_and_hold_every_env_once():
    def loss_fn(distribution, value, batch, config):
        loss, metrics = ppo_rnn.ppo_loss(distribution, value, batch, config)
        assert batch.obs.shape == (2, 32, 4) and batch.carry.shape == (2, 6) and value.shape == (2, 32)
        return loss, metrics | {"mean": batch.value.mean(), "spread": batch.value.mean() ** 2}

    config = replace(SMALL, num_envs=8, num_minibatches=4, update_epochs=1)
    _, metrics = jax.jit(lambda key: ppo_rnn.make_train(config, loss_fn)(key, num_updates=2))(jax.random.key(0))
    np.testing.assert_allclose(metrics["mean"], metrics["value_mean"], rtol=1e-5)  # of minibatches, and of the rollout
    assert (metrics["spread"] > metrics["mean"] ** 2 + 1e-8).all()  # the minibatches differ


RECALL = dict(
    env_id="Recall-probe", total_timesteps=20_000, num_envs=8, num_steps=25, num_minibatches=2, lr=3e-3, gamma=0.9,
    hidden_size=16,
)  # fmt: skip


def recall_returns(script, **changes):
    config = script.Config(**RECALL | changes)
    _, metrics = jax.jit(jax.vmap(script.make_train(config)))(jax.vmap(jax.random.key)(jnp.arange(3)))
    return np.asarray(metrics["episode_return"])[:, -20:].mean(axis=1)


@pytest.mark.parametrize("cell", CELLS)
def test_the_recall_probe_is_solved(cell):
    assert (recall_returns(ppo_rnn, cell=cell, embedding_size=16) > 0.95).all()


def test_the_recall_probe_is_a_coin_toss_without_memory():
    """The mean of 800 tosses of +-1 per seed has a standard error of 0.035."""
    np.testing.assert_allclose(recall_returns(ppo), 0.0, atol=0.15)

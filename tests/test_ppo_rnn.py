"""What is the recurrent script's own: the memory, reset where an episode ends, when acting and again when learning."""

from dataclasses import replace

import flax.linen as nn
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
SMALL_OF = {cell: replace(SMALL, cell=cell) for cell in CELLS}


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
            "reset one step late": jnp.concatenate([jnp.zeros_like(done[:, :1]), done[:, :-1]], axis=1),
            "reset one step early": jnp.concatenate([done[:, 1:], jnp.zeros_like(done[:, :1])], axis=1),
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
    value = jax.jit(lambda carry, obs: network.apply(state.params, remember(carry, obs), method="heads")[1])
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


def sequences(cell):
    """(network, params, carry (2, H), obs (2, 9, D), done (2, 9)): no number of them is zero, not even a bias."""
    config = SMALL_OF[cell]
    network, rng = ppo_rnn.make_network(config), np.random.default_rng(0)
    random = lambda x: jnp.float32(0.5 * rng.normal(size=x.shape))  # noqa: E731
    start = jax.tree.map(random, ppo_rnn.make_policy(config)[0](2))
    obs, done = jnp.float32(rng.normal(size=(2, 9, 4))), jnp.array(rng.random((2, 9)) < 0.3)
    return network, jax.tree.map(random, network.init(jax.random.key(0), start, obs[:, 0])), start, obs, done


def plain_loop(network, params, carry, obs, done):
    carries = []
    for t in range(obs.shape[1]):
        carry = network.apply(params, carry, obs[:, t], method="remember")
        carries.append(carry)
        carry = jax.tree.map(lambda x, t=t: x * (1 - done[:, t, None]), carry)
    return jax.tree.map(lambda *x: jnp.stack(x, axis=1), *carries)


@pytest.mark.parametrize("cell", CELLS)
def test_unroll_is_a_plain_loop_with_resets_and_so_is_its_gradient(cell):
    """The gradient in every number that goes in, for the weights' is written by hand."""
    network, params, start, obs, done = sequences(cell)
    assert done.any() and not done.all()

    def loss(unroll, params, carry, obs):
        remembered = unroll(network, params, carry, obs, done)
        sums = [(jnp.sin(3.0 * x) * jnp.arange(1.0, 10.0)[:, None]).sum() for x in jax.tree.leaves(remembered)]
        return sum(sums), remembered

    grad = jax.grad(loss, argnums=(1, 2, 3), has_aux=True)
    found, expected = (grad(unroll, params, start, obs) for unroll in (ppo_rnn.unroll, plain_loop))
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)
    gates = found[0][0]["params"]["memory_gates"]
    assert (jnp.abs(gates["kernel"]) > 1e-4).all() and (jnp.abs(gates["bias"]) > 1e-4).all()


@pytest.mark.parametrize("cell", CELLS)
def test_a_step_is_that_of_the_cells_of_flax(cell):
    """Their weights one per gate, ours side by side; where flax has one bias for a sum, one of our two is zero."""
    theirs = {"gru": nn.GRUCell(6), "lstm": nn.OptimizedLSTMCell(6)}[cell]
    network, params, carry, obs, _ = sequences(cell)
    names = {"gru": ["r", "z", "n"], "lstm": ["i", "f", "g", "o"]}[cell]
    own = params["params"]
    split = lambda x: dict(zip(names, jnp.split(x, len(names), axis=-1), strict=True))  # noqa: E731
    weights = {
        f"{side}{name}": {"kernel": kernel}
        for side, layer in (("i", "input_gates"), ("h", "memory_gates"))
        for name, kernel in split(own[layer]["kernel"]).items()
    }
    both = split(own["input_gates"]["bias"] + own["memory_gates"]["bias"])
    for name in names:
        weights[f"{'i' if cell == 'gru' else 'h'}{name}"]["bias"] = both[name]
    if cell == "gru":  # the bias within the product with the reset gate is one of its own
        weights["in"]["bias"] = split(own["input_gates"]["bias"])["n"]
        weights["hn"]["bias"] = split(own["memory_gates"]["bias"])["n"]
    embedding = jnp.tanh(obs[:, 0] @ own["embedding"]["kernel"] + own["embedding"]["bias"])
    expected, _ = theirs.apply({"params": weights}, carry, embedding)
    found = network.apply(params, carry, obs[:, 0], method="remember")
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
    zeros, own_zeros = theirs.initialize_carry(jax.random.key(0), (2, 8)), ppo_rnn.make_policy(SMALL_OF[cell])[0](2)
    jax.tree.map(np.testing.assert_array_equal, zeros, own_zeros)


@pytest.mark.parametrize("cell", CELLS)
def test_every_gate_begins_orthogonal_as_those_of_flax(cell):
    network, _, carry, obs, _ = sequences(cell)
    params = network.init(jax.random.key(0), carry, obs[:, 0])["params"]
    blocks = np.split(params["memory_gates"]["kernel"], ppo_rnn.GATES[cell], axis=1)
    for block in blocks:
        np.testing.assert_allclose(block @ block.T, np.eye(6), atol=1e-5)
    assert (blocks[0] != blocks[1]).any()
    assert not params["memory_gates"]["bias"].any() and not params["input_gates"]["bias"].any()


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


@pytest.mark.parametrize("cell", [pytest.param(cell, marks=[pytest.mark.slow] * (cell == "lstm")) for cell in CELLS])
def test_the_recall_probe_is_solved(cell):
    assert (recall_returns(ppo_rnn, cell=cell, embedding_size=16) > 0.95).all()


def test_the_recall_probe_is_a_coin_toss_without_memory():
    """The mean of 800 tosses of +-1 per seed has a standard error of 0.035."""
    np.testing.assert_allclose(recall_returns(ppo), 0.0, atol=0.15)

"""Several choices at once (MultiDiscrete), and masks of illegal actions: exact distributions, and learning."""

import itertools
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
import scipy.special
from test_cli import main_in_process

import dqn
import ppo
import ppo_rnn
from environments.spaces import MultiDiscrete
from runner import export_weights, load_policy

PPO = ppo.Config(
    "TwoChoices-probe", total_timesteps=20_000, num_envs=8, num_steps=25, num_minibatches=2, lr=3e-3, ent_coef=0.0,
    hidden_size=16,
)  # fmt: skip
RNN = ppo_rnn.Config(
    "TwoChoices-probe", total_timesteps=20_000, num_envs=8, num_steps=25, num_minibatches=2, lr=3e-3, ent_coef=0.0,
    embedding_size=16, hidden_size=16,
)  # fmt: skip
DQN = dqn.Config(
    "Masked-probe", total_timesteps=6_000, num_envs=4, learning_starts=400, buffer_size=4_000, train_frequency=5,
    batch_size=32, lr=3e-3, target_network_frequency=100, hidden_size=16, last_hidden_size=16,
)  # fmt: skip
CATEGORIES = (2, 4, 3)


def test_the_space_of_several_choices():
    space = MultiDiscrete(CATEGORIES)
    drawn = np.asarray(jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 500)))
    assert drawn.shape == (500, 3) and drawn.dtype == np.int32
    assert [sorted(set(column)) for column in drawn.T.tolist()] == [[0, 1], [0, 1, 2, 3], [0, 1, 2]]
    assert jax.vmap(space.contains)(drawn).all()
    assert not space.contains(jnp.array([2, 0, 0])) and not space.contains(jnp.array([0, -1, 0]))
    with pytest.raises(ValueError, match="num_categories must name"):
        MultiDiscrete([3, 0])


@pytest.mark.parametrize("script", [ppo, ppo_rnn])
def test_a_product_of_categoricals_is_the_plain_product(script):
    """All 24 actions, one by one, from the logits that each choice has: padding of smaller choices counts nowhere."""
    output = np.random.default_rng(0).normal(size=(5, 3 * 4)).astype(np.float32)
    policy = script.product_of_categoricals(jnp.array(output), CATEGORIES)
    logits = [output.reshape(5, 3, 4)[:, i, :n] for i, n in enumerate(CATEGORIES)]
    log_probs = [scipy.special.log_softmax(x, axis=-1) for x in logits]
    total = 0.0
    for action in itertools.product(*map(range, CATEGORIES)):
        expected = sum(log_probs[i][:, chosen] for i, chosen in enumerate(action))
        np.testing.assert_allclose(policy.log_prob(jnp.tile(jnp.array(action), (5, 1))), expected, rtol=1e-5)
        total += np.exp(expected)
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)
    entropy = sum(-(np.exp(x) * x).sum(axis=-1) for x in log_probs)
    np.testing.assert_allclose(policy.entropy(), entropy, rtol=1e-5)
    np.testing.assert_array_equal(policy.mode(), np.stack([x.argmax(axis=-1) for x in logits], axis=-1))
    drawn = np.asarray(policy.sample(seed=jax.random.key(0), sample_shape=20_000))
    for i, n in enumerate(CATEGORIES):
        shares = np.stack([(drawn[..., i] == k).mean(axis=0) for k in range(n)], axis=-1)
        np.testing.assert_allclose(shares, np.exp(log_probs[i]), atol=0.02)


def test_its_gradients_are_finite_and_leave_the_padding_alone():
    def loss(output):
        policy = ppo.product_of_categoricals(output, CATEGORIES)
        return policy.log_prob(jnp.array([1, 3, 2])) + policy.entropy()

    def plain(output):
        parts = [jax.nn.log_softmax(output.reshape(3, 4)[i, :n]) for i, n in enumerate(CATEGORIES)]
        chosen = sum(part[k] for part, k in zip(parts, (1, 3, 2), strict=True))
        return chosen - sum((jnp.exp(part) * part).sum() for part in parts)

    output = jax.random.normal(jax.random.key(0), (12,))
    np.testing.assert_allclose(jax.grad(loss)(output), jax.grad(plain)(output), atol=1e-5)


@pytest.mark.parametrize(("script", "config"), [(ppo, PPO), (ppo_rnn, RNN)])
def test_each_of_two_choices_is_learned(script, config):
    states, _ = jax.jit(jax.vmap(script.make_train(config)))(jax.random.split(jax.random.key(0), 2))
    assert (states.episode_return > 1.9).all()
    init_carry, act = script.make_policy(config)
    obs = jnp.array([[-1.0], [1.0]])
    _, action = jax.vmap(lambda state: act(state, init_carry(2), obs, jax.random.key(0), True))(states)
    np.testing.assert_array_equal(action, [[[0, 0], [1, 2]]] * 2)


def test_dqn_names_the_scripts_that_make_several_choices():
    with pytest.raises(ValueError, match=r"MultiDiscrete\(\[2, 3\]\).*use ppo\.py or ppo_rnn\.py"):
        dqn.make_train(dqn.Config("TwoChoices-probe"))


# --- Masks ------------------------------------------------------------------------------------------------------------
def test_only_legal_values_are_left():
    values = jnp.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    obs = jnp.array([[9.0, 1, 0, 1], [9.0, 0, 1, 0], [9.0, 0, 0, 0]])
    expected = [[1, -np.inf, 3], [-np.inf, 2, -np.inf], [1, 2, 3]]  # in an end's state none may be legal
    for script in (ppo, dqn):
        np.testing.assert_array_equal(script.only_legal(values, obs, 3), expected)
        assert script.only_legal(values, obs, 0) is values


MASKED = replace(PPO, env_id="Masked-probe", total_timesteps=40_000)


@pytest.mark.parametrize("normalize", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_ppo_takes_legal_actions_only_and_learns_the_best(normalize):
    """An illegal action brings 100, so that a single one shows in the returns; the best return without one is 5."""
    config = replace(MASKED, normalize_obs=normalize)
    states, metrics = jax.jit(jax.vmap(ppo.make_train(config)))(jax.random.split(jax.random.key(0), 2))
    assert (metrics["episode_return"] <= 5.0).all() and (states.episode_return > 4.8).all()
    assert np.isfinite(metrics["policy_loss"]).all() and np.isfinite(metrics["entropy"]).all()
    np.testing.assert_allclose(metrics["entropy"][:, 0], np.log(2), atol=0.05)  # two of three actions are legal
    _, act = ppo.make_policy(config)
    obs = jnp.tile(jnp.array([[1.0, 1, 1, 0], [-1.0, 0, 1, 1]]), (200, 1))
    for greedy in (True, False):
        _, action = jax.vmap(lambda state: act(state, (), obs, jax.random.key(1), greedy))(states)  # noqa: B023
        assert (jnp.take_along_axis(obs[None, :, 1:], action[..., None], axis=-1) == 1).all()
    first = jax.tree.map(lambda x: x[0], states)
    assert first.obs_stats.mean.shape == (1,)  # of the cue alone


def test_the_ratio_is_of_the_masked_policy():
    """One update with a step size of 0: every ratio is 1, which it is only with the mask of the rollout in the loss."""
    config = replace(MASKED, lr=0.0, normalize_obs=True, total_timesteps=2 * MASKED.steps_per_update)
    _, metrics = jax.jit(ppo.make_train(config))(jax.random.key(0))
    np.testing.assert_allclose(metrics["approx_kl"], 0.0, atol=1e-6)
    np.testing.assert_allclose(metrics["clip_fraction"], 0.0)


@pytest.mark.parametrize("double_dqn", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_dqn_takes_and_values_legal_actions_only(double_dqn):
    """From a network that likes illegal actions best: its targets and its choices, random ones too, leave them out."""
    config = replace(DQN, double_dqn=double_dqn)
    states, metrics = jax.jit(jax.vmap(dqn.make_train(config)))(jax.random.split(jax.random.key(0), 2))
    assert (metrics["episode_return"] <= 5.0).all() and np.isfinite(metrics["q_loss"]).all()
    taken = jnp.take_along_axis(states.buffer.obs[..., 1:], states.buffer.action[..., None], axis=-1)
    assert (taken == 1).all()  # also the warm-up's, all random
    obs = jnp.array([[1.0, 1, 1, 0], [-1.0, 0, 1, 1]])
    q = jax.vmap(lambda params: dqn.make_network(config).apply(params, obs))(states.params)
    assert jnp.isinf(q[:, 0, 2]).all() and jnp.isinf(q[:, 1, 0]).all()
    np.testing.assert_array_equal(q.argmax(axis=-1), [[0, 2]] * 2)
    target = dqn.bootstrapped_target(jnp.zeros(2), jnp.ones(2), q[0], q[0], config)
    assert np.isfinite(target).all()


@pytest.mark.parametrize(
    ("script", "env_id", "limit"), [(ppo_rnn, "TwoChoices-probe", 2.0), (ppo, "Masked-probe", 5.0)]
)
def test_a_whole_run_evaluates_loads_and_exports(script, env_id, limit, tmp_path):
    words = ["--env-id", env_id, "--total-timesteps", "4096", "--hidden-size", "8", "--num-seeds", "2"]
    words += ["--eval-episodes", "32", "--import", probes.__file__, "--run-dir", str(tmp_path / "run")]
    assert main_in_process(*words, script=script) == 0
    for member in json.loads((tmp_path / "run/summary.json").read_text())["members"]:
        assert 0 <= member["greedy_return"] <= limit and 0 <= member["sampled_return"] <= limit
    policy = load_policy(tmp_path / "run")
    obs, _ = policy.env.reset(jax.random.key(0), policy.env_params)
    _, action = policy.act(policy.state, policy.init_carry(1), obs[None], jax.random.key(0), True)
    assert action.shape == ((1, 2) if env_id == "TwoChoices-probe" else (1,))
    assert export_weights(tmp_path / "run", tmp_path / "weights.npz")

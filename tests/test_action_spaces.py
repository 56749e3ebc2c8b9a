"""Several choices at once (MultiDiscrete), and masks of illegal actions: exact distributions, and learning."""

import itertools
import json
from dataclasses import replace

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
import scipy.special
import scipy.stats
from gymnax.environments import spaces
from gymnax.environments.classic_control.pendulum import Pendulum
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


# --- Bounded continuous actions ---------------------------------------------------------------------------------------
LOW, HIGH = jnp.array([-2.0, 0.0]), jnp.array([2.0, 10.0])


def squashed(script, mean, std):
    mean, std = (jnp.broadcast_to(jnp.float32(x), 2) for x in (mean, std))
    return script.SquashedGaussian(mean, std, LOW, HIGH)


def plain_density(x, mean, std, low, high):
    """Of one action x inside the bounds: the Gaussian's at the number that tanh made x of, by the change's slope."""
    half = (high - low) / 2
    before = np.arctanh((x - low) / half - 1)
    return scipy.stats.norm.pdf(before, mean, std) / (half * (1 - np.tanh(before) ** 2))


@pytest.mark.parametrize("script", [ppo, ppo_rnn])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.3), (-2.0, 0.8), (0.3, 2.0)])
def test_a_squashed_gaussian_has_the_density_and_entropy_of_numerical_integration(script, mean, std):
    policy, expected_entropy = squashed(script, mean, std), 0.0
    before = np.linspace(mean - 9 * std, mean + 9 * std, 200_001)
    for low, high in zip(LOW.tolist(), HIGH.tolist(), strict=True):
        slope = 0.5 * (high - low) / np.cosh(before) ** 2  # the integral over x, written over the number before tanh
        density = scipy.stats.norm.pdf(before, mean, std) / slope
        assert np.trapezoid(density * slope, before) == pytest.approx(1.0, abs=1e-6)
        expected_entropy -= np.trapezoid(density * np.log(density) * slope, before)
    np.testing.assert_allclose(policy.entropy(), expected_entropy, atol=0.01)
    share = np.array([[0.01, 0.5], [0.3, 0.97], [0.8, 0.2]])
    action = np.asarray(LOW + share * (HIGH - LOW), np.float64)
    plain = sum(np.log(plain_density(action[:, i], mean, std, float(LOW[i]), float(HIGH[i]))) for i in range(2))
    np.testing.assert_allclose(policy.log_prob(jnp.array(action)), plain, rtol=1e-4)


@pytest.mark.parametrize("script", [ppo, ppo_rnn])
def test_a_squashed_gaussians_samples_are_inside_and_as_likely_as_it_says(script):
    policy = squashed(script, 0.4, 0.9)
    drawn = jax.vmap(lambda key: policy.sample(seed=key))(jax.random.split(jax.random.key(0), 20_000))
    assert ((drawn >= LOW) & (drawn <= HIGH)).all()
    np.testing.assert_allclose(policy.entropy(), -policy.log_prob(drawn).mean(), atol=0.02)
    half = (jnp.median(drawn, axis=0) - LOW) / (HIGH - LOW)
    np.testing.assert_allclose(half, (policy.mode() - LOW) / (HIGH - LOW), atol=0.01)
    inside = (np.asarray(drawn[:, 1]) < 3.0).mean()
    assert inside == pytest.approx(scipy.stats.norm.cdf(np.arctanh(2 * 0.3 - 1), 0.4, 0.9), abs=0.01)


@pytest.mark.parametrize("script", [ppo, ppo_rnn])
def test_a_squashed_gaussian_has_finite_gradients_at_its_bounds(script):
    """tanh rounds to 1 from 9 on: such actions happen once a policy is sure."""

    def loss(mean, std):
        policy = squashed(script, mean, std)
        return policy.log_prob(policy.squash(jnp.array([20.0, -20.0]))) + policy.entropy()

    for mean, std in ((0.0, 1.0), (8.0, 0.1), (-8.0, 3.0)):
        value, grads = jax.value_and_grad(loss, (0, 1))(mean, std)
        assert np.isfinite([value, *grads]).all()


@pytest.mark.parametrize(("script", "config"), [(ppo, PPO), (ppo_rnn, RNN)])
def test_bounded_actions_start_as_wide_as_asked_and_fill_the_bounds(script, config):
    for squash, low, high in ((False, -5.0, 5.0), (True, -2.0, 2.0)):
        changed = replace(config, env_id="Pendulum-v1", action_std=0.5, squash_actions=squash)
        state, _ = jax.jit(lambda key, c=changed: script.make_train(c)(key, num_updates=0))(jax.random.key(0))
        init_carry, act = script.make_policy(changed)
        obs = jnp.zeros((4_000, 3))
        _, drawn = act(state, init_carry(4_000), obs, jax.random.key(1), False)
        assert drawn.shape == (4_000, 1) and low <= drawn.min() and drawn.max() <= high
        before = np.arctanh(np.asarray(drawn) / 2) if squash else drawn
        assert np.std(before) == pytest.approx(0.5, rel=0.05)


class Unbounded(Pendulum):
    def action_space(self, params=None):
        return spaces.Box(-jnp.inf, 1.0, (1,))


gymnax.register("Unbounded-probe", Unbounded)


@pytest.mark.parametrize(("script", "config"), [(ppo, PPO), (ppo_rnn, RNN)])
def test_without_bounds_nothing_is_squashed(script, config, tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="needs finite bounds"):
        script.make_train(replace(config, env_id="Unbounded-probe", squash_actions=True))(jax.random.key(0))
    monkeypatch.chdir(tmp_path)
    assert main_in_process("--env-id", "Unbounded-probe", "--squash-actions", script=script) == 2
    assert "squash_actions needs bounds, and the actions of Unbounded-probe have none" in capsys.readouterr().err


@pytest.mark.parametrize(("script", "config"), [(ppo, PPO), (ppo_rnn, RNN)])
@pytest.mark.parametrize("env_id", ["PointRobot-misc", "Reacher-misc"])  # whose bounds are arrays
def test_actions_are_squashed_also_where_everything_is_made_inside_of_a_jit(env_id, script, config):
    """As the runner makes it: training inside of one program, the policy inside of evaluation's."""
    config = replace(config, env_id=env_id, squash_actions=True, total_timesteps=200)
    state, metrics = jax.jit(lambda key: script.make_train(config)(key))(jax.random.key(0))
    assert np.isfinite(metrics["policy_loss"]).all()
    env, env_params = script.make_env(env_id)
    low, high = (getattr(env.action_space(env_params), name) for name in ("low", "high"))

    def sample(state, key):
        init_carry, act = script.make_policy(config)
        obs = env.reset(key, env_params)[0]
        return act(state, init_carry(500), jnp.broadcast_to(obs, (500, *obs.shape)), key, greedy=False)[1]

    drawn = jax.jit(sample)(state, jax.random.key(1))
    assert (low <= drawn).all() and (drawn <= high).all() and drawn.std() > 0.3 * high[0]


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

"""The pure functions of ppo.py against plain loops and numbers worked out by hand."""

import math

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppo


def gae_by_loop(reward, value, next_value, terminated, done, gamma, gae_lambda):
    advantage = np.zeros_like(reward)
    for n in range(reward.shape[1]):
        later = 0.0
        for t in reversed(range(reward.shape[0])):
            future = 0.0 if terminated[t, n] else gamma * next_value[t, n]
            later = reward[t, n] + future - value[t, n] + (0.0 if done[t, n] else gamma * gae_lambda * later)
            advantage[t, n] = later
    return advantage


def test_gae_against_a_plain_loop():
    rng = np.random.default_rng(0)
    reward, value, next_value = rng.normal(size=(3, 40, 5)).astype(np.float32)
    terminated, truncated = rng.random((2, 40, 5)) < 0.15
    done = terminated | truncated
    assert (truncated & ~terminated).any() and (truncated & terminated).any()
    expected = gae_by_loop(reward, value, next_value, terminated, done, 0.97, 0.9)
    np.testing.assert_allclose(
        ppo.gae(reward, value, next_value, terminated, done, 0.97, 0.9), expected, rtol=1e-4, atol=1e-5
    )


def test_gae_by_hand():
    column = lambda *x: np.array(x, np.float32)[:, None]  # noqa: E731
    # lambda 0 is the TD error; the second step is cut by a time limit and still bootstraps, the third terminates
    advantage = ppo.gae(
        column(1, 2, 3), column(10, 20, 30), column(20, 40, 50), column(0, 0, 1), column(0, 1, 1), 0.5, 0.0
    )
    np.testing.assert_allclose(advantage[:, 0], [1 + 10 - 10, 2 + 20 - 20, 3 - 30])
    # lambda 1: the first step also gets gamma * the second's advantage, and nothing crosses the cut after the second
    advantage = ppo.gae(
        column(1, 2, 3), column(10, 20, 30), column(20, 40, 50), column(0, 0, 1), column(0, 1, 1), 0.5, 1.0
    )
    np.testing.assert_allclose(advantage[:, 0], [1 + 0.5 * 2, 2, -27])


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.0, 2.0, -2.0), (1.5, 2.0, -2.4), (0.5, 2.0, -1.0), (1.5, -2.0, 3.0), (0.5, -2.0, 1.6)],
)
def test_clipped_surrogate_by_hand(ratio, advantage, expected):
    config = ppo.Config(clip_eps=0.2)
    assert ppo.clipped_surrogate(jnp.array(ratio), jnp.array(advantage), config) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "target", "old", "clipped", "expected"),
    [
        (1.0, 3.0, 1.0, True, 2.0),  # nothing moved: 0.5 * 2^2
        (2.0, 3.0, 1.0, True, 0.5 * 1.8**2),  # moved by more than 0.2: counted as 1.2
        (2.0, 3.0, 1.0, False, 0.5),  # not clipped
        (2.0, 0.0, 1.0, True, 2.0),  # moved away from the target: the larger error counts
    ],
)
def test_value_loss_by_hand(value, target, old, clipped, expected):
    config = ppo.Config(clip_eps=0.2, clip_value=clipped)
    loss = ppo.clipped_squared_error(jnp.array(value), jnp.array(target), jnp.array(old), config)
    assert loss == pytest.approx(expected)


@pytest.mark.parametrize("count", [2, 7, 512, 1000])
def test_random_order_is_a_uniform_shuffle(count):
    """Every number once; over keys, every number is first equally often, within four standard deviations."""
    draws = 4000
    orders = np.asarray(jax.vmap(lambda key: ppo.random_order(key, count))(jax.random.split(jax.random.key(0), draws)))
    assert (np.sort(orders) == np.arange(count)).all()
    few = min(count, 4)
    groups = np.bincount(orders[:, 0] * few // count, minlength=few)
    expected = np.bincount(np.arange(count) * few // count) / count * draws
    assert (np.abs(groups - expected) < 4 * np.sqrt(expected)).all()
    pairs = (orders.argsort(axis=1)[:, 0] < orders.argsort(axis=1)[:, -1]).mean()  # which of two comes first
    assert abs(pairs - 0.5) < 4 * 0.5 / np.sqrt(draws)


def test_ppo_loss_by_hand():
    """Two samples, two actions, everything worked out on paper."""
    probability = np.array([[0.55, 0.45], [0.2, 0.8]])
    batch = ppo.Batch(
        obs=None,
        action=jnp.array([0, 1]),
        log_prob=jnp.log(jnp.array([0.5, 0.5])),
        value=jnp.array([0.0, 0.0]),
        advantage=jnp.array([3.0, 1.0]),  # normalised: 1 and -1
        target=jnp.array([1.0, 2.0]),
    )
    config = ppo.Config(clip_eps=0.2, ent_coef=0.1, vf_coef=0.5, clip_value=False)
    loss, metrics = ppo.ppo_loss(distrax.Categorical(probs=probability), jnp.array([0.5, 0.5]), batch, config)
    ratio = np.array([1.1, 1.6])
    policy_loss = (-1.1 + 1.6) / 2  # 1.6 is past the clip, yet counts in full where the action was bad
    value_loss = 0.5 * (0.25 + 2.25) / 2
    entropy = -(probability * np.log(probability)).sum() / 2
    assert metrics["policy_loss"] == pytest.approx(policy_loss, abs=1e-6)
    assert metrics["value_loss"] == pytest.approx(value_loss)
    assert metrics["entropy"] == pytest.approx(entropy)
    assert metrics["approx_kl"] == pytest.approx((ratio - 1 - np.log(ratio)).mean(), abs=1e-6)
    assert metrics["clip_fraction"] == pytest.approx(0.5)
    assert loss == pytest.approx(policy_loss + 0.5 * value_loss - 0.1 * entropy, abs=1e-6)


def test_ppo_loss_takes_other_objectives():
    batch = ppo.Batch(None, jnp.array([0, 1]), jnp.zeros(2), jnp.zeros(2), jnp.array([1.0, -1.0]), jnp.ones(2))
    distribution = distrax.Categorical(logits=jnp.zeros((2, 2)))
    _, metrics = ppo.ppo_loss(
        distribution,
        jnp.zeros(2),
        batch,
        ppo.Config(),
        policy_objective=lambda ratio, advantage, config: 7.0 * jnp.ones_like(ratio),
        value_objective=lambda value, target, old_value, config: 3.0 * target,
    )
    assert metrics["policy_loss"] == 7.0 and metrics["value_loss"] == 3.0


def test_running_stats_equal_those_of_all_samples():
    rng = np.random.default_rng(1)
    batches = [rng.normal(5.0, 3.0, size=(n, 2)).astype(np.float32) for n in (10, 300, 50)]
    stats = ppo.init_stats((2,))
    for batch in batches:
        stats = ppo.update_stats(stats, jnp.asarray(batch))
    everything = np.concatenate(batches)
    np.testing.assert_allclose(stats.mean, everything.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(stats.var, everything.var(axis=0), rtol=1e-3)
    assert stats.count == pytest.approx(360, rel=1e-5)


def test_normalize_clips_to_ten():
    stats = ppo.RunningStats(jnp.array([1.0]), jnp.array([4.0]), jnp.array(1.0))
    np.testing.assert_allclose(ppo.normalize(jnp.array([[3.0], [1000.0], [-1000.0]]), stats)[:, 0], [1.0, 10.0, -10.0])


def test_discounted_sums_keep_an_episodes_last_reward():
    reward = jnp.array([[1.0], [2.0], [4.0], [8.0]])
    done = jnp.array([[False], [True], [False], [False]])
    sums, carried = ppo.discounted_sums(reward, done, jnp.array([10.0]), 0.5)
    np.testing.assert_allclose(sums[:, 0], [6.0, 5.0, 4.0, 10.0])  # 2 is in the sum of its episode, then a new one
    np.testing.assert_allclose(carried, [10.0])


def test_gaussian_head_has_the_density_of_its_formula():
    network = ppo.make_network(ppo.Config(env_id="Pendulum-v1"))
    params = network.init(jax.random.key(0), jnp.zeros(3))
    params["params"]["log_std"] = jnp.array([0.5])
    distribution, _ = network.apply(params, jnp.ones((4, 3)))
    mean, std = distribution.mode()[:, 0], math.exp(0.5)
    expected = -0.5 * ((0.3 - mean) / std) ** 2 - 0.5 - 0.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(distribution.log_prob(jnp.full((4, 1), 0.3)), expected, rtol=1e-5)
    np.testing.assert_allclose(distribution.entropy(), 0.5 + 0.5 * math.log(2 * math.pi * math.e), rtol=1e-5)


def test_initialisation_has_the_standard_gains():
    config = ppo.Config()
    params = ppo.make_network(config).init(jax.random.key(0), jnp.zeros(4))["params"]
    for name, last_gain in (("actor", 0.01), ("critic", 1.0)):
        kernels = [layer["kernel"] for layer in params[name].values()]
        biases = [layer["bias"] for layer in params[name].values()]
        assert [k.shape for k in kernels] == [(4, 64), (64, 64), (2 if name == "actor" else 1, 64)]
        gains = [float(np.linalg.svd(k, compute_uv=False).max()) for k in kernels]
        np.testing.assert_allclose(gains, [math.sqrt(2), math.sqrt(2), last_gain], rtol=1e-4)
        assert all((b == 0).all() for b in biases)


@pytest.mark.parametrize("level", [0.0, 0.1, -37.3, 1e4])
def test_equal_advantages_are_none(level):
    """Their mean is rounded, and dividing that rounding error by itself would give advantages of 1."""
    batch = ppo.Batch(None, jnp.zeros(48, jnp.int32), jnp.zeros(48), jnp.zeros(48), jnp.full(48, level), jnp.zeros(48))
    distribution = distrax.Categorical(logits=jnp.zeros((48, 2)))
    seen = []

    def policy_objective(ratio, advantage, config):
        seen.append(advantage)
        return ratio * advantage

    ppo.ppo_loss(distribution, jnp.zeros(48), batch, ppo.Config(), policy_objective=policy_objective)
    assert (seen[0] == 0).all()
    spread = batch._replace(advantage=level + 1e-3 * max(abs(level), 1.0) * jnp.arange(48.0))
    ppo.ppo_loss(distribution, jnp.zeros(48), spread, ppo.Config(), policy_objective=policy_objective)
    assert float(seen[1].std()) == pytest.approx(1.0, abs=1e-3)

"""network = cnn: the convolution against flax's own, that it learns, and that images only are taken."""

from dataclasses import replace

import flax.linen as nn
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import probes  # noqa: F401 - registers some
import pytest

import dqn
import evolve_policy
import ppo
import ppo_rnn
import pqn

SMALL = {
    "ppo": ppo.Config("Images-probe", total_timesteps=256, num_envs=4, num_steps=32, hidden_size=8, network="cnn"),
    "dqn": dqn.Config(
        "Images-probe", total_timesteps=400, learning_starts=100, log_frequency=100, buffer_size=200, batch_size=8,
        hidden_size=8, last_hidden_size=8, network="cnn",
    ),
    "ppo_rnn": ppo_rnn.Config(
        "Images-probe", total_timesteps=256, num_envs=4, num_steps=32, embedding_size=8, hidden_size=8,
        network="cnn",
    ),
    "pqn": pqn.Config("Images-probe", total_timesteps=256, num_envs=4, num_steps=32, hidden_size=8, network="cnn"),
    "evolve_policy": evolve_policy.Config(
        "Images-probe", generations=4, population=4, episodes_per_candidate=2, hidden_size=8, network="cnn",
    ),
}  # fmt: skip
SCRIPTS = {"ppo": ppo, "ppo_rnn": ppo_rnn, "dqn": dqn, "pqn": pqn, "evolve_policy": evolve_policy}


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("name", SCRIPTS)
def test_convolution_is_flaxs_own(name, size):
    """The same kernel, given as (size, size, channels, filters) there and as one matrix of patches here."""
    obs = jax.random.uniform(jax.random.key(0), (2, 5, 7 * 6 * 4))  # not square: rows and columns can't be swapped
    layer = SCRIPTS[name].Convolution((7, 6, 4), size)
    params = layer.init(jax.random.key(1), obs)["params"]["Dense_0"]
    params = {"kernel": params["kernel"], "bias": jnp.linspace(-0.1, 0.1, 16)}
    theirs = {"kernel": params["kernel"].reshape(size, size, 4, 16), "bias": params["bias"]}
    image = obs.reshape(2, 5, 7, 6, 4)
    expected = nn.relu(nn.Conv(16, (size, size), padding="VALID").apply({"params": theirs}, image)).reshape(2, 5, -1)
    np.testing.assert_allclose(layer.apply({"params": {"Dense_0": params}}, obs), expected, atol=1e-5)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_parameter_of_a_cnn_is_trained(name):
    train = SCRIPTS[name].make_train(SMALL[name])
    first = jax.jit(lambda key: train(key, num_updates=0)[0].params)(jax.random.key(0))
    state, metrics = jax.jit(train)(jax.random.key(0))
    moved = jax.tree.map(lambda x, y: float(jnp.abs(x - y).max()), first, state.params)
    assert all(distance > 0 for distance in jax.tree.leaves(moved)), moved
    assert np.isfinite(metrics.get("grad_norm", metrics["episode_return"])).all()
    kernels = [x.shape for x in jax.tree.leaves(state.params) if x.shape == (36, 16)]
    assert len(kernels) == (2 if name == "ppo" else 1)  # an actor and a critic that share nothing, or one network


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_unknown_network_trains_nothing_else(name):
    with pytest.raises(KeyError, match="rnn"):
        SCRIPTS[name].make_network(replace(SMALL[name], network="rnn"))


def test_the_image_is_what_the_environment_shows():
    for env_id in (e for e in gymnax.registered_envs if e.endswith("-MinAtar")):
        env, env_params = gymnax.make(env_id)
        obs, _ = env.reset(jax.random.key(0), env_params)
        assert ppo.make_network(replace(SMALL["ppo"], env_id=env_id)).image_shape == obs.shape
        flat = ppo.make_env(env_id, "")[0].reset(jax.random.key(0), env_params)[0]
        np.testing.assert_array_equal(flat.reshape(obs.shape), obs)


def test_a_memory_sees_images_through_filters_of_either_size():
    config = replace(SMALL["ppo_rnn"], kernel_size=5)
    state, _ = jax.jit(lambda key: ppo_rnn.make_train(config)(key, num_updates=1))(jax.random.key(0))
    assert state.params["params"]["convolution"]["Dense_0"]["kernel"].shape == (5 * 5 * 4, 16)
    # The rollout goes one step at a time, the learning pass over whole sequences: both must see the same
    assert state.params["params"]["embedding"]["kernel"].shape == (6 * 6 * 16, 8)

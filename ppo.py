"""Proximal Policy Optimisation (Schulman et al. 2017, arXiv:1707.06347) in one file and one JAX program.

    python ppo.py                                    # 16 seeds of CartPole-v1 at once
    python ppo.py --env-id Acrobot-v1 --sweep "lr=1e-4,3e-4,1e-3" --num-seeds 8

The whole run (environment, rollout, advantage, update) is the pure function `train(key)` made by `make_train(config)`:
`jit` it for one agent, `vmap` it over keys for many seeds, or over any float field of Config for a grid.
A field of Config is a flag, a field of TrainState is kept in checkpoints, a key of metrics is a column of metrics.csv.
The details that make PPO work are numbered after Huang et al. 2022, "The 37 Implementation Details of PPO"
(https://iclr-blog-track.github.io/2022/03/25/ppo-implementation-details/): G = general, C = continuous actions.

Shapes: T = num_steps, N = num_envs, B = N * T / num_minibatches (a minibatch), D = flattened observation, A = action.
"""

import ast
import functools
import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import chex
import distrax
import flax.linen as nn
import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.linen.initializers import orthogonal
from gymnax.environments import spaces
from gymnax.wrappers.purerl import FlattenObservationWrapper, GymnaxWrapper, LogWrapper


# --- Config -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Config:
    """Every field is a flag. Floats may be traced arrays, all else is static. Defaults: CleanRL's for CartPole-v1."""

    env_id: str = "CartPole-v1"  # any gymnax environment with Box observations
    env_params: str = ""  # changes to the environment's own parameters, as in "gravity=20,max_steps_in_episode=200"
    total_timesteps: int = 500_000  # env steps over all envs of one agent; cut to whole updates
    num_envs: int = 4  # N, environments stepped in parallel by one agent
    num_steps: int = 128  # T, steps per environment and update
    num_minibatches: int = 4  # minibatches per epoch; must divide num_envs * num_steps
    update_epochs: int = 4  # passes over the rollout per update
    lr: float = 2.5e-4  # learning rate of Adam
    anneal_lr: bool = True  # lower lr linearly to 0 over the run
    gamma: float = 0.99  # discount
    gae_lambda: float = 0.95  # GAE's bias (0) against variance (1)
    clip_eps: float = 0.2  # the probability ratio is clipped to 1 +- this; with clip_value the value's change, too
    clip_value: bool = True  # clip the value loss as well as the policy loss
    ent_coef: float = 0.01  # weight of the entropy bonus; continuous control mostly wants 0
    vf_coef: float = 0.5  # weight of the value loss
    max_grad_norm: float = 0.5  # gradients are clipped to this global norm
    network: Literal["mlp", "cnn"] = "mlp"  # cnn: a 3x3 convolution before the hidden layers, for MinAtar's images
    activation: Literal["tanh", "relu"] = "tanh"  # of the hidden layers
    hidden_size: int = 64  # width of the two hidden layers of the actor and of the critic
    normalize_obs: bool = False  # running normalisation of observations, clipped to +-10; for continuous control
    action_std: float = 1.0  # std of continuous actions at the start, in their own units; before tanh if squash_actions
    squash_actions: bool = False  # continuous actions go through tanh into their bounds, and are not cut off at them
    scale_reward: bool = False  # divide rewards by the running std of the return, clip to +-10; where returns are large

    def __post_init__(self):
        for field in fields(self):
            if field.type in (int, bool) and isinstance(getattr(self, field.name), jax.core.Tracer):
                raise TypeError(f"{field.name} shapes the program, so vmap can't vary it: train once for each value")
        size, count = self.steps_per_update, self.num_minibatches
        if size % count or size < 2 * count:  # advantages are normalised per minibatch: one sample alone would become 0
            fitting = [m for m in range(1, min(count, size // 2) + 1) if size % m == 0]
            raise ValueError(
                f"num_envs * num_steps = {size} can't be cut into num_minibatches = {count} equal parts of 2 samples"
                f" or more: use {f'num_minibatches = {fitting[-1]}' if fitting else 'a larger num_steps'}"
            )
        if self.num_updates < 1:
            raise ValueError(
                f"total_timesteps = {self.total_timesteps} is less than one update, num_envs * num_steps = {size}"
                f" env steps, so nothing would be trained: use at least {size}"
            )

    @property
    def steps_per_update(self):
        return self.num_envs * self.num_steps

    @property
    def num_updates(self):
        return self.total_timesteps // self.steps_per_update


# --- Algorithm --------------------------------------------------------------------------------------------------------
def gae(reward, value, next_value, terminated, done, gamma, gae_lambda):
    """Generalised advantage estimation (G5; Schulman et al. 2016, arXiv:1506.02438, eq. 16), cut where episodes end.

    A_t = delta_t + gamma * lambda * (1 - done_t) * A_{t+1} with
    delta_t = r_t + gamma * (1 - terminated_t) * V(next observation_t) - V(observation_t).
    A time limit (done, not terminated) cuts the sum yet bootstraps: the world would have gone on (Pardo et al. 2018).

    Args: reward, value, terminated, done: (T, ...); next_value: (T, ...), V of the observation that the action led to,
    which at an episode's end is its final observation and not the next episode's first; gamma, gae_lambda: scalars.
    Returns: advantage (T, ...), in units of reward.
    """
    chex.assert_equal_shape([reward, value, next_value, terminated, done])
    delta = reward + gamma * (1.0 - terminated) * next_value - value
    decay = gamma * gae_lambda * (1.0 - done)

    def step(advantage, delta_and_decay):
        advantage = delta_and_decay[0] + delta_and_decay[1] * advantage
        return advantage, advantage

    return jax.lax.scan(step, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)[1]


def clipped_surrogate(ratio, advantage, config):
    """Policy loss per sample, (B,) (Schulman et al. 2017, eq. 7; G8):

    -min(ratio * advantage, clip(ratio, 1 - clip_eps, 1 + clip_eps) * advantage)
    """
    clipped = jnp.clip(ratio, 1.0 - config.clip_eps, 1.0 + config.clip_eps)
    return -jnp.minimum(ratio * advantage, clipped * advantage)


def clipped_squared_error(value, target, old_value, config):
    """Value loss per sample, (B,): half the squared error, the larger of clipped and unclipped if clip_value (G9)."""
    squared_error = jnp.square(value - target)
    if config.clip_value:
        clipped = old_value + jnp.clip(value - old_value, -config.clip_eps, config.clip_eps)
        squared_error = jnp.maximum(squared_error, jnp.square(clipped - target))
    return 0.5 * squared_error


class Batch(NamedTuple):
    """What the loss sees: (T, N, ...) after the rollout, (B, ...) in a minibatch."""

    obs: jax.Array
    action: jax.Array
    log_prob: jax.Array  # of action, before the update
    value: jax.Array  # before the update
    advantage: jax.Array
    target: jax.Array  # advantage + value, the TD(lambda) return


def ppo_loss(
    distribution, value, batch, config, policy_objective=clipped_surrogate, value_objective=clipped_squared_error
):
    """The loss of one minibatch (Schulman et al. 2017, eq. 9): policy + vf_coef * value - ent_coef * entropy.

    Args: distribution, value (B,): the network's outputs on batch.obs; batch: a Batch with leading axis B;
    policy_objective(ratio, normalised advantage, config), value_objective(value, target, old value, config): (B,) each.
    Returns: loss, a scalar, and its metrics, a dict of scalars.
    """
    log_ratio = distribution.log_prob(batch.action) - batch.log_prob
    ratio = jnp.exp(log_ratio)
    mean, std = batch.advantage.mean(), batch.advantage.std()
    advantage = (batch.advantage - mean) / (std + 1e-8)  # per minibatch (G7)
    advantage = jnp.where(std > 1e-6 * jnp.abs(mean), advantage, 0.0)  # where all are equal, std is a rounding error
    policy_losses = policy_objective(ratio, advantage, config)
    value_losses = value_objective(value, batch.target, batch.value, config)
    chex.assert_equal_shape([value, batch.target, batch.value, advantage, ratio, policy_losses, value_losses])
    policy_loss, value_loss, entropy = policy_losses.mean(), value_losses.mean(), distribution.entropy().mean()
    metrics = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        # Schulman 2020, "Approximating KL divergence", estimator k3 (G12)
        "approx_kl": (ratio - 1.0 - log_ratio).mean(),
        "clip_fraction": (jnp.abs(ratio - 1.0) > config.clip_eps).mean(),
    }
    return policy_loss + config.vf_coef * value_loss - config.ent_coef * entropy, metrics


def random_order(key, count):
    """The numbers from 0 to count - 1 in random order, (count,): each is put behind random bits, then all are sorted.

    On a CPU seven times as fast as jax.random.permutation. Numbers with equal random bits stay in order; that matters
    only where minibatches are small for so many samples, below count**2 / 2**31: 512 for a million samples.
    """
    number_bits = jnp.uint32(2 ** int(count - 1).bit_length() - 1)
    random_bits = jax.random.bits(key, (count,)) & ~number_bits
    return jnp.sort(random_bits | jnp.arange(count, dtype=jnp.uint32)) & number_bits


class RunningStats(NamedTuple):
    mean: jax.Array
    var: jax.Array
    count: jax.Array


def init_stats(shape):
    return RunningStats(jnp.zeros(shape), jnp.ones(shape), jnp.float32(1e-4))  # 1e-4: as gymnasium's RunningMeanStd


def update_stats(stats, batch):
    """Merges a batch (n, ...) into running mean and variance (Chan et al. 1979, parallel algorithm)."""
    batch_mean, batch_var, batch_count = batch.mean(axis=0), batch.var(axis=0), batch.shape[0]
    count = stats.count + batch_count
    delta = batch_mean - stats.mean
    squares = stats.var * stats.count + batch_var * batch_count + delta**2 * stats.count * batch_count / count
    return RunningStats(stats.mean + delta * batch_count / count, squares / count, count)


def normalize(obs, stats):
    """Observation in units of its running std, clipped to +-10 (C6, C7)."""
    return jnp.clip((obs - stats.mean) / jnp.sqrt(stats.var + 1e-8), -10.0, 10.0)


def discounted_sums(reward, done, start, gamma):
    """Running sum S_t = gamma * S_{t-1} + r_t per environment, which starts anew after an episode's last reward.

    Args: reward, done: (T, N); start: (N,), the sum carried over from the last rollout.
    Returns: the sums (T, N), last rewards included, and the sum to carry on with (N,).
    """

    def step(carried, reward_and_done):
        total = gamma * carried + reward_and_done[0]
        return total * (1.0 - reward_and_done[1]), total

    carried, sums = jax.lax.scan(step, start, (reward, done))
    return sums, carried


# --- Network ----------------------------------------------------------------------------------------------------------
class Convolution(nn.Module):
    """(..., D) -> (..., F): 16 filters and relu, over the image that D was (Young & Tian 2019, MinAtar: of 3x3).

    Written as a dense layer over patches: under vmap over members that stays a matrix product, where nn.Conv becomes a
    grouped convolution (8 members of Breakout-MinAtar on 2 cores: 7,100 against 700 env steps/s).
    """

    image_shape: tuple[int, int, int]  # height, width, channels
    kernel_size: int = 3

    @nn.compact
    def __call__(self, obs):
        (height, width, _), at = self.image_shape, range(self.kernel_size)
        image = obs.reshape(*obs.shape[:-1], *self.image_shape)
        patches = [image[..., i : height - at[-1] + i, j : width - at[-1] + j, :] for i in at for j in at]
        filters = nn.Dense(16, kernel_init=orthogonal(math.sqrt(2)))
        return nn.relu(filters(jnp.concatenate(patches, axis=-1))).reshape(*obs.shape[:-1], -1)


def product_of_categoricals(output, num_categories):
    """A distribution over A choices at once, (..., A), the i-th of num_categories[i], from output (..., A * the most).

    The choices are independent, so log_prob and entropy (...) are sums over them.
    """
    logits = output.reshape(*output.shape[:-1], len(num_categories), max(num_categories))
    exists = jnp.arange(max(num_categories)) < jnp.array(num_categories)[:, None]
    return distrax.Independent(distrax.Categorical(logits=jnp.where(exists, logits, -jnp.inf)), 1)


def bounds(space):
    """Lowest and highest action of a Box, (A,) each. Raises ValueError where there is none."""
    low, high = (np.broadcast_to(x, space.shape).reshape(-1) for x in (space.low, space.high))
    if not np.isfinite([low, high]).all():
        raise ValueError("squash_actions needs finite bounds of the actions, and here they are not: leave it out")
    return low, high


class SquashedGaussian(NamedTuple):
    """tanh of a diagonal Gaussian, stretched to a Box's bounds: a distribution over actions (..., A), inside of them.

    As in soft actor-critic (Haarnoja et al. 2018, arXiv:1801.01290, appendix C). A Beta has bounds too (Chou et al.
    2017), but to draw from it, by rejection, takes a hundred times as long on a CPU.
    """

    mean: jax.Array  # (..., A), before tanh, as is std
    std: jax.Array
    low: jax.Array  # (A,), as is high
    high: jax.Array

    def gaussian(self):
        return distrax.MultivariateNormalDiag(self.mean, self.std)

    def squash(self, x):
        return self.low + (self.high - self.low) * (0.5 + 0.5 * jnp.tanh(x))

    def log_slope(self, x):
        """log of d squash / dx, (..., A), without the rounding of 1 - tanh(x)**2 where x is large."""
        return jnp.log(0.5 * (self.high - self.low)) + 2.0 * (math.log(2.0) - x - nn.softplus(-2.0 * x))

    def sample(self, seed):
        return self.squash(self.gaussian().sample(seed=seed))

    def mode(self):
        return self.squash(self.mean)  # the median; where the density is highest is known in no closed form

    def log_prob(self, action):
        """(...,). An action that tanh rounded to a bound counts as the nearest float inside, at 8.7 before tanh."""
        position = 2.0 * (action - self.low) / (self.high - self.low) - 1.0
        x = jnp.arctanh(jnp.clip(position, -1.0 + 6e-8, 1.0 - 6e-8))
        return self.gaussian().log_prob(x) - self.log_slope(x).sum(axis=-1)

    def entropy(self):
        """(...,): the Gaussian's and the mean of log_slope, an integral, by Gauss and Hermite's rule."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(16)
        slopes = jax.vmap(self.log_slope, -1, -1)(self.mean[..., None] + self.std[..., None] * nodes.astype(np.float32))
        return self.gaussian().entropy() + (slopes @ (weights / weights.sum()).astype(np.float32)).sum(axis=-1)


def only_legal(values, obs, num_masked):
    """Values of actions (..., A), -inf where illegal: where the last num_masked entries of obs are 0 and not 1."""
    if not num_masked:
        return values
    legal = obs[..., -num_masked:] > 0
    return jnp.where(legal | ~legal.any(axis=-1, keepdims=True), values, -jnp.inf)  # where none is, nothing is chosen


class ActorCritic(nn.Module):
    """An actor and a critic that share nothing (G13; advised by Andrychowicz et al. 2021, arXiv:2006.05990)."""

    action_space: Any  # Discrete, a Box, or MultiDiscrete: several choices at once
    hidden_size: int
    activation: str
    image_shape: tuple[int, int, int] | None = None  # a convolution comes first if given
    num_masked: int = 0  # last entries of an observation, which say what is legal
    action_std: float = 1.0  # of continuous actions
    squash_actions: bool = False  # a SquashedGaussian in place of a Gaussian

    def setup(self):
        space, discrete = self.action_space, not isinstance(self.action_space, spaces.Box)
        choices = getattr(space, "num_categories", None)  # of MultiDiscrete
        action_dim = len(choices) * max(choices) if choices else space.n if discrete else math.prod(space.shape)
        # Orthogonal weights and zero biases; a small last gain keeps the first policy near uniform (G2)
        self.actor = nn.Sequential([*self.hidden_layers(), self.head(action_dim, 0.01)])
        self.critic = nn.Sequential([*self.hidden_layers(), self.head(1, 1.0)])
        initial = nn.initializers.constant(jnp.log(self.action_std))
        self.log_std = None if discrete else self.param("log_std", initial, (action_dim,))  # C2

    def hidden_layers(self):
        activation = {"tanh": nn.tanh, "relu": nn.relu}[self.activation]
        first = [Convolution(self.image_shape)] if self.image_shape else []
        dense = [nn.Dense(self.hidden_size, kernel_init=orthogonal(math.sqrt(2))) for _ in range(2)]
        return [*first, dense[0], activation, dense[1], activation]

    def head(self, size, gain):
        """A dense layer whose weights are stored as (outputs, inputs): on a CPU 7 % more env steps/s."""
        return nn.Einsum((size, self.hidden_size), "...i,oi->...o", kernel_init=orthogonal(gain, column_axis=0))

    def __call__(self, obs):
        """obs (..., D) -> the policy, a distribution over actions, and the value (...).

        The policy is Categorical, a product of these where there are several choices at once, or a diagonal Gaussian
        whose std does not depend on the observation (C1 to C3).
        """
        output, value = self.actor(obs), self.critic(obs).squeeze(-1)
        if hasattr(self.action_space, "num_categories"):
            return product_of_categoricals(output, self.action_space.num_categories), value
        if self.log_std is None:
            output = only_legal(output, obs, self.num_masked)
            return distrax.Categorical(logits=output), value
        std = jnp.broadcast_to(jnp.exp(self.log_std), output.shape)
        if self.squash_actions:
            return SquashedGaussian(output, std, *bounds(self.action_space)), value
        return distrax.MultivariateNormalDiag(output, std), value


def make_network(config):
    env, env_params = make_env(config.env_id, config.env_params)
    shape = env._env._env.observation_space(env_params).shape  # inside LogWrapper and FlattenObservationWrapper
    image = {"mlp": None, "cnn": shape}[config.network]
    with jax.ensure_compile_time_eval():  # bounds are numbers, also where all this is inside of a jit
        action_space = env.action_space(env_params)
    num_masked, head = getattr(env, "num_masked", 0), (config.action_std, config.squash_actions)
    return ActorCritic(action_space, config.hidden_size, config.activation, image, num_masked, *head)


# --- Training ---------------------------------------------------------------------------------------------------------
class TrainState(NamedTuple):
    """Everything that one update hands to the next; exactly what a checkpoint holds."""

    params: Any
    opt_state: Any
    obs_stats: RunningStats  # of observations, (D,) less a mask; used and updated if normalize_obs
    return_stats: RunningStats  # of discounted sums of rewards, (); used and updated if scale_reward
    discounted_sum: jax.Array  # (N,), of rewards of the episode under way
    env_state: Any
    obs: jax.Array  # (N, D)
    episode_return: jax.Array  # the last known value of the metric, NaN before the first episode's end
    episode_length: jax.Array
    num_updates: jax.Array  # updates done so far
    key: jax.Array


class Transition(NamedTuple):
    """One step of the rollout; stacked to (T, N, ...)."""

    obs: jax.Array
    action: jax.Array  # as sampled: the environment clips it to its bounds
    reward: jax.Array
    terminated: jax.Array  # the episode ended by itself: its future is worth 0
    done: jax.Array  # terminated or cut by the time limit
    info: dict  # gymnax's: final_observation (D,), to which the action led; returned_episode_returns, _lengths


def make_policy(config, network_fn=make_network):
    """Returns (init_carry, act), used alike in training, evaluation and rendering.

    init_carry(num_envs) is the policy's memory at an episode's start: none here.
    act(state, carry, obs (..., D), key, greedy) -> (carry, action (...) or (..., A)); state needs params and obs_stats;
    greedy, a bool or a traced one, takes the most likely action instead of a sample.
    """
    network = network_fn(config)

    def init_carry(num_envs):
        return ()

    def act(state, carry, obs, key, greedy):
        distribution, _ = network.apply(state.params, preprocess(config, state.obs_stats, obs))
        return carry, jnp.where(greedy, distribution.mode(), distribution.sample(seed=key))

    return init_carry, act


def preprocess(config, obs_stats, obs):
    """What the network sees of observations (..., D). A mask at their end has no statistics and stays as it is."""
    obs, size = obs.astype(jnp.float32), len(obs_stats.mean)
    if not config.normalize_obs:
        return obs
    return jnp.concatenate([normalize(obs[..., :size], obs_stats), obs[..., size:]], axis=-1)


def make_train(config, loss_fn=ppo_loss, network_fn=make_network):
    """Returns train(key, state=None, num_updates=config.num_updates) -> (state, metrics): pure, made for jit and vmap.

    metrics: a dict of scalars per update, each (num_updates,). From a given state training goes on and key is not used.
    With anneal_lr it learns nothing more after config.num_updates updates: the learning rate is 0 from there on.
    loss_fn(distribution, value, batch, config) -> (loss, metrics), see ppo_loss.
    network_fn(config) -> a flax module with obs (..., D) -> (distribution, value (...)), see ActorCritic.
    """
    env, env_params = make_env(config.env_id, config.env_params)
    network = network_fn(config)
    init_carry, act = make_policy(config, network_fn)

    def learning_rate(num_minibatch_updates):
        done_updates = num_minibatch_updates // (config.num_minibatches * config.update_epochs)
        left = jnp.maximum(0.0, 1.0 - done_updates / config.num_updates)  # G4; 0 also for updates past the planned end
        return config.lr * (left if config.anneal_lr else 1.0)

    optimizer = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),  # G11
        optax.adam(learning_rate, eps=1e-5),  # G3
    )

    def init(key):
        key, params_key, env_key = jax.random.split(key, 3)
        obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(env_key, config.num_envs), env_params)
        params = network.init(params_key, obs[0].astype(jnp.float32))
        return TrainState(
            params=params,
            opt_state=optimizer.init(params),
            obs_stats=init_stats((obs.shape[1] - getattr(env, "num_masked", 0),)),
            return_stats=init_stats(()),
            discounted_sum=jnp.zeros(config.num_envs),
            env_state=env_state,
            obs=obs,
            episode_return=jnp.float32(jnp.nan),
            episode_length=jnp.float32(jnp.nan),
            num_updates=jnp.int32(0),
            key=key,
        )

    def env_step(state, key):
        action_key, env_key = jax.random.split(key)
        _, action = act(state, init_carry(config.num_envs), state.obs, action_key, greedy=False)
        obs, env_state, reward, terminated, truncated, info = jax.vmap(env.step, (0, 0, 0, None))(
            jax.random.split(env_key, config.num_envs), state.env_state, action, env_params
        )
        reward, done = reward.astype(jnp.float32), terminated | truncated
        transition = Transition(state.obs, action, reward, terminated, done, info)
        return state._replace(env_state=env_state, obs=obs), transition

    def learning_reward(state, rollout):
        """State and the rewards (T, N) to learn from: the environment's, scaled if scale_reward (C8, C9)."""
        if not config.scale_reward:
            return state, rollout.reward
        sums, discounted_sum = discounted_sums(rollout.reward, rollout.done, state.discounted_sum, config.gamma)
        return_stats = update_stats(state.return_stats, sums.reshape(-1))
        reward = jnp.clip(rollout.reward / jnp.sqrt(return_stats.var + 1e-8), -10.0, 10.0)
        return state._replace(discounted_sum=discounted_sum, return_stats=return_stats), reward

    def make_batch(state, rollout, reward):
        """The rollout with values and log-probabilities of the network that acted, and advantages."""
        obs = preprocess(config, state.obs_stats, rollout.obs)
        distribution, value = network.apply(state.params, obs)
        final_obs = preprocess(config, state.obs_stats, rollout.info["final_observation"])
        _, next_value = network.apply(state.params, final_obs)
        advantage = gae(reward, value, next_value, rollout.terminated, rollout.done, config.gamma, config.gae_lambda)
        return Batch(
            obs=obs,
            action=rollout.action,
            log_prob=distribution.log_prob(rollout.action),
            value=value,
            advantage=advantage,
            target=advantage + value,
        )

    def minibatch_loss(params, batch):
        return loss_fn(*network.apply(params, batch.obs), batch, config)

    def update_minibatch(learner, batch):
        params, opt_state = learner
        grads, metrics = jax.grad(minibatch_loss, has_aux=True)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        metrics |= {"grad_norm": optax.tree.norm(grads)}  # before clipping
        return (optax.apply_updates(params, updates), opt_state), metrics

    def update_epoch(batch, learner, key):
        order = random_order(key, config.steps_per_update)  # G6
        minibatches = jax.tree.map(  # (N * T, ...) -> (num_minibatches, B, ...)
            lambda x: x[order].reshape(config.num_minibatches, -1, *x.shape[1:]), batch
        )
        return jax.lax.scan(update_minibatch, learner, minibatches)

    def update(state, _):
        key, rollout_key, shuffle_key = jax.random.split(state.key, 3)
        state, rollout = jax.lax.scan(env_step, state, jax.random.split(rollout_key, config.num_steps))
        state, reward = learning_reward(state, rollout)
        batch = make_batch(state, rollout, reward)

        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)  # (T, N, ...) -> (N * T, ...)
        learner = (state.params, state.opt_state)  # what a minibatch changes
        epoch_keys = jax.random.split(shuffle_key, config.update_epochs)
        (params, opt_state), metrics = jax.lax.scan(functools.partial(update_epoch, flat), learner, epoch_keys)
        metrics = jax.tree.map(jnp.mean, metrics)  # over epochs and minibatches

        if config.normalize_obs:  # for the next rollout: within an update, acting and learning see the same numbers
            flat_obs = rollout.obs.reshape(config.steps_per_update, -1)[:, : len(state.obs_stats.mean)]
            state = state._replace(obs_stats=update_stats(state.obs_stats, flat_obs))
        state = state._replace(
            params=params,
            opt_state=opt_state,
            episode_return=mean_of_ended(rollout.info["returned_episode_returns"], rollout.done, state.episode_return),
            episode_length=mean_of_ended(rollout.info["returned_episode_lengths"], rollout.done, state.episode_length),
            num_updates=state.num_updates + 1,
            key=key,
        )
        metrics |= {
            "episode_return": state.episode_return,
            "episode_length": state.episode_length,
            "episode_count": rollout.done.sum(),  # by it, returns of several updates weigh in their mean
            "env_steps": state.num_updates * config.steps_per_update,
            "explained_variance": 1.0 - (batch.target - batch.value).var() / (batch.target.var() + 1e-8),
            "value_mean": batch.value.mean(),
        }
        return state, metrics

    def train(key, state=None, num_updates=config.num_updates):
        with jax.enable_x64(False):  # gymnax's environments would mix 32 and 64 bits
            state = init(key) if state is None else state
            return jax.lax.scan(update, state, None, length=num_updates)

    return train


def mean_of_ended(x, done, otherwise):
    """Mean of x over the steps that ended an episode; `otherwise` where none did."""
    return jnp.where(done.any(), (x * done).sum() / jnp.maximum(done.sum(), 1), otherwise)


# --- Environment ------------------------------------------------------------------------------------------------------
class ClipActionWrapper(GymnaxWrapper):
    """Clips actions to the environment's bounds (C5). The agent keeps its action as sampled: the ratio is of that."""

    def step(self, key, state, action, params=None):
        space = self._env.action_space(params)
        return self._env.step(key, state, jnp.clip(action.reshape(space.shape), space.low, space.high), params)


@functools.cache  # gymnax environments compare by identity: a second instance would compile everything again
def make_env(env_id, changes=""):
    """Returns (env, env_params) with observations flattened to (D,) and episode returns logged in `info`.

    changes: to env_params, as in Config. Raises ValueError for actions not Discrete, MultiDiscrete or a Box.
    """
    with jax.ensure_compile_time_eval():  # the cache must not keep a tracer where the first call is inside a jit
        env, env_params = gymnax.make(env_id)
    for name, text in (change.split("=") for change in changes.split(",") if change):
        name, kind = name.strip(), type(getattr(env_params, name.strip()))
        env_params = replace(env_params, **{name: kind(ast.literal_eval(text.strip().capitalize()))})  # "true" is True
    action_space = env.action_space(env_params)
    if not (isinstance(action_space, (spaces.Discrete, spaces.Box)) or hasattr(action_space, "num_categories")):
        raise ValueError(
            f"env_id {env_id!r} acts in {action_space}, which no script here can: Discrete, MultiDiscrete or Box only"
        )
    env = ClipActionWrapper(env) if isinstance(action_space, spaces.Box) else env
    return LogWrapper(FlattenObservationWrapper(env)), env_params


if __name__ == "__main__":
    from runner import main

    main(__file__, Config, make_env, make_train, make_policy)

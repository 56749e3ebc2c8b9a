"""Parallelised Q-network (PQN; Gallici et al. 2024, arXiv:2407.04811) in one file and one JAX program.

    python pqn.py                                    # 16 seeds of CartPole-v1 at once
    python pqn.py --env-id Acrobot-v1 --sweep "lambda_=0,0.65,0.95" --num-seeds 8

Deep Q-learning on the newest rollout of many environments: no replay buffer and no target network, layer norm instead.
The whole run (environment, rollout, return, update) is the pure function `train(key)` made by `make_train(config)`:
`jit` it for one agent, `vmap` it over keys for many seeds, or over any float field of Config for a grid.
A field of Config is a flag, a field of TrainState is kept in checkpoints, a key of metrics is a column of metrics.csv.

Shapes: T = num_steps, N = num_envs, B = N * T / num_minibatches (a minibatch), D = flattened observation, A = actions.
"""

import ast
import functools
import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import chex
import flax.linen as nn
import gymnax
import jax
import jax.numpy as jnp
import optax
from flax.linen.initializers import orthogonal
from gymnax.environments import spaces
from gymnax.wrappers.purerl import FlattenObservationWrapper, LogWrapper


# --- Config -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Config:
    """Every field is a flag. Floats may be traced arrays, all else is static. Chosen on CartPole-v1."""

    env_id: str = "CartPole-v1"  # any gymnax environment with Box observations and Discrete actions
    env_params: str = ""  # changes to the environment's own parameters, as in "gravity=20,max_steps_in_episode=200"
    total_timesteps: int = 500_000  # env steps over all envs of one agent; cut to whole updates
    num_envs: int = 32  # N, environments stepped in parallel by one agent
    num_steps: int = 32  # T, steps per environment and update
    num_minibatches: int = 4  # minibatches per epoch; must divide num_envs * num_steps
    update_epochs: int = 4  # passes over the rollout per update
    lr: float = 1e-3  # learning rate of RAdam
    anneal_lr: bool = True  # lower lr linearly to 0 over the run
    gamma: float = 0.99  # discount
    lambda_: float = 0.65  # bootstrap at each step (0), or at the end of episode or rollout only (1)
    start_e: float = 1.0  # epsilon, the share of random actions, at the start
    end_e: float = 0.05  # epsilon at the end of the exploration
    exploration_fraction: float = 0.5  # of total_timesteps, over which epsilon falls linearly
    max_grad_norm: float = 10.0  # gradients are clipped to this global norm
    network: Literal["mlp", "cnn"] = "mlp"  # cnn: a 3x3 convolution before the hidden layers, for MinAtar's images
    layer_norm: bool = True  # before each relu of the hidden layers; it stands in for the target network
    hidden_size: int = 128  # width of the two hidden layers

    def __post_init__(self):
        for field in fields(self):
            if field.type in (int, bool) and isinstance(getattr(self, field.name), jax.core.Tracer):
                raise TypeError(f"{field.name} shapes the program, so vmap can't vary it: train once for each value")
        size, count = self.steps_per_update, self.num_minibatches
        if size % count:
            fitting = next(m for m in range(min(count, size), 0, -1) if size % m == 0)
            cut = f"num_envs * num_steps = {size} can't be cut into num_minibatches = {count} equal parts"
            raise ValueError(f"{cut}: use num_minibatches = {fitting}")
        if self.num_updates < 1:
            short = f"total_timesteps = {self.total_timesteps} is less than one update, num_envs * num_steps = {size}"
            raise ValueError(f"{short} env steps, so nothing would be trained: use at least {size}")

    @property
    def steps_per_update(self):
        return self.num_envs * self.num_steps

    @property
    def num_updates(self):
        return self.total_timesteps // self.steps_per_update


# --- Algorithm --------------------------------------------------------------------------------------------------------
def lambda_return(reward, next_value, terminated, done, gamma, lambda_):
    """Peng's Q(lambda) (Gallici et al. 2024; Daley & Amato 2019, arXiv:1810.09967), cut where episodes end.

    G_t = r_t + gamma * (1 - terminated_t) * ((1 - lambda) * max_a Q(s'_t, a) + lambda * G_{t+1}) with s'_t the state
    that step t led to, and max_a Q(s'_t, a) in place of G_{t+1} at the last step of an episode and of the rollout.
    So a time limit (done, not terminated) bootstraps: the world would have gone on (Pardo et al. 2018).

    Args: reward, terminated, done: (T, ...); next_value: (T, ...), max_a Q of the observation that the action led to,
    which at an episode's end is its final observation and not the next episode's first; gamma, lambda_: scalars.
    Returns: G (T, ...), the target of Q(s_t, a_t).
    """
    chex.assert_equal_shape([reward, next_value, terminated, done])

    def step(following, x):
        reward, next_value, terminated, done = x
        following = jnp.where(done, next_value, following)
        target = reward + gamma * (1.0 - terminated) * ((1.0 - lambda_) * next_value + lambda_ * following)
        return target, target

    return jax.lax.scan(step, next_value[-1], (reward, next_value, terminated, done), reverse=True)[1]


class Batch(NamedTuple):
    """What the loss sees: (T, N, ...) after the rollout, (B, ...) in a minibatch."""

    obs: jax.Array
    action: jax.Array
    target: jax.Array  # the lambda-return, of the network before the update


def pqn_loss(q, batch, config):
    """Mean squared error between Q (B, A) at the actions taken and batch.target (Gallici et al. 2024).

    Returns: loss, a scalar, and its metrics, a dict of scalars.
    """
    chex.assert_equal_shape([q[..., 0], batch.action, batch.target])
    value = jnp.take_along_axis(q, batch.action[:, None], axis=-1)[:, 0]
    loss = jnp.mean(jnp.square(value - batch.target))
    return loss, {"q_loss": loss, "q_mean": value.mean()}


def linear_epsilon(env_steps, config):
    """Share of random actions after env_steps of the run (Mnih et al. 2015, Methods): linear, then constant."""
    length = jnp.maximum(config.exploration_fraction * config.total_timesteps, 1.0)
    return config.start_e + (config.end_e - config.start_e) * jnp.minimum(env_steps / length, 1.0)


def random_order(key, count):
    """The numbers from 0 to count - 1 in random order, (count,): sorted by random bits before them; ppo.py has more."""
    number_bits = jnp.uint32(2 ** int(count - 1).bit_length() - 1)
    random_bits = jax.random.bits(key, (count,)) & ~number_bits
    return jnp.sort(random_bits | jnp.arange(count, dtype=jnp.uint32)) & number_bits


# --- Network ----------------------------------------------------------------------------------------------------------
class Convolution(nn.Module):
    """(..., D) -> (..., F): 16 filters and relu, over the image that D was (Young & Tian 2019, MinAtar: of 3x3).
    A dense layer over patches: under vmap that stays a matrix product, ten times as fast on a CPU as nn.Conv would be.
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


class QNetwork(nn.Module):
    """(..., D) -> (..., A), the expected discounted return of each action."""

    num_actions: int
    hidden_size: int
    layer_norm: bool = True
    image_shape: tuple[int, int, int] | None = None  # a convolution comes first if given

    @nn.compact
    def __call__(self, obs):
        x = obs.astype(jnp.float32)
        x = Convolution(self.image_shape)(x) if self.image_shape else x
        for _ in range(2):
            x = nn.Dense(self.hidden_size)(x)
            x = nn.relu(nn.LayerNorm()(x) if self.layer_norm else x)
        return nn.Dense(self.num_actions)(x)


def make_network(config):
    env, env_params = make_env(config.env_id, config.env_params)
    shape = env._env._env.observation_space(env_params).shape  # inside LogWrapper and FlattenObservationWrapper
    image = {"mlp": None, "cnn": shape}[config.network]
    return QNetwork(env.action_space(env_params).n, config.hidden_size, config.layer_norm, image)


# --- Training ---------------------------------------------------------------------------------------------------------
class TrainState(NamedTuple):
    """Everything that one update hands to the next; exactly what a checkpoint holds."""

    params: Any
    opt_state: Any
    env_state: Any
    obs: jax.Array  # (N, D)
    episode_return: jax.Array  # the last known value of the metric, NaN before the first episode's end
    episode_length: jax.Array
    env_steps: jax.Array  # of all N environments so far
    key: jax.Array


class Transition(NamedTuple):
    """One step of the rollout; stacked to (T, N, ...)."""

    obs: jax.Array
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array  # the episode ended by itself: its future is worth 0
    done: jax.Array  # terminated or cut by the time limit
    info: dict  # gymnax's: final_observation (D,), to which the action led; returned_episode_returns, _lengths


def make_policy(config, network_fn=make_network):
    """Returns (init_carry, act), used alike in training, evaluation and rendering.

    init_carry(num_envs) is the policy's memory at an episode's start: none here.
    act(state, carry, obs (..., D), key, greedy) -> (carry, action (...)); state needs params and env_steps;
    greedy, a bool or a traced one, takes the best action always, else a random one with probability epsilon.
    """
    network = network_fn(config)

    def init_carry(num_envs):
        return ()

    def act(state, carry, obs, key, greedy):
        explore_key, action_key = jax.random.split(key)
        q = network.apply(state.params, obs)
        best, random = jnp.argmax(q, axis=-1), jax.random.randint(action_key, obs.shape[:-1], 0, q.shape[-1])
        explore = jax.random.uniform(explore_key, obs.shape[:-1]) < linear_epsilon(state.env_steps, config)
        return carry, jnp.where(explore & ~jnp.bool_(greedy), random, best)

    return init_carry, act


def make_train(config, loss_fn=pqn_loss, network_fn=make_network):
    """Returns train(key, state=None, num_updates=config.num_updates) -> (state, metrics): pure, made for jit and vmap.

    metrics: a dict of scalars per update, each (num_updates,). From a given state training goes on and key is not used.
    With anneal_lr it learns nothing more after config.num_updates updates: the learning rate is 0 from there on.
    loss_fn(q (B, A), batch, config) -> (loss, metrics), see pqn_loss.
    network_fn(config) -> a flax module with obs (..., D) -> q (..., A), see QNetwork.
    """
    env, env_params = make_env(config.env_id, config.env_params)
    network = network_fn(config)
    init_carry, act = make_policy(config, network_fn)
    gradient_steps = config.num_updates * config.update_epochs * config.num_minibatches
    lr = optax.linear_schedule(config.lr, 0.0, gradient_steps) if config.anneal_lr else config.lr
    optimizer = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.radam(lr))  # both as in the paper

    def init(key):
        key, params_key, env_key = jax.random.split(key, 3)
        obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(env_key, config.num_envs), env_params)
        params, unknown = network.init(params_key, obs[0]), jnp.float32(jnp.nan)
        return TrainState(params, optimizer.init(params), env_state, obs, unknown, unknown, jnp.int32(0), key)

    def env_step(state, key):
        action_key, env_key = jax.random.split(key)
        _, action = act(state, init_carry(config.num_envs), state.obs, action_key, greedy=False)
        obs, env_state, reward, terminated, truncated, info = jax.vmap(env.step, (0, 0, 0, None))(
            jax.random.split(env_key, config.num_envs), state.env_state, action, env_params
        )
        reward, done = reward.astype(jnp.float32), terminated | truncated
        transition = Transition(state.obs, action, reward, terminated, done, info)
        return state._replace(env_state=env_state, obs=obs, env_steps=state.env_steps + config.num_envs), transition

    def make_batch(state, rollout):
        """The rollout with targets of the network that acted: they stay as they are for all epochs."""
        value = network.apply(state.params, rollout.info["final_observation"]).max(axis=-1)
        target = lambda_return(rollout.reward, value, rollout.terminated, rollout.done, config.gamma, config.lambda_)
        return Batch(rollout.obs, rollout.action, target)

    def minibatch_loss(params, batch):
        return loss_fn(network.apply(params, batch.obs), batch, config)

    def update_minibatch(learner, batch):
        params, opt_state = learner
        grads, metrics = jax.grad(minibatch_loss, has_aux=True)(params, batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        metrics |= {"grad_norm": optax.tree.norm(grads)}  # before clipping
        return (optax.apply_updates(params, updates), opt_state), metrics

    def update_epoch(batch, learner, key):
        order = random_order(key, config.steps_per_update)
        minibatches = jax.tree.map(  # (N * T, ...) -> (num_minibatches, B, ...)
            lambda x: x[order].reshape(config.num_minibatches, -1, *x.shape[1:]), batch
        )
        return jax.lax.scan(update_minibatch, learner, minibatches)

    def update(state, _):
        key, rollout_key, shuffle_key = jax.random.split(state.key, 3)
        state, rollout = jax.lax.scan(env_step, state, jax.random.split(rollout_key, config.num_steps))
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), make_batch(state, rollout))  # (T, N, ...) -> (N * T)
        epoch, epoch_keys = functools.partial(update_epoch, flat), jax.random.split(shuffle_key, config.update_epochs)
        (params, opt_state), metrics = jax.lax.scan(epoch, (state.params, state.opt_state), epoch_keys)
        metrics = jax.tree.map(jnp.mean, metrics)  # over epochs and minibatches
        state = state._replace(
            params=params,
            opt_state=opt_state,
            episode_return=mean_of_ended(rollout.info["returned_episode_returns"], rollout.done, state.episode_return),
            episode_length=mean_of_ended(rollout.info["returned_episode_lengths"], rollout.done, state.episode_length),
            key=key,
        )
        metrics |= {
            "episode_return": state.episode_return,
            "episode_length": state.episode_length,
            "episode_count": rollout.done.sum(),  # by it, returns of several updates weigh in their mean
            "env_steps": state.env_steps,
            "epsilon": linear_epsilon(state.env_steps, config),
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
@functools.cache  # gymnax environments compare by identity: a second instance would compile everything again
def make_env(env_id, changes=""):
    """Returns (env, env_params) with observations flattened to (D,) and episode returns logged in `info`."""
    with jax.ensure_compile_time_eval():  # the cache must not keep a tracer where the first call is inside a jit
        env, env_params = gymnax.make(env_id)
    for name, text in (change.split("=") for change in changes.split(",") if change):
        name, kind = name.strip(), type(getattr(env_params, name.strip()))
        env_params = replace(env_params, **{name: kind(ast.literal_eval(text.strip().capitalize()))})  # "true" is True
    action_space = env.action_space(env_params)
    if not isinstance(action_space, spaces.Discrete):
        raise ValueError(f"env_id {env_id!r} acts in {action_space}, and Q is of one choice: use ppo.py or ppo_rnn.py")
    return LogWrapper(FlattenObservationWrapper(env)), env_params


if __name__ == "__main__":
    from runner import main

    main(__file__, Config, make_env, make_train, make_policy)

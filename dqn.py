"""Deep Q-learning (Mnih et al. 2015, doi:10.1038/nature14236) in one file and one JAX program.

    python dqn.py                                    # 16 seeds of CartPole-v1 at once
    python dqn.py --env-id Acrobot-v1 --double-dqn --huber-loss --n-step 3

Q(s, a), the expected discounted return of action a, is trained towards r + gamma * max_b Q_target(s', b).
The whole run (environment, replay buffer, learning) is the pure function `train(key)` made by `make_train(config)`:
`jit` it for one agent, `vmap` it over keys for many seeds, or over any float field of Config for a grid.
A field of Config is a flag, a field of TrainState is kept in checkpoints, a key of metrics is a column of metrics.csv.
One agent's buffer takes 2 * D * (bytes of an observation's number) + 10 bytes per transition: 0.4 MB at the defaults,
321 MB for 100,000 transitions of Breakout-MinAtar (D = 400, float32).

Shapes: T = train_frequency, N = num_envs, R = rows of the buffer (a row is one step of all N environments),
B = batch_size, n = n_step, D = flattened observation, A = actions.
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
from flax.linen.initializers import lecun_normal, orthogonal
from gymnax.environments import spaces
from gymnax.wrappers.purerl import FlattenObservationWrapper, LogWrapper


# --- Config -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Config:
    """Every field is a flag. Floats may be traced arrays, all else is static. Defaults: CleanRL's for CartPole-v1."""

    env_id: str = "CartPole-v1"  # any gymnax environment with Box observations and Discrete actions
    env_params: str = ""  # changes to the environment's own parameters, as in "gravity=20,max_steps_in_episode=200"
    total_timesteps: int = 500_000  # env steps over all envs of one agent, warm-up included; cut to whole updates
    num_envs: int = 1  # N, environments stepped in parallel by one agent
    buffer_size: int = 10_000  # transitions that the replay buffer holds; cut to whole collections of N * T
    learning_starts: int = 10_000  # env steps of warm-up before the first gradient step
    train_frequency: int = 10  # T, steps of each environment between two gradient steps
    batch_size: int = 128  # B, transitions drawn from the buffer per gradient step
    lr: float = 2.5e-4  # learning rate of Adam
    gamma: float = 0.99  # discount
    n_step: int = 1  # n, rewards summed before the target bootstraps
    double_dqn: bool = False  # the online network chooses the action that the target network values
    huber_loss: bool = False  # half the squared error up to an error of 1, then linear, instead of squared error
    target_network_frequency: int = 500  # env steps between updates of the target network
    tau: float = 1.0  # how far such an update moves the target network: 1 copies the online network
    start_e: float = 1.0  # epsilon, the share of random actions, at the start
    end_e: float = 0.05  # epsilon at the end of the exploration
    exploration_fraction: float = 0.5  # of total_timesteps, over which epsilon falls linearly
    network: Literal["mlp", "cnn"] = "mlp"  # cnn: a 3x3 convolution before the hidden layers, for MinAtar's images
    hidden_size: int = 120  # width of the first hidden layer
    last_hidden_size: int = 84  # width of the second hidden layer
    log_frequency: int = 1_000  # env steps per update, for a row of metrics and new keys; rounded to gradient steps

    def __post_init__(self):
        for field in fields(self):
            if field.type in (int, bool) and isinstance(getattr(self, field.name), jax.core.Tracer):
                raise TypeError(f"{field.name} shapes the program, so vmap can't vary it: train once for each value")
        size, warmup = self.steps_per_collection, self.warmup_collections
        if self.buffer_size < size:
            raise ValueError(
                f"buffer_size = {self.buffer_size} can't hold one collection of num_envs * train_frequency = {size}"
                f" transitions: use at least {size}"
            )
        rows = min(self.num_rows, (warmup + 1) * self.train_frequency)  # written before the first gradient step
        if self.n_step > rows:
            raise ValueError(
                f"n_step = {self.n_step} is more than the {rows} steps of each environment that learning starts with:"
                f" use n_step = {rows} or less, or a larger buffer_size and learning_starts"
            )
        if self.num_updates < 1:
            least = warmup * size + self.steps_per_update
            raise ValueError(
                f"total_timesteps = {self.total_timesteps} is less than learning_starts and one update, {least} steps,"
                f" so nothing would be trained: use at least {least}, or a smaller learning_starts"
            )

    @property
    def steps_per_collection(self):
        return self.num_envs * self.train_frequency

    @property
    def gradient_steps(self):
        """Per update."""
        return max(1, self.log_frequency // self.steps_per_collection)

    @property
    def steps_per_update(self):
        return self.gradient_steps * self.steps_per_collection

    @property
    def warmup_collections(self):
        return -(-self.learning_starts // self.steps_per_collection)

    @property
    def num_updates(self):
        return (self.total_timesteps - self.warmup_collections * self.steps_per_collection) // self.steps_per_update

    @property
    def num_rows(self):
        return self.buffer_size // self.steps_per_collection * self.train_frequency


# --- Algorithm --------------------------------------------------------------------------------------------------------
def n_step_return(reward, terminated, done, gamma):
    """Rewards up to the first episode's end or n steps (Sutton & Barto 2018, eq. 7.1), cut where the episode ends.

    Args: reward, terminated, done: (n, B); gamma: scalar.
    Returns: summed (B,), the discounted rewards; discount (B,), of what follows: 0 after termination, and gamma^k
    after k steps otherwise, also where a time limit cut the episode; last (B,), the index of the last step, k - 1.
    """
    chex.assert_equal_shape([reward, terminated, done])
    ended_before = jnp.cumsum(done, axis=0) - done > 0
    summed = jnp.sum(gamma ** jnp.arange(len(reward))[:, None] * jnp.where(ended_before, 0.0, reward), axis=0)
    last = jnp.sum(~ended_before, axis=0) - 1
    survived = 1.0 - terminated[last, jnp.arange(len(last))]
    return summed, survived * gamma ** (last + 1), last


def bootstrapped_target(summed, discount, next_q, next_target_q, config):
    """Target of Q (B,): summed + discount * max_a Q_target(final observation, a) (Mnih et al. 2015, eq. 2).

    Double DQN (van Hasselt et al. 2016, arXiv:1509.06461, eq. 4) lets the online network choose the action.
    Args: summed, discount: (B,); next_q, next_target_q: (B, A), of the online and of the target network.
    """
    chex.assert_equal_shape([summed, discount, next_target_q[..., 0]])
    chosen = jnp.argmax(next_q if config.double_dqn else next_target_q, axis=-1)
    return summed + discount * jnp.take_along_axis(next_target_q, chosen[:, None], axis=-1)[:, 0]


class Batch(NamedTuple):
    """What the loss sees, (B, ...)."""

    obs: jax.Array
    action: jax.Array
    target: jax.Array  # the n-step return


def dqn_loss(q, batch, config):
    """Mean squared or Huber error between Q (B, A) at the actions taken and batch.target.

    Returns: loss, a scalar, and its metrics, a dict of scalars.
    """
    chex.assert_equal_shape([q[..., 0], batch.action, batch.target])
    value = jnp.take_along_axis(q, batch.action[:, None], axis=-1)[:, 0]
    error = value - batch.target
    loss = jnp.mean(optax.losses.huber_loss(error) if config.huber_loss else jnp.square(error))
    return loss, {"q_loss": loss, "q_mean": value.mean()}


def linear_epsilon(env_steps, config):
    """Share of random actions after env_steps of the run (Mnih et al. 2015, Methods): linear, then constant."""
    length = jnp.maximum(config.exploration_fraction * config.total_timesteps, 1.0)
    return config.start_e + (config.end_e - config.start_e) * jnp.minimum(env_steps / length, 1.0)


def write(buffer, transitions, row):
    """Buffer (R, N, ...) with transitions (T, N, ...) from `row` on: a ring, the oldest are overwritten.

    R and row are multiples of T, so that a collection is never cut by the ring's end.
    """
    return jax.tree.map(
        lambda kept, new: jax.lax.dynamic_update_slice_in_dim(kept, new, row % len(kept), axis=0), buffer, transitions
    )


def sample_windows(key, rows_written, num_rows, num_envs, n_step, batch_size):
    """Draws stretches of n consecutive steps of one environment, uniformly over all that the buffer holds.

    Args: rows_written: since the start, at least n; num_rows: R. The newest n - 1 rows begin no stretch.
    Returns: row (n, B), in the ring; env (B,).
    """
    row_key, env_key = jax.random.split(key)
    held = jnp.minimum(rows_written, num_rows)
    start = rows_written - held + jax.random.randint(row_key, (batch_size,), 0, held - n_step + 1)
    row = (start + jnp.arange(n_step)[:, None]) % num_rows
    return row, jax.random.randint(env_key, (batch_size,), 0, num_envs)


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


def only_legal(values, obs, num_masked):
    """Values of actions (..., A), -inf where illegal: where the last num_masked entries of obs are 0 and not 1."""
    if not num_masked:
        return values
    legal = obs[..., -num_masked:] > 0
    return jnp.where(legal | ~legal.any(axis=-1, keepdims=True), values, -jnp.inf)  # where none is, nothing is chosen


class QNetwork(nn.Module):
    """(..., D) -> (..., A), the expected discounted return of each action; -inf for illegal ones."""

    num_actions: int
    hidden_size: int
    last_hidden_size: int
    image_shape: tuple[int, int, int] | None = None  # a convolution comes first if given
    num_masked: int = 0  # last entries of an observation, which say what is legal

    @nn.compact
    def __call__(self, obs):
        x = obs.astype(jnp.float32)
        x = Convolution(self.image_shape)(x) if self.image_shape else x
        x = nn.relu(nn.Dense(self.hidden_size)(x))
        x = nn.relu(nn.Dense(self.last_hidden_size)(x))
        # A dense layer whose weights are stored as (outputs, inputs): on a CPU 6 % more env steps/s
        shape, init = (self.num_actions, self.last_hidden_size), lecun_normal(in_axis=1, out_axis=0)
        q = nn.Einsum(shape, "...i,oi->...o", kernel_init=init)(x)
        return only_legal(q, obs, self.num_masked)


def make_network(config):
    env, env_params = make_env(config.env_id, config.env_params)
    shape = env._env._env.observation_space(env_params).shape  # inside LogWrapper and FlattenObservationWrapper
    image = {"mlp": None, "cnn": shape}[config.network]
    num_actions, num_masked = env.action_space(env_params).n, getattr(env, "num_masked", 0)
    return QNetwork(num_actions, config.hidden_size, config.last_hidden_size, image, num_masked)


# --- Training ---------------------------------------------------------------------------------------------------------
class Transition(NamedTuple):
    """What the buffer keeps, (R, N, ...): about one step of each environment per row."""

    obs: jax.Array  # as the environment gave it, in its own dtype
    action: jax.Array
    reward: jax.Array
    terminated: jax.Array  # the episode ended by itself: its future is worth 0
    done: jax.Array  # terminated or cut by the time limit
    final_obs: jax.Array  # what the action led to, also where `obs` of the next row is a new episode's first


class TrainState(NamedTuple):
    """Everything that one update hands to the next; exactly what a checkpoint holds."""

    params: Any
    target_params: Any
    opt_state: Any
    buffer: Transition  # (R, N, ...)
    env_state: Any
    obs: jax.Array  # (N, D)
    episode_return: jax.Array  # the last known value of the metric, NaN before the first episode's end
    episode_length: jax.Array
    env_steps: jax.Array  # of all N environments so far; a row of the buffer is N of them
    key: jax.Array


class Ended(NamedTuple):
    """Episodes that ended during a collection, (T, N)."""

    done: jax.Array
    episode_return: jax.Array  # valid where done
    episode_length: jax.Array


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
        if getattr(network, "num_masked", 0):
            random = jax.random.categorical(action_key, jnp.where(jnp.isinf(q), q, 0.0))  # among the legal ones
        explore = jax.random.uniform(explore_key, obs.shape[:-1]) < linear_epsilon(state.env_steps, config)
        return carry, jnp.where(explore & ~jnp.bool_(greedy), random, best)

    return init_carry, act


def make_train(config, loss_fn=dqn_loss, network_fn=make_network):
    """Returns train(key, state=None, num_updates=config.num_updates) -> (state, metrics): pure, made for jit and vmap.

    An update is log_frequency env steps, with a gradient step after every num_envs * train_frequency of them.
    metrics: a dict of scalars per update, each (num_updates,). From a given state training goes on and key is not used.
    loss_fn(q (B, A), batch, config) -> (loss, metrics), see dqn_loss.
    network_fn(config) -> a flax module with obs (..., D) -> q (..., A), see QNetwork.
    """
    env, env_params = make_env(config.env_id, config.env_params)
    network = network_fn(config)
    init_carry, act = make_policy(config, network_fn)
    optimizer = optax.adam(config.lr)

    def init(key):
        """The state after warm-up: a phase of its own, so that no later step has to ask whether to learn yet."""
        key, params_key, env_key, warmup_key = jax.random.split(key, 4)
        obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(env_key, config.num_envs), env_params)
        params = network.init(params_key, obs[0])
        state = TrainState(
            params=params,
            target_params=params,
            opt_state=optimizer.init(params),
            buffer=None,
            env_state=env_state,
            obs=obs,
            episode_return=jnp.float32(jnp.nan),
            episode_length=jnp.float32(jnp.nan),
            env_steps=jnp.int32(0),
            key=key,
        )
        one_step = jax.eval_shape(env_step, state, key)[1][0]
        state = state._replace(buffer=jax.tree.map(lambda x: jnp.zeros((config.num_rows, *x.shape), x.dtype), one_step))
        state, ended = jax.lax.scan(collect, state, jax.random.split(warmup_key, config.warmup_collections))
        return log_episodes(state, ended)

    def env_step(state, key):
        action_key, env_key = jax.random.split(key)
        _, action = act(state, init_carry(config.num_envs), state.obs, action_key, greedy=False)
        obs, env_state, reward, terminated, truncated, info = jax.vmap(env.step, (0, 0, 0, None))(
            jax.random.split(env_key, config.num_envs), state.env_state, action, env_params
        )
        done = terminated | truncated
        transition = Transition(
            obs=state.obs,
            action=action,
            reward=reward.astype(jnp.float32),
            terminated=terminated,
            done=done,
            final_obs=info["final_observation"],
        )
        ended = Ended(done, info["returned_episode_returns"], info["returned_episode_lengths"])
        state = state._replace(env_state=env_state, obs=obs, env_steps=state.env_steps + config.num_envs)
        return state, (transition, ended)

    def collect(state, key):
        """T steps of each environment into the buffer; the buffer itself stays out of the scan."""
        row, buffer = state.env_steps // config.num_envs, state.buffer
        state, (transitions, ended) = jax.lax.scan(
            env_step, state._replace(buffer=None), jax.random.split(key, config.train_frequency)
        )
        return state._replace(buffer=write(buffer, transitions, row)), ended

    def sample(state, key):
        """A batch from the buffer with its targets."""
        buffer, rows_written = state.buffer, state.env_steps // config.num_envs
        row, env_index = sample_windows(
            key, rows_written, config.num_rows, config.num_envs, config.n_step, config.batch_size
        )
        window = (buffer.reward[row, env_index], buffer.terminated[row, env_index], buffer.done[row, env_index])
        summed, discount, last = n_step_return(*window, config.gamma)
        final_row = row[last, jnp.arange(config.batch_size)]
        final_obs = buffer.final_obs[final_row, env_index]
        next_target_q = network.apply(state.target_params, final_obs)
        next_q = network.apply(state.params, final_obs) if config.double_dqn else None
        target = bootstrapped_target(summed, discount, next_q, next_target_q, config)
        return Batch(buffer.obs[row[0], env_index], buffer.action[row[0], env_index], target)

    def batch_loss(params, batch):
        return loss_fn(network.apply(params, batch.obs), batch, config)

    def gradient_step(state, key):
        collect_key, sample_key = jax.random.split(key)
        steps_before = state.env_steps
        state, ended = collect(state, collect_key)
        grads, metrics = jax.grad(batch_loss, has_aux=True)(state.params, sample(state, sample_key))
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # The target network moves by tau once for each multiple of the frequency that these env steps reached: mostly
        # for none; for several where a collection is longer than the frequency
        multiples = state.env_steps // config.target_network_frequency - steps_before // config.target_network_frequency
        moved = 1.0 - (1.0 - config.tau) ** multiples
        target_params = optax.incremental_update(params, state.target_params, moved)
        state = state._replace(params=params, target_params=target_params, opt_state=opt_state)
        return state, (ended, metrics | {"grad_norm": optax.tree.norm(grads)})

    def update(state, _):
        key, steps_key = jax.random.split(state.key)
        keys = jax.random.split(steps_key, config.gradient_steps)
        state, (ended, metrics) = jax.lax.scan(gradient_step, state._replace(key=key), keys)
        state = log_episodes(state, ended)
        metrics = jax.tree.map(jnp.mean, metrics)  # over gradient steps
        metrics |= {
            "episode_return": state.episode_return,
            "episode_length": state.episode_length,
            "episode_count": ended.done.sum(),  # by it, returns of several updates weigh in their mean
            "env_steps": state.env_steps,
            "epsilon": linear_epsilon(state.env_steps, config),
        }
        return state, metrics

    def train(key, state=None, num_updates=config.num_updates):
        with jax.enable_x64(False):  # gymnax's environments would mix 32 and 64 bits
            state = init(key) if state is None else state
            return jax.lax.scan(update, state, None, length=num_updates)

    return train


def log_episodes(state, ended):
    """State with the mean return and length of the episodes that ended; as before where none did."""
    return state._replace(
        episode_return=mean_of_ended(ended.episode_return, ended.done, state.episode_return),
        episode_length=mean_of_ended(ended.episode_length, ended.done, state.episode_length),
    )


def mean_of_ended(x, done, otherwise):
    """Mean of x over the steps that ended an episode; `otherwise` where none did."""
    return jnp.where(done.any(), (x * done).sum() / jnp.maximum(done.sum(), 1), otherwise)


# --- Environment ------------------------------------------------------------------------------------------------------
@functools.cache  # gymnax environments compare by identity: a second instance would compile everything again
def make_env(env_id, changes=""):
    """Returns (env, env_params) with observations flattened to (D,) and episode returns logged in `info`.

    changes: to env_params, as in Config. Raises ValueError where the actions are not Discrete.
    """
    with jax.ensure_compile_time_eval():  # the cache must not keep a tracer where the first call is inside a jit
        env, env_params = gymnax.make(env_id)
    for name, text in (change.split("=") for change in changes.split(",") if change):
        name, kind = name.strip(), type(getattr(env_params, name.strip()))
        env_params = replace(env_params, **{name: kind(ast.literal_eval(text.strip().capitalize()))})  # "true" is True
    action_space = env.action_space(env_params)
    if isinstance(action_space, spaces.Box):
        raise ValueError(
            f"env_id {env_id!r} has continuous actions, over which Q has no maximum to look up: use ppo.py for it"
        )
    if hasattr(action_space, "num_categories"):
        raise ValueError(f"env_id {env_id!r} acts in {action_space}, and Q is of one choice: use ppo.py or ppo_rnn.py")
    if not isinstance(action_space, spaces.Discrete):
        raise ValueError(
            f"env_id {env_id!r} acts in {action_space}, which no script here can: Discrete, MultiDiscrete or Box only"
        )
    return LogWrapper(FlattenObservationWrapper(env)), env_params


if __name__ == "__main__":
    from runner import main

    main(__file__, Config, make_env, make_train, make_policy)

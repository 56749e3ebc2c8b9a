"""Analytic policy gradient, and with a critic SHAC (Xu et al. 2022, arXiv:2204.07137), in one file and one JAX program.

    python apg.py                                    # 16 seeds of Pendulum-v1 at once
    python apg.py --env-id Reacher-misc --no-critic --sweep "truncation=8,16,32" "lr=1e-3,1e-2" --num-seeds 4

The simulator can be differentiated: the gradient of the return goes back through rewards, dynamics and actions to the
policy's weights. The whole run is the pure function `train(key)` made by `make_train(config)`: `jit` it for one agent,
`vmap` it over keys for many seeds, or over any float field of Config for a grid.

Shapes: T = num_steps, N = num_envs, D = flattened observation, A = numbers in an action.
"""

import ast
import functools
import math
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import gymnax
import jax
import jax.numpy as jnp
import optax
from gymnax.environments import spaces
from gymnax.wrappers.purerl import FlattenObservationWrapper, LogWrapper


# --- Config -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Config:
    """Every field is a flag. Floats may be traced arrays, all else is static. Chosen on Pendulum-v1."""

    env_id: str = "Pendulum-v1"  # an environment with Box actions whose step can be differentiated
    env_params: str = ""  # changes to the environment's own parameters, as in "gravity=20,max_steps_in_episode=200"
    total_timesteps: int = 300_000  # env steps over all envs of one agent; cut to whole updates
    num_envs: int = 4  # N, environments stepped in parallel by one agent; few, as a rollout is one step of the policy
    num_steps: int = 32  # T, the horizon: steps per environment and update
    truncation: int = 0  # gradients go back through so many steps at most; 0: through the whole horizon
    lr: float = 2e-3  # learning rate of the policy
    anneal_lr: bool = True  # lower both learning rates linearly to 0 over the run
    gamma: float = 0.95  # discount
    max_grad_norm: float = 1.0  # gradients are clipped to this global norm
    noise: float = 0.3  # std of the noise added to an action before its bounds; 0: none, also in training
    critic: bool = True  # SHAC: a value stands for all that comes after the gradient's end; without one that is 0
    critic_lr: float = 1e-2  # learning rate of the critic
    update_epochs: int = 4  # gradient steps of the critic per update, each on the whole rollout
    lambda_: float = 0.95  # the critic's targets bootstrap at each step (0), or where episode or rollout ends only (1)
    tau: float = 0.5  # how far the target network moves to the critic after each update
    hidden_size: int = 64  # width of the two hidden layers of the actor and of the critic
    normalize_obs: bool = False  # running normalisation of observations, clipped to +-10

    def __post_init__(self):
        for field in fields(self):
            if field.type in (int, bool) and isinstance(getattr(self, field.name), jax.core.Tracer):
                raise TypeError(f"{field.name} shapes the program, so vmap can't vary it: train once for each value")
        if self.truncation > self.num_steps:
            raise ValueError(
                f"truncation = {self.truncation} cuts nothing in num_steps = {self.num_steps} steps: use 0"
            )
        if self.num_updates < 1:
            size = f"num_envs * num_steps = {self.steps_per_update} env steps"
            raise ValueError(f"total_timesteps = {self.total_timesteps} is less than one update: use at least {size}")

    @property
    def steps_per_update(self):
        return self.num_envs * self.num_steps

    @property
    def num_updates(self):
        return self.total_timesteps // self.steps_per_update


# --- Algorithm --------------------------------------------------------------------------------------------------------
def lambda_return(reward, next_value, terminated, done, gamma, lambda_):
    """TD(lambda) return (Sutton & Barto 2018, eq. 12.18; Xu et al. 2022), cut where done.

    G_t = r_t + gamma * (1 - terminated_t) * ((1 - lambda) * V(s'_t) + lambda * G_{t+1}) with s'_t the state that step t
    led to, before any reset, and V(s'_t) in place of G_{t+1} at a cut and at the last step. So a time limit (done, not
    terminated) bootstraps. Args: reward, next_value V(s'_t), terminated, done: (T, ...). Returns: G (T, ...).
    """
    chex.assert_equal_shape([reward, next_value, terminated, done])

    def step(following, x):
        reward, next_value, terminated, done = x
        following = jnp.where(done, next_value, following)
        target = reward + gamma * (1.0 - terminated) * ((1.0 - lambda_) * next_value + lambda_ * following)
        return target, target

    return jax.lax.scan(step, next_value[-1], (reward, next_value, terminated, done), reverse=True)[1]


def apg_loss(reward, next_value, terminated, cut, config):
    """Minus the mean return per env step (Xu et al. 2022, eq. 5); its gradient goes through reward and next_value.

    Summed are the returns of all windows, from one cut of the gradient to the next: sum_k gamma^k r_k + gamma^K V(s_K).
    Args: reward, next_value, terminated, cut: (T, N), see lambda_return. Returns: loss, a scalar, and its metrics.
    """
    window_return = lambda_return(reward, next_value, terminated, cut, config.gamma, 1.0)
    first = jnp.concatenate([jnp.ones_like(cut[:1]), cut[:-1]])
    loss = -jnp.where(first, window_return, 0.0).sum() / reward.size
    return loss, {"policy_loss": loss}


def cut_gradient(x, where):
    """x (N, ...), without gradient in the environments that `where` (N,) names."""
    where = where.reshape(-1, *[1] * (x.ndim - 1))
    return jnp.where(where, jax.lax.stop_gradient(x), x) if jnp.issubdtype(x.dtype, jnp.inexact) else x


def within_bounds(x, space):
    """Any numbers (..., A) as actions in a Box: middle + half its width * tanh(x), or x where a bound is infinite.

    Not clipped, as in ppo.py: beyond a clip the gradient is 0, so that a policy that is there never comes back.
    """
    x, bounded = x.reshape(*x.shape[:-1], *space.shape), jnp.isfinite(space.high - space.low)
    middle, half = ((space.high + sign * space.low) / 2 for sign in (1, -1))
    return jnp.where(bounded, jnp.where(bounded, middle, 0.0) + jnp.where(bounded, half, 1.0) * jnp.tanh(x), x)


class RunningStats(NamedTuple):
    mean: jax.Array
    var: jax.Array
    count: jax.Array


def update_stats(stats, batch):
    """Merges a batch (n, ...) into running mean and variance (Chan et al. 1979, parallel algorithm)."""
    batch_mean, batch_var, batch_count = batch.mean(axis=0), batch.var(axis=0), batch.shape[0]
    count = stats.count + batch_count
    delta = batch_mean - stats.mean
    squares = stats.var * stats.count + batch_var * batch_count + delta**2 * stats.count * batch_count / count
    return RunningStats(stats.mean + delta * batch_count / count, squares / count, count)


# --- Network ----------------------------------------------------------------------------------------------------------
def make_network(config):
    """(actor, critic): obs (..., D) -> (..., A), an action before its bounds, and obs -> (..., 1), its value."""
    env, env_params = make_env(config.env_id, config.env_params)
    init = nn.initializers.orthogonal

    def mlp(size, gain):  # elu as in SHAC: the policy learns from the slope of the value, which should be smooth
        hidden = [nn.Dense(config.hidden_size, kernel_init=init(math.sqrt(2))) for _ in range(2)]
        return nn.Sequential([hidden[0], nn.elu, hidden[1], nn.elu, nn.Dense(size, kernel_init=init(gain))])

    return mlp(math.prod(env.action_space(env_params).shape), 0.01), mlp(1, 1.0)


# --- Training ---------------------------------------------------------------------------------------------------------
class TrainState(NamedTuple):
    """Everything that one update hands to the next; exactly what a checkpoint holds."""

    params: dict  # of the actor, and of the critic if there is one
    target_params: Any  # the critic's, which follow slowly; {} without one
    opt_state: dict  # as params
    obs_stats: RunningStats  # of observations, (D,); used and updated if normalize_obs
    env_state: Any
    obs: jax.Array  # (N, D)
    episode_return: jax.Array  # the last known value of the metric, NaN before the first episode's end
    episode_length: jax.Array
    num_updates: jax.Array  # updates done so far
    key: jax.Array


def make_policy(config, network_fn=make_network):
    """Returns (init_carry, act), used alike in training, evaluation and rendering; init_carry(num_envs) is () here.

    act(state, carry, obs (..., D), key, greedy) -> (carry, action (..., A)); state needs params and obs_stats;
    greedy, a bool or a traced one, leaves the noise out.
    """
    env, env_params = make_env(config.env_id, config.env_params)
    space, (actor, _) = env.action_space(env_params), network_fn(config)

    def act(state, carry, obs, key, greedy):
        x = actor.apply(state.params["actor"], network_input(config, state, obs))
        noise = jnp.where(greedy, 0.0, config.noise) * jax.random.normal(key, x.shape)
        return carry, within_bounds(x + noise, space)

    return lambda num_envs: (), act


def network_input(config, state, obs):
    """Observations, if normalize_obs in units of their running std and clipped to +-10."""
    if not config.normalize_obs:
        return obs.astype(jnp.float32)
    return jnp.clip((obs - state.obs_stats.mean) / jnp.sqrt(state.obs_stats.var + 1e-8), -10.0, 10.0)


def make_train(config, loss_fn=apg_loss, network_fn=make_network):
    """Returns train(key, state=None, num_updates=config.num_updates) -> (state, metrics): pure, made for jit and vmap.

    metrics: a dict of scalars per update, each (num_updates,). From a given state training goes on and key is not used.
    loss_fn(reward, next_value, terminated, cut, config) -> (loss, metrics), see apg_loss.
    network_fn(config) -> flax modules actor, obs (..., D) -> (..., A) before the bounds, and critic, obs -> (..., 1).
    """
    env, env_params = make_env(config.env_id, config.env_params)
    (actor, critic), (init_carry, act) = network_fn(config), make_policy(config, network_fn)

    def make_optimizer(lr, steps):
        lr = optax.linear_schedule(lr, 0.0, steps) if config.anneal_lr else lr
        return optax.chain(optax.clip_by_global_norm(config.max_grad_norm), optax.adam(lr))

    optimizer = {"actor": make_optimizer(config.lr, config.num_updates)}
    optimizer |= {"critic": make_optimizer(config.critic_lr, config.num_updates * config.update_epochs)}

    def init(key):
        key, actor_key, critic_key, env_key = jax.random.split(key, 4)
        obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(env_key, config.num_envs), env_params)
        zeros, unknown = jnp.zeros(obs.shape[1]), jnp.float32(jnp.nan)
        stats = RunningStats(zeros, zeros + 1.0, jnp.float32(1e-4))  # 1e-4: as gymnasium's RunningMeanStd
        params = {"actor": actor.init(actor_key, zeros)}
        params |= {"critic": critic.init(critic_key, zeros)} if config.critic else {}
        opt_state, target = {name: optimizer[name].init(x) for name, x in params.items()}, params.get("critic", {})
        return TrainState(params, target, opt_state, stats, env_state, obs, unknown, unknown, jnp.int32(0), key)

    def value(params, state, obs):
        return critic.apply(params, network_input(config, state, obs)).squeeze(-1)

    def env_step(state, carry, key_and_window_over):
        (obs, env_state), (key, window_over) = carry, key_and_window_over
        action_key, env_key = jax.random.split(key)
        _, action = act(state, init_carry(config.num_envs), obs, action_key, greedy=False)
        next_obs, env_state, reward, terminated, truncated, info = jax.vmap(env.step, (0, 0, 0, None))(
            jax.random.split(env_key, config.num_envs), env_state, action, env_params
        )
        done = terminated | truncated
        step = {"obs": obs, "reward": reward.astype(jnp.float32), "terminated": terminated, "done": done, "info": info}
        cut = done | window_over  # whatever a reset does, no gradient goes back from one episode to the last one
        return jax.tree.map(lambda x: cut_gradient(x, cut), (next_obs, env_state)), step | {"cut": cut}

    def actor_loss(params, state, key):
        """The loss of a rollout by these weights: its gradient goes through all of it."""
        keys, count = jax.random.split(key, config.num_steps), jnp.arange(1, config.num_steps + 1)
        step = functools.partial(env_step, state._replace(params={"actor": params}))
        window_over = count % (config.truncation or config.num_steps) == 0
        carry, rollout = jax.lax.scan(step, (state.obs, state.env_state), (keys, window_over))
        next_value = jnp.zeros_like(rollout["reward"])
        if config.critic:
            next_value = value(state.target_params, state, rollout["info"]["final_observation"])
        loss, metrics = loss_fn(rollout["reward"], next_value, rollout["terminated"], rollout["cut"], config)
        return loss, (carry, rollout, next_value, metrics)

    def descend(name, state, grads):
        updates, opt_state = optimizer[name].update(grads, state.opt_state[name], state.params[name])
        params = state.params | {name: optax.apply_updates(state.params[name], updates)}
        return state._replace(params=params, opt_state=state.opt_state | {name: opt_state})

    def critic_loss(params, state, obs, target):
        return jnp.square(value(params, state, obs) - target).mean()

    def critic_step(obs, target, state, _):
        loss, grads = jax.value_and_grad(critic_loss)(state.params["critic"], state, obs, target)
        return descend("critic", state, grads), loss

    def update_critic(state, rollout, next_value):
        """update_epochs steps towards the TD(lambda) returns; then the target network follows."""
        ends = rollout["terminated"], rollout["done"]
        target = lambda_return(rollout["reward"], next_value, *ends, config.gamma, config.lambda_)
        step = functools.partial(critic_step, rollout["obs"], target)
        state, losses = jax.lax.scan(step, state, None, length=config.update_epochs)
        target_params = optax.incremental_update(state.params["critic"], state.target_params, config.tau)
        return state._replace(target_params=target_params), losses.mean()

    def update(state, _):
        key, rollout_key = jax.random.split(state.key)
        grads, aux = jax.grad(actor_loss, has_aux=True)(state.params["actor"], state, rollout_key)
        (obs, env_state), rollout, next_value, metrics = aux
        state, value_loss = descend("actor", state, grads), jnp.float32(0.0)
        if config.critic:
            state, value_loss = update_critic(state, rollout, next_value)
        if config.normalize_obs:  # from the next rollout on
            flat_obs = rollout["obs"].reshape(config.steps_per_update, -1)
            state = state._replace(obs_stats=update_stats(state.obs_stats, flat_obs))
        done, env_steps = rollout["done"], (state.num_updates + 1) * config.steps_per_update
        known = {name: getattr(state, name) for name in ("episode_return", "episode_length")}
        ended = {name: mean_of_ended(rollout["info"][f"returned_{name}s"], done, x) for name, x in known.items()}
        state = state._replace(env_state=env_state, obs=obs, num_updates=state.num_updates + 1, key=key, **ended)
        metrics |= ended | {"episode_count": done.sum(), "env_steps": env_steps}  # by the count returns are weighed
        metrics |= {"value_loss": value_loss, "value_mean": next_value.mean()}
        return state, metrics | {"grad_norm": optax.tree.norm(grads)}  # of the policy, before clipping

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
    if not isinstance(action_space, spaces.Box):
        raise ValueError(f"env_id {env_id!r} acts in {action_space}, which has no gradient: use ppo.py or ppo_rnn.py")
    if not getattr(env, "supports_transition_gradients", False):
        raise ValueError(f"env_id {env_id!r} has no gradient through its steps: use ppo.py or ppo_rnn.py")
    return LogWrapper(FlattenObservationWrapper(env.with_transition_gradients())), env_params


if __name__ == "__main__":
    from runner import main

    main(__file__, Config, make_env, make_train, make_policy)

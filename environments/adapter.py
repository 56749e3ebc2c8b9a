"""What the adapters to other suites share: each makes an environment of a suite one of gymnax's."""

import contextlib
import functools
import importlib.util
import io
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment, EnvParams, EnvState

from environments.lanes import Lanes
from environments.resets import new_where

NO_LIMIT = 100_000  # max_steps of what surely ends by itself


class Unavailable(ValueError):
    """An environment that can't be had here; the message says why, and what to do."""


@struct.dataclass
class State(EnvState):
    """time: steps of this episode, which the adapter counts itself. Whatever the suite counts is not looked at."""

    leaves: list  # the suite's own state, without its arrays of size 0: orbax can't write them


@struct.dataclass
class Params(EnvParams):
    max_steps_in_episode: int  # 0 is never meant: each adapter gives the suite's own limit


class Adapter(Environment):
    """An environment of another suite. A suite's adapter has these, where obs and inner are pytrees of the suite's own:

    begin(key, params) -> (obs, inner), go_on(key, inner, action, params) -> (obs, inner, reward, terminated),
    action_space(params), and max_steps. `terminated` must not be True where only the time is up.
    """

    max_steps = 1000
    num_agents = 1  # of more, arrays have an axis of agents: see environments/lanes.py

    @property
    def name(self):
        return self.env_id

    @property
    def default_params(self):
        return Params(max_steps_in_episode=self.max_steps)

    @functools.cached_property
    def shapes(self):
        """Shapes and dtypes of obs and inner; nothing is computed."""
        return jax.eval_shape(lambda key: self.begin(key, self.default_params), jax.random.key(0))

    # --- gymnax's interface -------------------------------------------------------------------------------------------
    @functools.partial(jax.jit, static_argnames="self")
    def step(self, key, state, action, params=None):
        """As gymnax's, but a reset is computed only where an episode ended."""
        params = self.default_params if params is None else params
        step_key, reset_key = jax.random.split(key)
        final_obs, state, reward, terminated, info = self.step_env(step_key, state, action, params)
        truncated = self.is_truncated(state, params)
        done = terminated | truncated

        # Gradients do not pass through a loop, and need not: an episode that goes on is taken from outside of it
        start = jax.lax.stop_gradient((done, reset_key, (final_obs, state), params))
        first_obs, first_state = new_where(self.reset_env, *start)
        obs, state = jax.tree.map(
            lambda first, x: jax.lax.select(done, first, x), (first_obs, first_state), (final_obs, state)
        )
        info |= {"terminated": terminated, "truncated": truncated, "final_observation": final_obs}
        return obs, state, reward, terminated, truncated, info

    def reset_env(self, key, params):
        obs, inner = self.begin(key, params)
        return flat(obs), State(time=jnp.int32(0), leaves=self.pack(inner))

    def step_env(self, key, state, action, params):
        obs, inner, reward, terminated = self.go_on(key, self.unpack(state), action, params)
        obs = flat(obs).astype(self.flat_shape.dtype)
        state = State(time=state.time + 1, leaves=self.pack(inner))
        return obs, state, jnp.asarray(reward, jnp.float32), jnp.asarray(terminated, bool), {}

    def observation_space(self, params=None):
        low, high = bounds(self.flat_shape.dtype)
        return spaces.Box(low, high, self.flat_shape.shape, self.flat_shape.dtype)

    @functools.cached_property
    def flat_shape(self):
        return jax.eval_shape(flat, self.shapes[0])

    # --- The suite's own state ----------------------------------------------------------------------------------------
    def pack(self, inner):
        """The arrays of a suite's state, of the dtypes that they have after a reset."""
        inner = jax.tree.map(lambda x, like: x if is_key(like) else jnp.asarray(x, like.dtype), inner, self.shapes[1])
        return [x for x in jax.tree.leaves(inner) if x.size]

    def unpack(self, state):
        """Undoes pack, also of a state that the host has as NumPy's arrays, for pictures."""
        leaves = map(jnp.asarray, state.leaves)
        return jax.tree.map(
            lambda like: next(leaves) if like.size else jnp.zeros(like.shape, like.dtype), self.shapes[1]
        )


def flat(obs):
    """An observation as one array: a single one stays as it is, several become one vector of float32."""
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(obs)]
    if len(leaves) == 1:
        return leaves[0] if leaves[0].ndim else leaves[0][None]
    return jnp.concatenate([x.astype(jnp.float32).ravel() for x in leaves])


def bounds(dtype):
    """The smallest and the largest number of a dtype."""
    if jnp.issubdtype(dtype, bool):
        return 0, 1
    return (np.iinfo(dtype).min, np.iinfo(dtype).max) if jnp.issubdtype(dtype, jnp.integer) else (-np.inf, np.inf)


def is_key(x):
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def make(suite, name):
    """The environment of a suite's module by name. Raises Unavailable where its package is missing or it can't be."""
    env_id = f"{suite.SUITE}/{name}"
    if importlib.util.find_spec(suite.PACKAGE) is None:
        raise Unavailable(f'{env_id} needs the package {suite.PACKAGE}: pip install "{suite.REQUIREMENT}"')
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # suites talk about other packages
        warnings.simplefilter("ignore")
        env = suite.make(name)
    env.env_id = env_id
    for x in jax.tree.leaves(env.shapes[0]):
        if is_key(x) or x.dtype.itemsize > 4:
            raise Unavailable(f"{env_id} observes arrays of {x.dtype}, which can't be one vector of float32")
    return Lanes(env) if env.num_agents > 1 else env

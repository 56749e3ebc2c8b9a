"""Several agents, one policy: a game of A agents fills A rows of num_envs that follow each other, its lanes.

To gymnax, and so to every script, a lane is an environment of one agent, with its own observation, reward, return and
memory. vmap joins the lanes of a game: its rule for `reset` and `step` here cuts them into games and steps each once.

A game is an environment with gymnax's interface and `num_agents`, whose arrays have an axis of agents: observations
(A, ...), actions (A, ...) and rewards (A,). `terminated` and the state's time are of the whole game, so its lanes end
together. observation_space and action_space are those of one agent. `Lanes(game)` is what scripts train in.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments.environment import EnvState
from gymnax.wrappers.purerl import GymnaxWrapper
from jax.core import ShapedArray
from jax.custom_batching import custom_vmap
from jax.extend.core import Primitive
from jax.interpreters import mlir


@struct.dataclass
class LaneState(EnvState):
    """time: steps of this episode of the game. The state of a game lies in its A lanes once, a share in each."""

    shares: list  # of each array of the game's state, flattened: a part of its elements


class Lanes(GymnaxWrapper):
    """One agent of a game, in a lane. Call reset and step under vmap over lanes, a multiple of A.

    Of the random keys of a game's lanes the first one counts, and so with env_params where vmap varies them. info has
    final_observation, terminated and truncated. Gradients do not pass. Raises ValueError for a number of lanes that is
    no multiple of A, and where a lane is run alone.
    """

    supports_transition_gradients = False

    def reset(self, key, params=None):
        """(observation of this lane's agent, LaneState)."""
        return self.in_lanes(self.reset_games, key, params=params)

    def step(self, key, state, action, params=None):
        """(obs, state, reward, terminated, truncated, info) of this lane's agent, as gymnax's."""
        return self.in_lanes(self.step_games, key, state, action, params=params)

    # --- All lanes of some games --------------------------------------------------------------------------------------
    def reset_games(self, axes, keys, params):
        obs, state = jax.vmap(self._env.reset, (0, axes))(keys[:: self.num_agents], params)
        return self.by_lane(obs), self.share(state)

    def step_games(self, axes, keys, state, action, params):
        action = action.reshape(-1, self.num_agents, *action.shape[1:])
        obs, game, reward, terminated, truncated, info = jax.vmap(self._env.step, (0, 0, 0, axes))(
            keys[:: self.num_agents], self.games(state), action, params
        )
        terminated, truncated = jnp.repeat(terminated, self.num_agents), jnp.repeat(truncated, self.num_agents)
        final_obs = self.by_lane(info["final_observation"])
        info = {"terminated": terminated, "truncated": truncated, "final_observation": final_obs}
        return self.by_lane(obs), self.share(game), self.by_lane(reward), terminated, truncated, info

    def by_lane(self, x):
        """(games, A, ...) -> (lanes, ...)."""
        return x.reshape(-1, *x.shape[2:])

    def share(self, game):
        """LaneState of all lanes of games. The last element of an array is repeated where they do not divide by A."""

        def cut(x):
            flat = x.reshape(len(x), -1)
            part = -(-flat.shape[1] // self.num_agents)
            if part * self.num_agents > flat.shape[1]:
                flat = flat[:, jnp.minimum(jnp.arange(part * self.num_agents), flat.shape[1] - 1)]
            return flat.reshape(-1, part)

        leaves = [x for x in jax.tree.leaves(game) if x.size]  # arrays of size 0 can't be cut, nor kept in checkpoints
        return LaneState(time=jnp.repeat(game.time, self.num_agents), shares=[cut(x) for x in leaves])

    def games(self, state):
        """The states of the games of so many lanes: undoes share."""
        shares, games = iter(state.shares), len(state.time) // self.num_agents

        def join(like):
            if not like.size:
                return jnp.zeros((games, *like.shape), like.dtype)
            return next(shares).reshape(games, -1)[:, : math.prod(like.shape)].reshape(games, *like.shape)

        return jax.tree.map(join, self.game_shapes)

    @functools.cached_property
    def game_shapes(self):
        """Shapes and dtypes of a game's state; nothing is computed."""
        return jax.eval_shape(self._env.reset, jax.random.key(0), self._env.default_params)[1]

    # --- vmap ---------------------------------------------------------------------------------------------------------
    def in_lanes(self, function, *args, params):
        """Calls function(axes, *args, params), of all lanes, as a function of one. axes: those of params for vmap."""
        size, name = self.num_agents, self._env.name

        @custom_vmap
        def lane(params, *args):
            """Has the shapes of one lane's results. It can't be run: a lane alone is no game."""
            lanes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape), x.dtype), args)
            leaves, tree = jax.tree.flatten(jax.eval_shape(functools.partial(function, None), *lanes, params))
            avals = tuple(ShapedArray(x.shape[1:], x.dtype, weak_type=x.weak_type) for x in leaves)
            message = f"{name} has {size} agents: run it under vmap, {size} lanes a game, and not one lane alone"
            return jax.tree.unflatten(
                tree, lane_alone.bind(*jax.tree.leaves((params, args)), avals=avals, message=message)
            )

        @lane.def_vmap
        def lanes(count, batched, params, *args):
            check_lanes(name, size, count)
            args = jax.tree.map(
                lambda x, flag: x if flag else jnp.broadcast_to(x, (count, *x.shape)), args, tuple(batched[1:])
            )
            params = jax.tree.map(lambda x, flag: x[::size] if flag else x, params, batched[0])
            axes = jax.tree.map(lambda flag: 0 if flag else None, batched[0])
            out = function(axes, *args, params)
            return out, jax.tree.map(lambda x: True, out)

        return lane(self._env.default_params if params is None else params, *args)


def check_lanes(name, num_agents, count, setting="num_envs"):
    """Raises ValueError where so many lanes are no whole games."""
    if count % num_agents:
        less, more = count - count % num_agents, whole_games(num_agents, count)
        fitting = f"{setting} = {less} or {more}" if less else f"{setting} = {more}"
        raise ValueError(
            f"{name} has {num_agents} agents, and {setting} = {count} is no multiple of them: use {fitting}"
        )


def whole_games(num_agents, count):
    """The smallest number of lanes from count on that fills whole games."""
    return -(-count // num_agents) * num_agents


class OneGame:
    """One game of an environment, where scripts have many: its arrays have an axis of agents, and there is one key.

    Of an environment of one agent that axis is 1 long, and nothing is under vmap.
    """

    def __init__(self, env):
        self.env, self.num_agents = env, getattr(env, "num_agents", 1)

    def reset(self, key, params):
        if self.num_agents > 1:
            return jax.vmap(self.env.reset, (0, None))(self.keys(key), params)
        return jax.tree.map(lambda x: x[None], self.env.reset(key, params))

    def step(self, key, state, action, params):
        if self.num_agents > 1:
            return jax.vmap(self.env.step, (0, 0, 0, None))(self.keys(key), state, action, params)
        state, action = jax.tree.map(lambda x: x[0], (state, action))
        return jax.tree.map(lambda x: x[None], self.env.step(key, state, action, params))

    def keys(self, key):
        return jnp.broadcast_to(key, self.num_agents)

    def states(self, states):
        """States (T, agents, ...) of the environment, without those of wrappers, as those of the game, (T, ...)."""
        if self.num_agents > 1:
            return self.env.games(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), states))
        return jax.tree.map(lambda x: x[:, 0], states)


# --- What stands for a lane without its game: it has shapes, and says so when it is to be run -------------------------
lane_alone = Primitive("lane_alone")
lane_alone.multiple_results = True


@lane_alone.def_impl
def refuse(*args, avals, message):
    raise ValueError(message)


@lane_alone.def_abstract_eval
def shapes(*args, avals, message):
    return avals


mlir.register_lowering(lane_alone, lambda context, *args, avals, message: refuse(avals=avals, message=message))

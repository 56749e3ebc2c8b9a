"""A point mass on a square, to be brought to a target and held there by pushing it along both axes."""

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment, EnvParams, EnvState

from environments.rendering import draw_discs


@struct.dataclass
class State(EnvState):
    position: jax.Array  # (2,), m, from -1 to 1
    velocity: jax.Array  # (2,), m/s
    target: jax.Array  # (2,), m, from -1 to 1


@struct.dataclass
class Params(EnvParams):
    acceleration: float = 1.0  # m/s^2, of an action of 1
    friction: float = 0.5  # 1/s, the share of its velocity that the point loses
    dt: float = 0.1  # s
    max_steps_in_episode: int = 100


class PointMass(Environment):
    """Observation: position, velocity, and target less position, (6,). Episodes end by the time alone.

    Action: (2,), the push along each axis in units of Params.acceleration, clipped to -1..1. Position and target are
    anywhere on the square at first, the point at rest. At an edge it stops. Reward: minus the distance to the target
    that a step leads to, in m.
    """

    @property
    def default_params(self):
        return Params()

    def reset_env(self, key, params):
        position, target = jax.random.uniform(key, (2, 2), minval=-1.0)
        state = State(time=jnp.int32(0), position=position, velocity=jnp.zeros(2), target=target)
        return self.get_obs(state), state

    def step_env(self, key, state, action, params):
        push = params.acceleration * jnp.clip(action.reshape(2), -1.0, 1.0)
        velocity = state.velocity + params.dt * (push - params.friction * state.velocity)
        moved = state.position + params.dt * velocity  # semi-implicit Euler: by the new velocity
        position = jnp.clip(moved, -1.0, 1.0)
        velocity = jnp.where(position == moved, velocity, 0.0)
        state = state.replace(time=state.time + 1, position=position, velocity=velocity)
        reward = -jnp.linalg.norm(state.target - position)
        return self.get_obs(state), state, reward, jnp.bool_(False), {}

    def get_obs(self, state, params=None, key=None):
        return jnp.concatenate([state.position, state.velocity, state.target - state.position])

    def action_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (2,))

    def observation_space(self, params=None):
        high = jnp.repeat(jnp.array([1.0, jnp.inf, 2.0]), 2)
        return spaces.Box(-high, high, (6,), jnp.float32)

    def render(self, state):
        """The square: the target in green, the point in blue."""
        square = ((-1.1, 1.1), (-1.1, 1.1))
        return draw_discs([state.target, state.position], (0.1, 0.05), ((120, 200, 110), (40, 80, 220)), square)

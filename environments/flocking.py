"""Flocking: boids that steer by what they see of their neighbours, so that they keep together and do not collide.

The task, with its numbers, is EvoJAX's (Tang et al. 2022, arXiv:2202.05008), after Reynolds 1987 ("Flocks, Herds and
Schools"). The energies are those of JAX MD's notebook on flocking (Schoenholz and Cubuk 2020, arXiv:1912.04232).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment, EnvParams, EnvState
from PIL import Image, ImageDraw

SIZE = 240  # of a picture, in pixels
COLOURS = ((88, 167, 210), (40, 80, 220), (30, 60, 110))  # three, so that one can follow a boid


@struct.dataclass
class State(EnvState):
    position: jax.Array  # (A, 2), from 0 to 1: the square goes on at its other side
    heading: jax.Array  # (A,), rad


@struct.dataclass
class Params(EnvParams):
    """EvoJAX's numbers. The unit of length is a side of the square."""

    speed: float = 0.12  # sides per s
    dt: float = 0.2  # s
    turn: float = 1.0  # rad per s, of an action of 1
    align: float = 0.2  # energy of a pair that heads different ways
    align_distance: float = 0.15  # sides
    avoid: float = 0.1  # energy of a pair that comes near
    avoid_distance: float = 0.12  # sides
    cohesion: float = 0.3  # energy of who does not head for others
    cohesion_distance: float = 0.3  # sides
    view: float = jnp.pi / 3  # rad, to either side of its heading, in which a boid looks for others to join
    max_steps_in_episode: int = 150


class Flocking(Environment):
    """A game of A boids, all at the same speed. Action: (1,), how fast a boid turns left, clipped to -1..1.

    Observation: of each of the num_neighbours nearest others, nearest first, where it is, ahead and to the left, in
    units of cohesion_distance, then the cosine and sine of its heading less the own, (4 * num_neighbours,). So a boid
    sees neither where it is nor where it heads: all directions are alike. EvoJAX shows positions and headings instead.
    Reward: minus the boid's energy, see energies. Episodes end by the time alone.
    """

    def __init__(self, num_agents=30, num_neighbours=5):
        if not 1 <= num_neighbours < num_agents:
            raise ValueError(f"{num_agents} agents have no {num_neighbours} neighbours: use fewer, or more agents")
        self.num_agents, self.num_neighbours = num_agents, num_neighbours

    @property
    def default_params(self):
        return Params()

    def reset_env(self, key, params):
        """Anywhere, heading anywhere."""
        position_key, heading_key = jax.random.split(key)
        position = jax.random.uniform(position_key, (self.num_agents, 2))
        heading = jax.random.uniform(heading_key, (self.num_agents,), maxval=2.0 * jnp.pi)
        state = State(time=jnp.int32(0), position=position, heading=heading)
        return self.get_obs(state, params), state

    def step_env(self, key, state, action, params):
        moved = state.position + params.dt * params.speed * ahead(state.heading)
        turned = params.dt * params.turn * jnp.clip(action.reshape(self.num_agents), -1.0, 1.0)
        state = State(time=state.time + 1, position=moved % 1.0, heading=state.heading + turned)
        # EvoJAX rewards the state before the step, whatever the action
        reward = -energies(state.position, state.heading, params)
        return self.get_obs(state, params), state, reward, jnp.bool_(False), {}

    def get_obs(self, state, params=None, key=None):
        params = Params() if params is None else params
        apart = displacements(state.position)
        distance = jnp.linalg.norm(apart, axis=-1) + jnp.diag(jnp.full(self.num_agents, jnp.inf))
        nearest = jax.lax.top_k(-distance, self.num_neighbours)[1]  # (A, neighbours)
        apart = jnp.take_along_axis(apart, nearest[..., None], axis=1) / params.cohesion_distance
        cos, sin = jnp.split(ahead(state.heading), 2, axis=1)  # (A, 1) each
        x, y = apart[..., 0], apart[..., 1]
        turned = state.heading[nearest] - state.heading[:, None]
        seen = jnp.stack([cos * x + sin * y, cos * y - sin * x, jnp.cos(turned), jnp.sin(turned)], axis=-1)
        return seen.reshape(self.num_agents, -1)

    def action_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (1,))

    def observation_space(self, params=None):
        params = Params() if params is None else params
        far = jnp.sqrt(0.5) / params.cohesion_distance  # no two are further apart on such a square
        high = jnp.tile(jnp.array([far, far, 1.0, 1.0]), self.num_neighbours)
        return spaces.Box(-high, high, high.shape, jnp.float32)

    def render(self, state):
        """The square, with an arrow for each boid."""
        picture = Image.new("RGB", (SIZE, SIZE), "white")
        draw = ImageDraw.Draw(picture)
        for i, ((x, y), heading) in enumerate(zip(state.position, state.heading, strict=True)):
            angle = heading + np.array([0.0, 2.6, np.pi, -2.6])  # from the middle to tip, wing, notch and wing, rad
            length = np.array([9.0, 8.0, 3.0, 8.0])  # pixels
            corners = zip(SIZE * x + length * np.cos(angle), SIZE * (1.0 - y) - length * np.sin(angle), strict=True)
            draw.polygon([(float(a), float(b)) for a, b in corners], COLOURS[i % len(COLOURS)])
        return np.array(picture)


def ahead(heading):
    """Unit vectors (A, 2) of headings (A,)."""
    return jnp.stack([jnp.cos(heading), jnp.sin(heading)], axis=1)


def displacements(position):
    """The shortest way from each of the boids to each, (A, A, 2), on a square that goes on at its other side."""
    apart = position - position[:, None]
    return apart - jnp.round(apart)


def energies(position, heading, params):
    """The energy of each boid, (A,). Lower is better; their sum is that of EvoJAX, less a constant.

    With r the distance of a pair in units of the named distance and n a boid's heading as a unit vector, a boid has

        1/2 sum over others with r < 1 of  align / 3 (1 - r)^3 (1 - n . n_other)^2
        1/2 sum over others with r < 1 of  avoid / 3 (1 - r)^3
        cohesion / 2 (1 - n . m)^2, m of length 1 towards the mean place of all in view nearer than cohesion_distance

    and m = 0 where nobody is in view. (JAX MD's notebook on flocking; EvoJAX has the same, with each boid also avoiding
    itself.) Args: position (A, 2), heading (A,).
    """
    apart, own = displacements(position), ahead(heading)
    distance = jnp.linalg.norm(apart, axis=-1)
    others = ~jnp.eye(len(heading), dtype=bool)

    def near(reach):  # (1 - r)^3 for the others with r < 1, (A, A)
        return jnp.where(others, jnp.maximum(1.0 - distance / reach, 0.0) ** 3, 0.0)

    align = params.align / 3.0 * near(params.align_distance) * (1.0 - (own[:, None] * own).sum(axis=-1)) ** 2
    avoid = params.avoid / 3.0 * near(params.avoid_distance)

    forward = (apart * own[:, None]).sum(axis=-1)  # how far ahead of i is j
    in_view = others & (distance < params.cohesion_distance) & (forward > jnp.cos(params.view) * distance)
    towards = jnp.where(in_view[..., None], apart, 0.0).sum(axis=1)  # the mean has the same direction
    length = jnp.linalg.norm(towards, axis=1, keepdims=True)
    towards = jnp.where(length > 0.0, towards / jnp.where(length > 0.0, length, 1.0), 0.0)
    cohesion = params.cohesion / 2.0 * (1.0 - (towards * own).sum(axis=1)) ** 2
    return 0.5 * (align + avoid).sum(axis=1) + cohesion

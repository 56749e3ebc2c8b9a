"""Water world: agents swim in a box among food and poison that drift about, and sense what is around them by rays.

The task is of Karpathy's REINFORCEjs; with several agents, of Gupta et al. 2017 ("Cooperative Multi-Agent Control Using
Deep Reinforcement Learning"). The numbers are those of EvoJAX (Tang et al. 2022, arXiv:2202.05008), which has both.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment, EnvParams, EnvState

from environments.adapter import Adapter
from environments.lanes import Lanes
from environments.rendering import draw_discs

SENSORS = 30  # rays of an agent, evenly spaced, the first one to the right
DIRECTIONS = np.array([[0, 1], [0, -1], [-1, 0], [1, 0]], np.float32)  # of the actions: up, down, left, right
WALL, FOOD, POISON, AGENT = range(4)  # what a ray may meet


@struct.dataclass
class State(EnvState):
    """Of A agents and I items. Positions are from the lower left corner of the box, velocities in px per step."""

    agent: jax.Array  # (A, 2), px
    agent_velocity: jax.Array  # (A, 2)
    item: jax.Array  # (I, 2), px
    item_velocity: jax.Array  # (I, 2)
    is_food: jax.Array  # (I,), bool; the others are poison
    eaten: jax.Array  # (I,), bool


@struct.dataclass
class Params(EnvParams):
    """EvoJAX's numbers for one agent. A px is a 600th of the box's side."""

    size: float = 600.0  # px, of a side of the box
    radius: float = 10.0  # px, of every disc
    reach: float = 120.0  # px, of the sensors
    push: float = 1.0  # px per step, what an action adds to an agent's velocity
    kept: float = 0.95  # share of its velocity that the water leaves an agent in a step
    item_speed: float = 2.5  # px per step, the highest along each axis
    max_steps_in_episode: int = 1000


class WaterWorld(Environment):
    """Action: a push up, down, left or right. Reward: 1 for each food that an agent touches, -1 for each poison.

    What was touched is gone. If several agents touch one item in the same step, each of them gets its reward. Agents
    pass through each other, and so do items. Episodes end by the time alone.

    Observation: 30 rays, then the own velocity (2,). Each ray says what it meets first within reach: the distance to a
    wall, to food, to poison and, with several agents, to another agent, in units of reach and 1 for all that is not
    met, then the velocity (2,) of what it meets. All velocities are in radii per step. So 152 numbers, or 182.

    With several agents, observations, actions and rewards have an axis of agents first.
    """

    step = Adapter.step  # a reset, with all its rays, is computed only where an episode ended

    def __init__(self, num_agents=1, num_items=50, params=None):
        self.num_agents, self.num_items = num_agents, num_items
        self.params = Params() if params is None else params
        self.num_kinds = AGENT if num_agents == 1 else AGENT + 1  # of what a ray may meet

    @property
    def default_params(self):
        return self.params

    @property
    def name(self):
        return f"WaterWorld-{'single' if self.num_agents == 1 else 'several'}"

    def reset_env(self, key, params):
        """All are anywhere, the agents at rest. Each item is food or poison, each with the same chance."""
        # EvoJAX puts several agents on a circle around all items; here they start as one agent does
        agent_key, item_key, velocity_key, food_key = jax.random.split(key, 4)
        margin = 2.0 * params.radius
        place = functools.partial(jax.random.uniform, minval=margin, maxval=params.size - margin)
        state = State(
            time=jnp.int32(0),
            agent=place(agent_key, (self.num_agents, 2)),
            agent_velocity=jnp.zeros((self.num_agents, 2)),
            item=place(item_key, (self.num_items, 2)),
            item_velocity=params.item_speed * jax.random.uniform(velocity_key, (self.num_items, 2), minval=-1.0),
            is_food=jax.random.bernoulli(food_key, 0.5, (self.num_items,)),
            eaten=jnp.zeros(self.num_items, bool),
        )
        return self.get_obs(state, params), state

    def step_env(self, key, state, action, params):
        push = params.push * jnp.asarray(DIRECTIONS)[action.reshape(self.num_agents)]
        agent_velocity = params.kept * (state.agent_velocity + push)
        agent, hit = inside(state.agent + agent_velocity, params)
        agent_velocity = jnp.where(hit.any(axis=1, keepdims=True), 0.0, agent_velocity)  # at a wall agents stop dead
        item, hit = inside(state.item + state.item_velocity, params)
        item_velocity = jnp.where(hit, -state.item_velocity, state.item_velocity)  # and items bounce

        distance = jnp.linalg.norm(agent[:, None] - item, axis=-1)  # (A, I)
        touched = (distance < 2.0 * params.radius) & ~state.eaten
        reward = jnp.where(touched, jnp.where(state.is_food, 1.0, -1.0), 0.0).sum(axis=1)
        state = state.replace(
            time=state.time + 1,
            agent=agent,
            agent_velocity=agent_velocity,
            item=item,
            item_velocity=item_velocity,
            eaten=state.eaten | touched.any(axis=0),
        )
        return self.get_obs(state, params), state, self.by_agent(reward), jnp.bool_(False), {}

    def get_obs(self, state, params=None, key=None):
        params = self.params if params is None else params
        kind = [jnp.array([WALL]), jnp.where(state.is_food, FOOD, POISON), jnp.full(self.num_agents, AGENT)]
        velocity = jnp.concatenate([jnp.zeros((1, 2)), state.item_velocity, state.agent_velocity]) / params.radius
        what = jnp.concatenate([jnp.concatenate(kind)[:, None] == jnp.arange(self.num_kinds), velocity], axis=1)
        others = ~jnp.eye(self.num_agents, dtype=bool)
        there = jnp.concatenate([jnp.broadcast_to(~state.eaten, (self.num_agents, self.num_items)), others], axis=1)
        discs = jnp.concatenate([state.item, state.agent])
        rays = jax.vmap(sense, (0, 0, None, None, None))(state.agent, there, discs, what, params)
        obs = jnp.concatenate([rays.reshape(self.num_agents, -1), state.agent_velocity / params.radius], axis=1)
        return self.by_agent(obs)

    def by_agent(self, x):
        return x if self.num_agents > 1 else x[0]

    def action_space(self, params=None):
        return spaces.Discrete(len(DIRECTIONS))

    def observation_space(self, params=None):
        low = jnp.array([0.0] * self.num_kinds + [-jnp.inf] * 2)  # of a ray
        high = jnp.array([1.0] * self.num_kinds + [jnp.inf] * 2)
        low, high = (jnp.append(jnp.tile(x, SENSORS), x[-2:]) for x in (low, high))
        return spaces.Box(low, high, low.shape, jnp.float32)

    def render(self, state):
        """The box, discs 8 pixels wide: food green, poison red, agents blue, what is within their reach shaded."""
        size, radius, agents, left = self.params.size, self.params.radius, self.num_agents, ~state.eaten
        positions = np.concatenate([state.agent, state.item[left], state.agent])
        radii = [self.params.reach] * agents + [radius] * (left.sum() + agents)
        items = [(60, 170, 60) if food else (220, 50, 40) for food in state.is_food[left]]
        colours = [(225, 235, 250)] * agents + items + [(40, 80, 220)] * agents
        return draw_discs(positions, radii, colours, ((0.0, size), (0.0, size)), size=round(4 * size / radius))


def sense(origin, there, discs, what, params):
    """What the rays of an agent at origin (2,) meet first within reach, (SENSORS, kinds + 2), see WaterWorld.

    Args: there (N,), bool, which of N discs it can see; discs (N, 2), their centres; what (1 + N, kinds + 2): of a
    wall, then of each disc, the kind as a one-hot and the velocity in radii per step.
    """
    angle = 2.0 * jnp.pi * jnp.arange(SENSORS) / SENSORS
    directions = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    lengths = jnp.where(there, to_discs(origin, directions, discs, params.radius), jnp.inf)
    lengths = jnp.concatenate([to_walls(origin, directions, params.size)[:, None], lengths], axis=1)
    length = lengths.min(axis=1, keepdims=True)
    # On a CPU argmin and a gather take 4 times as long as this product. Those that are equally near share a ray
    met = jnp.matmul((lengths == length).astype(jnp.float32), what, precision="highest")
    met = met / met[:, :-2].sum(axis=1, keepdims=True)
    length = jnp.clip(length / params.reach, 0.0, 1.0)
    distance = jnp.where(met[:, :-2] > 0.0, length, 1.0)
    return jnp.concatenate([distance, jnp.where(length < 1.0, met[:, -2:], 0.0)], axis=1)


def inside(position, params):
    """(positions (N, 2) kept in the box, whether a wall was hit (N, 2)). A disc stays inside as a whole."""
    # In EvoJAX the centre may come as near as 1 px to a wall, which cuts discs off
    kept = jnp.clip(position, params.radius, params.size - params.radius)
    return kept, kept != position


def to_discs(origin, directions, discs, radius):
    """Lengths of rays up to discs, (S, N), inf where they miss; below 0 where the origin is inside of a disc.

    Discs with their centres behind are not met. Args: origin (2,), directions (S, 2) of length 1, centres discs (N, 2).
    """
    # EvoJAX measures to the point of the ray nearest to the centre; if the disc is on one side, to a point off the ray
    x, y = (discs - origin).T
    along = directions[:, :1] * x + directions[:, 1:] * y
    beside = directions[:, :1] * y - directions[:, 1:] * x
    half_chord = jnp.sqrt(jnp.maximum(radius**2 - beside**2, 0.0))
    return jnp.where((along > 0.0) & (half_chord > 0.0), along - half_chord, jnp.inf)


def to_walls(origin, directions, size):
    """Lengths of rays (S,) up to the walls of a box from 0 to size, from a point inside."""
    return (jnp.where(directions > 0.0, size - origin, origin) / jnp.abs(directions)).min(axis=1)


def several():
    """EvoJAX's game of several agents: smaller discs, a shorter reach and more items in the same box."""
    return Lanes(WaterWorld(num_agents=16, num_items=100, params=Params(radius=5.0, reach=60.0)))

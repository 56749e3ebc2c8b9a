"""Particles: agents who walk over a map of cells with walls and food. One engine, four tasks, three action spaces.

An id is particles/TASK, then -one or -large or nothing, then -9 or -box or nothing: particles/forage-one-box.

    TASK    forage, scatter, predator_prey or group, see the tasks below
    size    64 x 64 cells with 64 agents; -one: with a single agent, who forages; -large: 1,024 x 1,024 with 4,096
    actions MultiDiscrete([3, 3]); -9: MultiDiscrete([9, 9]); -box: Box(-1, 1, (2,))

An action is a velocity (2,) in [-1, 1], along rows and along columns, in units of EnvParams.speed cells per step. A
discrete one picks it from 3 or 9 evenly spaced numbers per axis. Nothing else differs between the action spaces. A step
moves at most one cell per axis, for speed is clipped to 0..1. Several agents are lanes of one game, see
environments/lanes.py; a single one is an ordinary environment of gymnax.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment, EnvParams, EnvState

from environments.adapter import Adapter
from environments.lanes import Lanes
from environments.spaces import MultiDiscrete

EMPTY, WALL, FOOD, AGENT = range(4)  # what is in a cell: one of these, and AGENT + k for an agent of kind k
REACH = 5  # cells that an agent sees in each direction
BELOW_1 = np.nextafter(np.float32(1), np.float32(0))


@struct.dataclass
class State(EnvState):
    """An agent is at cell + offset: so small steps are as exact at the map's far end as at its start."""

    shortened: jax.Array  # steps that this episode is shorter than others, see Params.stagger
    grid: jax.Array  # (size + 2 REACH, size + 2 REACH), int8: what is in a cell, with walls all around
    cell: jax.Array  # (A, 2), int32, from 0 to size - 1: row and column
    offset: jax.Array  # (A, 2), in [0, 1): where in the cell


@struct.dataclass
class Params(EnvParams):
    speed: float = 1.0  # cells per step of an action of 1, from 0 to 1
    regrow: bool = True  # food that was eaten comes back in random free cells, as soon as these are found
    stagger: bool = False  # cut the first episode after `reset` at a random time, so that games don't end together
    max_steps_in_episode: int = 200


class Particles(Environment):
    """A task on size x size cells. An observation: (11, 11, channels), bool: walls, food if there is any, each kind.

    It is the window around an agent, who stands in its centre, in the channel of its kind: by this it knows who it is.
    What is outside of the map looks like walls. Observations, actions and rewards have an axis of agents first, but
    where num_agents = 1. Episodes end by the time alone.

    Movement. An agent may always move within its cell. To leave it, it must find the other cell free at the beginning
    of the step, and so can't follow at once into one that is being left. If several want a cell, one of them gets it,
    each with the same chance. Who can't move stays exactly where it was.

    choices: how many numbers an action picks from per axis; None: a Box. Raises ValueError for what does not fit.
    """

    step = Adapter.step  # a new map is made only where an episode ended

    def __init__(self, task, size=64, num_agents=64, choices=3):
        self.task, self.size, self.num_agents, self.choices = task, size, num_agents, choices
        self.num_food, self.num_walls = round(task.food * size**2), round(task.walls * size**2)
        if num_agents < 1 or num_agents + self.num_food + self.num_walls > size**2:
            raise ValueError(
                f"{num_agents} agents, {self.num_food} food and {self.num_walls} walls need at least one agent, and"
                f" a cell each, and there are {size**2}: change num_agents, size, or the task's food and walls"
            )
        if choices is not None and choices < 2:
            raise ValueError(f"choices must be 2 or more numbers per axis, or None for a Box, not {choices}")
        ends = np.cumsum(task.shares) / np.sum(task.shares)
        self.kinds = np.searchsorted(ends, (np.arange(num_agents) + 0.5) / num_agents)  # (A,), those of a kind together
        seen = [WALL, *([FOOD] if self.num_food else []), *(AGENT + kind for kind in range(len(task.shares)))]
        self.channels = np.array(seen, np.int8)

    @property
    def default_params(self):
        return Params()

    # --- Starts -------------------------------------------------------------------------------------------------------
    @functools.partial(jax.jit, static_argnames="self")
    def reset(self, key, params=None):
        """As reset_env, but with params.stagger this episode ends at a random time.

        Only who calls from outside comes here: within step the next episode is begun by reset_env, and has full length.
        So games stay apart, and of each game only the first episode is short. Returns of short episodes are smaller.
        """
        params = self.default_params if params is None else params
        obs, state = self.reset_env(key, params)
        shortened = jax.random.randint(jax.random.fold_in(key, 1), (), 0, params.max_steps_in_episode)
        return obs, state.replace(shortened=jnp.where(params.stagger, shortened, 0))

    def reset_env(self, key, params):
        map_key, offset_key = jax.random.split(key)
        grid, cell = self.task.init(map_key, self)
        grid = jnp.pad(grid.astype(jnp.int8), REACH, constant_values=WALL)
        grid = put(grid, cell, AGENT + self.kinds)
        offset = jax.random.uniform(offset_key, cell.shape)
        state = State(time=jnp.int32(0), shortened=jnp.int32(0), grid=grid, cell=cell.astype(jnp.int32), offset=offset)
        return self.get_obs(state), state

    def is_truncated(self, state, params):
        return state.time + state.shortened >= params.max_steps_in_episode

    # --- Steps --------------------------------------------------------------------------------------------------------
    def step_env(self, key, state, action, params):
        move_key, food_key = jax.random.split(key)
        distance = jnp.clip(params.speed, 0.0, 1.0) * self.velocity(action.reshape(self.num_agents, 2))
        cell, offset, eaten = move(move_key, state, distance)
        grid = put(put(state.grid, state.cell, EMPTY), cell, AGENT + self.kinds)
        if self.num_food:
            grid = self.with_new_food(food_key, grid, params)
        state = state.replace(time=state.time + 1, grid=grid, cell=cell, offset=offset)
        window = windows(state)
        reward = jnp.clip(self.task.reward(self, window, eaten), -1.0, 1.0)
        return self.seen(window), state, self.by_agent(reward), jnp.bool_(False), {}

    def velocity(self, action):
        """Actions (A, 2) as velocities from -1 to 1."""
        if self.choices is None:
            return jnp.clip(action, -1.0, 1.0)
        return 2.0 * action / (self.choices - 1) - 1.0

    def with_new_food(self, key, grid, params):
        """The grid with as much food as at first, or less: as many random cells are tried as there are agents."""
        missing = self.num_food - (grid == FOOD).sum(axis=0, dtype=jnp.int16).sum()  # on a CPU twice as fast as in one
        row, column = REACH + jax.random.randint(key, (2, self.num_agents), 0, self.size)
        grows = (jnp.arange(self.num_agents) < missing) & (grid[row, column] == EMPTY) & params.regrow
        return grid.at[row, column].max(jnp.where(grows, FOOD, EMPTY).astype(jnp.int8))

    def get_obs(self, state, params=None, key=None):
        return self.seen(windows(state))

    def seen(self, window):
        return self.by_agent(window[..., None] == self.channels)

    def by_agent(self, x):
        return x if self.num_agents > 1 else x[0]

    # --- Spaces and pictures ------------------------------------------------------------------------------------------
    def action_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (2,)) if self.choices is None else MultiDiscrete([self.choices] * 2)

    def observation_space(self, params=None):
        return spaces.Box(0, 1, (2 * REACH + 1, 2 * REACH + 1, len(self.channels)), jnp.bool_)

    def render(self, state):
        """The map, of 256 x 256 pixels or nearly: walls in grey, food in green, agents in blue, then red."""
        colours = np.array(
            [(255, 255, 255), (90, 90, 90), (120, 200, 110), (40, 80, 220), (220, 50, 40), (240, 160, 30)], np.uint8
        )
        grid = np.asarray(state.grid)[REACH:-REACH, REACH:-REACH]
        together = -(-self.size // 256)  # so many cells per pixel: the highest is seen, agents above food
        grid = np.pad(grid, (0, -self.size % together))
        grid = grid.reshape(len(grid) // together, together, -1, together).max(axis=(1, 3))
        scale = max(1, 256 // len(grid))
        return np.kron(colours[np.minimum(grid, len(colours) - 1)], np.ones((scale, scale, 1), np.uint8))


# --- The engine -------------------------------------------------------------------------------------------------------
def move(key, state, distance):
    """(cell, offset, eaten) of agents who want to go by distance (A, 2), in cells, from -1 to 1; eaten: (A,), bool."""
    moved = state.offset + distance
    across = jnp.clip(jnp.floor(moved), -1.0, 1.0)  # a sum may round up to 2
    wanted = state.cell + across.astype(jnp.int32)
    there = state.grid[wanted[:, 0] + REACH, wanted[:, 1] + REACH]
    leaves = (across != 0).any(axis=1)
    enters = first_come(key, wanted, leaves & ((there == EMPTY) | (there == FOOD)), state.grid.shape)
    cell = jnp.where(enters[:, None], wanted, state.cell)
    offset = jnp.where((enters | ~leaves)[:, None], jnp.clip(moved - across, 0.0, BELOW_1), state.offset)
    return cell, offset, enters & (there == FOOD)


def first_come(key, wanted, wants, shape):
    """Which agents get in, (A,): of all who want a cell exactly one, by the highest of random numbers.

    Args: wanted (A, 2), cells; wants (A,), whether an agent may and will enter its one; shape: of the padded grid.
    """
    if len(wants) == 1:
        return wants
    priority = numbered_bits(key, len(wants))
    row, column = wanted[:, 0] + REACH, wanted[:, 1] + REACH
    highest = jnp.zeros(shape, jnp.uint32).at[row, column].max(jnp.where(wants, priority, 0))
    return wants & (highest[row, column] == priority)


def numbered_bits(key, count):
    """Random numbers, (count,), all different: the low bits are their places from 0 on, the other of 32 bits random."""
    return jax.random.bits(key, (count,)) & ~low_bits(count) | jnp.arange(count, dtype=jnp.uint32)


def low_bits(count):
    """A mask of the bits that the numbers below count need."""
    return jnp.uint32(2 ** (count - 1).bit_length() - 1)


def put(grid, cell, what):
    """The padded grid with `what` in cells (A, 2), all different."""
    what = jnp.broadcast_to(what, len(cell)).astype(jnp.int8)
    return grid.at[cell[:, 0] + REACH, cell[:, 1] + REACH].set(what, unique_indices=True)


def windows(state):
    """What is in the cells around each agent, (A, 11, 11). On a CPU a gather of single cells takes 3 times as long."""
    size = (2 * REACH + 1, 2 * REACH + 1)
    return jax.vmap(lambda cell: jax.lax.dynamic_slice(state.grid, cell, size))(state.cell)


# --- Tasks ------------------------------------------------------------------------------------------------------------
class Task(NamedTuple):
    """What a map looks like at first, and what is good there. Shares are static: they shape the program.

    init(key, env) -> (grid (size, size) of EMPTY, WALL and FOOD, cell (A, 2): different empty ones for the agents).
    reward(env, window, eaten) -> (A,), which is clipped to -1..1: of the windows (A, 11, 11) that a step led to, and of
    who ate in it, (A,). env.kinds (A,) has the kinds of agents.
    """

    init: Callable
    reward: Callable
    shares: tuple = (1.0,)  # of agents, one per kind
    food: float = 0.0  # share of all cells
    walls: float = 0.05  # share of all cells, each for itself


def scattered(key, env):
    """Agents, food and walls, each in a random cell of its own."""
    order = jnp.sort(numbered_bits(key, env.size**2)) & low_bits(env.size**2)  # on a CPU faster than argsort
    order = order.astype(jnp.int32)
    things = np.repeat([EMPTY, FOOD, WALL], [env.num_agents, env.num_food, env.num_walls])
    grid = jnp.zeros(env.size**2, jnp.int8).at[order[: len(things)]].set(things.astype(np.int8))
    cell = jnp.stack(jnp.divmod(order[: env.num_agents], env.size), axis=1)
    return grid.reshape(env.size, env.size), cell


def in_view(env, window):
    """How many others of each kind are in windows (A, height, width), (A, kinds). Who looks is in the centre."""
    kinds = jnp.arange(len(env.task.shares))
    return (window[..., None] == AGENT + kinds).sum(axis=(1, 2)) - (env.kinds[:, None] == kinds)


def forage(env, window, eaten):
    """0.1 for each food."""
    return 0.1 * eaten


def scatter(env, window, eaten):
    """-0.1 for each other agent in view."""
    return -0.1 * in_view(env, window).sum(axis=1)


def predator_prey(env, window, eaten):
    """A predator, of kind 0, gets 0.1 for each prey in the 8 cells around it, and that prey -0.1. Nobody is removed.

    All rewards of a step add up to 0, so the mean return over agents is always 0: look at each kind's own.
    """
    near = slice(REACH - 1, REACH + 2)
    predators, prey = in_view(env, window[:, near, near]).T
    return 0.1 * jnp.where(env.kinds == 0, prey, -predators)


def group(env, window, eaten):
    """0.1 for each other agent of the same kind in view, less 0.1 for each one of another kind."""
    count = in_view(env, window)
    same = jnp.take_along_axis(count, env.kinds[:, None], axis=1)[:, 0]
    return 0.1 * (2 * same - count.sum(axis=1))


TASKS = {
    "forage": Task(scattered, forage, food=0.1),
    "scatter": Task(scattered, scatter),
    "predator_prey": Task(scattered, predator_prey, shares=(0.25, 0.75)),
    "group": Task(scattered, group, shares=(0.5, 0.5)),
}

# --- Ids --------------------------------------------------------------------------------------------------------------
SIZES = {"": (64, 64), "-one": (64, 1), "-large": (1024, 4096)}  # cells per side, agents
ACTIONS = {"": 3, "-9": 9, "-box": None}


def make(task, size, actions):
    """The environment of a part of an id each, ready for the scripts."""
    env = Particles(TASKS[task], *SIZES[size], ACTIONS[actions])
    return Lanes(env) if env.num_agents > 1 else env


ENVIRONMENTS = {
    f"particles/{task}{size}{actions}": functools.partial(make, task, size, actions)
    for task in TASKS
    for size in SIZES
    for actions in ACTIONS
    if size != "-one" or task == "forage"  # the other tasks are about other agents
}

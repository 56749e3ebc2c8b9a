"""Jumanji (Bonnet et al. 2023, arXiv:2306.09884): combinatorial problems as games."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces

from environments.adapter import NO_LIMIT, Adapter, Unavailable

SUITE, PACKAGE, REQUIREMENT = "jumanji", "jumanji", "jumanji>=1.1.2,<1.2"
# Without Sokoban-v0, whose levels are downloaded
NAMES = (
    "BinPack-v2", "CVRP-v1", "Cleaner-v0", "Connector-v3", "FlatPack-v0", "Game2048-v1", "GraphColoring-v1",
    "JobShop-v0", "Knapsack-v1", "LevelBasedForaging-v0", "MMST-v0", "Maze-v0", "Minesweeper-v0", "MultiCVRP-v0",
    "PacMan-v1", "RobotWarehouse-v0", "RubiksCube-partly-scrambled-v0", "RubiksCube-v0", "SearchAndRescue-v0",
    "SlidingTilePuzzle-v0", "Snake-v1", "Sudoku-v0", "Sudoku-very-easy-v0", "TSP-v1", "Tetris-v0",
)  # fmt: skip
SLOWLY_DRAWN = ("GraphColoring-v1", "PacMan-v1")  # 3 s and more per picture
MOST_ACTIONS = 1024  # combinations of parts, which become one choice


def make(name):
    import jumanji

    env = jumanji.make(name)
    _, timestep = jax.eval_shape(env.reset, jax.random.key(0))
    if timestep.reward.shape:
        raise Unavailable(f"jumanji/{name} has a reward for each of its agents; here an environment has one agent")
    parts = getattr(env.action_spec, "num_values", None)
    if parts is None:
        raise Unavailable(f"jumanji/{name} acts in {env.action_spec}, which no script here can")
    parts = tuple(int(n) for n in np.atleast_1d(parts))
    if math.prod(parts) > MOST_ACTIONS:
        raise Unavailable(
            f"jumanji/{name} acts in {parts} parts: {math.prod(parts)} combinations, too many for one choice"
        )
    mask = getattr(timestep.observation, "action_mask", None)
    masked = mask is not None and mask.shape == parts  # and not one for each part alone
    return (Drawn if viewer(env) and name not in SLOWLY_DRAWN else Jumanji)(env, parts, masked)


class Jumanji(Adapter):
    """`inner` is Jumanji's state. Actions of several parts are one choice among all combinations, the last part first.

    The last num_masked entries of an observation say which actions are legal. An illegal one does what Jumanji does: it
    often ends the episode.
    """

    def __init__(self, env, parts, masked):
        self.env, self.parts, self.max_steps = env, parts, getattr(env, "time_limit", NO_LIMIT)
        env.time_limit = 2**31 - 1  # its own would look like an end
        self.num_masked = math.prod(parts) if masked else 0

    def begin(self, key, params):
        inner, timestep = self.env.reset(key)
        return self.seen(timestep.observation), inner

    def seen(self, obs):
        """The observation, with its mask behind all else."""
        return (obs._replace(action_mask=None), obs.action_mask.ravel()) if self.num_masked else obs

    def go_on(self, key, inner, action, params):
        if self.env.action_spec.shape:
            action = jnp.stack(jnp.unravel_index(action, self.parts))
        inner, timestep = self.env.step(inner, action)
        return self.seen(timestep.observation), inner, timestep.reward, timestep.last()

    def action_space(self, params=None):
        return spaces.Discrete(math.prod(self.parts))


class Drawn(Jumanji):
    """An environment that Jumanji has a viewer for."""

    def render(self, state):
        drawing = viewer(self.env)
        drawing.figure_size = (3.0, 3.0)  # inches of 100 pixels; its own 10 would take ten times as long
        drawing._display = drawing._display_rgb_array  # rather than in a window
        frame = drawing.render(self.unpack(state))
        return np.array(frame[..., :3])  # a copy, for the next one is drawn over it; without transparency


def viewer(env):
    return getattr(env, "_viewer", None) or getattr(env, "_env_viewer", None)

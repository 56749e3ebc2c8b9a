"""Craftax (Matthews et al. 2024, arXiv:2402.16801): an open-ended world to survive in, after Crafter and NetHack."""

import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces

from environments.adapter import Adapter

SUITE, PACKAGE, REQUIREMENT = "craftax", "craftax", "craftax>=1.6,<2"
NAMES = ("symbolic", "classic-symbolic", "pixels", "classic-pixels")
# A colour per kind of block, by its number: unknown, outside, grass, water, stone, tree, wood, path, coal, iron,
# diamond, table, furnace, sand, lava, plant, ripe plant; then those of the full game
COLOURS = np.array([[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in (
    "000000 000000 5aa02c 3b6fc4 8a8a8a 1e5a1e a0703c c8b48c 333333 d8a58c 8ce6e6 8c5a28 5a5a78 e6d28c f05a14 96c832 "
    "f0c832 6e5a46 141414 5a6e46 6e6e6e 2850dc c81e3c b4781e 50a0dc b4783c c8e6f0 96826e 8c3c14 a0c8d2 dc5014 78b4dc "
    "7828a0 505050 5a5a5a 646464 b43cdc"
).split()], np.uint8)  # fmt: skip
PIXELS = 8  # width of a block in pictures


def make(name):
    """The full game or the classic one, seen as symbols or as pixels (their textures take minutes at first use)."""
    from craftax.craftax_env import make_craftax_env_from_params

    env = make_craftax_env_from_params(classic="classic" in name, symbolic="symbolic" in name, auto_reset=False)
    return Craftax(env, max_steps=env.default_params.max_timesteps)


class Craftax(Adapter):
    """`inner` is Craftax's state. Its own count of steps also tells it day from night."""

    def __init__(self, env, max_steps):
        self.env, self.max_steps = env, max_steps
        self.env_params = env.default_params.replace(max_timesteps=2**31 - 1)  # its own limit would look like death

    def begin(self, key, params):
        return self.env.reset_env(key, self.env_params)

    def go_on(self, key, inner, action, params):
        obs, inner, reward, terminated, _ = self.env.step_env(key, inner, action, self.env_params)
        return obs, inner, reward, terminated

    def action_space(self, params=None):
        return spaces.Discrete(self.env.num_actions)

    def observation_space(self, params=None):
        return spaces.Box(0.0, 1.0, self.flat_shape.shape, jnp.float32)

    def render(self, state):
        """The map of the level that the player is on, a colour per kind of block; the player is white."""
        inner = self.unpack(state)
        blocks = np.asarray(inner.map if inner.map.ndim == 2 else inner.map[inner.player_level])
        frame = COLOURS[blocks].copy()
        frame[tuple(np.asarray(inner.player_position))] = 255
        return frame.repeat(PIXELS, axis=0).repeat(PIXELS, axis=1)

"""Navix (Pignatelli et al. 2024, arXiv:2407.19396): the grid worlds of MiniGrid, with its lava and moving obstacles."""

import numpy as np
from gymnax.environments import spaces

from environments.adapter import Adapter

SUITE, PACKAGE, REQUIREMENT = "navix", "navix", "navix>=0.7.4,<5"
# Those of 0.7.4, the last for Python 3.11; later ones have more
NAMES = (
    "DistShift1", "DistShift2", "DoorKey-5x5", "DoorKey-6x6", "DoorKey-8x8", "DoorKey-16x16", "DoorKey-Random-5x5",
    "DoorKey-Random-6x6", "DoorKey-Random-8x8", "DoorKey-Random-16x16", "Dynamic-Obstacles-5x5",
    "Dynamic-Obstacles-5x5-Random", "Dynamic-Obstacles-6x6", "Dynamic-Obstacles-6x6-Random", "Dynamic-Obstacles-8x8",
    "Dynamic-Obstacles-16x16", "Empty-5x5", "Empty-6x6", "Empty-8x8", "Empty-16x16", "Empty-Random-5x5",
    "Empty-Random-6x6", "Empty-Random-8x8", "Empty-Random-16x16", "FourRooms", "GoToDoor-5x5", "GoToDoor-6x6",
    "GoToDoor-8x8", "KeyCorridorS3R1", "KeyCorridorS3R2", "KeyCorridorS3R3", "KeyCorridorS4R3", "KeyCorridorS5R3",
    "KeyCorridorS6R3", "LavaGapS5", "LavaGapS6", "LavaGapS7", "SimpleCrossingS9N1", "SimpleCrossingS9N2",
    "SimpleCrossingS9N3", "SimpleCrossingS11N5",
)  # fmt: skip


def make(name):
    import navix

    return Navix(navix.make(f"Navix-{name}-v0", max_steps=None))  # None: MiniGrid's own, and not 100 for all


class Navix(Adapter):
    """`inner` is Navix' time step. It observes the whole grid: kind, colour and state of each tile."""

    def __init__(self, env):
        self.env, self.max_steps = env, env.max_steps

    def begin(self, key, params):
        inner = self.env.reset(key)
        return inner.observation, inner

    def go_on(self, key, inner, action, params):
        inner = self.env._step(inner, action)  # `step` would reset, and one step late
        return inner.observation, inner, inner.reward, inner.is_termination()

    def action_space(self, params=None):
        return spaces.Discrete(len(self.env.action_set))

    def render(self, state):
        from navix import observations

        return np.asarray(observations.rgb(self.unpack(state).state))

"""XLand-MiniGrid (Nikulin et al. 2023, arXiv:2312.12044): the grid worlds of MiniGrid."""

import jax
import numpy as np
from gymnax.environments import spaces

from environments.adapter import Adapter

SUITE, PACKAGE, REQUIREMENT = "xminigrid", "xminigrid", "xminigrid>=0.9.3,<0.10"
# Without XLand's tasks: their rules are downloaded, and without rules there is no goal
NAMES = (
    "BlockedUnlockPickUp", "DoorKey-5x5", "DoorKey-6x6", "DoorKey-8x8", "DoorKey-16x16", "Empty-5x5", "Empty-6x6",
    "Empty-8x8", "Empty-16x16", "EmptyRandom-5x5", "EmptyRandom-6x6", "EmptyRandom-8x8", "EmptyRandom-16x16",
    "FourRooms", "LockedRoom", "MemoryS8", "MemoryS16", "MemoryS32", "MemoryS64", "MemoryS128", "Playground", "Unlock",
    "UnlockPickUp",
)  # fmt: skip


def make(name):
    import xminigrid

    return XMiniGrid(*xminigrid.make(f"MiniGrid-{name}"))


class XMiniGrid(Adapter):
    """`inner` is XLand-MiniGrid's state. It observes (7, 7, 2): the kind and the colour of each tile in view."""

    def __init__(self, env, env_params):
        self.env, self.env_params, self.max_steps = env, env_params, env_params.max_steps

    def begin(self, key, params):
        timestep = self.env.reset(self.env_params, key)
        return timestep.observation, timestep.state

    def go_on(self, key, inner, action, params):
        # The reward of reaching the goal falls from 1 to 0.1 over the time limit, so it must know it
        env_params = self.env_params.replace(max_steps=params.max_steps_in_episode)
        timestep = self.env.step(env_params, timestep_of(inner), action)
        return timestep.observation, timestep.state, timestep.reward, timestep.discount == 0

    def action_space(self, params=None):
        return spaces.Discrete(self.env.num_actions(self.env_params))

    def render(self, state):
        inner = jax.tree.map(np.asarray, self.unpack(state).replace(key=None))
        return self.env.render(self.env_params, timestep_of(inner))


def timestep_of(inner):
    """What step and render take: of it they read the state alone."""
    from xminigrid.types import TimeStep

    return TimeStep(state=inner, step_type=None, reward=None, discount=None, observation=None)

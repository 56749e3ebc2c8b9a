"""Six tasks that are controlled by numbers from -1 to 1, each with four action spaces in which nothing else differs.

An id is control/TASK-ACTIONS: control/CartPole-box. With A numbers per step, of which TASKS says what they are,

    -3      MultiDiscrete([3] * A): each number is chosen from -1, 0 and 1
    -9      MultiDiscrete([9] * A): from -1, -0.75 and so on to 1
    -box    Box(-1, 1, (A,)): any number; beyond the bounds it is clipped
    -round  the same Box, but clipped numbers are rounded to the nearest of -1, 0 and 1

An action has the shape (A,) in all of them, also with A = 1, so that scripts do the same with each. Where actions lead
to equal numbers they lead to equal episodes. benchmarks/actions.py compares learning in them.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from gymnax.environments import spaces
from gymnax.environments.classic_control.acrobot import Acrobot
from gymnax.environments.classic_control.cartpole import CartPole
from gymnax.environments.classic_control.mountain_car import MountainCar
from gymnax.environments.classic_control.pendulum import Pendulum
from gymnax.wrappers.purerl import GymnaxWrapper

from environments import particles
from environments.point_mass import PointMass
from environments.spaces import MultiDiscrete


class Task(NamedTuple):
    """make() -> the environment; apply(numbers (A,), params) -> the action and the params that give its step these."""

    make: Callable
    apply: Callable
    size: int = 1  # A


TASKS = {
    # The force in units of force_mag. gymnax has force_mag * action - force_mag * (1 - action), of actions 0 and 1
    "CartPole": Task(CartPole, lambda x, params: ((x[0] + 1.0) / 2.0, params)),
    # The force in units of Params.force. gymnax has (action - 1) * force, of actions 0, 1 and 2
    "MountainCar": Task(MountainCar, lambda x, params: (x[0] + 1.0, params)),
    # The torque in N m. gymnax has available_torque[action], of three: here there is only this one
    "Acrobot": Task(Acrobot, lambda x, params: (0, params.replace(available_torque=x))),
    # The torque in units of max_torque
    "Pendulum": Task(Pendulum, lambda x, params: (params.max_torque * x[0], params)),
    "PointMass": Task(PointMass, lambda x, params: (x, params), 2),
    "Forage": Task(functools.partial(particles.make, "forage", "-one", "-box"), lambda x, params: (x, params), 2),
}
ACTIONS = {"3": 3, "9": 9, "box": None, "round": None}  # how many numbers there are to choose from


class Controlled(GymnaxWrapper):
    """A task with one of the action spaces. Physics, reward, observation and time limit are the environment's own."""

    supports_transition_gradients = False  # the environment's own copy for them would lose this wrapper

    def __init__(self, task, actions):
        super().__init__(task.make())
        self.task, self.choices, self.rounds = task, ACTIONS[actions], actions == "round"

    def step(self, key, state, action, params=None):
        params = self.default_params if params is None else params
        action, params = self.task.apply(self.numbers(action.reshape(self.task.size)), params)
        return self._env.step(key, state, action, params)

    def numbers(self, action):
        """Actions (A,) as numbers from -1 to 1."""
        if self.choices:
            return 2.0 * action / (self.choices - 1) - 1.0
        action = jnp.clip(action, -1.0, 1.0)
        return jnp.round(action) if self.rounds else action

    def action_space(self, params=None):
        size = self.task.size
        return MultiDiscrete([self.choices] * size) if self.choices else spaces.Box(-1.0, 1.0, (size,))


ENVIRONMENTS = {
    f"control/{name}-{actions}": functools.partial(Controlled, task, actions)
    for name, task in TASKS.items()
    for actions in ACTIONS
}

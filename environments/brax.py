"""Brax (Freeman et al. 2021, arXiv:2106.13281): robots, by physics that can be differentiated."""

import jax
import jax.numpy as jnp
from gymnax.environments import spaces

from environments.adapter import Adapter

SUITE, PACKAGE, REQUIREMENT = "brax", "brax", "brax>=0.14.2,<0.15"
ROBOTS = (
    "ant", "halfcheetah", "hopper", "humanoid", "humanoidstandup", "inverted_double_pendulum", "inverted_pendulum",
    "pusher", "reacher", "walker2d",
)  # fmt: skip
BACKENDS = ("generalized", "spring", "positional", "mjx")
NAMES = (*ROBOTS, "swimmer", *(f"{robot}-{backend}" for robot in ROBOTS for backend in BACKENDS))


def make(name):
    """By robot, as in "ant", or by robot and backend, as in "ant-spring"; swimmer knows one backend only."""
    from brax import envs

    robot, _, backend = name.partition("-")
    return Brax(envs.get_environment(robot, backend=backend or "generalized"))  # generalized: Brax's default


class Brax(Adapter):
    """A robot of Brax, without Brax's own wrappers. `inner` is its pipeline state."""

    max_steps = 1000  # episode_length of brax.envs.create

    def __init__(self, env):
        self.env = env
        # MuJoCo's solver loops until it is done, and JAX can't go back through such a loop
        self._supports_transition_gradients = self._transition_gradients_enabled = env.backend != "mjx"

    def begin(self, key, params):
        state = self.env.reset(key)
        return state.obs, state.pipeline_state

    def go_on(self, key, inner, action, params):
        from brax.envs import State

        # Some robots never set done, so that this 0 comes back. Metrics and info are left empty: they only take room
        zero = jnp.zeros(())
        state = self.env.step(State(inner, jnp.zeros(self.flat_shape.shape), zero, zero), action)
        return state.obs, state.pipeline_state, state.reward, state.done > 0.5

    def action_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (self.env.action_size,))

    def render_html(self, states):
        """Brax's viewer of the states of an episode, as a page: it fetches three.js when it is opened."""
        from brax.io import html

        # The viewer wants names, which only the model has, and plain arrays
        return html.render(self.env.sys, [jax.device_get(self.unpack(state)) for state in states], colab=False)

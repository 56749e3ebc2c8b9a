"""Cart-pole swing-up: a hanging pole is to be swung up, and kept there, by pushing its cart; easy and hard starts."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment, EnvParams, EnvState
from PIL import Image, ImageDraw

SIZE, SCALE = 240, 40  # of a picture, in pixels, and pixels per meter


@struct.dataclass
class State(EnvState):
    x: jax.Array  # m, of the cart
    x_dot: jax.Array  # m/s
    theta: jax.Array  # rad, 0 where the pole stands upright
    theta_dot: jax.Array  # rad/s


@struct.dataclass
class Params(EnvParams):
    """The numbers of EvoJAX's task (Tang et al. 2022, arXiv:2202.05008)."""

    gravity: float = 9.82  # m/s^2
    mass_cart: float = 0.5  # kg
    mass_pole: float = 0.5  # kg
    length: float = 0.6  # m, of the pole
    friction: float = 0.1  # N s/m, of the cart on its track
    max_force: float = 10.0  # N, of an action of 1
    dt: float = 0.01  # s
    x_limit: float = 2.4  # m; further out the episode ends
    max_steps_in_episode: int = 1000


class CartPoleSwingUp(Environment):
    """The pole is a uniform rod, hinged at the cart. Observation: (x, x_dot, cos theta, sin theta, theta_dot).

    Action: (1,), the force in units of max_force, clipped to -1..1. Reward, from 0 to 1, of the state that a step leads
    to: (1 + cos theta) / 2 * cos(pi / 2 * x / x_limit). Gradients can pass, see gymnax's with_transition_gradients.
    """

    hard = False
    _supports_transition_gradients = True

    @property
    def default_params(self):
        return Params()

    @property
    def name(self):
        return f"CartPoleSwingUp-{'hard' if self.hard else 'easy'}"

    def reset_env(self, key, params):
        """Easy: near rest in the middle. Hard: anywhere, at up to 10 m/s and 10 rad/s, the pole below its hinge."""
        if self.hard:
            spread = jnp.array([params.x_limit, 10.0, jnp.pi / 2, 10.0])
            x, x_dot, angle, theta_dot = spread * jax.random.uniform(key, (4,), minval=-1.0)
        else:
            x, x_dot, angle, theta_dot = 0.2 * jax.random.normal(key, (4,))
        state = State(time=0, x=x, x_dot=x_dot, theta=jnp.pi + angle, theta_dot=theta_dot)
        return self.get_obs(state), state

    def step_env(self, key, state, action, params):
        x_acc, theta_acc = accelerations(state, jnp.clip(action.reshape(()), -1.0, 1.0), params)
        state = State(  # explicit Euler: positions move by the old velocities
            time=state.time + 1,
            x=state.x + params.dt * state.x_dot,
            x_dot=state.x_dot + params.dt * x_acc,
            theta=state.theta + params.dt * state.theta_dot,
            theta_dot=state.theta_dot + params.dt * theta_acc,
        )
        reward = (1.0 + jnp.cos(state.theta)) / 2.0 * jnp.cos(jnp.pi / 2.0 * state.x / params.x_limit)
        terminated = jnp.abs(state.x) > params.x_limit
        obs, state = self._apply_transition_gradient_policy(self.get_obs(state), state)
        return obs, state, reward, terminated, {}

    def get_obs(self, state, params=None, key=None):
        return jnp.array([state.x, state.x_dot, jnp.cos(state.theta), jnp.sin(state.theta), state.theta_dot])

    def action_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (1,))

    def observation_space(self, params=None):
        high = jnp.array([jnp.inf, jnp.inf, 1.0, 1.0, jnp.inf])
        return spaces.Box(-high, high, (5,), jnp.float32)

    def render(self, state):
        picture = Image.new("RGB", (SIZE, SIZE), "white")
        draw = ImageDraw.Draw(picture)
        track, limit, length = SIZE * 0.6, SCALE * Params.x_limit, SCALE * Params.length
        x, theta = SIZE / 2 + SCALE * float(state.x), float(state.theta)
        draw.line((SIZE / 2 - limit, track, SIZE / 2 + limit, track), "gray", width=2)
        draw.rectangle((x - 10, track - 5, x + 10, track + 5), "black")
        draw.line((x, track, x - length * np.sin(theta), track - length * np.cos(theta)), (200, 40, 40), width=5)
        return np.array(picture)


class CartPoleSwingUpHard(CartPoleSwingUp):
    hard = True


def accelerations(state, force, params):
    """(m/s^2 of the cart, rad/s^2 of the pole) under a force (), in units of max_force.

    Lagrange's equations of a cart and a uniform rod (Deisenroth 2010, "Efficient Reinforcement Learning using Gaussian
    Processes", appendix C), solved for the accelerations. With F, the force less friction, M = mass_cart + mass_pole:
    M x'' - m l / 2 (cos theta theta'' - sin theta theta'^2) = F,  2 l theta'' = 3 (g sin theta + cos theta x'').
    """
    sin, cos = jnp.sin(state.theta), jnp.cos(state.theta)
    mass = params.mass_cart + params.mass_pole
    pushed = params.max_force * force - params.friction * state.x_dot
    spun = params.mass_pole * params.length / 2.0 * sin * state.theta_dot**2  # by the pole that turns
    weighed = 0.75 * params.mass_pole * params.gravity * sin * cos  # by the pole that falls
    x_acc = (pushed - spun + weighed) / (mass - 0.75 * params.mass_pole * cos**2)
    return x_acc, 1.5 * (params.gravity * sin + cos * x_acc) / params.length

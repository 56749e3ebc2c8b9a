"""CartPole with its velocities hidden: a task that needs a memory."""

import jax.numpy as jnp
from gymnax.environments import spaces
from gymnax.environments.classic_control.cartpole import CartPole


class PositionOnlyCartPole(CartPole):
    """CartPole-v1 with velocities hidden, as in POPGym (Morad et al. 2023, arXiv:2303.01859): (position, angle)."""

    def get_obs(self, state, params=None, key=None):
        return jnp.array([state.x, state.theta])

    def observation_space(self, params):
        both = super().observation_space(params)
        return spaces.Box(both.low[::2], both.high[::2], (2,), jnp.float32)

"""Action spaces that gymnax has no class for."""

import jax
import jax.numpy as jnp
from gymnax.environments.spaces import Space


class MultiDiscrete(Space):
    """Several choices at once: an action is a vector (A,) of whole numbers, the i-th from 0 to num_categories[i] - 1.

    Scripts know it by its num_categories, so any other class that has them, and shape and sample, will do as well.
    """

    def __init__(self, num_categories):
        self.num_categories = tuple(int(n) for n in num_categories)
        if not self.num_categories or min(self.num_categories) < 1:
            raise ValueError(f"num_categories must name at least one choice of at least one, not {num_categories}")
        self.shape, self.dtype = (len(self.num_categories),), jnp.int32

    def __repr__(self):
        return f"MultiDiscrete({list(self.num_categories)})"

    def sample(self, key):
        return jax.random.randint(key, self.shape, 0, jnp.array(self.num_categories), self.dtype)

    def contains(self, x):
        return jnp.all((x >= 0) & (x < jnp.array(self.num_categories)))

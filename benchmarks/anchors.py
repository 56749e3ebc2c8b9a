"""Between which returns benchmarks/actions.py scales scores: of random actions, and of controllers written by hand.

    python benchmarks/anchors.py      # prints means over EPISODES episodes, with their standard errors; a minute

Random actions are -1, 0 or 1 with equal chances. Controllers are for tasks of which no other best return is known.
"""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from tasks import ROOT as ROOT  # the project is on the path from here on

from environments.control import TASKS
from environments.particles import REACH

EPISODES = 1000
MOVES = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)], np.float32)
NEARER = 0.35  # food a step further counts this much
STIFFNESS, DAMPING = 20.0, 6.0  # of the spring that pulls a point to its target


def random_actions(key, obs):
    return jnp.asarray(MOVES)[jax.random.randint(key, (), 0, len(MOVES))]


def pulled_to_the_target(key, obs):
    _, velocity, offset = obs.reshape(3, 2)
    return STIFFNESS * offset - DAMPING * velocity


def to_the_most_food(key, obs):
    """The move after which food is nearest: a sum over all that is in view, NEARER to the power of its distance."""
    walls, food = obs[..., 0], obs[..., 1]
    cells = np.indices(food.shape).transpose(1, 2, 0) - REACH
    distance = np.abs(cells - MOVES[:, None, None]).max(axis=-1)  # (9, 11, 11): diagonal steps count as one
    merit = (food * NEARER**distance).sum(axis=(1, 2))
    blocked = walls[tuple((MOVES + REACH).astype(int).T)]
    return jnp.asarray(MOVES)[jnp.argmax(jnp.where(blocked, -1.0, merit))]


CONTROLLERS = {"PointMass": pulled_to_the_target, "Forage": to_the_most_food}


def returns(name, act, episodes=EPISODES):
    """Returns (episodes,) of a controller act(key, obs) -> numbers (2,), of which a task takes the first ones."""
    env, params = gymnax.make(f"control/{name}-box")
    size = env.action_space(params).shape[0]

    def step(carry, key):
        obs, state, over = carry
        action = act(key, obs)[:size]
        obs, state, reward, terminated, truncated, _ = env.step(key, state, action, params)
        return (obs, state, over | terminated | truncated), jnp.where(over, 0.0, reward)

    def play(key):
        obs, state = env.reset(key, params)
        keys = jax.random.split(key, params.max_steps_in_episode)
        return jax.lax.scan(step, (obs, state, jnp.bool_(False)), keys)[1].sum()

    return np.asarray(jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(0), episodes)))


def main():
    print(f"means over {EPISODES} episodes, with standard errors")
    for name in TASKS:
        for act in (random_actions, *([CONTROLLERS[name]] if name in CONTROLLERS else [])):
            found = returns(name, act)
            error = found.std(ddof=1) / EPISODES**0.5
            print(f"{name:12} {act.__name__:22} {found.mean():10.2f} +- {error:.2f}", flush=True)


if __name__ == "__main__":
    main()

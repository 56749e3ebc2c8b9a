"""Pgx (Koyama et al. 2023, arXiv:2303.17503): board games against a random opponent, and MinAtar."""

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces

from environments.adapter import NO_LIMIT, Adapter
from environments.rendering import grid_frame

SUITE, PACKAGE, REQUIREMENT = "pgx", "pgx", "pgx>=2.6,<3"
MINATAR = ("minatar-asterix", "minatar-breakout", "minatar-freeway", "minatar-seaquest", "minatar-space_invaders")
DRAWN = (*MINATAR, "connect_four", "othello", "tic_tac_toe")  # observations are planes of zeros and ones
NAMES = (
    *MINATAR, "2048", "animal_shogi", "backgammon", "chess", "connect_four", "gardner_chess", "go_19x19", "go_9x9",
    "hex", "kuhn_poker", "leduc_holdem", "othello", "shogi", "sparrow_mahjong", "tic_tac_toe",
)  # fmt: skip


def make(name):
    import pgx

    return (Drawn if name in DRAWN else Pgx)(pgx.make(name))


class Pgx(Adapter):
    """We are player 0; the others play random legal moves until it is our turn again. `inner` is Pgx's state.

    The last num_masked entries of an observation say which moves are legal. An illegal one loses the game at once.
    """

    def __init__(self, env):
        self.env = env
        self.num_masked = 0 if env.id in MINATAR else env.num_actions  # all actions are legal in MinAtar
        # MinAtar's games as gymnax has them: freeway ends by the time alone, the others may go on for ever
        self.timed = env.id == "minatar-freeway"
        self.max_steps = 2500 if self.timed else 1000 if env.id in MINATAR else NO_LIMIT

    def begin(self, key, params):
        key, start_key = jax.random.split(key)
        inner, _ = self.others_play(key, self.env.init(start_key))
        return self.seen(inner), inner

    def seen(self, inner):
        """The observation, with the mask of legal actions behind it where there are illegal ones."""
        return (inner.observation, inner.legal_action_mask) if self.num_masked else inner.observation

    def go_on(self, key, inner, action, params):
        step_key, others_key = jax.random.split(key)
        inner = self.env.step(inner, action, step_key)
        inner, others_reward = self.others_play(others_key, inner)
        reward = inner.rewards[0]
        return self.seen(inner), inner, reward + others_reward, inner.terminated & (not self.timed)

    def others_play(self, key, inner):
        """The state when it is our turn or the game is over, and the rewards that we got before the last of them."""
        if self.env.num_players == 1:
            return inner, jnp.float32(0)

        def move(loop):
            key, inner, reward = loop
            key, move_key, step_key = jax.random.split(key, 3)
            action = jax.random.categorical(move_key, jnp.where(inner.legal_action_mask, 0.0, -jnp.inf))
            return key, self.env.step(inner, action, step_key), reward + inner.rewards[0]

        def others_turn(loop):
            return (loop[1].current_player != 0) & ~loop[1].terminated

        _, inner, reward = jax.lax.while_loop(others_turn, move, (key, inner, jnp.float32(0)))
        return inner, reward

    def action_space(self, params=None):
        return spaces.Discrete(self.env.num_actions)


class Drawn(Pgx):
    """A game whose observation (height, width, planes) is a picture."""

    def render(self, state):
        return grid_frame(np.asarray(self.unpack(state).observation))

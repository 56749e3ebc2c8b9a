"""Probe environments: so small that the right value or policy is known exactly."""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import environment, spaces

from environments.lanes import Lanes
from environments.spaces import MultiDiscrete


@struct.dataclass
class State(environment.EnvState):
    cue: jax.Array


@struct.dataclass
class Params(environment.EnvParams):
    max_steps_in_episode: int = 1


class Probe(environment.Environment):
    """Episodes of `length` steps that end by time limit (truncated) or by themselves.

    cue: -1 or 1, drawn anew at every reset.
    """

    length = 5
    truncates = False
    continuous = False

    @property
    def default_params(self):
        return Params(max_steps_in_episode=self.length if self.truncates else 1000)

    def reset_env(self, key, params):
        state = State(time=0, cue=2 * jax.random.bernoulli(key).astype(jnp.int32) - 1)
        return self.get_obs(state), state

    def step_env(self, key, state, action, params):
        reward = self.reward(state, action)
        state = state.replace(time=state.time + 1)
        terminated = jnp.array(False) if self.truncates else state.time >= self.length
        return self.get_obs(state), state, reward, terminated, {}

    def reward(self, state, action):
        return jnp.float32(1.0)

    def get_obs(self, state, params=None, key=None):
        return jnp.ones(1)

    def action_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (1,)) if self.continuous else spaces.Discrete(2)

    def observation_space(self, params=None):
        return spaces.Box(-2.0, 2.0, (1,))

    @property
    def name(self):
        return type(self).__name__


class TimeLimit(Probe):
    """Reward 1 each step, the same observation, cut after 5 steps: V = 1 / (1 - gamma)."""

    truncates = True


class Terminating(Probe):
    """The same, but the episode ends by itself: V, the same at each of the 5 steps, is the mean of the finite sums."""


class Images(Probe):
    """10 x 10 pixels of four channels, others in every step; action 1 is right where the first one is the brightest.

    Of MinAtar's shape, and compiled in a tenth of the time.
    """

    def get_obs(self, state, params=None, key=None):
        return jax.random.uniform(jax.random.fold_in(jax.random.key(state.cue), state.time), (10, 10, 4))

    def reward(self, state, action):
        brightness = self.get_obs(state).sum(axis=(0, 1))
        return jnp.float32(action == (brightness.argmax() == 0))

    def observation_space(self, params=None):
        return spaces.Box(0.0, 1.0, (10, 10, 4))


class SeesTime(Terminating):
    """The same with time observed: V at step t is the sum of gamma^i over the 5 - t steps left."""

    def get_obs(self, state, params=None, key=None):
        return jnp.array([state.time / 5.0])


class SeesCue(Probe):
    """One step, reward = cue = observation: V(obs) = obs."""

    length = 1

    def reward(self, state, action):
        return state.cue.astype(jnp.float32)

    def get_obs(self, state, params=None, key=None):
        return state.cue.astype(jnp.float32)[None]


class MatchCue(SeesCue):
    """One step, reward 1 for action 1 where the cue is 1 and action 0 where it is -1, else -1: the best return is 1."""

    def reward(self, state, action):
        return jnp.where(action == (state.cue > 0), 1.0, -1.0)


class TwoChoices(SeesCue):
    """One step, two choices of 2 and 3 at once: 1 for each that is right, else 0. The best return is 2.

    Right are 1 and 2 where the cue is 1, and 0 and 0 where it is -1.
    """

    def reward(self, state, action):
        right = jnp.where(state.cue > 0, jnp.array([1, 2]), jnp.array([0, 0]))
        return (action == right).astype(jnp.float32).sum()

    def action_space(self, params=None):
        return MultiDiscrete([2, 3])


class Masked(Probe):
    """Five steps, three actions: 0 and 1 are legal where the cue is 1, else 1 and 2. An illegal one brings 100.

    Of the legal ones, 1 brings 0 and the other brings 1: the best return without an illegal action is 5.
    Observation: the cue, then the mask.
    """

    num_masked = 3

    def reward(self, state, action):
        legal = self.get_obs(state)[1:][action] > 0
        return jnp.where(legal, jnp.float32(action != 1), 100.0)

    def get_obs(self, state, params=None, key=None):
        mask = jnp.where(state.cue > 0, jnp.array([1, 1, 0]), jnp.array([0, 1, 1]))
        return jnp.concatenate([state.cue[None], mask]).astype(jnp.float32)

    def action_space(self, params=None):
        return spaces.Discrete(3)

    def observation_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (4,))


class Target(Probe):
    """One step, continuous, reward -(action - 0.5)^2 of the clipped action: the best action is 0.5."""

    length = 1
    continuous = True

    def reward(self, state, action):
        return -jnp.square(action[0] - 0.5)


class FarTarget(Target):
    """Reward = the action as it reached the environment: the best is the upper bound, 1, and more is not possible."""

    def reward(self, state, action):
        return action[0]


class Recall(Probe):
    """A cue at step 0, blanks, and at step 4 the question: reward 1 for the action that matches the cue, else -1."""

    length = 5

    def reward(self, state, action):
        matched = jnp.where(action == (state.cue > 0), 1.0, -1.0)
        return jnp.where(state.time == self.length - 1, matched, 0.0)

    def get_obs(self, state, params=None, key=None):
        first, asked = state.time == 0, state.time == self.length - 1
        return jnp.array([jnp.where(first, state.cue, 0), asked], jnp.float32)

    def observation_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (2,))


class Path(Probe):
    """Alternates between episodes that end by themselves and ones cut by the time limit; the observation tells which.

    Observation (int32): (episode's length, steps taken); reward: steps taken before, plus 1. Episodes of the cue -1
    terminate after 3 steps, those of the cue 1 are cut after 5.
    """

    length = 5
    truncates = True

    def step_env(self, key, state, action, params):
        state = state.replace(time=state.time + 1)
        terminated = (state.cue < 0) & (state.time >= 3)
        return self.get_obs(state), state, jnp.float32(state.time), terminated, {}

    def get_obs(self, state, params=None, key=None):
        return jnp.array([4 + state.cue, state.time], jnp.int32)

    def observation_space(self, params=None):
        return spaces.Box(0, 5, (2,), jnp.int32)


class OddActions(Probe):
    """Actions that no script can choose."""

    def action_space(self, params=None):
        return spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)])


@struct.dataclass
class Position(environment.EnvState):
    x: jax.Array  # position and velocity


class LinearQuadratic(Probe):
    """A mass that is pushed, x' = A x + B u, and must stay at 0 with little force: the best policy is linear in x.

    Reward -(x^T Q x + R u^2) of the state before the step. Episodes of 1000 steps that the time limit cuts.
    """

    A, B, Q, R = ((1.0, 0.2), (0.0, 0.9)), (0.0, 0.5), (1.0, 0.1), 0.3  # Q is diagonal
    length = 1000
    truncates = True
    _supports_transition_gradients = True

    def reset_env(self, key, params):
        state = Position(time=0, x=jax.random.normal(key, (2,)))
        return state.x, state

    def step_env(self, key, state, action, params):
        reward = -(jnp.array(self.Q) * state.x**2).sum() - self.R * action[0] ** 2
        state = Position(time=state.time + 1, x=jnp.array(self.A) @ state.x + jnp.array(self.B) * action[0])
        return state.x, state, reward, jnp.array(False), {}

    def action_space(self, params=None):
        return spaces.Box(-jnp.inf, jnp.inf, (1,))

    def observation_space(self, params=None):
        return spaces.Box(-jnp.inf, jnp.inf, (2,))


class Restless(LinearQuadratic):
    """The same, but an episode begins where the last one ended: a reset through which a gradient could flow."""

    length = 5

    def step(self, key, state, action, params=None):
        before, time = state, state.time + 1
        _, _, reward, terminated, truncated, info = super().step(key, state, action, params)
        _, state, *_ = self.step_env(key, before, action, params)
        state = state.replace(time=jnp.where(truncated, 0, time))
        return state.x, state, reward, terminated, truncated, info


@struct.dataclass
class PairState(environment.EnvState):
    cue: jax.Array  # (), as of Probe
    total: jax.Array  # (2,), actions so far, by agent
    key: jax.Array  # changes in every step
    extra: jax.Array  # (3,), more elements than agents and no multiple of them: the time, three times


class Pair(Probe):
    """A game of two agents that ends by itself after five steps if the cue is -1, and else is cut after seven.

    An agent observes (agent, cue, steps taken, sum of the other's actions). Its reward is agent + its action + a
    quarter of the other's action.
    """

    num_agents, length, truncates = 2, 7, True

    def reset_env(self, key, params):
        cue = 2 * jax.random.bernoulli(key).astype(jnp.int32) - 1
        state = PairState(time=0, cue=cue, total=jnp.zeros(2), key=key, extra=jnp.zeros(3))
        return self.get_obs(state), state

    def step_env(self, key, state, action, params):
        assert action.shape == (2,)
        reward = jnp.arange(2.0) + action + action[::-1] / 4
        state = state.replace(
            time=state.time + 1, total=state.total + action, key=jax.random.split(state.key)[0], extra=state.extra + 1
        )
        return self.get_obs(state), state, reward, (state.cue < 0) & (state.time >= 5), {}

    def get_obs(self, state, params=None, key=None):
        agent, both = jnp.arange(2.0), jnp.ones(2)
        return jnp.stack([agent, both * state.cue, both * state.time, state.total[::-1]], axis=1)

    def observation_space(self, params=None):
        return spaces.Box(-10.0, 10.0, (4,))

    def render(self, state):
        """Its time in red, the second agent's actions so far in green."""
        return np.broadcast_to(np.array([state.time, state.total[1], 0], np.uint8), (4, 4, 3))


PROBES = (
    OddActions, Recall, Path, TimeLimit, Terminating, SeesTime, SeesCue, MatchCue, TwoChoices, Masked, Target,
    FarTarget, LinearQuadratic, Restless, Images,
)  # fmt: skip
for probe in PROBES:
    if f"{probe.__name__}-probe" not in gymnax.registered_envs:
        gymnax.register(f"{probe.__name__}-probe", probe)
if "Pair-probe" not in gymnax.registered_envs:
    gymnax.register("Pair-probe", lambda: Lanes(Pair()))

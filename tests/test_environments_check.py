"""environments.check: a mistake in each of many small environments, found by its line; and what it says of gymnax's."""

import sys

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from gymnax.environments import spaces
from gymnax.environments.environment import Environment, EnvParams, EnvState
from probes import Masked, TwoChoices
from test_cli import ROOT, python

import environments
from environments.__main__ import main


@struct.dataclass
class State(EnvState):
    x: jax.Array


@struct.dataclass
class Params(EnvParams):
    max_steps_in_episode: int = 50


class Right(Environment):
    """A walk from near 0 to -1 or 1, with nothing wrong. What follows breaks one thing each."""

    default_params = Params()

    def reset_env(self, key, params):
        state = State(time=0, x=jax.random.uniform(key, (), jnp.float32, -0.1, 0.1))
        return self.get_obs(state), state

    def step_env(self, key, state, action, params):
        state = state.replace(time=state.time + 1, x=state.x + 0.1 * action[0])
        return self.get_obs(state), state, -jnp.abs(state.x), jnp.abs(state.x) > 1.0, {}

    def get_obs(self, state, params=None, key=None):
        return state.x[None]

    def action_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (1,))

    def observation_space(self, params=None):
        return spaces.Box(-2.0, 2.0, (1,))


class WrongShape(Right):
    def observation_space(self, params=None):
        return spaces.Box(-2.0, 2.0, (2,))


class WrongDtype(Right):
    def observation_space(self, params=None):
        return spaces.Box(-2, 2, (1,), jnp.int32)


class OutsideTheSpace(Right):
    def observation_space(self, params=None):
        return spaces.Box(-2.0, 0.25, (1,))


class ChangingState(Right):
    def step_env(self, key, state, action, params):
        obs, state, *rest = super().step_env(key, state, action, params)
        return obs, state.replace(x=state.x[None]), *rest


class LeakedTracer(Right):
    def reset_env(self, key, params):
        obs, state = super().reset_env(key, params)
        self.start = state.x
        return obs, state

    def step_env(self, key, state, action, params):
        obs, state, _, *rest = super().step_env(key, state, action, params)
        return obs, state, jnp.abs(state.x - self.start), *rest


class CountsOnItself(Right):
    count = 0

    def __init__(self):
        self.count = 0

    def step_env(self, key, state, action, params):
        self.count += 1
        return super().step_env(key, state, action, params)


class NumpyRandom(Right):
    def step_env(self, key, state, action, params):
        obs, state, reward, *rest = super().step_env(key, state, action, params)
        return obs, state, reward + np.random.default_rng().normal(), *rest


class OnlyTheJitted(Right):
    """What a compiled program remembers, a plain step does not."""

    def step_env(self, key, state, action, params):
        obs, state, reward, *rest = super().step_env(key, state, action, params)
        return obs, state, reward + float(isinstance(state.x, jax.core.Tracer)), *rest


class PythonIf(Right):
    def step_env(self, key, state, action, params):
        if state.x > 0:
            action = -action
        return super().step_env(key, state, action, params)


class TimeLimitTerminates(Right):
    def step_env(self, key, state, action, params):
        obs, state, reward, terminated, info = super().step_env(key, state, action, params)
        return obs, state, reward, terminated | (state.time >= params.max_steps_in_episode), info


class TimeStandsStill(Right):
    def step_env(self, key, state, action, params):
        time = state.time
        obs, state, *rest = super().step_env(key, state, action, params)
        return obs, state.replace(time=time), *rest


class ResetsByItself(Right):
    def step_env(self, key, state, action, params):
        obs, state, reward, terminated, info = super().step_env(key, state, action, params)
        first_obs, first = self.reset_env(key, params)
        state = jax.tree.map(lambda x, y: jnp.where(terminated, x, y), first, state)
        return jnp.where(terminated, first_obs, obs), state, reward, terminated, info


class InfiniteReward(Right):
    def step_env(self, key, state, action, params):
        obs, state, _, *rest = super().step_env(key, state, action, params)
        return obs, state, jnp.log(state.x), *rest


class NotFinite(Right):
    def get_obs(self, state, params=None, key=None):
        return jnp.sqrt(state.x)[None]


class NotBool(Right):
    def step_env(self, key, state, action, params):
        obs, state, reward, terminated, info = super().step_env(key, state, action, params)
        return obs, state, reward, terminated.astype(jnp.float32), info


class NoLimitOfItsOwn(Right):
    default_params = EnvParams()


class FinalObservationAfterReset(Right):
    def step(self, key, state, action, params=None):
        obs, state, reward, terminated, truncated, info = super().step(key, state, action, params)
        return obs, state, reward, terminated, truncated, info | {"final_observation": obs}


class MaskOfOtherNumbers(Masked):
    def get_obs(self, state, params=None, key=None):
        return super().get_obs(state) * 0.5


class MaskOfOtherLength(Masked):
    num_masked = 2


FAULTS = {
    MaskOfOtherLength: "num_masked = 2 must be the number of actions, and action_space is Discrete(3",
    WrongShape: "reset gives an observation of shape (1,), and observation_space says (2,)",
    WrongDtype: "reset gives observations of float32, and observation_space says int32",
    OutsideTheSpace: "and observation_space says high = 0.25: widen the space or clip",
    ChangingState: ".x must keep shape and dtype",
    LeakedTracer: "reset or step sets self.start, which a compiled program does once and never again",
    CountsOnItself: "reset or step sets self.count, which a compiled program does once and never again",
    NumpyRandom: "the same key gives different steps: draw from the key, not from np.random",
    OnlyTheJitted: "jit gives other numbers than plain steps: use jax.numpy",
    PythonIf: "a Python if, while, and, or on an array: use jnp.where or jax.lax.cond",
    TimeLimitTerminates: "the time limit sets terminated: step_env must return True only where the world ends",
    TimeStandsStill: "the state's time goes from 0 to 0 in a step: step_env must add 1",
    ResetsByItself: "where an episode ends: it must not reset by itself",
    InfiniteReward: "the reward is NaN or infinite after random steps",
    NotFinite: "observation[0] is NaN or infinite after random steps",
    NotBool: "terminated is float32, and must be bool",
    NoLimitOfItsOwn: "every episode is cut after 1 step: give default_params a max_steps_in_episode",
    FinalObservationAfterReset: "final_observation is not the observation that the action led to",
    MaskOfOtherNumbers: "the last 3 entries of an observation are not all 0 or 1",
}


def of(kind, lines):
    return [line for line in lines if line.startswith(f"{kind}: ")]


@pytest.mark.parametrize("env_class", FAULTS, ids=lambda x: x.__name__)
def test_a_planted_fault_is_found_by_its_line(env_class):
    found = of("fault", environments.check(env_class()))
    assert len(found) == 1 and FAULTS[env_class] in found[0] and "\n" not in found[0], found


class NothingButZeros(Right):
    """Each episode also starts in the same place, and terminates after the same time."""

    def reset_env(self, key, params):
        state = State(time=0, x=jnp.float32(0))
        return self.get_obs(state), state

    def step_env(self, key, state, action, params):
        state = state.replace(time=state.time + 1)
        return self.get_obs(state), state, jnp.float32(0), state.time >= 7, {}


def test_what_may_be_meant_is_a_note():
    lines = environments.check(NothingButZeros())
    assert not of("fault", lines) and len(of("note", lines)) == 3, lines
    said = "\n".join(of("note", lines))
    for expected in ("all rewards are 0 in", "every reset gives the same start", "every episode terminated at time 7:"):
        assert expected in said, lines


@pytest.mark.parametrize("env_class", [Right, Masked, TwoChoices])
def test_nothing_is_found_where_nothing_is_wrong(env_class):
    """Also with actions that gymnax has no space for, and with masks, whose illegal actions are not tried."""
    lines = environments.check(env_class())
    assert not of("fault", lines), lines
    assert len(of("speed", lines)) == 1 and "steps/s" in lines[-1]


def test_parameters_are_those_given():
    lines = environments.check(Right(), Params(max_steps_in_episode=1))
    assert any("every episode is cut after 1 step" in line for line in lines)


# --- The command ------------------------------------------------------------------------------------------------------
def test_the_command_ends_with_0_or_1(capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "tests"), *sys.path])
    assert main(["check", "test_environments_check:Right"]) == 0
    assert capsys.readouterr().out.endswith("test_environments_check:Right: no faults, no notes\n")
    assert main(["check", f"{ROOT}/tests/test_environments_check.py:WrongShape"]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("fault: reset gives an observation of shape (1,)")
    assert printed.endswith("WrongShape: 1 fault, no notes\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "type python -m environments check FILE.py:NAME"),
        (["check"], "type python -m environments check FILE.py:NAME"),
        (["check", "CartPole"], "'CartPole' is not registered; did you mean CartPole-v1"),
        (["check", "nowhere:Walk"], "nowhere can't be imported: ModuleNotFoundError"),
        (["check", "nowhere.py:Walk"], "nowhere.py can't be imported: FileNotFoundError"),
        (["check", "probes:Maskd"], "there is no 'Maskd' in probes; did you mean Masked"),
        (["check", "probes:Params"], "probes:Params can't be made: AttributeError"),
    ],
)
def test_bad_input_is_one_line(words, expected, capsys):
    assert main(words) == 2
    printed = capsys.readouterr()
    assert expected in printed.err and printed.err.count("\n") == 1 and not printed.out


def test_the_command_works_from_the_repository(environment):
    found = python("-m", "environments", "check", "Walk-v0", env=environment, cwd=ROOT)
    assert found.returncode == 2 and found.stderr.startswith("environments: 'Walk-v0' is not registered"), found.stderr


# --- gymnax's own -----------------------------------------------------------------------------------------------------
# What is wrong there, in gymnax 1.0.1: spaces that say something else than reset and step give. It harms no training
# here. MNISTBandit-bsuite is left out: it downloads its data when it is made.
GYMNAX_FAULTS = {
    "Catch-bsuite": "reset gives observations of float32, and observation_space says int32",
    "MemoryChain-bsuite": "observation[2] reached -1, and observation_space says low = 0",
    "FourRooms-misc": "reset gives observations of int32, and observation_space says float32",
    "MetaMaze-misc": "and observation_space says high = 1",
    "GaussianBandit-misc": "and observation_space says low = 0",
}


GYMNAX = [
    env_id
    for env_id, factory in gymnax.registration._registry.items()
    if factory.__module__.startswith("gymnax.") and env_id != "MNISTBandit-bsuite"
]


@pytest.mark.slow
@pytest.mark.parametrize("env_id", [*GYMNAX, *(name for name in environments.ENVIRONMENTS if "/" not in name)])
def test_gymnaxs_own_environments(env_id):
    found = of("fault", environments.check(*gymnax.make(env_id)))
    assert len(found) == (env_id in GYMNAX_FAULTS) and GYMNAX_FAULTS.get(env_id, "") in "".join(found), found

"""What is wrong with an environment, found before training: its functions are traced, then some random steps run."""

import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnax.environments import spaces
from gymnax.environments.environment import Environment

from environments.adapter import is_key
from environments.lanes import whole_games
from environments.tracing import findings, told

NUM_ENVS, NUM_STEPS = 32, 500  # random steps that are looked at
FEW = 4  # steps in one go; the first ones are compared number by number
MOST_OPERATIONS = 30_000  # of FEW steps: more would take too long one by one


def check(env, env_params=None):
    """Lines "fault: ...", "note: ..." and "speed: ..." on a gymnax environment; no fault means that scripts can train.

    A fault says what to change. A note says what is right in some environments and a mistake in others.
    """
    with jax.enable_x64(False):  # as the scripts train
        env_params = env.default_params if env_params is None else env_params
        before = attributes(env)
        found = findings(env, env_params)
        found = kept_on_self(before, attributes(env)) or found  # what was kept makes later steps fail, too
        found = found or mask_findings(env, env_params)
        if found:
            return [f"fault: {line}" for line in found]
        faults, notes = space_findings(env, env_params)
        try:
            more_faults, more_notes, speed = run_findings(env, env_params)
        except Exception as error:  # whatever the user's code raises
            more_faults, more_notes, speed = [f"random steps fail: {told(error)}"], [], None
    lines = [f"fault: {line}" for line in faults + more_faults] + [f"note: {line}" for line in notes + more_notes]
    return lines + ([f"speed: {speed}"] if speed else [])


def run_findings(env, env_params):
    """(faults, notes, speed) of random steps."""
    rollout = Rollout(env, env_params)
    count = whole_games(rollout.num_agents, NUM_ENVS)
    keys = jax.random.split(jax.random.key(0), count)
    play = jax.jit(jax.vmap(rollout.play, (None, 0, None)))
    loop, few = play(env_params, jax.jit(jax.vmap(rollout.begin, (None, 0)))(env_params, keys), 0)
    first, seen = jax.block_until_ready(loop.first), [few.scalars]
    started = time.perf_counter()
    for index in range(FEW, NUM_STEPS, FEW):
        loop, steps = play(env_params, loop, index)
        seen.append(steps.scalars)
    jax.block_until_ready(loop)
    rate = count * (NUM_STEPS - FEW) / (time.perf_counter() - started)
    speed = f"{rate:,.0f} steps/s, {count} environments at once, {jax.devices()[0].platform}"

    many = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *seen)
    faults = observation_findings(loop, env.observation_space(env_params)) + time_findings(first, many)
    faults += step_findings(many, rollout.masked)
    more_faults, notes = agreement_findings(env, env_params, rollout, few, keys)
    faults += more_faults
    more_faults, more_notes = limit_findings(env_params, rollout, few, play, keys)
    return faults + more_faults, notes + more_notes + chance_notes(env_params, first, many), speed


# --- Random steps -----------------------------------------------------------------------------------------------------
class Scalars(NamedTuple):
    """What each step of N environments gave, (N, T)."""

    time: jax.Array  # of the state before
    next_time: jax.Array  # of the state after, which is a new episode's first where one ended
    own_time: jax.Array  # as step_env left it, before any reset; else as expected
    reward: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    same_obs: jax.Array  # whether final_observation is the observation given
    legal: jax.Array  # how many actions the mask allows; -1 without a mask, -2 where it is not of zeros and ones


class Steps(NamedTuple):
    """The same with all else that a step gave, (N, FEW, ...)."""

    scalars: Scalars
    obs: Any
    final_obs: Any
    state: Any


class Loop(NamedTuple):
    """What one step hands to the next, (N, ...)."""

    key: jax.Array
    obs: Any
    state: Any
    lowest: Any  # of all observations, element by element; NaN where one is
    highest: Any
    first: Any  # obs and state after reset


class Rollout:
    """Random steps in an environment."""

    def __init__(self, env, env_params):
        self.env, self.action_space = env, env.action_space(env_params)
        self.masked, self.num_agents = getattr(env, "num_masked", 0), getattr(env, "num_agents", 1)
        self.has_step_env = isinstance(env, Environment) and type(env).step is Environment.step

    def begin(self, env_params, key):
        """The Loop of one environment, unbatched: vmap it for many, and take jit away for plain steps."""
        reset_key, key = jax.random.split(key)
        obs, state = jax.tree.map(strong, self.env.reset(reset_key, env_params))
        return Loop(key, obs, state, obs, obs, (obs, state))

    def play(self, env_params, loop, index):
        """FEW steps from the index-th on: (Loop, Steps)."""
        return jax.lax.scan(functools.partial(self.step, env_params), loop, index + jnp.arange(FEW))

    def plain(self, env_params, keys):
        """The first Steps of one environment, or of all agents of one."""

        def steps(key):
            return self.play(env_params, self.begin(env_params, key), 0)[1]

        return steps(keys[0]) if self.num_agents == 1 else jax.vmap(steps)(keys[: self.num_agents])

    def step(self, env_params, loop, index):
        action_key, key = jax.random.split(jax.random.fold_in(loop.key, index))
        action, legal = self.random_action(action_key, loop.obs)
        obs, state, reward, terminated, truncated, info = self.env.step(key, loop.state, action, env_params)
        own_time = loop.state.time + 1
        if self.has_step_env:  # gymnax's own step splits its key like this; the compiler merges the two calls
            own_time = self.env.step_env(jax.random.split(key)[0], loop.state, action, env_params)[1].time
        final_obs = info["final_observation"]
        same_obs = jnp.stack(jax.tree.leaves(jax.tree.map(same, final_obs, obs))).all()
        reward = jnp.asarray(reward, jnp.float32)
        scalars = Scalars(loop.state.time, state.time, own_time, reward, terminated, truncated, same_obs, legal)
        obs, state = jax.tree.map(strong, (obs, state))
        lowest = jax.tree.map(lambda x, y, z: jnp.minimum(jnp.minimum(x, y), z), loop.lowest, obs, final_obs)
        highest = jax.tree.map(lambda x, y, z: jnp.maximum(jnp.maximum(x, y), z), loop.highest, obs, final_obs)
        loop = loop._replace(obs=obs, state=state, lowest=lowest, highest=highest)
        return loop, Steps(scalars, obs, final_obs, state)

    def random_action(self, key, obs):
        """(an action, how many are legal): uniform, among the legal ones where the observation ends with a mask."""
        space = self.action_space
        if self.masked:
            mask = obs.reshape(-1)[-self.masked :]
            proper = ((mask == 0) | (mask == 1)).all()
            action = jax.random.categorical(key, jnp.where((mask > 0) | (mask <= 0).all(), 0.0, -jnp.inf))
            return action, jnp.where(proper, jnp.sum(mask > 0), -2)
        if not isinstance(space, spaces.Box):
            return space.sample(key), jnp.int32(-1)
        low, high = (jnp.broadcast_to(jnp.asarray(x, jnp.float32), space.shape) for x in (space.low, space.high))
        high = jnp.where(jnp.isfinite(high), high, jnp.maximum(1.0, jnp.where(jnp.isfinite(low), low, 0.0) + 1.0))
        low = jnp.where(jnp.isfinite(low), low, jnp.minimum(-1.0, high - 1.0))
        return jax.random.uniform(key, space.shape, jnp.float32, low, high).astype(space.dtype), jnp.int32(-1)


def strong(x):
    """An array whose dtype no longer gives way to others, so that a second call of a program does not compile again."""
    x = jnp.asarray(x)
    return x if is_key(x) else jax.lax.convert_element_type(x, x.dtype)


def same(x, y):
    """Up to rounding: a compiler may compute one number twice, in two ways."""
    return jnp.isclose(x, y, rtol=1e-4, atol=1e-4, equal_nan=True).all()


# --- Spaces -----------------------------------------------------------------------------------------------------------
def space_findings(env, env_params):
    """(faults, notes) on the two spaces."""
    faults, notes = [], []
    obs = jax.eval_shape(lambda key: env.reset(key, env_params)[0], jax.random.key(0))
    space, action_space = env.observation_space(env_params), env.action_space(env_params)
    if not isinstance(space, spaces.Box):
        notes.append(f"observation_space is {type(space).__name__}, and scripts read a Box only: give a Box")
    elif hasattr(obs, "dtype") and np.dtype(space.dtype) != obs.dtype:
        faults.append(
            f"reset gives observations of {obs.dtype}, and observation_space says {np.dtype(space.dtype)}: give it"
            f" dtype={obs.dtype}, or convert what reset and step give"
        )
    known = isinstance(action_space, (spaces.Discrete, spaces.Box)) or hasattr(action_space, "num_categories")
    if not known:
        notes.append(
            f"action_space is {type(action_space).__name__}, and scripts act in Discrete, Box or"
            " environments.spaces.MultiDiscrete only"
        )
    return faults, notes


def mask_findings(env, env_params):
    """Lines on a mask that can't be one: there are no random actions then."""
    masked, space = getattr(env, "num_masked", 0), env.observation_space(env_params)
    action_space = env.action_space(env_params)
    if masked and masked != getattr(action_space, "n", None):
        return [f"num_masked = {masked} must be the number of actions, and action_space is {action_space}"]
    if masked and (len(space.shape) != 1 or space.shape[0] <= masked):
        return [f"with num_masked = {masked} an observation must be a vector that ends with the mask"]
    return []


# --- Observations, rewards and time -----------------------------------------------------------------------------------
def observation_findings(loop, space):
    """Lines on observations that are not finite or not inside the space."""
    lowest = [np.asarray(x, np.float64).min(axis=0) for x in jax.tree.leaves(loop.lowest)]
    highest = [np.asarray(x, np.float64).max(axis=0) for x in jax.tree.leaves(loop.highest)]
    for x in (*lowest, *highest):
        if not np.isfinite(x).all():
            return [f"observation{where(~np.isfinite(x))} is NaN or infinite after random steps: keep it finite"]
    if isinstance(space, spaces.Discrete):
        low, high = 0, space.n - 1
    elif isinstance(space, spaces.Box):
        low, high = (np.broadcast_to(np.asarray(x, np.float64), space.shape) for x in (space.low, space.high))
    else:
        return []
    with np.errstate(over="ignore", invalid="ignore"):  # bounds may be the largest floats
        below = lowest[0] < low - 1e-5 * np.maximum(1.0, np.abs(low))
        above = highest[0] > high + 1e-5 * np.maximum(1.0, np.abs(high))
    found = []
    for out, reached, bound, name in ((below, lowest[0], low, "low"), (above, highest[0], high, "high")):
        if out.any():
            worst = tuple(np.argwhere(out)[0])
            bound = np.broadcast_to(bound, out.shape)[worst]
            found.append(
                f"observation{where(out)} reached {reached[worst]:g}, and observation_space says {name} ="
                f" {bound:g}: widen the space or clip"
            )
    return found


def where(out):
    """The first place of an array in which something is true, as an index: "[3]"; nothing for a scalar."""
    return "" if out.ndim == 0 else f"[{', '.join(str(i) for i in np.argwhere(out)[0])}]"


def step_findings(steps, masked):
    """Lines on rewards, ends, final observations and masks."""
    found = []
    if not np.isfinite(steps.reward).all():
        found.append("the reward is NaN or infinite after random steps: keep it finite")
    ended = steps.terminated | steps.truncated
    if not steps.same_obs[~ended].all():
        found.append(
            "info's final_observation is not the observation that step gives where no episode ends: it must be the"
            " one that the action led to, before any reset"
        )
    if masked:
        if (steps.legal == -2).any():
            found.append(f"the last {masked} entries of an observation are not all 0 or 1, as num_masked says: a mask")
        elif (steps.legal == 0).any():
            found.append("the mask allows no action in a state that is no end: allow at least one")
    return found


def time_findings(first, steps):
    """Lines on the state's `time`; first: (obs, state) after reset."""
    started = np.asarray(first[1].time)
    ended = steps.terminated | steps.truncated
    if (started != 0).any():
        return [f"the state's time is {started[started != 0][0]} after reset, and must be 0"]
    wrong = ~ended & (steps.next_time != steps.time + 1)
    if wrong.any():
        before, after = steps.time[wrong][0], steps.next_time[wrong][0]
        return [f"the state's time goes from {before} to {after} in a step: step_env must add 1, time=state.time + 1"]
    wrong = ended & (steps.own_time != steps.time + 1)
    if wrong.any():
        before, after = steps.time[wrong][0], steps.own_time[wrong][0]
        return [
            f"step_env takes the time from {before} to {after} where an episode ends: it must not reset by itself, and"
            " return the state that the action led to; gymnax's step resets"
        ]
    wrong = ended & (steps.next_time != 0)
    if wrong.any():
        return [f"the state's time is {steps.next_time[wrong][0]} after an episode's end, and must be 0 again"]
    return []


def chance_notes(env_params, first, steps):
    """Lines on what is right in some environments and a mistake in others."""
    notes = []
    number = f"{steps.reward.size:,} random steps"
    if not steps.reward.any():
        notes.append(f"all rewards are 0 in {number}: fine if rewards are rare, else look at step_env")
    start = [without_keys(x) for x in jax.tree.leaves(first)]
    if all((x == x[:1]).all() for x in start):
        notes.append("every reset gives the same start, whatever the key: fine if that is meant, else use the key")
    ended, terminated = steps.terminated | steps.truncated, steps.terminated
    at = steps.own_time[terminated]
    if not ended.any() and not getattr(env_params, "max_steps_in_episode", 0) > NUM_STEPS:
        notes.append(f"no episode ended in {NUM_STEPS} random steps: without ends there are no returns to report")
    elif len(at) > 1 and at[0] > 1 and (at == at[0]).all() and (ended == terminated).all():
        notes.append(
            f"every episode terminated at time {at[0]}: if that is a time limit, leave it to max_steps_in_episode"
        )
    return notes


def without_keys(x):
    """An array, with zeros in place of random keys: these differ from reset to reset in any case."""
    raw = x.dtype == jnp.uint32 and x.shape[-1:] == (2,)
    return np.zeros(len(x)) if raw or is_key(x) else np.asarray(x)


# --- Time limits ------------------------------------------------------------------------------------------------------
def limit_findings(env_params, rollout, few, play, keys):
    """(faults, notes): the same steps with a time limit of FEW - 1 show what the limit, and only it, changes."""
    limit, last = getattr(env_params, "max_steps_in_episode", None), FEW - 2  # the step that such a limit cuts at
    usual = jax.tree.map(np.asarray, few.scalars)
    if usual.truncated[:, 0].all() and not usual.terminated[:, 0].any():
        return ["every episode is cut after 1 step: give default_params a max_steps_in_episode (gymnax's own is 1)"], []
    going_on = ~(usual.terminated | usual.truncated)[:, : last + 1].any(axis=1)
    changeable = isinstance(limit, (int, np.integer)) and dataclasses.is_dataclass(env_params)
    if not changeable or not going_on.any():
        return [], []
    env_params = dataclasses.replace(env_params, max_steps_in_episode=last + 1)
    _, cut = play(env_params, jax.jit(jax.vmap(rollout.begin, (None, 0)))(env_params, keys), 0)
    if np.asarray(cut.scalars.terminated)[going_on, last].any():
        return [
            "the time limit sets terminated: step_env must return True only where the world ends, without any"
            " max_steps_in_episode; gymnax's step then sets truncated, and scripts bootstrap"
        ], []
    if not np.asarray(cut.scalars.truncated)[going_on, last].all():
        return [], [f"max_steps_in_episode = {last + 1} cuts no episode: there is another time limit, or none"]
    early, led_to, said = (
        [np.asarray(x)[going_on] for x in jax.tree.leaves(obs)] for obs in (cut.obs, few.obs, cut.final_obs)
    )
    told = all(close(x[:, 0], y[:, 0]) for x, y in zip(early, led_to, strict=True))  # the limit itself is not observed
    if told and not all(close(x[:, last], y[:, last]) for x, y in zip(said, led_to, strict=True)):
        return [
            "info's final_observation is not the observation that the action led to where an episode is cut: keep the"
            " one from before the reset"
        ], []
    return [], []


# --- Plain steps ------------------------------------------------------------------------------------------------------
def agreement_findings(env, env_params, rollout, few, keys):
    """(faults, notes): plain steps, without jit, give twice the same, and the same as jit and vmap."""
    count = operations(jax.make_jaxpr(rollout.plain)(env_params, keys).jaxpr)
    if count > MOST_OPERATIONS:
        return [], [f"plain steps are not compared with jit's: {FEW} of them take {count:,} operations, one by one"]
    before = attributes(env)
    try:
        with jax.disable_jit():
            first, second = rollout.plain(env_params, keys), rollout.plain(env_params, keys)
    except Exception as error:  # whatever the user's code raises
        return [], [f"plain steps, without jit, fail: {told(error)}"]
    kept = kept_on_self(before, attributes(env))
    if kept:
        return kept, []
    if not alike(first, second):
        return ["the same key gives different steps: draw from the key, not from np.random, random or the clock"], []
    if alike(first, jax.tree.map(lambda x: x[0 if rollout.num_agents == 1 else slice(rollout.num_agents)], few)):
        return [], []
    by = "vmap" if alike(first, jax.jit(rollout.plain)(env_params, keys)) else "jit"
    return [f"{by} gives other numbers than plain steps: use jax.numpy, and keep nothing outside of the state"], []


def operations(jaxpr):
    """Operations that a program does one by one without jit; a loop of unknown length counts as 100."""
    count = 0
    for equation in jaxpr.eqns:
        inner = [x for x in jax.tree.leaves(equation.params, is_leaf=is_program) if is_program(x)]
        times = {"scan": equation.params.get("length", 1), "while": 100}.get(equation.primitive.name, 1)
        count += times * sum(operations(getattr(x, "jaxpr", x)) for x in inner) if inner else 1
    return count


def is_program(x):
    return hasattr(x, "eqns") or hasattr(getattr(x, "jaxpr", None), "eqns")


def alike(x, y):
    leaves = zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    return all(close(as_numbers(x), as_numbers(y)) for x, y in leaves)


def close(x, y):
    """Up to rounding, which differs between programs."""
    return np.allclose(np.asarray(x, np.float64), np.asarray(y, np.float64), rtol=1e-3, atol=1e-3, equal_nan=True)


def as_numbers(x):
    x = jnp.asarray(x)
    return np.asarray(jax.random.key_data(x) if is_key(x) else x)


# --- What an environment keeps ----------------------------------------------------------------------------------------
def attributes(env):
    """{name: value} of what an environment and those inside it keep on themselves."""
    found = {}
    for name, value in getattr(env, "__dict__", {}).items():
        if hasattr(value, "step") and hasattr(value, "reset"):
            found |= {f"{name}.{inner}": x for inner, x in attributes(value).items()}
        else:
            found[name] = value
    return found


def kept_on_self(before, after):
    """Lines on attributes that reset or step have set. What is first made there, such as a cache, may be meant."""
    found = []
    for name, value in after.items():
        leaked = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(value))
        if leaked or (before.get(name) is not None and before[name] is not value):
            found.append(
                f"reset or step sets self.{name}, which a compiled program does once and never again: put it in the"
                " state"
            )
    return found

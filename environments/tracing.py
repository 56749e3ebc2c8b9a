"""What is wrong with an environment, found without running it: its reset and step are traced, nothing is computed."""

import jax
import jax.numpy as jnp

EXPECTED = "(obs, state, reward, terminated, truncated, info)"


def findings(env, env_params):
    """Lines that say what is wrong with reset and step of a gymnax environment, and what is expected; mostly none."""
    key = jax.random.key(0)
    reset, problem = traced("reset(key, params)", lambda key: env.reset(key, env_params), key)
    if problem:
        return [problem]
    if not isinstance(reset, tuple) or len(reset) != 2:
        return [f"reset(key, params) must give (obs, state), and gives {count(reset)}"]
    obs, state = reset
    if not hasattr(state, "time"):
        return ["the state needs a field `time`, by which gymnax knows when the time is up: inherit from EnvState"]
    space = env.observation_space(env_params)
    if hasattr(space, "shape") and hasattr(obs, "shape") and tuple(obs.shape) != tuple(space.shape):
        return [f"reset gives an observation of shape {obs.shape}, and observation_space says {tuple(space.shape)}"]
    action = jax.eval_shape(env.action_space(env_params).sample, key)
    step, problem = traced("step", lambda *args: env.step(*args, env_params), key, state, action)
    if problem:
        own, _ = traced("step_env", lambda *args: env.step_env(*args, env_params), key, state, action)
        if isinstance(own, tuple) and len(own) == 5 and kinds(own[1]) != kinds(state):  # a reset could not follow it
            return [unlike(state, own[1])]
        return [f"{problem}; step_env(key, state, action, params) must give (obs, state, reward, terminated, info)"]
    if not isinstance(step, tuple) or len(step) != 6:
        return [f"step must give {EXPECTED}, and gives {count(step)}"]
    return step_findings(obs, state, step)


def traced(name, function, *args):
    """(shapes of what a function gives, None), or (None, a line that says why it can't be traced)."""
    try:
        return jax.eval_shape(function, *args), None
    except Exception as error:  # whatever the user's code raises
        return None, f"{name} fails: {told(error)}"


HINTS = {  # what to change for errors that JAX raises while a program is traced
    "TracerBoolConversionError": "a Python if, while, and, or on an array: use jnp.where or jax.lax.cond",
    "TracerArrayConversionError": "NumPy on an array of JAX: use jax.numpy",
    "TracerIntegerConversionError": "an array where a Python number is needed: index with jnp, or use jax.lax",
    "ConcretizationTypeError": "an array where a Python number is needed: leave int(), float() and range() out",
    "UnexpectedTracerError": "a value of an earlier call was kept, on self or in a global: put it in the state",
}


def told(error):
    """One line of an error, with what to change where it is known."""
    name, text = type(error).__name__, str(error).strip().splitlines()
    if name in HINTS:
        return f"{name}: {HINTS[name]}"
    return f"{name}{': ' + text[0][:160] if text else ''}"


def step_findings(obs, state, step):
    """Lines on what a step gives after a reset that gave obs and state, all as shapes."""
    next_obs, next_state, reward, terminated, truncated, info = step
    found = []
    if kinds(next_obs) != kinds(obs):
        found.append(f"step gives an observation of {next_obs}, and reset one of {obs}: they must be alike")
    if kinds(next_state) != kinds(state):
        found.append(unlike(state, next_state))
    for name, x in (("reward", reward), ("terminated", terminated), ("truncated", truncated)):
        if getattr(x, "shape", ()) != ():
            found.append(f"step gives a {name} of shape {x.shape}, and must give one number per environment")
    for name, x in (("terminated", terminated), ("truncated", truncated)):
        if getattr(x, "dtype", jnp.dtype(bool)) != jnp.dtype(bool):
            found.append(f"{name} is {x.dtype}, and must be bool: give a comparison, or {name}.astype(bool)")
    if "final_observation" not in info:
        found.append("step's info has no final_observation: inherit from gymnax's Environment, and write step_env")
    return found


def unlike(state, next_state):
    before, after = named(state), named(next_state)
    changed = sorted(name for name in before | after if before.get(name) != after.get(name))
    return f"step gives a state unlike reset's: {', '.join(changed)} must keep shape and dtype"


def kinds(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def named(tree):
    return {jax.tree_util.keystr(path): (x.shape, x.dtype) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def count(values):
    return f"{len(values)} values" if isinstance(values, tuple) else "one value"

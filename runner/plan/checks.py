"""Checks of settings, once for all scripts; each says what to type instead.

A script's own Config refuses only what would silently train something else: these are for the command line. Fields that
a user added to Config are checked by their type alone.
"""

import ast
import dataclasses
import difflib
import typing

import gymnax
import jax
import numpy as np
from gymnax.environments import spaces

from environments.adapter import Unavailable
from environments.lanes import check_lanes
from environments.tracing import findings
from runner.plan.errors import UsageError

LARGEST = float(np.finfo(np.float32).max)  # what JAX's floats can hold
LARGEST_INT = 2**31 - 1
AT_LEAST_ONE = {
    "total_timesteps", "num_envs", "num_steps", "num_minibatches", "update_epochs", "hidden_size", "embedding_size",
    "kernel_size", "last_hidden_size", "buffer_size", "learning_starts", "train_frequency", "batch_size", "n_step",
    "target_network_frequency", "log_frequency", "loss_hidden_size", "population", "generations", "seeds_per_candidate",
    "episodes_per_candidate",
}  # fmt: skip
SHARES = {"gamma", "gae_lambda", "lambda_", "tau", "start_e", "end_e", "exploration_fraction"}  # from 0 to 1
NOT_NEGATIVE = {"lr", "critic_lr", "clip_eps", "ent_coef", "vf_coef", "max_grad_norm", "noise", "truncation"}
POSITIVE = {"action_std", "std_init", "std_decay", "es_lr", "es_lr_decay"}


def valid_config(script, values):
    """The script's Config of {field: value}, everything about it checked. Raises UsageError."""
    for field in dataclasses.fields(script.Config):
        if field.init:
            check_value(field, values[field.name])
    for env_id in script.kind.env_ids(values):
        settings = (values.get(name) for name in ("network", "kernel_size", "squash_actions"))
        check_environment(script, env_id, values["env_params"], *settings)
    try:
        for env_id in script.kind.env_ids(values):
            check_lanes(env_id, num_agents(script, env_id), values.get("num_envs", 0))
        return script.Config(**values)
    except ValueError as error:
        raise UsageError(str(error)) from error


def num_agents(script, env_id):
    """Lanes that a game fills: 1 but for environments of several agents."""
    return getattr(script.make_env(env_id)[0], "num_agents", 1)


def changed_config(script, config, changes):
    """The config with changes, {field: value}, checked."""
    if not changes:
        return config
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.init}
    return valid_config(script, values | changes)


def check_value(field, value):
    """Raises UsageError where a Config field can't have this value."""
    name, default = field.name, field.default
    if typing.get_origin(field.type) is typing.Literal:
        check_choice(name, value, typing.get_args(field.type))
    kinds = {int: (int, np.integer), float: (int, float, np.number, jax.Array), bool: bool, str: str}
    kind = kinds.get(field.type, object)  # tuple[int, ...] and the like: unchecked
    if not isinstance(value, kind) or (isinstance(value, bool) and field.type in (int, float)):
        raise UsageError(f"{name} must be of type {field.type.__name__}, not {value!r} (default {default})")
    if name in AT_LEAST_ONE and not 1 <= value <= LARGEST_INT:
        raise UsageError(f"{name} must be a whole number from 1 to 2**31 - 1, not {value} (default {default})")
    if name in SHARES and not 0 <= value <= 1:
        raise UsageError(f"{name} must be in [0, 1], not {value} (default {default})")
    if name in NOT_NEGATIVE and not 0 <= value <= LARGEST:
        raise UsageError(f"{name} must be finite and not negative, not {value} (default {default})")
    if name in POSITIVE and not 0 < value <= LARGEST:
        raise UsageError(f"{name} must be finite and more than 0, not {value!r} (default {default})")
    if name == "max_grad_norm" and not value:
        raise UsageError("max_grad_norm = 0 would undo every update: use a large one, 1e9, for no clipping")


def check_choice(name, value, choices):
    if value in choices:
        return
    if len(choices) <= 3:
        raise UsageError(f"{name} must be {' or '.join(choices)}, not {value!r}")
    near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.3)
    instead = f"; did you mean {near[0]}?" if near else ""
    raise UsageError(f"{name} must be one of {', '.join(choices)}, not {value!r}{instead}")


def check_counts(options, least):
    """Raises UsageError for whole numbers out of range, {name: smallest}; the largest is 2**31 - 1."""
    for name, low in least.items():
        value = getattr(options, name)
        if value < low:
            raise UsageError(f"{name} must be a whole number of at least {low}, not {value}")
        if value > LARGEST_INT:
            raise UsageError(f"{name} must be at most 2**31 - 1 = {LARGEST_INT}, not {value}")


def check_options(options):
    """Raises UsageError for options of every kind of script."""
    least = {"num_seeds": 1, "seed": 0, "checkpoint_every": 0, "max_members_at_once": 0}
    check_counts(options, least)
    for field in dataclasses.fields(options):
        if typing.get_origin(field.type) is typing.Literal:
            check_choice(field.name, getattr(options, field.name), typing.get_args(field.type))
    by_hand = options.coordinator or options.num_processes or options.process_id
    if by_hand and not options.distributed:
        raise UsageError("coordinator, num_processes and process_id need --distributed beside them")
    host, _, port = options.coordinator.rpartition(":")
    right = host and port.isdigit() and 0 < int(port) < 2**16
    if by_hand and not (right and 0 <= options.process_id < options.num_processes):
        raise UsageError(
            "by hand, distributed needs --coordinator HOST:PORT --num-processes N --process-id I, I from 0 to N - 1"
        )


# --- Environments -----------------------------------------------------------------------------------------------------
def check_environment(script, env_id, changes="", network=None, kernel_size=None, squash_actions=False):
    """Raises UsageError for an environment that is not there, or that the script can't play, or with such changes."""
    if env_id not in gymnax.registered_envs:
        raise UsageError(f"env_id {env_id!r} is not a gymnax environment; {instead_of(env_id)}")
    try:
        env, env_params = gymnax.make(env_id)
    except Unavailable as error:  # of another suite; the message says what to do
        raise UsageError(str(error)) from error
    except Exception as error:  # a factory may do anything: MNISTBandit-bsuite downloads its data
        raise UsageError(f"env_id {env_id!r} can't be made here ({error}); use another env_id") from error
    check_env_params(env_id, env_params, changes)
    obs_space = env.observation_space(env_params)
    if not isinstance(obs_space, spaces.Box):
        raise UsageError(
            f"env_id {env_id!r} observes {obs_space}, which no script here can read: wrap it to give a Box"
        )
    found = findings(env, env_params)
    if found:
        raise UsageError(f"env_id {env_id!r}: {found[0]}")
    try:
        _, env_params = script.make_env(env_id, changes)
    except ValueError as error:  # actions that the algorithm can't handle
        raise UsageError(str(error)) from error
    actions = env.action_space(env_params)
    if (
        squash_actions
        and isinstance(actions, spaces.Box)
        and not all(np.isfinite(bound).all() for bound in (actions.low, actions.high))
    ):
        raise UsageError(f"squash_actions needs bounds, and the actions of {env_id} have none: leave it out")
    shape = env.observation_space(env_params).shape
    size = kernel_size or 3  # of those without a setting for it
    if network == "cnn" and (len(shape) != 3 or min(shape[:2]) < size):
        raise UsageError(
            f"network = cnn needs images of shape (height, width, channels), {size}x{size} or larger, but {env_id}"
            f" shows {shape}: use network = mlp{' or a smaller kernel_size' if len(shape) == 3 and size > 3 else ''}"
        )


def instead_of(env_id):
    """The nearest names: of the same suite for SUITE/NAME; else gymnax's own, and all others' without their suites."""
    typed = env_id.lower()
    suite, slash, name_alone = typed.rpartition("/")
    known = [name for name in gymnax.registered_envs if slash and name.lower().startswith(f"{suite}/")]
    names = {name.lower(): name for name in known}
    if not known:  # the first suite wins where two have a name
        typed = name_alone
        names = {name.lower().rpartition("/")[2]: name for name in reversed(gymnax.registered_envs)}
    near = difflib.get_close_matches(typed, names, n=3, cutoff=0.4)
    if near or known:
        return f"did you mean: {', '.join(names[name] for name in near) or ', '.join(known)}"
    own = (name for name in gymnax.registered_envs if "/" not in name)
    return f"choose one of {', '.join(own)}, or SUITE/NAME of another suite, see docs/environments.md"


def check_env_params(env_id, env_params, changes):
    """Raises UsageError for changes "name=value,name=value" that env_params can't take."""
    settable = {k: v for k, v in vars(env_params).items() if isinstance(v, (bool, int, float))}
    seen = set()
    for change in changes.split(",") if changes else []:
        name, _, text = (part.strip() for part in change.partition("="))
        if name not in settable:
            known = ", ".join(f"{k}={v}" for k, v in settable.items())
            raise UsageError(f"env_params: {env_id} has no parameter {name!r} to set; it has, by default: {known}")
        if name in seen:
            raise UsageError(f"env_params names {name} twice: give it one value")
        seen.add(name)
        kind = type(settable[name])
        if not is_value(text, kind):
            raise UsageError(
                f"env_params: {change!r} needs a value of type {kind.__name__}, as in {name}={settable[name]}"
            )
        if name == "max_steps_in_episode" and float(text) < 1:
            raise UsageError(f"env_params: max_steps_in_episode must be at least 1, not {text}")


def is_value(text, kind):
    """Whether text is a bool, an int or a float that the environment can hold."""
    try:
        value = ast.literal_eval(text.capitalize())  # true is True
    except (ValueError, SyntaxError):
        return False
    if kind is bool or not isinstance(value, (int, float)):
        return isinstance(value, kind)
    if kind is int:
        return type(value) is not bool and abs(value) <= LARGEST_INT and not value % 1
    return type(value) is not bool and abs(value) <= LARGEST  # NaN is not

"""Sweeps: text such as "lr=1e-4,3e-4" or "lr=log:1e-5:1e-2:16" becomes points, and numbers as people type them."""

import dataclasses
import difflib
import itertools
import keyword
import math
import typing

import numpy as np

from runner.plan.errors import UsageError

MOST_DRAWN = 100_000  # random values per field; more is a slip of the keyboard


def field_name(flag):
    """The field that a flag sets. A word of Python's own can't be one: the field of --lambda is lambda_."""
    name = flag.lstrip("-").replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


def flag_name(field):
    """How a field is typed, without the dashes before it."""
    return field.rstrip("_").replace("_", "-")


def parse_sweep(items, config_class, seed):
    """Turns sweep items into points, a list of {field: value}.

    An item is `field=value,value,...`, or `field=log:low:high:count` or `field=lin:low:high:count` for count random
    draws (log-uniform or uniform, drawn from seed). Items multiply into a grid; several assignments inside one item,
    separated by spaces, go together value by value, which makes a joint random search. In
    `env_params=gravity=5;masspole=0.2,gravity=20` there are two values, of which the first changes two parameters.
    """
    rng = np.random.default_rng(seed)
    types = {field.name: field.type for field in dataclasses.fields(config_class) if field.init}
    axes, seen = [], set()
    for item in items:
        columns, drawn = {}, False
        for assignment in item.split():
            name, values = parse_assignment(assignment, types, rng)
            drawn |= ":" in assignment
            if name in seen:
                raise UsageError(f"--sweep names {name} twice: give all its values in one list")
            seen.add(name)
            columns[name] = values
        if not columns:
            raise UsageError('--sweep has an empty item: write for example --sweep "lr=1e-4,3e-4"')
        if len({len(values) for values in columns.values()}) > 1:
            lengths = ", ".join(f"{name} has {len(values)}" for name, values in columns.items())
            raise UsageError(
                f"--sweep {item!r}: fields in one item go together and need equally many values ({lengths})"
            )
        rows = list(zip(*columns.values(), strict=True))
        if len(set(rows)) < len(rows) and not drawn:
            raise UsageError(f"--sweep {item} has a value twice: to repeat a run use --num-seeds")
        axes.append([dict(zip(columns, row, strict=True)) for row in dict.fromkeys(rows)])
    return [{k: v for part in combination for k, v in part.items()} for combination in itertools.product(*axes)]


def merged_env_params(base, changes):
    """The text of env_params with changes: "a=1,b=2" and "b=3" give "a=1,b=3"."""
    parts = dict(part.split("=", 1) for text in (base, changes) for part in text.split(",") if "=" in part)
    odd = [part for text in (base, changes) for part in text.split(",") if part and "=" not in part]
    return ",".join([*(f"{name.strip()}={value.strip()}" for name, value in parts.items()), *odd])


def changes_by_environment(words, env_ids):
    """{env_id: changes to its parameters} from words ENV_ID:NAME=VALUE,...; raises UsageError where one is no such."""
    changes = {}
    for word in words:
        env_id, colon, text = word.partition(":")
        if not colon or env_id not in env_ids:
            known, example = ", ".join(env_ids), f"{env_ids[0]}:max_steps_in_episode=100"
            raise UsageError(f"--env-params {word!r} must name one of {known}, as in {example}")
        if env_id in changes:
            raise UsageError(f"--env-params names {env_id} twice: join its parameters with commas")
        changes[env_id] = text
    return changes


def parse_assignment(assignment, types, rng):
    name, equals, text = assignment.partition("=")
    name = field_name(name)
    if not equals:
        raise UsageError(f'--sweep {assignment!r} names no values: write for example --sweep "lr=1e-4,3e-4"')
    if name == "env_id":
        raise UsageError("--sweep env_id: returns in different environments can't be compared: start a run for each")
    if name not in types:
        near = difflib.get_close_matches(name, types, n=1, cutoff=0) or list(types)
        raise UsageError(f"--sweep: there is no field {name!r}; did you mean {near[0]}?")
    kind = text.split(":")[0]
    if kind in ("log", "lin") and ":" in text:
        return name, draw(name, text, types[name], rng)
    values = [parse_value(name, word, types[name]) for word in text.split(",") if word]
    if name == "env_params":  # ; joins what goes together, where , parts the values
        values = [value.replace(";", ",") for value in values]
    if not values:
        raise UsageError(f'--sweep {name}= has no values: write for example --sweep "{name}=a,b"')
    return name, values


def draw(name, text, field_type, rng):
    parts = text.split(":")
    if len(parts) != 4:
        raise UsageError(f"--sweep {name}={text}: random search is written {name}={parts[0]}:low:high:count")
    low, high = (parse_value(name, word, float) for word in parts[1:3])
    count = parse_value(name, parts[3], int)
    if field_type not in (int, float):
        raise UsageError(f"--sweep {name}={text}: only numbers can be drawn at random; list the values of {name}")
    if not 1 <= count <= MOST_DRAWN or not -math.inf < low < high < math.inf or (parts[0] == "log" and low <= 0):
        need = "0 < low < high" if parts[0] == "log" else "low < high"
        raise UsageError(f"--sweep {name}={text}: needs {need}, both finite, and a count from 1 to {MOST_DRAWN:,}")
    if parts[0] == "log":
        values = np.exp(rng.uniform(math.log(low), math.log(high), count))
    else:
        values = rng.uniform(low, high, count)
    # Six digits are enough to type a value again from the table
    return [round(float(v)) if field_type is int else float(f"{v:.6g}") for v in values]


def parse_value(name, word, field_type):
    """Text to a value of a Config field. Raises UsageError naming the field."""
    field_type = str if typing.get_origin(field_type) is typing.Literal else field_type
    if field_type not in PARSERS:
        raise UsageError(f"--sweep {name}: only numbers, switches and texts can be swept: start a run for each value")
    try:
        return PARSERS[field_type](word)
    except ValueError as error:
        raise UsageError(f"--sweep {name}: {error}") from None


def parse_int(word):
    """Whole numbers as people type them: 500000, 500_000 or 5e5."""
    try:
        value = float(word.replace("_", ""))
        whole = value.is_integer()
    except ValueError:
        whole = False
    if not whole:
        raise ValueError(f"{word!r} is not a whole number; write for example 500000, 500_000 or 5e5")
    digits = word.replace("_", "")
    return int(digits) if digits.lstrip("+-").isdigit() else int(value)  # exact where float is not


def parse_float(word):
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"{word!r} is not a number; write for example 0.001 or 1e-3") from None


def parse_bool(word):
    choices = {"true": True, "false": False}
    if word.lower() not in choices:
        raise ValueError(f"{word!r} is neither true nor false")
    return choices[word.lower()]


PARSERS = {int: parse_int, float: parse_float, bool: parse_bool, str: str}

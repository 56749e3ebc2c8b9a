"""python -m environments check ENV: what is wrong with an environment, before anything is trained.

ENV is FILE.py:NAME, MODULE:NAME or a registered id such as CartPole-v1. NAME is a class or a function that makes an
environment, or an id that the file registers. Exit code 0: no fault; 1: faults; 2: there is no such environment.
"""

import difflib
import importlib
import importlib.util
import sys
from pathlib import Path

import gymnax

from environments import check
from environments.adapter import Unavailable

USAGE = "python -m environments check FILE.py:NAME, or MODULE:NAME, or a registered id such as CartPole-v1"


class BadInput(ValueError):
    """One line that says what to type instead."""


def main(argv):
    if {"-h", "--help"} & set(argv):
        print(__doc__.strip())
        return 0
    try:
        if len(argv) != 2 or argv[0] != "check":
            raise BadInput(f"type {USAGE}")
        env, env_params = make(argv[1])
    except BadInput as error:
        print(f"environments: {error}", file=sys.stderr)
        return 2
    lines = check(env, env_params)
    faults, notes = (sum(line.startswith(kind) for line in lines) for kind in ("fault:", "note:"))
    for line in lines:
        print(line)
    print(f"{argv[1]}: {counted(faults, 'fault')}, {counted(notes, 'note')}")
    return 1 if faults else 0


def counted(number, name):
    return f"{number or 'no'} {name}{'' if number == 1 else 's'}"


def make(target):
    """(env, env_params) of what the command line names. Raises BadInput."""
    place, colon, name = target.rpartition(":")
    made = getattr(load(place), name, None) if colon else None
    if made is None and name not in gymnax.registered_envs:
        known = [x for x in vars(load(place)) if not x.startswith("_")] if colon else gymnax.registered_envs
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        instead = f"; did you mean {', '.join(near)}?" if near else f"; type {USAGE}"
        raise BadInput(f"there is no {name!r} in {place}{instead}" if colon else f"{name!r} is not registered{instead}")
    try:
        if made is None:
            return gymnax.make(name)
        env = made() if callable(made) else made
        return env, env.default_params
    except Unavailable as error:
        raise BadInput(str(error)) from error
    except Exception as error:  # whatever the user's code raises
        raise BadInput(f"{target} can't be made: {type(error).__name__}: {error}".splitlines()[0]) from error


def load(place):
    """The module of a file or of a name. Raises BadInput."""
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        name = f"checked {Path(place).resolve()}"
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, place)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except Exception as error:  # whatever the user's code raises
        raise BadInput(f"{place} can't be imported: {type(error).__name__}: {error}".splitlines()[0]) from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

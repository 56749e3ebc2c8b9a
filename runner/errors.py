"""What a user can mend: shown as one line, without a traceback, with exit code 2."""

import contextlib
import importlib.util

import jax


class UsageError(ValueError):
    """Bad input or a full disk: says what was wrong and what to type instead."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM, after a checkpoint was written."""


@contextlib.contextmanager
def mendable(run_dir, instead, again):
    """A disk that is full and memory that does not suffice become UsageErrors.

    instead: what takes less memory; again: how to go on once there is space.
    """
    try:
        yield
    except OSError as error:
        where = error.filename or run_dir
        raise UsageError(f"can't write to {where} ({error.strerror or error}); {again}") from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UsageError(f"out of memory: {instead}") from error


def go_on_after(run_dir):
    return f"the last good checkpoint is kept, free some space and go on with --resume {run_dir}"


def require(package, what_for):
    """Raises UsageError naming the install command if an optional package is missing."""
    if importlib.util.find_spec(package) is None:
        raise UsageError(f"{what_for} needs the package {package}: pip install {package}")


def first_line(error):
    """What a library's exception says, short enough for a line of our own."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__

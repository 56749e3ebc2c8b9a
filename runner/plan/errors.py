"""What a user can mend: shown as one line, without a traceback, with exit code 2."""

import contextlib
import errno
import importlib.util
import os
from shlex import quote

import jax


class UsageError(ValueError):
    """Bad input or a full disk: says what was wrong and what to type instead."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM, after a checkpoint was written."""


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a disk says that has no space left


@contextlib.contextmanager
def mendable(run_dir, instead, again):
    """A disk that can't be written to and memory that does not suffice become UsageErrors.

    instead: what takes less memory; again(): how to go on once that is mended.
    """
    try:
        yield
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python itself would complain once more when it ends
        raise UsageError(f"what read the output has ended; {again()}") from error
    except OSError as error:
        where, space = error.filename or run_dir, "free some space; " if error.errno in FULL else ""
        raise UsageError(f"can't write to {where} ({error.strerror or error}): {space}{again()}") from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UsageError(f"out of memory: {instead}") from error


def go_on_after(run_dir):
    """What is left of a run that ended early, and how to go on with it."""
    kept = any(run_dir.glob("checkpoints/*/[0-9]*"))
    left = "the last good checkpoint is kept" if kept else "nothing is trained yet"
    return f"{left}, go on with --resume {quote(str(run_dir))}"


def require(package, what_for):
    """Raises UsageError naming the install command if an optional package is missing."""
    if importlib.util.find_spec(package) is None:
        raise UsageError(f"{what_for} needs the package {package}: pip install {package}")


def first_line(error):
    """What a library's exception says, short enough for a line of our own."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__

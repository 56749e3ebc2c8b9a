"""What a user can mend: shown as one line, without a traceback, with exit code 2."""

import importlib.util


class UsageError(ValueError):
    """Bad input or a full disk: says what was wrong and what to type instead."""


def require(package, what_for):
    """Raises UsageError naming the install command if an optional package is missing."""
    if importlib.util.find_spec(package) is None:
        raise UsageError(f"{what_for} needs the package {package}: pip install {package}")


def first_line(error):
    """What a library's exception says, short enough for a line of our own."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__

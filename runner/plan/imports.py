"""Files that a user has imported before a run: environments in a file of one's own, which register themselves."""

import functools
import importlib.util
import sys
from pathlib import Path

from runner.plan.errors import UsageError, first_line


def imported_words(argv):
    """The paths given to --import, before anything else of the command line is read."""
    paths, taking = [], False
    for word in argv:
        flag, equals, path = word.partition("=")
        if word.startswith("-"):
            taking = flag == "--import"
            paths += [path] if taking and equals else []
        elif taking:
            paths.append(word)
    return paths


def import_files(paths):
    """Imports files in order. Raises UsageError where two have one name: the record keeps them side by side."""
    paths = list(paths)
    names = [Path(path).name for path in paths]
    for path in paths:
        if names.count(Path(path).name) > 1:
            raise UsageError(f"--import: two files are called {Path(path).name}: give one of them another name")
        import_file(str(Path(path).expanduser().resolve()), path)


@functools.cache
def import_file(path, given):
    """Runs a file once. Raises UsageError where it can't be read or fails."""
    spec = importlib.util.spec_from_file_location(f"imported {path}", path)
    if spec is None or not Path(path).is_file():
        raise UsageError(f"--import {given}: there is no such Python file")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        if "already registered" in str(error):  # by another copy of the file in this process
            return
        raise UsageError(f"--import {given} fails: {type(error).__name__}: {first_line(error)}") from error

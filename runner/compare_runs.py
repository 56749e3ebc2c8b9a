"""Learning curves of several runs in one picture, IQM and 95 % intervals over their seeds:

    python -m runner.compare_runs RUN RUN ... --output comparison.png --x seconds

A line per run (of a sweep, its best point), labelled by what differs between them.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from runner.plan.checks import check_choice
from runner.plan.command_line import read_arguments, read_json, usage_errors
from runner.plan.errors import UsageError


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """What to draw where; the run directories come first, without a flag."""

    output: str = "comparison.png"  # the picture to write
    x: Literal["steps", "seconds"] = "steps"  # env steps of one agent, or seconds of training all agents of the run


def labels(records):
    """What tells the runs apart: the script and the settings that are not the same in all, else their folder."""
    scripts = [record["script"] for record in records]
    settings = [record["config"] for record in records]
    names = [name for name in settings[0] if len({str(s.get(name)) for s in settings}) > 1]
    told = []
    for record, script, own in zip(records, scripts, settings, strict=True):
        parts = [script] if len(set(scripts)) > 1 else []
        parts += [f"{name}={own[name]}" for name in names if name in own and name != "total_timesteps"]
        told.append(", ".join(parts) or Path(record["folder"]).name)
    for i, text in enumerate(told):
        if told.count(text) > 1:
            told[i] = f"{text} ({Path(records[i]['folder']).name})"
    return told


def main(argv):
    with usage_errors("compare_runs"):
        flags = next((i for i, word in enumerate(argv) if word.startswith("-")), len(argv))
        folders = argv[:flags]
        options = read_arguments("python -m runner.compare_runs RUN RUN", __doc__, argv[flags:], run=CompareOptions())
        check_choice("x", options.run.x, ("steps", "seconds"))
        if not folders:
            raise UsageError("name run directories: python -m runner.compare_runs RUN RUN --output comparison.png")
        records = [{"folder": folder} | read_json("run", Path(folder)) for folder in folders]
        from runner.report.run_curves import draw

        try:
            draw(Path(options.run.output), records, labels(records), options.run.x)
        except OSError as error:
            raise UsageError(f"{error.filename}: {error.strerror}") from error
        print(f"wrote {options.run.output}")


if __name__ == "__main__":
    main(sys.argv[1:])

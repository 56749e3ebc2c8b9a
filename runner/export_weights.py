"""Writes a trained member's weights to a flat .npz file:

python -m runner.export_weights RUN --output weights.npz --member 3
"""

import dataclasses
import sys

from runner.plan.command_line import read_arguments, usage_errors
from runner.plan.errors import UsageError


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What to write where; the run directory comes first, without a flag."""

    output: str = "weights.npz"  # the file to write
    member: int = -1  # its number in the run; -1: the best point's first seed


def main(argv):
    with usage_errors("export_weights"):
        if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
            raise UsageError("name a run directory first: python -m runner.export_weights RUN --output weights.npz")
        words = argv if argv[0].startswith("-") else argv[1:]
        options = read_arguments("python -m runner.export_weights RUN", __doc__, words, run=ExportOptions()).run
        from runner.report.trained import export_weights

        try:
            shapes = export_weights(argv[0], options.output, None if options.member < 0 else options.member)
        except OSError as error:
            raise UsageError(f"can't write {options.output} ({error.strerror}): choose another --output") from error
        for name, shape in shapes.items():
            print(f"{name} {shape}")
        print(f"wrote {options.output}")


if __name__ == "__main__":
    main(sys.argv[1:])

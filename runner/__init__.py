"""The host side that all scripts share: command line, members, chunks, devices, checkpoints, evaluation, plots.

It never contains algorithm code. A script hands its own functions to `main`:

    if __name__ == "__main__":
        from runner import main

        main(__file__, Config, make_env, make_train, make_policy)
"""

import runner.environments  # noqa: F401 - registers them
from runner.cli import main

__all__ = ["main"]

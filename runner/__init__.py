"""The host side that all scripts share. It never contains algorithm code. A script hands its own functions to `main`:

    if __name__ == "__main__":
        from runner import main

        main(__file__, Config, make_env, make_train, make_policy)

The data flows one way: a command line becomes a plan (plan/), the plan runs in a loop (loop/), and what the loop leaves
becomes a report (report/). policies.py and evolution.py are what the two kinds of script have of their own.
"""

import environments  # noqa: F401 - registers them
from runner.main import main
from runner.plan.tuned import tuned_settings

__all__ = ["export_weights", "load_policy", "main", "tuned_settings"]


def __getattr__(name):
    """Imports what is for trained policies when it is first asked for: a command line need not wait for it."""
    if name not in ("export_weights", "load_policy"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from runner.report import trained

    return getattr(trained, name)

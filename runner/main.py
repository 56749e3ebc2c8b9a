"""From the functions of a script to a run: its command line becomes a plan, the plan a record, the record a report."""

import sys
from pathlib import Path

import jax

from runner.plan.command_line import usage_errors
from runner.plan.script import Script
from runner.policies import Policies


def main(path, config_class, make_env, make_train, make_policy=None, kind=None, argv=None):
    """Runs a script's command line and exits: 0 when done, 2 on bad input or a full disk, 130 when interrupted.

    kind: what the script has of its own beside the shared loop, see runner/plan/script.py; by default it trains
    policies, which are evaluated and rendered with make_policy.
    """
    script = Script(Path(path).resolve(), config_class, make_env, make_train, make_policy, kind or Policies())
    with usage_errors(script.path.name), jax.enable_x64(False):  # gymnax's environments would mix 32 and 64 bits
        sys.exit(script.kind.run(script, sys.argv[1:] if argv is None else argv))

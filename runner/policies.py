"""Scripts that train policies: tuned settings before, evaluation, tables and a GIF after."""

import dataclasses

import numpy as np
from gymnax.environments import spaces

from environments.lanes import whole_games
from environments.rendering import renderer
from runner.plan.checks import check_counts, num_agents, valid_config
from runner.plan.command_line import (
    FREE_OPTIONS,
    flag_value,
    make_plan,
    named_folder,
    parse,
    read_record,
    refuse_changes,
)
from runner.plan.errors import UsageError, require
from runner.plan.script import Kind, Options, Record
from runner.plan.tuned import tuned_name, tuned_note, tuned_settings

MOST_WIDE = 20.0  # standard deviations of the first policy: a wider action box is hardly explored
MOST_NARROW = 2.0  # in a box of half a standard deviation four of five actions are cut off


@dataclasses.dataclass(frozen=True)
class PolicyOptions(Options):
    """How to run; what to train is the script's Config."""

    tuned: bool = False  # start from the settings of runner/plan/tuned.toml for this environment; flags override them
    gif: bool = False  # render the final policy of the best member to policy.gif, its first 500 steps at most
    eval_episodes: int = 128  # episodes per member in the final evaluation, greedy and sampled each; 0: none
    evaluate: str = ""  # train nothing: evaluate this run directory again, with other --env-params, --eval-episodes


class Policies(Kind):
    """The kind of ppo.py, ppo_rnn.py, dqn.py, pqn.py, evolve_policy.py and apg.py."""

    Options = PolicyOptions
    free_options = ("gif", "eval_episodes")

    def defaults(self, script, argv):
        """With --tuned the settings that were tuned for the environment, as defaults for the other flags; else None."""
        switches = [word for word in argv if word in ("--tuned", "--no-tuned")]
        if switches[-1:] != ["--tuned"]:
            return None
        env_id = flag_value(argv, "--env-id") or script.Config.env_id
        try:
            return Record(script.Config(env_id=env_id, **tuned_settings(tuned_name(script), env_id)), self.Options())
        except ValueError as error:
            raise UsageError(f"--tuned: {error}") from error

    def settle(self, script, config, options):
        check_counts(options, {"eval_episodes": 0})
        if options.gif:
            require("pygame", "--gif")
            if renderer(script.make_env(config.env_id, config.env_params)[0]) is None:
                print(f"note: no GIF, for nobody can draw {config.env_id}: give it a method render(state)")
        note = reach_note(script, config)
        if note and not options.resume:
            print(note)
        return dataclasses.replace(options, eval_episodes=whole(script, config, options.eval_episodes))

    def run(self, script, argv):
        if named_folder(argv, "--evaluate") is not None:
            from runner.report.evaluate import evaluate_again

            return evaluate_again(*self.plan_evaluation(script, argv))
        plan = make_plan(script, argv)
        if plan.options.tuned and not plan.options.resume:
            print(tuned_note(tuned_name(script), plan.config))
        from runner.loop.run import run  # here and not above: --help and usage errors need not wait for it

        return run(plan)

    def plan_evaluation(self, script, argv):
        """(plan of the run that --evaluate names, Config fields to change, episodes, first seed) of a command line."""
        folder = named_folder(argv, "--evaluate")
        record = read_record(script, "--evaluate", folder)
        values, options = parse(script, argv, record)
        check_counts(options, {"eval_episodes": 1})
        config = valid_config(script, values)
        free = ("env_id", "env_params", "evaluate", "eval_episodes", "seed", *FREE_OPTIONS)
        refuse_changes(record, config, options, free, "--evaluate plays the policies as they are, with", "train anew")
        changes = {k: v for k, v in values.items() if v != getattr(record.config, k)}
        from runner.loop.saved import saved_run

        plan = saved_run(folder, "--evaluate")  # with the script's copy in the folder: this one may have been edited
        return plan, changes, whole(script, config, options.eval_episodes), options.seed

    def bar_text(self, metrics):
        known = metrics[self.metric][-1][np.isfinite(metrics[self.metric][-1])]
        return f"median return {np.median(known):.1f}" if len(known) else ""

    def evaluate(self, plan, trained):
        if not plan.options.eval_episodes:
            return None
        from runner.report.evaluate import evaluate

        return evaluate(plan, trained.layout, trained.batch, trained.state, plan.options.eval_episodes)

    def report(self, plan, run_dir, mesh, results):
        from runner.report import summary

        return summary.report_policies(plan, run_dir, results)


def whole(script, config, episodes):
    """So many episodes, or as few more as it takes to play whole games: an agent's is one, in evaluation, too."""
    return whole_games(num_agents(script, config.env_id), episodes)


def reach_note(script, config):
    """What to say where a Gaussian that begins around 0 with action_std hardly meets the actions."""
    env, env_params = script.make_env(config.env_id, config.env_params)
    space = env.action_space(env_params)
    if not isinstance(space, spaces.Box) or getattr(config, "squash_actions", True):  # other scripts scale theirs, too
        return ""
    low, high = np.broadcast_arrays(np.asarray(space.low, np.float64), np.asarray(space.high, np.float64))
    std = float(config.action_std)
    with np.errstate(invalid="ignore"):  # bounds may be infinite
        far = (low > 0.5 * std) | (high < -0.5 * std) | (np.isfinite(high - low) & (high - low > MOST_WIDE * std))
        narrow = high - low < std / MOST_NARROW
    if not (far | narrow).any():
        return ""
    trouble = "it will hardly reach them" if far.any() else "nearly all that it does is cut off at these bounds"
    return (
        f"note: actions of {config.env_id} reach from {low.min():g} to {high.max():g}, and a policy begins around 0"
        f" with a standard deviation of {std:g}: {trouble}; --squash-actions fills the bounds"
    )

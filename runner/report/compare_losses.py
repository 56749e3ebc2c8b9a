"""Comparison of a learned loss with hand-written ones: fresh seeds, the same for all, in known and unknown places."""

import contextlib
import dataclasses
import os
import sys

import jax
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from runner.loop.devices import Spread, everywhere, without_cache_chatter
from runner.loop.hosts import is_first
from runner.loop.progress import on_stop
from runner.plan.errors import Interrupted
from runner.plan.members import make_members, show
from runner.plan.sweeps import changes_by_environment, parse_sweep
from runner.report.stats import describe, probability_of_improvement
from runner.report.summary import with_interval

LEARNED, DEFAULT, TUNED, DPO, FIRST = "learned", "hand-written", "hand-written, tuned", "DPO", "generation 0"


def compare(module, config, learned, first, options, mesh):
    """Trains agents from scratch with every loss in every environment.

    learned, first: parameters of the loss that was found, and of the one that evolution began with.
    options: as CompareOptions.
    Returns two tables with a row per agent: evaluation (env_id, loss, seed, outcomes), and tuning (env_id, the
    hand-written loss's coefficients, seed, outcomes), on other seeds.
    """
    items = [
        f"{name}={','.join(repr(v) for v in dict.fromkeys((*values, float(getattr(config, name)))))}"  # its own, too
        for name, values in module.TUNING[config.learn].items()
    ]
    points = parse_sweep(items, type(config), options.seed)
    tuners = make_members(points, options.tune_seeds, options.seed + options.num_seeds)
    seeds = list(range(options.seed, options.seed + options.num_seeds))
    at_once = min(options.max_members_at_once or options.num_seeds, options.num_seeds)
    outcome = module.evolved_outcome(config)
    changes = changes_by_environment(options.env_params, options.env_ids)
    evaluation, tuning = [], []
    total = (len(tuners) + 5 * len(seeds)) * len(options.env_ids)
    with (
        interruptible(),
        tqdm(total=total, unit=" agents", dynamic_ncols=True, disable=not is_first()) as bar,
    ):
        for env_id in options.env_ids:
            bar.set_postfix_str(env_id)
            spread, agents = Spread(mesh), {}
            settings = dataclasses.replace(config, env_params=changes.get(env_id, config.env_params))
            for loss in module.LOSSES:
                agent = from_seed(module.make_agent(settings, env_id, loss))
                agents[loss] = jax.jit(spread(agent), out_shardings=everywhere(mesh))

            floats = {name: [member.values[name] for member in tuners] for name in points[0]}
            tuner_seeds = [member.seed for member in tuners]
            found = train(agents[DEFAULT], {}, floats, tuner_seeds, at_once, bar)
            table = pd.DataFrame({"env_id": env_id, **floats, "seed": tuner_seeds} | by_outcome(module, found))
            tuning.append(table)
            best = best_point(table, points, outcome)

            for name, loss, params, values in (
                (LEARNED, "learned", learned, {}),
                (DEFAULT, DEFAULT, {}, {k: getattr(config, k) for k in best}),
                (TUNED, DEFAULT, {}, best),
                (DPO, DPO, {}, {}),
                (FIRST, "learned", first, {}),
            ):
                floats = {k: [v] * len(seeds) for k, v in values.items()}
                found = train(agents[loss], params, floats, seeds, at_once, bar)
                columns = {"env_id": env_id, "loss": name, "seed": seeds} | by_outcome(module, found)
                evaluation.append(pd.DataFrame(columns))
    return pd.concat(evaluation, ignore_index=True), pd.concat(tuning, ignore_index=True)


@contextlib.contextmanager
def interruptible():
    """Ctrl-C and SIGTERM raise Interrupted: nothing is written before the end, so it can stop at once."""

    def interrupt(number, frame):
        if jax.process_count() > 1:
            os._exit(130)  # the others wait for this process in the middle of a program: the watch tells them
        raise Interrupted

    undo = on_stop(interrupt)
    try:
        yield
    finally:
        undo()


def from_seed(agent):
    """The agent (params, floats, seed); with plain numbers as arguments, which all processes of a run can give."""
    return lambda params, floats, seed: agent(params, floats, jax.random.key(seed))


def by_outcome(module, found):
    """Columns of a table from outcomes (n, 2)."""
    return dict(zip(module.OUTCOMES, found.T, strict=True))


def train(agents, params, floats, seeds, at_once, bar):
    """Outcomes (len(seeds), 2), trained in batches of one size, so that a program is compiled once."""
    rows = []
    for start in range(0, len(seeds), at_once):
        index = np.minimum(np.arange(start, start + at_once), len(seeds) - 1)  # the last one fills up
        each = jax.tree.map(lambda x: np.broadcast_to(x, (at_once, *x.shape)), params)
        values = {name: np.array(x, np.float32)[index] for name, x in floats.items()}
        with without_cache_chatter():
            found = np.asarray(agents(each, values, np.array(seeds, np.uint32)[index]))
        rows.append(found[: len(seeds) - start])
        bar.update(len(rows[-1]))
    return np.concatenate(rows).astype(np.float64)


def best_point(tuning, points, outcome):
    """The coefficients with the best mean outcome among those where fewest agents failed."""

    def rank(point):
        own = tuning.loc[(tuning[list(point)] == pd.Series(point)).all(axis=1), outcome]
        return -own.isna().sum(), own.mean()

    return max(points, key=rank)


def summarize(module, config, evaluation, tuning):
    """{env_id: {"tuned": coefficients, "losses": {loss: statistics}}}; verdicts are on the outcome that was evolved."""
    outcome = module.evolved_outcome(config)
    summary = {}
    for env_id, table in evaluation.groupby("env_id", sort=False):
        names = list(module.TUNING[config.learn])
        own = tuning[tuning["env_id"] == env_id]
        points = own[names].drop_duplicates().to_dict("records")
        losses = {}
        learned = table[table["loss"] == LEARNED]
        for loss, rows in table.groupby("loss", sort=False):
            losses[loss] = {name: describe(rows[name]) for name in module.OUTCOMES} | {
                "agents": len(rows),
                "nan_agents": int(rows[outcome].isna().sum()),
            }
            if loss != LEARNED:
                chance = probability_of_improvement(learned[outcome], rows[outcome])
                losses[loss]["probability_that_learned_is_better"] = chance
                losses[loss]["learned_is"] = verdict(losses[LEARNED], losses[loss], outcome)
        held_out = env_id not in config.env_ids
        summary[env_id] = {"held_out": held_out, "tuned": best_point(own, points, outcome), "losses": losses}
    return summary


FEWEST_AGENTS = (
    8  # for a verdict: without any difference, intervals of 2 agents lie apart in 30 % of cases, of 3 in 11 %
)


def verdict(own, other, outcome):
    """better or worse if the 95 % intervals of the IQM lie apart and the better side has no more failed agents.

    A side of which all agents failed is below any other. Of too few agents there is no verdict.
    """
    if min(own["agents"], other["agents"]) < FEWEST_AGENTS:
        return f"none: fewer than {FEWEST_AGENTS} agents"
    if above(own, other, outcome):
        return "better"
    return "worse" if above(other, own, outcome) else "not better"


def above(scores, others, outcome):
    """Whether a loss is shown to do better than the others: not with more agents gone NaN."""
    all_gone, others_gone = (s["nan_agents"] == s["agents"] for s in (scores, others))
    apart = others_gone or scores[outcome]["low"] > others[outcome]["high"]
    return not all_gone and apart and scores["nan_agents"] <= others["nan_agents"]


def print_tables(summary, num_steps, outcome):
    for env_id, found in summary.items():
        where = "held out" if found["held_out"] else "evolved on"
        table = Table(title=f"{env_id} ({where}), {num_steps:,} env steps: IQM [95 % interval] over agents")
        for name in ("loss", "agents", "mean over training", "final return", "P(learned better)", "learned is"):
            table.add_column(name, justify="left" if name == "loss" else "right")
        for loss, scores in found["losses"].items():
            values = ", ".join(f"{k} {show(v)}" for k, v in found["tuned"].items())
            agents = f"{scores['agents']}" + (f" ({scores['nan_agents']} NaN)" if scores["nan_agents"] else "")
            chance = scores.get("probability_that_learned_is_better")
            table.add_row(
                f"{loss} ({values})" if loss == TUNED else loss,
                agents,
                with_interval(scores["mean_over_training"]),
                with_interval(scores["final_return"]),
                f"{chance['p']:.2f} [{chance['low']:.2f}, {chance['high']:.2f}]" if chance else "",
                scores.get("learned_is", ""),
            )
        Console(width=None if sys.stdout.isatty() else 140).print(table)
    print(f"P, and better or worse (95 % intervals lie apart), are of the {outcome.replace('_', ' ')}")

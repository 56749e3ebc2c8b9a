"""The end of a run: summary.json, the table in the terminal, and the pictures."""

import dataclasses
import shlex
import sys

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from runner.loop.hosts import is_first
from runner.loop.record import write_json
from runner.loop.saved import final_state
from runner.plan.checks import LARGEST_INT
from runner.plan.command_line import settable
from runner.plan.members import env_name, show
from runner.plan.sweeps import flag_name
from runner.report import plots
from runner.report.render import render
from runner.report.stats import describe

MOST_NAMED = 8  # members with NaN listed
FINAL = 0.1  # the final return is the mean over the last 10 % of training
COUNT = "episode_count"  # the metric that says of how many episodes an update's return is the mean
OF_POLICIES = ("final_return", "greedy_return", "sampled_return")


def report_policies(plan, run_dir, results):
    """Writes and prints what a run of a training script has shown, and returns what summary.json holds.

    results: (Trained, Evaluated) per batch.
    """
    if not is_first():
        return None
    if plan.options.eval_episodes:
        members, scores = with_returns(plan, [evaluated.returns for _, evaluated in results]), OF_POLICIES
        timing = {"evaluate_seconds": sum(evaluated.seconds for _, evaluated in results)}
    else:
        members, scores, timing = None, ("final_return",), {}
    found = write(plan, run_dir, [trained for trained, _ in results], scores, members, timing)
    if plan.options.gif:
        chosen = best_member(found["members"], found["best_point"])
        member = plan.members[chosen["member"]]
        done = render(run_dir / "policy.gif", plan, member, final_state(plan._replace(run_dir=run_dir), member))
        print(f"best member {member.index} ({member.name}): {done}")
    print(f"record: {run_dir}/learning_curve.png, metrics.csv, summary.json")
    return found


def write(plan, run_dir, trained, scores, members=None, timing=None):
    """Writes summary.json and the curves of any run, prints its table; returns what summary.json holds.

    trained: a Trained per batch; scores: names of the figures per member, of which members may have some already.
    """
    metric = plan.script.kind.metric
    used = ("member", "update", "env_steps", metric, COUNT)
    metrics = pd.read_csv(run_dir / "metrics.csv", usecols=lambda name: name in used)
    metrics = metrics.rename(columns={metric: "episode_return"})
    members = summarize_members(plan, metrics, trained, members)
    points = summarize_points(plan, members, scores)
    best = best_point(points)
    timing = {
        "compile_seconds": sum(batch.compile_seconds for batch in trained),
        "train_seconds": sum(batch.train_seconds for batch in trained),
        "env_steps": sum(batch.env_steps for batch in trained),
    } | (timing or {})
    timing["env_steps_per_second"] = timing["env_steps"] / timing["train_seconds"]
    found = {"best_point": best, "rerun_best": rerun_command(plan, best), "points": points, "members": members}
    write_json(run_dir / "summary.json", found | {"timing": timing})
    plots.learning_curve(run_dir / "learning_curve.png", plan, metrics, points, members)
    plots.sweep(run_dir / "sweep.png", plan, points)

    print_table(plan, points, best, scores)
    evaluated = f", evaluated in {timing['evaluate_seconds']:.1f} s" if "evaluate_seconds" in timing else ""
    print(
        f"compiled in {timing['compile_seconds']:.1f} s, trained in {timing['train_seconds']:.1f} s"
        f" ({timing['env_steps_per_second']:,.0f} env steps/s over all members){evaluated}"
    )
    bad = [f"{m['member']} ({plan.members[m['member']].name})" for m in members if m["first_bad_update"]]
    if bad:
        more = f" and {len(bad) - MOST_NAMED} more" if len(bad) > MOST_NAMED else ""
        print(f"went NaN, left out of the statistics: member {', '.join(bad[:MOST_NAMED])}{more}")
    if len(points) > 1:
        print(f"best point, on seeds that the sweep has not seen: {found['rerun_best']}")
    return found


def with_returns(plan, returns):
    """One dict per member with the mean returns of its evaluation; returns: (members, 2, episodes) per batch."""
    means = np.concatenate(returns).mean(axis=-1)  # NaN where an episode did not end
    order = [member for batch in plan.batches for member in batch.members]
    rows = [
        {
            "member": member.index,
            "point": member.point,
            "seed": member.seed,
            "greedy_return": float(greedy),
            "sampled_return": float(sampled),
            "first_bad_update": 0,
        }
        for member, (greedy, sampled) in zip(order, means, strict=True)
    ]
    return sorted(rows, key=lambda row: row["member"])


def summarize_members(plan, metrics, trained, members=None):
    """One dict per member: final return in training, what `members` has of it, and the update at which it went NaN."""
    num_updates = metrics.groupby("member")["update"].transform("max")
    last = metrics[metrics["update"] > num_updates - np.maximum(1, (FINAL * num_updates).astype(int))]
    final = {member: mean_return(rows) for member, rows in last.groupby("member")}
    first_bad = {
        m.index: int(bad) for batch in trained for m, bad in zip(batch.batch.members, batch.first_bad, strict=True)
    }
    return [
        {"member": member.index, "point": member.point, "seed": member.seed}
        | {"final_return": float(final.get(member.index, np.nan))}
        | (members[member.index] if members else {})
        | {"first_bad_update": first_bad[member.index]}
        for member in plan.members
    ]


def mean_return(metrics):
    """Mean return of the episodes that ended in these updates; where none did, the last known return.

    metrics: a table with episode_return, and episode_count where the script has it; where not, updates weigh alike.
    """
    returns, counts = metrics["episode_return"], metrics.get(COUNT)
    if counts is None or not counts.sum():
        return returns.mean()
    return (returns * counts)[counts > 0].sum(skipna=False) / counts.sum()


def summarize_points(plan, members, scores):
    """One dict per sweep point: IQM and mean of the scores with 95 % intervals over the seeds that stayed finite."""
    points = []
    for index, values in enumerate(plan.points):
        own = [member for member in members if member["point"] == index]
        whole = [member for member in own if not member["first_bad_update"]]
        described = {name: describe([m[name] for m in whole]) for name in scores}
        points.append({"values": values, "seeds": len(own), "nan_seeds": len(own) - len(whole)} | described)
    return points


def best_point(points):
    """The point with the largest share of members that have a final return and, among those, the highest IQM of it.

    A member that went NaN has none, nor one of which no episode has ended.
    """
    return max(range(len(points)), key=lambda i: rank(points[i]))


def rank(point):
    final = point["final_return"]
    return final["n"] / point["seeds"], final["iqm"] if final["n"] else -np.inf


def best_member(members, best):
    """The finite one of the best point with the highest return of the greedy policy, or of training, where known."""

    def merit(member):
        known = np.nan_to_num(member.get("greedy_return", member["final_return"]), nan=-np.inf)
        return not member["first_bad_update"], member["point"] == best, known

    return max(members, key=merit)


def rerun_command(plan, point):
    """The command that trains one point again, on the next seeds (or, where there are none, on those before)."""
    config, defaults = dataclasses.replace(plan.config, **plan.points[point]), plan.script.Config()
    words = ["python", plan.script.path.name, *(["--import", *plan.options.imports] if plan.options.imports else [])]
    for name, value in settable(config).items():
        flag = flag_name(name)
        if value == getattr(defaults, name):
            continue
        if isinstance(value, bool):
            words += [f"--{flag}" if value else f"--no-{flag}"]
        elif isinstance(value, tuple):
            words += [f"--{flag}", *map(str, value)]
        else:
            words += [f"--{flag}", repr(value) if isinstance(value, float) else str(value)]
    seed, count = plan.options.seed, plan.options.num_seeds
    next_seed = seed + count if seed + count <= LARGEST_INT else max(0, seed - count)
    return shlex.join([*words, "--num-seeds", str(count), "--seed", str(next_seed)])


def print_table(plan, points, best, scores):
    """A row per point; best: the number of the one that is marked, if any."""
    table = Table(title=f"{plan.script.name}, {env_name(plan.config)}: return, IQM [95 % interval] over seeds")
    swept = list(plan.points[0])
    for name in swept:
        table.add_column(name, justify="right", overflow="fold")  # in a narrow terminal nothing is cut off
    table.add_column("seeds", justify="right")
    if "final_return" in scores:
        table.add_column("last 10 %: IQM", justify="right")
        table.add_column("mean", justify="right")
    evaluated = [name for name in ("greedy_return", "sampled_return") if name in scores]
    for name in evaluated:
        table.add_column(f"{name.split('_')[0]} policy", justify="right")
    for index, point in enumerate(points):
        seeds = f"{point['seeds']}" + (f" ({point['nan_seeds']} NaN)" if point["nan_seeds"] else "")
        cells = [of_evaluation(point, name) for name in evaluated]
        if "final_return" in scores:
            final = point["final_return"]
            mark = " *" if index == best and len(points) > 1 else ""
            cells = [with_interval(final) + mark, with_interval(final, "mean", "mean_low", "mean_high"), *cells]
        table.add_row(*(show(point["values"][name]) for name in swept), seeds, *cells)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    if "env_params" in swept:
        print("note: the points differ in their environment, so their returns are of different tasks")
    if len(points) > 1 and best is not None:
        print("* most members with a final return (not NaN, an episode ended), then its highest IQM")


def of_evaluation(point, name):
    """With how many seeds are missing for an episode that did not end."""
    missing = point["seeds"] - point["nan_seeds"] - point[name]["n"]
    return with_interval(point[name]) + (f", {missing} without an end" if missing else "")


def with_interval(scores, middle="iqm", low="low", high="high"):
    if not scores["n"]:
        return "NaN"
    places = 1 if abs(scores[middle]) >= 10 else 3
    text = f"{round(scores[middle], places) + 0.0:.{places}f}"  # + 0.0: no minus before a zero
    return f"{text} [{scores[low]:.{places}f}, {scores[high]:.{places}f}]" if scores["n"] > 1 else text

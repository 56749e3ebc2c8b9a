"""The end of a run: summary.json, the table in the terminal, and the pictures."""

import shlex
import sys

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from runner import plots
from runner.members import env_name, show
from runner.record import write_json
from runner.render import render
from runner.stats import describe

MOST_NAMED = 8  # members with NaN listed
FINAL = 0.1  # the final return is the mean over the last 10 % of training


def write(plan, run_dir, results, load_final_state):
    """Writes summary.json and pictures and prints the table; load_final_state(member) is for the GIF."""
    columns = ["member", "update", "env_steps", "episode_return"]
    metrics = pd.read_csv(run_dir / "metrics.csv", usecols=columns)
    members = summarize_members(plan, metrics, results)
    points = summarize_points(plan, members)
    best = best_point(points)
    timing = {
        "compile_seconds": sum(result.compile_seconds for result in results),
        "train_seconds": sum(result.train_seconds for result in results),
        "evaluate_seconds": sum(result.evaluate_seconds for result in results),
        "env_steps": sum(result.env_steps for result in results),
    }
    timing["env_steps_per_second"] = timing["env_steps"] / timing["train_seconds"]
    summary = {"best_point": best, "rerun_best": rerun_command(plan, best), "points": points, "members": members}
    write_json(run_dir / "summary.json", summary | {"timing": timing})
    plots.learning_curve(run_dir / "learning_curve.png", plan, metrics, points, members)
    plots.sweep(run_dir / "sweep.png", plan, points)

    print_table(plan, points, best)
    print(
        f"compiled in {timing['compile_seconds']:.1f} s, trained in {timing['train_seconds']:.1f} s"
        f" ({timing['env_steps_per_second']:,.0f} env steps/s over all members),"
        f" evaluated in {timing['evaluate_seconds']:.1f} s"
    )
    bad = [f"{m['member']} ({plan.members[m['member']].name})" for m in members if m["first_bad_update"]]
    if bad:
        more = f" and {len(bad) - MOST_NAMED} more" if len(bad) > MOST_NAMED else ""
        print(f"went NaN, left out of the statistics: member {', '.join(bad[:MOST_NAMED])}{more}")
    if len(points) > 1:
        print(f"best point, on seeds that the sweep has not seen: {summary['rerun_best']}")
    if plan.options.gif:
        chosen = best_member(members, best)
        member = plan.members[chosen["member"]]
        done = render(run_dir / "policy.gif", plan, member, load_final_state(member))
        print(f"best member {member.index} ({member.name}): {done}")
    print(f"record: {run_dir}/learning_curve.png, metrics.csv, summary.json")


def summarize_members(plan, metrics, results):
    """One dict per member: final return in training, mean evaluation returns, and the update at which it went NaN."""
    num_updates = metrics.groupby("member")["update"].transform("max")
    last = metrics[metrics["update"] > num_updates - np.maximum(1, (FINAL * num_updates).astype(int))]
    final = last.groupby("member")["episode_return"].mean()
    returns = np.concatenate([result.returns for result in results]).mean(axis=-1)  # NaN where an episode did not end
    first_bad = np.concatenate([result.first_bad for result in results])
    order = [member for batch in plan.batches for member in batch.members]
    rows = [
        {
            "member": member.index,
            "point": member.point,
            "seed": member.seed,
            "final_return": float(final.get(member.index, np.nan)),
            "greedy_return": float(returns[i, 0]),
            "sampled_return": float(returns[i, 1]),
            "first_bad_update": int(first_bad[i]),
        }
        for i, member in enumerate(order)
    ]
    return sorted(rows, key=lambda row: row["member"])


def summarize_points(plan, members):
    """One dict per sweep point: IQM and mean with 95 % intervals over the seeds that stayed finite."""
    points = []
    for index, values in enumerate(plan.points):
        own = [member for member in members if member["point"] == index]
        whole = [member for member in own if not member["first_bad_update"]]
        scores = {
            name: describe([m[name] for m in whole]) for name in ("final_return", "greedy_return", "sampled_return")
        }
        points.append({"values": values, "seeds": len(own), "nan_seeds": len(own) - len(whole)} | scores)
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
    """The finite one of the best point with the highest return of the greedy policy, where that is known."""

    def merit(member):
        known = np.nan_to_num(member["greedy_return"], nan=-np.inf)
        return not member["first_bad_update"], member["point"] == best, known

    return max(members, key=merit)


def rerun_command(plan, point):
    """The command that trains one point again, on the next seeds."""
    settings = vars(plan.config) | plan.points[point]
    defaults = vars(plan.script.Config())
    words = ["python", plan.script.path.name]
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words += [f"--{flag}" if value else f"--no-{flag}"] if value != defaults[name] else []
        elif value != defaults[name]:
            words += [f"--{flag}", repr(value) if isinstance(value, float) else str(value)]
    words += ["--num-seeds", str(plan.options.num_seeds), "--seed", str(plan.options.seed + plan.options.num_seeds)]
    return shlex.join(words)


def print_table(plan, points, best):
    table = Table(title=f"{plan.script.name}, {env_name(plan.config)}: return, IQM [95 % interval] over seeds")
    swept = list(plan.points[0])
    for name in swept:
        table.add_column(name, justify="right")
    table.add_column("seeds", justify="right")
    table.add_column("final (last 10 %)", justify="right")
    table.add_column("mean final", justify="right")
    table.add_column("greedy policy", justify="right")
    table.add_column("sampled policy", justify="right")
    for index, point in enumerate(points):
        seeds = f"{point['seeds']}" + (f" ({point['nan_seeds']} NaN)" if point["nan_seeds"] else "")
        final = point["final_return"]
        cells = [with_interval(final), with_interval(final, "mean", "mean_low", "mean_high")]
        cells += [of_evaluation(point, name) for name in ("greedy_return", "sampled_return")]
        mark = " *" if index == best and len(points) > 1 else ""
        table.add_row(*(show(point["values"][name]) for name in swept), seeds, cells[0] + mark, *cells[1:])
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    if len(points) > 1:
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

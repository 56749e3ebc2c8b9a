"""Adds finished runs to results/returns.csv, seed by seed to returns_seeds.csv, and their curves to curves.csv.

    python benchmarks/returns.py runs/dqn/CartPole-v1/20261121-064301-ab12cd ...

returns.csv has final returns and evaluation with intervals, and how they were got; returns_seeds.csv the numbers that
these are made of; curves.csv IQM and interval over training. Give it run directories of runs without --sweep, on the
machine that trained them. Rows take the place of older ones of the same command.
"""

import argparse
import json
import shlex
from pathlib import Path

import pandas as pd
from throughput import ROOT, machine, read_rows, replace_rows, version_text

from runner.report.plots import binned
from runner.report.stats import interval, iqm

OUTPUT, SEEDS, CURVES = (ROOT / "results" / f"{name}.csv" for name in ("returns", "returns_seeds", "curves"))
POINTS = 50  # of a curve
IQM = (("iqm", "iqm"), ("iqm_low", "low"), ("iqm_high", "high"))  # name here, name in summary.json
MEAN = (("mean", "mean"), ("mean_low", "mean_low"), ("mean_high", "mean_high"))


def read(run_dir):
    """What a finished run's config.json and summary.json hold."""
    return [json.loads((run_dir / name).read_text()) for name in ("config.json", "summary.json")]


def row(run_dir):
    """One row, as a dict, from what a run directory records."""
    record, summary = read(run_dir)
    (point,) = summary["points"]
    final, greedy = point["final_return"], point["greedy_return"]
    scores = {f"final_{name}": final[key] for name, key in (*IQM, *MEAN)}
    scores |= {f"greedy_{name}": greedy[key] for name, key in IQM}
    timing, config = summary["timing"], record["config"]
    steps = env_steps(config, summary)
    return (
        {"script": record["script"], "env_id": config["env_id"], "env_params": config["env_params"]}
        | {"seeds": point["seeds"], "nan_seeds": point["nan_seeds"], "total_timesteps": steps}
        | {name: "" if score is None else round(score, 3) for name, score in scores.items()}
        | {"train_seconds": round(timing["train_seconds"], 1)}
        | {"steps_per_second": round(timing["env_steps_per_second"])}
        | machine()
        | made_with(record)
        | {"command": command(record)}
    )


def env_steps(settings, summary):
    """Env steps of a member: as its settings have it or, of an evolution, which has generations, those of a run."""
    return settings.get("total_timesteps", summary["timing"]["env_steps"] // len(summary["members"]))


def made_with(record):
    """Versions and date of a run, which may be other ones than those of now."""
    versions = record["versions"]
    shown = {"python": versions["python"], "jax": versions["jax"], "versions": version_text(versions)}
    return shown | {"date": record["started"][:10]}


def seed_rows(run_dir):
    """A row, as a dict, per seed; without figures where it went NaN or its episodes did not end."""
    record, summary = read(run_dir)
    names = {"script": record["script"]} | {k: record["config"][k] for k in ("env_id", "env_params")}
    for member in summary["members"]:
        scores = {name: member[name] for name in ("final_return", "greedy_return")}
        bad = member["first_bad_update"]
        scores = {name: "" if bad or score is None else round(score, 3) for name, score in scores.items()}
        yield names | {"seed": member["seed"]} | scores | {"command": command(record)}


def command(record):
    """What was typed, but for where the record went."""
    words = shlex.split(record["command"])[2:]
    if "--run-dir" in words:
        at = words.index("--run-dir")
        del words[at : at + 2]
    return shlex.join(["python", f"{record['script']}.py", *words])


def whole_members(summary):
    """Numbers of the members that stayed finite."""
    return [m["member"] for m in summary["members"] if not m["first_bad_update"]]


def scores_over_training(run_dir, points=POINTS, digits=3):
    """(share of training done, {env_steps, iqm, low, high} over seeds) in equal stretches of training."""
    _, summary = read(run_dir)
    table = pd.read_csv(run_dir / "metrics.csv", usecols=["member", "env_steps", "episode_return"])
    steps, returns = binned(table, whole_members(summary), points)
    for step, *scores in zip(steps, iqm(returns), *interval(returns), strict=True):
        scores = {name: round(float(x), digits) for name, x in zip(("iqm", "low", "high"), scores, strict=True)}
        yield step / table["env_steps"].max(), {"env_steps": round(step)} | scores


def curve(run_dir):
    """Rows of the learning curve, as dicts: IQM and interval over seeds, in equal stretches of training."""
    record, summary = read(run_dir)
    names = {"script": record["script"]} | {k: record["config"][k] for k in ("env_id", "env_params")}
    for _, scores in scores_over_training(run_dir):
        yield names | {"seeds": len(whole_members(summary))} | scores | {"command": command(record)}


def is_tuned(command):
    """Whether a command is one of benchmarks/suite.py's, but for its comparison of networks."""
    return "--tuned" in command.split() and "--network" not in command


def commands():
    """The commands whose results are there."""
    return [row["command"] for row in read_rows(OUTPUT)]


def add(run_dirs):
    """Writes what run directories say into the three files."""
    curves = [line for run_dir in run_dirs for line in curve(run_dir)]
    seeds = [line for run_dir in run_dirs for line in seed_rows(run_dir)]
    for path, new in ((CURVES, curves), (SEEDS, seeds), (OUTPUT, [row(run_dir) for run_dir in run_dirs])):
        replace_rows(path, new)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dirs", nargs="+", type=Path)
    args = parser.parse_args()
    add(args.run_dirs)
    print(f"{len(args.run_dirs)} runs written to {OUTPUT}, {SEEDS.name} and {CURVES.name}")


if __name__ == "__main__":
    main()

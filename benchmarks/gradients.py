"""Gradients through the simulator beside PPO: return by env steps and by seconds, and truncation against step size.

    python benchmarks/gradients.py                        # all that is not there yet: results/gradients.csv, .png
    python benchmarks/gradients.py --map                  # truncation x lr in Reacher-misc: results/gradients_map.png
    python benchmarks/gradients.py --envs Pendulum-v1 --methods apg shac

Stop it at any time: the same command goes on where it was, for the runs lie in runs/gradients/METHOD/ENV.
"""

import argparse
import json
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import returns
from suite import train
from tasks import BASE, ROOT, RUNS, flags, read_tuned
from throughput import machine, replace_rows

from runner.report.plots import draw_band, finish_curves, plt, save

OUTPUT = ROOT / "results" / "gradients.csv"
BEFORE = ("env_id", "method")  # what tells rows of one run from those of another


class Task(NamedTuple):
    steps: int  # env steps per agent
    settings: dict  # of all methods


# In PointRobot-misc the other reward is a jump, which has no gradient. Brax is short: compiling takes minutes on a CPU.
TASKS = {
    "Reacher-misc": Task(500_000, {}),
    "Pendulum-v1": Task(500_000, {}),
    "PointRobot-misc": Task(300_000, {"env_params": "dense_reward=True"}),
    "brax/reacher-spring": Task(200_000, {}),
}
METHODS = {"apg": "apg", "shac": "apg", "ppo": "ppo"}  # the script of each
COLORS = {"apg": "tab:purple", "shac": "tab:green", "ppo": "tab:blue"}
# Where runner/plan/tuned.toml has no settings for an environment: what the searches in continuous control started from
START = {"shac": BASE["apg"]["continuous"], "ppo": BASE["ppo"]["continuous"]}
# Nothing is searched without a critic: chosen by hand in Reacher-misc, on seeds 1000 to 1002
APG = START["shac"] | {"critic": False, "num_steps": 100, "lr": 3e-3, "gamma": 0.99}
# A Gaussian of std 1 would be cut off at 0.1 in every step
OWN = {("ppo", "PointRobot-misc"): {"squash_actions": True}}
MAP = {"truncation": (1, 2, 5, 10, 25, 50, 100), "lr": (3e-4, 1e-3, 3e-3, 1e-2)}
MAP_SETTINGS = {"env_id": "Reacher-misc", "critic": False, "num_envs": 16, "num_steps": 100, "total_timesteps": 320_000}


def settings_of(method, env_id, steps=None):
    """{field: value} of a run, as far as it differs from the script's defaults."""
    task = TASKS[env_id]
    common = {"env_id": env_id, "total_timesteps": steps or task.steps} | task.settings
    if method == "apg":
        return APG | common
    tuned = read_tuned().get(METHODS[method], {}).get(env_id)
    return (tuned or START[method] | OWN.get((method, env_id), {})) | common


def run(method, env_id, seeds, steps=None, root=RUNS):
    """The run directory of a method in an environment, trained to its end."""
    settings = settings_of(method, env_id, steps)
    run_dir = root / "gradients" / method / env_id.replace("/", "-")
    train(METHODS[method], [*flags(settings), "--num-seeds", str(seeds)], run_dir, settings)
    return run_dir


def rows(method, env_id, run_dir):
    """Dicts: IQM and interval over seeds in equal stretches of training, by env steps of an agent and by seconds.

    seconds: of all seeds of the run together, at an even pace; compile_seconds come before them.
    """
    record, summary = returns.read(run_dir)
    timing, seeds = summary["timing"], len(summary["members"])
    common = {"seeds": seeds, "nan_seeds": seeds - len(returns.whole_members(summary))}
    common |= {"compile_seconds": round(timing["compile_seconds"], 1)}
    common |= {name: machine()[name] for name in ("machine", "jax")} | {"date": record["started"][:10]}
    common |= {"command": shlex.join(shlex.split(record["command"])[:-2])}  # without where the record went
    return [
        {"env_id": env_id, "method": method, "env_steps": scores["env_steps"]}
        | {"seconds": round(share * timing["train_seconds"], 2)}
        | {name: scores[name] for name in ("iqm", "low", "high")}
        | common
        for share, scores in returns.scores_over_training(run_dir)
    ]


def draw(table, output):
    """Return by env steps above, by seconds below, a column per environment, a line per method."""
    env_ids = [env_id for env_id in TASKS if env_id in set(table["env_id"])]
    figure, grid = plt.subplots(2, len(env_ids), figsize=(4.2 * len(env_ids), 7), squeeze=False, layout="constrained")
    for column, env_id in zip(grid.T, env_ids, strict=True):
        for method, line in table[table["env_id"] == env_id].groupby("method", sort=False):
            text = f"{method}, {line['seeds'].iloc[0]} seeds"
            text += f", {line['nan_seeds'].iloc[0]} NaN" if line["nan_seeds"].iloc[0] else ""
            for axes, x in zip(column, ("env_steps", "seconds"), strict=True):
                draw_band(axes, *(line[name] for name in (x, "iqm", "low", "high")), COLORS[method], text)
        for axes in column:
            finish_curves(axes, env_id, "")
        column[1].set(xlabel="seconds of training, all seeds together", title="")
        column[1].xaxis.set_major_formatter("{x:g}")
    figure.supylabel("episode return in training, IQM over seeds and 95 % interval")
    save(figure, output)


def compare(methods, env_ids, seeds, steps=None, root=RUNS, output=OUTPUT):
    """Trains what is not there yet, writes its rows, draws all rows."""
    for env_id in env_ids:
        for method in methods:
            new = rows(method, env_id, run(method, env_id, seeds, steps, root))
            replace_rows(output, new, BEFORE)
            print(f"done: {new[-1]['command']}: {new[-1]['iqm']}", flush=True)
    draw(pd.read_csv(output), output.with_suffix(".png"))


def truncation_map(seeds, steps=None, root=RUNS, output=OUTPUT, grid=MAP):
    """One run with a sweep over both: truncation shapes the program, so the runner trains a batch per value."""
    settings = MAP_SETTINGS | ({"total_timesteps": steps} if steps else {})
    sweep = [f"{name}={','.join(map(str, values))}" for name, values in grid.items()]
    run_dir = root / "gradients" / "map"
    words = [*flags(settings), "--sweep", *sweep, "--num-seeds", str(seeds), "--eval-episodes", "0"]
    train("apg", words, run_dir, settings)
    points = json.loads((run_dir / "summary.json").read_text())["points"]
    names = ("iqm", "low", "high")
    found = [
        p["values"] | {k: p["final_return"][k] for k in names} | {k: p[k] for k in ("seeds", "nan_seeds")}
        for p in points
    ]
    replace_rows(output.with_name("gradients_map.csv"), found, tuple(grid))
    shutil.copy(run_dir / "sweep.png", output.with_name("gradients_map.png"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--envs", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--steps", type=int, help="env steps per agent, in place of each task's own")
    parser.add_argument("--map", action="store_true", help="truncation against lr in place of everything")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where the runs lie")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    if args.map:
        truncation_map(args.seeds, args.steps, args.runs, args.output)
    else:
        compare(args.methods, args.envs, args.seeds, args.steps, args.runs, args.output)


if __name__ == "__main__":
    main()

"""Tunes scripts: a random search per environment with the runner's own --sweep; the best point goes to tuned.toml.

    python benchmarks/tune.py                                         # everything that is not tuned yet: many hours
    python benchmarks/tune.py --scripts ppo --envs CartPole-v1 Acrobot-v1

Every point and its returns go to results/tuning.csv. Stop it at any time: the same command goes on where it was, for
the runs lie in runs/tuning/SCRIPT/ENV. What has a line and rows is not searched again: to repeat it delete the line
and the folder. benchmarks/tasks.py has the space and the budget.
"""

import argparse
import importlib
import json
from dataclasses import asdict

from returns import env_steps
from suite import train
from tasks import PLAYS, ROOT, RUNS, SEARCH_SEED, base, budget, draw_points, flags, length, read_tuned, write_tuned
from throughput import machine, read_rows, replace_rows

OUTPUT = ROOT / "results" / "tuning.csv"


def tune(script, env_id):
    """Searches, and returns the rows of the table and the settings of the best point that are not the defaults."""
    defaults = asdict(importlib.import_module(script).Config())
    start, spent = base(script, env_id), budget(script, env_id)
    points = draw_points(script, defaults | start)
    swept = " ".join(f"{name}={','.join(str(point[name]) for point in points)}" for name in points[0])
    settings = start | {length(script): spent.steps}
    words = ["--env-id", env_id, *flags(settings), "--sweep", swept]
    words += ["--num-seeds", str(spent.seeds), "--seed", str(SEARCH_SEED), "--eval-episodes", "8"]
    run_dir = RUNS / "tuning" / script / env_id
    train(script, words, run_dir, settings)
    summary = json.loads((run_dir / "summary.json").read_text())
    best = start | summary["points"][summary["best_point"]]["values"]
    return rows(script, env_id, start, spent, summary), {k: v for k, v in best.items() if v != defaults[k]}


def rows(script, env_id, start, spent, summary):
    """A dict per point; total_timesteps are env steps, or those of all episodes if each lasts as long as it may."""
    steps = env_steps({length(script): spent.steps}, summary)
    for i, point in enumerate(summary["points"]):
        final, settings = point["final_return"], start | point["values"]
        yield (
            {"script": script, "env_id": env_id, "total_timesteps": steps, "point": i}
            | {"settings": " ".join(f"{k}={v}" for k, v in settings.items() if k != length(script))}
            | {"seeds": f"{SEARCH_SEED}-{SEARCH_SEED + spent.seeds - 1}", "nan_seeds": point["nan_seeds"]}
            | {key: "" if final[key] is None else round(final[key], 3) for key in ("iqm", "low", "high")}
            | {"chosen": i == summary["best_point"]}
            | machine()
            | {"command": f"python benchmarks/tune.py --scripts {script} --envs {env_id}"}
        )


def recorded(script, env_id):
    return any((row["script"], row["env_id"]) == (script, env_id) for row in read_rows(OUTPUT))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scripts", nargs="+", default=list(PLAYS), choices=list(PLAYS))
    parser.add_argument("--envs", nargs="+")
    args = parser.parse_args()
    for script in args.scripts:
        for env_id in args.envs or PLAYS[script]:
            if env_id in read_tuned().get(script, {}) and recorded(script, env_id):
                continue
            new, settings = tune(script, env_id)
            replace_rows(OUTPUT, list(new), ("script", "env_id"))
            lines = {name: dict(read_tuned().get(name, {})) for name in PLAYS}
            lines[script][env_id] = settings
            write_tuned(lines)
            print(f"tuned {script} for {env_id}: {settings or 'the defaults'}", flush=True)


if __name__ == "__main__":
    main()

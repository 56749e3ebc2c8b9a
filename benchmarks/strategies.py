"""Which strategy evolves a policy best: strategies of evosax x tasks at equal env steps.

    python benchmarks/strategies.py                          # everything that is not there yet: many hours
    python benchmarks/strategies.py --tasks CartPoleSwingUp-easy --strategies Open_ES SNES

Each strategy is searched first: the same first spreads (and step sizes, where it takes them) in every task, two seeds
each, a third of the generations. Its best point is then run on seeds 0 to 7. Every run is one command of
evolve_policy.py, so PPO's and DQN's figures of the same environments, in results/returns.csv, can stand beside it.
Stop it at any time: the same command goes on where it was, for the runs lie in runs/strategies/TASK/STRATEGY. Rows go
to results/strategies.csv, a picture beside it.
"""

import argparse
import inspect
import json
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import returns
from suite import train
from tasks import ROOT, RUNS, SEARCH_SEED, flags
from throughput import machine, read_rows, replace_rows

import evolve_policy
from runner.report.plots import draw_band, finish_curves, plt, save

OUTPUT = ROOT / "results" / "strategies.csv"
POINTS = 30  # of a curve
SEEDS, SEARCH_SEEDS = 8, 2
STDS, STEPS = (0.1, 0.3, 1.0), (0.05, 0.2, 0.4)  # searched, together


class Task(NamedTuple):
    generations: int
    episodes: int  # per candidate
    population: int = 64


# As many env steps for every strategy, if episodes last as long as they may
TASKS = {
    "CartPoleSwingUp-easy": Task(60, 4),
    "CartPoleSwingUp-hard": Task(100, 8),
    "Pendulum-v1": Task(60, 8),
    "CartPole-v1": Task(30, 8),
    "Acrobot-v1": Task(30, 8),
    "brax/inverted_pendulum-spring": Task(20, 2),
    "Breakout-MinAtar": Task(100, 8),
}
# Those that most people use; every other name of evolve_policy.STRATEGIES can be given
STRATEGIES = ("Open_ES", "PGPE", "SNES", "Sep_CMA_ES", "CMA_ES", "ARS", "SimpleGA")


def settings_of(env_id, strategy, generations=None):
    """{field: value} of a run, but for what is searched."""
    task = TASKS[env_id]
    settings = {"env_id": env_id, "strategy": strategy, "generations": generations or task.generations}
    return settings | {"population": task.population, "episodes_per_candidate": task.episodes}


def points(strategy):
    """What is searched, as {field: values}: each combination is a point."""
    takes = inspect.signature(evolve_policy.ALGORITHMS[strategy].__init__).parameters
    return {"std_init": STDS} | ({"es_lr": STEPS} if "optimizer" in takes else {})


def search(env_id, strategy, root):
    """The best of a strategy's points on the search's seeds, as {field: value}."""
    grid = points(strategy)
    settings = settings_of(env_id, strategy, max(2, TASKS[env_id].generations // 3))
    run_dir = root / "strategies" / env_id.replace("/", "-") / f"{strategy}-search"
    sweep = [f"{name}={','.join(map(str, values))}" for name, values in grid.items()]
    words = [*flags(settings), "--sweep", *sweep, "--num-seeds", str(SEARCH_SEEDS), "--seed", str(SEARCH_SEED)]
    train("evolve_policy", [*words, "--eval-episodes", "0"], run_dir, settings)
    summary = json.loads((run_dir / "summary.json").read_text())
    return summary["points"][summary["best_point"]]["values"]


def rows(env_id, strategy, best, run_dir):
    """Dicts: IQM and interval over seeds of the mean policy's return, in equal stretches of the evolution."""
    record, summary = returns.read(run_dir)
    greedy, timing, seeds = summary["points"][0]["greedy_return"], summary["timing"], len(summary["members"])
    common = {"seeds": seeds, "nan_seeds": seeds - len(returns.whole_members(summary))}
    common |= {f"greedy_{name}": round(greedy[name], 2) for name in ("iqm", "low", "high")}
    common |= {"settings": " ".join(f"{k}={v:g}" for k, v in best.items())}
    common |= {name: round(timing[name], 1) for name in ("compile_seconds", "train_seconds")}
    common |= machine() | {"date": record["started"][:10]}
    common |= {"command": f"python benchmarks/strategies.py --tasks {env_id} --strategies {strategy}"}
    for _, scores in returns.scores_over_training(run_dir, POINTS, digits=2):
        yield {"env_id": env_id, "strategy": strategy} | scores | common


def measure(env_id, strategy, seeds, root, output):
    """Searches, runs, and writes the rows of one strategy in one task."""
    best = search(env_id, strategy, root)
    settings = settings_of(env_id, strategy) | best
    run_dir = root / "strategies" / env_id.replace("/", "-") / strategy
    train("evolve_policy", [*flags(settings), "--num-seeds", str(seeds)], run_dir, settings)
    new = list(rows(env_id, strategy, best, run_dir))
    replace_rows(output, new, ("env_id", "strategy"))
    print(f"done: {strategy} in {env_id} with {new[-1]['settings']}: greedy {new[-1]['greedy_iqm']}", flush=True)


def draw(table, output):
    """A panel per task, a line per strategy."""
    env_ids = [env_id for env_id in TASKS if env_id in set(table["env_id"])]
    figure, axes = plt.subplots(1, len(env_ids), figsize=(5.6 * len(env_ids), 4.6), squeeze=False, layout="constrained")
    for panel, env_id in zip(axes[0], env_ids, strict=True):
        own = table[table["env_id"] == env_id]
        for i, (strategy, line) in enumerate(own.groupby("strategy", sort=False)):
            text = f"{strategy}, {line['seeds'].iloc[0]} seeds"
            draw_band(panel, *(line[name] for name in ("env_steps", "iqm", "low", "high")), f"C{i}", text)
        finish_curves(panel, env_id, "return of the mean policy: IQM over seeds and 95 % interval")
    save(figure, output)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=list(evolve_policy.STRATEGIES))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--runs", type=Path, default=RUNS, help="where the runs lie")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    known = {(row["env_id"], row["strategy"]) for row in read_rows(args.output)}
    for env_id in args.tasks:
        for strategy in args.strategies:
            if (env_id, strategy) not in known:
                measure(env_id, strategy, args.seeds, args.runs, args.output)
    draw(pd.read_csv(args.output), args.output.with_suffix(".png"))


if __name__ == "__main__":
    main()

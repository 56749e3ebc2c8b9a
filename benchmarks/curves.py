"""Draws finished runs side by side: a panel per environment, a line with its 95 % band per script.

    python benchmarks/curves.py --output results/memory.png runs/ppo/A/... runs/ppo_rnn/A/... runs/ppo/B/...

Give it run directories of runs without --sweep.
"""

import argparse
import json
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from runner.plots import binned, draw_curve, finish_curves, plt, save


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dirs", nargs="+", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    panels = {}
    for run_dir in args.run_dirs:
        record = json.loads((run_dir / "config.json").read_text())
        config = record["config"]
        name = config["env_id"] + (f"\n{config['env_params']}" if config["env_params"] else "")
        panels.setdefault(name, []).append((run_dir, record["script"]))
    size = (5 * len(panels), 4) if len(panels) > 1 else (8, 5)
    figure, row = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    for axes, (name, runs) in zip(row[0], panels.items(), strict=True):
        for i, (run_dir, script) in enumerate(runs):
            table = pd.read_csv(run_dir / "metrics.csv", usecols=["member", "env_steps", "episode_return"])
            steps, returns = binned(table, table["member"].unique())
            draw_curve(axes, steps, returns, f"C{i}", f"{script}.py, {len(returns)} seeds")
        finish_curves(axes, name, "episode return: IQM and 95 % interval")
    save(figure, args.output)


if __name__ == "__main__":
    main()

"""Draws learning curves: a panel per environment, a line with its 95 % band per script.

    python benchmarks/curves.py                                  # results/curves.csv into results/curves.png
    python benchmarks/curves.py --output results/memory.png runs/ppo/A/... runs/ppo_rnn/A/... runs/ppo/B/...

Give it run directories of runs without --sweep, or none for what benchmarks/suite.py has measured.
"""

import argparse
import math
from pathlib import Path

import pandas as pd
from returns import CURVES, curve, is_tuned
from tasks import PLAYS

from runner.report.plots import draw_band, finish_curves, plt, save

COLORS = {"ppo": "tab:blue", "dqn": "tab:orange", "pqn": "tab:red", "ppo_rnn": "tab:green", "apg": "tab:purple"}
MOST_COLUMNS = 4


def measured():
    """The rows of results/curves.csv that benchmarks/suite.py wrote, in the order of the tables.

    But for evolutions, whose many env steps would leave the others no room.
    """
    table = pd.read_csv(CURVES, keep_default_na=False)
    table = table[table["command"].map(is_tuned) & (table["script"] != "evolve_policy")]
    rank = {name: i for i, name in enumerate([*PLAYS["ppo"], *PLAYS])}
    return table.sort_values(["env_id", "script"], key=lambda names: names.map(rank), kind="stable")


def draw(table, output):
    """Draws rows of results/curves.csv."""
    panels = list(table.groupby(["env_id", "env_params"], sort=False))
    columns = min(MOST_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    size = (4.2 * columns, 3.2 * rows + 0.8) if len(panels) > 1 else (8, 5)  # 0.8: the label is longer than one row
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, ((env_id, env_params), own) in zip(grid.flat, panels, strict=False):
        for i, (script, line) in enumerate(own.groupby("script", sort=False)):
            if line["env_steps"].duplicated().any():
                raise SystemExit(f"two runs of {script}.py in {env_id}: use python -m runner.compare_runs")
            text, color = f"{script}.py, {line['seeds'].iloc[0]} seeds", COLORS.get(script, f"C{3 + i}")
            draw_band(axes, *(line[name] for name in ("env_steps", "iqm", "low", "high")), color, text)
        finish_curves(axes, env_id + (f"\n{env_params}" if env_params else ""), "")
    figure.supylabel("episode return in training\nIQM over seeds and 95 % interval")
    save(figure, output)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dirs", nargs="*", type=Path)
    parser.add_argument("--output", type=Path, default=CURVES.with_suffix(".png"))
    args = parser.parse_args()
    rows = pd.DataFrame(row for run_dir in args.run_dirs for row in curve(run_dir)) if args.run_dirs else measured()
    draw(rows, args.output)


if __name__ == "__main__":
    main()

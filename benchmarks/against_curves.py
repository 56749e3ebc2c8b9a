"""Learning curves of the scripts beside those of another commit: what was made faster must learn as before.

    python benchmarks/against_curves.py 0a1b2c3               # 16 seeds of each script's defaults, half an hour

That commit and the newest run as whole commands, each with its own runner, in runs/against/COMMIT; what has ended there
is not run again. Curves go to results/against_curves.csv and against_curves.png. Two 95 % intervals of agents that
learn alike overlap nearly everywhere, but not everywhere: the points of a curve share their seeds, so misses come in
rows.
"""

import argparse

import pandas as pd
from against import commit_name, extract
from returns import curve
from suite import train
from tasks import RUNS
from throughput import ROOT, machine, replace_rows

from runner.report.plots import draw_band, finish_curves, plt, save

SEEDS = 16
OUTPUT = ROOT / "results" / "against_curves.csv"
COLORS = {"before": "tab:orange", "now": "tab:blue"}


def measure(name, commit):
    """Rows of both curves."""
    for version, its_commit in (("before", commit), ("now", commit_name("HEAD"))):
        folder = RUNS / "against" / its_commit
        if not (folder / "tree").exists():
            extract(its_commit, folder / "tree")
        run_dir = folder / name
        train(name, ["--num-seeds", str(SEEDS)], run_dir, {}, folder / "tree")
        for row in curve(run_dir):
            yield {"commit": commit, "version": version, "version_commit": its_commit} | row | machine()


def overlapping(own):
    """How many points there are, and at how many the intervals of both versions overlap."""
    before, now = (own[own["version"] == version].reset_index() for version in COLORS)
    return len(now), int(((before["low"] <= now["high"]) & (now["low"] <= before["high"])).sum())


def draw(table, output):
    """A panel per script, a line with its band per version."""
    scripts = list(table.groupby("script", sort=False))
    figure, grid = plt.subplots(1, len(scripts), figsize=(5 * len(scripts), 4), squeeze=False, layout="constrained")
    for axes, (script, own) in zip(grid.flat, scripts, strict=True):
        for version, line in own.groupby("version"):
            text = f"{version}, {line['seeds'].iloc[0]} seeds"
            draw_band(axes, *(line[name] for name in ("env_steps", "iqm", "low", "high")), COLORS[version], text)
        points, count = overlapping(own)
        title = f"{script}.py on {own['env_id'].iloc[0]}\nintervals overlap at {count} of {points} points"
        finish_curves(axes, title, "episode return: IQM and 95 % interval")
    save(figure, output)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", help="what to compare with, as git knows it")
    parser.add_argument("--scripts", nargs="+", default=["ppo", "ppo_rnn", "dqn"])
    args = parser.parse_args()
    commit = commit_name(args.commit)
    for name in args.scripts:
        rows = list(measure(name, commit))
        replace_rows(OUTPUT, rows, ("commit", "script"))
        own = pd.DataFrame(rows)
        points, count = overlapping(own)
        last = {version: line.iloc[-1] for version, line in own.groupby("version")}
        ends = ", ".join(f"{v} {x['iqm']:.1f} [{x['low']:.1f}, {x['high']:.1f}]" for v, x in last.items())
        print(f"{name:10} intervals overlap at {count} of {points} points; at the end {ends}", flush=True)
    draw(pd.read_csv(OUTPUT).query("commit == @commit"), OUTPUT.with_suffix(".png"))


if __name__ == "__main__":
    main()

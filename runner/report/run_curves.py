"""Learning curves of several finished runs in one picture."""

import json
from pathlib import Path

import pandas as pd

from runner.plan.errors import UsageError
from runner.report.plots import binned, draw_curve, finish_curves, plt, save


def draw(path, records, labels, x):
    """records: {folder, script, config, options} per run; x: steps or seconds.

    Raises UsageError for a run that is not finished.
    """
    figure, axes = plt.subplots(figsize=(8, 5))
    metrics_named = set()
    for i, (record, label) in enumerate(zip(records, labels, strict=True)):
        steps, curves, metric = curves_of(Path(record["folder"]), x)
        metrics_named.add(metric)
        draw_curve(axes, steps, curves, f"C{i}", f"{label}, {len(curves)} seeds")
    env_ids = {record["config"]["env_id"] for record in records}
    title = f"{', '.join(sorted(env_ids))}: IQM and 95 % interval over seeds"
    finish_curves(axes, title, " / ".join(sorted(metrics_named)).replace("_", " "))
    if x == "seconds":
        axes.set_xlabel("seconds of training, all seeds of the run together")
        axes.xaxis.set_major_formatter("{x:g}")
    save(figure, path)


def curves_of(folder, x):
    """(x (bins,), returns (seeds, bins), name of the metric) of the best point of a run."""
    try:
        summary = json.loads((folder / "summary.json").read_text())
        table = pd.read_csv(folder / "metrics.csv")
    except (OSError, ValueError):
        raise UsageError(f"{folder} is not finished: it has no summary.json or no metrics.csv") from None
    metric = "episode_return" if "episode_return" in table else "fitness_mean"
    table = table.rename(columns={metric: "episode_return"})
    own = [m["member"] for m in summary["members"] if m["point"] == summary["best_point"]]
    whole = [m for m in own if not summary["members"][m]["first_bad_update"]]
    steps, curves = binned(table, whole)
    if x == "seconds":  # the seeds of all points train side by side, at an even pace
        steps = steps / table["env_steps"].max() * summary["timing"]["train_seconds"]
    return steps, curves, metric

"""Pictures of a run: the learning curve, and return against what was swept."""

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from runner.loop.record import replacing
from runner.plan.members import env_name, show
from runner.report.stats import interval, iqm

BINS = 100  # points along a learning curve
MOST_LINES = 10  # more sweep points than the eye can tell apart: the best ones are drawn
MOST_BANDS = 4  # bands beyond these hide one another: the best ones have them
MOST_INSIDE = 4  # lines of a legend that leaves the curves visible; a longer one stands beside them


def save(figure, path):
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png", bbox_inches="tight")
    plt.close(figure)


def label(values):
    return ", ".join(f"{name}={show(value)}" for name, value in values.items())


def draw_curve(axes, steps, curves, color, text, band=True):
    """IQM line and 95 % band of returns (members, steps), which may be of no member at all."""
    if not len(curves):
        axes.plot([], [], color=color, label=text, linewidth=2)
    elif band:
        draw_band(axes, steps, iqm(curves), *interval(curves), color, text)
    else:
        axes.plot(steps, iqm(curves), color=color, label=text, linewidth=1.2)


def draw_band(axes, x, middle, low, high, color, text):
    axes.plot(x, middle, color=color, label=text, linewidth=2)
    axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)


def finish_curves(axes, title, ylabel):
    axes.set(xlabel="env steps per agent", ylabel=ylabel, title=title)
    axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
    axes.grid(alpha=0.3)
    if len(axes.get_legend_handles_labels()[1]) > MOST_INSIDE:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, fontsize=9)
    else:
        axes.legend(loc="best", fontsize=9)


def learning_curve(path, plan, metrics, points, members):
    """Return against env steps: IQM line and 95 % band over the seeds that stayed finite, one line per sweep point.

    A cross at the bottom marks where a member went NaN. Of many points the best ones have bands.
    """
    ranked = sorted(range(len(points)), key=lambda i: -np.nan_to_num(points[i]["final_return"]["iqm"], nan=-np.inf))
    drawn = sorted(ranked[:MOST_LINES])
    figure, axes = plt.subplots(figsize=(8, 5))
    colors = plt.get_cmap("tab10").colors
    for color, index in zip(colors, drawn, strict=False):
        own = [m for m in members if m["point"] == index]
        steps, curves = binned(metrics, [m["member"] for m in own if not m["first_bad_update"]])
        nan = (
            f" ({points[index]['nan_seeds']} of {points[index]['seeds']} NaN: ×)" if points[index]["nan_seeds"] else ""
        )
        text = (label(points[index]["values"]) or f"{plan.script.name}, {points[index]['seeds']} seeds") + nan
        draw_curve(axes, steps, curves, color, text, index in ranked[:MOST_BANDS])
        ends = {m["member"]: m["first_bad_update"] for m in own if m["first_bad_update"]}
        bad = metrics[metrics["update"] == metrics["member"].map(ends)]["env_steps"]
        if len(bad):  # an empty one that is not clipped would widen the picture
            axes.plot(bad, [0.02] * len(bad), "x", color=color, transform=axes.get_xaxis_transform(), clip_on=False)
    title = f"{env_name(plan.config)}, {plan.script.name}: IQM and 95 % interval over {plan.options.num_seeds} seeds"
    if len(points) > len(drawn):
        title += f"\nthe best {len(drawn)} of {len(points)} sweep points"
    finish_curves(axes, title, "episode return")
    save(figure, path)


def binned(metrics, indices, bins=BINS):
    """(env steps (bins,), returns (members, bins)): means of at most bins equal stretches, where all are known."""
    table = metrics[metrics["member"].isin(indices)].pivot(index="env_steps", columns="member", values="episode_return")
    stretch = np.arange(len(table)) * min(bins, len(table)) // max(1, len(table))
    means = table.groupby(stretch).mean().set_axis(table.index.to_series().groupby(stretch).mean()).dropna()
    return means.index.to_numpy(), means.to_numpy().T


def sweep(path, plan, points):
    """Final return against one swept field, or a heat map over two; nothing for other sweeps."""
    swept = list(plan.points[0])
    if len(swept) == 1:
        return sweep_line(path, plan, points, swept[0])
    if len(swept) == 2:
        return sweep_map(path, plan, points, *swept)
    return None


def is_log(values):
    """Whether numbers spread over a factor of 8 or more: then a logarithmic axis shows them apart."""
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    return len(numbers) == len(values) and min(numbers) > 0 and max(numbers) / min(numbers) >= 8


def sweep_line(path, plan, points, name):
    numeric = all(
        isinstance(p["values"][name], (int, float)) and not isinstance(p["values"][name], bool) for p in points
    )
    order = sorted(points, key=lambda p: p["values"][name]) if numeric else points
    x = [p["values"][name] for p in order] if numeric else np.arange(len(order))
    middle, low, high = (np.array([p["final_return"][key] for p in order]) for key in ("iqm", "low", "high"))
    figure, axes = plt.subplots(figsize=(7, 4.5))
    errors = np.nan_to_num([middle - low, high - middle])
    axes.errorbar(x, middle, errors, marker="o", capsize=4, linestyle="-" if numeric else "none", color="tab:blue")
    if numeric and is_log(x):
        axes.set_xscale("log")
    if not numeric or len(order) <= 8:
        axes.set_xticks(x, [show(p["values"][name]) for p in order])
        axes.minorticks_off()
    for position, point in zip(x, order, strict=True):
        if point["nan_seeds"]:
            axes.axvline(position, color="tab:red", alpha=0.4, linestyle=":")
            text = f"{point['nan_seeds']} of {point['seeds']} NaN"
            axes.text(
                position,
                0.98,
                text,
                color="tab:red",
                rotation=90,
                va="top",
                ha="right",
                transform=axes.get_xaxis_transform(),
            )
    axes.set(
        xlabel=name,
        ylabel="final return: IQM and 95 % interval",
        title=f"{env_name(plan.config)}, {plan.options.num_seeds} seeds per point",
    )
    axes.grid(alpha=0.3)
    save(figure, path)


def in_order(points, name):
    """The values of a swept field: numbers by size, everything else as it was typed."""
    values = list(dict.fromkeys(p["values"][name] for p in points))
    return sorted(values) if all(isinstance(v, (int, float)) for v in values) else values


def sweep_map(path, plan, points, row_name, column_name):
    rows, columns = in_order(points, row_name), in_order(points, column_name)
    if len(points) != len(rows) * len(columns):  # drawn together at random: no grid
        return sweep_scatter(path, plan, points, row_name, column_name)
    cells = np.full((len(rows), len(columns)), np.nan)
    figure, axes = plt.subplots(figsize=(2 + 1.3 * len(columns), 1.5 + 0.8 * len(rows)))
    for point in points:
        cells[rows.index(point["values"][row_name]), columns.index(point["values"][column_name])] = point[
            "final_return"
        ]["iqm"]
    image = axes.imshow(cells, aspect="auto", cmap="viridis")
    for point in points:
        i, j = rows.index(point["values"][row_name]), columns.index(point["values"][column_name])
        score = point["final_return"]
        text = f"{score['iqm']:.4g}" + (f"\n[{score['low']:.4g}, {score['high']:.4g}]" if score["n"] > 1 else "")
        text += f"\n{point['nan_seeds']} NaN" if point["nan_seeds"] else ""
        dark = np.isfinite(cells[i, j]) and image.norm(cells[i, j]) < 0.6
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set_xticks(range(len(columns)), [show(v) for v in columns])
    axes.set_yticks(range(len(rows)), [show(v) for v in rows])
    title = f"{env_name(plan.config)}: final return, IQM [95 % interval], {plan.options.num_seeds} seeds"
    axes.set(xlabel=column_name, ylabel=row_name, title=title)
    figure.colorbar(image, label="IQM of the final return")
    return save(figure, path)


def sweep_scatter(path, plan, points, x_name, y_name):
    x, y = ([p["values"][name] for p in points] for name in (x_name, y_name))
    figure, axes = plt.subplots(figsize=(7, 5))
    dots = axes.scatter(x, y, c=[p["final_return"]["iqm"] for p in points], s=120, cmap="viridis", edgecolor="black")
    axes.set(
        xlabel=x_name,
        ylabel=y_name,
        title=f"{env_name(plan.config)}: random search, {plan.options.num_seeds} seeds per point",
    )
    axes.set_xscale("log" if is_log(x) else "linear")
    axes.set_yscale("log" if is_log(y) else "linear")
    figure.colorbar(dots, label="IQM of the final return")
    save(figure, path)

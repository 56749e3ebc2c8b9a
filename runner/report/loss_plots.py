"""Pictures of a learned loss: how its evolution went, what it looks like beside the hand-written one, how it does."""

import jax
import jax.numpy as jnp
import matplotlib

from runner.report.plots import plt, save
from runner.report.stats import mean_interval

COLORS = {"learned": "tab:blue", "hand-written": "tab:orange"}
COLORS |= {"learned, at the start": "tab:blue", "learned, at the end": "tab:purple"}
GRID = 201  # points along an axis


def fitness(path, config, metrics, baseline):
    """Fitness over generations: mean, spread and best of the candidates, and the hand-written loss's 95 % band."""
    figure, axes = plt.subplots(figsize=(8, 5))
    x, mean, std = (metrics[name].to_numpy() for name in ("update", "fitness_mean", "fitness_std"))
    axes.plot(x, metrics["fitness_best"], color=COLORS["learned"], linewidth=0.8, alpha=0.6, label="best candidate")
    axes.plot(x, mean, color=COLORS["learned"], linewidth=2, label=f"mean of {config.population} candidates")
    axes.fill_between(x, mean - std, mean + std, color=COLORS["learned"], alpha=0.2, linewidth=0, label="± 1 std")
    low, high = mean_interval(baseline)
    axes.axhline(baseline.mean(), color=COLORS["hand-written"], linewidth=2, label="hand-written loss, 95 % interval")
    axes.axhspan(low, high, color=COLORS["hand-written"], alpha=0.3, linewidth=0)
    when = {"mean": "mean over training", "final": "last 10 % of training"}[config.fitness]
    unit = "relative to the hand-written loss" if len(config.env_ids) > 1 else "return"
    title = f"{', '.join(config.env_ids)}: {config.learn} loss evolved by {config.strategy}"
    axes.set(xlabel="generation", ylabel=f"fitness: {unit}, {when}", title=title)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(loc="best", fontsize=9)
    save(figure, path)


def losses(run_dir, module, config, params):
    """value_loss.png and drift.png, of the terms that were learned; of a timed loss as it begins and as it ends."""
    spec, agent = module.loss_spec(config)._replace(scaled=False), module.agent_config(config, config.env_ids[0])
    moments = {"learned, at the start": 0.0, "learned, at the end": 1.0} if spec.timed else {"learned": 0.0}
    objectives = {name: module.learned_objectives(spec, params, progress) for name, progress in moments.items()}
    if "value" in params:
        learned = {name: terms["value_objective"] for name, terms in objectives.items()}
        handwritten = {"hand-written": module.ppo.clipped_squared_error}
        value_loss(run_dir / "value_loss.png", agent, learned | handwritten, config.scaled)
    if "policy" in params:
        learned = {name: terms["policy_objective"] for name, terms in objectives.items()}
        handwritten = {"PPO": module.ppo.clipped_surrogate, "DPO": module.dpo_objective}
        drifts(run_dir / "drift.png", agent, learned | handwritten)


def value_loss(path, agent, objectives, scaled):
    """Value losses and their derivatives over (value - target), before the first step and after one of 1, or 0.1."""
    reach, step = (5.0, 0.1) if scaled else (50.0, 1.0)
    error = jnp.linspace(-reach, reach, GRID)
    figure, axes = plt.subplots(1, 2, figsize=(12, 5.2), layout="constrained")
    for name, objective in objectives.items():
        for moved, style in ((0.0, "-"), (step, "--")):
            old = error + moved * jnp.sign(error)  # the value has come nearer to the target, which is 0, by so much
            values = objective(error, jnp.zeros(GRID), old, agent)
            slopes = jax.vmap(jax.grad(lambda v, o, f=objective: f(v, jnp.zeros(()), o, agent)))(error, old)
            text = f"{name}, {f'value moved by {step:g} towards the target' if moved else 'value = old value'}"
            for axis, y in zip(axes, (values, slopes), strict=True):
                axis.plot(error, y, style, color=COLORS[name], label=text, linewidth=2)
    for axis, name in zip(axes, ("value loss", "its derivative by value"), strict=True):
        axis.set(xlabel="value - target" + (", in units of the targets' spread" if scaled else ""), ylabel=name)
        axis.set_yscale("symlog", linthresh=0.1)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    figure.suptitle("Learned value loss beside the hand-written one (vertical axes: logarithmic outside ±0.1)")
    save(figure, path)


def drifts(path, agent, policies):
    """The drift, objective + r A, and its derivative by the ratio, over (ratio, advantage)."""
    ratio, advantage = jnp.meshgrid(jnp.linspace(0.4, 1.6, GRID), jnp.linspace(-2.0, 2.0, GRID))
    ratio, advantage = ratio.reshape(-1), advantage.reshape(-1)
    maps = {}
    for name, objective in policies.items():

        def drift(r, a, objective=objective):
            return objective(r, a, agent) + r * a

        maps[name] = drift(ratio, advantage), jax.vmap(jax.grad(drift))(ratio, advantage)
    figure, axes = plt.subplots(
        2, len(maps), figsize=(4.3 * len(maps), 7), sharex=True, sharey=True, layout="constrained"
    )
    for row, title in enumerate(("drift", "its derivative by the ratio")):
        size = max(float(jnp.abs(maps[name][row]).max()) for name in ("PPO", "DPO"))  # a scale that all share
        for axis, name in zip(axes[row], maps, strict=True):
            image = axis.imshow(
                maps[name][row].reshape(GRID, GRID), origin="lower", extent=(0.4, 1.6, -2, 2), aspect="auto",
                cmap="RdBu_r", vmin=-size, vmax=size,
            )  # fmt: skip
            axis.set_title(f"{name}: {title}", fontsize=10)
            axis.axvline(1.0, color="black", linewidth=0.5)
        figure.colorbar(image, ax=axes[row], shrink=0.9, extend="both")
    for axis in axes[1]:
        axis.set_xlabel("ratio")
    for axis in axes[:, 0]:
        axis.set_ylabel("normalised advantage")
    save(figure, path)


def comparison(path, summary):
    """Both outcomes of every loss in every environment: a dot at the IQM and its 95 % interval."""
    outcomes = {"mean_over_training": "return, mean over training", "final_return": "return, last 10 % of training"}
    count = max(len(found["losses"]) for found in summary.values())
    size = (2.2 + 4.2 * len(outcomes), 0.9 + (0.9 + 0.42 * count) * len(summary))
    figure, axes = plt.subplots(len(summary), len(outcomes), figsize=size, squeeze=False, layout="constrained")
    for row, (env_id, found) in zip(axes, summary.items(), strict=True):
        names = list(found["losses"])
        for axis, (outcome, text) in zip(row, outcomes.items(), strict=True):
            for y, name in enumerate(names):
                score = found["losses"][name][outcome]
                errors = [[score["iqm"] - score["low"]], [score["high"] - score["iqm"]]]
                axis.errorbar([score["iqm"]], [y], xerr=errors, fmt="o", color=f"C{y}", capsize=4, linewidth=2)
                axis.annotate(
                    f"{score['iqm']:.4g}",
                    (score["iqm"], y),
                    (0, 6),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
            axis.axvline(found["losses"]["learned"][outcome]["iqm"], color="C0", linewidth=0.8, linestyle=":")
            axis.set_yticks(range(len(names)), names if axis is row[0] else [""] * len(names))
            axis.set_ylim(len(names) - 0.5, -0.7)
            axis.set_xlabel(text)
            axis.margins(x=0.12)
            axis.grid(alpha=0.3, axis="x")
        row[0].set_title(f"{env_id} ({'held out' if found['held_out'] else 'evolved on'})", loc="left", fontsize=10)
    figure.suptitle("IQM and 95 % interval over agents with fresh seeds")
    save(figure, path)

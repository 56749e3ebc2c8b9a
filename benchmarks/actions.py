"""Is control by numbers harder to learn than control by choices, or only harder to tune?

    python benchmarks/actions.py                              # all that is not there yet: 6 x 10^9 env steps
    python benchmarks/actions.py --envs CartPole --arms D3 C3
    python benchmarks/actions.py --report                     # trains nothing: verdicts and picture of what is there

docs/continuous-or-discrete.md says what is compared and by which rules, all fixed before the first run. Each arm is
searched in each environment, at the same points; its best point and the plain defaults are then run on other seeds.
Stop it at any time: the same command goes on where it was, for the runs lie in runs/actions/ENV/ARM.

Into results/: actions_search.csv has a row per point, actions.csv one per seed; made of these are actions_arms.csv,
actions_pairs.csv and actions_curves.csv, and the picture, actions.png.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import returns
import scipy.special
from suite import train
from tasks import NORMALIZED, PPO_SPACE, ROOT, RUNS, SEARCH_SEED, draw, flags
from throughput import read_rows, replace_rows, write_rows

from runner.report.plots import binned, plt, save
from runner.report.stats import RESAMPLES, iqm, mean_probability_of_improvement, stratified_interval


class Arm(NamedTuple):
    actions: str  # the last part of an environment's id
    settings: dict
    has_std: bool = True  # the policy has a standard deviation to start from


ARMS = {
    "D3": Arm("3", {}, has_std=False),
    "D9": Arm("9", {}, has_std=False),
    "C": Arm("box", {}),
    "B": Arm("box", {"squash_actions": True}),
    "C3": Arm("round", {}),
}
PAIRS = (("D3", "C3"), ("C", "C3"), ("D3", "D9"), ("C", "B"))  # the first one is the question


class Env(NamedTuple):
    settings: dict  # of all arms
    random: float  # mean return of random actions: a score of 0
    best: float  # the best return known: a score of 1


# random, and best of PointMass and Forage: benchmarks/anchors.py. Else best is the most that there is, or the highest
# IQM in results/returns.csv, which is ppo_rnn.py's
ENVS = {
    "CartPole": Env({}, 24.1, 500.0),
    "MountainCar": Env(NORMALIZED, -200.0, -101.1),
    "Acrobot": Env({}, -499.0, -80.2),
    "Pendulum": Env(NORMALIZED, -1210.0, -156.6),
    "PointMass": Env({}, -108.6, -10.1),
    "Forage": Env({}, 0.94, 9.3),
}
SPACE = PPO_SPACE | {"action_std": ("log", 0.2, 2.0)}
NO_ENTROPY = 4  # every fourth point has an entropy weight of 0
FEW = 4  # points that somebody tries who does not search
SEARCH_SEEDS, EVAL_EPISODES = 4, 32
STRETCHES = 50  # of a run, for the steps to 90 %
SETTINGS = ("tuned", "default")
GROUPS = {env: [env] for env in ENVS} | {"all": list(ENVS)}  # what is reported on


class Size(NamedTuple):
    points: int = 64
    seeds: int = 64  # of the best point, and of the defaults
    steps: int = 500_000  # of an agent

    @property
    def search(self):
        return self.points * SEARCH_SEEDS * self.steps

    @property
    def reported(self):
        return self.seeds * self.steps


# --- Runs -------------------------------------------------------------------------------------------------------------
def points(arm, count):
    """[{field: value}], the same for all arms, but for action_std where there is none."""
    rng = np.random.default_rng(0)
    drawn = [{name: draw(rng, *how) for name, how in SPACE.items()} for _ in range(count)]
    for point in drawn[::NO_ENTROPY]:
        point["ent_coef"] = 0.0
    names = [name for name in SPACE if name != "action_std" or ARMS[arm].has_std]
    return [{name: point[name] for name in names} for point in drawn]


def settings_of(env, arm, steps):
    """{field: value} of a run, but for what is searched."""
    settings = {"env_id": f"control/{env}-{ARMS[arm].actions}", "total_timesteps": steps}
    return settings | ENVS[env].settings | ARMS[arm].settings


def search(env, arm, size, root):
    """Rows, as dicts, of all points of an arm."""
    settings, drawn = settings_of(env, arm, size.steps), points(arm, size.points)
    swept = " ".join(f"{name}={','.join(str(point[name]) for point in drawn)}" for name in drawn[0])
    words = [*flags(settings), "--sweep", swept, "--num-seeds", str(SEARCH_SEEDS), "--seed", str(SEARCH_SEED)]
    run_dir = root / "actions" / env / arm / "search"
    train("ppo", [*words, "--eval-episodes", "0"], run_dir, settings)
    record, summary = returns.read(run_dir)
    for i, point in enumerate(drawn):
        found = [number(member, "final_return") for member in summary["members"] if member["point"] == i]
        values = {name: point.get(name, "") for name in SPACE}
        scores = {"mean_return": text(np.mean(found)), "returns": " ".join(f"{x:.4f}" for x in found)}
        yield {"env": env, "arm": arm, "point": i} | values | scores | made(record)


def reported(env, arm, setting, values, size, root):
    """Rows, as dicts, of all seeds of an arm with the values of a point, or with none: the defaults."""
    settings = settings_of(env, arm, size.steps) | values
    words = [*flags(settings), "--num-seeds", str(size.seeds), "--seed", "0", "--eval-episodes", str(EVAL_EPISODES)]
    run_dir = root / "actions" / env / arm / setting
    train("ppo", words, run_dir, settings)
    record, summary = returns.read(run_dir)
    metrics = pd.read_csv(run_dir / "metrics.csv", usecols=["member", "env_steps", "episode_return"])
    shown = " ".join(f"{name}={value:g}" for name, value in values.items())
    for member in summary["members"]:
        scores = {name: text(number(member, name)) for name in ("final_return", "greedy_return")}
        steps = steps_to_90(metrics[metrics["member"] == member["member"]], env)
        row = {"env": env, "arm": arm, "setting": setting, "seed": member["seed"]} | scores
        yield row | {"steps_to_90": steps or "", "settings": shown} | made(record)


def number(member, name):
    """What a member reached; NaN where it went NaN or no episode ended."""
    return np.nan if member["first_bad_update"] or member[name] is None else member[name]


def text(x):
    return round(float(x), 4) if np.isfinite(x) else ""


def made(record):
    return {name: returns.made_with(record)[name] for name in ("jax", "date")}


def steps_to_90(metrics, env):
    """Env steps until one of STRETCHES equal stretches of a seed's training has a score of 0.9; None: never."""
    steps, curves = binned(metrics, metrics["member"].unique(), STRETCHES)
    if not len(steps):
        return None
    (there,) = np.nonzero(score(env, curves[0]) >= 0.9)
    return round(steps[there[0]]) if len(there) else None


def best_point(rows):
    """{field: value} of the row with the highest mean return, of numbers or of a file's text; NaN comes last."""
    best = max(rows, key=lambda row: float(row["mean_return"]) if row["mean_return"] != "" else -np.inf)
    return {name: float(best[name]) for name in SPACE if best[name] != ""}


class Files(NamedTuple):
    """Where the rows are, and those of an environment and an arm that are there."""

    folder: Path

    @property
    def search(self):
        return self.folder / "actions_search.csv"

    @property
    def runs(self):
        return self.folder / "actions.csv"

    def searched(self, env, arm):
        return [row for row in read_rows(self.search) if (row["env"], row["arm"]) == (env, arm)]

    def reported(self, env, arm, setting):
        key = (env, arm, setting)
        return [row for row in read_rows(self.runs) if (row["env"], row["arm"], row["setting"]) == key]


def steps_left(jobs, size, files):
    """Env steps of all that has no rows yet; what is half done counts in full."""
    left = 0
    for env, arm in jobs:
        left += size.search * (len(files.searched(env, arm)) != size.points)
        rows = (files.reported(env, arm, setting) for setting in SETTINGS)
        left += sum(size.reported * (len(found) != size.seeds) for found in rows)
    return left


def measure(env, arm, size, root, files):
    """Searches and runs an arm in an environment, as far as that was not done yet, and writes its rows."""
    found = files.searched(env, arm)
    if len(found) != size.points:
        found = list(search(env, arm, size, root))
        replace_rows(files.search, found, ("env", "arm"))
        print(f"searched: {arm} in {env}", flush=True)
    for setting, values in (("tuned", best_point(found)), ("default", {})):
        if len(files.reported(env, arm, setting)) != size.seeds:
            new = list(reported(env, arm, setting, values, size, root))
            replace_rows(files.runs, new, ("env", "arm", "setting"))
            print(f"done: {arm} in {env}, {setting}", flush=True)


# --- Measures ---------------------------------------------------------------------------------------------------------
def score(env, x):
    """Returns as shares of the way from random actions to the best known."""
    return (x - ENVS[env].random) / (ENVS[env].best - ENVS[env].random)


def expected_best(scores):
    """Expected highest score of k points, k = 1 to n, (..., n), of n points with scores (..., n).

    As Dodge et al. 2019 (arXiv:1909.03004), but of different points, as drawn (Tang et al. 2020, arXiv:2004.13705):
    sum over i of C(i - 1, k - 1) / C(n, k) times the i-th lowest score.
    """
    n = scores.shape[-1]
    i, k = np.arange(1, n + 1)[:, None], np.arange(1, n + 1)
    return np.sort(scores, axis=-1) @ (scipy.special.comb(i - 1, k - 1) / scipy.special.comb(n, k))


def point_scores(searched, env, arm):
    """Scores (points,) of an arm; of a point with a seed that went NaN the lowest of all arms' there."""
    own = searched[searched["env"] == env]
    found = own[own["arm"] == arm].sort_values("point")["mean_return"].to_numpy(float)
    return score(env, np.nan_to_num(found, nan=own["mean_return"].min()))


def gap(searched, envs, arms):
    """{gap, low, high}: expected best after FEW points of the first arm less the second's, mean over envs.

    The interval is over points: these are the same in both arms and in all envs, and so are resampled together.
    """
    scores = np.array([[point_scores(searched, env, arm) for arm in arms] for env in envs])  # (envs, 2, points)
    count = scores.shape[-1]
    drawn = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))

    def difference(scores):
        """Of scores (envs, 2, ..., points)."""
        after = expected_best(scores)[..., min(FEW, count) - 1].mean(axis=0)
        return after[0] - after[1]

    low, high = np.percentile(difference(scores[..., drawn]), [2.5, 97.5])
    return {"gap": float(difference(scores)), "gap_low": float(low), "gap_high": float(high)}


def verdict(chance, few):
    """What D3 against C3 says: chance, {p, low, high}, of both when tuned; few: their gap, see there."""
    if chance["low"] > 0.5:
        return "harder to learn"
    return "harder to tune" if few["gap_low"] > 0 else "no difference shown"


def final_scores(runs, env, arm, setting):
    """Scores (seeds,); NaN where there is no return."""
    own = runs[(runs["env"] == env) & (runs["arm"] == arm) & (runs["setting"] == setting)]
    return score(env, own["final_return"].to_numpy(float))


def compare(runs, searched, envs, setting, arms):
    """A row, as a dict, on the first arm against the second in envs together."""
    chance = mean_probability_of_improvement([[final_scores(runs, env, arm, setting) for arm in arms] for env in envs])
    row = {"setting": setting, "better": arms[0], "worse": arms[1]} | chance
    if setting == "tuned":
        few = gap(searched, envs, arms)
        row |= few | {"verdict": verdict(chance, few) if arms == PAIRS[0] else ""}
    return {name: round(x, 4) if isinstance(x, float) else x for name, x in row.items()}


def describe(runs, envs, arm, setting):
    """A row, as a dict, on an arm: returns of one env, or scores of several together. NaN counts as random actions."""
    scores = [final_scores(runs, env, arm, setting) for env in envs]
    one = ENVS[envs[0]] if len(envs) == 1 else Env({}, 0.0, 1.0)
    units = [one.random + (one.best - one.random) * np.nan_to_num(x) for x in scores]
    low, high = stratified_interval(units, iqm_of_all)
    own = runs[runs["env"].isin(envs) & (runs["arm"] == arm) & (runs["setting"] == setting)]
    steps = own["steps_to_90"].fillna(np.inf).median()  # inf: most seeds never get there
    values = {"iqm": round(float(iqm_of_all(*units)), 4), "low": round(low, 4), "high": round(high, 4)}
    values |= {"steps_to_90": int(steps) if np.isfinite(steps) else "", "reached": int(own["steps_to_90"].count())}
    failing = sum(int((~(x >= 0.5)).sum()) for x in scores)  # NaN is not above anything
    return {"arm": arm, "setting": setting, "seeds": len(own)} | values | {"failing": failing}


def iqm_of_all(*samples, axis=-1):
    return iqm(np.concatenate(samples, axis=axis), axis=axis)


# --- Report -----------------------------------------------------------------------------------------------------------
def report(files):
    """Writes what is made of the rows: three tables and the picture. Returns the rows on pairs of arms."""
    runs, searched = pd.read_csv(files.runs), pd.read_csv(files.search)
    there = set(zip(runs["env"], runs["arm"], runs["setting"], strict=True))

    def have(name, arms, setting):
        return all((env, arm, setting) in there for env in GROUPS[name] for arm in arms)

    described = [
        {"env": name} | describe(runs, GROUPS[name], arm, setting)
        for name, setting, arm in itertools.product(GROUPS, SETTINGS, ARMS)
        if have(name, [arm], setting)
    ]
    pairs = [
        {"env": name} | compare(runs, searched, GROUPS[name], setting, arms)
        for name, setting, arms in itertools.product(GROUPS, SETTINGS, PAIRS)
        if have(name, arms, setting)
    ]
    curves = [
        {"env": name, "arm": arm, "points": k, "score": round(float(value), 4)}
        for name, arm in itertools.product(GROUPS, ARMS)
        if have(name, [arm], "tuned")
        for k, value in enumerate(curve(searched, GROUPS[name], arm), start=1)
    ]
    for name, rows in (("arms", described), ("pairs", pairs), ("curves", curves)):
        write_rows(files.folder / f"actions_{name}.csv", rows)
    draw_all(pd.DataFrame(curves), pd.DataFrame(pairs), files.folder / "actions.png")
    return pairs


def curve(searched, envs, arm):
    """Expected best score after 1, 2, ... points, mean over envs."""
    return np.mean([expected_best(point_scores(searched, env, arm)) for env in envs], axis=0)


def draw_all(curves, pairs, output):
    """Expected best score after k points, a panel per environment; then how probably D3 is better than C3, tuned."""
    names = list(curves["env"].unique())
    figure, grid = plt.subplots(2, 4, figsize=(17, 7.5), layout="constrained")
    for axes in grid.flat[len(names) + 1 :]:
        axes.set_axis_off()
    for axes, name in zip(grid.flat, names, strict=False):
        for i, arm in enumerate(ARMS):
            line = curves[(curves["env"] == name) & (curves["arm"] == arm)]
            axes.plot(line["points"], line["score"], color=f"C{i}", label=arm, linewidth=2)
        axes.axvline(FEW, color="gray", linestyle=":")
        axes.set(title=name, xlabel="points tried", ylabel="expected best score", xscale="log")
        axes.set_xticks([1, 4, 16, 64], ["1", "4", "16", "64"])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    grid.flat[0].legend(fontsize=9)
    if len(pairs):
        draw_chances(grid.flat[len(names)], pairs)
    save(figure, output)


def draw_chances(axes, pairs):
    """The question's pair, tuned: a dot with its interval per environment."""
    asked = (pairs["better"] == PAIRS[0][0]) & (pairs["worse"] == PAIRS[0][1]) & (pairs["setting"] == "tuned")
    own = pairs[asked][::-1]
    axes.errorbar(own["p"], own["env"], xerr=[own["p"] - own["low"], own["high"] - own["p"]], fmt="o", capsize=4)
    axes.axvline(0.5, color="gray", linestyle=":")
    axes.set(title="P(D3 above C3), both tuned", xlabel="probability and 95 % interval", xlim=(-0.03, 1.03))
    axes.grid(alpha=0.3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", nargs="+", default=list(ENVS), choices=list(ENVS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--report", action="store_true", help="train nothing")
    for name, value in Size()._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=value, help="smaller to try it out, with other folders")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where the runs lie")
    parser.add_argument("--output", type=Path, default=ROOT / "results", help="the folder of tables and picture")
    args = parser.parse_args()
    size, files = Size(args.points, args.seeds, args.steps), Files(args.output)
    jobs = list(itertools.product(args.envs, args.arms))
    left, whole = steps_left(jobs, size, files), len(jobs) * (size.search + 2 * size.reported)
    print(f"{left:.3g} of {whole:.3g} env steps are left, in {', '.join(args.envs)}", flush=True)
    for env, arm in [] if args.report else jobs:
        measure(env, arm, size, args.runs, files)
    for row in report(files) if files.runs.exists() else []:
        print(json.dumps(row))


if __name__ == "__main__":
    main()

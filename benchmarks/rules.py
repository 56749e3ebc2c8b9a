"""Does an evolved loss beat the hand-written one, tuned as hard, in environments where neither has ever been?

    python benchmarks/rules.py search                    # the hand-written loss at 256 points: 7 x 10^8 env steps
    python benchmarks/rules.py evolve --rules both       # 1.3 x 10^9 env steps a rule
    python benchmarks/rules.py compare                   # on the suite that both have seen
    python benchmarks/rules.py search --held-out         # at the end: so far nothing has been there
    python benchmarks/rules.py compare --held-out
    python benchmarks/rules.py report                    # trains nothing: probabilities and picture of what is there

docs/evolution.md says what is compared and by which rules, all fixed before the first run. Stop it at any time: the
same command goes on where it was. Evolutions lie in runs/rules/.

Into results/: rules_search.csv has a row per environment and point, rules.csv one per environment, loss and seed;
made of these are rules_pairs.csv, rules_curve.csv and the picture, rules.png.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
from actions import expected_best, text
from suite import train
from tasks import PPO_SPACE, ROOT, RUNS, SEARCH_SEED, draw, flags
from throughput import machine, read_rows, replace_rows, write_rows

import environments  # noqa: F401  registers those that are not gymnax's
import meta_evolve_loss as meta
from runner.loop.devices import Spread, everywhere, make_mesh, use_compile_cache
from runner.plan.command_line import from_json
from runner.report.plots import plt, save
from runner.report.stats import mean_probability_of_improvement

SUITE = ("CartPole-v1", "Acrobot-v1", "Catch-bsuite", "FourRooms-misc", "Reacher-misc")  # to evolve and to tune on
HELD_OUT = (
    "UmbrellaChain-bsuite",
    "Pendulum-v1",
    "control/PointMass-3",
    "MetaMaze-misc",
    "Breakout-MinAtar",
    "SpaceInvaders-MinAtar",
)
# What is tuned of the hand-written loss. scaled: see meta_evolve_loss.py
SPACE = {name: PPO_SPACE[name] for name in ("lr", "clip_eps", "ent_coef")} | {"vf_coef": ("log", 1e-4, 1.0)}
SPACE |= {"clip_value": (True, False), "scale_reward": (True, False), "scaled": (True, False)}
STATIC = ("clip_value", "scale_reward", "scaled")  # another program for each
EVOLVED = {"population": 64, "generations": 32, "scaled": True}
RULES = {  # what evolves
    "both": {"learn": "both"},
    "both, timed": {"learn": "both", "timed": True},
    "policy": {"learn": "policy"},
    "value": {"learn": "value"},
}
ONE_SETTING, OWN_SETTING = "hand-written, one setting", "hand-written, tuned in each"
SEARCH_SEEDS = 4
FIRST_SEED = 10_000  # of the comparison: far from the seeds of searches and evolutions
OUTCOME = "mean_over_training"  # what is tuned and evolved for, and compared by


class Size(NamedTuple):
    points: int = 256
    seeds: int = 64  # of the comparison
    steps: int = 131_072  # of an agent


# --- The hand-written loss --------------------------------------------------------------------------------------------
def points(count):
    """[{field: value}], the same in all environments; the first one is PPO's own."""
    rng = np.random.default_rng(0)
    own = {name: getattr(meta.Config(), name) for name in SPACE}
    drawn = [{name: draw(rng, *how) for name, how in SPACE.items()} for _ in range(count - 1)]
    return [own, *({name: bool(x) if name in STATIC else x for name, x in point.items()} for point in drawn)]


def outcomes(config, env_id, loss, params, floats, seeds):
    """{outcome: (n,)} of n agents of config that train with one of meta.LOSSES, and with floats, {field: (n,)}."""
    mesh = make_mesh(len(seeds))
    agent = meta.make_agent(config, env_id, loss)

    def agents(params, floats, seeds):
        return Spread(mesh)(lambda floats, seed: agent(params, floats, jax.random.key(seed)))(floats, seeds)

    values = {name: np.asarray(x, np.float32) for name, x in floats.items()}
    found = jax.jit(agents, out_shardings=everywhere(mesh))(params, values, np.asarray(seeds, np.uint32))
    return dict(zip(meta.OUTCOMES, np.asarray(found, np.float64).T, strict=True))


def search(env_id, size):
    """Rows, as dicts, of all points in an environment: those that share a program are trained together."""
    numbered = pd.DataFrame(points(size.points))
    for static, own in numbered.groupby(list(STATIC)):
        config = meta.Config(total_timesteps=size.steps, **dict(zip(STATIC, map(bool, static), strict=True)))
        floats = {name: np.repeat(own[name], SEARCH_SEEDS) for name in SPACE if name not in STATIC}
        seeds = np.tile(np.arange(SEARCH_SEED, SEARCH_SEED + SEARCH_SEEDS), len(own))
        found = outcomes(config, env_id, "hand-written", {}, floats, seeds)
        means = {name: x.reshape(len(own), -1).mean(axis=1) for name, x in found.items()}
        for i, (point, values) in enumerate(own.iterrows()):
            scores = {name: text(x[i]) for name, x in means.items()}
            yield {"env_id": env_id, "point": point} | values.to_dict() | scores | machine()


def settings_of(searched, point):
    """{field: value} of a point, from the rows of its search."""
    row = searched[searched["point"] == point].iloc[0]
    return {name: bool(row[name]) if name in STATIC else float(row[name]) for name in SPACE}


def best_point(searched, env_ids, allowed=None):
    """The point that is best over env_ids by its mean rank in each: as evolution, so that each has one vote.

    allowed: of points, (P,) bools; None: all. A point with a seed that went NaN comes last there.
    """
    votes = votes_of(searched, env_ids)
    return int((votes if allowed is None else votes[allowed]).idxmax())


def votes_of(searched, env_ids):
    """Of each point the share of points that are no better, (P,), mean over env_ids."""
    own = searched[searched["env_id"].isin(env_ids)].pivot(index="point", columns="env_id", values=OUTCOME)
    return own.fillna(-np.inf).rank(pct=True).mean(axis=1)


# --- Evolution --------------------------------------------------------------------------------------------------------
def folder_of(rule, root):
    return root / "rules" / rule.replace(", ", "-")


def evolve(rule, settings, size, root):
    """Evolves a rule on the suite, from the hand-written loss with these settings; returns its folder."""
    fixed = {"total_timesteps": size.steps} | settings | EVOLVED | RULES[rule]
    words = ["--env-ids", *SUITE, *flags(fixed), "--eval-seeds", "0"]
    run_dir = folder_of(rule, root)
    train("meta_evolve_loss", words, run_dir, fixed)
    return run_dir


def start_of_evolution(searched):
    """The best of the points that see values as the learned losses do."""
    return settings_of(searched, best_point(searched, SUITE, searched.groupby("point")["scaled"].first()))


# --- Comparison -------------------------------------------------------------------------------------------------------
class Contender(NamedTuple):
    config: meta.Config
    loss: str  # one of meta.LOSSES
    params: dict


def contenders(searched, env_id, size, root):
    """{name: Contender} in an environment; of rules, those that have evolved."""
    one, own = (settings_of(searched, best_point(searched, envs)) for envs in (SUITE, [env_id]))
    config = meta.Config(total_timesteps=size.steps)
    found = {"hand-written, as it is": Contender(config, "hand-written", {})}
    for name, settings in ((ONE_SETTING, one), (OWN_SETTING, own)):
        found[name] = Contender(dataclasses.replace(config, **settings), "hand-written", {})
    found["DPO, one setting"] = found[ONE_SETTING]._replace(loss="DPO")
    for rule in RULES:
        if (folder_of(rule, root) / "learned_loss.npz").exists():
            loss = meta.read_loss(folder_of(rule, root))
            found[f"learned: {rule}"] = Contender(from_json(meta.Config, loss.config), "learned", loss.learned)
    return found


def compare(env_id, name, contender, size):
    """Rows, as dicts, of all seeds of a contender in an environment."""
    seeds = np.arange(FIRST_SEED, FIRST_SEED + size.seeds)
    found = outcomes(contender.config, env_id, contender.loss, contender.params, {}, seeds)
    for i, seed in enumerate(seeds):
        yield {"env_id": env_id, "loss": name, "seed": seed} | {k: text(x[i]) for k, x in found.items()} | machine()


# --- Report -----------------------------------------------------------------------------------------------------------
def report(folder):
    """Writes how probably each loss does better than each hand-written one, what searching brought, and the picture."""
    runs, searched = pd.read_csv(folder / "rules.csv"), pd.read_csv(folder / "rules_search.csv")
    best = expected_best(votes_of(searched, SUITE).to_numpy())
    curve = [{"points": i, "vote": round(float(x), 4)} for i, x in enumerate(best, start=1)]
    write_rows(folder / "rules_curve.csv", curve)
    there = {env_id: set(own["loss"]) for env_id, own in runs.groupby("env_id")}
    groups = {env_id: [env_id] for env_id in (*SUITE, *HELD_OUT)} | {"suite": SUITE, "held out": HELD_OUT}
    pairs = []
    for group, env_ids in groups.items():
        known = set.intersection(*(there.get(env_id, set()) for env_id in env_ids))
        for other in (x for x in (ONE_SETTING, OWN_SETTING) if x in known):
            for loss in sorted(known - {other}):
                scores = [[scores_of(runs, env_id, name) for name in (loss, other)] for env_id in env_ids]
                chance = mean_probability_of_improvement(scores)
                row = {"where": group, "loss": loss, "against": other}
                pairs.append(row | {name: round(x, 4) for name, x in chance.items()})
    write_rows(folder / "rules_pairs.csv", pairs)
    draw_all(pd.DataFrame(pairs), pd.DataFrame(curve), folder / "rules.png")
    return pairs


def scores_of(runs, env_id, loss):
    return runs.loc[(runs["env_id"] == env_id) & (runs["loss"] == loss), OUTCOME].to_numpy(float)


def draw_all(pairs, curve, output):
    """How probably each loss does better than each hand-written one; then what more points of the search bring."""
    figure, grid = plt.subplots(1, 3, figsize=(18, 5), layout="constrained")
    for axes, other in zip(grid[:2], (ONE_SETTING, OWN_SETTING), strict=True):
        names = sorted(set(pairs["loss"]) - {other})
        for i, where in enumerate(("suite", "held out")):
            own = pairs[(pairs["where"] == where) & (pairs["against"] == other)].set_index("loss").reindex(names)
            y = np.arange(len(names)) + (0.15 if i else -0.15)
            errors = [own["p"] - own["low"], own["high"] - own["p"]]
            axes.errorbar(own["p"], y, xerr=errors, fmt="o", capsize=4, label=where)
        axes.axvline(0.5, color="gray", linestyle=":")
        axes.set_yticks(range(len(names)), names)
        axes.set(title=f"against: {other}", xlabel="probability of doing better, 95 % interval", xlim=(-0.03, 1.03))
        axes.grid(alpha=0.3)
        axes.invert_yaxis()
    grid[0].legend(loc="best")
    grid[2].plot(curve["points"], curve["vote"], linewidth=2)
    grid[2].set(title="search of one setting", xlabel="points tried", ylabel="mean share of points that are no better")
    grid[2].set_xscale("log")
    grid[2].grid(alpha=0.3)
    save(figure, output)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("search", "evolve", "compare", "report"))
    parser.add_argument("--held-out", action="store_true", help="where nothing has evolved or been tuned for all")
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    for name, value in Size()._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=value, help="smaller to try it out, with other folders")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where the runs lie")
    parser.add_argument("--output", type=Path, default=ROOT / "results", help="the folder of tables and picture")
    args = parser.parse_args()
    size = Size(args.points, args.seeds, args.steps)
    search_file, runs_file = args.output / "rules_search.csv", args.output / "rules.csv"
    use_compile_cache()
    env_ids = HELD_OUT if args.held_out else SUITE
    if args.part == "search":
        for env_id in env_ids:
            if sum(row["env_id"] == env_id for row in read_rows(search_file)) != size.points:
                replace_rows(search_file, list(search(env_id, size)), ("env_id",))
                print(f"searched: {env_id}", flush=True)
        return
    searched = pd.read_csv(search_file)
    if args.part == "evolve":
        for rule in args.rules:
            print(f"evolved: {evolve(rule, start_of_evolution(searched), size, args.runs)}", flush=True)
    if args.part == "compare":
        for env_id in env_ids:
            for name, contender in contenders(searched, env_id, size, args.runs).items():
                done = sum((row["env_id"], row["loss"]) == (env_id, name) for row in read_rows(runs_file))
                if done != size.seeds:
                    replace_rows(runs_file, list(compare(env_id, name, contender, size)), ("env_id", "loss"))
                    print(f"done: {name} in {env_id}", flush=True)
    if args.part == "report":
        for row in report(args.output):
            print(json.dumps(row))


if __name__ == "__main__":
    main()

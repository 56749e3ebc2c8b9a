"""Writes the tables of README.md, docs/ and this folder from results/*.csv, between their markers.

    python benchmarks/tables.py            # after new results
    python benchmarks/tables.py --check    # fails if a table is not what the files say; a test does this

README.md has the short tables, with the rows that say most; the pages in docs/ have all rows.
"""

import argparse
import functools
import itertools
import math
import re
import sys
import tomllib
from pathlib import Path

import pandas as pd
from returns import is_tuned
from tasks import PLAYS, ROOT, TUNED
from throughput import IMAGES_OUTPUT, RANDOM, SUITES, SUITES_OUTPUT

RESULTS = ROOT / "results"
DOCUMENTS = (ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted(ROOT.glob("docs/*.md")))
MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
ENVIRONMENTS = list(PLAYS["ppo"])
# Those that README shows: published figures to stand beside, few rewards, a memory, continuous actions, images
TELLING = (
    "CartPole-v1", "Acrobot-v1", "MountainCar-v0", "MemoryChain-bsuite", "Pendulum-v1", "Breakout-MinAtar"
)  # fmt: skip

# Since then a final return is a mean over episodes; before, over updates, and the mean's interval was a bootstrap
OVER_EPISODES = "2026-11-26"

# What others publish, to stand beside: CleanRL's benchmark, mean and standard deviation over its seeds (classic
# control at 500,000 steps), and for the MinAtar games the range for agents of this kind at 10,000,000 steps
REFERENCES = {
    ("ppo", "CartPole-v1"): "490.04 ± 6.12",
    ("ppo", "Acrobot-v1"): "−86.36 ± 1.32",
    ("dqn", "CartPole-v1"): "488.69 ± 16.11",
    ("dqn", "Acrobot-v1"): "−91.54 ± 7.20",
    ("pqn", "CartPole-v1"): "495.13 ± 6.89",
    ("pqn", "Acrobot-v1"): "−95.63 ± 5.73",
    ("ppo", "Breakout-MinAtar"): "40 to 50",
    ("ppo", "SpaceInvaders-MinAtar"): "167 to 170",
    ("ppo", "Asterix-MinAtar"): "15",
    ("ppo", "Freeway-MinAtar"): "58 to 62",
    # Brax's training notebook, one run, read from its picture; Matthews et al. 2024, arXiv:2402.16801: 90 % of 22
    ("ppo", "brax/ant-spring"): "5,800 at 25M, other physics",
    ("ppo", "craftax/classic-symbolic"): "19.8 at 1,000M",
    # EvoJAX's benchmarks, OpenES and PGPE: 1,000 generations of 64 candidates with 16 episodes each
    ("evolve_policy", "CartPoleSwingUp-easy"): "929 and 935 at 1,024M",
    ("evolve_policy", "CartPoleSwingUp-hard"): "605 and 631 at 1,024M",
}


def number(value):
    """As many digits as say something, and a minus sign that is one."""
    text = f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
    text = text.removeprefix("-") if not float(text) else text
    return text.replace("-", "−")


def interval(row, middle, low=None, high=None):
    """The middle's column with those of its interval, by default named alike."""
    bounds = [row[low or f"{middle}_low"], row[high or f"{middle}_high"]]
    return f"{number(row[middle])} [{', '.join(map(number, bounds))}]"


def final(row, middle="final_iqm"):
    """A final return with its interval, and a mark where it is a mean over updates."""
    return interval(row, middle) + ("" if row["date"] >= OVER_EPISODES else "¹")


def markdown(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def returns_rows():
    return pd.read_csv(RESULTS / "returns.csv", keep_default_na=False)


def tuned_rows():
    """The rows of benchmarks/suite.py: {(script, env_id): row}."""
    rows = [row for row in returns_rows().to_dict("records") if is_tuned(row["command"])]
    return {(row["script"], row["env_id"]): row for row in rows}


# --- Tables -----------------------------------------------------------------------------------------------------------
def overview(env_ids=ENVIRONMENTS, scripts=tuple(PLAYS)):
    """An environment per line, a script per column, where it has been measured at all."""
    rows, found = [], tuned_rows()
    scripts = [script for script in scripts if any((script, env_id) in found for env_id in env_ids)]
    for env_id in env_ids:
        cells = []
        for script in scripts:
            row = found.get((script, env_id))
            cells.append(f"{final(row)}{steps_note(row)}" if row else "" if env_id in PLAYS[script] else "—")
        if any(cell not in ("", "—") for cell in cells):
            published = (f"{s} {t}" for (s, e), t in REFERENCES.items() if e == env_id and s in scripts)
            rows.append([env_id, *cells, "; ".join(published)])
    return markdown(["environment", *(f"`{script}.py`" for script in scripts), "published"], rows)


def short_overview():
    """Of the scripts that can play most of these, and have been measured in all that they can."""
    found, plays = tuned_rows(), {s: set(TELLING) & set(env_ids) for s, env_ids in PLAYS.items()}
    most = (s for s, env_ids in plays.items() if 2 * len(env_ids) > len(TELLING))
    return overview(TELLING, tuple(s for s in most if all((s, env_id) in found for env_id in plays[s])))


def steps_note(row):
    return "" if row["total_timesteps"] == 500_000 else f" at {row['total_timesteps'] / 1e6:.3g}M"


def returns():
    """Everything that benchmarks/suite.py measures."""
    rows, found = [], tuned_rows()
    for script, env_ids in PLAYS.items():
        for env_id in env_ids:
            row = found.get((script, env_id))
            if row is None:
                continue
            scores = [final(row), final(row, "final_mean"), interval(row, "greedy_iqm")]
            costs = [f"{row['train_seconds']:,.0f} s", f"{float(row['steps_per_second']):,.0f}"]
            steps, published = f"{row['total_timesteps']:,}", REFERENCES.get((script, env_id), "")
            rows.append([f"`{script}.py`", env_id, row["seeds"], steps, *scores, published, *costs, processor(row)])
    header = ["script", "environment", "seeds", "env steps", "IQM", "mean", "greedy policy, IQM", "published"]
    return markdown([*header, "trained in", "env steps/s", "on"], rows)


def script_returns(script):
    """The same for one script, without what it cost."""
    rows, found = [], tuned_rows()
    for env_id in PLAYS[script]:
        row = found.get((script, env_id))
        if row:
            scores = [final(row), final(row, "final_mean")]
            steps, published = f"{row['total_timesteps']:,}", REFERENCES.get((script, env_id), "")
            rows.append([env_id, row["seeds"], steps, *scores, published])
    return markdown(["environment", "seeds", "env steps", "IQM", "mean", "published"], rows) if rows else NOT_RUN


def processor(row):
    """As in "2 cores of Intel Xeon @ 2.50GHz", or a GPU's name."""
    kind, _, cores = row["machine"].partition("; ")
    return re.sub(r"\(R\)| Processor| CPU", "", cores) if kind == "cpu" else kind


def tuning():
    """What the search found, and what of it held on other seeds."""
    table, found = pd.read_csv(RESULTS / "tuning.csv"), tuned_rows()
    lines = tomllib.loads(TUNED.read_text())
    rows = []
    for script, env_ids in PLAYS.items():
        for env_id in env_ids:
            own = table[(table["script"] == script) & (table["env_id"] == env_id)]
            if own.empty or env_id not in lines.get(script, {}):
                continue
            first, best = own[own["point"] == 0].iloc[0], own[own["chosen"]].iloc[0]
            row = found.get((script, env_id))
            settings = ", ".join(f"{k}={v}" for k, v in lines[script][env_id].items()) or "the defaults"
            spent = f"{first['total_timesteps']:,}", first["seeds"]
            scores = number(first["iqm"]), number(best["iqm"]), final(row) if row else ""
            rows.append([f"`{script}.py`", env_id, *spent, *scores, settings])
    header = ["script", "environment", "env steps", "seeds", "the start", "the best point", "reported (seeds from 0)"]
    return markdown([*header, "settings"], rows)


def memory():
    """Tasks that need a memory, with the same settings for both scripts."""
    table = returns_rows()
    rows = []
    tasks = (("MemoryChain-bsuite", "memory_length=10"), ("PositionOnlyCartPole-v1", ""))
    for env_id, env_params in tasks:
        own = table[(table["env_id"] == env_id) & (table["env_params"] == env_params)].set_index("script")
        cells = [final(own.loc[script], "final_mean") for script in ("ppo_rnn", "ppo")]
        rows.append([f"{env_id}, {env_params}" if env_params else env_id, *cells])
    return markdown(["environment", "`ppo_rnn.py`, mean", "`ppo.py`, mean"], rows)


def networks():
    """mlp against cnn, with otherwise the same settings and steps."""
    rows = []
    table = returns_rows()
    table = table[table["command"].str.contains("--network ")]
    for (script, env_id, steps), own in table.groupby(["script", "env_id", "total_timesteps"], sort=False):
        found = {row["command"].split("--network ")[1].split()[0]: row for row in own.to_dict("records")}
        if set(found) != {"mlp", "cnn"}:
            continue
        found = {network: found[network] for network in ("mlp", "cnn")}
        cells = [final(row) for row in found.values()]
        seconds = [f"{row['train_seconds']:,.0f} s" for row in found.values()]
        rows.append([f"`{script}.py`", env_id, own["seeds"].iloc[0], f"{steps:,}", *cells, *seconds])
    header = ["script", "environment", "seeds", "env steps", "`mlp`, IQM", "`cnn`, IQM", "`mlp` trained in", "`cnn`"]
    return markdown(header, rows)


def throughput():
    rows = [
        [f"`{row['script']}.py`", row["seeds"], speed(row), f"{row['compile_seconds']:.1f} s", megabytes(row)]
        for row in pd.read_csv(RESULTS / "throughput.csv").to_dict("records")
        if row["env_id"] == "CartPole-v1"  # the tables' headings say so
    ]
    return markdown(["script", "seeds", "env steps/s, median of 7 [quartiles]", "compile", "peak memory"], rows)


def throughput_images():
    rows = [
        [f"`{name}.py`{comma}{rest}", f"{row['parameters']:,}", speed(row), f"{row['compile_seconds']:.1f} s"]
        for row in pd.read_csv(IMAGES_OUTPUT).to_dict("records")
        for name, comma, rest in [row["script"].partition(",")]
    ]
    return markdown(["script", "parameters", "env steps/s, median of 7 [quartiles]", "compile"], rows)


def megabytes(row):
    return f"{row['peak_memory_mb']:,.0f} MB"


def speed(row):
    return f"{row['steps_per_second']:,.0f} [{row['low']:,.0f}, {row['high']:,.0f}]"


def peers():
    """A table for the comparisons with the same numbers of agents, and what each trained, and where."""
    from peers import COMPARISONS, OUTPUT

    found, measured = list(peer_rows()), pd.read_csv(OUTPUT)
    text = ""
    for agents in dict.fromkeys(own.agents for own in COMPARISONS.values()):
        algos = [algo for algo, own in COMPARISONS.items() if own.agents == agents]
        rows = [
            [COMPARISONS[algo].title, name, final, count, *times, wait, memory]
            for algo, name, times, final, count, wait, memory in found
            if algo in algos
        ]
        if not rows:
            continue
        header = ["", "", "return, IQM", "agents", *agents_header(agents)]
        text += markdown([*header, "of which compiling, 1 agent", "peak memory, 1 agent"], rows) + "\n"
        places = {}
        for algo in algos:
            machines = {processor(row) for row in measured[measured["algo"] == algo].to_dict("records")}
            if machines:
                own = COMPARISONS[algo]
                what = f"{own.env_id}, {own.steps:,} env steps per agent, on {' and '.join(sorted(machines))}"
                places.setdefault(what, []).append(own.title)
        text += "".join(f"{' and '.join(titles)}: {what}.\n\n" for what, titles in places.items())
    return text.rstrip("\n") + "\n"


def short_peers():
    """PPO on CartPole-v1 only: seconds, and what was learned."""
    from peers import COMPARISONS

    rows = [[name, *times, final] for algo, name, times, final, *_ in peer_rows() if algo == "ppo"]
    return markdown(["PPO", *agents_header(COMPARISONS["ppo"].agents), "return, IQM"], rows)


def agents_header(agents):
    return [f"{n} agent{'s' if n > 1 else ''}" for n in agents]


def peer_rows():
    """(comparison, library, times for its numbers of agents, return, agents of that, compile time, peak memory)."""
    from peers import COMPARISONS, in_seconds, summarize

    for found in summarize():
        if math.isnan(found["seconds_1"]):  # an edited copy, of which only the returns are there
            continue
        agents = COMPARISONS[found["algo"]].agents
        times = ["" if math.isnan(found[f"seconds_{n}"]) else in_seconds(found[f"seconds_{n}"]) for n in agents]
        times = [f"≈ {text}" if found[f"extrapolated_{n}"] else text for n, text in zip(agents, times, strict=True)]
        wait = "" if math.isnan(found["compile_seconds"]) else f"{found['compile_seconds']:.1f} s"
        score = interval(found["final"], "iqm", "low", "high")
        yield found["algo"], found["peer"], times, score, found["final"]["n"], wait, megabytes(found)


def suites_speed():
    """Environments alone, with random actions, beside training in them; both on the same machine."""
    rows = []
    table = pd.read_csv(SUITES_OUTPUT)
    for env_id, seeds in itertools.product(SUITES, sorted(table["seeds"].unique())):
        own = table[(table["env_id"] == env_id) & (table["seeds"] == seeds)]
        own = {row["script"]: row for row in own.to_dict("records")}
        alone, training = own.get(RANDOM), own.get("ppo")
        if not alone or not training or alone["machine"] != training["machine"]:
            continue
        share = f"{training['steps_per_second'] / alone['steps_per_second']:.0%}"
        waits = [f"{row['compile_seconds']:.1f} s" for row in (alone, training)]
        rows.append([env_id, alone["num_envs"] * seeds, speed(alone), speed(training), share, *waits])
    header = ["environment", "copies", "alone, env steps/s", "training, env steps/s", "share of the environment"]
    return markdown([*header, "compile, alone", "compile, training"], rows)


def suites_fresh():
    """Each suite from a fresh clone to a picture."""
    rows = [
        [row["suite"], row["env_id"], row["seeds"], f"{row['env_steps']:,}", interval(row, "final_mean", "low", "high")]
        + [f"{row[name]} s" for name in ("install_seconds", "to_picture_seconds", "compile_seconds")]
        for row in pd.read_csv(RESULTS / "fresh.csv").to_dict("records")
    ]
    header = ["suite", "environment", "seeds", "env steps", "final return, mean", "install", "to the picture"]
    return markdown([*header, "of which compiling"], rows)


def suites_checks():
    """What the check says: counts for each suite, and every fault."""
    table = pd.read_csv(RESULTS / "checks.csv", keep_default_na=False)
    table["suite"] = [env_id.split("/")[0] if "/" in env_id else "gymnax's and our own" for env_id in table["env_id"]]
    rows = [
        [suite, len(own), (own["outcome"] == "checked").sum(), (own["faults"] > 0).sum(), own["notes"].sum()]
        for suite, own in table.groupby("suite", sort=False)
    ]
    text = markdown(["suite", "environments", "checked", "with faults", "notes"], rows)
    faults = []
    for row in table[table["faults"] > 0].to_dict("records"):
        lines = [line for line in row["findings"].split(" | ") if line.startswith("fault: ")]
        faults.append([row["env_id"], "; ".join(line.removeprefix("fault: ") for line in lines)])
    refused = [
        [row["env_id"], row["findings"].removeprefix("environments: ") or row["outcome"]]
        for row in table[table["outcome"] != "checked"].to_dict("records")
    ]
    titled = {"what is found": faults, "why it was not checked": refused}
    return text + "".join(f"\n{markdown(['environment', title], x)}" for title, x in titled.items() if x)


def gradients():
    """APG, SHAC and PPO: the return at the end of training, and what it cost."""
    rows = []
    for (env_id, method), own in pd.read_csv(RESULTS / "gradients.csv").groupby(["env_id", "method"], sort=False):
        last = own.iloc[-1]
        costs = [f"{last['seconds']:,.0f} s", f"{last['compile_seconds']:,.0f} s"]
        returns = interval(last, "iqm", "low", "high")
        rows.append([env_id, method, last["seeds"], f"{last['env_steps']:,.0f}", returns, last["nan_seeds"], *costs])
    return markdown(["environment", "method", "seeds", "env steps", "IQM", "NaN", "training", "compiling"], rows)


def strategies():
    """A task per line, a strategy per column: the return of the policy that evolved."""
    table = pd.read_csv(RESULTS / "strategies.csv")
    last = table.groupby(["env_id", "strategy"], sort=False).last()
    names = list(dict.fromkeys(table["strategy"]))
    rows = []
    for env_id, own in table.groupby("env_id", sort=False):
        there = [(env_id, name) in last.index for name in names]
        cells = [
            interval(last.loc[(env_id, name)], "greedy_iqm", "greedy_low", "greedy_high") if known else ""
            for name, known in zip(names, there, strict=True)
        ]
        rows.append([env_id, f"{own['env_steps'].max() / 1e6:.3g}M", *cells])
    return markdown(["task", "env steps", *names], rows)


def evolution():
    """Learned value losses on CartPole-v1, mean over training, beside the hand-written one."""
    table = pd.read_csv(RESULTS / "evolution.csv")
    table = table[(table["env_id"] == "CartPole-v1") & ~table["command"].str.contains("--env-ids")]
    rows = []
    for (command, seed), own in table.groupby(["command", "seed"], sort=False):
        losses = {row["loss"]: row for row in own.to_dict("records")}
        names = ("learned", "hand-written", "hand-written, tuned")
        cells = [
            interval(losses[name], *(f"mean_over_training_{key}" for key in ("iqm", "low", "high"))) for name in names
        ]
        better = {f"p_{k}": losses["hand-written, tuned"][f"learned_better_{k}"] for k in ("p", "low", "high")}
        chance = f"{better['p_p']:.2f} [{better['p_low']:.2f}, {better['p_high']:.2f}]"
        start = ", from scratch" if "--start scratch" in command else ""
        rows.append([f"seed {seed}{start}", losses["learned"]["agents"], *cells, chance])
    header = [
        "evolution",
        "agents",
        "learned",
        "hand-written, `vf_coef` 0.5",
        "hand-written, tuned",
        "P(learned better than tuned)",
    ]
    return markdown(header, rows)


def breakdown():
    """Parts of an update down, numbers of members across."""
    table = pd.read_csv(RESULTS / "breakdown.csv")
    counts = list(table["members"].unique())
    rows = [
        [part, *(f"{row.milliseconds:.2f} ms ({row.share:.0%})" for row in own.itertuples())]
        for part, own in table.groupby("part", sort=False)
    ]
    return markdown(["part", *(f"{n} member{'s' if n > 1 else ''}" for n in counts)], rows)


def against():
    """Each script against itself as it was at the commit that was compared with."""
    path = RESULTS / "against.csv"
    rows = [
        [f"`{row.script}.py`", row.env_id, row.seeds, f"{row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}]",
         f"{row.before:,}", f"{row.now:,}", f"{row.compile_before} s, {row.compile_now} s"]
        for row in (pd.read_csv(path).itertuples() if path.exists() else ())
    ]  # fmt: skip
    return markdown(
        ["script", "environment", "seeds", "times the env steps/s", "before", "now", "compile before, now"], rows
    )


def roofline():
    rows = [
        [
            row["members"],
            row["devices"],
            f"{row['steps_per_second']:,}",
            *share(row, "matmul", "mfu", "flop"),
            *share(row, "copy_bytes", "share_of_copy", "B"),
        ]
        for row in pd.read_csv(RESULTS / "roofline.csv").to_dict("records")
    ]
    header = ["members", "devices", "env steps/s", "in matrix products", "MFU", "moved at least", "of the copy ceiling"]
    return markdown(header, rows)


def share(row, ceiling, name, unit):
    """What was reached of a ceiling, and the share."""
    most = row[f"{ceiling}_per_second"]
    return [f"{row[name] * most / 1e9:.1f} of {most / 1e9:.1f} G{unit}/s", f"{row[name]:.0%}"]


def gpu():
    """Every file that benchmarks/gpu.sh wrote; a sentence where there is none."""
    files = sorted(RESULTS.glob("gpu_*.csv"))
    rows = [
        [row["machine"].split(";")[0], row["what"], row["members"], f"{row['value']:,.4g}", row["unit"]]
        for path in files
        for row in pd.read_csv(path).to_dict("records")
    ]
    return markdown(["card", "what", "members", "value", "unit"], rows) if rows else "No GPU has been measured yet.\n"


def actions():
    """D3 against C3, and the verdict, per environment and of all."""
    found, rows = action_rows("pairs", ("env", "setting", "better", "worse")), []
    for (env, *pair), tuned in found.items():
        default = found.get((env, "default", "D3", "C3"))
        if pair == ["tuned", "D3", "C3"] and default:
            chances = (interval(row, "p", "low", "high") for row in (tuned, default))
            rows.append([env, *chances, interval(tuned, "gap"), tuned["verdict"]])
    header = ["environment", "P(D3 above C3), tuned", "with the defaults", "gap after 4 points", "verdict"]
    return markdown(header, rows) if rows else NOT_RUN


def actions_pairs():
    """The other comparisons, of tuned arms."""
    found = action_rows("pairs", ("env", "better", "worse", "setting"))
    pairs = (("C", "C3"), ("D3", "D9"), ("C", "B"))
    rows = [
        [env, *(interval(found[env, *pair, "tuned"], "p", "low", "high") for pair in pairs)]
        for env in dict.fromkeys(env for env, *_ in found)
        if all((env, *pair, "tuned") in found for pair in pairs)
    ]
    header = ["environment", *(f"P({better} above {worse})" for better, worse in pairs)]
    return markdown(header, rows) if rows else NOT_RUN


def actions_arms():
    """What each arm reaches, tuned and with the defaults; of all environments as scores."""
    found = action_rows("arms", ("env", "arm", "setting"))
    rows = []
    for (env, arm, setting), tuned in found.items():
        default = found.get((env, arm, "default"))
        if setting == "tuned" and default:
            steps = f"{tuned['steps_to_90']:,.0f}" if tuned["steps_to_90"] == tuned["steps_to_90"] else "—"
            cells = [interval(tuned, "iqm", "low", "high"), steps, f"{tuned['reached']} of {tuned['seeds']}"]
            cells += [tuned["failing"], interval(default, "iqm", "low", "high"), default["failing"]]
            rows.append([env, arm, *cells])
    header = ["environment", "arm", "tuned, IQM", "steps to 90 %", "reached by", "failing", "defaults, IQM", "failing"]
    return markdown(header, rows) if rows else NOT_RUN


NOT_RUN = "Not run yet.\n"


def action_rows(name, key):
    """Rows of a table that benchmarks/actions.py wrote: {values of key: row}; none where there is no file."""
    path = RESULTS / f"actions_{name}.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    return {tuple(row[column] for column in key): row for row in rows}


MADE = (
    overview, short_overview, returns, tuning, memory, networks, throughput, peers, short_peers, evolution, breakdown,
    against, roofline, gpu, actions, actions_pairs, actions_arms,
)  # fmt: skip
LATER = {
    IMAGES_OUTPUT: throughput_images,
    SUITES_OUTPUT: suites_speed,
    RESULTS / "fresh.csv": suites_fresh,
    RESULTS / "checks.csv": suites_checks,
    RESULTS / "gradients.csv": gradients,
    RESULTS / "strategies.csv": strategies,
}
MADE = (*MADE, *(table for path, table in LATER.items() if path.exists()))  # once they are measured
TABLES = {f.__name__: f for f in MADE} | {f"returns_{s}": functools.partial(script_returns, s) for s in PLAYS}


OLD_KIND = "\n¹ Of version 0.2.0: mean over updates in place of episodes, and bootstrap intervals of the mean.\n"


def rewritten(text):
    """The text of a document with its tables as the files have them now."""

    def filled(found):
        table = TABLES[found[2]]()
        return f"{found[1]}\n{table}{OLD_KIND if '¹' in table else ''}\n{found[3]}"

    return MARKED.sub(filled, text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, fail if a table differs")
    args = parser.parse_args()
    for path in DOCUMENTS:
        text = path.read_text()
        new = rewritten(text)
        if new != text and args.check:
            sys.exit(f"{path.name} has tables that differ from results/: python benchmarks/tables.py")
        if new != text:
            path.write_text(new)
            print(f"written: {Path(path).relative_to(ROOT)}")


if __name__ == "__main__":
    main()

"""Against what people use today: the same environment, network, hyperparameters and steps, in one run on one machine.

    python benchmarks/peers.py                    # everything not there yet: 2 to 4 hours on two cores
    python benchmarks/peers.py --algos pqn brax   # two of the comparisons
    python benchmarks/peers.py --algos ppo --turns 1

Every peer is installed from PyPI into an environment of its own (runs/peers/NAME); of PureJaxQL, which is not there, a
clone is needed too. Measurements follow one another, turn by turn, each in a fresh process without a compile cache, and
go to results/peers.csv; learning curves to results/peers_curves.csv, pictures to results/peers_*.png. Stop it at any
time: the same command goes on where it was. Keep the machine otherwise idle. Times of two machines don't mix within a
comparison: to measure one again on another machine, delete its rows in both files first.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pandas as pd
from peer_worker import BINS
from tasks import ROOT, RUNS, flags
from throughput import machine, read_rows, replace_rows

sys.path.insert(0, str(ROOT))
from runner.report.plots import draw_curve, finish_curves, plt, save
from runner.report.stats import describe

OUTPUT, CURVES = ROOT / "results" / "peers.csv", ROOT / "results" / "peers_curves.csv"
TURNS = 3


class Peer(NamedTuple):
    name: str  # as people write it
    requirements: tuple[str, ...]  # () is this project
    many: bool  # trains several agents in one program; the others run one after the other
    algos: tuple[str, ...] = ("ppo", "dqn")
    evaluated: bool = False  # its curve is of evaluations, in a run of its own; the others' of training's episodes
    source: str = ""  # the repository of what is not on PyPI: runs/peers/NAME-source is a clone of it


PEERS = {
    "ours": Peer("this project", (), True, ("ppo", "dqn", "pqn", "brax")),
    "ours_squared": Peer("this project, squared error", (), True, ("dqn",)),  # rejax's loss; the others have Huber's
    "ours_init": Peer("this project, flax's initial weights", (), True, ("ppo",)),
    "ours_as_sbx": Peer("this project, edited to be as sbx", (), True, ("ppo",)),
    "ours_as_rejax": Peer("this project, edited to be as rejax", (), True, ("ppo",)),
    "rejax": Peer("rejax", ("rejax==0.1.3", "gymnax<1", "jax==0.9.2"), True, ("ppo", "dqn", "pqn"), evaluated=True),
    # Its own list of packages wants a jax of 2024. It runs with this one too (tried at its commit 47af6d7)
    "purejaxql": Peer(
        "PureJaxQL",
        (
            "gymnax==0.0.9",
            "jax==0.9.2",
            "flax==0.12.6",
            "hydra-core==1.3.7",
            "safetensors",
            "wandb",
            "chex",
            "six",  # which gymnax imports
        ),
        True,
        ("pqn",),
        evaluated=True,
        source="https://github.com/mttga/purejaxql",
    ),
    "brax": Peer("Brax", ("brax==0.14.2", "jax==0.9.2", "flax==0.12.6"), False, ("brax",), evaluated=True),
    "sbx": Peer("sbx", ("sbx-rl==0.28.0", "jax==0.9.2", "flax==0.12.6"), False),
    "sb3": Peer("stable-baselines3", ("stable-baselines3==2.9.2",), False),
}
COLORS = {
    "ours": "tab:blue", "ours_squared": "tab:purple", "ours_init": "tab:purple", "ours_as_sbx": "tab:brown",
    "ours_as_rejax": "tab:olive", "rejax": "tab:green", "sbx": "tab:orange", "sb3": "tab:red",
    "purejaxql": "tab:orange", "brax": "tab:orange",
}  # fmt: skip
# What no setting of ppo.py makes equal, as edits of a copy, whose returns are compared: {peer: [(text, its successor)]}
HIDDEN = "nn.Dense(self.hidden_size, kernel_init={})"
INIT = (HIDDEN.format("orthogonal(math.sqrt(2))"), HIDDEN.format("nn.initializers.lecun_normal()"))  # flax's default
CLIP = "optax.clip_by_global_norm(config.max_grad_norm)"
PARTS = {"params": {"actor": "actor", "critic": "critic"}}
EDITS = {
    "ours_init": [INIT],
    "ours_as_sbx": [INIT, (CLIP, f"optax.partition(dict.fromkeys(('actor', 'critic'), {CLIP}), {PARTS})")],
    "ours_as_rejax": [
        INIT,
        ("orthogonal(gain, column_axis=0)", "nn.initializers.lecun_normal(1, 0)"),
        (CLIP, "optax.clip(config.max_grad_norm)"),
        ("eps=1e-5", "eps=1e-8"),
        ("reward, terminated, done, info)", "reward, done, done, info)"),  # the time limit as death
        ("if config.clip_value:", "if True:"),
    ],
}


class Comparison(NamedTuple):
    """What all of its peers train, with the same settings."""

    title: str  # of its pictures and in tables
    script: str  # this project's
    settings: dict
    env_id: str = "CartPole-v1"
    steps: int = 500_000
    agents: tuple[int, ...] = (1, 16, 64)

    @property
    def curve_agents(self):
        """How many agents a curve is of, where a peer trains them in one program."""
        return self.agents[1]


# What all can do, but for rejax's clipped value loss. DQN: rejax has layers of 64 only, and a gradient step per step;
# with CleanRL's gamma, 0.99, and lr, 2.5e-4, Q-values diverge under Huber's loss in all that have it (chosen with seeds
# from 100 of dqn.py)
PPO = {
    "num_envs": 4, "num_steps": 128, "num_minibatches": 4, "update_epochs": 4, "lr": 2.5e-4, "anneal_lr": True,
    "gamma": 0.99, "gae_lambda": 0.95, "clip_eps": 0.2, "clip_value": False, "ent_coef": 0.01, "vf_coef": 0.5,
    "max_grad_norm": 0.5, "hidden_size": 64,
}  # fmt: skip
DQN = {
    "num_envs": 10, "train_frequency": 1, "buffer_size": 10_000, "learning_starts": 1_000, "batch_size": 128,
    "lr": 1e-3, "anneal_lr": False, "gamma": 0.95, "target_network_frequency": 500, "exploration_fraction": 0.5,
    "end_e": 0.05, "hidden_size": 64,
}  # fmt: skip
# pqn.py's defaults, with layers of 64: rejax has no others. No setting makes these equal:
# - rejax has Adam and not RAdam, clips each element of a gradient and not the norm, and bootstraps from the observation
#   one step further on than the paper does
# - both peers treat the time limit as death, and hold epsilon for a whole rollout
# - PureJaxQL computes a batch normalisation of the observations that it does not use
PQN = {
    "num_envs": 32, "num_steps": 32, "num_minibatches": 4, "update_epochs": 4, "lr": 1e-3, "anneal_lr": True,
    "gamma": 0.99, "lambda_": 0.65, "start_e": 1.0, "end_e": 0.05, "exploration_fraction": 0.5, "max_grad_norm": 10.0,
    "layer_norm": True, "hidden_size": 64,
}  # fmt: skip
# As many samples as benchmarks/tasks.py has for robots (LARGE); the step size of Brax's own example for this robot
# (its notebooks/training.ipynb). Constant, for Brax can't lower it linearly; rewards as they are, for it can scale
# them by a constant only. No setting makes these equal:
# - Brax computes values and advantages anew for each minibatch, which is one of whole sequences of 32 steps, and takes
#   the lambda-return of the next step in place of GAE
# - it learns nothing from the step at a time limit, where ppo.py bootstraps
# - an episode starts again from the state that its environment began the run with, so there are 64 first states
# - its statistics of observations have the newest rollout in them when it learns from it, and what they normalise is
#   not clipped to +-10
# - its critic's last layer starts larger, and Adam's epsilon is 1e-8
ROBOT = {
    "num_envs": 64, "num_steps": 32, "num_minibatches": 8, "update_epochs": 4, "lr": 3e-4, "anneal_lr": False,
    "gamma": 0.99, "gae_lambda": 0.95, "clip_eps": 0.2, "clip_value": False, "ent_coef": 0.0, "vf_coef": 0.5,
    "max_grad_norm": 0.5, "hidden_size": 64, "activation": "tanh", "normalize_obs": True, "scale_reward": False,
}  # fmt: skip
COMPARISONS = {
    "ppo": Comparison("PPO", "ppo.py", PPO),
    "dqn": Comparison("DQN", "dqn.py", DQN),
    "pqn": Comparison("PQN", "pqn.py", PQN),
    "brax": Comparison("PPO", "ppo.py", ROBOT, "brax/inverted_pendulum-spring", 1_000_000, (1, 8)),
}
LONGEST = 64  # so many agents are trained in the first turn only: it takes longest
SINGLE_SEEDS = 8  # of the others: the agents that were timed, and further ones, two at a time


def python_of(peer):
    """The peer's own Python, with its packages installed on first use."""
    if not PEERS[peer].requirements:
        return sys.executable
    folder = RUNS / "peers" / peer
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PEERS[peer].requirements], check=True)
        (folder / "installed").touch()
    return str(python)


def source_of(peer):
    """The clone of a peer that is not on PyPI."""
    return RUNS / "peers" / f"{peer}-source"


def is_there(peer):
    """False for a peer that needs a clone, where there is none."""
    return not PEERS[peer].source or source_of(peer).exists()


def measure(peer, algo, agents, seed, curves=False):
    """{compile_seconds, train_seconds, peak_memory_mb, versions, curves (agents, BINS)} of one training."""
    own = COMPARISONS[algo]
    task = {"peer": peer, "algo": algo, "env_id": own.env_id, "agents": agents, "seed": seed, "steps": own.steps}
    task |= {"curves": curves, "settings": own.settings, "root": str(ROOT), "source": str(source_of(peer))}
    task |= {"words": None if PEERS[peer].requirements else words(peer, algo, agents, seed)}
    command = [python_of(peer), str(ROOT / "benchmarks" / "peer_worker.py"), json.dumps(task)]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"} | {"JAX_PLATFORMS": "cpu"}
    if peer in EDITS:
        environment["PYTHONPATH"] = str(ROOT)
    log = RUNS / "peers" / f"{peer}-{algo}-{agents}-{seed}.log"
    with open(log, "w") as errors:
        found = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    if found.returncode:
        last = (log.read_text().splitlines() or [""])[-1]
        sys.exit(f"{PEERS[peer].name} failed, see {log}: {last}")
    return json.loads(found.stdout.splitlines()[-1])


def words(peer, algo, agents, seed):
    """The command line of this project for the same settings."""
    own = COMPARISONS[algo]
    settings = dict(own.settings)
    if algo == "dqn":  # two hidden layers of one size
        settings |= {"last_hidden_size": settings["hidden_size"], "huber_loss": peer == "ours"}
        del settings["anneal_lr"]
    settings |= {"env_id": own.env_id, "total_timesteps": own.steps, "num_seeds": agents, "seed": seed}
    return [str(edited(peer)) if peer in EDITS else own.script, *flags(settings)]


def edited(peer):
    """Writes the peer's edited copy of ppo.py; returns its path."""
    text, path = (ROOT / "ppo.py").read_text(), RUNS / "peers" / f"{peer}.py"
    for old, new in EDITS[peer]:
        if text.count(old) != 1:
            sys.exit(f"ppo.py has {text.count(old)} times in place of once: {old}")
        text = text.replace(old, new)
    path.write_text(text)
    return path


def plan(algos, turns):
    """(algo, peer, agents, turn) in the order in which they are measured: turns interleave the peers."""
    for algo in algos:
        for turn in range(turns):
            for agents in COMPARISONS[algo].agents:
                for peer in PEERS:
                    timed = peer not in EDITS and algo in PEERS[peer].algos
                    possible = timed and (agents == 1 or PEERS[peer].many)
                    if possible and not (agents == LONGEST and turn):
                        yield algo, peer, agents, turn


def check_machine(algos):
    """Exits where one of these comparisons has times of another machine; says what to type."""
    here, rows = machine()["machine"], read_rows(OUTPUT)
    others = {row["algo"]: row["machine"] for row in rows if row["algo"] in algos and row["machine"] != here}
    if others:
        left = [algo for algo in algos if algo not in others]
        sys.exit(
            f"{OUTPUT.name} has times of {' and '.join(others)} of {' and '.join(sorted(set(others.values())))}, and"
            f" this is {here}: {'--algos ' + ' '.join(left) + ' leaves them out; ' if left else ''}to measure them"
            f" here, delete their rows there and in {CURVES.name}"
        )


def check_sources(algos):
    """Says which peers are left out for want of a clone, and what to type."""
    for peer, about in PEERS.items():
        if set(about.algos) & set(algos) and not is_there(peer):
            folder = source_of(peer).relative_to(ROOT)
            print(f"{about.name} is left out, for it is not on PyPI: git clone {about.source} {folder}")


def measure_all(algos, turns):
    done = {(r["algo"], r["peer"], int(r["agents"]), int(r["turn"])) for r in read_rows(OUTPUT)}
    for key in plan(algos, turns):
        algo, peer, agents, turn = key
        if key in done or not is_there(peer):
            continue
        comparison = COMPARISONS[algo]
        found = measure(peer, algo, agents, seed=turn)
        if agents == (comparison.curve_agents if PEERS[peer].many else 1) and (turn == 0 or not PEERS[peer].many):
            own = measure(peer, algo, agents, seed=turn, curves=True) if PEERS[peer].evaluated else found
            names = range(agents) if PEERS[peer].many else [turn]
            add_curves(algo, peer, names, own["curves"])
        row = {"algo": algo, "peer": peer, "agents": agents, "turn": turn}
        row |= {"env_id": comparison.env_id, "env_steps": comparison.steps}
        for name in ("compile_seconds", "train_seconds", "peak_memory_mb"):
            row[name] = "" if found[name] is None else round(found[name], 2)
        versions = {k: v for k, v in machine().items() if k != "jax"} | {"versions": found["versions"]}
        row |= versions | {"command": f"python benchmarks/peers.py --algos {algo} --turns {turns}"}
        replace_rows(OUTPUT, [row], ("algo", "peer", "agents", "turn"))  # last: what is here is not measured again
        seconds = f"{row['compile_seconds'] or 0:.1f} s + {row['train_seconds']:.1f} s"
        print(f"{algo} {peer}, {agents} agents, turn {turn}: {seconds}", flush=True)


def measure_more_curves(algos):
    """For returns alone: the edited copies, and single agents with further seeds, two at once."""
    known = {(r["algo"], r["peer"], int(r["agent"])) for r in read_rows(CURVES)}
    for peer in EDITS:
        (algo,) = PEERS[peer].algos
        if algo in algos and (algo, peer, 0) not in known:
            agents = COMPARISONS[algo].curve_agents
            add_curves(algo, peer, range(agents), measure(peer, algo, agents, seed=0)["curves"])
            print(f"{algo} {peer}, returns", flush=True)
    single = {algo: [peer for peer in PEERS if not PEERS[peer].many and algo in PEERS[peer].algos] for algo in algos}
    wanted = [(algo, peer, seed) for algo in algos for seed in range(SINGLE_SEEDS) for peer in single[algo]]
    missing = [key for key in wanted if key not in known]
    for at in range(0, len(missing), 2):
        pair = missing[at : at + 2]
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(lambda key: measure(key[1], key[0], 1, key[2], PEERS[key[1]].evaluated), pair))
        for (algo, peer, seed), found in zip(pair, results, strict=True):
            add_curves(algo, peer, [seed], found["curves"])
            print(f"{algo} {peer}, returns of seed {seed}", flush=True)


def add_curves(algo, peer, names, curves):
    """Writes the curves of the agents called names, in place of older ones of theirs."""
    replace_rows(CURVES, list(curve_rows(algo, peer, names, curves)), ("algo", "peer", "agent"))


def curve_rows(algo, peer, names, curves):
    for name, curve in zip(names, curves, strict=True):
        for at, value in enumerate(curve):
            step = (at + 1) * COMPARISONS[algo].steps // BINS
            line = {"algo": algo, "peer": peer, "agent": name, "env_steps": step}
            yield line | {"episode_return": "" if value is None else round(value, 2)}


# --- Table and pictures -----------------------------------------------------------------------------------------------
def summarize():
    """A dict per (algo, peer): the final return, and seconds for each number of agents, compile included, if timed."""
    rows, curves = pd.read_csv(OUTPUT), pd.read_csv(CURVES)
    rows["total"] = rows["train_seconds"] + rows["compile_seconds"].fillna(0.0)
    summary = []
    for (algo, comparison), peer in itertools.product(COMPARISONS.items(), PEERS):
        own, table = (t[(t["algo"] == algo) & (t["peer"] == peer)] for t in (rows, curves))
        if table.empty:
            continue
        one = own[own["agents"] == 1]
        found = {"algo": algo, "peer": PEERS[peer].name, "compile_seconds": one["compile_seconds"].median()}
        for agents in comparison.agents:
            timed = own[own["agents"] == agents]["total"]
            extrapolated = timed.empty and not PEERS[peer].many
            found[f"seconds_{agents}"] = one["total"].median() * agents if extrapolated else timed.median()
            found[f"extrapolated_{agents}"] = bool(extrapolated)
        found["peak_memory_mb"] = one["peak_memory_mb"].median()
        last = table[table["env_steps"] > 0.9 * comparison.steps].groupby("agent")["episode_return"].mean()
        summary.append(found | {"final": describe(last.to_numpy())})
    return summary


def in_seconds(x):
    return f"{x:.1f} s" if x < 10 else f"{x:,.0f} s"


def pictures(algos):
    """Of each: return against steps, with the edited copies beside what they are edited to be, and against time."""
    rows, table = pd.read_csv(OUTPUT), pd.read_csv(CURVES)
    for algo, own in table[table["algo"].isin(algos)].groupby("algo"):
        comparison = COMPARISONS[algo]
        copies = [peer for peer in EDITS if algo in PEERS[peer].algos]
        count = 3 if copies else 2
        figure, axes = plt.subplots(1, count, figsize=(6.5 * count, 4.8), layout="constrained")
        for peer in (peer for peer in PEERS if peer in set(own["peer"])):
            steps, returns = curve(own[own["peer"] == peer], peer, comparison.steps)
            label = f"{PEERS[peer].name}, {len(returns)} agents"
            if peer not in EDITS:
                draw_curve(axes[0], steps, returns, COLORS[peer], label)
            if peer in copies or (copies and peer in ("sbx", "rejax")):
                draw_curve(axes[1], steps, returns, COLORS[peer], label)
            one = rows[(rows["algo"] == algo) & (rows["peer"] == peer) & (rows["agents"] == 1)]
            if len(one):
                wait, seconds = one["compile_seconds"].fillna(0.0).median(), one["train_seconds"].median()
                label = f"{PEERS[peer].name}: {in_seconds(wait + seconds)}"
                draw_curve(axes[-1], wait + seconds * steps / comparison.steps, returns, COLORS[peer], label)
        title = f"{comparison.title} on {comparison.env_id}: equal settings"
        finish_curves(axes[0], title, "episode return: IQM and 95 % interval")
        if copies:
            finish_curves(axes[1], "copies of ppo.py edited to be as they are", "episode return")
        finish_curves(axes[-1], "the same against time, one agent, compiling included", "episode return")
        axes[-1].set(xlabel="seconds (logarithmic)", xscale="log")
        axes[-1].xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        save(figure, ROOT / "results" / f"peers_{algo}.png")


def curve(table, peer, total):
    """(steps (n,), returns (agents, n)) where all agents of a peer have an episode to tell of."""
    returns = table.pivot(index="agent", columns="env_steps", values="episode_return")
    known = returns.notna().all().to_numpy()
    steps = returns.columns.to_numpy()[known]
    if not PEERS[peer].evaluated:  # those are at the end of a stretch: a mean over it is drawn at its middle
        steps = steps - total / BINS / 2
    return steps, returns.to_numpy()[:, known]


def show(summary):
    for found in summary:
        times = [
            f"{'~' if found[f'extrapolated_{n}'] else ''}{in_seconds(found[f'seconds_{n}'])}"
            for n in COMPARISONS[found["algo"]].agents if not np.isnan(found[f"seconds_{n}"])
        ]  # fmt: skip
        final = f"{found['final']['iqm']:.1f} [{found['final']['low']:.1f}, {found['final']['high']:.1f}]"
        print(f"{found['algo']} {found['peer']:28} {' / '.join(times):28} return {final}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--algos", nargs="+", default=list(COMPARISONS), choices=list(COMPARISONS))
    parser.add_argument("--turns", type=int, default=TURNS)
    args = parser.parse_args()
    check_machine(args.algos)
    check_sources(args.algos)
    for peer in PEERS:
        if set(PEERS[peer].algos) & set(args.algos) and is_there(peer):
            python_of(peer)
    measure_all(args.algos, args.turns)
    measure_more_curves(args.algos)
    pictures(args.algos)
    show(summarize())


if __name__ == "__main__":
    main()

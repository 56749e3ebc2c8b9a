"""What is tuned and measured: the environments, what each script starts from in them, and the space it is tuned in."""

import json
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs"
sys.path.insert(0, str(ROOT))
from runner.loop.record import replacing
from runner.plan.sweeps import flag_name
from runner.plan.tuned import TUNED

SMALL = (
    "CartPole-v1",
    "Acrobot-v1",
    "MountainCar-v0",
    "Catch-bsuite",
    "DeepSea-bsuite",
    "MemoryChain-bsuite",
    "UmbrellaChain-bsuite",
    "FourRooms-misc",
)
CONTINUOUS = ("Pendulum-v1", "MountainCarContinuous-v0", "Reacher-misc")
MINATAR = tuple(f"{game}-MinAtar" for game in ("Asterix", "Breakout", "Freeway", "SpaceInvaders", "Seaquest"))
# Of other suites, installed as docs/environments.md says; Brax by the physics that is fastest on a CPU
ROBOTS = (
    "brax/inverted_pendulum-spring",
    "brax/hopper-spring",
    "brax/ant-spring",
    "brax/halfcheetah-spring",
    "playground/CartpoleBalance",
)
SWING_UP = ("CartPoleSwingUp-easy", "CartPoleSwingUp-hard")
FAST_ROBOTS = ("brax/inverted_pendulum-spring", "playground/CartpoleBalance")
WORLDS = ("xminigrid/DoorKey-5x5", "craftax/classic-symbolic")
PLAYS = {
    "ppo": SMALL + CONTINUOUS + SWING_UP + MINATAR + ROBOTS + WORLDS,
    "dqn": SMALL + MINATAR,
    "pqn": SMALL + MINATAR,
    "ppo_rnn": SMALL + CONTINUOUS + MINATAR,
    "apg": ("Pendulum-v1", "Reacher-misc", *SWING_UP),
    "evolve_policy": ("CartPole-v1", "Acrobot-v1", "Pendulum-v1", *SWING_UP),
}

# What the search starts from: settings that it does not vary. {} are the script's defaults.
NORMALIZED = {"normalize_obs": True, "scale_reward": True}
# As many samples in an update as CleanRL's ppo_continuous_action has, of more environments, and in larger minibatches
LARGE = {"total_timesteps": 1_000_000, "num_envs": 64, "num_steps": 32, "num_minibatches": 8}
# The step size: on Breakout after 1M steps, seeds 1000 to 1003, 25.8 with 5e-3 and 13.8 with 1.5e-3
LARGE_BATCH = {"num_envs": 64, "num_steps": 128, "num_minibatches": 8, "activation": "relu", "lr": 5e-3}
BASE = {
    "ppo": {
        "small": {},
        # As CleanRL's ppo_continuous_action, with 8 environments in place of 1
        "continuous": {"num_envs": 8, "num_steps": 256, "num_minibatches": 32, "update_epochs": 10, "lr": 3e-4}
        | {"ent_coef": 0.0}
        | NORMALIZED,
        "swing_up": LARGE | {"ent_coef": 0.0} | NORMALIZED,
        "minatar": LARGE_BATCH | {"total_timesteps": 10_000_000},
        "robots": LARGE | {"lr": 1e-3, "ent_coef": 0.0} | NORMALIZED,
        "worlds": LARGE | {"lr": 1e-3},
    },
    "ppo_rnn": {"small": {}, "continuous": NORMALIZED, "minatar": LARGE_BATCH | {"total_timesteps": 1_000_000}},
    "dqn": {
        "small": {},
        # Buffer, warm-up and target network as MinAtar's own DQN; twice its batch, a gradient step per 4 env steps
        "minatar": {
            "total_timesteps": 1_000_000,
            "num_envs": 4,
            "train_frequency": 1,
            "buffer_size": 100_000,
            "learning_starts": 5_000,
            "batch_size": 64,
            "target_network_frequency": 1_000,
            "log_frequency": 4_000,
            "lr": 1e-3,
            "exploration_fraction": 0.1,
            "n_step": 3,
        },
    },
    # In MinAtar as many environments as the paper has there
    "pqn": {"small": {}, "minatar": {"total_timesteps": 10_000_000, "num_envs": 128, "exploration_fraction": 0.1}},
    "apg": {
        "continuous": {"total_timesteps": 500_000, "normalize_obs": True},
        "swing_up": {"total_timesteps": 1_000_000, "num_envs": 16, "gamma": 0.99, "normalize_obs": True},
    },
    # Episodes of the swing-up are five times as long as Pendulum's, for which the defaults were chosen
    "evolve_policy": {
        "small": {},
        "continuous": {},
        "swing_up": {"generations": 600, "episodes_per_candidate": 4, "std_init": 0.3, "es_lr": 0.1},
    },
}
OWN = {
    "MountainCar-v0": NORMALIZED,  # its reward says nothing before the goal: PPO needs values near 1
    "brax/hopper-spring": {"total_timesteps": 2_000_000},
    "brax/halfcheetah-spring": {"total_timesteps": 500_000},  # 3,100 env steps/s on two cores
}

# Random search, the same points in every environment: (how to draw, low, high), or choices. "below_one" draws 1 - x.
PPO_SPACE = {
    "lr": ("log", 1e-4, 5e-3),
    "gamma": ("below_one", 1e-3, 1e-1),
    "gae_lambda": ("below_one", 1e-2, 3e-1),
    "ent_coef": ("log", 1e-4, 1e-1),
    "clip_eps": ("lin", 0.1, 0.4),
}
SPACE = {
    "ppo": PPO_SPACE,
    "ppo_rnn": PPO_SPACE,
    "dqn": {
        "lr": ("log", 1e-4, 3e-3),
        "gamma": ("below_one", 3e-3, 1e-1),
        "end_e": ("log", 5e-3, 1e-1),
        "exploration_fraction": ("lin", 0.05, 0.6),
        "n_step": (1, 3),
    },
    "pqn": {
        "lr": ("log", 1e-4, 5e-3),
        "gamma": ("below_one", 3e-3, 1e-1),
        "lambda_": ("below_one", 3e-2, 9e-1),
        "end_e": ("log", 5e-3, 1e-1),
        "exploration_fraction": ("lin", 0.05, 0.6),
    },
    "apg": {
        "lr": ("log", 3e-4, 1e-2),
        "critic_lr": ("log", 1e-3, 2e-2),
        "gamma": ("below_one", 3e-3, 1e-1),
        "noise": ("lin", 0.05, 0.5),
    },
    "evolve_policy": {
        "std_init": ("log", 0.05, 1.0),
        "es_lr": ("log", 0.03, 0.5),
        "std_decay": ("below_one", 1e-4, 2e-2),
        "es_lr_decay": ("below_one", 1e-4, 2e-2),
    },
}
POINTS = 8  # of which the first is the start itself
SEARCH_SEED = 1000  # the first seed of a search; results are reported on seeds from 0
REPORTED_SEEDS = {"minatar": 8, "robots": 8, "worlds": 8}  # else 16
NETWORK_STEPS = {"ppo": 1_000_000, "dqn": 300_000}  # to compare mlp and cnn with: a cnn takes eight times as long


class Budget(NamedTuple):
    """What a search spends on each point."""

    seeds: int
    steps: int  # env steps, or generations


GROUPS = {"minatar": MINATAR, "continuous": CONTINUOUS, "swing_up": SWING_UP, "robots": ROBOTS, "worlds": WORLDS}


def group(env_id):
    return next((name for name, env_ids in GROUPS.items() if env_id in env_ids), "small")


def base(script, env_id):
    """The settings that a search starts from."""
    settings = dict(BASE[script][group(env_id)])
    if script in ("ppo", "ppo_rnn"):
        settings |= OWN.get(env_id, {})
    return settings


def budget(script, env_id):
    """The same for every environment of a group; smaller where a step costs more."""
    if script == "evolve_policy":
        return Budget(seeds=2, steps=base(script, env_id).get("generations", 60))
    if group(env_id) == "minatar":
        return Budget(seeds=2, steps={"ppo": 1_000_000, "ppo_rnn": 500_000, "dqn": 300_000, "pqn": 1_000_000}[script])
    if env_id in FAST_ROBOTS:
        return Budget(seeds=4, steps=1_000_000)
    if group(env_id) in ("robots", "worlds"):
        return Budget(seeds=2, steps=250_000)
    return Budget(seeds=2 if script == "ppo_rnn" else 4, steps=500_000)


def length(script):
    """The field of Config that says how long to train."""
    return "generations" if script == "evolve_policy" else "total_timesteps"


def reported_seeds(env_id):
    return REPORTED_SEEDS.get(group(env_id), 16)


def draw_points(script, start):
    """POINTS points of a script's space: [{field: value}]; the first one is start, a dict with each of its fields."""
    rng = np.random.default_rng(0)
    points = [{name: start[name] for name in SPACE[script]}]
    return points + [{name: draw(rng, *how) for name, how in SPACE[script].items()} for _ in range(POINTS - 1)]


def draw(rng, kind, *bounds):
    if kind == "lin":
        return rounded(rng.uniform(*bounds))
    if kind in ("log", "below_one"):
        value = rounded(np.exp(rng.uniform(*np.log(bounds))))
        return rounded(1 - value, 4) if kind == "below_one" else value
    return int(rng.choice([kind, *bounds]))


def rounded(value, digits=2):
    return float(f"{value:.{digits}g}")


# --- Settings as flags and as lines ----------------------------------------------------------------------------------
def flags(settings):
    """Settings as words of a command line."""
    words = []
    for name, value in settings.items():
        flag = flag_name(name)
        words += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return words


def read_tuned():
    return tomllib.loads(TUNED.read_text()) if TUNED.exists() else {}


HEADER = """\
# Settings that differ from a script's defaults, per environment; `--tuned` starts from them. Written by
# `python benchmarks/tune.py`: the best of 8 points of a random search on other seeds than the reported ones.
# benchmarks/tasks.py has the space and what a search starts from, results/tuning.csv every point with its returns.
"""


def write_tuned(settings):
    """Writes {script: {env_id: {field: value}}}, a line per script and environment."""
    text = HEADER
    for script, lines in settings.items():
        text += f"\n[{script}]\n"
        for env_id in (e for e in PLAYS[script] if e in lines):
            items = ", ".join(f"{name} = {json.dumps(value)}" for name, value in lines[env_id].items())
            text += f"{json.dumps(env_id)} = {{ {items} }}\n" if items else f"{json.dumps(env_id)} = {{}}\n"
    with replacing(TUNED) as temporary:
        temporary.write_text(text)

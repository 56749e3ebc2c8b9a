"""Training throughput: env steps/s of whole runs with 1, 16 and 128 seeds, compile time apart, peak memory.

    python benchmarks/throughput.py                    # all scripts, about fifteen minutes on two cores
    python benchmarks/throughput.py --scripts ppo --seeds 1 16
    python benchmarks/throughput.py --suites           # environments of other suites, half an hour on two cores
    python benchmarks/throughput.py --images           # a convolution, alone and before a memory: five minutes

Each (script, seeds) runs in a process of its own, so that peak memory is its own: it compiles the runner's program
once, warms it up, and times REPEATS runs of updates. The table gives medians and the quartiles around them. Rows of
results/throughput.csv are replaced by newer ones of the same script, environment and seeds.

--suites measures each environment with 64 copies twice: alone, with random actions in place of an agent (its script is
called random), and in training with ppo.py; into results/throughput_suites.csv. Rows of this machine that are there are
not measured again without --again, so that it can be stopped. An environment whose package is missing is left out.

--images measures 1,024 agents of particles/forage, with some 150,000 parameters, into results/throughput_images.csv.
"""

import argparse
import csv
import importlib
import itertools
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from peer_worker import peak_memory_mb
from tasks import LARGE, ROOT, base

from runner.loop.record import replacing

REPEATS = 7
SECONDS = 4.0  # per repeat
COLUMNS = (
    "script",
    "env_id",
    "seeds",
    "devices",
    "compile_seconds",
    "steps_per_second",
    "low",
    "high",
    "peak_memory_mb",
)
KEY = ("script", "env_id", "seeds")
PACKAGES = ("flax", "optax", "distrax", "gymnax")
OUTPUT, SUITES_OUTPUT, IMAGES_OUTPUT = (
    ROOT / "results" / f"throughput{kind}.csv" for kind in ("", "_suites", "_images")
)
RANDOM = "random"  # the script that is an environment alone
# Each of the suites that docs/environments.md has, and one of gymnax's to stand beside. Navix has the same tasks as
# XLand-MiniGrid
SUITES = (
    "CartPole-v1",
    "brax/inverted_pendulum-spring",
    "brax/hopper-spring",
    "brax/ant-spring",
    "brax/halfcheetah-spring",
    "craftax/classic-symbolic",
    "playground/CartpoleBalance",
    "xminigrid/DoorKey-5x5",
    "pgx/connect_four",
    "jumanji/Snake-v1",
)
MANY = {"network": "cnn", "num_envs": 1024, "num_steps": 32, "num_minibatches": 8}  # rows of 16 games of 64 agents
IMAGES = {  # the first word is the script
    "ppo": MANY | {"hidden_size": 56},
    "ppo_rnn": MANY | {"embedding_size": 80, "hidden_size": 80},
    "ppo_rnn, 5x5 filters": MANY | {"embedding_size": 96, "hidden_size": 96, "kernel_size": 5},
}

MEASURED = {  # by default: (scripts, seeds, environments, file)
    "": (("ppo", "ppo_rnn", "dqn", "pqn"), (1, 16, 128), ("CartPole-v1",), OUTPUT),
    "suites": ((RANDOM, "ppo"), (1,), SUITES, SUITES_OUTPUT),
    "images": (tuple(IMAGES), (1,), ("particles/forage",), IMAGES_OUTPUT),
}


def compiled(script, path, config, seeds):
    """The runner's program of so many seeds of a script, a module, and their first state."""
    import numpy as np

    from runner.loop.devices import Layout, make_mesh
    from runner.loop.program import build
    from runner.plan.script import Script
    from runner.policies import Policies

    layout = Layout(make_mesh(seeds))
    parts = Script(path, script.Config, script.make_env, script.make_train, script.make_policy, Policies())
    program = build(parts, config, (), layout.size(seeds), layout)
    return program, program.init(layout.place(np.arange(seeds, dtype=np.uint32)), {})


def run(program, state, updates):
    """The state after so many updates, and the seconds that they took."""
    import jax
    import numpy as np

    from runner.loop.program import MAX_CHUNK

    start = time.monotonic()
    for done in range(0, updates, MAX_CHUNK):
        state, _ = program.chunk(state, {}, np.int32(min(MAX_CHUNK, updates - done)))
    jax.block_until_ready(state)
    return state, time.monotonic() - start


def warmed_up(program, state, seconds_each):
    """A state some updates on, and how many updates take so many seconds, about."""
    state, _ = run(program, state, 1)
    state, seconds = run(program, state, 8)
    return state, max(1, round(8 * seconds_each / seconds))


class RandomState(NamedTuple):
    """What the environments of an agent that acts at random hand to the next update."""

    env_state: Any
    obs: Any
    key: Any


def random_actions():
    """ppo.py without an agent, as a script: its environments and rollout lengths, with random actions."""
    import jax

    script = importlib.import_module("ppo")

    def make_train(config):
        env, env_params = script.make_env(config.env_id, config.env_params)
        space = env.action_space(env_params)

        def init(key):
            key, env_key = jax.random.split(key)
            obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(env_key, config.num_envs), env_params)
            return RandomState(env_state, obs, key)

        def env_step(state, key):
            action_keys, env_keys = jax.random.split(key, (2, config.num_envs))
            obs, env_state, reward, terminated, truncated, _ = jax.vmap(env.step, (0, 0, 0, None))(
                env_keys, state.env_state, jax.vmap(space.sample)(action_keys), env_params
            )
            return state._replace(env_state=env_state, obs=obs), (reward, terminated | truncated)

        def update(state, _):
            key, rollout_key = jax.random.split(state.key)
            state, (reward, done) = jax.lax.scan(env_step, state, jax.random.split(rollout_key, config.num_steps))
            return state._replace(key=key), {"reward": reward.mean(), "episode_count": done.sum()}

        def train(key, state=None, num_updates=config.num_updates):
            state = init(key) if state is None else state
            return jax.lax.scan(update, state, None, length=num_updates)

        return train

    return SimpleNamespace(
        Config=script.Config, make_env=script.make_env, make_train=make_train, make_policy=script.make_policy
    )


def suite_settings(env_id):
    """Those that ppo.py's search starts from in an environment, with as many copies of it everywhere."""
    return base("ppo", env_id) | LARGE


def measure(name, env_id, seeds, seconds_each=SECONDS, settings=None):
    """One row, as a dict, measured in this process; seconds_each: how long a repeat takes, about."""
    import jax

    module = name.split(",")[0]
    script = random_actions() if name == RANDOM else importlib.import_module(module)
    from runner.loop.devices import make_mesh

    config = script.Config(env_id=env_id, **(settings or {}))
    program, state = compiled(script, ROOT / f"{module}.py", config, seeds)
    state, updates = warmed_up(program, state, seconds_each)
    speeds = []
    for _ in range(REPEATS):
        state, seconds = run(program, state, updates)
        speeds.append(seeds * updates * config.steps_per_update / seconds)
    low, middle, high = statistics.quantiles(speeds, n=4)
    devices = make_mesh(seeds).size
    values = (name, env_id, seeds, devices, program.compile_seconds, middle, low, high, peak_memory_mb())
    parameters = sum(x[0].size for x in jax.tree.leaves(getattr(state, "params", ())))  # of the first agent
    return dict(zip(COLUMNS, values, strict=True)) | {"num_envs": config.num_envs, "parameters": parameters}


def machine():
    """What the figures hold for."""
    from importlib.metadata import version

    import jax

    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.split(":")[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    return {
        "machine": f"{jax.devices()[0].device_kind}; {cores} cores of {models[0] if models else platform.processor()}",
        "python": platform.python_version(),
        "jax": version("jax"),
        "versions": version_text({name: version(name) for name in PACKAGES}),
        "date": time.strftime("%Y-%m-%d"),
    }


def version_text(versions):
    """What results depend on beside Python and JAX, as text."""
    return ", ".join(f"{name} {versions[name]}" for name in PACKAGES)


def read_rows(path):
    """The rows of a CSV file as dicts of text; none where there is no file yet."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path, rows):
    """Writes dicts as CSV; what older rows lack stays empty."""
    path.parent.mkdir(exist_ok=True)
    names = dict.fromkeys(name for row in rows for name in row)
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def replace_rows(path, new, key=("command",)):
    """Writes new rows in place of those that say the same in the columns of key, or at the end."""

    def values(row):
        return tuple(str(row[name]) for name in key)

    old, replaced = read_rows(path), {values(row) for row in new}
    kept = [row for row in old if values(row) not in replaced]
    at = next((i for i, row in enumerate(old) if values(row) in replaced), len(kept))
    write_rows(path, kept[:at] + new + kept[at:])


def row_text(row):
    speed = f"{row['steps_per_second']:,.0f} [{row['low']:,.0f}, {row['high']:,.0f}]"
    return f"{row['compile_seconds']:10.1f} {speed:>28} {row['peak_memory_mb']:9.0f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scripts", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--env-id", nargs="+")
    parser.add_argument("--suites", action="store_true", help="environments of other suites, alone and in training")
    parser.add_argument("--images", action="store_true", help="a convolution, alone and before a memory")
    parser.add_argument("--again", action="store_true", help="with --suites: measure what is there once more")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # measure in this process, print JSON
    args = parser.parse_args()
    kind = next((kind for kind in ("suites", "images") if getattr(args, kind)), "")
    own_scripts, own_seeds, own_env_ids, own_output = MEASURED[kind]
    scripts, seeds, env_ids = args.scripts or own_scripts, args.seeds or own_seeds, args.env_id or own_env_ids
    output = args.output or own_output
    if args.one:
        settings = {"": {}, "suites": suite_settings(env_ids[0]), "images": IMAGES.get(scripts[0])}[kind]
        print(json.dumps(measure(scripts[0], env_ids[0], seeds[0], settings=settings)))
        return
    description, failed = machine(), []
    known = {tuple(row[name] for name in KEY) for row in read_rows(output) if row["machine"] == description["machine"]}
    print(f"{description['machine']}, jax {description['jax']}: median of {REPEATS} [quartiles]")
    print(f"{'script':10} {'environment':30} {'seeds':>6} {'compile s':>10} {'env steps/s':>28} {'peak MB':>9}")
    for env_id, name, count in itertools.product(env_ids, scripts, seeds):
        if args.suites and not args.again and (name, env_id, str(count)) in known:
            continue
        words = ["--scripts", name, "--seeds", str(count), "--env-id", env_id, *([f"--{kind}"] if kind else [])]
        command = [sys.executable, __file__, "--one", *words]
        found = subprocess.run(command, capture_output=True, text=True)
        if found.returncode:
            failed.append(env_id)
            print(f"{name:10} {env_id:30} {(found.stderr.splitlines() or ['no message'])[-1]}", flush=True)
            continue
        row = json.loads(found.stdout.splitlines()[-1])
        print(f"{name:10} {env_id:30} {count:6} {row_text(row)}", flush=True)
        row = {k: round(v, 1) if isinstance(v, float) else v for k, v in row.items()} | description
        row["command"] = shlex.join(["python", "benchmarks/throughput.py", *words])
        replace_rows(output, [row], KEY)
    print(f"written to {output}")
    if failed:
        sys.exit(f"not measured, see above: {', '.join(dict.fromkeys(failed))}")


if __name__ == "__main__":
    main()

"""Training throughput: env steps/s of whole runs with 1, 16 and 128 seeds, compile time apart, peak memory.

    python benchmarks/throughput.py                    # all scripts, about fifteen minutes on two cores
    python benchmarks/throughput.py --scripts ppo --seeds 1 16

Each (script, seeds) runs in a process of its own, so that peak memory is its own: it compiles the runner's program
once, warms it up, and times REPEATS chunks of updates. The table gives medians and the quartiles around them. Rows of
results/throughput.csv are replaced by newer ones of the same script, environment and seeds.
"""

import argparse
import csv
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from peer_worker import peak_memory_mb

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
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

    start = time.monotonic()
    state, _ = jax.block_until_ready(program.chunk(state, {}, np.int32(updates)))
    return state, time.monotonic() - start


def warmed_up(program, state, seconds_each):
    """A state some updates on, and how many updates take so many seconds, about."""
    from runner.loop.program import MAX_CHUNK

    state, _ = run(program, state, 1)
    state, seconds = run(program, state, 8)
    return state, max(1, min(MAX_CHUNK, round(8 * seconds_each / seconds)))


def measure(name, env_id, seeds, seconds_each=SECONDS):
    """One row, as a dict, measured in this process; seconds_each: how long a repeat takes, about."""
    sys.path.insert(0, str(ROOT))
    script = importlib.import_module(name)
    from runner.loop.devices import make_mesh

    config = script.Config(env_id=env_id)
    program, state = compiled(script, ROOT / f"{name}.py", config, seeds)
    state, updates = warmed_up(program, state, seconds_each)
    speeds = []
    for _ in range(REPEATS):
        state, seconds = run(program, state, updates)
        speeds.append(seeds * updates * config.steps_per_update / seconds)
    low, middle, high = statistics.quantiles(speeds, n=4)
    devices = make_mesh(seeds).size
    values = (name, env_id, seeds, devices, program.compile_seconds, middle, low, high, peak_memory_mb())
    return dict(zip(COLUMNS, values, strict=True))


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scripts", nargs="+", default=["ppo", "ppo_rnn", "dqn", "pqn"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 16, 128])
    parser.add_argument("--env-id", default="CartPole-v1")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "throughput.csv")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # measure in this process, print JSON
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.scripts[0], args.env_id, args.seeds[0])))
        return
    description = machine()
    print(f"{description['machine']}, jax {description['jax']}: median of {REPEATS} [quartiles]")
    print(f"{'script':10} {'seeds':>6} {'compile s':>10} {'env steps/s':>28} {'peak MB':>9}")
    for name in args.scripts:
        for seeds in args.seeds:
            words = ["--scripts", name, "--seeds", str(seeds), "--env-id", args.env_id]
            found = subprocess.run(
                [sys.executable, __file__, "--one", *words], check=True, stdout=subprocess.PIPE, text=True
            )
            row = json.loads(found.stdout.splitlines()[-1])
            speed = f"{row['steps_per_second']:,.0f} [{row['low']:,.0f}, {row['high']:,.0f}]"
            print(
                f"{name:10} {seeds:6} {row['compile_seconds']:10.1f} {speed:>28} {row['peak_memory_mb']:9.0f}",
                flush=True,
            )
            row = {k: round(v, 1) if isinstance(v, float) else v for k, v in row.items()} | description
            row["command"] = f"python benchmarks/throughput.py {' '.join(words)}"
            replace_rows(args.output, [row], KEY)
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()

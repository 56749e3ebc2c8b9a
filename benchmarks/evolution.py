"""Frames per second of an evolution's generation, beside plain vmapped ppo.py with as many agents.

    python benchmarks/evolution.py                       # about five minutes on two cores
    python benchmarks/evolution.py --preset purejaxrl --output results/evolution_gpu.csv    # on a GPU

Both programs train the same number of agents for the same number of env steps, in turns, REPEATS times; the generation
also draws the candidates, evaluates the loss networks and moves the distribution. The share is the median of the ratios
of neighbouring turns. Rows are replaced by newer ones of the same preset and kind of loss.
"""

import argparse
import statistics
import sys
import time
import typing
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import jax
import numpy as np
from throughput import machine, replace_rows

import meta_evolve_loss as meta
import ppo
from runner.loop.devices import Spread, compile_program, make_mesh

REPEATS = 7
LEARN = typing.get_args(meta.Config.__annotations__["learn"])


def timed(program, *args):
    start = time.monotonic()
    found = jax.block_until_ready(program(*args))
    return found, time.monotonic() - start


def measure(preset, learn, repeats):
    """One row, as a dict."""
    config = meta.Config(**meta.PRESETS[preset] | ({"learn": learn} if learn else {}))
    members = config.population * config.seeds_per_candidate
    mesh = make_mesh(members)
    spread = Spread(mesh)
    train = meta.make_train(config, spread)
    agent = meta.agent_config(config, config.env_ids[0])
    frames = config.steps_per_update

    start = time.monotonic()
    state = compile_program(jax.jit(lambda key: train(key, num_updates=0)[0]), jax.random.key(0))(jax.random.key(0))
    generation = compile_program(jax.jit(lambda state: train(None, state=state, num_updates=1)[0]), state)
    compile_seconds = time.monotonic() - start
    keys = jax.random.split(jax.random.key(1), members)
    plain = compile_program(jax.jit(spread(lambda key: ppo.make_train(agent)(key)[1]["episode_return"])), keys)

    state, _ = timed(generation, state)
    timed(plain, keys)
    turns = []
    for _ in range(repeats):
        state, evolving = timed(generation, state)
        turns.append((evolving, timed(plain, keys)[1]))
    seconds = np.median(turns, axis=0)
    low, share, high = statistics.quantiles([other / own for own, other in turns], n=4)
    return {
        "preset": preset, "learn": config.learn, "population": config.population, "agents": members,
        "frames_per_generation": frames, "devices": mesh.size, "compile_seconds": round(compile_seconds, 1),
        "evolution_frames_per_second": round(frames / seconds[0]), "ppo_frames_per_second": round(frames / seconds[1]),
        "share": round(share, 3), "share_low": round(low, 3), "share_high": round(high, 3),
        "hours_for_all_generations": round(config.generations * seconds[0] / 3600, 3),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=meta.PRESETS, default="cpu")
    parser.add_argument("--learn", nargs="+", choices=LEARN, default=[None])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "evolution_throughput.csv")
    args = parser.parse_args()
    for learn in args.learn:
        row = measure(args.preset, learn, args.repeats) | machine()
        print(", ".join(f"{name} {value}" for name, value in row.items()))
        command = f"python benchmarks/evolution.py --preset {args.preset} --learn {row['learn']}"
        replace_rows(args.output, [row | {"command": command}], ("preset", "learn"))
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()

"""Env steps/s and compile time of the scripts against those of another commit, in turns within one process.

    python benchmarks/against.py 0a1b2c3                       # about an hour on two cores
    python benchmarks/against.py HEAD~1 --scripts dqn --seeds 16

Each (script, seeds) has a process of its own, in which both versions run TURNS chunks of updates in turns: the median
of the ratios of neighbours counts, for the speed of a shared machine changes within minutes. The runner is that of now.
Compile times are those that the whole command reports, each version with its own runner and without a cache, also in
turns: medians of COMPILE_TURNS. Rows of results/against.csv are replaced by newer ones of the same commit, script and
seeds.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from throughput import ROOT, compiled, machine, replace_rows, run, warmed_up

TURNS = 9
SECONDS = 1.5  # per chunk
COMPILE_TURNS = 3  # half a minute each
ENVIRONMENTS = {"ppo_rnn": "MemoryChain-bsuite"}  # its own default; CartPole-v1 for the others
KEY = ("commit", "script", "seeds")


def version_of(name, commit, folder):
    """The script as it was, as a module, and where its text lies."""
    path = Path(folder) / f"{name}_{commit}.py"
    path.write_bytes(
        subprocess.run(["git", "show", f"{commit}:{name}.py"], cwd=ROOT, check=True, capture_output=True).stdout
    )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, path


def measure(name, seeds, commit):
    """One row, measured in this process."""
    with tempfile.TemporaryDirectory() as folder:
        now = importlib.import_module(name), ROOT / f"{name}.py"
        return compare(name, seeds, commit, [version_of(name, commit, folder), now])


def compare(name, seeds, commit, versions):
    programs, states, chunks, speeds = [], [], [], ([], [])
    env_id = ENVIRONMENTS.get(name, "CartPole-v1")
    config = [script.Config(env_id=env_id) for script, _ in versions]
    for (script, path), its_config in zip(versions, config, strict=True):
        program, state = compiled(script, path, its_config, seeds)
        state, updates = warmed_up(program, state, SECONDS)
        programs.append(program)
        states.append(state)
        chunks.append(updates)
    for _ in range(TURNS):
        for i, program in enumerate(programs):
            states[i], seconds = run(program, states[i], chunks[i])
            speeds[i].append(seeds * chunks[i] * config[i].steps_per_update / seconds)
    low, ratio, high = statistics.quantiles([new / old for old, new in zip(*speeds, strict=True)], n=4)
    return {
        "commit": commit, "script": name, "env_id": env_id, "seeds": seeds,
        "before": round(statistics.median(speeds[0])), "now": round(statistics.median(speeds[1])),
        "ratio": round(ratio, 2), "low": round(low, 2), "high": round(high, 2),
    }  # fmt: skip


def extract(commit, tree):
    """Writes a commit's files to a new folder."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True)
    tree.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", tree], input=archive.stdout, check=True)


def commit_name(commit):
    """Its first seven digits."""
    words = ["git", "rev-parse", "--short=7", commit]
    return subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def compile_times(name, seeds, commit):
    """Seconds until the whole command has compiled, of the tree as it was and of that of now: medians."""
    with tempfile.TemporaryDirectory() as folder:
        tree, seconds = Path(folder) / "tree", ([], [])
        extract(commit, tree)
        for turn in range(COMPILE_TURNS):
            for i, root in enumerate((tree, ROOT)):
                seconds[i].append(compile_time(root, name, seeds, Path(folder) / f"run-{turn}-{i}"))
    before, now = (round(statistics.median(found), 1) for found in seconds)
    return {"compile_before": before, "compile_now": now}


def compile_time(root, name, seeds, run_dir):
    words = ["--env-id", ENVIRONMENTS.get(name, "CartPole-v1"), "--num-seeds", str(seeds), "--run-dir", str(run_dir)]
    words += ["--no-compile-cache", "--total-timesteps", "12000", "--eval-episodes", "1"]
    subprocess.run([sys.executable, f"{name}.py", *words], cwd=root, check=True, capture_output=True)
    return json.loads((run_dir / "summary.json").read_text())["timing"]["compile_seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", help="what to compare with, as git knows it")
    parser.add_argument("--scripts", nargs="+", default=["ppo", "ppo_rnn", "dqn"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 16, 128])
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "against.csv")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # measure in this process, print JSON
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.scripts[0], args.seeds[0], args.commit)))
        return
    commit = commit_name(args.commit)
    for name in args.scripts:
        for seeds in args.seeds:
            words = [sys.executable, __file__, commit, "--one", "--scripts", name, "--seeds", str(seeds)]
            found = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            row = json.loads(found.stdout.splitlines()[-1]) | compile_times(name, seeds, commit)
            print(
                f"{name:10} {seeds:4} seeds: {row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}] times the"
                f" env steps/s of {commit}; compiled in {row['compile_now']} s, before {row['compile_before']} s",
                flush=True,
            )
            row |= (
                {"now_commit": commit_name("HEAD")}
                | machine()
                | {"command": f"python benchmarks/against.py {commit} --scripts {name} --seeds {seeds}"}
            )
            replace_rows(args.output, [row], KEY)


if __name__ == "__main__":
    main()

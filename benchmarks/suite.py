"""Results: trains every script with its tuned settings in every environment, and adds them to results/returns.csv.

    python benchmarks/suite.py                                       # everything that is not there yet: many hours
    python benchmarks/suite.py --scripts ppo --envs CartPole-v1
    python benchmarks/suite.py --networks                            # MinAtar with mlp and with cnn, fewer steps

Stop it at any time: the same command goes on where it was, for the runs lie in runs/results/SCRIPT/ENV. So in a fresh
clone, or with such a folder deleted, it trains again, and the new row takes the place of the old one.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys

import returns
from tasks import MINATAR, NETWORK_STEPS, PLAYS, ROOT, RUNS, read_tuned, reported_seeds


def finished(run_dir):
    return (run_dir / "summary.json").exists()


def train(script, words, run_dir, settings, root=ROOT):
    """Runs a script of the tree root to its end, or on from where an earlier call was stopped.

    settings are what its Config must hold.
    """
    if not (run_dir / "config.json").exists():
        shutil.rmtree(run_dir, ignore_errors=True)  # stopped before it began
    else:
        record = json.loads((run_dir / "config.json").read_text())
        typed = shlex.split(record["command"])[2 : 2 + len(words)]
        if typed != words or any(record["config"][name] != value for name, value in settings.items()):
            sys.exit(f"{run_dir} is of other settings than those of now: delete it to train again")
    if finished(run_dir):
        return
    start = ["--resume", str(run_dir)] if run_dir.exists() else [*words, "--run-dir", str(run_dir)]
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    log = f"{run_dir}.log"
    with open(log, "a") as output:
        done = subprocess.run([sys.executable, f"{script}.py", *start], cwd=root, stdout=output, stderr=output)
    if done.returncode:
        sys.exit(f"{script}.py failed, see {log}")


def report(script, env_id, words, run_dir, changed):
    """Trains with the tuned settings, but for those changed, and adds the row, or does what was not done of it yet."""
    settings = read_tuned().get(script, {}).get(env_id)
    if settings is None:
        print(f"not tuned yet: python benchmarks/tune.py --scripts {script} --envs {env_id}")
        return
    words = ["--env-id", env_id, "--tuned", *words, "--num-seeds", str(reported_seeds(env_id))]
    command = shlex.join(["python", f"{script}.py", *words])
    if finished(run_dir) and command in returns.commands():
        return
    train(script, words, run_dir, settings | changed)
    returns.add([run_dir])
    print(f"done: {command}", flush=True)


def compare_networks(scripts, envs):
    """Both networks on the MinAtar games, with the settings that were tuned for mlp and NETWORK_STEPS env steps."""
    for script in (s for s in NETWORK_STEPS if s in scripts):
        for env_id in (e for e in MINATAR if e in (envs or MINATAR)):
            for network in ("mlp", "cnn"):
                words = ["--network", network, "--total-timesteps", str(NETWORK_STEPS[script])]
                changed = {"network": network, "total_timesteps": NETWORK_STEPS[script]}
                report(script, env_id, words, RUNS / "networks" / f"{script}-{network}" / env_id, changed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scripts", nargs="+", default=list(PLAYS), choices=list(PLAYS))
    parser.add_argument("--envs", nargs="+")
    parser.add_argument("--networks", action="store_true", help="mlp against cnn in place of everything")
    args = parser.parse_args()
    if args.networks:
        compare_networks(args.scripts, args.envs)
        return
    for script in args.scripts:
        for env_id in args.envs or PLAYS[script]:
            report(script, env_id, [], RUNS / "results" / script / env_id, {})


if __name__ == "__main__":
    main()

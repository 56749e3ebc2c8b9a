"""Results: trains every script with its tuned settings in every environment, and adds them to results/returns.csv.

    python benchmarks/suite.py                                       # everything that is not there yet: many hours
    python benchmarks/suite.py --scripts ppo --envs CartPole-v1

Stop it at any time: the same command goes on where it was, for the runs lie in runs/results/SCRIPT/ENV.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import returns
from tasks import PLAYS, ROOT, RUNS, read_tuned, reported_seeds


def finished(run_dir):
    return (Path(run_dir) / "summary.json").exists()


def train(script, words, run_dir):
    """Runs a script to its end, on from where an earlier call was stopped."""
    if finished(run_dir):
        return
    start = ["--resume", str(run_dir)] if (run_dir / "config.json").exists() else [*words, "--run-dir", str(run_dir)]
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{run_dir}.log", "a") as log:
        subprocess.run([sys.executable, f"{script}.py", *start], cwd=ROOT, stdout=log, stderr=log, check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scripts", nargs="+", default=list(PLAYS), choices=list(PLAYS))
    parser.add_argument("--envs", nargs="+")
    args = parser.parse_args()
    for script in args.scripts:
        for env_id in args.envs or PLAYS[script]:
            run_dir = RUNS / "results" / script / env_id
            if finished(run_dir):
                continue
            if env_id not in read_tuned().get(script, {}):
                print(
                    f"{script} is not tuned for {env_id} yet: python benchmarks/tune.py --scripts {script} --envs {env_id}"
                )
                continue
            train(script, ["--env-id", env_id, "--tuned", "--num-seeds", str(reported_seeds(env_id))], run_dir)
            returns.add([run_dir])
            print(f"done: {script} in {env_id}", flush=True)


if __name__ == "__main__":
    main()

"""A suite from nothing to a picture: a fresh clone and virtual environment, the suite's extra, one training.

    python benchmarks/fresh.py                    # every suite, about half an hour on two cores
    python benchmarks/fresh.py --suites brax pgx

Seconds of the install and of the training, with compiling and evaluation, go to results/fresh.csv. What pip downloads
is taken from its cache where that has it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from tasks import LARGE, ROOT, base, flags
from throughput import machine, replace_rows

OUTPUT = ROOT / "results" / "fresh.csv"
SEEDS = 4
# One environment of each suite that two cores learn something of in minutes: (its name, env steps)
TRIED = {
    "brax": ("brax/inverted_pendulum-spring", 500_000),
    "craftax": ("craftax/classic-symbolic", 100_000),
    "jaxmarl": ("jaxmarl/MPE_simple_spread_v3", 500_000),
    "jumanji": ("jumanji/Snake-v1", 200_000),
    "navix": ("navix/Empty-5x5", 200_000),
    "pgx": ("pgx/connect_four", 200_000),
    "playground": ("playground/CartpoleBalance", 500_000),
    "xminigrid": ("xminigrid/Empty-5x5", 200_000),
}
OWN = {"jaxmarl": {"num_envs": 48}}  # rows of whole games of three agents


def settings(suite, env_id, steps):
    return LARGE | {"lr": 1e-3} | base("ppo", env_id) | OWN.get(suite, {}) | {"total_timesteps": steps}


def fresh(suite, folder):
    """A row, as a dict, of a suite that is installed and tried in an empty folder."""
    env_id, steps = TRIED[suite]
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder / "clone")], check=True)
    python, clone = str(folder / "venv" / "bin" / "python"), folder / "clone"
    start = time.monotonic()
    venv.create(folder / "venv", with_pip=True)
    for words in (["-r", "requirements.txt"], [f".[{suite}]"]):
        subprocess.run([python, "-m", "pip", "install", "-q", *words], cwd=clone, check=True)
    installed = time.monotonic()
    words = ["ppo.py", "--env-id", env_id, *flags(settings(suite, env_id, steps)), "--num-seeds", str(SEEDS)]
    run = [python, *words, "--eval-episodes", "8", "--no-compile-cache", "--run-dir", "run"]
    subprocess.run(run, cwd=clone, check=True)
    end = time.monotonic()
    if not (clone / "run" / "learning_curve.png").exists():
        sys.exit(f"{suite}: no picture was drawn")
    summary = json.loads((clone / "run" / "summary.json").read_text())
    final, timing = summary["points"][0]["final_return"], summary["timing"]
    return (
        {"suite": suite, "env_id": env_id, "seeds": SEEDS, "env_steps": steps}
        | {"install_seconds": round(installed - start), "to_picture_seconds": round(end - installed)}
        | {"compile_seconds": round(timing["compile_seconds"]), "train_seconds": round(timing["train_seconds"])}
        | {"final_mean": round(final["mean"], 3), "low": round(final["mean_low"], 3)}
        | {"high": round(final["mean_high"], 3)}
        | machine()
        | {"command": f"python benchmarks/fresh.py --suites {suite}"}
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suites", nargs="+", default=list(TRIED), choices=list(TRIED))
    args = parser.parse_args()
    for suite in args.suites:
        with tempfile.TemporaryDirectory() as folder:
            row = fresh(suite, Path(folder))
        replace_rows(OUTPUT, [row], ("suite",))
        print(f"{suite}: installed in {row['install_seconds']} s, then {row['to_picture_seconds']} s to a picture")


if __name__ == "__main__":
    main()

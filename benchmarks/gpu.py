"""What benchmarks/gpu.sh runs: throughput and roofline, the purejaxrl preset, a short learning check; into one CSV.

Every step is a process with the time that is left of MINUTES; one that does not fit is named as not measured.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import pandas as pd

MINUTES = 8
ROOFLINE_MINUTES = 4.5  # at most, so that the learning check and the preset have their turn
MEMBERS = "1 128 2048 8192"
ROOFLINE = {
    "steps_per_second": "env steps/s",
    "mfu": "share of matmul ceiling",
    "share_of_copy": "share of copy ceiling",
    "matmul_per_second": "flop/s",
    "copy_bytes_per_second": "byte/s",
}
EVOLUTION = {
    "evolution_frames_per_second": "env steps/s",
    "ppo_frames_per_second": "env steps/s",
    "hours_for_all_generations": "h",
}


def platform():
    """What JAX computes on, asked in another process: this one leaves the device to the steps."""
    words = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[-1]


def step(command, deadline):
    """Runs a command; whether it came to its end before the deadline."""
    print(f"$ {command}", flush=True)
    try:
        words = command.split()
        subprocess.run([sys.executable, *words[1:]], cwd=ROOT, check=True, timeout=max(1, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        print(f"not measured: {error}")
        return False
    return True


def tidy(table, names, what, members):
    """Rows {what, members, value, unit, command} of the named columns of a benchmark's table."""
    return [
        {"what": f"{what}: {name}", "members": row[members], "value": row[name], "unit": unit}
        for row in table.to_dict("records")
        for name, unit in names.items()
    ]


def main():
    if platform() == "cpu":
        sys.exit("JAX sees no GPU here: python -m pip install 'jax[cuda13]', or mend the driver")
    start, rows = time.monotonic(), []
    deadline = start + 60 * MINUTES
    folder = Path(tempfile.mkdtemp())

    command = f"python benchmarks/roofline.py --members {MEMBERS} --seconds 1 --output {folder}/roofline.csv"
    step(command, start + 60 * ROOFLINE_MINUTES)
    if (folder / "roofline.csv").exists():  # it writes after each number of members
        found = tidy(pd.read_csv(folder / "roofline.csv"), ROOFLINE, "ppo.py", "members")
        rows += [row | {"command": f"python benchmarks/roofline.py --members {MEMBERS} --seconds 1"} for row in found]

    command = f"python ppo.py --num-seeds 128 --no-compile-cache --run-dir {folder}/run"
    if step(command, deadline):
        summary = json.loads((folder / "run" / "summary.json").read_text())
        numbers = summary["points"][0]["final_return"] | summary["timing"]
        units = dict(iqm="return", low="return", high="return", compile_seconds="s", train_seconds="s")
        found = [{"what": f"learning: {n}", "members": 128, "value": numbers[n], "unit": u} for n, u in units.items()]
        rows += [row | {"command": "python ppo.py --num-seeds 128 --no-compile-cache"} for row in found]

    command = f"python benchmarks/evolution.py --preset purejaxrl --repeats 3 --output {folder}/evolution.csv"
    if step(command, deadline):
        found = tidy(pd.read_csv(folder / "evolution.csv"), EVOLUTION, "purejaxrl preset", "agents")
        rows += [row | {"command": "python benchmarks/evolution.py --preset purejaxrl --repeats 3"} for row in found]

    from throughput import machine, write_rows  # here and not before: the steps have the device for themselves

    described = machine()
    card = re.sub(r"[^A-Za-z0-9]+", "_", described["machine"].split(";")[0]).strip("_")
    if rows:
        write_rows(ROOT / "results" / f"gpu_{card}.csv", [row | described for row in rows])
        print(f"written to results/gpu_{card}.csv")
    sys.exit(0 if rows else 1)


if __name__ == "__main__":
    main()

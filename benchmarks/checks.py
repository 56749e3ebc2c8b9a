"""What `python -m environments check` says of every environment of gymnax, of the suites and of our own.

    python benchmarks/checks.py                          # those not there yet: hours on two cores
    python benchmarks/checks.py --envs brax/ant pgx/go_9x9

Every environment is checked in a process of its own, and its findings go to results/checks.csv. Stop it at any time:
the same command goes on where it was. A row of an environment that is named is measured again.
"""

import argparse
import re
import subprocess
import sys

from throughput import ROOT, machine, read_rows, replace_rows

import environments

OUTPUT = ROOT / "results" / "checks.csv"
LIMIT = 900  # seconds: what compiles longer is not for two cores


def names():
    """Every environment that can be named, gymnax's own first."""
    import gymnax

    return list(dict.fromkeys([*sorted(gymnax.registered_envs), *environments.ENVIRONMENTS]))


def check(env_id):
    """A row, as a dict: how many faults and notes, and the lines themselves."""
    words = [sys.executable, "-m", "environments", "check", env_id]
    try:
        found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
        lines = [line for line in found.stdout.splitlines() if line.startswith(("fault:", "note:", "speed:"))]
        # Exit code 2: there is no such environment here, and the line says why
        outcome = {0: "checked", 1: "checked", 2: "refused"}.get(found.returncode, "failed")
        lines = lines if outcome == "checked" else found.stderr.strip().splitlines()[-1:]
    except subprocess.TimeoutExpired:
        outcome, lines = f"not done in {LIMIT} s", []
    counts = {f"{kind}s": sum(line.startswith(f"{kind}:") for line in lines) for kind in ("fault", "note")}
    speed = re.search(r"speed: ([\d,]+) steps/s", " ".join(lines))
    told = " | ".join(line for line in lines if not line.startswith("speed:"))
    steps = speed[1].replace(",", "") if speed else ""
    return {"env_id": env_id, "outcome": outcome} | counts | {"steps_per_second": steps, "findings": told}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", nargs="+")
    args = parser.parse_args()
    known = {row["env_id"] for row in read_rows(OUTPUT)}
    for env_id in args.envs or [name for name in names() if name not in known]:
        row = check(env_id) | machine()
        replace_rows(OUTPUT, [row], ("env_id",))
        print(f"{env_id}: {row['outcome']}, {row['faults']} faults, {row['notes']} notes", flush=True)


if __name__ == "__main__":
    main()

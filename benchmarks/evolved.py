"""Adds comparisons of evolved losses to results/evolution.csv: a row per run, environment and loss.

    python benchmarks/evolved.py runs/meta_evolve_loss/CartPole-v1/20261121-064301-ab12cd ...

Give it run directories of meta_evolve_loss.py, on the machine that trained them. Rows of the same command are replaced.
"""

import argparse
import json
from pathlib import Path

from returns import command, made_with, read
from throughput import machine, replace_rows

OUTPUT = Path(__file__).resolve().parent.parent / "results" / "evolution.csv"


def rows(run_dir):
    """Rows, as dicts, from what a run directory records."""
    record, summary = read(run_dir)
    timing = summary["timing"]
    shared = {"command": command(record), "seed": record["options"]["seed"]}
    after = {
        "evolve_seconds": round(timing["train_seconds"], 1),
        "frames_per_second": round(timing["env_steps_per_second"]),
        "nan_candidates": summary["evolution"]["nan_candidates"],
    }
    after |= machine() | made_with(record)
    for env_id, found in summary["environments"].items():
        where = shared | {"env_id": env_id, "held_out": found["held_out"]}
        for loss, scores in found["losses"].items():
            row = {"loss": loss, "tuned": json.dumps(found["tuned"]) if "tuned" in loss else ""}
            row |= {"agents": scores["agents"], "nan_agents": scores["nan_agents"]}
            for outcome in ("mean_over_training", "final_return"):
                row |= {f"{outcome}_{key}": round(scores[outcome][key], 2) for key in ("iqm", "low", "high")}
            row |= {
                f"{outcome}_mean": round(scores[outcome]["mean"], 2)
                for outcome in ("mean_over_training", "final_return")
            }
            chance = scores.get("probability_that_learned_is_better", {})
            row |= {f"learned_better_{key}": round(chance[key], 3) if chance else "" for key in ("p", "low", "high")}
            yield where | row | {"learned_is": scores.get("learned_is", "")} | after


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dirs", nargs="+", type=Path)
    args = parser.parse_args()
    new = [row for run_dir in args.run_dirs for row in rows(run_dir)]
    replace_rows(OUTPUT, new)
    print(f"{len(new)} rows written to {OUTPUT}")


if __name__ == "__main__":
    main()

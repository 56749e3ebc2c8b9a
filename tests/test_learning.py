"""The first promise: `python ppo.py`, nothing else typed, solves CartPole-v1 on 16 seeds."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_cartpole_is_solved_by_the_default_command(users_environment, tmp_path):
    start, first_progress = time.monotonic(), None
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "ppo.py")],
        env=users_environment,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    while chunk := process.stderr.read1(4096):
        if b"median return" in chunk and first_progress is None:
            first_progress = time.monotonic() - start
    assert process.wait() == 0
    print(f"first progress after {first_progress:.1f} s, everything after {time.monotonic() - start:.1f} s")
    run = next((tmp_path / "runs/ppo/CartPole-v1").iterdir())
    point = json.loads((run / "summary.json").read_text())["points"][0]
    assert point["seeds"] == 16 and point["nan_seeds"] == 0
    assert point["final_return"]["mean"] >= 490  # CleanRL publishes 490.04 +- 6.12
    assert point["greedy_return"]["mean"] >= 490 and point["sampled_return"]["mean"] >= 480
    assert (run / "learning_curve.png").stat().st_size > 10_000

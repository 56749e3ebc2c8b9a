"""Members on one axis over every device: the mesh, where members lie, and the cache of compiled programs."""

import contextlib
import functools
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.backend import clear_backends
from jax.sharding import Mesh, NamedSharding, PartitionSpec

MEMBER = PartitionSpec("member")


def make_mesh(num_members):
    """One axis, "member", over the devices of all processes; of one process's, as many as there are members."""
    if jax.default_backend() == "cpu" and len(jax.devices()) == 1 and not cpu_devices_are_set():
        clear_backends()  # importing gymnax started one with a single device
        split_cpu()
    return Mesh(np.array(jax.devices()[: num_members if jax.process_count() == 1 else None]), ("member",))


def split_cpu():
    """Has JAX start with one CPU device per core, where the user set no number.

    Small programs side by side use the cores better than one program with threads (measured: 16 seeds of CartPole PPO
    run twice as fast on 2 cores).
    """
    if not cpu_devices_are_set() and hasattr(os, "sched_getaffinity"):
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def cpu_devices_are_set():
    return "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", "")


class Layout(NamedTuple):
    """Where the members of a batch lie: each device has some of them, or, where they spread themselves, all."""

    mesh: Mesh
    spreads: bool = False  # a member is an evolution, which spreads its population; members follow one another

    @property
    def sharding(self):
        return everywhere(self.mesh) if self.spreads else NamedSharding(self.mesh, MEMBER)

    def size(self, count):
        """Rows of every array for so many members: where devices share them, padded to fill all."""
        return count if self.spreads else -(-count // self.mesh.size) * self.mesh.size

    def each(self, function, size):
        """Maps function over size members, as the devices have them."""
        if not self.spreads:
            return map_all(jax.vmap, function, size // self.mesh.size)
        return map_all(lambda function: lambda *args: jax.lax.map(lambda each: function(*each), args), function, size)

    def jit(self, function, num_scalars=0, **options):
        """Jits function(*trees with a leading member axis, *scalars); nothing passes between members."""
        if self.spreads:
            return jax.jit(function, out_shardings=self.sharding, **options)

        def split(*args):
            specs = (MEMBER,) * (len(args) - num_scalars) + (PartitionSpec(),) * num_scalars
            return jax.shard_map(function, mesh=self.mesh, in_specs=specs, out_specs=MEMBER, check_vma=False)(*args)

        return jax.jit(split, **options)

    def place(self, tree):
        """Puts arrays with a leading member axis on the devices, the last member repeated to fill them up."""

        def put(x):
            padding = self.size(len(x)) - len(x)
            x = np.concatenate([x, np.repeat(x[-1:], padding, axis=0)]) if padding else x
            return jax.make_array_from_callback(x.shape, self.sharding, lambda index: x[index])

        return jax.tree.map(put, tree)


def map_all(vmap, function, count):
    """vmap of function, over count members; where that is 1 without: a smaller program."""
    if count > 1:
        return vmap(function)

    def only_one(*args):
        return jax.tree.map(lambda x: x[None], function(*jax.tree.map(lambda x: x[0], args)))

    return only_one


class Spread:
    """spread(function) is a vmap over all devices, at_once members at a time (0: all), for an evolution's population.

    Where their number does not divide by the devices, the last member repeated fills it up.
    """

    def __init__(self, mesh, at_once=0):
        self.mesh, self.at_once = mesh, at_once
        self.largest = 1  # how many members were mapped at most, known when the program is traced

    def __call__(self, function):
        return functools.partial(self.map, function)

    def map(self, function, *args):
        count = len(jax.tree.leaves(args)[0])
        self.largest = max(self.largest, count)
        size = Layout(self.mesh).size(count)

        def on_one_device(*args):
            if not 0 < self.at_once < size:
                return jax.vmap(function)(*args)
            batch_size = max(1, self.at_once // self.mesh.size)
            return jax.lax.map(lambda each: function(*each), args, batch_size=batch_size)

        filled = repeat_last(args, count, size)
        on_all = jax.shard_map(on_one_device, mesh=self.mesh, in_specs=MEMBER, out_specs=MEMBER, check_vma=False)
        return jax.tree.map(lambda x: x[:count], on_all(*filled))


def everywhere(mesh):
    """The sharding of what every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def repeat_last(tree, count, size):
    """Size rows of every array: the first count, then the last of them again and again."""
    return jax.tree.map(lambda x: x[jnp.minimum(jnp.arange(size), count - 1)], tree)


def shapes_on(sharding, tree):
    """Shapes and dtypes of a tree of arrays, or of shapes, that lie so on the devices."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def host_device():
    """A CPU device of this process, or where JAX_PLATFORMS leaves them out its first device."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def use_compile_cache():
    """Keeps compiled programs in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR names another."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        except RuntimeError:  # nobody's home, as for the unnamed users of some containers
            return
        jax.config.update("jax_compilation_cache_dir", str(root / "end-to-end-jax-rl"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


# How to compile a program that runs once: ppo.py's first state in 0.3 s in place of 1.2 s, with the first alone 0.6 s
RUNS_ONCE = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 10):  # jax 0.11 does not know it
    RUNS_ONCE["xla_cpu_use_fusion_emitters"] = False


def compile_program(jitted, *args):
    """Lowers and compiles a jitted function for args, arrays or shapes."""
    lowered = jitted.lower(*args)
    with without_cache_chatter():
        return lowered.compile()


# What jaxlib's C++ code writes for every program that it finds in the compile cache: that its format may change, which
# the cache's key rules out, and that this processor lacks two "features" that are LLVM's preferences, no instructions
CACHE_CHATTER = (b"does not track XLA executable versions", b"machine feature +prefer-no-")


@contextlib.contextmanager
def without_cache_chatter():
    """Drops those lines; passes on all else.

    Python's logging does not see them, and jaxlib reads its own log level before a script could set it.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            caught.seek(0)
            lines = [line for line in caught if not any(chatter in line for chatter in CACHE_CHATTER)]
            os.write(2, b"".join(lines))

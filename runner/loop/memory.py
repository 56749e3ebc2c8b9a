"""How many members fit: what a compiled program takes of each device, and what there is."""

from pathlib import Path, PurePosixPath

import jax

USABLE = 0.7  # of the free memory: the evaluation, metrics and checkpoints come on top of the program

# Control groups v2 and v1: where they lie, the limit, what is used, and which part of that the kernel drops when needed
GROUPS = {
    "": ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free_bytes(processes=1):
    """Free memory of one of this process's devices, or None where nobody says.

    CPU devices share the machine's, and so do processes that run on the same one.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    limits = [machine_free(), container_free()]
    known = [limit for limit in limits if limit is not None]
    return min(known) / jax.local_device_count() / processes if known else None


def machine_free():
    for line in read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def container_free():
    """The least that a control group of this process, a container's or a SLURM job's, may take yet; None: no limit."""
    free = []
    for line in read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        group = PurePosixPath(path.lstrip("/"))
        for name in GROUPS.keys() & set(controllers.split(",")):
            free += [group_free(folder, *GROUPS[name]) for folder in (group, *group.parents)]
    return min((x for x in free if x is not None), default=None)


def group_free(folder, root, limit, used, droppable):
    """Limit minus what is used and can't be dropped, as Kubernetes counts it; None for no limit."""
    limit, used, stat = (read(str(PurePosixPath(root) / folder / name)) for name in (limit, used, "memory.stat"))
    if not (limit.strip().isdigit() and used):
        return None
    files = [int(line.split()[1]) for line in stat.splitlines() if line.startswith(f"{droppable} ")]
    return int(limit) - int(used) + sum(files)


def read(path):
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def bytes_per_device(compiled):
    """What a program takes while it runs, of each device: arguments, results and what lies between; 0 if unknown."""
    found = compiled.memory_analysis()
    if found is None:
        return 0
    both = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return both + found.temp_size_in_bytes


def fitting(count, needed, free, num_devices):
    """How many of count members fit at once, if all take needed bytes of each device, free of which are there.

    Batches are of one size, as far as that goes: the last one is not much smaller than the others.
    """
    at_most = max(1, int(count * USABLE * free / needed))
    at_most = max(num_devices, at_most // num_devices * num_devices)
    batches = -(-count // at_most)
    even = -(-count // batches)
    return min(at_most, -(-even // num_devices) * num_devices)

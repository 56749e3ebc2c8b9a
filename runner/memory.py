"""How many members fit: what a compiled program takes of each device, and what there is."""

from pathlib import Path

import jax

USABLE = 0.7  # of the free memory: the evaluation, metrics and checkpoints come on top of the program


def free_bytes():
    """Free memory of one of this process's devices, or None where nobody says; CPU devices share the machine's."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    limits = [machine_free(), container_free()]
    known = [limit for limit in limits if limit is not None]
    return min(known) / jax.local_device_count() if known else None


def machine_free():
    for line in read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def container_free():
    """What the container may still take (cgroup v2)."""
    limit, used = read("/sys/fs/cgroup/memory.max"), read("/sys/fs/cgroup/memory.current")
    return int(limit) - int(used) if limit.strip().isdigit() and used else None


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

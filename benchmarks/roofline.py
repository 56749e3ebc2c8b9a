"""How much of the device ppo.py uses: the operations and bytes that an update must do, beside measured ceilings.

    python benchmarks/roofline.py                            # 1, 16, 128 and 1024 members, about five minutes
    python benchmarks/roofline.py --members 1 128 2048 8192 --output results/roofline_gpu.csv  # on a GPU

Counted are the matrix products of the forward and backward passes (two operations per multiply-add; the elementwise
rest is small beside them, and its time is what the share shows), and the bytes that must move if nothing but the
members' own data stays in a cache: parameters, gradients and Adam's moments of every gradient step, and the rollout
written once and read once per epoch. Ceilings are a large matrix product and a large copy on all devices at once, of
the same run. The share of the matrix ceiling is called MFU. Published, for comparison: PureJaxRL's 2048 agents in about
98 s on an A100 is about 12 % of that card's float32 peak; the ceiling here is of JAX's default precision, which on
such cards may be tf32, several times as fast. Rows are replaced by newer ones of the same number of members.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import jax
import jax.numpy as jnp
from throughput import SECONDS, machine, measure, replace_rows

import ppo
from runner.loop.devices import Layout, make_mesh

REPEATS = 7
FLOAT = 4  # bytes


def operations(config):
    """Floating-point operations of one member's update, in matrix products."""
    actor, critic, first = products(config)
    rollout = config.steps_per_update * 2 * actor
    bootstrap = config.steps_per_update * 2 * (actor + 2 * critic)  # both networks, and the critic on what came after
    # Backwards twice as much as forwards, but for the gradient by the observation, which nobody needs
    learning = config.update_epochs * config.steps_per_update * 2 * (3 * (actor + critic) - first)
    return rollout + bootstrap + learning


def moved_bytes(config):
    """Bytes that one member's update must read and write."""
    steps = config.update_epochs * config.num_minibatches
    parameters = sum(x.size for x in jax.tree.leaves(parameter_shapes(config)))
    observation = parameter_shapes(config)["params"]["actor"]["layers_0"]["kernel"].shape[0]
    collected = 2 * observation + 6  # observation, what came after it, and the other numbers of a Transition
    batch = observation + 5  # what an epoch reads of it
    rollout = config.steps_per_update * (collected + config.update_epochs * batch)
    return FLOAT * (8 * parameters * steps + rollout)  # parameters, two moments and gradients, read and written


def products(config):
    """Multiply-adds of one sample through the actor, through the critic, and of both first layers."""
    kernels = {
        name: [layer["kernel"].size for _, layer in sorted(layers.items())]
        for name, layers in parameter_shapes(config)["params"].items()
    }
    return sum(kernels["actor"]), sum(kernels["critic"]), kernels["actor"][0] + kernels["critic"][0]


def parameter_shapes(config):
    return jax.eval_shape(lambda: ppo.make_train(config)(jax.random.key(0), num_updates=0)[0]).params


def ceiling(mesh, function, shape, amount):
    """Operations, or bytes, per second over all devices: the best of REPEATS; amount: of one device and call."""
    x = jax.random.normal(jax.random.key(0), (mesh.size, *shape))
    run = Layout(mesh).jit(function, donate_argnums=0)  # in place: fresh memory is slow to be handed out
    x = jax.block_until_ready(run(x))
    seconds = []
    for _ in range(REPEATS):
        start = time.monotonic()
        x = jax.block_until_ready(run(x))
        seconds.append(time.monotonic() - start)
    return mesh.size * amount / min(seconds)


def ceilings(mesh):
    on_gpu = mesh.devices.flat[0].platform != "cpu"
    n, size = (8192, 2**28) if on_gpu else (1024, 2**25)
    products = ceiling(mesh, lambda x: x @ x / n**0.5, (n, n), 2 * n**3)  # stays near 1
    copied = ceiling(mesh, lambda x: x + jnp.float32(1), (size,), 2 * FLOAT * size)
    return products, copied


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", nargs="+", type=int, default=[1, 16, 128, 1024])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of training per repeat")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "roofline.csv")
    args = parser.parse_args()
    config = ppo.Config()
    needed, moved = operations(config), moved_bytes(config)
    print(f"one update of one member: {needed / 1e6:.1f} Mflop, {moved / 1e6:.2f} MB")
    for members in args.members:
        found = measure("ppo", config.env_id, members, args.seconds)
        mesh = make_mesh(members)
        samples = [ceilings(mesh) for _ in range(2)]  # the machine is not equally fast all the time
        peak, copy = (statistics.mean(values) for values in zip(*samples, strict=True))
        updates = found["steps_per_second"] / config.steps_per_update
        row = {
            "members": members, "devices": mesh.size, "steps_per_second": round(found["steps_per_second"]),
            "operations_per_update": needed, "bytes_per_update": moved,
            "matmul_per_second": float(f"{peak:.4g}"), "copy_bytes_per_second": float(f"{copy:.4g}"),
            "mfu": round(updates * needed / peak, 4), "share_of_copy": round(updates * moved / copy, 4),
        }  # fmt: skip
        print(
            f"{members:6} members on {mesh.size} device(s): {row['steps_per_second']:,} env steps/s,"
            f" {updates * needed / 1e9:.1f} of {peak / 1e9:.1f} Gflop/s (MFU {row['mfu']:.1%}),"
            f" {updates * moved / 1e9:.1f} of {copy / 1e9:.1f} GB/s ({row['share_of_copy']:.1%})",
            flush=True,
        )
        row |= machine() | {"command": f"python benchmarks/roofline.py --members {members}"}
        replace_rows(args.output, [row], ("members",))  # each time: the next may not fit into memory, or into the time
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()

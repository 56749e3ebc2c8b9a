"""Where the time of an update of ppo.py goes: its parts as programs of their own, beside the whole.

    python benchmarks/breakdown.py              # 1 and 16 members, about three minutes on two cores

Every part does what the update does of it, REPEATS turns with all parts one after the other, REPEATED times per turn;
the median counts. Parts can sum to more or less than the whole, which XLA fuses across them. Rows of
results/breakdown.csv are replaced by newer ones of the same number of members.
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
import numpy as np
import optax
from throughput import machine, replace_rows

import ppo
from runner.loop.devices import Layout, make_mesh, map_all

REPEATS, REPEATED = 7, 8
CONFIG = ppo.Config()
SIZE = CONFIG.steps_per_update


def parts():
    """{name: function(state, batch, key) -> (state, batch)}, of one member; each a part of an update."""
    env, env_params = ppo.make_env(CONFIG.env_id, CONFIG.env_params)
    network = ppo.make_network(CONFIG)
    _, act = ppo.make_policy(CONFIG)
    train = ppo.make_train(CONFIG)
    optimizer = optax.chain(optax.clip_by_global_norm(CONFIG.max_grad_norm), optax.adam(CONFIG.lr, eps=1e-5))
    steps = CONFIG.update_epochs * CONFIG.num_minibatches

    def whole(state, batch, key):
        return train(None, state=state, num_updates=1)[0], batch

    def keys_of(key):
        action_key, env_key = jax.random.split(key)
        return action_key, jax.random.split(env_key, CONFIG.num_envs)

    def rollout(one_step):
        def run(state, batch, key):
            return jax.lax.scan(one_step, state, jax.random.split(key, CONFIG.num_steps))[0], batch

        return run

    def keys(state, key):
        action_key, env_keys = keys_of(key)
        used = jax.random.key_data(action_key).sum() + jax.random.key_data(env_keys).sum()
        return state._replace(num_updates=state.num_updates + used.astype(jnp.int32)), None

    def acting(state, key):
        _, action = act(state, (), state.obs, key, greedy=False)
        return state._replace(obs=state.obs + 1e-9 * action[:, None]), None

    def env_step(state, key):
        action = jnp.ones(CONFIG.num_envs, jnp.int32)
        step = jax.vmap(env.step, (0, 0, 0, None))
        obs, env_state, *_ = step(keys_of(key)[1], state.env_state, action, env_params)
        return state._replace(obs=obs, env_state=env_state), None

    def bootstrap(state, batch, key):
        distribution, value = network.apply(state.params, batch.obs)
        _, next_value = network.apply(state.params, batch.obs + 1e-3)
        return state, batch._replace(log_prob=distribution.log_prob(batch.action), value=value + 1e-9 * next_value)

    def advantages(state, batch, key):
        reward = batch.target.reshape(CONFIG.num_steps, -1)
        advantage = ppo.gae(reward, reward, reward, 0.0 * reward, 0.0 * reward, CONFIG.gamma, CONFIG.gae_lambda)
        return state, batch._replace(target=0.5 * advantage.reshape(-1))

    def permutation(state, batch, key):
        def epoch(action, key):
            return action ^ (ppo.random_order(key, SIZE) & 1).astype(jnp.int32), None

        action = jax.lax.scan(epoch, batch.action, jax.random.split(key, CONFIG.update_epochs))[0]
        return state, batch._replace(action=action)

    def gather(state, batch, key):
        order = jnp.roll(jnp.arange(SIZE), batch.action[0])

        def epoch(batch, _):
            return jax.tree.map(lambda x: x[order], batch), None

        return state, jax.lax.scan(epoch, batch, length=CONFIG.update_epochs)[0]

    def gradients(state, batch, key):
        minibatch = jax.tree.map(lambda x: x[: SIZE // CONFIG.num_minibatches], batch)

        def loss(params):
            return ppo.ppo_loss(*network.apply(params, minibatch.obs), minibatch, CONFIG)[0]

        def step(params, _):
            return jax.tree.map(lambda x, g: x - 1e-9 * g, params, jax.grad(loss)(params)), None

        return state._replace(params=jax.lax.scan(step, state.params, length=steps)[0]), batch

    def adam(state, batch, key):
        def step(learner, _):
            params, opt_state = learner
            updates, opt_state = optimizer.update(params, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        learner = (state.params, optimizer.init(state.params))
        return state._replace(params=jax.lax.scan(step, learner, length=steps)[0][0]), batch

    return {
        "whole update": whole,
        "rollout: acting": rollout(acting),
        "rollout: environment": rollout(env_step),
        "rollout: splitting keys": rollout(keys),
        "values and log-probabilities": bootstrap,
        "advantages": advantages,
        "permutations": permutation,
        "gathering minibatches": gather,
        "forward and backward": gradients,
        "clipping and Adam": adam,
    }


def compiled(part, layout, args):
    def repeated(states, batches, keys):
        def turn(carry, key):
            return part(*carry, key), None

        def one(state, batch, key):
            return jax.lax.scan(turn, (state, batch), jax.random.split(key, REPEATED))[0]

        return map_all(jax.vmap, one, len(keys))(states, batches, keys)  # as the runner does

    return layout.jit(repeated).lower(*args).compile()


def example(members, layout):
    """States, batches and keys of all members."""
    seeds = layout.place(np.arange(members, dtype=np.uint32))

    def one(seed):
        key = jax.random.key(seed)
        state = ppo.make_train(CONFIG)(key, num_updates=1)[0]
        obs = jax.random.normal(key, (SIZE, state.obs.shape[1]))
        numbers = jax.random.normal(key, (SIZE,))
        batch = ppo.Batch(obs, (numbers > 0).astype(jnp.int32), numbers * 0 - 0.7, numbers, numbers, numbers)
        return state, batch, key

    return layout.jit(jax.vmap(one))(seeds)


def measure(members):
    """Rows of one number of members: the part, milliseconds per update of all members, share of the whole."""
    layout = Layout(make_mesh(members))
    args = example(members, layout)
    programs = {name: compiled(part, layout, args) for name, part in parts().items()}
    seconds = {name: [] for name in programs}
    for _ in range(REPEATS + 1):
        for name, program in programs.items():
            start = time.monotonic()
            jax.block_until_ready(program(*args))
            seconds[name].append((time.monotonic() - start) / REPEATED)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first turn warms up
    whole = medians["whole update"]
    return [
        {
            "members": members, "devices": layout.mesh.size, "part": name,
            "milliseconds": round(1e3 * median, 3), "share": round(median / whole, 3),
        }
        for name, median in medians.items()
    ]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--members", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "breakdown.csv")
    args = parser.parse_args()
    for members in args.members:
        description = machine() | {"command": f"python benchmarks/breakdown.py --members {members}"}
        rows = [row | description for row in measure(members)]
        for row in rows:
            print(f"{members:5} {row['part']:30} {row['milliseconds']:9.3f} ms {row['share']:7.1%}", flush=True)
        replace_rows(args.output, rows, ("members",))
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()

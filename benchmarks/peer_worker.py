"""One measurement of one peer, in a process of its own and with the Python of the peer's own environment.

    python benchmarks/peer_worker.py '{"peer": "sb3", "algo": "ppo", "agents": 1, "seed": 0, "steps": 500000}'

Prints a line of JSON: seconds to compile and to train, peak memory, versions, and the returns of each agent over
training. It imports nothing of this project: benchmarks/peers.py says what to measure, and reads the line.
"""

import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

BINS = 20  # points of a learning curve


def binned(steps, returns, total):
    """Mean return of the episodes that ended in each of BINS equal stretches of training, or of the stretch before."""
    sums, counts = [0.0] * BINS, [0] * BINS
    for step, value in zip(steps, returns, strict=True):
        at = min(BINS - 1, int(step * BINS / total))
        sums[at] += value
        counts[at] += 1
    curve = []
    for total_return, count in zip(sums, counts, strict=True):
        curve.append(total_return / count if count else curve[-1] if curve else None)
    return curve


def peak_memory_mb():
    """Of this process; what the kernel reports as ru_maxrss would begin with the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def command(task):
    """This project, as a user runs it: the command itself, with its record on disk. Its evaluation is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        words = [*task["words"], "--run-dir", str(run_dir), "--no-compile-cache", "--eval-episodes", "1"]
        subprocess.run([sys.executable, *words], cwd=task["root"], stdout=subprocess.DEVNULL, check=True)
        timing = json.loads((run_dir / "summary.json").read_text())["timing"]
        curves = binned_updates(run_dir / "metrics.csv", task["steps"])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # this process is small: it adds nothing
    return timing["compile_seconds"], timing["train_seconds"], curves, peak


def binned_updates(path, total):
    """As binned, from rows of updates: each counts as often as an episode of its length ends."""
    members = {}
    with open(path) as file:
        for row in csv.DictReader(file):
            length = float(row["episode_length"])
            if length == length:  # not NaN: an episode has ended
                at = min(BINS - 1, (int(row["env_steps"]) - 1) * BINS // total)
                sums = members.setdefault(row["member"], [[0.0, 0.0] for _ in range(BINS)])[at]
                sums[0] += float(row["episode_return"]) / length
                sums[1] += 1 / length
    return [[weighted / weight if weight else None for weighted, weight in sums] for sums in members.values()]


def stable_baselines(task, settings, jax_based):
    """stable-baselines3, or sbx, which has its interface: one agent."""
    import gymnasium
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    class Episodes(BaseCallback):
        def __init__(self):
            super().__init__()
            self.steps, self.returns = [], []

        def _on_step(self):
            for info in self.locals["infos"]:
                if "episode" in info:
                    self.steps.append(self.num_timesteps)
                    self.returns.append(float(info["episode"]["r"]))
            return True

    def lr(left):  # of the run, from 1 to 0
        return settings["lr"] * (left if settings["anneal_lr"] else 1.0)

    if jax_based:
        import flax.linen as nn
        import sbx

        tanh, DQN, PPO = nn.tanh, sbx.DQN, sbx.PPO
    else:
        import stable_baselines3
        import torch
        from torch import nn

        torch.set_num_threads(1)  # networks this small run slower on two
        tanh, DQN, PPO = nn.Tanh, stable_baselines3.DQN, stable_baselines3.PPO
    env = make_vec_env(lambda: gymnasium.make(task["env_id"]), n_envs=settings["num_envs"], seed=task["seed"])
    hidden = [settings["hidden_size"]] * 2
    if task["algo"] == "ppo":
        options = {
            "n_steps": settings["num_steps"],
            "batch_size": settings["num_envs"] * settings["num_steps"] // settings["num_minibatches"],
            "n_epochs": settings["update_epochs"],
            "gae_lambda": settings["gae_lambda"],
            "clip_range": settings["clip_eps"],
            "ent_coef": settings["ent_coef"],
            "vf_coef": settings["vf_coef"] / 2,  # their value loss is the squared error, ours half of it
            "max_grad_norm": settings["max_grad_norm"],
            "policy_kwargs": {"net_arch": {"pi": hidden, "vf": hidden}, "activation_fn": tanh},
        }
        if jax_based:
            options["policy_kwargs"]["ortho_init"] = True  # of the last layer
        model = PPO(
            "MlpPolicy", env, learning_rate=lr, gamma=settings["gamma"], seed=task["seed"], **options, device="cpu"
        )
    else:
        options = {
            "buffer_size": settings["buffer_size"],
            "learning_starts": settings["learning_starts"],
            "batch_size": settings["batch_size"],
            "train_freq": settings["train_frequency"],
            "target_update_interval": settings["target_network_frequency"],
            "exploration_fraction": settings["exploration_fraction"],
            "exploration_final_eps": settings["end_e"],
            "policy_kwargs": {"net_arch": hidden},
        }
        if not jax_based:
            options["max_grad_norm"] = float("inf")
        model = DQN(
            "MlpPolicy", env, learning_rate=lr, gamma=settings["gamma"], seed=task["seed"], **options, device="cpu"
        )
    episodes = Episodes()
    start = time.monotonic()
    model.learn(total_timesteps=task["steps"], callback=episodes)
    seconds = time.monotonic() - start
    return None, seconds, [binned(episodes.steps, episodes.returns, task["steps"])]


def rejax(task, settings):
    """rejax: a vmap over agents, as its README has it. Timed without evaluations; with them, for the curves, apart."""
    import jax
    import optax
    import rejax

    updates = task["steps"] // (settings["num_envs"] * settings.get("num_steps", 1))
    common = {
        "env": task["env_id"], "total_timesteps": task["steps"], "num_envs": settings["num_envs"],
        "gamma": settings["gamma"], "skip_initial_evaluation": True,
    }  # fmt: skip
    if task["algo"] == "ppo":
        gradient_steps = updates * settings["update_epochs"] * settings["num_minibatches"]
        lr = optax.linear_schedule(settings["lr"], 0.0, gradient_steps) if settings["anneal_lr"] else settings["lr"]
        hidden = (settings["hidden_size"],) * 2
        algo = rejax.PPO.create(
            **common, learning_rate=lr, num_steps=settings["num_steps"], num_minibatches=settings["num_minibatches"],
            num_epochs=settings["update_epochs"], gae_lambda=settings["gae_lambda"], clip_eps=settings["clip_eps"],
            ent_coef=settings["ent_coef"], vf_coef=settings["vf_coef"], max_grad_norm=settings["max_grad_norm"],
            agent_kwargs={"activation": "tanh", "hidden_layer_sizes": hidden}, eval_freq=task["steps"],
        )  # fmt: skip
    else:

        class DQN(rejax.DQN):
            def make_act(self, state):
                """For evaluation, with the exploration of training's end as the others' returns have it."""

                def act(obs, rng):
                    epsilon = settings["end_e"]
                    return self.agent.apply(state.q_ts.params, obs[None], rng, epsilon=epsilon, method="act").squeeze()

                return act

        algo = DQN.create(
            **common, learning_rate=settings["lr"], buffer_size=settings["buffer_size"],
            fill_buffer=settings["learning_starts"], batch_size=settings["batch_size"], ddqn=False, polyak=0.0,
            target_update_freq=settings["target_network_frequency"], eps_end=settings["end_e"],
            exploration_fraction=settings["exploration_fraction"], agent_kwargs={"activation": "relu"},
            eval_freq=task["steps"],
        )  # fmt: skip
    keys = jax.random.split(jax.random.key(task["seed"]), task["agents"])
    if task["curves"]:
        evaluate = algo.eval_callback
        algo = algo.replace(
            eval_callback=lambda a, state, rng: evaluate(a, state, rng)[1].mean(), eval_freq=task["steps"] // BINS
        )
    else:
        algo = algo.replace(eval_callback=lambda a, state, rng: ())
    train = algo.train if task["agents"] == 1 and not task["curves"] else jax.vmap(algo.train)
    keys = keys[0] if task["agents"] == 1 and not task["curves"] else keys
    start = time.monotonic()
    program = jax.jit(train).lower(keys).compile()
    compiled = time.monotonic()
    _, evaluations = jax.block_until_ready(program(keys))
    seconds = time.monotonic() - compiled
    return compiled - start, seconds, evaluations.tolist() if task["curves"] else []


PACKAGES = ("stable-baselines3", "sbx-rl", "rejax", "gymnax", "gymnasium", "jax", "torch")


def main():
    task = json.loads(sys.argv[1])
    if task["words"]:
        compile_seconds, train_seconds, curves, peak = command(task)
    elif task["peer"] == "rejax":
        compile_seconds, train_seconds, curves = rejax(task, task["settings"])
        peak = peak_memory_mb()
    else:
        compile_seconds, train_seconds, curves = stable_baselines(task, task["settings"], task["peer"] == "sbx")
        peak = peak_memory_mb()
    versions = [f"{name} {metadata.version(name)}" for name in PACKAGES if list(metadata.distributions(name=name))]
    found = {"compile_seconds": compile_seconds, "train_seconds": train_seconds, "peak_memory_mb": peak}
    print(json.dumps(found | {"versions": ", ".join(versions), "curves": curves}))


if __name__ == "__main__":
    main()

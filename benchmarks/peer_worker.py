"""One measurement of one peer, in a process of its own and with the Python of the peer's own environment.

    python benchmarks/peer_worker.py '{"peer": "sb3", "algo": "ppo", "agents": 1, "seed": 0, "steps": 500000}'

Prints a line of JSON: seconds to compile and to train, peak memory, versions, and the returns of each agent over
training. It imports nothing of this project: benchmarks/peers.py says what to measure, and reads the line.
"""

import csv
import functools
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


def exploring(algorithm, epsilon):
    """rejax's algorithm evaluated with the exploration of training's end, as the others' returns have it."""

    class Exploring(algorithm):
        def make_act(self, state):
            def act(obs, rng):
                return self.agent.apply(state.q_ts.params, obs[None], rng, epsilon=epsilon, method="act").squeeze()

            return act

    return Exploring


def annealed(settings, updates):
    """The learning rate for optax: it falls linearly to 0 over the gradient steps of so many updates, if so set."""
    import optax

    gradient_steps = updates * settings["update_epochs"] * settings["num_minibatches"]
    return optax.linear_schedule(settings["lr"], 0.0, gradient_steps) if settings["anneal_lr"] else settings["lr"]


def rejax(task, settings):
    """rejax: a vmap over agents, as its README has it. Timed without evaluations; with them, for the curves, apart."""
    import jax
    import rejax

    updates = task["steps"] // (settings["num_envs"] * settings.get("num_steps", 1))
    common = {
        "env": task["env_id"], "total_timesteps": task["steps"], "num_envs": settings["num_envs"],
        "gamma": settings["gamma"], "skip_initial_evaluation": True,
    }  # fmt: skip
    if task["algo"] == "ppo":
        hidden = (settings["hidden_size"],) * 2
        algo = rejax.PPO.create(
            **common, learning_rate=annealed(settings, updates), num_steps=settings["num_steps"],
            num_minibatches=settings["num_minibatches"], num_epochs=settings["update_epochs"],
            gae_lambda=settings["gae_lambda"], clip_eps=settings["clip_eps"], ent_coef=settings["ent_coef"],
            vf_coef=settings["vf_coef"], max_grad_norm=settings["max_grad_norm"],
            agent_kwargs={"activation": "tanh", "hidden_layer_sizes": hidden}, eval_freq=task["steps"],
        )  # fmt: skip
    elif task["algo"] == "pqn":
        # Layer norm and layers of 64 are all that it has. Its loss is half the squared error, so gradients are half
        # ours, and clipped at half
        algo = exploring(rejax.PQN, settings["end_e"]).create(
            **common, learning_rate=annealed(settings, updates), num_steps=settings["num_steps"],
            num_minibatches=settings["num_minibatches"], num_epochs=settings["update_epochs"],
            td_lambda=settings["lambda_"], max_grad_norm=settings["max_grad_norm"] / 2, eps_start=settings["start_e"],
            eps_end=settings["end_e"], exploration_fraction=settings["exploration_fraction"], eval_freq=task["steps"],
        )  # fmt: skip
    else:
        algo = exploring(rejax.DQN, settings["end_e"]).create(
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


def purejaxql(task, settings):
    """PureJaxQL's own file: a vmap over keys, as its main has it. Timed without tests; for the curves, with them."""
    import jax

    sys.path.insert(0, task["source"])
    from purejaxql.pqn_gymnax import make_train

    updates = task["steps"] // (settings["num_envs"] * settings["num_steps"])
    config = {
        "ENV_NAME": task["env_id"], "TOTAL_TIMESTEPS": task["steps"], "TOTAL_TIMESTEPS_DECAY": task["steps"],
        "NUM_ENVS": settings["num_envs"], "NUM_STEPS": settings["num_steps"],
        "NUM_MINIBATCHES": settings["num_minibatches"], "NUM_EPOCHS": settings["update_epochs"],
        "LR": settings["lr"], "LR_LINEAR_DECAY": settings["anneal_lr"],
        "MAX_GRAD_NORM": settings["max_grad_norm"] / 2,  # its loss is half the squared error
        "GAMMA": settings["gamma"], "LAMBDA": settings["lambda_"], "REW_SCALE": 1.0,
        "EPS_START": settings["start_e"], "EPS_FINISH": settings["end_e"],
        "EPS_DECAY": settings["exploration_fraction"],
        "NORM_TYPE": "layer_norm" if settings["layer_norm"] else "none", "NORM_INPUT": False,
        "HIDDEN_SIZE": settings["hidden_size"], "NUM_LAYERS": 2, "WANDB_MODE": "disabled",
        # As rejax's evaluations: 128 environments, with the exploration of training's end
        "TEST_DURING_TRAINING": task["curves"], "TEST_INTERVAL": 1 / BINS, "TEST_NUM_ENVS": 128,
        "EPS_TEST": settings["end_e"],
    }  # fmt: skip
    keys = jax.random.split(jax.random.PRNGKey(task["seed"]), task["agents"])  # it takes keys of the old kind only
    start = time.monotonic()
    program = jax.jit(jax.vmap(make_train(config))).lower(keys).compile()
    compiled = time.monotonic()
    metrics = jax.block_until_ready(program(keys))["metrics"]
    seconds = time.monotonic() - compiled
    if not task["curves"]:
        return compiled - start, seconds, []
    apart = int(updates * config["TEST_INTERVAL"])  # as its file has it
    tests = metrics["test/returned_episode_returns"][:, apart - 1 :: apart][:, :BINS].tolist()
    return compiled - start, seconds, [[x if x == x else None for x in own] for own in tests]


def brax(task, settings):
    """Brax's own PPO: one agent. Timed without evaluations; with them, for the curves, apart."""
    import jax
    from brax import envs
    from brax.training.agents.ppo import networks
    from brax.training.agents.ppo.train import train

    robot, backend = task["env_id"].removeprefix("brax/").split("-")
    env = envs.get_environment(robot, backend=backend)
    hidden = (settings["hidden_size"],) * 2
    orthogonal = jax.nn.initializers.orthogonal
    # Gaussian, with a std that no observation changes, and initial weights, as in ppo.py: Brax's default is a Gaussian
    # squashed by tanh. A critic's last layer can't have weights of its own
    network_factory = functools.partial(
        networks.make_ppo_networks, policy_hidden_layer_sizes=hidden, value_hidden_layer_sizes=hidden,
        activation={"tanh": jax.nn.tanh, "relu": jax.nn.relu}[settings["activation"]],
        distribution_type="normal", noise_std_type="log",
        policy_network_kernel_init_fn=orthogonal, policy_network_kernel_init_kwargs={"scale": 2**0.5},
        value_network_kernel_init_fn=orthogonal, value_network_kernel_init_kwargs={"scale": 2**0.5},
        mean_kernel_init_fn=orthogonal, mean_kernel_init_kwargs={"scale": 0.01},
    )  # fmt: skip
    steps_per_update = settings["num_envs"] * settings["num_steps"]
    options = {
        "num_envs": settings["num_envs"], "unroll_length": settings["num_steps"], "episode_length": 1000,
        "num_minibatches": settings["num_minibatches"],
        "batch_size": settings["num_envs"] // settings["num_minibatches"],  # counted in sequences of an environment
        "num_updates_per_batch": settings["update_epochs"], "learning_rate": settings["lr"],
        "discounting": settings["gamma"], "gae_lambda": settings["gae_lambda"],
        "clipping_epsilon": settings["clip_eps"], "entropy_cost": settings["ent_coef"],
        "vf_loss_coefficient": settings["vf_coef"], "max_grad_norm": settings["max_grad_norm"],
        "normalize_observations": settings["normalize_obs"], "reward_scaling": 1.0,
        "network_factory": network_factory, "seed": task["seed"],
    }  # fmt: skip
    start = time.monotonic()
    if task["curves"]:  # whole updates between evaluations: 500 in place of 488
        returns = []
        train(
            env, task["steps"], **options, num_evals=BINS + 1, deterministic_eval=False,
            progress_fn=lambda step, metrics: returns.append(float(metrics["eval/episode_reward"])),
        )  # fmt: skip
        return None, time.monotonic() - start, [returns[1:]]  # the first one was before training
    # Brax compiles at first use and does not say how long that took. It trains in stretches of one program, which JAX
    # compiles twice: for what it is first called with, and for what it gives back. So four equal stretches: the last
    # two only train, and compiling is what the first took beyond that. A run in one stretch, as users have without
    # evaluations, would not compile again, so the second is not counted. A fifth of compiling is for the resets of an
    # evaluator, which Brax makes even where nothing is evaluated.
    ends = []
    updates = task["steps"] // steps_per_update // 4 * 4
    train(
        env, updates * steps_per_update, **options, num_evals=5, run_evals=False,
        progress_fn=lambda step, metrics: ends.append(time.monotonic()),
    )  # fmt: skip
    stretch = (ends[3] - ends[1]) / 2
    return ends[0] - start - stretch, 4 * stretch, []


TRAIN = {
    "rejax": rejax,
    "purejaxql": purejaxql,
    "brax": brax,
    "sbx": functools.partial(stable_baselines, jax_based=True),
    "sb3": functools.partial(stable_baselines, jax_based=False),
}
PACKAGES = ("stable-baselines3", "sbx-rl", "rejax", "brax", "gymnax", "gymnasium", "jax", "torch")


def main():
    task = json.loads(sys.argv[1])
    if task["words"]:
        compile_seconds, train_seconds, curves, peak = command(task)
    else:
        compile_seconds, train_seconds, curves = TRAIN[task["peer"]](task, task["settings"])
        peak = peak_memory_mb()
    versions = [f"{name} {metadata.version(name)}" for name in PACKAGES if list(metadata.distributions(name=name))]
    if Path(task["source"]).exists():  # a clone, whose version is its commit
        words = ["git", "-C", task["source"], "rev-parse", "--short", "HEAD"]
        found = subprocess.run(words, stdout=subprocess.PIPE, text=True)
        versions.insert(0, f"{task['peer']} {found.stdout.strip()}")
    found = {"compile_seconds": compile_seconds, "train_seconds": train_seconds, "peak_memory_mb": peak}
    print(json.dumps(found | {"versions": ", ".join(versions), "curves": curves}))


if __name__ == "__main__":
    main()

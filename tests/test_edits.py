"""The edits that people make most, each in one place of a script: the rest follows, nothing else must be touched."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.slow  # thirty programs traced
ROOT = Path(__file__).resolve().parent.parent
PPO, RNN, DQN, PQN, APG, EVOLVE = ("ppo.py", "ppo_rnn.py", "dqn.py", "pqn.py", "apg.py", "evolve_policy.py")
SMALL = {
    PPO: dict(num_envs=2, num_steps=16, num_minibatches=2, total_timesteps=128, hidden_size=8),
    RNN: dict(num_envs=2, num_steps=16, num_minibatches=2, total_timesteps=128, hidden_size=8, embedding_size=8),
    PQN: dict(num_envs=2, num_steps=16, num_minibatches=2, total_timesteps=128, hidden_size=8),
    DQN: dict(num_envs=2, total_timesteps=128, learning_starts=32, buffer_size=64, batch_size=4, log_frequency=32),
    APG: dict(num_envs=2, num_steps=16, total_timesteps=128, hidden_size=8),
    EVOLVE: dict(generations=2, population=4, episodes_per_candidate=2, hidden_size=8),
}


class Edit(NamedTuple):
    """Lines put in the place of others, once in each script."""

    old: str
    new: str


HALVE = "from gymnax.wrappers.purerl import GymnaxWrapper\n\n\nclass Halve(GymnaxWrapper):\n    def step(self, key, state, action, params=None):\n        obs, *rest = self._env.step(key, state, action, params)\n        return 0.5 * obs, *rest\n\n\n"  # noqa: E501
BONUS = ' + 0.1 * jnp.square(info["final_observation"]).mean(axis=-1)'
STEP = "reward.astype(jnp.float32)"
EDITS = {
    "another optimizer": {
        PPO: Edit("optax.adam(learning_rate, eps=1e-5)", "optax.adamw(learning_rate, weight_decay=0.01)"),
        RNN: Edit("optax.adam(learning_rate, eps=1e-5)", "optax.adamw(learning_rate, weight_decay=0.01)"),
        DQN: Edit("optax.adam(config.lr)", "optax.adamw(config.lr, weight_decay=0.01)"),
        PQN: Edit("optax.radam(lr)", "optax.adamw(lr, weight_decay=0.01)"),
        APG: Edit("optax.adam(lr)", "optax.adamw(lr, weight_decay=0.01)"),
        EVOLVE: Edit("optax.adam(decaying", "optax.adabelief(decaying"),
    },
    "another schedule": {
        PPO: Edit("(left if config.anneal_lr else 1.0)", "0.5 * (1.0 + jnp.cos(jnp.pi * (1.0 - left)))"),
        RNN: Edit("(left if config.anneal_lr else 1.0)", "0.5 * (1.0 + jnp.cos(jnp.pi * (1.0 - left)))"),
        DQN: Edit("optax.adam(config.lr)", "optax.adam(optax.cosine_decay_schedule(config.lr, 10_000))"),
        PQN: Edit("optax.linear_schedule(config.lr, 0.0, gradient_steps)", "optax.cosine_decay_schedule(config.lr, 9)"),
        APG: Edit("optax.linear_schedule(lr, 0.0, steps)", "optax.cosine_decay_schedule(lr, steps)"),
    },
    "one more layer": {
        PPO: Edit("dense[0], activation, dense[1]", "dense[0], nn.LayerNorm(), activation, dense[1]"),
        RNN: Edit("nn.Sequential([hidden,", "nn.Sequential([hidden, nn.LayerNorm(),"),
        DQN: Edit("nn.relu(nn.Dense(self.hidden_size)(x))", "nn.relu(nn.LayerNorm()(nn.Dense(self.hidden_size)(x)))"),
        PQN: Edit(
            "        return nn.Dense(self.num_actions)(x)",
            "        x = nn.relu(nn.Dense(8)(x))\n        return nn.Dense(self.num_actions)(x)",
        ),
        APG: Edit("hidden[1], nn.elu,", "hidden[1], nn.LayerNorm(), nn.elu,"),
        EVOLVE: Edit(
            "x = nn.tanh(nn.Dense(self.hidden_size)(x))",
            "x = nn.tanh(nn.Dense(self.hidden_size)(nn.tanh(nn.Dense(self.hidden_size)(x))))",
        ),
    },
    "another head": {  # logits that are bounded, and a dueling network
        PPO: Edit("Categorical(logits=output)", "Categorical(logits=10 * jnp.tanh(output / 10))"),
        RNN: Edit("Categorical(logits=output)", "Categorical(logits=10 * jnp.tanh(output / 10))"),
        DQN: Edit(
            '        q = nn.Einsum(shape, "...i,oi->...o", kernel_init=init)(x)\n',
            '        better = nn.Einsum(shape, "...i,oi->...o", kernel_init=init)(x)\n'
            "        q = nn.Dense(1)(x) + better - better.mean(axis=-1, keepdims=True)\n",
        ),
        PQN: Edit(
            "return nn.Dense(self.num_actions)(x)",
            "return nn.Dense(1)(x) + nn.Dense(self.num_actions, use_bias=False)(x)",
        ),
    },
    "one more metric": {
        PPO: Edit('"value_mean": batch', '"spread": batch.advantage.std(),\n            "value_mean": batch'),
        RNN: Edit('"value_mean": batch', '"spread": batch.advantage.std(),\n            "value_mean": batch'),
        DQN: Edit('"q_mean": value.mean()', '"q_mean": value.mean(), "spread": batch.target.std()'),
        PQN: Edit('"q_mean": value.mean()', '"q_mean": value.mean(), "spread": batch.target.std()'),
        APG: Edit('{"policy_loss": loss}', '{"policy_loss": loss, "spread": window_return.std()}'),
    },
    "a bonus for exploring": {
        PPO: Edit(f"{STEP}, terminated", f"{STEP}{BONUS}, terminated"),
        RNN: Edit(f"{STEP}, terminated", f"{STEP}{BONUS}, terminated"),
        DQN: Edit(f"{STEP},", f"{STEP}{BONUS},"),
        PQN: Edit(f"{STEP}, terminated", f"{STEP}{BONUS}, terminated"),
        APG: Edit(f"{STEP},", f"{STEP}{BONUS},"),
    },
    "an observation wrapper": dict.fromkeys(
        (PPO, RNN, DQN, PQN, EVOLVE),
        Edit("LogWrapper(FlattenObservationWrapper(env))", "LogWrapper(FlattenObservationWrapper(Halve(env)))"),
    )
    | {APG: Edit("Wrapper(env.with_transition_gradients())", "Wrapper(Halve(env.with_transition_gradients()))")},
    "other first weights": {
        PPO: Edit("kernel_init=orthogonal(math.sqrt(2))) for _", "kernel_init=nn.initializers.he_normal()) for _"),
        RNN: Edit("kernel_init=orthogonal(gain))", "kernel_init=nn.initializers.he_normal())"),
        DQN: Edit("nn.Dense(self.hidden_size)", "nn.Dense(self.hidden_size, kernel_init=nn.initializers.he_normal())"),
        PQN: Edit("nn.Dense(self.hidden_size)", "nn.Dense(self.hidden_size, kernel_init=nn.initializers.he_normal())"),
        APG: Edit("kernel_init=init(gain)", "kernel_init=nn.initializers.he_normal()"),
        EVOLVE: Edit(
            "nn.Dense(self.num_outputs)", "nn.Dense(self.num_outputs, kernel_init=nn.initializers.he_normal())"
        ),
    },
    "one more term of the loss": {
        PPO: Edit(
            "- config.ent_coef * entropy, metrics", "- config.ent_coef * entropy + log_ratio.mean() ** 2, metrics"
        ),
        RNN: Edit(
            "- config.ent_coef * entropy, metrics", "- config.ent_coef * entropy + log_ratio.mean() ** 2, metrics"
        ),
        DQN: Edit('return loss, {"q_loss"', 'return loss + 0.1 * jnp.square(q).mean(), {"q_loss"'),
        PQN: Edit('return loss, {"q_loss"', 'return loss + 0.1 * jnp.square(q).mean(), {"q_loss"'),
        APG: Edit('return loss, {"policy_loss"', 'return loss + 0.1 * reward.std(), {"policy_loss"'),
    },
    "other exploration": {
        PPO: Edit("distribution.sample(seed=key)", "distribution.sample(seed=jax.random.fold_in(key, 1))"),
        RNN: Edit("distribution.sample(seed=key)", "distribution.sample(seed=jax.random.fold_in(key, 1))"),
        DQN: Edit("jnp.minimum(env_steps / length, 1.0)", "jnp.minimum(env_steps / length, 1.0) ** 2"),
        PQN: Edit("jnp.minimum(env_steps / length, 1.0)", "jnp.minimum(env_steps / length, 1.0) ** 2"),
        APG: Edit("jax.random.normal(key, x.shape)", "jax.random.laplace(key, x.shape)"),
    },
}


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def program(path, script):
    """The whole training as JAX traces it, as text, and the shapes of what it gives."""
    module = load(path)
    train = module.make_train(module.Config(**SMALL[script]))
    closed, shapes = jax.make_jaxpr(train, return_shape=True)(jax.random.key(0))
    return str(closed), shapes


@pytest.fixture(scope="module")
def originals():
    return {script: program(ROOT / script, script) for script in SMALL}


@pytest.mark.parametrize(("name", "script"), [(name, script) for name, each in EDITS.items() for script in each])
def test_an_edit_in_one_place_suffices(name, script, originals, tmp_path):
    """The edited script traces, and to another program; what it carries keeps its shape from update to update."""
    text = (ROOT / script).read_text()
    edit = EDITS[name][script]
    assert text.count(edit.old) == 1, f"{edit.old!r} stands {text.count(edit.old)} times in {script}"
    text = text.replace(edit.old, edit.new)
    banner = "# --- Environment ---"
    if "Halve" in edit.new:
        text = text.replace(banner, HALVE + banner, 1)
    path = tmp_path / f"edited_{Path(script).stem}.py"
    path.write_text(text)
    traced, (state, metrics) = program(path, script)
    assert traced != originals[script][0]
    if name == "one more metric":
        assert set(metrics) == set(originals[script][1][1]) | {"spread"}
    more_weights = "layer" in name or (name == "another head" and script in (DQN, PQN))
    count = lambda state: sum(np.prod(x.shape, dtype=int) for x in jax.tree.leaves(state.params))  # noqa: E731
    assert (count(state) > count(originals[script][1][0])) == more_weights


def test_the_last_edit_is_seen_by_acting_and_by_learning(tmp_path):
    """Bounded logits: the policy that acted and the one that learns from it are one, so the first ratio is 1."""
    edit = EDITS["another head"][RNN]
    path = tmp_path / "bounded_rnn.py"
    path.write_text((ROOT / RNN).read_text().replace(edit.old, edit.new.replace("10 *", "0.1 *")))
    module = load(path)
    config = module.Config(**SMALL[RNN] | {"update_epochs": 1, "num_minibatches": 1, "lr": 0.0})
    _, metrics = jax.jit(module.make_train(config))(jax.random.key(0))
    np.testing.assert_allclose(metrics["approx_kl"], jnp.zeros(4), atol=1e-6)

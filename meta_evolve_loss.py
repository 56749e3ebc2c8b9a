"""Evolves the loss that PPO trains with (Lu et al. 2022, arXiv:2210.05639): thousands of trainings in one JAX program.

    python meta_evolve_loss.py                               # a value loss for CartPole-v1, on two cores in minutes
    python meta_evolve_loss.py --learn policy --start scratch --env-ids CartPole-v1 Acrobot-v1
    python meta_evolve_loss.py evaluate --loss runs/meta_evolve_loss/CartPole-v1/TIME-HASH --env-ids Catch-bsuite

A candidate loss is a small network f inside PPO's loss: policy loss = max(0, f(r, A)) - r A, with the probability ratio
r and the advantage A, or value loss = f(value, target, old value). Its fitness is the return of agents that train with
it from scratch by ppo.py. An evolution strategy of evosax moves the distribution from which candidates are drawn. A
whole generation (draw, train all agents, move) is one update of the pure function `train(key)` of `make_train(config)`.

Shapes: P = population, K = seeds_per_candidate, E = environments, B = samples in a minibatch, F = features.
"""

import functools
import inspect
import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zipfile import BadZipFile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from evosax.algorithms.distribution_based import distribution_based_algorithms
from evosax.core.fitness_shaping import identity_fitness_shaping_fn, weights_fitness_shaping_fn
from flax.traverse_util import flatten_dict, unflatten_dict

import ppo
from ppo import clipped_squared_error, ppo_loss

# Strategies of evosax by name, without those that can't be used here
NOT_CLIMBING = {"CMAAnchoredLES", "GradientlessDescent", "HillClimbing", "LM_MA_ES", "Rm_ES"}  # not even a parabola
COMPARING_GENERATIONS = {"SimulatedAnnealing", "iAMaLGaM_Full", "iAMaLGaM_Univariate"}  # where ranks say nothing
OTHER_ARGUMENTS = {"ESMC", "RandomSearch", "SV_CMA_ES", "SV_Open_ES"}  # or another number of candidates
LEFT_OUT = NOT_CLIMBING | COMPARING_GENERATIONS | OTHER_ARGUMENTS
ALGORITHMS = {name: x for name, x in distribution_based_algorithms.items() if name not in LEFT_OUT}
STRATEGIES = tuple(ALGORITHMS)


# --- Config -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Config(ppo.Config):
    """The settings of the agents, as in ppo.py, and those of the evolution around them."""

    env_id: str = field(init=False)  # not to be set: it follows from env_ids
    env_ids: tuple[str, ...] = ("CartPole-v1",)  # E, where every candidate trains
    total_timesteps: int = 32_768  # env steps of one agent in one environment; cut to whole updates
    learn: Literal["value", "policy", "both"] = "value"  # the terms of the loss that evolve
    start: Literal["handwritten", "scratch"] = "handwritten"  # from PPO's own loss, or from a random network
    loss_hidden_size: int = 16  # width of a loss network's hidden layer
    scaled: bool = False  # value losses see values in units of their targets' spread and not in those of return
    timed: bool = False  # a loss may change over a training: its networks see the share of the training that is done
    population: int = 32  # P, candidate losses per generation
    generations: int = 50  # how often the distribution moves
    seeds_per_candidate: int = 1  # K, agents that train with each candidate in each environment
    fitness: Literal["mean", "final"] = "mean"  # return averaged over training, or over its last 10 %
    fitness_shaping: Literal["rank", "zscore"] = "rank"  # what the strategy sees of it
    strategy: Literal[STRATEGIES] = "Open_ES"  # a distribution-based algorithm of evosax
    std_init: float = 0.1  # spread of the candidates' parameters around their mean
    std_decay: float = 1.0  # its factor per generation, unless the strategy adapts it
    es_lr: float = 0.03  # step size of the strategy's Adam, unless the strategy has steps of its own
    es_lr_decay: float = 1.0  # its factor per generation

    def __post_init__(self):
        for env_id in self.env_ids:
            agent_config(self, env_id)
        object.__setattr__(self, "env_id", "+".join(self.env_ids))
        if self.population < 2:
            raise ValueError("population must be at least 2: a strategy compares candidates with one another")
        make_strategy(self, jnp.zeros(3))

    @property
    def steps_per_update(self):
        """Env steps of all agents of one generation."""
        agents = [agent_config(self, env_id) for env_id in self.env_ids]
        each = sum(agent.num_updates * agent.steps_per_update for agent in agents)
        return self.population * self.seeds_per_candidate * each

    @property
    def num_updates(self):
        return self.generations


def agent_config(config, env_id):
    """The ppo.Config of the agents in one environment."""
    return ppo.Config(**{f.name: getattr(config, f.name) for f in fields(ppo.Config)} | {"env_id": env_id})


# --- Losses -----------------------------------------------------------------------------------------------------------
SMALLEST_RATIO, LARGEST_RATIO = 1e-8, 1e8  # keep the logarithm and the square finite
DEAD_ZONE = 1e-4  # a drift network's output counts from here on, so that there is no drift around ratio 1
SMALLEST_VARIANCE = 1e-12  # of values in a minibatch, in their own units: keeps the division finite
LARGEST_EXPONENT = 6.0  # a learned value loss is 1/400 to 400 times the hand-written one: unbounded, it came to 1e8


class LossSpec(NamedTuple):
    """What a learned loss's parameters mean; saved beside them."""

    learn: str
    start: str
    hidden_size: int
    scaled: bool = False
    timed: bool = False


def loss_spec(config):
    return LossSpec(config.learn, config.start, config.loss_hidden_size, config.scaled, config.timed)


class LossNetwork(nn.Module):
    """(..., F) -> (...), with one hidden layer."""

    spec: LossSpec
    use_bias: bool

    @nn.compact
    def __call__(self, features):
        hidden = nn.tanh(nn.Dense(self.spec.hidden_size, use_bias=self.use_bias)(features))
        # From the hand-written loss on, the output is what to change about it: nothing at first
        last = {"handwritten": nn.initializers.zeros, "scratch": nn.initializers.lecun_normal()}[self.spec.start]
        return nn.Dense(1, use_bias=self.use_bias, kernel_init=last)(hidden).squeeze(-1)


def learned_policy_objective(spec, params, progress):
    """A policy_objective for ppo_loss: -(r A - drift(r, A)), the drift never negative (Lu et al. 2022).

    No biases, and a dead zone: at ratio 1 the drift and its gradient are exactly 0, as mirror learning asks for. From
    the hand-written loss on, the network's output is added to PPO's drift, relu((r - clip(r, 1 - eps, 1 + eps)) A).
    progress: the share of the training that is done, (), seen if timed.
    """
    network = LossNetwork(spec, use_bias=False)

    def policy_objective(ratio, advantage, config):
        features = drift_features(ratio, advantage)
        if spec.timed:  # times the others, so that at ratio 1 all are 0 (but for that as Jackson et al. 2024, TA-LPO)
            features = jnp.concatenate([features, progress * features], axis=-1)
        output = network.apply(params, features)
        if spec.start == "scratch":
            drift = nn.relu(output - DEAD_ZONE)
        else:
            clipped = jnp.clip(ratio, 1.0 - config.clip_eps, 1.0 + config.clip_eps)
            change = output - jnp.clip(output, -DEAD_ZONE, DEAD_ZONE)
            drift = nn.relu(nn.relu((ratio - clipped) * advantage) + change)
        return drift - ratio * advantage

    return policy_objective


def drift_features(ratio, advantage):
    """(B,) each -> (B, 8), all of them 0 at ratio 1 (Lu et al. 2022)."""
    ratio = jnp.clip(ratio, SMALLEST_RATIO, LARGEST_RATIO)
    log_ratio = jnp.log(ratio)
    terms = jnp.stack([1.0 - ratio, (1.0 - ratio) ** 2, log_ratio, log_ratio**2], axis=-1)
    return jnp.concatenate([terms, terms * advantage[..., None]], axis=-1)


def learned_value_objective(spec, params, progress):
    """A value_objective for ppo_loss: the network's output, or the hand-written loss times exp(6 tanh(output)).

    progress: the share of the training that is done, (), seen if timed.
    """
    network = LossNetwork(spec, use_bias=True)

    def value_objective(value, target, old_value, config):
        features = value_features(value, target, old_value)
        if spec.timed:
            features = jnp.concatenate([features, jnp.full_like(features[..., :1], progress)], axis=-1)
        output = network.apply(params, features)
        if spec.start == "scratch":
            return output
        scale = jnp.exp(LARGEST_EXPONENT * nn.tanh(output))
        return scale * clipped_squared_error(value, target, old_value, config)

    return in_units(value_objective) if spec.scaled else value_objective


def value_features(value, target, old_value):
    """(B,) each -> (B, 3): the differences, with arcsinh to keep their sign and tame their size."""
    return jnp.arcsinh(jnp.stack([value - target, value - old_value, target - old_value], axis=-1))


def in_units(value_objective):
    """A value_objective that sees values, (B,) each, in units that do not depend on the rewards' size.

    The unit of a minibatch: sqrt(variance of the targets + mean squared error of the old values). It is above 0 where
    something is to be learned, also where all targets are the same. Clipping, too, is then in these units.
    """

    def scaled(value, target, old_value, config):
        unit = jnp.sqrt(target.var() + jnp.square(target - old_value).mean() + SMALLEST_VARIANCE)
        return value_objective(value / unit, target / unit, old_value / unit, config)

    return scaled


def dpo_objective(ratio, advantage, config, alpha=2.0, beta=0.6):
    """Discovered Policy Optimisation's policy loss per sample, (B,) (Lu et al. 2022)."""
    up = (ratio - 1.0) * advantage
    down = jnp.log(jnp.maximum(ratio, SMALLEST_RATIO)) * advantage
    drift_up = nn.relu(up - alpha * jnp.tanh(up / alpha))
    drift_down = nn.relu(down - beta * jnp.tanh(down / beta))
    return jnp.where(advantage >= 0, drift_up, drift_down) - ratio * advantage


def init_params(spec, key):
    """Parameters of the loss networks: the mean that evolution starts from."""
    value_inputs, policy_inputs = (4, 16) if spec.timed else (3, 8)
    value = LossNetwork(spec, use_bias=True).init(key, jnp.zeros(value_inputs))
    policy = LossNetwork(spec, use_bias=False).init(jax.random.fold_in(key, 1), jnp.zeros(policy_inputs))
    both = {"value": value, "policy": policy}
    return {"value": {"value": value}, "policy": {"policy": policy}, "both": both}[spec.learn]


def learned_objectives(spec, params, progress=0.0):
    """The objectives to hand to a loss, by argument name."""
    makers = {"value": learned_value_objective, "policy": learned_policy_objective}
    return {f"{term}_objective": make(spec, params[term], progress) for term, make in makers.items() if term in params}


def handwritten_loss(spec):
    """PPO's own loss; if scaled, of values in the units that a learned loss sees them in."""
    return functools.partial(ppo_loss, value_objective=in_units(clipped_squared_error)) if spec.scaled else ppo_loss


LOSSES = {  # (spec, params, progress) -> a loss_fn for ppo.make_train
    "learned": lambda spec, *args: functools.partial(handwritten_loss(spec), **learned_objectives(spec, *args)),
    "hand-written": lambda spec, *args: handwritten_loss(spec),
    "DPO": lambda spec, *args: functools.partial(handwritten_loss(spec), policy_objective=dpo_objective),
}
# What the hand-written loss is tuned over before a learned one is compared with it
TUNING = {
    "value": {"vf_coef": (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4)},
    "policy": {"clip_eps": (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2)},
    "both": {"vf_coef": (0.5, 0.1, 0.02, 5e-3, 1e-3, 2e-4), "clip_eps": (0.1, 0.2, 0.3, 0.5, 0.8)},
}


# --- Evolution --------------------------------------------------------------------------------------------------------
class EvolveState(NamedTuple):
    """Everything that one generation hands to the next; exactly what a checkpoint holds."""

    es_state: Any  # the strategy's own: mean, spread, optimizer
    first: Any  # parameters of the loss that evolution began with
    baseline: jax.Array  # (E, BASELINE_SEEDS), returns with the hand-written loss
    generation: jax.Array  # generations done so far
    key: jax.Array


SMALLEST_UNIT = 1e-3  # of return, where the hand-written loss gets nothing but zeros
BASELINE_SEEDS = 64  # enough for a standard error of 2 % on CartPole-v1
OUTCOMES = ("mean_over_training", "final_return")


def evolved_outcome(config):
    """The one of OUTCOMES that is the fitness."""
    return dict(mean=OUTCOMES[0], final=OUTCOMES[1])[config.fitness]


def make_agent(config, env_id, loss):
    """Returns agent(params, floats, key) -> outcomes (2,) of one training from scratch with one of LOSSES.

    floats: {field of ppo.Config: value} to change. Outcomes are NaN if a parameter or every return is.
    """
    settings, spec = agent_config(config, env_id), loss_spec(config)

    def agent(params, floats, key):
        train = make_agent_train(replace(settings, **floats), spec, functools.partial(LOSSES[loss], spec, params))
        state, metrics = train(key)
        returns = metrics["episode_return"]  # NaN before the first episode's end
        finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(state.params)]).all()
        first = len(returns) - max(1, len(returns) // 10)  # of the last tenth
        final = mean_of_episodes(returns[first:], metrics["episode_count"][first:])
        outcomes = jnp.stack([jnp.nanmean(returns), final])
        return jnp.where(finite, outcomes, jnp.nan)

    return agent


def make_agent_train(config, spec, loss_at):
    """ppo.make_train(config) with the loss_fn loss_at(progress); if the loss is timed, with another in each update.

    Returns train(key, state=None, num_updates=config.num_updates) -> (state, metrics), as ppo.make_train.
    """
    if not spec.timed:
        return ppo.make_train(config, loss_at(0.0))

    def update(state, _):
        train = ppo.make_train(config, loss_at(state.num_updates / config.num_updates))
        state, metrics = train(None, state, num_updates=1)
        return state, jax.tree.map(lambda x: x[0], metrics)

    def train(key, state=None, num_updates=config.num_updates):
        state = ppo.make_train(config)(key, num_updates=0)[0] if state is None else state
        return jax.lax.scan(update, state, None, length=num_updates)

    return train


def mean_of_episodes(returns, counts):
    """Mean over episodes, from the mean return of each update (U,) and its counts (U,); of none, the last known one."""
    known = jnp.where(counts > 0, returns, 0.0)  # NaN before the first episode's end
    return ppo.mean_of_ended(known, counts, returns[-1])


def make_strategy(config, solution):
    """Returns an evosax strategy over trees like solution, and its params, with settings that move at this scale.

    evosax's defaults (a spread of 1.0, steps of 1e-3) do not learn here. Strategies that weigh candidates by rank, and
    LES and EvoTF_ES, have steps of their own; the others get Adam, and the fitness as shape_fitness leaves it. evosax
    lets the spread follow its schedule one generation late.
    """

    def decaying(first, decay):  # optax.exponential_decay asks whether decay is 0, which a traced one can't tell
        return lambda generation: first * decay ** jnp.float32(generation)

    algorithm = ALGORITHMS[config.strategy]
    accepted = inspect.signature(algorithm.__init__).parameters
    options = {}
    if not weighs_ranks(config.strategy):
        options = {
            "fitness_shaping_fn": identity_fitness_shaping_fn,
            "optimizer": optax.adam(decaying(config.es_lr, config.es_lr_decay)),
            "std_schedule": decaying(config.std_init, config.std_decay),
        }
    elif config.fitness_shaping != "rank":
        raise ValueError(f"fitness_shaping must be rank for {config.strategy}, which weighs candidates by rank itself")
    try:
        strategy = algorithm(config.population, solution, **{k: v for k, v in options.items() if k in accepted})
    except AssertionError as error:  # evosax: Open_ES and others draw candidates in pairs
        raise ValueError(
            f"population = {config.population} does not suit {config.strategy} ({error}): use {config.population + 1}"
        ) from error
    params = strategy.default_params
    return strategy, params.replace(std_init=config.std_init) if hasattr(params, "std_init") else params


def weighs_ranks(strategy):
    """Whether a strategy, by name, weighs candidates by their rank itself: it can't weigh ranks that some share."""
    arguments = inspect.signature(ALGORITHMS[strategy].__init__).parameters
    return arguments["fitness_shaping_fn"].default is weights_fitness_shaping_fn


def shape_fitness(fitness, how, key=None):
    """(P,) fitness, the higher the better, NaN worst of all -> (P,) cost, the lower the better, as evosax wants it.

    rank: evenly spaced in [-0.5, 0.5]; equals share the mean of their ranks, or with a key are ordered by lot.
    zscore: in standard deviations from the mean; those that failed count as the lowest.
    """
    failed = ~jnp.isfinite(fitness)
    cost = jnp.where(failed, jnp.inf, -fitness)
    if how == "rank" and key is not None:
        order = jnp.lexsort((jax.random.uniform(key, fitness.shape), cost))
        rank = jnp.zeros_like(fitness).at[order].set(jnp.arange(len(fitness)))
    elif how == "rank":
        lower, equal = (cost < cost[:, None]).sum(axis=1), (cost == cost[:, None]).sum(axis=1)
        rank = lower + (equal - 1) / 2
    else:
        lowest = jnp.min(fitness, initial=jnp.inf, where=~failed)
        return -jax.nn.standardize(jnp.where(failed, lowest, fitness), epsilon=1e-8)
    return rank / (len(fitness) - 1) - 0.5


def shape_returns(returns, how, key=None):
    """(P, E) returns of candidates -> (P,) cost: by shape_fitness in each environment, averaged, and shaped again.

    So each environment has one vote, whatever its returns' size. A candidate that fails in one has failed.
    """
    if returns.shape[1] == 1:
        return shape_fitness(returns[:, 0], how, key)
    whole = jnp.isfinite(returns).all(axis=1, keepdims=True)
    votes = [-shape_fitness(x, how) for x in jnp.where(whole, returns, jnp.nan).T]
    return shape_fitness(jnp.where(whole[:, 0], sum(votes) / len(votes), jnp.nan), how, key)


def relative_return(returns, baseline):
    """Returns (..., E) on a scale on which the hand-written loss is at 1 in every environment, and higher is better.

    baseline: (E, seeds). The unit is the size of its mean, or its spread where the mean is nearly 0: so environments
    weigh by how far their baseline is from 0, and less where all returns have a large constant in common.
    """
    mean, std = jnp.nanmean(baseline, axis=1), jnp.nanstd(baseline, axis=1)
    return 1.0 + (returns - mean) / jnp.maximum(jnp.maximum(jnp.abs(mean), std), SMALLEST_UNIT)


def make_train(config, spread=jax.vmap):
    """Returns train(key, state=None, num_updates=config.num_updates) -> (state, metrics): pure, made for jit.

    An update is a generation. metrics: a dict of scalars per generation, without env_steps, which can pass 2**31.
    From a given state evolution goes on and key is not used.
    spread(function) maps a function over the leading axis of its arguments, as vmap does; another one can use more
    devices, or less memory.
    """
    strategy, strategy_params = make_strategy(config, init_params(loss_spec(config), jax.random.key(0)))
    outcome = OUTCOMES.index(evolved_outcome(config))

    def train_agents(loss, params, keys):
        """params: a tree with leading axis M, keys: (M,) -> returns (M, E)."""
        agents = [make_agent(config, env_id, loss) for env_id in config.env_ids]
        return jnp.stack([spread(agent)(params, {}, keys)[:, outcome] for agent in agents], axis=1)

    def init(key):
        key, params_key, strategy_key, baseline_key = jax.random.split(key, 4)
        first = init_params(loss_spec(config), params_key)
        return EvolveState(
            es_state=strategy.init(strategy_key, first, strategy_params),
            first=first,
            baseline=train_agents("hand-written", {}, jax.random.split(baseline_key, BASELINE_SEEDS)).T,
            generation=jnp.int32(0),
            key=key,
        )

    def generation(state, _):
        key, ask_key, train_key, tie_key, tell_key = jax.random.split(state.key, 5)
        candidates, es_state = strategy.ask(ask_key, state.es_state, strategy_params)

        # Every candidate meets the same K agents: what differs between their returns is the loss
        count = config.seeds_per_candidate
        params = jax.tree.map(lambda x: jnp.repeat(x, count, axis=0), candidates)  # (P, ...) -> (P * K, ...)
        keys = jax.random.split(train_key, count)[jnp.arange(config.population * count) % count]
        returns = train_agents("learned", params, keys).reshape(config.population, count, -1).mean(axis=1)  # (P, E)
        several = len(config.env_ids) > 1
        fitness = (relative_return(returns, state.baseline) if several else returns).mean(axis=1)

        cost = shape_returns(returns, config.fitness_shaping, tie_key if weighs_ranks(config.strategy) else None)
        moved, _ = strategy.tell(tell_key, candidates, cost, es_state, strategy_params)
        failed = ~jnp.isfinite(fitness)
        known = jnp.where(failed, -jnp.inf, fitness)
        plateau = (known == known[0]).all()  # candidates that are all alike, or have all failed, say nothing
        es_state = jax.tree.map(lambda new, old: jnp.where(plateau, old, new), moved, es_state)
        metrics = {
            "fitness_mean": jnp.mean(fitness, where=~failed),
            "fitness_std": jnp.std(fitness, where=~failed),
            "fitness_best": jnp.max(fitness, initial=-jnp.inf, where=~failed),
            "nan_candidates": failed.sum(),
        }
        if several:
            each = jnp.mean(returns, axis=0, where=~failed[:, None])
            metrics |= {f"return_{env_id}": each[i] for i, env_id in enumerate(config.env_ids)}
        return state._replace(es_state=es_state, generation=state.generation + 1, key=key), metrics

    def train(key, state=None, num_updates=config.num_updates):
        with jax.enable_x64(False):  # gymnax's environments would mix 32 and 64 bits
            state = init(key) if state is None else state
            return jax.lax.scan(generation, state, None, length=num_updates)

    return train


def mean_params(config, state):
    """The mean of the strategy's distribution: what evolution has found. Its luckiest candidate says less."""
    return make_strategy(config, state.first)[0].get_mean(state.es_state)


# --- Presets ----------------------------------------------------------------------------------------------------------
PRESETS = {
    "cpu": {},  # the defaults above
    # Lu 2023, "Achieving 4000x Speedups and Meta-Evolving Discoveries with PureJaxRL": 512 agents, 1024 generations,
    # over 1e11 frames in all, which is some 190,000 for an agent; the strategy's settings are those of the preset cpu
    "purejaxrl": {"population": 512, "generations": 1024, "total_timesteps": 190_976},
    # Lu et al. 2022 (arXiv:2210.05639): drift network and OpenES; population, generations and agents are not theirs
    "lpo": dict(
        learn="policy", start="scratch", loss_hidden_size=128, population=64, generations=512, fitness="final",
        std_init=0.04, std_decay=0.999, es_lr=0.01,
    ),
}  # fmt: skip


# --- Files ------------------------------------------------------------------------------------------------------------
class LearnedLoss(NamedTuple):
    """What a learned_loss.npz holds."""

    spec: LossSpec
    learned: Any  # parameters of the loss that evolution found
    first: Any  # parameters of the loss that evolution began with
    config: dict  # of the evolution


def save_loss(path, config, learned, first):
    """Writes a learned loss to an .npz file: plain arrays, and the settings as JSON."""
    arrays = {"/".join(k): np.asarray(v) for k, v in flatten_dict({"learned": learned, "first": first}).items()}
    settings = {"config": asdict(config), "spec": loss_spec(config)._asdict()}
    settings = json.dumps(settings, default=lambda number: number.item())  # NumPy's and JAX's numbers
    with open(path, "wb") as file:  # np.savez would change the name of a path without .npz
        np.savez(file, settings=settings, **arrays)


def read_loss(path):
    """Reads a LearnedLoss from an .npz file, or from the run directory that holds it; raises ValueError if it can't."""
    path = Path(path) / "learned_loss.npz" if Path(path).is_dir() else Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        settings = json.loads(str(arrays.pop("settings")))
        spec, config = LossSpec(**settings["spec"]), dict(settings["config"])
        found = unflatten_dict({tuple(k.split("/")): v for k, v in arrays.items()})
        expected = jax.eval_shape(functools.partial(init_params, spec), jax.random.key(0))
        shapes = [jax.tree.map(lambda x: (x.shape, x.dtype.name), tree) for tree in (found, expected)]
    except FileNotFoundError:
        raise ValueError(f"there is no learned loss at {path}: give a run directory or its learned_loss.npz") from None
    except (OSError, EOFError, LookupError, TypeError, ValueError, AttributeError, RuntimeError, BadZipFile) as error:
        raise ValueError(f"{path} is no whole learned loss ({type(error).__name__}): give another file") from error
    whole = shapes[0] == {"learned": shapes[1], "first": shapes[1]}
    if not whole or not all(np.isfinite(x).all() for x in arrays.values()):
        raise ValueError(f"{path} holds arrays that do not belong to a loss of {spec}: give another file")
    found = jax.tree.map(jnp.asarray, found)
    return LearnedLoss(spec, found["learned"], found["first"], config)


def load_loss(path):
    """The loss_fn for ppo.make_train in a run directory or .npz file. Raises ValueError if it is damaged, or timed."""
    found = read_loss(path)
    if found.spec.timed:
        raise ValueError(f"the loss of {path} changes over a training: use load_train(path, config)")
    return LOSSES["learned"](found.spec, found.learned)


def load_train(path, config):
    """ppo.make_train(config) with the loss in a run directory or .npz file. Raises ValueError if it is damaged."""
    found = read_loss(path)
    return make_agent_train(config, found.spec, functools.partial(LOSSES["learned"], found.spec, found.learned))


if __name__ == "__main__":
    import sys

    from runner import main
    from runner.evolution import Evolution

    main(__file__, Config, ppo.make_env, make_train, kind=Evolution(sys.modules[__name__]))

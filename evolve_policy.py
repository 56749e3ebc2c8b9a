"""Policies by evolution, without gradients (Salimans et al. 2017, arXiv:1703.03864), in one file and one JAX program.

    python evolve_policy.py                                        # 16 evolutions of a policy for Pendulum-v1
    python evolve_policy.py --env-id CartPole-v1 --strategy SNES --sweep "std_init=0.3,1,2" --num-seeds 4

A candidate is a policy's weights theta, drawn from a distribution. Its fitness is F(theta) = mean return of E episodes.
A strategy of evosax moves the distribution to where F is high. One generation (draw, play, move) is one update of the
pure function `train(key)` made by `make_train(config)`: `jit` it for one evolution, `vmap` it over keys for many seeds,
or over any float field of Config for a grid. A field of Config is a flag, a key of metrics a column of metrics.csv.

Shapes: P = population, E = episodes_per_candidate, D = flattened observation, A = actions, or their dimensions.
"""

import ast
import functools
import inspect
import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import gymnax
import jax
import jax.numpy as jnp
import optax
from evosax.algorithms.distribution_based import distribution_based_algorithms
from evosax.algorithms.population_based import population_based_algorithms
from evosax.core.fitness_shaping import identity_fitness_shaping_fn, weights_fitness_shaping_fn
from flax.linen.initializers import orthogonal
from gymnax.environments import spaces
from gymnax.wrappers.purerl import FlattenObservationWrapper, LogWrapper
from jax.flatten_util import ravel_pytree

GENETIC = ("SimpleGA", "MR15_GA", "SAMR_GA")  # without a distribution: state.params is the best of the population
# Strategies of evosax by name, without those that can't be used here
NOT_CLIMBING = {"CMAAnchoredLES", "GradientlessDescent", "HillClimbing", "LM_MA_ES", "Rm_ES"}  # not even a parabola
COMPARING_GENERATIONS = {"SimulatedAnnealing", "iAMaLGaM_Full", "iAMaLGaM_Univariate"}  # where ranks say nothing
OTHER_ARGUMENTS = {"ESMC", "RandomSearch", "SV_CMA_ES", "SV_Open_ES"}  # or another number of candidates
LEFT_OUT = NOT_CLIMBING | COMPARING_GENERATIONS | OTHER_ARGUMENTS
ALGORITHMS = {name: x for name, x in distribution_based_algorithms.items() if name not in LEFT_OUT}
ALGORITHMS |= {name: population_based_algorithms[name] for name in GENETIC}
STRATEGIES = tuple(ALGORITHMS)


# --- Config -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Config:
    """Every field is a flag. Floats may be traced arrays, all else is static. Chosen on Pendulum-v1."""

    env_id: str = "Pendulum-v1"  # any gymnax environment with Box observations and Discrete or Box actions
    env_params: str = ""  # changes to the environment's own parameters, as in "gravity=20,max_steps_in_episode=200"
    generations: int = 60  # how often the distribution moves
    population: int = 64  # P, candidates per generation
    episodes_per_candidate: int = 16  # E, whole episodes over which a candidate's return is averaged
    strategy: Literal[STRATEGIES] = "Open_ES"  # a strategy of evosax
    std_init: float = 0.6  # spread of the candidates' weights around their mean
    std_decay: float = 1.0  # its factor per generation, unless the strategy adapts it
    es_lr: float = 0.4  # step size of the strategy's Adam, unless the strategy has steps of its own
    es_lr_decay: float = 1.0  # its factor per generation
    fitness_shaping: Literal["rank", "zscore"] = "rank"  # what the strategy sees of the fitness
    network: Literal["mlp", "cnn", "gru"] = "mlp"  # cnn: a 3x3 convolution first, for images; gru: a memory
    hidden_size: int = 48  # width of the hidden layer, or of the memory
    sample_actions: bool = False  # candidates draw their actions at random, else they take the best one
    normalize_obs: bool = True  # by running mean and variance of what all candidates saw (Salimans et al. 2017)

    def __post_init__(self):
        for field in fields(self):
            if field.type in (int, bool) and isinstance(getattr(self, field.name), jax.core.Tracer):
                raise TypeError(f"{field.name} shapes the program, so vmap can't vary it: train once for each value")
        if self.strategy not in ALGORITHMS:
            raise ValueError(f"strategy {self.strategy!r} can't be used: use one of {', '.join(STRATEGIES)}")
        if self.population < 2:
            raise ValueError("population must be at least 2: a strategy compares candidates with one another")
        make_strategy(self, jnp.zeros(3))

    @property
    def steps_per_update(self):
        """Env steps of one generation, if all episodes last as long as they may."""
        return self.population * self.episodes_per_candidate * episode_limit(self)

    @property
    def num_updates(self):
        return self.generations


# --- Algorithm --------------------------------------------------------------------------------------------------------
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


class RunningStats(NamedTuple):
    mean: jax.Array
    var: jax.Array
    count: jax.Array


def init_stats(shape):
    return RunningStats(jnp.zeros(shape), jnp.ones(shape), jnp.float32(1e-4))  # 1e-4: as gymnasium's RunningMeanStd


def add_sums(stats, sums, count):
    """Running mean m and variance (D,) after count more samples, from their sums of x - m and (x - m)**2, (D,) each.

    With N samples in all, m' = m + sum (x - m) / N, and N var' = sum (x - m)**2 - N (m' - m)**2 over all N of them.
    """
    total = stats.count + count
    shift = sums[0] / total
    return RunningStats(stats.mean + shift, (stats.var * stats.count + sums[1]) / total - shift**2, total)


def normalize(obs, stats):
    """Observation in units of its running std, clipped to +-10 (C6, C7)."""
    return jnp.clip((obs - stats.mean) / jnp.sqrt(stats.var + 1e-8), -10.0, 10.0)


# --- Network ----------------------------------------------------------------------------------------------------------
class Convolution(nn.Module):
    """(..., D) -> (..., F): 16 filters and relu, over the image that D was (Young & Tian 2019, MinAtar: of 3x3).
    A dense layer over patches: under vmap that stays a matrix product, ten times as fast on a CPU as nn.Conv would be.
    """

    image_shape: tuple[int, int, int]  # height, width, channels
    kernel_size: int = 3

    @nn.compact
    def __call__(self, obs):
        (height, width, _), at = self.image_shape, range(self.kernel_size)
        image = obs.reshape(*obs.shape[:-1], *self.image_shape)
        patches = [image[..., i : height - at[-1] + i, j : width - at[-1] + j, :] for i in at for j in at]
        filters = nn.Dense(16, kernel_init=orthogonal(math.sqrt(2)))
        return nn.relu(filters(jnp.concatenate(patches, axis=-1))).reshape(*obs.shape[:-1], -1)


class PolicyNetwork(nn.Module):
    """memory, obs (..., D) -> memory, output (..., A): logits, or a place in the box before tanh; and its log std."""

    num_outputs: int
    hidden_size: int
    recurrent: bool = False
    gaussian: bool = False  # with a std to evolve, of actions in a box that are drawn at random
    image_shape: tuple[int, int, int] | None = None  # a convolution comes first if given

    @nn.compact
    def __call__(self, memory, obs):
        x = Convolution(self.image_shape)(obs) if self.image_shape else obs
        if self.recurrent:
            memory, x = nn.GRUCell(self.hidden_size)(memory, x)
        else:
            x = nn.tanh(nn.Dense(self.hidden_size)(x))
        log_std = self.param("log_std", nn.initializers.zeros, (self.num_outputs,)) if self.gaussian else -jnp.inf
        return memory, nn.Dense(self.num_outputs)(x), log_std


def make_network(config):
    env, env_params = make_env(config.env_id, config.env_params)
    space = env.action_space(env_params)
    box = isinstance(space, spaces.Box)
    shape = env._env._env.observation_space(env_params).shape  # inside LogWrapper and FlattenObservationWrapper
    image = {"mlp": None, "cnn": shape, "gru": None}[config.network]
    num_outputs = math.prod(space.shape) if box else space.n
    return PolicyNetwork(num_outputs, config.hidden_size, config.network == "gru", box and config.sample_actions, image)


# --- Training ---------------------------------------------------------------------------------------------------------
BLOCKS = 8  # of an episode's steps; after each, candidates whose episodes have all ended may end the generation


class TrainState(NamedTuple):
    """Everything that one generation hands to the next; exactly what a checkpoint holds."""

    params: Any  # the mean of the distribution; of a genetic algorithm, the best of the last population
    es_state: Any  # the strategy's own: spread, optimizer, or population
    obs_stats: RunningStats  # of observations (D,), used and updated if normalize_obs
    generation: jax.Array  # generations done so far
    env_steps: jax.Array  # of all candidates so far; a float, for they may pass 2**31: exact up to 2**24
    key: jax.Array


class Episodes(NamedTuple):
    """E episodes of one candidate. After its end each goes on, but nothing of it counts any more."""

    env_state: Any
    obs: jax.Array  # (E, D)
    memory: Any
    done: jax.Array  # (E,)
    total: jax.Array  # (E,), return so far
    length: jax.Array  # (E,)
    sums: tuple  # (E, D) each, of observations less their running mean, and of the squares; 0 unless normalize_obs


def make_policy(config, network_fn=make_network):
    """Returns (init_carry, act), used alike in evolution, evaluation and rendering.

    init_carry(num_envs) is the policy's memory at an episode's start.
    act(state, carry, obs (..., D), key, greedy) -> (carry, action (...) or (..., A)); state needs params and obs_stats;
    greedy, a bool or a traced one, takes the best action also where sample_actions is set.
    """
    network = network_fn(config)
    env, env_params = make_env(config.env_id, config.env_params)
    space = env.action_space(env_params)

    def init_carry(num_envs):
        return jnp.zeros((num_envs, config.hidden_size)) if config.network == "gru" else ()

    def act(state, carry, obs, key, greedy):
        obs = normalize(obs, state.obs_stats) if config.normalize_obs else obs.astype(jnp.float32)
        carry, output, log_std = network.apply(state.params, carry, obs)
        sampled = config.sample_actions & ~jnp.bool_(greedy)
        if isinstance(space, spaces.Discrete):
            noise = jnp.where(sampled, jax.random.gumbel(key, output.shape), 0.0)  # the largest is a draw of softmax
            return carry, jnp.argmax(output + noise, axis=-1)
        output += jnp.where(sampled, jnp.exp(log_std) * jax.random.normal(key, output.shape), 0.0)
        low, high = (jnp.nan_to_num(x, posinf=1.0, neginf=-1.0) for x in (space.low, space.high))  # a box may be open
        return carry, low + (high - low) * (0.5 + 0.5 * nn.tanh(output))

    return init_carry, act


def make_train(config, spread=jax.vmap, network_fn=make_network):
    """Returns train(key, state=None, num_updates=config.num_updates) -> (state, metrics): pure, made for jit and vmap.

    An update is a generation. metrics: a dict of scalars per generation, each (num_updates,). From a given state
    evolution goes on and key is not used.
    spread(function) maps a function over the leading axis of its arguments, as vmap does; another one can use more
    devices, or less memory. network_fn(config) -> a flax module, see PolicyNetwork.
    """
    env, env_params = make_env(config.env_id, config.env_params)
    init_carry, act = make_policy(config, network_fn)
    limit, count, genetic = episode_limit(config), config.episodes_per_candidate, config.strategy in GENETIC
    shape = jax.eval_shape(env.reset, jax.random.key(0), env_params)[0].shape

    def init_params(key):
        return network_fn(config).init(key, init_carry(1), jnp.zeros((1, *shape)))

    solution = jax.tree.map(lambda x: jnp.zeros(x.shape), jax.eval_shape(init_params, jax.random.key(0)))
    strategy, strategy_params = make_strategy(config, solution)

    def init(key):
        key, params_key, strategy_key = jax.random.split(key, 3)
        params = init_params(params_key)
        alike = jax.tree.map(lambda x: jnp.broadcast_to(x, (config.population, *x.shape)), params)
        start = (alike, jnp.zeros(config.population)) if genetic else (params,)
        es_state = strategy.init(strategy_key, *start, strategy_params)
        return TrainState(params, es_state, init_stats(shape), jnp.int32(0), jnp.float32(0.0), key)

    def first_episodes(key):
        obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(key, count), env_params)
        zeros, sums = jnp.zeros(count), 2 * (jnp.zeros(obs.shape),)
        return Episodes(env_state, obs, init_carry(count), zeros > 0, zeros, zeros.astype(jnp.int32), sums)

    def step(state, episodes, key):
        """One step of the E episodes of one candidate, whose weights are state.params."""
        act_key, env_key = jax.random.split(key)
        memory, action = act(state, episodes.memory, episodes.obs, act_key, greedy=False)
        obs, env_state, reward, terminated, truncated, _ = jax.vmap(env.step, (0, 0, 0, None))(
            jax.random.split(env_key, count), episodes.env_state, action, env_params
        )
        counts, sums = ~episodes.done, episodes.sums
        if config.normalize_obs:
            seen = jnp.where(counts[:, None], episodes.obs - state.obs_stats.mean, 0.0)
            sums = (sums[0] + seen, sums[1] + jnp.square(seen))
        total = episodes.total + jnp.where(counts, reward, 0.0)
        done = episodes.done | terminated | truncated
        return Episodes(env_state, obs, memory, done, total, episodes.length + counts, sums)

    def go_on(state, keys, params, episodes):
        """The episodes of one candidate, params, after a step for each of the keys."""
        state = state._replace(params=params)
        return jax.lax.scan(lambda episodes, key: (step(state, episodes, key), None), episodes, keys)[0]

    def unfinished(loop):
        return (loop[0] < limit) & ~loop[1].done.all()

    def block(state, params, step_key, loop):
        """An eighth of the longest episode, for all candidates."""
        time, episodes = loop
        keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, time + jnp.arange(-(-limit // BLOCKS)))
        return time + len(keys), spread(functools.partial(go_on, state, keys))(params, episodes)

    def play(state, params, key):
        """Plays E episodes of each candidate, params with a leading axis: alike in their first states and in luck."""
        reset_key, step_key = jax.random.split(key)
        size = len(jax.tree.leaves(params)[0])
        start = jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *x.shape)), first_episodes(reset_key))
        return jax.lax.while_loop(unfinished, functools.partial(block, state, params, step_key), (jnp.int32(0), start))[
            1
        ]

    def generation(state, _):
        key, ask_key, play_key, tie_key, tell_key = jax.random.split(state.key, 5)
        candidates, es_state = strategy.ask(ask_key, with_centre(state, genetic), strategy_params)
        # The mean plays beside its candidates. Its episodes say how good it is, and move nothing
        both = jax.tree.map(lambda x, mean: jnp.concatenate([x, mean[None]]), candidates, state.params)
        episodes = play(state, both, play_key)
        weights = jax.vmap(lambda x: ravel_pytree(x)[0])(candidates)  # (P, number of weights)
        fitness = jnp.where(jnp.isfinite(weights).all(axis=1), episodes.total[:-1].mean(axis=1), jnp.nan)
        failed = ~jnp.isfinite(fitness)

        cost = shape_fitness(fitness, config.fitness_shaping, tie_key if weighs_ranks(config.strategy) else None)
        moved, _ = strategy.tell(tell_key, candidates, cost, es_state, strategy_params)
        best = jax.tree.map(lambda x: x[jnp.argmin(cost)], candidates)
        centre = best if genetic else strategy.get_mean(moved)
        known = jnp.where(failed, -jnp.inf, fitness)
        plateau = (known == known[0]).all()  # candidates that are all alike, or have all failed, say nothing
        es_state, params = jax.tree.map(
            lambda new, old: jnp.where(plateau, old, new), (moved, centre), (es_state, state.params)
        )
        obs_stats = state.obs_stats
        if config.normalize_obs:
            obs_stats = add_sums(obs_stats, [x.sum(axis=(0, 1)) for x in episodes.sums], episodes.length.sum())
        env_steps = state.env_steps + episodes.length[:-1].sum()
        metrics = {
            "episode_return": episodes.total[-1].mean(),  # of the mean that the candidates were drawn around
            "episode_length": episodes.length[-1].mean(),
            "episode_count": jnp.int32(config.episodes_per_candidate),
            "env_steps": env_steps,
            "fitness_mean": jnp.mean(fitness, where=~failed),
            "fitness_std": jnp.std(fitness, where=~failed),
            "fitness_best": jnp.max(fitness, initial=-jnp.inf, where=~failed),
            "nan_candidates": failed.sum(),
            "spread": jnp.sqrt(jnp.var(weights, axis=0).mean()),
        }
        return TrainState(params, es_state, obs_stats, state.generation + 1, env_steps, key), metrics

    def train(key, state=None, num_updates=config.num_updates):
        with jax.enable_x64(False):  # gymnax's environments would mix 32 and 64 bits
            state = init(key) if state is None else state
            return jax.lax.scan(generation, state, None, length=num_updates)

    return train


def with_centre(state, genetic):
    """The strategy's state, around state.params: where it is already, unless they were put in from another run."""
    if not genetic:
        return state.es_state.replace(mean=ravel_pytree(state.params)[0])
    population = jnp.where(state.generation == 0, ravel_pytree(state.params)[0], state.es_state.population)
    return state.es_state.replace(population=population)


# --- Environment ------------------------------------------------------------------------------------------------------
MAX_STEPS = 10_000  # of an episode, in environments that name no time limit of their own


def episode_limit(config):
    return min(getattr(make_env(config.env_id, config.env_params)[1], "max_steps_in_episode", MAX_STEPS), MAX_STEPS)


@functools.cache  # gymnax environments compare by identity: a second instance would compile everything again
def make_env(env_id, changes=""):
    """Returns (env, env_params) with observations flattened to (D,) and episode returns logged in `info`."""
    with jax.ensure_compile_time_eval():  # the cache must not keep a tracer where the first call is inside a jit
        env, env_params = gymnax.make(env_id)
    for name, text in (change.split("=") for change in changes.split(",") if change):
        name, kind = name.strip(), type(getattr(env_params, name.strip()))
        env_params = replace(env_params, **{name: kind(ast.literal_eval(text.strip().capitalize()))})  # "true" is True
    action_space = env.action_space(env_params)
    if not isinstance(action_space, (spaces.Discrete, spaces.Box)):
        raise ValueError(f"env_id {env_id!r} acts in {action_space}, and only one Discrete or a Box is known here")
    return LogWrapper(FlattenObservationWrapper(env)), env_params


if __name__ == "__main__":
    from runner import main

    main(__file__, Config, make_env, make_train, make_policy)

"""Evaluation of final policies: whole episodes, greedy and sampled, jitted; after training, or of a saved run."""

import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from environments.resets import with_whole_episodes
from runner.loop import hosts
from runner.loop.checkpoint import from_words, to_words
from runner.loop.devices import Layout, make_mesh, use_compile_cache, without_cache_chatter
from runner.loop.record import write_json
from runner.loop.saved import batch_states
from runner.plan.errors import UsageError
from runner.report import summary

EVALUATION = 2**31 - 1  # folded into a member's key, so that evaluation repeats nothing of training
MAX_STEPS = 10_000  # for environments that name no time limit of their own
LONGEST = 100_000  # for those that name one that nobody could wait for: within the loop Ctrl-C is not heard


class Loop(NamedTuple):
    """What one step of all episodes hands to the next."""

    time: jax.Array
    key: jax.Array
    env_state: Any
    obs: jax.Array
    carry: Any  # the policy's memory
    done: jax.Array  # (episodes,), whether each environment's first episode has ended
    returns: jax.Array  # (episodes,), NaN until then


def make_evaluate(script, config, episodes):
    """Returns evaluate(state, key, greedy) -> returns (episodes,), of one member's policy, statistics frozen."""
    env, env_params = script.make_env(config.env_id, config.env_params)
    env_params = with_whole_episodes(env_params)
    init_carry, act = script.make_policy(config)
    limit = min(getattr(env_params, "max_steps_in_episode", MAX_STEPS), LONGEST)

    def unfinished(loop):
        return (loop.time <= limit) & ~loop.done.all()

    def step(state, greedy, loop):
        key, action_key, env_key = jax.random.split(loop.key, 3)
        carry, action = act(state, loop.carry, loop.obs, action_key, greedy)
        obs, env_state, _, terminated, truncated, info = jax.vmap(env.step, (0, 0, 0, None))(
            jax.random.split(env_key, episodes), loop.env_state, action, env_params
        )
        ends = (terminated | truncated) & ~loop.done
        returns = jnp.where(ends, info["returned_episode_returns"], loop.returns)
        return Loop(loop.time + 1, key, env_state, obs, carry, loop.done | ends, returns)

    def evaluate(state, key, greedy):
        key, reset_key = jax.random.split(key)
        obs, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(reset_key, episodes), env_params)
        done, returns = jnp.zeros(episodes, bool), jnp.full(episodes, jnp.nan)
        start = Loop(jnp.int32(0), key, env_state, obs, init_carry(episodes), done, returns)
        return jax.lax.while_loop(unfinished, functools.partial(step, state, greedy), start).returns

    return evaluate


@functools.cache
def evaluate_all(script, config, changes, episodes, layout):
    """Returns a jitted (states, floats, seeds) -> returns (members, 2 (greedy, sampled), episodes).

    changes: pairs of a Config field and its value, in which the evaluation differs from the training.
    """

    def evaluate_one(state, floats, seed):
        play = make_evaluate(script, dataclasses.replace(config, **floats | dict(changes)), episodes)
        key = jax.random.fold_in(jax.random.key(seed), EVALUATION)
        return jax.vmap(play, (None, None, 0))(state, key, jnp.array([True, False]))  # greedy, sampled

    return layout.jit(jax.vmap(evaluate_one))


class Evaluated(NamedTuple):
    """What a batch's policies got, on the host."""

    returns: np.ndarray  # (members, 2 (greedy, sampled), episodes), NaN where an episode did not end
    seconds: float


def evaluate(plan, layout, batch, state, episodes, changes=(), first_seed=None):
    """Evaluates the final policies of a batch, whose states lie on the devices; returns Evaluated.

    first_seed: of the episodes; None: as in training, from which the episodes differ all the same.
    """
    start, count = time.monotonic(), len(batch.members)
    tqdm.write(f"evaluating {count} members, greedy and sampled, {episodes} episodes each (see --eval-episodes)")
    shift = 0 if first_seed is None else first_seed - plan.options.seed
    seeds = layout.place(np.array([seed + shift for seed in batch.seeds()], np.uint32))
    floats = layout.place({name: np.array(values, np.float32) for name, values in batch.floats().items()})
    play = evaluate_all(plan.script, batch.config, tuple(changes), episodes, layout)
    with without_cache_chatter():
        compiled = play.lower(state, floats, seeds).compile()
    returns = hosts.on_host(compiled(state, floats, seeds))[: len(batch.members)]
    return Evaluated(returns, time.monotonic() - start)


def evaluate_again(plan, changes, episodes, first_seed):
    """Evaluates the policies of a saved run in changed circumstances, and writes and prints it; returns the exit code.

    changes: {Config field: value}, of the environment. Raises UsageError where the policies do not fit it.
    """
    if plan.options.compile_cache:
        use_compile_cache()
    check_spaces(plan, changes)
    layout, found = Layout(make_mesh(len(plan.members))), []
    for batch in plan.batches:
        saved = batch_states(plan, batch)
        words = layout.place(jax.tree.map(np.asarray, to_words(saved)))
        state = from_words(words, saved)
        found.append(evaluate(plan, layout, batch, state, episodes, changes.items(), first_seed).returns)
    members = summary.with_returns(plan, found)
    points = summary.summarize_points(plan, members, ("greedy_return", "sampled_return"))
    folder = plan.run_dir / "evaluations"
    folder.mkdir(exist_ok=True)
    path = folder / f"{len(list(folder.glob('*.json'))):03d}.json"
    circumstances = {"changes": changes, "episodes": episodes, "seed": first_seed}
    write_json(path, circumstances | {"points": points, "members": members})
    config = dataclasses.replace(plan.config, **changes)
    summary.print_table(plan._replace(config=config), points, None, ("greedy_return", "sampled_return"))
    print(f"record: {path}")
    return 0


def check_spaces(plan, changes):
    """Raises UsageError where the changed environment shows or takes something else than the policies know."""
    for batch in plan.batches:
        spaces = []
        for config in (batch.config, dataclasses.replace(batch.config, **changes)):
            env, env_params = plan.script.make_env(config.env_id, config.env_params)
            action = env.action_space(env_params)
            shape = tuple(int(n) for n in env.observation_space(env_params).shape)
            spaces.append((shape, getattr(action, "n", getattr(action, "num_categories", None)), action.shape))
        if spaces[0] != spaces[1]:
            raise UsageError(
                f"--evaluate {plan.run_dir}: its policies take observations of shape {spaces[0][0]} and give"
                f" {spaces[0][1] or spaces[0][2]} actions; {config.env_id} has {spaces[1][0]} and"
                f" {spaces[1][1] or spaces[1][2]}"
            )

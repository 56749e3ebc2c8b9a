"""What was trained, for use elsewhere: a run's policy in another process, and its weights in a flat file."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from runner.loop.record import replacing
from runner.loop.saved import WEIGHTS, best_point, final_state, key_name, saved_run
from runner.plan.errors import UsageError


class Policy(NamedTuple):
    """One trained member of a run.

    carry, action = act(state, carry, obs (..., D), key, greedy), from carry = init_carry(num_envs) on at every
    episode's start; env and env_params are those that it was trained in.
    """

    act: Callable
    init_carry: Callable
    state: Any
    config: Any
    env: Any
    env_params: Any
    member: Any  # its number, seed and swept values


def load_policy(folder, member=None):
    """The Policy of a run directory: of a member by number, else of the best point's first seed.

    The script's copy in the folder is imported, so the policy of an edited script is as it was. Raises ValueError for a
    folder that is no finished run of a script that trains policies.
    """
    plan, number = chosen_member(folder, member)
    chosen = plan.members[number]
    batch = next(batch for batch in plan.batches if chosen in batch.members)
    config = dataclasses.replace(batch.config, **chosen.values)
    init_carry, act = plan.script.make_policy(config)
    env, env_params = plan.script.make_env(config.env_id, config.env_params)
    return Policy(act, init_carry, final_state(plan, chosen), config, env, env_params, chosen)


def chosen_member(folder, member):
    """(plan of the run, number of the member). Raises ValueError for one that is not there."""
    plan = saved_run(folder, "the folder")
    if member is None:
        point = best_point(folder)
        return plan, next(m.index for m in plan.members if m.point == point)
    if not 0 <= member < len(plan.members):
        raise UsageError(f"{folder} has members 0 to {len(plan.members) - 1}, not {member}")
    return plan, member


def export_weights(folder, path, member=None):
    """Writes the weights and running statistics of one member to a flat .npz file, without pickle.

    Names are paths, such as "params/params/actor/layers_0/kernel" or "obs_stats/mean". Returns {name: shape}.
    """
    plan, number = chosen_member(folder, member)
    state = final_state(plan, plan.members[number])
    arrays = {}
    for field in WEIGHTS:
        for keys, leaf in jax.tree_util.tree_leaves_with_path(getattr(state, field, ())):
            arrays["/".join([field, *(key_name(key) for key in keys)])] = np.asarray(leaf)
    with replacing(Path(path)) as temporary, open(temporary, "wb") as file:  # np.savez would change a path's ending
        np.savez(file, **arrays)
    return {name: array.shape for name, array in arrays.items()}

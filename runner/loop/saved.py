"""Earlier runs, read from their directories: the script as it was, its plan, and the final states of its members."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from runner.loop.checkpoint import Checkpoints, from_words, word_shapes
from runner.loop.devices import host_device, without_cache_chatter
from runner.plan.command_line import from_json, planned, read_json
from runner.plan.errors import UsageError, first_line
from runner.plan.imports import import_files
from runner.plan.script import Kind, Options, Script

WEIGHTS = ("params", "target_params", "obs_stats", "return_stats")  # of a state, what is exported
# What a new run has of its own; the rest of a state, with whatever a user added, is what --init-from takes
FRESH = {"opt_state", "env_state", "obs", "carry", "buffer", "discounted_sum", "episode_return", "episode_length"}
FRESH |= {"num_updates", "env_steps", "key", "es_state", "generation"}


def saved_run(folder, flag):
    """The Plan of a run directory, with the script's copy that lies in it. Raises UsageError."""
    folder = Path(folder)
    saved = read_json(flag, folder)
    import_files(folder / Path(path).name for path in saved["options"].get("imports", ()))
    module = saved_module(folder, saved["script"], flag)
    if not hasattr(module, "make_policy"):
        raise UsageError(f"{flag} {folder}: {saved['script']}.py trains no policy: give the run of a script that does")
    parts = module.Config, module.make_env, module.make_train, module.make_policy
    script = Script(folder / f"{saved['script']}.py", *parts, Kind())
    known = {field.name for field in dataclasses.fields(Options)}
    options = from_json(Options, {k: v for k, v in saved["options"].items() if k in known})
    return planned(script, from_json(script.Config, saved["config"]), options, folder)


def saved_module(folder, name, flag):
    """The copy of a script in its run directory, imported under a name of its own."""
    path = folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{name} in {folder.resolve()}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the packages of now make of a script of then
        raise UsageError(f"{flag} {folder}: {path.name} can't be imported ({first_line(error)})") from error
    return module


def best_point(folder):
    """The number of the best sweep point, by the run's summary; 0 where it has none yet."""
    try:
        return json.loads((Path(folder) / "summary.json").read_text())["best_point"]
    except (OSError, ValueError, KeyError):
        return 0


def state_shapes(plan, batch):
    """Shapes and dtypes of one member's state, without compiling anything."""
    train = plan.script.make_train(batch.config)
    return jax.eval_shape(lambda key: train(key, num_updates=0)[0], jax.random.key(0))


def batch_states(plan, batch, sharding=None):
    """The final states of a batch, a row per member, from its last checkpoint; for this process alone.

    sharding: where to put them; on one CPU device if None.
    """
    sharding = sharding or jax.sharding.SingleDeviceSharding(host_device())
    size = len(batch.members)
    rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape), x.dtype), state_shapes(plan, batch))
    checkpoints = Checkpoints(plan.run_dir / "checkpoints" / batch.name, size, alone=True)
    with without_cache_chatter():
        arrays = checkpoints.load(word_shapes(rows, sharding)).arrays
    checkpoints.close()
    if arrays is None:
        raise UsageError(f"{plan.run_dir} has no checkpoint of {batch.name}: its training is not done")
    return from_words(arrays, rows)


def final_state(plan, member):
    """The final state of one member, on a CPU device."""
    batch = next(batch for batch in plan.batches if member in batch.members)
    row = batch.members.index(member)
    return jax.tree.map(lambda x: x[row], batch_states(plan, batch))


# --- Starting from an earlier run -------------------------------------------------------------------------------------
class Weights(NamedTuple):
    """What a new run starts from: {field of a state: tree} of each member of an earlier run's best point, by seed."""

    folder: str
    members: list[dict[str, Any]]


def saved_weights(folder, plan):
    """The Weights of a run directory, which fit all members of plan. Raises UsageError where they don't."""
    source = saved_run(folder, "--init-from")
    point = best_point(folder)
    chosen = [member for member in source.members if member.point == point]
    known = set(state_shapes(plan, plan.batches[0])._fields) - FRESH
    states = [final_state(source, member)._asdict() for member in chosen]
    weights = Weights(folder, [{name: x for name, x in state.items() if name in known} for state in states])
    print(f"starting from {', '.join(weights.members[0])} of {folder}")
    for batch in plan.batches:
        check_fit(weights, state_shapes(plan, batch)._asdict())
    return weights


def check_fit(weights, state):
    """Raises UsageError naming the first array that is not there, or of another shape, in a new state."""
    for name, tree in weights.members[0].items():
        there, here = named_shapes(name, tree), named_shapes(name, state.get(name, ()))
        for path in [*there, *here]:
            if there.get(path) != here.get(path):
                raise UsageError(
                    f"--init-from {weights.folder}: {path} has shape {there.get(path, 'none')} there and"
                    f" {here.get(path, 'none')} here: choose the environment and network settings of that run"
                )


def named_shapes(name, tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join([name, *(key_name(k) for k in path)]): x.shape for path, x in leaves}


def key_name(key):
    """A step of a path into a tree, as text: of a dict, a NamedTuple or a list."""
    return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))


def with_weights(state, weights, batch, first_seed, layout):
    """The states of a batch with the weights of an earlier run: a point's i-th seed has those of that run's i-th."""
    count = len(weights.members)
    own = [weights.members[(member.seed - first_seed) % count] for member in batch.members]
    stacked = jax.tree.map(lambda *rows: np.stack([np.asarray(row) for row in rows]), *own)
    placed = {name: jax.tree.leaves(layout.place(tree)) for name, tree in stacked.items()}
    # Unflattened as the state has it: the NamedTuples of the earlier run's script are classes of that one
    trees = {name: jax.tree.unflatten(jax.tree.structure(getattr(state, name)), x) for name, x in placed.items()}
    return state._replace(**trees)

"""Checkpoints of one batch of members: orbax writes them atomically, a digest finds damage, nothing is pickled."""

import hashlib
import shutil
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from runner.errors import UsageError, first_line

KEEP = 2  # the newest ones; the older of the two is there in case the newest is damaged


def to_host(state, count=None):
    """A state as numpy arrays, PRNG keys as their raw words; with count, the first count members of it."""
    arrays = jax.tree.map(lambda x: np.asarray(raw(x)), state)
    return arrays if count is None else jax.tree.map(lambda x: x[:count], arrays)


def from_host(arrays, like):
    """Undoes to_host: raw words become PRNG keys again wherever `like`, a state's shapes and dtypes, has them."""
    return jax.tree.map(lambda x, shape: jax.random.wrap_key_data(x) if is_key(shape) else x, arrays, like)


def host_shapes(like, count=None):
    """Shapes and dtypes of what to_host makes of a state with the shapes and dtypes `like`."""
    shapes = jax.eval_shape(lambda state: jax.tree.map(raw, state), like)
    own = (lambda shape: shape) if count is None else lambda shape: (count, *shape[1:])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(own(x.shape), x.dtype), shapes)


def raw(x):
    return jax.random.key_data(x) if is_key(x) else x


def is_key(x):
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def digest(arrays):
    """SHA-256 over all bytes of a tree of numpy arrays."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(arrays):
        total.update(np.ascontiguousarray(leaf))
    return total.hexdigest()


class Loaded(NamedTuple):
    """The newest whole checkpoint; update 0 and no arrays if there is none."""

    update: int
    arrays: Any
    notes: dict
    damaged: list[str]  # newer ones, skipped and set aside


class Checkpoints:
    """The checkpoints of one batch, in one folder, numbered by updates done."""

    def __init__(self, folder):
        self.folder = folder.resolve()
        options = ocp.CheckpointManagerOptions(max_to_keep=KEEP, enable_async_checkpointing=False)
        try:
            self.manager = ocp.CheckpointManager(self.folder, options=options)
        except Exception as error:  # orbax and tensorstore raise their own kinds for a full or read-only disk
            raise UsageError(f"can't write to {self.folder}: {first_line(error)}") from error

    def save(self, update, arrays, notes):
        """Saves to_host's arrays and a JSON-able dict of notes. Raises UsageError if the disk is full or read-only."""
        notes = notes | {"digest": digest(arrays)}
        parts = ocp.args.Composite(state=ocp.args.StandardSave(arrays), notes=ocp.args.JsonSave(notes))
        try:
            self.manager.save(update, args=parts, force=True)
        except Exception as error:
            kept = self.manager.latest_step()
            last = "no checkpoint yet" if kept is None else f"the last good checkpoint, update {kept}, is kept"
            raise UsageError(f"can't write a checkpoint to {self.folder} ({first_line(error)}); {last}") from error

    def load(self, like):
        """Returns the newest whole checkpoint as Loaded; like: shapes and dtypes of to_host's arrays.

        Raises UsageError if there are checkpoints, but none that can be read; they are left as they are.
        """
        steps = sorted(self.manager.all_steps(), reverse=True)
        for i, update in enumerate(steps):
            whole = self.restore(update, like)
            if whole is not None:
                self.set_aside(steps[:i])
                return Loaded(update, whole.state, whole.notes, [str(self.folder / str(step)) for step in steps[:i]])
        if steps:
            raise UsageError(
                f"no checkpoint in {self.folder} can be read: all are damaged, or the script's state has changed"
                " (the run directory has the script as it was); start a new run"
            )
        return Loaded(0, None, {}, [])

    def restore(self, update, like):
        """One checkpoint, or None if it is damaged or of other shapes."""
        parts = ocp.args.Composite(state=ocp.args.StandardRestore(like), notes=ocp.args.JsonRestore())
        try:
            found = self.manager.restore(update, args=parts)
            same = jax.tree.map(lambda x, shape: (x.shape, x.dtype) == (shape.shape, shape.dtype), found.state, like)
            return found if jax.tree.all(same) and digest(found.state) == found.notes["digest"] else None
        except Exception:  # whatever the damage makes the libraries raise
            return None

    def set_aside(self, steps):
        """Renames damaged checkpoints, so that training can write these updates again."""
        for step in steps:
            aside = self.folder / f"damaged-{step}"
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / str(step)).rename(aside)
        if steps:
            self.manager.reload()

    def close(self):
        self.manager.close()

"""Checkpoints of one batch of members: orbax writes them atomically, a digest finds damage, nothing is pickled.

Every process writes and reads the members on its own devices. A checkpoint knows nothing of the devices: it is read on
any number of them, in any number of processes.
"""

import hashlib
import shutil
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from environments.adapter import is_key
from runner.loop.devices import repeat_last
from runner.loop.hosts import any_of, await_verdict, is_first, wait_for_all
from runner.plan.errors import UsageError, first_line

KEEP = 2  # the newest ones; the older of the two is there in case the newest is damaged


def to_words(state):
    """A state with PRNG keys as their raw words, which can be written."""
    return jax.tree.map(raw, state)


def from_words(arrays, like):
    """Undoes to_words: words become PRNG keys again wherever `like`, a state's shapes and dtypes, has them."""
    return jax.tree.map(lambda x, shape: jax.random.wrap_key_data(x) if is_key(shape) else x, arrays, like)


def local(state):
    """A state that every device of all processes has whole, on one device of this process: for work of its own."""
    return from_words(jax.tree.map(lambda x: jax.numpy.asarray(np.asarray(x)), to_words(state)), state)


def word_shapes(like, sharding=None):
    """Shapes, dtypes and sharding of to_words of a state of shapes `like`; without a sharding, of each leaf's own."""
    shapes = jax.eval_shape(to_words, like)
    return jax.tree.map(
        lambda x, own: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or own.sharding), shapes, like
    )


def raw(x):
    return jax.random.key_data(x) if is_key(x) else x


def digest(arrays, count):
    """SHA-256 over a tree of arrays: over the digests of its first count rows, each made by the process that has it."""
    leaves, rows = jax.tree.leaves(arrays), {}
    for leaf in leaves:
        parts = {shard.index[0].start or 0: shard.data for shard in leaf.addressable_shards}  # one of equal copies
        for start in sorted(parts):
            for i, row in enumerate(np.asarray(parts[start]), start):
                rows.setdefault(i, hashlib.sha256()).update(row.tobytes())
    own = np.stack([np.frombuffer(rows[i].digest(), np.uint8) for i in sorted(rows)])
    every = own if leaves[0].is_fully_addressable else multihost_utils.process_allgather(own, tiled=True)
    return hashlib.sha256(every[:count].tobytes()).hexdigest()


class Loaded(NamedTuple):
    """The newest whole checkpoint; update 0 and no arrays if there is none."""

    update: int
    arrays: Any
    notes: dict
    damaged: list[str]  # newer ones, skipped and set aside


class Checkpoints:
    """The checkpoints of one batch, in one folder, numbered by updates done.

    count: members of the batch; further rows are padding, and neither digested nor kept on loading.
    alone: this process reads by itself, the others do not.
    """

    def __init__(self, folder, count, alone=False):
        self.folder, self.count, self.alone = folder.resolve(), count, alone
        writing = ocp.CheckpointManagerOptions(max_to_keep=KEEP, enable_async_checkpointing=False)
        try:
            self.manager = None if alone else ocp.CheckpointManager(self.folder, options=writing)
        except Exception as error:  # orbax and tensorstore raise their own kinds for a full or read-only disk
            raise UsageError(f"can't write to {self.folder}: {first_line(error)}") from error
        # Every process reads by itself: where only one of them finds damage, none must wait for it within orbax
        me = jax.process_index()
        among = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process {me}"
        )
        # Nothing is ever written through it; read_only would say so on the terminal, three times
        reading = ocp.CheckpointManagerOptions(
            create=False, enable_async_checkpointing=False, multiprocessing_options=among
        )
        self.reader = ocp.CheckpointManager(self.folder, options=reading)

    def save(self, update, arrays, notes):
        """Saves to_words' arrays and a JSON-able dict of notes. Raises UsageError if the disk is full or read-only."""
        notes = notes | {"digest": digest(arrays, self.count)}
        parts = ocp.args.Composite(state=ocp.args.StandardSave(arrays), notes=ocp.args.JsonSave(notes))
        try:
            self.manager.save(update, args=parts, force=True)
        except Exception as error:
            await_verdict()
            kept = self.manager.latest_step()
            last = "no checkpoint yet" if kept is None else f"the last good checkpoint, update {kept}, is kept"
            raise UsageError(f"can't write a checkpoint to {self.folder} ({first_line(error)}); {last}") from error

    def load(self, like):
        """Returns the newest whole checkpoint as Loaded; like: word_shapes of the state, on the devices of now.

        Raises UsageError if there are checkpoints, but none that can be read; they are left as they are.
        """
        steps = sorted(self.reader.all_steps(), reverse=True)
        for i, update in enumerate(steps):
            whole = self.restore(update, like)
            if whole is not None:
                if not self.alone:
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
        # Not strict: of another number of devices, it has another number of rows of padding
        state, failed = ocp.args.StandardRestore(like, strict=False), False
        try:
            found = self.reader.restore(update, args=ocp.args.Composite(state=state, notes=ocp.args.JsonRestore()))
            failed = "digest" not in found.notes
        except Exception as error:  # whatever the damage makes the libraries raise
            if "RESOURCE_EXHAUSTED" in str(error):
                raise
            failed = True
        if failed if self.alone else any_of(failed):  # damaged for one process, damaged for all
            return None
        if digest(found.state, self.count) != found.notes["digest"]:
            return None
        return ocp.args.Composite(state=fill_up(found.state, self.count), notes=found.notes)

    def set_aside(self, steps):
        """Renames damaged checkpoints, so that training can write these updates again."""
        for step in steps if is_first() else []:
            aside = self.folder / f"damaged-{step}"
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / str(step)).rename(aside)
        if steps:
            wait_for_all("damaged checkpoints are set aside")
            self.manager.reload()

    def close(self):
        self.reader.close()
        if self.manager is not None:
            self.manager.close()


def fill_up(arrays, count):
    """Makes rows from count on the last member again, as placing on devices does: reading leaves them zero."""
    size = len(jax.tree.leaves(arrays)[0])
    if size == count:
        return arrays
    shardings = jax.tree.map(lambda x: x.sharding, arrays)
    return jax.jit(lambda tree: repeat_last(tree, count, size), out_shardings=shardings)(arrays)

"""What the user sees while training: a bar in env steps, NaN reports, trackers; and Ctrl-C, heard between chunks."""

import contextlib
import os
import signal

from tqdm import tqdm

from runner.loop.hosts import is_first

MOST_NAMED = 8  # members with NaN named one by one per chunk


def on_stop(handler):
    """Ctrl-C and SIGTERM call handler(number, frame) from now on; returns a function that undoes this.

    In a thread nothing changes, for Python allows it in the main one only: a caller there has its own way to stop.
    """
    before = {}
    for name in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError):
            before[name] = signal.signal(name, handler) or signal.SIG_DFL  # None: not set from Python

    def undo():
        for name, own in before.items():
            signal.signal(name, own)

    return undo


class Progress:
    """One for the whole run, over all its batches."""

    def __init__(self, total, tracker, unit=" steps"):
        self.total = total  # env steps of all members, or whatever the unit says
        self.unit = unit
        self.tracker = tracker
        self.bar = None
        self.interrupted = False
        self.programs = []
        self.undo = on_stop(self.interrupt)

    def interrupt(self, number, frame):
        self.interrupted = True
        signal.signal(number, signal.SIG_DFL)  # a second one stops at once
        self.say("stopping after this chunk; once more to stop at once")

    def compiled(self, program):
        """Announces a program that was not there before; returns the seconds that it newly took to compile."""
        new = not any(program is known for known in self.programs)
        if new:
            self.programs.append(program)
            self.say(f"compiled in {program.compile_seconds:.1f} s")
        if self.bar is None:
            look = dict(unit=self.unit, unit_scale=True, dynamic_ncols=True, mininterval=0)
            where = None if is_first() else open(os.devnull, "w")  # a disabled bar would not count
            self.bar = tqdm(total=self.total, file=where, **look)
        self.bar.unpause()  # compiling is not counted as running
        return program.compile_seconds if new else 0.0

    def skip(self, steps):
        """Steps done before this process began."""
        self.bar.initial += steps
        self.bar.n += steps

    def advance(self, amount, members, first_update, metrics, text):
        """After a chunk; metrics: {name: (updates, members)}, for the tracker; text: what the bar says."""
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(amount)
        if self.bar.n >= self.total:
            self.bar.close()  # before evaluation, whose time is not training's
        if self.tracker is not None:
            self.tracker.log(members, first_update, metrics)

    def report_nan(self, members_and_updates):
        for member, update in members_and_updates[:MOST_NAMED]:
            self.say(f"member {member.index} ({member.name}) has NaN parameters from update {update} on")
        if len(members_and_updates) > MOST_NAMED:
            self.say(f"and {len(members_and_updates) - MOST_NAMED} more members with NaN parameters, see summary.json")

    def say(self, line):
        tqdm.write(line)

    def close(self):
        if self.bar is not None:
            self.bar.close()

    def end(self):
        """Closes, and leaves Ctrl-C as it was."""
        try:
            self.close()
        finally:
            self.undo()

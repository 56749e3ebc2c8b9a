"""What a script hands to the runner, what kinds of scripts there are, and what a checked command line becomes."""

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

PROCESSES = ("distributed", "coordinator", "num_processes", "process_id")  # where a run is, which may change


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run; what to train is the script's Config."""

    num_seeds: int = 16  # agents per sweep point, all trained at once
    seed: int = 0  # the first seed; the others follow one by one
    sweep: tuple[str, ...] = ()  # "lr=1e-4,3e-4" "ent_coef=0,0.01" for a grid, "lr=log:1e-5:1e-2:16" or lin: for random
    imports: Annotated[tuple[str, ...], tyro.conf.arg(name="import")] = ()  # files to import first: your environments
    run_dir: str = ""  # where to leave the record; by default runs/SCRIPT/ENV/TIME-HASH
    resume: str = ""  # a run directory to go on with, to its end; no other setting is needed
    init_from: str = ""  # a run directory: start from its weights and running statistics, all else is new
    track: Literal["none", "wandb", "tensorboard"] = "none"  # also log every member there
    checkpoint_every: int = 0  # updates between checkpoints; 0: every 10 s, or less often where writing one takes long
    max_members_at_once: int = 0  # train in batches of so many agents at most; 0: as many as fit into memory
    compile_cache: bool = True  # keep compiled programs between runs, in the user's cache folder
    distributed: bool = False  # this is one of many processes; under SLURM and Open MPI 4 nothing else is needed
    coordinator: str = ""  # elsewhere: HOST:PORT, where process 0 is to be found
    num_processes: int = 0  # and how many there are
    process_id: int = 0  # and which one this is


class Kind:
    """What one kind of script has of its own: the one hook on the command line, the loop and the report.

    runner/policies.py is that of the scripts that train policies, runner/evolution.py that of meta_evolve_loss.py.
    """

    Options = Options
    free_options = ()  # that may differ between a run and its resumption, beside those of every kind
    metric = "episode_return"  # the one that tables and curves show

    def run(self, script, argv):
        """Does what a command line asks for; returns the exit code."""

    def defaults(self, script, argv):
        """A Record of settings that flags like --tuned or --preset start from, or None."""
        return None

    def env_ids(self, values):
        """The environments of settings, {field: value}."""
        return [values["env_id"]]

    def settle(self, script, config, options):
        """The options as they are followed. Raises UsageError for those that can't be."""
        return options

    def check_resumed(self, folder, before, options):
        """Raises UsageError where options, unlike those before, can't be followed any more."""

    def started(self, config, state, say):
        """Looks at the first state of a batch, or at the one that is gone on from; may raise UsageError."""

    def bar_text(self, metrics):
        """What the bar says after a chunk; metrics: {name: (updates, members)}."""
        return ""

    def evaluate(self, plan, trained):
        """What the report needs of a trained batch, made while its states are on the devices."""

    def report(self, plan, run_dir, mesh, results):
        """Writes what a run has shown, in every process; returns what trackers are told of it, with `points`, or None.

        results: a Trained and what evaluate gave, per batch.
        """


class Script(NamedTuple):
    """What a training script hands to the runner."""

    path: Path
    Config: type
    make_env: Callable
    make_train: Callable
    make_policy: Callable | None
    kind: Kind

    @property
    def name(self):
        return self.path.stem

    @property
    def spreads(self):
        """Whether a member spreads its own population over the devices, as an evolution does."""
        return "spread" in inspect.signature(self.make_train).parameters


class Plan(NamedTuple):
    """A checked command line: everything about the run that is known before it starts."""

    script: Script
    config: Any
    options: Any
    points: list[dict]
    members: list
    batches: list
    run_dir: Path | None  # None: a new default one


class Record(NamedTuple):
    """What config.json says of a run, or what a new one starts from."""

    config: Any
    options: Any

"""The command line: one for all scripts, made of the script's Config and the Options below."""

import ast
import contextlib
import dataclasses
import difflib
import io
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro

from runner.errors import UsageError, require
from runner.members import make_batches, make_members, parse_float, parse_int, parse_sweep
from runner.tuned import tuned_settings

PROCESSES = ("distributed", "coordinator", "num_processes", "process_id")  # where a run is, which may change


@dataclasses.dataclass(frozen=True)
class Options:
    """How to run; what to train is the script's Config."""

    num_seeds: int = 16  # agents per sweep point, all trained at once
    seed: int = 0  # the first seed; the others follow one by one
    tuned: bool = False  # start from the settings of runner/tuned.toml for this environment; flags override them
    sweep: tuple[str, ...] = ()  # "lr=1e-4,3e-4" "ent_coef=0,0.01" for a grid, "lr=log:1e-5:1e-2:16" or lin: for random
    run_dir: str = ""  # where to leave the record; by default runs/SCRIPT/ENV/TIME-HASH
    resume: str = ""  # a run directory to go on with, to its end; no other setting is needed
    gif: bool = False  # render the final policy of the best member to policy.gif, its first 500 steps at most
    track: Literal["none", "wandb", "tensorboard"] = "none"  # also log every member there
    checkpoint_every: int = 0  # updates between checkpoints; 0: a tenth of the run, 10 s or more apart
    max_members_at_once: int = 0  # train in batches of so many agents at most; 0: as many as fit into memory
    eval_episodes: int = 128  # episodes per member in the final evaluation, greedy and sampled each
    compile_cache: bool = True  # keep compiled programs between runs, in the user's cache folder
    distributed: bool = False  # this is one of many processes; under SLURM and Open MPI 4 nothing else is needed
    coordinator: str = ""  # elsewhere: HOST:PORT, where process 0 is to be found
    num_processes: int = 0  # and how many there are
    process_id: int = 0  # and which one this is

    def __post_init__(self):
        least = {"num_seeds": 1, "seed": 0, "checkpoint_every": 0, "max_members_at_once": 0, "eval_episodes": 1}
        check_counts(self, least)
        check_processes(self)


def check_counts(options, least):
    """Raises ValueError for whole numbers below least, {name: smallest}."""
    for name, low in least.items():
        value = getattr(options, name)
        if not low <= value < 2**31:
            raise ValueError(f"{name} must be a whole number of at least {low}, not {value}")


def check_processes(options):
    """Raises ValueError where the settings of a run in many processes do not go together."""
    by_hand = options.coordinator or options.num_processes or options.process_id
    if by_hand and not options.distributed:
        raise ValueError("coordinator, num_processes and process_id need --distributed beside them")
    host, _, port = options.coordinator.rpartition(":")
    right = host and port.isdigit() and 0 < int(port) < 2**16
    if by_hand and not (right and 0 <= options.process_id < options.num_processes):
        raise ValueError(
            "by hand, distributed needs --coordinator HOST:PORT --num-processes N --process-id I, I from 0 to N - 1"
        )


class Script(NamedTuple):
    """What a training script hands to the runner."""

    path: Path
    Config: type
    make_env: Callable
    make_train: Callable
    make_policy: Callable

    Options = Options
    # Settings that may differ between a run and its resumption: they touch neither training nor metrics.csv
    FREE_OPTIONS = ("resume", "gif", "track", "checkpoint_every", "eval_episodes", "compile_cache", *PROCESSES)

    @property
    def name(self):
        return self.path.stem


def main(path, config_class, make_env, make_train, make_policy, argv=None):
    """Runs a script's command line and exits: 0 when done, 2 on bad input or a full disk, 130 when interrupted."""
    script = Script(Path(path).resolve(), config_class, make_env, make_train, make_policy)
    with usage_errors(script.path.name):
        plan = make_plan(script, sys.argv[1:] if argv is None else argv)
        from runner.train import run  # here and not above: --help and usage errors need not wait for it

        sys.exit(run(plan))


@contextlib.contextmanager
def usage_errors(name):
    """What a user can mend becomes one line and exit code 2; Ctrl-C where nothing is lost by it, exit code 130."""
    try:
        yield
    except UsageError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        sys.exit(130)


class InvalidConfig(UsageError):
    """Config itself refused the values, as it would in Python."""


class Plan(NamedTuple):
    """A checked command line: everything about the run that is known before it starts."""

    script: Script
    config: Any
    options: Options
    points: list[dict]
    members: list
    batches: list
    run_dir: Path | None  # None: a new default one


def make_plan(script, argv):
    """Reads and checks a command line. Raises UsageError; writes nothing."""
    sweeps = [word for word in argv if word.split("=")[0] == "--sweep"]
    if len(sweeps) > 1:
        raise UsageError(
            '--sweep is given twice: write all its items after one, --sweep "lr=1e-4,3e-4" "ent_coef=0,0.01"'
        )
    resume = resumed_folder(argv)
    record = read_record(resume, script) if resume is not None else tuned_defaults(script, argv)
    try:
        config, options = parse(script, argv, record)
    except InvalidConfig as error:
        raise UsageError(f"{error}{' (the settings beside --sweep must be valid too)' if sweeps else ''}") from None
    if resume is not None:
        refuse_changes(script, record, config, options)
    if options.track != "none":
        require(options.track, f"--track {options.track}")
    if options.gif:
        require("pygame", "--gif")
    if sweeps and not options.sweep:
        raise UsageError('--sweep has no values: write for example --sweep "lr=1e-4,3e-4"')
    points = parse_sweep(options.sweep, script.Config, options.seed)
    members = make_members(points, options.num_seeds, options.seed)
    try:
        batches = make_batches(members, config, options.max_members_at_once)
    except ValueError as error:
        raise UsageError(f"--sweep: {error}") from None
    return Plan(script, config, options, points, members, batches, choose_run_dir(options, resume))


def tuned_defaults(script, argv):
    """With --tuned the settings that were tuned for the environment, as defaults for the other flags; else None."""
    switches = [word for word in argv if word in ("--tuned", "--no-tuned")]
    if switches[-1:] != ["--tuned"]:
        return None
    env_id = flag_value(argv, "--env-id") or script.Config.env_id
    try:
        return Record(script.Config(env_id=env_id, **tuned_settings(script.name, env_id)), script.Options())
    except ValueError as error:
        raise UsageError(f"--tuned: {error}") from error


def choose_run_dir(options, resume):
    """The folder of the record: the resumed one, --run-dir, or None for a new default one."""
    run_dir = Path(resume or options.run_dir) if resume or options.run_dir else None
    if resume is None and run_dir is not None and os.path.exists(run_dir):
        raise UsageError(f"--run-dir {run_dir} exists already: choose a new folder, or go on with --resume {run_dir}")
    return run_dir


# --- Parsing ----------------------------------------------------------------------------------------------------------
registry = tyro.constructors.ConstructorRegistry()


@registry.primitive_rule
def number_rule(info):
    """Whole numbers as 5e5 too, and messages that say what to type."""
    parser = {int: parse_int, float: parse_float}.get(info.type)
    if parser is None:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=info.type.__name__.upper(),
        instance_from_str=lambda words: parser(words[0]),
        is_instance=lambda value: isinstance(value, info.type),
        str_from_instance=lambda value: [repr(value)],
    )


def parse(script, argv, record=None):
    """Returns (config, options); their defaults are those of Config, or the record's. Raises UsageError."""
    try:
        config, options = (record.config, record.options) if record else (script.Config(), script.Options())
    except ValueError as error:  # somebody edited them
        raise UsageError(f"the defaults of Config don't go together: {error}") from None
    docstring = ast.get_docstring(ast.parse(script.path.read_text())) or ""
    parsed = read_arguments(script.path.name, docstring.split("\n")[0], argv, config=config, run=options)
    return parsed.config, parsed.run


def read_arguments(program, description, argv, **defaults):
    """Reads flags into the dataclasses given by name and default; raises UsageError in place of tyro's boxes."""
    fields = [(name, type(default), dataclasses.field(default=default)) for name, default in defaults.items()]
    arguments = tyro.conf.configure(tyro.conf.OmitArgPrefixes)(dataclasses.make_dataclass("Arguments", fields))
    names = {f.name: f.init for _, kind, _ in fields for f in dataclasses.fields(kind)}
    settable = [name for name, init in names.items() if init]
    for word in argv:  # tyro would take a field that follows from others, and then drop what was given for it
        if not names.get(word.split("=")[0].lstrip("-").replace("-", "_"), True) and word.startswith("--"):
            raise UsageError(no_such_flag(word.split("=")[0], settable))

    def read():
        with registry:
            return tyro.cli(arguments, args=argv, prog=program, description=description)

    if {"-h", "--help"} & set(argv):
        read()
    printed, columns = io.StringIO(), os.environ.get("COLUMNS")
    try:
        os.environ["COLUMNS"] = "10000"  # keeps each of tyro's messages on one line
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            return read()
    except SystemExit:
        message = one_line(printed.getvalue(), settable)
        kind = InvalidConfig if "Error parsing config:" in printed.getvalue() else UsageError
        raise kind(message) from None
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns


def one_line(box, names):
    """The message in tyro's box; for a wrong flag, the nearest among the fields' names."""
    text = " ".join(box.translate(dict.fromkeys(map(ord, "│╭╮╰╯"), " ")).split())
    parts = [part.strip() for part in re.split(r"[─-]{5,}", text) if part.strip("─- ")]  # title, message, hints
    message = re.sub(r"^Error parsing (config|run): |^Error parsing ", "", parts[1])
    wrong = re.findall(r"--[\w-]+", message)
    if not message.startswith("Unrecognized"):
        return message[0].lower() + message[1:]
    if not wrong:
        return f"{message[0].lower()}{message[1:]}; settings are written --name value, see --help"
    return no_such_flag(wrong[0], names)


def no_such_flag(flag, names):
    flags = [name.replace("_", "-") for name in names]
    near = difflib.get_close_matches(flag.lstrip("-").removeprefix("no-"), flags, n=1, cutoff=0.3)
    return f"there is no flag {flag}" + (f"; did you mean --{near[0]}?" if near else "; --help lists them all")


# --- Resuming ---------------------------------------------------------------------------------------------------------
def flag_value(argv, flag):
    """The text given to a flag, or None; for those that parsing takes its defaults from."""
    found = None
    for i, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") != flag:
            continue
        if equals:
            found = value
        elif i + 1 < len(argv):
            found = argv[i + 1]
    return found  # of several the last, as parsing has it


def resumed_folder(argv):
    folder = flag_value(argv, "--resume")
    return None if folder is None else Path(folder)


class Record(NamedTuple):
    """What config.json says of a run."""

    config: Any
    options: Options


def read_record(folder, script):
    """Reads config.json of a run. Raises UsageError for a folder that is no run of this script as it is now."""
    try:
        saved = json.loads((folder / "config.json").read_text())
        name, config = saved["script"], dict(saved["config"])
        options = {k: v for k, v in saved["options"].items() if k not in PROCESSES}
    except (OSError, KeyError, TypeError, ValueError):
        raise UsageError(
            f"--resume {folder} is no run directory (no readable config.json): see the folders in runs/"
        ) from None
    if name != script.name:
        raise UsageError(f"--resume {folder} is a run of {name}.py: type python {name}.py --resume {folder}")
    try:
        return Record(from_json(script.Config, config), from_json(script.Options, options))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"--resume {folder}: {script.path.name} no longer takes the settings of this run ({error}): use its old"
            " version, which the folder holds"
        ) from None


def from_json(kind, values):
    """A dataclass from what JSON made of one: lists are tuples again, fields that follow from others are left out."""
    derived = {field.name for field in dataclasses.fields(kind) if not field.init}
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k not in derived})


def refuse_changes(script, record, config, options):
    """Raises UsageError if flags beside --resume would change what the run trains."""
    now = dataclasses.asdict(config) | dataclasses.asdict(options)
    before = dataclasses.asdict(record.config) | dataclasses.asdict(record.options)
    for name, value in now.items():
        was = before[name]
        if value != was and name not in script.FREE_OPTIONS:
            flag = name.replace("_", "-")
            raise UsageError(
                f"--resume goes on with {flag} = {was}, not {value}: drop --{flag}, or start a new run without --resume"
            )

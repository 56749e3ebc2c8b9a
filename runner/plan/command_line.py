"""The command line: one for all scripts, made of the script's Config and its kind's Options."""

import ast
import contextlib
import dataclasses
import difflib
import io
import json
import os
import re
import shlex
import sys
import typing
from pathlib import Path

import tyro

from runner.plan.checks import check_options, valid_config
from runner.plan.errors import UsageError, require
from runner.plan.imports import import_files, imported_words
from runner.plan.members import make_batches, make_members
from runner.plan.script import PROCESSES, Plan, Record
from runner.plan.sweeps import field_name, flag_name, merged_env_params, parse_float, parse_int, parse_sweep

# Settings that may differ between a run and its resumption: they touch neither training nor metrics.csv
FREE_OPTIONS = ("resume", "track", "checkpoint_every", "compile_cache", *PROCESSES)


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


def make_plan(script, argv):
    """Reads and checks a command line. Raises UsageError; writes nothing."""
    sweeps = [word for word in argv if word.split("=")[0] == "--sweep"]
    if len(sweeps) > 1:
        raise UsageError(
            '--sweep is given twice: write all its items after one, --sweep "lr=1e-4,3e-4" "ent_coef=0,0.01"'
        )
    import_files(imported_words(argv))
    resume = named_folder(argv, "--resume")
    record = script.kind.defaults(script, argv) if resume is None else read_record(script, "--resume", resume)
    values, options = parse(script, argv, record)
    check_options(options)
    try:
        config = valid_config(script, values)
    except UsageError as error:
        raise UsageError(f"{error}{' (the settings beside --sweep must be valid too)' if sweeps else ''}") from None
    if resume is not None:
        free = (*FREE_OPTIONS, *script.kind.free_options)
        refuse_changes(record, config, options, free, "--resume goes on with", "start a new run without --resume")
        script.kind.check_resumed(resume, record.options, options)
    options = script.kind.settle(script, config, options)
    if options.track != "none":
        require(options.track, f"--track {options.track}")
    if sweeps and not options.sweep:
        raise UsageError('--sweep has no values: write for example --sweep "lr=1e-4,3e-4"')
    return planned(script, config, options, choose_run_dir(options, resume))


def planned(script, config, options, run_dir):
    """The plan of checked settings: their points, members and batches."""
    points = parse_sweep(options.sweep, script.Config, options.seed)
    for point in points:
        if "env_params" in point:  # the swept part changes what holds for all points, and leaves the rest
            point["env_params"] = merged_env_params(config.env_params, point["env_params"])
    members = make_members(points, options.num_seeds, options.seed)
    try:
        batches = make_batches(script, config, members, 0 if script.spreads else options.max_members_at_once)
    except UsageError as error:
        raise UsageError(f"--sweep: {error}") from None
    return Plan(script, config, options, points, members, batches, run_dir)


def choose_run_dir(options, resume):
    """The folder of the record: the resumed one, --run-dir, or None for a new default one."""
    run_dir = Path(resume or options.run_dir) if resume or options.run_dir else None
    if resume is None and run_dir is not None and os.path.exists(run_dir) and not untrained(run_dir):
        go_on = f", or go on with --resume {shlex.quote(str(run_dir))}" if (run_dir / "config.json").exists() else ""
        raise UsageError(f"--run-dir {run_dir} exists already: choose a new folder{go_on}")
    return run_dir


def untrained(run_dir):
    """Whether a folder is the record of a run that ended before its first checkpoint: it may be begun again."""
    return (run_dir / "config.json").exists() and not any(run_dir.glob("checkpoints/*/[0-9]*"))


# --- Parsing ----------------------------------------------------------------------------------------------------------
registry = tyro.constructors.ConstructorRegistry()


@registry.primitive_rule
def value_rule(info):
    """Whole numbers as 5e5 too, and choices as text, which checks.py looks at with everything else."""
    if typing.get_origin(info.type) is typing.Literal:
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="{" + ",".join(typing.get_args(info.type)) + "}",
            instance_from_str=lambda words: words[0],
            is_instance=lambda value: isinstance(value, str),
            str_from_instance=lambda value: [value],
        )
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
    """Returns ({Config field: value}, options); defaults are those of Config, or the record's. Raises UsageError."""
    try:
        config, options = (record.config, record.options) if record else (script.Config(), script.kind.Options())
    except ValueError as error:  # somebody edited them
        raise UsageError(f"the defaults of Config don't go together: {error}") from None
    docstring = ast.get_docstring(ast.parse(script.path.read_text())) or ""
    helps = {"-h", "--help"} & set(argv)  # shows the comments beside the fields, which only Config itself has
    defaults = dict(config=config if helps else unchecked(config), run=options)
    parsed = read_arguments(script.path.name, docstring.split("\n")[0], argv, **defaults)
    return settable(parsed.config), with_paths(parsed.run)


PATHS = ("run_dir", "resume", "init_from", "evaluate", "loss", "output")  # options that name a file or a folder


def with_paths(options):
    """Options whose paths have ~ expanded, once and for all libraries. Raises UsageError for what is no local path."""
    named = {name: getattr(options, name) for name in PATHS if getattr(options, name, "")}
    return dataclasses.replace(options, **{name: local_path(name, text) for name, text in named.items()})


def local_path(name, text):
    if re.match(r"\w+://", text):
        raise UsageError(
            f"--{flag_name(name)} {text}: a record is written to a folder of this machine, so mount the storage"
            " first and give its local path"
        )
    return os.path.expanduser(text)


def settable(config):
    """{field: value} of what a dataclass can be made of again."""
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.init}


def unchecked(config):
    """A copy of config whose class takes any values: while flags are read, Config itself must not refuse some."""
    kind = type(config)
    lenient = type(kind.__name__, (kind,), {"__post_init__": lambda self: None, "__doc__": kind.__doc__})
    return lenient(**settable(config))


def read_arguments(program, description, argv, **defaults):
    """Reads flags into the dataclasses given by name and default; raises UsageError in place of tyro's boxes."""
    fields = [(name, type(default), dataclasses.field(default=default)) for name, default in defaults.items()]
    arguments = tyro.conf.configure(tyro.conf.OmitArgPrefixes)(dataclasses.make_dataclass("Arguments", fields))
    names = {f.name: f.init for _, kind, _ in fields for f in dataclasses.fields(kind)}
    flags = [name for name, init in names.items() if init]
    for word in argv:  # tyro would take a field that follows from others, and then drop what was given for it
        if not names.get(field_name(word.split("=")[0]), True) and word.startswith("--"):
            raise UsageError(no_such_flag(word.split("=")[0], flags))

    switches = {f.name for _, kind, _ in fields for f in dataclasses.fields(kind) if f.type is bool}
    words = [as_field(as_switch(word, switches), flags) for word in argv]

    def read():
        with registry:
            return tyro.cli(arguments, args=words, prog=program, description=description)

    if {"-h", "--help"} & set(argv):
        read()
    printed, columns = io.StringIO(), os.environ.get("COLUMNS")
    try:
        os.environ["COLUMNS"] = "10000"  # keeps each of tyro's messages on one line
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            return read()
    except SystemExit:
        raise UsageError(one_line(printed.getvalue(), flags)) from None
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns


def as_switch(word, switches):
    """--anneal-lr=False, as sweep agents write it, is --no-anneal-lr."""
    flag, equals, text = word.partition("=")
    if not (equals and flag.startswith("--") and flag[2:].replace("-", "_") in switches):
        return word
    if text.lower() not in ("true", "false"):
        raise UsageError(f"{word}: write {flag} or --no-{flag[2:]}")
    return flag if text.lower() == "true" else f"--no-{flag[2:]}"


def as_field(word, names):
    """--lambda is --lambda_ to tyro, where there is such a field; --import is an option of its own."""
    flag, equals, text = word.partition("=")
    name = field_name(flag)
    return f"--{name}{equals}{text}" if flag.startswith("--") and name.endswith("_") and name in names else word


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


# What CleanRL, stable-baselines3, PureJaxRL and rejax call our settings
ALIASES = {
    "learning-rate": "lr", "env": "env-id", "env-name": "env-id", "total-steps": "total-timesteps",
    "timesteps": "total-timesteps", "n-timesteps": "total-timesteps", "n-envs": "num-envs", "n-steps": "num-steps",
    "n-epochs": "update-epochs", "num-epochs": "update-epochs", "update-epoch": "update-epochs",
    "n-minibatch": "num-minibatches", "num-minibatch": "num-minibatches", "clip-coef": "clip-eps",
    "clip-range": "clip-eps", "clip-vloss": "clip-value", "entropy-coef": "ent-coef", "value-coef": "vf-coef",
    "target-update-interval": "target-network-frequency", "target-update-freq": "target-network-frequency",
    "train-freq": "train-frequency", "training-interval": "train-frequency", "gradient-steps": "train-frequency",
    "polyak": "tau", "exploration-initial-eps": "start-e", "exploration-final-eps": "end-e", "eps-start": "start-e",
    "eps-end": "end-e", "epsilon-start": "start-e", "epsilon-finish": "end-e", "ddqn": "double-dqn",
    "normalize-observations": "normalize-obs", "normalize-env": "normalize-obs", "normalize-rewards": "scale-reward",
    "capture-video": "gif", "render": "gif", "seeds": "num-seeds", "n-seeds": "num-seeds", "exp-name": "run-dir",
    "output": "run-dir", "log-dir": "run-dir", "wandb": "track", "wandb-project-name": "track", "load": "init-from",
    "checkpoint": "resume", "pop-size": "population", "popsize": "population", "num-generations": "generations",
    "q-lambda": "lambda", "td-lambda": "lambda",
}  # fmt: skip


def no_such_flag(flag, names):
    """A line that names the flag meant: by what other projects call it, else the nearest; none where none is near."""
    flags, typed = [flag_name(name) for name in names], flag.lstrip("-").replace("_", "-").lower()
    near = [ALIASES[typed]] if ALIASES.get(typed) in flags else []
    near = near or difflib.get_close_matches(typed.removeprefix("no-"), flags, n=1, cutoff=0.7)
    return f"there is no flag {flag}" + (f"; did you mean --{near[0]}?" if near else "; --help lists them all")


# --- Records of earlier runs ------------------------------------------------------------------------------------------
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


def named_folder(argv, flag):
    folder = flag_value(argv, flag)
    return None if folder is None else Path(local_path(flag.lstrip("-"), folder))


def read_json(flag, folder):
    """config.json of a run directory that was given to a flag. Raises UsageError."""
    try:
        saved = json.loads((folder / "config.json").read_text())
        return {"script": saved["script"], "config": dict(saved["config"]), "options": dict(saved["options"])}
    except (OSError, KeyError, TypeError, ValueError):
        raise UsageError(
            f"{flag} {folder} is no run directory (no readable config.json): see the folders in runs/"
        ) from None


def read_record(script, flag, folder):
    """The Record of a run. Raises UsageError for a folder that is no run of this script as it is now."""
    saved = read_json(flag, folder)
    if saved["script"] != script.name:
        name, path = saved["script"], shlex.quote(str(folder))
        raise UsageError(f"{flag} {folder} is a run of {name}.py: type python {name}.py {flag} {path}")
    if script.spreads and "num_seeds" not in saved["options"]:
        raise UsageError(
            f"{flag} {folder}: this evolution was begun by version 0.2.0, whose checkpoints are no longer read: go on"
            " with that version, or start a new run"
        )
    import_files(folder / Path(path).name for path in saved["options"].get("imports", ()))
    try:
        options = {k: v for k, v in saved["options"].items() if k not in PROCESSES}
        return Record(from_json(script.Config, saved["config"]), from_json(script.kind.Options, options))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{flag} {folder}: {script.path.name} no longer takes the settings of this run ({error}): use its old"
            " version, which the folder holds"
        ) from None


def from_json(kind, values):
    """A dataclass from what JSON made of one: lists are tuples again, fields that follow from others are left out."""
    derived = {field.name for field in dataclasses.fields(kind) if not field.init}
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k not in derived})


def refuse_changes(record, config, options, free, goes_on, instead):
    """Raises UsageError if flags beside a run that is named would change anything but the free settings."""
    now = dataclasses.asdict(config) | dataclasses.asdict(options)
    before = dataclasses.asdict(record.config) | dataclasses.asdict(record.options)
    for name, value in now.items():
        was = before[name]
        if value != was and name not in free:
            flag = flag_name(name)
            raise UsageError(f"{goes_on} {flag} = {was}, not {value}: drop --{flag}, or {instead}")

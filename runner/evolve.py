"""The host side of an evolution: command line, a loop over chunks of generations, the record, then the comparison."""

import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import NamedSharding

from runner import compare, hosts, loss_plots
from runner.checkpoint import Checkpoints, from_words, to_words, word_shapes
from runner.cli import (
    PROCESSES,
    Record,
    check_counts,
    check_processes,
    choose_run_dir,
    flag_value,
    from_json,
    parse,
    read_arguments,
    read_record,
    refuse_changes,
    resumed_folder,
    usage_errors,
)
from runner.devices import (
    compile_program,
    everywhere,
    make_mesh,
    shapes_on,
    spread_over,
    use_compile_cache,
    without_cache_chatter,
)
from runner.errors import Interrupted, UsageError, go_on_after, mendable, require
from runner.members import Member
from runner.progress import Progress
from runner.record import locked, open_metrics, open_record, replacing, write_json

CHUNK_SECONDS = 5.0  # how often the host looks: a checkpoint is written each time
MAX_CHUNK = 256  # generations, the rows of the buffer that a chunk fills on the device


@dataclasses.dataclass(frozen=True)
class EvolveOptions:
    """How to run; what to evolve is the script's Config."""

    preset: str = "cpu"  # settings to start from: cpu, or purejaxrl and lpo, the published ones, for a GPU
    seed: int = 0  # of the evolution
    run_dir: str = ""  # where to leave the record; by default runs/SCRIPT/ENV/TIME-HASH
    resume: str = ""  # a run directory to go on with, to its end; no other setting is needed
    track: Literal["none", "wandb", "tensorboard"] = "none"  # also log every generation there
    max_members_at_once: int = 0  # train at most so many agents at a time; 0: all of a generation
    compile_cache: bool = True  # keep compiled programs between runs, in the user's cache folder
    held_out: tuple[str, ...] = ("Acrobot-v1",)  # environments to compare losses on at the end, beside env_ids
    eval_seeds: int = 64  # agents per loss and environment in the comparison at the end; 0: no comparison
    tune_seeds: int = 16  # agents per setting of the hand-written loss when it is tuned for the comparison
    distributed: bool = False  # this is one of many processes; under SLURM and Open MPI 4 nothing else is needed
    coordinator: str = ""  # elsewhere: HOST:PORT, where process 0 is to be found
    num_processes: int = 0  # and how many there are
    process_id: int = 0  # and which one this is

    def __post_init__(self):
        check_processes(self)
        check_counts(self, {"seed": 0, "max_members_at_once": 0, "eval_seeds": 0, "tune_seeds": 1})
        if self.eval_seeds == 1:
            raise ValueError("eval_seeds must be 0 or at least 2: one agent has no interval")


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """How to compare a learned loss with others."""

    loss: str = ""  # the run directory of an evolution, or a learned_loss.npz
    env_ids: tuple[str, ...] = ()  # where; by default the environments of the evolution, and Acrobot-v1
    num_seeds: int = 64  # agents per loss and environment
    tune_seeds: int = 16  # agents per setting of the hand-written loss when it is tuned
    seed: int = compare.FIRST_SEED  # the first seed; the others, and those for tuning, follow one by one
    total_timesteps: int = 0  # env steps of one agent; 0: as in the evolution
    run_dir: str = ""  # where to leave the results; by default the run directory itself, or beside the .npz
    max_members_at_once: int = 0  # train at most so many agents at a time; 0: num_seeds
    compile_cache: bool = True  # keep compiled programs between runs, in the user's cache folder

    def __post_init__(self):
        least = {"num_seeds": 2, "tune_seeds": 1, "seed": 0, "total_timesteps": 0, "max_members_at_once": 0}
        check_counts(self, least)


class Evolution(NamedTuple):
    """The script as the runner sees it: where it is, its settings, and the functions of its module."""

    path: Path
    module: ModuleType

    Options = EvolveOptions
    FREE_OPTIONS = ("resume", "track", "compile_cache", "held_out", "eval_seeds", "tune_seeds", *PROCESSES)

    @property
    def name(self):
        return self.path.stem

    @property
    def Config(self):
        return self.module.Config


class Plan(NamedTuple):
    """A checked command line."""

    script: Evolution
    config: Any
    options: EvolveOptions
    points: list[dict]
    members: list[Member]  # one, the evolution: what metrics.csv and trackers log
    run_dir: Path | None


def main(module, argv=None):
    """Runs the command line and exits: 0 when done, 2 on bad input or a full disk, 130 when interrupted."""
    script = Evolution(Path(module.__file__).resolve(), module)
    argv = sys.argv[1:] if argv is None else argv
    with usage_errors(script.path.name):
        if argv[:1] == ["evaluate"]:
            sys.exit(evaluate(script, argv[1:]))
        sys.exit(run(make_plan(script, argv)))


def make_plan(script, argv):
    """Reads and checks a command line. Raises UsageError; writes nothing."""
    resume = resumed_folder(argv)
    record = read_record(resume, script) if resume is not None else preset_defaults(script, argv)
    config, options = parse(script, argv, record)
    if resume is not None:
        refuse_changes(script, record, config, options)
        refuse_another_comparison(resume, record.options, options)
    for env_id in options.held_out:
        check(lambda env_id=env_id: script.module.agent_config(config, env_id), f"--held-out {env_id} can't be used: ")
    if options.track != "none":
        require(options.track, f"--track {options.track}")
    member = Member(0, 0, options.seed, {})
    return Plan(script, config, options, [{}], [member], choose_run_dir(options, resume))


def refuse_another_comparison(folder, before, now):
    """Raises UsageError where --resume would compare otherwise, and the comparison is done."""
    changed = [name for name in ("held_out", "eval_seeds", "tune_seeds") if getattr(now, name) != getattr(before, name)]
    if changed and (folder / "evaluation.csv").exists():
        raise UsageError(
            f"--{changed[0].replace('_', '-')}: this run's losses are compared already; for another comparison type"
            f" python meta_evolve_loss.py evaluate --loss {folder}"
        )


def check(function, prefix=""):
    """Calls function and returns what it gives; its ValueError becomes a UsageError."""
    try:
        return function()
    except ValueError as error:
        raise UsageError(f"{prefix}{error}") from error


def preset_defaults(script, argv):
    """The settings of --preset, as defaults for the other flags."""
    name = flag_value(argv, "--preset") or EvolveOptions.preset
    if name not in script.module.PRESETS:
        raise UsageError(f"--preset must be one of {', '.join(script.module.PRESETS)}, not {name!r}")
    return Record(check(lambda: script.Config(**script.module.PRESETS[name])), EvolveOptions(preset=name))


# --- Evolution --------------------------------------------------------------------------------------------------------
def frames_per_generation(module, config):
    """Env steps of all agents of one generation."""
    agents = [module.agent_config(config, env_id) for env_id in config.env_ids]
    each = sum(agent.num_updates * agent.steps_per_update for agent in agents)
    return config.population * config.seeds_per_candidate * each


class Program(NamedTuple):
    """The compiled functions of an evolution."""

    init: Any  # (seed) -> state
    chunk: Any  # (state, number of generations) -> (state, {metric: (MAX_CHUNK,)})
    like: Any  # shapes and dtypes of a state
    everywhere: NamedSharding  # of a state: a copy on each device
    compile_seconds: float


def build(plan, mesh):
    """Compiles init and chunk; agents are spread over the mesh, everything else is done on each device alike."""
    start = time.monotonic()
    evolve = plan.script.module.make_evolve(plan.config, spread_over(mesh, plan.options.max_members_at_once))
    whole = everywhere(mesh)

    def init(seed):
        return evolve(jax.random.key(seed), num_generations=0)[0]

    @jax.jit  # traced once, for its shapes and for the loop
    def one_generation(state):
        state, metrics = evolve(None, state=state, num_generations=1)
        return state, {name: x[0] for name, x in metrics.items()}

    def generation_and_store(i, loop):
        state, buffer = loop
        state, metrics = one_generation(state)
        return state, {name: buffer[name].at[i].set(x) for name, x in metrics.items()}

    def chunk(state, num_generations):
        """num_generations is a traced number: a chunk of any length runs the same program, so gives the same bits."""
        shapes = jax.eval_shape(one_generation, state)[1]
        buffer = {name: jnp.zeros(MAX_CHUNK, x.dtype) for name, x in shapes.items()}
        return jax.lax.fori_loop(0, num_generations, generation_and_store, (state, buffer))

    seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=whole)
    number = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    like = shapes_on(whole, jax.eval_shape(init, seed))
    compiled_init = compile_program(jax.jit(init, out_shardings=whole), seed)
    compiled_chunk = compile_program(jax.jit(chunk, out_shardings=whole), like, number)
    return Program(compiled_init, compiled_chunk, like, whole, time.monotonic() - start)


def run(plan):
    """Evolves, writes the record and compares what was found; returns the exit code."""
    hosts.start(plan, apart=PROCESSES)
    if plan.options.compile_cache:
        use_compile_cache()
    config = plan.config
    mesh = make_mesh(config.population * config.seeds_per_candidate)
    run_dir, tracker = open_record(plan, mesh, f"{config.population} candidates per generation")
    progress = Progress(config.generations, tracker, unit=" generations")
    less = "try a smaller --max-members-at-once or --population"
    if plan.options.resume:
        less = "resume on as many devices as before, or more, or compare fewer agents: --eval-seeds"
    try:
        with mendable(run_dir, less, go_on_after(run_dir)), locked(run_dir):
            state, timing = evolve(plan, mesh, run_dir, progress)
            progress.close()
            if hosts.is_first():
                with without_cache_chatter():
                    write_evolution(plan, run_dir, state, timing)
            if hosts.any_of(progress.interrupted):
                raise Interrupted
            if plan.options.eval_seeds and not hosts.any_of((run_dir / "evaluation.csv").exists()):
                compare_at_end(plan, mesh, run_dir)
            hosts.finish()
    except Interrupted:
        print(f"stopped; go on with: python {plan.script.path.name} --resume {run_dir}")
        hosts.finish()
        return 130
    except jax.errors.JaxRuntimeError:
        hosts.await_verdict()
        raise
    finally:
        progress.end()
    compared = ", evaluation.csv, summary.json, comparison.png" if plan.options.eval_seeds else ""
    print(f"record: {run_dir}/learned_loss.npz, fitness.png, metrics.csv{compared}")
    return 0


def evolve(plan, mesh, run_dir, progress):
    """Evolves to the end, or on from the last whole checkpoint; returns the final state and what it took."""
    config, members, done, seconds = plan.config, plan.members, 0, 0.0
    with without_cache_chatter():
        program = build(plan, mesh)
    progress.compiled(program)
    frames = frames_per_generation(plan.script.module, config)
    metrics_file = open_metrics(run_dir / "metrics.csv")
    checkpoints = Checkpoints(run_dir / "checkpoints")
    loaded = checkpoints.load(word_shapes(program.like))
    for name in loaded.damaged:
        progress.say(f"checkpoint {name} is damaged: skipped for the one before")
    if loaded.arrays is None:
        state = program.init(jax.device_put(np.uint32(plan.options.seed), program.everywhere))
    else:
        state, done, seconds = from_words(loaded.arrays, program.like), loaded.update, loaded.notes["seconds"]
        metrics_file.go_to(loaded.notes["metrics_bytes"])
    baseline = baseline_fitness(plan.script.module, config, local(state))
    if not np.isfinite(baseline).all():
        number = np.sum(~np.isfinite(baseline))
        raise UsageError(
            f"the hand-written loss itself fails in {number} of {len(baseline)} agents (no episode ended, or parameters"
            " went NaN): use a larger --total-timesteps or a smaller --lr"
        )
    progress.say(f"hand-written loss: fitness {baseline.mean():.4g} over {len(baseline)} agents")
    progress.skip(done)
    length = 1
    while done < config.generations and not hosts.any_of(progress.interrupted):
        start = time.monotonic()
        length = min(hosts.agree(length), config.generations - done)
        state, buffer = program.chunk(state, jax.device_put(np.int32(length), program.everywhere))
        metrics = {name: np.asarray(x)[:length, None] for name, x in buffer.items()}
        took = time.monotonic() - start
        metrics["env_steps"] = np.arange(done + 1, done + length + 1)[:, None] * frames
        metrics_file.append(members, done + 1, metrics)
        mean, best = metrics["fitness_mean"][-1, 0], metrics["fitness_best"][-1, 0]
        failed = int(metrics["nan_candidates"].sum())
        text = f"fitness {mean:.4g}, best {best:.4g}, hand-written {baseline.mean():.4g}"
        text += f", {length * frames / took:,.0f} frames/s" + (f", {failed} NaN" if failed else "")
        progress.advance(length, members, done + 1, metrics, text)
        done, seconds = done + length, seconds + took
        metrics_file.sync()
        checkpoints.save(done, to_words(state), {"metrics_bytes": metrics_file.position, "seconds": seconds})
        length = max(1, min(MAX_CHUNK, 4 * length, round(length * CHUNK_SECONDS / took)))
    checkpoints.close()
    metrics_file.close()
    if done < config.generations or hosts.any_of(progress.interrupted):
        raise Interrupted
    state = local(state)
    rate = done * frames / seconds
    progress.say(f"compiled in {program.compile_seconds:.1f} s, evolved in {seconds:.1f} s ({rate:,.0f} frames/s)")
    return state, {"compile_seconds": program.compile_seconds, "evolve_seconds": seconds, "frames_per_second": rate}


def local(state):
    """A state that lies on every device of all processes, on one device of this one: for work of its own."""
    return from_words(jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), to_words(state)), state)


def baseline_fitness(module, config, state):
    """Fitness of the hand-written loss, one value per agent: a return, or relative where environments share a scale."""
    returns = state.baseline.T
    if len(config.env_ids) > 1:
        returns = module.relative_return(returns, state.baseline)
    return np.asarray(returns.mean(axis=1))


def write_evolution(plan, run_dir, state, timing):
    """Writes the learned loss and the pictures of the evolution."""
    module, config = plan.script.module, plan.config
    learned = module.mean_params(config, state)
    with replacing(run_dir / "learned_loss.npz") as temporary:
        module.save_loss(temporary, config, learned, state.first)
    metrics = pd.read_csv(run_dir / "metrics.csv")
    failed = int(metrics["nan_candidates"].sum())
    if failed:
        print(f"{failed} of {config.generations * config.population} candidates went NaN and were ranked last")
    last = metrics.iloc[-1][["fitness_mean", "fitness_best"]].to_dict()
    summary = run_dir / "summary.json"
    before = json.loads(summary.read_text()) if summary.exists() else {}  # with the comparison, where that is done
    write_json(summary, before | {"evolution": last | {"nan_candidates": failed} | timing})
    loss_plots.fitness(run_dir / "fitness.png", config, metrics, baseline_fitness(module, config, state))
    loss_plots.losses(run_dir, module, config, learned)


# --- Comparison -------------------------------------------------------------------------------------------------------
def compare_at_end(plan, mesh, run_dir):
    """Compares the losses that evolution found and began with, as `evaluate` does."""
    options = CompareOptions(
        loss=str(run_dir),
        env_ids=tuple(dict.fromkeys((*plan.config.env_ids, *plan.options.held_out))),
        num_seeds=plan.options.eval_seeds,
        tune_seeds=plan.options.tune_seeds,
        max_members_at_once=plan.options.max_members_at_once,
    )
    module = plan.script.module
    write_comparison(module, plan.config, module.read_loss(run_dir), options, mesh, run_dir)


def evaluate(script, argv):
    """python SCRIPT evaluate: compares a learned loss with others; returns the exit code."""
    module = script.module
    description = "Compares a learned loss with hand-written ones on fresh seeds."
    options = read_arguments(f"{script.path.name} evaluate", description, argv, run=CompareOptions()).run
    if not options.loss:
        raise UsageError("evaluate needs --loss: the run directory of an evolution, or its learned_loss.npz")
    loss = check(lambda: module.read_loss(options.loss))
    changes = {"total_timesteps": options.total_timesteps} if options.total_timesteps else {}
    try:
        config = from_json(script.Config, loss.config)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"--loss {options.loss}: its settings do not fit {script.path.name} ({error})") from error
    config = check(lambda: dataclasses.replace(config, **changes))
    env_ids = tuple(dict.fromkeys(options.env_ids or (*config.env_ids, *EvolveOptions.held_out)))
    for env_id in env_ids:
        check(lambda env_id=env_id: module.agent_config(config, env_id), "--env-ids: ")
    if options.compile_cache:
        use_compile_cache()
    if options.run_dir and any(path.name != ".lock" for path in Path(options.run_dir).glob("*")):
        raise UsageError(f"--run-dir {options.run_dir} exists already: choose a new folder")
    path = Path(options.loss)
    run_dir = Path(options.run_dir or (path if path.is_dir() else path.parent / f"{path.stem}-evaluation"))
    try:
        with mendable(run_dir, "try a smaller --max-members-at-once", "choose another --run-dir, or free some space"):
            run_dir.mkdir(parents=True, exist_ok=True)
            options = dataclasses.replace(options, env_ids=env_ids)
            with locked(run_dir):
                write_comparison(module, config, loss, options, make_mesh(options.num_seeds), run_dir)
    except Interrupted:
        print("stopped; nothing was written")
        return 130
    print(f"record: {run_dir}/evaluation.csv, tuning.csv, summary.json, comparison.png")
    return 0


def set_aside(run_dir):
    """Copies an earlier comparison into a folder of its own, evaluation-1 and so on."""
    if (run_dir / "evaluation.csv").exists():
        number = 1 + sum(1 for _ in run_dir.glob("evaluation-*"))
        (run_dir / f"evaluation-{number}").mkdir()
        for name in ("tuning.csv", "summary.json", "comparison.png", "evaluation.csv"):
            if (run_dir / name).exists():
                shutil.copyfile(run_dir / name, run_dir / f"evaluation-{number}" / name)


def write_comparison(module, config, loss, options, mesh, run_dir):
    """Compares and writes evaluation.csv, tuning.csv, summary.json and comparison.png; prints the tables."""
    evaluation, tuning = compare.compare(module, config, loss.learned, loss.first, options, mesh)
    if not hosts.is_first():
        return
    summary = compare.summarize(module, config, evaluation, tuning)
    set_aside(run_dir)
    try:
        evolution = json.loads((run_dir / "summary.json").read_text()).get("evolution")
    except (OSError, ValueError, AttributeError):
        evolution = None
    record = {"evolution": evolution, "options": dataclasses.asdict(options), "environments": summary}
    write_json(run_dir / "summary.json", record)
    loss_plots.comparison(run_dir / "comparison.png", summary)
    for name, table in (("tuning.csv", tuning), ("evaluation.csv", evaluation)):  # the last says that all is there
        with replacing(run_dir / name) as temporary:
            table.to_csv(temporary, index=False)
    compare.print_tables(summary, config.num_updates * config.steps_per_update, module.evolved_outcome(config))

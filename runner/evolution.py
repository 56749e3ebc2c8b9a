"""Scripts that evolve losses: presets before; the learned loss, its pictures and a comparison after."""

import dataclasses
import json
import shlex
import shutil
from pathlib import Path

import numpy as np

from runner.plan.checks import changed_config, check_counts, check_environment, valid_config
from runner.plan.command_line import flag_value, from_json, make_plan, read_arguments, settable
from runner.plan.errors import Interrupted, UsageError, mendable
from runner.plan.script import Kind, Options, Record
from runner.plan.sweeps import changes_by_environment, flag_name

FIRST_SEED = 10_000  # of the comparison: far from the seeds that people evolve and train with


@dataclasses.dataclass(frozen=True)
class EvolutionOptions(Options):
    """How to run; what to evolve is the script's Config."""

    num_seeds: int = 1  # evolutions per sweep point, one after the other
    preset: str = "cpu"  # settings to start from: cpu, or purejaxrl and lpo, the published ones, for a GPU
    held_out: tuple[str, ...] = ("Acrobot-v1",)  # environments to compare losses on at the end, beside env_ids
    eval_seeds: int = 64  # agents per loss and environment in the comparison at the end; 0: no comparison
    tune_seeds: int = 16  # agents per setting of the hand-written loss when it is tuned for the comparison


@dataclasses.dataclass(frozen=True)
class CompareOptions:
    """How to compare a learned loss with others."""

    loss: str = ""  # the run directory of an evolution, or a learned_loss.npz
    env_ids: tuple[str, ...] = ()  # where; by default the environments of the evolution, and Acrobot-v1
    env_params: tuple[
        str, ...
    ] = ()  # ENV_ID:NAME=VALUE,... as in CartPole-v1:gravity=20; elsewhere as in the evolution
    num_seeds: int = 64  # agents per loss and environment
    tune_seeds: int = 16  # agents per setting of the hand-written loss when it is tuned
    seed: int = FIRST_SEED  # the first seed; the others, and those for tuning, follow one by one
    total_timesteps: int = 0  # env steps of one agent; 0: as in the evolution
    run_dir: str = ""  # where to leave the results; by default the run directory itself, or beside the .npz
    max_members_at_once: int = 0  # train at most so many agents at a time; 0: num_seeds
    compile_cache: bool = True  # keep compiled programs between runs, in the user's cache folder


class Evolution(Kind):
    """The kind of meta_evolve_loss.py; module: the script's own, for its losses."""

    Options = EvolutionOptions
    free_options = ("held_out", "eval_seeds", "tune_seeds")
    metric = "fitness_mean"

    def __init__(self, module):
        self.module = module

    def run(self, script, argv):
        if argv[:1] == ["evaluate"]:
            return self.compare_again(script, argv[1:])
        plan = make_plan(script, argv)
        from runner.loop.run import run  # here and not above: --help and usage errors need not wait for it

        return run(plan)

    def defaults(self, script, argv):
        """The settings of --preset, as defaults for the other flags."""
        name = flag_value(argv, "--preset") or EvolutionOptions.preset
        presets = self.module.PRESETS
        if name not in presets:
            raise UsageError(f"--preset must be one of {', '.join(presets)}, not {name!r}")
        return Record(valid_config(script, settable(script.Config()) | presets[name]), EvolutionOptions(preset=name))

    def env_ids(self, values):
        env_ids = values["env_ids"]
        if not env_ids or len(set(env_ids)) < len(env_ids):
            raise UsageError(f'env_ids must be different environments, as in ("CartPole-v1",), not {env_ids!r}')
        return env_ids

    def settle(self, script, config, options):
        check_counts(options, {"eval_seeds": 0, "tune_seeds": 1})
        if options.eval_seeds == 1:
            raise UsageError("eval_seeds must be 0 or at least 2: one agent has no interval")
        if options.init_from:
            raise UsageError("--init-from starts agents, and an evolution has none of its own: begin it from --start")
        try:
            self.check_environments(script, config, options.held_out, "--held-out")
        except UsageError as error:
            if options.held_out != EvolutionOptions.held_out:
                raise
            print(f"note: compared only where it evolves ({error})")  # nobody asked for the default
            return dataclasses.replace(options, held_out=())
        return options

    def check_environments(self, script, config, env_ids, flag):
        for env_id in env_ids:
            try:
                check_environment(script, env_id, config.env_params, config.network)
            except UsageError as error:
                raise UsageError(f"{flag} {env_id} can't be used: {error}") from error

    def check_resumed(self, folder, before, options):
        """Raises UsageError where --resume would compare otherwise, and the comparison is done."""
        changed = [name for name in self.free_options if getattr(options, name) != getattr(before, name)]
        if changed and (folder / "evaluation.csv").exists():
            raise UsageError(
                f"--{flag_name(changed[0])}: this run's losses are compared already; for another comparison"
                f" type python meta_evolve_loss.py evaluate --loss {shlex.quote(str(folder))}"
            )

    # --- During -------------------------------------------------------------------------------------------------------
    def started(self, config, state, say):
        """Says what the hand-written loss gets. Raises UsageError where it fails itself."""
        baseline = np.concatenate([self.baseline_fitness(config, returns) for returns in np.asarray(state.baseline)])
        if not np.isfinite(baseline).all():
            number = np.sum(~np.isfinite(baseline))
            raise UsageError(
                f"the hand-written loss itself fails in {number} of {len(baseline)} agents (no episode ended, or"
                " parameters went NaN): use a larger --total-timesteps or a smaller --lr"
            )
        say(f"hand-written loss: fitness {baseline.mean():.4g} over {len(baseline)} agents")

    def baseline_fitness(self, config, returns):
        """Fitness of the hand-written loss's agents, (seeds,), from their returns (E, seeds)."""
        found = self.module.relative_return(returns.T, returns) if len(config.env_ids) > 1 else returns.T
        return np.asarray(found.mean(axis=1))

    def bar_text(self, metrics):
        mean, best = np.median(metrics["fitness_mean"][-1]), np.median(metrics["fitness_best"][-1])
        failed = int(metrics["nan_candidates"].sum())
        text = f"fitness {mean:.4g}, best {best:.4g}" + (f", {failed} NaN" if failed else "")
        return text + (", all alike: nothing moved" if (metrics["fitness_std"][-1] == 0).all() else "")

    def evaluate(self, plan, trained):
        """The states of a batch, on this process's host: all that the report needs."""
        from runner.loop.checkpoint import local

        return local(trained.state)

    # --- After --------------------------------------------------------------------------------------------------------
    def report(self, plan, run_dir, mesh, results):
        """Writes the losses and the pictures, then compares what was found with the hand-written loss."""
        from runner.loop import hosts
        from runner.loop.devices import without_cache_chatter

        if hosts.is_first():
            with without_cache_chatter():
                self.write_losses(plan, run_dir, results)
        if plan.options.eval_seeds and not hosts.any_of((run_dir / "evaluation.csv").exists()):
            options = CompareOptions(
                loss=str(run_dir),
                env_ids=tuple(dict.fromkeys((*plan.config.env_ids, *plan.options.held_out))),
                num_seeds=plan.options.eval_seeds,
                tune_seeds=plan.options.tune_seeds,
                max_members_at_once=plan.options.max_members_at_once,
            )
            print("comparing losses, which compiles anew for each environment; --eval-seeds 0 leaves it out")
            hosts.wait_for_all("the learned loss is written")
            loss = self.module.read_loss(run_dir)
            self.write_comparison(from_json(type(plan.config), loss.config), loss, options, mesh, run_dir)
        compared = ", evaluation.csv, comparison.png" if plan.options.eval_seeds else ""
        print(f"record: {run_dir}/learned_loss.npz, fitness.png, metrics.csv, summary.json{compared}")

    def write_losses(self, plan, run_dir, results):
        """learned_loss.npz and the pictures, of the best point's first seed; of several evolutions each in losses/."""
        import jax
        import pandas as pd

        from runner.loop.record import replacing, write_json
        from runner.report import loss_plots, summary

        before = read_summary(run_dir)  # with the comparison, where that is done
        found = summary.write(plan, run_dir, [trained for trained, _ in results], ("final_return",))
        chosen = next(member for member in plan.members if member.point == found["best_point"])
        metrics = pd.read_csv(run_dir / "metrics.csv")
        for trained, states in results:
            for row, member in enumerate(trained.batch.members):
                config = dataclasses.replace(trained.batch.config, **member.values)
                state = jax.tree.map(lambda x, row=row: x[row], states)
                learned = self.module.mean_params(config, state)
                paths = [run_dir / "losses" / f"{member.index:03d}.npz"] if len(plan.members) > 1 else []
                paths += [run_dir / "learned_loss.npz"] if member is chosen else []
                for path in paths:
                    path.parent.mkdir(exist_ok=True)
                    with replacing(path) as temporary:
                        self.module.save_loss(temporary, config, learned, state.first)
                if member is chosen:
                    own = metrics[metrics["member"] == member.index]
                    baseline = self.baseline_fitness(config, np.asarray(state.baseline))
                    loss_plots.fitness(run_dir / "fitness.png", config, own, baseline)
                    loss_plots.losses(run_dir, self.module, config, learned)
        failed = int(metrics["nan_candidates"].sum())
        if failed:
            print(f"{failed} of {len(metrics) * plan.config.population} candidates went NaN and were ranked last")
        last = metrics[metrics["member"] == chosen.index].iloc[-1][["fitness_mean", "fitness_best"]].to_dict()
        evolution = {"evolution": {"member": chosen.index} | last | {"nan_candidates": failed}}
        compared = {name: before[name] for name in ("comparison", "environments") if name in before}
        write_json(run_dir / "summary.json", read_summary(run_dir) | evolution | compared)
        if len(plan.members) > 1:
            print(
                f"learned_loss.npz and the pictures are of member {chosen.index} ({chosen.name}), the others in losses/"
            )

    def compare_again(self, script, argv):
        """python SCRIPT evaluate: compares a learned loss with others; returns the exit code."""
        description = "Compares a learned loss with hand-written ones on fresh seeds."
        options = read_arguments(f"{script.path.name} evaluate", description, argv, run=CompareOptions()).run
        least = {"num_seeds": 2, "tune_seeds": 1, "seed": 0, "total_timesteps": 0, "max_members_at_once": 0}
        check_counts(options, least)
        if not options.loss:
            raise UsageError("evaluate needs --loss: the run directory of an evolution, or its learned_loss.npz")
        try:
            loss = self.module.read_loss(options.loss)
        except ValueError as error:
            raise UsageError(str(error)) from error
        try:
            config = from_json(script.Config, loss.config)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"--loss {options.loss}: its settings do not fit {script.path.name} ({error})") from error
        changes = {"total_timesteps": options.total_timesteps} if options.total_timesteps else {}
        config = changed_config(script, config, changes)
        env_ids = tuple(dict.fromkeys(options.env_ids or (*config.env_ids, *EvolutionOptions.held_out)))
        changes = changes_by_environment(options.env_params, env_ids)
        for env_id in env_ids:
            own = dataclasses.replace(config, env_params=changes.get(env_id, config.env_params))
            self.check_environments(script, own, [env_id], "--env-ids")
        if options.run_dir and any(path.name != ".lock" for path in Path(options.run_dir).glob("*")):
            raise UsageError(f"--run-dir {options.run_dir} exists already: choose a new folder")
        path = Path(options.loss)
        run_dir = Path(options.run_dir or (path if path.is_dir() else path.parent / f"{path.stem}-evaluation"))
        return self.compare_into(run_dir, config, loss, dataclasses.replace(options, env_ids=env_ids))

    def compare_into(self, run_dir, config, loss, options):
        from runner.loop.devices import make_mesh, use_compile_cache
        from runner.loop.record import locked

        if options.compile_cache:
            use_compile_cache()
        try:
            again = "nothing was written, choose another --run-dir"
            with mendable(run_dir, "try a smaller --max-members-at-once", lambda: again):
                run_dir.mkdir(parents=True, exist_ok=True)
                with locked(run_dir):
                    self.write_comparison(config, loss, options, make_mesh(options.num_seeds), run_dir)
        except Interrupted:
            print("stopped; nothing was written")
            return 130
        print(f"record: {run_dir}/evaluation.csv, tuning.csv, summary.json, comparison.png")
        return 0

    def write_comparison(self, config, loss, options, mesh, run_dir):
        """Compares and writes evaluation.csv, tuning.csv, summary.json and comparison.png; prints the tables."""
        from runner.loop import hosts
        from runner.loop.record import replacing, write_json
        from runner.report import compare_losses, loss_plots

        module = self.module
        evaluation, tuning = compare_losses.compare(module, config, loss.learned, loss.first, options, mesh)
        if not hosts.is_first():
            return
        summary = compare_losses.summarize(module, config, evaluation, tuning)
        set_aside(run_dir)
        compared = {"comparison": dataclasses.asdict(options), "environments": summary}
        write_json(run_dir / "summary.json", read_summary(run_dir) | compared)
        loss_plots.comparison(run_dir / "comparison.png", summary)
        for name, table in (("tuning.csv", tuning), ("evaluation.csv", evaluation)):  # the last says that all is there
            with replacing(run_dir / name) as temporary:
                table.to_csv(temporary, index=False)
        agent = module.agent_config(config, config.env_ids[0])
        steps = agent.num_updates * agent.steps_per_update
        compare_losses.print_tables(summary, steps, module.evolved_outcome(config))


def read_summary(run_dir):
    """What summary.json holds; nothing where there is none."""
    try:
        return dict(json.loads((run_dir / "summary.json").read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def set_aside(run_dir):
    """Copies an earlier comparison into a folder of its own, evaluation-1 and so on."""
    if (run_dir / "evaluation.csv").exists():
        number = 1 + sum(1 for _ in run_dir.glob("evaluation-*"))
        (run_dir / f"evaluation-{number}").mkdir()
        for name in ("tuning.csv", "summary.json", "comparison.png", "evaluation.csv"):
            if (run_dir / name).exists():
                shutil.copyfile(run_dir / name, run_dir / f"evaluation-{number}" / name)

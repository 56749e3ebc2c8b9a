"""Trackers: wandb, a run per sweep point with its seeds as series, or tensorboard, a folder per member."""

import hashlib
import os

from runner.plan.errors import UsageError, first_line
from runner.plan.members import show


def make_tracker(plan, run_dir):
    """The tracker that --track names, or None. Raises UsageError if it won't start."""
    name = plan.options.track
    if name == "none":
        return None
    try:
        return {"wandb": WandbTracker, "tensorboard": TensorboardTracker}[name](plan, run_dir)
    except Exception as error:  # wandb: not logged in, no network
        hint = "; type wandb login first, or set WANDB_MODE=offline" if name == "wandb" else ""
        raise UsageError(f"--track {name} did not start ({first_line(error)}){hint}") from error


class WandbTracker:
    """Real wandb runs over env steps; WANDB_MODE=offline keeps them on this machine.

    WANDB_PROJECT names another project than the script's, WANDB_ENTITY whose it is.
    """

    def __init__(self, plan, run_dir):
        import wandb

        self.runs = {}
        for point, values in enumerate(plan.points):
            name = f"{run_dir.resolve()}/{point}"
            self.runs[point] = wandb.init(
                project=os.environ.get("WANDB_PROJECT", plan.script.name),
                group=run_dir.name,
                name=", ".join(f"{k}={show(v)}" for k, v in values.items()) or run_dir.name,
                id=hashlib.sha256(name.encode()).hexdigest()[:16],  # the same when the run is resumed
                resume="allow",
                reinit="create_new",
                dir=run_dir,
                config=vars(plan.config) | values | {"seed": plan.options.seed, "num_seeds": plan.options.num_seeds},
            )
            self.runs[point].define_metric("*", step_metric="env_steps")

    def log(self, members, first_update, metrics):
        for row in range(len(metrics["env_steps"])):
            points = {}
            for column, member in enumerate(members):
                values = points.setdefault(member.point, {"env_steps": int(metrics["env_steps"][row, column])})
                own = {name: float(x[row, column]) for name, x in metrics.items() if name != "env_steps"}
                values |= {f"{name}/seed {member.seed}": x for name, x in own.items()}
            for point, values in points.items():
                self.runs[point].log(values)

    def summarize(self, points):
        """Final and evaluation returns of each sweep point, as summary.json has them."""
        for run, point in zip(self.runs.values(), points, strict=True):
            for score in ("final_return", "greedy_return", "sampled_return"):
                if score in point:
                    run.summary.update({f"{score}/{name}": x for name, x in point[score].items()})

    def close(self):
        for run in self.runs.values():
            run.finish()


class TensorboardTracker:
    """Event files under RUN_DIR/tensorboard, a folder per member; the step axis is env steps."""

    def __init__(self, plan, run_dir):
        from tensorboard.summary import Writer

        folder = run_dir / "tensorboard"
        self.writers = {m.index: Writer(str(folder / f"{m.index:03d} {m.name}")) for m in plan.members}

    def log(self, members, first_update, metrics):
        for column, member in enumerate(members):
            writer = self.writers[member.index]
            for row, step in enumerate(metrics["env_steps"][:, column]):
                for name, x in metrics.items():
                    writer.add_scalar(name, float(x[row, column]), int(step))

    def summarize(self, points):
        """Nothing: it shows curves."""

    def close(self):
        for writer in self.writers.values():
            writer.close()

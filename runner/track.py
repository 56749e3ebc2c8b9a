"""Trackers: wandb or tensorboard, one run per member, grouped by run directory."""

import hashlib

from runner.errors import UsageError, first_line


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
    """Real wandb runs; WANDB_MODE=offline keeps them on this machine."""

    def __init__(self, plan, run_dir):
        import wandb

        self.runs = {}
        for member in plan.members:
            name = f"{run_dir.resolve()}/{member.index}"
            self.runs[member.index] = wandb.init(
                project=plan.script.name,
                group=run_dir.name,
                name=member.name,
                id=hashlib.sha256(name.encode()).hexdigest()[:16],  # the same when the run is resumed
                resume="allow",
                reinit="create_new",
                dir=run_dir,
                config=vars(plan.config) | member.values | {"seed": member.seed},
            )

    def log(self, members, first_update, metrics):
        for column, member in enumerate(members):
            for row in range(len(metrics["env_steps"])):
                values = {name: float(x[row, column]) for name, x in metrics.items()}
                self.runs[member.index].log(values, step=first_update + row)

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

    def close(self):
        for writer in self.writers.values():
            writer.close()

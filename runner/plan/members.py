"""Members: every (sweep point, seed) pair of a run, cut into batches that one compiled program trains at once."""

import dataclasses

from runner.plan.checks import changed_config


@dataclasses.dataclass(frozen=True)
class Member:
    """One agent: its number in the run, its sweep point's number, its seed, and the swept fields' values."""

    index: int
    point: int
    seed: int
    values: dict

    @property
    def name(self):
        return ", ".join([f"seed {self.seed}", *(f"{k}={show(v)}" for k, v in self.values.items())])


@dataclasses.dataclass(frozen=True)
class Batch:
    """Members that one program trains side by side: one static config, and one value per member of each swept float."""

    name: str
    config: object
    members: list[Member]

    def seeds(self):
        return [member.seed for member in self.members]

    def floats(self):
        """{swept float field: one value per member}, what the program takes as traced arrays."""
        swept = self.members[0].values
        return {k: [m.values[k] for m in self.members] for k in swept if is_float(self.config, k)}


def is_float(config, name):
    return {field.name: field.type for field in dataclasses.fields(config)}[name] is float


def show(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def env_name(config):
    """The environment, with its parameters where they were changed."""
    return f"{config.env_id} ({config.env_params})" if config.env_params else config.env_id


def make_members(points, num_seeds, first_seed):
    """Seeds first_seed, first_seed + 1, ... for every point, numbered point by point."""
    pairs = [(point, first_seed + i) for point in range(len(points)) for i in range(num_seeds)]
    return [Member(index, point, seed, points[point]) for index, (point, seed) in enumerate(pairs)]


def make_batches(script, config, members, max_members):
    """Groups members by static swept values (each group compiles once) and cuts groups to max_members (0: no cut).

    Raises UsageError where a point's values make no valid config.
    """
    groups, checked = {}, set()
    for member in members:
        if member.point not in checked:
            changed_config(script, config, member.values)
            checked.add(member.point)
        static = tuple((k, v) for k, v in member.values.items() if not is_float(config, k))
        groups.setdefault(static, []).append(member)
    batches = []
    for static, group in groups.items():
        size = max_members or len(group)
        for start in range(0, len(group), size):
            cut = group[start : start + size]
            batches.append(Batch(f"batch-{len(batches):03d}", dataclasses.replace(config, **dict(static)), cut))
    return batches

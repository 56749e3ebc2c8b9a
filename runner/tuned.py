"""Settings that a search found, one line per script and environment in tuned.toml; --tuned starts from them."""

import tomllib
from pathlib import Path

from runner.members import show

TUNED = Path(__file__).with_name("tuned.toml")


def tuned_settings(script, env_id):
    """Fields of a script's Config ("ppo") that are tuned for an environment: Config(env_id=..., **tuned_settings(...)).

    Raises ValueError, naming the environments that are there, if there is no line for this one; for a copied script,
    saying how it gets some.
    """
    tuned = tomllib.loads(TUNED.read_text())
    if script not in tuned:
        raise ValueError(
            f"{TUNED} has no settings of {script}.py: if it is a copy, write the lines of the original there again,"
            f" under [{script}]"
        )
    if env_id not in tuned[script]:
        known = ", ".join(tuned[script])
        raise ValueError(f"no settings of {script}.py are tuned for {env_id}; there are some for: {known}")
    return tuned[script][env_id]


def tuned_note(script, config):
    """What --tuned says: the settings, and what was given in place of them."""
    settings = []
    for name, value in tuned_settings(script, config.env_id).items():
        given = getattr(config, name)
        settings.append(f"{name}={show(value)}" + (f" ({show(given)} given)" if given != value else ""))
    return f"settings tuned for {config.env_id}: {', '.join(settings) or 'the defaults'}"

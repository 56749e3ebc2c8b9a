"""Settings that a search found, one line per script and environment in tuned.toml; --tuned starts from them."""

import ast
import dataclasses
import tomllib
from pathlib import Path

from runner.plan.members import show

TUNED = Path(__file__).with_name("tuned.toml")
SCRIPTS = Path(__file__).parent.parent.parent  # where the scripts lie of which there are settings


def tuned_settings(script, env_id):
    """Fields of a script's Config ("ppo") that are tuned for an environment: Config(env_id=..., **tuned_settings(...)).

    Raises ValueError, naming the environments that are there, if there is no line for this one; for a copied script,
    saying how it gets some.
    """
    tuned = read()
    if script not in tuned:
        raise ValueError(
            f"{TUNED} has no settings of {script}.py: if it is a copy, write the lines of the original there again,"
            f" under [{script}]"
        )
    if env_id not in tuned[script]:
        known = ", ".join(tuned[script])
        raise ValueError(f"no settings of {script}.py are tuned for {env_id}; there are some for: {known}")
    return tuned[script][env_id]


def read():
    """{script: {env_id: settings}}, of scripts that have any."""
    return {script: lines for script, lines in tomllib.loads(TUNED.read_text()).items() if lines}


def tuned_name(script):
    """The script whose settings these are: the script itself, or of a copy the one whose settings it has all."""
    tuned = read()
    own = {field.name for field in dataclasses.fields(script.Config)}
    ancestors = [name for name in tuned if (SCRIPTS / f"{name}.py").exists() and config_fields(name) <= own]
    return script.name if script.name in tuned or not ancestors else ancestors[0]


def config_fields(name):
    """The fields of a script's Config, by its source."""
    body = ast.parse((SCRIPTS / f"{name}.py").read_text()).body
    [config] = [node for node in body if isinstance(node, ast.ClassDef) and node.name == "Config"]
    return {node.target.id for node in config.body if isinstance(node, ast.AnnAssign)}


def tuned_note(script, config):
    """What --tuned says: the settings, and what was given in place of them."""
    settings = []
    for name, value in tuned_settings(script, config.env_id).items():
        given = getattr(config, name)
        settings.append(f"{name}={show(value)}" + (f" ({show(given)} given)" if given != value else ""))
    return f"settings tuned for {script}.py in {config.env_id}: {', '.join(settings) or 'the defaults'}"

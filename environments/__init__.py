"""Environments beside gymnax's own. Importing this registers them with gymnax, for every script's --env-id."""

import gymnax

from environments.position_only_cartpole import PositionOnlyCartPole

ENVIRONMENTS = {"PositionOnlyCartPole-v1": PositionOnlyCartPole}

for env_id, factory in ENVIRONMENTS.items():
    if env_id not in gymnax.registered_envs:
        gymnax.register(env_id, factory)

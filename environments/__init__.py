"""Environments beside gymnax's own. Importing this registers them with gymnax, for every script's --env-id.

Those of other suites are called SUITE/NAME, and a suite is imported when one of its environments is made, not before.
`check(env)`, or `python -m environments check FILE.py:NAME`, finds what is wrong with an environment before training.
"""

import functools

import gymnax

from environments import (
    adapter,
    brax,
    control,
    craftax,
    jaxmarl,
    jumanji,
    navix,
    particles,
    pgx,
    playground,
    water_world,
    xminigrid,
)
from environments.cart_pole_swing_up import CartPoleSwingUp, CartPoleSwingUpHard
from environments.checking import check as check
from environments.flocking import Flocking
from environments.lanes import Lanes
from environments.position_only_cartpole import PositionOnlyCartPole

SUITES = {suite.SUITE: suite for suite in (brax, craftax, xminigrid, pgx, jumanji, playground, navix, jaxmarl)}
ENVIRONMENTS = {
    "PositionOnlyCartPole-v1": PositionOnlyCartPole,
    "CartPoleSwingUp-easy": CartPoleSwingUp,
    "CartPoleSwingUp-hard": CartPoleSwingUpHard,
    "WaterWorld-single": water_world.WaterWorld,
    "WaterWorld-several": water_world.several,
    "Flocking": lambda: Lanes(Flocking()),
}
ENVIRONMENTS |= particles.ENVIRONMENTS | control.ENVIRONMENTS
ENVIRONMENTS |= {
    f"{suite.SUITE}/{name}": functools.partial(adapter.make, suite, name)
    for suite in SUITES.values()
    for name in suite.NAMES
}

for env_id, factory in ENVIRONMENTS.items():
    if env_id not in gymnax.registered_envs:
        gymnax.register(env_id, factory)

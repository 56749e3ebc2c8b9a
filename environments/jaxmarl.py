"""JaxMARL (Rutherford et al. 2024, arXiv:2311.10090): games of several agents, who share one policy here."""

import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces

from environments.adapter import Adapter, Params, Unavailable, bounds
from environments.rendering import draw_discs

SUITE, PACKAGE, REQUIREMENT = "jaxmarl", "jaxmarl", "jaxmarl>=0.2,<0.3"
PARTICLES = (
    "MPE_simple_adversary_v3", "MPE_simple_crypto_v3", "MPE_simple_facmac_3a_v1", "MPE_simple_facmac_6a_v1",
    "MPE_simple_facmac_9a_v1", "MPE_simple_facmac_v1", "MPE_simple_push_v3", "MPE_simple_reference_v3",
    "MPE_simple_speaker_listener_v4", "MPE_simple_spread_v3", "MPE_simple_tag_v3", "MPE_simple_world_comm_v3",
)  # fmt: skip
KITCHENS = ("asymm_advantages", "coord_ring", "counter_circuit", "cramped_room", "forced_coord")
BATTLES = (
    "10m_vs_11m", "25m", "27m_vs_30m", "2s3z", "3m", "3s5z", "3s5z_vs_3s6z", "3s_vs_5z", "5m_vs_6m", "6h_vs_8z", "8m",
    "smacv2_10_units", "smacv2_20_units", "smacv2_5_units",
)  # fmt: skip
NAMES = (
    *PARTICLES,
    "overcooked",
    *(f"overcooked-{kitchen}" for kitchen in KITCHENS),
    "HeuristicEnemySMAX",
    *(f"HeuristicEnemySMAX-{battle}" for battle in BATTLES),
)
NEVER = 2**31 - 1


@struct.dataclass
class KitchenParams(Params):
    shaped_reward: float = (
        0.0  # weight of Overcooked's rewards for what leads to a delivery, beside those for deliveries
    )


def make(name):
    """Of the particle worlds, a kitchen of overcooked, or SMAX against its scripted enemies, by default in 5m."""
    # JaxMARL leaves sys.stdout and sys.stderr as they were when Python started: let it leave them as they are
    with mock.patch.multiple(sys, __stdout__=sys.stdout, __stderr__=sys.stderr):
        import jaxmarl

    game, _, place = name.partition("-")
    if game == "overcooked":
        from jaxmarl.environments.overcooked.layouts import overcooked_layouts

        return Overcooked(jaxmarl.make(game, layout=overcooked_layouts[place or "cramped_room"]))
    if game == "HeuristicEnemySMAX":
        from jaxmarl.environments.smax.smax_env import map_name_to_scenario

        env = jaxmarl.make(game, scenario=map_name_to_scenario(place) if place else None)
        return Smax(env, timed=env._env)
    return Particles(jaxmarl.make(name))


class JaxMarl(Adapter):
    """A game of JaxMARL, whose lanes are its agents (environments/lanes.py). `inner` is JaxMARL's state.

    An observation is the agent's own, filled up with zeros where others' are longer. Vectors end with a one-hot of who
    the agent is (parameter sharing with agent indication, Terry et al. 2020, arXiv:2005.13625), and then, where not all
    actions are always there, with a mask of num_masked legal ones. Images stay as they are.
    """

    def __init__(self, env, timed=None):
        timed = env if timed is None else timed  # where the time limit is
        self.env, self.num_agents, self.max_steps = env, env.num_agents, timed.max_steps
        timed.max_steps = NEVER  # its own limit would look like an end
        self.actions = [env.action_space(agent) for agent in env.agents]
        kinds = sorted({f"{type(space).__name__}{space.shape}" for space in self.actions})
        if len(kinds) > 1:
            raise Unavailable(f"{type(env).__name__} has agents that act in different spaces: {', '.join(kinds)}")
        self.sizes = [getattr(space, "n", 0) for space in self.actions]
        self.chosen = hasattr(env, "heuristic_policy") or len(set(self.sizes)) > 1
        self.num_masked = max(self.sizes) if self.chosen else 0

    def begin(self, key, params):
        obs, inner = self.env.reset(key)
        return self.seen(obs, inner), inner

    def go_on(self, key, inner, action, params):
        actions = dict(zip(self.env.agents, action, strict=True))
        obs, inner, reward, done, info = self.env.step_env(key, inner, actions)
        return self.seen(obs, inner), inner, self.rewards(self.by_agent(reward), info, params), done["__all__"]

    def rewards(self, reward, info, params):
        return reward

    def by_agent(self, values):
        return jnp.stack([jnp.asarray(values[agent]) for agent in self.env.agents])

    def seen(self, obs, inner):
        """Observations of all agents, (agents, ...)."""
        obs = [obs[agent] for agent in self.env.agents]
        if obs[0].ndim > 1:
            return jnp.stack(obs)
        size = max(len(x) for x in obs)
        obs = jnp.stack([jnp.pad(x.astype(jnp.float32), (0, size - len(x))) for x in obs])
        parts = [obs, jnp.eye(self.num_agents)]
        return jnp.concatenate([*parts, self.legal(inner)] if self.num_masked else parts, axis=1)

    def legal(self, inner):
        """Which actions there are, (agents, num_masked), of 0 and 1."""
        return (jnp.arange(self.num_masked) < jnp.array(self.sizes)[:, None]).astype(jnp.float32)

    def action_space(self, params=None):
        space = self.actions[0]
        return spaces.Discrete(max(self.sizes)) if self.sizes[0] else spaces.Box(space.low, space.high, space.shape)

    def observation_space(self, params=None):
        low, high = bounds(self.flat_shape.dtype)
        return spaces.Box(low, high, self.flat_shape.shape[1:], self.flat_shape.dtype)


class Particles(JaxMarl):
    """A multi-agent particle environment (Lowe et al. 2017, arXiv:1706.02275). It ends by the time alone."""

    def render(self, state):
        """The world from -1.5 to 1.5, in the colours that JaxMARL gives agents and landmarks."""
        inner = self.unpack(state)
        return draw_discs(
            np.asarray(inner.p_pos), np.asarray(self.env.rad), self.env.colour, ((-1.5, 1.5), (-1.5, 1.5))
        )


class Overcooked(JaxMarl):
    """Two cooks (Carroll et al. 2019, arXiv:1910.05789), each of whom sees the kitchen as an image, himself first.

    It ends by the time alone; that the end is near, which Overcooked shows in one channel, is not to be seen here.
    """

    @property
    def default_params(self):
        return KitchenParams(max_steps_in_episode=self.max_steps)

    def rewards(self, reward, info, params):
        return reward + params.shaped_reward * self.by_agent(info["shaped_reward"])

    def render(self, state):
        from jaxmarl.viz.overcooked_visualizer import OvercookedVisualizer

        inner = jax.tree.map(np.asarray, self.unpack(state))
        margin = self.env.agent_view_size - 2  # of walls around the kitchen, which its own viewer cuts, too
        kitchen = inner.maze_map[margin:-margin, margin:-margin]
        return OvercookedVisualizer._render_grid(
            kitchen, tile_size=32, highlight_mask=None, agent_dir_idx=inner.agent_dir_idx, agent_inv=inner.agent_inv
        )


class Smax(JaxMarl):
    """A battle like those of StarCraft's multi-agent challenge. It ends where one side is dead. A dead agent goes on
    to get its team's rewards, with zeros to see and nothing to do."""

    def legal(self, inner):
        return self.by_agent(self.env.get_avail_actions(inner)).astype(jnp.float32)

    def render(self, state):
        """Ours in blue, the others in red, the darker the fewer health is left."""
        inner, world = jax.tree.map(np.asarray, self.unpack(state)).state, self.env._env
        types = inner.unit_types
        health = np.clip(inner.unit_health / np.asarray(world.unit_type_health)[types], 0, 1)[:, None]
        team = np.arange(len(types)) >= world.num_allies
        colours = np.where(team[:, None], (220, 50, 40), (60, 110, 230)) * (0.3 + 0.7 * health)
        radius = np.asarray(world.unit_type_radiuses)[types] * inner.unit_alive
        return draw_discs(inner.unit_positions, radius, colours, ((0, world.map_width), (0, world.map_height)))

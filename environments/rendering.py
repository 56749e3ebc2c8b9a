"""Who draws an environment: itself, gymnasium, or a grid.

It draws itself by a method `render(state) -> (height, width, 3) uint8`, or by one for a whole episode, which gives the
text of a page: `render_html(states)`.
"""

import inspect

import numpy as np

PALETTE = np.array(  # black, then one colour per MinAtar channel (matplotlib's tab10)
    [[0, 0, 0], *([int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in (
        "1f77b4 ff7f0e 2ca02c d62728 9467bd 8c564b e377c2 7f7f7f bcbd22 17becf".split()))],
    np.uint8,
)  # fmt: skip


def renderer(env):
    """ "own", "page", "gymnasium" or "grid"; None where nobody can draw it."""
    if draws_itself(env):
        return "own"
    if hasattr(env, "render_html"):
        return "page"
    from gymnax.visualize import vis_gym  # imports matplotlib

    if env.name in vis_gym.SUPPORTED_GYM_ENVS:
        return "gymnasium"
    return "grid" if env.name.endswith("-MinAtar") else None


def draws_itself(env):
    """Whether there is a render(state): those of gymnax's own environments take params, too, and give figures."""
    try:
        inspect.signature(getattr(env, "render", None)).bind("state")
    except (TypeError, ValueError):
        return False
    return True


def grid_frame(obs, scale=24):
    """(rows, columns, channels) of 0 and 1 -> RGB, the highest channel on top."""
    channel = (obs.astype(np.int32) * np.arange(1, obs.shape[-1] + 1)).max(axis=-1)
    return np.kron(PALETTE[channel], np.ones((scale, scale, 1), np.uint8))

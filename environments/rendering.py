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


def draw_discs(positions, radii, colours, extent, size=240):
    """Discs on white, (size, size, 3) uint8, later ones on top; those of radius 0 are left out.

    Args: positions (n, 2) and radii (n,) in units of the world; colours: n of red, green, blue from 0 to 255;
    extent: ((left, right), (bottom, top)) of the world; what is outside is cut.
    """
    (left, right), (bottom, top) = extent
    x = left + (np.arange(size) + 0.5) * (right - left) / size
    y = top - (np.arange(size) + 0.5) * (top - bottom) / size
    frame = np.full((size, size, 3), 255, np.uint8)
    for (at_x, at_y), radius, colour in zip(positions, radii, colours, strict=True):
        frame[(x - at_x) ** 2 + (y[:, None] - at_y) ** 2 < radius**2] = np.asarray(colour, np.float64).astype(np.uint8)
    return frame

"""Who draws an environment: itself, by a method `render(state) -> (height, width, 3) uint8`, gymnasium, or a grid."""

import inspect


def renderer(env):
    """ "own", "gymnasium" or "grid"; None where nobody can draw it."""
    if draws_itself(env):
        return "own"
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

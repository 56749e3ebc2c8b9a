"""Who draws an environment: itself, by a method `render(state) -> (height, width, 3) uint8`, gymnasium, or a grid."""


def renderer(env):
    """ "own", "gymnasium" or "grid"; None where nobody can draw it."""
    if callable(getattr(env, "render", None)):
        return "own"
    from gymnax.visualize import vis_gym  # imports matplotlib

    if env.name in vis_gym.SUPPORTED_GYM_ENVS:
        return "gymnasium"
    return "grid" if env.name.endswith("-MinAtar") else None

"""MuJoCo Playground (Zakka et al. 2025, arXiv:2502.08844): DeepMind's control suite, in JAX."""

from gymnax.environments import spaces

from environments.adapter import Adapter

SUITE, PACKAGE, REQUIREMENT = "playground", "mujoco_playground", "playground>=0.2,<0.3"
# Without the robots, which download their bodies
NAMES = (
    "AcrobotSwingup", "AcrobotSwingupSparse", "BallInCup", "CartpoleBalance", "CartpoleBalanceSparse",
    "CartpoleSwingup", "CartpoleSwingupSparse", "CheetahRun", "FingerSpin", "FingerTurnEasy", "FingerTurnHard",
    "FishSwim", "HopperHop", "HopperStand", "HumanoidRun", "HumanoidStand", "HumanoidWalk", "PendulumSwingup",
    "PointMass", "ReacherEasy", "ReacherHard", "SwimmerSwimmer6", "WalkerRun", "WalkerStand", "WalkerWalk",
)  # fmt: skip


def make(name):
    """Computed by JAX: Playground's default, warp, knows NVIDIA's GPUs only."""
    from mujoco_playground import dm_control_suite

    env = dm_control_suite.load(name, config_overrides={"impl": "jax"})
    return Playground(env, dm_control_suite.get_default_config(name).episode_length)


class Playground(Adapter):
    """`inner` is Playground's state. It ends where a simulation has become NaN, and else by the time alone."""

    def __init__(self, env, max_steps):
        self.env, self.max_steps = env, max_steps

    def begin(self, key, params):
        inner = self.env.reset(key)
        return inner.obs, inner

    def go_on(self, key, inner, action, params):
        inner = self.env.step(inner, action)
        return inner.obs, inner, inner.reward, inner.done > 0.5

    def action_space(self, params=None):
        return spaces.Box(-1.0, 1.0, (self.env.action_size,))

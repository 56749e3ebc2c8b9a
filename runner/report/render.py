"""policy.gif, or policy.html: one greedy episode of a trained policy."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from environments.lanes import OneGame
from environments.rendering import grid_frame, renderer
from environments.resets import with_whole_episodes
from runner.loop.checkpoint import is_key
from runner.loop.devices import without_cache_chatter
from runner.loop.record import replacing

MAX_FRAMES = 500
RENDERING = 2**31 - 2  # folded into the member's key, so that the GIF repeats nothing of training or evaluation
WIDTH = 240  # pixels at least; gymnasium's 600 would take four times as long to encode


def render(path, plan, member, state):
    """Plays one greedy episode and writes it as a GIF, or as a page; returns a line that says what was done."""
    config = dataclasses.replace(plan.config, **member.values)
    with without_cache_chatter():
        states, episode_return = play(plan.script, config, state, member.seed)
    env, env_params = plan.script.make_env(config.env_id, config.env_params)
    drawn_by = renderer(env)
    if drawn_by is None:
        return f"there is no renderer for {config.env_id}"
    path = path.with_suffix(".html") if drawn_by == "page" else path
    with replacing(path) as temporary:
        if drawn_by == "page":
            temporary.write_text(env.render_html(states))
        else:
            write_gif(temporary, make_frames(env, env_params, states))
    return f"{path.name}, {len(states)} steps, return {episode_return:.1f}"


def write_gif(path, frames):
    frames = [Image.fromarray(frame).reduce(max(1, frame.shape[1] // WIDTH)) for frame in frames]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:], duration=40, loop=0)


def play(script, config, state, seed):
    """Environment states before each step of one greedy episode, at most MAX_FRAMES, and its return up to there.

    Of several agents: the states of their game, and the mean of their returns.
    """
    env, env_params = script.make_env(config.env_id, config.env_params)
    env_params = with_whole_episodes(env_params)
    game = OneGame(env)
    init_carry, act = script.make_policy(config)

    def step(loop, key):
        env_state, obs, carry = loop
        action_key, env_key = jax.random.split(key)
        carry, action = act(state, carry, obs, action_key, True)
        obs, next_env_state, reward, terminated, truncated, _ = game.step(env_key, env_state, action, env_params)
        return (next_env_state, obs, carry), (env_state, reward.mean(), (terminated | truncated)[0])

    reset_key, key = jax.random.split(jax.random.fold_in(jax.random.key(seed), RENDERING))
    obs, env_state = game.reset(reset_key, env_params)
    keys = jax.random.split(key, MAX_FRAMES)
    start = (env_state, obs, init_carry(game.num_agents))
    _, (states, reward, done) = jax.jit(lambda start: jax.lax.scan(step, start, keys))(start)
    length = int(jnp.argmax(done)) + 1 if done.any() else MAX_FRAMES
    states = game.states(states.env_state)
    states = jax.tree.map(lambda x: x if is_key(x) else np.asarray(x), states)  # NumPy has no PRNG keys
    return [jax.tree.map(lambda x, i=i: x[i], states) for i in range(length)], float(reward[:length].sum())


def make_frames(env, env_params, states):
    """RGB frames of environment states."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame without a screen or a sound card
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    drawn_by = renderer(env)
    if drawn_by == "own":
        return [np.asarray(env.render(state)) for state in states]
    if drawn_by == "gymnasium":
        return gym_frames(env.name, env_params, states)
    observe = jax.jit(lambda state: env.observe(jax.random.key(0), state, None, env_params))
    return [grid_frame(np.asarray(observe(state))) for state in states]


def gym_frames(name, env_params, states):
    """Gymnasium's own pictures of classic control; one renderer for all frames (gymnax makes a new one per frame)."""
    import gymnasium
    from gymnax.visualize import vis_gym

    gym_env = gymnasium.make(name, render_mode="rgb_array").unwrapped
    gym_env.reset()
    vis_gym.set_gym_params(gym_env, name, env_params)
    frames = []
    for state in states:
        gym_env.state = vis_gym.get_gym_state(state, name)
        gym_env.last_u = np.asarray(getattr(state, "last_u", 0.0), np.float64)  # Pendulum's arrow
        frames.append(gym_env.render())
    gym_env.close()
    return frames

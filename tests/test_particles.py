"""Particles: movement against a plain loop, windows and rewards by hand, training, pictures."""

import functools

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import dqn
import environments
import ppo
import ppo_rnn
from environments import check, particles
from environments.lanes import Lanes
from environments.particles import AGENT, BELOW_1, EMPTY, FOOD, REACH, TASKS, WALL, Params, Particles, State, Task
from environments.resets import new_where, with_whole_episodes
from environments.spaces import MultiDiscrete
from runner.report.render import write_gif

REST = 1  # an action of three choices: a velocity of 0
LETTERS = {".": EMPTY, "#": WALL, "o": FOOD}


def made(text, reward=particles.forage, kinds="a", **settings):
    """A world as in a picture, and its state, with agents, who are letters, in the middle of their cells."""
    rows = np.array([list(line) for line in text.split()])
    cell = np.concatenate([np.argwhere(rows == kind) for kind in kinds])
    grid = np.vectorize(lambda x: LETTERS.get(x, AGENT + kinds.find(x)))(rows)
    shares = tuple(text.count(kind) for kind in kinds)
    env = Particles(
        Task(None, reward, shares, text.count("o") / grid.size, walls=0.0), len(grid), len(cell), **settings
    )
    grid = np.pad(grid, REACH, constant_values=WALL).astype(np.int8)
    zero, offset = np.int32(0), np.full(cell.shape, 0.5, np.float32)
    return env, State(time=zero, shortened=zero, grid=jnp.array(grid), cell=cell.astype(np.int32), offset=offset)


def inside(state):
    return np.asarray(state.grid)[REACH:-REACH, REACH:-REACH]


# --- Movement ---------------------------------------------------------------------------------------------------------
def moved_one_by_one(grid, cell, offset, distance, order):
    """The same as particles.move, by a loop over agents in this order; grid without its margin."""
    cell, offset, taken = cell.copy(), offset.copy(), set()
    for agent in order:
        position = offset[agent] + distance[agent]
        across = np.floor(position).astype(int)
        target = tuple(cell[agent] + across)
        if (across != 0).any():
            outside = min(target) < 0 or max(target) >= len(grid)
            if outside or grid[target] not in (EMPTY, FOOD) or target in taken:
                continue
            taken.add(target)
        cell[agent], offset[agent] = target, position - across
    return cell, offset


def test_movement_is_that_of_a_loop_in_random_order():
    env = Particles(TASKS["forage"], size=7, num_agents=18)
    move = jax.jit(particles.move)
    reset = jax.jit(env.reset)
    entered = refused = 0
    for seed in range(40):
        key = jax.random.key(seed)
        _, state = reset(key)
        distance = jax.random.uniform(key, (18, 2), minval=-1.0)
        order = np.argsort(np.asarray(particles.numbered_bits(key, 18)))[::-1]
        numbers = (np.asarray(x) for x in (state.cell, state.offset, distance))
        expected_cell, expected_offset = moved_one_by_one(inside(state), *numbers, order)
        cell, offset, eaten = move(key, state, distance)
        np.testing.assert_array_equal(cell, expected_cell)
        np.testing.assert_allclose(offset, expected_offset, atol=1e-6)
        np.testing.assert_array_equal(eaten, inside(state)[tuple(expected_cell.T)] == FOOD)
        entered += (cell != state.cell).any(axis=1).sum()
        refused += (offset == state.offset).all(axis=1).sum()
    assert entered > 100 and refused > 100


def test_of_several_who_want_a_cell_each_gets_it_equally_often():
    _, state = made("aaa .o. a#a")
    distance = jnp.array([[1, 1], [1, 0], [1, -1], [0, 0], [0, 0]], jnp.float32)  # three want the middle, two rest
    cell, _, _ = jax.vmap(lambda key: particles.move(key, state, distance))(jax.random.split(jax.random.key(0), 4000))
    enters = np.asarray((cell == jnp.array([1, 1])).all(axis=-1))
    np.testing.assert_array_equal(enters.sum(axis=1), 1)
    np.testing.assert_allclose(enters.mean(axis=0), [1 / 3, 1 / 3, 1 / 3, 0, 0], atol=0.03)
    bits = jax.vmap(lambda key: particles.numbered_bits(key, 5))(jax.random.split(jax.random.key(1), 4000))
    np.testing.assert_allclose(np.bincount(np.argmax(bits, axis=1)) / 4000, 0.2, atol=0.03)


def test_nobody_enters_a_cell_that_is_being_left_and_walls_stop():
    env, state = made("aa.. .... #a.. a...")
    right, left = [REST, 2], [REST, 0]
    step = functools.partial(jax.jit(env.step_env), jax.random.key(0), params=env.default_params)
    _, state, *_ = step(state, jnp.array([right, right, left, [2, REST]]))
    np.testing.assert_array_equal(state.cell, [[0, 0], [0, 2], [2, 1], [3, 0]])  # behind, ahead, at a wall, at the edge
    np.testing.assert_array_equal(state.offset, 0.5)
    _, state, *_ = step(state, jnp.array([right, [REST, REST], left, [2, REST]]))
    np.testing.assert_array_equal(state.cell, [[0, 1], [0, 2], [2, 1], [3, 0]])
    _, state, *_ = step(state, jnp.array([right, [REST, REST], left, [2, REST]]))  # the one ahead stays
    np.testing.assert_array_equal(state.cell, [[0, 1], [0, 2], [2, 1], [3, 0]])


def test_small_moves_within_a_cell_add_up():
    env, state = made("a... .... .... ....", choices=None)
    params, step = env.default_params.replace(speed=0.1), jax.jit(env.step_env)
    for time in range(1, 26):
        _, state, *_ = step(jax.random.key(time), state, jnp.array([0.0, 1.0]), params)
        np.testing.assert_allclose(state.cell + state.offset, [[0.5, 0.5 + 0.1 * time]], atol=1e-5)
    np.testing.assert_array_equal(state.cell, [[0, 3]])


def test_a_step_is_one_cell_at_most():
    env, start = made("a.. ... ...", choices=None)
    start, step = start.replace(offset=jnp.full((1, 2), BELOW_1)), jax.jit(env.step_env)
    for speed in (1.0, 7.0):
        params = env.default_params.replace(speed=speed)
        _, state, *_ = step(jax.random.key(0), start, jnp.array([3.0, 3.0]), params)
        np.testing.assert_array_equal(state.cell, [[1, 1]])
        assert (state.offset < 1).all() and (state.offset > 0.99).all()


# --- Observations and rewards -----------------------------------------------------------------------------------------
def test_a_window_shows_the_cells_around_walls_beyond_the_map_and_who_one_is():
    env = Particles(TASKS["predator_prey"]._replace(food=0.1), size=9, num_agents=12)
    obs, state = jax.jit(env.reset)(jax.random.key(3))
    obs, grid = np.asarray(obs), inside(state)
    assert obs.shape == (12, 11, 11, 4) and obs.dtype == bool
    assert obs[:, REACH, REACH].astype(int).tolist() == [[0, 0, 1, 0]] * 3 + [[0, 0, 0, 1]] * 9
    for agent, (row, column) in enumerate(np.asarray(state.cell)):
        for i in range(11):
            for j in range(11):
                at = row + i - REACH, column + j - REACH
                code = grid[at] if min(at) >= 0 and max(at) < 9 else WALL
                assert obs[agent, i, j].tolist() == [code == what for what in (WALL, FOOD, AGENT, AGENT + 1)]


def rewards(env, state, action=None):
    action = jnp.full((env.num_agents, 2), REST) if action is None else jnp.array(action)
    return jax.jit(env.step_env)(jax.random.key(0), state, action, env.default_params)[2]


def test_rewards_by_hand():
    env, state = made("ao.. ..a. .... ....")
    np.testing.assert_allclose(rewards(env, state, [[REST, 2], [REST, REST]]), [0.1, 0.0])  # one eats
    text = "\n".join(["aa....a", *["......."] * 5, "......a"])  # from corner to corner 6 cells: one more than is seen
    np.testing.assert_allclose(rewards(*made(text, particles.scatter)), [-0.1, -0.2, -0.1, 0.0], atol=1e-6)
    np.testing.assert_allclose(rewards(*made("aaaa aaaa aaaa aaaa", particles.scatter)), -1.0)  # of 15 others
    text = "pq.. .q.. ..p. qqqq"
    chase, flock = (made(text, reward, kinds="pq") for reward in (particles.predator_prey, particles.group))
    np.testing.assert_allclose(rewards(*chase), [0.2, 0.4, -0.1, -0.2, 0.0, -0.1, -0.1, -0.1], atol=1e-6)
    np.testing.assert_allclose(rewards(*flock), [-0.5] * 2 + [0.3] * 6, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["forage", "predator_prey", *(pytest.param(x, marks=pytest.mark.slow) for x in ("scatter", "group"))]
)
def test_a_random_episode_keeps_the_rules(name):
    """No two agents in a cell, none in a wall, the map as the agents say, walls and the food's number as at first."""
    env = Particles(TASKS[name], size=10, num_agents=20)
    _, start = jax.jit(env.reset)(jax.random.key(0))

    def step(state, key):
        action = jax.vmap(env.action_space().sample)(jax.random.split(key, 20))
        _, state, reward, *_ = env.step_env(key, state, action, env.default_params)
        return state, (state, reward)

    _, (states, reward) = jax.jit(lambda: jax.lax.scan(step, start, jax.random.split(jax.random.key(1), 100)))()
    assert np.abs(reward).max() <= 1 and (reward != 0).any()
    walls = inside(start) == WALL
    assert walls.sum() == 5 and (inside(start) == FOOD).sum() == (10 if name == "forage" else 0)
    for time in range(100):
        state = jax.tree.map(lambda x, time=time: np.asarray(x)[time], states)
        expected = np.where(walls, WALL, EMPTY)
        assert not expected[tuple(state.cell.T)].any() and len(np.unique(state.cell, axis=0)) == 20
        expected[tuple(state.cell.T)] = AGENT + env.kinds
        np.testing.assert_array_equal(np.where(inside(state) == FOOD, EMPTY, inside(state)), expected)
        assert (np.asarray(state.grid)[:REACH] == WALL).all() and (np.asarray(state.offset) < 1).all()
    assert name != "forage" or 0.05 < reward.sum() / 100 < 2
    assert name != "predator_prey" or np.abs(reward.sum(axis=1)).max() < 1e-4


def test_food_grows_anew_elsewhere_or_not_at_all():
    env, start = made("aoo. .... .... ....")
    step = jax.jit(env.step_env)
    for regrow in (True, False):
        state, params = start, env.default_params.replace(regrow=regrow)
        for time in (1, 2):
            _, state, reward, *_ = step(jax.random.key(time), state, jnp.array([REST, 2]), params)
            assert reward == pytest.approx(0.1)
            assert regrow or (inside(state) == FOOD).sum() == 2 - time
        for time in range(20):  # a random cell a step is tried: it may be taken
            _, state, *_ = step(jax.random.key(time), state, jnp.array([REST, REST]), params)
        assert (inside(state) == FOOD).sum() == (2 if regrow else 0)


# --- Action spaces, time and starts -----------------------------------------------------------------------------------
def test_equal_velocities_lead_to_equal_episodes_in_all_action_spaces():
    worlds = {choices: Particles(TASKS["forage"], size=10, num_agents=8, choices=choices) for choices in (3, 9, None)}
    keys = jax.random.split(jax.random.key(0), 30)
    velocity = jax.random.randint(keys[0], (30, 8, 2), -1, 2)
    actions = {3: velocity + 1, 9: 4 * velocity + 4, None: velocity.astype(jnp.float32)}

    params = Params(speed=0.7)
    _, start = jax.jit(worlds[3].reset)(keys[0], params)

    def step(env, state, key_and_action):
        obs, state, *rest = env.step_env(key_and_action[0], state, key_and_action[1], params)
        return state, (obs, state, rest)

    def play(env, actions):
        return jax.jit(lambda: jax.lax.scan(functools.partial(step, env), start, (keys, actions))[1])()

    found = [play(env, actions[choices]) for choices, env in worlds.items()]
    assert (found[0][1].cell != start.cell).any()
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, found[0], other)


def test_nine_choices_are_evenly_spaced():
    env = Particles(TASKS["forage"], size=10, num_agents=9, choices=9)
    velocity = env.velocity(jnp.stack([jnp.arange(9)] * 2, axis=1))
    np.testing.assert_array_equal(velocity[:, 0], [-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1])


def ends(env, params, games=64, steps=20):
    """Times at which episodes end, game by game; all by the time limit."""
    keys = jax.random.split(jax.random.key(0), games)

    def step(state, _):
        action = jnp.full((games, 2), REST)
        _, state, _, terminated, truncated, _ = jax.vmap(env.step, (0, 0, 0, None))(keys, state, action, params)
        return state, (state.time, terminated, truncated)

    _, state = jax.vmap(env.reset, (0, None))(keys, params)
    return state.time, *jax.lax.scan(step, state, None, length=steps)[1]


def test_the_time_limit_truncates_and_first_episodes_may_end_at_random_times():
    env = Particles(TASKS["forage"], size=8, num_agents=1)
    params = env.default_params.replace(max_steps_in_episode=6)
    run = jax.jit(functools.partial(ends, env))
    for stagger in (False, True):
        start, time, terminated, truncated = run(params.replace(stagger=stagger))
        assert (start == 0).all() and not terminated.any() and (time[truncated] == 0).all()
        found = [np.flatnonzero(row) + 1 for row in np.asarray(truncated).T]
        first = [times[0] for times in found]
        assert set(first) == ({1, 2, 3, 4, 5, 6} if stagger else {6})
        assert not stagger or np.bincount(first)[1:].min() > 3
        assert all((np.diff(times) == 6).all() for times in found)  # only the first one is short


def test_evaluation_plays_whole_episodes():
    params = Particles(TASKS["forage"]).default_params.replace(stagger=True)
    assert not with_whole_episodes(params).stagger and params.stagger
    other = gymnax.make("CartPole-v1")[1]
    assert with_whole_episodes(other) is other


def test_starts_are_random_and_everywhere():
    env = Particles(TASKS["group"], size=8, num_agents=4)
    _, state = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 2000))
    counts = np.zeros((8, 8))
    np.add.at(counts, tuple(np.asarray(state.cell).reshape(-1, 2).T), 1)
    np.testing.assert_allclose(counts / counts.sum(), 1 / 64, atol=0.006)
    np.testing.assert_allclose(np.asarray(state.offset).mean(axis=(0, 1)), 0.5, atol=0.02)


def test_one_row_is_reset_as_without_vmap():
    def reset(key, params):
        return jax.random.uniform(key)

    for done in (True, False):
        alone = new_where(reset, jnp.bool_(done), jax.random.key(0), jnp.float32(7), None)
        row = jax.vmap(lambda *x: new_where(reset, *x, None))(
            jnp.array([done]), jax.random.key(0)[None], jnp.full(1, 7.0)
        )
        assert row.shape == (1,) and row[0] == alone and (alone == 7) == (not done)


# --- Ids --------------------------------------------------------------------------------------------------------------
def test_ids_name_task_size_and_actions():
    ids = [name for name in environments.ENVIRONMENTS if name.startswith("particles/")]
    assert len(ids) == 4 * 6 + 3 and set(ids) <= set(gymnax.registered_envs)
    for env_id, agents, size, actions in (
        ("particles/forage", 64, 64, "MultiDiscrete([3, 3])"),
        ("particles/group-large-9", 4096, 1024, "MultiDiscrete([9, 9])"),
        ("particles/forage-one-box", 1, 64, "Box"),
    ):
        env, params = gymnax.make(env_id)
        assert (env.num_agents, env.size) == (agents, size) and isinstance(env, Lanes) == (agents > 1)
        space = env.action_space(params)
        assert space.shape == (2,) and (
            repr(space) == actions if isinstance(space, MultiDiscrete) else actions == "Box"
        )
        keys = jax.eval_shape(lambda agents=agents: jax.random.split(jax.random.key(0), agents))
        obs, _ = jax.eval_shape(jax.vmap(env.reset, (0, None)), keys, params)
        assert obs.shape == (agents, *env.observation_space(params).shape)


@pytest.mark.parametrize(
    ("settings", "message"),
    [(dict(size=4, num_agents=15), "need at least one agent, and a cell each"), (dict(choices=1), "2 or more numbers")],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Particles(TASKS["forage"], **settings)


def test_dqn_names_the_scripts_for_it():
    with pytest.raises(ValueError, match=r"MultiDiscrete\(\[3, 3\]\).*use ppo\.py or ppo_rnn\.py"):
        dqn.make_train(dqn.Config("particles/forage-one"))


# --- In training ------------------------------------------------------------------------------------------------------
SMALL = {
    "Particles-small": lambda: Lanes(Particles(TASKS["predator_prey"], size=12, num_agents=4)),
    "Particles-small-box": lambda: Particles(TASKS["forage"], size=12, num_agents=1, choices=None),
}
for name, factory in SMALL.items():
    if name not in gymnax.registered_envs:
        gymnax.register(name, factory)


@pytest.mark.parametrize(("env_id", "network"), [("Particles-small", "cnn"), ("Particles-small-box", "mlp")])
def test_ppo_trains_in_it(env_id, network):
    config = ppo.Config(
        env_id, env_params="max_steps_in_episode=10,stagger=true", num_envs=8, num_steps=16, total_timesteps=256,
        num_minibatches=2, update_epochs=1, hidden_size=8, network=network,
    )  # fmt: skip
    _, metrics = jax.jit(ppo.make_train(config))(jax.random.key(0))
    assert np.isfinite(np.stack(list(metrics.values()))).all() and (metrics["grad_norm"] > 0).all()
    assert metrics["episode_length"][0] < 10 and metrics["episode_length"][1] == 10


def test_ppo_rnn_reads_its_images():
    config = ppo_rnn.Config("particles/forage", num_envs=64, num_minibatches=2, network="cnn")
    _, metrics = jax.eval_shape(ppo_rnn.make_train(config), jax.random.key(0))
    assert metrics["episode_return"].shape == (config.num_updates,)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_the_check_command_finds_no_fault(name):
    assert not [line for line in check(*gymnax.make(name)) if line.startswith("fault")]


def test_pictures_become_a_gif(tmp_path):
    env = Particles(TASKS["predator_prey"], size=16, num_agents=8)
    _, state = jax.jit(env.reset_env)(jax.random.key(0), env.default_params)
    frame = env.render(jax.tree.map(np.asarray, state))
    assert frame.shape == (256, 256, 3) and frame.dtype == np.uint8
    assert len(np.unique(frame.reshape(-1, 3), axis=0)) == 4  # nothing, walls, two kinds
    row, column = np.asarray(state.cell)[0]
    assert (frame[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] == (40, 80, 220)).all()
    write_gif(tmp_path / "episode.gif", [frame, frame[::-1]])
    assert Image.open(tmp_path / "episode.gif").n_frames == 2

    large = Particles(TASKS["forage"], size=1024, num_agents=4)
    grid = np.full((1034, 1034), EMPTY)
    grid[REACH + 5, REACH + 1023] = AGENT
    frame = large.render(state.replace(grid=grid))
    assert frame.shape == (256, 256, 3) and (frame[1, 255] == (40, 80, 220)).all() and (frame[1, 254] == 255).all()

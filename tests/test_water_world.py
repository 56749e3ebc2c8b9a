"""Water world and flocking: steps, observations and rewards against plain loops and by hand."""

import functools
import math

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import evolve_policy
import ppo
from environments import flocking, water_world
from environments.flocking import Flocking
from environments.lanes import OneGame
from environments.water_world import WaterWorld

UP, DOWN, LEFT, RIGHT = range(4)
CROWDED = water_world.Params(size=150.0, radius=6.0, reach=60.0, item_speed=8.0)  # much happens in a step
WORLDS = {"single": WaterWorld(1, 25, CROWDED), "several": WaterWorld(5, 25, CROWDED)}
BOIDS = Flocking(num_agents=12, num_neighbours=3)


@functools.cache
def step_of(env):
    """env.step_env, compiled, with a key that it has no use for: (state, action) -> its results."""
    return jax.jit(lambda state, action, params: env.step_env(jax.random.key(0), state, action, params))


@functools.cache
def obs_of(env):
    return jax.jit(env.get_obs)


# --- Water world: a plain loop ----------------------------------------------------------------------------------------
def water_state(env, seed):
    """Anywhere in the box, some at walls, fast, some items eaten: NumPy's float32."""
    draw = np.random.default_rng(seed)
    margin, far = env.params.radius, env.params.size - env.params.radius
    place = functools.partial(draw.uniform, margin, far)
    agents, items = env.num_agents, env.num_items
    agent = place((agents, 2))
    agent[1:2] = np.clip(agent[:1] + draw.normal(size=2) * 4, margin, far)  # near one another, if there are two
    return water_world.State(
        time=np.int32(seed),
        agent=np.float32(agent),
        agent_velocity=np.float32(draw.normal(size=(agents, 2)) * 15),
        item=np.float32(place((items, 2))),
        item_velocity=np.float32(draw.uniform(-8, 8, (items, 2))),
        is_food=draw.random(items) < 0.5,
        eaten=draw.random(items) < 0.3,
    )


class Water:
    """The same world in plain Python, one agent and one item after the other."""

    def __init__(self, state, params):
        self.params, self.time = params, int(state.time)
        self.agents = [[*map(float, [*p, *v])] for p, v in zip(state.agent, state.agent_velocity, strict=True)]
        self.items = [[*map(float, [*p, *v])] for p, v in zip(state.item, state.item_velocity, strict=True)]
        self.food, self.eaten = [bool(x) for x in state.is_food], [bool(x) for x in state.eaten]
        self.events = {"stop": 0, "bounce": 0, "food": 0, "poison": 0, "shared": 0}

    def step(self, actions):
        """Moves all; returns each agent's reward."""
        low, high = self.params.radius, self.params.size - self.params.radius
        for agent, action in zip(self.agents, actions, strict=True):
            agent[2] += {LEFT: -1, RIGHT: 1}.get(int(action), 0) * self.params.push
            agent[3] += {DOWN: -1, UP: 1}.get(int(action), 0) * self.params.push
            stops = False
            for axis in (0, 1):
                agent[2 + axis] *= self.params.kept
                agent[axis] += agent[2 + axis]
                if agent[axis] < low or agent[axis] > high:
                    agent[axis], stops = (low if agent[axis] < low else high), True
            if stops:
                agent[2] = agent[3] = 0.0
                self.events["stop"] += 1
        for item in self.items:
            for axis in (0, 1):
                item[axis] += item[2 + axis]
                if item[axis] < low or item[axis] > high:
                    item[axis] = low if item[axis] < low else high
                    item[2 + axis] = -item[2 + axis]
                    self.events["bounce"] += 1
        rewards = [0.0] * len(self.agents)
        for i, item in enumerate(self.items):
            if self.eaten[i]:
                continue
            at_it = [j for j, a in enumerate(self.agents) if math.dist(a[:2], item[:2]) < 2 * self.params.radius]
            for j in at_it:
                rewards[j] += 1.0 if self.food[i] else -1.0
            if at_it:
                self.eaten[i] = True
                self.events["food" if self.food[i] else "poison"] += 1
                self.events["shared"] += len(at_it) > 1
        self.time += 1
        return rewards

    def seen(self, me):
        """The observation of an agent."""
        kinds = 3 if len(self.agents) == 1 else 4
        numbers = []
        x, y, *velocity = self.agents[me]
        for ray in range(30):
            direction = math.cos(2 * math.pi * ray / 30), math.sin(2 * math.pi * ray / 30)
            nearest, kind, moving = self.to_wall((x, y), direction), 0, (0.0, 0.0)
            for i, item in enumerate(self.items):
                length = math.inf if self.eaten[i] else self.to_disc((x, y), direction, item)
                if length < nearest:
                    nearest, kind, moving = length, 1 if self.food[i] else 2, item[2:]
            for j, other in enumerate(self.agents):
                length = math.inf if j == me else self.to_disc((x, y), direction, other)
                if length < nearest:
                    nearest, kind, moving = length, 3, other[2:]
            row = [1.0] * kinds + [0.0, 0.0]
            if nearest < self.params.reach:
                row[kind] = max(nearest, 0.0) / self.params.reach
                row[kinds:] = [v / self.params.radius for v in moving]
            numbers += row
        return numbers + [v / self.params.radius for v in velocity]

    def to_wall(self, origin, direction):
        lengths = []
        for start, along in zip(origin, direction, strict=True):
            lengths += [(wall - start) / along for wall in (0.0, self.params.size) if abs(along) > 1e-9]
        return min(length for length in lengths if length > 0)

    def to_disc(self, origin, direction, disc):
        """The smaller root t of |origin + t direction - disc|^2 = radius^2, for discs with their centres ahead."""
        away = [origin[axis] - disc[axis] for axis in (0, 1)]
        half_b = away[0] * direction[0] + away[1] * direction[1]
        c = away[0] ** 2 + away[1] ** 2 - self.params.radius**2
        if half_b >= 0 or half_b**2 <= c:
            return math.inf
        return -half_b - math.sqrt(half_b**2 - c)


@pytest.mark.parametrize("name", WORLDS)
def test_a_step_of_water_world_is_that_of_a_plain_loop(name):
    env = WORLDS[name]
    events, kinds = {}, set()
    for seed in range(25):
        state = water_state(env, seed)
        actions = np.random.default_rng(100 + seed).integers(4, size=env.num_agents)
        plain = Water(state, CROWDED)
        rewards = plain.step(actions)
        action = jnp.int32(actions if env.num_agents > 1 else actions[0])
        obs, state, reward, terminated, _ = step_of(env)(state, action, CROWDED)
        near = functools.partial(np.testing.assert_allclose, atol=2e-3)
        near(np.hstack([state.agent, state.agent_velocity]), plain.agents)
        near(np.hstack([state.item, state.item_velocity]), plain.items)
        np.testing.assert_array_equal(state.eaten, plain.eaten)
        np.testing.assert_array_equal(np.atleast_1d(reward), rewards)
        seen = np.array([plain.seen(agent) for agent in range(env.num_agents)])
        near(obs, seen if env.num_agents > 1 else seen[0])
        assert not terminated and state.time == plain.time
        events = {key: events.get(key, 0) + count for key, count in plain.events.items()}
        rays = seen[:, :-2].reshape(-1, 5 if env.num_agents == 1 else 6)[:, :-2]
        kinds |= set(np.argmin(rays, axis=1)[rays.min(axis=1) < 1])
    assert kinds == set(range(env.num_kinds))  # all were seen, and all of this happened
    assert all(count > 0 for key, count in events.items() if key != "shared" or env.num_agents > 1), events


@pytest.mark.parametrize("name", WORLDS)
def test_a_random_policy_gets_what_a_plain_loop_gives(name):
    """From reset on, for 60 steps, with the default params but a smaller box."""
    env = WORLDS[name]
    params = water_world.Params(size=150.0)

    def play(key):
        start_key, action_key = jax.random.split(key)
        obs, start = env.reset_env(start_key, params)
        shape = (60, env.num_agents) if env.num_agents > 1 else (60,)
        actions = jax.random.randint(action_key, shape, 0, 4)

        def step(state, action):
            obs, state, reward, *_ = env.step_env(key, state, action, params)
            return state, (obs, reward)

        return obs, start, actions, *jax.lax.scan(step, start, actions)[1]

    keys = jax.random.split(jax.random.key(0), 4)
    first, starts, actions, obs, rewards = jax.tree.map(np.asarray, jax.jit(jax.vmap(play))(keys))
    rewards = rewards.reshape(4, 60, env.num_agents)
    for game in range(4):
        plain = Water(jax.tree.map(lambda x, game=game: x[game], starts), params)
        np.testing.assert_allclose(first[game].ravel()[:30], np.ravel(plain.seen(0))[:30], atol=2e-3)
        expected = [plain.step(np.atleast_1d(action)) for action in actions[game]]
        assert np.abs(expected).sum() > 3
        np.testing.assert_allclose(rewards[game].mean(), np.mean(expected), atol=1e-6)
    space = env.observation_space(params)
    assert (obs >= space.low).all() and (obs <= space.high).all() and obs.shape[-1:] == space.shape
    assert len(np.unique(obs)) > 1000
    top_speed = params.push * params.kept / (1 - params.kept) / params.radius
    assert np.abs(obs[..., -2:]).max() < top_speed


# --- Water world: by hand ---------------------------------------------------------------------------------------------
made = functools.cache(WaterWorld)  # one for each size, so that it is compiled once


def still_water(agents, items, food, eaten=None):
    """(env, params, state) of agents and items at rest."""
    env = made(len(agents), len(items))
    at = functools.partial(jnp.array, dtype=jnp.float32)
    eaten = [False] * len(items) if eaten is None else eaten
    agent, item = at(agents), at(items)
    state = water_world.State(jnp.int32(0), agent, 0 * agent, item, 0 * item, jnp.array(food), jnp.array(eaten, bool))
    return env, env.default_params, state


def test_rewards_of_water_world_by_hand():
    """Pushed to the right an agent goes 0.95 px: from 300 to 300.95. Discs of radius 10 touch nearer than 20 px."""
    far = [500, 500], [500, 400]
    for items, food, expected in (
        ([[320.9, 300], *far], [True, True, True], 1),
        ([[321.0, 300], *far], [True, True, True], 0),
        ([[300.95, 319.9], *far], [False, True, True], -1),
        ([[310, 300], [300, 310], [300, 290]], [True, True, False], 1),
        ([[310, 300], [300, 310], [300, 290]], [True, False, False], -1),
    ):
        env, params, state = still_water([[300, 300]], items, food)
        _, after, reward, *_ = step_of(env)(state, jnp.int32(RIGHT), params)
        assert reward == expected
        np.testing.assert_allclose(after.agent, [[300.95, 300]], rtol=1e-6)
        np.testing.assert_allclose(after.agent_velocity, [[0.95, 0]], rtol=1e-6)
        assert step_of(env)(after, jnp.int32(LEFT), params)[2] == 0  # what was eaten is gone
    agents = [[300, 300], [330, 300], [400, 400]]
    env, params, state = still_water(agents, [[315, 300], [410, 400], [315, 330]], [True, False, False])
    _, after, reward, *_ = step_of(env)(state, jnp.array([UP, UP, DOWN]), params)
    np.testing.assert_array_equal(reward, [1, 1, -1])
    np.testing.assert_array_equal(after.eaten, [True, True, False])


def test_rays_by_hand():
    """To the right food at 60 px hides poison; above poison at 80 px; to the left a wall at 50 px; below nothing."""
    items = [[110, 300], [150, 300], [50, 380], [50, 185], [50, 230]]
    env, params, state = still_water([[50, 300]], items, [True, False, False, False, True], [False] * 4 + [True])
    state = state.replace(item_velocity=jnp.array([[1.0, -2.0]] + [[2.5, 0.5]] * 4))
    obs = obs_of(env)(state, params)
    assert obs.shape == (152,)
    rays = np.asarray(obs[:-2]).reshape(30, 5)
    np.testing.assert_allclose(rays[0], [1, 50 / 120, 1, 0.1, -0.2], atol=1e-6)
    np.testing.assert_allclose(rays[15], [50 / 120, 1, 1, 0, 0], atol=1e-6)
    length = 80 * np.cos(np.pi / 30) - np.sqrt(100 - (80 * np.sin(np.pi / 30)) ** 2)  # of rays 6 degrees off
    np.testing.assert_allclose(rays[[7, 8]][:, 2], [length / 120] * 2, atol=1e-6)
    np.testing.assert_allclose(rays[[7, 8]][:, 3:], [[0.25, 0.05]] * 2, atol=1e-6)
    np.testing.assert_array_equal(rays[[4, 22, 23, 27]], [[1, 1, 1, 0, 0]] * 4)
    lengths = water_world.to_discs(jnp.zeros(2), jnp.eye(2), jnp.array([[50.0, 6.0], [-50.0, 0.0], [0.0, 3.0]]), 10.0)
    np.testing.assert_allclose(lengths, [[42, np.inf, np.inf], [np.inf, np.inf, -7]], atol=1e-5)


def test_several_agents_see_each_other():
    """Agent 1 within reach of agent 0 changes what agent 0 sees, and beyond it does not."""
    near = [[100, 300], [150, 300], [400, 300]]
    env, params, state = still_water(near, [[300, 500]] * 3, [True] * 3)
    before = obs_of(env)(state, params)
    rays = np.asarray(before[0, :-2]).reshape(30, 6)
    np.testing.assert_allclose(rays[0, :4], [1, 1, 1, 40 / 120], atol=1e-6)
    moved = obs_of(env)(state.replace(agent=state.agent.at[1, 0].set(160.0)), params)
    np.testing.assert_allclose(moved[0, 3], 50 / 120, atol=1e-6)
    np.testing.assert_array_equal(moved[2], before[2])  # 240 px away
    beyond = obs_of(env)(state.replace(agent=state.agent.at[2].set(jnp.array([450.0, 320.0]))), params)
    np.testing.assert_array_equal(beyond[:2], before[:2])
    both = state.replace(  # two at one place, who are equally near: the mean of their velocities
        agent=state.agent.at[2].set(state.agent[1]), agent_velocity=jnp.array([[0.0, 0.0], [2.0, 0.0], [4.0, 6.0]])
    )
    row = np.asarray(obs_of(env)(both, params)[0, :6])
    np.testing.assert_allclose(row, [1, 1, 1, 40 / 120, 0.3, 0.3], atol=1e-6)


def test_water_world_does_not_depend_on_the_order_of_agents_and_items():
    env = WORLDS["several"]
    draw = np.random.default_rng(0)
    for seed in range(5):
        state, action = water_state(env, seed), draw.integers(4, size=5)
        agents, items = draw.permutation(5), draw.permutation(25)
        obs, _, reward, *_ = step_of(env)(state, jnp.int32(action), CROWDED)
        other = state.replace(
            agent=state.agent[agents], agent_velocity=state.agent_velocity[agents], item=state.item[items],
            item_velocity=state.item_velocity[items], is_food=state.is_food[items], eaten=state.eaten[items],
        )  # fmt: skip
        permuted_obs, _, permuted_reward, *_ = step_of(env)(other, jnp.int32(action[agents]), CROWDED)
        np.testing.assert_allclose(permuted_obs, obs[agents], atol=1e-5)
        np.testing.assert_array_equal(permuted_reward, reward[agents])
        assert (obs[agents] != obs).any() and (agents != np.arange(5)).any()


def test_starts_of_water_world():
    env, params = gymnax.make("WaterWorld-single")
    _, state = jax.jit(jax.vmap(env.reset_env, (0, None)))(jax.random.split(jax.random.key(0), 400), params)
    for place in (state.agent, state.item):
        assert place.min() >= 20 and place.max() <= 580
        np.testing.assert_allclose([place.mean(), place.std()], [300, 560 / np.sqrt(12)], rtol=0.05)
    np.testing.assert_allclose(state.item_velocity.std(), 2.5 / np.sqrt(3), rtol=0.02)
    np.testing.assert_allclose(state.is_food.mean(), 0.5, atol=0.02)
    assert not state.eaten.any() and not state.agent_velocity.any() and state.item.shape == (400, 50, 2)


# --- Flocking: a plain loop -------------------------------------------------------------------------------------------
def boids(seed, count=12):
    """In a part of the square, so that they meet, across its edge."""
    draw = np.random.default_rng(seed)
    position = np.float32(draw.uniform(-0.2, 0.2, (count, 2)) % 1)
    return flocking.State(np.int32(seed), position, np.float32(draw.uniform(-4, 4, count)))


def shortest(start, end):
    """The shortest of the nine ways from one point to the images of another."""
    ways = [(end[0] - start[0] + i, end[1] - start[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return min(ways, key=lambda way: math.hypot(*way))


def plain_energy(me, positions, headings):
    """A boid's energy, pair by pair, with EvoJAX's numbers."""
    energy, mean, count = 0.0, [0.0, 0.0], 0
    for other in range(len(positions)):
        if other == me:
            continue
        way = shortest(positions[me], positions[other])
        distance, apart = math.hypot(*way), headings[other] - headings[me]
        if distance < 0.15:
            energy += 0.5 * 0.2 / 3 * (1 - distance / 0.15) ** 3 * (1 - math.cos(apart)) ** 2
        if distance < 0.12:
            energy += 0.5 * 0.1 / 3 * (1 - distance / 0.12) ** 3
        beside = (math.atan2(way[1], way[0]) - headings[me] + math.pi) % (2 * math.pi) - math.pi
        if distance < 0.3 and abs(beside) < math.pi / 3:
            mean, count = [mean[0] + way[0], mean[1] + way[1]], count + 1
    off = math.atan2(mean[1], mean[0]) - headings[me]
    return energy + 0.15 * (1 - math.cos(off) if count else 1) ** 2


def plain_view(me, positions, headings, neighbours):
    """A boid's observation, by angles."""
    ways = {other: shortest(positions[me], positions[other]) for other in range(len(positions)) if other != me}
    numbers = []
    for other in sorted(ways, key=lambda other: math.hypot(*ways[other]))[:neighbours]:
        distance, angle = math.hypot(*ways[other]), math.atan2(*ways[other][::-1]) - headings[me]
        numbers += [distance / 0.3 * math.cos(angle), distance / 0.3 * math.sin(angle)]
        numbers += [math.cos(headings[other] - headings[me]), math.sin(headings[other] - headings[me])]
    return numbers


def test_a_step_of_flocking_is_that_of_a_plain_loop():
    params = BOIDS.default_params
    space, lonely = BOIDS.observation_space(params), 0
    for seed in range(25):
        start = boids(seed)
        action = np.random.default_rng(100 + seed).uniform(-1.5, 1.5, (12, 1))  # beyond 1 it is clipped
        positions, headings = [], []
        for (x, y), heading, (turn,) in zip(start.position, start.heading, action, strict=True):
            positions.append(((x + 0.024 * math.cos(heading)) % 1, (y + 0.024 * math.sin(heading)) % 1))
            headings.append(heading + 0.2 * min(max(turn, -1), 1))
        obs, state, reward, terminated, _ = step_of(BOIDS)(start, jnp.float32(action), params)
        np.testing.assert_allclose(np.mod(state.position - np.array(positions) + 0.5, 1), 0.5, atol=1e-5)
        np.testing.assert_allclose(state.heading, headings, atol=1e-5)
        assert (state.position >= 0).all() and (state.position <= 1).all()
        expected = [plain_energy(me, positions, headings) for me in range(12)]
        np.testing.assert_allclose(reward, -np.array(expected), atol=1e-5)
        np.testing.assert_allclose(obs, [plain_view(me, positions, headings, 3) for me in range(12)], atol=1e-4)
        assert (obs >= space.low).all() and (obs <= space.high).all()
        assert not terminated and state.time == seed + 1 and obs.shape[1:] == space.shape
        lonely += (np.array(expected) >= 0.15).sum()
    assert 10 < lonely < 200


def test_energies_by_hand():
    """Who sees nobody has 0.3 / 2; who heads for the others 0."""

    def found(position, heading):
        return flocking.energies(jnp.array(position), jnp.array(heading), flocking.Params())

    behind = found([[0.4, 0.5], [0.6, 0.5]], [0.0, 0.0])  # 0.2 apart, one behind the other: only cohesion reaches
    np.testing.assert_allclose(behind, [0, 0.15], atol=1e-6)
    across = found([[0.9, 0.5], [0.1, 0.5]], [0.0, np.pi])  # they head for each other, across the edge
    np.testing.assert_allclose(across, 0, atol=1e-6)
    opposite = found([[0.5, 0.5], [0.5, 0.56]], [0.0, np.pi])  # side by side: (1 - 0.4)^3 and (1 - 0.5)^3 count
    np.testing.assert_allclose(opposite, 0.15 + 0.5 * (0.2 / 3 * 0.6**3 * 4 + 0.1 / 3 * 0.5**3), atol=1e-6)
    wide = found([[0.5, 0.5], [0.5 + 0.2 * np.cos(1.0), 0.5 + 0.2 * np.sin(1.0)]], [0.0, 1.0])  # 1 rad is in view
    np.testing.assert_allclose(wide, [0.15 * (1 - np.cos(1.0)) ** 2, 0.15], atol=1e-6)
    outside = found([[0.5, 0.5], [0.5 + 0.2 * np.cos(1.1), 0.5 + 0.2 * np.sin(1.1)]], [0.0, 1.0])
    np.testing.assert_allclose(outside, 0.15, atol=1e-6)


def test_a_boid_sees_its_neighbours_and_all_directions_are_alike():
    env, params = BOIDS, BOIDS.default_params
    position = np.float32([[0.5, 0.5], [0.5, 0.6], [0.39, 0.5], [0.5, 0.35], *[[0.9, 0.1 * i] for i in range(8)]])
    state = flocking.State(np.int32(0), position, np.float32([np.pi / 2, np.pi, *[0.0] * 10]))
    obs = obs_of(env)(state, params)
    # It heads up: one is ahead, one to the left, one behind
    np.testing.assert_allclose(obs[0], [0.1 / 0.3, 0, 0, 1, 0, 0.11 / 0.3, 0, -1, -0.15 / 0.3, 0, 0, -1], atol=1e-5)
    moved = obs_of(env)(state.replace(position=position + np.float32([[0, 0], [0, 0.01], *[[0, 0]] * 10])), params)
    assert (np.abs(moved[0] - obs[0]) > 0.01).any()
    far = obs_of(env)(state.replace(heading=state.heading + np.float32([0] * 11 + [1])), params)
    np.testing.assert_array_equal(far[0], obs[0])  # the last one is not among the three nearest

    state = boids(0)
    turned = state.replace(
        position=(np.stack([-state.position[:, 1], state.position[:, 0]], axis=1) + 0.37) % 1,
        heading=state.heading + np.float32(np.pi / 2),
    )
    np.testing.assert_allclose(obs_of(env)(turned, params), obs_of(env)(state, params), atol=1e-4)


def test_flocking_does_not_depend_on_the_order_of_agents():
    draw = np.random.default_rng(0)
    for seed in range(5):
        state, order, action = boids(seed), draw.permutation(12), np.float32(draw.uniform(-1, 1, (12, 1)))
        obs, _, reward, *_ = step_of(BOIDS)(state, action, BOIDS.default_params)
        other = state.replace(position=state.position[order], heading=state.heading[order])
        permuted_obs, _, permuted_reward, *_ = step_of(BOIDS)(other, action[order], BOIDS.default_params)
        np.testing.assert_allclose(permuted_obs, obs[order], atol=1e-5)
        np.testing.assert_allclose(permuted_reward, reward[order], atol=1e-6)
        assert np.abs(reward[order] - reward).max() > 0.01


def test_too_few_agents_are_refused():
    with pytest.raises(ValueError, match="3 agents have no 3 neighbours"):
        Flocking(3, 3)


# --- Both -------------------------------------------------------------------------------------------------------------
IDS = {"WaterWorld-single": (1, 1000), "WaterWorld-several": (16, 1000), "Flocking": (30, 150)}


@pytest.mark.parametrize("env_id", IDS)
def test_the_time_limit_truncates_and_nothing_terminates(env_id):
    env, params = gymnax.make(env_id)
    game = OneGame(env)
    assert (game.num_agents, params.max_steps_in_episode) == IDS[env_id] and env.name == env_id
    params = params.replace(max_steps_in_episode=3)
    _, state = game.reset(jax.random.key(0), params)
    step = jax.jit(game.step)
    for time in range(1, 8):
        action = jax.vmap(env.action_space(params).sample)(jax.random.split(jax.random.key(time), game.num_agents))
        obs, state, _, terminated, truncated, info = step(jax.random.key(time), state, action, params)
        np.testing.assert_array_equal(truncated, time % 3 == 0)
        assert not terminated.any() and (state.time == time % 3).all()
        assert bool((obs != info["final_observation"]).any()) == (time % 3 == 0)


def test_pictures_show_what_is_there():
    env, _, state = still_water([[100, 100]], [[300, 500], [500, 300], [500, 500]], [True, False, True], [0, 0, 1])
    frame = env.render(jax.tree.map(np.asarray, state))
    places = ((60, 170, 60), (120, 40)), ((220, 50, 40), (200, 120)), ((40, 80, 220), (40, 200))
    for colour, (column, row) in places:
        np.testing.assert_array_equal(frame[row, column], colour)
    assert (frame[40, 200] == 255).all() and (frame[200, 80] != frame[200, 90]).any()  # eaten; within reach, or not
    two = flocking.State(0, np.array([[0.5, 0.25], [0.1, 0.9]]), np.array([0.0, np.pi / 2]))
    frame = Flocking().render(two)
    rows, columns = np.nonzero((frame == flocking.COLOURS[0]).all(axis=-1))
    assert abs(rows.mean() - 180) < 2 and 126 < columns.max() < 132  # it points to the right
    rows, columns = np.nonzero((frame == flocking.COLOURS[1]).all(axis=-1))
    assert abs(columns.mean() - 24) < 2 and rows.min() <= 16 and rows.max() <= 31  # and this one up, around row 24


@pytest.mark.parametrize("env_id", IDS)
def test_scripts_take_them(env_id):
    agents = IDS[env_id][0]
    config = ppo.Config(env_id, num_envs=4 * agents, num_steps=8, total_timesteps=64 * agents, num_minibatches=2)
    _, metrics = jax.eval_shape(ppo.make_train(config), jax.random.key(0))
    assert metrics["episode_return"].shape == (2,)
    config = evolve_policy.Config(env_id, generations=2, population=4, episodes_per_candidate=agents)
    _, metrics = jax.eval_shape(evolve_policy.make_train(config), jax.random.key(0))
    assert metrics["episode_return"].shape == (2,)

"""The host side: sweeps, members, statistics, checkpoints, metrics file, pictures."""

import errno
import json
import signal
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import dqn
import meta_evolve_loss as meta
import ppo
from runner.loop import checkpoint, devices, memory, program, progress, record, run
from runner.plan import command_line, members, sweeps
from runner.plan.errors import UsageError, require
from runner.plan.script import Script
from runner.policies import Policies
from runner.report import evaluate, plots, stats, summary

BASE = ppo.Config(total_timesteps=2048, hidden_size=8)


def script_of(module):
    parts = module.Config, module.make_env, module.make_train, module.make_policy
    return Script(Path(module.__file__), *parts, Policies())


PPO = script_of(ppo)


# --- Sweeps and members -----------------------------------------------------------------------------------------------
def test_grid():
    points = sweeps.parse_sweep(["lr=1e-4,3e-4", "anneal-lr=true,false"], ppo.Config, 0)
    assert points == [{"lr": lr, "anneal_lr": anneal} for lr in (1e-4, 3e-4) for anneal in (True, False)]
    assert sweeps.parse_sweep([], ppo.Config, 0) == [{}]


def test_fields_in_one_item_go_together():
    points = sweeps.parse_sweep(["num_envs=4,8 lr=1e-3,2e-3"], ppo.Config, 0)
    assert points == [{"num_envs": 4, "lr": 1e-3}, {"num_envs": 8, "lr": 2e-3}]
    assert len(sweeps.parse_sweep(["num_envs=4,4,8 lr=1e-3,2e-3,2e-3"], ppo.Config, 0)) == 3


def test_random_search_is_drawn_from_the_seed_and_within_bounds():
    points = sweeps.parse_sweep(["lr=log:1e-5:1e-2:400", "ent_coef=lin:0:0.05:2"], ppo.Config, 3)
    assert len(points) == 800
    lrs = np.array(sorted({p["lr"] for p in points}))
    assert len(lrs) == 400 and lrs.min() >= 1e-5 and lrs.max() <= 1e-2
    assert np.mean(lrs < 10**-3.5) == pytest.approx(0.5, abs=0.08)  # uniform in the logarithm
    assert points == sweeps.parse_sweep(["lr=log:1e-5:1e-2:400", "ent_coef=lin:0:0.05:2"], ppo.Config, 3)
    assert points != sweeps.parse_sweep(["lr=log:1e-5:1e-2:400", "ent_coef=lin:0:0.05:2"], ppo.Config, 4)
    assert len(sweeps.parse_sweep(["num_envs=lin:1:4:50"], ppo.Config, 0)) <= 4  # whole numbers drawn twice count once
    together = sweeps.parse_sweep(["lr=log:1e-5:1e-2:5 ent_coef=lin:0:0.05:5"], ppo.Config, 0)
    assert len(together) == 5


def test_members_are_grouped_by_static_values_and_cut():
    points = sweeps.parse_sweep(["lr=1e-4,1e-3", "activation=tanh,relu"], ppo.Config, 0)
    everyone = members.make_members(points, 3, 10)
    assert [m.seed for m in everyone[:4]] == [10, 11, 12, 10]
    batches = members.make_batches(PPO, BASE, everyone, 4)
    assert [len(b.members) for b in batches] == [4, 2, 4, 2]
    assert [b.config.activation for b in batches] == ["tanh", "tanh", "relu", "relu"]
    assert batches[0].floats() == {"lr": [1e-4, 1e-4, 1e-4, 1e-3]}
    assert sorted(m.index for b in batches for m in b.members) == list(range(12))


@pytest.mark.parametrize(
    ("word", "value"), [("500000", 500000), ("500_000", 500000), ("5e5", 500000), ("9007199254740993", 2**53 + 1)]
)
def test_whole_numbers_as_people_type_them(word, value):
    assert sweeps.parse_int(word) == value


# --- Statistics -------------------------------------------------------------------------------------------------------
def test_iqm_drops_the_outer_quarters():
    assert stats.iqm(np.array([-1000.0, 1, 2, 3, 4, 5, 6, 1000])) == pytest.approx(np.mean([2, 3, 4, 5]))


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = stats.interval(rng.normal(size=30), np.mean)
        hits += low <= 0 <= high
    assert 180 <= hits <= 200  # 95 % nominal; the percentile bootstrap is a little short at 30 seeds
    assert np.isnan(stats.interval(np.array([1.0]))).all()


@pytest.mark.parametrize("seeds", [3, 8, 16])
def test_interval_of_the_mean_covers_it_with_few_seeds(seeds):
    """Where the percentile bootstrap of the mean covers it in 75, 88 and 93 % of cases (2,000 draws)."""
    draws = np.random.default_rng(1).normal(size=(8000, seeds))
    hits = np.mean([low <= 0 <= high for low, high in map(stats.mean_interval, draws)])
    assert abs(hits - 0.95) < 0.01  # four standard errors
    assert stats.describe(draws[0])["mean_low"] == stats.mean_interval(draws[0])[0]
    assert np.isnan(stats.mean_interval([1.0])).all() and stats.mean_interval([2.0, 2.0]) == (2.0, 2.0)


def test_describe_leaves_out_what_is_not_finite():
    found = stats.describe([1.0, 2.0, 3.0, np.nan, np.inf])
    assert found["n"] == 3 and found["mean"] == 2.0 and found["low"] <= found["iqm"] <= found["high"]
    assert stats.describe([np.nan])["n"] == 0


# --- Devices ----------------------------------------------------------------------------------------------------------
def test_members_are_spread_over_devices_and_padding_does_not_reach_results():
    assert devices.make_mesh(1).size == 1
    mesh = devices.make_mesh(5)
    assert mesh.size == 2
    layout = devices.Layout(mesh)
    placed = layout.place({"x": np.arange(5.0)})["x"]
    np.testing.assert_array_equal(placed, [0, 1, 2, 3, 4, 4])
    assert {len(shard.data) for shard in placed.addressable_shards} == {3}
    doubled = layout.jit(lambda x, k: 2 * x + k, num_scalars=1)(placed, 1.0)
    np.testing.assert_array_equal(doubled[:5], 2 * np.arange(5.0) + 1)


def test_only_the_chatter_of_the_compile_cache_is_dropped(capfd):
    with devices.without_cache_chatter():
        import os

        os.write(2, b"W0 PjRt-IFRT does not track XLA executable versions.\nsomething else\n")
        os.write(2, b"E1 Target machine feature +prefer-no-gather is not  supported on the host machine.\n")
        os.write(2, b"E1 Target machine feature +avx512f is not  supported on the host machine.\n")
    assert (
        capfd.readouterr().err
        == "something else\nE1 Target machine feature +avx512f is not  supported on the host machine.\n"
    )


# --- Checkpoints ------------------------------------------------------------------------------------------------------
def example_state(scale=1.0):
    keys = jax.random.split(jax.random.key(1), 4)
    return {"w": scale * jnp.arange(8.0).reshape(4, 2), "key": keys, "n": jnp.arange(4), "flag": jnp.ones(4, bool)}


def filled(folder, updates=(1, 2, 3)):
    """Checkpoints of three members and one row of padding."""
    store = checkpoint.Checkpoints(folder, 3)
    for update in updates:
        store.save(update, checkpoint.to_words(example_state(update)), {"metrics_bytes": update})
    return store


def load(folder, change=lambda shape: shape):
    """Loads with the shapes of example_state, or with others; one device."""
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(change, checkpoint.word_shapes(jax.eval_shape(example_state), where))
    return checkpoint.Checkpoints(folder, 3).load(like)


def test_checkpoints_come_back_bit_identical_and_the_newest_two_are_kept(tmp_path):
    store = filled(tmp_path / "c")
    assert sorted(p.name for p in (tmp_path / "c").iterdir() if p.is_dir()) == ["2", "3"]
    store.close()
    loaded = load(tmp_path / "c")
    assert (loaded.update, loaded.notes["metrics_bytes"], loaded.damaged) == (3, 3, [])
    state = checkpoint.from_words(loaded.arrays, jax.eval_shape(example_state))
    expected = jax.tree.map(lambda x: x[jnp.array([0, 1, 2, 2])], example_state(3))  # padding: the last member again
    assert jnp.issubdtype(state["key"].dtype, jax.dtypes.prng_key)
    np.testing.assert_array_equal(jax.random.key_data(state["key"]), jax.random.key_data(expected["key"]))
    for name in ("w", "n", "flag"):
        np.testing.assert_array_equal(state[name], expected[name])
        assert state[name].dtype == expected[name].dtype


@pytest.mark.parametrize("rows", [3, 4, 8])
def test_checkpoints_are_read_on_another_number_of_devices(tmp_path, rows):
    """...which fill up to another number of rows; of two devices here each has half."""
    filled(tmp_path / "c").close()
    mesh = devices.make_mesh(rows) if rows % 2 == 0 else devices.make_mesh(1)

    def on_mesh(shape):
        where = jax.sharding.NamedSharding(mesh, devices.MEMBER)
        return jax.ShapeDtypeStruct((rows, *shape.shape[1:]), shape.dtype, sharding=where)

    loaded = load(tmp_path / "c", on_mesh)
    expected = checkpoint.to_words(example_state(3))
    for name, x in loaded.arrays.items():
        np.testing.assert_array_equal(x, expected[name][np.minimum(np.arange(rows), 2)])
        assert x.sharding.mesh == mesh and loaded.update == 3


def data_files(folder):
    return [p for p in folder.rglob("*") if p.is_file()]


@pytest.mark.parametrize("damage", ["truncate", "remove", "flip"])
def test_a_damaged_newest_checkpoint_is_named_and_skipped(tmp_path, damage):
    filled(tmp_path / "c").close()
    for path in data_files(tmp_path / "c" / "3"):
        content = path.read_bytes()
        if damage == "truncate":
            path.write_bytes(content[: len(content) // 2])
        elif damage == "remove":
            path.unlink()
        else:
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if content else b"x")
    loaded = load(tmp_path / "c")
    assert loaded.update == 2 and loaded.notes["metrics_bytes"] == 2
    assert len(loaded.damaged) <= 1 and all(name.endswith("3") for name in loaded.damaged)


def test_wrong_bytes_that_still_parse_are_found_by_the_digest(tmp_path, monkeypatch):
    store = filled(tmp_path / "c", (1,))
    monkeypatch.setattr(checkpoint, "digest", lambda arrays, count: "of other bytes")
    store.save(2, checkpoint.to_words(example_state(2)), {})
    monkeypatch.undo()
    store.close()
    loaded = load(tmp_path / "c")
    assert loaded.update == 1 and [name.rsplit("/", 1)[1] for name in loaded.damaged] == ["2"]


def test_no_checkpoint_and_none_whole(tmp_path):
    assert load(tmp_path / "empty") == (0, None, {}, [])
    filled(tmp_path / "c", (1,)).close()
    for path in data_files(tmp_path / "c" / "1" / "state"):
        path.write_bytes(b"")
    before = data_files(tmp_path / "c")
    with pytest.raises(UsageError, match="all are damaged, or the script's state has changed"):
        load(tmp_path / "c")
    assert data_files(tmp_path / "c") == before  # nothing is deleted


def test_checkpoints_of_another_state_are_refused_and_left_alone(tmp_path):
    filled(tmp_path / "c").close()
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for other in ({"more": jnp.zeros(4)}, {"w": jnp.zeros((4, 3))}, {"n": jnp.zeros(4)}):
        like = checkpoint.word_shapes(jax.eval_shape(lambda other=other: example_state() | other), where)
        with pytest.raises(UsageError, match="state has changed"):
            checkpoint.Checkpoints(tmp_path / "c", 3).load(like)
    assert load(tmp_path / "c").update == 3


def test_a_disk_that_refuses_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="can't write"):
        checkpoint.Checkpoints(tmp_path / "file" / "c", 3)


def test_nothing_is_pickled(tmp_path):
    filled(tmp_path / "c").close()
    assert data_files(tmp_path / "c")
    for path in data_files(tmp_path / "c"):
        assert not path.read_bytes().startswith(b"\x80") and path.suffix not in (".pkl", ".pickle")


# --- Record -----------------------------------------------------------------------------------------------------------
def test_metrics_file_does_not_depend_on_chunks_and_is_cut_on_going_on(tmp_path):
    people = members.make_members([{"lr": 0.1}, {"lr": 0.2}], 2, 5)
    rng = np.random.default_rng(0)
    metrics = {"episode_return": rng.normal(size=(6, 4)).astype(np.float32), "env_steps": np.full((6, 4), 7, np.int32)}

    def written(name, cuts):
        file = record.MetricsFile(tmp_path / name)
        for start, stop in cuts:
            file.append(people, start + 1, {k: v[start:stop] for k, v in metrics.items()})
        file.close()
        return (tmp_path / name).read_bytes()

    whole = written("a", [(0, 6)])
    assert whole == written("b", [(0, 1), (1, 4), (4, 6)])
    file = record.MetricsFile(tmp_path / "c")
    file.append(people, 1, {k: v[:2] for k, v in metrics.items()})
    kept = file.position
    file.append(people, 3, {k: v[2:5] for k, v in metrics.items()})  # written after the checkpoint: to be done again
    file.close()
    file = record.MetricsFile(tmp_path / "c")
    file.go_to(kept)
    file.append(people, 3, {k: v[2:6] for k, v in metrics.items()})
    file.close()
    assert (tmp_path / "c").read_bytes() == whole
    with pytest.raises(UsageError, match="start a new run"):
        record.MetricsFile(tmp_path / "c").go_to(10**6)
    table = pd.read_csv(tmp_path / "a")
    assert list(table) == ["member", "seed", "lr", "update", "env_steps", "episode_return"]
    assert table["member"].tolist() == [0, 1, 2, 3] * 6 and table["seed"].tolist() == [5, 6, 5, 6] * 6
    back = table["episode_return"].to_numpy(np.float32).reshape(6, 4)
    np.testing.assert_array_equal(back, metrics["episode_return"])  # to the last bit


def test_json_has_null_for_nan(tmp_path):
    record.write_json(tmp_path / "x.json", {"a": float("nan"), "b": [float("inf"), 1.5]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [None, 1.5]}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_run_directory_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    plan = command_line.make_plan(PPO, ["--run-dir", str(tmp_path / "runs" / "one")])

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UsageError, match="No space left"):
        patch.setattr(record, "write_json", full)
        record.create_run_dir(plan)
    assert list((tmp_path / "runs").iterdir()) == []
    assert {path.name for path in record.create_run_dir(plan).iterdir()} == {"ppo.py", "config.json"}
    (tmp_path / "runs/one/checkpoints/batch-000/3").mkdir(parents=True)
    with pytest.raises(UsageError, match="can't write the run directory"):  # somebody else was faster
        record.create_run_dir(plan)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["one"]


def test_where_there_is_no_home_and_no_cpu_device(monkeypatch):
    def none(*args, **options):
        raise RuntimeError("there is none")

    before = jax.config.jax_compilation_cache_dir
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", none)
    devices.use_compile_cache()
    assert jax.config.jax_compilation_cache_dir == before
    first = jax.local_devices()[0]
    monkeypatch.setattr(jax, "local_devices", lambda backend=None: none() if backend else [first])
    assert devices.host_device() is first


def test_missing_package_names_the_install_command():
    with pytest.raises(UsageError, match="pip install no_such_package"):
        require("no_such_package", "--track")


# --- Report and pictures ----------------------------------------------------------------------------------------------
def example_plan(sweep, num_seeds=4):
    points = sweeps.parse_sweep(sweep, ppo.Config, 0)
    options = types.SimpleNamespace(num_seeds=num_seeds, seed=0, imports=())
    everyone = members.make_members(points, num_seeds, 0)
    batches = members.make_batches(PPO, BASE, everyone, 0)
    return types.SimpleNamespace(
        script=PPO, config=BASE, points=points, options=options, members=everyone, batches=batches
    )


def example_metrics(plan, updates=40):
    rows = [
        (m.index, u, u * 128, 100 * m.point + u + m.seed if u > 2 else np.nan)
        for u in range(1, updates + 1)
        for m in plan.members
    ]
    return pd.DataFrame(rows, columns=["member", "update", "env_steps", "episode_return"])


def example_points(plan, bad_members=()):
    bad = np.isin(np.arange(len(plan.members)), bad_members).astype(int) * 7
    returns = np.stack([[[m.point + 1.0] * 3, [m.point + 0.5] * 3] for m in plan.members])
    returns[bad > 0] = np.nan
    own = [[m.index for m in batch.members] for batch in plan.batches]
    trained = [types.SimpleNamespace(batch=batch, first_bad=bad[i]) for batch, i in zip(plan.batches, own, strict=True)]
    evaluated = summary.with_returns(plan, [returns[i] for i in own])
    rows = summary.summarize_members(plan, example_metrics(plan), trained, evaluated)
    return rows, summary.summarize_points(plan, rows, summary.OF_POLICIES)


def test_final_return_is_the_mean_of_the_last_tenth():
    rows, _ = example_points(example_plan(["activation=tanh,relu", "lr=1e-4,1e-3"]))
    assert [row["final_return"] for row in rows] == [
        100 * r["point"] + 38.5 + r["seed"] for r in rows
    ]  # updates 37 to 40
    assert [row["greedy_return"] for row in rows] == [r["point"] + 1.0 for r in rows]


def test_final_return_is_a_mean_over_episodes():
    """Of 9 episodes that pay 30 and 9 that pay 470: 250, where a mean over the updates would give 140."""
    returns, counts = pd.Series([np.nan, 30.0, 30.0, 30.0, 470.0]), pd.Series([0, 3, 3, 3, 9])
    metrics = pd.DataFrame({"episode_return": returns, "episode_count": counts})
    assert summary.mean_return(metrics) == 250.0
    assert summary.mean_return(metrics[["episode_return"]]) == 140.0  # of a script that does not count its episodes
    assert summary.mean_return(metrics.assign(episode_count=0)[4:]) == 470.0  # none ended: the last known one
    ours = meta.mean_of_episodes(jnp.array(returns), jnp.array(counts))
    assert float(ours) == 250.0 and float(meta.mean_of_episodes(jnp.array([5.0]), jnp.array([0]))) == 5.0


def test_a_nan_member_is_counted_and_harms_no_other():
    plan = example_plan(["lr=1e-4,1e-3"])
    _, points = example_points(plan, bad_members=[5])
    _, clean = example_points(plan)
    assert [p["nan_seeds"] for p in points] == [0, 1]
    assert points[0] == clean[0]
    assert points[1]["final_return"]["n"] == 3 and np.isfinite(points[1]["final_return"]["iqm"])
    assert summary.best_point(clean) == 1 and summary.best_point(points) == 0  # a point that diverges is not the best


def test_seeds_without_a_return_are_counted_and_a_point_of_few_is_not_the_best():
    def point(*returns):
        found = stats.describe(returns)
        return {"seeds": len(returns), "nan_seeds": 0, "final_return": found, "greedy_return": found}

    lucky, whole = point(-100.0, np.nan, np.nan, np.nan), point(-300.0, -300.0, -300.0, -300.0)
    assert summary.best_point([lucky, whole]) == 1
    assert summary.of_evaluation(lucky, "greedy_return") == "-100.0, 3 without an end"
    assert summary.of_evaluation(whole, "greedy_return") == "-300.0 [-300.0, -300.0]"


def test_the_member_shown_is_the_best_of_the_best_point_whose_return_is_known():
    def row(index, point, greedy, bad=0):
        return {"member": index, "point": point, "greedy_return": greedy, "final_return": 0.0, "first_bad_update": bad}

    rows = [row(0, 1, np.nan), row(1, 1, 9.0, bad=3), row(2, 1, 5.0), row(3, 1, 6.0), row(4, 0, 8.0)]
    assert summary.best_member(rows, 1)["member"] == 3 and summary.best_member(rows[:3], 1)["member"] == 2
    assert summary.best_member(rows[:2], 1)["member"] == 0


def test_rerun_command_parses_back_to_the_best_point():
    plan = example_plan(["lr=1e-4,0.00123", "anneal_lr=true,false"])
    command = summary.rerun_command(plan, 3).split()
    assert command[:2] == ["python", "ppo.py"]
    assert "--lr 0.00123 --hidden-size" not in command and "0.00123" in command and "--no-anneal-lr" in command
    assert command[-4:] == ["--num-seeds", "4", "--seed", "4"]
    plan.options.imports = ("my envs/walk.py",)
    command = summary.rerun_command(plan, 3)
    assert command.startswith("python ppo.py --import 'my envs/walk.py' --") and " --no-anneal-lr " in command


def test_curves_are_means_of_stretches_and_begin_where_every_member_is_known():
    plan = example_plan([], num_seeds=3)
    steps, curves = plots.binned(example_metrics(plan), [0, 2])
    assert curves.shape == (2, 38) and steps[0] == 3 * 128  # 2 updates without an ended episode, no binning below 100
    np.testing.assert_array_equal(curves[1], np.arange(3, 41) + 2)
    steps, curves = plots.binned(example_metrics(plan, updates=400), [0])
    assert curves.shape == (1, 100) and curves[0, 50] == np.mean([201, 202, 203, 204])
    assert plots.binned(example_metrics(plan), [])[1].shape[0] == 0


@pytest.mark.parametrize(
    ("sweep", "pictures"),
    [
        ([], ["learning_curve.png"]),
        (["lr=1e-5,1e-4,1e-2"], ["learning_curve.png", "sweep.png"]),
        (["activation=tanh,relu"], ["learning_curve.png", "sweep.png"]),
        (["lr=1e-4,1e-3", "ent_coef=0,0.01,0.02"], ["learning_curve.png", "sweep.png"]),
        (["lr=log:1e-5:1e-2:5 ent_coef=lin:0:0.1:5"], ["learning_curve.png", "sweep.png"]),
        (["lr=1e-4,1e-3", "ent_coef=0,0.01", "gamma=0.9,0.99"], ["learning_curve.png"]),
    ],
)
def test_pictures(tmp_path, sweep, pictures):
    plan = example_plan(sweep)
    rows, points = example_points(plan, bad_members=[1])
    plots.learning_curve(tmp_path / "learning_curve.png", plan, example_metrics(plan), points, rows)
    plots.sweep(tmp_path / "sweep.png", plan, points)
    assert sorted(p.name for p in tmp_path.iterdir()) == pictures
    assert all(p.read_bytes().startswith(b"\x89PNG") and p.stat().st_size > 5000 for p in tmp_path.iterdir())


# --- Memory -----------------------------------------------------------------------------------------------------------
def test_large_states_are_announced():
    config = dqn.Config(env_id="Breakout-MinAtar", total_timesteps=20_000, buffer_size=100_000, num_envs=4)
    one = jax.eval_shape(lambda key: dqn.make_train(config)(key, num_updates=0)[0], jax.random.key(0))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct((8, *x.shape), x.dtype), one)
    assert program.state_bytes(one.buffer) == 100_000 * (2 * 400 * 4 + 10)  # as the docstring of dqn.py says
    assert program.state_bytes(like) > run.NOTABLE_BYTES
    note = program.memory_note(like, 8)
    assert "8 members take 2.6 GB, of which buffer 2.6 GB" in note and "--max-members-at-once" in note


@pytest.mark.parametrize(
    ("count", "needed", "free", "num_devices", "expected"),
    [
        (100, 10.0, 10.0, 1, 50),  # 70 fit, so two batches of 50
        (100, 10.0, 10.0, 8, 56),  # and of 56 and 44 where they must fill 8 devices
        (100, 1e6, 10.0, 2, 2),  # one per device is always tried
        (10_000, 8e9, 4e9, 2, 3334),
    ],
)
def test_batches_fill_what_is_free_evenly(count, needed, free, num_devices, expected):
    size = memory.fitting(count, needed, free, num_devices)
    assert size == expected and size % num_devices == 0
    assert size == num_devices or size * needed / count <= memory.USABLE * free


def test_free_memory_is_that_of_the_machine_or_the_container(monkeypatch):
    files = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 4 kB\n", "/sys/fs/cgroup/memory.max": "3000\n"}
    files |= {"/sys/fs/cgroup/memory.current": "1000\n", "/proc/self/cgroup": "1:cpu:/a\n0::/job_7/step_0\n"}
    monkeypatch.setattr(memory, "read", lambda path: files.get(path, ""))
    assert memory.free_bytes() == 2000 / jax.local_device_count()
    assert memory.free_bytes(processes=2) == 1000 / jax.local_device_count()
    files |= {"/sys/fs/cgroup/job_7/memory.max": "1500\n", "/sys/fs/cgroup/job_7/memory.current": "900\n"}
    files["/sys/fs/cgroup/job_7/memory.stat"] = "active_file 9\ninactive_file 300\n"  # the kernel drops these
    assert memory.container_free() == 900
    del files["/sys/fs/cgroup/job_7/memory.max"]
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    assert memory.free_bytes() == 4096 / jax.local_device_count()
    v1 = {"/proc/self/cgroup": "4:memory:/job\n0::/\n", "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": "700\n"}
    files |= v1 | {"/sys/fs/cgroup/memory/job/memory.usage_in_bytes": "200\n"}
    assert memory.container_free() == 500
    files.clear()
    assert memory.free_bytes() is None


def test_members_that_do_not_fit_are_trained_in_batches(monkeypatch, tmp_path, capsys):
    """The estimate is of the compiled program: the states and the rollout at least, and it grows with the members."""
    words = ["--total-timesteps", "1024", "--hidden-size", "8"]
    mesh = devices.make_mesh(2)

    def fitted(*more):
        return program.fit_memory(command_line.make_plan(PPO, [*words, *more]), mesh, tmp_path, print)

    few = program.program_of(plan := command_line.make_plan(PPO, words), plan.batches[0], mesh)
    assert few.bytes_per_device > 8 * 512 * 4 * 4 and few.bytes_per_device > program.state_bytes(few.like) / 2
    record.write_json(tmp_path / "config.json", {"script": "ppo", "options": {}})
    monkeypatch.setattr(program, "free_bytes", lambda processes: 0.6 * few.bytes_per_device)
    plan = fitted()
    assert plan.options.max_members_at_once == 6 and [len(b.members) for b in plan.batches] == [6, 6, 4]
    assert [m.seed for batch in plan.batches for m in batch.members] == list(range(16))
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["script"] == "ppo" and written["options"]["max_members_at_once"] == 6
    assert "16 members at once would take" in capsys.readouterr().out
    assert fitted("--max-members-at-once", "10").options.max_members_at_once == 10  # by hand goes first
    assert fitted("--num-seeds", "15").options.max_members_at_once == 0  # so few are simply tried
    monkeypatch.setattr(program, "free_bytes", lambda processes: 1e12)
    assert fitted() == command_line.make_plan(PPO, words)


def test_ctrl_c_waits_for_the_chunk_and_is_the_callers_own_again_afterwards(capsys):
    before = signal.getsignal(signal.SIGINT)
    for presses in (0, 1):
        bar = progress.Progress(10, None)
        if presses:
            signal.raise_signal(signal.SIGINT)
        assert bar.interrupted == bool(presses)
        bar.end()
        assert signal.getsignal(signal.SIGINT) is before
    assert "once more to stop at once" in capsys.readouterr().out


# --- Evaluation -------------------------------------------------------------------------------------------------------
def test_evaluation_has_each_members_own_floats_and_the_environments_own_parameters():
    """epsilon 0 plays as greedily as the greedy policy, epsilon 1 at random; no episode is longer than 60 steps."""
    config = dqn.Config(
        env_params="max_steps_in_episode=60", total_timesteps=3000, learning_starts=1000, exploration_fraction=0.1
    )
    layout = devices.Layout(devices.make_mesh(2))
    compiled = program.build(script_of(dqn), config, ("end_e",), 2, layout)
    seeds, floats = layout.place((np.zeros(2, np.uint32), {"end_e": np.array([0.0, 1.0], np.float32)}))
    state = compiled.init(seeds, floats)
    play = evaluate.evaluate_all(script_of(dqn), config, (), 64, layout)
    (greedy, sampled), (_, random) = np.asarray(play(state, floats, seeds))
    np.testing.assert_array_equal(greedy, sampled)
    assert 15 < random.mean() < 30 and (random != sampled).mean() > 0.5
    assert greedy.max() <= 60 and random.max() <= 60


def test_an_evaluation_ends_also_where_episodes_do_not(monkeypatch):
    monkeypatch.setattr(evaluate, "LONGEST", 30)
    config = ppo.Config(env_params="max_steps_in_episode=1000000000", total_timesteps=512, hidden_size=8)
    state, _ = ppo.make_train(config)(jax.random.key(0), num_updates=0)
    returns = np.asarray(evaluate.make_evaluate(PPO, config, 64)(state, jax.random.key(1), False))
    assert 0 < np.isnan(returns).sum() < 64 and np.nanmax(returns) <= 31

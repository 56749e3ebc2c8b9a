"""Two CPU devices, as the runner itself would make on two cores; one compile cache for all child processes."""

import gc
import os

import jax
import pytest

# Here small programs are compiled often and run for a moment: XLA's quickest settings take a third of the time.
# Those whose speed or whose bits are the users' own have the users' settings: users_environment, jit_as_users.
USERS = dict(os.environ)
QUICKEST = "--xla_cpu_use_fusion_emitters=false" if jax.__version_info__ < (0, 10) else ""  # unknown to jax 0.11
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICKEST}".strip()
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_disable_most_optimizations", True)
gc.set_threshold(200_000, 20, 100)  # tracing makes objects by the million and hardly any cycle: a seventh of the time


@pytest.fixture(scope="session")
def users_environment(tmp_path_factory):
    """For a child process as users start it, but that it shares no compiled programs with them."""
    return USERS | {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")), "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="session")
def environment(users_environment):
    """For the other child processes, whose time goes into compiling."""
    return users_environment | {"XLA_FLAGS": QUICKEST, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


LONGEST_FIRST = ("test_hosts", "test_cli", "test_contract", "test_meta_evolve", "test_trained", "test_notebooks")


def pytest_collection_modifyitems(items):
    """Two workers take files in this order; a long one at the end would leave one of them idle."""
    rank = {name: i for i, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))  # stable: within a file as written

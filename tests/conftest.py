"""Two CPU devices, as the runner itself would make on two cores; one compile cache for all child processes."""

import os

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_disable_most_optimizations", True)  # compiles in half the time; so do child processes


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """For child processes: they share compiled programs with one another, and nothing with the user."""
    cache = str(tmp_path_factory.mktemp("cache"))
    return os.environ | {"XDG_CACHE_HOME": cache, "PYTHONUNBUFFERED": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}

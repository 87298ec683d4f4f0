"""Settings every test runs under: strict dtype promotion and two CPU devices; and compiled programs let go of in time."""

import itertools

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_num_cpu_devices", 2)

_PROGRAMS_KEPT_FOR = 100
_tests = itertools.count(1)


@pytest.fixture(autouse=True)
def _forget_programs():
    """Thousands of tests compile thousands of programs, which jax would keep: some ten gigabytes by the end."""
    yield
    if next(_tests) % _PROGRAMS_KEPT_FOR == 0:
        jax.clear_caches()

"""Settings every test runs under: strict dtype promotion and two CPU devices; and compiled programs let go of in time.

Programs are compiled once a run: jax keeps them in a folder that the workers share, which is gone in the end.

``OBJNET_EVERY=3`` runs every third case of each parametrised test, for a second look at a suite that another run sees whole.
"""

import collections
import itertools
import os
import shutil
import tempfile

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_num_cpu_devices", 2)

# The folder's name passes to the workers; scripts that tests start (and kill) do not use it.
_FOLDER = "OBJNET_TEST_PROGRAMS"
_ours = None if _FOLDER in os.environ else tempfile.mkdtemp(prefix="objnet-programs-")
os.environ[_FOLDER] = os.environ.get(_FOLDER) or _ours
jax.config.update("jax_compilation_cache_dir", os.environ[_FOLDER])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

# the same examples each time: a failure is the change's, and can be run again
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None)
hypothesis.settings.load_profile("suite")

_PROGRAMS_KEPT_FOR = 100
_tests = itertools.count(1)


@pytest.fixture(autouse=True)
def _forget_programs():
    """Thousands of tests compile thousands of programs, which jax would keep: some ten gigabytes by the end."""
    yield
    if next(_tests) % _PROGRAMS_KEPT_FOR == 0:
        jax.clear_caches()


def pytest_sessionfinish():
    if _ours is not None:
        shutil.rmtree(_ours, ignore_errors=True)


def pytest_collection_modifyitems(config, items):
    every = int(os.environ.get("OBJNET_EVERY", "1"))
    cases = collections.Counter()
    kept, left = [], []
    for item in items:
        name = item.nodeid.partition("[")[0]
        (left if cases[name] % every else kept).append(item)
        cases[name] += 1
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept

"""Settings every test runs under: strict dtype promotion and two CPU devices; and compiled programs let go of in time.

Programs are compiled once a run: jax keeps them in a folder that the workers share, which is gone in the end.

Unless ``OBJNET_TESTS=full`` is set a run is a quick one: tests marked slow are left out, of tests with more than 8 cases every ninth
runs (of those with 5 or more every third, with 3 or 4 every second), property tests draw a quarter of their examples, and programs are
compiled without the compiler's expensive passes.
``OBJNET_EVERY=16`` runs every sixteenth case of each test and every fourth test of one case, and ``OBJNET_FIRST=1`` begins with
another, for a second look at what another run has seen.
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

FULL = os.environ.get("OBJNET_TESTS") == "full"
if not FULL:  # a fifth of the time; scripts that tests start compile as ever
    _flags = os.environ.get("XLA_FLAGS")
    os.environ["XLA_FLAGS"] = f"{_flags or ''} --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    jax.devices()  # reads them
    os.environ.pop("XLA_FLAGS") if _flags is None else os.environ.update(XLA_FLAGS=_flags)
MANY = 8  # cases

# the same examples each time: a failure is the change's, and can be run again
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None)
hypothesis.settings.load_profile("suite")


class _Quick(hypothesis.settings):
    """Settings with fewer examples."""

    def __init__(self, *args, **options):
        if "max_examples" in options:
            options["max_examples"] = max(2, options["max_examples"] // 4)
        super().__init__(*args, **options)


if not FULL:
    hypothesis.settings = _Quick  # tests import it later

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
    thinned = "OBJNET_EVERY" in os.environ
    names = [item.nodeid.partition("[")[0] for item in items]
    sizes, seen = collections.Counter(names), collections.Counter()
    named = any("::" in argument for argument in config.args)  # then it is meant
    first = int(os.environ.get("OBJNET_FIRST", 0))  # another value, other cases
    kept, left = [], []
    for item, name in zip(items, names):
        quick = 1 if FULL or named or sizes[name] < 3 else 2 if sizes[name] < 5 else 3 if sizes[name] <= MANY else 9
        every = int(os.environ.get("OBJNET_EVERY", quick))
        if thinned and sizes[name] == 1:
            seen["single"] += 1
            single, apart = seen["single"], max(2, every // 4)
        else:
            single = None
        slow = item.get_closest_marker("slow") is not None and not FULL and not named
        place = seen[name] % every == first % min(every, sizes[name]) if single is None else single % apart == first % apart
        (kept if place and not slow else left).append(item)
        seen[name] += 1
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept

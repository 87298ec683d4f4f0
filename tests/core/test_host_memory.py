"""``retain_freed_memory``: in a process of its own, the pages of a freed array are there for the next one."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import sys
import numpy as np
from objnet.core.host_memory import retain_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(25_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if "retain" in sys.argv:
    assert retain_freed_memory() is True
faults()
print(faults())
"""


def faults(*args):
    done = subprocess.run([sys.executable, "-c", PROGRAM, *args], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
@pytest.mark.slow
def test_freed_pages_are_used_again():
    assert faults("retain") * 10 < faults()


def test_other_libraries_are_left_alone(monkeypatch):
    from objnet.core import host_memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert host_memory.retain_freed_memory() is False

"""40 steps are 20 steps, a save, a new process, a load and 20 more: to the last bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.io.resume import WORKS


def _run(folder, part):
    command = [sys.executable, "-m", "tests.io.resume", str(folder), part]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


def test_resuming_is_bit_exact(tmp_path):
    whole = _run(tmp_path, "whole")
    assert whole.keys() == WORKS.keys()
    assert _run(tmp_path, "rest") == whole

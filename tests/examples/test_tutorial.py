"""The tutorial's blocks, run in order in one namespace: those marked ``python torch`` only where torch is."""

from __future__ import annotations

import importlib.util
import re
import sys
import types
from pathlib import Path

import jax

PAGE = Path(__file__).parents[2] / "examples" / "from_pytorch_to_jax.md"
BLOCK = re.compile(r"^```python( torch)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks():
    """(first line, needs torch, source) of every block of the page."""
    text = PAGE.read_text(encoding="utf-8")
    return [(text[: m.start(2)].count("\n") + 1, m.group(1) is not None, m.group(2)) for m in BLOCK.finditer(text)]


def run(skip_torch):
    module = types.ModuleType("tutorial")
    sys.modules[module.__name__] = module
    try:
        for line, needs_torch, source in blocks():
            if needs_torch and skip_torch:
                continue
            # blank lines in front, so that a traceback has the page's own line numbers
            exec(compile("\n" * (line - 1) + source, str(PAGE), "exec"), vars(module))
    finally:
        del sys.modules[module.__name__]
    return vars(module)


def test_every_block_is_found():
    text = PAGE.read_text(encoding="utf-8")
    assert len(blocks()) == text.count("\n```python") and len(blocks()) >= 14
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## 1. The model in PyTorch",
        "## 2. Change the imports, keep the weights",
        "## 3. Train it live",
        "## 4. Purify",
        "## 5. Scale and transform",
    ]
    for _, needs_torch, source in blocks():
        assert needs_torch == bool(re.search(r"\btorch\b", source)), source


def test_the_blocks_run():
    has_torch = importlib.util.find_spec("torch") is not None
    with jax.numpy_dtype_promotion("standard"):  # optax.adam needs it
        names = run(skip_torch=not has_torch)
    assert ("torch_net" in names) == has_torch
    assert names["accuracy"] > 0.93 and "restored" in names

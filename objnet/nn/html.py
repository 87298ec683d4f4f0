"""A module as a tree that folds, for notebooks."""

from __future__ import annotations

import html
import math
from typing import Any

_STYLE = "margin-left:1.2em;font-family:monospace"


def tree(module: Any, name: str = "", opened: bool = True) -> str:
    """HTML of ``module``: its class, options and number of parameters; what is below unfolds. Reads no values."""
    extra = module.extra_repr().replace("\n", ", ")
    label = f"{f'({name}): ' if name else ''}{module._get_name()}({extra})"
    below = {id(p): p for p in module.parameters()}
    count = sum(math.prod(p._peek().shape) for p in below.values() if hasattr(p._peek(), "shape"))
    frozen = " frozen" if below and not any(p.requires_grad for p in below.values()) else ""
    told = f"{html.escape(label)} <small>{f'{count:,} parameters{frozen}' if below else ''}</small>"
    children = [tree(child, key, False) for key, child in module._modules.items() if child is not None]
    if not children:
        return f'<div style="{_STYLE}">{told}</div>'
    return f'<details style="{_STYLE}"{" open" if opened else ""}><summary>{told}</summary>{"".join(children)}</details>'

"""Penalties on parameters, to add to the loss inside a closure.

``optimizer.step(lambda: F.cross_entropy(model(x), y) + regularizers.l2(model.parameters(), 1e-4))``. The results are scalars, in
float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core.variable import Parameter
from objnet.optim.loss_scale import at_least_float32

__all__ = ["elastic_net", "l1", "l2"]

Parameters = Iterable[Parameter | tuple[str, Parameter]]


def l1(parameters: Parameters, strength: Any = 1.0) -> jax.Array:
    """``strength * sum |w|`` over all elements of all parameters (Tibshirani 1996), whose gradient is 0 at 0.

    Args:
        parameters: Parameters, or (name, Parameter) pairs, for a penalty on some of them.
        strength: a number or 0-d array.

    Raises:
        TypeError: an item is no Parameter. ValueError: there is none, as of an iterator used before.
    """
    return _times(strength, _total("l1", parameters, lambda w: jnp.abs(w).sum()))


def l2(parameters: Parameters, strength: Any = 1.0) -> jax.Array:
    """``strength * sum |w|**2``, not halved: that of ``strength=wd / 2`` has the gradient of SGD's ``weight_decay=wd``.

    Arguments and errors as :func:`l1`.
    """
    return _times(strength, _total("l2", parameters, lambda w: (w * w.conj()).real.sum()))


def elastic_net(parameters: Parameters, l1_strength: Any = 1.0, l2_strength: Any = 1.0) -> jax.Array:
    """``l1_strength * sum |w| + l2_strength * sum |w|**2`` (Zou and Hastie 2005); parameters and errors as :func:`l1`."""
    held = parameters if isinstance(parameters, Parameter) or hasattr(parameters, "named_parameters") else list(parameters)
    return l1(held, l1_strength) + l2(held, l2_strength)


def _total(name: str, parameters: Iterable[Any], penalty: Callable[[jax.Array], jax.Array]) -> jax.Array:
    if isinstance(parameters, Parameter) or hasattr(parameters, "named_parameters"):
        hint = "[parameter]" if isinstance(parameters, Parameter) else "model.parameters()"
        raise TypeError(f"regularizers.{name} takes several Parameters, got {type(parameters).__name__}: pass {hint}")
    parts = []
    for item in parameters:
        p = item[1] if isinstance(item, tuple) else item
        if not isinstance(p, Parameter):
            raise TypeError(
                f"regularizers.{name} takes Parameters or (name, Parameter) pairs, got {type(p).__name__}: pass model.parameters()"
            )
        value = p._read()
        parts.append(penalty(value.astype(at_least_float32(value.dtype))))
    if not parts:
        raise ValueError(f"regularizers.{name} got no parameters: was an iterator used before?")
    widest = max((part.dtype for part in parts), key=lambda dtype: jnp.finfo(dtype).bits)
    return sum((part.astype(widest) for part in parts), jnp.zeros((), widest))


def _times(strength: Any, total: jax.Array) -> jax.Array:
    return jnp.asarray(strength, total.dtype) * total

"""Compare a functional with torch's: the result, its dtype, and the vector-Jacobian products for random cotangents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

# (relative, absolute) tolerance by dtype; half precision: a few units in the last place
TOLERANCES = {"float64": (1e-9, 1e-10), "float32": (1e-5, 1e-5), "float16": (4e-3, 4e-3), "bfloat16": (3e-2, 3e-2)}


def to_jax(x: torch.Tensor) -> jax.Array:
    """A tensor as a jax array of the same dtype (int64 becomes the default integer dtype)."""
    x = x.detach()
    if x.dtype == torch.bfloat16:
        return jnp.asarray(x.float().numpy()).astype(jnp.bfloat16)
    return jnp.asarray(x.numpy())


def to_torch(x: jax.Array) -> torch.Tensor:
    """A jax array as a tensor of the same dtype, a copy; int32 becomes int64, which torch wants for indices."""
    if x.dtype == jnp.bfloat16:
        return torch.tensor(np.asarray(x.astype(jnp.float32))).bfloat16()
    tensor = torch.tensor(np.asarray(x))
    return tensor.long() if tensor.dtype == torch.int32 else tensor


def tolerance(dtype: Any) -> dict[str, float]:
    """``rtol`` and ``atol`` for results of this dtype; exact for integers."""
    rtol, atol = TOLERANCES.get(jnp.dtype(dtype).name, (0.0, 0.0))
    return {"rtol": rtol, "atol": atol}


def assert_close(ours: jax.Array, theirs: torch.Tensor, **tolerances: float) -> None:
    """Equal shape and dtype, values within the dtype's tolerance; NaN and infinities must agree."""
    assert ours.shape == tuple(theirs.shape)
    expected = to_jax(theirs)
    assert ours.dtype == expected.dtype
    wide = np.float64 if jnp.issubdtype(ours.dtype, jnp.floating) else ours.dtype
    np.testing.assert_allclose(
        np.asarray(ours).astype(wide), np.asarray(expected).astype(wide), **(tolerance(ours.dtype) | tolerances)
    )


def assert_parity(
    ours: Callable[..., jax.Array],
    theirs: Callable[..., torch.Tensor],
    *arrays: jax.Array,
    gradients: Sequence[int] | None = None,
    seed: int = 0,
    **tolerances: float,
) -> None:
    """The functions agree on ``arrays``, ours compiled, and so do their vector-Jacobian products (random cotangent).

    ``gradients`` are the positions differentiated; by default those of all floating point arrays.
    """
    if gradients is None:
        gradients = [i for i, x in enumerate(arrays) if jnp.issubdtype(x.dtype, jnp.floating)]
    tensors = [to_torch(x) for x in arrays]
    for i in gradients:
        tensors[i].requires_grad_(True)

    def all_of_it(cotangent: jax.Array, *arrays: jax.Array) -> tuple[jax.Array, jax.Array, Sequence[jax.Array]]:
        def of_differentiated(*values: jax.Array) -> jax.Array:
            full = list(arrays)
            for i, value in zip(gradients, values):
                full[i] = value
            return ours(*full)

        output, vjp = jax.vjp(of_differentiated, *(arrays[i] for i in gradients))
        return ours(*arrays), output, vjp(cotangent.astype(output.dtype)) if gradients else ()

    expected = theirs(*tensors)
    cotangent = np.asarray(np.random.RandomState(seed).randn(*expected.shape), np.float32)
    compiled = jax.jit(all_of_it)  # one program compiles sooner than every operation of eager code
    undifferentiated, output, vjps = compiled(jnp.asarray(cotangent), *arrays)
    assert_close(undifferentiated, expected, **tolerances)
    assert_close(output, expected, **tolerances)
    if gradients:
        expected.backward(torch.tensor(cotangent).to(expected.dtype))
    for i, gradient in zip(gradients, vjps):
        reached = tensors[i].grad is not None
        assert_close(gradient, tensors[i].grad if reached else torch.zeros_like(tensors[i]), **tolerances)


def assert_derivatives(function: Callable[..., jax.Array], *arrays: jax.Array, seed: int = 0, rtol: float = 1e-5) -> None:
    """Forward mode, reverse mode and both second orders of float64 ``arrays`` agree with central differences."""
    random, step = np.random.RandomState(seed), 1e-5
    direction = tuple(jnp.asarray(random.randn(*x.shape)) for x in arrays)

    def scalar(*arrays: jax.Array) -> jax.Array:
        output = function(*arrays)
        return jnp.sum(output * jnp.asarray(random_weights(output.shape)))

    def random_weights(shape: tuple[int, ...]) -> np.ndarray:
        return np.random.RandomState(seed + 1).randn(*shape)

    gradient = jax.grad(scalar, range(len(arrays)))

    def along(values: Sequence[jax.Array]) -> jax.Array:
        return sum(jnp.vdot(x, d) for x, d in zip(values, direction))

    @jax.jit
    def program(*arrays: jax.Array) -> dict[str, Any]:
        shifted = [tuple(x + sign * step * d for x, d in zip(arrays, direction)) for sign in (1, -1)]
        return {
            "first": [
                (scalar(*shifted[0]) - scalar(*shifted[1])) / (2 * step),
                along(gradient(*arrays)),
                jax.jvp(scalar, arrays, direction)[1],
            ],
            "second": [
                jax.tree.map(lambda a, b: (a - b) / (2 * step), gradient(*shifted[0]), gradient(*shifted[1])),
                jax.jvp(gradient, arrays, direction)[1],
                jax.grad(lambda *arrays: along(gradient(*arrays)), range(len(arrays)))(*arrays),
            ],
        }

    for numeric, *exact in program(*arrays).values():
        for result in exact:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol), result, numeric)


def assert_same_error(ours: Callable[[], Any], theirs: Callable[[], Any], match: str | None = None) -> None:
    """Both raise, and ours is of torch's class."""
    with pytest.raises(Exception) as expected:
        theirs()
    with pytest.raises(expected.type, match=match):
        ours()

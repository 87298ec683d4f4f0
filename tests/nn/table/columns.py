"""What a row compares, and how: each check gives None where objnet equals torch, or what differs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from objnet.core import rng
from tests.nn import module_parity
from tests.nn.parity import assert_close, tolerance
from tests.nn.table.samples import Sample
from tests.nn.table.worlds import Call, Untranslatable, cotangents_for, leaves_of

COLUMNS = ("signature", "repr", "keys", "init", "forward", "gradients", "buffers", "dtypes", "transforms", "refusals")
Result = str | None
# What torch says where it has no check and runs into an error deep inside.
_ACCIDENTS = ("Dimension out of range", "index_select()", "INTERNAL ASSERT", "values to unpack", "tuple index")
_USUAL = (RuntimeError, ValueError, IndexError, TypeError, AssertionError)


def described(error: BaseException) -> str:
    """An error in a line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


def attempt(check: Callable[[], Any]) -> Result:
    """None, or what was wrong."""
    try:
        check()
    except Exception as error:
        return described(error)
    return None


def assert_near(ours: list[Any], theirs: list[Any], values: bool = True) -> None:
    """Equal shapes and dtypes; values within the dtype's tolerance, absolute error relative to the largest value."""
    assert len(ours) == len(theirs), f"{len(ours)} results, torch gives {len(theirs)}"
    for array, tensor in zip(ours, theirs, strict=True):
        tensor = tensor.detach()
        tensor = tensor.int() if tensor.dtype == torch.int64 else tensor
        assert tuple(array.shape) == tuple(tensor.shape), f"shape {tuple(array.shape)}, torch {tuple(tensor.shape)}"
        assert str(array.dtype) == str(tensor.dtype).removeprefix("torch."), f"dtype {array.dtype}, torch {tensor.dtype}"
        if values:
            finite = tensor.float().abs().nan_to_num(0, 0, 0) if tensor.is_floating_point() else tensor
            scale = max(1.0, float(finite.max())) if tensor.numel() and tensor.is_floating_point() else 1.0
            limits = tolerance(array.dtype)
            assert_close(jnp.asarray(array), tensor, rtol=limits["rtol"], atol=limits["atol"] * scale)


def quiet(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call without warnings, from the seed of the table."""
    torch.manual_seed(module_parity.SEED)
    rng.manual_seed(module_parity.SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def merge(row: dict[str, Result], results: dict[str, Result], sample: Sample) -> None:
    """The first difference of each column stays, with its sample."""
    for column, result in results.items():
        if row.get(column) is None:
            row[column] = None if result is None else f"{result} [{sample}]"


def refused_alike(error: Exception, *runs: Callable[[], Any]) -> Result:
    """Ours raises torch's class of error, in the first run that raises: abstract ones come first, as they compile nothing.

    Where torch has no check but runs into an error deep inside, any of the usual classes will do.
    """
    wanted = _USUAL if any(part in str(error) for part in _ACCIDENTS) else type(error)
    for run in runs:
        try:
            run()
        except Untranslatable:
            return None
        except jax.errors.ConcretizationTypeError:
            continue
        except Exception as ours:
            if isinstance(ours, wanted):
                return None
            return f"torch raises {described(error)[:120]}, objnet {described(ours)}"
    return f"torch raises {described(error)[:200]}, objnet gives a result"


def is_random(function: Any, call: Call) -> bool:
    """Whether torch gives two results for one input: then ours are compared by shape and dtype here, by distribution elsewhere."""
    args, kwargs = call.theirs()[1]
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            try:
                results.append(leaves_of(copy.deepcopy(function)(*copy.deepcopy(args), **copy.deepcopy(kwargs))))
            except Exception:
                return False  # refused, which is another column's
    return not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*results, strict=True))


class Reference(NamedTuple):
    """What torch gives: outputs, random cotangents for the floating point ones, and the gradients of the inputs.

    ``gradients`` is None where torch has none; zeros stand for an input without a path, as everywhere in jax.
    """

    outputs: list[Any]
    cotangents: list[np.ndarray]
    gradients: list[Any] | None


def reference(function: Any, call: Call, scale: float = 1.0) -> Reference:
    """Run torch forward and backward; with respect to the first input only, where torch has no other derivative.

    What works in place takes no leaf that has gradients: then there are none.
    """
    leaves, (args, kwargs) = call.theirs(requires_grad=True, scale=scale)
    try:
        outputs = leaves_of(quiet(function, *args, **kwargs))
    except RuntimeError as error:
        left = 0 if "in-place operation" in str(error) else 1
        known = any(part in str(error) for part in ("in-place operation", "differentiable", "derivative"))
        if not known or len(call.floats) <= left:
            raise
        del call.floats[left:]
        return reference(function, call, scale)
    floats = [o for o in outputs if o.is_floating_point()]
    cotangents = cotangents_for(floats)
    reached = [(o, torch.tensor(c).to(o.dtype)) for o, c in zip(floats, cotangents, strict=True) if o.requires_grad]
    if not reached:
        return Reference(outputs, cotangents, None)
    try:
        torch.autograd.backward([o for o, _ in reached], [c for _, c in reached])
    except (RuntimeError, NotImplementedError):
        return Reference(outputs, cotangents, None)  # torch has no derivative
    tensors = [leaves[i] for i in call.floats]
    return Reference(outputs, cotangents, [torch.zeros_like(t) if t.grad is None else t.grad for t in tensors])


def assert_near_either(ours: list[Any], theirs: list[Any], wide: Callable[[], list[Any]]) -> None:
    """Near torch's result, or near what torch gives in float64: where rounding is all there is, ours may be the better one."""
    try:
        assert_near(ours, theirs)
    except AssertionError as error:
        try:
            wider = [t.to(n.dtype) for t, n in zip(wide(), theirs, strict=True)]
        except Exception:
            raise error from None
        assert_near(ours, wider)


def narrowed(arrays: list[Any]) -> list[Any]:
    """64-bit integers of x64 mode in 32 bits, as what they are compared with."""
    return [a.astype(jnp.int32) if a.dtype == jnp.int64 else a for a in arrays]

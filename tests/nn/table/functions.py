"""The rows of functionals."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import torch

from objnet import errors, nn
from objnet.nn import functional as F
from objnet.transforms.autodiff import value_and_grad
from tests.nn import module_parity
from tests.nn.table.columns import (
    Result,
    assert_near,
    assert_near_either,
    attempt,
    described,
    is_random,
    merge,
    narrowed,
    quiet,
    reference,
    refused_alike,
)
from tests.nn.table.mutations import mutations
from tests.nn.table.samples import Sample, refusals
from tests.nn.table.worlds import Call, Untranslatable, leaves_of

# Functions that change arguments: running statistics, which are Buffers here.
_WRITING = ("batch_norm", "instance_norm")


def function_row(name: str, samples: list[Sample], thorough: bool) -> dict[str, Result]:
    """The columns of a functional."""
    short = name.rpartition(".")[2]
    ours, theirs = getattr(F, short), getattr(torch.nn.functional, short)
    row = {"signature": attempt(lambda: check_function_signature(short, ours, theirs))}
    run = compiled
    if short in _WRITING:
        ours, theirs, run = _with_statistics(ours), _with_statistics(theirs), with_gradients
    for sample in samples:
        merge(row, function_sample(ours, theirs, Call(sample.args, sample.kwargs), run), sample)
    if samples and thorough:
        values = not is_random(theirs, Call(samples[0].args, samples[0].kwargs))
        merge(row, {"dtypes": function_dtypes(ours, theirs, samples[0], values)}, samples[0])
        if values and short not in _WRITING:
            merge(row, {"transforms": attempt(lambda: function_transforms(ours, theirs, samples[0]))}, samples[0])
    row["refusals"] = row.get("refusals") or function_refusals(name, ours, theirs, samples)
    return row


def _with_statistics(function: Any) -> Any:
    """The function, which then also returns the running statistics it was given, as it left them; no gradient goes through them."""

    def call(x: Any, running_mean: Any = None, running_var: Any = None, *args: Any, **kwargs: Any) -> Any:
        torchs = isinstance(x, torch.Tensor)
        given = [
            s if s is None else s.detach() if torchs else nn.Buffer(jax.lax.stop_gradient(s)) for s in (running_mean, running_var)
        ]
        output = function(x, *given, *args, **kwargs)
        return output, [s if torchs else jax.lax.stop_gradient(s[...]) for s in given if s is not None]

    call.makes_buffers = True  # type: ignore[attr-defined]  (which needs concrete values)
    return call


def check_function_signature(short: str, ours: Any, theirs: Any) -> None:
    """Names, kinds and defaults in order; a builtin of torch's shows none."""
    try:
        expected = module_parity.parameters_of(theirs)
    except ValueError:
        return
    if any(kind == kind.VAR_POSITIONAL for _, kind, _ in expected):
        return  # torch's dispatcher between two functions
    found = module_parity.parameters_of(ours)
    plain = [p for p in expected if p[0] != "_stacklevel"]
    assert [p for p in found if p[0] != "_stacklevel"] == plain, f"{found}, torch {expected}"


def function_sample(ours: Any, theirs: Any, call: Call, run: Any) -> dict[str, Result]:
    """Forward and vector-Jacobian products."""
    try:
        expected = reference(theirs, call)
    except Exception as error:
        return {"refusals": refused_alike(error, lambda: run_abstractly(ours, call), lambda: run_eagerly(ours, call))}
    try:
        result, gradients = quiet(run, ours, call, expected.cotangents, call.arrays())
    except Untranslatable:
        return {}
    except Exception as error:
        return {"forward": described(error)}
    if is_random(theirs, call):
        return {"forward": attempt(lambda: assert_near(result, expected.outputs, values=False))}

    def wide() -> Any:
        return reference(theirs, call.cast("float64"))

    found = {"forward": attempt(lambda: assert_near_either(result, expected.outputs, lambda: wide().outputs))}
    if expected.gradients is not None:
        found["gradients"] = attempt(lambda: assert_near_either(gradients, expected.gradients, lambda: wide().gradients))
    return found


def compiled(function: Any, call: Call, cotangents: list[Any], arrays: list[Any]) -> Any:
    """``with_gradients`` as one program; not so where values have to be looked at."""

    def program(cotangents: list[Any], arrays: list[Any]) -> Any:
        return with_gradients(function, call, cotangents, arrays)

    try:
        return jax.jit(program)(cotangents, arrays)
    except (jax.errors.JAXTypeError, RuntimeError, ValueError, TypeError):
        return program(cotangents, arrays)


def with_gradients(function: Any, call: Call, cotangents: list[Any], arrays: list[Any]) -> tuple[list[Any], list[Any]]:
    """The outputs, and the vector-Jacobian products of the floating point inputs."""
    positions = [call.tensors.index(i) for i in call.floats]

    def loss(*values: Any) -> Any:
        full = list(arrays)
        for i, value in zip(positions, values, strict=True):
            full[i] = value
        args, kwargs = call.ours(full)
        results = leaves_of(function(*args, **kwargs))
        floats = [r for r in results if jnp.issubdtype(r.dtype, jnp.floating)]
        return sum((jnp.sum(f.astype(jnp.float32) * c) for f, c in zip(floats, cotangents, strict=True)), jnp.float32(0)), results

    (_, results), gradients = value_and_grad(loss, argnums=tuple(range(len(positions))), has_aux=True)(
        *(arrays[i] for i in positions)
    )
    return results, list(gradients)


def forward(function: Any, call: Call) -> list[Any]:
    """The outputs, from one program; not so where values have to be looked at, or Buffers are made."""

    def program(arrays: list[Any]) -> list[Any]:
        args, kwargs = call.ours(arrays)
        return leaves_of(function(*args, **kwargs))

    try:
        return quiet(jax.jit(program), call.arrays())
    except (jax.errors.JAXTypeError, RuntimeError, ValueError, TypeError):
        return quiet(program, call.arrays())


def run_abstractly(function: Any, call: Call) -> list[Any]:
    """The shapes and dtypes of the outputs; raises what depends on no values."""
    if hasattr(function, "makes_buffers"):
        return leaves_of(run_eagerly(function, call))

    def program() -> list[Any]:
        args, kwargs = call.ours(call.arrays())
        return leaves_of(function(*args, **kwargs))

    return quiet(jax.eval_shape, program)


def run_eagerly(function: Any, call: Call) -> Any:
    """Call ours with concrete values."""
    args, kwargs = call.ours(call.arrays())
    return quiet(function, *args, **kwargs)


def function_dtypes(ours: Any, theirs: Any, sample: Sample, values: bool) -> Result:
    """bfloat16 and float64, where torch has them."""
    for name in ("bfloat16", "float64"):
        call = Call(sample.args, sample.kwargs).cast(name)
        with jax.enable_x64(name == "float64"):
            try:
                expected = leaves_of(quiet(theirs, *call.theirs()[1][0], **call.theirs()[1][1]))
            except Exception:
                continue
            try:
                result = forward(ours, call)
            except Untranslatable:
                continue
            except Exception as error:
                return f"{name}: {described(error)}"
            difference = attempt(lambda: assert_near(narrowed(result), expected, values))
            if difference is not None:
                return f"{name}: {difference}"
    return None


def function_transforms(ours: Any, theirs: Any, sample: Sample) -> None:
    """Under jit, vmap and remat at once, each row gets torch's gradients."""
    call = Call(sample.args, sample.kwargs)
    try:
        expected = reference(theirs, call)
        arrays = call.arrays()
    except Exception:
        return  # refused, which is another column's
    mapped = [0 if jnp.issubdtype(a.dtype, jnp.floating) else None for a in arrays]
    if not any(m == 0 for m in mapped):
        mapped = [0] * len(arrays)

    def row(cotangents: list[Any], floats: list[Any]) -> Any:
        full = [f if m == 0 else a for f, a, m in zip(floats, arrays, mapped, strict=True)]
        return with_gradients(ours, call, cotangents, full)

    rows = [jnp.stack([a, a]) if m == 0 else a for a, m in zip(arrays, mapped, strict=True)]
    batched = jax.vmap(jax.checkpoint(row), in_axes=(None, mapped))
    try:
        result, gradients = quiet(jax.jit(batched), expected.cotangents, rows)
    except errors.RngInTransformError:
        return  # random, though the results happen to be equal

    def wide() -> Any:
        return reference(theirs, call.cast("float64")).gradients

    for pick in (0, 1):
        assert_near([r[pick] for r in result], expected.outputs)
        if expected.gradients is not None:
            assert_near_either([g[pick] for g in gradients], expected.gradients, wide)


def function_refusals(name: str, ours: Any, theirs: Any, samples: list[Sample]) -> Result:
    """What PyTorch says must be refused, and every spoilt argument that torch refuses; what it takes gives the same shapes."""
    for sample in [*refusals(name), *(m for s in samples[:2] for m in mutations(s))]:
        call = Call(sample.args, sample.kwargs)
        with call.precision:
            difference = same_outcome(ours, theirs, call)
        if difference is not None:
            return f"{difference} [{sample}]"
    return None


def same_outcome(ours: Any, theirs: Any, call: Call) -> Result:
    """The same class of error, or results of the same shapes and dtypes."""
    try:
        expected = leaves_of(quiet(theirs, *call.theirs()[1][0], **call.theirs()[1][1]))
    except Exception as error:
        return refused_alike(error, lambda: run_abstractly(ours, call), lambda: run_eagerly(ours, call))
    try:
        try:
            result = run_abstractly(ours, call)
        except Exception:  # what has to look at values
            result = leaves_of(run_eagerly(ours, call))
    except Untranslatable:
        return None
    except Exception as error:
        return f"torch gives {[tuple(t.shape) for t in expected]}, objnet {described(error)}"
    return attempt(lambda: assert_near(narrowed(result), expected, values=False))

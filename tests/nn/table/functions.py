"""The rows of functionals."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import torch

from objnet.nn import functional as F
from tests.nn import module_parity
from tests.nn.table.columns import (
    RANDOM,
    Result,
    assert_near,
    attempt,
    cast,
    described,
    merge,
    narrowed,
    quiet,
    refused_alike,
    torch_gradients,
)
from tests.nn.table.mutations import mutations
from tests.nn.table.samples import Sample, refusals
from tests.nn.table.worlds import Call, Untranslatable, cotangents_for, leaves_of


def function_row(name: str, samples: list[Sample]) -> dict[str, Result]:
    """The columns of a functional."""
    short = name.rpartition(".")[2]
    ours, theirs = getattr(F, short), getattr(torch.nn.functional, short)
    row = {"signature": attempt(lambda: check_function_signature(short, ours, theirs))}
    for sample in samples:
        merge(row, function_sample(ours, theirs, Call(sample.args, sample.kwargs), name not in RANDOM), sample)
    if samples:
        merge(row, {"dtypes": function_dtypes(ours, theirs, samples[0], name not in RANDOM)}, samples[0])
        if name not in RANDOM:
            merge(row, {"transforms": attempt(lambda: function_transforms(ours, theirs, samples[0]))}, samples[0])
        row["refusals"] = row.get("refusals") or function_refusals(name, ours, theirs, samples)
    return row


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


def function_sample(ours: Any, theirs: Any, call: Call, values: bool) -> dict[str, Result]:
    """Forward and vector-Jacobian products, ours compiled."""
    leaves, (args, kwargs) = call.theirs(requires_grad=True)
    try:
        expected = leaves_of(quiet(theirs, *args, **kwargs))
    except Exception as error:
        return {"refusals": refused_alike(error, lambda: run_eagerly(ours, call))}
    outputs = [o for o in expected if o.is_floating_point()]
    cotangents = cotangents_for(outputs)
    wanted = torch_gradients(outputs, cotangents, [leaves[i] for i in call.floats])

    def program(cotangents: list[Any], arrays: list[Any]) -> Any:
        return with_gradients(ours, call, cotangents, arrays)

    try:
        arrays = call.arrays()
        try:
            result, gradients = quiet(jax.jit(program), cotangents, arrays)
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError, RuntimeError, ValueError, TypeError):
            # what has to look at values: integers stay concrete
            result, gradients = quiet(program, cotangents, arrays)
    except Untranslatable:
        return {}
    except Exception as error:
        return {"forward": described(error)}
    found = {"forward": attempt(lambda: assert_near(result, expected, values))}
    if wanted is not None and values:
        found["gradients"] = attempt(lambda: assert_near(gradients, wanted))
    return found


def with_gradients(function: Any, call: Call, cotangents: list[Any], arrays: list[Any]) -> tuple[list[Any], list[Any]]:
    """The outputs, and the vector-Jacobian products of the floating point inputs."""
    positions = [call.tensors.index(i) for i in call.floats]

    def of_floats(values: list[Any]) -> tuple[list[Any], list[Any]]:
        full = list(arrays)
        for i, value in zip(positions, values, strict=True):
            full[i] = value
        args, kwargs = call.ours(full)
        results = leaves_of(function(*args, **kwargs))
        return [r for r in results if jnp.issubdtype(r.dtype, jnp.floating)], results

    _, vjp, results = jax.vjp(of_floats, [arrays[i] for i in positions], has_aux=True)
    floats = [r for r in results if jnp.issubdtype(r.dtype, jnp.floating)]
    (gradients,) = vjp([jnp.asarray(c).astype(f.dtype) for c, f in zip(cotangents, floats, strict=True)])
    return results, gradients


def run_eagerly(function: Any, call: Call) -> Any:
    """Call ours with concrete values."""
    args, kwargs = call.ours(call.arrays())
    return quiet(function, *args, **kwargs)


def function_dtypes(ours: Any, theirs: Any, sample: Sample, values: bool) -> Result:
    """bfloat16 and float64, where torch has them."""
    for name in ("bfloat16", "float64"):
        call = Call(cast(sample.args, name), cast(sample.kwargs, name))
        with jax.enable_x64(name == "float64"):
            try:
                expected = leaves_of(quiet(theirs, *call.theirs()[1][0], **call.theirs()[1][1]))
            except Exception:
                continue
            try:
                result = leaves_of(run_eagerly(ours, call))
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
    leaves, (args, kwargs) = call.theirs(requires_grad=True)
    try:
        expected = leaves_of(quiet(theirs, *args, **kwargs))
    except Exception:
        return
    outputs = [o for o in expected if o.is_floating_point()]
    cotangents = cotangents_for(outputs)
    wanted = torch_gradients(outputs, cotangents, [leaves[i] for i in call.floats])
    try:
        arrays = call.arrays()
        integers = {i for i, a in enumerate(arrays) if not jnp.issubdtype(a.dtype, jnp.floating)}
        rows = [a if i in integers else jnp.stack([a, a]) for i, a in enumerate(arrays)]

        def row(cotangents: list[Any], floats: list[Any]) -> Any:
            full = [arrays[i] if i in integers else f for i, f in enumerate(floats)]
            return with_gradients(ours, call, cotangents, full)

        batched = jax.vmap(jax.checkpoint(row), in_axes=(None, [None if i in integers else 0 for i in range(len(arrays))]))
        result, gradients = quiet(jax.jit(batched), cotangents, rows)
    except Untranslatable:
        return
    for pick in (0, 1):
        assert_near([r[pick] for r in result], expected)
        if wanted is not None:
            assert_near([g[pick] for g in gradients], wanted)


def function_refusals(name: str, ours: Any, theirs: Any, samples: list[Sample]) -> Result:
    """What PyTorch says must be refused, and every spoilt argument that torch refuses; what it takes gives the same shapes."""
    for sample in [*refusals(name), *(m for s in samples[:2] for m in mutations(s))]:
        call = Call(sample.args, sample.kwargs)
        difference = same_outcome(ours, theirs, call)
        if difference is not None:
            return f"{difference} [{sample}]"
    return None


def same_outcome(ours: Any, theirs: Any, call: Call) -> Result:
    """The same class of error, or results of the same shapes and dtypes."""
    try:
        expected = leaves_of(quiet(theirs, *call.theirs()[1][0], **call.theirs()[1][1]))
    except Exception as error:
        return refused_alike(error, lambda: run_eagerly(ours, call))

    def abstractly() -> Any:
        args, kwargs = call.ours(call.arrays())
        return leaves_of(ours(*args, **kwargs))

    try:
        result = quiet(jax.eval_shape, abstractly)
    except Untranslatable:
        return None
    except Exception as error:
        if isinstance(error, (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)):
            return None
        return f"torch gives {[tuple(t.shape) for t in expected]}, objnet {described(error)}"
    return attempt(lambda: assert_near(result, expected, values=False))

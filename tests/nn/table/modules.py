"""The rows of modules."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from objnet import nn
from objnet.core import rng
from objnet.transforms.autodiff import value_and_grad
from objnet.transforms.jit import jit
from objnet.transforms.pure import transform_with_state
from tests.nn import module_parity
from tests.nn.module_parity import Pair
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
from tests.nn.table.worlds import Call, Untranslatable, cast, leaves_of, to_ours


def module_row(name: str, samples: list[Sample], thorough: bool) -> dict[str, Result]:
    """The columns of a module."""
    short = name.rpartition(".")[2]
    row = {"signature": attempt(lambda: module_parity.check_signature(short))}
    for number, sample in enumerate(samples):
        try:
            pair = quiet(build, short, sample)
        except Untranslatable:
            continue
        except Exception as error:
            merge(row, {"forward": described(error)}, sample)
            continue
        merge(row, constructed(pair), sample)
        values = not is_random(pair.theirs, Call(sample.inputs, sample.input_kwargs))
        merge(row, trained(pair, sample, values, steps=2 if number == 0 else 1), sample)
        if number == 0 and thorough:
            merge(row, {"dtypes": dtypes(short, sample, values)}, sample)
            if values:
                merge(row, {"transforms": attempt(lambda pair=pair, sample=sample: transforms(pair, sample))}, sample)
    row["refusals"] = row.get("refusals") or module_refusals(name, samples)
    return row


def build(short: str, sample: Sample, adapt: Any = to_ours) -> Pair:
    """Both modules, from one seed each; ours first."""
    args, kwargs = adapt(sample.args), adapt(sample.kwargs)
    rng.manual_seed(module_parity.SEED)
    torch.manual_seed(module_parity.SEED)
    return Pair(getattr(nn, short)(*args, **kwargs), getattr(torch.nn, short)(*sample.args, **sample.kwargs))


def constructed(pair: Pair) -> dict[str, Result]:
    """``repr``, keys and initial values of new modules."""
    ours, theirs = pair
    same_stream = np.array_equal(rng.default_generator.get_state(), torch.get_rng_state().numpy())

    def represented() -> None:
        assert repr(ours) == repr(theirs), f"{ours!r}, torch {theirs!r}"

    def keyed() -> None:
        for kind in ("_parameters", "_buffers", "_modules"):
            assert list(getattr(ours, kind)) == list(getattr(theirs, kind)), kind
        found, wanted = ours.state_dict(), theirs.state_dict()
        assert list(found) == list(wanted), f"{list(found)}, torch {list(wanted)}"
        tensors = [k for k, v in wanted.items() if isinstance(v, torch.Tensor) and not _is_lazy(v)]
        assert_near(narrowed([found[k] for k in tensors]), [wanted[k] for k in tensors], values=False)
        assert dict(found._metadata) == dict(wanted._metadata)
        assert [p.requires_grad for p in ours.parameters()] == [p.requires_grad for p in theirs.parameters()]

    def initial() -> None:
        assert same_stream, "it draws another number of random numbers"
        wanted = {k: v for k, v in theirs.state_dict().items() if isinstance(v, torch.Tensor) and not _is_lazy(v)}
        assert_near([ours.state_dict()[k] for k in wanted], list(wanted.values()))

    return {"repr": attempt(represented), "keys": attempt(keyed), "init": attempt(initial)}


def _is_lazy(tensor: Any) -> bool:
    return torch.nn.parameter.is_lazy(tensor)


def trained(pair: Pair, sample: Sample, values: bool, steps: int) -> dict[str, Result]:
    """Compiled calls: outputs, gradients of inputs and parameters, and then the buffers."""
    ours, theirs = pair
    call = Call(sample.inputs, sample.input_kwargs)
    if any(_is_lazy(p) for p in (*theirs.parameters(), *theirs.buffers())):
        try:  # materialise both
            quiet(ours, *call.ours(call.arrays())[0])
            quiet(theirs, *call.theirs()[1][0])
        except Exception as error:
            return {"forward": described(error)}
    step = None
    for number in range(steps):
        scale = 1 + number / 2
        theirs.zero_grad()
        before = quiet(copy.deepcopy, theirs)
        try:
            expected = reference(theirs, call, scale)
        except Exception as error:
            if number:
                break  # the input that was scaled is out of range
            return {"refusals": refused_alike(error, lambda: quiet(ours, *call.ours(call.arrays())[0]))}
        step = step or jit(gradient_step(ours, call))
        try:
            (_, result), (of_inputs, of_parameters) = quiet(step, expected.cotangents, *call.arrays(scale))
        except Untranslatable:
            return {}
        except Exception as error:
            return {"forward": described(error)}
        if not values:
            return {"forward": attempt(lambda: assert_near(result, expected.outputs, values))}

        @cache
        def wide() -> tuple[list[Any], list[Any]]:
            """Outputs, and all gradients, in float64."""
            module = quiet(copy.deepcopy, before).double()
            found = reference(module, call.cast("float64"), scale)
            return found.outputs, [*found.gradients, *(p.grad for p in module.parameters() if p.grad is not None)]

        found = {"forward": attempt(lambda: assert_near_either(result, expected.outputs, lambda: wide()[0]))}
        if found["forward"] is None and expected.gradients is not None:
            check = lambda: compare_gradients(of_inputs, of_parameters, expected.gradients, theirs, lambda: wide()[1])  # noqa: E731
            found["gradients"] = attempt(check)
        if any(found.values()):
            return found
    buffers = dict(theirs.named_buffers())
    found["buffers"] = attempt(lambda: assert_near([ours.get_buffer(k) for k in buffers], list(buffers.values())))
    return found


def gradient_step(module: Any, call: Call) -> Any:
    """``step(cotangents, *arrays)``: the outputs, and the gradients of the arrays and of the module's parameters."""
    positions = tuple(call.tensors.index(i) for i in call.floats)

    def loss(cotangents: list[Any], *arrays: Any) -> Any:
        args, kwargs = call.ours(list(arrays))
        outputs = leaves_of(module(*args, **kwargs))
        floats = [o for o in outputs if jnp.issubdtype(o.dtype, jnp.floating)]
        products = [jnp.sum(o.astype(jnp.float32) * c) for o, c in zip(floats, cotangents, strict=True)]
        return sum(products[1:], products[0]), outputs

    return value_and_grad(loss, argnums=[i + 1 for i in positions], has_aux=True, wrt=module)


def compare_gradients(of_inputs: Any, of_parameters: Any, wanted: list[Any], theirs: Any, wide: Any) -> None:
    """Equal gradients; None where torch has None."""
    named = {n: p.grad for n, p in theirs.named_parameters() if p.requires_grad}
    assert list(of_parameters) == list(named)
    for name, gradient in of_parameters.items():
        assert (gradient is None) == (named[name] is None), f"gradient of {name}: {gradient}, torch {named[name]}"
    given = [g for g in of_parameters.values() if g is not None]
    assert_near_either([*of_inputs, *given], [*wanted, *(g for g in named.values() if g is not None)], wide)


def dtypes(short: str, sample: Sample, values: bool) -> Result:
    """The module in bfloat16 and float64, where torch has it."""
    for name in ("bfloat16", "float64"):
        other = Sample(sample.args, sample.kwargs, cast(sample.inputs, name), cast(sample.input_kwargs, name))
        call = Call(other.inputs, other.input_kwargs)
        with jax.enable_x64(name == "float64"):
            pair = quiet(build, short, Sample(cast(sample.args, name), cast(sample.kwargs, name)))
            try:
                pair.theirs.to(getattr(torch, name))
                expected = leaves_of(quiet(pair.theirs, *call.theirs()[1][0], **call.theirs()[1][1]))
            except Exception:
                continue
            try:
                args, kwargs = call.ours(call.arrays())
                if short.startswith("Lazy"):
                    quiet(pair.ours.to(name), *args, **kwargs)
                result = leaves_of(quiet(jit(pair.ours.to(name)), *args, **kwargs))
            except Exception as error:
                return f"{name}: {described(error)}"
            difference = attempt(lambda: assert_near(narrowed(result), expected, values))
            if difference is not None:
                return f"{name}: {difference}"
    return None


def transforms(pair: Pair, sample: Sample) -> None:
    """The pure form under jit, vmap and remat at once: each row gets torch's outputs and parameter gradients."""
    ours, theirs = pair
    call = Call(sample.inputs, sample.input_kwargs)
    theirs = quiet(copy.deepcopy, theirs)
    theirs.zero_grad()
    net = transform_with_state(ours)
    params, state = net.init(None)
    expected = reference(theirs, call)
    arrays = call.arrays()

    def row(params: Any, arrays: list[Any]) -> Any:
        def loss(params: Any) -> Any:
            args, kwargs = call.ours(arrays)
            results = leaves_of(net.apply(params, state, None, *args, **kwargs)[0])
            floats = [r for r in results if jnp.issubdtype(r.dtype, jnp.floating)]
            return sum(jnp.sum(f.astype(jnp.float32) * c) for f, c in zip(floats, expected.cotangents, strict=True)), results

        return jax.grad(jax.checkpoint(loss), has_aux=True)(params)

    rows = [jnp.stack([a, a]) for a in arrays]
    gradients, result = quiet(jax.jit(jax.vmap(row, in_axes=(None, 0))), params, rows)
    flat = {n if path == "~" else f"{path}.{n}": g for path, names in gradients.items() for n, g in names.items()}
    for pick in (0, 1):
        assert_near([r[pick] for r in result], expected.outputs)
        for name, parameter in theirs.named_parameters():
            if name in flat and parameter.grad is not None:
                assert_near([flat[name][pick]], [parameter.grad])


def module_refusals(name: str, samples: list[Sample]) -> Result:
    """What PyTorch says must be refused, and every spoilt argument that torch refuses; what it takes gives the same shapes."""
    short = name.rpartition(".")[2]
    for sample in [*refusals(name), *(m for s in samples[:2] for m in mutations(s))]:
        with Call(sample.inputs, sample.input_kwargs).precision:
            difference = same_outcome(short, sample)
        if difference is not None:
            return f"{difference} [{sample}]"
    return None


def same_outcome(short: str, sample: Sample) -> Result:
    """The same class of error, from constructor or call, or results of the same shapes and dtypes."""
    call = Call(sample.inputs, sample.input_kwargs)

    def ours(run: Any) -> Any:
        module = quiet(getattr(nn, short), *to_ours(sample.args), **to_ours(sample.kwargs))
        return run(module) if call.leaves else []

    def eagerly(module: Any) -> Any:
        args, kwargs = call.ours(call.arrays())
        return quiet(module, *args, **kwargs)

    def abstractly(module: Any) -> Any:
        net = transform_with_state(module)
        params, state = net.init(None)
        args, kwargs = call.ours(call.arrays())
        return quiet(jax.eval_shape, lambda: leaves_of(net.apply(params, state, jax.random.key(0), *args, **kwargs)[0]))

    runs = (eagerly,) if short.startswith("Lazy") else (abstractly, eagerly)
    try:
        theirs = quiet(getattr(torch.nn, short), *sample.args, **sample.kwargs)
        expected = leaves_of(quiet(theirs, *call.theirs()[1][0], **call.theirs()[1][1])) if call.leaves else []
    except Exception as error:
        return refused_alike(error, *(lambda run=run: ours(run) for run in runs))
    try:
        try:
            result = ours(runs[0])
        except Exception:  # what has to look at values
            result = ours(eagerly)
    except Untranslatable:
        return None
    except Exception as error:
        return f"torch gives {[tuple(t.shape) for t in expected]}, objnet {described(error)}"
    return attempt(lambda: assert_near(narrowed(leaves_of(result)), expected, values=False))

"""Compare a Module class with torch's class of the same name, in everything a user can see.

Both modules are built from one seed.  Arguments and inputs are given as torch tensors (and plain values) and converted.
"""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch

from objnet import nn
from objnet.core import rng
from objnet.transforms.autodiff import value_and_grad
from objnet.transforms.jit import jit
from objnet.transforms.pure import transform_with_state
from tests.nn.parity import assert_close, to_jax

SEED = 5
# Classes that spell out what torch hides behind *args, **kwargs, and the class of torch's that spells it out too.
SPELLED_OUT = {"LSTM": "RNNBase", "RNN": "RNNBase", "GRU": "RNNBase"}


class Pair(NamedTuple):
    """One module twice."""

    ours: Any
    theirs: Any


def converted(value: Any) -> Any:
    """Tensors in ``value`` as jax arrays, dtypes as their names; 64-bit integers as the default integers."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if type(value) is torch.Size:
        return tuple(value)
    if isinstance(value, (tuple, list)):
        return type(value)(converted(v) for v in value)
    if not isinstance(value, torch.Tensor):
        return value
    return to_jax(value.int() if value.dtype == torch.int64 else value)


def build(name: str, *args: Any, **kwargs: Any) -> Pair:
    """Both modules from one seed; they must use up the same random numbers."""
    rng.manual_seed(SEED)
    torch.manual_seed(SEED)
    ours = getattr(nn, name)(*converted(args), **{k: converted(v) for k, v in kwargs.items()})
    pair = Pair(ours, getattr(torch.nn, name)(*args, **kwargs))
    np.testing.assert_array_equal(rng.default_generator.get_state(), torch.get_rng_state().numpy())
    return pair


def parameters_of(function: Any) -> list[tuple[str, Any, Any]]:
    """Name, kind and default of every parameter; a default that is a function by its name."""
    return [(p.name, p.kind, getattr(p.default, "__name__", p.default)) for p in inspect.signature(function).parameters.values()]


def check_signature(name: str) -> None:
    """The constructor and ``forward`` take the same names in the same order with the same defaults."""
    ours, theirs = getattr(nn, name), getattr(torch.nn, name)
    expected = parameters_of(getattr(torch.nn, SPELLED_OUT.get(name, name)))
    if name == "RNN":  # RNNBase has it inside of mode
        expected.insert(4, ("nonlinearity", inspect.Parameter.POSITIONAL_OR_KEYWORD, "tanh"))
    assert parameters_of(ours) == [p for p in expected if name not in SPELLED_OUT or p[0] != "mode"]
    if theirs.forward is not torch.nn.Module.forward:
        assert parameters_of(ours.forward) == parameters_of(theirs.forward)


def check_attributes(pair: Pair) -> None:
    """The same public attributes, ``repr``, state-dict keys, shapes and dtypes, and initial values."""
    ours, theirs = pair
    assert repr(ours) == repr(theirs)
    public = {k: v for k, v in vars(theirs).items() if not k.startswith("_")}
    assert {k: getattr(ours, k) for k in public} == public
    for kind in ("_parameters", "_buffers", "_modules"):
        assert list(getattr(ours, kind)) == list(getattr(theirs, kind))
        assert [v is None for v in getattr(ours, kind).values()] == [v is None for v in getattr(theirs, kind).values()]
    assert [p.requires_grad for p in ours.parameters()] == [p.requires_grad for p in theirs.parameters()]
    assert ours._version == theirs._version
    check_state(pair, rtol=1e-6, atol=1e-6)


def check_state(pair: Pair, **tolerances: float) -> None:
    """State dicts of equal keys, shapes, dtypes and values."""
    ours, theirs = pair.ours.state_dict(), pair.theirs.state_dict()
    assert list(ours) == list(theirs)
    assert dict(ours._metadata) == dict(theirs._metadata)
    for key, value in ours.items():
        expected = theirs[key].int() if theirs[key].dtype == torch.int64 else theirs[key]
        assert_close(value, expected, **tolerances)


def check_outputs(ours: Any, theirs: Any, **tolerances: float) -> None:
    """Equal structures of close arrays."""
    ours, theirs = jax.tree.leaves(ours), jax.tree.leaves(theirs, is_leaf=torch.is_tensor)
    assert len(ours) == len(theirs)
    for array, tensor in zip(ours, theirs, strict=True):
        assert_close(array, tensor.int() if tensor.dtype == torch.int64 else tensor, **tolerances)


def check_forward(pair: Pair, *inputs: Any, **tolerances: float) -> None:
    """The same output, ours compiled."""
    with torch.no_grad():
        expected = pair.theirs(*copy.deepcopy(inputs))  # it may work in place
    check_outputs(jit(pair.ours)(*converted(inputs)), expected, **tolerances)


def check_training(pair: Pair, *inputs: Any, steps: int = 1, **tolerances: float) -> None:
    """``steps`` compiled calls: outputs, gradients of inputs and parameters for random cotangents, and then the buffers."""
    ours, theirs = pair
    arrays = jax.tree.leaves(converted(inputs))
    tree = jax.tree.structure(inputs, is_leaf=torch.is_tensor)
    floats = [i for i, a in enumerate(arrays) if jnp.issubdtype(a.dtype, jnp.floating)]

    def loss(cotangents: list[jax.Array], *arrays: jax.Array) -> Any:
        outputs = ours(*jax.tree.unflatten(tree, arrays))
        leaves = [o for o in jax.tree.leaves(outputs) if jnp.issubdtype(o.dtype, jnp.floating)]
        products = [jnp.sum(o.astype(jnp.float32) * c) for o, c in zip(leaves, cotangents, strict=True)]
        return sum(products[1:], products[0]), outputs

    step = jit(value_and_grad(loss, argnums=[i + 1 for i in floats], has_aux=True, wrt=ours))
    for number in range(steps):
        tensors = [
            (t * (1 + number / 2)).detach().requires_grad_() if t.is_floating_point() else t
            for t in jax.tree.leaves(inputs, is_leaf=torch.is_tensor)
        ]
        expected = theirs(*jax.tree.unflatten(tree, tensors))
        outputs = [o for o in jax.tree.leaves(expected, is_leaf=torch.is_tensor) if o.is_floating_point()]
        random = np.random.RandomState(number)
        cotangents = [np.asarray(random.randn(*o.shape), np.float32) for o in outputs]
        theirs.zero_grad()
        sum((o.float() * torch.tensor(c)).sum() for o, c in zip(outputs, cotangents, strict=True)).backward()
        (_, result), (of_inputs, of_parameters) = step([jnp.asarray(c) for c in cotangents], *map(converted, tensors))
        check_outputs(result, expected, **tolerances)
        for i, gradient in zip(floats, of_inputs, strict=True):
            # None in torch, zeros here, as everywhere in jax, for an input without a path
            wanted = tensors[i].grad
            assert_close(gradient, torch.zeros_like(tensors[i]) if wanted is None else wanted, **tolerances)
        wanted = {n: p.grad for n, p in theirs.named_parameters() if p.requires_grad}
        assert list(of_parameters) == list(wanted)
        for name, gradient in of_parameters.items():
            assert (gradient is None) == (wanted[name] is None)
            if gradient is not None:
                assert_close(gradient, wanted[name], **tolerances)
    check_state(pair, **tolerances)


def cells(module: Any) -> set[int]:
    """The identities of every Parameter and Buffer of a module."""
    return {id(v) for m in module.modules() for v in (*m._parameters.values(), *m._buffers.values()) if v is not None}


def check_copies(pair: Pair) -> None:
    """Copies that share nothing, and state dicts that travel both ways."""
    ours, theirs = pair
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(other) is type(ours)
        assert repr(other) == repr(ours)
        check_state(Pair(other, theirs), rtol=1e-5, atol=1e-5)
        assert not cells(ours) & cells(other)
    ours.load_state_dict({k: torch.full_like(v, 3) for k, v in theirs.state_dict().items()})
    assert all((np.asarray(v) == 3).all() for v in ours.state_dict().values())
    assert str(ours.load_state_dict(theirs.state_dict())) == "<All keys matched successfully>"
    check_state(pair, rtol=0, atol=0)
    theirs.load_state_dict({k: torch.tensor(np.array(v)) for k, v in ours.state_dict().items()})
    check_state(pair, rtol=0, atol=0)


def check_pure(pair: Pair, *inputs: Any, **tolerances: float) -> None:
    """The pure form, compiled and batched by plain jax, does to each row what torch does."""
    net = transform_with_state(pair.ours)
    params, state = net.init(None)
    assert len(jax.tree.leaves(params)) == len(list(pair.ours.parameters()))
    rows = jax.tree.map(lambda a: jnp.stack([a, a[::-1] if a.ndim else a]), converted(inputs))
    outputs = jax.jit(jax.vmap(lambda row: net.apply(params, state, None, *row)[0]))(rows)
    with torch.no_grad():
        expected = copy.deepcopy(pair.theirs)(*inputs)
    check_outputs(jax.tree.map(lambda a: a[0], outputs), expected, **tolerances)


def check_module(name: str, *args: Any, inputs: tuple[Any, ...], steps: int = 1, vmap: bool = True, **kwargs: Any) -> Pair:
    """Everything at once, for a module without random numbers in its forward."""
    check_signature(name)
    pair = build(name, *args, **kwargs)
    check_attributes(pair)
    if vmap:
        check_pure(pair, *inputs)
    check_training(pair, *inputs, steps=steps)
    check_copies(pair)
    pair.ours.eval()
    pair.theirs.eval()
    check_forward(pair, *inputs)
    return pair


def check_refused(name: str, *args: Any, inputs: tuple[Any, ...] | None = None, match: str | None = None, **kwargs: Any) -> None:
    """Both refuse the arguments, or the inputs where there are some, and ours with torch's class of error."""

    def attempt(module: Any, adapt: Any) -> Exception:
        try:
            built = getattr(module, name)(*adapt(args), **{k: adapt(v) for k, v in kwargs.items()})
            if inputs is not None:
                built(*adapt(inputs))
        except Exception as error:
            return error
        raise AssertionError(f"{module.__name__}.{name} takes {args} {kwargs} {inputs}")

    theirs, ours = attempt(torch.nn, lambda x: x), attempt(nn, converted)
    assert type(theirs) in type(ours).__mro__, f"torch raises {theirs!r}, objnet {ours!r}"
    assert match is None or match in str(ours), str(ours)

"""Gradients with respect to parameters: ``grad``, ``value_and_grad``, ``backward``.

A gradient opens a frame whose parameters are the differentiated inputs; what the function writes leaves it as auxiliary
outputs.  None is not zero: an identity with symbolic zeros on the parameters tells exactly which of them have no path to the
loss, and those get None, as in torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from objnet.core import errors, frame
from objnet.core.capture import Capture
from objnet.core.hooks import run_gradient_hooks
from objnet.core.variable import Parameter


class GradFrame(frame.Frame):
    """The frame of one differentiated function.

    Args:
        discover: whether a trainable parameter read here that is not differentiated yet restarts the function with it.
    """

    def __init__(self, discover: bool):
        super().__init__()
        self.discover = discover

    def miss(self, variable: Any) -> None:
        if self.discover and isinstance(variable, Parameter) and variable.requires_grad:
            raise Discovered(variable, self)


class Discovered(frame.Abort):
    """``backward`` met a trainable parameter that no path led to."""

    def __init__(self, parameter: Parameter, inner: GradFrame):
        self.parameter = parameter
        self.frame = inner


class Gradients(dict[str, Any]):
    """Gradients by parameter name, in the model's order; None for a parameter with no path to the loss.

    A pytree, so that ``jax.tree.map`` clips or scales it; it remembers the Parameters for ``optimizer.step(grads)``.
    """

    def __init__(self, values: Mapping[str, Any], parameters: Sequence[Parameter]):
        super().__init__(values)
        self.parameters = list(parameters)


class _Names(NamedTuple):
    names: tuple[str, ...]
    parameters: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Names) and self.names == other.names

    def __ne__(self, other: object) -> bool:  # jax compares tree structures by !=, and tuple has its own
        return not self == other

    def __hash__(self) -> int:
        return hash(self.names)


class _Held(list[Parameter]):
    """Parameters along for the ride in a tree structure: never compared."""


def _flatten(grads: Gradients) -> tuple[tuple[Any, ...], _Names]:
    return tuple(grads.values()), _Names(tuple(grads), _Held(grads.parameters))


def _flatten_with_keys(grads: Gradients) -> tuple[tuple[Any, ...], _Names]:
    return tuple((jax.tree_util.DictKey(k), v) for k, v in grads.items()), _Names(tuple(grads), _Held(grads.parameters))


def _unflatten(aux: _Names, children: Iterable[Any]) -> Gradients:
    return Gradients(dict(zip(aux.names, children, strict=True)), aux.parameters)


jax.tree_util.register_pytree_with_keys(Gradients, _flatten_with_keys, _unflatten, _flatten)


def gradients_in(tree: Any) -> list[Gradients]:
    """Every :class:`Gradients` in a pytree, in order."""
    return [g for g in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Gradients)) if isinstance(g, Gradients)]


def _watch_paths(count: int) -> tuple[Callable[[list[Any]], list[Any]], set[int]]:
    """An identity on ``count`` arrays, and the set of positions whose cotangent turns out not to be a symbolic zero."""
    reached: set[int] = set()

    @jax.custom_vjp
    def identity(values: list[Any]) -> list[Any]:
        return values

    def forward(values: list[Any]) -> tuple[list[Any], None]:
        return [v.value for v in values], None

    def backward(_: None, cotangents: list[Any]) -> tuple[list[Any]]:
        reached.update(i for i, ct in enumerate(cotangents) if not isinstance(ct, SymbolicZero))
        return ([jnp.zeros(ct.shape, ct.dtype) if isinstance(ct, SymbolicZero) else ct for ct in cotangents],)

    identity.defvjp(forward, backward, symbolic_zeros=True)
    return identity, reached


class Derivative(NamedTuple):
    """What :func:`differentiate` gives."""

    value: Any
    aux: Any
    arguments: tuple[Any, ...]
    parameters: dict[Parameter, Any]
    detached: bool  # whether it depends on no trainable parameter, of these or others
    untouched: bool  # whether none was even read or written


def differentiate(
    function: Callable[..., Any],
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    argnums: Sequence[int] = (),
    parameters: Sequence[Parameter] = (),
    discover: bool = False,
    has_aux: bool = False,
    holomorphic: bool = False,
) -> Derivative:
    """Value and gradients of a scalar function with respect to some arguments and some parameters.

    Args:
        discover: whether every trainable parameter the function turns out to read is differentiated too.
    """
    chosen = list(dict.fromkeys(parameters))
    token = False
    while True:
        inner = GradFrame(discover)
        try:
            return _differentiate(inner, token, function, args, dict(kwargs or {}), argnums, chosen, has_aux, holomorphic)
        except frame.TokenNeeded as needed:
            if needed.frame is not inner:
                raise
            token = True
        except Discovered as found:
            if found.frame is not inner:
                raise
            chosen.append(found.parameter)


def _differentiate(
    inner: GradFrame,
    token: bool,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    argnums: Sequence[int],
    parameters: list[Parameter],
    has_aux: bool,
    holomorphic: bool,
) -> Derivative:
    identity, reached = _watch_paths(len(parameters))
    written: list[Any] = []

    def pure(values: list[Any], chosen: list[Any]) -> Any:
        with inner.open(token):
            inner.values.update(zip(parameters, identity(values) if values else [], strict=True))
            full = list(args)
            for n, value in zip(argnums, chosen, strict=True):
                full[n] = value
            result = function(*full, **kwargs)
            value, aux = _split_aux(result) if has_aux else (result, None)
            value = _scalar(value, holomorphic)
            outcome = inner.outcome()
            written.extend(outcome)
            states = list(outcome.values())
            inner.close()  # inside the trace, which its values must not outlive
            return value, (jax.tree.map(lambda x: x, aux), states)

    try:
        primals = [frame.offer(p) for p in parameters]
        value, pullback, (aux, states) = jax.vjp(pure, primals, [args[n] for n in argnums], has_aux=True)
    finally:
        inner.close()
    frame.take(inner.read)
    inner.commit(dict(zip(written, states, strict=True)))  # first, for a backward rule (a hook) may read and write
    grads, argument_grads = pullback(lax.full_like(value, 1))  # like it also in how it varies over devices
    if not holomorphic:  # torch's gradient of a complex parameter is the direction of ascent, jax's its conjugate
        grads = [jnp.conj(g) if jnp.issubdtype(g.dtype, jnp.complexfloating) else g for g in grads]
    by_parameter = {p: g if i in reached else None for i, (p, g) in enumerate(zip(parameters, grads, strict=True))}
    for p, g in by_parameter.items():
        if g is not None and p._backward_hooks:
            by_parameter[p] = run_gradient_hooks(p._backward_hooks, g)
    touched = [v for v in (*inner.read, *inner.written) if isinstance(v, Parameter) and v.requires_grad]
    detached = not reached and all(v in by_parameter for v in touched)
    return Derivative(value, aux, tuple(argument_grads), by_parameter, detached, not touched)


def _split_aux(result: Any) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"with has_aux=True the function returns a pair (loss, aux), got {type(result).__name__}")
    return result


def _scalar(value: Any, holomorphic: bool) -> jax.Array:
    if hasattr(value, "_read"):
        value = value._read()
    if not isinstance(value, jax.Array):
        if not isinstance(value, (int, float)) and not hasattr(value, "dtype"):
            raise TypeError(f"a differentiated function returns a scalar array, got {type(value).__name__}")
        value = jnp.asarray(value)
    if value.shape != ():
        raise TypeError(
            f"grad can be implicitly created only for scalar outputs, got shape {value.shape}{errors.where()}: reduce the loss "
            "(.mean() or .sum())"
        )
    kind = jnp.complexfloating if holomorphic else jnp.floating
    if not jnp.issubdtype(value.dtype, kind):
        raise TypeError(
            f"a differentiated function returns a {'complex' if holomorphic else 'real floating'} scalar, got {value.dtype}"
        )
    return value


class _Targets(NamedTuple):
    """What ``wrt`` names, and how the gradients are handed back."""

    parameters: Callable[[], list[Parameter]]
    shape: Callable[[dict[Parameter, Any]], Any]


def _targets(wrt: Any) -> _Targets:
    if isinstance(wrt, Parameter):
        return _Targets(lambda: [wrt], lambda grads: grads[wrt])
    if hasattr(wrt, "named_parameters"):

        def of_module(grads: dict[Parameter, Any]) -> Gradients:
            named = [(n, p) for n, p in wrt.named_parameters() if p in grads]
            return Gradients({n: grads[p] for n, p in named}, [p for _, p in named])

        return _Targets(lambda: [p for p in wrt.parameters() if p.requires_grad], of_module)
    if isinstance(wrt, Mapping):
        _check_parameters(wrt.values())
        return _Targets(lambda: list(wrt.values()), lambda grads: {k: grads[p] for k, p in wrt.items()})
    if not isinstance(wrt, Iterable):
        raise TypeError(f"wrt names a Module, a Parameter, or parameters in a list or dict; got {type(wrt).__name__}")
    items = list(wrt)
    if items and all(isinstance(i, tuple) and len(i) == 2 and isinstance(i[1], Parameter) for i in items):
        named = dict(items)
        return _Targets(
            lambda: list(named.values()), lambda g: Gradients({n: g[p] for n, p in named.items()}, list(named.values()))
        )
    _check_parameters(items)
    return _Targets(lambda: items, lambda grads: [grads[p] for p in items])


def _check_parameters(items: Iterable[Any]) -> None:
    for item in items:
        if not isinstance(item, Parameter):
            raise TypeError(
                f"wrt names Parameters, got {type(item).__name__}: inside a forward self.weight is the array; pass the module "
                "or model.parameters() instead"
            )


def positions_in(args: Sequence[Any], argnums: int | Sequence[int]) -> list[int]:
    """``argnums`` as a list.

    Raises:
        ValueError: there is no such argument.
    """
    positions = [argnums] if isinstance(argnums, int) else list(argnums)
    for n in positions:
        if not -len(args) <= n < len(args):
            raise ValueError(
                f"argnums {n} is out of range: the function was called with {len(args)} positional arguments. For the derivative with "
                "respect to a model that it reaches by itself write wrt=model"
            )
    return positions


def value_and_grad(
    function: Any = None,
    argnums: int | Sequence[int] | None = None,
    has_aux: bool = False,
    holomorphic: bool = False,
    *,
    wrt: Any = None,
) -> Any:
    """A function that gives ``function``'s value and its gradients.

    Args:
        function: returns a scalar array, or with ``has_aux`` a pair of that and anything.
        argnums: positions of arguments to differentiate, as in ``jax.value_and_grad``; a Module there stands for ``wrt``. Without
            ``wrt`` it defaults to 0.
        wrt: a Module (gradients by name), a Parameter (one array), or a list or dict of Parameters (the same shape). With both,
            the gradients are the pair (arguments, parameters).

    Raises:
        TypeError: for a result that is no scalar, or a ``wrt`` that holds no Parameters. DetachedLossError: for parameters alone,
        where the function reads none that requires grad.
    """
    if function is None:
        return functools.partial(value_and_grad, argnums=argnums, has_aux=has_aux, holomorphic=holomorphic, wrt=wrt)
    targets = None if wrt is None else _targets(wrt)

    @functools.wraps(function, updated=())
    def derivative(*args: Any, **kwargs: Any) -> Any:
        nums = argnums if argnums is not None else 0 if targets is None else ()
        single = isinstance(nums, int)
        positions = positions_in(args, nums)
        modules = {
            n: _targets(args[n]) for n in positions if hasattr(args[n], "named_parameters") or isinstance(args[n], Parameter)
        }
        arrays = [n for n in positions if n not in modules]
        parameters = [p for t in (*modules.values(), *([targets] if targets else [])) for p in t.parameters()]
        found = differentiate(
            function, args, kwargs, argnums=arrays, parameters=parameters, has_aux=has_aux, holomorphic=holomorphic
        )
        if found.untouched and not arrays and (modules or targets):
            raise errors.detached()
        by_array = dict(zip(arrays, found.arguments, strict=True))
        of_args = tuple(modules[n].shape(found.parameters) if n in modules else by_array[n] for n in positions)
        grads: Any = of_args[0] if single else of_args
        if targets is not None:
            of_parameters = targets.shape(found.parameters)
            grads = of_parameters if argnums is None else (grads, of_parameters)
        return ((found.value, found.aux) if has_aux else found.value), grads

    return derivative


def grad(
    function: Any = None,
    argnums: int | Sequence[int] | None = None,
    has_aux: bool = False,
    holomorphic: bool = False,
    *,
    wrt: Any = None,
) -> Any:
    """A function that gives ``function``'s gradients (with ``has_aux`` the pair of gradients and aux); see :func:`value_and_grad`."""
    if function is None:
        return functools.partial(grad, argnums=argnums, has_aux=has_aux, holomorphic=holomorphic, wrt=wrt)
    both = value_and_grad(function, argnums, has_aux, holomorphic, wrt=wrt)

    @functools.wraps(function, updated=())
    def derivative(*args: Any, **kwargs: Any) -> Any:
        value, grads = both(*args, **kwargs)
        return (grads, value[1]) if has_aux else grads

    return derivative


def reachable_parameters(function: Any) -> list[Parameter]:
    """The trainable parameters that paths from ``function`` lead to."""
    capture = Capture(depends=False)  # on the parameters that are then read, and no more
    capture.walk(function, ())
    return [v for v in capture.variables if isinstance(v, Parameter) and v.requires_grad]


def backward(closure: Callable[[], Any], inputs: Any = None) -> jax.Array:
    """Run ``closure``, add the gradients of its scalar result to ``p.grad`` of every parameter it used, and return the result.

    In place of torch's ``loss.backward()``: ``loss = objnet.backward(lambda: criterion(model(x), y))``.

    Args:
        inputs: the Parameters (or a Module) to take gradients for; by default all trainable ones the closure reads.

    Raises:
        TypeError: if ``closure`` is no function or its result no scalar. DetachedLossError: if it depends on no parameter that
        requires grad.
    """
    if not callable(closure):
        raise TypeError(
            f"objnet.backward takes a closure that computes the loss, got {type(closure).__name__}: arrays record no graph. Write "
            "objnet.backward(lambda: criterion(model(x), y))."
        )
    if inputs is None:
        likely = [p for p in reachable_parameters(closure) if frame.reaches(p)]
        found = differentiate(closure, parameters=likely, discover=True)
    else:
        found = differentiate(closure, parameters=_targets(inputs).parameters())
    if found.detached:
        raise errors.detached()
    accumulate(found.parameters)
    return found.value


def accumulate(grads: Mapping[Parameter, Any]) -> None:
    """Add gradients to ``p.grad``; None leaves it alone."""
    for parameter, gradient in grads.items():
        if gradient is not None:
            held = parameter.grad
            parameter.grad = gradient if held is None else held + gradient
            for hook in list((parameter._post_accumulate_grad_hooks or {}).values()):
                hook(parameter)

"""Backward hooks: two identities around a forward, whose derivative rules call the hooks.

The identity on the outputs sees their cotangents first, the one on the inputs theirs when the backward pass has come
through the module.  An eager gradient runs the rules on values; inside a program they run once, when the backward pass is
traced.  Whether any input is differentiated at all must be known on the side of the outputs; it is told by a token, a
number that goes from the one identity to the other and is differentiated if an input is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from objnet.core import errors, frame, scope
from objnet.core.hooks import checked
from objnet.core.tensor import TensorMethods


class BackwardHooks:
    """The backward hooks of one call of a module (what torch's class of the name ``BackwardHook`` does).

    Args:
        before: run as ``hook(module, grad_output)``; after: run as ``hook(module, grad_input, grad_output)``.
    """

    def __init__(self, module: Any, before: Sequence[Any], after: Sequence[Any]):
        self._module = module
        self._before = before
        self._after = after
        self._inputs: list[Any] = []  # their types
        self._outputs: list[Any] = []
        self._token: Any = jnp.zeros((), jnp.float32)
        self._grad_output: Any = None
        self._around = _enclosing()

    def watch_inputs(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The positional arguments of ``forward``, each array passed through an identity."""
        values = [a._read() if isinstance(a, TensorMethods) else a for a in args]
        at = [i for i, v in enumerate(values) if _differentiable(_type(v))]
        self._inputs = [_type(v) for v in values]
        if at:
            self._token = _through(values, at, self._token, self._at_inputs)
        return tuple(values)

    def watch_outputs(self, output: Any) -> Any:
        """What ``forward`` returned, each array passed through an identity: an array or a tuple of them."""
        if not isinstance(output, (jax.Array, tuple)):
            warnings.warn(
                "For backward hooks to be called, module output should be a Tensor or a tuple of Tensors but received "
                f"{type(output)}: return an array or a tuple of arrays from {type(self._module).__name__}.forward",
                stacklevel=4,
            )
            return output
        values = list(output) if isinstance(output, tuple) else [output]
        at = [i for i, v in enumerate(values) if _differentiable(_type(v))]
        self._outputs = [_type(v) for v in values]
        if at:
            _through(values, at, self._token, self._at_outputs)
        if not isinstance(output, tuple):
            return values[0]
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)

    # -- the rules -----------------------------------------------------------------------------------------------------

    def _at_outputs(self, cotangents: list[Any], token_differs: bool) -> list[Any]:
        """The cotangents of the outputs have come; gives those to go on with."""
        gradients = _packed(self._outputs, cotangents)
        with self._running():
            for hook in self._before:
                result = hook(self._module, gradients)
                if result is not None:
                    gradients = _replacement(hook, result, self._outputs, "Backward pre hook", "grad_output")
            if token_differs:
                self._grad_output = gradients
            elif self._after:
                self._without_inputs(gradients)
        return _unpacked(self._outputs, gradients)

    def _without_inputs(self, gradients: tuple[Any, ...]) -> None:
        warnings.warn(
            "Full backward hook is firing when gradients are computed with respect to module outputs since no inputs require "
            f"gradients: grad_input of {type(self._module).__name__} holds None only. Take the gradient of the input too "
            "(argnums) to see it.",
            stacklevel=2,
        )
        nothing = (None,) * len(self._inputs)
        for hook in self._after:
            result = hook(self._module, nothing, gradients)
            if result is not None and not (isinstance(result, tuple) and all(r is None for r in result)):
                raise RuntimeError(
                    "Backward hook for Modules where no input requires gradient should always return None or None for all gradients."
                )

    def _at_inputs(self, cotangents: list[Any], _: bool) -> list[Any]:
        """The cotangents of the inputs have come; gives those to go on with."""
        outputs, self._grad_output = self._grad_output, None
        if outputs is None:  # the inputs reached the loss, but not through the outputs
            return cotangents
        # as torch: zeros for an array that no gradient reached
        gradients = tuple(
            jnp.zeros(kind.shape, kind.dtype) if g is None and kind is not None else g
            for g, kind in zip(_packed(self._inputs, cotangents), self._inputs, strict=True)
        )
        with self._running():
            for hook in self._after:
                result = hook(self._module, gradients, outputs)
                if result is not None:
                    gradients = _replacement(hook, result, self._inputs, "Backward hook", "grad_input")
        return _unpacked(self._inputs, gradients)

    def _running(self) -> Any:
        return _HookScope(self._module, self._around)


def _type(value: Any) -> Any:
    """Shape and dtype of an array, None for anything else (random keys have no gradients either)."""
    return jax.typeof(value) if isinstance(value, jax.Array) and not jnp.issubdtype(value.dtype, jax.dtypes.extended) else None


def _differentiable(kind: Any) -> bool:
    return kind is not None and jnp.issubdtype(kind.dtype, jnp.inexact)


def _packed(kinds: Sequence[Any], cotangents: Sequence[Any]) -> tuple[Any, ...]:
    """Cotangents of what is differentiable, along all inputs or outputs."""
    found = iter(cotangents)
    return tuple(next(found) if _differentiable(kind) else None for kind in kinds)


def _unpacked(kinds: Sequence[Any], gradients: Sequence[Any]) -> list[Any]:
    return [g for g, kind in zip(gradients, kinds, strict=True) if _differentiable(kind)]


def _replacement(hook: Any, result: Any, kinds: Sequence[Any], what: str, name: str) -> tuple[Any, ...]:
    """What a hook returned in place of some gradients, checked."""
    if len(result) != len(kinds):
        raise RuntimeError(f"{what} returned an invalid number of {name}, got {len(result)}, but expected {len(kinds)}")
    return tuple(checked(hook, new, kind) for new, kind in zip(result, kinds, strict=True))


def _through(values: list[Any], at: Sequence[int], token: jax.Array, rule: Callable[[list[Any], bool], list[Any]]) -> jax.Array:
    """Pass some of ``values``, and the token, through an identity with a rule; gives the token.

    An identity counts as differentiated as a whole. What is known to have no derivative stays as it is, so that it does
    not seem to have one further on.
    """
    (*passed, token), differs = _identity([*(values[i] for i in at), token], rule)
    for n, i in enumerate(at):
        if differs is None or differs[n]:
            values[i] = passed[n]
    return token


class _Known(NamedTuple):
    """Which values of an identity were differentiated: static data, kept from the forward to the backward pass."""

    flags: tuple[bool, ...]


jax.tree_util.register_pytree_node(_Known, lambda known: ((), known.flags), lambda flags, _: _Known(flags))


def _identity(
    values: list[jax.Array], rule: Callable[[list[Any], bool], list[Any]]
) -> tuple[list[jax.Array], Sequence[bool] | None]:
    """``values``, whose derivative is ``rule(cotangents of all but the last, whether the last is differentiated)``.

    None stands for a zero cotangent. Also which values are differentiated, if that is known yet: inside programs of its own
    (scan, ...) jax decides later.
    """
    at_once: list[tuple[bool, ...]] = []

    @jax.custom_vjp
    def identity(values: list[jax.Array]) -> list[jax.Array]:
        return values

    def forward(values: list[Any]) -> tuple[list[Any], _Known]:
        at_once.append(tuple(v.perturbed for v in values))
        return [v.value for v in values], _Known(at_once[-1])

    def backward(known: _Known, cotangents: list[Any]) -> tuple[list[Any]]:
        found = [None if isinstance(ct, SymbolicZero) else ct for ct in cotangents[:-1]]
        return ([*rule(found, known.flags[-1]), None],)

    identity.defvjp(forward, backward, symbolic_zeros=True)
    return identity(values), at_once[0] if at_once else None


# -- where the hooks run -----------------------------------------------------------------------------------------------


def _enclosing() -> list[frame.Frame]:
    """The frames of pure and compiled functions that are open here."""
    inner, found = frame.current(), []
    while inner is not None:
        if inner.closed or hasattr(inner, "applies"):
            found.append(inner)
        inner = inner.parent
    return found


class _EndedFrame(frame.Frame):
    """Where hooks run whose forward was in a pure or compiled function that has returned, whose values are gone."""

    def miss(self, variable: Any) -> None:
        raise errors.ReadInTransformError(
            f"{variable.describe()} was read by a backward hook after the function around its forward has returned"
            f"{errors.where()}: its values were that function's. Use the gradients the hook is given, or take the gradient "
            "inside the pure or compiled function."
        )

    def set(self, variable: Any, value: Any, created: bool = False) -> None:
        raise errors.WriteInTransformError(
            f"{variable.describe()} was written by a backward hook after the function around its forward has returned"
            f"{errors.where()}: the new value would be lost. Take the gradient inside the pure or compiled function."
        )

    def note_attribute(self, module: Any, name: str, old: Any, new: Any) -> None:
        raise errors.StaticAttributeError(
            f"{module._where()}.{name} was changed by a backward hook after the function around its forward has returned"
            f"{errors.where()}: the change would be lost, or happen once. Take the gradient inside the pure or compiled function."
        )

    def note_link(self, module: Any, kind: str, name: str, old: Any, new: Any) -> None:
        self.note_attribute(module, name, old, new)


class _HookScope:
    """The scope of hooks, in which ``module.weight`` is the Parameter, and an :class:`_EndedFrame` where one is due."""

    def __init__(self, module: Any, around: list[frame.Frame]):
        self._module = module
        self._ended = any(f not in _enclosing() for f in around)

    def __enter__(self) -> None:
        self._open = _EndedFrame().open() if self._ended else None
        if self._open is not None:
            self._open.__enter__()
        self._reset = scope.enter(scope.HOOK, self._module)

    def __exit__(self, *error: Any) -> None:
        scope.reset(self._reset)
        if self._open is not None:
            self._open.__exit__(*error)

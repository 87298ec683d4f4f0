"""``custom_jvp`` and ``custom_vjp``: functions with derivative rules of the user's, over modules as over arrays.

Jax lets such a function read nothing that is differentiated but its arguments.  A module among these is therefore handed over
as the values of its trainable parameters, and the rule gives its derivative as a dict by parameter name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero

from objnet.core import errors
from objnet.transforms.lifted import Lifted
from objnet.transforms.threaded import Restructured, ThreadedFrame, arrays, thread


class _Ruled:
    """A function with a rule: what both kinds share."""

    def __init__(self, function: Callable[..., Any], nondiff_argnums: Sequence[int] = ()):
        functools.update_wrapper(self, function, updated=())
        self._function = function
        self._fixed = tuple(nondiff_argnums)

    def __objnet_capture__(self, visit: Any) -> Any:
        return self._fixed, visit(self._function), visit(self._rules())

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def _rules(self) -> Any:
        raise NotImplementedError

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs:
            raise TypeError(f"{type(self).__name__} functions take positional arguments only, got {sorted(kwargs)}")
        if any(rule is None for rule in self._rules()):
            raise AttributeError(f"no rule was defined for {type(self).__name__} function {self.__name__}")  # type: ignore[attr-defined]
        free = [i for i in range(len(args)) if i not in {n % len(args) for n in self._fixed} and not _static(args[i])]
        lifted = {i: Lifted(args[i]) for i in free}

        def attempt(inner: ThreadedFrame) -> Any:
            result, state = self._run(inner, args, lifted)([one.value() for one in lifted.values()], inner.inputs)
            inner.hand_over(state)
            return result

        try:
            return thread(attempt, type(self).__name__)
        except Restructured as found:
            raise found.error from None

    def _run(self, inner: ThreadedFrame, args: Sequence[Any], lifted: Mapping[int, Lifted]) -> Callable[..., Any]:
        raise NotImplementedError

    def _refuse_differentiated(self, inner: ThreadedFrame, moves: Sequence[bool]) -> None:
        """Raise where the function read what it writes and what is differentiated: no rule says what becomes of it."""
        for variable, differentiated in zip(inner.carried, moves, strict=True):
            if differentiated and inner.needs(variable):
                raise errors.LeakedTracerError(
                    f"{variable.describe()} is being differentiated, and the {type(self).__name__} function {self.__name__} "  # type: ignore[attr-defined]
                    f"reads and writes it{errors.where()}: the rule says nothing of it, so its part of the gradient would be lost. Pass the "
                    "module (or the value) as an argument of that function, or write jax.lax.stop_gradient of it before."
                )

    @staticmethod
    def _bound(inner: ThreadedFrame, args: Sequence[Any], lifted: Mapping[int, Lifted], values: Sequence[Any]) -> list[Any]:
        full = list(args)
        for (i, one), value in zip(lifted.items(), values, strict=True):
            full[i] = one.bind(value, inner)
        return full


def _static(argument: Any) -> bool:
    """What has no derivative and no array in it: strings, None, functions; but not modules."""
    if hasattr(argument, "named_parameters"):
        return False
    leaves = jax.tree.leaves(argument)
    return not all(hasattr(leaf, "dtype") or isinstance(leaf, (int, float, complex)) for leaf in leaves) or not leaves


class custom_vjp(_Ruled):
    """A function with a reverse rule (``jax.custom_vjp``), given by :meth:`defvjp`.

    Args:
        function: may read and write any module; takes gradients only with respect to its arguments, of which modules may be some.
        nondiff_argnums: arguments without a derivative, handed to the backward rule first.
    """

    def __init__(self, function: Callable[..., Any], nondiff_argnums: Sequence[int] = ()):
        super().__init__(function, nondiff_argnums)
        self._forward: Any = None
        self._backward: Any = None

    def _rules(self) -> Any:
        return self._forward, self._backward

    def defvjp(self, fwd: Callable[..., Any], bwd: Callable[..., Any]) -> None:
        """Say how to differentiate.

        Args:
            fwd: takes the function's arguments; returns its result, and what ``bwd`` needs (arrays). It writes what the function
                writes.
            bwd: takes that and the result's cotangent; returns a tuple with one cotangent for each argument: None for none, and for
                a module a dict by parameter name, where names may be left out.
        """
        self._forward, self._backward = fwd, bwd

    def _run(self, inner: ThreadedFrame, args: Sequence[Any], lifted: Mapping[int, Lifted]) -> Callable[..., Any]:
        def call(function: Any, values: Sequence[Any], state: Sequence[Any]) -> Any:
            return inner.call(state, lambda: function(*self._bound(inner, args, lifted, values)))

        @jax.custom_vjp
        def run(values: Sequence[Any], state: Sequence[Any]) -> Any:
            return call(self._function, values, state)

        def forward(values: Sequence[Any], state: Sequence[Any]) -> Any:
            moves = [any(leaf.perturbed for leaf in _primals(one)) for one in state]
            values, state = (jax.tree.map(lambda p: p.value, part, is_leaf=_is_primal) for part in (values, state))
            (result, kept), after = call(self._forward, values, state)
            self._refuse_differentiated(inner, moves)
            return (result, after), (kept, values, state)

        def backward(residuals: Any, cotangents: Any) -> Any:
            kept, values, state = residuals
            fixed = [a for i, a in enumerate(args) if i not in lifted]
            given = arrays(self._backward(*fixed, kept, _whole(cotangents[0])))
            if not isinstance(given, tuple) or len(given) != len(values):
                raise TypeError(
                    f"the backward rule of {self.__name__} returns a tuple of {len(values)} cotangents, one for each differentiable "  # type: ignore[attr-defined]
                    f"argument; got {type(given).__name__}{f' of {len(given)}' if isinstance(given, tuple) else ''}"
                )
            return [_cotangent(value, one) for value, one in zip(values, given, strict=True)], jax.tree.map(_zero, state)

        run.defvjp(forward, backward, symbolic_zeros=True)
        return run


class custom_jvp(_Ruled):
    """A function with a forward rule (``jax.custom_jvp``), given by :meth:`defjvp`, from which jax derives the reverse one.

    Args:
        function: as for :class:`custom_vjp`.
        nondiff_argnums: arguments without a derivative, handed to the rule first.
    """

    def __init__(self, function: Callable[..., Any], nondiff_argnums: Sequence[int] = ()):
        super().__init__(function, nondiff_argnums)
        self._rule: Any = None

    def _rules(self) -> Any:
        return (self._rule,)

    def defjvp(self, jvp: Callable[..., Any]) -> Callable[..., Any]:
        """Say how to differentiate: ``jvp(primals, tangents)`` returns the result and its tangent.

        For a module among the primals the tangent is a dict by parameter name.
        """
        self._rule = jvp
        return jvp

    def defjvps(self, *jvps: Callable[..., Any] | None) -> None:
        """One rule for each argument, ``jvp(tangent, result, *primals)``, None for no derivative; their sum is the tangent."""

        def rule(primals: Any, tangents: Any) -> Any:
            result = self._function(*primals)
            parts = [f(t, result, *primals) for f, t in zip(jvps, tangents, strict=True) if f is not None]
            total = (
                functools.reduce(lambda a, b: jax.tree.map(jax.numpy.add, a, b), parts) if parts else jax.tree.map(_zero, result)
            )
            return result, total

        self._rule = rule

    def _run(self, inner: ThreadedFrame, args: Sequence[Any], lifted: Mapping[int, Lifted]) -> Callable[..., Any]:
        fixed = [a for i, a in enumerate(args) if i not in lifted]

        @jax.custom_jvp
        def run(values: Sequence[Any], state: Sequence[Any]) -> Any:
            return inner.call(state, lambda: self._function(*self._bound(inner, args, lifted, values)))

        def jvp(primals: Any, tangents: Any) -> Any:
            (values, state), (directions, of_state) = primals, tangents
            moves = [any(not _is_zero(leaf) for leaf in jax.tree.leaves(one, is_leaf=_is_zero)) for one in of_state]
            directions = _whole(directions)

            def rule() -> Any:
                full = self._bound(inner, args, lifted, values)
                return self._rule(*fixed, tuple(full[i] for i in lifted), tuple(directions))

            (result, tangent), after = inner.call(state, rule)
            self._refuse_differentiated(inner, moves)
            return (result, after), (tangent, jax.tree.map(_zero, after))

        run.defjvp(jvp, symbolic_zeros=True)
        return run


def _is_zero(leaf: Any) -> bool:
    return isinstance(leaf, SymbolicZero)


def _whole(tree: Any) -> Any:
    """``tree`` with arrays in place of symbolic zeros."""
    return jax.tree.map(lambda leaf: _zeros(leaf.shape, leaf.dtype) if _is_zero(leaf) else leaf, tree, is_leaf=_is_zero)


def _is_primal(leaf: Any) -> bool:
    return isinstance(leaf, CustomVJPPrimal)


def _primals(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=_is_primal)


def _zeros(shape: tuple[int, ...], dtype: Any) -> Any:
    return np.zeros(shape, dtype) if dtype == jax.dtypes.float0 else jax.numpy.zeros(shape, dtype)


def _zero(leaf: Any) -> Any:
    leaf = jax.numpy.asarray(leaf)
    return (
        jax.numpy.zeros_like(leaf)
        if jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact)
        else np.zeros(leaf.shape, jax.dtypes.float0)
    )


def _cotangent(value: Any, given: Any) -> Any:
    """A cotangent as the rule gave it, completed: None, and names left out, stand for no derivative."""
    if given is None:
        return jax.tree.map(_zero, value)
    if isinstance(value, dict) and isinstance(given, Mapping):
        unknown = sorted(set(given) - set(value))
        if unknown:
            raise ValueError(
                f"the backward rule gives derivatives of {unknown}, which are no trainable parameters: {sorted(value)}"
            )
        leaves, structure = jax.tree.flatten(value)
        parts = [_cotangent(leaf, given.get(name)) for name, leaf in zip(value, leaves, strict=True)]
        return jax.tree.unflatten(structure, parts)
    return given

"""``jvp``, ``vjp``, ``linearize``, ``jacfwd``, ``jacrev``, ``hessian`` of functions that read and write modules.

A module or a Parameter among the arguments stands for its trainable parameters: tangents and derivatives with respect to a
module are :class:`Gradients`, dicts by parameter name.  What the function writes is written once, with the values of the primal run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from objnet.core import frame
from objnet.core.once import Written, once
from objnet.transforms.autodiff import _split_aux, positions_in
from objnet.transforms.lifted import Lifted
from objnet.transforms.threaded import arrays


class _Call:
    """One call of a function, differentiated with respect to the arguments at ``positions``."""

    def __init__(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], positions: Sequence[int], has_aux: bool):
        self._function, self._args, self._kwargs = function, list(args), dict(kwargs)
        self._positions = list(positions)
        self._lifted = [Lifted(args[n]) for n in self._positions]
        self._has_aux = has_aux

    def primals(self) -> list[Any]:
        return [lifted.value() for lifted in self._lifted]

    def tangents(self, given: Sequence[Any]) -> list[Any]:
        return [lifted.tangent(tangent) for lifted, tangent in zip(self._lifted, given, strict=True)]

    def run(self, transform: Callable[[Callable[..., Any]], Any]) -> tuple[Any, Any]:
        """``transform(pure)``, where ``pure(*primals)`` gives a result and what jax calls aux; with the user's own aux."""

        def attempt(inner: frame.Frame, token: bool) -> tuple[Any, Any]:
            written = Written()

            def pure(*primals: Any) -> Any:
                with inner.open(token):
                    args = list(self._args)
                    for n, lifted, value in zip(self._positions, self._lifted, primals, strict=True):
                        args[n] = lifted.bind(value, inner)
                    result = self._function(*args, **self._kwargs)
                    value, aux = _split_aux(result) if self._has_aux else (result, None)
                    return arrays(value), (arrays(aux), written.pack(inner))

            result, (aux, states) = transform(pure)
            written.hand_over(inner, states)
            return result, aux

        return once(attempt)


def jvp(function: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False) -> Any:
    """The value at ``primals`` and its derivative along ``tangents`` (``jax.jvp``).

    Args:
        primals, tangents: a tuple of arguments, and one of directions of the same structure; for a module a dict by parameter name.
        has_aux: whether ``function`` returns a pair (value, aux).

    Returns:
        ``(value, tangent)``, with ``has_aux`` also aux.

    Raises:
        TypeError: of jax, for directions of another shape or dtype. ValueError: for a module, a name too many or too few.
    """
    if not isinstance(primals, (tuple, list)) or not isinstance(tangents, (tuple, list)):
        raise TypeError(f"primals and tangents are tuples, got {type(primals).__name__} and {type(tangents).__name__}")
    if len(primals) != len(tangents):
        raise TypeError(f"there are {len(primals)} primals and {len(tangents)} tangents: each argument needs a tangent")
    call = _Call(function, primals, {}, range(len(primals)), has_aux)

    def transform(pure: Any) -> Any:
        value, tangent, aux = jax.jvp(pure, tuple(call.primals()), tuple(call.tangents(tangents)), has_aux=True)
        return (value, tangent), aux

    result, aux = call.run(transform)
    return (*result, aux) if has_aux else result


def vjp(function: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """The value at ``primals``, and the function from its cotangent to theirs (``jax.vjp``).

    Returns:
        ``(value, pullback)``, with ``has_aux`` also aux. ``pullback(cotangent)`` gives a tuple, one entry an argument.
    """
    call = _Call(function, primals, {}, range(len(primals)), has_aux)

    def transform(pure: Any) -> Any:
        value, pullback, aux = jax.vjp(pure, *call.primals(), has_aux=True)
        return (value, pullback), aux

    result, aux = call.run(transform)
    return (*result, aux) if has_aux else result


def linearize(function: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """The value at ``primals``, and the linear function from their tangents to its (``jax.linearize``)."""
    call = _Call(function, primals, {}, range(len(primals)), has_aux)

    def transform(pure: Any) -> Any:
        value, push, aux = jax.linearize(pure, *call.primals(), has_aux=True)
        return (value, lambda *tangents: push(*call.tangents(tangents))), aux

    result, aux = call.run(transform)
    return (*result, aux) if has_aux else result


def jacobian(transform: Any, name: str) -> Callable[..., Any]:
    def of(
        function: Any = None,
        argnums: int | Sequence[int] | None = None,
        has_aux: bool = False,
        holomorphic: bool = False,
        *,
        wrt: Any = None,
    ) -> Any:
        if function is None:
            return functools.partial(of, argnums=argnums, has_aux=has_aux, holomorphic=holomorphic, wrt=wrt)
        if wrt is not None and argnums is not None:
            raise TypeError(
                f"{name} takes argnums or wrt, not both: hand the module over as an argument to have both derivatives"
            )

        @functools.wraps(function, updated=())
        def derivative(*args: Any, **kwargs: Any) -> Any:
            if wrt is None:
                called, nums = function, 0 if argnums is None else argnums
            else:
                args, called, nums = (wrt, *args), (lambda _, *rest, **named: function(*rest, **named)), 0
            positions = positions_in(args, nums)
            call = _Call(called, args, kwargs, positions, has_aux)
            at = 0 if isinstance(nums, int) else tuple(range(len(positions)))
            result, aux = call.run(lambda pure: transform(pure, at, True, holomorphic)(*call.primals()))
            return (result, aux) if has_aux else result

        return derivative

    of.__name__ = of.__qualname__ = name
    return of


jacfwd = jacobian(jax.jacfwd, "jacfwd")
jacrev = jacobian(jax.jacrev, "jacrev")
hessian = jacobian(lambda f, at, has_aux, holomorphic: _hessian(f, at, holomorphic), "hessian")


def _hessian(pure: Any, at: Any, holomorphic: bool) -> Any:
    return jax.jacfwd(jax.jacrev(pure, at, True, holomorphic), at, True, holomorphic)


_ARGUMENTS = """

    Args:
        function: takes arrays or modules. Left out, a decorator is returned.
        argnums: which arguments to differentiate, 0 by default; a module there stands for its trainable parameters.
        has_aux: whether ``function`` returns a pair (value, aux), and the result is one too.
        holomorphic: as in jax.
        wrt: a module, a Parameter or a pytree of these that the function reaches by itself, instead of ``argnums``.

    Raises:
        ValueError: ``argnums`` out of range. TypeError: both ``argnums`` and ``wrt``; and jax's own for integer inputs."""
jacfwd.__doc__ = "A function that gives the Jacobian of ``function``, column by column (``jax.jacfwd``)." + _ARGUMENTS
jacrev.__doc__ = "A function that gives the Jacobian of ``function``, row by row (``jax.jacrev``)." + _ARGUMENTS
hessian.__doc__ = "A function that gives the second derivatives of ``function`` (``jax.hessian``)." + _ARGUMENTS

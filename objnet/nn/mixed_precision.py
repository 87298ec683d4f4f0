"""Policies of precision for modules, by class or by instance (Haiku's ``mixed_precision``).

While a module with a policy runs, its array arguments and the parameters that it and the modules below read are in
``compute_dtype``, and its result is in ``output_dtype``.  A module below with a policy of its own follows that.  What layers
with running statistics hold stays as it is, as in torch's mixed precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from objnet.core import errors, frame, scope, settings
from objnet.core.capture import Identity
from objnet.nn import interception
from objnet.nn.interception import POLICY

__all__ = ["Policy", "clear_policy", "current_policy", "get_policy", "push_policy", "set_policy"]
_OF_CLASS, _PUSHED = "policy of a class", "policy of a class, for a block"


class Policy(NamedTuple):
    """Which dtypes a module uses (``jmp.Policy``); only floating arrays are cast. None leaves them as they are.

    Attributes:
        param_dtype: of its parameters, as they are created.
        compute_dtype: of its inputs, and of parameters while it runs.
        output_dtype: of its results.
    """

    param_dtype: Any = None
    compute_dtype: Any = None
    output_dtype: Any = None

    def cast_to_param(self, tree: Any) -> Any:
        return _cast(tree, self.param_dtype)

    def cast_to_compute(self, tree: Any) -> Any:
        return _cast(tree, self.compute_dtype)

    def cast_to_output(self, tree: Any) -> Any:
        return _cast(tree, self.output_dtype)


def _cast(tree: Any, dtype: Any) -> Any:
    if dtype is None:
        return tree
    return jax.tree.map(
        lambda x: x.astype(dtype) if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating) else x,
        tree,
        is_leaf=lambda x: hasattr(type(x), "__objnet_capture__"),
    )


def set_policy(target: Any, policy: Any) -> None:
    """Give a Module class (every instance of just this class) or one module a policy (Haiku's ``set_policy``).

    A class's policy holds in this thread, for modules built or called from now on. A module's casts its parameters at once.

    Args:
        target: a Module class, or a module.
        policy: a :class:`Policy`, or an object with its three attributes, such as a ``jmp.Policy``.

    Raises:
        PolicyError: for a class, inside a ``with`` block of settings, which would take it back: use :func:`push_policy`; or inside
            a transform. TypeError: ``target`` or ``policy`` is neither.
    """
    policy = _checked(target, policy)
    if isinstance(target, type):
        kept = _without(target)
        settings.replace_for_good((_setting(target, policy), *kept))
        return
    target._precision_policy = policy
    _cast_parameters(target, None)


def clear_policy(target: Any) -> None:
    """Take the policy of a class or module away, if it has one (Haiku's ``clear_policy``).

    Raises:
        PolicyError, TypeError: as :func:`set_policy`.
    """
    _checked(target, Policy())
    if isinstance(target, type):
        settings.replace_for_good(_without(target))
    else:
        target._precision_policy = None


def get_policy(target: Any) -> Policy | None:
    """The policy that was set for a class or module, or None (Haiku's ``get_policy``); a module without one has its class's."""
    _checked(target, Policy())
    own = None if isinstance(target, type) else target._precision_policy
    kind = target if isinstance(target, type) else type(target)
    if own is not None:
        return own
    for setting in reversed(settings.current()):
        if setting.kind in (_OF_CLASS, _PUSHED) and setting.value[0] is kind:
            return setting.value[1]
    return None


def current_policy() -> Policy | None:
    """The policy of the innermost module that runs and has one (Haiku's ``current_policy``)."""
    return settings.last(POLICY)


@contextmanager
def push_policy(target: type, policy: Any) -> Iterator[None]:
    """Give a Module class a policy for a ``with`` block (Haiku's ``push_policy``).

    Raises:
        PolicyError: inside a forward of this class. TypeError: ``target`` is no Module class, or ``policy`` no policy.
    """
    policy = _checked(target, policy)
    if not isinstance(target, type):
        raise TypeError(f"push_policy takes a Module class, got a {type(target).__name__}: set_policy takes modules")
    here = scope.current()
    while here is not None:
        if here.kind is scope.FORWARD and type(here.module) is target:
            raise errors.PolicyError(f"a policy for {target.__name__} was pushed inside its own forward{errors.where()}")
        here = here.outer
    _, value, key = _setting(target, policy)
    with settings.entered(_PUSHED, value, key):
        yield


def _checked(target: Any, policy: Any) -> Policy:
    kind = target if isinstance(target, type) else type(target)
    if not hasattr(kind, "named_modules"):
        raise TypeError(f"policies are for Module classes and modules, got {target!r}")
    try:
        dtypes = policy.param_dtype, policy.compute_dtype, policy.output_dtype
    except AttributeError:
        raise TypeError(f"expected a Policy, got {policy!r}; clear_policy takes one away") from None
    return Policy(*(None if d is None else jnp.dtype(d) for d in dtypes))


def _setting(target: type, policy: Policy) -> settings.Setting:
    return settings.Setting(_OF_CLASS, (target, policy), (Identity(target), policy))


def _without(target: type) -> tuple[settings.Setting, ...]:
    if frame.current() is not None or any(s.kind != _OF_CLASS for s in settings.current()):
        raise errors.PolicyError(
            f"the policy of a class was set inside a transform, or a `with` block that would take it back{errors.where()}: set it "
            "outside, or use `with objnet.mixed_precision.push_policy(...)`"
        )
    return tuple(s for s in settings.current() if s.value[0] is not target)


# -- for modules -------------------------------------------------------------------------------------------------------


def call(module: Any, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a module under its policy, by way of the interceptors."""
    policy = get_policy(module)
    if policy is None:
        return interception.call(module, run, args, kwargs)
    with settings.entered(POLICY, policy, policy):
        args, kwargs = policy.cast_to_compute((args, kwargs))
        return policy.cast_to_output(interception.call(module, run, args, kwargs))


def built(module: Any) -> None:
    """Cast the parameters of what was just built, as the policies of classes want them."""
    if settings.of(_OF_CLASS) or settings.of(_PUSHED):
        _cast_parameters(module, None)


def _cast_parameters(module: Any, policy: Policy | None) -> None:
    policy = get_policy(module) or policy
    if policy is not None and policy.param_dtype is not None and not interception.keeps_precision(module):
        for parameter in module._parameters.values():
            if parameter is not None and not isinstance(parameter._peek(), frame.Sentinel):
                if jnp.issubdtype(parameter.dtype, jnp.floating) and parameter.dtype != policy.param_dtype:
                    with scope.entered(scope.BUILD):
                        parameter._set(parameter._read().astype(policy.param_dtype))
    for child in module._modules.values():
        if child is not None:
            _cast_parameters(child, policy)

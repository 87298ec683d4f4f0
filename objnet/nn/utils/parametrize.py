"""Parametrizations: a parameter or buffer that is computed from others whenever it is read (``torch.nn.utils.parametrize``).

A module with a parametrized ``weight`` changes its class to one with a property of that name; what the property computes
from stands in ``module.parametrizations.weight``.
"""

from __future__ import annotations

import weakref
from typing import Any

from objnet.core import scope
from objnet.core.arrays import as_array
from objnet.core.variable import Parameter
from objnet.nn.module import Module
from objnet.nn.modules.container import ModuleDict
from objnet.nn.utils._parametrization_list import ParametrizationList, cell_of, check_kept, invert, originals, register
from objnet.nn.utils._parametrized_class import cached, set_properties

__all__ = [
    "ParametrizationList",
    "cached",
    "is_parametrized",
    "register_parametrization",
    "remove_parametrizations",
    "transfer_parametrizations_and_params",
    "type_before_parametrizations",
]


def register_parametrization(module: Module, tensor_name: str, parametrization: Module, *, unsafe: bool = False) -> Module:
    """Compute a parameter or buffer of ``module`` by ``parametrization(original)`` from now on (torch).

    Args:
        tensor_name: the parameter or buffer; one already parametrized goes through this parametrization too.
        parametrization: a module from an array to an array. If it has a method ``right_inverse``, that says from what the
            present value, and values assigned later, are computed; it may give several arrays for ``forward`` to take.
        unsafe: whether shape and dtype may change, which is not checked then.

    Returns:
        ``module``, now of a class ``ParametrizedLinear`` for a ``Linear``.

    Raises:
        ValueError: there is no such parameter or buffer, or the parametrization does not fit it.
    """
    parametrization.train(module.training)
    with scope.entered(scope.BUILD):
        if is_parametrized(module, tensor_name):
            held = module.parametrizations[tensor_name]  # type: ignore[index]
            if not unsafe:
                _check_on_top(module, tensor_name, parametrization)
            held.append(parametrization)
            held.unsafe |= unsafe
        elif tensor_name in module._parameters or tensor_name in module._buffers:
            original = cell_of(module, tensor_name)
            if original is None:
                raise AttributeError(f"{tensor_name} of {type(module).__name__} is None: there is nothing to parametrize")
            held = ParametrizationList([parametrization], original, unsafe=unsafe)
            kind, names = type_before_parametrizations(module), _names(module)
            delattr(module, tensor_name)
            if held.is_tensor:
                original._home = (weakref.ref(held), "original")
            if not names:
                module.parametrizations = ModuleDict()
            set_properties(module, kind, [*names, tensor_name])
            module.parametrizations[tensor_name] = held  # type: ignore[index,operator]
        else:
            raise ValueError(
                f"Module '{module}' does not have a parameter, a buffer, or a parametrized element with name '{tensor_name}'"
            )
    return module


def _check_on_top(module: Module, name: str, parametrization: Any) -> None:
    """Check a further parametrization against the value it is given."""
    with scope.entered(scope.FORWARD, module):
        old = getattr(module, name)
    new = parametrization(old)
    check_kept(
        "Registering a parametrization may not change the {what} of the tensor, unless the `unsafe` flag is enabled.\n"
        f"module.{name}.{{what}}: {{old}}\nparametrization(module.{name}).{{what}}: {{new}}",
        "A parametrization must return a tensor.",
        new,
        old,
    )
    if hasattr(parametrization, "right_inverse"):
        try:
            inverse = invert(parametrization, new)
        except NotImplementedError:
            return
        check_kept(
            f"The tensor returned by parametrization.right_inverse must have the same {{what}} as module.{name}, unless the "
            f"`unsafe` flag is enabled.\nmodule.{name}.{{what}}: {{old}}\nreturned {{what}}: {{new}}",
            "parametrization.right_inverse must return a tensor.",
            inverse,
            old,
        )


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether ``module`` has a parametrization on that name, or on any."""
    held = getattr(module, "parametrizations", None)
    if not isinstance(held, ModuleDict):
        return False
    return len(held) > 0 if tensor_name is None else tensor_name in held


def remove_parametrizations(module: Module, tensor_name: str, leave_parametrized: bool = True) -> Module:
    """Make a parametrized tensor an ordinary one again; returns ``module``.

    Args:
        leave_parametrized: whether it keeps its present value, rather than the original's.

    Raises:
        ValueError: it is not parametrized, or has several originals and is not to keep its value.
    """
    if not is_parametrized(module, tensor_name):
        raise ValueError(f"Module {module} does not have a parametrization on {tensor_name}")
    held = module.parametrizations[tensor_name]  # type: ignore[index]
    with scope.entered(scope.BUILD):
        if held.is_tensor:
            original = cell_of(held, "original")
            if leave_parametrized:
                original._set(as_array(getattr(module, tensor_name)))
        elif leave_parametrized:
            trained = any(isinstance(c, Parameter) and c.requires_grad for c in originals(held).values())
            original = getattr(module, tensor_name)
            original = Parameter(original) if trained else original
        else:
            raise ValueError(
                "Cannot leave unparametrized (`leave_parametrized=False`) a tensor that is parametrized in terms of a sequence of "
                "tensors."
            )
        kind, names = type_before_parametrizations(module), [n for n in _names(module) if n != tensor_name]
        del module.parametrizations[tensor_name]  # type: ignore[attr-defined]
        set_properties(module, kind, names)
        if not names:
            del module.parametrizations
        if held.is_tensor:
            original._home = None  # it goes by its old name again
        register(module, tensor_name, original)
    return module


def type_before_parametrizations(module: Module) -> type:
    """The class of ``module`` as it was made."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def transfer_parametrizations_and_params(from_module: Module, to_module: Module, tensor_name: str | None = None) -> Module:
    """Register the parametrizations of one module on another, which shares the originals then; returns ``to_module``.

    Args:
        tensor_name: the parameter to transfer, by default all parametrized ones; made if ``to_module`` has none.
    """
    if not is_parametrized(from_module):
        return to_module
    for name in list(_names(from_module)) if tensor_name is None else [tensor_name]:
        held = from_module.parametrizations[name]  # type: ignore[index]
        if not hasattr(to_module, name):
            setattr(to_module, name, Parameter(getattr(from_module, name)))
        for parametrization in held:
            register_parametrization(to_module, name, parametrization)
        for original, cell in originals(held).items():
            setattr(to_module.parametrizations[name], original, cell)  # type: ignore[index]
    return to_module


# -- helpers -----------------------------------------------------------------------------------------------------------


def _names(module: Any) -> tuple[str, ...]:
    return tuple(module.parametrizations) if is_parametrized(module) else ()

"""``LazyModuleMixin``: modules that find the shapes of their parameters in their first input."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import jax
import numpy as np

from objnet.core import epoch, scope
from objnet.core.variable import Variable
from objnet.nn.parameter import is_lazy

__all__ = ["LazyModuleMixin"]


class LazyModuleMixin:
    """Makes a module lazy (torch's class of that name); it stands before the module class among the bases.

    The constructor registers :class:`UninitializedParameter` and :class:`UninitializedBuffer`, and ``initialize_parameters``,
    given what the first call is given, calls ``materialize`` on them and sets their first values. After that the module
    is an ordinary one, of the class ``cls_to_become`` if there is one. A state dict with values initialises the parameters too.

    The first call runs eagerly, or in the function that built the module (a pure function's ``init`` and ``apply`` among them).
    Inside a transform that is younger than the module it raises :class:`objnet.errors.UninitializedError`.

    Attributes:
        cls_to_become: the class of the initialised module.
    """

    cls_to_become: ClassVar[type[Any] | None] = None
    _parameters: dict[str, Any]
    _buffers: dict[str, Any]
    _non_persistent_buffers_set: set[str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._initialize_hook = self.register_forward_pre_hook(self._infer_parameters, with_kwargs=True)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        # there is no array to give for it, so that it is given itself in a forward too
        for registry in ("_parameters", "_buffers"):
            variable = self.__dict__.get(registry, {}).get(name)
            if is_lazy(variable):
                return variable
        return super().__getattr__(name)  # type: ignore[misc]

    # -- the first call ------------------------------------------------------------------------------------------------

    def initialize_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Materialise and initialise the parameters, from the arguments of the first call; every lazy module defines it.

        Raises:
            NotImplementedError: the class does not.
        """
        raise NotImplementedError(f"initialize_parameters is not implemented for {type(self).__name__}")

    def has_uninitialized_params(self) -> bool:
        """Whether a parameter or buffer has no value yet."""
        return any(is_lazy(variable) for _, variable in self._held())

    def _held(self) -> Iterator[tuple[str, Variable]]:
        return itertools.chain(self._parameters.items(), self._buffers.items())

    def _infer_parameters(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> None:
        """The hook before the first forward: initialise, and become an ordinary module."""
        placed = [(v, v._blank.device) for _, v in self._held() if is_lazy(v) and v._blank.device is not None]  # type: ignore[attr-defined]
        reset = scope.enter(scope.BUILD, module)  # what runs here belongs to the constructor, only later
        try:
            module.initialize_parameters(*args, **(kwargs or {}))
            for variable, device in placed:  # initial values are drawn where jax puts them
                variable.apply_(partial(jax.device_put, device=device))
        finally:
            scope.reset(reset)
        if module.has_uninitialized_params():
            raise RuntimeError(f"module {self._get_name()} has not been fully initialized")  # type: ignore[attr-defined]
        # Written past the frames: it follows from shapes that are fixed, so it may as well be found out while tracing.
        module.__dict__.pop("_initialize_hook").remove()
        if module.cls_to_become is not None:
            object.__setattr__(module, "__class__", module.cls_to_become)
        epoch.advance()

    # -- state dicts ---------------------------------------------------------------------------------------------------

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """What has no value yet is saved as it is."""
        for name, variable in self._held():
            if variable is not None and name not in self._non_persistent_buffers_set:
                destination[prefix + name] = variable if keep_vars or is_lazy(variable) else variable._read()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, variable in self._held():
            given = state_dict.get(prefix + name)
            if is_lazy(variable) and given is not None and not is_lazy(given):
                variable.materialize(np.shape(given) if not hasattr(given, "shape") else tuple(given.shape))  # type: ignore[attr-defined]
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[misc]

    def _load_entry(self, key: str, name: str, target: Any, given: Any, *args: Any) -> None:
        if not (is_lazy(given) and is_lazy(target)):
            super()._load_entry(key, name, target, given, *args)  # type: ignore[misc]


def materialize(module: LazyModuleMixin, **shapes: tuple[int, ...]) -> None:
    """Give the parameters and buffers of these names their shapes; those the module does not have are left out.

    Raises:
        AssertionError: one has a value already, which initialising the others would overwrite.
    """
    held = {**module._parameters, **module._buffers}
    wanted = {name: shape for name, shape in shapes.items() if held.get(name) is not None}
    for name in wanted:
        if not is_lazy(held[name]):
            raise AssertionError(
                f"self.{name} must be uninitialised: a state dict with some of the entries of {type(module).__name__} was loaded; load "
                "all of them, or none before the first call"
            )
    for name, shape in wanted.items():
        held[name].materialize(shape)

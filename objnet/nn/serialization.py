"""``state_dict`` and ``load_state_dict`` with torch's keys, hooks, messages and versions."""

from __future__ import annotations

import itertools
import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Mapping
from typing import Any

import numpy as np

from objnet.core import scope
from objnet.core.foreign import to_host_or_jax
from objnet.core.mapped import LazyMapping, MappedArray
from objnet.core.placement import committed_sharding
from objnet.core.variable import UNSET, Buffer, Parameter
from objnet.nn.loading import cast, fits_exactly

EXTRA_STATE = "_extra_state"


class _IncompatibleKeys(namedtuple("IncompatibleKeys", ["missing_keys", "unexpected_keys"])):
    __slots__ = ()

    def __repr__(self) -> str:
        return "<All keys matched successfully>" if not self.missing_keys and not self.unexpected_keys else super().__repr__()

    __str__ = __repr__


class Serialization:
    """torch's state-dict protocol."""

    __slots__ = ()
    _version = 1
    _modules: dict[str, Any]
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Buffer | None]

    # -- saving --------------------------------------------------------------------------------------------------------

    def get_extra_state(self) -> Any:
        """What else to save with this module; override together with :meth:`set_extra_state`."""
        raise RuntimeError(
            "Reached a code path in Module.get_extra_state() that should never be called. Override it to save extra state."
        )

    def set_extra_state(self, state: Any) -> None:
        """Take back what :meth:`get_extra_state` gave."""
        raise RuntimeError(
            "Reached a code path in Module.set_extra_state() that should never be called. Override it to load extra state."
        )

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Put this module's own entries, not its children's, into ``destination``."""
        for name, parameter in self._parameters.items():
            if parameter is not None:
                destination[prefix + name] = parameter if keep_vars else _value(parameter)
        for name, buffer in self._buffers.items():
            if buffer is not None and name not in self._non_persistent_buffers_set:  # type: ignore[attr-defined]
                destination[prefix + name] = buffer if keep_vars else _value(buffer)
        if type(self).get_extra_state is not Serialization.get_extra_state:
            destination[prefix + EXTRA_STATE] = self.get_extra_state()

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Ordered dict from torch's keys to arrays: parameters and persistent buffers of the whole tree.

        Args:
            destination: the dict to fill; prefix: put before every key; keep_vars: give Variables, not arrays.
        """
        if args:
            warnings.warn("state_dict takes keyword arguments: positional ones are deprecated", FutureWarning, stacklevel=2)
            destination = args[0] if destination is None else destination
            prefix = args[1] if len(args) > 1 and prefix == "" else prefix
            keep_vars = args[2] if len(args) > 2 and keep_vars is False else keep_vars
        if destination is None:
            destination = OrderedDict()
            destination._metadata = OrderedDict()
        local = {"version": self._version}
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]] = local
        for hook in self._state_dict_pre_hooks.values():  # type: ignore[attr-defined]
            hook(self, prefix, keep_vars)
        self._save_to_state_dict(destination, prefix, keep_vars)
        for name, module in self._modules.items():
            if module is not None:
                module.state_dict(destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        for hook in self._state_dict_hooks.values():  # type: ignore[attr-defined]
            result = hook(self, destination, prefix, local)
            if not getattr(hook, "_from_public_api", False):
                destination = result if result is not None else destination
            elif result is not None:
                raise RuntimeError("state_dict post-hook must return None")
        return destination

    # -- loading -------------------------------------------------------------------------------------------------------

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take this module's own entries from ``state_dict``; override to read older layouts (see ``_version``)."""
        for hook in self._load_state_dict_pre_hooks.values():  # type: ignore[attr-defined]
            hook(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        skip = self._non_persistent_buffers_set  # type: ignore[attr-defined]
        buffers = ((k, v) for k, v in self._buffers.items() if k not in skip)
        mine = {k: v for k, v in itertools.chain(self._parameters.items(), buffers) if v is not None}
        assign = local_metadata.get("assign_to_params_buffers", False)
        for name, target in mine.items():
            key = prefix + name
            if key not in state_dict:
                if strict:
                    missing_keys.append(key)
                continue
            self._load_entry(key, name, target, state_dict[key], assign, error_msgs)
        extra = prefix + EXTRA_STATE
        if type(self).set_extra_state is not Serialization.set_extra_state:
            if extra in state_dict:
                self.set_extra_state(state_dict[extra])
            elif strict:
                missing_keys.append(extra)
        elif strict and extra in state_dict:
            unexpected_keys.append(extra)
        if strict:
            for key in state_dict:
                if key.startswith(prefix) and key != extra:
                    head, *rest = key[len(prefix) :].split(".", 1)
                    known = head in (self._modules if rest else mine)
                    if not known:
                        unexpected_keys.append(key)

    def _load_entry(
        self, key: str, name: str, target: Parameter | Buffer, given: Any, assign: bool, error_msgs: list[str]
    ) -> None:
        try:
            value = to_host_or_jax(given)
        except TypeError:
            error_msgs.append(
                f'While copying the parameter named "{key}", expected torch.Tensor or Tensor-like object from checkpoint '
                f"but received {type(given)}"
            )
            return
        unset = target._peek() is UNSET and target.expected is None
        if not unset and target.ndim == 0 and value.shape == (1,):
            value = value[0]  # checkpoints of torch 0.3 held scalars as vectors
        if not unset and tuple(value.shape) != tuple(target.shape):
            error_msgs.append(
                f"size mismatch for {key}: copying a param with shape torch.Size({list(value.shape)}) from checkpoint, "
                f"the shape in current model is torch.Size({list(target.shape)})."
            )
            return
        try:
            with np.errstate(over="raise"):
                array = cast(value, value.dtype if assign or unset else target.dtype, committed_sharding(target))
        except (FloatingPointError, OverflowError) as error:
            error_msgs.append(f'While copying the parameter named "{key}", an exception occurred : {error}.')
            return
        finally:
            if isinstance(given, MappedArray):
                given.release()
        if assign and isinstance(given, Parameter):
            setattr(self, name, given)
        else:
            getattr(target, "become", target._set)(array)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> _IncompatibleKeys:
        """Copy the arrays of ``state_dict`` into this module and its descendants; torch tensors are taken as they are.

        Arrays of host memory go to the devices that the value they replace was put on. Of ``objnet.io.open_folder(path)`` one array
        at a time is read; where its keys and shapes are the model's, old values are let go of one by one, so that only an
        interruption (Ctrl-C, a failing disk) leaves some new and some old.

        Args:
            state_dict: torch's keys to jax, numpy or torch arrays of any dtype; values are cast as torch's ``copy_`` does.
            strict: whether missing and unexpected keys are an error.
            assign: whether dtypes are taken over from ``state_dict`` too.

        Returns:
            ``missing_keys`` and ``unexpected_keys``.

        Raises:
            TypeError: if ``state_dict`` is no mapping.
            RuntimeError: listing every missing or unexpected key and every wrong shape; nothing has changed then.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        missing: list[str] = []
        unexpected: list[str] = []
        messages: list[str] = []
        metadata = getattr(state_dict, "_metadata", None)
        entries: OrderedDict[str, Any] = OrderedDict(state_dict)
        if metadata is not None:
            entries._metadata = metadata  # type: ignore[attr-defined]
        fits = isinstance(state_dict, LazyMapping) and fits_exactly(self, state_dict, strict)
        restorers = [
            v.restorer()
            for m in self.modules()
            for v in (*m._parameters.values(), *m._buffers.values())
            if v is not None and not fits  # type: ignore[attr-defined]
        ]

        def load(module: Any, local: dict[str, Any], prefix: str) -> None:
            local_metadata = {} if metadata is None else metadata.get(prefix[:-1], {})
            if assign:
                local_metadata = {**local_metadata, "assign_to_params_buffers": True}
            module._load_from_state_dict(local, prefix, local_metadata, True, missing, unexpected, messages)
            for name, child in module._modules.items():
                if child is not None:
                    child_prefix = f"{prefix}{name}."
                    load(child, {k: v for k, v in local.items() if k.startswith(child_prefix)}, child_prefix)
            incompatible = _IncompatibleKeys(missing, unexpected)
            for hook in module._load_state_dict_post_hooks.values():
                if hook(module, incompatible) is not None:
                    raise AssertionError(
                        "Hooks registered with ``register_load_state_dict_post_hook`` are not expected to return new values, "
                        "if incompatible_keys need to be modified, it should be done inplace."
                    )

        reset = scope.enter(scope.BUILD, self)  # in a pure function these are first values, as a constructor's are
        try:
            load(self, entries, "")
            if strict:
                if unexpected:
                    messages.insert(0, f"Unexpected key(s) in state_dict: {_quoted(unexpected)}. ")
                if missing:
                    messages.insert(0, f"Missing key(s) in state_dict: {_quoted(missing)}. ")
            if messages:
                raise RuntimeError(
                    "Error(s) in loading state_dict for {}:\n\t{}".format(type(self).__name__, "\n\t".join(messages))
                )
        except BaseException:
            for restore in restorers:
                restore()
            raise
        finally:
            scope.reset(reset)
        return _IncompatibleKeys(missing, unexpected)

    # -- hooks ---------------------------------------------------------------------------------------------------------

    def register_state_dict_post_hook(self, hook: Any) -> Any:
        """Run ``hook(module, state_dict, prefix, local_metadata)`` after ``state_dict``."""
        hook._from_public_api = True
        return self._register("_state_dict_hooks", hook)  # type: ignore[attr-defined]

    def _register_state_dict_hook(self, hook: Any) -> Any:
        return self._register("_state_dict_hooks", hook)  # type: ignore[attr-defined]

    def register_state_dict_pre_hook(self, hook: Any) -> Any:
        """Run ``hook(module, prefix, keep_vars)`` before ``state_dict``."""
        return self._register("_state_dict_pre_hooks", hook)  # type: ignore[attr-defined]

    def _register_load_state_dict_pre_hook(self, hook: Any, with_module: bool = False) -> Any:
        if not with_module:
            return self._register("_load_state_dict_pre_hooks", hook)  # type: ignore[attr-defined]

        def call(*args: Any) -> None:
            hook(self, *args)

        return self._register("_load_state_dict_pre_hooks", call)  # type: ignore[attr-defined]

    def register_load_state_dict_pre_hook(self, hook: Any) -> Any:
        """Run ``hook(module, state_dict, prefix, local_metadata, strict, missing, unexpected, errors)`` before loading."""
        return self._register_load_state_dict_pre_hook(hook, with_module=True)

    def register_load_state_dict_post_hook(self, hook: Any) -> Any:
        """Run ``hook(module, incompatible_keys)`` after loading."""
        return self._register("_load_state_dict_post_hooks", hook)  # type: ignore[attr-defined]


def _value(variable: Any) -> Any:
    """What a state dict holds: the array, or the shape and dtype of one that has yet to be loaded."""
    return variable.expected if variable._peek() is UNSET and variable.expected is not None else variable._read()


def _quoted(keys: list[str]) -> str:
    return ", ".join(f'"{k}"' for k in keys)

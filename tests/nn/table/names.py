"""The public names of torch that the table has rows for, and those of them that have no meaning in JAX."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import torch
import torch.nn.utils.parametrizations as parametrizations
import torch.nn.utils.parametrize as parametrize
import torch.nn.utils.prune as prune
import torch.nn.utils.rnn as rnn
import torch.nn.utils.stateless as stateless

SPACES: dict[str, ModuleType] = {
    "nn": torch.nn,
    "nn.functional": torch.nn.functional,
    "nn.init": torch.nn.init,
    "nn.utils": torch.nn.utils,
    "nn.utils.rnn": rnn,
    "nn.utils.parametrize": parametrize,
    "nn.utils.parametrizations": parametrizations,
    "nn.utils.stateless": stateless,
    "nn.utils.prune": prune,
}

# What torch's modules merely import, or use to dispatch.
_PLUMBING = {
    "nn.functional": {
        "Callable", "BroadcastingList1", "BroadcastingList2", "BroadcastingList3", "DType", "Optional", "TYPE_CHECKING", "Tensor", "Union",
        "boolean_dispatch", "assert_int_or_pair", "handle_torch_function", "has_torch_function", "has_torch_function_unary",
        "has_torch_function_variadic", "importlib", "linear_cross_entropy_batch_chunk_size", "LinearCrossEntropyOptions",
        "ScalingType", "SwizzleType",
    },
    "nn.init": {"Callable", "Literal", "ParamSpec", "Tensor", "TypeVar", "Concatenate"},
    "nn.utils.rnn": {"Any", "Callable", "Iterable", "NamedTuple", "Tensor", "TypeVar", "bind", "copy_method_params", "namedtuple", "PackedSequence_", "overload", "Self"},
    "nn.utils.parametrize": {
        "Module", "ModuleDict", "ModuleList", "Parameter", "OpaqueBase", "Sequence", "Tensor", "contextmanager", "deepcopy",
        "get_swap_module_params_on_conversion", "is_opaque_reference_type", "is_traceable_wrapper_subclass",
    },
    "nn.utils.parametrizations": {"Enum", "Module", "Tensor", "auto"},
    "nn.utils.stateless": {"Any", "NamedMemberAccessor", "Tensor", "deprecated"},
    "nn.utils.prune": {"ABC", "Iterable", "abstractmethod"},
}  # fmt: skip


def public() -> list[str]:
    """Every name, as ``space.name``, in the order of the spaces."""
    return [f"{space}.{name}" for space, module in SPACES.items() for name in _members(space, module)]


def _members(space: str, module: ModuleType) -> list[str]:
    names = []
    for name in sorted(dir(module)):
        value = getattr(module, name)
        if name.startswith("_") or inspect.ismodule(value) or not callable(value) or name in _PLUMBING.get(space, ()):
            continue
        if (getattr(value, "__module__", None) or "torch").partition(".")[0] != "torch":
            continue
        names.append(name)
    return names


def find(name: str, root: Any) -> Any:
    """What ``nn.functional.relu`` names below ``torch`` or ``objnet``.

    Raises:
        AttributeError: nothing.
    """
    value = root
    for part in name.split("."):
        value = getattr(value, part)
    return value


# Names that exist and raise one clear error.
NO_MEANING = {
    "nn.DataParallel",
    "nn.functional.grouped_mm",
    "nn.functional.scaled_mm",
    "nn.functional.scaled_grouped_mm",
    "nn.utils.convert_conv2d_weight_memory_format",
    "nn.utils.convert_conv3d_weight_memory_format",
}

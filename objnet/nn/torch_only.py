"""torch's names that have no meaning in JAX: each is there, and raises one error that says what to use instead.

Classes stay classes, so that ``isinstance(model, nn.DataParallel)`` in a ported script is False rather than an error.
"""

from __future__ import annotations

import types
from typing import Any

from objnet.core import errors

_SHARDING = (
    "JAX runs one program over all devices: give arrays a sharding (jax.sharding.NamedSharding over a jax.make_mesh) and compile with "
    "objnet.jit, or purify the model with objnet.transform_with_state and use jax.pmap or jax.shard_map instead"
)
_QUANTISED = (
    "torch's quantised kernels have no counterpart in JAX: use the float layer of the same name, in bfloat16 (model.bfloat16()) for less memory, "
    "or quantise the arrays yourself instead"
)
_SCALED = "use jax.nn.scaled_matmul or jax.numpy.matmul on dequantised arrays instead"


def refuse(name: str, instead: str) -> errors.TorchOnlyError:
    """The error for a use of ``name``."""
    return errors.TorchOnlyError(f"torch's {name} has no meaning in JAX{errors.where()}: {instead}.")


class DataParallel:
    """Not in JAX: raises (torch's ``nn.DataParallel``)."""

    def __init__(self, module: Any, device_ids: Any = None, output_device: Any = None, dim: int = 0) -> None:
        raise refuse("nn.DataParallel", _SHARDING)


class DistributedDataParallel:
    """Not in JAX: raises (torch's ``nn.parallel.DistributedDataParallel``)."""

    def __init__(self, module: Any, *args: Any, **kwargs: Any) -> None:
        raise refuse("nn.parallel.DistributedDataParallel", _SHARDING)


def grouped_mm(mat_a: Any, mat_b: Any, *, offs: Any = None, bias: Any = None, out_dtype: Any = None) -> Any:
    """A kernel of CUDA's: raises (torch's ``nn.functional.grouped_mm``)."""
    raise refuse("nn.functional.grouped_mm", "use jax.lax.ragged_dot(mat_a, mat_b, group_sizes) instead")


def scaled_mm(
    mat_a: Any,
    mat_b: Any,
    scale_a: Any,
    scale_recipe_a: Any,
    scale_b: Any,
    scale_recipe_b: Any,
    swizzle_a: Any = None,
    swizzle_b: Any = None,
    bias: Any = None,
    output_dtype: Any = "bfloat16",
    contraction_dim: Any = (),
    use_fast_accum: bool = False,
) -> Any:
    """A kernel of CUDA's: raises (torch's ``nn.functional.scaled_mm``)."""
    raise refuse("nn.functional.scaled_mm", _SCALED)


def scaled_grouped_mm(
    mat_a: Any,
    mat_b: Any,
    scale_a: Any,
    scale_recipe_a: Any,
    scale_b: Any,
    scale_recipe_b: Any,
    swizzle_a: Any = None,
    swizzle_b: Any = None,
    bias: Any = None,
    offs: Any = None,
    output_dtype: Any = "bfloat16",
    contraction_dim: Any = (),
    use_fast_accum: bool = False,
) -> Any:
    """A kernel of CUDA's: raises (torch's ``nn.functional.scaled_grouped_mm``)."""
    raise refuse("nn.functional.scaled_grouped_mm", _SCALED)


class _TorchOnlyModule(types.ModuleType):
    """A subpackage whose every name raises."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise refuse(f"{self.__name__.removeprefix('objnet.')}.{name}", _QUANTISED)


quantized = _TorchOnlyModule("objnet.nn.quantized", "torch's quantised layers: every name raises.")
quantizable = _TorchOnlyModule("objnet.nn.quantizable", "torch's quantisable layers: every name raises.")
qat = _TorchOnlyModule("objnet.nn.qat", "torch's layers for quantisation-aware training: every name raises.")
intrinsic = _TorchOnlyModule("objnet.nn.intrinsic", "torch's fused layers for quantisation: every name raises.")


class TorchOnlyMethods:
    """Methods of torch's modules that have no meaning in JAX; each raises."""

    __slots__ = ()

    def compile(self, *args: Any, **kwargs: Any) -> Any:
        """Raises: a model is compiled by ``objnet.jit(model)``."""
        raise refuse("Module.compile", "use objnet.jit(model), or compile the whole training step with @objnet.jit, instead")

    def share_memory(self) -> Any:
        """Raises: arrays of JAX cannot lie in memory that processes share."""
        raise refuse("Module.share_memory", "use threads, or one process a host with jax.distributed.initialize, instead")

    def to_empty(self, *, device: Any, recurse: bool = True) -> Any:
        """Raises: arrays always have values."""
        raise refuse("Module.to_empty", "use model.to(device), and load_state_dict for the values, instead")

    def xpu(self, device: Any = None) -> Any:
        """Raises: JAX has no such platform."""
        raise refuse("Module.xpu", 'use model.to("gpu"), model.to("tpu") or model.to(device of jax.devices()) instead')

    ipu = mtia = xpu

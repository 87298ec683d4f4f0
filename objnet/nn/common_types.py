"""Types of arguments that are one value for all dimensions or one for each, under torch's names (``torch.nn.common_types``)."""

from __future__ import annotations

from typing import TypeAlias

import jax

from objnet.nn.modules._sizes import Size1 as _size_1_t
from objnet.nn.modules._sizes import Size2 as _size_2_t
from objnet.nn.modules._sizes import Size3 as _size_3_t
from objnet.nn.modules._sizes import Size4 as _size_4_t
from objnet.nn.modules._sizes import Size6 as _size_6_t
from objnet.nn.modules._sizes import SizeAny as _size_any_t
from objnet.nn.modules._sizes import SizeAnyOpt as _size_any_opt_t

__all__ = [
    "_maybe_indices_t",
    "_ratio_2_t",
    "_ratio_3_t",
    "_ratio_any_t",
    "_size_1_t",
    "_size_2_opt_t",
    "_size_2_t",
    "_size_3_opt_t",
    "_size_3_t",
    "_size_4_t",
    "_size_5_t",
    "_size_6_t",
    "_size_any_opt_t",
    "_size_any_t",
    "_tensor_list_t",
]

_size_5_t: TypeAlias = int | tuple[int, int, int, int, int]
_size_2_opt_t: TypeAlias = int | tuple[int | None, int | None] | None
_size_3_opt_t: TypeAlias = int | tuple[int | None, int | None, int | None] | None

_ratio_any_t: TypeAlias = float | tuple[float, ...]
_ratio_2_t: TypeAlias = float | tuple[float, float]
_ratio_3_t: TypeAlias = float | tuple[float, float, float]

_tensor_list_t: TypeAlias = jax.Array | tuple[jax.Array, ...]
_maybe_indices_t: TypeAlias = jax.Array | tuple[jax.Array, jax.Array]

"""The Tensor methods that torch code uses on parameters, given to Parameter, Buffer and their views.

Operators give jax arrays; methods ending in an underscore write in place and return their target; ``data`` and indexing give
writable views.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core.arrays import as_array
from objnet.core.reductions import Reductions


def _number_like(target: Any, value: Any) -> jax.Array:
    """``value`` in the dtype of ``target``, as torch's in-place methods cast their operand."""
    return as_array(value).astype(target.dtype)


class TensorMethods(Reductions):
    """Operators, queries and in-place methods over ``_read()`` and ``_set(value)``."""

    __slots__ = ()
    __array_priority__ = 200

    if TYPE_CHECKING:

        def _read(self) -> Any: ...

        def _set(self, value: Any) -> None: ...

    def _owner(self) -> Any:
        """The Variable that holds the value."""
        return self

    # -- being an array ------------------------------------------------------------------------------------------------

    def __jax_array__(self) -> jax.Array:
        return self._read()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._read(), dtype=dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self._read().shape

    @property
    def dtype(self) -> Any:
        """The numpy dtype."""
        return self._read().dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._read().ndim

    @property
    def data(self) -> View:
        """A writable view of the whole, as torch's ``.data``; assigning replaces the value, shape and dtype included."""
        return View(self, ())

    @data.setter
    def data(self, value: Any) -> None:
        self._set(as_array(value))

    @property
    def T(self) -> jax.Array:
        return self._read().T

    @property
    def mT(self) -> jax.Array:
        return self._read().mT

    @property
    def is_leaf(self) -> bool:
        return True

    @property
    def device(self) -> Any:
        return self._read().device

    def __len__(self) -> int:
        return len(self._read())

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> View:
        return View(self, (index,))

    def __setitem__(self, index: Any, value: Any) -> None:
        View(self, (index,)).copy_(value)

    def __bool__(self) -> bool:
        return bool(self._read())

    def __float__(self) -> float:
        return float(self._read())

    def __int__(self) -> int:
        return int(self._read())

    def __hash__(self) -> int:
        return id(self)

    def __format__(self, spec: str) -> str:
        return format(self._read(), spec) if spec else str(self)

    def __getattr__(self, name: str) -> Any:
        # What jax.Array has and this class does not spell out: mean, sum, reshape, astype, at, ...
        if name.startswith("_") or name.endswith("_") or name in _NOT_FORWARDED:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._read(), name)

    # -- torch's queries -----------------------------------------------------------------------------------------------

    def size(self, dim: int | None = None) -> Any:
        shape = self.shape
        return shape if dim is None else shape[dim]

    def dim(self) -> int:
        return self.ndim

    def numel(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    nelement = numel

    def element_size(self) -> int:
        return self.dtype.itemsize

    def stride(self, dim: int | None = None) -> Any:
        strides = tuple(int(np.prod(self.shape[i + 1 :], dtype=np.int64)) for i in range(self.ndim))
        return strides if dim is None else strides[dim]

    def is_floating_point(self) -> bool:
        return bool(jnp.issubdtype(self.dtype, jnp.floating))

    def is_complex(self) -> bool:
        return bool(jnp.issubdtype(self.dtype, jnp.complexfloating))

    def is_contiguous(self, *_: Any, **__: Any) -> bool:
        return True

    def contiguous(self, *_: Any, **__: Any) -> Any:
        return self

    def t(self) -> jax.Array:
        if self.ndim > 2:
            raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {self.ndim}D")
        return self._read().T

    def permute(self, *dims: Any) -> jax.Array:
        return jnp.transpose(self._read(), dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims)

    def transpose(self, dim0: int, dim1: int) -> jax.Array:
        return jnp.swapaxes(self._read(), dim0, dim1)

    def view(self, *shape: Any) -> jax.Array:
        return jnp.reshape(self._read(), shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def unsqueeze(self, dim: int) -> jax.Array:
        return jnp.expand_dims(self._read(), dim)

    def norm(self, p: Any = 2, dim: Any = None, keepdim: bool = False) -> jax.Array:
        value = self._read()
        if p == "fro":
            p = 2
        if dim is None:
            value, dim = value.ravel(), 0
        return jnp.linalg.norm(value, ord=p, axis=dim, keepdims=keepdim)

    def pow(self, exponent: Any) -> jax.Array:
        return self._read() ** exponent

    def abs(self) -> jax.Array:
        return jnp.abs(self._read())

    def sqrt(self) -> jax.Array:
        return jnp.sqrt(self._read())

    def exp(self) -> jax.Array:
        return jnp.exp(self._read())

    def detach(self) -> jax.Array:
        return jax.lax.stop_gradient(self._read())

    def clone(self) -> jax.Array:
        return jnp.copy(self._read())

    def cpu(self) -> jax.Array:
        return jax.device_put(self._read(), jax.devices("cpu")[0])

    def numpy(self) -> np.ndarray:
        return np.asarray(self._read())

    def tolist(self) -> Any:
        return np.asarray(self._read()).tolist()

    def item(self) -> Any:
        return self._read().item()

    def to(self, dtype: Any) -> jax.Array:
        return self._read().astype(dtype)

    def float(self) -> jax.Array:
        return self._read().astype(jnp.float32)

    def type_as(self, other: Any) -> jax.Array:
        return self._read().astype(other.dtype)

    def new_zeros(self, *size: Any, dtype: Any = None) -> jax.Array:
        return jnp.zeros(_size(size), dtype or self.dtype)

    def new_ones(self, *size: Any, dtype: Any = None) -> jax.Array:
        return jnp.ones(_size(size), dtype or self.dtype)

    def new_full(self, size: Any, fill_value: Any, dtype: Any = None) -> jax.Array:
        return jnp.full(size, fill_value, dtype or self.dtype)

    def new_empty(self, *size: Any, dtype: Any = None) -> jax.Array:
        return jnp.zeros(_size(size), dtype or self.dtype)

    # -- torch's in-place methods --------------------------------------------------------------------------------------

    def _update(self, value: Any) -> Any:
        """Replace the value by one that must have this shape; it is cast to this dtype, as torch's in-place methods do."""
        shape = self.shape
        if value.shape != shape:
            raise RuntimeError(f"output with shape {list(shape)} doesn't match the broadcast shape {list(value.shape)}")
        self._set(value.astype(self.dtype))
        return self

    def copy_(self, src: Any, non_blocking: bool = False) -> Any:
        src = as_array(src)
        try:
            value = jnp.broadcast_to(src, self.shape)
        except ValueError:
            raise RuntimeError(
                f"The size of tensor a {list(self.shape)} must match the size of tensor b {list(src.shape)}"
            ) from None
        return self._update(value)

    def fill_(self, value: Any) -> Any:
        value = _number_like(self, value)
        if value.ndim:
            raise RuntimeError(f"fill_ only supports 0-dimension value tensor but got tensor with {value.ndim} dimensions.")
        return self._update(jnp.broadcast_to(value, self.shape))

    def zero_(self) -> Any:
        return self._update(jnp.zeros(self.shape, self.dtype))

    def add_(self, other: Any, *, alpha: Any = 1) -> Any:
        return self._update(self._read() + _number_like(self, other) * _number_like(self, alpha))

    def sub_(self, other: Any, *, alpha: Any = 1) -> Any:
        return self._update(self._read() - _number_like(self, other) * _number_like(self, alpha))

    def mul_(self, other: Any) -> Any:
        return self._update(self._read() * _number_like(self, other))

    def div_(self, other: Any) -> Any:
        return self._update(self._read() / _number_like(self, other))

    def pow_(self, exponent: Any) -> Any:
        return self._update(self._read() ** exponent)

    def lerp_(self, end: Any, weight: Any) -> Any:
        start = self._read()
        return self._update(start + _number_like(self, weight) * (_number_like(self, end) - start))

    def addcmul_(self, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
        product = _number_like(self, tensor1) * _number_like(self, tensor2)
        return self._update(self._read() + _number_like(self, value) * product)

    def addcdiv_(self, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
        quotient = _number_like(self, tensor1) / _number_like(self, tensor2)
        return self._update(self._read() + _number_like(self, value) * quotient)

    def clamp_(self, min: Any = None, max: Any = None) -> Any:
        return self._update(jnp.clip(self._read(), min, max))

    def neg_(self) -> Any:
        return self._update(-self._read())

    def sqrt_(self) -> Any:
        return self._update(jnp.sqrt(self._read()))

    def masked_fill_(self, mask: Any, value: Any) -> Any:
        return self._update(jnp.where(as_array(mask), _number_like(self, value), self._read()))

    def uniform_(self, from_: Any = 0.0, to: Any = 1.0, *, generator: Any = None) -> Any:
        from objnet.core.random import fill

        return fill(self, "uniform", (from_, to), generator)

    def normal_(self, mean: Any = 0.0, std: Any = 1.0, *, generator: Any = None) -> Any:
        from objnet.core.random import fill

        return fill(self, "normal", (mean, std), generator)

    def bernoulli_(self, p: Any = 0.5, *, generator: Any = None) -> Any:
        from objnet.core.random import fill

        return fill(self, "bernoulli", (p,), generator)


_NOT_FORWARDED = {"requires_grad", "grad", "persistent", "backward", "data", "consumed"}


def _size(size: tuple[Any, ...]) -> Any:
    return size[0] if len(size) == 1 and not isinstance(size[0], int) else size


class View(TensorMethods):
    """A writable part of a Parameter: what ``p.data`` and ``p[index]`` give."""

    __slots__ = ("_base", "_index")

    def __init__(self, base: TensorMethods, index: tuple[Any, ...]):
        self._base = base
        self._index = index  # () is the whole; otherwise one index into the base

    def _read(self) -> Any:
        value = self._base._read()
        return value[_plain(self._index[0])] if self._index else value

    def _set(self, value: Any) -> None:
        value = as_array(value)
        if not self._index:
            self._base._set(value)
            return
        whole = self._base._read()
        self._base._set(whole.at[_plain(self._index[0])].set(value.astype(whole.dtype)))

    def _owner(self) -> Any:
        return self._base._owner()

    def __repr__(self) -> str:
        return repr(self._read())


def _plain(index: Any) -> Any:
    """An index with Parameters and views in it replaced by their arrays."""
    if isinstance(index, tuple):
        return tuple(_plain(i) for i in index)
    return index._read() if isinstance(index, TensorMethods) else index


def _unary(op: Any) -> Any:
    return lambda self: op(self._read())


def _binary(op: Any) -> Any:
    def forward(self: Any, other: Any) -> Any:
        return op(self._read(), other._read() if isinstance(other, TensorMethods) else other)

    return forward


def _reflected(op: Any) -> Any:
    def backward(self: Any, other: Any) -> Any:
        return op(other._read() if isinstance(other, TensorMethods) else other, self._read())

    return backward


def _inplace(method: str) -> Any:
    def update(self: Any, other: Any) -> Any:
        return getattr(self, method)(other)

    return update


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    _op = getattr(operator, _name)
    setattr(TensorMethods, f"__{_name}__", _binary(_op))
    setattr(TensorMethods, f"__r{_name}__", _reflected(_op))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(TensorMethods, f"__{_name}__", _binary(getattr(operator, _name)))
for _name in ("neg", "pos", "abs"):
    setattr(TensorMethods, f"__{_name}__", _unary(getattr(operator, _name)))
for _name, _method in {"add": "add_", "sub": "sub_", "mul": "mul_", "truediv": "div_", "pow": "pow_"}.items():
    setattr(TensorMethods, f"__i{_name}__", _inplace(_method))

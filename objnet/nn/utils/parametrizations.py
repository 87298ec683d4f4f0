"""Ready-made parametrizations: weight normalisation, spectral normalisation, orthogonal weights (``torch.nn.utils``)."""

from __future__ import annotations

from typing import Any

import jax

from objnet.core import scope
from objnet.nn.module import Module
from objnet.nn.utils import parametrize
from objnet.nn.utils._normalised import (
    as_matrix,
    norm_except,
    power_method,
    random_unit,
    spectral_norm_of,
    unit,
    weight_normalised,
)
from objnet.nn.utils._orthogonal import MAPS, _Orthogonal
from objnet.nn.utils.spectral_norm import output_dim

__all__ = ["orthogonal", "spectral_norm", "weight_norm"]


class _WeightNorm(Module):
    """A magnitude ``original0`` and a direction ``original1``."""

    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: jax.Array, weight_v: jax.Array) -> jax.Array:
        return weight_normalised(weight_v, weight_g, self.dim)

    def right_inverse(self, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        return norm_except(weight, self.dim), weight


def weight_norm(module: Module, name: str = "weight", dim: int = 0) -> Module:
    """Split a parameter into its magnitude and its direction (torch; Salimans and Kingma, 2016).

    They are ``parametrizations.weight.original0`` and ``original1``; a state dict of the older form, ``weight_g`` and
    ``weight_v``, loads as well.

    Args:
        module: changed in place, and returned.
        name: the parameter.
        dim: the magnitude has one entry for each index along it; None takes one for all.

    Raises:
        ValueError: there is no such parameter. IndexError: no such dimension.
    """

    def rename(state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        old = [f"{prefix}{name}_g", f"{prefix}{name}_v"]
        if all(key in state_dict for key in old):
            for i, key in enumerate(old):
                state_dict[f"{prefix}parametrizations.{name}.original{i}"] = state_dict.pop(key)

    parametrize.register_parametrization(module, name, _WeightNorm(dim), unsafe=True)
    module._register_load_state_dict_pre_hook(rename)
    return module


class _SpectralNorm(Module):
    """The weight divided by an estimate of its largest singular value, whose vectors ``_u`` and ``_v`` are buffers."""

    _u: Any
    _v: Any

    def __init__(self, weight: jax.Array, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12) -> None:
        super().__init__()
        ndim = weight.ndim
        if dim >= ndim or dim < -ndim:
            raise IndexError(f"Dimension out of range (expected to be in range of [-{ndim}, {ndim - 1}] but got {dim})")
        if n_power_iterations <= 0:
            raise ValueError(f"Expected n_power_iterations to be positive, but got n_power_iterations={n_power_iterations}")
        self.dim = dim % ndim
        self.eps = eps
        if ndim > 1:  # a vector's singular value is its norm
            self.n_power_iterations = n_power_iterations
            matrix = as_matrix(weight, self.dim)
            self.register_buffer("_u", random_unit(matrix.shape[0], weight.dtype, eps))
            self.register_buffer("_v", random_unit(matrix.shape[1], weight.dtype, eps))
            self._advance(matrix, 15)

    def _advance(self, matrix: jax.Array, steps: int) -> None:
        self._u, self._v = power_method(matrix, self._u, self._v, steps=steps, eps=self.eps, left_first=True)

    def forward(self, weight: jax.Array) -> jax.Array:
        if weight.ndim == 1:
            return unit(weight, self.eps)
        matrix = as_matrix(weight, self.dim)
        if self.training:
            self._advance(matrix, self.n_power_iterations)
        return weight / spectral_norm_of(matrix, self._u, self._v)

    def right_inverse(self, value: jax.Array) -> jax.Array:
        return value


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """Divide a weight by its largest singular value (torch; Miyato et al., 2018).

    The value is estimated by power iterations, which go on whenever the weight is read in training mode.

    Args:
        module: changed in place, and returned.
        name: the parameter; of more than two dimensions, all but ``dim`` are taken as one.
        n_power_iterations: iterations at each read.
        eps: lower bound of the norms that are divided by.
        dim: the dimension of outputs: 1 for transposed convolutions, else 0.

    Raises:
        ValueError: there is no such parameter, or no iterations. IndexError: no such dimension.
    """
    weight = _tensor(module, name)
    if dim is None:
        dim = output_dim(module)
    with scope.entered(scope.BUILD):
        parametrization = _SpectralNorm(weight, n_power_iterations, dim, eps)
    return parametrize.register_parametrization(module, name, parametrization)


def orthogonal(
    module: Module, name: str = "weight", orthogonal_map: str | None = None, *, use_trivialization: bool = True
) -> Module:
    """Keep a matrix, or a batch of them, orthogonal or unitary (torch; Lezcano Casado, 2019).

    Of a matrix with more rows than columns the columns are orthonormal, else the rows.

    Args:
        module: changed in place, and returned.
        name: the parameter, of 2 or more dimensions.
        orthogonal_map: ``"matrix_exp"``, ``"cayley"`` or ``"householder"``; by default the first for square or complex
            matrices, else the last.
        use_trivialization: whether the map is taken around the present value, held in a buffer ``base``.

    Raises:
        ValueError: there is no such parameter or map, too few dimensions, or householder for complex numbers.
        NotImplementedError: without trivialisation, a value assigned to a matrix under another map than householder.
    """
    weight = _tensor(module, name)
    if weight.ndim < 2:
        raise ValueError(f"Expected a matrix or batch of matrices. Got a tensor of {weight.ndim} dimensions.")
    if orthogonal_map is None:
        square = weight.shape[-2] == weight.shape[-1]
        orthogonal_map = "matrix_exp" if square or jax.numpy.iscomplexobj(weight) else "householder"
    if orthogonal_map not in MAPS:
        raise ValueError(f'orthogonal_map has to be one of "matrix_exp", "cayley", "householder". Got: {orthogonal_map}')
    parametrization = _Orthogonal(weight, orthogonal_map, use_trivialization=use_trivialization)
    return parametrize.register_parametrization(module, name, parametrization, unsafe=True)


def _tensor(module: Module, name: str) -> jax.Array:
    """The value of a parameter or buffer (parametrized ones are computed)."""
    with scope.entered(scope.BUILD), scope.entered(scope.FORWARD, module):
        value = getattr(module, name, None)
    if not isinstance(value, jax.Array):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    return value

"""Maps from any matrix to one with orthonormal columns (or rows, if these are fewer)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from objnet.core import draws
from objnet.nn.module import Module

MAPS = ("matrix_exp", "cayley", "householder")


class _Orthogonal(Module):
    """``base`` times the map of the original, around minus the identity (torch; Lezcano Casado, 2019)."""

    def __init__(self, weight: jax.Array, orthogonal_map: str, *, use_trivialization: bool = True) -> None:
        super().__init__()
        if jnp.iscomplexobj(weight) and orthogonal_map == "householder":
            raise ValueError("The householder parametrization does not support complex tensors.")
        self.shape = tuple(weight.shape)
        self.orthogonal_map = orthogonal_map
        if use_trivialization:
            self.register_buffer("base", None)

    def forward(self, X: jax.Array) -> jax.Array:
        wide = X.shape[-2] < X.shape[-1]
        tall = X.mT if wide else X
        rows, columns = tall.shape[-2:]
        if self.orthogonal_map == "householder":
            diagonal = jnp.trunc(lax.stop_gradient(jnp.diagonal(tall, axis1=-2, axis2=-1)))  # signs
            Q = reflections(jnp.tril(tall, -1)) * diagonal[..., None, :]
        else:
            lower = jnp.tril(tall)
            lower = jnp.pad(lower, [(0, 0)] * (tall.ndim - 1) + [(0, rows - columns)])
            A = lower - jnp.conj(lower.mT)
            Q = (jax.scipy.linalg.expm if self.orthogonal_map == "matrix_exp" else cayley)(A)[..., :columns]
        if "base" in self._buffers:
            if self.base is None:
                raise TypeError(
                    "an orthogonal parametrization with trivialization is not used before right_inverse has set its base"
                )
            Q = self.base @ Q
        return Q.mT if wide else Q

    def right_inverse(self, Q: jax.Array) -> jax.Array:
        if tuple(Q.shape) != self.shape:
            raise ValueError(
                f"Expected a matrix or batch of matrices of shape {self.shape}. Got a tensor of shape {tuple(Q.shape)}."
            )
        wide = Q.shape[-2] < Q.shape[-1]
        tall = Q.mT if wide else Q
        rows, columns = tall.shape[-2:]
        if "base" not in self._buffers:
            if self.orthogonal_map != "householder":
                raise NotImplementedError(
                    "It is not possible to assign to the matrix exponential or the Cayley parametrizations when "
                    "use_trivialization=False."
                )
            packed = reflectors(tall)
            return packed.mT if wide else packed
        if rows == columns:
            identity = jnp.eye(columns, dtype=Q.dtype)
            error = jnp.abs(jnp.conj(tall.mT) @ tall - identity)
            tolerance = 10.0 * rows * float(jnp.finfo(Q.dtype).eps) + 1e-5 * identity.real
            self.base = jnp.where(jnp.all(error <= tolerance), tall, orthogonalised(tall))
        else:  # completed to a square matrix at random
            more = draws.normal((*tall.shape[:-1], rows - columns), 0, 1, Q.dtype)
            self.base = orthogonalised(jnp.concatenate([tall, more], -1))
        return jnp.broadcast_to(-jnp.eye(*self.shape[-2:], dtype=Q.dtype), self.shape)


def cayley(A: jax.Array) -> jax.Array:
    """``(1 - A/2)^-1 (1 + A/2)``, orthogonal for a skew-symmetric ``A``."""
    identity = jnp.broadcast_to(jnp.eye(A.shape[-1], dtype=A.dtype), A.shape)
    half = A * jnp.asarray(0.5, A.dtype)
    return jnp.linalg.solve(identity - half, identity + half)


def reflections(A: jax.Array) -> jax.Array:
    """The first columns of the product of the reflections along the columns of ``A`` plus the identity.

    With those columns as ``V`` the product is ``1 - V T^-1 V*``, where ``T`` is the upper triangle of ``V* V`` with half its
    diagonal (Joffrain et al., 2006): matrix products and one triangular solve, where applying the reflections one by one takes
    a loop over columns.
    """
    columns = A.shape[-1]
    V = A + jnp.eye(*A.shape[-2:], dtype=A.dtype)
    gram = V.mT @ V
    T = jnp.triu(gram, 1) + 0.5 * gram * jnp.eye(columns, dtype=A.dtype)
    solved = lax.linalg.triangular_solve(T, V[..., :columns, :].mT, left_side=True, lower=False)
    return jnp.eye(*A.shape[-2:], dtype=A.dtype) - V @ solved


def reflectors(Q: jax.Array) -> jax.Array:
    """What :func:`reflections`, with signs on the diagonal, maps to the orthogonal factor of ``Q``."""
    packed, tau = jnp.linalg.qr(Q, mode="raw")
    packed = packed.mT
    columns = packed.shape[-1]
    signs = jnp.sign(jnp.diagonal(packed, axis1=-2, axis2=-1))
    signs = jnp.where(tau == 0, -signs, signs)  # where nothing is reflected
    identity = jnp.eye(packed.shape[-2], columns, dtype=Q.dtype)
    return jnp.where(identity == 1, identity * signs[..., None, :], packed)


def orthogonalised(A: jax.Array) -> jax.Array:
    """The orthogonal factor of ``A`` whose triangular one has a diagonal that is not negative."""
    Q, R = jnp.linalg.qr(A)
    return Q * jnp.sign(jnp.diagonal(R, axis1=-2, axis2=-1))[..., None, :]

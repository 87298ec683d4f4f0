"""The masks of multi-head attention: True, or minus infinity, is what must *not* be seen.

(In ``scaled_dot_product_attention`` True is what may be seen.)  Two boolean masks stay boolean, a byte an element, until
they are added to the logits; a boolean one beside a floating point one becomes floating point, with torch's warning.
"""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from objnet.core.arrays import as_array
from objnet.nn.functional._attention import bias_of
from objnet.nn.functional._common import common_dtype, host, is_concrete, is_floating


def canonical(
    padding: jax.Array | None, mask: jax.Array | None, padding_name: str, mask_name: str, dtype: jnp.dtype, stacklevel: int = 6
) -> tuple[jax.Array | None, jax.Array | None]:
    """Both masks as arrays, of one kind: boolean, or floating point to be added.

    Args:
        padding: positions of the keys not to be seen.
        mask: what each query must not see.
        padding_name, mask_name: for messages.
        dtype: of a boolean mask that becomes floating point.
        stacklevel: of the warning about two different dtypes; 6 is the caller of a module whose ``forward`` calls this.

    Raises:
        AssertionError: another dtype than boolean and floating point.
    """
    padding, mask = (None if m is None else as_array(m) for m in (padding, mask))
    for name, m in ((padding_name, padding), (mask_name, mask)):
        if m is not None and m.dtype != jnp.bool_ and not is_floating(m):
            raise AssertionError(f"only bool and floating types of {name} are supported, got {m.dtype}")
    if padding is not None and mask is not None and padding.dtype != mask.dtype:
        message = f"Support for mismatched {padding_name} and {mask_name} is deprecated: {padding.dtype} and {mask.dtype}"
        warnings.warn(f"{message}. Use same type for both instead.", UserWarning, stacklevel=stacklevel)
        padding, mask = (bias_of(~m, dtype) if m.dtype == jnp.bool_ else m for m in (padding, mask))
    return padding, mask


def merged(mask: jax.Array | None, padding: jax.Array | None) -> jax.Array | None:
    """Both masks (as :func:`canonical` gives them, in shapes that broadcast) as one, True where a key *may* be seen."""
    if mask is None or padding is None:
        only = padding if mask is None else mask
        return ~only if only is not None and only.dtype == jnp.bool_ else only
    if mask.dtype == jnp.bool_:
        return ~(mask | padding)
    wide = common_dtype(mask, padding)
    return mask.astype(wide) + padding.astype(wide)


def is_causal_mask(mask: jax.Array | None, hint: bool | None, size: int) -> bool:
    """Whether ``mask`` hides exactly the later keys: as the ``hint`` says, else by its values where they can be seen."""
    if hint is not None or mask is None or mask.shape != (size, size) or not is_concrete(mask):
        return hint is True
    return bool((host(mask) == _causal(size, mask.dtype)).all())


def causal_mask(size: int, dtype: jnp.dtype) -> jax.Array:
    """(size, size), minus infinity (or True) where the column comes after the row, else zero (or False)."""
    return jnp.asarray(_causal(size, dtype))


def _causal(size: int, dtype: jnp.dtype) -> np.ndarray:
    later = np.triu(np.ones((size, size), bool), 1)  # by numpy: no program for every size, and concrete in a trace too
    return later if dtype == jnp.bool_ else np.where(later, -np.inf, 0.0).astype(dtype)

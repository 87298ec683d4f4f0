"""``SparseAdam``, which has no place here and says so."""

from __future__ import annotations

from typing import Any


class SparseAdam:
    """torch's ``optim.SparseAdam``: gradients here are never sparse.

    Raises:
        NotImplementedError: always, naming what to use.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        raise NotImplementedError(
            "SparseAdam steps on sparse gradients, and an Embedding's gradient is a dense array here. Use optim.Adam; unlike "
            "SparseAdam it also moves the rows whose gradient is zero."
        )

"""Names of torch.optim that have no meaning here and say so."""

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


def swap_in_optimizer_params_and_state(*args: Any, **kwargs: Any) -> Any:
    """torch's function of this name, which exchanges tensors for fake ones to trace an optimizer.

    Raises:
        NotImplementedError: always, naming what to use.
    """
    raise NotImplementedError(
        "swap_in_optimizer_params_and_state is for torch's tracer. objnet.jit captures optimizers as they are; for a step as a "
        "pure function take optim.<Optimizer>.as_optax(...), and load_state_dict to put state in place."
    )

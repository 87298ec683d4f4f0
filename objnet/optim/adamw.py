"""AdamW (torch's ``optim.AdamW``)."""

from __future__ import annotations

from typing import Any

from objnet.optim.adam import Adam


class AdamW(Adam):
    """Adam whose weight decay acts on the parameter directly: ``p -= lr * weight_decay * p``, before Adam's step.

    Loshchilov and Hutter (2017), "Decoupled Weight Decay Regularization".

    Args:
        params, lr, betas, eps, amsgrad, maximize, foreach, capturable, differentiable, fused: as :class:`Adam`'s.
        weight_decay: as above.

    Raises:
        ValueError, NotImplementedError, RuntimeError: as :class:`Adam`.
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )

    def _upgrade(self, entries: dict[str, Any]) -> None:
        entries["decoupled_weight_decay"] = True  # also for what Adam saved, as in torch

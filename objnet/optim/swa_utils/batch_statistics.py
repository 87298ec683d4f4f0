"""``update_bn``: batch statistics for a model whose parameters did not come from training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax

from objnet.core.foreign import is_torch_tensor, to_host_or_jax
from objnet.core.placement import named_device
from objnet.nn.module import Module
from objnet.nn.modules.batchnorm import _BatchNorm
from objnet.transforms.grad_mode import no_grad


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Make the running statistics of all BatchNorm layers the means over one pass through ``loader``.

    Args:
        loader: gives inputs of ``model``, or lists or tuples that begin with one; jax, numpy or torch arrays.
        model: whose modes are afterwards all that of the model itself, as in torch.
        device: where inputs go first.
    """
    norms = {module: module.momentum for module in model.modules() if isinstance(module, _BatchNorm)}
    if not norms:
        return
    was_training = model.training
    run = no_grad(lambda batch: model(batch))
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # equal weights
        model.train()
        for batch in loader:
            batch = batch[0] if isinstance(batch, (list, tuple)) else batch
            batch = to_host_or_jax(batch) if is_torch_tensor(batch) else batch
            run(batch if device is None else jax.device_put(batch, named_device(device)))
    finally:
        for norm, momentum in norms.items():
            norm.momentum = momentum
        model.train(was_training)

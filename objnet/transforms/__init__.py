"""What turns functions over modules into programs: jit, gradients and the pure form."""

from objnet.transforms.autodiff import Gradients, backward, grad, value_and_grad
from objnet.transforms.grad_mode import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled
from objnet.transforms.jit import jit
from objnet.transforms.pure import (
    Transformed,
    TransformedWithState,
    transform,
    transform_with_state,
    with_empty_state,
    without_apply_rng,
    without_state,
)

__all__ = [
    "Gradients",
    "Transformed",
    "TransformedWithState",
    "backward",
    "enable_grad",
    "grad",
    "inference_mode",
    "is_grad_enabled",
    "jit",
    "no_grad",
    "set_grad_enabled",
    "transform",
    "transform_with_state",
    "value_and_grad",
    "with_empty_state",
    "without_apply_rng",
    "without_state",
]

"""What turns functions over modules into programs: jit, gradients and the pure form."""

from objnet.transforms.autodiff import Gradients, backward, grad, value_and_grad
from objnet.transforms.branches import cond, switch
from objnet.transforms.derivatives import hessian, jacfwd, jacrev, jvp, linearize, vjp
from objnet.transforms.devices import pmap, shard_map
from objnet.transforms.grad_mode import enable_grad, inference_mode, is_grad_enabled, no_grad, set_grad_enabled
from objnet.transforms.inside import (
    current_name,
    get_current_state,
    get_initial_state,
    get_params,
    name_scope,
    running_init,
)
from objnet.transforms.jit import jit
from objnet.transforms.lift import (
    LiftWithStateUpdater,
    lift,
    lift_with_state,
    transparent_lift,
    transparent_lift_with_state,
)
from objnet.transforms.loops import associative_scan, fori_loop, map, scan, while_loop
from objnet.transforms.multi import (
    multi_transform,
    multi_transform_with_state,
)
from objnet.transforms.pure import (
    Transformed,
    TransformedWithState,
    transform,
    transform_with_state,
    with_empty_state,
    without_apply_rng,
    without_state,
)
from objnet.transforms.pure_function import (
    MultiTransformed,
    MultiTransformedWithState,
    Params,
    State,
)
from objnet.transforms.remat import checkpoint, remat
from objnet.transforms.rules import custom_jvp, custom_vjp
from objnet.transforms.stage import checkify, eval_shape, make_jaxpr
from objnet.transforms.vmap import vmap

__all__ = [
    "Gradients",
    "LiftWithStateUpdater",
    "MultiTransformed",
    "MultiTransformedWithState",
    "Params",
    "State",
    "Transformed",
    "TransformedWithState",
    "associative_scan",
    "backward",
    "checkify",
    "checkpoint",
    "cond",
    "current_name",
    "custom_jvp",
    "custom_vjp",
    "enable_grad",
    "eval_shape",
    "fori_loop",
    "get_current_state",
    "get_initial_state",
    "get_params",
    "grad",
    "hessian",
    "inference_mode",
    "is_grad_enabled",
    "jacfwd",
    "jacrev",
    "jit",
    "jvp",
    "lift",
    "lift_with_state",
    "linearize",
    "make_jaxpr",
    "map",
    "multi_transform",
    "multi_transform_with_state",
    "name_scope",
    "no_grad",
    "pmap",
    "remat",
    "running_init",
    "scan",
    "set_grad_enabled",
    "shard_map",
    "switch",
    "transform",
    "transform_with_state",
    "transparent_lift",
    "transparent_lift_with_state",
    "value_and_grad",
    "vjp",
    "vmap",
    "while_loop",
    "with_empty_state",
    "without_apply_rng",
    "without_state",
]

"""What to write for a torch method that a jax array lacks, or has with another meaning: a note on the error it raises."""

from __future__ import annotations

import re

_INSTEAD = {
    "unsqueeze": "jnp.expand_dims(x, dim)",
    "permute": "x.transpose(dims)",
    "detach": "jax.lax.stop_gradient(x)",
    "masked_fill": "jnp.where(mask, value, x)",
    "contiguous": "x itself",
    "to": "x.astype(dtype), or jax.device_put(x, device)",
    "numel": "x.size",
    "dim": "x.ndim",
    "float": "x.astype(jnp.float32)",
    "long": "x.astype(jnp.int32)",
    "half": "x.astype(jnp.float16)",
    "double": "x.astype(jnp.float64)",
    "int": "x.astype(jnp.int32)",
    "bool": "x.astype(bool)",
    "clamp": "jnp.clip(x, min, max)",
    "t": "x.T",
    "mm": "x @ y",
    "bmm": "x @ y",
    "matmul": "x @ y",
    "norm": "jnp.linalg.norm(x)",
    "chunk": "jnp.split(x, n, dim)",
    "expand": "jnp.broadcast_to(x, shape)",
    "expand_as": "jnp.broadcast_to(x, y.shape)",
    "view_as": "x.reshape(y.shape)",
    "cuda": "x itself",
    "cpu": "x itself",
    "numpy": "numpy.asarray(x)",
    "cat": "jnp.concatenate",
    "topk": "jax.lax.top_k(x, k)",
    "pow": "x ** n",
    "exp": "jnp.exp(x)",
    "log": "jnp.log(x)",
    "sqrt": "jnp.sqrt(x)",
    "abs": "jnp.abs(x)",
    "sigmoid": "jax.nn.sigmoid(x)",
    "tanh": "jnp.tanh(x)",
    "relu": "jax.nn.relu(x)",
    "softmax": "jax.nn.softmax(x, dim)",
    "type_as": "x.astype(y.dtype)",
    "new_zeros": "jnp.zeros(size, x.dtype)",
    "new_ones": "jnp.ones(size, x.dtype)",
    "index_select": "jnp.take(x, index, dim)",
    "gather": "jnp.take_along_axis(x, index, dim)",
    "unbind": "tuple(jnp.moveaxis(x, dim, 0))",
    "requires_grad_": "objnet.grad",
}


def advice(error: Exception) -> str | None:
    """The line to add to ``error``, if a torch habit is behind it."""
    text = str(error)
    if isinstance(error, AttributeError):
        found = re.search(r"has no attribute '?(\w+)'?", text)
        name = found[1] if found and re.search(r"Array|Tracer", text) else ""
        if name in _INSTEAD:
            return f"a jax array has no .{name}(): write {_INSTEAD[name]}"
        if name.endswith("_") and not name.endswith("__"):
            return f"jax arrays are not changed in place: bind the new value, x = ... in place of x.{name}(...)"
    if isinstance(error, NotImplementedError) and "array.view()" in text:
        return "view of a jax array changes its dtype: write x.reshape(...)"
    if isinstance(error, TypeError) and "'int' object is not callable" in text:
        return "size of a jax array is its number of elements: torch's x.size(i) is x.shape[i]"
    if isinstance(error, TypeError) and re.search(r"got an unexpected keyword argument '(dim|keepdim)'", text):
        return "jax's names are axis and keepdims"
    return None

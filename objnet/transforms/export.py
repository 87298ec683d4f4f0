"""``objnet.export``: a model or function as a portable StableHLO program, by ``jax.export``.

With its weights inside, the program takes the arguments only.  With its weights outside it is the pure form: it takes ``params``
and ``state`` first, as :func:`objnet.transform_with_state` names them, and returns the new state.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from objnet.core import errors
from objnet.core.errors import ExportError, MissingRngError
from objnet.core.frame import Unlifted
from objnet.core.rng import key_stream
from objnet.core.variable import Variable, path_of
from objnet.transforms.arguments import ABSTRACT
from objnet.transforms.jit import Compiled, jit
from objnet.transforms.lowering import bind_abstract, call_in_progress, values_of
from objnet.transforms.program import Relayout
from objnet.transforms.pure import transform_with_state


class Exported:
    """What :func:`export` returns; callable, also inside jax's transforms, which differentiate it once if asked to.

    Attributes:
        exported: the ``jax.export.Exported``, with ``mlir_module()``, ``in_avals``, ``platforms``, ...
        weights: ``"in"`` or ``"out"``; None after :meth:`deserialize`.
        params, state: for weights outside, the values of now, to pass to the call; else None.
        takes_rng: whether a call takes a random key after ``params`` and ``state``.
    """

    def __init__(
        self, exported: jax.export.Exported, weights: str | None, params: Any = None, state: Any = None, takes_rng: bool = False
    ):
        self.exported = exported
        self.weights = weights
        self.params = params
        self.state = state
        self.takes_rng = takes_rng

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """``result`` of ``(*args)``, or ``(result, new state)`` of ``(params, state, [rng,] *args)``."""
        if (
            self.takes_rng
            and len(args) > 2
            and isinstance(args[2], jax.Array)
            and jnp.issubdtype(args[2].dtype, jax.dtypes.prng_key)
        ):
            args = (*args[:2], jax.random.key_data(args[2]), *args[3:])  # the program takes a key's plain form
        return self.exported.call(*args, **kwargs)

    def mlir_module(self) -> str:
        """The StableHLO text."""
        return self.exported.mlir_module()

    def serialize(self, vjp_order: int = 0) -> bytes:
        """The program as bytes, for :meth:`deserialize` or ``jax.export.deserialize``, which needs no objnet.

        Args:
            vjp_order: how many times the deserialised program can be differentiated.

        Raises:
            ImportError: flatbuffers is not installed.
            ValueError: by jax, if arguments or results hold containers it knows no serialisation for; register them by
                ``jax.export.register_namedtuple_serialization`` or ``register_pytree_node_serialization``.
        """
        _require_flatbuffers()
        return bytes(self.exported.serialize(vjp_order=vjp_order))

    @classmethod
    def deserialize(cls, blob: bytes) -> Exported:
        """What :meth:`serialize` gave."""
        _require_flatbuffers()
        return cls(jax.export.deserialize(bytearray(blob)), None)

    def __repr__(self) -> str:
        inputs = ", ".join(aval.str_short() for aval in self.exported.in_avals)
        return f"<Exported {self.exported.fun_name}({inputs}) for {', '.join(self.exported.platforms)}>"


def export(
    function: Any,
    *args: Any,
    weights: str = "in",
    platforms: Sequence[str] | None = None,
    disabled_checks: Sequence[Any] = (),
    **kwargs: Any,
) -> Exported:
    """Export a module or a function that reaches modules (``jax.export.export``), without running it.

    Args:
        function: a module, a function, or what :func:`objnet.jit` returned; modules as they are now (train or eval).
        args, kwargs: example arguments: arrays, numbers, or ``jax.ShapeDtypeStruct``, also with symbolic dimensions
            (``jax.export.symbolic_shape``).
        weights: ``"in"``: today's values are constants of the program, called as ``exported(*args)``.
            ``"out"``: ``exported(params, state, *args) -> (result, new state)``, with a random key after ``state`` where
            one is needed (``exported.takes_rng``).
        platforms: e.g. ``["cpu", "cuda", "tpu"]``; None takes the default backend's.
        disabled_checks: safety checks to leave out, as in ``jax.export.export``.

    Raises:
        ExportError: with weights inside, the function writes state, draws random keys or changes attributes, which no call
            could keep; or an argument is no array.
    """
    if weights not in ("in", "out"):
        raise ValueError(f'weights is "in" or "out", got {weights!r}')
    if not callable(function):
        raise TypeError(f"export takes a function or a module, got {type(function).__name__}")
    for leaf in jax.tree.leaves((args, kwargs), is_leaf=lambda x: hasattr(type(x), "__objnet_capture__")):
        if isinstance(leaf, bool) or not (isinstance(leaf, (*ABSTRACT, int, float, complex)) or hasattr(leaf, "__array__")):
            raise ExportError(
                f"an argument of the exported function is a {type(leaf).__name__}{errors.where()}: a program takes arrays. Bind "
                "it first, functools.partial(function, option=...), or call the model in the function."
            )
    compiled: Compiled = function if isinstance(function, Compiled) else jit(function)
    build = functools.partial(jax.export.export, platforms=platforms, disabled_checks=disabled_checks)
    if weights == "in":
        return Exported(_inside(compiled, build, args, kwargs), weights)
    return _outside(compiled, build, args, kwargs)


def _inside(compiled: Compiled, build: Any, args: Any, kwargs: Any) -> jax.export.Exported:
    while True:
        binding, _, rebuild, first = bind_abstract(compiled, args, kwargs)
        layout = binding.program.layout
        _refuse_effects(compiled, [*binding.out, *binding.constants], [*layout.created, *layout.attributes])
        constants = values_of(binding.kept)

        def program(*args: Any, **kwargs: Any) -> Any:
            dynamic, _, _ = compiled._split(args, kwargs)
            with call_in_progress(compiled, binding, rebuild, first):  # noqa: B023
                return binding.program.plain([], constants, dynamic)[-1]  # noqa: B023

        program.__name__ = program.__qualname__ = compiled._short_name()
        try:
            return build(jax.jit(program))(*args, **kwargs)
        except (Relayout, Unlifted):
            compiled._separate_shapes()


def _refuse_effects(compiled: Compiled, written: list[Variable], effects: list[Any]) -> None:
    if not written and not effects:
        return
    if key_stream in written:
        what = "draws random numbers (dropout?), and every call would repeat them"
    else:
        names = [path_of(v) or type(v).__name__ for v in written] + [e[-1] if e[1] == "_buffers" else e[1] for e in effects]
        what = f"writes state, which would be lost ({', '.join(map(str, names))})"
    raise ExportError(
        f"{compiled._name()} was exported with its weights inside and {what}{errors.where()}: call model.eval() first, or export "
        'with weights="out", whose call takes state and a key and returns the new state.'
    )


def _outside(compiled: Compiled, build: Any, args: Any, kwargs: Any) -> Exported:
    function = compiled._function
    net = transform_with_state(function)
    params, state = transform_with_state(function if _is_module(function) else functools.partial(_nothing, function)).init(None)

    def pure(params: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        return net.apply(params, state, None, *args, **kwargs)

    def pure_with_rng(params: Any, state: Any, rng: Any, *args: Any, **kwargs: Any) -> Any:
        return net.apply(params, state, rng, *args, **kwargs)

    for form in (pure, pure_with_rng):
        form.__name__ = form.__qualname__ = compiled._short_name()
    try:
        return Exported(build(jax.jit(pure))(params, state, *args, **kwargs), "out", params, state)
    except MissingRngError:
        key = jax.eval_shape(jax.random.PRNGKey, 0)
        return Exported(build(jax.jit(pure_with_rng))(params, state, key, *args, **kwargs), "out", params, state, True)


def _require_flatbuffers() -> None:
    if importlib.util.find_spec("flatbuffers") is None:
        raise ImportError("jax keeps exported programs in flatbuffers, which is not installed: pip install 'objnet[export]'")


def _nothing(function: Any) -> None:
    """A function that reaches what ``function`` does."""


def _is_module(value: Any) -> bool:
    return hasattr(value, "named_modules")

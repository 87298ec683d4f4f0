"""A model of objnet's as two pure functions, for another library to hold: what going to Flax and to Haiku share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from objnet.nn.module import Module
from objnet.transforms.binding import PureFrame, evaluate
from objnet.transforms.pure import transform_with_state, with_empty_state
from objnet.transforms.pure_function import Params, PureFunction, State, Transformed, TransformedWithState

__all__ = ["Target", "purify"]


class Target:
    """What was handed to another library, made pure.

    Args:
        init: ``init(key, args, kwargs) -> (params, state)``.
        apply: ``apply(params, state, key, args, kwargs) -> (out, state)``.
        name: what it is called where nobody gave a name.
    """

    def __init__(self, init: Callable[..., tuple[Params, State]], apply: Callable[..., tuple[Any, State]], name: str):
        self.init = init
        self.apply = apply
        self.name = name

    def __repr__(self) -> str:
        return self.name


def purify(target: Any, args: tuple[Any, ...] | None = None, kwargs: dict[str, Any] | None = None) -> Target:
    """``target`` as pure functions; a module's parameters have torch's keys then.

    Args:
        target: a Module class, a live Module, what ``objnet.transform`` or ``objnet.transform_with_state`` returned, or a function
            that builds and calls modules.
        args: of the class's constructor; None for what is no class.
        kwargs: as ``args``.

    Raises:
        TypeError: none of these, or arguments for what is no class.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, type) and issubclass(target, Module):
        return _of_module(lambda: target(*(args or ()), **(kwargs or {})), [], target.forward, target.__name__)
    if args is not None or kwargs is not None:
        raise TypeError(f"create takes a Module class and arguments for its constructor, but {target!r} is no Module class")
    if isinstance(target, Module):
        return _of_module(lambda: target, [target], target.forward, type(target).__name__)
    name = getattr(target, "__name__", "function")
    if isinstance(target, Transformed):
        _check_rng(target.apply)
        return _of_pair(with_empty_state(target), name)
    if isinstance(target, TransformedWithState):
        _check_rng(target.apply)
        return _of_pair(target, name)
    if not callable(target):
        raise TypeError(
            "expected a Module class, a Module, a function that builds modules, or what objnet.transform_with_state returned, got "
            f"{type(target).__name__}"
        )
    return _of_pair(transform_with_state(target), "function" if name == "<lambda>" else name)


def _check_rng(apply: Any) -> None:
    if isinstance(apply, PureFunction) and "rng" not in apply._leading:
        raise TypeError("expected what objnet.transform_with_state returned, got what without_apply_rng made of it")


def _of_pair(pair: TransformedWithState, name: str) -> Target:
    def init(key: Any, args: Any, kwargs: Any) -> Any:
        return pair.init(key, *args, **kwargs)

    def apply(params: Any, state: Any, key: Any, args: Any, kwargs: Any) -> Any:
        return pair.apply(params, state, key, *args, **kwargs)

    return Target(init, apply, name)


def _of_module(make: Callable[[], Module], live: list[Module], forward: Any, name: str) -> Target:
    takes_training = "training" in inspect.signature(forward).parameters

    def call(inner: PureFrame, args: Any, kwargs: Any) -> Any:
        module = inner.names.root = make()
        if not takes_training and kwargs.get("training") is not None:
            module.train(kwargs["training"])
        return module(*args, **{k: v for k, v in kwargs.items() if takes_training or k != "training"})

    def init(key: Any, args: Any, kwargs: Any) -> Any:
        return evaluate(lambda inner: call(inner, args, kwargs), key, live, *live)[1:]

    def apply(params: Any, state: Any, key: Any, args: Any, kwargs: Any) -> Any:
        root = live[0] if live else None
        out, _, after = evaluate(lambda inner: call(inner, args, kwargs), key, live, root, (params, state))
        return out, after

    return Target(init, apply, name)

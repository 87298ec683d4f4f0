"""Containers of modules: ``Sequential``, ``ModuleList``, ``ModuleDict``.

Children are put and removed through the module's own registration, so that a transform can take a change back.
"""

from __future__ import annotations

import itertools
import operator
import warnings
from collections import OrderedDict
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Self

from objnet.nn.module import Module, _block, _indent

__all__ = ["Container", "ModuleDict", "ModuleList", "Sequential"]


def absolute(index: Any, size: int) -> int:
    """``index`` counted from the front.

    Raises:
        TypeError: it is no integer.
        IndexError: there is no such item.
    """
    index = operator.index(index)
    if not -size <= index < size:
        raise IndexError(f"index {index} is out of range for {size} items")
    return index % size


def pairs(items: Any, what: str) -> Iterator[tuple[Any, Any]]:
    """The items of a mapping, or the pairs of an iterable.

    Raises:
        TypeError: no iterable, or an item that is none.
        ValueError: an item that is no pair.
    """
    if not isinstance(items, Iterable):
        raise TypeError(f"{what}.update should be called with an iterable of key/value pairs, but got {type(items).__name__}")
    if isinstance(items, (Mapping, ModuleDict)):
        yield from items.items()
        return
    for position, pair in enumerate(items):
        if not isinstance(pair, Iterable):
            raise TypeError(f"{what} update sequence element #{position} should be Iterable; is {type(pair).__name__}")
        pair = tuple(pair)
        if len(pair) != 2:
            raise ValueError(f"{what} update sequence element #{position} has length {len(pair)}; 2 is required")
        yield pair


class _Numbered(Module):
    """A container whose children are named ``"0"``, ``"1"``, ..., at the latest when one of them is deleted."""

    _modules: dict[str, Any]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._modules.values())

    def __setitem__(self, idx: int, module: Module) -> None:
        setattr(self, self._name(idx), module)

    def __delitem__(self, idx: int | slice) -> None:
        gone = set(self._names(idx))
        self._hold([module for name, module in self._modules.items() if name not in gone])

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def pop(self, key: int | slice) -> Any:
        """Remove and return a module, or the container of several."""
        popped = self[key]  # type: ignore[index]
        del self[key]
        return popped

    def _name(self, index: Any) -> str:
        return list(self._modules)[absolute(index, len(self))]

    def _names(self, index: Any) -> list[str]:
        return list(self._modules)[index] if isinstance(index, slice) else [self._name(index)]

    def _insert(self, index: int, module: Module) -> None:
        size = len(self)
        if not -size <= index <= size:
            raise IndexError(f"Index out of range: {index}")
        if index == size:
            self.append(module)
            return
        if any(name != str(number) for number, name in enumerate(self._modules)):
            raise KeyError(f"insert would renumber these modules, which have names: {list(self._modules)}")
        modules = list(self)
        modules.insert(index, module)
        self._hold(modules)

    def _hold(self, modules: list[Any]) -> None:
        """Hold exactly these children, numbered."""
        for name in reversed(list(self._modules)):  # last first, so that undoing it restores the order
            delattr(self, name)
        for number, module in enumerate(modules):
            self._link("_modules", str(number), module)


class Container(Module):
    """Modules by keyword, deprecated as in torch (``nn.Container``): subclass :class:`Module` instead. Warns."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        warnings.warn("nn.Container is deprecated: subclass nn.Module instead", FutureWarning, stacklevel=2)
        for name, module in kwargs.items():
            self.add_module(name, module)


class Sequential(_Numbered):
    """Modules that run one after the other, each on what the last gave (torch's ``nn.Sequential``).

    Args:
        args: modules, named by their numbers; or one OrderedDict that names them.

    Raises:
        TypeError: an argument is no module. IndexError, ValueError: as torch, from the methods.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__()
        named = args[0] if len(args) == 1 and isinstance(args[0], OrderedDict) else {str(i): m for i, m in enumerate(args)}
        for name, module in named.items():
            self.add_module(name, module)

    def forward(self, input: Any) -> Any:
        for module in self:
            input = module(input)
        return input

    def __getitem__(self, idx: int | slice) -> Any:
        if isinstance(idx, slice):
            return type(self)(OrderedDict((name, self._modules[name]) for name in self._names(idx)))
        return self._modules[self._name(idx)]

    def __add__(self, other: Sequential) -> Sequential:
        _check_sequential(other)
        return Sequential().extend(self).extend(other)

    def __iadd__(self, other: Sequential) -> Self:
        _check_sequential(other)
        return self.extend(other)

    def __mul__(self, other: int) -> Sequential:
        _check_factor(self, other)
        return Sequential().extend(list(self) * other)

    __rmul__ = __mul__

    def __imul__(self, other: int) -> Self:
        _check_factor(self, other)
        return self.extend(list(self) * (other - 1))

    def extend(self, sequential: Iterable[Module]) -> Self:
        """Add modules at the end."""
        for module in list(sequential):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Put a module before the one at ``index``.

        Raises:
            AssertionError: ``module`` is no module. IndexError: ``index`` is outside. KeyError: modules would have to be
            renumbered that were given names.
        """
        if not isinstance(module, Module):
            raise AssertionError(f"module should be of type: {Module}, got {type(module)}")
        self._insert(index, module)
        return self


def _check_sequential(other: Any) -> None:
    if not isinstance(other, Sequential):
        raise ValueError(f"add operator supports only objects of Sequential class, but {type(other)} is given.")


def _check_factor(container: Sequential, factor: Any) -> None:
    if not isinstance(factor, int):
        raise TypeError(f"unsupported operand type(s) for *: {type(container)} and {type(factor)}")
    if factor <= 0:
        raise ValueError(f"Non-positive multiplication factor {factor} for {type(container)}")


class ModuleList(_Numbered):
    """A list whose modules are registered (torch's ``nn.ModuleList``).

    Args:
        modules: the modules to start with.

    Raises:
        TypeError: no iterable, or an item that is no module. IndexError: as a list.
    """

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    def __getitem__(self, idx: int | slice) -> Any:
        if isinstance(idx, slice):
            return type(self)(list(self)[idx])
        return self._modules[self._name(idx)]

    def __iadd__(self, modules: Iterable[Module]) -> Self:
        return self.extend(modules)

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList(itertools.chain(self, other))

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end."""
        if not isinstance(modules, Iterable):
            raise TypeError(f"ModuleList.extend should be called with an iterable, but got {type(modules).__name__}")
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> None:
        """Put a module before the one at ``index``.

        Raises:
            TypeError: ``module`` is no module. IndexError: ``index`` is outside.
        """
        if not isinstance(module, Module):
            raise TypeError(f"ModuleList.insert takes a module, got {type(module).__name__}")
        self._insert(index, module)

    def __repr__(self) -> str:
        lines, start = [], 0
        for text, group in itertools.groupby(map(repr, self)):
            count = len(list(group))
            label = f"({start}): {text}" if count == 1 else f"({start}-{start + count - 1}): {count} x {text}"
            lines.append(_indent(label))
            start += count
        return _block(self._get_name(), lines) if lines else f"{self._get_name()}()"


class ModuleDict(Module):
    """A dict whose modules are registered, in order of insertion (torch's ``nn.ModuleDict``).

    Args:
        modules: a mapping from names to modules, or an iterable of such pairs.

    Raises:
        TypeError, ValueError: neither of these, or a value that is no module. KeyError: a name that is missing, or taken by
        an attribute.
    """

    _modules: dict[str, Any]

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Any:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        if key not in self._modules:
            raise KeyError(key)
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: str) -> bool:
        return key in self._modules

    def clear(self) -> None:
        """Remove every module."""
        for name in reversed(list(self._modules)):
            delattr(self, name)

    def pop(self, key: str) -> Any:
        """Remove and return the module of this name."""
        module = self[key]
        del self[key]
        return module

    def keys(self) -> KeysView[str]:
        """The names."""
        return self._modules.keys()

    def items(self) -> ItemsView[str, Any]:
        """(name, module) pairs."""
        return self._modules.items()

    def values(self) -> ValuesView[Any]:
        """The modules."""
        return self._modules.values()

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Put the modules of a mapping, or of an iterable of (name, module) pairs."""
        for name, module in pairs(modules, "ModuleDict"):
            self[name] = module

"""A pickle reader that runs nothing: a small machine for the opcodes of plain data, which asks a table for every global.

Python's own unpickler calls whatever it finds and sets attributes of whatever it is told to. Here an opcode makes a
container or a scalar, or calls one of the functions the reader's table names, or is refused. What a hostile stream can make
it spend is bounded by the stream's length: no step copies or hashes more than it has paid for in bytes.
"""

from __future__ import annotations

import pickletools
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn

_MARK = object()
_NEW = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_PUSH = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_PUSH |= {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_PYTHON_2_TEXT = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
_MAX_KEY_PARTS = 1000
_ROOM = 1000  # what a stream may copy beyond its own length


class UnpickleError(ValueError):
    """A stream that is no pickle, is cut short, or wants something made that is not plain data."""


class Function:
    """What a stream may call by ``name``; it takes the :class:`Machine` first."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.name, self.call = name, call

    def __repr__(self) -> str:
        return f"<{self.name}>"


class Machine:
    """Reads pickles from one stream, one after the other.

    Args:
        stream: a seekable binary file.
        size: its length in bytes, which bounds the work.
        find: what stands for a dotted name: a :class:`Function`, or a value that cannot change; raises for unwanted names.
        persistent: what stands for a persistent id.
    """

    def __init__(
        self, stream: BinaryIO, size: int, find: Callable[[str], Any], persistent: Callable[[Any], Any] | None = None
    ) -> None:
        self._stream, self._find, self._persistent = stream, find, persistent
        self._left = 8 * size + _ROOM

    def read(self) -> Any:
        """The next object.

        Raises:
            UnpickleError: for a malformed stream and for opcodes that make anything but plain data.
        """
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        try:
            for opcode, argument, _ in pickletools.genops(self._stream):
                if opcode.name == "STOP":
                    return self._pop()
                self._step(opcode.name, argument)
        except UnpickleError:
            raise
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise UnpickleError(f"its pickle is malformed ({type(error).__name__}: {error})") from error
        except (ValueError, OverflowError, UnicodeError) as error:
            raise UnpickleError(f"its pickle is malformed or cut short ({str(error)[:200]})") from error
        raise UnpickleError("its pickle is cut short")

    def spend(self, amount: int) -> None:
        """Count work against what the stream's length allows; for functions of the table that copy."""
        self._left -= amount
        if self._left < 0:
            raise UnpickleError("its pickle would make far more than its own length; it is damaged or hostile")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _PUSH:
            stack.append(argument)
        elif name in _GETS:
            stack.append(self._memo[argument])
        elif name in _PUTS:
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _NEW:
            stack.append(_NEW[name]())
        elif name in _TUPLES:
            count = _TUPLES[name]
            parts = [self._pop() for _ in range(count)]
            stack.append(tuple(reversed(parts)))
        elif name in ("TUPLE", "LIST"):
            items = self._pop_to_mark()
            stack.append(tuple(items) if name == "TUPLE" else items)
        elif name == "DICT":
            stack.append(self.pairs(self._pop_to_mark()))
        elif name in ("SETITEM", "SETITEMS"):
            items = [self._pop(), self._pop()][::-1] if name == "SETITEM" else self._pop_to_mark()
            self._container(dict).update(self.pairs(items))
        elif name in ("APPEND", "APPENDS"):
            items = [self._pop()] if name == "APPEND" else self._pop_to_mark()
            self._container(list).extend(items)
        elif name == "ADDITEMS":
            items = self._pop_to_mark()
            self._container(set).update(self.key(item) for item in items)
        elif name in _PYTHON_2_TEXT:
            stack.append(argument.encode("latin-1").decode())
        elif name == "GLOBAL":
            stack.append(self._find(argument.replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = self._pop(), self._pop()
            if not (isinstance(module, str) and isinstance(attribute, str)):
                refuse("a global's name is no text")
            stack.append(self._find(f"{module}.{attribute}"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = self._pop(), self._pop()
            stack.append(self._call(function, arguments))
        elif name == "BUILD":
            self._build(self._pop())
        elif name == "BINPERSID":
            if self._persistent is None:
                refuse("it has a reference to something outside of itself")
            stack.append(self._persistent(self._pop()))
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self._pop_to_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name not in ("PROTO", "FRAME"):
            refuse(f"it uses the opcode {name}, which plain data do not need")

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Function) or not isinstance(arguments, tuple):
            refuse("it calls something that is no function")
        return function.call(self, *arguments)

    def _build(self, state: Any) -> None:
        """Attributes are kept for an OrderedDict alone: ``state_dict`` has its ``_metadata`` there."""
        target = self._stack[-1]
        if type(target) is not OrderedDict:
            refuse(f"it sets the state of a {type(target).__name__}")
        if isinstance(state, dict) and isinstance(state.get("_metadata"), dict):
            target._metadata = state["_metadata"]  # type: ignore[attr-defined]

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            refuse("its stack is out of order")
        return value

    def _pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self._stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _container(self, kind: type) -> Any:
        target = self._stack[-1]
        if not isinstance(target, kind):
            refuse(f"it puts items into a {type(target).__name__}")
        return target

    def pairs(self, items: list[Any]) -> dict[Any, Any]:
        if len(items) % 2:
            refuse("a dict has a key without a value")
        return {self.key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}

    def key(self, key: Any) -> Any:
        """``key`` if it can be one: it is hashed whole, and tuples of tuples can be far larger than their pickle."""
        left, parts = [key], 0
        while left:
            part = left.pop()
            parts += 1
            if type(part) is tuple and parts + len(part) + len(left) < _MAX_KEY_PARTS:
                left.extend(part)
            elif type(part) is int:
                parts += part.bit_length() >> 6
            elif part is not None and type(part) not in (str, float, bool, bytes):
                refuse(f"a dict key or set item is a {type(part).__name__}, or too large")
        self.spend(parts - 1)
        return key


def _ordered_dict(machine: Machine, pairs: Any = ()) -> Any:
    pairs = _listed(pairs)
    machine.spend(len(pairs))
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        refuse("an OrderedDict is made of something other than pairs")
    return OrderedDict(machine.pairs([part for pair in pairs for part in pair]))


def _counter(machine: Machine, counts: Any = None) -> Any:
    if not (counts is None or isinstance(counts, dict)):
        refuse("a Counter is made of no dict")
    machine.spend(len(counts or ()))
    return Counter(counts)


def _set(machine: Machine, items: Any = ()) -> Any:
    items = _listed(items)
    machine.spend(len(items))
    return {machine.key(item) for item in items}


def _encode(machine: Machine, text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        refuse("it encodes something that is no text")
    machine.spend(len(text))
    return text.encode("latin-1")


def _bytes(machine: Machine) -> bytes:
    return b""  # protocol 2 has no other way to write it


def _bytearray(machine: Machine, content: Any = b"") -> bytearray:
    if not isinstance(content, bytes):
        refuse("a bytearray is made of no bytes")
    machine.spend(len(content))
    return bytearray(content)


def _complex(machine: Machine, real: Any = 0.0, imaginary: Any = 0.0) -> complex:
    if not all(type(part) in (int, float) for part in (real, imaginary)):
        refuse("a complex number is made of no numbers")
    return complex(real, imaginary)


def _listed(items: Any) -> Any:
    if not isinstance(items, (list, tuple)):
        refuse("a container is made of no list")
    return items


def refuse(fault: str) -> NoReturn:
    """Raise the error of a stream that does what plain data never do."""
    raise UnpickleError(f"its pickle is malformed or holds more than plain data: {fault}")


# The globals of Python itself that plain data use; __builtin__ is Python 2's name, which protocol 2 keeps.
PLAIN = {
    name: Function(name, call)
    for name, call in {
        "collections.OrderedDict": _ordered_dict,
        "collections.Counter": _counter,
        "_codecs.encode": _encode,
        "builtins.set": _set,
        "__builtin__.set": _set,
        "builtins.bytes": _bytes,
        "__builtin__.bytes": _bytes,
        "builtins.complex": _complex,
        "__builtin__.complex": _complex,
        "builtins.bytearray": _bytearray,
        "__builtin__.bytearray": _bytearray,
    }.items()
}

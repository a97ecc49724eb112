"""Pickles read without executing anything: classes and functions are only names, and calling one creates an `Object`.

The standard unpickler calls what a pickle names. This one has the same stack and memo, but only lists, tuples, dicts
and the functions of a table, so other objects are not instantiated, and a hostile pickle can call nothing. Nesting
needs no recursion, and the number of opcodes is limited.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

#: The maximum number of opcodes of a pickle; a checkpoint of a thousand layers with its optimiser has 200,000.
MAX_OPCODES = 2_000_000


class Unreadable(Exception):
    """The content of a file does not match its first bytes. The message gives the reason."""


@dataclass(slots=True, eq=False)
class Object:
    """An object that is not instantiated: the name of its class or function, the arguments, and the state that was set
    later."""

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: dict[str, Any] = field(default_factory=dict)


#: The functions that a pickle may call, by name. They must be safe for any arguments.
Makers = Mapping[str, Callable[..., Any]]


def read(file: BinaryIO, makers: Makers, persistent: Callable[[Any], Any]) -> Any:
    """Return the object of the pickle at the current position of a file. `persistent` creates objects that are stored
    outside.

    Raises Unreadable unless it is a pickle of limited length.
    """
    machine = _Machine(makers, persistent)
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(cast("BinaryIO", _Bounded(file)))):
            if number >= MAX_OPCODES:
                raise Unreadable(f"its pickle has more than {MAX_OPCODES:,} opcodes")
            machine.step(opcode.name, argument)
        return machine.pop()
    except MemoryError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise Unreadable(f"its pickle is damaged: {str(error).partition(chr(10))[0]}") from None


class _Bounded:
    """A file of which no more bytes are requested than it has, since reading allocates the requested size."""

    def __init__(self, file: BinaryIO) -> None:
        self.readline, self.tell, self._read = file.readline, file.tell, file.read
        start = file.tell()
        self.end = file.seek(0, io.SEEK_END)
        file.seek(start)

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer at the end."""
        return self._read(min(size, self.end - self.tell()) if size > 4096 else size)


class _Machine:
    """The stack and the memo of an unpickler."""

    def __init__(self, makers: Makers, persistent: Callable[[Any], Any]) -> None:
        self.makers, self.persistent = makers, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def step(self, name: str, argument: Any) -> None:
        """Execute one opcode; `argument` is the value that it contains."""
        if name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif name in OPCODES:
            OPCODES[name](self, argument)
        elif argument is not None and name not in UNSUPPORTED:
            self.stack.append(argument)
        else:
            raise ValueError(f"unsupported opcode {name}")

    def pop(self) -> Any:
        """Remove and return the top of the stack, but no value below the last mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise IndexError("the stack is empty")
        return self.stack.pop()

    def top(self) -> Any:
        """Return the top of the stack."""
        self.stack.append(value := self.pop())
        return value

    def marked(self) -> list[Any]:
        """Remove and return everything above the last mark."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def tuple_of(self, length: int) -> None:
        """Replace the top values by a tuple of them."""
        self.stack.append(tuple([self.pop() for _ in range(length)][::-1]))

    def remember(self, index: int) -> None:
        """Put the top of the stack into the memo."""
        if not 0 <= index <= MAX_OPCODES:  # also prevents hash collisions of chosen integers
            raise IndexError("memo index out of range")
        self.memo[index] = self.top()

    def call(self, function: Any, arguments: Any) -> None:
        """Push the result of a known function, or an Object for an unknown one."""
        if not isinstance(function, Object) or not isinstance(arguments, tuple):
            raise TypeError("a call of what is not a function")
        self.copied += sum(len(each) for each in arguments if isinstance(each, list | tuple))
        if max(self.copied, len(arguments)) > MAX_OPCODES:  # the same long list could be passed repeatedly
            raise Unreadable("its pickle is too large")
        maker = self.makers.get(function.name)
        self.stack.append(maker(*arguments) if maker else Object(function.name, arguments))

    def put(self, pairs: list[Any]) -> None:
        """Set items of the top of the stack. Keys that are not strings do not name tensors, and are dropped."""
        target = self.top()
        items = target.items if isinstance(target, Object) else target
        if isinstance(items, dict):
            items.update((k, v) for k, v in zip(pairs[::2], pairs[1::2], strict=True) if isinstance(k, str))

    def extend(self, values: list[Any]) -> None:
        """Append values to the top of the stack; values for anything but a list are dropped."""
        target = self.top()
        if isinstance(target, list):
            target.extend(values)

    def build(self, state: Any) -> None:
        """Set the state of the object at the top of the stack."""
        target = self.top()
        if isinstance(target, Object):
            target.state = state

    def new(self, keywords: int) -> None:
        """Create an object from a class and arguments, with keyword arguments if `keywords` is 1; these are dropped."""
        del self.stack[len(self.stack) - keywords :]
        arguments = self.pop()
        self.call(self.pop(), arguments)


#: Opcodes that push a new value.
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": list,
}  # fmt: skip
#: Opcodes with an argument that is not a value.
UNSUPPORTED = ("EXT1", "EXT2", "EXT4")


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    machine.stack.append(Object(f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "?"))


def _dict(machine: _Machine, _: Any) -> None:
    pairs = machine.marked()
    machine.stack.append({})
    machine.put(pairs)


def _object(machine: _Machine, _: Any) -> None:
    function, *arguments = machine.marked()
    machine.call(function, tuple(arguments))


#: The action of each other opcode on the machine, given its argument.
OPCODES: dict[str, Callable[[_Machine, Any], Any]] = {
    "PROTO": lambda m, a: None,
    "FRAME": lambda m, a: None,
    "STOP": lambda m, a: None,
    "MARK": lambda m, a: m.marks.append(len(m.stack)),
    "POP": lambda m, a: m.marks.pop() if m.marks and m.marks[-1] == len(m.stack) else m.pop(),
    "POP_MARK": lambda m, a: m.marked(),
    "DUP": lambda m, a: m.stack.append(m.top()),
    "TUPLE": lambda m, a: m.stack.append(tuple(m.marked())),
    "TUPLE1": lambda m, a: m.tuple_of(1),
    "TUPLE2": lambda m, a: m.tuple_of(2),
    "TUPLE3": lambda m, a: m.tuple_of(3),
    "LIST": lambda m, a: m.stack.append(m.marked()),
    "FROZENSET": lambda m, a: m.stack.append(m.marked()),
    "DICT": _dict,
    "APPEND": lambda m, a: m.extend([m.pop()]),
    "APPENDS": lambda m, a: m.extend(m.marked()),
    "ADDITEMS": lambda m, a: m.extend(m.marked()),
    "SETITEM": lambda m, a: m.put([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, a: m.put(m.marked()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, a: m.remember(a)),
    "MEMOIZE": lambda m, a: m.remember(len(m.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, a: m.stack.append(m.memo[a])),
    "GLOBAL": lambda m, a: m.stack.append(Object(a.replace(" ", ".", 1))),
    "STACK_GLOBAL": _stack_global,
    "INST": lambda m, a: m.call(Object(a.replace(" ", ".", 1)), tuple(m.marked())),
    "OBJ": _object,
    "REDUCE": lambda m, a: m.new(0),
    "NEWOBJ": lambda m, a: m.new(0),
    "NEWOBJ_EX": lambda m, a: m.new(1),
    "BUILD": lambda m, a: m.build(m.pop()),
    "PERSID": lambda m, a: m.stack.append(m.persistent(a)),
    "BINPERSID": lambda m, a: m.stack.append(m.persistent(m.pop())),
}

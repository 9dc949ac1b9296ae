"""Pickles of strangers as plain trees: instructions are followed, nothing that they name is looked up or called.

`torch.load(weights_only=True)`, with an inert class for each name, cannot take its place (measured on torch 2.14). It
refuses whole modules in torch's format before 1.6, whose names `get_unsafe_globals_in_checkpoint` cannot list either,
TorchScript archives such as CLIP's own, pickle protocols 4 and 5, and a file in which a `defaultdict` or another class
of dict is next to the weights. What it does read it does not bound: 389 bytes that name `bytearray` or `FloatTensor`
take 6.6 GB of memory, a key of 30 nested tuples takes 22 s to hash and each further level doubles that, and mapped
numbers that have changed pass. To guard it one has to follow the pickle first, and then the result is there already.
So the standard library's `pickletools` takes the instructions apart and this module keeps what they build: no key is
hashed, no attribute is set, no length is believed.
"""

from __future__ import annotations

import mmap
import pickle
import pickletools
from collections.abc import Callable
from typing import IO, Any

MOST_STEPS = 2_000_000
"""Instructions that are followed, in about ten seconds. Weights are outside, at about 30 instructions a tensor."""


class Name(str):
    """A class or function that a pickle asks for, by its full name."""

    __slots__ = ()


class Table(list[Any]):
    """A dict, as the list of its keys and values in turn."""

    __slots__ = ()

    @property
    def pairs(self) -> list[tuple[Any, Any]]:
        """Keys with their values."""
        return list(zip(self[::2], self[1::2], strict=True))


class Storage:
    """A persistent object: the numbers of a tensor, which are outside the pickle."""

    __slots__ = ("id",)

    def __init__(self, id: Any) -> None:
        self.id = id


class Made:
    """What calling a name would make: whom it calls, with what, and what is put into it afterwards."""

    __slots__ = ("arguments", "is_module", "items", "maker", "state")

    def __init__(self, maker: Any, arguments: Any) -> None:
        self.maker = maker
        self.arguments = arguments if isinstance(arguments, tuple) else ()
        self.items = Table()
        self.state: Any = None
        self.is_module: bool | None = None  # not looked into yet


class Tree:
    """One pickle, followed to its end.

    >>> Tree(pickle.dumps({"epoch": 3})).content
    ['epoch', 3]
    >>> Tree(b"cos\\nsystem\\n(S'rm -r .'\\ntR.").content.maker
    'os.system'

    Attributes:
        content: what the pickle holds: numbers, text, tuples, lists, and the classes of this module.
        named: every class and function that it names.
        storages: every persistent object.

    Raises:
        ValueError, LookupError, TypeError, AttributeError, OverflowError: for what is no pickle, or a damaged one.
    """

    def __init__(self, file: bytes | IO[bytes] | mmap.mmap) -> None:
        self.named: set[str] = set()
        self.storages: list[Storage] = []
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._left = MOST_STEPS
        for instruction, argument, _ in pickletools.genops(file):  # type: ignore[arg-type]  # a mapped file reads as any other
            self._spend(1)
            if instruction.name in _PLAIN:
                self._stack.append(argument)
            elif instruction.name in _STEPS:
                _STEPS[instruction.name](self, argument)
            else:
                raise pickle.UnpicklingError(f"no checkpoint has the instruction {instruction.name}")
        self.content = self._stack.pop()

    def _spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise pickle.UnpicklingError(f"it has over {MOST_STEPS:,} instructions")

    def _since_mark(self) -> list[Any]:
        place = self._marks.pop()
        items = self._stack[place:]
        del self._stack[place:]
        return items

    def _pop(self, _: Any) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def _tuple(self, count: int) -> None:
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, Made):  # a list or a set of an unknown class: what is in it is no weight
            raise pickle.UnpicklingError("it appends to what is no list")

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        target = target.items if isinstance(target, Made) else target
        if not isinstance(target, Table) or len(items) % 2:
            raise pickle.UnpicklingError("it sets items of what is no dict")
        target.extend(items)

    def _global(self, module: str, name: str) -> None:
        self._stack.append(Name(f"{module}.{name}"))
        self.named.add(self._stack[-1])

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if type(name) is not str or type(module) is not str:
            raise pickle.UnpicklingError("a class has a name that is no text")
        self._global(module, name)

    def _make(self, arguments: Any) -> None:
        made = Made(self._stack.pop(), arguments)
        self._stack.append(made)
        if made.maker == "collections.OrderedDict" and made.arguments:  # Python 2 gives it its pairs at once
            self._spend(len(made.arguments[0]))
            self._set([part for key, value in made.arguments[0] for part in (key, value)])

    def _make_with_keywords(self, _: Any) -> None:
        self._stack.pop()
        self._make(self._stack.pop())

    def _make_since_mark(self, maker: str | None) -> None:
        items = self._since_mark()
        if maker is None:
            self._stack.append(items.pop(0))
        else:
            self._global(*maker.split(" ", 1))
        self._make(tuple(items))

    def _build(self, _: Any) -> None:
        state = self._stack.pop()
        if not isinstance(self._stack[-1], Made):
            raise pickle.UnpicklingError("it gives a state to what has none")
        self._stack[-1].state = state

    def _remember(self, place: int) -> None:
        self._memo[place] = self._stack[-1]

    def _persist(self, id: Any) -> None:
        if isinstance(id, tuple) and len(id) > 1 and id[0] == "module":  # the old format's class with its source text
            self._stack.append(id[1])
        else:
            self.storages.append(Storage(id))
            self._stack.append(self.storages[-1])


_PLAIN = frozenset(
    (
        "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING "
        "SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8"
    ).split()
)
"""Instructions that put their argument on the stack. EXT1 and NEXT_BUFFER, which need more than the file, are none."""
_STEPS: dict[str, Callable[[Tree, Any], Any]] = {
    "PROTO": lambda tree, _: None,
    "FRAME": lambda tree, _: None,
    "STOP": lambda tree, _: None,
    "MARK": lambda tree, _: tree._marks.append(len(tree._stack)),
    "POP": Tree._pop,
    "POP_MARK": lambda tree, _: tree._since_mark(),
    "DUP": lambda tree, _: tree._stack.append(tree._stack[-1]),
    "EMPTY_TUPLE": lambda tree, _: tree._stack.append(()),
    "EMPTY_LIST": lambda tree, _: tree._stack.append([]),
    "EMPTY_SET": lambda tree, _: tree._stack.append([]),
    "EMPTY_DICT": lambda tree, _: tree._stack.append(Table()),
    "TUPLE": lambda tree, _: tree._stack.append(tuple(tree._since_mark())),
    "TUPLE1": lambda tree, _: tree._tuple(1),
    "TUPLE2": lambda tree, _: tree._tuple(2),
    "TUPLE3": lambda tree, _: tree._tuple(3),
    "LIST": lambda tree, _: tree._stack.append(tree._since_mark()),
    "FROZENSET": lambda tree, _: tree._stack.append(tree._since_mark()),
    "DICT": lambda tree, _: tree._stack.append(Table(tree._since_mark())),
    "APPEND": lambda tree, _: tree._extend([tree._stack.pop()]),
    "APPENDS": lambda tree, _: tree._extend(tree._since_mark()),
    "ADDITEMS": lambda tree, _: tree._extend(tree._since_mark()),
    "SETITEM": lambda tree, _: tree._set([tree._stack.pop(-2), tree._stack.pop()]),
    "SETITEMS": lambda tree, _: tree._set(tree._since_mark()),
    "PUT": Tree._remember,
    "BINPUT": Tree._remember,
    "LONG_BINPUT": Tree._remember,
    "MEMOIZE": lambda tree, _: tree._remember(len(tree._memo)),
    "GET": lambda tree, place: tree._stack.append(tree._memo[place]),
    "BINGET": lambda tree, place: tree._stack.append(tree._memo[place]),
    "LONG_BINGET": lambda tree, place: tree._stack.append(tree._memo[place]),
    "GLOBAL": lambda tree, name: tree._global(*name.split(" ", 1)),
    "STACK_GLOBAL": Tree._stack_global,
    "REDUCE": lambda tree, _: tree._make(tree._stack.pop()),
    "NEWOBJ": lambda tree, _: tree._make(tree._stack.pop()),
    "NEWOBJ_EX": Tree._make_with_keywords,
    "OBJ": lambda tree, _: tree._make_since_mark(None),
    "INST": Tree._make_since_mark,
    "BUILD": Tree._build,
    "PERSID": Tree._persist,
    "BINPERSID": lambda tree, _: tree._persist(tree._stack.pop()),
}
"""What each other instruction does to the tree."""

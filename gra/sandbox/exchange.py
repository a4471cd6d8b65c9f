"""Run the two halves of a job: one process has the code, the other the tests, and pipes join them.

The tests never hold objects of the code. They hold stand-ins, whose calls travel to the other process, and the plain
data that comes back. The code may exit, replace modules, make objects that equal everything, or search its memory for
the expected answers. All of this happens in its own interpreter: it can only answer calls, well or badly.

Only the standard library is imported: both halves run in the bare interpreter of the sandbox.
"""

from __future__ import annotations

import ast
import builtins
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NoReturn

from gra.sandbox.codec import ABSENT, decode, encode

_DETAIL = 300  # characters of a message


class Gone(BaseException):
    """The process at the other end has ended, or what it sends cannot be read."""


class Channel:
    """Sends and receives messages over a pair of pipes: four bytes of length, then JSON."""

    def __init__(self, read: int, write: int, most: int) -> None:
        self._read, self._write, self._most = read, write, most

    def send(self, message: Any) -> None:
        """Write one message.

        Raises:
            ValueError: when it is larger than the other side would read.
            Gone: when the other side has ended.
        """
        content = json.dumps(message).encode()
        if len(content) > self._most:
            raise ValueError(f"a value of {len(content):,} bytes is more than may be handed over")
        view = memoryview(len(content).to_bytes(4, "big") + content)
        while view:
            try:
                view = view[os.write(self._write, view) :]
            except OSError:
                raise Gone from None

    def receive(self) -> Any:
        """Read one message; raises Gone when there is none, or none that can be read."""
        size = int.from_bytes(self._exactly(4), "big")
        if size > self._most:
            raise Gone
        try:
            return json.loads(self._exactly(size))
        except (ValueError, RecursionError):
            raise Gone from None

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = os.read(self._read, min(size, 1 << 20))
            if not part:
                raise Gone
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


# The code's half


class CodeHost:
    """Runs the code and then answers calls until the pipe closes."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._kept: list[Any] = []
        self._module = ModuleType("solution")

    def serve(self, code: str) -> NoReturn:
        """Run the code and answer calls; never return. A SystemExit of the code ends the process, as in any program."""
        sys.modules["solution"] = self._module
        try:
            self._reply(lambda: exec(compile(code, "<solution>", "exec"), vars(self._module)))
            while True:
                request = self._channel.receive()
                self._reply(partial(self._answer, request))
        except Gone:
            os._exit(0)

    def _reply(self, work: Callable[[], Any]) -> None:
        try:
            self._channel.send({"value": work()})
        except Exception as error:
            # Outside the block: an error that holds large values must not outlive this.
            message = {"raised": _builtin_name(error), "text": _text(error)}
        else:
            return
        self._channel.send(message)

    def _answer(self, request: dict[str, Any]) -> Any:
        if request["do"] == "names":
            found = {name: vars(self._module)[name] for name in request["names"] if name in vars(self._module)}
            return {name: encode(value, self._keep) for name, value in found.items()}
        arguments = [decode(a, self._fetch) for a in request["args"]]
        keywords = {key: decode(a, self._fetch) for key, a in request["kwargs"].items()}
        target = self._kept[request["object"]]
        result = encode(_OPERATIONS[request["do"]](target, *arguments, **keywords), self._keep)
        # A function may be there for what it does to its arguments.
        after = [
            [place, encode(argument, self._keep)]
            for place, argument in enumerate(arguments)
            if type(argument) in (list, dict, set, bytearray)
        ]
        return {"result": result, "changed": [pair for pair in after if pair[1] != request["args"][pair[0]]]}

    def _keep(self, value: Any) -> int:
        self._kept.append(value)
        return len(self._kept) - 1

    def _fetch(self, number: int, below: Any) -> Any:
        return self._kept[number] if number >= 0 else _Callback(self._channel, -number - 1, self._keep, self._fetch)


class _Callback:
    """Stands for a function of the tests, in the code's process."""

    def __init__(self, channel: Channel, number: int, keep: Callable[[Any], int], fetch: Callable[..., Any]) -> None:
        self._channel, self._number, self._keep, self._fetch = channel, number, keep, fetch

    def __call__(self, *arguments: Any) -> Any:
        self._channel.send({"callback": self._number, "args": [encode(a, self._keep) for a in arguments]})
        answer = self._channel.receive()
        if "raised" in answer:
            raise _exception(answer)
        return decode(answer["value"], self._fetch)


def _instance(kind: Any, value: Any) -> bool:
    return isinstance(value, kind)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda target, *args, **kwargs: target(*args, **kwargs),
    "getattr": getattr, "setattr": setattr, "delattr": delattr, "instance": _instance,
    "iter": iter, "next": next, "len": len, "bool": bool, "str": str, "repr": repr,
    "getitem": lambda target, key: target[key],
    "setitem": lambda target, key, value: target.__setitem__(key, value),
    "delitem": lambda target, key: target.__delitem__(key),
    "enter": lambda target: target.__enter__(), "exit": lambda target: target.__exit__(None, None, None),
    "eq": lambda one, two: bool(one == two), "lt": lambda one, two: bool(one < two),
    "le": lambda one, two: bool(one <= two), "gt": lambda one, two: bool(one > two),
    "ge": lambda one, two: bool(one >= two), "add": lambda one, two: one + two, "sub": lambda one, two: one - two,
    "mul": lambda one, two: one * two,
}  # fmt: skip


# The tests' half


class StandIn:
    """Stands for an object of the code, in the tests' process.

    The object cannot decide how it compares with the tests' own data. It equals plain data only when it is
    plain data itself, such as a list, with the same content. Sums and order work between two stand-ins only.
    """

    def __init__(self, tester: Tester, number: int, below: Any) -> None:
        self.__dict__.update(_tester=tester, _number=number, _below=below)

    def _do(self, what: str, *arguments: Any, **keywords: Any) -> Any:
        return self._tester.ask(what, self, arguments, keywords)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call the object in the other process."""
        return self._do("call", *arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        return self._do("getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._do("setattr", name, value)

    def __delattr__(self, name: str) -> None:
        self._do("delattr", name)

    def __iter__(self) -> Any:
        return self._do("iter")

    def __next__(self) -> Any:
        return self._do("next")

    def __len__(self) -> int:
        return int(self._do("len"))

    def __bool__(self) -> bool:
        return bool(self._do("bool"))

    def __str__(self) -> str:
        return str(self._do("str"))

    def __repr__(self) -> str:
        return str(self._do("repr"))

    def __getitem__(self, key: Any) -> Any:
        return self._do("getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._do("setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        self._do("delitem", key)

    def __enter__(self) -> Any:
        return self._do("enter")

    def __exit__(self, *_: object) -> None:
        self._do("exit")

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, StandIn) and bool(self._do("instance", value))

    def __hash__(self) -> int:
        return hash(self._number)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, StandIn):
            return self._number == other._number or bool(self._do("eq", other))
        return self._below is not ABSENT and bool(self._below == other)


def _between_stand_ins(name: str) -> Callable[[StandIn, Any], Any]:
    def method(self: StandIn, other: Any) -> Any:
        return self._do(name, other) if isinstance(other, StandIn) else NotImplemented

    return method


for _name in ("lt", "le", "gt", "ge", "add", "sub", "mul"):
    setattr(StandIn, f"__{_name}__", _between_stand_ins(_name))


class Tester:
    """Runs the tests over a channel to the code."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._functions: list[Any] = []
        self._gone = False

    def verdict(self, job: dict[str, Any]) -> dict[str, str]:
        """Run the tests and return `verdict` ("passed", "failed", "memory" or "gone") and `detail`; never raise."""
        try:
            self._result()
            namespace: dict[str, Any] = {"__name__": "tests"}
            exec(compile(job["preamble"], "<preamble>", "exec"), namespace)
            namespace.update(self._names(job, namespace))
            exec(compile(job["tests"], "<tests>", "exec"), namespace)
        except Gone:
            return {"verdict": "gone", "detail": ""}
        except MemoryError:
            return {"verdict": "memory", "detail": "MemoryError"}
        except BaseException as error:
            # A test may have caught what the end of the code's process raised and gone on.
            verdict = "gone" if self._gone else "failed"
            return {"verdict": verdict, "detail": _describe(error, job["tests"])}
        return {"verdict": "gone" if self._gone else "passed", "detail": ""}

    def _names(self, job: dict[str, Any], namespace: dict[str, Any]) -> dict[str, Any]:
        """Return the code's globals that the tests use.

        The code cannot replace a built-in name or a name of the preamble. It cannot put an object of its own in the
        place of a module of the standard library either.
        """
        tree = list(ast.walk(ast.parse(job["tests"])))
        used = {node.id for node in tree if isinstance(node, ast.Name)}
        owners = {
            node.value.id for node in tree if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        }
        modules = (owners & sys.stdlib_module_names) - {job["entry_point"]}
        wanted = {name for name in used if name not in namespace and not hasattr(builtins, name)}
        if job["entry_point"]:
            namespace.pop(job["entry_point"], None)
            wanted.add(job["entry_point"])
        found = self._exchange({"do": "names", "names": sorted(wanted)})
        values = {name: decode(found[name], self._fetch) for name in wanted if name in found}
        return {name: value for name, value in values.items() if name not in modules or type(value) is ModuleType}

    def ask(self, what: str, target: StandIn, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Make the code's process perform an operation on one of its objects, and return the result."""
        request = {
            "do": what,
            "object": target._number,
            "args": [encode(a, self._keep) for a in arguments],
            "kwargs": {key: encode(a, self._keep) for key, a in keywords.items()},
        }
        try:
            answer = self._exchange(request)
        except StopIteration as error:
            if what == "next":
                raise
            # Else it would end a `map` of the tests early and in silence; compare PEP 479.
            raise RuntimeError(f"the code raised StopIteration: {error}") from None
        for place, after in answer["changed"]:
            _update(arguments[place], decode(after, self._fetch))
        return decode(answer["result"], self._fetch)

    def _exchange(self, request: dict[str, Any]) -> Any:
        try:
            self._channel.send(request)
        except Gone:
            self._gone = True
            raise
        return self._result()

    def _result(self) -> Any:
        try:
            message = self._channel.receive()
            while "callback" in message:
                self._call_back(message)
                message = self._channel.receive()
        except (Gone, TypeError, KeyError, IndexError):
            self._gone = True
            raise Gone from None
        if "raised" in message:
            raise _exception(message)
        return message["value"]

    def _call_back(self, message: dict[str, Any]) -> None:
        try:
            result = self._functions[message["callback"]](*(decode(a, self._fetch) for a in message["args"]))
            self._channel.send({"value": encode(result, self._keep)})
        except Exception as error:
            self._channel.send({"raised": _builtin_name(error), "text": _text(error)})

    def _keep(self, value: Any) -> int:
        """Return the number of a stand-in's object, or a number below zero for a function of the tests."""
        if isinstance(value, StandIn):
            return int(value._number)
        if not callable(value):
            raise TypeError(f"a {type(value).__name__} of the tests cannot be handed to the code")
        self._functions.append(value)
        return -len(self._functions)

    def _fetch(self, number: int, below: Any) -> Any:
        return StandIn(self, number, below) if number >= 0 else self._functions[-number - 1]


def _update(before: Any, after: Any) -> None:
    if isinstance(before, list | bytearray):
        before[:] = after
    elif isinstance(before, dict | set):
        before.clear()
        before.update(after)


def _exception(message: dict[str, Any]) -> Exception:
    kind = getattr(builtins, str(message["raised"]), None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = RuntimeError
    try:
        return kind(str(message["text"]))
    except TypeError:  # it wants more arguments
        return RuntimeError(f"{kind.__name__}: {message['text']}")


def _builtin_name(error: BaseException) -> str:
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")


def _text(error: BaseException) -> str:
    try:
        return str(error)[:_DETAIL]
    except Exception:
        return "(its text raises an error)"


def _describe(error: BaseException, tests: str) -> str:
    """Return an error with the line of the tests that it came from."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<tests>":
            line = trace.tb_lineno
        trace = trace.tb_next
    source = tests.splitlines()[line - 1].strip() if line else ""
    text = f"{type(error).__name__}: {_text(error)}".removesuffix(": ")
    return f"{text} in `{source[:_DETAIL]}`" if source else text

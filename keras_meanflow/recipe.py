"""Tasks and methods: Python functions whose keyword arguments are the knobs of a training run.

They are found and shown by reading their source, without importing Keras or a backend.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import importlib.util
import types
import typing
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True}
_BOOLEANS |= {"false": False, "no": False, "off": False, "0": False}


def task(function: Callable | None = None, **mark: Any) -> Callable:
    """Marks a function as a task: data, a network, an optimizer and a budget.

    All its arguments are knobs. It returns a `keras_meanflow.training.Task`, or a complete
    `Training`, which takes no method. The arguments of the decorator are literals.

    Args:
        function: the function.
        has: what methods may need from a task: "DiT" (the network is a DiT), "noise" (samples
            start from noise only), "pairs" (the data is pairs of noisy and clean samples).
        every: settings for all methods, knob -> value; a method ignores knobs that it does not
            have.
        sizes: for a task with the knob `size`: size -> settings.
        methods: method -> its settings; "METHOD SIZE" for one size. The first is the default.

    Example:
        >>> @task(has=("DiT", "noise"), methods={"mean_flow": {}, "alpha_flow": {"until": 0.8}})
        ... def mine(*, steps: int = 1000, learning_rate: float = 1e-3) -> Task:
        ...     ...
    """
    return _marked("task", function, mark)


def method(function: Callable | None = None, **mark: Any) -> Callable:
    """Marks a function as a method: one paper, an objective and its knobs.

    The first argument is the `Task`; all others are knobs. It returns a
    `keras_meanflow.training.Method`.

    Args:
        function: the function.
        needs: what the task must have; see `task`.

    Example:
        >>> @method(needs=("noise",))
        ... def halfway(task, *, fraction_r_equals_t: float = 0.5) -> Method:
        ...     return Method(HalfwayMeanFlow(times=task.law(fraction_r_equals_t)))
    """
    return _marked("method", function, mark)


def _marked(kind, function, mark):
    if function is None:
        return functools.partial(_marked, kind, mark=mark)
    function.recipe_kind, function.recipe_mark = kind, mark
    return function


@dataclasses.dataclass(frozen=True)
class Found:
    """A task or a method found in a file, not yet imported.

    Args:
        name: name of the function.
        kind: "task" or "method".
        file: the file that contains it.
        doc: its docstring.
        defaults: knob -> its default, as source text.
        mark: the arguments of the decorator.
    """

    name: str
    kind: str
    file: Path
    doc: str
    defaults: dict
    mark: dict

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.doc.partition("\n")[0]

    @property
    def address(self) -> str:
        """What `find` takes: the name, or FILE:NAME for a user's file."""
        shipped = self.file.is_relative_to(_folder())
        return self.name if shipped else f"{self.file}:{self.name}"

    def load(self) -> Callable:
        """The function. This imports its file, and Keras."""
        return getattr(import_file(self.file), self.name)


def import_file(file: str | Path) -> types.ModuleType:
    """The module of a file of Python code, which this runs, once.

    Raises:
        ValueError: for a file that does not exist, or is no `.py` file.
    """
    path = Path(file).resolve()
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"There is no .py file {file}.")
    return _module(path, path.stat().st_mtime_ns)


@functools.cache
def _module(file, changed):
    """The module of a file; one, so that the classes in it are the same for all who load it."""
    del changed  # of its last change: a changed file is another module
    spec = importlib.util.spec_from_file_location(f"recipe_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tasks() -> dict[str, Found]:
    """The tasks that come with the package, by name, in alphabetical order."""
    return _shipped("task")


def methods() -> dict[str, Found]:
    """The methods that come with the package, by name, in alphabetical order."""
    return _shipped("method")


def _shipped(kind):
    found = [one for file in _folder().glob(f"{kind}s/*.py") for one in found_in(file, kind)]
    return {one.name: one for one in sorted(found, key=lambda one: one.name)}


def _folder():
    """The folder of tasks and methods, in the wheel or in a checkout."""
    shipped = _PACKAGE / "_recipes"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "recipes"


def found_in(file: str | Path, kind: str) -> list[Found]:
    """The tasks or the methods in a Python file."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"), filename=str(file))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [_found(node, kind, Path(file).resolve()) for node in functions if _mark(node, kind)]


def _mark(function, kind):
    """The decorator that marks a function as this kind, or None."""
    for decorator in function.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if kind in (getattr(called, "attr", None), getattr(called, "id", None)):
            return decorator
    return None


def _found(function, kind, file):
    mark = _mark(function, kind)
    keywords = mark.keywords if isinstance(mark, ast.Call) else []
    pairs = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return Found(
        name=function.name,
        kind=kind,
        file=file,
        doc=ast.get_docstring(function) or "",
        defaults={a.arg: "(required)" if d is None else ast.unparse(d) for a, d in pairs},
        mark={keyword.arg: _literal(keyword.value) for keyword in keywords},
    )


def _literal(node):
    """The value of a literal; `dict(a=1)` is allowed for `{"a": 1}`."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "dict":
        return {keyword.arg: _literal(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {_literal(key): _literal(value) for key, value in pairs}
    return ast.literal_eval(node)


def find(name: str, kind: str, beside: Path | None = None) -> Found:
    """A task or method by its name, or by a user's `path/to/file.py` or `file.py:function`.

    Args:
        name: the name, or the path.
        kind: "task" or "method".
        beside: a file in which to look first, before the package.

    Raises:
        ValueError: for an unknown name, naming the nearest ones, or a file without any.

    Example:
        >>> find("digits", "task").load()(steps=10)
    """
    path, _, function = name.partition(".py:")
    if not function and not name.endswith(".py"):
        near = {one.name: one for one in found_in(beside, kind)} if beside else {}
        known = {**_shipped(kind), **near}
        if name not in known:
            raise ValueError(
                f"There is no {kind} {name!r}. {nearest(name, known)} For your own, give "
                "its file, as in my.py or my.py:function."
            )
        return known[name]
    file = Path(f"{path}.py" if function else name)
    if not file.is_file():
        raise ValueError(f"There is no file {file}.")
    return _choose({one.name: one for one in found_in(file, kind)}, function, file, kind)


def _choose(found, function, file, kind):
    if not found:
        raise ValueError(f"{file} must hold a function marked with @{kind}. It holds none.")
    if not function and len(found) > 1:
        names = ", ".join(f"{file}:{name}" for name in found)
        raise ValueError(f"{file} holds several {kind}s. Name one: {names}.")
    if function and function not in found:
        raise ValueError(f"{file} has no {kind} {function!r}. {nearest(function, found)}")
    return found[function] if function else next(iter(found.values()))


def nearest(name: str, known: Collection[str]) -> str:
    """A sentence: the known names that are close to `name`, or all of them."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    listed = f"There are: {', '.join(known)}."
    return f"Did you mean {' or '.join(near)}?" if near else listed


def read_setting(text: str, hint: object, name: str) -> object:
    """`text` converted to the first type of `hint` that it fits."""
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    kinds = typing.get_args(hint) if union else (hint,)
    for kind in sorted(kinds, key=lambda kind: kind is str):  # str is last: every text fits it
        try:
            return _read_as(text, kind)
        except ValueError:
            continue
    wanted = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise ValueError(f"{name} must be of type {wanted}. Received: {text!r}.")


def _read_as(text, kind):
    if kind is types.NoneType:
        if text.lower() != "none":
            raise ValueError
        return None
    if kind is bool:
        if text.lower() not in _BOOLEANS:
            raise ValueError
        return _BOOLEANS[text.lower()]
    if tuple in (kind, typing.get_origin(kind)):
        element = (typing.get_args(kind) or (str,))[0]
        return tuple(_read_as(part.strip(), element) for part in text.split(",") if part.strip())
    if kind is int and not text.lstrip("-").replace("_", "").isdigit():
        return _whole(float(text))
    return kind(text)


def _whole(value):
    """A float as an int, so that 1e5 is an integer too."""
    if not value.is_integer():
        raise ValueError
    return int(value)

"""Recipes: Python functions whose keyword arguments are the knobs of a training run.

Finding and showing them reads their source only: no Keras, no backend.
"""

import ast
import dataclasses
import difflib
import functools
import importlib.util
import inspect
import types
import typing
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True}
_BOOLEANS |= {"false": False, "no": False, "off": False, "0": False}


def recipe(function=None, *, extends=None):
    """Marks a function as a recipe: all its arguments are knobs, and it returns a `Training`.

    Args:
        function: the function.
        extends: another recipe of the same file, whose knobs this one has too and takes as
            `**knobs`.

    Example:
        >>> @recipe
        ... def mine(*, steps: int = 1000, learning_rate: float = 1e-3) -> Training:
        ...     ...
        >>> @recipe(extends=mine)
        ... def mine_from_short_to_long(**knobs) -> Training:
        ...     training = mine(**knobs)
        ...     Curriculum({"beta": ProgressiveGap()}).apply(training.flow_map)
        ...     return training
    """
    if function is None:
        return functools.partial(recipe, extends=extends)
    if extends is not None:
        own, base = inspect.signature(function), inspect.signature(extends)
        kept = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
        kept += [p for name, p in base.parameters.items() if name not in own.parameters]
        function.__signature__ = own.replace(parameters=kept)
        function.__annotations__ = {**extends.__annotations__, **function.__annotations__}
    function.is_recipe = True
    return function


@dataclasses.dataclass(frozen=True)
class Found:
    """A recipe that was found in a file, not yet imported.

    Args:
        name: of the function.
        file: that holds it.
        doc: its docstring.
        defaults: knob -> its default, as source text.
    """

    name: str
    file: Path
    doc: str
    defaults: dict

    @property
    def summary(self):
        """The first line of the docstring."""
        return self.doc.partition("\n")[0]

    @property
    def address(self):
        """What `find` finds it by: the name of one that ships, FILE:NAME of a user's own."""
        return self.name if self == recipes().get(self.name) else f"{self.file}:{self.name}"

    def load(self):
        """The function; its file is imported, and with it Keras."""
        spec = importlib.util.spec_from_file_location(f"recipe_{self.file.stem}", self.file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return getattr(module, self.name)


def recipes():
    """The recipes that come with the package, name -> `Found`, in alphabetical order."""
    found = [one for file in _folder().glob("*.py") for one in recipes_in(file)]
    return {one.name: one for one in sorted(found, key=lambda one: one.name)}


def _folder():
    """Where the wheel has them, or a checkout."""
    shipped = _PACKAGE / "_recipes"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "recipes"


def recipes_in(file):
    """The recipes of a Python file."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"), filename=str(file))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    return [_found(name, functions, file) for name in functions if _mark(functions[name])]


def _mark(function):
    """The decorator that makes a function a recipe, or None."""
    for decorator in function.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if recipe.__name__ in (getattr(called, "attr", None), getattr(called, "id", None)):
            return decorator
    return None


def _found(name, functions, file):
    doc = ast.get_docstring(functions[name]) or ""
    return Found(name, Path(file).resolve(), doc, _defaults(functions[name], functions))


def _defaults(function, functions):
    """Knob -> default of a recipe and of the one that it extends."""
    pairs = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    own = {a.arg: "(required)" if d is None else ast.unparse(d) for a, d in pairs}
    mark = _mark(function)
    keywords = mark.keywords if isinstance(mark, ast.Call) else []
    bases = [k.value.id for k in keywords if k.arg == "extends" and isinstance(k.value, ast.Name)]
    inherited = _defaults(functions[bases[0]], functions) if bases and bases[0] in functions else {}
    return {**own, **{knob: d for knob, d in inherited.items() if knob not in own}}


def find(name):
    """The `Found` of a recipe's name, or of a user's `path/to/file.py` or `file.py:function`.

    Raises:
        ValueError: for an unknown name, with the nearest ones, or a file without that recipe.

    Example:
        >>> find("digits").load()(steps=10)
    """
    path, _, function = name.partition(".py:")
    if not function and not name.endswith(".py"):
        known = recipes()
        if name not in known:
            raise ValueError(
                f"There is no recipe {name!r}. {_nearest(name, known)} Your own is the path of a "
                "file, as in my.py or my.py:function."
            )
        return known[name]
    file = Path(f"{path}.py" if function else name)
    if not file.is_file():
        raise ValueError(f"There is no file {file}.")
    return _choose({one.name: one for one in recipes_in(file)}, function, file)


def _choose(found, function, file):
    if not found:
        raise ValueError(f"{file} must hold a function marked with @recipe. It holds none.")
    if not function and len(found) > 1:
        names = ", ".join(f"{file}:{name}" for name in found)
        raise ValueError(f"{file} holds several recipes. Name one: {names}.")
    if function and function not in found:
        raise ValueError(f"{file} has no recipe {function!r}. {_nearest(function, found)}")
    return found[function] if function else next(iter(found.values()))


def _nearest(name, known):
    """The known names that `name` may stand for, in a sentence."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    listed = f"There are: {', '.join(known)}."
    return f"Did you mean {' or '.join(near)}?" if near else listed


def resolve(function, settings):
    """All knobs of a recipe by name, those of `settings` ("key=value" texts) in place.

    A value is read as what the knob's annotation says, or else as its default's type.

    Raises:
        ValueError: for an unknown knob, with the nearest ones, or a value of another type.

    Example:
        >>> resolve(digits, ["steps=100"])["steps"]
        100
    """
    knobs = inspect.signature(function).parameters
    hints = typing.get_type_hints(function)
    values = {name: knob.default for name, knob in knobs.items()}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"Settings are key=value. Received: {setting!r}.")
        if name not in knobs:
            raise ValueError(
                f"{function.__name__} has no knob {name!r}. {_nearest(name, list(knobs))}"
            )
        values[name] = _read(text, hints.get(name, type(values[name])), name)
    missing = [name for name, value in values.items() if value is inspect.Parameter.empty]
    if missing:
        raise ValueError(f"{function.__name__} needs --set {missing[0]}=...")
    return values


def _read(text, hint, name):
    """`text` as the first of the types of `hint` that it fits."""
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    kinds = typing.get_args(hint) if union else (hint,)
    for kind in sorted(kinds, key=lambda kind: kind is str):  # every text is a str: last
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
    """1e5 is an integer too."""
    if value != int(value):
        raise ValueError
    return int(value)

"""The two walls: only `backend/` imports a backend, and nothing imports upwards."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "keras_meanflow"
BACKENDS = {"jax", "jaxlib", "tensorflow", "torch", "orbax"}

# One folder a floor, from the ground up: each imports itself and those before it.
FLOORS = (
    "recipe backend files pictures parts networks samplers optimizers features metrics speech "
    "objectives codecs formats data flow_map evaluation training studies cli recipes"
).split()
LEVEL = {name: level for level, name in enumerate(FLOORS)}
FACADE = LEVEL["recipes"] - 0.5  # keras_meanflow/__init__.py leads to every floor of the package

MAY_IMPORT_A_BACKEND = {("files/readers.py", "orbax")}


def sources():
    """Yields (layer, path within its folder, text) of every file the walls hold for."""
    for folder in (PACKAGE, "recipes"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            within = path.relative_to(ROOT / folder)
            if folder == "recipes" or within.parts[0] != "_recipes":
                layer = "recipes" if folder == "recipes" else within.parts[0].removesuffix(".py")
                yield layer, within.as_posix(), path.read_text(encoding="utf-8")


def imported(tree, package):
    """Yields the full dotted names that `tree`, a file of `package`, imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
            yield from (package + name if name.startswith(".") else name for name in names)


def _absolute(node, package):
    if not node.level:
        return node.module
    parents = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parents, *filter(None, [node.module])])


def _called(node):
    return getattr(node.func, "attr", None) or getattr(node.func, "id", None)


def package_of(within):
    """The package a file of keras_meanflow/ belongs to."""
    return ".".join([PACKAGE, *Path(within).parts[:-1]])


def backend_imports(layer, within, text):
    """The backends that a file imports without the right to."""
    if layer == "backend":
        return []
    tops = {name.split(".")[0] for name in imported(ast.parse(text), package_of(within))}
    return sorted(top for top in tops & BACKENDS if (within, top) not in MAY_IMPORT_A_BACKEND)


def upward_imports(layer, within, text):
    """The modules of higher layers that a file imports."""
    if layer in ("__init__", "__main__"):
        return []
    names = set(imported(ast.parse(text), package_of(within)))
    return sorted(name for name in names if _level(name) > LEVEL[layer])


def _level(name):
    top, _, rest = name.partition(".")
    if top != PACKAGE or rest == "__version__":
        return -1
    return LEVEL.get(rest.split(".")[0], FACADE)


def keras_at_import(text):
    """The Keras imports that run when a file is imported, so not those inside its functions."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            node.body = []
    return sorted(n for n in imported(tree, PACKAGE) if n.split(".")[0] == "keras")


def run_python(code, backend):
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


FILES = list(sources())
BY_NAME = pytest.mark.parametrize(
    "layer, within, text", FILES, ids=[f"{layer}:{within}" for layer, within, _ in FILES]
)


@BY_NAME
def test_only_the_backend_folder_imports_a_backend(layer, within, text):
    assert backend_imports(layer, within, text) == []


@BY_NAME
def test_nothing_imports_upwards(layer, within, text):
    assert layer in LEVEL or layer in ("__init__", "__main__"), f"{within} has no floor"
    assert upward_imports(layer, within, text) == []


@pytest.mark.parametrize(
    "layer, within, line, found",
    [
        ("parts", "parts/times.py", "import torch", ["torch"]),
        ("parts", "parts/times.py", "def f():\n    from jax import numpy", ["jax"]),
        ("data", "data/images.py", "importlib.import_module('tensorflow.io')", ["tensorflow"]),
        ("files", "files/msgpack.py", "import orbax.checkpoint", ["orbax"]),
        ("files", "files/readers.py", "import orbax.checkpoint", []),
        ("backend", "backend/torch.py", "import torch", []),
        ("parts", "parts/times.py", "import keras\nfrom keras_meanflow.backend import jax", []),
    ],
)
def test_the_scanner_finds_a_backend_however_it_is_imported(layer, within, line, found):
    assert backend_imports(layer, within, line) == found


@pytest.mark.parametrize(
    "layer, within, line, upwards",
    [
        ("parts", "parts/times.py", "from keras_meanflow.objectives import MeanFlow", True),
        ("parts", "parts/times.py", "from keras_meanflow import flow_map", True),
        ("parts", "parts/times.py", "from keras_meanflow import FlowMap", True),
        ("parts", "parts/times.py", "import keras_meanflow.flow_map", True),
        ("networks", "networks/dit.py", "from ..flow_map import FlowMap", True),
        ("networks", "networks/dit.py", "from .layers import Attention", False),
        ("objectives", "objectives/mean_flow.py", "from ..parts import LogitNormal", False),
        ("objectives", "objectives/mean_flow.py", "from keras_meanflow import parts", False),
        ("training", "training/run.py", "from keras_meanflow import __version__", False),
        ("features", "features/inception.py", "from ..files.readers import read", False),
        ("features", "features/inception.py", "from ..formats.dit import read", True),
        ("recipes", "digits.py", "from keras_meanflow import FlowMap", False),
    ],
)
def test_the_scanner_finds_an_upward_import_however_it_is_spelled(layer, within, line, upwards):
    assert bool(upward_imports(layer, within, line)) is upwards


def test_the_scanner_tells_import_time_from_call_time():
    assert keras_at_import("if True:\n    from keras import ops") == ["keras.ops"]
    assert keras_at_import("def main():\n    import keras") == []


def test_the_command_line_imports_no_keras_before_it_has_chosen_the_backend():
    for path in (ROOT / PACKAGE / "cli").glob("*.py"):
        assert keras_at_import(path.read_text(encoding="utf-8")) == []
    code = f"import sys, {PACKAGE}.cli; print('keras' in sys.modules)"
    assert run_python(code, os.environ["KERAS_BACKEND"]) == "False"


@pytest.mark.any_backend
def test_importing_the_package_imports_only_the_selected_backend():
    """Beyond what `import keras` itself imports: Keras imports an installed jax on any backend."""
    code = (
        "import sys, keras; before = set(sys.modules)\n"
        f"import {PACKAGE} as package\n"
        "for name in getattr(package, '__all__', ()): getattr(package, name)\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    selected = os.environ["KERAS_BACKEND"]
    new = set(run_python(code, selected).splitlines()[-1].split())
    assert PACKAGE in new
    assert new & {"jax", "tensorflow", "torch", "orbax"} <= {selected}


FIRST = ["samplers", "parts", "files.saved", "flow_map.model", "evaluation"]


@pytest.mark.parametrize("name", FIRST)
def test_a_package_may_be_the_first_import_of_a_program(name):
    code = (
        f"import sys, keras_meanflow.{name} as module\n"
        "assert module is sys.modules[module.__name__]\n"
        "assert module.__spec__.origin == module.__file__\n"
        "import keras_meanflow.parts\n"
        "print(keras_meanflow.parts.Linear is sys.modules['keras_meanflow.parts.paths'].Linear)"
    )
    assert run_python(code, os.environ["KERAS_BACKEND"]).splitlines()[-1] == "True"


def functions_of(text):
    """Yields name and number of lines, without the docstring, of every function."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            described = ast.get_docstring(node, clean=False) is not None
            body = node.body[1:] if described else node.body
            yield node.name, node.end_lineno - body[0].lineno + 1 if body else 0


def test_files_and_functions_are_short():
    assert {path.name for path in (ROOT / PACKAGE).glob("*.py")} == {"__init__.py", "recipe.py"}
    long = {within: text.count("\n") for _, within, text in FILES if text.count("\n") > 350}
    assert long == {}
    lines = [length for _, _, text in FILES for _, length in functions_of(text)]
    assert sum(length <= 14 for length in lines) >= 0.9 * len(lines)

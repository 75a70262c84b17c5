"""One interface of three backends, read from the source: only one is importable at a time."""

import ast
from pathlib import Path

import pytest

from keras_meanflow import backend

FOLDER = Path(backend.__file__).parent
OF_ALL = {"BACKEND", "Tensor", "inside_jvp"}  # the same on every backend


def exported_and_defined(name):
    """`__all__` of a file as written, and the names that its top level binds."""
    tree = ast.parse((FOLDER / name).read_text(encoding="utf-8"))
    exported, defined = [], set()
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets = {target.id for target in node.targets if isinstance(target, ast.Name)}
            exported += ast.literal_eval(node.value) if "__all__" in targets else []
            defined |= targets
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {alias.asname or alias.name for alias in node.names}
    return exported, defined


@pytest.mark.parametrize("name", ["jax.py", "tensorflow.py", "torch.py"])
def test_each_backend_defines_the_names_that_the_package_exports(name):
    exported, defined = exported_and_defined(name)
    assert exported == sorted(set(exported)) and set(exported) <= defined
    assert set(exported) | OF_ALL == set(exported_and_defined("__init__.py")[0])


def test_every_exported_name_is_there_on_this_backend():
    assert all(hasattr(backend, name) for name in backend.__all__)

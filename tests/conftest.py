"""What every test gets: a backend chosen before Keras is imported, seeded draws, the real data."""

import gc
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

BACKENDS = ("jax", "tensorflow", "torch")
# One of several pytest workers keeps to one thread.
THREADS = "1" if "PYTEST_XDIST_WORKER" in os.environ else str(min(4, os.cpu_count() or 1))

os.environ.setdefault("KERAS_BACKEND", next(filter(find_spec, BACKENDS), "jax"))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("OMP_NUM_THREADS", THREADS)
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads starve a shared machine
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", THREADS)
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

if os.environ["KERAS_BACKEND"] == "jax":
    # XLA's compiler takes most of the time, and its later passes a third of that, for small models.
    quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), quick]).strip()
    # Tests and workers share what they compile: many of them make the same small models.
    cache = Path(tempfile.gettempdir()) / f"keras-meanflow-tests-{os.getuid()}"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import keras  # noqa: E402
import pytest  # noqa: E402
from commands import own  # noqa: E402, F401
from hub import hub  # noqa: E402, F401


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What does not depend on the backend is quick on the one that builds models quickest."""
    if os.environ["KERAS_BACKEND"] != "torch":
        for item in items:
            if item.get_closest_marker("any_backend"):
                item.add_marker("long")


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same draws, whichever ran before it."""
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def collected():
    """What the tests of a file have traced is freed: on TensorFlow it adds up to gigabytes."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real files: `$KMF_DATA`, or `../shared/data` beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("KMF_DATA", default))
    if not path.is_dir():
        pytest.skip(f"needs the real files of KMF_DATA or ../shared/data, but {path} is absent")
    return path

"""Wrote recipes_lock.json.gz: what each recipe of version 0.1.0 made, at reduced size.

Run at the commit that added this file, where recipes still were functions of their own, once a
backend: KERAS_BACKEND=jax PYTHONPATH=tests python tests/golden/recipes_lock.py, and so on.
"""

import gzip
import json
import sys
import tempfile
from pathlib import Path

import keras

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lock import GOLDEN, describe_training  # noqa: E402
from locked import VARIANTS, small_settings  # noqa: E402

from keras_meanflow.recipe import find, recipes  # noqa: E402


def describe(name, changes):
    with tempfile.TemporaryDirectory() as folder:
        settings = small_settings(name, find(name).defaults, Path(folder))
        keras.utils.set_random_seed(7)
        return describe_training(find(name).load()(**{**settings, **changes}))


locked = json.loads(gzip.decompress(GOLDEN.read_bytes())) if GOLDEN.exists() else {}
backend = keras.config.backend()
for name, changes in [*((name, {}) for name in recipes()), *VARIANTS]:
    key = " ".join([name, *(f"{k}={v}" for k, v in changes.items())])
    described = json.loads(json.dumps(describe(name, changes)))
    sums = described.pop("on_this_backend")
    entry = locked.setdefault(key, {**described, "on_this_backend": {}})
    assert {**entry, "on_this_backend": 0} == {**described, "on_this_backend": 0}, key
    entry["on_this_backend"][backend] = sums
    print(backend, key, flush=True)
GOLDEN.write_bytes(gzip.compress(json.dumps(locked, sort_keys=True).encode(), 9, mtime=0))

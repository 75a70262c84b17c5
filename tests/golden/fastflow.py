"""Writes fastflow.json: choices and walks of the released FastFlow code, run as it is.

    python tests/golden/fastflow.py PATH/src/flux/sampling.py

PATH is a checkout of github.com/Div290/FastFlow. Only its `UCB1Bandit`, `bandits` and
`denoise_with_ucb` are executed, so that PyTorch and NumPy suffice. Stored are the points on which
the release and our sampler mean the same: the arms that UCB1 takes after given rewards, and where
a walk arrives when the same steps call the velocity and the others take the same extrapolation.
Walks that end in a skip are left out: ours never skip the last step.
"""

import ast
import json
import sys
from pathlib import Path

import numpy as np

STEPS, ROUNDS, WALKS = 50, 200, 40
ARMS = (0, 2, 4, 6)
WEIGHT = 0.005  # of a skipped step in the release's reward
NAMES = {"UCB1Bandit", "bandits", "denoise_with_ucb"}


def released(path):
    """The namespace of the release's bandit and loop."""
    import torch
    import torch.nn.functional as F

    kept = []
    for node in ast.parse(Path(path).read_text()).body:
        targets = [getattr(target, "id", None) for target in getattr(node, "targets", ())]
        if NAMES & {getattr(node, "name", None), *targets}:
            kept.append(node)
    future = ast.parse("from __future__ import annotations").body
    namespace = {"np": np, "torch": torch, "F": F}
    exec(compile(ast.Module(future + kept, []), str(path), "exec"), namespace)
    return namespace


def squared_errors():
    """An error for each round and arm, larger for longer skips; overlapping."""
    draws = np.random.Generator(np.random.Philox(key=5)).uniform(0.5, 1.5, (ROUNDS, len(ARMS)))
    return 0.002 * (1.0 + np.array(ARMS)) * draws


def choices(bandit_class, c):
    """The arms that the release takes when each is followed by its reward."""
    bandit, taken = bandit_class(actions=list(ARMS), c=c), []
    for errors in squared_errors():
        arm = int(bandit.choose_action())
        bandit.update(arm, WEIGHT * arm - errors[ARMS.index(arm)])
        taken.append(arm)
    return taken


def noise(walk):
    """(2, 3) of a walk."""
    rng = np.random.Generator(np.random.Philox(key=[6, walk]))
    return rng.standard_normal((2, 3), "float32")


def walks(denoise):
    """The called steps and the last sample of the first walks that end in a call."""
    import torch

    kept, times = [], np.linspace(1.0, 0.0, STEPS + 1).tolist()
    for number in range(WALKS):
        called = []

        def velocity(img, timesteps, called=called, **others):
            called.append(round((1.0 - float(timesteps[0])) * STEPS))
            return torch.sin(2.0 * img) * timesteps[:, None] + torch.cos(3.0 * timesteps)[:, None]

        last, _ = denoise(velocity, torch.from_numpy(noise(number)), *[None] * 4, timesteps=times)
        if called[-1] == STEPS - 1:
            kept.append({"walk": number, "called": called, "last": last.tolist()})
    return kept[:6]


def main(path):
    namespace = released(path)
    golden = {
        "choices": {str(c): choices(namespace["UCB1Bandit"], c) for c in (2.0, 0.05, 0.002)},
        "walks": walks(namespace["denoise_with_ucb"]),
    }
    out = Path(__file__).with_suffix(".json")
    out.write_text(json.dumps(golden) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

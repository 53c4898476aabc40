"""The loss of each stage at its twentieth update, on drawn data: a change of form leaves these numbers.

Whoever changes what is computed puts the new numbers here: `python tests/test_golden.py` prints them.
"""

import dataclasses
import importlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

GOLDEN = {
    "lapo.py": {"lam": 0.06783704, "actor": 0.9754644, "decoder": 0.8363571},
    "laom.py": {"lam": 0.4455534, "actor": 0.9736842, "decoder": 0.8362803},
    "laom_supervised.py": {"lam": 0.6851884, "actor": 1.037529, "decoder": 0.8363247},
    "idm.py": {"idm": 0.9336753, "actor": 0.00153573},
    "bc.py": {"actor": 0.865406},
    "laom.py fsq": {"lam": 0.4644274, "actor": 0.9832843, "decoder": 0.8363586},
    "variants/lapo_vq.py": {"lam": 0.07355149, "actor": 0.9960689, "decoder": 0.8359776},
    "variants/masklam.py": {"lam": 0.02237092, "actor": 0.9841142, "decoder": 0.8361202},
}
UPDATES = 20
SIZES = {  # as far as a stage has them
    "batch_size": 16,
    "labeled_batch_size": 8,
    "encoder_scale": 1,
    "encoder_num_res_blocks": 1,
    "latent_action_dim": 128,
    "act_head_dim": 32,
    "obs_head_dim": 32,
    "hidden_dim": 32,
    "learning_rate": 1e-3,
    "warmup_epochs": 0.5,
    "future_obs_offset": 3,
    "num_epochs": 2,
    "num_updates": UPDATES,
}


class LastLoss:
    """Stands in for a Run: twenty updates of each stage, whose last loss is kept."""

    def __init__(self):
        self.losses = {}

    def steps(self, stage, total, batch_size, **parts):
        self.stage = stage.split("_")[0]
        yield from range(UPDATES)

    def log_due(self, step):
        return step + 1 == UPDATES

    def log(self, step, optim, loss, **values):
        self.losses[self.stage] = float(f"{loss.item():.7g}")

    def say(self, text):
        pass


def draw_data(path: Path):
    """Eight trajectories of 40 frames: a square that the actions move before a background that moves."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs.update(domain_name="drawn", task_name="square")
        for number in range(8):
            actions = rng.uniform(-1, 1, (40, 2)).astype(np.float32)
            positions = 28 + 6 * actions.cumsum(0).clip(-4, 4)
            obs = rng.integers(0, 60, (1, 64, 64, 3), np.uint8).repeat(40, 0)
            masks = np.zeros((40, 64, 64), np.uint8)
            for t, (y, x) in enumerate(positions.astype(int)):
                obs[t] = np.roll(obs[t], t, 1)
                obs[t, y : y + 8, x : x + 8] = (200, 100, 50)
                masks[t, y : y + 8, x : x + 8] = 1
            arrays = {"obs": obs, "actions": actions, "states": positions.astype(np.float32), "mask": masks}
            for name, array in arrays.items():
                file.create_dataset(f"{number}/{name}", data=array)


def small_args(method):
    args = dataclasses.replace(method.Args(), device="cpu", precision="fp32", compile=False)
    for stage in ("lam", "idm", "bc", "decoder"):
        cfg = getattr(args, stage, None)
        for name, value in SIZES.items():
            if hasattr(cfg, name):
                setattr(cfg, name, value)
    return args


def train(script: str, path: Path) -> dict[str, float]:
    """stage → loss at the last of its updates. Behind the script's name may stand a quantiser."""
    script, _, quantizer = script.partition(" ")
    method = importlib.import_module(Path(script).stem)
    args = small_args(method)
    if quantizer:
        args.lam.quantizer = quantizer
    data = method.Dataset([str(path)], args)
    index = data.transitions(data.shuffle[:4])
    run = LastLoss()
    if hasattr(method, "LAM"):
        labels = (data, index) if script == "laom_supervised.py" else ()
        lam = method.train_lam(args, data, *labels, "lam", run)
        actor = method.train_actor(args, data, lam, "actor", run)
        method.train_decoder(args, data, index, actor, "decoder", run)
    elif hasattr(method, "IDM"):
        idm = method.train_idm(args, data, index, "idm", run)
        everything = data.transitions(data.shuffle)
        labels = method.infer_all(args, idm, data, everything)
        num_updates = args.bc.num_epochs * (len(everything) // args.bc.batch_size)
        units = (idm.mean, idm.scale)
        method.train_actor(args, data, everything, labels, *units, num_updates, "actor", run)
    else:
        units = method.units_of(data.task, data.actions[index])
        labels = (data.actions[index] - units[0]) / units[1]
        method.train_actor(args, data, index, labels, *units, UPDATES, "actor", run)
    return run.losses


@pytest.fixture(scope="module")
def drawn_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("drawn") / "train.hdf5"
    draw_data(path)
    return path


@pytest.mark.parametrize("script", list(GOLDEN))
def test_twenty_updates(script, drawn_file):
    assert train(script, drawn_file) == pytest.approx(GOLDEN[script], rel=1e-4)


if __name__ == "__main__":
    import sys
    import tempfile

    root = Path(__file__).parents[1]
    sys.path[:0] = [str(root), str(root / "variants")]
    with tempfile.TemporaryDirectory() as folder:
        draw_data(Path(folder, "train.hdf5"))
        losses = {script: train(script, Path(folder, "train.hdf5")) for script in GOLDEN}
    print("GOLDEN =", json.dumps(losses, indent=4))

"""lapo.py: the quantiser, and what is learned."""

from pathlib import Path

import h5py
import numpy as np
import torch
from conftest import Recorder, parse

import lapo

# ---- The quantiser -----------------------------------------------------------------------------------------


def test_fsq(short_file):
    """z is -1 or 1; gradients pass as if nothing had been rounded."""
    z = torch.randn(64, 8, requires_grad=True)
    quantized = lapo.quantize(z)
    assert torch.allclose(quantized, torch.where(z > 0, 1.0, -1.0), atol=1e-6)
    quantized.sum().backward()
    assert torch.allclose(z.grad, 1 - torch.tanh(z) ** 2)
    args = parse("lapo.py", short_file, lam__quantizer="fsq")
    data = lapo.Dataset(args.data, args)
    recorder = Recorder(2)
    lam = lapo.train_lam(args, data, "lam", recorder)
    assert lam(*torch.rand(2, 4, 9, 64, 64)).abs().sub(1).abs().max() < 1e-6
    first, last = (recorder.history[i]["lam"]["idm_encoder.0.weight"] for i in (0, -1))
    assert not torch.equal(first, last)


# ---- What is learned ---------------------------------------------------------------------------------------


def write_tinted(path: Path, num_trajectories: int, seed: int):
    """A file of a still texture whose red and green change by the action: to be seen in the change alone."""
    rng = np.random.default_rng(seed)
    texture = np.random.default_rng(7).integers(0, 60, (64, 64, 3))
    with h5py.File(path, "w") as file:
        file.attrs.update(domain_name="cheetah", task_name="run", difficulty="vanilla")
        for number in range(num_trajectories):
            tint = rng.uniform(20, 170, 2)
            actions = np.zeros((100, 2), np.float32)
            obs = np.zeros((100, 64, 64, 3), np.uint8)
            for t in range(100):
                obs[t] = texture + np.array([*tint, 80])
                new_tint = np.clip(tint + rng.uniform(-50, 50, 2), 10, 190)
                actions[t] = (new_tint - tint) / 50
                tint = new_tint
            for name, array in (("obs", obs), ("states", actions), ("actions", actions)):
                file.create_dataset(f"{number}/{name}", data=array)


def test_it_finds_actions_where_nothing_distracts(tmp_path):
    """z comes to tell the true action, on videos of training and on others.

    Better than the mean action, than an untrained LAM's z, and than z of an observation alone.
    """
    files = [str(tmp_path / name) for name in ("train.hdf5", "val.hdf5")]
    write_tinted(files[0], num_trajectories=10, seed=0)
    write_tinted(files[1], num_trajectories=2, seed=1)
    changes = {"lam__num_epochs": 3, "lam__learning_rate": 2e-3, "lam__warmup_epochs": 0.3}
    changes |= {"lam__latent_action_dim": 16, "lam__future_obs_offset": 1, "lam__quantizer": "none"}
    args = parse("lapo.py", files[0], **changes)
    data, eval_data = (lapo.Dataset((file,), args) for file in files)
    torch.manual_seed(0)
    untrained = lapo.held_out_probe(args, lapo.LAM(args.lam, 3), data, eval_data)
    lam = lapo.train_lam(args, data, "lam", Recorder(180, keep=False))
    results = lapo.held_out_probe(args, lam, data, eval_data)
    for videos in ("seen_videos", "unseen_videos"):
        trained = results[f"action_probe_mse_over_var/{videos}"]
        assert trained < 0.6 and trained < 0.7 * untrained[f"action_probe_mse_over_var/{videos}"]
        assert results[f"blind_probe_mse_over_var/{videos}"] > 0.9
    assert 1 < results["effective_rank"] <= 16

"""lapo.py: the paper's networks and presets, the quantiser, what is learned, and what a run leaves."""

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import torch
from conftest import Recorder, count, parse, read_records

import lapo


def test_parameter_totals_of_table_4():
    with torch.device("meta"):
        assert count(lapo.LAM(lapo.Args().lam, 3)) == 211_847_849
        assert count(lapo.Actor(lapo.Args().bc, 3, 8192)) == 107_541_504


def test_paper_preset_is_table_5():
    args = lapo.parse_args([])
    assert args == lapo.parse_args(["paper"]) == lapo.Args() and args.num_labeled_trajectories == (
        2,
        4,
        8,
        16,
        32,
        64,
        128,
    )
    assert dataclasses.asdict(args.lam) == {
        **{
            "batch_size": 512,
            "num_epochs": 10,
            "encoder_scale": 6,
            "learning_rate": 1e-4,
            "warmup_epochs": 3,
        },
        **{"future_obs_offset": 10, "latent_action_dim": 8192, "encoder_num_res_blocks": 2},
        **{"quantizer": "none"},
    }
    assert dataclasses.asdict(args.bc) == {
        **{
            "batch_size": 512,
            "num_epochs": 10,
            "encoder_scale": 32,
            "learning_rate": 1e-4,
            "warmup_epochs": 0,
        },
        **{"encoder_num_res_blocks": 2},
    }
    assert dataclasses.asdict(args.decoder) == {
        "batch_size": 512,
        "hidden_dim": 256,
        "learning_rate": 3e-4,
        "num_updates": 2500,
    }
    assert args.eval.num_episodes == 25 and args.frame_stack == 3 and args.lr_schedule == "cosine"


# ---- The quantiser -----------------------------------------------------------------------------------------


def test_fsq(short_file):
    """z is -1 or 1; gradients pass as if nothing had been rounded. laom_fsq.py has the same function."""
    z = torch.randn(64, 8, requires_grad=True)
    quantized = lapo.quantize(z)
    assert torch.allclose(quantized, torch.where(z > 0, 1.0, -1.0), atol=1e-6)
    quantized.sum().backward()
    assert torch.allclose(z.grad, 1 - torch.tanh(z) ** 2)
    args = parse("lapo.py", short_file, lam__quantizer="fsq")
    assert lapo.LAM(args.lam, 3)(*torch.rand(2, 4, 9, 64, 64)).abs().sub(1).abs().max() < 1e-6


# ---- What is learned ---------------------------------------------------------------------------------------


def write_tinted(path: Path, num_trajectories: int, seed: int):
    """A file of a still texture whose red and green change by the action: to be seen in the change alone."""
    rng, texture = np.random.default_rng(seed), np.random.default_rng(7).integers(0, 60, (64, 64, 3))
    with h5py.File(path, "w") as file:
        file.attrs.update(domain_name="cheetah", task_name="run", difficulty="vanilla")
        for number in range(num_trajectories):
            tint = rng.uniform(20, 170, 2)
            actions, obs = np.zeros((100, 2), np.float32), np.zeros((100, 64, 64, 3), np.uint8)
            for t in range(100):
                obs[t] = texture + np.array([*tint, 80])
                new_tint = np.clip(tint + rng.uniform(-50, 50, 2), 10, 190)
                actions[t], tint = (new_tint - tint) / 50, new_tint
            for name, array in (("obs", obs), ("states", actions), ("actions", actions)):
                file.create_dataset(f"{number}/{name}", data=array)


def test_it_finds_actions_where_nothing_distracts(tmp_path):
    """z comes to tell the true action, on videos of training and on others: better than the mean action, than
    an untrained LAM's z, and than z of an observation alone."""
    files = [str(tmp_path / name) for name in ("train.hdf5", "val.hdf5")]
    write_tinted(files[0], num_trajectories=10, seed=0)
    write_tinted(files[1], num_trajectories=2, seed=1)
    changes = {"lam__num_epochs": 4, "lam__learning_rate": 2e-3, "lam__warmup_epochs": 0.3}
    changes |= {"lam__latent_action_dim": 16, "lam__future_obs_offset": 1, "lam__quantizer": "none"}
    args = parse("lapo.py", files[0], **changes)
    data, eval_data = (lapo.Dataset((file,), args) for file in files)
    torch.manual_seed(0)
    untrained = lapo.held_out_probe(args, lapo.LAM(args.lam, 3), data, eval_data)
    lam = lapo.train_lam(args, data, "lam", Recorder(240, keep=False))
    results = lapo.held_out_probe(args, lam, data, eval_data)
    for videos in ("seen_videos", "unseen_videos"):
        trained = results[f"action_probe_mse_over_var/{videos}"]
        assert trained < 0.6 and trained < 0.7 * untrained[f"action_probe_mse_over_var/{videos}"]
        assert results[f"blind_probe_mse_over_var/{videos}"] > 0.9
    assert 1 < results["effective_rank"] <= 16


def test_a_run_leaves_everything(finished):
    folder = finished("lapo.py")
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "args.json",
        "lapo.py",
        "metrics.jsonl",
        "results.json",
        "checkpoint.pt",
        "lam.pt",
        "actor.pt",
    }
    assert names >= {"decoder_1.pt", "decoder_2.pt", "rollout_1.gif", "rollout_2.gif"}
    results, records = json.loads((folder / "results.json").read_text()), read_records(folder)
    assert (
        list(results["budgets"]) == ["1", "2"]
        and results["latent_actions"]["action_probe_mse_over_var/seen_videos"] > 0
    )
    first, last = (next(r for r in order if r["stage"] == "lam") for order in (records, records[::-1]))
    assert last["lam/loss"] < first["lam/loss"]

"""laom.py: the paper's networks and presets, what it learns from, data of others, and what a run leaves."""

import dataclasses
import json

import lives
import numpy as np
import pytest
import torch
from conftest import Recorder, as_recorded_by_others, beside, command, count, only_one, parse, read_records

import laom


def test_parameter_totals_of_table_4():
    with torch.device("meta"):
        assert count(laom.LAM(laom.Args().lam, 3)) == 192_307_136
        assert count(laom.Actor(laom.Args().bc, 3, 8192)) == 107_541_504


def test_paper_preset_is_table_6():
    args = laom.parse_args([])
    assert args == laom.parse_args(["paper"]) == laom.Args() and args.num_labeled_trajectories == (
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
            "use_aug": True,
            "batch_size": 512,
            "num_epochs": 10,
            "target_tau": 0.001,
            "act_head_dim": 1024,
            "obs_head_dim": 1024,
        },
        **{
            "encoder_scale": 6,
            "learning_rate": 1e-4,
            "warmup_epochs": 3,
            "future_obs_offset": 10,
            "latent_action_dim": 8192,
        },
        **{"target_update_every": 1, "encoder_num_res_blocks": 2, "target": "ema"},
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


def test_it_learns_without_actions(short_file):
    """True actions reach the probes alone: with others in the file the LAM is the same, bit for bit."""
    args = parse("laom.py", short_file)
    data, other = laom.Dataset(args.data, args), laom.Dataset(args.data, args)
    other.actions, other.states = -other.actions, other.states + 1
    ends = []
    for source in (data, other):
        recorder = Recorder(3)
        laom.train_lam(args, source, "lam", recorder)
        ends.append(recorder.history)
    assert all(torch.equal(value, ends[1][-1]["lam"][name]) for name, value in ends[0][-1]["lam"].items())
    assert not torch.equal(ends[0][-1]["probes"]["action.weight"], ends[1][-1]["probes"]["action.weight"])
    assert not torch.equal(ends[0][0]["lam"]["encoder.0.weight"], ends[0][-1]["lam"]["encoder.0.weight"])


class Shifted(torch.nn.Module):
    """A LAM whose latent actions are those of another in other units and far from zero."""

    def __init__(self, lam: torch.nn.Module):
        super().__init__()
        self.lam = lam

    def forward(self, obs, next_obs):
        return 8 * self.lam(obs, next_obs) + 32


def test_the_actor_does_not_mind_where_z_lies(short_file):
    args = parse("laom.py", short_file)
    data, ends = laom.Dataset(args.data, args), []
    torch.manual_seed(0)
    lam = laom.LAM(args.lam, args.frame_stack)
    for network in (lam, Shifted(lam)):
        laom.train_actor(args, data, network, "bc", recorder := Recorder(5))
        ends.append(recorder.history[-1]["actor"])
    for name, value in ends[0].items():
        torch.testing.assert_close(
            ends[1][name], value, rtol=0, atol=0.2 * args.bc.learning_rate
        )  # Adam: a step is a rate


def test_z_inferred_once_is_that_of_each_batch(short_file, monkeypatch):
    """One pass infers z in each batch, several passes infer all of it before the first."""
    mse_loss, targets, calls = laom.F.mse_loss, {1: [], 2: []}, {}
    for num_epochs in targets:

        def record(prediction, target):
            targets[num_epochs].append(target)
            return mse_loss(prediction, target)

        args = parse("laom.py", short_file, bc__num_epochs=num_epochs)
        data = laom.Dataset(args.data, args)
        torch.manual_seed(0)
        lam = laom.LAM(args.lam, args.frame_stack)
        sizes = calls[num_epochs] = []
        lam.register_forward_hook(lambda network, inputs, z, sizes=sizes: sizes.append(len(z)))
        monkeypatch.setattr(laom.F, "mse_loss", record)
        laom.train_actor(args, data, lam, "bc", Recorder(5, keep=False))
    number = len(data.transitions(data.shuffle))
    assert sum(calls[1]) == number + 5 * args.bc.batch_size and sum(calls[2]) == number
    for in_batch, once in zip(targets[1], targets[2], strict=True):
        torch.testing.assert_close(once, in_batch, rtol=1e-4, atol=1e-4)


def test_a_run_leaves_everything(finished):
    folder = finished("laom.py")
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "args.json",
        "laom.py",
        "metrics.jsonl",
        "results.json",
        "checkpoint.pt",
        "lam.pt",
        "actor.pt",
    }
    assert names >= {"decoder_1.pt", "decoder_2.pt", "rollout_1.gif", "rollout_2.gif"}
    results = json.loads((folder / "results.json").read_text())
    assert (
        list(results["budgets"]) == ["1", "2"]
        and results["latent_actions"]["action_probe_mse_over_var/seen_videos"] > 0
    )


# ---- Data of others ----------------------------------------------------------------------------------------


def live(script: str, argv: list, folder) -> dict:
    """A life's results, and its folder."""
    process = lives.start(script, [*argv, "--runs", folder / "runs"], folder / "log")
    assert lives.end(process) == 0, (folder / "log").read_text()
    run = only_one(folder / "runs")
    return json.loads((run / "results.json").read_text()) | {"folder": run}


def test_pretraining_on_another_task(forks, other_task, short_file, tmp_path):
    """The videos are of walker-run, the labels of cheetah-run: the online probes have no row to learn from
    and log nothing."""
    changes = {"labeled_data": short_file, "num_labeled_trajectories": (1,), "eval_data": beside(short_file)}
    results = live("laom.py", command("laom.py", other_task, **changes), tmp_path)
    assert results["task"] == "cheetah-run" and np.isfinite(
        results["budgets"]["1"]["unseen_videos"]["return_mean"]
    )
    assert np.isfinite(results["latent_actions"]["action_probe_mse_over_var/unseen_videos"])
    names = {name for record in read_records(results["folder"]) for name in record}
    assert "lam/loss" in names and not any("probe" in name for name in names)


def test_mixed_tasks_probe_the_rows_of_the_labels_task(other_task, short_file):
    """In a batch without one of its rows the online probe says nothing, and learns nothing."""
    args = parse("laom.py", short_file, labeled_data=str(short_file))
    data = laom.Dataset((str(other_task), str(short_file)), args, "cheetah-run")
    probes = laom.Probes(4, 8, data)
    z, embedding = torch.randn(len(data.first), 4), torch.randn(len(data.first), 8)
    losses = probes(z, embedding, data.actions, data.states)
    known = data.actions.isfinite().all(1)
    assert 0 < known.sum() < len(known)
    expected = torch.nn.functional.mse_loss(probes.action(z[known]), data.actions[known])
    torch.testing.assert_close(losses["action_probe_mse"], expected)


def test_files_with_a_separate_labelled_file(forks, train_file, tmp_path):
    """As the paper releases them."""
    train = as_recorded_by_others(train_file, tmp_path / "train.hdf5")
    val = as_recorded_by_others(beside(train_file), tmp_path / "val.hdf5")
    labeled = as_recorded_by_others(train_file, tmp_path / "labeled.hdf5", lengths=(50, 50))
    changes = {
        "labeled_data": labeled,
        "eval_data": val,
        "eval__backgrounds": train_file.parent / "backgrounds" / "frames0",
    }
    results = live("laom.py", command("laom.py", train, num_labeled_trajectories=(2,), **changes), tmp_path)
    assert results["budgets"].keys() == {"2"} and results["dataset_return"] > 700


@pytest.mark.parametrize("script", ["lapo.py", "laom.py"])
def test_plain_videos(script, forks, train_file, tmp_path):
    """A LAM and an actor come of them, and what can be measured without actions."""
    for name, path in (("train", train_file), ("val", beside(train_file))):
        as_recorded_by_others(path, tmp_path / f"{name}.hdf5", videos=True)
    results = live(script, command(script, tmp_path / "train.hdf5", num_labeled_trajectories=(1,)), tmp_path)
    assert (results["folder"] / "actor.pt").exists() and results["budgets"] == {}
    assert (
        results["latent_actions"].keys() == {"effective_rank"}
        and results["latent_actions"]["effective_rank"] > 1
    )
    log = (tmp_path / "log").read_text()
    assert "warning" not in log.lower() and "Traceback" not in log
    assert not any("probe" in name for record in read_records(results["folder"]) for name in record)


@pytest.mark.parametrize("script", ["laom_supervised.py", "idm.py", "bc.py"])
def test_what_plain_videos_are_not_enough_for(script, forks, train_file, tmp_path):
    for name, path in (("train", train_file), ("val", beside(train_file))):
        as_recorded_by_others(path, tmp_path / f"{name}.hdf5", videos=True)
    argv = [
        *command(script, tmp_path / "train.hdf5", num_labeled_trajectories=(1,)),
        "--runs",
        tmp_path / "runs",
    ]
    assert lives.end(lives.start(script, argv, tmp_path / "log")) == 1 and not (tmp_path / "runs").exists()
    (line,) = lives.said(tmp_path / "log")
    assert line.startswith("error: ") and "give --labeled-data" in line

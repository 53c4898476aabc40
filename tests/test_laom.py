"""laom.py: what it learns from, and data of others."""

import importlib

import lives
import numpy as np
import pytest
import torch
from conftest import (
    Recorder,
    as_recorded_by_others,
    beside,
    command,
    only_one,
    parse,
    read_records,
    read_results,
)

import laom


def test_it_learns_without_actions(short_file):
    """True actions reach the probes alone: with others in the file the LAM is the same, bit for bit."""
    args = parse("laom.py", short_file)
    data = laom.Dataset(args.data, args)
    other = laom.Dataset(args.data, args)
    other.actions = -other.actions
    other.states = other.states + 1
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
    data = laom.Dataset(args.data, args)
    ends = []
    torch.manual_seed(0)
    lam = laom.LAM(args.lam, args.frame_stack)
    for network in (lam, Shifted(lam)):
        recorder = Recorder(5)
        laom.train_actor(args, data, network, "actor", recorder)
        ends.append(recorder.history[-1]["actor"])
    tolerance = 0.2 * args.bc.learning_rate  # Adam: a step is a rate
    for name in ends[0].keys() - {"mean", "scale"}:
        torch.testing.assert_close(ends[1][name], ends[0][name], rtol=0, atol=tolerance)
    torch.testing.assert_close(ends[1]["mean"], 8 * ends[0]["mean"] + 32)
    torch.testing.assert_close(ends[1]["scale"], 8 * ends[0]["scale"])


def test_z_inferred_once_is_that_of_each_batch(short_file, monkeypatch):
    """One pass infers z in each batch, several passes infer all of it before the first."""
    mse_loss = laom.F.mse_loss
    targets = {1: [], 2: []}
    calls = {}
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
        laom.train_actor(args, data, lam, "actor", Recorder(5, keep=False))
    number = len(data.transitions(data.shuffle))
    assert sum(calls[1]) == number + 5 * args.bc.batch_size and sum(calls[2]) == number
    for in_batch, once in zip(targets[1], targets[2], strict=True):
        torch.testing.assert_close(once, in_batch, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("script", ["laom.py", "laom_supervised.py"])
def test_fsq_of_embeddings(script, short_file):
    """What the FDM and the actor get is -1 or 1, and the encoder learns through it."""
    method = importlib.import_module(script.removesuffix(".py"))
    args = parse(script, short_file, lam__quantizer="fsq")
    data = method.Dataset(args.data, args)
    recorder = Recorder(3)
    labels = (data, data.transitions(data.shuffle[:2])) if script == "laom_supervised.py" else ()
    lam = method.train_lam(args, data, *labels, "lam", recorder)
    z = lam(*data.observe_pair(torch.arange(8)))
    assert z.abs().sub(1).abs().max() < 1e-6 and len(z.unique()) == 2
    first, last = (recorder.history[i]["lam"]["encoder.0.weight"] for i in (0, -1))
    assert not torch.equal(first, last)


# ---- Data of others ----------------------------------------------------------------------------------------


def live(script: str, argv: list, folder) -> dict:
    """A life's results, and its folder."""
    process = lives.start(script, [*argv, "--runs", folder / "runs"], folder / "log")
    assert lives.end(process) == 0, (folder / "log").read_text()
    run = only_one(folder / "runs")
    return read_results(run) | {"folder": run}


SHORT = {"lam__num_epochs": 1, "bc__num_epochs": 1, "decoder__num_updates": 9}


def test_pretraining_on_another_task(forks, other_task, short_file, tmp_path):
    """The videos are of walker-run, the labels of cheetah-run: online probes have no row, and log nothing."""
    changes = {"labeled_data": short_file, "num_labeled_trajectories": (1,), "eval_data": beside(short_file)}
    argv = [*command("laom.py", other_task, **SHORT, **changes), "--rehearsal"]
    results = live("laom.py", argv, tmp_path)
    measures = results["budgets"]["1"]
    assert results["task"] == "cheetah-run" and np.isfinite(measures["return_mean/unseen_videos"])
    assert np.isfinite(measures["action_probe_mse_over_var/unseen_videos"])
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
    changes = {"labeled_data": labeled, "eval_data": val, "num_labeled_trajectories": (2,)}
    changes["eval__backgrounds"] = train_file.parent / "backgrounds" / "once_frames"
    results = live("laom.py", [*command("laom.py", train, **SHORT, **changes), "--rehearsal"], tmp_path)
    assert results["budgets"].keys() == {"2"}
    assert results["dataset_return"] > 0 and results["random_return"] is None


@pytest.fixture
def videos(train_file, tmp_path):
    """Files without actions."""
    for name, path in (("train", train_file), ("val", beside(train_file))):
        as_recorded_by_others(path, tmp_path / f"{name}.hdf5", videos=True)
    return tmp_path / "train.hdf5"


@pytest.mark.parametrize("script", ["lapo.py", "laom.py"])
def test_plain_videos(script, forks, videos, tmp_path):
    """A LAM and an actor come of them."""
    argv = command(script, videos, num_labeled_trajectories=(1,), lam__num_epochs=1, bc__num_epochs=1)
    results = live(script, [*argv, "--rehearsal"], tmp_path)
    assert (results["folder"] / "actor.pt").exists() and results["budgets"] == {}
    assert not (results["folder"] / "checkpoint.pt").exists()
    log = (tmp_path / "log").read_text()
    assert "warning" not in log.lower() and "Traceback" not in log
    assert "effective_rank" in log  # what can be measured without actions
    assert not any("probe" in name for record in read_records(results["folder"]) for name in record)
    assert lives.end(lives.start(script, [*argv, "--runs", tmp_path / "runs"], tmp_path / "again")) == 0
    assert lives.said(tmp_path / "again")[-1] == f"finished: {results['folder']}"


@pytest.mark.parametrize("script", ["laom_supervised.py", "idm.py", "bc.py"])
def test_what_plain_videos_are_not_enough_for(script, videos, tmp_path, monkeypatch):
    method = importlib.import_module(script.removesuffix(".py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="^error: .* holds no actions; give --labeled-data$"):
        method.main(parse(script, videos, num_labeled_trajectories=(1,)))
    assert not (tmp_path / "runs").exists()

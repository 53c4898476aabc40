"""LAOM+supervision: the paper's networks and presets, what sends gradients where, and the pipeline."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import TINY, run

from laom_supervised import (
    AUGMENTATIONS,
    LAM,
    PRESETS,
    ActionDecoder,
    Actor,
    Args,
    BCArgs,
    Dataset,
    Head,
    LAMArgs,
    augment,
    batch_at,
    learning_rate,
    parse_args,
    random_homographies,
    to_input,
    train_lam,
)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_totals_of_table_4():
    paper = PRESETS["paper"][1]
    with torch.device("meta"):
        assert count(LAM(paper.lam, 3, 21)) == 192_479_189
        assert count(Actor(paper.bc, 3, paper.lam.latent_action_dim)) == 107_541_504
        assert count(Actor(paper.bc, 3, 21)) == 99_166_229


def test_paper_preset_is_table_7():
    paper = dataclasses.asdict(PRESETS["paper"][1])
    assert paper["lam"] == {
        **{"use_aug": True, "batch_size": 512, "num_epochs": 10, "target_tau": 0.001, "act_head_dim": 1024, "obs_head_dim": 1024},
        **{"encoder_scale": 6, "learning_rate": 1e-4, "warmup_epochs": 3, "future_obs_offset": 10, "latent_action_dim": 8192},
        **{"labeled_batch_size": 128, "target_update_every": 1, "encoder_num_res_blocks": 2},
        **{"labeled_loss_coef": None, "target": "ema", "checkpoint": None},  # c: 0.01, cheetah-run 0.001; EMA by the design notes
    }
    assert paper["bc"] == {
        **{"batch_size": 512, "num_epochs": 10, "encoder_scale": 32, "learning_rate": 1e-4, "warmup_epochs": 0},
        **{"encoder_num_res_blocks": 2, "checkpoint": None},
    }
    assert paper["decoder"] == {"batch_size": 512, "hidden_dim": 256, "learning_rate": 3e-4, "num_updates": 2500}
    assert paper["eval"]["num_episodes"] == 25 and paper["frame_stack"] == 3 and paper["lr_schedule"] == "cosine"
    assert parse_args([]) == parse_args(["paper"]) == Args()


def small_lam(action_dim: int = 6) -> LAM:
    torch.manual_seed(0)
    return LAM(
        LAMArgs(encoder_scale=1, encoder_num_res_blocks=1, act_head_dim=32, obs_head_dim=32, latent_action_dim=16), 3, action_dim
    )


def test_the_encoder_learns_through_the_idm():
    lam, images = small_lam(), torch.rand(4, 9, 64, 64) * 2 - 1
    e1, e2 = lam.encoder(torch.cat([images, images.flip(0)])).flatten(1).chunk(2)
    lam.infer(e1, e2).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in lam.encoder.parameters())


def test_the_fdm_sees_a_detached_embedding(args, monkeypatch):
    """In training, what reaches the FDM as e_t carries no gradient, z does: the encoder learns through the IDM alone."""
    seen, forward = [], Head.forward

    def spy(head, x, condition):
        seen.append((x.shape[1], x.requires_grad, condition.requires_grad))
        return forward(head, x, condition)

    monkeypatch.setattr(Head, "forward", spy)
    train_briefly(args, Dataset(args.data, "cpu"), steps=1)
    assert seen == [(0, True, True), (2048, False, True)], seen


class Recorder:
    """Stands in for a Run: hands out a few steps and keeps what the stage trains, so that a test can look between updates."""

    def __init__(self, steps: int, keep: bool = True):
        self.steps, self.keep, self.history = steps, keep, []

    def load_finished(self, stage, checkpoint=None, **modules):
        return False

    def finish(self, stage, **modules):
        pass

    def updates(self, stage, total, cfg, warmup, **parts):
        for step in range(self.steps + 1):
            parts["optim"].param_groups[0]["lr"] = learning_rate(cfg.learning_rate, step, warmup, total, "cosine")
            if self.keep:
                self.history.append({name: copy.deepcopy(part.state_dict()) for name, part in parts.items()})
            if step < self.steps:
                yield step, {}


@pytest.fixture(scope="module")
def args(train_file):
    return dataclasses.replace(parse_args([*TINY, "--data", str(train_file)]), device="cpu", precision="fp32")


def train_briefly(args: Args, data: Dataset, steps: int = 3) -> list[dict]:
    recorder = Recorder(steps)
    train_lam(args, data, data, data.transitions(data.shuffle[:2]), "lam_2", recorder)
    return recorder.history


def test_target_is_a_slow_copy(args):
    tau, history = args.lam.target_tau, train_briefly(args, Dataset(args.data, "cpu"))
    for before, after in zip(history[:-1], history[1:]):
        for name, old in before["target"].items():
            new = after["lam"][f"encoder.{name}"]
            assert torch.allclose(after["target"][name], old + tau * (new - old), atol=1e-8)
        assert not torch.equal(before["lam"]["encoder.0.weight"], after["lam"]["encoder.0.weight"])


def test_probes_send_no_gradient_to_the_lam(args):
    """What the probes must predict does not change what the LAM learns; the labels do."""
    args = dataclasses.replace(args, lam=dataclasses.replace(args.lam, labeled_loss_coef=0.0))
    data, other = Dataset(args.data, "cpu"), Dataset(args.data, "cpu")
    other.actions, other.states = -other.actions, other.states * 3 + 1
    same, changed = train_briefly(args, data)[-1], train_briefly(args, other)[-1]
    assert all(torch.equal(value, changed["lam"][name]) for name, value in same["lam"].items())
    assert not torch.equal(same["probes"]["action_probe.weight"], changed["probes"]["action_probe.weight"])
    labelled = dataclasses.replace(args, lam=dataclasses.replace(args.lam, labeled_loss_coef=1.0))
    different = train_briefly(labelled, other)[-1]
    assert not torch.equal(same["lam"]["encoder.0.weight"], different["lam"]["encoder.0.weight"])


def test_learning_rate_end_points():
    for schedule in ("cosine", "linear"):
        rates = [learning_rate(1.0, step, 10, 110, schedule) for step in range(111)]
        assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == pytest.approx(1) and rates[110] == pytest.approx(0)
        assert all(a >= b for a, b in zip(rates[9:], rates[10:])) and rates[60] == pytest.approx(0.5)
    assert learning_rate(1.0, 0, 0, 10, "cosine") == 1


def test_an_epoch_is_a_permutation():
    index = torch.arange(100) * 3
    epochs = [torch.cat([batch_at(index, 20, 7, step) for step in range(5 * epoch, 5 * epoch + 5)]) for epoch in range(2)]
    assert all(torch.equal(epoch.sort().values, index) for epoch in epochs) and not torch.equal(*epochs)
    assert torch.equal(batch_at(index, 20, 7, 3), epochs[0][60:80])


def test_augmentation_keeps_identity_and_replicates_edges():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(256, 9, 64, 64) * 2 - 1
    homographies = random_homographies(256, generator)
    identity = (homographies == torch.eye(3)).all(-1).all(-1)
    assert identity.float().mean() == pytest.approx(1 / len(AUGMENTATIONS), abs=0.06)
    warped = augment(images, homographies)
    assert torch.allclose(warped[identity], images[identity], atol=1e-4)  # interpolated, to rounding
    assert warped.min() >= -1 and warped.max() <= 1 and (warped[~identity] != images[~identity]).float().mean() > 0.9

    shift = torch.eye(3).repeat(2, 1, 1)
    shift[:, 0, 2], shift[:, 1, 2] = torch.tensor([14.0, -14.0]), torch.tensor([-5.0, 3.0])
    columns, rows = (torch.arange(64) + 14).clamp(0, 63), (torch.arange(64) - 5).clamp(0, 63)
    assert torch.allclose(augment(images[:2], shift)[0], images[0][:, rows][:, :, columns], atol=1e-4)
    gray = torch.full((64, 9, 64, 64), 0.25)  # no black corners: an even picture stays even
    assert torch.allclose(augment(gray, random_homographies(64, generator)), gray, atol=1e-5)


def test_augmentation_ranges():
    """Shifts of at most 14 pixels, rotations of at most 90 degrees, perspective that moves corners at most half way inwards."""
    homographies = random_homographies(4000, torch.Generator().manual_seed(1))
    linear, shift, projective = homographies[:, :2, :2], homographies[:, :2, 2], homographies[:, 2, :2]
    rigid = (projective == 0).all(-1) & torch.isclose(torch.linalg.det(linear), torch.tensor(1.0), atol=1e-4)
    assert shift[rigid].norm(dim=-1).max() <= 14 * 2**0.5 + 1e-4 and shift[rigid].abs().max() > 13
    angles = torch.atan2(linear[rigid, 1, 0], linear[rigid, 0, 0])
    assert angles.abs().max() <= torch.pi / 2 + 1e-4 and angles.abs().max() > 1.5
    assert 0.3 < rigid.float().mean() < 0.75  # the others have a perspective


def test_relabelling_sees_the_change(args):
    """lam(obs, next_obs) is the IDM's answer to the two embeddings, and another one where nothing changes."""
    data, lam = Dataset(args.data, "cpu"), small_lam()
    stack = data.observations(data.transitions()[:8], 3, extra=1)
    obs, next_obs = to_input(stack[:, :-1], torch.float32), to_input(stack[:, 1:], torch.float32)
    z, (e1, e2) = lam(obs, next_obs), (lam.encoder(x).flatten(1) for x in (obs, next_obs))
    assert z.shape == (8, 16) and torch.allclose(z, lam.infer(e1, e2), atol=1e-5)
    assert not torch.allclose(lam(obs, obs), z, atol=1e-3) and lam.fdm(e1, z).shape == e1.shape


def test_decoder_and_actor_shapes():
    actor = Actor(BCArgs(encoder_scale=1, encoder_num_res_blocks=1), 3, 16)
    assert ActionDecoder(16, 8, 6)(actor(torch.zeros(2, 9, 64, 64))).shape == (2, 6)


# ---- The pipeline, as a user runs it ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(train_file, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    result = run("laom_supervised.py", *TINY, "--data", train_file, "--runs", folder)
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr and "warning" not in result.stderr, result.stderr
    return next(folder.iterdir())


def test_pipeline_writes_everything(finished):
    names = {path.name for path in finished.iterdir()}
    assert {"args.json", "laom_supervised.py", "metrics.jsonl", "results.json", "checkpoint.pt"} <= names
    assert {"lam_2.pt", "actor_2.pt", "decoder_2.pt", "rollout_2.gif", "lam_2.json"} <= names
    assert finished.name.startswith("cheetah-run__laom_supervised__0__")
    results = json.loads((finished / "results.json").read_text())
    budget = results["budgets"]["2"]
    for videos in ("seen_videos", "unseen_videos"):
        assert len(budget[videos]["returns"]) == 2 and budget[videos]["return_mean"] == pytest.approx(
            np.mean(budget[videos]["returns"])
        )
        assert budget[videos]["normalized_score"] == pytest.approx(budget[videos]["return_mean"] / 823)
        assert 0 < budget["latent_actions"][f"action_probe_mse_over_var/{videos}"] < 2
    assert results["dataset_return"] > 780 and 0 < results["random_return"] < 50
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert {record["stage"] for record in records} == {"lam_2", "bc_2", "decoder_2", "eval_2"}
    lam = [record for record in records if record["stage"] == "lam_2"]
    expected = {"loss", "action_probe_mse", "obs_action_probe_mse", "state_probe_mse", "learning_rate", "transitions_per_second"}
    assert {f"lam/{name}" for name in expected} <= set(lam[0])
    assert [record["step"] for record in lam] == [5, 10, 15, 20, 23]  # 2,997 transitions in batches of 128
    assert lam[-1]["lam/loss"] < lam[0]["lam/loss"]


def compare_runs(one: Path, other: Path):
    assert (one / "results.json").read_bytes() == (other / "results.json").read_bytes()
    for name in ("lam_2.pt", "actor_2.pt", "decoder_2.pt"):
        weights = [torch.load(folder / name, weights_only=True) for folder in (one, other)]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])

    def metrics(folder):
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{key: value for key, value in record.items() if "per_second" not in key} for record in records]

    assert metrics(one) == metrics(other)  # no gap, no repeat


def test_same_command_same_results(finished, train_file, tmp_path):
    assert run("laom_supervised.py", *TINY, "--data", train_file, "--runs", tmp_path).returncode == 0
    compare_runs(finished, next(tmp_path.iterdir()))


def test_two_processes_on_one_run(finished):
    import fcntl

    with open(finished / "metrics.jsonl", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = run("laom_supervised.py", "--resume", finished)
    assert result.returncode != 0 and result.stderr.strip() == f"error: another process works in {finished}"


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--data", "nowhere.hdf5"], "error: no file nowhere.hdf5; collect_data.py makes one"),
        (["--num-labeled-trajectories", "5"], "has 3 trajectories"),
        (["--lam.batch-size", "4000"], "does not fill a batch of 4000"),
        (["--eval.backgrounds", "nowhere"], "error: no videos (*.npy) in"),
        (["--eval.num-episodes", "0"], "start at 1"),
    ],
)
def test_bad_input_gets_one_line(train_file, tmp_path, flags, message):
    data = [] if "--data" in flags else ["--data", train_file]
    result = run("laom_supervised.py", *TINY, *data, "--runs", tmp_path, *flags)
    assert result.returncode != 0 and message in result.stderr and len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert not list(tmp_path.iterdir())


def test_resume_of_nothing_or_with_other_arguments(finished):
    for flags in (["nowhere"], [finished, "--seed", 3]):
        result = run("laom_supervised.py", "--resume", *flags)
        assert result.returncode != 0 and "takes the folder of a run of laom_supervised.py and nothing else" in result.stderr


def test_evaluation_data_are_other_data(train_file, tmp_path):
    path = shutil.copy(train_file, tmp_path / "renamed.hdf5")
    result = run("laom_supervised.py", *TINY, "--data", path, "--runs", tmp_path / "runs")
    assert result.returncode != 0 and "give --eval-data" in result.stderr


def test_data_without_its_videos(train_file, tmp_path):
    """A file that does not say where its videos are, like the paper's, needs --eval.backgrounds."""
    for split in ("train", "val"):
        path = shutil.copy(train_file.with_name(train_file.name.replace("train", split)), tmp_path)
        with h5py.File(path, "r+") as file:
            del file.attrs["backgrounds"]
    result = run("laom_supervised.py", *TINY, "--data", tmp_path / train_file.name, "--runs", tmp_path / "runs")
    assert result.returncode != 0 and "no videos (*.npy) in" in result.stderr and "--eval.backgrounds" in result.stderr

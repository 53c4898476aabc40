"""variants/masklam.py: the masks of collect_data.py count in its loss, and nothing else does."""

import re
import shutil

import h5py
import masklam
import numpy as np
import pytest
import torch
from conftest import Recorder, beside

import lapo

SMALL = "--lam.batch-size 16 --lam.latent-action-dim 16 --bc.batch-size 16 --decoder.batch-size 16"
SMALL += " --num-labeled-trajectories 2 --device cpu --precision fp32 --no-compile"


def parse(path):
    return masklam.parse_args(["demo", "--data", str(path), *SMALL.split()])


@pytest.fixture(scope="module")
def masked_file(collect_short, frames, tmp_path_factory):
    """Three short trajectories with masks, before videos, and one for evaluation."""
    folder = tmp_path_factory.mktemp("masked")
    numbers = ["--num-trajectories", "3", "--num-eval-trajectories", "1", "--num-workers", "1"]
    words = ["--masks", *numbers, "--backgrounds", str(frames), "--output", str(folder)]
    collect_short.main(collect_short.parse_args(words))
    return folder / "cheetah-run__scale_easy_video_hard__train.hdf5"


@pytest.fixture(scope="module")
def args(masked_file):
    return parse(masked_file)


class Losses(Recorder):
    """Keeps what a stage logs, too."""

    def __init__(self, steps, keep):
        super().__init__(steps, keep)
        self.losses = []

    def log_due(self, step):
        return True

    def log(self, step, optim, loss, **values):
        self.losses.append(loss.item())


def train(method, args, data, steps):
    """The loss of each update, and the weights that come of them."""
    recorder = Losses(steps, keep=False)
    lam = method.train_lam(args, data, "lam", recorder)
    return recorder.losses, lam.state_dict()


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_masks_are_those_of_the_frames(masked_file, args):
    """Of one file and of two, from a trajectory's start, where the first one is repeated, to a file's end."""
    paths = [masked_file, beside(masked_file)]
    arrays = []
    for path in paths:
        with h5py.File(path) as file:
            arrays += [file[name]["mask"][:] for name in sorted(file)]
    assert all(0.01 < array.mean() < 0.3 and set(np.unique(array)) == {0, 1} for array in arrays)
    for files in (paths[:1], paths):
        data = masklam.Dataset(tuple(map(str, files)), args)
        index = torch.cat([data.first.unique(), data.first.unique() + 7, data.last.unique()])
        masks = data.observe_mask(index)
        assert masks.shape == (len(index), 9, 64, 64)
        for position, mask in zip(index.tolist(), masks):
            time = position - int(data.first[position])
            stack = [arrays[data.trajectory[position]][max(time + i, 0)] for i in (-2, -1, 0)]
            assert np.array_equal(mask, np.repeat(stack, 3, 0))  # each picture has three channels


class OtherTargets(masklam.Dataset):
    """Every next observation that the loss compares with has noise in it, where the mask is this."""

    noisy = 0

    def observe_pair(self, index):
        obs, next_obs = super().observe_pair(index)
        noise = torch.rand(next_obs.shape, generator=torch.Generator().manual_seed(0))
        return obs, torch.where(self.observe_mask(index + 1) == self.noisy, noise, next_obs)


def test_the_loss_counts_the_agent_alone(args):
    """Whatever lies outside the mask, losses and weights are the same; inside they are not."""
    losses, weights = train(masklam, args, masklam.Dataset(args.data, args), 4)
    noisy = OtherTargets(args.data, args)
    other_losses, other_weights = train(masklam, args, noisy, 4)
    assert other_losses == losses and same(weights, other_weights)
    noisy.noisy = 1
    other_losses, other_weights = train(masklam, args, noisy, 4)
    assert min(abs(a - b) for a, b in zip(losses, other_losses)) > 1e-3 and not same(weights, other_weights)


def test_with_masks_of_everything_it_is_lapo(masked_file, tmp_path):
    path = tmp_path / masked_file.name
    shutil.copy(masked_file, path)
    with h5py.File(path, "r+") as file:
        for name in file:
            file[name]["mask"][:] = 1
    args = parse(path)
    losses, _ = train(masklam, args, masklam.Dataset(args.data, args), 4)
    expected, _ = train(lapo, args, lapo.Dataset(args.data, args), 4)
    assert np.allclose(losses, expected, rtol=1e-3)


def test_it_learns_to_predict_the_agent(args):
    losses, _ = train(masklam, args, masklam.Dataset(args.data, args), 60)
    assert np.isfinite(losses).all() and np.mean(losses[-10:]) < 0.5 * np.mean(losses[:3]), losses


def test_data_without_masks_get_one_line(masked_file, tmp_path):
    """Only those that the LAM is trained on need masks; those that are as large as the pictures."""
    for path in (masked_file, beside(masked_file)):
        shutil.copy(path, tmp_path)
    path = tmp_path / masked_file.name
    with h5py.File(beside(path), "r+") as file:
        del file["0/mask"]
    masklam.load_data(parse(path))
    with h5py.File(path, "r+") as file:
        del file["1/mask"]
    refusal = f"error: {re.escape(str(path))} lacks masks, uint8 .T, 64, 64., contiguous .--masks.$"
    with pytest.raises(SystemExit, match=refusal):
        masklam.load_data(parse(path))
    with h5py.File(path, "r+") as file:
        file["1"].create_dataset("mask", data=np.ones((60, 32, 32), np.uint8))
    with pytest.raises(SystemExit, match=refusal):
        masklam.load_data(parse(path))


def test_other_masks_make_another_run(masked_file, args, tmp_path):
    path = shutil.copy(masked_file, tmp_path)
    before = masklam.Dataset([path], args).fingerprint()
    assert before == masklam.Dataset(args.data, args).fingerprint()
    with h5py.File(path, "r+") as file:
        file["0"]["mask"][0] ^= 1
    assert masklam.Dataset([path], args).fingerprint() != before

"""Actors that die: where observations hardly differ, a random output layer drives all features below zero."""

import dataclasses

import h5py
import numpy as np
import pytest
import torch
from conftest import Recorder

import laom

UPDATES = 100


@pytest.fixture(scope="module")
def still_file(tmp_path_factory):
    """Grey pictures with a small square, slightly brighter, somewhere."""
    path = tmp_path_factory.mktemp("still") / "train.hdf5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs.update(domain_name="drawn", task_name="still")
        for number in range(4):
            corners = rng.integers(0, 58, (100, 2))
            obs = np.full((100, 64, 64, 3), 128, np.uint8)
            for picture, (y, x) in zip(obs, corners):
                picture[y : y + 6, x : x + 6] = 148
            file[f"{number}/obs"] = obs
            file[f"{number}/actions"] = (corners / 29 - 1).astype(np.float32)
    return path


def where_the_square_is(obs, next_obs):
    """Stands in for a LAM: 32 numbers that follow from the square's place."""
    bright = (obs[:, -3].float() > 0.005).float()
    axis = torch.linspace(-1, 1, 64)
    sums = torch.stack([bright.sum(2) @ axis, bright.sum(1) @ axis], 1)
    place = sums / bright.sum((1, 2))[:, None].clamp(min=1)
    mix = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    return torch.cat([place.sin(), place.cos()], 1) @ mix


def zero_biases_alone(tensor):
    """nn.init.zeros_ without the line that sets the output's weights to zero: they stay orthogonal."""
    with torch.no_grad():
        return tensor if tensor.ndim == 2 else tensor.zero_()


@pytest.mark.parametrize("lives", [False, True])
def test_an_output_that_begins_at_zero_keeps_features_alive(still_file, lives, monkeypatch):
    if not lives:
        monkeypatch.setattr(torch.nn.init, "zeros_", zero_biases_alone)
    args = dataclasses.replace(laom.DEMO, precision="fp32", device="cpu")
    args.lam = dataclasses.replace(args.lam, latent_action_dim=32)
    args.bc = dataclasses.replace(args.bc, batch_size=16, warmup_epochs=0, learning_rate=2e-3)
    data = laom.Dataset([str(still_file)], args)
    recorder = Recorder(UPDATES, keep=False)
    actor = laom.train_actor(args, data, where_the_square_is, "actor", recorder)

    index = data.transitions(data.shuffle)
    z = laom.infer_all(args, where_the_square_is, data, index)
    answers = laom.infer_all(args, lambda obs, _: actor(obs), data, index)
    features = laom.infer_all(args, lambda obs, _: actor.encoder(obs).mean((2, 3)), data, index)
    target = (z - z.mean(0)) / z.var(0).mean().sqrt()
    error = torch.nn.functional.mse_loss(answers, target).item()
    num_alive = (features > 0).any(0).sum().item()
    warning = "warning: actor: the actor answers all observations alike; lower --bc.learning-rate"
    assert recorder.said == ([] if lives else [warning])
    assert (num_alive > 16, error < 0.5) == (lives, lives), (num_alive, error)

"""What the held-out measures say of latent actions that know the action, the pose alone, or neither."""

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import laom

LENGTH, ACTIONS = 150, 6


def write_data(path: Path, seed: int, num_trajectories: int):
    """Pictures whose first row shows the pose and whose second row shows what the last action was.

    The plan follows from the pose; noise of 0.4, new at each step, is added to it.
    """
    rng = np.random.default_rng(seed)
    of_the_expert = np.random.default_rng(0).normal(size=(ACTIONS, ACTIONS))
    with h5py.File(path, "w") as file:
        file.attrs.update(domain_name="drawn", task_name="poses")
        for number in range(num_trajectories):
            pose = rng.uniform(-1, 1, (LENGTH, ACTIONS))
            plan = np.tanh(0.5 * pose @ of_the_expert)
            actions = (plan + 0.4 * rng.normal(size=plan.shape)).clip(-1, 1)
            obs = np.zeros((LENGTH, 64, 64, 3), np.uint8)
            obs[:, 0, :ACTIONS, 0] = (pose + 1) * 127.5
            obs[1:, 1, :ACTIONS, 0] = (actions[:-1] + 1) * 127.5
            group = file.create_group(str(number))
            group["obs"] = obs
            group["actions"] = actions.astype(np.float32)
            group["expert_actions"] = plan.astype(np.float32)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    args = dataclasses.replace(laom.DEMO, precision="fp32", device="cpu")
    write_data(folder / "train.hdf5", 1, 20)
    write_data(folder / "val.hdf5", 2, 5)
    data, eval_data = (laom.Dataset([str(folder / f"{name}.hdf5")], args) for name in ("train", "val"))
    return args, data, eval_data


def knows_the_action(obs, next_obs):
    return next_obs[:, -3, 1, :ACTIONS]


def knows_the_pose(obs, next_obs):
    return obs[:, -3, 0, :ACTIONS]


def knows_nothing(obs, next_obs):
    return torch.randn(len(obs), ACTIONS, generator=torch.Generator().manual_seed(len(obs)))


@pytest.mark.parametrize(
    ("lam", "perturbation", "plan"),
    [
        (knows_the_action, (0.97, 1.0), (0.4, 0.9)),
        (knows_the_pose, (-0.03, 0.03), (0.8, 1.0)),
        (knows_nothing, (-0.03, 0.03), (-0.1, 0.1)),
    ],
)
def test_perturbation_r2_tells_an_inferred_action_from_a_guessed_one(sources, lam, perturbation, plan):
    measured = laom.held_out_probe(*sources[:1], lam, *sources[1:])
    for videos in ("seen_videos", "unseen_videos"):
        assert perturbation[0] <= measured[f"perturbation_r2/{videos}"] <= perturbation[1]
        assert plan[0] <= measured[f"plan_r2/{videos}"] <= plan[1]
        assert abs(measured[f"blind_perturbation_r2/{videos}"]) <= 0.03


def test_no_perturbation_no_measure(sources):
    args, data, eval_data = sources
    z, actions, _ = laom.infer_some(args, knows_the_pose, data, data.shuffle)
    unknown = torch.full((len(z), 1), float("nan"))
    assert laom.perturbation_errors("", "seen_videos", (z, actions, unknown), (z, actions, unknown)) == {}
    assert laom.perturbation_errors("", "seen_videos", (z, actions, actions), (z, actions, actions)) == {}

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
        (knows_the_pose, (-0.01, 0.01), (0.8, 1.0)),
        (knows_nothing, (-0.01, 0.01), (-0.1, 0.1)),
    ],
)
def test_perturbation_r2_tells_an_inferred_action_from_a_guessed_one(sources, lam, perturbation, plan):
    measured = laom.held_out_probe(*sources[:1], lam, *sources[1:])
    for videos in ("seen_videos", "unseen_videos"):
        assert perturbation[0] <= measured[f"perturbation_r2/{videos}"] <= perturbation[1]
        assert plan[0] <= measured[f"plan_r2/{videos}"] <= plan[1]
        assert abs(measured[f"blind_perturbation_r2/{videos}"]) <= 0.01


def test_no_perturbation_no_measure(sources):
    args, data, eval_data = sources
    z, actions, _ = laom.infer_some(args, knows_the_pose, data, data.shuffle)
    unknown = torch.full((len(z), 1), float("nan"))
    assert laom.perturbation_errors("", "seen_videos", (z, actions, unknown), (z, actions, unknown)) == {}
    assert laom.perturbation_errors("", "seen_videos", (z, actions, actions), (z, actions, actions)) == {}


# ---- What a ridge says of z that knows nothing, or the action, whatever its size ---------------------------


def draw(kind: str, size: int, num_rows: int, seed: int) -> tuple[torch.Tensor, ...]:
    """z, actions and the expert's actions: (num_rows, size), (num_rows, 6) twice. The noise's σ is 0.8."""
    generator = torch.Generator().manual_seed(seed)
    plan = (0.5 * torch.randn(num_rows, ACTIONS, generator=generator)).tanh()
    actions = (plan + 0.8 * torch.randn(num_rows, ACTIONS, generator=generator)).clamp(-1, 1)
    z = torch.randn(num_rows, size, generator=generator)
    of_the_lam = torch.Generator().manual_seed(0)
    if kind == "rank 8":
        z = torch.randn(num_rows, 8, generator=generator) @ torch.randn(8, size, generator=of_the_lam)
    if kind == "times 100":
        z = 100 * z
    if kind == "knows the action":
        z = 0.05 * z + actions @ torch.randn(ACTIONS, size, generator=of_the_lam)
    return z, actions, plan


@pytest.mark.parametrize(("size", "num_rows"), [(16, 5_000), (256, 5_000), (1_024, 5_000), (256, 50_000)])
@pytest.mark.parametrize("kind", ["noise", "rank 8", "times 100", "knows the action"])
def test_the_size_of_z_does_not_matter(kind, size, num_rows):
    fitted = draw(kind, size, num_rows, seed=1)
    held_out = draw(kind, size, 20_000, seed=2)
    measured = laom.perturbation_errors("", "here", fitted, held_out)
    prediction = laom.fit_ridge(*fitted[:2])(held_out[0])
    probe_r2 = 1 - laom.action_errors("probe", "here", prediction, held_out[1])["probe_mse_over_var/here"]
    if kind == "knows the action":
        assert measured["perturbation_r2/here"] > 0.97 and probe_r2 > 0.97
    else:
        for r2 in (measured["perturbation_r2/here"], measured["plan_r2/here"], probe_r2):
            assert abs(r2) <= 0.002


def test_probes_are_fitted_on_trajectories_without_labels(sources):
    """Behind the largest budget, before the last fifth; where none is left, on half of the evaluation's."""
    args, data, eval_data = sources
    args = dataclasses.replace(args, num_labeled_trajectories=(2, 8))
    (source, trajectories), tests = laom.split_for_probes(args, data, eval_data)
    assert source is data and trajectories.tolist() == data.shuffle[8:16].tolist()
    assert tests["seen_videos"][1].tolist() == data.shuffle[16:].tolist()
    assert tests["unseen_videos"] == (eval_data, eval_data.shuffle)

    args = dataclasses.replace(args, num_labeled_trajectories=(18,))
    _, tests = laom.split_for_probes(args, data, eval_data)
    assert tests["seen_videos"][1].tolist() == data.shuffle[18:].tolist()

    args = dataclasses.replace(args, num_labeled_trajectories=(20,))
    (source, trajectories), tests = laom.split_for_probes(args, data, eval_data)
    assert source is eval_data and "seen_videos" not in tests  # all of them are labelled
    both = [*trajectories, *tests["unseen_videos"][1]]
    assert len(trajectories) == 3 and sorted(both) == list(range(5))


def test_a_dimension_that_was_constant_says_nothing():
    """As codes that the fitted rows do not use, up to rounding: elsewhere it may vary."""
    z, actions, _ = draw("knows the action", 16, 500, seed=1)
    held_out_z, held_out_actions, _ = draw("knows the action", 16, 500, seed=2)
    expected = laom.fit_ridge(z, actions)(held_out_z)
    constant = 0.37 + 1e-6 * torch.randn(500, 1)
    predict = laom.fit_ridge(torch.cat([z, constant], 1), actions)
    prediction = predict(torch.cat([held_out_z, torch.randn(500, 1)], 1))
    torch.testing.assert_close(prediction, expected, rtol=1e-4, atol=1e-4)

"""Collection and datasets: format, alignment, restarts, labelled subsets, and what bad files say."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT, run

import collect_data
from laom_supervised import Dataset, to_input


def test_format(train_file):
    """The paper's HDF5 format and what we add to it (design notes, section 4)."""
    with h5py.File(train_file) as file:
        assert {"domain_name", "task_name", "difficulty", "dynamic", "img_hw", "split", "dataset_return"} <= set(file.attrs)
        assert sorted(file) == ["0", "1", "2"]
        returns = [file[name].attrs["traj_return"] for name in file]
        assert file.attrs["dataset_return"] == pytest.approx(np.mean(returns)) and min(returns) > 780  # the shipped expert's
        assert 0 < file.attrs["random_return"] < 50
        for name in file:
            group = file[name]
            shapes = {key: (group[key].shape, group[key].dtype) for key in group}
            assert shapes["obs"] == ((1000, 64, 64, 3), np.uint8) and shapes["states"] == ((1000, 17), np.float32)
            assert shapes["actions"] == ((1000, 6), np.float32) and shapes["physics"] == ((1000, 18), np.float64)
            assert np.abs(group["actions"][:]).max() <= 1 and group["obs"].id.get_offset() % 8 == 0
            assert group["obs"][:].std(axis=0).mean() > 5  # it moves
    assert train_file.with_suffix(".png").stat().st_size > 10_000 and train_file.with_suffix(".gif").stat().st_size > 10_000
    assert not list(train_file.parent.glob("*partial*"))


def test_videos_of_the_splits_differ(data_folder):
    folder = data_folder / "backgrounds"
    train, val = ({file.read_bytes() for file in folder.glob(f"*/{split}/*.npy")} for split in ("train", "val"))
    assert len(train) == 3 and len(val) == 2 and not train & val


def test_alignment_with_the_environment(train_file):
    """Replaying a trajectory's actions from its seed gives its pixels again, and obs[t] is what preceded actions[t]: through the
    frame stack of the environment and of the dataset, pixel by pixel, from the padded start on."""
    data = Dataset((str(train_file),), "cpu")
    with h5py.File(train_file) as file:
        seed, actions, states = int(file["1"].attrs["seed"]), file["1/actions"][:], file["1/states"][:]
        backgrounds = train_file.parent / file.attrs["backgrounds"]
    env = collect_data.make_env("cheetah-run", "scale_easy_video_hard", backgrounds, "train")
    env = gym.wrappers.FrameStackObservation(env, 3, padding_type="reset")
    stack, states_now = env.reset(seed=seed)
    expert = collect_data.load_expert(ROOT / "experts" / "cheetah-run.npz")
    for t in range(30):
        index = torch.tensor([1000 + t])
        frames = data.observations(index, frame_stack=3, extra=1)
        assert np.array_equal(frames[0, :-1], stack), t
        state = gym.spaces.flatten(env.unwrapped.observation_space, states_now).astype(np.float32)
        assert np.array_equal(state, states[t]) and np.allclose(expert(state), actions[t], atol=1e-5)
        assert torch.equal(to_input(frames[:, :-1], torch.float32), to_input(torch.from_numpy(stack[None]), torch.float32))
        stack, _, _, _, states_now = env.step(actions[t])
        assert np.array_equal(frames[0, 1:], stack), t  # next_obs


def test_input_layout(train_file):
    """Channels are oldest frame first, RGB inside a frame, in [-1, 1]."""
    data = Dataset((str(train_file),), "cpu")
    frames = data.observations(torch.tensor([5, 700, 1999]), frame_stack=3)
    images = to_input(frames, torch.float32)
    assert images.shape == (3, 9, 64, 64) and images.is_contiguous(memory_format=torch.channels_last)
    for channel in range(9):
        expected = frames[:, channel // 3, :, :, channel % 3].float() / 127.5 - 1
        assert torch.allclose(images[:, channel], expected, atol=1e-6)


def test_windows_stay_inside_their_trajectory(train_file):
    data = Dataset((str(train_file),), "cpu")
    index = data.transitions()
    assert len(index) == 3 * 999 and not set(index.tolist()) & {999, 1999, 2999}
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(20):
        future = data.future(index, 10, generator)
        assert torch.equal(data.trajectory[future], data.trajectory[index])
        seen |= set((future - index).tolist())
    assert seen == set(range(1, 11))
    first = data.observations(torch.tensor([1000]), frame_stack=3)
    assert torch.equal(first[0, 0], first[0, 2])  # padded with its own first frame, not with the last of trajectory 0


def test_labelled_subsets_are_nested_and_fixed(train_file):
    data = Dataset((str(train_file),), "cpu")
    subsets = [set(data.trajectory[data.transitions(data.shuffle[:n])].tolist()) for n in (1, 2, 3)]
    assert [len(subset) for subset in subsets] == [1, 2, 3] and subsets[0] < subsets[1] < subsets[2]
    assert data.shuffle.tolist() == np.random.default_rng(42).permutation(3).tolist()


def test_unclipped_actions_are_clipped_on_load(train_file, tmp_path):
    copy = shutil.copy(train_file, tmp_path / "train.hdf5")
    with h5py.File(copy, "r+") as file:
        file["0/actions"][3] = [7, -7, 0, 0, 0, 0]
    assert Dataset((str(copy),), "cpu").actions[3].tolist() == [1, -1, 0, 0, 0, 0]


def test_killed_collection_ends_with_the_same_file(data_folder, collect_command, tmp_path):
    command = [sys.executable, ROOT / collect_command[0], *map(str, collect_command[1:]), "--output", tmp_path]
    name = "cheetah-run__scale_easy_video_hard__train.hdf5"
    journal = tmp_path / f"{name}.partial.jsonl"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (journal.exists() and journal.read_text().count("\n") >= 2):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert journal.exists() and not (tmp_path / name).exists()  # a half-written file does not have the name of a whole one
    with open(journal, "a") as file:
        file.write("[2, 81")  # the kill may cut a line short
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and "trajectories are there already" in result.stdout, result.stderr
    for split in ("train", "val"):
        file = name.replace("train", split)
        assert (tmp_path / file).read_bytes() == (data_folder / file).read_bytes()


def test_other_settings_do_not_overwrite(data_folder, collect_command):
    before = {path: path.stat().st_mtime for path in data_folder.glob("*.hdf5")}
    result = run(*collect_command, "--output", data_folder, "--seed", 1)
    assert result.returncode != 0 and "exists and differs in seed" in result.stderr and "Traceback" not in result.stderr
    assert {path: path.stat().st_mtime for path in data_folder.glob("*.hdf5")} == before


def test_second_process_on_one_folder(data_folder, collect_command):
    with open(data_folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = run(*collect_command, "--output", data_folder)
    assert result.returncode != 0 and result.stderr.strip().startswith("error: another process collects in")


def test_other_videos_of_the_same_name(frames, data_folder, tmp_path):
    shutil.copytree(frames, tmp_path / frames.name)
    with pytest.raises(SystemExit, match="was made from other videos"):
        collect_data.prepare_backgrounds(str(tmp_path / frames.name), data_folder, num_workers=1)


def test_verify_expert():
    result = run("collect_data.py", "--task", "cheetah-run", "--verify-expert", 5)
    line = json.loads(result.stdout.splitlines()[-1])
    assert set(line) == {"task", "episodes", "mean", "std", "min"} and line["episodes"] == 5 and line["mean"] > 800


def test_expert_training_writes_an_expert_and_continues(tmp_path):
    """A few thousand steps: files are written, the exported expert loads, and the same command with more steps goes on."""
    small = ["--sac.num-envs", 8, "--sac.learning-starts", 800, "--sac.updates-per-round", 1, "--sac.total-steps"]
    command = ["collect_data.py", "--train-expert", "--expert-output", tmp_path, "--eval-interval", 8000, *small]
    assert run(*command, 8000).returncode == 0
    about = collect_data.load_expert(tmp_path / "cheetah-run.npz").about
    assert about["algorithm"] == "sac" and (tmp_path / "cheetah-run.png").exists()
    result = run(*command, 16000)
    assert result.returncode == 0 and "continuing from" in result.stdout
    result = run(*command, 16000, "--seed", 1)
    assert result.returncode != 0 and "seed 0" in result.stderr and "Traceback" not in result.stderr
    result = run(*command, 24000, "--sac.episode-length", 2000)
    assert result.returncode != 0 and "at most 1000" in result.stderr and "Traceback" not in result.stderr
    checkpoint = torch.load(tmp_path / "cheetah-run.checkpoint.pt", weights_only=True)
    assert [point["step"] for point in checkpoint["curve"]] == [8000, 16000]


def test_expert_training_goes_on_from_a_shipped_policy(tmp_path):
    """Before the critics know the policy it stays as it is: its file says what the shipped one says, bit for bit."""
    expert, small = ROOT / "experts" / "cheetah-run.npz", ["--sac.num-envs", 8, "--sac.learning-starts", 1600, "--sac.hidden-dim"]
    command = ["collect_data.py", "--train-expert", "--expert", expert, "--expert-output", tmp_path, *small]
    result = run(*command, 256, "--sac.total-steps", 2400, "--sac.updates-per-round", 1, "--sac.height-reward", 0.1)
    assert result.returncode == 0, result.stderr
    (shipped, shipped_bias), (found, found_bias) = (
        collect_data.load_expert(path).layers[-1] for path in (expert, tmp_path / "cheetah-run.npz")
    )
    assert (shipped == found).all() and (shipped_bias == found_bias).all()
    result = run(*command, 128, "--expert-output", tmp_path / "other")
    assert result.returncode != 0 and "hidden-dim must be the same" in result.stderr and "Traceback" not in result.stderr


def test_training_may_reward_height_and_begin_upright():
    rewards, states = [], []
    for height_reward in (0.0, 2.0):
        envs = collect_data.make_state_envs("hopper-hop", 2, height_reward, num_upright=1)
        states.append(envs.reset(seed=4)[0])
        torso = [env.unwrapped.physics.named.data.xmat["torso", "zz"] for env in envs.envs]
        assert torso[0] == 1 and torso[1] < 0  # the first stands, the second begins as the task has it: head down
        rewards.append(envs.step(np.zeros((2, 4), np.float32))[1])
        height = envs.envs[1].unwrapped.physics.named.data.xpos["torso", "z"]
    assert (states[0] == states[1]).all() and (states[0][0] != states[0][1]).any()
    assert rewards[1][1] - rewards[0][1] == pytest.approx(2 * height) and height > 0.5


def test_training_may_hold_random_actions():
    args = collect_data.SACArgs(num_envs=50, buffer_size=50_000, learning_starts=0, random_bursts=0.02)
    agent = collect_data.SACExpert(args, 3, 2, collect_data.RunningMeanStd(shape=3), np.random.default_rng(0))
    actions = np.stack([agent.act(np.zeros((50, 3)), step) for step in range(200)])  # (200, 50, 2)
    random = (np.abs(actions) == 1).all(-1)
    held = (random[1:] & random[:-1] & (actions[1:] == actions[:-1]).all(-1)).sum() / random.sum()
    assert 0.2 < random.mean() < 0.45 and held > 0.9  # 1 - 0.98²⁰ = 0.33 of the time


def test_davis_layout(tmp_path):
    davis = tmp_path / "DAVIS"
    for names in collect_data.DAVIS_VIDEOS.values():
        for name in names.split():
            folder = davis / "JPEGImages" / "480p" / name
            folder.mkdir(parents=True)
            picture = np.full((48, 85, 3), 100, np.uint8)
            for i in range(2):
                collect_data.imageio.imwrite(folder / f"{i:05d}.jpg", picture)
    folder = collect_data.prepare_backgrounds(str(davis), tmp_path, num_workers=2)
    assert [len(list((folder / split).glob("*.npy"))) for split in ("train", "val")] == [60, 30]
    assert collect_data.load_videos(folder, "train", "easy")[0].shape == (2, 160, 160, 3)
    assert [len(collect_data.load_videos(folder, "train", name)) for name in ("vanilla", "easy", "medium", "hard")] == [0, 4, 8, 60]
    shutil.rmtree(davis / "JPEGImages" / "480p" / "soapbox")
    with pytest.raises(SystemExit, match="1 DAVIS videos are missing: soapbox"):
        collect_data.find_videos(str(davis))


def test_procedural_videos_are_textures_in_motion():
    video = collect_data.dead_leaves_video(0)
    assert video.shape == (60, 160, 160, 3) and np.array_equal(video[:3], collect_data.dead_leaves_video(0)[:3])
    assert video.std() > 20 and not np.array_equal(video, collect_data.dead_leaves_video(1))
    steps = np.abs(np.diff(video.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert steps.min() > 1 and steps.max() < 40  # every frame moves, none is a cut
    spectrum = np.abs(np.fft.fft2(video.mean(-1), axes=(1, 2))).mean(0)[0, 1:40]
    slope = np.polyfit(np.log(np.arange(1, 40)), np.log(spectrum), 1)[0]
    assert -1.6 < slope < -0.6  # amplitudes of natural images fall like 1/f


def edit(path: Path, change) -> Path:
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def set_nan(file):
    file["1/actions"][17, 2] = np.nan


def wrong_size(file):
    del file["1/obs"]
    file["1"].create_dataset("obs", data=np.zeros((1000, 32, 32, 3), np.uint8))


def compressed(file):
    obs = file["1/obs"][:]
    del file["1/obs"]
    file["1"].create_dataset("obs", data=obs, compression="gzip", compression_opts=1)


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda path: edit(path, set_nan), "trajectory /1: actions hold NaN"),
        (lambda path: edit(path, wrong_size), "trajectory /1: obs are uint8 (32, 32, 3), not uint8 (64, 64, 3)"),
        (lambda path: edit(path, compressed), "obs are compressed or chunked"),
        (lambda path: edit(path, lambda file: file["1"].pop("states")), "is not a whole dataset"),
        (lambda path: edit(path, lambda file: file.attrs.pop("task_name")), "is not a whole dataset"),
        (lambda path: os.truncate(path, 5_000_000), "is not a whole dataset"),
        (lambda path: path.write_bytes(b"not HDF5"), "is not a whole dataset"),
        (lambda path: path.unlink(), "no file"),
    ],
)
def test_bad_files_get_one_line(train_file, tmp_path, change, message):
    path = Path(shutil.copy(train_file, tmp_path / "train.hdf5"))
    change(path)
    with pytest.raises(SystemExit) as error:
        Dataset((str(path),), "cpu")
    assert message in str(error.value) and "\n" not in str(error.value)

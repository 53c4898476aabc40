"""collect_data.py: files, restarts, shards, trajectories rendered again, videos, pictures, backgrounds."""

import concurrent.futures
import errno
import fcntl
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import h5py
import matplotlib
import numpy as np
import pytest
from conftest import ROOT, beside, run
from PIL import Image

import collect_data

NAME = "cheetah-run__scale_easy_video_hard__{}.hdf5"
TASKS = ["cheetah-run", "walker-run", "hopper-hop", "humanoid-walk"]


def read(path: Path) -> list[dict]:
    """Arrays and attributes of each trajectory, in order."""
    with h5py.File(path) as file:
        groups = [file[str(i)] for i in range(len(file))]
        return [{name: array[:] for name, array in group.items()} | dict(group.attrs) for group in groups]


def attributes(path: Path) -> dict:
    with h5py.File(path) as file:
        return dict(file.attrs)


def same(one: dict, other: dict, *names: str) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in names)


# ---- Collection --------------------------------------------------------------------------------------------


def test_format(frames, tmp_path):
    """The paper's HDF5 format and what we add to it; an episode of full length, as its user collects it.

    In a folder with a space, a quote and a name that is not UTF-8.
    """
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/donn\xe9es d'Ann"))
    words = ["--num-trajectories", 1, "--num-eval-trajectories", 0, "--num-workers", 1]
    result = run("collect_data.py", *words, "--backgrounds", frames, "--output", folder)
    assert result.returncode == 0, result.stderr
    path = folder / NAME.format("train")
    assert f"donn\\udce9es d'Ann/{path.name}: 1 trajectories" in result.stdout
    about = attributes(path)
    names = {"domain_name", "task_name", "difficulty", "dynamic", "img_hw", "split", "dataset_return"}
    assert names <= about.keys() and 0 < about["random_return"] < 50
    (trajectory,) = read(path)
    assert about["dataset_return"] == pytest.approx(trajectory["traj_return"])
    assert trajectory["traj_return"] > 780  # the shipped expert's
    shapes = {name: (array.shape, array.dtype) for name, array in trajectory.items() if np.ndim(array)}
    assert shapes == {
        "obs": ((1000, 64, 64, 3), np.uint8),
        "states": ((1000, 17), np.float32),
        "actions": ((1000, 6), np.float32),
        "physics": ((1000, 18), np.float64),
    }
    assert np.abs(trajectory["actions"]).max() <= 1
    assert trajectory["obs"].std(axis=0).mean() > 5  # it moves
    with h5py.File(path) as file:
        assert file["0/obs"].id.get_offset() % 8 == 0
    for suffix in (".png", ".gif"):
        assert path.with_suffix(suffix).stat().st_size > 10_000
    assert not list(folder.glob("*partial*"))


def test_videos_of_the_splits_differ(data_folder):
    folder = data_folder / "backgrounds"
    train, val = (
        {file.read_bytes() for file in folder.glob(f"*/{split}/*.npy")} for split in ("train", "val")
    )
    assert len(train) == 3 and len(val) == 2 and not train & val


@pytest.fixture(scope="module")
def collect(collect_short, frames, data_folder) -> Callable:
    """Collects short episodes into a folder, which has the background videos already."""

    def collect(output: Path, *words):
        shutil.copytree(data_folder / "backgrounds", output / "backgrounds", dirs_exist_ok=True)
        words = ["--backgrounds", frames, "--output", output, "--num-workers", 1, *words]
        collect_short.main(collect_short.parse_args(list(map(str, words))))

    return collect


NUMBERS = ["--num-trajectories", 3, "--num-eval-trajectories", 1]


@pytest.fixture(scope="module")
def collected(collect, tmp_path_factory) -> Path:
    """A folder with three short trajectories and one for evaluation."""
    folder = tmp_path_factory.mktemp("collected")
    collect(folder, *NUMBERS)
    return folder


def test_killed_collection_ends_with_the_same_file(
    collect_short, collect, collected, frames, tmp_path, capsys
):
    shutil.copytree(collected / "backgrounds", tmp_path / "backgrounds")
    words = [*NUMBERS, "--num-workers", 1, "--backgrounds", frames, "--output", tmp_path]
    path, journal = tmp_path / NAME.format("train"), tmp_path / (NAME.format("train") + ".partial.jsonl")
    command = [sys.executable, collect_short.__file__, *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (journal.exists() and "]" in journal.read_text()):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert journal.exists() and not path.exists()  # a half-written file does not have the name of a whole one
    with open(journal, "a") as file:
        file.write("\n[2, 81")  # the kill may cut a line short
    collect(tmp_path, *NUMBERS)
    assert "trajectories are there already" in capsys.readouterr().out
    for file in (path, beside(path)):
        assert file.read_bytes() == (collected / file.name).read_bytes()


def test_a_journal_of_another_file_counts_nothing(collect_short, collect, tmp_path, monkeypatch):
    """Else a kill before the new one begins would leave a file of zeros that is complete."""
    journal = tmp_path / (NAME.format("train") + ".partial.jsonl")
    journal.write_text("[0, 81.0]\n")
    monkeypatch.setattr(collect_short, "create_dataset_file", lambda *_: sys.exit(str(journal.exists())))
    with pytest.raises(SystemExit, match="False"):
        collect(tmp_path, *NUMBERS)


def test_a_partial_evaluation_file_of_other_settings_is_found_first(collect, collected, tmp_path):
    name = NAME.format("val")
    shutil.copy(collected / name, tmp_path / f"{name}.partial")
    with pytest.raises(SystemExit, match=f"error: .*{name}.partial exists and differs in seed"):
        collect(tmp_path, *NUMBERS, "--seed", 1)
    assert not list(tmp_path.glob("*train*"))


class Here(concurrent.futures.Executor):
    """Does at once and in this process what workers do."""

    def __init__(self, num_workers):
        pass

    def submit(self, function, *args):
        future = concurrent.futures.Future()
        future.set_result(function(*args))
        return future


def test_a_machine_may_die_at_any_moment(collect_short, collect, tmp_path, monkeypatch):
    """On the disk are a trajectory's frames before the journal names it, a file before it is renamed."""
    calls = []
    fsync, rename = os.fsync, os.rename

    def journal_lines(path: Path) -> int:
        journal = path.with_name(f"{path.name}.jsonl")
        return journal.read_text().count("]") if journal.exists() else -1

    def recorded_fsync(file):
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        fsync(file)
        calls.append(("fsync", path.name, journal_lines(path)))

    def recorded_rename(source, target):
        calls.append(("rename", Path(source).name, journal_lines(Path(source))))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    monkeypatch.setattr(collect_short, "worker_pool", Here)
    collect(tmp_path, *NUMBERS)
    name = NAME.format("train") + ".partial"
    file_calls = [(call, lines) for call, file, lines in calls if file == name]
    assert [call for call, _ in file_calls] == [*["fsync"] * 5, "rename"]
    # the empty file before there is a journal, frames before their line, the whole file before its name
    assert [lines for _, lines in file_calls] == [-1, 0, 0, 0, 3, 3]
    collect_short.worker_env.cache_clear()


def test_background_videos_are_on_disk_before_their_folder_has_its_name(
    collect_short, frames, tmp_path, monkeypatch
):
    calls = []
    fsync, rename = os.fsync, os.rename

    def recorded_fsync(file):
        calls.append(Path(os.readlink(f"/proc/self/fd/{file}")).name)
        fsync(file)

    def recorded_rename(source, target):
        calls.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    monkeypatch.setattr(collect_short, "worker_pool", Here)
    folder = collect_short.prepare_backgrounds(str(frames), tmp_path, num_workers=1)
    files = [path.name for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 6 and calls[-1] == "rename"
    assert sorted(calls[:-1]) == sorted(files)


@pytest.fixture(scope="module")
def fish(tmp_path_factory) -> Path:
    """An expert for a task that has none, which moves at random."""
    env = collect_data.load_task("fish-swim")
    num_states = gym.spaces.flatdim(env.observation_space)
    arrays = {
        "about": json.dumps({"num_layers": 1}),
        "state_mean": np.zeros(num_states, np.float32),
        "state_std": np.ones(num_states, np.float32),
        "weight_0": np.random.default_rng(0).normal(size=(5, num_states)).astype(np.float32),
        "bias_0": np.zeros(5, np.float32),
    }
    path = tmp_path_factory.mktemp("experts") / "fish.npz"
    np.savez(path, **arrays)
    return path


def test_any_task_and_masks(collect, fish, tmp_path, capsys):
    """A task of dm_control with another expert; what lacks masks is not complete when they are asked for."""
    words = ["--task", "fish-swim", "--expert", fish, "--num-trajectories", 1, "--num-eval-trajectories", 0]
    path = tmp_path / "fish-swim__scale_easy_video_hard__train.hdf5"
    collect(tmp_path, *words)
    (plain,) = read(path)
    before = path.read_bytes()
    with pytest.raises(SystemExit, match="error: .*fish-swim.* exists and differs in masks"):
        collect(tmp_path, *words, "--masks")
    assert path.read_bytes() == before

    path.unlink()
    collect(tmp_path, *words, "--masks")
    (masked,) = read(path)
    assert same(plain, masked, *plain) and plain["actions"].shape == (60, 5)
    assert masked["mask"].shape == (60, 64, 64) and 0 < masked["mask"].mean() < 0.5
    collect(tmp_path, *words)  # more than what is asked for
    assert "is complete already" in capsys.readouterr().out

    collect(tmp_path / "twins", "--rerender", path, "--seed", 1)
    (twin,) = read(tmp_path / "twins" / path.name)
    assert same(twin, masked, "states", "actions", "physics", "seed")
    assert not same(twin, masked, "obs") and not same(twin, masked, "mask")  # another camera


def test_other_settings_do_not_overwrite(collect, collected):
    before = {path: path.stat().st_mtime for path in collected.glob("*.hdf5")}
    with pytest.raises(SystemExit, match="error: .* exists and differs in seed"):
        collect(collected, *NUMBERS, "--seed", 1)
    assert {path: path.stat().st_mtime for path in collected.glob("*.hdf5")} == before


def test_an_evaluation_file_of_other_settings_is_found_first(collect, collected, tmp_path):
    """Not when the training file has been recorded."""
    shutil.copy(collected / NAME.format("val"), tmp_path)
    with pytest.raises(SystemExit, match="error: .*val.hdf5 exists and differs in seed"):
        collect(tmp_path, *NUMBERS, "--seed", 1)
    assert not list(tmp_path.glob("*train*"))


def test_files_of_an_earlier_version_are_not_taken(collect, collected, tmp_path):
    path = Path(shutil.copy(collected / NAME.format("train"), tmp_path))
    with h5py.File(path, "r+") as file:
        assert file.attrs["world"] == 2
        del file.attrs["world"]  # as they were before
    with pytest.raises(SystemExit, match="error: .* exists and differs in world"):
        collect(tmp_path, *NUMBERS)
    with pytest.raises(SystemExit, match="error: --rerender .*: an earlier version rendered it"):
        collect(tmp_path / "twins", "--rerender", path)
    assert not (tmp_path / "twins" / path.name).exists()


def test_second_process_on_one_folder(collect, collected, capsys):
    """The second one waits for the first, so that commands that share data may begin side by side."""
    file = open(collected / ".lock", "w")  # noqa: SIM115 another thread closes it
    fcntl.flock(file, fcntl.LOCK_EX)
    threading.Timer(1, file.close).start()
    collect(collected, *NUMBERS)
    assert file.closed and "waiting for another process" in capsys.readouterr().out


def test_shards_hold_the_trajectories_of_the_whole(collect, collected, tmp_path):
    """In the order of the file names. They may be collected in one folder at once: the locks differ."""
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for shard in ("1/2", "2/2"):
            collect(tmp_path, *NUMBERS, "--shard", shard)
    for split, numbers in (("train", [1, 2]), ("val", [1])):
        files = sorted(tmp_path.glob(f"cheetah-run__*__{split}*.hdf5"))
        shards = [read(file) for file in files]
        assert [len(shard) for shard in shards] == numbers and "-of-02" in files[0].name
        for trajectory, expected in zip(sum(shards, []), read(collected / NAME.format(split)), strict=True):
            assert same(trajectory, expected, *expected)
    # its name is the training shard's with val for train
    assert (tmp_path / NAME.format("val__02-of-02")).exists()


@pytest.mark.parametrize("cores", [{0}, {1, 3, 5}, None])
def test_workers_are_as_many_as_the_cores_of_the_job(cores, monkeypatch):
    """taskset and Slurm give a part of the machine; macOS does not say."""
    if cores:
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: cores)
    else:
        monkeypatch.delattr(os, "sched_getaffinity")
    spec = importlib.util.spec_from_file_location("collect_again", ROOT / "collect_data.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "collect_again", module)
    spec.loader.exec_module(module)
    assert module.parse_args([]).num_workers == (len(cores) if cores else os.cpu_count())


@pytest.mark.parametrize("shard", ["0/2", "half", "1/", "1/2/3"])
def test_bad_shard(shard):
    with pytest.raises(SystemExit, match=f"error: --shard {shard}: give k/n"):
        collect_data.parse_shard(shard)


def test_the_order_of_the_names_is_that_of_the_shards():
    attributes = {"domain_name": "cheetah", "task_name": "run", "difficulty": "hard", "split": "train"}
    attributes |= {"action_repeat": 1, "action_noise": 0, "store_means": False}
    for count in (16, 120):
        paths = []
        for number in range(1, count + 1):
            paths.append(collect_data.dataset_path(Path(), attributes | {"shard": f"{number}/{count}"}))
        assert paths == sorted(paths)
        assert paths[2].name == f"cheetah-run__hard__train__{'0' * (count > 100)}03-of-{count}.hdf5"


# ---- Perturbed actions, and decisions that act for several steps ------------------------------------------


def test_noise_and_action_repeat(collect, tmp_path):
    """`actions` are what acted: they, held for four steps, lead from each row's physics to the next."""
    words = "--num-trajectories 2 --num-eval-trajectories 0 --action-repeat 4 --action-noise 0.4"
    collect(tmp_path, *words.split())
    name = "cheetah-run__scale_easy_video_hard__repeat4__noise0.4__train.hdf5"
    about, trajectories = attributes(tmp_path / name), read(tmp_path / name)
    assert (about["action_repeat"], about["action_noise"], about["world"]) == (4, 0.4, 2)
    noise = []
    for trajectory in trajectories:
        assert all(len(trajectory[array]) == 15 for array in ("obs", "states", "actions", "expert_actions"))
        actions = trajectory["actions"]
        meant = trajectory["expert_actions"]
        assert actions.dtype == meant.dtype == np.float32
        assert np.abs(actions).max() <= 1 and np.abs(meant).max() <= 1
        noise.append((actions - meant)[np.abs(actions) < 1])
    noise = np.concatenate(noise)
    assert 0.25 < noise.std() < 0.45 and abs(noise.mean()) < 0.15
    assert not same(*trajectories, "expert_actions")  # each has its own noise and start

    # what the expert does on average, whatever the limits cut off
    means = np.array([-3, -1, -0.3, 0, 0.9, 2.5])
    drawn = np.random.default_rng(0).normal(means, 0.8, (200_000, 6)).clip(-1, 1)
    limit = np.ones(6)
    assert np.abs(drawn.mean(0) - collect_data.mean_clipped(means, 0.8, -limit, limit)).max() < 0.005

    env = collect_data.load_task("cheetah-run")
    physics = env.unwrapped.physics
    env.reset(seed=int(trajectories[0]["seed"]))
    total = 0
    for state, action in zip(trajectories[0]["physics"], trajectories[0]["actions"]):
        assert np.array_equal(physics.get_state(), state)
        total += sum(env.step(action)[1] for _ in range(4))
    assert total == pytest.approx(trajectories[0]["traj_return"])

    collect(tmp_path / "twins", "--rerender", tmp_path / name, "--seed", 1)
    twins = read(tmp_path / "twins" / name)
    for twin, trajectory in zip(twins, trajectories, strict=True):
        assert same(twin, trajectory, "states", "actions", "expert_actions", "physics", "traj_return")
        assert (twin["obs"] != trajectory["obs"]).mean() > 0.5


def test_the_expert_of_an_action_repeat():
    """PPO's for this repeat if there is one, else the one that decides at every step."""
    paths = [
        collect_data.find_expert(collect_data.Args(action_repeat=repeat), "cheetah-run")
        for repeat in (1, 4, 5)
    ]
    names = ["cheetah-run.npz", "cheetah-run__repeat4__ppo.npz", "cheetah-run.npz"]
    assert [path.name for path in paths] == names
    assert all(path.exists() for path in paths)


def test_an_expert_that_is_held_is_said(collect, tmp_path, capsys):
    words = ["--num-trajectories", 1, "--num-eval-trajectories", 0, "--difficulty", "vanilla"]
    collect(tmp_path, *words, "--action-repeat", 5)
    assert "cheetah-run.npz learned at 1 simulation steps an action" in capsys.readouterr().out
    collect(tmp_path, *words)
    assert "learned at" not in capsys.readouterr().out


def test_means_are_stored_as_the_paper_has_them(collect, fish, tmp_path):
    """Unclipped; what acts is clipped."""
    words = ["--task", "fish-swim", "--difficulty", "vanilla", "--num-trajectories", 1]
    with np.load(fish) as arrays:
        arrays = dict(arrays) | {"about": json.dumps({"num_layers": 1, "output": "mean"})}
    arrays["weight_0"] = 20 * arrays["weight_0"]
    np.savez(tmp_path / "wild.npz", **arrays)
    words += ["--num-eval-trajectories", 0, "--expert", tmp_path / "wild.npz"]
    collect(tmp_path, *words)
    collect(tmp_path, *words, "--store-means")
    (acted,) = read(tmp_path / "fish-swim__vanilla__train.hdf5")
    (means,) = read(tmp_path / "fish-swim__vanilla__means__train.hdf5")
    assert attributes(tmp_path / "fish-swim__vanilla__means__train.hdf5")["store_means"]
    assert same(acted, means, "obs", "states", "physics", "traj_return")
    assert np.abs(means["actions"]).max() > 5
    assert np.array_equal(means["actions"].clip(-1, 1), acted["actions"])
    expert = collect_data.load_expert(tmp_path / "wild.npz")
    assert np.allclose(means["actions"], expert.mean(means["states"]), rtol=1e-4, atol=1e-4)


# ---- Rendered again ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(collected, tmp_path_factory) -> Path:
    """A file with a single trajectory, in a folder of its own."""
    return Path(shutil.copy(collected / NAME.format("val"), tmp_path_factory.mktemp("source")))


def test_same_settings_give_the_same_pixels(collect, source, tmp_path):
    collect(tmp_path, "--rerender", source)
    (again,), (first,) = read(tmp_path / source.name), read(source)
    assert set(again) == set(first) == {"obs", "states", "actions", "physics", "traj_return", "seed"}
    assert same(again, first, *first) and again["obs"].shape == (60, 64, 64, 3)
    about, about_first = attributes(tmp_path / source.name), attributes(source)
    assert source.name in about.pop("rerendered_from") and about == about_first


def test_other_seed_changes_pixels_alone(collect, source, tmp_path):
    collect(tmp_path, "--rerender", source, "--seed", 1)
    (twin,), (first,) = read(tmp_path / source.name), read(source)
    assert same(twin, first, "states", "actions", "physics", "traj_return", "seed")
    assert (twin["obs"] != first["obs"]).mean() > 0.5 and attributes(tmp_path / source.name)["seed"] == 1


def test_to_vanilla_and_back(collect, source, tmp_path):
    """Distractors come from the seed alone, whatever was rendered in between."""
    collect(tmp_path, "--rerender", source, "--difficulty", "vanilla")
    path = tmp_path / "cheetah-run__vanilla__val.hdf5"
    (vanilla,), (first,), about = read(path), read(source), attributes(path)
    assert same(vanilla, first, "states", "actions", "physics")
    assert (vanilla["obs"] != first["obs"]).mean() > 0.5
    assert about["difficulty"] == "vanilla" and not about["dynamic"] and about["split"] == "val"
    assert about["random_return"] == attributes(source)["random_return"]
    assert source.name in about["rerendered_from"]
    with pytest.raises(SystemExit, match=f"error: {path} exists and differs in .*rerendered_from"):
        collect(tmp_path, "--difficulty", "vanilla", *NUMBERS)
    collect(tmp_path, "--rerender", path)
    assert same(read(tmp_path / source.name)[0], first, "obs", "states", "actions", "physics")


@pytest.mark.parametrize("task", [*TASKS, "fish-swim", "reacher-easy"])
def test_recorded_physics_gives_the_pixels_of_the_simulation(task):
    """Distracted and not, whatever was shown before; also where an episode changes the model."""
    videos = [collect_data.dead_leaves_video(0, num_frames=5)]
    for env in (
        collect_data.DistractingControl(collect_data.load_task(task), 0.1, 0.1, videos),
        collect_data.DistractingControl(collect_data.load_task(task), 0.0, 0.0, []),
    ):
        rng = np.random.default_rng(0)
        arrays, _ = collect_data.play(
            env, lambda state: rng.uniform(-1, 1, env.action_space.shape), seed=3, length=20
        )
        env.env = collect_data.Replay(env.env)
        collect_data.replay(env, 4, arrays["physics"][::-1], physics_seed=5)
        again = collect_data.replay(env, 3, arrays["physics"], physics_seed=3)
        assert again.keys() == {"obs"} and np.array_equal(again["obs"], arrays["obs"])
        other = collect_data.replay(env, 3, arrays["physics"], physics_seed=5)
        assert np.array_equal(other["obs"], arrays["obs"]) == (task in TASKS)  # their model never changes
        assert isinstance(env, gym.Wrapper) and arrays["obs"].std() > 5


@pytest.mark.parametrize("task", TASKS)
def test_masks(task):
    """The agent in the picture of the same row: where its own colours change, pixels of the mask change.

    Hardly any other does. The picture is the same with and without masks.
    """
    env = collect_data.DistractingControl(collect_data.load_task(task), 0.0, 0.3, [])
    rest = np.zeros(env.action_space.shape)
    arrays, _ = collect_data.play(env, lambda state: rest, seed=0, length=30, masks=True)
    masks = arrays["mask"]
    assert masks.shape == (30, 64, 64) and masks.dtype == np.uint8 and set(np.unique(masks)) == {0, 1}
    without, _ = collect_data.play(env, lambda state: rest, seed=0, length=30)
    assert "mask" not in without and same(without, arrays, *without)

    model = env.physics.model
    model.mat_rgba[model.geom_matid[model.geom_bodyid > 0]] = [0, 1, 0, 1]
    env.own_colors = model.mat_rgba[:, :3].copy()
    painted, _ = collect_data.play(env, lambda state: rest, seed=0, length=30)
    changed = (painted["obs"] != arrays["obs"]).any(-1)
    assert 0.01 < masks.mean() < 0.3
    assert changed[masks == 1].mean() > 0.95 and changed[masks == 0].mean() < 0.1

    env.env = collect_data.Replay(env.env)
    env.own_colors = collect_data.load_task(task).unwrapped.physics.model.mat_rgba[:, :3]
    again = collect_data.replay(env, 0, arrays["physics"], physics_seed=0, masks=True)
    assert same(again, arrays, "obs", "mask")


def test_source_is_never_overwritten(collect, source):
    before = source.read_bytes()
    with pytest.raises(SystemExit, match="error: .* would be rendered over itself"):
        collect(source.parent, "--rerender", source)
    assert source.read_bytes() == before and not list(source.parent.glob("*.partial*"))


def no_physics(path: Path):
    with h5py.File(path, "r+") as file:
        del file["0/physics"]


def unfinished(path):
    with h5py.File(path, "r+") as file:
        file.attrs["dataset_return"] = np.nan


@pytest.mark.parametrize(
    "change,message",
    [
        (no_physics, "has no physics"),
        (unfinished, "its collection has not finished"),
        (lambda path: path.write_bytes(path.read_bytes()[:100_000]), "not a whole dataset"),
        (lambda path: path.write_text("not HDF5"), "not a whole dataset"),
        (lambda path: path.unlink(), "not a whole dataset"),
    ],
)
def test_bad_sources_get_one_line(source, change, message, tmp_path):
    path = Path(shutil.copy(source, tmp_path / "source.hdf5"))
    change(path)
    with pytest.raises(SystemExit) as error:
        collect_data.read_source(path)
    text = str(error.value)
    assert text.startswith("error: ") and message in text and "\n" not in text


# ---- Pictures ----------------------------------------------------------------------------------------------


def test_preview(collect, tmp_path):
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever plot.py has set in this process
        collect(tmp_path, "--preview", "--task", "walker-run")
    names = [
        "preview__scale_easy_video_hard",
        *(f"preview__walker-run__scale_easy_video_hard__{x}" for x in ("strip", "twins")),
    ]
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == sorted(names)
    tasks, strip, twins = (
        cells(tmp_path / f"{name}.png", columns) for name, columns in zip(names, (4, 10, 7))
    )
    # twins: without distractors, and three draws of them
    assert len(tasks) == 4 and len(strip) == 1 and len(twins) == 4
    for grid in (tasks, strip, twins):
        assert grid.std(axis=(2, 3, 4)).min() > 5  # no blank picture
        for row in grid:
            assert all(np.abs(one - other).mean() > 1 for one, other in zip(row, row[1:]))
    for one in range(4):
        for other in range(one):  # rows differ, too
            assert np.abs(twins[one] - twins[other]).mean() > 10
            assert np.abs(tasks[one] - tasks[other]).mean() > 10
    assert all(path.stat().st_size < 300_000 for path in tmp_path.glob("*.png"))


def cells(path: Path, columns: int) -> np.ndarray:
    """Pictures of a labelled grid, which end at its lower right corner: float (rows, columns, 64, 64, 3)."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(float)
    cell = 2 * (64 + 2)
    rows = (pixels.shape[0] - 30) // cell
    left, top = pixels.shape[1] - columns * cell - 4, pixels.shape[0] - rows * cell - 4
    grid = pixels[top + 4 :, left + 4 :].reshape(rows, cell, columns, cell, 3).swapaxes(1, 2)[:, :, :-4, :-4]
    assert np.array_equal(grid[:, :, ::2, ::2], grid[:, :, 1::2, 1::2])  # repeated pixels
    return grid[:, :, ::2, ::2]


def test_twins_of_a_preview_show_the_same_physics(data_folder, frames):
    """Rows are aligned: without distractors a preview shows what its twins show without theirs."""
    args = collect_data.Args(difficulty="vanilla", backgrounds=str(frames))
    plain, twin = collect_data.preview_task(
        "cheetah-run", args, data_folder, ROOT / "experts/cheetah-run.npz", draws=1
    )
    assert plain.shape == (250, 64, 64, 3) and np.array_equal(plain, twin)


# ---- Progress ----------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def watch(file: io.StringIO, monkeypatch) -> str:
    """What a bar of 100 steps, one each second, writes."""
    now = iter(range(10**6))
    second = next(now)
    monkeypatch.setattr(collect_data.time, "monotonic", lambda: second)
    bar = collect_data.Progress(range(100), "lam", 100, unit="update", file=file, mininterval=0)
    for step in bar:
        second = next(now)
        bar.set_postfix_str(f"loss {step}")
    return file.getvalue()


def test_progress_in_a_file_is_a_line_each_ten_seconds(monkeypatch):
    lines = watch(io.StringIO(), monkeypatch).split("\n")
    assert lines.pop() == ""  # the last one is whole, too
    assert all(line.startswith("lam: ") and "\r" not in line for line in lines)
    steps = [int(re.search(r"(\d+)/100", line)[1]) for line in lines]
    assert steps == [0, *range(9, 100, 10), 100] and "loss 99" in lines[-1]
    assert all(re.search(r"<\d\d:\d\d, .*update/s", line) for line in lines[1:])  # time left and speed


def test_progress_in_a_terminal_is_one_line(monkeypatch):
    text = watch(Terminal(), monkeypatch)
    assert text.count("\n") == 1 and text.count("\r") > 100 and "100/100" in text


# ---- Plain videos ------------------------------------------------------------------------------------------


def make_video(path: Path, frames: int, seed: int) -> np.ndarray:
    """A slow gradient of 96×64 pixels, which a codec keeps well. What it shows: (frames, 64, 96, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x, t = np.meshgrid(np.arange(64), np.arange(96), np.arange(frames), indexing="ij")
    pixels = np.stack(
        [2 * x + t % 40, 3 * y + 0 * t, 100 + 40 * np.sin(t / 9 + seed) + 0 * x], -1
    )  # (64, 96, frames, 3)
    pixels = np.clip(pixels, 0, 255).astype(np.uint8).transpose(2, 0, 1, 3)
    collect_data.imageio.imwrite(path, pixels, fps=30, plugin="pyav", codec="libx264")
    return pixels


@pytest.fixture
def collect_videos(collect_short) -> Callable:
    def collect_videos(videos: Path, output: Path):
        collect_short.main(collect_short.parse_args(["--from-videos", str(videos), "--output", str(output)]))

    return collect_videos


def test_videos_become_trajectories(collect_videos, tmp_path, capsys):
    """One of a trajectory and ten frames, which are dropped, and one of 40 frames for evaluation."""
    videos = tmp_path / "holiday"
    shown = {
        "train": make_video(videos / "a.mp4", 70, 0)[:60],
        "val": make_video(videos / "b" / "c.MKV", 40, 1),
    }
    (videos / "notes.txt").write_text("no video")
    collect_videos(videos, tmp_path / "data")
    output, errors = capsys.readouterr()
    assert "dropped 10 frames" in output and "video 2 of 2: b/c.MKV" in errors  # what the bar reads
    for split, source in (("train", "a.mp4"), ("val", "b/c.MKV")):
        path = tmp_path / "data" / f"holiday__videos__{split}.hdf5"
        about = attributes(path)
        expected = {"domain_name": "video", "task_name": "holiday", "difficulty": "vanilla", "split": split}
        assert expected.items() <= about.items() and about["img_hw"] == 64 and not about["dynamic"]
        (trajectory,) = read(path)
        assert set(trajectory) == {"obs", "source"} and trajectory["source"] == source
        assert trajectory["obs"].dtype == np.uint8
        expected = shown[split][:, :, 16:80].astype(int)  # the central square, which has 64 pixels already
        assert trajectory["obs"].shape == expected.shape and np.abs(trajectory["obs"] - expected).mean() < 4
        with h5py.File(path) as file:
            obs = file["0/obs"]
            assert obs.chunks is None and obs.compression is None and obs.id.get_offset() % 8 == 0
        for suffix in (".png", ".gif"):
            assert path.with_suffix(suffix).stat().st_size > 1000
    assert not list((tmp_path / "data").glob("*.partial"))


def test_large_videos_are_shrunk_by_averaging(tmp_path):
    pixels = np.zeros((30, 256, 128, 3), np.uint8)
    pixels[:, :, ::2] = 200  # stripes of one pixel become a grey
    collect_data.imageio.imwrite(tmp_path / "stripes.mp4", pixels, fps=30, plugin="pyav", codec="libx264")
    frames = np.stack(list(collect_data.read_video(tmp_path / "stripes.mp4")))
    assert frames.shape == (30, 64, 64, 3) and np.abs(frames.astype(int) - 100).max() < 12


def sources(path: Path) -> list[str]:
    return [trajectory["source"] for trajectory in read(path)]


def test_unreadable_and_short_videos_are_left_out(collect_videos, tmp_path, capsys):
    """A line each and a count; another video is for evaluation then."""
    videos, data = tmp_path / "videos", tmp_path / "data"
    for name, frames in (("a", 30), ("b", 19), ("d", 20), ("f", 30)):
        make_video(videos / f"{name}.mp4", frames, 0)
    (videos / "c.mp4").write_bytes(b"no video" * 100)
    (videos / "e.mp4").symlink_to("nowhere.mp4")
    collect_videos(videos, data)
    lines = capsys.readouterr().out.splitlines()
    left_out = [line for line in lines if line.startswith("left out: ")]
    assert [line.split(": ")[1] for line in left_out] == ["b.mp4", "c.mp4", "e.mp4"]
    assert "fewer than 20 frames" in left_out[0] and "cannot be read" in left_out[1]
    assert "3 of 6 videos left out" in lines
    assert sources(data / "videos__videos__train.hdf5") == ["a.mp4", "f.mp4"]
    assert sources(data / "videos__videos__val.hdf5") == ["d.mp4"]


def test_no_video_can_be_read(collect_videos, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(SystemExit) as error:
        collect_videos(tmp_path / "videos", tmp_path / "data")
    assert str(error.value) == f"error: no video of 20 frames in {tmp_path / 'videos'}"
    assert not list((tmp_path / "data").glob("*.hdf5*"))


def test_which_files_are_videos(tmp_path):
    """Links are followed, also in a circle; a file is taken once, by whatever names it can be reached."""
    videos, other = tmp_path / "videos", tmp_path / "other"
    for name in ("b.mp4", "c.mp4/d.mp4", "._b.mp4", ".trash/e.mp4"):
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).write_text("a video")
    (other / "deep").mkdir(parents=True)
    (other / "deep" / "f.mp4").write_text("a video")
    (other / "back").symlink_to(videos)
    (videos / "again.mp4").symlink_to(other / "deep" / "f.mp4")
    (videos / "link").symlink_to(other)
    (videos / "self").symlink_to(".")
    found = collect_data.find_plain_videos(videos)
    assert [str(path.relative_to(videos)) for path in found] == ["again.mp4", "b.mp4", "c.mp4/d.mp4"]
    (videos / "again.mp4").unlink()
    found = collect_data.find_plain_videos(videos)
    names = [str(path.relative_to(videos)) for path in found]
    assert names == ["b.mp4", "c.mp4/d.mp4", "link/deep/f.mp4"]


def test_names_that_are_not_utf8(collect_videos, tmp_path):
    """Those of a Latin-1 disk: the folders' and a video's."""
    videos = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9t\xe9"))
    make_video(tmp_path / "a.mp4", 30, 0)
    videos.mkdir()
    for name in (b"caf\xe9.mp4", "caf\u00e9.mp4".encode()):
        shutil.copy(tmp_path / "a.mp4", os.fsencode(videos) + b"/" + name)
    data = Path(os.fsdecode(os.fsencode(tmp_path) + b"/donn\xe9es"))
    collect_videos(videos, data)
    train, val = (data / f"\\xe9t\\xe9__videos__{split}.hdf5" for split in ("train", "val"))
    assert sorted(sources(train) + sources(val)) == ["caf\\xe9.mp4", "caf\u00e9.mp4"]
    assert attributes(train)["task_name"] == "\\xe9t\\xe9"


def test_what_was_decoded_is_not_lost(collect_short, collect_videos, tmp_path, monkeypatch):
    """Ctrl-C within a video and between the files, and a new start each time, end with the same files."""
    for number in range(4):
        make_video(tmp_path / "videos" / f"{number}.mp4", 30 + number, number)
    collect_videos(tmp_path / "videos", tmp_path / "whole")
    decode, write = collect_short.read_video, collect_short.write_videos
    decoded = []

    def stop_within_a_video(path):
        for frame, picture in enumerate(decode(path)):
            if path.name == "2.mp4" and frame == 10:
                raise KeyboardInterrupt
            yield picture
        decoded.append(path.name)

    def note_what_is_decoded(path):
        yield from decode(path)
        decoded.append(path.name)

    def stop_in_the_evaluation_file(path, *content):
        if "__val" in path.name:
            raise KeyboardInterrupt
        write(path, *content)

    monkeypatch.setattr(collect_short, "read_video", stop_within_a_video)
    with pytest.raises(KeyboardInterrupt):
        collect_videos(tmp_path / "videos", tmp_path / "data")
    monkeypatch.setattr(collect_short, "read_video", note_what_is_decoded)
    monkeypatch.setattr(collect_short, "write_videos", stop_in_the_evaluation_file)
    with pytest.raises(KeyboardInterrupt):
        collect_videos(tmp_path / "videos", tmp_path / "data")
    assert decoded == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]
    train = tmp_path / "data" / "videos__videos__train.hdf5"
    written = train.stat().st_mtime_ns
    monkeypatch.setattr(collect_short, "write_videos", write)
    collect_videos(tmp_path / "videos", tmp_path / "data")
    assert len(decoded) == 4 and train.stat().st_mtime_ns == written
    assert not list((tmp_path / "data").glob("*.partial"))
    for path in (train, beside(train)):
        assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()


def test_finished_files_stay(collect_videos, tmp_path, capsys):
    """One that was removed is made again beside the other; those of other videos are refused."""
    videos, data = tmp_path / "videos", tmp_path / "data"
    for name in ("a", "b", "c"):
        make_video(videos / f"{name}.mp4", 30, 0)
    collect_videos(videos, data)
    files = [data / f"videos__videos__{split}.hdf5" for split in ("train", "val")]
    written = [(path.stat().st_mtime_ns, path.read_bytes()) for path in files]
    capsys.readouterr()
    collect_videos(videos, data)
    output = capsys.readouterr().out
    assert all(f"{path} is complete already" in output for path in files)
    assert [(path.stat().st_mtime_ns, path.read_bytes()) for path in files] == written
    files[1].unlink()
    collect_videos(videos, data)
    assert files[0].stat().st_mtime_ns == written[0][0] and files[1].read_bytes() == written[1][1]

    make_video(videos / "d.mp4", 30, 0)
    with pytest.raises(SystemExit, match="exists and differs in num_videos, num_bytes; remove it"):
        collect_videos(videos, data)
    (videos / "d.mp4").unlink()
    (videos / "a.mp4").write_bytes(b"no video" * 100)  # b becomes the first, c the one for evaluation
    files[1].unlink()
    with pytest.raises(SystemExit, match="exists and differs in num_bytes, left_out; remove it"):
        collect_videos(videos, data)
    assert files[0].read_bytes() == written[0][1] and not files[1].exists()


def test_a_disk_without_locks_is_a_warning(collect_videos, tmp_path, monkeypatch, capsys):
    """As Lustre answers; the folder is worked in nevertheless."""

    def flock(file, how):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    make_video(tmp_path / "videos" / "a.mp4", 30, 0)
    monkeypatch.setattr(fcntl, "flock", flock)
    collect_videos(tmp_path / "videos", tmp_path / "data")
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and os.strerror(errno.ENOSYS) in warnings[0] and "data/.lock" in warnings[0]
    assert (tmp_path / "data" / "videos__videos__train.hdf5").exists()


# ---- Background videos -------------------------------------------------------------------------------------


@pytest.fixture
def davis(tmp_path) -> Path:
    """A folder as DAVIS has it: the number of a video is its red, its split the green, the frame the blue."""
    for split, names in collect_data.DAVIS_VIDEOS.items():
        for number, name in enumerate(names.split()):
            folder = tmp_path / "DAVIS" / "JPEGImages" / "480p" / name
            folder.mkdir(parents=True)
            for frame in range(2):
                color = (4 * number, 0 if split == "train" else 255, 100 * frame)
                Image.new("RGB", (85, 48), color).save(folder / f"{frame:05d}.jpg", quality=95)
    return tmp_path / "DAVIS"


def test_davis(forks, davis, tmp_path):
    """The videos of DAVIS' own lists. Each frame is decoded and resized once; then the cache is enough."""
    backgrounds = collect_data.prepare_backgrounds(str(davis), tmp_path, num_workers=2)
    made = {path: path.stat().st_mtime_ns for path in backgrounds.rglob("*.npy")}
    assert collect_data.prepare_backgrounds(str(davis), tmp_path, num_workers=2) == backgrounds
    assert {path: path.stat().st_mtime_ns for path in made} == made  # nothing is decoded twice
    shutil.rmtree(davis)
    for split, green, number in (("train", 0, 60), ("val", 255, 30)):
        videos = collect_data.load_videos(backgrounds, split, "hard")
        assert len(videos) == number and videos[0].shape == (2, 160, 160, 3)
        assert all(abs(int(video[0, 80, 80, 1]) - green) < 8 for video in videos)
        assert abs(int(videos[20][1, 80, 80, 0]) - 80) < 8 and abs(int(videos[20][1, 80, 80, 2]) - 100) < 8
        env = collect_data.make_env("cheetah-run", "hard", backgrounds, split)
        arrays, _ = collect_data.play(env, lambda state: np.zeros(6), seed=0, length=5)
        assert abs(float(np.median(arrays["obs"][..., 1])) - green) < 60
    difficulties = ("vanilla", "easy", "medium", "hard")
    assert [len(collect_data.load_videos(backgrounds, "train", name)) for name in difficulties] == [
        0,
        4,
        8,
        60,
    ]


def test_davis_without_a_video(davis):
    """Or by its inner folder, which has the same videos."""
    inner = davis / "JPEGImages" / "480p"
    assert collect_data.find_videos(str(inner)) == collect_data.find_videos(str(davis))
    shutil.rmtree(davis / "JPEGImages" / "480p" / "soapbox")
    with pytest.raises(SystemExit, match="1 DAVIS videos are missing: soapbox"):
        collect_data.find_videos(str(davis))


def test_frames_without_leading_zeros(tmp_path):
    """In the order of their numbers; what macOS puts beside them is no picture."""
    for number in range(12):
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(tmp_path / f"frame-{number}.png")
    (tmp_path / "._frame-0.png").write_text("no picture")
    video = collect_data.make_video(tmp_path)
    assert list(video[:, 0, 0, 0]) == list(range(0, 240, 20))


def test_hidden_folders_are_no_videos(tmp_path):
    for name in (".cache", "one", "two", "three"):
        (tmp_path / name).mkdir()
    found = collect_data.find_videos(str(tmp_path))
    assert [folder.name for split in ("train", "val") for folder in found[split]] == ["one", "three", "two"]


def test_a_damaged_picture_is_named(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "0.jpg")
    path = tmp_path / "0.jpg"
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(SystemExit, match="^error: .*/0.jpg: .*: replace this picture$"):
        collect_data.make_video(tmp_path)


@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_frames_of_16_bits_look_like_those_of_8(mode, tmp_path):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(10, 0).repeat(10, 1)
    pixels = ramp if mode == "L" else ramp * np.uint16(257)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    assert Image.open(tmp_path / "0.png").mode == mode
    video = collect_data.make_video(tmp_path)
    assert np.array_equal(video[0], ramp[..., None].repeat(3, -1))


def test_frames_of_floats_that_became_integers_are_refused(forks, tmp_path):
    """All values are 0 or 1: one line that names the video and the range."""
    rng = np.random.default_rng(0)
    for name, scale in (("a", 255), ("b", 1)):
        (tmp_path / "frames" / name).mkdir(parents=True)
        pixels = (rng.uniform(0, 1.9, (8, 8, 3)).clip(0, 1) * scale).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "frames" / name / "0.png")
    with pytest.raises(SystemExit, match="^error: .*frames/b: all values are 0 to 1, of 255$"):
        collect_data.prepare_backgrounds(str(tmp_path / "frames"), tmp_path, num_workers=1)
    assert not (tmp_path / "backgrounds" / "frames").exists()  # repaired pictures are taken


def test_videos_of_an_earlier_version_are_not_taken(collect, collected, tmp_path):
    shutil.copytree(collected / "backgrounds", tmp_path / "backgrounds")
    (sources,) = (tmp_path / "backgrounds").glob("*/sources.json")
    about = json.loads(sources.read_text())
    assert about.pop("world") == 2
    sources.write_text(json.dumps(about, indent=1))
    with pytest.raises(SystemExit, match="error: .*was made from other videos or by another version"):
        words = ["demo", "--backgrounds", str(Path(about["train"][0]).parent), "--output", str(tmp_path)]
        collect_data.main(collect_data.parse_args(words))
    assert not list(tmp_path.glob("*.hdf5*"))


def test_other_videos_of_the_same_name(frames, data_folder, tmp_path):
    shutil.copytree(frames, tmp_path / frames.name)
    with pytest.raises(SystemExit, match="was made from other videos"):
        collect_data.prepare_backgrounds(str(tmp_path / frames.name), data_folder, num_workers=1)


def test_camera_of_a_procedural_video_cannot_be_extrapolated():
    """A frame's move says little of the next one's; within a video the pace changes, too."""
    paths = [collect_data.wandering(np.random.default_rng(seed), 60) for seed in range(90)]
    moves = np.stack([np.diff(path, axis=0) for path in paths])  # (90, 59, 2)
    assert abs((moves[:, 1:] * moves[:, :-1]).mean() / (moves**2).mean()) < 0.5
    correlations = [np.corrcoef(m[1:].ravel(), m[:-1].ravel())[0, 1] for m in moves]
    assert np.mean(correlations) < 0.4 and np.max(correlations) < 0.6
    pace = np.linalg.norm(moves, axis=-1)
    assert 0.004 < pace.mean() < 0.01  # of a picture's side in a frame
    assert (pace.std(axis=1) / pace.mean(axis=1)).min() > 0.3

    video = collect_data.dead_leaves_video(0).mean(-1)  # and the pixels follow
    spectra = np.fft.fft2(video)
    cross = spectra[1:] * spectra[:-1].conj()
    peaks = np.abs(np.fft.ifft2(cross / np.abs(cross))).reshape(59, -1).argmax(1)
    seen = np.stack(np.unravel_index(peaks, (160, 160)), axis=-1).astype(float)
    seen[seen > 80] -= 160
    assert abs((seen[1:] * seen[:-1]).mean() / (seen**2).mean()) < 0.5


def test_procedural_videos_are_textures_in_motion():
    video = collect_data.dead_leaves_video(0)
    assert video.shape == (60, 160, 160, 3) and np.array_equal(video, collect_data.dead_leaves_video(0))
    assert video.std() > 20 and not np.array_equal(video, collect_data.dead_leaves_video(1))
    steps = np.abs(np.diff(video.astype(int), axis=0)).mean(axis=(1, 2, 3))
    assert steps.min() > 1 and steps.max() < 40  # every frame moves, none is a cut
    spectrum = np.abs(np.fft.fft2(video.mean(-1), axes=(1, 2))).mean(0)[0, 1:40]
    slope = np.polyfit(np.log(np.arange(1, 40)), np.log(spectrum), 1)[0]
    assert -1.6 < slope < -0.6  # amplitudes of natural images fall like 1/f


# ---- What bad input says -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words,message",
    [
        (["--backgrounds", "nowhere"], "error: --backgrounds nowhere: no such folder"),
        (["--backgrounds", "empty"], "no folders of frames"),
        (["--expert", "nobody.npz"], "error: no expert nobody.npz"),
        (["--expert", "text.npz"], "error: text.npz is not an expert file"),
        (["--task", "fish-swim"], "experts/fish-swim.npz; experts/sac.py trains one"),
        (["--task", "fish-fly"], "error: --task fish-fly: dm_control has acrobot-swingup, "),
        (["--task", "fish"], "error: --task fish: dm_control has "),
        (
            ["--task", "walker-run", "--expert", "cheetah.npz"],
            "cheetah.npz plays another task",
        ),
        (["--num-workers", "0"], "error: --num-workers 0: from 1 to"),
        (["--action-repeat", "0"], "error: --action-repeat 0: from 1 to"),
        (["--action-repeat", "3"], "error: --action-repeat 3: must divide 1000"),
        (["--action-noise", "-0.1"], "error: --action-noise -0.1: from 0 to"),
        (["--action-noise", "nan"], "error: --action-noise nan: from 0 to"),
        (["--action-noise", "0.1", "--store-means"], "error: --store-means with --action-noise"),
        (["--num-trajectories", "-1"], "error: --num-trajectories -1: from 0 to"),
        (["--num-eval-trajectories", "-5"], "error: --num-eval-trajectories -5: from 0 to"),
        (["--seed", "-1"], "error: --seed -1: from 0 to"),
        (["--seed", str(2**64)], "error: --seed 18446744073709551616: from 0 to"),
        (["--shard", "3/2"], "error: --shard 3/2"),
        (["--rerender", "nowhere.hdf5"], "error: --rerender nowhere.hdf5: not a whole dataset"),
        (["--from-videos", "empty"], "no videos (.mp4"),
        (["--preview", "--from-videos", "empty"], "error: --from-videos, --preview and --rerender: give one"),
        (["--shard", "1/2", "--rerender", "x.hdf5"], "error: --shard is for collecting"),
        (["--task", "lqr-lqr_2_1"], "error: --task lqr-lqr_2_1: dm_control has"),
    ],
)
def test_bad_input_gets_one_line(words, message, tmp_path, monkeypatch):
    """And nothing is made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.npz").write_text("text")
    (tmp_path / "cheetah.npz").symlink_to(ROOT / "experts/cheetah-run.npz")
    with pytest.raises(SystemExit) as error:
        collect_data.main(collect_data.parse_args(["demo", "--output", str(tmp_path / "data"), *words]))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


@pytest.fixture
def variables(monkeypatch) -> dict:
    """The environment's variables, to be changed; none of them says how to render."""
    values = dict(os.environ)
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID", "CUDA_VISIBLE_DEVICES", "DISPLAY"):
        values.pop(name, None)
    monkeypatch.setattr(os, "environ", values)
    return values


@pytest.mark.parametrize(
    "preset,reason",
    [
        ({"MUJOCO_GL": "nonsense"}, "RuntimeError: Environment variable MUJOCO_GL must be one of"),
        (
            {"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "glx"},
            "PYOPENGL_PLATFORM environment variable is",
        ),
        (
            {"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "99"},
            "MUJOCO_EGL_DEVICE_ID must be an integer",
        ),
    ],
)
def test_a_users_backend_is_tried(preset, reason, variables):
    """One line, with the variable and the backend's own last line."""
    variables |= preset
    with pytest.raises(SystemExit) as error:
        collect_data.pick_rendering_backend()
    message = str(error.value)
    assert message.count(f"MUJOCO_GL={preset['MUJOCO_GL']}: ") == 1 and reason in message
    assert "\n" not in message and variables.items() >= preset.items()


@pytest.mark.parametrize(
    "preset,device",
    [
        ({}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,5"}, "0"),
        ({"CUDA_VISIBLE_DEVICES": "99"}, None),  # EGL does not know it
        ({"CUDA_VISIBLE_DEVICES": "GPU-8932f937"}, None),
        ({"CUDA_VISIBLE_DEVICES": "99", "MUJOCO_EGL_DEVICE_ID": "0"}, "0"),
    ],
)
def test_rendering_takes_the_gpu_of_the_run(preset, device, variables, monkeypatch):
    """Where EGL knows one GPU."""

    def try_backend(command, env, **kwargs):
        known = env["MUJOCO_GL"] == "egl" and env.get("MUJOCO_EGL_DEVICE_ID", "0") == "0"
        return subprocess.CompletedProcess(command, 0 if known else 1, "", "unknown device")

    monkeypatch.setattr(subprocess, "run", try_backend)
    variables |= preset
    collect_data.pick_rendering_backend()
    assert variables["MUJOCO_GL"] == "egl" and variables.get("MUJOCO_EGL_DEVICE_ID") == device


def test_no_opengl_names_the_package(variables, tmp_path):
    """Where neither EGL nor OSMesa starts, one line says which Debian package to install."""
    broken = "import sys\n"
    for name in ("egl", "osmesa"):
        broken += f"sys.modules['dm_control._render.pyopengl.{name}_renderer'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(broken)  # importing them fails
    variables["PYTHONPATH"] = str(tmp_path)
    with pytest.raises(SystemExit) as error:
        collect_data.pick_rendering_backend()
    message = str(error.value)
    assert "apt-get install libegl1" in message and "\n" not in message
    assert message.index("MUJOCO_GL=egl: ModuleNotFoundError") < message.index("MUJOCO_GL=osmesa: ModuleNot")

"""What a script sees of the files: stacked frames, windows, label budgets, several files, bad ones.

The code stands in all five scripts; laom.py's is called here.
"""

import dataclasses
import os
import shutil
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT, as_recorded_by_others, beside, parse

import bc
import collect_data
import laom
from laom import Dataset, to_input


@pytest.fixture(scope="module")
def args(train_file):
    return parse("laom.py", train_file)


@pytest.fixture(scope="module")
def data(args):
    return Dataset(args.data, args)


def pixels(frames) -> torch.Tensor:
    """Frames of a file, uint8 (T, 64, 64, 3), as a network sees them: (3 T, 64, 64)."""
    return torch.from_numpy(np.concatenate(frames, -1)).permute(2, 0, 1) / 128 - 1


def test_alignment_with_the_environment(train_file, args, data):
    """Replaying a trajectory's actions from its seed gives its pixels again; obs[t] preceded actions[t].

    Through the frame stack of the environment and of the dataset, pixel by pixel, from the padded start on.
    """
    with h5py.File(train_file) as file:
        seed = int(file["1"].attrs["seed"])
        actions = file["1/actions"][:]
        states = file["1/states"][:]
        backgrounds = train_file.parent / file.attrs["backgrounds"]
    env = collect_data.make_env("cheetah-run", "scale_easy_video_hard", backgrounds, "train")
    env = gym.wrappers.FrameStackObservation(env, 3, padding_type="reset")
    stack, states_now = env.reset(seed=seed)
    expert = collect_data.load_expert(ROOT / "experts" / "cheetah-run.npz")
    for t in range(30):
        obs, next_obs = data.observe_pair(torch.tensor([60 + t]))
        assert torch.equal(obs, to_input(torch.from_numpy(stack[None]), args)), t
        state = gym.spaces.flatten(env.unwrapped.observation_space, states_now).astype(np.float32)
        assert np.array_equal(state, states[t]) and np.allclose(expert(state), actions[t], atol=1e-5)
        assert np.array_equal(data.states[60 + t], states[t])
        assert np.array_equal(data.actions[60 + t], actions[t])
        stack, _, _, _, states_now = env.step(actions[t])
        assert torch.equal(next_obs, to_input(torch.from_numpy(stack[None]), args)), t


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_all_levels_of_a_pixel_are_exact(args, precision):
    """All 256, also in bfloat16, whose 8 bits of precision are just enough for steps of 1/128 up to 1."""
    picture = torch.arange(256, dtype=torch.uint8).repeat(16).view(64, 64, 1)
    levels = picture.expand(2, 3, 64, 64, 3)
    images = to_input(levels, dataclasses.replace(args, precision=precision))
    assert images.is_contiguous(memory_format=torch.channels_last) and images.shape == (2, 9, 64, 64)
    expected = picture[..., 0].double() / 128 - 1
    assert torch.equal(images[1, 4].double(), expected)


def test_input_layout(train_file, data):
    """Channels are oldest frame first, RGB inside a frame, in [-1, 0.992]."""
    images = data.observe(torch.tensor([5, 70, 119]), extra=1)
    assert images.shape == (3, 12, 64, 64) and images.is_contiguous(memory_format=torch.channels_last)
    with h5py.File(train_file) as file:
        assert torch.allclose(images[0], pixels(file["0/obs"][3:7]), atol=1e-6)
        assert torch.allclose(images[2][:9], pixels(file["1/obs"][57:60]), atol=1e-6)


def test_windows_stay_inside_their_trajectory(data):
    index = data.transitions(data.shuffle)
    assert len(index) == 3 * 59 and not set(index.tolist()) & {59, 119, 179}
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(20):
        future = data.future(index, 10, generator)
        assert torch.equal(data.trajectory[future], data.trajectory[index])
        seen |= set((future - index).tolist())
    assert seen == set(range(1, 11))
    assert torch.equal(data.future(index, 1, generator), index + 1)
    first = data.observe(torch.tensor([60]))  # padded with its own first frame, not with one of trajectory 0
    assert torch.equal(first[0, :3], first[0, 6:])


def test_labelled_subsets_are_nested_and_fixed(data):
    subsets = [set(data.trajectory[data.transitions(data.shuffle[:n])].tolist()) for n in (1, 2, 3)]
    assert [len(subset) for subset in subsets] == [1, 2, 3] and subsets[0] < subsets[1] < subsets[2]
    assert data.shuffle.tolist() == np.random.default_rng(42).permutation(3).tolist()


def test_several_files_are_one_dataset(train_file, short_file, args):
    """Frames at starts and ends of trajectories and anywhere between; a glob; a number of trajectories."""
    data = Dataset((str(short_file), str(train_file)), args)
    index = torch.cat([data.first.unique(), data.last.unique(), torch.randint(len(data.first), (50,))])
    images = data.observe(index)
    with h5py.File(short_file) as short, h5py.File(train_file) as whole:
        arrays = [file[str(i)]["obs"] for file in (short, whole) for i in range(3)]
        for position, image in zip(index.tolist(), images):
            obs = arrays[data.trajectory[position]]
            t = position - int(data.first[position])
            assert torch.allclose(image, pixels([obs[max(t + i, 0)] for i in (-2, -1, 0)]), atol=1e-6)
    both = Dataset((f"{short_file.parent}/*.hdf5",), args, trajectories_per_file=1)
    assert [Path(path).name for path in both.paths] == [short_file.name, beside(short_file).name]
    assert len(both.shuffle) == 2


def test_files_of_two_tasks(train_file, other_task, args):
    """States and actions are those of one task, the first file's or a given one, and NaN in other rows."""
    files = (str(train_file), str(other_task))
    with h5py.File(other_task) as file:
        length = len(file["0/obs"])
    for task, rows, sizes in ((None, slice(0, 60), (17, 6)), ("walker-run", slice(60, None), (24, 6))):
        data = Dataset(files, args, task, trajectories_per_file=1)
        assert data.task == (task or "cheetah-run") and len(data.first) == 60 + length and data.has_actions
        for array, size in zip((data.states, data.actions), sizes):
            known = array.isfinite()
            assert array.shape[1] == size and known[rows].all() and known.sum() == known[rows].numel()
    assert not Dataset(files, args, "hopper-hop").has_actions


def test_files_that_others_recorded(train_file, args, tmp_path):
    """The paper's files: unclipped actions, which are clipped, and trajectories of other lengths."""
    data = Dataset((str(as_recorded_by_others(train_file, tmp_path / "train.hdf5")),), args)
    assert data.actions.abs().max() == 1 and len(data.transitions(data.shuffle)) == 59 + 39 + 49
    with h5py.File(train_file) as file:
        assert np.array_equal(data.actions[60:100], np.clip(3 * file["1/actions"][:40], -1, 1))


def test_data_device():
    with pytest.raises(SystemExit, match="error: --data-device gpu with --device cpu"):
        laom.start_process(laom.Args(device="cpu", data_device="gpu"))
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="error: --device cuda: "):
            laom.start_process(laom.Args(device="cuda"))


def test_what_fits_on_the_gpu(short_file, train_file, args, monkeypatch):
    """Whole files are copied there, however few of their trajectories are wanted; "meta" plays the GPU."""
    monkeypatch.setattr(laom, "HAS_GPU", True)
    monkeypatch.setattr(laom, "to_device", lambda x, device: x.to(device))
    monkeypatch.setattr(Dataset, "gather", lambda data, rows: torch.full((1,), 255))  # "meta" holds nothing
    args = dataclasses.replace(args, device="meta")
    size = short_file.stat().st_size + train_file.stat().st_size
    for free, device in ((2 * size, "cpu"), (2 * size + 2, "meta")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 10**12))
        data = Dataset((str(short_file), str(train_file)), args, None, 1, "auto")
        assert data.device == device and {mapped.device.type for mapped in data.maps} == {device}


# ---- What bad files and other bad input say ----------------------------------------------------------------


def edit(path: Path, change) -> Path:
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def set_nan(file):
    file["1/actions"][17, 2] = np.nan


def wrong_size(file):
    del file["1/obs"]
    file["1"].create_dataset("obs", data=np.zeros((50, 32, 32, 3), np.uint8))


def compressed(file):
    obs = file["1/obs"][:]
    del file["1/obs"]
    file["1"].create_dataset("obs", data=obs, compression="gzip", compression_opts=1)


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda path: edit(path, set_nan), "actions of trajectory 1: not (50, D) finite numbers"),
        (lambda path: edit(path, wrong_size), "obs of trajectory 1 are uint8 (50, 32, 32, 3), "),
        (lambda path: edit(path, compressed), "maybe compressed, chunked or of another file"),
        (lambda path: edit(path, lambda file: file["1"].pop("obs")), "obs"),
        (lambda path: edit(path, lambda file: file.attrs.pop("task_name")), "task_name"),
        (lambda path: edit(path, lambda file: file.attrs.update(task_name=np.bytes_("run"))), "are bytes"),
        (lambda path: edit(path, lambda file: [file.pop(name) for name in "012"]), "is no dataset"),
        (lambda path: os.truncate(path, 500_000), "truncated"),
        (lambda path: path.write_bytes(b"not HDF5"), "signature not found"),
        (lambda path: path.unlink(), "No such file"),
    ],
)
def test_bad_files_get_one_line(short_file, args, tmp_path, change, message):
    path = Path(shutil.copy(short_file, tmp_path / "train.hdf5"))
    change(path)
    with pytest.raises(SystemExit) as error:
        Dataset((str(path),), args)
    text = str(error.value)
    assert text.startswith(f"error: {path} is no dataset") and message in text and "\n" not in text


def test_files_of_another_action_repeat(short_file, args, tmp_path):
    """A glob over all that was collected would mix them."""
    path = Path(shutil.copy(short_file, tmp_path / "repeat4__train.hdf5"))
    edit(path, lambda file: file.attrs.update(action_repeat=4))
    assert Dataset((str(path),), args).action_repeat == 4
    with pytest.raises(SystemExit) as error:
        Dataset((str(short_file), str(path)), args)
    assert str(error.value).startswith(f"error: {path} is no dataset")
    assert f"its action_repeat is not that of {short_file}" in str(error.value)


def test_files_of_another_difficulty(short_file, args, tmp_path, capsys):
    """They are mixed, but not without a word: the first decides what is played."""
    path = Path(shutil.copy(short_file, tmp_path / "vanilla__train.hdf5"))
    edit(path, lambda file: file.attrs.update(difficulty="vanilla"))
    data = Dataset((str(short_file), str(path)), args)
    assert f"{path}: vanilla; episodes are {data.difficulty}, as in the first file" in capsys.readouterr().out


def test_a_difficulty_that_is_none(short_file, tmp_path):
    """Of a file of one's own: such a task cannot be played."""
    for path in (short_file, beside(short_file)):
        edit(Path(shutil.copy(path, tmp_path)), lambda file: file.attrs.update(difficulty="foggy"))
    args = parse("laom.py", tmp_path / short_file.name)
    _, labeled_data, _ = laom.load_data(args)
    with pytest.raises(SystemExit, match="error: .*train.hdf5: difficulty 'foggy', not of .*'hard'"):
        laom.find_environments(args, labeled_data)


def test_bc_on_all_of_data_that_lack_actions(short_file, other_task):
    """Videos of another task, labels of this one: some of them, but not all of the videos."""
    args = parse("bc.py", other_task, labeled_data=(str(short_file),))
    with pytest.raises(SystemExit) as error:
        bc.load_data(args)
    message = f"error: --num-labeled-trajectories all: not all of {other_task} have actions"
    assert str(error.value) == message
    bc.load_data(dataclasses.replace(args, num_labeled_trajectories=(1,)))


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"num_labeled_trajectories": (5,)}, "error: --num-labeled-trajectories 5: more than"),
        (
            {"lam__batch_size": 4000},
            "--lam.batch-size needs 4000 transitions: 3 trajectories of {file} have 147",
        ),
        ({"eval__backgrounds": "nowhere"}, "error: no videos (*.npy) in nowhere/train"),
        ({"data": "{folder}/*.hdf5"}, "--eval-data"),  # training and evaluation file
        ({"eval_data": "{file}"}, "--eval-data"),
        ({"eval_data": "{other_task}"}, "--eval-data"),
        ({"labeled_data": ("{file}", "{other_task}")}, "without actions of cheetah-run"),
        ({"eval_data": ("{val}", "{other_task}")}, "{val}: a trajectory without actions of cheetah-run"),
    ],
)
def test_bad_arguments_get_one_line(short_file, other_task, changes, message):
    """Before anything is trained."""
    names = {
        "file": short_file,
        "val": beside(short_file),
        "folder": short_file.parent,
        "other_task": other_task,
    }

    def fill(value):
        if isinstance(value, tuple):
            return tuple(map(fill, value))
        return value.format(**names) if isinstance(value, str) else value

    changes = {"data": str(short_file)} | {name: fill(value) for name, value in changes.items()}
    with pytest.raises(SystemExit) as error:
        args = parse("laom.py", **changes)
        _, labeled_data, _ = laom.load_data(args)
        laom.find_environments(args, labeled_data)
    text = str(error.value)
    assert text.startswith("error: ") and fill(message) in text and "\n" not in text


def one_frame_each(file):
    for name in [*file]:
        for array in ("obs", "actions", "states"):
            first = file[f"{name}/{array}"][:1]
            del file[f"{name}/{array}"]
            file[f"{name}/{array}"] = first


def still_first(file):
    """In the labelled trajectory, and in no other, the agent stands still."""
    file[str(np.random.default_rng(42).permutation(3)[0])]["actions"][:] = 0.5


def one_trajectory(file):
    del file["1"], file["2"]


def plain_videos(file):
    for trajectory in file.values():
        del trajectory["actions"]


def short_first(file):
    """The labelled trajectory has one frame."""
    name = str(np.random.default_rng(42).permutation(3)[0])
    for array in ("obs", "actions", "states"):
        first = file[f"{name}/{array}"][:1]
        del file[f"{name}/{array}"]
        file[f"{name}/{array}"] = first


@pytest.mark.parametrize(
    "change,message",
    [
        (one_frame_each, "no trajectory has two frames"),
        (still_first, "all actions of 1 trajectories are the same"),
        (short_first, "--num-labeled-trajectories needs 1 transitions: 1 trajectories of .* have 0"),
    ],
)
def test_data_from_which_nothing_is_learned_get_one_line(change, message, short_file, tmp_path):
    for path in (short_file, beside(short_file)):
        shutil.copy(path, tmp_path)
    edit(tmp_path / short_file.name, change)
    args = parse("laom.py", tmp_path / short_file.name, num_labeled_trajectories=(1,))
    with pytest.raises(SystemExit, match=f"^error: .*{message}$"):
        laom.load_data(args)


def test_probes_need_two_trajectories(short_file, tmp_path):
    """Of which one may be in the evaluation file's half."""
    for path in (short_file, beside(short_file)):
        shutil.copy(path, tmp_path)
    train_file = tmp_path / short_file.name
    args = parse("laom.py", train_file, num_labeled_trajectories=(1,))
    edit(train_file, one_trajectory)
    laom.load_data(args)
    edit(beside(train_file), lambda file: file.pop("1"))
    with pytest.raises(SystemExit, match="^error: .*val.hdf5: one trajectory is too few to fit and test"):
        laom.load_data(args)
    for path in (train_file, beside(train_file)):
        edit(path, plain_videos)
    laom.load_data(args)  # no probe needs them


def test_evaluation_data_have_actions(short_file, tmp_path):
    """Where the labelled data have them: else nothing would be measured, without a word."""
    for path in (short_file, beside(short_file)):
        shutil.copy(path, tmp_path)
    args = parse("laom.py", tmp_path / short_file.name, num_labeled_trajectories=(1,))
    edit(beside(tmp_path / short_file.name), plain_videos)
    with pytest.raises(SystemExit, match="^error: .*val.hdf5: a trajectory without actions of cheetah-run"):
        laom.load_data(args)


def test_few_trajectories_for_probes_are_named(short_file, capsys):
    laom.load_data(parse("laom.py", short_file, num_labeled_trajectories=(1,)))
    assert "warning: 1 trajectories are few to fit probes on" in capsys.readouterr().out


def test_evaluation_data_are_other_data(short_file, tmp_path):
    path = shutil.copy(short_file, tmp_path / "renamed.hdf5")
    with pytest.raises(SystemExit, match="--eval-data"):
        laom.load_data(parse("laom.py", path))


def test_videos_beside_a_file_of_the_working_directory(short_file, monkeypatch):
    monkeypatch.chdir(short_file.parent)
    args = parse("laom.py", short_file.name)
    _, labeled_data, _ = laom.load_data(args)
    environments, _ = laom.find_environments(args, labeled_data)
    assert environments.keys() == {"seen_videos", "unseen_videos"}


def test_data_without_its_videos(short_file, tmp_path):
    """A file that does not say where its videos are, like the paper's, needs --eval.backgrounds."""
    for path in (short_file, beside(short_file)):
        edit(Path(shutil.copy(path, tmp_path)), lambda file: file.attrs.pop("backgrounds"))
    args = parse("laom.py", tmp_path / short_file.name)
    _, labeled_data, _ = laom.load_data(args)
    with pytest.raises(SystemExit, match=r"error: no videos \(\*.npy\) in .*--eval.backgrounds"):
        laom.find_environments(args, labeled_data)


# ---- What would be read wrong without a word ---------------------------------------------------------------


def add_external_link(path: Path, other: Path):
    with h5py.File(path, "a") as file:
        del file["1/obs"]
        file["1/obs"] = h5py.ExternalLink(other, "0/obs")


def add_virtual_frames(path: Path, other: Path):
    with h5py.File(other) as source, h5py.File(path, "a") as file:
        shape = source["0/obs"].shape
        del file["1/obs"]
        layout = h5py.VirtualLayout(shape=shape, dtype=np.uint8)
        layout[:] = h5py.VirtualSource(source["0/obs"])
        file.create_virtual_dataset("1/obs", layout)


@pytest.mark.parametrize("change", [add_external_link, add_virtual_frames])
def test_frames_of_another_file_are_refused(change, short_file, args, tmp_path):
    path = shutil.copy(short_file, tmp_path)
    change(path, beside(short_file))
    with pytest.raises(SystemExit, match="obs of trajectory 1 are .*, chunked or of another file"):
        Dataset((path,), args)


def test_a_path_with_brackets_is_a_path(short_file, args, tmp_path, capsys):
    """Beside it lies a file that the pattern would find."""
    (tmp_path / "run[1]").mkdir()
    (tmp_path / "run1").mkdir()
    wanted = shutil.copy(short_file, tmp_path / "run[1]" / "x.hdf5")
    shutil.copy(beside(short_file), tmp_path / "run1" / "x.hdf5")
    assert Dataset((wanted,), args).paths == [wanted]
    assert capsys.readouterr().out == ""
    pattern = f"{tmp_path}/run?/x.hdf5"
    found = str(tmp_path / "run1" / "x.hdf5")
    assert Dataset((pattern,), args).paths == [found]
    assert capsys.readouterr().out == f"{pattern}: {found}\n"


def test_one_file_is_not_two(short_file, args, tmp_path):
    """By another spelling, or a link."""
    link = tmp_path / "other__train.hdf5"
    link.symlink_to(short_file)
    spelling = f"{short_file.parent}/../{short_file.parent.name}/{short_file.name}"
    for other in (link, spelling):
        with pytest.raises(SystemExit, match="has one file twice: "):
            Dataset((str(short_file), str(other)), args)
        with pytest.raises(SystemExit, match="no other file of cheetah-run to evaluate on: give --eval-data"):
            laom.load_data(parse("laom.py", short_file, eval_data=(str(other),)))


@pytest.mark.parametrize("num_columns", [1, 3])
def test_actions_of_another_size_are_refused(num_columns, short_file, args, tmp_path):
    """In a trajectory of the data, where one column is no longer repeated, and in the evaluation file."""

    def change_actions(path, trajectories):
        with h5py.File(path, "a") as file:
            for name in trajectories or [*file]:
                actions = file[f"{name}/actions"][:, :num_columns]
                del file[f"{name}/actions"]
                file[f"{name}/actions"] = actions
        return str(path)

    mixed = change_actions(shutil.copy(short_file, tmp_path / "mixed.hdf5"), ["1"])
    with pytest.raises(SystemExit, match="states or actions of .* numbers in one task"):
        Dataset((mixed,), args)
    eval_file = change_actions(shutil.copy(beside(short_file), tmp_path / "val.hdf5"), [])
    with pytest.raises(SystemExit, match=f"has actions of {num_columns} numbers, .* of 6"):
        laom.load_data(parse("laom.py", short_file, eval_data=(eval_file,)))

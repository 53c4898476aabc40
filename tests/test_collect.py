"""What collect_data.py makes of a collection: rendered again, in shards, as pictures, and action-free from plain videos."""

import fcntl
import shutil
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest
from conftest import run
from PIL import Image

import collect_data

NAME = "cheetah-run__scale_easy_video_hard__{}.hdf5"


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


@pytest.fixture(scope="module")
def source(data_folder, tmp_path_factory) -> Path:
    """The evaluation file cut to its first steps, as a file whose trajectory is short."""
    path = tmp_path_factory.mktemp("source") / NAME.format("val")
    with h5py.File(data_folder / NAME.format("val")) as whole, h5py.File(path, "w") as file:
        file.attrs.update(whole.attrs)
        group = file.create_group("0")
        group.attrs.update(whole["0"].attrs)
        for name, array in whole["0"].items():
            group[name] = array[:60]
    return path


@pytest.fixture(scope="module")
def rerender(frames, data_folder, source):
    """Renders `source` or another file again into a folder, which has the background videos already."""

    def rerender(output: Path, *flags, file=source):
        shutil.copytree(data_folder / "backgrounds", output / "backgrounds", dirs_exist_ok=True)
        return run("collect_data.py", "--rerender", file, "--output", output, "--backgrounds", frames, "--num-workers", 1, *flags)

    return rerender


def test_same_settings_give_the_same_pixels(rerender, source, tmp_path):
    result = rerender(tmp_path)
    assert result.returncode == 0, result.stderr
    (again,), (first,) = read(tmp_path / source.name), read(source)
    assert set(again) == set(first) == {"obs", "states", "actions", "physics", "traj_return", "seed"}
    assert same(again, first, *first) and again["obs"].shape == (60, 64, 64, 3)
    about, about_first = attributes(tmp_path / source.name), attributes(source)
    assert source.name in about.pop("rerendered_from") and about.keys() == about_first.keys()
    changed = {name for name in about if about[name] != about_first[name]}
    assert changed <= {"dataset_return_std"}  # NaN where a file has a single trajectory


def test_other_seed_changes_pixels_alone(rerender, source, tmp_path):
    result = rerender(tmp_path, "--seed", 1)
    assert result.returncode == 0, result.stderr
    (twin,), (first,) = read(tmp_path / source.name), read(source)
    assert same(twin, first, "states", "actions", "physics", "traj_return") and twin["seed"] != first["seed"]
    assert (twin["obs"] != first["obs"]).mean() > 0.5 and attributes(tmp_path / source.name)["seed"] == 1


def test_to_vanilla_and_back(rerender, source, tmp_path):
    """Distractors come from the seed alone, whatever was rendered in between."""
    result = rerender(tmp_path, "--difficulty", "vanilla")
    assert result.returncode == 0, result.stderr
    path = tmp_path / "cheetah-run__vanilla__val.hdf5"
    (vanilla,), (first,), about = read(path), read(source), attributes(path)
    assert same(vanilla, first, "states", "actions", "physics") and (vanilla["obs"] != first["obs"]).mean() > 0.5
    assert about["difficulty"] == "vanilla" and not about["dynamic"] and about["split"] == "val"
    assert about["random_return"] == attributes(source)["random_return"] and source.name in about["rerendered_from"]
    result = rerender(tmp_path, file=path)
    assert result.returncode == 0, result.stderr
    assert same(read(tmp_path / source.name)[0], first, "obs", "states", "actions", "physics")


@pytest.mark.parametrize("task", ["cheetah-run", "walker-run", "hopper-hop", "humanoid-walk"])
def test_recorded_physics_gives_the_pixels_of_the_simulation(task):
    """In every task, distracted and not; an environment that has shown something else before gives them too."""
    videos = [collect_data.dead_leaves_video(0, num_frames=5)]
    for env in (
        collect_data.DistractingControl(collect_data.load_task(task), 0.1, 0.1, videos),
        collect_data.DistractingControl(collect_data.load_task(task), 0.0, 0.0, []),
    ):
        rng = np.random.default_rng(0)
        arrays, _ = collect_data.play(env, lambda state: rng.uniform(-1, 1, env.action_space.shape), seed=3, length=40)
        env.env = collect_data.Replay(env.env)
        collect_data.replay(env, 4, arrays["physics"][::-1])
        assert np.array_equal(collect_data.replay(env, 3, arrays["physics"]), arrays["obs"])
        assert isinstance(env, gym.Wrapper) and arrays["obs"].std() > 5


def test_source_is_never_overwritten(rerender, source):
    before = source.read_bytes()
    result = rerender(source.parent)
    assert result.returncode != 0 and "would be rendered over itself" in result.stderr and "Traceback" not in result.stderr
    assert source.read_bytes() == before and not list(source.parent.glob("*.partial*"))


def no_physics(path: Path):
    with h5py.File(path, "r+") as file:
        del file["0/physics"]


@pytest.mark.parametrize(
    "change,message",
    [
        (no_physics, "has no physics"),
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
    assert str(error.value).startswith("error: ") and message in str(error.value) and "\n" not in str(error.value)


def test_shards_hold_the_trajectories_of_the_whole(collect_command, data_folder, tmp_path):
    """Trajectory by trajectory, in the order of the file names. They may be collected in one folder at once: the locks differ."""
    shutil.copytree(data_folder / "backgrounds", tmp_path / "backgrounds")
    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for shard in ("1/2", "2/2"):
            result = run(*collect_command, "--output", tmp_path, "--shard", shard)
            assert result.returncode == 0, result.stderr
    for split, numbers in (("train", [1, 2]), ("val", [1])):
        files = sorted(tmp_path.glob(f"cheetah-run__*__{split}*.hdf5"))
        shards = [read(file) for file in files]
        assert [len(shard) for shard in shards] == numbers and "-of-02" in files[0].name
        for trajectory, expected in zip(sum(shards, []), read(data_folder / NAME.format(split)), strict=True):
            assert same(trajectory, expected, *expected)
    assert (tmp_path / NAME.format("val__02-of-02")).exists()  # its name is the training shard's with val for train


@pytest.mark.parametrize("shard", ["0/2", "3/2", "half", "1/", "1/2/3"])
def test_bad_shard(shard):
    with pytest.raises(SystemExit, match=f"error: --shard {shard}: give k/n"):
        collect_data.parse_shard(shard)


def test_preview(frames, data_folder, tmp_path):
    shutil.copytree(data_folder / "backgrounds", tmp_path / "backgrounds")
    result = run("collect_data.py", "--preview", "--task", "walker-run", "--backgrounds", frames, "--output", tmp_path)
    assert result.returncode == 0, result.stderr
    names = ["preview__scale_easy_video_hard", *(f"preview__walker-run__scale_easy_video_hard__{x}" for x in ("strip", "twins"))]
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == sorted(names)
    tasks, strip, twins = (cells(tmp_path / f"{name}.png", *sizes) for name, sizes in zip(names, ((4, 3), (10, 2), (7, 2))))
    assert len(tasks) == 4 and len(strip) == 1 and len(twins) == 4  # without distractors, and three draws of them
    for grid in (tasks, strip, twins):
        assert grid.std(axis=(2, 3, 4)).min() > 5  # no blank picture
        assert min(np.abs(one - other).mean() for row in grid for one, other in zip(row, row[1:])) > 1  # columns differ
    for one in range(4):
        for other in range(one):  # so do rows
            assert np.abs(twins[one] - twins[other]).mean() > 10 and np.abs(tasks[one] - tasks[other]).mean() > 10
    assert all(path.stat().st_size < 300_000 for path in tmp_path.glob("*.png"))


def cells(path: Path, columns: int, scale: int) -> np.ndarray:
    """The small pictures of a labelled grid, float (rows, columns, 64, 64, 3); they end at the lower right corner."""
    pixels, cell = np.asarray(Image.open(path)).astype(float), 64 * scale + 4
    rows = (pixels.shape[0] - 28) // cell
    grid = pixels[-rows * cell :, -columns * cell :].reshape(rows, cell, columns, cell, 3).swapaxes(1, 2)[:, :, :-4, :-4]
    assert np.array_equal(grid[:, :, ::scale, ::scale], grid[:, :, scale - 1 :: scale, scale - 1 :: scale])  # repeated pixels
    return grid[:, :, ::scale, ::scale]


def test_twins_of_a_preview_show_the_same_physics(data_folder, frames, tmp_path):
    """Rows are aligned: what a preview shows without distractors is what its twins show when their distractors are taken away."""
    args = collect_data.Args(difficulty="vanilla", backgrounds=str(frames))
    expert = Path(collect_data.__file__).parent / "experts" / "cheetah-run.npz"
    plain, twin = collect_data.preview_task("cheetah-run", args, data_folder, expert, draws=1)
    assert plain.shape == (250, 64, 64, 3) and np.array_equal(plain, twin)


def make_video(path: Path, frames: int, seed: int) -> np.ndarray:
    """A video of 96×64 pixels, a slow gradient that a codec keeps well; gives back what it shows, (frames, 64, 96, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x, t = np.meshgrid(np.arange(64), np.arange(96), np.arange(frames), indexing="ij")
    pixels = np.stack([2 * x + t % 40, 3 * y + 0 * t, 100 + 40 * np.sin(t / 9 + seed) + 0 * x], -1)  # (64, 96, frames, 3)
    pixels = np.clip(pixels, 0, 255).astype(np.uint8).transpose(2, 0, 1, 3)
    collect_data.imageio.imwrite(path, pixels, fps=30, plugin="pyav", codec="libx264")
    return pixels


def test_videos_become_trajectories(tmp_path):
    """Two encoded videos: one of 1,010 frames, whose last ten are dropped, and one of 40 for evaluation."""
    videos = tmp_path / "holiday"
    shown = {"train": make_video(videos / "a.mp4", 1010, 0)[:1000], "val": make_video(videos / "b" / "c.MKV", 40, 1)}
    (videos / "notes.txt").write_text("no video")
    result = run("collect_data.py", "--from-videos", videos, "--output", tmp_path / "data")
    assert result.returncode == 0, result.stderr
    assert "dropped 10 frames" in result.stdout and "a.mp4" in result.stderr  # the progress bar names what it reads
    for split, source in (("train", "a.mp4"), ("val", "b/c.MKV")):
        path = tmp_path / "data" / f"holiday__videos__{split}.hdf5"
        about = attributes(path)
        assert {name: about[name] for name in ("domain_name", "task_name", "difficulty", "split")} == {
            "domain_name": "video",
            "task_name": "holiday",
            "difficulty": "vanilla",
            "split": split,
        }
        assert about["img_hw"] == 64 and not about["dynamic"]
        (trajectory,) = read(path)
        assert set(trajectory) == {"obs", "source"} and trajectory["source"] == source and trajectory["obs"].dtype == np.uint8
        expected = shown[split][:, :, 16:80].astype(int)  # the central square, which has 64 pixels already
        assert trajectory["obs"].shape == expected.shape and np.abs(trajectory["obs"] - expected).mean() < 4
        with h5py.File(path) as file:
            assert file["0/obs"].chunks is None and file["0/obs"].compression is None and file["0/obs"].id.get_offset() % 8 == 0
        assert path.with_suffix(".png").stat().st_size > 1000 and path.with_suffix(".gif").stat().st_size > 1000
    assert not list((tmp_path / "data").glob("*.partial"))
    again = run("collect_data.py", "--from-videos", videos, "--output", tmp_path / "data")
    assert again.returncode != 0 and "exists; remove it" in again.stderr


def test_large_videos_are_shrunk_by_averaging(tmp_path):
    pixels = np.zeros((30, 256, 128, 3), np.uint8)
    pixels[:, :, ::2] = 200  # stripes of one pixel become a grey
    collect_data.imageio.imwrite(tmp_path / "stripes.mp4", pixels, fps=30, plugin="pyav", codec="libx264")
    frames = np.stack(list(collect_data.read_video(tmp_path / "stripes.mp4")))
    assert frames.shape == (30, 64, 64, 3) and np.abs(frames.astype(int) - 100).max() < 12


def test_unreadable_video_is_named(tmp_path):
    make_video(tmp_path / "videos" / "a.mp4", 30, 0)
    (tmp_path / "videos" / "b.mp4").write_bytes(b"no video" * 100)
    result = run("collect_data.py", "--from-videos", tmp_path / "videos", "--output", tmp_path / "data")
    assert result.returncode != 0 and result.stderr.startswith("error: cannot read the video") and "b.mp4" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and not list((tmp_path / "data").glob("*.hdf5*"))


def test_folder_without_videos(tmp_path):
    result = run("collect_data.py", "--from-videos", tmp_path, "--output", tmp_path / "data")
    assert result.returncode != 0 and "no videos (.mp4" in result.stderr and "Traceback" not in result.stderr


def test_episodes_never_read_jpegs(tmp_path):
    """A folder laid out as DAVIS: each frame is decoded and resized once; after that an episode needs the cache alone."""
    for split, names in collect_data.DAVIS_VIDEOS.items():
        for number, name in enumerate(names.split()):
            folder = tmp_path / "DAVIS" / "JPEGImages" / "480p" / name
            folder.mkdir(parents=True)
            for frame in range(2):
                color = (4 * number, 0 if split == "train" else 255, 100 * frame)
                Image.new("RGB", (85, 48), color).save(folder / f"{frame:05d}.jpg", quality=95)
    backgrounds = collect_data.prepare_backgrounds(str(tmp_path / "DAVIS"), tmp_path, num_workers=2)
    made = {path: path.stat().st_mtime_ns for path in backgrounds.rglob("*.npy")}
    assert collect_data.prepare_backgrounds(str(tmp_path / "DAVIS"), tmp_path, num_workers=2) == backgrounds
    assert len(made) == 90 and {path: path.stat().st_mtime_ns for path in made} == made  # nothing is decoded twice
    shutil.rmtree(tmp_path / "DAVIS")
    for split, green in (("train", 0), ("val", 255)):
        videos = collect_data.load_videos(backgrounds, split, "hard")
        assert all(abs(int(video[0, 80, 80, 1]) - green) < 8 for video in videos)  # the videos of DAVIS' own list
        assert abs(int(videos[20][1, 80, 80, 0]) - 80) < 8 and abs(int(videos[20][1, 80, 80, 2]) - 100) < 8
        env = collect_data.make_env("cheetah-run", "hard", backgrounds, split)
        arrays, _ = collect_data.play(env, lambda state: np.zeros(6), seed=0, length=5)
        assert abs(float(np.median(arrays["obs"][..., 1])) - green) < 60

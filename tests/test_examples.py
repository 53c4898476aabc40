"""The scripts in examples/: data of LeRobot and of Minari, made on the spot, become files from which bc.py
learns what it should.

In all of them a square circles on a grey ground. The further right it is the redder it is, and the lower the
greener. An action is its next move: a share of STRIDE pixels to the right and down.
"""

import importlib
import json
import re
import shutil
import sys

import gymnasium as gym
import h5py
import imageio.v3 as imageio
import lives
import numpy as np
import pytest
from conftest import ROOT, command, only_one, read_results
from PIL import Image
from test_copies import find_copies

import bc

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is set to None", "ignore:env_spec is None"
)  # Minari's advice

NUM_EPISODES = 10
LENGTH = 60  # frames of an episode; the later ones are a little shorter
WIDTH, HEIGHT = 160, 96  # of a picture, pixels
SIDE = 36  # of the square, pixels
STRIDE = 8  # pixels of an action of 1
CAMERA = "observation.images.top"


def draw(position) -> np.ndarray:
    """The picture of a square whose upper left corner is at position (x, y): uint8 (96, 160, 3)."""
    x, y = np.round(position).astype(int)
    picture = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    picture[y : y + SIDE, x : x + SIDE] = (4 * (x - 30), 4 * y, 0)
    return picture


def circle(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An episode: pictures (T, 96, 160, 3), positions (T, 2) and actions (T, 2), float32."""
    rng = np.random.default_rng(number)
    angles = rng.uniform(0, 2 * np.pi) + 0.25 * np.arange(LENGTH - number + 1)
    around = np.stack([np.cos(angles), np.sin(angles)], 1)
    positions = np.float32([62, 30] + rng.uniform(20, 28) * around)
    actions = np.diff(positions, axis=0) / STRIDE
    return np.stack([draw(position) for position in positions[:-1]]), positions[:-1], actions


def shrink(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((64, 64)))


def convert(script: str, *words) -> None:
    """Runs a script of examples/ in this process."""
    module = load(script)
    module.main(module.tyro.cli(module.Args, args=list(map(str, words))))


def load(script: str):
    sys.path.append(str(ROOT / "examples"))
    module = importlib.import_module(script)
    sys.path.remove(str(ROOT / "examples"))
    return module


def check(path, tolerance: float, states: bool = True):
    """Both files are what the format asks for, and hold each episode once, in its own frames.

    tolerance: mean difference of a picture's levels; that between two frames in sequence is 2.2 and more.
    """
    found = []
    for split, count in (("train", 8), ("val", 2)):
        split_path = path.with_name(f"{path.name}__{split}.hdf5")
        data = bc.Dataset((str(split_path),), bc.Args(device="cpu"))  # refuses what is not contiguous
        assert data.task == path.name and len(data.shuffle) == count
        with h5py.File(split_path) as file:
            for i in range(count):
                group = file[str(i)]
                number = group.attrs["episode"]
                pictures, positions, actions = circle(number)
                assert group["obs"].shape == (LENGTH - number, 64, 64, 3)
                difference = group["obs"] - np.float32([shrink(picture) for picture in pictures])
                assert abs(difference).mean((1, 2, 3)).max() < tolerance
                assert group["actions"].dtype == np.float32 and np.array_equal(group["actions"], actions)
                assert ("states" in group) == states
                if states:
                    assert group["states"].dtype == np.float32 and np.array_equal(group["states"], positions)
                found.append(number)
    assert sorted(found) == list(range(NUM_EPISODES))
    assert not list(path.parent.glob("*.partial"))


def check_training(path, tmp_path):
    """Where the square goes next is seen in its place and its colour."""
    changes = {"num_labeled_trajectories": ("all",), "bc__num_epochs": 8}
    words = command("bc.py", path.with_name(f"{path.name}__train.hdf5"), **changes)
    process = lives.start("bc.py", [*words, "--runs", tmp_path / "runs"], tmp_path / "log")
    assert lives.end(process) == 0, (tmp_path / "log").read_text()
    results = read_results(only_one(tmp_path / "runs"))
    assert results["task"] == path.name
    assert results["budgets"]["all"]["policy_mse_over_var/unseen_videos"] < 0.1


def test_what_they_share_is_equal():
    """Also the constant and the function that the training scripts have."""
    paths = [*ROOT.glob("examples/*.py"), ROOT / "bc.py"]
    copies = find_copies({path.name: path.read_text() for path in paths})
    assert {"IMG_HW", "shrink", "write_files"} < copies.keys()
    own = {"Args", "main", "read_episodes"}
    assert {name for name, places in copies.items() if len(set(places.values())) > 1} <= own


@pytest.mark.parametrize("package,script", [("pyarrow", "lerobot_to_hdf5"), ("minari", "minari_to_hdf5")])
def test_shown_commands_are_understood(package, script):
    """Those of the script's own docstring and of docs/data.md."""
    pytest.importorskip(package)
    module = load(script)
    shown = f"{module.__doc__}\n{(ROOT / 'docs/data.md').read_text()}"
    commands = re.findall(rf"python examples/{script}.py ([^#\n]+)", shown)
    assert len(commands) == 3
    for words in commands:
        module.tyro.cli(module.Args, args=words.split())


# ---- LeRobot -----------------------------------------------------------------------------------------------


def write_video(path, pictures):
    path.parent.mkdir(parents=True, exist_ok=True)
    imageio.imwrite(path, pictures, plugin="pyav", codec="libx264", fps=10)


def write_table(path, rows: list[dict]):
    import pyarrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_lerobot(folder, layout: str):
    """As LeRobot does: v2.1 has files for each episode, v3.0 packs several of them into one."""
    episodes = [circle(number) for number in range(NUM_EPISODES)]
    templates = {
        "v2.1": (
            "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        ),
        "v3.0": (
            "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        ),
    }
    data_path, video_path = templates[layout]
    vector = {"dtype": "float32", "shape": [2]}
    features = {"observation.state": vector, "action": vector}
    for camera in ("observation.depth", CAMERA):
        features[camera] = {"dtype": "video", "shape": [HEIGHT, WIDTH, 3]}
    info = {"codebase_version": layout, "fps": 10, "chunks_size": 4, "features": features}
    info |= {"data_path": data_path, "video_path": video_path}
    (folder / "meta").mkdir(parents=True)
    (folder / "meta/info.json").write_text(json.dumps(info))

    rows = []
    for n, (_, states, actions) in enumerate(episodes):
        vectors = zip(states.tolist(), actions.tolist())
        rows.append([{"observation.state": state, "action": action} for state, action in vectors])
        for i, row in enumerate(rows[n]):
            row.update(episode_index=n, frame_index=i)
    if layout == "v2.1":
        about = [{"episode_index": n, "length": len(rows[n])} for n in range(NUM_EPISODES)]
        (folder / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, about)))
        for n, (pictures, _, _) in enumerate(episodes):
            place = {"episode_chunk": n // 4, "episode_index": n}
            write_table(folder / data_path.format(**place), rows[n])
            write_video(folder / video_path.format(**place, video_key=CAMERA), pictures)
        return

    about = []
    for file_index, numbers in enumerate((range(3), range(3, NUM_EPISODES))):
        place = {"chunk_index": 0, "file_index": file_index}
        start = 2 if file_index else 0  # pictures of an episode that was deleted
        pictures = [np.zeros((start, HEIGHT, WIDTH, 3), np.uint8)]
        for n in numbers:
            about.append({"episode_index": n, "length": len(rows[n]), "stats/action/mean": [0.0, 0.0]})
            about[-1] |= {
                f"{kind}/{name}": place[name] for kind in ("data", f"videos/{CAMERA}") for name in place
            }
            about[-1][f"videos/{CAMERA}/from_timestamp"] = start / 10 - 1e-3  # sums of durations drift
            start += len(rows[n])
            pictures.append(episodes[n][0])
        write_table(folder / data_path.format(**place), [row for n in numbers for row in rows[n]])
        write_video(folder / video_path.format(**place, video_key=CAMERA), np.concatenate(pictures))
    write_table(folder / "meta/episodes/chunk-000/file-000.parquet", about)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """A folder of LeRobot datasets, one of each layout."""
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("lerobot")
    for layout in ("v2.1", "v3.0"):
        write_lerobot(folder / layout / "circles", layout)
    return folder


@pytest.mark.parametrize("layout", ["v2.1", "v3.0"])
def test_lerobot(layout, datasets, forks, tmp_path):
    words = [
        datasets / layout / "circles",
        "--camera",
        CAMERA,
        "--eval-share",
        "0.2",
        "--output",
        tmp_path / "data",
    ]
    convert("lerobot_to_hdf5", *words)
    check(tmp_path / "data/lerobot-circles", tolerance=1.5)
    if layout == "v3.0":  # the other file is the same
        check_training(tmp_path / "data/lerobot-circles", tmp_path)


def shorten_video(folder):
    write_video(folder / f"videos/chunk-000/{CAMERA}/episode_000001.mp4", circle(1)[0][:50])


def break_table(folder):
    (folder / "data/chunk-000/episode_000001.parquet").write_text(
        "version https://git-lfs.github.com/spec/v1"
    )


def other_layout(folder):
    path = folder / "meta/info.json"
    path.write_text(path.read_text().replace("v2.1", "v1.6"))


@pytest.mark.parametrize(
    "change,words,message",
    [
        (shorten_video, (), "episode 1 has 50 frames in "),
        (break_table, (), "data/chunk-000/episode_000001.parquet: "),
        (other_layout, (), "meta/info.json: layout v1.6: convert it"),
        (None, ("--camera", "left"), f"--camera left: the dataset has observation.depth, {CAMERA}"),
        (None, ("--eval-share", "0"), "--eval-share 0.0: 0 of 10 episodes for evaluation"),
        (None, (), "__val.hdf5 exists: remove it"),
    ],
)
def test_lerobot_says_in_one_line_what_is_wrong(change, words, message, datasets, tmp_path):
    folder, output = tmp_path / "circles", tmp_path / "data"
    shutil.copytree(datasets / "v2.1" / "circles", folder)
    there = []
    if change:
        change(folder)
    elif not words:
        output.mkdir()
        there = [output / "lerobot-circles__val.hdf5"]
        there[0].touch()
    with pytest.raises(SystemExit) as error:
        convert("lerobot_to_hdf5", folder, "--camera", CAMERA, "--output", output, *words)
    text = str(error.value)
    assert text.startswith("error: ") and message in text and "\n" not in text
    assert list(output.glob("*.hdf5")) == there


# ---- Minari ------------------------------------------------------------------------------------------------


class Circles(gym.Env):
    """The square as an environment: an episode's number is its seed, an observation the square's position."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    wind = 0.0

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = circle(seed)[1][0]
        return self.position, {}

    def step(self, action):
        self.position = np.float32(self.position + STRIDE * action + self.wind)
        return self.position, 0.0, False, False, {}

    def render(self):
        return draw(self.position)


@pytest.fixture
def minari(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return pytest.importorskip("minari")


def write_minari(minari, name: str, pictures: bool):
    """As Minari does: one observation more than actions. pictures: stored, or to be rendered."""
    from minari.data_collector import EpisodeBuffer

    buffers = []
    for number in range(NUM_EPISODES):
        frames, positions, actions = circle(number)
        positions = np.concatenate([positions, positions[-1:] + STRIDE * actions[-1:]])
        observations = positions
        if pictures:
            frames = np.concatenate([frames, draw(positions[-1])[None]])
            observations = {"camera": {"depth": frames // 2, "front": frames}, "position": positions}
        over = np.arange(len(actions)) == len(actions) - 1
        steps = {"rewards": np.full(len(actions), 0.5), "terminations": over, "truncations": over & False}
        buffers.append(EpisodeBuffer(number, number, None, observations, actions, **steps))
    space = Circles.observation_space
    if pictures:
        picture = gym.spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        cameras = gym.spaces.Dict({"depth": picture, "front": picture})
        space = gym.spaces.Dict({"camera": cameras, "position": space})
    minari.create_dataset_from_buffers(
        name,
        buffers,
        env=None if pictures else gym.envs.registration.EnvSpec("Circles-v0", f"{__name__}:Circles"),
        observation_space=space,
        action_space=Circles.action_space,
    )


def test_minari_with_pictures(minari, forks, tmp_path):
    write_minari(minari, "circles/seen-v0", pictures=True)
    words = ["--pictures", "camera/front", "--states", "position", "--eval-share", "0.2"]
    convert("minari_to_hdf5", "circles/seen-v0", *words, "--output", tmp_path / "data")
    path = tmp_path / "data/minari-circles-seen-v0"
    check(path, tolerance=1.5)
    with h5py.File(f"{path}__train.hdf5") as file:
        assert file["0"].attrs["traj_return"] == len(file["0/obs"]) / 2
    check_training(path, tmp_path)


def test_minari_replayed(minari, tmp_path, monkeypatch):
    """Rendered pictures are those of the episodes; an environment that has changed is noticed."""
    write_minari(minari, "circles/replayed-v0", pictures=False)
    words = ["circles/replayed-v0", "--replay", "--eval-share", "0.2", "--output"]
    convert("minari_to_hdf5", *words, tmp_path / "data")
    check(tmp_path / "data/minari-circles-replayed-v0", tolerance=0.01, states=False)

    monkeypatch.setattr(Circles, "wind", 0.01)
    with pytest.raises(SystemExit, match="error: --replay: episode 0 is not what is stored from step 1 on: "):
        convert("minari_to_hdf5", *words, tmp_path / "other")
    assert not list((tmp_path / "other").glob("*.hdf5"))


@pytest.mark.parametrize(
    "pictures,words,message",
    [
        (True, ("there/is-none-v0",), "there/is-none-v0 is not on this machine: minari download"),
        (
            True,
            ("circles/v-v0", "--pictures", "left"),
            "--pictures left: the dataset has camera/depth, ",
        ),
        (True, ("circles/v-v0", "--states", "speed"), "--states speed: the dataset has camera/depth, "),
        (True, ("circles/v-v0", "--replay", "--pictures", "camera/front"), "give one of the two"),
        (True, ("circles/v-v0", "--replay"), "--replay: circles/v-v0 has no environment here: "),
        (False, ("circles/v-v0",), "no uint8 (T, H, W, 3) among observation: --replay renders pictures"),
    ],
)
def test_minari_says_in_one_line_what_is_wrong(pictures, words, message, minari, tmp_path):
    write_minari(minari, "circles/v-v0", pictures)
    with pytest.raises(SystemExit) as error:
        convert("minari_to_hdf5", *words, "--output", tmp_path / "data")
    text = str(error.value)
    assert text.startswith("error: ") and message in text and "\n" not in text
    assert not (tmp_path / "data").exists()

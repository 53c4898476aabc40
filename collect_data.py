"""Collects expert datasets in the Distracting Control Suite, the data of "Latent Action Learning Requires
Supervision in the Presence of Distractors" (Nikulin et al., 2025; Section 3 and Appendix C).

An expert trained on proprioceptive states plays a dm_control task greedily while a camera films it at 64×64
pixels, with a moving video in the background, a shaking camera and drifting colours. The pictures, the
states, the actions and the physics go into one HDF5 file with training videos and one with evaluation
videos, which the learner of the other scripts never sees.

    python collect_data.py demo                         # 24 + 8 cheetah-run trajectories in data/, minutes
    python collect_data.py --task walker-run            # the paper's size: 5,000 + 50 trajectories, 63 GB
    python collect_data.py --shard 3/16                 # the third of 16 parts of it, on one of many machines
    python collect_data.py --backgrounds DAVIS/         # DAVIS 2017 videos instead of procedural ones
    python collect_data.py --rerender data/<file>.hdf5 --seed 1 --output twins     # the same physics again
    python collect_data.py --preview --difficulty hard  # pictures of all tasks, of a trajectory, of its twins
    python collect_data.py --from-videos videos/        # an action-free dataset of mp4 files and the like

Files in --output (data/): <task>__<difficulty>__{train,val}[__03-of-16].hdf5, whose format stands at
`create_dataset_file`; beside each a .png and a .gif that show it; backgrounds/<name>/{train,val}/*.npy, the
videos, which evaluation uses again. A killed collection continues where it stopped when the same command is
given again, and ends with the same file. experts/train_expert.py trains experts; four are there.

Where we deviate: stored actions are those that acted, clipped to their bounds; each trajectory also stores
its seed and the MuJoCo state behind every picture.
"""

import concurrent.futures
import fcntl
import functools
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from math import atan2, cos, hypot, pi, sin
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import gymnasium as gym
import h5py
import imageio.v3 as imageio
import matplotlib.figure
import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw
from torchvision.utils import make_grid
from tqdm import tqdm

# ---- Arguments ---------------------------------------------------------------------------------------------

Task = Literal["cheetah-run", "walker-run", "hopper-hop", "humanoid-walk"]
Difficulty = Literal["vanilla", "easy", "medium", "hard", "scale_easy_video_hard"]


@dataclass
class Args:
    task: Task = "cheetah-run"  # dm_control task (Section 3)
    difficulty: Difficulty = "scale_easy_video_hard"
    """none, or distractors of scale 0.1/0.2/0.3 with 4/8/60 videos; the paper's: scale 0.1 with 60 videos"""
    backgrounds: str = "procedural"
    """a DAVIS 2017 folder, any folder of folders of frames, or `procedural`: dead-leaves videos, made once"""
    output: Path = Path("data")  # folder of the datasets and background videos
    num_trajectories: int = 5000  # of 1,000 steps in the training file, 12.5 MB each (Appendix C)
    num_eval_trajectories: int = 50  # in the evaluation file, whose videos training never shows (Appendix C)
    num_workers: int = os.cpu_count() or 1  # processes that simulate and render; best is one per core
    seed: int = 0  # of physics, videos, camera and colours; each trajectory's own seed is derived from it
    shard: str = "1/1"
    """collect only this part of the trajectories, k/n with k from 1 to n: many machines make one dataset"""
    expert: Path | None = None  # expert file (.npz) that plays, by default experts/<task>.npz
    rerender: Path | None = None
    """render this file's trajectories again by --difficulty, --backgrounds, --seed; pixels alone change"""
    preview: bool = False
    """draw all tasks, and a trajectory of --task and its twins, under these settings, and stop"""
    from_videos: Path | None = None
    """make an action-free dataset of the videos (mp4, mov, mkv, avi, webm, gif) in this folder, and stop"""


PRESETS = {
    "paper": ("the paper's size (Appendix C): 5,000 + 50 trajectories (default)", Args()),
    "demo": (
        "a laptop without a GPU: 24 + 8 trajectories, 0.4 GB",
        Args(num_trajectories=24, num_eval_trajectories=8),
    ),
}

# ---- Collection --------------------------------------------------------------------------------------------

IMG_HW = 64  # height and width of an observation, pixels


def play(env: gym.Env, policy, seed: int, length: int) -> tuple[dict[str, np.ndarray], float]:
    """The arrays of one episode, (T, …) each, and its return. policy: states (S,) → actions (A,)."""
    steps = {"obs": [], "states": [], "actions": [], "physics": []}
    total = 0.0
    obs, info = env.reset(seed=seed)
    for _ in range(length):
        states = gym.spaces.flatten(env.env.observation_space, info)  # in the order that experts know
        states = states.astype(np.float32)
        action = np.clip(policy(states), -1, 1).astype(np.float32)  # the bounds of all four tasks
        steps["obs"].append(obs)
        steps["states"].append(states)
        steps["actions"].append(action)
        steps["physics"].append(env.physics.get_state())
        obs, reward, _, _, info = env.step(action)
        total += reward
    arrays = {name: np.stack(values) for name, values in steps.items()}
    return arrays, total


class Recording(NamedTuple):
    """What the workers need to know of a file, the same for all of its episodes."""

    task: str
    difficulty: str
    backgrounds: Path
    split: str
    expert_file: Path | None  # who plays
    source: Path | None  # or the file whose episodes are rendered again


@functools.cache
def worker_env(recording: Recording) -> gym.Env:
    """The environment of a worker, made once."""
    env = make_env(recording.task, recording.difficulty, recording.backgrounds, recording.split)
    if recording.source:
        env.env = Replay(env.env)
    return env


def record_episode(
    recording: Recording, number: int, seed: int, path: Path, offsets: dict[str, int]
) -> float:
    """In a worker: writes an episode at its arrays' offsets in the file, and gives its return."""
    env = worker_env(recording)
    if recording.source:
        arrays, total = read_episode(recording.source, number)
        arrays["obs"] = replay(env, seed, arrays["physics"])
    else:
        expert = load_expert(recording.expert_file)
        arrays, total = play(env, expert, seed, EPISODE_LENGTH)
    with open(path, "r+b") as file:
        for name, values in arrays.items():
            file.seek(offsets[name])
            file.write(values)
    return total


def measure_task(recording: Recording) -> tuple[dict[str, tuple], float]:
    """In a worker: the shapes of a step's arrays, and what random actions return."""
    env = worker_env(recording)
    obs, _ = env.reset(seed=0)
    shapes = {
        "obs": obs.shape,
        "states": (gym.spaces.flatdim(env.env.observation_space),),
        "actions": env.action_space.shape,
        "physics": env.physics.get_state().shape,
    }
    return shapes, play_randomly(recording.task, num_episodes=10)


def play_randomly(task: str, num_episodes: int) -> float:
    """Mean return of uniform actions, without rendering."""
    envs = [load_task(task) for _ in range(num_episodes)]
    for seed, env in enumerate(envs):
        env.reset(seed=seed)
    rng = np.random.default_rng(0)
    returns = np.zeros(num_episodes)
    for _ in range(EPISODE_LENGTH):
        actions = rng.uniform(-1, 1, (num_episodes, *envs[0].action_space.shape))
        for i, env in enumerate(envs):
            returns[i] += env.step(actions[i])[1]
    return float(returns.mean())


def create_dataset_file(path: Path, attributes: dict, seeds: list[int], lengths: list[int], shapes: dict):
    """A complete HDF5 file with room for all trajectories and no pixel in it yet.

    Groups "0", "1", …: obs uint8 (T, 64, 64, 3), states float32 (T, S), actions float32 (T, A), physics
    float64 (T, P), attributes traj_return and seed. obs[t], states[t] and physics[t] are what the expert saw
    when it chose actions[t]; obs[t+1] follows. Contiguous and allocated at once: workers write the arrays in
    place, and a kill at any moment cannot break the structure.
    """
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    dtypes = {"obs": np.uint8, "states": np.float32, "actions": np.float32, "physics": np.float64}
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        file.attrs.update(dataset_return=np.nan, dataset_return_std=np.nan)
        for i, (seed, length) in enumerate(zip(seeds, lengths)):
            group = file.create_group(str(i))
            group.attrs.update(traj_return=np.nan, seed=np.uint32(seed))
            for name, dtype in dtypes.items():
                group.create_dataset(name, (length, *shapes[name]), dtype, dcpl=properties)
    size = path.stat().st_size
    try:
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:  # a disk that is too small says so now, not at the last trajectory
        path.unlink()
        raise SystemExit(f"error: no room for {path} ({size / 1e9:.1f} GB): {error}")


def write_returns(path: Path, returns: dict[int, float]) -> np.ndarray:
    """Writes the returns of all trajectories into their file, and gives them in order."""
    values = np.array([returns[i] for i in range(len(returns))])
    with h5py.File(path, "r+") as file:
        for i, value in enumerate(values):
            file[str(i)].attrs.modify("traj_return", value)
        file.attrs.modify("dataset_return", values.mean())
        file.attrs.modify("dataset_return_std", values.std())
    return values


def parse_shard(shard: str) -> tuple[int, int]:
    """k/n → (k, n)."""
    number, _, count = shard.partition("/")
    numbers = number.isdecimal() and count.isdecimal()
    if not numbers or not 1 <= int(number) <= int(count):
        raise SystemExit(f"error: --shard {shard}: give k/n with k from 1 to n, such as 3/16")
    return int(number), int(count)


def trajectory_seeds(seed: int, split: str, num_trajectories: int, shard: str) -> list[int]:
    """One seed for each trajectory of a shard; the shards, in order, have those of the whole."""
    number, count = parse_shard(shard)
    sequence = np.random.SeedSequence([seed, ("train", "val").index(split)])
    first = num_trajectories * (number - 1) // count
    end = num_trajectories * number // count
    return sequence.generate_state(num_trajectories)[first:end].tolist()


def dataset_path(output: Path, attributes: dict) -> Path:
    name = f"{attributes['domain_name']}-{attributes['task_name']}"
    name = f"{name}__{attributes['difficulty']}__{attributes['split']}"
    number, count = parse_shard(attributes["shard"])
    if count > 1:
        name += f"__{number:02d}-of-{count:02d}"
    return output / f"{name}.hdf5"


def refuse_other_settings(path: Path, attributes: dict):
    with h5py.File(path) as file:
        differing = [name for name, value in attributes.items() if file.attrs.get(name) != value]
    if differing:
        names = ", ".join(differing)
        raise SystemExit(f"error: {path} exists and differs in {names}; remove it or give another --output")


def read_journal(journal: Path) -> dict[int, float]:
    """The returns of the trajectories that are complete, by number; a kill may have cut a line short."""
    lines = journal.read_text().splitlines()
    return dict(json.loads(line) for line in lines if line.endswith("]"))


def record_episodes(pool, recording: Recording, seeds: list[int], partial: Path, journal: Path) -> dict:
    """Records what the journal does not name yet; gives the returns of all trajectories, by number."""
    returns = read_journal(journal)
    if returns:
        print(f"{partial}: {len(returns)} of {len(seeds)} trajectories are there already")
    lengths = []
    jobs = {}
    with h5py.File(partial) as file:
        for i, seed in enumerate(seeds):
            group = file[str(i)]
            lengths.append(len(group["obs"]))
            if i not in returns:
                offsets = {name: array.id.get_offset() for name, array in group.items()}
                job = pool.submit(record_episode, recording, i, seed, partial, offsets)
                jobs[job] = i

    bar = tqdm(total=sum(lengths), desc=f"{recording.split} file", unit="frame", unit_scale=True)
    bar.update(sum(lengths[i] for i in returns))
    try:
        for job in concurrent.futures.as_completed(jobs):
            i = jobs[job]
            returns[i] = job.result()
            with open(journal, "a") as file:
                file.write("\n" + json.dumps([i, returns[i]]))
            bar.update(lengths[i])
            bar.set_postfix(mean_return=f"{np.mean(list(returns.values())):.1f}", refresh=False)
    finally:  # on Ctrl-C or an error: what is running, no more
        pool.shutdown(wait=True, cancel_futures=True)
        bar.close()
    return returns


def record_dataset(
    args: Args,
    attributes: dict,
    backgrounds: Path,
    expert_file: Path | None = None,
    source: "Source | None" = None,
):
    """Records the file of a split: the expert's episodes, or the source's with new pictures.

    Until it is whole the file is <file>.partial; <file>.partial.jsonl names the trajectories that are there.
    """
    split = attributes["split"]
    seeds = trajectory_seeds(args.seed, split, attributes["num_trajectories"], attributes["shard"])
    if not seeds:  # few evaluation trajectories, many shards
        return
    attributes = attributes | {
        "difficulty": args.difficulty,
        "dynamic": args.difficulty != "vanilla",
        "img_hw": IMG_HW,
        "seed": args.seed,
        "backgrounds": os.path.relpath(backgrounds, args.output),
    }
    path = dataset_path(args.output, attributes)
    partial = path.with_name(f"{path.name}.partial")
    journal = path.with_name(f"{path.name}.partial.jsonl")
    if source and path.resolve() == source.path:
        raise SystemExit(f"error: {path} would be rendered over itself; give another --output")
    if path.exists():
        refuse_other_settings(path, attributes)
        print(f"{path} is complete already")
        draw_dataset(path)
        return

    task = f"{attributes['domain_name']}-{attributes['task_name']}"
    source_path = source.path if source else None
    recording = Recording(task, args.difficulty, backgrounds, split, expert_file, source_path)
    with worker_pool(args.num_workers) as pool:
        if partial.exists() and journal.exists():
            refuse_other_settings(partial, attributes)
        else:
            if source:
                lengths, shapes, random_return = source.lengths, source.shapes, source.random_return
            else:
                lengths = [EPISODE_LENGTH] * len(seeds)
                shapes, random_return = pool.submit(measure_task, recording).result()
            attributes["random_return"] = random_return
            create_dataset_file(partial, attributes, seeds, lengths, shapes)
            journal.write_text("")
        returns = record_episodes(pool, recording, seeds, partial, journal)

    values = write_returns(partial, returns)
    partial.rename(path)
    journal.unlink()
    summary = f"return {values.mean():.1f} ± {values.std():.1f}, worst {values.min():.1f}"
    print(f"{path}: {len(seeds)} trajectories, {summary}")
    draw_dataset(path)


def collect(args: Args):
    """The expert's play: a file with training videos and one with evaluation videos."""
    expert_file = find_expert(args, args.task)
    domain_name, task_name = args.task.split("-")
    attributes = {
        "domain_name": domain_name,
        "task_name": task_name,
        "shard": args.shard,
        "expert": json.dumps(load_expert(expert_file).about),
    }
    backgrounds = prepare_rendering(args)
    for split, number in (("train", args.num_trajectories), ("val", args.num_eval_trajectories)):
        file_attributes = attributes | {"split": split, "num_trajectories": number}
        record_dataset(args, file_attributes, backgrounds, expert_file=expert_file)


def find_expert(args: Args, task: str) -> Path:
    """--expert for --task; those that come with the repository for other tasks."""
    if args.expert and task == args.task:
        return args.expert
    return Path(__file__).parent / "experts" / f"{task}.npz"


# ---- Workers -----------------------------------------------------------------------------------------------


def worker_pool(num_workers: int) -> concurrent.futures.ProcessPoolExecutor:
    """Fresh processes, not forks: those that render share nothing with the main process."""
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(num_workers, context, start_worker)


def start_worker():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process answers Ctrl-C
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent():
    """A worker's thread: no worker outlives a main process that was killed."""
    multiprocessing.parent_process().join()
    os._exit(1)


# ---- Rendering again: the same physics, other distractors --------------------------------------------------


class Replay(gym.Wrapper):
    """Under DistractingControl: shows recorded MuJoCo states, float64 (T, P), instead of simulating.

    They are options["physics"] of `reset`; `step` shows the next one, whatever the action.
    """

    def reset(self, *, seed=None, options=None):
        self.recorded = iter(options["physics"])
        states, *_ = self.step(None)
        return states, {}

    def step(self, action):
        physics = self.unwrapped.physics
        with physics.reset_context():
            physics.set_state(next(self.recorded))
        return self.unwrapped.task.get_observation(physics), 0.0, False, False, {}


def replay(env: gym.Env, seed: int, physics: np.ndarray) -> np.ndarray:
    """Pictures of MuJoCo states under a seed's distractors, uint8 (T, 64, 64, 3); env holds a Replay."""
    obs, _ = env.reset(seed=seed, options={"physics": physics})
    pictures = [obs]
    for _ in physics[1:]:
        obs, *_ = env.step(None)
        pictures.append(obs)
    return np.stack(pictures)


def read_episode(path: Path, number: int) -> tuple[dict[str, np.ndarray], float]:
    """All arrays of a trajectory but its pictures, and its return."""
    with h5py.File(path) as file:
        group = file[str(number)]
        arrays = {name: group[name][:] for name in ("states", "actions", "physics")}
        return arrays, float(group.attrs["traj_return"])


@dataclass
class Source:
    """What --rerender takes from a file."""

    path: Path
    attributes: dict
    lengths: list[int]  # of its trajectories, steps
    shapes: dict[str, tuple]  # of a step's arrays
    random_return: float


def read_source(path: Path) -> Source:
    try:
        with h5py.File(path) as file:
            if "physics" not in file["0"]:
                raise SystemExit(f"error: {path} has no physics: its trajectories cannot be rendered again")
            attributes = {}
            for name in ("domain_name", "task_name", "split", "expert", "num_trajectories", "shard"):
                attributes[name] = file.attrs[name]
            origin = {"file": path.name}
            for name in ("difficulty", "backgrounds", "seed"):
                origin[name] = str(file.attrs[name])
            attributes["rerendered_from"] = json.dumps(origin)
            lengths = [len(file[str(i)]["physics"]) for i in range(len(file))]
            shapes = {name: array.shape[1:] for name, array in file["0"].items()}
            random_return = float(file.attrs["random_return"])
    except (OSError, KeyError) as error:
        raise SystemExit(f"error: --rerender {path}: not a whole dataset of this script: {error}")
    return Source(path.resolve(), attributes, lengths, shapes, random_return)


def rerender(args: Args):
    source = read_source(args.rerender)
    backgrounds = prepare_rendering(args)
    record_dataset(args, source.attributes, backgrounds, source=source)


# ---- Plain videos ------------------------------------------------------------------------------------------

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".gif")
SHORTEST = 20  # frames of a trajectory; shorter ends of videos are dropped


def read_video(path: Path) -> Iterator[np.ndarray]:
    """Yields the frames of a video: the central square, shrunk by averaging areas, uint8 (64, 64, 3)."""
    filters = [
        ("crop", "min(iw\\,ih):min(iw\\,ih)"),
        ("scale", f"{IMG_HW}:{IMG_HW}:flags=area"),
    ]
    try:
        yield from imageio.imiter(path, plugin="pyav", thread_type="FRAME", filter_sequence=filters)
    except Exception as error:  # each codec has its own
        raise SystemExit(f"error: cannot read the video {path}: {error}")


def cut(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Frames → trajectories, uint8 (T, 64, 64, 3), of 1,000 frames and what is left at the end."""
    while True:
        trajectory = list(itertools.islice(frames, EPISODE_LENGTH))
        if not trajectory:
            return
        yield np.stack(trajectory)


def collect_videos(args: Args):
    """--from-videos: files of action-free trajectories, of obs alone; every tenth video is for evaluation."""
    root = args.from_videos.resolve()
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        suffixes = ", ".join(VIDEO_SUFFIXES)
        raise SystemExit(f"error: --from-videos {args.from_videos}: no videos ({suffixes}) in this folder")
    for file in files:
        next(read_video(file), None)  # one that is unreadable says so before anything is written
    eval_files = files[1::10]
    train_files = files.copy()
    del train_files[1::10]
    record_videos(args.output / f"{root.name}__videos__train.hdf5", "train", root, train_files)
    if eval_files:
        record_videos(args.output / f"{root.name}__videos__val.hdf5", "val", root, eval_files)
    else:
        print("a single video: no evaluation file")


def record_videos(path: Path, split: str, root: Path, videos: list[Path]):
    if path.exists():
        raise SystemExit(f"error: {path} exists; remove it or give another --output")
    partial = path.with_name(f"{path.name}.partial")
    attributes = {
        "domain_name": "video",
        "task_name": root.name,
        "difficulty": "vanilla",
        "dynamic": False,
        "img_hw": IMG_HW,
        "split": split,
        "source": str(root),
    }
    num_trajectories = 0
    dropped = 0
    with h5py.File(partial, "w") as data, tqdm(desc=f"{split} file", unit="frame", unit_scale=True) as bar:
        data.attrs.update(attributes)
        for number, video in enumerate(videos):
            bar.set_postfix_str(f"video {number + 1} of {len(videos)}: {video.name}")
            for obs in cut(read_video(video)):
                bar.update(len(obs))
                if len(obs) < SHORTEST:
                    dropped += len(obs)
                    continue
                data[f"{num_trajectories}/obs"] = obs
                data[str(num_trajectories)].attrs["source"] = str(video.relative_to(root))
                num_trajectories += 1
    if num_trajectories == 0:
        raise SystemExit(f"error: no video of {SHORTEST} frames for {path} in {root}")
    partial.rename(path)
    ends = f"dropped {dropped} frames of ends below {SHORTEST}"
    print(f"{path}: {num_trajectories} trajectories of {len(videos)} videos; {ends}")
    draw_dataset(path)


# ---- Pictures ----------------------------------------------------------------------------------------------


def tile(pictures: np.ndarray, columns: int, padding: int) -> np.ndarray:
    """Small pictures, uint8 (N, 64, 64, 3), beside and below each other, twice as large: uint8 (H, W, 3)."""
    grid = make_grid(torch.from_numpy(pictures).permute(0, 3, 1, 2), columns, padding, pad_value=255)
    pixels = grid.permute(1, 2, 0).numpy()
    return pixels.repeat(2, axis=0).repeat(2, axis=1)


def draw_grid(path: Path, pictures: np.ndarray, row_labels: list[str], column_labels: list[str]):
    """A labelled picture file of small pictures, uint8 (rows, columns, 64, 64, 3)."""
    rows, columns = pictures.shape[:2]
    pixels = tile(pictures.reshape(-1, IMG_HW, IMG_HW, 3), columns, padding=2)
    grid_height, grid_width, _ = pixels.shape
    width, height = grid_width + 130, grid_height + 30  # room for the labels, to the left and above
    figure = matplotlib.figure.Figure(figsize=(width / 100, height / 100), dpi=100)
    axes = figure.add_axes([1 - grid_width / width, 0, grid_width / width, grid_height / height])
    axes.imshow(pixels, interpolation="none")  # a pixel of the grid is one of the picture
    axes.set_xticks((np.arange(columns) + 0.5) * grid_width / columns, column_labels)
    axes.set_yticks((np.arange(rows) + 0.5) * grid_height / rows, row_labels)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    figure.savefig(path)


def time_labels(times) -> list[str]:
    return [f"t = {t}" for t in times]


def draw_dataset(path: Path):
    """Beside a file: a contact sheet (rows: trajectories, columns: time) and a film of the first ones."""
    with h5py.File(path) as file:
        observations = [file[str(i)]["obs"][:] for i in range(min(8, len(file)))]
    length = min(len(obs) for obs in observations)
    times = np.linspace(0, length - 1, 12).astype(int)
    sheet = np.stack([obs[times] for obs in observations])
    row_labels = [str(i) for i in range(len(observations))]
    draw_grid(path.with_suffix(".png"), sheet, row_labels, time_labels(times))
    film = np.stack([obs[: min(length, 160) : 2] for obs in observations], axis=1)  # (T / 2, N, 64, 64, 3)
    frames = [tile(pictures, columns=4, padding=0) for pictures in film]
    imageio.imwrite(path.with_suffix(".gif"), np.stack(frames), duration=40, loop=0)
    print(f"pictures: {path.with_suffix('.png')} {path.with_suffix('.gif')}")


def preview_task(task: str, args: Args, backgrounds: Path, expert_file: Path, draws: int) -> np.ndarray:
    """In a worker: 250 steps of --task, or the last of them of another task, and their twins.

    uint8 (1 + draws, 250 or 1, 64, 64, 3): without distractors, then the same physics under draws of them.
    """
    env = make_env(task, "vanilla", backgrounds, "train")
    arrays, _ = play(env, load_expert(expert_file), args.seed, length=250)
    first = 0 if task == args.task else -1
    films = [arrays["obs"][first:]]
    env = make_env(task, args.difficulty, backgrounds, "train")
    env.env = Replay(env.env)
    for draw in range(draws):
        films.append(replay(env, args.seed + draw, arrays["physics"][first:]))
    return np.stack(films)


def preview(args: Args):
    """--preview: pictures of all tasks, of one trajectory of --task over time, and of its twins."""
    backgrounds = prepare_rendering(args)
    draws = 0 if args.difficulty == "vanilla" else 3
    labels = ["no distractors"]
    for draw in range(draws):
        labels.append(f"seed {args.seed + draw}")
    films = {}
    with worker_pool(args.num_workers) as pool:
        jobs = {}
        for task in get_args(Task):
            expert_file = find_expert(args, task)
            jobs[task] = pool.submit(preview_task, task, args, backgrounds, expert_file, draws)
        for task, job in tqdm(jobs.items(), desc="preview", unit="task"):
            films[task] = job.result()

    tasks = np.stack([film[:, -1] for film in films.values()], axis=1)
    draw_grid(args.output / f"preview__{args.difficulty}.png", tasks, labels, list(films))
    film = films[args.task]
    prefix = f"preview__{args.task}__{args.difficulty}"
    row = min(draws, 1)  # with distractors, if there are any
    strip = film[None, row, ::25]
    draw_grid(args.output / f"{prefix}__strip.png", strip, [labels[row]], time_labels(range(0, 250, 25)))
    twins = film[:, 180::10]
    draw_grid(args.output / f"{prefix}__twins.png", twins, labels, time_labels(range(180, 250, 10)))


# ---- Background videos: DAVIS 2017, any folder of folders of frames, or procedural dead leaves -------------

SKY_HW = 160  # height and width of a background frame: the camera sees about half of it

# DAVIS 2017's own lists; val is the evaluation set of the Distracting Control Suite
DAVIS_VIDEOS = {
    "train": """
        bear bmx-bumps boat boxing-fisheye breakdance-flare bus car-turn cat-girl classic-car color-run
        crossing dance-jump dancing disc-jockey dog-agility dog-gooses dogs-scale drift-turn drone elephant
        flamingo hike hockey horsejump-low kid-football kite-walk koala lady-running lindy-hop longboard
        lucia mallard-fly mallard-water miami-surf motocross-bumps motorbike night-race paragliding
        planes-water rallye rhino rollerblade schoolgirls scooter-board scooter-gray sheep skate-park
        snowboard soccerball stroller stunt surf swing tennis tractor-sand train tuk-tuk upside-down
        varanus-cage walking
    """,
    "val": """
        bike-packing blackswan bmx-trees breakdance camel car-roundabout car-shadow cows dance-twirl dog
        dogs-jump drift-chicane drift-straight goat gold-fish horsejump-high india judo kite-surf lab-coat
        libby loading mbike-trick motocross-jump paragliding-launch parkour pigs scooter-black shooting
        soapbox
    """,
}


def dead_leaves_video(seed: int, num_frames: int = 60) -> np.ndarray:
    """A moving texture with the statistics of natural images, uint8 (num_frames, 160, 160, 3).

    Overlapping shapes whose radii follow a power law of exponent -3 (Lee, Mumford and Huang, 2001), in a few
    base colours, softly shaded, drifting by depth. Lengths are in sides of the picture.
    """
    rng = np.random.default_rng([seed, 2017])
    n = 700
    smallest, largest = 0.03, 0.6
    radius = smallest / np.sqrt(1 - rng.uniform(size=n) * (1 - (smallest / largest) ** 2))
    depth = rng.uniform(0.4, 1.6, n)  # what is nearer is drawn later and moves faster
    position = rng.uniform(-0.75, 1.75, (n, 2))
    own_motion = rng.normal(0, 0.004, (n, 2)) * (rng.uniform(size=(n, 1)) < 0.3)
    angle = rng.uniform(0, 2 * np.pi, n)
    spin = rng.normal(0, 0.01, n)
    drift = rng.normal(0, 0.006, 2) * np.arange(num_frames)[:, None]
    camera = drift + rng.normal(0, 0.0015, (num_frames, 2)).cumsum(0)
    outlines = leaf_outlines(rng, radius)
    order = np.argsort(depth - 1.5 * radius)
    colors = leaf_colors(rng, n)[order]
    shading = soft_shading(rng)

    frames = np.empty((num_frames, SKY_HW, SKY_HW, 3), np.uint8)
    for frame in range(num_frames):
        center = position + frame * own_motion + camera[frame] * depth[:, None]
        center = (center + 0.75) % 2.5 - 0.75
        turned = outlines * np.exp(1j * (angle + frame * spin))[:, None]
        points = np.stack([turned.real, turned.imag], axis=-1) + center[:, None]
        picture = draw_leaves(points[order], colors)
        shift = np.round(camera[frame, ::-1] * SKY_HW).astype(int)
        shade = np.roll(shading, shift, (0, 1))[:SKY_HW, :SKY_HW, None]
        frames[frame] = np.clip(picture * shade, 0, 255)
    return frames


def leaf_outlines(rng: np.random.Generator, radius: np.ndarray) -> np.ndarray:
    """Ellipses bent by harmonics, as complex numbers (N, 24)."""
    n = len(radius)
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    harmonics = np.arange(2, 6)[:, None]
    amplitude = rng.normal(0, 0.12, (n, 4, 1))
    waves = amplitude * np.cos(harmonics * turn + rng.uniform(0, 2 * np.pi, (n, 4, 1)))
    ellipse = np.cos(turn) + 1j * np.sin(turn) * rng.uniform(0.35, 1, (n, 1))
    return radius[:, None] * (1 + waves.sum(1)) * ellipse


def leaf_colors(rng: np.random.Generator, n: int) -> np.ndarray:
    """RGB, uint8 (N, 3): each leaf is near one of five colours."""
    hue = rng.uniform() + rng.normal(0, 0.1, 5)
    saturation = rng.beta(1.5, 3.5, 5)
    value = rng.beta(3, 2.5, 5)
    palette = np.stack([hue, saturation, value], axis=-1)
    colors = palette[rng.integers(5, size=n)] + rng.normal(0, [0.02, 0.06, 0.12], (n, 3))
    colors[:, 0] %= 1
    pixels = (np.clip(colors, 0.04, 1) * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels[None], "HSV").convert("RGB"))[0]


def soft_shading(rng: np.random.Generator) -> np.ndarray:
    """Factors of brightness around 1, (320, 320), which vary as slowly as the light in natural images."""
    size = 2 * SKY_HW
    frequency = np.fft.fftfreq(size)
    frequency = np.hypot(frequency, frequency[:, None])
    noise = np.fft.fft2(rng.standard_normal((size, size)))
    shading = np.fft.ifft2(noise / np.maximum(frequency, 0.5 / SKY_HW) ** 1.5).real
    return 1 + 0.2 * (shading - shading.mean()) / shading.std()


def draw_leaves(points: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Polygons (N, 24, 2), one over the other, on a ground of the first colour: uint8 (160, 160, 3)."""
    size = 2 * SKY_HW  # drawn at twice the size and averaged: smooth edges
    colors = [tuple(color) for color in colors.tolist()]
    image = Image.new("RGB", (size, size), colors[0])
    draw = ImageDraw.Draw(image)
    for polygon, color in zip(points * size, colors):
        draw.polygon(polygon.ravel().tolist(), fill=color)
    return np.asarray(image.resize((SKY_HW, SKY_HW), Image.BOX))


def make_video(source: int | Path) -> np.ndarray:
    """A background video, uint8 (frames, 160, 160, 3): from a seed, or from a folder of pictures."""
    if isinstance(source, int):
        return dead_leaves_video(source)
    suffixes = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
    files = sorted(file for file in source.iterdir() if file.suffix.lower() in suffixes)
    if not files:
        raise SystemExit(f"error: no pictures (jpg, png, bmp, webp) in {source}")
    frames = []
    for file in files:
        image = Image.open(file).convert("RGB")
        frames.append(np.asarray(image.resize((SKY_HW, SKY_HW), Image.BILINEAR)))  # squeezed, as in the suite
    return np.stack(frames)


def find_videos(backgrounds: str) -> dict[str, list]:
    """What to make the videos of each split from: seeds for procedural ones, else folders of frames."""
    if backgrounds == "procedural":
        return {"train": list(range(60)), "val": list(range(60, 90))}  # as many as DAVIS 2017 has
    root = Path(backgrounds).resolve()
    if not root.is_dir():
        raise SystemExit(f"error: --backgrounds {backgrounds}: no such folder")
    davis = root / "JPEGImages" / "480p"
    if davis.is_dir():
        sources = {split: [davis / name for name in names.split()] for split, names in DAVIS_VIDEOS.items()}
        folders = sources["train"] + sources["val"]
        missing = [folder.name for folder in folders if not folder.is_dir()]
        if missing:
            names = ", ".join(missing)
            raise SystemExit(
                f"error: --backgrounds {backgrounds}: {len(missing)} DAVIS videos are missing: {names}"
            )
        return sources
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    if len(folders) < 2:
        raise SystemExit(
            f"error: --backgrounds {backgrounds}: no folders of frames, "
            "one for training and one for evaluation"
        )
    num_train = len(folders) * 2 // 3  # as in DAVIS
    return {"train": folders[:num_train], "val": folders[num_train:]}


def prepare_backgrounds(backgrounds: str, output: Path, num_workers: int) -> Path:
    """Makes or resizes each video once; returns its folder, output/backgrounds/<name>.

    In it are <split>/<number>.npy, and sources.json, which says what they were made from.
    """
    sources = find_videos(backgrounds)
    name = "procedural" if backgrounds == "procedural" else Path(backgrounds).resolve().name
    folder = output / "backgrounds" / name
    names = {split: [str(source) for source in items] for split, items in sources.items()}
    made_from = json.dumps(names, indent=1)
    if folder.is_dir():
        if (folder / "sources.json").read_text() != made_from:
            raise SystemExit(
                f"error: {folder} was made from other videos; remove it or give another --output"
            )
        return folder
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with worker_pool(num_workers) as pool:
        for split, items in sources.items():
            (partial / split).mkdir(parents=True)
            videos = pool.map(make_video, items)
            bar = tqdm(videos, total=len(items), desc=f"background videos, {split}", unit="video")
            for i, video in enumerate(bar):
                np.save(partial / split / f"{i:03d}.npy", video)
    (partial / "sources.json").write_text(made_from)
    partial.rename(folder)
    return folder


def prepare_rendering(args: Args) -> Path:
    """Finds an OpenGL, makes the background videos if there are none yet, and returns their folder."""
    pick_rendering_backend()
    if args.difficulty == "vanilla":
        return args.output / "backgrounds"
    with open(args.output / ".lock-backgrounds", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # shards in one folder wait here for the one that makes the videos
        return prepare_backgrounds(args.backgrounds, args.output, args.num_workers)


# ---- Expert ------------------------------------------------------------------------------------------------


class Expert:
    """A trained policy that plays greedily: a small MLP in numpy.

    __call__: states (..., S) → actions (..., A) float32 in [-1, 1]. mean: the same before clipping, which for
    PPO's Gaussians may lie outside. The file is an .npz below 1 MB: weight_i, bias_i, state_mean, state_std,
    and `about`, a JSON text that says how it was trained. Hidden units are ReLUs; the output is a tanh, or
    linear where `about` has "output": "mean".
    """

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.about = json.loads(str(arrays["about"]))
        self.state_mean = arrays["state_mean"]
        self.state_std = arrays["state_std"]
        self.layers = []
        for i in range(self.about["num_layers"]):
            self.layers.append((arrays[f"weight_{i}"], arrays[f"bias_{i}"]))

    def __call__(self, states: np.ndarray) -> np.ndarray:
        return np.clip(self.mean(states), -1, 1)

    def mean(self, states: np.ndarray) -> np.ndarray:
        x = (states.astype(np.float32) - self.state_mean) / self.state_std
        x = np.clip(x, -10, 10)
        for weight, bias in self.layers[:-1]:
            x = np.maximum(x @ weight.T + bias, 0)
        weight, bias = self.layers[-1]
        x = x @ weight.T + bias
        return x if self.about.get("output") == "mean" else np.tanh(x)


def load_expert(path: Path) -> Expert:
    try:
        with np.load(path) as arrays:
            return Expert(dict(arrays))
    except FileNotFoundError:
        raise SystemExit(f"error: no expert {path}; experts/train_expert.py trains one, --expert takes one")
    except Exception as error:  # of numpy, zip or JSON
        raise SystemExit(f"error: {path} is not an expert file: {error}")


# ---- Environment: Distracting Control Suite (Stone et al., 2021; Section 3) --------------------------------

EPISODE_LENGTH = 1000  # steps, dm_control's for all four tasks
DIFFICULTIES = {  # name: (scale of camera and colour, number of training videos; None means all)
    "vanilla": (0.0, 0),
    "easy": (0.1, 4),
    "medium": (0.2, 8),
    "hard": (0.3, None),
    "scale_easy_video_hard": (0.1, None),  # the paper's
}


class DistractingControl(gym.Wrapper):
    """Pixels before colours, a camera and a background video that drift independently of the physics.

    Observations are uint8 (64, 64, 3); `info` holds dm_control's states, a dictionary. One seed gives the
    same physics, colours, camera and background. color_scale, camera_scale: s of DIFFICULTIES, 0 for none.
    videos: uint8 (frames, 160, 160, 3), none for the task's own sky.
    """

    def __init__(self, env, color_scale, camera_scale, videos):
        from dm_control.mujoco import Camera

        super().__init__(env)
        self.observation_space = gym.spaces.Box(0, 255, (IMG_HW, IMG_HW, 3), np.uint8)
        self.color_scale = color_scale
        self.camera_scale = camera_scale
        self.videos = videos
        self.physics = env.unwrapped.physics
        self.own_colors = self.physics.model.mat_rgba[:, :3].copy()
        if videos and self.physics.model.name == "humanoid":  # its ground would hide most of the background
            self.physics.named.model.mat_rgba["grid", "a"] = 0.3
        self.camera = Camera(self.physics, IMG_HW, IMG_HW, 0)  # a new one for each picture is slow

    def reset(self, seed=None, options=None):
        states, _ = self.env.reset(seed=seed, options=options)
        self.pictures = self.draw(seed)
        return next(self.pictures), states

    def step(self, action):
        states, reward, terminated, truncated, _ = self.env.step(action)
        return next(self.pictures), reward, terminated, truncated, states

    def draw(self, seed):
        """Yields pictures of the present state, uint8 (64, 64, 3), each under the distractors' next step."""
        import mujoco

        model = self.physics.model
        data = self.physics.data
        color_rng, camera_rng, video_rng = np.random.default_rng(seed).spawn(3)
        colors = walk_colors(color_rng, self.color_scale, self.own_colors)
        poses = walk_camera(camera_rng, self.camera_scale, data.cam_xpos[0] - data.subtree_com[1])
        frames = play_to_and_fro(video_rng, self.videos)
        while True:
            model.mat_rgba[:, :3] = next(colors)
            if self.videos:
                show_in_sky(self.physics, next(frames))
            mujoco.mj_camlight(model.ptr, data.ptr)  # puts the camera back to its own pose
            if self.camera_scale > 0:
                move_camera(data, *next(poses))
            yield self.camera.render().copy()


def show_in_sky(physics, picture):
    """Makes a picture, uint8 (H, H, 3), the texture of all six faces of the sky."""
    import mujoco

    model = physics.model
    sky = model.name2id("skybox", "texture")
    model.tex_width[sky] = len(picture)
    model.tex_height[sky] = 6 * len(picture)
    start = model.tex_adr[sky]
    model.tex_data[start : start + 6 * picture.size] = np.tile(picture.ravel(), 6)
    with physics.contexts.gl.make_current() as context:
        context.call(mujoco.mjr_uploadTexture, model.ptr, physics.contexts.mujoco.ptr, sky)


def walk_colors(rng, s, own_colors):
    """Yields each material's RGB: uniform within ±s of its own, then drifting within this range."""
    low = np.clip(own_colors - s, 0, 1)
    high = np.clip(own_colors + s, 0, 1)
    colors = rng.uniform(low, high)
    while True:
        colors = np.clip(colors, low, high).astype(np.float32)  # as the model keeps them
        yield colors
        colors = colors + rng.normal(0, 0.03 * s, colors.shape)


def walk_camera(rng, s, own_position):
    """Yields the camera's position about the agent's centre of mass, in metres, and its roll, in radians.

    Ranges are of (radius, elevation above the horizon, azimuth) about its own position (x, y, z); velocities
    are metres and radians per step.
    """
    radius, elevation, azimuth = to_spherical(own_position)
    angle = pi / 2 * s
    low = [radius * (1 - 0.5 * s), max(elevation - angle, 0), max(azimuth - angle, -pi / 2)]
    high = [radius * (1 + 1.5 * s), min(elevation + angle, pi / 2), min(azimuth + angle, pi / 2)]
    high = np.maximum(low, high)  # for a camera just below the horizon
    position = to_cartesian(rng.uniform(low, high))
    velocity = normalized(rng.normal(size=3)) * rng.uniform(0, 0.4 * s)
    max_roll_velocity = pi / 50 * s
    roll, roll_velocity = rng.uniform(-1, 1, 2) * [angle, max_roll_velocity]
    unit = s * radius / 4
    while True:
        yield position, roll
        velocity = velocity + rng.normal(0, 0.1 * unit, 3)
        velocity = velocity * min(1, 0.4 * unit / hypot(*velocity))
        position = to_cartesian(np.clip(to_spherical(position + velocity), low, high))
        roll_velocity = roll_velocity + rng.normal(0, pi / 300 * s)
        roll_velocity = np.clip(roll_velocity, -max_roll_velocity, max_roll_velocity)
        roll = np.clip(roll + roll_velocity, -angle, angle)


def play_to_and_fro(rng, videos):
    """Yields the frames of a random video, from a random one on, in a random direction."""
    video = videos[rng.integers(len(videos))]
    frames = [*video, *video[-2:0:-1]]
    start = rng.integers(len(frames))
    yield from itertools.cycle(frames[start:] + frames[:start])


def move_camera(data, position, roll):
    """Moves camera 0; it looks at the point on its own axis that is as far away as the agent."""
    agent = data.subtree_com[1]
    offset = data.cam_xpos[0] - agent
    own_axis = data.cam_xmat[0, 2::3]  # a camera looks along its negative z axis
    z = normalized(position - offset + own_axis * hypot(*offset))
    x = normalized(np.cross([0, 0, 1], z))
    y = np.cross(z, x)
    data.cam_xpos[0] = agent + position
    axes = [x * cos(roll) + y * sin(roll), y * cos(roll) - x * sin(roll), z]
    data.cam_xmat[0] = np.column_stack(axes).ravel()


def normalized(vector):
    return vector / hypot(*vector)


def to_spherical(point):
    """(x, y, z) → (radius, elevation, azimuth from -y, where the cameras are: the cut at y is far)."""
    x, y, z = point
    return np.array([hypot(x, y, z), atan2(z, hypot(x, y)), atan2(x, -y)])


def to_cartesian(position):
    radius, elevation, azimuth = position
    x = cos(elevation) * sin(azimuth)
    y = -cos(elevation) * cos(azimuth)
    return radius * np.array([x, y, sin(elevation)])


def make_env(task, difficulty, backgrounds, split):
    """A dm_control task under a difficulty's distractors, with the videos in backgrounds/<split>/*.npy."""
    scale, _ = DIFFICULTIES[difficulty]
    return DistractingControl(load_task(task), scale, scale, load_videos(backgrounds, split, difficulty))


def load_task(task):
    """A dm_control task through Shimmy, with buffers and shadows no larger than 64×64 pictures need."""
    # imported here: dm_control binds to the OpenGL that MUJOCO_GL names when it is first imported
    import absl.logging
    import shimmy
    from dm_control import suite

    absl.logging.set_verbosity("error")  # deprecations in dm_control's own XML
    env = shimmy.DmControlCompatibilityV0(suite.load(*task.split("-")))
    visual = env.unwrapped.physics.model.vis
    visual.global_.offwidth = IMG_HW
    visual.global_.offheight = IMG_HW
    visual.quality.shadowsize = 256  # MuJoCo's 2048² take most of the time
    visual.quality.numslices = 12
    visual.quality.numstacks = 8
    return env


def load_videos(backgrounds, split, difficulty):
    """Background videos, uint8 (frames, 160, 160, 3), mapped: all of "val", the difficulty's of "train"."""
    _, number = DIFFICULTIES[difficulty]
    if number == 0:
        return []
    folder = Path(backgrounds, split)
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise SystemExit(
            f"error: no videos (*.npy) in {folder}; collect_data.py makes some (--eval.backgrounds)"
        )
    if split == "train":
        files = files[:number]
    return [np.load(file, mmap_mode="r") for file in files]


def pick_rendering_backend():
    """Sets MUJOCO_GL for the worker processes: EGL on a GPU or Mesa, else OSMesa; a user's choice stands."""
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa draws in the worker: its threads only cost at 64×64
    if "MUJOCO_GL" in os.environ:
        return
    probe = "import mujoco; context = mujoco.GLContext(64, 64); context.make_current(); context.free()"
    for backend in ("egl", "osmesa"):
        os.environ["MUJOCO_GL"] = backend
        if subprocess.run([sys.executable, "-c", probe], capture_output=True).returncode == 0:
            return
    raise SystemExit("error: no OpenGL to render with: apt-get install libegl1 libopengl0, or libosmesa6")


# ---- Main --------------------------------------------------------------------------------------------------


def parse_args(argv: list[str]) -> Args:
    """The command line: a preset's name first, paper if there is none."""
    if not argv or argv[0].startswith("-"):
        argv = ["paper", *argv]
    name, *flags = argv
    if name not in PRESETS:
        raise SystemExit(f"error: no preset {name!r}: there are {', '.join(PRESETS)}")
    about, preset = PRESETS[name]
    description = f"{about}; presets: {', '.join(PRESETS)}\n\n{__doc__}"
    prog = f"{Path(__file__).name} {name}"
    return tyro.cli(Args, prog=prog, description=description, args=flags, default=preset)


def main(args: Args):
    args.output.mkdir(parents=True, exist_ok=True)
    number, count = parse_shard(args.shard)
    lock_name = ".lock" if count == 1 else f".lock-{number}-of-{count}"
    with open(args.output / lock_name, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(
                f"error: another process collects in {args.output}; give another --output, or shards"
            )
        if args.from_videos:
            collect_videos(args)
        elif args.preview:
            preview(args)
        elif args.rerender:
            rerender(args)
        else:
            collect(args)


if __name__ == "__main__":
    try:
        main(parse_args(sys.argv[1:]))
    except concurrent.futures.process.BrokenProcessPool:
        raise SystemExit(
            "error: a worker process died (out of memory?); "
            "the same command continues from the last trajectory"
        )
    except (KeyboardInterrupt, OSError) as error:  # a full disk, a folder without permission
        raise SystemExit(f"error: {str(error) or 'interrupted'}")

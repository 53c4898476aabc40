"""Collects expert datasets in the Distracting Control Suite, the data of "Latent Action Learning Requires
Supervision in the Presence of Distractors" (Nikulin et al., 2025; Section 3 and Appendix C).

An expert trained on proprioceptive states plays a dm_control task greedily while a camera films it at 64×64
pixels, with a moving video in the background, a shaking camera and drifting colours. The pictures, the
states, the actions and the physics go into one HDF5 file with training videos and one with evaluation
videos, which the learner of the other scripts never sees.

    python collect_data.py demo                         # 64 + 8 short trajectories in data/, minutes
    python collect_data.py --task walker-run            # the paper's size: 5,000 + 50 trajectories, 63 GB
    python collect_data.py --task fish-swim --expert fish.npz --masks      # any task, with masks of the agent
    python collect_data.py --action-repeat 4 --action-noise 0.8     # actions with a visible effect, and noise
    python collect_data.py --shard 3/16                 # the third of 16 parts of it, on one of many machines
    python collect_data.py --backgrounds DAVIS/         # DAVIS 2017 videos instead of procedural ones
    python collect_data.py --rerender data/<file>.hdf5 --seed 1 --output twins     # the same physics again
    python collect_data.py --preview --difficulty hard  # pictures of all tasks, of a trajectory, of its twins
    python collect_data.py --from-videos videos/        # an action-free dataset of mp4 files and the like

Files in --output (data/): <task>__<difficulty>…__{train,val}[__03-of-16].hdf5; `create_dataset_file`
describes their format. A .png and a .gif beside each file show what is in it. backgrounds/<name>/ holds the
videos, which evaluation uses again. A killed collection continues where it stopped when the same command is
given again, and ends with the same file. experts/ has experts for the paper's four tasks, and the scripts
that train others.

Where we deviate: stored actions are those that acted, clipped to their bounds; each trajectory also stores
its seed and the MuJoCo state behind every picture.
"""

import concurrent.futures
import contextlib
import fcntl
import functools
import hashlib
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import atan2, cos, hypot, pi, sin
from pathlib import Path
from typing import Literal, NamedTuple

import gymnasium as gym
import h5py
import imageio.v3 as imageio
import matplotlib.figure
import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw
from scipy.stats import norm
from torchvision.utils import make_grid
from tqdm import tqdm

# ---- Arguments ---------------------------------------------------------------------------------------------

TASKS = ("cheetah-run", "walker-run", "hopper-hop", "humanoid-walk")  # the paper's, with experts in experts/
Difficulty = Literal["vanilla", "easy", "medium", "hard", "scale_easy_video_hard"]


@dataclass(unsafe_hash=True)
class Args:
    task: str = "cheetah-run"
    """a task of dm_control; the paper's are: cheetah-run, walker-run, hopper-hop, humanoid-walk"""
    difficulty: Difficulty = "scale_easy_video_hard"
    """none, or distractors of scale 0.1/0.2/0.3 with 4/8/60 videos; the paper's: scale 0.1 with 60 videos"""
    backgrounds: str = "procedural"
    """a DAVIS 2017 folder, any folder of folders of frames, or `procedural`: dead-leaves videos, made once"""
    output: Path = Path("data")  # folder of the datasets and background videos
    num_trajectories: int = 5000  # in the training file, of 1,000 steps and 12.5 MB each (Appendix C)
    num_eval_trajectories: int = 50  # in the evaluation file, whose videos training never shows (Appendix C)
    num_workers: int = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    """processes that simulate and render; best is one for each core that the job was given"""
    seed: int = 0  # of physics, videos, camera and colours; each trajectory's own seed is derived from it
    shard: str = "1/1"  # only this part, k/n with k from 1 to n: many machines make one dataset
    expert: Path | None = None  # expert file (.npz) that plays, by default that of the task in experts/
    action_repeat: int = 1  # simulation steps for which an action acts: one row and picture in all of them
    action_noise: float = 0.0  # standard deviation of Gaussian noise, which is added to each action
    store_means: bool = False  # store the expert's actions before clipping, as the paper's files have them
    masks: bool = False  # store where the agent is in each picture, too: a third more bytes
    rerender: Path | None = None  # a file: its trajectories under other distractors; pixels alone change
    preview: bool = False  # draw all tasks, a trajectory of --task and its twins, and stop
    from_videos: Path | None = None
    """make an action-free dataset of the videos (mp4, mov, mkv, avi, webm, gif) in this folder, and stop"""


DEMO = Args(num_trajectories=64, num_eval_trajectories=8, action_repeat=4, action_noise=0.8)
PRESETS = {
    "paper": ("the paper's size (Appendix C): 5,000 + 50 trajectories (default)", Args()),
    "demo": ("for a laptop: 64 + 8 trajectories of 250 decisions with noise, 0.6 GB, minutes", DEMO),
}

# ---- Collection --------------------------------------------------------------------------------------------

IMG_HW = 64  # height and width of an observation, pixels
DTYPES = {"obs": np.uint8, "mask": np.uint8, "physics": np.float64}  # the other arrays are float32


def play(env: gym.Env, policy, seed: int, length: int, masks=False, noise=0.0, store_means=False):
    """An episode's arrays, by name, (T, …) each, and its return. policy: states (S,) → unclipped action."""
    steps = defaultdict(list)
    total = 0.0
    low, high = env.action_space.low, env.action_space.high
    rng = np.random.default_rng([seed, 1])  # of the noise alone
    obs, info = env.reset(seed=seed)
    for _ in range(length):
        states = gym.spaces.flatten(env.env.observation_space, info)  # in the order that experts know
        states = states.astype(np.float32)
        meant = policy(states)
        action = np.clip(meant + noise * rng.normal(size=meant.shape), low, high)
        steps["obs"].append(obs)
        steps["states"].append(states)
        steps["actions"].append(meant if store_means else action)
        steps["physics"].append(env.physics.get_state())
        if noise > 0:
            steps["expert_actions"].append(mean_clipped(meant, noise, low, high))
        if masks:
            steps["mask"].append(agent_mask(env))
        obs, reward, _, _, info = env.step(action.astype(np.float32))
        total += reward
    arrays = {name: np.stack(values).astype(DTYPES.get(name, np.float32)) for name, values in steps.items()}
    return arrays, total


def mean_clipped(mean, deviation, low, high) -> np.ndarray:
    """Mean of normal numbers that are clipped to [low, high]: what an action is on average over its noise."""
    below, above = (low - mean) / deviation, (high - mean) / deviation
    inside = norm.cdf(above) - norm.cdf(below)
    of_the_tails = deviation * (norm.pdf(below) - norm.pdf(above))
    return low * norm.cdf(below) + high * norm.sf(above) + mean * inside + of_the_tails


def agent_mask(env: gym.Env) -> np.ndarray:
    """Where the last picture shows the agent: 1 there, else 0, uint8 (64, 64)."""
    import mujoco

    model = env.physics.model
    ids, kinds = np.moveaxis(env.camera.render(segmentation=True), -1, 0)
    of_agent = model.body_rootid[model.geom_bodyid] == 1  # as the camera takes it, see `move_camera`
    return (of_agent[ids] & (kinds == mujoco.mjtObj.mjOBJ_GEOM)).astype(np.uint8)


class Recording(NamedTuple):
    """What the workers need to know of a file, the same for all of its episodes."""

    args: Args
    task: str
    split: str
    backgrounds: Path
    expert_file: Path | None  # who plays
    source: Path | None  # or the file whose episodes are rendered again


@functools.cache
def worker_env(recording: Recording) -> gym.Env:
    """The environment of a worker, made once."""
    args, task, split, backgrounds, *_ = recording
    env = make_env(task, args.difficulty, backgrounds, split, args.action_repeat)
    if recording.source:
        env.env = Replay(env.env)
    return env


def film_expert(recording: Recording, seed: int, length: int, masks: bool):
    """In a worker: as `play`."""
    policy = load_expert(recording.expert_file).mean
    args = recording.args
    return play(worker_env(recording), policy, seed, length, masks, args.action_noise, args.store_means)


def record_episode(recording: Recording, number: int, seed: int, path: Path, offsets: dict) -> float:
    """In a worker: writes an episode at its arrays' offsets in the file, and gives its return."""
    masks = "mask" in offsets
    if recording.source:
        arrays, total, physics_seed = read_episode(recording.source, number)
        arrays |= replay(worker_env(recording), seed, arrays["physics"], physics_seed, masks)
    else:
        length = EPISODE_LENGTH // recording.args.action_repeat
        arrays, total = film_expert(recording, seed, length, masks)
    with open(path, "r+b") as file:
        for name, values in arrays.items():
            file.seek(offsets[name])
            file.write(values)
    sync(path)  # before the journal names it: a machine may die at any moment
    return total


def measure_task(recording: Recording) -> tuple[dict[str, tuple], float]:
    """In a worker: the shapes of a step's arrays, and the mean return of ten episodes of uniform actions."""
    arrays, _ = film_expert(recording, seed=0, length=1, masks=recording.args.masks)
    shapes = {name: array.shape[1:] for name, array in arrays.items()}
    action_repeat = recording.args.action_repeat
    env = RepeatAction(load_task(recording.task), action_repeat)  # without rendering
    rng = np.random.default_rng(0)
    total = 0.0
    for seed in range(10):
        env.reset(seed=seed)
        for _ in range(EPISODE_LENGTH // action_repeat):
            total += env.step(rng.uniform(-1, 1, env.action_space.shape))[1]
    return shapes, total / 10


def create_dataset_file(path: Path, attributes: dict, seeds: list[int], lengths: list[int], shapes: dict):
    """A complete HDF5 file with room for all trajectories and no pixel in it yet.

    Groups "0", "1", …: obs uint8 (T, 64, 64, 3), states float32 (T, S), actions float32 (T, A), physics
    float64 (T, P), with --masks mask uint8 (T, 64, 64), with --action-noise expert_actions float32 (T, A);
    attributes traj_return, and seed of the physics. obs[t], mask[t], states[t] and physics[t] are what the
    expert saw when it chose actions[t]; obs[t+1] follows. Contiguous and allocated at once: workers write the
    arrays in place, and a kill at any moment cannot break the structure.
    """
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes, dataset_return=np.nan, dataset_return_std=np.nan)
        for i, (seed, length) in enumerate(zip(seeds, lengths)):
            group = file.create_group(str(i))
            group.attrs.update(traj_return=np.nan, seed=np.uint32(seed))
            for name, shape in shapes.items():
                group.create_dataset(name, (length, *shape), DTYPES.get(name, np.float32), dcpl=properties)
    size = path.stat().st_size
    try:
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        sync(path)
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
    sync(path)
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
    name = f"{attributes['domain_name']}-{attributes['task_name']}__{attributes['difficulty']}"
    if attributes["action_repeat"] > 1:
        name += f"__repeat{attributes['action_repeat']}"
    if attributes["action_noise"] > 0:
        name += f"__noise{attributes['action_noise']}"
    if attributes["store_means"]:
        name += "__means"
    name += f"__{attributes['split']}"
    number, count = parse_shard(attributes["shard"])
    if count > 1:
        digits = max(2, len(str(count)))  # the order of the names is that of the shards
        name += f"__{number:0{digits}d}-of-{count:02d}"
    return output / f"{name}.hdf5"


def refuse_other_settings(path: Path, attributes: dict, masks=False):
    with h5py.File(path) as file:
        if "rerendered_from" in file.attrs:
            attributes = {"rerendered_from": None} | attributes
        differing = [name for name, value in attributes.items() if file.attrs.get(name) != value]
        if masks and "mask" not in file["0"]:
            differing.append("masks")
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

    bar = Progress(total=sum(lengths), desc=f"{recording.split} file", unit="frame", unit_scale=True)
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
    args: Args, attributes: dict, backgrounds: Path, expert_file=None, source=None, layout=None
):
    """Records the file of a split: the expert's episodes, or those of a source and its layout seen anew.

    Until it is whole the file is <file>.partial; <file>.partial.jsonl names the trajectories that are there.
    """
    split = attributes["split"]
    seeds = trajectory_seeds(args.seed, split, attributes["num_trajectories"], attributes["shard"])
    if not seeds:
        print(f"shard {attributes['shard']} has no trajectory of the {split} file")
        return
    path = dataset_path(args.output, attributes)
    partial = Path(f"{path}.partial")
    journal = Path(f"{partial}.jsonl")
    if source and path.resolve() == source.resolve():
        raise SystemExit(f"error: {path} would be rendered over itself; give another --output")
    if path.exists():
        refuse_other_settings(path, attributes, args.masks)
        print(f"{path} is complete already")
        draw_dataset(path)
        return

    task = f"{attributes['domain_name']}-{attributes['task_name']}"
    recording = Recording(args, task, split, backgrounds, expert_file, source)
    with worker_pool(args.num_workers) as pool:
        if partial.exists() and journal.exists():
            refuse_other_settings(partial, attributes, args.masks)
        else:
            if source:
                lengths, physics_seeds, shapes = layout
                if args.masks:
                    shapes["mask"] = (IMG_HW, IMG_HW)
            else:
                lengths, physics_seeds = [EPISODE_LENGTH // args.action_repeat] * len(seeds), seeds
                shapes, attributes["random_return"] = pool.submit(measure_task, recording).result()
            journal.unlink(missing_ok=True)  # it may be of another partial file
            create_dataset_file(partial, attributes, physics_seeds, lengths, shapes)
            journal.write_text("")
        returns = record_episodes(pool, recording, seeds, partial, journal)

    values = write_returns(partial, returns)
    partial.rename(path)
    journal.unlink()
    summary = f"return {values.mean():.1f} ± {values.std():.1f}, worst {values.min():.1f}"
    print(f"{path}: {len(seeds)} trajectories, {summary}")
    draw_dataset(path)


def attributes_of_pictures(args: Args, backgrounds: Path) -> dict:
    """The attributes of a file that say what is seen in it."""
    return {
        "difficulty": args.difficulty,
        "dynamic": args.difficulty != "vanilla",
        "img_hw": IMG_HW,
        "world": WORLD,
        "seed": args.seed,
        "backgrounds": os.path.relpath(backgrounds, args.output),
    }


def collect(args: Args):
    """The expert's play: a file with training videos and one with evaluation videos."""
    expert_file = find_expert(args, args.task)
    about = load_expert(expert_file).about
    if about.get("action_repeat", 1) != args.action_repeat:
        print(f"{expert_file} learned at {about.get('action_repeat', 1)} simulation steps an action")
    if about.get("task", args.task) != args.task:
        print(f"{expert_file} learned {about['task']}")
    domain_name, task_name = args.task.split("-")
    attributes = {
        "domain_name": domain_name,
        "task_name": task_name,
        "shard": args.shard,
        "expert": json.dumps(about),
        "action_repeat": args.action_repeat,
        "action_noise": args.action_noise,
        "store_means": args.store_means,
    }
    backgrounds = background_folder(args)
    attributes |= attributes_of_pictures(args, backgrounds)
    train = attributes | {"split": "train", "num_trajectories": args.num_trajectories}
    val = attributes | {"split": "val", "num_trajectories": args.num_eval_trajectories}
    val_path = dataset_path(args.output, val)
    for path in (val_path, Path(f"{val_path}.partial")):
        if path.exists():  # found now, not when the training file is there
            refuse_other_settings(path, val, args.masks)
    for file_attributes in (train, val):
        record_dataset(args, file_attributes, backgrounds, expert_file)


def find_expert(args: Args, task: str) -> Path:
    """--expert for --task, else the repository's: that of the action repeat if there is one.

    Where actions repeat it is PPO's, as the paper's are: noise costs it less of its return than SAC's.
    """
    if args.expert and task == args.task:
        return args.expert
    folder = Path(__file__).parent / "experts"
    for name in (f"{task}__repeat{args.action_repeat}__ppo.npz", f"{task}__repeat{args.action_repeat}.npz"):
        if (folder / name).exists():
            return folder / name
    return folder / f"{task}.npz"


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


# ---- Progress and files ------------------------------------------------------------------------------------


class Progress(tqdm):
    """A progress bar; where stderr is no terminal, lines: the first, the last, and one every 10 s between."""

    line_due = 0.0  # when the next line may come, seconds

    def display(self, msg=None, pos=None):
        closing = self.disable
        if self.fp.isatty():
            super().display(msg, pos)
        elif closing or time.monotonic() >= self.line_due:
            print(self, file=self.fp, end="" if closing else "\n", flush=True)  # tqdm ends the last one
            self.line_due = time.monotonic() + 10


def lock_file(file):
    """Keeps other processes off an open file while this one has it; BlockingIOError if another does."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:  # network disks may know no locks
        print(f"warning: {file.name}: {error.strerror}: start no second process here", file=sys.stderr)


def sync(path: Path):
    """Waits until what was written into a file is on the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


# ---- Rendering again: the same physics, other distractors --------------------------------------------------


class Replay(gym.Wrapper):
    """Under DistractingControl: shows recorded MuJoCo states, float64 (T, P), instead of simulating.

    They are options["physics"] of `reset`; `step` shows the next one, whatever the action. The seed that they
    were simulated under brings back what a task changes in the model itself, such as a target's place.
    """

    def reset(self, *, seed=None, options=None):
        self.env.reset(seed=options["physics_seed"])
        self.recorded = iter(options["physics"])
        states, *_ = self.step(None)
        return states, {}

    def step(self, action):
        physics = self.unwrapped.physics
        with physics.reset_context():
            physics.set_state(next(self.recorded))
        return self.unwrapped.task.get_observation(physics), 0.0, False, False, {}


def replay(env: gym.Env, seed: int, physics: np.ndarray, physics_seed: int, masks=False) -> dict:
    """What is seen of MuJoCo states (T, P) under a seed's distractors: obs, mask; env holds a Replay."""
    steps = defaultdict(list)
    first, _ = env.reset(seed=seed, options={"physics": physics, "physics_seed": physics_seed})
    others = (env.step(None)[0] for _ in physics[1:])
    for obs in itertools.chain([first], others):
        steps["obs"].append(obs)
        if masks:
            steps["mask"].append(agent_mask(env))
    return {name: np.stack(values) for name, values in steps.items()}


def read_episode(path: Path, number: int) -> tuple[dict[str, np.ndarray], float, int]:
    """Arrays of a trajectory but what is seen, its return, and the seed of its physics."""
    with h5py.File(path) as file:
        group = file[str(number)]
        arrays = {name: array[:] for name, array in group.items() if name not in ("obs", "mask")}
        return arrays, float(group.attrs["traj_return"]), int(group.attrs["seed"])


def read_source(path: Path) -> tuple[dict, tuple]:
    """What --rerender takes from a file: attributes; lengths, seeds and shapes of its trajectories."""
    names = ["domain_name", "task_name", "split", "expert", "num_trajectories", "shard"]
    names += ["action_repeat", "action_noise", "store_means", "random_return"]
    try:
        with h5py.File(path) as file:
            if file.attrs.get("world") != WORLD:
                raise SystemExit(f"error: --rerender {path}: an earlier version rendered it; collect it anew")
            if np.isnan(file.attrs["dataset_return"]):
                raise SystemExit(f"error: --rerender {path}: its collection has not finished")
            if "physics" not in file["0"]:
                raise SystemExit(f"error: {path} has no physics: its trajectories cannot be rendered again")
            origin = {name: str(file.attrs[name]) for name in ("difficulty", "backgrounds", "seed")}
            attributes = {name: file.attrs[name] for name in names}
            attributes["rerendered_from"] = json.dumps({"file": path.name} | origin)
            groups = [file[str(i)] for i in range(len(file))]
            lengths = [len(group["physics"]) for group in groups]
            seeds = [group.attrs["seed"] for group in groups]
            shapes = {name: array.shape[1:] for name, array in file["0"].items()}
    except (OSError, KeyError) as error:
        raise SystemExit(f"error: --rerender {path}: not a whole dataset of this script: {error}")
    return attributes, (lengths, seeds, shapes)


def rerender(args: Args):
    attributes, layout = read_source(args.rerender)
    backgrounds = background_folder(args)
    attributes |= attributes_of_pictures(args, backgrounds)
    record_dataset(args, attributes, backgrounds, source=args.rerender, layout=layout)


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
        raise ValueError(f"cannot be read: {error}")


def find_plain_videos(root: Path) -> list[Path]:
    """The videos in a folder and below. Links are followed; nothing is taken twice, nor what is hidden."""
    seen = set()
    folders = [root]
    files = []
    for folder in folders:
        for path in sorted(folder.glob("[!.]*")):
            real = os.path.realpath(path)
            if real in seen:
                continue
            seen.add(real)
            if path.is_dir():
                folders.append(path)
            elif path.suffix.lower() in VIDEO_SUFFIXES:
                files.append(path)
    if not files:
        raise SystemExit(f"error: --from-videos {root}: no videos ({', '.join(VIDEO_SUFFIXES)}) there")
    return sorted(files)


def as_text(path) -> str:
    """A path that HDF5 can store: bytes that are no UTF-8 become \\xe9 and the like."""
    return os.fsencode(path).decode(errors="backslashreplace")


def size_of(video: Path) -> int:
    return video.stat().st_size if video.exists() else 0  # a link to nothing


def decode_videos(root, videos, folder):
    """Yields the name of each video and a file in the folder with its frames, uint8 (T, 64, 64, 3).

    What is there already is not decoded again. Videos that are unreadable or short are left out.
    """
    folder.mkdir(exist_ok=True)
    partial = folder / "partial"
    with Progress(desc="videos", unit="frame") as bar:
        for number, video in enumerate(videos, 1):
            name = as_text(video.relative_to(root))
            bar.set_postfix_str(f"video {number} of {len(videos)}: {name}")
            path = folder / hashlib.sha256(os.fsencode(video) + b"%d" % size_of(video)).hexdigest()
            try:
                if not path.exists():
                    with open(partial, "wb") as file:
                        for frame in read_video(video):
                            file.write(frame)
                            bar.update()
                    sync(partial)
                    partial.rename(path)
                if path.stat().st_size < SHORTEST * IMG_HW * IMG_HW * 3:
                    raise ValueError(f"fewer than {SHORTEST} frames")
                yield name, path
            except ValueError as error:
                bar.write(f"left out: {name}: {error}")


def collect_videos(args: Args):
    """--from-videos: files of action-free trajectories, of obs alone; every tenth video is for evaluation.

    Until both are there, decoded videos lie in <name>__videos.partial/, so that none is decoded twice.
    """
    root = args.from_videos.resolve()
    videos = find_plain_videos(root)
    name = as_text(root.name)
    attributes = {"domain_name": "video", "task_name": name, "difficulty": "vanilla", "dynamic": False}
    attributes |= {"img_hw": IMG_HW, "source": as_text(root), "num_videos": len(videos)}
    attributes["num_bytes"] = sum(map(size_of, videos))  # one may have been replaced
    train = args.output / f"{name}__videos__train.hdf5"
    val = args.output / f"{name}__videos__val.hdf5"
    folder = args.output / f"{name}__videos.partial"
    decoded = []
    if not train.exists() or not val.exists() and len(videos) > 1:
        decoded = list(decode_videos(root, videos, folder))
        attributes["left_out"] = len(videos) - len(decoded)
        print(f"{attributes['left_out']} of {len(videos)} videos left out")
        if not decoded:
            raise SystemExit(f"error: no video of {SHORTEST} frames in {root}")
    eval_videos = decoded[1::10]
    del decoded[1::10]
    write_videos(train, attributes | {"split": "train"}, decoded)
    write_videos(val, attributes | {"split": "val"}, eval_videos)
    shutil.rmtree(folder, ignore_errors=True)


def write_videos(path, attributes, videos):
    """The file of a split, unless it is there: decoded videos, cut into trajectories of 1,000 frames."""
    if path.exists():
        refuse_other_settings(path, attributes)
        print(f"{path} is complete already")
        return
    if not videos:
        print(f"a single video: no {path}")
        return
    partial = Path(f"{path}.partial")
    dropped = 0
    with h5py.File(partial, "w") as data:
        data.attrs.update(attributes)
        for name, file in videos:
            frames = np.memmap(file, np.uint8, "r").reshape(-1, IMG_HW, IMG_HW, 3)
            for start in range(0, len(frames), EPISODE_LENGTH):
                obs = frames[start : start + EPISODE_LENGTH]
                if len(obs) < SHORTEST:
                    dropped += len(obs)
                    continue
                group = data.create_group(str(len(data)))
                group["obs"] = obs
                group.attrs["source"] = name
        content = f"{len(data)} trajectories of {len(videos)} videos"
    sync(partial)
    partial.rename(path)
    print(f"{path}: {content}; dropped {dropped} frames of ends below {SHORTEST}")
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


def draw_dataset(path: Path):
    """Beside a file: a contact sheet (rows: trajectories, columns: time) and a film of the first ones."""
    with h5py.File(path) as file:
        observations = [file[f"{i}/obs"][:] for i in range(min(8, len(file)))]
    length = min(map(len, observations))
    times = np.linspace(0, length - 1, 12).astype(int)
    sheet = np.stack([obs[times] for obs in observations])
    row_labels = [str(i) for i in range(len(observations))]
    draw_grid(path.with_suffix(".png"), sheet, row_labels, [f"t = {t}" for t in times])
    film = np.stack([obs[: min(length, 160) : 2] for obs in observations], axis=1)  # (T / 2, N, 64, 64, 3)
    frames = [tile(pictures, columns=4, padding=0) for pictures in film]
    imageio.imwrite(path.with_suffix(".gif"), np.stack(frames), duration=40, loop=0)
    print(f"pictures: {path.with_suffix('.png')} {path.with_suffix('.gif')}")


def preview_task(task: str, args: Args, backgrounds: Path, expert_file: Path, draws: int) -> np.ndarray:
    """In a worker: 250 steps of --task, or the last of them of another task, and their twins.

    uint8 (1 + draws, 250 or 1, 64, 64, 3): without distractors, then the same physics under draws of them.
    """
    env = make_env(task, "vanilla", backgrounds, "train")
    arrays, _ = play(env, load_expert(expert_file).mean, args.seed, length=250)
    first = 0 if task == args.task else -1
    films = [arrays["obs"][first:]]
    env = make_env(task, args.difficulty, backgrounds, "train")
    env.env = Replay(env.env)
    for draw in range(draws):
        seen = replay(env, args.seed + draw, arrays["physics"][first:], args.seed)
        films.append(seen["obs"])
    return np.stack(films)


def preview(args: Args):
    """--preview: pictures of all tasks, of one trajectory of --task over time, and of its twins."""
    args.action_repeat = 1
    backgrounds = background_folder(args)
    draws = 0 if args.difficulty == "vanilla" else 3
    labels = ["no distractors", *(f"seed {args.seed + draw}" for draw in range(draws))]
    films = {}
    with worker_pool(args.num_workers) as pool:
        jobs = {}
        for task in dict.fromkeys((*TASKS, args.task)):
            expert_file = find_expert(args, task)
            jobs[task] = pool.submit(preview_task, task, args, backgrounds, expert_file, draws)
        for task, job in Progress(jobs.items(), desc="preview", unit="task"):
            films[task] = job.result()

    tasks = np.stack([film[:, -1] for film in films.values()], axis=1)
    draw_grid(args.output / f"preview__{args.difficulty}.png", tasks, labels, list(films))
    film = films[args.task]
    times = [f"t = {t}" for t in range(250)]
    prefix = f"preview__{args.task}__{args.difficulty}"
    row = min(draws, 1)  # with distractors, if there are any
    draw_grid(args.output / f"{prefix}__strip.png", film[None, row, ::25], [labels[row]], times[::25])
    draw_grid(args.output / f"{prefix}__twins.png", film[:, 180::10], labels, times[180::10])


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
    camera = wandering(rng, num_frames)
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


def wandering(rng: np.random.Generator, num_frames: int) -> np.ndarray:
    """Where a camera is that changes direction and pace, (num_frames, 2); its next move is hard to tell."""
    moves = rng.normal(size=(num_frames + 1, 2)) * rng.exponential(0.004, (num_frames + 1, 1))
    return (moves[1:] + 0.3 * moves[:-1]).cumsum(0)


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
    files = [file for file in source.glob("[!.]*") if file.suffix.lower() in suffixes]
    files.sort(key=lambda file: re.sub(r"\d+", lambda digits: digits[0].zfill(20), file.name))  # 2 before 10
    if not files:
        raise SystemExit(f"error: no pictures (jpg, png, bmp, webp) in {source}")
    frames = []
    for file in files:
        try:
            image = Image.open(file)
            if image.mode.startswith("I"):  # 16 bits of grey
                image = image.point(lambda value: value / 256)
            image = image.convert("RGB").resize((SKY_HW, SKY_HW), Image.BILINEAR)  # squeezed, as in the suite
        except OSError as error:
            raise SystemExit(f"error: {file}: {error}: replace this picture")
        frames.append(np.asarray(image))
    return np.stack(frames)


def find_videos(backgrounds: str) -> dict[str, list]:
    """What to make the videos of each split from: seeds for procedural ones, else folders of frames."""
    if backgrounds == "procedural":
        return {"train": list(range(60)), "val": list(range(60, 90))}  # as many as DAVIS 2017 has
    root = Path(backgrounds).resolve()
    if not root.is_dir():
        raise SystemExit(f"error: --backgrounds {backgrounds}: no such folder")
    davis = root if root.parts[-2:] == ("JPEGImages", "480p") else root / "JPEGImages" / "480p"
    if davis.is_dir():
        sources = {split: [davis / name for name in names.split()] for split, names in DAVIS_VIDEOS.items()}
        folders = sources["train"] + sources["val"]
        missing = [folder.name for folder in folders if not folder.is_dir()]
        if missing:
            raise SystemExit(f"error: {root}: {len(missing)} DAVIS videos are missing: {', '.join(missing)}")
        return sources
    folders = sorted(path for path in root.glob("[!.]*") if path.is_dir())
    if len(folders) < 2:
        raise SystemExit(f"error: --backgrounds {backgrounds}: no folders of frames, or only one")
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
    made_from = json.dumps({"world": WORLD} | names, indent=1)
    if folder.is_dir():
        if (folder / "sources.json").read_text() != made_from:
            raise SystemExit(f"error: {folder} was made from other videos or by another version: remove it")
        return folder
    partial = Path(f"{folder}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with worker_pool(num_workers) as pool:
        for split, items in sources.items():
            (partial / split).mkdir(parents=True)
            videos = pool.map(make_video, items)
            bar = Progress(videos, total=len(items), desc=f"background videos, {split}", unit="video")
            for i, video in enumerate(bar):
                if video.max() <= 1:
                    values = f"{video.min()} to {video.max()}"
                    raise SystemExit(f"error: {items[i]}: all values are {values}, of 255")
                file = partial / split / f"{i:03d}.npy"
                np.save(file, video)
                sync(file)
    about = partial / "sources.json"
    about.write_text(made_from)
    sync(about)
    partial.rename(folder)
    return folder


def background_folder(args: Args) -> Path:
    """The folder of the background videos, which are made if there are none yet."""
    if args.difficulty == "vanilla":
        return args.output / "backgrounds"
    with open(args.output / ".lock-backgrounds", "w") as lock:
        with contextlib.suppress(OSError):  # of a disk without locks
            fcntl.flock(lock, fcntl.LOCK_EX)  # shards wait here for the one that makes the videos
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
        raise SystemExit(f"error: no expert {path}; experts/sac.py trains one, --expert takes one")
    except Exception as error:  # of numpy, zip or JSON
        raise SystemExit(f"error: {path} is not an expert file: {error}")


# ---- Environment: Distracting Control Suite (Stone et al., 2021; Section 3) --------------------------------

WORLD = 2  # version of what is seen here; files of another one are refused
EPISODE_LENGTH = 1000  # steps of the simulation, dm_control's for all four tasks
DIFFICULTIES = {  # name: (scale of camera and colour, number of training videos; None means all)
    "vanilla": (0.0, 0),
    "released_vanilla": (0.0, 0),  # as the paper's files were rendered
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
        velocity = velocity + rng.normal(0, 0.1 * unit, 3)
        velocity = velocity * min(1, 0.4 * unit / hypot(*velocity))
        new_position = to_cartesian(np.clip(to_spherical(position + velocity), low, high))
        velocity = new_position - position  # the move that was made: the limits stop the camera
        position = new_position
        roll_velocity = roll_velocity + rng.normal(0, pi / 300 * s)
        roll_velocity = np.clip(roll_velocity, -max_roll_velocity, max_roll_velocity)
        new_roll = np.clip(roll + roll_velocity, -angle, angle)
        roll_velocity = new_roll - roll
        roll = new_roll
        yield position, roll


def play_to_and_fro(rng, videos):
    """Yields the frames of a random video, from a random one on, in a random direction."""
    video = videos[rng.integers(len(videos))]
    frames = [*video, *video[::-1]]  # the frame at a turn is shown twice
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


class RepeatAction(gym.Wrapper):
    """Each action acts for several steps, whose rewards are summed, or until the episode ends."""

    def __init__(self, env, action_repeat):
        super().__init__(env)
        self.action_repeat = action_repeat

    def step(self, action):
        total = 0.0
        for _ in range(self.action_repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += reward
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


def make_env(task, difficulty, backgrounds, split, action_repeat=1):
    """A dm_control task under a difficulty's distractors, with the videos in backgrounds/<split>/*.npy."""
    scale, _ = DIFFICULTIES[difficulty]
    env = RepeatAction(load_task(task), action_repeat)
    env = DistractingControl(env, scale, scale, load_videos(backgrounds, split, difficulty))
    model = env.physics.model
    if difficulty == "released_vanilla":  # the first face of its sky on all sides
        start = model.tex_adr[model.name2id("skybox", "texture")]
        face = model.tex_data[start : start + 3 * 800 * 800]
        show_in_sky(env.physics, face.reshape(800, 800, 3))
    if difficulty != "vanilla" and model.name == "humanoid":  # its ground would hide most of the sky
        env.physics.named.model.mat_rgba["grid", "a"] = 0.3
    return env


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
    about = Path(backgrounds, "sources.json")
    if about.exists() and f'"world": {WORLD}' not in about.read_text():
        raise SystemExit(f"error: {backgrounds}: an earlier version's videos; collect_data.py makes new ones")
    folder = Path(backgrounds, split)
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise SystemExit(f"error: no videos (*.npy) in {folder}: run collect_data.py (--eval.backgrounds)")
    if split == "train":
        files = files[:number]
    return [np.load(file, mmap_mode="r") for file in files]


def pick_rendering_backend():
    """Sets MUJOCO_GL for the worker processes: EGL on a GPU or Mesa, else OSMesa; tries a user's choice."""
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa draws in the worker: its threads only cost at 64×64
    choices = [{"MUJOCO_GL": "egl"}, {"MUJOCO_GL": "osmesa"}]
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    if gpu.isdecimal():  # EGL would count from the machine's first GPU
        choices.insert(0, {"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": gpu})
    probe = "from dm_control import mujoco; mujoco.Physics.from_xml_string('<mujoco/>').render(64, 64)"
    reasons = {}
    for choice in choices:
        variables = choice | os.environ
        result = subprocess.run([sys.executable, "-c", probe], env=variables, capture_output=True, text=True)
        if result.returncode == 0:
            os.environ.update(variables)
            return
        reasons[f"MUJOCO_GL={variables['MUJOCO_GL']}"] = result.stderr.strip().rpartition("\n")[2]
    raise SystemExit(
        f"error: no OpenGL to render with: {'; '.join(map(': '.join, reasons.items()))}; apt-get install "
        "libegl1 libopengl0, or libosmesa6, and leave MUJOCO_GL and PYOPENGL_PLATFORM unset"
    )


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


def refuse_bad_input(args: Args):
    """Ends with one line before anything is made."""
    limits = {"num_trajectories": 0, "num_eval_trajectories": 0, "num_workers": 1, "seed": 0}
    limits |= {"action_repeat": 1, "action_noise": 0}
    for name, lowest in limits.items():
        value = getattr(args, name)
        if not lowest <= value < 2**31:
            raise SystemExit(f"error: --{name.replace('_', '-')} {value}: from {lowest} to {2**31 - 1}")
    if EPISODE_LENGTH % args.action_repeat:
        raise SystemExit(f"error: --action-repeat {args.action_repeat}: must divide {EPISODE_LENGTH}")
    if args.store_means and args.action_noise > 0:
        raise SystemExit("error: --store-means with --action-noise: actions would not say what acted")
    parse_shard(args.shard)
    modes = [args.from_videos, args.preview, args.rerender]
    if sum(map(bool, modes)) > 1:
        raise SystemExit("error: --from-videos, --preview and --rerender: give one of them")
    if args.shard != "1/1" and any(modes):
        raise SystemExit("error: --shard is for collecting; a file that is rendered again keeps its own")
    if args.from_videos:
        find_plain_videos(args.from_videos)
        return
    pick_rendering_backend()
    if args.difficulty != "vanilla":
        find_videos(args.backgrounds)
    if args.rerender:
        read_source(args.rerender)
        return
    from dm_control import suite  # not above: it binds to OpenGL when it is first imported

    # lqr has no episodes of 1,000 steps
    tasks = ["-".join(names) for names in suite.ALL_TASKS if names[0] != "lqr"]
    if args.task not in tasks:
        raise SystemExit(f"error: --task {args.task}: dm_control has {', '.join(tasks)}")
    path = find_expert(args, args.task)
    expert = load_expert(path)
    env = load_task(args.task)
    sizes = (gym.spaces.flatdim(env.observation_space), *env.action_space.shape)
    if (len(expert.state_mean), len(expert.layers[-1][1])) != sizes:
        raise SystemExit(f"error: {path} plays another task than {args.task}")


def main(args: Args):
    refuse_bad_input(args)
    args.output.mkdir(parents=True, exist_ok=True)
    number, count = parse_shard(args.shard)
    lock_name = ".lock" if count == 1 else f".lock-{number}-of-{count}"
    with open(args.output / lock_name, "w") as lock:
        try:
            lock_file(lock)
        except BlockingIOError:
            print(f"waiting for another process that collects in {args.output}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if args.from_videos:
            collect_videos(args)
        elif args.preview:
            preview(args)
        elif args.rerender:
            rerender(args)
        else:
            collect(args)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # for paths that it cannot encode
    try:
        main(parse_args(sys.argv[1:]))
    except concurrent.futures.BrokenExecutor:
        words = "error: a worker died, perhaps for lack of memory: give fewer --num-workers"
        raise SystemExit(f"{words}; the same command goes on")
    except (KeyboardInterrupt, OSError) as error:  # a full disk, a folder without permission
        raise SystemExit(f"error: {str(error) or 'interrupted'}")

# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch==2.15.0",
#     "torchvision==0.29.2",
#     "numpy==2.4.6",
#     "tyro==1.0.17",
#     "h5py==3.16.0",
#     "dm_control==1.0.50",
#     "mujoco==3.17.0",
#     "shimmy==2.0.1",
#     "gymnasium==1.4.0",
#     "imageio==2.38.1",
#     "tqdm==4.70.1",
#     "matplotlib==3.11.2",
#     "scipy==1.17.1",
#     "av==18.1.0",
# ]
# ///

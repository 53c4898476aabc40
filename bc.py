"""BC: behaviour cloning of the true actions, the baseline that every other method is measured by.

"Latent Action Learning Requires Supervision in the Presence of Distractors", Nikulin et al., 2025; Section 3.

The actor of the other methods, trained from scratch on true actions: on the few labelled trajectories that
the others get to decode their latent actions (Table 9), and on the whole file (Table 10), whose return is
what a normalised score of 1 means (Table 3).

    BC                       labels           →  actor_<n>.pt     for n labelled trajectories, or for all
    evaluation               environment      →  results.json     episodes on seen and on unseen videos

    python bc.py demo                                   # a laptop, minutes; collect_data.py demo first
    python bc.py --num-labeled-trajectories all         # the return that normalises the others
    python bc.py --num-labeled-trajectories 2 8 32 128  # from scratch on each budget (Figure 8)
    python bc.py --resume runs/<run>                    # continues a killed run
    torchrun --nproc-per-node 8 bc.py                   # 8 GPUs, each has its rows of every batch

Everything goes to runs/<task>__bc__<seed>__<time>/: args.json, this script as it ran, metrics.jsonl (a step
is one update), results.json, weights, checkpoint.pt, films. Where we deviate from the paper: README.md.
"""

import contextlib
import ctypes
import datetime
import fcntl
import glob
import itertools
import json
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import lru_cache, partial
from math import atan2, cos, hypot, isfinite, nan, pi, sin
from pathlib import Path
from typing import Literal
from uuid import uuid4

import gymnasium as gym
import h5py
import imageio.v3 as imageio
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
import tyro
import wandb
from PIL import Image
from torch import nn
from tqdm import tqdm

SCRIPT = Path(__file__)
RANK = int(os.environ.get("RANK", 0))  # which of the processes that torchrun has started
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", 1))
IMG_HW = 64  # height and width of an observation, pixels
NUM_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
HAS_GPU = torch.cuda.is_available()
CPU = torch.cpu.get_capabilities()  # without instructions for bfloat16 it takes three times as long
HAS_BFLOAT16 = HAS_GPU or CPU.get("avx512_bf16") or CPU.get("bf16")  # the last on ARM


# ---- Arguments: the defaults are the paper's (Appendix F, Tables 9 and 10) ---------------------------------


@dataclass
class BCArgs:
    """Behaviour cloning of the true actions."""

    num_epochs: int = 10  # passes over all transitions, for the budget `all` (Table 10)
    num_updates: int = 10_000  # updates for the other budgets (Table 9); the paper's total_updates
    batch_size: int = 512  # transitions per update
    learning_rate: float = 1e-4  # Adam's, after the warm-up
    warmup_epochs: float = 0  # epochs in which the learning rate rises linearly from zero
    encoder_scale: int = 32  # the encoder's three blocks have (16, 32, 32) times as many channels
    encoder_num_res_blocks: int = 2  # residual blocks per encoder block


@dataclass
class EvalArgs:
    """Evaluation in the environment."""

    num_episodes: int = 25  # episodes per setting (seen videos, unseen videos)
    num_workers: int = NUM_CORES  # processes that simulate and render
    env_id: str | None = None  # play in this Gymnasium environment; else in the data's task of dm_control
    backgrounds: str | None = None  # background videos, train/*.npy and val/*.npy; else the data's own
    reference_return: float | None = None  # counts as score 1; else Table 3's, BC on all labels


@dataclass
class Args:
    data: tuple[str, ...] = ("data/cheetah-run__scale_easy_video_hard__train.hdf5",)
    """training trajectories: files of collect_data.py or of the paper's release, or quoted globs"""
    trajectories_per_file: int | None = None  # take so many from each file of the data (Figure 10: 1666)
    labeled_data: tuple[str, ...] = ()  # files with labels, else the data; perhaps of another task
    eval_data: tuple[str, ...] = ()  # files with unseen videos; else those named val beside the labelled
    raw_actions: bool = False  # keep the labels of a released file as they are, unclipped means
    num_labeled_trajectories: tuple[int | Literal["all"], ...] = ("all", 2, 4, 8, 16, 32, 64, 128)
    """label budgets: the first n of one fixed shuffle, or `all` of the data"""
    seed: int = 0  # of weights and batches
    frame_stack: int = 3  # frames per observation, oldest first
    lr_schedule: Literal["cosine", "linear"] = "cosine"  # of the learning rate (released code: linear)
    runs: str = "runs"  # folder of all runs
    resume: str | None = None  # folder of a run to continue, with the arguments in its args.json
    accept_edited_script: bool = False  # resume a run that began with another version of this script
    checkpoint_minutes: float = 10  # minutes between checkpoints inside a stage
    device: str = "cuda" if HAS_GPU else "cpu"  # where the networks live
    data_device: Literal["auto", "gpu", "disk"] = "auto"
    """where frames live: on the GPU, or mapped from disk; auto is gpu if half of its room is enough"""
    precision: Literal["bf16", "fp32"] = "bf16" if HAS_BFLOAT16 else "fp32"  # bfloat16 autocast, or float32
    compile: bool = HAS_GPU  # torch.compile of the networks; on CPUs it was slower
    log_interval: int = 50  # updates between two lines of metrics.jsonl; only then the loop waits for the GPU
    track: bool = False  # also log to Weights & Biases
    bc: BCArgs = field(default_factory=BCArgs)
    eval: EvalArgs = field(default_factory=EvalArgs)

    @property
    def dtype(self):  # of the networks' inputs
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def autocast(self):
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, self.precision == "bf16")


SMALL = {"batch_size": 64, "warmup_epochs": 0.5, "encoder_num_res_blocks": 1}
DEMO = Args(
    data=("data/cheetah-run__scale_easy_video_hard__repeat4__noise0.8__train.hdf5",),
    num_labeled_trajectories=("all", 2, 8),
    bc=BCArgs(**SMALL, num_epochs=6, num_updates=1000, learning_rate=2e-3, encoder_scale=2),
)
PRESETS = {
    "paper": (f"Appendix F to the letter (default; the other preset is demo)\n\n{__doc__}", Args()),
    "demo": (f"every budget on a laptop without a GPU, minutes\n\n{__doc__}", DEMO),
}


# ---- Networks (Appendix D, Figure 4) -----------------------------------------------------------------------


class ResidualBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):  # (B, C, H, W) → the same
        return x + self.conv2(F.relu6(self.conv1(F.relu6(x))))


class Encoder(nn.Sequential):
    """Three blocks of a convolution of stride 2 and residual blocks: (B, C, 64, 64) → (B, 32 scale, 8, 8)."""

    def __init__(self, args, channels_in):
        layers = []
        for factor in (16, 32, 32):
            channels = factor * args.encoder_scale
            layers.append(nn.Conv2d(channels_in, channels, 3, stride=2, padding=1))
            layers += [ResidualBlock(channels) for _ in range(args.encoder_num_res_blocks)]
            channels_in = channels
        super().__init__(*layers)
        self.channels_out = channels
        self.flat_dim = channels * (IMG_HW // 8) ** 2


def init_weights(module):
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.orthogonal_(module.weight)
        nn.init.zeros_(module.bias)


class Actor(nn.Module):
    """Policy: obs (B, 9, 64, 64) → latent or true action (B, output_dim)."""

    def __init__(self, args, frame_stack, output_dim):
        super().__init__()
        self.encoder = Encoder(args, 3 * frame_stack)
        self.output = nn.Linear(self.encoder.channels_out, output_dim)
        self.apply(init_weights)

    def forward(self, obs):
        return self.output(F.relu6(self.encoder(obs).mean((2, 3))))


# ---- Behaviour cloning -------------------------------------------------------------------------------------


def train_actor(args, data, index, num_updates, stage, run):
    """Clones the true actions of the transitions (data at index)."""
    cfg = args.bc
    torch.manual_seed(args.seed)
    actor = Actor(cfg, args.frame_stack, data.actions.shape[1])
    actor.to(args.device, memory_format=torch.channels_last)
    optim = torch.optim.Adam(actor.parameters(), fused=True)
    if args.compile:
        actor.compile(dynamic=False)

    total = num_updates
    warmup = cfg.warmup_epochs * (len(index) // cfg.batch_size)
    for step in run.steps(stage, total, cfg.batch_size, actor=actor, optim=optim):
        optim.param_groups[0]["lr"] = learning_rate(cfg.learning_rate, step, warmup, total, args.lr_schedule)

        batch = index[batch_rows(len(index), cfg.batch_size, args.seed, step)]
        obs = data.observe(batch)
        actions = to_device(data.actions[batch], args.device)

        with args.autocast():
            loss = F.mse_loss(actor(obs).float(), actions)

        optim.zero_grad()
        loss.backward()
        average_gradients(optim)
        optim.step()

        if run.log_due(step):
            run.log(step, optim, loss=loss)
    warn_if_dead(args, actor, data, index, data.actions[index].var(0).mean(), stage)
    return actor


# ---- Held-out error ----------------------------------------------------------------------------------------


def action_error(args, policy, data):
    """MSE of a policy's actions on unseen videos, and over Var(a): 1 is what the mean action reaches."""
    prediction, actions, _ = infer_some(args, lambda obs, _: policy(obs), data, data.shuffle)
    if not actions.isfinite().all():  # plain videos have none
        return {}
    mse = F.mse_loss(prediction, actions).item()
    variance = actions.var(0, unbiased=False).mean().item()
    return {"action_mse": mse, "action_mse_over_var": mse / variance}


def warn_if_dead(args, actor, data, index, variance, stage):
    """Says so if an actor's answers hardly vary, beside the variance of what it was to learn."""
    answers = infer_all(args, lambda obs, _: actor(obs), data, index[:: len(index) // 512 + 1])
    if answers.var(0).mean() < 0.03 * variance and RANK == 0:
        print(f"warning: {stage}: the actor answers all observations alike; lower --bc.learning-rate")


def infer_some(args, network, data, trajectories):
    """z, actions and expert_actions of at most 50,000 transitions, in the files' order, the same of twins."""
    index = data.transitions(trajectories)
    index = index[permutation(len(index), 0, 0)[:50_000].sort()[0]]
    z = infer_all(args, network, data, index)
    return z, data.actions[index].to(args.device), data.expert_actions[index].to(args.device)


@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # to compile for each shape takes longer than it saves
def infer_all(args, network, data, index):
    """What the network answers to (obs, next_obs) at every index: float32 (len(index), …)."""
    outputs = []
    for chunk in tqdm(index.split(512), "inference", delay=10, disable=RANK > 0, mininterval=BAR_SECONDS):
        obs, next_obs = data.observe_pair(chunk)
        with args.autocast():
            outputs.append(network(obs, next_obs).float())
    return torch.cat(outputs)


# ---- Schedule and batches ----------------------------------------------------------------------------------


def learning_rate(peak, step, warmup, total, schedule):
    """Linear from zero over the warm-up, then cosine or linear to zero at the end (Appendix D)."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / (total - warmup)
    decay = 0.5 * (1 + cos(pi * progress)) if schedule == "cosine" else 1 - progress
    return peak * decay


def batch_rows(number, batch_size, seed, step):
    """A rank's rows of a batch: each epoch passes over a new permutation and drops what fills no batch."""
    epoch, position = divmod(step, number // batch_size)
    order = permutation(number, seed, epoch)
    rows = order[position * batch_size : (position + 1) * batch_size]
    return rows.chunk(WORLD_SIZE)[RANK]


@lru_cache(1)
def permutation(number, seed, epoch):
    return torch.randperm(number, generator=random_generator("permutation", seed, epoch))


def random_generator(purpose, seed, step, rank=0):
    """What is random in a step depends on these alone, so that a checkpoint needs no random state."""
    sequence = np.random.SeedSequence([seed, step, rank], spawn_key=tuple(purpose.encode()))
    return torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


def average_gradients(optim):
    """Averages the gradients of what is trained over all ranks, in one flat buffer."""
    if WORLD_SIZE > 1:
        gradients = [parameter.grad for group in optim.param_groups for parameter in group["params"]]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= WORLD_SIZE
        for gradient in gradients:
            gradient.copy_(flat[: gradient.numel()].view_as(gradient))
            flat = flat[gradient.numel() :]


# ---- Data: HDF5 files of trajectories (docs/data.md) -------------------------------------------------------

FRAME_BYTES = IMG_HW * IMG_HW * 3


class Dataset:
    """The trajectories of one or more HDF5 files. Frames stay in the files, mapped, or are copied to the GPU.

    An index counts the frames of all trajectories, N of them. Arrays are those of one task, the first file's
    or the given one; NaN in rows of other tasks and of plain videos:

    states: float32 (N, S)
    actions: float32 (N, A), of the paper's tasks clipped to [-1, 1] (its files hold unclipped means), or not
        (--raw-actions)
    expert_actions: float32 (N, A), without the noise of collect_data.py --action-noise
    first, last, trajectory: int64 (N,), ends and number of each frame's trajectory
    shuffle: a fixed order of the trajectories, whose beginnings are the label budgets

    A file that is no dataset ends the script with one line.
    """

    def __init__(self, patterns, args, task=None, trajectories_per_file=None, data_device="disk"):
        self.args = args
        self.task = task
        self.attributes = None  # of the first file
        self.paths = []
        trajectories = []
        for pattern in patterns:  # a path that exists is one, even if it has brackets
            self.paths += [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern)) or [pattern]
        if len({*map(os.path.realpath, self.paths)}) < len(self.paths):
            twice = "--data, --labeled-data or --eval-data (or beside them) has one file twice"
            raise SystemExit(f"error: {twice}: {', '.join(self.paths)}")
        if {*self.paths} != {*patterns} and RANK == 0:
            print(f"{', '.join(patterns)}: {', '.join(self.paths)}")
        try:
            for number, path in enumerate(self.paths):
                with h5py.File(path) as file:
                    trajectories += self.read(file, number, trajectories_per_file)
            files, first_bytes, lengths, self.returns, *arrays = zip(*trajectories)
            self.states, self.actions, self.expert_actions = map(join, arrays)
        except (OSError, KeyError, ValueError) as error:  # not there, truncated, something is missing
            raise SystemExit(f"error: {path} is no dataset as docs/data.md describes them: {error}")

        self.shuffle = np.random.default_rng(42).permutation(len(trajectories))
        if self.task in BC_RETURNS and not args.raw_actions:
            outside = (self.actions.abs() > 1).sum()
            if outside and RANK == 0:
                print(f"{path}: {outside} of {self.actions.numel()} action values clipped to [-1, 1]")
            self.actions.clamp_(-1, 1)
        self.has_actions = self.actions.isfinite().any()
        lengths = torch.tensor(lengths)
        ends = lengths.cumsum(0)
        self.trajectory = torch.repeat_interleave(lengths)
        self.first = (ends - lengths)[self.trajectory]
        self.last = ends[self.trajectory] - 1
        self.file = torch.tensor(files)[self.trajectory]
        time = torch.arange(len(self.first)) - self.first
        self.byte_offset = torch.tensor(first_bytes)[self.trajectory] + time * FRAME_BYTES

        free_memory = torch.cuda.mem_get_info()[0] if HAS_GPU else 0
        fits = sum(map(os.path.getsize, self.paths)) < free_memory / 2
        on_gpu = data_device == "gpu" or data_device == "auto" and fits
        self.device = args.device if on_gpu else "cpu"
        self.maps = [map_frames(path, self.device) for path in self.paths]

    def read(self, file, number, limit):
        """Yields file, first byte and number of frames, return, and the arrays of each trajectory."""
        task = f"{file.attrs['domain_name']}-{file.attrs['task_name']}"
        world = file.attrs.get("world", WORLD)  # the paper's files and own ones name none
        if world != WORLD:
            raise ValueError(f"it shows world {world}, not {WORLD}; collect_data.py collects it again")
        self.task = self.task or task
        self.attributes = self.attributes or dict(file.attrs)
        self.difficulty = self.attributes.get("difficulty", "vanilla")
        self.action_repeat = int(self.attributes.get("action_repeat", 1))
        if file.attrs.get("action_repeat", 1) != self.action_repeat:
            raise ValueError(f"its action_repeat is not that of {self.paths[0]}")
        names = sorted(filter(str.isdigit, file), key=int)[:limit]
        if not names:
            raise ValueError('no trajectories: groups "0", "1", …')
        for name in names:
            group = file[name]
            obs = group["obs"]
            first_byte = find_first_byte(obs, file)
            if obs.shape[1:] != (IMG_HW, IMG_HW, 3) or obs.dtype != np.uint8 or first_byte is None:
                raise ValueError(
                    f"obs of trajectory {name} are {obs.dtype} {obs.shape}, maybe compressed, chunked or of "
                    "another file, not uint8 (T, 64, 64, 3) and contiguous: h5repack -l CONTI IN OUT"
                )
            arrays = []
            for kind in ("states", "actions", "expert_actions"):
                array = torch.full((len(obs), 1), nan)
                if task == self.task and kind in group:
                    array = torch.from_numpy(group[kind][:]).float()
                    if array.ndim != 2 or len(array) != len(obs) or not array.isfinite().all():
                        raise ValueError(f"{kind} of trajectory {name}: not ({len(obs)}, D) finite numbers")
                arrays.append(array)
            yield number, first_byte, len(obs), group.attrs.get("traj_return", nan), *arrays

    def transitions(self, trajectories):
        """Indices of the given trajectories' frames that have a successor: int64, in the files' order."""
        chosen = torch.isin(self.trajectory, torch.as_tensor(trajectories))
        chosen[self.last] = False
        return chosen.nonzero()[:, 0]

    def future(self, index, max_offset, generator):
        """index + k with k uniform in 1..max_offset, or in what the trajectory has left of it: int64 (B,)."""
        reach = (self.last[index] - index).clamp(max=max_offset)
        k = 1 + (torch.rand(len(index), generator=generator) * reach).long()
        return index + torch.minimum(k, reach)

    def observe(self, index, extra=0):
        """Frames up to each index, oldest first, extra later ones: (B, 3 (T + extra), 64, 64) in [-1, 1)."""
        rows = index[:, None] + torch.arange(1 - self.args.frame_stack, 1 + extra)
        rows = torch.maximum(rows, self.first[index, None])  # before a trajectory's start its first frame
        frames = self.gather(rows.flatten()).view(*rows.shape, IMG_HW, IMG_HW, 3)
        return to_input(frames, self.args)

    def observe_pair(self, index):
        """obs and next_obs, from one gather."""
        stack = self.observe(index, extra=1)
        return stack[:, :-3], stack[:, 3:]

    def gather(self, rows):
        """The frames of an index (n,), from whatever file: uint8 (n, FRAME_BYTES)."""
        offsets = to_device(self.byte_offset[rows], self.device)
        if len(self.maps) == 1:
            return self.maps[0].index_select(0, offsets)
        frames = self.maps[0].new_empty(len(rows), FRAME_BYTES)
        for number, mapped in enumerate(self.maps):
            here = to_device((self.file[rows] == number).nonzero()[:, 0], self.device)
            frames[here] = mapped.index_select(0, offsets[here])
        return frames


def find_first_byte(array, file):
    """Where a contiguous array begins in the file; None if it is chunked, virtual, or in another file."""
    if array.is_virtual or array.external or array.file.filename != file.filename:
        return None
    return array.id.get_offset()


def map_frames(path, device):
    """A file as a row for every byte at which a frame could begin: uint8 (positions, FRAME_BYTES), no copy.

    The rows overlap; one index_select by byte offset gathers frames from anywhere in a file of any size. A
    second array per frame (a mask) is another such view, with its own length of rows and its own byte
    offsets. On a GPU lies a copy of the file.
    """
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing writes to it
    mapped = np.memmap(path, mode="r")  # bytes
    if device == "cpu":
        mapped.base.madvise(mmap.MADV_RANDOM)  # read no more than a batch asks for
    return torch.from_numpy(mapped).to(device).unfold(0, FRAME_BYTES, 1)


def join(arrays):
    """Arrays (T, D) of all trajectories, one after the other; where there is none, NaN."""
    dims = {array.shape[1] for array in arrays if not array.isnan().all()}
    if len(dims) > 1:
        raise ValueError(f"states or actions of {sorted(dims)} numbers in one task")
    dim = max(dims, default=1)
    return torch.cat([array if array.shape[1] == dim else array.expand(-1, dim) for array in arrays])


def to_device(x, device):
    """To the GPU without waiting for it, through pinned memory; x itself if there is none."""
    if HAS_GPU and not x.is_cuda:
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def to_input(frames, args):
    """uint8 (B, T, 64, 64, 3) → (B, 3 T, 64, 64) in [-1, 0.992], on the device, stored channels-last."""
    frames = to_device(frames, args.device)
    stacked = torch.cat(frames.unbind(1), -1).permute(0, 3, 1, 2)
    minus_one = torch.full((), -1, dtype=args.dtype, device=args.device)
    return torch.add(minus_one, stacked, alpha=1 / 128)  # one pass; exact for all 256 levels in bfloat16


# ---- Run keeping: records, checkpoints, results ------------------------------------------------------------

BAR_SECONDS = 0.1 if sys.stderr.isatty() else 10  # between two updates of a progress bar


class Run:
    """The run's folder: arguments, script, metrics.jsonl, weights, results. Of several ranks one writes.

    checkpoint.pt holds what --resume needs: the stage and its step, the state of all that is trained, the
    results so far, and the size of metrics.jsonl. Ctrl-C and SIGTERM end a stage with a checkpoint.
    """

    def __init__(self, args, data):
        name = f"{data.task}__{SCRIPT.stem}__{args.seed}__{time.strftime('%Y%m%d-%H%M%S')}-{uuid4().hex[:8]}"
        self.args = args
        self.folder = args.resume or f"{args.runs}/{name}"
        self.checkpoint = {"stage": None, "results": {"budgets": {}}, "metrics_size": 0}
        if os.path.exists(f"{self.folder}/checkpoint.pt"):
            self.checkpoint = load(f"{self.folder}/checkpoint.pt")
        table_3 = BC_RETURNS.get(data.task, (None, None))
        self.results = self.checkpoint["results"] | {
            "script": SCRIPT.name,
            "task": data.task,
            "difficulty": data.difficulty,
            "seed": args.seed,
            "world": WORLD,
            "dataset_return": round(float(np.mean(data.returns)), 2),
            "random_return": round(float(data.attributes.get("random_return", nan)), 2),
            "reference_return": args.eval.reference_return or table_3[data.difficulty == "vanilla"],
        }
        self.stage = None
        self.stop_asked = False
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)
        if WORLD_SIZE > 1:
            dist.barrier()  # all have read the checkpoint before the first rank writes another
        if RANK > 0:
            return
        self.start_tracking(data)
        os.makedirs(self.folder, exist_ok=True)
        self.metrics = open(f"{self.folder}/metrics.jsonl", "a")  # noqa: SIM115 open as long as the process
        try:
            fcntl.flock(self.metrics, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"error: another process works in {self.folder}")
        except OSError as error:  # network disks may know no locks
            print(f"warning: {self.metrics.name}: {error.strerror}: start no second process", file=sys.stderr)
        self.metrics.seek(self.checkpoint["metrics_size"])
        self.metrics.truncate()  # what was logged after the checkpoint comes again
        self.save("args.json", json.dumps(asdict(args), indent=2))
        self.save(SCRIPT.name, SCRIPT.read_text())
        wandb.save(f"{self.folder}/{SCRIPT.name}", self.folder)
        print(f"run folder: {self.folder}")

    def start_tracking(self, data):
        """Weights & Biases, if wanted: the folder's name is the run's, updates of a stage are its steps."""
        name = Path(self.folder).name
        wandb.init(
            project="latent-actions",
            id=name,
            name=name,
            group=f"{SCRIPT.stem} {data.task}",
            tags=[SCRIPT.stem, data.task, data.difficulty],
            resume="allow",
            mode=None if self.args.track else "disabled",
            config=asdict(self.args),
        )
        wandb.define_metric("*", step_metric="step")

    def steps(self, stage, total, batch_size, **parts):
        """Yields the steps of a stage, from its checkpoint on; saves its parts when due or stopped.

        The first part is what the stage makes: at the end its weights go to <name>.pt, or <name>_<budget>.pt.
        Where this file is there already, it is loaded and no step is left.
        """
        self.kind = stage.split("_")[0]
        name, *_ = parts
        product = parts[name]
        file_name = f"{stage.replace(self.kind, name)}.pt"
        first = 0
        if os.path.exists(f"{self.folder}/{file_name}"):
            product.load_state_dict(load(f"{self.folder}/{file_name}"))
            first = total
        elif self.checkpoint["stage"] == stage:
            first = self.checkpoint["step"]
            for name, part in parts.items():
                part.load_state_dict(self.checkpoint["parts"][name])
        if self.checkpoint["stage"] == stage:
            self.checkpoint = {"stage": None}  # its memory is free
        saved_at = self.logged_at = time.time()
        self.logged_step = first
        self.stage = stage
        self.batch_size = batch_size
        self.bar = tqdm(
            range(first, total),
            stage,
            total,
            initial=first,
            unit="update",
            disable=RANK > 0,
            mininterval=BAR_SECONDS,
        )
        for step in self.bar:
            yield step

            stop = torch.tensor(float(self.stop_asked))
            if WORLD_SIZE > 1:
                dist.all_reduce(stop)  # between the CPUs: no GPU is waited for
            late = time.time() - saved_at > 60 * self.args.checkpoint_minutes
            if late or stop or step + 1 == total:
                if not all(weight.isfinite().all() for weight in product.parameters()):
                    raise SystemExit(f"error: {stage}: weights not finite at step {step + 1}")
                self.save_checkpoint(stage, step + 1, parts)
                saved_at = time.time()
            if stop:
                self.stage = None
                self.stop()
        self.stage = None
        self.save(file_name, product.state_dict())

    def log_due(self, step):
        return RANK == 0 and ((step + 1) % self.args.log_interval == 0 or step + 1 == self.bar.total)

    def log(self, step, optim, **values):
        """Records numbers, or tensors of one number, of the first rank. Reading them waits for the GPU."""
        values["learning_rate"] = optim.param_groups[0]["lr"]
        num_updates = step + 1 - self.logged_step
        speed = self.batch_size * num_updates / (time.time() - self.logged_at)
        self.logged_step = step + 1
        self.logged_at = time.time()
        values["transitions_per_second"] = speed
        record = {
            f"{self.kind}/{name}": value.item() if torch.is_tensor(value) else value
            for name, value in values.items()
        }
        self.bar.set_postfix_str(f"loss {values['loss']:.4f}, {speed:.0f} transitions/s")
        self.write_record({"stage": self.stage, "step": step + 1, **record})

    def write_record(self, record):
        print(json.dumps(record), file=self.metrics, flush=True)
        wandb.log(record)

    def stop(self, *_):
        """Answers a signal: between stages at once, inside one after the step, when all ranks know of it."""
        self.stop_asked = True
        if self.stage is None:
            raise SystemExit(f"stopped; continue with: python {sys.argv[0]} --resume {self.folder}")

    def save_checkpoint(self, stage, step, parts):
        if RANK == 0:
            os.fsync(self.metrics.fileno())
            checkpoint = {
                "stage": stage,
                "step": step,
                "parts": {name: part.state_dict() for name, part in parts.items()},
                "results": self.results,
                "metrics_size": self.metrics.tell(),
            }
            self.save("checkpoint.pt", checkpoint)

    def save(self, file_name, content):
        """Writes text, or what torch.save takes, whole or not at all."""
        if RANK > 0:
            return
        path = f"{self.folder}/{file_name}"
        try:
            with open(f"{path}.partial", "wb") as file:
                if isinstance(content, str):
                    file.write(content.encode())
                else:
                    torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())  # on the disk before it gets its name
        except (OSError, RuntimeError) as error:  # a full disk; torch.save hides the first in the second
            Path(f"{path}.partial").unlink(missing_ok=True)
            raise SystemExit(f"error: {path}: {error.__context__ or error}; what was saved before stands")
        os.replace(f"{path}.partial", path)

    def finish_budget(self, number, measures, returns):
        """Keeps what a label budget has reached: measures, and returns (episodes,) by environment."""
        for environment, played in returns.items():
            mean = played.mean().item()
            measures[environment] = {
                "return_mean": mean,
                "return_std": played.std().item(),
                "returns": played.tolist(),
            }
            if self.results["reference_return"]:
                measures[environment]["normalized_score"] = mean / self.results["reference_return"]
            self.write_record({"stage": f"eval_{number}", f"eval/return_mean/{environment}": mean})
        self.results["budgets"][str(number)] = measures
        self.save("results.json", json.dumps(self.results, indent=2))
        self.save_checkpoint(None, 0, {})
        wandb.run.summary.update(self.results)
        for film in glob.glob(f"{self.folder}/rollout_{number}.gif"):
            wandb.log({f"rollout_{number}": wandb.Video(film)})


def load(path):
    """What torch.save has written, in the CPU's memory."""
    try:
        return torch.load(path, "cpu")
    except Exception as error:  # torch, zip and pickle have many
        raise SystemExit(f"error: {path} is not whole: {error}; without it, its stage begins anew")


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
    """Each action acts for several simulation steps, whose rewards are summed."""

    def __init__(self, env, action_repeat):
        super().__init__(env)
        self.action_repeat = action_repeat

    def step(self, action):
        total = 0.0
        for _ in range(self.action_repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += reward
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


# ---- Evaluation --------------------------------------------------------------------------------------------

BC_RETURNS = {  # of the paper's BC on all labels, with and without distractors (Table 3)
    "cheetah-run": (823, 840),
    "walker-run": (749, 735),
    "hopper-hop": (253, 300),
    "humanoid-walk": (428, 601),
}


def find_environments(args, data):
    """What policies will play in: functions that make it, by name. Refuses what would fail after hours.

    Tasks of dm_control's suite with seen and with unseen videos, or --eval.env-id; empty if there is neither.
    """
    environments = {}
    if args.eval.env_id:
        pick_rendering_backend()
        environments["environment"] = partial(make_gym_env, args.eval.env_id)
        make = "import gymnasium; env = gymnasium.make(word, render_mode='rgb_array')"
        fits = f"env.action_space.shape == {tuple(data.actions.shape[1:])}, 'the data have other actions'"
        answer = ask(f"{make}; assert {fits}; env.reset(); env.render()", args.eval.env_id)
        if answer.returncode:
            last_line = answer.stderr.strip().rpartition("\n")[2]
            raise SystemExit(f"error: --eval.env-id {args.eval.env_id}: {last_line}")
    elif is_in_suite(data.task):
        pick_rendering_backend()
        difficulty = data.difficulty
        if difficulty == "vanilla" and "world" not in data.attributes:
            difficulty = "released_vanilla"
        if difficulty not in DIFFICULTIES:
            raise SystemExit(f"error: {data.paths[0]}: difficulty {difficulty!r}, not of {[*DIFFICULTIES]}")
        settings = (data.task, difficulty, args.eval.backgrounds)
        for name, split in (("seen_videos", "train"), ("unseen_videos", "val")):
            environments[name] = partial(make_env, *settings, split, data.action_repeat)
            load_videos(args.eval.backgrounds, split, difficulty)
    elif RANK == 0:
        print(f"no episodes: {data.task} is no task of dm_control's suite (--eval.env-id plays in Gymnasium)")
    return environments


def is_in_suite(task):
    program = "from dm_control import suite; suite.load(*word.split('-'))"
    return task in BC_RETURNS or ask(program, task, MUJOCO_GL="disabled").returncode == 0


def ask(program, word, **variables):
    """Runs a short program on a word; in another process, as importing MuJoCo binds this one to an OpenGL."""
    command = [sys.executable, "-c", f"import sys; word = sys.argv[1]; {program}", word]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)


def make_gym_env(env_id):
    """Any Gymnasium environment with Box actions, as pictures: uint8 (64, 64, 3)."""
    env = gym.wrappers.AddRenderObservation(gym.make(env_id, render_mode="rgb_array"))
    space = gym.spaces.Box(0, 255, (IMG_HW, IMG_HW, 3), np.uint8)
    return gym.wrappers.TransformObservation(env, shrink, space)


def shrink(picture):
    return np.asarray(Image.fromarray(picture).resize((IMG_HW, IMG_HW)))


def evaluate(args, environments, length, policy, film):
    """Returns of greedy episodes of at most this length, all in one batch: (episodes,) by environment."""
    if not environments:
        return {}
    seeds = np.random.SeedSequence([args.seed, 2]).generate_state(args.eval.num_episodes)  # not the data's
    episodes = list(itertools.product(environments.values(), seeds.tolist()))
    parts = np.array_split(range(len(episodes)), min(args.eval.num_workers, len(episodes)))
    spawn = multiprocessing.get_context("spawn")
    pipes = []
    for part in parts:
        pipe, worker_pipe = spawn.Pipe()
        settings = (worker_pipe, [episodes[i] for i in part], args.frame_stack)
        spawn.Process(target=play_episodes, args=settings, daemon=True).start()
        worker_pipe.close()
        pipes.append(pipe)
    shown = np.unique(np.array([0, 1, -2, -1]) % len(episodes))  # the first and last two
    pictures = []
    for step in tqdm(itertools.count(), "evaluation", length, unit="step", mininterval=BAR_SECONDS):
        answers = [pipe.recv() for pipe in pipes]
        observations, returns, over = map(np.concatenate, zip(*answers))
        if step % 4 == 0 and step < 400:
            pictures.append(np.hstack(observations[shown, -1]))
        if over.all() or step == length:
            break
        with torch.no_grad(), args.autocast(), torch.compiler.set_stance("force_eager"):
            actions = policy(to_input(torch.from_numpy(observations), args)).float().cpu().numpy()
        for pipe, part in zip(pipes, parts):
            pipe.send(actions[part])
    imageio.imwrite(film, np.stack(pictures).repeat(2, 1).repeat(2, 2), duration=40, loop=0)
    return dict(zip(environments, np.split(returns, len(environments))))


def play_episodes(pipe, episodes, frame_stack):
    """A worker process: steps its environments, sends (observations, returns, over), receives actions."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process answers Ctrl-C
    envs = []
    observations = []
    for make, seed in episodes:
        envs.append(gym.wrappers.FrameStackObservation(make(), frame_stack, padding_type="reset"))
        observations.append(envs[-1].reset(seed=seed)[0])
    returns = np.zeros(len(envs))
    over = np.zeros(len(envs), bool)
    with contextlib.suppress(EOFError, ConnectionError):  # the main process has ended
        while True:
            pipe.send((observations, returns, over))
            actions = pipe.recv()
            for i in np.flatnonzero(~over):
                action = actions[i].clip(envs[i].action_space.low, envs[i].action_space.high)
                observations[i], reward, terminated, truncated, _ = envs[i].step(action)
                returns[i] += reward
                over[i] = terminated or truncated


def print_measures(title, measures):
    print(f"{title}:")
    for name, value in measures.items():
        print(f"    {name} {value:.3f}")


def print_table(results):
    """What each label budget has reached: returns, normalised scores, errors of actions as MSE / Var(a)."""
    print("\n| labelled | videos | return | score | policy's error | other measures |")
    print("|---|---|---|---|---|---|")
    for number, budget in results["budgets"].items():
        measures = results.get("latent_actions", {}) | budget.get("latent_actions", budget.get("idm", {}))
        error = f"{budget.get('action_mse_over_var', nan):.3f}"
        for videos in ("seen_videos", "unseen_videos", "environment"):
            others = []
            for name, value in measures.items():
                if name.endswith(f"/{videos}") and "_mse/" not in name:
                    others.append(f"{name.split('/')[0].removesuffix('_mse_over_var')} {value:.3f}")
            played = budget.get(videos, {})
            returns = "{return_mean:.1f} ± {return_std:.1f}".format_map(played) if played else "–"
            score = f"{played['normalized_score']:.3f}" if "normalized_score" in played else "–"
            if played or others or videos == "unseen_videos":  # those of the policy's error
                print(f"| {number} | {videos} | {returns} | {score} | {error} | {', '.join(others)} |")


# ---- Main --------------------------------------------------------------------------------------------------


def start_process(args):
    """Connects the ranks; has glibc keep freed memory: mapping it anew costs a CPU a quarter of its time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: whose end stays
    if WORLD_SIZE > 1:
        if HAS_GPU:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(timeout=datetime.timedelta(hours=2))  # they wait while the first evaluates
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        raise SystemExit(f"error: --device {args.device}: {str(error).splitlines()[0]}")
    if args.data_device == "gpu" and "cpu" in args.device:
        raise SystemExit(f"error: --data-device gpu with --device {args.device}")


def parse_args(argv):
    """The command line: a preset's name first, else paper. --resume brings the run's arguments back."""
    if not argv or argv[0].startswith("-"):
        argv = ["paper", *argv]
    if argv[0] not in PRESETS:
        raise SystemExit(f"error: no preset {argv[0]!r}: there are {', '.join(PRESETS)}")
    args = tyro.extras.overridable_config_cli(PRESETS, args=argv, prog=SCRIPT.name)
    if args.resume:
        own_script = Path(f"{args.resume}/{SCRIPT.name}")
        if not own_script.exists():
            raise SystemExit(f"error: --resume {args.resume}: not the folder of a run of {SCRIPT.name}")
        for word in argv[1:]:
            if word.startswith("--") and not word.replace("-", "_").split("=")[0].endswith(OF_THIS_MACHINE):
                raise SystemExit(f"error: {word} with --resume: a run goes on with its own arguments")
        if own_script.read_bytes() != SCRIPT.read_bytes() and not args.accept_edited_script:
            raise SystemExit(
                f"error: {SCRIPT} is not {own_script}, with which this run began; continue with that one, "
                f"`python {own_script} --resume {args.resume}`, or give --accept-edited-script"
            )
        restore(args, json.loads(Path(f"{args.resume}/args.json").read_text()))
    check_numbers(args)
    return args


MAY_BE_ZERO = ("seed", "num_epochs", "warmup_epochs", "labeled_loss_coef", "checkpoint_minutes")


def check_numbers(args, flag="--"):
    """Refuses numbers that are negative or not finite, and zero where it has no meaning."""
    for name, value in vars(args).items():
        own_flag = flag + name.replace("_", "-")
        if is_dataclass(value):
            check_numbers(value, f"{own_flag}.")
        for number in value if isinstance(value, tuple) else (value,):
            if type(number) in (int, float):
                too_small = number < 0 or number == 0 and name not in MAY_BE_ZERO
                if too_small or not isfinite(number):
                    raise SystemExit(f"error: {own_flag} {number}: too small, or not finite")
    if getattr(args, "num_epochs", 0) and args.warmup_epochs > args.num_epochs:
        raise SystemExit(f"error: {flag}warmup-epochs {args.warmup_epochs}: the stage is over before that")


OF_THIS_MACHINE = ("resume", "accept_edited_script", "device", "data_device", "compile", "num_workers")


def restore(args, values):
    """Takes over the arguments that the run began with, but for those of this machine."""
    for name, value in values.items():
        if isinstance(value, dict):
            restore(getattr(args, name), value)
        elif name not in OF_THIS_MACHINE:
            setattr(args, name, value)


def load_data(args):
    """Data, labelled and evaluation data. Refuses what would fail only after hours; finds the videos."""
    labeled_data = Dataset(args.labeled_data or args.data, args)
    data = Dataset(args.data, args, labeled_data.task, args.trajectories_per_file, args.data_device)
    source = labeled_data.paths[0]
    beside = ["val".join(path.rsplit("train", 1)) for path in labeled_data.paths]
    if not args.eval_data and not os.path.exists(beside[0]):
        raise SystemExit(f"error: no evaluation file {beside[0]}: give --eval-data")
    eval_data = Dataset(args.eval_data or beside, args)
    everything = len(labeled_data.shuffle)
    budgets = [everything if number == "all" else number for number in args.num_labeled_trajectories]
    batch_sizes = []
    for stage in filter(is_dataclass, vars(args).values()):
        batch_sizes += [size for name, size in vars(stage).items() if name.endswith("batch_size")]
    if any(batch_size % WORLD_SIZE for batch_size in batch_sizes):
        raise SystemExit(f"error: batch sizes must be multiples of the number of ranks, {WORLD_SIZE}")
    if labeled_data.has_actions and labeled_data.actions.isnan().any():
        raise SystemExit(
            f"error: {source}: a trajectory without actions of {labeled_data.task}: give --labeled-data"
        )
    if labeled_data.has_actions and max(budgets) > len(labeled_data.shuffle):
        raise SystemExit(f"error: --num-labeled-trajectories {max(budgets)}: more than {source} has")
    if len(data.transitions(data.shuffle)) < max(batch_sizes) or len(data.shuffle) < 2:
        raise SystemExit(f"error: {data.paths[0]} fills no batch of {max(batch_sizes)}, or is one trajectory")
    fewest = labeled_data.transitions(labeled_data.shuffle[: min(budgets)])
    if len(fewest) < args.bc.batch_size:
        raise SystemExit(f"error: {source} does not fill a batch with {min(budgets)} trajectories")
    if "all" in args.num_labeled_trajectories and data.actions.isnan().any():
        raise SystemExit(f"error: --num-labeled-trajectories all: not all of {data.paths[0]} have actions")
    files = {*map(os.path.realpath, data.paths + labeled_data.paths)}
    if eval_data.task != labeled_data.task or files & {*map(os.path.realpath, eval_data.paths)}:
        raise SystemExit(f"error: no other file of {labeled_data.task} to evaluate on: give --eval-data")
    sizes = (labeled_data.actions.shape[1], eval_data.actions.shape[1])
    if sizes[0] != sizes[1] and labeled_data.has_actions and eval_data.has_actions:
        raise SystemExit(
            f"error: {eval_data.paths[0]} has actions of {sizes[1]} numbers, {source} of {sizes[0]}"
        )
    videos = labeled_data.attributes.get("backgrounds", "backgrounds")
    args.eval.backgrounds = args.eval.backgrounds or f"{os.path.dirname(source)}/{videos}"
    return data, labeled_data, eval_data


def main(args):
    start_process(args)
    data, labeled_data, eval_data = load_data(args)  # before the training, not after it
    if not labeled_data.has_actions:
        raise SystemExit(f"error: {labeled_data.paths[0]} holds no actions; give --labeled-data")
    environments = find_environments(args, labeled_data)
    length = None if args.eval.env_id else EPISODE_LENGTH // labeled_data.action_repeat
    run = Run(args, labeled_data)
    for number in args.num_labeled_trajectories:
        if str(number) in run.results["budgets"]:  # a resumed run has finished it
            continue
        source = data if number == "all" else labeled_data
        index = source.transitions(source.shuffle[: None if number == "all" else number])
        num_updates = args.bc.num_updates
        if number == "all":
            num_updates = args.bc.num_epochs * (len(index) // args.bc.batch_size)
        actor = train_actor(args, source, index, num_updates, f"bc_{number}", run)
        if RANK == 0:
            error = action_error(args, actor, eval_data)
            print_measures(f"BC with {number} labelled trajectories", error)
            returns = evaluate(args, environments, length, actor, f"{run.folder}/rollout_{number}.gif")
            run.finish_budget(number, error, returns)
    if RANK == 0:
        print_table(run.results)


if __name__ == "__main__":
    try:
        main(parse_args(sys.argv[1:]))
    except wandb.errors.UsageError as error:  # nobody is logged in
        raise SystemExit(f"error: --track: {error}")
    except (KeyboardInterrupt, EOFError, OSError) as error:  # Ctrl-C, a dead worker, a full disk
        raise SystemExit(f"error: {str(error) or type(error).__name__}")

# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch==2.15.0",
#     "numpy==2.4.6",
#     "tyro==1.0.17",
#     "h5py==3.16.0",
#     "dm_control==1.0.50",
#     "mujoco==3.17.0",
#     "shimmy==2.0.1",
#     "gymnasium==1.4.0",
#     "imageio==2.38.1",
#     "tqdm==4.70.1",
#     "wandb==0.31.0",
# ]
# ///

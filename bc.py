"""BC: behaviour cloning of the true actions, the baseline that every other method is measured by
("Latent Action Learning Requires Supervision in the Presence of Distractors", Nikulin et al., 2025; Section 3 and Appendix E).

The actor of the other methods, trained from scratch on true actions: on the few labelled trajectories that the others get to decode
their latent actions (Table 9), and on the whole file (Table 10), whose return is what a normalised score of 1 means (Table 3).

    for each number n of labelled trajectories, and for all of them       →  actor_<n>.pt, actor_all.pt     policy obs → action
    evaluation               environment                                  →  results.json      25 episodes, seen and unseen videos

    python bc.py demo                                          # minutes on a laptop, on the data of `collect_data.py demo`
    python bc.py --num-labeled-trajectories all                # the return that normalises the others: --eval.reference-return
    python bc.py --num-labeled-trajectories 2 8 32 128         # from scratch on each budget (Figure 8)
    python bc.py --resume runs/<run>                           # continues a killed run where its last checkpoint is

Everything goes to runs/<task>__bc__<seed>__<time>/: args.json, this script as it ran, metrics.jsonl (a step is one update),
results.json, weights, checkpoint.pt, films. Where we deviate from the paper or its released code: the table in README.md.
"""

import ctypes
import dataclasses
import datetime
import fcntl
import functools
import glob
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import gymnasium as gym
import h5py
import imageio.v3 as imageio
import numpy as np
import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
import tyro
from tqdm import tqdm

RANK, WORLD_SIZE = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # which process of how many (torchrun's)
share = lambda batch: batch.chunk(WORLD_SIZE)[RANK]  # a rank's part of a batch


# ---- Arguments: defaults are the paper's (Appendix F, Tables 9 and 10) -------------------------------------------------------
# differs: cloning true actions is the only stage
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
    checkpoint: Path | None = None  # another run's folder, or its file of weights, to take the finished stage from


@dataclass
class EvalArgs:
    """Evaluation in the environment."""

    num_episodes: int = 25  # episodes per setting (seen videos, unseen videos)
    num_workers: int = os.cpu_count() or 1  # processes that simulate and render
    backgrounds: Path | None = None  # background videos, train/*.npy and val/*.npy; the default is the data's own
    reference_return: float | None = None  # what counts as score 1; the default is BC on all labels of Table 3


# differs: cloning true actions is the only stage
@dataclass
class Args:
    data: tuple[str, ...] = ("data/cheetah-run__scale_easy_video_hard__train.hdf5",)
    """training trajectories: files of collect_data.py or of the paper's release, or quoted globs, together one dataset"""
    trajectories_per_file: int | None = None  # take so many from each file of the data (cross-embodied, Figure 10: 1666)
    labeled_data: tuple[str, ...] = ()  # files to take labelled trajectories from, perhaps of another task; the default is the data
    eval_data: tuple[str, ...] = ()  # trajectories with unseen videos; the default are the files named …val… beside the labelled
    num_labeled_trajectories: tuple[int | Literal["all"], ...] = ("all", 2, 4, 8, 16, 32, 64, 128)
    """label budgets: the first n of one fixed shuffle, or `all` of the data"""
    seed: int = 0  # of weights and batches
    frame_stack: int = 3  # frames per observation, oldest first
    lr_schedule: Literal["cosine", "linear"] = "cosine"  # of the learning rate after its warm-up (released code: linear)
    runs: Path = Path("runs")  # folder of all runs
    resume: Path | None = None  # run to continue from its last checkpoint, with the arguments that it was started with
    checkpoint_minutes: float = 10  # minutes between checkpoints inside a stage
    device: str = "cuda" if torch.cuda.is_available() else "cpu"  # where the networks live
    data_device: Literal["auto", "gpu", "ram", "disk"] = "auto"
    """where the frames of the data live; auto is gpu if they fill at most half of what is free there, else disk, mapped"""
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # bf16 autocast or float32; auto is bf16 where it is fast
    compile: bool = torch.cuda.is_available()  # torch.compile of the updates; off on CPUs, where it was slower in a first look
    log_interval: int = 50  # updates between two lines of metrics.jsonl; the only time that the loop waits for the GPU
    track: bool = False  # also log to Weights & Biases
    bc: BCArgs = field(default_factory=BCArgs)
    eval: EvalArgs = field(default_factory=EvalArgs)

    @property
    def dtype(self) -> torch.dtype:
        on_cpu, cpu_has_it = torch.device(self.device).type == "cpu", torch.ops.mkldnn._is_mkldnn_bf16_supported()
        emulated = torch.cpu._is_avx512_supported() and not torch.cpu._is_avx512_bf16_supported()  # at a third of float32's speed
        fast = cpu_has_it and not emulated if on_cpu else torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if self.precision == "bf16" or self.precision == "auto" and fast else torch.float32

    def autocast(self) -> torch.autocast:
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)


# differs: cloning true actions is the only stage
PRESETS = {
    "paper": ("Appendix F to the letter (default)", Args()),
    "demo": ("every budget on a laptop without a GPU, minutes", Args(
        num_labeled_trajectories=("all", 2, 8),
        bc=BCArgs(
            num_epochs=8, num_updates=300, batch_size=256, learning_rate=4e-3, warmup_epochs=0.5,
            encoder_scale=1, encoder_num_res_blocks=1,
        ),
    )),
}  # fmt: skip

# ---- Data --------------------------------------------------------------------------------------------------------------------

IMG_HW = 64  # height and width of an observation, pixels
FRAME_BYTES = IMG_HW * IMG_HW * 3
OBS, NEXT_OBS = slice(None, -1), slice(1, None)  # of a stack with one extra frame


class Dataset:
    """The trajectories of one or more HDF5 files. Frames stay in the files, mapped, or are copied to "ram" or "gpu" (data_device).

    An index counts the frames of all trajectories. states: float32 (N, S); actions: float32 (N, A), clipped to [-1, 1] (the paper's
    files hold unclipped means). Each task has columns of its own, NaN in the rows of other tasks; plain videos have one of NaN.
    first, last: int64 (N,), the ends of each frame's trajectory. A file that is no dataset: one line.
    """

    def __init__(self, patterns: tuple[str, ...], device: str, trajectories_per_file: int | None = None, data_device: str = "disk"):
        self.paths = [Path(name) for pattern in patterns for name in sorted(glob.glob(pattern)) or [pattern]]
        self.device, self.attributes, self.files, self.frames, by_task = device, {}, [], None, {}
        for number, path in enumerate(self.paths):
            try:
                with h5py.File(path) as file:
                    self.attributes = self.attributes or dict(file.attrs)  # the first file's
                    self.difficulty, task = self.attributes["difficulty"], "{domain_name}-{task_name}".format(**file.attrs)
                    names = sorted((name for name in file if name.isdigit()), key=int)[:trajectories_per_file]
                    by_task.setdefault(task, []).extend(self.read(path, number, file[name]) for name in names)
                    same_sizes = len({(t["states"].shape[1], t["actions"].shape[1]) for t in by_task[task]}) == 1
                    if not same_sizes or file.attrs.get("split") != self.attributes.get("split"):
                        raise KeyError(f"states, actions or split are not like others of {task} or {self.paths[0]}, or it is empty")
            except FileNotFoundError:
                raise SystemExit(f"error: no file {path}; collect_data.py makes one")
            except (OSError, KeyError) as error:  # not HDF5, truncated, arrays missing
                raise SystemExit(f"error: {path} is not a whole dataset: {error}")
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing writes to it
            (mapped := np.memmap(path, np.uint8, mode="r")).base.madvise(1)  # MADV_RANDOM: read no more than a batch asks for
            # every position as the start of a frame: an overlapping view, so that one index_select gathers any frames
            self.files.append(torch.from_numpy(mapped).as_strided((max(len(mapped) - FRAME_BYTES + 1, 0), FRAME_BYTES), (1, 1)))
        trajectories = [trajectory for group in by_task.values() for trajectory in group]
        self.task, self.num_trajectories = "+".join(by_task), len(trajectories)
        columns = lambda name: own_columns([[trajectory[name] for trajectory in group] for group in by_task.values()])
        self.states, self.actions = columns("states"), columns("actions").clamp(-1, 1)
        self.file, lengths, obs_offsets, self.returns = (
            torch.tensor([trajectory[name] for trajectory in trajectories]) for name in ("file", "length", "offset", "return")
        )
        self.shuffle = np.random.default_rng(42).permutation(len(lengths))  # label budgets are its beginnings, whatever the seed
        self.trajectory, ends = torch.repeat_interleave(torch.arange(len(lengths)), lengths), lengths.cumsum(0)
        self.first, self.last = (ends - lengths)[self.trajectory], ends[self.trajectory] - 1
        self.byte_offset = obs_offsets[self.trajectory] + (torch.arange(len(self.first)) - self.first) * FRAME_BYTES
        fits = device.startswith("cuda") and len(self.first) * FRAME_BYTES < torch.cuda.mem_get_info()[0] / 2
        if data_device in ("gpu", "ram") or data_device == "auto" and fits:
            frames = torch.empty(len(self.first), FRAME_BYTES, dtype=torch.uint8, device="cpu" if data_device == "ram" else device)
            parts = torch.stack([self.file, ends, lengths, obs_offsets], 1).tolist()
            for file, end, n, start in tqdm(parts, "reading frames", disable=RANK > 0):
                frames[end - n : end] = torch.from_numpy(np.fromfile(self.paths[file], (np.uint8, FRAME_BYTES), n, offset=start))
            self.frames = frames

    def read(self, path: Path, number: int, group: h5py.Group) -> dict:
        """All of a trajectory but its frames."""
        obs, where = group["obs"], f"{path}, trajectory {group.name}"
        if obs.shape[1:] != (IMG_HW, IMG_HW, 3) or obs.dtype != np.uint8:
            raise SystemExit(f"error: {where}: obs are {obs.dtype} {obs.shape[1:]}, not uint8 {(IMG_HW, IMG_HW, 3)}")
        if obs.id.get_offset() is None:
            raise SystemExit(f"error: {where}: obs are compressed or chunked; rewrite the file: h5repack -l CONTI IN OUT")
        trajectory = {"file": number, "length": len(obs), "offset": obs.id.get_offset()}
        for name in ("states", "actions"):
            trajectory[name] = group[name][:] if name in group else np.full((len(obs), 1), np.nan, np.float32)
            if len(trajectory[name]) != len(obs) or name in group and not np.isfinite(trajectory[name]).all():
                raise SystemExit(f"error: {where}: {name} hold NaN or infinite values, or are not as many as obs")
        return trajectory | {"return": float(group.attrs.get("traj_return", np.nan))}

    def transitions(self, trajectories: np.ndarray | None = None) -> torch.Tensor:
        """Indices of all frames that have a successor, or of those in the given trajectories: int64."""
        chosen = torch.arange(len(self.last)) < self.last
        if trajectories is not None:
            chosen &= torch.isin(self.trajectory, torch.as_tensor(trajectories))
        return chosen.nonzero()[:, 0]

    def observations(self, index: torch.Tensor, frame_stack: int, extra: int = 0) -> torch.Tensor:
        """The frames from index - frame_stack + 1 (at the start: the first again) to index + extra: uint8 (B, T, 64, 64, 3)."""
        rows = index[:, None] + torch.arange(1 - frame_stack, 1 + extra)
        rows = torch.maximum(rows, self.first[index][:, None])
        return to_device(self.gather(rows.flatten()).view(*rows.shape, IMG_HW, IMG_HW, 3), self.device)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """The frames of an index (n,), wherever they are: uint8 (n, FRAME_BYTES)."""
        if self.frames is not None:
            return self.frames.index_select(0, to_device(rows, self.frames.device))
        offsets = self.byte_offset[rows]
        if len(self.files) == 1:
            return self.files[0].index_select(0, offsets)
        file, frames = self.file[self.trajectory[rows]], torch.empty(len(rows), FRAME_BYTES, dtype=torch.uint8)
        for number in file.unique().tolist():
            frames[file == number] = self.files[number].index_select(0, offsets[file == number])
        return frames

    def future(self, index: torch.Tensor, max_offset: int, generator: torch.Generator) -> torch.Tensor:
        """index + k with k uniform in 1..max_offset, or in as much of it as the trajectory has left: int64 (B,)."""
        reach = (self.last[index] - index).clamp(max=max_offset)
        return index + 1 + (torch.rand(len(index), generator=generator) * reach).long().clamp(max=reach - 1)


def own_columns(tasks: list[list[np.ndarray]]) -> torch.Tensor:
    """Arrays (T, D) of each task's trajectories → float32 (all T, D of all tasks), NaN outside a task's own columns."""
    blocks = [torch.from_numpy(np.concatenate(arrays)) for arrays in tasks]
    return torch.block_diag(*blocks).where(torch.block_diag(*map(torch.ones_like, blocks)) > 0, math.nan)


def to_device(x: torch.Tensor, device: str | torch.device) -> torch.Tensor:
    """To the GPU without waiting for it, through pinned memory; x itself if it is there or if there is none."""
    return x.pin_memory().to(device, non_blocking=True) if torch.device(device).type == "cuda" and not x.is_cuda else x


def to_input(frames: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """uint8 (B, T, 64, 64, 3) → (B, 3 T, 64, 64) in [-1, 1], oldest frame first, stored channels-last."""
    return torch.cat(frames.unbind(1), -1).permute(0, 3, 1, 2).to(dtype).div_(127.5).sub_(1)


# ---- Networks (Appendix D, Figure 4) -----------------------------------------------------------------------------------------
class ResidualBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):  # (B, C, H, W) → the same
        return x + self.conv2(F.relu6(self.conv1(F.relu6(x))))


class Encoder(nn.Sequential):
    """Three blocks, each a convolution of stride 2 and residual blocks: (B, channels_in, 64, 64) → (B, 32 scale, 8, 8)."""

    def __init__(self, channels_in: int, scale: int, num_res_blocks: int):
        blocks = []
        for channels in (16 * scale, 32 * scale, 32 * scale):
            blocks.append(nn.Conv2d(channels_in, channels, 3, stride=2, padding=1))
            blocks += [ResidualBlock(channels) for _ in range(num_res_blocks)]
            channels_in = channels
        super().__init__(*blocks)
        self.channels_out, self.flat_dim = channels_in, channels_in * (IMG_HW // 8) ** 2


def init_weights(module: nn.Module):
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.orthogonal_(module.weight)
        nn.init.zeros_(module.bias)


class Actor(nn.Module):
    """Policy: obs (B, 9, 64, 64) → latent or true action (B, output_dim)."""

    def __init__(self, args: BCArgs, frame_stack: int, output_dim: int):
        super().__init__()
        self.encoder = Encoder(3 * frame_stack, args.encoder_scale, args.encoder_num_res_blocks)
        self.output = nn.Linear(self.encoder.channels_out, output_dim)
        self.apply(init_weights)

    def forward(self, obs):
        return self.output(F.relu6(self.encoder(obs).mean((2, 3))))


# ---- Runs: records, checkpoints, schedule ------------------------------------------------------------------------------------
class Run:
    """The run's folder: arguments, script, metrics.jsonl, weights of finished stages, and the checkpoint. Of several ranks, the
    first writes. Batches, offsets and augmentation depend only on seed and step, so a checkpoint needs no random state to continue
    a run where an unbroken one would be."""

    def __init__(self, args: Args, task: str):
        name = [f"{task}__{Path(__file__).stem}__{args.seed}__{time.strftime('%Y%m%d-%H%M%S')}"]
        if WORLD_SIZE > 1:
            dist.broadcast_object_list(name)
        self.args, self.folder, self.wandb = args, args.resume or args.runs / name[0], None
        self.saved = {"stage": None, "finished": [], "budgets": {}, "metrics_size": 0}
        if args.resume and (self.folder / "checkpoint.pt").exists():
            self.saved = torch.load(self.folder / "checkpoint.pt", map_location=args.device, weights_only=True)
        self.stop = lambda *_: sys.exit(f"stopped; continue with: python {sys.argv[0]} --resume {self.folder}")
        _ = signal.signal(signal.SIGTERM, self.stop), signal.signal(signal.SIGINT, self.stop)  # in a stage, updates saves first
        if RANK > 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.metrics = open(self.folder / "metrics.jsonl", "ab")  # noqa: SIM115 open as long as the process
        try:
            fcntl.flock(self.metrics, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(f"error: another process works in {self.folder}")
        if not args.resume:
            text = json.dumps({"argv": sys.argv[1:], **dataclasses.asdict(args)}, default=str, indent=2)
            write_whole(self.folder / "args.json", lambda file: file.write(text.encode()))
            write_whole(self.folder / Path(__file__).name, lambda file: file.write(Path(__file__).read_bytes()))
        self.metrics.seek(self.metrics.truncate(self.saved["metrics_size"]))  # what was logged after the checkpoint comes again
        if args.track:
            import wandb  # not above: it takes a second

            self.wandb = wandb.init(project="latent-actions", id=self.folder.name, resume="allow", config=dataclasses.asdict(args))

    def log(self, record: dict):
        if RANK == 0:
            self.metrics.write(json.dumps(record).encode() + b"\n")
            self.metrics.flush()
        if self.wandb:
            self.wandb.log(record)

    def updates(self, stage: str, total: int, cfg, warmup: float, **parts) -> Iterator[tuple[int, dict]]:
        """Yields each step of a stage, from its checkpoint if it has one, with a dictionary for what the loop wants logged, tensors
        read every log_interval steps; nothing else waits for the GPU. parts: what is trained, and optim, whose rate this sets."""
        first = self.saved["step"] if self.saved["stage"] == stage else 0
        for name in parts if first else ():
            parts[name].load_state_dict(self.saved["parts"].pop(name))
        kind, values, stop = stage.split("_")[0], {}, []
        saved_at, logged_at, logged_step = time.time(), time.time(), first
        handlers = {number: signal.signal(number, lambda *_: stop.append(True)) for number in (signal.SIGTERM, signal.SIGINT)}
        bar = tqdm(range(first, total), stage, total, initial=first, unit="update", disable=RANK > 0)
        for step in bar:  # whatever ends the loop closes the bar: a message gets a line of its own
            lr = learning_rate(cfg.learning_rate, step, warmup, total, self.args.lr_schedule)
            parts["optim"].param_groups[0]["lr"] = values["learning_rate"] = lr
            yield step, values
            log_due = (step + 1) % self.args.log_interval == 0 or step + 1 == total
            save_due = bool(stop) or time.time() - saved_at > 60 * self.args.checkpoint_minutes
            if not log_due and (WORLD_SIZE > 1 or not save_due):
                continue
            numbers = [save_due, bool(stop), *values.values()]
            numbers = torch.stack([torch.as_tensor(x, dtype=torch.float64, device=self.args.device) for x in numbers])
            if WORLD_SIZE > 1:
                dist.all_reduce(numbers)
            save_due, stop_due, *numbers = (numbers / WORLD_SIZE).tolist()  # waits for the GPU
            numbers = {f"{kind}/{name}": number for name, number in zip(values, numbers)}
            kept = parts["optim"].param_groups[0]["params"] if save_due or step + 1 == total else ()
            if not math.isfinite(numbers[f"{kind}/loss"]) or not all(x.isfinite().all() for x in kept):
                raise SystemExit(f"error: {stage}: loss or weights not finite at step {step + 1}; the last checkpoint stands")
            if log_due:
                speed = (step + 1 - logged_step) * cfg.batch_size / (time.time() - logged_at)
                logged_at, logged_step = time.time(), step + 1
                self.log({"stage": stage, "step": step + 1, **numbers, f"{kind}/transitions_per_second": round(speed, 1)})
                bar.set_postfix(loss=f"{numbers[f'{kind}/loss']:.4f}", transitions_per_s=f"{speed:.0f}")
            if save_due:
                self.save_checkpoint(stage=stage, step=step + 1, parts={name: part.state_dict() for name, part in parts.items()})
                saved_at = time.time()
            if stop_due:
                self.stop()
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def save_checkpoint(self, **state):
        if RANK == 0:
            state |= {"finished": self.saved["finished"], "budgets": self.saved["budgets"], "metrics_size": self.metrics.tell()}
            write_whole(self.folder / "checkpoint.pt", lambda file: torch.save(state, file))

    def weights(self, folder: Path, name: str, stage: str) -> Path:
        return folder / ("_".join([name, *stage.split("_")[1:]]) + ".pt")  # <name>.pt, or <name>_<budget>.pt

    def finish(self, stage: str, **modules: nn.Module):
        """Keeps a finished stage's weights."""
        for name, module in modules.items():
            write_whole(self.weights(self.folder, name, stage), lambda file: torch.save(module.state_dict(), file))
        self.saved["finished"].append(stage)
        self.save_checkpoint(stage=None)

    def load_finished(self, stage: str, checkpoint: Path | None = None, **modules: nn.Module) -> bool:
        """Loads the weights of a stage that this run, or that of --<stage>.checkpoint, has finished; says whether there is one."""
        folder = self.folder if stage in self.saved["finished"] else checkpoint
        for name, module in modules.items() if folder else ():
            path = folder if folder.suffix == ".pt" else self.weights(folder, name, stage)
            try:
                module.load_state_dict(torch.load(path, map_location=self.args.device, weights_only=True))
            except Exception as error:  # torch has many
                raise SystemExit(f"error: {path} holds no weights for this network: {str(error).splitlines()[0]}")
        if folder and folder != self.folder:
            self.finish(stage, **modules)
        return bool(folder)


def write_whole(path: Path, write: Callable):
    """Writes a file whole or not at all; write gets the open file. Of several ranks, the first writes."""
    if RANK == 0:
        partial = path.with_name(path.name + ".partial")
        try:
            with open(partial, "wb") as file:
                write(file)
        except (OSError, RuntimeError) as error:  # a full disk; torch.save hides the first in the second
            partial.unlink(missing_ok=True)
            raise SystemExit(f"error: {path}: {error.__context__ or error}; what was saved before stands")
        partial.replace(path)


epoch_order = functools.lru_cache(1)(lambda number, seed: torch.randperm(number, generator=torch.Generator().manual_seed(seed)))


def batch_at(index: torch.Tensor, batch_size: int, seed: int, step: int) -> torch.Tensor:
    """The batch of a step: each epoch passes over a fresh permutation of the index and drops what does not fill a batch."""
    epoch, position = divmod(step, len(index) // batch_size)
    return index[epoch_order(len(index), seed * 1_000_003 + epoch)[position * batch_size : (position + 1) * batch_size]]


def learning_rate(peak: float, step: int, warmup: float, total: int, schedule: str) -> float:
    """Linear from zero over the warm-up, then cosine or linear to zero at the end (Appendix D)."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(total - warmup, 1)
    return peak * (0.5 * (1 + math.cos(math.pi * progress)) if schedule == "cosine" else 1 - progress)


def parallel(losses: Callable, args: Args, *trained: nn.Module) -> Callable:
    """The losses compiled, if asked for; with several ranks, the gradients of what they train are averaged over all."""
    losses = torch.compile(losses) if args.compile else losses
    if WORLD_SIZE == 1:
        return losses
    module = nn.Module()
    module.trained, module.forward = nn.ModuleList(trained), losses
    return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)


# ---- Behaviour cloning -------------------------------------------------------------------------------------------------------
# differs: cloning true actions is the only stage
def train_actor(args: Args, data: Dataset, index: torch.Tensor, num_updates: int, stage: str, run: Run) -> Actor:
    """Clones the true actions of the indexed transitions."""
    cfg, dtype = args.bc, args.dtype
    torch.manual_seed(args.seed)
    actor = Actor(cfg, args.frame_stack, data.actions.shape[1]).to(args.device, memory_format=torch.channels_last)
    if run.load_finished(stage, cfg.checkpoint, actor=actor):
        return actor
    optim = torch.optim.Adam(actor.parameters(), lr=cfg.learning_rate, fused=True)

    def losses(obs, actions):
        with args.autocast():
            return F.mse_loss(actor(obs).float(), actions)

    losses = parallel(losses, args, actor)
    warmup = cfg.warmup_epochs * (len(index) // cfg.batch_size)
    for step, values in run.updates(stage, num_updates, cfg, warmup, actor=actor, optim=optim):
        batch = share(batch_at(index, cfg.batch_size, args.seed, step))
        obs = to_input(data.observations(batch, args.frame_stack), dtype)

        loss = losses(obs, to_device(data.actions[batch], args.device))
        optim.zero_grad(set_to_none=True)
        loss.backward()
        optim.step()
        values.update(loss=loss.detach())
    run.finish(stage, actor=actor)
    return actor


def infer_all(args: Args, network: nn.Module, data: Dataset, index: torch.Tensor, *views: slice) -> torch.Tensor:
    """The network's output for every index, without gradient: float32 (len(index), …). views: OBS, or OBS and NEXT_OBS."""
    outputs = []
    with torch.no_grad(), args.autocast():
        for chunk in index.split(512):
            stack = data.observations(chunk, args.frame_stack, extra=1)
            outputs.append(network(*(to_input(stack[:, view], args.dtype) for view in views)).float())
    return torch.cat(outputs)


def action_error(args: Args, actor: Actor, data: Dataset) -> dict:
    """MSE and MSE / Var(a) of the actor on a file's actions (1 is what the mean action reaches), at most 50,000 transitions."""
    index = data.transitions()
    index = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(0))[:50_000]]
    mse = F.mse_loss(infer_all(args, actor, data, index, OBS), data.actions[index]).item()
    return {"action_mse": mse, "action_mse_over_var": mse / data.actions[index].var(0, unbiased=False).mean().item()}


# ---- Environment: Distracting Control Suite (Stone et al., 2021; Section 3) --------------------------------------------------

# name: (scale of camera and colour, number of training videos; None means all)
DIFFICULTIES = dict(vanilla=(0.0, 0), easy=(0.1, 4), medium=(0.2, 8), hard=(0.3, None), scale_easy_video_hard=(0.1, None))


def load_task(task: str) -> gym.Env:
    """A dm_control task through Shimmy; unlike MuJoCo's default no buffer beyond our pictures, a shadow map of 256², not 2048²."""
    import absl.logging  # these imports stand here because dm_control binds to the OpenGL of MUJOCO_GL when it is first imported
    import shimmy
    from dm_control import suite

    absl.logging.set_verbosity("error")  # deprecations in dm_control's own XML
    env = shimmy.DmControlCompatibilityV0(suite.load(*task.split("-")))
    visual = env.unwrapped.physics.model.vis
    visual.global_.offwidth = visual.global_.offheight = IMG_HW
    visual.quality.shadowsize, visual.quality.numslices, visual.quality.numstacks = 256, 12, 8
    return env


class DistractingControl(gym.Wrapper):
    """Pixels, uint8 (64, 64, 3), before colours, a camera and a background video that drift independently of the physics.

    info: dm_control's states, a dictionary. One seed gives the same physics, colours, camera and background. color_scale,
    camera_scale: s of DIFFICULTIES, 0 for none. videos: uint8 (frames, 160, 160, 3), none for the task's own sky. A camera position
    is (radius in metres, elevation above the horizon and azimuth in radians) about the agent's centre of mass.
    """

    def __init__(self, env: gym.Env, color_scale: float, camera_scale: float, videos: list[np.ndarray]):
        from dm_control.mujoco import Camera

        super().__init__(env)
        self.observation_space = gym.spaces.Box(0, 255, (IMG_HW, IMG_HW, 3), np.uint8)
        self.color_scale, self.camera_scale, self.videos = color_scale, camera_scale, videos
        self.physics, self.model, self.data = env.unwrapped.physics, env.unwrapped.physics.model, env.unwrapped.physics.data
        self.own_colors = self.model.mat_rgba[:, :3].copy()
        if videos:
            self.sky, hw = self.model.name2id("skybox", "texture"), videos[0].shape[1]
            start, self.model.tex_width[self.sky], self.model.tex_height[self.sky] = self.model.tex_adr[self.sky], hw, 6 * hw
            self.sky_faces = self.model.tex_data[start : start + 6 * hw * hw * 3].reshape(6, hw, hw, 3)  # a view
            humanoid = self.model.name == "humanoid"  # whose ground would hide most of the background
            self.physics.named.model.mat_rgba["grid", "a"] = 0.3 if humanoid else 1.0
        self.camera = Camera(self.physics, IMG_HW, IMG_HW, camera_id=0)  # kept: a new one for each picture costs a third more

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        states, _ = self.env.reset(seed=seed, options=options)
        self.color_rng, self.camera_rng, self.background_rng = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(3))
        self.color_low, self.color_high = (np.clip(self.own_colors + s, 0, 1) for s in (-self.color_scale, self.color_scale))
        self.model.mat_rgba[:, :3] = self.color_rng.uniform(self.color_low, self.color_high)
        s, angle = self.camera_scale, math.pi / 2 * self.camera_scale
        radius, elevation, azimuth = to_spherical(self.data.cam_xpos[0] - self.data.subtree_com[1])
        self.camera_low = np.array([radius * (1 - 0.5 * s), max(elevation - angle, 0), max(azimuth - angle, -math.pi)])
        self.camera_high = np.array([radius * (1 + 1.5 * s), min(elevation + angle, math.pi / 2), min(azimuth + angle, 0)])
        self.camera_high = np.maximum(self.camera_low, self.camera_high)  # for a camera just below the horizon
        self.camera_position = self.camera_rng.uniform(self.camera_low, self.camera_high)
        self.own_radius, direction = radius, self.camera_rng.normal(size=3)
        self.velocity = direction / np.linalg.norm(direction) * self.camera_rng.uniform(0, 0.4 * s)  # metres per step
        self.roll, self.roll_velocity = self.camera_rng.uniform(-1, 1, 2) * [angle, math.pi / 50 * s]  # radians, radians per step
        if self.videos:  # played to and fro from a random frame in a random direction
            self.video = self.videos[self.background_rng.integers(len(self.videos))]
            self.video_period = max(2 * len(self.video) - 2, 1)
            self.video_time = int(self.background_rng.integers(self.video_period))
        return self.render(), states

    def step(self, action: np.ndarray):
        states, reward, terminated, truncated, _ = self.env.step(action)
        colors = self.model.mat_rgba[:, :3] + self.color_rng.normal(0, 0.03 * self.color_scale, self.own_colors.shape)
        self.model.mat_rgba[:, :3] = np.clip(colors, self.color_low, self.color_high)
        s, unit = self.camera_scale, self.camera_scale * self.own_radius / 4
        velocity = self.velocity + self.camera_rng.normal(0, 0.1 * unit, 3)
        self.velocity = velocity * min(1, 0.4 * unit / max(np.linalg.norm(velocity), 1e-9))
        position = to_spherical(to_cartesian(self.camera_position) + self.velocity)
        self.camera_position = np.clip(position, self.camera_low, self.camera_high)
        roll_velocity = self.roll_velocity + self.camera_rng.normal(0, math.pi / 300 * s)
        self.roll_velocity = np.clip(roll_velocity, -math.pi / 50 * s, math.pi / 50 * s)
        self.roll = np.clip(self.roll + self.roll_velocity, -math.pi / 2 * s, math.pi / 2 * s)
        self.video_time = (self.video_time + 1) % self.video_period if self.videos else None
        return self.render(), reward, terminated, truncated, states

    def render(self) -> np.ndarray:
        """The picture of the current state, uint8 (64, 64, 3), from camera 0 as the distractors have moved it."""
        import mujoco

        if self.videos:
            turn = len(self.video) - 1
            self.sky_faces[:] = self.video[turn - abs(turn - self.video_time)]
            contexts = self.physics.contexts
            with contexts.gl.make_current() as context:
                context.call(mujoco.mjr_uploadTexture, self.model.ptr, contexts.mujoco.ptr, self.sky)
        mujoco.mj_camlight(self.model.ptr, self.data.ptr)  # the undisturbed pose, which the next line overwrites
        if self.camera_scale > 0:
            self.data.cam_xpos[0], self.data.cam_xmat[0] = self.camera_pose()
        return self.camera.render().copy()

    def camera_pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Position (3,) and orientation (9,): it looks at the point on its undisturbed axis that is as far away as the agent."""
        agent, own_position = self.data.subtree_com[1], self.data.cam_xpos[0]
        own_axis = self.data.cam_xmat[0, 2::3]  # a camera looks along its negative z axis
        target = own_position - own_axis * np.linalg.norm(own_position - agent)
        position = agent + to_cartesian(self.camera_position)
        z = (position - target) / np.linalg.norm(position - target)
        x = np.cross([0, 0, 1], z) / np.linalg.norm(np.cross([0, 0, 1], z))
        y, cos, sin = np.cross(z, x), math.cos(self.roll), math.sin(self.roll)
        return position, np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=1).ravel()


def to_spherical(point: np.ndarray) -> np.ndarray:
    """(x, y, z) → (radius, elevation in [-π/2, π/2], azimuth in (-3π/2, π/2]): the cut lies where no camera of the suite goes."""
    elevation, azimuth = math.atan2(point[2], math.hypot(point[0], point[1])), math.atan2(point[1], point[0])
    return np.array([np.linalg.norm(point), elevation, azimuth - 2 * math.pi if azimuth > math.pi / 2 else azimuth])


def to_cartesian(position: np.ndarray) -> np.ndarray:
    radius, elevation, azimuth = position
    x, y, z = math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth), math.sin(elevation)
    return radius * np.array([x, y, z])


def load_videos(backgrounds: Path, split: str, difficulty: str) -> list[np.ndarray]:
    """Background videos, uint8 (frames, 160, 160, 3), memory-mapped: all of "val", as many of "train" as the difficulty says."""
    number, files = DIFFICULTIES[difficulty][1], sorted((backgrounds / split).glob("*.npy"))
    if number != 0 and not files:
        raise SystemExit(
            f"error: no videos (*.npy) in {backgrounds / split}; collect_data.py makes some, --eval.backgrounds says where"
        )
    return [np.load(file, mmap_mode="r") for file in files[: number if split == "train" or number == 0 else None]]


def make_env(task: str, difficulty: str, backgrounds: Path, split: str) -> DistractingControl:
    scale, videos = DIFFICULTIES[difficulty][0], load_videos(backgrounds, split, difficulty)
    return DistractingControl(load_task(task), scale, scale, videos)


def pick_rendering_backend():
    """Sets MUJOCO_GL for the worker processes: EGL on a GPU or on Mesa, else OSMesa. A choice of the user's stands."""
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa draws in the worker itself: threads for 64×64 pixels only cost
    if "MUJOCO_GL" in os.environ:
        return
    probe = "import mujoco; context = mujoco.GLContext(64, 64); context.make_current(); context.free()"
    for os.environ["MUJOCO_GL"] in ("egl", "osmesa"):
        if subprocess.run([sys.executable, "-c", probe], capture_output=True).returncode == 0:
            return
    raise SystemExit("error: no OpenGL to render with; on Debian: apt-get install libegl1 libopengl0, or libosmesa6")


EPISODE_LENGTH = 1000  # steps, dm_control's for all four tasks
# returns of the paper's BC on all labels, with and without distractors (Table 3)
BC_RETURNS = {"cheetah-run": (823, 840), "walker-run": (749, 735), "hopper-hop": (253, 300), "humanoid-walk": (428, 601)}


def play_episodes(pipe, task: str, difficulty: str, backgrounds: Path, frame_stack: int, episodes: list[tuple[str, int]]):
    """A worker process: steps its environments together, one action array (n, A) in, one (obs, rewards) out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process answers Ctrl-C
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()
    envs = [make_env(task, difficulty, backgrounds, split) for split, _ in episodes]
    envs = [gym.wrappers.FrameStackObservation(env, frame_stack, padding_type="reset") for env in envs]
    pipe.send((np.stack([env.reset(seed=seed)[0] for env, (_, seed) in zip(envs, episodes)]), np.zeros(len(envs))))
    for _ in range(EPISODE_LENGTH):
        steps = [env.step(action) for env, action in zip(envs, pipe.recv())]
        pipe.send((np.stack([step[0] for step in steps]), np.array([step[1] for step in steps])))


def evaluate(args: Args, data: Dataset, actor: Actor, decoder: nn.Module, film: Path) -> dict:
    """Greedy episodes in the data's task, with seen and with unseen videos, all in one batch: returns, and a film of the first."""
    seeds = np.random.SeedSequence([args.seed, 2]).generate_state(args.eval.num_episodes)  # not those of the data
    seeds, pipes, frames = np.array_split(seeds, WORLD_SIZE)[RANK].tolist(), [], []
    episodes = [(split, seed) for split in ("train", "val") for seed in seeds]
    parts, context = np.array_split(np.arange(len(episodes)), args.eval.num_workers), multiprocessing.get_context("spawn")
    for part in filter(len, parts):
        pipe, worker_pipe = context.Pipe()
        settings = data.task, data.difficulty, args.eval.backgrounds, args.frame_stack, [episodes[i] for i in part]
        context.Process(target=play_episodes, args=(worker_pipe, *settings), daemon=True).start()
        worker_pipe.close()
        pipes.append(pipe)
    returns = np.zeros(len(episodes))
    try:
        for step in tqdm(range(EPISODE_LENGTH + 1), "evaluation, seen and unseen videos", unit="step", disable=RANK > 0):
            observations, rewards = map(np.concatenate, zip(*(pipe.recv() for pipe in pipes)))
            returns += rewards
            if step % 4 == 0 and step < 400:  # above with seen, below with unseen videos
                frames.append(np.concatenate([np.concatenate(row[:4, -1], axis=1) for row in np.split(observations, 2)]))
            with torch.no_grad(), args.autocast():
                actions = decoder(actor(to_input(torch.from_numpy(observations).to(args.device), args.dtype)))
            for pipe, part in zip(pipes, parts if step < EPISODE_LENGTH else ()):
                pipe.send(actions[part].float().clamp(-1, 1).cpu().numpy())
    except (EOFError, ConnectionError):
        raise SystemExit("error: an evaluation worker died; its message is above")
    if RANK == 0:
        imageio.imwrite(film, np.stack(frames).repeat(2, 1).repeat(2, 2), duration=40, loop=0)
    returns = [returns.reshape(2, -1)] * WORLD_SIZE
    if WORLD_SIZE > 1:
        dist.all_gather_object(returns, returns[RANK])
    parts = zip(("seen_videos", "unseen_videos"), np.concatenate(returns, 1))
    return {name: dict(return_mean=float(x.mean()), return_std=float(x.std()), returns=x.tolist()) for name, x in parts}


def start_process(args: Args):
    """Has glibc keep freed memory: to map it anew at each step costs a CPU a quarter of its time. Connects torchrun's ranks."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        _ = mallopt(-4, 0), mallopt(-1, 2**31 - 1)  # M_MMAP_MAX: large blocks come from the heap; M_TRIM_THRESHOLD: its end stays
    on_gpu = torch.device(args.device).type == "cuda"
    if on_gpu and not torch.cuda.is_available() or args.data_device == "gpu" and not on_gpu:
        raise SystemExit(f"error: --device {args.device} --data-device {args.data_device}: no GPU here, or it is not the device")
    if WORLD_SIZE > 1:
        if on_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(timeout=datetime.timedelta(hours=2))  # the others wait while the first measures
        sys.stdout = sys.stdout if RANK == 0 else open(os.devnull, "w")  # noqa: SIM115 open as long as the process


def parse_args(argv: list[str]) -> Args:
    """The command line: a preset's name first, paper if there is none; --resume brings the run's own command line back."""
    argv = argv if argv and not argv[0].startswith("-") else ["paper", *argv]
    presets = {name: (f"{about}; presets: {', '.join(PRESETS)}\n\n{__doc__}", args) for name, (about, args) in PRESETS.items()}
    args = tyro.extras.overridable_config_cli(presets, args=argv, prog=Path(__file__).name)
    if not args.resume:
        return args
    if len(argv) > 3 or not all((args.resume / name).exists() for name in ("args.json", Path(__file__).name)):
        raise SystemExit(f"error: --resume {args.resume}: takes the folder of a run of {Path(__file__).name} and nothing else")
    return dataclasses.replace(parse_args(json.loads((args.resume / "args.json").read_text())["argv"]), resume=args.resume)


# differs: cloning true actions is the only stage
def load_data(args: Args) -> tuple[Dataset, Dataset, Dataset]:
    """Data, labelled data and evaluation data. Refuses what would fail only after hours; finds the background videos."""
    data = Dataset(args.data, args.device, args.trajectories_per_file, args.data_device)
    labeled_data = Dataset(args.labeled_data, args.device) if args.labeled_data else data
    beside = [str(path.with_name("val".join(path.name.rsplit("train", 1)))) for path in labeled_data.paths]
    eval_data = Dataset(args.eval_data or beside, args.device)
    source, budgets = labeled_data.paths[0], [n for n in args.num_labeled_trajectories or (0,) if n != "all"]
    if labeled_data.task not in BC_RETURNS or labeled_data.actions.isnan().any():
        raise SystemExit(f"error: {source} holds no actions of one of the four tasks; give --labeled-data")
    sizes = args.bc.batch_size, args.bc.num_epochs, args.bc.num_updates, args.log_interval, args.trajectories_per_file or 1
    if min(*budgets, *sizes, args.eval.num_episodes // WORLD_SIZE, args.eval.num_workers) < 1 or args.seed < 0:
        raise SystemExit("error: label budgets, sizes and numbers of episodes, workers and trajectories start at 1, --seed at 0")
    if math.gcd(args.bc.batch_size) % WORLD_SIZE:
        raise SystemExit(f"error: batch sizes must be multiples of the number of ranks, {WORLD_SIZE}")
    if max([0, *budgets]) > (n := labeled_data.num_trajectories):
        raise SystemExit(f"error: --num-labeled-trajectories {max(budgets)}: {source} has {n} trajectories")
    indices = [labeled_data.transitions(labeled_data.shuffle[:n]) for n in budgets]
    indices += [data.transitions()] if "all" in args.num_labeled_trajectories else []
    if min(map(len, indices)) < args.bc.batch_size:
        raise SystemExit(f"error: {source}: a label budget does not fill a batch of {args.bc.batch_size}: collect more")
    if data.task != labeled_data.task:
        raise SystemExit(f"error: {data.paths[0]} is of {data.task}, {source} of {labeled_data.task}: bc.py clones one task")
    if eval_data.task != labeled_data.task or set(eval_data.paths) & {*data.paths, *labeled_data.paths}:
        raise SystemExit(f"error: no evaluation file of {labeled_data.task} beside {source}; give --eval-data")
    if args.bc.checkpoint:
        args.bc.checkpoint.stat()  # or an error that names it
    args.eval.backgrounds = args.eval.backgrounds or source.parent / labeled_data.attributes.get("backgrounds", "backgrounds")
    for split in ("train", "val"):
        load_videos(args.eval.backgrounds, split, labeled_data.difficulty)
    return data, labeled_data, eval_data


# differs: cloning true actions is the only stage
def main(args: Args):
    start_process(args)
    data, labeled_data, eval_data = load_data(args)  # before the training, not after it
    pick_rendering_backend()
    run = Run(args, labeled_data.task)
    print(f"run folder: {run.folder}")
    results = {"script": Path(__file__).name, "task": labeled_data.task, "difficulty": labeled_data.difficulty, "seed": args.seed}
    results["dataset_return"] = round(labeled_data.returns.mean().item(), 2)
    results["random_return"] = round(float(labeled_data.attributes.get("random_return", math.nan)), 2)
    table_3 = BC_RETURNS.get(labeled_data.task, (math.nan, math.nan))[labeled_data.difficulty == "vanilla"]
    results |= {"reference_return": args.eval.reference_return or table_3, "budgets": run.saved["budgets"]}
    for number in args.num_labeled_trajectories:
        if str(number) in results["budgets"]:  # a resumed run has finished it
            continue
        if number == "all":
            source, index = data, data.transitions()
            num_updates = args.bc.num_epochs * (len(index) // args.bc.batch_size)
        else:
            source, num_updates = labeled_data, args.bc.num_updates
            index = labeled_data.transitions(labeled_data.shuffle[:number])
        actor = train_actor(args, source, index, num_updates, f"bc_{number}", run)
        budget = action_error(args, actor, eval_data)
        budget |= evaluate(args, labeled_data, actor, nn.Identity(), run.folder / f"rollout_{number}.gif")
        for name in ("seen_videos", "unseen_videos"):
            budget[name]["normalized_score"] = budget[name]["return_mean"] / results["reference_return"]
            run.log({"stage": f"eval_{number}", f"eval/return_mean/{name}": budget[name]["return_mean"]})
        results["budgets"][str(number)] = budget
        write_whole(run.folder / "results.json", lambda file: file.write(json.dumps(results, indent=2).encode()))
        run.finish(f"eval_{number}")
    table = [sys.executable, Path(__file__).parent / "benchmark/table.py", run.folder]
    print(subprocess.run(table, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    try:
        main(parse_args(sys.argv[1:]))
    except (KeyboardInterrupt, OSError) as error:  # a full disk, a folder without permission
        raise SystemExit(f"error: {str(error) or 'interrupted'}")

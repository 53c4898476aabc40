"""LAOM: latent actions from video with distractors, without action labels.

"Latent Action Learning Requires Supervision in the Presence of Distractors", Nikulin et al., 2025; Section 4.

A latent action model (LAM) watches videos without actions: an inverse dynamics model (IDM) names the change
between two observations with a latent action z, and a forward dynamics model (FDM) must predict the next
observation's embedding from the present one and z. Unlike the original LAPO it predicts embeddings, not
pixels; in training the IDM sees observations up to ten steps apart; z is large, without quantiser; images are
augmented. A policy imitates z on all videos, and a small decoder turns the policy's z into true actions.

    stage 1  LAM             videos           →  lam.pt
    stage 2  latent BC       videos, z        →  actor.pt         policy obs → z
    stage 3  action decoder  labels           →  decoder_<n>.pt   z → action, for n labelled trajectories
    evaluation               environment      →  results.json     episodes on seen and on unseen videos

    python laom.py demo                                # a laptop, minutes; collect_data.py demo first
    python laom.py --num-labeled-trajectories 2 8 128  # the paper's setting, three label budgets
    torchrun --nproc-per-node 8 laom.py                # 8 GPUs, each has its rows of every batch

The same command continues a run that was stopped. Everything goes to runs/<task>__laom__<seed>__<hash>/:
args.json, this script as it ran, metrics.jsonl (a step is one update), results.json, weights, films. Where we
deviate from the paper: docs/deviations.md.
"""

import contextlib
import copy
import ctypes
import datetime
import fcntl
import glob
import hashlib
import importlib.metadata
import itertools
import json
import mmap
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
import traceback
import warnings
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import lru_cache, partial
from math import atan2, cos, hypot, isfinite, nan, pi, sin
from pathlib import Path
from typing import Literal

import gymnasium as gym
import h5py
import imageio.v3 as imageio
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
import tyro
from PIL import Image, ImageDraw
from torch import nn
from torchvision.ops import MLP
from tqdm import tqdm

SCRIPT = Path(__file__)
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", 1))  # number of processes that torchrun has started
RANK = int(os.environ.get("RANK", 0)) if WORLD_SIZE > 1 else 0  # which of them this one is
IMG_HW = 64  # height and width of an observation, pixels
NUM_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
HAS_GPU = torch.cuda.is_available()
CPU = torch.cpu.get_capabilities()  # without its instructions bfloat16 takes three times as long as float32
HAS_BFLOAT16 = HAS_GPU or CPU.get("avx512_bf16") or CPU.get("bf16")  # ARM reports it as bf16


# ---- Arguments: the defaults are the paper's (Appendix F, Table 6) -----------------------------------------


@dataclass
class LAMArgs:
    """Stage 1: the latent action model."""

    num_epochs: int = 10  # passes over all transitions
    batch_size: int = 512  # transitions per update
    learning_rate: float = 1e-4  # Adam's, after the warm-up
    warmup_epochs: float = 3.0  # epochs in which the learning rate rises linearly from zero
    future_obs_offset: int = 10  # K: the IDM sees obs[t] and obs[t + k], k uniform in 1..K (Section 4)
    latent_action_dim: int = 8192  # size of z
    quantizer: Literal["none", "fsq"] = "none"  # rounds z to -1 and 1 (Figures 5 and 12c)
    encoder_scale: int = 6  # channels of the encoder's three blocks: (16, 32, 32) times this
    encoder_num_res_blocks: int = 2  # residual blocks per encoder block
    act_head_dim: int = 1024  # width of the IDM's layers
    obs_head_dim: int = 1024  # width of the FDM's layers
    use_aug: bool = True  # random shift, rotation and perspective of each observation (Section 4)
    target: Literal["ema", "stop_grad"] = "ema"  # embeds the target: a slow copy of the encoder, or itself
    target_tau: float = 0.001  # step of the slow copy towards the encoder
    target_update_every: int = 1  # updates between two such steps


@dataclass
class BCArgs:
    """Stage 2: behaviour cloning of the latent actions."""

    num_epochs: int = 10  # passes over all transitions
    batch_size: int = 512  # transitions per update
    learning_rate: float = 1e-4  # Adam's, after the warm-up
    warmup_epochs: float = 0.0  # epochs in which the learning rate rises linearly from zero
    encoder_scale: int = 32  # channels of the encoder's three blocks: (16, 32, 32) times this
    encoder_num_res_blocks: int = 2  # residual blocks per encoder block


@dataclass
class DecoderArgs:
    """Stage 3: the decoder from latent to true actions, on the labelled trajectories alone."""

    num_updates: int = 2500  # updates; the paper's total_updates
    batch_size: int = 512  # labelled transitions per update
    learning_rate: float = 3e-4  # Adam's
    hidden_dim: int = 256  # width of the two hidden layers


@dataclass
class EvalArgs:
    """Evaluation in the environment."""

    num_episodes: int = 25  # episodes per setting (seen videos, unseen videos)
    num_workers: int = NUM_CORES  # processes that simulate and render
    env_id: str | None = None  # play in this Gymnasium environment; else in the data's task of dm_control
    backgrounds: str | None = None  # background videos, train/*.npy and val/*.npy; else the data's own
    max_steps: int = 1000  # steps after which an episode is ended
    reference_return: float | None = None  # counts as score 1; else Table 3's, BC on all labels


@dataclass
class Args:
    data: tuple[str, ...] = ("data/cheetah-run__scale_easy_video_hard__train.hdf5",)
    """training trajectories: files of collect_data.py or of the paper's release, or quoted globs"""
    trajectories_per_file: int | None = None  # of each file of --data, not of the labels (Figure 10: 1666)
    labeled_data: tuple[str, ...] = ()  # files with labels, else the data; perhaps of another task
    eval_data: tuple[str, ...] = ()  # files with unseen videos; else those named val beside the labelled
    raw_actions: bool = False  # keep the labels of a released file as they are, unclipped means
    num_labeled_trajectories: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128)
    """label budgets: the first n of one fixed shuffle"""
    seed: int = 0  # of weights, batches and augmentation
    frame_stack: int = 3  # frames per observation, oldest first
    lr_schedule: Literal["cosine", "linear"] = "cosine"  # of the learning rate (released code: linear)
    runs: str = "runs"  # folder of all runs
    rehearsal: bool = True  # play the whole run through, one update a stage, before it begins
    checkpoint_minutes: float = 10.0  # minutes between checkpoints inside a stage
    device: str = "cuda" if HAS_GPU else "cpu"  # where the networks live
    data_device: Literal["auto", "gpu", "disk"] = "auto"
    """where frames live: on the GPU, or mapped from disk; auto: gpu if they fill less than half of it"""
    precision: Literal["bf16", "fp32"] = "bf16" if HAS_BFLOAT16 else "fp32"  # bfloat16 autocast, or float32
    compile: bool = HAS_GPU  # torch.compile of the networks; on CPUs it was slower
    log_interval: int = 50  # updates between two lines of metrics.jsonl; only then the loop waits for the GPU
    track: bool = False  # also log to Weights & Biases
    lam: LAMArgs = field(default_factory=LAMArgs)
    bc: BCArgs = field(default_factory=BCArgs)
    decoder: DecoderArgs = field(default_factory=DecoderArgs)
    eval: EvalArgs = field(default_factory=EvalArgs)

    @property
    def dtype(self):  # of the networks' inputs
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def autocast(self):
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, self.precision == "bf16")


SMALL = {"batch_size": 64, "warmup_epochs": 0.5, "encoder_num_res_blocks": 1}
DEMO = Args(
    data=("data/cheetah-run__scale_easy_video_hard__repeat4__noise0.8__train.hdf5",),
    num_labeled_trajectories=(2, 8),
    lam=LAMArgs(
        **SMALL,
        num_epochs=6,
        learning_rate=5e-4,
        encoder_scale=1,
        future_obs_offset=3,  # the paper's 10 steps at 4 steps an action
        latent_action_dim=256,
        act_head_dim=256,
        obs_head_dim=256,
        use_aug=False,
    ),
    bc=BCArgs(**SMALL, num_epochs=6, learning_rate=2e-3, encoder_scale=2),
    decoder=DecoderArgs(num_updates=1000),
)
PRESETS = {
    "paper": (f"the hyperparameters of Appendix F (default; the other preset is demo)\n\n{__doc__}", Args()),
    "demo": (f"the whole pipeline on a laptop without a GPU, minutes\n\n{__doc__}", DEMO),
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


class MLPBlock(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.linear1 = nn.Linear(dim, 4 * dim)
        self.linear2 = nn.Linear(4 * dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x):  # (B, dim) → the same
        return self.norm(x + self.linear2(F.relu6(self.linear1(x))))


class Head(nn.Module):
    """Three (linear → MLP block) layers, of which the later ones see the condition again (Appendix D)."""

    def __init__(self, input_dim, condition_dim, hidden_dim, output_dim):
        super().__init__()
        dims = [input_dim, hidden_dim + condition_dim, hidden_dim + condition_dim]
        self.linears = nn.ModuleList(nn.Linear(dim, hidden_dim) for dim in dims)
        self.blocks = nn.ModuleList(MLPBlock(hidden_dim) for _ in dims)
        self.output = nn.Linear(hidden_dim, output_dim)

    def forward(self, x, condition):  # (B, input_dim), (B, condition_dim) → (B, output_dim)
        x = self.blocks[0](self.linears[0](x))
        for linear, block in zip(self.linears[1:], self.blocks[1:]):
            x = block(linear(torch.cat([x, condition], -1)))
        return self.output(x)


def init_weights(module):
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.orthogonal_(module.weight)
        nn.init.zeros_(module.bias)


def quantize(z):
    """Finite scalar quantisation to -1 and 1 (Mentzer et al., 2023); gradients pass straight through."""
    z = z.float().tanh()
    return z + (torch.where(z > 0, 1.0, -1.0) - z).detach()


class LAM(nn.Module):
    """Latent action model: one encoder, an IDM and an FDM in its embedding."""

    def __init__(self, args, frame_stack):
        super().__init__()
        self.encoder = Encoder(args, 3 * frame_stack)
        embedding_dim = self.encoder.flat_dim
        z_dim = args.latent_action_dim
        self.idm = Head(2 * embedding_dim, 2 * embedding_dim, args.act_head_dim, z_dim)
        self.fdm = Head(embedding_dim + z_dim, z_dim, args.obs_head_dim, embedding_dim)
        self.quantizer = args.quantizer
        self.apply(init_weights)

    def embed(self, obs, future_obs):  # (B, 9, 64, 64) twice → e_t, e_{t+k} (B, E)
        return self.encoder(torch.cat([obs, future_obs])).flatten(1).chunk(2)

    def infer(self, obs_embedding, future_embedding):  # e_t, e_{t+k} (B, E) → z (B, Z)
        pair = torch.cat([obs_embedding, future_embedding], -1)
        z = self.idm(pair, pair)
        return quantize(z) if self.quantizer == "fsq" else z

    def predict(self, obs_embedding, latent_action):  # e_t (B, E), z (B, Z) → e_{t+1} (B, E)
        return self.fdm(torch.cat([obs_embedding, latent_action], -1), latent_action)

    def forward(self, obs, future_obs):  # latent actions for relabelling: (B, Z)
        return self.infer(*self.embed(obs, future_obs))


class Actor(nn.Module):
    """Policy: obs (B, 9, 64, 64) → latent or true action (B, output_dim)."""

    def __init__(self, args, frame_stack, output_dim):
        super().__init__()
        self.encoder = Encoder(args, 3 * frame_stack)
        self.output = nn.Linear(self.encoder.channels_out, output_dim)
        self.apply(init_weights)
        add_units(self, output_dim)

    def forward(self, obs):
        return self.output(F.relu6(self.encoder(obs).mean((2, 3))))


class Decoder(MLP):
    """Latent action, as the actor answers, (B, Z) → action (B, A)."""

    def __init__(self, args, latent_action_dim, action_dim):
        super().__init__(latent_action_dim, [args.hidden_dim, args.hidden_dim, action_dim])
        self.apply(init_weights)
        add_units(self, action_dim)


# ---- Stage 1: the latent action model (Section 4) ----------------------------------------------------------


def train_lam(args, data, stage, run):
    """Trains a LAM on all transitions of the data."""
    cfg = args.lam
    torch.manual_seed(args.seed)
    lam = LAM(cfg, args.frame_stack)
    lam.to(args.device, memory_format=torch.channels_last)
    probes = Probes(cfg.latent_action_dim, lam.encoder.flat_dim, data).to(args.device)
    groups = [{"params": lam.parameters()}, {"params": probes.parameters()}]  # the probes' rate is constant
    optim = torch.optim.Adam(groups, cfg.learning_rate, fused=True)
    target = lam.encoder  # a stop-gradient alone (Appendix D): its update below changes nothing then
    if cfg.target == "ema":
        target = copy.deepcopy(lam.encoder).requires_grad_(False)
    if args.compile:
        for network in (lam.encoder, lam.idm, lam.fdm, target):
            network.compile(dynamic=False)

    index = data.transitions(data.shuffle)
    updates_per_epoch = len(index) // cfg.batch_size
    total = cfg.num_epochs * updates_per_epoch
    warmup = cfg.warmup_epochs * updates_per_epoch
    for step in run.steps(stage, total, cfg.batch_size, lam=lam, target=target, probes=probes, optim=optim):
        optim.param_groups[0]["lr"] = learning_rate(cfg.learning_rate, step, warmup, total, args.lr_schedule)

        generator = random_generator("lam", args.seed, step, RANK)
        batch = index[batch_rows(len(index), cfg.batch_size, args.seed, step)]
        future = data.future(batch, cfg.future_obs_offset, generator)

        obs, next_obs = data.observe_pair(batch)
        future_obs = data.observe(future)
        if cfg.use_aug:  # each observation on its own
            obs = augment(obs, generator)
            next_obs = augment(next_obs, generator)
            future_obs = augment(future_obs, generator)
        actions = to_device(data.actions[batch], args.device)
        states = to_device(data.states[batch], args.device)

        with args.autocast():
            obs_embedding, future_embedding = lam.embed(obs, future_obs)
            latent_action = lam.infer(obs_embedding, future_embedding)

            # from a detached embedding: the encoder learns only through the IDM
            predicted_embedding = lam.predict(obs_embedding.detach(), latent_action)
            with torch.no_grad():
                target_embedding = target(next_obs).flatten(1)
            loss = F.mse_loss(predicted_embedding.float(), target_embedding.float())
            # the LAM learns nothing from the probes
            probe_losses = probes(latent_action.detach(), obs_embedding.detach(), actions, states)

        optim.zero_grad()
        (loss + sum(probe_losses.values())).backward()
        average_gradients(optim)
        optim.step()

        if (step + 1) % cfg.target_update_every == 0:
            with torch.no_grad():
                for slow, fast in zip(target.parameters(), lam.encoder.parameters()):
                    slow.lerp_(fast, cfg.target_tau)

        if run.log_due(step):
            losses = (probe_losses | probes.over_variance(probe_losses)) if data.has_actions else {}
            embedding_variance = target_embedding.float().var(0).mean()
            run.log(step, optim, loss=loss, embedding_variance=embedding_variance, **losses)
    return lam


# ---- Stage 2: behaviour cloning of latent actions ----------------------------------------------------------


def train_actor(args, data, lam, stage, run):
    """Clones (z - mean) / scale of all transitions: Adam would need long to reach a z far from zero."""
    cfg = args.bc
    index = data.transitions(data.shuffle)
    z_bytes = 4 * args.lam.latent_action_dim * len(index)
    infer_once = cfg.num_epochs > 1 and z_bytes < 2e9  # for all passes
    latent_actions = infer_all(args, lam, data, index if infer_once else index[:: len(index) // 4096 + 1])
    mean = latent_actions.mean(0)
    scale = latent_actions.var(0).mean().sqrt().clamp(min=1e-6)  # one number

    torch.manual_seed(args.seed)
    actor = Actor(cfg, args.frame_stack, len(mean))
    nn.init.zeros_(actor.output.weight)  # a random one is added error, which can push all features below zero
    set_units(actor, mean, scale)
    actor.to(args.device, memory_format=torch.channels_last)
    optim = torch.optim.Adam(actor.parameters(), fused=True)
    if args.compile:
        actor.compile(dynamic=False)

    updates_per_epoch = len(index) // cfg.batch_size
    total = cfg.num_epochs * updates_per_epoch
    warmup = cfg.warmup_epochs * updates_per_epoch
    for step in run.steps(stage, total, cfg.batch_size, actor=actor, optim=optim):
        optim.param_groups[0]["lr"] = learning_rate(cfg.learning_rate, step, warmup, total, args.lr_schedule)

        rows = batch_rows(len(index), cfg.batch_size, args.seed, step)
        obs, next_obs = data.observe_pair(index[rows])

        with args.autocast():
            if infer_once:
                latent_action = latent_actions[to_device(rows, args.device)]
            else:
                with torch.no_grad():
                    latent_action = lam(obs, next_obs)
            label = (latent_action - mean) / scale
            loss = F.mse_loss(actor(obs).float(), label)

        optim.zero_grad()
        loss.backward()
        average_gradients(optim)
        optim.step()

        if run.log_due(step):
            run.log(step, optim, loss=loss)
    if total > 0:
        warn_if_dead(args, actor, data, index, 1, stage, run)
    return actor


# ---- Stage 3: the decoder from latent to true actions ------------------------------------------------------


def train_decoder(args, data, index, actor, stage, run):
    """Decodes the frozen actor's latent actions to true actions on labelled transitions (data at index)."""
    cfg = args.decoder
    torch.manual_seed(args.seed)
    decoder = Decoder(cfg, args.lam.latent_action_dim, data.actions.shape[1]).to(args.device)
    optim = torch.optim.Adam(decoder.parameters(), fused=True)

    latent_actions = infer_all(args, lambda obs, _: actor(obs), data, index)
    set_units(decoder, *units_of(data.task, data.actions[index]))
    actions = (data.actions[index].to(args.device) - decoder.mean) / decoder.scale
    total = cfg.num_updates
    for step in run.steps(stage, total, cfg.batch_size, decoder=decoder, optim=optim):
        optim.param_groups[0]["lr"] = learning_rate(cfg.learning_rate, step, 0, total, args.lr_schedule)

        generator = random_generator("decoder", args.seed, step)
        rows = torch.randint(len(index), (cfg.batch_size,), generator=generator)
        rows = to_device(rows.chunk(WORLD_SIZE)[RANK], args.device)

        loss = F.mse_loss(decoder(latent_actions[rows]), actions[rows])

        optim.zero_grad()
        loss.backward()
        average_gradients(optim)
        optim.step()

        if run.log_due(step):
            run.log(step, optim, loss=loss)
    return decoder


# ---- Held-out and online probes: what z tells of the true action (Section 3) -------------------------------


def held_out_probe(args, lam, data, eval_data):
    """Errors of actions predicted from z, on trajectories on which no probe was fitted, at k = 1.

    Unlike the online probe (the paper's measure) in closed form, and without augmentation. action_probe:
    ridge regression from z. blind_probe: the same from z of (obs, obs), for which the IDM has not seen what
    comes next, so that it guesses from the pose.
    """
    results = {}
    fitted, tests = split_for_probes(args, data, eval_data)

    fitted_z = infer_some(args, lam, *fitted)
    probe = fit_ridge(*fitted_z[:2])
    for videos, source in tests.items():
        held_out_z = infer_some(args, lam, *source)
        z, actions, _ = held_out_z
        results |= action_errors("action_probe", videos, probe(z), actions)
        results |= perturbation_errors("", videos, fitted_z, held_out_z)
        results["effective_rank"] = effective_rank(z)  # on unseen videos, the last

    def blind_lam(obs, next_obs):
        return lam(obs, obs)

    fitted_z = infer_some(args, blind_lam, *fitted)
    probe = fit_ridge(*fitted_z[:2])
    for videos, source in tests.items():
        held_out_z = infer_some(args, blind_lam, *source)
        z, actions, _ = held_out_z
        results |= action_errors("blind_probe", videos, probe(z), actions)
        results |= perturbation_errors("blind_", videos, fitted_z, held_out_z)
    return results


def split_for_probes(args, data, eval_data):
    """(data, trajectories) on which probes are fitted, and on which they are tested, by kind of videos.

    Fitted on trajectories whose labels no method learns from: in the shuffle behind the largest budget and
    before the last fifth; where all are labelled, on half of the evaluation data. seen_videos: the last
    fifth, without what is labelled of it; unseen_videos: the evaluation data.
    """
    unlabeled = data.shuffle[max(args.num_labeled_trajectories) :]
    one_fifth = max(1, len(data.shuffle) // 5)
    fitted = (data, unlabeled[:-one_fifth])
    unseen = (eval_data, eval_data.shuffle)
    if len(fitted[1]) == 0:
        fitted, unseen = [(eval_data, half) for half in np.array_split(eval_data.shuffle, 2)]
    tests = {"seen_videos": (data, unlabeled[-one_fifth:]), "unseen_videos": unseen}
    return fitted, {videos: source for videos, source in tests.items() if len(source[1])}


def policy_errors(args, policy, data):
    """Errors of a policy's actions on unseen videos."""
    prediction, actions, _ = infer_some(args, lambda obs, _: policy(obs), data, data.shuffle)
    return action_errors("policy", "unseen_videos", prediction, actions)


def action_errors(kind, videos, prediction, actions):
    """MSE of predicted actions (N, A), and over Var(a), where 1 is what the mean action reaches."""
    if not actions.isfinite().all():  # plain videos have none
        return {}
    mse = F.mse_loss(prediction, actions)
    variance = actions.var(0, unbiased=False).mean()
    return {f"{kind}_mse/{videos}": mse.item(), f"{kind}_mse_over_var/{videos}": (mse / variance).item()}


def warn_if_dead(args, actor, data, index, variance, stage, run):
    """Says so if an actor's answers hardly vary, beside the variance of what it was to learn."""
    answers = infer_all(args, lambda obs, _: actor(obs), data, index[:: len(index) // 512 + 1])
    if answers.var(0).mean() < 0.03 * variance:
        run.say(f"warning: {stage}: the actor answers all observations alike; lower --bc.learning-rate")


def infer_some(args, network, data, trajectories):
    """z, actions, expert_actions of at most 50,000 transitions, in the files' order; twins have the same."""
    index = data.transitions(trajectories)
    index = index[permutation(len(index), 0, 0)[:50_000].sort()[0]]
    z = infer_all(args, network, data, index)
    return z, data.actions[index].to(args.device), data.expert_actions[index].to(args.device)


PENALTIES = [10.0**exponent for exponent in range(-6, 4)]  # in units of a dimension's variance


def fit_ridge(z, target, penalties=PENALTIES):
    """Ridge regression from z (N, Z) to a target (N, D), as a function.

    Each dimension of z has unit variance. Fitted on four fifths of the rows, with the penalty that suits the
    last fifth best, which are other trajectories: so a large z that knows nothing predicts the mean.
    """
    z_mean = z.mean(0)
    z_scale = z.std(0)
    z_scale = z_scale.where(z_scale > 1e-5 * z.abs().max(), torch.inf)  # of rounding nothing is learned
    target_mean = target.mean(0)
    four_fifths = [4 * len(z) // 5]
    x, x_chooses = ((z - z_mean) / z_scale).double().tensor_split(four_fifths)
    y, y_chooses = (target - target_mean).double().tensor_split(four_fifths)
    gram = x.T @ x / len(x)
    covariances = x.T @ y / len(x)
    one = torch.eye(len(gram)).to(gram)
    candidates = [torch.linalg.solve(gram + penalty * one, covariances) for penalty in penalties]

    def error(weight):
        return F.mse_loss(x_chooses @ weight, y_chooses)

    weight = min(candidates, key=error).float()
    return lambda z: (z - z_mean) / z_scale @ weight + target_mean


def perturbation_errors(prefix, videos, fitted, held_out):
    """How well z predicts the noise that was added to the expert's action, and the action without it.

    perturbation_r2: R² of actions from z, after a linear regression on expert_actions has been subtracted
    from both, which leaves the noise: 0 nothing, 1 all of it. plan_r2: R² of expert_actions from z. From
    fitted to held_out, each z (N, Z), actions and expert_actions (N, A); {} where nothing was added.
    """
    z, actions, plan = fitted
    held_out_z, held_out_actions, held_out_plan = held_out
    if torch.equal(actions, plan) or not (plan.isfinite().all() and held_out_plan.isfinite().all()):
        return {}

    def beyond_plan(values, held_out_values):
        predict = fit_ridge(plan, values, penalties=[1e-9])  # ordinary least squares
        return values - predict(plan), held_out_values - predict(held_out_plan)

    own_z, held_out_own_z = beyond_plan(z, held_out_z)
    noise, held_out_noise = beyond_plan(actions, held_out_actions)
    noise_error = F.mse_loss(fit_ridge(own_z, noise)(held_out_own_z), held_out_noise)
    plan_error = F.mse_loss(fit_ridge(z, plan)(held_out_z), held_out_plan)
    perturbation_r2 = 1 - noise_error / held_out_noise.square().mean()
    plan_r2 = 1 - plan_error / held_out_plan.var(0, unbiased=False).mean()
    return {
        f"{prefix}perturbation_r2/{videos}": perturbation_r2.item(),
        f"{prefix}plan_r2/{videos}": plan_r2.item(),
    }


def effective_rank(z):
    """Participation ratio of the principal components of z (N, Z), from 1 to Z."""
    z = z[:: len(z) // 4096 + 1]
    centered = z - z.mean(0)
    gram = centered @ centered.T
    return (gram.trace() ** 2 / gram.square().sum().clamp(min=1e-30)).item()


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


class Probes(nn.Module):
    """Linear probes (Section 3) of z and of the embedding of obs."""

    def __init__(self, latent_action_dim, embedding_dim, data):
        super().__init__()
        action_dim = data.actions.shape[1]
        known_actions = data.actions[data.actions.isfinite().all(1)]
        add_units(self, action_dim)
        set_units(self, *units_of(data.task, known_actions))
        self.variance = nan
        if data.has_actions:
            self.variance = (known_actions / self.scale).var(0, correction=0).mean().item()
        self.action = nn.Linear(latent_action_dim, action_dim)
        self.obs_action = nn.Linear(embedding_dim, action_dim)
        self.state = nn.Linear(embedding_dim, data.states.shape[1])

    def forward(self, z, obs_embedding, actions, states):
        actions = (actions - self.mean) / self.scale
        return {
            "action_probe_mse": known_mse(self.action(z), actions),
            "obs_action_probe_mse": known_mse(self.obs_action(obs_embedding), actions),
            "state_probe_mse": known_mse(self.state(obs_embedding), states),
        }

    def over_variance(self, losses):
        names = ("action_probe_mse", "obs_action_probe_mse")
        return {f"{name}_over_var": losses[name] / self.variance for name in names}


def known_mse(prediction, target):
    """Mean squared error over the rows that have a target; NaN are those of other tasks and plain videos."""
    known = target.isfinite()
    errors = (prediction.float() - target.nan_to_num()).square() * known
    return errors.sum() / known.sum().clamp(min=1)


# ---- Schedule and batches ----------------------------------------------------------------------------------


def learning_rate(peak, step, warmup, total, schedule):
    """Linear from zero over the warm-up, then cosine or linear to zero at the end (Appendix D)."""
    if step < warmup:
        return peak * min((step + 1) / warmup, 1)
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
    actions: float32 (N, A), of the paper's tasks clipped to [-1, 1], as its files hold unclipped means;
        --raw-actions leaves them
    expert_actions: float32 (N, A), the mean of actions over the noise of collect_data.py --action-noise
    first, last, trajectory: int64 (N,), ends and number of each frame's trajectory
    shuffle: a fixed order of the trajectories, whose beginnings are the label budgets
    max_transitions: transitions() answers with at most so many, in a rehearsal

    A file that is no dataset ends the script with one line.
    """

    def __init__(self, patterns, args, task=None, trajectories_per_file=None, data_device="disk"):
        self.args = args
        self.task = task
        self.attributes = None  # of the first file
        self.paths = []
        trajectories = []
        for pattern in patterns:  # a path that exists is taken as it is, even with brackets
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

        self.max_transitions = None
        self.shuffle = np.random.default_rng(42).permutation(len(trajectories))
        if self.task in BC_RETURNS and not args.raw_actions:
            outside = (self.actions.abs() > 1).sum()
            if outside and RANK == 0:
                of_all = f"{outside} of {self.actions.numel()}"
                print(f"{', '.join(self.paths)}: {of_all} action values clipped to [-1, 1]")
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
        brightest = int(self.gather(self.some_rows()).max())
        if brightest <= 1:
            raise SystemExit(f"error: {', '.join(self.paths)}: obs are 0 to {brightest}, not 0 to 255")
        if len(self.transitions(self.shuffle)) == 0:
            raise SystemExit(f"error: {', '.join(self.paths)}: no trajectory has two frames")

    def read(self, file, number, limit):
        """Yields file, first byte and number of frames, return, and the arrays of each trajectory."""
        task = f"{file.attrs['domain_name']}-{file.attrs['task_name']}"
        if "b'" in task:
            raise ValueError(f"domain_name and task_name are bytes, not text of variable length: {task}")
        world = file.attrs.get("world", WORLD)  # the paper's files and own ones name none
        if world != WORLD:
            raise ValueError(f"it shows world {world}, not {WORLD}; collect_data.py collects it again")
        self.task = self.task or task
        self.attributes = self.attributes or dict(file.attrs)
        self.difficulty = self.attributes.get("difficulty", "vanilla")
        self.action_repeat = int(self.attributes.get("action_repeat", 1))
        if file.attrs.get("action_repeat", 1) != self.action_repeat:
            raise ValueError(f"its action_repeat is not that of {self.paths[0]}")
        difficulty = file.attrs.get("difficulty", "vanilla")
        if difficulty != self.difficulty and RANK == 0:
            print(f"{self.paths[number]}: {difficulty}; episodes are {self.difficulty}, as in the first file")
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
        return chosen.nonzero()[: self.max_transitions, 0]

    def some_rows(self):
        return torch.arange(64) * (len(self.last) - 1) // 63

    def fingerprint(self):
        """What the data hold, wherever the files lie: attributes, lengths, actions, 64 frames."""
        attributes = sorted(f"{name}: {value}" for name, value in self.attributes.items())
        rows = self.some_rows()
        contents = (self.last, self.actions, self.expert_actions, self.gather(rows).cpu())
        return b"".join([repr(attributes).encode(), *(content.numpy().tobytes() for content in contents)])

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
    try:
        mapped = np.memmap(path, mode="r")  # bytes
    except OSError as error:
        raise SystemExit(f"error: {path}: {error.strerror}: raise ulimit -n or -v, or merge the files")
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
    if torch.device(device).type == "cuda" and not x.is_cuda:
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def to_input(frames, args):
    """uint8 (B, T, 64, 64, 3) → (B, 3 T, 64, 64) in [-1, 0.992], on the device, stored channels-last."""
    frames = to_device(frames, args.device)
    stacked = torch.cat(frames.unbind(1), -1).permute(0, 3, 1, 2)
    minus_one = torch.full((), -1, dtype=args.dtype, device=args.device)
    return torch.add(minus_one, stacked, alpha=1 / 128)  # one pass; exact for all 256 levels in bfloat16


def units_of(task, actions):
    """Mean and scale (A,) of actions (n, A): networks learn (action - mean) / scale, whatever the units are.

    The paper's tasks keep theirs, as its hyperparameters are made for them.
    """
    mean = torch.zeros(actions.shape[1])
    scale = torch.ones(actions.shape[1])
    if task not in BC_RETURNS and len(actions) > 0:
        mean = actions.mean(0)
        deviation = actions.std(0, correction=0)
        scale = deviation.where(deviation > 1e-6 * mean.abs(), scale)  # of a constant: 1
    return mean, scale


def add_units(network, dim):
    """Buffers for the units of what a network answers: mean and scale (dim,)."""
    network.register_buffer("mean", torch.zeros(dim))
    network.register_buffer("scale", torch.ones(dim))


def set_units(network, mean, scale):
    """Keeps the units of a network's answers among its weights; scale may be one number for all."""
    network.mean.copy_(mean)
    network.scale.copy_(scale)


def in_units(network, answer):
    """What a network's answer stands for, an action or a latent action, in float32."""
    return answer.float() * network.scale + network.mean


# ---- Augmentation (Section 4; Almuzairee et al., 2024) -----------------------------------------------------

MAX_SHIFT = 14  # pixels
MAX_ROTATION = pi / 2  # radians
DISTORTION = 0.5  # corners of a perspective move inwards by at most this share of half the image
HALF = (IMG_HW - 1) / 2  # pixels from the image's centre to the middle of its outermost pixels
# kinds of warps: 0 identity, 1 shift, 2 rotation, 3 perspective; a pair is one of these eight
FIRST_WARPS = torch.tensor([0, 1, 2, 3, 1, 2, 2, 3])
SECOND_WARPS = torch.tensor([0, 0, 0, 0, 2, 1, 3, 2])


def augment(images, generator):
    """Warps each image (B, C, 64, 64), all frames of a stack alike: bilinear sampling, replicated edges."""
    homographies = random_homographies(len(images), generator)
    axis = torch.arange(IMG_HW, device=images.device) - HALF
    pixels = F.pad(torch.cartesian_prod(axis, axis).flip(1), (0, 1), value=1.0)  # (64², 3): x, y, 1
    points = (to_device(homographies, images.device) @ pixels.T).mT  # (B, 64², 3)
    grid = (points[..., :2] / points[..., 2:] / HALF).unflatten(1, (IMG_HW, IMG_HW))
    return F.grid_sample(images.float(), grid, "bilinear", "border", align_corners=True).to(images.dtype)


def random_homographies(number, generator):
    """From output to input pixels about the image's centre: float32 (number, 3, 3)."""
    warps = torch.eye(3).repeat(4, number, 1, 1)
    shift = MAX_SHIFT * (torch.rand(number, 2, generator=generator) * 2 - 1)
    warps[1, :, :2, 2] = shift.round()
    angle = MAX_ROTATION * (torch.rand(number, generator=generator) * 2 - 1)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1)
    warps[2, :, :2, :2] = rotation.view(number, 2, 2)
    warps[3] = perspective(1 - DISTORTION * torch.rand(number, 4, 2, generator=generator))
    pair = torch.randint(len(FIRST_WARPS), (number,), generator=generator)
    each = torch.arange(number)
    return warps[FIRST_WARPS[pair], each] @ warps[SECOND_WARPS[pair], each]


def perspective(inwards):
    """Homographies (n, 3, 3) from corners moved inwards by factors (n, 4, 2) to the image's own corners."""
    corners = HALF * torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    moved = F.pad(corners * inwards, (0, 1), value=1.0)  # (n, 4, 3), homogeneous
    zero = torch.zeros_like(moved)
    # of rows h₁, h₂, h₃, with h₃₃ = 1: (h₁ - u h₃) · moved = 0 and (h₂ - v h₃) · moved = 0
    u_rows = torch.cat([moved, zero, -corners[:, :1] * moved[..., :2]], -1)
    v_rows = torch.cat([zero, moved, -corners[:, 1:] * moved[..., :2]], -1)
    entries = torch.linalg.solve(torch.cat([u_rows, v_rows], 1), corners.T.flatten())
    return F.pad(entries, (0, 1), value=1.0).view(-1, 3, 3)


# ---- Run keeping: records, checkpoints, results ------------------------------------------------------------

OWN_ARGS = SCRIPT.with_name("args.json")  # beside a run's own copy of the script
SOURCE = SCRIPT.read_bytes()  # as it runs: the file may be edited meanwhile
BAR_SECONDS = 0.1 if sys.stderr.isatty() else 10  # between two updates of a progress bar
NOT_COUNTED = {"data", "labeled_data", "eval_data", "num_labeled_trajectories", "runs", "rehearsal", "eval"}
NOT_COUNTED |= {"checkpoint_minutes", "device", "data_device", "compile", "log_interval", "track"}


def find_folder(args, data, labeled_data, eval_data):
    """The run's folder, its identity (a hash of what decides its result), and whether it has begun.

    Hashed are arguments, but for those that do not count, the script's bytes, and what the data hold: files
    may move. A run's own copy of the script works where it lies. The folder's identity.json must agree.
    """
    counted = {name: value for name, value in asdict(args).items() if name not in NOT_COUNTED}
    digest = hashlib.sha256(json.dumps(counted).encode())
    digest.update(SOURCE)
    for dataset in (data, labeled_data, eval_data):
        digest.update(dataset.fingerprint())
    identity = digest.hexdigest()[:8]

    prefix = f"{args.runs}/{labeled_data.task}__{SCRIPT.stem}__{args.seed}__"
    folder = f"{prefix}{identity}"
    if OWN_ARGS.exists():
        folder = str(SCRIPT.parent)
    elif RANK == 0 and not os.path.exists(folder):
        for other in glob.glob(f"{glob.escape(prefix)}*/checkpoint.pt"):
            own_script = shlex.quote(f"{os.path.dirname(other)}/{SCRIPT.name}")
            print(f"unfinished, of other arguments, script or data; to continue it: python {own_script}")
    began = any(os.path.exists(f"{folder}/{name}") for name in ("checkpoint.pt", "results.json"))
    if read_json(f"{folder}/identity.json").get("identity", None if began else identity) != identity:
        raise SystemExit(
            f"error: {folder} has a run of other arguments, script or data: undo the change, or "
            "copy what is to stay (docs/runs.md, A later stage anew)"
        )
    return folder, identity, began


def agree(facts):
    """Ends the run where a rank finds other facts than the first: another script, data, or disk."""
    first = [facts]
    if WORLD_SIZE > 1:
        dist.broadcast_object_list(first)
    if first[0] != facts:
        raise SystemExit(f"error: rank {RANK}: {facts}, not {first[0]}: all need one script, data and disk")


class Run:
    """The run's folder: arguments, script, metrics.jsonl, weights, results. Of several ranks one writes.

    checkpoint.pt holds what a killed run needs to go on: the stage and its step, the state of all that is
    trained, what is known of finished budgets, and the size of metrics.jsonl. Signals end a stage with a
    checkpoint. budgets: the label budgets that are left to do.
    """

    def __init__(self, args, folder, identity, data, evaluation):
        self.args = args
        self.folder = folder
        self.evaluation = evaluation
        self.stage = None
        self.stop_asked = False
        self.began = time.time()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup ignores it
                signal.signal(number, self.stop)
        if RANK == 0:
            self.lock()
        if WORLD_SIZE > 1:
            dist.barrier()  # the first rank has locked the folder
        self.checkpoint = {"stage": None, "hours": 0, "core_hours": 0, "metrics_size": 0}
        stopped = os.path.exists(f"{folder}/checkpoint.pt")
        if stopped:
            self.checkpoint = load(f"{folder}/checkpoint.pt")
        self.results = read_json(f"{folder}/results.json")
        if WORLD_SIZE > 1:
            dist.barrier()  # all have read them before the first rank writes
        self.spent_before = {}
        for name in ("hours", "core_hours"):
            self.spent_before[name] = max(self.checkpoint[name], self.results.get(name, 0))
        budgets = self.checkpoint.get("budgets", self.results.get("budgets", {}))
        self.budgets = []
        for budget in args.num_labeled_trajectories if data.has_actions else ():
            if budgets.get(str(budget), {}).get("evaluation") != evaluation:
                self.budgets.append(budget)
        stopped_at = str(self.checkpoint["stage"])
        self.budgets.sort(key=lambda budget: not stopped_at.endswith(f"_{budget}"))  # its stage goes on first
        self.finished = bool(self.results) and not self.budgets and not stopped
        self.tracker = None
        if RANK > 0 or self.finished:
            return
        if not stopped:  # it begins, or had finished
            self.checkpoint["metrics_size"] = os.path.getsize(self.metrics.name)
        self.metrics.seek(self.checkpoint["metrics_size"])
        self.metrics.truncate()  # what was logged after the checkpoint comes again
        table_3 = BC_RETURNS.get(args.eval.env_id or data.task, (None, None))
        self.results = {
            "script": SCRIPT.name,
            "task": data.task,
            "difficulty": data.difficulty,
            "seed": args.seed,
            "precision": args.precision,
            "world": WORLD,
            "dataset_return": round(float(np.mean(data.returns)), 2),
            "random_return": round(float(data.attributes.get("random_return", nan)), 2),
            "reference_return": args.eval.reference_return or table_3[data.difficulty == "vanilla"],
            **describe_machine(),
            "budgets": budgets,
        }
        names = {"identity": identity, "tracker": os.urandom(4).hex()} | read_json(f"{folder}/identity.json")
        if args.track:
            self.tracker = start_tracking(args, folder, names["tracker"], data)
        self.save("identity.json", json.dumps(names))
        self.save("args.json", json.dumps(asdict(args), indent=2))
        self.save(SCRIPT.name, SOURCE)
        sys.modules[__name__].__file__ = f"{folder}/{SCRIPT.name}"  # what evaluation's workers import
        if self.tracker:
            self.tracker.save(f"{folder}/{SCRIPT.name}", folder)
        if not stopped:
            self.save_checkpoint({"stage": None})
        print(f"run folder: {folder} ({args.precision})")

    def lock(self):
        """Opens metrics.jsonl for as long as the process lives, and for this process alone."""
        os.makedirs(self.folder, exist_ok=True)
        self.metrics = open(f"{self.folder}/metrics.jsonl", "a")  # noqa: SIM115
        try:
            fcntl.flock(self.metrics, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"error: another process works in {self.folder}")
        except OSError as error:  # network disks may know no locks
            print(f"warning: {self.metrics.name}: {error.strerror}: start no second process", file=sys.stderr)

    def steps(self, stage, total, batch_size, **parts):
        """Yields the steps of a stage, from its checkpoint on; saves its parts when due or stopped.

        A stage is called after the part that it makes, and after its label budget if it has one: weights go
        to <stage>.pt at the end. Where this file is there already, it is loaded and no step is left.
        """
        product = parts[stage.split("_")[0]]
        first = 0
        checkpoint = self.checkpoint
        if checkpoint["stage"] == stage:
            self.checkpoint = {"stage": None}  # its memory becomes free
        if os.path.exists(f"{self.folder}/{stage}.pt"):
            product.load_state_dict(load(f"{self.folder}/{stage}.pt"))
            return
        if checkpoint["stage"] == stage:
            first = checkpoint["step"]
            for name, part in parts.items():
                part.load_state_dict(checkpoint["parts"][name])
        del checkpoint
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
                states = {name: part.state_dict() for name, part in parts.items()}
                self.save_checkpoint({"stage": stage, "step": step + 1, "parts": states})
                saved_at = time.time()
            if stop:
                self.stage = None
                self.stop()
        self.stage = None
        self.save(f"{stage}.pt", product.state_dict())
        if self.stop_asked and WORLD_SIZE == 1:  # behind the last look
            self.stop()

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
        record = {f"{self.stage}/{name}": torch.as_tensor(value).item() for name, value in values.items()}
        self.bar.set_postfix_str(f"loss {values['loss']:.4f}, {speed:.0f} transitions/s")
        self.write_record(self.stage, {"step": step + 1} | record)

    def write_record(self, stage, record):
        record = {"stage": stage, "hours": round(self.spent()["hours"], 4)} | without_nan(record)
        print(json.dumps(record), file=self.metrics, flush=True)
        if self.tracker:
            self.tracker.log(record)

    def spent(self):
        """Wall hours and core hours, also those before the run was continued."""
        hours = (time.time() - self.began) / 3600
        core_hours = hours * torch.get_num_threads() * WORLD_SIZE
        before = self.spent_before
        return {"hours": before["hours"] + hours, "core_hours": before["core_hours"] + core_hours}

    def say(self, text):
        if RANK == 0:
            print(text)

    def stop(self, *_):
        """Answers a signal: between stages at once, inside one after the step, when all ranks know of it."""
        self.stop_asked = True
        if self.stage is None:
            own_script = shlex.quote(f"{self.folder}/{SCRIPT.name}")
            raise SystemExit(f"stopped; the same command continues, or: python {own_script}")

    def save_checkpoint(self, checkpoint):
        if RANK == 0:
            os.fsync(self.metrics.fileno())
            now = self.spent() | {"metrics_size": self.metrics.tell()}
            self.save("checkpoint.pt", checkpoint | now | {"budgets": self.results["budgets"]})

    def save(self, file_name, content):
        """Writes text, bytes, or what torch.save takes, whole or not at all."""
        if RANK > 0:
            return
        path = f"{self.folder}/{file_name}"
        try:
            with open(f"{path}.partial", "wb") as file:
                if isinstance(content, str):
                    file.write(content.encode())
                elif isinstance(content, bytes):
                    file.write(content)
                else:
                    torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())  # on the disk before it gets its name
        except (OSError, RuntimeError) as error:  # a full disk; torch.save hides the first in the second
            Path(f"{path}.partial").unlink(missing_ok=True)
            raise SystemExit(f"error: {path}: {error.__context__ or error}; what was saved before stands")
        os.replace(f"{path}.partial", path)

    def finish_budget(self, budget, measures, returns, film):
        """Keeps what a label budget has reached: measures, returns (episodes,) by environment, their film."""
        measures["evaluation"] = self.evaluation
        for environment, played in returns.items():
            mean = played.mean().item()
            measures[f"return_mean/{environment}"] = mean
            measures[f"return_std/{environment}"] = played.std().item()
            measures[f"returns/{environment}"] = played.tolist()
            if self.results["reference_return"]:
                measures[f"normalized_score/{environment}"] = mean / self.results["reference_return"]
            self.write_record(f"eval_{budget}", {f"eval_{budget}/return_mean/{environment}": mean})
        if film is not None:
            path = f"{self.folder}/rollout_{budget}.gif"
            imageio.imwrite(path, film, duration=40, loop=0)
            if self.tracker:
                import wandb

                self.tracker.log({f"rollout_{budget}": wandb.Video(path)})
        self.results["budgets"][str(budget)] = without_nan(measures)
        self.save_checkpoint(self.checkpoint)  # with the budget, whose lines it counts
        self.save_results()

    def save_results(self):
        self.results |= self.spent()
        self.save("results.json", json.dumps(without_nan(self.results), indent=2))
        if self.tracker:
            self.tracker.summary.update(self.results)

    def finish(self):
        """The last checkpoint goes; weights and results stay."""
        if RANK == 0:
            if not self.finished:
                self.save_results()
            Path(f"{self.folder}/checkpoint.pt").unlink(missing_ok=True)
            print_table(self.results)
            print(f"finished: {self.folder}")


class Rehearsal:
    """Stands in for a Run: one step a stage, and nothing is written, said or kept."""

    def __init__(self, budgets):
        self.budgets = budgets

    def steps(self, stage, total, batch_size, **parts):
        yield from range(min(total, 1))

    def log_due(self, step):
        return True

    def log(self, step, optim, **values):
        for value in values.values():
            torch.as_tensor(value).item()

    def say(self, text):
        pass

    def save(self, file_name, content):
        pass

    def finish_budget(self, budget, measures, returns, film):
        json.dumps(measures)


def rehearse(args, datasets, environments):
    """Plays a run through in seconds, so that what would fail after hours fails now, and leaves no trace.

    Each stage has one update of a full batch, uncompiled, for the smallest and the largest label budget.
    Measures see as many transitions as a batch has. An episode of each kind has two steps.
    """
    began = time.time()
    args = copy.deepcopy(args)
    args.compile = False
    args.eval.num_episodes = 1
    args.eval.max_steps = 2
    datasets = [copy.copy(dataset) for dataset in datasets]
    for dataset in datasets:
        dataset.max_transitions = max(all_batch_sizes(args))
    budgets = args.num_labeled_trajectories if datasets[1].has_actions else ()
    budgets = sorted(budgets)
    with torch.random.fork_rng(devices=[]):  # a GPU's is seeded by each stage
        run_stages(args, *datasets, environments, Rehearsal(dict.fromkeys([*budgets[:1], *budgets[-1:]])))
    if HAS_GPU:
        torch.cuda.empty_cache()
    if RANK == 0:
        print(f"rehearsal: every stage runs ({time.time() - began:.0f} s)")


def start_tracking(args, folder, identifier, data):
    """A run of Weights & Biases, or None if no server answers. Updates of a stage are its steps."""
    import wandb  # takes a second: only where it is wanted

    try:
        tracker = wandb.init(
            project="latent-actions",
            id=identifier,
            name=Path(folder).name[:128],
            group=f"{SCRIPT.stem} {data.task}"[:128],
            tags=[tag[:64] for tag in (SCRIPT.stem, data.task, data.difficulty)],
            resume="allow",
            config=asdict(args),
        )
    except wandb.errors.UsageError as error:  # nobody is logged in
        raise SystemExit(f"error: --track: {error}")
    except wandb.errors.CommError as error:
        print(f"warning: --track: {error}; the run goes on without it", file=sys.stderr)
        return None
    tracker.define_metric("*", step_metric="step")
    return tracker


def describe_machine():
    """When and on what a run was made."""
    packages = ("torch", "numpy", "mujoco", "dm_control")
    versions = {package: importlib.metadata.version(package) for package in packages}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": subprocess.getoutput(f"git -C '{SCRIPT.parent}' rev-parse HEAD 2>/dev/null") or None,
        "cpu": subprocess.getoutput("lscpu 2>/dev/null | sed -n 's/^Model name: *//p'"),
        "cores": NUM_CORES,
        "gpu": torch.cuda.get_device_name() if HAS_GPU else None,
        "ranks": WORLD_SIZE,
        "versions": {"python": sys.version.split()[0]} | versions,
    }


def without_nan(record):
    """NaN and infinity are no JSON: null in their place."""
    return {
        name: None if isinstance(value, float) and not isfinite(value) else value
        for name, value in record.items()
    }


def read_json(path):
    """A JSON file's dictionary, or an empty one where there is no file."""
    try:
        return json.loads(Path(path).read_text()) if os.path.exists(path) else {}
    except ValueError as error:
        raise SystemExit(f"error: {path} is not whole: {error}")


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


# ---- Evaluation --------------------------------------------------------------------------------------------

BC_RETURNS = {  # of the paper's BC on all labels, with and without distractors (Table 3)
    "cheetah-run": (823, 840),
    "walker-run": (749, 735),
    "hopper-hop": (253, 300),
    "humanoid-walk": (428, 601),
}


def act(actor, decoder, obs):
    """The policy: obs (B, 9, 64, 64) → action (B, A) in the data's units."""
    return in_units(decoder, decoder(actor(obs)))


def find_environments(args, data):
    """What policies will play in, functions that make it, by name; and what the evaluation depends on.

    Tasks of dm_control's suite with seen and with unseen videos, or --eval.env-id; empty if there is neither.
    """
    environments = {}
    videos = []
    suite = importlib.metadata.distribution("dm_control").locate_file("dm_control/suite")
    if args.eval.env_id:
        pick_rendering_backend()
        shape = data.actions.shape[1:]
        environments["environment"] = partial(make_gym_env, args.eval.env_id, shape, data.action_repeat)
    elif Path(suite, f"{data.task.split('-')[0]}.py").exists():
        pick_rendering_backend()
        difficulty = data.difficulty
        if difficulty == "vanilla" and "world" not in data.attributes:
            difficulty = "released_vanilla"
        if difficulty not in DIFFICULTIES:
            raise SystemExit(f"error: {data.paths[0]}: difficulty {difficulty!r}, not of {[*DIFFICULTIES]}")
        own_videos = Path(data.paths[0]).parent / data.attributes.get("backgrounds", "backgrounds")
        settings = (data.task, difficulty, args.eval.backgrounds or own_videos)
        for name, split in (("seen_videos", "train"), ("unseen_videos", "val")):
            environments[name] = partial(make_env, *settings, split, data.action_repeat)
            videos += load_videos(settings[2], split, difficulty)
        args.eval.max_steps = min(args.eval.max_steps, -(-EPISODE_LENGTH // data.action_repeat))
    elif RANK == 0:
        print(f"no episodes: {data.task} is no task of dm_control's suite (--eval.env-id plays in Gymnasium)")
    evaluation = {
        "num_episodes": args.eval.num_episodes,
        "env_id": args.eval.env_id,
        "max_steps": args.eval.max_steps,
        "reference_return": args.eval.reference_return,
        "videos": hashlib.sha256(b"".join(video[0].tobytes() for video in videos)).hexdigest()[:8],
    }
    return environments, evaluation


def make_gym_env(env_id, action_shape, action_repeat):
    """Any Gymnasium environment with Box actions, as pictures: uint8 (64, 64, 3)."""
    try:
        env = RepeatAction(gym.make(env_id, render_mode="rgb_array"), action_repeat)
        env = gym.wrappers.AddRenderObservation(env)
    except (gym.error.Error, ImportError) as error:
        raise SystemExit(f"error: --eval.env-id {env_id}: {error}")
    if env.action_space.shape != action_shape:
        shapes = f"{env.action_space.shape}, those of the data {tuple(action_shape)}"
        raise SystemExit(f"error: --eval.env-id {env_id}: its actions are {shapes}")
    space = gym.spaces.Box(0, 255, (IMG_HW, IMG_HW, 3), np.uint8)
    return gym.wrappers.TransformObservation(env, shrink, space)


def shrink(picture):
    return np.asarray(Image.fromarray(picture).resize((IMG_HW, IMG_HW)))


def evaluate(args, environments, policy, run):
    """Plays greedy episodes, all in one batch: returns (episodes,) by environment, and a film.

    The film shows the first 400 steps of the first and the last two episodes, and their returns so far: uint8
    (T, 128, 128 n, 3).
    """
    if not environments:
        return {}, None
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
    names = np.repeat(list(environments), args.eval.num_episodes)
    pictures = []
    last = args.eval.max_steps
    for step in tqdm(range(last + 1), "evaluation", unit="step", delay=10, mininterval=BAR_SECONDS):
        observations, returns, over = map(np.concatenate, zip(*map(answer_of, pipes)))
        if step % 4 == 0 and step < 400:
            shots = [with_title(observations[i, -1], f"{names[i]}\n{returns[i]:.0f}") for i in shown]
            pictures.append(np.hstack(shots))
        if over.all() or step == last:
            break
        with torch.no_grad(), args.autocast(), torch.compiler.set_stance("force_eager"):
            actions = policy(to_input(torch.from_numpy(observations), args)).float().cpu().numpy()
        for pipe, part in zip(pipes, parts):
            pipe.send(actions[part])
    if not over.all():
        run.say(f"--eval.max-steps {last} has ended {(~over).sum()} of {len(over)} episodes")
    return dict(zip(environments, np.split(returns, len(environments)))), np.stack(pictures)


def with_title(picture, title):
    """Twice as large, with a title in its corner: uint8 (128, 128, 3)."""
    large = Image.fromarray(picture).resize((2 * IMG_HW, 2 * IMG_HW), Image.Resampling.NEAREST)
    ImageDraw.Draw(large).text((3, 2), title, "white", stroke_width=1, stroke_fill="black")
    return np.asarray(large)


def answer_of(pipe):
    """What a worker has sent: (observations, returns, over); its error ends this process, too."""
    try:
        answer = pipe.recv()
    except EOFError:
        raise SystemExit("error: a worker of the evaluation was killed: try --eval.num-workers 1")
    if isinstance(answer, str):
        raise SystemExit(answer)
    return answer


def play_episodes(pipe, episodes, frame_stack):
    """A worker process: steps its environments, sends (observations, returns, over), receives actions."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process answers Ctrl-C
    try:
        envs = []
        observations = []
        for make, seed in episodes:
            envs.append(gym.wrappers.FrameStackObservation(make(), frame_stack, padding_type="reset"))
            observations.append(envs[-1].reset(seed=seed)[0])
        returns = np.zeros(len(envs))
        over = np.zeros(len(envs), bool)
        while True:
            pipe.send((observations, returns, over))
            actions = pipe.recv()
            for i in np.flatnonzero(~over):
                action = actions[i].clip(envs[i].action_space.low, envs[i].action_space.high)
                observations[i], reward, terminated, truncated, _ = envs[i].step(action)
                returns[i] += reward
                over[i] = terminated or truncated
    except (EOFError, ConnectionError):  # the main process has ended
        pass
    except SystemExit as error:
        pipe.send(str(error))
    except Exception:
        pipe.send(traceback.format_exc())


def print_measures(title, measures, run):
    run.say(f"{title}:")
    for name, value in measures.items():
        run.say(f"    {name} {value:.3f}")


def print_table(results):
    """What each label budget has reached: returns, normalised scores, errors of actions as MSE / Var(a)."""
    print("\n| labelled | videos | return | score | policy's error | other measures |")
    print("|---|---|---|---|---|---|")
    for budget, measures in results["budgets"].items():
        error = to_cell(measures.get("policy_mse_over_var/unseen_videos"))
        for videos in ("seen_videos", "unseen_videos", "environment"):
            returns = "–"
            if f"return_mean/{videos}" in measures:
                mean, deviation = measures[f"return_mean/{videos}"], measures[f"return_std/{videos}"]
                returns = f"{mean:.1f} ± {deviation:.1f}"
            score = to_cell(measures.get(f"normalized_score/{videos}"))
            others = []
            for kind in ("action_probe", "blind_probe", "action_head", "idm", "perturbation_r2", "plan_r2"):
                value = measures.get(f"{kind}_mse_over_var/{videos}", measures.get(f"{kind}/{videos}"))
                others += [f"{kind} {value:.3f}"] if value is not None else []
            if returns != "–" or others or videos == "unseen_videos":  # where the policy's error is measured
                print(f"| {budget} | {videos} | {returns} | {score} | {error} | {', '.join(others)} |")


def to_cell(value):
    return "–" if value is None else f"{value:.3f}"


# ---- Main --------------------------------------------------------------------------------------------------


class Output:
    """A stream of text that may lose its reader: to print to a closed terminal or pipe is no error."""

    def __init__(self, stream):
        self.stream = stream
        stream.reconfigure(errors="replace")  # where the locale lacks a letter

    def write(self, text):
        with contextlib.suppress(OSError):
            self.stream.write(text)

    def flush(self):
        with contextlib.suppress(OSError):
            self.stream.flush()

    def __getattr__(self, name):
        return getattr(self.stream, name)


def start_process(args):
    """Connects the ranks; has glibc keep freed memory: mapping it anew costs a CPU a quarter of its time."""
    sys.stdout = Output(sys.stdout)
    sys.stderr = Output(sys.stderr)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: whose end stays
    if WORLD_SIZE > 1:
        if args.device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(timeout=datetime.timedelta(hours=2))  # they wait while the first evaluates
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        raise SystemExit(f"error: --device {args.device}: {str(error).splitlines()[0]}")
    if args.data_device == "gpu" and "cpu" in args.device:
        raise SystemExit(f"error: --data-device gpu with --device {args.device}")


def parse_args(argv):
    """The command line: a preset's name first, else paper. A run's own copy begins with its arguments."""
    if "--resume" in argv:
        raise SystemExit("error: --resume is gone: the same command continues a run, or its own copy does")
    if OWN_ARGS.exists():
        args = tyro.cli(Args, args=argv, default=load_args(OWN_ARGS), prog=SCRIPT.name)
    else:
        if not argv or argv[0].startswith("-"):
            argv = ["paper", *argv]
        if argv[0] not in PRESETS:
            raise SystemExit(f"error: no preset {argv[0]!r}: there are {', '.join(PRESETS)}")
        args = tyro.extras.overridable_config_cli(PRESETS, args=argv, prog=SCRIPT.name)
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
                if too_small or not isfinite(number) or number >= 2**63:
                    raise SystemExit(f"error: {own_flag} {number}: too small, too large, or not finite")
        if value == () and name in ("data", "num_labeled_trajectories"):
            raise SystemExit(f"error: {own_flag}: nothing is given")
    if getattr(args, "num_epochs", 0) and args.warmup_epochs > args.num_epochs:
        raise SystemExit(f"error: {flag}warmup-epochs {args.warmup_epochs}: the stage is over before that")


OF_THIS_MACHINE = ("device", "data_device", "compile", "num_workers")


def load_args(path):
    """The arguments of a run from its args.json, but for those of this machine."""
    args = Args()
    restore(args, read_json(path))
    return args


def restore(args, values):
    for name, value in values.items():
        if isinstance(value, dict):
            restore(getattr(args, name), value)
        elif name not in OF_THIS_MACHINE:
            setattr(args, name, tuple(value) if isinstance(value, list) else value)


def load_data(args):
    """Data, labelled and evaluation data. Refuses what a rehearsal cannot show."""
    labeled_data = Dataset(args.labeled_data or args.data, args)
    data = Dataset(args.data, args, labeled_data.task, args.trajectories_per_file, args.data_device)
    source = labeled_data.paths[0]
    beside = ["val".join(path.rsplit("train", 1)) for path in labeled_data.paths]
    if not args.eval_data and not os.path.exists(beside[0]):
        raise SystemExit(f"error: no evaluation file {beside[0]}: give --eval-data")
    eval_data = Dataset(args.eval_data or beside, args)
    budgets = args.num_labeled_trajectories
    batch_sizes = all_batch_sizes(args)
    if any(batch_size % WORLD_SIZE for batch_size in batch_sizes):
        raise SystemExit(f"error: batch sizes must be multiples of the number of ranks, {WORLD_SIZE}")
    for dataset in (labeled_data, eval_data):
        if labeled_data.has_actions and dataset.actions.isnan().any():
            raise SystemExit(
                f"error: {dataset.paths[0]}: a trajectory without actions of {dataset.task}: give "
                "--labeled-data and --eval-data in which all have them"
            )
    if labeled_data.has_actions and max(budgets) > len(labeled_data.shuffle):
        raise SystemExit(f"error: --num-labeled-trajectories {max(budgets)}: more than {source} has")
    if labeled_data.has_actions:
        (_, fitted), tests = split_for_probes(args, labeled_data, eval_data)
        if not tests:
            raise SystemExit(f"error: {eval_data.paths[0]}: one trajectory is too few to fit and test probes")
        if len(fitted) < 16 and RANK == 0:
            print(f"warning: {len(fitted)} trajectories are few to fit probes on: expect large errors")
    smallest = labeled_data.shuffle[: min(budgets)]
    for flag, size, dataset, trajectories in (
        ("--lam.batch-size", args.lam.batch_size, data, data.shuffle),
        ("--bc.batch-size", args.bc.batch_size, data, data.shuffle),
        ("--num-labeled-trajectories", 1, labeled_data, smallest),
    ):
        number = len(dataset.transitions(trajectories))
        if number < size:
            trajectories_of = f"{len(trajectories)} trajectories of {dataset.paths[0]}"
            raise SystemExit(f"error: {flag} needs {size} transitions: {trajectories_of} have {number}")
    labels = labeled_data.actions[labeled_data.transitions(smallest)]
    if labeled_data.has_actions and (labels == labels[:1]).all():
        raise SystemExit(f"error: {source}: all actions of {min(budgets)} trajectories are the same")
    if len({dataset.action_repeat for dataset in (data, labeled_data, eval_data)}) > 1:
        raise SystemExit(f"error: {source}: data, labelled and evaluation data differ in their action_repeat")
    files = {*map(os.path.realpath, data.paths + labeled_data.paths)}
    if eval_data.task != labeled_data.task or files & {*map(os.path.realpath, eval_data.paths)}:
        raise SystemExit(f"error: no other file of {labeled_data.task} to evaluate on: give --eval-data")
    sizes = (labeled_data.actions.shape[1], eval_data.actions.shape[1])
    if sizes[0] != sizes[1] and labeled_data.has_actions:
        raise SystemExit(
            f"error: {eval_data.paths[0]} has actions of {sizes[1]} numbers, {source} of {sizes[0]}"
        )
    return data, labeled_data, eval_data


def all_batch_sizes(args):
    sizes = []
    for stage in filter(is_dataclass, vars(args).values()):
        sizes += [size for name, size in vars(stage).items() if name.endswith("batch_size")]
    return sizes


def run_stages(args, data, labeled_data, eval_data, environments, run):
    """All of a run, or of its rehearsal, that is left to do."""
    lam = train_lam(args, data, "lam", run)
    if RANK == 0:
        held_out = held_out_probe(args, lam, labeled_data, eval_data)
        print_measures("latent actions", held_out, run)
    actor = train_actor(args, data, lam, "actor", run)
    for budget in run.budgets:
        index = labeled_data.transitions(labeled_data.shuffle[:budget])
        decoder = train_decoder(args, labeled_data, index, actor, f"decoder_{budget}", run)
        if RANK == 0:
            policy = partial(act, actor, decoder)
            measures = held_out | policy_errors(args, policy, eval_data)
            run.finish_budget(budget, measures, *evaluate(args, environments, policy, run))


def main(args):
    start_process(args)
    datasets = load_data(args)
    _, labeled_data, _ = datasets
    if not labeled_data.has_actions and RANK == 0:
        print(f"{labeled_data.paths[0]} holds no actions, so there will be no decoder (--labeled-data)")
    folder, identity, began = find_folder(args, *datasets)
    finished = read_json(f"{folder}/results.json").get("budgets", ())
    finished = map(int, finished)
    args.num_labeled_trajectories = tuple(dict.fromkeys([*args.num_labeled_trajectories, *finished]))
    environments, evaluation = find_environments(args, labeled_data)
    evaluation["largest_budget"] = max(args.num_labeled_trajectories)  # probes are fitted behind it
    agree([folder, identity, began])
    if args.rehearsal and not began:
        rehearse(args, datasets, environments)
    run = Run(args, folder, identity, labeled_data, evaluation)
    if not run.finished:
        run_stages(args, *datasets, environments, run)
    run.finish()


if __name__ == "__main__":
    try:
        main(parse_args(sys.argv[1:]))
    except torch.OutOfMemoryError:
        raise SystemExit("error: out of GPU memory: --data-device disk, or a smaller --….batch-size")
    except (KeyboardInterrupt, OSError) as error:  # Ctrl-C, a full disk
        raise SystemExit(f"error: {str(error) or type(error).__name__}")

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
#     "wandb==0.31.0",
# ]
# ///

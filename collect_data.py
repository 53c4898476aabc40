"""Collects expert datasets in the Distracting Control Suite, the data of "Latent Action Learning Requires Supervision in the
Presence of Distractors" (Nikulin et al., 2025; Section 3 and Appendix C).

An expert trained on proprioceptive states plays a dm_control task greedily while a camera films it at 64×64 pixels, with a moving
video in the background, a shaking camera and drifting colours. The pictures, the states, the actions and the physics go into one
HDF5 file with training videos and one with evaluation videos, which the learner of the other scripts never sees.

    python collect_data.py demo                                # 24 + 8 cheetah-run trajectories in data/, minutes on a laptop
    python collect_data.py --task walker-run                   # the paper's size: 5,000 + 50 trajectories, 63 GB
    python collect_data.py --shard 3/16                        # the third of 16 parts of that, on one of many machines
    python collect_data.py --backgrounds DAVIS/                # DAVIS 2017 videos instead of procedural ones
    python collect_data.py --rerender data/cheetah-run__scale_easy_video_hard__val.hdf5 --seed 1 --output twins   # same physics
    python collect_data.py --preview --difficulty hard         # pictures of all tasks, of a trajectory and of its twins
    python collect_data.py --from-videos videos/               # an action-free dataset of mp4 files and the like
    python collect_data.py --verify-expert 100                 # plays the expert without rendering
    python collect_data.py --train-expert                      # trains an expert into runs/experts/

Files in --output (data/): <task>__<difficulty>__{train,val}[__03-of-16].hdf5, format in `create_dataset_file`; beside each a .png
and a .gif that show it; backgrounds/<name>/{train,val}/*.npy, the videos, which evaluation uses again. A killed collection
continues where it stopped when the same command is given again, and ends with the same file.

Where we deviate: experts train for as long as it takes; stored actions are those that acted, clipped to their bounds; each
trajectory also stores its seed and the MuJoCo state behind every picture.
"""

import concurrent.futures
import copy
import fcntl
import functools
import itertools
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

import gymnasium as gym
import h5py
import imageio.v3 as imageio
import matplotlib.figure
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import tyro
from gymnasium.wrappers.utils import RunningMeanStd
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

# ---- Arguments ---------------------------------------------------------------------------------------------------------------


@dataclass
class SACArgs:
    """--train-expert: soft actor-critic (Haarnoja et al., 2018), the paper's choice for humanoid-walk; its others are of PPO."""

    total_steps: int = 4_000_000  # environment steps, all environments together
    num_envs: int = 64  # environments that step together
    updates_per_round: int = 4  # gradient steps of the critics after each step of all environments
    policy_delay: int = 2  # gradient steps of the critics per gradient step of the actor
    batch_size: int = 256  # transitions per gradient step
    hidden_dim: int = 128  # width of the two hidden layers of actor and critics
    learning_rate: float = 1e-3  # Adam's; constant for the first half of the training, then linearly to zero
    gamma: float = 0.99  # discount per step
    tau: float = 0.005  # step of the target critics towards the critics
    init_temperature: float = 0.1  # first weight of the entropy; tuned towards a target entropy of -A / 2
    n_step: int = 3  # rewards summed before the target critics take over
    buffer_size: int = 1_024_000  # transitions kept for replay
    learning_starts: int = 32_000  # steps with random actions before the first update
    episode_length: int = 1000  # steps of an episode in training, at most 1,000
    height_reward: float = 0.0  # added in training: this times the torso's height in metres, for bodies that must get up first
    upright_starts: float = 0.0  # share of the environments whose episodes begin upright in training; the task's are tumbled
    random_bursts: float = 0.0  # chance per step that an environment holds one random extreme action for the next 20, in training


# differs: the arguments of a collection
@dataclass
class Args:
    task: Literal["cheetah-run", "walker-run", "hopper-hop", "humanoid-walk"] = "cheetah-run"  # dm_control task (Section 3)
    difficulty: Literal["vanilla", "easy", "medium", "hard", "scale_easy_video_hard"] = "scale_easy_video_hard"
    """distractors: none, or scale 0.1/0.2/0.3 of camera and colour with 4/8/60 videos; the paper's is scale 0.1 with 60 videos"""
    backgrounds: str = "procedural"
    """a DAVIS 2017 folder, any folder of folders of frames, or `procedural`: dead-leaves videos, made once and kept"""
    output: Path = Path("data")  # folder of the datasets and background videos
    num_trajectories: int = 5000  # trajectories of 1,000 steps in the training file, 12.5 MB each (Appendix C)
    num_eval_trajectories: int = 50  # trajectories in the evaluation file, whose videos training never shows (Appendix C)
    num_workers: int = os.cpu_count() or 1  # processes that simulate and render; one per core is a good choice
    seed: int = 0  # of physics, videos, camera and colours; each trajectory has its own seed derived from it
    shard: str = "1/1"  # collect only this part of the trajectories, k/n with k from 1 to n: many machines make one dataset
    expert: Path | None = None
    """expert file (.npz) that plays, by default experts/<task>.npz beside this script; or from which --train-expert goes on"""
    rerender: Path | None = None
    """render the trajectories of this file again, as --difficulty, --backgrounds and --seed say; pixels alone change"""
    preview: bool = False  # draw all tasks, and one trajectory of --task and its twins, under these settings, and stop
    from_videos: Path | None = None  # make an action-free dataset of the videos (mp4, mov, mkv, avi, webm, gif) here, and stop
    verify_expert: int | None = None  # play the expert so many episodes without rendering, print its returns, and stop
    train_expert: bool = False  # train an expert on states into --expert-output, and stop
    expert_output: Path = Path("runs/experts")  # folder for an expert, its learning curve and its checkpoint
    eval_interval: int = 100_000  # steps between evaluations and checkpoints of an expert in training
    sac: SACArgs = field(default_factory=SACArgs)


# differs: sizes of a collection
PRESETS = {
    "paper": ("the paper's size (Appendix C): 5,000 + 50 trajectories (default)", Args()),
    "demo": ("a laptop without a GPU: 24 + 8 trajectories, 0.4 GB", Args(num_trajectories=24, num_eval_trajectories=8)),
}


# ---- Experts: SAC on proprioceptive states, without rendering (Appendix C) ---------------------------------------------------


class Expert:
    """A trained policy that plays greedily: a small MLP in numpy.

    __call__: states (..., S) → actions (..., A) float32 in [-1, 1]. The file is an .npz below 1 MB: weight_i, bias_i, state_mean,
    state_std, and `about`, a JSON text that says how it was trained. Units are ReLUs, the output is a tanh.
    """

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.about = json.loads(str(arrays["about"]))
        self.layers = [(arrays[f"weight_{i}"], arrays[f"bias_{i}"]) for i in range(self.about["num_layers"])]
        self.state_mean, self.state_std = arrays["state_mean"], arrays["state_std"]

    def __call__(self, states: np.ndarray) -> np.ndarray:
        *hidden, (weight, bias) = self.layers
        x = np.clip((states.astype(np.float32) - self.state_mean) / self.state_std, -10, 10)
        for hidden_weight, hidden_bias in hidden:
            x = np.maximum(x @ hidden_weight.T + hidden_bias, 0)
        return np.tanh(x @ weight.T + bias)


def standardize(states: np.ndarray, statistics: RunningMeanStd) -> torch.Tensor:
    """As `Expert` does it, with the statistics of all states seen so far."""
    return torch.as_tensor(np.clip((states - statistics.mean) / (np.sqrt(statistics.var) + 1e-3), -10, 10), dtype=torch.float32)


class EasierEnv(gym.Wrapper):
    """For training alone: rewards the torso's height, and may begin its episodes in the model's upright pose."""

    def __init__(self, env: gym.Env, height_reward: float, upright: bool):
        super().__init__(env)
        self.height_reward, self.upright = height_reward, upright
        self.torso = env.unwrapped.physics.named.data.xpos["torso"]  # a view: x, y, z

    def reset(self, **kwargs):
        observation, info = self.env.reset(**kwargs)
        if self.upright:
            physics, task = self.unwrapped.physics, self.unwrapped.task
            with physics.reset_context():
                pass  # the pose that the model's file has
            observation = {key: np.asarray(value) for key, value in task.get_observation(physics).items()}
        return observation, info

    def step(self, action):
        observation, reward, *rest = self.env.step(action)
        return observation, reward + self.height_reward * self.torso[2], *rest


def make_state_envs(task: str, num_envs: int, height_reward: float = 0.0, num_upright: int = 0) -> gym.vector.VectorEnv:
    """Environments with flat proprioceptive states (num_envs, S), stepped together; no episode ends before its 1,000 steps."""

    def make_env(index: int):
        return gym.wrappers.FlattenObservation(EasierEnv(load_task(task), height_reward, upright=index < num_upright))

    makers = [functools.partial(make_env, index) for index in range(num_envs)]
    return gym.vector.SyncVectorEnv(makers, autoreset_mode=gym.vector.AutoresetMode.DISABLED)


def play_expert(expert: Expert, task: str, episodes: int, seed: int) -> np.ndarray:
    """Returns of greedy episodes without rendering, float64 (episodes,)."""
    envs, returns = make_state_envs(task, episodes), np.zeros(episodes)
    states, _ = envs.reset(seed=seed)
    for _ in range(EPISODE_LENGTH):
        states, rewards, *_ = envs.step(expert(states))
        returns += rewards
    return returns


def mlp(sizes: list[int], layer_norm: bool = False) -> nn.Sequential:
    layers = []
    for inputs, outputs in zip(sizes[:-2], sizes[1:-1]):
        layers += [nn.Linear(inputs, outputs), nn.LayerNorm(outputs) if layer_norm else nn.Identity(), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def descend(optim: torch.optim.Optimizer, loss: torch.Tensor):
    optim.zero_grad()
    loss.backward()
    optim.step()


class SACExpert(nn.Module):
    """Soft actor-critic (Haarnoja et al., 2018): two critics with layer normalisation, tuned temperature, delayed actor. Many
    environments step together, then a few updates follow: on one core the environment is cheap and the update is not."""

    def __init__(self, args: SACArgs, state_dim: int, action_dim: int, statistics: RunningMeanStd, rng: np.random.Generator):
        super().__init__()
        self.args, self.action_dim, self.statistics, self.rng, hidden = args, action_dim, statistics, rng, [args.hidden_dim] * 2
        self.actor = mlp([state_dim, *hidden, 2 * action_dim])
        self.critics = nn.ModuleList(mlp([state_dim + action_dim, *hidden, 1], layer_norm=True) for _ in range(2))
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.burst, self.burst_left = np.zeros((args.num_envs, action_dim), np.float32), np.zeros(args.num_envs, int)
        self.log_alpha, self.actor_starts = nn.Parameter(torch.tensor(math.log(args.init_temperature))), 0
        self.optims = [torch.optim.Adam(x.parameters(), args.learning_rate, fused=True) for x in (self.actor, self.critics)]
        self.optims += [torch.optim.Adam([self.log_alpha], args.learning_rate, betas=(0.5, 0.999))]
        rounds = args.buffer_size // args.num_envs // args.episode_length * args.episode_length  # kept: whole episodes
        dims, self.stored = (state_dim, action_dim, 1, state_dim), 0
        self.buffer = [np.zeros((rounds, args.num_envs, dim), np.float32) for dim in dims]  # state, action, reward, next state

    def sample(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised states (B, S) → squashed actions (B, A) in (-1, 1) and their log-probabilities (B,)."""
        mean, log_std = self.actor(states).chunk(2, dim=-1)
        log_std = -5 + 3.5 * (torch.tanh(log_std) + 1)  # between -5 and 2
        noise = torch.randn_like(mean)
        x = mean + log_std.exp() * noise
        log_det = 2 * (math.log(2) - x - F.softplus(-2 * x))  # log |d tanh(x) / dx|, which does not overflow
        return torch.tanh(x), (-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi) - log_det).sum(-1)

    def act(self, states: np.ndarray, step: int) -> np.ndarray:
        if step < self.args.learning_starts:
            return self.rng.uniform(-1, 1, (len(states), self.action_dim)).astype(np.float32)
        begins = self.rng.random(len(states)) < self.args.random_bursts
        self.burst[begins] = self.rng.choice([-1, 1], (begins.sum(), self.action_dim))
        self.burst_left = np.where(begins, 20, self.burst_left - 1)
        with torch.no_grad():
            actions = self.sample(standardize(states, self.statistics))[0].numpy()
        return np.where(self.burst_left[:, None] > 0, self.burst, actions)

    def learn(self, step: int, *transition: np.ndarray):
        """Keeps one transition of each environment (states, actions, rewards, next states) and learns from the buffer."""
        for column, values in zip(self.buffer, transition):
            column[self.stored % len(column)] = values.reshape(len(values), -1)
        self.stored += 1
        args, filled, (actor_optim, critic_optim, alpha_optim) = self.args, min(self.stored, len(self.buffer[0])), self.optims
        if (self.stored - 1) * args.num_envs < args.learning_starts:
            return
        for optim in (actor_optim, critic_optim):  # constant for the first half, then linearly to zero
            optim.param_groups[0]["lr"] = args.learning_rate * min(1.0, 2 * (1 - step / args.total_steps))
        for update in range(args.updates_per_round):
            t, e = self.rng.integers(0, filled, args.batch_size), self.rng.integers(0, args.num_envs, args.batch_size)
            episode_end = (t // args.episode_length + 1) * args.episode_length
            t = np.minimum(t, np.minimum(episode_end, filled) - args.n_step)  # n steps of one episode
            states, next_states = self.buffer[0][t, e], self.buffer[3][t + args.n_step - 1, e]
            states, next_states = (standardize(x, self.statistics) for x in (states, next_states))
            rewards = sum(args.gamma**j * self.buffer[2][t + j, e, 0] for j in range(args.n_step))
            actions, rewards = torch.from_numpy(self.buffer[1][t, e]), torch.from_numpy(rewards)
            with torch.no_grad():
                next_actions, next_log_prob = self.sample(next_states)
                x = torch.cat([next_states, next_actions], -1)
                next_value = torch.min(self.targets[0](x), self.targets[1](x))[:, 0] - self.log_alpha.exp() * next_log_prob
                target = rewards + args.gamma**args.n_step * next_value  # no episode ends early: always bootstrap
            x = torch.cat([states, actions], -1)
            descend(critic_optim, sum(F.mse_loss(critic(x)[:, 0], target) for critic in self.critics))
            if update % args.policy_delay == 0 and step >= self.actor_starts:
                self.critics.requires_grad_(False)
                new_actions, log_prob = self.sample(states)
                x = torch.cat([states, new_actions], -1)
                value = torch.min(self.critics[0](x), self.critics[1](x))[:, 0]
                descend(actor_optim, (self.log_alpha.exp().detach() * log_prob - value).mean())
                self.critics.requires_grad_(True)
                descend(alpha_optim, -self.log_alpha * (log_prob.detach().mean() - self.action_dim / 2))  # target entropy: -A / 2
            torch._foreach_lerp_(list(self.targets.parameters()), list(self.critics.parameters()), args.tau)


def train_expert(args: Args):
    """Trains an expert, keeps the best by the mean of ten greedy returns; goes on from its checkpoint with a new buffer."""
    hyper = args.sac
    made_by = f"sac, seed {args.seed}, {hyper.hidden_dim} units, {hyper.num_envs} environments"
    path, checkpoint = (args.expert_output / f"{args.task}{suffix}" for suffix in (".npz", ".checkpoint.pt"))
    saved = {"made_by": made_by, "step": 0, "seconds": 0.0, "curve": [], "best_score": -math.inf}
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
    if saved["made_by"] != made_by:
        raise SystemExit(f"error: {checkpoint} was made by {saved['made_by']}; remove it or give another --expert-output")
    if not hyper.n_step < hyper.episode_length <= EPISODE_LENGTH:
        raise SystemExit(f"error: --sac.episode-length {hyper.episode_length}: more than --sac.n-step, at most {EPISODE_LENGTH}")
    step, seconds, curve, best_score = (saved[name] for name in ("step", "seconds", "curve", "best_score"))
    torch.manual_seed(args.seed)
    envs = make_state_envs(args.task, hyper.num_envs, hyper.height_reward, round(hyper.upright_starts * hyper.num_envs))
    state_dim, action_dim = envs.single_observation_space.shape[0], envs.single_action_space.shape[0]
    statistics, rng = RunningMeanStd(shape=state_dim), np.random.default_rng([args.seed, step])
    agent = SACExpert(hyper, state_dim, action_dim, statistics, rng)
    if step:
        agent.load_state_dict(saved["agent"])
        for optim, state in zip(agent.optims, saved["optims"]):
            optim.load_state_dict(state)
        vars(statistics).update({name: saved["statistics"][name].numpy() for name in vars(statistics)})
        print(f"continuing from {checkpoint} at step {step:,}")
    elif args.expert:  # first fills the buffer with the expert's episodes, then teaches the critics, then changes the policy
        expert, linears = load_expert(args.expert), [layer for layer in agent.actor if isinstance(layer, nn.Linear)]
        if expert.layers[0][1].shape != linears[0].bias.shape:
            raise SystemExit(f"error: {args.expert} is {expert.about}; --sac.hidden-dim must be the same")
        for linear, (weight, bias) in zip(linears, expert.layers):
            linear.weight.data[: len(weight)], linear.bias.data[: len(bias)] = torch.from_numpy(weight), torch.from_numpy(bias)
        statistics.mean, statistics.var, statistics.count = expert.state_mean, (expert.state_std - 1e-3) ** 2, 1e6
        step, agent.actor_starts = hyper.learning_starts, 2 * hyper.learning_starts

    args.expert_output.mkdir(parents=True, exist_ok=True)
    first_step, started = step, time.time() - seconds
    bar = tqdm(total=hyper.total_steps, initial=step, desc=f"sac {args.task}", unit="step", unit_scale=True)
    while step < hyper.total_steps:
        if (step - first_step) // hyper.num_envs % hyper.episode_length == 0:
            states, _ = envs.reset(seed=args.seed + step)
        actions = agent.act(states, step)
        next_states, rewards, *_ = envs.step(actions.clip(-1, 1))
        statistics.update(states)
        agent.learn(step, states, actions, rewards, next_states)
        states, before, step = next_states, step, step + hyper.num_envs
        bar.update(hyper.num_envs)
        if before // args.eval_interval == step // args.eval_interval and step < hyper.total_steps:
            continue

        seconds = time.time() - started
        linears = [layer for layer in agent.actor if isinstance(layer, nn.Linear)]
        about = {"task": args.task, "algorithm": "sac", "num_layers": len(linears), "seed": args.seed, "steps": step}
        about |= {"seconds": round(seconds), "hyperparameters": asdict(hyper)}
        arrays = {"about": np.array(json.dumps(about)), "state_mean": statistics.mean.astype(np.float32)}
        arrays["state_std"] = (np.sqrt(statistics.var) + 1e-3).astype(np.float32)
        for i, linear in enumerate(linears):
            rows = action_dim if linear is linears[-1] else None  # SAC's last layer also gives standard deviations
            arrays |= {f"weight_{i}": linear.weight.detach().numpy()[:rows], f"bias_{i}": linear.bias.detach().numpy()[:rows]}
        returns = play_expert(Expert(arrays), args.task, episodes=10, seed=args.seed + 10**5)
        point = {"step": step, "mean": returns.mean(), "std": returns.std(), "min": returns.min(), "seconds": seconds}
        curve.append({name: round(float(value), 2) for name, value in point.items()})
        bar.set_postfix(greedy_return=f"{returns.mean():.0f}")
        if returns.mean() > best_score:
            best_score = float(returns.mean())
            np.savez(path.with_suffix(".partial.npz"), **arrays)
            path.with_suffix(".partial.npz").rename(path)
        saved = {"made_by": made_by, "step": step, "seconds": seconds, "curve": curve, "best_score": best_score}
        saved |= {"agent": agent.state_dict(), "optims": [optim.state_dict() for optim in agent.optims]}
        saved["statistics"] = {name: torch.as_tensor(value) for name, value in vars(statistics).items()}
        torch.save(saved, checkpoint.with_suffix(".partial"))
        checkpoint.with_suffix(".partial").rename(checkpoint)
        figure = matplotlib.figure.Figure(figsize=(5, 3), layout="constrained")
        axes = figure.add_subplot(xlabel="environment steps", ylabel="return, 10 greedy episodes", title=args.task)
        axes.errorbar(*([point[name] for point in curve] for name in ("step", "mean", "std")), elinewidth=0.5)
        figure.savefig(path.with_suffix(".png"), dpi=120)
    print(f"best of {len(curve)} evaluations: {path}; learning curve: {path.with_suffix('.png')}")


def load_expert(path: Path) -> Expert:
    try:
        with np.load(path) as arrays:
            return Expert(dict(arrays))
    except FileNotFoundError:
        raise SystemExit(f"error: no expert {path}; --train-expert trains one, --expert names a file")
    except Exception as error:  # of numpy, zip or JSON
        raise SystemExit(f"error: {path} is not an expert file: {error}")


# ---- Environment: Distracting Control Suite (Stone et al., 2021; Section 3) -------------------------------

IMG_HW = 64  # height and width of an observation, pixels
EPISODE_LENGTH = 1000  # steps, dm_control's for all four tasks

# name: (scale of camera and colour, number of training videos; None means all)
DIFFICULTIES = {
    "vanilla": (0.0, 0),
    "easy": (0.1, 4),
    "medium": (0.2, 8),
    "hard": (0.3, None),
    "scale_easy_video_hard": (0.1, None),  # the paper's
}


def load_task(task: str) -> gym.Env:
    """A dm_control task through Shimmy, with buffers and shadows no larger than 64×64 pictures need."""
    # imported here: dm_control binds to the OpenGL that MUJOCO_GL names when it is first imported
    import absl.logging
    import shimmy
    from dm_control import suite

    absl.logging.set_verbosity("error")  # deprecations in dm_control's own XML
    env = shimmy.DmControlCompatibilityV0(suite.load(*task.split("-")))
    visual = env.unwrapped.physics.model.vis
    visual.global_.offwidth = visual.global_.offheight = IMG_HW
    visual.quality.shadowsize = 256  # MuJoCo's 2048² take most of the time
    visual.quality.numslices = 12
    visual.quality.numstacks = 8
    return env


class DistractingControl(gym.Wrapper):
    """Pixels before colours, a camera and a background video that drift independently of the physics.

    Observations are uint8 (64, 64, 3); `info` holds dm_control's states, a dictionary. One seed gives the
    same physics, colours, camera and background. color_scale, camera_scale: s of DIFFICULTIES, 0 for none.
    videos: uint8 (frames, 160, 160, 3), none for the task's own sky. A camera position is (radius in metres,
    elevation above the horizon and azimuth in radians) about the agent's centre of mass.
    """

    def __init__(self, env: gym.Env, color_scale: float, camera_scale: float, videos: list[np.ndarray]):
        from dm_control.mujoco import Camera

        super().__init__(env)
        self.observation_space = gym.spaces.Box(0, 255, (IMG_HW, IMG_HW, 3), np.uint8)
        self.color_scale = color_scale
        self.camera_scale = camera_scale
        self.videos = videos
        self.physics = env.unwrapped.physics
        self.model = self.physics.model
        self.data = self.physics.data
        self.colors = self.model.mat_rgba[:, :3]  # a view: what is written here is rendered
        self.own_colors = self.colors.copy()
        if videos:
            hw = videos[0].shape[1]
            self.sky = self.model.name2id("skybox", "texture")
            self.model.tex_width[self.sky] = hw
            self.model.tex_height[self.sky] = 6 * hw
            start = self.model.tex_adr[self.sky]
            texture = self.model.tex_data[start : start + 6 * hw * hw * 3]
            self.sky_faces = texture.reshape(6, hw, hw, 3)  # a view, too
            humanoid = self.model.name == "humanoid"  # whose ground would hide most of the background
            self.physics.named.model.mat_rgba["grid", "a"] = 0.3 if humanoid else 1.0
        self.camera = Camera(self.physics, IMG_HW, IMG_HW, camera_id=0)  # a new one for each picture is slow

    def reset(self, *, seed=None, options=None):
        states, _ = self.env.reset(seed=seed, options=options)
        self.color_rng, self.camera_rng, self.background_rng = np.random.default_rng(seed).spawn(3)
        self.reset_colors()
        self.reset_camera()
        self.reset_background()
        return self.render(), states

    def step(self, action: np.ndarray):
        states, reward, terminated, truncated, _ = self.env.step(action)
        self.step_colors()
        self.step_camera()
        self.step_background()
        return self.render(), reward, terminated, truncated, states

    def reset_colors(self):
        s = self.color_scale
        self.color_low = np.clip(self.own_colors - s, 0, 1)
        self.color_high = np.clip(self.own_colors + s, 0, 1)
        self.colors[:] = self.color_rng.uniform(self.color_low, self.color_high)

    def step_colors(self):
        noise = self.color_rng.normal(0, 0.03 * self.color_scale, self.own_colors.shape)
        self.colors[:] = np.clip(self.colors + noise, self.color_low, self.color_high)

    def reset_camera(self):
        """A position within ranges about the task's own camera, and the first velocities."""
        s = self.camera_scale
        rng = self.camera_rng
        angle = math.pi / 2 * s
        radius, elevation, azimuth = to_spherical(self.data.cam_xpos[0] - self.data.subtree_com[1])
        self.own_radius = radius
        self.camera_low = [
            radius * (1 - 0.5 * s),
            max(elevation - angle, 0),
            max(azimuth - angle, -math.pi),
        ]
        high = [
            radius * (1 + 1.5 * s),
            min(elevation + angle, math.pi / 2),
            min(azimuth + angle, 0),
        ]
        self.camera_high = np.maximum(self.camera_low, high)  # for a camera just below the horizon
        self.camera_position = rng.uniform(self.camera_low, self.camera_high)
        self.velocity = normalized(rng.normal(size=3)) * rng.uniform(0, 0.4 * s)  # metres per step
        self.roll, self.roll_velocity = rng.uniform(-1, 1, 2) * [angle, math.pi / 50 * s]

    def step_camera(self):
        """Velocities drift, the camera moves and rolls, and stays within its ranges."""
        s = self.camera_scale
        unit = s * self.own_radius / 4
        velocity = self.velocity + self.camera_rng.normal(0, 0.1 * unit, 3)
        speed = max(np.linalg.norm(velocity), 1e-9)
        self.velocity = velocity * min(1, 0.4 * unit / speed)
        position = to_spherical(to_cartesian(self.camera_position) + self.velocity)
        self.camera_position = np.clip(position, self.camera_low, self.camera_high)

        max_roll = math.pi / 2 * s
        max_velocity = math.pi / 50 * s  # radians per step
        roll_velocity = self.roll_velocity + self.camera_rng.normal(0, math.pi / 300 * s)
        self.roll_velocity = np.clip(roll_velocity, -max_velocity, max_velocity)
        self.roll = np.clip(self.roll + self.roll_velocity, -max_roll, max_roll)

    def reset_background(self):
        """A random video, played to and fro from a random frame in a random direction."""
        if self.videos:
            video = self.videos[self.background_rng.integers(len(self.videos))]
            self.video = [*video, *video[-2:0:-1]]
            self.video_time = int(self.background_rng.integers(len(self.video)))

    def step_background(self):
        if self.videos:
            self.video_time = (self.video_time + 1) % len(self.video)

    def render(self) -> np.ndarray:
        """The picture of the current state, uint8 (64, 64, 3), from camera 0 as the distractors moved it."""
        import mujoco

        if self.videos:
            self.sky_faces[:] = self.video[self.video_time]
            contexts = self.physics.contexts
            with contexts.gl.make_current() as context:
                context.call(mujoco.mjr_uploadTexture, self.model.ptr, contexts.mujoco.ptr, self.sky)
        mujoco.mj_camlight(self.model.ptr, self.data.ptr)  # the undisturbed camera, whose pose is overwritten
        if self.camera_scale > 0:
            self.aim_camera()
        return self.camera.render().copy()

    def aim_camera(self):
        """Moves camera 0; it looks at the point on its undisturbed axis that is as far away as the agent."""
        agent = self.data.subtree_com[1]
        own_position = self.data.cam_xpos[0]
        own_axis = self.data.cam_xmat[0, 2::3]  # a camera looks along its negative z axis
        target = own_position - own_axis * np.linalg.norm(own_position - agent)

        position = agent + to_cartesian(self.camera_position)
        z = normalized(position - target)
        x = normalized(np.cross([0, 0, 1], z))
        y = np.cross(z, x)
        cos, sin = math.cos(self.roll), math.sin(self.roll)
        self.data.cam_xpos[0] = position
        self.data.cam_xmat[0] = np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=1).ravel()


def normalized(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def to_spherical(point: np.ndarray) -> np.ndarray:
    """(x, y, z) → (radius, elevation in [-π/2, π/2], azimuth in (-3π/2, π/2]).

    The azimuth's cut lies where no camera of the suite goes.
    """
    x, y, z = point
    elevation = math.atan2(z, math.hypot(x, y))
    azimuth = math.atan2(y, x)
    if azimuth > math.pi / 2:
        azimuth -= 2 * math.pi
    return np.array([np.linalg.norm(point), elevation, azimuth])


def to_cartesian(position: np.ndarray) -> np.ndarray:
    radius, elevation, azimuth = position
    x = math.cos(elevation) * math.cos(azimuth)
    y = math.cos(elevation) * math.sin(azimuth)
    z = math.sin(elevation)
    return radius * np.array([x, y, z])


def load_videos(backgrounds: Path, split: str, difficulty: str) -> list[np.ndarray]:
    """Background videos, uint8 (frames, 160, 160, 3), memory-mapped; errors if there are none.

    All of split "val"; of "train" as many as the difficulty says.
    """
    number = DIFFICULTIES[difficulty][1]
    if number == 0:
        return []
    files = sorted((backgrounds / split).glob("*.npy"))
    if not files:
        raise SystemExit(
            f"error: no videos (*.npy) in {backgrounds / split}; "
            "collect_data.py makes some, --eval.backgrounds says where"
        )
    if split == "train":
        files = files[:number]
    return [np.load(file, mmap_mode="r") for file in files]


def make_env(task: str, difficulty: str, backgrounds: Path, split: str) -> DistractingControl:
    """The task under a difficulty's distractors, with the videos of a split in backgrounds/<split>/*.npy."""
    scale = DIFFICULTIES[difficulty][0]
    videos = load_videos(backgrounds, split, difficulty)
    return DistractingControl(load_task(task), scale, scale, videos)


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
    packages = "libegl1 libopengl0, or libosmesa6"
    raise SystemExit(f"error: no OpenGL to render with; on Debian: apt-get install {packages}")


# ---- Background videos: DAVIS 2017, any folder of folders of frames, or procedural dead leaves -------------------------------

SKY_HW = 160  # height and width of a background frame: the camera sees about half of it

DAVIS_VIDEOS = {  # DAVIS 2017's own lists; val is the evaluation set of the Distracting Control Suite
    "train": """bear bmx-bumps boat boxing-fisheye breakdance-flare bus car-turn cat-girl classic-car color-run crossing dance-jump
         dancing disc-jockey dog-agility dog-gooses dogs-scale drift-turn drone elephant flamingo hike hockey horsejump-low
        kid-football kite-walk koala lady-running lindy-hop longboard lucia mallard-fly mallard-water miami-surf motocross-bumps
        motorbike night-race paragliding planes-water rallye rhino rollerblade schoolgirls scooter-board scooter-gray sheep
        skate-park snowboard soccerball stroller stunt surf swing tennis tractor-sand train tuk-tuk upside-down varanus-cage
        walking""",
    "val": """bike-packing blackswan bmx-trees breakdance camel car-roundabout car-shadow cows dance-twirl dog dogs-jump
         drift-chicane drift-straight goat gold-fish horsejump-high india judo kite-surf lab-coat libby loading mbike-trick
        motocross-jump paragliding-launch parkour pigs scooter-black shooting soapbox""",
}


def dead_leaves_video(seed: int, num_frames: int = 60, size: int = SKY_HW) -> np.ndarray:
    """A moving texture with the statistics of natural images, uint8 (num_frames, size, size, 3): overlapping shapes whose radii
    follow a power law of exponent -3 (Lee, Mumford and Huang, 2001), in a few base colours, softly shaded, drifting by depth."""
    rng, n, smallest, largest = np.random.default_rng([seed, 2017]), 700, 0.03, 0.6  # radii, in sides of the picture
    radius = smallest / np.sqrt(1 - rng.uniform(size=n) * (1 - (smallest / largest) ** 2))
    depth = rng.uniform(0.4, 1.6, n)  # what is nearer is drawn later and moves faster
    order = np.argsort(depth - 1.5 * radius)
    position = rng.uniform(-0.75, 1.75, (n, 2))
    own_motion = rng.normal(0, 0.004, (n, 2)) * (rng.uniform(size=(n, 1)) < 0.3)
    angle, spin = rng.uniform(0, 2 * np.pi, n), rng.normal(0, 0.01, n)
    camera = rng.normal(0, 0.006, 2) * np.arange(num_frames)[:, None] + rng.normal(0, 0.0015, (num_frames, 2)).cumsum(0)
    # outlines, as complex numbers (n, 24): ellipses bent by harmonics
    turn, harmonics = np.linspace(0, 2 * np.pi, 24, endpoint=False), np.arange(2, 6)[:, None]
    waves = rng.normal(0, 0.12, (n, 4, 1)) * np.cos(harmonics * turn + rng.uniform(0, 2 * np.pi, (n, 4, 1)))
    outline = radius[:, None] * (1 + waves.sum(1)) * (np.cos(turn) + 1j * np.sin(turn) * rng.uniform(0.35, 1, (n, 1)))
    # five colours (hue, saturation, value), each leaf near one of them
    palette = np.stack([rng.uniform() + rng.normal(0, 0.1, 5), rng.beta(1.5, 3.5, 5), rng.beta(3, 2.5, 5)], -1)
    colors = palette[rng.integers(5, size=n)] + rng.normal(0, [0.02, 0.06, 0.12], (n, 3))
    colors[:, 0] %= 1
    colors = Image.fromarray((np.clip(colors, 0.04, 1) * 255).astype(np.uint8)[None], "HSV").convert("RGB")
    colors = [tuple(color) for color in np.asarray(colors)[0].tolist()]
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(2 * size)] * 2))
    shading = np.fft.ifft2(np.fft.fft2(rng.standard_normal(frequency.shape)) / np.maximum(frequency, 0.5 / size) ** 1.5).real
    shading = 1 + 0.2 * (shading - shading.mean()) / shading.std()

    frames = np.empty((num_frames, size, size, 3), np.uint8)
    for frame in range(num_frames):
        center = (position + frame * own_motion + camera[frame] * depth[:, None] + 0.75) % 2.5 - 0.75
        turned = (outline * np.exp(1j * (angle + frame * spin))[:, None]).view(np.float64).reshape(n, -1, 2)
        polygons = (turned + center[:, None]) * 2 * size  # drawn at twice the size and averaged: smooth edges
        image = Image.new("RGB", (2 * size, 2 * size), colors[order[0]])
        draw = ImageDraw.Draw(image)
        for i in order:
            draw.polygon(polygons[i].ravel().tolist(), fill=colors[i])
        shade = np.roll(shading, np.round(camera[frame, ::-1] * size).astype(int), (0, 1))[:size, :size, None]
        frames[frame] = np.clip(np.asarray(image.resize((size, size), Image.BOX)) * shade, 0, 255)
    return frames


def make_video(source: int | Path) -> np.ndarray:
    """A background video, uint8 (frames, 160, 160, 3): procedural from a seed, or a folder of pictures, resized as in the suite."""
    if isinstance(source, int):
        return dead_leaves_video(source)
    files = sorted(file for file in source.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp", ".webp"))
    if not files:
        raise SystemExit(f"error: no pictures (jpg, png, bmp, webp) in {source}")
    return np.stack([np.asarray(Image.open(file).convert("RGB").resize((SKY_HW, SKY_HW), Image.BILINEAR)) for file in files])


def find_videos(backgrounds: str) -> dict[str, list]:
    """What to make the videos of each split from: seeds for procedural ones, else folders of frames."""
    if backgrounds == "procedural":
        return {"train": list(range(60)), "val": list(range(60, 90))}  # as many as DAVIS 2017 has
    root = Path(backgrounds).resolve()
    davis = root / "JPEGImages" / "480p"
    if not root.is_dir():
        raise SystemExit(f"error: --backgrounds {backgrounds}: no such folder")
    if davis.is_dir():
        sources = {split: [davis / name for name in names.split()] for split, names in DAVIS_VIDEOS.items()}
        missing = [path.name for paths in sources.values() for path in paths if not path.is_dir()]
        if missing:
            raise SystemExit(f"error: --backgrounds {backgrounds}: {len(missing)} DAVIS videos are missing: {', '.join(missing)}")
        return sources
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    if len(folders) < 2:
        raise SystemExit(f"error: --backgrounds {backgrounds}: no folders of frames, one for training and one for evaluation")
    return {"train": folders[: len(folders) * 2 // 3], "val": folders[len(folders) * 2 // 3 :]}  # two thirds, as in DAVIS


def prepare_backgrounds(backgrounds: str, output: Path, num_workers: int) -> Path:
    """Makes or resizes each video once and keeps it as output/backgrounds/<name>/<split>/<number>.npy; returns that folder."""
    sources = find_videos(backgrounds)
    folder = output / "backgrounds" / ("procedural" if backgrounds == "procedural" else Path(backgrounds).resolve().name)
    made_from = json.dumps({split: [str(source) for source in items] for split, items in sources.items()}, indent=1)
    if folder.is_dir():
        if (folder / "sources.json").read_text() != made_from:
            raise SystemExit(f"error: {folder} was made from other videos; remove it or give another --output")
        return folder
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    jobs = [(split, i, source) for split, items in sources.items() for i, source in enumerate(items)]
    with worker_pool(num_workers) as pool:
        videos = pool.map(make_video, [source for *_, source in jobs])
        for (split, i, _), video in zip(jobs, tqdm(videos, total=len(jobs), desc="background videos", unit="video")):
            (partial / split).mkdir(parents=True, exist_ok=True)
            np.save(partial / split / f"{i:03d}.npy", video)
    (partial / "sources.json").write_text(made_from)
    partial.rename(folder)
    return folder


# ---- Collection --------------------------------------------------------------------------------------------------------------


def worker_pool(num_workers: int, *settings) -> concurrent.futures.ProcessPoolExecutor:
    """Fresh processes, not forks: those that render share nothing with the main process."""
    return concurrent.futures.ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), start_worker, settings)


def start_worker(task=None, difficulty=None, backgrounds=None, split=None, expert_file=None):
    """Runs once in each worker: its environment with the expert, or without one to show what was recorded."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process answers Ctrl-C
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()
    global worker_env, worker_expert
    if task:
        worker_env = make_env(task, difficulty, backgrounds, split)
        worker_expert = load_expert(expert_file) if expert_file else None
        worker_env.env = worker_env.env if expert_file else Replay(worker_env.env)


class Replay(gym.Wrapper):
    """Under DistractingControl: shows the MuJoCo states options["physics"] of reset, float64 (T, P), instead of simulating."""

    def reset(self, *, seed: int | None = None, options: dict):
        self.recorded = iter(options["physics"])
        return self.step(None)[0], {}

    def step(self, action):
        physics = self.unwrapped.physics
        with physics.reset_context():
            physics.set_state(next(self.recorded))
        return self.unwrapped.task.get_observation(physics), 0.0, False, False, {}


def play(env: DistractingControl, policy, seed: int, length: int = EPISODE_LENGTH) -> tuple[dict[str, np.ndarray], float]:
    """The arrays of one episode, (T, …) each, and its return. policy: states (S,) → actions (A,)."""
    steps, total = [], 0.0
    obs, states = env.reset(seed=seed)
    for _ in range(length):
        state = gym.spaces.flatten(env.env.observation_space, states).astype(np.float32)  # in the order that experts know
        action = np.clip(policy(state), -1, 1).astype(np.float32)  # the bounds of all four tasks
        steps.append((obs, state, action, env.physics.get_state()))
        obs, reward, _, _, states = env.step(action)
        total += reward
    return dict(zip(("obs", "states", "actions", "physics"), map(np.stack, zip(*steps)))), total


def replay(env: DistractingControl, seed: int, physics: np.ndarray) -> np.ndarray:
    """Pictures of recorded MuJoCo states under the distractors of a seed, uint8 (T, 64, 64, 3); env holds a Replay."""
    first, _ = env.reset(seed=seed, options={"physics": physics})
    return np.stack([first] + [env.step(None)[0] for _ in physics[1:]])


def measure_task(task: str) -> tuple[dict[str, tuple], float]:
    """Shapes of a step's arrays that depend on the task, and the mean return of ten episodes of uniform actions."""
    obs, _ = worker_env.reset(seed=0)
    shapes = {"obs": obs.shape, "states": (gym.spaces.flatdim(worker_env.env.observation_space),)}
    shapes["physics"] = worker_env.physics.get_state().shape
    shapes["actions"], rng = worker_env.action_space.shape, np.random.default_rng(0)
    returns = play_expert(lambda states: rng.uniform(-1, 1, (len(states), *shapes["actions"])), task, episodes=10, seed=0)
    return shapes, float(returns.mean())


def record_trajectory(path: Path, offsets: dict[str, int], seed: int, source: Path | None, group: str) -> float:
    """Writes an episode of the expert, or of the source's group with new pictures, at its offsets in the file; gives its return."""
    if source:
        with h5py.File(source) as file:
            arrays = {name: file[group][name][:] for name in ("states", "actions", "physics")}
            total = float(file[group].attrs["traj_return"])
        arrays["obs"] = replay(worker_env, seed, arrays["physics"])
    else:
        arrays, total = play(worker_env, worker_expert, seed)
    with open(path, "r+b") as file:
        for name, values in arrays.items():
            file.seek(offsets[name])
            file.write(values)
    return total


def create_dataset_file(path: Path, attributes: dict, seeds: list[int], lengths: list[int], shapes: dict[str, tuple]):
    """A complete HDF5 file with room for all trajectories and no pixel in it yet.

    Groups "0", "1", …: obs uint8 (T, 64, 64, 3), states float32 (T, S), actions float32 (T, A), physics float64 (T, P), attributes
    traj_return and seed. obs[t], states[t] and physics[t] are what the expert saw when it chose actions[t]; obs[t+1] follows.
    Contiguous and allocated at once: workers write the arrays in place, and a kill at any moment cannot break the structure.
    """
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    types = {"obs": np.uint8, "states": np.float32, "actions": np.float32, "physics": np.float64}
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes | {"dataset_return": np.nan, "dataset_return_std": np.nan})
        for i, (seed, length) in enumerate(zip(seeds, lengths)):
            group = file.create_group(str(i))
            group.attrs.update(traj_return=np.nan, seed=np.uint32(seed))
            for name, dtype in types.items():
                group.create_dataset(name, (length, *shapes[name]), dtype, dcpl=properties)
    with open(path, "r+b") as file:  # a disk that is too small says so now, not at the last trajectory
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def parse_shard(shard: str) -> tuple[int, int]:
    number, _, count = shard.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise SystemExit(f"error: --shard {shard}: give k/n with k from 1 to n, such as 3/16")
    return int(number), int(count)


def record_dataset(args: Args, attributes: dict, backgrounds: Path, expert_file: Path | None, source: dict | None = None):
    """Records the file of a split: the expert's episodes, or those of `source` (see `read_source`) with new pictures. The shards
    of a collection, in order, are the whole. The journal <file>.partial.jsonl names what is complete in <file>.partial."""
    split, total, (shard, num_shards) = attributes["split"], attributes["num_trajectories"], parse_shard(attributes["shard"])
    part = slice(total * (shard - 1) // num_shards, total * shard // num_shards)
    seeds = np.random.SeedSequence([args.seed, ("train", "val").index(split)]).generate_state(total)[part].tolist()
    if not seeds:  # few evaluation trajectories, many shards
        return
    lengths = source["lengths"] if source else [EPISODE_LENGTH] * len(seeds)
    attributes |= {"difficulty": args.difficulty, "dynamic": args.difficulty != "vanilla", "img_hw": IMG_HW, "seed": args.seed}
    attributes |= {"backgrounds": os.path.relpath(backgrounds, args.output)}
    task, suffix = "{domain_name}-{task_name}".format(**attributes), f"__{shard:02d}-of-{num_shards:02d}" if num_shards > 1 else ""
    path, partial, journal = (
        args.output / f"{task}__{args.difficulty}__{split}{suffix}.hdf5{end}" for end in ("", ".partial", ".partial.jsonl")
    )
    if source and path.resolve() == source["path"]:
        raise SystemExit(f"error: {path} would be rendered over itself; give another --output")
    begun = path if path.exists() else partial if partial.exists() and journal.exists() else None
    if begun:
        with h5py.File(begun) as file:
            differing = [name for name, value in attributes.items() if file.attrs.get(name) != value]
        if differing:
            raise SystemExit(f"error: {begun} exists and differs in {', '.join(differing)}; remove it or give another --output")
    if path.exists():
        print(f"{path} is complete already")
        return draw_dataset(path)
    lines = journal.read_text().splitlines() if begun else []
    returns = dict(json.loads(line) for line in lines if line.endswith("]"))  # trajectory → return; a kill may cut a line short
    if begun:
        print(f"{partial}: {len(returns)} of {len(seeds)} trajectories are there already")
    bar = tqdm(total=sum(lengths), initial=sum(lengths[i] for i in returns), desc=f"{split} file", unit="frame", unit_scale=True)
    with worker_pool(args.num_workers, task, args.difficulty, backgrounds, split, expert_file) as pool, bar:
        if not begun:
            shapes, random_return = source["measured"] if source else pool.submit(measure_task, task).result()
            try:
                create_dataset_file(partial, attributes | {"random_return": random_return}, seeds, lengths, shapes)
            except OSError as error:
                partial.unlink(missing_ok=True)
                raise SystemExit(f"error: no room for {path} ({sum(lengths) * 12.5e-6:.1f} GB): {error}")
            journal.write_text("")
        futures = {}
        with h5py.File(partial) as file:
            for i in sorted(set(range(len(seeds))) - set(returns)):
                offsets = {name: array.id.get_offset() for name, array in file[str(i)].items()}
                futures[pool.submit(record_trajectory, partial, offsets, seeds[i], source and source["path"], str(i))] = i
        try:
            for future in concurrent.futures.as_completed(futures):
                index = futures[future]
                returns[index] = future.result()
                with open(journal, "a") as file:
                    file.write("\n" + json.dumps([index, returns[index]]))
                bar.update(lengths[index])
                bar.set_postfix(mean_return=f"{np.mean(list(returns.values())):.1f}", refresh=False)
        finally:  # on Ctrl-C or an error: what is running, no more
            pool.shutdown(wait=True, cancel_futures=True)
    values = np.array([returns[i] for i in range(len(seeds))])
    with h5py.File(partial, "r+") as file:
        for i, value in enumerate(values):
            file[str(i)].attrs.modify("traj_return", value)
        file.attrs.modify("dataset_return", values.mean())
        file.attrs.modify("dataset_return_std", values.std())
    partial.rename(path)
    journal.unlink()
    print(f"{path}: {len(seeds)} trajectories, return {values.mean():.1f} ± {values.std():.1f}, worst {values.min():.1f}")
    draw_dataset(path)


def read_source(path: Path) -> dict:
    """What --rerender takes from a file: its path, attributes, trajectory lengths, and what `measure_task` would give."""
    try:
        with h5py.File(path) as file:
            if "physics" not in file["0"]:
                raise SystemExit(f"error: {path} has no physics, the MuJoCo states from which its trajectories could be rendered")
            kept = ("domain_name", "task_name", "split", "expert", "num_trajectories", "shard")
            attributes = {name: file.attrs[name] for name in kept}
            origin = {name: str(file.attrs[name]) for name in ("difficulty", "backgrounds", "seed")}
            attributes["rerendered_from"] = json.dumps({"file": path.name} | origin)
            measured = {name: array.shape[1:] for name, array in file["0"].items()}, float(file.attrs["random_return"])
            lengths = [len(file[str(i)]["physics"]) for i in range(len(file))]
            return {"path": path.resolve(), "attributes": attributes, "lengths": lengths, "measured": measured}
    except (OSError, KeyError) as error:
        raise SystemExit(f"error: --rerender {path}: not a whole dataset of this script: {error}")


def read_video(path: Path):
    """Yields the frames of a video, each the central square as uint8 (64, 64, 3), shrunk by averaging areas."""
    filters = [("crop", "min(iw\\,ih):min(iw\\,ih)"), ("scale", f"{IMG_HW}:{IMG_HW}:flags=area")]
    try:
        yield from imageio.imiter(path, plugin="pyav", thread_type="FRAME", filter_sequence=filters)
    except Exception as error:  # each codec has its own
        raise SystemExit(f"error: cannot read the video {path}: {error}")


def collect_videos(args: Args):
    """--from-videos: files of action-free trajectories, of obs alone; every tenth video (the second, …) is for evaluation."""
    root, shortest, suffixes = args.from_videos.resolve(), 20, (".mp4", ".mov", ".mkv", ".avi", ".webm", ".gif")
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in suffixes)
    if not files:
        raise SystemExit(f"error: --from-videos {args.from_videos}: no videos ({', '.join(suffixes)}) in this folder")
    for file in files:
        next(read_video(file), None)  # one that is unreadable says so before anything is written
    attributes = {"domain_name": "video", "task_name": root.name, "difficulty": "vanilla", "dynamic": False, "img_hw": IMG_HW}
    for split, videos in (("train", [file for i, file in enumerate(files) if i % 10 != 1]), ("val", files[1::10])):
        path, trajectories, dropped = args.output / f"{root.name}__videos__{split}.hdf5", 0, 0
        if not videos:
            return print("a single video: no evaluation file")
        if path.exists():
            raise SystemExit(f"error: {path} exists; remove it or give another --output")
        partial = path.with_name(path.name + ".partial")
        with h5py.File(partial, "w") as data, tqdm(desc=f"{split} file", unit="frame", unit_scale=True) as bar:
            data.attrs.update(attributes | {"split": split, "source": str(root)})
            for number, file in enumerate(videos):
                bar.set_postfix_str(f"video {number + 1} of {len(videos)}: {file.name}")
                frames = read_video(file)
                while obs := list(itertools.islice(frames, EPISODE_LENGTH)):
                    bar.update(len(obs))
                    if len(obs) < shortest:
                        dropped += len(obs)
                        continue
                    data[f"{trajectories}/obs"] = np.stack(obs)
                    data[str(trajectories)].attrs["source"] = str(file.relative_to(root))
                    trajectories += 1
        if not trajectories:
            raise SystemExit(f"error: no video of {shortest} frames for {path} in {args.from_videos}")
        partial.rename(path)
        print(f"{path}: {trajectories} trajectories of {len(videos)} videos; dropped {dropped} frames of ends below {shortest}")
        draw_dataset(path)


def draw_grid(path: Path, rows: dict[str, np.ndarray], columns: list[str], scale: int = 2):
    """A labelled picture file of rows of small pictures: label → uint8 (columns, 64, 64, 3), enlarged by repeating pixels."""
    cell, left = IMG_HW * scale + 4, 20 + int(max(ImageFont.load_default(16).getlength(label) for label in rows))
    picture = Image.new("RGB", (left + len(columns) * cell, 28 + len(rows) * cell), "white")
    draw = ImageDraw.Draw(picture)
    for c, label in enumerate(columns):
        draw.text((left + (c + 0.5) * cell, 14), label, "black", anchor="mm", font_size=16)
    for r, (label, pictures) in enumerate(rows.items()):
        draw.text((left - 10, 28 + (r + 0.5) * cell), label, "black", anchor="rm", font_size=16)
        for c, pixels in enumerate(pictures):
            picture.paste(Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1)), (left + c * cell, 28 + r * cell))
    picture.save(path, optimize=True)


def draw_dataset(path: Path):
    """A contact sheet (rows: trajectories, columns: time) and a short film of the first trajectories, beside the file."""
    with h5py.File(path) as file:
        observations = [file[str(i)]["obs"] for i in range(min(8, len(file)))]
        length = min(map(len, observations))
        film = np.stack([obs[: min(length, 160) : 2] for obs in observations])  # (N, T / 2, 64, 64, 3)
        times = np.linspace(0, length - 1, 12).astype(int)
        sheet = {str(i): np.stack([obs[t] for t in times]) for i, obs in enumerate(observations)}
    draw_grid(path.with_suffix(".png"), sheet, [f"t = {t}" for t in times])
    columns = min(4, len(film))
    film = film[: len(film) // columns * columns].reshape(-1, columns, *film.shape[1:])  # (rows, columns, T / 2, 64, 64, 3)
    film = film.transpose(2, 0, 3, 1, 4, 5).reshape(film.shape[2], -1, columns * IMG_HW, 3)
    imageio.imwrite(path.with_suffix(".gif"), film.repeat(2, 1).repeat(2, 2), duration=40, loop=0)
    print(f"pictures: {path.with_suffix('.png')} {path.with_suffix('.gif')}")


def preview_task(task: str, args: Args, backgrounds: Path, expert_file: Path, draws: int) -> np.ndarray:
    """In a worker: 250 steps of --task, or the last of another task, without distractors and then the same physics under several
    draws of them, uint8 (1 + draws, 250 or 1, 64, 64, 3)."""
    arrays, _ = play(make_env(task, "vanilla", backgrounds, "train"), load_expert(expert_file), args.seed, length=250)
    obs, physics = (arrays[name][0 if task == args.task else -1 :] for name in ("obs", "physics"))
    env = make_env(task, args.difficulty, backgrounds, "train")
    env.env = Replay(env.env)
    return np.stack([obs] + [replay(env, args.seed + draw, physics) for draw in range(draws)])


def preview(args: Args, backgrounds: Path):
    """--preview: pictures of all tasks, of one trajectory of --task over time, and of its twins."""
    draws = 0 if args.difficulty == "vanilla" else 3
    labels = ["no distractors"] + [f"seed {args.seed + draw}" for draw in range(draws)]
    experts = {task: Path(__file__).parent / "experts" / f"{task}.npz" for task in get_args(Args.__annotations__["task"])}
    experts[args.task] = args.expert or experts[args.task]
    with worker_pool(args.num_workers) as pool:
        jobs = {task: pool.submit(preview_task, task, args, backgrounds, file, draws) for task, file in experts.items()}
        films = {task: job.result() for task, job in tqdm(jobs.items(), desc="preview", unit="task")}
    rows = {label: [film[row, -1] for film in films.values()] for row, label in enumerate(labels)}
    draw_grid(args.output / f"preview__{args.difficulty}.png", rows, list(experts), scale=3)
    for name, times, shown in (("strip", range(0, 250, 25), labels[:2][-1:]), ("twins", range(180, 250, 10), labels)):
        rows = {label: films[args.task][labels.index(label), times] for label in shown}
        draw_grid(args.output / f"preview__{args.task}__{args.difficulty}__{name}.png", rows, [f"t = {t}" for t in times])


# differs: there is no --resume here, the same command continues
def parse_args(argv: list[str]) -> Args:
    """The command line: a preset's name first, paper if there is none."""
    argv = argv if argv and not argv[0].startswith("-") else ["paper", *argv]
    presets = {name: (f"{about}; presets: {', '.join(PRESETS)}\n\n{__doc__}", args) for name, (about, args) in PRESETS.items()}
    return tyro.extras.overridable_config_cli(presets, args=argv, prog=Path(__file__).name)


# differs: collection instead of training
def main(args: Args):
    expert_file = args.expert or Path(__file__).parent / "experts" / f"{args.task}.npz"
    if args.verify_expert or args.train_expert:
        os.environ["MUJOCO_GL"] = "disabled"  # nothing is rendered: no OpenGL needed
        torch.set_num_threads(1)  # the networks are too small to share
    if args.train_expert:
        return train_expert(args)
    expert = None if args.rerender or args.preview or args.from_videos else load_expert(expert_file)
    if args.verify_expert:
        print(f"{expert_file}: {expert.about}")
        returns = play_expert(expert, args.task, args.verify_expert, seed=args.seed + 10**6)
        result = {name: round(getattr(returns, name)(), 2) for name in ("mean", "std", "min")}
        return print(json.dumps({"task": args.task, "episodes": len(returns)} | result))
    args.output.mkdir(parents=True, exist_ok=True)
    shard, num_shards = parse_shard(args.shard)
    lock = open(args.output / (".lock" if num_shards == 1 else f".lock-{shard}-of-{num_shards}"), "w")  # noqa: SIM115 held to the end
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SystemExit(f"error: another process collects in {args.output}; give another --output, or shards")
    if args.from_videos:
        return collect_videos(args)
    source = read_source(args.rerender) if args.rerender else None
    pick_rendering_backend()
    backgrounds = args.output / "backgrounds"
    if args.difficulty != "vanilla":
        with open(args.output / ".lock-backgrounds", "w") as backgrounds_lock:
            fcntl.flock(backgrounds_lock, fcntl.LOCK_EX)  # shards in one folder wait here for the one that makes the videos
            backgrounds = prepare_backgrounds(args.backgrounds, args.output, args.num_workers)
    if args.preview:
        return preview(args, backgrounds)
    if args.rerender:
        return record_dataset(args, source["attributes"], backgrounds, None, source)
    attributes = dict(zip(("domain_name", "task_name"), args.task.split("-")), shard=args.shard, expert=json.dumps(expert.about))
    for split, number in (("train", args.num_trajectories), ("val", args.num_eval_trajectories)):
        record_dataset(args, attributes | {"split": split, "num_trajectories": number}, backgrounds, expert_file)


if __name__ == "__main__":
    try:
        main(parse_args(sys.argv[1:]))
    except concurrent.futures.process.BrokenProcessPool:
        raise SystemExit("error: a worker process died (out of memory?); the same command continues from the last trajectory")
    except (KeyboardInterrupt, OSError) as error:  # a full disk, a folder without permission
        raise SystemExit(f"error: {str(error) or 'interrupted'}")

"""Collects expert datasets in the Distracting Control Suite, the data of "Latent Action Learning Requires Supervision in the
Presence of Distractors" (Nikulin et al., 2025; Section 3 and Appendix C).

An expert trained on proprioceptive states plays a dm_control task greedily while a camera films it at 64×64 pixels, with a moving
video in the background, a shaking camera and drifting colours. The pictures, the states, the actions and the physics go into one
HDF5 file with training videos and one with evaluation videos, which the learner of the other scripts never sees.

    python collect_data.py demo                                # 24 + 8 cheetah-run trajectories in data/, minutes on a laptop
    python collect_data.py --task walker-run                   # the paper's size: 5,000 + 50 trajectories, 61 GB
    python collect_data.py --backgrounds DAVIS/                # DAVIS 2017 videos instead of procedural ones
    python collect_data.py --verify-expert 100                 # plays the expert without rendering
    python collect_data.py --train-expert sac                  # trains an expert into runs/experts/

Files written to --output (data/):
    <task>__<difficulty>__train.hdf5, <task>__<difficulty>__val.hdf5    the datasets, format in `create_dataset_file`
    <the same>.png, <the same>.gif                                      what they look like
    backgrounds/<name>/{train,val}/*.npy                                the background videos, which evaluation uses again

A killed collection continues where it stopped when the same command is given again, and ends with the same file.

Where we deviate: experts train for as long as it takes; stored actions are those that acted, clipped to their bounds; each
trajectory also stores its seed and the MuJoCo state behind every picture.
"""

import collections
import concurrent.futures
import contextlib
import copy
import dataclasses
import fcntl
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
import unittest.mock
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

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
from PIL import Image, ImageDraw
from tqdm import tqdm

# ---- Arguments ---------------------------------------------------------------------------------------------------------------


@dataclass
class SACArgs:
    """--train-expert sac: soft actor-critic (Haarnoja et al., 2018), the paper's choice for humanoid-walk."""

    total_steps: int = 4_000_000
    """environment steps, all environments together"""
    num_envs: int = 64
    """environments that step together"""
    updates_per_round: int = 4
    """gradient steps of the critics after each step of all environments"""
    policy_delay: int = 2
    """gradient steps of the critics per gradient step of the actor"""
    batch_size: int = 256
    """transitions per gradient step"""
    hidden_dim: int = 128
    """width of the two hidden layers of actor and critics"""
    learning_rate: float = 1e-3
    """Adam's; constant for the first half of the training, then linearly to zero"""
    gamma: float = 0.99
    """discount per step"""
    tau: float = 0.005
    """step of the target critics towards the critics"""
    init_temperature: float = 0.1
    """first weight of the entropy; tuned towards a target entropy of -A / 2"""
    n_step: int = 3
    """rewards summed before the target critics take over"""
    buffer_size: int = 1_024_000
    """transitions kept for replay"""
    learning_starts: int = 32_000
    """steps with random actions before the first update"""


@dataclass
class PPOArgs:
    """--train-expert ppo: proximal policy optimisation (Schulman et al., 2017), the paper's choice for the other tasks."""

    total_steps: int = 20_000_000
    """environment steps, all environments together"""
    num_envs: int = 32
    """environments that step together"""
    rollout_length: int = 250
    """steps of each environment between updates; divides the episode of 1,000 steps"""
    update_epochs: int = 10
    """passes over each rollout"""
    num_minibatches: int = 16
    """minibatches per pass"""
    hidden_dim: int = 64
    """width of the two hidden layers of policy and value"""
    learning_rate: float = 3e-4
    """Adam's at the start; falls linearly to zero"""
    gamma: float = 0.99
    """discount per step"""
    gae_lambda: float = 0.95
    """lambda of the generalised advantage estimate"""
    clip_coef: float = 0.2
    """clip of the probability ratio"""


# differs: the arguments of a collection
@dataclass
class Args:
    task: Literal["cheetah-run", "walker-run", "hopper-hop", "humanoid-walk"] = "cheetah-run"
    """dm_control task (Section 3)"""
    difficulty: Literal["vanilla", "easy", "medium", "hard", "scale_easy_video_hard"] = "scale_easy_video_hard"
    """distractors: none, or scale 0.1/0.2/0.3 of camera and colour with 4/8/60 videos; the paper's is scale 0.1 with 60 videos"""
    backgrounds: str = "procedural"
    """a DAVIS 2017 folder, any folder of folders of frames, or `procedural`: dead-leaves videos, made once and kept"""
    output: Path = Path("data")
    """folder of the datasets and background videos"""
    num_trajectories: int = 5000
    """trajectories of 1,000 steps in the training file, 12.4 MB each (Appendix C)"""
    num_eval_trajectories: int = 50
    """trajectories in the evaluation file, with videos that the training file does not have (Appendix C)"""
    num_workers: int = os.cpu_count() or 1
    """processes that simulate and render; one per core is a good choice"""
    seed: int = 0
    """of physics, videos, camera and colours; each trajectory has its own seed derived from it"""
    expert: Path | None = None
    """expert file (.npz); the default is experts/<task>.npz beside this script"""
    verify_expert: int | None = None
    """play the expert so many episodes without rendering, print its returns, and stop"""
    train_expert: Literal["ppo", "sac"] | None = None
    """train an expert on proprioceptive states into --expert-output, and stop"""
    expert_output: Path = Path("runs/experts")
    """folder for a trained expert, its learning curve and its checkpoint, from which the same command continues"""
    eval_interval: int = 100_000
    """steps between evaluations and checkpoints of an expert in training"""
    sac: SACArgs = field(default_factory=SACArgs)
    ppo: PPOArgs = field(default_factory=PPOArgs)


# differs: sizes of a collection
PRESETS = {
    "paper": ("the paper's size (Appendix C): 5,000 + 50 trajectories (default)", Args()),
    "demo": ("a laptop without a GPU: 24 + 8 trajectories, 0.4 GB", Args(num_trajectories=24, num_eval_trajectories=8)),
}

EPISODE_LENGTH = 1000  # steps, dm_control's for all four tasks


# ---- Experts: PPO and SAC on proprioceptive states, without rendering (Appendix C) -------------------------------------------


class Expert:
    """A trained policy that plays greedily: a small MLP in numpy.

    __call__: states (..., S) → actions (..., A) float32 in [-1, 1]. The file is an .npz below 1 MB: weight_i, bias_i, state_mean,
    state_std, and `about`, a JSON text that says how it was trained. SAC has ReLU units and a tanh, PPO tanh units and a clip.
    """

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.about = json.loads(str(arrays["about"]))
        self.layers = [(arrays[f"weight_{i}"], arrays[f"bias_{i}"]) for i in range(self.about["num_layers"])]
        self.state_mean, self.state_std = arrays["state_mean"], arrays["state_std"]

    def __call__(self, states: np.ndarray) -> np.ndarray:
        x = np.clip((states.astype(np.float32) - self.state_mean) / self.state_std, -10, 10)
        for weight, bias in self.layers[:-1]:
            x = x @ weight.T + bias
            x = np.maximum(x, 0) if self.about["algorithm"] == "sac" else np.tanh(x)
        x = x @ self.layers[-1][0].T + self.layers[-1][1]
        return np.tanh(x) if self.about["algorithm"] == "sac" else np.clip(x, -1, 1)


class RunningStatistics(RunningMeanStd):
    """Mean and variance of all states seen so far, float64 (S,)."""

    def std(self) -> np.ndarray:
        return np.sqrt(self.var) + 1e-3

    def normalize(self, states: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.clip((states - self.mean) / self.std(), -10, 10), dtype=torch.float32)


def make_state_envs(task: str, num_envs: int) -> gym.vector.VectorEnv:
    """Environments with flat proprioceptive states (num_envs, S), stepped together; no episode ends before its 1,000 steps."""
    make = lambda: gym.wrappers.FlattenObservation(load_task(task))
    return gym.vector.SyncVectorEnv([make] * num_envs, autoreset_mode=gym.vector.AutoresetMode.DISABLED)


def play_expert(expert: Expert, task: str, episodes: int, seed: int) -> np.ndarray:
    """Returns of greedy episodes without rendering, float64 (episodes,)."""
    envs = make_state_envs(task, episodes)
    states, _ = envs.reset(seed=seed)
    returns = np.zeros(episodes)
    for _ in range(EPISODE_LENGTH):
        states, rewards, *_ = envs.step(expert(states))
        returns += rewards
    return returns


def mlp(sizes: list[int], activation: type[nn.Module], layer_norm: bool = False) -> nn.Sequential:
    layers = []
    for inputs, outputs in zip(sizes[:-2], sizes[1:-1]):
        layers += [nn.Linear(inputs, outputs), nn.LayerNorm(outputs) if layer_norm else nn.Identity(), activation()]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


class SACExpert(nn.Module):
    """Soft actor-critic (Haarnoja et al., 2018): two critics with layer normalisation, tuned temperature, delayed actor.

    Many environments step together, then a few updates follow: on one core the environment is cheap and the update is not.
    """

    def __init__(self, args: SACArgs, state_dim: int, action_dim: int):
        super().__init__()
        self.args, self.action_dim = args, action_dim
        self.actor = mlp([state_dim, args.hidden_dim, args.hidden_dim, 2 * action_dim], nn.ReLU)
        self.critics = nn.ModuleList(
            mlp([state_dim + action_dim, args.hidden_dim, args.hidden_dim, 1], nn.ReLU, layer_norm=True) for _ in range(2)
        )
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(args.init_temperature)))
        self.actor_optim = torch.optim.Adam(self.actor.parameters(), lr=args.learning_rate, fused=True)
        self.critic_optim = torch.optim.Adam(self.critics.parameters(), lr=args.learning_rate, fused=True)
        self.alpha_optim = torch.optim.Adam([self.log_alpha], lr=args.learning_rate, betas=(0.5, 0.999))
        self.optims = [self.actor_optim, self.critic_optim, self.alpha_optim]

    def sample(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised states (B, S) → squashed actions (B, A) in (-1, 1) and their log-probabilities (B,)."""
        mean, log_std = self.actor(states).chunk(2, dim=-1)
        log_std = -5 + 3.5 * (torch.tanh(log_std) + 1)  # between -5 and 2
        noise = torch.randn_like(mean)
        pre_tanh = mean + log_std.exp() * noise
        # log |d tanh(x) / dx| = 2 (log 2 - x - softplus(-2x)), which does not overflow
        log_det = 2 * (math.log(2) - pre_tanh - F.softplus(-2 * pre_tanh))
        return torch.tanh(pre_tanh), (-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi) - log_det).sum(-1)

    def update(self, states, actions, rewards, next_states, update_actor: bool):
        """One gradient step of the critics and, when asked, of the actor and the temperature; all inputs (B, …)."""
        with torch.no_grad():
            next_actions, next_log_prob = self.sample(next_states)
            x = torch.cat([next_states, next_actions], -1)
            next_value = torch.min(self.targets[0](x), self.targets[1](x))[:, 0] - self.log_alpha.exp() * next_log_prob
            target = rewards + self.args.gamma**self.args.n_step * next_value  # no episode ends early: always bootstrap
        x = torch.cat([states, actions], -1)
        critic_loss = sum(F.mse_loss(critic(x)[:, 0], target) for critic in self.critics)
        self.critic_optim.zero_grad()
        critic_loss.backward()
        self.critic_optim.step()

        if update_actor:
            self.critics.requires_grad_(False)
            new_actions, log_prob = self.sample(states)
            x = torch.cat([states, new_actions], -1)
            value = torch.min(self.critics[0](x), self.critics[1](x))[:, 0]
            actor_loss = (self.log_alpha.exp().detach() * log_prob - value).mean()
            self.actor_optim.zero_grad()
            actor_loss.backward()
            self.actor_optim.step()
            self.critics.requires_grad_(True)
            alpha_loss = -self.log_alpha * (log_prob.detach().mean() - self.action_dim / 2)  # target entropy: -A / 2
            self.alpha_optim.zero_grad()
            alpha_loss.backward()
            self.alpha_optim.step()

        torch._foreach_lerp_(list(self.targets.parameters()), list(self.critics.parameters()), self.args.tau)


def train_sac(args: Args, training: "ExpertTraining"):
    sac, envs, agent, statistics, rng = args.sac, training.envs, training.agent, training.statistics, training.rng
    length = sac.buffer_size // sac.num_envs // EPISODE_LENGTH * EPISODE_LENGTH  # rounds kept: whole episodes
    dims = (training.state_dim, training.action_dim, 1, training.state_dim)
    buffer = [np.zeros((length, sac.num_envs, dim), np.float32) for dim in dims]  # states, actions, rewards, next states
    for step in training.steps(sac.total_steps, sac.num_envs):
        rounds = (step - training.first_step) // sac.num_envs  # since the start of this process
        if rounds % EPISODE_LENGTH == 0:
            states, _ = envs.reset(seed=args.seed + step)
        if step < sac.learning_starts:
            actions = rng.uniform(-1, 1, (sac.num_envs, training.action_dim)).astype(np.float32)
        else:
            with torch.no_grad():
                actions = agent.sample(statistics.normalize(states))[0].numpy()
        next_states, rewards, *_ = envs.step(actions)
        statistics.update(states)
        for column, values in zip(buffer, (states, actions, rewards[:, None], next_states)):
            column[rounds % length] = values
        states, filled = next_states, min(rounds + 1, length)

        if rounds * sac.num_envs < sac.learning_starts:
            continue
        for optim in (agent.actor_optim, agent.critic_optim):  # constant for the first half, then linearly to zero
            optim.param_groups[0]["lr"] = sac.learning_rate * min(1.0, 2 * (1 - step / sac.total_steps))
        for update in range(sac.updates_per_round):
            t, e = rng.integers(0, filled, sac.batch_size), rng.integers(0, sac.num_envs, sac.batch_size)
            episode_end = np.minimum((t // EPISODE_LENGTH + 1) * EPISODE_LENGTH, filled)
            t = np.minimum(t, episode_end - sac.n_step)  # all n rewards come from one episode
            agent.update(
                statistics.normalize(buffer[0][t, e]),
                torch.from_numpy(buffer[1][t, e]),
                torch.from_numpy(sum(sac.gamma**j * buffer[2][t + j, e, 0] for j in range(sac.n_step))),
                statistics.normalize(buffer[3][t + sac.n_step - 1, e]),
                update_actor=update % sac.policy_delay == 0,
            )


class PPOExpert(nn.Module):
    """Proximal policy optimisation (Schulman et al., 2017); the standard deviation of its Gaussian ignores the state."""

    def __init__(self, args: PPOArgs, state_dim: int, action_dim: int):
        super().__init__()
        self.actor = mlp([state_dim, args.hidden_dim, args.hidden_dim, action_dim], nn.Tanh)
        self.value = mlp([state_dim, args.hidden_dim, args.hidden_dim, 1], nn.Tanh)
        nn.init.orthogonal_(self.actor[-1].weight, 0.01)
        self.log_std = nn.Parameter(torch.full((action_dim,), -0.5))
        self.optims = [torch.optim.Adam(self.parameters(), lr=args.learning_rate, eps=1e-5, fused=True)]

    def distribution(self, states: torch.Tensor) -> torch.distributions.Distribution:
        normal = torch.distributions.Normal(self.actor(states), self.log_std.exp(), validate_args=False)
        return torch.distributions.Independent(normal, 1, validate_args=False)


def train_ppo(args: Args, training: "ExpertTraining"):
    ppo, envs, agent, statistics, (optim,) = args.ppo, training.envs, training.agent, training.statistics, training.agent.optims
    for step in training.steps(ppo.total_steps, ppo.num_envs * ppo.rollout_length):
        if (step - training.first_step) // ppo.num_envs % EPISODE_LENGTH == 0:
            states, _ = envs.reset(seed=args.seed + step)
        rollout = []
        for _ in range(ppo.rollout_length):
            statistics.update(states)
            normalized = statistics.normalize(states)
            with torch.no_grad():
                distribution = agent.distribution(normalized)
                actions = distribution.sample()
                log_probs, values = distribution.log_prob(actions), agent.value(normalized)[:, 0]
            states, rewards, *_ = envs.step(actions.numpy().clip(-1, 1))
            rewards = torch.as_tensor(rewards * 0.1, dtype=torch.float32)  # returns near 10, not 100
            rollout.append((normalized, actions, log_probs, values, rewards))
        seen, actions, log_probs, values, rewards = map(torch.stack, zip(*rollout))  # (rollout_length, num_envs, …)
        with torch.no_grad():  # generalised advantage estimate; an episode's end is not an end of the task: bootstrap
            next_value, advantage, advantages = agent.value(statistics.normalize(states))[:, 0], 0.0, torch.zeros_like(values)
            for t in reversed(range(ppo.rollout_length)):
                delta = rewards[t] + ppo.gamma * next_value - values[t]
                advantages[t] = advantage = delta + ppo.gamma * ppo.gae_lambda * advantage
                next_value = values[t]
        data = [x.flatten(0, 1) for x in (seen, actions, log_probs, advantages, advantages + values)]

        optim.param_groups[0]["lr"] = ppo.learning_rate * (1 - step / ppo.total_steps)
        for _ in range(ppo.update_epochs):
            for rows in torch.randperm(len(data[0])).chunk(ppo.num_minibatches):
                batch_states, batch_actions, old_log_probs, advantage, returns = (x[rows] for x in data)
                ratio = (agent.distribution(batch_states).log_prob(batch_actions) - old_log_probs).exp()
                advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
                clipped = ratio.clamp(1 - ppo.clip_coef, 1 + ppo.clip_coef)
                policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
                value_loss = 0.5 * F.mse_loss(agent.value(batch_states)[:, 0], returns)
                optim.zero_grad()
                (policy_loss + value_loss).backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optim.step()


class ExpertTraining:
    """What the two algorithms share: environments, state statistics, evaluation, learning curve, checkpoint and the best expert.

    The best is the one with the highest mean minus standard deviation over ten greedy episodes: high and steady. A restart
    continues from the checkpoint; SAC fills its buffer anew with that policy.
    """

    saved = ("step", "seconds", "curve", "best_score", "made_by")  # in the checkpoint, beside networks and statistics

    def __init__(self, args: Args):
        self.algorithm, self.task, self.interval = args.train_expert, args.task, args.eval_interval
        self.seed, self.hyper = args.seed, getattr(args, args.train_expert)
        torch.manual_seed(args.seed)
        self.envs = make_state_envs(args.task, self.hyper.num_envs)
        self.state_dim, self.action_dim = self.envs.single_observation_space.shape[0], self.envs.single_action_space.shape[0]
        self.agent = {"sac": SACExpert, "ppo": PPOExpert}[self.algorithm](self.hyper, self.state_dim, self.action_dim)
        self.statistics = RunningStatistics(shape=self.state_dim)
        self.step, self.seconds, self.curve, self.best_score = 0, 0.0, [], -math.inf
        self.path = args.expert_output / f"{args.task}.npz"
        self.checkpoint = self.path.with_suffix(".checkpoint.pt")
        self.made_by = f"{self.algorithm}, seed {self.seed}, {self.hyper.hidden_dim} units, {self.hyper.num_envs} environments"
        args.expert_output.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self.load()
        self.first_step = self.step
        self.rng = np.random.default_rng([args.seed, self.step])

    def steps(self, total: int, per_round: int):
        """Yields the environment step at the start of each round; evaluates between rounds."""
        started = time.time() - self.seconds
        title = f"{self.algorithm} {self.task}"
        with tqdm(total=total, initial=self.step, desc=title, unit="step", unit_scale=True) as bar:
            while self.step < total:
                yield self.step
                before, self.step = self.step, self.step + per_round
                bar.update(per_round)
                if before // self.interval < self.step // self.interval or self.step >= total:
                    self.seconds = time.time() - started
                    self.evaluate()
                    bar.set_postfix(greedy_return=f"{self.curve[-1]['mean']:.0f}")

    def evaluate(self):
        returns = play_expert(Expert(self.export()), self.task, episodes=10, seed=self.seed + 10**5)
        point = {"mean": returns.mean(), "std": returns.std(), "min": returns.min(), "seconds": self.seconds}
        self.curve.append({"step": self.step} | {name: round(float(value), 2) for name, value in point.items()})
        if returns.mean() - returns.std() > self.best_score:
            self.best_score = float(returns.mean() - returns.std())
            with open(self.path.with_suffix(".partial"), "wb") as file:
                np.savez(file, **self.export())
            self.path.with_suffix(".partial").rename(self.path)
        self.save()
        figure = matplotlib.figure.Figure(figsize=(5, 3), layout="constrained")
        axes = figure.subplots()
        step, mean, std = (np.array([point[name] for point in self.curve]) for name in ("step", "mean", "std"))
        axes.plot(step, mean)
        axes.fill_between(step, mean - std, mean + std, alpha=0.3)
        axes.set(xlabel="environment steps", ylabel="return, 10 greedy episodes", title=self.task)
        figure.savefig(self.path.with_suffix(".png"), dpi=120)

    def export(self) -> dict[str, np.ndarray]:
        """The arrays of the expert file: the linear layers of the mean action, the state statistics and how it was trained."""
        linears = [layer for layer in self.agent.actor if isinstance(layer, nn.Linear)]
        about = {"task": self.task, "algorithm": self.algorithm, "num_layers": len(linears), "seed": self.seed}
        about |= {"steps": self.step, "seconds": round(self.seconds), "hyperparameters": dataclasses.asdict(self.hyper)}
        mean, std = self.statistics.mean.astype(np.float32), self.statistics.std().astype(np.float32)
        arrays = {"about": np.array(json.dumps(about)), "state_mean": mean, "state_std": std}
        for i, linear in enumerate(linears):
            rows = self.action_dim if i == len(linears) - 1 else None  # SAC's last layer also gives standard deviations
            arrays[f"weight_{i}"] = linear.weight.detach().numpy()[:rows]
            arrays[f"bias_{i}"] = linear.bias.detach().numpy()[:rows]
        return arrays

    def save(self):
        state = {name: getattr(self, name) for name in self.saved}
        state["agent"], state["optims"] = self.agent.state_dict(), [optim.state_dict() for optim in self.agent.optims]
        state["statistics"] = {name: torch.as_tensor(value) for name, value in vars(self.statistics).items()}
        torch.save(state, self.checkpoint.with_suffix(".partial"))
        self.checkpoint.with_suffix(".partial").rename(self.checkpoint)

    def load(self):
        state = torch.load(self.checkpoint, weights_only=True)
        if state["made_by"] != self.made_by:
            raise SystemExit(f"error: {self.checkpoint} was made by {state['made_by']}; remove it or give another --expert-output")
        vars(self).update({name: state[name] for name in self.saved})
        self.agent.load_state_dict(state["agent"])
        for optim, saved in zip(self.agent.optims, state["optims"]):
            optim.load_state_dict(saved)
        vars(self.statistics).update({name: state["statistics"][name].numpy() for name in vars(self.statistics)})
        print(f"continuing from {self.checkpoint} at step {self.step:,}")


def load_expert(path: Path) -> Expert:
    try:
        with np.load(path) as arrays:
            return Expert(dict(arrays))
    except FileNotFoundError:
        raise SystemExit(f"error: no expert {path}; --train-expert trains one, --expert names a file")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise SystemExit(f"error: {path} is not an expert file: {error}")


# ---- Environment: Distracting Control Suite (Stone et al., 2021; Section 3) --------------------------------------------------

IMG_HW = 64  # height and width of an observation, pixels
SKY_HW = 160  # height and width of a background frame: the camera sees about half of it
# name: (scale of camera and colour, number of training videos; None means all)
DIFFICULTIES = dict(vanilla=(0.0, 0), easy=(0.1, 4), medium=(0.2, 8), hard=(0.3, None), scale_easy_video_hard=(0.1, None))
# MuJoCo's defaults are made for large pictures. Two of dm_control's XML files, smaller (sizes act when a model is compiled): no
# buffer beyond the picture, a shadow map of 256² instead of 2048², coarser spheres and capsules, a sky as large as the videos.
CHEAP_VISUAL = b"""<mujoco> <visual> <map znear=".01"/> <headlight ambient=".4 .4 .4" diffuse=".8 .8 .8" specular="0.1 0.1 0.1"/>
    <quality shadowsize="256" numslices="12" numstacks="8"/> <global offwidth="%d" offheight="%d"/> </visual> </mujoco>"""
CHEAP_VISUAL %= (IMG_HW, IMG_HW)
SMALL_SKY = b"""<mujoco> <asset> <texture name="skybox" type="skybox" builtin="flat" width="%d" height="%d"/> </asset> </mujoco>"""
SMALL_SKY %= (SKY_HW, SKY_HW)


def load_task(task: str, own_sky: bool = True) -> gym.Env:
    """A dm_control task through Shimmy, cheap to render; observations are dm_control's dictionaries of float64."""
    import absl.logging  # these imports stand here because dm_control binds to the OpenGL of MUJOCO_GL when it is first imported
    import shimmy
    from dm_control import suite

    absl.logging.set_verbosity("error")  # deprecations in dm_control's own XML
    cheap = {"./common/visual.xml": CHEAP_VISUAL} | ({} if own_sky else {"./common/skybox.xml": SMALL_SKY})
    with unittest.mock.patch.dict(suite.common.ASSETS, cheap):
        return shimmy.DmControlCompatibilityV0(suite.load(*task.split("-")))


class DistractingControl(gym.Wrapper):
    """Pixels instead of states, with colours, camera and background that drift independently of the physics.

    Observations are uint8 (64, 64, 3); info["state"] is the proprioceptive state, float32 (S,), info["physics"] the MuJoCo state
    behind the picture, float64 (P,). reset(seed=…) seeds physics, colours, camera and background: one seed, the same pixels.
    color_scale, camera_scale: the scale s of DIFFICULTIES, 0 for none. videos: arrays uint8 (frames, 160, 160, 3), none for the
    task's own sky. A camera position is (radius in metres, elevation above the horizon and azimuth in radians) about the agent's
    centre of mass. The constants are those of Stone et al., 2021.
    """

    def __init__(self, env: gym.Env, color_scale: float, camera_scale: float, videos: list[np.ndarray]):
        from dm_control.mujoco import Camera

        super().__init__(env)
        self.observation_space = gym.spaces.Box(0, 255, (IMG_HW, IMG_HW, 3), np.uint8)
        self.color_scale, self.camera_scale, self.videos = color_scale, camera_scale, videos
        self.physics = env.unwrapped.physics
        self.model, self.data = self.physics.model, self.physics.data
        self.camera = Camera(self.physics, IMG_HW, IMG_HW, camera_id=0)  # kept: a new one for each picture costs a third more
        self.own_colors = self.model.mat_rgba[:, :3].copy()
        if videos:
            self.sky = self.model.name2id("skybox", "texture")
            start = self.model.tex_adr[self.sky]
            self.sky_faces = self.model.tex_data[start : start + 6 * SKY_HW * SKY_HW * 3].reshape(6, SKY_HW, SKY_HW, 3)  # a view
            humanoid = self.model.name == "humanoid"  # whose ground would hide most of the background
            self.physics.named.model.mat_rgba["grid", "a"] = 0.3 if humanoid else 1.0

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        states, _ = self.env.reset(seed=seed, options=options)
        streams = np.random.SeedSequence(seed).spawn(3)
        self.color_rng, self.camera_rng, self.background_rng = (np.random.default_rng(stream) for stream in streams)

        self.color_low = np.clip(self.own_colors - self.color_scale, 0, 1)
        self.color_high = np.clip(self.own_colors + self.color_scale, 0, 1)
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
        return self.render(), self.make_info(states)

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
        return self.render(), reward, terminated, truncated, self.make_info(states)

    def make_info(self, states: dict) -> dict:
        state = gym.spaces.flatten(self.env.observation_space, states)  # the order that the experts are trained with
        return {"state": state.astype(np.float32), "physics": self.physics.get_state()}

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
    horizontal = math.cos(elevation)
    return radius * np.array([horizontal * math.cos(azimuth), horizontal * math.sin(azimuth), math.sin(elevation)])


def load_videos(backgrounds: Path, split: str, difficulty: str) -> list[np.ndarray]:
    """Background videos, uint8 (frames, 160, 160, 3), memory-mapped: all of "val", as many of "train" as the difficulty says."""
    number = DIFFICULTIES[difficulty][1]
    files = sorted((backgrounds / split).glob("*.npy"))
    if number != 0 and not files:
        raise SystemExit(f"error: no background videos (*.npy) in {backgrounds / split}; collect_data.py makes them")
    return [np.load(file, mmap_mode="r") for file in files[: number if split == "train" or number == 0 else None]]


def make_env(task: str, difficulty: str, backgrounds: Path, split: str) -> DistractingControl:
    scale, videos = DIFFICULTIES[difficulty][0], load_videos(backgrounds, split, difficulty)
    return DistractingControl(load_task(task, own_sky=not videos), scale, scale, videos)


def pick_rendering_backend():
    """Sets MUJOCO_GL for the worker processes: EGL on a GPU or on Mesa, else OSMesa. A choice of the user's stands."""
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa draws in the worker itself: threads for 64×64 pixels only cost
    if "MUJOCO_GL" in os.environ:
        return
    probe = "import mujoco; context = mujoco.GLContext(64, 64); context.make_current(); context.free()"
    for backend in ("egl", "osmesa"):
        environment = os.environ | {"MUJOCO_GL": backend}
        if subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True).returncode == 0:
            os.environ["MUJOCO_GL"] = backend
            return
    raise SystemExit("error: no OpenGL to render with; on Debian: apt-get install libegl1 libopengl0, or libosmesa6")


# ---- Background videos: DAVIS 2017, any folder of folders of frames, or procedural dead leaves -------------------------------

DAVIS_VIDEOS = {  # DAVIS 2017's own lists; val is the evaluation set of the Distracting Control Suite
    "train": """bear bmx-bumps boat boxing-fisheye breakdance-flare bus car-turn cat-girl classic-car color-run crossing
        dance-jump dancing disc-jockey dog-agility dog-gooses dogs-scale drift-turn drone elephant flamingo hike hockey
        horsejump-low kid-football kite-walk koala lady-running lindy-hop longboard lucia mallard-fly mallard-water miami-surf
        motocross-bumps motorbike night-race paragliding planes-water rallye rhino rollerblade schoolgirls scooter-board
        scooter-gray sheep skate-park snowboard soccerball stroller stunt surf swing tennis tractor-sand train tuk-tuk
        upside-down varanus-cage walking""",
    "val": """bike-packing blackswan bmx-trees breakdance camel car-roundabout car-shadow cows dance-twirl dog dogs-jump
        drift-chicane drift-straight goat gold-fish horsejump-high india judo kite-surf lab-coat libby loading mbike-trick
        motocross-jump paragliding-launch parkour pigs scooter-black shooting soapbox""",
}


def dead_leaves_video(seed: int, num_frames: int = 60, size: int = SKY_HW) -> np.ndarray:
    """A moving texture with the statistics of natural images: overlapping shapes whose radii follow a power law of exponent -3
    (Lee, Mumford and Huang, 2001), with a few base colours, soft shading, a drifting camera and parallax; some shapes move by
    themselves. uint8 (num_frames, size, size, 3).
    """
    rng = np.random.default_rng([seed, 2017])
    n = 700
    smallest, largest = 0.03, 0.6  # radii, in sides of the picture
    radius = smallest / np.sqrt(1 - rng.uniform(size=n) * (1 - (smallest / largest) ** 2))
    depth = rng.uniform(0.4, 1.6, n)  # what is nearer is drawn later and moves faster
    order = np.argsort(depth - 1.5 * radius)
    position = rng.uniform(-0.75, 1.75, (n, 2))
    own_motion = rng.normal(0, 0.004, (n, 2)) * (rng.uniform(size=(n, 1)) < 0.3)
    angle, spin = rng.uniform(0, 2 * np.pi, n), rng.normal(0, 0.01, n)
    camera = rng.normal(0, 0.006, 2) * np.arange(num_frames)[:, None] + rng.normal(0, 0.0015, (num_frames, 2)).cumsum(0)

    # outlines: ellipses bent by harmonics
    turn, harmonics = np.linspace(0, 2 * np.pi, 24, endpoint=False), np.arange(2, 6)[:, None]
    waves = rng.normal(0, 0.12, (n, 4, 1)) * np.cos(harmonics * turn + rng.uniform(0, 2 * np.pi, (n, 4, 1)))
    outline = radius[:, None] * (1 + waves.sum(1))
    outline = np.stack([outline * np.cos(turn), outline * np.sin(turn) * rng.uniform(0.35, 1, (n, 1))], -1)  # (n, 24, 2)

    # five colours (hue, saturation, value), each leaf near one of them
    palette = np.stack([rng.uniform() + rng.normal(0, 0.1, 5), rng.beta(1.5, 3.5, 5), rng.beta(3, 2.5, 5)], -1)
    colors = palette[rng.integers(5, size=n)] + rng.normal(0, [0.02, 0.06, 0.12], (n, 3))
    colors[:, 0] %= 1
    colors = Image.fromarray((np.clip(colors, 0.04, 1) * 255).astype(np.uint8)[None], "HSV").convert("RGB")
    colors = [tuple(color) for color in np.asarray(colors)[0].tolist()]

    fy, fx = np.meshgrid(np.fft.fftfreq(2 * size), np.fft.fftfreq(2 * size), indexing="ij")
    shading = np.fft.fft2(rng.standard_normal((2 * size, 2 * size))) / np.maximum(np.hypot(fy, fx), 0.5 / size) ** 1.5
    shading = np.fft.ifft2(shading).real
    shading = 1 + 0.2 * (shading - shading.mean()) / shading.std()

    frames = np.empty((num_frames, size, size, 3), np.uint8)
    for frame in range(num_frames):
        center = (position + frame * own_motion + camera[frame] * depth[:, None] + 0.75) % 2.5 - 0.75
        cos, sin = np.cos(angle + frame * spin), np.sin(angle + frame * spin)
        rotation = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)  # (n, 2, 2)
        polygons = (outline @ rotation + center[:, None]) * 2 * size  # drawn at twice the size and averaged: smooth edges
        image = Image.new("RGB", (2 * size, 2 * size), colors[order[0]])
        draw = ImageDraw.Draw(image)
        for i in order:
            draw.polygon(polygons[i].ravel().tolist(), fill=colors[i])
        dx, dy = np.round(camera[frame] * size).astype(int)
        shade = np.roll(shading, (dy, dx), (0, 1))[:size, :size, None]
        frames[frame] = np.clip(np.asarray(image.resize((size, size), Image.BOX)) * shade, 0, 255)
    return frames


def read_frames(folder: Path) -> np.ndarray:
    """A folder of pictures as a video, resized as the Distracting Control Suite does: uint8 (frames, 160, 160, 3)."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp", ".webp"))
    if not files:
        raise SystemExit(f"error: no pictures (jpg, png, bmp, webp) in {folder}")
    return np.stack([np.asarray(Image.open(file).convert("RGB").resize((SKY_HW, SKY_HW), Image.BILINEAR)) for file in files])


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
        missing = [path.name for paths in sources.values() for path in paths if not path.is_dir()]
        if missing:
            raise SystemExit(f"error: --backgrounds {backgrounds}: {len(missing)} DAVIS videos are missing: {', '.join(missing)}")
        return sources
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    sources = {"train": folders[: len(folders) * 2 // 3], "val": folders[len(folders) * 2 // 3 :]}  # two thirds, as in DAVIS
    if not sources["train"] or not sources["val"]:
        raise SystemExit(
            f"error: --backgrounds {backgrounds}: no folders of frames, at least one for training and one for evaluation"
        )
    return sources


def make_video(source: int | Path) -> np.ndarray:
    return dead_leaves_video(source) if isinstance(source, int) else read_frames(source)


def prepare_backgrounds(backgrounds: str, output: Path, num_workers: int) -> Path:
    """Makes or resizes each video once and keeps it as output/backgrounds/<name>/<split>/<number>.npy; returns that folder."""
    sources = find_videos(backgrounds)
    name = backgrounds if backgrounds == "procedural" else Path(backgrounds).resolve().name
    folder = output / "backgrounds" / name
    made_from = json.dumps({split: [str(source) for source in items] for split, items in sources.items()}, indent=1)
    if folder.is_dir():
        if (folder / "sources.json").read_text() != made_from:
            raise SystemExit(f"error: {folder} was made from other videos; remove it or give another --output")
        return folder
    partial = folder.with_name(name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    jobs = [(split, i, source) for split, items in sources.items() for i, source in enumerate(items)]
    with worker_pool(num_workers) as pool, tqdm(total=len(jobs), desc="background videos", unit="video") as bar:
        for (split, i, _), video in zip(jobs, pool.map(make_video, [source for *_, source in jobs])):
            (partial / split).mkdir(parents=True, exist_ok=True)
            np.save(partial / split / f"{i:03d}.npy", video)
            bar.update()
    (partial / "sources.json").write_text(made_from)
    partial.rename(folder)
    return folder


# ---- Collection --------------------------------------------------------------------------------------------------------------


def worker_pool(num_workers: int, *settings) -> concurrent.futures.ProcessPoolExecutor:
    """Fresh processes, not forks: those that render share nothing with the main process."""
    return concurrent.futures.ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"), start_worker, settings)


def create_dataset_file(path: Path, attributes: dict, seeds: list[int], dims: dict[str, int]):
    """A complete HDF5 file with room for all trajectories and no pixel in it yet.

    Groups "0", "1", …: obs uint8 (T, 64, 64, 3), states float32 (T, S), actions float32 (T, A), physics float64 (T, P), attributes
    traj_return and seed. obs[t], states[t] and physics[t] are what the expert saw when it chose actions[t]; obs[t+1] follows.
    Contiguous and allocated at once: workers write the arrays in place, the structure never changes after this function, and so
    a kill at any moment cannot break it.
    """
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes | {"dataset_return": np.nan, "dataset_return_std": np.nan})
        for i, seed in enumerate(seeds):
            group = file.create_group(str(i))
            group.attrs.update(traj_return=np.nan, seed=np.uint32(seed))
            for name, shape, dtype in (
                ("obs", (IMG_HW, IMG_HW, 3), np.uint8),
                ("states", (dims["states"],), np.float32),
                ("actions", (dims["actions"],), np.float32),
                ("physics", (dims["physics"],), np.float64),
            ):
                group.create_dataset(name, (EPISODE_LENGTH, *shape), dtype, dcpl=properties)
    with open(path, "r+b") as file:  # a disk that is too small says so now, not at the last trajectory
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def start_worker(task=None, difficulty=None, backgrounds=None, split=None, expert_file=None, counter=None):
    """Runs once in each worker: its environment, its expert and the frame counter that it shares with the progress bar."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process answers Ctrl-C
    threading.Thread(target=lambda: (multiprocessing.parent_process().join(), os._exit(1)), daemon=True).start()
    global worker_env, worker_expert, worker_counter
    if task:
        worker_env, worker_counter = make_env(task, difficulty, backgrounds, split), counter
        worker_expert = load_expert(expert_file)


def measure_task() -> tuple[dict[str, int], float]:
    """Sizes of the arrays that depend on the task, and the mean return of ten episodes of uniform actions."""
    _, info = worker_env.reset(seed=0)
    dims = {"states": len(info["state"]), "actions": worker_env.action_space.shape[0], "physics": len(info["physics"])}
    total, rng = 0.0, np.random.default_rng(0)
    for episode in range(10):
        worker_env.env.reset(seed=episode)  # without rendering
        actions = rng.uniform(-1, 1, (EPISODE_LENGTH, dims["actions"]))
        total += sum(worker_env.env.step(action)[1] for action in actions)
    return dims, total / 10


def record_trajectory(path: Path, offsets: dict[str, int], seed: int) -> float:
    """Plays the expert for one episode, writes the four arrays at their offsets in the file and gives back the return."""
    arrays, total = collections.defaultdict(list), 0.0
    obs, info = worker_env.reset(seed=seed)
    for step in range(EPISODE_LENGTH):
        action = np.clip(worker_expert(info["state"]), -1, 1).astype(np.float32)  # the bounds of all four tasks
        for name, value in (("obs", obs), ("states", info["state"]), ("actions", action), ("physics", info["physics"])):
            arrays[name].append(value)
        obs, reward, _, _, info = worker_env.step(action)
        total += reward
        if step % 50 == 49:
            with worker_counter.get_lock():
                worker_counter.value += 50
    with open(path, "r+b") as file:
        for name, values in arrays.items():
            file.seek(offsets[name])
            file.write(np.stack(values).tobytes())
    return total


def collect(args: Args, split: str, num_trajectories: int, backgrounds: Path, expert_file: Path) -> Path:
    """Collects one file. The journal <file>.partial.jsonl names the trajectories that are whole in <file>.partial."""
    path = args.output / f"{args.task}__{args.difficulty}__{split}.hdf5"
    partial, journal = path.with_name(path.name + ".partial"), path.with_name(path.name + ".partial.jsonl")
    seeds = np.random.SeedSequence([args.seed, ("train", "val").index(split)]).generate_state(num_trajectories).tolist()
    attributes = dict(zip(("domain_name", "task_name"), args.task.split("-")))
    attributes |= {"difficulty": args.difficulty, "dynamic": args.difficulty != "vanilla", "img_hw": IMG_HW, "split": split}
    attributes |= {
        "seed": args.seed,
        "num_trajectories": num_trajectories,
        "backgrounds": os.path.relpath(backgrounds, args.output),
    }
    attributes |= {"expert": json.dumps(load_expert(expert_file).about)}
    if path.exists():
        with h5py.File(path) as file:
            differing = [name for name, value in attributes.items() if file.attrs.get(name) != value]
        if differing:
            raise SystemExit(f"error: {path} exists and differs in {', '.join(differing)}; remove it or give another --output")
        print(f"{path} is complete already")
        return path

    returns = {}  # trajectory → return
    if journal.exists() and partial.exists():
        header, *lines = journal.read_text().splitlines() or ["{}"]
        if header != json.dumps(attributes):
            raise SystemExit(f"error: {partial} was begun with other settings; remove it with its journal or give another --output")
        returns = dict(json.loads(line) for line in lines if line.endswith("]"))  # a line that a kill cut short does not count
        journal.with_suffix(".tmp").write_text("\n".join([header, *map(json.dumps, returns.items()), ""]))
        journal.with_suffix(".tmp").rename(journal)
        print(f"{partial}: {len(returns)} of {num_trajectories} trajectories are there already")

    counter = multiprocessing.get_context("spawn").Value("q", len(returns) * EPISODE_LENGTH)
    settings = (args.task, args.difficulty, backgrounds, split, expert_file, counter)
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(worker_pool(args.num_workers, *settings))
        bar = tqdm(
            total=num_trajectories * EPISODE_LENGTH, initial=counter.value, desc=f"{split} file", unit="frame", unit_scale=True
        )
        stack.enter_context(bar)
        if not journal.exists() or not partial.exists():
            dims, random_return = pool.submit(measure_task).result()
            try:
                create_dataset_file(partial, attributes | {"random_return": random_return}, seeds, dims)
            except OSError as error:
                partial.unlink(missing_ok=True)
                raise SystemExit(f"error: no room for {path} ({num_trajectories * 12.4e-3:.1f} GB): {error}")
            journal.write_text(json.dumps(attributes) + "\n")
        with h5py.File(partial) as file:
            offsets = {
                i: {name: file[f"{i}/{name}"].id.get_offset() for name in ("obs", "states", "actions", "physics")}
                for i in range(num_trajectories)
                if i not in returns
            }
        futures = {pool.submit(record_trajectory, partial, offsets[i], seeds[i]): i for i in offsets}
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)  # on Ctrl-C or an error: what is running, no more
        while futures:
            done, _ = concurrent.futures.wait(futures, timeout=0.5, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                index = futures.pop(future)
                returns[index] = future.result()
                with open(journal, "a") as file:
                    file.write(json.dumps([index, returns[index]]) + "\n")
            bar.update(counter.value - bar.n)
            bar.set_postfix(mean_return=f"{np.mean(list(returns.values()) or [0]):.1f}", refresh=False)

    values = np.array([returns[i] for i in range(num_trajectories)])
    with h5py.File(partial, "r+") as file:
        for i, value in enumerate(values):
            file[str(i)].attrs.modify("traj_return", value)
        file.attrs.modify("dataset_return", values.mean())
        file.attrs.modify("dataset_return_std", values.std())
    partial.rename(path)
    journal.unlink()
    print(f"{path}: {num_trajectories} trajectories, return {values.mean():.1f} ± {values.std():.1f}, worst {values.min():.1f}")
    return path


def draw_dataset(path: Path):
    """A contact sheet (rows: trajectories, columns: time) and a short film of the first trajectories, beside the file."""
    with h5py.File(path) as file:
        names = sorted((name for name in file if name.isdigit()), key=int)[:8]
        film = np.stack([file[name]["obs"][:160:2] for name in names])  # (N, 80, 64, 64, 3): every second frame of the first 160
        times = np.linspace(0, EPISODE_LENGTH - 1, 12).astype(int)
        sheet = np.stack([file[name]["obs"][times] for name in names])  # (N, 12, 64, 64, 3)
    sheet = sheet.transpose(0, 2, 1, 3, 4).reshape(len(names) * IMG_HW, -1, 3)
    imageio.imwrite(path.with_suffix(".png"), sheet.repeat(2, 0).repeat(2, 1))
    columns = min(4, len(names))
    film = film[: len(names) // columns * columns].reshape(-1, columns, *film.shape[1:])  # (rows, columns, T, 64, 64, 3)
    film = film.transpose(2, 0, 3, 1, 4, 5).reshape(film.shape[2], -1, columns * IMG_HW, 3)
    imageio.imwrite(path.with_suffix(".gif"), film.repeat(2, 1).repeat(2, 2), duration=40, loop=0)
    print(f"pictures: {path.with_suffix('.png')} {path.with_suffix('.gif')}")


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
        training = ExpertTraining(args)
        (train_sac if args.train_expert == "sac" else train_ppo)(args, training)
        print(f"best of {len(training.curve)} evaluations: {training.path}; learning curve: {training.path.with_suffix('.png')}")
        return
    expert = load_expert(expert_file)
    if args.verify_expert:
        print(f"{expert_file}: {expert.about}")
        returns = play_expert(expert, args.task, args.verify_expert, seed=args.seed + 10**6)
        result = {"task": args.task, "episodes": len(returns)}
        result |= {name: round(getattr(returns, name)(), 2) for name in ("mean", "std", "min")}
        print(json.dumps(result))
        return
    pick_rendering_backend()
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        lock = open(args.output / ".lock", "w")  # noqa: SIM115 held as long as the process
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(f"error: another process collects in {args.output}; give another --output")
        backgrounds = prepare_backgrounds(args.backgrounds, args.output, args.num_workers)
        for split, number in (("train", args.num_trajectories), ("val", args.num_eval_trajectories)):
            if number > 0:
                draw_dataset(collect(args, split, number, backgrounds, expert_file))
    except concurrent.futures.process.BrokenProcessPool:
        raise SystemExit("error: a worker process died (out of memory?); the same command continues from the last trajectory")


if __name__ == "__main__":
    try:
        main(parse_args(sys.argv[1:]))
    except (KeyboardInterrupt, OSError) as error:  # a full disk, a folder without permission
        raise SystemExit(f"error: {str(error) or 'interrupted'}")

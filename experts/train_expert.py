"""Trains the experts whose play collect_data.py films: soft actor-critic (SAC; Haarnoja et al., 2018) or
proximal policy optimisation (PPO; Schulman et al., 2017), on states.

"Latent Action Learning Requires Supervision in the Presence of Distractors" (Nikulin et al., 2025; Appendix
C) takes its experts from PPO, and from SAC for humanoid-walk; collect_data.py plays those of SAC, and of PPO
where actions repeat. Many environments step together, then updates follow: on one core the environment is
cheap and the update is not.

    python experts/train_expert.py --task walker-run                 # hours of one core, into runs/experts/
    python experts/train_expert.py --task fish-swim                  # any task of dm_control's suite
    python experts/train_expert.py --task walker-run --action-repeat 4    # each action acts for four steps
    python experts/train_expert.py --task walker-run --algorithm ppo      # unclipped actions, as the paper's
    python experts/train_expert.py --task walker-run --expert runs/experts/walker-run.npz --output runs/more
    python experts/train_expert.py --task walker-run --verify 100    # plays the shipped expert
    python collect_data.py --task walker-run --expert runs/experts/walker-run.npz    # films the new one

Files in --output: <task>.npz, the expert that returned most; <task>.png, the learning curve;
<task>.checkpoint.pt; for four steps an action <task>__repeat4.npz, for PPO <task>__ppo.npz. A killed training
goes on from its checkpoint when the same command is given again, SAC with an empty replay buffer. The
commands that made the shipped experts stand in experts/README.md.
"""

import copy
import functools
import json
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import gymnasium as gym
import matplotlib.figure
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import tyro
from gymnasium.wrappers.utils import RunningMeanStd
from tqdm import tqdm

# ---- Arguments ---------------------------------------------------------------------------------------------


@dataclass
class SACArgs:
    """Soft actor-critic; a step is one decision in one environment."""

    total_steps: int = 4_000_000  # of all environments together
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
    episode_length: int | None = None
    """steps of an episode in training; by default all that the task has, 1,000 / --action-repeat"""
    height_reward: float = 0.0
    """added in training: this times the torso's height in metres, for bodies that must get up first"""
    upright_starts: float = 0.0
    """share of the environments whose episodes begin upright in training; the task's bodies are tumbled"""
    random_bursts: float = 0.0
    """chance per step that an environment holds one random extreme action for the next 20, in training"""


@dataclass
class PPOArgs:
    """Proximal policy optimisation; a step is one decision in one environment."""

    total_steps: int = 10_000_000  # of all environments together
    num_envs: int = 32  # environments that step together
    rollout_length: int = 128  # steps of each environment between two updates
    num_epochs: int = 10  # passes over what was played
    batch_size: int = 256  # transitions per gradient step
    hidden_dim: int = 128  # width of the two hidden layers of actor and critic
    learning_rate: float = 3e-4  # Adam's at the beginning; falls linearly to zero
    gamma: float = 0.99  # discount per step
    gae_lambda: float = 0.95  # of the generalised advantage estimate: 0 trusts the critic, 1 the returns
    clip: float = 0.2  # how far a probability may move from 1 × that of the policy that played
    entropy_coef: float = 0.0  # weight of the entropy
    value_coef: float = 0.5  # weight of the critic's loss
    max_grad_norm: float = 0.5  # gradients are scaled down to this norm


@dataclass
class Args:
    task: str = "cheetah-run"  # any task of dm_control's suite; four have shipped experts
    algorithm: Literal["sac", "ppo"] = "sac"
    """sac: actions within the bounds by tanh; ppo: unclipped means, of which the clipped act"""
    seed: int = 0  # of the environments, the networks and the replay
    expert: Path | None = None
    """expert file (.npz) that training goes on from (none), or that --verify plays (experts/<task>.npz)"""
    output: Path = Path("runs/experts")  # folder for the expert, its learning curve and its checkpoint
    action_repeat: int = 1
    """simulation steps for which each action acts, rewards summed; --verify takes it from the expert"""
    eval_interval: int = 100_000  # steps between evaluations, of ten greedy episodes, and checkpoints
    verify: int | None = None  # play the expert so many episodes, print what they return, and stop
    sac: SACArgs = field(default_factory=SACArgs)
    ppo: PPOArgs = field(default_factory=PPOArgs)


# ---- The expert, a file ------------------------------------------------------------------------------------


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


# ---- Networks ----------------------------------------------------------------------------------------------


def mlp(input_dim: int, hidden_dim: int, output_dim: int, layer_norm: bool) -> nn.Sequential:
    """Two hidden layers of ReLUs."""
    return nn.Sequential(
        nn.Linear(input_dim, hidden_dim),
        nn.LayerNorm(hidden_dim) if layer_norm else nn.Identity(),
        nn.ReLU(),
        nn.Linear(hidden_dim, hidden_dim),
        nn.LayerNorm(hidden_dim) if layer_norm else nn.Identity(),
        nn.ReLU(),
        nn.Linear(hidden_dim, output_dim),
    )


def linear_layers(network: nn.Module) -> list[nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def standardize(states: np.ndarray, statistics: RunningMeanStd) -> torch.Tensor:
    """As `Expert` does it, with the statistics of all states seen so far."""
    x = (states - statistics.mean) / (np.sqrt(statistics.var) + 1e-3)
    return torch.as_tensor(np.clip(x, -10, 10), dtype=torch.float32)


# ---- Soft actor-critic -------------------------------------------------------------------------------------


def smaller_value(critics: nn.ModuleList, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """The more cautious of two critics: states (B, S), actions (B, A) → (B,)."""
    x = torch.cat([states, actions], dim=-1)
    return torch.min(critics[0](x), critics[1](x))[:, 0]


class SAC(nn.Module):
    """An actor, two critics with layer normalisation, their slow copies, and the entropy's weight alpha."""

    def __init__(self, args: SACArgs, state_dim: int, action_dim: int):
        super().__init__()
        self.args = args
        self.action_dim = action_dim
        self.actor = mlp(state_dim, args.hidden_dim, 2 * action_dim, layer_norm=False)
        self.critics = nn.ModuleList()
        for _ in range(2):
            self.critics.append(mlp(state_dim + action_dim, args.hidden_dim, 1, layer_norm=True))
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(args.init_temperature)))
        self.actor_optim = torch.optim.Adam(self.actor.parameters(), args.learning_rate, fused=True)
        self.critic_optim = torch.optim.Adam(self.critics.parameters(), args.learning_rate, fused=True)
        self.alpha_optim = torch.optim.Adam([self.log_alpha], args.learning_rate, betas=(0.5, 0.999))
        self.optims = [self.actor_optim, self.critic_optim, self.alpha_optim]

    def sample(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised states (B, S) → squashed actions (B, A) in (-1, 1) and their log-probabilities (B,)."""
        mean, log_std = self.actor(states).chunk(2, dim=-1)
        log_std = -5 + 3.5 * (torch.tanh(log_std) + 1)  # between -5 and 2
        noise = torch.randn_like(mean)
        x = mean + log_std.exp() * noise
        log_det = 2 * (math.log(2) - x - F.softplus(-2 * x))  # log |d tanh(x) / dx|, which does not overflow
        log_prob = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi) - log_det
        return torch.tanh(x), log_prob.sum(-1)

    def set_learning_rate(self, step: int):
        """Of actor and critics: constant for the first half of the training, then linearly to zero."""
        rate = self.args.learning_rate * min(1.0, 2 * (1 - step / self.args.total_steps))
        self.actor_optim.param_groups[0]["lr"] = rate
        self.critic_optim.param_groups[0]["lr"] = rate

    def update(self, batch: tuple[torch.Tensor, ...], update_actor: bool):
        """One gradient step of the critics and, if it is its turn, of the actor and the temperature.

        batch: normalised states (B, S), actions (B, A), n-step rewards (B,), the n-th next states (B, S).
        """
        states, actions, rewards, next_states = batch
        args = self.args

        with torch.no_grad():
            next_actions, next_log_prob = self.sample(next_states)
            next_value = smaller_value(self.targets, next_states, next_actions)
            next_value = next_value - self.log_alpha.exp() * next_log_prob
            target = rewards + args.gamma**args.n_step * next_value  # no episode ends early: always bootstrap
        x = torch.cat([states, actions], dim=-1)
        critic_loss = sum(F.mse_loss(critic(x)[:, 0], target) for critic in self.critics)
        descend(self.critic_optim, critic_loss)

        if update_actor:
            self.critics.requires_grad_(False)
            new_actions, log_prob = self.sample(states)
            value = smaller_value(self.critics, states, new_actions)
            descend(self.actor_optim, (self.log_alpha.exp().detach() * log_prob - value).mean())
            self.critics.requires_grad_(True)
            target_entropy = -self.action_dim / 2
            descend(self.alpha_optim, -self.log_alpha * (log_prob.detach().mean() + target_entropy))

        with torch.no_grad():
            for target_weight, weight in zip(self.targets.parameters(), self.critics.parameters()):
                target_weight.lerp_(weight, args.tau)


def descend(optim: torch.optim.Optimizer, loss: torch.Tensor):
    optim.zero_grad()
    loss.backward()
    optim.step()


class ReplayBuffer:
    """The last transitions of all environments, by step and environment; they hold whole episodes."""

    def __init__(self, args: SACArgs, episode_length: int, state_dim: int, action_dim: int):
        self.args = args
        self.episode_length = episode_length
        episodes = args.buffer_size // args.num_envs // episode_length
        self.size = episodes * episode_length  # steps of all environments
        self.states = np.zeros((self.size, args.num_envs, state_dim), np.float32)
        self.actions = np.zeros((self.size, args.num_envs, action_dim), np.float32)
        self.rewards = np.zeros((self.size, args.num_envs), np.float32)
        self.next_states = np.zeros((self.size, args.num_envs, state_dim), np.float32)
        self.added = 0  # steps of all environments, since the training began or went on

    def add(self, states: np.ndarray, actions: np.ndarray, rewards: np.ndarray, next_states: np.ndarray):
        t = self.added % self.size
        self.states[t] = states
        self.actions[t] = actions
        self.rewards[t] = rewards
        self.next_states[t] = next_states
        self.added += 1

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """States (B, S), actions (B, A), discounted sums of n rewards (B,), n-th next states (B, S)."""
        args = self.args
        filled = min(self.added, self.size)
        t = rng.integers(0, filled, args.batch_size)
        env = rng.integers(0, args.num_envs, args.batch_size)
        begin = t // self.episode_length * self.episode_length
        end = np.minimum(begin + self.episode_length, filled)
        if self.added > self.size:  # one episode is half written over: its new part ends where the old begins
            head = self.added % self.size
            cut = (begin < head) & (head < end)
            begin = np.where(cut & (t >= head), head, begin)
            end = np.where(cut & (t < head), head, end)
        end = np.where(end - begin < args.n_step, begin, end)  # too short: the end of the part before
        t = np.minimum(t, end - args.n_step)  # n steps of one episode
        rewards = sum(args.gamma**i * self.rewards[t + i, env] for i in range(args.n_step))
        return self.states[t, env], self.actions[t, env], rewards, self.next_states[t + args.n_step - 1, env]


class RandomBursts:
    """Has environments hold a random extreme action for 20 steps now and then, which throws a body about."""

    def __init__(self, args: SACArgs, action_dim: int):
        self.probability = args.random_bursts
        self.actions = np.zeros((args.num_envs, action_dim), np.float32)
        self.steps_left = np.zeros(args.num_envs, int)

    def replace(self, actions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The policy's actions (N, A) → actions (N, A), some of them a burst's."""
        begins = rng.random(len(actions)) < self.probability
        self.actions[begins] = rng.choice([-1, 1], (begins.sum(), actions.shape[1]))
        self.steps_left = np.where(begins, 20, self.steps_left - 1)
        return np.where(self.steps_left[:, None] > 0, self.actions, actions)


def begin_from(expert: Expert, actor: nn.Module, statistics: RunningMeanStd):
    """Gives an actor the mean actions of an expert; its standard deviations stay as they are."""
    for linear, (weight, bias) in zip(linear_layers(actor), expert.layers):
        linear.weight.data[: len(weight)] = torch.from_numpy(weight)
        linear.bias.data[: len(bias)] = torch.from_numpy(bias)
    statistics.mean = expert.state_mean
    statistics.var = (expert.state_std - 1e-3) ** 2
    statistics.count = 1e6


def train_sac(args: Args):
    """Trains an expert, and keeps the best by the mean of ten greedy returns."""
    sac = args.sac
    longest = EPISODE_LENGTH // args.action_repeat
    episode_length = sac.episode_length or longest
    if not 2 * sac.n_step <= episode_length <= longest:
        raise SystemExit(
            f"error: --sac.episode-length {episode_length}: at least 2 × --sac.n-step, at most {longest}"
        )
    if sac.buffer_size < sac.num_envs * episode_length:
        raise SystemExit("error: --sac.buffer-size: must hold an episode of each of --sac.num-envs")
    num_upright = round(sac.upright_starts * sac.num_envs)
    envs = make_state_envs(args.task, args.action_repeat, sac.num_envs, sac.height_reward, num_upright)
    files = TrainingFiles(args)
    torch.manual_seed(args.seed)
    state_dim = envs.single_observation_space.shape[0]
    action_dim = envs.single_action_space.shape[0]
    statistics = RunningMeanStd(shape=state_dim)
    agent = SAC(sac, state_dim, action_dim)
    buffer = ReplayBuffer(sac, episode_length, state_dim, action_dim)
    bursts = RandomBursts(sac, action_dim)

    first_step = files.step
    # from an expert: first its episodes fill the buffer, then the critics learn, then the policy changes
    first_actor_step = 3 * sac.learning_starts if args.expert else 0
    if first_actor_step > sac.total_steps:
        raise SystemExit("error: --sac.total-steps: with --expert at least 3 × --sac.learning-starts")
    rng = np.random.default_rng([args.seed, first_step])
    if first_step > 0:
        agent.load_state_dict(files.state["agent"])
        for optim, state in zip(agent.optims, files.state["optims"]):
            optim.load_state_dict(state)
        set_statistics(statistics, files.state["statistics"])
    elif args.expert:
        expert = load_expert(args.expert)
        of_kind = (expert.about["task"], expert.about["algorithm"], len(expert.layers[0][1]))
        if of_kind != (args.task, "sac", sac.hidden_dim):
            raise SystemExit(
                f"error: {args.expert} is {expert.about}; it must be of --task, SAC and --sac.hidden-dim"
            )
        begin_from(expert, agent.actor, statistics)
        first_step = sac.learning_starts

    progress = {"desc": f"sac {args.task}", "unit": "step", "unit_scale": True}
    bar = tqdm(total=sac.total_steps, initial=first_step, **progress)
    for step in range(first_step, sac.total_steps, sac.num_envs):
        if (step - first_step) // sac.num_envs % episode_length == 0:
            states, _ = envs.reset(seed=args.seed + step)

        if step < sac.learning_starts:
            actions = rng.uniform(-1, 1, (sac.num_envs, action_dim)).astype(np.float32)
        else:
            with torch.no_grad():
                actions, _ = agent.sample(standardize(states, statistics))
            actions = bursts.replace(actions.numpy(), rng)
        next_states, rewards, *_ = envs.step(actions.clip(-1, 1))
        statistics.update(states)
        buffer.add(states, actions, rewards, next_states)
        states = next_states

        if (buffer.added - 1) * sac.num_envs >= sac.learning_starts:
            agent.set_learning_rate(step)
            for update in range(sac.updates_per_round):
                old_states, old_actions, old_rewards, later_states = buffer.sample(rng)
                batch = (
                    standardize(old_states, statistics),
                    torch.from_numpy(old_actions),
                    torch.from_numpy(old_rewards),
                    standardize(later_states, statistics),
                )
                agent.update(batch, update_actor=update % sac.policy_delay == 0 and step >= first_actor_step)

        done = step + sac.num_envs
        bar.update(sac.num_envs)
        if step // args.eval_interval < done // args.eval_interval or done >= sac.total_steps:
            state = {
                "agent": agent.state_dict(),
                "optims": [optim.state_dict() for optim in agent.optims],
                "statistics": saved_statistics(statistics),
            }
            score = files.evaluate_and_save(done, mean_layers(agent.actor, action_dim), statistics, state)
            bar.set_postfix(greedy_return=f"{score:.0f}")
    print(f"best of {len(files.curve)} evaluations: {files.expert}; learning curve: {files.picture}")


# ---- Proximal policy optimisation --------------------------------------------------------------------------


class PPO(nn.Module):
    """An actor of Gaussians whose standard deviations do not depend on the state, and a critic."""

    def __init__(self, args: PPOArgs, state_dim: int, action_dim: int):
        super().__init__()
        self.args = args
        self.actor = mlp(state_dim, args.hidden_dim, action_dim, layer_norm=False)
        self.log_std = nn.Parameter(torch.zeros(action_dim))
        self.critic = mlp(state_dim, args.hidden_dim, 1, layer_norm=False)
        for linear in linear_layers(self):
            nn.init.orthogonal_(linear.weight, math.sqrt(2))
            nn.init.zeros_(linear.bias)
        nn.init.orthogonal_(self.actor[-1].weight, 0.01)  # first means about zero
        nn.init.orthogonal_(self.critic[-1].weight, 1.0)
        self.optim = torch.optim.Adam(self.parameters(), args.learning_rate, eps=1e-5, fused=True)

    def policy(self, states: torch.Tensor) -> torch.distributions.Normal:
        """Normalised states (B, S) → distribution of the unclipped actions (B, A)."""
        return torch.distributions.Normal(self.actor(states), self.log_std.exp(), validate_args=False)

    def value(self, states: torch.Tensor) -> torch.Tensor:
        return self.critic(states)[..., 0]

    def set_learning_rate(self, step: int):
        rate = self.args.learning_rate * (1 - step / self.args.total_steps)
        self.optim.param_groups[0]["lr"] = rate

    def update(self, batch: tuple[torch.Tensor, ...]):
        """One gradient step.

        batch: normalised states (B, S), unclipped actions (B, A), their log-probability when they were played
        (B,), advantages (B,), returns that the critic should expect (B,).
        """
        states, actions, old_log_prob, advantages, returns = batch
        args = self.args
        policy = self.policy(states)

        ratio = (policy.log_prob(actions).sum(-1) - old_log_prob).exp()
        advantages = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
        gain = torch.min(ratio * advantages, ratio.clamp(1 - args.clip, 1 + args.clip) * advantages)
        value_loss = 0.5 * F.mse_loss(self.value(states), returns)
        entropy = policy.entropy().sum(-1)
        loss = args.value_coef * value_loss - gain.mean() - args.entropy_coef * entropy.mean()

        self.optim.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), args.max_grad_norm)
        self.optim.step()


def estimate_advantages(args: PPOArgs, rewards, values, next_values, ended) -> torch.Tensor:
    """Generalised advantage estimates (Schulman et al., 2016); everything (T, N).

    ended: whether an episode's time was over after a step. The critic's value of the state after it still
    counts, because no episode ends by what happens in it.
    """
    advantages = torch.zeros_like(rewards)
    later = torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        error = rewards[t] + args.gamma * next_values[t] - values[t]
        later = error + args.gamma * args.gae_lambda * torch.where(ended[t], 0, later)
        advantages[t] = later
    return advantages


class RewardScale:
    """Divides rewards by the standard deviation of their discounted sums so far."""

    def __init__(self, args: PPOArgs):
        self.gamma = args.gamma
        self.sums = np.zeros(args.num_envs)
        self.statistics = RunningMeanStd(shape=())

    def __call__(self, rewards: np.ndarray, ended: np.ndarray) -> np.ndarray:
        """Rewards (N,) and whether these were an episode's last (N,) → scaled rewards (N,)."""
        self.sums = self.gamma * self.sums + rewards
        self.statistics.update(self.sums)
        self.sums[ended] = 0
        return np.clip(rewards / np.sqrt(self.statistics.var + 1e-8), -10, 10)


def train_ppo(args: Args):
    """Trains an expert, and keeps the best by the mean of ten greedy returns."""
    ppo = args.ppo
    if args.expert:
        raise SystemExit("error: --expert: --algorithm ppo goes on from nothing but its own checkpoint")
    envs = make_state_envs(args.task, args.action_repeat, ppo.num_envs)
    files = TrainingFiles(args)
    torch.manual_seed(args.seed + files.step)
    state_dim = envs.single_observation_space.shape[0]
    action_dim = envs.single_action_space.shape[0]
    statistics = RunningMeanStd(shape=state_dim)
    reward_scale = RewardScale(ppo)
    agent = PPO(ppo, state_dim, action_dim)
    if files.step > 0:
        agent.load_state_dict(files.state["agent"])
        agent.optim.load_state_dict(files.state["optim"])
        set_statistics(statistics, files.state["statistics"])
        set_statistics(reward_scale.statistics, files.state["reward_statistics"])

    states, _ = envs.reset(seed=args.seed + files.step)
    # first episodes of all lengths, so that a rollout shows all parts of an episode from then on
    episode_length = EPISODE_LENGTH // args.action_repeat
    elapsed = np.arange(ppo.num_envs) * episode_length // ppo.num_envs
    steps_per_rollout = ppo.num_envs * ppo.rollout_length
    progress = {"desc": f"ppo {args.task}", "unit": "step", "unit_scale": True}
    bar = tqdm(total=ppo.total_steps, initial=files.step, **progress)
    for step in range(files.step, ppo.total_steps, steps_per_rollout):
        rollout = []
        for _ in range(ppo.rollout_length):
            with torch.no_grad():
                actions = agent.policy(standardize(states, statistics)).sample()
            next_states, rewards, *_ = envs.step(actions.numpy().clip(-1, 1))
            elapsed += 1
            ended = elapsed == episode_length
            rollout.append((states, actions.numpy(), reward_scale(rewards, ended), next_states, ended))
            states = next_states
            if ended.any():
                states, _ = envs.reset(options={"reset_mask": ended})
                elapsed[ended] = 0
        states_seen, actions, rewards, next_states, ended = map(np.stack, zip(*rollout))

        with torch.no_grad():
            x = standardize(states_seen, statistics)
            actions = torch.from_numpy(actions)
            log_prob = agent.policy(x).log_prob(actions).sum(-1)
            values = agent.value(x)
            next_values = agent.value(standardize(next_states, statistics))
            rewards = torch.as_tensor(rewards, dtype=torch.float32)
            advantages = estimate_advantages(ppo, rewards, values, next_values, torch.from_numpy(ended))
        played = [x, actions, log_prob, advantages, advantages + values]
        played = [tensor.flatten(0, 1) for tensor in played]

        agent.set_learning_rate(step)
        for _ in range(ppo.num_epochs):
            for rows in torch.randperm(steps_per_rollout).split(ppo.batch_size):
                agent.update([tensor[rows] for tensor in played])
        statistics.update(states_seen.reshape(-1, state_dim))

        done = step + steps_per_rollout
        bar.update(steps_per_rollout)
        if step // args.eval_interval < done // args.eval_interval or done >= ppo.total_steps:
            state = {
                "agent": agent.state_dict(),
                "optim": agent.optim.state_dict(),
                "statistics": saved_statistics(statistics),
                "reward_statistics": saved_statistics(reward_scale.statistics),
            }
            score = files.evaluate_and_save(done, mean_layers(agent.actor, action_dim), statistics, state)
            bar.set_postfix(greedy_return=f"{score:.0f}")
    print(f"best of {len(files.curve)} evaluations: {files.expert}; learning curve: {files.picture}")


# ---- What a training keeps ---------------------------------------------------------------------------------


def mean_layers(actor: nn.Module, action_dim: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases of the mean actions; SAC's last layer also gives standard deviations."""
    layers = []
    for linear in linear_layers(actor):
        layers.append((linear.weight.detach().numpy(), linear.bias.detach().numpy()))
    weight, bias = layers[-1]
    layers[-1] = (weight[:action_dim], bias[:action_dim])
    return layers


def saved_statistics(statistics: RunningMeanStd) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(value) for name, value in vars(statistics).items()}


def set_statistics(statistics: RunningMeanStd, saved: dict[str, torch.Tensor]):
    for name, value in saved.items():
        setattr(statistics, name, value.numpy())


def hyperparameters(args: Args) -> dict:
    return asdict(args.sac if args.algorithm == "sac" else args.ppo)


def expert_name(args: Args) -> str:
    """What an expert's files are called, without their endings."""
    name = args.task
    if args.action_repeat > 1:
        name += f"__repeat{args.action_repeat}"
    if args.algorithm == "ppo":
        name += "__ppo"
    return name


class TrainingFiles:
    """In args.output: the best expert so far, the learning curve, and the checkpoint to go on from."""

    def __init__(self, args: Args):
        self.args = args
        self.hyperparameters = hyperparameters(args)
        name = expert_name(args)
        self.expert = args.output / f"{name}.npz"
        self.picture = args.output / f"{name}.png"
        self.checkpoint = args.output / f"{name}.checkpoint.pt"
        hidden_dim = self.hyperparameters["hidden_dim"]
        num_envs = self.hyperparameters["num_envs"]
        self.made_by = f"{args.algorithm}, seed {args.seed}, {hidden_dim} units, {num_envs} environments"
        self.step = 0
        self.curve = []
        self.best_score = -math.inf
        self.seconds = 0.0
        self.state = {}  # see `evaluate_and_save`
        if self.checkpoint.exists():
            self.load_checkpoint()
        args.output.mkdir(parents=True, exist_ok=True)
        self.started = time.time() - self.seconds

    def load_checkpoint(self):
        try:
            saved = torch.load(self.checkpoint, weights_only=True)
        except Exception as error:  # of zip or pickle
            raise SystemExit(f"error: {self.checkpoint} cannot be read, remove it: {error}")
        if saved["made_by"] != self.made_by:
            raise SystemExit(
                f"error: {self.checkpoint} was made by {saved['made_by']}; remove it or give another --output"
            )
        self.step = saved["step"]
        self.curve = saved["curve"]
        self.best_score = saved["best_score"]
        self.seconds = saved["seconds"]
        self.state = saved
        print(f"continuing from {self.checkpoint} at step {self.step:,}")

    def evaluate_and_save(self, step: int, layers: list, statistics: RunningMeanStd, state: dict) -> float:
        """Plays ten greedy episodes with the policy of these layers and gives their mean return.

        state: what the checkpoint holds beside what every algorithm's does.
        """
        seconds = time.time() - self.started
        about = {
            "task": self.args.task,
            "action_repeat": self.args.action_repeat,
            "algorithm": self.args.algorithm,
            "output": "tanh" if self.args.algorithm == "sac" else "mean",
            "num_layers": len(layers),
            "seed": self.args.seed,
            "steps": step,
            "seconds": round(seconds),
            "hyperparameters": self.hyperparameters,
        }
        arrays = {
            "about": np.array(json.dumps(about)),
            "state_mean": statistics.mean.astype(np.float32),
            "state_std": (np.sqrt(statistics.var) + 1e-3).astype(np.float32),
        }
        for i, (weight, bias) in enumerate(layers):
            arrays[f"weight_{i}"] = weight
            arrays[f"bias_{i}"] = bias
        returns = play_expert(Expert(arrays), self.args.task, episodes=10, seed=self.args.seed + 10**5)
        score = float(returns.mean())
        point = {"step": step, "mean": score, "std": returns.std(), "min": returns.min(), "seconds": seconds}
        self.curve.append({name: round(float(value), 2) for name, value in point.items()})

        if score > self.best_score:
            self.best_score = score
            partial = self.expert.with_suffix(".partial.npz")
            np.savez(partial, **arrays)
            partial.rename(self.expert)
        saved = {
            "made_by": self.made_by,
            "step": step,
            "seconds": seconds,
            "curve": self.curve,
            "best_score": self.best_score,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(saved | state, partial)
        partial.rename(self.checkpoint)
        self.draw_curve()
        return score

    def draw_curve(self):
        steps = [point["step"] / 1e6 for point in self.curve]
        means = [point["mean"] for point in self.curve]
        stds = [point["std"] for point in self.curve]
        figure = matplotlib.figure.Figure(figsize=(5, 3), layout="constrained")
        axes = figure.add_subplot(xlabel="million steps (decisions)", ylabel="return, 10 greedy episodes")
        axes.set_title(self.expert.stem)
        axes.errorbar(steps, means, stds, elinewidth=0.5)
        figure.savefig(self.picture, dpi=120)


# ---- Environment: proprioceptive states, without rendering -------------------------------------------------

IMG_HW = 64  # height and width of an observation, pixels
EPISODE_LENGTH = 1000  # steps of the simulation, dm_control's for all four tasks


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


class EasierEnv(gym.Wrapper):
    """For training alone: rewards the torso's height, and may begin episodes in the model's upright pose."""

    def __init__(self, env: gym.Env, height_reward: float, upright: bool):
        super().__init__(env)
        self.height_reward = height_reward
        self.upright = upright
        if height_reward and "torso" not in env.unwrapped.physics.named.data.xpos.axes.row.names:
            raise SystemExit("error: --sac.height-reward: the body of this task has no torso")

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        if self.upright:
            physics = self.unwrapped.physics
            with physics.reset_context():
                pass  # the pose that the model's file has
            observation = {}
            for name, value in self.unwrapped.task.get_observation(physics).items():
                observation[name] = np.asarray(value)
        return observation, info

    def step(self, action: np.ndarray):
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self.height_reward:
            reward += self.height_reward * self.unwrapped.physics.named.data.xpos["torso", "z"]
        return observation, reward, terminated, truncated, info


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


def make_state_env(task: str, action_repeat: int, height_reward: float, upright: bool) -> gym.Env:
    env = EasierEnv(load_task(task), height_reward, upright)
    return gym.wrappers.FlattenObservation(RepeatAction(env, action_repeat))


def make_state_envs(
    task: str, action_repeat: int, num_envs: int, height_reward: float = 0.0, num_upright: int = 0
):
    """Environments with flat states (num_envs, S), stepped together; no episode ends early."""
    makers = []
    for i in range(num_envs):
        maker = functools.partial(make_state_env, task, action_repeat, height_reward, upright=i < num_upright)
        makers.append(maker)
    return gym.vector.SyncVectorEnv(makers, autoreset_mode=gym.vector.AutoresetMode.DISABLED)


def play_expert(expert: Expert, task: str, episodes: int, seed: int) -> np.ndarray:
    """Returns of greedy episodes without rendering, float64 (episodes,)."""
    action_repeat = expert.about.get("action_repeat", 1)
    envs = make_state_envs(task, action_repeat, episodes)
    returns = np.zeros(episodes)
    states, _ = envs.reset(seed=seed)
    for _ in range(EPISODE_LENGTH // action_repeat):
        states, rewards, *_ = envs.step(expert(states))
        returns += rewards
    return returns


# ---- Main --------------------------------------------------------------------------------------------------


def verify(args: Args):
    """Prints what an expert returns over episodes whose seeds its training never used."""
    path = args.expert or Path(__file__).parent / f"{expert_name(args)}.npz"
    expert = load_expert(path)
    if expert.about["task"] != args.task:
        raise SystemExit(f"error: {path} plays {expert.about['task']}; give that as --task")
    print(f"{path}: {expert.about}")
    returns = play_expert(expert, args.task, args.verify, seed=args.seed + 10**9)
    result = {
        "task": args.task,
        "action_repeat": expert.about.get("action_repeat", 1),
        "episodes": args.verify,
        "mean": round(returns.mean(), 2),
        "std": round(returns.std(), 2),
        "min": round(returns.min(), 2),
    }
    print(json.dumps(result))


def check_args(args: Args):
    """Ends the program in one line where something is asked for that cannot be."""
    from dm_control import suite

    # lqr has no episodes of 1,000 steps
    tasks = ["-".join(names) for names in suite.ALL_TASKS if names[0] != "lqr"]
    if args.task not in tasks:
        raise SystemExit(f"error: --task {args.task}: dm_control has {', '.join(tasks)}")
    if args.action_repeat < 1 or EPISODE_LENGTH % args.action_repeat:
        raise SystemExit(f"error: --action-repeat {args.action_repeat}: must divide {EPISODE_LENGTH}")
    numbers = {"seed": args.seed + 1, "verify": args.verify, "eval-interval": args.eval_interval}
    for name, value in hyperparameters(args).items():
        numbers[f"{args.algorithm}.{name.replace('_', '-')}"] = value
    for name, value in numbers.items():
        if isinstance(value, int) and value < 1 or isinstance(value, float) and not 0 <= value < math.inf:
            raise SystemExit(f"error: --{name}: too small or no number")


def main(args: Args):
    os.environ["MUJOCO_GL"] = "disabled"  # nothing is rendered: no OpenGL needed
    torch.set_num_threads(1)  # the networks are too small to share
    check_args(args)
    if args.verify is not None:
        verify(args)
    elif args.algorithm == "sac":
        train_sac(args)
    else:
        train_ppo(args)


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (KeyboardInterrupt, OSError) as error:  # a full disk, a folder without permission
        raise SystemExit(f"error: {str(error) or 'interrupted'}")

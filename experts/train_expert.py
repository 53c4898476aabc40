"""Trains the experts whose play collect_data.py films: soft actor-critic (Haarnoja et al., 2018) on states.

"Latent Action Learning Requires Supervision in the Presence of Distractors" (Nikulin et al., 2025; Appendix
C) takes its experts from PPO, and from SAC for humanoid-walk; ours are all of SAC. Many environments step
together, then a few updates follow: on one core the environment is cheap and the update is not.

    python experts/train_expert.py --task walker-run                 # hours of one core, into runs/experts/
    python experts/train_expert.py --task walker-run --expert runs/experts/walker-run.npz --output runs/more
    python experts/train_expert.py --task walker-run --verify 100    # plays the shipped expert
    python collect_data.py --task walker-run --expert runs/experts/walker-run.npz    # films the new one

Files in --output: <task>.npz, the expert that returned most; <task>.png, the learning curve;
<task>.checkpoint.pt. A killed training goes on from its checkpoint when the same command is given again, with
an empty replay buffer. The commands that made the shipped experts stand in experts/README.md.
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
    """Soft actor-critic; a step is one step of one environment."""

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
    height_reward: float = 0.0
    """added in training: this times the torso's height in metres, for bodies that must get up first"""
    upright_starts: float = 0.0
    """share of the environments whose episodes begin upright in training; the task's bodies are tumbled"""
    random_bursts: float = 0.0
    """chance per step that an environment holds one random extreme action for the next 20, in training"""


@dataclass
class Args:
    task: Literal["cheetah-run", "walker-run", "hopper-hop", "humanoid-walk"] = "cheetah-run"
    """dm_control task (Section 3)"""
    seed: int = 0  # of the environments, the networks and the replay
    expert: Path | None = None
    """expert file (.npz) that training goes on from (none), or that --verify plays (experts/<task>.npz)"""
    output: Path = Path("runs/experts")  # folder for the expert, its learning curve and its checkpoint
    eval_interval: int = 100_000  # steps between evaluations, of ten greedy episodes, and checkpoints
    verify: int | None = None  # play the expert so many episodes, print what they return, and stop
    sac: SACArgs = field(default_factory=SACArgs)


# ---- The expert, a file ------------------------------------------------------------------------------------


class Expert:
    """A trained policy that plays greedily: a small MLP in numpy.

    __call__: states (..., S) → actions (..., A) float32 in [-1, 1]. The file is an .npz below 1 MB: weight_i,
    bias_i, state_mean, state_std, and `about`, a JSON text that says how it was trained. Hidden units are
    ReLUs, the output is a tanh.
    """

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.about = json.loads(str(arrays["about"]))
        self.state_mean = arrays["state_mean"]
        self.state_std = arrays["state_std"]
        self.layers = []
        for i in range(self.about["num_layers"]):
            self.layers.append((arrays[f"weight_{i}"], arrays[f"bias_{i}"]))

    def __call__(self, states: np.ndarray) -> np.ndarray:
        x = (states.astype(np.float32) - self.state_mean) / self.state_std
        x = np.clip(x, -10, 10)
        for weight, bias in self.layers[:-1]:
            x = np.maximum(x @ weight.T + bias, 0)
        weight, bias = self.layers[-1]
        return np.tanh(x @ weight.T + bias)


def load_expert(path: Path) -> Expert:
    try:
        with np.load(path) as arrays:
            return Expert(dict(arrays))
    except FileNotFoundError:
        raise SystemExit(f"error: no expert {path}; experts/train_expert.py trains one, --expert takes one")
    except Exception as error:  # of numpy, zip or JSON
        raise SystemExit(f"error: {path} is not an expert file: {error}")


# ---- Soft actor-critic -------------------------------------------------------------------------------------


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

    def __init__(self, args: SACArgs, state_dim: int, action_dim: int):
        self.args = args
        episodes = args.buffer_size // args.num_envs // args.episode_length
        self.size = episodes * args.episode_length  # steps of all environments
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
        episode_end = (t // args.episode_length + 1) * args.episode_length
        t = np.minimum(t, np.minimum(episode_end, filled) - args.n_step)  # n steps of one episode
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


def standardize(states: np.ndarray, statistics: RunningMeanStd) -> torch.Tensor:
    """As `Expert` does it, with the statistics of all states seen so far."""
    x = (states - statistics.mean) / (np.sqrt(statistics.var) + 1e-3)
    return torch.as_tensor(np.clip(x, -10, 10), dtype=torch.float32)


def linear_layers(network: nn.Module) -> list[nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


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
    if not sac.n_step < sac.episode_length <= EPISODE_LENGTH:
        raise SystemExit(
            f"error: --sac.episode-length {sac.episode_length}: "
            f"more than --sac.n-step, at most {EPISODE_LENGTH}"
        )
    files = TrainingFiles(args, "sac", asdict(sac))
    torch.manual_seed(args.seed)
    num_upright = round(sac.upright_starts * sac.num_envs)
    envs = make_state_envs(args.task, sac.num_envs, sac.height_reward, num_upright)
    state_dim = envs.single_observation_space.shape[0]
    action_dim = envs.single_action_space.shape[0]
    statistics = RunningMeanStd(shape=state_dim)
    agent = SAC(sac, state_dim, action_dim)
    buffer = ReplayBuffer(sac, state_dim, action_dim)
    bursts = RandomBursts(sac, action_dim)

    first_step = files.step
    first_actor_step = 0
    rng = np.random.default_rng([args.seed, first_step])
    if first_step > 0:
        agent.load_state_dict(files.state["agent"])
        for optim, state in zip(agent.optims, files.state["optims"]):
            optim.load_state_dict(state)
        for name, value in files.state["statistics"].items():
            setattr(statistics, name, value.numpy())
    elif args.expert:
        expert = load_expert(args.expert)
        if expert.layers[0][1].shape != (sac.hidden_dim,):
            raise SystemExit(f"error: {args.expert} is {expert.about}; --sac.hidden-dim must be the same")
        begin_from(expert, agent.actor, statistics)
        # first the expert's episodes fill the buffer, then the critics learn, then the policy changes
        first_step = sac.learning_starts
        first_actor_step = 2 * sac.learning_starts

    progress = {"desc": f"sac {args.task}", "unit": "step", "unit_scale": True}
    bar = tqdm(total=sac.total_steps, initial=first_step, **progress)
    for step in range(first_step, sac.total_steps, sac.num_envs):
        if (step - first_step) // sac.num_envs % sac.episode_length == 0:
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
                "statistics": {name: torch.as_tensor(value) for name, value in vars(statistics).items()},
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


class TrainingFiles:
    """In args.output: the best expert so far, the learning curve, and the checkpoint to go on from."""

    def __init__(self, args: Args, algorithm: str, hyperparameters: dict):
        self.args = args
        self.algorithm = algorithm
        self.hyperparameters = hyperparameters
        self.expert = args.output / f"{args.task}.npz"
        self.picture = args.output / f"{args.task}.png"
        self.checkpoint = args.output / f"{args.task}.checkpoint.pt"
        hidden_dim = hyperparameters["hidden_dim"]
        num_envs = hyperparameters["num_envs"]
        self.made_by = f"{algorithm}, seed {args.seed}, {hidden_dim} units, {num_envs} environments"
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
        saved = torch.load(self.checkpoint, weights_only=True)
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
            "algorithm": self.algorithm,
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
        steps = [point["step"] for point in self.curve]
        means = [point["mean"] for point in self.curve]
        stds = [point["std"] for point in self.curve]
        figure = matplotlib.figure.Figure(figsize=(5, 3), layout="constrained")
        axes = figure.add_subplot(xlabel="environment steps", ylabel="return, 10 greedy episodes")
        axes.set_title(self.args.task)
        axes.errorbar(steps, means, stds, elinewidth=0.5)
        figure.savefig(self.picture, dpi=120)


# ---- Environment: proprioceptive states, without rendering -------------------------------------------------

IMG_HW = 64  # height and width of an observation, pixels
EPISODE_LENGTH = 1000  # steps, dm_control's for all four tasks


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
        self.torso = env.unwrapped.physics.named.data.xpos["torso"]  # a view: x, y, z

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
        reward += self.height_reward * self.torso[2]
        return observation, reward, terminated, truncated, info


def make_state_env(task: str, height_reward: float, upright: bool) -> gym.Env:
    return gym.wrappers.FlattenObservation(EasierEnv(load_task(task), height_reward, upright))


def make_state_envs(task: str, num_envs: int, height_reward: float = 0.0, num_upright: int = 0):
    """Environments with flat states (num_envs, S), stepped together; no episode ends before 1,000 steps."""
    makers = []
    for i in range(num_envs):
        makers.append(functools.partial(make_state_env, task, height_reward, upright=i < num_upright))
    return gym.vector.SyncVectorEnv(makers, autoreset_mode=gym.vector.AutoresetMode.DISABLED)


def play_expert(expert: Expert, task: str, episodes: int, seed: int) -> np.ndarray:
    """Returns of greedy episodes without rendering, float64 (episodes,)."""
    envs = make_state_envs(task, episodes)
    returns = np.zeros(episodes)
    states, _ = envs.reset(seed=seed)
    for _ in range(EPISODE_LENGTH):
        states, rewards, *_ = envs.step(expert(states))
        returns += rewards
    return returns


# ---- Main --------------------------------------------------------------------------------------------------


def verify(args: Args):
    """Prints what an expert returns over episodes whose seeds its training never used."""
    path = args.expert or Path(__file__).parent / f"{args.task}.npz"
    expert = load_expert(path)
    print(f"{path}: {expert.about}")
    returns = play_expert(expert, args.task, args.verify, seed=args.seed + 10**6)
    result = {
        "task": args.task,
        "episodes": args.verify,
        "mean": round(returns.mean(), 2),
        "std": round(returns.std(), 2),
        "min": round(returns.min(), 2),
    }
    print(json.dumps(result))


def main(args: Args):
    os.environ["MUJOCO_GL"] = "disabled"  # nothing is rendered: no OpenGL needed
    torch.set_num_threads(1)  # the networks are too small to share
    if args.verify:
        verify(args)
    else:
        train_sac(args)


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (KeyboardInterrupt, OSError) as error:  # a full disk, a folder without permission
        raise SystemExit(f"error: {str(error) or 'interrupted'}")

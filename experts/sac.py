"""Soft actor-critic (SAC; Haarnoja et al., 2018): trains experts on states, whose play collect_data.py films.

"Latent Action Learning Requires Supervision in the Presence of Distractors" (Nikulin et al., 2025; Appendix
C) takes its expert for humanoid-walk from SAC, and the others from PPO (experts/ppo.py). Many environments
step together, then a few updates follow: on one core the environment is cheap and the update is not.

With --hidden-dim 256, cheetah-run returns 820 after 50 minutes (3 M steps at 1,000 steps/s, one seed) on one
core of a shared AMD EPYC virtual machine.

    python experts/sac.py --task cheetah-run --hidden-dim 256       # writes runs/experts/cheetah-run.npz
    python experts/sac.py --task fish-swim                          # any task of dm_control's suite
    python experts/sac.py --task walker-run --action-repeat 4       # each action acts for four steps
    python experts/sac.py --task walker-run --expert runs/experts/walker-run.npz --output runs/experts/2
    python experts/sac.py --task walker-run --verify 100            # plays the shipped expert
    python collect_data.py --task walker-run --expert runs/experts/walker-run.npz      # films the new one

Files in --output: <task>.npz, the expert that returned most; <task>.png, the learning curve;
<task>.checkpoint.pt. With --action-repeat 4 the name is <task>__repeat4. After a kill the same command
continues from the checkpoint, with an empty replay buffer. experts/README.md has the commands that made the
shipped experts.
"""

import copy
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

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
class Args:
    """A step is one decision in one environment. SAC's paper: Haarnoja et al. (2018), arXiv 1812.05905."""

    task: str = "cheetah-run"  # any task of dm_control's suite except lqr's
    seed: int = 0  # of the environments, the networks and the replay
    expert: Path | None = None
    """expert file (.npz) that training begins from (default: none), or that --verify plays (default:
    experts/<task>.npz)"""
    output: Path = Path("runs/experts")  # folder for the expert, its learning curve and its checkpoint
    action_repeat: int = 1
    """simulation steps for which each action acts, rewards summed; --verify takes it from the expert"""
    eval_interval: int = 100_000  # steps between evaluations (ten greedy episodes), and between checkpoints
    verify: int | None = None  # play the expert for so many episodes, print what they return, and stop

    total_steps: int = 4_000_000  # of all environments together
    num_envs: int = 64  # environments that step together (SAC's paper: 1)
    updates_per_round: int = 4  # gradient steps of the critics after each step of all environments
    policy_delay: int = 2  # gradient steps of the critics per gradient step of the actor (SAC's paper: 1)
    batch_size: int = 256  # transitions per gradient step (SAC's paper)
    hidden_dim: int = 128  # width of the two hidden layers of actor and critics (SAC's paper: 256)
    learning_rate: float = 1e-3
    """of Adam: constant for the first half of the training, then linearly to zero (SAC's paper: 3e-4)"""
    gamma: float = 0.99  # discount per step (SAC's paper)
    tau: float = 0.005  # step of the target critics towards the critics, per gradient step (SAC's paper)
    init_temperature: float = 0.1  # first weight of the entropy; tuned towards a target entropy of -A / 2
    n_step: int = 3  # rewards that are summed before the target critics take over (SAC's paper: 1)
    buffer_size: int = 1_024_000  # transitions kept for replay (SAC's paper: 1,000,000)
    learning_starts: int = 32_000  # steps with random actions before the first update
    episode_length: int | None = None
    """steps of an episode in training; by default all that the task has, 1,000 / --action-repeat"""
    height_reward: float = 0.0
    """reward per metre of the torso's height, in training only, for bodies that must get up first"""
    upright_starts: float = 0.0
    """share of the environments whose episodes begin upright, in training only; the task drops the body"""
    random_bursts: float = 0.0
    """chance per step that an environment holds one random extreme action for 20 steps, in training only"""


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


class SAC(nn.Module):
    """An actor, two critics, their slow copies, and the logarithm of the entropy's weight alpha."""

    def __init__(self, args: Args, state_dim: int, action_dim: int):
        super().__init__()
        self.action_dim = action_dim
        self.actor = mlp(state_dim, args.hidden_dim, 2 * action_dim, layer_norm=False)
        self.critics = nn.ModuleList()
        for _ in range(2):
            self.critics.append(mlp(state_dim + action_dim, args.hidden_dim, 1, layer_norm=True))
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(args.init_temperature)))

    def sample(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Standardised states (B, S) → actions (B, A) in (-1, 1) and their log-probabilities (B,)."""
        mean, log_std = self.actor(states).chunk(2, dim=-1)
        log_std = -5 + 3.5 * (torch.tanh(log_std) + 1)  # between -5 and 2
        noise = torch.randn_like(mean)
        x = mean + log_std.exp() * noise
        log_det = 2 * (math.log(2) - x - F.softplus(-2 * x))  # log |d tanh(x) / dx|, without overflow
        log_prob = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi) - log_det
        return torch.tanh(x), log_prob.sum(-1)

    def mean_layers(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Weight and bias of each layer of the greedy policy: the actor without its standard deviations."""
        layers = [(linear.weight, linear.bias) for linear in self.actor[::3]]
        weight, bias = layers[-1]
        layers[-1] = (weight[: self.action_dim], bias[: self.action_dim])
        return layers


def smaller_value(critics: nn.ModuleList, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """The smaller of two critics' values: states (B, S), actions (B, A) → (B,)."""
    x = torch.cat([states, actions], dim=-1)
    return torch.min(critics[0](x), critics[1](x))[:, 0]


# ---- Training ----------------------------------------------------------------------------------------------


def train_sac(args: Args, path: Path):
    """Trains an expert; `path` gets the policy with the best mean return over ten greedy episodes."""
    episode_length = args.episode_length or EPISODE_LENGTH // args.action_repeat
    num_upright = round(args.upright_starts * args.num_envs)
    envs = []
    for i in range(args.num_envs):
        envs.append(EasierEnv(load_env(args.task), args.height_reward, upright=i < num_upright))
    envs = join_envs(envs, args.action_repeat)
    state_dim = envs.single_observation_space.shape[0]
    action_dim = envs.single_action_space.shape[0]

    files = TrainingFiles(args, path, algorithm="sac", output="tanh")
    first_step = files.step
    torch.manual_seed(args.seed + first_step)
    rng = np.random.default_rng([args.seed, first_step])
    statistics = RunningMeanStd(shape=state_dim)
    agent = SAC(args, state_dim, action_dim)
    actor_optim = torch.optim.Adam(agent.actor.parameters(), args.learning_rate, fused=True)
    critic_optim = torch.optim.Adam(agent.critics.parameters(), args.learning_rate, fused=True)
    alpha_optim = torch.optim.Adam([agent.log_alpha], args.learning_rate, betas=(0.5, 0.999))
    optims = [actor_optim, critic_optim, alpha_optim]
    buffer = ReplayBuffer(args, episode_length, state_dim, action_dim)
    bursts = RandomBursts(args, action_dim)
    if first_step > 0:
        agent.load_state_dict(files.state["agent"])
        for optim, state in zip(optims, files.state["optims"]):
            optim.load_state_dict(state)
        set_statistics(statistics, files.state["statistics"])
    elif args.expert:
        begin_from(args, agent.actor, statistics)
    # from an expert: first its episodes fill the buffer, then the critics learn, then the policy changes
    first_actor_step = 2 * args.learning_starts if args.expert else 0

    bar = tqdm(
        desc=f"sac {args.task}",
        total=args.total_steps,
        initial=first_step,
        unit="step",
        unit_scale=True,
    )
    for step in range(first_step, args.total_steps, args.num_envs):
        # one step of all environments
        if (step - first_step) // args.num_envs % episode_length == 0:
            states, _ = envs.reset(seed=args.seed + step)
        if step < args.learning_starts and not args.expert:
            actions = rng.uniform(-1, 1, (args.num_envs, action_dim)).astype(np.float32)
        else:
            with torch.no_grad():
                actions, _ = agent.sample(standardize(states, statistics))
            actions = bursts.replace(actions.numpy(), rng)
        next_states, rewards, *_ = envs.step(actions)
        statistics.update(states)
        buffer.add(states, actions, rewards, next_states)
        states = next_states

        # the learning rate: constant, from half of the training on linear to zero
        rate = args.learning_rate * min(1.0, 2 * (1 - step / args.total_steps))
        for optim in (actor_optim, critic_optim):
            optim.param_groups[0]["lr"] = rate

        enough = (buffer.added - 1) * args.num_envs >= args.learning_starts
        for update in range(args.updates_per_round if enough else 0):
            old_states, old_actions, n_step_rewards, later_states = buffer.sample(rng)
            old_states = standardize(old_states, statistics)
            later_states = standardize(later_states, statistics)
            old_actions = torch.from_numpy(old_actions)
            n_step_rewards = torch.from_numpy(n_step_rewards)

            # critics: n rewards, then the slow critics' value; no episode ends early, so there always is one
            with torch.no_grad():
                later_actions, log_prob = agent.sample(later_states)
                later_value = smaller_value(agent.targets, later_states, later_actions)
                later_value = later_value - agent.log_alpha.exp() * log_prob
                target = n_step_rewards + args.gamma**args.n_step * later_value
            x = torch.cat([old_states, old_actions], dim=-1)
            critic_loss = sum(F.mse_loss(critic(x)[:, 0], target) for critic in agent.critics)
            critic_optim.zero_grad()
            critic_loss.backward()
            critic_optim.step()

            if update % args.policy_delay == 0 and step >= first_actor_step:
                # actor: a high value and a high entropy
                agent.critics.requires_grad_(False)
                new_actions, log_prob = agent.sample(old_states)
                value = smaller_value(agent.critics, old_states, new_actions)
                actor_loss = (agent.log_alpha.exp().detach() * log_prob - value).mean()
                actor_optim.zero_grad()
                actor_loss.backward()
                actor_optim.step()
                agent.critics.requires_grad_(True)

                # the entropy's weight: it rises while the entropy is below -A / 2
                alpha_loss = -agent.log_alpha * (log_prob.detach().mean() - action_dim / 2)
                alpha_optim.zero_grad()
                alpha_loss.backward()
                alpha_optim.step()

            # slow critics
            with torch.no_grad():
                for target_weight, weight in zip(agent.targets.parameters(), agent.critics.parameters()):
                    target_weight.lerp_(weight, args.tau)

        done = step + args.num_envs
        bar.update(args.num_envs)
        if step // args.eval_interval < done // args.eval_interval or done >= args.total_steps:
            state = {
                "agent": agent.state_dict(),
                "optims": [optim.state_dict() for optim in optims],
                "statistics": saved_statistics(statistics),
            }
            score = files.evaluate_and_save(done, agent.mean_layers(), statistics, state)
            bar.set_postfix(greedy_return=f"{score:.0f}")
    print(f"best of {len(files.curve)} evaluations: {files.expert}; learning curve: {files.picture}")


def standardize(states: np.ndarray, statistics: RunningMeanStd) -> torch.Tensor:
    """As `Expert` does it, with the statistics of all states seen so far."""
    x = (states - statistics.mean) / (np.sqrt(statistics.var) + 1e-3)
    return torch.as_tensor(np.clip(x, -10, 10), dtype=torch.float32)


def begin_from(args: Args, actor: nn.Sequential, statistics: RunningMeanStd):
    """Gives an actor the mean actions of --expert; its standard deviations stay as they are."""
    expert = load_expert(args.expert)
    found = (expert.about["task"], expert.about["algorithm"], len(expert.layers[0][1]))
    if found != (args.task, "sac", args.hidden_dim):
        raise SystemExit(
            f"error: {args.expert} is {expert.about}; it must be of --task, SAC and --hidden-dim"
        )
    for linear, (weight, bias) in zip(actor[::3], expert.layers):
        linear.weight.data[: len(weight)] = torch.from_numpy(weight)
        linear.bias.data[: len(bias)] = torch.from_numpy(bias)
    statistics.mean = expert.state_mean
    statistics.var = (expert.state_std - 1e-3) ** 2
    statistics.count = 1e6


class ReplayBuffer:
    """The last transitions of all environments, by step and environment; they hold whole episodes."""

    def __init__(self, args: Args, episode_length: int, state_dim: int, action_dim: int):
        self.args = args
        self.episode_length = episode_length
        episodes = args.buffer_size // args.num_envs // episode_length
        self.size = episodes * episode_length  # steps of all environments
        self.states = np.zeros((self.size, args.num_envs, state_dim), np.float32)
        self.actions = np.zeros((self.size, args.num_envs, action_dim), np.float32)
        self.rewards = np.zeros((self.size, args.num_envs), np.float32)
        self.next_states = np.zeros((self.size, args.num_envs, state_dim), np.float32)
        self.added = 0  # steps of all environments, since this process began

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
        if self.added > self.size:  # one episode is half overwritten: its new part ends where the old begins
            head = self.added % self.size
            cut = (begin < head) & (head < end)
            begin = np.where(cut & (t >= head), head, begin)
            end = np.where(cut & (t < head), head, end)
        end = np.where(end - begin < args.n_step, begin, end)  # too short: take the end of the part before
        t = np.minimum(t, end - args.n_step)  # n steps of one episode
        rewards = sum(args.gamma**i * self.rewards[t + i, env] for i in range(args.n_step))
        return self.states[t, env], self.actions[t, env], rewards, self.next_states[t + args.n_step - 1, env]


# ---- Help for bodies that must get up first, in training only ----------------------------------------------


class EasierEnv(gym.Wrapper):
    """Rewards the torso's height, and may begin episodes in the upright pose of the model's file."""

    def __init__(self, env: gym.Env, height_reward: float, upright: bool):
        super().__init__(env)
        self.height_reward = height_reward
        self.upright = upright
        if height_reward and "torso" not in env.unwrapped.physics.named.data.xpos.axes.row.names:
            raise SystemExit("error: --height-reward: the body of this task has no torso")

    def reset(self, *, seed=None, options=None):
        observation, info = self.env.reset(seed=seed, options=options)
        if self.upright:
            physics = self.unwrapped.physics
            with physics.reset_context():
                pass  # the pose of the model's file
            observation = {}
            for name, value in self.unwrapped.task.get_observation(physics).items():
                observation[name] = np.asarray(value)
        return observation, info

    def step(self, action: np.ndarray):
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self.height_reward:
            reward += self.height_reward * self.unwrapped.physics.named.data.xpos["torso", "z"]
        return observation, reward, terminated, truncated, info


class RandomBursts:
    """Lets environments hold a random extreme action for 20 steps now and then, which throws a body about."""

    def __init__(self, args: Args, action_dim: int):
        self.probability = args.random_bursts
        self.actions = np.zeros((args.num_envs, action_dim), np.float32)
        self.steps_left = np.zeros(args.num_envs, int)

    def replace(self, actions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The policy's actions (N, A) → actions (N, A), where a burst has replaced some."""
        begins = rng.random(len(actions)) < self.probability
        self.actions[begins] = rng.choice([-1, 1], (begins.sum(), actions.shape[1]))
        self.steps_left = np.where(begins, 20, self.steps_left - 1)
        return np.where(self.steps_left[:, None] > 0, self.actions, actions)


# ---- Environment: states, without rendering ----------------------------------------------------------------

EPISODE_LENGTH = 1000  # steps of the simulation, dm_control's for all four tasks


def load_env(task: str) -> gym.Env:
    """A dm_control task through Shimmy; observations are a dictionary of what the body senses."""
    # imported here: dm_control binds to the OpenGL that MUJOCO_GL names when it is first imported
    import absl.logging
    import shimmy
    from dm_control import suite

    absl.logging.set_verbosity("error")  # deprecations in dm_control's own XML
    return shimmy.DmControlCompatibilityV0(suite.load(*task.split("-")))


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


def join_envs(envs: list[gym.Env], action_repeat: int) -> gym.vector.VectorEnv:
    """Environments with flat states (N, S) that step together; whoever plays them begins the next episode."""
    makers = []
    for env in envs:
        env = gym.wrappers.FlattenObservation(RepeatAction(env, action_repeat))
        makers.append(lambda env=env: env)
    return gym.vector.SyncVectorEnv(makers, autoreset_mode=gym.vector.AutoresetMode.DISABLED)


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
        raise SystemExit(f"error: no expert {path}; experts/sac.py trains one, --expert takes one")
    except Exception as error:  # of numpy, zip or JSON
        raise SystemExit(f"error: {path} is not an expert file: {error}")


def play_expert(expert: Expert, task: str, episodes: int, seed: int) -> np.ndarray:
    """Returns of greedy episodes, float64 (episodes,)."""
    action_repeat = expert.about.get("action_repeat", 1)
    envs = join_envs([load_env(task) for _ in range(episodes)], action_repeat)
    returns = np.zeros(episodes)
    states, _ = envs.reset(seed=seed)
    for _ in range(EPISODE_LENGTH // action_repeat):
        states, rewards, *_ = envs.step(expert(states))
        returns += rewards
    return returns


# ---- What a training keeps ---------------------------------------------------------------------------------


def saved_statistics(statistics: RunningMeanStd) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(value) for name, value in vars(statistics).items()}


def set_statistics(statistics: RunningMeanStd, saved: dict[str, torch.Tensor]):
    for name, value in saved.items():
        setattr(statistics, name, value.numpy())


class TrainingFiles:
    """The best expert so far, the learning curve, and the checkpoint that training continues from.

    path: the expert's file, <name>.npz; the others stand beside it. algorithm, output: for its `about`.
    """

    def __init__(self, args: Args, path: Path, algorithm: str, output: str):
        self.args = args
        self.expert = path
        self.picture = path.with_suffix(".png")
        self.checkpoint = path.with_suffix(".checkpoint.pt")
        self.algorithm = algorithm
        self.output = output
        self.made_by = f"{algorithm}, seed {args.seed}, {args.hidden_dim} units, {args.num_envs} environments"
        self.state = {"step": 0, "seconds": 0.0, "curve": [], "best_score": -math.inf}
        if self.checkpoint.exists():
            self.load_checkpoint()
        elif path.exists():
            raise SystemExit(f"error: {path} exists without a checkpoint: move it or give another --output")
        self.step = self.state["step"]
        self.curve = self.state["curve"]
        self.best_score = self.state["best_score"]
        self.started = time.time() - self.state["seconds"]
        path.parent.mkdir(parents=True, exist_ok=True)

    def load_checkpoint(self):
        try:
            self.state = torch.load(self.checkpoint, weights_only=True)
        except Exception as error:  # of zip or pickle
            raise SystemExit(f"error: {self.checkpoint} cannot be read, remove it: {error}")
        made_by = self.state["made_by"]
        if made_by != self.made_by:
            raise SystemExit(
                f"error: {self.checkpoint} was made by {made_by}; remove it or give another --output"
            )
        print(f"continuing from {self.checkpoint} at step {self.state['step']:,}")
        before = self.state.get("flags", {})
        for name, value in self.flags().items():
            if value != before.get(name, value):
                print(f"--{name.replace('_', '-')} {value}: until this step it was {before[name]}")

    def flags(self) -> dict[str, str]:
        """The flags that decide how training goes on."""
        kept = ("output", "eval_interval", "verify")
        return {name: str(value) for name, value in vars(self.args).items() if name not in kept}

    def evaluate_and_save(self, step: int, layers: list, statistics: RunningMeanStd, state: dict) -> float:
        """Plays ten greedy episodes, writes all files, and gives the mean return.

        layers: weight and bias of each layer of the policy. state: what the algorithm needs to continue.
        """
        seconds = time.time() - self.started
        arrays = self.expert_arrays(step, seconds, layers, statistics)
        returns = play_expert(Expert(arrays), self.args.task, episodes=10, seed=self.args.seed + 10**5)
        score = float(returns.mean())
        point = {"step": step, "mean": score, "std": returns.std(), "min": returns.min(), "seconds": seconds}
        self.curve.append({name: round(float(value), 2) for name, value in point.items()})
        self.draw_curve()

        if score > self.best_score:
            self.best_score = score
            partial = self.expert.with_suffix(".partial.npz")
            np.savez(partial, **arrays)
            partial.rename(self.expert)
        saved = {
            "made_by": self.made_by,
            "flags": self.flags(),
            "step": step,
            "seconds": seconds,
            "curve": self.curve,
            "best_score": self.best_score,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(saved | state, partial)
        partial.rename(self.checkpoint)
        return score

    def expert_arrays(self, step: int, seconds: float, layers: list, statistics: RunningMeanStd) -> dict:
        """What an expert's file holds."""
        hyperparameters = asdict(self.args)
        for name in ("task", "seed", "expert", "output", "action_repeat", "eval_interval", "verify"):
            del hyperparameters[name]
        about = {
            "task": self.args.task,
            "action_repeat": self.args.action_repeat,
            "algorithm": self.algorithm,
            "output": self.output,
            "num_layers": len(layers),
            "seed": self.args.seed,
            "steps": step,
            "seconds": round(seconds),
            "hyperparameters": hyperparameters,
        }
        arrays = {
            "about": np.array(json.dumps(about)),
            "state_mean": statistics.mean.astype(np.float32),
            "state_std": (np.sqrt(statistics.var) + 1e-3).astype(np.float32),
        }
        for i, (weight, bias) in enumerate(layers):
            arrays[f"weight_{i}"] = weight.detach().numpy()
            arrays[f"bias_{i}"] = bias.detach().numpy()
        return arrays

    def draw_curve(self):
        steps = [point["step"] / 1e6 for point in self.curve]
        means = [point["mean"] for point in self.curve]
        stds = [point["std"] for point in self.curve]
        figure = matplotlib.figure.Figure(figsize=(5, 3), layout="constrained")
        axes = figure.add_subplot(xlabel="million steps (decisions)", ylabel="return, 10 greedy episodes")
        axes.set_title(self.expert.stem)
        axes.errorbar(steps, means, stds, elinewidth=0.5)
        figure.savefig(self.picture, dpi=120)


# ---- Main --------------------------------------------------------------------------------------------------


def verify(args: Args, path: Path):
    """Prints what an expert returns over --verify episodes whose seeds its training never used."""
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
    """Ends the program in one line where an argument cannot be."""
    from dm_control import suite

    # lqr has no episodes of 1,000 steps
    tasks = ["-".join(names) for names in suite.ALL_TASKS if names[0] != "lqr"]
    if args.task not in tasks:
        raise SystemExit(f"error: --task {args.task}: dm_control has {', '.join(tasks)}")
    if args.action_repeat < 1 or EPISODE_LENGTH % args.action_repeat:
        raise SystemExit(f"error: --action-repeat {args.action_repeat}: must divide {EPISODE_LENGTH}")
    if args.seed >= 2**31:
        raise SystemExit(f"error: --seed {args.seed}: must be below {2**31}")
    for name, value in vars(args).items():
        least = 1 if isinstance(value, int) and name != "seed" else 0
        if isinstance(value, int | float) and not least <= value < math.inf:
            raise SystemExit(f"error: --{name.replace('_', '-')} {value}: must be a number from {least} on")


def check_lengths(args: Args):
    """Ends the program in one line where steps, episodes and the replay do not fit together."""
    longest = EPISODE_LENGTH // args.action_repeat
    episode_length = args.episode_length or longest
    if not 2 * args.n_step <= episode_length <= longest:
        raise SystemExit(f"error: --episode-length {episode_length}: from 2 × --n-step to {longest}")
    if args.buffer_size < args.num_envs * episode_length:
        raise SystemExit("error: --buffer-size: must hold an episode of each of --num-envs")
    if args.learning_starts < args.n_step * args.num_envs:
        raise SystemExit("error: --learning-starts: at least --n-step × --num-envs")
    if args.total_steps < args.learning_starts * (2 if args.expert else 1):
        raise SystemExit("error: --total-steps: at least --learning-starts, with --expert twice as many")


def main(args: Args):
    os.environ["MUJOCO_GL"] = "disabled"  # nothing is rendered: no OpenGL needed
    torch.set_num_threads(1)  # the networks are too small for more
    check_args(args)
    name = args.task
    if args.action_repeat > 1:
        name += f"__repeat{args.action_repeat}"
    if args.verify is not None:
        verify(args, args.expert or Path(__file__).parent / f"{name}.npz")
    else:
        check_lengths(args)
        train_sac(args, args.output / f"{name}.npz")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (KeyboardInterrupt, OSError) as error:  # a full disk, a folder without permission
        raise SystemExit(f"error: {str(error) or 'interrupted'}")

# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch==2.15.0",
#     "numpy==2.4.6",
#     "tyro==1.0.17",
#     "dm_control==1.0.50",
#     "mujoco==3.17.0",
#     "shimmy==2.0.1",
#     "gymnasium==1.4.0",
#     "imageio==2.38.1",
#     "tqdm==4.70.1",
#     "matplotlib==3.11.2",
# ]
# ///

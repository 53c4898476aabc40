"""Proximal policy optimisation (PPO; Schulman et al., 2017): trains experts on states for collect_data.py.

"Latent Action Learning Requires Supervision in the Presence of Distractors" (Nikulin et al., 2025; Appendix
C) takes its experts from PPO; only humanoid-walk's is from SAC (experts/sac.py). PPO's Gaussians have means
that may lie outside [-1, 1]; the clipped action acts. collect_data.py plays PPO's experts where actions
repeat.

cheetah-run returns 574 ± 101 (100 episodes, one seed) after 9 minutes (3 M steps at 5,500 steps/s) on one
core of a shared AMD EPYC virtual machine. SAC returns more, but takes longer.

    python experts/ppo.py --task cheetah-run --total-steps 3000000  # writes runs/experts/cheetah-run__ppo.npz
    python experts/ppo.py --task fish-swim                          # any task of dm_control's suite
    python experts/ppo.py --task walker-run --action-repeat 4       # each action acts for four steps
    python experts/ppo.py --task cheetah-run --verify 100           # plays the shipped expert
    python collect_data.py --task cheetah-run --expert runs/experts/cheetah-run__ppo.npz   # films the new one

Files in --output: <task>__ppo.npz, the expert that returned most; <task>__ppo.png, the learning curve;
<task>__ppo.checkpoint.pt. With --action-repeat 4 the name is <task>__repeat4__ppo. After a kill the same
command continues from the checkpoint. experts/README.md has the commands that made the shipped experts.
"""

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
    """A step is one decision in one environment. PPO's paper: Schulman et al. (2017), Table 3 (MuJoCo)."""

    task: str = "cheetah-run"  # any task of dm_control's suite except lqr's
    seed: int = 0  # of the environments, the networks and the order of the batches
    expert: Path | None = None  # expert file (.npz) that --verify plays (default: experts/<task>__ppo.npz)
    output: Path = Path("runs/experts")  # folder for the expert, its learning curve and its checkpoint
    action_repeat: int = 1
    """simulation steps for which each action acts, rewards summed; --verify takes it from the expert"""
    eval_interval: int = 100_000  # steps between evaluations (ten greedy episodes), and between checkpoints
    verify: int | None = None  # play the expert for so many episodes, print what they return, and stop

    total_steps: int = 10_000_000  # of all environments together (PPO's paper: 1 M)
    num_envs: int = 32  # environments that step together (PPO's paper: 1)
    rollout_length: int = 128  # steps of each environment between two updates (PPO's paper: 2,048)
    num_epochs: int = 10  # passes over each rollout (PPO's paper)
    batch_size: int = 256  # transitions per gradient step (PPO's paper: 64)
    hidden_dim: int = 128  # width of the two hidden layers of actor and critic (PPO's paper: 64)
    learning_rate: float = 3e-4  # of Adam at the beginning (PPO's paper); falls linearly to zero
    gamma: float = 0.99  # discount per step (PPO's paper)
    gae_lambda: float = 0.95
    """of the generalised advantage estimate (PPO's paper): 0 trusts the critic, 1 the returns"""
    clip: float = 0.2  # how far an action's probability may move from 1 × the old one (PPO's paper)
    entropy_coef: float = 0.0  # weight of the entropy (CleanRL)
    value_coef: float = 0.5  # weight of the critic's loss (CleanRL)
    max_grad_norm: float = 0.5  # gradients are scaled down to this norm (CleanRL)


# ---- Networks ----------------------------------------------------------------------------------------------


class PPO(nn.Module):
    """An actor of Gaussians whose standard deviations do not depend on the state, and a critic."""

    def __init__(self, args: Args, state_dim: int, action_dim: int):
        super().__init__()
        self.actor = nn.Sequential(
            nn.Linear(state_dim, args.hidden_dim),
            nn.ReLU(),
            nn.Linear(args.hidden_dim, args.hidden_dim),
            nn.ReLU(),
            nn.Linear(args.hidden_dim, action_dim),
        )
        self.log_std = nn.Parameter(torch.zeros(action_dim))
        self.critic = nn.Sequential(
            nn.Linear(state_dim, args.hidden_dim),
            nn.ReLU(),
            nn.Linear(args.hidden_dim, args.hidden_dim),
            nn.ReLU(),
            nn.Linear(args.hidden_dim, 1),
        )
        for linear in [*self.actor[::2], *self.critic[::2]]:
            nn.init.orthogonal_(linear.weight, math.sqrt(2))
            nn.init.zeros_(linear.bias)
        nn.init.orthogonal_(self.actor[-1].weight, 0.01)  # first means about zero
        nn.init.orthogonal_(self.critic[-1].weight, 1.0)

    def policy(self, states: torch.Tensor) -> torch.distributions.Normal:
        """Standardised states (B, S) → distribution of the unclipped actions (B, A)."""
        return torch.distributions.Normal(self.actor(states), self.log_std.exp(), validate_args=False)

    def value(self, states: torch.Tensor) -> torch.Tensor:
        return self.critic(states)[..., 0]


# ---- Training ----------------------------------------------------------------------------------------------


def train_ppo(args: Args, path: Path):
    """Trains an expert; `path` gets the policy with the best mean return over ten greedy episodes."""
    envs = join_envs([load_env(args.task) for _ in range(args.num_envs)], args.action_repeat)
    state_dim = envs.single_observation_space.shape[0]
    action_dim = envs.single_action_space.shape[0]

    files = TrainingFiles(args, path, algorithm="ppo", output="mean")
    torch.manual_seed(args.seed + files.step)
    statistics = RunningMeanStd(shape=state_dim)
    reward_scale = RewardScale(args)
    agent = PPO(args, state_dim, action_dim)
    optim = torch.optim.Adam(agent.parameters(), args.learning_rate, eps=1e-5, fused=True)
    if files.step > 0:
        agent.load_state_dict(files.state["agent"])
        optim.load_state_dict(files.state["optim"])
        set_statistics(statistics, files.state["statistics"])
        set_statistics(reward_scale.statistics, files.state["reward_statistics"])

    shape = (args.rollout_length, args.num_envs)
    states = np.zeros((*shape, state_dim))
    next_states = np.zeros((*shape, state_dim))
    actions = torch.zeros(*shape, action_dim)
    rewards = torch.zeros(shape)
    ended = torch.zeros(shape, dtype=torch.bool)
    steps_per_rollout = args.rollout_length * args.num_envs

    state, _ = envs.reset(seed=args.seed + files.step)
    # the first episodes have all lengths, so that each rollout shows all parts of an episode from then on
    episode_length = EPISODE_LENGTH // args.action_repeat
    elapsed = np.arange(args.num_envs) * episode_length // args.num_envs
    bar = tqdm(
        desc=f"ppo {args.task}",
        total=args.total_steps,
        initial=files.step,
        unit="step",
        unit_scale=True,
    )
    for step in range(files.step, args.total_steps, steps_per_rollout):
        # a rollout
        for t in range(args.rollout_length):
            with torch.no_grad():
                actions[t] = agent.policy(standardize(state, statistics)).sample()
            states[t] = state
            state, reward, *_ = envs.step(actions[t].numpy().clip(-1, 1))
            elapsed += 1
            last = elapsed == episode_length
            next_states[t] = state
            rewards[t] = torch.from_numpy(reward_scale(reward, last))
            ended[t] = torch.from_numpy(last)
            if last.any():
                state, _ = envs.reset(options={"reset_mask": last})
                elapsed[last] = 0

        # what the old policy and the critic say of it
        with torch.no_grad():
            seen = standardize(states, statistics)
            log_prob = agent.policy(seen).log_prob(actions).sum(-1)
            values = agent.value(seen)
            next_values = agent.value(standardize(next_states, statistics))
            advantages = estimate_advantages(args, rewards, values, next_values, ended)
        played = [seen, actions, log_prob, advantages, advantages + values]
        played = [tensor.flatten(0, 1) for tensor in played]

        optim.param_groups[0]["lr"] = args.learning_rate * (1 - step / args.total_steps)
        for _ in range(args.num_epochs):
            for rows in torch.randperm(steps_per_rollout).split(args.batch_size):
                x, action, old_log_prob, advantage, returns = (tensor[rows] for tensor in played)

                # actor: more of what was better than expected, as long as the policy stays near the old one
                policy = agent.policy(x)
                ratio = (policy.log_prob(action).sum(-1) - old_log_prob).exp()
                advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
                clipped_ratio = ratio.clamp(1 - args.clip, 1 + args.clip)
                gain = torch.min(ratio * advantage, clipped_ratio * advantage).mean()
                entropy = policy.entropy().sum(-1).mean()

                # critic: the returns
                value_loss = 0.5 * F.mse_loss(agent.value(x), returns)

                loss = args.value_coef * value_loss - gain - args.entropy_coef * entropy
                optim.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
                optim.step()
        statistics.update(states.reshape(-1, state_dim))

        done = step + steps_per_rollout
        bar.update(steps_per_rollout)
        if step // args.eval_interval < done // args.eval_interval or done >= args.total_steps:
            layers = [(linear.weight, linear.bias) for linear in agent.actor[::2]]
            checkpoint = {
                "agent": agent.state_dict(),
                "optim": optim.state_dict(),
                "statistics": saved_statistics(statistics),
                "reward_statistics": saved_statistics(reward_scale.statistics),
            }
            score = files.evaluate_and_save(done, layers, statistics, checkpoint)
            bar.set_postfix(greedy_return=f"{score:.0f}")
    print(f"best of {len(files.curve)} evaluations: {files.expert}; learning curve: {files.picture}")


def standardize(states: np.ndarray, statistics: RunningMeanStd) -> torch.Tensor:
    """As `Expert` does it, with the statistics of all states seen so far."""
    x = (states - statistics.mean) / (np.sqrt(statistics.var) + 1e-3)
    return torch.as_tensor(np.clip(x, -10, 10), dtype=torch.float32)


class RewardScale:
    """Divides rewards by the standard deviation of their discounted sums so far."""

    def __init__(self, args: Args):
        self.gamma = args.gamma
        self.sums = np.zeros(args.num_envs)
        self.statistics = RunningMeanStd(shape=())

    def __call__(self, rewards: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Rewards (N,) and whether these were an episode's last (N,) → scaled rewards (N,)."""
        self.sums = self.gamma * self.sums + rewards
        self.statistics.update(self.sums)
        self.sums[last] = 0
        return np.clip(rewards / np.sqrt(self.statistics.var + 1e-8), -10, 10)


def estimate_advantages(args: Args, rewards, values, next_values, ended) -> torch.Tensor:
    """Generalised advantage estimates (Schulman et al., 2016); everything (T, N).

    ended: whether a step was an episode's last. The critic's value of the state after it still counts,
    because an episode ends only when its time is over.
    """
    advantages = torch.zeros_like(rewards)
    later = torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        error = rewards[t] + args.gamma * next_values[t] - values[t]
        later = error + args.gamma * args.gae_lambda * torch.where(ended[t], 0, later)
        advantages[t] = later
    return advantages


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


def main(args: Args):
    os.environ["MUJOCO_GL"] = "disabled"  # nothing is rendered: no OpenGL needed
    torch.set_num_threads(1)  # the networks are too small for more
    check_args(args)
    name = args.task
    if args.action_repeat > 1:
        name += f"__repeat{args.action_repeat}"
    name += "__ppo"
    if args.verify is not None:
        verify(args, args.expert or Path(__file__).parent / f"{name}.npz")
    elif args.expert:
        raise SystemExit("error: --expert: PPO begins from nothing but its own checkpoint; use --verify")
    else:
        train_ppo(args, args.output / f"{name}.npz")


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

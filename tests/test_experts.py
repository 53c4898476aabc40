"""experts/sac.py and experts/ppo.py: what training writes, how it continues, PPO learns, shipped experts."""

import json
import os
from pathlib import Path

import gymnasium as gym
import numpy as np
import ppo
import pytest
import sac
import torch
from conftest import ROOT, run
from gymnasium.wrappers.utils import RunningMeanStd

import collect_data

TASKS = ["cheetah-run", "walker-run", "hopper-hop", "humanoid-walk"]


def train(output: Path, total_steps: int, **changes):
    """SAC with episodes of 100 steps, evaluated once in 2,000."""
    args = {"num_envs": 8, "learning_starts": 800, "updates_per_round": 1, "episode_length": 100}
    args |= {"hidden_dim": 64} | changes
    sac.main(sac.Args(output=output, total_steps=total_steps, eval_interval=2000, **args))


@pytest.fixture(autouse=True)
def short_episodes(monkeypatch):
    # dm_control binds to OpenGL when it is first imported; main() would let it bind to none
    from dm_control import suite  # noqa: F401

    monkeypatch.setattr(sac, "EPISODE_LENGTH", 100)
    monkeypatch.setattr(ppo, "EPISODE_LENGTH", 100)
    monkeypatch.setenv("MUJOCO_GL", os.environ["MUJOCO_GL"])  # which main() sets: so it ends with the test


def test_training_writes_an_expert_and_continues(tmp_path, capsys):
    """Files are written, collect_data.py loads the expert, and the same command with more steps goes on."""
    train(tmp_path, 2000)
    about = collect_data.load_expert(tmp_path / "cheetah-run.npz").about
    assert about["algorithm"] == "sac" and (tmp_path / "cheetah-run.png").exists()
    train(tmp_path, 4000)
    printed = capsys.readouterr().out
    assert "continuing from" in printed and "--total-steps 4000: until this step it was 2000" in printed
    with pytest.raises(SystemExit, match="error: .* was made by .*seed 0"):
        train(tmp_path, 4000, seed=1)
    with pytest.raises(SystemExit, match="error: --episode-length 200: .* to 100"):
        train(tmp_path, 6000, episode_length=200)
    checkpoint = torch.load(tmp_path / "cheetah-run.checkpoint.pt", weights_only=True)
    assert [point["step"] for point in checkpoint["curve"]] == [2000, 4000]
    (tmp_path / "cheetah-run.checkpoint.pt").write_bytes(b"cut off")
    with pytest.raises(SystemExit, match="error: .*checkpoint.pt cannot be read, remove it"):
        train(tmp_path, 4000)
    (tmp_path / "cheetah-run.checkpoint.pt").unlink()
    with pytest.raises(SystemExit, match="error: .*cheetah-run.npz exists without a checkpoint: move it"):
        train(tmp_path, 4000)
    with pytest.raises(SystemExit, match="error: --total-steps: at least --learning-starts"):
        train(tmp_path / "short", 400)


def test_training_goes_on_from_a_shipped_policy(tmp_path):
    """Before the critics know the policy it stays as it is: its file says what the shipped one says, bit for
    bit."""
    expert = ROOT / "experts" / "cheetah-run.npz"
    with pytest.raises(SystemExit, match="error: --total-steps: .* with --expert twice as many"):
        train(tmp_path, 2400, expert=expert, learning_starts=1600, hidden_dim=256)
    train(tmp_path, 2000, expert=expert, learning_starts=1000, hidden_dim=256, height_reward=0.1)
    shipped, found = (sac.load_expert(path).layers[-1] for path in (expert, tmp_path / "cheetah-run.npz"))
    assert all(np.array_equal(one, other) for one, other in zip(shipped, found, strict=True))
    checkpoint = torch.load(tmp_path / "cheetah-run.checkpoint.pt", weights_only=True)
    of_actor, of_critics, _ = [optim["state"] for optim in checkpoint["optims"]]
    assert of_actor == {} and {int(weight["step"]) for weight in of_critics.values()} == {125}
    with pytest.raises(SystemExit, match="error: .* must be of --task, SAC and --hidden-dim"):
        train(tmp_path / "other", 2400, expert=expert, hidden_dim=128)


def test_training_may_reward_height_and_begin_upright():
    rewards, states = [], []
    for height_reward in (0.0, 2.0):
        envs = []
        for upright in (True, False):
            envs.append(sac.EasierEnv(sac.load_env("hopper-hop"), height_reward, upright))
        envs = sac.join_envs(envs, 1)
        states.append(envs.reset(seed=4)[0])
        torso = [env.unwrapped.physics.named.data.xmat["torso", "zz"] for env in envs.envs]
        # the first stands, the second begins as the task has it: head down
        assert torso[0] == 1 and torso[1] < 0
        rewards.append(envs.step(np.zeros((2, 4), np.float32))[1])
        height = envs.envs[1].unwrapped.physics.named.data.xpos["torso", "z"]
    assert (states[0] == states[1]).all() and (states[0][0] != states[0][1]).any()
    assert rewards[1][1] - rewards[0][1] == pytest.approx(2 * height) and height > 0.5


def test_training_may_hold_random_actions():
    bursts = sac.RandomBursts(sac.Args(num_envs=50, random_bursts=0.02), 2)
    rng = np.random.default_rng(0)
    policy = rng.uniform(-0.9, 0.9, (200, 50, 2)).astype(np.float32)
    actions = np.stack([bursts.replace(planned, rng) for planned in policy])
    random = (np.abs(actions) == 1).all(-1)
    held = (random[1:] & random[:-1] & (actions[1:] == actions[:-1]).all(-1)).sum() / random.sum()
    assert 0.2 < random.mean() < 0.45 and held > 0.9  # 1 - 0.98²⁰ = 0.33 of the time
    assert np.array_equal(actions[~random], policy[~random])


@pytest.mark.parametrize("steps", [31, 32, 40, *range(60, 71)])
def test_replay_keeps_to_episodes(steps):
    """n-step rewards of transitions that follow one another in one environment and one episode, wherever the
    buffer of 40 steps is being written over."""
    args = sac.Args(num_envs=2, buffer_size=80, batch_size=500, n_step=3)
    buffer = sac.ReplayBuffer(args, 10, 2, 1)
    for step in range(steps):
        states = np.array([[step, 0], [step, 1]], np.float32)  # step and environment
        buffer.add(states, states[:, :1], np.full(2, 2.0 ** (step % 10)), states + [1, 0])
    states, actions, rewards, next_states = buffer.sample(np.random.default_rng(0))
    start = states[:, 0] % 10
    assert states[:, 0].min() >= steps - 40 and states[:, 0].max() > steps - 10
    assert np.array_equal(actions[:, 0], states[:, 0]) and set(states[:, 1]) == {0, 1}
    assert np.array_equal(next_states, states + [3, 0]) and start.max() == 7
    assert np.allclose(rewards, 2**start * (1 + 0.99 * 2 + 0.99**2 * 4))


@pytest.mark.parametrize("task", TASKS)
def test_states_are_those_that_collections_record(task):
    """What stands beside a picture has the values and the order of the flat environment in which experts
    train."""
    env = collect_data.DistractingControl(collect_data.load_task(task), 0, 0, [])
    (flat,) = sac.join_envs([sac.load_env(task)], 1).envs
    actions = [np.sin(np.arange(env.action_space.shape[0]) + step) for step in range(100)]
    planned = iter(actions)
    arrays, _ = collect_data.play(env, lambda state: next(planned), seed=1, length=100)
    expected = [flat.reset(seed=1)[0], *(flat.step(action.astype(np.float32))[0] for action in actions)][:-1]
    assert arrays["states"].dtype == np.float32 and np.allclose(
        arrays["states"], np.stack(expected), atol=1e-5
    )
    assert isinstance(flat, gym.wrappers.FlattenObservation)


def test_standardised_states_are_those_of_the_expert():
    path = ROOT / "experts" / "cheetah-run.npz"
    expert = sac.load_expert(path)
    statistics = RunningMeanStd(shape=17)
    actor = sac.mlp(17, 256, 12, layer_norm=False)
    sac.begin_from(sac.Args(expert=path, hidden_dim=256), actor, statistics)
    states = np.random.default_rng(0).normal(0, 3, (20, 17))
    mean = actor(sac.standardize(states, statistics))[:, :6]
    assert np.allclose(torch.tanh(mean).detach().numpy(), expert(states), atol=1e-4)


def test_ppo_learns_and_continues(tmp_path, capsys):
    """Returns rise in a training of two parts; the file holds the actor's means, unclipped, and plays them
    clipped."""
    args = ppo.Args(action_repeat=2, output=tmp_path, eval_interval=6000, num_envs=8, rollout_length=75)
    args.batch_size = 100
    args.learning_rate = 3e-3
    args.num_epochs = 6
    for args.total_steps in (2400, 12000):
        ppo.main(args)
    assert "continuing from" in capsys.readouterr().out
    checkpoint = torch.load(tmp_path / "cheetah-run__repeat2__ppo.checkpoint.pt", weights_only=True)
    assert [point["step"] for point in checkpoint["curve"]] == [2400, 6000, 12000]
    returns = [point["mean"] for point in checkpoint["curve"]]
    assert returns[-1] > 3 * returns[0] and returns[-1] > 3  # without training: below 0.5

    expert = collect_data.load_expert(tmp_path / "cheetah-run__repeat2__ppo.npz")
    assert expert.about["algorithm"] == "ppo" and expert.about["action_repeat"] == 2
    agent = ppo.PPO(args, 17, 6)
    agent.load_state_dict(checkpoint["agent"])
    statistics = RunningMeanStd(shape=17)
    ppo.set_statistics(statistics, checkpoint["statistics"])
    states = np.random.default_rng(0).normal(0, 5, (50, 17))
    with torch.no_grad():
        means = agent.actor(ppo.standardize(states, statistics)).numpy()
    assert np.abs(means).max() > 1 and np.allclose(expert.mean(states), means, atol=1e-4)
    assert np.array_equal(expert(states), expert.mean(states).clip(-1, 1))


def test_advantages_are_sums_of_errors_within_an_episode():
    args = ppo.Args(gamma=0.9, gae_lambda=0.8)
    rewards, values, next_values = torch.randn(3, 6, 2)
    ended = torch.zeros(6, 2, dtype=torch.bool)
    ended[2, 1] = True
    advantages = ppo.estimate_advantages(args, rewards, values, next_values, ended)
    errors = rewards + 0.9 * next_values - values
    assert torch.allclose(advantages[0, 0], sum(0.72**k * errors[k, 0] for k in range(6)))
    assert torch.allclose(advantages[0, 1], sum(0.72**k * errors[k, 1] for k in range(3)))
    assert torch.allclose(advantages[3, 1], sum(0.72 ** (k - 3) * errors[k, 1] for k in range(3, 6)))


def test_actions_may_act_for_several_steps(monkeypatch):
    """An expert of two steps an action decides 500 times; states and rewards are those of actions given
    twice."""
    monkeypatch.setattr(sac, "EPISODE_LENGTH", 1000)
    expert = sac.load_expert(ROOT / "experts" / "cheetah-run.npz")
    expert.about["action_repeat"] = 2
    actions = []

    def decide(self, states: np.ndarray) -> np.ndarray:
        actions.append(self.mean(states))
        return actions[-1]

    monkeypatch.setattr(sac.Expert, "__call__", decide)
    returns = sac.play_expert(expert, "cheetah-run", episodes=2, seed=3)
    assert len(actions) == 500

    (held,) = sac.join_envs([sac.load_env("cheetah-run")], 2).envs
    (single,) = sac.join_envs([sac.load_env("cheetah-run")], 1).envs
    total = 0
    assert np.array_equal(held.reset(seed=3)[0], single.reset(seed=3)[0])
    for step, (action, _) in enumerate(actions):
        states, reward, _, truncated, _ = held.step(action)
        expected = [single.step(action) for _ in range(2)]
        assert np.array_equal(states, expected[1][0]) and reward == expected[0][1] + expected[1][1]
        assert truncated == (step == 499)
        total += reward
    assert total == pytest.approx(returns[0])


@pytest.mark.parametrize("script", [sac, ppo])
@pytest.mark.parametrize("change,message", [
    ({"task": "fish-swimm"}, "--task fish-swimm: dm_control has .*fish-swim, .*walker-run"),
    ({"action_repeat": 3}, "--action-repeat 3: must divide"),
    ({"verify": 0}, "--verify 0: must be a number from 1 on"),
    ({"seed": -1}, "--seed -1: must be a number from 0 on"),
    ({"learning_rate": float("nan")}, "--learning-rate nan: must be a number from 0 on"),
    ({"num_envs": 0}, "--num-envs 0: must be"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(script, change, message, tmp_path):
    with pytest.raises(SystemExit, match=f"error: {message}"):
        script.main(script.Args(output=tmp_path / "new", **change))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("script,change,message", [
    (sac, {"task": "cartpole-swingup", "height_reward": 1}, "--height-reward"),
    (sac, {"buffer_size": 6000}, "--buffer-size"),
    (ppo, {"expert": Path("any.npz")}, "--expert"),
])  # fmt: skip
def test_what_an_algorithm_cannot_do_is_refused_in_one_line(script, change, message, tmp_path):
    with pytest.raises(SystemExit, match=f"error: {message}"):
        script.main(script.Args(output=tmp_path / "new", **change))
    assert not (tmp_path / "new").exists()


def test_any_task_of_the_suite_has_an_environment():
    envs = sac.join_envs([sac.load_env("fish-swim") for _ in range(2)], 4)
    states, _ = envs.reset(seed=0)
    assert states.shape == (2, 24) and (envs.step(np.zeros((2, 5), np.float32))[1] > 0).all()


@pytest.mark.parametrize("repeat,least", [(1, 800), (4, 720)])
def test_verify_plays_the_shipped_expert(repeat, least, monkeypatch, capsys):
    monkeypatch.setattr(sac, "EPISODE_LENGTH", 1000)
    sac.main(sac.Args(task="cheetah-run", action_repeat=repeat, verify=2))
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(line) == {"task", "action_repeat", "episodes", "mean", "std", "min"}
    assert line["episodes"] == 2 and line["action_repeat"] == repeat and line["mean"] > least


def test_verify_from_the_command_line():
    result = run("experts/ppo.py", "--task", "cheetah-run", "--action-repeat", 4, "--verify", 1)
    line = json.loads(result.stdout.splitlines()[-1])
    assert line["episodes"] == 1 and line["mean"] > 300

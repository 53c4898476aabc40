"""The distracting environment: ranges and statistics of each distractor, seeds, and that distractors change pixels alone."""

import gymnasium as gym
import numpy as np
import pytest

from collect_data import DIFFICULTIES, DistractingControl, dead_leaves_video, load_task, to_cartesian, to_spherical
from collect_data import play as play_episode

TASKS = ["cheetah-run", "walker-run", "hopper-hop", "humanoid-walk"]
VIDEOS = [dead_leaves_video(seed, num_frames=5) for seed in range(2)]


def play(env, seed: int, steps: int = 20):
    """Pixels (steps, 64, 64, 3) and physics (steps, P) of random actions."""
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    played = [(env.step(rng.uniform(-1, 1, env.action_space.shape))[0], env.physics.get_state()) for _ in range(steps)]
    return tuple(map(np.stack, zip(*played)))


def make(task="cheetah-run", color=0.0, camera=0.0, videos=()):
    return DistractingControl(load_task(task), color, camera, list(videos))


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_same_pixels(task):
    env = make(task, 0.1, 0.1, VIDEOS)
    pixels, physics = play(env, seed=3)
    play(env, seed=4)  # what an environment has played before does not matter
    again, physics_again = play(env, seed=3)
    assert np.array_equal(pixels, again) and np.array_equal(physics, physics_again)
    assert not np.array_equal(pixels, play(make(task, 0.1, 0.1, VIDEOS), seed=5)[0])
    assert pixels.std() > 5  # a picture, not a blank


@pytest.mark.parametrize("task", TASKS)
def test_states_are_what_experts_are_trained_on(task):
    """The state that is recorded beside a picture has the values and the order of the flat environment in which experts train."""
    env, flat = make(task), gym.wrappers.FlattenObservation(load_task(task))
    actions = [np.sin(np.arange(env.action_space.shape[0]) + step) for step in range(100)]
    env.render, planned = lambda: np.zeros(1), iter(actions)
    arrays, _ = play_episode(env, lambda state: next(planned), seed=1, length=100)
    expected = [flat.reset(seed=1)[0], *(flat.step(action.astype(np.float32))[0] for action in actions)][:-1]
    assert arrays["states"].dtype == np.float32 and np.allclose(arrays["states"], np.stack(expected), atol=1e-5)


@pytest.mark.parametrize("distractor", [{"color": 0.3}, {"camera": 0.3}, {"videos": VIDEOS}])
def test_each_distractor_changes_pixels_alone(distractor):
    pixels, physics = play(make(), seed=0)
    changed, same_physics = play(make(**distractor), seed=0)
    assert np.array_equal(physics, same_physics)
    assert (pixels != changed).mean() > 0.05


def test_vanilla_is_the_task_itself():
    env = make()
    own_colors = env.model.mat_rgba.copy()
    env.reset(seed=0)
    for _ in range(10):
        pixels = env.step(np.ones(6))[0]
    assert np.array_equal(env.model.mat_rgba, own_colors)
    assert np.array_equal(pixels, env.physics.render(height=64, width=64, camera_id=0))


@pytest.mark.parametrize("task", TASKS)
def test_ranges_over_thousands_of_steps(task):
    """Design notes, section 5, at scale 0.2; the walks reach their bounds and never cross them."""
    s, env = 0.2, make(task, 0.2, 0.2, VIDEOS)
    env.render = lambda: None  # the walks do not need the pictures
    colors, positions, rolls, speeds, times, starts = [], [], [], [], [], []
    for episode in range(4):
        env.reset(seed=episode)
        starts.append(env.camera_position.copy())
        assert np.linalg.norm(env.velocity) <= 0.4 * s
        for _ in range(500):
            before = env.model.mat_rgba[:, :3].copy()
            env.step(np.zeros(env.action_space.shape))
            moved = (env.model.mat_rgba[:, :3] - before)[(before > env.color_low + 0.05) & (before < env.color_high - 0.05)]
            colors.append(moved)
            positions.append(env.camera_position.copy())
            rolls.append(env.roll)
            speeds.append(np.linalg.norm(env.velocity))
            times.append(env.video_time)
        assert (env.model.mat_rgba[:, :3] >= np.clip(env.own_colors - s, 0, 1) - 1e-6).all()
        assert (env.model.mat_rgba[:, :3] <= np.clip(env.own_colors + s, 0, 1) + 1e-6).all()
        radius, elevation, azimuth = np.array(positions[-500:]).T
        r = env.own_radius
        assert r * (1 - 0.5 * s) <= radius.min() and radius.max() <= r * (1 + 1.5 * s)
        assert elevation.min() >= 0 and elevation.max() <= np.pi / 2
        assert azimuth.min() >= -np.pi and azimuth.max() <= 0
        assert max(speeds[-500:]) <= 0.4 * s * r / 4 + 1e-9
    assert np.std(np.concatenate(colors)) == pytest.approx(0.03 * s, rel=0.1)
    assert np.abs(rolls).max() <= np.pi / 2 * s and np.std(rolls) > 0.01
    assert np.ptp(np.array(positions), axis=0).min() > 0.02 and np.ptp(np.array(starts), axis=0).min() > 0.02


def test_video_plays_to_and_fro():
    env = make(videos=VIDEOS)
    env.reset(seed=0)
    shown = []
    for _ in range(12):
        env.step(np.zeros(6))
        frame = env.sky_faces[0]
        assert (env.sky_faces == frame).all()  # all faces the same
        shown.append(next(i for i, candidate in enumerate(env.video) if np.array_equal(candidate, frame)))
    assert set(np.abs(np.diff(shown))) == {1} and set(shown) == set(range(5))


@pytest.mark.parametrize("task,alpha", [("walker-run", 1.0), ("humanoid-walk", 0.3)])
def test_ground_shows_the_background_for_humanoid(task, alpha):
    env = make(task, videos=VIDEOS)
    assert env.physics.named.model.mat_rgba["grid", "a"] == pytest.approx(alpha)


def test_spherical_round_trip():
    for position in ([2.0, 0.3, -1.5], [3.0, 0.0, -np.pi], [1.0, 1.2, -0.2]):
        assert np.allclose(to_spherical(to_cartesian(np.array(position))), position)


def test_camera_keeps_the_agent_in_view():
    """The agent's centre of mass stays near the middle of the picture, wherever the camera goes."""
    env = make(camera=0.3)
    for seed in range(5):
        env.reset(seed=seed)
        for _ in range(50):
            env.step(np.zeros(6))
        axis = -env.data.cam_xmat[0].reshape(3, 3)[:, 2]
        towards = env.data.subtree_com[1] - env.data.cam_xpos[0]
        assert axis @ towards / np.linalg.norm(towards) > 0.95


def test_difficulties():
    assert DIFFICULTIES["scale_easy_video_hard"] == (0.1, None) and DIFFICULTIES["medium"] == (0.2, 8)


def test_frame_stack_repeats_the_first_frame():
    env = gym.wrappers.FrameStackObservation(make(videos=VIDEOS), 3, padding_type="reset")
    first, _ = env.reset(seed=0)
    assert first.shape == (3, 64, 64, 3) and (first == first[2]).all()
    second = env.step(np.zeros(6))[0]
    assert np.array_equal(second[:2], first[1:]) and not np.array_equal(second[2], second[1])

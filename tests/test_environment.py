"""The distracting environment: ranges and statistics of each distractor; they change pixels alone."""

import json
import shutil

import gymnasium as gym
import numpy as np
import pytest

from collect_data import (
    DIFFICULTIES,
    WORLD,
    DistractingControl,
    RepeatAction,
    dead_leaves_video,
    load_task,
    load_videos,
    make_env,
    play_to_and_fro,
    to_cartesian,
    to_spherical,
    walk_camera,
    walk_colors,
)

TASKS = ["cheetah-run", "walker-run", "hopper-hop", "humanoid-walk"]
VIDEOS = [dead_leaves_video(seed, num_frames=5) for seed in range(2)]


def play(env, seed: int, steps: int = 20):
    """Pixels (steps, 64, 64, 3) and physics (steps, P) of random actions."""
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    pixels = []
    physics = []
    for _ in range(steps):
        pixels.append(env.step(rng.uniform(-1, 1, env.action_space.shape))[0])
        physics.append(env.physics.get_state())
    return np.stack(pixels), np.stack(physics)


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


@pytest.mark.parametrize("distractor", [{"color": 0.3}, {"camera": 0.3}, {"videos": VIDEOS}])
def test_each_distractor_changes_pixels_alone(distractor):
    pixels, physics = play(make(), seed=0)
    changed, same_physics = play(make(**distractor), seed=0)
    assert np.array_equal(physics, same_physics)
    assert (pixels != changed).mean() > 0.05


def walk_of_camera(scale: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (1000, 3) and rolls (1000,) of a camera that begins 3 m before the agent, 0.5 m above it."""
    camera = walk_camera(np.random.default_rng(seed), scale, np.array([0, -3, 0.5]))
    positions, rolls = zip(*(next(camera) for _ in range(1000)))
    return np.array(positions), np.array(rolls)


@pytest.mark.parametrize(
    ("scale", "step", "roll_step", "at_a_limit"),
    [
        (0.1, 0.0239, 0.0029, {"radius": 0.079, "elevation": 0.042, "azimuth": 0.049, "roll": 0.047}),
        (0.3, 0.0713, None, {"radius": 0.083, "elevation": 0.054, "azimuth": 0.047, "roll": 0.047}),
    ],
)
def test_the_camera_walks_as_the_suites_does(scale, step, roll_step, at_a_limit):
    """Reference figures: it turns at its limits, where one that kept its speed would stay."""
    walks = [walk_of_camera(scale, seed) for seed in range(15)]
    moves = np.concatenate([np.diff(positions, axis=0) for positions, _ in walks])
    assert np.linalg.norm(moves, axis=1).mean() == pytest.approx(step, rel=0.25)
    if roll_step:
        roll_moves = np.concatenate([np.diff(rolls) for _, rolls in walks])
        assert np.abs(roll_moves).mean() == pytest.approx(roll_step, rel=0.25)
    coordinates = np.array([[*to_spherical(point)] for positions, _ in walks for point in positions])
    columns = dict(zip(("radius", "elevation", "azimuth"), coordinates.T))
    columns["roll"] = np.concatenate([rolls for _, rolls in walks])
    for name, values in columns.items():
        touches = np.isclose(values, values.min(), atol=1e-9) | np.isclose(values, values.max(), atol=1e-9)
        assert touches.mean() == pytest.approx(at_a_limit[name], rel=0.25), name


def test_an_action_acts_for_several_steps():
    """One picture and one distractor step a decision, rewards summed, the physics of R steps."""
    env = DistractingControl(RepeatAction(load_task("cheetah-run"), 4), 0.1, 0.1, VIDEOS)
    plain = make("cheetah-run", 0.1, 0.1, VIDEOS)
    first, _ = env.reset(seed=1)
    assert np.array_equal(first, plain.reset(seed=1)[0])
    action = np.full(6, 0.5)
    _, reward, _, truncated, _ = env.step(action)
    assert reward == sum(plain.step(action)[1] for _ in range(4))
    assert np.array_equal(env.physics.get_state(), plain.physics.get_state()) and not truncated
    assert [env.step(action)[3] for _ in range(249)] == [False] * 248 + [True]


def test_a_repeated_action_ends_with_the_episode():
    """Where R does not divide its length, too: nothing of the next episode is played."""
    env = RepeatAction(load_task("cheetah-run"), 300)
    env.reset(seed=0)
    assert [env.step(np.zeros(6))[3] for _ in range(4)] == [False, False, False, True]
    assert env.unwrapped.physics.time() == pytest.approx(10)  # seconds, the whole episode


def test_vanilla_is_the_task_itself():
    env = make()
    own_colors = env.physics.model.mat_rgba.copy()
    env.reset(seed=0)
    for _ in range(10):
        pixels = env.step(np.ones(6))[0]
    assert np.array_equal(env.physics.model.mat_rgba, own_colors)
    assert np.array_equal(pixels, env.physics.render(height=64, width=64, camera_id=0))


def walk(walker, seed: int, *args, steps: int = 500) -> list:
    walker = walker(np.random.default_rng(seed), *args)
    return [next(walker) for _ in range(steps)]


@pytest.mark.parametrize("task", TASKS)
def test_colors_keep_to_their_range(task):
    """Design notes, section 5, at scale 0.2; the walk reaches its bounds and never crosses them."""
    s = 0.2
    own = load_task(task).unwrapped.physics.model.mat_rgba[:, :3].copy()
    low = np.clip(own - s, 0, 1)
    high = np.clip(own + s, 0, 1)
    colors = np.stack([walk(walk_colors, episode, s, own) for episode in range(4)])  # (4, 500, materials, 3)
    assert (colors >= low - 1e-6).all() and (colors <= high + 1e-6).all()
    assert np.isclose(colors, low).any() and np.isclose(colors, high).any()
    starts = (colors[:, 0] - low)[:, high - low > 2 * s - 1e-6]
    assert starts.min() < 0.1 * s and starts.max() > 1.9 * s  # uniform
    steps = np.diff(colors, axis=1)
    inside = (colors > low + 0.05) & (colors < high - 0.05)
    assert np.std(steps[inside[:, :-1]]) == pytest.approx(0.03 * s, rel=0.1)


@pytest.mark.parametrize("task", TASKS)
def test_the_camera_keeps_to_its_range(task):
    """Design notes, section 5, at scale 0.2, about the agent's centre of mass."""
    s = 0.2
    data = load_task(task).unwrapped.physics.data
    own = data.cam_xpos[0] - data.subtree_com[1]

    def spherical(x, y, z):
        azimuth = np.arctan2(y, x) - 2 * np.pi * (np.arctan2(y, x) > np.pi / 2)
        return np.linalg.norm([x, y, z]), np.arctan2(z, np.hypot(x, y)), azimuth

    radius, elevation, azimuth = spherical(*own)
    angle = np.pi / 2 * s
    episodes = [walk(walk_camera, episode, s, own) for episode in range(4)]
    positions = np.array([[spherical(*position) for position, _ in episode] for episode in episodes])
    rolls = np.array([[roll for _, roll in episode] for episode in episodes])
    low = [radius * (1 - 0.5 * s), max(0, elevation - angle), max(-np.pi, azimuth - angle)]
    high = [radius * (1 + 1.5 * s), min(np.pi / 2, elevation + angle), min(0, azimuth + angle)]
    assert (positions >= np.array(low) - 1e-6).all() and (positions <= np.maximum(low, high) + 1e-6).all()
    assert np.ptp(positions, axis=(0, 1)).min() > 0.02 and np.ptp(positions[:, 0], axis=0).min() > 0.02
    assert np.abs(rolls).max() <= angle and np.std(rolls) > 0.01
    assert np.abs(np.diff(rolls, axis=1)).max() <= np.pi / 50 * s + 1e-9
    points = np.array([[position for position, _ in episode] for episode in episodes])
    moves = np.linalg.norm(np.diff(points, axis=1), axis=-1)
    assert moves.max() <= 0.4 * s * radius / 4 + 1e-9 and moves.max() > 0.3 * s * radius / 4


def test_video_plays_to_and_fro():
    frames = walk(play_to_and_fro, 0, VIDEOS, steps=40)
    (video,) = [video for video in VIDEOS if any(np.array_equal(frames[0], frame) for frame in video)]
    shown = []
    for frame in frames:
        shown.append(next(i for i, candidate in enumerate(video) if np.array_equal(candidate, frame)))
    moves = np.abs(np.diff(shown))
    assert set(moves) == {0, 1} and set(shown) == set(range(5))
    assert {shown[i] for i in np.flatnonzero(moves == 0)} == {0, 4}  # the frame at a turn is shown twice
    firsts = [next(play_to_and_fro(np.random.default_rng(seed), VIDEOS)) for seed in range(60)]
    assert len({frame.tobytes() for frame in firsts}) == 10  # any frame of any video


def test_the_sky_shows_the_video():
    """All faces are the same, and the one of a step is that of its picture."""
    env = make(videos=VIDEOS)
    env.reset(seed=0)
    expected = walk(play_to_and_fro, 0, VIDEOS, steps=1)[0].shape
    model = env.physics.model
    sky = model.name2id("skybox", "texture")
    shown = []
    for _ in range(12):
        env.step(np.zeros(6))
        faces = model.tex_data[model.tex_adr[sky] :][: 6 * np.prod(expected)].reshape(6, *expected)
        assert (faces == faces[0]).all()
        shown += [frame.tobytes() for video in VIDEOS for frame in video if np.array_equal(frame, faces[0])]
    assert len(shown) == 12 and len(set(shown)) == 5


@pytest.fixture(scope="module")
def backgrounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backgrounds")
    (folder / "train").mkdir()
    for i, video in enumerate(VIDEOS):
        np.save(folder / "train" / f"{i}.npy", video)
    return folder


@pytest.mark.parametrize(
    "task,difficulty,alpha",
    [
        ("walker-run", "hard", 1.0),
        ("humanoid-walk", "hard", 0.3),
        ("humanoid-walk", "released_vanilla", 0.3),
        ("humanoid-walk", "vanilla", 1.0),
    ],
)
def test_ground_shows_the_background_for_humanoid(task, difficulty, alpha, backgrounds):
    env = make_env(task, difficulty, backgrounds, "train")
    assert env.physics.named.model.mat_rgba["grid", "a"] == pytest.approx(alpha)


@pytest.mark.parametrize("task,low,high", [("cheetah-run", 1, 2), ("humanoid-walk", 10, 14)])
def test_released_vanilla(task, low, high):
    """The released files' vanilla differs from ours by the figures measured on them (issue 19, item 3)."""
    own, physics = play(make(task), seed=0, steps=10)
    released, same_physics = play(make_env(task, "released_vanilla", "nowhere", "train"), seed=0, steps=10)
    assert np.array_equal(physics, same_physics)
    assert low < np.abs(own.astype(int) - released).mean() < high


def test_videos_of_another_version_are_refused(backgrounds, tmp_path):
    shutil.copytree(backgrounds, tmp_path / "videos")
    about = tmp_path / "videos" / "sources.json"
    about.write_text(json.dumps({"world": WORLD, "train": ["0"]}))
    assert len(load_videos(tmp_path / "videos", "train", "hard")) == len(VIDEOS)
    about.write_text(json.dumps({"train": ["0"]}))  # as they were before
    with pytest.raises(SystemExit, match="error: .*videos: an earlier version's videos"):
        load_videos(tmp_path / "videos", "train", "hard")


def test_spherical_round_trip():
    for position in ([2.0, 0.3, -1.5], [3.0, 0.0, -np.pi], [1.0, 1.2, -0.2]):
        assert np.allclose(to_spherical(to_cartesian(np.array(position))), position)


def test_camera_keeps_the_agent_in_view():
    """The agent's centre of mass stays near the middle of the picture, wherever the camera goes."""
    env = make(camera=0.3)
    for seed in range(5):
        env.reset(seed=seed)
        data = env.physics.data
        for _ in range(50):
            env.step(np.zeros(6))
        axis = -data.cam_xmat[0].reshape(3, 3)[:, 2]
        towards = data.subtree_com[1] - data.cam_xpos[0]
        assert axis @ towards / np.linalg.norm(towards) > 0.95


def test_difficulties():
    assert DIFFICULTIES["scale_easy_video_hard"] == (0.1, None) and DIFFICULTIES["medium"] == (0.2, 8)


def test_frame_stack_repeats_the_first_frame():
    env = gym.wrappers.FrameStackObservation(make(videos=VIDEOS), 3, padding_type="reset")
    first, _ = env.reset(seed=0)
    assert first.shape == (3, 64, 64, 3) and (first == first[2]).all()
    second = env.step(np.zeros(6))[0]
    assert np.array_equal(second[:2], first[1:]) and not np.array_equal(second[2], second[1])

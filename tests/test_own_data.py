"""Data of other simulators, from which scripts learn; episodes in Gymnasium; what Weights & Biases gets."""

import contextlib
import importlib.util
import json
import os
import signal
import struct
import time
from pathlib import Path

import gymnasium as gym
import h5py
import lives
import numpy as np
import pytest
import torch
import wandb
from conftest import Recorder, beside, command, only_one, parse, read_records, read_results, run
from wandb.proto import wandb_internal_pb2

import bc

SHORT = {"num_labeled_trajectories": (2,), "lam__num_epochs": 1, "bc__num_epochs": 1}
SHORT |= {"bc__num_updates": 9, "idm__num_updates": 9, "decoder__num_updates": 9}


def short(script: str, data, **changes) -> list[str]:
    """The tiny recipe, shorter, as far as the script has its fields."""
    args = parse(script, data)
    fields = {name: value for name, value in SHORT.items() if has_field(args, name.split("__"))}
    return command(script, data, **fields | changes)


def has_field(args, path: list[str]) -> bool:
    return not path or hasattr(args, path[0]) and has_field(getattr(args, path[0]), path[1:])


def push_squares(path: Path, num_trajectories: int, seed: int) -> Path:
    """A file as its owner writes it from arrays: numpy's numbers, no more attributes than the task's name.

    A square moves with the first two of seven actions in [-3, 3].
    """
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        file.attrs.update(domain_name="squares", task_name="push")
        for number in range(num_trajectories):
            actions = rng.uniform(-3, 3, (30, 7))
            position = 30 + np.cumsum(actions[:, :2], 0) - actions[:, :2]
            obs = np.zeros((30, 64, 64, 3), np.uint8)
            for picture, (x, y) in zip(obs, position.clip(0, 54).astype(int)):
                picture[y : y + 10, x : x + 10] = 255
            states = position.astype(int)
            for name, array in (("obs", obs), ("states", states), ("actions", actions)):
                file.create_dataset(f"{number}/{name}", data=array)
    return path


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    push_squares(folder / "squares_val.hdf5", 2, seed=1)
    return push_squares(folder / "squares_train.hdf5", 4, seed=0)


def check_squares(folder: Path, lines: list[str], script: str):
    """Every stage has trained, what is held out is measured, and one line says that nothing is played."""
    results = read_results(folder)
    measures = results["budgets"]["2"]
    assert results["task"] == "squares-push" and results["reference_return"] is None
    variance = 6**2 / 12
    error = measures["policy_mse_over_var/unseen_videos"]
    assert error == pytest.approx(measures["policy_mse/unseen_videos"] / variance, rel=0.2)
    assert not any("return" in name for name in measures) and not list(folder.glob("*.gif"))
    if script != "bc.py":
        assert any(name.endswith("_mse_over_var/seen_videos") for name in measures)
    (line,) = [line for line in lines if "no episodes" in line]
    assert "squares-push" in line and "--eval.env-id" in line and not any("clipped" in line for line in lines)
    row = next(line for line in lines if line.startswith("| 2 | unseen_videos | – | – |"))
    assert f"{error:.3f}" in row


@pytest.mark.parametrize("script", ["laom.py", "laom_supervised.py", "idm.py"])
def test_a_task_of_another_simulator(script, forks, squares, tmp_path):
    log = tmp_path / "log"
    process = lives.start(script, [*short(script, squares), "--runs", tmp_path / "runs"], log)
    assert lives.end(process) == 0, log.read_text()
    check_squares(only_one(tmp_path / "runs"), lives.said(log), script)


def test_a_task_of_another_simulator_asks_for_no_opengl(squares, tmp_path):
    """As its user starts it, where none would be found. It is rehearsed, too."""
    environ = os.environ | {"OMP_NUM_THREADS": "1", "MUJOCO_GL": "nonsense"}
    words = [*short("bc.py", squares), "--rehearsal", "--runs", tmp_path / "runs"]
    result = run("bc.py", *words, env=environ)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len([line for line in lines if line.startswith("rehearsal: every stage runs (")]) == 1
    check_squares(only_one(tmp_path / "runs"), lines, "bc.py")


def test_which_tasks_are_played(squares, monkeypatch, capsys):
    """Those of dm_control's suite."""
    monkeypatch.setattr(bc, "pick_rendering_backend", lambda: None)
    args = parse("bc.py", squares)
    data = bc.Dataset(args.data, args)
    for data.task in ("fish-swim", "cheetah-run"):
        environments, _ = bc.find_environments(args, data)
        assert environments.keys() == {"seen_videos", "unseen_videos"} and not capsys.readouterr().out
    data.task = "squares-push"
    assert bc.find_environments(args, data)[0] == {}
    assert capsys.readouterr().out.startswith("no episodes: squares-push is no task of dm_control's suite")


# ---- Actions -----------------------------------------------------------------------------------------------


def test_actions_of_other_tasks_are_left_alone(squares, capsys):
    args = parse("bc.py", squares)
    data = bc.Dataset(args.data, args)
    with h5py.File(squares) as file:
        assert np.allclose(data.actions[:30], file["0/actions"][:]) and data.actions.abs().max() > 2
    assert data.states.dtype == data.actions.dtype == torch.float32
    assert "clipped" not in capsys.readouterr().out


def as_task(path: Path, target: Path, task: str) -> Path:
    target.write_bytes(path.read_bytes())
    with h5py.File(target, "r+") as file:
        file.attrs["domain_name"], file.attrs["task_name"] = task.split("-")
    return target


def test_actions_out_of_bounds_are_clipped_and_counted(squares, tmp_path, capsys):
    """In files of the paper's tasks: the released ones hold raw means. --raw-actions keeps them."""
    path = as_task(squares, tmp_path / "released.hdf5", "walker-run")
    with h5py.File(path) as file:
        raw = np.concatenate([file[f"{i}/actions"][:] for i in range(4)])
    args = parse("bc.py", path)
    data = bc.Dataset(args.data, args)
    assert np.allclose(data.actions, raw.clip(-1, 1))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "clipped" in line]
    assert f"{(abs(raw) > 1).sum()} of {raw.size} " in line and "released.hdf5" in line

    args = parse("bc.py", path, raw_actions=True)
    assert np.allclose(bc.Dataset(args.data, args).actions, raw)
    assert "clipped" not in capsys.readouterr().out


# ---- What such files may lack ------------------------------------------------------------------------------


def rename_groups(file):
    for number in list(file):
        file.move(number, f"traj_{number}")


def flatten_actions(file):
    actions = file["1/actions"][:, 0]
    del file["1/actions"]
    file["1/actions"] = actions


def fewer_actions(file):
    actions = file["1/actions"][:, :5]
    del file["1/actions"]
    file["1/actions"] = actions


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda file: file.attrs.pop("domain_name"), "domain_name"),
        (rename_groups, 'no trajectories: groups "0", "1"'),
        (flatten_actions, "actions of trajectory 1: not (30, D) finite numbers"),
        (fewer_actions, "states or actions of [5, 7] numbers"),
        (lambda file: file["1"].pop("actions"), "a trajectory without actions of squares-push"),
    ],
)
def test_what_is_needed_is_said_in_one_line(change, message, squares, tmp_path, monkeypatch):
    for path in (squares, beside(squares)):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with h5py.File(tmp_path / squares.name, "r+") as file:
        change(file)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        bc.main(parse("bc.py", squares.name))
    text = str(error.value)
    assert text.startswith(f"error: {squares.name}") and message in text and "\n" not in text
    assert not (tmp_path / "runs").exists()


# ---- Episodes in Gymnasium ---------------------------------------------------------------------------------


def balance(path: Path, num_trajectories: int, seed: int) -> Path:
    """InvertedPendulum under weak random actions, until it falls: a few dozen steps."""
    env = gym.make("InvertedPendulum-v5", render_mode="rgb_array", width=64, height=64)
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        file.attrs.update(domain_name="inverted", task_name="pendulum")
        for number in range(num_trajectories):
            env.reset(seed=int(rng.integers(2**31)))
            steps, over = [], False
            while not over:
                action = rng.uniform(-0.1, 0.1, 1)
                picture = env.render()
                _, _, terminated, truncated, _ = env.step(action)
                steps.append((picture, action))
                over = terminated or truncated
            for name, arrays in zip(("obs", "actions"), zip(*steps)):
                file.create_dataset(f"{number}/{name}", data=np.stack(arrays))
    env.close()
    return path


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pendulum")
    balance(folder / "pendulum_val.hdf5", 1, seed=1)
    return balance(folder / "pendulum_train.hdf5", 4, seed=0)


def test_episodes_end_early_each_at_its_time(pendulum, forks):
    env_id = "InvertedPendulum-v5"
    changes = {"eval__num_episodes": 3, "eval__num_workers": 2, "eval__max_steps": 100}
    args = parse("bc.py", pendulum, eval__env_id=env_id, **changes)
    environments, about = bc.find_environments(args, bc.Dataset(args.data, args))
    assert about["env_id"] == env_id
    seen = []

    def policy(obs):
        seen.append(obs.shape)
        return torch.full((len(obs), 1), 0.01)

    returns, film = bc.evaluate(args, environments, policy, Recorder(0))
    assert returns.keys() == {"environment"} and len(set(returns["environment"])) > 1
    assert set(seen) == {(3, 9, 64, 64)}
    assert len(seen) == returns["environment"].max() + 1  # a reward of 1 for each step but the last
    assert film.shape[1:] == (128, 384, 3) and film.std() > 5


@pytest.fixture(scope="module")
def tracked(pendulum, tmp_path_factory) -> tuple[Path, str]:
    """A run as its user starts it, with episodes in Gymnasium and --track: its folder, and what it said."""
    folder = tmp_path_factory.mktemp("tracked")
    environ = {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "WANDB_DIR": str(folder)}
    words = [*short("bc.py", pendulum), "--eval.env-id", "InvertedPendulum-v5", "--track"]
    result = run("bc.py", *words, "--runs", folder / "runs", env=os.environ | environ)
    assert result.returncode == 0, result.stderr
    return only_one(folder / "runs"), result.stdout


def test_a_run_plays_in_a_gymnasium_environment(tracked):
    """What the episodes reach stands under `environment`."""
    folder, said = tracked
    measures = read_results(folder)["budgets"]["2"]
    (played,) = measures["returns/environment"]
    assert 0 < measures["return_mean/environment"] == played <= 20
    assert not any("normalized_score" in name for name in measures)
    assert "eval_2/return_mean/environment" in read_records(folder)[-1]
    assert (folder / "rollout_2.gif").exists()
    assert any(line.startswith("| 2 | environment | ") for line in said.splitlines())


@pytest.mark.parametrize(
    "env_id,message",
    [
        ("HalfCheetah-v5", "its actions are (6,), those of the data (1,)"),
        ("Pendulumm-v1", "Pendulumm"),
        ("Pendulum-v1", "pygame"),  # which it needs to be seen, and nothing before
        ("nowhere:Mine-v0", "nowhere"),
    ],
)
def test_an_environment_that_does_not_fit(env_id, message, pendulum, forks, tmp_path, monkeypatch):
    if message == "pygame" and importlib.util.find_spec("pygame"):
        pytest.skip("this machine has pygame")
    monkeypatch.chdir(tmp_path)
    args = parse("bc.py", pendulum, rehearsal=True, num_labeled_trajectories=(2,), eval__env_id=env_id)
    with pytest.raises(SystemExit) as error:
        bc.main(args)
    assert str(error.value).startswith("error: --eval.env-id") and message in str(error.value)
    assert "\n" not in str(error.value) and not (tmp_path / "runs").exists()


def test_an_environment_and_an_opengl_that_is_none(pendulum, tmp_path):
    words = [*short("bc.py", pendulum), "--eval.env-id", "InvertedPendulum-v5", "--runs", tmp_path / "runs"]
    result = run("bc.py", *words, env=os.environ | {"MUJOCO_GL": "nonsense"})
    assert result.returncode == 1 and not (tmp_path / "runs").exists() and not result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: no OpenGL to render with: MUJOCO_GL=nonsense: ")


# ---- Weights & Biases, offline -----------------------------------------------------------------------------


def read_offline(path: Path):
    """The records of a .wandb file, which is a log of LevelDB's form after seven bytes of its own."""
    content = path.read_bytes()
    position, parts = 7, b""
    while position < len(content):
        left = 2**15 - position % 2**15  # of a block
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<4xHB", content, position)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def read_whole(path: Path) -> list:
    """All records of a run that has ended: its service writes the last ones after the script's end."""
    stop = time.monotonic() + 30
    while True:
        records = list(read_offline(path))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        assert time.monotonic() < stop, "the last record is missing"
        time.sleep(0.1)


def history(records: list) -> list[dict]:
    """What was logged, by name; a film is logged as the names of its parts."""
    lines = [record.history for record in records if record.WhichOneof("record_type") == "history"]
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in line.item}
        for line in lines
    ]


def test_what_weights_and_biases_gets(tracked):
    """Every line of metrics.jsonl, results.json in the summary, the script, its film, a name, group, tags."""
    folder, _ = tracked
    (path,) = folder.parents[1].glob("wandb/offline-run-*/*.wandb")
    records = read_whole(path)
    (begun,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert begun.project == "latent-actions" and begun.display_name == folder.name
    assert begun.run_id == json.loads((folder / "identity.json").read_text())["tracker"]
    assert begun.run_group == "bc inverted-pendulum"
    assert list(begun.tags) == ["bc", "inverted-pendulum", "vanilla"]
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    arguments = json.loads((folder / "args.json").read_text())
    assert config["bc"] == arguments["bc"] and arguments.keys() <= config.keys()
    (metric,) = [record.metric for record in records if record.WhichOneof("record_type") == "metric"]
    assert metric.glob_name == "*" and metric.step_metric == "step"

    logged = history(records)
    lines = read_records(folder)
    assert len(lines) > 5 and [line | found for line, found in zip(lines, logged)] == logged[: len(lines)]
    summary = {}
    for record in records:
        for item in record.summary.update:
            summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
    results = json.loads((folder / "results.json").read_text())
    assert summary["budgets"] == results["budgets"] and summary["task"] == "inverted-pendulum"

    files = path.parent / "files"
    assert (files / "bc.py").read_text() == (folder / "bc.py").read_text()
    film = next(line["rollout_2/path"] for line in logged if "rollout_2/path" in line)
    assert (files / film).read_bytes() == (folder / "rollout_2.gif").read_bytes()


def test_a_continued_run_goes_on_along_its_axis(pendulum, tmp_path, monkeypatch):
    """Two processes' worth of one command: the same id, and steps that go on."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setattr(signal, "signal", lambda *handler: None)  # pytest keeps its own
    args = parse("bc.py", pendulum, num_labeled_trajectories=(2,), track=True, runs=str(tmp_path / "runs"))
    datasets = bc.load_data(args)
    for stop_after in (4, None):
        torch.manual_seed(0)
        actor = torch.nn.Linear(2, 2)
        optim = torch.optim.Adam(actor.parameters())
        current = bc.Run(args, *bc.find_folder(args, *datasets)[:2], datasets[1], {})
        with contextlib.suppress(SystemExit):
            for step in current.steps("actor_2", 9, 16, actor=actor, optim=optim):
                current.log(step, optim, loss=0.5)
                current.stop_asked = step + 1 == stop_after
        wandb.finish()
        current.metrics.close()
    tracker = json.loads(Path(current.folder, "identity.json").read_text())["tracker"]
    runs = [read_whole(path) for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))]
    ids = [record.run.run_id for run in runs for record in run if record.HasField("run")]
    assert len(runs) == 2 and set(ids) == {tracker}
    steps = sorted([line["step"] for line in history(run)] for run in runs)
    assert steps == [[1, 2, 3, 4], [5, 6, 7, 8, 9]]


def test_nobody_is_logged_in(squares, tmp_path):
    """One line, before anything is trained."""
    environ = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "WANDB_DIR": str(tmp_path)}
    for name, value in os.environ.items():
        if not name.startswith("WANDB"):
            environ.setdefault(name, value)
    result = run("bc.py", *short("bc.py", squares), "--track", "--runs", tmp_path / "runs", env=environ)
    (line,) = result.stderr.splitlines()
    assert result.returncode == 1 and line.startswith("error: --track: ") and "wandb login" in line
    (file,) = only_one(tmp_path / "runs").iterdir()
    assert file.name == "metrics.jsonl" and file.stat().st_size == 0

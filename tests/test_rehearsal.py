"""What a rehearsal finds before the first long stage, that it leaves nothing behind, and that digits stay."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import parse

import laom

KINDS_OF_VIDEOS = {"seen_videos": 1, "unseen_videos": 1}  # one episode each


class Begun(Exception):
    """The run itself has begun."""


@pytest.fixture
def begin(forks, short_file, tmp_path, monkeypatch):
    """Begins a run of laom.py in this process, which raises Begun where nothing is found before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(laom, "pick_rendering_backend", lambda: None)  # conftest.py has done it

    def refuse(*args):
        raise Begun

    monkeypatch.setattr(laom, "Run", refuse)

    def begin(data=short_file, **changes):
        changes = {"rehearsal": True, "num_labeled_trajectories": (1, 2)} | changes
        laom.main(parse("laom.py", data, **changes))

    return begin


def test_a_rehearsal_plays_every_stage_and_leaves_nothing(begin, tmp_path, monkeypatch, capsys):
    """No file, no word but one line, no random number; one update a stage, two steps an episode."""
    updates = []
    monkeypatch.setattr(laom, "average_gradients", lambda optim: updates.append(len(optim.param_groups)))
    budgets = []

    def finish_budget(run, *results):
        budgets.append(results)

    monkeypatch.setattr(laom.Rehearsal, "finish_budget", finish_budget)
    state = torch.get_rng_state()
    with pytest.raises(Begun):
        begin(num_labeled_trajectories=(1, 3, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(updates) == 4  # LAM, actor, and the decoders of two budgets
    assert sorted(budget for budget, *_ in budgets) == [1, 3]  # the smallest and the largest
    for _, measures, returns, film in budgets:
        assert {"action_probe_mse/unseen_videos", "policy_mse/unseen_videos"} < measures.keys()
        assert {videos: len(played) for videos, played in returns.items()} == KINDS_OF_VIDEOS
        assert len(film) == 1  # every fourth picture of two steps
    lines = [line for line in capsys.readouterr().out.splitlines() if "rehearsal" in line]
    assert len(lines) == 1 and lines[0].startswith("rehearsal: every stage runs (")
    assert not list(tmp_path.iterdir())


def test_no_rehearsal(begin, short_file, monkeypatch):
    """--no-rehearsal skips it; so does a run that has begun, or finished."""
    rehearsed = []
    monkeypatch.setattr(laom, "rehearse", lambda *args: rehearsed.append(1))
    with pytest.raises(Begun):
        begin(rehearsal=False)
    assert not rehearsed
    with pytest.raises(Begun):
        begin()
    assert len(rehearsed) == 1
    args = parse("laom.py", short_file)
    folder, identity, _ = laom.find_folder(args, *laom.load_data(args))
    for name in ("checkpoint.pt", "results.json"):
        Path(folder).mkdir(parents=True)
        Path(folder, name).write_text("{}")
        Path(folder, "identity.json").write_text(json.dumps({"identity": identity}))
        with pytest.raises(Begun):
            begin()
        shutil.rmtree(folder)
    assert len(rehearsed) == 1


# ---- Planted faults ----------------------------------------------------------------------------------------


def bug_in_a_stage(monkeypatch):
    def train_decoder(args, data, index, actor, stage, run):
        return args.decoder.number_of_updates

    monkeypatch.setattr(laom, "train_decoder", train_decoder)


def bug_in_a_measure(monkeypatch):
    monkeypatch.setattr(laom, "policy_errors", lambda args, policy: {})


def bug_in_the_evaluation(monkeypatch):
    monkeypatch.setattr(laom, "answer_of", lambda pipe: pipe.recv()[:2])


def bug_in_the_policy(monkeypatch):
    """Its actions have another size."""
    decoder = laom.Decoder
    monkeypatch.setattr(laom, "Decoder", lambda cfg, size, num_actions: decoder(cfg, size, 3))


def wrong_size_of_z(monkeypatch):
    actor = laom.Actor
    monkeypatch.setattr(laom, "Actor", lambda cfg, frame_stack, size: actor(cfg, frame_stack, size // 2))


def results_that_json_does_not_take(monkeypatch):
    monkeypatch.setattr(laom, "policy_errors", lambda *args: {"policy_mse": torch.tensor(1.0)})


def a_log_of_what_is_no_number(monkeypatch):
    """As a variant logs the embedding instead of its variance."""
    log = laom.Rehearsal.log

    def log_vector(run, step, optim, **values):
        log(run, step, optim, **values, embedding=torch.zeros(3))

    monkeypatch.setattr(laom.Rehearsal, "log", log_vector)


@pytest.mark.parametrize(
    "plant,error,message",
    [
        (bug_in_a_stage, AttributeError, "number_of_updates"),
        (bug_in_a_measure, TypeError, "positional arguments"),
        (bug_in_the_evaluation, ValueError, "not enough values to unpack"),
        (bug_in_the_policy, RuntimeError, "size of tensor"),
        (wrong_size_of_z, RuntimeError, "size of tensor"),
        (results_that_json_does_not_take, TypeError, "not JSON serializable"),
        (a_log_of_what_is_no_number, RuntimeError, "a Tensor with 3 elements"),
    ],
)
def test_bugs_of_a_variant_are_tracebacks_at_once(plant, error, message, begin, tmp_path, monkeypatch):
    plant(monkeypatch)
    with pytest.raises(error, match=message):
        begin()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "env_id,error,message",
    [
        ("Square-v0", Begun, "^$"),
        ("RGBA-v0", SystemExit, "ValueError: Output array is the wrong shape"),
        ("Grey-v0", SystemExit, "ValueError: Output array has wrong dimensionality"),
        ("Broken-v0", SystemExit, "ZeroDivisionError: of this environment"),
        ("Actions-v0", SystemExit, "^error: --eval.env-id odd_environments:Actions-v0: its actions are"),
        ("Missing-v0", SystemExit, "^error: --eval.env-id odd_environments:Missing-v0: "),
    ],
)
def test_environments_that_do_not_fit(env_id, error, message, begin, tmp_path):
    """What a worker raises is shown with its own traceback; what a user can change is one line."""
    with pytest.raises(error, match=message) as caught:
        begin(eval__env_id=f"odd_environments:{env_id}")
    text = str(caught.value)
    if error is SystemExit:
        assert text.startswith("error: ") and "\n" not in text or text.startswith("Traceback ")
        assert "play_episodes" in text or text.startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_videos_that_are_missing(begin, tmp_path):
    (tmp_path / "videos" / "train").mkdir(parents=True)
    np.save(tmp_path / "videos" / "train" / "0.npy", np.zeros((5, 160, 160, 3), np.uint8))
    with pytest.raises(SystemExit, match=r"^error: no videos \(\*.npy\) in .*/videos/val: "):
        begin(eval__backgrounds=tmp_path / "videos")

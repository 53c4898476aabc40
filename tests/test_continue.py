"""Which folder a command finds: a run to continue, to complete, that has finished, or a new one.

The same command after SIGKILL: test_restart.py.
"""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import h5py
import lives
import numpy as np
import pytest
import torch
from conftest import (
    SCRIPTS,
    beside,
    command,
    only_one,
    parse,
    read_records,
    read_results,
    same_weights,
    weights,
)
from lives import Blow, end, said
from results import is_finished
from test_docs import blocks
from test_restart import assert_same_bits

import bc
import laom_supervised


def live(script: str, argv: list, log: Path, **kwargs) -> list[str]:
    """A life to its end, and what it said."""
    assert end(lives.start(script, argv, log, **kwargs)) == 0, log.read_text()
    return said(log)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def evaluated(folder: Path) -> list[str]:
    """The stages of evaluation in metrics.jsonl, in order."""
    return [record["stage"] for record in read_records(folder) if "step" not in record]


# ---- After the end -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_after_the_end_it_prints_its_table(script, finished, short_file, tmp_path):
    """Nothing is trained, nothing in the folder changes."""
    first = finished(script)
    folder = Path(shutil.copytree(first, tmp_path / "runs" / first.name))
    lines = live(script, [*command(script, short_file), "--runs", tmp_path / "runs"], tmp_path / "log")
    if script != "bc.py":
        assert lines.pop(0).startswith("warning: 1 trajectories are few to fit probes on")
    assert lines[-1] == f"finished: {folder}" and lines[0].startswith("| labelled | videos | return |")
    assert len(lines) == 3 + 2 * len(read_results(folder)["budgets"])
    assert contents(folder) == contents(first)


@pytest.mark.parametrize("script,first,added", [("laom.py", "1", "2"), ("bc.py", "all", "1")])
def test_more_label_budgets_continue_a_run(script, first, added, finished, forks, short_file, tmp_path):
    """The end is that of a run with all of them from the beginning."""
    argv = command(script, short_file, num_labeled_trajectories=(first,))
    live(script, [*argv, "--runs", tmp_path / "runs"], tmp_path / "first")
    folder = only_one(tmp_path / "runs")
    live(script, [*command(script, short_file), "--runs", tmp_path / "runs"], tmp_path / "both")
    expected = finished(script)
    assert only_one(tmp_path / "runs") == folder and folder.name == expected.name
    assert same_weights(expected, folder)
    assert read_results(expected) == read_results(folder)
    steps = [(record["stage"], record["step"]) for record in read_records(folder) if "step" in record]
    assert len(steps) == len({*steps})  # nothing is trained twice
    # probes are fitted behind the largest budget: what had been measured is measured anew
    again = [f"eval_{first}"] if script == "laom.py" else []
    names = [f"eval_{first}", *again, f"eval_{added}"]
    assert evaluated(folder) == [name for name in names for _ in range(2)]


def test_other_episodes_evaluate_anew(finished, short_file, tmp_path):
    """With the weights as they are. results.json says with what."""
    first = finished("laom_supervised.py")
    folder = Path(shutil.copytree(first, tmp_path / "runs" / first.name))
    argv = command("laom_supervised.py", short_file, eval__num_episodes=2, eval__max_steps=10)
    live("laom_supervised.py", [*argv, "--runs", tmp_path / "runs"], tmp_path / "log")
    expected = contents(first)
    found = contents(folder)
    assert found.keys() == expected.keys()
    changed = {name for name in found if found[name] != expected[name]}
    assert changed == {"args.json", "metrics.jsonl", "results.json", "rollout_2.gif"}
    one = read_results(first)["budgets"]["2"]
    other = read_results(folder)["budgets"]["2"]
    assert other["evaluation"] == one["evaluation"] | {"num_episodes": 2, "max_steps": 10}
    for videos in ("seen_videos", "unseen_videos"):
        assert len(one[f"returns/{videos}"]) == 1 and len(other[f"returns/{videos}"]) == 2
    kept = [name for name in one if "return" not in name and "score" not in name and name != "evaluation"]
    assert kept and all(one[name] == other[name] for name in kept)
    assert found["metrics.jsonl"].startswith(expected["metrics.jsonl"])
    assert evaluated(folder) == 4 * ["eval_2"]


def test_only_a_later_stage_anew(finished, tmp_path):
    """By the lines of docs/runs.md: a copy without some files is another run, which makes them again."""
    first = finished("laom.py")
    shutil.copytree(first, tmp_path / "runs" / "<run>")
    (block,) = [block for block in blocks("docs/runs.md", "bash") if "runs/wide" in block]
    copy, remove, continue_it = block.splitlines()
    for line in (copy, remove):
        subprocess.run(["bash", "-c", line.replace("<run>", "'<run>'")], cwd=tmp_path, check=True)
    folder = tmp_path / "runs" / "wide"
    python, script, *words = continue_it.split()
    assert (python, script) == ("python", "runs/wide/laom.py")
    lines = live(folder / "laom.py", [*words, "--bc.num-epochs", 1], tmp_path / "log")
    assert lines[-1] == f"finished: {folder}"
    one = weights(first)
    other = weights(folder)
    assert one.keys() == other.keys()
    for name in one:
        if name.startswith("lam.pt"):
            assert one[name].equal(other[name])
    channels = other["actor.pt/encoder.0.weight"].shape[0]
    assert channels == 4 * one["actor.pt/encoder.0.weight"].shape[0]
    assert {record["stage"] for record in read_records(folder)} == {
        *("actor", "decoder_1", "eval_1", "decoder_2", "eval_2")
    }
    before = read_results(first)["budgets"]["2"]
    after = read_results(folder)["budgets"]["2"]
    for name in before:
        if "probe" in name:
            assert before[name] == after[name]
    assert before["policy_mse/unseen_videos"] != after["policy_mse/unseen_videos"]
    args = json.loads((folder / "args.json").read_text())
    assert args["bc"]["encoder_scale"] == 4 and args["lam"]["num_epochs"] == 3
    identities = [json.loads((run / "identity.json").read_text()) for run in (first, folder)]
    assert all(identities[0][name] != identities[1][name] for name in ("identity", "tracker"))


# ---- In the midst of it ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(forks, short_file, tmp_path_factory) -> Path:
    """The folder of a run of bc.py that SIGTERM has stopped in its second budget."""
    folder = tmp_path_factory.mktemp("stopped")
    argv = [*command("bc.py", short_file), "--runs", folder / "runs"]
    blow = Blow("actor_1", "update", count=5, what=signal.SIGTERM)
    assert end(lives.start("bc.py", argv, folder / "log", blow=blow, stages_only=True)) == 1
    return only_one(folder / "runs")


def test_a_stage_that_was_stopped_goes_on_first(stopped, short_file, tmp_path):
    """Also where others are to be measured anew or were added: no checkpoint of theirs replaces its own."""
    folder = Path(shutil.copytree(stopped, tmp_path / "runs" / stopped.name))
    step = torch.load(folder / "checkpoint.pt")["step"]
    sizes = {"eval__num_episodes": 2, "num_labeled_trajectories": (2, "all", 1)}
    argv = [*command("bc.py", short_file, **sizes), "--runs", tmp_path / "runs"]
    blow = Blow("actor_1", "update", checkpoints=False)
    life = lives.start("bc.py", argv, tmp_path / "log", blow=blow, stages_only=True)
    assert end(life) == -signal.SIGKILL
    checkpoint = torch.load(folder / "checkpoint.pt")
    assert (checkpoint["stage"], checkpoint["step"]) == ("actor_1", step) and step > 0
    live("bc.py", argv, tmp_path / "log", stages_only=True)
    steps = [(record["stage"], record["step"]) for record in read_records(folder) if "step" in record]
    assert len(steps) == len({*steps})
    assert [*dict.fromkeys(stage for stage, _ in steps)] == ["actor_all", "actor_1", "actor_2"]
    measured = read_results(folder)["budgets"].values()
    assert [measures["evaluation"]["num_episodes"] for measures in measured] == [2, 2, 2]


def test_a_budget_may_be_given_up(stopped, short_file, tmp_path):
    """One that was asked for by mistake: the run has finished without it."""
    folder = Path(shutil.copytree(stopped, tmp_path / "runs" / stopped.name))
    argv = command("bc.py", short_file, num_labeled_trajectories=("all",))
    for _ in range(2):
        lines = live("bc.py", [*argv, "--runs", tmp_path / "runs"], tmp_path / "log", stages_only=True)
        assert lines[-1] == f"finished: {folder}" and not (folder / "checkpoint.pt").exists()
        assert list(read_results(folder)["budgets"]) == ["all"] and is_finished(folder)


def move(path: Path, folder: Path) -> Path:
    """A copy of a training file in another folder, with its evaluation file but without its videos."""
    folder.mkdir()
    shutil.copy(beside(path), folder / "other_val.hdf5")
    return Path(shutil.copy(path, folder / "other_train.hdf5"))


def videos_of(path: Path) -> Path:
    with h5py.File(path) as file:
        return path.parent / file.attrs["backgrounds"]


def test_data_may_move(stopped, unbroken, short_file, tmp_path):
    """To a node's own disk, under other names."""
    moved = move(short_file, tmp_path / "node")
    expected = unbroken("bc.py", command("bc.py", short_file), stages_only=True)
    folder = Path(shutil.copytree(stopped, tmp_path / "runs" / stopped.name))
    argv = [*command("bc.py", moved, eval__backgrounds=videos_of(short_file)), "--runs", tmp_path / "runs"]
    live("bc.py", argv, tmp_path / "log", stages_only=True)
    assert only_one(tmp_path / "runs") == folder
    assert_same_bits(expected(), folder)
    assert json.loads((folder / "args.json").read_text())["data"] == [str(moved)]


def test_its_own_copy_continues_a_run_wherever_it_lies(stopped, unbroken, short_file, tmp_path):
    """With args.json beside it. Only what belongs to the machine is taken anew, and may be given."""
    expected = unbroken("bc.py", command("bc.py", short_file), stages_only=True)
    folder = Path(shutil.copytree(stopped, tmp_path / "moved here"))
    lines = live(
        folder / "bc.py", ["--device", "cpu", "--eval.num-workers", 2], tmp_path / "log", stages_only=True
    )
    assert lines[-1] == f"finished: {folder}"
    assert_same_bits(expected(), folder)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "log", folder]
    lines = live(folder / "bc.py", [], tmp_path / "again", stages_only=True)
    assert lines[-1] == f"finished: {folder}" and len(lines) == 7  # its table alone


def test_a_folder_is_of_one_run(stopped, short_file, tmp_path):
    """Other arguments, an edit, or a lost identity.json are refused in one line, by either command."""
    folder = Path(shutil.copytree(stopped, tmp_path / "runs" / stopped.name))
    files = contents(folder)

    def refused(script, words, name):
        (folder / name).write_bytes(edited[name])
        log = tmp_path / "log"
        assert end(lives.start(script, words, log)) == 1
        line = said(log)[-1]
        assert line.startswith(
            f"error: {folder} has a run of other arguments, script or data: undo the change"
        )
        assert contents(folder) == files | edited
        (folder / name).write_bytes(files[name])

    edited = {"bc.py": files["bc.py"]}
    refused(folder / "bc.py", ["--seed", "3"], "bc.py")
    edited = {"bc.py": files["bc.py"] + b"# another\n"}
    refused(folder / "bc.py", [], "bc.py")
    edited = {"identity.json": b"{}"}
    refused(folder / "bc.py", ["--seed", "3"], "identity.json")
    edited = {"identity.json": b'{"identity": "01234567"}'}
    command_line = [*command("bc.py", short_file), "--runs", folder.parent]
    refused("bc.py", command_line, "identity.json")


# ---- Another folder ----------------------------------------------------------------------------------------

NOT_COUNTED = {"data", "labeled_data", "eval_data", "num_labeled_trajectories", "runs", "rehearsal", "track"}
NOT_COUNTED |= {"checkpoint_minutes", "device", "data_device", "compile", "log_interval"}


def other_value(value):
    if isinstance(value, tuple):
        return (*value, 1)
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}_other"
    return (value or 0) + 1


def leaves(args):
    """What holds each argument, its flag's name, and its own."""
    for name, value in vars(args).items():
        if dataclasses.is_dataclass(value):
            for holder, path, own_name in leaves(value):
                yield holder, f"{name}.{path}", own_name
        else:
            yield args, name, name


def test_arguments_that_decide_the_result_make_another_run(short_file, tmp_path):
    """All but the listed ones, and those of the evaluation."""
    args = parse("laom_supervised.py", short_file, runs=str(tmp_path))
    datasets = laom_supervised.load_data(args)
    _, own, _ = laom_supervised.find_folder(args, *datasets)
    counted = set()
    names = set()
    for holder, path, name in leaves(args):
        value = getattr(holder, name)
        setattr(holder, name, other_value(value))
        _, identity, _ = laom_supervised.find_folder(args, *datasets)
        setattr(holder, name, value)
        names.add(path)
        counted |= {path} if identity != own else set()
    of_evaluation = {path for path in names if path.startswith("eval.")}
    assert names > NOT_COUNTED and len(of_evaluation) == 6
    assert names - counted == NOT_COUNTED | of_evaluation
    assert {"precision", "seed", "raw_actions", "trajectories_per_file", "lam.labeled_batch_size"} < counted


def find(argv: list[str]) -> str:
    """The name of the folder that a command line of bc.py finds."""
    args = bc.parse_args(argv)
    folder, identity, _ = bc.find_folder(args, *bc.load_data(args))
    assert folder == f"{args.runs}/cheetah-run__bc__{args.seed}__{identity}" and len(identity) == 8
    return folder


@pytest.fixture
def argv(short_file, tmp_path) -> list[str]:
    return [*command("bc.py", short_file), "--runs", str(tmp_path / "runs")]


def change_frame(file):
    file["0/obs"][0, 0, 0, 0] ^= 1


def change_action(file):
    file["1/actions"][20, 0] += 0.01


def change_attribute(file):
    file.attrs["action_noise"] = 0.5


@pytest.mark.parametrize("change", [change_frame, change_action, change_attribute])
@pytest.mark.parametrize("role", ["--data", "--labeled-data", "--eval-data"])
def test_other_data_make_another_run(role, change, argv, short_file, tmp_path):
    """In whatever role. That a file lies elsewhere does not."""
    roles = {"--data": short_file, "--labeled-data": short_file, "--eval-data": beside(short_file)}
    words = [word for name, path in roles.items() for word in (name, str(path))]
    argv = [*argv, "--num-labeled-trajectories", "1", *words]
    own = find(argv)
    moved = Path(shutil.copy(roles[role], tmp_path / "moved.hdf5"))
    argv += [role, str(moved)]
    assert find(argv) == own
    with h5py.File(moved, "r+") as file:
        change(file)
    assert find(argv) != own


def test_an_edited_script_makes_another_run(argv, monkeypatch):
    own = find(argv)
    monkeypatch.setattr(bc, "SOURCE", bc.SOURCE + b"# a comment\n")
    assert find(argv) != own


def test_an_unfinished_sibling_is_named(argv, capsys):
    """Where a command begins another run: an edited comment does not lose a night without a word."""
    folder = find(argv)
    sibling = Path(folder).with_name(f"{folder[:-8]}01234567".rpartition("/")[2])
    of_another_seed = sibling.with_name(sibling.name.replace("__0__", "__1__"))
    for path in (sibling, of_another_seed):
        path.mkdir(parents=True)
        (path / "checkpoint.pt").touch()
    capsys.readouterr()
    find(argv)
    line = f"unfinished, of other arguments, script or data; to continue it: python {sibling}/bc.py\n"
    assert capsys.readouterr().out == line

    os.makedirs(folder)  # this one has begun
    find(argv)
    (sibling / "checkpoint.pt").unlink()  # the other has finished
    os.rmdir(folder)
    find(argv)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_resume_is_gone(script, capsys):
    module = __import__(script.removesuffix(".py"))
    for words in (["--resume", "runs/any"], ["demo", "--resume", "runs/any"]):
        with pytest.raises(SystemExit) as error:
            module.parse_args(words)
        expected = "error: --resume is gone: the same command continues a run, or its own copy does"
        assert str(error.value) == expected


# ---- What is undefined -------------------------------------------------------------------------------------


def test_what_is_undefined_is_null(forks, short_file, tmp_path):
    """Where all actions of the evaluation file are the same, errors have no variance to be measured by."""
    moved = move(short_file, tmp_path / "data")
    with h5py.File(beside(moved), "r+") as file:
        for name in file:
            file[f"{name}/actions"][:] = 0.5
    changes = {"lam__num_epochs": 1, "bc__num_epochs": 1, "decoder__num_updates": 9}
    changes |= {"num_labeled_trajectories": (1,), "eval__backgrounds": videos_of(short_file)}
    argv = [*command("laom.py", moved, **changes), "--runs", tmp_path / "runs"]
    lines = live("laom.py", [*argv, "--rehearsal"], tmp_path / "log")
    text = (only_one(tmp_path / "runs") / "results.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    measures = json.loads(text)["budgets"]["1"]
    for name in ("policy_mse_over_var", "action_probe_mse_over_var", "blind_probe_mse_over_var"):
        assert measures[f"{name}/unseen_videos"] is None
    assert np.isfinite(measures["policy_mse/unseen_videos"])
    assert np.isfinite(measures["action_probe_mse_over_var/seen_videos"])
    (row,) = [line for line in lines if line.startswith("| 1 | unseen_videos |")]
    assert row.split(" | ")[4] == "–" and "nan" not in row and "inf" not in row

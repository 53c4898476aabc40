"""What the pages of docs/ show is so: the diffs of the variants; the programs that write own data are run as
they stand there."""

import difflib
import json
import os
import re
import subprocess

import h5py
import numpy as np
import pytest
from conftest import ROOT, only_one, start

import laom


def blocks(page: str, language: str) -> list[str]:
    """The page's blocks of code in a language."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def execute(*words, folder):
    """A program in a folder, where it finds the scripts."""
    process = start(*words, cwd=folder, stdout=subprocess.PIPE, env=os.environ | {
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MUJOCO_GL": os.environ["MUJOCO_GL"],
    })  # fmt: skip
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output


def changed_lines(lines) -> list[str]:
    return [line for line in lines if line[:1] in ("+", "-")]


@pytest.mark.parametrize("number,original,variant", [
    (0, "lapo.py", "variants/masklam.py"),
    (1, "laom.py", "variants/laom_fsq.py"),
])  # fmt: skip
def test_variants_page_shows_the_real_diffs(number, original, variant):
    """Of the second one all but the docstring."""
    one, other = ((ROOT / script).read_text() for script in (original, variant))
    if number == 1:
        one, other = (source.partition("\nimport ")[2] for source in (one, other))
    diff = list(difflib.unified_diff(one.splitlines(), other.splitlines(), lineterm="", n=0))[2:]
    assert changed_lines(blocks("variants.md", "diff")[number].splitlines()) == changed_lines(diff)


def test_own_data_from_its_page_to_the_table(tmp_path):
    """No environment, no OpenGL; 7 dimensions of action and any range."""
    program, _ = blocks("data.md", "python")
    assert len(program.splitlines()) <= 15
    (tmp_path / "write.py").write_text(program)
    execute("write.py", folder=tmp_path)
    words = ["demo", "--data", "squares-push__train.hdf5", "--num-labeled-trajectories", "2"]
    words += ["--lam.num-epochs", "1", "--bc.num-epochs", "1", "--decoder.num-updates", "20"]
    words += ["--lam.latent-action-dim", "32"]
    words += ["--device", "cpu", "--no-compile", "--precision", "fp32"]
    environ = os.environ | {"MUJOCO_GL": "nonsense", "OMP_NUM_THREADS": "1"}
    process = start(ROOT / "lapo.py", *words, cwd=tmp_path, stdout=subprocess.PIPE, env=environ)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.startswith("no episodes: squares-push is no task of dm_control's suite")
    budget = json.loads((only_one(tmp_path / "runs") / "results.json").read_text())["budgets"]["2"]
    assert budget.keys() == {"action_mse", "action_mse_over_var"}
    rows = [line.split(" | ") for line in output.splitlines() if line.startswith("| 2 |")]
    assert [row[:5] for row in rows] == [
        ["| 2", videos, "–", "–", f"{budget['action_mse_over_var']:.3f}"]
        for videos in ("seen_videos", "unseen_videos")
    ]
    with h5py.File(tmp_path / "squares-push__train.hdf5") as file:
        actions = np.concatenate([file[str(i)]["actions"][:] for i in range(6)])
    data = laom.Dataset((str(tmp_path / "squares-push__train.hdf5"),), laom.Args(device="cpu"))
    assert actions.shape == (600, 7) and abs(actions).max() > 2 and np.array_equal(data.actions, actions)


def test_gymnasium_data_as_its_page_collects_them(tmp_path):
    """With fewer episodes. How they are played: tests of --eval.env-id."""
    _, program = blocks("data.md", "python")
    for seeds, fewer in (("range(20)", "range(2)"), ("range(20, 24)", "range(20, 21)")):
        assert program.count(seeds) == 1
        program = program.replace(seeds, fewer)
    (tmp_path / "collect.py").write_text(program)
    execute("collect.py", folder=tmp_path)
    data = laom.Dataset((str(tmp_path / "gym-reacher__train.hdf5"),), laom.Args(device="cpu"))
    assert data.task == "gym-reacher" and data.actions.shape == (100, 2) and len(data.shuffle) == 2
    obs, next_obs = data.observe_pair(data.transitions(data.shuffle))
    assert obs.std() > 0.1 and (obs != next_obs).float().mean() > 0.005  # the arm is small

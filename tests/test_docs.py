"""What README and docs/ show is so: commands are understood, programs run as they are, the diff is real."""

import difflib
import importlib
import os
import re
import shlex
import subprocess
from pathlib import Path

import h5py
import lives
import numpy as np
import pytest
from conftest import ROOT, only_one, read_results, start

import laom


def blocks(page: str, language: str) -> list[str]:
    """The page's blocks of code in a language."""
    text = (ROOT / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


SCRIPTS = ("lapo.py", "laom.py", "laom_supervised.py", "idm.py", "bc.py", "collect_data.py")
SCRIPTS += ("variants/lapo_vq.py", "variants/masklam.py")


def commands(page: str) -> list[list[str]]:
    """The words of each command of the page that begins one of the scripts."""
    found = []
    for block in blocks(page, "bash"):
        for line in re.split(r"\n| && ", block.replace("\\\n", " ")):
            words = shlex.split(re.sub(r"…|\$\w+", "1", line), comments=True)
            if words[:1] == ["python"] and words[1] in SCRIPTS:
                found.append(words[1:])
    return found


PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood(page):
    shown = commands(page)
    assert shown or page in ("docs/experts.md", "docs/deviations.md")
    for script, *words in shown:
        importlib.import_module(Path(script).stem).parse_args(words)


def execute(program: str, folder: Path):
    """A program in a folder, where it finds the scripts: what it printed."""
    (folder / "program.py").write_text(program)
    environ = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MUJOCO_GL": os.environ["MUJOCO_GL"]}
    process = start("program.py", cwd=folder, stdout=subprocess.PIPE, env=os.environ | environ)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output


def changed_lines(lines) -> list[str]:
    return [line for line in lines if line[:1] in ("+", "-")]


def test_variants_page_shows_the_real_diff():
    one, other = ((ROOT / script).read_text().splitlines() for script in ("lapo.py", "variants/masklam.py"))
    diff = list(difflib.unified_diff(one, other, lineterm="", n=0))[2:]
    (shown,) = blocks("docs/variants.md", "diff")
    assert changed_lines(shown.splitlines()) == changed_lines(diff)


def test_own_data_from_its_page_to_the_table(forks, tmp_path):
    """No environment; 7 dimensions of action and any range."""
    program, _ = blocks("docs/data.md", "python")
    assert len(program.splitlines()) <= 15
    execute(program, tmp_path)
    path = tmp_path / "squares-push__train.hdf5"
    words = "--num-labeled-trajectories 2 --lam.num-epochs 1 --bc.num-epochs 1 --decoder.num-updates 20"
    words += " --lam.latent-action-dim 32 --device cpu --no-compile --precision fp32 --no-rehearsal"
    argv = ["demo", "--data", path, *words.split(), "--runs", tmp_path / "runs"]
    assert lives.end(lives.start("lapo.py", argv, tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    lines = lives.said(tmp_path / "log")
    assert lines[1].startswith("no episodes: squares-push is no task of dm_control's suite")
    measures = read_results(only_one(tmp_path / "runs"))["budgets"]["2"]
    assert not any("return" in name for name in measures)
    error = f"{measures['policy_mse_over_var/unseen_videos']:.3f}"
    rows = [line.split(" | ")[:5] for line in lines if line.startswith("| 2 |")]
    assert rows == [["| 2", videos, "–", "–", error] for videos in ("seen_videos", "unseen_videos")]
    with h5py.File(path) as file:
        actions = np.concatenate([file[str(i)]["actions"][:] for i in range(6)])
    data = laom.Dataset((str(path),), laom.Args(device="cpu"))
    assert actions.shape == (600, 7) and abs(actions).max() > 2 and np.array_equal(data.actions, actions)


def test_gymnasium_data_as_its_page_collects_them(tmp_path):
    """With fewer episodes. How they are played: tests of --eval.env-id."""
    _, program = blocks("docs/data.md", "python")
    for seeds, fewer in (("range(20)", "range(2)"), ("range(20, 24)", "range(20, 21)")):
        assert program.count(seeds) == 1
        program = program.replace(seeds, fewer)
    execute(program, tmp_path)
    data = laom.Dataset((str(tmp_path / "gym-reacher__train.hdf5"),), laom.Args(device="cpu"))
    assert data.task == "gym-reacher" and data.actions.shape == (100, 2) and len(data.shuffle) == 2
    obs, next_obs = data.observe_pair(data.transitions(data.shuffle))
    assert obs.std() > 0.1 and (obs != next_obs).float().mean() > 0.005  # the arm is small


def test_a_trained_model_in_ten_lines(finished, tmp_path):
    (program,) = blocks("docs/runs.md", "python")
    assert program.count("runs/<run>") == program.count("decoder_8") == 1
    program = program.replace("runs/<run>", str(finished("laom.py"))).replace("decoder_8", "decoder_2")
    program += "for x in (latent_action, action, planned, expected):\n    print(*x.shape)\n"
    assert execute(program, tmp_path).splitlines() == ["59 32", "59 6", "59 32", "59 2048"]

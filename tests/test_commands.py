"""Every script from the command line: help that teaches, one clear line for bad input, and only the allowed packages."""

import ast
import os
import subprocess
import sys

import pytest
from conftest import ROOT, run

SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))
BENCHMARKS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "benchmark").glob("*.py"))
ALLOWED = {"torch", "torchvision", "numpy", "tyro", "wandb", "h5py", "dm_control", "mujoco", "shimmy", "gymnasium", "tqdm"}
ALLOWED |= {"matplotlib", "PIL", "imageio", "absl"}  # the last three come with torchvision, shimmy and dm_control


@pytest.mark.parametrize("script", SCRIPTS + BENCHMARKS)
def test_help(script):
    result = run(script, "--help")
    assert result.returncode == 0 and len(result.stdout) > 500, result.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_both_presets_show_their_arguments(script):
    for preset in ("paper", "demo"):
        result = run(script, preset, "--help")
        assert result.returncode == 0 and "--seed" in result.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_only_allowed_packages(script):
    tree = ast.parse((ROOT / script).read_text())
    imports = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    imports += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    roots = {name.split(".")[0] for name in imports}
    assert roots <= ALLOWED | set(sys.stdlib_module_names), roots


@pytest.mark.parametrize("script", SCRIPTS)
def test_length(script):
    assert len((ROOT / script).read_text().splitlines()) <= 1000


@pytest.mark.parametrize(
    "flags,message",
    [
        (["--task", "fish-swim"], "fish-swim"),
        (["--difficulty", "nightmare"], "nightmare"),
        (["--backgrounds", "nowhere"], "error: --backgrounds nowhere: no such folder"),
        (["--expert", "nobody.npz"], "error: no expert nobody.npz"),
        (["--expert", "pyproject.toml"], "error: pyproject.toml is not an expert file"),
        (["--num-trajectories", "many"], "many"),
    ],
)
def test_bad_input(flags, message, tmp_path):
    result = run("collect_data.py", "demo", "--output", tmp_path / "data", *flags, cwd=ROOT)
    assert result.returncode != 0 and message in result.stdout + result.stderr and "Traceback" not in result.stderr
    assert not list(tmp_path.glob("data/*.hdf5"))


def test_empty_background_folder(tmp_path):
    (tmp_path / "videos").mkdir()
    result = run("collect_data.py", "--backgrounds", tmp_path / "videos", "--output", tmp_path / "data")
    assert result.returncode != 0 and "no folders of frames" in result.stderr and "Traceback" not in result.stderr


def test_no_opengl_names_the_package(tmp_path):
    """Where neither EGL nor OSMesa starts, one line says which Debian package to install."""
    broken = "import sys\nsys.modules['mujoco.egl'] = sys.modules['mujoco.osmesa'] = None\n"  # importing them fails
    (tmp_path / "sitecustomize.py").write_text(broken)
    environment = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"} | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, ROOT / "collect_data.py", "demo", "--output", tmp_path / "data"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode != 0 and "apt-get install libegl1" in result.stderr and "Traceback" not in result.stderr

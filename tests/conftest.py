"""Small real data, collected once by the shipped script: the cheetah expert in MuJoCo before five short procedural videos."""

import contextlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

if importlib.util.find_spec("torch"):  # test_copies.py also runs where the requirements are not installed
    with contextlib.suppress(ImportError):
        import triton  # noqa: F401 before a test renders: the other way round, Mesa's llvmpipe and triton's LLVM crash the process

    import collect_data

    collect_data.pick_rendering_backend()

TINY = [
    *("demo", "--num-labeled-trajectories", "2", "--log-interval", "5", "--eval.num-episodes", "2", "--eval.num-workers", "2"),
    *("--lam.num-epochs", "1", "--lam.batch-size", "128", "--lam.labeled-batch-size", "16", "--lam.latent-action-dim", "16"),
    *("--lam.act-head-dim", "32", "--lam.obs-head-dim", "32", "--bc.num-epochs", "1", "--bc.batch-size", "128"),
    *("--bc.encoder-scale", "1", "--decoder.num-updates", "20", "--decoder.batch-size", "64"),
]


def run(*command, timeout: int = 600, **kwargs) -> subprocess.CompletedProcess:
    """Runs a script of the repository as a user would, and captures what it says."""
    command = [sys.executable, ROOT / command[0], *map(str, command[1:])]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, **kwargs)


@pytest.fixture(scope="session")
def frames(tmp_path_factory) -> Path:
    """A folder of folders of frames: three videos for training, two for evaluation."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("frames")
    for video in range(5):
        (folder / f"video{video}").mkdir()
        for i, frame in enumerate(collect_data.dead_leaves_video(video, num_frames=6)):
            Image.fromarray(frame).save(folder / f"video{video}" / f"{i:05d}.png")
    return folder


@pytest.fixture(scope="session")
def collect_command(frames) -> list:
    return ["collect_data.py", "--num-trajectories", 3, "--num-eval-trajectories", 1, "--num-workers", 2, "--backgrounds", frames]


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory, collect_command) -> Path:
    folder = tmp_path_factory.mktemp("data")
    result = run(*collect_command, "--output", folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="session")
def train_file(data_folder) -> Path:
    return data_folder / "cheetah-run__scale_easy_video_hard__train.hdf5"

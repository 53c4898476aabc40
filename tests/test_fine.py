"""What public reports of neighbouring projects found, and what was right here from the start: it stays so."""

import contextlib
import os
import socket
import subprocess

import h5py
import imageio.v3 as imageio
import numpy as np
import pytest
from conftest import ROOT, command, only_one, parse, start
from test_golden import draw_data

import bc
import collect_data


def frames_of(path) -> np.ndarray:
    data = bc.Dataset([str(path)], parse("bc.py", path))
    return data.observe(data.transitions(data.shuffle)).float().numpy()


def test_a_user_block(tmp_path):
    """Bytes before the file's own: frames are still read at the right place."""
    plain = tmp_path / "plain__train.hdf5"
    blocked = tmp_path / "blocked__train.hdf5"
    draw_data(plain)
    with h5py.File(plain) as source, h5py.File(blocked, "w", userblock_size=1024) as file:
        file.attrs.update(source.attrs)
        for name in source:
            source.copy(name, file)
    assert np.array_equal(frames_of(blocked), frames_of(plain))


@pytest.mark.parametrize("codec,suffix", [
    ("libx264", "mp4"), ("libx265", "mp4"), ("libvpx-vp9", "webm"), ("mpeg4", "avi"),
])  # fmt: skip
def test_the_last_frames_of_a_video(codec, suffix, tmp_path):
    """Codecs that hold frames back give all of them."""
    path = tmp_path / f"video.{suffix}"
    levels = np.linspace(20, 230, 31).astype(np.uint8)
    pictures = np.broadcast_to(levels[:, None, None, None], (31, 64, 64, 3))
    imageio.imwrite(path, pictures, fps=30, plugin="pyav", codec=codec)
    found = [frame.mean() for frame in collect_data.read_video(path)]
    assert len(found) == 31 and np.abs(np.array(found) - levels).max() < 6


def test_two_ranks_in_a_folder_of_any_name_on_a_full_machine(tmp_path):
    """Unicode and spaces, data that cannot be written, no home; torchrun's usual port is taken."""
    folder = tmp_path / "Größe 64 × 64"
    folder.mkdir()
    for split in ("train", "val"):
        draw_data(folder / f"drawn__{split}.hdf5")
        (folder / f"drawn__{split}.hdf5").chmod(0o444)
    folder.chmod(0o555)
    runs = tmp_path / "runs of today"
    argv = command("bc.py", folder / "drawn__train.hdf5", num_labeled_trajectories=(2,), bc__num_updates=5)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HOME": "/proc/none"}
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # or by somebody else
            taken.bind(("localhost", 29500))
            taken.listen()
        words = [*torchrun, ROOT / "bc.py", *argv, "--runs", runs]
        process = start(*words, stdout=subprocess.PIPE, env=environment)
        _, errors = process.communicate(timeout=240)
    folder.chmod(0o755)
    assert process.returncode == 0, errors
    assert (only_one(runs) / "actor_2.pt").exists()

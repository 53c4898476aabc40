"""What a terminal, a locale, a launcher or a number does to a run: none of them ends it silently wrong."""

import os
import resource
import signal
import subprocess

import h5py
import lives
import pytest
from conftest import ROOT, command, only_one, parse, start
from lives import Blow, end, said
from test_golden import draw_data

import bc
import laom


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A training file and one for evaluation of a task that nobody plays."""
    folder = tmp_path_factory.mktemp("drawn")
    for split in ("train", "val"):
        draw_data(folder / f"drawn__{split}.hdf5")
    return folder / "drawn__train.hdf5"


def small(path, tmp_path, *words) -> list[str]:
    sizes = {"lam__num_epochs": 1, "bc__num_epochs": 1, "decoder__num_updates": 3}
    return [
        *command("laom.py", path, num_labeled_trajectories=(2,), **sizes),
        "--runs",
        str(tmp_path),
        *words,
    ]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_closed_terminal_and_slurms_warning_leave_a_checkpoint(number, drawn, forks, tmp_path):
    log = tmp_path / "log"
    runs = tmp_path / "runs"
    process = lives.start(
        "laom.py", small(drawn, runs), log, blow=Blow("lam", "update", count=5, what=number)
    )
    assert end(process) == 1 and said(log)[-1].startswith("stopped; the same command continues")
    assert (only_one(runs) / "checkpoint.pt").exists()


def test_output_that_nobody_reads_ends_no_run(drawn, tmp_path):
    """As with `| head -1`: the pipe is closed behind the first line."""
    process = start(ROOT / "laom.py", *small(drawn, tmp_path), stdout=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=240) == 0
    assert not (only_one(tmp_path) / "checkpoint.pt").exists()


def test_a_locale_without_our_letters_a_stray_rank_and_a_large_seed(long_name, tmp_path):
    """Without --track nothing of Weights & Biases is touched, whatever the task's name."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii", "RANK": "3"}
    words = small(long_name, tmp_path / "runs", "--seed", 10**18)
    process = start(ROOT / "laom.py", *words, stdout=subprocess.PIPE, env=environment, cwd=tmp_path)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert not (tmp_path / "wandb").exists()
    assert "| 2 | seen_videos | ? | ? |" in output  # the table has dashes there
    # a stray RANK without WORLD_SIZE is not that of a process that writes nothing
    assert (only_one(tmp_path / "runs") / "laom.py").read_bytes() == (ROOT / "laom.py").read_bytes()


@pytest.mark.parametrize("words,message", [
    (["--seed", str(2**63)], "error: --seed 9223372036854775808: too small, too large, or not finite"),
    (["--data"], "error: --data: nothing is given"),
    (["--num-labeled-trajectories"], "error: --num-labeled-trajectories: nothing is given"),
])  # fmt: skip
def test_numbers_and_lists_that_cannot_be(words, message, drawn, tmp_path):
    with pytest.raises(SystemExit, match=message):
        laom.parse_args(small(drawn, tmp_path, *words))


def test_pictures_of_0_to_1(drawn, tmp_path):
    path = tmp_path / "dark__train.hdf5"
    path.write_bytes(drawn.read_bytes())
    with h5py.File(path, "a") as file:
        for trajectory in file.values():
            trajectory["obs"][...] = trajectory["obs"][:] // 128
    with pytest.raises(SystemExit, match="dark__train.hdf5: obs are 0 to 1, not 0 to 255"):
        laom.Dataset([str(path)], parse("laom.py", drawn))


def test_too_many_open_files(drawn, tmp_path):
    """The line has the remedy."""
    paths = [tmp_path / f"{number}__train.hdf5" for number in range(30)]
    for path in paths:
        path.write_bytes(drawn.read_bytes())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        with pytest.raises(
            SystemExit, match="Too many open files: raise ulimit -n or -v, or merge the files"
        ):
            laom.Dataset([str(path) for path in paths], parse("laom.py", drawn))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_batches_larger_than_the_data_name_their_flag(drawn):
    args = parse("laom.py", drawn, lam__batch_size=400)
    with pytest.raises(SystemExit, match="--lam.batch-size needs 400 transitions: 8 .* have 312"):
        laom.load_data(args)
    laom.load_data(parse("laom.py", drawn, decoder__batch_size=4000))  # drawn with replacement: it needs none


def test_all_labels_are_those_of_the_data(drawn):
    """Which may be fewer than the labelled file has."""
    args = parse("bc.py", drawn, num_labeled_trajectories=("all",), trajectories_per_file=1)
    args.bc.batch_size = 300
    with pytest.raises(SystemExit, match="--bc.batch-size needs 300 transitions: 1 .* have 39"):
        bc.load_data(args)
    args.trajectories_per_file = None
    bc.load_data(args)


@pytest.fixture
def long_name(drawn, tmp_path):
    """A training file of a task whose name Weights & Biases would refuse."""
    for split in ("train", "val"):
        path = tmp_path / f"long__{split}.hdf5"
        path.write_bytes(drawn.with_name(f"drawn__{split}.hdf5").read_bytes())
        with h5py.File(path, "a") as file:
            file.attrs["task_name"] = "Ann's " + 130 * "x"
    return tmp_path / "long__train.hdf5"


def test_a_name_that_weights_and_biases_would_refuse_is_made_to_fit(long_name, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}
    process = start(ROOT / "laom.py", *small(long_name, tmp_path / "runs", "--track"), env=environment)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1

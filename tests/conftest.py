"""Small real data, collected once by the shipped script: the cheetah expert in MuJoCo before five short
procedural videos. And the tiny recipe, with which the training scripts run to their end in seconds.
"""

import contextlib
import copy
import fcntl
import importlib
import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes share the cores

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("", "benchmark", "experts", "variants")]

# test_copies.py and test_form.py also run where the requirements are not installed
if importlib.util.find_spec("torch"):
    with contextlib.suppress(ImportError):
        # before a test renders: the other way round, Mesa's and triton's LLVM crash the process
        import triton  # noqa: F401
    import h5py
    import lives
    import torch

    import collect_data

    collect_data.pick_rendering_backend()

LONG = ("test_restart.py", "test_collect_data.py", "test_benchmark.py")


def pytest_configure(config):
    config.option.loadscopereorder = False  # pytest-xdist would begin with the files that have most tests


def pytest_collection_modifyitems(items):
    """The longest files come first, so that two workers end at about the same time."""
    items.sort(key=lambda item: item.path.name not in LONG)


# Of short_file's 147 transitions: 9 updates an epoch. Every update is logged.
TINY = {
    "rehearsal": False,
    "log_interval": 1,
    "device": "cpu",
    "precision": "fp32",
    "compile": False,
    "num_labeled_trajectories": (2,),
    "lam.num_epochs": 3,
    "lam.batch_size": 16,
    "lam.labeled_batch_size": 16,
    "lam.latent_action_dim": 32,
    "lam.act_head_dim": 32,
    "lam.obs_head_dim": 32,
    "lam.use_aug": True,
    "idm.num_updates": 27,
    "idm.batch_size": 16,
    "idm.act_head_dim": 32,
    "bc.num_epochs": 3,
    "bc.num_updates": 27,
    "bc.batch_size": 16,
    "bc.encoder_scale": 1,
    "decoder.num_updates": 27,
    "decoder.batch_size": 16,
    "eval.num_episodes": 1,
    "eval.num_workers": 1,
    "eval.max_steps": 20,
}
OWN = {
    "laom.py": {"num_labeled_trajectories": (1, 2)},
    "bc.py": {"num_labeled_trajectories": ("all", 1)},
    "variants/lapo_vq.py": {"lam.latent_action_dim": 128},
}
SCRIPTS = ("lapo.py", "laom.py", "laom_supervised.py", "idm.py", "bc.py")


def command(script: str, data, **changes) -> list[str]:
    """The tiny recipe as a script's arguments, as far as it has them. changes: lam__num_epochs=1."""
    defaults = importlib.import_module(Path(script).stem).Args()
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    words = ["demo", "--data", str(data)]
    for name, value in (TINY | OWN.get(script, {}) | changes).items():
        stage, _, field = name.rpartition(".")
        if not hasattr(getattr(defaults, stage, None) if stage else defaults, field):
            assert name not in changes, f"{script} has no {name}"
            continue
        flag = f"--{stage}." if stage else "--"
        flag += f"{'no-' if value is False else ''}{field.replace('_', '-')}"
        words.append(flag)
        if not isinstance(value, bool):
            words += map(str, value if isinstance(value, tuple) else (value,))
    return words


def parse(script: str, data, **changes):
    return importlib.import_module(Path(script).stem).parse_args(command(script, data, **changes))


def start(*words, **kwargs) -> subprocess.Popen:
    """A script as its user starts it, with what it says to stderr in a pipe."""
    kwargs = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "stdout": subprocess.DEVNULL} | kwargs
    return subprocess.Popen([sys.executable, *map(str, words)], text=True, stderr=subprocess.PIPE, **kwargs)


def run(script: str, *words, **kwargs) -> subprocess.CompletedProcess:
    """A script of the repository from start to end, and what it said."""
    process = start(ROOT / script, *words, stdout=subprocess.PIPE, **kwargs)
    output, errors = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def wait_for(process: subprocess.Popen, condition: Callable, timeout: float = 240):
    """Polls until the condition holds; the process must not end before."""
    stop = time.monotonic() + timeout
    while not condition():
        if process.poll() is not None or time.monotonic() > stop:
            process.kill()
            pytest.fail(process.communicate()[1])
        time.sleep(0.01)


class Recorder:
    """Stands in for a Run: a few steps; it keeps what the stage trains between them, and what it says."""

    def __init__(self, steps: int, keep: bool = True):
        self.number = steps
        self.keep = keep
        self.history = []
        self.said = []

    def steps(self, stage, total, batch_size, **parts):
        for step in range(self.number + 1):
            if self.keep:
                self.history.append({name: copy.deepcopy(part.state_dict()) for name, part in parts.items()})
            if step < self.number:
                yield step

    def log_due(self, step):
        return False

    def say(self, text):
        self.said.append(text)


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def only_one(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


@pytest.fixture(autouse=True)
def own_streams(monkeypatch):
    """A script's main, called in this process, wraps them."""
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)


# ---- Data --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A folder that is filled by the first of pytest-xdist's workers that asks for it; the others wait."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def once(name: str, fill: Callable[[Path], None]) -> Path:
        folder = root / f"once_{name}"
        with open(f"{folder}.lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                folder.mkdir()
                fill(folder)
        return folder

    return once


@pytest.fixture(scope="session")
def frames(once) -> Path:
    """A folder of folders of frames: three videos for training, two for evaluation."""
    from PIL import Image

    def fill(folder: Path):
        for video in range(5):
            (folder / f"video{video}").mkdir()
            for i, frame in enumerate(collect_data.dead_leaves_video(video, num_frames=6)):
                Image.fromarray(frame).save(folder / f"video{video}" / f"{i:05d}.png")

    return once("frames", fill)


@pytest.fixture(scope="session")
def collect_short(tmp_path_factory, forks):
    """collect_data.py as a module and a file whose episodes end after 60 steps."""
    folder = tmp_path_factory.mktemp("collect")
    source = (ROOT / "collect_data.py").read_text()
    assert source.count("\nEPISODE_LENGTH = 1000") == 1
    source = source.replace("\nEPISODE_LENGTH = 1000", "\nEPISODE_LENGTH = 60")
    (folder / "collect_short.py").write_text(source)
    (folder / "experts").symlink_to(ROOT / "experts")
    sys.path.append(str(folder))
    return importlib.import_module("collect_short")


@pytest.fixture(scope="session")
def collect_once(collect_short, once) -> Callable[[str, str], Path]:
    """A folder of this name with what is collected by these words."""

    def collect_once(name: str, words: str) -> Path:
        def fill(folder: Path):
            collect_short.main(collect_short.parse_args([*words.split(), "--output", str(folder)]))

        return once(name, fill)

    return collect_once


@pytest.fixture(scope="session")
def data_folder(collect_once, frames) -> Path:
    """Three trajectories of 60 steps, and two for evaluation."""
    words = "--num-trajectories 3 --num-eval-trajectories 2 --num-workers 1"
    return collect_once("data", f"{words} --backgrounds {frames}")


@pytest.fixture(scope="session")
def train_file(data_folder) -> Path:
    return data_folder / "cheetah-run__scale_easy_video_hard__train.hdf5"


def beside(path: Path) -> Path:
    """The evaluation file of a training file."""
    return path.with_name(path.name.replace("train", "val"))


@pytest.fixture(scope="session")
def short_file(train_file, once) -> Path:
    """The first 60, 50 and 40 steps of the collected trajectories; beside it a file for evaluation."""

    def fill(folder: Path):
        for path in (train_file, beside(train_file)):
            with h5py.File(path) as source, h5py.File(folder / path.name, "w") as file:
                file.attrs.update(source.attrs)
                file.attrs["backgrounds"] = os.path.relpath(path.parent / source.attrs["backgrounds"], folder)
                for trajectory, length in zip(sorted(source), (60, 50, 40)):
                    for array in source[trajectory]:
                        file.create_dataset(f"{trajectory}/{array}", data=source[trajectory][array][:length])
                    file[trajectory].attrs.update(source[trajectory].attrs)

    return once("short", fill) / train_file.name


@pytest.fixture(scope="session")
def other_task(collect_once) -> Path:
    """Two short trajectories of walker-run without distractors, and one for evaluation."""
    words = "--task walker-run --difficulty vanilla --num-trajectories 2 --num-eval-trajectories 1"
    return collect_once("walker", f"{words} --num-workers 1") / "walker-run__vanilla__train.hdf5"


@pytest.fixture(scope="session")
def clean_file(collect_once) -> Path:
    """Eight short trajectories without distractors, and two for evaluation: enough to learn from."""
    words = "--difficulty vanilla --num-trajectories 8 --num-eval-trajectories 2 --num-workers 1"
    return collect_once("clean", words) / "cheetah-run__vanilla__train.hdf5"


def as_recorded_by_others(path: Path, target: Path, lengths=(60, 40, 50), videos: bool = False) -> Path:
    """A file like the paper's: unclipped actions, no physics, no seeds, no word of where its videos are.

    videos: no actions and states either.
    """
    with h5py.File(path) as source, h5py.File(target, "w") as file:
        for name in ("domain_name", "task_name", "difficulty", "dynamic", "img_hw", "split"):
            file.attrs[name] = source.attrs[name]
        if videos:
            file.attrs.update(domain_name="video", task_name="mine", difficulty="vanilla")
        for i, length in zip(sorted(source), lengths):
            for name in ("obs",) if videos else ("obs", "states", "actions"):
                values = source[f"{i}/{name}"][:length]
                file.create_dataset(f"{i}/{name}", data=values * 3 if name == "actions" else values)
            file[i].attrs["traj_return"] = source[i].attrs["traj_return"]
    return target


# ---- Runs --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def forks():
    """The server of lives, which also forks the workers of a script that is called in this process."""
    lives.start_server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing, "get_context", lambda method: lives.FORKS)
        yield


@pytest.fixture(scope="session")
def unbroken(forks, tmp_path_factory) -> Callable:
    """Starts a run that nothing hits, once for each command line, beside which a test goes on.

    The answer gives its folder, when called.
    """
    runs = {}

    def begin(script: str, argv: list[str], **kwargs) -> Callable[[], Path]:
        if (key := (script, *argv, *kwargs)) not in runs:
            folder = tmp_path_factory.mktemp("unbroken")
            process = lives.start(script, [*argv, "--runs", folder / "runs"], folder / "log", **kwargs)
            runs[key] = (process, folder)

        def finish() -> Path:
            process, folder = runs[key]
            assert lives.end(process) == 0, (folder / "log").read_text()
            return only_one(folder / "runs")

        return finish

    return begin


@pytest.fixture(scope="session")
def finished(forks, once, short_file) -> Callable[[str], Path]:
    """The folder of a script's run with the tiny recipe, rehearsed."""

    def finished(script: str) -> Path:
        def fill(folder: Path):
            argv = [*command(script, short_file, rehearsal=True), "--runs", folder / "runs"]
            assert lives.end(lives.start(script, argv, folder / "log")) == 0, (folder / "log").read_text()

        return only_one(once(Path(script).stem, fill) / "runs")

    return finished


def weights(folder: Path) -> dict:
    """All weights of all finished stages."""
    found = {}
    for path in folder.glob("*.pt"):
        if path.name != "checkpoint.pt":
            for name, value in torch.load(path).items():
                found[f"{path.name}/{name}"] = value
    return found


def same_weights(one: Path, other: Path) -> bool:
    expected = weights(one)
    found = weights(other)
    return expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in found)


def read_results(folder: Path) -> dict:
    """results.json without what depends on when and from where it ran."""
    results = json.loads((folder / "results.json").read_text())
    for name in ("hours", "core_hours", "date", "commit"):
        del results[name]
    return results


def read_records(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl without what depends on the clock."""
    records = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert record.pop("hours") >= 0
        records.append({name: value for name, value in record.items() if "per_second" not in name})
    return records

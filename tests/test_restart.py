"""What a run survives: SIGKILL wherever it hits, SIGTERM, Ctrl-C, NaN, a full disk, a dead rank. Two ranks are as one process.

Most processes here are lives: forked from a server that has imported the scripts, so that their start costs nothing. A life runs a
script's main, from its command line to its end or to the blow that its plan has for it. Episodes end after 20 steps."""

import contextlib
import dataclasses
import importlib
import io
import json
import math
import multiprocessing
import multiprocessing.forkserver
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import ROOT
from test_methods import SETTINGS
from torch.optim.optimizer import register_optimizer_step_post_hook

from laom_supervised import Dataset


def command(script: str, data: Path, budgets: tuple, *more, length: int = 3) -> list[str]:
    """A tiny run that logs and saves at every update. Each stage has 9 updates times length."""
    sizes = {".batch-size": 32, ".num-epochs": length, ".num-updates": 9 * length}  # of 297 transitions
    settings = SETTINGS[script] | {"--log-interval": 1, "--checkpoint-minutes": 0, "--device": "cpu", "--precision": "fp32"}
    settings |= {name: size for name in settings for ending, size in sizes.items() if name.endswith(ending)}
    switches = ["--no-compile", *["--lam.use-aug"] * script.startswith("laom")]
    words = (word for pair in settings.items() for word in pair)
    return list(map(str, ["demo", "--num-labeled-trajectories", *budgets, *words, *switches, "--data", data, *more]))


@pytest.fixture(scope="module")
def short_file(train_file, tmp_path_factory) -> Path:
    """The first 120, 100 and 80 steps of the collected trajectories; beside it a file for evaluation."""
    folder = tmp_path_factory.mktemp("short")
    for split in ("train", "val"):
        name = train_file.name.replace("train", split)
        with h5py.File(train_file.with_name(name)) as source, h5py.File(folder / name, "w") as file:
            file.attrs.update(source.attrs)
            file.attrs["backgrounds"] = str(train_file.parent / source.attrs["backgrounds"])
            for trajectory, length in zip(sorted(source), (120, 100, 80)):
                for array in source[trajectory]:
                    file.create_dataset(f"{trajectory}/{array}", data=source[trajectory][array][:length])
                file[trajectory].attrs.update(source[trajectory].attrs)
    return folder / train_file.name


# ---- Lives ---------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Blow:
    """What hits a life when a stage gets to a point for the count-th time."""

    stage: str  # of Run.updates, with " end" from Run.finish on; measure, eval
    point: str  # start, update, line (of metrics.jsonl), observation, or the name of a file
    when: str = "after"  # half: half of the line or file is written; before: the file is written, but not renamed
    count: int = 1
    what: int | str = signal.SIGKILL  # or another signal, or nan: the update leaves NaN in the weights
    checkpoints: bool = True  # False: this life saves nothing while it trains


def expect(module, blow: Blow):
    """Wraps what the script does for its records, so that the blow hits this process in the midst of it."""
    stage, count = None, 0

    def due(point: str, when: str = "after") -> bool:
        nonlocal count
        here = (stage, point, when) == (blow.stage, blow.point, blow.when)
        count += here
        return here and count == blow.count

    def strike(optim: torch.optim.Optimizer | None = None):
        if blow.what == "nan":
            optim.param_groups[0]["params"][0].data.fill_(math.nan)
        else:
            os.kill(os.getpid(), blow.what)

    def updates(original: Callable, run, name: str, *args, **kwargs):
        nonlocal stage
        stage, run.args.checkpoint_minutes = name, 0 if blow.checkpoints else math.inf
        return original(run, name, *args, **kwargs)

    def finish(original: Callable, run, name: str, **modules):
        nonlocal stage
        stage = f"{name} end"
        original(run, name, **modules)

    def evaluate(original: Callable, *args):
        nonlocal stage
        stage = "eval"
        return original(*args)

    def log(original: Callable, run, record: dict):
        if due("line", "half"):
            run.metrics.write(json.dumps(record).encode()[:50])
            run.metrics.flush()
            strike()
        original(run, record)
        if due("line"):
            strike()

    def write_whole(original: Callable, path: Path, write: Callable):
        def write_some(file):
            write(whole := io.BytesIO())
            half = due(path.name, "half")
            file.write(whole.getvalue()[: len(whole.getvalue()) // 2 if half else None])
            file.flush()
            if half or due(path.name, "before"):
                strike()

        original(path, write_some)
        if due(path.name):
            strike()

    def to_input(original: Callable, *args):
        if due("observation"):
            strike()
        return original(*args)

    def measure(original: Callable, *args):
        nonlocal stage
        stage = "measure"
        if due("start"):
            strike()
        return original(*args)

    register_optimizer_step_post_hook(lambda optim, *_: strike(optim) if due("update") else None)
    for owner, wrappers in ((module.Run, (updates, finish, log)), (module, (evaluate, write_whole, to_input, measure))):
        for wrapper in wrappers:
            wrap(owner, wrapper)


def wrap(owner, wrapper: Callable):
    """Puts the wrapper, which gets the original first, in the place of its namesake if there is one."""
    if original := getattr(owner, wrapper.__name__, None):
        setattr(owner, wrapper.__name__, lambda *args, **kwargs: wrapper(original, *args, **kwargs))


def live(script: str, argv: list[str], log: Path | None = None, blow: Blow | None = None, rank=(0, 1, 0), stages_only=False):
    """One process of a run. What it says goes to the log. rank: its own, the number of ranks, and the port where they meet."""
    if log:
        for number in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    module = importlib.import_module(Path(script).stem)
    sys.modules["__main__"], sys.argv = module, [script, *argv]  # what evaluation's workers import, and what the script is called
    if rank[1] > 1:
        module.RANK, module.WORLD_SIZE = rank[:2]
        names = ("RANK", "WORLD_SIZE", "MASTER_PORT", "MASTER_ADDR")
        os.environ |= dict(zip(names, (*map(str, rank), "localhost")))
    module.EPISODE_LENGTH = 20
    module.tqdm.set_lock(threading.RLock())  # its own is a semaphore that a killed process leaves behind
    if stages_only:
        module.measure = lambda *args: {}
        module.evaluate = lambda *args: {name: {"return_mean": 0.0} for name in ("seen_videos", "unseen_videos")}
    if blow:
        expect(module, blow)
    module.main(module.parse_args(argv))


@pytest.fixture(scope="module")
def forks():
    """Starts lives. One thread each, as in every process here: two runs then share two cores, and both give the same bits."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_restart", "torch._dynamo", *(Path(script).stem for script in SETTINGS)])  # Adam's import
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{Path(__file__).parent}")
        patch.setenv("OMP_NUM_THREADS", "1")
        multiprocessing.forkserver.ensure_running()

    def start(*args, **kwargs) -> multiprocessing.Process:
        process = context.Process(target=live, args=args, kwargs=kwargs)
        process.start()
        return process

    return start


def end(process: multiprocessing.Process) -> int:
    """The exit code of a life, minus the signal if one ended it."""
    process.join(240)
    if process.is_alive():
        process.kill()
        pytest.fail("a life hangs")
    return process.exitcode


def said(log: Path) -> list[str]:
    """What is left to read of the output: the lines that progress bars do not overwrite."""
    return [line.split("\r")[-1] for line in log.read_text().splitlines() if line]


def only_run(runs: Path) -> Path:
    (folder,) = runs.iterdir()
    return folder


def live_through(forks: Callable, script: str, argv: list[str], blows: list[Blow | float], tmp_path: Path, **kwargs) -> Path:
    """A run that is hit and resumed again and again until it ends: its folder. A number: killed after so many seconds."""
    argv, runs = [*argv, "--runs", str(tmp_path / "runs")], tmp_path / "runs"
    for number, blow in enumerate([*blows, None]):
        log, planned = tmp_path / f"life_{number}", isinstance(blow, Blow)
        process = forks(script, argv, log, blow if planned else None, **kwargs)
        if blow and not planned:
            process.join(blow)
            process.kill()
        exitcode, (folder,) = end(process), runs.iterdir()
        argv = ["--resume", str(folder)]
        if not planned:
            assert exitcode == 0 or blow and exitcode == -signal.SIGKILL, log.read_text()
        elif blow.what == signal.SIGKILL:
            assert exitcode == -signal.SIGKILL, (blow, log.read_text())
        elif blow.what == "nan":
            assert exitcode == 1 and re.fullmatch(rf"error: {blow.stage}: .* not finite at step \d+; .*", said(log)[-1]), said(log)
        else:
            saved = torch.load(folder / "checkpoint.pt", weights_only=True)
            assert exitcode == 1 and said(log)[-1] == f"stopped; continue with: python {script} --resume {folder}", said(log)
            assert saved["metrics_size"] == (folder / "metrics.jsonl").stat().st_size, "it stops without a checkpoint"
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of all finished stages."""
    files = {path.name: torch.load(path, weights_only=True) for path in folder.glob("*.pt") if path.name != "checkpoint.pt"}
    return {f"{file}/{name}": value for file, values in files.items() for name, value in values.items()}


def records(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "per_second" not in name} for line in lines]


def assert_same_bits(one: Path, other: Path):
    """The same weights, results, measures and metrics: no line is missing, none comes twice."""
    (expected, found), metrics = map(weights, (one, other)), records(one)
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    assert metrics == records(other)
    for stage in {line["stage"] for line in metrics if "step" in line}:
        steps = [line["step"] for line in metrics if line["stage"] == stage]
        assert steps == list(range(1, len(steps) + 1))
    for path in one.glob("*.json"):
        assert path.name == "args.json" or path.read_bytes() == (other / path.name).read_bytes(), path.name


@pytest.fixture(scope="module")
def unbroken(forks, tmp_path_factory) -> Callable:
    """Starts a run that nothing hits, as one process, beside which a test can go on. Once for each command line."""
    runs = {}

    def begin(script: str, argv: list[str], **kwargs) -> Callable:
        if (key := (script, *argv, *kwargs)) not in runs:
            folder = tmp_path_factory.mktemp("unbroken")
            process = forks(script, [*argv, "--runs", str(folder / "runs")], folder / "log", **kwargs)
            runs[key] = process, folder

        def finish() -> Path:
            process, folder = runs[key]
            assert end(process) == 0, (folder / "log").read_text()
            return only_run(folder / "runs")

        return finish

    return begin


# ---- Killed --------------------------------------------------------------------------------------------------------------------


def blows_of(stage: str, weights: str, rng: np.random.Generator) -> list[Blow]:
    """SIGKILL in a stage's first update, around its lines and checkpoints, and around the files that it leaves."""
    some = lambda: int(rng.integers(1, 4))
    return [
        Blow(stage, "update"),
        Blow(stage, "line", count=some()),  # a line that no checkpoint knows yet
        Blow(stage, "line", "half", some()),
        Blow(stage, "checkpoint.pt", "half", some()),
        Blow(stage, "checkpoint.pt", "before", some()),
        Blow(stage, "checkpoint.pt", "after", some()),
        Blow(stage, "line", count=4, checkpoints=False),  # four lines that no checkpoint knows
        Blow(stage, "update", count=some()),
        Blow(f"{stage} end", weights, "half"),
        Blow(f"{stage} end", weights),  # the weights are there, the checkpoint does not know it
        Blow(f"{stage} end", "checkpoint.pt", "half"),
        Blow(f"{stage} end", "checkpoint.pt"),
    ]


def test_hit_anywhere_it_comes_to_the_same_end(forks, unbroken, short_file, tmp_path):
    """laom_supervised.py, hit 44 times, in every stage and between them, ends like a run that nothing hit, bit for bit."""
    argv, rng = command("laom_supervised.py", short_file, (2,), "--precision", "auto"), np.random.default_rng(0)
    expected = unbroken("laom_supervised.py", argv)
    lam, bc, decoder = (
        blows_of(stage, file, rng) for stage, file in (("lam_2", "lam_2.pt"), ("bc_2", "actor_2.pt"), ("decoder_2", "decoder_2.pt"))
    )
    lam.insert(4, Blow("lam_2", "update", count=2, what=signal.SIGTERM, checkpoints=False))
    bc.insert(4, Blow("bc_2", "update", count=2, what=signal.SIGINT, checkpoints=False))
    decoder.insert(4, Blow("decoder_2", "update", count=2, what="nan", checkpoints=False))
    between = [Blow("measure", "start"), Blow("measure", "start", what=signal.SIGINT)]
    evaluation = [Blow("eval", "observation", count=3, what=what) for what in (signal.SIGKILL, signal.SIGTERM)]
    blows = [*lam, *between, *bc, *decoder, *evaluation, Blow("eval", "results.json")]
    folder = live_through(forks, "laom_supervised.py", argv, blows, tmp_path)
    assert_same_bits(expected(), folder)


def test_killed_at_any_time_between_two_budgets(forks, unbroken, short_file, tmp_path):
    """bc.py, which trains and evaluates twice, killed where it passes from one budget to the next, and at arbitrary times."""
    argv, rng = command("bc.py", short_file, ("all", 1)), np.random.default_rng(1)
    expected = unbroken("bc.py", argv, stages_only=True)
    times = rng.uniform(0.5, 2.5, 4).tolist()
    planned = [
        Blow("bc_all", "checkpoint.pt", "half", 3),
        Blow("eval", "line", count=2),
        Blow("eval", "results.json", "before"),
        Blow("eval_all end", "checkpoint.pt", "before"),
        Blow("bc_1", "line", "half"),
    ]
    folder = live_through(forks, "bc.py", argv, [*planned, *times], tmp_path, stages_only=True)
    assert_same_bits(expected(), folder)


def test_no_checkpoint_holds_nan(forks, short_file, tmp_path):
    """An update that leaves NaN in the weights, though its own loss was finite, is not saved."""
    argv, log = command("bc.py", short_file, (2,)), tmp_path / "log"
    blow = Blow("bc_2", "update", count=3, what="nan")
    assert end(forks("bc.py", [*argv, "--runs", str(tmp_path / "runs")], log, blow)) == 1
    saved = torch.load(only_run(tmp_path / "runs") / "checkpoint.pt", weights_only=True)
    assert said(log)[-1].startswith("error: bc_2: ") and all(x.isfinite().all() for x in saved["parts"]["actor"].values())
    assert saved["step"] == 2


def start_script(*words) -> subprocess.Popen:
    """A script as its user starts it, with what it says to stderr in a pipe."""
    settings = {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *map(str, words)], text=True, **settings)


def wait_for(process: subprocess.Popen, condition: Callable, timeout: float = 60):
    """Polls until the condition holds; the process must not end before."""
    stop = time.monotonic() + timeout
    while not condition():
        if process.poll() is not None or time.monotonic() > stop:
            process.kill()
            pytest.fail(process.communicate()[1])
        time.sleep(0.01)


def test_full_disk(forks, unbroken, short_file, tmp_path):
    """No room for a checkpoint, then for not even a line of metrics.jsonl: one line each time, and nothing is lost. The limit on
    the size of a file, set while the script runs, stands in for the disk: it fails the same writes."""
    argv, runs = command("laom_supervised.py", short_file, (2,), "--precision", "auto"), tmp_path / "runs"
    expected, words = unbroken("laom_supervised.py", argv), [*argv, "--runs", runs]
    for room in (100_000, 0):
        process, started = start_script(ROOT / "laom_supervised.py", *words), time.time()
        wait_for(process, lambda: any(path.stat().st_mtime > started for path in runs.glob("*/checkpoint.pt")))
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (room, room))
        message = process.communicate(timeout=60)[1]
        assert process.returncode == 1 and "Traceback" not in message, message
        last = message.splitlines()[-1]
        assert last.startswith("error: ") and "File too large" in last, message
        words = ["--resume", only_run(runs)]
        assert not list(only_run(runs).glob("*.partial"))  # it would fill the disk
    assert end(forks("laom_supervised.py", list(map(str, words)), tmp_path / "log")) == 0
    assert_same_bits(expected(), only_run(runs))


# ---- Two ranks -----------------------------------------------------------------------------------------------------------------

OF_A_PART = {"lam/code_perplexity", "lam/code_usage", "lam/embedding_std"}  # no means over the batch: each rank's, averaged


def command_of_ranks(script: str, data: Path) -> list[str]:
    """Few updates at a small rate: the longer a run, the more Adam makes of a last bit."""
    return command(script, data, (2,), "--eval.num-episodes", 2, "--bc.learning-rate", 1e-3, length=1)


def live_as_ranks(forks: Callable, script: str, argv: list[str], tmp_path: Path, blow: Blow | None = None, **kwargs) -> list[int]:
    """Two lives as the two ranks of one run; the blow is for the second. Their exit codes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    logs = tmp_path / "rank_0", tmp_path / "rank_1"
    processes = [forks(script, argv, log, blow if r else None, rank=(r, 2, port), **kwargs) for r, log in enumerate(logs)]
    try:
        return [end(process) for process in processes]
    finally:
        for process in processes:  # one that waits for a dead one would wait for hours
            process.kill()


def assert_close(one: Path, other: Path):
    """The same run to rounding: metrics, weights, and the form of its results."""
    metrics = records(one), records(other)
    assert [line.keys() for line in metrics[0]] == [line.keys() for line in metrics[1]]
    for line, found in zip(*metrics):
        tolerance = 1e-2 if line["stage"].startswith("eval") else 1e-3
        for name in line.keys() - OF_A_PART:
            assert found[name] == (pytest.approx(line[name], rel=tolerance) if isinstance(line[name], float) else line[name]), line
    expected, found = weights(one), weights(other)
    assert expected.keys() == found.keys()
    distance, size = (
        torch.cat([x.float().flatten() for x in values]).norm()
        for values in ([expected[name] - found[name] for name in expected], expected.values())
    )
    assert distance < 2e-4 * size
    form = lambda value: {name: form(x) for name, x in value.items()} if isinstance(value, dict) else np.shape(value)
    results = [json.loads((folder / "results.json").read_text()) for folder in (one, other)]
    assert form(results[0]) == form(results[1])


@pytest.mark.parametrize("script", SETTINGS)
def test_two_ranks_are_one_process(script, forks, unbroken, short_file, tmp_path):
    """With the same global batch, to rounding; one of the two writes."""
    stages_only = script != "laom_supervised.py"  # evaluation and measure are the same text in all
    argv = command_of_ranks(script, short_file)
    expected, runs = unbroken(script, argv, stages_only=stages_only), tmp_path / "runs"
    assert live_as_ranks(forks, script, [*argv, "--runs", str(runs)], tmp_path, stages_only=stages_only) == [0, 0]
    assert_close(expected(), only_run(runs))


def test_a_signal_to_one_rank_stops_all(forks, unbroken, short_file, tmp_path):
    """With a checkpoint, from which both go on."""
    argv = command_of_ranks("bc.py", short_file)
    expected, runs = unbroken("bc.py", argv, stages_only=True), tmp_path / "runs"
    blow = Blow("bc_2", "update", count=4, what=signal.SIGTERM, checkpoints=False)
    assert live_as_ranks(forks, "bc.py", [*argv, "--runs", str(runs)], tmp_path, blow, stages_only=True) == [1, 1]
    folder = only_run(runs)
    assert said(tmp_path / "rank_0")[-1] == f"stopped; continue with: python bc.py --resume {folder}"
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == 4
    assert live_as_ranks(forks, "bc.py", ["--resume", str(folder)], tmp_path, stages_only=True) == [0, 0]
    assert_close(expected(), folder)


@pytest.mark.parametrize("name", ["lam.batch-size", "lam.labeled-batch-size", "bc.batch-size", "decoder.batch-size"])
def test_batches_that_ranks_cannot_share(name, forks, short_file, tmp_path):
    argv = [*command_of_ranks("laom_supervised.py", short_file), f"--{name}", "31"]
    codes = live_as_ranks(forks, "laom_supervised.py", [*argv, "--runs", str(tmp_path / "runs")], tmp_path, stages_only=True)
    assert codes == [1, 1] and not (tmp_path / "runs").exists()
    assert said(tmp_path / "rank_0") == ["error: batch sizes must be multiples of the number of ranks, 2"]


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def rank_of(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        return next((int(word.removeprefix("RANK=")) for word in words if word.startswith("RANK=")), None)


def test_a_killed_rank_ends_the_run_which_resumes(forks, unbroken, short_file, tmp_path):
    """torchrun ends with an error and leaves no process; as two ranks and as one process, the run goes on to the same results."""
    argv, runs = command_of_ranks("laom_supervised.py", short_file), tmp_path / "runs"
    expected = unbroken("laom_supervised.py", argv)
    process = start_script(*TORCHRUN, ROOT / "laom_supervised.py", *argv, "--runs", runs)
    wait_for(process, lambda: any(path.read_text().count("\n") > 2 for path in runs.glob("*/metrics.jsonl")))
    children = [int(pid) for path in Path(f"/proc/{process.pid}/task").glob("*/children") for pid in path.read_text().split()]
    ranks = {rank_of(pid): pid for pid in children}
    os.kill(ranks[1], signal.SIGKILL)
    message = process.communicate(timeout=60)[1]
    assert process.returncode != 0 and not Path(f"/proc/{ranks[0]}").exists(), message
    folder = only_run(runs)
    copy = shutil.copytree(folder, tmp_path / "as_one" / folder.name)
    assert (folder / "checkpoint.pt").exists() and not (folder / "results.json").exists()

    process = start_script(*TORCHRUN, __file__, "laom_supervised.py", "--resume", folder)
    alone = forks("laom_supervised.py", ["--resume", str(copy)], tmp_path / "log")
    message = process.communicate(timeout=120)[1]
    assert process.returncode == 0 and end(alone) == 0, message
    for resumed in (folder, copy):
        assert_close(expected(), resumed)
    assert only_run(runs) == folder


# ---- Where frames live -----------------------------------------------------------------------------------------------------------


def test_data_in_memory_are_those_of_the_files(short_file, train_file):
    """From two files, at the starts and ends of trajectories and anywhere between."""
    files = str(short_file), str(train_file)
    disk, ram = (Dataset(files, "cpu", data_device=device) for device in ("disk", "ram"))
    index = torch.cat([disk.first, disk.last, torch.randint(len(disk.first), (500,))])
    for frame_stack in (1, 3):
        assert torch.equal(disk.observations(index, frame_stack), ram.observations(index, frame_stack))
    assert ram.frames is not None and disk.frames is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(forks, short_file, tmp_path):
    argv = [*command("bc.py", short_file, (2,)), "--runs", str(tmp_path / "runs")]
    for words in (["--data-device", "gpu"], ["--device", "cuda"]):
        assert end(forks("bc.py", [*argv, *words], tmp_path / words[-1])) == 1
        (line,) = said(tmp_path / words[-1])
        assert line.startswith("error: ") and "no GPU here" in line
    assert not (tmp_path / "runs").exists()


if __name__ == "__main__":  # a rank that torchrun has started
    live(sys.argv[1], sys.argv[2:])

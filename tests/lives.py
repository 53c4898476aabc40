"""Lives: processes forked from a server that has imported the scripts, so that their start costs nothing.

A life runs a script's main, from its command line to its end or to the blow that its plan has for it. It has
one thread.
"""

import contextlib
import dataclasses
import importlib
import io
import json
import math
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
from torch.optim.optimizer import register_optimizer_step_post_hook

TESTS = Path(__file__).parent
ROOT = TESTS.parent
SCRIPTS = ("lapo.py", "laom.py", "laom_supervised.py", "idm.py", "bc.py")
EVERY = (*SCRIPTS, "variants/lapo_vq.py")
OURS = ("", *map(str, (ROOT, ROOT / "variants", TESTS)))  # where modules are found
FORKS = multiprocessing.get_context("forkserver")
MEASURES = ("held_out_probe", "held_out_error", "policy_errors")  # what the scripts call between stages


def start_server():
    os.environ["PYTHONPATH"] = os.pathsep.join(OURS[1:])
    os.environ["OMP_NUM_THREADS"] = "1"
    modules = [Path(script).stem for script in (*EVERY, "collect_data.py")]
    FORKS.set_forkserver_preload(["lives", "torch._dynamo", *modules])
    multiprocessing.forkserver.ensure_running()


def start(script: str, argv: list, log: Path, **kwargs) -> multiprocessing.Process:
    """kwargs: those of `live`. The script is a name in the repository, or the path of a copy elsewhere."""
    process = FORKS.Process(target=live, args=(str(script), list(map(str, argv)), log), kwargs=kwargs)
    process.start()
    return process


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


def live(script: str, argv: list[str], log: Path | None = None, blow=None, rank=(0, 1, 0), stages_only=False):
    """One process of a run; what it says goes to the log.

    rank: its own, the number of ranks, and the port where they meet. stages_only: it measures and plays
    nothing.
    """
    if log:
        for number in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    module = import_script(Path(script))
    sys.modules["__main__"] = module  # what workers import
    if rank[1] > 1:
        become_rank(module, *rank)
    module.pick_rendering_backend = lambda: None  # takes seconds; conftest.py has done it
    module.tqdm.set_lock(threading.RLock())  # its own is a semaphore that a killed process leaves behind
    if stages_only:
        for name in MEASURES:
            setattr(module, name, lambda *args: {})
        module.evaluate = lambda *args: ({"seen_videos": np.zeros(1), "unseen_videos": np.zeros(1)}, None)
    if blow:
        expect(module, blow)
    module.main(module.parse_args(argv))


def become_rank(module, rank: int, number: int, port: int):
    module.RANK, module.WORLD_SIZE = rank, number
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(number)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}


def update_codes(rank: int, number: int, port: int, folder: Path):
    """A rank that gives lapo_vq.py's quantiser its part of each batch in a file, and saves the outcome."""
    import lapo_vq

    become_rank(lapo_vq, rank, number, port)
    torch.distributed.init_process_group("gloo")
    quantizer = lapo_vq.VQ()
    generator = torch.Generator().manual_seed(rank)
    for batch in torch.load(folder / "batches.pt"):
        quantizer.update(batch.chunk(number)[rank], generator)
    torch.save(quantizer.state_dict(), folder / f"codes_{rank}.pt")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def import_script(path: Path):
    """The repository's script, which the server knows; or a copy in a folder where nothing else is found."""
    multiprocessing.get_context = lambda method: ForkedWorkers  # evaluation's own are spawned: slow
    if not path.is_absolute():
        return importlib.import_module(path.stem)
    for name, module in [*sys.modules.items()]:
        if os.path.dirname(getattr(module, "__file__", None) or "") in OURS[1:]:
            del sys.modules[name]
    sys.path = [str(path.parent), *(entry for entry in sys.path if entry not in OURS)]
    del os.environ["PYTHONPATH"]
    os.chdir(path.parent)
    return importlib.import_module(path.stem)


class ForkedWorkers:
    """The part of a multiprocessing context that evaluation uses."""

    Pipe = staticmethod(FORKS.Pipe)

    @staticmethod
    def Process(target: Callable, args: tuple, daemon: bool):
        return multiprocessing.context.ForkProcess(target=work, args=(target, *args), daemon=daemon)


def work(target: Callable, pipe, *args):
    """A worker: like a spawned one it holds no file of its parent, whose end it sees at its pipe."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != pipe.fileno():
            with contextlib.suppress(OSError):  # the one that listed the others
                os.close(int(name))
    target(pipe, *args)


# ---- Blows -------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Blow:
    """What hits a life when a stage gets to a point for the count-th time."""

    stage: str | None  # of Run.steps, or measure, or eval; None: before the first
    point: str  # start (of measure), update, line (of metrics.jsonl), observation, or the name of a file
    when: str = "after"  # half: half of the line or file is written; before: the file lacks only its name
    count: int = 1
    what: int | str = signal.SIGKILL  # or another signal, or nan: the update leaves NaN in the weights
    checkpoints: bool = True  # False: this life saves nothing before its stage is done


def expect(module, blow: Blow):
    """Wraps what the script does for its records, so that the blow hits this process in the midst of it."""
    stage = None
    count = 0

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

    def steps(original: Callable, run, name: str, *args, **parts):
        nonlocal stage
        stage = name
        run.args.checkpoint_minutes = 0 if blow.checkpoints else math.inf
        return original(run, name, *args, **parts)

    def measure(original: Callable, *args):
        nonlocal stage
        stage = "measure"
        if due("start"):
            strike()
        return original(*args)

    def evaluate(original: Callable, *args):
        nonlocal stage
        stage = "eval"
        return original(*args)

    def to_input(original: Callable, *args):
        if due("observation"):
            strike()
        return original(*args)

    def write_record(original: Callable, run, name: str, record: dict):
        if due("line", "half"):
            run.metrics.write(json.dumps({"stage": name} | record)[:50])
            run.metrics.flush()
            strike()
        original(run, name, record)
        if due("line"):
            strike()

    def save(original: Callable, run, file_name: str, content):
        whole = content.encode() if isinstance(content, str) else content
        if not isinstance(whole, bytes):
            file = io.BytesIO()
            torch.save(content, file)
            whole = file.getvalue()
        for when, size in (("half", len(whole) // 2), ("before", None)):
            if due(file_name, when):
                Path(f"{run.folder}/{file_name}.partial").write_bytes(whole[:size])
                strike()
        original(run, file_name, content)
        if due(file_name):
            strike()

    register_optimizer_step_post_hook(lambda optim, *_: strike(optim) if due("update") else None)
    for wrapper in (steps, write_record, save):
        wrap(module.Run, wrapper.__name__, wrapper)
    for name in MEASURES:
        wrap(module, name, measure)
    for wrapper in (evaluate, to_input):
        wrap(module, wrapper.__name__, wrapper)


def wrap(owner, name: str, wrapper: Callable):
    """Puts the wrapper, which gets the original first, in the place of what has this name, if it is there."""
    if original := getattr(owner, name, None):
        setattr(owner, name, lambda *args, **kwargs: wrapper(original, *args, **kwargs))

"""What a run survives: SIGKILL wherever it hits, SIGTERM, Ctrl-C, NaN, a full disk, a dead rank.

The same command continues it. Two ranks are as one process. Most processes here are lives (lives.py).
"""

import contextlib
import errno
import fcntl
import gc
import json
import os
import re
import resource
import signal
import time
import weakref
from pathlib import Path

import lives
import numpy as np
import pytest
import torch
from conftest import (
    ROOT,
    SCRIPTS,
    command,
    only_one,
    parse,
    read_records,
    read_results,
    same_weights,
    start,
    wait_for,
    weights,
)
from lives import Blow, end, said

import bc
import laom
import laom_supervised

ALWAYS = ("--checkpoint-minutes", 0)  # saves at every update, as a life with a blow does


def live_through(script: str, argv: list[str], blows: list, tmp_path: Path, **kwargs) -> Path:
    """The folder of a run that is hit, and begun again with the same command, until it ends.

    A number among the blows: killed after so many seconds.
    """
    runs = tmp_path / "runs"
    for number, blow in enumerate([*blows, None]):
        log = tmp_path / f"life_{number}"
        planned = isinstance(blow, Blow)
        plan = blow if planned else None
        process = lives.start(script, [*argv, "--runs", runs], log, blow=plan, **kwargs)
        if blow and not planned:
            process.join(blow)
            process.kill()
        exitcode = end(process)
        if not planned:
            assert exitcode == 0 or blow and exitcode == -signal.SIGKILL, log.read_text()
            continue
        folder = only_one(runs)
        if blow.what == signal.SIGKILL:
            assert exitcode == -signal.SIGKILL, (blow, log.read_text())
            continue
        assert exitcode == 1, (blow, log.read_text())
        last = said(log)[-1]
        saved = torch.load(folder / "checkpoint.pt")
        if blow.what == "nan":
            assert re.fullmatch(rf"error: {blow.stage}: weights not finite at step \d+", last)
            network = saved["parts"][blow.stage.split("_")[0]]
            assert all(weight.isfinite().all() for weight in network.values())
        else:
            assert last == f"stopped; the same command continues, or: python {folder}/{script}"
            assert saved["metrics_size"] == (folder / "metrics.jsonl").stat().st_size, "no checkpoint"
    return only_one(runs)


def assert_same_bits(one: Path, other: Path):
    """The same weights, results, measures and metrics: no line is missing, none comes twice."""
    assert same_weights(one, other)
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    assert read_results(one) == read_results(other)
    records = read_records(one)
    assert records == read_records(other)
    for stage in {record["stage"] for record in records if "step" in record}:
        steps = [record["step"] for record in records if record["stage"] == stage]
        assert steps == list(range(1, len(steps) + 1))
    hours = [json.loads(line)["hours"] for line in (other / "metrics.jsonl").read_text().splitlines()]
    assert hours == sorted(hours)


# ---- Killed ------------------------------------------------------------------------------------------------


def blows_of(stage: str, rng: np.random.Generator) -> list[Blow]:
    """SIGKILL in a stage's first update, around lines and checkpoints, and around the file that it leaves."""

    def some():
        return int(rng.integers(1, 4))

    return [
        Blow(stage, "update"),
        Blow(stage, "line", count=some()),  # a line that no checkpoint knows yet
        Blow(stage, "line", "half", some()),
        Blow(stage, "checkpoint.pt", "half", some()),
        Blow(stage, "checkpoint.pt", "before", some()),
        Blow(stage, "checkpoint.pt", "after", some()),
        Blow(stage, "line", count=4, checkpoints=False),  # four lines that no checkpoint knows
        Blow(stage, "update", count=some()),
        Blow(stage, "checkpoint.pt", "half", checkpoints=False),  # the stage's last
        Blow(stage, "checkpoint.pt", "after", checkpoints=False),
        Blow(stage, f"{stage}.pt", "half"),
        Blow(stage, f"{stage}.pt"),  # the weights are there, the checkpoint does not know it
    ]


def test_hit_anywhere_it_comes_to_the_same_end(unbroken, short_file, tmp_path):
    """laom_supervised.py, hit 44 times, in every stage and between them, ends like a run that nothing hit."""
    sizes = {"lam__num_epochs": 2, "bc__num_epochs": 2, "decoder__num_updates": 18}
    argv = command("laom_supervised.py", short_file, **sizes)
    rng = np.random.default_rng(0)
    expected = unbroken("laom_supervised.py", argv)
    lam, actor, decoder = (blows_of(stage, rng) for stage in ("lam_2", "actor_2", "decoder_2"))
    lam.insert(4, Blow("lam_2", "update", count=2, what=signal.SIGTERM, checkpoints=False))
    actor.insert(4, Blow("actor_2", "update", count=2, what=signal.SIGINT, checkpoints=False))
    decoder.insert(4, Blow("decoder_2", "update", count=2, what="nan"))
    blows = [
        Blow(None, "identity.json", "half"),
        Blow(None, "args.json"),
        *lam,
        Blow("measure", "start"),
        Blow("measure", "start", what=signal.SIGUSR1),
        *actor[:-3],  # the last ones are those of the other stages
        *decoder,
        Blow("eval", "observation", count=3),
        Blow("eval", "observation", count=3, what=signal.SIGTERM),
        Blow("eval", "checkpoint.pt", "before"),
        Blow("eval", "results.json", "half"),  # the checkpoint knows them
    ]
    assert len(blows) == 44
    folder = live_through("laom_supervised.py", argv, blows, tmp_path)
    assert_same_bits(expected(), folder)


def test_killed_at_any_time_between_two_budgets(unbroken, short_file, tmp_path):
    """bc.py, killed where it passes from one budget to the next, and at arbitrary times."""
    argv = command("bc.py", short_file)
    expected = unbroken("bc.py", argv, stages_only=True)
    times = np.random.default_rng(1).uniform(0.2, 1.5, 4).tolist()
    planned = [
        Blow("actor_all", "checkpoint.pt", "half", 3),
        Blow("eval", "line"),
        Blow("eval", "checkpoint.pt", "before"),
        Blow("eval", "results.json", "before"),  # the checkpoint knows them
        Blow("actor_1", "line", "half"),
    ]
    folder = live_through("bc.py", [*argv, *ALWAYS], [*planned, *times], tmp_path, stages_only=True)
    assert_same_bits(expected(), folder)


def test_two_processes_of_one_command(unbroken, short_file, tmp_path):
    """The second ends in one line, the first goes on as if nothing had been."""
    argv = command("bc.py", short_file)
    expected = unbroken("bc.py", argv, stages_only=True)
    runs = tmp_path / "runs"
    blow = Blow("actor_all", "update", count=3, what=signal.SIGSTOP)
    first = lives.start("bc.py", [*argv, "--runs", runs], tmp_path / "first", blow=blow, stages_only=True)
    stop = time.monotonic() + 100
    while Path(f"/proc/{first.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < stop and first.is_alive(), (tmp_path / "first").read_text()
        time.sleep(0.01)
    second = lives.start("bc.py", [*argv, "--runs", runs], tmp_path / "second", stages_only=True)
    assert end(second) == 1
    os.kill(first.pid, signal.SIGCONT)
    assert said(tmp_path / "second") == [f"error: another process works in {only_one(runs)}"]
    assert end(first) == 0
    assert_same_bits(expected(), only_one(runs))


def test_full_disk(unbroken, short_file, tmp_path):
    """No room for a checkpoint, then for not even a line of metrics.jsonl: one line each time.

    Nothing is lost. The limit on the size of a file, set while the script runs, stands in for the disk: it
    fails the same writes.
    """
    argv = command("bc.py", short_file, num_labeled_trajectories=(2,), bc__num_updates=60)
    runs = tmp_path / "runs"
    expected = unbroken("bc.py", argv, stages_only=True)
    for room in (100_000, 0):
        process = start(ROOT / "bc.py", *argv, *ALWAYS, "--runs", runs)
        started = time.time()

        def has_begun(since=started):
            return any(path.stat().st_mtime > since for path in runs.glob("*/checkpoint.pt"))

        wait_for(process, has_begun)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (room, room))
        message = process.communicate(timeout=240)[1]
        assert process.returncode == 1 and "Traceback" not in message, message
        last = message.splitlines()[-1]
        assert last.startswith("error: ") and "File too large" in last, message
        assert room == 0 or "/checkpoint.pt: " in last and "what was saved before stands" in last
        assert not list(only_one(runs).glob("*.partial"))  # it would fill the disk
    last = lives.start("bc.py", [*argv, "--runs", runs], tmp_path / "log", stages_only=True)
    assert end(last) == 0, (tmp_path / "log").read_text()
    assert_same_bits(expected(), only_one(runs))


@pytest.fixture
def new_run(short_file, tmp_path, monkeypatch):
    """Begins a run of bc.py in this process, or continues it."""
    monkeypatch.setattr(signal, "signal", lambda *handler: None)  # pytest keeps its own
    args = parse("bc.py", short_file, runs=tmp_path / "runs", checkpoint_minutes=0)
    datasets = bc.load_data(args)
    return lambda: bc.Run(args, *bc.find_folder(args, *datasets)[:2], datasets[1], {})


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_a_disk_without_locks_is_a_warning(number, new_run, monkeypatch, capsys):
    """As Lustre and NFS answer; the run goes on."""

    def flock(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    run = new_run()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert line.startswith(f"warning: {run.folder}/metrics.jsonl: {os.strerror(number)}")
    run.write_record("actor_2", {"step": 1})
    assert read_records(Path(run.folder)) == [{"stage": "actor_2", "step": 1}]


def test_files_are_on_the_disk_before_they_have_their_names(new_run, monkeypatch):
    """The lines that a checkpoint counts, then the whole checkpoint, then its name."""
    run = new_run()
    calls = []
    fsync = os.fsync
    replace = os.replace

    def recorded_fsync(number):
        path = Path(os.readlink(f"/proc/self/fd/{number}"))
        calls.append(("fsync", path.name, path.stat().st_size))
        fsync(number)

    def recorded_replace(source, target):
        calls.append(("replace", Path(target).name, Path(source).stat().st_size))
        replace(source, target)

    run.write_record("actor_2", {"step": 1})
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    run.save_checkpoint({"stage": "actor_2", "parts": {"actor": torch.nn.Linear(200, 200).state_dict()}})
    line, written, renamed = calls
    assert line == ("fsync", "metrics.jsonl", Path(run.folder, "metrics.jsonl").stat().st_size)
    size = Path(run.folder, "checkpoint.pt").stat().st_size
    assert written == ("fsync", "checkpoint.pt.partial", size) and size > 160_000
    assert renamed == ("replace", "checkpoint.pt", size)


def test_a_checkpoint_is_released_once_loaded(new_run):
    """Weights and Adam's state would else stay in memory, twice, to the end of the run."""

    def begin_stage():
        run = new_run()
        actor = torch.nn.Linear(2, 2)
        return run, run.steps("actor_1", 5, 16, actor=actor, optim=torch.optim.Adam(actor.parameters()))

    run, steps = begin_stage()
    assert [next(steps), next(steps), next(steps)] == [0, 1, 2]
    run.metrics.close()

    run, steps = begin_stage()
    kept = [weakref.ref(tensor) for tensor in run.checkpoint["parts"]["actor"].values()]
    assert next(steps) == 2
    gc.collect()
    assert all(tensor() is None for tensor in kept)


# ---- Two ranks ---------------------------------------------------------------------------------------------


def command_of_ranks(script: str, data: Path) -> list[str]:
    """Where ranks draw nothing of their own: k = 1, no augmentation, no codes to revive.

    Few updates at a small rate: the longer a run, the more Adam makes of a last bit.
    """
    changes = {"bc__num_epochs": 1, "bc__learning_rate": 3e-4, "num_labeled_trajectories": (2,)}
    if script == "idm.py":
        changes |= {"idm__num_updates": 9, "idm__future_obs_offset": 1}
    elif script == "bc.py":
        changes |= {"bc__num_updates": 9}
    else:
        changes |= {"lam__num_epochs": 1, "lam__future_obs_offset": 1, "lam__learning_rate": 3e-4}
        changes |= {"decoder__num_updates": 9, "decoder__learning_rate": 3e-5}
    if script in ("laom.py", "laom_supervised.py"):
        changes |= {"lam__use_aug": False}
    return command(script, data, **changes)


def live_as_ranks(script: str, argv: list[str], tmp_path: Path, blow=None, **kwargs) -> list[int]:
    """Two lives as the two ranks of one run; the blow is for the second. Their exit codes."""
    port = lives.free_port()
    processes = []
    for rank in range(2):
        rank_kwargs = {"blow": blow if rank else None, "rank": (rank, 2, port)} | kwargs
        processes.append(lives.start(script, argv, tmp_path / f"rank_{rank}", **rank_kwargs))
    try:
        return [end(process) for process in processes]
    finally:
        for process in processes:  # one that waits for a dead one would wait for hours
            process.kill()


def form(value):
    """The shape of nested results."""
    return {name: form(x) for name, x in value.items()} if isinstance(value, dict) else np.shape(value)


def assert_close(one: Path, other: Path):
    """The same weights to rounding, the same lines, and the same form of its results.

    Values in lines are the first rank's.
    """
    expected = weights(one)
    found = weights(other)
    assert expected.keys() == found.keys()
    for file in {name.split("/")[0] for name in expected}:
        names = [name for name in expected if name.startswith(f"{file}/")]
        distance = torch.cat([(found[name] - expected[name]).flatten() for name in names]).norm()
        assert distance < 2e-4 * torch.cat([expected[name].flatten() for name in names]).norm(), file
    lines = []
    for folder in (one, other):
        lines.append([(line["stage"], line.get("step"), line.keys()) for line in read_records(folder)])
    assert lines[0] == lines[1]
    assert form(read_results(one)) == form(read_results(other))


@pytest.mark.parametrize("script", SCRIPTS)
def test_two_ranks_are_one_process(script, unbroken, short_file, tmp_path):
    """With the same batches; the first of the two measures, plays and writes. Both rehearse."""
    stages_only = script != "laom_supervised.py"  # measures and evaluation are the same text in all
    argv = command_of_ranks(script, short_file)
    expected = unbroken(script, argv, stages_only=stages_only)
    runs = tmp_path / "runs"
    rehearsed = [*argv, "--rehearsal", "--runs", runs]
    exitcodes = live_as_ranks(script, rehearsed, tmp_path, stages_only=stages_only)
    assert exitcodes == [0, 0], said(tmp_path / "rank_1")
    assert_close(expected(), only_one(runs))
    first, second = (said(tmp_path / f"rank_{rank}") for rank in range(2))
    assert first[-1] == f"finished: {only_one(runs)}" and not [line for line in second if "run" in line]


def test_ranks_draw_for_themselves():
    """Rows are parts of one draw, offsets and augmentation are a rank's own.

    The first one's stream is that of one process.
    """
    whole = laom.batch_rows(100, 20, 7, 3)
    draws = [torch.rand(4, generator=laom.random_generator("lam", 7, 3, rank)) for rank in range(2)]
    own = torch.rand(4, generator=laom.random_generator("lam", 7, 3))
    assert torch.equal(draws[0], own) and not torch.equal(*draws)
    parts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laom, "WORLD_SIZE", 2)
        for rank in range(2):
            patch.setattr(laom, "RANK", rank)
            parts.append(laom.batch_rows(100, 20, 7, 3))
    assert torch.equal(torch.cat(parts), whole) and len(parts[0]) == 10


def test_a_signal_to_one_rank_stops_all(unbroken, short_file, tmp_path):
    """With a checkpoint, from which both go on."""
    runs = tmp_path / "runs"
    argv = command_of_ranks("bc.py", short_file)
    expected = unbroken("bc.py", argv, stages_only=True)
    words = [*argv, "--runs", runs]
    blow = Blow("actor_2", "update", count=4, what=signal.SIGTERM, checkpoints=False)
    assert live_as_ranks("bc.py", words, tmp_path, blow, stages_only=True) == [1, 1]
    folder = only_one(runs)
    last = said(tmp_path / "rank_0")[-1]
    assert last == f"stopped; the same command continues, or: python {folder}/bc.py"
    assert torch.load(folder / "checkpoint.pt")["step"] == 4
    assert live_as_ranks("bc.py", words, tmp_path, stages_only=True) == [0, 0]
    assert_close(expected(), folder)


@pytest.mark.parametrize(
    "name", ["lam.batch_size", "lam.labeled_batch_size", "bc.batch_size", "decoder.batch_size"]
)
def test_batches_that_ranks_cannot_share(name, short_file, monkeypatch):
    monkeypatch.setattr(laom_supervised, "WORLD_SIZE", 2)
    args = parse("laom_supervised.py", short_file, **{name: 31})
    with pytest.raises(SystemExit, match="error: batch sizes must be multiples of the number of ranks, 2"):
        laom_supervised.load_data(args)


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def rank_of(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        return next((int(word.removeprefix("RANK=")) for word in words if word.startswith("RANK=")), None)


def test_a_killed_rank_ends_the_run_which_goes_on(unbroken, short_file, tmp_path):
    """torchrun ends with an error and leaves no process; the same command goes on, here as one process."""
    argv = command_of_ranks("bc.py", short_file)
    runs = tmp_path / "runs"
    expected = unbroken("bc.py", argv, stages_only=True)
    process = start(*TORCHRUN, ROOT / "bc.py", *argv, *ALWAYS, "--runs", runs)
    wait_for(process, lambda: any(path.read_text().count("\n") > 2 for path in runs.glob("*/metrics.jsonl")))
    children = []
    for path in Path(f"/proc/{process.pid}/task").glob("*/children"):
        children += map(int, path.read_text().split())
    ranks = {rank_of(pid): pid for pid in children}
    os.kill(ranks[1], signal.SIGKILL)
    message = process.communicate(timeout=240)[1]
    assert process.returncode != 0 and not Path(f"/proc/{ranks[0]}").exists(), message
    folder = only_one(runs)
    assert (folder / "checkpoint.pt").exists() and not (folder / "results.json").exists()
    assert end(lives.start("bc.py", [*argv, "--runs", runs], tmp_path / "log", stages_only=True)) == 0
    assert_close(expected(), folder)

"""What a run survives: SIGKILL wherever it hits, SIGTERM, Ctrl-C, NaN, a full disk, a dead rank, edited code.
Two ranks are as one process. Most processes here are lives (lives.py)."""

import contextlib
import errno
import fcntl
import gc
import json
import os
import re
import resource
import shutil
import signal
import time
import types
import weakref
from pathlib import Path

import lives
import numpy as np
import pytest
import torch
from conftest import ROOT, SCRIPTS, command, only_one, parse, read_records, start, wait_for, weights
from lives import Blow, end, said

import bc
import laom
import laom_supervised


def live_through(script: str, argv: list[str], blows: list, tmp_path: Path, **kwargs) -> Path:
    """A run that is hit and resumed again and again until it ends: its folder. A number: killed after so many
    seconds."""
    argv, runs = [*argv, "--runs", tmp_path / "runs"], tmp_path / "runs"
    for number, blow in enumerate([*blows, None]):
        log, planned = tmp_path / f"life_{number}", isinstance(blow, Blow)
        process = lives.start(script, argv, log, blow=blow if planned else None, **kwargs)
        if blow and not planned:
            process.join(blow)
            process.kill()
        exitcode, folder = end(process), only_one(runs)
        argv = ["--resume", folder]
        if not planned:
            assert exitcode == 0 or blow and exitcode == -signal.SIGKILL, log.read_text()
        elif blow.what == signal.SIGKILL:
            assert exitcode == -signal.SIGKILL, (blow, log.read_text())
        elif blow.what == "nan":
            assert exitcode == 1 and re.fullmatch(
                rf"error: {blow.stage}: .*not finite at step \d+.*", said(log)[-1]
            ), said(log)
        else:
            saved = torch.load(folder / "checkpoint.pt", weights_only=True)
            assert (
                exitcode == 1
                and said(log)[-1] == f"stopped; continue with: python {script} --resume {folder}"
            ), said(log)
            assert saved["metrics_size"] == (folder / "metrics.jsonl").stat().st_size, (
                "it stops without a checkpoint"
            )
    return folder


def assert_same_bits(one: Path, other: Path):
    """The same weights, results, measures and metrics: no line is missing, none comes twice."""
    (expected, found), metrics = map(weights, (one, other)), read_records(one)
    assert expected.keys() == found.keys() and all(
        torch.equal(expected[name], found[name]) for name in expected
    )
    assert metrics == read_records(other)
    for stage in {line["stage"] for line in metrics if "step" in line}:
        steps = [line["step"] for line in metrics if line["stage"] == stage]
        assert steps == list(range(1, len(steps) + 1))
    for path in one.glob("*.json"):
        assert path.name == "args.json" or path.read_bytes() == (other / path.name).read_bytes(), path.name


# ---- Killed ------------------------------------------------------------------------------------------------


def blows_of(stage: str, weights: str, rng: np.random.Generator) -> list[Blow]:
    """SIGKILL in a stage's first update, around its lines and checkpoints, and around the file that it
    leaves."""

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
        Blow(stage, weights, "half"),
        Blow(stage, weights),  # the weights are there, the checkpoint does not know it
    ]


def test_hit_anywhere_it_comes_to_the_same_end(unbroken, short_file, tmp_path):
    """laom_supervised.py, hit 44 times, in every stage and between them, ends like a run that nothing hit,
    bit for bit."""
    argv, rng = command("laom_supervised.py", short_file), np.random.default_rng(0)
    expected = unbroken("laom_supervised.py", argv)
    files = ("lam_2", "lam_2.pt"), ("bc_2", "actor_2.pt"), ("decoder_2", "decoder_2.pt")
    lam, bc, decoder = (blows_of(stage, file, rng) for stage, file in files)
    lam.insert(4, Blow("lam_2", "update", count=2, what=signal.SIGTERM, checkpoints=False))
    bc.insert(4, Blow("bc_2", "update", count=2, what=signal.SIGINT, checkpoints=False))
    decoder.insert(4, Blow("decoder_2", "update", count=2, what="nan", checkpoints=False))
    between = [Blow("measure", "start"), Blow("measure", "start", what=signal.SIGINT)]
    evaluation = [
        Blow("eval", "observation", count=3, what=what) for what in (signal.SIGKILL, signal.SIGTERM)
    ]
    blows = [*lam, *between, *bc, *decoder, *evaluation, Blow("eval", "results.json")]
    folder = live_through("laom_supervised.py", argv, blows, tmp_path)
    assert_same_bits(expected(), folder)


def test_killed_at_any_time_between_two_budgets(unbroken, short_file, tmp_path):
    """bc.py, which trains and evaluates twice, killed where it passes from one budget to the next, and at
    arbitrary times."""
    argv, rng = command("bc.py", short_file), np.random.default_rng(1)
    expected = unbroken("bc.py", argv, stages_only=True)
    times = rng.uniform(0.2, 1.5, 4).tolist()
    planned = [
        Blow("bc_all", "checkpoint.pt", "half", 3),
        Blow("eval", "line"),
        Blow("eval", "results.json", "before"),
        Blow("eval", "checkpoint.pt", "before"),
        Blow("bc_1", "line", "half"),
    ]
    folder = live_through("bc.py", argv, [*planned, *times], tmp_path, stages_only=True)
    assert_same_bits(expected(), folder)


def test_no_checkpoint_holds_nan(forks, short_file, tmp_path):
    """An update that leaves NaN in the weights, though its own loss was finite, is not saved."""
    log, blow = tmp_path / "log", Blow("bc_2", "update", count=3, what="nan")
    argv = command("bc.py", short_file, num_labeled_trajectories=(2,))
    assert end(lives.start("bc.py", [*argv, "--runs", tmp_path / "runs"], log, blow=blow)) == 1
    saved = torch.load(only_one(tmp_path / "runs") / "checkpoint.pt", weights_only=True)
    assert said(log)[-1].startswith("error: bc_2: ") and all(
        x.isfinite().all() for x in saved["parts"]["actor"].values()
    )
    assert saved["step"] == 2


def test_full_disk(unbroken, short_file, tmp_path):
    """No room for a checkpoint, then for not even a line of metrics.jsonl: one line each time, and nothing is
    lost. The limit on the size of a file, set while the script runs, stands in for the disk: it fails the
    same writes."""
    argv, runs = command("laom_supervised.py", short_file), tmp_path / "runs"
    expected, words = unbroken("laom_supervised.py", argv), [*argv, "--runs", runs]
    for room in (100_000, 0):
        process, started = start(ROOT / "laom_supervised.py", *words), time.time()
        wait_for(
            process, lambda: any(path.stat().st_mtime > started for path in runs.glob("*/checkpoint.pt"))
        )
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (room, room))
        message = process.communicate(timeout=240)[1]
        assert process.returncode == 1 and "Traceback" not in message, message
        last = message.splitlines()[-1]
        assert last.startswith("error: ") and "File too large" in last, message
        assert room == 0 or "/checkpoint.pt: " in last and "what was saved before stands" in last
        words = ["--resume", only_one(runs)]
        assert not list(only_one(runs).glob("*.partial"))  # it would fill the disk
    assert end(lives.start("laom_supervised.py", words, tmp_path / "log")) == 0
    assert_same_bits(expected(), only_one(runs))


def test_two_processes_on_one_run(finished, tmp_path):
    folder = finished("bc.py")
    with open(folder / "metrics.jsonl", "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert end(lives.start("bc.py", ["--resume", folder], tmp_path / "log")) == 1
    assert said(tmp_path / "log") == [f"error: another process works in {folder}"]


@pytest.fixture
def new_run(short_file, tmp_path, monkeypatch):
    """Begins a run of bc.py in this process."""
    data = bc.Dataset((str(short_file),), parse("bc.py", short_file))
    monkeypatch.setattr(signal, "signal", lambda *handler: None)  # pytest keeps its own
    return lambda: bc.Run(parse("bc.py", short_file, runs=str(tmp_path / "runs")), data)


def test_runs_of_the_same_second_have_their_own_folders(new_run, monkeypatch):
    same = types.SimpleNamespace(strftime=lambda form: "20261126-000000")
    monkeypatch.setattr(bc, "time", same)
    one, other = new_run(), new_run()
    assert one.folder != other.folder and Path(one.folder).is_dir() and Path(other.folder).is_dir()
    assert "cheetah-run__bc__0__20261126-000000" in one.folder


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_a_disk_without_locks_is_a_warning(number, new_run, monkeypatch, capsys):
    """As Lustre and NFS answer; the run goes on."""

    def flock(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    run = new_run()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert line.startswith(f"warning: {run.folder}/metrics.jsonl: {os.strerror(number)}")
    run.write_record({"stage": "bc_2", "step": 1})
    assert read_records(Path(run.folder)) == [{"stage": "bc_2", "step": 1}]


def test_files_are_on_the_disk_before_they_have_their_names(new_run, monkeypatch):
    """The lines that a checkpoint counts, then the whole checkpoint, then its name."""
    run, calls, fsync, replace = new_run(), [], os.fsync, os.replace

    def recorded_fsync(number):
        path = Path(os.readlink(f"/proc/self/fd/{number}"))
        calls.append(("fsync", path.name, path.stat().st_size))
        fsync(number)

    def recorded_replace(source, target):
        calls.append(("replace", Path(target).name, Path(source).stat().st_size))
        replace(source, target)

    run.write_record({"stage": "bc_2", "step": 1})
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    run.save_checkpoint("bc_2", 1, {"actor": torch.nn.Linear(200, 200)})
    line, written, renamed = calls
    assert line == ("fsync", "metrics.jsonl", Path(run.folder, "metrics.jsonl").stat().st_size)
    size = Path(run.folder, "checkpoint.pt").stat().st_size
    assert written == ("fsync", "checkpoint.pt.partial", size) and size > 160_000
    assert renamed == ("replace", "checkpoint.pt", size)


# ---- Resumed with other arguments or other code ------------------------------------------------------------


@pytest.mark.parametrize("words,message", [
    (["nowhere"], "error: --resume nowhere: not the folder of a run of bc.py"),
    ([], "error: --resume {laom}: not the folder of a run of bc.py"),
    (["{bc}", "--seed", "3"], "error: --seed with --resume: a run goes on with its own arguments"),
    (["{bc}", "--bc.batch-size=64"], "error: --bc.batch-size=64 with --resume: a run goes on with"),
    (["{bc}", "--no-track"], "error: --no-track with --resume: a run goes on with"),
])  # fmt: skip
def test_resume_takes_a_run_and_nothing_else(words, message, finished):
    folders = {"laom": finished("laom.py"), "bc": finished("bc.py")}
    words = [word.format(**folders) for word in words or ["{laom}"]]
    with pytest.raises(SystemExit) as error:
        bc.parse_args(["--resume", *words])
    assert str(error.value).startswith(message.format(**folders)) and "\n" not in str(error.value)


def test_an_edited_script_resumes_if_it_is_accepted(unbroken, short_file, tmp_path):
    """It is refused in one line that names both files. Accepted, it goes on with the run's values: an edited
    preset changes nothing. What belongs to the machine may be given."""
    argv, blow = command("bc.py", short_file), Blow("bc_1", "update", count=5, what=signal.SIGTERM)
    expected = unbroken("bc.py", argv, stages_only=True)
    assert (
        end(
            lives.start(
                "bc.py", [*argv, "--runs", tmp_path / "runs"], tmp_path / "log", blow=blow, stages_only=True
            )
        )
        == 1
    )
    folder, edited = only_one(tmp_path / "runs"), tmp_path / "edited" / "bc.py"
    edited.parent.mkdir()
    source = (ROOT / "bc.py").read_text()
    changes = {
        "learning_rate: float = 1e-4": "learning_rate: float = 1.0",
        "frame_stack: int = 3": "frame_stack: int = 5",
    }
    edited.write_text(source)
    for old, new in changes.items():
        assert source.count(old) == 1
        edited.write_text(edited.read_text().replace(old, new))
    assert source == (folder / "bc.py").read_text()

    assert end(lives.start(edited, ["--resume", folder], tmp_path / "refused", stages_only=True)) == 1
    (line,) = said(tmp_path / "refused")
    assert line.startswith(f"error: {edited} is not {folder}/bc.py") and "--accept-edited-script" in line
    words = ["--resume", folder, "--accept-edited-script", "--eval.num-workers", 2, "--device", "cpu"]
    assert end(lives.start(edited, words, tmp_path / "accepted", stages_only=True)) == 0, (
        tmp_path / "accepted"
    ).read_text()
    assert_same_bits(expected(), folder)


def test_only_a_later_stage_anew(finished, tmp_path):
    """A copy of a run without the files of some stages, with other arguments in args.json, makes these stages
    again."""
    first, folder = finished("laom.py"), tmp_path / "copy"
    shutil.copytree(first, folder)
    for name in ("actor.pt", "decoder_1.pt", "decoder_2.pt", "checkpoint.pt", "metrics.jsonl"):
        (folder / name).unlink()
    args = json.loads((folder / "args.json").read_text())
    args["bc"]["num_epochs"] = 1
    (folder / "args.json").write_text(json.dumps(args))
    assert end(lives.start("laom.py", ["--resume", folder], tmp_path / "log")) == 0, (
        tmp_path / "log"
    ).read_text()
    one, other = weights(first), weights(folder)
    assert one.keys() == other.keys()
    assert all(
        torch.equal(one[name], other[name]) == name.startswith("lam.pt")
        for name in one
        if name.endswith("weight")
    )
    stages = [(line["stage"], line["step"]) for line in read_records(folder) if "step" in line]
    assert (
        {stage for stage, _ in stages} == {"bc", "decoder_1", "decoder_2"}
        and max(stages)[1] == 27
        and ("bc", 10) not in stages
    )
    results = [json.loads((run / "results.json").read_text()) for run in (first, folder)]
    assert (
        results[0]["latent_actions"] == results[1]["latent_actions"]
        and results[0]["budgets"] != results[1]["budgets"]
    )


# ---- Two ranks ---------------------------------------------------------------------------------------------


def command_of_ranks(script: str, data: Path) -> list[str]:
    """Where ranks draw nothing of their own: k = 1, no augmentation, no codes to revive. Few updates at a
    small rate: the longer a run, the more Adam makes of a last bit."""
    own = {
        "lapo.py": {},
        "laom.py": {"lam__use_aug": False},
        "laom_supervised.py": {"lam__use_aug": False},
        "idm.py": {"idm__num_updates": 9, "idm__future_obs_offset": 1},
        "bc.py": {"bc__num_updates": 9},
    }[script]
    if script not in ("idm.py", "bc.py"):
        own |= {
            "lam__num_epochs": 1,
            "lam__future_obs_offset": 1,
            "decoder__num_updates": 9,
            "decoder__learning_rate": 3e-5,
            "lam__learning_rate": 3e-4,
        }
    return command(
        script, data, num_labeled_trajectories=(2,), bc__num_epochs=1, bc__learning_rate=3e-4, **own
    )


def live_as_ranks(
    script: str, argv: list[str], tmp_path: Path, blow: Blow | None = None, **kwargs
) -> list[int]:
    """Two lives as the two ranks of one run; the blow is for the second. Their exit codes."""
    port = lives.free_port()
    logs = tmp_path / "rank_0", tmp_path / "rank_1"
    processes = [
        lives.start(script, argv, log, blow=blow if rank else None, rank=(rank, 2, port), **kwargs)
        for rank, log in enumerate(logs)
    ]
    try:
        return [end(process) for process in processes]
    finally:
        for process in processes:  # one that waits for a dead one would wait for hours
            process.kill()


def assert_close(one: Path, other: Path):
    """The same weights to rounding, the same lines, and the same form of its results. Values in lines are the
    first rank's."""
    expected, found = weights(one), weights(other)
    assert expected.keys() == found.keys()
    for file in {name.split("/")[0] for name in expected}:
        names = [name for name in expected if name.startswith(f"{file}/")]
        distance = torch.cat([(found[name] - expected[name]).flatten() for name in names]).norm()
        assert distance < 2e-4 * torch.cat([expected[name].flatten() for name in names]).norm(), file
    metrics = [
        [(line["stage"], line.get("step"), line.keys()) for line in read_records(folder)]
        for folder in (one, other)
    ]
    assert metrics[0] == metrics[1]

    def form(value):
        return {name: form(x) for name, x in value.items()} if isinstance(value, dict) else np.shape(value)

    results = [json.loads((folder / "results.json").read_text()) for folder in (one, other)]
    assert form(results[0]) == form(results[1])


@pytest.mark.parametrize("script", SCRIPTS)
def test_two_ranks_are_one_process(script, unbroken, short_file, tmp_path):
    """With the same batches; the first of the two measures, plays and writes."""
    stages_only = script != "laom_supervised.py"  # measures and evaluation are the same text in all
    argv = command_of_ranks(script, short_file)
    expected, runs = unbroken(script, argv, stages_only=stages_only), tmp_path / "runs"
    assert live_as_ranks(script, [*argv, "--runs", runs], tmp_path, stages_only=stages_only) == [0, 0], said(
        tmp_path / "rank_1"
    )
    assert_close(expected(), only_one(runs))


def test_a_checkpoint_is_released_once_loaded(short_file, tmp_path, monkeypatch):
    """Weights and Adam's state would else stay in memory, twice, to the end of the run."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    args = parse("bc.py", short_file, runs=tmp_path)
    data = bc.Dataset(args.data, args)

    def begin_stage():
        run = bc.Run(args, data)
        actor = torch.nn.Linear(2, 2)
        return run, run.steps("bc_1", 5, 16, actor=actor, optim=torch.optim.Adam(actor.parameters()))

    run, steps = begin_stage()
    assert [next(steps), next(steps), next(steps)] == [0, 1, 2]
    run.metrics.close()

    args.resume = run.folder
    run, steps = begin_stage()
    kept = [weakref.ref(tensor) for tensor in run.checkpoint["parts"]["actor"].values()]
    assert next(steps) == 2
    gc.collect()
    assert all(tensor() is None for tensor in kept)


def test_ranks_draw_for_themselves():
    """Rows are parts of one draw, offsets and augmentation are a rank's own; the first one's stream is that
    of one process."""
    both = []
    whole = laom.batch_rows(100, 20, 7, 3)
    draws = [torch.rand(4, generator=laom.random_generator("lam", 7, 3, rank)) for rank in range(2)]
    own = torch.rand(4, generator=laom.random_generator("lam", 7, 3))
    assert torch.equal(draws[0], own) and not torch.equal(*draws)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laom, "WORLD_SIZE", 2)
        for rank in range(2):
            patch.setattr(laom, "RANK", rank)
            both.append(laom.batch_rows(100, 20, 7, 3))
    assert torch.equal(torch.cat(both), whole) and len(both[0]) == 10


def test_a_signal_to_one_rank_stops_all(unbroken, short_file, tmp_path):
    """With a checkpoint, from which both go on."""
    argv = command_of_ranks("bc.py", short_file)
    expected, runs = unbroken("bc.py", argv, stages_only=True), tmp_path / "runs"
    blow = Blow("bc_2", "update", count=4, what=signal.SIGTERM, checkpoints=False)
    assert live_as_ranks("bc.py", [*argv, "--runs", runs], tmp_path, blow, stages_only=True) == [1, 1]
    folder = only_one(runs)
    assert said(tmp_path / "rank_0")[-1] == f"stopped; continue with: python bc.py --resume {folder}"
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == 4
    assert live_as_ranks("bc.py", ["--resume", folder], tmp_path, stages_only=True) == [0, 0]
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


def test_a_killed_rank_ends_the_run_which_resumes(unbroken, short_file, tmp_path):
    """torchrun ends with an error and leaves no process; as two ranks and as one process, the run goes on to
    the same weights."""
    argv, runs = command_of_ranks("laom_supervised.py", short_file), tmp_path / "runs"
    expected = unbroken("laom_supervised.py", argv)
    process = start(*TORCHRUN, ROOT / "laom_supervised.py", *argv, "--runs", runs)
    wait_for(process, lambda: any(path.read_text().count("\n") > 2 for path in runs.glob("*/metrics.jsonl")))
    children = [
        int(pid)
        for path in Path(f"/proc/{process.pid}/task").glob("*/children")
        for pid in path.read_text().split()
    ]
    ranks = {rank_of(pid): pid for pid in children}
    os.kill(ranks[1], signal.SIGKILL)
    message = process.communicate(timeout=240)[1]
    assert process.returncode != 0 and not Path(f"/proc/{ranks[0]}").exists(), message
    folder = only_one(runs)
    copy = shutil.copytree(folder, tmp_path / "as_one" / folder.name)
    assert (folder / "checkpoint.pt").exists() and not (folder / "results.json").exists()

    process = start(*TORCHRUN, lives.__file__, "laom_supervised.py", "--resume", folder)
    alone = lives.start("laom_supervised.py", ["--resume", copy], tmp_path / "log")
    message = process.communicate(timeout=120)[1]
    assert process.returncode == 0 and end(alone) == 0, message
    for resumed in (folder, copy):
        assert_close(expected(), resumed)
    assert only_one(runs) == folder

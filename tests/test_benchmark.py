"""benchmark/: commands that the scripts accept, what is skipped and resumed, figures, the page, the table,
offline measures.

The runs that are drawn are written here in the format of the scripts, with numbers that are easy to tell
apart. Measured are finished runs of the tiny recipe.
"""

import copy
import csv
import dataclasses
import html.parser
import importlib
import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import figures
import h5py
import lives
import measure
import numpy as np
import page
import plot
import pytest
import run as benchmark
import stats
import table
import throughput
import torch
from conftest import ROOT, beside
from PIL import Image
from run import CLEAN, DISTRACTORS, METHODS, SCALES

import collect_data

FIGURES = list(benchmark.list_figures(SCALES["demo"]))
DRAWN = [name for name in FIGURES if not name.startswith("table")]
# a scale as small as the real ones are large: two tasks, two seeds, two sizes of z
TINY = dataclasses.replace(
    SCALES["demo"],
    tasks=("cheetah-run", "walker-run"),
    other_tasks=("walker-run", "hopper-hop"),
    seeds=(0, 1),
    budgets=(2, 8),
    smaller_dims=(16, 64),
)


def parse(job: benchmark.Job):
    script, *argv = job.command
    return importlib.import_module(script.removesuffix(".py").replace("/", ".")).parse_args(argv)


def arguments(job: benchmark.Job) -> dict:
    """What the job's script writes into args.json."""
    *shared, _, seed, _, runs = job.command
    return {**copy.deepcopy(benchmark.parse(*shared)), "seed": int(seed), "runs": runs}


def measures(kinds: list[str], error: float) -> dict:
    numbers = {}
    for videos in table.VIDEOS:
        for kind in [*kinds, "blind_probe"]:
            numbers[f"{kind}_mse_over_var/{videos}"] = error
        numbers[f"perturbation_r2/{videos}"] = 1 - error * 0.99  # beyond the blind one: 1 - error
        numbers[f"blind_perturbation_r2/{videos}"] = 0.01
        numbers[f"plan_r2/{videos}"] = 1 - error / 2
        numbers[f"blind_plan_r2/{videos}"] = 0.4
    return numbers | {
        "effective_rank": 12.5,
        "shuffled_loss_ratio": 1.5,
        "distractor_share/no_distractors": 0.25,
    }


def write_run(
    job: benchmark.Job,
    score: float = 0.5,
    error: float = 0.3,
    unfinished: bool = False,
    folder: Path | None = None,
) -> Path:
    """A run's folder as the job's script leaves it, with returns about score times 100 and no weights."""
    script, args, rng = Path(job.script).name, arguments(job), np.random.default_rng(job.seed)
    folder = (
        folder
        or ROOT / args["runs"] / f"{job.task}__{script.removesuffix('.py')}__{job.seed}__20260101-000000"
    )
    folder.mkdir(parents=True)
    (folder / script).write_text("")
    (folder / "args.json").write_text(json.dumps(args))

    def videos():
        returns = (100 * score + rng.normal(0, 5, 10)).tolist()
        played = {"return_mean": 100 * score, "return_std": 5.0, "returns": returns}
        return played | {"normalized_score": score}

    results = {
        "script": script,
        "task": job.task,
        "difficulty": job.difficulty,
        "seed": job.seed,
        "world": 2,
        "dataset_return": 820.2,
    }
    results |= {"random_return": 3.3, "reference_return": 823, "budgets": {}}
    for number in args["num_labeled_trajectories"]:
        budget = {
            "laom_supervised.py": {"latent_actions": measures(["action_probe", "action_head"], error)}
        }.get(script, {})
        budget |= {"idm.py": {"idm": measures(["idm"], error)}, "bc.py": {"action_mse_over_var": error}}.get(
            script, {}
        )
        results["budgets"][str(number)] = budget | {"seen_videos": videos(), "unseen_videos": videos()}
    if script in ("lapo.py", "laom.py"):
        results["latent_actions"] = measures(["action_probe"], error)
    if not unfinished:
        (folder / "results.json").write_text(json.dumps(results))
    if "lam" in args:
        (folder / "metrics.jsonl").write_text(
            json.dumps({"stage": "lam", "lam/action_probe_mse": error, "lam/obs_action_probe_mse": error / 2})
            + "\n"
            + json.dumps({"stage": "bc", "bc/loss": 0.7})
            + "\n"
        )
    return folder


def all_jobs(scale, runs: Path, *words: str) -> list[benchmark.Job]:
    return benchmark.make_jobs(scale, benchmark.choose_figures(scale, words or ("all",)), (), (), runs)


def touch_data(jobs: list[benchmark.Job]):
    for file in {file for job in jobs for file in job.files}:
        for path in (Path(file), Path(file.replace("__train", "__val"))):
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(path, "w") as data:
                data.attrs["world"] = 2


def test_an_earlier_world_is_refused(tiny):
    """Data of before ends it in one line; a finished run of before does not count."""
    (job, *_) = jobs = all_jobs(SCALES["demo"], tiny / "runs", "figure_07")
    touch_data(jobs)
    figures = benchmark.choose_figures(SCALES["demo"], ("figure_07",))
    assert benchmark.data_commands(SCALES["demo"], figures, jobs, ()) == {}
    with h5py.File(job.files[0], "r+") as data:
        del data.attrs["world"]
    with pytest.raises(SystemExit, match="error: .* shows world 1, not 2: remove it"):
        benchmark.data_commands(SCALES["demo"], figures, jobs, ())

    folder = write_run(job)
    assert benchmark.find_run(job) == (folder, True)
    change_results(folder, world=1)
    assert benchmark.find_run(job) == (None, False)


@pytest.fixture
def tiny(monkeypatch, tmp_path) -> Path:
    """The tiny scale under the name of the demo's, its data and runs in a temporary folder."""
    monkeypatch.setitem(SCALES, "demo", dataclasses.replace(TINY, data=tmp_path / "data"))
    return tmp_path


@pytest.fixture
def executed(monkeypatch) -> list[list[str]]:
    """The commands that the runner gives to the operating system, which are not run."""
    commands = []
    monkeypatch.setattr(benchmark, "execute", lambda command, **_: not commands.append(command))
    return commands


def run_all(folder: Path, *words: str, **changes):
    benchmark.main(benchmark.Args(words, runs=folder / "runs", **changes))


def plot_all(folder: Path, *words: str, **changes):
    changes = {"runs": (f"{folder}/runs/*/*/*",), "output": folder / "pictures"} | changes
    plot.main(plot.Args(words or ("all",), **changes))


def pictures(folder: Path) -> set[str]:
    return {path.stem.removeprefix("demo_") for path in (folder / "pictures").glob("*.png")}


# ---- run.py ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale_name", list(SCALES))
def test_scripts_accept_every_command(scale_name, tmp_path):
    scale = dataclasses.replace(SCALES[scale_name], data=tmp_path / "data")
    jobs = all_jobs(scale, Path("runs/benchmark") / scale_name)
    assert len({tuple(job.command) for job in jobs}) == len(jobs)
    for job in {(job.name, job.difficulty): job for job in jobs}.values():
        args = parse(job)
        assert (args.seed, str(args.runs).split("/")[2]) == (job.seed, scale_name)
        assert all(job.difficulty in path for path in args.data)
        assert set(map(str, args.num_labeled_trajectories)) <= {"all", *map(str, scale.budgets)}
    commands = benchmark.data_commands(scale, {}, jobs, ())
    assert set(commands) == {file for job in jobs for file in job.files}
    for file, (script, *argv) in commands.items():
        args = importlib.import_module(script.removesuffix(".py")).parse_args(argv)
        assert (
            Path(file).parent == args.output
            and f"__{args.difficulty}__" in file
            and (args.rerender or args.task in file)
        )
        if not args.rerender:
            domain, _, task = args.task.partition("-")
            attributes = dataclasses.asdict(args) | {"domain_name": domain, "task_name": task}
            assert collect_data.dataset_path(args.output, attributes | {"split": "train"}) == Path(file)
    assert benchmark.choose_figures(scale, ("figure_09",)).keys() == {"figure_09a", "figure_09bc"}


def test_every_figure_has_its_runs():
    for scale in SCALES.values():
        runs, figures = benchmark.list_runs(scale), benchmark.list_figures(scale)
        assert {name for figure in figures.values() for name in figure.distractors + figure.clean} == set(
            runs
        )
    paper = {f"figure_{number:02}" for number in (1, *range(5, 16))} | {
        f"table_{number}" for number in range(1, 5)
    }
    own = {"measures_and_returns"}
    assert {re.match(r"[a-z]+_\d+", name)[0] for name in set(FIGURES) - own} == paper


def test_figures_share_runs():
    scale = SCALES["mini"]
    one, all_five = (
        all_jobs(scale, Path("runs"), *words)
        for words in (["figure_08"], ["figure_01", "figure_08", "figure_09a"])
    )
    assert len(one) == len(METHODS) * len(scale.tasks) * len(scale.seeds)
    assert [job.command for job in one] == [job.command for job in all_five]
    # LAOM with augmentation is LAOM where the preset augments
    names = {
        scale: {job.name for job in all_jobs(SCALES[scale], Path("runs"), "figure_06")}
        for scale in ("paper", "demo")
    }
    assert "laom" in names["paper"] and "laom_aug" not in names["paper"] and "laom_aug" in names["demo"]


def test_the_ablation_changes_one_thing_at_a_time():
    """Figure 6, at the paper's scale: what each step has that the step before has not."""
    known, steps = (
        benchmark.identities(SCALES["paper"], "cheetah-run"),
        benchmark.list_figures(SCALES["paper"])["figure_06"].distractors,
    )
    changes = [
        {key: new[key] for key in new if key.startswith("lam.") and new[key] != old.get(key)}
        for old, new in zip((known[name] for name in steps), (known[name] for name in steps[1:]))
    ]
    assert changes[0] == {"lam.future_obs_offset": 10} and changes[1] == {"lam.latent_action_dim": 8192}
    assert known[steps[2]]["script"] == "lapo.py" and known[steps[3]]["script"] == "laom.py"
    assert changes[2]["lam.use_aug"] is False and changes[3] == {"lam.use_aug": True}


def test_a_night_decides_in_its_order():
    """Its parts, exactly; what costs a new LAM has one budget, and other figures need the same runs."""
    scale = SCALES["mini"]

    def night(**chosen):
        figures = benchmark.choose_figures(scale, ("night",), night=True)
        chosen = {"tasks": (), "seeds": ()} | chosen
        return benchmark.make_jobs(scale, figures, **chosen, runs=Path("runs"))

    jobs = night()
    parts = [[job for job in jobs if job.part == part] for part in range(1, 6)]
    assert [job for part in parts for job in part] == jobs and len(jobs) == 54
    first, changes, walker, repeated, changes_repeated = [
        sorted((job.folder.name, job.task, job.seed) for job in part) for part in parts
    ]
    assert [job.name for job in parts[0]] == METHODS and not any(job.seed for job in parts[0])
    ladder = ["lapo_original", "lapo_multi_step", "laom_aug", "lapo_original_fsq"]
    once = ["lapo_original_vq", "laom_16", "laom_supervised_16"]
    clean = [f"{name}__{CLEAN}" for name in METHODS]
    assert changes == sorted((name, "cheetah-run", 0) for name in [*ladder, *once, *clean])
    assert walker == sorted((name, "walker-run", 0) for name in METHODS)
    assert repeated == sorted(
        (name, task, seed) for name in METHODS for task in scale.tasks for seed in (1, 2)
    )
    of_seeds = [*ladder, f"lapo__{CLEAN}", f"laom__{CLEAN}"]
    assert changes_repeated == sorted((name, "cheetah-run", seed) for name in of_seeds for seed in (1, 2))

    budgets = {job.name: benchmark.values(job.command, "--num-labeled-trajectories") for job in jobs}
    assert budgets["bc"] == ["all", "2", "8", "32"] and budgets["laom"] == ["2", "8", "32"]
    assert budgets["idm"] == budgets["laom_supervised"] == budgets["laom_supervised_16"] == ["8"]
    assert all(
        job.command.count("0") == 1 + (job.seed == 0) for job in jobs if job.name in ladder
    )  # no policy
    of_all = [job.command for job in all_jobs(scale, Path("runs"))]
    assert all(job.command in of_all for job in jobs)

    some = night(tasks=("walker-run",), seeds=(0, 1))
    assert [job.command for job in some] == [
        job.command for job in jobs if job.task == "walker-run" and job.seed < 2
    ]


def test_a_task_has_its_own_flags():
    """And its runs are found by them: mini's walker-run takes more passes."""
    scale = SCALES["mini"]
    passes = [benchmark.identities(scale, task)["laom"]["bc.num_epochs"] for task in scale.tasks]
    assert passes == [5, 12]


def test_dry_run_starts_nothing(tiny, executed, capsys):
    run_all(tiny, "all", dry_run=True)
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert {line.split()[0] for line in lines} == {"#", "python"} and lines[-1].startswith("# ")
    of_lapo = [line for line in lines if line.startswith("python lapo.py")]
    assert all(re.search(r"__lapo__\d__\* --only-missing", line) for line in of_lapo)
    assert len(of_lapo) == sum("&& python benchmark/measure.py" in line for line in of_lapo)
    assert not executed and not (tiny / "runs").exists()
    assert (
        printed.count("\npython collect_data.py") == 7
    )  # two tasks in both settings, a third to pre-train on, two twins
    assert "python laom_supervised.py demo" in printed and "benchmark/measure.py" in printed


def test_what_is_not_measured_is_measured(tiny, capsys):
    """A begun run behind its first stage, and a finished one that was measured without its twin."""
    begun, finished, *_ = all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_07")
    assert begun.twin and finished.twin
    folders = [write_run(begun, unfinished=True), write_run(finished)]
    for folder in folders:
        (folder / "lam.pt").touch()
    (folder / "lam.json").write_text('{"effective_rank": 3.0}')

    def printed() -> list[str]:
        run_all(tiny, "figure_07", dry_run=True)
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("python")]
        return [next((line for line in lines if str(folder) in line), "") for folder in folders]

    of_begun, of_finished = printed()
    assert "--resume" in of_begun and "&& python benchmark/measure.py" in of_begun
    assert of_finished.startswith(f"python benchmark/measure.py {folder} --only-missing --twin-data")
    (folder / "lam.json").write_text('{"distractor_share/no_distractors": 0.5}')
    assert printed() == [of_begun, ""]


def test_finished_runs_are_skipped_and_begun_ones_resumed(tiny, executed, capsys):
    jobs = all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_07")
    touch_data(jobs)
    write_run(jobs[0])
    begun = write_run(jobs[1], unfinished=True)
    other = write_run(jobs[2])  # finished once with other label budgets: it cannot be resumed to these
    args = json.loads((other / "args.json").read_text()) | {"num_labeled_trajectories": [2]}
    (other / "args.json").write_text(json.dumps(args))
    with pytest.raises(SystemExit) as error:  # nothing was run, so no results.json came
        run_all(tiny, "figure_07")
    assert executed[0] == [str(begun / jobs[1].script), "--resume", str(begun)]
    assert executed[1:] == [job.command for job in jobs[2:]]
    assert all(str(job) in str(error.value) for job in jobs[1:]) and str(jobs[0]) not in str(error.value)
    assert "# 16 runs: 1 finished, 1 begun, 14 not begun" in capsys.readouterr().out
    assert len(json.loads((begun / "wall_clock.json").read_text())["seconds"]) == 1


def test_a_failing_run_does_not_stop_the_others(tiny, monkeypatch):
    """The runs of seed 0 fail; those of seed 1 are there afterwards, and the end names the others."""
    jobs = all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_09a")
    touch_data(jobs)
    by_command = {tuple(job.command): job for job in jobs}
    monkeypatch.setattr(
        benchmark,
        "execute",
        lambda command, **_: (job := by_command[tuple(command)]).seed == 1 and bool(write_run(job)),
    )
    with pytest.raises(SystemExit, match="error: these failed") as error:
        run_all(tiny, "figure_09a")
    assert str(error.value).splitlines()[1:] == [str(job) for job in jobs if job.seed == 0]
    assert len(list(tiny.glob("runs/demo/*/*/wall_clock.json"))) == len(jobs) / 2


def test_a_full_disk_ends_one_run(tiny, monkeypatch):
    """What it takes down is named at the end, and what was noted before stays whole."""
    jobs = all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_09a")
    touch_data(jobs)
    by_command = {tuple(job.command): job for job in jobs}
    monkeypatch.setattr(
        benchmark, "execute", lambda command, **_: bool(write_run(by_command[tuple(command)]))
    )
    monkeypatch.setattr(benchmark, "machine", lambda: "abacus")
    full = {jobs[0].folder, jobs[1].folder}
    write_text = Path.write_text

    def write(path: Path, text: str):
        if path.parent.parent in {tiny / folder for folder in full} and path.suffix == ".partial":
            raise OSError(28, "No space left on device", str(path))
        write_text(path, text)

    monkeypatch.setattr(Path, "write_text", write)
    with pytest.raises(SystemExit, match="error: these failed") as error:
        run_all(tiny, "figure_09a")
    failed = [job for job in jobs if job.folder in full]
    lines = str(error.value).splitlines()[1:]
    assert len(lines) == len(failed) and all("No space left" in line for line in lines)
    assert len(list(tiny.glob("runs/demo/*/*/wall_clock.json"))) == len(jobs) - len(failed)


def test_data_is_collected_before_the_runs(tiny, executed):
    with pytest.raises(SystemExit, match="is missing"):
        run_all(tiny, "figure_09a", tasks=("walker-run",), seeds=(0,))
    assert [command[0] for command in executed] == ["collect_data.py", "collect_data.py"]
    assert "--rerender" not in executed[0] and "--rerender" in executed[1] and "walker-run" in executed[0]


@pytest.fixture
def variant(tmp_path) -> Path:
    """A script of one's own, anywhere: laom.py with another default and an argument more."""
    source = (ROOT / "laom.py").read_text()
    field = "    target_tau: float = 0.001  # step of the slow copy towards the encoder\n"
    assert source.count(field) == 1
    changed = field.replace("0.001", "0.01") + "    temperature: float = 0.5  # of the cosine\n"
    path = tmp_path / "my scripts" / "laom_cosine.py"
    path.parent.mkdir()
    path.write_text(source.replace(field, changed))
    return path


@pytest.mark.parametrize("scale_name", list(SCALES))
def test_a_variant_has_the_sizes_of_the_method_it_is_like(scale_name, variant):
    scale = benchmark.with_variant(SCALES[scale_name], str(variant), "laom")
    known = benchmark.identities(scale, "cheetah-run")
    assert known["laom_cosine"] == known["laom"] | {
        "script": "laom_cosine.py",
        "lam.target_tau": 0.01,
        "lam.temperature": 0.5,
    }
    figures = benchmark.list_figures(scale)
    assert figures["figure_01"].distractors == ["bc", "idm", "lapo", "laom", "laom_cosine", "laom_supervised"]
    assert figures["figure_07"].clean == ["lapo", "laom", "laom_cosine"]
    assert figures["figure_06"] == benchmark.list_figures(SCALES[scale_name])["figure_06"]


def test_a_variant_is_run_resumed_and_shown(tiny, variant, monkeypatch, capsys):
    """Alone, beside the methods of a figure, and from its checkpoint with the run's own copy."""
    like_laom = {"script": variant, "like": "laom"}
    scale = benchmark.with_variant(SCALES["demo"], str(variant), "laom")
    jobs = all_jobs(scale, tiny / "runs" / "demo", "figure_07")
    touch_data(jobs)
    by_command = {tuple(job.command): job for job in jobs}
    commands = []

    def write_instead(command: list[str], **_) -> bool:
        """Writes the run that the command would make; measures nothing."""
        commands.append(command)
        if tuple(command) in by_command:
            write_run(by_command[tuple(command)], score=0.7)
        return True

    monkeypatch.setattr(benchmark, "execute", write_instead)
    begun = next(job for job in jobs if (job.name, job.difficulty) == ("laom_cosine", DISTRACTORS))
    begun_folder = write_run(begun, unfinished=True)
    with pytest.raises(SystemExit):  # what is resumed here writes no results.json
        run_all(tiny, **like_laom)
    trained = [command for command in commands if command[0] != "benchmark/measure.py"]
    assert trained[0] == [str(begun_folder / "laom_cosine.py"), "--resume", str(begun_folder)]
    assert {command[0] for command in trained[1:]} == {str(variant)} and len(trained) == 4
    assert all("--lam.temperature" not in word for command in commands for word in command)

    shutil.rmtree(begun_folder)
    run_all(tiny, "figure_07", **like_laom)
    assert [str(path) for path in tiny.glob("runs/demo/*/*/laom_cosine.py")] and len(jobs) == 24
    note = json.loads((tiny / next(tiny.glob("runs/demo/laom_cosine/*/wall_clock.json"))).read_text())
    assert (note["script"], note["like"]) == (str(variant), "laom")

    capsys.readouterr()
    plot_all(tiny, "figure_07", "figure_01", "table_2", partial=True)
    assert pictures(tiny) == {"figure_01", "figure_07"}
    assert "| laom_cosine | 0h 0m | 2, 8 | 4 |" in capsys.readouterr().out
    bench = stats.Benchmark("demo", (f"{tiny}/runs/*/*/*",), "seen_videos")
    assert len(bench.find("laom_cosine")) == len(bench.find("laom_cosine", CLEAN)) == 4
    assert not {"laom"} & {name for run in bench.find("laom_cosine") for name in run.names}
    (legend,) = figures.draw_curves(bench, "figure_07").legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert "laom_cosine, with distractors" in labels and "LAOM, without" in labels
    (axes,) = figures.draw_summary(bench, "figure_01").axes
    assert "0.70" not in axes.get_xticklabels()[0].get_text()
    assert [tick.get_text().split("\n")[1] for tick in axes.get_xticklabels()][4] == "laom_cosine"
    table.main(tuple(tiny.glob("runs/demo/laom_cosine/*")))
    assert "laom_cosine__0__20260101-000000 (laom_cosine.py) | 0 | 8 |" in capsys.readouterr().out

    variant.unlink()  # what it was is not known any more
    assert not stats.Benchmark("demo", (f"{tiny}/runs/*/*/*",), "seen_videos").find("laom_cosine")
    assert "is shown once benchmark/run.py has run laom_cosine.py" in capsys.readouterr().out


def test_execute_waits_for_a_checkpoint(monkeypatch, tmp_path):
    """SIGTERM to the runner reaches the script, which may take its time; its exit status decides."""
    script = tmp_path / "script.py"
    script.write_text(
        "import pathlib, signal, sys, time\n"
        "def stop(*_):\n    time.sleep(0.3); pathlib.Path('checkpoint').touch(); sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, stop)\npathlib.Path('ready').touch()\ntime.sleep(30)\n"
    )
    monkeypatch.setattr(benchmark, "ROOT", tmp_path)
    monkeypatch.setattr(benchmark, "STOPPED", [])

    def terminate():
        while not (tmp_path / "ready").exists():
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, benchmark.stop)
    threading.Thread(target=terminate).start()
    try:
        assert (
            not benchmark.execute(["script.py"]) and (tmp_path / "checkpoint").exists() and benchmark.STOPPED
        )
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


SIDE_BY_SIDE = """
import json, os, pathlib, shutil, sys, time
runs, seed = sys.argv[sys.argv.index("--runs") + 1], int(sys.argv[sys.argv.index("--seed") + 1])
began = time.time()
print("seed", seed)
time.sleep(0.7)
variables = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
note = {"began": began, "ended": time.time(), **variables}
pathlib.Path(f"{runs.replace('/', '_')}_{seed}.json").write_text(json.dumps(note))
if seed == 3:
    sys.exit("error: no luck")
shutil.copytree(f"prepared/{pathlib.Path(runs).name}_{seed}", f"{runs}/bc__{seed}")
"""


@pytest.fixture
def prepared(tiny, monkeypatch) -> list[benchmark.Job]:
    """Jobs of Table 3 whose script takes a second and leaves a run that was written before."""
    monkeypatch.setattr(benchmark, "STOPPED", [])
    scale = dataclasses.replace(SCALES["demo"], tasks=("cheetah-run",), seeds=(0, 1, 2, 3))
    monkeypatch.setitem(SCALES, "demo", scale)
    jobs = all_jobs(scale, Path("runs") / "demo", "table_3")
    touch_data(jobs)
    for job in jobs:
        write_run(job, folder=tiny / "prepared" / f"{job.folder.name}_{job.seed}")
    known = benchmark.identities(scale, "cheetah-run")
    monkeypatch.setattr(benchmark, "ROOT", tiny)
    monkeypatch.setattr(benchmark, "identities", lambda scale, task: known)
    (tiny / "bc.py").write_text(SIDE_BY_SIDE)
    return jobs


def test_side_by_side(prepared, tiny, capsys):
    """Two at a time, each with its GPU and its share of the cores; logs, the clock, one line of progress."""
    with pytest.raises(SystemExit) as error:
        benchmark.main(benchmark.Args(("table_3",), runs=Path("runs"), gpus=2))
    logs = [f"runs/demo/logs/{name}__cheetah-run__3.log" for name in ("bc", f"bc__{CLEAN}")]
    failed = [str(job) for job in prepared if job.seed == 3]
    assert str(error.value).splitlines()[1:] == [f"{job}, see {log}" for job, log in zip(failed, logs)]
    said = (tiny / logs[0]).read_text().splitlines()
    assert "python bc.py demo" in said[0] and said[1:] == ["seed 3", "error: no luck"]

    notes = [json.loads(path.read_text()) for path in tiny.glob("*.json")]
    overlapping = [sum(a["began"] < b["ended"] and b["began"] < a["ended"] for b in notes) for a in notes]
    assert len(notes) == 8 and 2 <= max(overlapping) <= 3  # itself, what is beside it, and perhaps the next
    assert {note["CUDA_VISIBLE_DEVICES"] for note in notes} == {"0", "1"}
    cores = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {note["OMP_NUM_THREADS"] for note in notes} == {str(cores)}
    (clock,) = [json.loads(path.read_text()) for path in tiny.glob("runs/demo/bc/bc__0/wall_clock.json")]
    assert clock["cores"] == [cores] and 0.7 <= clock["seconds"][0] < 10
    printed, errors = capsys.readouterr()
    assert "# 8 runs: 6 finished, 0 begun, 2 not begun; 0.0 hours" in printed
    assert "6 of 8 runs, 2 failed" in errors and "no luck" not in printed


def test_minutes_stop_behind_checkpoints(prepared, tiny, monkeypatch, capsys):
    """What runs gets SIGTERM, the rest does not begin, what has finished is exported; the status is 3."""
    stopping = (
        "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit('behind a checkpoint'))\n"
    )
    script = SIDE_BY_SIDE.replace("time.sleep(0.7)", stopping + "time.sleep(0.5 if seed == 0 else 60)")
    (tiny / "bc.py").write_text(script)
    arguments = benchmark.Args(("table_3",), runs=Path("runs"), jobs=2, minutes=0.05, export=tiny / "out")
    with pytest.raises(SystemExit) as end:
        benchmark.main(arguments)
    assert (
        end.value.code == 3 and "0.05 minutes are over; the same command continues" in capsys.readouterr().out
    )
    assert {path.parent.name for path in tiny.glob("out/demo/cheetah-run/*/seed0")} == {"bc", f"bc__{CLEAN}"}
    logs = {path.name: path.read_text() for path in tiny.glob("runs/demo/logs/bc*__1.log")}
    assert len(logs) == 2 and all("behind a checkpoint" in log for log in logs.values())
    assert not list(tiny.glob("runs/demo/logs/*__2.log"))


def test_two_benchmarks_leave_each_other_alone(prepared, tiny, executed, capsys):
    """A run whose log another process holds is not begun; a dataset is waited for."""
    with benchmark.claim(prepared[0].log), pytest.raises(SystemExit):
        benchmark.main(benchmark.Args(("table_3",), runs=Path("runs")))
    assert executed == [job.command for job in prepared[1:]]
    assert "1 in the hands of another process" in capsys.readouterr().out

    dataset = Path(prepared[0].files[0])
    dataset.rename(tiny / "elsewhere")
    log = benchmark.claim(Path("runs/demo/logs/data.log"))
    other = threading.Timer(0.5, lambda: ((tiny / "elsewhere").rename(dataset), log.close()))
    other.start()
    executed.clear()
    with pytest.raises(SystemExit):
        benchmark.main(benchmark.Args(("table_3",), runs=Path("runs"), seeds=(0,)))
    assert executed[0] == prepared[0].command


def test_time_left():
    """Like runs first; what has been spent counts."""

    def job(name: str, state: str, seconds: float = 0, method: str = "laom") -> benchmark.Job:
        return benchmark.Job(
            name, "cheetah-run", CLEAN, 0, method, [], {}, None, state=state, seconds=seconds
        )

    assert benchmark.seconds_left([job("laom", "waits")], [], 2) is None
    finished = [job("laom", "finished", 100), job("laom", "finished", 200), job("laom_16", "finished", 40)]
    assert benchmark.seconds_left(finished, [], 2) == 0
    assert benchmark.seconds_left([*finished, job("laom", "waits")], [], 2) == 150  # one alone is not halved
    assert benchmark.seconds_left([job("laom", "waits")], finished, 2) == 150  # of another command
    waiting = [job("laom", "waits"), job("laom", "waits", 30), job("laom_16", "waits")]
    assert benchmark.seconds_left([*finished, *waiting], [], 2) == (150 + 120 + 40) / 2
    assert benchmark.seconds_left([*finished, job("bc", "waits", 0, "bc")], [], 1) == 340 / 3


def test_export_keeps_what_is_small(tiny):
    """In place of what was there before; of the metrics few lines, and the end."""
    (job, *_) = all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_07")
    folder = write_run(job)
    for name in ("lam.json", "lam.pt", "rollout_2.gif"):
        (folder / name).write_text(name)
    lines = [{"stage": "lam", "step": 50 * i, "lam/loss": 1 / (1 + i)} for i in range(1000)]
    lines += [{"stage": "eval_2", "eval/return_mean/seen_videos": 3.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    target = tiny / "results" / "cheetah-run" / "lapo" / "seed0"
    target.mkdir(parents=True)
    (target / "lam_8.json").write_text("of an earlier run")
    benchmark.export(job, folder, tiny / "results")
    assert {path.name for path in target.iterdir()} == {
        "args.json",
        "results.json",
        "lam.json",
        "metrics.jsonl",
    }
    kept = [json.loads(line) for line in (target / "metrics.jsonl").read_text().splitlines()]
    assert kept[-6:] == lines[-6:] and 60 < len(kept) <= 101 and all(line in lines for line in kept)


SMALLER = {
    "bc": "--bc.num-epochs 1 --bc.batch-size 11 --bc.encoder-scale 1",
    "lam": "--lam.num-epochs 1 --lam.batch-size 11 --lam.encoder-scale 1 --lam.latent-action-dim 32",
    "heads": "--lam.act-head-dim 32 --lam.obs-head-dim 32",
    "decoder": "--decoder.num-updates 5 --decoder.batch-size 11",
    "eval": "--eval.num-episodes 1 --eval.num-workers 1 --device cpu --precision fp32 --no-compile",
    "idm": "--idm.num-updates 5 --idm.batch-size 11 --idm.encoder-scale 1 --idm.act-head-dim 32",
}
STAGES = {
    "bc": "{bc} {eval} --bc.num-updates 5",
    "idm": "{bc} {eval} {idm} --idm.warmup-epochs 0",
    "lapo": "{bc} {eval} {lam} {decoder}",
    "laom": "{bc} {eval} {lam} {decoder} {heads}",
    "laom_supervised": "{bc} {eval} {lam} {decoder} {heads} --lam.labeled-batch-size 11",
}


def smaller(scale: benchmark.Scale, data: Path) -> benchmark.Scale:
    """The scale's commands with further flags, which leave five updates of each stage."""
    methods = {name: f"{command} {STAGES[name].format(**SMALLER)}" for name, command in scale.methods.items()}
    sizes = {"num_trajectories": 4, "num_eval_trajectories": 1, "budgets": (2,), "costly_budgets": (2,)}
    return dataclasses.replace(scale, data=data, methods=methods, **sizes)


def test_one_command_from_collection_to_results(collect_short, tmp_path, monkeypatch, capsys):
    """What an H100 does in a quarter of an hour: `figure_01 --scale gpu --minutes 9 --export DIR`, small."""
    monkeypatch.setitem(SCALES, "gpu", smaller(SCALES["gpu"], tmp_path / "data"))
    monkeypatch.setattr(benchmark, "STOPPED", [])
    monkeypatch.setattr(collect_short, "find_videos", lambda backgrounds: {"train": [0, 1], "val": [60]})
    commands = []

    def execute(command: list[str], **_) -> bool:
        """Every script as it is, without the seconds of its start."""
        script, *argv = command
        commands.append(script)
        if script == "collect_data.py":
            collect_short.main(collect_short.parse_args([*argv, "--num-workers", "1"]))
            return True
        if script == "benchmark/measure.py":
            measure.main(measure.tyro.cli(measure.Args, args=argv))
            return True
        return lives.end(lives.start(script, argv, tmp_path / "log")) == 0

    monkeypatch.setattr(benchmark, "execute", execute)
    words = ("figure_01",)
    arguments = benchmark.Args(words, "gpu", minutes=9, export=tmp_path / "out", runs=tmp_path / "runs")
    benchmark.main(arguments)
    assert "# 5 runs: 5 finished, 0 begun, 0 not begun" in capsys.readouterr().out
    measures = ["benchmark/measure.py"] * 5
    assert commands[:2] == ["collect_data.py"] * 2 and sorted(commands[2:]) == sorted(
        [f"{name}.py" for name in METHODS] + measures[1:]
    )
    for name in METHODS:
        folder = tmp_path / "out" / "gpu" / "cheetah-run" / name / "seed0"
        results = json.loads((folder / "results.json").read_text())
        assert results["budgets"]["2"]["unseen_videos"]["returns"]
        steps = [
            json.loads(line).get("step", 0) for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        assert max(steps) == 5
    (measured,) = tmp_path.glob("out/gpu/cheetah-run/laom/seed0/lam.json")
    assert json.loads(measured.read_text())["distractor_share/no_distractors"] >= 0
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*")) < 300_000
    assert not list((tmp_path / "out").rglob("*.pt")) + list((tmp_path / "out").rglob("*.gif"))

    commands.clear()
    capsys.readouterr()
    benchmark.main(arguments)
    assert not commands and "# 5 runs: 5 finished, 0 begun, 0 not begun" in capsys.readouterr().out


def variant_args(**changes) -> benchmark.Args:
    return benchmark.Args(("figure_07",), **changes)


@pytest.mark.parametrize(
    "program,arguments,message",
    [
        ("run", benchmark.Args(("figure_99",)), "error: no figure figure_99"),
        ("run", benchmark.Args(("figure_01",), tasks=("fish-swim",)), "error: no task fish-swim"),
        ("run", variant_args(script=Path("laom.py")), "error: --script PATH and --like METHOD go together"),
        ("run", variant_args(like="laom"), "error: --script PATH and --like METHOD go together"),
        ("run", variant_args(script=Path("nowhere.py"), like="laom"), "error: --script nowhere.py: no such"),
        (
            "run",
            variant_args(script=ROOT / "README.md", like="laom"),
            f"error: --script {ROOT}/README.md: no",
        ),
        (
            "run",
            variant_args(script=ROOT / "bc.py", like="laom"),
            f"error: --script {ROOT}/bc.py: bc is a run",
        ),
        (
            "run",
            variant_args(script=Path(__file__), like="idm"),
            "error: --like idm: figure_07: it is not compared there",
        ),
        (
            "run",
            variant_args(script=Path(__file__), like="laom"),
            f"error: {__file__} defines no parse_args",
        ),
        ("run", benchmark.Args(("figure_01",), jobs=0), "error: --jobs 0: at least 1"),
        ("run", benchmark.Args(("figure_01",), gpus=-1), "error: --gpus -1: at least 0"),
        ("run", benchmark.Args(("figure_01",), minutes=0), "error: --minutes 0: more than 0"),
        ("plot", plot.Args(("table_9",)), "error: no figure table_9"),
        ("plot", plot.Args(runs=("nowhere/*",)), "error: no results.json in nowhere/*"),
        ("plot", plot.Args(("table_4",), html=(Path("nowhere"),)), "error: no results.json in nowhere"),
    ],
)
def test_bad_input(program, arguments, message, tmp_path):
    if program == "plot":
        arguments = dataclasses.replace(arguments, output=tmp_path)
    with pytest.raises(SystemExit) as error:
        {"run": benchmark, "plot": plot}[program].main(arguments)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


# ---- plot.py -----------------------------------------------------------------------------------------------


def test_bootstrap():
    ones = {"a": {0: np.ones(5), 1: np.ones(5)}}
    assert stats.center(ones) == 1 and stats.bootstrap(ones) == (1, 1)
    episodes = np.random.default_rng(1).normal(10, 2, 400)  # one seed: the interval of a mean
    low, high = stats.bootstrap({"a": {0: episodes}})
    half = 1.96 * episodes.std() / 20
    assert abs(low - (episodes.mean() - half)) < 0.03 and abs(high - (episodes.mean() + half)) < 0.03
    # two seeds at 0 and 1: both, or either alone a quarter of the time each
    assert stats.bootstrap({"a": {0: np.zeros(5), 1: np.ones(5)}}) == (0, 1)
    # tasks are not drawn again: what is between them does not widen the interval
    assert stats.bootstrap({"a": {0: np.zeros(5)}, "b": {0: np.ones(5)}}) == (0.5, 0.5)
    uneven = {"a": {0: np.array([0.0, 2.0]), 1: np.array([5.0])}, "b": {0: np.array([7.0])}}
    assert (
        stats.center(uneven) == 5
        and stats.seed_means(uneven) == [4]
        and stats.bootstrap(uneven) == stats.bootstrap(uneven)
    )


def test_t_interval():
    half = 2.77645 * np.sqrt(2.5 / 5)  # the t table: 97.5%, 4 degrees of freedom
    assert stats.t_interval([1, 2, 3, 4, 5]) == pytest.approx((3 - half, 3 + half), rel=1e-5)
    half = 12.7062 * 0.5  # of two values a unit apart
    assert stats.t_interval([0, 1]) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-5)


@pytest.mark.parametrize(
    "ratios,text,if_above,if_below",
    [
        ([2, 2.1, 1.9], "2.00 (1.76 to 2.26)", "holds", "fails"),
        ([0.5, 0.45, 0.55], "0.50 (0.39 to 0.64)", "fails", "holds"),
        ([2, 0.5, 3, 0.5], "1.11 (0.25 to 4.88)", "undecided", "undecided"),
        ([2], "2.00", "undecided", "undecided"),
        ([], "–", "undecided", "undecided"),
    ],
)
def test_verdicts(ratios, text, if_above, if_below):
    logarithms = {("cheetah-run", seed): np.log(ratio) for seed, ratio in enumerate(ratios)}
    comparison = stats.Comparison(logarithms, {})
    assert str(comparison) == text
    assert (comparison.verdict("above 1"), comparison.verdict("below 1")) == (if_above, if_below)
    left_out = {
        ("walker-run", 0): "0 or less",
        ("hopper-hop", 1): "dead actor",
        ("walker-run", 2): "0 or less",
    }
    named = stats.Comparison(logarithms, left_out)
    assert str(named) == (
        f"{text}; 0 or less, left out: walker-run 0, walker-run 2; dead actor, left out: hopper-hop 1"
    )
    assert named.verdict("above 1") == "undecided"


def write_pairs(folder: Path, names: dict[str, list[float]]):
    """Of each run on two tasks with two seeds: errors of 0.1 and scores of 0.1 times its numbers."""
    jobs = all_jobs(SCALES["demo"], folder / "runs" / "demo", "figure_08")
    for name, numbers in names.items():
        for job, number in zip([job for job in jobs if job.name == name], numbers):
            write_run(job, score=0.1 * number, error=0.1 * number)


def test_claims_of_errors_shares_and_returns(tiny):
    """LAOM has twice LAPO's of everything on seen videos; on unseen ones the same error, and LAPO no return
    in one of four runs."""
    write_pairs(tiny, {"lapo": [1, 2, 3, 4], "laom": [2, 4.2, 5.7, 8]})
    for path in tiny.glob("runs/demo/*/*/results.json"):
        results = json.loads(path.read_text())
        if results["script"] == "laom.py":
            number = 1 + results["seed"] + 2 * (results["task"] == "walker-run")
            results["latent_actions"]["action_probe_mse_over_var/unseen_videos"] = 0.1 * number
        elif (results["task"], results["seed"]) == ("walker-run", 0):
            results["budgets"]["8"]["unseen_videos"]["return_mean"] = 0
        path.write_text(json.dumps(results))

    bench = stats.Benchmark("demo", (f"{tiny}/runs/*/*/*",), "seen_videos")
    claims = {row[1]: row[2:] for row in page.claim_rows(bench)[1:]}
    seeds = "cheetah-run: 0, 1; walker-run: 0, 1"
    twice, once = "2.00 (1.87 to 2.13)", "1.00 (1.00 to 1.00)"
    # LAOM without augmentation, which is the demo's LAOM
    error = claims["probe error: laom_no_aug / lapo"]
    assert error == ["above 1", "4", seeds, twice, once, "holds | undecided", "1.34 (Figure 6's logs)"]
    # what is left unexplained, 1 - R², is here the error and half of it
    for share in ("perturbation", "expert's action"):
        row = claims[f"unexplained share of the {share}: laom_no_aug / lapo"]
        assert row == ["above 1", "4", seeds, twice, twice, "holds", "–"]
    *row, unseen, verdict, paper = claims["score: laom / lapo"]
    assert row == ["above 1", "4 | 3", seeds, twice] and paper == "up to 2 (Section 4)"
    assert unseen.startswith("2.03 (") and unseen.endswith("; 0 or less, left out: walker-run 0")
    assert verdict == "holds | undecided"
    assert len(claims) == 4


def test_the_return_of_a_dead_actor_is_left_out(tiny):
    """One that stands at the variance of z from its first update to its last; its latent actions still count,
    and so does an actor that has learned a little."""
    write_pairs(tiny, {"lapo": [1, 2, 3, 4], "laom": [2, 4, 6, 8]})
    for path in tiny.glob("runs/demo/laom/*__0__*/metrics.jsonl"):
        loss = 0.9 if path.parent.name.startswith("cheetah-run") else 1.01
        path.write_text("".join(json.dumps({"stage": "bc", "bc/loss": loss}) + "\n" for _ in range(5)))
    bench = stats.Benchmark("demo", (f"{tiny}/runs/*/*/*",), "seen_videos")
    claims = {row[1]: row[2:] for row in page.claim_rows(bench)[1:]}
    seen, unseen, verdict = claims["score: laom / lapo"][3:6]
    for cell in (seen, unseen):
        assert cell == "2.00 (2.00 to 2.00); dead actor, left out: walker-run 0"
    assert verdict == "undecided" and claims["probe error: laom_no_aug / lapo"][5] == "holds"


def test_an_actor_is_dead_with_the_budget_in_question(tmp_path):
    """LAOM+supervision has an actor for each budget: one that lives does not hide another that is dead."""
    records = []
    for budget, loss in ((2, 0.3), (8, 1.01), (32, 0.4)):
        records += [{"stage": f"lam_{budget}", "lam/action_probe_mse": loss}] * 5
        records += [{"stage": f"bc_{budget}", "bc/loss": loss}] * 5
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    run = stats.Run(tmp_path, {"lam": {}}, {"budgets": {"2": {}, "8": {}, "32": {}}}, set())
    assert [run.actor_is_dead(budget) for budget in (2, 8, 32)] == [False, True, False]
    assert run.online("lam/action_probe_mse", 8) == pytest.approx(1.01)
    assert run.online("lam/action_probe_mse") == pytest.approx(0.4)  # of the most


def test_what_z_of_obs_alone_seems_to_know_of_the_noise_is_taken_away():
    """Of a committed run, whose measure was biased by the size of z; one without bias stays as it is."""
    folder = ROOT / "benchmark/results/gpu/cheetah-run/laom_supervised/seed0"
    results = table.read_results(folder)
    measured = results["budgets"]["8"]["latent_actions"]
    assert f"{measured['perturbation_r2/unseen_videos']:.3f}" == "0.054"
    assert f"{measured['blind_perturbation_r2/unseen_videos']:.3f}" == "-0.013"
    assert f"{table.record(folder, results, '8')['perturbation_r2/unseen_videos']:.3f}" == "0.066"
    unbiased = {"perturbation_r2/unseen_videos": 0.25, "blind_perturbation_r2/unseen_videos": 0.0}
    assert table.without_bias(unbiased) == unbiased


def test_claims_compare_what_both_sides_have(tiny, capsys):
    scores, errors = {"lapo": 0.2, "laom": 0.1}, {"laom": 0.5, "idm": 0.8}
    for job in all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_07", "figure_09", "figure_13"):
        second_lapo, clean = job.name == "lapo" and job.seed == 1, job.difficulty == CLEAN
        if job.task == "cheetah-run" and not (second_lapo and not clean):
            write_run(
                job,
                score=scores.get(job.name, 0.4),
                error=0.2 if clean else errors.get(job.name, 0.6) - 0.2 * job.seed,
            )
    bc = next(
        job for job in all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_08") if job.name == "bc"
    )
    write_run(bc, score=0.8)
    plot_all(tiny)
    printed = printed_rows(capsys)
    claims = {row[1]: row[2:] for row in printed if len(row) == 9}

    lapo = claims["probe error: lapo / lapo without distractors"]
    assert lapo[1:5] == ["1", "cheetah-run: 0", "3.00", "3.00"]  # and not seed 1
    assert claims["probe error: laom_no_aug / lapo"][1:4] == ["1", "cheetah-run: 0", "0.83"]
    labelled = claims["error of what labels taught: laom_supervised / idm"]
    assert labelled[1:4] == ["2", "cheetah-run: 0, 1", "0.71 (0.33 to 1.49)"]
    # returns of 20 with distractors, where BC on all labels has 80, and 20 without, where it has 40
    assert claims["score: lapo / lapo without distractors"][3] == "0.50"
    assert claims["score: laom_supervised / laom"][3:6] == ["4.00 (4.00 to 4.00)"] * 2 + ["holds"]
    # the smallest z of the scale, with supervision over without
    small = claims["score: (laom_supervised_16 / laom_supervised) / (laom_16 / laom)"]
    assert small[3] == "0.25 (0.25 to 0.25)" and small[5:] == ["fails", "2.3 (Section 5)"]
    assert not any("quantisation" in row[0] for row in printed)  # which has not run
    latent = next(row for row in printed if row[:5] == ["laom", "cheetah-run", "no", "1", "0.200 \\| 0.200"])
    assert latent[-3:] == ["0.25", "0.2 \\| 0.1", "0.7"] and latent[11:13] == ["12.5", "1.5"]
    assert latent[6:10] == [f"{r2} \\| {r2}" for r2 in ("0.800", "0.010", "0.900", "0.400")]


def test_scores_over_the_papers_are_not_compared_with_scores_over_ours(tiny):
    """LAPO with over without distractors: as soon as BC has run on both kinds of data."""
    jobs = all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_01", "figure_15")
    claim = "score: lapo / lapo without distractors"
    for job in jobs:
        if job.name in ("lapo", "bc") and job.folder.name != "bc__vanilla":
            write_run(job)

    def claims() -> list[list[str]]:
        return page.claim_rows(stats.Benchmark("demo", (f"{tiny}/runs/*/*/*",), "seen_videos"))

    assert not any(claim in row for row in claims())
    for job in jobs:
        if job.folder.name == "bc__vanilla":
            write_run(job)
    assert any(claim in row for row in claims())


def test_which_measure_predicts_the_return(tiny, capsys):
    """Six runs of a task in the order of their errors; their scores in the opposite order but for two, which
    follow one another, on the other task in the same order."""
    numbers = {"lapo": [1, 2, 1, 2], "laom": [3, 4, 3, 4], "laom_supervised": [5, 6, 5, 6]}
    scores = {"cheetah-run": [6, 5, 4, 3, 1, 2], "walker-run": [1, 2, 3, 4, 5, 6]}
    write_pairs(tiny, numbers)
    for path in tiny.glob("runs/demo/*/*/results.json"):
        results = json.loads(path.read_text())
        measured = results.get("latent_actions") or results["budgets"]["8"]["latent_actions"]
        place = round(10 * measured["action_probe_mse_over_var/seen_videos"]) - 1
        results["budgets"]["8"]["seen_videos"]["return_mean"] = scores[results["task"]][place]
        path.write_text(json.dumps(results))
    plot_all(tiny, html=())
    assert "measures_and_returns" in pictures(tiny)
    rows = {row[0]: row[1:] for row in printed_rows(capsys) if len(row) == 7 and row[1] in ("low", "high")}
    # Spearman: 1 - 6 Σd² / (n³ - n) with Σd² = 2; unseen returns were drawn in the order of the errors
    assert rows["probe error"] == ["low", "+0.94 \\| -1.00", "6", "-1.00 \\| -1.00", "6", "-0.03 \\| -1.00"]
    assert rows["unexplained share of the perturbation"] == rows["probe error"]
    assert rows["effective rank of z"] == ["high", "–", "6", "–", "6", "–"]  # all are equal
    assert rows["error of what labels taught"] == ["low", "–", "2", "–", "2", "–"]  # too few
    assert "error of the policy's action" not in rows
    assert "Which measure predicts the return" in (tiny / "pictures" / "demo.html").read_text()


def test_figure_06_shows_what_z_tells(tiny):
    for job in all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_06"):
        write_run(job, error=0.2 if job.name == "lapo" else 0.6 + 0.2 * job.seed)

    def draw():
        bench = stats.Benchmark("demo", (f"{tiny}/runs/*/*/*",), "seen_videos")
        return figures.draw_probes(bench, "figure_06").axes

    axes = draw()
    labels = [ax.get_ylabel() for ax in axes]
    assert labels == ["probe error, MSE / Var(a)", "R² of the perturbation", "R² of the expert's action"]
    for ax, tells, blind in zip(axes, (0.2, 0.8, 0.9), (0.2, 0.01, 0.4)):
        assert ax.get_xticklabels()[2].get_text().startswith(f"{tells:.2f}")
        heights = [bar.get_height() for bar in ax.patches]
        assert heights[2] == pytest.approx(tells) and heights[0] != pytest.approx(tells)
        dots = [line.get_ydata() for line in ax.lines if line.get_marker() == "."]
        assert len(dots[0]) == 2 and dots[0][0] != dots[0][1]  # seeds
        lines = [line for line in ax.collections if line.get_label() == "from z(obs, obs)"]
        assert lines[2].get_segments()[0][0][1] == pytest.approx(blind)
    for path in tiny.glob("runs/demo/*/*/results.json"):  # as of data without noise
        results = json.loads(path.read_text())
        measured = results["latent_actions"]
        results["latent_actions"] = {name: measured[name] for name in measured if "_r2" not in name}
        path.write_text(json.dumps(results))
    assert len(draw()) == 1


def test_draws_every_figure(tiny, capsys):
    for i, job in enumerate(all_jobs(SCALES["demo"], tiny / "runs" / "demo")):
        folder = write_run(job, score=0.1 + 0.01 * i, error=0.2 + 0.01 * i)
        (folder / "wall_clock.json").write_text(
            json.dumps({"seconds": [60, 120.0], "machine": "abacus", "date": "2026-01-01"})
        )
        for kind in ("laom_supervised", "laom", "idm"):
            if job.command[0] == f"{kind}.py":
                Image.fromarray(np.full((8, 48, 3), 128, np.uint8)).save(
                    folder / ("idm_8.png" if kind == "idm" else "lam_8.png")
                )
    plot_all(tiny)
    printed = capsys.readouterr().out
    assert pictures(tiny) == set(DRAWN) and "not drawn" not in printed and "not run" not in printed
    for path in (tiny / "pictures").glob("*.png"):
        picture = np.asarray(Image.open(path).convert("RGB"))
        assert picture.shape[1] > 700 and picture.std() > 5, path
    assert "| LAPO | 0h 3m | 2, 8 | 4 | abacus | 7h 38m |" in printed
    assert re.search(
        r"\| cheetah-run \| \d+\.\d \(seeds: \d+\.\d, \d+\.\d\) .* \| 823 \| 840 \|", printed
    )  # Table 3
    assert "| BC (on all stages) | 107,541,504 | 107,541,504 |" in printed
    assert "table_1: nothing to show; python benchmark/run.py table_1 --scale demo" in printed


def test_a_figure_without_its_runs_is_skipped(tiny, capsys):
    for job in all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_09a"):
        write_run(job)
    plot_all(tiny, "figure")
    assert pictures(tiny) == {"figure_09a"}
    lines = capsys.readouterr().out.splitlines()
    assert "figure_08: not drawn, runs are missing; python benchmark/run.py figure_08 --scale demo" in lines
    plot_all(tiny, "figure_08", "figure_13", partial=True)
    assert pictures(tiny) == {"figure_09a", "figure_08"}
    assert (
        "(without bc, lapo, laom; python benchmark/run.py figure_08 --scale demo)" in capsys.readouterr().out
    )


def test_tasks_with_other_seeds(tiny, capsys):
    """The figure says which; tasks that share no seed have no dots."""
    for job in all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_01"):
        if job.seed == (job.task == "walker-run"):
            write_run(job)
    plot_all(tiny, "figure_01")
    assert pictures(tiny) == {"figure_01"}
    bench = stats.Benchmark("demo", (f"{tiny}/runs/*/*/*",), "seen_videos")
    about = benchmark.list_figures(bench.scale)["figure_01"]
    words = figures.describe(bench, "figure_01", about)
    assert " · cheetah-run: seed 0 · walker-run: seed 1 · " in words


def test_figure_12_of_one_method(tiny):
    for job in all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_12ab"):
        if job.method == "laom":
            write_run(job)
    plot_all(tiny, "figure_12ab", partial=True)
    assert pictures(tiny) == {"figure_12ab"}


def test_a_task_beside_those_of_the_scale(tiny, capsys):
    """Is shown as it was run: without the flags of the scale's first task."""
    job = all_jobs(
        dataclasses.replace(SCALES["mini"], tasks=("hopper-hop",)), tiny / "runs" / "mini", "figure_12c"
    )[0]
    write_run(job)
    assert stats.Benchmark("mini", (f"{tiny}/runs/*/*/*",), "seen_videos").find(job.name, task="hopper-hop")
    assert "is no run" not in capsys.readouterr().out


def test_runs_are_known_by_their_arguments(tiny, capsys):
    """Not by where they lie; other arguments are another run, an argument that did not exist yet is the
    default."""
    (job, *_) = all_jobs(SCALES["demo"], tiny / "elsewhere", "figure_12c")
    folder = write_run(job, folder=tiny / "some name")
    args = json.loads((folder / "args.json").read_text())

    def load():
        return stats.Benchmark("demo", (str(tiny / "some*"),), "seen_videos")

    assert [run.folder for run in load().find("laom", task=job.task)] == [folder] and not load().find(
        "laom_fsq"
    )
    del args["lam"]["target"], args["lr_schedule"]
    (folder / "args.json").write_text(json.dumps(args))
    assert load().find("laom")
    args["lam"]["num_epochs"] = 7
    (folder / "args.json").write_text(json.dumps(args))
    assert not load().find("laom")
    assert f"{folder} is no run of the demo scale: lam.num_epochs is 7, not 6" in capsys.readouterr().out


def test_the_newest_run_counts(tiny):
    """By the date in its name; a folder without one counts as older."""
    (job, *_) = all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_12c")
    names = ["z__laom__0__20260101-000000", "a__laom__0__20260102-000000", "z"]
    folders = [write_run(job, folder=tiny / "same" / name) for name in names]
    found = stats.Benchmark("demo", (f"{tiny}/same/*",), "seen_videos").find("laom")
    assert [run.folder for run in found] == [folders[1]]


def test_figure_11_says_what_is_not_reconstructed(tiny):
    for job in all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_11"):
        folder = write_run(job)
        if job.name == "laom":
            Image.fromarray(np.full((8, 48, 3), 128, np.uint8)).save(folder / "lam.png")
    figure = figures.draw_reconstructions(
        stats.Benchmark("demo", (f"{tiny}/runs/*/*/*",), "seen_videos"), "figure_11"
    )
    assert [("decoded" in ax.get_title("left"), len(ax.images)) for ax in figure.axes] == [
        (True, 1),
        (False, 0),
        (False, 0),
    ]


def test_scores_are_relative_to_bc_on_all_labels(tiny):
    jobs = all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_08")
    folders = {
        job.name: write_run(job, score=0.8 if job.name == "bc" else 0.2)
        for job in jobs
        if job.task == "cheetah-run" and job.seed == 0
    }

    def load():
        return stats.Benchmark("demo", (f"{tiny}/runs/*/*/*",), "unseen_videos")

    assert load().reference("cheetah-run", DISTRACTORS) == (80, True)
    assert abs(stats.center(load().scores(load().find("laom"), 8)) - 0.25) < 0.05
    shutil.rmtree(folders["bc"])
    assert load().reference("cheetah-run", DISTRACTORS) == (823, False) and load().reference(
        "cheetah-run", CLEAN
    ) == (840, False)


def test_means_are_over_the_tasks_that_all_have(tiny):
    figure = benchmark.list_figures(TINY)["figure_07"]
    for job in all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_07"):
        if job.name == "laom" or job.task == "cheetah-run":
            write_run(job)
    bench = stats.Benchmark("demo", (f"{tiny}/runs/*/*/*",), "seen_videos")

    def tasks(figure):
        return {run.task for run in bench.only(figure).runs.values()}

    assert tasks(figure) == {"cheetah-run"}
    assert tasks(dataclasses.replace(figure, per_task=True)) == set(TINY.tasks)  # a panel for each task


def test_only_finished_runs_with_the_seeds_of_all_count(tiny, capsys):
    figure, jobs = (
        benchmark.list_figures(TINY)["figure_09a"],
        all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_09a"),
    )
    folders = {(job.name, job.task, job.seed): write_run(job) for job in jobs}

    def load():
        return stats.Benchmark("demo", (f"{tiny}/runs/*/*/*",), "seen_videos")

    def seeds():
        return {run.seed for run in load().only(figure).find("idm", task="cheetah-run")}

    assert seeds() == {0, 1}
    for change in (
        {"budgets": {}},
        {"task": "video"},
    ):  # stopped before its first budget; trained on something else
        path = folders["laom_supervised", "cheetah-run", 1] / "results.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        assert seeds() == {0} and str(path.parent) in capsys.readouterr().out


def test_means_over_seeds(tiny):
    jobs = all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_09a")
    for job in jobs:
        if job.task == "cheetah-run" or job.seed == 0:
            write_run(job, score=0.2 + 0.2 * job.seed)
    bench = stats.Benchmark("demo", (f"{tiny}/runs/*/*/*",), "seen_videos")
    header, *rows = page.overviews(bench)["Means over seeds"]
    assert {row[1] for row in rows} == {"cheetah-run"} and {row[3] for row in rows} == {"0, 1"}
    of_idm = dict(zip(header, next(row for row in rows if row[0] == "idm" and row[4] == "8")))
    means = [
        np.mean([run.played(8, videos)["return_mean"] for run in bench.find("idm", task="cheetah-run")])
        for videos in table.VIDEOS
    ]
    assert [float(cell.split()[0]) for cell in of_idm["return"].split(" | ")] == pytest.approx(
        means, abs=0.05
    )


def test_one_seed_of_vq_does_not_narrow_the_others(tiny):
    jobs = all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_05")
    folders = {
        (job.name, job.seed): write_run(job)
        for job in jobs
        if job.task == "cheetah-run" and job.difficulty == DISTRACTORS
    }

    def words():
        bench = stats.Benchmark("demo", (f"{tiny}/runs/*/*/*",), "unseen_videos")
        figure = benchmark.list_figures(TINY)["figure_05"]
        return figures.describe(bench.only(figure), "figure_05", figure)

    assert "seeds 0, 1" in words() and "VQ: seed" not in words()
    shutil.rmtree(folders["lapo_original_vq", 1])
    assert "seeds 0, 1" in words() and "VQ: seed 0" in words()
    shutil.rmtree(folders["lapo_original_fsq", 1])
    assert "seed 0" in words() and "VQ: seed" not in words()


def test_the_table_hides_what_no_policy_has_earned(tiny, capsys):
    job = next(
        job
        for job in all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_05")
        if job.name == "lapo_original"
    )
    table.main((write_run(job, score=0.77),))
    row = capsys.readouterr().out.splitlines()[2]
    assert row.endswith("| 0.850 \\| 0.850 | – | – | – | – |") and "0.77" not in row


def change_results(folder: Path, **changes):
    path = folder / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def printed_rows(capsys) -> list[list[str]]:
    """The cells of the tables that were printed, but for the headers."""
    lines = [
        line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line[:2] == "| "
    ]
    return [cells for cells in lines if cells[0] not in ("run", "---")]


def test_a_budget_without_returns(tiny, capsys):
    """A file of another robot has no environment: the error of the policy stands alone. Another environment
    has one return; a run without labels has none of all that."""
    jobs = all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_07")
    alone, elsewhere, without_labels = [write_run(job) for job in jobs[:3]]
    decoded = {"action_mse": 0.6, "action_mse_over_var": 0.4}
    played = {"return_mean": 71.25, "return_std": 2.5, "returns": [68.75, 73.75]}
    own_task = {"task": "squares-push", "reference_return": None, "random_return": float("nan")}
    change_results(alone, budgets={"2": decoded, "8": decoded}, **own_task)
    change_results(elsewhere, budgets={"2": decoded | {"environment": played}}, **own_task)
    change_results(without_labels, budgets={})

    table.main((alone, elsewhere, without_labels))
    output = capsys.readouterr().out
    cells = [line.strip("| ").split(" | ")[2:] for line in output.splitlines() if "(l" in line]
    of_z = ["0.300 \\| 0.300", "0.700 \\| 0.700", "0.850 \\| 0.850"]
    assert cells == [
        ["2", *of_z, "–", "0.400", "–", "–"],
        ["8", *of_z, "–", "0.400", "–", "–"],
        ["2", *of_z, "–", "0.400", "71.2 ± 2.5", "–"],
        ["–", *of_z, "–", "–", "–", "–"],
    ]
    assert "squares-push, scale_easy_video_hard: the data 820.2, random –, score 1 is –" in output
    table.main((alone, elsewhere), csv=tiny / "table.csv")
    with open(tiny / "table.csv") as file:
        records = list(csv.DictReader(file))
    assert [record["policy_error/unseen_videos"] for record in records] == ["0.4"] * 3
    assert [record["return_mean/environment"] for record in records] == ["", "", "71.25"]
    assert {record["return_mean/seen_videos"] for record in records} == {""}
    assert {record["perturbation_r2/seen_videos"] for record in records} == {"0.7"}
    assert {record["blind_plan_r2/unseen_videos"] for record in records} == {"0.4"}

    # plot.py: a card for any of them; in the overview those of the scale's tasks
    change_results(alone, task="cheetah-run")
    frames = [Image.fromarray(np.full((64, 128, 3), 20 * i, np.uint8)) for i in range(4)]
    frames[0].save(elsewhere / "rollout_2.gif", save_all=True, append_images=frames[1:], duration=40)
    plot_all(tiny, html=(alone, elsewhere))
    overview = [row[4:] for row in printed_rows(capsys) if row[0] == "lapo" and len(row) == 12]
    assert overview == [[number, *of_z, "–", "0.400", "–", "–"] for number in "28"]
    page = (tiny / "pictures" / "demo.html").read_text()
    assert page.count("<article") == 2 and "2 labelled trajectories; returns: environment 71" in page


def test_results_that_are_not_whole(tiny):
    (job, *_) = all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_07")
    path = write_run(job) / "results.json"
    for text in (path.read_text()[:100], "", json.dumps({"script": "lapo.py"})):
        path.write_text(text)
        with pytest.raises(SystemExit) as error:
            table.main((path.parent,))
        assert str(error.value).startswith(f"error: {path} is not whole") and "\n" not in str(error.value)


def test_draws_the_committed_runs(tmp_path, capsys):
    plot.main(plot.Args(("figure_08",), output=tmp_path, partial=True))
    assert "demo_figure_08" in capsys.readouterr().out


class Resources(html.parser.HTMLParser):
    """Collects what a page would fetch, and the alternative texts of its images."""

    def __init__(self):
        super().__init__()
        self.sources, self.alts, self.tags = [], [], set()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        self.sources += [
            attributes[name] for name in ("src", "href", "srcset", "data", "poster") if name in attributes
        ]
        self.alts += [attributes["alt"]] if tag == "img" else []


def test_the_page_needs_no_other_file(tiny):
    jobs = [
        job
        for job in all_jobs(SCALES["demo"], tiny / "runs" / "demo", "figure_08")
        if job.task == "cheetah-run" and job.seed == 0
    ]
    frames = [Image.fromarray(np.full((64, 128, 3), 20 * i, np.uint8)) for i in range(6)]
    for job in jobs:
        folder = write_run(job)
        frames[0].save(folder / "rollout_8.gif", save_all=True, append_images=frames[1:], duration=40)
        frames[0].save(folder / "prediction.png")
        (folder / "lam_8.json").write_text(
            json.dumps({"effective_rank": 33.3, "distractor_share/no_distractors": 0.75})
        )
    plot_all(tiny, "figure_08", html=())
    text = (tiny / "pictures" / "demo.html").read_text()
    page = Resources()
    page.feed(text)
    assert len(page.sources) == len(page.alts) == 1 + 2 * len(METHODS) and all(
        len(alt) > 10 for alt in page.alts
    )
    assert all(source.startswith("data:image/") for source in page.sources)
    assert not re.search(r"https?://|url\(|@import", text) and not page.tags & {
        "script",
        "link",
        "iframe",
        "object",
    }
    assert (
        "33.3" in text
        and "0.75" in text
        and all(figures.LABELS[name] in text or name in text for name in METHODS)
    )
    chosen = tiny / "runs" / "demo" / "idm" / "cheetah-run__idm__0__20260101-000000"
    plot_all(tiny, "figure_08", html=(chosen, tiny / "runs" / "demo"))  # as of runs/*
    assert (tiny / "pictures" / "demo.html").read_text().count("<article") == 1


# ---- measure.py --------------------------------------------------------------------------------------------


class Teller(torch.nn.Module):
    """A LAM in pixels that predicts the older frames right and whose z is what it is told to be: the IDM's
    second picture, or its first."""

    def __init__(self, second: bool):
        super().__init__()
        self.decoder, self.encoder, self.second = None, torch.nn.Identity(), second

    def forward(self, obs, future_obs):
        return (future_obs if self.second else obs)[:, -3:]

    def predict(self, obs, z):
        return torch.cat([obs[:, 3:], z], 1)


def test_errors_of_a_lam_that_sees_the_change_and_of_one_that_does_not():
    frames = torch.randn(8, 12, 4, 4, generator=torch.Generator().manual_seed(0))
    obs, next_obs = frames[:, :9], frames[:, 3:]
    own, others, blind, no_change = measure.prediction_errors(Teller(second=True), obs, next_obs)[0].tolist()
    assert own == 0 and others > 0.3 and blind == no_change > 0.3
    own, others, blind, no_change = measure.prediction_errors(Teller(second=False), obs, next_obs)[0].tolist()
    assert own == blind == no_change > 0.3 and others > 0.3


@pytest.fixture
def measured(finished, tmp_path) -> Callable:
    """Measures a copy of a script's run: its folder, and what measure.py has written beside the weights."""

    def measured(script: str, name: str, **changes) -> tuple[Path, dict]:
        folder = tmp_path / "run"
        if not folder.exists():
            shutil.copytree(finished(script), folder)
        measure.main(measure.Args((folder,), device="cpu", **changes))
        return folder, json.loads((folder / f"{name}.json").read_text())

    return measured


def test_measures_of_a_run(measured):
    """What the script itself has measured, and more; for a LAM of pixels a picture of what it predicts."""
    folder, measures = measured("lapo.py", "lam")
    own = json.loads((folder / "results.json").read_text())["latent_actions"]
    assert all(measures[name] == pytest.approx(value, rel=1e-3) for name, value in own.items())
    assert {"shuffled_loss_ratio", "blind_loss_ratio", "copy_loss_ratio"} < measures.keys()
    assert len(measures["action_probe_mse_over_var_per_dimension/seen_videos"]) == 6
    picture = np.asarray(Image.open(folder / "prediction.png"))
    assert picture.shape == (3 * 192, 12 * 192, 3) and np.array_equal(picture[::3, ::3], picture[1::3, 1::3])


def test_measures_of_an_idm(measured):
    folder, measures = measured("idm.py", "idm_2")
    own = json.loads((folder / "results.json").read_text())["budgets"]["2"]["idm"]
    assert all(measures[name] == pytest.approx(value, rel=1e-3) for name, value in own.items())


def test_twins_and_reconstruction(measured, collect_short, short_file, tmp_path, capsys):
    """The trajectories of the evaluation file rendered without distractors: how much of z was the
    distractors' doing?"""
    val, twins = beside(short_file), tmp_path / "twins"
    words = ["--rerender", val, "--difficulty", "vanilla", "--output", twins, "--num-workers", 1]
    collect_short.main(collect_short.parse_args(list(map(str, words))))
    twin = str(next(twins.glob("*.hdf5")))
    folder, measures = measured(
        "laom_supervised.py", "lam_2", twin_data=(twin,), reconstruct=True, num_updates=5
    )
    assert 0 < measures["distractor_share/no_distractors"] < 1.1
    for kind in ("action_probe", "action_head"):
        assert measures[f"{kind}_mse_over_var/no_distractors"] > 0
    picture = np.asarray(Image.open(folder / "lam_2.png"))
    assert picture.shape == (2 * 192, 12 * 192, 3) and picture[192:].std() > 1

    _, same = measured("laom_supervised.py", "lam_2", twin_data=(str(val),))
    assert same[f"distractor_share/twin:{val}"] < 1e-3  # a file is its own twin
    assert same["shuffled_loss_ratio"] == pytest.approx(measures["shuffled_loss_ratio"], rel=1e-3)
    for path in (folder / "lam_9.pt", folder / "actor_2.pt", tmp_path):
        with pytest.raises(SystemExit, match="no finished first stage"):
            measure.main(measure.Args((path,)))

    capsys.readouterr()
    table.main((folder, tmp_path))
    output, errors = capsys.readouterr()
    (row,) = [line for line in output.splitlines() if line.startswith("| run (")]
    assert (
        f"{measures['action_probe_mse_over_var/seen_videos']:.3f} \\| " in row and "laom_supervised.py" in row
    )
    assert "no results.json yet" in errors and str(tmp_path) in errors
    table.main((folder,), csv=tmp_path / "table.csv")
    with open(tmp_path / "table.csv") as file:
        (record,) = csv.DictReader(file)
    assert record["labelled"] == "2" and float(record["action_probe/seen_videos"]) == pytest.approx(
        measures["action_probe_mse_over_var/seen_videos"], rel=1e-3
    )


def failures(*paths: Path, **changes) -> list[str]:
    """What measure.py says at the end of measuring these; its exit status is 1 where that is text."""
    with pytest.raises(SystemExit) as error:
        measure.main(measure.Args(paths, device="cpu", **changes))
    first, *others = str(error.value).splitlines()
    assert first.startswith("error: ")
    return others if first == "error: these failed:" else [first.removeprefix("error: "), *others]


def test_what_fails_is_said_at_the_end_and_completed_afterwards(finished, tmp_path, capsys):
    """A truncated file of weights and an empty one, truncated arguments, a script that breaks, and what is no
    run at all; what is whole is measured in spite of them, and not again with --only-missing."""
    folder = Path(shutil.copytree(finished("idm.py"), tmp_path / "run"))
    whole = (folder / "idm_2.pt").read_bytes()
    (folder / "idm_1.pt").write_bytes(whole[: len(whole) // 2])
    (folder / "idm_3.pt").touch()
    cut, broken = [Path(shutil.copytree(folder, tmp_path / name)) for name in ("cut", "broken")]
    (cut / "args.json").write_text((cut / "args.json").read_text()[:200])
    script = (broken / "idm.py").read_text()
    (broken / "idm.py").write_text(script.replace("def load_data(args):", "def load_data(args):\n    1 / 0"))

    lines = failures(cut, tmp_path / "nowhere", broken, folder)
    errors = capsys.readouterr().err
    starts = [
        f"{cut}: args.json is not whole: ",
        f"{tmp_path}/nowhere: no finished first stage: ",
        f"{broken}: ZeroDivisionError: division by zero",
        f"{folder}/idm_1.pt: idm_1.pt holds no whole weights of this network: ",
        f"{folder}/idm_3.pt: idm_3.pt holds no whole weights of this network: ",
    ]
    assert len(lines) == len(starts) and all(map(str.startswith, lines, starts)), lines
    assert errors.count("Traceback") == 1  # of what nobody foresaw
    measured = [path.name for path in tmp_path.glob("*/idm_*.json*")]
    assert measured == ["idm_2.json"]

    (folder / "idm_2.json").write_text(json.dumps({"effective_rank": 0}))
    (folder / "idm_1.pt").write_bytes(whole)
    (folder / "idm_3.pt").unlink()
    measure.main(measure.Args((folder,), device="cpu", only_missing=True))
    assert json.loads((folder / "idm_2.json").read_text()) == {"effective_rank": 0}
    assert json.loads((folder / "idm_1.json").read_text())["blind_idm_mse/unseen_videos"] > 0
    twin = beside(Path(json.loads((folder / "args.json").read_text())["data"][0]))  # a file is its own
    asked = measure.Args((folder,), twin_data=(str(twin),), only_missing=True)
    assert not measure.is_measured(folder / "idm_1.pt", asked)


def test_what_is_no_twin(finished, short_file, other_task, tmp_path):
    """Another file, one of another task, one with other states, a text, a name of nothing."""
    folder = Path(shutil.copytree(finished("idm.py"), tmp_path / "run"))
    moved, text = tmp_path / "moved.hdf5", tmp_path / "text.hdf5"
    shutil.copy(beside(short_file), moved)
    with h5py.File(moved, "a") as file:
        file["0/states"][:] += 1
    text.write_text("no HDF5")
    for twin in (short_file, other_task, moved):
        (line,) = failures(folder, twin_data=(str(twin),))
        assert line.startswith(f"{folder}: {twin} is no twin of {beside(short_file)}")
    for twin in (text, tmp_path / "nowhere.hdf5"):
        (line,) = failures(folder, twin_data=(str(twin),))
        assert line.startswith(f"{folder}: {twin} is no dataset")
    assert not list(folder.glob("*.json.partial")) and not (folder / "idm_2.json").exists()


def test_the_help_says_that_scripts_are_executed(capsys):
    with pytest.raises(SystemExit):
        measure.tyro.cli(measure.Args, description=measure.__doc__, args=["--help"])
    words = " ".join(re.sub("[│╭╰─]", " ", capsys.readouterr().out).split())
    assert "EXECUTES the script" in words and "measure only runs that you trust" in words
    assert "the runs' scripts are executed: trust them" in words


def test_a_variant_without_what_is_measured(finished, tmp_path):
    """One line says what its script lacks."""
    folder = Path(shutil.copytree(finished("laom.py"), tmp_path / "run"))
    source = (folder / "laom.py").read_text()
    (folder / "laom.py").write_text(
        source.replace("def fit_ridge", "def fit_rigde").replace("fit_ridge(", "fit_rigde(")
    )
    with pytest.raises(
        SystemExit, match="error: .*laom.py does not define fit_ridge, which benchmark/measure.py needs"
    ):
        measure.main(measure.Args((folder,)))
    with pytest.raises(SystemExit, match="error: .*bc__0.*: no finished first stage"):
        measure.main(measure.Args((finished("bc.py"),)))


# ---- throughput.py -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", throughput.STAGES)
def test_every_stage_can_be_timed(stage, short_file, monkeypatch):
    """One update, small: a speed, FLOPs, and parts of its time that are not more than the whole."""
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")  # which it sets: so it ends with the test
    monkeypatch.setattr(throughput, "WARM_UP", 1)
    kind = stage.split(".")[1]
    flags = f"--{kind}.batch-size 16 --bc.encoder-scale 1 --device cpu --precision fp32 --no-compile"
    if stage == "laom_supervised.lam":
        flags += " --lam.labeled-batch-size 16"
    if stage != "bc.bc":
        flags += " --num-labeled-trajectories 2"
    train = throughput.Train(data=str(short_file), num_updates=1, flags=flags)
    result = throughput.measure_speed(stage, train)
    assert result["transitions_per_second"] > 0 and result["gflop_per_transition"] > 0.01
    shares = throughput.measure_shares(stage, train)
    assert shares.keys() == {*throughput.PARTS, "rest"} and -0.01 < min(shares.values()) < 1
    assert (shares["augmentation"] > 0) == (kind == "lam" and stage != "lapo.lam")
    assert min(shares["data"], shares["forward"], shares["backward"], shares["optimiser"]) > 0


def test_the_evaluation_can_be_timed(short_file, monkeypatch):
    monkeypatch.setattr(throughput.importlib.import_module("laom"), "EPISODE_LENGTH", 20)
    flags = "--device cpu --precision fp32 --bc.encoder-scale 1 --eval.num-episodes 1 --eval.num-workers 1"
    flags += " --num-labeled-trajectories 2 --lam.batch-size 16 --bc.batch-size 16 --decoder.batch-size 16"
    result = throughput.measure_evaluation(throughput.Train(data=str(short_file), flags=flags))
    assert result["episodes"] == 2 and result["seconds"] > 0


def test_the_sizes_that_are_timed():
    """Those that the help and docs/speed.md name, on the demo's own file."""
    train = throughput.Train()
    assert (train.data,) == throughput.load("laom", train)[0].DEMO.data
    for name in METHODS:
        _, args = throughput.load(name, train)
        assert args.bc.batch_size == 256 and args.bc.encoder_scale == 2
        for stage in ("lam", "idm"):
            cfg = getattr(args, stage, None)
            assert cfg is None or (cfg.batch_size, cfg.encoder_scale) == (256, 1)


def test_a_large_file_replaces_none(short_file, tmp_path):
    taken = tmp_path / "taken.hdf5"
    taken.write_text("mine")
    with pytest.raises(SystemExit, match="error: --output .*taken.hdf5 exists"):
        throughput.measure_large_file(throughput.LargeFile(data=str(short_file), output=taken))
    assert taken.read_text() == "mine"


def test_the_rendering_that_is_compared():
    """Our pictures are those of dm_control's defaults, nearly; the same distractors drift in both."""
    args = throughput.Collect()
    video = throughput.collect_data.dead_leaves_video(0, num_frames=2)
    pictures = []
    for default in (True, False):
        env = throughput.make_env(args, default, video)
        env.reset(seed=0)
        pictures.append(env.step(np.zeros(env.action_space.shape))[0].astype(float))
    assert 0 < np.abs(pictures[0] - pictures[1]).mean() < 6

"""Runs the benchmark: each figure and table of the paper is a list of runs, and the scale is its only knob.

    python benchmark/run.py figure_08 --scale demo             # collects the data that is missing, then runs what Figure 8 needs
    python benchmark/run.py figure_01 table_3 --scale mini     # figures share runs: each is done once
    python benchmark/run.py all --scale paper --dry-run        # prints the commands, with what is finished as a comment
    python benchmark/run.py all --scale mini --tasks walker-run --seeds 0
    python benchmark/plot.py --scale mini                      # draws what is finished

SCALES, list_runs and list_figures below are the whole benchmark; `figure_09` means every entry that begins with it. Given again, a
command skips finished runs, continues begun ones from their checkpoints and starts the rest; Ctrl-C or SIGTERM stops it behind a
checkpoint. A run that fails does not stop the others: the end lists what failed, and the exit status is 1.

Files: --runs/<scale>/<name>[__vanilla]/<run>/, what the scripts write and wall_clock.json: seconds of each session, machine, date.
"""

import dataclasses
import datetime
import functools
import importlib
import itertools
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

DISTRACTORS, CLEAN = "scale_easy_video_hard", "vanilla"


@dataclass
class Scale:
    preset: str  # of every script
    data: Path  # folder of the datasets
    num_trajectories: tuple[int, int]  # in a training file, in an evaluation file
    tasks: tuple[str, ...]
    other_tasks: tuple[str, ...]  # cross-embodied pre-training is on these, without the task itself
    trajectories_per_file: int  # of each of them
    seeds: tuple[int, ...]
    budgets: tuple[int, ...]  # labelled trajectories
    original_dim: int  # size of the original LAPO's z
    smaller_dims: tuple[int, ...]  # sizes of z in Figures 9 and 12, beside the preset's
    flags: dict[str, str]  # what differs from the preset


ALL_TASKS = ("cheetah-run", "walker-run", "hopper-hop", "humanoid-walk")
MINI_LAM = "--lam.num-epochs 8 --lam.batch-size 64 --lam.learning-rate 5e-4"
MINI_BC = "--bc.num-epochs 4 --bc.batch-size 64 --bc.learning-rate 2e-3 --eval.num-episodes 10"
SCALES = {
    "paper": Scale(
        "paper", Path("data/paper"), (5000, 50), ALL_TASKS, ALL_TASKS, 1666, (0, 1, 2), (2, 4, 8, 16, 32, 64, 128),
        128, (64, 256, 1024), {},  # Section 5 names 64 and 8192; those between are ours
    ),
    "demo": Scale(
        "demo", Path("data"), (24, 8), ("cheetah-run",), ("walker-run", "hopper-hop"), 12, (0,), (2, 8), 32, (16, 64), {},
    ),
    # The demo's networks on 64 trajectories, in batches a quarter of the demo's at half its rates: eight passes are 8,000 updates
    # of a LAM, where the demo has 650. One seed and kind of data takes 2.2 hours on one core. README, "How the mini scale was
    # chosen", says why.
    "mini": Scale(
        "demo", Path("data/mini"), (64, 8), ("cheetah-run",), ("walker-run", "hopper-hop"), 32, (0, 1, 2), (8,), 32, (16, 64),
        {
            "lapo.py": f"{MINI_LAM} {MINI_BC}",
            "laom.py": f"{MINI_LAM} {MINI_BC}",
            "laom_supervised.py": f"{MINI_LAM} --lam.labeled-batch-size 16 {MINI_BC}",
            "idm.py": f"--idm.num-updates 4000 --idm.batch-size 64 --idm.learning-rate 5e-4 {MINI_BC}",
            "bc.py": f"--bc.num-updates 4000 {MINI_BC}",
        },
    ),
}  # fmt: skip

# ---- The runs: scripts and the flags that a scale's preset does not have -----------------------------------------------------

# What needs the probes alone: the policy stays untrained, and its returns are no result.
PROBE_ONLY = "--num-labeled-trajectories {least_labels} --bc.num-epochs 0 --decoder.num-updates 1 --eval.num-episodes 1"
CROSS = "--data OTHERS --trajectories-per-file {trajectories_per_file} --labeled-data OWN"  # training files of the other tasks
SMALL = "--lam.latent-action-dim {dim} --num-labeled-trajectories {most_labels}"  # Section 5: 128 labelled trajectories


def list_runs(scale: Scale) -> dict[str, str]:
    """Name → script and flags. What else a command needs (data, label budgets, twins, seed, folder): see `make_command`."""
    probe_only = PROBE_ONLY.format(least_labels=scale.budgets[0])
    original = f"lapo.py --lam.future-obs-offset 1 --lam.latent-action-dim {scale.original_dim} {probe_only}"
    cross = CROSS.format(trajectories_per_file=scale.trajectories_per_file)
    runs = {
        "bc": "bc.py",
        "idm": "idm.py",
        "lapo": "lapo.py",
        "laom": "laom.py",
        "laom_supervised": "laom_supervised.py",
        "lapo_original": original,
        "lapo_original_vq": f"{original} --lam.quantizer vq",
        "lapo_original_fsq": f"{original} --lam.quantizer fsq",
        "lapo_multi_step": f"lapo.py --lam.latent-action-dim {scale.original_dim} {probe_only}",
        # of these two one is the preset's laom, and done once
        "laom_no_aug": f"laom.py --lam.no-use-aug {probe_only * (scale.preset == 'paper')}",
        "laom_aug": "laom.py --lam.use-aug",
        "laom_fsq": "laom.py --lam.quantizer fsq",
        "idm_multi_step": "idm.py --idm.future-obs-offset 10",
        "lapo_cross": f"lapo.py {cross}",
        "laom_cross": f"laom.py {cross}",
        "laom_supervised_cross": f"laom_supervised.py {cross}",
    }
    for dim in scale.smaller_dims:
        small = SMALL.format(dim=dim, most_labels=scale.budgets[-1])
        runs |= {f"laom_{dim}": f"laom.py {small}", f"laom_supervised_{dim}": f"laom_supervised.py {small}"}
    return runs


# ---- The figures: which runs each needs, with distractors and without, on all tasks and seeds of the scale -------------------


@dataclass
class Figure:
    about: str
    distractors: list[str] = dataclasses.field(default_factory=list)  # names of runs on data with distractors
    clean: list[str] = dataclasses.field(default_factory=list)  # and without
    task: str | None = None  # where the paper takes a single task (a scale without it takes its own)
    seeds: tuple[int, ...] = ()  # fewer than the scale's
    reconstruct: bool = False  # afterwards benchmark/measure.py --reconstruct on what the most labels have trained
    data: bool = False  # needs the datasets, whatever the runs


METHODS = ["bc", "idm", "lapo", "laom", "laom_supervised"]


def list_figures(scale: Scale) -> dict[str, Figure]:
    quantizers = ["lapo_original_vq", "lapo_original_fsq", "lapo_original"]
    steps = ["lapo_original", "lapo_multi_step", "lapo", "laom_no_aug", "laom_aug"]
    cross = ["bc", "lapo_cross", "laom_cross", "laom_supervised_cross"]
    dims = [f"{name}_{dim}" for name in ("laom", "laom_supervised") for dim in scale.smaller_dims]
    dims = ["laom", "laom_supervised", *dims]
    return {
        "figure_01": Figure("all methods, with distractors", METHODS),
        "figure_05": Figure("LAPO's latent actions with and without quantiser", quantizers, quantizers),
        "figure_06": Figure("LAOM's changes to LAPO, one after the other", steps, [steps[0], steps[-1]]),
        "figure_07": Figure("LAPO and LAOM, with and without distractors", ["lapo", "laom"], ["lapo", "laom"]),
        "figure_08": Figure("all methods by labels, with distractors", METHODS),
        "figure_09a": Figure("IDM and LAOM+supervision on unseen videos", ["idm", "laom_supervised"]),
        "figure_09bc": Figure("small latent actions", dims),
        "figure_10": Figure("pre-training on other tasks", cross),
        "figure_11": Figure("what embeddings hold", ["laom", "laom_supervised", "idm_multi_step"], seeds=(0,), reconstruct=True),
        "figure_12ab": Figure("probes of latent actions and of embeddings", dims, task="walker-run"),
        "figure_12c": Figure("LAOM with quantiser", ["laom", "laom_fsq"], task="walker-run"),
        "figure_13": Figure("all methods by labels, without distractors", clean=METHODS),
        "figure_14": Figure("pre-training on other tasks, each task", cross),
        "figure_15": Figure("all methods, without distractors", clean=METHODS),
        "table_1": Figure("datasets", data=True),
        "table_2": Figure("time of each method", METHODS),
        "table_3": Figure("BC on all labels", ["bc"], ["bc"]),
        "table_4": Figure("numbers of parameters"),
    }


def choose_figures(scale: Scale, words: tuple[str, ...]) -> dict[str, Figure]:
    figures = list_figures(scale)
    unknown = [word for word in words if word != "all" and not any(name.startswith(word) for name in figures)]
    if unknown:
        raise SystemExit(f"error: no figure {unknown[0]}: there are {', '.join(figures)}, and all")
    return {name: figure for name, figure in figures.items() if any(word == "all" or name.startswith(word) for word in words)}


# ---- From a name to a command ------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """One run of one figure or of several."""

    name: str
    task: str
    difficulty: str
    seed: int
    command: list[str]  # script, preset, flags
    reconstruct: bool = False

    def __str__(self):
        return f"{self.name}, {self.task}, {'no ' * (self.difficulty == CLEAN)}distractors, seed {self.seed}"


def data_file(scale: Scale, task: str, difficulty: str, split: str = "train") -> str:
    return f"{scale.data}/{task}__{difficulty}__{split}.hdf5"


def twin_file(scale: Scale, task: str) -> str:
    return f"{scale.data}/twins/{task}__{CLEAN}__val.hdf5"


def make_command(scale: Scale, name: str, task: str, difficulty: str, seed: int, runs: Path) -> list[str]:
    script, *words = list_runs(scale)[name].split()
    own = [data_file(scale, task, difficulty)]
    others = [data_file(scale, other, difficulty) for other in scale.other_tasks if other != task]
    flags = [file for word in words for file in {"OWN": own, "OTHERS": others}.get(word, [word])]
    flags += ["--data", *own] if "--data" not in words else []
    if "--num-labeled-trajectories" not in words:
        flags += ["--num-labeled-trajectories", *["all"] * (script == "bc.py"), *map(str, scale.budgets)]
    if difficulty == DISTRACTORS and script != "bc.py":
        flags += ["--twin-data", twin_file(scale, task)]
    folder = runs / (name if difficulty == DISTRACTORS else f"{name}__{difficulty}")
    return [script, scale.preset, *scale.flags.get(script, "").split(), *flags, "--seed", str(seed), "--runs", str(folder)]


def identity(script: str, args: dict) -> dict:
    """What makes two runs the same experiment, from the arguments as args.json has them: script, networks, training, evaluation."""
    stages = {f"{stage}.{key}": value for stage in ("lam", "idm", "bc", "decoder") for key, value in args.get(stage, {}).items()}
    stages = {key: value for key, value in stages.items() if not key.endswith(".checkpoint")}
    whole = {key: args[key] for key in ("trajectories_per_file", "frame_stack", "lr_schedule") if key in args}
    return {"script": script, **stages, **whole, "eval.num_episodes": args["eval"]["num_episodes"]}


@functools.cache
def parse(script: str, *argv: str) -> dict:
    """The arguments as the script understands them and would write them into args.json."""
    args = importlib.import_module(script.removesuffix(".py")).parse_args(list(argv))
    return json.loads(json.dumps(dataclasses.asdict(args), default=str))


def identities(scale: Scale) -> dict[str, dict]:
    """The identity of every name of the scale."""
    result = {}
    for name, run in list_runs(scale).items():
        script, *words = run.split()
        result[name] = identity(script, parse(script, scale.preset, *scale.flags.get(script, "").split(), *words))
    return result


def differences(run: dict, wanted: dict) -> list[str]:
    """Where a run is not what is wanted; an argument that scripts did not have when it ran counts as the default."""
    return [f"{key} is {run.get(key, value)}, not {value}" for key, value in wanted.items() if run.get(key, value) != value]


def make_jobs(scale: Scale, figures: dict[str, Figure], tasks: tuple[str, ...], seeds: tuple[int, ...], runs: Path) -> list[Job]:
    """All runs of the figures, each once: names that mean the same experiment are the first of them."""
    known, jobs = identities(scale), {}
    for figure in figures.values():
        figure_tasks = tasks or ((figure.task,) if figure.task in scale.tasks else scale.tasks)
        for difficulty, names in ((DISTRACTORS, figure.distractors), (CLEAN, figure.clean)):
            for name in names:
                name = next(other for other in known if known[other] == known[name])
                for task in figure_tasks:
                    for seed in seeds or figure.seeds or scale.seeds:
                        command = make_command(scale, name, task, difficulty, seed, runs)
                        job = jobs.setdefault(tuple(command), Job(name, task, difficulty, seed, command))
                        job.reconstruct |= figure.reconstruct
    return sorted(jobs.values(), key=lambda job: (ALL_TASKS.index(job.task), job.seed))  # one seed of everything first


def values(command: list[str], flag: str) -> list[str]:
    """What a command gives a flag."""
    words = command[command.index(flag) + 1 :] if flag in command else []
    return list(itertools.takewhile(lambda word: not word.startswith("--"), words))


def find_run(job: Job, wanted: dict) -> tuple[Path | None, bool]:
    """The newest run of the job and whether it has finished; None if it has not begun."""
    data, labeled_data, (runs,) = (values(job.command, flag) for flag in ("--data", "--labeled-data", "--runs"))
    labels, begun = values(job.command, "--num-labeled-trajectories"), None
    for path in sorted((ROOT / runs).glob("*/args.json"), reverse=True):
        args, results = json.loads(path.read_text()), path.with_name("results.json")
        same_data = (args["data"], args["labeled_data"], args["seed"]) == (data, labeled_data, job.seed)
        if not same_data or not set(labels) <= set(map(str, args["num_labeled_trajectories"])):
            continue
        if not (path.parent / job.command[0]).exists() or differences(identity(job.command[0], args), wanted):
            continue
        if results.exists() and set(labels) <= set(json.loads(results.read_text())["budgets"]):
            return path.parent, True
        begun = begun or path.parent
    return begun, False


def data_commands(scale: Scale, figures: dict[str, Figure], jobs: list[Job], tasks: tuple[str, ...]) -> dict[str, list[str]]:
    """File → the command that makes it, for every dataset that the figures need and that is not there."""
    files = [word for job in jobs for word in job.command if word.endswith(".hdf5")]
    if any(figure.data for figure in figures.values()):
        files += [data_file(scale, task, DISTRACTORS) for task in tasks or scale.tasks]
    commands = {}
    for file in dict.fromkeys(files):
        task, difficulty = Path(file).name.split("__")[:2]
        train, evaluation = map(str, scale.num_trajectories)
        if Path(file).parent.name == "twins":
            flags = f"--rerender {data_file(scale, task, DISTRACTORS, 'val')} --difficulty {CLEAN}"
        else:
            flags = f"--task {task} --difficulty {difficulty} --num-trajectories {train} --num-eval-trajectories {evaluation}"
        if not all((ROOT / name).exists() for name in (file, file.replace("__train", "__val"))):
            commands[file] = ["collect_data.py", *flags.split(), "--output", str(Path(file).parent)]
    return dict(sorted(commands.items(), key=lambda item: "/twins/" in item[0]))  # a twin comes after what it is a twin of


# ---- Running -----------------------------------------------------------------------------------------------------------------

STOPPED = []  # signals that ask the benchmark to stop


def execute(command: list[str]) -> bool:
    """Runs a script of this repository; passes Ctrl-C and SIGTERM on and waits until it has written its checkpoint."""
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, start_new_session=True)

    def forward(number, _):
        STOPPED.append(number)
        process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    return process.wait() == 0


def machine() -> str:
    import torch

    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores{gpu}"


def note_time(folder: Path, seconds: float):
    path = folder / "wall_clock.json"
    sessions = json.loads(path.read_text())["seconds"] if path.exists() else []
    record = {"seconds": [*sessions, round(seconds, 1)], "machine": machine(), "date": str(datetime.date.today())}
    path.write_text(json.dumps(record, indent=2))


def reconstruction(folder: Path | None) -> list[str]:
    """The command that draws what the run's embedding holds, where the most labels have trained it."""
    weights = [path for kind in ("lam", "idm") for path in (folder or Path("<run>")).glob(f"{kind}*.pt")]
    weights.sort(key=lambda path: int("0" + path.stem.partition("_")[2]))
    return ["benchmark/measure.py", str(weights[-1] if weights else "<run>"), "--reconstruct"]


@dataclass
class Args:
    what: Annotated[tuple[str, ...], tyro.conf.Positional]
    """figures and tables: figure_01, figure_09 (a and bc), table_3, all; none prints what there is"""
    scale: Literal[tuple(SCALES)] = "demo"
    """size of everything: a row of SCALES"""
    tasks: tuple[str, ...] = ()
    """instead of the scale's tasks"""
    seeds: tuple[int, ...] = ()
    """instead of the scale's seeds"""
    runs: Path = Path("runs/benchmark")
    """folder of all runs"""
    dry_run: bool = False
    """print the commands and run none"""


def main(args: Args):
    scale = SCALES[args.scale]
    if unknown := set(args.tasks) - set(ALL_TASKS):
        raise SystemExit(f"error: no task {unknown.pop()}: there are {', '.join(ALL_TASKS)}")
    figures = choose_figures(scale, args.what)
    if not figures:
        return print("\n".join(f"{name:12} {figure.about}" for name, figure in list_figures(scale).items()))
    known = identities(scale)
    jobs = make_jobs(scale, figures, args.tasks, args.seeds, args.runs / args.scale)
    missing_data = data_commands(scale, figures, jobs, args.tasks)
    failed, counts = [], {"finished": 0, "continues": 0, "starts": 0}
    for file, command in missing_data.items():
        print(f"\n# data: {file}\npython {shlex.join(command)}", flush=True)
        if not args.dry_run and not execute(command):
            failed.append(f"data: {file}")
        if STOPPED:
            raise SystemExit("stopped; the same command continues")
    for number, job in enumerate(jobs, 1):
        folder, finished = find_run(job, known[job.name])
        state = "finished" if finished else "continues" if folder else "starts"
        command = [job.command[0], "--resume", str(folder)] if folder else job.command
        counts[state] += 1
        print(f"\n# {number} of {len(jobs)}, {state}: {job}{f', {folder}' * finished}", flush=True)
        if not finished:
            print("python", shlex.join(command), flush=True)
        if not args.dry_run and not finished:
            absent = [word for word in job.command if word.endswith(".hdf5") and not (ROOT / word).exists()]
            if absent:
                failed.append(f"{job}: {absent[0]} is missing")
                continue
            began = time.time()
            succeeded = execute(command)
            folder, finished = find_run(job, known[job.name])
            if folder:
                note_time(folder, time.time() - began)
            if not (succeeded and finished) and not STOPPED:
                failed.append(str(job))
        command = reconstruction(folder)
        if job.reconstruct and not Path(command[1]).with_suffix(".png").exists():
            print("python", shlex.join(command), flush=True)
            if not args.dry_run and finished and not STOPPED and not execute(command):
                failed.append(f"{job}: reconstruction")
        if STOPPED:
            raise SystemExit("stopped; the same command continues")
    print(f"\n# {len(jobs)} runs: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    if failed:
        raise SystemExit("error: these failed, what they said is above:\n" + "\n".join(failed))


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (KeyboardInterrupt, OSError) as error:
        raise SystemExit(f"error: {str(error) or 'interrupted'}")

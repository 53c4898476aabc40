"""Runs the benchmark: each figure and table of the paper is a list of runs, and the scale is its only knob.

    python benchmark/run.py figure_08 --scale demo           # collects missing data, runs what Figure 8 needs
    python benchmark/run.py figure_01 table_3 --scale mini   # figures share runs: each is done once
    python benchmark/run.py all --scale paper --dry-run      # prints the commands, one a line, and runs none
    python benchmark/run.py all --scale mini --tasks walker-run --seeds 0
    python benchmark/run.py --script laom_cosine.py --like laom --scale mini    # a script of your own, alone
    python benchmark/plot.py --scale mini                    # draws what is finished

SCALES, list_runs and list_figures below are the whole benchmark; `figure_09` means every entry that begins
with it. Given again, a command skips finished runs, continues begun ones from their checkpoints with the
run's own copy of the script, and starts the rest; Ctrl-C or SIGTERM stops it behind a checkpoint. After each
run of a LAM or an IDM, benchmark/measure.py measures it. A run that fails does not stop the others: the end
lists what failed, and the exit status is 1.

A variant, any script by its path, gets the sizes of the method that --like names, at every scale. With
figures it runs beside their methods, where the method that it is like does; plot.py then shows it under its
own name.

Files: --runs/<scale>/<name>[__vanilla]/<run>/, what the scripts and measure.py write, and wall_clock.json:
seconds of each session, machine, date, and of a variant its script and what it is like.
"""

import dataclasses
import datetime
import functools
import importlib.util
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

import h5py
import tyro

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from collect_data import WORLD  # noqa: E402 it lies a folder up

DISTRACTORS = "scale_easy_video_hard"
CLEAN = "vanilla"
ALL_TASKS = ("cheetah-run", "walker-run", "hopper-hop", "humanoid-walk")
METHODS = ["bc", "idm", "lapo", "laom", "laom_supervised"]

# ---- Scales -----------------------------------------------------------------------------------------------


@dataclass
class Scale:
    data: Path  # folder of the datasets
    num_trajectories: int  # in a training file
    num_eval_trajectories: int  # in an evaluation file
    tasks: tuple[str, ...]
    other_tasks: tuple[str, ...]  # cross-embodied pre-training is on these, without the task itself
    trajectories_per_file: int  # of each of them
    seeds: tuple[int, ...]
    budgets: tuple[int, ...]  # labelled trajectories
    original_dim: int  # size of the original LAPO's z
    smaller_dims: tuple[int, ...]  # sizes of z in Figures 9 and 12, beside the method's own
    laom_augments: bool  # whether LAOM augments unless a flag says otherwise
    methods: dict[str, str]  # method or variant → its script, preset and what differs from the preset
    variants: dict[str, str] = dataclasses.field(default_factory=dict)  # variant → method that it is like


PAPER = Scale(
    data=Path("data/paper"),
    num_trajectories=5000,
    num_eval_trajectories=50,
    tasks=ALL_TASKS,
    other_tasks=ALL_TASKS,
    trajectories_per_file=1666,
    seeds=(0, 1, 2),
    budgets=(2, 4, 8, 16, 32, 64, 128),
    original_dim=128,
    smaller_dims=(64, 256, 1024),  # Section 5 names 64 and 8192; those between are ours
    laom_augments=True,
    methods={
        "bc": "bc.py paper",
        "idm": "idm.py paper",
        "lapo": "lapo.py paper",
        "laom": "laom.py paper",
        "laom_supervised": "laom_supervised.py paper",
    },
)

DEMO = Scale(
    data=Path("data"),
    num_trajectories=24,
    num_eval_trajectories=8,
    tasks=("cheetah-run",),
    other_tasks=("walker-run", "hopper-hop"),
    trajectories_per_file=12,
    seeds=(0,),
    budgets=(2, 8),
    original_dim=32,
    smaller_dims=(16, 64),
    laom_augments=False,
    methods={
        "bc": "bc.py demo",
        "idm": "idm.py demo",
        "lapo": "lapo.py demo",
        "laom": "laom.py demo",
        "laom_supervised": "laom_supervised.py demo",
    },
)

# The demo's networks on 64 trajectories, 8,000 updates of a LAM; a seed and kind of data takes 2.2 hours of
# one core. Two lessons of the trials: four times as many updates of 64 came much nearer to predicting no
# change than updates of 256 at the same cost; and augmentation left next to nothing of the action in LAOM's
# z, a faster or slower target did not put it before LAPO, nor did a wider actor show larger returns.
MINI_LAM = "--lam.num-epochs 8 --lam.batch-size 64 --lam.learning-rate 5e-4"
MINI_BC = "--bc.num-epochs 4 --bc.batch-size 64 --bc.learning-rate 2e-3 --eval.num-episodes 10"
MINI_IDM = "--idm.num-updates 4000 --idm.batch-size 64 --idm.learning-rate 5e-4"
MINI = Scale(
    data=Path("data/mini"),
    num_trajectories=64,
    num_eval_trajectories=8,
    tasks=("cheetah-run",),
    other_tasks=("walker-run", "hopper-hop"),
    trajectories_per_file=32,
    seeds=(0, 1, 2),
    budgets=(8,),
    original_dim=32,
    smaller_dims=(16, 64),
    laom_augments=False,
    methods={
        "bc": f"bc.py demo --bc.num-updates 4000 {MINI_BC}",
        "idm": f"idm.py demo {MINI_IDM} {MINI_BC}",
        "lapo": f"lapo.py demo {MINI_LAM} {MINI_BC}",
        "laom": f"laom.py demo {MINI_LAM} {MINI_BC}",
        "laom_supervised": f"laom_supervised.py demo {MINI_LAM} --lam.labeled-batch-size 16 {MINI_BC}",
    },
)

SCALES = {"paper": PAPER, "demo": DEMO, "mini": MINI}


def with_variant(scale: Scale, script: str, like: str) -> Scale:
    """The scale with one script more, which is called as its file is and has the sizes of a method."""
    name = Path(script).stem
    sizes = scale.methods[like].partition(" ")[2]
    return dataclasses.replace(
        scale,
        methods=scale.methods | {name: f"{shlex.quote(script)} {sizes}"},
        variants=scale.variants | {name: like},
    )


# ---- Runs: what one types behind `python`; --seed and --runs come from the job ----------------------------


def list_runs(scale: Scale, task: str | None = None, difficulty: str = DISTRACTORS) -> dict[str, str]:
    """Name → command, on the data of a task (the scale's first one) and a difficulty."""
    task = task or scale.tasks[0]
    own = data_file(scale, task, difficulty)
    others = " ".join(data_file(scale, other, difficulty) for other in scale.other_tasks if other != task)
    budgets = " ".join(map(str, scale.budgets))
    labels = f"--num-labeled-trajectories {budgets}"
    fewest_labels, most_labels = scale.budgets[0], scale.budgets[-1]

    bc = f"{scale.methods['bc']} --data {own}"
    idm = f"{scale.methods['idm']} --data {own}"
    lapo = f"{scale.methods['lapo']} --data {own}"
    laom = f"{scale.methods['laom']} --data {own}"
    supervised = f"{scale.methods['laom_supervised']} --data {own}"
    runs = {
        "bc": f"{bc} --num-labeled-trajectories all {budgets}",
        "idm": f"{idm} {labels}",
        "lapo": f"{lapo} {labels}",
        "laom": f"{laom} {labels}",
        "laom_supervised": f"{supervised} {labels}",
        "laom_fsq": f"variants/laom_fsq.py {laom.partition(' ')[2]} {labels}",
        "idm_multi_step": f"{idm} {labels} --idm.future-obs-offset 10",
    }

    # Figures 5 and 6 need the latent actions alone: the policy stays untrained, its returns are no result.
    no_policy = f"--num-labeled-trajectories {fewest_labels}"
    no_policy += " --bc.num-epochs 0 --decoder.num-updates 1 --eval.num-episodes 1"
    small_lapo = f"{lapo} --lam.latent-action-dim {scale.original_dim} {no_policy}"
    runs |= {
        "lapo_original": f"{small_lapo} --lam.future-obs-offset 1",
        "lapo_original_vq": f"variants/lapo_vq.py {small_lapo.partition(' ')[2]}",
        "lapo_original_fsq": f"{small_lapo} --lam.future-obs-offset 1 --lam.quantizer fsq",
        "lapo_multi_step": small_lapo,
    }
    # One of these two is the scale's laom, and done once.
    runs |= {
        "laom_no_aug": f"{laom} {no_policy if scale.laom_augments else labels} --lam.no-use-aug",
        "laom_aug": f"{laom} {labels} --lam.use-aug",
    }

    # Figures 10 and 14: the LAM and the actor learn from other tasks' videos, the labels are of this task.
    cross = f"--data {others} --trajectories-per-file {scale.trajectories_per_file}"
    cross += f" --labeled-data {own} {labels}"
    runs |= {
        "lapo_cross": f"{scale.methods['lapo']} {cross}",
        "laom_cross": f"{scale.methods['laom']} {cross}",
        "laom_supervised_cross": f"{scale.methods['laom_supervised']} {cross}",
    }

    # Figures 9 and 12: Section 5 has 128 labelled trajectories, the most of Figure 8.
    for dim in scale.smaller_dims:
        small = f"--num-labeled-trajectories {most_labels} --lam.latent-action-dim {dim}"
        runs[f"laom_{dim}"] = f"{laom} {small}"
        runs[f"laom_supervised_{dim}"] = f"{supervised} {small}"

    for name, like in scale.variants.items():
        runs[name] = scale.methods[name] + runs[like].removeprefix(scale.methods[like])
    return runs


def data_file(scale: Scale, task: str, difficulty: str, split: str = "train") -> str:
    return f"{scale.data}/{task}__{difficulty}__{split}.hdf5"


def twin_file(scale: Scale, task: str) -> str:
    """The evaluation trajectories without distractors (collect_data.py --rerender)."""
    return f"{scale.data}/twins/{task}__{CLEAN}__val.hdf5"


# ---- Figures: which runs each needs, on all tasks and seeds of the scale ----------------------------------


@dataclass
class Figure:
    about: str
    distractors: list[str] = dataclasses.field(default_factory=list)  # names of runs on data with distractors
    clean: list[str] = dataclasses.field(default_factory=list)  # and without
    task: str | None = None  # where the paper takes a single task (a scale without it takes its own)
    seeds: tuple[int, ...] = ()  # fewer than the scale's
    per_task: bool = False  # a panel for each task; the others are means over tasks
    reconstruct: bool = False  # draw what the embedding holds, where the most labels have trained it
    data: bool = False  # needs the datasets, whatever the runs

    @property
    def runs(self) -> list[tuple[str, str]]:
        """(name, difficulty) of each run."""
        return [(name, DISTRACTORS) for name in self.distractors] + [(name, CLEAN) for name in self.clean]


def list_figures(scale: Scale) -> dict[str, Figure]:
    unsupervised = ["lapo", "laom"]
    quantizers = ["lapo_original_vq", "lapo_original_fsq", "lapo_original"]
    steps = ["lapo_original", "lapo_multi_step", "lapo", "laom_no_aug", "laom_aug"]
    cross = ["bc", "lapo_cross", "laom_cross", "laom_supervised_cross"]
    embeddings = ["laom", "laom_supervised", "idm_multi_step"]
    dims = ["laom", "laom_supervised"]
    dims += [f"laom_{dim}" for dim in scale.smaller_dims]
    dims += [f"laom_supervised_{dim}" for dim in scale.smaller_dims]
    figures = {
        "figure_01": Figure("all methods, with distractors", METHODS),
        "figure_05": Figure("LAPO's latent actions with and without quantiser", quantizers, quantizers),
        "figure_06": Figure("LAOM's changes to LAPO, one after the other", steps, [steps[0], steps[-1]]),
        "figure_07": Figure("LAPO and LAOM, with and without distractors", unsupervised, unsupervised),
        "figure_08": Figure("all methods by labels, with distractors", METHODS, per_task=True),
        "figure_09a": Figure("IDM and LAOM+supervision on unseen videos", ["idm", "laom_supervised"]),
        "figure_09bc": Figure("small latent actions", dims),
        "figure_10": Figure("pre-training on other tasks", cross),
        "figure_11": Figure("what embeddings hold", embeddings, seeds=(0,), reconstruct=True),
        "figure_12ab": Figure("probes of latent actions and of embeddings", dims, task="walker-run"),
        "figure_12c": Figure("LAOM with quantiser", ["laom", "laom_fsq"], task="walker-run"),
        "figure_13": Figure("all methods by labels, without distractors", clean=METHODS, per_task=True),
        "figure_14": Figure("pre-training on other tasks, each task", cross, per_task=True),
        "figure_15": Figure("all methods, without distractors", clean=METHODS),
        "measures_and_returns": Figure(
            "which measure predicts the return", ["lapo", "laom", "laom_supervised"]
        ),
        "table_1": Figure("datasets", data=True),
        "table_2": Figure("time of each method", METHODS),
        "table_3": Figure("BC on all labels", ["bc"], ["bc"]),
        "table_4": Figure("numbers of parameters"),
    }
    for figure in figures.values():
        figure.distractors = place_variants(scale, figure.distractors)
        figure.clean = place_variants(scale, figure.clean)
    return figures


def place_variants(scale: Scale, names: list[str]) -> list[str]:
    """The names of a figure's runs; where it compares methods, variants behind the method they are like."""
    if not set(names) <= set(METHODS):
        return names
    result = []
    for name in names:
        result += [name, *(variant for variant, like in scale.variants.items() if like == name)]
    return result


def choose_figures(scale: Scale, words: tuple[str, ...]) -> dict[str, Figure]:
    """The figures and tables whose names begin with one of the words; all of them for "all"."""
    figures = list_figures(scale)
    beginnings = tuple("" if word == "all" else word for word in words)
    for word, beginning in zip(words, beginnings):
        if not any(name.startswith(beginning) for name in figures):
            raise SystemExit(f"error: no figure {word}: there are {', '.join(figures)}, and all")
    return {name: figure for name, figure in figures.items() if name.startswith(beginnings)}


# ---- From figures to jobs ---------------------------------------------------------------------------------


@dataclass
class Job:
    """One run of one figure or of several."""

    name: str
    task: str
    difficulty: str
    seed: int
    method: str  # whose stages it has
    command: list[str]  # script, preset, flags
    twin: str | None  # what to measure its LAM or IDM on besides
    reconstruct: bool = False

    def __str__(self):
        kind = "distractors" if self.difficulty == DISTRACTORS else "no distractors"
        return f"{self.name}, {self.task}, {kind}, seed {self.seed}"

    @property
    def script(self) -> str:
        return self.command[0]

    @property
    def files(self) -> list[str]:
        """The datasets that the run and its measures read."""
        files = [word for word in self.command if word.endswith(".hdf5")]
        return [*files, self.twin] if self.twin else files


def make_job(scale: Scale, name: str, task: str, difficulty: str, seed: int, runs: Path) -> Job:
    command = shlex.split(list_runs(scale, task, difficulty)[name])
    method = scale.variants.get(name, Path(command[0]).stem)
    folder = name if difficulty == DISTRACTORS else f"{name}__{difficulty}"
    command += ["--seed", str(seed), "--runs", str(runs / folder)]
    has_twin = difficulty == DISTRACTORS and method != "bc"
    return Job(name, task, difficulty, seed, method, command, twin_file(scale, task) if has_twin else None)


def make_jobs(
    scale: Scale, figures: dict[str, Figure], tasks: tuple[str, ...], seeds: tuple[int, ...], runs: Path
) -> list[Job]:
    """All runs of the figures, each once: names that mean the same experiment are the first of them."""
    known = identities(scale)
    jobs = {}
    for figure in figures.values():
        own_tasks = (figure.task,) if figure.task in scale.tasks else scale.tasks
        for name, difficulty in figure.runs:
            first_name = next(other for other in known if known[other] == known[name])
            for task, seed in itertools.product(tasks or own_tasks, seeds or figure.seeds or scale.seeds):
                job = make_job(scale, first_name, task, difficulty, seed, runs)
                job = jobs.setdefault(tuple(job.command), job)
                job.reconstruct = job.reconstruct or figure.reconstruct
    return sorted(
        jobs.values(), key=lambda job: (ALL_TASKS.index(job.task), job.seed)
    )  # one seed of all first


def identity(script: str, args: dict) -> dict:
    """What makes two runs the same experiment, from args.json: script, networks, training, evaluation."""
    result = {"script": Path(script).name}
    for stage in ("lam", "idm", "bc", "decoder"):
        for key, value in args.get(stage, {}).items():
            if key != "checkpoint":
                result[f"{stage}.{key}"] = value
    for key in ("trajectories_per_file", "frame_stack", "lr_schedule"):
        if key in args:
            result[key] = args[key]
    result["eval.num_episodes"] = args["eval"]["num_episodes"]
    return result


@functools.cache
def parse(script: str, *argv: str) -> dict:
    """The arguments as the script understands them and would write them into args.json."""
    args = load_script(script).parse_args(list(argv))
    return json.loads(json.dumps(dataclasses.asdict(args), default=str))


def load_script(script: str):
    """A script as a module, wherever it lies."""
    path = ROOT / script
    if path.parent == ROOT:
        return importlib.import_module(path.stem)
    spec = importlib.util.spec_from_file_location(str(path), path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their types
    spec.loader.exec_module(module)
    if not hasattr(module, "parse_args"):
        raise SystemExit(f"error: {path} defines no parse_args: it is no training script")
    return module


def identities(scale: Scale) -> dict[str, dict]:
    """The identity of every name of the scale."""
    result = {}
    for name, command in list_runs(scale).items():
        script, *argv = shlex.split(command)
        result[name] = identity(script, parse(script, *argv))
    return result


def differences(run: dict, wanted: dict) -> list[str]:
    """Where a run is not what is wanted; an argument that scripts did not have when it ran is the default."""
    result = []
    for key, value in wanted.items():
        found = run.get(key, value)
        if found != value:
            result.append(f"{key} is {found}, not {value}")
    return result


def values(command: list[str], flag: str) -> list[str]:
    """What a command gives a flag."""
    words = command[command.index(flag) + 1 :] if flag in command else []
    return list(itertools.takewhile(lambda word: not word.startswith("--"), words))


def find_run(job: Job, wanted: dict) -> tuple[Path | None, bool]:
    """The newest run of the job and whether it has finished; None if it has not begun."""
    data = values(job.command, "--data")
    labeled_data = values(job.command, "--labeled-data")
    labels = set(values(job.command, "--num-labeled-trajectories"))
    (runs,) = values(job.command, "--runs")
    begun = None
    for path in sorted((ROOT / runs).glob("*/args.json"), reverse=True):
        folder = path.parent
        args = json.loads(path.read_text())
        if (args["data"], args["labeled_data"], args["seed"]) != (data, labeled_data, job.seed):
            continue
        if not labels <= set(map(str, args["num_labeled_trajectories"])):
            continue
        own_script = folder / Path(job.script).name
        if not own_script.exists() or differences(identity(job.script, args), wanted):
            continue
        if not (folder / "results.json").exists():
            begun = begun or folder
            continue
        results = json.loads((folder / "results.json").read_text())
        if results.get("world") != WORLD:  # of an earlier version: it is run anew
            continue
        if labels <= set(results["budgets"]):
            return folder, True
        begun = begun or folder
    return begun, False


def data_commands(
    scale: Scale, figures: dict[str, Figure], jobs: list[Job], tasks: tuple[str, ...]
) -> dict[str, list[str]]:
    """File → the command that makes it, for every dataset that the figures need and that is not there."""
    files = [file for job in jobs for file in job.files]
    if any(figure.data for figure in figures.values()):
        files += [data_file(scale, task, DISTRACTORS) for task in tasks or scale.tasks]
    datasets, twins = {}, {}  # a twin comes after what it is a twin of
    for file in dict.fromkeys(files):
        if (ROOT / file).exists() and (ROOT / file.replace("__train", "__val")).exists():
            refuse_other_world(ROOT / file)
            continue
        task, difficulty = Path(file).name.split("__")[:2]
        command = ["collect_data.py"]
        if Path(file).parent.name == "twins":
            command += ["--rerender", data_file(scale, task, DISTRACTORS, "val"), "--difficulty", CLEAN]
            twins[file] = [*command, "--output", str(Path(file).parent)]
        else:
            command += ["--task", task, "--difficulty", difficulty]
            command += ["--num-trajectories", str(scale.num_trajectories)]
            command += ["--num-eval-trajectories", str(scale.num_eval_trajectories)]
            datasets[file] = [*command, "--output", str(Path(file).parent)]
    return datasets | twins


def refuse_other_world(path: Path):
    with h5py.File(path) as file:
        world = file.attrs.get("world", 1)
    if world != WORLD:
        raise SystemExit(
            f"error: {path} shows world {world}, not {WORLD}: remove it, and it is collected again"
        )


# ---- Running ----------------------------------------------------------------------------------------------

RUNNING = []  # processes
STOPPED = []  # signals that ask the benchmark to stop


def execute(command: list[str]) -> bool:
    """Runs a script to its end, which after a signal is behind its checkpoint; says whether it succeeded."""
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, start_new_session=True)
    RUNNING.append(process)
    succeeded = process.wait() == 0
    RUNNING.remove(process)
    return succeeded


def stop(number, _):
    """Answers Ctrl-C and SIGTERM: passes them on to what runs."""
    STOPPED.append(number)
    for process in RUNNING:
        process.send_signal(number)


def stop_if_asked():
    if STOPPED:
        raise SystemExit("stopped; the same command continues")


def machine() -> str:
    import torch  # not above: it takes seconds

    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    words = [cpu[1] if cpu else platform.machine(), f"{os.cpu_count()} cores"]
    if torch.cuda.is_available():
        words.append(torch.cuda.get_device_name())
    return ", ".join(words)


def note_time(job: Job, folder: Path, seconds: float):
    """Adds a session to wall_clock.json."""
    path = folder / "wall_clock.json"
    sessions = json.loads(path.read_text())["seconds"] if path.exists() else []
    sessions.append(round(seconds, 1))
    record = {"seconds": sessions, "machine": machine(), "date": str(datetime.date.today())}
    if job.method != Path(job.script).stem:
        record |= {"script": job.script, "like": job.method}
    path.write_text(json.dumps(record, indent=2))


def measure_command(job: Job, folder: Path | None) -> list[str] | None:
    """The call of measure.py that the run lacks, if any: its measures, or the pictures of Figure 11."""
    if job.method == "bc":
        return None
    wanted = [".json", ".png"] if job.reconstruct else [".json"]
    weights = [*folder.glob("lam*.pt"), *folder.glob("idm*.pt")] if folder else []
    if folder and all(path.with_suffix(suffix).exists() for path in weights for suffix in wanted):
        return None
    command = ["benchmark/measure.py", str(folder or "<run>"), "--only-missing"]
    if job.twin:
        command += ["--twin-data", job.twin]
    if job.reconstruct:
        command += ["--reconstruct"]
    return command


@dataclass
class Args:
    what: Annotated[tuple[str, ...], tyro.conf.Positional]
    """figures and tables: figure_01, figure_09 (a and bc), table_3, all; none prints what there is"""
    scale: Literal[tuple(SCALES)] = "demo"
    """size of everything: an entry of SCALES"""
    tasks: tuple[str, ...] = ()
    """instead of the scale's tasks"""
    seeds: tuple[int, ...] = ()
    """instead of the scale's seeds"""
    script: Path | None = None
    """a variant to run beside the methods of the figures; without figures alone, with distractors"""
    like: Literal[tuple(METHODS)] | None = None
    """the method whose sizes the variant gets"""
    runs: Path = Path("runs/benchmark")
    """folder of all runs"""
    dry_run: bool = False
    """print the commands and run none"""


def collect_data(commands: dict[str, list[str]], dry_run: bool) -> list[str]:
    """Makes the datasets; says which failed."""
    failed = []
    for file, command in commands.items():
        print(f"\n# data: {file}\npython {shlex.join(command)}", flush=True)
        if not dry_run and not execute(command):
            failed.append(f"data: {file}")
        stop_if_asked()
    return failed


def train_command(job: Job, folder: Path | None) -> list[str]:
    """Starts the run, or continues it with its own copy of the script."""
    if folder is None:
        return job.command
    return [str(folder / Path(job.script).name), "--resume", str(folder)]


def train(job: Job, wanted: dict, folder: Path | None) -> tuple[Path | None, bool]:
    """Starts or continues a run; its folder, and whether it has finished."""
    began = time.time()
    succeeded = execute(train_command(job, folder))
    folder, finished = find_run(job, wanted)
    if folder:
        note_time(job, folder, time.time() - began)
    return folder, succeeded and finished


def do(job: Job, wanted: dict, folder: Path | None, finished: bool, dry_run: bool) -> str | None:
    """Trains what has not finished, then measures what is not measured; in words what failed, if it did."""
    if not finished:
        print("python", shlex.join(train_command(job, folder)), flush=True)
    if not finished and not dry_run:
        absent = [file for file in job.files if not (ROOT / file).exists()]
        if absent:
            return f"{job}: {absent[0]} is missing"
        folder, finished = train(job, wanted, folder)
        if not finished:
            return str(job)
    command = measure_command(job, folder)
    if command and not STOPPED:
        print("python", shlex.join(command), flush=True)
        if not dry_run and not execute(command):
            return f"{job}: {shlex.join(command)}"
    return None


def add_variant(scale: Scale, script: Path | None, like: str | None) -> Scale:
    """The scale with the script of the command line, if there is one."""
    if script is None and like is None:
        return scale
    if script is None or like is None:
        raise SystemExit("error: --script PATH and --like METHOD go together")
    if script.suffix != ".py" or not script.is_file():
        raise SystemExit(f"error: --script {script}: no such script")
    if script.stem in list_runs(scale):
        raise SystemExit(f"error: --script {script}: {script.stem} is a run of its own: name it otherwise")
    path = script.resolve()
    path = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return with_variant(scale, str(path), like)


def main(args: Args):
    scale = add_variant(SCALES[args.scale], args.script, args.like)
    unknown = set(args.tasks) - set(ALL_TASKS)
    if unknown:
        raise SystemExit(f"error: no task {unknown.pop()}: there are {', '.join(ALL_TASKS)}")
    figures = choose_figures(scale, args.what)
    if not figures and args.script:
        figures = {"variant": Figure("the variant alone", [args.script.stem])}
    if not figures:
        for name, figure in list_figures(scale).items():
            print(f"{name:12} {figure.about}")
        return

    compared = {name for figure in figures.values() for name, _ in figure.runs}
    if args.script and args.script.stem not in compared:
        raise SystemExit(f"error: --like {args.like}: {', '.join(figures)}: it is not compared there")

    known = identities(scale)
    jobs = make_jobs(scale, figures, args.tasks, args.seeds, args.runs / args.scale)
    failed = collect_data(data_commands(scale, figures, jobs, args.tasks), args.dry_run)
    counts = {"finished": 0, "continues": 0, "starts": 0}
    for number, job in enumerate(jobs, 1):
        wanted = known[job.name]
        folder, finished = find_run(job, wanted)
        state = "finished" if finished else "continues" if folder else "starts"
        counts[state] += 1
        print(f"\n# {number} of {len(jobs)}, {state}: {job}{f', {folder}' if finished else ''}", flush=True)
        failure = do(job, wanted, folder, finished, args.dry_run)
        stop_if_asked()
        if failure:
            failed.append(failure)
    print(f"\n# {len(jobs)} runs: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    if failed:
        raise SystemExit("error: these failed, what they said is above:\n" + "\n".join(failed))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        main(tyro.cli(Args, description=__doc__))
    except (KeyboardInterrupt, OSError) as error:
        raise SystemExit(f"error: {str(error) or 'interrupted'}")

"""Runs the benchmark: each figure and table of the paper is a list of runs, and the scale is its only knob.

    python benchmark/run.py figure_08 --scale demo           # collects missing data, runs what Figure 8 needs
    python benchmark/run.py figure_01 table_3 --scale mini   # figures share runs: each is done once
    python benchmark/run.py night --scale mini --jobs 2      # the grid of one night, two runs side by side
    python benchmark/run.py all --scale paper --gpus 8       # eight side by side, a GPU each
    python benchmark/run.py all --scale paper --dry-run      # prints the commands, one a line, and runs none
    python benchmark/run.py all --scale mini --tasks walker-run --seeds 0
    python benchmark/run.py figure_01 --scale gpu --jobs 3 --minutes 9 --export results    # three share a GPU
    python benchmark/run.py --script laom_cosine.py --like laom --scale mini    # a script of your own, alone
    python benchmark/plot.py --scale mini                    # draws what is finished

SCALES, list_runs, list_figures and list_night below are the whole benchmark; `figure_09` means every entry
that begins with it. Given again, a command skips finished runs, continues begun ones from their checkpoints
with the run's own copy of the script, and starts the rest; Ctrl-C, SIGTERM or the end of --minutes (exit
status 3) stops it behind checkpoints. Several at once leave each other's runs alone. After each run of a LAM
or an IDM, benchmark/measure.py measures it. A run that fails does not stop the others: the end lists what
failed, and the exit status is 1.

A variant, any script by its path, gets the sizes of the method that --like names, at every scale. With
figures it runs beside their methods, where the method that it is like does; plot.py then shows it under its
own name.

Files: --runs/<scale>/<name>[__vanilla]/<run>/, what the scripts and measure.py write, and wall_clock.json:
seconds and cores of each session, machine, date, and of a variant its script and what it is like.
--runs/<scale>/logs/: what was called when, and of runs side by side what they said.
--export/<scale>/<task>/<name>[__vanilla]/seed<n>/: of each finished run what is small.
"""

import concurrent.futures
import dataclasses
import datetime
import functools
import importlib.util
import itertools
import json
import operator
import os
import platform
import queue
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Literal

import h5py
import tyro
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from collect_data import WORLD, Progress, lock_file  # noqa: E402 it lies a folder up

DISTRACTORS = "scale_easy_video_hard"
CLEAN = "vanilla"
ALL_TASKS = ("cheetah-run", "walker-run", "hopper-hop", "humanoid-walk")
METHODS = ["bc", "idm", "lapo", "laom", "laom_supervised"]

# ---- Scales -----------------------------------------------------------------------------------------------


@dataclass
class Scale:
    data: Path  # folder of the datasets
    action_repeat: int  # simulation steps of an action
    action_noise: float  # standard deviation of what is added to the expert's actions
    num_trajectories: int  # in a training file
    num_eval_trajectories: int  # in an evaluation file
    tasks: tuple[str, ...]
    other_tasks: tuple[str, ...]  # cross-embodied pre-training is on these, without the task itself
    trajectories_per_file: int  # of each of them
    seeds: tuple[int, ...]
    budgets: tuple[int, ...]  # labelled trajectories; each costs BC a policy, LAPO and LAOM a decoder
    costly_budgets: tuple[int, ...]  # of methods that learn an IDM or a LAM, and a policy, anew for each
    future_obs_offset: int  # K of LAPO and LAOM, which Figure 11 also gives to an IDM
    original_dim: int  # size of the original LAPO's z
    smaller_dims: tuple[int, ...]  # sizes of z in Figures 9 and 12, beside the method's own
    laom_augments: bool  # whether LAOM augments unless a flag says otherwise
    methods: dict[str, str]  # method or variant → its script, preset and what differs from the preset
    task_flags: dict[str, str] = dataclasses.field(default_factory=dict)  # task → what its runs have besides
    variants: dict[str, str] = dataclasses.field(default_factory=dict)  # variant → method that it is like

    @property
    def most_labels(self) -> int:
        """The largest budget that all methods have."""
        return self.costly_budgets[-1]


PAPER = Scale(
    data=Path("data/paper"),
    action_repeat=1,
    action_noise=0,
    num_trajectories=5000,
    num_eval_trajectories=50,
    tasks=ALL_TASKS,
    other_tasks=ALL_TASKS,
    trajectories_per_file=1666,
    seeds=(0, 1, 2),
    budgets=(2, 4, 8, 16, 32, 64, 128),
    costly_budgets=(2, 4, 8, 16, 32, 64, 128),
    future_obs_offset=10,
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
    action_repeat=4,
    action_noise=0.8,
    num_trajectories=64,
    num_eval_trajectories=8,
    tasks=("cheetah-run",),
    other_tasks=("walker-run",),
    trajectories_per_file=32,
    seeds=(0,),
    budgets=(2, 8),
    costly_budgets=(2, 8),
    future_obs_offset=3,
    original_dim=32,
    smaller_dims=(4, 8),
    laom_augments=False,
    methods={
        "bc": "bc.py demo",
        "idm": "idm.py demo",
        "lapo": "lapo.py demo",
        "laom": "laom.py demo",
        "laom_supervised": "laom_supervised.py demo",
    },
)

# Two cores and a night. It was chosen so that BC on all labels returns what its data do, an IDM on all labels
# sees the noise in the actions, and LAPO and LAOM predict better than that nothing changes: README.md here.
# K is 3, which are 12 steps of the simulation, where the paper's 10 are 10. Cloning walker-run takes longer.
MINI_LAM = "--lam.num-epochs 8"
MINI_LAOM = f"{MINI_LAM} --lam.act-head-dim 512 --lam.obs-head-dim 512"
MINI_LAOM += (
    " --lam.learning-rate 1e-3 --lam.latent-action-dim 256"  # of the night; the rate is too high: README.md
)
MINI_IDM = "--idm.num-updates 4000 --idm.act-head-dim 512"
MINI_BC = "--eval.num-episodes 10"
MINI = Scale(
    data=Path("data/mini"),
    action_repeat=4,
    action_noise=0.8,
    num_trajectories=256,
    num_eval_trajectories=16,
    tasks=("cheetah-run", "walker-run"),
    other_tasks=("cheetah-run", "walker-run"),
    trajectories_per_file=128,
    seeds=(0, 1, 2),
    budgets=(2, 8, 32),
    costly_budgets=(8,),
    future_obs_offset=3,
    original_dim=32,
    smaller_dims=(16, 64),
    laom_augments=False,
    methods={
        "bc": f"bc.py demo --bc.num-updates 4000 {MINI_BC}",
        "idm": f"idm.py demo {MINI_IDM} {MINI_BC}",
        "lapo": f"lapo.py demo {MINI_LAM} {MINI_BC}",
        "laom": f"laom.py demo {MINI_LAOM} {MINI_BC}",
        "laom_supervised": f"laom_supervised.py demo {MINI_LAOM} {MINI_BC}",
    },
    task_flags={"cheetah-run": "--bc.num-epochs 5", "walker-run": "--bc.num-epochs 12"},
)

# A quarter of an hour of one H100, where the scripts take bfloat16 and torch.compile: the paper's networks at
# half (LAM) and a quarter (actor) of their width, on a tenth of its trajectories. Actors have a warm-up: one
# without it has died, README.md here.
GPU_LAM = "--lam.encoder-scale 3 --lam.latent-action-dim 1024 --lam.future-obs-offset 3 --lam.num-epochs 8"
GPU_LAM += " --lam.batch-size 256 --lam.learning-rate 3e-4 --lam.warmup-epochs 1"
GPU_BC = "--bc.encoder-scale 8 --bc.num-epochs 5 --bc.batch-size 256 --bc.learning-rate 1e-3"
GPU_BC += " --bc.warmup-epochs 1 --eval.num-episodes 10 --checkpoint-minutes 2"
GPU_IDM = "--idm.encoder-scale 3 --idm.num-updates 2000 --idm.batch-size 256 --idm.learning-rate 3e-4"
GPU = Scale(
    data=Path("data/gpu"),
    action_repeat=4,
    action_noise=0.8,
    num_trajectories=500,
    num_eval_trajectories=16,
    tasks=("cheetah-run",),
    other_tasks=("walker-run",),
    trajectories_per_file=250,
    seeds=(0,),
    budgets=(8,),
    costly_budgets=(8,),
    future_obs_offset=3,
    original_dim=128,
    smaller_dims=(64, 256),
    laom_augments=True,
    methods={
        "bc": f"bc.py paper --bc.num-updates 2000 {GPU_BC}",
        "idm": f"idm.py paper {GPU_IDM} {GPU_BC}",
        "lapo": f"lapo.py paper {GPU_LAM} {GPU_BC}",
        "laom": f"laom.py paper {GPU_LAM} {GPU_BC}",
        "laom_supervised": f"laom_supervised.py paper {GPU_LAM} {GPU_BC}",
    },
)

SCALES = {"paper": PAPER, "demo": DEMO, "mini": MINI, "gpu": GPU}


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
    costly_labels = f"--num-labeled-trajectories {' '.join(map(str, scale.costly_budgets))}"
    flags = scale.task_flags.get(task, "")
    methods = {name: f"{command} {flags}".strip() for name, command in scale.methods.items()}

    bc = f"{methods['bc']} --data {own}"
    idm = f"{methods['idm']} --data {own}"
    lapo = f"{methods['lapo']} --data {own}"
    laom = f"{methods['laom']} --data {own}"
    supervised = f"{methods['laom_supervised']} --data {own}"
    runs = {
        "bc": f"{bc} --num-labeled-trajectories all {budgets}",
        "idm": f"{idm} {costly_labels}",
        "lapo": f"{lapo} {labels}",
        "laom": f"{laom} {labels}",
        "laom_supervised": f"{supervised} {costly_labels}",
        "laom_fsq": f"variants/laom_fsq.py {laom.partition(' ')[2]} {labels}",
        "idm_multi_step": f"{idm} {costly_labels} --idm.future-obs-offset {scale.future_obs_offset}",
    }

    # Figures 5 and 6 need the latent actions alone: the policy stays untrained, its returns are no result.
    no_policy = f"--num-labeled-trajectories {scale.budgets[0]}"
    no_policy += " --bc.num-epochs 0 --decoder.num-updates 1 --eval.num-episodes 1"
    small_lapo = f"{lapo} --lam.latent-action-dim {scale.original_dim} {no_policy}"
    original = f"{small_lapo} --lam.future-obs-offset 1"
    runs |= {
        "lapo_original": original,
        "lapo_original_vq": f"variants/lapo_vq.py {original.partition(' ')[2]}",
        "lapo_original_fsq": f"{original} --lam.quantizer fsq",
        "lapo_multi_step": small_lapo,
    }
    # One of these two is the scale's laom, and done once.
    runs |= {
        "laom_no_aug": f"{laom} {no_policy if scale.laom_augments else labels} --lam.no-use-aug",
        "laom_aug": f"{laom} {labels if scale.laom_augments else no_policy} --lam.use-aug",
    }

    # Figures 10 and 14: the LAM and the actor learn from other tasks' videos, the labels are of this task.
    cross = f"--data {others} --trajectories-per-file {scale.trajectories_per_file}"
    cross += f" --labeled-data {own}"
    runs |= {
        "lapo_cross": f"{methods['lapo']} {cross} {labels}",
        "laom_cross": f"{methods['laom']} {cross} {labels}",
        "laom_supervised_cross": f"{methods['laom_supervised']} {cross} {costly_labels}",
    }

    # Figures 9 and 12: Section 5 has 128 labelled trajectories, the most of Figure 8.
    for dim in scale.smaller_dims:
        small = f"--num-labeled-trajectories {scale.most_labels} --lam.latent-action-dim {dim}"
        runs[f"laom_{dim}"] = f"{laom} {small}"
        runs[f"laom_supervised_{dim}"] = f"{supervised} {small}"

    for name, like in scale.variants.items():
        runs[name] = methods[name] + runs[like].removeprefix(methods[like])
    return runs


def data_file(scale: Scale, task: str, difficulty: str, split: str = "train") -> str:
    """As collect_data.py calls it."""
    name = f"{task}__{difficulty}"
    if scale.action_repeat > 1:
        name += f"__repeat{scale.action_repeat}"
    if scale.action_noise > 0:
        name += f"__noise{scale.action_noise}"
    return f"{scale.data}/{name}__{split}.hdf5"


def twin_file(scale: Scale, task: str) -> str:
    """The evaluation trajectories without distractors (collect_data.py --rerender)."""
    folder = dataclasses.replace(scale, data=scale.data / "twins")
    return data_file(folder, task, CLEAN, "val")


# ---- Figures: which runs each needs, on all tasks and seeds of the scale ----------------------------------


@dataclass
class Figure:
    about: str
    distractors: list[str] = dataclasses.field(default_factory=list)  # names of runs on data with distractors
    clean: list[str] = dataclasses.field(default_factory=list)  # and without
    task: str | None = None  # where the paper takes a single task (a scale without it takes its own)
    seeds: tuple[int, ...] = ()  # fewer than the scale's
    once: tuple[str, ...] = ()  # runs that are shown with the seeds they have, if fewer than the others'
    tasks: tuple[str, ...] = ()  # of a part of the night, which has its own tasks and seeds
    part: int = 0  # of the night: the first part runs first
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
        "figure_05": Figure(
            "LAPO's latent actions with and without quantiser", quantizers, quantizers, once=(quantizers[0],)
        ),
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
    return place_variants(scale, figures)


def list_night(scale: Scale) -> dict[str, Figure]:
    """What a machine does in one night, in the order in which it decides something."""
    first_task, other_tasks = scale.tasks[:1], scale.tasks[1:]
    first_seed, other_seeds = scale.seeds[:1], scale.seeds[1:]
    latent_actions = ["lapo_original", "lapo_multi_step", "lapo", "laom_no_aug", "laom_aug"]  # Figure 6
    latent_actions += ["lapo_original_fsq"]  # Figure 5
    smallest = scale.smaller_dims[0]
    once = ["lapo_original_vq", f"laom_{smallest}", f"laom_supervised_{smallest}"]
    parts = {
        "night_1": Figure("all methods with distractors", METHODS, tasks=first_task, seeds=first_seed),
        "night_2": Figure(
            "all methods without; changes to LAPO's and LAOM's latent actions",
            [*latent_actions, *once],
            METHODS,
            tasks=first_task,
            seeds=first_seed,
        ),
        "night_3": Figure("all methods on the other tasks", METHODS, tasks=other_tasks, seeds=first_seed),
        "night_4": Figure("all methods with the other seeds", METHODS, tasks=scale.tasks, seeds=other_seeds),
        "night_5": Figure(
            "LAPO and LAOM without distractors, changes, with the other seeds",
            latent_actions,
            ["lapo", "laom"],
            tasks=first_task,
            seeds=other_seeds,
        ),
    }
    for number, part in enumerate(parts.values(), 1):
        part.part = number
    return place_variants(scale, parts)


def place_variants(scale: Scale, figures: dict[str, Figure]) -> dict[str, Figure]:
    """The figures with variants in them, where a figure compares methods."""
    for figure in figures.values():
        figure.distractors = with_variants(scale, figure.distractors)
        figure.clean = with_variants(scale, figure.clean)
    return figures


def with_variants(scale: Scale, names: list[str]) -> list[str]:
    """Variants behind the method they are like, if all names are methods."""
    if not set(names) <= set(METHODS):
        return names
    result = []
    for name in names:
        result += [name, *(variant for variant, like in scale.variants.items() if like == name)]
    return result


def choose_figures(scale: Scale, words: tuple[str, ...], night: bool = False) -> dict[str, Figure]:
    """The figures and tables whose names begin with one of the words; all of them for "all".

    night: its parts, too.
    """
    figures = list_figures(scale)
    if night:
        figures |= list_night(scale)
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
    wanted: dict  # the identity of its runs
    twin: str | None  # what to measure its LAM or IDM on besides
    reconstruct: bool = False
    part: int = 0  # of the night
    before: Literal["finished", "continues", "starts"] = "starts"  # how we have found it
    state: Literal["waits", "runs", "finished", "failed", "elsewhere"] = "waits"
    seconds: float = 0  # of all sessions that have ended
    began: float = 0  # when the running session began, seconds

    def __str__(self):
        kind = "distractors" if self.difficulty == DISTRACTORS else "no distractors"
        return f"{self.name}, {self.task}, {kind}, seed {self.seed}"

    @property
    def script(self) -> str:
        return self.command[0]

    @property
    def folder(self) -> Path:
        """Where its runs lie."""
        (runs,) = values(self.command, "--runs")
        return Path(runs)

    @property
    def log(self) -> Path:
        return self.folder.parent / "logs" / f"{self.folder.name}__{self.task}__{self.seed}.log"

    @property
    def files(self) -> list[str]:
        """The datasets that the run and its measures read."""
        files = [word for word in self.command if word.endswith(".hdf5")]
        return [*files, self.twin] if self.twin else files


def make_job(scale: Scale, name: str, wanted: dict, task: str, difficulty: str, seed: int, runs: Path) -> Job:
    command = shlex.split(list_runs(scale, task, difficulty)[name])
    method = scale.variants.get(name, Path(command[0]).stem)
    folder = name if difficulty == DISTRACTORS else f"{name}__{difficulty}"
    command += ["--seed", str(seed), "--runs", str(runs / folder)]
    has_twin = difficulty == DISTRACTORS and method != "bc"
    twin = twin_file(scale, task) if has_twin else None
    return Job(name, task, difficulty, seed, method, command, wanted, twin)


def make_jobs(
    scale: Scale, figures: dict[str, Figure], tasks: tuple[str, ...], seeds: tuple[int, ...], runs: Path
) -> list[Job]:
    """All runs of the figures, each once: names that mean the same experiment are the first of them."""
    known = {task: identities(scale, task) for task in tasks or scale.tasks}
    jobs = {}
    for figure in figures.values():
        for name, difficulty in figure.runs:
            for task, seed in itertools.product(*choose_tasks_and_seeds(scale, figure, tasks, seeds)):
                wanted = known[task][name]
                first_name = next(other for other in known[task] if known[task][other] == wanted)
                job = make_job(scale, first_name, wanted, task, difficulty, seed, runs)
                job.part = figure.part
                job = jobs.setdefault(tuple(job.command), job)
                job.reconstruct = job.reconstruct or figure.reconstruct
    # one seed of all first
    return sorted(jobs.values(), key=lambda job: (job.part, ALL_TASKS.index(job.task), job.seed))


def choose_tasks_and_seeds(scale: Scale, figure: Figure, tasks: tuple[str, ...], seeds: tuple[int, ...]):
    """The command line's, or else the figure's, or else the scale's; a part of the night keeps to its own."""
    if figure.part:
        own_tasks = [task for task in figure.tasks if task in (tasks or figure.tasks)]
        own_seeds = [seed for seed in figure.seeds if seed in (seeds or figure.seeds)]
        return own_tasks, own_seeds
    own_tasks = (figure.task,) if figure.task in scale.tasks else scale.tasks
    return tasks or own_tasks, seeds or figure.seeds or scale.seeds


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


def identities(scale: Scale, task: str) -> dict[str, dict]:
    """The identity of every name of the scale on a task."""
    result = {}
    for name, command in list_runs(scale, task).items():
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


def find_run(job: Job) -> tuple[Path | None, bool]:
    """The newest run of the job and whether it has finished; None if it has not begun."""
    data = values(job.command, "--data")
    labeled_data = values(job.command, "--labeled-data")
    labels = set(values(job.command, "--num-labeled-trajectories"))
    begun = None
    for path in sorted((ROOT / job.folder).glob("*/args.json"), reverse=True):
        folder = path.parent
        args = json.loads(path.read_text())
        if (args["data"], args["labeled_data"], args["seed"]) != (data, labeled_data, job.seed):
            continue
        if not labels <= set(map(str, args["num_labeled_trajectories"])):
            continue
        own_script = folder / Path(job.script).name
        if not own_script.exists() or differences(identity(job.script, args), job.wanted):
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
        if is_collected(file):
            refuse_other_world(ROOT / file)
            continue
        task, difficulty = Path(file).name.split("__")[:2]
        command = ["collect_data.py"]
        if Path(file).parent.name == "twins":
            command += ["--rerender", data_file(scale, task, DISTRACTORS, "val"), "--difficulty", CLEAN]
            twins[file] = [*command, "--output", str(Path(file).parent)]
        else:
            command += ["--task", task, "--difficulty", difficulty]
            if scale.action_repeat > 1:
                command += ["--action-repeat", str(scale.action_repeat)]
            if scale.action_noise > 0:
                command += ["--action-noise", str(scale.action_noise)]
            command += ["--num-trajectories", str(scale.num_trajectories)]
            command += ["--num-eval-trajectories", str(scale.num_eval_trajectories)]
            datasets[file] = [*command, "--output", str(Path(file).parent)]
    return datasets | twins


def is_collected(file: str) -> bool:
    """Whether a dataset and its evaluation file are there."""
    return (ROOT / file).exists() and (ROOT / file.replace("__train", "__val")).exists()


def refuse_other_world(path: Path):
    with h5py.File(path) as file:
        world = file.attrs.get("world", 1)
    if world != WORLD:
        raise SystemExit(
            f"error: {path} shows world {world}, not {WORLD}: remove it, and it is collected again"
        )


# ---- Running ----------------------------------------------------------------------------------------------

STOPPED = []  # why: signals, and "minutes" once those are over


def stop(number, _):
    """Answers Ctrl-C and SIGTERM."""
    STOPPED.append(number)


def execute(command: list[str], log: IO | None = None, environment: dict[str, str] | None = None) -> bool:
    """Runs a script to its end, which after a stop is behind its checkpoint; says whether it succeeded.

    log: where it writes, instead of the screen. environment: variables beside our own.
    """
    if STOPPED:
        return False
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | (environment or {}),
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    passed_on = False
    while process.poll() is None:
        if STOPPED and not passed_on:
            process.terminate()
            passed_on = True
        time.sleep(0.05)
    return process.returncode == 0


def claim(path: Path) -> IO | None:
    """Opens a log; None if another process has it, which is at the same work."""
    path = ROOT / path
    path.parent.mkdir(parents=True, exist_ok=True)
    log = open(path, "a")  # noqa: SIM115 as long as the work takes
    try:
        lock_file(log)
    except BlockingIOError:
        log.close()
        return None
    return log


def train_command(job: Job, folder: Path | None) -> list[str]:
    """Starts the run, or continues it with its own copy of the script."""
    if folder is None:
        return job.command
    return [str(folder / Path(job.script).name), "--resume", str(folder)]


def measure_command(job: Job, folder: Path | None, finished: bool) -> list[str] | None:
    """The call of measure.py that the run lacks, if any: its measures, or the pictures of Figure 11.

    Of a run that has not begun, the folder is a pattern for the shell.
    """
    if job.method == "bc":
        return None
    weights = [*folder.glob("lam*.pt"), *folder.glob("idm*.pt")] if folder else []
    if finished and all(is_measured(path, job) for path in weights):
        return None
    folder = folder or job.folder / f"{job.task}__{Path(job.script).stem}__{job.seed}__*"
    command = ["benchmark/measure.py", str(folder), "--only-missing"]
    if job.twin:
        command += ["--twin-data", job.twin]
    if job.reconstruct:
        command += ["--reconstruct"]
    return command


def is_measured(weights: Path, job: Job) -> bool:
    """Whether all that the job wants lies beside the weights."""
    path = weights.with_suffix(".json")
    measures = path.read_text() if path.exists() else ""
    is_drawn = weights.with_suffix(".png").exists() or not job.reconstruct
    has_twin = "distractor_share/" in measures or not job.twin
    return bool(measures) and is_drawn and has_twin


def shell_line(command: list[str]) -> str:
    """A command as one types it; a pattern stays one."""
    words = [shlex.quote(word.removesuffix("*")) + "*" * word.endswith("*") for word in command]
    return f"python {' '.join(words)}"


@dataclass
class Args:
    what: Annotated[tuple[str, ...], tyro.conf.Positional]
    """figures, tables, a night: figure_01, figure_09 (a and bc), table_3, night, all; none prints a list"""
    scale: Literal[tuple(SCALES)] = "demo"
    """size of everything: an entry of SCALES"""
    tasks: tuple[str, ...] = ()
    """instead of the scale's tasks; of the night's, these alone"""
    seeds: tuple[int, ...] = ()
    """instead of the scale's seeds; of the night's, these alone"""
    script: Path | None = None
    """a variant to run beside the methods of the figures; without figures alone, with distractors"""
    like: Literal[tuple(METHODS)] | None = None
    """the method whose sizes the variant gets"""
    runs: Path = Path("runs/benchmark")
    """folder of all runs"""
    jobs: int = 1
    """runs side by side, which share the cores evenly; what they say goes to logs"""
    gpus: int = 0
    """runs side by side, a GPU each; with more --jobs they share"""
    minutes: float | None = None
    """stop behind checkpoints after this time; the same command continues"""
    export: Path | None = None
    """copy finished runs there without weights and films, and with at most 100 lines of metrics a stage"""
    dry_run: bool = False
    """print the commands and run none"""

    @property
    def side_by_side(self) -> int:
        return max(self.jobs, self.gpus)

    @property
    def cores(self) -> int:
        """Of each run."""
        own = os.environ.get("OMP_NUM_THREADS", "")
        if self.side_by_side == 1 and own.isdecimal():
            return int(own)
        return max(1, len(os.sched_getaffinity(0)) // self.side_by_side)

    def environment(self, place: int) -> dict[str, str]:
        """Variables of the run at one of the places side by side."""
        result = {}
        if self.side_by_side > 1:
            result["OMP_NUM_THREADS"] = str(self.cores)
        if self.gpus:
            ours = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(self.gpus)))
            devices = ours.split(",")[: self.gpus]
            result["CUDA_VISIBLE_DEVICES"] = devices[place % len(devices)]
        return result


def collect_data(commands: dict[str, list[str]], logs: Path) -> list[str]:
    """Makes the datasets; says which failed. Another benchmark may be at it: its files are waited for."""
    failed = []
    for file, command in commands.items():
        log = claim(logs / "data.log")
        if log is None:
            print("# another process collects data, which is waited for", flush=True)
        while log is None and not STOPPED:
            time.sleep(1)
            log = claim(logs / "data.log")
        if STOPPED:
            break
        with log:
            if is_collected(file):
                continue
            announce(f"# data: {file}", command, log)
            if not execute(command):
                failed.append(f"data: {file}")
    return failed


def do(job: Job, title: str, place: int, args: Args) -> str | None:
    """Trains what has not finished, then measures what is not measured; in words what failed, if it did."""
    log = claim(job.log)
    if log is None:
        job.state = "elsewhere"
        return None
    with log:
        own_log = log if args.side_by_side > 1 else None
        says = f", see {job.log}" if own_log else ""
        place = {"log": own_log, "environment": args.environment(place)}
        folder, finished = find_run(job)  # which another benchmark may have finished meanwhile
        if not finished:
            absent = [file for file in job.files if not (ROOT / file).exists()]
            if absent:
                return f"{job}: {absent[0]} is missing"
            command = train_command(job, folder)
            announce(title, command, log)
            succeeded = execute(command, **place)
            folder, finished = find_run(job)
            if folder:
                note_time(job, folder, time.time() - job.began, args.cores)
            if not succeeded or not finished:
                return f"{job}{says}"
        command = measure_command(job, folder, finished)
        if command and not STOPPED:
            announce(title, command, log)
            if not execute(command, **place):
                return f"{job}: {shlex.join(command)}{says}"
    return None


def announce(title: str, command: list[str], log: IO):
    """Says what is called, on the screen and in a log."""
    line = shell_line(command)
    say(f"\n{title}\n{line}")
    print(f"# {datetime.datetime.now():%Y-%m-%d %H:%M:%S} {line}", file=log, flush=True)


def say(text: str):
    """A line above the progress bar."""
    write = tqdm.write if sys.stderr.isatty() else functools.partial(print, flush=True)
    write(text)


def run_side_by_side(jobs: list[Job], earlier: list[Job], args: Args) -> list[str]:
    """Does the jobs in order, as many at once as there are places; says which failed."""
    places = queue.SimpleQueue()
    for place in range(args.side_by_side):
        places.put(place)

    def work(number: int, job: Job) -> str | None:
        if STOPPED:
            return None
        place = places.get()
        job.state = "runs"
        job.began = time.time()
        try:
            title = f"# {number} of {len(jobs)}, {job.before}: {job}"
            failure = do(job, title, place, args)
        except OSError as error:  # a full disk
            failure = f"{job}: {error}"
        finally:
            places.put(place)
        job.seconds += time.time() - job.began
        if STOPPED or job.state == "elsewhere":
            return None
        job.state = "failed" if failure else "finished"
        if failure:
            say(f"# failed: {failure}")
        return failure

    with concurrent.futures.ThreadPoolExecutor(args.side_by_side) as pool:
        futures = []
        for number, job in enumerate(jobs, 1):
            if job.state == "waits":
                futures.append(pool.submit(work, number, job))
        bar = Progress(
            total=len(jobs),
            initial=len(jobs) - len(futures),
            bar_format="{bar:10} {n_fmt} of {total_fmt} runs{postfix}",
            disable=args.side_by_side == 1,  # then the run's own is on the screen
        )
        working = True
        while working:
            working = bool(concurrent.futures.wait(futures, timeout=1).not_done)
            bar.n = sum(job.state == "finished" for job in jobs)
            bar.set_postfix_str(describe_progress(jobs, earlier, args.side_by_side))
        bar.close()
    failures = [future.result() for future in futures]
    return [failure for failure in failures if failure]


def describe_progress(jobs: list[Job], earlier: list[Job], side_by_side: int) -> str:
    """What runs, what has failed, and the time left."""
    failed = sum(job.state == "failed" for job in jobs)
    words = [f"{failed} failed"] if failed else []
    running = [f"{job.folder.name} {job.task} {job.seed}" for job in jobs if job.state == "runs"]
    if running:
        words.append(" + ".join(running))
    seconds = seconds_left(jobs, earlier, side_by_side)
    minutes = round((seconds or 0) / 60)
    left = f"about {minutes // 60} h {minutes % 60} min left"
    words.append("time left unknown" if seconds is None else left)
    return ", ".join(words)


def seconds_left(jobs: list[Job], earlier: list[Job], side_by_side: int) -> float | None:
    """From what finished runs have taken: those of the same name, else of the same method, else all."""
    finished = [job for job in jobs + earlier if job.state == "finished"]
    if not finished:
        return None
    left = [0.0]
    for job in jobs:
        if job.state not in ("waits", "runs"):
            continue
        same_name = [other.seconds for other in finished if other.name == job.name]
        same_method = [other.seconds for other in finished if other.method == job.method]
        known = same_name or same_method or [other.seconds for other in finished]
        session = time.time() - job.began if job.state == "runs" else 0
        left.append(max(sum(known) / len(known) - job.seconds - session, 0))
    return max(sum(left) / side_by_side, max(left))


# ---- Hours ------------------------------------------------------------------------------------------------


def machine() -> str:
    import torch  # not above: it takes seconds

    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    words = [cpu[1] if cpu else platform.machine(), f"{os.cpu_count()} cores"]
    if torch.cuda.is_available():
        words.append(torch.cuda.get_device_name())
    return ", ".join(words)


def read_clock(folder: Path | None) -> dict:
    """wall_clock.json; that of a run which has none is empty."""
    path = folder / "wall_clock.json" if folder else None
    clock = json.loads(path.read_text()) if path and path.exists() else {"seconds": []}
    return {"cores": [1] * len(clock["seconds"])} | clock


def note_time(job: Job, folder: Path, seconds: float, cores: int):
    """Adds a session to wall_clock.json."""
    clock = read_clock(folder)
    clock["seconds"].append(round(seconds, 1))
    clock["cores"].append(cores)
    record = clock | {"machine": machine(), "date": str(datetime.date.today())}
    if job.method != Path(job.script).stem:
        record |= {"script": job.script, "like": job.method}
    path = folder / "wall_clock.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=2))
    partial.replace(path)


def describe_hours(folders: list[Path]) -> str:
    """What the runs have taken, by the clock and in hours of a core, measuring left out."""
    seconds, core_seconds = 0.0, 0.0
    for folder in folders:
        clock = read_clock(folder)
        seconds += sum(clock["seconds"])
        core_seconds += sum(map(operator.mul, clock["seconds"], clock["cores"]))
    return f"{seconds / 3600:.1f} hours, {core_seconds / 3600:.1f} core-hours"


# ---- Export -----------------------------------------------------------------------------------------------

SMALL_FILES = ("args.json", "results.json", "wall_clock.json", "lam*.json", "idm*.json", "metrics.jsonl")


def export(job: Job, folder: Path, target: Path):
    """Copies what is small of a finished run, in place of an earlier one."""
    target = target / job.task / job.folder.name / f"seed{job.seed}"
    target.mkdir(parents=True, exist_ok=True)
    for pattern in SMALL_FILES:
        for path in target.glob(pattern):
            path.unlink()
        for path in folder.glob(pattern):
            shutil.copy(path, target)
    for metrics in target.glob("metrics.jsonl"):
        metrics.write_text(thin(metrics.read_text()))


def thin(metrics: str, most: int = 100) -> str:
    """About so many lines of each stage, and its last five, of which figures take the mean."""
    lines = metrics.splitlines(keepends=True)
    stages = [json.loads(line)["stage"] for line in lines]
    kept = ""
    for _, group in itertools.groupby(zip(stages, lines), key=lambda pair: pair[0]):
        of_stage = [line for _, line in group]
        step = -(-len(of_stage) // (most - 5))
        for i, line in enumerate(of_stage):
            if i % step == 0 or i >= len(of_stage) - 5:
                kept += line
    return kept


# ---- Main -------------------------------------------------------------------------------------------------


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


def refuse_bad_input(args: Args):
    unknown = set(args.tasks) - set(ALL_TASKS)
    if unknown:
        raise SystemExit(f"error: no task {unknown.pop()}: there are {', '.join(ALL_TASKS)}")
    if args.jobs < 1:
        raise SystemExit(f"error: --jobs {args.jobs}: at least 1")
    if args.gpus < 0:
        raise SystemExit(f"error: --gpus {args.gpus}: at least 0")
    if args.minutes is not None and not args.minutes > 0:
        raise SystemExit(f"error: --minutes {args.minutes}: more than 0")


def survey(jobs: list[Job]):
    """Notes what is there of each run."""
    for job in jobs:
        folder, finished = find_run(job)
        job.seconds = sum(read_clock(folder)["seconds"])
        job.before = "finished" if finished else "continues" if folder else "starts"
        if finished and measure_command(job, folder, finished) is None:
            job.state = "finished"


def print_commands(data: dict[str, list[str]], jobs: list[Job]):
    """A line for each dataset that is missing and each run that is not finished and measured."""
    for file, command in data.items():
        print(f"# data: {file}\n{shell_line(command)}")
    for number, job in enumerate(jobs, 1):
        folder, finished = find_run(job)
        print(f"# {number} of {len(jobs)}, {job.before}: {job}{f', {folder}' if finished else ''}")
        commands = [] if finished else [train_command(job, folder)]
        commands.append(measure_command(job, folder, finished))
        lines = [shell_line(command) for command in commands if command]
        if lines:
            print(" && ".join(lines))


def print_summary(jobs: list[Job], found: list[tuple[Path | None, bool]]):
    """How many runs there are now, and what they have taken."""
    finished = sum(is_finished for _, is_finished in found)
    begun = sum(folder is not None for folder, _ in found) - finished
    counts = [f"{finished} finished", f"{begun} begun", f"{len(jobs) - finished - begun} not begun"]
    elsewhere = sum(job.state == "elsewhere" for job in jobs)
    if elsewhere:
        counts.append(f"{elsewhere} in the hands of another process")
    hours = describe_hours([folder for folder, _ in found if folder])
    print(f"# {len(jobs)} runs: {', '.join(counts)}; {hours} so far")


def main(args: Args):
    refuse_bad_input(args)
    scale = add_variant(SCALES[args.scale], args.script, args.like)
    figures = choose_figures(scale, args.what, night=True)
    if not figures and args.script:
        figures = {"variant": Figure("the variant alone", [args.script.stem])}
    if not figures:
        for name, figure in (list_figures(scale) | list_night(scale)).items():
            print(f"{name:12} {figure.about}")
        return

    compared = {name for figure in figures.values() for name, _ in figure.runs}
    if args.script and args.script.stem not in compared:
        raise SystemExit(f"error: --like {args.like}: {', '.join(figures)}: it is not compared there")

    jobs = make_jobs(scale, figures, args.tasks, args.seeds, args.runs / args.scale)
    survey(jobs)
    data = data_commands(scale, figures, jobs, args.tasks)
    # runs that this command leaves alone tell how long its own will take
    earlier = make_jobs(scale, list_figures(scale) | list_night(scale), (), (), args.runs / args.scale)
    survey(earlier)
    failed = []
    if args.dry_run:
        print_commands(data, jobs)
    else:
        if args.minutes:
            timer = threading.Timer(60 * args.minutes, STOPPED.append, ["minutes"])
            timer.daemon = True
            timer.start()
        failed = collect_data(data, args.runs / args.scale / "logs")
        failed += run_side_by_side(jobs, earlier, args)

    found = [find_run(job) for job in jobs]
    if args.export and not args.dry_run:
        for job, (folder, finished) in zip(jobs, found):
            if finished:
                export(job, folder, args.export / args.scale)
    print_summary(jobs, found)
    failures = "\n".join(["these failed, what they said is above or in the file named:", *failed])
    if STOPPED and failed:
        print(failures)
    if "minutes" in STOPPED:
        print(f"{args.minutes:g} minutes are over; the same command continues")
        raise SystemExit(3)
    if STOPPED:
        raise SystemExit("stopped; the same command continues")
    if failed:
        raise SystemExit(f"error: {failures}")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        main(tyro.cli(Args, description=__doc__))
    except (KeyboardInterrupt, OSError) as error:
        raise SystemExit(f"error: {str(error) or 'interrupted'}")

"""Prints the benchmark's commands, one line for each run. Any tool that runs lines runs the benchmark.

    python benchmark/commands.py                             # the figures and tables there are
    python benchmark/commands.py figure_08 --scale mini      # the runs of Figure 8
    python benchmark/commands.py all --scale paper --tasks walker-run --seeds 0
    python benchmark/commands.py night --scale mini | OMP_NUM_THREADS=1 xargs -d '\\n' -n 1 -P 2 sh -c
    python benchmark/commands.py ladder --scale ladder       # LAPO's steps to LAOM at R = 1
    python benchmark/commands.py --script laom_cosine.py --like laom --scale mini    # a script of your own

A line collects the run's data, trains and evaluates, and measures what stage 1 has learned. Each of the three
continues where it was stopped, and ends at once if it has finished. So the same lines may be run again at any
time, side by side, on one machine or on many that share a disk: docs/speed.md shows xargs, GNU parallel and
Slurm. A run goes to <runs>/<scale>/<name>[__vanilla]/ (__vanilla: without distractors).

SCALES, list_runs, list_figures and list_night below are the whole benchmark. A variant (--script) gets the
sizes of the method that --like names. With figures it runs wherever they compare that method with others,
without figures it runs alone, with distractors.
"""

import dataclasses
import itertools
import shlex
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

ROOT = Path(__file__).parents[1]
DISTRACTORS = "scale_easy_video_hard"
CLEAN = "vanilla"
ALL_TASKS = ("cheetah-run", "walker-run", "hopper-hop", "humanoid-walk")
METHODS = ["bc", "idm", "lapo", "laom", "laom_supervised"]

# ---- Scales ------------------------------------------------------------------------------------------------


@dataclass
class Scale:
    data: str  # folder of the datasets
    action_repeat: int  # simulation steps of an action
    action_noise: float  # standard deviation of what is added to the expert's actions
    num_trajectories: int  # in a training file
    num_eval_trajectories: int  # in an evaluation file
    tasks: tuple[str, ...]
    other_tasks: tuple[str, ...]  # cross-embodied pre-training is on these, without the task itself
    trajectories_per_file: int  # of each of them
    seeds: tuple[int, ...]
    budgets: tuple[int, ...]  # numbers of labelled trajectories
    future_obs_offset: int  # K of LAPO and LAOM, which Figure 11 also gives to an IDM
    original_dim: int  # size of the original LAPO's z
    smaller_dims: tuple[int, ...]  # sizes of z in Figures 9 and 12, beside the method's own
    laom_augments: bool  # whether LAOM augments unless a flag says otherwise
    data_per_seed: bool = False  # each seed has its own data, and so its own labels, in <data>/seed<n>
    methods: dict[str, str] = field(default_factory=dict)  # method or variant → script, preset, other flags
    task_flags: dict[str, str] = field(default_factory=dict)  # task → further flags of its runs
    variants: dict[str, str] = field(default_factory=dict)  # variant → the method it is like

    @property
    def laom_steps(self) -> list[str]:
        """LAOM without and with augmentation, one of which is the scale's LAOM."""
        return ["laom_no_aug", "laom"] if self.laom_augments else ["laom", "laom_aug"]


PAPER = Scale(
    data="data/paper",
    action_repeat=1,
    action_noise=0,
    num_trajectories=5000,
    num_eval_trajectories=50,
    tasks=ALL_TASKS,
    other_tasks=ALL_TASKS,
    trajectories_per_file=1666,
    seeds=(0, 1, 2),
    budgets=(2, 4, 8, 16, 32, 64, 128),
    future_obs_offset=10,
    original_dim=128,
    smaller_dims=(64, 256, 1024),  # Section 5 names 64 and 8192; those between are ours
    laom_augments=True,
    methods={name: f"{name}.py paper" for name in METHODS},
)

DEMO = Scale(
    data="data",
    action_repeat=4,
    action_noise=0.8,
    num_trajectories=64,
    num_eval_trajectories=8,
    tasks=("cheetah-run",),
    other_tasks=("walker-run",),
    trajectories_per_file=32,
    seeds=(0,),
    budgets=(2, 8),
    future_obs_offset=3,
    original_dim=32,
    smaller_dims=(4, 8),
    laom_augments=False,
    methods={name: f"{name}.py demo" for name in METHODS},
)

# Two cores and a night. K is 3: 12 steps of the simulation, where the paper's K = 10 is 10 steps. walker-run
# takes longer to clone.
MINI_LAM = "--lam.num-epochs 8"
MINI_LAOM = "--lam.act-head-dim 512 --lam.obs-head-dim 512 --lam.latent-action-dim 256"
MINI_LAOM += " --lam.learning-rate 1e-4"
MINI_IDM = "--idm.num-updates 4000 --idm.act-head-dim 512"
MINI_EVAL = "--eval.num-episodes 10"
MINI = Scale(
    data="data/mini",
    data_per_seed=True,
    action_repeat=4,
    action_noise=0.8,
    num_trajectories=256,
    num_eval_trajectories=16,
    tasks=("cheetah-run", "walker-run"),
    other_tasks=("cheetah-run", "walker-run"),
    trajectories_per_file=128,
    seeds=(0, 1, 2),
    budgets=(2, 8, 32),
    future_obs_offset=3,
    original_dim=32,
    smaller_dims=(16, 64),
    laom_augments=False,
    methods={
        "bc": f"bc.py demo --bc.num-updates 4000 {MINI_EVAL}",
        "idm": f"idm.py demo {MINI_IDM} {MINI_EVAL}",
        "lapo": f"lapo.py demo {MINI_LAM} {MINI_EVAL}",
        "laom": f"laom.py demo {MINI_LAM} {MINI_LAOM} {MINI_EVAL}",
        "laom_supervised": f"laom_supervised.py demo {MINI_LAM} {MINI_LAOM} --lam.use-aug {MINI_EVAL}",
    },
    task_flags={"cheetah-run": "--bc.num-epochs 5", "walker-run": "--bc.num-epochs 12"},
)

# Figure 6 with an action for each step of the simulation, as in the paper: latent actions alone, of as many
# transitions as at mini. Added noise tells action and pose apart.
LADDER_LAM = "--lam.num-epochs 4 --lam.future-obs-offset 10"
LADDER_LAM += " --bc.num-epochs 0 --decoder.num-updates 1 --eval.num-episodes 1"
LADDER = dataclasses.replace(
    MINI,
    data="data/ladder",
    action_repeat=1,
    action_noise=0,
    num_trajectories=128,
    tasks=("cheetah-run",),
    budgets=(2,),
    future_obs_offset=10,
    methods=MINI.methods
    | {"lapo": f"lapo.py demo {LADDER_LAM}", "laom": f"laom.py demo {LADDER_LAM} {MINI_LAOM}"},
    task_flags={},
)
LADDER_NOISE = dataclasses.replace(LADDER, action_noise=0.3)

# A quarter of an hour of one H100: the paper's networks at half (LAM) and a quarter (actor) of their width,
# on a tenth of its trajectories.
GPU_LAM = "--lam.encoder-scale 3 --lam.latent-action-dim 1024 --lam.future-obs-offset 3 --lam.num-epochs 8"
GPU_LAM += " --lam.batch-size 256 --lam.warmup-epochs 1"
GPU_LAPO = f"{GPU_LAM} --lam.learning-rate 3e-4"
GPU_LAOM = f"{GPU_LAM} --lam.learning-rate 1e-4"
GPU_BC = "--bc.encoder-scale 8 --bc.num-epochs 5 --bc.batch-size 256 --bc.learning-rate 1e-3"
GPU_BC += " --bc.warmup-epochs 1 --eval.num-episodes 10 --checkpoint-minutes 2"
GPU_IDM = "--idm.encoder-scale 3 --idm.num-updates 2000 --idm.batch-size 256 --idm.learning-rate 3e-4"
GPU = Scale(
    data="data/gpu",
    data_per_seed=True,
    action_repeat=4,
    action_noise=0.8,
    num_trajectories=500,
    num_eval_trajectories=16,
    tasks=("cheetah-run",),
    other_tasks=("walker-run",),
    trajectories_per_file=250,
    seeds=(0,),
    budgets=(8,),
    future_obs_offset=3,
    original_dim=128,
    smaller_dims=(64, 256),
    laom_augments=True,
    methods={
        "bc": f"bc.py paper --bc.num-updates 2000 {GPU_BC}",
        "idm": f"idm.py paper {GPU_IDM} {GPU_BC}",
        "lapo": f"lapo.py paper {GPU_LAPO} {GPU_BC}",
        "laom": f"laom.py paper {GPU_LAOM} {GPU_BC}",
        "laom_supervised": f"laom_supervised.py paper {GPU_LAOM} {GPU_BC}",
    },
)

SCALES = {"paper": PAPER, "demo": DEMO, "mini": MINI, "gpu": GPU}
SCALES |= {"ladder": LADDER, "ladder_noise": LADDER_NOISE}


def with_variant(scale: Scale, script: str, like: str) -> Scale:
    """The scale with one script more, with the sizes of a method."""
    name = Path(script).stem
    sizes = scale.methods[like].partition(" ")[2]
    methods = scale.methods | {name: f"{shlex.quote(script)} {sizes}"}
    return dataclasses.replace(scale, methods=methods, variants=scale.variants | {name: like})


# ---- Runs: what stands behind `python`; --seed and --runs come later ---------------------------------------


def list_runs(scale: Scale, task: str, difficulty: str = DISTRACTORS, seed: int = 0) -> dict[str, str]:
    """Name → command."""
    own = shlex.quote(data_file(scale, task, difficulty, seed))
    others = [data_file(scale, other, difficulty, seed) for other in scale.other_tasks if other != task]
    flags = scale.task_flags.get(task, "")
    methods = {name: f"{command} {flags}".strip() for name, command in scale.methods.items()}
    budgets = " ".join(map(str, scale.budgets))
    labels = f"--num-labeled-trajectories {budgets}"
    bc, idm, lapo, laom, supervised = [f"{methods[name]} --data {own}" for name in METHODS]
    runs = {
        "bc": f"{bc} --num-labeled-trajectories all {budgets}",
        "idm": f"{idm} {labels}",
        "lapo": f"{lapo} {labels}",
        "laom": f"{laom} {labels}",
        "laom_supervised": f"{supervised} {labels}",
        "laom_fsq": f"{laom} --lam.quantizer fsq {labels}",
        "idm_multi_step": f"{idm} {labels} --idm.future-obs-offset {scale.future_obs_offset}",
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
    if scale.laom_augments:  # then laom is laom_aug
        runs["laom_no_aug"] = f"{laom} {no_policy} --lam.no-use-aug"
    else:
        runs["laom_aug"] = f"{laom} {no_policy} --lam.use-aug"

    # Figures 10 and 14: the LAM and the actor learn from other tasks' videos, the labels are of this task.
    cross = f"--data {shlex.join(others)} --trajectories-per-file {scale.trajectories_per_file}"
    cross += f" --labeled-data {own} {labels}"
    for name in ("lapo", "laom", "laom_supervised"):
        runs[f"{name}_cross"] = f"{methods[name]} {cross}"

    # Figures 9 and 12: Section 5 has 128 labelled trajectories, the most of Figure 8.
    for dim in scale.smaller_dims:
        small = f"--num-labeled-trajectories {max(scale.budgets)} --lam.latent-action-dim {dim}"
        runs[f"laom_{dim}"] = f"{laom} {small}"
        runs[f"laom_supervised_{dim}"] = f"{supervised} {small}"

    for name, like in scale.variants.items():
        runs[name] = methods[name] + runs[like].removeprefix(methods[like])
    return runs


# ---- Figures: which runs each needs, on all tasks and seeds of the scale -----------------------------------


@dataclass
class Figure:
    about: str
    distractors: list[str] = field(default_factory=list)  # names of runs on data with distractors
    clean: list[str] = field(default_factory=list)  # and without
    tasks: tuple[str, ...] | None = None  # None: all of the scale
    seeds: tuple[int, ...] | None = None  # None: all of the scale
    once: list[str] = field(default_factory=list)  # runs that may have fewer seeds than the others
    part: int = 0  # of the night: the first part runs first
    per_task: bool = False  # a panel for each task; the others are means over tasks
    reconstruct: bool = False  # draw what the embedding holds

    @property
    def runs(self) -> list[tuple[str, str]]:
        """(name, difficulty) of each run."""
        return [(name, DISTRACTORS) for name in self.distractors] + [(name, CLEAN) for name in self.clean]


def list_figures(scale: Scale) -> dict[str, Figure]:
    unsupervised = ["lapo", "laom"]
    quantizers = ["lapo_original_vq", "lapo_original_fsq", "lapo_original"]
    steps = ["lapo_original", "lapo_multi_step", "lapo", *scale.laom_steps]
    walker = ("walker-run",) if "walker-run" in scale.tasks else None  # the paper's task there
    cross = ["bc", "lapo_cross", "laom_cross", "laom_supervised_cross"]
    embeddings = ["laom", "laom_supervised", "idm_multi_step"]
    dims = ["laom", "laom_supervised"]
    dims += [f"{name}_{dim}" for name in tuple(dims) for dim in scale.smaller_dims]
    figures = {
        "figure_01": Figure("all methods, with distractors", METHODS),
        "figure_05": Figure("LAPO with and without quantiser", quantizers, quantizers, once=quantizers[:1]),
        "figure_06": Figure("LAOM's changes to LAPO, one after the other", steps, [steps[0], steps[-1]]),
        "figure_07": Figure("LAPO and LAOM, with and without distractors", unsupervised, unsupervised),
        "figure_08": Figure("all methods by labels, with distractors", METHODS, per_task=True),
        "figure_09a": Figure("IDM and LAOM+supervision on unseen videos", ["idm", "laom_supervised"]),
        "figure_09bc": Figure("small latent actions", dims),
        "figure_10": Figure("pre-training on other tasks", cross),
        "figure_11": Figure("what embeddings hold", embeddings, seeds=scale.seeds[:1], reconstruct=True),
        "figure_12ab": Figure("probes of latent actions and of embeddings", dims, tasks=walker),
        "figure_12c": Figure("LAOM with quantiser", ["laom", "laom_fsq"], tasks=walker),
        "figure_13": Figure("all methods by labels, without distractors", clean=METHODS, per_task=True),
        "figure_14": Figure("pre-training on other tasks, each task", cross, per_task=True),
        "figure_15": Figure("all methods, without distractors", clean=METHODS),
        "table_3": Figure("BC on all labels", ["bc"], ["bc"]),
    }
    for figure in figures.values():
        figure.distractors = place_variants(scale, figure.distractors)
        figure.clean = place_variants(scale, figure.clean)
    return figures


def list_night(scale: Scale) -> dict[str, Figure]:
    """What a machine does in one night, in the order in which it decides something; and the ladder."""
    methods = place_variants(scale, METHODS)
    steps = list_figures(scale)["figure_06"].distractors
    task, tasks = scale.tasks[:1], scale.tasks[1:]
    seed, seeds = scale.seeds[:1], scale.seeds[1:]
    return {
        "night_1": Figure("all methods, with distractors", methods, tasks=task, seeds=seed, part=1),
        "night_2": Figure("the same on the other tasks", methods, tasks=tasks, seeds=seed, part=2),
        "night_3": Figure("the same with the other seeds", methods, seeds=seeds, part=3),
        "night_4": Figure("without distractors", clean=methods, tasks=task, part=4),
        "ladder_1": Figure("Figure 6 with distractors", steps, tasks=task, part=1),
        "ladder_2": Figure("with FSQ", ["lapo_original_fsq"], tasks=task, seeds=seed, part=2),
    }


def place_variants(scale: Scale, names: list[str]) -> list[str]:
    """Variants behind the method they are like, if all names are methods."""
    if not set(names) <= set(METHODS):
        return names
    result = []
    for name in names:
        result += [name, *(variant for variant, like in scale.variants.items() if like == name)]
    return result


def choose_figures(figures: dict[str, Figure], words: tuple[str, ...]) -> dict[str, Figure]:
    """Those whose names begin with one of the words; all of them for "all"."""
    beginnings = tuple("" if word == "all" else word for word in words)
    for word, beginning in zip(words, beginnings):
        if not any(name.startswith(beginning) for name in figures):
            raise SystemExit(f"error: no figure {word}: there are {', '.join(figures)}, and all")
    return {name: figure for name, figure in figures.items() if name.startswith(beginnings)}


# ---- Lines -------------------------------------------------------------------------------------------------


def data_file(scale: Scale, task: str, difficulty: str, seed: int, split: str = "train") -> str:
    """As collect_data.py calls it."""
    name = f"{task}__{difficulty}"
    if scale.action_repeat > 1:
        name += f"__repeat{scale.action_repeat}"
    if scale.action_noise > 0:
        name += f"__noise{scale.action_noise}"
    return f"{data_folder(scale, seed)}/{name}__{split}.hdf5"


def data_folder(scale: Scale, seed: int) -> str:
    return f"{scale.data}/seed{seed}" if scale.data_per_seed else scale.data


def collect_command(scale: Scale, task: str, difficulty: str, seed: int) -> str:
    command = f"collect_data.py --task {task} --difficulty {difficulty}"
    command += f" --action-repeat {scale.action_repeat} --action-noise {scale.action_noise}"
    command += f" --num-trajectories {scale.num_trajectories}"
    command += f" --num-eval-trajectories {scale.num_eval_trajectories}"
    command += f" --seed {seed if scale.data_per_seed else 0}"
    return f"{command} --output {shlex.quote(data_folder(scale, seed))}"


def write_line(scale: Scale, name: str, task: str, difficulty: str, seed: int, runs: str, draw: bool) -> str:
    """All commands of a run; draw: what its embedding holds, too."""
    own_tasks = [task, *(scale.other_tasks if name.endswith("_cross") else ())]
    commands = [collect_command(scale, own_task, difficulty, seed) for own_task in dict.fromkeys(own_tasks)]
    train = list_runs(scale, task, difficulty, seed)[name]
    script = Path(shlex.split(train)[0]).stem
    folder = f"{runs}/{name}" if difficulty == DISTRACTORS else f"{runs}/{name}__{difficulty}"
    train += f" --seed {seed} --runs {shlex.quote(folder)}"
    run = shlex.quote(f"{folder}/{task}__{script}__{seed}__")
    measure = f"benchmark/measure.py {run}* --only-missing"  # the shell finds the rest of its name
    measure += " --reconstruct" if draw else ""
    has_measures = scale.variants.get(name, script) != "bc"
    if has_measures and difficulty == DISTRACTORS:
        file, twins = data_file(scale, task, DISTRACTORS, seed, "val"), f"{data_folder(scale, seed)}/twins"
        twin = f"{twins}/{Path(file).name.replace(DISTRACTORS, CLEAN)}"
        rerender = f"collect_data.py --rerender {shlex.quote(file)} --difficulty {CLEAN}"
        commands.append(f"{rerender} --output {shlex.quote(twins)}")
        measure += f" --twin-data {shlex.quote(twin)}"
    commands += [train, measure] if has_measures else [train]
    return " && ".join(f"python {command}" for command in commands)


def list_lines(scale: Scale, figures: dict[str, Figure], runs: str) -> list[str]:
    """A line for each run of the figures, one seed of all methods first."""
    chosen = {}  # (task, seed, name, difficulty) → part of the night, whether its embedding is drawn
    for figure in figures.values():
        tasks = scale.tasks if figure.tasks is None else figure.tasks
        seeds = scale.seeds if figure.seeds is None else figure.seeds
        for (name, difficulty), task, seed in itertools.product(figure.runs, tasks, seeds):
            key = (ALL_TASKS.index(task), seed, name, difficulty)
            part, draw = chosen.get(key, (figure.part, False))
            chosen[key] = (part, draw or figure.reconstruct)
    lines = []
    for key in sorted(chosen, key=lambda key: (chosen[key][0], *key[:2])):
        task, seed, name, difficulty = key
        lines.append(write_line(scale, name, ALL_TASKS[task], difficulty, seed, runs, chosen[key][1]))
    return lines


# ---- Main --------------------------------------------------------------------------------------------------


@dataclass
class Args:
    what: Annotated[tuple[str, ...], tyro.conf.Positional]
    """figures, a night: figure_01, figure_09 (a and bc), table_3, night, all; none prints a list"""
    scale: Literal[tuple(SCALES)] = "demo"  # size of everything: an entry of SCALES
    tasks: tuple[Literal[ALL_TASKS], ...] = ()  # instead of the scale's tasks
    seeds: tuple[int, ...] = ()  # instead of the scale's seeds
    script: Path | None = None  # a variant to run beside the methods of the figures, or alone
    like: Literal[tuple(METHODS)] | None = None  # the method whose sizes the variant gets
    data: str | None = None  # folder of the datasets, instead of the scale's
    runs: str = "runs/benchmark"  # folder of all runs


def main(args: Args):
    scale = SCALES[args.scale]
    for name in ("tasks", "seeds", "data"):
        scale = dataclasses.replace(scale, **{name: getattr(args, name) or getattr(scale, name)})
    if (args.script is None) != (args.like is None):
        raise SystemExit("error: --script PATH and --like METHOD go together")
    if args.script:
        if not args.script.is_file():
            raise SystemExit(f"error: --script {args.script}: no such file")
        if args.script.stem in list_runs(scale, scale.tasks[0]):
            raise SystemExit(f"error: --script {args.script}: the benchmark has a run of this name")
        scale = with_variant(scale, str(args.script), args.like)

    known = list_figures(scale) | list_night(scale)
    figures = choose_figures(known, args.what)
    if args.script and not figures:
        figures = {"variant": Figure("the variant alone", [args.script.stem])}
    if not figures:
        for name, figure in known.items():
            print(f"{name:20} {figure.about}")
        return
    print("\n".join(list_lines(scale, figures, f"{args.runs}/{args.scale}")))


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # behind `| head` it ends without a word
    main(tyro.cli(Args, description=__doc__))

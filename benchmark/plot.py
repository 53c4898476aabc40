"""Draws the paper's figures from finished runs, each beside the numbers that the paper prints, and prints its tables.

    python benchmark/plot.py --scale mini                         # every figure and table whose runs are there
    python benchmark/plot.py figure_08 table_3 --scale mini --videos unseen_videos
    python benchmark/plot.py --scale demo --runs 'runs/*'         # any folders with results.json and args.json
    python benchmark/plot.py --scale mini --html                  # one page with everything, and a run of each kind side by side
    python benchmark/plot.py --scale demo --html runs/*           # these runs side by side

A run belongs to a figure if its arguments are those of benchmark/run.py at this scale, wherever it lies and whatever its folder is
called (which trajectories it was given is not compared). A figure one of whose methods has not run is skipped, and the command that
runs it is printed; means are over the tasks and seeds with which all have run. Writes benchmark/pictures/<scale>_figure_08.png and
so on, and the page, a single runs/benchmark/<scale>.html; prints what all runs have measured, on seen and unseen videos, and each
claim of the paper as a ratio with its interval.

Lines and bars are means over tasks, of means over seeds; dots are seeds. 95% intervals are bootstrapped: seeds are drawn again, and
for returns the episodes of each; with three seeds they are too narrow, with one they say nothing about seeds, and the error of the
normaliser is not in them. Scores are returns over the mean return on seen videos of bc.py on all labels of the same task, with the
same distractors, at this scale; over the paper's Table 3 where a kind of data in the figure has no such run. Probe errors are MSE /
Var(a), held out, at k = 1 (benchmark/measure.py); the paper's are MSE of an online probe on unclipped actions, so that only ratios
compare.
"""

import base64
import copy
import glob
import html
import importlib
import io
import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import h5py
import matplotlib
import numpy as np
import run as benchmark
import table
import tyro
from PIL import Image
from run import ALL_TASKS, CLEAN, DISTRACTORS, METHODS, ROOT, SCALES, Figure

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LABELS = {
    "bc": "BC",
    "idm": "IDM",
    "lapo": "LAPO",
    "laom": "LAOM",
    "laom_supervised": "LAOM+supervision",
    "lapo_original": "no quantiser",
    "lapo_original_vq": "VQ",
    "lapo_original_fsq": "FSQ",
    "laom_fsq": "LAOM with FSQ",
    "idm_multi_step": "multi-step IDM",
    "lapo_cross": "LAPO",
    "laom_cross": "LAOM",
    "laom_supervised_cross": "LAOM+supervision",
}
STEPS = ["LAPO", "+ multi-step\nIDM", "+ larger\nz", "- pixels\n(embeddings)", "+ augmen-\ntation"]  # of Figure 6
COLORS = {"bc": "#888888", "idm": "#e69f00", "lapo": "#0072b2", "laom": "#009e73", "laom_supervised": "#cc4411"}
SETTINGS = {DISTRACTORS: ("with distractors", "#cc4411"), CLEAN: ("without", "#0072b2")}

# What the paper prints. Probe errors of Figures 5 and 6: its published logs.
PAPER_SCORE = 0.44  # LAOM+supervision, 128 of 5,000 trajectories labelled, mean of four tasks (Figure 1)
PAPER_SUPERVISION = 4.2  # times the return of LAOM (abstract)
PAPER_PROBES = {
    "figure_05": {DISTRACTORS: [None, 29.17, 22.09], CLEAN: [None, 16.41, 2.55]},  # VQ, FSQ, none
    "figure_06": {DISTRACTORS: [22.09, 9.54, 3.89, 5.22, 2.74], CLEAN: [2.55, 1.93]},
}
PAPER_SMALL_Z = {"laom": 0.37, "laom_supervised": 0.84}  # return at 64 dimensions over that at 8,192 (Section 5)
# What the paper claims, as what we measure of one run over that of another: claim, above, below, measure, the paper's ratio.
# A run is without distractors if its name says so; _small is the smallest z of the scale.
CLAIMS = [
    ("distractors break LAPO", "lapo_original", "lapo_original__vanilla", "probe", "8.66 (Figure 5)"),
    ("distractors break LAPO", "lapo", "lapo__vanilla", "probe", "–"),
    ("distractors break LAPO", "lapo", "lapo__vanilla", "return", "–"),
    ("quantisation hurts without distractors", "lapo_original_fsq__vanilla", "lapo_original__vanilla", "probe", "6.43 (Figure 5)"),
    ("quantisation hurts without distractors", "lapo_original_vq__vanilla", "lapo_original__vanilla", "probe", "–"),
    ("it hurts less with distractors", "lapo_original_fsq", "lapo_original", "probe", "1.32 (Figure 5)"),
    ("it hurts less with distractors", "lapo_original_vq", "lapo_original", "probe", "–"),
    ("pairs further apart and a large z help", "lapo", "lapo_original", "probe", "0.18 (Figure 6)"),
    ("predicting embeddings alone costs a little", "laom_no_aug", "lapo", "probe", "1.34 (Figure 6)"),
    ("LAOM's latent actions are better than LAPO's", "laom_aug", "lapo", "probe", "0.70 (Figure 6)"),
    ("LAOM's latent actions are better than LAPO's", "laom_aug", "lapo_original", "probe", "0.12 (Figure 6, abstract)"),
    ("the gain carries over to returns only partly", "laom", "lapo", "return", "up to 2 (Section 4)"),
    ("LAOM's gain without distractors is not significant", "laom__vanilla", "lapo__vanilla", "return", "above 1 (Section 4)"),
    ("a few labels bring the large gain", "laom_supervised", "laom", "probe", "–"),
    ("a few labels bring the large gain", "laom_supervised", "laom", "return", f"{PAPER_SUPERVISION} (abstract)"),
    ("a few labels bring the large gain", "laom_supervised", "lapo", "probe", "–"),
    ("a few labels bring the large gain", "laom_supervised", "lapo", "return", "–"),
    ("a few labels bring the large gain", "laom_supervised", "bc", "return", "–"),
    ("supervision generalises better than an IDM", "laom_supervised", "idm", "labelled", "–"),
    ("supervision generalises better than an IDM", "laom_supervised", "idm", "return", "–"),
    ("small z suffice with supervision", "laom_small", "laom", "probe", "–"),
    ("small z suffice with supervision", "laom_supervised_small", "laom_supervised", "probe", "–"),
    ("small z suffice with supervision", "laom_small", "laom", "return", f"{PAPER_SMALL_Z['laom']} (Section 5)"),
    ("small z suffice with supervision", "laom_supervised_small", "laom_supervised", "return",
     f"{PAPER_SMALL_Z['laom_supervised']} (Section 5)"),
]  # fmt: skip
PAPER_DATASETS = {  # average return, GB (Table 1)
    "cheetah-run": (837.70, 57.7), "walker-run": (739.79, 57.8), "hopper-hop": (306.63, 57.6), "humanoid-walk": (617.22, 58.9),
}  # fmt: skip
PAPER_TIMES = {"lapo": "7h 38m", "laom": "6h 43m", "laom_supervised": "7h 6m", "bc": "1h 10m", "idm": "5h 30m"}  # Table 2
PAPER_BC = {"cheetah-run": (823, 840), "walker-run": (749, 735), "hopper-hop": (253, 300), "humanoid-walk": (428, 601)}  # Table 3
PAPER_PARAMETERS = {  # Table 4
    "LAPO": 211_847_849, "LAOM": 192_307_136, "LAOM+supervision": 192_479_189, "BC (on all stages)": 107_541_504,
    "IDM": 192_258_965,
}  # fmt: skip

HEALTH = {  # measures that need no labels (benchmark/measure.py)
    "effective_rank": "effective rank of z",
    "shuffled_loss_ratio": "FDM's error with other z / own z",
    "blind_loss_ratio": "FDM's error with z(obs, obs) / own z",
    "copy_loss_ratio": "FDM's error / predicting no change",
    "distractor_share": "share of Var(z) that changes",  # between the evaluation file and a twin
}


@dataclass
class Args:
    what: Annotated[tuple[str, ...], tyro.conf.Positional] = ("all",)
    """figures and tables: figure_01, figure_09 (a and bc), table_3, …, all"""
    scale: Literal[tuple(SCALES)] = "demo"
    """whose runs: a row of SCALES in benchmark/run.py"""
    runs: tuple[str, ...] = ()
    """folders of runs, or quoted globs; the default are runs/benchmark/<scale>/*/* and what benchmark/results/ has of the scale"""
    videos: Literal["seen_videos", "unseen_videos"] = "seen_videos"
    """of the evaluation and of the probes; Figure 9a has unseen ones in any case"""
    partial: bool = False
    """draw a figure although it lacks some of its runs"""
    html: tuple[Path, ...] | None = None
    """write a page; the runs to show side by side, or none for one of each kind"""
    output: Path | None = None
    """folder of the pictures and of the page; the default are benchmark/pictures, and for the page runs/benchmark"""


# ---- Runs --------------------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    folder: Path
    args: dict
    results: dict
    names: set[str]  # of benchmark/run.py's runs that it is

    @property
    def task(self) -> str:
        return self.results["task"]

    @property
    def difficulty(self) -> str:
        return self.results["difficulty"]

    @property
    def seed(self) -> int:
        return self.results["seed"]

    def measures(self, budget: int | None = None) -> dict:
        """What stage 1 has learned, with this label budget or with the most."""
        budgets = {int(number): value for number, value in self.results["budgets"].items() if number != "all"}
        of_budget = budgets.get(budget or max(budgets, default=None), {})
        return self.results.get("latent_actions", {}) | of_budget.get("latent_actions", {}) | of_budget.get("idm", {})

    def online(self, metric: str) -> float | None:
        """The mean of the last five values that training has logged, each of one batch."""
        path = self.folder / "metrics.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        values = [record[metric] for record in records if metric in record]
        return float(np.mean(values[-5:])) if values else None


def load_run(folder: Path, known: dict[str, dict]) -> Run:
    try:
        args, results = (json.loads((folder / name).read_text()) for name in ("args.json", "results.json"))
        identity = benchmark.identity(results["script"], args)
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(f"error: {folder} is no finished run: {error}")
    return Run(folder, args, results, {name for name, wanted in known.items() if not benchmark.differences(identity, wanted)})


class Benchmark:
    """The runs of a scale."""

    def __init__(self, scale_name: str, patterns: tuple[str, ...], videos: str):
        self.scale_name, self.scale, self.videos = scale_name, SCALES[scale_name], videos
        results, own = ROOT / "benchmark" / "results", ROOT / "runs" / "benchmark"
        folders = [own / scale_name / "*" / "*", results / scale_name / "*" / "*", results / f"{scale_name}_*"]
        paths = [Path(path) for pattern in patterns or map(str, folders) for path in sorted(glob.glob(pattern))]
        known = benchmark.identities(self.scale)
        runs = [load_run(path, known) for path in paths if (path / "results.json").exists()]
        if patterns and not runs:
            raise SystemExit(f"error: no results.json in {', '.join(patterns)}")
        self.runs = {}  # one for each experiment, task, difficulty and seed: the one with the most budgets, of these the newest
        newest_first = sorted(runs, key=lambda run: run.folder.name.rpartition("__")[1:], reverse=True)  # those without a date last
        for run in sorted(newest_first, key=lambda run: -len(run.results["budgets"])):
            if run.task not in ALL_TASKS:
                print(f"{run.folder} is no run of the {scale_name} scale: {run.task} is none of its tasks")
            elif not set(map(str, run.args["num_labeled_trajectories"])) <= set(run.results["budgets"]):
                print(f"{run.folder} has not finished")
            elif run.names:
                self.runs.setdefault((min(run.names), run.task, run.difficulty, run.seed), run)
            else:
                identity = benchmark.identity(run.results["script"], run.args)
                same = [wanted for wanted in known.values() if wanted["script"] == run.results["script"]] or list(known.values())
                nearest = min((benchmark.differences(identity, wanted) for wanted in same), key=len)
                print(f"{run.folder} is no run of the {scale_name} scale: {', '.join(nearest)}")

    def only(self, name: str, figure: Figure) -> "Benchmark":
        """The runs of the tasks that the figure is about, its own or those on which every method it compares has run, and on each
        of the seeds with which all have."""
        keys = [key for key, there in self.found(figure).items() if there]
        by_key = [{run.task for run in self.find(*key)} for key in keys] or [set()]
        tasks = set.union(*by_key) if name in PER_TASK else set.intersection(*by_key)
        tasks, kinds = {figure.task} if figure.task in tasks else tasks, {difficulty for _, difficulty in keys}
        seeds = {task: set.intersection(*({run.seed for run in self.find(*key, task)} for key in keys if self.find(*key, task)))
                 for task in tasks}  # fmt: skip
        return self.narrowed(lambda run: run.seed in seeds.get(run.task, ()) and run.difficulty in kinds)

    def narrowed(self, condition) -> "Benchmark":
        result = copy.copy(self)
        result.runs = {key: run for key, run in self.runs.items() if condition(run)}
        return result

    def find(self, name: str, difficulty: str = DISTRACTORS, task: str | None = None) -> list[Run]:
        runs = [run for run in self.runs.values() if name in run.names and run.difficulty == difficulty]
        return sorted((run for run in runs if task in (None, run.task)), key=lambda run: (ALL_TASKS.index(run.task), run.seed))

    def reference(self, task: str, difficulty: str) -> tuple[float, bool]:
        """The return that is score 1, and whether it is our own or the paper's."""
        kinds = {run.difficulty for run in self.runs.values() if run.task == task} | {difficulty}  # one scale for what is shown
        own = {kind: [run.results["budgets"]["all"]["seen_videos"]["return_mean"] for run in self.find("bc", kind, task)
                      if "all" in run.results["budgets"]] for kind in kinds}  # fmt: skip
        return (float(np.mean(own[difficulty])), True) if all(own.values()) else (PAPER_BC[task][difficulty == CLEAN], False)

    def scores(self, runs: list[Run], budget: int) -> dict:
        """A sample of normalised scores: {task: {seed: episodes}}."""
        values = lambda run: np.array(run.results["budgets"][str(budget)][self.videos]["returns"])
        runs = [run for run in runs if str(budget) in run.results["budgets"]]
        return sample(runs, lambda run: values(run) / self.reference(run.task, run.difficulty)[0])

    def probes(self, runs: list[Run]) -> dict:
        return sample(runs, lambda run: run.measures().get(f"action_probe_mse_over_var/{self.videos}"))

    def found(self, figure: Figure) -> dict[tuple[str, str], bool]:
        """(name, difficulty) → whether the figure has a run of it, on any task and with any seed."""
        wanted = [(name, DISTRACTORS) for name in figure.distractors] + [(name, CLEAN) for name in figure.clean]
        return {key: bool(self.find(*key)) for key in wanted}

    def missing(self, figure: Figure) -> str:
        """The runs that the figure lacks, in words."""
        lacking = [key for key, there in self.found(figure).items() if not there]
        return ", ".join(name + " without distractors" * (difficulty == CLEAN) for name, difficulty in lacking)


# ---- Samples -----------------------------------------------------------------------------------------------------------------


def sample(runs: list[Run], value) -> dict[str, dict[int, np.ndarray]]:
    """{task: {seed: values}} of the runs that have a value."""
    result = {}
    for run in runs:
        if (x := value(run)) is not None:
            result.setdefault(run.task, {})[run.seed] = np.atleast_1d(x)
    return result


def center(sample: dict) -> float:
    return float(np.mean([np.mean([values.mean() for values in seeds.values()]) for seeds in sample.values()]))


def seed_means(sample: dict) -> list[float]:
    """Each seed's mean over the tasks, if it has run on all of them."""
    common = set.intersection(*(set(seeds) for seeds in sample.values()))
    return [float(np.mean([seeds[seed].mean() for seeds in sample.values()])) for seed in sorted(common)]


def resample(sample: dict, repeats: int = 2000, seed: int = 0) -> np.ndarray:
    """Centers of the sample drawn again, (repeats,): on each task its seeds, and in each drawn seed its episodes."""
    rng, means = np.random.default_rng(seed), np.zeros(repeats)
    for seeds in sample.values():
        drawn = rng.integers(len(seeds), size=(repeats, len(seeds)))
        for column in drawn.T:
            resampled = [rng.choice(values, (repeats, len(values))).mean(1) for values in seeds.values()]
            means += np.choose(column, resampled) / len(seeds) / len(sample)
    return means


def bootstrap(sample: dict) -> tuple[float, float]:
    """95% interval of the center."""
    low, high = np.quantile(resample(sample), (0.025, 0.975))
    return float(low), float(high)


def varies(sample: dict) -> bool:
    """Whether there is something to draw again."""
    return any(len(seeds) > 1 or len(values) > 1 for seeds in sample.values() for values in seeds.values())


def show_ratio(above: dict, below: dict) -> str:
    """The ratio of the centers with its 95% interval, for which each sample is drawn again by itself."""
    if not above or not below or center(below) == 0:
        return "–"
    ratio = f"{center(above) / center(below):.2f}"
    if not varies(above) and not varies(below):
        return ratio
    with np.errstate(divide="ignore", invalid="ignore"):  # where all drawn episodes below returned 0
        low, high = np.nanquantile(resample(above) / resample(below, seed=1), (0.025, 0.975), method="nearest")
    return f"{ratio} ({low:.2f} to {high:.2f})"


def scaled(sample: dict, factor: float) -> dict:
    return {task: {seed: values * factor for seed, values in seeds.items()} for task, seeds in sample.items()}


# ---- Drawing -----------------------------------------------------------------------------------------------------------------

plt.rcParams.update({
    "font.size": 8.5, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y",
    "grid.color": "#dddddd", "axes.axisbelow": True, "legend.frameon": False, "figure.dpi": 150, "axes.titlesize": 9,
})  # fmt: skip
HOLLOW = {"marker": "D", "markersize": 6, "linestyle": "none", "markerfacecolor": "white", "markeredgecolor": "black", "zorder": 6}
PANEL = 3.4  # inches


def begin(bench: Benchmark, name: str, panels: int = 1, width: float = PANEL, height: float = 3.3):
    """A figure with a title that says what, at which scale, from which runs."""
    figure = plt.figure(figsize=(max(width * panels, 5), height), layout="constrained")
    about = benchmark.list_figures(bench.scale)[name]
    runs = [run for key in bench.found(about) for run in bench.find(*key)]
    tasks, seeds = [task for task in ALL_TASKS if any(run.task == task for run in runs)], sorted({run.seed for run in runs})
    words = [f"{bench.scale_name} scale, {bench.scale.num_trajectories[0]:,} trajectories", ", ".join(tasks)]
    words += [f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"]
    videos = {"figure_09a": "unseen videos", "figure_11": "unseen videos", "figure_12ab": "training batches"}
    words += [videos.get(name, bench.videos.replace("_", " "))]
    augments = benchmark.identities(bench.scale)["laom"]["lam.use_aug"]
    if not augments and name != "figure_06" and any({"laom", "laom_cross"} & run.names for run in runs):
        words.append("LAOM without augmentation")
    if missing := bench.missing(about):
        words.append(f"not run: {missing}")
    subtitle = textwrap.fill(" · ".join(words), int(figure.get_figwidth() * 15))
    title = f"Figure {name.removeprefix('figure_').lstrip('0')}: {about.about}"
    figure.suptitle(title + "\n" * (1 + subtitle.count("\n")), x=0.01, ha="left", fontsize=9.5, weight="bold")
    figure.text(0.01, 1 - 0.06 / height, f"\n{subtitle}", va="top", fontsize=8.5, color="#555555", linespacing=1.3)
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def bar(ax, x: float, sample: dict, color: str, width: float = 0.7, label: str | None = None):
    """A bar with its interval, seeds as dots."""
    ax.bar(x, center(sample), width, color=color, alpha=0.7, label=label)
    draw_interval(ax, x, sample, "black")
    dots = seed_means(sample)
    ax.plot(
        x + width * np.linspace(-0.2, 0.2, len(dots)) if len(dots) > 1 else [x], dots, ".", color="black", markersize=4, zorder=5
    )


def curve(ax, samples: dict[int, dict], color: str, label: str, shift: float = 0, **style):
    """A line over label budgets or sizes, drawn at shift (in powers of two) beside them, with intervals, seeds as dots."""
    samples = {x * 2**shift: sample for x, sample in sorted(samples.items()) if sample}
    if samples:
        means = [center(sample) for sample in samples.values()]
        ax.plot(list(samples), means, "o", markersize=4.5, color=color, label=label, **({"linestyle": "-"} | style))
    for x, sample in samples.items():
        draw_interval(ax, x, sample, color)
        ax.plot([x] * len(seed_means(sample)), seed_means(sample), ".", color=color, markersize=3, alpha=0.6)


def draw_interval(ax, x: float, sample: dict, color: str):
    if varies(sample):
        ax.vlines(x, *bootstrap(sample), color=color, linewidth=1.2, alpha=0.9, zorder=4)


def powers_of_two(ax, ticks, label: str):
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(ticks), [f"{tick:,}" for tick in ticks])
    ax.set_xlim(min(ticks) / 1.4, max(ticks) * 1.4)
    ax.minorticks_off()
    ax.set_xlabel(label)


def from_zero(ax):
    ax.set_ylim(0, 1.08 * ax.get_ylim()[1])


def name_score(ax, bench: Benchmark, tasks: list[str], difficulties: list[str], about: str):
    """Title and label of an axis of scores; says what score 1 is."""
    ax.set_ylabel("normalised score")
    from_zero(ax)
    ones = [f"{value:.0f}{'' if own else ' (Table 3)'}" for d in difficulties for value, own in [bench.reference(tasks[0], d)]]
    experts = sorted({round(run.results["dataset_return"]) for run in bench.runs.values() if run.task == tasks[0]})
    title = f"{about} · score 1 = return {' and '.join(ones)}, expert {' and '.join(map(str, experts))}"
    ax.set_title(title if len(tasks) == 1 else about, loc="left")


def tasks_of(bench: Benchmark, names: list[str], difficulty: str) -> list[str]:
    return [task for task in ALL_TASKS if any(bench.find(name, difficulty, task) for name in names)]


def draw_summary(bench: Benchmark, name: str):
    """Figures 1 and 15: each method's score at the largest label budget."""
    difficulty, most_labels = DISTRACTORS if name == "figure_01" else CLEAN, bench.scale.budgets[-1]
    figure, (ax,) = begin(bench, name, width=5)
    samples = {method: bench.scores(bench.find(method, difficulty), most_labels) for method in METHODS}
    for x, method in enumerate(METHODS):
        if samples[method]:
            bar(ax, x, samples[method], COLORS[method])
    values = [f"{center(samples[method]):.2f}" if samples[method] else "–" for method in METHODS]
    ax.set_xticks(
        range(len(METHODS)), [value + "\n" + LABELS[method].replace("+", "+\n") for method, value in zip(METHODS, values)]
    )
    tasks = tasks_of(bench, METHODS, difficulty)
    name_score(ax, bench, tasks, [difficulty], f"{most_labels} labelled trajectories")
    if name == "figure_01":
        ratio = "–"
        if samples["laom"] and samples["laom_supervised"]:
            ratio = f"{center(samples['laom_supervised']) / max(center(samples['laom']), 1e-9):.1f}"
        label = f"paper: {PAPER_SCORE} of its BC on all labels; LAOM+supervision / LAOM: {PAPER_SUPERVISION}, here {ratio}"
        ax.plot(len(METHODS) - 1, PAPER_SCORE, **HOLLOW, label=label)
        unique_legend(figure, ax)
    return figure


def draw_probes(bench: Benchmark, name: str):
    """Figures 5 and 6: probe errors relative to LAPO's without quantiser, with distractors."""
    about, paper = benchmark.list_figures(bench.scale)[name], PAPER_PROBES[name]
    columns = about.distractors
    base = bench.probes(bench.find("lapo_original"))
    if not base:
        return None
    figure, (ax,) = begin(bench, name, width=6)
    factor = 1 / center(base)
    errors = {column: [] for column in columns}
    for difficulty, names, shift in ((DISTRACTORS, about.distractors, -0.2), (CLEAN, about.clean, 0.2)):
        label, color = SETTINGS[difficulty]
        for run_name, paper_mse in zip(names, paper[difficulty]):
            x, found = columns.index(run_name) + shift, bench.probes(bench.find(run_name, difficulty))
            if found:
                bar(ax, x, scaled(found, factor), color, 0.38, label)
            errors[run_name].append(f"{center(found):.2f}" if found else "–")
            if paper_mse is not None:
                ax.plot(x, paper_mse / PAPER_PROBES["figure_06"][DISTRACTORS][0], **HOLLOW, label="paper, relative to its 22.09")
    names = STEPS if name == "figure_06" else [LABELS[column] for column in columns]
    ax.set_xlim(-0.5, len(columns) - 0.5)
    ax.set_xticks(range(len(columns)), [f"{' | '.join(errors[column])}\n{label}" for column, label in zip(columns, names)])
    ax.set_ylabel("probe error, no quantiser: 1" if name == "figure_05" else "probe error relative to LAPO's")
    from_zero(ax)
    ax.set_title("below the bars: MSE / Var(a), with | without distractors", loc="left")
    unique_legend(figure, ax)
    return figure


def unique_legend(figure, *axes):
    """One legend below all panels, the paper's markers last, in as many columns as fit."""
    entries = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels())}
    labels = sorted(entries, key=lambda label: label.startswith("paper"))
    if labels:
        widths, room = [0.55 + 0.063 * len(label) for label in labels], figure.get_figwidth()
        columns = len(labels) if sum(widths) < room else max(1, int(room / max(widths)))
        figure.legend([entries[label] for label in labels], labels, loc="outside lower center", ncols=columns)


def draw_curves(bench: Benchmark, name: str):
    """Figures 7, 8, 10, 12c, 13 and 14: scores by label budget, on each task or in the mean."""
    about, budgets = benchmark.list_figures(bench.scale)[name], bench.scale.budgets
    settings = [(d, names) for d, names in ((DISTRACTORS, about.distractors), (CLEAN, about.clean)) if names]
    tasks = [task for task in ALL_TASKS if any(task in tasks_of(bench, names, d) for d, names in settings)]
    panels = [[task] for task in tasks] if name in PER_TASK else [tasks]
    figure, axes = begin(bench, name, len(panels))
    for ax, panel in zip(axes, panels):
        lines = [(d, run_name) for d, names in settings for run_name in names]
        for i, (difficulty, run_name) in enumerate(lines):
            runs = [run for run in bench.find(run_name, difficulty) if run.task in panel]
            both, method = len(settings) > 1, run_name.removesuffix("_cross")
            label = LABELS[run_name] + f", {SETTINGS[difficulty][0]}" * both
            style = {"linestyle": "--", "markerfacecolor": "white"} if both and difficulty == CLEAN else {}
            samples = {budget: bench.scores(runs, budget) for budget in budgets}
            curve(ax, samples, COLORS.get(method, "#aa3377"), label, 0.06 * (i - (len(lines) - 1) / 2), **style)
        powers_of_two(ax, budgets, "labelled trajectories")
        about_panel = panel[0] if len(panel) == 1 else f"mean of {len(panel)} tasks"
        name_score(ax, bench, panel, [d for d, names in settings if tasks_of(bench, names, d)], about_panel)
    unique_legend(figure, *axes)
    return figure


def draw_unseen(bench: Benchmark, name: str):
    """Figure 9a: error of what the labels have taught, on unseen videos."""
    figure, (ax,) = begin(bench, name)
    for shift, run_name, kind in ((-0.04, "idm", "idm"), (0.04, "laom_supervised", "action_head")):
        runs = bench.find(run_name)
        samples = {n: sample(runs, lambda run: run.measures(n).get(f"{kind}_mse_over_var/unseen_videos")
                             if str(n) in run.results["budgets"] else None) for n in bench.scale.budgets}  # fmt: skip
        curve(ax, samples, COLORS[run_name], LABELS[run_name], shift)
    powers_of_two(ax, bench.scale.budgets, "labelled trajectories")
    ax.set_ylabel("error of the action, MSE / Var(a)")
    from_zero(ax)
    unique_legend(figure, ax)
    return figure


def by_dim(bench: Benchmark, run_name: str) -> dict[int, list[Run]]:
    """Runs of a method by the size of z."""
    result = {}
    for name in (run_name, *(f"{run_name}_{dim}" for dim in bench.scale.smaller_dims)):
        for run in bench.find(name):
            result.setdefault(run.args["lam"]["latent_action_dim"], []).append(run)
    return dict(sorted(result.items()))


def draw_small_z(bench: Benchmark, name: str):
    """Figures 9b and 9c: probe error and score by the size of z."""
    figure, axes = begin(bench, name, 2)
    for shift, run_name in ((-0.08, "laom"), (0.08, "laom_supervised")):
        runs, style = by_dim(bench, run_name), (COLORS[run_name], LABELS[run_name], shift)
        curve(axes[0], {dim: bench.probes(found) for dim, found in runs.items()}, *style)
        scores = {dim: bench.scores(found, bench.scale.budgets[-1]) for dim, found in runs.items()}
        scores = {dim: found for dim, found in scores.items() if found}
        factor = 1 / max(center(scores[max(scores)]), 1e-9) if scores else 1
        curve(axes[1], {dim: scaled(found, factor) for dim, found in scores.items()}, *style)
        hollow = HOLLOW | {"markeredgecolor": COLORS[run_name]}
        if scores:
            axes[1].plot(min(scores), PAPER_SMALL_Z[run_name], **hollow, label=f"paper, 64 of 8,192: {PAPER_SMALL_Z[run_name]}")
    for ax in axes:
        powers_of_two(ax, sorted({*by_dim(bench, "laom"), *by_dim(bench, "laom_supervised")}), "size of z")
        from_zero(ax)
    axes[0].set_ylabel("probe error, MSE / Var(a)")
    axes[1].set_ylabel("return relative to the largest z")
    axes[1].set_title(f"{bench.scale.budgets[-1]} labelled trajectories", loc="left")
    unique_legend(figure, *axes)
    return figure


def draw_embedding_probes(bench: Benchmark, name: str):
    """Figures 12a and 12b: online probes of the action from z and from the embedding, by the size of z."""
    figure, axes = begin(bench, name, 2)
    for ax, run_name in zip(axes, ("laom", "laom_supervised")):
        runs = by_dim(bench, run_name)
        for metric, color, label in (
            ("lam/action_probe_mse", COLORS[run_name], "from z"),
            ("lam/obs_action_probe_mse", "#555555", "from the embedding"),
        ):
            samples = {dim: sample(found, lambda run: run.online(metric)) for dim, found in runs.items()}
            curve(ax, samples, color, f"{LABELS[run_name]}, {label}", 0.05 if "obs" in metric else -0.05)
        powers_of_two(ax, list(runs), "size of z")
        ax.set_ylabel("online probe error, MSE")
        from_zero(ax)
    unique_legend(figure, *axes)
    return figure


def reconstructions(run: Run) -> list[Path]:
    return sorted(
        [*run.folder.glob("lam*.png"), *run.folder.glob("idm*.png")], key=lambda path: int("0" + path.stem.partition("_")[2])
    )


def draw_reconstructions(bench: Benchmark, name: str):
    """Figure 11: above what the network saw, below what a decoder sees in its embedding."""
    names = benchmark.list_figures(bench.scale)[name].distractors
    found = {run_name: [path for run in bench.find(run_name) for path in reconstructions(run)[-1:]] for run_name in names}
    if not any(found.values()):
        return None
    figure, (ax,) = begin(bench, name, width=8, height=0.6 + 1.65 * len(names))
    ax.remove()
    for ax, (run_name, paths) in zip(figure.subplots(len(names), 1), found.items()):
        about = "true frames of unseen videos above, decoded below" if paths else "none here, benchmark/run.py makes it"
        ax.set_title(f"{LABELS[run_name]}: {about}", loc="left")
        ax.axis("off")
        if paths:
            ax.imshow(plt.imread(paths[0]))
    return figure


PER_TASK = ("figure_08", "figure_13", "figure_14")  # a panel for each task; the others are means over tasks
DRAW = {
    "figure_01": draw_summary, "figure_05": draw_probes, "figure_06": draw_probes, "figure_07": draw_curves,
    "figure_08": draw_curves, "figure_09a": draw_unseen, "figure_09bc": draw_small_z, "figure_10": draw_curves,
    "figure_11": draw_reconstructions, "figure_12ab": draw_embedding_probes, "figure_12c": draw_curves,
    "figure_13": draw_curves, "figure_14": draw_curves, "figure_15": draw_summary,
}  # fmt: skip

# ---- Tables: rows of text, the first one the header; None without runs ---------------------------------------------------------


def table_1(bench: Benchmark) -> list[list[str]] | None:
    rows = [["dataset", "trajectories", "average return", "GB", "paper: average return", "paper: GB"]]
    for task in ALL_TASKS:
        path = ROOT / benchmark.data_file(bench.scale, task, DISTRACTORS)
        if path.exists():
            with h5py.File(path) as file:
                number = sum(name.isdigit() for name in file)
                size = path.stat().st_size / 1e9
                paper_return, paper_size = PAPER_DATASETS[task]
                average = f"{file.attrs['dataset_return']:.2f}"
                rows.append([task, f"{number:,}", average, f"{size:.1f}", f"{paper_return:.2f}", str(paper_size)])
    return rows if len(rows) > 1 else None


def table_2(bench: Benchmark) -> list[list[str]] | None:
    rows = [["method", "time per run", "label budgets in it", "runs", "machine", "paper, H100"]]
    for name in ("lapo", "laom", "laom_supervised", "bc", "idm"):
        runs = [run for run in bench.find(name) if (run.folder / "wall_clock.json").exists()]
        clocks = [json.loads((run.folder / "wall_clock.json").read_text()) for run in runs]
        if runs:
            minutes = round(np.mean([sum(clock["seconds"]) for clock in clocks]) / 60)
            machines = ", ".join(sorted({clock["machine"] for clock in clocks}))
            budgets = ", ".join(runs[0].results["budgets"])
            rows.append([LABELS[name], f"{minutes // 60}h {minutes % 60}m", budgets, str(len(runs)), machines, PAPER_TIMES[name]])
    return rows if len(rows) > 1 else None


def table_3(bench: Benchmark) -> list[list[str]] | None:
    rows, found = [["task", "with distractors", "without", "paper: with", "paper: without"]], False
    for task in ALL_TASKS:
        cells = []
        for difficulty in (DISTRACTORS, CLEAN):
            runs = [run for run in bench.find("bc", difficulty, task) if "all" in run.results["budgets"]]
            means = [run.results["budgets"]["all"][bench.videos]["return_mean"] for run in runs]
            cells.append(f"{np.mean(means):.1f} (seeds: {', '.join(f'{mean:.1f}' for mean in means)})" if means else "–")
            found |= bool(means)
        rows.append([task, *cells, *map(str, PAPER_BC[task])])
    return rows if found else None


def table_4(bench: Benchmark) -> list[list[str]]:
    import torch

    def count(script: str, *flags: str) -> dict[str, int]:
        """Parameters of the networks of a script for humanoid-walk with its 21 actions."""
        method = importlib.import_module(script.removesuffix(".py"))
        args = method.parse_args(list(flags))
        with torch.device("meta"):
            networks = (
                {"lam": lambda: method.LAM(args.lam, 3, *[21] * (script == "laom_supervised.py"))} if hasattr(args, "lam") else {}
            )
            networks |= {"idm": lambda: method.IDM(args.idm, 3, 21)} if hasattr(args, "idm") else {}
            networks |= {"actor": lambda: method.Actor(args.bc, 3, args.lam.latent_action_dim if hasattr(args, "lam") else 21)}
            return {name: sum(x.numel() for x in make().parameters()) for name, make in networks.items()}

    rows = [["network, 21 actions", "paper", "our paper preset", f"{bench.scale_name} scale"]]
    for label, script, network in (
        ("LAPO", "lapo.py", "lam"),
        ("LAOM", "laom.py", "lam"),
        ("LAOM+supervision", "laom_supervised.py", "lam"),
        ("BC (on all stages)", "laom.py", "actor"),
        ("IDM", "idm.py", "idm"),
    ):
        own = bench.scale.preset, *bench.scale.flags.get(script, "").split()
        totals = PAPER_PARAMETERS[label], count(script, "paper")[network], count(script, *own)[network]
        rows.append([label, *(f"{total:,}" for total in totals)])
    return rows


TABLES = {"table_1": table_1, "table_2": table_2, "table_3": table_3, "table_4": table_4}


def kind_of(run: Run) -> str:
    """What the run is called at this scale; one that is no run of it, by its folder."""
    return next((name for name in METHODS if name in run.names), min(run.names, default=run.folder.name))


def in_order(bench: Benchmark) -> list[Run]:
    kinds = [*METHODS, *benchmark.list_runs(bench.scale)]
    order = lambda run: (ALL_TASKS.index(run.task), run.difficulty, kinds.index(kind_of(run)), run.seed)
    return sorted(bench.runs.values(), key=order)


def run_cells(run: Run) -> list[str]:
    without = "no" if run.difficulty == CLEAN else "yes" if run.difficulty == DISTRACTORS else run.difficulty
    return [kind_of(run), run.task, without, str(run.seed)]


def run_rows(bench: Benchmark, runs: list[Run]) -> list[list[str]]:
    rows = [["run", "task", "distractors", "seed", *table.HEADER[2:-1], "score"]]
    for run in runs:
        reference, _ = bench.narrowed(lambda other: other.difficulty == run.difficulty).reference(run.task, run.difficulty)
        for _, _, number, *cells, score in table.rows(run.folder):
            budget = run.results["budgets"][number]
            if score != "–":
                returns = (budget[videos]["return_mean"] for videos in ("seen_videos", "unseen_videos"))
                score = " | ".join(f"{mean / reference:.2f}" for mean in returns)
            rows.append([*run_cells(run), number, *cells, score])
    return rows


def claim_value(bench: Benchmark, run: Run, measure: str, videos: str):
    """What CLAIMS compares: scores with the most labels, or an error, MSE / Var(a), of a probe of z or of what labels taught."""
    budget = bench.scale.budgets[-1]
    if measure == "return":
        returns = run.results["budgets"].get(str(budget), {}).get(videos, {}).get("returns")
        return None if returns is None else np.array(returns) / bench.reference(run.task, run.difficulty)[0]
    kinds = {"probe": ["action_probe"], "labelled": ["action_head", "idm"]}[measure]
    found = [run.measures(budget).get(f"{kind}_mse_over_var/{videos}") for kind in kinds]
    return next((value for value in found if value is not None), None)


def claim_rows(bench: Benchmark) -> list[list[str]]:
    """The paper's claims as ratios of what we have run, on the tasks and seeds that both sides have."""
    rows = [["the paper's claim", "ratio of", "task: seeds", "seen videos", "unseen videos", "paper"]]
    words = {"probe": "probe errors", "labelled": "errors of what labels taught"}
    words |= {"return": f"scores, {bench.scale.budgets[-1]} labelled"}
    for claim, *names, measure, paper in CLAIMS:
        names = [name.replace("_small", f"_{min(bench.scale.smaller_dims)}") for name in names]
        sides = [bench.find(name.removesuffix(f"__{CLEAN}"), CLEAN if name.endswith(CLEAN) else DISTRACTORS) for name in names]
        value = lambda run, videos="seen_videos": claim_value(bench, run, measure, videos)
        sides = [{(run.task, run.seed): run for run in runs if value(run) is not None} for runs in sides]
        common = [key for key in sides[0] if key in sides[1]]
        if common:
            samples = lambda videos: [sample([runs[key] for key in common], lambda run: value(run, videos)) for runs in sides]
            seeds = "; ".join(f"{task}: {', '.join(str(seed) for t, seed in common if t == task)}" for task in dict(common))
            label = " / ".join(name.replace(f"__{CLEAN}", " without distractors") for name in names)
            ratios = [show_ratio(*samples(videos)) for videos in ("seen_videos", "unseen_videos")]
            rows.append([claim, f"{words[measure]}: {label}", seeds, *ratios, paper])
    return rows


def lam_rows(bench: Benchmark, runs: list[Run]) -> list[list[str]]:
    """What each latent action model has learned, with the most labels: probes, and the measures that need no labels."""
    rows = [
        [
            "run",
            "task",
            "distractors",
            "seed",
            "z → action",
            "z(obs, obs) → action",
            "z → action, twins without distractors",
            *HEALTH.values(),
            "online probes, MSE, z | embedding → action",
        ]
    ]
    for run in runs:
        measures = run.measures()
        if "lam" in run.args:
            probes = [table.cell(measures, f"{kind}_probe_mse_over_var") for kind in ("action", "blind")]
            numbers = [measures.get("action_probe_mse_over_var/no_distractors")]
            numbers += [measures.get(name, measures.get(f"{name}/no_distractors")) for name in HEALTH]
            numbers += [run.online(f"lam/{kind}_probe_mse") for kind in ("action", "obs_action")]
            *cells, online, of_embedding = ("–" if number is None else f"{number:.3g}" for number in numbers)
            rows.append([*run_cells(run), *probes, *cells, f"{online} | {of_embedding}"])
    return rows


OVERVIEWS = {
    "All runs": "cells are seen | unseen videos; errors MSE / Var(a), returns mean ± standard deviation over episodes",
    "Latent actions": "probe errors, MSE / Var(a), seen | unseen videos; z(obs, obs) cannot know what came next; online probes are "
    "those of training batches, the mean of the last five values in metrics.jsonl",
    "The paper's claims": "ratios with 95% intervals, of one seed over episodes alone, of two or three seeds too narrow; scores "
    "are over BC on all labels of the same kind of data",
}


def overviews(bench: Benchmark) -> dict[str, list[list[str]]]:
    runs = in_order(bench)
    tables = {"All runs": run_rows(bench, runs), "Latent actions": lam_rows(bench, runs), "The paper's claims": claim_rows(bench)}
    return {title: rows for title, rows in tables.items() if len(rows) > 1}


# ---- The page ----------------------------------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --soft: #6b6b70; --paper: #fbfbf9; --card: #ffffff; --line: #e2e2de; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececec; --soft: #a2a2a8; --paper: #17181a; --card: #212326; --line: #37393d; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; max-width: 1500px;
  padding: 2rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 3rem 0 1rem; } h3 { font-size: 1rem; margin: 0; }
p { margin: .3rem 0; max-width: 75ch; } .soft { color: var(--soft); font-size: .88rem; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .85rem; margin: .35rem 0 0; overflow-wrap: anywhere; }
.figures { display: flex; flex-wrap: wrap; gap: 1.2rem; align-items: flex-start; }
.figures figure { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: .8rem; max-width: 100%;
  box-sizing: border-box; }
.figures img { display: block; max-width: 100%; height: auto; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
.runs { display: grid; grid-template-columns: repeat(auto-fill, minmax(27rem, 1fr)); gap: 1.2rem; }
.run { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 1rem; display: grid; gap: .8rem;
  align-content: start; min-width: 0; }
.run img { width: 100%; max-height: 30rem; object-fit: contain; object-position: left; display: block; image-rendering: pixelated; }
.run td:first-child { white-space: normal; }
"""


def inline(data: bytes, kind: str, alt: str, width: int | None = None) -> str:
    size = f' width="{width}"' if width else ""
    return f'<img alt="{html.escape(alt)}"{size} src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def small_film(path: Path) -> bytes:
    """The film at the size it was rendered in, every second frame, as an animated WebP: a tenth of the bytes."""
    with Image.open(path) as film:
        frames = []
        for i in range(0, film.n_frames, 2):
            film.seek(i)
            frames.append(film.convert("RGB").resize((film.width // 2, film.height // 2), Image.Resampling.NEAREST))
        duration = 2 * film.info["duration"]
    data = io.BytesIO()
    frames[0].save(data, "WEBP", save_all=True, append_images=frames[1:], duration=duration, loop=0, quality=75)
    return data.getvalue()


def two_lines(path: Path) -> bytes:
    """A picture of many columns, its right half below its left half: twice as large on the page."""
    picture = np.asarray(Image.open(path).convert("RGB"))
    left, right = picture[:, : picture.shape[1] // 2], picture[:, (picture.shape[1] + 1) // 2 :]
    gap, data = np.full((picture.shape[1] // 100, *left.shape[1:]), 128, np.uint8), io.BytesIO()
    Image.fromarray(np.concatenate([left, gap, right])).save(data, "PNG")
    return data.getvalue()


def html_table(rows: list[list[str]]) -> str:
    header, *rows = [[html.escape(cell) for cell in row] for row in rows]
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def health(folder: Path, results: dict) -> list[list[str]]:
    """The measures that need no labels, of every LAM or IDM of the run."""
    found = {path.stem: json.loads(path.read_text()) for kind in ("lam", "idm") for path in sorted(folder.glob(f"{kind}*.json"))}
    if not found:
        found = {f"{number} labelled": b.get("latent_actions") or b.get("idm") or {} for number, b in results["budgets"].items()}
        found = {"lam": results["latent_actions"]} if "latent_actions" in results else found
    names = [name for measures in found.values() for name in measures if name.partition("/")[0] in HEALTH]
    rows = [["without labels", *found]]
    for name in dict.fromkeys(names):
        kind, _, twin = name.partition("/")
        about = HEALTH[kind] + (f" {'without' if twin == 'no_distractors' else 'under other'} distractors" if twin else "")
        rows.append([about, *(f"{measures[name]:.3g}" if name in measures else "–" for measures in found.values())])
    return rows


def run_card(run: Run) -> str:
    kind, about = kind_of(run), f"{run.task}, {'no ' * (run.difficulty == CLEAN)}distractors, seed {run.seed}"
    numbers = [number for number in run.results["budgets"] if number != "all"]
    films = ["all", *sorted(numbers, key=int)[-1:]] if table.policy_is_trained(run.folder) else []
    pictures = []  # (bytes, kind of file, caption)
    for number in films:
        if (path := run.folder / f"rollout_{number}.gif").exists():
            seen, unseen = (run.results["budgets"][number][videos]["return_mean"] for videos in ("seen_videos", "unseen_videos"))
            caption = f"{number} labelled trajectories: above seen videos (return {seen:.0f}), below unseen ones ({unseen:.0f})"
            pictures.append((small_film(path), "webp", caption))
    for path in reconstructions(run):
        pictures.append(
            (two_lines(path), "png", f"{path.stem}: above true frames of unseen videos, below what its embedding holds")
        )
    for path in run.folder.glob("prediction.png"):
        pictures.append((two_lines(path), "png", "observations, next observations, and the prediction of the LAM"))
    shown = "".join(f"<figure>{inline(data, file, f'{kind}, {caption}')}<figcaption>{html.escape(caption)}</figcaption></figure>"
                    for data, file, caption in pictures)  # fmt: skip
    rows = health(run.folder, run.results)
    measured = html_table(rows) if len(rows) > 1 else ""
    header = (
        f'<header><h3>{html.escape(kind)}</h3><p class="soft">{html.escape(about)}<br>{html.escape(str(run.folder))}</p></header>'
    )
    return f'<article class="run">{header}{shown}{measured}</article>'


def write_page(bench: Benchmark, drawn: dict[str, Path], tables: dict, chosen: tuple[Path, ...], path: Path):
    runs = in_order(bench)
    if chosen:
        known = benchmark.identities(bench.scale)
        cards = [load_run(folder, known) for folder in chosen]
    else:  # the first seed of each kind, with distractors
        cards = list({kind_of(run): run for run in reversed(runs) if run.difficulty == DISTRACTORS}.values())
    cards.sort(key=lambda run: METHODS.index(kind_of(run)) if kind_of(run) in METHODS else len(METHODS))
    pictures = ""
    for name, figure_path in drawn.items():
        alt, width = benchmark.list_figures(bench.scale)[name].about, int(Image.open(figure_path).width / 1.4)
        pictures += f"<figure>{inline(figure_path.read_bytes(), 'png', f'{name}: {alt}', width)}</figure>\n"
    shown = "\n".join(
        f"<h3>Table {name[-1]}: {benchmark.list_figures(bench.scale)[name].about}</h3>{html_table(rows)}<br>"
        for name, rows in tables.items()
    )
    whole = "\n".join(
        f'<h2>{title}</h2><p class="soft">{html.escape(OVERVIEWS[title])}</p>{html_table(rows)}'
        for title, rows in overviews(bench).items()
    )
    clocks = [json.loads(path.read_text()) for run in runs for path in run.folder.glob("wall_clock.json")]
    hours = f", {sum(sum(clock['seconds']) for clock in clocks) / 3600:.1f} hours" if clocks else ""
    machines = "; ".join(sorted({clock["machine"] for clock in clocks}))
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Latent actions, {bench.scale_name} scale</title><style>{STYLE}</style></head><body>
<h1>Latent actions in the presence of distractors: {bench.scale_name} scale</h1>
<p class="soft">{len(runs)} runs{hours}{", " * bool(machines)}{html.escape(machines)}</p>
<p class="soft">Lines and bars: means over tasks, of means over seeds; dots: seeds; vertical lines: 95% bootstrap intervals over
seeds and episodes. Score: return over that of BC on all labels at this scale, on seen videos, or over the paper's (Table 3) where a
kind of data has no such run. Hollow diamonds: the paper's numbers.</p>
<h2>Figures</h2><div class="figures">{pictures or "No figure has its runs yet."}</div>
<h2>Tables</h2>{shown}
<h2>Runs side by side</h2><div class="runs">{"".join(map(run_card, cards))}</div>
{whole}
</body></html>
"""
    path.write_text(page)


def print_table(rows: list[list[str]]):
    for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]]:
        print("| " + " | ".join(cell.replace(" | ", " \\| ") for cell in row) + " |")


# ---- Main --------------------------------------------------------------------------------------------------------------------


def main(args: Args):
    figures = benchmark.choose_figures(SCALES[args.scale], args.what)
    bench = Benchmark(args.scale, args.runs, args.videos)
    output, page_folder = (args.output or ROOT / name for name in ("benchmark/pictures", "runs/benchmark"))
    output.mkdir(parents=True, exist_ok=True)
    drawn, tables = {}, {}
    for name, about in figures.items():
        make = f"python benchmark/run.py {name} --scale {args.scale}"
        if name in TABLES:
            if rows := TABLES[name](bench):
                tables[name] = rows
                print(f"\nTable {name[-1]}: {about.about}, {args.scale} scale")
                print_table(rows)
            else:
                print(f"{name}: nothing to show; {make}")
            continue
        found = bench.found(about)
        with_runs = {run_name for (run_name, _), there in found.items() if there}
        enough = with_runs if args.partial else with_runs == {run_name for run_name, _ in found}
        view = bench.only(name, about)
        figure = DRAW[name](view, name) if enough and view.runs else None
        if figure is None:
            print(f"{name}: not drawn, runs are missing; {make}")
            continue
        drawn[name] = output / f"{args.scale}_{name}.png"
        figure.savefig(drawn[name])
        plt.close(figure)
        print(drawn[name], *[f"(without {bench.missing(about)}; {make})"] * (not all(found.values())))
    if bench.runs and args.what == ("all",):
        for title, rows in overviews(bench).items():
            print(f"\n{title}, {args.scale} scale: {OVERVIEWS[title]}")
            print_table(rows)
    if args.html is not None:
        path = page_folder / f"{args.scale}.html"
        page_folder.mkdir(parents=True, exist_ok=True)
        write_page(bench, drawn, tables, args.html, path)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except (KeyboardInterrupt, OSError) as error:
        raise SystemExit(f"error: {str(error) or 'interrupted'}")

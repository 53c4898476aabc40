"""The paper's figures, each drawn from the runs of a scale beside the numbers that the paper prints.

Lines and bars are means over tasks, of means over seeds; dots are seeds; vertical lines 95% intervals
(stats.py); hollow diamonds the paper's numbers. One figure more asks which measure predicts the return. DRAW
says which function draws which figure. Used by plot.py.
"""

import math
import textwrap
from pathlib import Path

import matplotlib
import numpy as np
import run as benchmark
from run import ALL_TASKS, CLEAN, DISTRACTORS
from stats import (
    MEASURES,
    PAPER_SMALL_Z,
    PAPER_SUPERVISION,
    Benchmark,
    Run,
    Sample,
    bootstrap,
    center,
    correlations,
    measure_and_score,
    sample_of,
    scaled,
    seed_means,
    varies,
)

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
COLORS = {
    "bc": "#888888",
    "idm": "#e69f00",
    "lapo": "#0072b2",
    "laom": "#009e73",
    "laom_supervised": "#cc4411",
}
OTHER_COLORS = ["#aa3377", "#56b4e9", "#8b6914", "#7f3fbf"]  # of variants and quantisers, in turn
SETTINGS = {DISTRACTORS: ("with distractors", "#cc4411"), CLEAN: ("without", "#0072b2")}
STEPS = [
    "LAPO",
    "+ multi-step\nIDM",
    "+ larger\nz",
    "- pixels\n(embeddings)",
    "+ augmen-\ntation",
]  # Figure 6
# Figures 5 and 6: what z tells, the same of z(obs, obs), and the label of an axis
WHAT_Z_TELLS = [
    ("action_probe", "blind_probe", "probe error, MSE / Var(a)"),
    ("perturbation_r2", "blind_perturbation_r2", "R² of the perturbation"),
    ("plan_r2", "blind_plan_r2", "R² of the expert's action"),
]
MARKERS = dict(zip(ALL_TASKS, "os^P"))

# What the paper prints. Probe errors of Figures 5 and 6: its published logs.
PAPER_SCORE = 0.44  # LAOM+supervision, 128 of 5,000 trajectories labelled, mean of four tasks (Figure 1)
PAPER_PROBES = {
    "figure_05": {DISTRACTORS: [None, 29.17, 22.09], CLEAN: [None, 16.41, 2.55]},  # VQ, FSQ, none
    "figure_06": {DISTRACTORS: [22.09, 9.54, 3.89, 5.22, 2.74], CLEAN: [2.55, 1.93]},
}
PAPER_VARIANCE = 27  # of its raw actions, mean over tasks: 35, 45, 28 and a bounded one

PANEL = 3.4  # width, inches
HOLLOW = {
    "marker": "D",
    "markersize": 6,
    "linestyle": "none",
    "markerfacecolor": "white",
    "markeredgecolor": "black",
    "zorder": 6,
}
plt.rcParams.update(
    {
        "font.size": 8.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": "#dddddd",
        "axes.axisbelow": True,
        "legend.frameon": False,
        "figure.dpi": 150,
        "axes.titlesize": 9,
    }
)

# ---- The figures ------------------------------------------------------------------------------------------


def draw_summary(bench: Benchmark, name: str):
    """Figures 1 and 15: each method's score at the largest label budget."""
    about = benchmark.list_figures(bench.scale)[name]
    difficulty = DISTRACTORS if about.distractors else CLEAN
    methods = about.distractors or about.clean
    most_labels = bench.scale.most_labels
    samples = {method: bench.scores(bench.find(method, difficulty), most_labels) for method in methods}
    methods = [method for method in methods if method not in bench.scale.variants or samples[method]]
    figure, (ax,) = begin(bench, name, width=len(methods))
    ticks = []
    for x, method in enumerate(methods):
        if samples[method]:
            bar(ax, x, samples[method], color_of(bench, method))
        score = f"{center(samples[method]):.2f}" if samples[method] else "–"
        ticks.append(score + "\n" + label_of(method).replace("+", "+\n"))
    ax.set_xticks(range(len(methods)), ticks)
    tasks = tasks_of(bench, methods, difficulty)
    name_score(ax, bench, tasks, [difficulty], f"{most_labels} labelled trajectories")
    if name == "figure_01":
        ratio = "–"
        if samples["laom"] and samples["laom_supervised"]:
            ratio = f"{center(samples['laom_supervised']) / max(center(samples['laom']), 1e-9):.1f}"
        label = f"paper: {PAPER_SCORE} of its BC on all labels, {PAPER_SUPERVISION} times by labels\n"
        label += f"here LAOM+supervision / LAOM: {ratio}"
        ax.plot(methods.index("laom_supervised"), PAPER_SCORE, **HOLLOW, label=label)
        unique_legend(figure, ax)
    return figure


def draw_probes(bench: Benchmark, name: str):
    """Figures 5 and 6: probe errors as MSE / Var(a), the paper's in the same unit; below what z tells of the
    perturbation, which is the action alone, and of the expert's action, which follows from the pose.

    The paper averages MSEs of raw actions over tasks: those with large actions decide its mean.
    """
    about = benchmark.list_figures(bench.scale)[name]
    columns = about.distractors
    original = bench.find("lapo_original")
    shown = [measures for measures in WHAT_Z_TELLS if bench.sample(original, measures[0])]
    if not shown:
        return None
    figure, axes = begin(bench, name, rows=len(shown), width=6)
    for ax, (measure, blind, label) in zip(axes, shown):
        numbers = draw_settings(bench, about, ax, measure, blind)
        ax.set_xlim(-0.5, len(columns) - 0.5)
        ax.set_xticks(range(len(columns)), [" | ".join(numbers[column]) for column in columns])
        ax.set_ylabel(label)
    draw_paper_probes(axes[0], name, about)
    from_zero(axes[0])
    axes[0].set_title("below the bars: ours, with | without distractors", loc="left")
    steps = STEPS if name == "figure_06" else [LABELS[column] for column in columns]
    ticks = [tick.get_text() for tick in axes[-1].get_xticklabels()]
    axes[-1].set_xticks(range(len(columns)), [f"{tick}\n{step}" for tick, step in zip(ticks, steps)])
    unique_legend(figure, *axes)
    return figure


def draw_settings(bench: Benchmark, about: benchmark.Figure, ax, measure: str, blind: str) -> dict:
    """Bars with and without distractors, over them what z(obs, obs) reaches; column → their numbers."""
    numbers = {column: [] for column in about.distractors}
    for difficulty, names, shift in ((DISTRACTORS, about.distractors, -0.2), (CLEAN, about.clean, 0.2)):
        label, color = SETTINGS[difficulty]
        for run_name in names:
            x = about.distractors.index(run_name) + shift
            runs = bench.find(run_name, difficulty)
            found, found_blind = bench.sample(runs, measure), bench.sample(runs, blind)
            if found:
                bar(ax, x, found, color, 0.38, label)
            if found_blind:
                height = center(found_blind)
                ax.hlines(height, x - 0.19, x + 0.19, "black", ":", label="from z(obs, obs)", zorder=5)
            numbers[run_name].append(f"{center(found):.2f}" if found else "–")
    return numbers


def draw_paper_probes(ax, name: str, about: benchmark.Figure):
    label = f"paper: MSE of raw actions / {PAPER_VARIANCE}, mostly of its large ones"
    for difficulty, names, shift in ((DISTRACTORS, about.distractors, -0.2), (CLEAN, about.clean, 0.2)):
        for run_name, mse in zip(names, PAPER_PROBES[name][difficulty]):
            x = about.distractors.index(run_name) + shift
            if mse is not None:
                ax.plot(x, mse / PAPER_VARIANCE, **HOLLOW, label=label)


def draw_curves(bench: Benchmark, name: str):
    """Figures 7, 8, 10, 12c, 13 and 14: scores by label budget, on each task or in the mean."""
    about = benchmark.list_figures(bench.scale)[name]
    budgets = bench.scale.budgets
    tasks = []
    for task in ALL_TASKS:
        if any(bench.find(run_name, difficulty, task) for run_name, difficulty in about.runs):
            tasks.append(task)
    panels = [[task] for task in tasks] if about.per_task else [tasks]
    both = bool(about.distractors and about.clean)
    figure, axes = begin(bench, name, len(panels))
    for ax, panel in zip(axes, panels):
        for i, (run_name, difficulty) in enumerate(about.runs):
            label = label_of(run_name)
            style = {}
            if both:
                label += f", {SETTINGS[difficulty][0]}"
            if both and difficulty == CLEAN:
                style = {"linestyle": "--", "markerfacecolor": "white"}
            color = color_of(bench, run_name)
            shift = 0.06 * (i - (len(about.runs) - 1) / 2)
            runs = [run for run in bench.find(run_name, difficulty) if run.task in panel]
            samples = {budget: bench.scores(runs, budget) for budget in budgets}
            curve(ax, samples, color, label, shift, **style)
        powers_of_two(ax, budgets, "labelled trajectories")
        difficulties = []
        for difficulty, names in ((DISTRACTORS, about.distractors), (CLEAN, about.clean)):
            if tasks_of(bench, names, difficulty):
                difficulties.append(difficulty)
        about_panel = panel[0] if len(panel) == 1 else f"mean of {len(panel)} tasks"
        name_score(ax, bench, panel, difficulties, about_panel)
    unique_legend(figure, *axes)
    return figure


def draw_unseen(bench: Benchmark, name: str):
    """Figure 9a: error of what the labels have taught, on unseen videos."""
    figure, (ax,) = begin(bench, name)
    names = benchmark.list_figures(bench.scale)[name].distractors
    for i, run_name in enumerate(names):
        samples = {}
        for budget in bench.scale.budgets:
            runs = [run for run in bench.find(run_name) if budget in run.budgets]
            samples[budget] = bench.sample(runs, "labelled_error", budget, "unseen_videos")
        shift = 0.08 * (i - (len(names) - 1) / 2)
        curve(ax, samples, color_of(bench, run_name), label_of(run_name), shift)
    powers_of_two(ax, bench.scale.budgets, "labelled trajectories")
    ax.set_ylabel("error of the action, MSE / Var(a)")
    from_zero(ax)
    unique_legend(figure, ax)
    return figure


def draw_small_z(bench: Benchmark, name: str):
    """Figures 9b and 9c: probe error and score by the size of z."""
    figure, (probe_ax, return_ax) = begin(bench, name, 2)
    most_labels = bench.scale.most_labels
    sizes = set()
    for shift, run_name in ((-0.08, "laom"), (0.08, "laom_supervised")):
        color, label = COLORS[run_name], LABELS[run_name]
        runs = by_size(bench, run_name)
        sizes |= set(runs)
        probes = {size: bench.sample(found, "action_probe") for size, found in runs.items()}
        curve(probe_ax, probes, color, label, shift)

        scores = {size: bench.scores(found, most_labels) for size, found in runs.items()}
        scores = {size: found for size, found in scores.items() if found}
        if not scores:
            continue
        largest = max(center(scores[max(scores)]), 1e-9)
        curve(
            return_ax,
            {size: scaled(found, 1 / largest) for size, found in scores.items()},
            color,
            label,
            shift,
        )
        paper = PAPER_SMALL_Z[run_name]
        hollow = HOLLOW | {"markeredgecolor": color}
        return_ax.plot(min(scores), paper, **hollow, label=f"paper, 64 of 8,192: {paper}")
    for ax in (probe_ax, return_ax):
        powers_of_two(ax, sorted(sizes), "size of z")
        from_zero(ax)
    probe_ax.set_ylabel("probe error, MSE / Var(a)")
    return_ax.set_ylabel("return relative to the largest z")
    return_ax.set_title(f"{most_labels} labelled trajectories", loc="left")
    unique_legend(figure, probe_ax, return_ax)
    return figure


def draw_embedding_probes(bench: Benchmark, name: str):
    """Figures 12a and 12b: online probes of the action from z and from the embedding, by the size of z."""
    figure, axes = begin(bench, name, 2)
    for ax, run_name in zip(axes, ("laom", "laom_supervised")):
        runs = by_size(bench, run_name)
        if not runs:
            ax.remove()
            continue
        of_z, of_embedding = {}, {}
        for size, found in runs.items():
            of_z[size] = sample_of(found, lambda run: run.online("lam/action_probe_mse"))
            of_embedding[size] = sample_of(found, lambda run: run.online("lam/obs_action_probe_mse"))
        curve(ax, of_z, COLORS[run_name], f"{LABELS[run_name]}, from z", -0.05)
        curve(ax, of_embedding, "#555555", f"{LABELS[run_name]}, from the embedding", 0.05)
        powers_of_two(ax, list(runs), "size of z")
        ax.set_ylabel("online probe error, MSE")
        from_zero(ax)
    unique_legend(figure, *axes)
    return figure


def draw_reconstructions(bench: Benchmark, name: str):
    """Figure 11: above what the network saw, below what a decoder sees in its embedding."""
    names = benchmark.list_figures(bench.scale)[name].distractors
    found = {}
    for run_name in names:
        pictures = [path for run in bench.find(run_name) for path in reconstructions(run)[-1:]]
        found[run_name] = pictures[0] if pictures else None
    if not any(found.values()):
        return None
    figure, axes = begin(bench, name, rows=len(names), width=8, height=0.6 + 1.65 * len(names))
    for ax, (run_name, path) in zip(axes, found.items()):
        about = "none here, benchmark/run.py makes it"
        if path:
            about = "true frames of unseen videos above, decoded below"
        ax.set_title(f"{LABELS[run_name]}: {about}", loc="left")
        ax.axis("off")
        if path:
            ax.imshow(plt.imread(path))
    return figure


def draw_measures(bench: Benchmark, name: str):
    """Each measure of a run against its score, what should be better to the right."""
    found = {}
    for measure in MEASURES:
        points = measure_and_score(bench, measure, bench.videos)
        if points and measure != "return_mean":
            found[measure] = points
    if not found:
        return None
    panels = min(3, len(found))
    figure, axes = begin(bench, name, panels, rows=math.ceil(len(found) / panels))
    for ax, (measure, points) in zip(axes, found.items()):
        for (run_name, task, _), (number, score) in points.items():
            color, label = color_of(bench, run_name), f"{label_of(run_name)}, {task}"
            ax.plot(number, score, MARKERS[task], color=color, label=label, alpha=0.8)
        if MEASURES[measure].better == "low":
            ax.invert_xaxis()
        lines = []
        for task, (correlation, n) in correlations(bench, measure, bench.videos).items():
            known = "" if np.isnan(correlation) else f"ρ = {correlation:+.2f}, "
            lines.append(f"{task}: {known}n = {n}")
        ax.set_title("\n".join(lines), loc="left")
        ax.set_xlabel(f"{MEASURES[measure].about} →")
        ax.set_ylabel("score")
        from_zero(ax)
    for ax in axes[len(found) :]:
        ax.remove()
    unique_legend(figure, *axes[: len(found)])
    return figure


DRAW = {
    "figure_01": draw_summary,
    "figure_05": draw_probes,
    "figure_06": draw_probes,
    "figure_07": draw_curves,
    "figure_08": draw_curves,
    "figure_09a": draw_unseen,
    "figure_09bc": draw_small_z,
    "figure_10": draw_curves,
    "figure_11": draw_reconstructions,
    "figure_12ab": draw_embedding_probes,
    "figure_12c": draw_curves,
    "figure_13": draw_curves,
    "figure_14": draw_curves,
    "figure_15": draw_summary,
    "measures_and_returns": draw_measures,
}

# ---- Which runs -------------------------------------------------------------------------------------------


def tasks_of(bench: Benchmark, names: list[str], difficulty: str) -> list[str]:
    """The tasks on which one of the names has run."""
    return [task for task in ALL_TASKS if any(bench.find(name, difficulty, task) for name in names)]


def by_size(bench: Benchmark, run_name: str) -> dict[int, list[Run]]:
    """Runs of a method by the size of z."""
    result = {}
    for name in (run_name, *(f"{run_name}_{dim}" for dim in bench.scale.smaller_dims)):
        for run in bench.find(name):
            result.setdefault(run.args["lam"]["latent_action_dim"], []).append(run)
    return dict(sorted(result.items()))


def reconstructions(run: Run) -> list[Path]:
    """What benchmark/measure.py --reconstruct has drawn, by label budget."""
    pictures = [*run.folder.glob("lam*.png"), *run.folder.glob("idm*.png")]
    return sorted(pictures, key=lambda path: int(path.stem.partition("_")[2] or 0))


# ---- How they are drawn -----------------------------------------------------------------------------------


def begin(
    bench: Benchmark, name: str, panels: int = 1, rows: int = 1, width: float = PANEL, height: float = 0
):
    """A figure with a title that says what, at which scale, from which runs; and its axes, row by row.

    width: inches, of a panel; height: of all rows.
    """
    height = height or 1 + 2.3 * rows
    figure = plt.figure(figsize=(max(width * panels, 5), height), layout="constrained")
    about = benchmark.list_figures(bench.scale)[name]
    subtitle = textwrap.fill(describe(bench, name, about), int(figure.get_figwidth() * 15))
    title = about.about.capitalize()
    if name.startswith("figure_"):
        title = f"Figure {name.removeprefix('figure_').lstrip('0')}: {about.about}"
    room = "\n" * (1 + subtitle.count("\n"))
    figure.suptitle(title + room, x=0.01, ha="left", fontsize=9.5, weight="bold")
    figure.text(
        0.01, 1 - 0.06 / height, f"\n{subtitle}", va="top", fontsize=8.5, color="#555555", linespacing=1.3
    )
    return figure, figure.subplots(rows, panels, squeeze=False).ravel()


def describe(bench: Benchmark, name: str, about: benchmark.Figure) -> str:
    """Which runs the figure is drawn from."""
    runs = [run for key in about.runs for run in bench.find(*key)]
    seeds_of_tasks = {}
    for task in ALL_TASKS:
        seeds = sorted({run.seed for run in runs if run.task == task})
        if seeds:
            seeds_of_tasks[task] = in_words(seeds)
    if len(set(seeds_of_tasks.values())) == 1:
        tasks_and_seeds = [", ".join(seeds_of_tasks), *set(seeds_of_tasks.values())]
    else:
        tasks_and_seeds = [f"{task}: {seeds}" for task, seeds in seeds_of_tasks.items()]
    videos = bench.videos.replace("_", " ")
    if name in ("figure_09a", "figure_11"):
        videos = "unseen videos"
    if name == "figure_12ab":
        videos = "training batches"
    words = [
        f"{bench.scale_name} scale, {bench.scale.num_trajectories:,} trajectories",
        *tasks_and_seeds,
        videos,
    ]
    for run_name in about.once:
        own_seeds = sorted({run.seed for run in runs if run_name in run.names})
        if own_seeds and own_seeds != sorted({run.seed for run in runs}):
            words.append(f"{label_of(run_name)}: {in_words(own_seeds)}")
    has_laom = any({"laom", "laom_cross"} & run.names for run in runs)
    if has_laom and not bench.scale.laom_augments and name != "figure_06":
        words.append("LAOM without augmentation")
    if name == "measures_and_returns":
        words += [f"{bench.scale.most_labels} labelled", "right is better", "ρ is the rank correlation"]
    missing = bench.missing(about)
    if missing:
        words.append(f"not run: {missing}")
    return " · ".join(words)


def in_words(seeds: list[int]) -> str:
    return f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}"


def label_of(run_name: str) -> str:
    """What a figure calls a run: a variant by its own name."""
    return LABELS.get(run_name, run_name)


def color_of(bench: Benchmark, run_name: str) -> str:
    if run_name.removesuffix("_cross") in COLORS:
        return COLORS[run_name.removesuffix("_cross")]
    variants = list(bench.scale.variants)
    number = variants.index(run_name) if run_name in variants else 0
    return OTHER_COLORS[number % len(OTHER_COLORS)]


def bar(ax, x: float, sample: Sample, color: str, width: float = 0.7, label: str | None = None):
    """A bar with its interval, seeds as dots."""
    ax.bar(x, center(sample), width, color=color, alpha=0.7, label=label)
    draw_interval(ax, x, sample, "black")
    dots = seed_means(sample)
    places = x + width * np.linspace(-0.2, 0.2, len(dots)) if len(dots) != 1 else [x]
    ax.plot(places, dots, ".", color="black", markersize=4, zorder=5)


def curve(ax, samples: dict[int, Sample], color: str, label: str, shift: float = 0, **style):
    """A line over label budgets or sizes, shifted (in powers of two), with intervals, seeds as dots."""
    samples = {x * 2**shift: sample for x, sample in sorted(samples.items()) if sample}
    if samples:
        means = [center(sample) for sample in samples.values()]
        style = {"linestyle": "-"} | style
        ax.plot(list(samples), means, "o", markersize=4.5, color=color, label=label, **style)
    for x, sample in samples.items():
        draw_interval(ax, x, sample, color)
        dots = seed_means(sample)
        ax.plot([x] * len(dots), dots, ".", color=color, markersize=3, alpha=0.6)


def draw_interval(ax, x: float, sample: Sample, color: str):
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
    """Title and label of an axis of scores; for a single task it says what score 1 is."""
    ax.set_ylabel("normalised score")
    from_zero(ax)
    ax.set_title(about, loc="left")
    if len(tasks) != 1:
        return
    (task,) = tasks
    ones = []
    for difficulty in difficulties:
        value, is_own = bench.reference(task, difficulty)
        ones.append(f"{value:.0f}" if is_own else f"{value:.0f} (Table 3)")
    data_returns = sorted(
        {round(run.results["dataset_return"]) for run in bench.runs.values() if run.task == task}
    )
    title = f"{about} · score 1 = return {' and '.join(ones)}, data {' and '.join(map(str, data_returns))}"
    ax.set_title(title, loc="left")


def unique_legend(figure, *axes):
    """One legend below all panels, the paper's markers last, in as many columns as fit."""
    entries = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels()):
            entries[label] = handle
    if not entries:
        return
    labels = sorted(entries, key=lambda label: label.startswith("paper"))
    widths = [0.55 + 0.063 * len(label) for label in labels]  # inches
    room = figure.get_figwidth()
    columns = len(labels) if sum(widths) < room else max(1, int(room / max(widths)))
    handles = [entries[label] for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)

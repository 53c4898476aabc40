"""The paper's figures, each drawn from the runs of a scale beside the numbers that the paper prints.

DRAW says which function draws which figure. Used by plot.py; benchmark/README.md says what is drawn.
"""

import textwrap
from pathlib import Path

import matplotlib
import numpy as np
from commands import ALL_TASKS, CLEAN, DISTRACTORS, Figure
from stats import PAPER_SMALL_Z, PAPER_SUPERVISION, Table, Values, center, seed_means, shared, t_interval

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LABELS = {"bc": "BC", "idm": "IDM", "lapo": "LAPO", "laom": "LAOM", "laom_supervised": "LAOM+supervision"}
LABELS |= {f"{method}_cross": label for method, label in LABELS.items()}
LABELS |= {"lapo_original": "no quantiser", "lapo_original_vq": "VQ", "lapo_original_fsq": "FSQ"}
LABELS |= {"laom_fsq": "LAOM with FSQ", "idm_multi_step": "multi-step IDM"}
COLORS = {"bc": "#888888", "idm": "#e69f00", "lapo": "#0072b2", "laom": "#009e73"}
COLORS |= {"laom_supervised": "#cc4411"}
OTHER_COLORS = ["#aa3377", "#56b4e9", "#8b6914", "#7f3fbf"]  # of variants and quantisers, in turn
SETTINGS = {DISTRACTORS: ("with distractors", "#cc4411"), CLEAN: ("without", "#0072b2")}
STEPS = ["LAPO", "+ multi-step\nIDM", "+ larger\nz", "- pixels\n(embeddings)", "+ augmen-\ntation"]
# Figures 5 and 6: what z tells, the same of z(obs, obs), and the label of an axis
WHAT_Z_TELLS = [
    ("action_probe", "blind_probe", "probe error, MSE / Var(a)"),
    ("perturbation_r2", "blind_perturbation_r2", "R² of the perturbation"),
    ("plan_r2", "blind_plan_r2", "R² of the expert's action"),
]

# What the paper prints. Probe errors of Figures 5 and 6: its published logs.
PAPER_SCORE = 0.44  # LAOM+supervision, 128 of 5,000 trajectories labelled, mean of four tasks (Figure 1)
PAPER_PROBES = {
    "figure_05": {DISTRACTORS: [None, 29.17, 22.09], CLEAN: [None, 16.41, 2.55]},  # VQ, FSQ, none
    "figure_06": {DISTRACTORS: [22.09, 9.54, 3.89, 5.22, 2.74], CLEAN: [2.55, 1.93]},
}
PAPER_VARIANCE = 27  # of its raw actions, mean over tasks: 35, 45, 28 and a bounded one

PANEL = 3.4  # width, inches
HOLLOW = {"marker": "D", "markersize": 6, "linestyle": "none", "zorder": 6}
HOLLOW |= {"markerfacecolor": "white", "markeredgecolor": "black"}
plt.rc("font", size=8.5)
plt.rc("axes", grid=True, axisbelow=True, titlesize=9)
plt.rc("axes.grid", axis="y")
plt.rc("axes.spines", top=False, right=False)
plt.rc("grid", color="#dddddd")
plt.rc("legend", frameon=False)
plt.rc("figure", dpi=150)

# ---- The figures ------------------------------------------------------------------------------------------


def draw_summary(table: Table, name: str, about: Figure):
    """Figures 1 and 15: each method's score at the largest label budget."""
    difficulty = DISTRACTORS if about.distractors else CLEAN
    methods = about.distractors or about.clean
    most_labels = table.most_labels
    samples = shared({method: table.scores(method, difficulty, most_labels) for method in methods})
    methods = [method for method in methods if method not in table.scale.variants or samples[method]]
    figure, (ax,) = begin(table, name, about, width=len(methods))
    ticks = []
    for x, method in enumerate(methods):
        if samples[method]:
            bar(ax, x, samples[method], color_of(table, method))
        score = f"{center(samples[method]):.2f}" if samples[method] else "–"
        ticks.append(score + "\n" + label_of(method).replace("+", "+\n"))
    ax.set_xticks(range(len(methods)), ticks)
    tasks = tasks_of(table, about.runs)
    name_score(ax, table, tasks, [difficulty], f"{most_labels} labelled trajectories")
    if name == "figure_01":
        ratio = "–"
        if samples["laom"] and samples["laom_supervised"]:
            ratio = f"{center(samples['laom_supervised']) / max(center(samples['laom']), 1e-9):.1f}"
        label = f"paper: {PAPER_SCORE} of its BC on all labels; labels multiply by {PAPER_SUPERVISION}\n"
        label += f"here LAOM+supervision / LAOM: {ratio}"
        ax.plot(methods.index("laom_supervised"), PAPER_SCORE, **HOLLOW, label=label)
        unique_legend(figure, ax)
    return figure


def draw_probes(table: Table, name: str, about: Figure):
    """Figures 5 and 6: probe errors as MSE / Var(a), the paper's in the same unit; below what z tells of the
    perturbation, which is the action alone, and of the expert's action, which follows from the pose.

    The paper averages MSEs of raw actions over tasks: those with large actions decide its mean.
    """
    columns = about.distractors
    shown = [row for row in WHAT_Z_TELLS if table.get("lapo_original", DISTRACTORS, row[0])]
    if not shown:
        return None
    figure, axes = begin(table, name, about, rows=len(shown), width=6)
    for ax, (measure, blind, label) in zip(axes, shown):
        paper = PAPER_PROBES[name] if measure == "action_probe" else None
        numbers = draw_settings(table, about, ax, measure, blind, paper)
        ax.set_xlim(-0.5, len(columns) - 0.5)
        ax.set_xticks(range(len(columns)), [" | ".join(numbers[column]) for column in columns])
        ax.set_ylabel(label)
    from_zero(axes[0])
    axes[0].set_title("below the bars: ours, with | without distractors", loc="left")
    steps = STEPS if name == "figure_06" else [LABELS[column] for column in columns]
    ticks = [tick.get_text() for tick in axes[-1].get_xticklabels()]
    axes[-1].set_xticks(range(len(columns)), [f"{tick}\n{step}" for tick, step in zip(ticks, steps)])
    unique_legend(figure, *axes)
    return figure


def draw_settings(table: Table, about: Figure, ax, measure: str, blind: str, paper: dict | None) -> dict:
    """Bars with and without distractors, over them what z(obs, obs) reaches; column → their numbers.

    paper: its numbers, which are MSEs of raw actions.
    """
    paper_label = f"paper: MSE of raw actions / {PAPER_VARIANCE} (tasks with large actions dominate)"
    numbers = {column: [] for column in about.distractors}
    for difficulty, names, shift in ((DISTRACTORS, about.distractors, -0.2), (CLEAN, about.clean, 0.2)):
        label, color = SETTINGS[difficulty]
        for run_name in names:
            x = about.distractors.index(run_name) + shift
            found = table.get(run_name, difficulty, measure)
            found_blind = table.get(run_name, difficulty, blind)
            if found:
                bar(ax, x, found, color, 0.38, label)
            if found_blind:
                height = center(found_blind)
                ax.hlines(height, x - 0.19, x + 0.19, "black", ":", label="from z(obs, obs)", zorder=5)
            numbers[run_name].append(f"{center(found):.2f}" if found else "–")
            mse = paper and paper[difficulty][names.index(run_name)]
            if mse:
                ax.plot(x, mse / PAPER_VARIANCE, **HOLLOW, label=paper_label)
    return numbers


def draw_curves(table: Table, name: str, about: Figure):
    """Figures 7, 8, 10, 12c, 13 and 14: scores by label budget, on each task or in the mean."""
    if not table.budgets:  # stage 1 alone
        return None
    tasks = tasks_of(table, about.runs)
    panels = [[task] for task in tasks] if about.per_task else [tasks]
    both = bool(about.distractors and about.clean)
    figure, axes = begin(table, name, about, len(panels))
    for ax, panel in zip(axes, panels):
        samples_of_budgets = {}
        for budget in table.budgets:
            samples = {}
            for key in about.runs:
                scores = table.scores(*key, budget)
                samples[key] = {pair: score for pair, score in scores.items() if pair[0] in panel}
            samples_of_budgets[budget] = shared(samples)
        for i, (run_name, difficulty) in enumerate(about.runs):
            label = label_of(run_name)
            style = {}
            if both:
                label += f", {SETTINGS[difficulty][0]}"
            if both and difficulty == CLEAN:
                style = {"linestyle": "--", "markerfacecolor": "white"}
            color = color_of(table, run_name)
            shift = 0.06 * (i - (len(about.runs) - 1) / 2)
            points = {budget: found[run_name, difficulty] for budget, found in samples_of_budgets.items()}
            curve(ax, points, color, label, shift, **style)
        powers_of_two(ax, table.budgets, "labelled trajectories")
        difficulties = [kind for kind in (DISTRACTORS, CLEAN) if tasks_of(table, about.runs, kind)]
        about_panel = panel[0] if len(panel) == 1 else f"mean of {len(panel)} tasks"
        name_score(ax, table, panel, difficulties, about_panel)
    unique_legend(figure, *axes)
    return figure


def draw_unseen(table: Table, name: str, about: Figure):
    """Figure 9a: error of what the labels have taught, on unseen videos."""
    figure, (ax,) = begin(table, name, about)
    names = about.distractors
    samples_of_budgets = {}
    for budget in table.budgets:
        samples = {}
        for run_name in names:
            measure = "labelled_error/unseen_videos"
            samples[run_name] = table.get(run_name, DISTRACTORS, measure, budget=budget)
        samples_of_budgets[budget] = shared(samples)
    for i, run_name in enumerate(names):
        points = {budget: found[run_name] for budget, found in samples_of_budgets.items()}
        shift = 0.08 * (i - (len(names) - 1) / 2)
        curve(ax, points, color_of(table, run_name), label_of(run_name), shift)
    powers_of_two(ax, table.budgets, "labelled trajectories")
    ax.set_ylabel("error of the action, MSE / Var(a)")
    from_zero(ax)
    unique_legend(figure, ax)
    return figure


def draw_small_z(table: Table, name: str, about: Figure):
    """Figures 9b and 9c: probe error and score by the size of z."""
    figure, (probe_ax, return_ax) = begin(table, name, about, 2)
    most_labels = table.most_labels
    sizes = set()
    for shift, run_name in ((-0.08, "laom"), (0.08, "laom_supervised")):
        color, label = COLORS[run_name], LABELS[run_name]
        names = by_size(table, run_name)
        sizes |= set(names)
        probes = {size: table.get(name, DISTRACTORS, "action_probe") for size, name in names.items()}
        curve(probe_ax, probes, color, label, shift)

        scores = {size: table.scores(name, DISTRACTORS, most_labels) for size, name in names.items()}
        scores = {size: found for size, found in scores.items() if found}
        if not scores:
            continue
        largest = max(center(scores[max(scores)]), 1e-9)
        relative = {}
        for size, found in scores.items():
            relative[size] = {key: score / largest for key, score in found.items()}
        curve(return_ax, relative, color, label, shift)
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


def draw_embedding_probes(table: Table, name: str, about: Figure):
    """Figures 12a and 12b: online probes of the action from z and from the embedding, by the size of z."""
    figure, axes = begin(table, name, about, 2)
    for ax, run_name in zip(axes, ("laom", "laom_supervised")):
        names = by_size(table, run_name)
        if not names:
            ax.remove()
            continue
        of_z, of_embedding = {}, {}
        for size, name in names.items():
            of_z[size] = table.get(name, DISTRACTORS, "online_action_probe_mse")
            of_embedding[size] = table.get(name, DISTRACTORS, "online_obs_action_probe_mse")
        curve(ax, of_z, COLORS[run_name], f"{LABELS[run_name]}, from z", -0.05)
        curve(ax, of_embedding, "#555555", f"{LABELS[run_name]}, from the embedding", 0.05)
        powers_of_two(ax, list(names), "size of z")
        ax.set_ylabel("online probe error, MSE")
        from_zero(ax)
    unique_legend(figure, *axes)
    return figure


def draw_reconstructions(table: Table, name: str, about: Figure):
    """Figure 11: above what the network saw, below what a decoder sees in its embedding."""
    names = about.distractors
    found = {}
    for run_name in names:
        folders = table.find(run_name).values()
        pictures = [path for folder in folders for path in reconstructions(folder)[-1:]]
        found[run_name] = pictures[0] if pictures else None
    if not any(found.values()):
        return None
    figure, axes = begin(table, name, about, rows=len(names), width=8, height=0.6 + 1.65 * len(names))
    for ax, (run_name, path) in zip(axes, found.items()):
        about = "none here, benchmark/measure.py makes it"
        if path:
            about = "true frames of unseen videos above, decoded below"
        ax.set_title(f"{LABELS[run_name]}: {about}", loc="left")
        ax.axis("off")
        if path:
            ax.imshow(plt.imread(path))
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
}

# ---- Which runs -------------------------------------------------------------------------------------------


def tasks_of(table: Table, runs: list[tuple[str, str]], difficulty: str | None = None) -> list[str]:
    """The tasks on which one of the runs is there, with and without distractors or with this difficulty."""
    found = set()
    for name, kind in runs:
        if difficulty in (kind, None):
            found |= {task for task, _ in table.find(name, kind)}
    return [task for task in ALL_TASKS if task in found]


def by_size(table: Table, run_name: str) -> dict[int, str]:
    """Size of z → name of a method's run."""
    result = {}
    for name in (run_name, *(f"{run_name}_{dim}" for dim in table.scale.smaller_dims)):
        for size in table.get(name, DISTRACTORS, "latent_action_dim").values():
            result[size] = name
    return dict(sorted(result.items()))


def reconstructions(folder: Path) -> list[Path]:
    """What benchmark/measure.py --reconstruct has drawn, by label budget."""
    pictures = [*folder.glob("lam*.png"), *folder.glob("idm*.png")]
    return sorted(pictures, key=lambda path: int(path.stem.partition("_")[2] or 0))


# ---- How they are drawn -----------------------------------------------------------------------------------


def begin(table: Table, name: str, about: Figure, panels=1, rows=1, width=PANEL, height=0.0):
    """A figure with a title that says what, at which scale, from which runs; and its axes, row by row.

    width: inches, of a panel; height: of all rows.
    """
    height = height or 1 + 2.3 * rows
    figure = plt.figure(figsize=(max(width * panels, 5), height), layout="constrained")
    subtitle = textwrap.fill(describe(table, name, about), int(figure.get_figwidth() * 15))
    title = f"Figure {name.removeprefix('figure_').lstrip('0')}: {about.about}"
    room = "\n" * (1 + subtitle.count("\n"))
    figure.suptitle(title + room, x=0.01, ha="left", fontsize=9.5, weight="bold")
    figure.text(0.01, 1 - 0.06 / height, f"\n{subtitle}", va="top", color="#555555", linespacing=1.3)
    return figure, figure.subplots(rows, panels, squeeze=False).ravel()


def describe(table: Table, name: str, about: Figure) -> str:
    """Which runs the figure is drawn from."""
    pairs = {pair for key in about.runs for pair in table.find(*key)}
    seeds_of_tasks = {}
    for task in tasks_of(table, about.runs):
        seeds_of_tasks[task] = in_words(sorted(seed for other, seed in pairs if other == task))
    if len(set(seeds_of_tasks.values())) == 1:
        tasks_and_seeds = [", ".join(seeds_of_tasks), *set(seeds_of_tasks.values())]
    else:
        tasks_and_seeds = [f"{task}: {seeds}" for task, seeds in seeds_of_tasks.items()]
    videos = table.videos.replace("_", " ") if about.distractors else "no videos"
    if name in ("figure_09a", "figure_11"):
        videos = "unseen videos"
    if name == "figure_12ab":
        videos = "training batches"
    words = [
        f"{table.scale_name} scale, {table.scale.num_trajectories:,} trajectories",
        *tasks_and_seeds,
        videos,
    ]
    for run_name in about.once:
        own_seeds = sorted({seed for key in about.runs if key[0] == run_name for _, seed in table.find(*key)})
        if own_seeds and own_seeds != sorted({seed for _, seed in pairs}):
            words.append(f"{label_of(run_name)}: {in_words(own_seeds)}")
    has_laom = any(key[0] in ("laom", "laom_cross") and table.find(*key) for key in about.runs)
    if has_laom and not table.scale.laom_augments and name != "figure_06":
        words.append("LAOM without augmentation")
    missing = table.missing(about)
    if missing:
        words.append(f"not run: {missing}")
    return " · ".join(words)


def in_words(seeds: list[int]) -> str:
    return f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}"


def label_of(run_name: str) -> str:
    """What a figure calls a run: a variant by its own name."""
    return LABELS.get(run_name, run_name)


def color_of(table: Table, run_name: str) -> str:
    if run_name.removesuffix("_cross") in COLORS:
        return COLORS[run_name.removesuffix("_cross")]
    variants = list(table.scale.variants)
    number = variants.index(run_name) if run_name in variants else 0
    return OTHER_COLORS[number % len(OTHER_COLORS)]


def bar(ax, x: float, values: Values, color: str, width: float = 0.7, label: str | None = None):
    ax.bar(x, center(values), width, color=color, alpha=0.7, label=label)
    draw_seeds(ax, x, values, "black", width, markersize=4, zorder=5)


def curve(ax, points: dict[int, Values], color: str, label: str, shift: float = 0, **style):
    """A line over label budgets or sizes, shifted (in powers of two)."""
    points = {x * 2**shift: values for x, values in sorted(points.items()) if values}
    if points:
        means = [center(values) for values in points.values()]
        style = {"linestyle": "-"} | style
        ax.plot(list(points), means, "o", markersize=4.5, color=color, label=label, **style)
    for x, values in points.items():
        draw_seeds(ax, x, values, color, markersize=3, alpha=0.6)


def draw_seeds(ax, x: float, values: Values, color: str, width: float = 0, **style):
    """A dot for each seed, spread over the width, and their interval."""
    means = seed_means(values)
    if len(means) > 1:
        ax.vlines(x, *t_interval(means), color=color, linewidth=1.2, alpha=0.9, zorder=4)
    places = x + width * np.linspace(-0.2, 0.2, len(means)) if len(means) > 1 else [x] * len(means)
    ax.plot(places, means, ".", color=color, **style)


def powers_of_two(ax, ticks, label: str):
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(ticks), [f"{tick:,}" for tick in ticks])
    ax.set_xlim(min(ticks) / 1.4, max(ticks) * 1.4)
    ax.minorticks_off()
    ax.set_xlabel(label)


def from_zero(ax):
    ax.set_ylim(0, 1.08 * ax.get_ylim()[1])


def name_score(ax, table: Table, tasks: list[str], difficulties: list[str], about: str):
    """Title and label of an axis of scores; for a single task, or if not our own, it says what score 1 is."""
    ax.set_ylabel("normalised score")
    from_zero(ax)
    if len(tasks) != 1:
        is_own = all(table.reference(task, kind)[1] for task in tasks for kind in difficulties)
        ax.set_title(about if is_own else f"{about}\nscore 1 = the paper's BC (Table 3)", loc="left")
        return
    (task,) = tasks
    ones = []
    for difficulty in difficulties:
        value, is_own = table.reference(task, difficulty)
        ones.append(f"{value:.0f}" if is_own else f"{value:.0f} (Table 3)")
    rows = [row for row in table.rows if row.task == task and row.measure == "dataset_return"]
    data_returns = sorted({round(row.value) for row in rows})
    title = f"{about}\nscore 1 = return {' and '.join(ones)}, data {' and '.join(map(str, data_returns))}"
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

"""What is computed from a table of runs: scores, means, intervals, verdicts on the paper.

For figures: means are over tasks, of means over seeds. 95% t intervals are over seeds, each with its mean
over tasks. The error of the normaliser is not in them. For comparisons and claims: benchmark/README.md,
Verdicts. Used by table.py, figures.py and plot.py.
"""

import copy
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import scipy.stats
from commands import ALL_TASKS, CLEAN, DISTRACTORS, METHODS, Figure, Scale
from results import Row, age_of, read_rows

Values = dict[tuple[str, int], float]  # (task, seed) → a number
Direction = Literal["below 1", "above 1"]  # where a ratio lies if a claim holds
Verdict = Literal["holds", "fails", "undecided"]

PAPER_BC = {  # return of the paper's BC on all labels, with and without distractors (Table 3)
    "cheetah-run": {DISTRACTORS: 823, CLEAN: 840},
    "walker-run": {DISTRACTORS: 749, CLEAN: 735},
    "hopper-hop": {DISTRACTORS: 253, CLEAN: 300},
    "humanoid-walk": {DISTRACTORS: 428, CLEAN: 601},
}
PAPER_SUPERVISION = 4.2  # what labels multiply the return by (abstract, which does not say over which method)
# Return at 64 dimensions of z over that at 8,192, with 128 labelled trajectories (Section 5)
PAPER_SMALL_Z = {"laom": 0.37, "laom_supervised": 0.84}

# ---- Measures ----------------------------------------------------------------------------------------------


@dataclass
class Measure:
    """What a run is judged by."""

    about: str
    better: Literal["low", "high"]


MEASURES = {  # of the table; an R² (UNEXPLAINED) counts as 1 - R²
    "action_probe": Measure("probe error", "low"),
    "perturbation_r2": Measure("unexplained share of the perturbation", "low"),
    "plan_r2": Measure("unexplained share of the expert's action", "low"),
    "labelled_error": Measure("error of what labels taught", "low"),
    "policy_error/unseen_videos": Measure("error of the policy's action", "low"),
    "distractor_share/no_distractors": Measure("share of Var(z) that the distractors change", "low"),
    "copy_loss_ratio": Measure("FDM's error / predicting no change", "low"),
    "blind_loss_ratio": Measure("FDM's error with z(obs, obs) / own z", "high"),
    "shuffled_loss_ratio": Measure("FDM's error with other z / own z", "high"),
    "effective_rank": Measure("effective rank of z", "high"),
    "return_mean": Measure("score", "high"),
}
UNEXPLAINED = ("perturbation_r2", "plan_r2")
DEAD = 0.95  # of the variance of z: an actor with this loss has cloned nothing but the mean

# ---- Runs --------------------------------------------------------------------------------------------------


class Table:
    """The rows of finished runs, one run for each name, task, difficulty and seed; what figures ask of them.

    Of several runs it is the one with the most label budgets, of these the newest. known: what folders above
    runs are called that give them their names.
    """

    def __init__(self, folders: list[Path], scale_name: str, scale: Scale, known: Iterable[str], videos: str):
        self.scale_name = scale_name
        self.scale = scale
        self.videos = videos  # of which kind measures are where nothing else is said
        self.aliases = dict(zip(("laom_no_aug", "laom_aug"), scale.laom_steps))
        runs = {}
        for folder in sorted(folders, key=age_of, reverse=True):
            rows = list(read_rows(folder, known))
            if rows and runs.setdefault(rows[0][:4], rows) is not rows:
                print(f"{folder} does not count, but {runs[rows[0][:4]][0].folder}")
        rows = [row for rows in runs.values() for row in rows]
        self.rows = sorted(rows, key=lambda row: (place_of(row.task), row.task, row.seed))
        self.index = index_rows(self.rows)
        with_labels = [row for row in self.rows if row.budget.isdecimal()]
        self.budgets = sorted({labels_of(row) for row in with_labels})
        shared = set(self.budgets or scale.budgets)  # by all methods that have run
        for name in METHODS:
            shared &= {labels_of(row) for row in with_labels if row.run == name} or shared
        self.most_labels = max(shared or self.budgets)

    def narrowed(self, condition: Callable[[Row], bool]) -> "Table":
        """The same with the rows that fulfil a condition."""
        result = copy.copy(self)
        result.rows = [row for row in self.rows if condition(row)]
        result.index = index_rows(result.rows)
        return result

    def only(self, figure: Figure) -> "Table":
        """The runs that the figure compares, on its tasks, or on those on which every method has run.

        With a panel for each task, on all of them. Of a task, only the seeds with which all methods have run,
        except those of which one seed will do.
        """
        keys = [key for key in figure.runs if self.find(*key)]
        tasks_of_keys = [{task for task, _ in self.find(*key)} for key in keys]
        tasks = set()
        if keys:
            tasks = set.union(*tasks_of_keys) if figure.per_task else set.intersection(*tasks_of_keys)
        tasks = tasks & {*(figure.tasks or ())} or tasks
        seeds = {}
        narrowing = [key for key in keys if key[0] not in figure.once] or keys
        for task in tasks:
            seeds_of_keys = [{seed for other, seed in self.find(*key) if other == task} for key in narrowing]
            seeds[task] = set.intersection(*filter(None, seeds_of_keys))
        difficulties = {difficulty for _, difficulty in keys}
        return self.narrowed(
            lambda row: row.seed in seeds.get(row.task, ()) and row.difficulty in difficulties
        )

    def named(self, name: str, difficulty: str) -> dict[str, list[Row]]:
        """Measure → rows of the runs of a name."""
        return self.index.get((name, difficulty)) or self.index.get((self.aliases.get(name), difficulty), {})

    def find(self, name: str, difficulty: str = DISTRACTORS) -> dict[tuple[str, int], Path]:
        """(task, seed) → folder of the runs of a name."""
        rows = self.named(name, difficulty)
        return {(row.task, row.seed): row.folder for of_measure in rows.values() for row in of_measure}

    def missing(self, figure: Figure) -> str:
        """The runs that the figure lacks, in words; a variant may be lacking."""
        lacking = []
        for name, difficulty in figure.runs:
            if name not in self.scale.variants and not self.find(name, difficulty):
                lacking.append(f"{name} without distractors" if difficulty == CLEAN else name)
        return ", ".join(lacking)

    def get(
        self, name: str, difficulty: str, measure: str, videos: str = "", budget: int | str | None = None
    ) -> Values:
        """(task, seed) → value of a measure, with this label budget, or with the most of each run."""
        measure, _, own_videos = measure.partition("/")
        rows = self.named(name, difficulty).get(measure, ())
        found = {}
        for row in rows:
            key = (row.task, row.seed)
            if row.videos not in (own_videos or videos or self.videos, "environment", ""):
                continue
            if budget is not None and row.budget not in (str(budget), ""):
                continue
            if key not in found or labels_of(row) > labels_of(found[key]):
                found[key] = row
        return {key: row.value for key, row in found.items()}

    def scores(self, name: str, difficulty: str, budget: int) -> Values:
        """Mean returns over the reference."""
        return self.values(name, difficulty, "return_mean", self.videos, budget)

    def reference(self, task: str, difficulty: str) -> tuple[float, bool]:
        """The return that is score 1, and whether it is our own or the paper's.

        Our own is that of BC on all labels, on seen videos, if it has run on all tasks and kinds of data.
        """
        shown = {(row.task, row.difficulty) for row in self.rows} | {(task, difficulty)}
        own = {}
        for pair in shown:
            returns = self.get("bc", pair[1], "return_mean", "seen_videos", "all")
            own[pair] = np.mean([value for (other, _), value in returns.items() if other == pair[0]] or [0])
        if min(own.values()) > 0:
            return float(own[task, difficulty]), True
        kind = difficulty if difficulty == CLEAN else DISTRACTORS
        return PAPER_BC.get(task, {}).get(kind, 1.0), False

    def scores_of_seeds(self, name: str, difficulty: str, videos: str, budget: int | str) -> Values:
        """Returns, each over that of BC on all labels with the same seed, on seen videos."""
        returns = self.get(name, difficulty, "return_mean", videos, budget)
        of_bc = self.get("bc", difficulty, "return_mean", "seen_videos", "all")
        return {key: value / (of_bc[key] or nan) for key, value in returns.items() if key in of_bc}

    def values(self, name: str, difficulty: str, measure: str, videos: str, budget: int | str) -> Values:
        """One of MEASURES of each run that has it: of R² what is unexplained, of returns the score."""
        result = self.get(name, difficulty, measure, videos, budget)
        for (task, seed), value in result.items():
            if measure in UNEXPLAINED:
                result[task, seed] = 1 - value
            if measure == "return_mean":
                result[task, seed] = value / self.reference(task, difficulty)[0]
        return result


def place_of(task: str) -> int:
    return ALL_TASKS.index(task) if task in ALL_TASKS else len(ALL_TASKS)


def labels_of(row: Row) -> int:
    return int(row.budget) if row.budget.isdecimal() else -1


def index_rows(rows: list[Row]) -> dict:
    """(name, difficulty) → measure → rows."""
    index = {}
    for row in rows:
        index.setdefault((row.run, row.difficulty), {}).setdefault(row.measure, []).append(row)
    return index


# ---- Means -------------------------------------------------------------------------------------------------


def by_task(values: Values) -> dict[str, dict[int, float]]:
    """Task → seed → value."""
    result = {}
    for (task, seed), value in values.items():
        result.setdefault(task, {})[seed] = value
    return result


def center(values: Values) -> float:
    """The mean over tasks of the mean over seeds."""
    return float(np.mean([np.mean(list(seeds.values())) for seeds in by_task(values).values()]))


def shared(samples: dict[str, Values]) -> dict[str, Values]:
    """Of each sample what all have that are not empty: the same tasks and seeds."""
    found = [set(values) for values in samples.values() if values]
    keys = set.intersection(*found) if found else ()
    return {name: {key: values[key] for key in values if key in keys} for name, values in samples.items()}


def seed_means(values: Values) -> list[float]:
    """Each seed's mean over the tasks, if it has run on all of them."""
    tasks = by_task(values).values()
    common = set.intersection(*map(set, tasks)) if tasks else ()
    return [float(np.mean([seeds[seed] for seeds in tasks])) for seed in sorted(common)]


# ---- The paper's claims -----------------------------------------------------------------------------------


@dataclass
class Claim:
    """A claim of the paper: a run is better or worse than another, by one measure or by several."""

    expected: Literal["better", "worse"]
    text: str
    ratio: str  # one run / another, or one ratio / another
    measures: tuple[str, ...]  # of MEASURES
    paper: str = "–"  # the ratio that the paper prints

    def runs(self, scale: Scale) -> list[tuple[str, str]]:
        """(name, difficulty) of the runs in the ratio."""
        runs = []
        for name in re.findall(r"\w+", self.ratio):
            difficulty = CLEAN if name.endswith(f"__{CLEAN}") else DISTRACTORS
            name = name.removesuffix(f"__{CLEAN}").replace("_small", f"_{min(scale.smaller_dims)}")
            runs.append((name, difficulty))
        return runs

    def direction(self, measure: str) -> Direction:
        """Where the ratio lies if the claim holds."""
        is_high = (self.expected == "better") == (MEASURES[measure].better == "high")
        return "above 1" if is_high else "below 1"

    @property
    def of_paper(self) -> str:
        """The measure whose ratio the paper prints."""
        return "return_mean" if "return_mean" in self.measures else "action_probe"


# The paper has the probe alone. What it cannot tell apart: knowing the action, and knowing the pose from
# which an expert's action follows.
OF_Z = ("action_probe", "perturbation_r2", "plan_r2")
OF_POLICY = ("policy_error/unseen_videos", "return_mean")
BOTH = OF_Z + OF_POLICY
OF_LABELS = ("labelled_error", "perturbation_r2", *OF_POLICY)
FIGURE_5, FIGURE_6, SECTION_4 = "(Figure 5's logs)", "(Figure 6's logs)", "(Section 4)"
SMALL_Z = PAPER_SMALL_Z["laom"], PAPER_SMALL_Z["laom_supervised"] / PAPER_SMALL_Z["laom"]
VQ, FSQ, NONE = "lapo_original_vq", "lapo_original_fsq", "lapo_original"
OF_FSQ = f"({FSQ} / {NONE}) / ({FSQ}__vanilla / {NONE}__vanilla)"
OF_SMALL = "(laom_supervised_small / laom_supervised) / (laom_small / laom)"
OF_CLEAN = "laom__vanilla / lapo__vanilla"
HARM, HURTS, HELP = "distractors harm LAPO", "quantisation hurts", "a few labels help"
better, worse = functools.partial(Claim, "better"), functools.partial(Claim, "worse")
CLAIMS = [  # __vanilla: without distractors; _small: the smallest z of the scale
    worse(HARM, f"{NONE} / {NONE}__vanilla", OF_Z, f"8.66 {FIGURE_5}"),
    worse(HARM, "lapo / lapo__vanilla", BOTH),
    worse(HURTS, f"{FSQ}__vanilla / {NONE}__vanilla", OF_Z, f"6.43 {FIGURE_5}"),
    worse(HURTS, f"{VQ}__vanilla / {NONE}__vanilla", OF_Z),
    worse(HURTS, f"{FSQ} / {NONE}", OF_Z, f"1.32 {FIGURE_5}"),
    worse(HURTS, f"{VQ} / {NONE}", OF_Z),
    better("it hurts less with distractors", OF_FSQ, OF_Z, f"0.21 {FIGURE_5}"),
    better("pairs further apart help", f"lapo_multi_step / {NONE}", OF_Z, f"0.43 {FIGURE_6}"),
    better("a larger z helps", "lapo / lapo_multi_step", OF_Z, f"0.41 {FIGURE_6}"),
    worse("predicting embeddings alone costs something", "laom_no_aug / lapo", OF_Z, f"1.34 {FIGURE_6}"),
    better("augmentation helps", "laom_aug / laom_no_aug", OF_Z, f"0.52 {FIGURE_6}"),
    better("LAOM's latent actions are better than LAPO's", "laom_aug / lapo", OF_Z, f"0.70 {FIGURE_6}"),
    better("all changes together help", f"laom_aug / {NONE}", OF_Z, f"0.12 {FIGURE_6}"),
    better("the gain carries over to returns, in part", "laom / lapo", OF_POLICY, f"up to 2 {SECTION_4}"),
    better("so it does without distractors", OF_CLEAN, OF_POLICY, f"above 1, not significantly {SECTION_4}"),
    better(HELP, "laom_supervised / laom", BOTH, f"{PAPER_SUPERVISION} (abstract, not said over what)"),
    better(HELP, "laom_supervised / lapo", BOTH),
    better("they help more than in BC alone", "laom_supervised / bc", OF_POLICY),
    better("supervision generalises better than an IDM", "laom_supervised / idm", OF_LABELS),
    worse("a small z costs LAOM its return", "laom_small / laom", BOTH, f"{SMALL_Z[0]} (Section 5)"),
    better("with supervision it costs less", OF_SMALL, BOTH, f"{SMALL_Z[1]:.1f} (Section 5)"),
]


@dataclass
class Comparison:
    """What is measured of a claim, on seen or on unseen videos."""

    log_ratios: Values  # logarithms of the ratios
    left_out: dict[tuple[str, int], str]  # (task, seed) → why it has no ratio that says something of z
    other_data: list[tuple[str, int]] = field(default_factory=list)  # whose sides are of different data

    def of_task(self, task: str) -> list[float]:
        """The logarithms of a task's seeds."""
        return list(by_task(self.log_ratios).get(task, {}).values())

    def of_pairs(self) -> list[float]:
        return list(self.log_ratios.values())

    def of_seeds(self) -> list[float]:
        """Each seed's mean over the tasks."""
        return seed_means(self.log_ratios)

    def verdict(self, direction: Direction, task: str | None = None) -> Verdict:
        """Of one task, or of all: then the intervals over seeds and over all pairs must agree.

        Undecided, too, where a pair is left out.
        """
        if any(task in (other, None) for other, _ in self.left_out):
            return "undecided"
        if task:
            return judge(self.of_task(task), direction)
        over_seeds, over_pairs = judge(self.of_seeds(), direction), judge(self.of_pairs(), direction)
        return over_seeds if over_seeds == over_pairs else "undecided"

    def verdicts_alone(self, direction: Direction) -> str:
        """The verdicts on each task alone, counted: 1 holds, 1 undecided."""
        tasks = {task for task, _ in (*self.log_ratios, *self.left_out)}
        verdicts = Counter(self.verdict(direction, task) for task in tasks)
        return ", ".join(f"{verdicts[word]} {word}" for word in get_args(Verdict) if word in verdicts)

    def __str__(self):
        words = show(self.of_seeds())
        for reason in dict.fromkeys(self.left_out.values()):
            pairs = [f"{task} {seed}" for (task, seed), why in self.left_out.items() if why == reason]
            words += f"; {reason}, left out: {', '.join(pairs)}"
        if self.other_data:
            words += f"; of different data: {', '.join(f'{task} {seed}' for task, seed in self.other_data)}"
        return words


def judge(log_ratios: list[float], direction: Direction) -> Verdict:
    """Whether the 95% t interval lies on the claimed side of 1; undecided where there is only one ratio."""
    if len(log_ratios) < 2:
        return "undecided"
    low, high = t_interval(log_ratios)
    if low <= 0 <= high:
        return "undecided"
    return "holds" if (low > 0) == (direction == "above 1") else "fails"


def show(log_ratios: list[float]) -> str:
    """Their geometric mean, and its 95% t interval if there are two or more."""
    if not log_ratios:
        return "–"
    numbers = [np.mean(log_ratios)]
    if len(log_ratios) > 1:
        numbers += t_interval(log_ratios)
    middle, *ends = [f"{number:.2f}" if number < 100 else f"{number:.1e}" for number in np.exp(numbers)]
    return f"{middle} ({' to '.join(ends)})" if ends else middle


def compare(
    table: Table, runs: list[tuple[str, str]], measure: str, videos: str, budget: int | str
) -> Comparison:
    """The ratio of two runs, or of two ratios, on the tasks and seeds that all of them have.

    A return with distractors over one without is a ratio of scores, each over BC of its own kind and seed.
    A return of 0 or less has no logarithm, and that of a dead actor says nothing of latent actions.
    """
    sides = [table.values(*run, measure, videos, budget) for run in runs]
    if measure == "return_mean" and len({difficulty for _, difficulty in runs}) > 1:
        sides = [table.scores_of_seeds(*run, videos, budget) for run in runs]
    data = [table.get(*run, "dataset_return") for run in runs]
    signs = [1, -1, -1, 1][: len(sides)]
    dead = set()
    for run in runs:
        losses = table.get(*run, "actor_loss", budget=budget)
        dead |= {key for key, loss in losses.items() if loss > DEAD}
    result = Comparison({}, {})
    for key in sides[0]:
        numbers = [side.get(key) for side in sides]
        if None in numbers:
            continue
        if len({returns.get(key) for returns in data}) > 1:
            result.other_data.append(key)
        if measure in OF_POLICY and key in dead:
            result.left_out[key] = "dead actor"
        elif not np.isfinite(numbers).all():
            result.left_out[key] = "not finite"
        elif min(numbers) <= 0:
            result.left_out[key] = "0 or less"
        else:
            result.log_ratios[key] = float(np.dot(signs, np.log(numbers)))
    return result


def seeds_of(comparisons: list[Comparison]) -> str:
    """The tasks and seeds that were compared, in words."""
    pairs = {key for found in comparisons for key in (*found.log_ratios, *found.left_out)}
    seeds = {}
    for task, seed in sorted(pairs, key=lambda pair: (place_of(pair[0]), pair)):
        seeds.setdefault(task, []).append(str(seed))
    return "; ".join(f"{task}: {', '.join(of_task)}" for task, of_task in seeds.items())


def t_interval(values: list[float]) -> tuple[float, float]:
    """95% interval of the mean of independent values, of which there are at least two."""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * error
    return np.mean(values) - half, np.mean(values) + half

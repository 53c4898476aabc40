"""The runs of a scale and what is computed from them: scores, means, intervals, verdicts on the paper.

For figures: means are over tasks, of means over seeds. 95% intervals are bootstrapped: seeds are drawn again,
and for returns the episodes of each; with three seeds they are too narrow, with one they say nothing about
seeds, and the error of the normaliser is not in them.

For the paper's claims: a ratio for each task and seed that both sides have, and a t interval of their
logarithms. Which measure predicts the return: rank correlations over the runs of each task. Used by
figures.py, page.py and plot.py.
"""

import copy
import glob
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Literal

import numpy as np
import run as benchmark
import scipy.stats
import table
from run import ALL_TASKS, CLEAN, DISTRACTORS, ROOT, SCALES, Figure

# What a run says of some quantity: task → seed → values, such as the returns of its episodes.
Sample = dict[str, dict[int, np.ndarray]]

# Return of the paper's BC on all labels, with and without distractors (Table 3)
PAPER_BC = {
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


MEASURES = {  # columns of table.py's records; of UNEXPLAINED, which are R², 1 - R²
    "action_probe": Measure("probe error", "low"),
    "perturbation_r2": Measure("unexplained share of the perturbation", "low"),
    "plan_r2": Measure("unexplained share of the expert's action", "low"),
    "labelled_error": Measure("error of what labels taught", "low"),
    "policy_error/unseen_videos": Measure("error of the policy's action", "low"),
    "distractor_share": Measure("share of Var(z) that the distractors change", "low"),
    "copy_loss_ratio": Measure("FDM's error / predicting no change", "low"),
    "blind_loss_ratio": Measure("FDM's error with z(obs, obs) / own z", "high"),
    "shuffled_loss_ratio": Measure("FDM's error with other z / own z", "high"),
    "effective_rank": Measure("effective rank of z", "high"),
    "return_mean": Measure("score", "high"),
}
UNEXPLAINED = ("perturbation_r2", "plan_r2")

# ---- Runs -------------------------------------------------------------------------------------------------


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
        return self.results.get("difficulty")

    @property
    def seed(self) -> int:
        return self.results["seed"]

    @property
    def budgets(self) -> list[int]:
        """The numbers of labelled trajectories that it has finished."""
        return sorted(int(number) for number in self.results["budgets"] if number != "all")

    def measures(self, budget: int | None = None) -> dict:
        """What stage 1 has learned, with this label budget or with the most."""
        if budget is None:
            budget = max(self.budgets, default=0)
        return table.read_measures(self.folder, self.results, str(budget))

    def number(self, name: str, videos: str, budget: int | None = None) -> float | None:
        """A column of table.py's records, with this label budget or with the most; None if not measured."""
        if budget is None:
            budget = max(self.budgets, default=0)
        record = table.record(self.folder, self.results, str(budget))
        return record.get(f"{name}/{videos}", record.get(name))

    def played(self, budget: int | str, videos: str) -> dict:
        """The evaluation: returns, return_mean, …; empty if there was none."""
        return self.results["budgets"].get(str(budget), {}).get(videos, {})

    def online(self, metric: str, budget: int | None = None) -> float | None:
        """The mean of the last five values that training has logged, each of one batch.

        Of the stage of this label budget, or of the most, where each budget has a stage of its own.
        """
        if budget is None:
            budget = max(self.budgets, default=0)
        stage = metric.split("/")[0]
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return None
        records = [json.loads(line) for line in path.read_text().splitlines()]
        records = [record for record in records if record["stage"] in (stage, f"{stage}_{budget}")]
        values = [record[metric] for record in records if metric in record]
        return float(np.mean(values[-5:])) if values else None

    def actor_is_dead(self, budget: int) -> bool:
        """Whether the actor answers all observations alike: of z it has cloned nothing but the mean."""
        return "lam" in self.args and (self.online("bc/loss", budget) or 0) > 0.95  # of the variance of z

    def wall_clock(self) -> dict:
        """Seconds of each session, machine and date, where benchmark/run.py has noted them."""
        return read_wall_clock(self.folder)


def load_run(folder: Path, scale: benchmark.Scale) -> Run:
    try:
        args = json.loads((folder / "args.json").read_text())
        results = json.loads((folder / "results.json").read_text())
        identity = benchmark.identity(results["script"], args)
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(f"error: {folder} is no finished run: {error}")
    names = set()
    for name, wanted in identities(scale, results["task"]).items():
        if not benchmark.differences(identity, wanted):
            names.add(name)
    return Run(folder, args, results, names)


def identities(scale: benchmark.Scale, task: str) -> dict[str, dict]:
    """The identity of every name of the scale; those on what is none of ours are as on its first task."""
    return benchmark.identities(scale, task if task in ALL_TASKS else scale.tasks[0])


def read_wall_clock(folder: Path) -> dict:
    path = folder / "wall_clock.json"
    return json.loads(path.read_text()) if path.exists() else {}


def date_of(folder: Path) -> str:
    """The time in the name of a run's folder, which sorts as text; empty if there is none."""
    return folder.name.rpartition("__")[2] if "__" in folder.name else ""


class Benchmark:
    """The runs of a scale: one for each experiment, task, difficulty and seed.

    Of several it is the one with the most label budgets, of these the newest. Variants are those of which
    benchmark/run.py has noted what they are like, if their scripts are still where they were.
    """

    def __init__(self, scale_name: str, patterns: tuple[str, ...], videos: str):
        self.scale_name = scale_name
        self.videos = videos
        own_runs = str(ROOT / "runs" / "benchmark" / scale_name / "*" / "*")
        committed = str(ROOT / "benchmark" / "results" / scale_name / "*" / "*" / "*")
        folders = []
        for pattern in patterns or (own_runs, committed):
            folders += map(Path, sorted(glob.glob(pattern)))
        folders = [folder for folder in folders if (folder / "results.json").exists()]
        if patterns and not folders:
            raise SystemExit(f"error: no results.json in {', '.join(patterns)}")

        self.scale = SCALES[scale_name]
        for folder in folders:
            note = read_wall_clock(folder)
            if "like" in note and (ROOT / note["script"]).exists():
                self.scale = benchmark.with_variant(self.scale, note["script"], note["like"])
        runs = [load_run(folder, self.scale) for folder in folders]
        runs.sort(key=lambda run: date_of(run.folder), reverse=True)
        runs.sort(key=lambda run: len(run.results["budgets"]), reverse=True)
        self.runs = {}
        for run in runs:
            problem = self.why_not(run)
            if problem:
                print(f"{run.folder} {problem}")
            else:
                self.runs.setdefault((min(run.names), run.task, run.difficulty, run.seed), run)

    def why_not(self, run: Run) -> str | None:
        """Why a run does not belong to the scale, if it does not."""
        if run.task not in ALL_TASKS:
            return f"is no run of the {self.scale_name} scale: {run.task} is none of its tasks"
        if not set(map(str, run.args["num_labeled_trajectories"])) <= set(run.results["budgets"]):
            return "has not finished"
        if run.names:
            return None
        identity = benchmark.identity(run.results["script"], run.args)
        known = identities(self.scale, run.task).values()
        of_script = [wanted for wanted in known if wanted["script"] == identity["script"]]
        if not of_script:
            return f"is shown once benchmark/run.py has run {identity['script']} with --script and --like"
        distances = [benchmark.differences(identity, wanted) for wanted in of_script]
        return f"is no run of the {self.scale_name} scale: {', '.join(min(distances, key=len))}"

    def narrowed(self, condition: Callable[[Run], bool]) -> "Benchmark":
        """The same with the runs that fulfil a condition."""
        result = copy.copy(self)
        result.runs = {key: run for key, run in self.runs.items() if condition(run)}
        return result

    def only(self, figure: Figure) -> "Benchmark":
        """The runs that the figure compares, on its task, or on those on which every method has run.

        With a panel for each task, on all of them. Of a task, only the seeds with which all methods have run,
        except those of which one seed will do.
        """
        keys = [key for key in figure.runs if self.find(*key)]
        tasks_of_keys = [{run.task for run in self.find(*key)} for key in keys]
        tasks = set()
        if keys:
            tasks = set.union(*tasks_of_keys) if figure.per_task else set.intersection(*tasks_of_keys)
        if figure.task in tasks:
            tasks = {figure.task}
        seeds = {}
        for task in tasks:
            narrowing = [key for key in keys if key[0] not in figure.once] or keys
            seeds_of_keys = [{run.seed for run in self.find(*key, task)} for key in narrowing]
            seeds[task] = set.intersection(*filter(None, seeds_of_keys))
        difficulties = {difficulty for _, difficulty in keys}
        return self.narrowed(
            lambda run: run.seed in seeds.get(run.task, ()) and run.difficulty in difficulties
        )

    def find(self, name: str, difficulty: str = DISTRACTORS, task: str | None = None) -> list[Run]:
        """The runs of a name, by task and seed."""
        runs = [run for run in self.runs.values() if name in run.names and run.difficulty == difficulty]
        if task:
            runs = [run for run in runs if run.task == task]
        return sorted(runs, key=lambda run: (ALL_TASKS.index(run.task), run.seed))

    def missing(self, figure: Figure) -> str:
        """The runs that the figure lacks, in words; a variant may be lacking."""
        lacking = []
        for name, difficulty in figure.runs:
            if name not in self.scale.variants and not self.find(name, difficulty):
                lacking.append(f"{name} without distractors" if difficulty == CLEAN else name)
        return ", ".join(lacking)

    def reference(self, task: str, difficulty: str) -> tuple[float, bool]:
        """The return that is score 1, and whether it is our own or the paper's.

        Our own is that of BC on all labels, on seen videos, if it has run on every kind of data shown.
        """
        shown = {run.difficulty for run in self.runs.values() if run.task == task} | {difficulty}
        own = {}
        for kind in shown:
            played = [run.played("all", "seen_videos") for run in self.find("bc", kind, task)]
            own[kind] = [evaluation["return_mean"] for evaluation in played if evaluation]
        if all(own.values()):
            return float(np.mean(own[difficulty])), True
        return PAPER_BC[task][difficulty if difficulty == CLEAN else DISTRACTORS], False

    def scores(self, runs: list[Run], budget: int, videos: str | None = None) -> Sample:
        """Returns over the reference, one for each episode."""
        result = {}
        for run in runs:
            played = run.played(budget, videos or self.videos)
            if played:
                reference, _ = self.reference(run.task, run.difficulty)
                result.setdefault(run.task, {})[run.seed] = np.array(played["returns"]) / reference
        return result

    def sample(
        self, runs: list[Run], name: str, budget: int | None = None, videos: str | None = None
    ) -> Sample:
        """A column of table.py's records, with a label budget or with the most of each run."""
        return sample_of(runs, lambda run: run.number(name, videos or self.videos, budget))

    def values(self, name: str, measure: str, videos: str) -> dict[tuple[str, int], float]:
        """(task, seed) → one of MEASURES with the scale's most_labels, of the runs of a name that have it."""
        result = {}
        for run in self.named(name):
            number = run.number(measure, videos, self.scale.most_labels)
            if number is None:
                continue
            if measure in UNEXPLAINED:
                number = 1 - number
            if measure == "return_mean":
                number /= self.reference(run.task, run.difficulty)[0]
            result[run.task, run.seed] = number
        return result

    def named(self, name: str) -> list[Run]:
        """The runs of a name, which ends in __vanilla for those without distractors."""
        difficulty = CLEAN if name.endswith(f"__{CLEAN}") else DISTRACTORS
        return self.find(name.removesuffix(f"__{CLEAN}"), difficulty)


# ---- Samples ----------------------------------------------------------------------------------------------


def sample_of(runs: list[Run], value: Callable[[Run], float | None]) -> Sample:
    """A number of each run that has it."""
    result = {}
    for run in runs:
        number = value(run)
        if number is not None:
            result.setdefault(run.task, {})[run.seed] = np.array([number])
    return result


def scaled(sample: Sample, factor: float) -> Sample:
    result = {}
    for task, seeds in sample.items():
        result[task] = {seed: values * factor for seed, values in seeds.items()}
    return result


def center(sample: Sample) -> float:
    """The mean over tasks of the mean over seeds."""
    of_tasks = []
    for seeds in sample.values():
        of_tasks.append(np.mean([values.mean() for values in seeds.values()]))
    return float(np.mean(of_tasks))


def seed_means(sample: Sample) -> list[float]:
    """Each seed's mean over the tasks, if it has run on all of them."""
    common = set.intersection(*(set(seeds) for seeds in sample.values()))
    means = []
    for seed in sorted(common):
        means.append(float(np.mean([seeds[seed].mean() for seeds in sample.values()])))
    return means


def resample(sample: Sample, repeats: int = 2000, seed: int = 0) -> np.ndarray:
    """Centers of the sample drawn again, (repeats,): on each task its seeds, in each of them its episodes."""
    rng = np.random.default_rng(seed)
    centers = np.zeros(repeats)
    for seeds in sample.values():
        drawn = rng.integers(len(seeds), size=(repeats, len(seeds)))
        for column in drawn.T:
            means_of_seeds = []
            for values in seeds.values():
                means_of_seeds.append(rng.choice(values, (repeats, len(values))).mean(1))
            centers += np.choose(column, means_of_seeds) / len(seeds) / len(sample)
    return centers


def bootstrap(sample: Sample) -> tuple[float, float]:
    """95% interval of the center."""
    low, high = np.quantile(resample(sample), (0.025, 0.975))
    return float(low), float(high)


def varies(sample: Sample) -> bool:
    """Whether there is something to draw again."""
    return any(len(seeds) > 1 or len(values) > 1 for seeds in sample.values() for values in seeds.values())


# ---- The paper's claims -----------------------------------------------------------------------------------


@dataclass
class Claim:
    """A claim of the paper: a run is better or worse than another, by one measure or by several.

    A run is without distractors if its name ends in __vanilla; _small is the smallest z of the scale.
    """

    text: str
    run: str
    other: str
    expected: Literal["better", "worse"]
    measures: tuple[str, ...]  # of MEASURES
    paper: dict[str, str] = field(default_factory=dict)  # measure → the ratio that the paper prints
    than: tuple[str, ...] = ()  # two runs more: the ratio is compared with theirs

    def direction(self, measure: str) -> Literal["below 1", "above 1"]:
        """Where the ratio lies if the claim holds."""
        is_high = (self.expected == "better") == (MEASURES[measure].better == "high")
        return "above 1" if is_high else "below 1"


# The paper has the probe alone. What it cannot tell apart: knowing the action, and knowing the pose from
# which an expert's action follows.
OF_Z = ("action_probe", "perturbation_r2", "plan_r2")
RETURN = ("return_mean",)


def ladder(text: str, run: str, other: str, expected: Literal["better", "worse"], paper: str) -> Claim:
    """A claim on Figure 6."""
    return Claim(text, run, other, expected, OF_Z, {"action_probe": f"{paper} (Figure 6's logs)"})


CLAIMS = [
    Claim(
        "distractors harm LAPO",
        "lapo_original",
        "lapo_original__vanilla",
        "worse",
        OF_Z,
        {"action_probe": "8.66 (Figure 5's logs)"},
    ),
    Claim("distractors harm LAPO", "lapo", "lapo__vanilla", "worse", OF_Z + RETURN),
    Claim(
        "quantisation hurts",
        "lapo_original_fsq__vanilla",
        "lapo_original__vanilla",
        "worse",
        OF_Z,
        {"action_probe": "6.43 (Figure 5's logs)"},
    ),
    Claim("quantisation hurts", "lapo_original_vq__vanilla", "lapo_original__vanilla", "worse", OF_Z),
    Claim(
        "quantisation hurts",
        "lapo_original_fsq",
        "lapo_original",
        "worse",
        OF_Z,
        {"action_probe": "1.32 (Figure 5's logs)"},
    ),
    Claim("quantisation hurts", "lapo_original_vq", "lapo_original", "worse", OF_Z),
    Claim(
        "it hurts less with distractors",
        "lapo_original_fsq",
        "lapo_original",
        "better",
        OF_Z,
        {"action_probe": "0.21 (Figure 5's logs)"},
        than=("lapo_original_fsq__vanilla", "lapo_original__vanilla"),
    ),
    ladder("pairs further apart help", "lapo_multi_step", "lapo_original", "better", "0.43"),
    ladder("a larger z helps", "lapo", "lapo_multi_step", "better", "0.41"),
    ladder("predicting embeddings alone costs something", "laom_no_aug", "lapo", "worse", "1.34"),
    ladder("augmentation helps", "laom_aug", "laom_no_aug", "better", "0.52"),
    ladder("LAOM's latent actions are better than LAPO's", "laom_aug", "lapo", "better", "0.70"),
    ladder("all changes together help", "laom_aug", "lapo_original", "better", "0.12"),
    Claim(
        "the gain carries over to returns, in part",
        "laom",
        "lapo",
        "better",
        RETURN,
        {"return_mean": "up to 2 (Section 4)"},
    ),
    Claim(
        "it does without distractors, too",
        "laom__vanilla",
        "lapo__vanilla",
        "better",
        RETURN,
        {"return_mean": "above 1, not significantly (Section 4)"},
    ),
    Claim(
        "a few labels help",
        "laom_supervised",
        "laom",
        "better",
        OF_Z + RETURN,
        {"return_mean": f"{PAPER_SUPERVISION} (abstract, not said over what)"},
    ),
    Claim("a few labels help", "laom_supervised", "lapo", "better", OF_Z + RETURN),
    Claim("they help more than in BC alone", "laom_supervised", "bc", "better", RETURN),
    Claim(
        "supervision generalises better than an IDM",
        "laom_supervised",
        "idm",
        "better",
        ("labelled_error", "perturbation_r2", "return_mean"),
    ),
    Claim(
        "a small z costs LAOM its return",
        "laom_small",
        "laom",
        "worse",
        OF_Z + RETURN,
        {"return_mean": f"{PAPER_SMALL_Z['laom']} (Section 5)"},
    ),
    Claim(
        "with supervision it costs less",
        "laom_supervised_small",
        "laom_supervised",
        "better",
        OF_Z + RETURN,
        {"return_mean": f"{PAPER_SMALL_Z['laom_supervised'] / PAPER_SMALL_Z['laom']:.1f} (Section 5)"},
        than=("laom_small", "laom"),
    ),
]


@dataclass
class Comparison:
    """What is measured of a claim, on seen or on unseen videos."""

    log_ratios: dict[tuple[str, int], float]  # (task, seed) → logarithm of the ratio
    left_out: dict[tuple[str, int], str]  # (task, seed) → why it has no ratio that says something of z

    def interval(self) -> tuple[float, float]:
        """95% t interval of the ratio, over tasks × seeds."""
        low, high = t_interval(list(self.log_ratios.values()))
        return np.exp(low), np.exp(high)

    def verdict(self, direction: Literal["below 1", "above 1"]) -> Literal["holds", "fails", "undecided"]:
        """Undecided, too, where a pair is left out or stands alone."""
        if len(self.log_ratios) < 2 or self.left_out:
            return "undecided"
        low, high = self.interval()
        if low <= 1 <= high:
            return "undecided"
        return "holds" if (low > 1) == (direction == "above 1") else "fails"

    def __str__(self):
        words = "–"
        if self.log_ratios:
            words = show(np.exp(np.mean(list(self.log_ratios.values()))))
        if len(self.log_ratios) > 1:
            low, high = self.interval()
            words += f" ({show(low)} to {show(high)})"
        for reason in dict.fromkeys(self.left_out.values()):
            pairs = [f"{task} {seed}" for (task, seed), why in self.left_out.items() if why == reason]
            words += f"; {reason}, left out: {', '.join(pairs)}"
        return words


def show(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:.1e}"  # as of two pairs that disagree


def runs_of(bench: Benchmark, claim: Claim) -> list[str]:
    """The names that a claim compares: one, over the other, over that of two more if there are any."""
    smallest = min(bench.scale.smaller_dims)
    return [name.replace("_small", f"_{smallest}") for name in (claim.run, claim.other, *claim.than)]


def compare(bench: Benchmark, claim: Claim, measure: str, videos: str) -> Comparison:
    """The claim's ratio on the tasks and seeds that all its runs have.

    Scores with distractors over scores without are left out where either is over the paper's BC, not ours.
    A return of 0 or less has no logarithm, and that of a dead actor says nothing of latent actions.
    """
    names = runs_of(bench, claim)
    mixes_kinds = len({name.endswith(f"__{CLEAN}") for name in names}) > 1
    sides = [bench.values(name, measure, videos) for name in names]
    signs = [1, -1, -1, 1][: len(sides)]
    runs = [run for name in names for run in bench.named(name)]
    dead = {(run.task, run.seed) for run in runs if run.actor_is_dead(bench.scale.most_labels)}
    result = Comparison({}, {})
    for key in sides[0]:
        numbers = [side.get(key) for side in sides]
        if None in numbers:
            continue
        _, is_own = bench.reference(key[0], DISTRACTORS)
        if measure == "return_mean" and mixes_kinds and not is_own:
            continue
        if measure == "return_mean" and key in dead:
            result.left_out[key] = "dead actor"
        elif min(numbers) <= 0:
            result.left_out[key] = "0 or less"
        else:
            result.log_ratios[key] = float(np.dot(signs, np.log(numbers)))
    return result


def t_interval(values: list[float]) -> tuple[float, float]:
    """95% interval of the mean of independent values, of which there are at least two."""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * error
    return np.mean(values) - half, np.mean(values) + half


# ---- Which measure predicts the return --------------------------------------------------------------------


def measure_and_score(bench: Benchmark, measure: str, videos: str) -> dict[tuple, tuple[float, float]]:
    """(name, task, seed) → a measure and the score, of LAMs with distractors that have both."""
    result = {}
    for name in benchmark.list_figures(bench.scale)["measures_and_returns"].distractors:
        scores = bench.values(name, "return_mean", videos)
        for key, number in bench.values(name, measure, videos).items():
            if key in scores:
                result[name, *key] = (number, scores[key])
    return result


def correlations(bench: Benchmark, measure: str, videos: str) -> dict[str, tuple[float, int]]:
    """Task → Spearman's rank correlation of a measure with the score over its runs, and their number.

    Positive where the measure says what the score says; nan of fewer than three runs or where all are equal.
    """
    of_tasks = {}
    for (_, task, _), pair in measure_and_score(bench, measure, videos).items():
        of_tasks.setdefault(task, []).append(pair)
    sign = 1 if MEASURES[measure].better == "high" else -1
    result = {}
    for task, pairs in of_tasks.items():
        numbers, scores = np.transpose(pairs)
        correlation = nan
        if len(pairs) > 2 and np.ptp(numbers) > 0 and np.ptp(scores) > 0:
            correlation = sign * float(scipy.stats.spearmanr(numbers, scores).statistic)
        result[task] = (correlation, len(pairs))
    return result

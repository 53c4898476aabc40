"""The runs of a scale and what is computed from them: scores, means, intervals, the paper's claims as ratios.

Means are over tasks, of means over seeds. 95% intervals are bootstrapped: seeds are drawn again, and for
returns the episodes of each; with three seeds they are too narrow, with one they say nothing about seeds, and
the error of the normaliser is not in them. Used by figures.py, page.py and plot.py.
"""

import copy
import glob
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import run as benchmark
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
PAPER_SUPERVISION = 4.2  # LAOM+supervision's return over LAOM's (abstract)
# Return at 64 dimensions of z over that at 8,192 (Section 5)
PAPER_SMALL_Z = {"laom": 0.37, "laom_supervised": 0.84}

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

    def probe_error(self, videos: str) -> float | None:
        """MSE / Var(a) of the held-out probe of z, with the most labels."""
        return self.measures().get(f"action_probe_mse_over_var/{videos}")

    def labelled_error(self, budget: int, videos: str) -> float | None:
        """MSE / Var(a) of what the labels have taught: a LAM's action head, or an IDM."""
        measures = self.measures(budget)
        head_error = measures.get(f"action_head_mse_over_var/{videos}")
        return measures.get(f"idm_mse_over_var/{videos}") if head_error is None else head_error

    def played(self, budget: int | str, videos: str) -> dict:
        """The evaluation: returns, return_mean, …; empty if there was none."""
        return self.results["budgets"].get(str(budget), {}).get(videos, {})

    def online(self, metric: str) -> float | None:
        """The mean of the last five values that training has logged, each of one batch."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return None
        records = [json.loads(line) for line in path.read_text().splitlines()]
        values = [record[metric] for record in records if metric in record]
        return float(np.mean(values[-5:])) if values else None

    def wall_clock(self) -> dict:
        """Seconds of each session, machine and date, where benchmark/run.py has noted them."""
        return read_wall_clock(self.folder)


def load_run(folder: Path, known: dict[str, dict]) -> Run:
    try:
        args = json.loads((folder / "args.json").read_text())
        results = json.loads((folder / "results.json").read_text())
        identity = benchmark.identity(results["script"], args)
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(f"error: {folder} is no finished run: {error}")
    names = {name for name, wanted in known.items() if not benchmark.differences(identity, wanted)}
    return Run(folder, args, results, names)


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
        known = benchmark.identities(self.scale)
        runs = [load_run(folder, known) for folder in folders]
        runs.sort(key=lambda run: date_of(run.folder), reverse=True)
        runs.sort(key=lambda run: len(run.results["budgets"]), reverse=True)
        self.runs = {}
        for run in runs:
            problem = self.why_not(run, known)
            if problem:
                print(f"{run.folder} {problem}")
            else:
                self.runs.setdefault((min(run.names), run.task, run.difficulty, run.seed), run)

    def why_not(self, run: Run, known: dict[str, dict]) -> str | None:
        """Why a run does not belong to the scale, if it does not."""
        if run.task not in ALL_TASKS:
            return f"is no run of the {self.scale_name} scale: {run.task} is none of its tasks"
        if not set(map(str, run.args["num_labeled_trajectories"])) <= set(run.results["budgets"]):
            return "has not finished"
        if run.names:
            return None
        identity = benchmark.identity(run.results["script"], run.args)
        of_script = [wanted for wanted in known.values() if wanted["script"] == identity["script"]]
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

        With a panel for each task, on all of them. Of a task, only the seeds with which all methods have run.
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
            seeds_of_keys = [{run.seed for run in self.find(*key, task)} for key in keys]
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

    def probes(self, runs: list[Run]) -> Sample:
        return sample_of(runs, lambda run: run.probe_error(self.videos))


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


def show_ratio(above: Sample, below: Sample) -> str:
    """The ratio of the centers with its 95% interval, for which each sample is drawn again by itself."""
    if not above or not below or center(below) == 0:
        return "–"
    ratio = f"{center(above) / center(below):.2f}"
    if not varies(above) and not varies(below):
        return ratio
    with np.errstate(divide="ignore", invalid="ignore"):  # where all drawn episodes below returned 0
        ratios = resample(above) / resample(below, seed=1)
        low, high = np.nanquantile(ratios, (0.025, 0.975), method="nearest")
    return f"{ratio} ({low:.2f} to {high:.2f})"


# ---- The paper's claims -----------------------------------------------------------------------------------


@dataclass
class Claim:
    """A claim of the paper as what we measure of one run over that of another.

    A run is without distractors if its name ends in __vanilla; _small is the smallest z of the scale.
    probe: error of the probe of z; labelled: error of what the labels have taught; return: score with the
    most labels.
    """

    text: str
    above: str
    below: str
    measure: Literal["probe", "labelled", "return"]
    paper: str = "–"  # its ratio


CLAIMS = [
    Claim("distractors break LAPO", "lapo_original", "lapo_original__vanilla", "probe", "8.66 (Figure 5)"),
    Claim("distractors break LAPO", "lapo", "lapo__vanilla", "probe"),
    Claim("distractors break LAPO", "lapo", "lapo__vanilla", "return"),
    Claim(
        "quantisation hurts without distractors",
        "lapo_original_fsq__vanilla",
        "lapo_original__vanilla",
        "probe",
        "6.43 (Figure 5)",
    ),
    Claim(
        "quantisation hurts without distractors",
        "lapo_original_vq__vanilla",
        "lapo_original__vanilla",
        "probe",
    ),
    Claim("it hurts less with distractors", "lapo_original_fsq", "lapo_original", "probe", "1.32 (Figure 5)"),
    Claim("it hurts less with distractors", "lapo_original_vq", "lapo_original", "probe"),
    Claim("pairs further apart and a large z help", "lapo", "lapo_original", "probe", "0.18 (Figure 6)"),
    Claim("predicting embeddings alone costs a little", "laom_no_aug", "lapo", "probe", "1.34 (Figure 6)"),
    Claim("LAOM's latent actions are better than LAPO's", "laom_aug", "lapo", "probe", "0.70 (Figure 6)"),
    Claim(
        "LAOM's latent actions are better than LAPO's",
        "laom_aug",
        "lapo_original",
        "probe",
        "0.12 (Figure 6, abstract)",
    ),
    Claim("the gain carries over to returns only partly", "laom", "lapo", "return", "up to 2 (Section 4)"),
    Claim(
        "LAOM's gain without distractors is not significant",
        "laom__vanilla",
        "lapo__vanilla",
        "return",
        "above 1 (Section 4)",
    ),
    Claim("a few labels bring the large gain", "laom_supervised", "laom", "probe"),
    Claim(
        "a few labels bring the large gain",
        "laom_supervised",
        "laom",
        "return",
        f"{PAPER_SUPERVISION} (abstract)",
    ),
    Claim("a few labels bring the large gain", "laom_supervised", "lapo", "probe"),
    Claim("a few labels bring the large gain", "laom_supervised", "lapo", "return"),
    Claim("a few labels bring the large gain", "laom_supervised", "bc", "return"),
    Claim("supervision generalises better than an IDM", "laom_supervised", "idm", "labelled"),
    Claim("supervision generalises better than an IDM", "laom_supervised", "idm", "return"),
    Claim("small z suffice with supervision", "laom_small", "laom", "probe"),
    Claim("small z suffice with supervision", "laom_supervised_small", "laom_supervised", "probe"),
    Claim(
        "small z suffice with supervision",
        "laom_small",
        "laom",
        "return",
        f"{PAPER_SMALL_Z['laom']} (Section 5)",
    ),
    Claim(
        "small z suffice with supervision",
        "laom_supervised_small",
        "laom_supervised",
        "return",
        f"{PAPER_SMALL_Z['laom_supervised']} (Section 5)",
    ),
]


def claim_sample(bench: Benchmark, claim: Claim, runs: list[Run], videos: str) -> Sample:
    """What the claim compares, of one side's runs."""
    most_labels = bench.scale.most_labels
    if claim.measure == "return":
        return bench.scores(runs, most_labels, videos)
    if claim.measure == "probe":
        return sample_of(runs, lambda run: run.probe_error(videos))
    return sample_of(runs, lambda run: run.labelled_error(most_labels, videos))


def claim_row(bench: Benchmark, claim: Claim) -> list[str] | None:
    """The claim's ratios on the tasks and seeds that both sides have, as text; None if there are none."""
    smallest = min(bench.scale.smaller_dims)
    names = [name.replace("_small", f"_{smallest}") for name in (claim.above, claim.below)]
    sides = []
    for name in names:
        difficulty = CLEAN if name.endswith(CLEAN) else DISTRACTORS
        runs = bench.find(name.removesuffix(f"__{CLEAN}"), difficulty)
        measured = claim_sample(bench, claim, runs, "seen_videos")
        sides.append([run for run in runs if run.seed in measured.get(run.task, {})])
    above, below = sides
    keys_below = {(run.task, run.seed) for run in below}
    common = [(run.task, run.seed) for run in above if (run.task, run.seed) in keys_below]
    if not common:
        return None

    above = [run for run in above if (run.task, run.seed) in common]
    below = [run for run in below if (run.task, run.seed) in common]
    ratios = []
    for videos in ("seen_videos", "unseen_videos"):
        sample_above = claim_sample(bench, claim, above, videos)
        ratios.append(show_ratio(sample_above, claim_sample(bench, claim, below, videos)))
    seeds_of_tasks = []
    for task in dict(common):
        seeds = [str(seed) for other, seed in common if other == task]
        seeds_of_tasks.append(f"{task}: {', '.join(seeds)}")
    words = {
        "probe": "probe errors",
        "labelled": "errors of what labels taught",
        "return": f"scores, {bench.scale.most_labels} labelled",
    }
    label = " / ".join(name.replace(f"__{CLEAN}", " without distractors") for name in names)
    return [
        claim.text,
        f"{words[claim.measure]}: {label}",
        "; ".join(seeds_of_tasks),
        *ratios,
        claim.paper,
    ]

"""Prints runs side by side, one row for each label budget, as a table in Markdown, or writes them as CSV.

    python benchmark/table.py runs/*                            # runs of any scripts, on any data
    python benchmark/table.py benchmark/results/demo/*/*/*      # committed results
    python benchmark/table.py benchmark/results/mini/*/*/* --csv benchmark/results/mini.csv

Errors are MSE / Var(a), held out: z → action that of the probe, labelled → action of what was trained on
labels themselves, the LAM's action head or the IDM, obs → action of the whole policy on the evaluation file,
which sees no next observation. R² is what z tells of the noise in the actions (perturbation), which the pose
does not tell, and of the expert's actions without it (plan), which the pose tells, too. That of the noise is
1 - (1 - own) / (1 - that of z(obs, obs)), which takes away the bias of earlier results. Returns are mean ±
standard deviation over the evaluation's episodes. Each cell: seen videos | unseen videos, or the one return
in an environment of another kind. A dash stands where nothing was measured, or where the run needed the
latent actions alone and left the policy untrained.

The CSV has the same rows and every number that plot.py compares, empty where the table has –. What
benchmark/measure.py has written beside the weights counts as the run's, where results.json lacks it.
"""

import json
import sys
from csv import DictWriter
from math import isnan
from pathlib import Path
from typing import Annotated

import tyro

VIDEOS = ("seen_videos", "unseen_videos")
HEADER = ["run", "seed", "labelled", "z → action", "perturbation R²", "plan R²"]
HEADER += ["labelled → action", "obs → action", "return", "score"]
LABELLED_KINDS = ("action_head", "idm")  # what is trained on labels: of a LAM, an IDM
WITHOUT_LABELS = ("effective_rank", "shuffled_loss_ratio", "blind_loss_ratio", "copy_loss_ratio")


def read_results(folder: Path) -> dict:
    """results.json, if it is whole."""
    try:
        results = json.loads((folder / "results.json").read_text())
        for name in ("script", "task", "seed", "budgets"):
            results[name]
    except (KeyError, ValueError) as error:
        raise SystemExit(f"error: {folder}/results.json is not whole: {error!r}")
    return results


def read_measures(folder: Path, results: dict, labelled: str) -> dict:
    """What stage 1 has learned with this label budget."""
    measures = {}
    for name in ("lam.json", f"lam_{labelled}.json", f"idm_{labelled}.json"):
        if (folder / name).exists():
            measures |= json.loads((folder / name).read_text())
    budget = results["budgets"].get(labelled, {})
    measures |= results.get("latent_actions", {})
    measures |= budget.get("latent_actions", {})
    measures |= budget.get("idm", {})
    return without_bias(measures)


def without_bias(measures: dict) -> dict:
    """The same measures, perturbation_r2 being what z tells of the noise beyond what z(obs, obs) tells.

    z(obs, obs) cannot know the noise. But until November 2026 the measure was biased by the size of z, for
    both alike: 256 dimensions that know nothing had about -0.006, 1,024 about -0.02. So this is a correction,
    near to what today's measure would give. It is made for all results, so that none needs a mark: by today's
    measure z(obs, obs) knows about 0, and the correction changes about nothing.
    """
    result = dict(measures)
    for name, own in measures.items():
        if name.startswith("perturbation_r2/"):
            result[name] = 1 - (1 - own) / (1 - measures.get(f"blind_{name}", 0))
    return result


def policy_error(budget: dict) -> float | None:
    """MSE / Var(a) of the policy on the evaluation file."""
    return budget.get("action_mse_over_var")


def evaluations(budget: dict) -> dict[str, dict]:
    """What was played: with seen and with unseen videos, or in an environment of another kind."""
    parts = {name: part for name, part in budget.items() if isinstance(part, dict)}
    return {name: part for name, part in parts.items() if "return_mean" in part}


def policy_is_trained(folder: Path) -> bool:
    args = json.loads((folder / "args.json").read_text())
    return args.get("bc", {}).get("num_epochs") != 0


def run_name(folder: Path) -> str:
    """The name of a run's folder; of <name>/seed<n>, the name."""
    return folder.resolve().parent.name if folder.name.startswith("seed") else folder.resolve().name


def pair(measures: dict, name: str) -> list[float | None]:
    return [measures.get(f"{name}/{videos}") for videos in VIDEOS]


def labelled_pair(measures: dict) -> list[float | None]:
    """The error of what the labels have taught."""
    pairs = [pair(measures, f"{kind}_mse_over_var") for kind in LABELLED_KINDS]
    return next((values for values in pairs if any(values)), [None, None])


def number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None or isnan(value) else f"{value:{form}}"


def join(cells: list[str]) -> str:
    return "–" if set(cells) == {"–"} else " | ".join(cells)


def cell(values: list[float | None]) -> str:
    return join([number(value) for value in values])


def rows(folder: Path) -> list[list[str]]:
    """The rows of a run, one for each label budget; one without returns for a run that has no labels."""
    results = read_results(folder)
    trained = policy_is_trained(folder)
    table = []
    for labelled, budget in (results["budgets"] or {"–": {}}).items():
        measures = read_measures(folder, results, labelled)
        policy = budget if trained else {}
        played = evaluations(policy)
        kinds = [name for name in played if name not in VIDEOS] or VIDEOS
        returns, scores = [], []
        for kind in kinds:
            result = played.get(kind, {})
            mean, std = number(result.get("return_mean"), ".1f"), number(result.get("return_std"), ".1f")
            returns.append(f"{mean} ± {std}" if result else "–")
            scores.append(result.get("normalized_score"))
        table.append(
            [
                f"{run_name(folder)} ({results['script']})",
                str(results["seed"]),
                labelled,
                cell(pair(measures, "action_probe_mse_over_var")),
                cell(pair(measures, "perturbation_r2")),
                cell(pair(measures, "plan_r2")),
                cell(labelled_pair(measures)),
                cell([policy_error(policy)]),
                join(returns),
                cell(scores),
            ]
        )
    return table


def record(folder: Path, results: dict, labelled: str) -> dict:
    """The numbers of a run with a label budget; None where something was not measured."""
    measures = read_measures(folder, results, labelled)
    budget = results["budgets"].get(labelled, {})
    policy = budget if policy_is_trained(folder) else {}
    result = {
        "run": run_name(folder).partition("__vanilla")[0],
        "script": results["script"],
        "task": results["task"],
        "difficulty": results.get("difficulty"),
        "seed": results["seed"],
        "labelled": labelled,
    }
    for name, values in {
        "action_probe": pair(measures, "action_probe_mse_over_var"),
        "blind_probe": pair(measures, "blind_probe_mse_over_var"),
        "perturbation_r2": pair(measures, "perturbation_r2"),
        "blind_perturbation_r2": pair(measures, "blind_perturbation_r2"),
        "plan_r2": pair(measures, "plan_r2"),
        "blind_plan_r2": pair(measures, "blind_plan_r2"),
        "labelled_error": labelled_pair(measures),
    }.items():
        for videos, value in zip(VIDEOS, values):
            result[f"{name}/{videos}"] = value
    result["action_probe/no_distractors"] = measures.get("action_probe_mse_over_var/no_distractors")
    result["policy_error/unseen_videos"] = policy_error(policy)
    for name in WITHOUT_LABELS:
        result[name] = measures.get(name)
    result["distractor_share"] = measures.get("distractor_share/no_distractors")
    played = evaluations(policy)
    for kind in (*VIDEOS, "environment"):
        evaluation = played.get(kind, {})
        result[f"return_mean/{kind}"] = evaluation.get("return_mean")
        result[f"return_std/{kind}"] = evaluation.get("return_std")
        result[f"episodes/{kind}"] = len(evaluation["returns"]) if "returns" in evaluation else None
    result["data_return"] = results.get("dataset_return")
    return result


def records(folder: Path) -> list[dict]:
    """A run's rows of the CSV, one for each label budget."""
    results = read_results(folder)
    clock = folder / "wall_clock.json"
    hours = sum(json.loads(clock.read_text())["seconds"]) / 3600 if clock.exists() else None
    table = []
    for labelled in results["budgets"] or ["–"]:
        row = record(folder, results, labelled)
        table.append(row | {"run_hours": hours})  # of all budgets of the run together
    return table


def write_csv(folders: list[Path], path: Path):
    table = [row for folder in folders for row in records(folder)]
    with open(path, "w", newline="") as file:
        writer = DictWriter(file, table[0] if table else [], lineterminator="\n")
        writer.writeheader()
        for row in table:
            shown = {}
            for name, value in row.items():
                shown[name] = f"{value:.6g}" if isinstance(value, float) else value
            writer.writerow(shown)
    print(f"{path}: {len(table)} rows")


def print_table(table: list[list[str]]):
    """Rows of text as Markdown, the first one the header."""
    for row in [table[0], ["---"] * len(table[0]), *table[1:]]:
        print("| " + " | ".join(cell.replace(" | ", " \\| ") for cell in row) + " |")


def about(results: dict) -> str:
    """Task, difficulty, and what its returns compare with, as far as they are known."""
    words = [results["task"], results.get("difficulty") or "–"]
    for name in ("dataset_return", "random_return", "reference_return"):
        words.append(number(results.get(name), "g"))
    return "{}, {}: the data {}, random {}, score 1 is {}".format(*words)


def main(folders: Annotated[tuple[Path, ...], tyro.conf.Positional], csv: Path | None = None):
    finished = [folder for folder in folders if (folder / "results.json").exists()]
    unfinished = [str(folder) for folder in folders if folder not in finished]
    if unfinished:
        print(f"no results.json yet in: {', '.join(unfinished)}", file=sys.stderr)
    if csv:
        return write_csv(finished, csv)
    print_table([HEADER] + [row for folder in finished for row in rows(folder)])
    print()
    for folder in finished:
        print(f"{folder}/results.json: {about(read_results(folder))}")


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__)
    except OSError as error:
        raise SystemExit(f"error: {error}")

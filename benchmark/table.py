"""Prints runs side by side, one row for each label budget, as a table in Markdown, or writes them as CSV.

    python benchmark/table.py runs/*                            # runs of any scripts, on any data
    python benchmark/table.py benchmark/results/demo/*/*/*      # committed results
    python benchmark/table.py benchmark/results/mini/*/*/* --csv benchmark/results/mini.csv

z → action is the held-out probe's MSE / Var(a), labelled → action the error of what was trained on labels
themselves: the LAM's action head, the IDM, or BC's actor, whose error on seen videos is not measured. Returns
are mean ± standard deviation over the evaluation's episodes, – where there are none or where the run needed
the latent actions alone and left the policy untrained. Each cell: seen videos | unseen videos.

The CSV has the same rows and every number that plot.py compares, empty where the table has –. What
benchmark/measure.py has written beside the weights counts as the run's, where results.json lacks it.
"""

import json
import sys
from csv import DictWriter
from pathlib import Path
from typing import Annotated

import tyro

VIDEOS = ("seen_videos", "unseen_videos")
HEADER = ["run", "seed", "labelled", "z → action", "labelled → action", "return", "score"]
LABELLED_KINDS = ("action_head", "idm", "actor")  # what is trained on labels: of a LAM, an IDM, BC
WITHOUT_LABELS = ("effective_rank", "shuffled_loss_ratio", "blind_loss_ratio", "copy_loss_ratio")


def read_measures(folder: Path, results: dict, number: str) -> dict:
    """What stage 1 has learned with this label budget, and the error of what the labels have taught BC."""
    measures = {}
    for name in ("lam.json", f"lam_{number}.json", f"idm_{number}.json"):
        if (folder / name).exists():
            measures |= json.loads((folder / name).read_text())
    budget = results["budgets"].get(number, {})
    measures |= results.get("latent_actions", {})
    measures |= budget.get("latent_actions", {})
    measures |= budget.get("idm", {})
    if "action_mse_over_var" in budget:
        measures["actor_mse_over_var/unseen_videos"] = budget["action_mse_over_var"]
    return measures


def policy_is_trained(folder: Path) -> bool:
    args = json.loads((folder / "args.json").read_text())
    return args["bc"].get("num_epochs") != 0


def run_name(folder: Path) -> str:
    """The name of a run's folder; of <name>/seed<n>, the name."""
    return folder.resolve().parent.name if folder.name.startswith("seed") else folder.resolve().name


def pair(measures: dict, name: str) -> list[float | None]:
    return [measures.get(f"{name}/{videos}") for videos in VIDEOS]


def labelled_pair(measures: dict) -> list[float | None]:
    """The error of what the labels have taught."""
    pairs = [pair(measures, f"{kind}_mse_over_var") for kind in LABELLED_KINDS]
    return next((values for values in pairs if any(values)), [None, None])


def cell(values: list[float | None], form: str = ".3f") -> str:
    if not any(value is not None for value in values):
        return "–"
    return " | ".join("–" if value is None else f"{value:{form}}" for value in values)


def rows(folder: Path) -> list[list[str]]:
    """The rows of a run, one for each label budget."""
    results = json.loads((folder / "results.json").read_text())
    trained = policy_is_trained(folder)
    table = []
    for number, budget in results["budgets"].items():
        measures = read_measures(folder, results, number)
        played = [budget[videos] for videos in VIDEOS if videos in budget] if trained else []
        returns = [f"{videos['return_mean']:.1f} ± {videos['return_std']:.1f}" for videos in played]
        table.append(
            [
                f"{run_name(folder)} ({results['script']})",
                str(results["seed"]),
                number,
                cell(pair(measures, "action_probe_mse_over_var")),
                cell(labelled_pair(measures)),
                " | ".join(returns) or "–",
                cell([videos.get("normalized_score") for videos in played]),
            ]
        )
    return table


def records(folder: Path) -> list[dict]:
    """The numbers of a run, one record for each label budget: what the columns of the CSV are."""
    results = json.loads((folder / "results.json").read_text())
    trained = policy_is_trained(folder)
    clock = folder / "wall_clock.json"
    hours = sum(json.loads(clock.read_text())["seconds"]) / 3600 if clock.exists() else None
    table = []
    for number, budget in results["budgets"].items():
        measures = read_measures(folder, results, number)
        record = {
            "run": run_name(folder).partition("__vanilla")[0],
            "script": results["script"],
            "task": results["task"],
            "difficulty": results["difficulty"],
            "seed": results["seed"],
            "labelled": number,
        }
        for kind, values in {
            "action_probe": pair(measures, "action_probe_mse_over_var"),
            "blind_probe": pair(measures, "blind_probe_mse_over_var"),
            "labelled_error": labelled_pair(measures),
        }.items():
            for videos, value in zip(VIDEOS, values):
                record[f"{kind}/{videos}"] = value
        record["action_probe/no_distractors"] = measures.get("action_probe_mse_over_var/no_distractors")
        for name in WITHOUT_LABELS:
            record[name] = measures.get(name)
        record["distractor_share"] = measures.get("distractor_share/no_distractors")
        for videos in VIDEOS:
            played = budget.get(videos, {}) if trained else {}
            record[f"return_mean/{videos}"] = played.get("return_mean")
            record[f"return_std/{videos}"] = played.get("return_std")
            record[f"episodes/{videos}"] = len(played["returns"]) if "returns" in played else None
        record["expert_return"] = results["dataset_return"]
        record["run_hours"] = hours  # of all budgets of the run together
        table.append(record)
    return table


def write_csv(folders: list[Path], path: Path):
    table = [record for folder in folders for record in records(folder)]
    with open(path, "w", newline="") as file:
        writer = DictWriter(file, table[0] if table else [], lineterminator="\n")
        writer.writeheader()
        for record in table:
            shown = {}
            for name, value in record.items():
                shown[name] = f"{value:.6g}" if isinstance(value, float) else value
            writer.writerow(shown)
    print(f"{path}: {len(table)} rows")


def print_table(table: list[list[str]]):
    """Rows of text as Markdown, the first one the header."""
    for row in [table[0], ["---"] * len(table[0]), *table[1:]]:
        print("| " + " | ".join(cell.replace(" | ", " \\| ") for cell in row) + " |")


def main(folders: Annotated[tuple[Path, ...], tyro.conf.Positional], csv: Path | None = None):
    finished = [folder for folder in folders if (folder / "results.json").exists()]
    unfinished = [str(folder) for folder in folders if folder not in finished]
    if unfinished:
        print(f"no results.json yet in: {', '.join(unfinished)}", file=sys.stderr)
    if csv:
        return write_csv(finished, csv)
    print_table([HEADER] + [row for folder in finished for row in rows(folder)])
    about = (
        "{task}, {difficulty}: expert {dataset_return}, random {random_return}, score 1 is {reference_return}"
    )
    print()
    for folder in finished:
        results = json.loads((folder / "results.json").read_text())
        print(f"{folder}/results.json: {about.format(**results)}")


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__)
    except (KeyError, ValueError, OSError) as error:
        raise SystemExit(f"error: no whole run: {error!r}")

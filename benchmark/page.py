"""The paper's tables and overviews of all runs, as rows of text; and one page that shows everything.

A table is a list of rows of text, the first one the header, or None without runs. The page is a single HTML
file that needs no other: figures, tables, and runs side by side with films and pictures. Used by plot.py.
"""

import base64
import html
import importlib
import io
import json
from collections.abc import Sequence
from math import nan
from pathlib import Path

import h5py
import numpy as np
import run as benchmark
import table
from figures import label_of, reconstructions
from PIL import Image
from run import ALL_TASKS, CLEAN, DISTRACTORS, METHODS, ROOT
from stats import (
    CLAIMS,
    MEASURES,
    PAPER_BC,
    Benchmark,
    Claim,
    Run,
    compare,
    correlations,
    load_run,
    runs_of,
)

Rows = list[list[str]]

PAPER_DATASETS = {  # average return, GB (Table 1)
    "cheetah-run": (837.70, 57.7),
    "walker-run": (739.79, 57.8),
    "hopper-hop": (306.63, 57.6),
    "humanoid-walk": (617.22, 58.9),
}
PAPER_TIMES = {  # on an H100 (Table 2)
    "lapo": "7h 38m",
    "laom": "6h 43m",
    "laom_supervised": "7h 6m",
    "bc": "1h 10m",
    "idm": "5h 30m",
}
# Measures that need no labels (benchmark/measure.py); the last is between the evaluation file and a twin
HEALTH = {name: MEASURES[name].about for name in table.WITHOUT_LABELS}
HEALTH["distractor_share"] = "share of Var(z) that changes"

# ---- The paper's tables -----------------------------------------------------------------------------------


def table_1(bench: Benchmark) -> Rows | None:
    """Datasets."""
    rows = [["dataset", "trajectories", "average return", "GB", "paper: average return", "paper: GB"]]
    for task in ALL_TASKS:
        path = ROOT / benchmark.data_file(bench.scale, task, DISTRACTORS)
        if not path.exists():
            continue
        with h5py.File(path) as file:
            number = sum(name.isdigit() for name in file)
            average = file.attrs["dataset_return"]
        size = path.stat().st_size / 1e9
        paper_average, paper_size = PAPER_DATASETS[task]
        row = [task, f"{number:,}", f"{average:.2f}", f"{size:.1f}"]
        rows.append([*row, f"{paper_average:.2f}", str(paper_size)])
    return rows if len(rows) > 1 else None


def table_2(bench: Benchmark) -> Rows | None:
    """Time of each method."""
    rows = [["method", "time per run", "label budgets in it", "runs", "machine", "paper, H100"]]
    for name in [*PAPER_TIMES, *bench.scale.variants]:
        runs = [run for run in bench.find(name) if run.wall_clock()]
        if not runs:
            continue
        clocks = [run.wall_clock() for run in runs]
        minutes = round(np.mean([sum(clock["seconds"]) for clock in clocks]) / 60)
        time = f"{minutes // 60}h {minutes % 60}m"
        budgets = ", ".join(runs[0].results["budgets"])
        machines = ", ".join(sorted({clock["machine"] for clock in clocks}))
        paper_time = PAPER_TIMES.get(name, "–")
        rows.append([label_of(name), time, budgets, str(len(runs)), machines, paper_time])
    return rows if len(rows) > 1 else None


def table_3(bench: Benchmark) -> Rows | None:
    """BC on all labels."""
    rows = [["task", "with distractors", "without", "paper: with", "paper: without"]]
    found = False
    for task in ALL_TASKS:
        cells = []
        for difficulty in (DISTRACTORS, CLEAN):
            played = [run.played("all", bench.videos) for run in bench.find("bc", difficulty, task)]
            means = [evaluation["return_mean"] for evaluation in played if evaluation]
            found = found or bool(means)
            seeds = ", ".join(f"{mean:.1f}" for mean in means)
            cells.append(f"{np.mean(means):.1f} (seeds: {seeds})" if means else "–")
        rows.append([task, *cells, str(PAPER_BC[task][DISTRACTORS]), str(PAPER_BC[task][CLEAN])])
    return rows if found else None


def table_4(bench: Benchmark) -> Rows:
    """Numbers of parameters, for humanoid-walk with its 21 actions."""
    rows = [["network, 21 actions", "paper", "our paper preset", f"{bench.scale_name} scale"]]
    for label, method, network, paper_total in (
        ("LAPO", "lapo", "lam", 211_847_849),
        ("LAOM", "laom", "lam", 192_307_136),
        ("LAOM+supervision", "laom_supervised", "lam", 192_479_189),
        ("BC (on all stages)", "laom", "actor", 107_541_504),
        ("IDM", "idm", "idm", 192_258_965),
    ):
        of_preset = count_parameters(f"{method}.py paper", network)
        of_scale = count_parameters(bench.scale.methods[method], network)
        rows.append([label, f"{paper_total:,}", f"{of_preset:,}", f"{of_scale:,}"])
    return rows


def count_parameters(command: str, network: str) -> int:
    """Parameters of a script's network as the command makes it."""
    import torch  # not above: it takes seconds

    script, *flags = command.split()
    method = importlib.import_module(script.removesuffix(".py"))
    args = method.parse_args(flags)
    with torch.device("meta"):
        if network == "actor":
            module = method.Actor(args.bc, args.frame_stack, args.lam.latent_action_dim)
        elif network == "idm":
            module = method.IDM(args.idm, args.frame_stack, 21)
        elif script == "laom_supervised.py":
            module = method.LAM(args.lam, args.frame_stack, 21)
        else:
            module = method.LAM(args.lam, args.frame_stack)
    return sum(parameter.numel() for parameter in module.parameters())


TABLES = {"table_1": table_1, "table_2": table_2, "table_3": table_3, "table_4": table_4}

# ---- Overviews of all runs --------------------------------------------------------------------------------

OVERVIEWS = {
    "Means over seeds": "as below; returns ± standard deviation over seeds, of the means over episodes",
    "All runs": "cells are seen | unseen videos; errors MSE / Var(a), "
    "returns mean ± standard deviation over episodes",
    "Latent actions": "probe errors, MSE / Var(a), and R² of the perturbation and of the expert's action, "
    "seen | unseen videos; z(obs, obs) cannot know what came next; online probes are those of training "
    "batches, the mean of the last five values in metrics.jsonl, and so is the loss of cloning z, over "
    "Var(z): an actor that stands at 1 has learned nothing of z, and its return says nothing of z",
    "The paper's claims": "geometric means of the ratios of n pairs (task, seed), with 95% t intervals of "
    "their logarithms; a claim holds or fails where the whole interval lies on one side of 1, however large "
    "the ratio; verdicts on seen | unseen videos where they differ; unexplained is 1 - R²; scores are over "
    "BC on all labels of the same kind of data",
    "Which measure predicts the return": "Spearman's rank correlations with the return over n runs of a "
    "task, methods and seeds together, with distractors, seen | unseen videos; positive: what the measure "
    "calls better returns more; nine independent runs exceed ±0.7 by chance one time in twenty, but three "
    "methods with three seeds each 7 to 29 times in a hundred, by the seeds' noise; three runs reach ±1 one "
    "time in three; LAPO's FDM predicts pixels, LAOM's embeddings",
}


def overviews(bench: Benchmark) -> dict[str, Rows]:
    """Title → table, of those that have rows."""
    runs = in_order(bench)
    tables = {
        "Means over seeds": mean_rows(bench, runs),
        "All runs": run_rows(bench, runs),
        "Latent actions": lam_rows(runs),
        "The paper's claims": claim_rows(bench),
        "Which measure predicts the return": correlation_rows(bench),
    }
    return {title: rows for title, rows in tables.items() if len(rows) > 1}


def claim_rows(bench: Benchmark) -> Rows:
    """Each claim by each of its measures, where its runs are there."""
    header = ["the paper's claim", f"ratio of, {bench.scale.most_labels} labelled", "holds if", "n"]
    rows = [[*header, "task: seeds", "seen videos", "unseen videos", "verdict", "paper"]]
    for claim in CLAIMS:
        for measure in claim.measures:
            row = claim_row(bench, claim, measure)
            if row:
                rows.append(row)
    return rows


def claim_row(bench: Benchmark, claim: Claim, measure: str) -> list[str] | None:
    """None if no task and seed has all of the claim's runs."""
    comparisons = [compare(bench, claim, measure, videos) for videos in table.VIDEOS]
    pairs = {}
    for comparison in comparisons:
        pairs |= dict.fromkeys([*comparison.log_ratios, *comparison.left_out])
    if not pairs:
        return None
    seeds_of_tasks = {}
    for task, seed in sorted(pairs, key=lambda pair: (ALL_TASKS.index(pair[0]), pair[1])):
        seeds_of_tasks.setdefault(task, []).append(str(seed))
    names = [name.replace(f"__{CLEAN}", " without distractors") for name in runs_of(bench, claim)]
    label = " / ".join(names[:2])
    if claim.than:
        label = f"({label}) / ({' / '.join(names[2:])})"
    return [
        claim.text,
        f"{MEASURES[measure].about}: {label}",
        claim.direction(measure),
        seen_and_unseen([str(len(comparison.log_ratios)) for comparison in comparisons]),
        "; ".join(f"{task}: {', '.join(seeds)}" for task, seeds in seeds_of_tasks.items()),
        *map(str, comparisons),
        seen_and_unseen([comparison.verdict(claim.direction(measure)) for comparison in comparisons]),
        claim.paper.get(measure, "–"),
    ]


def correlation_rows(bench: Benchmark) -> Rows:
    """Each measure's rank correlation with the return in each task, and its mean over tasks."""
    bench = bench.only(benchmark.list_figures(bench.scale)["measures_and_returns"])
    tasks = [task for task in ALL_TASKS if any(run.task == task for run in bench.runs.values())]
    header = [f"measure, {bench.scale.most_labels} labelled", "better is"]
    for task in tasks:
        header += [task, "n"]
    rows = [[*header, "mean of tasks"]]
    for name, measure in MEASURES.items():
        found = [correlations(bench, name, videos) for videos in table.VIDEOS]
        if name == "return_mean" or not any(found):
            continue
        row = [measure.about, measure.better]
        of_tasks = []  # (tasks, 2)
        for task in tasks:
            (seen, seen_n), (unseen, unseen_n) = [of_videos.get(task, (nan, 0)) for of_videos in found]
            of_tasks.append([seen, unseen])
            row += [signed([seen, unseen]), seen_and_unseen([str(seen_n), str(unseen_n)])]
        rows.append([*row, signed(np.mean(of_tasks, 0))])
    return rows


def signed(correlations: list[float]) -> str:
    return table.join([table.number(correlation, "+.2f") for correlation in correlations])


def seen_and_unseen(cells: list[str]) -> str:
    """Once, if both are the same."""
    return " | ".join(dict.fromkeys(cells))


def kind_of(run: Run) -> str:
    """What the run is called at this scale; one that is no run of it, by its folder."""
    for name in METHODS:
        if name in run.names:
            return name
    return min(run.names, default=table.run_name(run.folder))


def in_order(bench: Benchmark) -> list[Run]:
    kinds = [*METHODS, *benchmark.list_runs(bench.scale)]
    return sorted(
        bench.runs.values(),
        key=lambda run: (ALL_TASKS.index(run.task), run.difficulty, kinds.index(kind_of(run)), run.seed),
    )


def run_cells(run: Run) -> list[str]:
    distractors = {DISTRACTORS: "yes", CLEAN: "no"}.get(run.difficulty, run.difficulty)
    return [kind_of(run), run.task, distractors, str(run.seed)]


def mean_rows(bench: Benchmark, runs: list[Run]) -> Rows:
    """The same with the mean over seeds, where there are several."""
    records = {}
    for run in runs:
        name, task, distractors, _ = run_cells(run)
        for labelled in run.results["budgets"]:
            record = table.record(run.folder, run.results, labelled)
            records.setdefault((name, task, distractors, labelled), []).append(record)
    rows = [["run", "task", "distractors", "seeds", *table.HEADER[2:]]]
    for (name, task, distractors, labelled), of_seeds in records.items():
        if len(of_seeds) == 1:
            continue
        difficulty = of_seeds[0]["difficulty"]
        same_data = bench.narrowed(lambda other: other.difficulty == difficulty)
        reference, _ = same_data.reference(task, difficulty)
        cells = []
        for measure in ("action_probe", "perturbation_r2", "plan_r2", "labelled_error"):
            means = [
                mean_of([record[f"{measure}/{videos}"] for record in of_seeds]) for videos in table.VIDEOS
            ]
            cells.append(table.cell(means))
        cells.append(table.cell([mean_of([record["policy_error/unseen_videos"] for record in of_seeds])]))
        returns, scores = [], []
        for videos in table.VIDEOS:
            means = [record[f"return_mean/{videos}"] for record in of_seeds]
            mean = mean_of(means)
            returns.append("–" if mean is None else f"{mean:.1f} ± {np.std(means, ddof=1):.1f}")
            scores.append("–" if mean is None else f"{mean / reference:.2f}")
        seeds = ", ".join(str(record["seed"]) for record in of_seeds)
        rows.append(
            [name, task, distractors, seeds, labelled, *cells, table.join(returns), table.join(scores)]
        )
    return rows


def mean_of(numbers: Sequence[float | None]) -> float | None:
    """None where one is missing."""
    return None if None in numbers else float(np.mean(numbers))


def run_rows(bench: Benchmark, runs: list[Run]) -> Rows:
    """What all runs have measured, one row for each label budget."""
    rows = [["run", "task", "distractors", "seed", *table.HEADER[2:]]]
    for run in runs:
        same_data = bench.narrowed(lambda other: other.difficulty == run.difficulty)
        reference, _ = same_data.reference(run.task, run.difficulty)
        for _, _, number, *cells, score in table.rows(run.folder):
            if score != "–":
                means = [run.played(number, videos).get("return_mean", nan) for videos in table.VIDEOS]
                score = table.join([table.number(mean / reference, ".2f") for mean in means])
            rows.append([*run_cells(run), number, *cells, score])
    return rows


def lam_rows(runs: list[Run]) -> Rows:
    """What each latent action model has learned, with the most labels."""
    header = ["run", "task", "distractors", "seed", "z → action", "z(obs, obs) → action"]
    header += ["perturbation R²", "of z(obs, obs)", "plan R²", "of z(obs, obs)"]
    header += ["z → action, twins without distractors", *HEALTH.values()]
    rows = [[*header, "online probes, MSE, z | embedding → action", "loss of cloning z"]]
    of_z = ["action_probe_mse_over_var", "blind_probe_mse_over_var"]
    of_z += ["perturbation_r2", "blind_perturbation_r2", "plan_r2", "blind_plan_r2"]
    for run in runs:
        if "lam" not in run.args:
            continue
        measures = run.measures()
        numbers = [measures.get("action_probe_mse_over_var/no_distractors")]
        for name in HEALTH:
            numbers.append(measures.get(name, measures.get(f"{name}/no_distractors")))
        online = [run.online("lam/action_probe_mse"), run.online("lam/obs_action_probe_mse")]
        rows.append(
            [
                *run_cells(run),
                *[table.cell(table.pair(measures, name)) for name in of_z],
                *[short(number) for number in numbers],
                " | ".join(short(number) for number in online),
                short(run.online("bc/loss")),
            ]
        )
    return rows


def short(number: float | None) -> str:
    return "–" if number is None else f"{number:.3g}"


# ---- The page ---------------------------------------------------------------------------------------------

STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1d1d1f; --soft: #6b6b70; --paper: #fbfbf9; --card: #ffffff; --line: #e2e2de;
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececec; --soft: #a2a2a8; --paper: #17181a; --card: #212326; --line: #37393d; }
}
body {
  font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 0 auto; max-width: 1500px; padding: 2rem 1.5rem 4rem;
}
h1 { font-size: 1.7rem; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 1rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: .3rem 0; max-width: 75ch; }
.soft { color: var(--soft); font-size: .88rem; }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: .85rem; margin: .35rem 0 0; overflow-wrap: anywhere; }
.figures { display: flex; flex-wrap: wrap; gap: 1.2rem; align-items: flex-start; }
.figures figure {
  background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: .8rem;
  max-width: 100%; box-sizing: border-box;
}
.figures img { display: block; max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td {
  text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line);
  white-space: nowrap;
}
th { color: var(--soft); font-weight: 600; }
.runs { display: grid; grid-template-columns: repeat(auto-fill, minmax(27rem, 1fr)); gap: 1.2rem; }
.run {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 1rem;
  display: grid; gap: .8rem; align-content: start; min-width: 0;
}
.run img {
  width: 100%; max-height: 30rem; object-fit: contain; object-position: left; display: block;
  image-rendering: pixelated;
}
.run td:first-child { white-space: normal; }
"""


def write_page(
    bench: Benchmark, drawn: dict[str, Path], tables: dict[str, Rows], chosen: tuple[Path, ...], path: Path
):
    """Figures from the files drawn, tables, and runs side by side: the chosen ones, or one of each kind."""
    about = benchmark.list_figures(bench.scale)
    figures = []
    for name, picture in drawn.items():
        width = int(Image.open(picture).width / 1.4)
        alt = f"{name}: {about[name].about}"
        figures.append(f"<figure>{inline(picture.read_bytes(), 'png', alt, width)}</figure>")
    shown_tables = []
    for name, rows in tables.items():
        shown_tables.append(f"<h3>Table {name[-1]}: {about[name].about}</h3>{html_table(rows)}<br>")
    cards = [run_card(run) for run in runs_to_show(bench, chosen)]
    whole = []
    for title, rows in overviews(bench).items():
        whole.append(f'<h2>{title}</h2><p class="soft">{html.escape(OVERVIEWS[title])}</p>{html_table(rows)}')

    newline = "\n"
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Latent actions, {bench.scale_name} scale</title><style>{STYLE}</style></head><body>
<h1>Latent actions in the presence of distractors: {bench.scale_name} scale</h1>
<p class="soft">{html.escape(provenance(bench))}</p>
<p class="soft">Lines and bars: means over tasks, of means over seeds; dots: seeds; vertical lines: 95%
bootstrap intervals over seeds and episodes. Score: return over that of BC on all labels at this scale, on
seen videos, or over the paper's (Table 3) where a kind of data has no such run. Hollow diamonds: the paper's
numbers.</p>
<h2>Figures</h2><div class="figures">{newline.join(figures) or "No figure has its runs yet."}</div>
<h2>Tables</h2>{newline.join(shown_tables)}
<h2>Runs side by side</h2><div class="runs">{newline.join(cards)}</div>
{newline.join(whole)}
</body></html>
"""
    path.write_text(page)


def provenance(bench: Benchmark) -> str:
    """How many runs, in what time, on which machines."""
    clocks = [run.wall_clock() for run in bench.runs.values() if run.wall_clock()]
    words = [f"{len(bench.runs)} runs"]
    if clocks:
        seconds = sum(sum(clock["seconds"]) for clock in clocks)
        machines = sorted({clock["machine"] for clock in clocks})
        words += [f"{seconds / 3600:.1f} hours", "; ".join(machines)]
    return ", ".join(words)


def runs_to_show(bench: Benchmark, chosen: tuple[Path, ...]) -> list[Run]:
    """The chosen runs, or the first seed of each kind with distractors; methods first."""
    if chosen:
        finished = [folder for folder in chosen if (folder / "results.json").exists()]
        skipped = [str(folder) for folder in chosen if folder not in finished]
        if not finished:
            raise SystemExit(f"error: no results.json in {', '.join(skipped)}")
        if skipped:
            print(f"not on the page, as they have no results.json: {', '.join(skipped)}")
        runs = [load_run(folder, bench.scale) for folder in finished]
    else:
        first = {}
        for run in in_order(bench):
            if run.difficulty == DISTRACTORS:
                first.setdefault(kind_of(run), run)
        runs = list(first.values())
    places = {name: place for place, name in enumerate(METHODS)}
    return sorted(runs, key=lambda run: places.get(kind_of(run), len(METHODS)))


def run_card(run: Run) -> str:
    """A run's films, pictures and label-free measures."""
    kind = kind_of(run)
    distractors = "no distractors" if run.difficulty == CLEAN else "distractors"
    about = f"{run.task}, {distractors}, seed {run.seed}"
    pictures = []  # (bytes, kind of file, caption)
    for number in ["all", *run.budgets[-1:]] if table.policy_is_trained(run.folder) else []:
        film = run.folder / f"rollout_{number}.gif"
        if film.exists():
            played = table.evaluations(run.results["budgets"].get(str(number), {}))
            returns = [f"{name} {result['return_mean']:.0f}" for name, result in played.items()]
            caption = f"{number} labelled trajectories; returns: {', '.join(returns).replace('_', ' ')}"
            pictures.append((small_film(film), "webp", caption))
    for path in reconstructions(run):
        caption = f"{path.stem}: above true frames of unseen videos, below what its embedding holds"
        pictures.append((two_lines(path), "png", caption))
    prediction = run.folder / "prediction.png"
    if prediction.exists():
        caption = "observations, next observations, and the prediction of the LAM"
        pictures.append((two_lines(prediction), "png", caption))

    parts = []
    for data, file, caption in pictures:
        image = inline(data, file, f"{kind}, {caption}")
        parts.append(f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>")
    rows = health_rows(run)
    if len(rows) > 1:
        parts.append(html_table(rows))
    folder = run.folder.relative_to(ROOT) if run.folder.is_relative_to(ROOT) else run.folder
    header = f"<h3>{html.escape(kind)}</h3>"
    header += f'<p class="soft">{html.escape(about)}<br>{html.escape(str(folder))}</p>'
    return f'<article class="run"><header>{header}</header>{"".join(parts)}</article>'


def health_rows(run: Run) -> Rows:
    """The measures that need no labels, of every LAM or IDM of the run."""
    found = {}
    for path in sorted([*run.folder.glob("lam*.json"), *run.folder.glob("idm*.json")]):
        found[path.stem] = json.loads(path.read_text())
    if not found and "latent_actions" in run.results:
        found["lam"] = run.results["latent_actions"]
    if not found:
        for budget in run.budgets:
            found[f"{budget} labelled"] = run.measures(budget)
    names = []
    for measures in found.values():
        names += [name for name in measures if name.partition("/")[0] in HEALTH and name not in names]
    rows = [["without labels", *found]]
    for name in names:
        kind, _, twin = name.partition("/")
        about = HEALTH[kind]
        if twin:
            about += " without distractors" if twin == "no_distractors" else " under other distractors"
        rows.append([about, *[short(measures.get(name)) for measures in found.values()]])
    return rows


def html_table(rows: Rows) -> str:
    header, *body = [[html.escape(cell) for cell in row] for row in rows]
    head = "".join(f"<th>{cell}</th>" for cell in header)
    lines = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body]
    inner = f"<thead><tr>{head}</tr></thead><tbody>\n" + "\n".join(lines) + "\n</tbody>"
    return f'<div class="scroll"><table>{inner}</table></div>'


def inline(data: bytes, kind: str, alt: str, width: int | None = None) -> str:
    """An image inside the page."""
    size = f' width="{width}"' if width else ""
    text = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(alt)}"{size} src="data:image/{kind};base64,{text}">'


def small_film(path: Path) -> bytes:
    """Every second frame, at the size they were rendered in, as an animated WebP: a tenth of the bytes."""
    frames = []
    with Image.open(path) as film:
        size = (film.width // 2, film.height // 2)
        for i in range(0, film.n_frames, 2):
            film.seek(i)
            frames.append(film.convert("RGB").resize(size, Image.Resampling.NEAREST))
        duration = 2 * film.info["duration"]
    data = io.BytesIO()
    more = frames[1:]
    frames[0].save(data, "WEBP", save_all=True, append_images=more, duration=duration, loop=0, quality=75)
    return data.getvalue()


def two_lines(path: Path) -> bytes:
    """A picture of many columns, its right half below its left half: twice as large on the page."""
    picture = np.asarray(Image.open(path).convert("RGB"))
    width = picture.shape[1]
    left = picture[:, : width // 2]
    right = picture[:, (width + 1) // 2 :]
    gap = np.full((width // 100, *left.shape[1:]), 128, np.uint8)
    data = io.BytesIO()
    Image.fromarray(np.concatenate([left, gap, right])).save(data, "PNG")
    return data.getvalue()

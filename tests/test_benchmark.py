"""benchmark/: commands that the scripts accept and that any engine runs; the table of finished runs,
statistics, figures; offline measures.

The runs that are drawn are written here in the format of the scripts, with numbers that are easy to tell
apart. Measured are finished runs of the tiny recipe.
"""

import csv
import dataclasses
import functools
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import commands
import figures
import h5py
import measure
import numpy as np
import plot
import pytest
import results
import stats
import table
import throughput
import torch
from commands import CLEAN, DISTRACTORS, METHODS, SCALES
from conftest import ROOT, beside, wait_for
from PIL import Image

import collect_data

# a scale as small as the real ones are large: two tasks, two seeds, two sizes of z
TINY = dataclasses.replace(
    SCALES["demo"],
    tasks=("cheetah-run", "walker-run"),
    other_tasks=("walker-run", "hopper-hop"),
    seeds=(0, 1),
    smaller_dims=(16, 64),
)
ALL = commands.list_figures(TINY)


@functools.cache
def parse(command: str):
    """What a script understands behind `python`."""
    script, *argv = shlex.split(command)
    return importlib.import_module(Path(script).stem).parse_args(argv)


def lines_of(scale, *words: str, **narrower) -> list[str]:
    scale = dataclasses.replace(scale, **narrower)
    figures = commands.choose_figures(commands.list_figures(scale) | commands.list_night(scale), words)
    return commands.list_lines(scale, figures, "runs/benchmark/scale")


def trained_by(line: str) -> str:
    """The part of a line that trains, behind `python`."""
    (part,) = [part for part in line.split(" && ") if "--runs" in part]
    return part.removeprefix("python ")


def key_of(line: str) -> tuple[str, str, int]:
    """(folder's name, task of the run, seed)."""
    args = parse(trained_by(line))
    task = Path((args.labeled_data or args.data)[0]).name.split("__")[0]
    return Path(args.runs).name, task, args.seed


# ---- commands.py -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale_name", list(SCALES))
def test_scripts_accept_every_line(scale_name):
    scale = SCALES[scale_name]
    lines = lines_of(scale, "all")
    assert len({trained_by(line) for line in lines}) == len(lines)
    for line in {re.search(r"--runs \S+/(\w+?)(__vanilla)?( |$)", line)[1]: line for line in lines}.values():
        *collections, trained, measured = [part.removeprefix("python ") for part in line.split(" && ")]
        if "measure.py" not in measured:
            collections, trained = [*collections, trained], measured
        args = parse(trained)
        assert set(map(str, args.num_labeled_trajectories)) <= {"all", *map(str, scale.budgets)}
        made = []
        for collection in collections:
            collected = parse(collection)
            attributes = vars(collected) | {"split": "train"}
            attributes["domain_name"], _, attributes["task_name"] = collected.task.partition("-")
            made.append(str(collect_data.dataset_path(collected.output, attributes)))
        assert {*args.data, *args.labeled_data} <= set(made)
        if "measure.py" in measured and CLEAN not in args.runs:
            twin = shlex.split(measured)[-1]
            attributes = vars(parse(collections[0])) | {"split": "val", "difficulty": CLEAN}
            attributes["domain_name"], _, attributes["task_name"] = attributes["task"].partition("-")
            assert twin == str(collect_data.dataset_path(parse(collections[-1]).output, attributes))


def test_every_figure_has_its_runs():
    for scale in SCALES.values():
        runs, figures = commands.list_runs(scale, scale.tasks[0]), commands.list_figures(scale)
        assert {name for figure in figures.values() for name, _ in figure.runs} == set(runs)
    paper = {f"figure_{number:02}" for number in (1, *range(5, 16))} | {"table_3"}
    assert {re.match(r"[a-z]+_\d+", name)[0] for name in ALL} == paper


def test_figures_share_runs():
    lines = lines_of(SCALES["mini"], "figure_08")
    assert len(lines) == len(METHODS) * 2 * 3
    assert lines == lines_of(SCALES["mini"], "figure_01", "figure_08", "figure_09a")
    # LAOM with augmentation is LAOM where the preset augments
    names = {}
    for scale in ("paper", "demo"):
        lines = lines_of(SCALES[scale], "figure_06", tasks=("cheetah-run",), seeds=(0,))
        names[scale] = {key_of(line)[0] for line in lines}
    assert "laom_no_aug" in names["paper"] and "laom_aug" not in names["paper"]
    assert "laom_aug" in names["demo"] and "laom_no_aug" not in names["demo"]


def test_the_ablation_changes_one_thing_at_a_time():
    """Figure 6, at the paper's scale: what each step has that the step before has not."""
    runs = commands.list_runs(SCALES["paper"], "cheetah-run")
    steps = [
        parse(runs[name]).lam for name in commands.list_figures(SCALES["paper"])["figure_06"].distractors
    ]
    changes = []
    for old, new in zip(map(vars, steps), map(vars, steps[1:])):
        changes.append({name: new[name] for name in new if new[name] != old.get(name)})
    assert changes[0] == {"future_obs_offset": 10} and changes[1] == {"latent_action_dim": 8192}
    assert type(steps[2]).__module__ == "lapo" and type(steps[3]).__module__ == "laom"
    assert changes[2]["use_aug"] is False and changes[3] == {"use_aug": True}


@pytest.mark.parametrize("scale_name", ["ladder", "ladder_noise"])
def test_the_ladder_is_of_latent_actions_alone(scale_name):
    """Five steps with three seeds, and FSQ with one; a decision for each step of the simulation."""
    lines = lines_of(SCALES[scale_name], "ladder")
    keys = [key_of(line) for line in lines]
    steps = commands.list_figures(SCALES[scale_name])["figure_06"].distractors
    assert keys[:15] == [(name, "cheetah-run", seed) for seed in (0, 1, 2) for name in steps]
    assert keys[15:] == [("lapo_original_fsq", "cheetah-run", 0)]
    for line in lines:
        args = parse(trained_by(line))
        assert args.bc.num_epochs == 0 and args.num_labeled_trajectories == (2,)
        assert args.lam.future_obs_offset == (1 if "original" in args.runs else 10)
        assert "--action-repeat 1 " in line and ("--action-noise 0.3 " in line) == (scale_name != "ladder")


def test_a_night_decides_in_its_order():
    """All methods on one task, on the others, with the other seeds, without distractors; data per seed."""
    keys = [key_of(line) for line in lines_of(SCALES["mini"], "night")]
    assert keys[:5] == [(name, "cheetah-run", 0) for name in METHODS]
    assert keys[5:10] == [(name, "walker-run", 0) for name in METHODS]
    assert {(task, seed) for _, task, seed in keys[10:30]} == {
        (task, seed) for task in SCALES["mini"].tasks for seed in (1, 2)
    }
    clean = {(f"{name}__{CLEAN}", "cheetah-run", seed) for name in METHODS for seed in (0, 1, 2)}
    assert set(keys[30:]) == clean and len(keys) == 45
    some = [key_of(line) for line in lines_of(SCALES["mini"], "night", tasks=("walker-run",), seeds=(1,))]
    assert some == [(name + end, "walker-run", 1) for end in ("", f"__{CLEAN}") for name in METHODS]
    for line in lines_of(SCALES["mini"], "night", seeds=(2,)):
        assert "--seed 2 --output data/mini/seed2" in line and "--data data/mini/seed2/" in line


def test_a_task_has_its_own_flags():
    """mini's walker-run takes more passes."""
    scale = SCALES["mini"]
    passes = [parse(commands.list_runs(scale, task)["laom"]).bc.num_epochs for task in scale.tasks]
    assert passes == [5, 12]


@pytest.mark.parametrize("scale_name", list(SCALES))
def test_a_variant_has_the_sizes_of_the_method_it_is_like(scale_name, tmp_path):
    path = tmp_path / "my scripts" / "laom_cosine.py"
    scale = commands.with_variant(SCALES[scale_name], str(path), "laom")
    runs = commands.list_runs(scale, "cheetah-run")
    assert shlex.split(runs["laom_cosine"]) == [str(path), *shlex.split(runs["laom"])[1:]]
    figures = commands.list_figures(scale)
    assert figures["figure_01"].distractors == ["bc", "idm", "lapo", "laom", "laom_cosine", "laom_supervised"]
    assert figures["figure_07"].clean == ["lapo", "laom", "laom_cosine"]
    assert figures["figure_06"] == commands.list_figures(SCALES[scale_name])["figure_06"]


def test_a_variant_alone_is_printed(tmp_path, capsys):
    path = tmp_path / "laom_cosine.py"
    path.touch()
    commands.main(commands.Args((), "mini", ("walker-run",), (1,), path, "laom"))
    (line,) = capsys.readouterr().out.splitlines()
    assert f"&& python {path} demo" in line and "--runs runs/benchmark/mini/laom_cosine && " in line
    for wrong, message in (
        ({"like": "laom"}, "go together"),
        ({"script": path.parent, "like": "bc"}, "no such"),
    ):
        with pytest.raises(SystemExit, match=f"error: --script .*{message}"):
            commands.main(commands.Args(("figure_01",), **wrong))
    with pytest.raises(SystemExit, match="error: no figure figure_99: there are figure_01"):
        commands.main(commands.Args(("figure_99",)))


def test_xargs_runs_a_line_and_goes_on_after_a_signal(clean_file, tmp_path):
    """In a folder whose name has a space and a quote, with SIGTERM in between. Its data are there already."""
    small = "--device cpu --no-compile --precision fp32 --eval.num-episodes 1 --eval.num-workers 1"
    small += " --no-rehearsal --log-interval 1 --eval.max-steps 5 --bc.num-epochs 1 --bc.batch-size 64"
    lam = "--lam.num-epochs 1 --lam.batch-size 16 --lam.latent-action-dim 8 --decoder.num-updates 5"
    folder = tmp_path / "Ann's runs"
    shutil.copytree(clean_file.parent, folder / "data")
    scale = dataclasses.replace(
        SCALES["demo"],
        data=f"{folder}/data",
        action_repeat=1,
        action_noise=0,
        num_trajectories=8,
        num_eval_trajectories=2,
        budgets=(1,),
        methods={name: f"{name}.py demo {small}" for name in METHODS},
    )
    scale.methods["laom"] += f" {lam} --decoder.batch-size 16"
    figure = commands.Figure("", clean=["laom"])
    lines = commands.list_lines(scale, {"figure": figure}, f"{folder}/runs")
    text = tmp_path / "lines.txt"
    text.write_text("\n".join(lines))

    def start() -> subprocess.Popen:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        engine = ["xargs", "-a", str(text), "-d", r"\n", "-n", "1", "-P", "2", "sh", "-c"]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(engine, cwd=ROOT, env=environment, start_new_session=True, **silent)

    def has_begun() -> bool:
        return any(path.stat().st_size for path in folder.glob("runs/laom__vanilla/*/metrics.jsonl"))

    process = start()
    wait_for(process, has_begun)
    os.killpg(process.pid, signal.SIGTERM)  # what `timeout` does
    process.communicate()
    (run,) = folder.glob("runs/laom__vanilla/*")
    assert (run / "checkpoint.pt").exists() and not (run / "results.json").exists()
    process = start()
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert not (run / "checkpoint.pt").exists() and "1" in results.read_json(run / "results.json")["budgets"]
    assert results.read_json(run / "lam.json").keys() >= {"shuffled_loss_ratio", "copy_loss_ratio"}


# ---- Runs as the scripts leave them ------------------------------------------------------------------------


def measures_of(script: str, error: float) -> dict:
    """What a script measures with a label budget; of R² that of the error's complement."""
    if script == "bc.py":
        return {"policy_mse_over_var/unseen_videos": error}
    kinds = ["idm"] if script == "idm.py" else ["action_probe", "blind_probe"]
    kinds += ["action_head"] if script == "laom_supervised.py" else []
    result = {"effective_rank": 12.5}
    for videos in results.VIDEOS:
        for kind in kinds:
            result[f"{kind}_mse_over_var/{videos}"] = error
        result |= {f"perturbation_r2/{videos}": 1 - error, f"blind_perturbation_r2/{videos}": 0.01}
        result |= {f"plan_r2/{videos}": 1 - error / 2, f"blind_plan_r2/{videos}": 0.4}
    return result


class Writer:
    """Writes finished runs of the tiny scale under a folder, and reads them."""

    def __init__(self, folder: Path):
        self.folder = folder

    def run(
        self, name: str, task="cheetah-run", difficulty=DISTRACTORS, seed=0, score=0.5, error=0.3
    ) -> Path:
        """A run's folder as its script leaves it, with returns about score times 100."""
        command = commands.list_runs(TINY, task, difficulty)[name]
        script = Path(command.split()[0]).name
        args = dataclasses.asdict(parse(command)) | {"seed": seed}
        parent = name if difficulty == DISTRACTORS else f"{name}__{difficulty}"
        folder = self.folder / "runs" / parent / f"{task}__{Path(script).stem}__{seed}__01234567"
        folder.mkdir(parents=True)
        (folder / "args.json").write_text(json.dumps(args))
        measures = measures_of(script, error)
        for videos in results.VIDEOS:
            returns = 100 * score + np.random.default_rng(seed).normal(0, 5, 10)
            measures |= {f"returns/{videos}": returns.tolist(), f"return_mean/{videos}": 100 * score}
            measures |= {f"return_std/{videos}": 5.0, f"normalized_score/{videos}": score}
        about = {"script": script, "task": task, "difficulty": difficulty, "seed": seed, "hours": 0.05}
        about |= {"dataset_return": 820.2, "reference_return": 823, "random_return": None}
        budgets = {str(budget): dict(measures) for budget in args["num_labeled_trajectories"]}
        (folder / "results.json").write_text(json.dumps(about | {"budgets": budgets}))
        if "lam" in args:
            loss = {"stage": "actor", "actor/loss": 0.7}
            probes = {"lam/action_probe_mse": error, "lam/obs_action_probe_mse": error / 2}
            lines = [{"stage": "lam"} | probes, loss]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    def figure(self, name: str, **changes):
        """All runs of a figure."""
        for (run, difficulty), task, seed in (
            (key, task, seed) for key in ALL[name].runs for task in TINY.tasks for seed in TINY.seeds
        ):
            if not list(
                self.folder.glob(f"runs/{run}{'__vanilla' * (difficulty == CLEAN)}/{task}*__{seed}__*")
            ):
                self.run(run, task, difficulty, seed, **changes)

    def pairs(self, names: dict[str, list[float]]):
        """Of each run on two tasks with two seeds: errors of 0.1 and scores of 0.1 times its numbers."""
        places = [(task, seed) for task in TINY.tasks for seed in TINY.seeds]
        for name, numbers in names.items():
            for (task, seed), number in zip(places, numbers):
                self.run(name, task, seed=seed, score=0.1 * number, error=0.1 * number)

    def change(self, folder: Path, budget: str = "8", **measures):
        """Other numbers in results.json; __ is a slash."""
        changed = results.read_json(folder / "results.json")
        changed["budgets"][budget] |= {name.replace("__", "/"): value for name, value in measures.items()}
        (folder / "results.json").write_text(json.dumps(changed))

    def table(self, videos: str = "seen_videos") -> stats.Table:
        return plot.load_table(self.args(videos=videos))

    def args(self, *words: str, **changes) -> plot.Args:
        changes = {"runs": (f"{self.folder}/runs/*/*",), "output": self.folder / "pictures"} | changes
        return plot.Args(words or ("all",), **changes)

    def claims(self, videos: str = "seen_videos") -> dict[str, list[str]]:
        """Ratio → the rest of its row, with the most labels where budgets differ."""
        return {row[1]: row[2:] for row in plot.claim_rows(self.table(), videos)[1:]}


@pytest.fixture
def writer(monkeypatch, tmp_path) -> Writer:
    """The tiny scale under the name of the demo's."""
    monkeypatch.setitem(SCALES, "demo", TINY)
    return Writer(tmp_path)


def test_a_run_is_rows(writer):
    folder = writer.run("laom", error=0.25)
    (folder / "lam.json").write_text('{"distractor_share/no_distractors": 0.5, "copy_loss_ratio": null}')
    rows = list(results.read_rows(folder, ["laom"]))
    assert {row[:4] for row in rows} == {("laom", "cheetah-run", DISTRACTORS, 0)}
    found = {(row.budget, row.measure, row.videos): row.value for row in rows}
    assert found["", "hours", ""] == 0.05 and found["", "latent_action_dim", ""] == 256
    assert found["2", "action_probe", "seen_videos"] == found["8", "online_action_probe_mse", ""] == 0.25
    assert found["8", "distractor_share", "no_distractors"] == 0.5 and found["8", "actor_loss", ""] == 0.7
    assert len(found["8", "returns", "unseen_videos"]) == 10
    assert not any(measure == "copy_loss_ratio" for _, measure, _ in found)  # null


def test_what_no_policy_has_earned_is_no_row(writer):
    """Latent actions alone have no returns, and are the same for all label budgets."""
    rows = list(results.read_rows(writer.run("lapo_original"), ["lapo_original"]))
    measures = {row.measure for row in rows}
    assert "action_probe" in measures and not {"return_mean", "returns", "policy_error"} & measures
    assert {row.budget for row in rows} == {""}


@pytest.mark.parametrize("path,name", [
    ("mini/cheetah-run/laom__vanilla/seed0", "laom"),
    ("mini_actor/laom__vanilla__zero_output/seed1", "laom__vanilla__zero_output"),
    ("runs/benchmark/mini/laom_16/cheetah-run__laom__0__01234567", "laom_16"),
    ("runs/cheetah-run__laom_cosine__0__01234567", "laom_cosine"),
])  # fmt: skip
def test_names(path, name):
    assert results.run_name(ROOT / path, f"{path.split('__')[-3]}.py" if "012" in path else "laom.py",
                            table.KNOWN) == name  # fmt: skip


def test_an_actor_has_the_loss_of_its_budget(tmp_path):
    """LAOM+supervision has an actor for each budget: one that lives does not hide another that is dead."""
    records = []
    for budget, loss in ((2, 0.3), (8, 1.01)):
        records += [{f"lam_{budget}/action_probe_mse": loss}, {f"actor_{budget}/loss": loss}] * 9
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert results.read_online(tmp_path, "2")["actor_loss"] == pytest.approx(0.3)
    wanted = {"actor_loss": pytest.approx(1.01), "online_action_probe_mse": pytest.approx(1.01)}
    assert results.read_online(tmp_path, "8") == wanted


def test_results_that_are_not_whole(writer):
    path = writer.run("lapo") / "results.json"
    for text in (path.read_text()[:100], "", json.dumps({"script": "lapo.py"})):
        path.write_text(text)
        with pytest.raises(SystemExit) as error:
            table.main((path.parent,))
        assert str(error.value).startswith(f"error: {path} is not whole") and "\n" not in str(error.value)


def test_results_are_kept_and_read_again(writer, tmp_path, capsys):
    """Two small files of each finished run; what measure.py and the curves add is in one of them."""
    folder = writer.run("lapo", error=0.3)
    (folder / "lam.json").write_text('{"blind_loss_ratio": 2.0}')
    (folder / "lam.pt").touch()
    begun = writer.run("laom")
    args = results.read_json(begun / "args.json") | {"num_labeled_trajectories": [2, 8, 32]}
    (begun / "args.json").write_text(json.dumps(args))
    results.main(tmp_path / "runs", tmp_path / "kept")
    (kept,) = (tmp_path / "kept").glob("runs/*/*/*")
    assert kept == tmp_path / "kept" / "runs" / "cheetah-run" / "lapo" / "seed0"
    assert {path.name for path in kept.iterdir()} == {"args.json", "results.json"}
    again, first = (
        {row[:-1] for row in results.read_rows(run, ["lapo"]) if row.measure != "returns"}
        for run in (kept, folder)
    )
    assert again == first and any(row[5] == "blind_loss_ratio" for row in again)
    with pytest.raises(SystemExit, match="kept/runs exists: move it away, or --add"):
        results.main(tmp_path / "runs", tmp_path / "kept")  # its runs may be of other data
    shorter = results.read_json(folder / "results.json")
    del shorter["budgets"]["2"]
    (folder / "results.json").write_text(json.dumps(shorter))
    args = results.read_json(folder / "args.json") | {"num_labeled_trajectories": [8]}
    (folder / "args.json").write_text(json.dumps(args))
    results.main(tmp_path / "runs", tmp_path / "kept", add=True)
    assert f"{kept} stays: it has more label budgets than {folder}" in capsys.readouterr().out
    with open(tmp_path / "kept" / "runs.csv") as file:
        records = list(csv.DictReader(file))
    assert len(records) == len(again)
    assert {"run": "lapo", "budget": "8", "measure": "actor_loss", "value": "0.7"}.items() <= [
        record for record in records if record["measure"] == "actor_loss" and record["budget"] == "8"
    ][0].items()


# ---- Statistics --------------------------------------------------------------------------------------------


def test_means():
    """Tasks count alike, however many seeds they have; a seed counts where it has run on all of them."""
    uneven = {("a", 0): 1.0, ("a", 1): 5.0, ("b", 0): 7.0}
    assert stats.center(uneven) == 5 and stats.seed_means(uneven) == [4]
    assert stats.seed_means({}) == []


def test_t_interval():
    half = 2.77645 * np.sqrt(2.5 / 5)  # the t table: 97.5%, 4 degrees of freedom
    assert stats.t_interval([1, 2, 3, 4, 5]) == pytest.approx((3 - half, 3 + half), rel=1e-5)
    half = 12.7062 * 0.5  # of two values a unit apart
    assert stats.t_interval([0, 1]) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-5)


@pytest.mark.parametrize("ratios,text,if_above,if_below", [
    ([2, 2.1, 1.9], "2.00 (1.76 to 2.26)", "holds", "fails"),
    ([0.5, 0.45, 0.55], "0.50 (0.39 to 0.64)", "fails", "holds"),
    ([2, 0.5, 3, 0.5], "1.11 (0.25 to 4.88)", "undecided", "undecided"),
    ([2], "2.00", "undecided", "undecided"),
    ([], "–", "undecided", "undecided"),
])  # fmt: skip
def test_verdicts(ratios, text, if_above, if_below):
    logarithms = {("cheetah-run", seed): np.log(ratio) for seed, ratio in enumerate(ratios)}
    comparison = stats.Comparison(logarithms, {})
    assert str(comparison) == text
    assert (comparison.verdict("above 1"), comparison.verdict("below 1")) == (if_above, if_below)
    left_out = {
        ("walker-run", 0): "0 or less",
        ("hopper-hop", 1): "dead actor",
        ("walker-run", 2): "0 or less",
    }
    named = stats.Comparison(logarithms, left_out)
    words = "; 0 or less, left out: walker-run 0, walker-run 2; dead actor, left out: hopper-hop 1"
    assert str(named) == text + words and named.verdict("above 1") == "undecided"


def test_a_verdict_needs_seeds_and_pairs():
    """Tasks that differ alike with every seed prove nothing, nor do seeds that differ on every task."""

    def compared(*of_tasks: list[float]) -> stats.Comparison:
        logarithms = {}
        for task, ratios in zip(("cheetah-run", "walker-run"), of_tasks):
            logarithms |= {(task, seed): np.log(ratio) for seed, ratio in enumerate(ratios)}
        return stats.Comparison(logarithms, {})

    both = compared([2, 2.1, 1.9], [1.5, 1.6, 1.4])
    assert both.verdict("above 1") == "holds" and both.verdicts_alone("above 1") == "2 holds"
    tasks_differ = compared([0.8, 0.81, 0.8], [2, 2.02, 2])
    assert stats.judge(tasks_differ.of_seeds(), "above 1") == "holds"
    assert tasks_differ.verdict("above 1") == "undecided"
    assert tasks_differ.verdicts_alone("above 1") == "1 holds, 1 fails"
    seeds_differ = compared([1.2, 1.3, 1.6], [1.2, 1.3, 1.6])
    assert stats.judge(seeds_differ.of_pairs(), "above 1") == "holds"
    assert seeds_differ.verdict("above 1") == "undecided"
    assert seeds_differ.verdicts_alone("above 1") == "2 undecided"


def test_claims_of_errors_shares_and_returns(writer):
    """LAOM has twice LAPO's of everything on seen videos; on unseen ones the same error, and LAPO no return
    in one of four runs."""
    writer.pairs({"lapo": [1, 2, 3, 4], "laom": [2, 4.2, 6, 7.6]})
    for i, folder in enumerate(sorted(writer.folder.glob("runs/laom/*"))):
        writer.change(folder, "2", action_probe_mse_over_var__unseen_videos=0.1 * (i + 1))
        writer.change(folder, "8", action_probe_mse_over_var__unseen_videos=0.1 * (i + 1))
    (folder,) = writer.folder.glob("runs/lapo/walker-run__lapo__0__*")
    writer.change(folder, return_mean__unseen_videos=0)
    claims = writer.claims()
    seeds = "cheetah-run: 0, 1; walker-run: 0, 1"
    ratios = ["2.05 (1.50 to 2.79)", "1.95 (1.41 to 2.70)", "2.00 (1.98 to 2.01)", "2.00 (1.87 to 2.13)"]
    verdict = ["holds", "2 holds"]
    # LAOM without augmentation, which is the demo's LAOM
    error = claims["probe error: laom_no_aug / lapo"]
    assert error == ["above 1", "2, 8", seeds, *ratios, *verdict, "1.34 (Figure 6's logs)"]
    for share in ("perturbation", "expert's action"):  # what is left unexplained, 1 - R²
        row = claims[f"unexplained share of the {share}: laom_no_aug / lapo"]
        assert row == ["above 1", "2, 8", seeds, *ratios, *verdict, "–"]
    *row, paper = claims["score: laom / lapo"]
    assert row == ["above 1", "2, 8", seeds, *ratios, *verdict] and paper == "up to 2 (Section 4)"
    assert len(claims) == 4

    claims = writer.claims("unseen_videos")
    assert claims["probe error: laom_no_aug / lapo"][5:9] == ["1.00 (1.00 to 1.00)"] * 2 + [
        "undecided",
        "2 undecided",
    ]
    _, budgets, _, _, walker, over_seeds, _, verdict, alone, _ = claims["score: laom / lapo"]
    assert budgets == "8" and walker == "1.90" and verdict == "undecided"
    assert over_seeds.endswith("; 0 or less, left out: walker-run 0")
    assert alone == "1 holds, 1 undecided"


def test_the_return_of_a_dead_actor_is_left_out(writer):
    """Its latent actions still count, and so does an actor that has learned a little."""
    writer.pairs({"lapo": [1, 2, 3, 4], "laom": [2, 4, 6, 8]})
    for path in writer.folder.glob("runs/laom/*__0__*/metrics.jsonl"):
        path.write_text(json.dumps({"actor/loss": 0.9 if "cheetah" in str(path) else 1.01}) + "\n")
    for videos in results.VIDEOS:
        claims = writer.claims(videos)
        *_, over_seeds, _, verdict, _, _ = claims["score: laom / lapo"]
        assert over_seeds == "2.00; dead actor, left out: walker-run 0"
        assert verdict == "undecided" and claims["probe error: laom_no_aug / lapo"][7] == "holds"


def test_claims_compare_what_both_sides_have(writer):
    """Ratios of ratios, seeds that both have, and scores over BC of the same kind of data."""
    for seed in (0, 1):
        for name, score in (("laom", 0.1), ("laom_supervised", 0.4), ("laom_16", 0.1)):
            writer.run(name, seed=seed, score=score)
        writer.run("laom_supervised_16", seed=seed, score=0.1)
    for name, difficulty in (("bc", DISTRACTORS), ("bc", CLEAN), ("lapo", CLEAN), ("lapo", DISTRACTORS)):
        writer.run(
            name, difficulty=difficulty, score=0.8 if (name, difficulty) == ("bc", DISTRACTORS) else 0.4
        )
    claims = writer.claims()
    harmed = claims["score: lapo / lapo without distractors"]
    assert harmed[:4] == ["below 1", "2, 8", "cheetah-run: 0", "0.50"]
    assert claims["score: laom_supervised / laom"][3:5] == ["4.00 (4.00 to 4.00)", "holds"]
    small = claims["score: (laom_supervised_16 / laom_supervised) / (laom_16 / laom)"]
    assert small[3] == "0.25 (0.25 to 0.25)" and small[4:] == ["fails", "1 fails", "2.3 (Section 5)"]
    assert not any("lapo_original" in name for name in claims)  # which has not run
    shutil.rmtree(writer.folder / "runs" / "bc__vanilla")  # scores over ours and over the paper's
    assert "score: lapo / lapo without distractors" not in writer.claims()


def test_a_score_with_distractors_over_one_without_is_over_bc_of_the_same_seed(writer):
    """So the seeds of BC count in the interval, and a seed that BC lacks is left out."""
    for seed, (bc, clean_bc) in enumerate([(0.3, 0.5), (0.4, 0.4), (0.5, 0.3)]):
        writer.run("lapo", seed=seed, score=0.2)
        writer.run("lapo", difficulty=CLEAN, seed=seed, score=0.2)
        writer.run("bc", seed=seed, score=bc)
        if seed < 2:
            writer.run("bc", difficulty=CLEAN, seed=seed, score=clean_bc)
    runs = [("lapo", DISTRACTORS), ("lapo", CLEAN)]
    found = stats.compare(writer.table(), runs, "return_mean", "seen_videos", 8)
    ratios = [np.exp(found.log_ratios["cheetah-run", seed]) for seed in (0, 1)]
    assert len(found.log_ratios) == 2 and ratios == pytest.approx([5 / 3, 1])


def test_what_cannot_be_compared_is_named(writer):
    """A number that is not finite, and sides of different data."""
    folder = writer.run("laom", error=0.4)
    writer.change(folder, action_probe_mse_over_var__seen_videos=float("nan"))
    other = writer.run("lapo")
    about = results.read_json(other / "results.json") | {"dataset_return": 800.0}
    (other / "results.json").write_text(json.dumps(about))
    runs = [("laom", DISTRACTORS), ("lapo", DISTRACTORS)]
    found = stats.compare(writer.table(), runs, "action_probe", "seen_videos", 8)
    assert str(found) == "–; not finite, left out: cheetah-run 0; of different data: cheetah-run 0"
    found = stats.compare(writer.table(), runs, "plan_r2", "seen_videos", 8)
    assert str(found) == "1.33; of different data: cheetah-run 0"


def test_scores_are_relative_to_bc_on_all_labels(writer):
    writer.run("laom", score=0.2)
    folder = writer.run("bc", score=0.8)
    found = writer.table("unseen_videos")
    assert found.reference("cheetah-run", DISTRACTORS) == (80, True)
    assert abs(stats.center(found.scores("laom", DISTRACTORS, 8)) - 0.25) < 0.05
    writer.run("laom", "walker-run")  # one normaliser for all tasks
    found = writer.table()
    assert found.reference("cheetah-run", DISTRACTORS) == (823, False)
    _, ax = figures.plt.subplots()
    figures.name_score(ax, found, ["cheetah-run", "walker-run"], [DISTRACTORS], "mean of 2 tasks")
    assert "score 1 = the paper's BC" in ax.get_title("left")
    shutil.rmtree(folder)
    found = writer.table()
    assert found.reference("cheetah-run", DISTRACTORS) == (823, False)
    assert found.reference("cheetah-run", CLEAN) == (840, False)


def test_bc_that_earns_nothing_normalises_nothing(writer):
    writer.run("laom")
    writer.run("laom", difficulty=CLEAN)
    writer.run("bc", score=0)
    writer.run("bc", difficulty=CLEAN)
    found = writer.table()
    assert found.reference("cheetah-run", DISTRACTORS) == (823, False)
    comparison = stats.compare(
        found, [("laom", DISTRACTORS), ("laom", CLEAN)], "return_mean", "seen_videos", 8
    )
    assert "not finite, left out: cheetah-run 0" in str(comparison)


def test_with_a_budget_that_one_method_lacks_all_have_the_same_seeds(writer):
    """Else bars side by side would be means over different seeds."""
    writer.figure("figure_01")
    (folder,) = writer.folder.glob("runs/lapo/walker-run__lapo__1__*")
    changed = results.read_json(folder / "results.json")
    del changed["budgets"]["8"]
    (folder / "results.json").write_text(json.dumps(changed))
    args = results.read_json(folder / "args.json") | {"num_labeled_trajectories": [2]}
    (folder / "args.json").write_text(json.dumps(args))
    found = writer.table()
    samples = {name: found.scores(name, DISTRACTORS, 8) for name in ("lapo", "laom", "none")}
    same = stats.shared(samples)
    assert len(samples["laom"]) == 4 and same["laom"].keys() == same["lapo"].keys() == samples["lapo"].keys()
    assert same["none"] == {}


def test_a_figure_has_the_tasks_and_seeds_that_all_have(writer):
    """Of a panel for each task, every task; of VQ, one seed will do."""
    for seed in (0, 1):
        writer.run("idm", seed=seed)
    for task in TINY.tasks:
        writer.run("laom_supervised", task)

    def pairs(figure: commands.Figure) -> set[tuple[str, int]]:
        return {(row.task, row.seed) for row in writer.table().only(figure).rows}

    assert pairs(ALL["figure_09a"]) == {("cheetah-run", 0)}
    each_task = dataclasses.replace(ALL["figure_09a"], per_task=True)
    assert pairs(each_task) == {("cheetah-run", 0), ("walker-run", 0)}
    for name, seeds in (("lapo_original", (0, 1)), ("lapo_original_fsq", (0, 1)), ("lapo_original_vq", (0,))):
        for seed in seeds:
            writer.run(name, seed=seed)
    assert pairs(ALL["figure_05"]) == {("cheetah-run", 0), ("cheetah-run", 1)}
    words = figures.describe(writer.table().only(ALL["figure_05"]), "figure_05", ALL["figure_05"])
    assert "seeds 0, 1" in words and "VQ: seed 0" in words


def test_a_run_of_which_half_is_measured_anew_has_not_finished(writer):
    folder = writer.run("laom")
    assert results.is_finished(folder)
    writer.change(folder, "8", evaluation={"num_episodes": 100})
    assert not results.is_finished(folder)


def test_the_run_with_the_most_budgets_counts_then_the_newest(writer, capsys):
    """A run that has not finished its budgets counts nothing."""
    first = writer.run("laom")
    second = Path(shutil.copytree(first, f"{first}x"))
    for folder, date in ((first, "2026-01-01"), (second, "2026-01-02")):
        changed = results.read_json(folder / "results.json") | {"date": date}
        (folder / "results.json").write_text(json.dumps(changed))
    assert writer.table().find("laom") == {("cheetah-run", 0): second}
    assert f"{first} does not count, but {second}" in capsys.readouterr().out
    changed = results.read_json(second / "results.json")
    del changed["budgets"]["8"]
    (second / "results.json").write_text(json.dumps(changed))
    assert writer.table().find("laom") == {("cheetah-run", 0): first}
    assert f"{second} has not finished" in capsys.readouterr().out


# ---- plot.py and table.py ----------------------------------------------------------------------------------


def test_draws_every_figure(writer, capsys):
    for name in ALL:
        writer.figure(name)
    for folder in writer.folder.glob("runs/*/*__[il]*"):
        Image.fromarray(np.full((8, 48, 3), 128, np.uint8)).save(folder / "lam.png")
    plot.main(writer.args())
    printed = capsys.readouterr().out
    drawn = {path.stem.removeprefix("demo_") for path in (writer.folder / "pictures").glob("*.png")}
    assert drawn == set(figures.DRAW) == set(ALL) - {"table_3"}
    assert "not drawn" not in printed and "not run" not in printed
    for path in (writer.folder / "pictures").glob("*.png"):
        picture = np.asarray(Image.open(path).convert("RGB"))
        assert picture.shape[1] > 700 and picture.std() > 5, path
    assert "| cheetah-run | 50.0 (seeds: 50.0, 50.0) | 50.0 (seeds: 50.0, 50.0) | 823 | 840 |" in printed
    assert "The paper's claims, demo scale, unseen videos" in printed


def test_stage_1_alone_has_figures_verdicts_and_comparisons(writer, capsys):
    """Its runs have no label budgets: the ladder is such a scale."""
    writer.pairs({"lapo_original": [4, 4, 4, 4], "lapo_multi_step": [2, 2, 2, 2]})
    plot.main(writer.args(partial=True))
    printed = capsys.readouterr().out
    assert "demo_figure_06.png (without" in printed and "figure_08: not drawn" in printed
    claim = writer.claims()["probe error: lapo_multi_step / lapo_original"]
    assert claim[:2] == ["below 1", "–"] and "holds" in claim
    rows = table.comparison_rows(writer.table(), "lapo_multi_step", "lapo_original")
    assert rows[1][0] == "action_probe" and rows[1][2] == "–" and rows[1][-1] == "yes"


def test_own_runs_are_not_mixed_with_the_committed_ones(writer, monkeypatch):
    """Which are of other data."""
    monkeypatch.setattr(plot, "ROOT", writer.folder)
    committed = writer.folder / "benchmark" / "results" / "demo" / "cheetah-run" / "laom" / "seed0"
    shutil.copytree(writer.run("laom"), committed)
    assert set(plot.load_table(plot.Args()).find("laom").values()) == {committed}
    own = writer.folder / "runs" / "benchmark" / "demo" / "lapo" / "run"
    shutil.copytree(writer.run("lapo"), own)
    found = plot.load_table(plot.Args())
    assert set(found.find("lapo").values()) == {own} and not found.find("laom")


def test_a_figure_without_its_runs_is_skipped(writer, capsys):
    writer.figure("figure_09a")
    plot.main(writer.args("figure"))
    assert [path.name for path in (writer.folder / "pictures").iterdir()] == ["demo_figure_09a.png"]
    line = "figure_08: not drawn, runs are missing; python benchmark/commands.py figure_08 --scale demo"
    assert line in capsys.readouterr().out.splitlines()
    plot.main(writer.args("figure_08", "figure_13", partial=True))
    printed = capsys.readouterr().out
    assert "figure_08.png (without bc, lapo, laom; python benchmark/commands.py figure_08" in printed
    assert "figure_13: not drawn" in printed


def test_a_variant_is_shown_behind_the_method_it_is_like(writer, capsys):
    """By the command line's word; a line names the arguments in which it differs."""
    writer.figure("figure_01")
    for seed in (0, 1):
        folder = writer.run("laom", "walker-run", CLEAN, seed, score=0.7)
        target = writer.folder / "runs" / "mine" / f"cheetah-run__laom_cosine__{seed}__01234567"
        shutil.copytree(folder, target)
        about = {"script": "laom_cosine.py", "task": "cheetah-run", "difficulty": DISTRACTORS}
        changed = results.read_json(target / "results.json") | about
        (target / "results.json").write_text(json.dumps(changed))
        args = results.read_json(target / "args.json")
        args["lam"]["learning_rate"] = 0.5
        (target / "args.json").write_text(json.dumps(args))
    found = plot.load_table(writer.args(like=("laom_cosine=laom",)))
    printed = capsys.readouterr().out
    assert "laom_cosine: 2 runs" in printed and "lam.learning_rate is 0.5, and 0.0005 in " in printed
    about = commands.list_figures(found.scale)["figure_01"]
    (axes,) = figures.draw_summary(found.only(about), "figure_01", about).axes
    assert [tick.get_text().split("\n")[1] for tick in axes.get_xticklabels()][4] == "laom_cosine"
    with pytest.raises(SystemExit, match="error: --like laom_cosine: give VARIANT=METHOD"):
        plot.load_table(writer.args(like=("laom_cosine",)))
    with pytest.raises(SystemExit, match="error: no results.json in nowhere"):
        plot.load_table(writer.args(runs=("nowhere",)))


def test_figure_06_shows_what_z_tells(writer):
    for name in ALL["figure_06"].distractors:
        for seed in (0, 1):
            writer.run(name, seed=seed, error=0.2 if name == "lapo" else 0.6 + 0.2 * seed)
    axes = figures.draw_probes(writer.table(), "figure_06", ALL["figure_06"]).axes
    labels = [ax.get_ylabel() for ax in axes]
    assert labels == ["probe error, MSE / Var(a)", "R² of the perturbation", "R² of the expert's action"]
    for ax, tells, blind in zip(axes, (0.2, 0.8, 0.9), (0.2, 0.01, 0.4)):
        assert ax.get_xticklabels()[2].get_text().startswith(f"{tells:.2f}")
        assert [bar.get_height() for bar in ax.patches][2] == pytest.approx(tells)
        lines = [line for line in ax.collections if line.get_label() == "from z(obs, obs)"]
        assert lines[2].get_segments()[0][0][1] == pytest.approx(blind)


def test_the_committed_runs(tmp_path, capsys):
    """Their verdicts do not depend on today's commands."""
    plot.main(plot.Args(scale="mini", output=tmp_path))
    printed = capsys.readouterr().out
    assert (tmp_path / "mini_figure_08.png").exists()
    row = "| a few labels help | score: laom_supervised / laom | above 1 | 8 | "
    row += "cheetah-run: 0, 1, 2; walker-run: 0, 1, 2 | 1.33 (0.76 to 2.31) | 1.38 (0.89 to 2.14) | "
    row += "1.35 (1.10 to 1.67) | 1.35 (1.12 to 1.64) | holds | 2 undecided | "
    assert row in printed
    runs = (ROOT / "benchmark/results/mini").glob("*/*/*")
    table.main(tuple(runs), compare=("laom_supervised", "laom"))
    assert "1.35 (1.10 to 1.67) | 1.44 (0.90 to 2.31) | yes \\| undecided |" in capsys.readouterr().out


def test_runs_side_by_side(writer, capsys):
    """Without returns, in another environment, and means over seeds."""
    first, second = writer.run("laom"), writer.run("laom", seed=1, score=0.7, error=0.5)
    table.main((first, second))
    rows = capsys.readouterr().out.splitlines()
    of_z = "0.300 \\| 0.300 | 0.700 \\| 0.700 | 0.850 \\| 0.850 | – | – |"
    assert rows[2] == f"| laom | cheetah-run | yes | 0 | 2 | {of_z} 50.0 ± 5.0 \\| 50.0 ± 5.0 |"
    assert rows[-1] == f"{second}: the data return 820.2, random –, score 1 is 823"
    table.main((first, second), mean=True, measures=("action_probe", "return_mean", "effective_rank"))
    rows = capsys.readouterr().out.splitlines()
    cells = "0.400 \\| 0.400 | 60.0 ± 14.1 \\| 60.0 ± 14.1 | 12.500 |"
    assert rows[2:4] == [f"| laom | cheetah-run | yes | 0, 1 | {budget} | {cells}" for budget in (2, 8)]

    changed = results.read_json(first / "results.json") | {"difficulty": None}
    played = {
        "return_mean/environment": 71.25,
        "return_std/environment": 2.5,
        "policy_mse_over_var/unseen_videos": 1,
    }
    changed["budgets"] = {"2": played, "8": {"action_probe_mse_over_var/unseen_videos": 0.4}}
    (first / "results.json").write_text(json.dumps(changed))
    table.main((first, writer.folder))
    output, errors = capsys.readouterr()
    assert "| 2 | – | – | – | – | 1.000 | 71.2 ± 2.5 |" in output
    assert "| 8 | – \\| 0.400 | – | – | – | – | – |" in output
    assert "no results.json yet" in errors and str(writer.folder) in errors
    with pytest.raises(SystemExit, match="error: --measures speed: there are .*action_probe"):
        table.main((first,), measures=("speed",))


def test_two_methods_are_compared(writer, capsys):
    writer.pairs({"lapo": [1, 2, 3, 4], "laom": [2, 4.2, 6, 7.6]})
    runs = tuple(writer.folder.glob("runs/*/*"))
    table.main(runs, compare=("laom", "lapo"))
    cells = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    rows = {(row[0], row[2]): row[3:] for row in cells}
    seeds, twice = "cheetah-run: 0, 1; walker-run: 0, 1", "2.00 (1.98 to 2.01)"
    assert rows["action_probe", "8"] == [seeds, "0.495", "0.250", twice, twice, "no"]
    assert rows["1 - plan_r2", "8"] == [seeds, "0.248", "0.125", twice, twice, "no"]
    assert rows["return_mean", "2"] == [seeds, "49.500", "25.000", twice, twice, "yes"]
    with pytest.raises(SystemExit, match="error: --compare bc: there are laom, lapo"):
        table.main(runs, compare=("laom", "bc"))


def test_latent_actions_alone_compare_with_a_whole_run(writer, capsys):
    writer.run("lapo")
    writer.run("lapo_original", error=0.6)
    for pair in (("lapo", "lapo_original"), ("lapo_original", "lapo")):
        table.main(tuple(writer.folder.glob("runs/*/*")), compare=pair)
        assert "| action_probe | yes | 8 |" in capsys.readouterr().out


def test_returns_of_an_own_environment_are_compared(writer, capsys):
    for name, mean in (("laom", 40.0), ("lapo", 20.0)):
        folder = writer.run(name)
        found = results.read_json(folder / "results.json")
        for budget, measures in found["budgets"].items():
            kept = {key: value for key, value in measures.items() if "return" not in key}
            found["budgets"][budget] = kept | {"return_mean/environment": mean}
        (folder / "results.json").write_text(json.dumps(found))
    table.main(tuple(writer.folder.glob("runs/*/*")), compare=("laom", "lapo"))
    row = next(line for line in capsys.readouterr().out.splitlines() if "| return_mean | yes | 8 |" in line)
    assert row.count("2.00") == 2


# ---- measure.py --------------------------------------------------------------------------------------------


class Teller(torch.nn.Module):
    """A LAM in pixels that predicts the older frames right and whose z is what it is told to be: the IDM's
    second picture, or its first."""

    def __init__(self, second: bool):
        super().__init__()
        self.decoder, self.encoder, self.second = None, torch.nn.Identity(), second

    def forward(self, obs, future_obs):
        return (future_obs if self.second else obs)[:, -3:]

    def predict(self, obs, z):
        return torch.cat([obs[:, 3:], z], 1)


def test_errors_of_a_lam_that_sees_the_change_and_of_one_that_does_not():
    frames = torch.randn(8, 12, 4, 4, generator=torch.Generator().manual_seed(0))
    obs, next_obs = frames[:, :9], frames[:, 3:]
    own, others, blind, no_change = measure.prediction_errors(Teller(second=True), obs, next_obs)[0].tolist()
    assert own == 0 and others > 0.3 and blind == no_change > 0.3
    own, others, blind, no_change = measure.prediction_errors(Teller(second=False), obs, next_obs)[0].tolist()
    assert own == blind == no_change > 0.3 and others > 0.3


@pytest.fixture
def measured(finished, tmp_path) -> Callable:
    """Measures a copy of a script's run: its folder, and what measure.py has written beside the weights."""

    def measured(script: str, name: str, **changes) -> tuple[Path, dict]:
        folder = tmp_path / "run"
        if not folder.exists():
            shutil.copytree(finished(script), folder)
        measure.main(measure.Args((folder,), device="cpu", **changes))
        return folder, results.read_json(folder / f"{name}.json")

    return measured


def test_measures_of_a_run(measured):
    """For a LAM of pixels also a picture of what it predicts; what is measured is not measured again."""
    folder, measures = measured("lapo.py", "lam")
    assert measures.keys() == {"shuffled_loss_ratio", "blind_loss_ratio", "copy_loss_ratio"}
    picture = np.asarray(Image.open(folder / "prediction.png"))
    assert picture.shape == (3 * 192, 12 * 192, 3) and np.array_equal(picture[::3, ::3], picture[1::3, 1::3])
    (folder / "lam.json").write_text("{}")
    assert measured("lapo.py", "lam", only_missing=True)[1] == {}
    (folder / "lam.pt").unlink()
    measured("lapo.py", "lam", only_missing=True)
    with pytest.raises(SystemExit, match="error: .*: its first stage has not finished"):
        measured("lapo.py", "lam")


def test_twins_and_reconstruction(measured, collect_short, short_file, other_task, tmp_path):
    """The trajectories of the evaluation file rendered without distractors: how much of z was the
    distractors' doing?"""
    val, twins = beside(short_file), tmp_path / "twins"
    words = ["--rerender", val, "--difficulty", CLEAN, "--output", twins, "--num-workers", 1]
    collect_short.main(collect_short.parse_args(list(map(str, words))))
    twin = str(next(twins.glob("*.hdf5")))
    arguments = {"twin_data": twin, "reconstruct": True, "num_updates": 5}
    folder, measures = measured("laom_supervised.py", "lam_2", **arguments)
    assert 0 < measures["distractor_share/no_distractors"] < 1.1
    for kind in ("action_probe", "action_head"):
        assert measures[f"{kind}_mse_over_var/no_distractors"] > 0
    picture = np.asarray(Image.open(folder / "lam_2.png"))
    assert picture.shape == (2 * 192, 12 * 192, 3) and picture[192:].std() > 1

    _, same = measured("laom_supervised.py", "lam_2", twin_data=str(val))  # a file is its own twin
    assert same["distractor_share/no_distractors"] < 1e-3
    own = results.read_json(folder / "results.json")["budgets"]["2"]
    for kind in ("action_probe", "action_head", "blind_probe"):
        error = own[f"{kind}_mse_over_var/unseen_videos"]
        assert same[f"{kind}_mse_over_var/no_distractors"] == pytest.approx(error, rel=1e-3)

    moved = tmp_path / "moved.hdf5"
    shutil.copy(val, moved)
    with h5py.File(moved, "a") as file:
        file["0/states"][:] += 1
    for wrong in (short_file, other_task, moved):
        with pytest.raises(SystemExit, match=f"error: {wrong} is no twin of {val}"):
            measured("laom_supervised.py", "lam_2", twin_data=str(wrong))


def test_measures_of_an_idm(measured, short_file):
    twin = str(beside(short_file))
    folder, measures = measured("idm.py", "idm_2", twin_data=twin)
    error = results.read_json(folder / "results.json")["budgets"]["2"]["idm_mse_over_var/unseen_videos"]
    assert measures["idm_mse_over_var/no_distractors"] == pytest.approx(error, rel=1e-3)


def test_measures_of_before_stay(tmp_path, capsys):
    measure.write_measures(tmp_path / "lam.pt", {"copy_loss_ratio": 0.5, "distractor_share": 0.1})
    measure.write_measures(tmp_path / "lam.pt", {"copy_loss_ratio": 0.4})
    assert results.read_json(tmp_path / "lam.json") == {"copy_loss_ratio": 0.4, "distractor_share": 0.1}


def test_the_help_says_that_scripts_are_executed(capsys):
    with pytest.raises(SystemExit):
        measure.tyro.cli(measure.Args, description=measure.__doc__, args=["--help"])
    words = " ".join(re.sub("[│╭╰─]", " ", capsys.readouterr().out).split())
    assert "EXECUTES the script" in words and "measure only runs that you trust" in words


# ---- throughput.py -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", throughput.STAGES)
def test_every_stage_can_be_timed(stage, short_file, monkeypatch):
    monkeypatch.setattr(throughput, "WARM_UP", 1)
    kind = stage.split(".")[1]
    flags = f"--{kind}.batch-size 16 --bc.encoder-scale 1 --device cpu --precision fp32 --no-compile"
    if stage == "laom_supervised.lam":
        flags += " --lam.labeled-batch-size 16"
    if stage != "bc.bc":
        flags += " --num-labeled-trajectories 2"
    result = throughput.measure(stage, throughput.Args(data=str(short_file), num_updates=1, flags=flags))
    assert result["transitions_per_second"] > 0 and result["tflops"] > 1e-5


def test_the_sizes_that_are_timed():
    """Those that the help and docs/speed.md name, on the demo's own file."""
    own = throughput.Args()
    for name in METHODS:
        _, args = throughput.load(f"{name}.bc", own)
        assert args.data == (own.data,) and (args.bc.batch_size, args.bc.encoder_scale) == (256, 2)
        for stage in ("lam", "idm"):
            cfg = getattr(args, stage, None)
            assert cfg is None or (cfg.batch_size, cfg.encoder_scale) == (256, 1)

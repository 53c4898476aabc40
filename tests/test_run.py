"""What a run says, plays and leaves, of every script and variant."""

import json
import signal
import subprocess

import imageio.v3 as imageio
import lives
import numpy as np
import pytest
import torch
from conftest import ROOT, command, only_one, parse, read_records, read_results, start, wait_for

import laom_supervised

BUDGETS = {"laom.py": ["1", "2"], "bc.py": ["all", "1"]}  # others: 2
STAGES = {  # in their order; {} stands for each budget
    "lapo.py": ["lam", "actor", "decoder_{}", "eval_{}"],
    "laom.py": ["lam", "actor", "decoder_{}", "eval_{}"],
    "laom_supervised.py": ["lam_{}", "actor_{}", "decoder_{}", "eval_{}"],
    "idm.py": ["idm_{}", "actor_{}", "eval_{}"],
    "bc.py": ["actor_{}", "eval_{}"],
    "variants/lapo_vq.py": ["lam", "actor", "decoder_{}", "eval_{}"],
}
PROBES = {"action_probe_mse", "obs_action_probe_mse", "state_probe_mse"}
PROBES |= {"action_probe_mse_over_var", "obs_action_probe_mse_over_var"}
LOGGED = {  # by the first stage, beside loss and learning rate
    "lapo.py": PROBES,
    "laom.py": PROBES | {"embedding_variance"},
    "laom_supervised.py": PROBES | {"embedding_variance", "consistency_loss", "labeled_mse"},
    "variants/lapo_vq.py": PROBES | {"reconstruction_loss", "code_perplexity", "code_usage"},
}
MEASURES = {  # of which a budget has the error, and the error over the variance
    "laom_supervised.py": ["action_probe", "blind_probe", "action_head"],
    "idm.py": ["idm"],
    "bc.py": [],
}
ABOUT = {"script", "task", "difficulty", "seed", "precision", "world", "budgets", "versions"}
ABOUT |= {"dataset_return", "random_return", "reference_return", "cpu", "cores", "gpu", "ranks"}
VIDEOS = ("seen_videos", "unseen_videos")


@pytest.mark.parametrize("script", lives.EVERY)
def test_a_run_leaves_everything(script, finished):
    """Its files, and no checkpoint; the lines of its stages, in order; what it has measured."""
    folder = finished(script)
    budgets = BUDGETS.get(script, ["2"])
    stages = [stage for stage in STAGES[script] if "{}" not in stage]
    each = [stage for stage in STAGES[script] if "{}" in stage]
    stages += [stage.format(budget) for budget in budgets for stage in each]
    files = {"args.json", "identity.json", "metrics.jsonl", "results.json", script.split("/")[-1]}
    files |= {f"{stage}.pt" for stage in stages if not stage.startswith("eval")}
    files |= {f"rollout_{budget}.gif" for budget in budgets}
    assert {path.name for path in folder.iterdir()} == files
    assert (folder / script.split("/")[-1]).read_bytes() == (ROOT / script).read_bytes()

    records = read_records(folder)
    assert list(dict.fromkeys(record["stage"] for record in records)) == stages
    for stage in stages:
        of_stage = [record for record in records if record["stage"] == stage]
        names = {name.removeprefix(f"{stage}/") for record in of_stage for name in record} - {"stage"}
        if stage.startswith("eval"):
            assert names == {f"return_mean/{videos}" for videos in VIDEOS}
            continue
        assert [record["step"] for record in of_stage] == list(range(1, 28))
        own = LOGGED.get(script, set()) if stage == stages[0] else set()
        assert names == own | {"step", "loss", "learning_rate"}
        losses = [record[f"{stage}/loss"] for record in of_stage]
        assert np.mean(losses[-3:]) < np.mean(losses[:3])

    results = read_results(folder)
    assert results.keys() == ABOUT and list(results["budgets"]) == budgets
    assert (results["script"], results["task"], results["seed"]) == (script.split("/")[-1], "cheetah-run", 0)
    assert results["dataset_return"] > results["random_return"] > 0 and results["reference_return"] == 823
    for measures in results["budgets"].values():
        check_measures(script, measures)


def check_measures(script: str, measures: dict):
    kinds = [("policy", "unseen_videos")]
    for kind in MEASURES.get(script, ["action_probe", "blind_probe"]):
        kinds += [(kind, videos) for videos in VIDEOS]
    expected = {"evaluation"} | ({"effective_rank"} if script not in ("idm.py", "bc.py") else set())
    for kind, videos in kinds:
        expected |= {f"{kind}_mse/{videos}", f"{kind}_mse_over_var/{videos}"}
        assert 0 < measures[f"{kind}_mse_over_var/{videos}"] < 1000  # of so few transitions
    for videos in VIDEOS:
        for name in ("returns", "return_mean", "return_std", "normalized_score"):
            expected.add(f"{name}/{videos}")
        played = measures[f"returns/{videos}"]
        assert len(played) == 1 and measures[f"return_mean/{videos}"] == pytest.approx(np.mean(played))
        assert measures[f"normalized_score/{videos}"] == pytest.approx(played[0] / 823)
    assert measures.keys() == expected
    evaluation = measures["evaluation"]
    assert evaluation["num_episodes"] == 1 and evaluation["max_steps"] == 20


@pytest.mark.parametrize("script", ["laom_supervised.py", "bc.py"])
def test_its_table_has_its_results(script, finished):
    folder = finished(script)
    lines = lives.said(folder.parents[1] / "log")
    rows = [line for line in lines if line.startswith("| ")][1:]
    budgets = read_results(folder)["budgets"]
    for budget, measures in budgets.items():
        for videos in VIDEOS:
            row = rows.pop(0)
            mean, deviation = (measures[f"return_{kind}/{videos}"] for kind in ("mean", "std"))
            score = measures[f"normalized_score/{videos}"]
            error = measures["policy_mse_over_var/unseen_videos"]
            cells = [budget, videos, f"{mean:.1f} ± {deviation:.1f}", f"{score:.3f}", f"{error:.3f}"]
            assert row.startswith(f"| {' | '.join(cells)} | ")
            for kind in MEASURES[script]:
                assert f"{kind} {measures[f'{kind}_mse_over_var/{videos}']:.3f}" in row
    assert not rows and lines[-1] == f"finished: {folder}"
    assert lines.count("--eval.max-steps 20 has ended 2 of 2 episodes") == len(budgets)


def ignore_hangups():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_as_its_user_runs_it(short_file, tmp_path):
    """It rehearses, SIGTERM stops it, the same bytes elsewhere go on; nothing warns.

    There the script is edited after the start, and nohup ignores a terminal that closes: the run ends as it
    began, with spawned workers.
    """
    sizes = {"lam__num_epochs": 1, "bc__num_epochs": 1, "decoder__num_updates": 9, "eval__max_steps": 5}
    argv = command("laom_supervised.py", short_file, **sizes)
    runs = tmp_path / "runs"
    process = start(ROOT / "laom_supervised.py", *argv, "--rehearsal", "--runs", runs, stdout=subprocess.PIPE)
    wait_for(process, lambda: any("step" in path.read_text() for path in runs.glob("*/metrics.jsonl")))
    process.send_signal(signal.SIGTERM)
    output, stopped = process.communicate()
    folder = only_one(runs)
    own_script = folder / "laom_supervised.py"
    assert process.returncode == 1, stopped
    assert stopped.splitlines()[-1] == f"stopped; the same command continues, or: python {own_script}"
    warned, rehearsed, began = output.splitlines()
    assert warned.startswith("warning: 1 trajectories are few to fit probes on")
    assert rehearsed.startswith("rehearsal: every stage runs (") and began == f"run folder: {folder} (fp32)"

    copy = tmp_path / "copy" / own_script.name
    copy.parent.mkdir()
    copy.write_bytes(own_script.read_bytes())
    words = [copy, *argv, "--runs", runs]
    process = start(*words, stdout=subprocess.PIPE, preexec_fn=ignore_hangups)
    assert process.stdout.readline() == f"{warned}\n"
    first_line = process.stdout.readline()
    copy.write_text("an edit that is no Python")
    process.send_signal(signal.SIGHUP)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert first_line == f"{began}\n" and output.splitlines()[-1] == f"finished: {folder}"
    assert not [line for line in (stopped + errors).splitlines() if "warning" in line.lower()]
    args = json.loads((folder / "args.json").read_text())
    assert args["data"] == [str(short_file)] and args["lam"]["batch_size"] == 16


# ---- Episodes ----------------------------------------------------------------------------------------------


def test_the_film(finished):
    """Seen videos and unseen ones, side by side, twice as large; every fourth picture of 21."""
    film = imageio.imread(finished("laom_supervised.py") / "rollout_2.gif")
    assert film.shape == (6, 128, 256, 3)


def test_evaluation_does_not_depend_on_the_number_of_workers(short_file, forks, capsys):
    args = parse("laom_supervised.py", short_file, eval__num_episodes=2, eval__max_steps=10)
    _, data, _ = laom_supervised.load_data(args)
    environments, about = laom_supervised.find_environments(args, data)
    torch.manual_seed(0)
    actor = laom_supervised.Actor(args.bc, 3, 6)
    returns = []
    films = []
    for args.eval.num_workers in (1, 3):
        played, film = laom_supervised.evaluate(args, environments, actor, laom_supervised.Rehearsal([]))
        returns.append(np.array([played[videos] for videos in VIDEOS]))
        films.append(film)
    assert about["max_steps"] == 10 and returns[0].shape == (2, 2) and np.array_equal(*returns)
    assert films[0].shape == (3, 128, 512, 3) and np.array_equal(*films)
    episodes = np.split(films[0].astype(int), 4, axis=2)
    assert all(np.abs(episodes[i] - episodes[j]).mean() > 2 for i in range(4) for j in range(i))

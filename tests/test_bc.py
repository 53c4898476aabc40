"""bc.py: the paper's networks and presets, what is learned, and what a run leaves."""

import dataclasses
import json

import torch
from conftest import Recorder, count, parse, read_records

import bc


def test_parameter_totals_of_table_4():
    with torch.device("meta"):
        assert count(bc.Actor(bc.Args().bc, 3, 21)) == 99_166_229


def test_paper_preset_is_tables_9_and_10():
    args = bc.parse_args([])
    assert args == bc.parse_args(["paper"]) == bc.Args() and args.num_labeled_trajectories == (
        "all",
        2,
        4,
        8,
        16,
        32,
        64,
        128,
    )
    assert dataclasses.asdict(args.bc) == {
        **{
            "batch_size": 512,
            "num_epochs": 10,
            "num_updates": 10_000,
            "encoder_scale": 32,
            "learning_rate": 1e-4,
        },
        **{"warmup_epochs": 0, "encoder_num_res_blocks": 2},
    }
    assert args.eval.num_episodes == 25 and args.frame_stack == 3 and args.lr_schedule == "cosine"


def test_it_beats_random_actions(clean_file, forks, monkeypatch):
    args = parse(
        "bc.py",
        clean_file,
        num_labeled_trajectories=("all",),
        eval__num_episodes=2,
        bc__learning_rate=4e-3,
        bc__batch_size=48,
    )
    data, _, eval_data = bc.load_data(args)
    actor = bc.train_actor(
        args, data, data.transitions(data.shuffle), 200, "bc_all", Recorder(200, keep=False)
    )
    assert bc.action_error(args, actor, eval_data)["action_mse_over_var"] < 0.7
    monkeypatch.setattr(bc, "EPISODE_LENGTH", 60)
    environments = bc.find_environments(args, data)
    returns = bc.evaluate(args, environments, 60, actor, clean_file.with_name("film.gif"))
    assert returns.keys() == {"seen_videos", "unseen_videos"}
    for played in returns.values():
        assert len(played) == 2 and played.mean() > 2 * data.attributes["random_return"]


def test_a_run_leaves_everything(finished):
    folder = finished("bc.py")
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "args.json",
        "bc.py",
        "metrics.jsonl",
        "results.json",
        "checkpoint.pt",
        "actor_all.pt",
        "actor_1.pt",
    }
    assert names >= {"rollout_all.gif", "rollout_1.gif"}
    results, records = json.loads((folder / "results.json").read_text()), read_records(folder)
    assert {record["stage"] for record in records} == {"bc_all", "eval_all", "bc_1", "eval_1"}
    assert list(results["budgets"]) == ["all", "1"] and results["budgets"]["all"]["action_mse_over_var"] > 0

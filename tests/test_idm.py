"""idm.py: the paper's networks and presets, what is learned, and what a run leaves."""

import dataclasses
import json

import torch
from conftest import Recorder, count, parse, read_records

import idm


def test_parameter_totals_of_table_4():
    with torch.device("meta"):
        assert count(idm.IDM(idm.Args().idm, 3, 21)) == 192_258_965
        assert count(idm.Actor(idm.Args().bc, 3, 21)) == 99_166_229


def test_paper_preset_is_table_8():
    args = idm.parse_args([])
    assert args == idm.parse_args(["paper"]) == idm.Args() and args.num_labeled_trajectories == (
        2,
        4,
        8,
        16,
        32,
        64,
        128,
    )
    assert dataclasses.asdict(args.idm) == {
        **{
            "batch_size": 512,
            "num_updates": 10_000,
            "encoder_scale": 12,
            "learning_rate": 1e-4,
            "warmup_epochs": 3,
        },
        **{"encoder_num_res_blocks": 2, "future_obs_offset": 1, "act_head_dim": 1024},
    }
    assert dataclasses.asdict(args.bc) == {
        **{
            "batch_size": 512,
            "num_epochs": 10,
            "encoder_scale": 32,
            "learning_rate": 1e-4,
            "warmup_epochs": 0,
        },
        **{"encoder_num_res_blocks": 2},
    }
    assert args.eval.num_episodes == 25 and args.frame_stack == 3 and args.lr_schedule == "cosine"


def test_it_learns_the_actions_of_its_trajectories(short_file):
    """A few dozen updates on one trajectory beat its mean action there."""
    args = parse("idm.py", short_file, idm__learning_rate=1e-3, idm__num_updates=60)
    data = idm.Dataset(args.data, args)
    index = data.transitions(data.shuffle[:1])
    network = idm.train_idm(args, data, index, "idm_1", Recorder(60, keep=False))
    mse = torch.nn.functional.mse_loss(idm.infer_all(args, network, data, index), data.actions[index])
    assert mse < 0.6 * data.actions[index].var(0, unbiased=False).mean()


def test_the_actor_clones_the_idm(short_file):
    """Its loss is the distance to the IDM's answers, whatever the true actions are."""
    args = parse("idm.py", short_file)
    data, ends = idm.Dataset(args.data, args), []
    torch.manual_seed(0)
    network = idm.IDM(args.idm, 3, 6).requires_grad_(False)
    for sign in (1, -1):
        data.actions *= sign
        recorder = Recorder(27)
        actor = idm.train_actor(args, data, network, "bc_1", recorder)
        ends.append(recorder.history[-1]["actor"])
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    index = data.transitions(data.shuffle)
    labels = idm.infer_all(args, network, data, index)
    error, first = (
        idm.F.mse_loss(idm.infer_all(args, lambda obs, _: a(obs), data, index), labels)
        for a in (actor, fresh(args))
    )
    assert error < 0.7 * first


def fresh(args):
    torch.manual_seed(args.seed)
    return idm.Actor(args.bc, 3, 6)


def test_a_run_leaves_everything(finished):
    folder = finished("idm.py")
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "args.json",
        "idm.py",
        "metrics.jsonl",
        "results.json",
        "checkpoint.pt",
        "idm_2.pt",
        "actor_2.pt",
        "rollout_2.gif",
    }
    results, records = json.loads((folder / "results.json").read_text()), read_records(folder)
    assert {record["stage"] for record in records} == {"idm_2", "bc_2", "eval_2"}
    assert (
        list(results["budgets"]) == ["2"]
        and results["budgets"]["2"]["idm"]["idm_mse_over_var/unseen_videos"] > 0
    )

"""The paper's figures: the networks' sizes (Table 4) and the presets (Tables 5 to 10)."""

import dataclasses
import importlib

import lapo_vq
import pytest
import torch
from conftest import SCRIPTS, count

ACTIONS = 21  # of humanoid-walk
BUDGETS = (2, 4, 8, 16, 32, 64, 128)
TOTALS = {
    "lapo.py": {"LAM": 211_847_849, "Actor": 107_541_504},
    "laom.py": {"LAM": 192_307_136, "Actor": 107_541_504},
    "laom_supervised.py": {"LAM": 192_479_189, "Actor": 107_541_504},
    "idm.py": {"IDM": 192_258_965, "Actor": 99_166_229},
    "bc.py": {"Actor": 99_166_229},
}

SCHEDULE = {"batch_size": 512, "num_epochs": 10, "learning_rate": 1e-4, "warmup_epochs": 3}
LAPO = SCHEDULE | {
    "future_obs_offset": 10,
    "latent_action_dim": 8192,
    "quantizer": "none",
    "encoder_scale": 6,
    "encoder_num_res_blocks": 2,
}
LAOM = LAPO | {
    "act_head_dim": 1024,
    "obs_head_dim": 1024,
    "use_aug": True,
    "target": "ema",
    "target_tau": 0.001,
    "target_update_every": 1,
}
IDM = {
    "batch_size": 512,
    "num_updates": 10_000,
    "learning_rate": 1e-4,
    "warmup_epochs": 3,
    "future_obs_offset": 1,
    "encoder_scale": 12,
    "encoder_num_res_blocks": 2,
    "act_head_dim": 1024,
}
ACTOR = SCHEDULE | {"warmup_epochs": 0, "encoder_scale": 32, "encoder_num_res_blocks": 2}
DECODER = {"batch_size": 512, "hidden_dim": 256, "learning_rate": 3e-4, "num_updates": 2500}
PRESETS = {
    "lapo.py": {"lam": LAPO, "bc": ACTOR, "decoder": DECODER},
    "laom.py": {"lam": LAOM, "bc": ACTOR, "decoder": DECODER},
    "laom_supervised.py": {
        "lam": LAOM | {"labeled_batch_size": 128, "labeled_loss_coef": None},  # 0.01, cheetah-run 0.001
        "bc": ACTOR,
        "decoder": DECODER,
    },
    "idm.py": {"idm": IDM, "bc": ACTOR},
    "bc.py": {"bc": ACTOR | {"num_updates": 10_000}},
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_parameter_totals_of_table_4(script):
    module = importlib.import_module(script.removesuffix(".py"))
    args = module.Args()
    labelled = (ACTIONS,) if script in ("laom_supervised.py", "idm.py") else ()
    with torch.device("meta"):
        for name, total in TOTALS[script].items():
            if name == "Actor":
                output = args.lam.latent_action_dim if hasattr(args, "lam") else ACTIONS
                network = module.Actor(args.bc, 3, output)
            else:
                network = getattr(module, name)(getattr(args, name.lower()), 3, *labelled)
            assert count(network) == total


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_paper_preset_is_its_table(script):
    module = importlib.import_module(script.removesuffix(".py"))
    args = module.parse_args([])
    assert args == module.parse_args(["paper"]) == module.Args()
    stages = {name: cfg for name, cfg in dataclasses.asdict(args).items() if isinstance(cfg, dict)}
    evaluation = stages.pop("eval")
    assert stages == PRESETS[script]
    budgets = {"bc.py": ("all", *BUDGETS), "laom_supervised.py": (128,)}
    assert args.num_labeled_trajectories == budgets.get(script, BUDGETS)
    assert args.frame_stack == 3 and args.lr_schedule == "cosine"
    assert evaluation["num_episodes"] == 25 and evaluation["max_steps"] == 1000


def test_lapo_vq_is_the_original():
    cfg = lapo_vq.parse_args([]).lam
    assert (cfg.future_obs_offset, cfg.latent_action_dim, cfg.commitment_coef) == (1, 128, 0.05)

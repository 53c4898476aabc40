"""What the held-out measures say of latent actions that know the action, its plan, or neither."""

import pytest
import torch

import laom

NUMBER, ACTIONS, POSE = 4000, 6, 40


def draw(seed: int, know: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """z, actions, expert_actions of a policy with noise 0.4; the plan follows from the pose."""
    generator = torch.Generator().manual_seed(seed)
    pose = torch.randn(NUMBER, POSE, generator=generator)
    of_the_expert = torch.Generator().manual_seed(0)
    plan = torch.tanh(0.2 * pose @ torch.randn(POSE, ACTIONS, generator=of_the_expert))
    noise = 0.4 * torch.randn(NUMBER, ACTIONS, generator=generator)
    actions = (plan + noise).clamp(-1, 1)
    mixed = torch.randn(ACTIONS, 12, generator=of_the_expert)
    z = {
        "action": actions @ mixed,
        "pose": pose,
        "nothing": torch.randn(NUMBER, 12, generator=generator),
    }[know]
    return z, actions, plan


@pytest.mark.parametrize(
    ("know", "perturbation", "plan"),
    [
        ("action", (0.97, 1.0), (0.4, 1.0)),
        ("pose", (-0.03, 0.03), (0.9, 1.0)),
        ("nothing", (-0.03, 0.03), (-0.1, 0.1)),
    ],
)
def test_perturbation_r2_tells_an_inferred_action_from_a_guessed_one(know, perturbation, plan):
    measured = laom.perturbation_errors("", "unseen_videos", draw(1, know), draw(2, know))
    assert perturbation[0] <= measured["perturbation_r2/unseen_videos"] <= perturbation[1]
    assert plan[0] <= measured["plan_r2/unseen_videos"] <= plan[1]


def test_no_perturbation_no_measure():
    z, actions, plan = draw(1, "action")
    nothing = torch.full((NUMBER, 1), float("nan"))
    assert laom.perturbation_errors("", "seen_videos", (z, actions, nothing), (z, actions, nothing)) == {}

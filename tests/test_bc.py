"""bc.py: what is learned."""

from conftest import Recorder, parse

import bc


def test_it_beats_random_actions(clean_file, forks):
    changes = {"num_labeled_trajectories": ("all",), "bc__learning_rate": 4e-3, "bc__batch_size": 32}
    args = parse("bc.py", clean_file, eval__num_episodes=2, eval__max_steps=60, **changes)
    data, _, eval_data = bc.load_data(args)
    index = data.transitions(data.shuffle)
    units = bc.units_of(data.task, data.actions)
    recorder = Recorder(120, keep=False)
    actor = bc.train_actor(args, data, index, data.actions[index], *units, 120, "actor_all", recorder)
    assert bc.policy_errors(args, actor, eval_data)["policy_mse_over_var/unseen_videos"] < 0.7
    environments, _ = bc.find_environments(args, data)
    returns, _ = bc.evaluate(args, environments, actor, recorder)
    assert returns.keys() == {"seen_videos", "unseen_videos"}
    for played in returns.values():
        assert len(played) == 2 and played.mean() > 2 * data.attributes["random_return"]


def test_a_rehearsal_has_the_smallest_and_the_largest_budget(short_file, monkeypatch):
    """Wherever they stand: all trajectories are the most."""
    args = parse("bc.py", short_file, num_labeled_trajectories=(2, "all", 1, 3))
    budgets = []
    monkeypatch.setattr(bc, "run_stages", lambda *stages: budgets.extend(stages[-1].budgets))
    bc.rehearse(args, bc.load_data(args), {})
    assert budgets == [1, "all"]

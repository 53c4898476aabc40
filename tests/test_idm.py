"""idm.py: what is learned."""

import torch
from conftest import Recorder, parse

import idm


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
    data = idm.Dataset(args.data, args)
    ends = []
    torch.manual_seed(0)
    network = idm.IDM(args.idm, 3, 6).requires_grad_(False)
    units = (network.mean, network.scale)
    index = data.transitions(data.shuffle)
    for sign in (1, -1):
        data.actions *= sign
        labels = idm.infer_all(args, network, data, index)
        recorder = Recorder(27)
        actor = idm.train_actor(args, data, index, labels, *units, 27, "actor_1", recorder)
        ends.append(recorder.history[-1]["actor"])
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    torch.manual_seed(args.seed)
    fresh = idm.Actor(args.bc, 3, 6)
    errors = []
    for network in (actor, fresh):
        answers = idm.infer_all(args, lambda obs, _: network(obs), data, index)
        errors.append(idm.F.mse_loss(answers, labels))
    assert errors[0] < 0.7 * errors[1]


def test_an_actor_that_was_not_to_be_trained_is_not_called_dead(short_file):
    args = parse("idm.py", short_file)
    data = idm.Dataset(args.data, args)
    index = data.transitions(data.shuffle)
    units = idm.units_of(data.task, data.actions)
    recorder = Recorder(0)
    idm.train_actor(args, data, index, data.actions[index], *units, 0, "actor_1", recorder)
    assert not recorder.said

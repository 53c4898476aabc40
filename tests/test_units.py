"""Actions in any units: the same data with other units give the same errors, to rounding."""

import dataclasses
from functools import partial

import h5py
import pytest
import torch
from test_golden import UPDATES, LastLoss, draw_data, small_args

import bc
import idm
import laom_supervised


@pytest.fixture(scope="module")
def errors_by_script(tmp_path_factory):
    """In the units in which the data were drawn: script → errors."""
    path = tmp_path_factory.mktemp("units") / "train.hdf5"
    draw_data(path)
    return path, {method.__name__: train(method, path) for method in (bc, idm, laom_supervised)}


def train(method, path) -> dict[str, float]:
    """Losses of the stages at their ends, and errors of what they made over Var(a)."""
    args = dataclasses.replace(small_args(method), num_labeled_trajectories=(2,))
    data = method.Dataset([str(path)], args)
    index = data.transitions(data.shuffle[:4])
    run = LastLoss()
    measures = {}
    if method is bc:
        units = bc.units_of(data.task, data.actions[index])
        labels = (data.actions[index] - units[0]) / units[1]
        actor = bc.train_actor(args, data, index, labels, *units, UPDATES, "actor", run)
        policy = partial(bc.act, actor)
    elif method is idm:
        network = idm.train_idm(args, data, index, "idm", run)
        labels = idm.infer_all(args, network, data, index)
        units = (network.mean, network.scale)
        actor = idm.train_actor(args, data, index, labels, *units, UPDATES, "actor", run)
        policy = partial(idm.act, actor)
        measures = idm.held_out_error(args, network, data, data)
    else:
        lam = laom_supervised.train_lam(args, data, data, index, "lam", run)
        actor = laom_supervised.train_actor(args, data, lam, "actor", run)
        decoder = laom_supervised.train_decoder(args, data, index, actor, "decoder", run)
        policy = partial(laom_supervised.act, actor, decoder)
        measures = laom_supervised.held_out_probe(args, lam, data, data)
    measures |= method.policy_errors(args, policy, data)
    return run.losses | {name: value for name, value in measures.items() if "over_var" in name}


CASES = [(bc, 90, 0), (bc, 0.001, 0), (bc, 1, 100), (idm, 90, 0), (laom_supervised, 90, 0)]


@pytest.mark.parametrize("method,scale,offset", CASES)
def test_errors_do_not_depend_on_units(method, scale, offset, errors_by_script, tmp_path):
    _, errors = errors_by_script
    path = tmp_path / "train.hdf5"
    draw_data(path)
    with h5py.File(path, "a") as file:
        for trajectory in file.values():
            trajectory["actions"][...] = trajectory["actions"][:] * scale + offset
    assert train(method, path) == pytest.approx(errors[method.__name__], rel=2e-3, abs=2e-5)


def test_a_constant_dimension_has_scale_1():
    actions = torch.tensor([[0.1, 5.0], [0.3, 5.0]])
    mean, scale = bc.units_of("mine", actions)
    assert torch.allclose(mean, torch.tensor([0.2, 5.0])) and torch.allclose(scale, torch.tensor([0.1, 1.0]))


def test_the_papers_tasks_keep_their_units():
    mean, scale = bc.units_of("walker-run", torch.rand(10, 6))
    assert torch.equal(mean, torch.zeros(6)) and torch.equal(scale, torch.ones(6))

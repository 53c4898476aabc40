"""What --compile makes of the networks: graphs of fixed shapes, once each, for every script and stage."""

import importlib

import pytest
import torch
from conftest import SCRIPTS, Recorder, parse


@pytest.fixture
def graphs(monkeypatch):
    """The input shapes of every graph that is compiled, in order; nothing else is done to it."""
    shapes = []

    def backend(graph, inputs):
        shapes.append([x.shape if torch.is_tensor(x) else x for x in inputs])
        return graph.forward

    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: compile_module(self, backend=backend, **options)
    )
    torch.compiler.reset()
    yield shapes
    torch.compiler.reset()


def train_stages(script, data_file, steps):
    """The stages of a script whose networks are compiled, for a few updates each."""
    method = importlib.import_module(script.removesuffix(".py"))
    args = parse(script, data_file)
    args.compile = True
    data = method.Dataset(args.data, args)
    index = data.transitions(data.shuffle[:2])
    run = Recorder(steps, keep=False)
    if script in ("idm.py", "bc.py"):
        if script == "idm.py":
            method.train_idm(args, data, index, "idm_2", run)
        units = method.units_of(data.task, data.actions)
        method.train_actor(args, data, index, data.actions[index], *units, steps, "actor_2", run)
    elif script == "laom_supervised.py":
        lam = method.train_lam(args, data, data, index, "lam_2", run)
        method.train_actor(args, data, lam, "actor_2", run)
    else:
        lam = method.train_lam(args, data, "lam", run)
        method.train_actor(args, data, lam, "actor", run)


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_size_is_symbolic(script, short_file, graphs):
    train_stages(script, short_file, steps=3)
    assert graphs
    for shapes in graphs:
        for shape in shapes:
            sizes = shape if isinstance(shape, torch.Size) else [shape]
            assert not any(isinstance(size, torch.SymInt) for size in sizes), shapes


def test_networks_of_a_later_budget_take_the_same_graphs(short_file, graphs):
    """Else PyTorch's limit of recompilations would make the last of seven budgets eager without a word."""
    train_stages("laom_supervised.py", short_file, steps=1)
    of_the_first = len(graphs)
    train_stages("laom_supervised.py", short_file, steps=1)
    assert len(graphs) == of_the_first > 0

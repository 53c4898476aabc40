"""Every script from the command line: help that teaches, one line for bad input, scripts that stand alone."""

import dataclasses
import importlib
import math
import re
import shutil
from pathlib import Path

import lives
import pytest
from conftest import ROOT, SCRIPTS, command, only_one, run
from test_restart import assert_same_bits

ALL = (*SCRIPTS, "collect_data.py")
PRESETS = [(script, preset) for script in ALL for preset in ("paper", "demo")]


def module(script: str):
    return importlib.import_module(Path(script).stem)


def shown_help(script: str, argv: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as end:
        module(script).parse_args(argv)
    assert end.value.code == 0
    return capsys.readouterr().out


def field_names(args, prefix: str = "") -> list[str]:
    """The flags of all fields: --lam.batch-size."""
    names = []
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        name = prefix + field.name.replace("_", "-")
        names += field_names(value, f"{name}.") if dataclasses.is_dataclass(value) else [f"--{name}"]
    return names


def help_of_fields(text: str) -> dict[str, str]:
    """What the help says of each flag, in the right one of its two columns, without values and default."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    (column,) = [line.index("show this help") for line in text.splitlines() if "show this help" in line]
    found = {}
    name = None
    for line in text.splitlines():
        line = line.rstrip(" │")
        if match := re.match(r"[│ ] (?:-h, )?(--[\w.-]+)", line):
            name = match[1]
            found[name] = line[column:] if line[column - 2 : column].isspace() else ""
        elif name and line[:column].strip(" │") == "":
            found[name] += " " + line[column:]
        else:
            name = None
    return {name: words.split("(default:")[0].strip() for name, words in found.items()}


@pytest.mark.parametrize("script,preset", PRESETS)
def test_every_field_has_its_help(script, preset, capsys, monkeypatch):
    """In every preset, beside its default."""
    monkeypatch.setenv("COLUMNS", "80")
    text = shown_help(script, [preset, "--help"], capsys)
    assert module(script).__doc__.splitlines()[0][:40] in text
    found = help_of_fields(text)
    names = field_names(module(script).PRESETS[preset][1])
    assert set(names) <= found.keys()
    silent = [name for name in names if not found[name]]
    assert not silent, f"no help: {silent}"


@pytest.mark.parametrize("script", ["experts/sac.py", "benchmark/plot.py"])
def test_help(script):
    result = run(script, "--help")
    assert result.returncode == 0 and len(result.stdout) > 500, result.stderr


@pytest.mark.parametrize("script", ALL)
def test_a_wrong_preset_gets_one_line(script):
    with pytest.raises(SystemExit) as error:
        module(script).parse_args(["papre", "--seed", "1"])
    assert str(error.value) == "error: no preset 'papre': there are paper, demo"


@pytest.mark.parametrize("script,flags,message", [
    ("collect_data.py", ["--difficulty", "nightmare"], "nightmare"),
    ("collect_data.py", ["--num-trajectories", "many"], "many"),
    ("laom.py", ["--lam.quantizer", "vq"], "vq"),
    ("laom.py", ["--lam.batch-sise", "3"], "--lam.batch-sise"),
])  # fmt: skip
def test_a_wrong_word_is_named(script, flags, message, capsys):
    with pytest.raises(SystemExit) as error:
        module(script).parse_args(["demo", *flags])
    assert error.value.code == 2 and message in capsys.readouterr().err


def numbers(args, prefix: str = "--"):
    """The fields that are numbers: flag, what holds it, name, int or float."""
    for field in dataclasses.fields(args):
        flag = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(getattr(args, field.name)):
            yield from numbers(getattr(args, field.name), f"{flag}.")
        elif "float" in str(field.type):
            yield flag, args, field.name, float
        elif "int" in str(field.type):
            yield flag, args, field.name, int


MAY_BE_ZERO = ("seed", "num_epochs", "warmup_epochs", "labeled_loss_coef", "checkpoint_minutes")


@pytest.mark.parametrize("script", lives.EVERY)
def test_bad_numbers_get_one_line_that_names_them(script):
    """Negative ones, infinity, NaN, and zero where it says nothing, in every field."""
    args = module(script).parse_args(["demo"])
    fields = {flag: rest for flag, *rest in numbers(args)}
    assert {"--frame-stack", "--seed", "--eval.reference-return", "--bc.learning-rate"} <= fields.keys()
    for flag, (holder, name, kind) in fields.items():
        own = getattr(holder, name)
        for value in (-1, 0, 2**63) if kind is int else (-0.5, 0, math.inf, math.nan):
            if value == 0 and name in MAY_BE_ZERO:
                continue
            setattr(holder, name, (2, value) if isinstance(own, tuple) else value)
            with pytest.raises(SystemExit) as error:
                module(script).check_numbers(args)
            assert str(error.value).startswith(f"error: {flag} {value}: "), (flag, value)
        setattr(holder, name, own)
    module(script).check_numbers(args)


@pytest.mark.parametrize(
    "flags", ["--lam.learning-rate -0.1", "--frame-stack 0", "--eval.reference-return nan"]
)
def test_bad_numbers_are_refused_before_anything_is_made(flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^error: {flags}(.0)?: too small, too large, or not finite$"):
        module("laom.py").parse_args(["demo", *flags.split()])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", lives.EVERY)
def test_a_warm_up_is_part_of_its_stage(script):
    """It may not be longer; a stage without epochs is left out, whatever its warm-up."""
    args = module(script).parse_args(["demo"])
    for stage in ("lam", "bc"):
        if cfg := getattr(args, stage, None):
            cfg.num_epochs, cfg.warmup_epochs = 2, 2.5
            with pytest.raises(SystemExit, match=f"^error: --{stage}.warmup-epochs 2.5"):
                module(script).check_numbers(args)
            for cfg.num_epochs in (3, 0):
                module(script).check_numbers(args)


@pytest.mark.parametrize("script", lives.EVERY)
def test_a_device_that_is_none(script, short_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = module(script).parse_args([*command(script, short_file), "--device", "banana"])
    with pytest.raises(SystemExit, match="^error: --device banana: .*$"):
        module(script).main(args)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_copy_alone_gives_the_same_results(script, finished, short_file, tmp_path):
    """In an empty folder, where nothing of the repository is found, without rehearsal: digit for digit."""
    (tmp_path / "alone").mkdir()
    copy = shutil.copy(ROOT / script, tmp_path / "alone" / script)
    process = lives.start(copy, [*command(script, short_file), "--runs", "runs"], tmp_path / "log")
    expected = finished(script)
    assert lives.end(process) == 0, (tmp_path / "log").read_text()
    assert {path.name for path in (tmp_path / "alone").iterdir()} <= {script, "runs", "__pycache__"}
    folder = only_one(tmp_path / "alone" / "runs")
    assert folder.name == expected.name
    assert_same_bits(expected, folder)

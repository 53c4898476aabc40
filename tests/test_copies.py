"""Same name, same code: what stands at the top level of more than one script is textually equal in all of
them.

Copies that differ on purpose stand in REASONS, each with its reason. Copies with one reason agree with each
other, and so do all that have none; an entry where nothing differs is an error. To see what disagrees, and to
spread an edited copy to the other scripts whose copies have its reason:

    python tests/test_copies.py
    python tests/test_copies.py laom.py Actor
"""

import ast
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]

# name → script → why its copy differs
REASONS: dict[str, dict[str, str]] = {
    "Args": {
        "collect_data.py": "it collects",
        "experts/ppo.py": "PPO",
        "experts/sac.py": "SAC",
        "lapo.py": "its stages: LAM in pixels",
        "laom.py": "its stages: LAM in embeddings",
        "laom_supervised.py": "its stages; the labels are of each budget's own run",
        "idm.py": "its stages: IDM and actor",
        "bc.py": "one stage; a budget may be all trajectories",
    },
    "LAMArgs": {
        "lapo.py": "predicts pixels, VQ codebooks",
        "laom.py": "predicts embeddings: target, heads, augmentation",
        "laom_supervised.py": "labelled batches and their loss",
        "variants/lapo_vq.py": "the original's pairs and z; the weight of the commitment",
    },
    "BCArgs": {
        "idm.py": "clones the IDM's labels: its own schedule (Table 8)",
        "bc.py": "clones true actions, by updates for small budgets (Tables 9 and 10)",
    },
    "DEMO": {
        "lapo.py": "sizes of its stages: LAM in pixels",
        "laom.py": "sizes of its stages: LAM in embeddings",
        "laom_supervised.py": "sizes of its stages, one budget",
        "idm.py": "sizes of its stages: IDM and actor",
        "bc.py": "sizes of its one stage",
        "variants/lapo_vq.py": "z has the original's size",
    },
    "PRESETS": {
        "collect_data.py": "datasets, not methods",
    },
    "LAM": {
        "lapo.py": "a U-Net of pixels, two encoders",
        "laom.py": "one encoder, IDM and FDM in its embedding, FSQ",
        "laom_supervised.py": "an action head",
        "variants/lapo_vq.py": "codebooks",
    },
    "train_lam": {
        "lapo.py": "the loss in pixels",
        "laom.py": "the loss in embeddings, against a slow copy",
        "laom_supervised.py": "labelled batches",
        "variants/lapo_vq.py": "the commitment, codebooks that follow",
        "variants/masklam.py": "the loss counts masks",
    },
    "train_actor": {
        "idm.py": "labels are actions",
        "bc.py": "labels are actions",
    },
    "act": {
        "idm.py": "the actor's answers are actions",
        "bc.py": "the actor's answers are actions",
    },
    "held_out_probe": {
        "laom_supervised.py": "also the action head",
    },
    "rehearse": {
        "bc.py": "a budget may be all trajectories",
    },
    "load_data": {
        "idm.py": "how many transitions its stages need",
        "bc.py": "how many transitions its stage needs; a budget may be all trajectories",
        "variants/masklam.py": "masks must be there",
    },
    "Dataset": {
        "variants/masklam.py": "a second array per frame: masks",
    },
    "parse_args": {
        "collect_data.py": "other refusals: there are no runs",
    },
    "main": {
        "collect_data.py": "it collects",
        "experts/ppo.py": "it trains with PPO; its files are named so",
        "experts/sac.py": "it trains with SAC, which needs lengths that fit together",
        "laom_supervised.py": "needs labels",
        "idm.py": "needs labels",
        "bc.py": "needs labels, fits no probes",
    },
    "run_stages": {
        "laom_supervised.py": "a LAM for each budget",
        "idm.py": "an IDM and an actor for each budget",
        "bc.py": "an actor for each budget",
    },
}

# variant → the script whose reasons it has where it has none of its own
LIKE = {
    "variants/lapo_vq.py": "lapo.py",
    "variants/masklam.py": "lapo.py",
}


def read_scripts(root: Path = ROOT) -> dict[str, str]:
    """The text of each script, by its path in the repository: those at the top, experts, variants."""
    paths = [*root.glob("*.py"), *root.glob("experts/*.py"), *root.glob("variants/*.py")]
    return {str(path.relative_to(root)): path.read_text() for path in sorted(paths)}


def definitions(source: str) -> dict[str, tuple[int, int]]:
    """Top-level functions, classes and constants: name → lines [start, end), with decorators and the comments
    above."""
    lines, found = source.split("\n"), {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if not isinstance(target, ast.Name | ast.Tuple):
                continue
            name = ast.unparse(target)
        else:
            continue
        decorators = getattr(node, "decorator_list", [])
        start = min([node.lineno, *(decorator.lineno for decorator in decorators)]) - 1
        while lines[start - 1].startswith("#") and not lines[start - 1].startswith("# ----"):
            start -= 1
        found[name] = (start, node.end_lineno)
    return found


def find_copies(sources: dict[str, str]) -> dict[str, dict[str, str]]:
    """name → script → text, for the names that stand in more than one script."""
    copies = defaultdict(dict)
    for script, source in sources.items():
        for name, (start, end) in definitions(source).items():
            copies[name][script] = "\n".join(source.split("\n")[start:end])
    return {name: places for name, places in copies.items() if len(places) > 1}


def with_variants(why: dict[str, str], places: dict[str, str]) -> dict[str, str]:
    """The reasons of a name, those of variants included."""
    inherited = {script: why[like] for script, like in LIKE.items() if script in places and like in why}
    return inherited | why


def find_faults(sources: dict[str, str], reasons: dict[str, dict[str, str]]) -> list[str]:
    faults, copies = [], find_copies(sources)
    for name, places in copies.items():
        why = with_variants(reasons.get(name, {}), places)
        groups = defaultdict(list)  # reason → scripts
        for script in places:
            groups[why.get(script)].append(script)
        for reason, scripts in groups.items():
            equal = defaultdict(list)  # text → scripts
            for script in scripts:
                equal[places[script]].append(script)
            if len(equal) > 1:
                despite = f" despite one reason ({reason})" if reason else ""
                faults.append(f"{name} differs{despite}: {' | '.join(map(', '.join, equal.values()))}")
        for one, other in ((one, other) for one in places for other in places if one < other):
            if why.get(one) != why.get(other) and places[one] == places[other]:
                faults.append(f"{name} has a reason to differ but is the same in {one}, {other}")
    for name, why in reasons.items():
        faults += [
            f"REASONS[{name!r}][{script!r}]: no such copy"
            for script in why
            if script not in copies.get(name, {})
        ]
    return faults


def test_copies_agree():
    faults = find_faults(read_scripts(), REASONS)
    assert not faults, "\n".join(faults)


def test_the_check_reads_every_script(tmp_path):
    """Also one of one's own at the top, and a variant; a copy that was edited there alone is a fault."""
    scripts = ["laom.py", "laom_mine.py", "variants/masklam.py", "experts/sac.py", "experts/ppo.py"]
    for script in [*scripts, "benchmark/plot.py", "tests/test_laom.py"]:
        path = tmp_path / script
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"def f():\n    return {script in scripts[1:3]}\n")
    sources = read_scripts(tmp_path)
    assert sorted(sources) == sorted(scripts)
    differing = "f differs: experts/ppo.py, experts/sac.py, laom.py | laom_mine.py, variants/masklam.py"
    assert find_faults(sources, {}) == [differing]
    assert {"laom.py", "collect_data.py", "experts/sac.py", "experts/ppo.py"} < read_scripts().keys()


def test_the_check_sees_faults():
    one, other = "def f():\n    return 1\n", "def f():\n    return 2\n"
    assert find_faults({"a.py": one, "b.py": one}, {}) == []
    assert find_faults({"a.py": one, "b.py": other}, {}) == ["f differs: a.py | b.py"]
    assert find_faults({"a.py": one, "b.py": "# why\n" + one}, {}) == [
        "f differs: a.py | b.py"
    ]  # comments count
    assert find_faults({"a.py": "x: int = 1\n", "b.py": "x: int = 2\n"}, {}) == ["x differs: a.py | b.py"]
    assert find_faults({"a.py": one, "b.py": other}, {"f": {"b.py": "two"}}) == []
    assert find_faults(
        {"a.py": one, "b.py": one, "c.py": other}, {"f": {"b.py": "two", "c.py": "three"}}
    ) == ["f has a reason to differ but is the same in a.py, b.py"]
    assert find_faults({"a.py": one, "b.py": other}, {"f": {"a.py": "why", "b.py": "why"}}) == [
        "f differs despite one reason (why): a.py | b.py"
    ]
    assert find_faults({"a.py": one, "b.py": ""}, {"f": {"a.py": "why"}, "g": {}}) == [
        "REASONS['f']['a.py']: no such copy"
    ]


def spread(script: str, name: str):
    """Writes one script's copy over the copies with the same reason in the others."""
    sources = read_scripts()
    copies = find_copies(sources).get(name, {})
    why = with_variants(REASONS.get(name, {}), copies)
    if script not in copies:
        sys.exit(f"error: {name} does not stand in {script} and in another script")
    for other in copies:
        if why.get(other) == why.get(script) and copies[other] != copies[script]:
            lines, (start, end) = sources[other].split("\n"), definitions(sources[other])[name]
            lines[start:end] = copies[script].split("\n")
            (ROOT / other).write_text("\n".join(lines))
            print(f"{name}: {script} → {other}")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(*find_faults(read_scripts(), REASONS), sep="\n")
    elif len(sys.argv) == 3:
        spread(*sys.argv[1:])
    else:
        sys.exit(__doc__)

"""Same name, same code: what stands at the top level of more than one script is textually equal in all of them.

A copy that differs on purpose has a line above it, `# differs: <why>`. Copies with one reason agree with each other, and a mark
where nothing differs is an error. To spread an edited copy to the other scripts that share it:

    python tests/test_copies.py laom.py Actor
"""

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPTS = ("collect_data.py", "lapo.py", "laom.py", "laom_supervised.py", "idm.py", "bc.py")


def definitions(source: str) -> dict[str, tuple[int, int]]:
    """Top-level functions, classes and constants: name → lines [start, end), with decorators and the comments above."""
    lines, found = source.split("\n"), {}
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            name = node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Name, ast.Tuple)):
            name = ast.unparse(node.targets[0])
        else:
            continue
        start = min([node.lineno] + [decorator.lineno for decorator in getattr(node, "decorator_list", [])]) - 1
        while lines[start - 1].startswith("#") and not lines[start - 1].startswith("# ----"):
            start -= 1
        found[name] = (start, node.end_lineno)
    return found


def split_mark(text: str) -> tuple[str | None, str]:
    """A definition's reason to differ, if it has one, and its text without the mark."""
    mark = re.search(r"^# differs: (.+)\n", text, re.MULTILINE)
    return (mark[1], text.replace(mark[0], "")) if mark else (None, text)


def find_copies(sources: dict[str, str]) -> dict[str, dict[str, tuple[str | None, str]]]:
    """name → script → (reason, text), for the names that stand in more than one script."""
    copies = defaultdict(dict)
    for script, source in sources.items():
        for name, (start, end) in definitions(source).items():
            copies[name][script] = split_mark("\n".join(source.split("\n")[start:end]))
    return {name: places for name, places in copies.items() if len(places) > 1}


def find_faults(sources: dict[str, str]) -> list[str]:
    faults = []
    for name, places in find_copies(sources).items():
        groups = defaultdict(dict)
        for script, (reason, text) in places.items():
            groups[reason][script] = text
        for reason, texts in groups.items():
            if len(set(texts.values())) > 1:
                faults.append(f"{name} differs in {', '.join(texts)}" + (f" despite one reason: {reason}" if reason else ""))
        if len(groups) > 1 and len({text for _, text in places.values()}) == 1:
            faults.append(f"{name} is marked as different but is the same in {', '.join(places)}")
    return faults


def read_scripts() -> dict[str, str]:
    return {script: (ROOT / script).read_text() for script in SCRIPTS if (ROOT / script).exists()}


def test_copies_agree():
    assert not find_faults(read_scripts())


def test_every_definition_is_used():
    """An edit that makes a definition needless takes it out of every script."""
    measure = (ROOT / "benchmark" / "measure.py").read_text()  # calls into the script of the run it measures
    for script, source in read_scripts().items():
        used = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        for names in definitions(source):
            called = any(f"method.{name}(" in measure for name in re.findall(r"\w+", names))
            assert called or used & set(re.findall(r"\w+", names)), f"{script}: nothing uses {names}"


def test_the_check_sees_faults():
    one, other = "def f():\n    return 1\n", "def f():\n    return 2\n"
    assert find_faults({"a.py": one, "b.py": one}) == []
    assert find_faults({"a.py": one, "b.py": other}) == ["f differs in a.py, b.py"]
    assert find_faults({"a.py": one, "b.py": "# why\n" + one}) == ["f differs in a.py, b.py"]  # comments count
    assert find_faults({"a.py": one, "b.py": "# differs: two\n" + other}) == []
    assert find_faults({"a.py": one, "b.py": "# differs: two\n" + one}) == [
        "f is marked as different but is the same in a.py, b.py"
    ]
    marked = {"a.py": "# differs: why\n" + one, "b.py": "# differs: why\n" + other}
    assert find_faults(marked) == ["f differs in a.py, b.py despite one reason: why"]


def spread(script: str, name: str):
    """Writes one script's copy over the copies with the same reason in the others."""
    sources = read_scripts()
    copies = find_copies(sources).get(name, {})
    if script not in copies:
        sys.exit(f"error: {name} does not stand in {script} and in another script")
    for other in copies:
        if other != script and copies[other][0] == copies[script][0] and copies[other] != copies[script]:
            lines, (start, end) = sources[other].split("\n"), definitions(sources[other])[name]
            first, last = definitions(sources[script])[name]
            lines[start:end] = sources[script].split("\n")[first:last]
            (ROOT / other).write_text("\n".join(lines))
            print(f"{name}: {script} → {other}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    spread(*sys.argv[1:])

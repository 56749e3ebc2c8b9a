"""What makes the scripts single files: only third-party imports at module level, and shallow functions."""

import ast
import symtable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted(p for p in ROOT.glob("*.py"))
RUNNER = sorted(ROOT.glob("runner/**/*.py"))
FIRST_PARTY = {p.stem for p in SCRIPTS} | {p.name for p in ROOT.iterdir() if p.is_dir()}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def depth(node, level=0):
    return max([level, *(depth(child, level + isinstance(child, FUNCTIONS)) for child in ast.iter_child_nodes(node))])


def imports_at_module_level(tree):
    """Names imported when the module is imported: everything but function bodies and the __main__ block."""
    found, waiting = set(), list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, FUNCTIONS) or (isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." if node.level else node.module.split(".")[0])
        waiting.extend(ast.iter_child_nodes(node))
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_a_script_can_be_copied_alone(path):
    """The evolution goes around PPO's training, so it is copied with ppo.py."""
    allowed = {"ppo"} if path.name == "meta_evolve_loss.py" else set()
    first_party = imports_at_module_level(ast.parse(path.read_text())) & (FIRST_PARTY | {"."}) - allowed
    assert not first_party, f"{path.name} imports {first_party} at module level: move it under __main__"


def test_the_check_itself_sees_first_party_imports():
    assert "runner" in imports_at_module_level(
        ast.parse("import os\ntry:\n    from runner import main\nexcept E:\n  pass")
    )
    assert not imports_at_module_level(ast.parse("if __name__ == '__main__':\n    from runner import main"))


@pytest.mark.parametrize("path", [*SCRIPTS, *RUNNER, *ROOT.glob("environments/*.py")], ids=lambda p: p.name)
def test_functions_nest_at_most_two_deep(path):
    assert depth(ast.parse(path.read_text())) <= 2


def unused_functions(scope):
    """Names of functions defined inside others that are read neither there nor below."""
    below, found = scope.get_children(), set()
    functions = {child.get_name() for child in below if child.get_type() == "function"} & set(scope.get_identifiers())
    for name in functions if scope.get_type() == "function" else ():
        inside = [child.lookup(name) for child in below if name in child.get_identifiers()]
        if not scope.lookup(name).is_referenced() and not any(symbol.is_free() for symbol in inside):
            found.add(name)
    return found.union(*map(unused_functions, below))


def left_over(text):
    """unused_functions, but for decorated ones: a decorator may have handed them on."""
    decorated = {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, FUNCTIONS) and node.decorator_list}
    return unused_functions(symtable.symtable(text, "text", "exec")) - decorated


@pytest.mark.parametrize("path", [*SCRIPTS, *RUNNER, *ROOT.glob("*/*.py")], ids=lambda p: f"{p.parent.name}/{p.name}")
def test_no_inner_function_is_left_over(path):
    """Those of a module may be for others; one inside a function that nothing there uses was forgotten."""
    assert not left_over(path.read_text())


def test_that_check_sees_one():
    text = "def make():\n  def old():\n    pass\n  def new():\n    {}\n    return old\n  return new\n"
    for line, expected in (("old = 1", {"old"}), ("pass", set())):
        assert left_over(text.format(line)) == expected


def test_the_runner_contains_no_algorithm():
    for path in RUNNER:
        imported = imports_at_module_level(ast.parse(path.read_text()))
        assert not imported & {"optax", "distrax", "flax", "evosax", *(p.stem for p in SCRIPTS)}, path


def imported_of_runner(path):
    """The parts of runner/ that a file imports anywhere, also inside functions: "plan", "loop", "report", "main" ..."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("runner.")}
    return found


@pytest.mark.parametrize(
    ("part", "may"), [("plan", {"plan"}), ("loop", {"plan", "loop"}), ("report", {"plan", "loop", "report"})]
)
def test_the_data_flows_one_way(part, may):
    """A command line becomes a plan, the plan runs in a loop, the loop's record becomes a report: no arrow back."""
    for path in ROOT.glob(f"runner/{part}/*.py"):
        assert imported_of_runner(path) <= may, path
    assert part == "plan" or "plan" in set().union(*map(imported_of_runner, ROOT.glob(f"runner/{part}/*.py")))


FIRST_EQUATION = {
    "ppo": "A_t = delta_t",
    "ppo_rnn": "A_t = delta_t",
    "dqn": "r + gamma * max",
    "pqn": "G_t = r_t",
    "apg": "G_t = r_t",
    "evolve_policy": "F(theta) = mean return",
    "meta_evolve_loss": "f(r, A)",
}


@pytest.mark.parametrize("name", FIRST_EQUATION)
def test_the_method_comes_first(name):
    """The first equation within a hundred lines, and the sections in one order, with the environment last."""
    text = (ROOT / f"{name}.py").read_text()
    assert text[: text.index(FIRST_EQUATION[name])].count("\n") < 100
    sections = [line.split()[2] for line in text.splitlines() if line.startswith("# --- ")]
    assert name == "meta_evolve_loss" or sections == ["Config", "Algorithm", "Network", "Training", "Environment"]


OWN = {  # what each script writes in its own way; everything else of the same name must be the same code
    "Config", "make_env", "make_network", "make_policy", "make_train", "TrainState", "Transition", "Batch",
    "QNetwork",
}  # fmt: skip


def test_what_scripts_repeat_they_repeat_exactly():
    """Single files repeat GAE, losses and wrappers on purpose: a mend in one that is forgotten in another is a bug."""
    found = {}
    for path in SCRIPTS:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and node.name not in OWN:
                if ast.get_docstring(node):
                    node.body = node.body[1:]  # shapes are named differently
                found.setdefault(node.name, {})[path.name] = ast.dump(node)
    repeated = {name: versions for name, versions in found.items() if len(versions) > 1}
    assert {"gae", "ppo_loss", "Convolution", "mean_of_ended"} <= set(repeated)
    for name, versions in repeated.items():
        assert len(set(versions.values())) == 1, f"{name} differs between {', '.join(versions)}"

"""`benchmarks/style.py` on short sources, against counts made by hand."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "style.py"

SOURCE = '''# Copyright: nobody

"""A module."""

import math  # noqa: F401


def outer(x: int = 3) -> int:
    """Two lines
    of docstring."""
    # why

    def inner():
        return 1  # so

    return x + inner()


class Thing:
    """A class."""

    def pick(self, values):
        if self and values or not values:
            return [v for v in values if v]
        elif values:
            return 2
        return None
'''

# Docstrings do not count. Return, Constant, and the function itself.
INNER_NODES = 3
# The inner function has `arguments` besides. Return, BinOp, Name, Load, Add, Call, Name, Load.
OUTER_NODES = 1 + (INNER_NODES + 1) + 8
# `self and values or not values`: BoolOp, Or, BoolOp, And, Name and Load twice, UnaryOp, Not,
# Name, Load.
TEST_NODES = 12
# Return, ListComp, Name, Load, comprehension, Name, Store, Name, Load, Name, Load.
COMPREHENSION_NODES = 11
# If, test, comprehension, elif (If, Name, Load, Return, Constant), last (Return, Constant).
PICK_NODES = 1 + 1 + TEST_NODES + COMPREHENSION_NODES + 5 + 2

# import, outer, inner, return 1, return x, class, pick, if, return, elif, return, return.
LINES_OF_CODE = 12


@pytest.fixture(scope="module")
def style() -> ModuleType:
    spec = importlib.util.spec_from_file_location("style", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # NamedTuple looks its module up
    spec.loader.exec_module(module)
    return module


def test_counts_of_one_module(style):
    modules = [style.parse(SOURCE)]
    functions = {function.name: function for function in style.all_functions(modules)}
    assert style.num_nodes(functions["inner"]) == INNER_NODES
    assert style.num_nodes(functions["outer"]) == OUTER_NODES
    assert style.num_nodes(functions["pick"]) == PICK_NODES
    assert style.num_branches(functions["outer"]) == 1
    # if, elif, and, or, the comprehension's for and if.
    assert style.num_branches(functions["pick"]) == 7

    measured = style.measure(modules)
    assert measured.functions == 3
    assert measured.lines_of_code == LINES_OF_CODE
    assert measured.nodes_per_function == OUTER_NODES  # the median of 3, 13 and 32
    assert measured.nodes_per_line == (OUTER_NODES + PICK_NODES) / LINES_OF_CODE
    assert measured.comprehensions == 100 / LINES_OF_CODE
    assert measured.long_lines == 0
    assert measured.branches == 7
    assert measured.comments == 100 * 2 / LINES_OF_CODE  # not the licence, not noqa


def test_long_lines_are_over_100_characters(style):
    just_fits = "x = 1  # " + "a" * 91
    too_long = "x = 1  # " + "a" * 92
    assert style.long_lines([style.parse(f"{just_fits}\n{too_long}\n")]) == 50


@pytest.mark.parametrize(
    ("body", "branches"),
    [
        ("x = 1", 1),
        ("for i in x: pass", 2),
        ("while x: pass\n    else: pass", 2),
        ("try: pass\n    except A: pass\n    except B: pass\n    finally: pass", 3),
        ("x = a if b else c", 2),
        ("x = a and b and c", 3),
        ("with x: pass", 1),
        ("match x:\n        case 1: pass\n        case _: pass", 3),
        ("x = {a: b for a in c for b in d if e}", 4),
    ],
)
def test_branches_of_each_statement(style, body, branches):
    (function,) = style.all_functions([style.parse(f"def f():\n    {body}\n")])
    assert style.num_branches(function) == branches


def test_branches_are_the_95th_percentile(style):
    simple = "def f():\n    x = 1\n" * 19
    branched = "def f():\n    for i in x: pass\n"
    assert style.branches([style.parse(simple + branched)]) == 1
    assert style.branches([style.parse(simple + 2 * branched)]) == 2


def test_rooms_and_tests_of_a_package(style, tmp_path):
    for name in ("__init__.py", "cli.py", "room/a.py", "room/deep/b.py", "room/a_test.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    rooms = style.by_room(style.read_package(tmp_path))
    sizes = {room: len(modules) for room, modules in rooms.items()}
    assert sizes == {"__init__": 1, "cli": 1, "room": 2}
    with pytest.raises(ValueError, match="no Python files"):
        style.read_package(tmp_path / "empty")

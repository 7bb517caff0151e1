"""Measure the code style of lmcjax, beside that of libraries that are a pleasure to read.

The others are downloaded and read as text (AST and tokens); nothing of them is imported or run.
Files of tests are left out. Per package:

* nodes per function: AST nodes of a function's body, plus one for the function itself; the median
  over all functions. Docstrings, decorators, arguments and annotations of arguments do not count.
  A nested function is measured by itself, and is also part of the one around it. A lambda is not a
  function.
* nodes per line: AST nodes of all outermost functions, as above, per line of code. A line of code
  is neither blank nor only a comment nor part of a docstring.
* comprehensions: list, set and dict comprehensions and generator expressions, per 100 lines of
  code.
* long lines: the percentage of all lines that have more than 100 characters.
* branches: McCabe's complexity of a function, its 95th percentile over all functions. It is 1, and
  1 more for each `if`, `elif`, `for`, `while`, `except` and `case`, much as in ruff's C901, and
  for each conditional expression, each further operand of `and` and `or`, and each `for` and `if`
  of a comprehension, which C901 leaves out. What nested functions have counts as well.
* comments: per 100 lines of code. Instructions to tools (`noqa`, `type: ignore`) and what stands
  above the first statement of a file (licences) do not count.
"""

import ast
import io
import json
import re
import statistics
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, TypeAlias

import tyro
from rich.console import Console
from rich.table import Table

LMCJAX = Path(__file__).resolve().parent.parent / "src" / "lmcjax"
CACHE = Path(tempfile.gettempdir()) / "lmcjax-style"
LONGEST_LINE = 100

# Pinned requirement and import name. Other versions change the figures a little.
ANCHORS = (
    ("optimistix==0.1.0", "optimistix"),
    ("equinox==0.13.8", "equinox"),
    ("ott-jax==0.6.0", "ott"),
    ("optax==0.2.8", "optax"),
    ("distrax==0.1.9", "distrax"),
)

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_WITH_DOCSTRINGS = (*_FUNCTIONS, ast.ClassDef, ast.Module)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_BRANCHES = (
    ast.If,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.match_case,
    ast.IfExp,
)
_NOT_CODE = (
    tokenize.ENCODING,
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)
_PRAGMA = re.compile(
    r"#\s*(noqa|type:|pragma|pylint:|pytype:|pyright:|mypy:|ruff:|fmt:|isort:)", re.IGNORECASE
)


class Module(NamedTuple):
    """One file, taken apart."""

    tree: ast.Module  # without docstrings
    lines: list[str]  # all of them
    num_code_lines: int
    num_comments: int


class Style(NamedTuple):
    """The measures of one package; the module's docstring defines them."""

    functions: int
    lines_of_code: int
    nodes_per_function: float
    nodes_per_line: float
    comprehensions: float
    long_lines: float
    branches: float
    comments: float


def parse(source: str) -> Module:
    """Take a file apart."""
    tree = ast.parse(source)
    docstring_lines = remove_docstrings(tree)
    code_lines: set[int] = set()
    num_comments = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            above_everything = not code_lines
            is_pragma = _PRAGMA.match(token.string)
            if not above_everything and not is_pragma:
                num_comments += 1
        elif token.type not in _NOT_CODE:
            code_lines.update(range(token.start[0], token.end[0] + 1))
    return Module(tree, source.splitlines(), len(code_lines - docstring_lines), num_comments)


def remove_docstrings(tree: ast.Module) -> set[int]:
    """Take the docstrings out of the tree, and return the numbers of their lines."""
    docstring_lines: set[int] = set()
    for node in ast.walk(tree):
        if not isinstance(node, _WITH_DOCSTRINGS) or ast.get_docstring(node) is None:
            continue
        docstring = node.body.pop(0)
        assert docstring.end_lineno is not None  # `ast.parse` always sets it
        docstring_lines.update(range(docstring.lineno, docstring.end_lineno + 1))
    return docstring_lines


def all_functions(modules: Sequence[Module]) -> Iterator[Function]:
    """Every function and method, nested ones too."""
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, _FUNCTIONS):
                yield node


def outermost_functions(node: ast.AST) -> Iterator[Function]:
    """Functions and methods that are not inside another function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _FUNCTIONS):
            yield child
        else:
            yield from outermost_functions(child)


def num_nodes(function: Function) -> int:
    """AST nodes of the body, plus one for the function itself."""
    count = 1
    for statement in function.body:
        count += sum(1 for _ in ast.walk(statement))
    return count


def num_branches(function: Function) -> int:
    """McCabe's complexity, expressions included."""
    count = 1
    for statement in function.body:
        for node in ast.walk(statement):
            if isinstance(node, _BRANCHES):
                count += 1
            elif isinstance(node, ast.BoolOp):
                count += len(node.values) - 1
            elif isinstance(node, ast.comprehension):
                count += 1 + len(node.ifs)
    return count


def lines_of_code(modules: Sequence[Module]) -> int:
    """Lines that are neither blank nor comments nor docstrings."""
    return sum(module.num_code_lines for module in modules)


def nodes_per_function(modules: Sequence[Module]) -> float:
    """The median number of AST nodes of a function."""
    return statistics.median([num_nodes(function) for function in all_functions(modules)])


def nodes_per_line(modules: Sequence[Module]) -> float:
    """AST nodes of functions per line of code."""
    count = 0
    for module in modules:
        for function in outermost_functions(module.tree):
            count += num_nodes(function)
    return count / lines_of_code(modules)


def comprehensions(modules: Sequence[Module]) -> float:
    """Comprehensions and generator expressions per 100 lines of code."""
    count = 0
    for module in modules:
        for node in ast.walk(module.tree):
            count += isinstance(node, _COMPREHENSIONS)
    return 100 * count / lines_of_code(modules)


def long_lines(modules: Sequence[Module]) -> float:
    """The percentage of lines that are too long."""
    num_long = 0
    num_lines = 0
    for module in modules:
        num_long += sum(len(line) > LONGEST_LINE for line in module.lines)
        num_lines += len(module.lines)
    return 100 * num_long / num_lines


def branches(modules: Sequence[Module]) -> float:
    """The 95th percentile of McCabe's complexity: at least 95 % of the functions have no more."""
    counts = sorted(num_branches(function) for function in all_functions(modules))
    rank = -(-95 * len(counts) // 100)  # rounded up
    return counts[rank - 1]


def comments(modules: Sequence[Module]) -> float:
    """Comments per 100 lines of code."""
    return 100 * sum(module.num_comments for module in modules) / lines_of_code(modules)


def measure(modules: Sequence[Module]) -> Style | None:
    """All measures of some modules; None where there is no function to measure."""
    num_functions = sum(1 for _ in all_functions(modules))
    if num_functions == 0:
        return None
    return Style(
        functions=num_functions,
        lines_of_code=lines_of_code(modules),
        nodes_per_function=nodes_per_function(modules),
        nodes_per_line=nodes_per_line(modules),
        comprehensions=comprehensions(modules),
        long_lines=long_lines(modules),
        branches=branches(modules),
        comments=comments(modules),
    )


def is_test(path: Path) -> bool:
    """Whether a file holds tests, as some packages install them beside their code."""
    return path.name.startswith("test_") or path.name.endswith("_test.py") or "tests" in path.parts


def read_package(folder: Path) -> dict[Path, Module]:
    """The modules of a package, by their path inside it."""
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        inside = path.relative_to(folder)
        if not is_test(inside):
            modules[inside] = parse(path.read_text(encoding="utf-8"))
    if not modules:
        raise ValueError(f"{folder} holds no Python files")
    return modules


def by_room(package: dict[Path, Module]) -> dict[str, list[Module]]:
    """The modules of each subpackage; modules outside all of them are a room each."""
    rooms: dict[str, list[Module]] = {}
    for path, module in package.items():
        rooms.setdefault(path.parts[0].removesuffix(".py"), []).append(module)
    return rooms


def install(requirement: str, cache: Path) -> Path:
    """Install a package into a folder of its own, unless that is there, and return the folder."""
    target = cache / requirement
    if not target.exists():
        # Installed elsewhere and then moved, so that an interrupt leaves no half of a package.
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--no-compile",
            ]
            unpacked = Path(scratch) / "package"
            subprocess.run([*command, "--target", str(unpacked), requirement], check=True)
            unpacked.rename(target)
    return target


def make_table(styles: dict[str, Style]) -> Table:
    """One row per package."""
    table = Table(title="Code style")
    table.add_column("")
    for name in Style._fields:
        table.add_column(name.replace("_", " "), justify="right")
    for name, style in styles.items():
        table.add_row(
            name,
            f"{style.functions:,}",
            f"{style.lines_of_code:,}",
            f"{style.nodes_per_function:g}",
            f"{style.nodes_per_line:.1f}",
            f"{style.comprehensions:.1f}",
            f"{style.long_lines:.1f} %",
            f"{style.branches:g}",
            f"{style.comments:.1f}",
        )
    return table


def main(
    source: Path = LMCJAX,
    rooms: bool = False,
    anchors: bool = True,
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = False,
    cache: Path = CACHE,
) -> None:
    """Measure the code style of lmcjax and of optimistix, equinox, ott-jax, optax and distrax.

    Args:
        source: the package to measure, such as that of another checkout.
        rooms: also measure each of its subpackages.
        anchors: also measure the other libraries.
        json_output: print JSON instead of a table.
        cache: where the other libraries are kept.
    """
    package = read_package(source)
    packages = {source.name: list(package.values())}
    if rooms:
        for room, modules in by_room(package).items():
            packages[f"  {room}"] = modules
    if anchors:
        cache.mkdir(parents=True, exist_ok=True)
        for requirement, import_name in ANCHORS:
            folder = install(requirement, cache)
            packages[requirement] = list(read_package(folder / import_name).values())

    styles = {}
    for name, modules in packages.items():
        style = measure(modules)
        if style is not None:
            styles[name] = style
    if json_output:
        print(
            json.dumps({name.strip(): style._asdict() for name, style in styles.items()}, indent=2)
        )
        return
    console = Console()
    if not console.is_terminal:
        console.width = 150  # a file has room for the table
    console.print(make_table(styles))


if __name__ == "__main__":
    tyro.cli(main)

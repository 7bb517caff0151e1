"""Every command and every block of code in the documents does what it says: all of them are run, as
they stand.

What is found in a document, in its order: fenced blocks, whose tag says what they are (`python`,
    `toml`, `bash`;
`text` for what is not run), and, in paragraphs, code spans that begin with the name of a program.
They are run in a copy of the checkout, one for each document: python in one namespace, a block of
toml is written to the file that the text before it names, and so on down the page.

Comments that a reader does not see, right behind a block or a paragraph, say what is different
under test:

- `<!-- test` and the block again, with other *values*, so that it takes seconds. Of python: other
  constants. Of toml: other values of the same keys. Of commands: a line for each, other values of
  the same options, in the same place. A word in capitals (`FOLDER`) is the reader's to fill in, so
  it may be any word. An option that is not shown has its default as its value, which is changed by
  giving the option, with a value, behind those that are shown; keys of toml likewise. Nothing else
  may differ.
- Before such a command: `slow: ` if it is run by `pytest -m slow` only, `not run (why): ` if it is
    not run at all.
- `<!-- not run: why -->` for a whole block. What is not run is listed below, and its options are
    checked.
- `<!-- setup` and python, before a block: what the reader has already, such as a network of his
    own.
"""

import ast
import contextlib
import importlib.util
import io
import itertools
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import lmcjax
from lmcjax import cli
from lmcjax.cli._main import _parse
from lmcjax.sweep import read_sweep
from lmcjax.symmetry import spec_from_table

pytestmark = pytest.mark.usefixtures("quick_compilation", "unchecked")

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    *sorted(f"docs/frameworks/{path.name}" for path in (ROOT / "docs/frameworks").glob("*.md")),
)
# What a step needs beyond .[test], by its document or by its command
NEEDS = {
    "docs/frameworks/torch.md": ("torch", "torchax"),
    "python benchmarks/torch_checkpoints.py": ("torch", "torchax", "torchvision"),
}
PROGRAMS = ("lmcjax", "python", "pip", "pytest", "bash", "ruff", "mypy", "srun")
NOT_RUN = {
    ".ci/run does": {
        "pip install -e .",
        "pip install -e '.[test]'",
        "pytest",
        "mypy",
    },
    "it is what runs this": {"bash .ci/run"},
    "the tests have it already": {"pip install equinox", "pip install dm-haiku"},
    "needs PyTorch's package index": {
        "pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu",
        "pip install 'lmcjax[torch]'",
    },
    "needs the packages of .[dev]": {
        "pip install -e '.[dev]'",
        "nox -l",
        "nox -s tests -- tests/theory -n 0",
        "pre-commit install",
    },
    "downloads the libraries that it compares with": {"python benchmarks/style.py"},
    "publishes a version": {
        "pip install build twine",
        "python -m build",
        "twine check 'dist/*'",
        "git tag -a v0.1.0 -m 'Version 0.1.0'",
        "git push origin v0.1.0",
        "twine upload 'dist/*'",
    },
    "these are the tests": {
        "pytest -n 0 tests/test_chain.py",
        "pytest -n 0 tests/matching/layerwise/test_greedy.py tests/matching/test_every_matching.py "
        "tests/test_contract.py",
        "pytest -n 0 tests/test_cli_match.py",
        "pytest -n 0 tests/matching/test_similarities.py tests/matching/layerwise/test_exact.py",
        "pytest -n 0 tests/matching/test_every_matching.py tests/test_contract.py",
        "pytest -n 0 tests/test_cli_match.py tests/results",
        "pytest -n 0 tests/symmetry/test_rules_entries.py",
        "pytest -n 0 tests/symmetry/test_discover_property.py",
        "pytest -n 0 -m slow tests/symmetry/test_discover_property.py -k 'many_programs and 1'",
    },
    "needs the packages of .[notebooks]; tests/test_notebooks.py runs every notebook": {
        "python notebooks/make.py"
    },
    "of use on Kubernetes alone": {"pip install 'jax[k8s]'"},
    "needs a TPU pod slice": {
        "gcloud compute tpus tpu-vm ssh NAME --zone ZONE --worker=all "
        "--command 'lmcjax sweep CONFIG.toml --out /mnt/shared/widths --distributed'"
    },
    "needs a Slurm cluster": {
        "srun lmcjax sweep CONFIG.toml --out /shared/widths --distributed",
        "'code=$?'",
        "'[' '$code' -eq 143 ']'",
        "scontrol requeue '$SLURM_JOB_ID'",
        "exit '$code'",
    },
}


class Passage(NamedTuple):
    """A block of code, or the commands of a paragraph."""

    document: str
    line: int
    kind: str  # setup, python, toml, bash, text
    shown: str
    file: str = ""  # of toml: where it is written
    companion: str = ""  # the same with other values
    not_run: str = ""  # why


class Step(NamedTuple):
    """What is run at once: a block, or one command."""

    document: str
    line: int
    kind: str
    shown: str
    run: str
    slow: bool = False
    not_run: str = ""
    file: str = ""

    def __str__(self) -> str:
        """For the names of tests."""
        return f"{self.document}:{self.line}:{self.shown.splitlines()[0]}"


PIECE = re.compile(
    r"^```(?P<tag>\w*)\n(?P<code>.*?)^```$|^<!-- (?P<comment>.*?) ?-->$", re.MULTILINE | re.DOTALL
)


def passages(document: str, text: str) -> list[Passage]:
    """All of a document, in order, with the comments that belong to them."""
    found: list[Passage] = []
    end = 0
    for piece in PIECE.finditer(text):
        prose = text[end : piece.start()]
        found += spoken_commands(document, prose, 1 + text.count("\n", 0, end))
        end = piece.end()
        line = 1 + text.count("\n", 0, piece.start())
        if piece["code"] is not None:
            named = re.findall(r"`([\w-]+\.toml)`", text[: piece.start()])
            file = named[-1] if piece["tag"] == "toml" else ""
            found.append(Passage(document, line, piece["tag"], piece["code"], file))
            continue
        what, _, rest = piece["comment"].partition("\n")
        if what == "setup":
            found.append(Passage(document, line, "setup", rest))
        elif what == "test" or what.startswith("not run: "):
            assert not prose.strip() or found[-1].line >= line - prose.count("\n"), (
                f"{document}:{line}: of what?"
            )
            reason = what.removeprefix("not run: ") if what != "test" else ""
            found[-1] = found[-1]._replace(companion=rest, not_run=reason)
    found += spoken_commands(document, text[end:], 1 + text.count("\n", 0, end))
    return found


def spoken_commands(document: str, prose: str, line: int) -> Iterator[Passage]:
    """The commands in the paragraphs between two blocks; a heading names a command without giving
    it.
    """
    for paragraph in re.split(r"(\n\s*\n)", prose):
        spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", paragraph)]
        commands = [span for span in spans if span.split()[0] in PROGRAMS and " " in span]
        if commands and not paragraph.lstrip().startswith("#"):
            yield Passage(document, line, "bash", "\n".join(commands))
        line += paragraph.count("\n")


def split_commands(shown: str) -> list[list[str]]:
    """The words of every command of a block."""
    commands = []
    for line in shown.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for is_and, command in itertools.groupby(words, key="&&".__eq__):
            if not is_and:
                commands.append(list(command))
    return commands


def steps_of(passage: Passage) -> list[Step]:
    """What is run of a passage."""
    document, line, kind, shown, file, companion, not_run = passage
    if kind != "bash":
        return [Step(document, line, kind, shown, companion or shown, not_run=not_run, file=file)]
    commands = [shlex.join(words) for words in split_commands(shown)]
    variants = companion.splitlines() or commands
    assert len(variants) == len(commands), (
        f"{document}:{line}: {len(commands)} commands, {len(variants)} under test"
    )
    steps = []
    for command, variant in zip(commands, variants, strict=True):
        slow, reason, run = re.fullmatch(r"(slow: )?(?:not run \((.*)\): )?(.*)", variant).groups()
        steps.append(Step(document, line, kind, command, run, slow is not None, reason or not_run))
    return steps


PASSAGES = [
    passage for name in DOCUMENTS for passage in passages(name, (ROOT / name).read_text("utf-8"))
]
STEPS = [step for passage in PASSAGES for step in steps_of(passage)]


# What the comments may say


def check_command(shown: list[str], run: list[str]) -> None:
    """The same program with the same options in the same order, but for values, and for options
    added at the end.
    """
    head, options = take_apart(shown)
    head_of_run, options_of_run = take_apart(run)
    assert len(head) == len(head_of_run), (shown, run)
    for word, word_of_run in zip(head, head_of_run, strict=True):
        assert word == word_of_run or word.isupper(), (shown, run)
    kept, added = options_of_run[: len(options)], options_of_run[len(options) :]
    assert [name for name, _ in kept] == [name for name, _ in options], (shown, run)
    for (_, values), (_, values_of_run) in zip(options, kept, strict=True):
        assert bool(values) == bool(values_of_run), (shown, run)  # a flag stays a flag
    for name, values in added:
        assert name.startswith("--"), (shown, run)
        assert values, (shown, run)


def take_apart(words: list[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """What stands before the options, and each option with its values."""
    head: list[str] = []
    options: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("-"):
            options.append((word, []))
        elif options:
            options[-1][1].append(word)
        else:
            head.append(word)
    return head, options


class _WithoutValues(ast.NodeTransformer):
    """A program in which all constants, and tuples of constants, are the same."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant(0)

    def visit_Tuple(self, node: ast.Tuple) -> ast.AST:
        constant = all(isinstance(element, ast.Constant) for element in node.elts)
        return ast.Constant(0) if constant else self.generic_visit(node)


def without_values(program: str) -> str:
    return ast.dump(_WithoutValues().visit(ast.parse(program)))


@pytest.mark.parametrize(
    "passage", [p for p in PASSAGES if p.companion], ids=lambda p: f"{p.document}:{p.line}"
)
def test_only_values_differ(passage):
    if passage.kind == "bash":
        for step in steps_of(passage):
            check_command(shlex.split(step.shown), shlex.split(step.run))
            if step.not_run:
                assert shlex.split(step.shown) == shlex.split(step.run)
    elif passage.kind == "python":
        assert without_values(passage.shown) == without_values(passage.companion)
    else:
        shown, run = tomllib.loads(passage.shown), tomllib.loads(passage.companion)
        assert list(run)[: len(shown)] == list(shown)


@pytest.mark.parametrize(
    ("shown", "run"),
    [
        ("lmcjax plot runs", "lmcjax status runs"),
        ("lmcjax plot runs", "lmcjax plot other"),
        ("lmcjax match a b --width 3", "lmcjax match a b"),
        ("lmcjax match a b --width 3", "lmcjax match a b --depth 3"),
        ("lmcjax match a b --width 3 --out c", "lmcjax match a b --out c --width 3"),
        ("lmcjax sweep a --join", "lmcjax sweep a --join b"),
        ("lmcjax sweep a", "lmcjax sweep a --dry-run"),
        ("lmcjax sweep a", "lmcjax sweep a b"),
    ],
)
def test_what_else_differs_is_noticed(shown, run):
    with pytest.raises(AssertionError):
        check_command(shown.split(), run.split())


def test_a_value_is_no_name():
    assert without_values("f(x, width=(1, 2))") == without_values("f(x, width=(3,))")
    assert without_values("f(x, width=1)") != without_values("f(x, depth=1)")
    assert without_values("f(x, width=1)") != without_values("g(x, width=1)")


def test_every_block_says_what_it_is():
    kinds = {(p.document, p.line): p.kind for p in PASSAGES}
    assert set(kinds.values()) == {"setup", "python", "toml", "bash", "text"}, kinds
    for name in DOCUMENTS:
        text = (ROOT / name).read_text("utf-8")
        assert not re.search(r"(?<=\n\n) {4,}\S", PIECE.sub("", text)), (
            f"{name}: an indented block, fence it"
        )
    assert {p.document for p in PASSAGES if p.kind == "python"} >= {"README.md"}
    without_commands = set(DOCUMENTS) - {p.document for p in PASSAGES if p.kind == "bash"}
    assert without_commands == {"docs/frameworks/nnx.md"}


def test_what_is_not_run_is_listed():
    found: dict[str, set[str]] = {}
    for step in STEPS:
        if step.not_run:
            found.setdefault(step.not_run, set()).add(step.shown)
    assert found == NOT_RUN


@pytest.mark.parametrize("command", sorted(NOT_RUN[".ci/run does"]))
def test_ci_runs_what_it_is_said_to_run(command):
    """Its words, or longer ones, in order on one line: `.` is part of what `.[test]` installs."""
    lines = [
        re.findall(r"[^\s\"]+", line)
        for line in (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    ]

    def says(line: list[str]) -> bool:
        words = iter(line)
        return all(
            any(word.startswith(wanted) for word in words) for wanted in shlex.split(command)
        )

    assert any(says(line) for line in lines)


def test_what_is_not_run_is_well_formed():
    """Options that there are, and a script that a shell can read."""
    checked = 0
    for passage in PASSAGES:
        if passage.not_run:
            subprocess.run(["bash", "-n"], input=passage.shown, text=True, check=True, timeout=30)
    for step in STEPS:
        if not step.not_run:
            continue
        words = [word for outer in shlex.split(step.shown) for word in shlex.split(outer)]
        if "lmcjax" in words:
            _parse(words[words.index("lmcjax") + 1 :])
            checked += 1
    assert checked == 2


# Running them


class Reader:
    """Somebody who does what a document says, from top to bottom, in a copy of the checkout."""

    def __init__(self, document: str, folder: Path) -> None:
        self.steps = [step for step in STEPS if step.document == document]
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "reader"}
        self.done: dict[Step, str] = {}  # what it printed

    def do(self, step: Step) -> str:
        """Take a step, and before it what comes before it, unless that is slow; returns what it
        printed.
        """
        for earlier in self.steps[: self.steps.index(step)]:
            if not earlier.slow:
                self._once(earlier)
        return self._once(step)

    def _once(self, step: Step) -> str:
        if step not in self.done and not step.not_run:
            self.done[step] = ""  # what fails is not tried again
            self.done[step] = self._take(step)
        return self.done.get(step, "")

    def _take(self, step: Step) -> str:
        printed = io.StringIO()
        if step.kind in ("python", "setup"):
            with contextlib.redirect_stdout(printed):
                exec(compile(step.run, f"{step.document}:{step.line}", "exec"), self.names)
        elif step.kind == "toml":
            (self.folder / step.file).write_text(step.run, "utf-8")
        elif step.kind == "bash":
            words = shlex.split(step.run)
            alone = words[0] == "lmcjax" and "--distributed" not in words
            (self._call if alone else self._shell)(step.run, printed)
        return printed.getvalue()

    def _call(self, command: str, printed: io.StringIO) -> None:
        """Without a process of its own, which would take seconds to start."""
        try:
            with contextlib.redirect_stdout(printed):
                cli.main(shlex.split(command)[1:])
        except SystemExit as stop:
            if stop.code:
                raise RuntimeError(f"{command}: exit code {stop.code}") from stop

    def _shell(self, command: str, printed: io.StringIO) -> None:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        programs = Path(sys.executable).parent
        environment = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "FREE_PORT": str(port),
        }
        with subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=600)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # what it has started, too
                raise
        assert process.returncode == 0, f"{command}\n{output}"
        printed.write(output)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    """One for each document."""
    ignored = shutil.ignore_patterns(
        ".git", ".venv", ".*cache", ".hypothesis", "__pycache__", "runs"
    )
    made = {}
    for document in DOCUMENTS:
        folder = tmp_path_factory.mktemp("checkout") / "lmcjax"
        shutil.copytree(ROOT, folder, ignore=ignored)
        made[document] = Reader(document, folder)
    return made


@pytest.fixture
def read(readers, monkeypatch):
    """`read(step)`: take it, in its reader's folder."""

    def take(step: Step) -> str:
        reader = readers[step.document]
        monkeypatch.chdir(reader.folder)
        monkeypatch.syspath_prepend(reader.folder)
        return reader.do(step)

    return take


def parameters() -> list[Any]:
    slow = pytest.mark.slow
    run = [step for step in STEPS if not step.not_run and step.kind not in ("setup", "text")]
    return [pytest.param(step, id=str(step), marks=slow if step.slow else ()) for step in run]


def skip_without_packages(step: Step) -> None:
    """Skip what needs packages that are not installed, unless they are said to be."""
    needed: set[str] = set()
    for start, packages in NEEDS.items():
        if step.document == start or step.shown.startswith(start):
            needed |= set(packages)
    if os.environ.get("LMCJAX_NEEDS_TORCH"):
        needed -= {"torch", "torchax"}
    missing = sorted(name for name in needed if importlib.util.find_spec(name) is None)
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


@pytest.mark.parametrize("step", parameters())
def test_it_runs(step, read):
    skip_without_packages(step)
    read(step)


def only(document: str, kind: str, start: str) -> Step:
    """The one block that begins like this."""
    (step,) = (
        s for s in STEPS if (s.document, s.kind) == (document, kind) and s.shown.startswith(start)
    )
    return step


def test_the_ten_lines(read):
    """They print what the README says they print."""
    printed = read(only("README.md", "python", "import jax, lmcjax"))
    readme = (ROOT / "README.md").read_text("utf-8")
    measured = dict(re.findall(r"(.*): barrier (.*) nats", printed))
    assert set(measured) == {"as trained", "permuted"}
    for name, barrier in measured.items():
        claimed = float(re.search(rf"`{name}: barrier (.*?) nats`", readme).group(1))
        assert abs(float(barrier) - claimed) < 0.1, (name, barrier, claimed)


def test_the_spec_as_text_is_the_spec_in_python():
    table = tomllib.loads(only("README.md", "toml", "[axes]").shown)
    program = only("README.md", "python", "from lmcjax.symmetry import PermutationSpec").shown
    names: dict = {}
    exec(program.partition(".bind(params)")[0], names)
    assert spec_from_table(table) == names["spec"]


def test_the_sweep_as_text_is_the_sweep_in_python(tmp_path):
    table, program = only("README.md", "toml", "dataset"), only("README.md", "python", "sweep = ")
    for of_table, of_program in ((table.shown, program.shown), (table.run, program.run)):
        (tmp_path / "widths.toml").write_text(of_table, "utf-8")
        sweep, dataset = read_sweep(tmp_path / "widths.toml")
        names = {"lmcjax": lmcjax}
        exec(of_program.partition("results = ")[0], names)
        assert sweep == names["sweep"]
        assert f'load_dataset("{dataset}")' in of_program

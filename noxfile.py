"""The commands of this project, by name: `nox -l` lists them, `nox -s tests` runs one.

They run in the active environment, so that nothing is installed twice. What stands after `--` is
passed on: `nox -s tests -- tests/theory -n 0`.
"""

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests"]


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests, without the slow ones."""
    session.run("pytest", *session.posargs)


@nox.session
def slow_tests(session: nox.Session) -> None:
    """Run the slow tests."""
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(name="format")
def format_code(session: nox.Session) -> None:
    """Format the code, and mend what ruff can mend by itself."""
    session.run("ruff", "check", "--fix", ".")
    session.run("ruff", "format", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types."""
    session.run("mypy")


@nox.session
def style(session: nox.Session) -> None:
    """Measure the code style, beside that of other libraries."""
    session.run("python", "benchmarks/style.py", *session.posargs)


@nox.session
def readme(session: nox.Session) -> None:
    """Fill the tables of README.md from stored results."""
    session.run("python", "docs/make_readme.py")


@nox.session
def theory_page(session: nox.Session) -> None:
    """Write docs/theory.md from stored results; measure the parts that are named first."""
    session.run("python", "docs/make_theory.py", *session.posargs)


@nox.session
def benchmarks_page(session: nox.Session) -> None:
    """Write docs/benchmarks.md from stored results."""
    session.run("python", "benchmarks/make_docs.py")


@nox.session
def claims_page(session: nox.Session) -> None:
    """Write docs/claims.md from stored results."""
    session.run("lmcjax", "claims", "--page-only", *session.posargs)


@nox.session
def notebooks(session: nox.Session) -> None:
    """Run the notebooks and store their outputs; a minute each."""
    session.run("python", "notebooks/make.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Write every page that is made from stored results; measure nothing."""
    for page in ("readme", "theory_page", "benchmarks_page", "claims_page"):
        session.notify(page)

"""`lmcjax claims`."""

import dataclasses
import shlex
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Claims:
    """Test every claim of the paper and of its summary.

    Runs the experiments that have no stored results yet, judges them by rules that stand beside
    each claim, and writes the page claims.md with its figures.
    """

    size: Literal["tiny", "small", "full"] = "small"
    """tiny takes a minute, to see that everything runs. small takes 15 minutes on 2 cores. full is
    the paper's scale, on Fashion-MNIST, and wants a GPU."""
    only: tuple[str, ...] = ()
    """Names of experiments (default: all)."""
    out: Path = Path("docs")
    """Folder of claims.md. Results, figures and unfinished sweeps go into its folder claims."""
    page_only: bool = False
    """Run nothing. Write the page from what is stored."""

    def run(self) -> None:
        """Run, judge, write."""
        from lmcjax.batching import use_all_cores

        use_all_cores()  # before anything else of JAX
        from lmcjax.cli._plot import complain
        from lmcjax.experiments.claims import write_page

        folder = self.out / "claims"
        if not self.page_only:
            self._run_experiments(folder)
        draw_again = shlex.join(["lmcjax", "claims", "--page-only", "--out", str(self.out)])
        page = self.out / "claims.md"
        for path in write_page(page, folder, on_failure=complain(draw_again)):
            print(path)

    def _run_experiments(self, folder: Path) -> None:
        """Run what has no results yet.

        Raises:
            KeyboardInterrupt: as it came, with the message that finished experiments are stored.
        """
        from lmcjax.experiments.claims import run_experiments
        from lmcjax.sweep import SweepInterrupted

        try:
            run_experiments(self.size, folder, self.only, tell=_print_at_once)
        except SweepInterrupted:
            raise  # it says itself what is stored
        except KeyboardInterrupt:
            message = f"interrupted; finished experiments are stored, go on with: {self.again()}"
            raise KeyboardInterrupt(message) from None

    def again(self) -> str:
        """The same command."""
        command = ["lmcjax", "claims", "--size", self.size, "--out", str(self.out)]
        if self.only:
            command += ["--only", *self.only]
        return shlex.join(command)


def _print_at_once(line: str) -> None:
    """Print a line that does not wait in a buffer, so that a log shows it while work goes on."""
    print(line, flush=True)

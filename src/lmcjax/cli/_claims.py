"""`lmcjax claims`."""

import dataclasses
import shlex
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Claims:
    """Test every claim of the paper and of its summary: run the experiments that have no stored
    results yet, judge
    them by rules that stand beside each claim, and write the page claims.md with its figures.
    """

    size: Literal["tiny", "small", "full"] = "small"
    """tiny: a minute, to see that everything runs; small: 15 minutes on 2 cores; full: the paper's
    scale, on
    Fashion-MNIST, which wants a GPU."""
    only: tuple[str, ...] = ()
    """Names of experiments (default: all)."""
    out: Path = Path("docs")
    """Folder of claims.md; results, figures and unfinished sweeps go into the folder claims beside
    it.
    """
    page_only: bool = False
    """Run nothing; write the page from what is stored."""

    def run(self) -> None:
        """Run, judge, write."""
        from lmcjax.batching import use_all_cores

        use_all_cores()
        from lmcjax.cli._plot import complain
        from lmcjax.experiments.claims import run_experiments, write_page

        folder = self.out / "claims"
        if not self.page_only:
            run_experiments(self.size, folder, self.only, tell=lambda line: print(line, flush=True))
        draw_again = shlex.join(["lmcjax", "claims", "--page-only", "--out", str(self.out)])
        for path in write_page(self.out / "claims.md", folder, on_failure=complain(draw_again)):
            print(path)

    def again(self) -> str:
        """The same command."""
        return shlex.join(["lmcjax", "claims", "--size", self.size, "--out", str(self.out)])

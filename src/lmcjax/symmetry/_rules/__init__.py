"""A rule per primitive: which index sets of operands and results are the same, or pinned.

Importing this registers them all.
"""

from lmcjax.symmetry._rules import _axes as _axes
from lmcjax.symmetry._rules import _blocks as _blocks
from lmcjax.symmetry._rules import _contractions as _contractions
from lmcjax.symmetry._rules import _entries as _entries
from lmcjax.symmetry._rules import _indexing as _indexing
from lmcjax.symmetry._rules import _linear_algebra as _linear_algebra
from lmcjax.symmetry._rules import _programs as _programs

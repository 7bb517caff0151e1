"""Networks of other libraries as `(apply, params)`, and aligned parameters put back into them.

Flax linen modules need nothing of this: `FlaxNetwork`, or the module's own `apply`. A library is
imported when one of its functions is called, not before.
"""

from lmcjax.frameworks._equinox import from_equinox as from_equinox
from lmcjax.frameworks._equinox import to_equinox as to_equinox
from lmcjax.frameworks._haiku import from_haiku as from_haiku
from lmcjax.frameworks._haiku import to_haiku as to_haiku
from lmcjax.frameworks._nnx import from_nnx as from_nnx
from lmcjax.frameworks._nnx import to_nnx as to_nnx
from lmcjax.frameworks._torch import from_torch as from_torch
from lmcjax.frameworks._torch import tied_names as tied_names
from lmcjax.frameworks._torch import to_torch as to_torch

"""Which axes of which parameters may be permuted together, and acting on them."""

from lmcjax.symmetry._discover import discover as discover
from lmcjax.symmetry._leaves import check_same_shapes as check_same_shapes
from lmcjax.symmetry._leaves import named_leaves as named_leaves
from lmcjax.symmetry._permutations import Permutations as Permutations
from lmcjax.symmetry._permutations import check_permutations as check_permutations
from lmcjax.symmetry._permutations import compose as compose
from lmcjax.symmetry._permutations import identity_permutations as identity_permutations
from lmcjax.symmetry._permutations import invert as invert
from lmcjax.symmetry._permutations import permute as permute
from lmcjax.symmetry._permutations import permute_leaf as permute_leaf
from lmcjax.symmetry._permutations import random_permutations as random_permutations
from lmcjax.symmetry._spec import Axis as Axis
from lmcjax.symmetry._spec import PermutationSpec as PermutationSpec
from lmcjax.symmetry._spec import Role as Role
from lmcjax.symmetry._spec import Segment as Segment
from lmcjax.symmetry._spec import both as both
from lmcjax.symmetry._spec import fixed as fixed
from lmcjax.symmetry._spec import mlp_spec as mlp_spec
from lmcjax.symmetry._spec import reads as reads
from lmcjax.symmetry._spec import writes as writes
from lmcjax.symmetry._verify import Verification as Verification
from lmcjax.symmetry._verify import perturb as perturb
from lmcjax.symmetry._verify import verify as verify

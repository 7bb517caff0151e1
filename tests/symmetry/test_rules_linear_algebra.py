"""Decompositions and solvers: the matrices of a batch may be permuted, their rows may not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lmcjax import discover, verify
from lmcjax.symmetry import PermutationSpec, reads, writes

pytestmark = pytest.mark.usefixtures("quick_compilation", "x64")

RNG = np.random.default_rng(0)
SIZE = 6
X = RNG.normal(size=(4, 3))
PARAMS = {"w": RNG.normal(size=(3, SIZE)), "v": RNG.normal(size=(SIZE, 2))}
WHOLE_GROUP = PermutationSpec.from_axes({"w": (None, writes("g")), "v": (reads("g"), None)})


def matrices(h):
    """A matrix `[samples, n, 3, 3]` per neuron, far from singular."""
    spread = jnp.sin(h[..., None, None] * jnp.arange(1.0, 10.0).reshape(3, 3))
    return spread + 3 * jnp.eye(3)


def positive(h):
    return matrices(h) @ matrices(h).mT


PER_NEURON = {
    "cholesky": lambda h: jnp.linalg.cholesky(positive(h)).sum((-1, -2)),
    "solve": lambda h: jnp.linalg.solve(matrices(h), jnp.ones((3, 1)))[..., 0].sum(-1),
    "solve with a shared matrix": lambda h: jnp.linalg.solve(jnp.eye(4) + jnp.tri(4), h),
    "inverse": lambda h: jnp.linalg.inv(matrices(h))[..., 0, 1],
    "determinant": lambda h: jnp.linalg.slogdet(matrices(h))[1],
    "qr": lambda h: jnp.abs(jnp.linalg.qr(matrices(h))[1][..., 0, 2]),
    "singular values": lambda h: jnp.linalg.svd(matrices(h), compute_uv=False)[..., 1],
    "eigenvalues": lambda h: jnp.linalg.eigvalsh(positive(h))[..., 0],
    "eigenvectors": lambda h: jnp.abs(jnp.linalg.eigh(positive(h))[1])[..., 1, 0],
    "columns of a triangular system": lambda h: lax.linalg.triangular_solve(
        jnp.eye(4) + jnp.tri(4), h, left_side=True, lower=True
    ),
    "rows of a triangular system": lambda h: (
        lax.linalg.triangular_solve(jnp.eye(4) + jnp.tri(4), h.T, lower=True).T
    ),
    "tridiagonal": lambda h: lax.linalg.tridiagonal_solve(
        *(jnp.stack([0 * h, h, h], -1), 4 + jnp.stack([h, h, h], -1)),
        *(jnp.stack([h, h, 0 * h], -1), jnp.stack([h, h, h], -1)[..., None]),
    )[..., 1, 0],
    "conjugate gradients": lambda h: jax.scipy.sparse.linalg.cg(
        lambda y: y * (2 + h**2), h, maxiter=3
    )[0],
}


def through(act):
    return lambda p, x: act(jnp.tanh(x @ p["w"])) @ p["v"]


@pytest.mark.parametrize("name", PER_NEURON)
def test_each_neuron_has_a_matrix(name, verified_spec):
    spec = verified_spec(through(PER_NEURON[name]), PARAMS, X)
    assert spec.group_shapes() == {"w": (SIZE,)}


def gram(h):
    return h.T @ h + jnp.eye(SIZE)


TRAPS = {
    "cholesky": lambda h: h @ jnp.linalg.cholesky(gram(h)),
    "lu": lambda h: h @ lax.linalg.lu(gram(h))[0],
    "qr": lambda h: jnp.linalg.qr(h.T, mode="complete")[0][:4] + h,
    "singular vectors": lambda h: h @ jnp.linalg.svd(gram(h))[2],
    "eigenvectors": lambda h: h @ jnp.linalg.eigh(gram(h))[1],
    "triangular solve": lambda h: (
        lax.linalg.triangular_solve(
            jnp.eye(SIZE) + jnp.tri(SIZE), h.T, left_side=True, lower=True
        ).T
    ),
    "tridiagonal": lambda h: (
        lax.linalg.tridiagonal_solve(*(h[0].at[0].set(0.0), 4 + h[1], h[2].at[-1].set(0.0), h.T)).T
    ),
}


@pytest.mark.parametrize("name", TRAPS)
def test_traps(name):
    apply = through(TRAPS[name])
    assert not verify(apply, WHOLE_GROUP, PARAMS, X).jointly_holds
    spec = discover(apply, PARAMS, X)
    assert spec.groups == ()
    assert spec.unknown == ()


@pytest.mark.parametrize("mix", [jnp.linalg.inv, lambda h: jnp.linalg.inv(h.mT)])
def test_matrices_of_layers_have_a_permutation_each(mix):
    """What is not in a matrix may vary from layer to layer."""

    def apply(p, x):
        h = matrices(jnp.tanh(jnp.einsum("bi,lih->lbh", x, p["w"])))
        return jnp.einsum("lbhij,lho->lboij", mix(h), p["v"])

    params = {"w": RNG.normal(size=(3, 3, SIZE)), "v": RNG.normal(size=(3, SIZE, 2))}
    spec = discover(apply, params, X)
    assert spec.group_shapes() == {"w": (3, SIZE)}
    assert verify(apply, spec, params, X).jointly_holds

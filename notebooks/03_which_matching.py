# %% [markdown]
# # Which matching?
#
# "Match the neurons" leaves open what makes two neurons alike. Same incoming weights? Same responses? And should one
# look at incoming weights only, or at outgoing ones too? This notebook does three experiments of the paper in
# miniature, with one sweep:
#
# 1. two-layer networks, two seeds: are they linearly connected after matching?
# 2. the same at another width;
# 3. naive, covariance and activation matching by learning rate, also in deeper networks.
#
# Then it takes one pair and tries everything that the library has for it. It ends with advice.

# %%
import os
import tempfile
import time

import jax
import matplotlib.pyplot as plt
import numpy as np

import lmcjax
from lmcjax.matching import SIMILARITIES, similarity_from_name

# This notebook is run whenever the library changes; LMCJAX_NOTEBOOK_SIZE=tiny makes that a matter of seconds, with
# networks too small and too little trained to show much. Without it you get what the text talks about.
tiny = os.environ.get("LMCJAX_NOTEBOOK_SIZE") == "tiny"
dataset, widths, depths, rates, num_seeds, epochs = (
    ("digits", (8,), (1,), (0.01, 0.1), 2, 1) if tiny else ("mnist5k", (16, 64), (1, 3), "1e-3:1e-1:4", 4, 5)
)

lmcjax.use_all_cores()  # one JAX device per CPU core, before anything else of JAX
plt.rcParams.update({"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
COLOURS = {"none": "#999999", "weights": "#0072B2", "covariance": "#D55E00", "activations": "#009E73"}
LABELS = {"none": "no matching", "weights": "weights (naive)"}

# %% [markdown]
# ## Three similarities
#
# Layer by layer, with the layers before already permuted, each pair of neurons gets a number, and an exact assignment
# maximises the sum. With $W$ the incoming weights (a row per neuron), $\phi$ the activations, $S = E[\phi\phi^T]$ of
# the layer before in A:
#
# | `similarity=` | matrix | what makes neurons alike |
# | :-- | :-- | :-- |
# | `"weights"` (naive) | $W_A W_B^T$ | incoming weights, each counting the same |
# | `"covariance"` | $W_A S W_B^T$ | incoming weights, by how much they matter on data |
# | `"activations"` | $\mathrm{Cov}(\phi_A, \phi_B)$ | responses to data, after the nonlinearity |
#
# (`"correlation"` is the third one standardised: strong and weak neurons count the same.)
#
# ## One sweep, three questions

# %%
data = lmcjax.load_dataset(dataset)
sweep = lmcjax.Sweep(
    seeds=range(num_seeds),
    widths=widths,
    num_hidden_layers=depths,
    learning_rates=rates,
    epochs=epochs,
    num_points=5,
    keep_networks=True,
)
folder = tempfile.TemporaryDirectory()  # a real sweep gets a folder that stays, such as out="runs/which"
results = lmcjax.run_sweep(sweep, data, out=folder.name)
print(f"{sweep.num_networks} networks, {sweep.num_pairs} pairs at {len(sweep.cells)} points of the grid")

# %% [markdown]
# The paper's measure is the test loss half-way, at t = 1/2 (its "LMC error"). It contains how good the networks
# themselves are, so these stand beside it, dotted. Look along each panel (learning rate), down the columns (depth) and
# across the rows (width).

# %%
test = results.sel(split="test").squeeze("optimizer")
halfway = test["midpoint_loss"].where(test["finite"]).mean("pair")
own = test["endpoint_loss"].mean(("pair", "network"))

figure, panels = plt.subplots(
    len(depths), len(widths), figsize=(1 + 4.6 * len(widths), 3.2 * len(depths)),
    sharex=True, sharey=True, squeeze=False, layout="constrained",
)  # fmt: skip
for (i, depth), (j, w) in ((d, w) for d in enumerate(depths) for w in enumerate(widths)):
    panel, cell = panels[i, j], {"num_hidden_layers": depth, "width": w}
    for matching, colour in COLOURS.items():
        label = LABELS.get(matching, matching)
        panel.plot(sweep.learning_rates, halfway.sel(cell).sel(matching=matching), "o-", color=colour, label=label)
    panel.plot(sweep.learning_rates, own.sel(cell), "k:", label="the networks themselves")
    panel.set(xscale="log", title=f"{depth} hidden layer{'s' * (depth > 1)} of {w}")
for panel in panels[-1]:
    panel.set_xlabel("peak learning rate")
for panel in panels[:, 0]:
    panel.set_ylabel("test loss at t = 1/2 (nats)")
panels[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# What to see:
#
# 1. **Two-layer networks** (top row): matched by covariance or activations, the loss half-way comes near to that of
#    the networks themselves, as Theorem 3.1 says of wide ones.
# 2. **Width**: the gap is smaller on the right.
# 3. **Learning rate and depth**: with more layers the gap is wide at small rates and narrows at large ones. Activation
#    matching does best. In the wide networks covariance matching is between it and naive matching, until naive matching
#    catches up at the largest rate.
#
# In numbers, at each rate, for the deepest and widest:

# %%
cell = {"num_hidden_layers": max(depths), "width": max(widths)}
print("rate      themselves " + "".join(f"{LABELS.get(m, m):>17s}" for m in COLOURS))
for rate in sweep.learning_rates:
    row = halfway.sel(cell).sel(learning_rate=rate)
    themselves = float(own.sel(cell).sel(learning_rate=rate))
    print(f"{rate:<8.3g} {themselves:11.3f} " + "".join(f"{float(row.sel(matching=m)):17.3f}" for m in COLOURS))

# %% [markdown]
# ## Why: dimension
#
# Two clouds of points are easier to match in few dimensions. The approximate dimension
# $(\mathrm{tr}\, M)^2 / \mathrm{tr}(M^2)$ counts in how many directions the neurons spread, as each similarity sees
# them. Expect tens to hundreds for naive matching in the first layer and a handful for the other two: that is the
# paper's explanation of the picture above.

# %%
dimensions = results["approximate_dimension"].squeeze("optimizer").mean("pair").sel(cell)
for similarity in results.similarity.values:
    print(f"approximate dimension, {similarity}")
    for rate in sweep.learning_rates:
        layers = dimensions.sel(similarity=similarity, learning_rate=rate).values
        print(f"    rate {rate:<8.3g} by layer: " + " ".join(f"{value:7.1f}" for value in layers if np.isfinite(value)))

# %% [markdown]
# ## One pair, everything
#
# Now one pair of the deepest and widest, at the middle of the rates, and all matchings of this kind. Beside the
# layer-by-layer ones there are two that maximise the inner product of *all* weights, incoming, outgoing and biases:
#
# - `match_coordinate_descent` is Git Re-Basin's algorithm: one layer after the other, again and again, until no layer
#   improves. The outcome depends on the start; `restarts` takes the best of several.
# - `match_frank_wolfe` moves all layers at once, inside the doubly stochastic matrices, and rounds in the end (C2M3's
#   algorithm, for two networks).
#
# Both take `similarity=Covariance(moments)`, and then compare weights in the covariance norm.

# %%
rate = sweep.learning_rates[len(sweep.learning_rates) // 2]
network, networks = lmcjax.load_networks(folder.name, learning_rate=rate, **cell)
params_a, params_b = (jax.tree.map(lambda leaf, i=i: leaf[i], networks) for i in range(2))
spec = lmcjax.discover(network.apply, params_a, data.train.inputs[:2])
moments = jax.jit(lmcjax.activation_moments, static_argnums=(0, 1))(
    network.apply, spec, params_a, params_b, data.train.inputs
)
loss = lmcjax.batched_loss(network.apply, lmcjax.cross_entropy_and_accuracy, data.test)
barrier_of = jax.jit(lambda a, b: lmcjax.linear_barrier(loss, a, b, num_points=11))
diagnose = jax.jit(lmcjax.diagnose, static_argnums=0)


def layerwise(name):
    """A layer-by-layer matching as a function of two networks and their moments."""

    def match(a, b, moments):
        return lmcjax.match_layerwise(spec, a, b, similarity=similarity_from_name(name, moments))

    return match


def descent(name):
    """Coordinate descent, the best of four starts."""

    def match(a, b, moments):
        similarity = similarity_from_name(name, moments)
        key = jax.random.key(0)
        return lmcjax.match_coordinate_descent(
            spec, a, b, similarity=similarity, key=key, restarts=4, certify=True
        )

    return match


def frank_wolfe(name):
    """All layers at once."""

    def match(a, b, moments):
        return lmcjax.match_frank_wolfe(spec, a, b, similarity=similarity_from_name(name, moments))

    return match


matchers = {name: layerwise(name) for name in SIMILARITIES}
matchers["descent, weights"] = descent("weights")
matchers["Frank-Wolfe, weights"] = frank_wolfe("weights")
matchers["descent, covariance"] = descent("covariance")
matchers["Frank-Wolfe, covariance"] = frank_wolfe("covariance")
if tiny:  # each algorithm once; they take a second to compile
    some = ("covariance", "descent, weights", "Frank-Wolfe, covariance")
    matchers = {name: matchers[name] for name in some}

# %% [markdown]
# Every matching is a pure function, gives the same kind of result, and compiles as a whole; the seconds are those of a
# second call. *Share removed* is how much of the squared distance $\|A - B\|^2$ between the networks the permutation
# takes away. Expect the barriers to differ, the covariance to cost far more than the rest, and the share removed to be a
# poor guide to the barrier.

# %%
print(f"rate {rate:.3g}; barrier as trained: {barrier_of(params_a, params_b).height:.3f} nats\n")
print(f"{'matching':26s} {'barrier':>8s} {'half-way':>9s} {'share removed':>14s} {'seconds':>8s}")
lines, matchings = {"as trained": barrier_of(params_a, params_b)}, {}
for name, matcher in matchers.items():
    run = jax.jit(matcher)
    jax.block_until_ready(run(params_a, params_b, moments))  # compiles
    start = time.perf_counter()
    matching = matchings[name] = jax.block_until_ready(run(params_a, params_b, moments))
    seconds = time.perf_counter() - start
    line = barrier_of(params_a, lmcjax.permute(spec, matching.permutations, params_b))
    removed = diagnose(spec, params_a, params_b, matching.permutations, line).reduction.value
    print(f"{name:26s} {line.height:8.3f} {line.midpoint_loss:9.3f} {removed:14.3f} {seconds:8.3f}")
    lines[name] = line

# %%
figure, panel = plt.subplots(figsize=(8, 4), layout="constrained")
styles = {"as trained": ("#999999", "-"), **{m: (c, "-") for m, c in COLOURS.items() if m != "none"}}
styles |= {"correlation": ("#CC79A7", "-")}
styles |= {"descent, weights": ("#0072B2", "--"), "Frank-Wolfe, weights": ("#56B4E9", "--")}
styles |= {"descent, covariance": ("#D55E00", "--"), "Frank-Wolfe, covariance": ("#E69F00", "--")}
for name, line in lines.items():
    colour, style = styles[name]
    panel.plot(line.points, line.losses, style, color=colour, label=name)
panel.set(xlabel="t: from A (0) to B (1)", ylabel="test loss (nats)", title="One pair, by matching")
panel.set_ylim(bottom=0)
panel.legend(loc="center left", bbox_to_anchor=(1, 0.5), title="dashed: all weights at once")
plt.show()

# %% [markdown]
# Two things are worth remembering. Those that maximise the inner product of the weights remove the most distance: that
# is what they are made for. They need not have the lowest barrier: distance counts weights that the data never touch.
#
# ## How sure is a matching?
#
# Each assignment is exact, and can prove it by dual potentials, whose `gap` bounds how much any other permutation of
# that layer could gain: `certify=True` asks for these certificates. For `match_coordinate_descent` the proof is of each
# layer with the others in place, a local optimum; `total.restarts` show how far local optima differ.

# %%
matching = matchings["descent, weights"]
for group, certificate in matching.certificates.items():
    print(f"{group}: gap {certificate.gap:.1e} of {matching.similarity[group]:.1f}")
print("inner product of each restart:", np.round(matching.total.restarts, 1))

# %% [markdown]
# ## When which
#
# - *Data and the program*: `match_layerwise` with `Activations` or `Covariance`. Try both, they cost little.
# - *Checkpoints alone, or data that you may not touch*: `match_frank_wolfe`, or `match_coordinate_descent` with
#   restarts.
# - *Networks trained at large rates, to the end*: any; naive matching may do as well.
# - *Thousands of pairs*: `jax.vmap` of `match_layerwise`, one batch of exact assignments per layer.
# - *Residual networks, attention, networks of different widths*: see `04_any_network`.
# - *A barrier that none of these removes*: `match_sinkhorn`, `match_straight_through` and `match_annealing` search for
#   the lowest `midpoint_loss` itself, by gradients or by swaps. They cost as much as a training.
#
# Whatever you take, measure the barrier, on data that the matching has not seen.

# %%
folder.cleanup()

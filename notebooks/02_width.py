# %% [markdown]
# # Width
#
# Why should two networks have anything in common but the data? The paper's answer is a law of large numbers. The
# neurons of a layer are samples of some distribution; two networks are two samples of the same. With few neurons a
# neuron of A finds nobody near in B. With many, everyone finds somebody, and the best pairing of the two clouds gets
# ever better. How fast depends on how many dimensions the neurons live in.
#
# So this notebook asks three things: does the barrier fall with the width? Do matched neurons come nearer, and at the
# rate that theory says? And what does the theory promise for networks of the size that we have?

# %%
import os
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import lmcjax

# This notebook is run whenever the library changes; LMCJAX_NOTEBOOK_SIZE=tiny makes that a matter of seconds, with
# networks too small and too little trained to show much. Without it you get what the text talks about.
tiny = os.environ.get("LMCJAX_NOTEBOOK_SIZE") == "tiny"
dataset, widths, num_seeds, epochs = ("digits", (8, 16), 4, 1) if tiny else ("mnist5k", (8, 16, 32, 64, 128), 6, 5)
rate_sizes, repetitions = ((8, 16), 2) if tiny else ((32, 64, 128), 6)

lmcjax.use_all_cores()  # one JAX device per CPU core, before anything else of JAX
plt.rcParams.update({"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"

# %% [markdown]
# ## A sweep
#
# A `Sweep` is a grid: every width (and depth, learning rate, optimizer) with every seed. `run_sweep` trains all
# networks, matches them in disjoint pairs, walks the lines, and returns one labelled dataset. It groups networks into
# compiled programs by itself, stores every finished batch, and goes on where it was stopped. Here the networks have
# one hidden layer, the case of the paper's first theorem, and are kept for the second half of the notebook.

# %%
data = lmcjax.load_dataset(dataset)
sweep = lmcjax.Sweep(
    seeds=range(num_seeds),
    widths=widths,
    num_hidden_layers=1,
    learning_rates=0.1,
    matchings=("weights", "covariance"),
    epochs=epochs,
    num_points=11,
    keep_networks=True,
)
folder = tempfile.TemporaryDirectory()  # a real sweep gets a folder that stays, such as out="runs/widths"
results = lmcjax.run_sweep(sweep, data, out=folder.name)
print(f"{sweep.num_networks} networks, {sweep.num_pairs} pairs")
print(dict(results.sizes))

# %% [markdown]
# `results` is an `xarray.Dataset`: select by name, not by position. Expect wider networks to be better themselves, the
# barrier without matching to fall, and with matching to fall much further.

# %%
here = results.squeeze(["num_hidden_layers", "learning_rate", "optimizer"]).sel(split="test")
barriers = here["barrier"].where(here["finite"])  # diverged networks, if any, count as missing
own = here["endpoint_loss"].mean(("pair", "network"))

print("barriers in nats, mean over pairs")
print("width   own loss " + "".join(f"{m:>12s}" for m in results.matching.values))
for w in widths:
    row = barriers.sel(width=w).mean("pair")
    print(f"{w:5d} {float(own.sel(width=w)):10.3f} " + "".join(f"{float(value):12.3f}" for value in row))

# %%
figure, panel = plt.subplots(figsize=(6.5, 4), layout="constrained")
names = {
    "none": ("as trained", GREY, "v"),
    "weights": ("weights (naive)", BLUE, "o"),
    "covariance": ("covariance", ORANGE, "s"),
}
for matching, (label, colour, marker) in names.items():
    values = barriers.sel(matching=matching)
    panel.plot(widths, values.mean("pair"), color=colour, marker=marker, label=label, linewidth=2)
    panel.plot(widths, values, ".", color=colour, alpha=0.35)
panel.set(xscale="log", yscale="log", xlabel="width, neurons in the hidden layer", ylabel="test barrier (nats)")
panel.set_xticks(widths, [str(w) for w in widths])
panel.set_xticks([], minor=True)
panel.set_title("Barrier by width; dots are pairs")
panel.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# (`lmcjax.results.plot_sweep(results)` draws such a picture for any sweep, a panel per axis that was swept.)
#
# ## Do matched neurons come nearer?
#
# The barrier is the end of a chain: neurons are near, so activations are near, so the loss is low. The first link can
# be measured. For every width, take the pairs of networks back from the sweep, match them by covariance, and measure
# the squared distance between partners, $\|w_i^A - w_{p(i)}^B\|_S^2$, per neuron. That is $W_2^2$, the squared
# Wasserstein distance between the two clouds of neurons (Lemma B.3 of the paper: the best plan between two clouds of
# equal size is a permutation). Neurons of narrow networks also have larger weights, so the distance is given
# relative to the size of A's neurons, $\|w_i^A\|_S^2$.
#
# `lmcjax.theory.propagate` returns this distance, and carries it through the network: a bound on how far the outputs
# on the line can be from the chord. `path_deviation` measures what the bound is about. One pair is one call; all pairs
# of a width are `vmap`.

# %%
from lmcjax.theory import (
    calibrate_wasserstein_rate,
    fit_exponent,
    gaussian_matching_lower_bound,
    path_deviation,
    propagate,
    width_upper_bound,
)

inputs = jnp.asarray(data.test.inputs)
spec = lmcjax.mlp_spec(1)  # what discover finds for an MLP, by its layers' names


def compare(network):
    """One pair: matched squared distance, relative; the bound half-way; what the bound is about."""

    def one(a, b, x):
        moments = lmcjax.activation_moments(network.apply, spec, a, b, x)
        matching = lmcjax.match_layerwise(spec, a, b, similarity=lmcjax.Covariance(moments))
        b = lmcjax.permute(spec, matching.permutations, b)
        moments = lmcjax.activation_moments(network.apply, spec, a, b, x)  # of B in its new order
        bound = propagate(spec, a, b, moments, num_points=3)
        measured = path_deviation(network.apply, spec, a, b, x, num_points=3)
        responses = x.reshape(len(x), -1) @ a["Dense_0"]["kernel"] + a["Dense_0"]["bias"]
        size = jnp.mean(jnp.sum(responses**2, axis=1))  # ||W_A||_S^2, biases included
        return bound.distances["Dense_0/kernel"] ** 2 / size, bound.chord[1], measured.chord[1]

    return jax.jit(jax.vmap(one, (0, 0, None)))


found = []
for w in widths:
    network, networks = lmcjax.load_networks(folder.name, width=w)
    a, b = (jax.tree.map(lambda leaf, i=i: leaf[i::2], networks) for i in range(2))  # the sweep's pairs
    found.append(compare(network)(a, b, inputs))
distance, bound, deviation = (np.array(column) for column in zip(*found, strict=True))  # [width, pair]

# %% [markdown]
# `fit_exponent` fits a power of the width through means with errors.

# %%
print("relative squared distance by width:", " ".join(f"{value:.3f}" for value in distance.mean(1)))
mean, error = distance.mean(1), distance.std(1, ddof=1) / distance.shape[1] ** 0.5
fit = jax.jit(lambda n, y, error: fit_exponent(n, y, error, repetitions=distance.shape[1]))
trained = fit(np.array(widths), mean, error)
print(f"trained networks: matched squared distance per neuron falls like width^{trained.exponent:.2f}")
print(f"95 % interval [{trained.low:.2f}, {trained.high:.2f}]")

# %% [markdown]
# ## The theory's rate
#
# Between two samples of $m$ points of a smooth density in $d > 2$ dimensions, $E\,W_2^2$ falls like $m^{-2/d}$. In the
# 784 dimensions of the pixels that would be as good as not at all. But the norm $\|\cdot\|_S$ hardly sees most of
# them: images are smooth and their borders black. How many dimensions count?
#
# Try it on neurons that have no training in them: Gaussian rows, as at initialization. `calibrate_wasserstein_rate`
# draws two samples of each size, solves the assignments exactly, and fits. Beside it a *proven* lower bound: no
# matching, by any method, comes nearer on average (`gaussian_matching_lower_bound`, the paper's Theorem 5.3 made
# explicit and sharper).

# %%
pixels = inputs.reshape(len(inputs), -1)
second_moment = pixels.T @ pixels / len(pixels)
values, vectors = jnp.linalg.eigh(second_moment)
root = vectors * jnp.sqrt(jnp.maximum(values, 0))  # ||w||_S is the Euclidean norm of w @ root
dim = pixels.shape[1]

keys = jax.random.split(jax.random.key(0))
variance = 1 / jnp.trace(second_moment)  # of each weight, so that E ||w||_S^2 = 1 and distances are relative again
neurons = jax.random.normal(keys[0], (20 * max(rate_sizes), dim)) * jnp.sqrt(variance) @ root
calibrate = jax.jit(lambda key, points: calibrate_wasserstein_rate(key, points, rate_sizes, repetitions=repetitions))
fresh = calibrate(keys[1], neurons)
bound_of = jax.jit(gaussian_matching_lower_bound)
lower = [bound_of(m, variance * jnp.eye(dim), second_moment).error for m in rate_sizes]

print(f"approximate dimension of what the layer sees: {lmcjax.approximate_dimension(second_moment):.1f} of {dim}")
print(f"fresh neurons: E W_2^2 falls like m^{fresh.fit.exponent:.2f} [{fresh.fit.low:.2f}, {fresh.fit.high:.2f}]")
print(f"a smooth density in d dimensions has m^(-2/d): this is d = {-2 / fresh.fit.exponent:.1f}")

# %%
figure, panels = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
panels[0].errorbar(widths, mean, error, color=ORANGE, marker="s", capsize=3, label="trained networks")
panels[0].plot(widths, np.exp(trained.log_constant) * np.array(widths) ** trained.exponent, ":", color=ORANGE)
panels[0].errorbar(
    rate_sizes, fresh.mean, fresh.standard_error, color=BLUE, marker="o", capsize=3, label="fresh neurons"
)
panels[0].plot(rate_sizes, lower, "--", color=BLUE, label="fresh neurons, proven lower bound")
panels[0].set(title="Distance of partners", ylabel="squared distance / squared size, norm of S")
panels[1].plot(widths, bound.mean(1), "--", color=GREY, marker="^", label="bound (Lemma 4.1)")
panels[1].plot(widths, deviation.mean(1), color=ORANGE, marker="s", label="measured")
panels[1].set(title="Outputs half-way, distance to the chord", ylabel="root mean square over test images (logits)")
for panel in panels:
    panel.set(xscale="log", yscale="log", xlabel="width")
    panel.set_xticks(widths, [str(w) for w in widths])
    panel.set_xticks([], minor=True)
panels[0].set_ylim(0.35, 1.3)
for panel, ticks in zip(panels, ((0.4, 0.6, 0.8, 1), (2, 5, 10, 20)), strict=True):
    panel.set_yticks(ticks, [str(tick) for tick in ticks])
    panel.set_yticks([], minor=True)
    panel.legend(loc="upper right", fontsize="small")
plt.show()

# %% [markdown]
# What to see on the left: partners do come nearer with the width, and slowly. The exponent is that of a dozen
# dimensions or two: far fewer than there are pixels, which is why matching gains anything at all, but more than the
# approximate dimension, which counts the strongest directions only. Even in the widest network partners remain as far
# apart as a good part of their size. Trained partners are nearer than fresh ones; of fresh ones, no matching at all
# could come below the dashed line.
#
# And yet the barrier has gone. So the first link of the chain is not the whole story: a layer adds up the differences
# of many pairs of partners, and what one of them has too much another has too little. The bound on the right, which
# follows the chain link by link and adds up the norms of all differences, cannot see that. It is never below what it
# bounds, and always above by some factor:

# %%
print(f"the bound holds for all {bound.size} pairs: {bool((bound >= deviation).all())}")
factor = bound / deviation
print(f"it is larger than what it bounds by a factor of {factor.min():.0f} to {factor.max():.0f}")

# %% [markdown]
# ## What the theorem asks for
#
# Sufficient widths for a barrier of 0.1 in the paper's Theorem 5.2, by number of hidden layers. Its constants exist but
# are not known, so they are set to 1 here: look at the shape, not at the numbers. First with the pixels' dimensions,
# then with five.

# %%
enough = jax.jit(lambda input_dim: width_upper_bound(0.1, input_dim, 3))
for input_dim in (dim, 5):
    print(f"inputs of {input_dim} dimensions, three hidden layers:")
    print(enough(float(input_dim)))

# %% [markdown]
# Towers of exponentials: every layer takes the width of the one before as its dimension. The networks above need
# nothing of the kind. Theorem 5.4 of the paper narrows the gap, with weights that fill few dimensions only;
# `03_which_matching` looks at how many those are in trained networks, for each way of measuring distance.

# %%
folder.cleanup()

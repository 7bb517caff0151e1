# %% [markdown]
# # Two networks, one valley
#
# Train the same network twice, from two seeds. Both solve the task. Walk in a straight line from the weights of the
# one to the weights of the other: half-way the loss is high. That hill is the *barrier*.
#
# The hidden neurons of a network have no order of their own: number them anew and the network computes the same. So
# the two networks may be nearer than they look, and differ mostly in how their neurons happen to be numbered. This
# notebook takes two networks, finds a better numbering for the second by optimal transport, and walks again.
#
# You will see the five steps that everything else in the library builds on:
# **train, find the symmetry, match, permute, measure along the line.**

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import lmcjax

# This notebook is run whenever the library changes; LMCJAX_NOTEBOOK_SIZE=tiny makes that a matter of seconds, with
# networks too small and too little trained to show much. Without it you get what the text talks about.
tiny = os.environ.get("LMCJAX_NOTEBOOK_SIZE") == "tiny"
dataset, width, num_steps = ("digits", 16, 40) if tiny else ("mnist5k", 256, 400)

lmcjax.use_all_cores()  # one JAX device per CPU core, before anything else of JAX
plt.rcParams.update({"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"

# %% [markdown]
# ## Train
#
# `mnist5k` are 5,000 real MNIST digits that come with the installation. The network is the paper's kind, an MLP with
# ReLU, here with two hidden layers. `lmcjax.train` is one training run as a pure function of a configuration, a key
# and data; momentum SGD with a warm-up and a cosine. Because it is pure, two runs are the same function under a map:
# `network_map` is `jax.vmap` over networks, spread over the local devices.

# %%
data = lmcjax.load_dataset(dataset)
network = lmcjax.FlaxNetwork(lmcjax.MLP((width, width), data.num_classes), data.input_shape)
config = lmcjax.TrainConfig(0.1, network, num_steps=num_steps, batch_size=100)

train_both = jax.jit(lmcjax.network_map(lmcjax.train, (None, 0, None)))
runs = train_both(config, jax.random.split(jax.random.key(0), 2), data.train)
params_a, params_b = (jax.tree.map(lambda leaf, i=i: leaf[i], runs.params) for i in range(2))

# %% [markdown]
# How good are they? `batched_loss` turns a network and a data set into a function of the parameters alone. Expect two
# networks of about the same quality.

# %%
loss = jax.jit(lmcjax.batched_loss(network.apply, lmcjax.cross_entropy_and_accuracy, data.test))
for name, params in {"A": params_a, "B": params_b}.items():
    test = loss(params)
    print(f"{name}: test loss {test.loss:.3f} nats, test accuracy {100 * test.accuracy:.1f} %")

# %% [markdown]
# ## The line between them
#
# `linear_barrier` measures the loss at points of (1 - t) A + t B; t = 0 is A. Its `height` is the barrier: the largest
# excess of the loss over the chord, the straight line between the two losses at the ends. Expect a hill.

# %%
barrier_of = jax.jit(lambda a, b: lmcjax.linear_barrier(loss, a, b))
as_trained = barrier_of(params_a, params_b)
print(f"barrier as trained: {as_trained.height:.3f} nats; half-way the test loss is {as_trained.midpoint_loss:.3f}")

# %% [markdown]
# ## What a permutation does
#
# Which neurons may be renumbered? That depends on the network, and `discover` reads it off the program: it follows
# every axis of every parameter through `apply`, without running it. Here it finds one group per hidden layer. A group
# names the axes that *write* its neurons (incoming weights, biases) and those that *read* them (outgoing weights).
# All of them have to be permuted together.
#
# If you come from Git Re-Basin: this is its `PermutationSpec`, and you need not write it.

# %%
spec = lmcjax.discover(network.apply, params_a, data.train.inputs[:2])
print(spec)

# %% [markdown]
# Shuffle A at random. The outputs stay the same up to rounding: it is the same function. But as a point in weight
# space it has moved as far as another network, and the line from A *to itself, shuffled*, has a barrier like the one
# between A and B. So a barrier by itself says nothing about two functions.

# %%
shuffle = lmcjax.random_permutations(jax.random.key(1), spec)
shuffled = lmcjax.permute(spec, shuffle, params_a)

apart = jnp.abs(network.apply(params_a, data.test.inputs) - network.apply(shuffled, data.test.inputs)).max()
print(f"largest difference of an output: {apart:.1e}")
print(f"barrier from A to its own shuffle: {barrier_of(params_a, shuffled).height:.3f} nats")

# %% [markdown]
# A matching undoes this. Each layer is a cloud of neurons, and the best pairing of two clouds of equal size is an
# assignment problem, which is solved exactly. `match_layerwise` goes through the layers from the input on. Of a
# network and its own shuffle the answer is known: the shuffle comes back, whole, and the barrier is gone.
#
# (Neurons that never fire are alike, so their order can be lost; it does not matter for the function.)

# %%
weights = lmcjax.Weights()
match_by_weights = jax.jit(lambda a, b: lmcjax.match_layerwise(spec, a, b, similarity=weights))
undone = match_by_weights(params_a, shuffled)
found = lmcjax.compose(spec, undone.permutations, shuffle)
for group, permutation in found.items():
    print(f"{group}: {np.sum(permutation == np.arange(width))} of {width} neurons are back in their place")
print(f"barrier: {barrier_of(params_a, lmcjax.permute(spec, undone.permutations, shuffled)).height:.1e} nats")

# %% [markdown]
# ## Match B to A
#
# Now two networks that are *not* copies. No numbering will make them equal; the best one brings them near. Near in
# which distance? The paper's answer: two neurons are alike if they *respond* alike to what the layer sees. For a neuron
# with incoming weights $w$ and inputs $x$ with second moment $S = E[x x^T]$,
#
# $$\|w - w'\|_S^2 = (w - w')^T S \, (w - w') = E[(w \cdot x - w' \cdot x)^2].$$
#
# A pixel that is always black has no part in it, however large its weights are. This is the paper's *covariance*
# matching. It needs the second moments of what every layer sees: `activation_moments` streams the training inputs
# through both networks once. (The paper, Section 6; S is A's.)
#
# All of this is pure, so it may be compiled as one function. Let the data be an argument of it: of data that it closes
# over, the compiler would try to work out the moments by itself, and that takes minutes.

# %%


@jax.jit
def match(a, b, inputs):
    """B matched to A by covariance, and the moments it took."""
    moments = lmcjax.activation_moments(network.apply, spec, a, b, inputs)
    return lmcjax.match_layerwise(spec, a, b, similarity=lmcjax.Covariance(moments)), moments


matching, moments = match(params_a, params_b, data.train.inputs)
permuted_b = lmcjax.permute(spec, matching.permutations, params_b)

matched = barrier_of(params_a, permuted_b)
print(f"the matching is finite: {matching.finite}, and converged: {matching.converged}")
for group in spec.groups:
    unmatched, reached = matching.identity_similarity[group], matching.similarity[group]
    print(f"{group}: similarity {unmatched:.0f} -> {reached:.0f}")
print(f"barrier permuted: {matched.height:.3f} nats, as trained it was {as_trained.height:.3f}")
print(f"half-way: accuracy {100 * matched.midpoint.accuracy:.1f} %, it was {100 * as_trained.midpoint.accuracy:.1f} %")

# %% [markdown]
# `similarity` is what the assignment reached, `identity_similarity` what leaving B in its order would have given.
# B is still the same function. Only the road from A to B has changed:

# %%
figure, panels = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
rows = (("B as trained", as_trained, GREY), ("B permuted", matched, ORANGE))
for panel, field, unit in zip(panels, ("loss", "accuracy"), ("test loss (nats)", "test accuracy"), strict=True):
    for label, line, colour in rows:
        values = np.asarray(getattr(line.values, field))
        panel.plot(line.points, values, color=colour, label=label, linewidth=2)
        panel.plot((0, 1), values[[0, -1]], "o", color=colour)
    panel.set(xlabel="t: from A (0) to B (1)", ylabel=unit)
panels[0].set_ylim(bottom=0)
panels[0].legend()
figure.suptitle("The line between two networks")
plt.show()

# %% [markdown]
# The hill is gone, or nearly so. The two networks lie in one valley, as far as the line can tell.

# %% [markdown]
# ## What has been matched
#
# Do partners do the same thing? The correlation of A's neurons with B's, over the training set, before and after.
# After the permutation the diagonal should stand out: neuron i of the permuted B responds where neuron i of A does.

# %%
from lmcjax.statistics import cross_correlation, group_moments

group = spec.groups[0]
before = np.asarray(cross_correlation(group_moments(spec, group, params_a, moments)))
correlations = {"as trained": before, "permuted": before[:, matching.permutations[group]]}

figure, panels = plt.subplots(1, 3, figsize=(13, 4), layout="constrained", width_ratios=(1, 1, 1.2))
shown = min(32, width)
for panel, (label, matrix) in zip(panels, correlations.items(), strict=False):
    image = panel.imshow(matrix[:shown, :shown], cmap="RdBu_r", vmin=-1, vmax=1)
    panel.set(title=f"B {label}", xlabel="neuron of B", ylabel="neuron of A")
figure.colorbar(image, ax=panels[:2], label="correlation", shrink=0.8)
bins = np.linspace(-1, 1, 41)
for (label, matrix), colour in zip(correlations.items(), (GREY, ORANGE), strict=True):
    panels[2].hist(np.diag(matrix), bins, alpha=0.7, color=colour, label=f"B {label}")
panels[2].set(xlabel="correlation of neuron i of A with neuron i of B", ylabel=f"neurons of {group}")
panels[2].set_xticks((-1, -0.5, 0, 0.5, 1))
panels[2].legend()
plt.show()
for label, matrix in correlations.items():
    print(f"{label}: median correlation of partners {np.median(np.diag(matrix)):.2f}")

# %% [markdown]
# Partners are related, not equal. Where they differ, the line averages two different neurons; that the loss hardly
# notices is the surprising fact that the paper explains: with many neurons, everyone finds somebody near.
#
# ## When it does not work
#
# `diagnose` looks at a match and names its symptoms, each number beside a threshold (conventions, not theorems), with
# what to try.

# %%
print(jax.jit(lmcjax.diagnose, static_argnums=0)(spec, params_a, params_b, matching.permutations, matched))

# %% [markdown]
# Try it: set `width` to 16 in the first cell, or the learning rate to 0.003, and run all again. The barrier returns.
# Why the width matters is the next notebook, `02_width`; which matching to choose, `03_which_matching`; networks other
# than MLPs, `04_any_network`.

# %% [markdown]
# # Any network
#
# Scripts for matching are written for a network: a list of layer names, a spec per architecture. Here you bring the
# program, and its symmetry is read off. This notebook writes a residual, gated network in plain JAX, a class of its own
# that the library has never seen, and takes it through: discover, verify, train, match. Then it breaks the symmetry in
# several ways, to see what is pinned and how to find out why; writes a spec by hand; and matches two networks of
# different widths.

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
stream, hidden, num_blocks, num_steps = (16, 8, 1, 30) if tiny else (64, 64, 2, 600)

lmcjax.use_all_cores()  # one JAX device per CPU core, before anything else of JAX
plt.rcParams.update({"figure.dpi": 80, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"

# %% [markdown]
# ## The network
#
# Two functions and a nested dict, nothing else. A *stream* of features is written by an embedding and by every block,
# and read by every block and by the logits. A block is gated: each of its hidden units has a value, and a gate that
# decides how much of it passes.

# %%


def init(key, stream=stream, hidden=hidden, num_blocks=num_blocks):
    """Fresh parameters."""

    def dense(number, fan_in, fan_out):
        return jax.random.normal(jax.random.fold_in(key, number), (fan_in, fan_out)) / fan_in**0.5

    blocks = [
        {
            "gate": dense(3 * i, stream, hidden),
            "value": dense(3 * i + 1, stream, hidden),
            "out": dense(3 * i + 2, hidden, stream),
        }
        for i in range(num_blocks)
    ]
    embed = {"kernel": dense(100, 64, stream), "bias": jnp.zeros(stream)}
    return {"embed": embed, "blocks": blocks, "logits": dense(101, stream, 10)}


def embed(params, images):
    """Images to the stream."""
    return images.reshape(len(images), -1) @ params["embed"]["kernel"] + params["embed"]["bias"]


def read(params, x):
    """The blocks, and the logits."""
    for block in params["blocks"]:
        x = x + (jax.nn.sigmoid(x @ block["gate"]) * jnp.tanh(x @ block["value"])) @ block["out"]
    return x @ params["logits"]


def apply(params, images):
    """Logits."""
    return read(params, embed(params, images))


# %% [markdown]
# ## Discover, and do not believe it
#
# `discover` traces `apply` to its jaxpr and follows which axes carry the same neurons; nothing is run. Expect three
# groups: the stream, written and read everywhere, and the hidden units of each block. Gate and value share a group,
# because they are multiplied entry by entry.

# %%
data = lmcjax.load_dataset("digits")  # scikit-learn's 8 x 8 digits
params = init(jax.random.key(0))
spec = lmcjax.discover(apply, params, data.train.inputs[:2])
print(spec)

# %% [markdown]
# `verify` tries it: it permutes each group at random and compares the outputs, relative to the largest one. The
# parameters are perturbed first, since fresh ones hide mistakes (biases that are all 0 look the same in any order).

# %%
checked = lmcjax.verify(apply, spec, params, data.train.inputs[:50])
for group, difference in checked.difference.items():
    print(
        f"{group:10s} outputs change by {difference:.1e} of the largest: {'holds' if checked.holds[group] else 'FAILS'}"
    )

# %% [markdown]
# Groups are named after the first leaf that writes them; `names` gives better ones.

# %%
spec = lmcjax.discover(apply, params, data.train.inputs[:2], names={spec.groups[0]: "stream"})
print(spec.groups, spec.group_shapes())

# %% [markdown]
# ## Train and match
#
# `FunctionNetwork` wraps the two functions; training and matching ask for no more. `lmcjax.train` is not needed for
# matching: any two trees of parameters will do.

# %%
network = lmcjax.FunctionNetwork(init, apply)
config = lmcjax.TrainConfig(0.003, network, num_steps=num_steps, batch_size=100, optimizer="adam")
train_both = jax.jit(lmcjax.network_map(lmcjax.train, (None, 0, None)))
runs = train_both(config, jax.random.split(jax.random.key(0), 2), data.train)
params_a, params_b = (jax.tree.map(lambda leaf, i=i: leaf[i], runs.params) for i in range(2))

loss = lmcjax.batched_loss(apply, lmcjax.cross_entropy_and_accuracy, data.test)
barrier_of = jax.jit(lambda a, b: lmcjax.linear_barrier(loss, a, b, num_points=21))


@jax.jit
def match(a, b, inputs):
    """B matched to A by three similarities, and B in its new orders."""
    moments = lmcjax.activation_moments(apply, spec, a, b, inputs)
    similarities = {
        "weights": lmcjax.Weights(),
        "covariance": lmcjax.Covariance(moments),
        "activations": lmcjax.Activations(moments),
    }
    matchings, permuted = {}, {}
    for name, similarity in similarities.items():
        matchings[name] = lmcjax.match_layerwise(spec, a, b, similarity=similarity)
        permuted[name] = lmcjax.permute(spec, matchings[name].permutations, b)
    return matchings, permuted


matchings, permuted = match(params_a, params_b, data.train.inputs)
lines = {"as trained": barrier_of(params_a, params_b)}
for similarity in ("weights", "covariance", "activations"):
    matching = matchings[similarity]
    lines[similarity] = barrier_of(params_a, permuted[similarity])
    print(f"{similarity:12s} passes over the groups: {matching.iterations}, converged: {matching.converged}")
print()
for name, line in lines.items():
    print(f"{name:12s} barrier {line.height:.3f} nats, accuracy half-way {100 * line.midpoint.accuracy:.1f} %")

# %% [markdown]
# By weights, a stream is matched through the blocks that write it, and the blocks through the stream: there is no first
# layer to begin with, so these matchings go round until they settle. Activations need one pass.

# %%
figure, panel = plt.subplots(figsize=(7, 3.8), layout="constrained")
for (name, line), colour in zip(lines.items(), (GREY, BLUE, ORANGE, GREEN), strict=True):
    panel.plot(line.points, line.losses, color=colour, label=name, linewidth=2)
panel.set(xlabel="t: from A (0) to B (1)", ylabel="test loss (nats)", title="A gated residual network")
panel.set_ylim(bottom=0)
panel.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# ## What is pinned, and why
#
# Whatever looks at the *order* of neurons takes the freedom to permute them. Here are four things that one might do to
# the stream between the embedding and the blocks. Which groups remain?

# %%


def inserted(change):
    """The network with something done to its stream."""
    return lambda params, images: read(params, change(embed(params, images)))


half = stream // 2
changes = {
    "normalise": lambda x: x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True)),
    "ReLU on the first half": lambda x: jnp.concatenate([jax.nn.relu(x[:, :half]), x[:, half:]], axis=-1),
    "add a code per feature": lambda x: x + jnp.sin(jnp.arange(stream)),
    "mix by a Fourier transform": lambda x: jnp.fft.fft(x).real,
}
for name, change in changes.items():
    other = lmcjax.discover(inserted(change), params, data.train.inputs[:2])
    print(f"{name:28s} {other.group_shapes()}")
    for primitive, _ in other.unknown:  # with the line of the program where it stands
        print(f"{'':28s} unknown primitive {primitive!r} pins what it touches")

# %% [markdown]
# - Normalising treats all features alike: nothing is lost.
# - ReLU on one half splits the stream into two groups. Neurons may change places within a half, not between them.
# - A constant that differs from feature to feature gives each its own role: the stream is pinned. That is not a
#   shortcoming, the symmetry is really gone.
# - A Fourier transform along the features is nothing that discovery knows. So it pins what the transform touches, and
#   says so in `spec.unknown`, with the line of your program. A symmetry may be missed; none is made up.
#
# If there are fewer groups than you expect, `lmcjax.explain` says of every axis what pins it, and in which line of your
# program. You can also pin by yourself, with `pin=`, say to keep two networks' streams in place:

# %%
print(lmcjax.discover(apply, params, data.train.inputs[:2], pin=["embed"]).groups)

# %% [markdown]
# ## A spec by hand
#
# For a checkpoint without a program, say which axes write a group of neurons and which read it. Leaves are named by
# their path. `bind` checks the spec against parameters; a mistake names the leaf. By hand it is easy to forget
# something, and `verify` finds that out. Here is the spec above, and then one with a mistake: it forgets that blocks
# write the stream.

# %%
from lmcjax.symmetry import PermutationSpec, reads, writes


def by_hand(out):
    """The network's spec, `out` being what acts on the stream's side of each block's output kernel."""
    axes = {"embed/kernel": (None, writes("stream")), "embed/bias": (writes("stream"),)}
    for i in range(num_blocks):
        unit = f"hidden {i}"
        axes |= {f"blocks/{i}/{name}": (reads("stream"), writes(unit)) for name in ("gate", "value")}
        axes[f"blocks/{i}/out"] = (reads(unit), out)
    return PermutationSpec.from_axes({**axes, "logits": (reads("stream"), None)}).bind(params)


for name, written in {"right": by_hand(writes("stream")), "wrong": by_hand(None)}.items():
    checked = lmcjax.verify(apply, written, params, data.train.inputs[:50])
    print(f"{name}: " + ", ".join(f"{group} {'holds' if holds else 'FAILS'}" for group, holds in checked.holds.items()))

# %% [markdown]
# The same as text is `lmcjax match a.safetensors b.safetensors --spec network.toml`, see the README.
#
# ## Different widths
#
# A permutation needs equal numbers. Between networks of different widths there is a *transport plan* instead: each
# neuron of A gets a mixture of B's. `match_soft` finds one plan per group, and `apply_soft` makes of B a network in A's
# shapes. When A is twice as wide, every neuron of B is split between two places, and the function is kept.

# %%
narrow = lmcjax.FunctionNetwork(lambda key: init(key, stream // 2, hidden // 2), apply)
narrow_config = lmcjax.TrainConfig(0.003, narrow, num_steps=num_steps, batch_size=100, optimizer="adam")
params_n = jax.jit(lmcjax.train)(narrow_config, jax.random.key(2), data.train).params


@jax.jit
def match_widths(a, b, inputs):
    """B softly matched to A, and B in A's shapes."""
    moments = lmcjax.activation_moments(apply, spec, a, b, inputs, apply_b=apply)
    soft = lmcjax.match_soft(spec, a, b, similarity=lmcjax.Activations(moments))
    return soft, lmcjax.apply_soft(spec, soft.alignments, b)


soft, widened = match_widths(params_a, params_n, data.train.inputs)
print({group: plan.shape for group, plan in soft.alignments.items()})

apart = jnp.abs(apply(widened, data.test.inputs) - apply(params_n, data.test.inputs)).max()
print(f"largest difference between the outputs of the narrow network and of its widened copy: {apart:.1e}")

# %% [markdown]
# Now both live in one space, and there is a line. Beside it, widened without looking: neuron i of the narrow network
# takes the places 2 i and 2 i + 1.

# %%
blind = {
    group: np.repeat(np.eye(plan.shape[1], dtype=np.float32), 2, axis=0) for group, plan in soft.alignments.items()
}
lines = {
    "widened without matching": barrier_of(params_a, lmcjax.apply_soft(spec, blind, params_n)),
    "widened by match_soft": barrier_of(params_a, widened),
}
figure, panel = plt.subplots(figsize=(7, 3.8), layout="constrained")
for (name, line), colour in zip(lines.items(), (GREY, ORANGE), strict=True):
    panel.plot(line.points, line.losses, color=colour, label=name, linewidth=2)
    print(f"{name}: barrier {line.height:.3f} nats")
panel.set(xlabel="t: from the wide network (0) to the narrow one (1)", ylabel="test loss (nats)")
panel.set_ylim(bottom=0)
panel.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# That is the whole way for a network of your own. For a recurrent one that runs through the paper's experiment by one
# command, see `docs/examples/row_reader.py`: `lmcjax figure2 --apply docs.examples.row_reader:apply`.

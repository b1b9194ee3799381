# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     provenance: []
#   jupytext:
#     formats: ipynb,py:percent
#     notebook_metadata_filter: accelerator,colab
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Our transforms in your own optax loop
#
# The transforms in `ctrain_jax.optim` know nothing of learners and streams. Here a plain loop of flax and optax learns
# upright digits, then digits turned by 90 degrees, and `project_agem` and `project_gem` keep its steps from going up
# the loss of the upright ones.

# %%
# In Colab: upload a wheel of ctrain_jax (`python -m build`), name it here, run this cell. Elsewhere it does nothing.
import importlib.util
import subprocess
import sys

WHEEL = "ctrain_jax-0.1.0-py3-none-any.whl"
if importlib.util.find_spec("ctrain_jax") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", WHEEL], check=True)

# %% tags=["parameters"]
STEPS = 600
WIDTH = 64

# %%
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

from ctrain_jax import optim

# %% [markdown]
# ## A network, a loss, two tasks

# %%
images, labels = load_digits(return_X_y=True)
images = (images / 16).reshape(-1, 8, 8).astype(np.float32)
upright, turned = images, np.rot90(images, axes=(1, 2))
network = nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(WIDTH), nn.relu, nn.Dense(10)])


def loss(params, inputs, targets):
    return optax.softmax_cross_entropy_with_integer_labels(network.apply(params, inputs), targets).mean()


def batches(inputs, seed):
    rows = np.random.default_rng(seed).integers(0, len(inputs), (STEPS, 32))
    return jnp.asarray(inputs[rows]), jnp.asarray(labels[rows])


# %% [markdown]
# ## The loop
#
# An optax loop as you have it, in a `lax.scan`. What the projections need beyond the gradient is an extra argument of
# `update`: the gradient of a hundred remembered images, at the same parameters.

# %%
remembered = jnp.asarray(upright[:100]), jnp.asarray(labels[:100])
probe = jnp.asarray(upright[100:]), jnp.asarray(labels[100:])


def train(params, tx, data, extra):
    tx = optax.with_extra_args_support(tx)

    def step(carry, batch):
        params, state = carry
        grads = jax.grad(loss)(params, *batch)
        reference = jax.grad(loss)(params, *remembered)
        updates, state = tx.update(grads, state, params, **extra(params, reference))
        record = {
            "loss on upright digits": loss(params, *probe),
            "cosine": optax.tree.vdot(grads, reference) / (optax.tree.norm(grads) * optax.tree.norm(reference)),
        }
        return (optax.apply_updates(params, updates), state), record

    (params, _), record = jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), data))(params)
    return params, record


start = network.init(jax.random.key(0), jnp.asarray(upright[:1]))
learned, _ = train(start, optax.sgd(0.3), batches(upright, 0), lambda params, reference: {})
print("loss on upright digits after the first task:", float(loss(learned, *probe)))

# %% [markdown]
# ## The second task, three times

# %%
one = jnp.array([True])
ways = {
    "SGD": (optax.sgd(0.3), lambda params, reference: {}),
    "project_agem, then SGD": (
        optax.chain(optim.project_agem(), optax.sgd(0.3)),
        lambda params, reference: {"reference": reference},
    ),
    "project_gem with a margin, then SGD": (
        optax.chain(optim.project_gem(margin=0.5), optax.sgd(0.3)),
        lambda params, reference: {"references": jax.tree.map(lambda r: r[None], reference), "active": one},
    ),
}
records = {name: train(learned, tx, batches(turned, 1), extra)[1] for name, (tx, extra) in ways.items()}
for name, record in records.items():
    print(f"{name:36} loss on upright digits at the end: {float(record['loss on upright digits'][-1]):.2f}")

# %% [markdown]
# ## The picture
#
# Left: what the second task does to the first. Right: whether the gradients of the two agree. Under SGD they are in
# conflict (a cosine below 0) about as often as not; a step that goes up neither loss leads to where they agree more.

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
smooth = max(STEPS // 40, 1)
for name, record in records.items():
    axes[0].semilogy(record["loss on upright digits"], label=name)
    axes[1].plot(np.convolve(record["cosine"], np.ones(smooth) / smooth, mode="valid"), label=name)
axes[0].set(title="loss on upright digits", xlabel="steps on turned digits")
axes[1].set(title=f"cosine of the two gradients, mean of {smooth} steps", xlabel="steps on turned digits")
axes[1].axhline(0, color="grey", linewidth=0.8)
axes[0].legend(frameon=False)
for axis in axes:
    axis.spines[["top", "right"]].set_visible(False)
plt.show()

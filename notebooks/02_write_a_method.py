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
# # Write a method
#
# A method is a tuple of pure functions over a state of its own. This one keeps a moving average of the weights as a
# teacher, and asks the network to answer replayed images as the average does. It is twenty lines, passes the checks of
# every method of the library, composes with the others, and its strength is swept in one program.

# %%
# In Colab: upload a wheel of ctrain_jax (`python -m build`), name it here, run this cell. Elsewhere it does nothing.
import importlib.util
import subprocess
import sys

WHEEL = "ctrain_jax-0.1.0-py3-none-any.whl"
if importlib.util.find_spec("ctrain_jax") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", WHEEL], check=True)

# %% tags=["parameters"]
SEEDS = 5
EPOCHS = 5
STRENGTHS = (0.0, 1.0, 3.0, 10.0)

# %%
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from ctrain_jax import continual, core, losses, metrics, models, streams, testing

# %% [markdown]
# ## The state and the hooks
#
# What someone may sweep lives in the state. `loss` is added to the problem's loss at every step; `update` comes after
# it. `ctx` has what a hook may know: here the batch with the rows that `er` appended, the network's outputs, and
# `ctx.forward`, the network at any parameters.


# %%
class AverageState(NamedTuple):
    lam: jax.Array  # float32 []
    average: optax.Params  # like params: the teacher


def average_teacher(lam, decay=0.995):
    def init(rng, params, ctx):
        return AverageState(jnp.asarray(lam, jnp.float32), params)

    def loss(s, params, ctx):
        teacher, _ = ctx.forward(s.average, ctx.batch["inputs"])
        distance = losses.softened_cross_entropy(ctx.outputs.logits, teacher.logits, 1.0)
        replayed = jnp.arange(distance.shape[0]) >= ctx.spec.batch_size
        return s.lam * core.weighted_mean(distance, ctx.batch["weights"] * replayed), {}

    def update(s, ts, ctx):
        return s._replace(average=optax.incremental_update(ts.params, s.average, 1 - decay)), ts

    return core.Method("average_teacher", init=init, loss=loss, update=update)


# %% [markdown]
# ## The checks
#
# One compilation for the whole stream, the same bits after any interruption, no leaf of the state without an effect,
# seeds as an axis, and more: a sentence says what is wrong otherwise. The method wants replayed rows, so it is checked
# behind `er`.

# %%
testing.check_method(core.chain(continual.er(20), average_teacher(0.5, decay=0.9)))

# %% [markdown]
# ## A sweep is one program
#
# `run_fused` is the whole run as a pure function. The strength is a number in the state, so a run for any strength is
# the same program: `mapped` runs it over seeds and strengths.

# %%
stream = streams.class_incremental(streams.fashion_mnist(), num_experiences=5)
model = core.from_linen(models.MLP(num_classes=10, hidden=(400, 400)))
data = core.to_device(stream)


def run(seed, lam):
    method = core.chain(continual.er(200), average_teacher(lam))
    learner = core.make_learner(model, method, optax.adam(1e-3), stream, batch_size=32, epochs=EPOCHS)
    return core.run_fused(learner, data, jax.random.key(seed)).accuracy


seeds, strengths = np.meshgrid(np.arange(SEEDS), np.asarray(STRENGTHS, np.float32), indexing="ij")
accuracy = jax.jit(core.mapped(run))(seeds.ravel(), strengths.ravel())
final = 100 * metrics.final_accuracy(np.asarray(accuracy)).reshape(seeds.shape)
lost = 100 * metrics.forgetting(np.asarray(accuracy)).reshape(seeds.shape)

# %% [markdown]
# ## The picture
#
# Strength 0 is `er` alone, and each seed is compared with itself there. The bars are 95 percent intervals over seeds:
# the averaged teacher takes from forgetting, most at 10, and what it costs in learning is less.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
places = np.arange(len(STRENGTHS))
gain = final - final[:, :1]
for axis, values, title in (
    (axes[0], gain, "final accuracy above er alone, points"),
    (axes[1], lost, "forgetting, points"),
):
    mean, half_width, _ = metrics.mean_interval(values)
    axis.errorbar(places, mean, half_width, fmt="o-", capsize=4)
    for seed in range(SEEDS):
        axis.plot(places, values[seed], ".", color="grey", alpha=0.5)
    axis.set(title=title, xlabel="strength of the averaged teacher", xticks=places)
    axis.set_xticklabels([f"{lam:g}" for lam in STRENGTHS])
    axis.spines[["top", "right"]].set_visible(False)
axes[0].axhline(0, color="grey", linewidth=0.8)
plt.show()

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
# # Quick start: what a network forgets, and what keeps it
#
# Ten classes of clothing arrive in five pairs. A network that only trains on what arrives forgets the pairs before. A
# memory of 500 images changes that; a penalty on moving what mattered does not, where ten classes compete and nobody
# says which pair an image is from. All seeds of a learner run in the same programs.

# %%
# In Colab: upload a wheel of ctrain_jax (`python -m build`), name it here, run this cell. Elsewhere it does nothing.
import importlib.util
import subprocess
import sys

WHEEL = "ctrain_jax-0.1.0-py3-none-any.whl"
if importlib.util.find_spec("ctrain_jax") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", WHEEL], check=True)

# %% tags=["parameters"]
SEEDS = 3
EPOCHS = 5

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

from ctrain_jax import continual, core, metrics, models, streams

# %% [markdown]
# ## A stream, a model, four learners
#
# `class_incremental` deals the classes of a source to experiences. The images are embedded in the package: a tenth of
# Fashion-MNIST.

# %%
source = streams.fashion_mnist()
stream = streams.class_incremental(source, num_experiences=5)
model = core.from_linen(models.MLP(num_classes=10, hidden=(400, 400)))
methods = {
    "naive": core.identity(),
    "online EWC": continual.ewc(1000.0, online=True),
    "ER, 500 images": continual.er(500),
    "DER++, 500 images": continual.derpp(500),
}
learners = {
    name: core.make_learner(model, method, optax.adam(1e-3), stream, batch_size=32, epochs=EPOCHS)
    for name, method in methods.items()
}

# %% [markdown]
# ## Run them
#
# `run_stream` gives an accuracy matrix for each seed: row $i$, column $j$ is the accuracy on experience $j$ after
# training on experience $i$.

# %%
results = {name: core.run_stream(learner, seed=range(SEEDS)) for name, learner in learners.items()}
for name, result in results.items():
    final = metrics.mean_interval(metrics.final_accuracy(result.accuracy))
    lost = metrics.mean_interval(metrics.forgetting(result.accuracy))
    print(f"{name:18} final accuracy {metrics.format_interval(final):12} forgetting {metrics.format_interval(lost)}")

# %% [markdown]
# ## Ask a learner
#
# `predictor` is the learner as a function of raw images. `core.export_program` and `core.save_tensors` write it down
# for others.

# %%
first = jax.tree.map(lambda x: x[0], results["DER++, 500 images"].state)
predict = core.predictor(learners["DER++, 500 images"], first)
images, labels = source.test["inputs"][:10], source.test["labels"][:10]
print("labels ", labels)
print("answers", np.asarray(predict(images).logits.argmax(-1)))

# %% [markdown]
# ## The picture

# %%
figure, axes = plt.subplots(2, 4, figsize=(12, 6), height_ratios=(1.2, 1), layout="constrained")
over_time = figure.add_subplot(axes[0, 0].get_gridspec()[0, :])
for axis in axes[0]:
    axis.remove()
experiences = np.arange(1, 6)
for name, result in results.items():
    mean, half_width, _ = metrics.mean_interval(100 * metrics.seen_accuracy(np.asarray(result.accuracy)))
    (line,) = over_time.plot(experiences, mean, marker="o", label=name)
    over_time.fill_between(experiences, mean - half_width, mean + half_width, color=line.get_color(), alpha=0.15)
over_time.set(
    xticks=experiences, xlabel="experiences trained on", ylabel="accuracy on those seen so far, %", ylim=(0, 100)
)
over_time.legend(frameon=False, loc="lower left")
over_time.spines[["top", "right"]].set_visible(False)
for axis, (name, result) in zip(axes[1], results.items(), strict=True):
    matrix = 100 * np.asarray(result.accuracy).mean(0)
    axis.imshow(matrix, cmap="Blues", vmin=0, vmax=130)
    for i, j in np.ndindex(*matrix.shape):
        axis.text(j, i, f"{matrix[i, j]:.0f}", ha="center", va="center", fontsize=8)
    axis.set(title=name, xlabel="accuracy on experience", xticks=range(5), yticks=range(5))
    axis.set_xticklabels(experiences)
    axis.set_yticklabels(experiences)
axes[1, 0].set_ylabel("after experience")
plt.show()

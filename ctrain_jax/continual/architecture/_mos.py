"""MOS: an adapter for each experience, pulled to the earlier ones, and an answer that finds its own adapter.

Sun, Zhou, Zhao, Gan, Zhan and Ye, "MOS: Model Surgery for Pre-Trained Model-Based Class-Incremental Learning", AAAI
2025, arXiv 2412.09441. Opened: models/mos.py, backbone/vit_mos.py, utils/inc_net.py and configs of the authors' code
(sun-hailong/AAAI25-MOS, and the same in LAMDA-PILOT); the paper was not. As there, an experience goes on from the
adapter and the aligned head of the last one, and prototypes are means of features under the first adapter. Where we
differ: the adapter is the user's, theirs a bottleneck of 16 with a ReLU beside each MLP; merging is once a step, and
never after training, where the code merges all adapters once for each block in every forward pass as well: 13 times a
step with 12 blocks, and evaluation takes adapters that are stored to the mean of the earlier ones; how fast the head
learns beside the adapter is left to the user's optimizer (a tenth in the code); an alignment is as long with few
classes as with many, and each step has as many samples of every class, where the code takes 30 steps for each class; a
covariance is over the number of rows, in the code over one less, and has a thousandth of its mean variance on the
diagonal, there 1e-4.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ctrain_jax.continual._alignment import aligned, measured
from ctrain_jax.continual._classes import told_apart
from ctrain_jax.continual._head import check_head, linear_head, own_parts, with_linear_head
from ctrain_jax.core import Method, ModelTransform, PyTree, mask_logits
from ctrain_jax.ops import (
    ClassGaussians,
    check_choice,
    check_fraction,
    check_non_negative,
    check_positive,
    check_size,
    class_gaussians,
    restart,
    unit,
)


class MosState(NamedTuple):
    """The adapters so far, and what is known of the classes."""

    momentum: jax.Array  # float32 []
    reg: jax.Array  # float32 []
    temperature: jax.Array  # float32 []
    learning_rate: jax.Array  # float32 []
    adapters: PyTree  # like params["new"], leaves [T, ...]
    owners: jax.Array  # int32 [C], the experience that learned a class
    gaussians: ClassGaussians  # of the features of each class under its own adapter
    prototypes: jax.Array  # float32 [C, D], means of features under the first adapter


def mos(
    pet: ModelTransform,
    *,
    momentum: float = 0.1,
    reg: float = 0.1,
    temperature: float = 0.8,
    steps: int = 300,
    samples: int = 24,
    learning_rate: float = 0.005,
    covariance: str = "full",
    max_rounds: int = 4,
    ensemble: bool = True,
) -> Method:
    r"""Train an adapter for each experience beside one head, and let a row choose among them when it is answered.

    After each step of experience :math:`t > 0` the adapter moves to the mean of the earlier ones,

    .. math:: A \leftarrow (1 - m) A + \frac{m}{t} \sum_{k < t} A_k.

    A row is told apart from the classes of its experience alone. With the means of old classes and the features of the
    batch as rows :math:`u_i`, the loss grows by

    .. math:: -\frac{\mathrm{reg}}{n} \sum_i \log \mathrm{softmax}(u_i^\top u_1 / \tau, \ldots, u_i^\top u_n / \tau)_i.

    When an experience is over, its adapter and a Gaussian of the features of each of its classes are kept. From the
    second one on the head takes steps of SGD (momentum 0.9, decay 5e-4, a cosine) down the cross-entropy of samples of
    all Gaussians, and stays so. An experience starts with a new state of the optimizer.

    An answer starts from the adapter of the experience that learned the nearest prototype, by cosines :math:`p` of
    features under the first adapter. In each round the adapter that is chosen gives logits :math:`z`, and the class
    that is largest in them chooses the adapter of the next; with t adapters the answer, over the classes of
    experiences that are over, has the probabilities

    .. math:: \tfrac12 \mathrm{softmax}(z) + \tfrac12 \mathrm{softmax}(t \, p).

    Until the first experience is over the network answers as it is. Start from a trained network:
    `core.run_stream(learner, variables=...)`.

    Args:
      pet: the adapter, with the head trained beside it, as `peft.lora(16, train="^head")`.
      momentum: m. 0: adapters are not merged. In the authors' code 0.1, 13 times a step with 12 blocks: 0.75 at once.
      reg: of the pull of features apart.
      temperature: :math:`\tau`.
      steps: of an alignment; in the authors' code 30 for each class seen. 0: none.
      samples: of each class in a step; in the authors' code 5 batches for all classes, shuffled.
      learning_rate: of the alignment.
      covariance: "full", or "diagonal" for less memory.
      max_rounds: in which the adapter is chosen.
      ensemble: let prototypes vote as well.

    Returns:
      The method. An answer costs a forward pass for each experience of the stream. In a chain it stands before other
      methods that change the model, and after those that append rows.

    Raises:
      ValueError: a `momentum` outside of [0, 1], a negative `reg`, a `temperature` or `learning_rate` of 0 or below,
        `steps` below 0, `samples` or `max_rounds` below 1, an unknown `covariance`; when the learner is started, a
        `pet` that adds no parameters or does not train a layer `head`, or features that are not what that is given.

    Example:
      >>> from ctrain_jax import peft
      >>> mos(peft.lora(16, train="^head")).needs
      ('boundaries', 'classes', 'features')

    References:
      Sun et al. 2025, arXiv 2412.09441.
    """
    check_fraction("momentum", momentum)
    check_non_negative("reg", reg)
    check_positive("temperature", temperature)
    if steps != 0:
        check_size("steps", steps)
    check_size("samples", samples)
    check_positive("learning_rate", learning_rate)
    check_choice("covariance", covariance, ("full", "diagonal"))
    check_size("max_rounds", max_rounds)

    def init(rng, params, ctx):
        top = _top(params)
        check_head(top, ctx, "mos")
        width, classes = top["head"]["kernel"].shape
        adapters = jax.tree.map(lambda x: jnp.zeros((ctx.spec.num_experiences, *x.shape), x.dtype), params["new"])
        owners = jnp.zeros(classes, jnp.int32)
        gaussians = class_gaussians(classes, width, covariance)
        return MosState(
            jnp.asarray(momentum, jnp.float32),
            jnp.asarray(reg, jnp.float32),
            jnp.asarray(temperature, jnp.float32),
            jnp.asarray(learning_rate, jnp.float32),
            adapters,
            owners,
            gaussians,
            jnp.zeros((classes, width)),
        )

    def begin(s, ts, ctx):
        return s, restart(ts, ctx)

    def augment(s, batch, ctx):
        return told_apart(batch, ctx.experience.classes, ctx)

    def loss(s, params, ctx):
        rows = jnp.concatenate([s.gaussians.means, ctx.outputs.features])
        real = jnp.concatenate([s.gaussians.counts, ctx.batch["weights"]]) > 0
        alike = rows @ rows.T / s.temperature
        found = jax.nn.logsumexp(jnp.where(real, alike, -jnp.inf), axis=1) - jnp.diagonal(alike)
        return s.reg * jnp.sum(jnp.where(real, found, 0)) / jnp.maximum(real.sum(), 1), {}

    def update(s, ts, ctx):
        index = ctx.experience.index

        def merge(new, old):
            earlier = (jnp.arange(len(old)) < index) / jnp.maximum(index, 1)
            mean = jnp.tensordot(earlier, old, axes=1, precision="highest")
            return jnp.where(index > 0, (1 - s.momentum) * new + s.momentum * mean, new).astype(new.dtype)

        return s, ts._replace(params={**ts.params, "new": jax.tree.map(merge, ts.params["new"], s.adapters)})

    def end(s, ts, ctx):
        index = ctx.experience.index
        adapters = jax.tree.map(lambda old, x: old.at[index].set(x), s.adapters, ts.params["new"])
        gaussians = measured(s.gaussians, ts, ctx)

        first = ts._replace(params=_with_adapter(ts.params, jax.tree.map(lambda x: x[0], adapters)))
        nothing = class_gaussians(len(s.owners), s.prototypes.shape[1], "diagonal")
        again = measured(nothing, first, ctx)
        mine = again.counts > 0
        prototypes = jnp.where(mine[:, None], again.means, s.prototypes)

        def softmax(logits, labels, where):
            return optax.softmax_cross_entropy_with_integer_labels(mask_logits(logits, where), labels)

        top = _top(ts.params)
        rate = optax.cosine_decay_schedule(s.learning_rate, max(steps, 1))
        tx = own_parts(top, optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(rate, 0.9)))
        trained = jax.tree.map(lambda x: x.astype(jnp.float32), linear_head(top, "mos"))
        moved = aligned(trained, gaussians, ctx.rng, softmax, tx, steps, samples)
        changed: Any = with_linear_head(top, jax.tree.map(lambda a, b: jnp.where(index > 0, a, b), moved, trained))
        base = ts.params["base"] | {f"head.{name}": leaf for name, leaf in changed["head"].items()}
        s = s._replace(
            adapters=adapters,
            owners=jnp.where(mine, index, s.owners).astype(jnp.int32),
            gaussians=gaussians,
            prototypes=prototypes,
        )
        return s, ts._replace(params={**ts.params, "base": base})

    def predict(s, ctx):
        batch, known = ctx.batch, s.gaussians.counts > 0

        def under(adapter):
            params = _with_adapter(ctx.params, adapter)
            return ctx.forward(params, batch["inputs"], task=batch.get("task"))[0].features

        features = jax.lax.map(under, s.adapters)
        logits = mask_logits(linear_head(_top(ctx.params), "mos")(features), known)
        near = mask_logits(unit(features[0]) @ unit(s.prototypes).T, known)
        rows = jnp.arange(len(near))
        chosen = s.owners[near.argmax(-1)]
        # A choice that stands stays, so that the rounds that are left change nothing.
        for _ in range(max_rounds - 1):
            chosen = s.owners[logits[chosen, rows].argmax(-1)]
        answer = logits[chosen, rows]
        if ensemble:
            many = 1 + jnp.max(jnp.where(known, s.owners, 0))
            sure = jnp.logaddexp(jax.nn.log_softmax(answer), jax.nn.log_softmax(mask_logits(many * near, known)))
            answer = sure - jnp.log(2.0)
        return ctx.outputs._replace(
            logits=jnp.where(jnp.any(known), mask_logits(answer, known), ctx.outputs.logits),
            features=features[chosen, rows],
        )

    return Method(
        "mos",
        init=init,
        begin=begin,
        augment=augment,
        loss=loss,
        update=update,
        end=end,
        predict=predict,
        model=pet,
        needs=("boundaries", "classes", "features"),
    )


def _top(params: Any) -> PyTree:
    """The head that is trained beside the adapter, as the parameters of a model that is nothing else."""
    if not isinstance(params, dict) or "new" not in params or "head.kernel" not in params.get("base", {}):
        raise ValueError(
            "mos stores what pet adds, params['new'], and aligns a layer 'head' that pet trains, and misses one: "
            "put it before what changes the model, with a pet like peft.lora(16, train='^head')."
        )
    head = {name: leaf for name, leaf in params["base"].items() if name.startswith("head.")}
    return {"head": {name.removeprefix("head."): leaf for name, leaf in head.items()}}


def _with_adapter(params: PyTree, adapter: PyTree) -> PyTree:
    return {**params, "new": adapter}

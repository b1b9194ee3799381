"""LingoCL: a head of fixed targets that know which classes are alike.

Ni et al., "Enhancing Visual Continual Learning with Language-Guided Supervision", CVPR 2024, arXiv 2403.16124. Written
from the abstract; no code was opened. Where we differ: the targets are an array, whatever it comes from; embeddings of
class names by a language model are one, `ops.simplex_targets` and `ops.hierarchical_targets` need none.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctrain_jax.continual._head import check_features, head_kernel
from ctrain_jax.core import Method, Model, Variables
from ctrain_jax.ops import check_positive, unit


def lingocl(targets: Any, *, scale: float = 1 / 0.07, learn_scale: bool = False, project: bool = True) -> Method:
    r"""Replace the head by cosines with fixed targets, one for each class; only what comes before it learns.

    With features :math:`h(x)`, a trained linear map :math:`P` to the dimension of the targets, and the targets
    :math:`t_c`, the logits are

    .. math:: z_c = s \, \Big\langle \frac{P h(x)}{\|P h(x)\|}, \frac{t_c}{\|t_c\|} \Big\rangle

    A class has its place before it arrives, next to those that it resembles; in what we measured, targets that are all
    equally far apart did as well. It chains with any method of replay or
    regularization; a method that changes the head (`lucir`, `wa`) finds none.

    Args:
      targets: [C, E], a row for each class, of any length but 0.
      scale: :math:`s`; 1 / 0.07 by default, the usual temperature of cosines.
      learn_scale: train the scale as well.
      project: train :math:`P`, [D, E]; False leaves it out, and E is the number of features D. Features behind a ReLU
        have no negative entries, and reach few targets without it.

    Returns:
      The method; it needs features of the model, and a last layer that is called `head`. `frozen` holds the targets,
      the scale unless it is trained, and the model's own head, which nobody reads; the parameters are those below it,
      with `projection` and, where it is trained, `scale`.

    Raises:
      ValueError: targets that are not [C, E], not finite, or have a row of 0, a `scale` of 0 or below; when a learner
        is made, a model without `head`, features that are not what it is given, or targets of other classes or, without
        the map, another dimension.

    Example:
      >>> from ctrain_jax import ops
      >>> lingocl(ops.hierarchical_targets((0, 0, 1, 1, 1), 4)).needs
      ('features',)
    """
    check_positive("scale", scale)
    rows = np.asarray(targets, np.float32)
    if rows.ndim != 2 or not np.isfinite(rows).all() or not np.any(rows, axis=1).all():
        raise ValueError(f"targets expects finite rows [C, E] that are not 0, got an array of shape {rows.shape}.")

    def model(inner):
        def init(rng, inputs):
            made = inner.init(rng, inputs)
            width, classes = head_kernel(made.params, "lingocl").shape
            if len(rows) != classes or not project and rows.shape[1] != width:
                expected = f"[{classes}, {'E' if project else width}]"
                raise ValueError(
                    f"lingocl expects targets {expected} for this model, got {list(rows.shape)}: give one to each class"
                    f"{'' if project else ', as wide as the features'}."
                )
            params = {name: leaf for name, leaf in made.params.items() if name != "head"}
            frozen = {"targets": unit(rows), "head": made.params["head"], "base": made.frozen}
            if project:
                key = jax.random.fold_in(rng, 1)
                params["projection"] = jax.random.normal(key, (width, rows.shape[1])) / jnp.sqrt(width)
            (params if learn_scale else frozen)["scale"] = jnp.asarray(scale, jnp.float32)
            return Variables(params, made.model_state, frozen)

        def apply(variables, inputs, **options):
            params, frozen = variables.params, variables.frozen
            below = {name: leaf for name, leaf in params.items() if name not in ("projection", "scale")}
            base = Variables({**below, "head": frozen["head"]}, variables.model_state, frozen["base"])
            outputs, model_state = inner.apply(base, inputs, **options)
            check_features(outputs.features, head_kernel(base.params, "lingocl"), "lingocl")
            placed = outputs.features @ params["projection"] if project else outputs.features
            scaled = (params if learn_scale else frozen)["scale"] * unit(placed)
            # As many as the model answers: with pseudo-classes that is fewer when it is asked than in training.
            targets = frozen["targets"][: outputs.logits.shape[-1]]
            return outputs._replace(logits=scaled @ targets.T), model_state

        return Model(init, apply)

    return Method("lingocl", model=model, needs=("features",))

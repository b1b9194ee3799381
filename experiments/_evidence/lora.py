"""LoRA: two forms of one function, from the base on; few parameters against full fine-tuning."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import core, models, peft, streams
from experiments._evidence._common import (
    Check,
    Claim,
    distance,
    estimate,
    final,
    gate,
    handwritten,
    head_only,
    means,
    runs,
    trained,
)

RANK, ROWS = 4, 10_000


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `peft.lora`."""
    base = core.from_linen(models.MLP(10))
    clothes = streams.class_incremental(streams.fashion_mnist(), 1)
    pretrained = runs(core.make_learner(base, core.identity(), optax.adam(1e-3), clothes, epochs=3), seeds)
    source = handwritten(data_dir, ROWS)
    stream = streams.class_incremental(source, 1)

    def measured(method, optimizer):
        return runs(core.make_learner(base, method, optimizer, stream, epochs=5), seeds, trained(pretrained))

    lora = measured(core.Method("lora", model=peft.lora(RANK)), optax.adam(1e-3))
    full = measured(core.identity(), optax.adam(1e-3))
    head = measured(core.identity(), head_only(optax.adam(1e-3)))
    share = 100 * _size(lora.state.params) / _size(full.state.params)
    accuracy = {"lora": final(lora), "full": final(full), "head": final(head)}
    where = f"MLP from Fashion-MNIST to {source.name} ({len(source.train['labels'])} rows), rank {RANK}"
    forms, start, flops = _exact()
    return [
        gate("tree and intercept form are one function (largest difference of logits, of size 1)", forms, most=1e-5),
        gate("training starts at the base (largest difference of logits)", start, most=0),
        gate("multiply-adds of a gradient in the intercept form, as a share of the tree form's", flops, most=0.9),
        gate(f"{where}: trained parameters in percent of all", share, most=2.5),
        estimate(
            f"the same: points of accuracy above full fine-tuning ({means(**accuracy)})",
            accuracy["lora"] - accuracy["full"],
            least=-5,
        ),
        estimate(
            "the same: points of accuracy above fine-tuning of the head alone",
            accuracy["lora"] - accuracy["head"],
            least=0,
        ),
    ]


def _exact() -> tuple[float, float, float]:
    """Difference of the forms, difference from the base, FLOPs of intercept over tree."""
    base = core.from_linen(models.MLP(10))
    x = jax.random.normal(jax.random.key(0), (64, 784))
    own = base.init(jax.random.key(1), x)
    plain = base.apply(own, x)[0].logits
    answers, starts, costs = [], [], []
    for form in ("tree", "intercept"):
        model = peft.lora(RANK, form=form)(base._replace(init=lambda rng, inputs: own))
        variables = model.init(jax.random.key(2), x)
        starts.append(distance(model.apply(variables, x)[0].logits, plain))
        moved = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(3), p.shape), variables.params)
        answers.append(model.apply(variables._replace(params=moved), x)[0].logits)

        def loss(params, model=model, variables=variables):
            return jnp.square(model.apply(variables._replace(params=params), x)[0].logits).mean()

        costs.append(jax.jit(jax.grad(loss)).lower(moved).compile().cost_analysis()["flops"])
    scale = float(np.sqrt(np.mean(np.square(np.asarray(answers[0])))))
    return distance(*answers) / scale, max(starts), costs[1] / costs[0]


def _size(stacked: core.PyTree) -> int:
    """Numbers in a tree that is stacked over seeds, for one of them."""
    return sum(leaf[0].size for leaf in jax.tree.leaves(stacked))


CHECK = Check(
    "ctrain_jax.peft.lora",
    "Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, arXiv 2106.09685",
    claims,
    data=True,
)

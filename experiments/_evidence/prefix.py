"""Prefix tuning: attention with keys and values in front; a transformer adapted to classes it has not seen."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import numpy as np
import optax

from ctrain_jax import core, models, peft, streams
from experiments._evidence._common import Check, Claim, estimate, final, gate, head_only, means, runs, trained

LENGTH = 8


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `peft.prefix`."""
    base = core.from_linen(models.ViT(5, width=48, depth=2))

    def learner(classes, method, optimizer, epochs):
        stream = streams.class_incremental(_only(classes), 1)
        return core.make_learner(base, method, optimizer, stream, batch_size=64, epochs=epochs)

    pretrained = runs(learner(range(5), core.identity(), optax.adam(1e-3), 8), seeds)

    def adapted(method, optimizer):
        return final(runs(learner(range(5, 10), method, optimizer, 5), seeds, trained(pretrained)))

    # Rates chosen on seeds 10 and 11. With a constant one of 1e-2 the prefix ended 10 points below the probe.
    def decayed(rate):
        return optax.adam(optax.cosine_decay_schedule(rate, 395))

    prefix = adapted(core.Method("prefix", model=peft.prefix(LENGTH, train=r"^head")), decayed(1e-2))
    head = adapted(core.identity(), head_only(decayed(3e-2)))
    full = adapted(core.identity(), optax.adam(1e-3))
    where = f"ViT from classes 0-4 of Fashion-MNIST to classes 5-9, {LENGTH} keys and values a layer and the head"
    return [
        gate("attention is that with the prefix in front of keys and values (largest difference)", _exact(), most=1e-5),
        _turned(seeds),
        estimate(
            f"{where}: points of accuracy above a linear probe ({means(prefix=prefix, probe=head)})",
            prefix - head,
            least=0,
        ),
        estimate(
            f"the same: points of accuracy above full fine-tuning ({means(prefix=prefix, full=full)})",
            prefix - full,
            least=-5,
        ),
    ]


def _turned(seeds: Sequence[int]) -> Claim:
    """The prefix alone, everything else frozen, on images turned by 30 degrees."""
    base = core.from_linen(models.ViT(10, patch=4, width=32, depth=2, heads=4, mlp_ratio=2))

    def learner(method, optimizer, degrees):
        stream = streams.rotated(streams.digits(), 1, degrees=[degrees])
        return core.make_learner(base, method, optimizer, stream, epochs=15)

    upright = runs(learner(core.identity(), optax.adam(3e-3), 0.0), seeds)
    method = core.Method("prefix", model=peft.prefix(LENGTH))
    result = runs(learner(method, optax.adamw(1e-2, weight_decay=0.01), 30.0), seeds, trained(upright))
    before, after = 100 * np.asarray(result.baseline["accuracy"])[:, 0], final(result)
    text = f"ViT from upright digits to digits turned by 30 degrees, {LENGTH} keys and values a layer alone"
    return estimate(f"{text}: points of accuracy gained ({means(before=before, after=after)})", after - before, least=0)


def _only(classes: range) -> core.Source:
    """Fashion-MNIST of some classes, renumbered from 0."""
    source = streams.fashion_mnist()
    parts = []
    for split in (source.train, source.test):
        chosen = np.isin(split["labels"], classes)
        parts += [split["inputs"][chosen], split["labels"][chosen] - classes.start]
    return streams.arrays(*parts, name=f"fashion_mnist_{classes.start}", num_classes=len(classes))


class _Attention(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        return core.Outputs(nn.MultiHeadDotProductAttention(2, name="attention")(inputs))


def _exact() -> float:
    x = jax.random.normal(jax.random.key(0), (3, 5, 8))
    model = peft.prefix(4, stddev=1.0)(core.from_linen(_Attention()))
    variables = model.init(jax.random.key(1), x)
    answer = model.apply(variables, x)[0].logits
    added, layer = (
        jax.tree.map(lambda p: np.asarray(p, np.float64), tree["attention"])
        for tree in (variables.params["new"], variables.frozen["params"])
    )

    def project(name):
        return np.einsum("btd,dhk->bthk", np.asarray(x, np.float64), layer[name]["kernel"]) + layer[name]["bias"]

    def longer(name):
        own = project(name)
        return np.concatenate([np.broadcast_to(added[name], (3, *added[name].shape)), own], axis=1)

    scores = np.einsum("bqhk,bshk->bhqs", project("query"), longer("key")) / np.sqrt(4)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("bhqs,bshk->bqhk", weights, longer("value"))
    expected = np.einsum("bqhk,hkd->bqd", mixed, layer["out"]["kernel"]) + layer["out"]["bias"]
    return float(np.max(np.abs(answer - expected)))


CHECK = Check(
    "ctrain_jax.peft.prefix",
    "Li and Liang, Prefix-Tuning: Optimizing Continuous Prompts for Generation, ACL 2021, arXiv 2101.00190",
    claims,
)

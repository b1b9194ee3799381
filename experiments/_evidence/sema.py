"""SEMA: slots that are not there, modules that stay; digits, other digits, clothes: which of them get a module."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import core, models, peft, testing
from experiments._evidence._common import (
    Check,
    Claim,
    distance,
    estimate,
    final,
    forgotten,
    gate,
    means,
    runs,
    trained,
)
from experiments._evidence._domains import ROWS, first_of, in_turn, worn, written

LAYER = "dense_0"  # the one whose inputs have mean 0: a router tells apart by direction


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `peft.sema`."""
    digits, clothes = [written(data_dir, part) for part in range(3)], worn()
    mean = digits[0].train["inputs"].mean(0) / 255

    def stream(*domains):
        made = in_turn(domains, 30)
        return made._replace(source=made.source._replace(mean=mean, std=0.25), heads="task")

    model = core.from_linen(models.MLP(30, hidden=(128, 64)))
    whole = stream(digits[0], digits[1], clothes.shifted(10), clothes.inverted().shifted(20))
    plain = core.make_learner(model, core.identity(), optax.adam(1e-3), stream(digits[2]), epochs=5)
    start = _with_new_heads(model, trained(runs(plain, seeds)), len(seeds))

    def measured(method, over=whole, epochs=6):
        return runs(core.make_learner(model, method, optax.adam(3e-3), over, epochs=epochs), seeds, start)

    method = peft.sema(LAYER, max_modules=4, code=32, train="^head")
    own, one = measured(method), measured(_shared())
    early = measured(method, first_of(whole, 2), 1).state.frozen["count"][LAYER]
    sema, shared = final(own), final(one)
    lost = {"shared": forgotten(one), "sema": forgotten(own)}
    chance, slope = _empty()
    where = (
        f"MLP of other digits, MNIST, more of MNIST, Fashion-MNIST, the same inverted ({ROWS:,} rows each, classes of "
        "its own but for the second, 6 epochs), pixels less their mean, modules beside the first layer"
    )
    return [
        gate("a slot that is not there, of any numbers: largest difference of logits", chance, most=0),
        gate("the same: its largest gradient", slope, most=0),
        gate("AdamW and BatchNorm move neither the base nor what earlier experiences left (largest)", _kept(), most=0),
        estimate(f"{where}: modules after the first two", early, most=1),
        estimate("the same: modules after all four", own.state.frozen["count"][LAYER], least=3),
        estimate(
            f"the same: points of final accuracy above one module that all train ({means(shared=shared, sema=sema)})",
            sema - shared,
            least=5,
        ),
        estimate(f"the same: points of forgetting less ({means(**lost)})", lost["shared"] - lost["sema"], least=0),
    ]


def _with_new_heads(model: core.Model, variables: core.Variables, number: int) -> core.Variables:
    """That of the trunk would put other digits before all clothes."""
    keys = jax.random.split(jax.random.key(100), number)
    heads = jax.jit(jax.vmap(lambda key: model.init(key, jnp.zeros((1, 28, 28))).params["head"]))(keys)
    return variables._replace(params=variables.params | {"head": heads})


def _shared() -> core.Method:
    """One module that never closes."""
    grown = peft.sema(LAYER, max_modules=1, code=32, train="^head")

    def begin(s, ts, ctx):
        return s, ts._replace(frozen=ts.frozen | {"open": {LAYER: jnp.bool_(True)}})

    return core.Method("shared", model=grown.model, begin=begin)


def _empty() -> tuple[float, float]:
    """Of three slots one is there and one is trained."""
    model = peft.sema("dense", max_modules=3, bottleneck=4, code=2).model(
        core.from_linen(models.MLP(10, hidden=(16, 16)))
    )
    x = jax.random.normal(jax.random.key(0), (8, 20))
    variables = jax.jit(model.init)(jax.random.key(1), x)
    leaves, tree = jax.tree.flatten((variables.params["new"], variables.frozen["bank"]))
    keys = jax.random.split(jax.random.key(2), len(leaves))
    new, bank = jax.tree.unflatten(
        tree, [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    )

    @jax.jit
    def answer(bank):
        layers = variables.frozen["count"]
        places = {"count": {k: jnp.int32(1) for k in layers}, "open": {k: jnp.bool_(True) for k in layers}}
        at = core.Variables({"new": new, "base": {}}, variables.model_state, variables.frozen | places | {"bank": bank})
        return model.apply(at, x)[0].logits

    other = jax.tree.map(lambda leaf: leaf.at[2].multiply(-7), bank)
    slopes = jax.grad(lambda bank: jnp.square(answer(bank)).sum())(bank)
    if distance(slopes, jax.tree.map(jnp.zeros_like, slopes)) == 0:
        raise AssertionError("No module has a gradient: the gate would hold for nothing.")
    return distance(answer(bank), answer(other)), max(float(np.abs(x[2]).max()) for x in jax.tree.leaves(slopes))


def _kept() -> float:
    method = peft.sema("Dense_", max_modules=3, bottleneck=4, code=3, threshold=1e-3, train="^head")
    learner = core.make_learner(
        testing.standard_model(), method, optax.adamw(1e-2, weight_decay=0.1), testing.standard_stream(), batch_size=8
    )
    data, state = core.to_device(learner.stream), core.start(learner)
    before = jax.tree.map(np.array, state.frozen["params"])
    first = core.run_experience(learner, state, data, 0)
    left = jax.tree.map(lambda x: np.array(x[0]), (first.frozen["bank"], first.method_state["sema"].descriptors))
    last = core.run_experience(learner, core.run_experience(learner, first, data, 1), data, 2)
    if not all(int(count) == 3 for count in last.frozen["count"].values()):
        raise AssertionError("A layer did not grow: the gate would hold for nothing.")
    kept = jax.tree.map(lambda x: x[0], (last.frozen["bank"], last.method_state["sema"].descriptors))
    return max(distance(before, last.frozen["params"]), distance(left, kept))


CHECK = Check(
    "ctrain_jax.peft.sema",
    "Wang et al., Self-Expansion of Pre-trained Models with Mixture of Adapters for Continual Learning, CVPR 2025, "
    "arXiv 2403.18886",
    claims,
    rows=(178,),
    data=True,
)

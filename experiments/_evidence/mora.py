"""MoRA: the base where nothing was learned, LoRA where all ranks count alike; on turned digits above one LoRA."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import core, models, peft, streams, testing
from experiments._evidence._common import (
    Check,
    Claim,
    distance,
    estimate,
    final,
    forgotten,
    gate,
    handwritten,
    means,
    runs,
    trained,
)

ROWS, TESTS, TASKS, RANK, BUDGET = 5_000, 1_000, 5, 4, 4
MATCH = r"dense_0\.kernel$"  # the layer whose inputs have mean 0


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `peft.mora`."""
    source = handwritten(data_dir, ROWS)
    mean = np.mean(source.train["inputs"], 0) / 255
    source = source._replace(test={name: leaf[:TESTS] for name, leaf in source.test.items()}, mean=mean, std=0.25)
    model = core.from_linen(models.MLP(10, hidden=(200, 200)))
    upright, stream = streams.class_incremental(source, 1), streams.rotated(source, TASKS, degrees=80.0)
    pretrained = trained(runs(core.make_learner(model, core.identity(), optax.adam(1e-3), upright, epochs=5), seeds))

    def measured(method, rate):
        learner = core.make_learner(model, method, optax.adam(rate), stream, epochs=2, eval_batch_size=200)
        return runs(learner, seeds, pretrained)

    own = measured(peft.mora(TASKS, RANK, budget=BUDGET, alpha=10.0, match=MATCH), 3e-3)
    # Of 3e-4 and 1e-3 the rate at which LoRA is better.
    alone = measured(core.Method("lora", model=peft.lora(RANK * TASKS, match=MATCH)), 3e-4)
    mora, lora = final(own), final(alone)
    lost = {"lora": forgotten(alone), "mora": forgotten(own)}
    start, silent, limit, kept = _identities()
    where = (
        f"MLP of upright digits, MNIST ({ROWS:,} rows) turned by 0 to 80 degrees in {TASKS} experiences of 2 epochs, "
        f"pixels less their mean, {BUDGET} of {RANK * TASKS} ranks of the first layer"
    )
    return [
        gate("all of B at 0: the base (largest difference of logits)", start, most=1e-6),
        gate("a rank that an input does not activate adds nothing to its answer (largest difference)", silent, most=0),
        gate("all ranks, no threshold, a high temperature: LoRA scaled by 1/R (largest difference)", limit, most=1e-5),
        gate("AdamW and BatchNorm move neither the base nor ranks of earlier experiences (largest)", kept, most=0),
        estimate(
            f"{where}: points of final accuracy above lora of rank {RANK * TASKS} trained in sequence "
            f"({means(lora=lora, mora=mora)})",
            mora - lora,
            least=3,
        ),
        estimate(f"the same: points of forgetting less ({means(**lost)})", lost["lora"] - lost["mora"], least=0),
    ]


def _identities() -> tuple[float, float, float, float]:
    base = core.from_linen(models.MLP(10, hidden=(16, 16)))
    x = jax.random.normal(jax.random.key(0), (8, 20))
    plain = jax.jit(base.init)(jax.random.key(1), x)

    def made(**options):
        model = peft.mora(1, RANK, **options).model(base)
        variables = jax.jit(model.init)(jax.random.key(2), x)
        return jax.jit(model.apply), variables._replace(frozen=variables.frozen | {"params": plain.params})

    def moved(variables, change):
        new = {
            kernel: change(pair["a"], jax.random.normal(jax.random.key(3), pair["b"].shape))
            for kernel, pair in variables.params["new"].items()
        }
        return variables._replace(params={**variables.params, "new": new})

    few, variables = made(budget=2)
    start = distance(few(variables, x)[0].logits, jax.jit(base.apply)(plain, x)[0].logits)

    # A layer that sees no entry of x but the first ten, and a rank for the others alone.
    half = x.at[:, 10:].set(0)

    def apart(a, b):
        return {"a": a.at[:, 0].set(0).at[10:, 0].set(1) if len(a) == 20 else a.at[:, 0].set(0), "b": b}

    louder = moved(variables, lambda a, b: apart(a, b.at[0].multiply(7)))
    silent = distance(few(moved(variables, apart), half)[0].logits, few(louder, half)[0].logits)

    every, variables = made(budget=RANK, temperature=1e6, threshold=-jnp.inf)
    full = moved(variables, lambda a, b: {"a": a, "b": b})
    lora = peft.lora(RANK, alpha=1.0, form="tree")(base)
    merged = core.Variables(full.params, plain.model_state, {"params": plain.params, "frozen": ()})
    limit = distance(every(full, x)[0].logits, jax.jit(lora.apply)(merged, x)[0].logits)
    return start, silent, limit, _kept()


def _kept() -> float:
    method = peft.mora(3, 2, budget=2, train=r"^head")
    learner = core.make_learner(
        testing.standard_model(), method, optax.adamw(1e-2, weight_decay=0.1), testing.standard_stream(), batch_size=8
    )
    data, state = core.to_device(learner.stream), core.start(learner)
    before = jax.tree.map(np.array, state.frozen["params"])
    first = core.run_experience(learner, state, data, 0)
    learned = jax.tree.map(np.array, first.params["new"])
    after = core.run_experience(learner, core.run_experience(learner, first, data, 1), data, 2).frozen
    return max(distance(before, after["params"]), distance(learned, jax.tree.map(lambda bank: bank[0], after["past"])))


CHECK = Check(
    "ctrain_jax.peft.mora",
    "Lu et al., Little By Little: Continual Learning via Self-Activated Sparse Mixture-of-Rank Adaptive Learning, "
    "2025, arXiv 2506.21035",
    claims,
    rows=(189,),
    data=True,
)

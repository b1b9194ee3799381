"""JARe: per-row composition is the loop over rows; without ids near what it is with them, on digits and languages."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import core, models, peft, streams, testing
from ctrain_jax.peft import _jare
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
from experiments._evidence._text import book, reader

ROWS, TESTS, TASKS, RANK, SLOTS = 3_000, 1_000, 5, 4, 4
MODEL = core.from_linen(models.MLP(10, hidden=(200, 200)))


def pixels(inputs: jax.Array) -> jax.Array:
    """The encoder of this check."""
    return inputs.reshape(len(inputs), -1)


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `peft.jare`."""
    source = handwritten(data_dir, ROWS)
    source = source._replace(test={name: leaf[:TESTS] for name, leaf in source.test.items()})
    upright, stream = streams.class_incremental(source, 1), streams.permuted(source, TASKS)
    pretrained = trained(runs(core.make_learner(MODEL, core.identity(), optax.adam(1e-3), upright, epochs=5), seeds))

    def learner(method):
        return core.make_learner(MODEL, method, optax.adam(3e-3), stream, epochs=3, eval_batch_size=200)

    own = learner(peft.jare(TASKS, RANK, slots=SLOTS, top_k=SLOTS, encoder=pixels))
    result = runs(own, seeds, pretrained)
    inner = runs(learner(peft.jare(TASKS, RANK, slots=SLOTS, top_k=SLOTS)), seeds, pretrained)
    alone = runs(learner(core.Method("lora", model=peft.lora(RANK * SLOTS))), seeds, pretrained)
    jare, lora, features = final(result), final(alone), final(inner)
    told = _told(own, result)
    where = (
        f"permuted MNIST ({ROWS:,} rows) in {TASKS} experiences without ids, MLP of the upright digits, keys in the "
        f"space of pixels, {SLOTS} increments of rank {RANK} for each experience"
    )
    lone, loop, sums = _identities()
    return [
        gate(
            "one increment of weight 1 less LoRA in the kernels (largest difference of logits)",
            lone,
            most=1e-5,
        ),
        gate("rows together less each by itself, with merged kernels (largest difference of logits)", loop, most=1e-5),
        gate("the weights of a row sum to 1 (largest difference)", sums, most=1e-6),
        gate(
            "AdamW and BatchNorm move neither the base nor keys and increments of earlier experiences (largest "
            "difference)",
            _kept(),
            most=0,
        ),
        estimate(
            f"{where}: percent of test rows whose nearest key is one of their experience",
            _right(result, stream, source, lambda frozen, x: pixels(x)),
            least=95,
        ),
        estimate(
            f"the same: points of final accuracy above the same network told the experience of a row "
            f"({means(told=told, jare=jare)})",
            jare - told,
            least=-2,
        ),
        estimate(
            f"the same: points of final accuracy above lora of rank {RANK * SLOTS} trained in sequence "
            f"({means(lora=lora, jare=jare)})",
            jare - lora,
            least=20,
        ),
        estimate(
            "keys among the features of the network: percent of test rows whose nearest key is one of their experience",
            _right(inner, stream, source, _features),
            least=95,
        ),
        estimate(
            f"the same: points of final accuracy above lora ({means(lora=lora, features=features)})",
            features - lora,
            least=20,
        ),
        *_languages(seeds, data_dir),
    ]


LATER = {"ja": 3_000, "de": 3_000, "zh-cn": 3_000}


def histogram(tokens: jax.Array) -> jax.Array:
    """The encoder of text: roots of the shares of each byte."""
    return jnp.sqrt(jax.nn.one_hot(tokens, 256).mean(1))


def _languages(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """Increments for three languages, from a reader of another."""
    english, stream = book({"en": 12_000}, data_dir), book(LATER, data_dir)
    base = trained(runs(reader(core.identity(), english), seeds))
    own = runs(reader(peft.jare(3, 8, slots=2, top_k=2, encoder=histogram), stream), seeds, base)
    alone = runs(reader(core.Method("lora", model=peft.lora(16)), stream), seeds, base)
    jare, lora, lost = final(own), final(alone), {"lora": forgotten(alone), "jare": forgotten(own)}
    rows = jnp.asarray(stream.source.test["inputs"])[stream.experiences["test"].rows].reshape(-1, 64)
    language = np.repeat(np.arange(3), len(rows) // 3)
    near = jax.jit(
        jax.vmap(lambda keys: _jare.retrieve(histogram(rows), keys, jnp.ones(3, bool), 1).sum(-1).argmax(-1))
    )
    return [
        estimate(
            "a book in Japanese, German and Chinese without ids (3,000 windows of 64 bytes each), GPT of width 32 of "
            "English, keys among histograms of bytes, 2 increments of rank 8 for each language: percent of test "
            "windows whose nearest key is one of their language",
            100 * np.mean(np.asarray(near(own.state.frozen["keys"])) == language, axis=1),
            least=95,
        ),
        estimate(
            f"the same: points of bytes answered right above lora of rank 16 trained in sequence "
            f"({means(lora=lora, jare=jare)})",
            jare - lora,
            least=0,
        ),
        estimate(f"the same: points of forgetting less ({means(**lost)})", lost["lora"] - lost["jare"], least=0),
    ]


def _told(learner: core.Learner, result: core.Result) -> np.ndarray:
    """Final accuracy in percent [S] where no key but those of a row's experience can be retrieved."""
    data, state = core.to_device(learner.stream), result.state
    found = []
    for t in range(TASKS):
        keys = state.frozen["keys"] * (jnp.arange(TASKS) == t)[:, None, None]  # pixels are not negative
        forced = state._replace(frozen=state.frozen | {"keys": keys})
        found.append(core.evaluate(learner, forced, data, TASKS - 1)["accuracy"][:, t])
    return 100 * np.mean(found, axis=0)


def _right(
    result: core.Result,
    stream: core.Stream,
    source: core.Source,
    encoder: Callable[[core.PyTree, jax.Array], Any],
) -> np.ndarray:
    """Percent [S] of test rows whose nearest key is of their experience."""
    images = jnp.asarray(source.test["inputs"], jnp.float32) / 255

    def nearest(frozen, order):
        seen = encoder(frozen, pixels(images)[:, order].reshape(images.shape))
        return jnp.argmax(_jare.retrieve(seen, frozen["keys"], jnp.ones(TASKS, bool), 1).sum(-1), -1)

    views = jnp.asarray(stream.origins.view)
    chosen = jax.jit(jax.vmap(jax.vmap(nearest, (None, 0)), (0, None)))(result.state.frozen, views)
    return 100 * np.mean(np.asarray(chosen) == np.arange(TASKS)[:, None], axis=(1, 2))


def _features(frozen: core.PyTree, inputs: jax.Array) -> Any:
    return MODEL.apply(core.Variables(frozen["params"], frozen["statistics"]), inputs)[0].features


def _identities() -> tuple[float, float, float]:
    """One increment against LoRA, rows together against a loop over them, weights against their sum."""
    base = core.from_linen(models.MLP(10, hidden=(16, 16)))
    x = jax.random.normal(jax.random.key(0), (8, 20))
    own = jax.jit(base.init)(jax.random.key(1), x)
    plain, lora = jax.jit(base.apply), jax.jit(peft.lora(RANK, form="tree")(base).apply)

    def made(slots):
        model = peft.jare(1, RANK, slots=slots, top_k=2, encoder=lambda x: x[:, :6]).model(base)
        variables = jax.jit(model.init)(jax.random.key(2), x)
        new = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(3), p.shape), variables.params["new"])
        keys = jax.random.normal(jax.random.key(4), variables.frozen["keys"].shape)
        frozen = variables.frozen | {"params": own.params, "keys": keys}
        variables = variables._replace(params={**variables.params, "new": new}, frozen=frozen)
        return variables, jax.jit(model.apply)(variables, x)[0].logits

    def merged(new, row):
        frozen = {"params": own.params, "frozen": ()}
        return lora(core.Variables({"new": new, "base": {}}, own.model_state, frozen), row)[0].logits

    one, answer = made(1)
    lone = distance(answer, merged(one.params["new"], x))
    many, together = made(3)
    weights = _jare.retrieve(x[:, :6], many.frozen["keys"], jnp.ones(1, bool), 2)
    loop = []
    for w, row in zip(weights, x, strict=True):
        share = jnp.repeat(w[0], RANK)
        kernels = {name: (pair["a"] * share) @ pair["b"] for name, pair in many.params["new"].items()}
        layers = {name: dict(layer) for name, layer in own.params.items()}
        for name, kernel in kernels.items():
            layer = name.removesuffix(".kernel")
            layers[layer]["kernel"] = layers[layer]["kernel"] + kernel
        loop.append(plain(own._replace(params=layers), row[None])[0].logits[0])
    sums = distance(weights.sum((1, 2)), jnp.ones(len(x)))
    return lone, distance(together, jnp.stack(loop)), sums


def _kept() -> float:
    method = peft.jare(3, 2, slots=2, top_k=2, train=r"^head")
    learner = core.make_learner(
        testing.standard_model(), method, optax.adamw(1e-2, weight_decay=0.1), testing.standard_stream(), batch_size=8
    )
    data, state = core.to_device(learner.stream), core.start(learner)
    before = jax.tree.map(np.array, state.frozen)
    first = core.run_experience(learner, state, data, 0)
    learned = jax.tree.map(np.array, (first.params["new"], first.frozen["keys"][0]))
    after = core.run_experience(learner, core.run_experience(learner, first, data, 1), data, 2).frozen
    stored = jax.tree.map(lambda bank: bank[0], after["past"]), after["keys"][0]
    base = [{name: tree[name] for name in ("params", "statistics")} for tree in (before, after)]
    return max(distance(*base), distance(learned, stored))


CHECK = Check(
    "ctrain_jax.peft.jare",
    "Peng et al., Scalable Language Model with Generalized Continual Learning, ICLR 2024, arXiv 2404.07470",
    claims,
    rows=(298,),
    data=True,
)

"""DKVB: only what is fetched learns; Split-MNIST without a memory, on random features."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams, testing
from ctrain_jax.continual.architecture import _dkvb
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
)

ROWS, TESTS, CLOTHES = 5_000, 1_000, 1_000
CODEBOOKS, RATE = 32, 0.3  # the rate is in the paper's range
MODEL = core.from_linen(models.MLP(10, hidden=(256,)))


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.dkvb`."""
    unfetched, dense = _slots()
    source = handwritten(data_dir, ROWS)
    source = source._replace(test={name: leaf[:TESTS] for name, leaf in source.test.items()})
    stream = streams.class_incremental(source, 5)
    backwards = streams.class_incremental(source, 5, class_order=range(9, -1, -1))
    clothes = streams.fashion_mnist().train["inputs"][:CLOTHES].astype(np.float32) / 255
    sizes = {"codebooks": CODEBOOKS, "passes": 4}
    other, first = continual.dkvb(**sizes, unlabeled=clothes), continual.dkvb(**sizes)

    def measured(method, stream, tx=None):
        tx = tx or optax.sgd(RATE)
        return final(runs(core.make_learner(MODEL, method, tx, stream, epochs=2, eval_batch_size=200), seeds))

    linear = measured(core.identity(), stream, head_only(optax.sgd(0.1)))
    dkvb, joint = measured(other, stream), measured(other, streams.joint(stream))
    reverse = measured(other, backwards)
    own, own_joint = measured(first, stream), measured(first, streams.joint(stream))
    where = (
        f"class-incremental Split-MNIST ({ROWS:,} rows) in 5 experiences, 256 random features, {CODEBOOKS} codebooks "
        f"of 256 keys, SGD of {RATE}"
    )
    return [
        gate("gradient of the values that a batch does not fetch (largest entry)", unfetched, most=0),
        gate("logits and gradients less those of a dense one-hot product (largest difference)", dense, most=1e-6),
        gate(
            "AdamW and BatchNorm move neither the network, nor keys after the first experience (largest difference)",
            _frozen(),
            most=0,
        ),
        estimate(
            f"{where} from clothes: points of final accuracy above a linear head on the same features "
            f"({means(linear=linear, dkvb=dkvb)})",
            dkvb - linear,
            least=30,
        ),
        estimate(
            f"the same: share in percent of its own accuracy on all rows at once ({means(joint=joint)})",
            100 * dkvb / joint,
            least=85,
        ),
        estimate(
            f"the same: points between the classes in one order and in the reverse ({means(there=dkvb, back=reverse)})",
            np.abs(dkvb - reverse),
            most=2,
        ),
        estimate(
            "the same, keys from the first two digits: points of final accuracy above the linear head "
            f"({means(linear=linear, dkvb=own)})",
            own - linear,
            least=30,
        ),
        estimate(
            f"and its share in percent of its own accuracy on all rows at once ({means(joint=own_joint)})",
            100 * own / own_joint,
            least=85,
        ),
    ]


def _slots() -> tuple[float, float]:
    """The largest gradient of a value that is not fetched; the largest difference from one-hot products."""
    rng = np.random.default_rng(0)
    seen, keys, values, labels = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((40, 6, 3), (6, 16, 3), (6, 16, 10), (40, 10))
    )
    chosen = _dkvb.nearest(seen, keys)
    hot = jax.nn.one_hot(chosen, 16)

    def loss(values, fetch):
        logits = fetch(values)
        return optax.softmax_cross_entropy(logits, jax.nn.softmax(labels)).sum(), logits

    sparse, dense = (
        jax.grad(loss, has_aux=True)(values, fetch)
        for fetch in (
            lambda v: _dkvb.fetch(v, chosen),
            lambda v: jnp.einsum("bck,cky->by", hot, v, precision="highest") / 6,
        )
    )
    unfetched = jnp.where(hot.any(0)[..., None], 0.0, sparse[0])
    return float(jnp.abs(unfetched).max()), distance(sparse, dense)


def _frozen() -> float:
    learner = core.make_learner(
        testing.standard_model(),
        continual.dkvb(codebooks=8, keys=16, key_dim=4),
        optax.adamw(1e-2),
        testing.standard_stream(),
        batch_size=8,
    )
    data = core.to_device(learner.stream)
    start = jax.tree.map(np.asarray, core.start(learner)._replace(rng=()))
    state = core.run_experience(learner, core.start(learner), data, 0)
    first = jax.tree.map(np.asarray, state.frozen)
    after = core.run_experience(learner, state, data, 1)
    still = (start.frozen["network"], start.model_state), (after.frozen["network"], after.model_state)
    return max(distance(*still), distance(first, after.frozen))


CHECK = Check(
    "ctrain_jax.continual.dkvb",
    "Träuble et al., Discrete Key-Value Bottleneck, ICML 2023, arXiv 2207.11240",
    claims,
    rows=(167,),
    data=True,
)

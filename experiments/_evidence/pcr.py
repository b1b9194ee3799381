"""PCR: what the loss equals, which proxies it leaves alone; in one pass over MNIST, against naive and ER."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, losses, models, ops, streams
from experiments._evidence._common import Check, Claim, estimate, final, forgotten, gate, handwritten, means, runs

SIZE = 200  # rows of memory
WHERE = f"class-incremental Split-MNIST (20,000 rows), one pass in batches of 10 and 10, MLP, memory {SIZE}"


def one_pass(method: core.Method, data_dir: str | None) -> core.Learner:
    """The authors' kind of learner: every row once, 10 at a time and 10 more of the memory, SGD at 0.1."""
    stream = streams.class_incremental(handwritten(data_dir, 20_000), 5)
    model = core.from_linen(models.MLP(10, hidden=(400,)))
    return core.make_learner(model, method, optax.sgd(0.1), stream, batch_size=10)


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.pcr`."""
    plain, absent, doubled = _loss()
    results = [
        runs(one_pass(method, data_dir), seeds) for method in (core.identity(), continual.er(SIZE), continual.pcr(SIZE))
    ]
    naive, er, pcr = map(final, results)
    lost = dict(zip(("naive", "er", "pcr"), map(forgotten, results), strict=True))
    return [
        gate("each class once: difference from cross-entropy over these classes (largest)", plain, most=1e-6),
        gate("gradient of the proxies of absent classes (largest)", absent, most=0),
        gate("every row twice: difference of the mean loss from log 2 more", doubled, most=1e-6),
        estimate(
            f"{WHERE}: points of final accuracy above naive ({means(naive=naive, pcr=pcr)})", pcr - naive, least=20
        ),
        estimate(f"the same: points of final accuracy above er ({means(er=er, pcr=pcr)})", pcr - er, least=3),
        estimate(
            f"the same: points of forgetting less than naive ({means(**lost)})", lost["naive"] - lost["pcr"], least=20
        ),
    ]


def _loss() -> tuple[float, float, float]:
    """Of features and proxies at random, at the temperature 0.09: five classes of ten."""
    features, proxies = (jax.random.normal(jax.random.key(k), (n, 16)) for k, n in enumerate((5, 10)))
    labels = jnp.array([1, 8, 4, 0, 5])

    def rows(proxies, features=features, labels=labels):
        return losses.proxy_contrastive(ops.unit(features) @ ops.unit(proxies).T / 0.09, labels)

    near = ops.unit(features) @ ops.unit(proxies[labels]).T / 0.09
    plain = optax.softmax_cross_entropy_with_integer_labels(near, jnp.arange(5))
    slopes = jax.grad(lambda proxies: rows(proxies).mean())(proxies)
    twice = rows(proxies, jnp.tile(features, (2, 1)), jnp.tile(labels, 2))
    absent = np.setdiff1d(np.arange(10), labels)
    more = np.mean(np.asarray(twice, np.float64)) - np.mean(np.asarray(rows(proxies), np.float64))
    return float(jnp.abs(rows(proxies) - plain).max()), float(jnp.abs(slopes[absent]).max()), abs(more - np.log(2))


CHECK = Check(
    "ctrain_jax.continual.pcr",
    "Lin et al., PCR: Proxy-based Contrastive Replay for Online Class-Incremental Continual Learning, CVPR 2023, "
    "arXiv 2304.04408",
    claims,
    rows=(62,),
    data=True,
)

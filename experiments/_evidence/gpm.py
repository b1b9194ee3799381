"""GPM: protected directions stand still under AdamW; on permuted images less forgetting under Adam."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import Check, Claim, estimate, final, forgotten, gate, means, runs
from experiments._evidence.agem import permuted_fashion_mnist


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.gpm`."""
    methods = (core.identity(), continual.gpm(0.95))
    results = [runs(permuted_fashion_mnist(method, optax.adam(1e-3)), seeds) for method in methods]
    naive, gpm = map(final, results)
    lost = dict(zip(("naive", "gpm"), map(forgotten, results), strict=True))
    where = "permuted Fashion-MNIST (10,000 rows), 5 experiences, MLP, Adam, threshold 0.95"
    inside, whole = _moved(continual.gpm(0.95))
    plain = _moved(core.identity())[0]
    return [
        gate(
            "AdamW with decay, over the second experience of digits: largest change of a kernel inside of what the "
            f"first protects (of {whole:.2f} in all; plain training {plain:.2f})",
            inside,
            most=1e-5,
        ),
        estimate(
            f"{where}: points of forgetting less than naive ({means(**lost)})", lost["naive"] - lost["gpm"], least=2
        ),
        estimate(
            f"the same: points of final accuracy above naive ({means(naive=naive, gpm=gpm)})", gpm - naive, least=0
        ),
    ]


def _moved(method: core.Method) -> tuple[float, float]:
    """Largest change of a kernel in the second experience: inside of the bases of `gpm` after the first, and all."""

    def second(method):
        model = core.from_linen(models.MLP(10, hidden=(32,)))
        stream = streams.class_incremental(streams.digits(), 5)
        learner = core.make_learner(model, method, optax.adamw(1e-2, weight_decay=0.1), stream)
        data = core.to_device(stream)
        state = core.run_experience(learner, core.start(learner), data, 0)
        before = jax.tree.map(jnp.array, state)
        return before, core.run_experience(learner, state, data, 1)

    bases = second(continual.gpm(0.95))[0].method_state["gpm"].bases
    before, after = second(method)
    inside, whole = [], []
    for layer in ("dense_0", "head"):
        change = np.float64(after.params[layer]["kernel"]) - np.float64(before.params[layer]["kernel"])
        inside.append(np.linalg.norm(np.float64(bases[layer]["kernel"]).T @ change))
        whole.append(np.linalg.norm(change))
    return max(inside), max(whole)


CHECK = Check(
    "ctrain_jax.continual.gpm",
    "Saha, Garg and Roy, Gradient Projection Memory for Continual Learning, ICLR 2021, arXiv 2103.09762",
    claims,
)

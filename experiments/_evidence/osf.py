"""OSF: kept singular triplets outlive a hundred steps of AdamW, its two limits; images and languages forgotten less."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import Check, Claim, distance, estimate, final, forgotten, gate, means, runs
from experiments._evidence._text import on_text
from experiments._evidence.agem import permuted_fashion_mnist

KEEP = 0.5  # of 0.25, 0.5 and 0.75 the best final accuracy over seeds 10 to 14


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.osf`."""
    inside, triplets, whole = _kept()
    where = "permuted Fashion-MNIST (10,000 rows), 5 experiences, MLP, half of the singular vectors"
    result = [
        gate(
            "AdamW with decay, 100 steps in the second experience of digits: largest change of a kernel inside of what "
            f"is kept, on either side (of {whole:.2f} in all)",
            inside,
            most=1e-5,
        ),
        gate("the same: largest change of a kept singular triplet", triplets, most=1e-5),
        gate("keep=0 is plain training (largest difference of a parameter)", _second(0.0, plain=True), most=1e-5),
        gate("keep=1 freezes the kernels (largest change in the second experience)", _second(1.0), most=1e-5),
    ]
    for name, tx, least in (("SGD", optax.sgd(0.1), 8), ("Adam", optax.adam(1e-3), 0)):
        methods = (core.identity(), continual.osf(KEEP))
        naive, osf = (runs(permuted_fashion_mnist(method, tx), seeds) for method in methods)
        accuracy, lost = (dict(naive=f(naive), osf=f(osf)) for f in (final, forgotten))
        result += [
            estimate(
                f"{where}, {name}: points of final accuracy above naive ({means(**accuracy)})",
                accuracy["osf"] - accuracy["naive"],
                least=least,
            ),
            estimate(
                f"the same: points of forgetting less than naive ({means(**lost)})",
                lost["naive"] - lost["osf"],
                least=2,
            ),
        ]
    return result + on_text("osf", continual.osf(KEEP), seeds, data_dir)


def _learner(method: core.Method) -> core.Learner:
    stream = streams.class_incremental(streams.digits(), 5)
    model = core.from_linen(models.MLP(10, hidden=(32,)))
    return core.make_learner(model, method, optax.adamw(1e-2, weight_decay=0.1), stream, steps=100)


def _edges(method: core.Method) -> tuple[core.TrainState, core.TrainState]:
    """The states after the first and after the second experience of digits."""
    learner = _learner(method)
    data = core.to_device(learner.stream)
    first = core.run_experience(learner, core.start(learner), data, 0)
    before = jax.tree.map(jnp.array, first)
    return before, core.run_experience(learner, first, data, 1)


def _kernels(state: core.TrainState) -> dict[str, np.ndarray]:
    return {name: np.float64(state.params[name]["kernel"]) for name in ("dense_0", "head")}


def _kept() -> tuple[float, float, float]:
    """The largest change inside of what is kept; of `W V_k` and `U_k^T W`, by numpy's SVD; and of a kernel in all."""
    before, after = _edges(continual.osf(KEEP))
    own, inside, triplets, whole = after.method_state["osf"], [], [], []
    for name, old in _kernels(before).items():
        new = _kernels(after)[name]
        left, right = (np.float64(side[name]["kernel"]) for side in (own.left, own.right))
        inside += [np.linalg.norm(left.T @ (new - old)), np.linalg.norm((new - old) @ right)]
        u, values, vt = np.linalg.svd(old, full_matrices=False)
        k = int(KEEP * len(values))
        triplets += [np.abs(new @ vt[:k].T - u[:, :k] * values[:k]).max()]
        triplets += [np.abs(u[:, :k].T @ new - values[:k, None] * vt[:k]).max()]
        whole.append(np.linalg.norm(new - old))
    return max(inside), max(triplets), max(whole)


def _second(keep: float, plain: bool = False) -> float:
    before, after = _edges(continual.osf(keep))
    if plain:
        return distance(after.params, _edges(core.identity())[1].params)
    return distance(_kernels(before), _kernels(after))


CHECK = Check(
    "ctrain_jax.continual.osf",
    "Nayak et al., Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for Continual Learning, 2025, arXiv "
    "2504.07097",
    claims,
    rows=(161,),
    data=True,
)

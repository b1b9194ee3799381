"""Refined linear decay: its double sum, linear decay as a special case, and the schedules against each other."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import optim
from experiments._evidence import _optim
from experiments._evidence._common import Check, Claim, distance, estimate, gate

EPOCHS, APART = 3, 1000  # the seed apart, on which learning rates are tuned and norms recorded
PEAKS = (0.01, 0.03, 0.1, 0.3)


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `optim.refined_linear_decay`."""
    task = _optim.fashion((100,))
    num = _optim.steps(task, EPOCHS)

    def run(key, rates):
        """Final training loss and gradient norms of SGD with these learning rates."""
        tx = optax.chain(optim.record_gradient_norms(num), optax.sgd(lambda count: rates[count], momentum=0.9))
        params, state = _optim.train(task, tx, key, EPOCHS)
        return task.loss(params), optax.tree.get(state, "norms")

    # One program: runs are mapped over keys and rates.
    run = jax.jit(jax.vmap(run))
    apart = _optim.keys([APART] * len(PEAKS))
    at = jnp.arange(num)
    shapes = {
        "constant": np.ones(num),
        "cosine": np.asarray(optax.cosine_decay_schedule(1.0, num)(at)),
        "linear": np.asarray(optax.linear_schedule(1.0, 0.0, num)(at)),
    }
    tuned, peaks = {}, {}

    def tune(name):
        found, norms = run(apart, jnp.float32([peak * shapes[name] for peak in PEAKS]))
        best = int(np.nanargmin(found))
        peaks[name], tuned[name] = PEAKS[best], PEAKS[best] * shapes[name]
        return np.asarray(norms[best])

    norms = {name: tune(name) for name in tuple(shapes)}
    shapes["refined"] = np.asarray(jax.vmap(optim.refined_linear_decay(norms["linear"], 1.0))(at))
    tune("refined")
    ends = {}
    for name, rates in tuned.items():
        found, _ = run(_optim.keys(seeds), jnp.float32([rates] * len(seeds)))
        ends[name] = np.asarray(found, np.float64)
    means = ", ".join(f"{name} {ends[name].mean():.4f} at {peaks[name]:g}" for name in ends)
    where = f"Fashion-MNIST (10,000 rows), MLP of 100, SGD with momentum 0.9, {EPOCHS} epochs, peaks tuned: "
    return [
        gate("equal norms give (T - t) / T, but for scale (largest difference)", _equal_norms(), most=1e-6),
        gate("norms times 1e-20 or 1e20 give the same schedule (largest difference)", _scaled_norms(), most=1e-10),
        gate("cumulative sums are the double sum (largest difference)", _double_sum(), most=1e-10),
        gate("last_iterate of SGD is SGD with linear decay (largest difference)", _last_iterate(), most=1e-6),
        estimate(
            f"{where}final training loss of linear decay, percent above cosine's ({means})",
            100 * (ends["linear"] / ends["cosine"] - 1),
            most=2,
        ),
        estimate(
            "the same: of linear decay, percent below the constant rate's",
            100 * (1 - ends["linear"] / ends["constant"]),
            least=5,
        ),
        estimate(
            "the same: of the refined schedule, percent above linear decay's",
            100 * (ends["refined"] / ends["linear"] - 1),
            most=1,
        ),
    ]


def _values(norms: np.ndarray, **options: float) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(jax.vmap(optim.refined_linear_decay(norms, 1.0, **options))(jnp.arange(len(norms))))


def _equal_norms() -> float:
    expected = np.arange(99, -1, -1) / 100
    return np.max(np.abs(_values(np.full(100, 2.5)) * expected[0] - expected))


def _norms() -> np.ndarray:
    return np.exp(np.random.default_rng(0).normal(size=200))


def _scaled_norms() -> float:
    return max(np.max(np.abs(_values(scale * _norms()) - _values(_norms()))) for scale in (1e-20, 1e20))


def _double_sum() -> float:
    weights = _norms() ** -2
    rates = np.array([w * sum(weights[t + 1 :]) for t, w in enumerate(weights)])
    return np.max(np.abs(_values(_norms(), filter_fraction=0.0) - rates / rates.max()))


def _last_iterate() -> float:
    task, num = _optim.fashion((16,)), _optim.steps(_optim.fashion((16,)), 1)
    plain = optax.sgd(optax.linear_schedule(0.1 * (num - 1) / num, 0.0, num - 1))
    ours = optim.last_iterate(optax.sgd(0.1), np.ones(num))
    ends = [jax.jit(lambda key, tx=tx: _optim.train(task, tx, key, 1)[0])(jax.random.key(0)) for tx in (plain, ours)]
    return distance(*ends)


CHECK = Check(
    "ctrain_jax.optim.refined_linear_decay",
    "Defazio et al., When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement, 2023, arXiv 2310.07831",
    claims,
    rows=(58,),
)

"""MIP: codes of one length, weights of one spread; sines of many frequencies; tasks that are kept."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, ops, streams
from experiments._evidence._common import Check, Claim, estimate, final, forgotten, gate, means, runs

GAMMAS, STEPS, DRAWS = 16, 1000, 50
PLAIN = {"encoding": "none", "residual": False}


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.mip_hypernet`."""
    codes = ops.mip_encode(jax.random.uniform(jax.random.key(0), (1000, 3)))
    ratio = _spread_ratio(encoding="circle")
    raw, mip = (_sines(seeds, options) for options in (PLAIN, {}))
    fits, norms = (np.log10(a / b) for a, b in zip(raw, mip, strict=True))
    where = "sines of 16 frequencies by their condition, MLP of 32-32, Adam, 1000 steps of one frequency each"
    naive, free, own = (
        _split(seeds, method)
        for method in (core.identity(), *(continual.mip_hypernet(5, beta=b, hidden=(16, 32)) for b in (0.0, 0.01)))
    )
    lost = {"free": forgotten(free), "kept": forgotten(own)}
    split = "task-incremental Split-Fashion-MNIST (10,000 rows) in 5 experiences of 2 epochs, MLP of 50, Adam"
    return [
        gate("squared length of a code less the number of components (largest of 1000)", _length(codes), most=1e-6),
        gate(
            "without the code, variance of weights generated for 1 over that for 0.05 (50 draws)",
            _spread_ratio(encoding="none"),
            least=100,
        ),
        gate("with it, the larger of the two over the smaller", max(ratio, 1 / ratio), most=1.3),
        estimate(
            f"{where}: decades of squared error below a hypernetwork without code and shared network "
            f"({_wins(fits)}; error {raw[0].mean():.3g}, mip_hypernet {mip[0].mean():.3g})",
            fits,
            least=0,
        ),
        estimate(
            f"the same: decades of the variance of the gradient's norm below ({_wins(norms)})",
            norms,
            least=0,
        ),
        estimate(
            f"{split}: points of forgetting less with beta=0.01 than with 0 ({means(**lost)})",
            lost["free"] - lost["kept"],
            least=0,
        ),
        estimate(
            f"the same: points of final accuracy above naive ({means(naive=final(naive), mip_hypernet=final(own))})",
            final(own) - final(naive),
            least=0,
        ),
    ]


def _length(codes: jax.Array) -> float:
    return float(np.max(np.abs(np.square(np.asarray(codes, np.float64)).sum(-1) - codes.shape[-1] / 2)))


def _wins(values: np.ndarray) -> str:
    return f"lower in {int((values > 0).sum())} of {len(values)} seeds"


def _spread_ratio(encoding: str) -> float:
    """Variance of the kernels that are generated for 1 over that for 0.05, each a mean over draws."""
    method = continual.mip_hypernet(2, conditions=[[0.05], [1.0]], encoding=encoding, residual=False)
    # A dense layer whose answers to unit vectors are its kernel.
    model, inputs = method.model(core.from_linen(models.MLP(10, hidden=()))), jnp.eye(32)

    def kernel(key, task):
        made = model.init(key, inputs)
        at_zero = model.apply(made, jnp.zeros((1, 32)), task=task)[0].logits
        return jnp.var(model.apply(made, inputs, task=task)[0].logits - at_zero)

    keys = jax.random.split(jax.random.key(1), DRAWS)
    small, large = (float(jax.vmap(lambda key, t=t: kernel(key, t))(keys).mean()) for t in range(2))
    return large / small


@functools.partial(jax.jit, static_argnames="make")
def _fit(key, make):
    """The mean squared error after training, and the variance over steps of the gradient's norm."""
    gammas, grid = jnp.linspace(0.0, 1.0, GAMMAS), jnp.linspace(-1.0, 1.0, 101)[:, None]
    model, tx = make().model(core.from_linen(models.MLP(1, hidden=(32, 32)))), optax.adam(1e-3)

    def error(params, task, x):
        answer = model.apply(made._replace(params=params), x, task=task)[0].logits
        return jnp.square(answer - jnp.sin(jnp.pi * (1 + 3 * gammas[task]) * x)).mean()

    def step(carry, key):
        params, state = carry
        rng_task, rng_x = jax.random.split(key)
        task, x = jax.random.randint(rng_task, (), 0, GAMMAS), jax.random.uniform(rng_x, (64, 1), minval=-1.0)
        grads = jax.grad(error)(params, task, x)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), state), optax.global_norm(grads)

    rng_init, rng_steps = jax.random.split(key)
    made = model.init(rng_init, grid)
    (params, _), norms = jax.lax.scan(step, (made.params, tx.init(made.params)), jax.random.split(rng_steps, STEPS))
    return jax.vmap(lambda task: error(params, task, grid))(jnp.arange(GAMMAS)).mean(), jnp.var(norms)


def _sines(seeds: Sequence[int], options: dict) -> tuple[np.ndarray, np.ndarray]:
    conditions = np.linspace(0.0, 1.0, GAMMAS)[:, None]

    def make():
        return continual.mip_hypernet(GAMMAS, conditions=conditions, **options)

    errors, norms = zip(*(_fit(jax.random.key(seed), make) for seed in seeds), strict=True)
    return np.asarray(errors, np.float64), np.asarray(norms, np.float64)


def _split(seeds: Sequence[int], method: core.Method) -> core.Result:
    stream = streams.task_incremental(streams.fashion_mnist(), 5)
    model = core.from_linen(models.MLP(10, hidden=(50,)))
    return runs(core.make_learner(model, method, optax.adam(1e-3), stream, batch_size=32, epochs=2), seeds)


CHECK = Check(
    "ctrain_jax.continual.mip_hypernet",
    "Ortiz et al., Magnitude Invariant Parametrizations Improve Hypernetwork Learning, ICLR 2024, arXiv 2304.07645",
    claims,
    rows=(7,),
)

"""HLOP: the subspace that Oja's rule finds, old inputs that see nothing of training; on permuted MNIST against SVD."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from ctrain_jax.continual.optimization._bases import fill, layer_inputs, name_of
from experiments._evidence._common import Check, Claim, estimate, final, forgotten, gate, handwritten, means, runs

RANK = 40


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.hlop`."""
    stream = streams.permuted(handwritten(data_dir, 10_000), 5)

    def learner(method):
        model = core.from_linen(models.MLP(10, hidden=(100, 100)))
        return core.make_learner(model, method, optax.adam(1e-3), stream, batch_size=32, epochs=1)

    methods = (core.identity(), continual.hlop(RANK), singular(RANK))
    results = [runs(learner(method), seeds) for method in methods]
    naive, hlop, svd = map(final, results)
    lost = dict(zip(("naive", "hlop", "svd"), map(forgotten, results), strict=True))
    off, angle = _gaussian()
    inside, answers, whole = _still()
    where = f"permuted MNIST (10,000 rows), 5 experiences, MLP, 1 epoch each, Adam, {RANK} rows, 20 for hidden layers"
    return [
        gate("normal inputs with 5 principal directions of 20, 4,000 rows: largest entry of HH' - 1", off, most=1e-2),
        gate("the same: largest principal angle to these 5, in degrees", angle, most=5),
        gate(
            "linear layer under AdamW with decay, old inputs in 5 directions of 20: largest product of a change of the "
            f"kernel in one step and H (kernel in all {whole:.2f})",
            inside,
            most=1e-6,
        ),
        gate("the same: largest change of an answer to an old input over the second experience", answers, most=1e-5),
        estimate(
            f"{where}: points of final accuracy above naive ({means(naive=naive, hlop=hlop)})", hlop - naive, least=10
        ),
        estimate(
            f"the same: above GPM with as many rows, from singular vectors of all inputs ({means(svd=svd)})",
            hlop - svd,
            least=-3,
        ),
        estimate(
            f"the same: points of forgetting less than naive ({means(**lost)})", lost["naive"] - lost["hlop"], least=2
        ),
    ]


def singular(rank: int) -> core.Method:
    """`hlop` with the best rows there are in place of learned ones: leading singular vectors of what is left over."""
    plain = continual.hlop(rank)

    def end(s, ts, ctx):
        leaves = jax.tree_util.tree_leaves_with_path(s.bases)
        sums = {name_of(path): jnp.zeros((len(b), len(b))) for path, b in leaves if name_of(path).endswith("kernel")}

        def add(total, batch, b):
            inputs = layer_inputs(ctx, ts.params, batch["inputs"], task=batch["task"])
            return {name: total[name] + x.T @ (x * batch["weights"][:, None]) for name, x in inputs.items()}

        sums = ctx.scan(add, sums)

        def grown(name, basis):
            left_over = jnp.eye(len(basis)) - basis @ basis.T
            number = basis.shape[1] // ctx.spec.num_experiences
            new = jnp.linalg.eigh(left_over @ sums[name] @ left_over)[1][:, ::-1][:, :number]
            return jax.lax.dynamic_update_slice(basis, new, (0, ctx.experience.index * number))

        return s._replace(bases=fill(s.bases, sums, grown)), ts

    return plain._replace(end=end)


LINE = core.from_linen(models.MLP(2, hidden=()))


def _gaussian() -> tuple[float, float]:
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    scales = np.sqrt(np.where(np.arange(20) < 5, 4.0, 0.1))
    inputs = ((rng.normal(size=(4000, 20)) * scales) @ turn).astype(np.float32)
    stream = streams.permuted(streams.arrays(*[inputs, np.arange(4000) % 2] * 2), 1)
    learner = core.make_learner(LINE, continual.hlop(5), optax.adam(1e-3), stream, batch_size=32, steps=1)
    state = core.run_experience(learner, core.start(learner), core.to_device(stream), 0)
    rows = np.float64(state.method_state["hlop"].bases["head"]["kernel"]).T
    cosines = np.linalg.svd(np.linalg.qr(rows.T)[0].T @ turn[:5].T)[1]
    return np.abs(rows @ rows.T - np.eye(5)).max(), np.degrees(np.arccos(np.clip(cosines.min(), -1, 1)))


def _still() -> tuple[float, float, float]:
    """Of the second experience: a change of the kernel inside of H, a change of an answer, the kernel's change."""
    rng = np.random.default_rng(0)
    first = (2 * rng.normal(size=(2000, 5)) @ np.linalg.qr(rng.normal(size=(20, 5)))[0].T).astype(np.float32)
    inputs = np.concatenate([first, rng.normal(size=(2000, 20)).astype(np.float32)])
    stream = streams.class_incremental(streams.arrays(*[inputs, np.repeat(np.arange(2), 2000)] * 2), 2)
    tx = optax.adamw(1e-2, weight_decay=0.1)
    learner = core.make_learner(LINE, continual.hlop(5), tx, stream, batch_size=32, epochs=2)
    data = core.to_device(stream)
    state = core.run_experience(learner, core.start(learner), data, 0)
    before = jax.tree.map(jnp.array, state)
    after = core.run_experience(learner, state, data, 1)
    step = jax.jit(learner.step)(before, data, 1, 0)[0]

    def kernel(state):
        return np.float64(state.params["head"]["kernel"])

    def answers(state):
        return np.float64(first) @ kernel(state) + np.float64(state.params["head"]["bias"])

    rows = np.float64(before.method_state["hlop"].bases["head"]["kernel"])
    inside = np.abs((kernel(step) - kernel(before)).T @ rows).max()
    return inside, np.abs(answers(after) - answers(before)).max(), np.linalg.norm(kernel(after) - kernel(before))


CHECK = Check(
    "ctrain_jax.continual.hlop",
    "Xiao, Meng, Zhang, He and Lin, Hebbian Learning based Orthogonal Projection for Continual Learning of Spiking "
    "Neural Networks, ICLR 2024, arXiv 2402.11984",
    claims,
    rows=(51,),
    data=True,
)

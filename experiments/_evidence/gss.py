"""GSS: who is held when one experience is ten times as long as the others, and what is remembered then."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import Check, Claim, estimate, final, gate, handwritten, means, runs

SIZE, LONG, SHORT = 300, 2_000, 200
WHERE = (
    f"class-incremental Split-MNIST in one pass, batches of 10 and 10, MLP of 100 and 100, one experience of {LONG:,} "
    f"rows and four of {SHORT}, memory {SIZE}"
)


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.gss`."""
    source = handwritten(data_dir)
    found: dict[str, list[float]] = {"naive": [], "er": [], "gss": []}
    held: dict[str, list[float]] = {"er": [], "gss": []}
    for seed in seeds:
        # each experience is the long one in turn, as in the paper
        stream = _stream(source, long=seed % 5)
        for name, method in (
            ("naive", core.identity()),
            ("er", continual.er(SIZE)),
            ("gss", continual.gss(SIZE)),
        ):
            result = runs(_learner(method, stream), [seed])
            found[name].append(final(result)[0])
            if name != "naive":
                buffer = jax.tree.map(lambda x: x[0], result.state.method_state[name].buffer)
                experiences = np.asarray(buffer.records["experience"])[: min(int(buffer.seen), SIZE)]
                held[name].append(100 * np.mean(experiences == seed % 5))
    naive, er, own = (np.asarray(found[name]) for name in ("naive", "er", "gss"))
    er_long, own_long = np.asarray(held["er"]), np.asarray(held["gss"])
    return [
        gate("a memory with room is that of er (largest difference of a parameter)", _with_room(), most=1e-6),
        estimate(
            f"{WHERE}: points of final accuracy above er ({means(naive=naive, er=er, gss=own)})", own - er, least=0
        ),
        estimate(f"the same: points above naive ({means(naive=naive)})", own - naive, least=20),
        estimate(
            "the same: share of the memory that is of the long experience, in points below er's "
            f"({means(er=er_long, gss=own_long)})",
            er_long - own_long,
            least=0,
        ),
    ]


def _stream(source: core.Source, long: int) -> core.Stream:
    labels = np.asarray(source.train["labels"])
    rows = []
    for pair in range(5):
        of_pair = np.flatnonzero((labels == 2 * pair) | (labels == 2 * pair + 1))
        rows.append(of_pair[: LONG if pair == long else SHORT])
    kept = np.concatenate(rows)
    part = {name: np.asarray(x)[kept] for name, x in source.train.items()}
    test = source.test
    short = streams.arrays(part["inputs"], part["labels"], test["inputs"], test["labels"], name=f"long_{long}")
    return streams.class_incremental(short, 5, class_order=range(10))


def _learner(method: core.Method, stream: core.Stream) -> core.Learner:
    model = core.from_linen(models.MLP(10, hidden=(100, 100)))
    return core.make_learner(model, method, optax.sgd(0.05), stream, batch_size=10, epochs=1)


def _with_room() -> float:
    stream = streams.class_incremental(streams.digits(), 5)
    model = core.from_linen(models.MLP(10, hidden=(16,)))
    ends = []
    for method in (continual.er(2_000), continual.gss(2_000, compare=2)):
        # the name gives the random numbers
        learner = core.make_learner(model, method._replace(name="same"), optax.sgd(0.1), stream, batch_size=32)
        state = core.run_stream(learner).state
        ends.append((state.params, state.method_state["same"].buffer.records))
    differences = jax.tree.map(lambda a, b: float(np.max(np.abs(np.asarray(a) - np.asarray(b)))), *ends)
    return max(jax.tree.leaves(differences))


CHECK = Check(
    "ctrain_jax.continual.gss",
    "Aljundi et al., Gradient Based Sample Selection for Online Continual Learning, NeurIPS 2019, arXiv 1903.08671",
    claims,
    rows=(291,),
    data=True,
)

"""HPCR: without its additions it is PCR; in one pass over MNIST, against naive and PCR."""

from collections.abc import Sequence

import jax
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import Check, Claim, distance, estimate, final, forgotten, gate, means, runs
from experiments._evidence.pcr import SIZE, WHERE, one_pass


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.hpcr`."""
    methods = (core.identity(), continual.pcr(SIZE), continual.hpcr(SIZE, alpha=0.01))
    results = [runs(one_pass(method, data_dir), seeds) for method in methods]
    naive, pcr, hpcr = map(final, results)
    lost = dict(zip(("naive", "pcr", "hpcr"), map(forgotten, results), strict=True))
    return [
        gate(
            "scales of 1 and weights of 0: the parameters after two experiences less those of pcr (largest difference)",
            _bare(),
            most=1e-6,
        ),
        estimate(
            f"{WHERE}: points of final accuracy above naive ({means(naive=naive, hpcr=hpcr)})", hpcr - naive, least=20
        ),
        estimate(f"the same: points of final accuracy above pcr ({means(pcr=pcr, hpcr=hpcr)})", hpcr - pcr, least=-0.5),
        estimate(
            f"the same: points of forgetting less than naive ({means(**lost)})", lost["naive"] - lost["hpcr"], least=20
        ),
    ]


def _bare() -> float:
    """On digits; random numbers belong to names, so both bear the same one."""
    stream = streams.class_incremental(streams.digits(), 5)
    model, after = core.from_linen(models.MLP(10, hidden=(32,))), []
    for method in (continual.pcr(50), continual.hpcr(50, scales=(1.0, 1.0), alpha=0.0, beta=0.0)):
        learner = core.make_learner(model, method._replace(name="pcr"), optax.sgd(0.1), stream, batch_size=10)
        state, data = core.start(learner), core.to_device(stream)
        begin, chunk = jax.jit(learner.begin), jax.jit(learner.chunk)
        for t in range(2):
            state, _ = chunk(begin(state, data, t), data, t, 0, learner.spec.steps[t])
        after.append(state.params)
    return distance(*after)


CHECK = Check(
    "ctrain_jax.continual.hpcr",
    "Lin et al., HPCR: Holistic Proxy-based Contrastive Replay for Online Continual Learning, 2023, arXiv 2309.15038",
    claims,
    rows=(62,),
    data=True,
)

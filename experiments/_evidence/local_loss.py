"""The local loss: old classes are not pushed down, to the bit; final accuracy without a memory."""

from collections.abc import Sequence

import numpy as np
import optax

from ctrain_jax import continual, core, models, streams
from experiments._evidence._common import Check, Claim, estimate, final, gate, means
from experiments._evidence._rehearsal_free import WHERE, Digits


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.local_loss`."""
    digits, results = Digits(data_dir, seeds), []
    for methods in ((), (continual.local_loss(),)):

        def anchored(lam, methods=methods):
            return core.chain(*methods, continual.l2_anchor(lam))

        results.append(final(digits.run(anchored(digits.best(anchored, (0.01, 0.1, 1.0, 10.0))))))
    whole, local = results
    return [
        gate("with SGD the weights of old classes stay as they are (largest difference)", _columns(), most=0),
        estimate(
            f"{WHERE}, with l2_anchor: points of final accuracy above the loss over all classes "
            f"({means(local=local, all=whole)})",
            local - whole,
            least=5,
        ),
    ]


def _columns() -> float:
    stream = streams.class_incremental(streams.digits(), 5)
    model = core.from_linen(models.MLP(10, hidden=(16,)))
    learner = core.make_learner(model, continual.local_loss(), optax.sgd(0.1), stream)
    data = core.to_device(stream)
    state = core.run_experience(learner, core.start(learner), data, 0)
    before = np.array(state.params["head"]["kernel"])
    state = core.run_experience(learner, state, data, 1)
    old = np.asarray(stream.experiences["train"].classes[0])
    return float(np.abs(np.asarray(state.params["head"]["kernel"]) - before)[:, old].max())


CHECK = Check(
    "ctrain_jax.continual.local_loss",
    "Zeno et al., Task Agnostic Continual Learning Using Online Variational Bayes, 2018, arXiv 1803.10123; Smith et "
    "al., CODA-Prompt, CVPR 2023, arXiv 2211.13218",
    claims,
    rows=(31,),
    data=True,
)

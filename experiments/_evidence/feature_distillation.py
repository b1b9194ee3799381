"""Feature distillation: exact where nothing moves; beside the L2 anchor, and above naive where tasks are known."""

from collections.abc import Sequence

from ctrain_jax import continual, core
from experiments._evidence._common import Check, Claim, estimate, final, forgotten, means
from experiments._evidence._penalties import above_naive, first_is_plain, plain_without
from experiments._evidence._rehearsal_free import WHERE, Digits


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.feature_distillation`."""
    digits = Digits(data_dir, seeds)

    def local(method):
        return core.chain(continual.local_loss(), method)

    def distilled(lam):
        return local(continual.feature_distillation(lam))

    def anchored(lam):
        return local(continual.l2_anchor(lam))

    tuned = digits.run(local(core.identity()))
    strengths = (0.01, 0.1, 1.0, 10.0)
    lam, pull = digits.best(distilled, strengths), digits.best(anchored, strengths)
    kept, anchor = digits.run(distilled(lam)), digits.run(anchored(pull))
    own, plain, l2 = map(final, (kept, tuned, anchor))
    lost, without = forgotten(kept), forgotten(tuned)
    return [
        plain_without(continual.feature_distillation(0.0)),
        first_is_plain(continual.feature_distillation(100.0)),
        estimate(
            f"{WHERE}, all with the local loss: points of final accuracy of l2_anchor({pull:g}) above fine-tuning "
            f"({means(l2_anchor=l2, tuned=plain)})",
            l2 - plain,
            least=10,
        ),
        estimate(
            f"the same: points of l2_anchor above feature_distillation({lam:g}) ({means(l2_anchor=l2, distilled=own)})",
            l2 - own,
            least=-1,
        ),
        estimate(
            f"the same: points of forgetting less than fine-tuning ({means(distilled=lost, tuned=without)})",
            without - lost,
            least=0,
        ),
        *above_naive(continual.feature_distillation(0.3), "lam=0.3", seeds),
    ]


CHECK = Check(
    "ctrain_jax.continual.feature_distillation",
    "Smith et al., A Closer Look at Rehearsal-Free Continual Learning, CVPR Workshops 2023, arXiv 2203.17269",
    claims,
    rows=(31,),
    data=True,
)

"""LAE: two adapters that are one, a base that stays; on digits, from a transformer of clothes, above one adapter."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from configs import pretrain
from ctrain_jax import continual, core, models, peft, streams, testing
from experiments._evidence._common import (
    Check,
    Claim,
    distance,
    estimate,
    final,
    forgotten,
    gate,
    handwritten,
    means,
    runs,
)
from experiments.pretrain import pretrained

ROWS, EPOCHS, DECAY = 5_000, 2, 0.99
LORA = peft.lora(4, train=r"^head")
WHERE = (
    f"Split-MNIST ({ROWS:,} rows) in 5 experiences of {EPOCHS} epochs, one head, from a frozen ViT of Fashion-MNIST, "
    f"LoRA of rank 4, decay {DECAY}, local_loss"
)


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `peft.lae`."""
    stream = streams.class_incremental(handwritten(data_dir, ROWS), 5)
    vit = core.from_linen(models.ViT(10, **{k: v for k, v in pretrain.VIT.items() if k != "name"}))
    base = core.load_tensors(pretrained("vit_fashion_mnist", data_dir))
    head = jax.tree.map(jnp.zeros_like, base.params["head"])
    base = base._replace(params={**base.params, "head": head})
    bases = jax.tree.map(lambda x: jnp.stack([x] * len(seeds)), base)

    def run(method):
        method = core.chain(method, continual.local_loss())
        return runs(
            core.make_learner(vit, method, optax.adam(3e-3), stream, batch_size=32, epochs=EPOCHS), seeds, bases
        )

    alone, own = run(core.Method("lora", model=LORA)), run(peft.lae(LORA, decay=DECAY))
    lora, lae = final(alone), final(own)
    lost = {"lora": forgotten(alone), "lae": forgotten(own)}
    same, kept = _identities()
    return [
        gate("decay 0: the offline adapter less the online one (largest difference)", same, most=0),
        gate("AdamW and BatchNorm leave the base as it was (largest difference)", kept, most=0),
        estimate(
            f"{WHERE}: points of final accuracy above the adapter alone ({means(lora=lora, lae=lae)})",
            lae - lora,
            least=3,
        ),
        estimate(f"the same: points of forgetting less ({means(**lost)})", lost["lora"] - lost["lae"], least=0),
    ]


def _identities() -> tuple[float, float]:
    stream = testing.standard_stream()
    method = peft.lae(peft.lora(2, train=r"^head"), decay=0.0)
    learner = core.make_learner(
        testing.standard_model(), method, optax.adamw(1e-2, weight_decay=0.1), stream, batch_size=8
    )
    before = jax.tree.map(lambda x: x.copy(), core.start(learner).frozen)
    state = core.run_stream(learner).state
    return distance(state.method_state["lae"].offline, state.params["new"]), distance(state.frozen, before)


CHECK = Check(
    "ctrain_jax.peft.lae",
    "Gao et al., A Unified Continual Learning Framework with General Parameter-Efficient Tuning, ICCV 2023, arXiv "
    "2303.10070",
    claims,
    rows=(17,),
    data=True,
)

"""MOS: what is exact; MNIST after a network of Fashion-MNIST: above prototypes, one adapter, and parts of itself."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrain_jax import continual, core, models, peft, testing
from experiments._evidence._common import Check, Claim, distance, estimate, final, forgotten, gate, means
from experiments._evidence._rehearsal_free import ROWS, Digits

PET = peft.lora(4, train="^head")
MODEL = core.from_linen(models.MLP(6, hidden=(16, 16)))


def claims(seeds: Sequence[int], data_dir: str | None) -> list[Claim]:
    """The claims of `continual.mos`."""
    model = core.from_linen(models.MLP(10, hidden=(256, 128)))
    digits = Digits(data_dir, seeds, model=model, optimizer=optax.adam(3e-3), epochs=2)
    methods = {
        "prototypes": continual.nmc(metric="cosine"),
        "last": core.chain(core.Method("lora", model=PET), continual.local_loss()),
        "unmerged": continual.mos(PET, momentum=0.0),
        "unaligned": continual.mos(PET, steps=0),
        "mos": continual.mos(PET),
    }
    results = {name: digits.run(method) for name, method in methods.items()}
    ends = {name: final(result) for name, result in results.items()}
    lost = {name: forgotten(results[name]) for name in ("last", "unmerged", "mos")}
    where = (
        f"Split-MNIST ({ROWS:,} rows) in 5 experiences of 2 epochs, one head, from an MLP of Fashion-MNIST, LoRA of "
        "rank 4"
    )
    loop, again = _retrieved()
    return [
        gate(
            "momentum=0, reg=0 and steps=0: the first two experiences are plain training (largest difference)",
            _plain(),
            most=1e-6,
        ),
        gate("answers of an untrained choice less those of a loop in Python (largest difference)", loop, most=1e-5),
        gate("rows whose first choice names itself, answered otherwise after four rounds (number)", again, most=0),
        estimate(
            f"{where}: points of final accuracy above the nearest prototype of the frozen network ({means(**ends)})",
            ends["mos"] - ends["prototypes"],
            least=2,
        ),
        estimate("the same: above the last adapter, alone and with local_loss", ends["mos"] - ends["last"], least=10),
        estimate("the same: above itself without alignment", ends["mos"] - ends["unaligned"], least=0),
        estimate("the same: above itself without merging", ends["mos"] - ends["unmerged"], least=0),
        estimate(
            f"the same: points of forgetting less than without merging ({means(**lost)})",
            lost["unmerged"] - lost["mos"],
            least=0,
        ),
    ]


def _learner(method: core.Method) -> core.Learner:
    return core.make_learner(MODEL, method, optax.sgd(0.1), testing.standard_stream(), batch_size=8, epochs=3)


def _after(method: core.Method, experiences: int) -> tuple[core.Learner, core.TrainState]:
    learner = _learner(method)
    data, state = core.to_device(learner.stream), core.start(learner)
    for t in range(experiences):
        state = core.run_experience(learner, state, data, t)
    return learner, state


def _plain() -> float:
    _, own = _after(continual.mos(PET, momentum=0.0, reg=0.0, steps=0), 2)
    _, plain = _after(core.chain(core.Method("lora", model=PET), continual.local_loss()), 2)
    return distance(own.params, plain.params)


def _retrieved() -> tuple[float, int]:
    """Adapters far apart, so that a choice wanders: against a loop, and where it stands at once against one round."""
    learner, state = _after(continual.mos(PET, ensemble=False), 3)
    s = state.method_state["mos"]
    leaves, tree = jax.tree.flatten(s.adapters)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    far = [x + jax.random.normal(key, x.shape) for key, x in zip(keys, leaves, strict=True)]
    s = s._replace(adapters=jax.tree.unflatten(tree, far))
    state = state._replace(method_state={"mos": s})
    inputs = jnp.asarray(learner.stream.source.test["inputs"])
    answered = np.asarray(core.predictor(learner, state)(inputs).logits)
    once = _learner(continual.mos(PET, ensemble=False, max_rounds=1))
    first = np.asarray(core.predictor(once, state)(inputs).logits)

    def outputs(k):
        params = {**state.params, "new": jax.tree.map(lambda x: x[k], s.adapters)}
        variables = core.Variables(params, state.model_state, state.frozen)
        return jax.tree.map(np.asarray, PET(MODEL).apply(variables, inputs)[0])

    under, owners = [outputs(k) for k in range(3)], np.asarray(s.owners)
    near = np.asarray(optax.losses.cosine_similarity(under[0].features[:, None], s.prototypes, epsilon=1e-12))
    off, rounds, again = 0.0, [], 0
    for i in range(len(inputs)):
        chosen, count = owners[near[i].argmax()], 0
        while True:
            count += 1
            logits = under[chosen].logits[i]
            named = owners[logits.argmax()]
            if named == chosen or count == 4:
                break
            chosen = named
        off = max(off, float(np.abs(answered[i] - logits).max()))
        rounds.append(count)
        again += count == 1 and bool(np.any(answered[i] != first[i]))
    if len(set(rounds)) < 3:
        raise AssertionError(f"Rounds {sorted(set(rounds))}: the gate would hold for nothing.")
    return off, again


CHECK = Check(
    "ctrain_jax.continual.mos",
    "Sun et al., MOS: Model Surgery for Pre-Trained Model-Based Class-Incremental Learning, AAAI 2025, arXiv "
    "2412.09441",
    claims,
    rows=(154,),
    data=True,
)

"""Constructor arguments for every public factory: one without a row fails."""

import jax
import optax

from ctrain_jax import continual, core, fault, models, ops, optim, peft
from tests.convolved import convolved

# A method that repairs stages brings a model that has some: four dense layers of equal shapes.
STAGES = core.Method("stages", model=lambda _: core.from_linen(models.MLP(6, hidden=(12,) * 4)))


def shaped(name, *shape):
    """Rows of the standard stream as images, and back: for methods that change images, in the batch or in the model."""

    def augment(s, batch, ctx):
        return batch | {"inputs": batch["inputs"].reshape(-1, *shape)}

    def model(inner):
        return core.Model(
            lambda rng, inputs: inner.init(rng, inputs.reshape(-1, *shape)),
            lambda variables, inputs, **options: inner.apply(variables, inputs.reshape(-1, *shape), **options),
        )

    return core.Method(name, augment=augment, model=model)


# A method that learns pairs brings a model that places both views of a row.
PAIRS = core.Method("pairs", model=lambda _: core.from_linen(models.TwoTower(6, hidden=(8,))))

RGB, GREY, ROWS = shaped("rgb", 2, 2, 3), shaped("grey", 4, 3), shaped("rows", 12)


def on_convolutions(method):
    """The method on a network that has some, in place of the one that it is given."""
    return method._replace(model=lambda _: method.model(convolved(norm=True)))


def on_layers(method):
    """The method on dense layers alone."""
    return method._replace(model=lambda _: core.from_linen(models.MLP(6, hidden=(12, 12))))


# A transform of two towers brings them: an image tower, and one that reads the names of the classes.
TWO_TOWERS = core.from_linen(models.Clip(3, ((0, 1), (0, 2), (3, 1)), dim=4, patch=4, width=8, depth=1, heads=2))


# {factory: [a method of it]}. More than one row where arguments change what the method keeps or does.
METHODS = {
    "adaptive_ema": [
        lambda: continual.adaptive_ema(lam=30.0, base=0.05),
        lambda: continual.adaptive_ema("quadratic", lam=30.0, base=0.3, per_block=False),
    ],
    "agem": [lambda: continual.agem(20), lambda: continual.agem(24, policy="class_balanced", batch_size=5)],
    "augmentation": [
        lambda: core.chain(
            continual.er(20), GREY, continual.augmentation(mean=0.5, std=0.2, mixup=0.5, cutmix=1.0), ROWS
        ),
        lambda: core.chain(RGB, continual.augmentation(crop=1, color=0.5, rand_augment=1), ROWS),
    ],
    "bic": [lambda: continual.bic(6, held_out=2)],
    "binary_variational": [lambda: continual.binary_variational(0.1)],
    "cat": [lambda: continual.cat(2)],
    "checkfree": [lambda: core.chain(STAGES, fault.checkfree(0.3, stages="dense_"))],
    "clr": [lambda: on_convolutions(continual.clr(3))],
    "ctp": [lambda: core.chain(PAIRS, continual.ctp(temperature=0.3, queue=12))],
    "der": [lambda: continual.der(20), lambda: continual.der(20, policy="class_balanced", batch_size=12)],
    "derpp": [lambda: continual.derpp(20), lambda: continual.derpp(20, policy="class_balanced", batch_size=12)],
    "dkvb": [
        lambda: continual.dkvb(codebooks=3, keys=6, key_dim=4, passes=2),
        lambda: continual.dkvb(codebooks=3, keys=6, key_dim=4, unlabeled=jax.numpy.eye(12), passes=2),
    ],
    "dst_cl": [lambda: continual.dst_cl(3, density=0.2, layers="uniform", grow="random", every=3, own=None)],
    "er": [
        lambda: continual.er(20),
        lambda: continual.er(20, policy="class_balanced"),
        lambda: continual.er(20, policy="ring", batch_size=12),
    ],
    "er_ace": [lambda: continual.er_ace(20), lambda: continual.er_ace(20, policy="class_balanced", batch_size=12)],
    "ewc": [
        lambda: continual.ewc(10.0),
        lambda: continual.ewc(10.0, online=True, decay=0.9, fisher="sampled"),
    ],
    # Both experiences after the first are strange enough for an adaptor, and nearly are not.
    "ear": [lambda: continual.ear(max_domains=3, dim=64, space=((8,),), rows=6, threshold=0.36, adapt_first=True)],
    "expert_gate": [lambda: continual.expert_gate(code=3, learning_rate=0.02)],
    "exssnet": [lambda: continual.exssnet(3, density=0.3)],
    "fast_slow": [lambda: continual.fast_slow(0.5, decay=0.9)],
    "feature_distillation": [lambda: continual.feature_distillation(0.5)],
    "fetril": [lambda: continual.fetril(steps=20, batch_size=16)],
    "fscil_tricks": [lambda: core.chain(RGB, continual.fscil_tricks(turns=1, train="^Dense_1"), ROWS)],
    "gacil": [lambda: continual.gacil(32)],
    "gcab": [lambda: continual.gcab(3, tokens=2, heads=2, hidden=6)],
    "gdumb": [
        lambda: continual.gdumb(18, epochs=2),
        lambda: continual.gdumb(20, epochs=1, schedule="constant", momentum=0.0),
    ],
    "gem": [lambda: continual.gem(20), lambda: continual.gem(20, margin=0.0)],
    "gpm": [lambda: continual.gpm(0.9, rows=40), lambda: continual.gpm(0.5, max_rank=10, train="head")],
    "generative_replay": [lambda: continual.generative_replay(latent=3, hidden=(8,), learning_rate=0.1)],
    "hlop": [lambda: continual.hlop(3, lr=0.1), lambda: continual.hlop(2, iterations=2, train="head")],
    # full after the pause of the check, so that both the rows held and their scores matter
    "gss": [lambda: continual.gss(180, compare=4, batch_size=5)],
    "hpcr": [lambda: continual.hpcr(20), lambda: continual.hpcr(20, samples=True, batch_size=12, policy="ring")],
    "hyperinterval": [lambda: continual.hyperinterval(3, beta=1.0, eps=0.2, dim=3, hidden=(4,))],
    "icarl": [lambda: continual.icarl(4, temperature=2.0)],
    "l2_anchor": [lambda: continual.l2_anchor(1.0)],
    "jare": [lambda: peft.jare(3, 2, slots=2, top_k=3, train="^head")],
    "lae": [lambda: peft.lae(peft.lora(2, train="^head"), decay=0.9, freeze_steps=8)],
    "lingocl": [
        lambda: continual.lingocl(ops.simplex_targets(6, 5)),
        lambda: core.chain(continual.lingocl(jax.numpy.eye(6, 16), learn_scale=True, project=False), continual.er(20)),
    ],
    "local_loss": [lambda: continual.local_loss()],
    "lucir": [lambda: continual.lucir(4, eta=4.0)],
    "lwf": [lambda: continual.lwf(0.5)],
    "mamba_fscil": [lambda: continual.mamba_fscil((1, 1), states=1)],
    "mas": [lambda: continual.mas(1.0)],
    "mip_hypernet": [lambda: continual.mip_hypernet(3, beta=1.0, dim=3, hidden=(4, 5))],
    "mir": [
        lambda: continual.mir(20, lr=0.1, candidates=16),
        lambda: continual.mir(20, lr=0.1, candidates=30, batch_size=12, policy="class_balanced"),
    ],
    "mos": [lambda: continual.mos(peft.lora(2, train="^head"), steps=5, samples=4, max_rounds=2)],
    "mora": [lambda: peft.mora(3, 2, budget=3, train="^head")],
    "nmc": [lambda: continual.nmc(), lambda: continual.nmc(metric="cosine", train=True)],
    "osf": [lambda: continual.osf({"head": 0.5, "kernel$": 0.3})],
    "ovor": [lambda: continual.ovor(steps=5, batch_size=8, num=10, k=5, border=4, candidates=6)],
    "packnet": [lambda: continual.packnet(3)],
    "pcr": [lambda: continual.pcr(20), lambda: continual.pcr(20, policy="class_balanced", batch_size=12)],
    "prd": [lambda: continual.prd(), lambda: continual.prd(1.0, augment_fn=lambda rng, x: -x)],
    "recurrent_hypernetwork": [
        lambda: continual.recurrent_hypernetwork(3, beta=1.0, states=1.0, hidden=4, chunk=50, dim=3, grow=2)
    ],
    "refresh": [lambda: continual.refresh(1e-2, noise=0.1, fisher_scale=10.0, decay=0.5)],
    "reinitialize": [lambda: continual.reinitialize()],
    "rwalk": [lambda: continual.rwalk(10.0, period=4)],
    "scr": [
        lambda: continual.scr(20),
        lambda: continual.scr(
            20, temperature=0.5, batch_size=12, policy="class_balanced", augment_fn=lambda rng, x: -x
        ),
    ],
    # Further from the first experience than the second one is, and nearly far enough for a module of its own.
    "sema": [
        lambda: peft.sema("Dense_0", max_modules=2, bottleneck=4, code=3, threshold=4.7, train="^head"),
    ],
    "selfless": [lambda: continual.selfless(0.1)],
    "sharp": [
        lambda: on_layers(continual.sharp("dense_1", size=12, recent=2, share=0.6, period=6, every=3, rows=20)),
    ],
    "si": [lambda: continual.si(1.0)],
    "slca": [
        lambda: continual.slca(0.1, steps=5, samples=4),
        lambda: continual.slca(steps=5, samples=2, covariance="diagonal"),
    ],
    "supsup": [lambda: continual.supsup(3, density=0.3)],
    "task_free_mas": [lambda: continual.task_free_mas(0.5, size=5, window=2, mean=9.0, variance=9.0)],
    "three_way": [lambda: continual.three_way(24, ratios=(2.0, 1.0, 1.0))],
    "uer": [lambda: continual.uer(20), lambda: continual.uer(20, policy="class_balanced", batch_size=12)],
    "wa": [lambda: continual.wa(4)],
    "weight_interpolation": [lambda: continual.weight_interpolation(0.5)],
}

# Chains keep every promise as well.
CHAINS = [
    lambda: core.chain(continual.ewc(1.0), continual.er(20), continual.ewc(1.0, online=True)),
    lambda: core.chain(continual.er(20), continual.derpp(20)),
    lambda: core.chain(continual.er(20), continual.local_loss()),
    lambda: core.chain(continual.er(20, fill="end", policy="experience", weighting="experiences"), continual.lwf()),
]

TRANSFORMS = {
    "cpe_clip": [lambda: lambda _: peft.cpe_clip(2, 1)(TWO_TOWERS)],
    "lora": [lambda: peft.lora(2), lambda: peft.lora(2, form="tree", train="head")],
    "prefix": [lambda: peft.prefix(3), lambda: peft.prefix(2, train="head")],
}

# {factory of ctrain_jax.optim: [a transform of it]}; where update needs extra arguments: [(a transform of it, params ->
# {name: argument})].
OPTIMIZERS = {
    "diffgrad": [lambda: optim.diffgrad(1e-2)],
    "last_iterate": [lambda: optim.last_iterate(optax.adamw(1e-2), [1.0, 2.0])],
    "project_agem": [(lambda: optim.project_agem(), lambda params: {"reference": params})],
    "project_gem": [
        (
            lambda: optim.project_gem(),
            lambda params: {"references": jax.tree.map(lambda p: p[None], params), "active": jax.numpy.array([True])},
        )
    ],
    "project_gpm": [
        (
            lambda: optim.project_gpm(),
            lambda params: {"bases": jax.tree.map(lambda p: jax.numpy.eye(*(p.shape[:1] or (1,)), 1), params)},
        )
    ],
    "record_gradient_norms": [lambda: optim.record_gradient_norms(2), lambda: optim.record_gradient_norms(4, ord=1)],
    "scale_by_session": [lambda: optim.scale_by_session([2, 1], [3, 2])],
    "sam": [(lambda: optim.sam(optax.sgd(0.1, momentum=0.9)), lambda params: {"grad_fn": jax.grad(optax.tree.norm)})],
    "scale_by_diffgrad": [lambda: optim.scale_by_diffgrad(0.8, 0.9, 1e-4, 1e-6)],
}

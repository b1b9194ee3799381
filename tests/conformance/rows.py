"""Constructor arguments for every public factory: one without a row fails."""

from ctrain_jax import continual, core, peft

# {factory: [a method of it]}. More than one row where arguments change what the method keeps or does.
METHODS = {
    "derpp": [lambda: continual.derpp(20), lambda: continual.derpp(20, policy="class_balanced", batch_size=12)],
    "er": [
        lambda: continual.er(20),
        lambda: continual.er(20, policy="class_balanced"),
        lambda: continual.er(20, policy="ring", batch_size=12),
    ],
    "ewc": [
        lambda: continual.ewc(10.0),
        lambda: continual.ewc(10.0, online=True, decay=0.9, fisher="sampled"),
    ],
    "gacil": [lambda: continual.gacil(32)],
    "nmc": [lambda: continual.nmc(), lambda: continual.nmc(metric="cosine", train=True)],
}

# Chains keep every promise as well.
CHAINS = [
    lambda: core.chain(continual.ewc(1.0), continual.er(20), continual.ewc(1.0, online=True)),
    lambda: core.chain(continual.er(20), continual.derpp(20)),
]

TRANSFORMS = {
    "lora": [lambda: peft.lora(2), lambda: peft.lora(2, form="tree", train="head")],
    "prefix": [lambda: peft.prefix(3), lambda: peft.prefix(2, train="head")],
}

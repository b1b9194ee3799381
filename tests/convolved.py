"""A network with convolutions for rows of the standard stream, for methods that need some."""

import flax.linen as nn

from ctrain_jax import core, models


class Net(nn.Module):
    """Rows as images of 4 x 3; a convolution of the library and one of flax, then a head on the mean over pixels."""

    norm: bool = False
    point: bool = False

    @nn.compact
    def __call__(self, inputs, train: bool = False):
        x = models.Conv(3, (3, 3), name="first")(inputs.reshape(-1, 4, 3, 1))
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Conv(4, (1, 1) if self.point else (2, 2), use_bias=False)(nn.tanh(x))
        features = x.mean((1, 2))
        return core.Outputs(nn.Dense(6, name="head")(features), features)


def convolved(**options):
    """The network as a model."""
    return core.from_linen(Net(**options))

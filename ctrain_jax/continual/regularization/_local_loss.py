"""Local loss: new rows are told apart from the classes of their own experience, and from no others.

Zeno et al., "Task Agnostic Continual Learning Using Online Variational Bayes", 2018, arXiv 1803.10123, call it the
labels trick; Smith et al., "A Closer Look at Rehearsal-Free Continual Learning", CVPR Workshops 2023, arXiv 2203.17269,
train all that they compare with it. Written from these descriptions; neither paper nor code was opened. Where we
differ: not known.
"""

import jax.numpy as jnp

from ctrain_jax.core import Method


def local_loss() -> Method:
    r"""Take the loss of incoming rows over the classes of their experience.

    The softmax of a row of experience :math:`t` is over :math:`C_t` alone, so that the logits of other classes get no
    gradient: learning new classes does not push old ones down. What is predicted is not restricted. `er_ace` does this
    with the classes of each batch, and with a memory. Where classes come again, :math:`C_t` is all that came.

    Returns:
      The method. It adds `classes` to the batch: methods that append rows come before it in a chain, and their rows
      keep the classes that they had.

    Example:
      >>> local_loss().name
      'local_loss'
    """

    def augment(s, batch, ctx):
        appended = jnp.arange(batch["row"].shape[0]) >= ctx.spec.batch_size
        return batch | {"classes": (ctx.experience.classes | appended[:, None]) & batch.get("classes", True)}

    return Method("local_loss", augment=augment, needs=("boundaries", "labels"))

"""Local loss: new rows are told apart from the classes of their own experience, and from no others.

Zeno et al., "Task Agnostic Continual Learning Using Online Variational Bayes", 2018, arXiv 1803.10123, call it the
labels trick; the prompts of Smith et al., "CODA-Prompt", CVPR 2023, arXiv 2211.13218, are trained so as well. Opened:
the trainer of igolan/bgd, learners/prompt.py of GT-RIPL/CODA-Prompt; the papers were not. Where we differ: the trick
takes the classes of the mini-batch, we those of the experience, as the prompts do.
"""

from ctrain_jax.continual._classes import told_apart
from ctrain_jax.core import Method


def local_loss() -> Method:
    r"""Take the loss of incoming rows over the classes of their experience.

    The softmax of a row of experience :math:`t` is over :math:`C_t` alone, so that the logits of other classes get no
    gradient: learning new classes does not push old ones down. What is predicted is not restricted. `er_ace` does this
    with the classes of each batch, and with a memory. Where classes come again, :math:`C_t` is all that came.

    Returns:
      The method. It adds `classes` to the batch: methods that append rows come before it in a chain, and their rows
      keep the classes that they had. `wa` and `bic` distil a new row over its `classes` too, and so nothing of it: do
      not chain them. What `refresh` unlearns is told apart from all.

    Raises:
      ValueError: when a learner is made, a stream that does not tell boundaries.

    Example:
      >>> local_loss().name
      'local_loss'
    """

    def augment(s, batch, ctx):
        return told_apart(batch, ctx.experience.classes, ctx)

    return Method("local_loss", augment=augment, needs=("boundaries", "classes"))

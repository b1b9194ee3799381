"""SupSup: a mask over fixed random weights for each task.

Wortsman et al., "Supermasks in Superposition", NeurIPS 2020, arXiv 2006.14769, with the task given in training and in
tests (their scenario GG). The authors' code (RAIVNLab/supsup) was opened. As there, weights have one magnitude a layer,
scores start uniform, and gradients reach all of them as if the mask were their absolute values. Where we differ: a
layer keeps round(density N) of its N weights, where the code rounds up; of an experience that is over the mask is kept
and not its scores; biases and the scales of a normalisation stay as the model draws them, where the authors' layers
have none. Two experiences under Adam, followed by that code in numpy, end in its scores and masks to rounding.
"""

from ctrain_jax.continual.architecture._supermask import check_masks, keep_mask, masked, start_task
from ctrain_jax.continual.architecture._tasks import check_rows, check_tasks
from ctrain_jax.core import Method


def supsup(num_tasks: int, *, density: float = 0.1, weights: str = "signed", match: str = r"kernel$") -> Method:
    r"""Train nothing but which weights of a random network each task sees: nothing is forgotten.

    Of the scores :math:`s` of a kernel, like its weights :math:`w`, the mask keeps the largest, as many in each layer:

    .. math:: m = \mathrm{top}_k(|s|), \qquad \text{kernel} = w \odot m, \qquad
              \frac{\partial L}{\partial |s|} := \frac{\partial L}{\partial m}

    An experience starts with new scores and a new state of the optimizer; when it is over its mask is kept, and later
    experiences change nothing that its answers depend on. Statistics of BatchNorm are kept for each task.

    One mask serves a batch. A row whose task is not that of the batch's first gets answers that are not finite, in
    place of those of a wrong mask; methods that append rows are refused. A task that comes again is learned anew.

    Args:
      num_tasks: masks; tasks are numbered from 0.
      density: share of each kernel's weights that a task sees.
      weights: "signed" makes all weights of a kernel sqrt(2 / fan_in) long and keeps the signs that the model draws
        (fan_in: all axes but the last); "model" keeps the weights, as those of a trained network. A kernel of zeros, as
        that of a new head, is signed at random.
      match: pattern (`re.search`) of the parameters that are masked, by names like `head.kernel`. All others are
        frozen.

    Returns:
      The method. It needs the task of a row in tests as well: `streams.task_incremental`,
      `streams.permuted(..., task_known=True)`. Parameters are the scores; `frozen` holds the weights and the masks.

    Raises:
      ValueError: `num_tasks` below 1, a `density` outside of (0, 1], other `weights`; when a learner is made, a pattern
        that finds nothing or a vector, a kernel of which nothing is left, or more experiences than masks.

    Example:
      >>> supsup(5).needs
      ('task', 'boundaries')
    """
    check_masks(num_tasks, density, weights, match)

    def init(rng, params, ctx):
        check_tasks("supsup", num_tasks, ctx)
        return ()

    def begin(s, ts, ctx):
        return s, start_task(ts, ctx)

    def update(s, ts, ctx):
        check_rows("supsup", ctx)
        return s, ts

    def end(s, ts, ctx):
        return s, keep_mask(ts, ctx.experience.task, density)

    model = masked("supsup", num_tasks, density, weights, match, trained=False)
    return Method("supsup", init=init, begin=begin, update=update, end=end, model=model, needs=("task", "boundaries"))

"""Methods with a mask, or more, for each task on the standard stream: runs, questions, and gradients in numpy."""

import functools

import jax
import numpy as np
import optax

from ctrain_jax import core, testing
from tests.rehearsed import learner_of

STREAM = testing.standard_stream(task_known=True)
LAYERS = ("dense_0.kernel", "head.kernel")  # of rehearsed.MODEL


def masks_of(scores, density):
    """The largest absolute scores of each layer."""
    masks = {}
    for name, leaf in scores.items():
        size = np.abs(np.asarray(leaf, np.float64))
        number = round(density * size.size)
        masks[name] = size >= np.sort(size.reshape(-1))[-number]
        assert masks[name].sum() == number
    return masks


def gradients(kernels, inputs, labels, classes, biases=(0.0, 0.0)):
    """Of the loss with respect to kernels and biases as the network sees them."""
    first, head = (kernels[name] for name in LAYERS)
    hidden = np.maximum(inputs @ first + biases[0], 0)
    odds = np.where(classes, np.exp(hidden @ head + biases[1]), 0)
    error = (odds / odds.sum(1, keepdims=True) - np.eye(6)[labels]) / len(labels)
    below = error @ head.T * (hidden > 0)
    return {
        "dense_0.kernel": inputs.T @ below,
        "dense_0.bias": below.sum(0),
        "head.kernel": hidden.T @ error,
        "head.bias": error.sum(0),
    }


def numbers(named):
    """In float64."""
    return {name: np.asarray(leaf, np.float64) for name, leaf in named.items()}


def asked(task):
    """A question about rows of a task."""
    return {
        "inputs": STREAM.source.train["inputs"][:9],
        "weights": np.ones(9, np.float32),
        "task": np.full(9, task, np.int32),
        "experience": np.full(9, task, np.int32),
        "classes": np.broadcast_to(np.asarray(STREAM.origins.classes)[task], (9, 6)),
    }


class Whole:
    """A stream under AdamW with decay, on a network with BatchNorm.

    `states` are those before the stream and after each experience, `answers[t][task]` the logits after experience t.
    """

    def __init__(self, method, model=None):
        model, tx = model or testing.standard_model(), optax.adamw(1e-2, weight_decay=0.1)
        self.learner = learner_of(method, model=model, optimizer=tx, stream=STREAM)
        self.data = core.to_device(STREAM)
        self._compiled = [jax.jit(getattr(self.learner, name)) for name in ("begin", "chunk", "end", "predict")]
        self.states = [core.start(self.learner)]
        for t in range(3):
            self.states.append(self.experience(self.states[-1], t))

    @functools.cached_property
    def answers(self):
        return [[self.answer(state, asked(task)) for task in range(3)] for state in self.states[1:]]

    def begun(self, state, t, data=None):
        """The state as an experience starts."""
        return self._compiled[0](state, data or self.data, t)

    def experience(self, state, t, data=None):
        """The state after one more."""
        (_, chunk, end, _), data = self._compiled, data or self.data
        return end(chunk(self.begun(state, t, data), data, t, 0, self.learner.spec.steps[t])[0], data, t)

    def begin(self, state, t):
        """The state at the start of an experience."""
        return self._compiled[0](state, self.data, t)

    def chunk(self, state, t, step, number):
        """The state after so many more steps of an experience."""
        return self._compiled[1](state, self.data, t, step, number)[0]

    def loss(self, state, t, step):
        """That of the next step."""
        return float(self._compiled[1](state, self.data, t, step, 1)[1]["loss"])

    def answer(self, state, batch):
        """Logits."""
        return np.asarray(self._compiled[3](state, self.data, 2, batch).logits)

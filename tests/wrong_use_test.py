"""What a user reads who holds the library wrong: one sentence that says what was expected, what came and what to do.

The binaries' sentences are in `experiments/cli_test.py`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrain_jax import continual, core, metrics, models, optim, peft, streams

X, Y = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32), np.arange(24) % 4


class Bare(nn.Module):
    """No features, and no layer of a known name."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(x)


class Dict(nn.Module):
    @nn.compact
    def __call__(self, x):
        return {"logits": nn.Dense(4)(x)}


def arrays(x=X, y=Y, tx=X, ty=Y, **options):
    return streams.arrays(x, y, tx, ty, **options)


def split(num=2, source=None, **options):
    return streams.class_incremental(arrays() if source is None else source, num, **options)


def make(method=None, model=None, stream=None, optimizer=None, **options):
    model = core.from_linen(models.MLP(4, hidden=(5,))) if model is None else model
    options = {"batch_size": 4, **options}
    return core.make_learner(
        model, method or core.identity(), optimizer or optax.sgd(0.1), stream or split(), **options
    )


def start(*args, **options):
    return core.start(make(*args, **options))


def run(method=None, **options):
    return core.run_stream(make(method, **options))


def drifting():
    """Regression."""
    return streams.permuted(arrays(y=Y.astype(np.float32), ty=Y.astype(np.float32)), 2)


def module(net):
    return core.from_linen(net)


def spoiled():
    x = X.copy()
    x[2, 1] = np.nan
    return x


MATRIX = core.Model(
    lambda rng, x: core.Variables({"w": jnp.zeros((3, 4))}), lambda v, x, **o: (core.Outputs(x @ v.params["w"]), ())
)
MEAN_LOSS = core.Problem(lambda outputs, batch: outputs.logits.mean(), core.classification().metrics)
NOT_OPTAX = "make_learner expects an optax transform, got "

# {what is wrong: (the call, the error, its sentence or the sentence's beginning)}
WRONG = {
    # Data.
    "NaN": (lambda: arrays(spoiled()), ValueError, "arrays: train_inputs must be finite in float32, got NaN or infinite values in 1 of 24 rows; clean them."),
    "infinite": (lambda: arrays(tx=X * np.inf), ValueError, "arrays: test_inputs must be finite in float32, got NaN or infinite values in 24 of 24 rows; clean them."),
    "rows without a label": (lambda: arrays(y=Y[:-1]), ValueError, "arrays: train_inputs and train_labels must have one row for each other, got 24 and 23 rows; drop the rows that have no partner."),
    "test rows of another shape": (lambda: arrays(tx=X[:, :2]), ValueError, "arrays: train_inputs and test_inputs must agree in dtype and in shape after the first axis, got float32 (24, 3) and float32 (24, 2); convert one of them."),
    "test rows of another dtype": (lambda: arrays(tx=X.astype(int)), ValueError, "arrays: train_inputs and test_inputs must agree in dtype and in shape after the first axis, got float32 (24, 3) and int32 (24, 3); convert one of them."),
    "words": (lambda: arrays(np.full((24, 3), "a")), TypeError, "arrays: train_inputs must be uint8 or int32 or float32, got dtype <U1; convert it first."),
    "labels below 0": (lambda: arrays(y=Y - 1), ValueError, "arrays: labels must lie in [0, num_classes) = [0, 4), got values from -1 to 3; renumber the classes from 0 or raise num_classes."),
    "more labels than classes": (lambda: arrays(num_classes=3), ValueError, "arrays: labels must lie in [0, num_classes) = [0, 3), got values from 0 to 3; renumber the classes from 0 or raise num_classes."),
    "no rows": (lambda: arrays(X[:0], Y[:0]), ValueError, "arrays: train_inputs must hold at least one row, got shape (0, 3); pass [N, ...]."),
    "one-hot labels": (lambda: arrays(y=np.eye(4, dtype=int)[Y], ty=np.eye(4, dtype=int)[Y]), ValueError, "arrays: integer labels must have shape [N], got (24, 4); pass class numbers."),
    "std of 0": (lambda: arrays(std=0.0), ValueError, "arrays: std must be finite and positive and broadcast against an input of shape (3,), got 0.0; pass one number, or one for each channel."),
    "mean of another shape": (lambda: arrays(mean=[1, 2]), ValueError, "arrays: mean must be finite and broadcast against an input of shape (3,), got [1.0, 2.0]; pass one number, or one for each channel."),
    # Streams.
    "arrays for a source": (lambda: split(source=(X, Y)), TypeError, "class_incremental: source must be a Source, got tuple; make one with streams.arrays."),
    "arrays for a source that is permuted": (lambda: streams.permuted((X, Y), 2), TypeError, "permuted: source must be a Source, got tuple; make one with streams.arrays."),
    "targets for classes": (lambda: split(source=arrays(y=Y * 1.0, ty=Y * 1.0)), ValueError, "class_incremental: the source must have integer labels, got float32; a regression can be permuted."),
    "more experiences than classes": (lambda: split(5), ValueError, "class_incremental: num_experiences must lie between 1 and the number of classes, 4, got 5; an experience needs a class of its own."),
    "no experience": (lambda: streams.permuted(arrays(), 0), ValueError, "permuted: num_experiences must be at least 1, got 0; ask for one or more."),
    "a fraction of an experience": (lambda: split(2.0), TypeError, "class_incremental: num_experiences must be a whole number, got 2.0."),
    "an experience without rows": (lambda: split(6, source=arrays(num_classes=6)), ValueError, "streams: every experience needs a row, but 'train' of experience 4 has none; give its classes more rows, change valid_fraction, or ask for fewer experiences."),
    "a class twice": (lambda: split(class_order=[0, 0, 1, 2]), ValueError, "class_incremental: class_order must be a permutation of 0..3, got [0, 0, 1, 2]; name every class once."),
    "nothing left to train on": (lambda: split(valid_fraction=1.0), ValueError, "class_incremental: valid_fraction must lie in [0, 1), got 1.0; 0.1 is usual."),
    "heads of tasks": (lambda: split(heads="task"), ValueError, "class_incremental: heads must be 'all' or 'seen', got 'task'; for a head a task use task_incremental."),
    "domains of unequal width": (lambda: streams.domain_incremental(arrays(), 3), ValueError, "domain_incremental: every experience needs equally many classes, got 4 classes for 3 experiences; choose a number that divides them."),
    "vectors that are rotated": (lambda: streams.rotated(arrays(), 2), ValueError, "rotated: inputs must be images [H, W] or [H, W, c], got shape (3,); reshape them or use permuted."),
    # Learners.
    "a module for a model": (lambda: make(model=models.MLP(4)), TypeError, "make_learner expects a Model, got MLP: wrap a flax module with core.from_linen or core.from_nnx."),
    "a source for a stream": (lambda: make(stream=arrays()), TypeError, "make_learner expects a Stream, got Source: build one with streams.class_incremental(source, num_experiences)."),
    "a factory that was not called": (lambda: make(continual.er), TypeError, "chain expects Methods, got <function er"),
    "an optimizer in the chain": (lambda: core.chain(optax.sgd(0.1)), TypeError, "chain expects Methods, got GradientTransformation"),
    "a method for an optimizer": (lambda: make(optimizer=continual.er(5)), TypeError, f"{NOT_OPTAX}er: give optax.adam(1e-3) or another."),
    "an optimizer that was not called": (lambda: make(optimizer=optax.sgd), TypeError, f"{NOT_OPTAX}sgd: give optax.adam(1e-3) or another."),
    "no batch": (lambda: make(batch_size=0), ValueError, "batch_size expects a whole number of at least 1, got 0."),
    "half a row": (lambda: make(batch_size=1.5), ValueError, "batch_size expects a whole number of at least 1, got 1.5."),
    "no epoch": (lambda: make(epochs=0), ValueError, "epochs expects a whole number of at least 1, got 0."),
    "steps backwards": (lambda: make(steps=-1), ValueError, "steps expects a whole number of at least 1, got -1."),
    "devices without an axis for data": (lambda: make(mesh=jax.sharding.Mesh(np.array(jax.devices()[:1]), ("rows",))), ValueError, "The mesh expects an axis named 'data', got ('rows',)."),
    "a head of another width": (lambda: make(model=module(models.MLP(3))), ValueError, "The model answers 3 classes and the stream has 4: give the model num_classes=4."),
    "a model that answers a dict": (lambda: make(model=module(Dict())), TypeError, "A model returns logits, (logits, features) or core.Outputs, got dict: change its __call__."),
    "vectors for a model of images": (lambda: make(model=module(models.CNN(4))), ValueError, "An image model expects inputs [B, H, W, C] or [B, H, W], got shape (4, 3): reshape the inputs, or use MLP."),
    "an initializer that nobody knows": (lambda: make(model=module(models.MLP(4, initializer="he"))), ValueError, "initializer must be one of 'lecun', 'torch', got 'he': choose one of them."),
    "a layer without units": (lambda: make(model=module(models.MLP(4, hidden=(0,)))), ValueError, "Each width in hidden expects a whole number of at least 1, got 0."),
    # What a method needs.
    "no features": (lambda: make(continual.nmc(), model=module(Bare())), ValueError, "nmc needs features, which the model does not return: return core.Outputs(logits, features) from its __call__."),
    "no task": (lambda: make(core.Method("expert", needs=("task",))), ValueError, "expert needs the task of a row when predicting, which arrays_class_incremental does not give: use streams.task_incremental."),
    "no boundaries": (lambda: make(continual.si(1.0), stream=split()._replace(boundaries=False)), ValueError, "si needs to know where experiences begin and end, which arrays_class_incremental hides: use a method that learns from step to step alone."),
    "no labels": (lambda: make(continual.er(8), stream=split()._replace(labels=False)), ValueError, "er needs labels, which arrays_class_incremental hides: use a method that learns without."),
    "no labels in the loss": (lambda: run(stream=split()._replace(labels=False)), ValueError, "The stream hides labels, which the usual loss needs: give make_learner a problem"),
    "a need that nobody knows": (lambda: make(core.Method("oracle", needs=("future",))), ValueError, "oracle needs future: choose from task, boundaries, labels, classes, features."),
    "numbers for classes": (lambda: make(continual.nmc(), model=module(models.MLP(1)), stream=drifting()), ValueError, "nmc needs classes, got labels float32[24] and logits [4, 1]: give a stream whose labels are whole numbers [N], and a model that answers logits [B, C]."),
    "classes that are hidden": (lambda: make(continual.nmc(), stream=split()._replace(labels=False)), ValueError, "nmc needs labels, which arrays_class_incremental hides: use a method that learns without."),
    "a number for each of four": (lambda: run(stream=drifting()), ValueError, "Regression expects a number of the model for each number of a label, got logits [4, 4] and labels [4]"),
    "a pattern that is none": (lambda: continual.gpm(train="("), ValueError, "train expects a regular expression, got '(': missing ), unterminated subpattern at position 0."),
    "a leaf for a pattern": (lambda: peft.lora(2, match=3), ValueError, "match expects a regular expression, got 3: give a string."),
    "no head": (lambda: start(continual.lucir(2), model=module(nn.Sequential([nn.Dense(4)]))), ValueError, "lucir expects the last layer as params['head'] with a kernel [D, C], got layers_0: name it 'head'."),
    "no kernel": (lambda: start(continual.gpm(), model=MATRIX), ValueError, "gpm protects kernels of Dense and two-dimensional Conv layers of linen models, outside of nn.remat and nn.scan, got no kernel: use a model of such layers, or name other kernels in train."),
    "no attention": (lambda: peft.prefix(2)(module(Bare())).init(jax.random.key(0), X), ValueError, "prefix reaches flax.linen.MultiHeadDotProductAttention, and the model calls none: use a transformer such as models.ViT."),
    "a slot for some classes": (lambda: start(continual.gdumb(3, epochs=1)), ValueError, "greedy_balanced needs a slot for each class, got capacity=3 for num_classes=4: give a capacity of at least 4."),
    "less candidates than rows": (lambda: start(continual.mir(8, lr=0.1, candidates=2)), ValueError, "mir expects at least as many candidates as rows to replay, got candidates=2 for 4 rows: give more candidates, or a smaller batch_size."),
    # Arguments of methods and transforms.
    "an empty buffer": (lambda: continual.er(0), ValueError, "size expects a whole number of at least 1, got 0."),
    "True for a size": (lambda: continual.er(True), ValueError, "size expects a whole number of at least 1, got True."),
    "a policy that nobody knows": (lambda: continual.er(5, policy="fifo"), ValueError, "policy must be one of 'reservoir', 'class_balanced', 'greedy_balanced', 'ring', 'experience', got 'fifo': choose one of them."),
    "a negative strength": (lambda: continual.ewc(-1), ValueError, "lam must be 0 or above, got -1: give 0 or a larger number."),
    "a strength that is no number": (lambda: continual.ewc(float("nan")), ValueError, "lam must be 0 or above, got nan: give 0 or a larger number."),
    "a strength in quotes": (lambda: continual.ewc("1"), ValueError, "lam must be 0 or above, got '1': give 0 or a larger number."),
    "a temperature of 0": (lambda: continual.lwf(temperature=0), ValueError, "temperature must be above 0, got 0: give a larger number."),
    "more than all energy": (lambda: continual.gpm(2.0), ValueError, "threshold must be between 0 and 1, got 2.0: give a fraction."),
    "all rows held out": (lambda: continual.bic(5, held_out=5), ValueError, "held_out must be below size, got 5 of 5: keep at least one row to train on."),
    "no parameter of that name": (lambda: peft.lora(2, train="nothing")(module(models.MLP(4, hidden=(5,)))).init(jax.random.key(0), X), ValueError, "The pattern 'nothing' matches no parameter: choose from dense_0.bias, dense_0.kernel, head.bias, head.kernel."),
    "no loss for SAM": (lambda: optim.sam(optax.sgd(0.1)).update(X, optim.sam(optax.sgd(0.1)).init(X), X), ValueError, "sam expects grad_fn among the extra arguments, got none: call update(grads, state, params, grad_fn=jax.grad(loss)), with the loss of this step as a function of params."),
    "nothing to project from": (lambda: optim.project_gem().update(X, optax.EmptyState()), ValueError, "project_gem expects references= among the extra arguments, got none: pass the gradients [K, ...] that the updates must not go against, and which count, bool [K]."),
    # Methods of one's own.
    "a state that grows": (lambda: run(core.Method("grow", init=lambda r, p, c: jnp.zeros(2), update=lambda s, ts, c: (jnp.zeros(3), ts))), TypeError, "grow.update changed its state: expected float32[2], got float32[3]; keep shapes and dtypes fixed."),
    "a state of another structure": (lambda: run(core.Method("grow", init=lambda r, p, c: {"a": jnp.zeros(2)}, update=lambda s, ts, c: ({}, ts))), TypeError, "grow.update changed the structure of its state: expected PyTreeDef({'a': *}), got PyTreeDef({}); keep it fixed."),
    "a field of another hook": (lambda: start(core.Method("peek", init=lambda r, p, c: c.grads)), AttributeError, "ctx.grads exists in optimizer and update, not in init."),
    "a state alone": (lambda: run(core.Method("half", update=lambda s, ts, c: ts.params)), TypeError, "half.update returns (s, ts), got dict: return both, as a tuple."),
    "a penalty of many numbers": (lambda: run(core.Method("vector", loss=lambda s, p, c: (jnp.ones(3), {}))), ValueError, "vector.loss returns a scalar, got shape (3,): take its mean."),
    "a loss that is averaged already": (lambda: run(problem=MEAN_LOSS), ValueError, "problem.loss returns a value for each row, expected shape (4,), got (): leave the mean to the step."),
    # Runs and numbers.
    "several seeds in plain Python": (lambda: core.run_stream(make(), seed=[0, 1], jit=False), ValueError, "jit=False runs one seed, got a sequence: pass one seed."),
    "variables of another model": (lambda: core.start(make(), variables=core.Variables({"w": jnp.zeros(2)})), ValueError, "The given variables.params do not fit the learner's model: expected shapes {'dense_0':"),
    "a split that is not there": (lambda: core.evaluate(make(), core.start(make()), core.to_device(split()), 0, split="valid"), ValueError, "The stream has no 'valid' split, only ['test', 'train']: build it with valid_fraction."),
    "forgetting of a joint run": (lambda: metrics.forgetting(np.zeros((1, 3, 2))), ValueError, "forgetting compares experiences over time and needs a square accuracy matrix of at least 2 experiences, got T=3 rows and E=2 columns: use final_accuracy for a joint run."),
    "an interval of nothing": (lambda: metrics.mean_interval(np.zeros((0,))), ValueError, "mean_interval needs at least one value along axis 0, got an array of shape (0,): give one value for each seed."),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_use_is_one_sentence(name):
    call, error, sentence = WRONG[name]
    with pytest.raises(error) as caught:
        call()
    said = str(caught.value)
    assert said.startswith(sentence) and (said == sentence or sentence[-1] != "."), said
    assert "\n" not in said


FILES = {  # {what lies there: (how it was made, the sentence)}
    "no file": (lambda path: None, FileNotFoundError, "is no file: give the path of one that was written"),
    "foreign": (lambda path: path.write_bytes(b"PNG"), ValueError, "is damaged or no safetensors file"),
    "truncated": (
        lambda path: (core.save_tensors(path, core.start(make())), path.write_bytes(path.read_bytes()[:-8])),
        ValueError,
        "is damaged or no safetensors file",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_file_is_one_sentence(name, tmp_path):
    write, error, sentence = FILES[name]
    write(tmp_path / "tensors")
    with pytest.raises(error, match=sentence):
        core.load_tensors(tmp_path / "tensors")

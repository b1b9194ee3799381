"""The algebra: a learner lives through a stream, as pure functions over one pytree of state."""

from ctrain_jax.core._base import (
    Batch,
    Data,
    Experience,
    Model,
    ModelTransform,
    Origins,
    Outputs,
    Problem,
    PyTree,
    Source,
    Spec,
    Stream,
    TrainState,
    Variables,
)
from ctrain_jax.core._checkpoint import Checkpoints, Restored, open_checkpoints
from ctrain_jax.core._context import Context, tag
from ctrain_jax.core._data import to_device
from ctrain_jax.core._deploy import export_program, load_program, load_tensors, predictor, save_tensors
from ctrain_jax.core._health import Breakdown, broken, locate
from ctrain_jax.core._learner import Learner, make_learner
from ctrain_jax.core._leaves import DamagedCheckpoint
from ctrain_jax.core._mesh import data_mesh, replicate
from ctrain_jax.core._method import Method, after, before, chain, identity
from ctrain_jax.core._model import from_linen, from_nnx
from ctrain_jax.core._problem import classification, mask_logits, next_token, regression, weighted_mean
from ctrain_jax.core._run import (
    Event,
    Result,
    evaluate,
    iterate,
    mapped,
    position,
    run_experience,
    run_fused,
    run_stream,
    start,
)
from ctrain_jax.core._sweep import Sweep, sweep
from ctrain_jax.core._trace import Trace, trace_stream

__all__ = [
    "Batch",
    "Breakdown",
    "Checkpoints",
    "Context",
    "DamagedCheckpoint",
    "Data",
    "Event",
    "Experience",
    "Learner",
    "Method",
    "Model",
    "ModelTransform",
    "Origins",
    "Outputs",
    "Problem",
    "PyTree",
    "Restored",
    "Result",
    "Source",
    "Spec",
    "Stream",
    "Sweep",
    "Trace",
    "TrainState",
    "Variables",
    "after",
    "before",
    "broken",
    "chain",
    "classification",
    "data_mesh",
    "evaluate",
    "export_program",
    "from_linen",
    "from_nnx",
    "identity",
    "iterate",
    "load_program",
    "load_tensors",
    "locate",
    "make_learner",
    "mapped",
    "mask_logits",
    "next_token",
    "open_checkpoints",
    "position",
    "predictor",
    "regression",
    "replicate",
    "run_experience",
    "run_fused",
    "run_stream",
    "save_tensors",
    "start",
    "sweep",
    "tag",
    "to_device",
    "trace_stream",
    "weighted_mean",
]

"""Parameter-efficient fine-tuning: transforms of a trained model, and what is learned with them through a stream."""

from ctrain_jax.peft._cpe_clip import cpe_clip
from ctrain_jax.peft._jare import jare
from ctrain_jax.peft._lae import lae
from ctrain_jax.peft._lora import lora
from ctrain_jax.peft._mora import mora
from ctrain_jax.peft._prefix import prefix
from ctrain_jax.peft._sema import sema

__all__ = ["cpe_clip", "jare", "lae", "lora", "mora", "prefix", "sema"]

"""Parameter-efficient fine-tuning: transforms of a trained model."""

from ctrain_jax.peft._lora import lora
from ctrain_jax.peft._prefix import prefix

__all__ = ["lora", "prefix"]

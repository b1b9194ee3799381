"""Networks: flax.linen modules whose call is `(inputs, train=False) -> Outputs(logits, features)`."""

from ctrain_jax.models._clip import Clip
from ctrain_jax.models._cnn import CNN
from ctrain_jax.models._conv import Conv
from ctrain_jax.models._gpt import GPT
from ctrain_jax.models._load_vit import load_vit
from ctrain_jax.models._mlp import MLP
from ctrain_jax.models._resnet import ResNet18
from ctrain_jax.models._two_tower import TwoTower
from ctrain_jax.models._vit import ViT

__all__ = ["CNN", "GPT", "MLP", "Clip", "Conv", "ResNet18", "TwoTower", "ViT", "load_vit"]

"""Training as the papers do it: data, augmentation, recipes, a loop with checkpoints that resume, records and figures.

Needs nothing beyond torch and numpy, except matplotlib for figures and scikit-learn for its digits.
"""

from __future__ import annotations

from resnet_cuda.training.batches import Augmentation, ImagesInMemory, Source
from resnet_cuda.training.checkpoint import load_checkpoint, save_checkpoint
from resnet_cuda.training.cifar import load_cifar, make_cifar_like
from resnet_cuda.training.data import ImageData, Normalisation
from resnet_cuda.training.digits import load_digits
from resnet_cuda.training.recipe import Recipe, cifar_recipe
from resnet_cuda.training.trainer import DivergedError, Trainer

__all__ = [
    "Augmentation",
    "DivergedError",
    "ImageData",
    "ImagesInMemory",
    "Normalisation",
    "Recipe",
    "Source",
    "Trainer",
    "cifar_recipe",
    "load_checkpoint",
    "load_cifar",
    "load_digits",
    "make_cifar_like",
    "save_checkpoint",
]

"""Measure which way of adapting a pre-trained language model is worth its cost on your task."""

import importlib
from typing import TYPE_CHECKING, Any

from tunewise.config import Budget, DataConfig, Task

if TYPE_CHECKING:
    from tunewise.classifier import Classifier
    from tunewise.door import FinishedRun, fit, load, open_run

__version__ = "0.1.0"
__all__ = ["Budget", "Classifier", "DataConfig", "FinishedRun", "Task", "fit", "load", "open_run"]

_LAZY = {
    "Classifier": "tunewise.classifier",
    "FinishedRun": "tunewise.door",
    "fit": "tunewise.door",
    "load": "tunewise.door",
    "open_run": "tunewise.door",
}


def __getattr__(name: str) -> Any:
    # torch takes over a second to import, and `tunewise --help` needs none of it
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'tunewise' has no attribute {name!r}")

"""The ladder: every way of adapting a base, from the cheapest to the dearest."""

from tunewise.methods.base import Method
from tunewise.registry import Registry

LADDER: Registry[Method] = Registry(
    "methods",
    {
        "majority": "tunewise.methods.majority:Majority",
        "zero_shot": "tunewise.methods.zero_shot:ZeroShot",
        "retrieval": "tunewise.methods.retrieval:Retrieval",
        "linear_probe": "tunewise.methods.linear_probe:LinearProbe",
        "lora": "tunewise.methods.lora:Lora",
        "full": "tunewise.methods.full:Full",
    },
)

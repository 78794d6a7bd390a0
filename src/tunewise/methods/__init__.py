"""The ladder: every way of adapting a base, from the cheapest to the dearest."""

from tunewise.methods.base import Method
from tunewise.registry import Registry

LADDER: Registry[type[Method]] = Registry(
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


def get_method(name: str) -> Method:
    """The rung called `name`.

    Raises:
        ConfigError: there is none; the message offers the closest one.
    """
    return LADDER.get(name)()

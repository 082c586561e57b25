"""What has to be known around an exported graph: it travels with the file."""

from __future__ import annotations

import json

from leukaemia_zoo._version import __version__
from leukaemia_zoo.common.text import NOT_A_DIAGNOSIS
from leukaemia_zoo.engine.network import Network
from leukaemia_zoo.zoo.sources import Found

_CONTRACT = (
    "images: float32 (cells, height, width, 3), RGB, 0 to 255, as the preprocessing gives them; "
    "probabilities: float32 (cells, classes) in the order of the classes, averaged over the views, calibrated"
)


def metadata(network: Network, found: Found, views: int) -> dict[str, str]:
    """What has to be known around the graph, as text."""
    config, spec = network.zoo, found.spec
    limits = None if config.verdict_limits is None else config.verdict_limits.to_dict()
    return {
        "classes": json.dumps(list(config.class_names)),
        "preprocessing": json.dumps(config.preprocessing.to_dict()),
        "contract": _CONTRACT,
        "views": str(views),
        "temperature": str(config.temperature),
        "ood_limit": json.dumps(config.ood_limit),
        "verdict_limits": json.dumps(limits),
        "weight": spec.name,
        "weight_sha256": spec.sha256,
        "licence": spec.licence,
        "citation": spec.citation,
        "intended_use": spec.intended_use,
        "note": NOT_A_DIAGNOSIS,
        "made_by": f"leukaemia-zoo {__version__}",
    }

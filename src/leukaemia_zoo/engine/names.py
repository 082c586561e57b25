"""Names that graphs, engine and export share."""

IMAGES = "images"
"""The input: float32 (cells, height, width, 3), RGB, 0 to 255, as `Preprocessing` gives it."""

EMBEDDINGS = "embeddings"
"""What the classifier sees: float32 (cells, features)."""

PROBABILITIES = "probabilities"
"""One a class, float32 (cells, classes)."""

SCORES = "ood_score"
"""How little a cell looks like those of the training, float32 (cells,); see `ood_scores`."""

ATTENTION = "attention"
"""Where the last `AttentionBlock` looks in a cell as it is given, unturned: float32 (cells, height, width), 0 to 1."""

OPSET = 17
"""Version of the ONNX operators that graphs are written in: engines from 2022 on read it."""

UNBOUND = "bound by name from the weight file"
"""Where a graph says that its weights lie: nowhere, so that an engine refuses to run with one that was not bound."""

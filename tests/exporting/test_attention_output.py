"""The attention map as an output of an exported network."""

import numpy as np

from leukaemia_zoo.exporting.writing import export


def test_the_attention_of_an_export_is_that_of_keras(tmp_path, draw_cell):
    import onnxruntime

    from leukaemia_zoo import load_model
    from leukaemia_zoo.prediction import attention_maps

    model = load_model("cnn_attention")
    batch = model.zoo.preprocessing.batch([draw_cell(seed, radius=0.2 + seed / 30) for seed in range(3)])
    batch[:, :30, :60] = 160  # not symmetric: of a turned view the map would be another one
    expected = attention_maps(model, batch)
    for views in (None, 1):
        exported = export("cnn_attention", tmp_path / "cells.onnx", views=views)
        session = onnxruntime.InferenceSession(str(exported.file), providers=["CPUExecutionProvider"])
        (found,) = session.run(["attention"], {"images": batch.astype(np.float32)})
        np.testing.assert_allclose(found, expected, atol=1e-5)
    exported = export("cnn", tmp_path / "plain.onnx", views=1)
    session = onnxruntime.InferenceSession(str(exported.file), providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["probabilities", "embeddings", "ood_score"]

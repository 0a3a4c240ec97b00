"""Train the digits models and export them with the cases that judge them.

Runs in an environment of its own (``requirements-train.txt``)::

    python train.py OUTPUT

``OUTPUT`` receives, for every version, a model folder with ``model.onnx`` and ``config.json``
(what :mod:`serve` reads), and beside them

* ``golden.json``: 300 held-out cases in the form that a golden-set gate takes,
* ``smoke.json``: a few of them that both good versions answer surely,
* ``figures.json``: accuracy of every version on the golden cases, a share from 0 to 1.

Two runs on one machine write the same bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

PIXELS = 64  # 8 x 8 grey values from 0 to 16
DIGITS = 10
GOLDEN_CASES = 300
SMOKE_CASES = 8
SURE = 0.9  # least probability, so that another CPU's rounding cannot turn a smoke case

# Fixed, and no matter how new the exporter is: the server's runtime must know both.
OPSET = {"": 15, "ai.onnx.ml": 3}
IR_VERSION = 9


def main(output: Path) -> None:
    """Train, export and judge every version; see the module's text."""
    pixels, digits = load_digits(return_X_y=True)
    train_x, golden_x, train_y, golden_y = train_test_split(
        pixels.astype(np.float32), digits, test_size=GOLDEN_CASES, random_state=0, stratify=digits
    )
    linear = logistic_regression().fit(train_x, train_y)
    perceptron = multilayer_perceptron().fit(train_x, train_y)
    mislabelled = multilayer_perceptron().fit(train_x, permuted(train_y))

    write_model(output / "1.0", "1.0", linear, width=PIXELS)
    write_model(output / "1.1", "1.1", perceptron, width=PIXELS)
    # The good model again, but its configuration is the one of a 16 x 16 sensor.
    write_model(output / "1.2", "1.2", perceptron, width=4 * PIXELS)
    # The labels lost their order on the way to training; nothing else is wrong with it.
    write_model(output / "1.3", "1.3", mislabelled, width=PIXELS)

    judge(output, golden_x, golden_y)


def logistic_regression() -> Pipeline:
    """Version 1.0: small and good enough."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))


def multilayer_perceptron() -> Pipeline:
    """Version 1.1: better."""
    return make_pipeline(StandardScaler(), MLPClassifier((64,), max_iter=400, random_state=0))


def permuted(labels: np.ndarray) -> np.ndarray:
    """Every label under another digit's name, consistently: learnt with confidence, all wrong."""
    order = np.roll(np.arange(DIGITS), 3)
    return order[labels]


def write_model(folder: Path, version: str, pipeline: Pipeline, *, width: int) -> None:
    """Write one model folder.

    :param width: values per image that the configuration promises to clients.
    """
    folder.mkdir(parents=True)
    exported: ModelProto = to_onnx(
        pipeline,
        initial_types=[("image", FloatTensorType([None, PIXELS]))],
        final_types=[
            ("label", Int64TensorType([None])),
            ("probabilities", FloatTensorType([None, DIGITS])),
        ],
        options={"zipmap": False},
        target_opset=OPSET,
        name="digits",
    )
    exported.ir_version = IR_VERSION
    # The exporter lists these in the order of a set, another one in every process.
    opsets = sorted(exported.opset_import, key=lambda opset: opset.domain)
    del exported.opset_import[:]
    exported.opset_import.extend(opsets)
    (folder / "model.onnx").write_bytes(exported.SerializeToString(deterministic=True))
    write_json(
        folder / "config.json",
        {
            "name": "digits",
            "version": version,
            "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, width]}],
            "outputs": [
                {"name": "label", "datatype": "INT64", "shape": [-1]},
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, DIGITS]},
            ],
        },
    )


def judge(output: Path, images: np.ndarray, digits: np.ndarray) -> None:
    """Run the exported files, not what they came from, over the golden set; write the cases."""
    labels, sureness = {}, {}
    for folder in sorted(output.iterdir()):
        graph = ReferenceEvaluator(str(folder / "model.onnx"))
        labels[folder.name], probabilities = graph.run(None, {"image": images})
        sureness[folder.name] = probabilities.max(axis=1)
    accuracy = {version: float((found == digits).mean()) for version, found in labels.items()}

    fit = np.ones(len(digits), dtype=bool)
    for good in ("1.0", "1.1"):
        fit &= (labels[good] == digits) & (sureness[good] >= SURE)
    fit &= labels["1.3"] != digits
    # One case for each of the first digits, so that no single habit of a model passes.
    smoke = [int(np.flatnonzero(fit & (digits == digit))[0]) for digit in range(SMOKE_CASES)]

    if not accuracy["1.3"] < 0.5 < accuracy["1.0"] < accuracy["1.1"]:
        raise SystemExit(f"the versions are not what their story needs: accuracy {accuracy}")
    write_json(output / "golden.json", [case(i, d) for i, d in zip(images, digits, strict=True)])
    write_json(output / "smoke.json", [case(images[index], digits[index]) for index in smoke])
    write_json(output / "figures.json", {"cases": len(digits), "accuracy": accuracy})


def case(image: np.ndarray, digit: np.integer) -> dict[str, Any]:
    """One case: a request's inputs and the outputs that the answer must have."""
    return {
        "inputs": [
            {
                "name": "image",
                "datatype": "FP32",
                "shape": [1, PIXELS],
                "data": [int(value) for value in image],
            }
        ],
        "outputs": [{"name": "label", "data": [int(digit)]}],
    }


def write_json(path: Path, document: object) -> None:
    """Write compact JSON with a last newline."""
    path.write_text(json.dumps(document, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))

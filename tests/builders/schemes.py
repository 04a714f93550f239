"""The schemes of the targets that come with edgekd, as the tests of small models need them."""

from edgekd.target import Quantization, load_target


def scheme_of(target: str) -> Quantization:
    found = load_target(target).quantization
    assert found is not None
    return found


JETSON = scheme_of("jetson")
TENSORRT = JETSON.model_copy(update={"min_channels": 1})  # for models of a few channels
UINT8 = ONNXRUNTIME = scheme_of("x86-cpu")
INT8 = UINT8.model_copy(update={"activation": "int8", "pad_channels_to": 1})
QNN = scheme_of("android-arm64")

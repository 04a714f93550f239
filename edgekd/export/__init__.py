"""Export: a torch model as an ONNX file for the target, checked against the model."""

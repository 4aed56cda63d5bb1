"""TensorRT: plans built from the ONNX file, and the runner that serves them. Only this package imports GPU packages."""

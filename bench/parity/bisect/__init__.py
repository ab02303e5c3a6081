"""Where a broken candidate goes wrong: the first layer, and in an ONNX file the first value, out of tolerance."""

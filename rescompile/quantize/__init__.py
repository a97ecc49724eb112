"""int8: calibration data, and the static quantisation of ONNX files."""

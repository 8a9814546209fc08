# SPDX-License-Identifier: Apache-2.0
"""TensorRT engines of the decoder and the codec: export to ONNX, checks of what was exported, and ahead-of-time builds."""

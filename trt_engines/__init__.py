# SPDX-License-Identifier: Apache-2.0
"""TensorRT engines of the decoder and the codec: which there are and where they lie, export to ONNX, checks, and builds.

Built engines belong to one kind of GPU, driver and TensorRT, and lie in the user's data folder, never in this package.
"""

"""The two towers: tensors in, tensors out; training, calibration, checkpoints. No Kafka, HTTP or FAISS."""

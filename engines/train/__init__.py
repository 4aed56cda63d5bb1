"""From a labelled set of rows to a model folder. Needs the `train` extra (PyTorch); serving does not."""

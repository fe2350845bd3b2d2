"""What a low precision would do to a model, measured before a run or a GPU is paid for."""

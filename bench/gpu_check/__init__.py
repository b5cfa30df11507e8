"""Every check that needs a GPU, in one run: `python -m bench gpu_check`."""

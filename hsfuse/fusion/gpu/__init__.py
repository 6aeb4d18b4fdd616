"""Triton kernels for what a card does outside networks: groups of similar patches, and the gate's look at experts.

On a CPU they run under Triton's interpreter alone (``TRITON_INTERPRET=1``), which is how the tests compare them with
plain PyTorch. Callers ask :mod:`hsfuse.fusion.gpu.choice`, which imports Triton where there is one, and take their
plain path where it does not serve.
"""

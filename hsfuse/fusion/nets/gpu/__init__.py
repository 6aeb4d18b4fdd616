"""Triton kernels of Mamba-2: the SSD scan, the causal depthwise convolution with its SiLU, the gated normalisation.

They serve CUDA where ``mamba_ssm`` is missing, which is the usual case since it ships as source only. On a CPU they run
under Triton's interpreter alone (``TRITON_INTERPRET=1``), which is how the tests compare them with plain PyTorch and
with the recurrence in float64. Only :mod:`hsfuse.fusion.nets.gpu.block` is called from outside; Triton is imported by
the modules of the kernels and by nothing else.
"""

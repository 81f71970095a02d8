"""Whether Triton kernels run on a GPU or, statement by statement, in Triton's interpreter."""

from triton.runtime.jit import JITFunction


def interpreted(kernel: object) -> bool:
    """The interpreter takes numbers of bfloat16 for integers: kernels widen them when it runs.

    It was chosen by TRITON_INTERPRET=1 when the module of `kernel` was imported.
    """
    return not isinstance(kernel, JITFunction)

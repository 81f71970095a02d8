"""The gate of a feed-forward network: activation(gate) * up."""

from mindpress.kernels.gated.reference import ACTIVATIONS, Activation, gated_reference

__all__ = ["ACTIVATIONS", "Activation", "gated_reference"]

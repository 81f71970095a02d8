"""C++ of the CPU kernels, compiled when the package is built, and how it is loaded."""

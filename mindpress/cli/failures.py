"""What the system and other libraries raise, in the words of `mindpress.errors`."""

import errno

from mindpress.errors import MindpressError, NetworkError, ResourceError

FULL = (errno.ENOSPC, errno.EDQUOT)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


def explained(error: Exception) -> MindpressError | None:
    """The user's error behind one that only the system could see coming; None when it is a bug."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which need not be loaded
        hint = "try --batch-size 1, a smaller --calib-seqlen, or --device cpu"
        return ResourceError("the GPU has no memory left", hint=hint)
    if isinstance(error, MemoryError):
        return ResourceError("no memory left", hint="close other programs, or use a larger machine")
    if isinstance(error, ConnectionError | TimeoutError):
        return NetworkError(f"the connection failed: {error}", hint="give a local folder or file")
    if isinstance(error, OSError) and error.errno in FULL + READ_ONLY:
        where = f"{error.filename}: " if error.filename else ""
        return ResourceError(f"{where}{error.strerror}", hint="choose another folder")
    return None

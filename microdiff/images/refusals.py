"""How pictures are refused."""

import struct

# What Pillow raises for damaged input besides OSError: IndexError, KeyError and TypeError in some of its plugins,
# struct.error for short headers, RuntimeError in AVIF.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, RuntimeError)


class UnsupportedPicture(ValueError):
    """A picture that may be whole, but whose colours would be a guess."""

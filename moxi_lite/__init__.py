"""Find the group of pixels that an image classifier relies on.

Patches of an image are players of a cooperative game whose reward is a classifier's log-odds.
See the book for the ideas and `explain` for the first thing to call.
"""

import lazy_loader

# The names are listed in __init__.pyi and imported on first use: `moxi-lite --help` must not wait
# for torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"

"""Speed of moxi_lite, measured as ratios within one run: ``python -m benchmarks.bench``."""

import os

# torch's profiler complains at length where there is no GPU; it reads this when torch is loaded
os.environ.setdefault("KINETO_LOG_LEVEL", "5")

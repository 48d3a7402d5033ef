"""A thread a product of NumPy's: the matrices are small. And a thread a software driver in each of the processes that tools/test starts.

To be imported before NumPy, which reads these when it is; a driver reads its own when a device is opened. What is set stays.
"""

import os

BLAS = ["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"]
DRIVER = ["LP_NUM_THREADS"]  # llvmpipe's

for name in BLAS + DRIVER * ("PYTEST_XDIST_WORKER" in os.environ):
    os.environ.setdefault(name, "1")

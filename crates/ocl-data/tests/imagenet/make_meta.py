"""The `meta.mat` of ImageNet's development kit, of three classes.

usage: make_meta.py FOLDER    (scipy 1.17)
"""
import os
import sys

import numpy as np
from scipy.io import savemat

fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
rows = [(np.uint16(1), "n03", "a bird", 0.0), (np.uint16(2), "n01", "a fish", 0.0), (np.uint16(3), "n02", "a frog", 0.0)]
synsets = np.array(rows, dtype=fields).reshape(-1, 1)
savemat(os.path.join(sys.argv[1], "meta.mat"), {"synsets": synsets}, do_compression=True)

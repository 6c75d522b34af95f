"""A small data set as Hugging Face's `datasets` writes it.

usage: make_dataset.py FOLDER    (datasets 5.2)
"""
import os
import sys

import numpy as np
import pyarrow.parquet
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Picture

random = np.random.default_rng(1)
features = Features({"image": Image(), "label": ClassLabel(names=["tench", "goldfish", "shark"]), "note": Value("string")})
for part, count in (("train", 7), ("validation", 4)):
    rows = [
        {"image": Picture.fromarray(random.integers(0, 255, (6, 5 + i, 3), np.uint8)), "label": i % 3, "note": "x"}
        for i in range(count)
    ]
    path = os.path.join(sys.argv[1], f"{part}-00000-of-00001.parquet")
    Dataset.from_list(rows, features=features).to_parquet(path, batch_size=3)
    if part == "validation":
        packed = os.path.join(sys.argv[1], "zstd", "train.parquet")
        os.makedirs(os.path.dirname(packed), exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.parquet.read_table(path), packed, compression="zstd")

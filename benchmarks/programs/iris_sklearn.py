"""Iris, three components: the whole of a user's program. ``iris_sklearn.py iris.csv``."""

import csv
import sys

import numpy as np
from sklearn.mixture import GaussianMixture

with open(sys.argv[1]) as file:
    rows = np.array([row[:4] for row in csv.reader(file)][1:], dtype=float)
print(GaussianMixture(3, random_state=0).fit(rows).lower_bound_)

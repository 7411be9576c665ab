"""Steps of a Gaussian mixture by Spark MLlib in local mode: python large_spark.py FOLDER d k cores.

A step's time is that of a fit of six iterations less that of one of two, by four: the rows are
cached, and starting, reading and choosing a start are in both.
"""

from __future__ import annotations

import json
import sys
import time

from pyspark.ml.clustering import GaussianMixture
from pyspark.ml.feature import VectorAssembler
from pyspark.sql import SparkSession


def main() -> None:
    """Fit twice and print one line."""
    path, d, k, cores = sys.argv[1], *map(int, sys.argv[2:5])
    spark = (
        SparkSession.builder.master(f"local[{cores}]")
        .config("spark.driver.memory", "8g")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    table = spark.read.parquet(f"{path}/*.parquet")
    vectors = VectorAssembler(inputCols=[f"x{j}" for j in range(d)], outputCol="features")
    rows = vectors.transform(table).select("features").cache()
    n = rows.count()
    seconds, bound = {}, 0.0
    for steps in (2, 2, 6):  # the first warms the machine up
        began = time.perf_counter()
        model = GaussianMixture(k=k, maxIter=steps, tol=0.0, seed=1).fit(rows)
        seconds[steps] = time.perf_counter() - began
        bound = model.summary.logLikelihood / n
    spark.stop()
    print(json.dumps({"step": (seconds[6] - seconds[2]) / 4, "n": n, "bound": bound}))


if __name__ == "__main__":
    main()

"""A decoder network of scikit-learn's digits with an encoder, against mixtures of Bernoulli.

8 x 8 images, a pixel is on where it is above half; 1500 images to climb on, 297 kept apart, chosen
by a seed. The decoder has one hidden layer of 64 units; everything else is `minorant.fit` as it
stands. Every fit is timed in a process that has compiled nothing before it but the fits above it.
"""

from __future__ import annotations

import time
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array

import minorant
from benchmarks import options
from benchmarks.report import Section, save
from minorant.components.priors import BetaPrior

NOTE = (
    "Nats per image. `bound`: the encoder's evidence lower bound on the images climbed on; the "
    "rest is of the images kept apart: `kept apart`: the same bound; `log p(x)`: the importance-"
    "weighted estimate; `approximation`, `amortisation`: the two parts of the gap between these; "
    "`se`: standard error of the amortisation."
)
SIZES = (2, 5, 10)


class Decoder(minorant.Model):
    """A network from l latents to the logits of the pixels."""

    inner: Array
    inner_offset: Array
    outer: Array
    outer_offset: Array

    def prior(self) -> Any:
        """Standard normal."""
        return dist.Normal(jnp.zeros(len(self.inner)), 1.0).to_event(1)

    def likelihood(self, z: Array) -> Any:
        """Independent pixels."""
        hidden = jnp.tanh(z @ self.inner + self.inner_offset)
        return dist.Bernoulli(logits=hidden @ self.outer + self.outer_offset).to_event(1)


def images() -> tuple[np.ndarray, np.ndarray]:
    """Those that are climbed on, and those kept apart."""
    from sklearn.datasets import load_digits

    pixels = (load_digits().data > 7.5).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(pixels))
    return pixels[order[:1500]], pixels[order[1500:]]


def decoder(l: int, pixels: np.ndarray, width: int = 64) -> Decoder:
    """Random weights, and each pixel's own rate."""
    rng = np.random.default_rng(0)
    rate = np.clip(pixels.mean(0), 0.01, 0.99)
    return Decoder(
        rng.normal(size=(l, width)) / np.sqrt(l),
        np.zeros(width),
        0.1 * rng.normal(size=(width, pixels.shape[1])) / np.sqrt(width),
        np.log(rate / (1.0 - rate)),
    )


def main(argv: list[str] | None = None) -> None:
    """Measure, print and save."""
    chosen = options.parsed(argv, __doc__)
    train, apart = images()
    rows = [_mixture(k, train, apart) for k in ((2,) if chosen.quick else (10, 30))]
    bounds = [None, minorant.bounds.Renyi(0.5, 8), minorant.bounds.ImportanceWeighted(8)]
    cases = [(l, None) for l in SIZES] + [(5, bound) for bound in bounds[1:]]
    rows += [_decoder(l, bound, train, apart) for l, bound in cases[: 1 if chosen.quick else None]]
    save(Section("digits", "Digits: a decoder and its encoder", NOTE, rows), chosen.quick)


def _mixture(k: int, train: np.ndarray, apart: np.ndarray) -> dict[str, Any]:
    began = time.perf_counter()
    component = minorant.components.Bernoulli(prior=BetaPrior(np.asarray(1.1), np.asarray(1.1)))
    fit = minorant.fit(minorant.Mixture(component, n_components=k), train)
    return {
        "model": f"mixture of {k}",
        "climbed": "log p(x)",
        "bound": round(fit.bound / len(train), 2),
        "kept apart": "",
        "log p(x)": round(float(fit.log_evidence(apart).mean()), 2),
        "approximation": "",
        "amortisation": "",
        "se": "",
        "seconds": round(time.perf_counter() - began, 1),
    }


def _decoder(l: int, bound: Any, train: np.ndarray, apart: np.ndarray) -> dict[str, Any]:
    began = time.perf_counter()
    fit = minorant.fit(decoder(l, train), train, posterior="encoder", bound=bound)
    seconds = time.perf_counter() - began
    found, n = fit.evidence(apart), len(apart)
    return {
        "model": f"decoder, {l} latents",
        "climbed": "ELBO" if bound is None else bound.sentence(),
        "bound": round(fit.evidence(train).lower / len(train), 2),
        "kept apart": round(found.lower / n, 2),
        "log p(x)": round(found.estimate / n, 2),
        "approximation": round(found.split.approximation / n, 2),
        "amortisation": round(found.split.amortisation / n, 2),
        "se": round(found.split.monte_carlo / n, 3),
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()

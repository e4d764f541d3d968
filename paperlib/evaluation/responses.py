"""Responses to the test images, recorded or predicted, prepared for being scored."""

from dataclasses import dataclass, replace

import numpy as np

from paperlib.evaluation.synchronization import recurrences


def delay_vectors(evaluation: dict, *, sfreq: float) -> dict[str, int]:
    """Return the parameters of the synchronization likelihood, in samples.

    Parameters
    ----------
    evaluation
        Section of the configuration: dim, delay in seconds, neighbors.
    sfreq
        Sampling rate in Hz.

    Raises
    ------
    ValueError
        If the delay is not a whole number of samples.
    """
    delay = evaluation["delay"] * sfreq
    if delay < 0.5 or abs(delay - round(delay)) > 1e-6:
        raise ValueError(
            "evaluation.delay must be a whole number of samples; "
            f"{evaluation['delay']} s are {delay:g} at {sfreq:g} Hz."
        )
    chosen = {key: evaluation[key] for key in ("dim", "neighbors")}
    return chosen | {"delay": round(delay)}


@dataclass(frozen=True)
class Responses:
    """Responses to the test images with their recurrences, which take most time.

    They are computed once, however many others the responses are compared with: those
    of some channels, or of the images in another order, are a part of them.

    Attributes
    ----------
    values : ndarray of shape (N, C, T)
        A response to each image.
    common : ndarray of shape (C, T)
        Mean response to all training images, of the participant who was recorded or
        whom the model was trained on: what can be known without the image.
    recurrences : dict
        Metric (sl, sl_theiler) -> ndarray of shape (N, C, n_points, n_bytes); empty
        if a channel is constant, where they are not defined.
    """

    values: np.ndarray
    common: np.ndarray
    recurrences: dict[str, np.ndarray]

    @classmethod
    def prepare(
        cls,
        values: np.ndarray,
        common: np.ndarray,
        *,
        dim: int,
        delay: int,
        neighbors: int,
    ) -> "Responses":
        """Compute the recurrences without and with a Theiler window.

        Parameters
        ----------
        values : ndarray of shape (N, C, T)
        common : ndarray of shape (C, T)
        dim, delay, neighbors
            Of the synchronization likelihood. The window is (dim - 1) * delay, the
            span of a delay vector.
        """
        if (np.ptp(values, axis=-1) == 0).any():
            return cls(values, common, {})
        both = recurrences(
            values,
            dim=dim,
            delay=delay,
            neighbors=neighbors,
            theiler=(0, (dim - 1) * delay),
        )
        return cls(values, common, dict(zip(("sl", "sl_theiler"), both, strict=True)))

    def select(self, channels: np.ndarray) -> "Responses":
        """Return the responses of some channels, given by their positions."""
        return replace(
            self,
            values=self.values[:, channels],
            common=self.common[channels],
            recurrences={k: r[:, channels] for k, r in self.recurrences.items()},
        )

    def reorder(self, images: np.ndarray) -> "Responses":
        """Return the responses to images given by their positions, in that order."""
        return replace(
            self,
            values=self.values[images],
            recurrences={k: r[images] for k, r in self.recurrences.items()},
        )

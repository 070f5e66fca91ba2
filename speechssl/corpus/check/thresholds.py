"""The thresholds of the corpus check, with units and reasons."""

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.config import configuration
from speechssl.errors import ConfigError

__all__ = ["CheckConfig"]


@configuration
class CheckConfig:
    """Thresholds of `speechssl manifest check`; levels are relative to full scale, in dB where the name says so."""

    min_duration_s: float = 0.1  # 4 frames of 20 ms; shorter audio gives the objectives nothing to predict from
    max_duration_s: float = 40.0  # longer recordings are cropped, or dominate a batch: segment them at pauses first
    min_sample_rate: int = SAMPLE_RATE  # Hz; training refuses lower rates (data.audio.min_sample_rate)

    silent_db: float = -60.0  # a lower peak is only the noise of a 16-bit converter or a muted line
    clipped_level: float = 0.99  # lowest level that counts as full scale; 8-bit audio ends at 0.992
    clipped_share: float = 0.001  # share of samples in runs of 3 or more at full scale; loud clean speech has 1e-4
    dc_offset: float = 0.01  # mean of all samples; -40 dB is as loud as quiet speech and moves its normalisation
    channel_difference: float = 0.3  # relative RMS of what averaging loses; two talkers give 0.7, a room 0.1
    cancelling_difference: float = 0.995  # above it averaging leaves less than 1 % of the energy

    bandwidth_share: float = 0.75  # share of 8 kHz, or of half the rate if lower; telephone audio reaches 0.5
    bandwidth_step_db: float = 20.0  # fall within 375 Hz; filters fall by 30 and more, dark voices by 10
    bandwidth_floor_db: float = -65.0  # highest level above the fall, relative to the loudest 125 Hz: rounding noise
    duplicate_bits: float = 0.2  # share of 256 bits that may differ between copies; others differ in 0.36 to 0.64
    duplicate_duration: float = 0.05  # relative difference of the extents of copies, without pauses at the ends

    text_rate_z: float = 6.0  # distance of log characters per second from the language's median, in 1.4826 MAD
    text_rate_texts: int = 30  # fewest texts of a language for which rates are judged
    text_rate_min_s: float = 1.0  # shorter utterances have no stable rate
    scripts: tuple[str, ...] = ()  # scripts allowed in texts, by Unicode name; () for any

    file_limit_s: float = 600.0  # seconds for one file; a worker that takes longer is ended, and the file reported

    def __post_init__(self) -> None:
        if not 0 <= self.min_duration_s < self.max_duration_s:
            raise ConfigError(
                f"expected 0 <= min_duration_s < max_duration_s, found {self.min_duration_s} and {self.max_duration_s}"
            )
        for name in ("clipped_level", "clipped_share", "bandwidth_share", "duplicate_bits", "duplicate_duration"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie above 0 and be at most 1, found {getattr(self, name)}")
        if self.file_limit_s <= 0:
            raise ConfigError(f"file_limit_s must be positive, found {self.file_limit_s}")

"""What counts as a fault in a corpus: every threshold of the doctor, with its unit and its reason."""

from speechssl.audio.reading import SAMPLE_RATE
from speechssl.config import configuration
from speechssl.errors import ConfigError

__all__ = ["CheckConfig"]


@configuration
class CheckConfig:
    """Thresholds of `speechssl manifest check`; levels are of full scale, dB where the name ends in it."""

    min_duration_s: float = 0.1  # 4 frames of 20 ms; shorter audio gives the objectives nothing to predict from
    max_duration_s: float = 40.0  # longer recordings are cropped, or dominate a batch: cut them at pauses first
    min_sample_rate: int = SAMPLE_RATE  # Hz; training refuses lower rates (data.audio.min_sample_rate)

    silent_db: float = -60.0  # peak below it: nothing but the noise of a 16-bit converter or a muted line
    clipped_level: float = 0.99  # samples at or above it count as at full scale; 8-bit audio ends at 0.992
    clipped_share: float = 0.001  # of all samples, in runs of 3 or more at full scale; loud clean speech has 1e-4
    dc_offset: float = 0.01  # mean of all samples; -40 dB is as loud as quiet speech and moves its normalisation
    channel_difference: float = 0.3  # rms of what averaging loses over rms of all; two talkers give 0.7, a room 0.1
    cancelling_difference: float = 0.995  # from there on averaging leaves less than 1 % of the energy

    bandwidth_share: float = 0.75  # of 8 kHz, or of half the rate where lower; telephone audio reaches 0.5
    bandwidth_step_db: float = 20.0  # fall within 375 Hz; a filter falls by 30 and more, dark voices by 10
    bandwidth_floor_db: float = -65.0  # and below the loudest 125 Hz from there on: nothing but rounding is left
    duplicate_bits: float = 0.2  # share of 256 bits that may differ between copies; strangers differ in 0.36 to 0.64
    duplicate_duration: float = 0.05  # by which share the extents of copies may differ, pauses at the ends aside

    text_rate_z: float = 6.0  # spreads (1.4826 MAD) of log characters per second from the language's median
    text_rate_texts: int = 30  # texts in a language, at least, before its rate is judged
    text_rate_min_s: float = 1.0  # shorter utterances have no stable rate
    scripts: tuple[str, ...] = ()  # scripts that texts may be in, as Unicode names them; () for any

    file_limit_s: float = 600.0  # a worker that needs longer for one file is ended, and the file named

    def __post_init__(self) -> None:
        if not 0 <= self.min_duration_s < self.max_duration_s:
            raise ConfigError(
                f"expected 0 <= min_duration_s < max_duration_s, found {self.min_duration_s} and {self.max_duration_s}"
            )
        for name in ("clipped_level", "clipped_share", "bandwidth_share", "duplicate_bits", "duplicate_duration"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie above 0 and at most at 1, found {getattr(self, name)}")
        if self.file_limit_s <= 0:
            raise ConfigError(f"file_limit_s must be positive, found {self.file_limit_s}")

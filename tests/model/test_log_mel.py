import pytest
import torch
import torchaudio

from speechssl.model.log_mel import HOP, WINDOW, LogMel


@pytest.mark.parametrize("bins", [40, 80])
def test_log_mel_equals_the_filter_banks_of_kaldi(bins):
    waveform = torch.randn(16_000, generator=torch.Generator().manual_seed(1)).cumsum(0).mul(0.01).clamp(-1, 1)
    expected = torchaudio.compliance.kaldi.fbank(waveform[None], num_mel_bins=bins)
    found = LogMel(bins)(waveform[None])[0]
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-4)


def test_frames_depend_on_their_own_audio_only():
    audio = torch.rand(2, 4_000, generator=torch.Generator().manual_seed(2)) - 0.5
    together = LogMel()(audio)
    alone = LogMel()(audio[1:, HOP : HOP + WINDOW])
    torch.testing.assert_close(together[1:, 1:2], alone)


@pytest.mark.parametrize("samples", [0, 399])
def test_audio_shorter_than_a_window_has_no_frame(samples):
    assert LogMel()(torch.zeros(2, samples)).shape == (2, 0, 80)


def test_silence_is_finite():
    assert LogMel()(torch.zeros(1, 400)).isfinite().all()

import pytest
import torch
import torchaudio

from speechssl.model.frames import BASE_STACK, frame_count, hop_size, receptive_field
from speechssl.model.log_mel import HOP, WINDOW, LogMel, stacked_log_mel, without_mean


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


OFF_GRID, SHORT_HOP = ((8, 500, 250),), ((8, 400, 80),)
SMALL_STACK = ((32, 20, 10), (64, 4, 2), (128, 4, 2), (192, 4, 2), (256, 4, 2), (256, 4, 4))


def utterances():
    """Return two utterances of 0.9 and 0.5 seconds, their lengths, and the padded batch."""
    generator = torch.Generator().manual_seed(3)
    parts = [torch.randn(size, generator=generator) * 0.1 for size in (14_400, 8_123)]
    return parts, torch.tensor([len(part) for part in parts]), torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)


def test_the_mean_is_that_of_an_utterance_alone():
    parts, num_samples, batch = utterances()
    batch[1, num_samples[1] :] = torch.nan  # padding may hold anything
    together = without_mean(LogMel()(batch), num_samples)
    for part, row in zip(parts, together, strict=True):
        alone = LogMel()(part[None])[0]
        torch.testing.assert_close(row[: len(alone)], alone - alone.mean(0))
        assert not row[len(alone) :].any()


@pytest.mark.parametrize("stack", [BASE_STACK, SMALL_STACK, OFF_GRID, SHORT_HOP])
def test_stacked_frames_lie_around_each_frame_of_the_encoder(stack):
    parts, num_samples, batch = utterances()
    hop, window = hop_size(stack), receptive_field(stack)
    energies = LogMel(4)(batch)
    found = stacked_log_mel(energies, num_samples, hop=hop, window=window, frames=frame_count(batch.shape[1], stack))
    for row, part in enumerate(parts):
        own = LogMel(4)(part[None])[0]
        for frame in range(frame_count(len(part), stack)):
            middle = frame * hop + window / 2
            number = max(1, round(hop / HOP))
            indices = []
            for step in range(number):
                wanted = middle + HOP * (step - (number - 1) / 2)  # the centre of this frame of the stack
                nearest = min(range(-9, 200), key=lambda index: (abs(index * HOP + WINDOW / 2 - wanted), -index))
                indices.append(min(max(nearest, 0), len(own) - 1))
            torch.testing.assert_close(found[row, frame], own[indices].flatten())

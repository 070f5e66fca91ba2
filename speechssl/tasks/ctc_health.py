"""Health bands of fine-tuning with CTC, from runs that learned and runs that did not.

"65 runs" are those of the small model (2.5 M parameters) on about ten labelled minutes of festvox-ru, asterisk and
fillets-nl, pretrained or not, 350 to 2,000 updates: recipes/README.md.
"""

from collections.abc import Mapping

from speechssl.tasks.health import LOST_GROUND, NO_GRADIENT, Band, Health

__all__ = ["ctc_health"]


def ctc_health(freeze_steps: int) -> Health:
    """Describe a healthy run in which only the head learns for `freeze_steps` steps."""
    return Health(bands=_BANDS, signs=_signs, loss="ctc_loss", grace_percent=25, frozen_steps=freeze_steps)


def _signs(values: Mapping[str, float]) -> dict[str, float]:
    """Return the dev error rate (characters or phones) as a share of that against the texts of other utterances."""
    errors = [values[name] for name in ("dev_cer", "dev_per") if name in values]
    return {"dev_unread": errors[0] / values["dev_others"]} if errors and values.get("dev_others", 0) > 0 else {}


# every run starts on a plateau of blanks: the grace is a quarter of the steps
_BANDS: tuple[Band, ...] = (
    LOST_GROUND,
    NO_GRADIENT,
    Band(
        name="all_blank",
        sign="blank_share",
        shown="share of frames whose most likely token is the blank",
        high=0.98,
        is_early=False,
        seen="0.39 to 0.78 at the end of runs that learned; most pass through 0.9 to 1.0 on the way, the last of 65 at "
        "a quarter of its steps. Stuck: 1.00 to the end (recipes/README.md: the blank plateau)",
        likely="the model predicts blanks only: a learning rate too high or too low for so few transcripts, masks too "
        "dense, texts too long for their audio, a model pretrained on other audio",
        change="try optim.lr at half and at twice its value, raise optim.warmup, lower ctc.mask.start_prob and "
        "ctc.channel_mask.start_prob, look at `impossible` and at `speechssl preflight`, give it more steps",
    ),
    Band(
        name="empty_transcripts",
        sign="empty_share",
        shown="share of utterances whose greedy transcript is empty",
        high=0.5,
        is_early=False,
        said_by="all_blank",
        seen="0 at the end of runs that learned",
        likely="part of the utterances is stuck on the plateau of blanks: another language, noise, or texts that do "
        "not belong to their audio",
        change="compare transcripts with audio in data.manifests, try another optim.lr, lower ctc.mask.start_prob, "
        "give it more steps",
    ),
    Band(
        name="nothing_read",
        sign="dev_unread",
        shown="error rate on the development set, as a share of that against the texts of other utterances",
        high=0.97,
        is_early=False,
        after=0.5,
        said_by="all_blank",
        seen="0.63 (CER 0.51), 0.85 (0.69) and 0.95 (0.74, the worst that learned anything). A random encoder frozen "
        "for ever, a learning rate 100 times too high, texts of other utterances or languages: 1.00",
        likely="the hypotheses are unrelated to the texts: texts of another language or of other utterances, audio "
        "whose sample rate is not what its files say, an encoder that is frozen for ever, random or pretrained on "
        "other speech, a learning rate too high or too low",
        change="compare `said` and `heard` above with some audio of data.manifests and dev.manifests (`speechssl "
        "preflight`, `speechssl manifest check`), lower ctc.freeze_steps, try another optim.lr",
    ),
    Band(
        name="more_than_said",
        sign="dev_wer",
        shown="word error rate on the development set",
        high=1.15,
        is_early=False,
        after=0.5,
        seen="1.06 at most in the second half of pretrained runs, also where utterances have one or two words; 1.1 to "
        "1.33 in those from random weights",
        likely="the hypotheses have more words than were said: word boundaries are guessed, dev has other texts or "
        "another language than train, its audio is slower than its files say, or the model has not learnt enough yet",
        change="look at dev_insertions and at `said` and `heard` above, compare dev.manifests with data.manifests by "
        "`speechssl preflight`, give it more steps or more labelled audio",
    ),
    Band(
        name="not_finite",
        sign="skipped_steps",
        shown="number of steps so far that were skipped because loss or gradient was not finite",
        high=0.0,
        seen="0 in all our CTC runs. After train.stop_after_skipped of them in a row the run stops",
        likely="a learning rate too high, 16-bit overflow, or one broken recording; not a text too long for its audio: "
        "its loss is set to 0 and counted as `impossible`",
        change="find the utterance and module with `speechssl replay` of the run, set train.bfloat16=false, lower "
        "optim.lr, set optim.max_grad_norm",
    ),
)

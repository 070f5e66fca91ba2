"""What a healthy run of fine-tuning with CTC looks like: what runs that learned showed, and those that did not.

Figures "of 65 runs" are of the small model (2.5 M parameters) on about ten labelled minutes of festvox-ru, asterisk and
fillets-nl, pretrained or not, 350 to 2,000 updates: recipes/README.md.
"""

from collections.abc import Mapping

from speechssl.tasks.health import LOST_GROUND, NO_GRADIENT, Band, Health

__all__ = ["ctc_health"]


def ctc_health(freeze_steps: int) -> Health:
    """Describe a run in which only the head learns for so many steps."""
    return Health(bands=_BANDS, signs=_signs, loss="ctc_loss", grace_percent=25, frozen_steps=freeze_steps)


def _signs(values: Mapping[str, float]) -> dict[str, float]:
    """Return the error of dev, of characters or of phones, as a share of that against the texts of other utterances."""
    errors = [values[name] for name in ("dev_cer", "dev_per") if name in values]
    return {"dev_unread": errors[0] / values["dev_others"]} if errors and values.get("dev_others", 0) > 0 else {}


# the plateau of blanks comes before everything else: a quarter of the steps are grace
_BANDS: tuple[Band, ...] = (
    LOST_GROUND,
    NO_GRADIENT,
    Band(
        name="all_blank",
        sign="blank_share",
        shown="share of frames whose answer is blank",
        high=0.98,
        is_early=False,
        seen="0.39 to 0.78 at the end of runs that learned; most pass through 0.9 to 1.0 on the way, the last of 65 at "
        "a quarter of its steps. Stuck: 1.00 to the end (recipes/README.md: the blank plateau)",
        likely="the model has found that silence is never far wrong, and no way out: a learning rate too high or too "
        "low for so few transcripts, masks too dense, texts too long for their audio, a model of other audio",
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
        likely="as for a plateau of blanks, for part of the utterances: another language, noise, or texts that do not "
        "belong to their audio",
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
        seen="0.63 (CER 0.51), 0.85 (0.69) and 0.95 (0.74, the worst that learned anything). A random trunk frozen for "
        "ever, a learning rate 100 times too high, texts of other utterances or languages: 1.00",
        likely="what is heard says nothing of what is to be written: texts of another language or of other utterances, "
        "audio that is not of the rate its files say, a trunk that is frozen for ever, random or of other speech, a "
        "learning rate too high or too low",
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
        likely="more words are written than were said: word boundaries are guessed, dev is of other texts or another "
        "language than train, its audio is slower than its files say, or the model has learnt too little yet",
        change="look at dev_insertions and at `said` and `heard` above, compare dev.manifests with data.manifests by "
        "`speechssl preflight`, give it more steps or more labelled audio",
    ),
    Band(
        name="not_finite",
        sign="skipped_steps",
        shown="number of steps so far that were left out, their loss or gradient not being finite",
        high=0.0,
        seen="0 in all our CTC runs. After train.stop_after_skipped of them in a row the run stops",
        likely="a learning rate too high, 16-bit overflow, or one broken recording; a text too long for its audio is "
        "none of them: its loss is set to 0 and counted as `impossible`",
        change="see which utterance and module broke it by `speechssl replay` of the run, set train.bfloat16=false, "
        "lower optim.lr, set optim.max_grad_norm",
    ),
)

"""Table of all commands: summary for `--help`, location of the function, and extras of setup.py that it needs."""

from speechssl.cli.lazy import Command, Group

__all__ = ["COMMANDS"]

_MANIFEST = {
    "build": Command("List the audio below a folder.", "manifest_commands:build_command"),
    "split": Command(
        "Split a manifest by speaker, text or id; stable when data are added.", "manifest_commands:split_command"
    ),
    "merge": Command("Join manifests into one.", "manifest_commands:merge_command"),
    "filter": Command(
        "Select utterances, and report how many were left out and why.", "manifest_commands:filter_command"
    ),
    "stats": Command(
        "Count hours by speaker, language and split, and the distribution of durations.",
        "manifest_commands:stats_command",
        extras=("plots",),
    ),
    "sample": Command("Draw a sample, with languages balanced as in XLS-R.", "manifest_commands:sample_command"),
    "check": Command(
        "Decode all audio and report faults; exit status 1 if there are errors.",
        "manifest_commands:check_command",
        extras=("check",),
    ),
    "convert": Command(
        "Write a manifest in its other form: Parquet, for millions of rows, if the name ends in .parquet, else text.",
        "manifest_commands:convert_command",
    ),
    "segment": Command(
        "Cut long recordings into utterances at pauses, as segments of their files; writes no audio.",
        "manifest_commands:segment_command",
    ),
    "import": Command(
        "Import another toolkit's manifest, checked against the audio; or list a corpus as published.",
        "manifest_commands:import_command",
    ),
    "export": Command("Write a manifest in another toolkit's format.", "manifest_commands:export_command"),
}

_LM = {
    "build": Command(
        "Build an n-gram model, with interpolated modified Kneser-Ney smoothing.", "lm_commands:build_command"
    ),
    "perplexity": Command(
        "Measure the perplexity of a model on texts it was not built from.", "lm_commands:perplexity_command"
    ),
    "lexicon": Command(
        "List the words of texts, spelled in a model's tokens, for decoding with a lexicon.",
        "lm_commands:lexicon_command",
    ),
    "tune": Command(
        "Choose the weights of a language model on a development set.",
        "lm_commands:tune_command",
        extras=("score", "plots"),
    ),
}

COMMANDS = Group(
    "Speech self-supervised representation learning: manifests, pretraining, CTC fine-tuning, WER.",
    {
        "cluster": Command("Fit k-means and label every frame of speech.", "stages_commands:cluster_command"),
        "pretrain": Command(
            "Pretrain an encoder: wav2vec 2.0, HuBERT, or an installed objective.",
            "stages_commands:pretrain_command",
            extras=("train",),
        ),
        "finetune": Command(
            "Fine-tune a pretrained encoder with CTC.", "stages_commands:finetune_command", extras=("train",)
        ),
        "sweep": Command(
            "Compare every layer and number of units with phones.",
            "stages_commands:sweep_command",
            extras=("plots",),
        ),
        "probe": Command(
            "Train heads on frozen or tuned encoders for a downstream task, and score them on held-out speakers.",
            "stages_commands:probe_command",
        ),
        "superb": Command(
            "Run the tasks of SUPERB for which there is data, on one frozen model: one table, two pictures.",
            "stages_commands:superb_command",
            extras=("plots",),
        ),
        "predict": Command(
            "Write the classes or values that a trained head predicts for a manifest.",
            "stages_commands:predict_command",
        ),
        "hubert": Command(
            "Run all iterations of HuBERT: units, pretraining, sweep, units, ...",
            "stages_commands:hubert_command",
            extras=("train", "plots"),
        ),
        "abx": Command(
            "Measure how well features tell phones apart without training: ABX within and across speakers.",
            "abx_commands:abx_command",
        ),
        "selftrain": Command(
            "Train on own transcripts of a pool, round by round, as long as dev gets better.",
            "stages_commands:selftrain_command",
            extras=("train", "score", "check", "plots"),
        ),
        "corpus": Command(
            "Prepare a real corpus and its splits.", "corpus_commands:corpus_command", extras=("corpora",)
        ),
        "preflight": Command(
            "Check texts, tokens and lengths as fine-tuning would; exit status 1 if it would refuse them.",
            "stages_commands:preflight_command",
            extras=("train",),
        ),
        "extract": Command(
            "Write the features of a model's layers, MFCC or log-mel: npy, HDF5, Zarr, safetensors, Parquet, Lhotse.",
            "features_commands:extract_command",
        ),
        "transcribe": Command(
            "Transcribe speech: a manifest, files, or 16-bit 16 kHz mono samples or wav from stdin, word by word.",
            "transcribe_commands:transcribe_command",
        ),
        "align": Command(
            "Align known texts with speech: when each word and letter was said.", "transcribe_commands:align_command"
        ),
        "average": Command("Average checkpoints of a run into one model.", "models_commands:average_command"),
        "score": Command(
            "Score transcripts by utterance id: CER and WER with intervals, by group, and against another system.",
            "score_commands:score_command",
            extras=("score",),
        ),
        "verify": Command(
            "Verify speakers by embeddings, with cosine or PLDA: EER and minDCF of trials or all pairs.",
            "verify_commands:verify_command",
        ),
        "eer": Command(
            "Compute EER and minDCF of scored trials, of any toolkit, with intervals.", "verify_commands:eer_command"
        ),
        "shift": Command(
            "Score models under noise, reverberation, narrow band, loudness: curves, the worst group and condition.",
            "shift_commands:shift_command",
            extras=("score", "plots"),
        ),
        "convert": Command(
            "Convert a model to another toolkit's format, and check the result by running it.",
            "models_commands:convert_command",
        ),
        "info": Command(
            "Describe a model: method, size, layers, units, vocabulary, origin, fingerprint.",
            "models_commands:info_command",
        ),
        "card": Command(
            "Write a model card from the records of a run: method, data, hours seen, units, results, commit.",
            "models_commands:card_command",
        ),
        "push": Command(
            "Print the command that uploads a model to the Hugging Face hub; nothing is sent.",
            "models_commands:push_command",
        ),
        "plot": Command("Draw an utterance with its hidden units.", "units_commands:plot_command", extras=("plots",)),
        "units": Command(
            "Print the hidden units of audio files: one line per file, its name, a tab and the units.",
            "units_commands:units_command",
        ),
        "labels": Command("Convert frame labels from and to fairseq's format.", "units_commands:labels_command"),
        "replay": Command(
            "Repeat a step that training skipped, and report which utterance and which module broke it.",
            "runs_commands:replay_command",
            extras=("train",),
        ),
        "plan": Command(
            "Plan a pretraining run: size, batch, learning rate, and what published runs reached.",
            "runs_commands:plan_command",
        ),
        "report": Command("Print the results of a recipe as tables.", "runs_commands:report_command"),
        "runs": Command(
            "Compare training runs: a table, curves over steps, hours of audio seen and wall time.",
            "runs_commands:runs_command",
            extras=("train", "plots"),
        ),
        "manifest": Group("Manifests, lists of audio with metadata: make, check and change them.", _MANIFEST),
        "lm": Group(
            "Language models for decoding: build n-grams from text, measure them, make lexicons, tune their weights.",
            _LM,
        ),
    },
)
